//! The bridge to the core. One background thread makes the calls of the process; completions are
//! delivered in batches to the JavaScript thread that started them. Panics are caught, and every
//! call completes exactly once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use actpass_core::{ActionEnd, Error, ErrorKind, Recording, TokioClock};
use actpass_node_text::call::{self, CallOutput, CallResult, CompletionKind};
use actpass_node_text::error::describe;
use actpass_node_text::{guard, log};
use actpass_session::{BackgroundRuntime, CallLog, GuardSession};
use napi::bindgen_prelude::{Either, Function};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Env, Status};
use napi_derive::napi;
use tokio::task::AbortHandle;

use crate::panic::catch_panic;

/// Arguments of the TypeScript layer's callback: for each call its number, completion kind, text,
/// and log lines as JSON text (or empty).
type Batch = Vec<Either<i64, String>>;
type Waker = ThreadsafeFunction<(), (), Batch, Status, false, true>;
type Holder = ThreadsafeFunction<(), (), Batch, Status, false, true>;

/// The calls of one JavaScript thread. The TypeScript layer identifies a call by its number.
#[napi]
pub struct Bridge {
    queue: Arc<CompletionQueue>,
    calls: Rc<RefCell<Calls>>,
}

/// The calls of a thread by their numbers. Keeps the event loop alive while calls are in flight.
struct Calls {
    env: Env,
    /// Holds the event loop and is never called: a called function is locked by the calling thread.
    holder: Holder,
    stages: HashMap<i64, Stage>,
    in_flight: usize,
}

/// The state of a call.
enum Stage {
    /// On the background thread; `None` if the call could not start.
    Asking(Option<AbortHandle>),
    /// Permitted or running.
    Permitted(GuardSession),
    /// Ended, to be recorded.
    Ended(Recording),
}

/// The end of a permitted action.
#[napi(string_enum = "lowercase")]
pub enum NativeActionEnd {
    /// It threw an error.
    Failed,
    /// It returned.
    Returned,
    /// It was cancelled.
    Cancelled,
    /// A framework's control-flow signal suspended it.
    Suspended,
}

#[derive(Default)]
struct CompletionQueue {
    ended: Mutex<Vec<(i64, CallResult, String)>>,
    waker: OnceLock<Waker>,
}

#[napi]
impl Bridge {
    /// `settled` is called on this thread with a batch when calls have completed.
    #[napi(constructor)]
    pub fn new(env: Env, settled: Function<'_, Batch, ()>) -> napi::Result<Self> {
        let queue = Arc::new(CompletionQueue::default());
        let function = || settled.build_threadsafe_function::<()>().weak::<true>().callee_handled::<false>();
        let holder = function().build_callback(|_| Ok(Batch::new()))?;
        let calls = Rc::new(RefCell::new(Calls { env, holder, stages: HashMap::new(), in_flight: 0 }));
        // Weak, because the queue owns the waker.
        let (weak, of_batch) = (Arc::downgrade(&queue), Rc::clone(&calls));
        let waker = function().build_callback(move |_| Ok(batch(&weak, &mut of_batch.borrow_mut())))?;
        queue.waker.get_or_init(|| waker);
        Ok(Self { queue, calls })
    }

    /// Cancels a call: a request in flight is aborted, and its permit is void.
    #[napi]
    pub fn cancel(&self, call: i64) {
        if let Some(Stage::Asking(Some(task))) = self.calls.borrow_mut().remove(call) {
            task.abort();
        }
    }

    /// Spends the permit of a call. Returns the JSON text of the action's context, or of the block.
    /// `now` is the action as it is about to run, if it may have changed.
    #[napi]
    pub fn begin(&self, call: i64, now: Option<String>) -> napi::Result<String> {
        catch_panic(|| {
            let (halt, text) = self.session(call, |session| guard::begin(session, now, &TokioClock))?;
            match halt {
                Some(halt) => {
                    let queue = Arc::downgrade(&self.queue);
                    halt.on_halt(move || {
                        if let Some(queue) = queue.upgrade() {
                            queue.push(call, Ok(CallOutput::Halted), String::new());
                        }
                    });
                }
                None => drop(self.calls.borrow_mut().remove(call)),
            }
            Ok(text)
        })
    }

    /// Settles a permitted action. `response` is the JSON text of its result, if it is recorded.
    #[napi]
    pub fn finish(
        &self,
        call: i64,
        ended: NativeActionEnd,
        response: Option<String>,
    ) -> napi::Result<String> {
        catch_panic(|| {
            let ended = match ended {
                NativeActionEnd::Cancelled => ActionEnd::Cancelled,
                NativeActionEnd::Failed => ActionEnd::Failed,
                NativeActionEnd::Returned => ActionEnd::Returned,
                NativeActionEnd::Suspended => ActionEnd::Suspended,
            };
            let (settled, recording) =
                self.session(call, |session| call::finish(session, ended, response.as_deref()))?;
            let mut calls = self.calls.borrow_mut();
            match recording {
                Some(recording) => calls.insert(call, Stage::Ended(recording)),
                None => calls.remove(call),
            };
            Ok(settled)
        })
    }
}

impl Bridge {
    /// Starts `call` on the background thread; it completes under the number `id`. `lost` produces
    /// the result if the call panicked or was dropped.
    pub(crate) fn start<F>(
        &self,
        id: i64,
        log: Option<Arc<CallLog>>,
        call: F,
        lost: impl FnOnce(Error) -> CallResult + Send + 'static,
    ) where
        F: Future<Output = CallResult> + Send + 'static,
    {
        let queue = Arc::clone(&self.queue);
        let mut guard = CompletionGuard { id, queue, log: log.clone(), lost: Some(lost) };
        let stage = match BackgroundRuntime::current() {
            Ok(background) => {
                let call = CallLog::instrument(log, call);
                let task = background.spawn(async move {
                    let ended = call.await;
                    guard.end(ended);
                });
                Stage::Asking(Some(task.abort_handle()))
            }
            Err(error) => {
                guard.fail(error);
                Stage::Asking(None)
            }
        };
        self.calls.borrow_mut().insert(id, stage);
    }

