//! Request extraction: authentication, rate limits and bodies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actpass_protocol::Json;
use actpass_protocol::token::InvalidProof;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::request::Parts;
use http::{HeaderMap, header};

use super::client::Client;
use super::error::ApiError;
use super::{App, DPOP, Started};
use crate::access_log::{self, StageTimer};
use crate::auth::ApiKey;
use crate::client_certificates::CertificateName;
use crate::connections::Connection;
use crate::dpop::{CheckedProof, ProvenRequest, Thumbprint};
use crate::hosts::Authority;
use crate::request::InvalidMember;

/// Maximum time to drain a rejected body.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of bytes to drain.
const DRAIN_BYTES: usize = 16 << 20;

/// The API key of an authenticated request.
pub(super) struct Caller(pub(super) Arc<ApiKey>);

/// Marks a request that a proxy sends about a request to a server: its DPoP proof is for the server.
#[derive(Clone, Copy)]
pub(super) struct ForServer;

/// The key that signed the request's DPoP proof.
#[derive(Clone)]
struct ProvenKey(Thumbprint);

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let connection = Connection::of(&parts.extensions);
        let presented = credentials(&parts.headers);
        let key = match has_credentials(&parts.headers) {
            true => presented.and_then(|presented| app.find_key(presented.key, connection)),
            false => app.key_of_certificate(connection),
        };
        let count = || app.attempts.count(parts.extensions.get::<Client>().map(|client| client.0));
        let Some(key) = key.map(Arc::clone) else {
            count()?;
            return Err(ApiError::Unauthenticated);
        };
        let proof = match check_proof(parts, app, &key, presented) {
            Ok(proof) => proof,
            Err(error) => {
                let (tenant, key) = (&*key.tenant.id, &*key.name);
                if error != ApiError::UseNonce {
                    tracing::warn!(tenant, key, "a key was rejected: {}", error.message());
                    count()?;
                }
                return Err(error);
            }
        };
        if let Some(connection) = connection {
            connection.authenticate();
        }
        tracing::record_all!(tracing::Span::current(), tenant = &*key.tenant.id, key = &*key.name);
        access_log::note_key(&key.tenant.id, &key.name);
        within_limit(&key)?;
        // A request beyond the limit uses up no proof and no memory.
        if let Some(proof) = proof {
            app.replays.accept(&proof, app.service.clock.seconds())?;
            parts.extensions.insert(ProvenKey(proof.thumbprint));
        }
        Ok(Self(key))
    }
}

/// Checks the request's DPoP proof, except that it was not used before. A key that is bound to a DPoP
/// key needs a proof by that key; other requests may have one, for a passport that is bound to a key.
fn check_proof(
    parts: &Parts,
    app: &App,
    key: &ApiKey,
    presented: Option<Credentials<'_>>,
) -> Result<Option<CheckedProof>, ApiError> {
    let is_for_server = parts.extensions.get::<ForServer>().is_some();
    let is_dpop = presented.is_some_and(|presented| presented.scheme == Scheme::Dpop);
    match &key.dpop {
        Some(_) if is_for_server => {
            return Err(ApiError::InvalidToken(
                "this API key is bound to a DPoP key, which the interfaces for proxies do not support; use \
                another API key",
            ));
        }
        Some(_) if !is_dpop => {
            return Err(ApiError::InvalidToken(
                "this API key is bound to a DPoP key; expected the header `authorization: DPoP <API key>`, \
                and a proof in the header `dpop`",
            ));
        }
        None if is_dpop => {
            return Err(ApiError::InvalidToken(
                "this API key is bound to no DPoP key; expected the header `authorization: Bearer <API key>`, \
                or `dpop_jkt` in the settings of the key",
            ));
        }
        Some(_) | None => {}
    }
    let mut proofs = parts.headers.get_all(DPOP).iter();
    let proof = match (proofs.next(), proofs.next()) {
        (None, _) if key.dpop.is_none() => return Ok(None),
        (Some(_), _) if is_for_server => return Ok(None),
        (None, _) => return Err(invalid_proof("DPoP", "missing; expected the header `dpop` with a proof")),
        (Some(_), Some(_)) => return Err(invalid_proof("DPoP", "expected one header, found two")),
        (Some(proof), None) => proof.to_str().map_err(|_| invalid_proof("DPoP", "expected a compact JWS"))?,
    };
    let own = parts.extensions.get::<Authority>().cloned();
    let public = Authority::of_url(&app.service.url).filter(|public| own.as_ref() != Some(public));
    let hosts: Vec<_> = own.into_iter().chain(public).collect();
    let request = ProvenRequest {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        hosts: &hosts,
        base_path: app.page.base(),
        is_https: app.page.has_tls(),
        api_key: presented.map(|presented| presented.key),
        now: app.service.clock.seconds(),
    };
    let checked = request.check(proof, app.nonces.as_deref())?;
    match &key.dpop {
        Some(bound) if *bound != checked.thumbprint => {
            Err(invalid_proof("jwk", "another key than the one that this API key is bound to"))
        }
        Some(_) | None => Ok(Some(checked)),
    }
}

fn invalid_proof(member: &'static str, problem: &str) -> ApiError {
    ApiError::InvalidProof(InvalidProof::new(member, problem))
}

/// The API key of a request to a public resource; `None` if it is missing or unknown.
pub(super) struct OptionalCaller(pub(super) Option<Arc<ApiKey>>);

impl FromRequestParts<Arc<App>> for OptionalCaller {
    type Rejection = ApiError;

