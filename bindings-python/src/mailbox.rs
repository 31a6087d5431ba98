//! What brings the answers of the background thread to an event loop: many by one wake-up.
//!
//! The background thread never needs the interpreter. It puts a letter into the mailbox of the loop whose call it is and,
//! unless that was done already, writes a byte to a socket that the loop watches. The loop then opens all letters that are
//! there, on its own thread.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use pyo3::exceptions::PyNotImplementedError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::convert::Function;
use crate::enter::enter;

/// The answers for one event loop.
#[pyclass(frozen, weakref, module = "actpass._native")]
pub(crate) struct Mailbox {
    process: u32,
    letters: Arc<Letters>,
    tickets: AtomicU64,
    /// The futures that wait, by ticket.
    waiting: Py<PyDict>,
}

#[pymethods]
impl Mailbox {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(Self {
            process: std::process::id(),
            letters: Arc::new(Letters {
                unopened: Mutex::default(),
                rung: AtomicBool::new(false),
                wire: wire::Wire::new()?,
                bell: OnceLock::new(),
            }),
            tickets: AtomicU64::new(0),
            waiting: PyDict::new(py).unbind(),
        })
    }

    /// The descriptor that becomes readable when there are letters.
    fn fileno(&self) -> PyResult<i32> {
        self.letters
            .wire
            .descriptor()
            .ok_or_else(|| PyNotImplementedError::new_err("this system has no such descriptor"))
    }

    /// Has `bell` called, on the background thread, instead of the descriptor becoming readable.
    fn ring_by(&self, bell: Py<PyAny>) {
        // A mailbox has one bell, which it is given before its first call.
        let _ = self.letters.bell.set(bell);
    }

    /// Whether this process may use it: one that was forked off has to have its own.
    fn is_mine(&self) -> bool {
        self.process == std::process::id()
    }

    /// Opens what is there and hands it to the futures that wait for it.
    fn deliver(&self, py: Python<'_>) -> PyResult<()> {
        if !self.is_mine() {
            return Ok(());
        }
        for (ticket, open) in self.letters.take() {
            let waiting = self.waiting.bind(py);
            // Nobody waits for what was cancelled.
            let future = waiting.call_method1(intern!(py, "pop"), (ticket, py.None()))?;
            if future.is_none() || future.call_method0(intern!(py, "done"))?.is_truthy()? {
                continue;
            }
            match enter(py, || open(py)) {
                Ok(answer) => future.call_method1(intern!(py, "set_result"), (answer,))?,
                Err(error) => future.call_method1(intern!(py, "set_exception"), (error.into_value(py),))?,
            };
        }
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.waiting)?;
        self.letters.bell.get().map_or(Ok(()), |bell| visit.call(bell))
    }
}

impl Mailbox {
    /// The mailbox of the running event loop, and a new future of that loop.
    pub(crate) fn of_the_running_loop<'py>(
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, Self>, Bound<'py, PyAny>)> {
        static RUNNING: Function = Function::of("actpass._run", "running");
        let found = RUNNING.bound(py)?.call0()?;
        let found = found.cast_into::<PyTuple>()?;
        Ok((found.get_item(0)?.cast_into()?, found.get_item(1)?))
    }

    /// A letter for a future that [`Mailbox::expect`] will be told of next.
    pub(crate) fn letter(&self) -> Addressed {
        let ticket = self.tickets.load(Ordering::Relaxed);
        Addressed { letters: Arc::clone(&self.letters), ticket }
    }

    /// Has `future` wait for the letter that was made last. It cannot have been opened: that happens on this thread.
    pub(crate) fn expect<'py>(
        mailbox: &Bound<'py, Self>,
        future: Bound<'py, PyAny>,
        call: actpass_session::Call,
    ) -> PyResult<Bound<'py, PyAny>> {
        let ticket = mailbox.get().tickets.fetch_add(1, Ordering::Relaxed);
        mailbox.get().waiting.bind(mailbox.py()).set_item(ticket, &future)?;
        let call = Call { call, ticket, mailbox: mailbox.clone().unbind(), future: future.unbind() };
        Ok(Bound::new(mailbox.py(), call)?.into_any())
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        if !self.is_mine() {
            // The fork may have found the parent's background thread in the midst of writing.
            mem::forget(Arc::clone(&self.letters));
        }
    }
}

