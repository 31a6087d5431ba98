//! The client.

use std::sync::Arc;

use actpass_core::{
    ActPass, Action, CaVariable, CallOptions, Error, ErrorKind, InvalidArgument, PendingApproval, Secret,
};
use actpass_session::{BackgroundClient, BlockingClient, GuardSession};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::convert::{
    from_json, json, number, optional, read_json, seconds_argument, string, to_json, to_json_by, type_name,
    whole_number, wrong_type,
};
use crate::error::{in_call, raise, raise_from};
use crate::evidence::EvidenceArguments;
use crate::guard::{ActionArguments, CallArguments, verdict};
use crate::panic::{catch_panic, catch_panic_in_call};
use crate::passport::{IssueArguments, OfflineVerifyArguments, VerifyArguments};
use crate::runtime::Bridge;

type Argument<'a, 'py> = Option<&'a Bound<'py, PyAny>>;
type Required<'a, 'py> = &'a Bound<'py, PyAny>;

/// The client of the native module.
#[pyclass(frozen, module = "actpass._native")]
pub(crate) struct Client {
    /// Shared by clients that differ only in their options.
    bridge: Arc<arc_swap::ArcSwapOption<Bridge>>,
    options: CallOptions,
}

#[pymethods]
impl Client {
    #[new]
    #[pyo3(signature = (api_key, tenant_id, agent_id, base_url, timeout, connect_timeout, max_retries, mode, ca, approval_keys, dpop_key, circuit_failures, danger_allow_insecure_http, background))]
    #[expect(clippy::too_many_arguments, reason = "one parameter per setting")]
    fn new(
        py: Python<'_>,
        api_key: Argument<'_, '_>,
        tenant_id: Argument<'_, '_>,
        agent_id: Argument<'_, '_>,
        base_url: Argument<'_, '_>,
        timeout: Required<'_, '_>,
        connect_timeout: Argument<'_, '_>,
        max_retries: Required<'_, '_>,
        mode: Required<'_, '_>,
        ca: Argument<'_, '_>,
        approval_keys: Argument<'_, '_>,
        dpop_key: Argument<'_, '_>,
        circuit_failures: Required<'_, '_>,
        danger_allow_insecure_http: Required<'_, '_>,
        background: bool,
    ) -> PyResult<Self> {
        catch_panic(py, || {
            let mut builder = ActPass::builder()
                .user_agent(concat!("actpass-python/", env!("CARGO_PKG_VERSION")))
                .timeout(seconds("timeout", timeout)?);
            if let Some(key) = setting("api_key", api_key)? {
                builder = builder.api_key(Secret::new(key));
            }
            if let Some(tenant_id) = setting("tenant_id", tenant_id)? {
                builder = builder.tenant_id(tenant_id);
            }
            if let Some(agent_id) = setting("agent_id", agent_id)? {
                builder = builder.agent_id(agent_id);
            }
            if let Some(base_url) = setting("base_url", base_url)? {
                builder = builder.base_url(base_url);
            }
            if let Some(timeout) = connect_timeout {
                builder = builder.connect_timeout(seconds("connect_timeout", timeout)?);
            }
            builder = builder
                .ca_variables(["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"].map(CaVariable::replacing))
                .max_retries(whole_setting("max_retries", max_retries)?)
                .circuit_failures(whole_setting("circuit_failures", circuit_failures)?)
                .mode(required_setting("mode", mode)?.parse().map_err(|error| as_config(py, &error))?)
                .danger_allow_insecure_http(switch(
                    "danger_allow_insecure_http",
                    danger_allow_insecure_http,
                )?);
            if let Some(ca) = ca {
                builder = builder.ca(pem(ca)?);
            }
            if let Some(keys) = setting("approval_keys", approval_keys)? {
                builder = builder.approval_keys(keys);
            }
            if let Some(key) = setting("dpop_key", dpop_key)? {
                builder = builder.dpop_key(Secret::new(key));
            }
            let bridge = match background {
                true => {
                    BackgroundClient::new(builder).map(|background| Bridge::Background(Arc::new(background)))
                }
                false => BlockingClient::new(builder).map(|client| Bridge::Calling(Arc::new(client))),
            };
            Ok(Self::of(bridge.map_err(|error| raise(py, &error))?))
        })
    }

