//! The signal that a running function's action was stopped.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actpass_core::HaltSignal;
use actpass_session::{CallHandle, INTERRUPT_INTERVAL};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

use crate::completion_queue::CompletionQueue;
use crate::convert::seconds_argument;
use crate::panic::catch_panic_in_call;

/// The native part of `actpass.HaltSignal`.
#[pyclass(frozen, module = "actpass._native")]
pub(crate) struct NativeHaltSignal(HaltSignal);

impl NativeHaltSignal {
    pub(crate) fn new(signal: &HaltSignal) -> Self {
        Self(signal.clone())
    }
}

#[pymethods]
impl NativeHaltSignal {
    #[getter]
    fn halted(&self) -> bool {
        self.0.is_halted()
    }

    /// Blocks until the action is stopped, or until `timeout` seconds have passed. Returns whether it
    /// was stopped.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        catch_panic_in_call(py, "wait", || {
            let until =
                seconds_argument("timeout", timeout)?.and_then(|wait| Instant::now().checked_add(wait));
            let halted = Arc::new((Mutex::new(()), Condvar::new()));
            let notified = Arc::clone(&halted);
            self.0.on_halt(move || {
                drop(notified.0.lock().unwrap_or_else(PoisonError::into_inner));
                notified.1.notify_all();
            });
            while !self.0.is_halted() {
                let left =
                    until.map_or(INTERRUPT_INTERVAL, |until| until.saturating_duration_since(Instant::now()));
                if left.is_zero() {
                    break;
                }
                py.detach(|| wait_for(&halted, left.min(INTERRUPT_INTERVAL), || self.0.is_halted()));
                py.check_signals()?;
            }
            Ok(self.0.is_halted())
        })
    }

    /// An awaitable call of the running event loop, whose result is `True` once the action is stopped.
    fn call<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        catch_panic_in_call(py, "wait", || {
            let (queue, future) = CompletionQueue::of_running_loop(py)?;
            let completion = queue.get().next_completion();
            self.0.on_halt(move || completion.complete(|py| true.into_bound_py_any(py)));
            CompletionQueue::register(&queue, future, CallHandle::default())
        })
    }
}

fn wait_for((lock, halted): &(Mutex<()>, Condvar), most: Duration, is_halted: impl Fn() -> bool) {
    let locked = lock.lock().unwrap_or_else(PoisonError::into_inner);
    if !is_halted() {
        drop(halted.wait_timeout(locked, most).unwrap_or_else(PoisonError::into_inner));
    }
}
