//! Calls on the calling thread, for blocking languages.
//!
//! No thread drives the connections between calls, so a closed idle connection goes unnoticed. Each
//! call therefore first polls its runtime's sockets once, without waiting, before it takes a
//! connection from the pool.

use std::convert::Infallible;
use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::time::Duration;

use actpass_core::{ActPass, ActPassBuilder, Circuit, Error, Settings};

use crate::drivers::{CallDriver, Drivers};
use crate::process::PerProcess;

/// Interval at which a waiting call checks for interruption: 50 ms.
pub const INTERRUPT_INTERVAL: Duration = Duration::from_millis(50);

/// A client for blocking programs. Safe to use from many threads and on both sides of a `fork()`.
///
/// ```
/// use actpass_core::{ActPass, Action};
/// use actpass_session::BlockingClient;
/// use std::convert::Infallible;
///
/// let client = BlockingClient::new(ActPass::builder().api_key("apk_dev").base_url("http://127.0.0.1:9").max_retries(0))?;
/// let result = client.wait(
///     async |actpass| actpass.preflight(&Action::new("demo", "demo.tool")).await,
///     || Ok::<(), Infallible>(()),
/// );
/// let Ok(answer) = result else { unreachable!("nothing interrupts it") };
/// assert_eq!(answer.unwrap_err().code(), "actpass.unreachable");
/// # Ok::<(), actpass_core::Error>(())
/// ```
pub struct BlockingClient {
    settings: Settings,
    drivers: PerProcess<Drivers>,
}

impl BlockingClient {
    /// Creates the client. Nothing is sent and no thread is started.
    ///
    /// # Errors
    ///
    /// As [`ActPassBuilder::build`].
    pub fn new(builder: ActPassBuilder) -> Result<Self, Error> {
        Ok(Self { settings: builder.settings()?, drivers: PerProcess::new() })
    }

    /// The state of this process's circuit breaker: see [`ActPass::circuit`].
    pub fn circuit(&self) -> Circuit {
        self.drivers.existing().map_or(Circuit::Closed, |drivers| drivers.client().circuit())
    }

    /// Runs `call` on this thread and waits for it. The client that it gets is for this call: its
    /// connections are driven only while the call waits.
    ///
    /// `interrupted` is called every [`INTERRUPT_INTERVAL`]; its error abandons the call and is
    /// returned. Otherwise the inner result is that of the call, or
    /// [`ErrorKind::Internal`](actpass_core::ErrorKind::Internal) if it panicked.
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
        let Ok(drivers) = self.drivers.get(|| Ok::<_, Infallible>(Drivers::new(&self.settings)));
        let driver = CallDriver::take(&drivers);
        let runtime = match driver.runtime() {
            Ok(runtime) => runtime,
            Err(error) => return Ok(Err(error)),
        };
        let call = call(driver.client().clone());
        let mut call = pin!(async {
            driver.reap_closed_connections().await;
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
