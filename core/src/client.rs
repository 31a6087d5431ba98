//! The client: its settings, its calls, and how an answer becomes a value or an error.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use tokio::time::Instant;
use uuid::{NoContext, Timestamp, Uuid};

use crate::action::Action;
use crate::approval::{self, Approval, ApprovalStatus};
use crate::breaker::{Breaker, Circuit, DEFAULT_CIRCUIT_FAILURES};
use crate::cause::Cause;
use crate::config::{self, BaseUrl, CallOptions, Config, Way};
use crate::decision::{Decision, DecisionWord, Replay};
use crate::error::{Error, ErrorKind};
use crate::evidence::{EvidenceEvent, RecordedEvidence};
use crate::guard::{Answered, ExecutionContext, Mode, Outcome, Verdict};
use crate::json::{Document, Json};
use crate::observe::{Span, observe};
use crate::offline::{self, KeyCache, KeySet};
use crate::passport::{
    IssuedPassport, OfflineVerifyRequest, PassportRequest, Revocation, Verification, VerifyRequest,
};
use crate::redact;
use crate::request;
use crate::retry;
use crate::secret::Secret;
use crate::tls::CaVariable;
use crate::token::Unverified;
use crate::trace::Traceparent;
use crate::transport::{Answer, BodyError, HttpTransport, Request, Transport};

/// For how long it is tried to record that an action was stopped.
const STOP_RECORDED_WITHIN: Duration = Duration::from_secs(1);

