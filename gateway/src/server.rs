//! The gateway server.

mod reloader;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actpass_protocol::token::Algorithm;
use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;

use self::reloader::Reloader;
use crate::access_log::AccessLog;
use crate::admission::DecisionAdmission;
use crate::approvals::ApprovalNotifier;
use crate::capture::Captures;
use crate::checkpoints::Checkpoints;
use crate::client_certificates::{ClientCertificate, ClientTrust};
use crate::clock::Clock;
use crate::config::{ConnectionLimits, MasterKeySource, Settings, Timeouts};
use crate::connections::{
    Admission, Admitted, ConnectionAction, ConnectionTimeouts, Connections, ResponseBody, WriteTimeout,
};
use crate::dpop::{Nonces, Replays};
use crate::http::{App, Attempts, Page, metrics_router, router, under_base_path};
use crate::metrics::Metrics;
use crate::passkeys::RelyingParty;
use crate::passport::SigningKeyStore;
use crate::passport::keys::SigningKeyError;
use crate::reload::{Loaded, Reloads};
use crate::seal::{MasterKey, SealError};
use crate::service::{Service, SharedState};
use crate::shadow::Shadows;
use crate::sign_in::SignIn;
use crate::store::{KeptChange, KeptKind, Location, NewKept, OpenError, Store, StoreError};
use crate::traces::Traces;
use crate::vault::Vault;
use crate::webhooks::Dispatcher;

/// Maximum number of concurrent requests per HTTP/2 connection.
const MAX_STREAMS: u32 = 256;

/// Maximum number of pending resets per HTTP/2 connection. The connection is closed beyond it.
const MAX_PENDING_RESETS: usize = 20;

/// Maximum size of request headers, in bytes.
const MAX_HEADER_BYTES: u16 = 32 * 1024;

/// Idle time of an HTTP/2 connection before a keep-alive ping.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// Idle timeout of an HTTP/2 connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Interval of connection timeout checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Delay after a failed accept, and minimum interval between its log lines.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Delay and maximum number of attempts while evicted connections close.
const ADMIT_RETRY_DELAY: Duration = Duration::from_millis(1);
const MAX_ADMIT_ATTEMPTS: usize = 1000;

/// Connection limits of the listener for metrics.
const METRICS_CONNECTIONS: ConnectionLimits = ConnectionLimits { total: 64, per_address: 64 };

/// Time after the begin of a stop in which idle connections may still send a request. The response
/// closes the connection.
const LAST_REQUEST: Duration = Duration::from_millis(250);

/// File descriptors reserved for the store, the log and others.
#[cfg(unix)]
const RESERVED_FILES: u64 = 128;

/// A running gateway; see [`Server::start`].
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    scheme: &'static str,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    /// The listener for metrics, which ends after the requests in flight.
    metrics: Option<MetricsListener>,
    /// The tasks that create checkpoints, notice the halts of others, deliver to webhooks and reload
    /// the settings.
    background: JoinSet<()>,
    reloads: Reloads,
    store: Arc<dyn Store>,
    notifier: ApprovalNotifier,
    in_force: watch::Receiver<Arc<InForce>>,
}

