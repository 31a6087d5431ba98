//! Transports: carry one attempt of a call to the gateway.
//!
//! The default transport speaks HTTP; tests replace it. Timeouts, retries and the interpretation of
//! a response belong to the client, not the transport.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::cause::Cause;
use crate::clock::Clock;
use crate::error::Error;
use crate::trace::Traceparent;
use actpass_protocol::{Operation, Secret};

/// The maximum size of a response body: 1 MiB.
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
    /// Sends `request` once and reads the response. Dropping the future abandons the attempt.
    fn send(&self, request: Request) -> SendFuture<'_>;
}

/// Returns the same response to every call, without a network: for tests of programs that use this
/// crate.
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
    /// A response with this status and body and no headers.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self(Response::new(status, body))
    }
}

impl Transport for FixedResponse {
    fn send(&self, _: Request) -> SendFuture<'_> {
        Box::pin(std::future::ready(Ok(self.0.clone())))
    }
}

/// The future returned by [`Transport::send`].
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
    /// The operation, which determines the method and the start of the path.
    pub operation: Operation,
    /// The part of the path after the operation's own, query included; usually empty.
    pub path_suffix: String,
    /// The body, a JSON object; empty for operations that only read.
    pub body: Bytes,
    /// The trace that the call belongs to.
    pub traceparent: Option<Traceparent>,
    /// The number of earlier attempts of the call; 0 for the first.
    pub retry: u32,
    /// The DPoP proof of this attempt: the header `dpop`. Present if the client has a
    /// [`dpop_key`](crate::ActPassBuilder::dpop_key); the scheme of `authorization` is then `DPoP`.
    pub proof: Option<Secret>,
}

impl Request {
    /// A request with this body and no path suffix.
    pub fn new(operation: Operation, body: impl Into<Bytes>) -> Self {
        Self {
            operation,
            path_suffix: String::new(),
            body: body.into(),
            traceparent: None,
            retry: 0,
            proof: None,
        }
    }

    /// The path and query, relative to the base URL.
    pub fn path(&self) -> String {
        format!("{}{}", self.operation.path(), self.path_suffix)
    }
}

/// A response.
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
    /// The `www-authenticate` headers of a 401, joined with commas.
    pub www_authenticate: Option<String>,
    /// The `dpop-nonce` header.
    pub dpop_nonce: Option<String>,
    /// The body, or why it could not be read.
    pub body: Result<Vec<u8>, BodyError>,
    /// The time from the start of the attempt until it had a connection, measured before anything
    /// was sent. Zero for a pooled connection, or if unknown. The value may be too small but never
    /// too large: the client uses it to distinguish a replay of its own lost attempt from a replay
    /// of another call.
    pub connected_after: Duration,
}

impl Response {
    /// A response with this status and body and no headers.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            retry_after: None,
            request_id: None,
            www_authenticate: None,
            dpop_nonce: None,
            body: Ok(body.into()),
            connected_after: Duration::ZERO,
        }
    }

    /// The `Retry-After` delay, if the gateway sent one.
    pub(crate) fn retry_after(&self, clock: &dyn Clock) -> Option<Duration> {
        parse_retry_after(self.retry_after.as_deref()?, clock.wall_clock())
    }
}

/// Why a response body could not be read.
///
/// ```
/// use actpass_core::transport::BodyError;
///
/// assert_eq!(BodyError::TooLarge.to_string(), "the body is larger than 1048576 bytes");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// The body is truncated, or its framing is invalid.
    CutShort,
    /// The body is larger than [`MAX_BODY`].
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
            Self::CutShort => f.write_str("truncated body"),
            Self::TooLarge => write!(f, "the body is larger than {MAX_BODY} bytes"),
        }
    }
}

/// Why there is no response.
///
/// ```
/// use actpass_core::transport::TransportError;
/// use actpass_core::{Error, ErrorKind};
///
/// let refused = TransportError { error: Error::new(ErrorKind::Connection, "connection refused"), is_pre_send: true };
/// assert!(refused.error.is_retryable());
/// ```
#[derive(Clone, Debug)]
pub struct TransportError {
    /// The error.
    pub error: Error,
    /// Whether the gateway certainly did not process the request: no connection was established, or
    /// the gateway refused the HTTP/2 stream.
    pub is_pre_send: bool,
}

/// Parses a `Retry-After` header: seconds or a date. `None` for anything else.
fn parse_retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that overflows is longer than any timeout.
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
