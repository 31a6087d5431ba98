//! Calls on the calling thread: for languages that block.
//!
//! Nothing drives the connections between calls, so nothing sees a server close an idle one. Each call therefore first has
//! the driving thread poll the sockets, without waiting for anything new, before it may pick a connection. Which thread
//! drives does not matter: of many that call at once after a pause only one does.

use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::time::Duration;

use tokio::runtime::Builder;

use actpass_core::{ActPass, ActPassBuilder, Circuit, Error, Settings};

use crate::idle::reap_closed_connections;
use crate::process::PerProcess;
use crate::runtime::OwnedRuntime;

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
    client: PerProcess<ProcessClient>,
}

impl BlockingClient {
    /// Makes the client. Nothing is sent and no thread is started.
    ///
    /// # Errors
    ///
    /// As [`ActPassBuilder::build`].
    pub fn new(builder: ActPassBuilder) -> Result<Self, Error> {
        Ok(Self { settings: builder.settings()?, client: PerProcess::new() })
    }

    /// Whether calls of this process go to the gateway: see [`ActPass::circuit`].
    pub fn circuit(&self) -> Circuit {
        self.client.existing().map_or(Circuit::Closed, |client| client.actpass.circuit())
    }

    /// Makes `call` and waits for it on this thread.
    ///
    /// `interrupted` is asked every [`INTERRUPT_INTERVAL`]; its error abandons the call at once and is returned. What
    /// the call returns is otherwise the inner result, and so is a panic, as
    /// [`ErrorKind::Internal`](actpass_core::ErrorKind::Internal).
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
        let client = match self.client.get(|| ProcessClient::new(&self.settings)) {
            Ok(client) => client,
            Err(error) => return Ok(Err(error)),
        };
        let runtime = match client.runtime.get() {
            Ok(runtime) => runtime,
            Err(error) => return Ok(Err(error)),
        };
        let call = call(client.actpass.clone());
        let mut call = pin!(async move {
            // A task, because it is run by the thread that drives, which need not be this one.
            let _ = tokio::spawn(reap_closed_connections()).await;
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
struct ProcessClient {
    // Dropped in this order.
    actpass: ActPass,
    runtime: OwnedRuntime,
}

impl ProcessClient {
    fn new(settings: &Settings) -> Result<Self, Error> {
        let runtime = OwnedRuntime::build(&mut Builder::new_current_thread())?;
        Ok(Self { actpass: settings.connect(), runtime })
    }
}
