//! The client: its settings, its calls, and how an answer becomes a value or an error.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use serde::Serialize;
use tokio::time::Instant;

use crate::action::Action;
use crate::approval::{self, Approval, ApprovalStatus};
use crate::breaker::{Breaker, Circuit};
use crate::cause::Cause;
use crate::config::{CallOptions, Config};
use crate::decision::{Decision, Replay};
use crate::error::Error;
use crate::evidence::{EvidenceEvent, RecordedEvidence};
use crate::guard::{Answered, ExecutionContext, Outcome, Verdict};
use crate::observe::{Span, observe};
use crate::offline::{self, KeyCache, KeySet};
use crate::passport::{
    IssuedPassport, OfflineVerifyRequest, PassportRequest, Revocation, Verification, VerifyRequest,
};
use crate::prepared::PreparedAction;
use crate::redact;
use crate::request;
use crate::retry;
use crate::trace::Traceparent;
use crate::transport::{Answer, BodyError, Request, Transport};
use actpass_protocol::json::RawObject;
use actpass_protocol::token::Unverified;
use actpass_protocol::{DecisionWord, ErrorKind, Json, Operation, Secret};

/// For how long it is tried to record that an action was stopped.
const STOP_RECORDED_WITHIN: Duration = Duration::from_secs(1);

/// A client of an ActPass gateway. Cloning is cheap, and all clones share the same connections.
///
/// Its methods need a tokio runtime with its timer and I/O enabled.
///
/// ```
/// # use actpass_core::transport::FixedAnswer;
/// # async fn refund(_: &str, _: u64) -> Result<String, std::io::Error> { Ok("re_1".to_owned()) }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use actpass_core::{ActPass, Action, Outcome};
/// use serde_json::json;
///
/// let actpass = ActPass::builder().api_key("apk_dev").base_url("http://127.0.0.1:8787").build()?;
/// # let answer = FixedAnswer::new(200, r#"{"decision": "allow"}"#);
/// # let actpass = ActPass::builder().api_key("apk_dev").transport(answer).build()?;
/// let action = Action::new("resolve_refund_request", "stripe.refund.create")
///     .resource("stripe:charge:ch_123")
///     .args(json!({"amount": 4900, "currency": "usd"}));
/// match actpass.guard(&action, |_context| refund("ch_123", 4900)).await? {
///     Outcome::Returned { result, .. } => println!("refunded: {result}"),
///     Outcome::Failed { error, .. } => return Err(error.into()),
///     Outcome::Blocked(blocked) => println!("blocked: {:?}", blocked.decision().reason_code()),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ActPass(Arc<Inner>, Scope);

/// What holds for the calls of one handle of a client.
#[derive(Clone, Default)]
struct Scope {
    traceparent: Option<Traceparent>,
    options: CallOptions,
}

struct Inner {
    config: Config,
    transport: Box<dyn Transport>,
    keys: KeyCache,
    breaker: Breaker,
}

impl Inner {
    fn new(config: Config, transport: Box<dyn Transport>) -> Self {
        let breaker = Breaker::new(config.circuit_failures);
        Self { config, transport, keys: KeyCache::default(), breaker }
    }
}

impl ActPass {
    pub(crate) fn with_transport(config: Config, transport: Box<dyn Transport>) -> Self {
        Self(Arc::new(Inner::new(config, transport)), Scope::default())
    }

    /// The same client, whose calls are part of the trace that `traceparent` names: they carry it to the gateway.
    #[must_use]
    pub fn in_trace(&self, traceparent: Traceparent) -> Self {
        Self(Arc::clone(&self.0), Scope { traceparent: Some(traceparent), ..self.1.clone() })
    }

