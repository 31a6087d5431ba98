//! The one door to the core: one background thread makes the calls of the whole process, and what comes of them goes back
//! to the JavaScript thread that asked, in batches. No panic gets through, and whatever happens to a call, it is answered.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use actpass_core::{Error, ErrorKind, Outcome, Verdict};
use napi::bindgen_prelude::{Either4, Function};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Env, Status};
use napi_derive::napi;
use once_cell::sync::OnceCell;
use tokio::runtime::{Builder, Handle};
use tokio::task::AbortHandle;

use crate::error::{describe, raise};
use crate::guard::{Permit, report};

/// What came of a call.
pub(crate) enum Answer {
    /// The JSON text of the gateway's answer.
    Text(String),
    /// What the core rules.
    Verdict(Verdict),
}

type Ended = Result<Answer, Error>;

/// What the face's function is called with: of each call its number, whether it failed, and a text or a permit.
type Batch = Vec<Either4<u32, bool, String, Permit>>;
type Waker = ThreadsafeFunction<(), (), Batch, Status, false, true>;

/// Where the answers for one JavaScript thread arrive.
#[napi]
pub struct Door(Arc<Arrivals>);

#[derive(Default)]
struct Arrivals {
    ended: Mutex<Vec<(u32, Ended)>>,
    waker: Mutex<Option<Waker>>,
}

#[napi]
impl Door {
    /// `settled` is called on this thread with a batch whenever calls have ended.
    #[napi(constructor)]
    pub fn new(settled: Function<'_, Batch, ()>) -> napi::Result<Self> {
        let arrivals = Arc::new(Arrivals::default());
        // Weak, for the waker is kept by the arrivals.
        let weak = Arc::downgrade(&arrivals);
        let waker = settled
            .build_threadsafe_function::<()>()
            .weak::<true>()
            .callee_handled::<false>()
            .build_callback(move |_| Ok(batch(&weak)))?;
        *lock(&arrivals.waker) = Some(waker);
        Ok(Self(arrivals))
    }

    /// Keeps the event loop alive, while calls are under way.
    #[napi]
    #[expect(deprecated, reason = "a clone or a drop does not do what this does: the loop is held only during calls")]
    pub fn hold(&self, env: Env) -> napi::Result<()> {
        lock(&self.0.waker).as_mut().map_or(Ok(()), |waker| waker.refer(&env))
    }

    /// Lets the event loop end.
    #[napi]
    #[expect(deprecated, reason = "as in `hold`")]
    pub fn release(&self, env: Env) -> napi::Result<()> {
        lock(&self.0.waker).as_mut().map_or(Ok(()), |waker| waker.unref(&env))
    }
}

impl Door {
    /// Makes `call` on the background thread; its end arrives here under the number `id`. `lost` is its end where it has
    /// none of its own, because it panicked or was dropped.
    pub(crate) fn start<F>(
        &self,
        id: u32,
        call: F,
        lost: impl FnOnce(Error) -> Ended + Send + 'static,
    ) -> Result<Call, Error>
    where
        F: Future<Output = Ended> + Send + 'static,
    {
        let mut arrival = Arrival { id, arrivals: Arc::clone(&self.0), lost: Some(lost) };
        let task = background()?.spawn(async move {
            let ended = call.await;
            arrival.end(ended);
        });
        Ok(Call(task.abort_handle()))
    }
}

/// A call under way.
#[napi]
pub struct Call(AbortHandle);

#[napi]
impl Call {
    /// Drops the call where it stands.
    #[napi]
    pub fn cancel(&self) {
        self.0.abort();
    }
}

/// Sees to it that a call ends exactly once.
struct Arrival<L: FnOnce(Error) -> Ended> {
    id: u32,
    arrivals: Arc<Arrivals>,
    lost: Option<L>,
}

impl<L: FnOnce(Error) -> Ended> Arrival<L> {
    fn end(&mut self, ended: Ended) {
        self.lost = None;
        self.arrivals.push(self.id, ended);
    }
}

impl<L: FnOnce(Error) -> Ended> Drop for Arrival<L> {
    fn drop(&mut self) {
        if let Some(lost) = self.lost.take() {
            let error = Error::new(ErrorKind::Internal, "the call was dropped, or a panic in the SDK ended it");
            self.arrivals.push(self.id, lost(error));
        }
    }
}

impl Arrivals {
    fn push(&self, id: u32, ended: Ended) {
        let is_first = {
            let mut waiting = lock(&self.ended);
            waiting.push((id, ended));
            waiting.len() == 1
        };
        // Those that follow before the JavaScript thread comes are taken along.
        if is_first && let Some(waker) = lock(&self.waker).as_ref() {
            // It fails only where that thread is at its end, and nobody waits any more.
            waker.call((), ThreadsafeFunctionCallMode::NonBlocking);
        }
    }
}

fn batch(arrivals: &Weak<Arrivals>) -> Batch {
    let ended = arrivals.upgrade().map(|arrivals| std::mem::take(&mut *lock(&arrivals.ended)));
    let mut batch = Batch::new();
    for (id, ended) in ended.into_iter().flatten() {
        let (failed, value) = match ended {
            Err(error) => (true, Either4::C(describe(&error))),
            Ok(Answer::Text(text)) => (false, Either4::C(text)),
            Ok(Answer::Verdict(Verdict::Blocked(blocked))) => {
                (false, Either4::C(report(&Outcome::Blocked(blocked))))
            }
            Ok(Answer::Verdict(Verdict::Proceed(permit))) => (false, Either4::D(Permit::granted(permit))),
        };
        batch.extend([Either4::A(id), Either4::B(failed), value]);
    }
    batch
}

/// The background thread of this process, started with its first call.
fn background() -> Result<&'static Handle, Error> {
    static BACKGROUND: OnceCell<Handle> = OnceCell::new();
    BACKGROUND.get_or_try_init(|| {
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Internal, format!("no background thread: {error}")).with_source(error)
        };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name("actpass".to_owned())
            .spawn(move || runtime.block_on(std::future::pending::<()>()))
            .map_err(failed)?;
        Ok(handle)
    })
}

/// Runs a conversion; a panic in it is an error like any other.
pub(crate) fn enter<T>(body: impl FnOnce() -> Result<T, Error>) -> napi::Result<T> {
    catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|_panic| Err(Error::new(ErrorKind::Internal, "a panic in the SDK")))
        .map_err(|error| raise(&error))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
