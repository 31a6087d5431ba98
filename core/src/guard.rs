//! The gate: the caller's code runs only when it may.
//!
//! There is one way to run something. [`ActPass::authorize`](crate::ActPass::authorize) asks the gateway and rules by
//! the table below. Where the action may run it returns a [`Permit`], which nothing else can make and which is spent
//! by value for the [`ExecutionContext`]. [`ActPass::guard`](crate::ActPass::guard) is those two steps; a binding does
//! the same two and runs its caller's function between them, in the caller's own thread, loop or task.
//!
//! | mode \ answer | `allow` | `warn` | `deny`, `require_approval`, `require_tool_reapproval` | another word | no valid decision |
//! |---|---|---|---|---|---|
//! | `enforce` | runs | blocked | blocked | blocked | blocked |
//! | `strict` | runs if recorded and bound | blocked | blocked | blocked | blocked |
//! | `warn` | runs | runs | blocked | blocked | blocked |
//! | `monitor` | runs | runs | runs | runs | runs |
//!
//! Recorded means that the decision names its ledger entry, `evidence_event_id`; bound, that it names the request that it
//! answers, `request_hash`. A `request_hash` of another request is no valid decision in any mode. A decision in an answer outside 2xx
//! (a gateway may say 401 or 403 and explain itself with one) runs nothing outside `monitor`, whatever its word.
//!
//! An answer with `replayed: true` repeats an earlier one for the idempotency key. Outside `monitor` it runs nothing unless
//! this same call may have got the first one: an earlier attempt of the call may have reached the gateway, and
//! `replay_age_ms`, if the gateway sends it, is not more than the time since that attempt began. A blocked replay is
//! reported as `deny`, `actpass.replayed`.
//!
//! # Properties
//!
//! Each is held by a test of the same name in `core/tests/guard.rs`.
//!
//! - `default_deny`: outside `monitor`, only what the table names runs.
//! - `error_denies`: a failure of any kind blocks.
//! - `timeout_denies`: a deadline that passes at any stage blocks.
//! - `panic_denies`: a panic inside the gate blocks and goes no further.
//! - `unknown_word_denies`: a decision word that is not known, or only looks like `allow`, blocks.
//! - `malformed_denies`: an answer that is not a decision blocks.
//! - `replay_denies`: a repeated answer blocks, unless this call's own lost attempt got the first one.
//! - `redirect_denies`: a redirect blocks, and nothing is sent to where it points.
//! - `cancelled_never_runs`: a call that is dropped before the verdict runs nothing.
//! - `runs_at_most_once`: retries and resets never run the action twice.
//! - `monitor_always_runs`: `monitor` runs whatever the answer is, and reports it.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::action::Action;
use crate::approval::{ApprovalStatus, PendingApproval};
use crate::block_texts::{BlockFailure, BlockTexts};
use crate::cause::Cause;
use crate::clock::{Clock, Moment};
use crate::decision::{Credential, Decision};
use crate::error::Error;
use crate::evidence::EvidenceEvent;
use crate::prepared::PreparedAction;
use actpass_protocol::json::Number;
use actpass_protocol::{
    ACTION_OUTCOME, ActionEnd, DECISIONS, DecisionWord, ErrorKind, Json, Mode, Operation, canonical_json,
    hash_payload,
};

/// What a valid answer to a preflight was.
pub(crate) struct PreflightResponse {
    pub(crate) decision: Decision,
    pub(crate) credential: Option<Credential>,
    /// Whether it came with a status outside 2xx.
    pub(crate) refused: bool,
    /// Whether it names the request that it answers.
    pub(crate) bound: bool,
    /// Whether it repeats an answer that the gateway first gave to another call.
    pub(crate) replays_another_call: bool,
}