/// A running listener for metrics.
#[derive(Debug)]
struct MetricsListener {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

/// Error of starting or running a gateway.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The supervisor passed sockets that the settings do not name.
    #[error(
        "the inherited socket {0} is not `listen` or `metrics.listen` of the settings; expected the same addresses"
    )]
    Inherited(SocketAddr),
    /// Listening failed.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, #[source] io::Error),
    /// The access log cannot be opened.
    #[error("cannot open the access log: {0}")]
    AccessLog(#[source] io::Error),
    /// The operating system provides no randomness.
    #[error("cannot create a random key: {0}")]
    Random(#[source] getrandom::Error),
    /// The collector of traces is unusable.
    #[error("cannot export traces: {0}")]
    Traces(String),
    /// The signing keys are unusable.
    #[error("cannot use the signing keys: {0}")]
    SigningKeys(#[from] SigningKeyError),
    /// The data is unusable.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The sign-in is unusable.
    #[error("cannot use the identity provider: {0}")]
    SignIn(String),
    /// A webhook is unusable.
    #[error("cannot use the webhook {0:?}: {1}")]
    Webhook(String, String),
    /// Accepting connections failed.
    #[error("cannot accept connections: {0}")]
    Serve(#[source] io::Error),
}

impl Server {
    /// Opens the data and the listening socket. When this returns, the gateway is ready.
    ///
    /// # Errors
    ///
    /// Returns an error if the data or the address is unusable.
    pub async fn start(settings: Settings) -> Result<Self, ServerError> {
        let store = settings.data.open(&settings.clock).await?;
        advance_clock(&settings.clock, &*store).await?;
        Self::start_with(settings, store).await
    }

    /// Same as [`Server::start`], with an open store in place of the data in the settings.
    ///
    /// # Errors
    ///
    /// Returns an error if the address or the signing keys are unusable.
    pub async fn start_with(settings: Settings, store: Arc<dyn Store>) -> Result<Self, ServerError> {
        Self::start_on(settings, store, Vec::new()).await
    }

    /// Same as [`Server::start`], with listening sockets that a supervisor has opened. Each must be one
    /// of the addresses in the settings. They outlive this gateway, so that connections wait for the
    /// next one.
    ///
    /// # Errors
    ///
    /// Same as [`Server::start`]; also if a socket has another address.
    pub async fn start_inherited(
        settings: Settings,
        inherited: Vec<std::net::TcpListener>,
    ) -> Result<Self, ServerError> {
        let store = settings.data.open(&settings.clock).await?;
        advance_clock(&settings.clock, &*store).await?;
        Self::start_on(settings, store, inherited).await
    }

    async fn start_on(
        settings: Settings,
        store: Arc<dyn Store>,
        mut inherited: Vec<std::net::TcpListener>,
    ) -> Result<Self, ServerError> {
        let listen = settings.listen;
        let listening = |error| ServerError::Listen(listen, error);
        let listener = open_listener(listen, &mut inherited).await.map_err(listening)?;
        let address = listener.local_addr().map_err(listening)?;
        let metrics_listener = match settings.metrics {
            None => None,
            Some(metrics) => {
                let listening = |error| ServerError::Listen(metrics.listen, error);
                let listener = open_listener(metrics.listen, &mut inherited).await.map_err(listening)?;
                let address = listener.local_addr().map_err(listening)?;
                Some((listener, address))
            }
        };
        if let Some(other) = inherited.first() {
            return Err(ServerError::Inherited(other.local_addr().map_err(listening)?));
        }
        let timeouts = settings.timeouts;
        let notifier = ApprovalNotifier::default();
        let scheme = if settings.tls.is_some() { "https" } else { "http" };
        let (vault, captures, keys) =
            match master_key(&settings.master_key, &settings.data).map_err(SigningKeyError::from)? {
                Some(master) => {
                    let vault = Vault::new(&master).map_err(SigningKeyError::from)?;
                    let captures = Captures::new(&master).map_err(SigningKeyError::from)?;
                    let keys = SigningKeyStore::open(&*store, master, settings.signing_algorithm).await?;
                    warn_of_algorithm(&keys, settings.signing_algorithm);
                    (Some(Arc::new(vault)), Some(Arc::new(captures)), Some(Arc::new(keys)))
                }
                None => (None, None, None),
            };
        let (shadows, shadowed) = Shadows::new();
        let checkpoints = Checkpoints::new(settings.checkpoints, settings.clock.clone())
            .publish(settings.issuer.as_deref(), settings.checkpoint_file.clone());
        let base_path: Arc<str> = settings.base_path.as_str().into();
        let issuer = settings.issuer.clone().unwrap_or_else(|| format!("{scheme}://{address}"));
        let (stop, stopping) = watch::channel(false);
        let metrics = store.timings().map(Metrics::new).unwrap_or_default();
        let system = match &settings.data {
            Location::Database(_) => "postgresql",
            Location::File(_) => "sqlite",
        };
        let shared = Shared {
            base_path: Arc::clone(&base_path),
            attempts: Arc::default(),
            replays: Arc::default(),
            nonces: Arc::new(Nonces::generate().map_err(ServerError::Random)?),
            timeouts,
            store: Arc::clone(&store),
            issuer: issuer.as_str().into(),
            keys,
            vault,
            captures,
            shadows: shadows.clone(),
            notifier: notifier.clone(),
            clock: settings.clock.clone(),
            announced: Arc::default(),
            page_url: format!("{issuer}{base_path}").into(),
            holder: uuid::Uuid::now_v7().simple().to_string().into(),
            state: Arc::default(),
            metrics: Arc::new(metrics),
            admission: Arc::default(),
            system,
            stopping: stopping.clone(),
        };
        let (reloads, requests) = Reloads::new(settings.source.is_some());
        let limits = within_file_limit(settings.connections);
        let (source, fixed, files) = (settings.source.clone(), settings.fixed(), settings.files.clone());
        let in_force = InForce::new(settings, &shared, &reloads, None)?;
        let kept = keep_policies(&in_force.loaded, &*store, &shared.clock);
        if !tokio::time::timeout(shared.timeouts.store, kept).await.is_ok_and(|kept| kept.is_ok()) {
            tracing::error!("the policies in force were not stored, so a rollback to them is not possible");
        }
        let dispatchers = in_force.dispatchers(&shared).await?;
        let (replace, in_force) = watch::channel(Arc::new(in_force));
        let mut background = JoinSet::new();
        background.spawn({
            let service = Arc::clone(in_force.borrow().service());
            let in_force = in_force.clone();
            let tenants =
                move || in_force.borrow().loaded.tenants.iter().map(|tenant| tenant.id.to_string()).collect();
            async move { checkpoints.run(&*service.store, service.keys.as_deref(), tenants).await }
        });
        background.spawn(poll_halts(Arc::clone(&store)));
        background.spawn(expire_kept(Arc::clone(&store), shared.clock.clone()));
        background.spawn(shadows.run(shadowed, Arc::clone(&store)));
        let mut delivering = JoinSet::new();
        dispatchers.into_iter().for_each(|dispatcher| {
            delivering.spawn(dispatcher.run());
        });
        match source.zip(requests) {
            Some((source, requests)) => {
                let reloads = reloads.clone();
                let reloader = Reloader { source, fixed, files, shared, replace, reloads, delivering };
                background.spawn(reloader.run(requests));
            }
            None => {
                background.spawn(async move { while delivering.join_next().await.is_some() {} });
            }
        }
        let context = ConnectionContext {
            builder: builder(&timeouts),
            api: Api::Gateway,
            in_force: in_force.clone(),
            base_path,
            timeouts,
            connections: Connections::new(limits),
            stopping,
        };
        let metrics = metrics_listener.map(|(listener, address)| {
            let (stop, stopping) = watch::channel(false);
            let context = ConnectionContext {
                api: Api::Metrics { has_tls: !address.ip().is_loopback() },
                base_path: "".into(),
                connections: Connections::new(METRICS_CONNECTIONS),
                stopping,
                ..context.clone()
            };
            MetricsListener { address, stop, serving: tokio::spawn(serve(listener, context)) }
        });
        let serving = tokio::spawn(serve(listener, context));
        Ok(Self { address, scheme, stop, serving, metrics, background, reloads, store, notifier, in_force })
    }

    /// Reloads the settings from their file, like SIGHUP. Returns immediately; the log has the result.
    pub fn reload(&self) {
        self.reloads.by_signal();
    }

    /// Returns a function that does the same as [`Server::reload`].
    pub fn reloader(&self) -> impl Fn() + Send + 'static {
        let reloads = self.reloads.clone();
        move || reloads.by_signal()
    }

    /// Returns the listening address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the address of the listener for metrics.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(|metrics| metrics.address)
    }

    /// Returns the URL of the root, without a trailing slash.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Waits for `stop`, then drains: stops accepting, completes requests in flight and closes the
    /// store.
    ///
    /// # Errors
    ///
    /// Returns an error if the gateway failed before.
    pub async fn run_until(mut self, stop: impl Future<Output = ()>) -> Result<(), ServerError> {
        let ended = tokio::select! {
            () = stop => None,
            ended = &mut self.serving => Some(ended),
        };
        let served = match ended {
            Some(served) => served,
            None => {
                self.notifier.stop();
                self.stop.send_replace(true);
                self.serving.await
            }
        };
        self.background.shutdown().await;
        if let Some(metrics) = self.metrics {
            metrics.stop.send_replace(true);
            // A panic was already reported.
            let _ = metrics.serving.await;
        }
        let traces = self.in_force.borrow().app.traces.clone();
        if let Some(traces) = traces {
            // A panic was already reported.
            let _ = tokio::task::spawn_blocking(move || traces.stop()).await;
        }
        self.store.close().await;
        served.map_err(|error| ServerError::Serve(io::Error::other(error)))
    }

    /// Stops now; see [`Server::run_until`].
    ///
    /// # Errors
    ///
    /// Same as [`Server::run_until`].
    pub async fn stop(self) -> Result<(), ServerError> {
        self.run_until(std::future::ready(())).await
    }
}

/// Returns the inherited socket of this address, otherwise a new one. Port 0 matches every port.
async fn open_listener(
    address: SocketAddr,
    inherited: &mut Vec<std::net::TcpListener>,
) -> io::Result<TcpListener> {
    let is_same = |found: SocketAddr| {
        found.ip() == address.ip() && (found.port() == address.port() || address.port() == 0)
    };
    let found = inherited.iter().position(|listener| listener.local_addr().is_ok_and(is_same));
    let Some(at) = found else {
        return TcpListener::bind(address).await;
    };
    let listener = inherited.swap_remove(at);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// State that a reload keeps.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    base_path: Arc<str>,
    attempts: Arc<Attempts>,
    replays: Arc<Replays>,
    nonces: Arc<Nonces>,
    timeouts: Timeouts,
    store: Arc<dyn Store>,
    issuer: Arc<str>,
    keys: Option<Arc<SigningKeyStore>>,
    vault: Option<Arc<Vault>>,
    captures: Option<Arc<Captures>>,
    shadows: Shadows,
    notifier: ApprovalNotifier,
    clock: Clock,
    announced: Arc<Notify>,
    /// URL of the page, in messages to webhooks.
    page_url: Arc<str>,
    /// Identifies this gateway in the leases of webhooks.
    holder: Arc<str>,
    state: Arc<SharedState>,
    metrics: Arc<Metrics>,
    admission: Arc<DecisionAdmission>,
    /// Name of the database system, in traces.
    system: &'static str,
    stopping: watch::Receiver<bool>,
}

/// State that a reload replaces as a whole. A request uses one of these from its beginning to its end.
#[derive(Debug)]
pub(crate) struct InForce {
    /// The routes with the keys, the policies and the other settings of requests.
    routes: Router,
    /// The routes of the listener for metrics.
    metrics_routes: Router,
    app: Arc<App>,
    tls: Option<Arc<ServerConfig>>,
    client_trust: Option<ClientTrust>,
    loaded: Arc<Loaded>,
}

impl InForce {
    /// Puts validated settings in place of `before`.
    pub(crate) fn new(
        settings: Settings,
        shared: &Shared,
        reloads: &Reloads,
        before: Option<&Self>,
    ) -> Result<Self, ServerError> {
        let access_log = settings.access_log.as_ref().map(AccessLog::open).transpose();
        let access_log = access_log.map_err(ServerError::AccessLog)?.map(Arc::new);
        let sign_in = settings.sign_in.map(|sign_in| SignIn::new(sign_in, &shared.page_url)).transpose();
        let sign_in = sign_in.map_err(ServerError::SignIn)?;
        let mut keyring = settings.keyring;
        if let Some(before) = before {
            keyring.continue_from(&before.app.keyring);
        }
        let service = Service {
            store: Arc::clone(&shared.store),
            issuer: Arc::clone(&shared.issuer),
            url: Arc::clone(&shared.page_url),
            relying_party: RelyingParty::of_url(&shared.page_url),
            keys: shared.keys.clone(),
            vault: shared.vault.clone(),
            captures: shared.captures.clone(),
            shadows: shared.shadows.clone(),
            approval_seconds: settings.approval_seconds,
            reuse_approvals: settings.reuse_approvals,
            allow_self_approval: settings.allow_self_approval,
            directory: settings.directory,
            pending_approvals: settings.pending_approvals,
            lift_by: settings.lift_by,
            retention_seconds: settings.retention_seconds,
            notifier: shared.notifier.clone(),
            clock: shared.clock.clone(),
            webhooks: settings.webhooks,
            announced: Arc::clone(&shared.announced),
            store_timeout: shared.timeouts.store,
            state: Arc::clone(&shared.state),
            metrics: Arc::clone(&shared.metrics),
        };
        let loaded = Arc::new(Loaded {
            tenants: settings.tenants,
            hash: settings.hash,
            certificate_expires_at: settings.certificate_expires_at,
        });
        let running = before.and_then(|before| before.app.traces.as_ref());
        let traces = match settings.traces {
            None => None,
            Some(settings) => match running.filter(|running| running.has(&settings)) {
                Some(running) => Some(Arc::clone(running)),
                None => {
                    let traces = Traces::start(settings, shared.system, Arc::clone(&shared.metrics));
                    Some(Arc::new(traces.map_err(ServerError::Traces)?))
                }
            },
        };
        let app = Arc::new(App {
            keyring,
            service: Arc::new(service),
            body_bytes: settings.body_bytes,
            body_timeout: shared.timeouts.body,
            page: Page::new(
                settings.tls.is_some(),
                Arc::clone(&shared.base_path),
                Arc::clone(&shared.store),
                sign_in,
            ),
            client_trust: settings.client_trust,
            hosts: settings.hosts,
            trusted_proxies: settings.trusted_proxies,
            attempts: Arc::clone(&shared.attempts),
            replays: Arc::clone(&shared.replays),
            nonces: settings.dpop_nonce.then(|| Arc::clone(&shared.nonces)),
            reloads: reloads.clone(),
            loaded: Arc::clone(&loaded),
            metrics: Arc::clone(&shared.metrics),
            metrics_token: settings.metrics.and_then(|metrics| metrics.token),
            admission: Arc::clone(&shared.admission),
            admission_limits: settings.admission,
            traces,
            access_log,
            stopping: shared.stopping.clone(),
        });
        let routes = router(Arc::clone(&app));
        let metrics_routes = metrics_router(Arc::clone(&app));
        let (tls, client_trust) = (settings.tls, settings.client_trust);
        Ok(Self { routes, metrics_routes, app, tls, client_trust, loaded })
    }

    /// Creates the dispatchers of the webhooks.
    pub(crate) async fn dispatchers(&self, shared: &Shared) -> Result<Vec<Dispatcher>, ServerError> {
        let mut dispatchers = Vec::with_capacity(self.app.service.webhooks.len());
        for webhook in self.app.service.webhooks.iter().cloned() {
            let name = webhook.name.to_string();
            let (store, clock) = (Arc::clone(&shared.store), shared.clock.clone());
            let announced = Arc::clone(&shared.announced);
            let (page, holder) = (Arc::clone(&shared.page_url), Arc::clone(&shared.holder));
            let dispatcher = Dispatcher::new(webhook, store, clock, page, announced, holder).await;
            dispatchers.push(dispatcher.map_err(|problem| ServerError::Webhook(name, problem))?);
        }
        Ok(dispatchers)
    }

    /// Returns the use cases.
    pub(crate) fn service(&self) -> &Arc<Service> {
        &self.app.service
    }
}

/// Interval of the polls for halts that another gateway or a command has changed. They wake requests
/// that wait. Decisions do not depend on them.
const HALT_POLL: Duration = Duration::from_millis(250);

/// Interval of the polls while the store is unavailable.
const HALT_POLL_RETRY: Duration = Duration::from_secs(2);

/// Interval of the deletion of expired records outside of the ledger, and their maximum number.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(60);
const EXPIRE_LIMIT: u32 = 1000;

/// Removes expired records outside of the ledger.
async fn expire_kept(store: Arc<dyn Store>, clock: Clock) {
    loop {
        let expire = KeptChange::Expire { now: clock.millis(), limit: EXPIRE_LIMIT };
        let removed = store.change_kept(expire).await.unwrap_or(0);
        if removed < u64::from(EXPIRE_LIMIT) {
            tokio::time::sleep(EXPIRE_INTERVAL).await;
        }
    }
}

/// Stores the texts of the policies, for a rollback and for replays.
async fn keep_policies(loaded: &Loaded, store: &dyn Store, clock: &Clock) -> Result<(), StoreError> {
    let at = clock.millis();
    let policies = loaded.tenants.iter().map(|tenant| NewKept {
        tenant_id: Arc::clone(&tenant.id),
        kind: KeptKind::Policy,
        name: tenant.policy.hash().to_owned(),
        at,
        expires_at: None,
        body: tenant.policy.source().to_vec(),
    });
    store.change_kept(KeptChange::Add(policies.collect())).await.map(|_| ())
}

/// Polls for halts that another gateway or a command has changed.
async fn poll_halts(store: Arc<dyn Store>) {
    loop {
        let interval = match store.halts().await {
            Ok(_) => HALT_POLL,
            Err(_) => HALT_POLL_RETRY,
        };
        tokio::time::sleep(interval).await;
    }
}

/// A ledger that is ahead of the system clock by more than this causes a warning, in milliseconds.
const MAX_LEDGER_LEAD_MS: i64 = 60_000;

/// Advances the clock to the ledger's last event.
async fn advance_clock(clock: &Clock, store: &dyn Store) -> Result<(), SigningKeyError> {
    let Some(recorded) = store.last_recorded().await? else {
        return Ok(());
    };
    let ahead_ms = recorded.saturating_sub(clock.source_millis());
    if ahead_ms > MAX_LEDGER_LEAD_MS {
        tracing::warn!(
            ahead_ms,
            "the ledger's last event is later than the system clock; continuing from the event's time: \
            correct the clock, and if the event's time was wrong, start with a new data store"
        );
    }
    clock.advance_to(recorded);
    Ok(())
}

/// The routes of a listener.
#[derive(Clone, Copy, Debug)]
enum Api {
    Gateway,
    /// Metrics, without TLS on a loopback address.
    Metrics {
        has_tls: bool,
    },
}

/// Shared context of all connections.
#[derive(Clone)]
struct ConnectionContext {
    builder: auto::Builder<TokioExecutor>,
    api: Api,
    in_force: watch::Receiver<Arc<InForce>>,
    base_path: Arc<str>,
    timeouts: Timeouts,
    connections: Arc<Connections>,
    stopping: watch::Receiver<bool>,
}

fn builder(timeouts: &Timeouts) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.headers)
        .max_buf_size(usize::from(MAX_HEADER_BYTES));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_header_list_size(u32::from(MAX_HEADER_BYTES))
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(timeouts.headers);
    builder
}