    /// A client with the same settings, for asyncio.
    fn background(&self, py: Python<'_>) -> PyResult<Self> {
        let background = match &*self.bridge(py)? {
            Bridge::Background(background) => Arc::clone(background),
            Bridge::Calling(client) => {
                Arc::new(BackgroundClient::from_blocking(client).map_err(|error| raise(py, &error))?)
            }
        };
        Ok(Self { options: self.options, ..Self::of(Bridge::Background(background)) })
    }

    /// A client that shares everything with this one except the limits of its calls.
    fn with_options(&self, py: Python<'_>, options: CallArguments<'_>) -> PyResult<Self> {
        catch_panic_in_call(py, "with_options", || {
            let options = options.convert(py)?.or(self.options);
            Ok(Self { bridge: Arc::clone(&self.bridge), options })
        })
    }

    #[pyo3(signature = (action, default = None, options = None))]
    fn preflight<'py>(
        &self,
        py: Python<'py>,
        action: ActionArguments<'py>,
        default: Argument<'_, 'py>,
        options: Option<CallArguments<'py>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        catch_panic_in_call(py, "preflight", || {
            let options = self.options(py, options)?;
            let action = action.convert(default)?;
            let call = |actpass: ActPass| async move { actpass.preflight(&action).await };
            self.ask(py, "preflight", options, call, |decision| decision.as_json())
        })
    }

    #[pyo3(signature = (action, record_outcome, default = None, options = None))]
    fn authorize<'py>(
        &self,
        py: Python<'py>,
        action: ActionArguments<'py>,
        record_outcome: Required<'_, 'py>,
        default: Argument<'_, 'py>,
        options: Option<CallArguments<'py>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.authorization(py, "authorize", action, record_outcome, default, options)
    }

    /// Like `authorize`, but errors name `guard`.
    #[pyo3(signature = (action, record_outcome, default = None, options = None))]
    fn guard<'py>(
        &self,
        py: Python<'py>,
        action: ActionArguments<'py>,
        record_outcome: Required<'_, 'py>,
        default: Argument<'_, 'py>,
        options: Option<CallArguments<'py>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.authorization(py, "guard", action, record_outcome, default, options)
    }

    /// Validates the parameters of an action as `authorize` does. Sends nothing.
    #[pyo3(signature = (action, record_outcome, options = None))]
    fn check(
        &self,
        py: Python<'_>,
        action: ActionArguments<'_>,
        record_outcome: Required<'_, '_>,
        options: Option<CallArguments<'_>>,
    ) -> PyResult<()> {
        catch_panic_in_call(py, "protect", || {
            flag("record_outcome", record_outcome)?;
            self.options(py, options)?;
            let action = action.convert(None)?;
            self.bridge(py)?.prepare(action).map(drop).map_err(|error| raise(py, &error))
        })
    }

    #[pyo3(signature = (pending, passport, wait_for_approval, record_outcome, options = None))]
    fn resume<'py>(
        &self,
        py: Python<'py>,
        pending: Required<'_, 'py>,
        passport: Argument<'_, 'py>,
        wait_for_approval: Argument<'_, 'py>,
        record_outcome: Required<'_, 'py>,
        options: Option<CallArguments<'py>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        catch_panic_in_call(py, "resume", || {
            let options = self.options(py, options)?;
            let mut action = pending_approval(pending)?.action();
            if let Some(passport) = optional("passport", passport)? {
                action = action.passport(passport);
            }
            if let Some(wait) = seconds_argument("wait_for_approval", wait_for_approval)? {
                action = action.wait_for_approval(wait);
            }
            self.start_authorization(py, "resume", options, action, flag("record_outcome", record_outcome)?)
        })
    }

    #[pyo3(signature = (approval, timeout, options = None))]
    fn wait_for_approval<'py>(
        &self,
        py: Python<'py>,
        approval: Required<'_, 'py>,
        timeout: Argument<'_, 'py>,
        options: Option<CallArguments<'py>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        catch_panic_in_call(py, "wait_for_approval", || {
            let options = self.options(py, options)?;
            let id = match approval.is_instance_of::<PyString>() {
                true => string("approval", approval)?,
                false => pending_approval(approval)?.id().to_owned(),
            };
            let timeout = seconds_argument("timeout", timeout)?.unwrap_or_default();
            let call = |actpass: ActPass| async move { actpass.wait_for_approval(&id, timeout).await };
            self.ask(py, "wait_for_approval", options, call, |approval| approval.as_json())
        })
    }

    #[pyo3(signature = (wanted, default = None, options = None))]
    fn issue_passport<'py>(
        &self,
        py: Python<'py>,
        wanted: IssueArguments<'py>,
        default: Argument<'_, 'py>,
        options: Option<CallArguments<'py>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        catch_panic_in_call(py, "issue_passport", || {
            let options = self.options(py, options)?;
            let wanted = wanted.convert(default)?;
            let call = |actpass: ActPass| async move { actpass.issue_passport(&wanted).await };
            self.ask(py, "issue_passport", options, call, |issued| issued.as_json())
        })
    }

    #[pyo3(signature = (wanted, options = None))]
    fn verify_passport<'py>(
        &self,
        py: Python<'py>,
        wanted: VerifyArguments<'py>,
        options: Option<CallArguments<'py>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        catch_panic_in_call(py, "verify_passport", || {
            let options = self.options(py, options)?;
            let wanted = wanted.convert()?;
            let call = |actpass: ActPass| async move { actpass.verify_passport(&wanted).await };
            self.ask(py, "verify_passport", options, call, |verified| verified.as_json())
        })
    }

    #[pyo3(signature = (wanted, options = None))]
    fn verify_passport_offline<'py>(
        &self,
        py: Python<'py>,
        wanted: OfflineVerifyArguments<'py>,
        options: Option<CallArguments<'py>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        catch_panic_in_call(py, "verify_passport_offline", || {
            let options = self.options(py, options)?;
            let wanted = wanted.convert()?;
            let call = |actpass: ActPass| async move { actpass.verify_passport_offline(&wanted).await };
            self.ask(py, "verify_passport_offline", options, call, |verified| verified.as_json())
        })
    }

    #[pyo3(signature = (jti, reason, options = None))]
    fn revoke_passport<'py>(
        &self,
        py: Python<'py>,
        jti: Required<'_, 'py>,
        reason: Argument<'_, 'py>,
        options: Option<CallArguments<'py>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        catch_panic_in_call(py, "revoke_passport", || {
            let options = self.options(py, options)?;
            let (jti, reason) = (string("jti", jti)?, optional("reason", reason)?);
            let call =
                |actpass: ActPass| async move { actpass.revoke_passport(&jti, reason.as_deref()).await };
            self.ask(py, "revoke_passport", options, call, |revoked| revoked.as_json())
        })
    }

    #[pyo3(signature = (event, default = None, options = None))]
    fn record_evidence<'py>(
        &self,
        py: Python<'py>,
        event: EvidenceArguments<'py>,
        default: Argument<'_, 'py>,
        options: Option<CallArguments<'py>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        catch_panic_in_call(py, "record_evidence", || {
            let options = self.options(py, options)?;
            let event = event.convert(default)?;
            let call = |actpass: ActPass| async move { actpass.record_evidence(&event).await };
            self.ask(py, "record_evidence", options, call, |recorded| recorded.as_json())
        })
    }

    #[getter]
    fn base_url(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.bridge(py)?.base_url().to_owned())
    }

    #[getter]
    fn tenant_id(&self, py: Python<'_>) -> PyResult<Option<String>> {
        Ok(self.bridge(py)?.tenant_id().map(str::to_owned))
    }

    #[getter]
    fn agent_id(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.bridge(py)?.agent_id().to_owned())
    }

    #[getter]
    fn timeout(&self, py: Python<'_>) -> PyResult<f64> {
        let timeout = self.bridge(py)?.timeout();
        Ok(self.options.timeout().unwrap_or(timeout).as_secs_f64())
    }

    #[getter]
    fn mode(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(self.bridge(py)?.mode().as_str())
    }

    #[getter]
    fn circuit(&self, py: Python<'_>) -> PyResult<&'static str> {
        Ok(self.bridge(py)?.circuit().as_str())
    }

    fn close(&self) {
        self.bridge.store(None);
    }
}

