//! HTTP/2 over TLS: runs a step, including stream and connection errors that HTTP/1.1 does not
//! have.

use std::collections::VecDeque;
use std::future;
use std::io;
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::{HeaderName, HeaderValue, Request, Response};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::client_stream::reset_on_close;
use crate::play::{ConnectionFate, HALVES, JSON, Parts, headers, location, parts};
use crate::request::{Seen, hash};
use crate::script::{Goaway, HangAt, ResetAt, Respond, RstStream, Step};
use crate::shared::Shared;

/// Serves a connection until it ends; shutting down `stream` stops it.
pub(crate) fn serve(
    stream: &TcpStream,
    connection: u64,
    config: &Arc<ServerConfig>,
    shared: &Shared,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let own = stream.try_clone()?;
    own.set_nonblocking(true)?;
    runtime.block_on(async {
        let tcp = tokio::net::TcpStream::from_std(own)?;
        let tls = TlsAcceptor::from(Arc::clone(config)).accept(tcp).await?;
        let shared_stream = SharedStream(Arc::new(Mutex::new(tls)));
        if serve_streams(&shared_stream, connection, shared).await? == ConnectionFate::Reset {
            reset_on_close(stream)?;
        } else {
            future::poll_fn(|context| shared_stream.clone().as_mut().poll_shutdown(context)).await?;
        }
        Ok(())
    })
}

type Exchange = (Request<RecvStream>, SendResponse<Bytes>);

async fn serve_streams(
    stream: &SharedStream,
    connection: u64,
    shared: &Shared,
) -> io::Result<ConnectionFate> {
    let mut peer = h2::server::handshake(stream.clone()).await.map_err(io::Error::other)?;
    let mut pings = peer.ping_pong().ok_or_else(|| io::Error::other("the pings are taken"))?;
    let mut waiting: VecDeque<Exchange> = VecDeque::new();
    loop {
        let exchange = match waiting.pop_front() {
            Some(exchange) => exchange,
            None => match peer.accept().await {
                Some(exchange) => exchange.map_err(io::Error::other)?,
                None => return Ok(ConnectionFate::Close),
            },
        };
        let mut answering = Box::pin(answer(exchange, stream, &mut pings, connection, shared));
        // The connection must be polled for the response to be sent.
        let after = loop {
            tokio::select! {
                after = &mut answering => break after?,
                exchange = peer.accept() => match exchange {
                    Some(exchange) => waiting.push_back(exchange.map_err(io::Error::other)?),
                    None => return Ok(ConnectionFate::Close),
                },
            }
        };
        if after != ConnectionFate::KeepAlive {
            return Ok(after);
        }
    }
}

