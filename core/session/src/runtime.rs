//! The background thread, shared by all bindings.

use std::future::Future;

use actpass_core::{Error, ErrorKind};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

use crate::idle::reap_closed_connections;
use crate::process::PerProcess;

/// The background thread of this process, which runs the calls of event loops.
///
/// One thread runs all tasks, so a task that blocks delays every call of the process. The thread
/// blocks SIGPIPE: a write to a closed connection fails with an error.
#[derive(Clone, Debug)]
pub struct BackgroundRuntime(Handle);

impl BackgroundRuntime {
    /// Returns the runtime of this process, starting it if necessary. A forked child starts its
    /// own.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Internal`] if the thread cannot be started.
    pub fn current() -> Result<Self, Error> {
        static BACKGROUND: PerProcess<OwnedRuntime> = PerProcess::new();
        let runtime = BACKGROUND.get(|| {
            // One worker: it waits for the network, and more workers were not faster.
            let mut builder = Builder::new_multi_thread();
            OwnedRuntime::build(
                builder.worker_threads(1).thread_name("actpass").on_thread_start(block_sigpipe),
            )
        })?;
        Ok(Self(runtime.get()?.handle().clone()))
    }

    /// Spawns `task`. Dropping the handle does not cancel it.
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

/// A runtime that can be dropped anywhere, including in a task of another runtime.
pub(crate) struct OwnedRuntime(Option<Runtime>);

impl OwnedRuntime {
    pub(crate) fn build(builder: &mut Builder) -> Result<Self, Error> {
        let runtime = builder.enable_all().build().map_err(|error| {
            Error::new(ErrorKind::Internal, format!("cannot start the runtime: {error}")).with_source(error)
        })?;
        Ok(Self(Some(runtime)))
    }

    pub(crate) fn get(&self) -> Result<&Runtime, Error> {
        self.0.as_ref().ok_or_else(|| Error::new(ErrorKind::Internal, "the runtime has shut down"))
    }
}

impl Drop for OwnedRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Makes a write to a closed connection fail with an error instead of ending the process with
/// SIGPIPE, the default in a host that does not ignore the signal, such as a Swift program. Changes
/// this thread's signal mask only.
fn block_sigpipe() {
    #[cfg(unix)]
    {
        use nix::sys::signal::{SigSet, Signal};

        let mut signals = SigSet::empty();
        signals.add(Signal::SIGPIPE);
        // Fails only for an invalid operation.
        let _ = signals.thread_block();
    }
}