/// The answer to "may it run?".
///
/// ```
/// # use actpass_core::transport::FixedResponse;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use actpass_core::{ActPass, Action, TokioClock, Verdict};
///
/// let answer = FixedResponse::new(200, r#"{"decision": "allow", "reason_code": "refund.small_in_scope"}"#);
/// let actpass = ActPass::builder().api_key("apk_dev").transport(answer).build()?;
/// match actpass.authorize(&Action::new("resolve_refund_request", "stripe.refund.create")).await? {
///     Verdict::Blocked(blocked) => panic!("{blocked:?}"),
///     Verdict::Proceed(permit) => {
///         let (context, settlement) = permit.spend(&TokioClock).unwrap();
///         assert!(context.credential().is_none());
///         let outcome = settlement.settle(Ok::<_, ()>("refunded"));
///         assert!(outcome.executed());
///     }
/// }
/// # Ok::<(), actpass_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
#[must_use = "a verdict decides whether the action may run"]
pub enum Verdict {
    /// It may not.
    Blocked(Blocked),
    /// It may, once.
    Proceed(Permit),
}

impl Verdict {
    /// Rules on what the gate said. The whole table is here and nowhere else.
    ///
    /// `now` is when the answer came; `None` if no time is known, and then there is no credential that could expire.
    pub(crate) fn of(
        request: &PreparedAction,
        gate: Result<PreflightResponse, Error>,
        now: Option<Moment>,
    ) -> Self {
        let (mode, action) = (request.mode(), request.action());
        let ruling = match &gate {
            Err(_) => match mode {
                Mode::Monitor => Ruling::Run,
                Mode::Enforce | Mode::Strict | Mode::Warn => Ruling::Block,
            },
            Ok(response) => match (mode, response.decision.word()) {
                (Mode::Monitor, _) => Ruling::Run,
                (Mode::Enforce | Mode::Strict | Mode::Warn, _) if response.refused => Ruling::Block,
                (Mode::Strict, DecisionWord::Allow) if !response.decision.is_recorded() => {
                    Ruling::BlockUnrecorded
                }
                (Mode::Strict, DecisionWord::Allow) if !response.bound => Ruling::BlockUnbound,
                (Mode::Enforce | Mode::Strict | Mode::Warn, DecisionWord::Allow)
                | (Mode::Warn, DecisionWord::Warn) => match response.replays_another_call {
                    true => Ruling::BlockReplayed,
                    false => Ruling::Run,
                },
                (
                    Mode::Enforce | Mode::Strict | Mode::Warn,
                    DecisionWord::Deny
                    | DecisionWord::Other(_)
                    | DecisionWord::RequireApproval
                    | DecisionWord::RequireToolReapproval
                    | DecisionWord::Warn,
                ) => Ruling::Block,
            },
        };
        // What a refusal names is nothing to wait for.
        let approval_id = match &gate {
            Ok(response) if !response.refused => response.decision.pending_approval_id().map(Cow::into_owned),
            Ok(_) | Err(_) => None,
        };
        // An approval that the action names is not lost with a denial of the SDK's own.
        let named = action.fields().approval_request_id.as_deref().filter(|id| !id.is_empty());
        let made_by_sdk = gate.is_err() || !matches!(ruling, Ruling::Block | Ruling::Run);
        let approval_id = approval_id.or_else(|| named.filter(|_| made_by_sdk).map(str::to_owned));
        let (decision, credential, error) = match gate {
            Ok(response) => {
                // A credential belongs to an allowed action only, also where monitor runs another.
                let allowed = !response.refused && *response.decision.word() == DecisionWord::Allow;
                (response.decision, response.credential.filter(|_| allowed), None)
            }
            Err(error) => (Decision::for_failure(&error, named), None, Some(error)),
        };
        let (decision, error) = match ruling {
            Ruling::Run => {
                let void_after = now.map(|now| now + PERMIT_VALIDITY);
                return Self::Proceed(Permit {
                    decision,
                    credential,
                    error,
                    request: request.clone(),
                    void_after,
                });
            }
            Ruling::Block => (decision, error),
            Ruling::BlockReplayed => (Decision::replayed(&decision, named), None),
            Ruling::BlockUnbound => {
                let problem =
                    "the gateway's answer cannot be used: it has no request_hash, which strict mode demands";
                let error = Error::new(ErrorKind::Response, problem)
                    .with_cause(Cause::Unbound)
                    .with_operation(Operation::Preflight);
                (Decision::for_failure(&error, named), Some(error))
            }
            Ruling::BlockUnrecorded => (Decision::unrecorded(named), None),
        };
        let approval = approval_id.map(|id| PendingApproval::new(id, action, mode));
        Self::Blocked(Blocked::new(request, decision, error, approval))
    }

