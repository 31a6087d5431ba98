//! The circuit breaker. While the gateway is unreachable, calls fail immediately instead of each
//! waiting for its own timeout.
//!
//! It counts calls, not attempts. A call without any response (no connection, or a timeout) is a
//! failure; any response resets the count. After the configured number of consecutive failures the
//! circuit opens. When the open time has passed, one call goes through as a probe: a response
//! closes the circuit, a failure opens it for longer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::cause::Cause;
use crate::clock::{Clock, Moment};
use crate::error::Error;
use crate::retry;
use actpass_protocol::ErrorKind;

/// The default number of consecutive failures that open the circuit: 5.
pub const DEFAULT_CIRCUIT_FAILURES: u32 = 5;

/// The maximum first open time. It doubles with each failed probe.
const INITIAL_OPEN: Duration = Duration::from_secs(1);
/// The maximum open time.
const MAX_OPEN: Duration = Duration::from_secs(30);

/// The state of the circuit breaker; see [`ActPass::circuit`](crate::ActPass::circuit).
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use actpass_core::{ActPass, Action, Circuit};
///
/// let actpass =
///     ActPass::builder().api_key("apk_dev").base_url("http://127.0.0.1:9").max_retries(0).circuit_failures(1).build()?;
/// let action = Action::new("demo", "demo.tool");
/// assert_eq!(actpass.circuit(), Circuit::Closed);
/// assert!(actpass.preflight(&action).await.unwrap_err().retry_after().is_none());
/// assert!(matches!(actpass.circuit(), Circuit::Open { .. }));
///
/// let refused = actpass.preflight(&action).await.unwrap_err();
/// assert_eq!(refused.code(), "actpass.unreachable");
/// assert!(refused.retry_after().is_some());
/// # Ok::<(), actpass_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// Calls go to the gateway.
    Closed,
    /// One call probes the gateway; other calls fail immediately.
    HalfOpen,
    /// Calls fail immediately.
    Open {
        /// Time until the next probe.
        retry_after: Duration,
    },
}

impl Circuit {
    /// The state's name: `closed`, `half_open` or `open`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open { .. } => "open",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Breaker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The number of consecutive failures that open the circuit; 0 disables the breaker.
    limit: u32,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The number of consecutive failures.
    Closed(u32),
    /// The number of consecutive failed probes, and the end of the open time.
    Open(u32, Moment),
    /// A probe is in flight.
    Probing,
}

impl Breaker {
    pub(crate) fn new(limit: u32) -> Self {
        Self(Arc::new(Shared { limit, state: Mutex::new(State::Closed(0)) }))
    }

    pub(crate) fn circuit(&self, now: Moment) -> Circuit {
        match *self.0.state() {
            State::Closed(_) => Circuit::Closed,
            State::Open(_, until) => Circuit::Open { retry_after: until.saturating_since(now) },
            State::Probing => Circuit::HalfOpen,
        }
    }

