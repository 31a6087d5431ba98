//! The gate: the caller's code runs only if it is allowed.
//!
//! [`ActPass::authorize`](crate::ActPass::authorize) sends a preflight and applies the table below
//! to the response. If the action may run, it returns a [`Permit`], which only the gate can create.
//! Spending the permit, once, yields the [`ExecutionContext`].
//! [`ActPass::guard`](crate::ActPass::guard) combines the two steps. A binding performs the same
//! steps and runs its caller's function between them, in the caller's own thread, loop or task.
//!
//! | mode \ answer | `allow` | `warn` | `deny`, `require_approval`, `require_tool_reapproval` | another word | no valid decision |
//! |---|---|---|---|---|---|
//! | `enforce` | runs | blocked | blocked | blocked | blocked |
//! | `strict` | runs if recorded and bound | blocked | blocked | blocked | blocked |
//! | `warn` | runs | runs | blocked | blocked | blocked |
//! | `monitor` | runs | runs | runs | runs | runs |
//!
//! "Recorded" means that the decision names its ledger entry (`evidence_event_id`). "Bound" means
//! that it names the request that it belongs to (`request_hash`). A `request_hash` of another
//! request makes the decision invalid in every mode. A decision in a non-2xx response (a gateway
//! may explain a 401 or 403 with one) runs nothing outside `monitor`, for any word.
//!
//! A response with `replayed: true` repeats an earlier response for the idempotency key. Outside
//! `monitor` it runs nothing, unless the earlier response belonged to this call: an earlier attempt
//! of the call may have reached the gateway, and `replay_age_ms`, if present, is not more than the
//! time since that attempt began. A blocked replay is reported as `deny`, `actpass.replayed`.
//!
//! With `approval_keys`, an approved action, and any action of the tools named there, runs outside
//! `monitor` only if trusted passkeys signed its approval. Otherwise it is reported as `deny`,
//! `actpass.approval_unsigned`.
//!
//! # Properties
//!
//! A test of the same name in `core/tests/guard.rs` verifies each property.
//!
//! - `default_deny`: outside `monitor`, an action runs only if the table lists its case.
//! - `error_denies`: any failure blocks.
//! - `timeout_denies`: a timeout at any stage blocks.
//! - `panic_denies`: a panic inside the gate blocks and does not propagate.
//! - `unknown_word_denies`: an unknown decision word, or one that only looks like `allow`, blocks.
//! - `malformed_denies`: a response that is not a decision blocks.
//! - `replay_denies`: a replayed response blocks, unless it belongs to a lost attempt of this call.
//! - `unsigned_denies`: with `approval_keys`, an approval that no trusted passkey has signed blocks.
//! - `redirect_denies`: a redirect blocks, and nothing is sent to its target.
//! - `cancelled_never_runs`: a call that is dropped before the verdict runs nothing.
//! - `runs_at_most_once`: retries and resets never run the action twice.
//! - `monitor_always_runs`: `monitor` runs the action for any response, and reports the response.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::action::Action;
use crate::approval::{Approval, ApprovalStatus, PendingApproval};
use crate::block_texts::{BlockFailure, BlockTexts};
use crate::cause::Cause;
use crate::clock::{Clock, Moment};
use crate::decision::{Credential, Decision};
use crate::error::Error;
use crate::evidence::EvidenceEvent;
use crate::halts::{HaltSignal, Halts, Running, Subject as HaltSubject};
use crate::prepared::PreparedAction;
use crate::signed_approvals::Unsigned;
use actpass_protocol::json::Number;
use actpass_protocol::{
    ACTION_OUTCOME, ActionEnd, DECISIONS, DecisionWord, ErrorKind, Json, Mode, Operation, canonical_json,
    hash_payload,
};

/// A valid response to a preflight.
pub(crate) struct PreflightResponse {
    pub(crate) decision: Decision,
    pub(crate) credential: Option<Credential>,
    /// Whether the status was not 2xx.
    pub(crate) refused: bool,
    /// Whether it names the request that it belongs to.
    pub(crate) bound: bool,
    /// Whether it replays a response to another call.
    pub(crate) replays_another_call: bool,
    /// The gateway's `halt_epoch`.
    pub(crate) halt_epoch: Option<u64>,
    /// Why its approval is not signed by a trusted passkey, if it must be.
    pub(crate) unsigned: Option<Unsigned>,
}

