//! The two steps of the guard. The face runs the caller's function between them, in the caller's own thread.

use std::sync::{Mutex, OnceLock, PoisonError};

use actpass_core::{
    ActPass, Action, CallOptions, Decision, Ended, InvalidArgument, Outcome, Settlement, Verdict,
    canonical_outcome as canonical,
};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::arguments::arguments;
use crate::convert::{
    Function, argument, from_json, json, number, optional, seconds_argument, string, to_json, to_json_by,
    whole_number, wrong_type,
};
use crate::enter::enter;
use crate::error::{exception, raise};
use crate::runtime::Door;

arguments! {
    /// An action, by the parameters of the face.
    ActionArguments {
        goal, tool, args, resource;
        user_id, passport, mode, idempotency_key, audience, approval_request_id, tool_manifest_hash,
        wait_for_approval,
    }
}

impl ActionArguments<'_> {
    /// `default` converts what in the arguments is not JSON.
    pub(crate) fn convert(self, default: Option<&Bound<'_, PyAny>>) -> PyResult<Action> {
        let mut action = Action::new(string("goal", &self.goal)?, string("tool", &self.tool)?)
            .resource(string("resource", &self.resource)?)
            .args_text(to_json_by("args", &self.args, default)?);
        if let Some(mode) = optional("mode", self.mode.as_ref())? {
            let mode = mode.parse().map_err(|error: InvalidArgument| raise(self.goal.py(), &error.into()))?;
            action = action.mode(mode);
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

/// A verdict of the method `called`: `(permit, None)` or `(None, outcome)`. `recorder` is the client by which the outcome
/// is to be recorded.
pub(crate) fn verdict<'py>(
    py: Python<'py>,
    verdict: Verdict,
    called: &'static str,
    recorder: Option<Door>,
) -> PyResult<Bound<'py, PyAny>> {
    let (permit, outcome) = match verdict {
        Verdict::Blocked(blocked) => {
            (None, Some(report(py, Outcome::<Py<PyAny>, Py<PyAny>>::Blocked(blocked), called)?))
        }
        Verdict::Proceed(permit) => {
            let state = Mutex::new(State::Granted(permit));
            (Some(Permit { state, request_id: OnceLock::new(), called, recorder }), None)
        }
    };
    (permit, outcome).into_bound_py_any(py)
}

/// Leave to run the action, once.
#[pyclass(frozen, module = "actpass._native")]
pub(crate) struct Permit {
    state: Mutex<State>,
    /// Known once it is spent.
    request_id: OnceLock<String>,
    called: &'static str,
    recorder: Option<Door>,
}

enum State {
    Granted(actpass_core::Permit),
    Running(Settlement),
    Settled,
}

#[pymethods]
impl Permit {
    /// Spends the permit for the context that the action is given.
    fn spend<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let State::Granted(permit) = self.replace(State::Settled) else {
            return Err(PyRuntimeError::new_err("the permit is spent"));
        };
        enter(py, || {
            let spent = permit.spend(&actpass_core::TokioClock);
            let (context, settlement) = spent.map_err(|_| PyRuntimeError::new_err("the permit is void"))?;
            let given = PyDict::new(py);
            let credential =
                context.credential().map(|credential| from_json(py, credential.as_json())).transpose()?;
            given.set_item("credential", credential)?;
            given.set_item("decision", from_json(py, context.decision().as_json())?)?;
            if let Some(request_id) = context.decision().request_id() {
                let _ = self.request_id.set(request_id.to_owned());
            }
            self.replace(State::Running(settlement));
            Ok(given)
        })
    }

    /// The `x-request-id` of the decision, once the permit is spent.
    #[getter]
    fn request_id(&self) -> Option<&str> {
        self.request_id.get().map(String::as_str)
    }

    /// Rules again, because the arguments are no longer those that were judged: a verdict like that of `authorize`.
    fn arguments_changed<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let State::Granted(permit) = self.replace(State::Settled) else {
            return Err(PyRuntimeError::new_err("the permit is spent"));
        };
        enter(py, || verdict(py, permit.arguments_changed(), self.called, self.recorder.clone()))
    }

    /// The outcome of an action that returned `result`, and what comes of recording it: members of the outcome, or a call
    /// for them.
    fn returned<'py>(&self, py: Python<'py>, result: Py<PyAny>) -> PyResult<Settled<'py>> {
        self.settle(py, Ok(result))
    }

    /// The same of an action that raised `error`.
    fn failed<'py>(&self, py: Python<'py>, error: Py<PyAny>) -> PyResult<Settled<'py>> {
        self.settle(py, Err(error))
    }

    /// Records an action that was stopped, without waiting for it. What stopped it is not to be replaced, so a failure
    /// is dropped.
    fn abandoned(&self, py: Python<'_>) {
        if let (State::Running(settlement), Some(door)) = (self.replace(State::Settled), &self.recorder) {
            let _ = enter(py, || {
                let recording = settlement.recording(Ended::Cancelled, None);
                door.tell(|actpass| async move { actpass.record(&recording).await });
                Ok(())
            });
        }
    }
}

