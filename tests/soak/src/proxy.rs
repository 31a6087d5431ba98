//! A TCP proxy that simulates a bad network.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::Result;
use crate::call::MOST_ALLOWED;
use crate::faults::{ANSWER, Counts, Fault, FaultRates, NEW_CONNECTION, REQUEST};

/// Longer than any client timeout.
const STALL: Duration = Duration::from_secs(5);
const LONGEST_DELAY_MS: u64 = 300;
/// Maximum number of bytes that trickle.
const LONGEST_TRICKLE: usize = 2048;
const DENIED_AMOUNT: &[u8] = b"90000";

/// A running proxy; it stops on drop.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: Mutex<Option<SocketAddr>>,
    calm: AtomicBool,
    /// Changes when all connections must be closed.
    closing: watch::Sender<()>,
    faults: Counts,
    connections: AtomicU64,
    unreachable: AtomicU64,
    open: AtomicU64,
}

impl Proxy {
    /// Listens on a free local port. Faults are drawn from `seed` and the connection's number.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot bind a port.
    pub async fn start(seed: u64) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream: Mutex::default(),
            calm: AtomicBool::new(true),
            closing: watch::Sender::default(),
            faults: Counts::default(),
            connections: AtomicU64::new(0),
            unreachable: AtomicU64::new(0),
            open: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared), seed));
        Ok(Self { address, shared, accepting })
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the target of new connections; `None` if there is no gateway.
    pub fn set_target(&self, upstream: Option<SocketAddr>) {
        *self.shared.upstream.lock().unwrap_or_else(PoisonError::into_inner) = upstream;
    }

    /// Suspends or resumes faults.
    pub fn set_calm(&self, calm: bool) {
        self.shared.calm.store(calm, Ordering::Relaxed);
    }

    /// Closes all connections.
    pub fn close_all(&self) {
        self.shared.closing.send_replace(());
    }

    /// Returns the fault counters.
    pub fn faults(&self) -> &Counts {
        &self.shared.faults
    }

    /// Number of connections so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Number of connections without a reachable gateway.
    pub fn unreachable(&self) -> u64 {
        self.shared.unreachable.load(Ordering::Relaxed)
    }

    /// Number of open connections.
    pub fn open(&self) -> u64 {
        self.shared.open.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.close_all();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, seed: u64) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let number = shared.connections.fetch_add(1, Ordering::Relaxed);
        let rng = Rng::with_seed(Rng::with_seed(seed).u64(..) ^ number);
        tokio::spawn(connection(Arc::clone(&shared), client, rng));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Reset,
}

async fn connection(shared: Arc<Shared>, mut client: TcpStream, mut rng: Rng) {
    shared.open.fetch_add(1, Ordering::Relaxed);
    let mut closing = shared.closing.subscribe();
    let end = tokio::select! {
        end = converse(&shared, &mut client, &mut rng) => end,
        _ = closing.changed() => End::Closed,
    };
    if end == End::Reset {
        // With zero linger, closing a socket resets the connection.
        let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
    }
    drop(client);
    shared.open.fetch_sub(1, Ordering::Relaxed);
}

async fn converse(shared: &Shared, client: &mut TcpStream, rng: &mut Rng) -> End {
    match shared.draw(NEW_CONNECTION, rng) {
        Some(Fault::Delay) => delay(shared, rng).await,
        Some(Fault::Stall) => return stall(shared).await,
        Some(fault) => {
            shared.faults.add(fault);
            return End::Reset;
        }
        None => {}
    }
    let upstream = *shared.upstream.lock().unwrap_or_else(PoisonError::into_inner);
    let connected = match upstream {
        Some(upstream) => TcpStream::connect(upstream).await.ok(),
        None => None,
    };
    let Some(mut gateway) = connected else {
        shared.unreachable.fetch_add(1, Ordering::Relaxed);
        return End::Reset;
    };
    let _ = client.set_nodelay(true);
    let _ = gateway.set_nodelay(true);
    let (from_client, to_client) = client.split();
    let (from_gateway, to_gateway) = gateway.split();
    let corrupted = AtomicBool::new(false);
    let direction = |odds, rng| Direction { shared, odds, corrupted: &corrupted, rng };
    let requests = direction(REQUEST, rng.fork());
    let answers = direction(ANSWER, rng.fork());
    tokio::select! {
        end = requests.pump(from_client, to_gateway) => end,
        end = answers.pump(from_gateway, to_client) => end,
    }
}

