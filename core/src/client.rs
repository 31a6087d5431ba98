//! The client and its calls.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use serde::Serialize;

#[cfg(doc)]
use actpass_protocol::ErrorKind;
use actpass_protocol::json::RawObject;
use actpass_protocol::token::Unverified;
use actpass_protocol::{ActionEnd, Json, Operation, Secret};

use crate::action::Action;
use crate::approval::Approval;
use crate::breaker::Circuit;
#[cfg(feature = "http")]
use crate::clock::TokioClock;
use crate::clock::{Clock, Moment};
use crate::config::{CallOptions, Config};
use crate::decision::Decision;
use crate::engine::{Begun, Engine, Event, GuardSession, Machine, Scope, Stage, Step};
use crate::error::Error;
use crate::evidence::{EvidenceEvent, RecordedEvidence};
use crate::guard::{ExecutionContext, Outcome, Recording, Verdict};
#[cfg(feature = "http")]
use crate::halts::WatchFuture;
use crate::halts::{HaltWatch, HaltWatcher, SpawnWatch};
use crate::observe::ignore_panic;
use crate::offline::{self, IssuedEpochs, KeyCache, KeySet};
use crate::passport::{
    IssuedPassport, OfflineVerifyRequest, PassportRequest, Revocation, Verification, VerifyRequest,
};
use crate::prepared::PreparedAction;
use crate::request;
use crate::trace::Traceparent;
use crate::transport::{Request, Transport};

/// A client of an ActPass gateway. Cloning is cheap, and all clones share the same connections.
///
/// Its methods need a tokio runtime with the timer and I/O enabled.
///
/// ```
/// # use actpass_core::transport::FixedResponse;
/// # async fn refund(_: &str, _: u64) -> Result<String, std::io::Error> { Ok("re_1".to_owned()) }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use actpass_core::{ActPass, Action, Outcome};
/// use serde_json::json;
///
/// let actpass = ActPass::builder().api_key("apk_dev").base_url("http://127.0.0.1:8787").build()?;
/// # let answer = FixedResponse::new(200, r#"{"decision": "allow"}"#);
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

struct Inner {
    shared: Arc<Shared>,
    transport: Box<dyn Transport>,
}

/// The state that clients with separate connections share.
struct Shared {
    engine: Engine,
    time: TimeSource,
    keys: KeyCache,
    issued: IssuedEpochs,
}

/// The source of time.
#[derive(Debug)]
pub(crate) enum TimeSource {
    /// A clock supplied by the caller.
    Given(Box<dyn Clock>),
    #[cfg(feature = "http")]
    Tokio,
}

impl TimeSource {
    fn clock(&self) -> &dyn Clock {
        match self {
            Self::Given(clock) => clock.as_ref(),
            #[cfg(feature = "http")]
            Self::Tokio => &TokioClock,
        }
    }

    /// Returns the output of `future`, or `None` if `until` passes first.
    async fn within<F: Future>(&self, until: Moment, future: F) -> Option<F::Output> {
        match self {
            Self::Given(clock) => match select(clock.sleep_until(until), pin!(future)).await {
                Either::Left(((), _)) => None,
                Either::Right((ended, _)) => Some(ended),
            },
            #[cfg(feature = "http")]
            Self::Tokio => tokio::time::timeout_at(TokioClock::instant(until), future).await.ok(),
        }
    }

    async fn sleep_until(&self, until: Moment) {
        match self {
            Self::Given(clock) => clock.sleep_until(until).await,
            #[cfg(feature = "http")]
            Self::Tokio => tokio::time::sleep_until(TokioClock::instant(until)).await,
        }
    }
}

impl ActPass {
    pub(crate) fn with_transport(
        config: Arc<Config>,
        transport: Box<dyn Transport>,
        time: TimeSource,
    ) -> Self {
        let (engine, keys, issued) = (Engine::new(config), KeyCache::default(), IssuedEpochs::default());
        let shared = Arc::new(Shared { engine, time, keys, issued });
        Self(Arc::new(Inner { shared, transport }), Scope::default())
    }

    /// Returns this client with another transport. Both share the rest of their state.
    #[cfg(feature = "http")]
    pub(crate) fn over(&self, transport: Box<dyn Transport>) -> Self {
        let inner = Inner { shared: Arc::clone(&self.0.shared), transport };
        Self(Arc::new(inner), self.1.clone())
    }

