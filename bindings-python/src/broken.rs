//! Calls that break, for the tests of what happens then. No wheel that is shipped has any.

use std::cell::Cell;
use std::future::{Future, pending};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

thread_local!(static NEXT: Cell<Option<Break>> = const { Cell::new(None) });

/// How a call breaks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Break {
    /// It panics while its answer is converted.
    Answer,
    /// It panics while its arguments are converted.
    Conversion,
    /// It never ends.
    Hang,
    /// It panics.
    Panic,
}

/// Breaks the next call of this thread.
#[pyfunction]
pub(crate) fn break_next_call(how: &str) -> PyResult<()> {
    NEXT.set(Some(match how {
        "answer" => Break::Answer,
        "conversion" => Break::Conversion,
        "hang" => Break::Hang,
        "panic" => Break::Panic,
        _ => return Err(PyValueError::new_err("how")),
    }));
    Ok(())
}

pub(crate) fn next() -> Option<Break> {
    NEXT.take()
}

#[expect(clippy::panic, reason = "that is what is tested")]
pub(crate) fn conversion() {
    if NEXT.get() == Some(Break::Conversion) {
        NEXT.set(None);
        panic!("broken on purpose");
    }
}

#[expect(clippy::panic, reason = "that is what is tested")]
pub(crate) async fn call<F: Future>(how: Option<Break>, call: F) -> F::Output {
    match how {
        Some(Break::Panic) => panic!("broken on purpose"),
        Some(Break::Hang) => pending().await,
        Some(Break::Answer | Break::Conversion) | None => call.await,
    }
}

#[expect(clippy::panic, reason = "that is what is tested")]
pub(crate) fn answer(how: Option<Break>) {
    if how == Some(Break::Answer) {
        panic!("broken on purpose");
    }
}