async fn answer(
    exchange: Exchange,
    stream: &SharedStream,
    pings: &mut PingPong,
    connection: u64,
    shared: &Shared,
) -> io::Result<ConnectionFate> {
    let (request, mut peer) = exchange;
    let stream_id = peer.stream_id().as_u32();
    let (head, mut incoming) = request.into_parts();
    let mut body = Vec::new();
    while let Some(data) = incoming.data().await {
        let data = data.map_err(io::Error::other)?;
        incoming.flow_control().release_capacity(data.len()).map_err(io::Error::other)?;
        body.extend_from_slice(&data);
    }
    let seen = Seen {
        connection,
        method: head.method.to_string(),
        path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: head
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let step = shared.record(seen).about(&hash(&body));
    sleep(Duration::from_millis(step.delay_ms())).await;
    match step {
        Step::Respond(step) => respond(&step, &mut peer),
        Step::Redirect(step) => {
            let location = location(shared.setup.other_host)?;
            begin(&mut peer, step.status, &[("location".into(), location)], true)?;
            Ok(ConnectionFate::KeepAlive)
        }
        Step::Truncate(step) => {
            let announced =
                step.body.len().saturating_add(usize::try_from(step.missing).unwrap_or(usize::MAX));
            let mut stream = begin(&mut peer, step.status, &basic_headers(announced), false)?;
            send(&mut stream, step.body.into_bytes(), true)?;
            Ok(ConnectionFate::KeepAlive)
        }
        Step::Trickle(step) => {
            let mut stream = begin(&mut peer, step.status, &basic_headers(step.body.len()), false)?;
            for byte in step.body.into_bytes() {
                send(&mut stream, vec![byte], false)?;
                sleep(Duration::from_millis(step.interval_ms)).await;
            }
            send(&mut stream, Vec::new(), true)?;
            Ok(ConnectionFate::KeepAlive)
        }
        Step::Hang(step) => {
            let _half = (step.at != HangAt::Request).then(|| send_half_response(&mut peer)).transpose()?;
            future::pending().await
        }
        Step::Reset(step) => {
            let _half = half_response_if(step.at, &mut peer, pings).await?;
            Ok(ConnectionFate::Reset)
        }
        Step::RstStream(RstStream { at, code, .. }) => {
            match half_response_if(at, &mut peer, pings).await? {
                Some(mut stream) => stream.send_reset(Reason::from(code)),
                None => peer.send_reset(Reason::from(code)),
            }
            Ok(ConnectionFate::KeepAlive)
        }
        Step::Goaway(Goaway { at, code, processed, .. }) => {
            let _half = half_response_if(at, &mut peer, pings).await?;
            stream.goaway(if processed { stream_id } else { 0 }, code).await?;
            Ok(ConnectionFate::Close)
        }
        // Unreachable: the script was validated.
        Step::Raw(_) => Ok(ConnectionFate::Close),
    }
}

fn respond(step: &Respond, peer: &mut SendResponse<Bytes>) -> io::Result<ConnectionFate> {
    let parts = parts(&step.body);
    let headers = headers(step, &parts);
    let Parts { first, unit, times } = parts;
    let mut body = first.into_owned();
    for _ in 0..times {
        body.extend_from_slice(&unit);
    }
    let mut stream = begin(peer, step.status, &headers, body.is_empty())?;
    if !body.is_empty() {
        send(&mut stream, body, true)?;
    }
    Ok(ConnectionFate::KeepAlive)
}

fn basic_headers(content_length: usize) -> [(String, String); 2] {
    [("content-type".into(), JSON.into()), ("content-length".into(), content_length.to_string())]
}

/// Sends the first half of a response, if the failure comes after it, and waits until the client
/// has read it.
///
/// Otherwise the client might read the half only after the reset. It would then write its
/// acknowledgements to a closed connection and report the failed write instead of the reset.
async fn half_response_if(
    at: ResetAt,
    peer: &mut SendResponse<Bytes>,
    pings: &mut PingPong,
) -> io::Result<Option<SendStream<Bytes>>> {
    match at {
        ResetAt::Request => Ok(None),
        ResetAt::Body => {
            let stream = send_half_response(peer)?;
            // Frames are answered in order. h2 sends the first ping before the half, the second
            // after it.
            for _ in 0..2 {
                pings.ping(Ping::opaque()).await.map_err(io::Error::other)?;
            }
            Ok(Some(stream))
        }
    }
}

fn send_half_response(peer: &mut SendResponse<Bytes>) -> io::Result<SendStream<Bytes>> {
    let (half, rest) = HALVES;
    let mut stream = begin(peer, 200, &basic_headers(half.len().saturating_add(rest.len())), false)?;
    send(&mut stream, half.to_vec(), false)?;
    Ok(stream)
}

fn begin(
    peer: &mut SendResponse<Bytes>,
    status: u16,
    headers: &[(String, String)],
    end: bool,
) -> io::Result<SendStream<Bytes>> {
    let mut response = Response::builder().status(status).body(()).map_err(io::Error::other)?;
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(io::Error::other)?;
        response.headers_mut().append(name, HeaderValue::from_str(value).map_err(io::Error::other)?);
    }
    peer.send_response(response, end).map_err(io::Error::other)
}

/// Data that the peer does not accept yet is buffered.
fn send(stream: &mut SendStream<Bytes>, bytes: Vec<u8>, end: bool) -> io::Result<()> {
    stream.send_data(Bytes::from(bytes), end).map_err(io::Error::other)
}

/// A connection with two writers: h2, and [`SharedStream::goaway`] between h2's frames.
#[derive(Clone)]
struct SharedStream(Arc<Mutex<TlsStream<tokio::net::TcpStream>>>);

impl SharedStream {
    fn lock(&self) -> MutexGuard<'_, TlsStream<tokio::net::TcpStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a GOAWAY frame manually: h2 cannot name a stream before the last accepted one.
    async fn goaway(&self, last_stream: u32, code: u32) -> io::Result<()> {
        let mut frame = vec![0, 0, 8, 7, 0, 0, 0, 0, 0];
        frame.extend_from_slice(&last_stream.to_be_bytes());
        frame.extend_from_slice(&code.to_be_bytes());
        let mut written = 0;
        future::poll_fn(|context| {
            let mut stream = self.lock();
            while let Some(rest @ [_, ..]) = frame.get(written..) {
                written = written.saturating_add(ready!(Pin::new(&mut *stream).poll_write(context, rest))?);
            }
            Pin::new(&mut *stream).poll_flush(context)
        })
        .await
    }

    fn as_mut(&mut self) -> Pin<&mut Self> {
        Pin::new(self)
    }
}

impl AsyncRead for SharedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_read(context, buf)
    }
}

impl AsyncWrite for SharedStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_write(context, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_shutdown(context)
    }
}
