//! The panic boundary to Python.

use std::panic::{AssertUnwindSafe, catch_unwind};

use actpass_core::Error;
use pyo3::prelude::*;

use crate::error::{in_call, raise};
use crate::test_hooks;

/// Runs a conversion. A panic in it becomes an error.
pub(crate) fn catch_panic<T>(py: Python<'_>, body: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    let guarded = AssertUnwindSafe(|| {
        test_hooks::before_conversion();
        body()
    });
    catch_unwind(guarded).unwrap_or_else(|_panic| Err(raise(py, &Error::panicked())))
}

/// Like [`catch_panic`], for the method `called`, which its errors name.
pub(crate) fn catch_panic_in_call<T>(
    py: Python<'_>,
    called: &str,
    body: impl FnOnce() -> PyResult<T>,
) -> PyResult<T> {
    catch_panic(py, body).map_err(|error| in_call(py, error, called))
}