/// Accepts connections until the gateway stops, then drains them within the grace period.
async fn serve(listener: TcpListener, mut context: ConnectionContext) {
    let mut tasks = JoinSet::new();
    let mut logged: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
            _ = context.stopping.wait_for(|stopping| *stopping) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            // The client disconnected before it was accepted.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::Interrupted
                ) =>
            {
                continue;
            }
            // Out of file descriptors or memory. Open connections end by their timeouts, which
            // frees resources.
            Err(error) => {
                if logged.is_none_or(|logged| logged.elapsed() >= LOG_EVERY) {
                    logged = Some(Instant::now());
                    tracing::error!(%error, open = tasks.len(), "accept failed");
                }
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            }
        };
        let Ok(local) = stream.local_addr() else {
            continue;
        };
        let address = peer.ip().to_canonical();
        let is_proxy = {
            let in_force = context.in_force.borrow();
            in_force.app.trusted_proxies.iter().any(|network| network.contains(&address))
        };
        // Evicted connections close as soon as their tasks run.
        for _ in 0..MAX_ADMIT_ATTEMPTS {
            match context.connections.admit(peer, local, is_proxy) {
                Admission::Admitted(admitted) => {
                    tasks.spawn(accept_connection(stream, admitted, context.clone()));
                    break;
                }
                Admission::Retry => tokio::time::sleep(ADMIT_RETRY_DELAY).await,
                Admission::Refused => break,
            }
        }
    }
    drop(listener);
    let rest = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(context.timeouts.stop, rest).await.is_err() {
        tracing::warn!(open = tasks.len(), "connections were closed: the grace period of the shutdown ended");
        tasks.shutdown().await;
    }
}

