//! What carries one attempt of a call to the gateway and its answer back.
//!
//! [`Transport`] is the seam: the shipped one is [`HttpTransport`], tests stand in for the network with their own.
//! Deadlines, retries and the meaning of an answer are the client's, not the transport's.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use reqwest::redirect;

use crate::client::Operation;
use crate::config::{BaseUrl, Config};
use crate::error::{Error, ErrorKind};
use crate::tls;
use crate::trace::Traceparent;

/// The largest body that is read from an answer: 1 MiB.
pub const MAX_BODY: usize = 1024 * 1024;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Carries one attempt of a call.
///
/// ```
/// use actpass_core::transport::{Answer, Failure, Request, SendFuture, Transport};
/// use actpass_core::{Action, ActPass};
///
/// /// Allows everything, without a network.
/// #[derive(Debug)]
/// struct Yes;
///
/// impl Transport for Yes {
///     fn send(&self, _: Request) -> SendFuture<'_> {
///         Box::pin(async { Ok(Answer::new(200, r#"{"decision": "allow", "reason_code": "test.yes"}"#)) })
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let actpass = ActPass::builder().api_key("apk_test").transport(Yes).build()?;
/// let decision = actpass.preflight(&Action::new("demo", "demo.tool")).await?;
/// assert_eq!(decision.reason_code().as_deref(), Some("test.yes"));
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
/// use actpass_core::transport::FixedAnswer;
/// use actpass_core::{ActPass, Action};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let deny = FixedAnswer::new(200, r#"{"decision": "deny", "reason_code": "test.no"}"#);
/// let actpass = ActPass::builder().api_key("apk_test").transport(deny).build()?;
/// let outcome = actpass.guard(&Action::new("demo", "demo.tool"), async |_| Ok::<(), ()>(())).await?;
/// assert!(!outcome.executed());
/// # Ok::<(), actpass_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct FixedAnswer(Answer);

impl FixedAnswer {
    /// An answer of this status and body, without headers.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self(Answer::new(status, body))
    }
}

impl Transport for FixedAnswer {
    fn send(&self, _: Request) -> SendFuture<'_> {
        Box::pin(std::future::ready(Ok(self.0.clone())))
    }
}

/// What [`Transport::send`] returns.
pub type SendFuture<'t> = Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send + 't>>;

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
    pub below: String,
    /// The body, a JSON object; empty where the call only reads.
    pub body: Bytes,
    /// The trace that the call is part of.
    pub traceparent: Option<Traceparent>,
}

impl Request {
    /// A request with this body and nothing below the call's own path.
    pub fn new(operation: Operation, body: impl Into<Bytes>) -> Self {
        Self { operation, below: String::new(), body: body.into(), traceparent: None }
    }

    /// The path and the query below the base URL.
    pub fn path(&self) -> String {
        format!("{}{}", self.operation.path(), self.below)
    }
}

/// What came back.
///
/// ```
/// use actpass_core::transport::Answer;
///
/// let busy = Answer { retry_after: Some("2".to_owned()), ..Answer::new(429, "") };
/// assert_eq!(busy.body.as_deref(), Ok(&b""[..]));
/// ```
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The `retry-after` header.
    pub retry_after: Option<String>,
    /// The `x-request-id` header.
    pub request_id: Option<String>,
    /// The body, or why it could not be read.
    pub body: Result<Vec<u8>, BodyError>,
}

impl Answer {
    /// An answer of this status and body without headers.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, retry_after: None, request_id: None, body: Ok(body.into()) }
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
/// use actpass_core::transport::Failure;
/// use actpass_core::{Error, ErrorKind};
///
/// let refused = Failure { error: Error::new(ErrorKind::Connection, "nobody listens"), never_sent: true };
/// assert!(refused.error.is_retryable());
/// ```
#[derive(Clone, Debug)]
pub struct Failure {
    /// What happened.
    pub error: Error,
    /// Whether it is certain that the gateway did not take the request, because no connection came about.
    pub never_sent: bool,
}

/// The shipped transport: HTTP/1.1 and HTTP/2 over one pool of kept connections, TLS always verified, redirects never
/// followed.
pub struct HttpTransport {
    client: reqwest::Client,
    base_url: BaseUrl,
}

impl HttpTransport {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let is_https = config.base_url.is_https();
        let tls = match (is_https, config.extra_ca.as_slice()) {
            (false, _) => tls::none()?,
            (true, []) => tls::shared()?,
            (true, extra) => tls::with_extra_ca(extra)?,
        };
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(redirect::Policy::none())
            // How often a call is tried is the client's to say. By itself this one would repeat what HTTP/2 refuses.
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(config.connect_timeout)
            .default_headers(headers(config));
        if !is_https {
            // A proxy would see the key. Over https it sees a tunnel, so there the system's proxy settings hold.
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| {
            Error::new(ErrorKind::Config, "the HTTP client cannot be built").with_source(error)
        })?;
        Ok(Self { client, base_url: config.base_url.clone() })
    }

