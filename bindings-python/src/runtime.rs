//! The bridge to the core: releases the GIL while waiting for the network, ends the wait on Ctrl-C
//! or task cancellation, and catches panics.

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;

use actpass_core::{ActPass, CallOptions, Circuit, Error, Settings};
use actpass_session::{BackgroundClient, BlockingClient};
use pyo3::prelude::*;

use crate::completion_queue::CompletionQueue;
use crate::telemetry::CallSpan;
use crate::test_hooks;

/// The thread that runs a client's calls.
#[derive(Clone)]
pub(crate) enum Bridge {
    /// On the background thread. A call returns an awaitable
    /// [`Call`](crate::completion_queue::Call).
    Background(Arc<BackgroundClient>),
    /// On the calling thread. A call returns its result.
    Calling(Arc<BlockingClient>),
}

impl Bridge {
    /// Makes a call. `convert` converts its result on the thread of the caller or of its event
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
        let span = CallSpan::begin(py)?;
        let fault = test_hooks::take_fault();
        let started = |actpass: ActPass| {
            span.instrument(test_hooks::call(fault, call(span.trace(actpass.with_options(options)))))
        };
        match self {
            Self::Background(background) => {
                let (queue, future) = CompletionQueue::of_running_loop(py)?;
                let (completion, span) = (queue.get().next_completion(), span.clone());
                let call = background.start(started, move |answer| {
                    completion.complete(move |py| {
                        span.end(py)?;
                        test_hooks::after_response(fault);
                        convert(py, answer)
                    });
                });
                CompletionQueue::register(&queue, future, call)
            }
            Self::Calling(client) => {
                let answer = py.detach(|| client.wait(started, interrupted));
                span.end(py)?;
                test_hooks::after_response(fault);
                convert(py, answer?)
            }
        }
    }

    /// Makes a call on the background thread without waiting for it. Does nothing if the thread
    /// cannot start.
    pub(crate) fn spawn<T, F>(&self, call: impl FnOnce(ActPass) -> F)
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        match self {
            Self::Background(background) => drop(background.start(call, drop)),
            Self::Calling(client) => {
                if let Ok(background) = BackgroundClient::from_blocking(client) {
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

impl Deref for Bridge {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        match self {
            Self::Background(background) => background,
            Self::Calling(client) => client,
        }
    }
}

fn interrupted() -> PyResult<()> {
    // A finalized interpreter has no signals to handle; the waiting thread ends with the process.
    Python::try_attach(|py| py.check_signals()).unwrap_or(Ok(()))
}
