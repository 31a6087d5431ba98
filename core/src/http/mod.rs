//! The default transport: HTTP/1.1 and HTTP/2 over hyper.

mod connect;
mod connect_options;
mod proxy;
#[cfg(feature = "reqwest")]
mod reqwest;
mod tls;

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Extensions, HeaderMap, Request as HttpRequest, Response as HttpResponse, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper::rt::Executor;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::TokioTimer;

use self::connect::{
    ConnectProblem, ConnectedAt, Connector, DynError, ProxyFailure, ProxyFailureKind, causes,
    connect_problem, root_cause,
};
use crate::cause::{Cause, CertificateProblem, Hop, ProxyProblem};
use crate::config::Config;
use crate::error::Error;
use crate::http_requests::HttpRequests;
use crate::observe::without_subscriber;
use crate::transport::{BodyError, MAX_BODY, Request, Response, SendFuture, Transport, TransportError};
use actpass_protocol::ErrorKind;

pub(crate) use self::connect_options::{ConnectOptions, parse_ca};
#[cfg(feature = "reqwest")]
pub(crate) use self::reqwest::ReqwestTransport;
pub use self::tls::CaVariable;

/// Idle connections are closed after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// The default transport: HTTP/1.1 and HTTP/2 over one connection pool. TLS is always verified,
/// redirects are never followed.
pub(crate) struct HttpTransport {
    client: legacy::Client<Connector, Full<Bytes>>,
    gateway: GatewayHttp,
}

impl HttpTransport {
    pub(crate) fn new(config: &Config, connect_options: &ConnectOptions) -> Self {
        let client = legacy::Client::builder(TokioExecutor)
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(Connector::new(config, connect_options));
        Self { client, gateway: GatewayHttp::new(config, connect_options.clone()) }
    }

    /// Posts to a path of the gateway without the API key.
    pub(crate) async fn post_keyless(&self, uri: Uri, body: Bytes) -> Result<Response, TransportError> {
        self.exchange(Ok(self.gateway.requests.keyless(uri, body)), false).await
    }

    /// Sends a request, unless building it failed.
    async fn exchange(
        &self,
        request: Result<HttpRequest<Bytes>, TransportError>,
        is_retry: bool,
    ) -> Result<Response, TransportError> {
        let mut sent = request?.map(Full::new);
        let began = Instant::now();
        // Only a retry can receive a replay of its own call, so only a retry captures the
        // connection.
        let captured = is_retry.then(|| capture_connection(&mut sent));
        let response = self.client.request(sent).await;
        let connected_after = captured.map_or(Duration::ZERO, |captured| {
            let mut extras = Extensions::new();
            if let Some(connected) = captured.connection_metadata().as_ref() {
                connected.get_extras(&mut extras);
            }
            extras.get().map_or(Duration::ZERO, |ConnectedAt(at)| at.saturating_duration_since(began))
        });
        let response = response.map_err(|error| TransportError {
            is_pre_send: error.is_connect() || is_refused_stream(&error),
            error: self.gateway.response_error(error),
        })?;
        self.gateway.read_response(response, connected_after).await
    }
}

/// The part of the transport that does not depend on the HTTP client.
struct GatewayHttp {
    requests: HttpRequests,
    connect_options: ConnectOptions,
}

impl GatewayHttp {
    fn new(config: &Config, connect_options: ConnectOptions) -> Self {
        Self { requests: HttpRequests::new(config), connect_options }
    }

    async fn read_response<B>(
        &self,
        response: HttpResponse<B>,
        connected_after: Duration,
    ) -> Result<Response, TransportError>
    where
        B: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Unpin,
    {
        let header = |name: HeaderName| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let (retry_after, request_id, dpop_nonce) = (
            header(RETRY_AFTER),
            header(HeaderName::from_static("x-request-id")),
            header(HeaderName::from_static("dpop-nonce")),
        );
        let status = response.status().as_u16();
        let www_authenticate = if status == 401 { challenges(response.headers()) } else { None };
        let body = self.read_body(response.into_body()).await?;
        Ok(Response { status, retry_after, request_id, www_authenticate, dpop_nonce, body, connected_after })
    }

    async fn read_body<B>(&self, mut read: B) -> Result<Result<Vec<u8>, BodyError>, TransportError>
    where
        B: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Unpin,
    {
        let announced = read.size_hint().exact();
        let announced = announced.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
        if announced > MAX_BODY {
            return Ok(Err(BodyError::TooLarge));
        }
        let mut body = Vec::with_capacity(announced);
        while let Some(frame) = read.frame().await {
            match frame.map(http_body::Frame::into_data) {
                Ok(Ok(data)) if body.len() + data.len() > MAX_BODY => return Ok(Err(BodyError::TooLarge)),
                Ok(Ok(data)) => body.extend_from_slice(&data),
                Ok(Err(_trailers)) => {}
                Err(error) if is_reset(&error) => {
                    return Err(TransportError { is_pre_send: false, error: self.response_error(error) });
                }
                Err(_) => return Ok(Err(BodyError::CutShort)),
            }
        }
        Ok(Ok(body))
    }

