//! Delivers completed calls from the background thread to an asyncio event loop.
//!
//! The background thread never acquires the GIL. It pushes a completion to the queue of the call's event loop and, unless a
//! wake-up is already pending, writes one byte to a socket that the loop watches. The loop then drains the whole queue on its
//! own thread: one wake-up can deliver many completions.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use pyo3::exceptions::PyNotImplementedError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::convert::CachedObject;
use crate::panic::catch_panic;

/// The completed calls of one event loop.
#[pyclass(frozen, weakref, module = "actpass._native")]
pub(crate) struct CompletionQueue {
    process: u32,
    shared: Arc<Shared>,
    tickets: AtomicU64,
    /// Futures of calls in flight, by ticket.
    waiting: Py<PyDict>,
}

#[pymethods]
impl CompletionQueue {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(Self {
            process: std::process::id(),
            shared: Arc::new(Shared {
                ready: Mutex::default(),
                notified: AtomicBool::new(false),
                wake_fd: wake_fd::WakeFd::new()?,
                waker: OnceLock::new(),
            }),
            tickets: AtomicU64::new(0),
            waiting: PyDict::new(py).unbind(),
        })
    }

    /// The file descriptor that becomes readable when the queue is not empty.
    fn fileno(&self) -> PyResult<i32> {
        self.shared.wake_fd.descriptor().ok_or_else(|| {
            PyNotImplementedError::new_err("no wake-up file descriptor on this platform: use set_waker")
        })
    }

    /// Calls `waker` on the background thread instead of making the descriptor readable.
    fn set_waker(&self, waker: Py<PyAny>) {
        // A queue has one waker, set before its first call.
        let _ = self.shared.waker.set(waker);
    }

    /// Whether this process created the queue. A forked child must create its own.
    fn is_current_process(&self) -> bool {
        self.process == std::process::id()
    }

    /// Drains the queue and resolves the futures.
    fn deliver(&self, py: Python<'_>) -> PyResult<()> {
        if !self.is_current_process() {
            return Ok(());
        }
        for (ticket, convert) in self.shared.drain() {
            let waiting = self.waiting.bind(py);
            // A cancelled call has no future.
            let future = waiting.call_method1(intern!(py, "pop"), (ticket, py.None()))?;
            if future.is_none() || future.call_method0(intern!(py, "done"))?.is_truthy()? {
                continue;
            }
            match catch_panic(py, || convert(py)) {
                Ok(answer) => future.call_method1(intern!(py, "set_result"), (answer,))?,
                Err(error) => future.call_method1(intern!(py, "set_exception"), (error.into_value(py),))?,
            };
        }
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.waiting)?;
        self.shared.waker.get().map_or(Ok(()), |waker| visit.call(waker))
    }
}

impl CompletionQueue {
    /// The queue of the running event loop, and a new future of that loop.
    pub(crate) fn of_running_loop<'py>(py: Python<'py>) -> PyResult<(Bound<'py, Self>, Bound<'py, PyAny>)> {
        static RUNNING: CachedObject = CachedObject::of("actpass._run", "running");
        let found = RUNNING.bound(py)?.call0()?;
        let found = found.cast_into::<PyTuple>()?;
        Ok((found.get_item(0)?.cast_into()?, found.get_item(1)?))
    }

    /// The completion of the future that is passed to [`CompletionQueue::register`] next.
    pub(crate) fn next_completion(&self) -> Completion {
        let ticket = self.tickets.load(Ordering::Relaxed);
        Completion { shared: Arc::clone(&self.shared), ticket }
    }

    /// Registers `future` for the most recent completion. It cannot have been delivered yet: delivery happens on this thread.
    pub(crate) fn register<'py>(
        queue: &Bound<'py, Self>,
        future: Bound<'py, PyAny>,
        call: actpass_session::CallHandle,
    ) -> PyResult<Bound<'py, PyAny>> {
        let ticket = queue.get().tickets.fetch_add(1, Ordering::Relaxed);
        queue.get().waiting.bind(queue.py()).set_item(ticket, &future)?;
        let call = Call { call, ticket, queue: queue.clone().unbind(), future: future.unbind() };
        Ok(Bound::new(queue.py(), call)?.into_any())
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        if !self.is_current_process() {
            // The parent's background thread may have been writing at the time of the fork: leak instead of dropping.
            mem::forget(Arc::clone(&self.shared));
        }
    }
}