    /// The same client, whose calls have these limits; it shares the connections and the circuit breaker of this one.
    ///
    /// ```
    /// # use actpass_core::transport::FixedAnswer;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::{ActPass, Action, CallOptions};
    /// use std::time::Duration;
    ///
    /// let answer = FixedAnswer::new(200, r#"{"decision": "allow"}"#);
    /// let actpass = ActPass::builder().api_key("apk_dev").transport(answer).build()?;
    /// let quick = actpass.with_options(CallOptions::new(Some(Duration::from_secs(2)), Some(0))?);
    /// quick.preflight(&Action::new("resolve_refund_request", "stripe.refund.create")).await?;
    /// # Ok::<(), actpass_core::Error>(())
    /// # }).unwrap();
    /// ```
    #[must_use]
    pub fn with_options(&self, options: CallOptions) -> Self {
        let options = options.or(self.1.options);
        Self(Arc::clone(&self.0), Scope { options, ..self.1.clone() })
    }

    fn timeout(&self) -> Duration {
        self.1.options.timeout().unwrap_or(self.0.config.timeout)
    }

    fn max_retries(&self) -> u32 {
        self.1.options.max_retries().unwrap_or(self.0.config.max_retries)
    }

    /// Whether calls go to the gateway. After some that could not reach it ([`ActPassBuilder::circuit_failures`](crate::ActPassBuilder::circuit_failures)) calls are
    /// refused at once for a while, as [`ErrorKind::Connection`] with [`retry_after`](Error::retry_after), and then one at a
    /// time tries whether it is back.
    pub fn circuit(&self) -> Circuit {
        self.0.breaker.circuit()
    }

    /// The gateway's URL, without a trailing slash.
    pub fn base_url(&self) -> &str {
        self.0.config.base_url.as_str()
    }

    /// The agent's name.
    pub fn agent_id(&self) -> &str {
        &self.0.config.agent_id
    }

