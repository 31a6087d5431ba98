//! The guard as a session. Between its steps the Python layer runs the caller's function in the
//! caller's thread.

use std::sync::{Mutex, PoisonError};

use actpass_core::engine::Begun;
use actpass_core::{
    ActPass, Action, ActionEnd, BlockFailure, BlockTexts, Blocked, CallOptions, Decision, Error, ErrorKind,
    ExecutionContext, InvalidArgument, Outcome, PreparedAction, Recording, canonical_outcome as canonical,
};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use pyo3::{IntoPyObjectExt, intern};

use crate::arguments::arguments;
use crate::convert::{
    CachedObject, argument, class, copy_json, from_json, json, number, optional, seconds_argument, string,
    to_json, to_json_by, whole_number, wrong_type,
};
use crate::error::{exception, in_call, is_of_an_argument, raise};
use crate::halts::NativeHaltSignal;
use crate::panic::{catch_panic, catch_panic_in_call};
use crate::runtime::Bridge;

arguments! {
    /// An action, by parameter name. `args_text` replaces `args` if they are already serialized.
    ActionArguments {
        goal, tool, args, resource;
        args_text, agent_id, user_id, passport, mode, idempotency_key, audience, approval_request_id, tool_manifest_hash,
        wait_for_approval,
    }
}

impl ActionArguments<'_> {
    /// `default` converts arguments that are not JSON.
    pub(crate) fn convert(self, default: Option<&Bound<'_, PyAny>>) -> PyResult<Action> {
        let mut action = Action::new(string("goal", &self.goal)?, string("tool", &self.tool)?)
            .resource(string("resource", &self.resource)?)
            .args_text(match &self.args_text {
                Some(text) => string("args", text)?,
                None => to_json_by("args", &self.args, default)?,
            });
        if let Some(mode) = optional("mode", self.mode.as_ref())? {
            let mode = mode.parse().map_err(|error: InvalidArgument| raise(self.goal.py(), &error.into()))?;
            action = action.mode(mode);
        }
        if let Some(agent_id) = optional("agent_id", self.agent_id.as_ref())? {
            action = action.agent_id(agent_id);
        }
        if let Some(user_id) = optional("user_id", self.user_id.as_ref())? {
            action = action.user_id(user_id);
        }
        if let Some(passport) = optional("passport", self.passport.as_ref())? {
            action = action.passport(passport);
        }
        if let Some(key) = optional("idempotency_key", self.idempotency_key.as_ref())? {
            action = action.idempotency_key(key);
        }
        if let Some(audience) = optional("audience", self.audience.as_ref())? {
            action = action.audience(audience);
        }
        if let Some(id) = optional("approval_request_id", self.approval_request_id.as_ref())? {
            action = action.approval_request_id(id);
        }
        if let Some(hash) = optional("tool_manifest_hash", self.tool_manifest_hash.as_ref())? {
            action = action.tool_manifest_hash(hash);
        }
        if let Some(wait) = seconds_argument("wait_for_approval", self.wait_for_approval.as_ref())? {
            action = action.wait_for_approval(wait);
        }
        Ok(action)
    }
}

arguments! {
    /// The limits of one call.
    CallArguments { ; timeout, max_retries }
}

impl CallArguments<'_> {
    pub(crate) fn convert(self, py: Python<'_>) -> PyResult<CallOptions> {
        let seconds = |given: Bound<'_, PyAny>| {
            number(&given).ok_or_else(|| wrong_type("timeout", "seconds as a number", &given))
        };
        let timeout = self.timeout.map(seconds).transpose()?;
        let max_retries =
            self.max_retries.map(|retries| whole_number("max_retries", &retries)).transpose()?;
        CallOptions::from_numbers(timeout, max_retries).map_err(|error| raise(py, &error))
    }
}

/// Converts a verdict to `(session, None)`, or to `(None, outcome)` if the action may not run.
/// `recorder` is the client that records the outcome.
pub(crate) fn verdict<'py>(
    py: Python<'py>,
    result: Result<actpass_session::GuardSession, Box<Blocked>>,
    request: PreparedAction,
    called: &'static str,
    recorder: Option<Bridge>,
) -> PyResult<Bound<'py, PyAny>> {
    match result {
        Err(blocked) => (None::<GuardSession>, Some(blocked_outcome(py, *blocked, called)?)),
        Ok(session) => {
            let request_id = session.decision().and_then(|decision| decision.request_id().map(str::to_owned));
            let decision = Mutex::new(None);
            (Some(GuardSession { session, request_id, request, called, recorder, decision }), None)
        }
    }
    .into_bound_py_any(py)
}

