//! The border to Python: no panic gets through it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use actpass_core::Error;
use pyo3::prelude::*;

use crate::broken;
use crate::error::{in_call, raise};

/// Runs a conversion; a panic in it is an error like any other.
pub(crate) fn enter<T>(py: Python<'_>, body: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    let entered = AssertUnwindSafe(|| {
        broken::conversion();
        body()
    });
    catch_unwind(entered).unwrap_or_else(|_panic| Err(raise(py, &Error::panicked())))
}

/// As [`enter`], for the method `called`, which its errors name.
pub(crate) fn enter_call<T>(py: Python<'_>, called: &str, body: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    enter(py, body).map_err(|error| in_call(py, error, called))
}
