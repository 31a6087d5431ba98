//! Errors of the core as exceptions of `actpass._errors`.

use actpass_core::{Error, ErrorKind};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};

/// Converts `error` to an exception to raise.
pub(crate) fn raise(py: Python<'_>, error: &Error) -> PyErr {
    raise_from(py, error, None)
}

/// Converts `error` of the method `called` to an exception to raise.
pub(crate) fn raise_from(py: Python<'_>, error: &Error, called: Option<&str>) -> PyErr {
    match exception(py, error, called) {
        Ok(exception) => PyErr::from_value(exception),
        Err(problem) => problem,
    }
}

/// Converts `error` to an exception object. It names the method `called` instead of the failed
/// request.
pub(crate) fn exception<'py>(
    py: Python<'py>,
    error: &Error,
    called: Option<&str>,
) -> PyResult<Bound<'py, PyAny>> {
    let class = py.import("actpass._errors")?.getattr(error.kind().class_name())?;
    let class = class.cast_into::<PyType>().map_err(PyErr::from)?;
    let request = error.operation().map(|operation| operation.name());
    let text = error.to_string();
    let text = match (request, called) {
        (Some(request), Some(called)) => match text.strip_prefix(request) {
            Some(problem) => format!("{called}{problem}"),
            None => text,
        },
        _ => text,
    };
    let exception = class.call1((text, error.status(), error.body(), error.code()))?;
    let members = PyDict::new(py);
    members.set_item("kind", error.kind().name())?;
    members.set_item("operation", called.or(request))?;
    members.set_item("request_id", error.request_id())?;
    members.set_item("retry_after", error.retry_after().map(|wait| wait.as_secs_f64()))?;
    members.set_item("retryable", error.is_retryable())?;
    exception.call_method("_complete", (), Some(&members))?;
    debug_assert!(exception.is_instance_of::<PyException>());
    Ok(exception)
}

/// Adds the method name to an error without one, such as an argument error.
pub(crate) fn in_call(py: Python<'_>, error: PyErr, called: &str) -> PyErr {
    let named = || -> PyResult<()> {
        let value = error.value(py);
        let base = py.import("actpass._errors")?.getattr("ActPassError")?;
        if value.is_instance(&base)? && value.getattr("operation")?.is_none() {
            let members = PyDict::new(py);
            members.set_item("operation", called)?;
            value.call_method("_complete", (), Some(&members))?;
        }
        Ok(())
    };
    match named() {
        Ok(()) => error,
        Err(problem) => problem,
    }
}

/// Whether `error` is an argument error of a conversion.
pub(crate) fn is_of_an_argument(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    let class = py.import("actpass._errors")?.getattr(ErrorKind::Argument.class_name())?;
    error.value(py).is_instance(&class)
}