    /// Runs the watch for stops with `watcher`, if it is not set.
    pub(crate) fn with_watcher(self, watcher: impl HaltWatcher) -> Self {
        self.0.shared.engine.halts().set_watcher(watcher);
        self
    }

    /// Runs the watch for stops with `spawn`, else on the tokio runtime of the function that it
    /// watches.
    pub(crate) fn watched_by(self, spawn: Option<SpawnWatch>) -> Self {
        let spawn = spawn.or(match &self.0.shared.time {
            TimeSource::Given(_) => None,
            #[cfg(feature = "http")]
            TimeSource::Tokio => Some(spawn_on_tokio),
        });
        let client = Arc::downgrade(&self.0);
        match spawn {
            Some(spawn) => self.with_watcher(OwnWatcher { client, spawn }),
            None => self,
        }
    }

    /// Returns this client with calls that carry `traceparent` to the gateway.
    #[must_use]
    pub fn in_trace(&self, traceparent: Traceparent) -> Self {
        Self(Arc::clone(&self.0), Scope { traceparent: Some(traceparent), ..self.1.clone() })
    }

    /// Returns this client with other limits per call. It shares the connections and the circuit
    /// breaker.
    ///
    /// ```
    /// # use actpass_core::transport::FixedResponse;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::{ActPass, Action, CallOptions};
    /// use std::time::Duration;
    ///
    /// let answer = FixedResponse::new(200, r#"{"decision": "allow"}"#);
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

    fn config(&self) -> &Config {
        self.0.shared.engine.config()
    }

    fn scope(&self) -> Scope {
        self.1.clone()
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        self.0.shared.time.clock()
    }

    pub(crate) async fn sleep_until(&self, until: Moment) {
        self.0.shared.time.sleep_until(until).await;
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.config().timeout
    }

    /// Creates a guard in steps, for a host that runs the action itself: see [`GuardSession`]. Use
    /// [`ActPass::drive`] to authorize.
    pub fn guard_session(&self, prepared: PreparedAction, record_outcome: bool) -> GuardSession {
        self.0.shared.engine.guard(prepared, self.scope(), record_outcome)
    }