/// Serves a connection until it ends or must be closed.
async fn accept_connection(stream: TcpStream, admitted: Admitted, context: ConnectionContext) {
    // Disables Nagle's algorithm for latency; failure is harmless.
    let _ = stream.set_nodelay(true);
    let connection = Arc::clone(&admitted.connection);
    let stream = WriteTimeout::new(stream, context.timeouts.response);
    let mut stopping = context.stopping.clone();
    let has_tls = match context.api {
        Api::Gateway => true,
        Api::Metrics { has_tls } => has_tls,
    };
    let (tls, trust) = {
        let in_force = context.in_force.borrow();
        (in_force.tls.clone().filter(|_| has_tls).map(TlsAcceptor::from), in_force.client_trust)
    };
    let serving = async {
        match tls {
            None => serve_connection(stream, &admitted, context).await,
            Some(tls) => {
                let handshake = tokio::time::timeout(context.timeouts.headers, tls.accept(stream));
                let stopped = async {
                    let _ = stopping.wait_for(|stopping| *stopping).await;
                    tokio::time::sleep(LAST_REQUEST).await;
                };
                let shaken = tokio::select! {
                    shaken = handshake => shaken,
                    () = stopped => return,
                };
                match shaken {
                    Ok(Ok(stream)) => {
                        let presented = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                        let certificate = presented.zip(trust);
                        if let Some(certificate) = certificate
                            .and_then(|(certificate, trust)| ClientCertificate::read(certificate, trust))
                        {
                            // A connection has one handshake.
                            let _ = connection.certificate.set(certificate);
                        }
                        serve_connection(stream, &admitted, context).await;
                    }
                    Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                    Err(_) => tracing::debug!("TLS handshake timed out"),
                }
            }
        }
    };
    tokio::select! {
        () = serving => {}
        () = connection.evicted() => {}
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    admitted: &Admitted,
    context: ConnectionContext,
) {
    let connection = &admitted.connection;
    let (in_force, base_path, api) = (&context.in_force, &context.base_path, context.api);
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        let in_flight = connection.begin();
        request.extensions_mut().insert(Arc::clone(connection));
        let request = under_base_path(request.map(Body::new), base_path);
        let mut routes = match api {
            Api::Gateway => in_force.borrow().routes.clone(),
            Api::Metrics { .. } => in_force.borrow().metrics_routes.clone(),
        };
        let (stopping, version) = (context.stopping.clone(), request.version());
        async move {
            let mut response = routes.call(request).await?;
            if *stopping.borrow() && version <= http::Version::HTTP_11 {
                response
                    .headers_mut()
                    .insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response.map(|body| ResponseBody::new(body, in_flight)))
        }
    });
    let serving = context.builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let timeouts = ConnectionTimeouts {
        headers: context.timeouts.headers,
        idle: IDLE_TIMEOUT,
        response: context.timeouts.response,
    };
    let mut looks = tokio::time::interval(CHECK_INTERVAL.min(context.timeouts.headers));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopping = context.stopping.clone();
    let mut retired = false;
    let mut retire_at: Option<Instant> = None;
    loop {
        let retires = tokio::select! {
            // Client errors are not logged.
            _ = serving.as_mut() => return,
            _ = stopping.wait_for(|stopping| *stopping), if retire_at.is_none() => {
                // A response in progress closes the connection.
                retire_at = Some(Instant::now() + LAST_REQUEST);
                continue;
            }
            () = tokio::time::sleep_until(retire_at.unwrap_or_else(Instant::now)),
                if !retired && retire_at.is_some() => true,
            _ = looks.tick() => match connection.action(&timeouts, Instant::now()) {
                ConnectionAction::Keep => false,
                ConnectionAction::Drain => !retired,
                ConnectionAction::Close => return,
            },
        };
        if retires {
            retired = true;
            serving.as_mut().graceful_shutdown();
        }
    }
}

