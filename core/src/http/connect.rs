//! Connecting to the gateway: an optional proxy, then TLS, within the connect timeout.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::vec;

use bytes::Bytes;
use futures_util::future::{self, Either};
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::client::legacy::connect::proxy::{SocksV4, SocksV5};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::Resumption;
use tokio::net::TcpStream;
use tower_service::Service;

use super::connect_options::ConnectOptions;
use super::proxy::{Protocol, Proxy};
use super::tls;
use crate::base_url::is_localhost;
use crate::cause::{CertificateProblem, ProxyProblem};
use crate::config::Config;

/// Detects a dead peer after one minute, even if a call may wait longer.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 3;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Connecting<S> = Pin<Box<dyn Future<Output = Result<S, BoxError>> + Send>>;
type Tcp = HttpConnector<Resolver>;
/// A connection to the gateway, or to the proxy before it.
type Hop = MaybeHttpsStream<TokioIo<TcpStream>>;

/// Establishes connections within the connect timeout.
#[derive(Clone)]
pub(crate) struct Connector {
    tcp: Tcp,
    tls: Arc<ClientConfig>,
    tunnel: Option<Tunnel>,
    /// `None` if the total timeout is shorter.
    timeout: Option<Duration>,
}

impl Connector {
    pub(crate) fn new(config: &Config, connect_options: &ConnectOptions) -> Self {
        let timeout = Some(config.connect_timeout).filter(|timeout| *timeout < config.timeout);
        let mut tcp = HttpConnector::new_with_resolver(Resolver(GaiResolver::new()));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(timeout);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE));
        tcp.set_keepalive_retries(Some(KEEPALIVE_PROBES));
        let mut tls = connect_options.trust.config().clone();
        // The session cache has a lock, which `fork()` could leave held. Each process has its own.
        tls.resumption = Resumption::default();
        let tunnel = connect_options.proxy.as_ref().map(|proxy| {
            let mut tls = tls.clone();
            tls.alpn_protocols.clear();
            Tunnel { proxy: Arc::clone(proxy), tls: Arc::new(tls) }
        });
        Self { tcp, tls: Arc::new(tls), tunnel, timeout }
    }
}

impl Service<Uri> for Connector {
    type Response = TimedConnection<MaybeHttpsStream<Hop>>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, gateway: Uri) -> Self::Future {
        let is_open = Arc::new(AtomicBool::new(false));
        let route =
            Route { tcp: self.tcp.clone(), tunnel: self.tunnel.clone(), is_open: Arc::clone(&is_open) };
        let connecting = HttpsConnector::from((route, Arc::clone(&self.tls))).call(gateway);
        let Some(timeout) = self.timeout else {
            return Box::pin(async move { connecting.await.map(TimedConnection::now) });
        };
        let tunnel = self.tunnel.clone();
        let connecting = tokio::time::timeout(timeout, connecting);
        Box::pin(async move {
            let connected = connecting.await.unwrap_or_else(|_elapsed| match tunnel {
                Some(tunnel) if !is_open.load(Ordering::Relaxed) => {
                    Err(tunnel.failed(ProxyProblem::Timeout, "timed out opening a tunnel").into())
                }
                Some(_) | None => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            });
            connected.map(TimedConnection::now)
        })
    }
}

/// A connection that records when it was established: before any request was sent, however late the
/// caller is woken.
pub(crate) struct TimedConnection<S> {
    stream: S,
    at: ConnectedAt,
}

/// When a connection was established.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectedAt(pub(crate) Instant);

impl<S> TimedConnection<S> {
    fn now(stream: S) -> Self {
        Self { stream, at: ConnectedAt(Instant::now()) }
    }
}

impl<S: Connection> Connection for TimedConnection<S> {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(self.at)
    }
}

impl<S: Read + Unpin> Read for TimedConnection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: Write + Unpin> Write for TimedConnection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }
}

/// The route to the gateway below TLS: direct, or through a tunnel.
#[derive(Clone)]
struct Route {
    tcp: Tcp,
    tunnel: Option<Tunnel>,
    /// Whether the tunnel is open. Later failures are the gateway's.
    is_open: Arc<AtomicBool>,
}

