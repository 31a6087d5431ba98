//! The client.

use std::future::Future;
use std::sync::Arc;

use actpass_core::json::parse_argument;
use actpass_core::{
    ActPass, ActPassBuilder, Action, Blocked, CallOptions, Circuit, Error, PreparedAction, Secret,
    wait_seconds, whole_number,
};
use actpass_session::{GuardSession, spawn_watch, test_hooks};
use tracing::dispatcher::{Dispatch, with_default};

use crate::approval::{NativeApproval, pending_action};
use crate::calls::Calls;
use crate::error::{NativeError, NativeLanguage};
use crate::evidence::{NativeEvent, NativeRecorded};
use crate::guard::{NativeAction, NativeDecision, NativeMode, NativeSession, NativeVerdict};
use crate::jvm::objects::ClientNumber;
use crate::log::{NativeLogLevel, NativeLogger, subscriber};
use crate::passport::{
    NativeIssued, NativeOfflineVerifyRequest, NativePassportRequest, NativeRevocation, NativeVerification,
    NativeVerifyRequest,
};
use crate::runtime::{NativeCancel, catch_panic, wait};
use crate::scripted::NativeScript;

/// The settings of a client.
#[derive(uniffi::Record)]
pub(crate) struct NativeSettings {
    /// The language of the public API layer.
    pub(crate) language: NativeLanguage,
    /// The API key.
    pub(crate) api_key: Option<Secret>,
    /// The tenant.
    pub(crate) tenant_id: Option<String>,
    /// The agent's name.
    pub(crate) agent_id: Option<String>,
    /// The gateway's URL.
    pub(crate) base_url: Option<String>,
    /// The total timeout of a call, in seconds.
    pub(crate) timeout: Option<f64>,
    /// The connect timeout of an attempt, in seconds.
    pub(crate) connect_timeout: Option<f64>,
    /// The maximum number of retries of a call.
    pub(crate) max_retries: Option<i64>,
    /// The number of consecutive unreachable calls that open the circuit.
    pub(crate) circuit_failures: Option<i64>,
    /// The mode of actions that set none.
    pub(crate) mode: Option<NativeMode>,
    /// Additional trusted authorities, in PEM.
    pub(crate) ca: Option<String>,
    /// The passkeys that must sign approvals, as JSON.
    pub(crate) approval_keys: Option<String>,
    /// The private key that the API key is bound to, in PEM.
    pub(crate) dpop_key: Option<Secret>,
    /// Permits plain http to another host.
    pub(crate) danger_allow_insecure_http: bool,
}

impl NativeSettings {
    fn builder(self) -> Result<ActPassBuilder, Error> {
        let language = match self.language {
            NativeLanguage::Kotlin => "kotlin",
            NativeLanguage::Swift => "swift",
        };
        let mut builder = ActPass::builder()
            .user_agent(format!("actpass-{language}/{}", env!("CARGO_PKG_VERSION")))
            .danger_allow_insecure_http(self.danger_allow_insecure_http);
        if let Some(key) = self.api_key {
            builder = builder.api_key(key.expose());
        }
        if let Some(tenant_id) = self.tenant_id {
            builder = builder.tenant_id(tenant_id);
        }
        if let Some(agent_id) = self.agent_id {
            builder = builder.agent_id(agent_id);
        }
        if let Some(base_url) = self.base_url {
            builder = builder.base_url(base_url);
        }
        if let Some(seconds) = self.timeout {
            builder = builder.timeout(actpass_core::seconds("timeout", seconds)?);
        }
        if let Some(seconds) = self.connect_timeout {
            builder = builder.connect_timeout(actpass_core::seconds("connect_timeout", seconds)?);
        }
        if let Some(retries) = self.max_retries {
            builder = builder.max_retries(whole_number("max_retries", retries)?);
        }
        if let Some(failures) = self.circuit_failures {
            builder = builder.circuit_failures(whole_number("circuit_failures", failures)?);
        }
        if let Some(mode) = self.mode {
            builder = builder.mode(mode.into());
        }
        if let Some(pem) = self.ca {
            builder = builder.ca(pem);
        }
        if let Some(keys) = self.approval_keys {
            builder = builder.approval_keys(keys);
        }
        if let Some(key) = self.dpop_key {
            builder = builder.dpop_key(key);
        }
        Ok(builder)
    }
}

/// The state of the circuit breaker.
#[derive(Clone, Copy, Debug, uniffi::Enum)]
pub(crate) enum NativeCircuit {
    /// Calls go to the gateway.
    Closed,
    /// One call probes the gateway.
    HalfOpen,
    /// Calls fail immediately.
    Open {
        /// Seconds until the next probe.
        retry_after: f64,
    },
}

impl From<Circuit> for NativeCircuit {
    fn from(circuit: Circuit) -> Self {
        match circuit {
            Circuit::Closed => Self::Closed,
            Circuit::HalfOpen => Self::HalfOpen,
            Circuit::Open { retry_after } => Self::Open { retry_after: retry_after.as_secs_f64() },
        }
    }
}