    /// Admits a call.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Connection`] while the circuit is open, with the time until the next probe.
    pub(crate) fn admit(&self, now: Moment) -> Result<Admission, Error> {
        let mut state = self.0.state();
        match *state {
            State::Closed(_) => Ok(Admission { breaker: Arc::clone(&self.0), probe: None }),
            State::Open(opened, until) => match until.saturating_since(now) {
                Duration::ZERO => {
                    *state = State::Probing;
                    Ok(Admission { breaker: Arc::clone(&self.0), probe: Some(opened) })
                }
                left => Err(circuit_open(left)),
            },
            State::Probing => Err(circuit_open(INITIAL_OPEN)),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An admitted call. If it is dropped before it completes, the breaker ignores it.
#[derive(Debug)]
pub(crate) struct Admission {
    breaker: Arc<Shared>,
    /// The number of failed probes before, if this call is a probe.
    probe: Option<u32>,
}

impl Admission {
    /// Settles the call: with a response, or with this error.
    pub(crate) fn settle(mut self, error: Option<&Error>, clock: &dyn Clock) {
        let unanswered = match error.map(Error::kind) {
            // A client-side fault is unrelated to the gateway's state.
            Some(ErrorKind::Internal) => return,
            Some(ErrorKind::Connection | ErrorKind::Timeout) => true,
            _ => false,
        };
        let probe = self.probe.take();
        let mut state = self.breaker.state();
        *state = match (*state, probe) {
            (_, Some(opened)) if unanswered => open(opened + 1, clock),
            (_, Some(_)) => State::Closed(0),
            (State::Closed(failures), None) if unanswered => match failures + 1 {
                failures if failures == self.breaker.limit => open(0, clock),
                failures => State::Closed(failures.min(u32::MAX - 1)),
            },
            (State::Closed(_), None) => State::Closed(0),
            // A call that began before the circuit opened: its response counts like that of a
            // probe.
            (other, None) if unanswered => other,
            (_, None) => State::Closed(0),
        };
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(opened) = self.probe {
            // The probe was abandoned; the next call may probe.
            *self.breaker.state() = State::Open(opened, Moment::default());
        }
    }
}

fn open(opened: u32, clock: &dyn Clock) -> State {
    State::Open(opened, clock.now() + retry::jittered(INITIAL_OPEN, opened, MAX_OPEN, clock))
}

fn circuit_open(left: Duration) -> Error {
    let problem = format!(
        "circuit open: earlier calls could not reach the gateway; next attempt in {:.1} s",
        left.as_secs_f64()
    );
    Error::new(ErrorKind::Connection, problem).with_cause(Cause::CircuitOpen).with_retry_after(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TokioClock;

    fn failure(kind: ErrorKind) -> Error {
        Error::new(kind, "a test")
    }

    fn fails(breaker: &Breaker, kind: ErrorKind) {
        breaker.admit(TokioClock.now()).unwrap().settle(Some(&failure(kind)), &TokioClock);
    }

    fn opened_for(breaker: &Breaker) -> Duration {
        match breaker.circuit(TokioClock.now()) {
            Circuit::Open { retry_after } => retry_after,
            other @ (Circuit::Closed | Circuit::HalfOpen) => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn opens_after_consecutive_failures_only() {
        let breaker = Breaker::new(3);
        for kind in [ErrorKind::Connection, ErrorKind::Timeout] {
            fails(&breaker, kind);
        }
        // Any response resets the count, including an error status.
        for kind in [ErrorKind::Status, ErrorKind::RateLimit, ErrorKind::Response, ErrorKind::Authentication]
        {
            fails(&breaker, kind);
        }
        for _ in 0..2 {
            fails(&breaker, ErrorKind::Connection);
        }
        breaker.admit(TokioClock.now()).unwrap().settle(None, &TokioClock);
        for _ in 0..2 {
            fails(&breaker, ErrorKind::Timeout);
            // An abandoned call is ignored.
            drop(breaker.admit(TokioClock.now()).unwrap());
        }
        assert_eq!(breaker.circuit(TokioClock.now()), Circuit::Closed);
        fails(&breaker, ErrorKind::Connection);
        let left = opened_for(&breaker);
        assert!(left >= INITIAL_OPEN / 2 && left <= INITIAL_OPEN, "{left:?}");
        let error = breaker.admit(TokioClock.now()).unwrap_err();
        assert_eq!((error.code(), error.retry_after()), ("actpass.unreachable", Some(left)));
        assert!(error.is_retryable());
    }

    #[tokio::test(start_paused = true)]
    async fn failed_probes_extend_the_open_time() {
        let breaker = Breaker::new(1);
        fails(&breaker, ErrorKind::Connection);
        let mut before = Duration::ZERO;
        for _ in 0..8 {
            let left = opened_for(&breaker);
            assert!(left * 2 >= before && left <= MAX_OPEN, "{left:?} after {before:?}");
            before = left;
            tokio::time::advance(left).await;
            let probe = breaker.admit(TokioClock.now()).unwrap();
            assert_eq!(breaker.circuit(TokioClock.now()), Circuit::HalfOpen);
            assert!(breaker.admit(TokioClock.now()).is_err(), "two probes");
            probe.settle(Some(&failure(ErrorKind::Timeout)), &TokioClock);
            assert!(breaker.admit(TokioClock.now()).is_err());
        }
        assert!(before >= MAX_OPEN / 2, "{before:?}");
        tokio::time::advance(MAX_OPEN).await;
        drop(breaker.admit(TokioClock.now()).unwrap());
        let probe = breaker.admit(TokioClock.now()).unwrap();
        probe.settle(Some(&failure(ErrorKind::Status)), &TokioClock);
        assert_eq!(breaker.circuit(TokioClock.now()), Circuit::Closed, "an answer is an answer");
        fails(&breaker, ErrorKind::Connection);
        assert!(opened_for(&breaker) <= INITIAL_OPEN, "the open time restarts");
    }

    #[tokio::test(start_paused = true)]
    async fn late_response_closes_and_late_failure_is_ignored() {
        let breaker = Breaker::new(1);
        let (late, later, last) = (
            breaker.admit(TokioClock.now()).unwrap(),
            breaker.admit(TokioClock.now()).unwrap(),
            breaker.admit(TokioClock.now()).unwrap(),
        );
        late.settle(Some(&failure(ErrorKind::Connection)), &TokioClock);
        let left = opened_for(&breaker);
        later.settle(Some(&failure(ErrorKind::Connection)), &TokioClock);
        assert_eq!(opened_for(&breaker), left);
        last.settle(None, &TokioClock);
        assert_eq!(breaker.circuit(TokioClock.now()), Circuit::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn zero_failures_disables_the_breaker() {
        let breaker = Breaker::new(0);
        for _ in 0..100 {
            fails(&breaker, ErrorKind::Connection);
        }
        assert_eq!(breaker.circuit(TokioClock.now()), Circuit::Closed);
    }
}