/// A call that was started, to await.
#[pyclass(frozen, module = "actpass._native")]
pub(crate) struct Call {
    call: actpass_session::Call,
    ticket: u64,
    mailbox: Py<Mailbox>,
    #[pyo3(get)]
    future: Py<PyAny>,
}

#[pymethods]
impl Call {
    /// Ends the call at once, if it is not over.
    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        self.call.cancel();
        let waiting = self.mailbox.get().waiting.bind(py);
        waiting.call_method1(intern!(py, "pop"), (self.ticket, py.None()))?;
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.mailbox)?;
        visit.call(&self.future)
    }
}

type Open = Box<dyn for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + Send>;

struct Letters {
    unopened: Mutex<Vec<(u64, Open)>>,
    /// Whether the loop was told since it last looked.
    rung: AtomicBool,
    wire: wire::Wire,
    bell: OnceLock<Py<PyAny>>,
}

impl Letters {
    fn take(&self) -> Vec<(u64, Open)> {
        self.wire.hush();
        // Before the letters are taken: one that comes now rings again.
        self.rung.store(false, Ordering::SeqCst);
        mem::take(&mut *self.unopened.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, ticket: u64, open: Open) {
        self.unopened.lock().unwrap_or_else(PoisonError::into_inner).push((ticket, open));
        if self.rung.swap(true, Ordering::SeqCst) {
            return;
        }
        match self.bell.get() {
            None => self.wire.ring(),
            // An interpreter that is going away has no loops to tell.
            Some(bell) => drop(Python::try_attach(|py| {
                bell.call0(py).map_err(|error| error.write_unraisable(py, None))
            })),
        }
    }
}

/// A letter that knows whom it is for.
pub(crate) struct Addressed {
    letters: Arc<Letters>,
    ticket: u64,
}

impl Addressed {
    /// Sends what makes the answer, on the loop's thread.
    pub(crate) fn send(
        self,
        open: impl for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + Send + 'static,
    ) {
        self.letters.put(self.ticket, Box::new(open));
    }
}

#[cfg(unix)]
mod wire {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use pyo3::PyResult;

    /// Two ends of a wire: the loop listens at one, the background thread rings at the other.
    pub(super) struct Wire {
        listens: UnixStream,
        rings: UnixStream,
    }

    impl Wire {
        pub(super) fn new() -> PyResult<Self> {
            let (listens, rings) = UnixStream::pair()?;
            listens.set_nonblocking(true)?;
            rings.set_nonblocking(true)?;
            Ok(Self { listens, rings })
        }

        pub(super) fn descriptor(&self) -> Option<i32> {
            Some(self.listens.as_raw_fd())
        }

        pub(super) fn ring(&self) {
            // It cannot be full of the one byte at a time that it holds.
            let _ = (&self.rings).write(&[1]);
        }

        pub(super) fn hush(&self) {
            let _ = (&self.listens).read(&mut [0; 8]);
        }
    }
}

#[cfg(not(unix))]
mod wire {
    use pyo3::PyResult;

    /// There is none: the loop is told by [`Mailbox::ring_by`](super::Mailbox::ring_by).
    pub(super) struct Wire;

    impl Wire {
        #[expect(clippy::unnecessary_wraps, reason = "as where it may fail")]
        pub(super) fn new() -> PyResult<Self> {
            Ok(Self)
        }

        pub(super) fn descriptor(&self) -> Option<i32> {
            None
        }

        pub(super) fn ring(&self) {}

        pub(super) fn hush(&self) {}
    }
}
