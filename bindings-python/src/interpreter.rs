//! Restricts a process to one interpreter, because classes and functions are cached in statics.

use std::sync::OnceLock;

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;

/// Rejects a second interpreter that loads the module.
pub(crate) fn check(py: Python<'_>) -> PyResult<()> {
    static FIRST: OnceLock<i64> = OnceLock::new();
    let current = current(py)?;
    if *FIRST.get_or_init(|| current) == current {
        return Ok(());
    }
    Err(PyImportError::new_err("actpass._native does not support loading in subinterpreters"))
}

/// The id of the running interpreter; 0 if Python is built without that module.
fn current(py: Python<'_>) -> PyResult<i64> {
    // The module's name since Python 3.13, and before.
    let Ok(module) = py.import("_interpreters").or_else(|_| py.import("_xxsubinterpreters")) else {
        return Ok(0);
    };
    let current = module.call_method0("get_current")?;
    // An integer or, since 3.13, a tuple of the id and its owner.
    current.extract().or_else(|_| current.get_item(0)?.extract())
}