impl Client {
    fn of(bridge: Bridge) -> Self {
        let bridge = Arc::new(arc_swap::ArcSwapOption::from_pointee(bridge));
        Self { bridge, options: CallOptions::default() }
    }

    /// The limits of a call: its own, else the client's.
    fn options(&self, py: Python<'_>, given: Option<CallArguments<'_>>) -> PyResult<CallOptions> {
        let given = given.map(|given| given.convert(py)).transpose()?.unwrap_or_default();
        Ok(given.or(self.options))
    }

    /// Makes a call whose result is a JSON document.
    fn ask<'py, T, F>(
        &self,
        py: Python<'py>,
        called: &'static str,
        options: CallOptions,
        call: impl FnOnce(ActPass) -> F + Send,
        document: fn(&T) -> &str,
    ) -> PyResult<Bound<'py, PyAny>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        self.bridge(py)?.call(py, options, call, move |py, answer| match answer {
            Ok(answer) => from_json(py, document(&answer)),
            Err(error) => Err(raise_from(py, &error, Some(called))),
        })
    }

    fn authorization<'py>(
        &self,
        py: Python<'py>,
        called: &'static str,
        action: ActionArguments<'py>,
        record_outcome: Required<'_, 'py>,
        default: Argument<'_, 'py>,
        options: Option<CallArguments<'py>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        catch_panic_in_call(py, called, || {
            let options = self.options(py, options)?;
            let record = flag("record_outcome", record_outcome)?;
            self.start_authorization(py, called, options, action.convert(default)?, record)
        })
    }

    fn start_authorization<'py>(
        &self,
        py: Python<'py>,
        called: &'static str,
        options: CallOptions,
        action: Action,
        record: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bridge = Bridge::clone(&*self.bridge(py)?);
        let request = bridge.prepare(action).map_err(|error| in_call(py, raise(py, &error), called))?;
        let (prepared, recorder) = (request.clone(), record.then(|| bridge.clone()));
        let call = move |actpass: ActPass| async move {
            Ok(GuardSession::authorize(&actpass, prepared, record).await)
        };
        bridge.call(py, options, call, move |py, verdict_result| {
            let verdict_result = verdict_result
                .unwrap_or_else(|failure| GuardSession::for_failure(request.clone(), failure, record));
            verdict(py, verdict_result, request, called, recorder)
        })
    }

    fn bridge(&self, py: Python<'_>) -> PyResult<Arc<Bridge>> {
        self.bridge
            .load_full()
            .ok_or_else(|| raise(py, &Error::new(ErrorKind::Config, "client: closed; create a new one")))
    }
}

