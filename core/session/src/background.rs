//! Calls that run beside the calling thread: for languages with event loops.

use std::fmt;
use std::future::Future;
use std::mem;
use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::FutureExt;
use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;

use actpass_core::{ActPass, ActPassBuilder, Circuit, Error, ErrorKind, Settings};

use crate::blocking::BlockingClient;
use crate::idle::notice_closed_connections;

/// The thread of this process, or of the one that this process was forked from.
static THREAD: ArcSwapOption<Thread> = ArcSwapOption::const_empty();

/// A client whose calls run on one background thread of the process, which all such clients share. It is started with the
/// first call. Safe to use from many threads at once and on both sides of a `fork()`: a child starts a thread of its own,
/// makes connections of its own, and touches nothing of its parent's.
///
/// ```
/// use actpass_session::BackgroundClient;
/// use actpass_core::{ActPass, Action};
/// use std::sync::mpsc;
///
/// let host = BackgroundClient::new(ActPass::builder().api_key("apk_dev").base_url("http://127.0.0.1:9").max_retries(0))?;
/// let (answered, answer) = mpsc::channel();
/// let call = host.start(
///     async |actpass: ActPass| actpass.preflight(&Action::new("demo", "demo.tool")).await,
///     move |answer| drop(answered.send(answer)),
/// );
/// assert_eq!(answer.recv().unwrap().unwrap_err().code(), "actpass.unreachable");
/// call.cancel(); // It is over, so this does nothing.
/// # Ok::<(), actpass_core::Error>(())
/// ```
pub struct BackgroundClient {
    settings: Settings,
    client: ArcSwap<Client>,
}

impl BackgroundClient {
    /// Makes the client. Nothing is sent and no thread is started.
    ///
    /// # Errors
    ///
    /// As [`ActPassBuilder::build`].
    pub fn new(builder: ActPassBuilder) -> Result<Self, Error> {
        Ok(Self::with_settings(builder.settings()?))
    }

    /// Makes a client with the settings of `host`, and with connections of its own.
    ///
    /// # Errors
    ///
    /// None at present.
    pub fn beside(host: &BlockingClient) -> Result<Self, Error> {
        Ok(Self::with_settings(Settings::clone(host)))
    }

    fn with_settings(settings: Settings) -> Self {
        let client = ArcSwap::from_pointee(Client::new(&settings));
        Self { settings, client }
    }

    /// Whether calls of this process go to the gateway: see [`ActPass::circuit`].
    pub fn circuit(&self) -> Circuit {
        let client = self.client.load();
        match &client.client {
            Some(actpass) if client.process == std::process::id() => actpass.circuit(),
            Some(_) | None => Circuit::Closed,
        }
    }

    /// Starts `call`. What it comes to is given to `done`, once, on the background thread; on the calling thread if there
    /// can be no other. A call that is cancelled before its end drops `done`.
    ///
    /// `done` delays all calls of the process while it runs. If it gets the error of an
    /// [`ActPass::authorize_prepared`], the verdict is that of [`Verdict::for_failure`](actpass_core::Verdict::for_failure).
    pub fn start<T, F>(
        &self,
        call: impl FnOnce(ActPass) -> F,
        done: impl FnOnce(Result<T, Error>) + Send + 'static,
    ) -> Call
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let process = std::process::id();
        let (runtime, client) = match self.parts(process) {
            Ok(parts) => parts,
            Err(error) => {
                done(Err(error));
                return Call { process, task: None };
            }
        };
        let Some(runtime) = runtime.runtime.as_ref() else {
            done(Err(Error::new(ErrorKind::Internal, "the runtime is gone")));
            return Call { process, task: None };
        };
        let call = AssertUnwindSafe(call(client)).catch_unwind();
        let task = runtime.spawn(async move {
            notice_closed_connections().await;
            done(call.await.unwrap_or_else(|_panic| Err(Error::panicked())));
        });
        Call { process, task: Some(task.abort_handle()) }
    }

    fn parts(&self, process: u32) -> Result<(Arc<Thread>, ActPass), Error> {
        let current = self.client.load_full();
        let client = match current.process == process {
            true => current,
            false => {
                let mine = Arc::new(Client::new(&self.settings));
                let before = self.client.compare_and_swap(&current, Arc::clone(&mine));
                match Arc::ptr_eq(&before, &current) {
                    true => mine,
                    // Another thread of this process was first.
                    false => Arc::clone(&before),
                }
            }
        };
        let client = client.client.clone();
        let client = client.ok_or_else(|| Error::new(ErrorKind::Internal, "the client is gone"))?;
        Ok((Thread::of(process)?, client))
    }
}

impl Deref for BackgroundClient {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

impl fmt::Debug for BackgroundClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackgroundClient")
            .field("base_url", &self.base_url())
            .field("agent_id", &self.agent_id())
            .finish_non_exhaustive()
    }
}

/// A call that was started by [`BackgroundClient::start`]. Dropping it lets the call go on.
#[derive(Debug)]
pub struct Call {
    process: u32,
    task: Option<AbortHandle>,
}

impl Call {
    /// Ends the call at once, if it is not over: its connection is closed, and what it was to do when done is dropped.
    pub fn cancel(&self) {
        if let Some(task) = self.task.as_ref().filter(|_| self.process == std::process::id()) {
            task.abort();
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // The parent's: its last holder would take apart what the parent still uses.
            mem::forget(self.task.take());
        }
    }
}

/// What a process may not share with another: the connections of one client.
struct Client {
    process: u32,
    client: Option<ActPass>,
}

impl Client {
    fn new(settings: &Settings) -> Self {
        Self { process: std::process::id(), client: Some(settings.connect()) }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            mem::forget(self.client.take());
        }
    }
}

/// The background thread of a process. The one that is in use is never dropped.
struct Thread {
    process: u32,
    runtime: Option<Runtime>,
}

impl Thread {
    fn of(process: u32) -> Result<Arc<Self>, Error> {
        let current = THREAD.load_full();
        if let Some(thread) = current.as_ref().filter(|thread| thread.process == process) {
            return Ok(Arc::clone(thread));
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("actpass")
            .enable_all()
            .build()
            .map_err(|error| {
                Error::new(ErrorKind::Internal, format!("no runtime: {error}")).with_source(error)
            })?;
        let mine = Arc::new(Self { process, runtime: Some(runtime) });
        let before = THREAD.compare_and_swap(&current, Some(Arc::clone(&mine)));
        match before.as_ref().filter(|thread| thread.process == process) {
            Some(first) => Ok(Arc::clone(first)),
            None => Ok(mine),
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            match self.process == std::process::id() {
                // Another thread was first to make one.
                true => runtime.shutdown_background(),
                false => mem::forget(runtime),
            }
        }
    }
}