impl Service<Uri> for Route {
    type Response = Hop;
    type Error = BoxError;
    type Future = Connecting<Hop>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, gateway: Uri) -> Self::Future {
        let (mut tcp, is_open) = (self.tcp.clone(), Arc::clone(&self.is_open));
        match self.tunnel.clone() {
            None => Box::pin(async move { Ok(tcp.call(gateway).await?.into()) }),
            Some(tunnel) => Box::pin(async move {
                let hop = tunnel.open(tcp, &gateway).await?;
                is_open.store(true, Ordering::Relaxed);
                Ok(hop)
            }),
        }
    }
}

/// Opens tunnels through a proxy.
#[derive(Clone)]
struct Tunnel {
    proxy: Arc<Proxy>,
    /// For proxies that are reached over TLS.
    tls: Arc<ClientConfig>,
}

impl Tunnel {
    async fn open(&self, tcp: Tcp, gateway: &Uri) -> Result<Hop, BoxError> {
        let resolves = match self.proxy.protocol {
            Protocol::Connect => {
                let hop = self.connect(tcp).await?;
                return Ok(self.http_connect(hop, gateway).await?);
            }
            Protocol::Socks4 { resolves } | Protocol::Socks5 { resolves } => resolves,
        };
        if resolves {
            let hop = self.connect(tcp).await?;
            return Ok(self.socks_handshake(hop, gateway.clone()).await?);
        }
        let mut failed =
            self.failed(ProxyProblem::NotConnected, "the gateway's host has no address of a supported type");
        for address in self.addresses(gateway).await? {
            let hop = self.connect(tcp.clone()).await?;
            match self.socks_handshake(hop, address).await {
                Ok(hop) => return Ok(hop),
                Err(failure) => failed = failure,
            }
        }
        Err(failed.into())
    }

    /// Connects to the proxy.
    async fn connect(&self, tcp: Tcp) -> Result<Hop, ProxyFailure> {
        let mut connector = HttpsConnector::from((tcp, Arc::clone(&self.tls)));
        connector.call(self.proxy.address.clone()).await.map_err(|error| {
            let problem = match connect_problem(&*error) {
                ConnectProblem::Certificate(problem) => ProxyFailureKind::Certificate(problem),
                ConnectProblem::NotTls => ProxyFailureKind::Proxy(ProxyProblem::Protocol),
                ConnectProblem::Unresolved => ProxyFailureKind::Proxy(ProxyProblem::Unresolved),
                ConnectProblem::Timeout => ProxyFailureKind::Proxy(ProxyProblem::Timeout),
                ConnectProblem::Interrupted => ProxyFailureKind::Proxy(ProxyProblem::Interrupted),
                ConnectProblem::Refused
                | ConnectProblem::Tls
                | ConnectProblem::Unroutable
                | ConnectProblem::Other => ProxyFailureKind::Proxy(ProxyProblem::Unreachable),
            };
            self.failure(problem, root_cause(&*error))
        })
    }

    /// Requests a tunnel from an HTTP proxy.
    async fn http_connect(&self, hop: Hop, gateway: &Uri) -> Result<Hop, ProxyFailure> {
        let target = format!("{}:{}", gateway.host().unwrap_or_default(), gateway.port_u16().unwrap_or(443));
        let mut request = Request::builder().method(Method::CONNECT).uri(&target).header(HOST, &target);
        if let Some(authorization) = self.proxy.authorization() {
            request = request.header(PROXY_AUTHORIZATION, authorization);
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|error| self.failed(ProxyProblem::Protocol, error.to_string()))?;
        let broken = |error: hyper::Error| {
            let problem = if error.is_parse() { ProxyProblem::Protocol } else { ProxyProblem::Interrupted };
            self.failed(problem, root_cause(&error))
        };
        // Some proxies expect header names in title case.
        let mut http = http1::Builder::new();
        http.title_case_headers(true);
        let (mut sender, connection) = http.handshake(hop).await.map_err(broken)?;
        let connection = pin!(connection.with_upgrades());
        let answer = pin!(async {
            let response = sender.send_request(request).await.map_err(broken)?;
            match response.status() {
                status if status.is_success() => hyper::upgrade::on(response).await.map_err(broken),
                status => {
                    Err(self.failed(http_proxy_problem(status), format!("the proxy answered {status}")))
                }
            }
        });
        let answer = match future::select(answer, connection).await {
            Either::Left((answer, _)) => answer?,
            Either::Right((_, answer)) => answer.await?,
        };
        match answer.downcast::<Hop>() {
            Ok(parts) if parts.read_buf.is_empty() => Ok(parts.io),
            Ok(_) | Err(_) => Err(self.failed(ProxyProblem::Protocol, "unexpected data after the response")),
        }
    }