impl Shared {
    fn draw(&self, odds: FaultRates, rng: &mut Rng) -> Option<Fault> {
        // Drawn even if suspended, so that the sequence does not depend on timing.
        odds.draw(rng).filter(|_| !self.calm.load(Ordering::Relaxed))
    }
}

async fn delay(shared: &Shared, rng: &mut Rng) {
    shared.faults.add(Fault::Delay);
    tokio::time::sleep(Duration::from_millis(rng.u64(..=LONGEST_DELAY_MS))).await;
}

async fn stall(shared: &Shared) -> End {
    shared.faults.add(Fault::Stall);
    tokio::time::sleep(STALL).await;
    End::Reset
}

/// State of one direction of a connection.
struct Direction<'c> {
    shared: &'c Shared,
    odds: FaultRates,
    /// At most one change per connection, so that its effect can be determined.
    corrupted: &'c AtomicBool,
    rng: Rng,
}

impl Direction<'_> {
    async fn pump<R, W>(mut self, mut from: R, mut to: W) -> End
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let Ok(length @ 1..) = from.read(&mut buffer).await else {
                return End::Closed;
            };
            let piece = buffer.get(..length).unwrap_or_default().to_vec();
            if let Some(end) = self.pass(piece, &mut to).await {
                return end;
            }
        }
    }

    /// Forwards a chunk, possibly with a fault; returns how the connection ends, if it does.
    async fn pass<W: AsyncWrite + Unpin>(&mut self, mut piece: Vec<u8>, to: &mut W) -> Option<End> {
        let mut end = None;
        match self.shared.draw(self.odds, &mut self.rng) {
            None => {}
            Some(Fault::Delay) => delay(self.shared, &mut self.rng).await,
            Some(Fault::Stall) => return Some(stall(self.shared).await),
            Some(Fault::Trickle) => {
                self.shared.faults.add(Fault::Trickle);
                let rest = piece.split_off(piece.len().min(LONGEST_TRICKLE));
                for byte in piece {
                    if to.write_all(&[byte]).await.is_err() {
                        return Some(End::Closed);
                    }
                    tokio::task::yield_now().await;
                }
                piece = rest;
            }
            Some(fault @ (Fault::FlipAnswer | Fault::FlipRequest)) => {
                let (at, bit) = (self.rng.usize(..piece.len()), self.rng.u8(..8));
                if self.may_corrupt(fault)
                    && let Some(byte) = piece.get_mut(at)
                {
                    *byte ^= 1 << bit;
                }
            }
            Some(Fault::FlipAmount) => {
                let found = piece.windows(DENIED_AMOUNT.len()).position(|window| window == DENIED_AMOUNT);
                if let Some(at) = found
                    && self.may_corrupt(Fault::FlipAmount)
                    && let Some(byte) = piece.get_mut(at)
                {
                    *byte ^= b'9' ^ b'1';
                }
            }
            Some(fault @ (Fault::DuplicateAnswer | Fault::DuplicateRequest)) => {
                let whole = self.rng.bool();
                let from = self.rng.usize(..piece.len());
                let until = self.rng.usize(from..piece.len());
                if self.may_corrupt(fault) {
                    let range = if whole { 0..piece.len() } else { from..until + 1 };
                    let again = piece.get(range.clone()).unwrap_or_default().to_vec();
                    piece.splice(range.end..range.end, again);
                }
            }
            Some(fault @ (Fault::CutAnswer | Fault::CutRequest)) => {
                self.shared.faults.add(fault);
                piece.truncate(self.rng.usize(..piece.len()));
                end = Some(End::Closed);
            }
            Some(fault @ (Fault::CloseAfterAnswer | Fault::ResetAfterRequest)) => {
                self.shared.faults.add(fault);
                end = Some(if fault == Fault::CloseAfterAnswer { End::Closed } else { End::Reset });
            }
            Some(fault @ (Fault::Refuse | Fault::ResetAnswer | Fault::ResetBeforeRequest)) => {
                self.shared.faults.add(fault);
                return Some(End::Reset);
            }
        }
        match to.write_all(&piece).await {
            Ok(()) => end,
            Err(_) => Some(End::Closed),
        }
    }

    fn may_corrupt(&self, fault: Fault) -> bool {
        let may = !self.corrupted.swap(true, Ordering::Relaxed);
        if may {
            self.shared.faults.add(fault);
        }
        may
    }
}

