//! The doors to the core: they release the interpreter while the network is waited for, let Ctrl-C or a task's
//! cancellation end the wait, and let no panic through.

use std::future::Future;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use actpass_core::runtime::{Background, Host, Settings};
use actpass_core::{ActPass, Circuit, Error, ErrorKind};
use pyo3::prelude::*;

use crate::error::raise;
use crate::mailbox::Mailbox;
use crate::telemetry::Watch;

/// How the calls of a client are made.
#[derive(Clone)]
pub(crate) enum Door {
    /// Beside the interpreter, on the background thread; a call gives a [`Call`](crate::mailbox::Call) to await.
    Background(Arc<Background>),
    /// On the calling thread; a call gives what it comes to.
    Calling(Arc<Host>),
}

impl Door {
    /// Makes a call of the core. `convert` makes what it comes to an object, on the thread of the caller or of its event
    /// loop.
    pub(crate) fn call<'py, T, F>(
        &self,
        py: Python<'py>,
        call: impl FnOnce(ActPass) -> F + Send,
        convert: impl for<'a> FnOnce(Python<'a>, Result<T, Error>) -> PyResult<Bound<'a, PyAny>> + Send + 'static,
    ) -> PyResult<Bound<'py, PyAny>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let watch = Watch::begin(py)?;
        let started = |actpass: ActPass| watch.over(call(watch.trace(actpass)));
        match self {
            Self::Background(background) => {
                let (mailbox, future) = Mailbox::of_the_running_loop(py)?;
                let (letter, watch) = (mailbox.get().letter(), watch.clone());
                let call = background.start(started, move |answer| {
                    letter.send(move |py| {
                        watch.end(py)?;
                        convert(py, answer)
                    });
                });
                Mailbox::expect(&mailbox, future, call)
            }
            Self::Calling(host) => {
                let answer = py.detach(|| host.wait(started, interrupted));
                watch.end(py)?;
                convert(py, answer?)
            }
        }
    }

    /// Makes a call that nobody waits for, where that is possible.
    pub(crate) fn tell<T, F>(&self, call: impl FnOnce(ActPass) -> F)
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        match self {
            Self::Background(background) => drop(background.start(call, drop)),
            Self::Calling(_) => (),
        }
    }

    pub(crate) fn circuit(&self) -> Circuit {
        match self {
            Self::Background(background) => background.circuit(),
            Self::Calling(host) => host.circuit(),
        }
    }
}

impl Deref for Door {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        match self {
            Self::Background(background) => background,
            Self::Calling(host) => host,
        }
    }
}

fn interrupted() -> PyResult<()> {
    Python::attach(|py| py.check_signals())
}

/// Runs a conversion; a panic in it is an error like any other.
pub(crate) fn enter<T>(py: Python<'_>, body: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|_panic| Err(raise(py, &Error::new(ErrorKind::Internal, "a panic in the SDK"))))
}