    /// Rules on an action about which the gateway could not be original: the call panicked, was dropped, or had no thread.
    /// Such a gate failed like any other: it blocks, and lets `monitor` run.
    ///
    /// ```
    /// use actpass_core::{ActPass, Action, Error, ErrorKind, Verdict};
    ///
    /// let actpass = ActPass::builder().api_key("apk_dev").build()?;
    /// let request = actpass.prepare(Action::new("resolve_refund_request", "stripe.refund.create"))?;
    /// let verdict = Verdict::for_failure(&request, Error::new(ErrorKind::Internal, "no thread"));
    /// assert!(matches!(verdict, Verdict::Blocked(_)));
    /// # Ok::<(), actpass_core::Error>(())
    /// ```
    pub fn for_failure(request: &PreparedAction, failure: Error) -> Self {
        let failure = match failure.operation() {
            Some(_) => failure,
            None => failure.with_operation(Operation::Preflight),
        };
        Self::of(request, Err(failure), None)
    }

    /// Blocks in every mode: the engine was driven wrongly.
    pub(crate) fn blocked(request: &PreparedAction, error: Error) -> Self {
        Self::Blocked(Blocked::of(request, error))
    }

    /// The action was held for `pending`, which is not approved; `original` is the decision that original for the approval.
    pub(crate) fn unapproved(
        request: &PreparedAction,
        original: &Decision,
        pending: PendingApproval,
        status: ApprovalStatus,
    ) -> Self {
        let decision = Decision::unapproved(original, pending.id(), status);
        let approval = (status == ApprovalStatus::Pending).then_some(pending);
        Self::Blocked(Blocked::new(request, decision, None, approval))
    }

    /// This verdict on an action that was held for `pending`, which `original` had opened. A report of a failure keeps what
    /// identifies that decision in the ledger, and the handle is kept unless this answer settles the approval.
    pub(crate) fn after_approval_wait(self, original: &Decision, pending: &PendingApproval) -> Self {
        match self {
            Self::Blocked(Blocked { decision, error, approval, request }) => {
                let decision = match &error {
                    Some(error) => Decision::for_failure_after(original, error, Some(pending.id())),
                    None => decision,
                };
                let settled = decision.reason_code().starts_with("approval.");
                let approval = approval.or_else(|| (!settled).then(|| Box::new(pending.clone())));
                Self::Blocked(Blocked { decision, error, approval, request })
            }
            Self::Proceed(_) => self,
        }
    }

    /// Tells the log: a gate that failed as a warning, what is blocked as information, what may run to whoever debugs.
    pub(crate) fn log(&self, tool: &str) {
        match self {
            Self::Blocked(Blocked { error: Some(error), .. }) => {
                tracing::warn!(tool, code = error.code(), "blocked, the gate failed: {error}");
            }
            Self::Blocked(Blocked { decision, error: None, .. }) => {
                let reason_code = &*decision.reason_code();
                tracing::info!(tool, decision = decision.word().as_str(), reason_code, "blocked");
            }
            Self::Proceed(Permit { error: Some(error), .. }) => {
                tracing::warn!(
                    tool,
                    code = error.code(),
                    "may run in monitor mode, the gate failed: {error}"
                );
            }
            Self::Proceed(Permit { decision, error: None, .. }) => {
                let reason_code = &*decision.reason_code();
                tracing::debug!(tool, decision = decision.word().as_str(), reason_code, "may run");
            }
        }
    }