/// A session of the core with Python state.
#[pyclass(frozen, module = "actpass._native")]
pub(crate) struct GuardSession {
    session: actpass_session::GuardSession,
    /// The `x-request-id` of the decision.
    #[pyo3(get)]
    request_id: Option<String>,
    /// The evaluated action.
    request: PreparedAction,
    called: &'static str,
    recorder: Option<Bridge>,
    /// The decision of the running function, and a copy of the objects that it received, for the outcome: the function may
    /// change its own. They refer to no objects of the caller.
    decision: Mutex<Option<(Decision, Py<PyAny>)>>,
}

#[pymethods]
impl GuardSession {
    /// The decision that permits the action; `None` after it has begun.
    #[getter]
    fn decision<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        catch_panic(py, || {
            self.session.decision().map(|decision| from_json(py, decision.as_json())).transpose()
        })
    }

    #[getter]
    fn records_outcome(&self) -> bool {
        self.session.records_outcome()
    }

    /// Spends the permit. Returns `(context, None)`, or `(None, outcome)` if the action may no
    /// longer run. `args` and `resource` are the current ones, if they may have changed; `default`
    /// converts values that are not JSON.
    #[pyo3(signature = (args = None, resource = None, default = None))]
    fn begin<'py>(
        &self,
        py: Python<'py>,
        args: Option<Bound<'py, PyAny>>,
        resource: Option<Bound<'py, PyAny>>,
        default: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        catch_panic_in_call(py, self.called, || {
            let now = match (args, resource) {
                (None, None) => None,
                (args, resource) => Some(self.now(py, args, resource, default)?),
            };
            match self.session.begin(now.as_ref()).map_err(|error| raise(py, &error))? {
                Begun::Blocked(blocked) => {
                    (None::<Bound<'_, PyDict>>, Some(blocked_outcome(py, blocked, self.called)?))
                }
                Begun::Running(context) => {
                    let decision = from_json(py, context.decision().as_json())?;
                    let copy = copy_json(&decision)?.unbind();
                    *self.decision.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some((context.decision().clone(), copy));
                    (Some(execution_context(py, &context, decision)?), None)
                }
            }
            .into_bound_py_any(py)
        })
    }

    /// The outcome of an action that returned `result`, and its recording: members of the outcome,
    /// or an awaitable for them; `None` if outcomes are not recorded.
    fn returned<'py>(&self, py: Python<'py>, result: Py<PyAny>) -> PyResult<Reported<'py>> {
        self.finish(py, Ok(result))
    }

    /// The same for an action that raised `error`.
    fn failed<'py>(&self, py: Python<'py>, error: Py<PyAny>) -> PyResult<Reported<'py>> {
        self.finish(py, Err(error))
    }

    /// Records that an action was cancelled, without waiting.
    fn cancelled(&self, py: Python<'_>) -> PyResult<()> {
        self.stopped(py, ActionEnd::Cancelled)
    }

    /// Records that a framework's control-flow signal suspended an action, without waiting.
    fn suspended(&self, py: Python<'_>) -> PyResult<()> {
        self.stopped(py, ActionEnd::Suspended)
    }
}

type Reported<'py> = (Bound<'py, PyAny>, Option<Bound<'py, PyAny>>);

impl GuardSession {
    fn stopped(&self, py: Python<'_>, ended: ActionEnd) -> PyResult<()> {
        let finished = self.session.finish(ended, None);
        let (_settlement, recording) =
            finished.map_err(|error| in_call(py, raise(py, &error), self.called))?;
        if let (Some(recording), Some(bridge)) = (recording, &self.recorder) {
            // A failure must not replace the stop.
            let _ = catch_panic(py, || {
                bridge.spawn(|actpass| async move { actpass.record(&recording).await });
                Ok(())
            });
        }
        Ok(())
    }

    /// The action as it is about to run.
    fn now<'py>(
        &self,
        py: Python<'py>,
        args: Option<Bound<'py, PyAny>>,
        resource: Option<Bound<'py, PyAny>>,
        default: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Action> {
        let mut now = self.request.action().clone();
        if let Some(args) = args {
            now = now.args_text(match to_json_by("args", &args, default) {
                Ok(args) => args,
                // Arguments that cannot be encoded differ from the evaluated ones.
                Err(error) if is_of_an_argument(py, &error)? => String::new(),
                Err(error) => return Err(error),
            });
        }
        if let Some(resource) = resource {
            now = now.resource(string("resource", &resource)?);
        }
        Ok(now)
    }

