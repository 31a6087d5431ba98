//! The doors for programs without an async runtime of their own: languages that bind this library.
//!
//! [`Background`] is for those with an event loop: its calls run beside the calling thread. [`Host`] is for those that block: it lends the calling thread to the network while it waits, so that a call costs no hop to another thread. One
//! thread at a time drives everybody's connections, and passes that on when its own call is answered.
//!
//! Two hazards come with such a design, and both are met here:
//!
//! - **Stale connections.** Nothing drives the connections between calls, so nothing sees a server close an idle one.
//!   Each call therefore first has the driving thread look at what has happened, without waiting for anything new, before
//!   it may pick a connection. Which thread drives does not matter: of many that call at once after a pause only one does.
//! - **`fork()`.** A child process inherits the runtime's descriptors and connections, and two processes reading one
//!   connection take each other's answers. Each call therefore looks at the process it is in; a child builds everything
//!   anew and never touches, nor drops, what is its parent's. There is no lock that a fork could leave held.

use std::fmt;
use std::mem;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, Runtime};

use crate::action::Action;
use crate::breaker::Circuit;
use crate::client::{ActPass, ActPassBuilder};
use crate::config::Config;
use crate::error::{Error, ErrorKind};
use crate::guard::{Mode, Verdict};
use crate::request;

pub use crate::background::{Background, Call};
pub use crate::call_log::{CallLog, LogLine};

/// How often a waiting call asks whether it should go on: every 50 ms.
pub const INTERRUPT_INTERVAL: Duration = Duration::from_millis(50);

/// A client for blocking programs: safe to use from many threads at once and on both sides of a `fork()`.
///
/// ```
/// use actpass_core::runtime::Host;
/// use actpass_core::{ActPass, Action};
/// use std::convert::Infallible;
///
/// let host = Host::new(ActPass::builder().api_key("apk_dev").base_url("http://127.0.0.1:9").max_retries(0))?;
/// let asked = host.wait(
///     async |actpass| actpass.preflight(&Action::new("demo", "demo.tool")).await,
///     || Ok::<(), Infallible>(()),
/// );
/// let Ok(answer) = asked else { unreachable!("nothing interrupts it") };
/// assert_eq!(answer.unwrap_err().code(), "actpass.unreachable");
/// # Ok::<(), actpass_core::Error>(())
/// ```
pub struct Host {
    settings: Settings,
    engine: ArcSwap<Engine>,
}

impl Host {
    /// Makes the client. Nothing is sent and no thread is started.
    ///
    /// # Errors
    ///
    /// As [`ActPassBuilder::build`].
    pub fn new(builder: ActPassBuilder) -> Result<Self, Error> {
        let settings = Settings::new(builder)?;
        let engine = ArcSwap::from_pointee(Engine::new(settings.0.clone())?);
        Ok(Self { settings, engine })
    }

    /// Whether calls of this process go to the gateway: see [`ActPass::circuit`].
    pub fn circuit(&self) -> Circuit {
        let engine = self.engine.load();
        match &engine.parts {
            Some((_, client)) if engine.is_mine() => client.circuit(),
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
            .unwrap_or_else(|_panic| Ok(Err(Error::new(ErrorKind::Internal, "a panic in the SDK"))))
    }

    fn drive<T, E, F>(
        &self,
        call: F,
        mut interrupted: impl FnMut() -> Result<(), E>,
    ) -> Result<Result<T, Error>, E>
    where
        F: AsyncFnOnce(ActPass) -> Result<T, Error>,
    {
        let engine = match self.engine() {
            Ok(engine) => engine,
            Err(error) => return Ok(Err(error)),
        };
        let Some((runtime, client)) = engine.parts.as_ref() else {
            return Ok(Err(Error::new(ErrorKind::Internal, "the runtime is gone")));
        };
        let call = call(client.clone());
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

    /// Asks whether `action` may run, waits on this thread, and rules on the answer, as [`ActPass::authorize`] does.
    ///
    /// Here too a gate that fails is a verdict: a runtime that cannot be made (a forked child may be out of file
    /// descriptors) or a panic on the way blocks, and lets `monitor` run.
    ///
    /// # Errors
    ///
    /// What `interrupted` returned; else, inside, [`ErrorKind::Argument`] for what cannot be sent.
    ///
    /// ```
    /// use actpass_core::runtime::Host;
    /// use actpass_core::{ActPass, Action, Verdict};
    /// use std::convert::Infallible;
    ///
    /// let host = Host::new(ActPass::builder().api_key("apk_dev").base_url("http://127.0.0.1:9").max_retries(0))?;
    /// let asked = host.authorize(&Action::new("demo", "demo.tool"), || Ok::<(), Infallible>(()));
    /// let Ok(Ok(Verdict::Blocked(blocked))) = asked else { unreachable!("nobody listens there") };
    /// assert_eq!(blocked.decision().reason_code(), "actpass.unreachable");
    /// # Ok::<(), actpass_core::Error>(())
    /// ```
    pub fn authorize<E>(
        &self,
        action: &Action,
        interrupted: impl FnMut() -> Result<(), E>,
    ) -> Result<Result<Verdict, Error>, E> {
        let ruled = self.wait(async |actpass| actpass.authorize(action).await, interrupted)?;
        Ok(self.rule(action, ruled))
    }

    /// The engine of this process.
    fn engine(&self) -> Result<Arc<Engine>, Error> {
        let current = self.engine.load_full();
        if current.is_mine() {
            return Ok(current);
        }
        let mine = Arc::new(Engine::new(self.settings.0.clone())?);
        let before = self.engine.compare_and_swap(&current, Arc::clone(&mine));
        if Arc::ptr_eq(&before, &current) {
            return Ok(mine);
        }
        // Another thread of this process was first.
        Ok(Arc::clone(&before))
    }
}

impl Deref for Host {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.debug("Host", f)
    }
}

/// The settings of a client, as far as they may be read back.
///
/// ```
/// use actpass_core::ActPass;
/// use actpass_core::runtime::Host;
///
/// let host = Host::new(ActPass::builder().api_key("apk_dev").base_url("https://gateway.example/"))?;
/// assert_eq!((host.base_url(), host.agent_id()), ("https://gateway.example", "sdk"));
/// # Ok::<(), actpass_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Settings(Config);

impl Settings {
    pub(crate) fn new(builder: ActPassBuilder) -> Result<Self, Error> {
        builder.config().map(Self)
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0
    }

