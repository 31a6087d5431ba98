//! The scripted gateway of `actpass.testing`; the Python layer is its HTTP server.

use actpass_core::testing::{Answer, ScriptedGateway};
use pyo3::prelude::*;

use crate::convert::from_json;
use crate::error::raise;
use crate::panic::catch_panic;

/// The state of a scripted gateway, without a server.
#[pyclass(frozen, module = "actpass._native")]
pub(crate) struct ScriptedGatewayState(ScriptedGateway);

#[pymethods]
impl ScriptedGatewayState {
    #[new]
    fn new() -> Self {
        Self(ScriptedGateway::new())
    }

    /// Answers all following preflights of `tool`; of every tool if it is `None`. `answer` is a
    /// JSON text; `None` closes the connection.
    #[pyo3(signature = (tool, answer, status = 200))]
    fn script(&self, py: Python<'_>, tool: Option<&str>, answer: Option<&str>, status: u16) -> PyResult<()> {
        catch_panic(py, || {
            let answer = Answer::from_text(status, answer).map_err(|error| raise(py, &error))?;
            match tool {
                Some(tool) => self.0.script(tool, answer),
                None => self.0.script_all(answer),
            }
            Ok(())
        })
    }

    /// Queues an answer for one preflight.
    #[pyo3(signature = (answer, status = 200))]
    fn script_next(&self, py: Python<'_>, answer: Option<&str>, status: u16) -> PyResult<()> {
        catch_panic(py, || {
            self.0.script_next(Answer::from_text(status, answer).map_err(|error| raise(py, &error))?);
            Ok(())
        })
    }

    /// Approves or rejects an approval, given by its id or by its tool. Returns its id.
    fn decide(&self, py: Python<'_>, approval: &str, approved: bool) -> PyResult<String> {
        catch_panic(py, || {
            match approved {
                true => self.0.approve(approval),
                false => self.0.reject(approval),
            }
            .map_err(|error| raise(py, &error))
        })
    }

    /// Lets an approval expire, given by its id or by its tool. Returns its id.
    fn expire(&self, py: Python<'_>, approval: &str) -> PyResult<String> {
        catch_panic(py, || self.0.expire(approval).map_err(|error| raise(py, &error)))
    }

    /// Stops the actions of a scope. Returns the new epoch.
    #[pyo3(signature = (scope, name, reason))]
    fn halt(&self, py: Python<'_>, scope: &str, name: Option<&str>, reason: &str) -> PyResult<u64> {
        catch_panic(py, || self.0.halt(scope, name, reason).map_err(|error| raise(py, &error)))
    }

    /// Lifts all stops. Returns the new epoch.
    fn lift(&self) -> u64 {
        self.0.lift()
    }

    /// The approvals so far.
    fn approvals<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        catch_panic(py, || {
            let approvals = self.0.approvals();
            approvals.iter().map(|approval| from_json(py, &approval.to_json())).collect()
        })
    }

    /// The requests so far: `(method, path, body)`.
    fn requests(&self, py: Python<'_>) -> PyResult<Vec<(String, String, String)>> {
        catch_panic(py, || {
            let requests = self.0.requests().into_iter();
            Ok(requests.map(|request| (request.method, request.path, request.body)).collect())
        })
    }

    /// The seconds for which the server holds a request before it calls `reply`.
    fn hold(&self, py: Python<'_>, method: &str, path: &str) -> PyResult<f64> {
        catch_panic(py, || Ok(self.0.hold(method, path).as_secs_f64()))
    }

    /// Answers a request: `(status, body)`, or `None` to close the connection.
    fn reply(
        &self,
        py: Python<'_>,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> PyResult<Option<(u16, String)>> {
        catch_panic(py, || Ok(self.0.reply(method, path, body)))
    }
}
