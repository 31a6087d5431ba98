//! Telemetry of a call: log lines for Python's logging, and the current trace for the gateway.
//!
//! The core's log lines are collected per call and delivered when it ends, on the thread of the
//! caller or of its event loop. The thread that drives the network never waits for the GIL.

use std::future::Future;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use crate::convert::{CachedObject, is_imported};
use actpass_core::ActPass;
use actpass_session::CallLog;
use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;
use tracing::Level;
use tracing::level_filters::LevelFilter;

/// The telemetry of one call.
#[derive(Clone)]
pub(crate) struct CallSpan {
    traceparent: Option<actpass_core::Traceparent>,
    /// `None` if no logger is enabled.
    log: Option<Arc<CallLog>>,
}

impl CallSpan {
    /// Reads the current trace and the enabled log level.
    pub(crate) fn begin(py: Python<'_>) -> PyResult<Self> {
        static BEGIN: CachedObject = CachedObject::of("actpass._telemetry", "begin");
        // `begin` observes by these modules alone.
        if !is_imported(intern!(py, "logging"))? && !is_imported(intern!(py, "opentelemetry.trace"))? {
            return Ok(Self { traceparent: None, log: None });
        }
        let result = BEGIN.bound(py)?.call0();
        let result = result.and_then(|result| result.extract::<(Option<String>, u8, Option<Py<PyAny>>)>());
        let (traceparent, level, stop) = ignore_telemetry_error(py, result)?.unwrap_or_default();
        reraise(py, stop)?;
        let log = (level > 0).then(|| CallLog::new(filter(level)));
        // A malformed traceparent is ignored: tracing must not block an action.
        Ok(Self { traceparent: traceparent.and_then(|text| text.parse().ok()), log })
    }

    /// The client with the current trace.
    pub(crate) fn trace(&self, actpass: ActPass) -> ActPass {
        match &self.traceparent {
            Some(traceparent) => actpass.in_trace(traceparent.clone()),
            None => actpass,
        }
    }

    /// Collects the log lines of `call`.
    pub(crate) fn instrument<F: Future>(&self, call: F) -> impl Future<Output = F::Output> + use<F> {
        CallLog::instrument(self.log.clone(), call)
    }

    /// Delivers the log lines to Python's logging.
    pub(crate) fn end(&self, py: Python<'_>) -> PyResult<()> {
        static LOG: CachedObject = CachedObject::of("actpass._telemetry", "log");
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

/// Drops an exception of the telemetry code itself, such as under memory exhaustion or interpreter
/// shutdown. `actpass._telemetry` drops and reports exceptions of observers. Exceptions that stop
/// the program propagate.
fn ignore_telemetry_error<T>(py: Python<'_>, result: PyResult<T>) -> PyResult<Option<T>> {
    match result {
        Ok(result) => Ok(Some(result)),
        Err(error) if error.is_instance_of::<PyException>(py) => Ok(None),
        Err(stop) => Err(stop),
    }
}

/// Raises an exception that a signal handler raised while an observer ran.
fn reraise(py: Python<'_>, stop: Option<Py<PyAny>>) -> PyResult<()> {
    stop.map_or(Ok(()), |stop| Err(PyErr::from_value(stop.into_bound(py))))
}

/// The filter for Python's numeric `level` and above.
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
