//! The one door to the core: one background thread makes the calls of the whole process, and what comes of them goes back
//! to the JavaScript thread that asked, in batches. No panic gets through, and whatever happens to a call, it is answered.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use actpass_core::{Error, ErrorKind, EvidenceEvent, Json, Outcome, Verdict};
use actpass_session::{BackgroundRuntime, CallLog};
use napi::bindgen_prelude::{Either, Function};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Env, Status};
use napi_derive::napi;
use tokio::task::AbortHandle;

use crate::enter::enter;
use crate::error::describe;
use crate::guard::{Permit, report};
use crate::log;

/// What came of a call.
pub(crate) enum Answer {
    /// The JSON text of the gateway's answer.
    Text(String),
    /// What the core rules.
    Verdict(Verdict),
}

type Ended = Result<Answer, Error>;

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
    Permitted(Permit),
}

#[derive(Default)]
struct Arrivals {
    ended: Mutex<Vec<(i64, Ended, String)>>,
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

    /// Drops a call where it stands; what it was permitted is not.
    #[napi]
    pub fn cancel(&self, call: i64) {
        if let Some(Stage::Asking(Some(task))) = self.calls.borrow_mut().remove(&call) {
            task.abort();
        }
    }

    /// Spends the permit of a call for the context that the action is given: its JSON text.
    #[napi]
    pub fn spend(&self, call: i64) -> napi::Result<String> {
        enter(|| {
            self.permit(call)?.spend().map(|(context, permit)| {
                self.calls.borrow_mut().insert(call, Stage::Permitted(permit));
                context
            })
        })
    }

    /// Rules again on a permitted call whose arguments changed: the outcome if that blocks it, nothing if it may still run.
    #[napi]
    pub fn arguments_changed(&self, call: i64) -> napi::Result<Option<String>> {
        enter(|| match self.permit(call)?.arguments_changed()? {
            Verdict::Blocked(blocked) => Ok(Some(report(&Outcome::Blocked(blocked)))),
            Verdict::Proceed(permit) => {
                self.calls.borrow_mut().insert(call, Stage::Permitted(Permit::Granted(permit)));
                Ok(None)
            }
        })
    }

    /// The outcome of an action that returned, without its result.
    #[napi]
    pub fn returned(&self, call: i64) -> napi::Result<String> {
        enter(|| self.permit(call)?.settle(Ok(())))
    }

    /// The outcome of an action that threw, without its error.
    #[napi]
    pub fn failed(&self, call: i64) -> napi::Result<String> {
        enter(|| self.permit(call)?.settle(Err(())))
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
        lost: impl FnOnce(Error) -> Ended + Send + 'static,
    ) where
        F: Future<Output = Ended> + Send + 'static,
    {
        let arrivals = Arc::clone(&self.arrivals);
        let mut arrival = Arrival { id, arrivals, log: log.clone(), lost: Some(lost) };
        let stage = match BackgroundRuntime::current() {
            Ok(background) => {
                let call = CallLog::keep(log, broken::perhaps(call));
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

    /// The event that records how the action of `call` ended, which is running until it is settled.
    pub(crate) fn evidence(
        &self,
        call: i64,
        returned: bool,
        response: Option<&Json>,
    ) -> Result<EvidenceEvent, Error> {
        match self.calls.borrow().get(&call) {
            Some(Stage::Permitted(permit)) => permit.evidence(returned, response),
            Some(Stage::Asking(_)) | None => Err(no_permit()),
        }
    }

    fn permit(&self, call: i64) -> Result<Permit, Error> {
        match self.calls.borrow_mut().remove(&call) {
            Some(Stage::Permitted(permit)) => Ok(permit),
            Some(Stage::Asking(_)) | None => Err(no_permit()),
        }
    }
}

/// Sees to it that a call ends exactly once.
struct Arrival<L: FnOnce(Error) -> Ended> {
    id: i64,
    arrivals: Arc<Arrivals>,
    log: Option<Arc<CallLog>>,
    lost: Option<L>,
}

impl<L: FnOnce(Error) -> Ended> Arrival<L> {
    fn end(&mut self, ended: Ended) {
        self.lost = None;
        self.push(ended);
    }

    fn lose(&mut self, error: Error) {
        if let Some(lost) = self.lost.take() {
            self.push(lost(error));
        }
    }

    fn push(&self, ended: Ended) {
        let lines = self.log.as_deref().map(log::take).unwrap_or_default();
        self.arrivals.push(self.id, ended, lines);
    }
}

impl<L: FnOnce(Error) -> Ended> Drop for Arrival<L> {
    fn drop(&mut self) {
        self.lose(match std::thread::panicking() {
            true => Error::panicked(),
            false => Error::new(ErrorKind::Internal, "the call was dropped before it ended"),
        });
    }
}

impl Arrivals {
    fn push(&self, id: i64, ended: Ended, lines: String) {
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
            Ok(Answer::Verdict(Verdict::Blocked(blocked))) => {
                (How::Answered, report(&Outcome::Blocked(blocked)))
            }
            Ok(Answer::Verdict(Verdict::Proceed(permit))) => {
                calls.insert(id, Stage::Permitted(Permit::Granted(permit)));
                (How::Permitted, String::new())
            }
        }));
        let (how, text) = converted.unwrap_or_else(|_panic| (How::Failed, describe(&Error::panicked())));
        batch.extend([Either::A(id), Either::A(how as i64), Either::B(text), Either::B(lines)]);
    }
    batch
}

fn no_permit() -> Error {
    Error::new(ErrorKind::Internal, "the call has no permit")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls that break, for the tests of what happens then. A release build has none.
#[cfg(debug_assertions)]
mod broken {
    use std::cell::Cell;

    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use napi_derive::napi;

    use super::{Ended, Future};

    thread_local!(static NEXT: Cell<Option<Break>> = const { Cell::new(None) });

    /// How a call breaks.
    #[napi(string_enum = "lowercase")]
    #[derive(Clone, Copy)]
    #[allow(unreachable_pub, reason = "napi takes no other")]
    pub enum Break {
        /// It panics.
        Panic,
        /// It never ends.
        Hang,
    }

    /// Breaks the next call of this thread.
    #[napi]
    pub(crate) fn break_next_call(how: Break) {
        NEXT.set(Some(how));
    }

    #[expect(clippy::panic, reason = "that is what is tested")]
    pub(super) fn perhaps<F: Future<Output = Ended> + Send + 'static>(call: F) -> BoxFuture<'static, Ended> {
        match NEXT.take() {
            None => call.boxed(),
            Some(Break::Hang) => std::future::pending().boxed(),
            Some(Break::Panic) => async { panic!("broken on purpose") }.boxed(),
        }
    }
}

#[cfg(not(debug_assertions))]
mod broken {
    pub(super) fn perhaps<F>(call: F) -> F {
        call
    }
}
