//! The one door to the core: one background thread makes the calls of the whole process, and what comes of them goes back
//! to the JavaScript thread that asked, in batches. No panic gets through, and whatever happens to a call, it is answered.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use actpass_core::{Blocked, Ended, Error, ErrorKind, Json, Recording};
use actpass_session::{BackgroundRuntime, CallLog, GuardSession};
use napi::bindgen_prelude::{Either, Function};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Env, Status};
use napi_derive::napi;
use tokio::task::AbortHandle;

use crate::enter::enter;
use crate::error::describe;
use crate::guard;
use crate::log;

/// What came of a call.
pub(crate) enum Answer {
    /// The JSON text of the gateway's answer.
    Text(String),
    /// What the core rules.
    Ruled(Result<GuardSession, Box<Blocked>>),
}

type Answered = Result<Answer, Error>;

/// What the TypeScript layer's function is called with: of each call its number, how it ended, the text of its end, and its
/// log lines as JSON text or nothing.
type Batch = Vec<Either<i64, String>>;
type Waker = ThreadsafeFunction<(), (), Batch, Status, false, true>;
type Holder = ThreadsafeFunction<(), (), Batch, Status, false, true>;

/// How a call ended, for the face.
enum How {
    /// With what it was made for: the gateway's answer, or the outcome of a guard that blocked.
    Answered = 0,
    /// With an error.
    Failed = 1,
    /// With leave to run.
    Permitted = 2,
}

/// Where the calls of one JavaScript thread begin and end. The face names a call by a number of its own.
#[napi]
pub struct Door {
    arrivals: Arc<Arrivals>,
    /// Holds the event loop and is never called: what is called is locked by the thread that calls it.
    holder: RefCell<Holder>,
    calls: Rc<RefCell<HashMap<i64, Stage>>>,
}

/// How far a call of this thread is.
enum Stage {
    /// On the background thread, if there is one.
    Asking(Option<AbortHandle>),
    /// May run, or runs.
    Permitted(GuardSession),
    /// Ended, to be recorded.
    Ended(Recording),
}

/// How a permitted action ended.
#[napi(string_enum = "lowercase")]
pub enum ActionEnd {
    /// It threw.
    Failed,
    /// It returned.
    Returned,
    /// It was stopped.
    Cancelled,
}

#[derive(Default)]
struct Arrivals {
    ended: Mutex<Vec<(i64, Answered, String)>>,
    waker: OnceLock<Waker>,
}

#[napi]
impl Door {
    /// `settled` is called on this thread with a batch whenever calls have ended.
    #[napi(constructor)]
    pub fn new(settled: Function<'_, Batch, ()>) -> napi::Result<Self> {
        let arrivals = Arc::new(Arrivals::default());
        let calls = Rc::<RefCell<HashMap<i64, Stage>>>::default();
        // Weak, for the waker is kept by the arrivals.
        let (weak, of_batch) = (Arc::downgrade(&arrivals), Rc::clone(&calls));
        let function = || settled.build_threadsafe_function::<()>().weak::<true>().callee_handled::<false>();
        let waker = function().build_callback(move |_| Ok(batch(&weak, &mut of_batch.borrow_mut())))?;
        let holder = RefCell::new(function().build_callback(|_| Ok(Batch::new()))?);
        arrivals.waker.get_or_init(|| waker);
        Ok(Self { arrivals, holder, calls })
    }

    /// Keeps the event loop alive, while calls are under way.
    #[napi]
    #[allow(
        deprecated,
        reason = "a clone or a drop does not do what this does: the loop is held only during calls"
    )]
    pub fn hold(&self, env: Env) -> napi::Result<()> {
        self.holder.borrow_mut().refer(&env)
    }

    /// Lets the event loop end.
    #[napi]
    #[allow(deprecated, reason = "as in `hold`")]
    pub fn release(&self, env: Env) -> napi::Result<()> {
        self.holder.borrow_mut().unref(&env)
    }

    /// Drops a call where it stands: what is in flight ends, and its permit is void.
    #[napi]
    pub fn cancel(&self, call: i64) {
        if let Some(Stage::Asking(Some(task))) = self.calls.borrow_mut().remove(&call) {
            task.abort();
        }
    }

    /// Spends the permit of a call: the JSON text of the context that the action is given, or of what blocked it. `now` is the
    /// action as it is about to run, if that may differ from what was judged.
    #[napi]
    pub fn begin(&self, call: i64, now: Option<String>) -> napi::Result<String> {
        enter(|| {
            let (runs, text) = self.session(call, |session| guard::begin(session, now))?;
            if !runs {
                self.calls.borrow_mut().remove(&call);
            }
            Ok(text)
        })
    }

    /// Takes in how a permitted action ended, for its report; `response` is the JSON text of what it returned, if that is to be
    /// recorded.
    #[napi]
    pub fn finish(&self, call: i64, ended: ActionEnd, response: Option<String>) -> napi::Result<String> {
        enter(|| {
            let response = response.and_then(|text| Json::parse(text.as_bytes()).ok());
            let ended = match ended {
                ActionEnd::Cancelled => Ended::Cancelled,
                ActionEnd::Failed => Ended::Failed,
                ActionEnd::Returned => Ended::Returned,
            };
            let (settlement, recording) =
                self.session(call, |session| session.finish(ended, response.as_ref()))?;
            let mut calls = self.calls.borrow_mut();
            match recording {
                Some(recording) => calls.insert(call, Stage::Ended(recording)),
                None => calls.remove(&call),
            };
            Ok(guard::settled(settlement, ended == Ended::Returned))
        })
    }
}

