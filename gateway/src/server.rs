//! A gateway that listens, until it is stopped.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinHandle;

use crate::approvals::Notices;
use crate::clock::Clock;
use crate::config::{MasterKeySource, Settings};
use crate::http::{App, Page, router};
use crate::passport::Keys;
use crate::passport::keys::KeyError;
use crate::seal::{MasterKey, SealError};
use crate::store::{Location, OpenError, Store};
use crate::vault::Vault;

/// How many requests one HTTP/2 connection may have in flight.
const STREAMS: u32 = 256;

/// How large the headers of a request may be, in bytes.
const HEADER_BYTES: u16 = 32 * 1024;

/// How long a client of an HTTP/2 connection may be silent before it is asked whether it is there.
const PING: Duration = Duration::from_secs(20);

/// A gateway that listens; see [`Server::start`].
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    scheme: &'static str,
    handle: Handle<SocketAddr>,
    serving: JoinHandle<io::Result<()>>,
    store: Arc<dyn Store>,
    grace: Duration,
    notices: Notices,
}

/// Why a gateway did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// It cannot listen at this address.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, #[source] io::Error),
    /// It cannot use the keys that sign passports.
    #[error("cannot use the signing keys: {0}")]
    Keys(#[from] KeyError),
    /// It cannot use its data.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It no longer takes connections.
    #[error("cannot take connections: {0}")]
    Serve(#[source] io::Error),
}

impl Server {
    /// Opens the data and listens. When this returns, the gateway can decide.
    ///
    /// # Errors
    ///
    /// If the data or the address cannot be used.
    pub async fn start(settings: Settings) -> Result<Self, ServerError> {
        let store = settings.data.open(&settings.clock).await?;
        catch_up(&settings.clock, &*store).await?;
        Self::start_with(settings, store).await
    }

    /// As [`Server::start`], with a store that is open already; the settings' own data are left alone.
    ///
    /// # Errors
    ///
    /// If the address or the signing keys cannot be used.
    pub async fn start_with(settings: Settings, store: Arc<dyn Store>) -> Result<Self, ServerError> {
        let listen = settings.listen;
        let listening = |error| ServerError::Listen(listen, error);
        let listener = TcpListener::bind(listen).map_err(listening)?;
        let address = listener.local_addr().map_err(listening)?;
        let timeouts = settings.timeouts;
        let notices = Notices::default();
        let scheme = if settings.tls.is_some() { "https" } else { "http" };
        let (vault, keys) = match master_key(&settings.master_key, &settings.data).map_err(KeyError::from)? {
            Some(master) => {
                let vault = Vault::new(&master).map_err(KeyError::from)?;
                (Some(vault), Some(Keys::open(&*store, master).await?))
            }
            None => (None, None),
        };
        let app = Arc::new(App {
            keyring: settings.keyring,
            store: Arc::clone(&store),
            issuer: settings.issuer.unwrap_or_else(|| format!("{scheme}://{address}")).into(),
            keys,
            vault,
            approval_seconds: settings.approval_seconds,
            finds_approvals: settings.finds_approvals,
            keep_seconds: settings.keep_seconds,
            notices: notices.clone(),
            clock: settings.clock,
            body_bytes: settings.body_bytes,
            body_timeout: timeouts.body,
            store_timeout: timeouts.store,
            checking: Mutex::default(),
            page: Page::new(settings.tls.is_some()),
            heavy: Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)),
        });
        let handle = Handle::new();
        let mut server = axum_server::from_tcp(listener)
            .map_err(listening)?
            .acceptor(NoDelayAcceptor::new())
            .handle(handle.clone())
            .first_request_timeout(timeouts.headers);
        server
            .http_builder()
            .http1()
            .header_read_timeout(timeouts.headers)
            .max_buf_size(usize::from(HEADER_BYTES))
            .http2()
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(u32::from(HEADER_BYTES))
            .keep_alive_interval(PING)
            .keep_alive_timeout(timeouts.headers);
        let routes = router(app).into_make_service();
        let serving = match settings.tls {
            None => tokio::spawn(server.serve(routes)),
            Some(tls) => {
                let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(tls))
                    .handshake_timeout(timeouts.headers)
                    .acceptor(NoDelayAcceptor::new());
                tokio::spawn(server.acceptor(acceptor).serve(routes))
            }
        };
        Ok(Self { address, scheme, handle, serving, store, grace: timeouts.stop, notices })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of its root, without a slash at the end.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Waits until `stop` is there, then takes no more connections, finishes the requests in flight, and closes the
    /// store.
    ///
    /// # Errors
    ///
    /// If the gateway could not go on until then.
    pub async fn run_until(mut self, stop: impl Future<Output = ()>) -> Result<(), ServerError> {
        let ended = tokio::select! {
            () = stop => None,
            ended = &mut self.serving => Some(ended),
        };
        let served = match ended {
            Some(served) => served,
            None => {
                self.notices.stop();
                self.handle.graceful_shutdown(Some(self.grace));
                self.serving.await
            }
        };
        self.store.close().await;
        match served {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(ServerError::Serve(error)),
            Err(error) => Err(ServerError::Serve(io::Error::other(error))),
        }
    }

    /// Stops at once, as [`Server::run_until`] does.
    ///
    /// # Errors
    ///
    /// As [`Server::run_until`].
    pub async fn stop(self) -> Result<(), ServerError> {
        self.run_until(std::future::ready(())).await
    }
}

/// A ledger that is ahead of the system's clock by more than this many milliseconds is warned of.
const AHEAD: i64 = 60_000;

/// Sets the clock to the ledger's last event, if it is behind.
async fn catch_up(clock: &Clock, store: &dyn Store) -> Result<(), KeyError> {
    let Some(recorded) = store.last_recorded().await? else {
        return Ok(());
    };
    let ahead_ms = recorded.saturating_sub(clock.source_millis());
    if ahead_ms > AHEAD {
        tracing::warn!(
            ahead_ms,
            "the ledger's last event is later than the system clock; time goes on from that event: set the clock, and              if the event's time was wrong, go on with a new data store"
        );
    }
    clock.at_least(recorded);
    Ok(())
}

/// The file beside a data file that has its master key.
pub(crate) fn master_key_file(data: &Path) -> PathBuf {
    let mut beside = data.as_os_str().to_owned();
    beside.push(".master-key");
    beside.into()
}

/// The master key, if there is one.
pub(crate) fn master_key(source: &MasterKeySource, data: &Location) -> Result<Option<MasterKey>, SealError> {
    match (source, data) {
        (MasterKeySource::BesideData, Location::File(data)) => {
            MasterKey::load_or_make(&master_key_file(data)).map(Some)
        }
        (MasterKeySource::Given(key), _) => Ok(Some(key.clone())),
        (MasterKeySource::BesideData, Location::Database(_)) | (MasterKeySource::Missing, _) => Ok(None),
    }
}