/// The client of the native module.
#[derive(uniffi::Object)]
pub(crate) struct NativeClient(Calls, ClientNumber);

#[uniffi::export]
impl NativeClient {
    /// Validates the settings; nothing is sent. A script replaces the gateway.
    #[uniffi::constructor]
    pub(crate) fn new(
        settings: NativeSettings,
        logger: Option<Arc<dyn NativeLogger>>,
        log_level: NativeLogLevel,
        script: Option<Arc<NativeScript>>,
    ) -> Result<Arc<Self>, NativeError> {
        catch_panic(|| {
            let builder = settings.builder()?.spawn_watch(spawn_watch);
            let actpass = match script {
                Some(script) => builder.scripted_gateway(&script.0),
                None => builder,
            }
            .build()?;
            let log = match logger {
                Some(logger) => subscriber(logger, log_level)?,
                None => Dispatch::none(),
            };
            Ok(Arc::new(Self(Calls { actpass, log }, ClientNumber::default())))
        })
    }

    /// Returns this client with calls in a trace.
    pub(crate) fn in_trace(&self, traceparent: String) -> Result<Arc<Self>, NativeError> {
        catch_panic(|| {
            let actpass = self.0.actpass.in_trace(traceparent.parse()?);
            Ok(Arc::new(Self(Calls { actpass, log: self.0.log.clone() }, ClientNumber::default())))
        })
    }

    /// Returns this client with other limits per call.
    pub(crate) fn with_options(
        &self,
        timeout: Option<f64>,
        max_retries: Option<i64>,
    ) -> Result<Arc<Self>, NativeError> {
        catch_panic(|| {
            let options = CallOptions::from_numbers(timeout, max_retries)?;
            let actpass = self.0.actpass.with_options(options);
            Ok(Arc::new(Self(Calls { actpass, log: self.0.log.clone() }, ClientNumber::default())))
        })
    }

    /// The gateway's URL.
    pub(crate) fn base_url(&self) -> Result<String, NativeError> {
        catch_panic(|| Ok(self.0.actpass.base_url().to_owned()))
    }

    /// The agent's name.
    pub(crate) fn agent_id(&self) -> Result<String, NativeError> {
        catch_panic(|| Ok(self.0.actpass.agent_id().to_owned()))
    }

    /// The state of the circuit breaker.
    pub(crate) fn circuit(&self) -> Result<NativeCircuit, NativeError> {
        catch_panic(|| Ok(self.0.actpass.circuit().into()))
    }

    /// The number of this client in calls through JNI.
    pub(crate) fn jvm_number(&self) -> i64 {
        self.1.get(&self.0)
    }

    /// Requests a decision.
    pub(crate) async fn preflight(
        &self,
        action: NativeAction,
        cancel: Option<Arc<NativeCancel>>,
    ) -> Result<NativeDecision, NativeError> {
        let action = convert(action)?;
        let call = self.0.call(async move |actpass| actpass.preflight(&action).await);
        Ok(NativeDecision::from(&wait(cancel, call, Err).await?))
    }

    /// Requests a verdict.
    pub(crate) async fn authorize(
        &self,
        action: NativeAction,
        record_outcome: bool,
        cancel: Option<Arc<NativeCancel>>,
    ) -> Result<NativeVerdict, NativeError> {
        self.authorize_action(convert(action)?, record_outcome, cancel).await
    }

    /// Requests a verdict about a stored action.
    pub(crate) async fn authorize_pending(
        &self,
        pending: String,
        passport: Option<Secret>,
        wait_for_approval: Option<f64>,
        record_outcome: bool,
        cancel: Option<Arc<NativeCancel>>,
    ) -> Result<NativeVerdict, NativeError> {
        let action = catch_panic(|| Ok(pending_action(&pending, passport, wait_for_approval)?))?;
        self.authorize_action(action, record_outcome, cancel).await
    }

    /// Waits up to `seconds` for a decision about an approval.
    pub(crate) async fn wait_for_approval(
        &self,
        id: String,
        seconds: f64,
        cancel: Option<Arc<NativeCancel>>,
    ) -> Result<NativeApproval, NativeError> {
        let longest = wait_seconds("wait", seconds)?;
        let call = self.0.call(async move |actpass| actpass.wait_for_approval(&id, longest).await);
        Ok(NativeApproval::from(&wait(cancel, call, Err).await?))
    }

    /// Issues a passport.
    pub(crate) async fn issue_passport(
        &self,
        wanted: NativePassportRequest,
        cancel: Option<Arc<NativeCancel>>,
    ) -> Result<NativeIssued, NativeError> {
        let wanted = catch_panic(|| Ok(wanted.convert()?))?;
        let call = self.0.call(async move |actpass| actpass.issue_passport(&wanted).await);
        Ok(NativeIssued::from(&wait(cancel, call, Err).await?))
    }

