//! A measurement round: its limits, and the HTTP exchanges of hyper clients.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio_rustls::TlsConnector;

use crate::Failure;
use crate::samples::PATH;

/// The limits of a round: number of calls, concurrent callers, and duration.
#[derive(Debug)]
pub struct Round {
    /// The number of concurrent callers.
    pub width: usize,
    left: AtomicUsize,
    longest: Duration,
    began: Instant,
}

impl Round {
    pub(crate) fn new(width: usize, calls: usize, seconds: f64) -> Self {
        let longest = Duration::from_secs_f64(seconds);
        Self { width, left: AtomicUsize::new(calls), longest, began: Instant::now() }
    }

    /// Whether to make another call.
    pub fn goes_on(&self) -> bool {
        self.began.elapsed() < self.longest
            && self
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
    }

    /// Makes calls until the round ends. Returns the duration of each call.
    ///
    /// # Errors
    ///
    /// The first error of a call.
    pub async fn repeat(
        &self,
        mut call: impl AsyncFnMut() -> Result<(), Failure>,
    ) -> Result<Vec<Duration>, Failure> {
        let mut times = Vec::new();
        while self.goes_on() {
            let start = Instant::now();
            call().await?;
            times.push(start.elapsed());
        }
        Ok(times)
    }

    pub(crate) fn report(&self, mut times: Vec<Duration>) -> Value {
        let seconds = self.began.elapsed().as_secs_f64();
        times.sort();
        let at = |part: usize| times.get(times.len() * part / 100).map(|time| time.as_secs_f64() * 1e6);
        json!({"calls": times.len(), "seconds": seconds, "p50": at(50), "p99": at(99)})
    }
}

/// Opens a connection, driven by a task of this runtime.
///
/// # Errors
///
/// If it cannot be established.
pub async fn connect(
    address: SocketAddr,
    tls: Option<&TlsConnector>,
) -> Result<SendRequest<String>, Failure> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = tls else {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        return Ok(sender);
    };
    let stream = tls.connect(ServerName::from(address.ip()), stream).await?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Sends one request with hyper and reads the response body.
///
/// # Errors
///
/// If there is no response.
pub async fn exchange(
    sender: &mut SendRequest<String>,
    address: SocketAddr,
    key: &str,
    body: String,
) -> Result<Vec<u8>, Failure> {
    let request = http::Request::post(PATH)
        .header("host", address.to_string())
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", "application/json")
        .body(body)?;
    let mut response = sender.send_request(request).await?;
    let mut answer = Vec::new();
    while let Some(frame) = next_frame(&mut response).await {
        answer.extend_from_slice(&frame?);
    }
    Ok(answer)
}

async fn next_frame(
    response: &mut http::Response<hyper::body::Incoming>,
) -> Option<Result<Bytes, hyper::Error>> {
    let frame = std::future::poll_fn(|context| {
        hyper::body::Body::poll_frame(std::pin::Pin::new(response.body_mut()), context)
    });
    frame.await.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default()))
}
