//! Connection admission, accounting and timeouts.
//!
//! Clients without a key cannot exhaust the connections of clients with one. There is a total
//! limit, below the process's file limit, and a limit per address. At a limit, a new connection
//! replaces the oldest connection that has not authenticated; authenticated connections are never
//! evicted. Each stage has a timeout: the TLS handshake, the headers, the body, the response, and
//! the idle time between requests.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use crate::client_certificates::ClientCertificate;
use crate::config::ConnectionLimits;

/// Maximum number of evicted connections that have not closed yet.
const MAX_CLOSING: usize = 64;

/// Minimum interval between log lines about rejected connections.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Returns the unit of per-address accounting: the IPv4 address, or the /64 network for IPv6,
/// because one host may own all of its addresses.
pub(crate) fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// All open connections.
#[derive(Debug)]
pub(crate) struct Connections {
    limits: ConnectionLimits,
    open: Mutex<OpenConnections>,
}

#[derive(Debug, Default)]
struct OpenConnections {
    next: u64,
    /// Ordered by age, oldest first.
    by_age: BTreeMap<u64, Arc<Connection>>,
    by_origin: HashMap<IpAddr, usize>,
    closing: usize,
    /// Time of the last log line, and the number of connections rejected and evicted since.
    rejections: (Option<Instant>, u64, u64),
}

impl Connections {
    pub(crate) fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self { limits, open: Mutex::default() })
    }

    /// Admits a connection if a limit permits. `is_proxy` exempts a proxy from the per-address
    /// limit.
    pub(crate) fn admit(self: &Arc<Self>, peer: SocketAddr, local: SocketAddr, is_proxy: bool) -> Admission {
        let mut open = self.lock();
        let origin = origin(peer.ip());
        let of_origin = open.by_origin.get(&origin).copied().unwrap_or(0);
        let is_full = open.by_age.len() >= self.limits.total.saturating_add(open.closing);
        let place = match (is_full, !is_proxy && of_origin >= self.limits.per_address) {
            (false, false) => Capacity::Free,
            (_, true) => open.evict(Some(origin)),
            (true, false) => open.evict(None),
        };
        match place {
            Capacity::Free => {}
            Capacity::Retry => return Admission::Retry,
            Capacity::Full => {
                open.rejections.1 += 1;
                open.log();
                return Admission::Refused;
            }
        }
        let id = open.next;
        open.next += 1;
        let connection = Arc::new(Connection {
            peer,
            local,
            certificate: OnceLock::new(),
            origin,
            authenticated: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            evicted: Notify::new(),
            requests: AtomicU64::new(0),
            opened_at: Instant::now(),
            traffic: Mutex::new(Traffic { last: Instant::now(), next: 0, in_flight: HashMap::new() }),
        });
        open.by_age.insert(id, Arc::clone(&connection));
        *open.by_origin.entry(origin).or_default() += 1;
        Admission::Admitted(Admitted { connections: Arc::clone(self), id, connection })
    }

    /// Number of open connections.
    #[cfg(test)]
    fn count(&self) -> usize {
        self.lock().by_age.len()
    }

    fn lock(&self) -> MutexGuard<'_, OpenConnections> {
        // No code that holds the lock leaves a partial update on panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnections {
    /// Evicts the oldest unauthenticated connection of `origin`, or of any origin.
    fn evict(&mut self, origin: Option<IpAddr>) -> Capacity {
        if self.closing >= MAX_CLOSING {
            return Capacity::Retry;
        }
        let oldest = self.by_age.values().find(|connection| {
            origin.is_none_or(|origin| origin == connection.origin)
                && !connection.authenticated.load(Ordering::Relaxed)
                && !connection.closing.load(Ordering::Relaxed)
        });
        let Some(oldest) = oldest.map(Arc::clone) else {
            return Capacity::Full;
        };
        oldest.closing.store(true, Ordering::Relaxed);
        oldest.evicted.notify_one();
        self.closing += 1;
        if let Some(count) = self.by_origin.get_mut(&oldest.origin) {
            *count = count.saturating_sub(1);
        }
        self.rejections.2 += 1;
        self.log();
        Capacity::Free
    }

    fn log(&mut self) {
        let (since, refused, evicted) = self.rejections;
        if since.is_none_or(|since| since.elapsed() >= LOG_EVERY) {
            let open = self.by_age.len();
            tracing::warn!(open, refused, evicted, "connections rejected: a limit is reached");
            self.rejections = (Some(Instant::now()), 0, 0);
        }
    }
}

