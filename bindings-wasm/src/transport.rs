//! The transport over the host's `fetch`.

use std::cell::RefCell;

use actpass_core::json::{JsonWriter, Style};
use actpass_core::transport::{BodyError, Request, Response, SendFuture, Transport, TransportError};
use actpass_core::{HttpFailure, HttpRequests};
use bytes::Bytes;

use crate::host::{self, Operation, Slots};

thread_local! {
    static REQUESTS: Slots<Fetched> = RefCell::default();
}

/// The result of a request.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// A response: its status, its headers, and its body or why it could not be read.
    Response(Response),
    /// The host's code and message.
    Failed(String),
}

/// Completes a request.
pub(crate) fn fetched(number: u32, fetched: Fetched) {
    host::complete(&REQUESTS, number, fetched);
}

/// Why the host has no whole response, as `engine.ts` numbers it.
pub(crate) fn body_of(problem: u32, body: Vec<u8>) -> Result<Vec<u8>, BodyError> {
    match problem {
        0 => Ok(body),
        1 => Err(BodyError::TooLarge),
        _ => Err(BodyError::CutShort),
    }
}

/// Sends each attempt with the host's `fetch`, which follows no redirect and keeps connections alive
/// as it does.
#[derive(Debug)]
pub(crate) struct FetchTransport(HttpRequests);

impl FetchTransport {
    pub(crate) fn make(requests: HttpRequests) -> Box<dyn Transport> {
        Box::new(Self(requests))
    }
}

impl Transport for FetchTransport {
    fn send(&self, request: Request) -> SendFuture<'_> {
        Box::pin(async move {
            let sent = self.0.request(request)?;
            let head = head(&sent);
            let operation = Operation::new(&REQUESTS, |number| host::abort(number));
            let body = sent.body();
            host::fetch(operation.number(), head.as_ptr(), head.len(), body.as_ptr(), body.len());
            drop((head, sent));
            match operation.await {
                Fetched::Response(response) => Ok(response),
                Fetched::Failed(problem) => Err(self.failure(&problem)),
            }
        })
    }
}

impl FetchTransport {
    /// `problem` is the host's code, a space and its message.
    fn failure(&self, problem: &str) -> TransportError {
        let (code, detail) = problem.split_once(' ').unwrap_or(("", problem));
        self.0.failure(failure_of(code), if detail.is_empty() { "fetch failed" } else { detail })
    }
}

/// The failure that a code of Node, Bun or Deno names.
fn failure_of(code: &str) -> HttpFailure {
    match code {
        "CERT_HAS_EXPIRED" => HttpFailure::CertificateExpired,
        "CERT_NOT_YET_VALID" => HttpFailure::CertificateNotYetValid,
        "DEPTH_ZERO_SELF_SIGNED_CERT"
        | "SELF_SIGNED_CERT_IN_CHAIN"
        | "UNABLE_TO_GET_ISSUER_CERT"
        | "UNABLE_TO_GET_ISSUER_CERT_LOCALLY"
        | "UNABLE_TO_VERIFY_LEAF_SIGNATURE" => HttpFailure::CertificateUntrusted,
        "ERR_TLS_CERT_ALTNAME_INVALID" => HttpFailure::CertificateWrongName,
        "CERT_REJECTED" | "CERT_REVOKED" | "CERT_UNTRUSTED" | "INVALID_CA" | "INVALID_PURPOSE" => {
            HttpFailure::CertificateOther
        }
        "ECONNREFUSED" | "ConnectionRefused" => HttpFailure::Refused,
        "EAI_AGAIN" | "EAI_FAIL" | "EAI_NODATA" | "ENOTFOUND" => HttpFailure::Unresolved,
        "EHOSTUNREACH" | "ENETUNREACH" => HttpFailure::Unroutable,
        "ETIMEDOUT" | "UND_ERR_CONNECT_TIMEOUT" => HttpFailure::ConnectTimeout,
        "ECONNRESET" | "ECONNABORTED" | "EPIPE" | "UND_ERR_SOCKET" | "ConnectionClosed" => {
            HttpFailure::Interrupted
        }
        "EPROTO" => HttpFailure::TlsHandshake,
        "REDIRECT" => HttpFailure::Redirect,
        "UND_ERR_HEADERS_OVERFLOW" => HttpFailure::NotHttp,
        _ if code.starts_with("HPE_") => HttpFailure::NotHttp,
        _ if code.starts_with("ERR_SSL_") => HttpFailure::TlsHandshake,
        _ => HttpFailure::Other,
    }
}

fn head(request: &http::Request<Bytes>) -> String {
    let mut text = JsonWriter::new(Style::Compact);
    text.raw("[");
    text.string(request.method().as_str());
    text.raw(",");
    text.string(&request.uri().to_string());
    text.raw(",[");
    let mut count = 0;
    for (name, value) in request.headers() {
        // Settings are validated to be visible ASCII.
        if let Ok(value) = value.to_str() {
            text.comma(count);
            text.raw("[");
            text.string(name.as_str());
            text.raw(",");
            text.string(value);
            text.raw("]");
            count += 1;
        }
    }
    text.raw("]]");
    text.into_string()
}
