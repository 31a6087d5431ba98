//! The engine: what a call does next, without I/O, a clock or a thread.
//!
//! A [`Machine`] is advanced by [`Event`]s and answers each with a [`Step`]: send this request, sleep until then, or the end.
//! Retries and their waits, the deadline, the circuit breaker, what an answer means, waiting for an approval, the verdict and
//! the recording of outcomes are in machines; a driver does what they say. Time and randomness come from the [`Clock`] that the
//! driver passes along, so a test plays any order of events without a network and without waiting.
//!
//! [`ActPass`](crate::ActPass) drives the machines on tokio. A host with an event loop of its own makes an [`Engine`] from
//! [`Settings`](crate::Settings) and drives them itself:
//!
//! ```
//! use actpass_core::engine::{Event, Machine, Step};
//! use actpass_core::transport::Response;
//! use actpass_core::{ActPass, Action, TokioClock, Verdict};
//!
//! let engine = ActPass::builder().api_key("apk_dev").base_url("http://127.0.0.1:8787").settings()?.engine();
//! let prepared = engine.prepare(Action::new("resolve_refund_request", "stripe.refund.create"), &TokioClock)?;
//!
//! let mut machine = engine.authorize(prepared, Default::default());
//! let Step::Send { request, .. } = machine.step(Event::Started, &TokioClock) else { panic!("nothing to send") };
//! assert_eq!(request.path(), "/api/v1/actions/preflight");
//! // ... the host sends it, and gives the machine what came back:
//! let answered = Event::Response(Response::new(200, r#"{"decision": "deny"}"#));
//! let Step::Ended(Verdict::Blocked(blocked)) = machine.step(answered, &TokioClock) else { panic!("not blocked") };
//! assert_eq!(blocked.decision().word().as_str(), "deny");
//! # Ok::<(), actpass_core::Error>(())
//! ```
//!
//! A machine that gets an event for which it does not wait fails closed: its end is an error, or the verdict on one.

mod approval;
mod authorization;
mod call;
mod response;
mod session;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use actpass_protocol::json::RawObject;
use actpass_protocol::{ActionEnd, Operation, Secret};

use crate::action::Action;
use crate::breaker::{Breaker, Circuit};
use crate::clock::{Clock, Moment};
use crate::config::{CallOptions, Config};
use crate::decision::Decision;
use crate::error::Error;
use crate::evidence::{EvidenceEvent, RecordedEvidence};
use crate::guard::{PreflightResponse, Recording};
use crate::prepared::PreparedAction;
use crate::request;
use crate::trace::Traceparent;
use crate::transport::{Request, Response, TransportError};

pub use self::approval::ApprovalWait;
pub use self::authorization::Authorization;
use self::call::Call;
use self::response::JsonParser;
pub use self::session::{Begun, GuardSession, Stage};

/// What happened: what the last [`Step`] of a machine led to.
#[derive(Clone, Debug)]
pub enum Event {
    /// Nothing yet; the first event of every machine, and of no machine twice.
    Started,
    /// The request was answered.
    Response(Response),
    /// The request was not answered.
    Failed(TransportError),
    /// The moment `until` of the step has come.
    Elapsed,
    /// The driver panicked while it sent the request.
    Panicked,
}

/// What the driver of a [`Machine`] does next.
#[derive(Debug)]
#[must_use = "a step that is not taken stops its machine"]
pub enum Step<T> {
    /// Send this request; then [`Event::Response`] or [`Event::Failed`], or [`Event::Elapsed`] if neither came before `until`.
    Send {
        /// What to send.
        request: Request,
        /// When the attempt is given up.
        until: Moment,
    },
    /// Wait; then [`Event::Elapsed`].
    Sleep {
        /// When to go on.
        until: Moment,
    },
    /// The machine has ended. It takes no further event.
    Ended(T),
}

/// How long the recording of a stopped action may take: the program that was stopped does not wait for it.
const CANCELLED_RECORD_TIMEOUT: Duration = Duration::from_secs(1);

impl<T> Step<T> {
    /// The end, or the step that comes before it.
    fn into_end<U>(self) -> Result<T, Step<U>> {
        match self {
            Self::Send { request, until } => Err(Step::Send { request, until }),
            Self::Sleep { until } => Err(Step::Sleep { until }),
            Self::Ended(ended) => Ok(ended),
        }
    }

    /// This step, its end converted by `convert`.
    fn map<U>(self, convert: impl FnOnce(T) -> U) -> Step<U> {
        self.into_end().map_or_else(|step| step, |ended| Step::Ended(convert(ended)))
    }
}

/// A call, or several that belong together, as a machine without I/O: see the [module documentation](self).
pub trait Machine {
    /// What it comes to.
    type Output;

    /// Takes in what happened, and says what to do next.
    fn step(&mut self, event: Event, clock: &dyn Clock) -> Step<Self::Output>;
}

/// What holds for the calls of one machine, in the place of the client's settings.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// The limits of each call.
    pub options: CallOptions,
    /// The trace that the calls are part of.
    pub traceparent: Option<Traceparent>,
}