/// An awaitable call in flight.
#[pyclass(frozen, module = "actpass._native")]
pub(crate) struct Call {
    call: actpass_session::CallHandle,
    ticket: u64,
    queue: Py<CompletionQueue>,
    #[pyo3(get)]
    future: Py<PyAny>,
}

#[pymethods]
impl Call {
    /// Cancels the call. Does nothing if it has completed.
    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        self.call.cancel();
        let waiting = self.queue.get().waiting.bind(py);
        waiting.call_method1(intern!(py, "pop"), (self.ticket, py.None()))?;
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.queue)?;
        visit.call(&self.future)
    }
}

/// Converts a result on the loop's thread.
type Convert = Box<dyn for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + Send>;

struct Shared {
    ready: Mutex<Vec<(u64, Convert)>>,
    /// Whether a wake-up is pending.
    notified: AtomicBool,
    wake_fd: wake_fd::WakeFd,
    waker: OnceLock<Py<PyAny>>,
}

impl Shared {
    fn drain(&self) -> Vec<(u64, Convert)> {
        self.wake_fd.drain();
        // Reset before taking the completions, so that a later one wakes the loop again.
        self.notified.store(false, Ordering::SeqCst);
        mem::take(&mut *self.ready.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, ticket: u64, convert: Convert) {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).push((ticket, convert));
        if self.notified.swap(true, Ordering::SeqCst) {
            return;
        }
        match self.waker.get() {
            None => self.wake_fd.wake(),
            // An interpreter that is shutting down has no event loops to wake.
            Some(waker) => drop(Python::try_attach(|py| {
                waker.call0(py).map_err(|error| error.write_unraisable(py, None))
            })),
        }
    }
}

/// The sending half for one call.
pub(crate) struct Completion {
    shared: Arc<Shared>,
    ticket: u64,
}

impl Completion {
    /// Completes the call; `convert` runs on the loop's thread.
    pub(crate) fn complete(
        self,
        convert: impl for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + Send + 'static,
    ) {
        self.shared.push(self.ticket, Box::new(convert));
    }
}

#[cfg(unix)]
mod wake_fd {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use pyo3::PyResult;

    /// A socket pair: the loop watches the reader, the background thread writes to the writer.
    pub(super) struct WakeFd {
        reader: UnixStream,
        writer: UnixStream,
    }

    impl WakeFd {
        pub(super) fn new() -> PyResult<Self> {
            let (reader, writer) = UnixStream::pair()?;
            reader.set_nonblocking(true)?;
            writer.set_nonblocking(true)?;
            Ok(Self { reader, writer })
        }

        pub(super) fn descriptor(&self) -> Option<i32> {
            Some(self.reader.as_raw_fd())
        }

        pub(super) fn wake(&self) {
            // At most one byte is pending, so the buffer cannot be full.
            let _ = (&self.writer).write(&[1]);
        }

        pub(super) fn drain(&self) {
            let _ = (&self.reader).read(&mut [0; 8]);
        }
    }
}

#[cfg(not(unix))]
mod wake_fd {
    use pyo3::PyResult;

    /// A placeholder: on this platform [`CompletionQueue::set_waker`](super::CompletionQueue::set_waker) wakes the loop.
    pub(super) struct WakeFd;

    impl WakeFd {
        #[expect(clippy::unnecessary_wraps, reason = "same signature as on Unix")]
        pub(super) fn new() -> PyResult<Self> {
            Ok(Self)
        }

        pub(super) fn descriptor(&self) -> Option<i32> {
            None
        }

        pub(super) fn wake(&self) {}

        pub(super) fn drain(&self) {}
    }
}
