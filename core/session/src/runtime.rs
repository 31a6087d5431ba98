//! The background thread of the process, which all bindings share.

use std::future::Future;

use actpass_core::{Error, ErrorKind};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

use crate::idle::reap_closed_connections;
use crate::process::PerProcess;

/// The background thread of this process, on which the calls of event loops run.
///
/// One thread runs all tasks, so that a task that blocks delays every call of the process. The thread blocks SIGPIPE: a
/// write to a connection that the gateway has closed fails as an error.
#[derive(Clone, Debug)]
pub struct BackgroundRuntime(Handle);

impl BackgroundRuntime {
    /// The runtime of this process, which the first call starts. A forked child starts its own.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Internal`] if the thread cannot be started.
    pub fn current() -> Result<Self, Error> {
        static BACKGROUND: PerProcess<OwnedRuntime> = PerProcess::new();
        let runtime = BACKGROUND.get(|| {
            // One worker: it waits for the network, and more were not faster.
            let mut builder = Builder::new_multi_thread();
            OwnedRuntime::build(
                builder.worker_threads(1).thread_name("actpass").on_thread_start(block_sigpipe),
            )
        })?;
        Ok(Self(runtime.get()?.handle().clone()))
    }

    /// Starts `task`. Dropping the handle lets it go on.
    ///
    /// ```
    /// let task = actpass_session::BackgroundRuntime::current()?.spawn(async { 40 + 2 });
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    /// # runtime.block_on(async {
    /// assert_eq!(task.await.unwrap(), 42);
    /// # });
    /// # Ok::<(), actpass_core::Error>(())
    /// ```
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.0.spawn(async {
            reap_closed_connections().await;
            task.await
        })
    }
}

/// A runtime that may be dropped anywhere, a task of another runtime included.
pub(crate) struct OwnedRuntime(Option<Runtime>);

impl OwnedRuntime {
    pub(crate) fn build(builder: &mut Builder) -> Result<Self, Error> {
        let runtime = builder.enable_all().build().map_err(|error| {
            Error::new(ErrorKind::Internal, format!("no runtime: {error}")).with_source(error)
        })?;
        Ok(Self(Some(runtime)))
    }

    pub(crate) fn get(&self) -> Result<&Runtime, Error> {
        self.0.as_ref().ok_or_else(|| Error::new(ErrorKind::Internal, "the runtime is gone"))
    }
}

impl Drop for OwnedRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Lets a write to a closed connection fail as an error instead of ending the process, which is the signal's default and
/// stays so in a host that does not ignore it, as a Swift program does not. Only this thread's mask changes.
fn block_sigpipe() {
    #[cfg(unix)]
    {
        use nix::sys::signal::{SigSet, Signal};

        let mut signals = SigSet::empty();
        signals.add(Signal::SIGPIPE);
        // It fails only for an operation that does not exist.
        let _ = signals.thread_block();
    }
}