/// The answer to "may the action run?".
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
    /// The action may not run.
    Blocked(Blocked),
    /// The action may run, once.
    Proceed(Permit),
}

impl Verdict {
    /// Applies the table to the gate's result. This is the only implementation of the table.
    ///
    /// `now` is the time of the response; `None` without a response, and then there is no
    /// credential that could expire.
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
                | (Mode::Warn, DecisionWord::Warn) => {
                    match (response.replays_another_call, response.unsigned) {
                        (true, _) => Ruling::BlockReplayed,
                        (false, Some(unsigned)) => Ruling::BlockUnsigned(unsigned),
                        (false, None) => Ruling::Run,
                    }
                }
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
        // The approval of a refused request cannot be waited for.
        let approval_id = match &gate {
            Ok(response) if !response.refused => response.decision.pending_approval_id().map(Cow::into_owned),
            Ok(_) | Err(_) => None,
        };
        // A denial by the SDK keeps the approval that the action names.
        let named = action.fields().approval_request_id.as_deref().filter(|id| !id.is_empty());
        let is_sdk_decision = gate.is_err() || !matches!(ruling, Ruling::Block | Ruling::Run);
        // A stop does not settle the approval.
        let is_halted = matches!(&gate, Ok(response) if response.decision.is_halted());
        let keeps_approval = is_sdk_decision || is_halted;
        let approval_id = approval_id.or_else(|| named.filter(|_| keeps_approval).map(str::to_owned));
        // Without an epoch in the decision, the permit belongs to the newest one that is known.
        let epoch = gate.as_ref().ok().and_then(|response| response.halt_epoch);
        let epoch = epoch.or_else(|| request.seen_epoch());
        let (decision, credential, error) = match gate {
            Ok(response) => {
                // Only an allowed action receives the credential, even if monitor runs another one.
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
                    epoch,
                    halts: None,
                });
            }
            Ruling::Block => (decision, error),
            Ruling::BlockReplayed => (Decision::replayed(&decision, named), None),
            Ruling::BlockUnbound => {
                let problem =
                    "invalid response from the gateway: missing request_hash, which strict mode requires";
                let error = Error::new(ErrorKind::Response, problem)
                    .with_cause(Cause::Unbound)
                    .with_operation(Operation::Preflight);
                (Decision::for_failure(&error, named), Some(error))
            }
            Ruling::BlockUnrecorded => (Decision::unrecorded(named), None),
            Ruling::BlockUnsigned(unsigned) => (Decision::unsigned(&decision, unsigned, named), None),
        };
        let approval = approval_id.map(|id| PendingApproval::new(id, action, mode));
        Self::Blocked(Blocked::new(request, decision, error, approval))
    }

    /// The verdict for a call that failed before the request was sent: it panicked, was dropped, or
    /// had no thread. Like any failed gate, it blocks except in `monitor`.
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

    /// Blocks in every mode: the engine was misused.
    pub(crate) fn blocked(request: &PreparedAction, error: Error) -> Self {
        Self::Blocked(Blocked::of(request, error))
    }

    /// The verdict on an action that waited for `pending` without approval. `original` is the
    /// decision that required the approval.
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

    /// The verdict on an action whose wait for `pending` was ended by a stop. `approval` is the
    /// gateway's response.
    pub(crate) fn halted(
        request: &PreparedAction,
        original: &Decision,
        pending: PendingApproval,
        approval: &Approval,
    ) -> Self {
        let decision = Decision::halted(original, pending.id(), approval.explain().as_ref());
        Self::Blocked(Blocked::new(request, decision, None, Some(pending)))
    }

    /// Registers the run of a permitted action with its client.
    #[must_use = "the verdict"]
    pub(crate) fn in_client(self, halts: &Halts) -> Self {
        match self {
            Self::Blocked(_) => self,
            Self::Proceed(permit) => Self::Proceed(Permit { halts: Some(halts.clone()), ..permit }),
        }
    }

    /// The verdict on an action that waited for `pending`, which `original` had required. A gate
    /// failure keeps the ledger references of `original`. The handle is kept unless this response
    /// settles the approval.
    pub(crate) fn after_approval_wait(self, original: &Decision, pending: &PendingApproval) -> Self {
        match self {
            Self::Blocked(Blocked { decision, error, approval, subject }) => {
                let decision = match &error {
                    Some(error) => Decision::for_failure_after(original, error, Some(pending.id())),
                    None => decision,
                };
                let settled = decision.reason_code().starts_with("approval.");
                let approval = approval.or_else(|| (!settled).then(|| Box::new(pending.clone())));
                Self::Blocked(Blocked { decision, error, approval, subject })
            }
            Self::Proceed(_) => self,
        }
    }

    /// Logs the verdict: a failed gate as a warning, a block as info, a permit as debug.
    pub(crate) fn log(&self, tool: &str) {
        match self {
            Self::Blocked(Blocked { error: Some(error), .. }) => {
                tracing::warn!(tool, code = error.code(), "blocked: the gate failed: {error}");
            }
            Self::Blocked(Blocked { decision, error: None, .. }) => {
                let reason_code = &*decision.reason_code();
                tracing::info!(tool, decision = decision.word().as_str(), reason_code, "blocked");
            }
            Self::Proceed(Permit { error: Some(error), .. }) => {
                tracing::warn!(
                    tool,
                    code = error.code(),
                    "permitted in monitor mode: the gate failed: {error}"
                );
            }
            Self::Proceed(Permit { decision, error: None, .. }) => {
                let reason_code = &*decision.reason_code();
                tracing::debug!(tool, decision = decision.word().as_str(), reason_code, "may run");
            }
        }
    }

    /// The decision that requires an approval, and its handle, if the action waits for one.
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
    BlockUnsigned(Unsigned),
    Run,
}