    /// Asks the gateway whether `action` may run, and runs nothing.
    ///
    /// A 401 or 403 whose body is a decision other than `allow` is that decision.
    ///
    /// # Errors
    ///
    /// Any kind of [`ErrorKind`] but [`Config`](ErrorKind::Config): no decision is made up here.
    ///
    /// ```
    /// # use actpass_core::transport::FixedAnswer;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::{ActPass, Action, DecisionWord};
    ///
    /// let answer = FixedAnswer::new(200, r#"{"decision": "require_approval", "approval_request_id": "apr_1"}"#);
    /// let actpass = ActPass::builder().api_key("apk_dev").transport(answer).build()?;
    /// let decision = actpass.preflight(&Action::new("resolve_refund_request", "stripe.refund.create")).await?;
    /// assert_eq!(decision.word(), &DecisionWord::RequireApproval);
    /// assert_eq!(decision.approval_request_id().as_deref(), Some("apr_1"));
    /// # Ok::<(), actpass_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn preflight(&self, action: &Action) -> Result<Decision, Error> {
        let request = self.prepare(action.clone())?;
        self.ask(&request).await.map(|answered| answered.decision)
    }

    /// Checks `action` and writes its request. Nothing is sent.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`] for what cannot be sent, naming the member.
    ///
    /// ```
    /// # use actpass_core::transport::FixedAnswer;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::{ActPass, Action, Verdict};
    ///
    /// let answer = FixedAnswer::new(200, r#"{"decision": "deny"}"#);
    /// let actpass = ActPass::builder().api_key("apk_dev").transport(answer).build()?;
    /// assert!(actpass.prepare(Action::new("resolve_refund_request", "")).is_err());
    /// let prepared = actpass.prepare(Action::new("resolve_refund_request", "stripe.refund.create"))?;
    /// assert!(matches!(actpass.authorize_prepared(&prepared).await, Verdict::Blocked(_)));
    /// # Ok::<(), actpass_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn prepare(&self, action: Action) -> Result<PreparedAction, Error> {
        PreparedAction::new(action, &self.0.config)
    }

    /// Asks the gateway whether `action` may run, and rules on the answer. This is the gate: see [`crate::guard`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`] for what cannot be sent, and nothing else: a gate that fails is a verdict.
    ///
    /// An action that needs an approval, and [waits for it](Action::wait_for_approval), is held: as soon as a person
    /// approved it, the very same action is asked about again, naming the approval, and that answer rules. One that is
    /// rejected, expires or is not decided in time is blocked with that reason. A gateway that cannot be reached
    /// meanwhile is asked again until the time is over.
    pub async fn authorize(&self, action: &Action) -> Result<Verdict, Error> {
        Ok(self.authorize_prepared(&self.prepare(action.clone())?).await)
    }

    /// As [`ActPass::authorize`], for an action that was checked before. It cannot fail: a gate that fails is a verdict.
    pub async fn authorize_prepared(&self, request: &PreparedAction) -> Verdict {
        let verdict = self.rule_or_hold(request).await;
        observe(|| verdict.log(request.tool()));
        verdict
    }

    async fn rule_or_hold(&self, request: &PreparedAction) -> Verdict {
        let action = request.action().members();
        let verdict = self.rule(request).await;
        let (Some(wait), Some((asked, pending))) = (action.wait_for_approval, verdict.pending()) else {
            return verdict;
        };
        // The caller's key identifies the action before and after the approval: a gateway repeats nothing but an `allow`.
        let mut approved = pending.action();
        let members = approved.members_mut();
        members.passport.clone_from(&action.passport);
        members.idempotency_key.clone_from(&action.idempotency_key);
        match self.wait_for_approval(pending.id(), wait).await.map(|approval| approval.status()) {
            Ok(ApprovalStatus::Approved) => match self.prepare(approved) {
                Ok(approved) => self.rule(&approved).await.held_for(asked, pending),
                Err(error) => Verdict::of(request, Err(error)).held_for(asked, pending),
            },
            Ok(status) => Verdict::unapproved(asked, pending.clone(), status),
            Err(error) => Verdict::of(request, Err(error)).held_for(asked, pending),
        }
    }

    /// One question and its verdict.
    async fn rule(&self, request: &PreparedAction) -> Verdict {
        let gate = self.ask(request).await;
        Verdict::of(request, gate)
    }

    /// Waits until somebody decided about the approval `id`, for `wait` at most, and says where it stands then. It may
    /// still be pending; with a `wait` of zero that is one look.
    ///
    /// The gateway holds each look for up to 25 s; a look that fails in a way that may pass is repeated until the time
    /// is over.
    ///
    /// # Errors
    ///
    /// As [`ActPass::preflight`], of the last look.
    pub async fn wait_for_approval(&self, id: &str, wait: Duration) -> Result<Approval, Error> {
        let until = Instant::now() + wait.min(approval::LONGEST_WAIT);
        loop {
            let began = Instant::now();
            let left = until.saturating_duration_since(began);
            // A look must be answered within the deadline of its call.
            let held = left.min(approval::LONGEST_LOOK).min(self.timeout().mul_f64(0.8));
            let request =
                Request { below: approval::below(id, held)?, ..Request::new(Operation::Approval, "") };
            let looked = self.answer(request, None, |document| Approval::parse(document, id)).await;
            let goes_on = match &looked {
                Ok(approval) => approval.status() == ApprovalStatus::Pending,
                Err(error) => error.is_retryable(),
            };
            if !goes_on || left.is_zero() {
                return looked;
            }
            let pause = looked.err().and_then(|error| error.retry_after()).unwrap_or(approval::BETWEEN_LOOKS);
            tokio::time::sleep_until((began + pause).min(until)).await;
        }
    }

    /// Runs `execute` if `action` may run, and reports what happened.
    ///
    /// `execute` runs at most once, after the verdict. A gate that fails is no error of this method: it is reported in
    /// the [`Outcome`].
    ///
    /// # Errors
    ///
    /// As [`ActPass::authorize`].
    pub async fn guard<T, E, F, R>(&self, action: &Action, execute: F) -> Result<Outcome<T, E>, Error>
    where
        F: FnOnce(ExecutionContext) -> R,
        R: Future<Output = Result<T, E>>,
    {
        match self.authorize(action).await? {
            Verdict::Blocked(blocked) => Ok(Outcome::Blocked(blocked)),
            Verdict::Proceed(permit) => {
                let (context, settlement) = permit.spend();
                Ok(settlement.settle(execute(context).await))
            }
        }
    }

    /// As [`ActPass::guard`], and records how the action ended in the ledger, on the decision's chain: see
    /// [`Settlement::evidence`](crate::Settlement::evidence). The result's hash is recorded where it serializes to JSON that
    /// has a canonical form.
    ///
    /// What came of recording is told beside the outcome, and `None` where nothing ran; a failure to record changes nothing
    /// about the outcome.
    ///
    /// # Errors
    ///
    /// As [`ActPass::authorize`].
    ///
    /// ```
    /// # use actpass_core::transport::{Answer, Request, SendFuture, Transport};
    /// # use actpass_core::Operation;
    /// # #[derive(Debug)] struct Gateway;
    /// # impl Transport for Gateway { fn send(&self, request: Request) -> SendFuture<'_> {
    /// #     Box::pin(async move { Ok(Answer::new(200, match request.operation {
    /// #         Operation::Preflight => r#"{"decision":"allow"}"#,
    /// #         _ => r#"{"event_id":"ev_2","current_event_hash":"ab"}"#,
    /// #     })) }) } }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::{ActPass, Action};
    ///
    /// # let actpass = ActPass::builder().api_key("apk_dev").transport(Gateway).build()?;
    /// let action = Action::new("resolve_refund_request", "stripe.refund.create");
    /// let (outcome, recorded) = actpass.guard_and_record(&action, async |_| Ok::<_, ()>("refunded")).await?;
    /// assert!(outcome.executed());
    /// assert_eq!(recorded.unwrap()?.event_id(), "ev_2");
    /// # Ok::<(), actpass_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn guard_and_record<T, E, F, R>(
        &self,
        action: &Action,
        execute: F,
    ) -> Result<(Outcome<T, E>, Option<Result<RecordedEvidence, Error>>), Error>
    where
        T: Serialize,
        F: FnOnce(ExecutionContext) -> R,
        R: Future<Output = Result<T, E>>,
    {
        match self.authorize(action).await? {
            Verdict::Blocked(blocked) => Ok((Outcome::Blocked(blocked), None)),
            Verdict::Proceed(permit) => {
                let (context, settlement) = permit.spend();
                let ended = execute(context).await;
                // What its serialization does, a panic included, changes nothing about what the action returned.
                let response =
                    ended.as_ref().ok().and_then(|result| observe(|| serde_json::to_vec(result).ok())?);
                let response = response.and_then(|json| Json::parse(&json).ok());
                let event = settlement.evidence(ended.is_ok(), response.as_ref());
                let recorded = self.record_evidence(&event).await;
                Ok((settlement.settle(ended), Some(recorded)))
            }
        }
    }

    /// Asks for a passport. It is not retried where the gateway may have taken the request.
    ///
    /// # Errors
    ///
    /// As [`ActPass::preflight`].
    ///
    /// ```
    /// # use actpass_core::transport::FixedAnswer;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::{ActPass, PassportRequest};
    ///
    /// let answer = FixedAnswer::new(200, r#"{"token": "eyJ.a.b", "jwks_uri": "https://gateway.example/jwks"}"#);
    /// let actpass = ActPass::builder().api_key("apk_dev").transport(answer).build()?;
    /// let wanted = PassportRequest::new("mcp://stripe-production", "resolve_refund_request", ["stripe.refund.create"]);
    /// let passport = actpass.issue_passport(&wanted).await?;
    /// assert_eq!(passport.token(), "eyJ.a.b");
    /// # Ok::<(), actpass_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn issue_passport(&self, wanted: &PassportRequest) -> Result<IssuedPassport, Error> {
        let body = request::issue(wanted, &self.0.config.agent_id)?;
        let request = Request::new(Operation::IssuePassport, body);
        self.answer(request, None, |document| IssuedPassport::parse(&document)).await
    }

    /// Has the gateway verify a passport.
    ///
    /// # Errors
    ///
    /// As [`ActPass::preflight`]; a passport that is not valid is no error.
    ///
    /// ```
    /// # use actpass_core::transport::FixedAnswer;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::{ActPass, VerifyRequest};
    ///
    /// let answer = FixedAnswer::new(200, r#"{"valid": false, "errors": ["passport.expired"]}"#);
    /// let actpass = ActPass::builder().api_key("apk_dev").transport(answer).build()?;
    /// let verified = actpass.verify_passport(&VerifyRequest::new("eyJ.a.b", "mcp://stripe-production")).await?;
    /// assert!(!verified.is_valid());
    /// assert_eq!(verified.errors(), ["passport.expired"]);
    /// # Ok::<(), actpass_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn verify_passport(&self, wanted: &VerifyRequest) -> Result<Verification, Error> {
        let body = request::verify(wanted)?;
        let request = Request::new(Operation::VerifyPassport, body);
        self.answer(request, Some(&wanted.token), Verification::parse).await
    }

    /// Verifies a passport with the gateway's public keys, which are fetched once and kept: see
    /// [`OfflineVerifyRequest`]. It does not see that a passport was revoked or spent; the gateway does.
    ///
    /// The keys are fetched again after 10 minutes, and at once for a key id that is not among them, but not more than once
    /// in a second: a call within that second waits for its end. If fetching fails, the keys at hand serve until they are an
    /// hour old.
    ///
    /// # Errors
    ///
    /// As [`ActPass::preflight`], where there are no keys to verify with; a passport that is not valid is no error.
    ///
    /// ```
    /// # use actpass_core::transport::FixedAnswer;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::{ActPass, OfflineVerifyRequest};
    ///
    /// let actpass =
    ///     ActPass::builder().api_key("apk_dev").transport(FixedAnswer::new(200, r#"{"keys": []}"#)).build()?;
    /// let wanted = OfflineVerifyRequest::new("not.a.passport", "mcp://stripe-production");
    /// assert_eq!(actpass.verify_passport_offline(&wanted).await?.errors(), ["passport.malformed"]);
    /// # Ok::<(), actpass_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn verify_passport_offline(
        &self,
        wanted: &OfflineVerifyRequest,
    ) -> Result<Verification, Error> {
        request::needed("token", wanted.token.expose())?;
        request::needed("audience", &wanted.audience)?;
        let passport = match Unverified::passport(wanted.token.expose()) {
            Ok(passport) => passport,
            Err(refusal) => return Ok(Verification::of(Err(vec![refusal]))),
        };
        let fetch = async || {
            let request = Request::new(Operation::Jwks, "");
            self.answer(request, None, |set| KeySet::read(&set).map_err(str::to_owned)).await
        };
        let keys = self.0.keys.find(passport.kid(), fetch).await?;
        let config = &self.0.config;
        let hint = config.tenant_id.as_ref().and_then(|id| id.to_str().ok());
        let expected = offline::Expected {
            issuer: wanted.issuer.as_deref().or(keys.issuer()).unwrap_or(config.base_url.as_str()),
            tenant_id: wanted.tenant_id.as_deref().or(keys.tenant_id()).or(hint),
            wanted,
            now: SystemTime::now(),
        };
        let key = keys.find(passport.kid());
        Ok(Verification::of(offline::verify(passport, key, &expected)))
    }

    /// Revokes the passport named `jti`, for `reason`.
    ///
    /// # Errors
    ///
    /// As [`ActPass::preflight`].
    ///
    /// ```
    /// # use actpass_core::transport::FixedAnswer;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::ActPass;
    ///
    /// let actpass =
    ///     ActPass::builder().api_key("apk_dev").transport(FixedAnswer::new(200, r#"{"revoked": true}"#)).build()?;
    /// assert!(actpass.revoke_passport("ap_1", Some("session ended")).await?.is_revoked());
    /// # Ok::<(), actpass_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn revoke_passport(&self, jti: &str, reason: Option<&str>) -> Result<Revocation, Error> {
        let body = request::revoke(jti, reason)?;
        self.answer(Request::new(Operation::RevokePassport, body), None, Revocation::parse).await
    }

    /// Appends an event to a chain of the ledger. It is not retried where the gateway may have taken the request.
    ///
    /// # Errors
    ///
    /// As [`ActPass::preflight`].
    ///
    /// ```
    /// # use actpass_core::transport::FixedAnswer;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::{ActPass, EvidenceEvent};
    ///
    /// let answer = FixedAnswer::new(200, r#"{"event_id": "ev_1", "current_event_hash": "ab12"}"#);
    /// let actpass = ActPass::builder().api_key("apk_dev").transport(answer).build()?;
    /// let recorded = actpass.record_evidence(&EvidenceEvent::new("refund.sent", "case_42")).await?;
    /// assert_eq!(recorded.event_id(), "ev_1");
    /// # Ok::<(), actpass_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn record_evidence(&self, event: &EvidenceEvent) -> Result<RecordedEvidence, Error> {
        let body = request::evidence(event)?;
        self.answer(Request::new(Operation::RecordEvidence, body), None, RecordedEvidence::parse).await
    }

    /// Records that an action was stopped: [`ActPass::record_evidence`], given up after one second, because the
    /// program that was stopped does not wait for it.
    ///
    /// # Errors
    ///
    /// As [`ActPass::record_evidence`]; [`ErrorKind::Timeout`] after one second.
    pub async fn record_stop(&self, event: &EvidenceEvent) -> Result<RecordedEvidence, Error> {
        tokio::time::timeout(STOP_RECORDED_WITHIN, self.record_evidence(event)).await.unwrap_or_else(
            |_elapsed| {
                let problem = format!("no answer within {} s", STOP_RECORDED_WITHIN.as_secs_f64());
                Err(Error::new(ErrorKind::Timeout, problem).with_operation(Operation::RecordEvidence))
            },
        )
    }

    /// The preflight and what its answer means. A decision counts in a 2xx answer; in a 401 or 403 it does unless it is
    /// an `allow`.
    async fn ask(&self, request: &PreparedAction) -> Result<Answered, Error> {
        let operation = Operation::Preflight;
        let passport = request.action().members().passport.as_ref();
        let (answer, lost) = self.call(Request::new(operation, request.body().clone())).await?;
        let request_id = self.request_id(&answer, passport);
        let malformed = |problem: String| (Cause::Malformed, problem);
        let decided = answer.body.as_ref().map_err(|problem| (problem.cause(), problem.to_string()));
        let decided = decided.and_then(|answered| {
            let (decision, credential) = Decision::parse_with_credential(answered).map_err(|problem| {
                let cause = RawObject::parse(answered).map_or(Cause::NotAnObject, |_| Cause::Malformed);
                (cause, problem)
            })?;
            let decision = decision.with_request_id(request_id.clone());
            let bound = decision.is_bound(request)?;
            let replay = decision.replay().map_err(malformed)?;
            let repeats_another = replay.is_some_and(|replay| !lost.got(replay, request.has_own_key()));
            Ok(Answered { decision, credential, refused: !is_success(answer.status), bound, repeats_another })
        });
        match decided {
            Ok(answered) if !answered.refused => Ok(answered),
            Ok(answered)
                if matches!(answer.status, 401 | 403) && *answered.decision.word() != DecisionWord::Allow =>
            {
                Ok(answered)
            }
            Err((cause, problem)) if is_success(answer.status) => {
                let error = invalid(operation, &format!("not a decision: {problem}"));
                Err(error.with_cause(cause).with_request_id(request_id))
            }
            Ok(_) | Err(_) => Err(self.refusal(operation, &answer, passport)),
        }
    }

    /// A call whose 2xx answer is a JSON object, as `parse` reads it.
    async fn answer<T>(
        &self,
        request: Request,
        token: Option<&Secret>,
        parse: impl FnOnce(RawObject) -> Result<T, String>,
    ) -> Result<T, Error> {
        let operation = request.operation;
        let (answer, _) = self.call(request).await?;
        if !is_success(answer.status) {
            return Err(self.refusal(operation, &answer, token));
        }
        let request_id = self.request_id(&answer, token);
        let body = answer.body.map_err(|problem: BodyError| problem.to_string());
        body.and_then(|body| RawObject::parse(&body))
            .and_then(parse)
            .map_err(|problem| invalid(operation, &problem).with_request_id(request_id))
    }

    /// The `x-request-id` of an answer. A gateway that repeats a secret in it does not get it into a log.
    fn request_id(&self, answer: &Answer, token: Option<&Secret>) -> Option<String> {
        answer.request_id.as_ref().map(|id| redact::text(id, &self.secrets(token)))
    }

    /// What must not show in texts about a call that carries `token`.
    fn secrets<'s>(&'s self, token: Option<&'s Secret>) -> Vec<&'s Secret> {
        std::iter::once(&self.0.config.api_key).chain(token).collect()
    }

    /// One call: attempts, waits and all under one deadline, and a panic no further than here.
    async fn call(&self, request: Request) -> Result<(Answer, LostAttempts), Error> {
        let request = Request { traceparent: self.1.traceparent.clone(), ..request };
        let operation = request.operation;
        let span = Span::new(|| {
            tracing::debug_span!(
                "actpass.call",
                operation = operation.name(),
                attempts = tracing::field::Empty,
                status = tracing::field::Empty,
                error = tracing::field::Empty,
            )
        });
        let admission = self.0.breaker.admit().map_err(|error| {
            span.record("error", error.code());
            error.with_operation(operation)
        })?;
        let timeout = self.timeout();
        let deadline = Instant::now() + timeout;
        let attempts = AssertUnwindSafe(self.attempts(request, deadline, &span)).catch_unwind();
        let ended = match span.around(tokio::time::timeout_at(deadline, attempts)).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(_panic)) => Err(Error::new(ErrorKind::Internal, "a panic in the SDK")),
            Err(_elapsed) => Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "no answer from {} within {} s{}",
                    self.0.config.base_url.as_str(),
                    timeout.as_secs_f64(),
                    self.0.config.through,
                ),
            )),
        };
        admission.settle(ended.as_ref().err());
        match &ended {
            Ok((answer, _)) => span.record("status", answer.status),
            Err(error) => span.record("error", error.code()),
        };
        let (status, code) =
            (ended.as_ref().ok().map(|(answer, _)| answer.status), ended.as_ref().err().map(Error::code));
        span.event(|span| {
            tracing::debug!(parent: span, operation = operation.name(), status, code, "the call ended");
        });
        ended.map_err(|error| error.with_operation(operation))
    }

    async fn attempts(
        &self,
        request: Request,
        deadline: Instant,
        span: &Span,
    ) -> Result<(Answer, LostAttempts), Error> {
        let mut retry = 0;
        let mut lost = LostAttempts::default();
        loop {
            let began = Instant::now();
            let attempt = self.0.transport.send(Request { retry, ..request.clone() }).await;
            let again = retry < self.max_retries() && retry::permits(request.operation, &attempt);
            let wait = again
                .then(|| retry::wait(retry, attempt.as_ref().ok().and_then(retry_after)))
                // A wait that the deadline cuts off would turn a known failure into a time-out.
                .filter(|wait| Instant::now() + *wait < deadline);
            let Some(wait) = wait else {
                span.record("attempts", retry + 1);
                return match attempt {
                    Ok(answer) => {
                        lost.answered = Some(began + answer.connected_after);
                        Ok((answer, lost))
                    }
                    Err(failure) => Err(failure.error),
                };
            };
            if retry::may_be_taken(&attempt) {
                lost.first.get_or_insert(began);
            }
            observe(|| {
                tracing::debug!(retry = retry + 1, wait_ms = wait.as_secs_f64() * 1e3, "trying again");
            });
            tokio::time::sleep(wait).await;
            retry += 1;
        }
    }

    /// The error of an answer outside 2xx.
    fn refusal(&self, operation: Operation, answer: &Answer, token: Option<&Secret>) -> Error {
        let kind = match answer.status {
            401 => ErrorKind::Authentication,
            403 => ErrorKind::Permission,
            429 => ErrorKind::RateLimit,
            _ => ErrorKind::Status,
        };
        let body = answer.body.as_ref().ok().and_then(|body| redact::body(body, &self.secrets(token)));
        let said = body.as_deref().and_then(said).map(|said| format!(": {said}")).unwrap_or_default();
        let request_id = self.request_id(answer, token);
        Error::new(kind, format!("the gateway answered {}{said}", answer.status))
            .with_operation(operation)
            .with_answer(answer.status, body, request_id, retry_after(answer))
    }
}

