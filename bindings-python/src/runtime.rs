//! The doors to the core: they release the interpreter while the network is waited for, let Ctrl-C or a task's
//! cancellation end the wait, and let no panic through.

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;

use actpass_core::{ActPass, CallOptions, Circuit, Error, Settings};
use actpass_session::{BackgroundClient, BlockingClient};
use pyo3::prelude::*;

use crate::broken;
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