/// The JSON text of a value, as it is sent. `default` converts values that are not JSON.
#[pyfunction]
#[pyo3(signature = (member, value, default = None))]
pub(crate) fn json_text(
    py: Python<'_>,
    member: &str,
    value: Required<'_, '_>,
    default: Argument<'_, '_>,
) -> PyResult<String> {
    catch_panic(py, || to_json_by(member, value, default))
}

/// The value of such a text: a private copy.
#[pyfunction]
pub(crate) fn json_value<'py>(py: Python<'py>, member: &str, text: &str) -> PyResult<Bound<'py, PyAny>> {
    catch_panic(py, || read_json(py, member, text))
}

/// The SHA-256 of a value's canonical JSON.
#[pyfunction]
pub(crate) fn hash_payload(py: Python<'_>, payload: Required<'_, '_>) -> PyResult<String> {
    catch_panic(py, || {
        let payload = json("payload", payload)?;
        actpass_core::hash_payload(&payload).map_err(|error| raise(py, &error.into()))
    })
}

/// The HMAC-SHA256 of a value's canonical JSON.
#[pyfunction]
pub(crate) fn sign_payload(
    py: Python<'_>,
    secret: Required<'_, '_>,
    payload: Required<'_, '_>,
) -> PyResult<String> {
    catch_panic(py, || {
        let secret = Secret::new(string("secret", secret)?);
        let payload = json("payload", payload)?;
        actpass_core::sign_payload(secret.expose().as_bytes(), &payload)
            .map_err(|error| raise(py, &error.into()))
    })
}