/// A blocked action, and the reason.
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
    subject: Subject,
}

/// The blocked action or tool.
#[derive(Clone, Debug)]
enum Subject {
    /// An action with its request.
    Request(PreparedAction),
    /// A tool without an action.
    Tool(Box<str>),
}

impl Blocked {
    fn new(
        request: &PreparedAction,
        decision: Decision,
        error: Option<Error>,
        approval: Option<PendingApproval>,
    ) -> Self {
        let subject = Subject::Request(request.clone());
        Self { decision, error, approval: approval.map(Box::new), subject }
    }

    /// The block of a tool to which no action is mapped: `deny`, `actpass.unmapped_tool`, in every
    /// mode. Sends nothing. `tool` is the name under which the tool was called.
    ///
    /// ```
    /// use actpass_core::Blocked;
    ///
    /// let blocked = Blocked::unmapped_tool("rm");
    /// assert_eq!(blocked.decision().reason_code(), "actpass.unmapped_tool");
    /// assert_eq!(
    ///     blocked.texts().model,
    ///     "rm was not run: deny (actpass.unmapped_tool). The tool is not available to this agent. Do not call it again.",
    /// );
    /// ```
    pub fn unmapped_tool(tool: impl Into<String>) -> Self {
        let subject = Subject::Tool(tool.into().into_boxed_str());
        Self { decision: Decision::unmapped_tool(), error: None, approval: None, subject }
    }

    /// The block of a tool whose arguments cannot be sent, such as NaN or a missing one: `deny`,
    /// `actpass.invalid_argument`, in every mode. An adapter returns its text to the model, which
    /// chose the arguments. Sends nothing.
    ///
    /// ```
    /// use actpass_core::{Blocked, Error, ErrorKind};
    ///
    /// let error = Error::new(ErrorKind::Argument, "args.amount: expected a finite number, found NaN; use null");
    /// let blocked = Blocked::invalid_argument("stripe.refund.create", error);
    /// assert_eq!(
    ///     blocked.texts().model,
    ///     "stripe.refund.create was not run: deny (actpass.invalid_argument). args.amount: expected a finite \
    ///      number, found NaN. Correct the argument. Then call it again.",
    /// );
    /// ```
    pub fn invalid_argument(tool: impl Into<String>, error: Error) -> Self {
        let subject = Subject::Tool(tool.into().into_boxed_str());
        Self { decision: Decision::invalid_argument(&error), error: Some(error), approval: None, subject }
    }

