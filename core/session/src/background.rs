//! Calls on a background thread, for languages with event loops.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::task::AbortHandle;

use actpass_core::{ActPass, ActPassBuilder, Circuit, Error, Settings};

use crate::blocking::BlockingClient;
use crate::halts::BackgroundWatcher;
use crate::process::{Owned, PerProcess};
use crate::runtime::BackgroundRuntime;

/// A client whose calls run on one background thread per process, shared by all such clients. The
/// first call starts the thread. Safe to use from many threads and on both sides of a `fork()`: a
/// child starts its own thread, opens its own connections, and does not touch its parent's.
///
/// ```
/// use actpass_session::BackgroundClient;
/// use actpass_core::{ActPass, Action};
/// use std::sync::mpsc;
///
/// let client = BackgroundClient::new(ActPass::builder().api_key("apk_dev").base_url("http://127.0.0.1:9").max_retries(0))?;
/// let (answered, answer) = mpsc::channel();
/// let call = client.start(
///     async |actpass: ActPass| actpass.preflight(&Action::new("demo", "demo.tool")).await,
///     move |answer| drop(answered.send(answer)),
/// );
/// assert_eq!(answer.recv().unwrap().unwrap_err().code(), "actpass.unreachable");
/// call.cancel(); // Completed already: a no-op.
/// # Ok::<(), actpass_core::Error>(())
/// ```
pub struct BackgroundClient {
    settings: Settings,
    client: PerProcess<ActPass>,
}

impl BackgroundClient {
    /// Creates the client. Nothing is sent and no thread is started.
    ///
    /// # Errors
    ///
    /// As [`ActPassBuilder::build`].
    pub fn new(builder: ActPassBuilder) -> Result<Self, Error> {
        Ok(Self::with_settings(builder.settings()?))
    }

    /// Creates a client with the settings of `blocking` and its own connections.
    ///
    /// # Errors
    ///
    /// None at present.
    pub fn from_blocking(blocking: &BlockingClient) -> Result<Self, Error> {
        Ok(Self::with_settings(Settings::clone(blocking)))
    }

    fn with_settings(settings: Settings) -> Self {
        Self { settings, client: PerProcess::new() }
    }

    /// The state of this process's circuit breaker: see [`ActPass::circuit`].
    pub fn circuit(&self) -> Circuit {
        self.client.existing().map_or(Circuit::Closed, |client| client.circuit())
    }

    /// Starts `call`. Its result is passed to `done`, once, on the background thread; if no thread
    /// can be started, `done` gets the error on the calling thread. A cancelled call drops `done`.
    ///
    /// `done` blocks all calls of the process while it runs. If it receives an error of
    /// [`ActPass::authorize_prepared`], the verdict is that of
    /// [`Verdict::for_failure`](actpass_core::Verdict::for_failure).
    pub fn start<T, F>(
        &self,
        call: impl FnOnce(ActPass) -> F,
        done: impl FnOnce(Result<T, Error>) + Send + 'static,
    ) -> CallHandle
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let Ok(client) = self.client.get(|| {
            let watcher = BackgroundWatcher::new(&self.settings);
            Ok::<_, Infallible>(self.settings.connect_with_watcher(watcher))
        });
        CallHandle::start(call(ActPass::clone(&client)), done)
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

/// A call on the background thread. Dropping the handle does not cancel the call. The default is a
/// call that cannot be cancelled.
#[derive(Default)]
pub struct CallHandle(Option<Owned<AbortHandle>>);

impl CallHandle {
    /// Starts `call` as [`BackgroundClient::start`] does.
    pub fn start<T: Send + 'static>(
        call: impl Future<Output = Result<T, Error>> + Send + 'static,
        done: impl FnOnce(Result<T, Error>) + Send + 'static,
    ) -> Self {
        let background = match BackgroundRuntime::current() {
            Ok(background) => background,
            Err(error) => {
                done(Err(error));
                return Self(None);
            }
        };
        let call = AssertUnwindSafe(call).catch_unwind();
        let task = background.spawn(async move {
            done(call.await.unwrap_or_else(|_panic| Err(Error::panicked())));
        });
        Self(Some(Owned::new(task.abort_handle())))
    }

    /// Cancels the call if it has not completed: closes its connection and drops its `done`. Does
    /// nothing in a forked child, because the call belongs to the parent.
    pub fn cancel(&self) {
        if let Some(task) = self.0.as_ref().filter(|task| task.is_current_process()) {
            task.abort();
        }
    }
}

impl fmt::Debug for CallHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallHandle").finish_non_exhaustive()
    }
}
