//! The engine: calls as state machines, without I/O, clocks or threads.
//!
//! A driver advances a [`Machine`] with [`Event`]s. The machine answers each with a [`Step`]: send
//! this request, sleep until a moment, or the end. The machines implement retries and backoff,
//! timeouts, the circuit breaker, the interpretation of responses, waiting for approvals, the
//! verdict and the recording of outcomes. The driver passes in a [`Clock`] as the source of time
//! and randomness, so a test can replay any order of events without a network and without waiting.
//!
//! [`ActPass`](crate::ActPass) drives the machines on tokio. A host with its own event loop creates
//! an [`Engine`] from [`Settings`](crate::Settings) and drives them itself:
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
//! A machine that receives an unexpected event fails closed: it ends with an error, or with a
//! verdict on one.

mod approval;
mod authorization;
mod call;
mod response;
mod session;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
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
use crate::halts::Halts;
use crate::prepared::PreparedAction;
use crate::request;
use crate::trace::Traceparent;
use crate::transport::{Request, Response, TransportError};

pub use self::approval::ApprovalWait;
pub use self::authorization::Authorization;
use self::call::Call;
use self::response::JsonParser;
pub use self::session::{Begun, GuardSession, Stage};

/// The result of a machine's last [`Step`].
#[derive(Clone, Debug)]
pub enum Event {
    /// The first event of every machine, exactly once.
    Started,
    /// A response arrived.
    Response(Response),
    /// The request failed without a response.
    Failed(TransportError),
    /// The moment `until` of the step has passed.
    Elapsed,
    /// The driver panicked while sending the request.
    Panicked,
}

/// The next step for the driver of a [`Machine`].
#[derive(Debug)]
#[must_use = "a step that is not taken stops its machine"]
pub enum Step<T> {
    /// Send this request. Then pass [`Event::Response`] or [`Event::Failed`], or [`Event::Elapsed`]
    /// if neither came before `until`.
    Send {
        /// The request.
        request: Request,
        /// When to abandon the attempt.
        until: Moment,
    },
    /// Sleep. Then pass [`Event::Elapsed`].
    Sleep {
        /// When to wake up.
        until: Moment,
    },
    /// The machine has ended and takes no further event.
    Ended(T),
}

/// The timeout for recording a cancelled action: the cancelled program does not wait for it.
const CANCELLED_RECORD_TIMEOUT: Duration = Duration::from_secs(1);

impl<T> Step<T> {
    /// Returns the end, or the step before it.
    fn into_end<U>(self) -> ControlFlow<T, Step<U>> {
        match self {
            Self::Send { request, until } => ControlFlow::Continue(Step::Send { request, until }),
            Self::Sleep { until } => ControlFlow::Continue(Step::Sleep { until }),
            Self::Ended(ended) => ControlFlow::Break(ended),
        }
    }

    /// Converts the end with `convert`.
    fn map<U>(self, convert: impl FnOnce(T) -> U) -> Step<U> {
        match self.into_end() {
            ControlFlow::Continue(step) => step,
            ControlFlow::Break(ended) => Step::Ended(convert(ended)),
        }
    }
}

/// A call, or a sequence of calls, as a state machine without I/O: see the [module
/// documentation](self).
pub trait Machine {
    /// The result of the machine.
    type Output;

    /// Processes an event and returns the next step.
    fn step(&mut self, event: Event, clock: &dyn Clock) -> Step<Self::Output>;
}

/// Settings of one machine's calls that override the client's.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// The limits of each call.
    pub options: CallOptions,
    /// The trace that the calls belong to.
    pub traceparent: Option<Traceparent>,
}

/// Creates the machines of a client. Cloning is cheap, and all clones share one circuit breaker.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: Arc<Config>,
    breaker: Breaker,
    halts: Halts,
}

impl Engine {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        let breaker = Breaker::new(config.circuit_failures);
        let halts = Halts::new(Arc::clone(&config.seen_epoch), &config.agent_id);
        Self(Arc::new(Shared { config, breaker, halts }))
    }

    pub(crate) fn config(&self) -> &Arc<Config> {
        &self.0.config
    }

    fn breaker(&self) -> &Breaker {
        &self.0.breaker
    }

    pub(crate) fn halts(&self) -> &Halts {
        &self.0.halts
    }

    /// Returns a fresh DPoP proof for an attempt of `request`; `None` without a DPoP key.
    pub(crate) fn prove(&self, request: &Request, clock: &dyn Clock) -> Result<Option<Secret>, Error> {
        let Some(prover) = &self.config().prover else { return Ok(None) };
        let url = self.config().base_url.endpoint(request.operation, &request.path_suffix)?;
        prover.prove(request.operation.method(), &url.to_string(), clock).map(Some)
    }

    /// Keeps the response's DPoP nonce. Returns whether the response demands a proof with it.
    pub(crate) fn observe_nonce(&self, response: &Response) -> bool {
        self.config().prover.as_ref().is_some_and(|prover| prover.observe(response))
    }

    /// The state of the circuit breaker: see [`ActPass::circuit`](crate::ActPass::circuit).
    pub fn circuit(&self, clock: &dyn Clock) -> Circuit {
        self.breaker().circuit(clock.now())
    }

    /// Validates `action` and builds its request: see
    /// [`ActPass::prepare`](crate::ActPass::prepare).
    ///
    /// # Errors
    ///
    /// As [`ActPass::prepare`](crate::ActPass::prepare).
    pub fn prepare(&self, action: Action, clock: &dyn Clock) -> Result<PreparedAction, Error> {
        PreparedAction::new(action, self.config(), clock)
    }

    /// Requests a decision, waits for approval if the action is set to wait, and returns the
    /// verdict: see [`ActPass::authorize`](crate::ActPass::authorize).
    pub fn authorize(&self, prepared: PreparedAction, scope: Scope) -> Authorization {
        Authorization::new(self.clone(), prepared, scope)
    }

    /// Guards an action, and records how it ended if `record_outcome` is set: see [`GuardSession`].
    pub fn guard(&self, prepared: PreparedAction, scope: Scope, record_outcome: bool) -> GuardSession {
        GuardSession::new(self, prepared, scope, record_outcome)
    }

    /// Waits up to `wait` for a decision about the approval `id`: see
    /// [`ActPass::wait_for_approval`](crate::ActPass::wait_for_approval).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`](crate::ErrorKind::Argument) for an invalid id.
    pub fn wait_for_approval(&self, id: &str, wait: Duration, scope: Scope) -> Result<ApprovalWait, Error> {
        ApprovalWait::new(self.clone(), id, wait, scope)
    }

    /// Records an event: see [`ActPass::record_evidence`](crate::ActPass::record_evidence).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`](crate::ErrorKind::Argument) for an invalid member.
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

    /// Requests a decision without a verdict: see
    /// [`ActPass::preflight`](crate::ActPass::preflight).
    pub fn preflight(
        &self,
        prepared: PreparedAction,
        scope: Scope,
    ) -> impl Machine<Output = Result<Decision, Error>> + use<> {
        MapOk(authorization::preflight(self.clone(), prepared, scope), |response: PreflightResponse| {
            response.decision
        })
    }

    /// A call whose 2xx response is a JSON object that `parse` reads. `token` is a secret in its
    /// request.
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

/// A machine whose successful result is converted.
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
