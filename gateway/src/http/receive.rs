//! Request extraction: authentication, rate limits and bodies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actpass_protocol::Json;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::request::Parts;
use http::{HeaderMap, header};

use super::client::Client;
use super::error::ApiError;
use super::{App, Started};
use crate::access_log::{self, StageTimer};
use crate::auth::ApiKey;
use crate::connections::Connection;
use crate::request::InvalidMember;

/// Maximum time to drain a rejected body.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of bytes to drain.
const DRAIN_BYTES: usize = 16 << 20;

/// The API key of an authenticated request.
pub(super) struct Caller(pub(super) Arc<ApiKey>);

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let connection = Connection::of(&parts.extensions);
        let key = match has_credentials(&parts.headers) {
            true => bearer(&parts.headers).and_then(|key| app.find_key(key, connection)),
            false => app.key_of_certificate(connection),
        };
        let Some(key) = key else {
            app.attempts.count(parts.extensions.get::<Client>().map(|client| client.0))?;
            return Err(ApiError::Unauthenticated);
        };
        if let Some(connection) = connection {
            connection.authenticate();
        }
        tracing::Span::current().record("tenant", &*key.tenant.id).record("key", &*key.name);
        access_log::note_key(&key.tenant.id, &key.name);
        within_limit(key)?;
        Ok(Self(Arc::clone(key)))
    }
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
        if bearer(&parts.headers).is_none() && !has_certificate() {
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
        Ok(Self { key, body, took: started.elapsed() })
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

/// Returns the API key if there is exactly one.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, key) = value.split_once(' ')?;
    let key = key.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !key.is_empty()).then_some(key)
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