    pub(crate) fn debug(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("base_url", &self.base_url())
            .field("agent_id", &self.agent_id())
            .finish_non_exhaustive()
    }

    /// The gateway's URL, without a trailing slash.
    pub fn base_url(&self) -> &str {
        self.0.base_url.as_str()
    }

    /// The agent's name.
    pub fn agent_id(&self) -> &str {
        &self.0.agent_id
    }

    /// The tenant, if one was given.
    pub fn tenant_id(&self) -> Option<&str> {
        self.0.tenant_id.as_ref().and_then(|id| id.to_str().ok())
    }

    /// The total deadline of a call.
    pub fn timeout(&self) -> Duration {
        self.0.timeout
    }

    /// The mode of actions that name none.
    pub fn mode(&self) -> Mode {
        self.0.mode
    }

    /// Checks an action as [`ActPass::authorize`] does before it sends, and sends nothing: for a binding that is given the
    /// parameters before the arguments.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`], which names the parameter.
    pub fn check(&self, action: &Action) -> Result<(), Error> {
        let mode = action.mode.unwrap_or(self.0.mode);
        let key = action.idempotency_key.as_deref().unwrap_or("unsent");
        request::preflight(action, &self.0.agent_id, mode, key).map(drop)
    }

    /// The verdict on what [`ActPass::authorize`] came to by way of a door of this module. A door may fail before there is
    /// a client that could rule: a runtime that cannot be made (a forked child may be out of file descriptors), a panic.
    /// That too is a verdict: it blocks, and lets `monitor` run.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`] for what cannot be sent, and nothing else.
    pub fn rule(&self, action: &Action, ruled: Result<Verdict, Error>) -> Result<Verdict, Error> {
        match ruled {
            Err(failure) if failure.kind() != ErrorKind::Argument => {
                let mode = action.mode.unwrap_or(self.0.mode);
                let body = request::preflight(action, &self.0.agent_id, mode, "unsent")?;
                Ok(Verdict::of(mode, action, body, Err(failure)))
            }
            ruled => ruled,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.debug("Settings", f)
    }
}

/// What a process may not share with another.
struct Engine {
    process: u32,
    parts: Option<(Runtime, ActPass)>,
}

impl Engine {
    fn new(config: Config) -> Result<Self, Error> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| {
            Error::new(ErrorKind::Internal, format!("no runtime: {error}")).with_source(error)
        })?;
        let client = ActPass::with_config(config);
        Ok(Self { process: std::process::id(), parts: Some((runtime, client)) })
    }

    fn is_mine(&self) -> bool {
        self.process == std::process::id()
    }
}

impl Drop for Engine {
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

/// Lets a closed connection leave the pool before a request can pick it: the first yield has the thread that drives collect
/// what the sockets have to tell, without waiting, and in the second the connections act on it.
pub(crate) async fn notice_closed_connections() {
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
}