/// One flipped bit turns the denied amount into an allowed one.
const _: () = assert!(MOST_ALLOWED == 10_000 && (b'9' ^ b'1').is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends the same chunk on many connections; returns what arrived and how each ended.
    async fn play(odds: FaultRates, times: u64, piece: &[u8]) -> (Vec<(Vec<u8>, bool)>, Proxy) {
        let proxy = Proxy::start(1).await.unwrap();
        proxy.set_calm(false);
        let mut played = Vec::new();
        for number in 0..times {
            let corrupted = AtomicBool::new(false);
            let rng = Rng::with_seed(number);
            let mut direction = Direction { shared: &proxy.shared, odds, corrupted: &corrupted, rng };
            let mut out = Vec::new();
            let end = direction.pass(piece.to_vec(), &mut out).await;
            played.push((out, end.is_some()));
        }
        (played, proxy)
    }

    #[tokio::test(start_paused = true)]
    async fn injects_each_counted_fault() {
        let piece = br#"{"amount": 90000}"#;
        let (played, proxy) = play(REQUEST, 4000, piece).await;
        let count = |fault| proxy.faults().of(fault);
        let bits = |out: &[u8]| -> u32 {
            out.iter().zip(piece).map(|(one, other)| (one ^ other).count_ones()).sum()
        };
        let flipped = played.iter().filter(|(out, _)| out.len() == piece.len() && bits(out) == 1).count();
        assert_eq!(flipped as u64, count(Fault::FlipRequest) + count(Fault::FlipAmount));
        let longer = played.iter().filter(|(out, _)| out.len() > piece.len()).count();
        assert_eq!(longer as u64, count(Fault::DuplicateRequest));
        let ended = played.iter().filter(|(_, ended)| *ended).count() as u64;
        let resets = count(Fault::ResetAfterRequest) + count(Fault::ResetBeforeRequest);
        assert_eq!(ended, resets + count(Fault::CutRequest) + count(Fault::Stall));
        assert!(count(Fault::FlipAmount) > 0 && played.iter().any(|(out, _)| out == br#"{"amount": 10000}"#));
    }

    #[tokio::test]
    async fn calm_proxy_forwards_and_closes_all() {
        let proxy = Proxy::start(1).await.unwrap();
        let gateway = TcpListener::bind("127.0.0.1:0").await.unwrap();
        proxy.set_target(Some(gateway.local_addr().unwrap()));
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut behind, _) = gateway.accept().await.unwrap();
        for piece in [&b"a"[..], b"question", b"and another"] {
            client.write_all(piece).await.unwrap();
            let mut came = vec![0; piece.len()];
            behind.read_exact(&mut came).await.unwrap();
            assert_eq!(came, piece);
        }
        behind.write_all(b"answer").await.unwrap();
        let mut came = [0; 6];
        client.read_exact(&mut came).await.unwrap();
        assert_eq!((&came, proxy.open(), proxy.faults().total()), (b"answer", 1, 0));
        proxy.close_all();
        assert_eq!(client.read(&mut came).await.unwrap(), 0);
        assert_eq!(behind.read(&mut came).await.unwrap(), 0);
    }
}