    /// Drives `machine` from its first step to its end.
    ///
    /// ```
    /// # use actpass_core::transport::FixedResponse;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::engine::Stage;
    /// use actpass_core::{ActPass, Action};
    ///
    /// let answer = FixedResponse::new(200, r#"{"decision": "allow"}"#);
    /// let actpass = ActPass::builder().api_key("apk_dev").transport(answer).build()?;
    /// let prepared = actpass.prepare(Action::new("resolve_refund_request", "stripe.refund.create"))?;
    /// let mut session = actpass.guard_session(prepared, false);
    /// assert!(matches!(actpass.drive(&mut session).await, Stage::Ready));
    /// # Ok::<(), actpass_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn drive<M: Machine>(&self, machine: &mut M) -> M::Output {
        let mut step = machine.step(Event::Started, self.clock());
        loop {
            let event = match step {
                Step::Ended(ended) => return ended,
                Step::Send { request, until } => self.send(request, until).await,
                Step::Sleep { until } => {
                    self.0.shared.time.sleep_until(until).await;
                    Event::Elapsed
                }
            };
            step = machine.step(event, self.clock());
        }
    }

    /// Sends one attempt. A panic of the transport is contained here.
    async fn send(&self, request: Request, until: Moment) -> Event {
        let sending = AssertUnwindSafe(async { self.0.transport.send(request).await }).catch_unwind();
        match self.0.shared.time.within(until, sending).await {
            None => Event::Elapsed,
            Some(Err(_panic)) => Event::Panicked,
            Some(Ok(Err(failure))) => Event::Failed(failure),
            Some(Ok(Ok(answer))) => Event::Response(answer),
        }
    }

    /// Sends one attempt outside of the circuit breaker and the retries, which is repeated once if the
    /// gateway demands a DPoP proof with a nonce. Returns the body of a 2xx response.
    pub(crate) async fn attempt(&self, request: Request, timeout: Duration) -> Option<Vec<u8>> {
        let until = self.clock().now() + timeout;
        let mut has_new_nonce = false;
        loop {
            let proof = self.0.shared.engine.prove(&request, self.clock()).ok()?;
            let Event::Response(response) = self.send(Request { proof, ..request.clone() }, until).await
            else {
                return None;
            };
            if self.0.shared.engine.observe_nonce(&response) && !has_new_nonce {
                has_new_nonce = true;
                continue;
            }
            return response.body.ok().filter(|_| (200..300).contains(&response.status));
        }
    }

    /// Returns a fresh DPoP proof for a request to the gateway that the program sends itself with
    /// this client's API key: the header `dpop`, with `authorization: DPoP <api key>`. `None` without
    /// a [`dpop_key`](crate::ActPassBuilder::dpop_key): the scheme is then `Bearer`. `nonce` is the
    /// `dpop-nonce` of the last response, if any.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Internal`], if the random number generator or the signature fails.
    ///
    /// ```
    /// use actpass_core::ActPass;
    ///
    /// let actpass = ActPass::builder().api_key("apk_dev").base_url("http://127.0.0.1:8787").build()?;
    /// assert!(actpass.dpop_proof("GET", "http://127.0.0.1:8787/api/v1/tools", None)?.is_none());
    /// # Ok::<(), actpass_core::Error>(())
    /// ```
    pub fn dpop_proof(&self, method: &str, url: &str, nonce: Option<&str>) -> Result<Option<Secret>, Error> {
        let Some(prover) = &self.config().prover else { return Ok(None) };
        if let Some(nonce) = nonce {
            prover.keep_nonce(nonce);
        }
        prover.prove(method, url, self.clock()).map(Some)
    }

    /// The state of the circuit breaker. After
    /// [`circuit_failures`](crate::ActPassBuilder::circuit_failures) consecutive calls that could
    /// not reach the gateway, calls fail immediately with [`ErrorKind::Connection`] and a
    /// [`retry_after`](Error::retry_after). Then one call at a time probes the gateway.
    pub fn circuit(&self) -> Circuit {
        self.0.shared.engine.circuit(self.clock())
    }

    /// The gateway's URL, without a trailing slash.
    pub fn base_url(&self) -> &str {
        self.config().base_url.as_str()
    }

    /// The agent's name.
    pub fn agent_id(&self) -> &str {
        &self.config().agent_id
    }

    /// Requests the gateway's decision about `action`. Runs nothing.
    ///
    /// A 401 or 403 with a decision other than `allow` in its body returns that decision.
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`] except [`Config`](ErrorKind::Config). This method never invents a
    /// decision.
    ///
    /// ```
    /// # use actpass_core::transport::FixedResponse;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::{ActPass, Action, DecisionWord};
    ///
    /// let answer = FixedResponse::new(200, r#"{"decision": "require_approval", "approval_request_id": "apr_1"}"#);
    /// let actpass = ActPass::builder().api_key("apk_dev").transport(answer).build()?;
    /// let decision = actpass.preflight(&Action::new("resolve_refund_request", "stripe.refund.create")).await?;
    /// assert_eq!(decision.word(), &DecisionWord::RequireApproval);
    /// assert_eq!(decision.approval_request_id().as_deref(), Some("apr_1"));
    /// # Ok::<(), actpass_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn preflight(&self, action: &Action) -> Result<Decision, Error> {
        let prepared = self.prepare(action.clone())?;
        self.drive(&mut self.0.shared.engine.preflight(prepared, self.scope())).await
    }

    /// Validates `action` and builds its request. Nothing is sent.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`] for an invalid member, naming it.
    ///
    /// ```
    /// # use actpass_core::transport::FixedResponse;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::{ActPass, Action, Verdict};
    ///
    /// let answer = FixedResponse::new(200, r#"{"decision": "deny"}"#);
    /// let actpass = ActPass::builder().api_key("apk_dev").transport(answer).build()?;
    /// assert!(actpass.prepare(Action::new("resolve_refund_request", "")).is_err());
    /// let prepared = actpass.prepare(Action::new("resolve_refund_request", "stripe.refund.create"))?;
    /// assert!(matches!(actpass.authorize_prepared(&prepared).await, Verdict::Blocked(_)));
    /// # Ok::<(), actpass_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn prepare(&self, action: Action) -> Result<PreparedAction, Error> {
        self.0.shared.engine.prepare(action, self.clock())
    }

    /// Requests a decision about `action` and returns the verdict. This is the gate: see
    /// [`crate::guard`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`] for an invalid action. A failed gate is a verdict, not an error.
    ///
    /// An action that needs approval and [waits for it](Action::wait_for_approval) is held. Once a
    /// person has approved it, the same action is sent again with the id of the approval, and that
    /// decision is final. An action that is rejected, expires or is not decided in time is blocked
    /// with that reason. Polling continues while the gateway is unreachable, until the wait
    /// expires.
    pub async fn authorize(&self, action: &Action) -> Result<Verdict, Error> {
        Ok(self.authorize_prepared(&self.prepare(action.clone())?).await)
    }

    /// Like [`ActPass::authorize`], for a validated action. It cannot fail: a failed gate is a
    /// verdict.
    pub async fn authorize_prepared(&self, prepared: &PreparedAction) -> Verdict {
        self.drive(&mut self.0.shared.engine.authorize(prepared.clone(), self.scope())).await
    }

    /// Waits up to `wait` for a decision about the approval `id` and returns its state. It can
    /// still be pending. A `wait` of zero polls once.
    ///
    /// The gateway holds each poll for up to 25 s. A retryable failure is retried until the wait
    /// expires.
    ///
    /// # Errors
    ///
    /// As [`ActPass::preflight`], for the last poll.
    pub async fn wait_for_approval(&self, id: &str, wait: Duration) -> Result<Approval, Error> {
        self.drive(&mut self.0.shared.engine.wait_for_approval(id, wait, self.scope())?).await
    }

    /// Runs `execute` if `action` may run, and returns the outcome.
    ///
    /// `execute` runs at most once, after the verdict. A failed gate is not an error of this
    /// method; it is reported in the [`Outcome`].
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
            Verdict::Proceed(permit) => match permit.spend(self.clock()) {
                Err(blocked) => Ok(Outcome::Blocked(*blocked)),
                Ok((context, settlement)) => Ok(settlement.settle(execute(context).await)),
            },
        }
    }

    /// Like [`ActPass::guard`], and records how the action ended on the decision's chain in the
    /// ledger: see [`Settlement::recording`](crate::Settlement::recording). The result's hash is
    /// recorded if the result serializes to JSON with a canonical form.
    ///
    /// The second value is the result of recording; `None` if the action did not run. A failure to
    /// record does not change the outcome.
    ///
    /// # Errors
    ///
    /// As [`ActPass::authorize`].
    ///
    /// ```
    /// # use actpass_core::transport::{Request, Response, SendFuture, Transport};
    /// # use actpass_core::Operation;
    /// # #[derive(Debug)] struct Gateway;
    /// # impl Transport for Gateway { fn send(&self, request: Request) -> SendFuture<'_> {
    /// #     Box::pin(async move { Ok(Response::new(200, match request.operation {
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
        let prepared = self.prepare(action.clone())?;
        let mut session = self.0.shared.engine.guard(prepared, self.scope(), true);
        if let Stage::Blocked(blocked) = self.drive(&mut session).await {
            return Ok((Outcome::Blocked(blocked), None));
        }
        let context = match session.begin(None, self.clock())? {
            Begun::Blocked(blocked) => return Ok((Outcome::Blocked(blocked), None)),
            Begun::Running(context) => context,
        };
        let ended = execute(context).await;
        // A failed or panicking serializer does not change the action's result.
        let response =
            ended.as_ref().ok().and_then(|result| ignore_panic(|| serde_json::to_vec(result).ok())?);
        let response = response.and_then(|json| Json::parse(&json).ok());
        let how = if ended.is_ok() { ActionEnd::Returned } else { ActionEnd::Failed };
        let (settlement, recording) = session.finish(how, response.as_ref())?;
        let recorded = match recording {
            Some(recording) => Some(self.record(&recording).await),
            None => None,
        };
        Ok((settlement.settle(ended), recorded))
    }

    /// Issues a passport. Retried only if the gateway certainly did not process the request.
    ///
    /// # Errors
    ///
    /// As [`ActPass::preflight`].
    ///
    /// ```
    /// # use actpass_core::transport::FixedResponse;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::{ActPass, PassportRequest};
    ///
    /// let answer = FixedResponse::new(200, r#"{"token": "eyJ.a.b", "jwks_uri": "https://gateway.example/jwks"}"#);
    /// let actpass = ActPass::builder().api_key("apk_dev").transport(answer).build()?;
    /// let request = PassportRequest::new("mcp://stripe-production", "resolve_refund_request", ["stripe.refund.create"]);
    /// let passport = actpass.issue_passport(&request).await?;
    /// assert_eq!(passport.token(), "eyJ.a.b");
    /// # Ok::<(), actpass_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn issue_passport(&self, request: &PassportRequest) -> Result<IssuedPassport, Error> {
        let body = request::issue(request, &self.config().agent_id)?;
        let request = Request::new(Operation::IssuePassport, body);
        let issued = self.call(request, None, |document| IssuedPassport::parse(&document)).await?;
        self.0.shared.issued.remember(issued.token(), issued.halt_epoch());
        Ok(issued)
    }

    /// Verifies a passport at the gateway.
    ///
    /// # Errors
    ///
    /// As [`ActPass::preflight`]. An invalid passport is not an error.
    ///
    /// ```
    /// # use actpass_core::transport::FixedResponse;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::{ActPass, VerifyRequest};
    ///
    /// let answer = FixedResponse::new(200, r#"{"valid": false, "errors": ["passport.expired"]}"#);
    /// let actpass = ActPass::builder().api_key("apk_dev").transport(answer).build()?;
    /// let verified = actpass.verify_passport(&VerifyRequest::new("eyJ.a.b", "mcp://stripe-production")).await?;
    /// assert!(!verified.is_valid());
    /// assert_eq!(verified.errors(), ["passport.expired"]);
    /// # Ok::<(), actpass_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn verify_passport(&self, request: &VerifyRequest) -> Result<Verification, Error> {
        let body = request::verify(request)?;
        self.call(
            Request::new(Operation::VerifyPassport, body),
            Some(request.token.clone()),
            Verification::parse,
        )
        .await
    }

    /// Verifies a passport offline with the gateway's public keys: see [`OfflineVerifyRequest`].
    /// Offline verification does not detect revocation or replay; the gateway does. It detects a
    /// stop only if the client has seen a newer `halt_epoch` than the passport's, which is in a claim,
    /// or stored if the client has issued the passport itself (the last 1,024).
    ///
    /// The keys are cached. They are fetched again after 10 minutes, and immediately for an unknown
    /// key id, but at most once per second. If a fetch fails, cached keys are used until they are
    /// one hour old.
    ///
    /// # Errors
    ///
    /// As [`ActPass::preflight`], if no keys are available. An invalid passport is not an error.
    ///
    /// ```
    /// # use actpass_core::transport::FixedResponse;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::{ActPass, OfflineVerifyRequest};
    ///
    /// let actpass =
    ///     ActPass::builder().api_key("apk_dev").transport(FixedResponse::new(200, r#"{"keys": []}"#)).build()?;
    /// let request = OfflineVerifyRequest::new("not.a.passport", "mcp://stripe-production");
    /// assert_eq!(actpass.verify_passport_offline(&request).await?.errors(), ["passport.malformed"]);
    /// # Ok::<(), actpass_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn verify_passport_offline(
        &self,
        request: &OfflineVerifyRequest,
    ) -> Result<Verification, Error> {
        request::require_non_empty("token", request.token.expose())?;
        request::require_non_empty("audience", &request.audience)?;
        let passport = match Unverified::passport(request.token.expose()) {
            Ok(passport) => passport,
            Err(error) => return Ok(Verification::from_result(Err(vec![error.code()]))),
        };
        let fetch = async || {
            let fetch_keys = Request::new(Operation::Jwks, "");
            self.call(fetch_keys, None, |set| KeySet::read(&set).map_err(str::to_owned)).await
        };
        let keys = self.0.shared.keys.find(passport.kid(), self.clock(), fetch).await?;
        let config = self.config();
        let hint = config.tenant_id.as_ref().and_then(|id| id.to_str().ok());
        let expected = offline::Expected {
            issuer: request.issuer.as_deref().or(keys.issuer()).unwrap_or(config.base_url.as_str()),
            tenant_id: request.tenant_id.as_deref().or(keys.tenant_id()).or(hint),
            request,
            now: self.clock().wall_clock(),
        };
        let key = keys.find(passport.kid());
        let verified = offline::verify(passport, key, &expected).and_then(|claims| {
            let signed = config.approvals.as_ref().map(|keys| keys.check_passport(&claims, expected.now));
            signed.unwrap_or(Ok(())).map(|()| claims).map_err(|error| vec![error])
        });
        let issued = self.0.shared.issued.of(request.token.expose());
        Ok(Verification::from_result(offline::reject_older(verified, issued, config.seen_epoch.get())))
    }

    /// Revokes the passport `jti`, with an optional `reason`.
    ///
    /// # Errors
    ///
    /// As [`ActPass::preflight`].
    ///
    /// ```
    /// # use actpass_core::transport::FixedResponse;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::ActPass;
    ///
    /// let actpass =
    ///     ActPass::builder().api_key("apk_dev").transport(FixedResponse::new(200, r#"{"revoked": true}"#)).build()?;
    /// assert!(actpass.revoke_passport("ap_1", Some("session ended")).await?.is_revoked());
    /// # Ok::<(), actpass_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn revoke_passport(&self, jti: &str, reason: Option<&str>) -> Result<Revocation, Error> {
        let body = request::revoke(jti, reason)?;
        self.call(Request::new(Operation::RevokePassport, body), None, Revocation::parse).await
    }

    /// Appends an event to a chain of the ledger. Retried only if the gateway certainly did not
    /// process the request.
    ///
    /// # Errors
    ///
    /// As [`ActPass::preflight`].
    ///
    /// ```
    /// # use actpass_core::transport::FixedResponse;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::{ActPass, EvidenceEvent};
    ///
    /// let answer = FixedResponse::new(200, r#"{"event_id": "ev_1", "current_event_hash": "ab12"}"#);
    /// let actpass = ActPass::builder().api_key("apk_dev").transport(answer).build()?;
    /// let recorded = actpass.record_evidence(&EvidenceEvent::new("refund.sent", "case_42")).await?;
    /// assert_eq!(recorded.event_id(), "ev_1");
    /// # Ok::<(), actpass_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn record_evidence(&self, event: &EvidenceEvent) -> Result<RecordedEvidence, Error> {
        self.drive(&mut self.0.shared.engine.record_evidence(event, self.scope())?).await
    }

    /// Records how an action ended. The recording of a cancelled action times out after one second,
    /// because the cancelled program does not wait for it.
    ///
    /// # Errors
    ///
    /// As [`ActPass::record_evidence`].
    ///
    /// ```
    /// # use actpass_core::transport::{Request, Response, SendFuture, Transport};
    /// # use actpass_core::Operation;
    /// # #[derive(Debug)] struct Gateway;
    /// # impl Transport for Gateway { fn send(&self, request: Request) -> SendFuture<'_> {
    /// #     Box::pin(async move { Ok(Response::new(200, match request.operation {
    /// #         Operation::Preflight => r#"{"decision":"allow"}"#,
    /// #         _ => r#"{"event_id":"ev_2","current_event_hash":"ab"}"#,
    /// #     })) }) } }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::{ActPass, Action, ActionEnd, TokioClock, Verdict};
    ///
    /// # let actpass = ActPass::builder().api_key("apk_dev").transport(Gateway).build()?;
    /// let action = Action::new("resolve_refund_request", "stripe.refund.create");
    /// let Verdict::Proceed(permit) = actpass.authorize(&action).await? else { panic!("blocked") };
    /// let (_context, settlement) = permit.spend(&TokioClock).unwrap();
    /// // ... the action runs, and is stopped:
    /// let recorded = actpass.record(&settlement.recording(ActionEnd::Cancelled, None)).await?;
    /// assert_eq!(recorded.event_id(), "ev_2");
    /// # Ok::<(), actpass_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn record(&self, recording: &Recording) -> Result<RecordedEvidence, Error> {
        self.drive(&mut self.0.shared.engine.record(recording, self.scope())?).await
    }

    async fn call<T>(
        &self,
        request: Request,
        token: Option<Secret>,
        parse: fn(RawObject) -> Result<T, String>,
    ) -> Result<T, Error> {
        self.drive(&mut self.0.shared.engine.call(request, self.scope(), token, parse)).await
    }
}

/// Runs the watch with the client itself, as long as the client exists.
struct OwnWatcher {
    client: Weak<Inner>,
    spawn: SpawnWatch,
}

impl HaltWatcher for OwnWatcher {
    fn spawn(&self, watch: HaltWatch) {
        if let Some(inner) = self.client.upgrade() {
            (self.spawn)(Box::pin(async move { watch.run(&ActPass(inner, Scope::default())).await }));
        }
    }
}

#[cfg(feature = "http")]
fn spawn_on_tokio(watch: WatchFuture) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        drop(runtime.spawn(watch));
    }
}

impl fmt::Debug for ActPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActPass")
            .field("base_url", &self.config().base_url.as_str())
            .field("agent_id", &self.config().agent_id)
            .finish_non_exhaustive()
    }
}