    fn finish<'py>(&self, py: Python<'py>, ended: Result<Py<PyAny>, Py<PyAny>>) -> PyResult<Reported<'py>> {
        // A result that is not JSON has no hash.
        let response = match &ended {
            Ok(result) if self.session.records_outcome() => {
                catch_panic(py, || json("result", result.bind(py))).map(Some)
            }
            Ok(_) | Err(_) => Ok(None),
        };
        let how = if ended.is_ok() { ActionEnd::Returned } else { ActionEnd::Failed };
        let finished = self.session.finish(how, response.as_ref().ok().and_then(Option::as_ref));
        let (settlement, recording) =
            finished.map_err(|error| in_call(py, raise(py, &error), self.called))?;
        let recording = recording.zip(self.recorder.as_ref());
        let recording = recording.map(|(recording, bridge)| record(py, bridge, recording)).transpose();
        let decision = self.decision.lock().unwrap_or_else(PoisonError::into_inner).take();
        let outcome = outcome(py, settlement.settle(ended), decision, self.called)?;
        let stop = response.err().filter(|error| !error.is_instance_of::<PyException>(py));
        match (stop, recording) {
            (None, Ok(recording)) => Ok((outcome, recording)),
            (Some(stop), _) | (None, Err(stop)) => Err(with_outcome(py, stop, &outcome)),
        }
    }
}

/// The context for the function, with its decision.
fn execution_context<'py>(
    py: Python<'py>,
    context: &ExecutionContext,
    decision: Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyDict>> {
    let given = PyDict::new(py);
    let credential =
        context.credential().map(|credential| from_json(py, credential.as_json())).transpose()?;
    given.set_item(intern!(py, "credential"), credential)?;
    given.set_item(intern!(py, "decision"), decision)?;
    let signal = class(intern!(py, "actpass._halt"), intern!(py, "HaltSignal"))?;
    let signal = signal.call1((NativeHaltSignal::new(context.halt()),))?;
    given.set_item(intern!(py, "halt"), signal)?;
    Ok(given)
}

/// Records how an action ended. Returns the outcome's members with the result of recording, or an
/// awaitable for them. An exception that stops the program propagates.
fn record<'py>(py: Python<'py>, bridge: &Bridge, recording: Recording) -> PyResult<Bound<'py, PyAny>> {
    let recorded = catch_panic(py, || {
        let call = |actpass: ActPass| async move { actpass.record(&recording).await };
        bridge.call(py, CallOptions::default(), call, |py, recorded| match recorded {
            Ok(recorded) => member(py, "evidence", from_json(py, recorded.as_json())?),
            Err(error) => member(py, "evidence_error", exception(py, &error, None)?),
        })
    });
    match recorded {
        // An exception of a signal handler, or a defect of the SDK. The action has run, so its
        // outcome is reported.
        Err(error) if error.is_instance_of::<PyException>(py) => {
            member(py, "evidence_error", error.into_value(py).into_bound(py).into_any())
        }
        recorded => recorded,
    }
}

/// Attaches the outcome of the action that ran to an exception that stops the program.
fn with_outcome(py: Python<'_>, stop: PyErr, outcome: &Bound<'_, PyAny>) -> PyErr {
    static CARRY: CachedObject = CachedObject::of("actpass._telemetry", "carry");
    // If the outcome cannot be attached, the exception still propagates.
    let _ = CARRY.bound(py).and_then(|carry| carry.call1((stop.value(py), outcome)));
    stop
}

fn member<'py>(py: Python<'py>, name: &str, value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let members = PyDict::new(py);
    members.set_item(name, value)?;
    Ok(members.into_any())
}

fn blocked_outcome<'py>(py: Python<'py>, blocked: Blocked, called: &str) -> PyResult<Bound<'py, PyAny>> {
    let texts = blocked.texts();
    let outcome = outcome(py, Outcome::<Py<PyAny>, Py<PyAny>>::Blocked(blocked), None, called)?;
    outcome.setattr("_texts", (texts.model, texts.developer, texts.is_retryable))?;
    Ok(outcome)
}

