//! The two steps of the guard. The face runs the caller's function between them, in the caller's own thread.

use std::sync::{Arc, Mutex, PoisonError};

use actpass_core::runtime::Host;
use actpass_core::{Action, Decision, Outcome, Settlement, Verdict, canonical_outcome as canonical};
use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::convert::{argument, from_json, json, optional, seconds_argument, string, to_json};
use crate::error::{exception, raise};
use crate::runtime::{enter, wait};

/// The members of an action, in the order of the face's parameters.
#[derive(FromPyObject)]
pub(crate) struct ActionArguments<'py>(
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
);

impl ActionArguments<'_> {
    pub(crate) fn convert(self) -> PyResult<Action> {
        let Self(
            goal,
            tool,
            args,
            resource,
            user_id,
            passport,
            mode,
            key,
            audience,
            approval,
            manifest,
            wait,
        ) = self;
        let mut action = Action::new(string("goal", &goal)?, string("tool", &tool)?)
            .resource(string("resource", &resource)?)
            .args_text(to_json("args", &args)?);
        if let Some(mode) = optional("mode", mode.as_ref())? {
            action = action.mode(mode.parse().map_err(|error| raise(goal.py(), &error))?);
        }
        if let Some(user_id) = optional("user_id", user_id.as_ref())? {
            action = action.user_id(user_id);
        }
        if let Some(passport) = optional("passport", passport.as_ref())? {
            action = action.passport(passport);
        }
        if let Some(key) = optional("idempotency_key", key.as_ref())? {
            action = action.idempotency_key(key);
        }
        if let Some(audience) = optional("audience", audience.as_ref())? {
            action = action.audience(audience);
        }
        if let Some(id) = optional("approval_request_id", approval.as_ref())? {
            action = action.approval_request_id(id);
        }
        if let Some(hash) = optional("tool_manifest_hash", manifest.as_ref())? {
            action = action.tool_manifest_hash(hash);
        }
        if let Some(wait) = seconds_argument("wait_for_approval", wait.as_ref())? {
            action = action.wait_for_approval(wait);
        }
        Ok(action)
    }
}

/// A verdict: `(permit, None)` or `(None, outcome)`.
pub(crate) type Ruled<'py> = (Option<Permit>, Option<Bound<'py, PyAny>>);

/// `recorder` is the client by which the outcome is to be recorded.
pub(crate) fn verdict<'py>(
    py: Python<'py>,
    verdict: Verdict,
    recorder: Option<Arc<Host>>,
) -> PyResult<Ruled<'py>> {
    match verdict {
        Verdict::Blocked(blocked) => {
            Ok((None, Some(report(py, Outcome::<Py<PyAny>, Py<PyAny>>::Blocked(blocked))?)))
        }
        Verdict::Proceed(permit) => {
            Ok((Some(Permit { state: Mutex::new(State::Granted(permit)), recorder }), None))
        }
    }
}

/// Leave to run the action, once.
#[pyclass(frozen, module = "actpass._native")]
pub(crate) struct Permit {
    state: Mutex<State>,
    recorder: Option<Arc<Host>>,
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
            let (context, settlement) = permit.spend();
            let given = PyDict::new(py);
            let credential =
                context.credential().map(|credential| from_json(py, credential.as_json())).transpose()?;
            given.set_item("credential", credential)?;
            given.set_item("decision", from_json(py, context.decision().as_json())?)?;
            self.replace(State::Running(settlement));
            Ok(given)
        })
    }

    /// The outcome of an action that returned `result`.
    fn returned<'py>(&self, py: Python<'py>, result: Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.settle(py, Ok(result))
    }

    /// The outcome of an action that raised `error`.
    fn failed<'py>(&self, py: Python<'py>, error: Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.settle(py, Err(error))
    }
}

impl Permit {
    fn settle<'py>(
        &self,
        py: Python<'py>,
        ended: Result<Py<PyAny>, Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let State::Running(settlement) = self.replace(State::Settled) else {
            return Err(PyRuntimeError::new_err("the permit is not running"));
        };
        let recorded =
            self.recorder.as_ref().map(|host| record(py, host, &settlement, &ended)).transpose()?;
        let reported = report(py, settlement.settle(ended))?;
        if let Some((member, value)) = recorded {
            reported.set_item(member, value)?;
        }
        Ok(reported)
    }

    fn replace(&self, state: State) -> State {
        std::mem::replace(&mut *self.state.lock().unwrap_or_else(PoisonError::into_inner), state)
    }
}

/// Records how an action ended: a member of the outcome that says what came of it. What stops the program is an error.
fn record<'py>(
    py: Python<'py>,
    host: &Host,
    settlement: &Settlement,
    ended: &Result<Py<PyAny>, Py<PyAny>>,
) -> PyResult<(&'static str, Bound<'py, PyAny>)> {
    enter(py, || {
        // What is not JSON has no hash.
        let response = ended.as_ref().ok().and_then(|result| json("result", result.bind(py)).ok());
        let event = settlement.evidence(ended.is_ok(), response.as_ref());
        match wait(py, host, async |actpass| actpass.record_evidence(&event).await) {
            Ok(recorded) => Ok(("evidence", from_json(py, recorded.as_json())?)),
            Err(error) if error.is_instance_of::<PyException>(py) => {
                Ok(("evidence_error", error.into_value(py).into_bound(py).into_any()))
            }
            Err(stop) => Err(stop),
        }
    })
}

fn report<'py>(py: Python<'py>, outcome: Outcome<Py<PyAny>, Py<PyAny>>) -> PyResult<Bound<'py, PyAny>> {
    enter(py, || {
        let reported = PyDict::new(py);
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
            reported.set_item("error", exception(py, &error)?)?;
        }
        Ok(reported.into_any())
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