/// A client of an ActPass gateway. Cloning is cheap, and all clones share the same connections.
///
/// Its methods need a tokio runtime with its timer and I/O enabled; [`crate::runtime::Host`] brings one to programs that
/// have none.
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
    /// Begins to set up a client.
    pub fn builder() -> ActPassBuilder {
        ActPassBuilder::default()
    }

    pub(crate) fn with_config(config: Config) -> Self {
        let transport = Box::new(HttpTransport::new(&config));
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

    /// Whether calls go to the gateway. After some that could not reach it ([`ActPassBuilder::circuit_failures`]) calls are
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
        let body = self.preflight_body(action)?;
        self.ask(action, body).await.map(|answered| answered.decision)
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
        let verdict = self.authorize_or_hold(action).await?;
        observe(|| verdict.log(action));
        Ok(verdict)
    }

    async fn authorize_or_hold(&self, action: &Action) -> Result<Verdict, Error> {
        let verdict = self.rule(action).await?;
        let (Some(wait), Some((asked, pending))) = (action.wait_for_approval, verdict.pending()) else {
            return Ok(verdict);
        };
        // The caller's key identifies the action before and after the approval: a gateway repeats nothing but an `allow`.
        let approved = Action {
            passport: action.passport.clone(),
            idempotency_key: action.idempotency_key.clone(),
            ..pending.action()
        };
        match self.wait_for_approval(pending.id(), wait).await.map(|approval| approval.status()) {
            Ok(ApprovalStatus::Approved) => Ok(self.rule(&approved).await?.held_for(asked, pending)),
            Ok(status) => Ok(Verdict::unapproved(asked, pending.clone(), status)),
            Err(error) => Ok(self.unasked(&approved, error)?.held_for(asked, pending)),
        }
    }

    /// One question and its verdict.
    async fn rule(&self, action: &Action) -> Result<Verdict, Error> {
        let body = self.preflight_body(action)?;
        let gate = self.ask(action, body.clone()).await;
        Ok(Verdict::of(self.mode(action), action, body, gate))
    }

    fn mode(&self, action: &Action) -> Mode {
        action.mode.unwrap_or(self.0.config.mode)
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

    /// Rules on an `action` about which a host language could not even ask: no thread was to be had, or a panic or a drop
    /// ended the call. Such a gate failed like any other: it blocks, and lets `monitor` run.
    ///
    /// # Errors
    ///
    /// As [`ActPass::authorize`].
    ///
    /// ```
    /// use actpass_core::{ActPass, Action, Error, ErrorKind, Verdict};
    ///
    /// let actpass = ActPass::builder().api_key("apk_dev").build()?;
    /// let lost = Error::new(ErrorKind::Internal, "no thread");
    /// let ruled = actpass.unasked(&Action::new("resolve_refund_request", "stripe.refund.create"), lost)?;
    /// assert!(matches!(ruled, Verdict::Blocked(_)));
    /// # Ok::<(), actpass_core::Error>(())
    /// ```
    pub fn unasked(&self, action: &Action, failure: Error) -> Result<Verdict, Error> {
        let body = self.preflight_body(action)?;
        Ok(Verdict::of(self.mode(action), action, body, Err(failure)))
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

    fn preflight_body(&self, action: &Action) -> Result<Bytes, Error> {
        let key = match &action.idempotency_key {
            Some(key) => Cow::Borrowed(key.as_str()),
            // From the operating system's randomness, without a shared counter: unique across a fork.
            None => Cow::Owned(Uuid::new_v7(Timestamp::now(NoContext)).to_string()),
        };
        request::preflight(action, &self.0.config.agent_id, self.mode(action), &key)
    }

    /// The preflight and what its answer means. A decision counts in a 2xx answer; in a 401 or 403 it does unless it is
    /// an `allow`.
    async fn ask(&self, action: &Action, body: Bytes) -> Result<Answered, Error> {
        let operation = Operation::Preflight;
        let passport = action.passport.as_ref();
        let (answer, lost) = self.call(Request::new(operation, body.clone())).await?;
        let request_id = self.request_id(&answer, passport);
        let malformed = |problem: String| (Cause::Malformed, problem);
        let decided = answer.body.as_ref().map_err(|problem| (problem.cause(), problem.to_string()));
        let decided = decided.and_then(|answered| {
            let (decision, credential) = Decision::parse_with_credential(answered).map_err(|problem| {
                let cause = Document::parse(answered).map_or(Cause::NotAnObject, |_| Cause::Malformed);
                (cause, problem)
            })?;
            let decision = decision.with_request_id(request_id.clone());
            let bound = decision.is_bound(&body)?;
            let replay = decision.replay().map_err(malformed)?;
            let repeats_another =
                replay.is_some_and(|replay| !lost.got(replay, action.idempotency_key.is_none()));
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
        parse: impl FnOnce(Document) -> Result<T, String>,
    ) -> Result<T, Error> {
        let operation = request.operation;
        let (answer, _) = self.call(request).await?;
        if !is_success(answer.status) {
            return Err(self.refusal(operation, &answer, token));
        }
        let request_id = self.request_id(&answer, token);
        let body = answer.body.map_err(|problem: BodyError| problem.to_string());
        body.and_then(|body| Document::parse(&body))
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
                    self.0.config.way.through(),
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
    let error = Document::parse(body.as_bytes()).ok()?.member("error")?;
    let message = error.member("message").and_then(Json::as_str)?;
    Some(message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect())
}

/// The settings of a client to be; see [`ActPass::builder`].
///
/// ```
/// use actpass_core::{ActPass, Mode};
/// use std::time::Duration;
///
/// let actpass = ActPass::builder()
///     .api_key("apk_1234")
///     .base_url("https://gateway.example")
///     .timeout(Duration::from_secs(10))
///     .mode(Mode::Strict)
///     .build()?;
/// assert!(!format!("{actpass:?}").contains("apk_1234"));
/// assert!(ActPass::builder().api_key("apk_1234").base_url("http://gateway.example").build().is_err());
/// # Ok::<(), actpass_core::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct ActPassBuilder {
    api_key: Option<Secret>,
    tenant_id: Option<String>,
    agent_id: Option<String>,
    base_url: Option<String>,
    timeout: Option<Duration>,
    connect_timeout: Option<Duration>,
    circuit_failures: Option<u32>,
    max_retries: Option<u32>,
    mode: Mode,
    ca: Option<Vec<u8>>,
    ca_variables: Vec<CaVariable>,
    allow_insecure_http: bool,
    user_agent: Option<String>,
    transport: Option<Box<dyn Transport>>,
}

impl ActPassBuilder {
    /// Sets the API key; by default the environment variable `ACTPASS_API_KEY` holds it.
    #[must_use]
    pub fn api_key(mut self, key: impl Into<Secret>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// Sets the tenant, a routing hint; none by default. The gateway goes by the key.
    #[must_use]
    pub fn tenant_id(mut self, tenant_id: impl Into<String>) -> Self {
        self.tenant_id = Some(tenant_id.into());
        self
    }

    /// Sets the agent's name, which must not be empty; `sdk` by default.
    #[must_use]
    pub fn agent_id(mut self, agent_id: impl Into<String>) -> Self {
        self.agent_id = Some(agent_id.into());
        self
    }

    /// Sets the gateway's URL; by default the environment variable `ACTPASS_API_BASE_URL` holds it, and otherwise it is
    /// [`DEFAULT_BASE_URL`](crate::DEFAULT_BASE_URL).
    #[must_use]
    pub fn base_url(mut self, base_url: impl Into<String>) -> Self {
        self.base_url = Some(base_url.into());
        self
    }

    /// Sets the total deadline of a call, retries and waits included; 30 s by default, one day at most.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the longest that one attempt may take to connect; 5 s by default.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    /// Sets how often a call is tried again at most; 2 by default, 10 at most.
    #[must_use]
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.max_retries = Some(retries);
        self
    }

    /// Sets how many calls in a row must fail to reach the gateway for the circuit to open: see [`ActPass::circuit`]; 5 by
    /// default, and 0 turns it off.
    #[must_use]
    pub fn circuit_failures(mut self, failures: u32) -> Self {
        self.circuit_failures = Some(failures);
        self
    }

    /// Sets the mode of actions that name none; [`Mode::Enforce`] by default.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Trusts the certificates in this PEM text as well: as authorities, and each as a server's own certificate too.
    ///
    /// Otherwise trusted are the authorities of the file that `SSL_CERT_FILE` names and the directories that
    /// `SSL_CERT_DIR` names, if one of the two is set; else those of the system; else, where the system has none,
    /// those bundled with this library.
    #[must_use]
    pub fn ca(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(pem.into());
        self
    }

    /// Names the environment variables by which the clients of a host language name certificate authorities, for
    /// bindings to it; none by default. Like `SSL_CERT_FILE`, a variable that names what cannot be read is an error.
    #[must_use]
    pub fn ca_variables(mut self, variables: impl IntoIterator<Item = CaVariable>) -> Self {
        self.ca_variables = variables.into_iter().collect();
        self
    }

    /// Permits plain http to another host than this one, where everyone on the way can read the API key and forge
    /// decisions.
    #[must_use]
    pub fn danger_allow_insecure_http(mut self, allow: bool) -> Self {
        self.allow_insecure_http = allow;
        self
    }

    /// Sets the `user-agent` header; `actpass-rust/VERSION` by default.
    #[must_use]
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = Some(user_agent.into());
        self
    }

    /// Sets what carries the calls, instead of HTTP.
    #[must_use]
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.transport = Some(Box::new(transport));
        self
    }

    /// Makes the client. Nothing is sent.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`], naming the setting and what was expected.
    pub fn build(mut self) -> Result<ActPass, Error> {
        match self.transport.take() {
            Some(transport) => {
                let config = self.config_with(|_, _, _| Way::none())?;
                Ok(ActPass(Arc::new(Inner::new(config, transport)), Scope::default()))
            }
            None => Ok(ActPass::with_config(self.config()?)),
        }
    }

    /// The settings alone; [`ActPassBuilder::build`] has taken the transport before.
    pub(crate) fn config(self) -> Result<Config, Error> {
        if self.transport.is_some() {
            return Err(Error::config("transport", "expected none: a host makes its own in each process"));
        }
        self.config_with(Way::to)
    }

    fn config_with(
        self,
        way: impl FnOnce(&BaseUrl, &[CertificateDer<'static>], Vec<CaVariable>) -> Result<Way, Error>,
    ) -> Result<Config, Error> {
        let (api_key, authorization) = config::api_key(self.api_key)?;
        let timeout = config::timeout("timeout", self.timeout.unwrap_or(config::DEFAULT_TIMEOUT))?;
        let connect_timeout = match self.connect_timeout {
            Some(given) => config::timeout("connect_timeout", given)?,
            None => config::DEFAULT_CONNECT_TIMEOUT.min(timeout),
        };
        let user_agent =
            self.user_agent.unwrap_or_else(|| concat!("actpass-rust/", env!("CARGO_PKG_VERSION")).to_owned());
        let user_agent = config::header("user_agent", Some(user_agent))?
            .ok_or_else(|| Error::config("user_agent", "expected a name, found an empty string"))?;
        let base_url = BaseUrl::choose(self.base_url, self.allow_insecure_http)?;
        let ca = config::extra_ca(self.ca.as_deref())?;
        Ok(Config {
            api_key,
            authorization,
            tenant_id: config::header("tenant_id", self.tenant_id)?,
            agent_id: config::agent_id(self.agent_id)?,
            timeout,
            connect_timeout,
            circuit_failures: self.circuit_failures.unwrap_or(DEFAULT_CIRCUIT_FAILURES),
            max_retries: config::max_retries(self.max_retries.unwrap_or(config::DEFAULT_MAX_RETRIES))?,
            mode: self.mode,
            way: way(&base_url, &ca, self.ca_variables)?,
            base_url,
            user_agent,
        })
    }
}

/// The calls of the protocol.
///
/// ```
/// use actpass_core::Operation;
///
/// assert_eq!(Operation::Preflight.path(), "/api/v1/actions/preflight");
/// assert!(Operation::Preflight.is_idempotent() && !Operation::RecordEvidence.is_idempotent());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`ActPass::preflight`], and what the guard asks.
    Preflight,
    /// [`ActPass::issue_passport`]
    IssuePassport,
    /// [`ActPass::verify_passport`]
    VerifyPassport,
    /// [`ActPass::revoke_passport`]
    RevokePassport,
    /// [`ActPass::record_evidence`]
    RecordEvidence,
    /// The public keys that [`ActPass::verify_passport_offline`] verifies with.
    Jwks,
    /// [`ActPass::wait_for_approval`], and what a guard that holds looks at.
    Approval,
}

impl Operation {
    /// Every call.
    pub const ALL: [Self; 7] = [
        Self::Preflight,
        Self::IssuePassport,
        Self::VerifyPassport,
        Self::RevokePassport,
        Self::RecordEvidence,
        Self::Jwks,
        Self::Approval,
    ];

    /// The method's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::IssuePassport => "issue_passport",
            Self::VerifyPassport => "verify_passport",
            Self::RevokePassport => "revoke_passport",
            Self::RecordEvidence => "record_evidence",
            Self::Jwks => "jwks",
            Self::Approval => "approval",
        }
    }

    /// The path below the base URL; where a call names what it is about, that follows.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Preflight => "/api/v1/actions/preflight",
            Self::IssuePassport => "/api/v1/passports/issue",
            Self::VerifyPassport => "/api/v1/passports/verify",
            Self::RevokePassport => "/api/v1/passports/revoke",
            Self::RecordEvidence => "/api/v1/evidence/events",
            Self::Jwks => "/.well-known/jwks.json",
            Self::Approval => "/api/v1/approvals",
        }
    }

    /// Whether it is a `GET`, which has no body; the others are `POST`s.
    pub const fn is_read(self) -> bool {
        match self {
            Self::Approval | Self::Jwks => true,
            Self::Preflight
            | Self::IssuePassport
            | Self::VerifyPassport
            | Self::RevokePassport
            | Self::RecordEvidence => false,
        }
    }

    /// Whether sending it twice is the same as sending it once.
    pub const fn is_idempotent(self) -> bool {
        match self {
            Self::Approval | Self::Jwks | Self::Preflight | Self::RevokePassport | Self::VerifyPassport => {
                true
            }
            Self::IssuePassport | Self::RecordEvidence => false,
        }
    }
}
