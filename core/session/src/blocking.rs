//! Calls on the calling thread: for languages that block.
//!
//! Nothing drives the connections between calls, so nothing sees a server close an idle one. Each call therefore first has
//! the driving thread poll the sockets, without waiting for anything new, before it may pick a connection. Which thread
//! drives does not matter: of many that call at once after a pause only one does.

use std::fmt;
use std::mem;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, Runtime};

use actpass_core::{ActPass, ActPassBuilder, Circuit, Error, ErrorKind, PreparedAction, Settings, Verdict};

use crate::idle::notice_closed_connections;

/// How often a waiting call asks whether it should go on: every 50 ms.
pub const INTERRUPT_INTERVAL: Duration = Duration::from_millis(50);

/// A client for blocking programs: safe to use from many threads at once and on both sides of a `fork()`.
///
/// ```
/// use actpass_core::{ActPass, Action};
/// use actpass_session::BlockingClient;
/// use std::convert::Infallible;
///
/// let client = BlockingClient::new(ActPass::builder().api_key("apk_dev").base_url("http://127.0.0.1:9").max_retries(0))?;
/// let asked = client.wait(
///     async |actpass| actpass.preflight(&Action::new("demo", "demo.tool")).await,
///     || Ok::<(), Infallible>(()),
/// );
/// let Ok(answer) = asked else { unreachable!("nothing interrupts it") };
/// assert_eq!(answer.unwrap_err().code(), "actpass.unreachable");
/// # Ok::<(), actpass_core::Error>(())
/// ```
pub struct BlockingClient {
    settings: Settings,
    client: ArcSwap<PerProcess>,
}

impl BlockingClient {
    /// Makes the client. Nothing is sent and no thread is started.
    ///
    /// # Errors
    ///
    /// As [`ActPassBuilder::build`].
    pub fn new(builder: ActPassBuilder) -> Result<Self, Error> {
        let settings = builder.settings()?;
        let client = ArcSwap::from_pointee(PerProcess::new(&settings)?);
        Ok(Self { settings, client })
    }

    /// Whether calls of this process go to the gateway: see [`ActPass::circuit`].
    pub fn circuit(&self) -> Circuit {
        let client = self.client.load();
        match &client.parts {
            Some((_, actpass)) if client.is_mine() => actpass.circuit(),
            Some(_) | None => Circuit::Closed,
        }
    }

    /// Makes `call` and waits for it on this thread.
    ///
    /// `interrupted` is asked every [`INTERRUPT_INTERVAL`]; its error abandons the call at once and is returned. What
    /// the call returns is otherwise the inner result, and so is a panic, as [`ErrorKind::Internal`].
    pub fn wait<T, E, F>(
        &self,
        call: F,
        interrupted: impl FnMut() -> Result<(), E>,
    ) -> Result<Result<T, Error>, E>
    where
        F: AsyncFnOnce(ActPass) -> Result<T, Error>,
    {
        catch_unwind(AssertUnwindSafe(|| self.drive(call, interrupted)))
            .unwrap_or_else(|_panic| Ok(Err(Error::panicked())))
    }

    fn drive<T, E, F>(
        &self,
        call: F,
        mut interrupted: impl FnMut() -> Result<(), E>,
    ) -> Result<Result<T, Error>, E>
    where
        F: AsyncFnOnce(ActPass) -> Result<T, Error>,
    {
        let client = match self.client() {
            Ok(client) => client,
            Err(error) => return Ok(Err(error)),
        };
        let Some((runtime, actpass)) = client.parts.as_ref() else {
            return Ok(Err(Error::new(ErrorKind::Internal, "the runtime is gone")));
        };
        let call = call(actpass.clone());
        let mut call = pin!(async move {
            // A task, because it is run by the thread that drives, which need not be this one.
            let _ = tokio::spawn(notice_closed_connections()).await;
            call.await
        });
        loop {
            let slice = async { tokio::time::timeout(INTERRUPT_INTERVAL, call.as_mut()).await };
            match runtime.block_on(slice) {
                Ok(answered) => return Ok(answered),
                Err(_elapsed) => interrupted()?,
            }
        }
    }

    /// Asks whether an action may run, waits on this thread, and rules on the answer, as
    /// [`ActPass::authorize_prepared`] does.
    ///
    /// A gate that fails is a verdict: a runtime that cannot be made (a forked child may be out of file descriptors) or a
    /// panic on the way blocks, and lets `monitor` run.
    ///
    /// # Errors
    ///
    /// What `interrupted` returned.
    ///
    /// ```
    /// use actpass_core::{ActPass, Action, Verdict};
    /// use actpass_session::BlockingClient;
    /// use std::convert::Infallible;
    ///
    /// let client = BlockingClient::new(ActPass::builder().api_key("apk_dev").base_url("http://127.0.0.1:9").max_retries(0))?;
    /// let request = client.prepare(Action::new("demo", "demo.tool"))?;
    /// let Ok(verdict) = client.authorize(&request, || Ok::<(), Infallible>(()));
    /// let Verdict::Blocked(blocked) = verdict else { unreachable!("nothing listens there") };
    /// assert_eq!(blocked.decision().reason_code(), "actpass.unreachable");
    /// # Ok::<(), actpass_core::Error>(())
    /// ```
    pub fn authorize<E>(
        &self,
        request: &PreparedAction,
        interrupted: impl FnMut() -> Result<(), E>,
    ) -> Result<Verdict, E> {
        let ruled = self.wait(async |actpass| Ok(actpass.authorize_prepared(request).await), interrupted)?;
        Ok(ruled.unwrap_or_else(|failure| Verdict::for_failure(request, failure)))
    }

    /// The client of this process.
    fn client(&self) -> Result<Arc<PerProcess>, Error> {
        let current = self.client.load_full();
        if current.is_mine() {
            return Ok(current);
        }
        let mine = Arc::new(PerProcess::new(&self.settings)?);
        let before = self.client.compare_and_swap(&current, Arc::clone(&mine));
        if Arc::ptr_eq(&before, &current) {
            return Ok(mine);
        }
        // Another thread of this process was first.
        Ok(Arc::clone(&before))
    }
}

impl Deref for BlockingClient {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

impl fmt::Debug for BlockingClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingClient")
            .field("base_url", &self.base_url())
            .field("agent_id", &self.agent_id())
            .finish_non_exhaustive()
    }
}

/// What a process may not share with another.
struct PerProcess {
    process: u32,
    parts: Option<(Runtime, ActPass)>,
}

impl PerProcess {
    fn new(settings: &Settings) -> Result<Self, Error> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| {
            Error::new(ErrorKind::Internal, format!("no runtime: {error}")).with_source(error)
        })?;
        Ok(Self { process: std::process::id(), parts: Some((runtime, settings.connect())) })
    }

    fn is_mine(&self) -> bool {
        self.process == std::process::id()
    }
}

impl Drop for PerProcess {
    fn drop(&mut self) {
        let Some((runtime, client)) = self.parts.take() else {
            return;
        };
        if self.process == std::process::id() {
            drop(client);
            runtime.shutdown_background();
        } else {
            // The parent's: even to close it would reach into the parent's polling.
            mem::forget((runtime, client));
        }
    }
}
