//! Runs a step over HTTP/1.1.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::time::Duration;

use crate::client_stream::ClientStream;
use crate::script::{Body, Hang, HangAt, Raw, Reset, ResetAt, Respond, Step, Trickle, Truncate};
use crate::shared::Stop;

/// The state of the connection after a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ConnectionFate {
    KeepAlive,
    Close,
    Reset,
}

pub(crate) fn play(
    step: &Step,
    stream: &mut ClientStream<'_>,
    without_body: bool,
    other_host: Option<SocketAddr>,
    stop: &Stop,
) -> io::Result<ConnectionFate> {
    if stop.wait(Duration::from_millis(step.delay_ms())) {
        return Ok(ConnectionFate::Close);
    }
    match step {
        Step::Respond(step) => respond(step, stream, without_body),
        Step::Raw(Raw { bytes, keep_alive, .. }) => stream
            .send(bytes)
            .map(|()| if *keep_alive { ConnectionFate::KeepAlive } else { ConnectionFate::Close }),
        Step::Hang(step) => hang(step, stream),
        Step::Trickle(step) => trickle(step, stream, stop),
        Step::Reset(step) => reset(step, stream, stop),
        Step::Truncate(step) => truncate(step, stream),
        Step::Redirect(step) => redirect(step.status, other_host, stream),
        // Unreachable: the script was validated.
        Step::Goaway(_) | Step::RstStream(_) => Ok(ConnectionFate::Close),
    }
}

fn respond(step: &Respond, stream: &mut ClientStream<'_>, without_body: bool) -> io::Result<ConnectionFate> {
    let parts = parts(&step.body);
    let mut head = Head::new(step.status);
    for (name, value) in headers(step, &parts) {
        head.add(&name, &value);
    }
    if step.close && !step.names("connection") {
        head.add("connection", "close");
    }
    let mut bytes = head.finish();

    let Parts { first, unit, times } = parts;
    if without_body {
        stream.send(&bytes)?;
    } else if times == 1 {
        bytes.extend_from_slice(&first);
        bytes.extend_from_slice(&unit);
        stream.send(&bytes)?;
    } else {
        bytes.extend_from_slice(&first);
        stream.send(&bytes)?;
        send_repeated(&unit, times, stream)?;
    }
    Ok(if step.close { ConnectionFate::Close } else { ConnectionFate::KeepAlive })
}

fn hang(step: &Hang, stream: &mut ClientStream<'_>) -> io::Result<ConnectionFate> {
    match step.at {
        HangAt::Request => {}
        HangAt::Headers => {
            stream.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-le")?;
        }
        HangAt::Body => send_half_response(stream)?,
    }
    let mut buf = [0; 1024];
    while stream.read(&mut buf)? > 0 {}
    Ok(ConnectionFate::Close)
}

fn trickle(step: &Trickle, stream: &mut ClientStream<'_>, stop: &Stop) -> io::Result<ConnectionFate> {
    let body = step.body.as_bytes();
    stream.send(&basic_head(step.status, len_of(body)))?;
    for (n, byte) in body.iter().enumerate() {
        if n > 0 && stop.wait(Duration::from_millis(step.interval_ms)) {
            return Ok(ConnectionFate::Close);
        }
        stream.send(&[*byte])?;
    }
    Ok(ConnectionFate::KeepAlive)
}

fn reset(step: &Reset, stream: &mut ClientStream<'_>, stop: &Stop) -> io::Result<ConnectionFate> {
    match step.at {
        ResetAt::Request => {}
        ResetAt::Body => {
            send_half_response(stream)?;
            // A reset discards data that the peer has not read yet.
            stop.wait(Duration::from_millis(50));
        }
    }
    Ok(ConnectionFate::Reset)
}

fn truncate(step: &Truncate, stream: &mut ClientStream<'_>) -> io::Result<ConnectionFate> {
    let body = step.body.as_bytes();
    let mut bytes = basic_head(step.status, len_of(body).saturating_add(step.missing));
    bytes.extend_from_slice(body);
    stream.send(&bytes)?;
    Ok(ConnectionFate::Close)
}

fn redirect(
    status: u16,
    other_host: Option<SocketAddr>,
    stream: &mut ClientStream<'_>,
) -> io::Result<ConnectionFate> {
    let mut head = Head::new(status);
    head.add("location", &location(other_host)?);
    head.add("content-length", "0");
    stream.send(&head.finish())?;
    Ok(ConnectionFate::KeepAlive)
}