    /// Verifies a passport at the gateway.
    pub(crate) async fn verify_passport(
        &self,
        wanted: NativeVerifyRequest,
        cancel: Option<Arc<NativeCancel>>,
    ) -> Result<NativeVerification, NativeError> {
        let wanted = catch_panic(|| Ok(wanted.convert()))?;
        let call = self.0.call(async move |actpass| actpass.verify_passport(&wanted).await);
        Ok(NativeVerification::from(&wait(cancel, call, Err).await?))
    }

    /// Verifies a passport offline.
    pub(crate) async fn verify_passport_offline(
        &self,
        wanted: NativeOfflineVerifyRequest,
        cancel: Option<Arc<NativeCancel>>,
    ) -> Result<NativeVerification, NativeError> {
        let wanted = catch_panic(|| Ok(wanted.convert()))?;
        let call = self.0.call(async move |actpass| actpass.verify_passport_offline(&wanted).await);
        Ok(NativeVerification::from(&wait(cancel, call, Err).await?))
    }

    /// Revokes a passport.
    pub(crate) async fn revoke_passport(
        &self,
        jti: String,
        reason: Option<String>,
        cancel: Option<Arc<NativeCancel>>,
    ) -> Result<NativeRevocation, NativeError> {
        let call = self.0.call(async move |actpass| actpass.revoke_passport(&jti, reason.as_deref()).await);
        Ok(NativeRevocation::from(&wait(cancel, call, Err).await?))
    }

    /// Records an event.
    pub(crate) async fn record_evidence(
        &self,
        event: NativeEvent,
        cancel: Option<Arc<NativeCancel>>,
    ) -> Result<NativeRecorded, NativeError> {
        let event = catch_panic(|| Ok(event.convert()?))?;
        let call = self.0.call(async move |actpass| actpass.record_evidence(&event).await);
        Ok(NativeRecorded::from(&wait(cancel, call, Err).await?))
    }
}

impl NativeClient {
    async fn authorize_action(
        &self,
        action: Action,
        record_outcome: bool,
        cancel: Option<Arc<NativeCancel>>,
    ) -> Result<NativeVerdict, NativeError> {
        let authorization = Authorization::new(self.0.clone(), action, record_outcome)?;
        let lost = |failure| Ok(authorization.for_failure(failure));
        let authorized = wait(cancel, authorization.call(), lost).await?;
        authorization.verdict(authorized)
    }
}

type Authorized = Result<GuardSession, Box<Blocked>>;

/// A request for a verdict, validated.
pub(crate) struct Authorization {
    calls: Calls,
    action: Action,
    prepared: PreparedAction,
    record_outcome: bool,
}

impl Authorization {
    pub(crate) fn new(calls: Calls, action: Action, record_outcome: bool) -> Result<Self, NativeError> {
        catch_panic(|| {
            let prepared = calls.actpass.prepare(action.clone())?;
            Ok(Self { calls, action, prepared, record_outcome })
        })
    }

    /// Sends it.
    pub(crate) fn call(&self) -> impl Future<Output = Result<Authorized, Error>> + Send + use<> {
        let (prepared, record_outcome) = (self.prepared.clone(), self.record_outcome);
        self.calls
            .call(async move |actpass| Ok(GuardSession::authorize(&actpass, prepared, record_outcome).await))
    }

    /// The result if there is no thread for the call, or if the call panicked.
    pub(crate) fn for_failure(&self, failure: Error) -> Authorized {
        with_default(&self.calls.log, || {
            GuardSession::for_failure(self.prepared.clone(), failure, self.record_outcome)
        })
    }

    /// The verdict of a result.
    pub(crate) fn verdict(self, authorized: Authorized) -> Result<NativeVerdict, NativeError> {
        catch_panic(|| NativeSession::verdict(self.calls, self.action, authorized))
    }
}

pub(crate) fn convert(action: NativeAction) -> Result<Action, NativeError> {
    catch_panic(|| {
        test_hooks::before_conversion(&action.tool);
        Ok(action.convert()?)
    })
}

/// The SHA-256 of a value's canonical JSON.
#[uniffi::export]
pub(crate) fn native_hash_payload(payload: String) -> Result<String, NativeError> {
    catch_panic(|| Ok(actpass_core::hash_payload(&parse_argument("payload", &payload)?)?))
}

/// The HMAC-SHA256 of a value's canonical JSON.
#[uniffi::export]
pub(crate) fn native_sign_payload(secret: Secret, payload: String) -> Result<String, NativeError> {
    catch_panic(|| {
        Ok(actpass_core::sign_payload(secret.expose().as_bytes(), &parse_argument("payload", &payload)?)?)
    })
}

/// The thumbprint of a DPoP key.
#[uniffi::export]
pub(crate) fn native_dpop_thumbprint(dpop_key: Secret) -> Result<String, NativeError> {
    catch_panic(|| Ok(actpass_core::dpop_thumbprint(&dpop_key)?))
}