    /// Requests a tunnel from a SOCKS proxy.
    async fn socks_handshake(&self, hop: Hop, gateway: Uri) -> Result<Hop, ProxyFailure> {
        let address = self.proxy.address.clone();
        let tunnel: Result<Hop, String> = match self.proxy.protocol {
            Protocol::Connect | Protocol::Socks4 { .. } => {
                SocksV4::new(address, ExistingConnection(Some(hop)))
                    .call(gateway)
                    .await
                    .map_err(|error| error.to_string())
            }
            Protocol::Socks5 { .. } => {
                let mut socks = SocksV5::new(address, ExistingConnection(Some(hop)));
                if let Some(given) = &self.proxy.credentials {
                    socks = socks.with_auth(given.user.clone(), given.password.expose().to_owned());
                }
                socks.call(gateway).await.map_err(|error| error.to_string())
            }
        };
        tunnel.map_err(|problem| self.failed(socks_problem(&problem), problem))
    }

    /// Resolves the gateway's addresses, for a SOCKS scheme that leaves this to the client.
    async fn addresses(&self, gateway: &Uri) -> Result<Vec<Uri>, BoxError> {
        let host = gateway.host().unwrap_or_default();
        if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
            return Ok(vec![gateway.clone()]);
        }
        let port = gateway.port_u16().unwrap_or(443);
        let found = tokio::net::lookup_host((host, port)).await;
        let found =
            found.map_err(|error| Unresolved { host: host.to_owned(), problem: error.to_string() })?;
        Ok(found.map(|address| Uri::try_from(format!("https://{address}/"))).collect::<Result<_, _>>()?)
    }

    fn failed(&self, problem: ProxyProblem, what: impl Into<String>) -> ProxyFailure {
        self.failure(ProxyFailureKind::Proxy(problem), what.into())
    }

    fn failure(&self, problem: ProxyFailureKind, what: String) -> ProxyFailure {
        ProxyFailure { proxy: Arc::clone(&self.proxy), problem, what }
    }
}

/// Maps a non-2xx status of an HTTP proxy.
fn http_proxy_problem(status: StatusCode) -> ProxyProblem {
    match status.as_u16() {
        401 | 407 => ProxyProblem::Authentication,
        403 => ProxyProblem::Forbidden,
        _ => ProxyProblem::NotConnected,
    }
}

/// Maps an error of a SOCKS proxy. The library reports errors only as text; a test covers each
/// text.
fn socks_problem(problem: &str) -> ProxyProblem {
    let says = |text: &str| problem.contains(text);
    match () {
        () if says("user/pass authentication")
            || says("authentication incorrectly")
            || says("credentials") =>
        {
            ProxyProblem::Authentication
        }
        () if says("not allowed") => ProxyProblem::Forbidden,
        () if says("io error") => ProxyProblem::Interrupted,
        () if says("failed parsing") => ProxyProblem::Protocol,
        () => ProxyProblem::NotConnected,
    }
}

/// A failure of the proxy, not of the gateway.
#[derive(Debug)]
pub(crate) struct ProxyFailure {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) problem: ProxyFailureKind,
    what: String,
}

/// The kind of a proxy failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyFailureKind {
    Certificate(CertificateProblem),
    Proxy(ProxyProblem),
}

impl fmt::Display for ProxyFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for ProxyFailure {}

/// Why a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectProblem {
    Certificate(CertificateProblem),
    Interrupted,
    NotTls,
    Other,
    Refused,
    Timeout,
    Tls,
    Unresolved,
    Unroutable,
}