    /// The block of a call without a valid passport, at a server that requires one: `deny` with the
    /// first of `errors`, the codes of an offline verification; `passport.missing` without any. Sends
    /// nothing.
    ///
    /// ```
    /// use actpass_core::Blocked;
    ///
    /// let blocked = Blocked::invalid_passport("refunds.create", &["passport.audience".to_owned()]);
    /// assert_eq!(blocked.decision().reason_code(), "passport.audience");
    /// assert!(blocked.texts().model.contains("The passport is for another audience."));
    /// assert_eq!(Blocked::invalid_passport("t", &[]).decision().reason_code(), "passport.missing");
    /// ```
    pub fn invalid_passport(tool: impl Into<String>, errors: &[String]) -> Self {
        let subject = Subject::Tool(tool.into().into_boxed_str());
        Self { decision: Decision::invalid_passport(errors), error: None, approval: None, subject }
    }

    pub(crate) fn of(request: &PreparedAction, error: Error) -> Self {
        Self::new(request, Decision::for_failure(&error, None), Some(error), None)
    }

    /// The tool that was not used.
    pub fn tool(&self) -> &str {
        match &self.subject {
            Subject::Request(request) => request.tool(),
            Subject::Tool(tool) => tool,
        }
    }

    /// Whether the same call may succeed later unchanged: the gate failed with a retryable error,
    /// or a stop was issued between the decision and the run. Another decision is not retryable.
    pub fn is_retryable(&self) -> bool {
        self.texts().is_retryable
    }

    /// The texts for a developer and for a model.
    ///
    /// Neither contains the API key or the passport, even if the response echoes them.
    pub fn texts(&self) -> BlockTexts {
        let failure = self.error.as_ref().map(BlockFailure::from);
        let approval = self.approval().map(PendingApproval::id);
        let secrets = match &self.subject {
            Subject::Request(request) => request.secrets(),
            Subject::Tool(_) => Vec::new(),
        };
        BlockTexts::of(self.tool(), &self.decision, failure.as_ref(), approval).redacted(&secrets)
    }

    /// The decision of the gateway, or of the SDK if the gate failed.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// The gate failure; `None` if the gateway decided.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// The handle to store and resume after approval; `None` if nothing can be waited for.
    pub fn approval(&self) -> Option<&PendingApproval> {
        self.approval.as_deref()
    }
}

/// The right to run the action, once. Only the gate creates it.
///
/// ```compile_fail,E0451
/// // Not to be made by hand, ...
/// fn forge(decision: actpass_core::Decision) -> actpass_core::Permit {
///     actpass_core::Permit {
///         decision, credential: None, error: None, request: todo!(), void_after: None, epoch: None, halts: None,
///     }
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
    /// `None` if it does not expire.
    void_after: Option<Moment>,
    /// The `halt_epoch` at which it was given; `None` if the gateway does not support stops.
    epoch: Option<u64>,
    /// The running functions of the client; `None` if nothing was sent.
    halts: Option<Halts>,
}

/// Validity of a [`Permit`]: five minutes.
pub const PERMIT_VALIDITY: Duration = Duration::from_secs(5 * 60);

impl Permit {
    /// The decision under which the action may run.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Compares the action that is about to run with the evaluated one: goal, tool, resource,
    /// arguments (as text), user, audience and manifest hash. If they differ, the result is that of
    /// [`Permit::arguments_changed`].
    pub fn compare(self, now: &Action) -> Verdict {
        match self.request.action().matches_judged(now) {
            true => Verdict::Proceed(self),
            false => self.arguments_changed(),
        }
    }

    /// The verdict if the arguments differ from the evaluated ones.
    ///
    /// Blocks with the reason `actpass.arguments_changed`. In `monitor` the action still runs,
    /// without a credential: an `allow` is reported as that denial, any other decision is kept.
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

    /// Replaces an `allow` by `decision`, a denial.
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

