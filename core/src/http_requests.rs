//! HTTP for a transport that sends with the host's HTTP client.

use std::fmt;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT,
};
use http::{Method, Request as HttpRequest, Uri};

use crate::base_url::BaseUrl;
use crate::cause::{Cause, CertificateProblem, Hop};
use crate::config::Config;
use crate::error::Error;
use crate::transport::{Request, TransportError};
use actpass_protocol::{ErrorKind, Secret};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Builds the HTTP requests of a client, and the errors of requests that got no response: for a
/// transport that sends them with the host's HTTP client. See
/// [`http_transport`](crate::ActPassBuilder::http_transport).
pub struct HttpRequests {
    base_url: BaseUrl,
    headers: HeaderMap,
    api_key: Secret,
}

impl HttpRequests {
    pub(crate) fn new(config: &Config) -> Self {
        let (base_url, api_key) = (config.base_url.clone(), config.api_key.clone());
        Self { base_url, headers: headers(config), api_key }
    }

    /// Builds the HTTP request of one attempt, with the API key in its headers. The transport must not
    /// follow redirects.
    ///
    /// # Errors
    ///
    /// If the URL is invalid; nothing was sent.
    pub fn request(&self, request: Request) -> Result<HttpRequest<Bytes>, TransportError> {
        let uri = self
            .base_url
            .endpoint(request.operation, &request.path_suffix)
            .map_err(|error| TransportError { error, is_pre_send: true })?;
        let is_read = request.operation.is_read();
        let mut sent = HttpRequest::new(request.body);
        *sent.uri_mut() = uri;
        *sent.headers_mut() = self.headers.clone();
        if !is_read {
            *sent.method_mut() = Method::POST;
            sent.headers_mut().insert(CONTENT_TYPE, JSON);
        }
        if let Some(proof) = &request.proof {
            let mut header = HeaderValue::try_from(proof.expose()).map_err(|_| TransportError {
                error: Error::new(ErrorKind::Internal, "the DPoP proof is not a header value"),
                is_pre_send: true,
            })?;
            header.set_sensitive(true);
            sent.headers_mut().insert(HeaderName::from_static("dpop"), header);
        }
        if let Some(traceparent) = &request.traceparent {
            sent.headers_mut().insert(HeaderName::from_static("traceparent"), traceparent.header());
        }
        Ok(sent)
    }

    /// Builds a `POST` without the API key.
    pub(crate) fn keyless(&self, uri: Uri, body: Bytes) -> HttpRequest<Bytes> {
        let mut sent = HttpRequest::new(body);
        *sent.method_mut() = Method::POST;
        *sent.uri_mut() = uri;
        *sent.headers_mut() = self.headers.clone();
        sent.headers_mut().remove(AUTHORIZATION);
        sent.headers_mut().insert(CONTENT_TYPE, JSON);
        sent
    }

    /// Creates the error of a request without a response. `detail` is the host's message: one line.
    pub fn failure(&self, failure: HttpFailure, detail: &str) -> TransportError {
        let (kind, what, cause) = failure.parts();
        let base_url = self.base_url.as_str();
        let key = self.api_key.expose();
        let detail = if detail.contains(key) { "the message contains the API key" } else { detail };
        let mut error = Error::new(kind, format!("{what} {base_url}: {detail}"));
        if let Some(cause) = cause {
            error = error.with_cause(cause);
        }
        TransportError { error, is_pre_send: failure.is_pre_send() }
    }

    pub(crate) fn base_url(&self) -> &BaseUrl {
        &self.base_url
    }
}

impl fmt::Debug for HttpRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRequests").field("base_url", &self.base_url.as_str()).finish_non_exhaustive()
    }
}

/// Why a request of the host's HTTP client got no response, as precisely as the host reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpFailure {
    /// The certificate has expired.
    CertificateExpired,
    /// The certificate is not valid yet.
    CertificateNotYetValid,
    /// The certificate was rejected for another reason.
    CertificateOther,
    /// No trusted authority signed the certificate.
    CertificateUntrusted,
    /// The certificate is for another name.
    CertificateWrongName,
    /// The connect timeout expired.
    ConnectTimeout,
    /// The connection closed after it was established.
    Interrupted,
    /// The peer does not speak HTTP.
    NotHttp,
    /// The host does not report the reason.
    Other,
    /// A redirect, whose status the host hides.
    Redirect,
    /// The connection was refused.
    Refused,
    /// The TLS handshake failed.
    TlsHandshake,
    /// The host name does not resolve.
    Unresolved,
    /// There is no route to the address.
    Unroutable,
}

impl HttpFailure {
    fn parts(self) -> (ErrorKind, &'static str, Option<Cause>) {
        let certificate = |problem| Some(Cause::Certificate { of: Hop::Gateway, problem });
        let connection = |cause| (ErrorKind::Connection, "cannot reach", cause);
        match self {
            Self::CertificateExpired => connection(certificate(CertificateProblem::Expired)),
            Self::CertificateNotYetValid => connection(certificate(CertificateProblem::NotYetValid)),
            Self::CertificateOther => connection(certificate(CertificateProblem::Other)),
            Self::CertificateUntrusted => connection(certificate(CertificateProblem::Untrusted)),
            Self::CertificateWrongName => connection(certificate(CertificateProblem::WrongName)),
            Self::ConnectTimeout => {
                (ErrorKind::Timeout, "timed out connecting to", Some(Cause::ConnectTimeout))
            }
            Self::Interrupted => connection(Some(Cause::Interrupted)),
            Self::NotHttp => (ErrorKind::Response, "invalid HTTP from", Some(Cause::NotHttp)),
            Self::Other => connection(None),
            Self::Redirect => (ErrorKind::Status, "redirect, which is not followed, from", None),
            Self::Refused => connection(Some(Cause::Refused)),
            Self::TlsHandshake => connection(Some(Cause::TlsHandshake)),
            Self::Unresolved => connection(Some(Cause::Unresolved)),
            Self::Unroutable => connection(Some(Cause::Unroutable)),
        }
    }

    fn is_pre_send(self) -> bool {
        match self {
            Self::CertificateExpired
            | Self::CertificateNotYetValid
            | Self::CertificateOther
            | Self::CertificateUntrusted
            | Self::CertificateWrongName
            | Self::ConnectTimeout
            | Self::Refused
            | Self::TlsHandshake
            | Self::Unresolved
            | Self::Unroutable => true,
            Self::Interrupted | Self::NotHttp | Self::Other | Self::Redirect => false,
        }
    }
}

fn headers(config: &Config) -> HeaderMap {
    let mut headers = HeaderMap::from_iter([
        (ACCEPT, HeaderValue::from_static("*/*")),
        (AUTHORIZATION, config.authorization.clone()),
        (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
        (USER_AGENT, config.user_agent.clone()),
    ]);
    if let Some(tenant) = &config.tenant_id {
        headers.insert(HeaderName::from_static("x-actpass-tenant"), tenant.clone());
    }
    headers
}