impl fmt::Debug for ActPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActPass")
            .field("base_url", &self.0.config.base_url.as_str())
            .field("agent_id", &self.0.config.agent_id)
            .finish_non_exhaustive()
    }
}

/// The attempts of a call before the last one that the gateway may have taken, their answers lost.
#[derive(Clone, Copy, Debug, Default)]
struct LostAttempts {
    /// When the first of them began.
    first: Option<Instant>,
    /// When the attempt that was answered had a connection, so before the gateway got it.
    answered: Option<Instant>,
}

impl LostAttempts {
    /// Whether the answer that the gateway now repeats was the answer to a lost attempt.
    ///
    /// An answer that was recorded before the first lost attempt began was older than the time from there to the attempt that
    /// got it again. How long that one took to arrive says nothing. A key of the SDK's own is no other call's, so for it the
    /// answer may have been recorded up to now.
    fn got(&self, replay: Replay, is_own_key: bool) -> bool {
        let until = if is_own_key { Some(Instant::now()) } else { self.answered };
        let (Some(began), Some(until)) = (self.first, until) else { return false };
        let most = until.saturating_duration_since(began).as_nanos().div_ceil(1_000_000);
        replay.age_ms.is_none_or(|age| u128::from(age) <= most)
    }
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

fn invalid(operation: Operation, problem: &str) -> Error {
    let error = Error::new(ErrorKind::Response, format!("the gateway's answer cannot be used: {problem}"))
        .with_operation(operation);
    match operation {
        Operation::Approval => error.with_cause(Cause::NotAnApproval),
        Operation::Preflight
        | Operation::IssuePassport
        | Operation::VerifyPassport
        | Operation::RevokePassport
        | Operation::RecordEvidence
        | Operation::Jwks => error,
    }
}

fn retry_after(answer: &Answer) -> Option<Duration> {
    retry::parse_retry_after(answer.retry_after.as_deref()?, SystemTime::now())
}

/// The message in a gateway's `{"error": {"message"}}`, in one line of bounded length.
fn said(body: &str) -> Option<String> {
    let error = RawObject::parse(body.as_bytes()).ok()?.member("error")?;
    let message = error.member("message").and_then(Json::as_str)?;
    Some(message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect())
}