    /// Spends the permit. Returns the action's context and the [`Settlement`] that turns its end
    /// into an [`Outcome`].
    ///
    /// A permit expires after [`PERMIT_VALIDITY`], and when its credential expires. Then the action
    /// is blocked with the reason `actpass.permit_expired`. If a stop was issued or lifted since the
    /// decision, as far as the client has seen, the reason is `actpass.halted`. In `monitor` it
    /// still runs, without a credential.
    ///
    /// # Errors
    ///
    /// The block, if the permit has expired or is older than a stop.
    pub fn spend(self, clock: &dyn Clock) -> Result<(ExecutionContext, Settlement), Box<Blocked>> {
        let seen = self.request.seen_epoch();
        let denial = match (seen > self.epoch, self.is_void(clock)) {
            (true, _) => Some(Decision::halted_since(&self.decision)),
            (false, true) => Some(Decision::permit_expired(&self.decision)),
            (false, false) => None,
        };
        let permit = match denial {
            None => self,
            Some(denial) => match self.reevaluated_with(denial) {
                Verdict::Blocked(blocked) => return Err(Box::new(blocked)),
                Verdict::Proceed(permit) => permit,
            },
        };
        let Self { decision, credential, error, request, void_after: _, epoch, halts } = permit;
        #[cfg(feature = "testing")]
        request.note_execution();
        let (running, halt) = match halts.zip(epoch.max(seen)) {
            Some((halts, epoch)) => {
                let fields = request.action().fields();
                let subject = HaltSubject { tool: fields.tool.clone(), user_id: fields.user_id.clone() };
                let (running, halt) = halts.begin(epoch, subject, clock.now());
                (Some(running), halt)
            }
            None => (None, HaltSignal::default()),
        };
        let context = ExecutionContext { decision: decision.clone(), credential, halt };
        Ok((context, Settlement { decision, error, request, running }))
    }

    fn is_void(&self, clock: &dyn Clock) -> bool {
        self.void_after.is_some_and(|last| clock.now() > last)
            || self.credential.as_ref().is_some_and(|credential| credential.has_expired(clock.wall_clock()))
    }
}

/// The context of a permitted action.
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
    halt: HaltSignal,
}

impl ExecutionContext {
    /// The decision under which the action runs.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Signals that the action was stopped while its function runs.
    pub fn halt(&self) -> &HaltSignal {
        &self.halt
    }

    /// The secret from the gateway's vault for the tool, if any.
    pub fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }
}

/// Converts the end of an action to the [`Outcome`] that the guard reports.
///
/// [`Permit::spend`] returns it; see [`Verdict`] for an example.
#[derive(Debug)]
#[must_use = "an action that ran is reported"]
pub struct Settlement {
    decision: Decision,
    error: Option<Error>,
    request: PreparedAction,
    running: Option<Running>,
}

impl Settlement {
    /// Reports the end of the function to its client.
    pub(crate) fn end(&mut self) {
        self.running = None;
    }

    /// The event that records how the action ended, for
    /// [`ActPass::record`](crate::ActPass::record): type [`ACTION_OUTCOME`], on the decision's
    /// chain, with the request's hash.
    ///
    /// `response` is the action's result, if it returned JSON; its hash is recorded.
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
            // A request without a canonical form has no hash. The ledger's own entry then
            // identifies it.
            request_hash: self.request.request_hash().ok().map(str::to_owned),
            response_hash: response.and_then(|response| hash_payload(response).ok()),
        };
        Recording { event, ended }
    }

    /// Returns the outcome of the action.
    pub fn settle<T, E>(self, ended: Result<T, E>) -> Outcome<T, E> {
        let Self { decision, error, .. } = self;
        match ended {
            Ok(result) => Outcome::Returned { decision, result, gate_error: error },
            Err(error) => Outcome::Failed { decision, error },
        }
    }
}

/// A recording of how an action ended: see [`Settlement::recording`].
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

    /// The end of the action.
    pub fn ended(&self) -> ActionEnd {
        self.ended
    }
}

/// The result of a guard.
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
#[must_use = "an outcome reports whether the action ran"]
pub enum Outcome<T, E> {
    /// The action did not run.
    Blocked(Blocked),
    /// The action ran and failed with its own error.
    Failed {
        /// The decision under which it ran.
        decision: Decision,
        /// The action's own error value.
        error: E,
    },
    /// The action ran and returned.
    Returned {
        /// The decision under which it ran.
        decision: Decision,
        /// The action's own return value.
        result: T,
        /// The gate failure, if `monitor` ran the action despite it.
        gate_error: Option<Error>,
    },
}

impl<T, E> Outcome<T, E> {
    /// The decision of the gateway, or of the SDK.
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
    /// As [`canonical_json`], if the decision contains an integer without a canonical form.
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

/// Returns `{"decision", "error": null | {"kind", "status"}, "executed"}` as canonical JSON, which
/// parity tests compare byte for byte between languages. `error` is the kind's
/// [name](ErrorKind::name) with the HTTP status, if any; or `action` for the action's own error.
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