    fn response_error(&self, error: impl std::error::Error + Send + Sync + 'static) -> Error {
        let base_url = self.requests.base_url().as_str();
        let failed_proxy = causes(&error).find_map(|cause| cause.downcast_ref::<ProxyFailure>());
        if let Some(failure) = failed_proxy {
            let setting = failure.proxy.setting.clone();
            let (kind, cause) = match failure.problem {
                ProxyFailureKind::Certificate(problem) => {
                    (ErrorKind::Connection, Cause::Certificate { of: Hop::Proxy(setting), problem })
                }
                ProxyFailureKind::Proxy(problem @ ProxyProblem::Timeout) => {
                    (ErrorKind::Timeout, Cause::Proxy { setting, problem })
                }
                ProxyFailureKind::Proxy(problem) => {
                    (ErrorKind::Connection, Cause::Proxy { setting, problem })
                }
            };
            let trusted = self.trust_hint(&cause);
            let message =
                format!("cannot reach {base_url} through the proxy {}: {failure}{trusted}", failure.proxy);
            return Error::new(kind, message).with_cause(cause).with_source(error);
        }
        let (kind, what, cause) = match connect_problem(&error) {
            _ if is_not_http(&error) => (ErrorKind::Response, "invalid HTTP from", Some(Cause::NotHttp)),
            ConnectProblem::Certificate(problem) => {
                let cause = Cause::Certificate { of: Hop::Gateway, problem };
                (ErrorKind::Connection, "cannot reach", Some(cause))
            }
            ConnectProblem::Interrupted => {
                let is_handshake = self.requests.base_url().is_https()
                    && causes(&error)
                        .filter_map(|cause| cause.downcast_ref::<legacy::Error>())
                        .any(legacy::Error::is_connect);
                let cause = if is_handshake { Cause::InterruptedHandshake } else { Cause::Interrupted };
                (ErrorKind::Connection, "cannot reach", Some(cause))
            }
            ConnectProblem::NotTls => (ErrorKind::Connection, "invalid TLS from", Some(Cause::NotTls)),
            ConnectProblem::Other => (ErrorKind::Connection, "cannot reach", None),
            ConnectProblem::Refused => (ErrorKind::Connection, "cannot reach", Some(Cause::Refused)),
            ConnectProblem::Timeout => {
                (ErrorKind::Timeout, "timed out connecting to", Some(Cause::ConnectTimeout))
            }
            ConnectProblem::Tls => (ErrorKind::Connection, "cannot reach", Some(Cause::TlsHandshake)),
            ConnectProblem::Unresolved => (ErrorKind::Connection, "cannot reach", Some(Cause::Unresolved)),
            ConnectProblem::Unroutable => (ErrorKind::Connection, "cannot reach", Some(Cause::Unroutable)),
        };
        let trusted = cause.as_ref().map(|cause| self.trust_hint(cause)).unwrap_or_default();
        let via_proxy = self.connect_options.via_proxy();
        let message = format!("{what} {base_url}{via_proxy}: {}{trusted}", root_cause(&error));
        let failed = Error::new(kind, message).with_source(error);
        match cause {
            Some(cause) => failed.with_cause(cause),
            None => failed,
        }
    }

    /// A hint about the trusted authorities, for certificates that none of them signed.
    fn trust_hint(&self, cause: &Cause) -> String {
        let Cause::Certificate {
            problem: CertificateProblem::BadSignature | CertificateProblem::Untrusted,
            ..
        } = cause
        else {
            return String::new();
        };
        let variables: Vec<_> = std::iter::once("SSL_CERT_FILE")
            .chain(self.connect_options.ca_variables.iter().map(CaVariable::name))
            .collect();
        format!(
            "; trusted authorities: {}; to trust another, pass its certificate as ca or name its file in {}",
            self.connect_options.trust,
            variables.join(" or ")
        )
    }
}

impl Transport for HttpTransport {
    fn send(&self, request: Request) -> SendFuture<'_> {
        let is_retry = request.retry > 0;
        Box::pin(without_subscriber(self.exchange(self.gateway.requests.request(request), is_retry)))
    }
}

/// Returns the `www-authenticate` headers, joined with commas.
fn challenges(headers: &HeaderMap) -> Option<String> {
    let challenges = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let challenges: Vec<_> = challenges.collect();
    (!challenges.is_empty()).then(|| challenges.join(", "))
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTransport")
            .field("base_url", &self.gateway.requests.base_url().as_str())
            .finish_non_exhaustive()
    }
}

fn is_reset(error: DynError<'_>) -> bool {
    causes(error).any(|cause| {
        // h2 does not expose the system's error as a source, and reports a closed connection as a
        // broken pipe.
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

fn is_not_http(error: DynError<'_>) -> bool {
    causes(error).any(|cause| cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse))
}

/// Whether the gateway refused the stream without processing it (RFC 9113, section 8.7).
fn is_refused_stream(error: DynError<'_>) -> bool {
    causes(error).filter_map(|cause| cause.downcast_ref::<h2::Error>()).any(|error| {
        error.is_reset() && error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
    })
}

/// Spawns connection tasks on tokio, without a subscriber.
#[derive(Clone, Copy, Debug)]
struct TokioExecutor;

impl<F: Future<Output: Send + 'static> + Send + 'static> Executor<F> for TokioExecutor {
    fn execute(&self, task: F) {
        tokio::spawn(without_subscriber(task));
    }
}