/// Whether there is capacity for another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Capacity {
    Free,
    /// There will be capacity once evicted connections have closed.
    Retry,
    Full,
}

/// The result of [`Connections::admit`].
#[derive(Debug)]
pub(crate) enum Admission {
    Admitted(Admitted),
    /// There will be capacity once evicted connections have closed.
    Retry,
    Refused,
}

/// An admitted connection; it counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    connections: Arc<Connections>,
    id: u64,
    pub(crate) connection: Arc<Connection>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        open.by_age.remove(&self.id);
        match self.connection.closing.load(Ordering::Relaxed) {
            true => open.closing = open.closing.saturating_sub(1),
            false => {
                if let Some(count) = open.by_origin.get_mut(&self.connection.origin) {
                    *count = count.saturating_sub(1);
                }
            }
        }
        if open.by_origin.get(&self.connection.origin) == Some(&0) {
            open.by_origin.remove(&self.connection.origin);
        }
    }
}

/// State of a connection, shared with its requests.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The peer: a client or a proxy.
    pub(crate) peer: SocketAddr,
    /// The local address of the connection.
    pub(crate) local: SocketAddr,
    /// The client's certificate, set after the TLS handshake.
    pub(crate) certificate: OnceLock<ClientCertificate>,
    origin: IpAddr,
    authenticated: AtomicBool,
    closing: AtomicBool,
    evicted: Notify,
    requests: AtomicU64,
    opened_at: Instant,
    traffic: Mutex<Traffic>,
}

/// Request activity.
#[derive(Debug)]
struct Traffic {
    /// When the last request began or ended.
    last: Instant,
    next: u64,
    /// Requests in flight, each with the time of the last progress of its response; `None` before
    /// the response.
    in_flight: HashMap<u64, Option<Instant>>,
}

/// Timeouts of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionTimeouts {
    /// Before the first request, and between requests of an unauthenticated connection.
    pub(crate) headers: Duration,
    /// Between requests.
    pub(crate) idle: Duration,
    /// Without progress of a response.
    pub(crate) response: Duration,
}

/// What to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionAction {
    /// Keep it.
    Keep,
    /// Accept no further requests.
    Drain,
    /// Close it immediately.
    Close,
}

impl Connection {
    /// Returns the connection of a request, from the request's extensions.
    pub(crate) fn of(extensions: &http::Extensions) -> Option<&Self> {
        extensions.get::<Arc<Self>>().map(|connection| &**connection)
    }

    /// Marks the connection as authenticated.
    pub(crate) fn authenticate(&self) {
        self.authenticated.store(true, Ordering::Relaxed);
    }

    /// Waits until the connection is evicted.
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Registers a request; it is in flight until the returned value is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlightRequest {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut traffic = self.traffic();
        let id = traffic.next;
        traffic.next += 1;
        traffic.last = Instant::now();
        traffic.in_flight.insert(id, None);
        InFlightRequest { connection: Arc::clone(self), id }
    }