    /// The decision that asks for an approval, and what to wait for, if the action waits.
    pub(crate) fn pending(&self) -> Option<(&Decision, &PendingApproval)> {
        match self {
            Self::Blocked(blocked) if blocked.decision.pending_approval_id().is_some() => {
                Some((&blocked.decision, blocked.approval()?))
            }
            Self::Blocked(_) | Self::Proceed(_) => None,
        }
    }
}

enum Ruling {
    Block,
    BlockReplayed,
    BlockUnbound,
    BlockUnrecorded,
    Run,
}

/// The action did not run, and why.
///
/// ```
/// # use actpass_core::transport::FixedResponse;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use actpass_core::{ActPass, Action, ErrorKind, Verdict};
///
/// let actpass = ActPass::builder().api_key("apk_dev").transport(FixedResponse::new(500, "")).build()?;
/// let action = Action::new("resolve_refund_request", "stripe.refund.create");
/// let Verdict::Blocked(blocked) = actpass.authorize(&action).await? else { panic!("allowed") };
/// assert_eq!(blocked.decision().reason_code(), "actpass.gateway_error");
/// assert_eq!(blocked.error().map(|error| error.kind()), Some(ErrorKind::Status));
/// # Ok::<(), actpass_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Blocked {
    decision: Decision,
    error: Option<Error>,
    approval: Option<Box<PendingApproval>>,
    request: PreparedAction,
}

impl Blocked {
    fn new(
        request: &PreparedAction,
        decision: Decision,
        error: Option<Error>,
        approval: Option<PendingApproval>,
    ) -> Self {
        Self { decision, error, approval: approval.map(Box::new), request: request.clone() }
    }

    pub(crate) fn of(request: &PreparedAction, error: Error) -> Self {
        Self::new(request, Decision::for_failure(&error, None), Some(error), None)
    }

    /// The tool that was not used.
    pub fn tool(&self) -> &str {
        self.request.tool()
    }

    /// Whether the same call may succeed later without any change: the gate failed in a way that may pass. A decision is no
    /// such failure.
    pub fn is_retryable(&self) -> bool {
        self.error.as_ref().is_some_and(Error::is_retryable)
    }

    /// What to tell a developer and a model about it.
    ///
    /// The API key and the passport are in neither text, whatever the gateway wrote into its explanation.
    pub fn texts(&self) -> BlockTexts {
        let failure = self.error.as_ref().map(BlockFailure::from);
        let approval = self.approval().map(PendingApproval::id);
        BlockTexts::of(self.tool(), &self.decision, failure.as_ref(), approval)
            .redacted(&self.request.secrets())
    }

    /// The gateway's decision, or the one that the SDK made because the gate failed.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// How the gate failed; `None` where the gateway decided.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// What to keep in order to run the action once a person has approved it; `None` where nothing can be waited for.
    pub fn approval(&self) -> Option<&PendingApproval> {
        self.approval.as_deref()
    }
}

/// Leave to run the action, once. Only the gate makes one.
///
/// ```compile_fail,E0451
/// // Not to be made by hand, ...
/// fn forge(decision: actpass_core::Decision) -> actpass_core::Permit {
///     actpass_core::Permit { decision, credential: None, error: None, request: todo!(), void_after: None }
/// }
/// ```
///
/// ```compile_fail,E0382
/// // ... nor to be spent twice.
/// fn twice(permit: actpass_core::Permit) {
///     permit.spend(&actpass_core::TokioClock).unwrap();
///     permit.spend(&actpass_core::TokioClock).unwrap();
/// }
/// ```
#[derive(Debug)]
#[must_use = "a permit that is not spent runs nothing"]
pub struct Permit {
    decision: Decision,
    credential: Option<Credential>,
    error: Option<Error>,
    request: PreparedAction,
    /// `None` if it does not become void.
    void_after: Option<Moment>,
}

/// How long a [`Permit`] can be spent: for five minutes.
pub const PERMIT_VALIDITY: Duration = Duration::from_secs(5 * 60);

