//! One interpreter of a process: classes and functions of the face are kept in statics, which another would share.

use std::sync::OnceLock;

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;

/// Refuses the second interpreter that loads the module.
pub(crate) fn check(py: Python<'_>) -> PyResult<()> {
    static FIRST: OnceLock<i64> = OnceLock::new();
    let current = current(py)?;
    if *FIRST.get_or_init(|| current) == current {
        return Ok(());
    }
    Err(PyImportError::new_err("actpass._native does not support loading in subinterpreters"))
}

/// The number of the running interpreter; 0 where Python is built without the module that tells it.
fn current(py: Python<'_>) -> PyResult<i64> {
    // Its name since Python 3.13, and before.
    let Ok(module) = py.import("_interpreters").or_else(|_| py.import("_xxsubinterpreters")) else {
        return Ok(0);
    };
    let current = module.call_method0("get_current")?;
    // A number or, since 3.13, a tuple of the number and who made the interpreter.
    current.extract().or_else(|_| current.get_item(0)?.extract())
}