    /// An unknown key counts as a failed attempt, so that guessing is not faster here than
    /// elsewhere.
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let connection = Connection::of(&parts.extensions);
        let has_certificate =
            || !has_credentials(&parts.headers) && app.key_of_certificate(connection).is_some();
        if credentials(&parts.headers).is_none() && !has_certificate() {
            return Ok(Self(None));
        }
        match Caller::from_request_parts(parts, app).await {
            Ok(Caller(key)) => Ok(Self(Some(key))),
            Err(ApiError::Unauthenticated) => Ok(Self(None)),
            Err(error) => Err(error),
        }
    }
}

/// Counts a request against the rate limits of the key and its tenant.
pub(super) fn within_limit(key: &ApiKey) -> Result<(), ApiError> {
    // The key first: requests beyond its limit do not use up that of its tenant.
    for (what, limiter) in [("API key", &key.limiter), ("tenant", &key.tenant_limiter)] {
        if let Some(Err(wait)) = limiter.as_ref().map(|limiter| limiter.check()) {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            return Err(ApiError::RateLimited(what, seconds.max(1)));
        }
    }
    Ok(())
}

/// An authenticated request with its body, by default of JSON.
pub(super) struct JsonCall {
    pub(super) key: Arc<ApiKey>,
    pub(super) body: Bytes,
    /// Time since the request's headers.
    pub(super) took: Duration,
    /// The key that signed the request's DPoP proof.
    pub(super) proven_key: Option<Thumbprint>,
    /// The SPIFFE ID of the connection's client certificate.
    pub(super) workload: Option<String>,
}

impl FromRequest<Arc<App>> for JsonCall {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        Self::receive(request, app, check_type).await
    }
}

impl JsonCall {
    /// Authenticates and checks the headers before it reads the body.
    pub(super) async fn receive(
        request: Request,
        app: &Arc<App>,
        check_type: fn(&HeaderMap) -> Result<(), ApiError>,
    ) -> Result<Self, ApiError> {
        let _receiving = StageTimer::begin("receive");
        let (mut parts, body) = request.into_parts();
        let started = parts.extensions.get::<Started>().map_or_else(Instant::now, |started| started.0);
        let key = match check_headers(&mut parts, app, check_type).await {
            Ok(key) => key,
            Err(error) => {
                drain(body);
                return Err(error);
            }
        };
        let reading = tokio::time::timeout(app.body_timeout, read(body, app.body_bytes));
        let body = reading.await.map_err(|_| ApiError::BodyTimeout)??;
        let proven_key = parts.extensions.remove::<ProvenKey>().map(|key| key.0);
        let names = app.certificate(Connection::of(&parts.extensions)).unwrap_or_default();
        let workload = names.iter().find_map(CertificateName::spiffe).map(str::to_owned);
        Ok(Self { key, body, took: started.elapsed(), proven_key, workload })
    }
}

async fn check_headers(
    parts: &mut Parts,
    app: &Arc<App>,
    check_type: fn(&HeaderMap) -> Result<(), ApiError>,
) -> Result<Arc<ApiKey>, ApiError> {
    let Caller(key) = Caller::from_request_parts(parts, app).await?;
    check_type(&parts.headers)?;
    let length =
        parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > u64::try_from(app.body_bytes).unwrap_or(u64::MAX)) {
        return Err(ApiError::BodyTooLarge(app.body_bytes));
    }
    Ok(key)
}

/// Returns whether the request presents credentials, valid or not. Only a request without them is
/// authenticated by its connection's certificate.
fn has_credentials(headers: &HeaderMap) -> bool {
    headers.contains_key(header::AUTHORIZATION)
}

/// An authentication scheme with an API key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Bearer,
    Dpop,
}

/// The API key of a request.
#[derive(Clone, Copy)]
struct Credentials<'h> {
    scheme: Scheme,
    key: &'h str,
}

/// Returns the bearer token if there is exactly one.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    credentials(headers).filter(|presented| presented.scheme == Scheme::Bearer).map(|presented| presented.key)
}

/// Returns the API key if there is exactly one.
fn credentials(headers: &HeaderMap) -> Option<Credentials<'_>> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, key) = value.split_once(' ')?;
    let key = key.trim_matches(' ');
    let schemes = [("bearer", Scheme::Bearer), ("dpop", Scheme::Dpop)];
    let scheme = schemes.into_iter().find(|(name, _)| scheme.eq_ignore_ascii_case(name))?.1;
    (!key.is_empty()).then_some(Credentials { scheme, key })
}

pub(super) fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(ApiError::UnsupportedMediaType("content-type: expected application/json"));
    }
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(ApiError::UnsupportedMediaType("content-encoding: expected none"));
    }
    Ok(())
}

/// Parses a JSON body with `read`.
pub(super) fn parse<T>(
    raw: &[u8],
    read: impl FnOnce(Json) -> Result<T, InvalidMember>,
) -> Result<T, ApiError> {
    let body = Json::parse(raw).map_err(|error| ApiError::InvalidJson(error.to_string()))?;
    Ok(read(body)?)
}

pub(super) async fn read(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let mut chunks = body.into_data_stream();
    let mut read = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| ApiError::BodyUnreadable)?;
        if read.len() + chunk.len() > limit {
            drain(Body::from_stream(chunks));
            return Err(ApiError::BodyTooLarge(limit));
        }
        read.extend_from_slice(&chunk);
    }
    Ok(read.freeze())
}

/// Drains a rejected body while the response is sent.
///
/// Closing a connection with unread data resets it, and the reset can overtake the response: the
/// client would see a connection error in place of the actual error.
pub(super) fn drain(body: Body) {
    let mut left = DRAIN_BYTES;
    let mut chunks = body.into_data_stream();
    tokio::spawn(tokio::time::timeout(DRAIN_TIMEOUT, async move {
        while let Some(Ok(chunk)) = chunks.next().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
    }));
}
