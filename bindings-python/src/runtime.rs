//! The doors to the core: they release the interpreter while the network is waited for, let Ctrl-C or a task's
//! cancellation end the wait, and let no panic through.

use std::future::Future;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use actpass_core::{ActPass, CallOptions, Circuit, Error, ErrorKind, Settings};
use actpass_session::{BackgroundClient, BlockingClient};
use pyo3::prelude::*;

use crate::error::{in_call, raise};
use crate::mailbox::Mailbox;
use crate::telemetry::Watch;

/// How the calls of a client are made.
#[derive(Clone)]
pub(crate) enum Door {
    /// Beside the interpreter, on the background thread; a call gives a [`Call`](crate::mailbox::Call) to await.
    Background(Arc<BackgroundClient>),
    /// On the calling thread; a call gives what it comes to.
    Calling(Arc<BlockingClient>),
}

impl Door {
    /// Makes a call of the core. `convert` makes what it comes to an object, on the thread of the caller or of its event
    /// loop.
    pub(crate) fn call<'py, T, F>(
        &self,
        py: Python<'py>,
        options: CallOptions,
        call: impl FnOnce(ActPass) -> F + Send,
        convert: impl for<'a> FnOnce(Python<'a>, Result<T, Error>) -> PyResult<Bound<'a, PyAny>> + Send + 'static,
    ) -> PyResult<Bound<'py, PyAny>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let watch = Watch::begin(py)?;
        let how = broken::next();
        let started = |actpass: ActPass| {
            watch.over(broken::call(how, call(watch.trace(actpass.with_options(options)))))
        };
        match self {
            Self::Background(background) => {
                let (mailbox, future) = Mailbox::of_the_running_loop(py)?;
                let (letter, watch) = (mailbox.get().letter(), watch.clone());
                let call = background.start(started, move |answer| {
                    letter.send(move |py| {
                        watch.end(py)?;
                        broken::answer(how);
                        convert(py, answer)
                    });
                });
                Mailbox::expect(&mailbox, future, call)
            }
            Self::Calling(client) => {
                let answer = py.detach(|| client.wait(started, interrupted));
                watch.end(py)?;
                broken::answer(how);
                convert(py, answer?)
            }
        }
    }

    /// Makes a call that nobody waits for, on the background thread, as far as that can be had.
    pub(crate) fn tell<T, F>(&self, call: impl FnOnce(ActPass) -> F)
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        match self {
            Self::Background(background) => drop(background.start(call, drop)),
            Self::Calling(client) => {
                if let Ok(background) = BackgroundClient::beside(client) {
                    drop(background.start(call, drop));
                }
            }
        }
    }

    pub(crate) fn circuit(&self) -> Circuit {
        match self {
            Self::Background(background) => background.circuit(),
            Self::Calling(client) => client.circuit(),
        }
    }
}

impl Deref for Door {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        match self {
            Self::Background(background) => background,
            Self::Calling(client) => client,
        }
    }
}

fn interrupted() -> PyResult<()> {
    // An interpreter that has ended has no signals to handle; a thread that waits ends with the process.
    Python::try_attach(|py| py.check_signals()).unwrap_or(Ok(()))
}

/// Runs a conversion; a panic in it is an error like any other.
pub(crate) fn enter<T>(py: Python<'_>, body: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    let entered = AssertUnwindSafe(|| {
        broken::conversion();
        body()
    });
    catch_unwind(entered)
        .unwrap_or_else(|_panic| Err(raise(py, &Error::new(ErrorKind::Internal, "a panic in the SDK"))))
}

/// As [`enter`], for the method `called`, which its errors name.
pub(crate) fn enter_call<T>(py: Python<'_>, called: &str, body: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    enter(py, body).map_err(|error| in_call(py, error, called))
}

/// Calls that break, for the tests of what happens then. No wheel that is shipped has any.
#[cfg(feature = "test-hooks")]
pub(crate) mod broken {
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

    pub(super) fn next() -> Option<Break> {
        NEXT.take()
    }

    #[expect(clippy::panic, reason = "that is what is tested")]
    pub(super) fn conversion() {
        if NEXT.get() == Some(Break::Conversion) {
            NEXT.set(None);
            panic!("broken on purpose");
        }
    }

    #[expect(clippy::panic, reason = "that is what is tested")]
    pub(super) async fn call<F: Future>(how: Option<Break>, call: F) -> F::Output {
        match how {
            Some(Break::Panic) => panic!("broken on purpose"),
            Some(Break::Hang) => pending().await,
            Some(Break::Answer | Break::Conversion) | None => call.await,
        }
    }

    #[expect(clippy::panic, reason = "that is what is tested")]
    pub(super) fn answer(how: Option<Break>) {
        if how == Some(Break::Answer) {
            panic!("broken on purpose");
        }
    }
}

#[cfg(not(feature = "test-hooks"))]
mod broken {
    #[derive(Clone, Copy)]
    pub(super) struct Break;

    pub(super) fn next() -> Break {
        Break
    }

    pub(super) fn conversion() {}

    pub(super) fn call<F>(_how: Break, call: F) -> F {
        call
    }

    pub(super) fn answer(_how: Break) {}
}