/// The outcome as Python objects. `converted` are the objects of a decision that was converted before.
fn outcome<'py>(
    py: Python<'py>,
    outcome: Outcome<Py<PyAny>, Py<PyAny>>,
    converted: Option<(Decision, Py<PyAny>)>,
    called: &str,
) -> PyResult<Bound<'py, PyAny>> {
    catch_panic(py, || {
        let class = class(intern!(py, "actpass._outcome"), intern!(py, "GuardOutcome"))?;
        let object = class.call_method1(intern!(py, "__new__"), (&class,))?;
        let reported = object.cast::<PyDict>()?;
        let decision = match converted {
            Some((decision, converted)) if decision.as_json() == outcome.decision().as_json() => {
                converted.into_bound(py)
            }
            Some(_) | None => from_json(py, outcome.decision().as_json())?,
        };
        reported.set_item(intern!(py, "decision"), decision)?;
        reported.set_item(intern!(py, "executed"), outcome.executed())?;
        if let Some(request_id) = outcome.decision().request_id() {
            object.setattr(intern!(py, "request_id"), request_id)?;
        }
        let gate_error = match outcome {
            Outcome::Blocked(blocked) => {
                if let Some(approval) = blocked.approval() {
                    reported.set_item("approval", from_json(py, &approval.to_json())?)?;
                }
                blocked.error().cloned()
            }
            Outcome::Failed { error, .. } => {
                reported.set_item("error", error)?;
                None
            }
            Outcome::Returned { result, gate_error, .. } => {
                reported.set_item(intern!(py, "result"), result)?;
                gate_error
            }
        };
        if let Some(error) = gate_error {
            reported.set_item("error", exception(py, &error, Some(called))?)?;
        }
        Ok(object)
    })
}

/// The outcome of a tool to which no action is mapped. Sends nothing.
#[pyfunction]
pub(crate) fn unmapped_tool<'py>(tool: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    catch_panic(tool.py(), || {
        blocked_outcome(tool.py(), Blocked::unmapped_tool(string("tool", tool)?), "unmapped_tool")
    })
}

/// The outcome of a tool whose arguments cannot be sent, for the reason `problem`. Sends nothing.
#[pyfunction]
pub(crate) fn invalid_argument<'py>(tool: &Bound<'py, PyAny>, problem: &str) -> PyResult<Bound<'py, PyAny>> {
    catch_panic(tool.py(), || {
        let error = Error::new(ErrorKind::Argument, problem);
        let blocked = Blocked::invalid_argument(string("tool", tool)?, error);
        blocked_outcome(tool.py(), blocked, "invalid_argument")
    })
}

/// The texts of a block created by a test or another process: `(model, developer, retryable)`.
#[pyfunction]
pub(crate) fn block_texts(
    py: Python<'_>,
    tool: &str,
    decision: &Bound<'_, PyAny>,
    failure: Option<(String, bool, bool)>,
    approval: Option<&str>,
) -> PyResult<(String, String, bool)> {
    catch_panic(py, || {
        let decision = parsed_decision(decision)?;
        let failure = failure.map(|(message, is_retryable, is_of_an_argument)| BlockFailure {
            message: message.into(),
            is_retryable,
            is_of_an_argument,
        });
        let texts = BlockTexts::of(tool, &decision, failure.as_ref(), approval);
        Ok((texts.model, texts.developer, texts.is_retryable))
    })
}

fn parsed_decision(decision: &Bound<'_, PyAny>) -> PyResult<Decision> {
    Decision::parse(to_json("decision", decision)?.as_bytes())
        .map_err(|problem| argument(decision.py(), "decision", problem))
}

/// The outcome as canonical JSON, the same in every language.
#[pyfunction]
pub(crate) fn canonical_outcome(py: Python<'_>, outcome: &Bound<'_, PyDict>) -> PyResult<String> {
    catch_panic(py, || {
        let needed = |name: &str| {
            outcome
                .get_item(name)?
                .ok_or_else(|| argument(py, "outcome", format_args!("expected its member {name:?}")))
        };
        let executed = needed("executed")?.extract()?;
        let decision = parsed_decision(&needed("decision")?)?;
        let error = outcome.get_item("error")?;
        let kind = error.as_ref().and_then(|error| error.getattr("kind").ok()?.cast_into::<PyString>().ok());
        let kind = kind.map(|kind| kind.to_string());
        let status = error.as_ref().and_then(|error| error.getattr("status").ok()?.extract::<u16>().ok());
        let error =
            error.is_some().then(|| (kind.as_deref().unwrap_or("action"), status.filter(|_| kind.is_some())));
        canonical(executed, &decision, error).map_err(|error| raise(py, &error))
    })
}

/// The outcome of a call without a valid passport. `errors` are the codes of a verification. Sends
/// nothing.
#[pyfunction]
pub(crate) fn invalid_passport<'py>(
    tool: &Bound<'py, PyAny>,
    errors: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    catch_panic(tool.py(), || {
        let errors: Vec<String> = errors.extract()?;
        blocked_outcome(
            tool.py(),
            Blocked::invalid_passport(string("tool", tool)?, &errors),
            "invalid_passport",
        )
    })
}