type Settled<'py> = (Bound<'py, PyAny>, Option<Bound<'py, PyAny>>);

impl Permit {
    fn settle<'py>(&self, py: Python<'py>, ended: Result<Py<PyAny>, Py<PyAny>>) -> PyResult<Settled<'py>> {
        let State::Running(settlement) = self.replace(State::Settled) else {
            return Err(PyRuntimeError::new_err("the permit is not running"));
        };
        let recording = self.recorder.as_ref().map(|door| record(py, door, &settlement, &ended)).transpose();
        let outcome = report(py, settlement.settle(ended), self.called)?;
        match recording {
            Ok(recording) => Ok((outcome, recording)),
            Err(stop) => Err(carrying(py, stop, &outcome)),
        }
    }

    fn replace(&self, state: State) -> State {
        std::mem::replace(&mut *self.state.lock().unwrap_or_else(PoisonError::into_inner), state)
    }
}

/// Records how an action ended: members of the outcome that say what came of it, or a call for them. What stops the program
/// is an error.
fn record<'py>(
    py: Python<'py>,
    door: &Door,
    settlement: &Settlement,
    ended: &Result<Py<PyAny>, Py<PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let recorded = enter(py, || {
        // What is not JSON has no hash.
        let response = ended.as_ref().ok().and_then(|result| json("result", result.bind(py)).ok());
        let how = if ended.is_ok() { Ended::Returned } else { Ended::Failed };
        let recording = settlement.recording(how, response.as_ref());
        let call = |actpass: ActPass| async move { actpass.record(&recording).await };
        door.call(py, CallOptions::default(), call, |py, recorded| match recorded {
            Ok(recorded) => member(py, "evidence", from_json(py, recorded.as_json())?),
            Err(error) => member(py, "evidence_error", exception(py, &error, None)?),
        })
    });
    match recorded {
        // What a handler of signals raised, or a defect of the SDK: the action has run, and is reported.
        Err(error) if error.is_instance_of::<PyException>(py) => {
            member(py, "evidence_error", error.into_value(py).into_bound(py).into_any())
        }
        recorded => recorded,
    }
}

/// What stops the program, with the outcome of the action that has run.
fn carrying(py: Python<'_>, stop: PyErr, outcome: &Bound<'_, PyAny>) -> PyErr {
    static CARRY: Function = Function::of("actpass._telemetry", "carry");
    // If the outcome cannot be attached, the stop still passes.
    let _ = CARRY.bound(py).and_then(|carry| carry.call1((stop.value(py), outcome)));
    stop
}

fn member<'py>(py: Python<'py>, name: &str, value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let members = PyDict::new(py);
    members.set_item(name, value)?;
    Ok(members.into_any())
}

fn report<'py>(
    py: Python<'py>,
    outcome: Outcome<Py<PyAny>, Py<PyAny>>,
    called: &str,
) -> PyResult<Bound<'py, PyAny>> {
    enter(py, || {
        let reported = PyDict::new(py);
        let request_id = outcome.decision().request_id().map(str::to_owned);
        reported.set_item("decision", from_json(py, outcome.decision().as_json())?)?;
        reported.set_item("executed", outcome.executed())?;
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
                reported.set_item("result", result)?;
                gate_error
            }
        };
        if let Some(error) = gate_error {
            reported.set_item("error", exception(py, &error, Some(called))?)?;
        }
        let attributes = PyDict::new(py);
        attributes.set_item("request_id", request_id)?;
        // Not kept: a class belongs to its interpreter, of which a process may have several.
        py.import("actpass._outcome")?.getattr("GuardOutput")?.call((reported,), Some(&attributes))
    })
}

/// The outcome of a guard in the form that is the same in every language, canonical JSON.
#[pyfunction]
pub(crate) fn canonical_outcome(py: Python<'_>, outcome: &Bound<'_, PyDict>) -> PyResult<String> {
    enter(py, || {
        let needed = |name: &str| {
            outcome
                .get_item(name)?
                .ok_or_else(|| argument(py, "outcome", format_args!("expected its member {name:?}")))
        };
        let executed = needed("executed")?.extract()?;
        let decision = Decision::parse(to_json("decision", &needed("decision")?)?.as_bytes())
            .map_err(|problem| argument(py, "decision", problem))?;
        let error = outcome.get_item("error")?;
        let kind = error.as_ref().and_then(|error| error.getattr("kind").ok()?.cast_into::<PyString>().ok());
        let kind = kind.map(|kind| kind.to_string());
        let status = error.as_ref().and_then(|error| error.getattr("status").ok()?.extract::<u16>().ok());
        let error =
            error.is_some().then(|| (kind.as_deref().unwrap_or("action"), status.filter(|_| kind.is_some())));
        canonical(executed, &decision, error).map_err(|error| raise(py, &error))
    })
}