    /// Takes the recording of the action of `call`.
    pub(crate) fn recording(&self, call: i64) -> Result<Recording, Error> {
        match self.calls.borrow_mut().remove(call) {
            Some(Stage::Ended(recording)) => Ok(recording),
            Some(Stage::Asking(_) | Stage::Permitted(_)) | None => {
                Err(Error::new(ErrorKind::Internal, "the call has nothing to record"))
            }
        }
    }

    fn session<R>(
        &self,
        call: i64,
        body: impl FnOnce(&GuardSession) -> Result<R, Error>,
    ) -> Result<R, Error> {
        match self.calls.borrow().stages.get(&call) {
            Some(Stage::Permitted(session)) => body(session),
            Some(Stage::Asking(_) | Stage::Ended(_)) | None => {
                Err(Error::argument("permit", "already finished"))
            }
        }
    }
}

impl Calls {
    fn insert(&mut self, call: i64, stage: Stage) -> Option<Stage> {
        if matches!(stage, Stage::Asking(_)) {
            self.in_flight += 1;
            if self.in_flight == 1 {
                self.hold(true);
            }
        }
        self.stages.insert(call, stage)
    }

    fn remove(&mut self, call: i64) -> Option<Stage> {
        let stage = self.stages.remove(&call);
        if matches!(stage, Some(Stage::Asking(_))) {
            self.in_flight -= 1;
            if self.in_flight == 0 {
                self.hold(false);
            }
        }
        stage
    }

    #[allow(deprecated, reason = "clone and drop have no equivalent: the loop is held only during calls")]
    fn hold(&mut self, is_held: bool) {
        // Fails only if the JavaScript thread is ending.
        let _ = match is_held {
            true => self.holder.refer(&self.env),
            false => self.holder.unref(&self.env),
        };
    }
}

/// Ensures that a call completes exactly once.
struct CompletionGuard<L: FnOnce(Error) -> CallResult> {
    id: i64,
    queue: Arc<CompletionQueue>,
    log: Option<Arc<CallLog>>,
    lost: Option<L>,
}

impl<L: FnOnce(Error) -> CallResult> CompletionGuard<L> {
    fn end(&mut self, ended: CallResult) {
        self.lost = None;
        self.push(ended);
    }

    fn fail(&mut self, error: Error) {
        if let Some(lost) = self.lost.take() {
            self.push(lost(error));
        }
    }

    fn push(&self, ended: CallResult) {
        let lines = self.log.as_deref().map(log::take).unwrap_or_default();
        self.queue.push(self.id, ended, lines);
    }
}

impl<L: FnOnce(Error) -> CallResult> Drop for CompletionGuard<L> {
    fn drop(&mut self) {
        self.fail(match std::thread::panicking() {
            true => Error::panicked(),
            false => Error::new(ErrorKind::Internal, "the call was dropped before it completed"),
        });
    }
}

impl CompletionQueue {
    fn push(&self, id: i64, ended: CallResult, lines: String) {
        let is_first = {
            let mut waiting = lock(&self.ended);
            waiting.push((id, ended, lines));
            waiting.len() == 1
        };
        // Later completions are delivered in the same batch.
        if is_first && let Some(waker) = self.waker.get() {
            // Fails only if the JavaScript thread is ending and no promise waits.
            waker.call((), ThreadsafeFunctionCallMode::NonBlocking);
        }
    }
}

fn batch(queue: &Weak<CompletionQueue>, calls: &mut Calls) -> Batch {
    let ended = queue.upgrade().map(|queue| std::mem::take(&mut *lock(&queue.ended)));
    let mut batch = Batch::new();
    for (id, ended, lines) in ended.into_iter().flatten() {
        if matches!(ended, Ok(CallOutput::Halted)) {
            if calls.stages.contains_key(&id) {
                let how = CompletionKind::Halted as i64;
                batch.extend([Either::A(id), Either::A(how), Either::B(String::new()), Either::B(lines)]);
            }
            continue;
        }
        // A cancelled call has no state; its permit is dropped here.
        if calls.remove(id).is_none() {
            continue;
        }
        let converted = catch_unwind(AssertUnwindSafe(|| match ended {
            Err(error) => (CompletionKind::Failed, describe(&error)),
            Ok(CallOutput::Halted) => (CompletionKind::Halted, String::new()),
            Ok(CallOutput::Text(text)) => (CompletionKind::Answered, text),
            Ok(CallOutput::Verdict(Err(blocked))) => (CompletionKind::Answered, guard::report(&blocked)),
            Ok(CallOutput::Verdict(Ok(session))) => {
                let decision = session.decision().map(|decision| decision.as_json().to_owned());
                calls.insert(id, Stage::Permitted(session));
                (CompletionKind::Permitted, decision.unwrap_or_default())
            }
        }));
        let (how, text) =
            converted.unwrap_or_else(|_panic| (CompletionKind::Failed, describe(&Error::panicked())));
        batch.extend([Either::A(id), Either::A(how as i64), Either::B(text), Either::B(lines)]);
    }
    batch
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this build contains the test hooks.
#[cfg(feature = "test-hooks")]
#[napi]
pub(crate) fn has_test_hooks() -> bool {
    true
}
