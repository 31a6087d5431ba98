//! What carries one attempt of a call to the gateway and its answer back.
//!
//! [`Transport`] is the seam: the shipped one speaks HTTP, tests stand in for the network with their own.
//! Deadlines, retries and the meaning of an answer are the client's, not the transport's.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::cause::Cause;
use crate::clock::Clock;
use crate::error::Error;
use crate::trace::Traceparent;
use actpass_protocol::Operation;

/// The largest body that is read from an answer: 1 MiB.
pub const MAX_BODY: usize = 1024 * 1024;

/// Carries one attempt of a call.
///
/// ```
/// use actpass_core::transport::{Request, Response, SendFuture, Transport, TransportError};
/// use actpass_core::{Action, ActPass};
///
/// /// Allows everything, without a network.
/// #[derive(Debug)]
/// struct Yes;
///
/// impl Transport for Yes {
///     fn send(&self, _: Request) -> SendFuture<'_> {
///         Box::pin(async { Ok(Response::new(200, r#"{"decision": "allow", "reason_code": "test.yes"}"#)) })
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let actpass = ActPass::builder().api_key("apk_test").transport(Yes).build()?;
/// let decision = actpass.preflight(&Action::new("demo", "demo.tool")).await?;
/// assert_eq!(decision.reason_code(), "test.yes");
/// # Ok::<(), actpass_core::Error>(())
/// # }).unwrap();
/// ```
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Sends `request` once and reads the answer. Dropping the future abandons the attempt.
    fn send(&self, request: Request) -> SendFuture<'_>;
}

/// Answers every call alike, without a network: for the tests of programs that use this crate.
///
/// ```
/// use actpass_core::transport::FixedResponse;
/// use actpass_core::{ActPass, Action};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let deny = FixedResponse::new(200, r#"{"decision": "deny", "reason_code": "test.no"}"#);
/// let actpass = ActPass::builder().api_key("apk_test").transport(deny).build()?;
/// let outcome = actpass.guard(&Action::new("demo", "demo.tool"), async |_| Ok::<(), ()>(())).await?;
/// assert!(!outcome.executed());
/// # Ok::<(), actpass_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct FixedResponse(Response);

impl FixedResponse {
    /// An answer of this status and body, without headers.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self(Response::new(status, body))
    }
}

impl Transport for FixedResponse {
    fn send(&self, _: Request) -> SendFuture<'_> {
        Box::pin(std::future::ready(Ok(self.0.clone())))
    }
}

/// What [`Transport::send`] returns.
pub type SendFuture<'t> = Pin<Box<dyn Future<Output = Result<Response, TransportError>> + Send + 't>>;

/// One attempt of a call.
///
/// ```
/// use actpass_core::Operation;
/// use actpass_core::transport::Request;
///
/// let request = Request::new(Operation::Preflight, r#"{"goal": "demo"}"#);
/// assert_eq!(request.path(), "/api/v1/actions/preflight");
/// ```
#[derive(Clone, Debug)]
pub struct Request {
    /// Which call; it decides the method and where the path begins.
    pub operation: Operation,
    /// What follows the call's own path, query included; empty for most.
    pub path_suffix: String,
    /// The body, a JSON object; empty where the call only reads.
    pub body: Bytes,
    /// The trace that the call is part of.
    pub traceparent: Option<Traceparent>,
    /// How many attempts of the call came before; 0 for the first.
    pub retry: u32,
}

impl Request {
    /// A request with this body and nothing below the call's own path.
    pub fn new(operation: Operation, body: impl Into<Bytes>) -> Self {
        Self { operation, path_suffix: String::new(), body: body.into(), traceparent: None, retry: 0 }
    }

    /// The path and the query below the base URL.
    pub fn path(&self) -> String {
        format!("{}{}", self.operation.path(), self.path_suffix)
    }
}

/// What came back.
///
/// ```
/// use actpass_core::transport::Response;
///
/// let busy = Response { retry_after: Some("2".to_owned()), ..Response::new(429, "") };
/// assert_eq!(busy.body.as_deref(), Ok(&b""[..]));
/// ```
#[derive(Clone, Debug)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The `retry-after` header.
    pub retry_after: Option<String>,
    /// The `x-request-id` header.
    pub request_id: Option<String>,
    /// The body, or why it could not be read.
    pub body: Result<Vec<u8>, BodyError>,
    /// How long after its beginning the attempt had a connection, measured before anything was sent over it; zero for a
    /// connection that was there before, or if it is not known. It may be less than the truth and never more: of a retry, this
    /// is how a repeated answer of another call is told from its own.
    pub connected_after: Duration,
}

impl Response {
    /// An answer of this status and body without headers.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            retry_after: None,
            request_id: None,
            body: Ok(body.into()),
            connected_after: Duration::ZERO,
        }
    }

    /// How long the gateway asks to wait before the next attempt, if it does.
    pub(crate) fn retry_after(&self, clock: &dyn Clock) -> Option<Duration> {
        parse_retry_after(self.retry_after.as_deref()?, clock.wall_clock())
    }
}

/// Why the body of an answer could not be read.
///
/// ```
/// use actpass_core::transport::BodyError;
///
/// assert_eq!(BodyError::TooLarge.to_string(), "the body is larger than 1048576 bytes");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// It ended before its end, or is not framed as HTTP says.
    CutShort,
    /// It is larger than [`MAX_BODY`].
    TooLarge,
}

impl BodyError {
    pub(crate) fn cause(self) -> Cause {
        match self {
            Self::CutShort => Cause::BodyCutShort,
            Self::TooLarge => Cause::BodyTooLarge,
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutShort => f.write_str("the body is cut short"),
            Self::TooLarge => write!(f, "the body is larger than {MAX_BODY} bytes"),
        }
    }
}

/// Why there is no answer.
///
/// ```
/// use actpass_core::transport::TransportError;
/// use actpass_core::{Error, ErrorKind};
///
/// let refused = TransportError { error: Error::new(ErrorKind::Connection, "nobody listens"), is_pre_send: true };
/// assert!(refused.error.is_retryable());
/// ```
#[derive(Clone, Debug)]
pub struct TransportError {
    /// What happened.
    pub error: Error,
    /// Whether it is certain that the gateway did not take the request: no connection came about, or the gateway refused
    /// the HTTP/2 stream.
    pub is_pre_send: bool,
}

/// What a `retry-after` header asks for: seconds or a date. Anything else asks for nothing.
fn parse_retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More than can be counted is longer than any deadline, not nothing.
        return Some(Duration::from_secs(text.parse::<u32>().unwrap_or(u32::MAX).into()));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_retry_after() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:30 GMT").unwrap();
        for (text, expected) in [
            ("3", Some(3)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
            ("+1", None),
            ("99999999999999999999", Some(u64::from(u32::MAX))),
        ] {
            assert_eq!(parse_retry_after(text, now), expected.map(Duration::from_secs), "{text}");
        }
    }
}