/// Reduces the connection limits to the process's file limit, after raising that to its maximum.
#[cfg(unix)]
fn within_file_limit(limits: ConnectionLimits) -> ConnectionLimits {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let files = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: files.maximum, maximum: files.maximum };
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => files.maximum,
        Err(_) => files.current,
    };
    let room = files.map_or(u64::MAX, |files| files.saturating_sub(RESERVED_FILES).max(1));
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    if room < limits.total {
        let (wanted, files) = (limits.total, files.unwrap_or(u64::MAX));
        tracing::warn!(wanted, room, files, "connection limit reduced: the process's file limit is too low");
    }
    ConnectionLimits { total: limits.total.min(room), per_address: limits.per_address.min(room) }
}

#[cfg(not(unix))]
fn within_file_limit(limits: ConnectionLimits) -> ConnectionLimits {
    limits
}

/// Warns if the active key has another algorithm than the settings.
fn warn_of_algorithm(keys: &SigningKeyStore, configured: Algorithm) {
    if let Some(active) = keys.cached().algorithm().filter(|active| *active != configured) {
        tracing::warn!(
            %active,
            %configured,
            "signing_algorithm differs from the active signing key's: run actpass-gateway keys rotate"
        );
    }
}

/// Returns the path of the master key file of a data file.
pub(crate) fn master_key_file(data: &Path) -> PathBuf {
    let mut beside = data.as_os_str().to_owned();
    beside.push(".master-key");
    beside.into()
}

/// Returns the master key, if any.
pub(crate) fn master_key(source: &MasterKeySource, data: &Location) -> Result<Option<MasterKey>, SealError> {
    match (source, data) {
        (MasterKeySource::BesideData, Location::File(data)) => {
            MasterKey::load_or_make(&master_key_file(data)).map(Some)
        }
        (MasterKeySource::Given(key), _) => Ok(Some(key.clone())),
        (MasterKeySource::BesideData, Location::Database(_)) | (MasterKeySource::Missing, _) => Ok(None),
    }
}
