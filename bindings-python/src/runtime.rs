//! The one door to the core: releases the interpreter while the network is waited for, lets Ctrl-C end the wait, and lets
//! no panic through.

use std::panic::{AssertUnwindSafe, catch_unwind};

use actpass_core::runtime::Host;
use actpass_core::{ActPass, Action, Error, ErrorKind, Verdict};
use pyo3::prelude::*;

use crate::error::raise;

/// Makes a call of the core on the calling thread, the interpreter released.
pub(crate) fn wait<T, F>(py: Python<'_>, host: &Host, call: F) -> PyResult<T>
where
    F: AsyncFnOnce(ActPass) -> Result<T, Error> + Send,
    T: Send,
{
    py.detach(|| host.wait(call, interrupted))?.map_err(|error| raise(py, &error))
}

/// Asks for a verdict on the calling thread, the interpreter released.
pub(crate) fn authorize(py: Python<'_>, host: &Host, action: &Action) -> PyResult<Verdict> {
    py.detach(|| host.authorize(action, interrupted))?.map_err(|error| raise(py, &error))
}

fn interrupted() -> PyResult<()> {
    Python::attach(|py| py.check_signals())
}

/// Runs a conversion; a panic in it is an error like any other.
pub(crate) fn enter<T>(py: Python<'_>, body: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|_panic| Err(raise(py, &Error::new(ErrorKind::Internal, "a panic in the SDK"))))
}
