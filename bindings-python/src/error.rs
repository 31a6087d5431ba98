//! Errors of the core as the exceptions of `actpass._errors`.

use actpass_core::{Error, ErrorKind};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// The exception for `error`, to be raised.
pub(crate) fn raise(py: Python<'_>, error: &Error) -> PyErr {
    match exception(py, error) {
        Ok(exception) => PyErr::from_value(exception),
        Err(problem) => problem,
    }
}

/// The exception for `error`, to be handed on.
pub(crate) fn exception<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyAny>> {
    let class = py.import("actpass._errors")?.getattr(class_name(error.kind()))?;
    let class = class.cast_into::<PyType>().map_err(PyErr::from)?;
    let exception = class.call1((error.to_string(), error.status(), error.body(), error.code()))?;
    exception.setattr("kind", error.kind().name())?;
    exception.setattr("operation", error.operation().map(|operation| operation.name()))?;
    exception.setattr("request_id", error.request_id())?;
    exception.setattr("retry_after", error.retry_after().map(|wait| wait.as_secs_f64()))?;
    exception.setattr("retryable", error.is_retryable())?;
    debug_assert!(exception.is_instance_of::<PyException>());
    Ok(exception)
}

fn class_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Argument => "ActPassArgumentError",
        ErrorKind::Authentication => "ActPassAuthenticationError",
        ErrorKind::Config => "ActPassConfigError",
        ErrorKind::Connection => "ActPassConnectionError",
        ErrorKind::Internal => "ActPassInternalError",
        ErrorKind::Permission => "ActPassPermissionError",
        ErrorKind::RateLimit => "ActPassRateLimitError",
        ErrorKind::Response => "ActPassResponseError",
        ErrorKind::Status => "ActPassStatusError",
        ErrorKind::Timeout => "ActPassTimeoutError",
    }
}