/// Makes the machines of a client. Cloning is cheap, and all clones share one circuit breaker.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: Arc<Config>,
    breaker: Breaker,
}

impl Engine {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        let breaker = Breaker::new(config.circuit_failures);
        Self(Arc::new(Shared { config, breaker }))
    }

    pub(crate) fn config(&self) -> &Arc<Config> {
        &self.0.config
    }

    fn breaker(&self) -> &Breaker {
        &self.0.breaker
    }

    /// Whether calls go to the gateway: see [`ActPass::circuit`](crate::ActPass::circuit).
    pub fn circuit(&self, clock: &dyn Clock) -> Circuit {
        self.breaker().circuit(clock.now())
    }

    /// Checks `action` and writes its request: see [`ActPass::prepare`](crate::ActPass::prepare).
    ///
    /// # Errors
    ///
    /// As [`ActPass::prepare`](crate::ActPass::prepare).
    pub fn prepare(&self, action: Action, clock: &dyn Clock) -> Result<PreparedAction, Error> {
        PreparedAction::new(action, self.config(), clock)
    }

    /// Asks about an action, waits for its approval if the action says so, and rules: see
    /// [`ActPass::authorize`](crate::ActPass::authorize).
    pub fn authorize(&self, prepared: PreparedAction, scope: Scope) -> Authorization {
        Authorization::new(self.clone(), prepared, scope)
    }

    /// Guards an action: asks, rules, and records how it ended if `record_outcome` is set. See [`GuardSession`].
    pub fn guard(&self, prepared: PreparedAction, scope: Scope, record_outcome: bool) -> GuardSession {
        GuardSession::new(self, prepared, scope, record_outcome)
    }

    /// Waits until somebody decided about the approval `id`, for `wait` at most: see
    /// [`ActPass::wait_for_approval`](crate::ActPass::wait_for_approval).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`](crate::ErrorKind::Argument) for an id that no approval has.
    pub fn wait_for_approval(&self, id: &str, wait: Duration, scope: Scope) -> Result<ApprovalWait, Error> {
        ApprovalWait::new(self.clone(), id, wait, scope)
    }

    /// Records an event: see [`ActPass::record_evidence`](crate::ActPass::record_evidence).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`](crate::ErrorKind::Argument) for what cannot be sent.
    pub fn record_evidence(
        &self,
        event: &EvidenceEvent,
        scope: Scope,
    ) -> Result<impl Machine<Output = Result<RecordedEvidence, Error>> + use<>, Error> {
        let request = Request::new(Operation::RecordEvidence, request::evidence(event)?);
        Ok(Call::new(
            self.clone(),
            request,
            scope,
            JsonParser { token: None, parse: RecordedEvidence::parse },
        ))
    }

    /// Records how an action ended: see [`ActPass::record`](crate::ActPass::record).
    ///
    /// # Errors
    ///
    /// As [`Engine::record_evidence`].
    pub fn record(
        &self,
        recording: &Recording,
        scope: Scope,
    ) -> Result<impl Machine<Output = Result<RecordedEvidence, Error>> + use<>, Error> {
        let scope = match recording.ended() {
            ActionEnd::Failed | ActionEnd::Returned => scope,
            ActionEnd::Cancelled | ActionEnd::Suspended => {
                let limit = CallOptions::new(Some(CANCELLED_RECORD_TIMEOUT.min(self.timeout(&scope))), None)?;
                Scope { options: limit.or(scope.options), ..scope }
            }
        };
        self.record_evidence(recording.event(), scope)
    }

    /// Asks for a decision and rules on nothing: see [`ActPass::preflight`](crate::ActPass::preflight).
    pub fn preflight(
        &self,
        prepared: PreparedAction,
        scope: Scope,
    ) -> impl Machine<Output = Result<Decision, Error>> + use<> {
        MapOk(authorization::preflight(self.clone(), prepared, scope), |response: PreflightResponse| {
            response.decision
        })
    }

    /// A call whose 2xx answer is a JSON object, as `parse` reads it. `token` is a secret in its request.
    pub(crate) fn call<T>(
        &self,
        request: Request,
        scope: Scope,
        token: Option<Secret>,
        parse: fn(RawObject) -> Result<T, String>,
    ) -> impl Machine<Output = Result<T, Error>> + use<T> {
        Call::new(self.clone(), request, scope, JsonParser { token, parse })
    }

    fn timeout(&self, scope: &Scope) -> Duration {
        scope.options.timeout().unwrap_or(self.config().timeout)
    }

    fn max_retries(&self, scope: &Scope) -> u32 {
        scope.options.max_retries().unwrap_or(self.config().max_retries)
    }
}

/// A machine whose value is converted.
struct MapOk<M, F>(M, F);

impl<M, T, U, F> Machine for MapOk<M, F>
where
    M: Machine<Output = Result<T, Error>>,
    F: Fn(T) -> U,
{
    type Output = Result<U, Error>;

    fn step(&mut self, event: Event, clock: &dyn Clock) -> Step<Self::Output> {
        self.0.step(event, clock).map(|ended| ended.map(&self.1))
    }
}