impl Permit {
    /// The decision under which the action may run.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Rules again if `now`, the action as it is about to run, is no longer the one that was judged: see
    /// [`Permit::arguments_changed`]. Its goal, tool, resource, arguments, user, audience and manifest hash are compared, the
    /// arguments as text.
    pub fn compare(self, now: &Action) -> Verdict {
        match self.request.action().matches_judged(now) {
            true => Verdict::Proceed(self),
            false => self.arguments_changed(),
        }
    }

    /// Rules again, for a binding that finds that the arguments are no longer those that were judged.
    ///
    /// Blocks with the reason `actpass.arguments_changed`. In `monitor` the action still runs, without a credential: what
    /// enforce would have allowed is reported as that denial, any other decision stays.
    ///
    /// ```
    /// # use actpass_core::transport::FixedResponse;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::{ActPass, Action, Verdict};
    ///
    /// let answer = FixedResponse::new(200, r#"{"decision": "allow"}"#);
    /// let actpass = ActPass::builder().api_key("apk_dev").transport(answer).build()?;
    /// let action = Action::new("resolve_refund_request", "stripe.refund.create");
    /// let Verdict::Proceed(permit) = actpass.authorize(&action).await? else { panic!("blocked") };
    /// let Verdict::Blocked(blocked) = permit.arguments_changed() else { panic!("allowed") };
    /// assert_eq!(blocked.decision().reason_code(), "actpass.arguments_changed");
    /// # Ok::<(), actpass_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn arguments_changed(self) -> Verdict {
        let decision = Decision::arguments_changed(&self.decision);
        self.reevaluated_with(decision)
    }

    /// Rules again with `decision`, a denial, which takes the place of an `allow`.
    fn reevaluated_with(self, decision: Decision) -> Verdict {
        match self.request.mode() {
            Mode::Enforce | Mode::Strict | Mode::Warn => {
                Verdict::Blocked(Blocked::new(&self.request, decision, None, None))
            }
            Mode::Monitor if *self.decision.word() == DecisionWord::Allow => {
                Verdict::Proceed(Self { decision, credential: None, void_after: None, ..self })
            }
            Mode::Monitor => Verdict::Proceed(Self { void_after: None, ..self }),
        }
    }

    /// Spends the permit: what the action is given, and what turns its end into an [`Outcome`].
    ///
    /// A permit is void [`PERMIT_VALIDITY`] after the verdict, and once its credential has expired: then the action is blocked
    /// with the reason `actpass.permit_expired`. In `monitor` it still runs, without a credential.
    ///
    /// # Errors
    ///
    /// The block, if the permit is void.
    pub fn spend(self, clock: &dyn Clock) -> Result<(ExecutionContext, Settlement), Box<Blocked>> {
        let permit = match self.is_void(clock) {
            false => self,
            true => {
                let decision = Decision::permit_expired(&self.decision);
                match self.reevaluated_with(decision) {
                    Verdict::Blocked(blocked) => return Err(Box::new(blocked)),
                    Verdict::Proceed(permit) => permit,
                }
            }
        };
        let Self { decision, credential, error, request, void_after: _ } = permit;
        let context = ExecutionContext { decision: decision.clone(), credential };
        Ok((context, Settlement { decision, error, request }))
    }

    fn is_void(&self, clock: &dyn Clock) -> bool {
        self.void_after.is_some_and(|last| clock.now() > last)
            || self.credential.as_ref().is_some_and(|credential| credential.has_expired(clock.wall_clock()))
    }
}