impl Door {
    /// Makes `call` on the background thread; its end arrives here under the number `id`. `lost` is its end where it has
    /// none of its own, because it panicked or was dropped.
    pub(crate) fn start<F>(
        &self,
        id: i64,
        log: Option<Arc<CallLog>>,
        call: F,
        lost: impl FnOnce(Error) -> Answered + Send + 'static,
    ) where
        F: Future<Output = Answered> + Send + 'static,
    {
        let arrivals = Arc::clone(&self.arrivals);
        let mut arrival = Arrival { id, arrivals, log: log.clone(), lost: Some(lost) };
        let stage = match BackgroundRuntime::current() {
            Ok(background) => {
                let call = CallLog::keep(log, call);
                let task = background.spawn(async move {
                    let ended = call.await;
                    arrival.end(ended);
                });
                Stage::Asking(Some(task.abort_handle()))
            }
            Err(error) => {
                arrival.lose(error);
                Stage::Asking(None)
            }
        };
        self.calls.borrow_mut().insert(id, stage);
    }

    /// What is to be recorded of the action of `call`, once.
    pub(crate) fn recording(&self, call: i64) -> Result<Recording, Error> {
        match self.calls.borrow_mut().remove(&call) {
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
        match self.calls.borrow().get(&call) {
            Some(Stage::Permitted(session)) => body(session),
            Some(Stage::Asking(_) | Stage::Ended(_)) | None => {
                Err(Error::argument("permit", "expected one whose action has not ended, found one whose has"))
            }
        }
    }
}

/// Sees to it that a call ends exactly once.
struct Arrival<L: FnOnce(Error) -> Answered> {
    id: i64,
    arrivals: Arc<Arrivals>,
    log: Option<Arc<CallLog>>,
    lost: Option<L>,
}

impl<L: FnOnce(Error) -> Answered> Arrival<L> {
    fn end(&mut self, ended: Answered) {
        self.lost = None;
        self.push(ended);
    }

    fn lose(&mut self, error: Error) {
        if let Some(lost) = self.lost.take() {
            self.push(lost(error));
        }
    }

    fn push(&self, ended: Answered) {
        let lines = self.log.as_deref().map(log::take).unwrap_or_default();
        self.arrivals.push(self.id, ended, lines);
    }
}

impl<L: FnOnce(Error) -> Answered> Drop for Arrival<L> {
    fn drop(&mut self) {
        self.lose(match std::thread::panicking() {
            true => Error::panicked(),
            false => Error::new(ErrorKind::Internal, "the call was dropped before it ended"),
        });
    }
}

impl Arrivals {
    fn push(&self, id: i64, ended: Answered, lines: String) {
        let is_first = {
            let mut waiting = lock(&self.ended);
            waiting.push((id, ended, lines));
            waiting.len() == 1
        };
        // Those that follow before the JavaScript thread comes are taken along.
        if is_first && let Some(waker) = self.waker.get() {
            // It fails only where that thread is at its end, and nobody waits any more.
            waker.call((), ThreadsafeFunctionCallMode::NonBlocking);
        }
    }
}

fn batch(arrivals: &Weak<Arrivals>, calls: &mut HashMap<i64, Stage>) -> Batch {
    let ended = arrivals.upgrade().map(|arrivals| std::mem::take(&mut *lock(&arrivals.ended)));
    let mut batch = Batch::new();
    for (id, ended, lines) in ended.into_iter().flatten() {
        // A call that was cancelled meanwhile is of no interest to anybody, and its permit is dropped here.
        if calls.remove(&id).is_none() {
            continue;
        }
        let converted = catch_unwind(AssertUnwindSafe(|| match ended {
            Err(error) => (How::Failed, describe(&error)),
            Ok(Answer::Text(text)) => (How::Answered, text),
            Ok(Answer::Ruled(Err(blocked))) => (How::Answered, guard::report(&blocked)),
            Ok(Answer::Ruled(Ok(session))) => {
                let decision = session.decision().map(|decision| decision.as_json().to_owned());
                calls.insert(id, Stage::Permitted(session));
                (How::Permitted, decision.unwrap_or_default())
            }
        }));
        let (how, text) = converted.unwrap_or_else(|_panic| (How::Failed, describe(&Error::panicked())));
        batch.extend([Either::A(id), Either::A(how as i64), Either::B(text), Either::B(lines)]);
    }
    batch
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this is a build whose calls break on request.
#[cfg(feature = "test-hooks")]
#[napi]
pub(crate) fn has_test_hooks() -> bool {
    true
}