/// Finds the problem in an error and its sources.
pub(crate) fn connect_problem(error: DynError<'_>) -> ConnectProblem {
    for cause in causes(error) {
        if cause.is::<Unresolved>() {
            return ConnectProblem::Unresolved;
        }
        if let Some(error) = cause.downcast_ref::<rustls::Error>() {
            #[expect(clippy::wildcard_enum_match_arm, reason = "the library's enum is open")]
            return match error {
                rustls::Error::InvalidCertificate(error) => {
                    ConnectProblem::Certificate(tls::certificate_problem(error))
                }
                rustls::Error::InvalidMessage(_) => ConnectProblem::NotTls,
                _ => ConnectProblem::Tls,
            };
        }
    }
    // h2 does not expose the system's error as a source.
    let systems = causes(error).filter_map(|cause| {
        let http2 = cause.downcast_ref::<h2::Error>().and_then(h2::Error::get_io);
        cause.downcast_ref::<io::Error>().or(http2)
    });
    for error in systems {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the library's enum is open")]
        match error.kind() {
            io::ErrorKind::ConnectionRefused => return ConnectProblem::Refused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                return ConnectProblem::Unroutable;
            }
            io::ErrorKind::TimedOut => return ConnectProblem::Timeout,
            io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
            | io::ErrorKind::UnexpectedEof => return ConnectProblem::Interrupted,
            _ => {}
        }
    }
    // Which of these a closed connection produces depends on when it closed.
    let is_interrupted = |cause: DynError<'_>| {
        cause.is::<h2::Error>()
            || cause.downcast_ref::<hyper::Error>().is_some_and(|error| {
                error.is_incomplete_message() || error.is_canceled() || error.is_closed()
            })
    };
    match causes(error).any(is_interrupted) {
        true => ConnectProblem::Interrupted,
        false => ConnectProblem::Other,
    }
}

pub(crate) type DynError<'e> = &'e (dyn std::error::Error + 'static);

/// The innermost cause, which is the most specific.
pub(crate) fn root_cause(error: DynError<'_>) -> String {
    causes(error).last().map_or_else(|| "no cause given".to_owned(), ToString::to_string)
}

/// `error` and its sources, including the inner error of an I/O error.
pub(crate) fn causes(error: DynError<'_>) -> impl Iterator<Item = DynError<'_>> {
    std::iter::successors(Some(error), |cause| {
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        match inner {
            Some(inner) => Some(inner as DynError<'_>),
            None => cause.source(),
        }
    })
}

/// A connector that returns an established connection.
struct ExistingConnection(Option<Hop>);

impl Service<Uri> for ExistingConnection {
    type Response = Hop;
    type Error = io::Error;
    type Future = future::Ready<io::Result<Hop>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        future::ready(self.0.take().ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}

/// The system's resolver, except that `localhost` and its subdomains resolve to loopback without a
/// lookup (RFC 6761), so that no name server can redirect plain http.
#[derive(Clone, Debug)]
struct Resolver(GaiResolver);

impl Resolver {
    async fn lookup(&mut self, name: Name) -> Result<vec::IntoIter<SocketAddr>, Unresolved> {
        if is_localhost(name.as_str()) {
            let addresses = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            return Ok(Vec::from(addresses.map(|address| SocketAddr::new(address, 0))).into_iter());
        }
        let host = name.as_str().to_owned();
        let unresolved = |problem: String| Unresolved { host: host.clone(), problem };
        let found = self.0.call(name).await.map_err(|error| unresolved(error.to_string()))?;
        let found: Vec<_> = found.collect();
        match found.is_empty() {
            true => Err(unresolved("no address".to_owned())),
            false => Ok(found.into_iter()),
        }
    }
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = Unresolved;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Unresolved>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unresolved>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let mut resolver = self.clone();
        Box::pin(async move { resolver.lookup(name).await })
    }
}

/// A host name that does not resolve.
#[derive(Debug)]
pub(crate) struct Unresolved {
    host: String,
    problem: String,
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the host name {} cannot be resolved: {}", self.host, self.problem)
    }
}

impl std::error::Error for Unresolved {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_socks_library_messages() {
        for (text, problem) in [
            ("SOCKS error: server does not support user/pass authentication", ProxyProblem::Authentication),
            ("SOCKS error: server implements authentication incorrectly", ProxyProblem::Authentication),
            ("SOCKS error: credentials not accepted", ProxyProblem::Authentication),
            ("SOCKS error: connection not allowed", ProxyProblem::Forbidden),
            ("SOCKS error: io error during SOCKS handshake", ProxyProblem::Interrupted),
            ("SOCKS error: failed parsing server response", ProxyProblem::Protocol),
            ("SOCKS error: host unreachable", ProxyProblem::NotConnected),
            ("SOCKS error: server failed to execute command", ProxyProblem::NotConnected),
        ] {
            assert_eq!(socks_problem(text), problem, "{text}");
        }
    }
}