/// What a permitted action is given.
///
/// ```
/// # use actpass_core::transport::FixedResponse;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use actpass_core::{ActPass, Action, ExecutionContext, Outcome};
///
/// async fn refund(context: ExecutionContext) -> Result<String, std::io::Error> {
///     let key = context.credential().map(|credential| credential.token().to_owned());
///     Ok(format!("refunded with a key of {} letters", key.unwrap_or_default().len()))
/// }
///
/// let answer = r#"{"decision": "allow", "credential": {"token": "sk_1234", "expires_at": null}}"#;
/// let actpass = ActPass::builder().api_key("apk_dev").transport(FixedResponse::new(200, answer)).build()?;
/// let outcome = actpass.guard(&Action::new("resolve_refund_request", "stripe.refund.create"), refund).await?;
/// assert!(matches!(outcome, Outcome::Returned { result, .. } if result == "refunded with a key of 7 letters"));
/// # Ok::<(), actpass_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct ExecutionContext {
    decision: Decision,
    credential: Option<Credential>,
}

impl ExecutionContext {
    /// The decision under which the action runs.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// The secret that the gateway's vault holds for the tool; `None` where it holds none.
    pub fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }
}

/// Turns how the action ended into the [`Outcome`] that the guard reports.
///
/// It comes from [`Permit::spend`]; see [`Verdict`] for an example.
#[derive(Debug)]
#[must_use = "an action that ran is reported"]
pub struct Settlement {
    decision: Decision,
    error: Option<Error>,
    request: PreparedAction,
}

impl Settlement {
    /// What records how the action ended, for [`ActPass::record`](crate::ActPass::record): an event of type
    /// [`ACTION_OUTCOME`], on the decision's chain, with the hash of the request that was decided about.
    ///
    /// `response` is what the action returned, if it returned and that is JSON, of which the hash is recorded.
    pub fn recording(&self, ended: ActionEnd, response: Option<&Json>) -> Recording {
        let text = |name: &str| self.decision.member(name)?.as_str().map(str::to_owned);
        let decided = text("evidence_event_id").map_or(Json::Null, Json::String);
        let event = EvidenceEvent {
            event_type: ACTION_OUTCOME.to_owned(),
            chain_id: text("evidence_chain_id").unwrap_or_else(|| DECISIONS.to_owned()),
            tool_id: Some(self.request.tool().to_owned()),
            decision: Some(self.decision.word().as_str().to_owned()),
            reason_code: text("reason_code"),
            metadata: Some(Json::Object(vec![
                ("ended".to_owned(), Json::from(ended.as_str())),
                ("evidence_event_id".to_owned(), decided),
            ])),
            // A request without a canonical form has no hash; then the ledger's own entry of it is all there is.
            request_hash: self.request.request_hash().ok().map(str::to_owned),
            response_hash: response.and_then(|response| hash_payload(response).ok()),
        };
        Recording { event, ended }
    }

    /// The outcome of an action that ended so.
    pub fn settle<T, E>(self, ended: Result<T, E>) -> Outcome<T, E> {
        let Self { decision, error, .. } = self;
        match ended {
            Ok(result) => Outcome::Returned { decision, result, gate_error: error },
            Err(error) => Outcome::Failed { decision, error },
        }
    }
}

/// How an action ended, to be recorded: see [`Settlement::recording`].
#[derive(Clone, Debug)]
pub struct Recording {
    event: EvidenceEvent,
    ended: ActionEnd,
}

impl Recording {
    /// The event.
    pub fn event(&self) -> &EvidenceEvent {
        &self.event
    }

    /// How the action ended.
    pub fn ended(&self) -> ActionEnd {
        self.ended
    }
}

/// What a guard reports.
///
/// ```
/// # use actpass_core::transport::FixedResponse;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use actpass_core::{ActPass, Action, Outcome};
///
/// let actpass =
///     ActPass::builder().api_key("apk_dev").transport(FixedResponse::new(200, r#"{"decision": "allow"}"#)).build()?;
/// let action = Action::new("resolve_refund_request", "stripe.refund.create");
/// match actpass.guard(&action, async |_context| Err::<(), _>("the card is closed")).await? {
///     Outcome::Blocked(blocked) => panic!("{blocked:?}"),
///     Outcome::Failed { error, decision } => {
///         assert_eq!((error, decision.word().as_str()), ("the card is closed", "allow"));
///     }
///     Outcome::Returned { .. } => panic!("it did not return"),
/// }
/// # Ok::<(), actpass_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
#[must_use = "an outcome says whether the action ran"]
pub enum Outcome<T, E> {
    /// The action did not run.
    Blocked(Blocked),
    /// The action ran and ended with an error of its own.
    Failed {
        /// The decision under which it ran.
        decision: Decision,
        /// Its error, the very value.
        error: E,
    },
    /// The action ran and returned.
    Returned {
        /// The decision under which it ran.
        decision: Decision,
        /// What it returned, the very value.
        result: T,
        /// How the gate failed, where `monitor` ran the action all the same.
        gate_error: Option<Error>,
    },
}

