//! Validated settings.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "http")]
use crate::action::Action;
#[cfg(feature = "http")]
use crate::client::{ActPass, TimeSource};
#[cfg(feature = "http")]
use crate::clock::TokioClock;
use crate::config::Config;
use crate::engine::Engine;
#[cfg(feature = "http")]
use crate::error::Error;
#[cfg(feature = "http")]
use crate::halts::HaltWatcher;
#[cfg(feature = "http")]
use crate::http::{ConnectOptions, HttpTransport};
#[cfg(feature = "http")]
use crate::prepared::PreparedAction;
#[cfg(feature = "http")]
use crate::transport::Transport;
use actpass_protocol::Mode;

/// The validated settings of a client. Each client created from them has its own connections and
/// circuit breaker.
///
/// ```
/// use actpass_core::ActPass;
///
/// let settings = ActPass::builder().api_key("apk_dev").base_url("https://gateway.example/").settings()?;
/// assert_eq!((settings.base_url(), settings.agent_id()), ("https://gateway.example", "sdk"));
/// let actpass = settings.connect();
/// assert_eq!(actpass.base_url(), settings.base_url());
/// # Ok::<(), actpass_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Settings {
    config: Arc<Config>,
    #[cfg(feature = "http")]
    connect_options: ConnectOptions,
}

impl Settings {
    #[cfg(feature = "http")]
    pub(crate) fn new(config: Config, connect_options: ConnectOptions) -> Self {
        Self { config: Arc::new(config), connect_options }
    }

    #[cfg(not(feature = "http"))]
    pub(crate) fn new(config: Config) -> Self {
        Self { config: Arc::new(config) }
    }

    /// Creates a client. Nothing is sent.
    #[cfg(feature = "http")]
    pub fn connect(&self) -> ActPass {
        self.unwatched().watched_by(None)
    }

    /// Creates a client whose [watch for stops](crate::HaltWatch) is run by `watcher` instead of
    /// the current tokio runtime.
    #[cfg(feature = "http")]
    pub fn connect_with_watcher(&self, watcher: impl HaltWatcher) -> ActPass {
        self.unwatched().with_watcher(watcher)
    }

    /// Creates a client with its own connections that shares the rest of its state with `client`,
    /// which must have these settings: the circuit breaker, the known keys and stops.
    ///
    /// ```
    /// use actpass_core::ActPass;
    ///
    /// let settings = ActPass::builder().api_key("apk_dev").max_retries(0).circuit_failures(1);
    /// let settings = settings.base_url("http://127.0.0.1:9").settings()?;
    /// let first = settings.connect();
    /// let second = settings.connect_sharing(&first);
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::{Action, Circuit};
    ///
    /// assert!(first.preflight(&Action::new("demo", "demo.tool")).await.is_err());
    /// assert!(matches!(second.circuit(), Circuit::Open { .. }));
    /// # });
    /// # Ok::<(), actpass_core::Error>(())
    /// ```
    #[cfg(feature = "http")]
    pub fn connect_sharing(&self, client: &ActPass) -> ActPass {
        client.over(self.transport())
    }

    /// A client whose running functions are not watched yet.
    #[cfg(feature = "http")]
    pub(crate) fn unwatched(&self) -> ActPass {
        ActPass::with_transport(Arc::clone(&self.config), self.transport(), TimeSource::Tokio)
    }

    #[cfg(feature = "http")]
    fn transport(&self) -> Box<dyn Transport> {
        Box::new(HttpTransport::new(&self.config, &self.connect_options))
    }

    /// Creates an engine with these settings, for a host that drives it itself: see
    /// [`crate::engine`].
    pub fn engine(&self) -> Engine {
        Engine::new(Arc::clone(&self.config))
    }

    /// Validates `action` and builds its request, as [`ActPass::prepare`] does.
    ///
    /// # Errors
    ///
    /// As [`ActPass::prepare`].
    #[cfg(feature = "http")]
    pub fn prepare(&self, action: Action) -> Result<PreparedAction, Error> {
        PreparedAction::new(action, &self.config, &TokioClock)
    }

    /// The gateway's URL, without a trailing slash.
    pub fn base_url(&self) -> &str {
        self.config.base_url.as_str()
    }

    /// The agent's name.
    pub fn agent_id(&self) -> &str {
        &self.config.agent_id
    }

    /// The tenant, if set.
    pub fn tenant_id(&self) -> Option<&str> {
        self.config.tenant_id.as_ref().and_then(|id| id.to_str().ok())
    }

    /// The total timeout of a call.
    pub fn timeout(&self) -> Duration {
        self.config.timeout
    }

    /// The mode of actions that set none.
    pub fn mode(&self) -> Mode {
        self.config.mode
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("base_url", &self.base_url())
            .field("agent_id", &self.agent_id())
            .finish_non_exhaustive()
    }
}
