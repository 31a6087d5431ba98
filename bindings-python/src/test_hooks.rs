//! Fault injection for tests. Never included in wheels.

use std::cell::Cell;
use std::future::{Future, pending};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

thread_local!(static NEXT_FAULT: Cell<Option<Fault>> = const { Cell::new(None) });

/// The injected fault.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Panic while the response is converted.
    Answer,
    /// Panic while the arguments are converted.
    Conversion,
    /// Hang.
    Hang,
    /// Panic in the call.
    Panic,
}

/// Injects a fault into the next call of this thread.
#[pyfunction]
pub(crate) fn break_next_call(how: &str) -> PyResult<()> {
    NEXT_FAULT.set(Some(match how {
        "answer" => Fault::Answer,
        "conversion" => Fault::Conversion,
        "hang" => Fault::Hang,
        "panic" => Fault::Panic,
        _ => return Err(PyValueError::new_err("how")),
    }));
    Ok(())
}

pub(crate) fn take_fault() -> Option<Fault> {
    NEXT_FAULT.take()
}

#[expect(clippy::panic, reason = "injected for tests")]
pub(crate) fn before_conversion() {
    if NEXT_FAULT.get() == Some(Fault::Conversion) {
        NEXT_FAULT.set(None);
        panic!("broken on purpose");
    }
}

#[expect(clippy::panic, reason = "injected for tests")]
pub(crate) async fn call<F: Future>(fault: Option<Fault>, call: F) -> F::Output {
    match fault {
        Some(Fault::Panic) => panic!("broken on purpose"),
        Some(Fault::Hang) => pending().await,
        Some(Fault::Answer | Fault::Conversion) | None => call.await,
    }
}

#[expect(clippy::panic, reason = "injected for tests")]
pub(crate) fn after_response(fault: Option<Fault>) {
    if fault == Some(Fault::Answer) {
        panic!("broken on purpose");
    }
}