    /// Returns what to do with the connection at `now`.
    pub(crate) fn action(&self, timeouts: &ConnectionTimeouts, now: Instant) -> ConnectionAction {
        let traffic = self.traffic();
        let stalled = |since: &Option<Instant>| {
            since.is_some_and(|since| now.duration_since(since) >= timeouts.response)
        };
        if traffic.in_flight.values().any(stalled) {
            return ConnectionAction::Close;
        }
        if !traffic.in_flight.is_empty() {
            return ConnectionAction::Keep;
        }
        if self.requests.load(Ordering::Relaxed) == 0 {
            return if now.duration_since(self.opened_at) >= timeouts.headers {
                ConnectionAction::Close
            } else {
                ConnectionAction::Keep
            };
        }
        let (idle, limit) = (
            now.duration_since(traffic.last),
            match self.authenticated.load(Ordering::Relaxed) {
                true => timeouts.idle,
                false => timeouts.headers.min(timeouts.idle),
            },
        );
        match idle {
            idle if idle >= limit.saturating_mul(2) => ConnectionAction::Close,
            idle if idle >= limit => ConnectionAction::Drain,
            _ => ConnectionAction::Keep,
        }
    }

    fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request in flight.
#[derive(Debug)]
pub(crate) struct InFlightRequest {
    connection: Arc<Connection>,
    id: u64,
}

impl InFlightRequest {
    fn progress(&self) {
        self.connection.traffic().in_flight.insert(self.id, Some(Instant::now()));
    }
}

impl Drop for InFlightRequest {
    fn drop(&mut self) {
        let mut traffic = self.connection.traffic();
        traffic.in_flight.remove(&self.id);
        traffic.last = Instant::now();
    }
}

/// A response body that reports its progress.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    body: axum::body::Body,
    in_flight: InFlightRequest,
}