/// The thumbprint of a DPoP key.
#[pyfunction]
pub(crate) fn dpop_thumbprint(py: Python<'_>, dpop_key: Required<'_, '_>) -> PyResult<String> {
    catch_panic(py, || {
        let key = Secret::new(string("dpop_key", dpop_key)?);
        actpass_core::dpop_thumbprint(&key).map_err(|error| raise(py, &error.into()))
    })
}

/// A setting of the wrong type is a configuration error, not an argument error.
fn wrong_setting(member: &str, expected: &str, found: &Bound<'_, PyAny>) -> PyErr {
    let problem = format!("{member}: expected {expected}, found {}", type_name(found));
    raise(found.py(), &Error::new(ErrorKind::Config, problem))
}

fn as_config(py: Python<'_>, error: &InvalidArgument) -> PyErr {
    raise(py, &Error::new(ErrorKind::Config, error.to_string()))
}

fn required_setting(member: &str, value: Required<'_, '_>) -> PyResult<String> {
    let text = value.cast::<PyString>().map_err(|_| wrong_setting(member, "a string", value))?;
    Ok(text.to_cow().map_err(|_| wrong_setting(member, "text in Unicode", value))?.into_owned())
}

fn setting(member: &str, value: Argument<'_, '_>) -> PyResult<Option<String>> {
    value.map(|value| required_setting(member, value)).transpose()
}

fn seconds(member: &str, value: Required<'_, '_>) -> PyResult<std::time::Duration> {
    let seconds = number(value).ok_or_else(|| wrong_setting(member, "seconds as a number", value))?;
    actpass_core::seconds(member, seconds).map_err(|error| raise(value.py(), &error))
}

fn whole_setting(member: &str, value: Required<'_, '_>) -> PyResult<u32> {
    let number = whole_number(member, value);
    let number = number.map_err(|_| wrong_setting(member, "a non-negative integer", value))?;
    actpass_core::whole_number(member, number).map_err(|error| raise(value.py(), &error))
}

fn switch(member: &str, value: Required<'_, '_>) -> PyResult<bool> {
    value.extract::<bool>().map_err(|_| wrong_setting(member, "True or False", value))
}

/// A boolean argument of a call.
fn flag(member: &str, value: Required<'_, '_>) -> PyResult<bool> {
    value.extract::<bool>().map_err(|_| wrong_type(member, "True or False", value))
}

/// The handle from an outcome's `approval`.
fn pending_approval(pending: Required<'_, '_>) -> PyResult<PendingApproval> {
    PendingApproval::parse(&to_json("pending", pending)?).map_err(|error| raise(pending.py(), &error))
}

/// PEM certificates, as `str` or `bytes`.
fn pem(value: Required<'_, '_>) -> PyResult<Vec<u8>> {
    match value.cast::<PyBytes>() {
        Ok(bytes) => Ok(bytes.as_bytes().to_vec()),
        Err(_) => required_setting("ca", value)
            .map(String::into_bytes)
            .map_err(|_| wrong_setting("ca", "certificates in PEM, as str or bytes", value)),
    }
}