/// The response headers, except those about the connection.
pub(crate) fn headers(step: &Respond, parts: &Parts<'_>) -> Vec<(String, String)> {
    let mut headers: Vec<_> = step.headers.clone().into_iter().collect();
    if let Some(repeat) = &step.header_repeat {
        let header = (repeat.name.clone(), repeat.text.repeat(repeat.times));
        headers.extend(vec![header; repeat.lines]);
    }
    let len = len_of(&parts.first).saturating_add(len_of(&parts.unit).saturating_mul(parts.times));
    // These have no body, and a content-length of 0 would be wrong.
    let never_has_body = len == 0 && matches!(step.status, 100..=199 | 204 | 304);
    if !never_has_body {
        if !step.names("content-type") {
            headers.push(("content-type".into(), JSON.into()));
        }
        if !step.names("content-length") && !step.names("transfer-encoding") {
            headers.push(("content-length".into(), len.to_string()));
        }
    }
    headers
}

/// The target of a redirect.
pub(crate) fn location(other_host: Option<SocketAddr>) -> io::Result<String> {
    let other_host = other_host.ok_or_else(|| io::Error::other("there is no other host"))?;
    Ok(format!("http://{other_host}/api/v1/actions/preflight"))
}

/// A complete head, and half of the announced body.
fn send_half_response(stream: &mut ClientStream<'_>) -> io::Result<()> {
    let (half, rest) = HALVES;
    let len = len_of(half).saturating_add(len_of(rest));
    let mut bytes = basic_head(200, len);
    bytes.extend_from_slice(half);
    stream.send(&bytes)
}

fn basic_head(status: u16, content_length: u64) -> Vec<u8> {
    let mut head = Head::new(status);
    head.add("content-type", JSON);
    head.add("content-length", &content_length.to_string());
    head.finish()
}

struct Head(String);

impl Head {
    fn new(status: u16) -> Self {
        Self(format!("HTTP/1.1 {status} {}\r\n", reason(status)))
    }

    fn add(&mut self, name: &str, value: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "{name}: {value}\r\n");
    }

    fn finish(self) -> Vec<u8> {
        let mut bytes = self.0.into_bytes();
        bytes.extend_from_slice(b"\r\n");
        bytes
    }
}

/// A body: `first`, then `unit` repeated `times` times.
pub(crate) struct Parts<'b> {
    pub(crate) first: Cow<'b, [u8]>,
    pub(crate) unit: Cow<'b, [u8]>,
    pub(crate) times: u64,
}

pub(crate) fn parts(body: &Body) -> Parts<'_> {
    let once = |unit| Parts { first: Cow::Borrowed(b""), unit, times: 1 };
    match body {
        Body::Empty => once(Cow::Borrowed(b"")),
        Body::Text(text) => once(Cow::Borrowed(text.as_bytes())),
        Body::Json(json) => once(Cow::Owned(json.to_string().into_bytes())),
        Body::Bytes(bytes) => once(Cow::Borrowed(bytes)),
        Body::Repeat { first, unit, times } => {
            Parts { first: Cow::Borrowed(first), unit: Cow::Borrowed(unit), times: *times }
        }
    }
}

fn send_repeated(unit: &[u8], times: u64, stream: &mut ClientStream<'_>) -> io::Result<()> {
    if unit.is_empty() {
        return Ok(());
    }
    let per_block = (BLOCK / unit.len()).max(1);
    let block = unit.repeat(per_block);
    let mut left = times;
    while left > 0 {
        // At most `per_block`, so the conversion succeeds.
        let now = usize::try_from(left).map_or(per_block, |left| left.min(per_block));
        stream.send(block.get(..now * unit.len()).unwrap_or(&block))?;
        left = left.saturating_sub(u64::try_from(now).unwrap_or(left));
    }
    Ok(())
}

fn len_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Unnamed",
    }
}

pub(crate) const JSON: &str = "application/json";
/// The first half already contains `allow`, which exposes clients that accept a truncated response.
pub(crate) const HALVES: (&[u8], &[u8]) =
    (br#"{"decision":"allow","#, br#""reason_code":"hostile.half","evidence_event_id":"ev_half"}"#);
const BLOCK: usize = 16 * 1024;