impl<T, E> Outcome<T, E> {
    /// The decision: the gateway's, or the one that the SDK made.
    pub fn decision(&self) -> &Decision {
        match self {
            Self::Blocked(blocked) => &blocked.decision,
            Self::Failed { decision, .. } | Self::Returned { decision, .. } => decision,
        }
    }

    /// Whether the action ran.
    pub fn executed(&self) -> bool {
        match self {
            Self::Blocked(_) => false,
            Self::Failed { .. } | Self::Returned { .. } => true,
        }
    }

    /// The outcome in the form that is the same in every language; see [`canonical_outcome`].
    ///
    /// # Errors
    ///
    /// As [`canonical_json`], where the decision has an integer that canonical JSON cannot carry.
    pub fn canonical(&self) -> Result<String, Error> {
        let error = match self {
            Self::Blocked(blocked) => blocked.error.as_ref().map(ReportedError::Gate),
            Self::Failed { .. } => Some(ReportedError::Action),
            Self::Returned { gate_error, .. } => gate_error.as_ref().map(ReportedError::Gate),
        };
        let error = error.map(|error| match error {
            ReportedError::Action => ("action", None),
            ReportedError::Gate(error) => (error.kind().name(), error.status()),
        });
        canonical_outcome(self.executed(), self.decision(), error)
    }
}

enum ReportedError<'e> {
    Action,
    Gate(&'e Error),
}

/// `{"decision", "error": null | {"kind", "status"}, "executed"}` in canonical JSON: what parity tests compare, byte for
/// byte, between languages. `error` is the kind's [name](ErrorKind::name), or `action` for an error that the action
/// itself ended with, and the HTTP status if there was one.
///
/// # Errors
///
/// As [`canonical_json`].
///
/// ```
/// use actpass_core::{Decision, canonical_outcome};
///
/// let text = br#"{"reason_code": "x", "decision": "deny", "explain": {"summary": "No."}}"#;
/// let decision = Decision::parse(text).unwrap();
/// assert_eq!(
///     canonical_outcome(false, &decision, Some(("status", Some(500))))?,
///     r#"{"decision":{"decision":"deny","explain":{"matched_rules":[],"next_steps":[],"summary":"No."},"#.to_owned()
///         + r#""reason_code":"x"},"error":{"kind":"status","status":500},"executed":false}"#,
/// );
/// # Ok::<(), actpass_core::Error>(())
/// ```
pub fn canonical_outcome(
    executed: bool,
    decision: &Decision,
    error: Option<(&str, Option<u16>)>,
) -> Result<String, Error> {
    let unreadable = |error: &dyn fmt::Display| Error::new(ErrorKind::Internal, format!("decision: {error}"));
    let decision = Json::parse(decision.as_json().as_bytes()).map_err(|error| unreadable(&error))?;
    let error = match error {
        None => Json::Null,
        Some((kind, status)) => {
            let status = status.map_or(Json::Null, |status| Json::Number(Number::from(i64::from(status))));
            Json::Object(vec![("kind".to_owned(), Json::from(kind)), ("status".to_owned(), status)])
        }
    };
    let members = [("executed", Json::Bool(executed)), ("decision", decision), ("error", error)];
    let outcome = Json::Object(members.map(|(key, value)| (key.to_owned(), value)).into());
    String::from_utf8(canonical_json(&outcome)?).map_err(|error| unreadable(&error))
}
