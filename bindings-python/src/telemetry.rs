//! What a call tells and what it is result: log lines go to Python's logging, and the current trace to the gateway.
//!
//! The core's log lines are kept with the call that they are about and handed over when it ends, on the thread of the
//! caller or of its event loop. So the thread that drives the network never waits for the interpreter.

use std::future::Future;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use crate::convert::CachedFunction;
use actpass_core::ActPass;
use actpass_session::CallLog;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use tracing::Level;
use tracing::level_filters::LevelFilter;

/// What is watched of a call.
#[derive(Clone)]
pub(crate) struct CallSpan {
    traceparent: Option<actpass_core::Traceparent>,
    /// `None` where nobody listens.
    log: Option<Arc<CallLog>>,
}

impl CallSpan {
    /// Sees what trace is current, and whether anybody listens.
    pub(crate) fn begin(py: Python<'_>) -> PyResult<Self> {
        static BEGIN: CachedFunction = CachedFunction::of("actpass._telemetry", "begin");
        let result = BEGIN.bound(py)?.call0();
        let result = result.and_then(|result| result.extract::<(Option<String>, u8, Option<Py<PyAny>>)>());
        let (traceparent, level, stop) = ignore_telemetry_error(py, result)?.unwrap_or_default();
        reraise(py, stop)?;
        let log = (level > 0).then(|| CallLog::new(filter(level)));
        // One that is malformed is left away: a trace is no reason to block an action.
        Ok(Self { traceparent: traceparent.and_then(|text| text.parse().ok()), log })
    }

    /// The client by which the call is part of the trace.
    pub(crate) fn trace(&self, actpass: ActPass) -> ActPass {
        match &self.traceparent {
            Some(traceparent) => actpass.in_trace(traceparent.clone()),
            None => actpass,
        }
    }

    /// The call, its log lines kept.
    pub(crate) fn instrument<F: Future>(&self, call: F) -> impl Future<Output = F::Output> + use<F> {
        CallLog::instrument(self.log.clone(), call)
    }

    /// Hands the log lines over.
    pub(crate) fn end(&self, py: Python<'_>) -> PyResult<()> {
        static LOG: CachedFunction = CachedFunction::of("actpass._telemetry", "log");
        let Some(log) = &self.log else {
            return Ok(());
        };
        for line in log.drain() {
            let at = line.at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
            let result = LOG.bound(py)?.call1((python_level(line.level), line.text, at));
            let stop = ignore_telemetry_error(py, result)?.filter(|stop| !stop.is_none());
            reraise(py, stop.map(Bound::unbind))?;
        }
        Ok(())
    }
}

/// The result of `result`. `actpass._telemetry` drops and reports what observers raise; here are dropped its own failures,
/// such as that of an interpreter without room left, or that is being taken down. What stops the program passes.
fn ignore_telemetry_error<T>(py: Python<'_>, result: PyResult<T>) -> PyResult<Option<T>> {
    match result {
        Ok(result) => Ok(Some(result)),
        Err(error) if error.is_instance_of::<PyException>(py) => Ok(None),
        Err(stop) => Err(stop),
    }
}

/// Raises what a signal raised while an observer ran.
fn reraise(py: Python<'_>, stop: Option<Py<PyAny>>) -> PyResult<()> {
    stop.map_or(Ok(()), |stop| Err(PyErr::from_value(stop.into_bound(py))))
}

/// The lines that Python listens to from `level` on, as Python counts.
fn filter(level: u8) -> LevelFilter {
    [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR]
        .into_iter()
        .find(|listened| python_level(*listened) >= level)
        .map_or(LevelFilter::OFF, LevelFilter::from_level)
}

fn python_level(level: Level) -> u8 {
    match level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        Level::DEBUG => 10,
        Level::TRACE => 5,
    }
}