    async fn exchange(&self, request: Request) -> Result<Answer, Failure> {
        let url = self.base_url.endpoint(&request).map_err(|error| Failure { error, never_sent: true })?;
        let mut sent = match request.operation.is_read() {
            true => self.client.get(url),
            false => self.client.post(url).header(CONTENT_TYPE, JSON).body(request.body),
        };
        if let Some(traceparent) = &request.traceparent {
            sent = sent.header(HeaderName::from_static("traceparent"), traceparent.header());
        }
        let mut response = sent.send().await.map_err(|error| self.no_answer(error))?;
        let header = |name: HeaderName| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let (retry_after, request_id) =
            (header(RETRY_AFTER), header(HeaderName::from_static("x-request-id")));
        let status = response.status().as_u16();
        let body = self.read_body(&mut response).await?;
        Ok(Answer { status, retry_after, request_id, body })
    }

    async fn read_body(
        &self,
        response: &mut reqwest::Response,
    ) -> Result<Result<Vec<u8>, BodyError>, Failure> {
        let announced =
            response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        if announced > MAX_BODY {
            return Ok(Err(BodyError::TooLarge));
        }
        let mut body = Vec::with_capacity(announced);
        loop {
            match response.chunk().await {
                Ok(None) => return Ok(Ok(body)),
                Ok(Some(chunk)) if body.len() + chunk.len() > MAX_BODY => {
                    return Ok(Err(BodyError::TooLarge));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Err(error) if was_reset(&error) => return Err(self.no_answer(error)),
                Err(_) => return Ok(Err(BodyError::CutShort)),
            }
        }
    }

    fn no_answer(&self, error: reqwest::Error) -> Failure {
        let (kind, what) = match () {
            () if error.is_timeout() => (ErrorKind::Timeout, "no connection in time to"),
            () if is_not_http(&error) => (ErrorKind::Response, "no HTTP from"),
            () => (ErrorKind::Connection, "cannot reach"),
        };
        Failure {
            never_sent: error.is_connect(),
            error: Error::new(kind, format!("{what} {}: {}", self.base_url.as_str(), root_cause(&error)))
                .with_source(error.without_url()),
        }
    }
}

impl Transport for HttpTransport {
    fn send(&self, request: Request) -> SendFuture<'_> {
        Box::pin(self.exchange(request))
    }
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTransport").field("base_url", &self.base_url.as_str()).finish_non_exhaustive()
    }
}

fn headers(config: &Config) -> HeaderMap {
    let mut headers = HeaderMap::from_iter([
        (AUTHORIZATION, config.authorization.clone()),
        (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
        (USER_AGENT, config.user_agent.clone()),
    ]);
    if let Some(tenant) = &config.tenant_id {
        headers.insert(HeaderName::from_static("x-actpass-tenant"), tenant.clone());
    }
    headers
}

/// The innermost cause, which says most in fewest words.
fn root_cause(error: &reqwest::Error) -> String {
    causes(error).last().map_or_else(|| "no cause given".to_owned(), ToString::to_string)
}

fn was_reset(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| {
        // HTTP/2 keeps the system's error to itself, and calls the mere end of a connection a broken pipe.
        let http2 = cause.downcast_ref::<h2::Error>().and_then(h2::Error::get_io);
        let http2 = http2.filter(|error| error.kind() != io::ErrorKind::BrokenPipe);
        cause.downcast_ref::<io::Error>().or(http2).is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
            )
        })
    })
}

fn is_not_http(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse))
}

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(error), |cause| cause.source())
}
