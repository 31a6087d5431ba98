//! Answers a request as a step says.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::time::Duration;

use crate::script::{Body, Hang, HangAt, Reset, ResetAt, Respond, Step, Trickle, Truncate};
use crate::server::Stop;
use crate::wire::Wire;

/// What becomes of the connection after a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum After {
    KeepAlive,
    Close,
    Reset,
}

pub(crate) fn play(
    step: &Step,
    wire: &mut Wire<'_>,
    without_body: bool,
    other_host: Option<SocketAddr>,
    stop: &Stop,
) -> io::Result<After> {
    if stop.wait(Duration::from_millis(step.delay_ms())) {
        return Ok(After::Close);
    }
    match step {
        Step::Respond(step) => respond(step, wire, without_body),
        Step::Raw(step) => wire.send(&step.bytes).map(|()| After::Close),
        Step::Hang(step) => hang(step, wire),
        Step::Trickle(step) => trickle(step, wire, stop),
        Step::Reset(step) => reset(step, wire, stop),
        Step::Truncate(step) => truncate(step, wire),
        Step::Redirect(step) => redirect(step.status, other_host, wire),
    }
}

fn respond(step: &Respond, wire: &mut Wire<'_>, without_body: bool) -> io::Result<After> {
    let named = |name: &str| step.headers.keys().any(|n| n.eq_ignore_ascii_case(name));
    let (unit, times) = unit_and_times(&step.body);
    let len = len_of(&unit).saturating_mul(times);

    let mut head = Head::new(step.status);
    for (name, value) in &step.headers {
        head.add(name, value);
    }
    // Those have no body, and a content-length of 0 would be wrong.
    let never_has_body = len == 0 && matches!(step.status, 100..=199 | 204 | 304);
    if !never_has_body {
        if !named("content-type") {
            head.add("content-type", JSON);
        }
        if !named("content-length") && !named("transfer-encoding") {
            head.add("content-length", &len.to_string());
        }
    }
    if step.close && !named("connection") {
        head.add("connection", "close");
    }
    let mut bytes = head.finish();

    if times == 1 && !without_body {
        bytes.extend_from_slice(&unit);
        wire.send(&bytes)?;
    } else {
        wire.send(&bytes)?;
        if !without_body {
            send_repeated(&unit, times, wire)?;
        }
    }
    Ok(if step.close { After::Close } else { After::KeepAlive })
}

fn hang(step: &Hang, wire: &mut Wire<'_>) -> io::Result<After> {
    match step.at {
        HangAt::Request => {}
        HangAt::Headers => {
            wire.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-le")?;
        }
        HangAt::Body => send_half_an_answer(wire)?,
    }
    let mut buf = [0; 1024];
    while wire.read(&mut buf)? > 0 {}
    Ok(After::Close)
}

fn trickle(step: &Trickle, wire: &mut Wire<'_>, stop: &Stop) -> io::Result<After> {
    let body = step.body.as_bytes();
    wire.send(&proper_head(step.status, len_of(body)))?;
    for (n, byte) in body.iter().enumerate() {
        if n > 0 && stop.wait(Duration::from_millis(step.interval_ms)) {
            return Ok(After::Close);
        }
        wire.send(&[*byte])?;
    }
    Ok(After::KeepAlive)
}

fn reset(step: &Reset, wire: &mut Wire<'_>, stop: &Stop) -> io::Result<After> {
    match step.at {
        ResetAt::Request => {}
        ResetAt::Body => {
            send_half_an_answer(wire)?;
            // A reset overtakes what the peer has not read yet.
            stop.wait(Duration::from_millis(50));
        }
    }
    Ok(After::Reset)
}

fn truncate(step: &Truncate, wire: &mut Wire<'_>) -> io::Result<After> {
    let body = step.body.as_bytes();
    let mut bytes = proper_head(step.status, len_of(body).saturating_add(step.missing));
    bytes.extend_from_slice(body);
    wire.send(&bytes)?;
    Ok(After::Close)
}

fn redirect(status: u16, other_host: Option<SocketAddr>, wire: &mut Wire<'_>) -> io::Result<After> {
    let other_host = other_host.ok_or_else(|| io::Error::other("there is no other host"))?;
    let mut head = Head::new(status);
    let location = format!("http://{other_host}/api/v1/actions/preflight");
    head.add("location", &location);
    head.add("content-length", "0");
    wire.send(&head.finish())?;
    Ok(After::KeepAlive)
}

/// A proper head, and the half of the body it announces.
fn send_half_an_answer(wire: &mut Wire<'_>) -> io::Result<()> {
    let (half, rest) = HALVES;
    let len = len_of(half).saturating_add(len_of(rest));
    let mut bytes = proper_head(200, len);
    bytes.extend_from_slice(half);
    wire.send(&bytes)
}

fn proper_head(status: u16, content_length: u64) -> Vec<u8> {
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

fn unit_and_times(body: &Body) -> (Cow<'_, [u8]>, u64) {
    match body {
        Body::Empty => (Cow::Borrowed(b""), 1),
        Body::Text(text) => (Cow::Borrowed(text.as_bytes()), 1),
        Body::Json(json) => (Cow::Owned(json.to_string().into_bytes()), 1),
        Body::Bytes(bytes) => (Cow::Borrowed(bytes), 1),
        Body::Repeat { text, times } => (Cow::Borrowed(text.as_bytes()), *times),
    }
}

fn send_repeated(unit: &[u8], times: u64, wire: &mut Wire<'_>) -> io::Result<()> {
    if unit.is_empty() {
        return Ok(());
    }
    let per_block = (BLOCK / unit.len()).max(1);
    let block = unit.repeat(per_block);
    let mut left = times;
    while left > 0 {
        // At most `per_block`, so it fits.
        let now = usize::try_from(left).map_or(per_block, |left| left.min(per_block));
        wire.send(block.get(..now * unit.len()).unwrap_or(&block))?;
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

const JSON: &str = "application/json";
/// The first half already says `allow`, so that a client which takes half an answer for one shows itself.
const HALVES: (&[u8], &[u8]) =
    (br#"{"decision":"allow","#, br#""reason_code":"hostile.half","evidence_event_id":"ev_half"}"#);
const BLOCK: usize = 16 * 1024;