impl ResponseBody {
    pub(crate) fn new(body: axum::body::Body, in_flight: InFlightRequest) -> Self {
        in_flight.progress();
        Self { body, in_flight }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.in_flight.progress();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose writes fail if the client reads nothing for `limit`.
#[derive(Debug)]
pub(crate) struct WriteTimeout<S> {
    stream: S,
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteTimeout<S> {
    pub(crate) fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, waiting: None }
    }

    fn check_deadline<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.check_deadline(context, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.check_deadline(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.check_deadline(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.check_deadline(context, polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: ConnectionTimeouts = ConnectionTimeouts {
        headers: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        response: Duration::from_secs(30),
    };

    fn connections(total: usize, per_address: usize) -> Arc<Connections> {
        Connections::new(ConnectionLimits { total, per_address })
    }

    fn admit(connections: &Arc<Connections>, address: [u8; 4]) -> Option<Admitted> {
        let here = SocketAddr::from(([127, 0, 0, 1], 1));
        match connections.admit(SocketAddr::from((address, 1)), here, false) {
            Admission::Admitted(admitted) => Some(admitted),
            Admission::Retry | Admission::Refused => None,
        }
    }

    #[test]
    fn burst_waits_for_evicted_connections() {
        let connections = connections(MAX_CLOSING + 10, MAX_CLOSING + 10);
        let mut all: Vec<_> =
            (0..MAX_CLOSING + 10).map(|_| admit(&connections, [10, 0, 0, 1]).unwrap()).collect();
        all.extend((0..MAX_CLOSING).map(|_| admit(&connections, [10, 0, 0, 1]).unwrap()));
        let here = SocketAddr::from(([127, 0, 0, 1], 1));
        let next = || connections.admit(SocketAddr::from(([10, 0, 0, 1], 1)), here, false);
        assert!(matches!(next(), Admission::Retry), "the limit of evicted connections is reached");
        drop(all.remove(0));
        assert!(matches!(next(), Admission::Admitted(_)));
    }

    #[test]
    fn ipv6_network_counts_as_one_origin() {
        for (address, expected) in [
            ("10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ] {
            assert_eq!(origin(address.parse().unwrap()), expected.parse::<IpAddr>().unwrap());
        }
    }

    #[tokio::test]
    async fn evicts_oldest_unauthenticated_connection() {
        let connections = connections(3, 10);
        let first = admit(&connections, [10, 0, 0, 1]).unwrap();
        first.connection.authenticate();
        let second = admit(&connections, [10, 0, 0, 2]).unwrap();
        let third = admit(&connections, [10, 0, 0, 3]).unwrap();
        let fourth = admit(&connections, [10, 0, 0, 4]).unwrap();
        assert!(!first.connection.closing.load(Ordering::Relaxed), "it is authenticated");
        assert!(second.connection.closing.load(Ordering::Relaxed), "the oldest without a key");
        assert!(!third.connection.closing.load(Ordering::Relaxed));
        second.connection.evicted().await;
        third.connection.authenticate();
        fourth.connection.authenticate();
        drop(second);
        assert!(admit(&connections, [10, 0, 0, 5]).is_none(), "all are authenticated");
        assert_eq!(connections.count(), 3);
        drop((first, third, fourth));
        let open = connections.lock();
        assert_eq!((open.by_age.len(), open.by_origin.len(), open.closing), (0, 0, 0));
    }

    #[test]
    fn per_address_limit_exempts_proxies() {
        let connections = connections(100, 2);
        let [one, two] = [1, 2].map(|_| admit(&connections, [10, 0, 0, 1]).unwrap());
        let other = admit(&connections, [10, 0, 0, 2]).unwrap();
        let three = admit(&connections, [10, 0, 0, 1]).unwrap();
        assert!(one.connection.closing.load(Ordering::Relaxed));
        assert!(!other.connection.closing.load(Ordering::Relaxed), "of another address");
        drop(one);
        two.connection.authenticate();
        three.connection.authenticate();
        assert!(admit(&connections, [10, 0, 0, 1]).is_none());
        let here = SocketAddr::from(([127, 0, 0, 1], 1));
        let proxy = connections.admit(SocketAddr::from(([10, 0, 0, 1], 1)), here, true);
        assert!(matches!(proxy, Admission::Admitted(_)));
        assert!(admit(&connections, [10, 0, 0, 3]).is_some());
    }

    #[test]
    fn each_stage_has_a_timeout() {
        let connections = connections(10, 10);
        let start = Instant::now();
        let action = |admitted: &Admitted, seconds: u64| {
            admitted.connection.action(&TIMEOUTS, start + Duration::from_secs(seconds))
        };
        let silent = admit(&connections, [10, 0, 0, 1]).unwrap();
        assert_eq!(action(&silent, 5), ConnectionAction::Keep);
        assert_eq!(action(&silent, 15), ConnectionAction::Close, "no request arrived");

        let asked = admit(&connections, [10, 0, 0, 1]).unwrap();
        let request = asked.connection.begin();
        assert_eq!(action(&asked, 1000), ConnectionAction::Keep, "handlers have their own timeouts");
        let response = ResponseBody::new("text".into(), request);
        assert_eq!(action(&asked, 20), ConnectionAction::Keep);
        assert_eq!(action(&asked, 40), ConnectionAction::Close, "the client does not read the response");
        drop(response);
        assert_eq!(action(&asked, 5), ConnectionAction::Keep);
        assert_eq!(action(&asked, 15), ConnectionAction::Drain, "it is not authenticated");
        asked.connection.authenticate();
        assert_eq!(action(&asked, 15), ConnectionAction::Keep);
        assert_eq!(action(&asked, 70), ConnectionAction::Drain);
        assert_eq!(action(&asked, 130), ConnectionAction::Close);
    }

    #[tokio::test]
    async fn write_times_out_when_client_stops_reading() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let (mut client, server) = tokio::io::duplex(16);
        let mut server = WriteTimeout::new(server, Duration::from_secs(3600));
        server.write_all(&[0; 16]).await.unwrap();
        let mut taken = [0; 32];
        let (written, read) = tokio::join!(server.write_all(&[1; 16]), client.read_exact(&mut taken));
        assert!(written.is_ok() && read.is_ok(), "a reading client is not timed out");
        let mut server = WriteTimeout::new(server.stream, Duration::from_millis(10));
        let error = server.write_all(&[2; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
