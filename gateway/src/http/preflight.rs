//! Handler for preflights.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::App;
use super::error::{ApiError, json};
use super::openapi::requests;
use super::openapi::responses::Decision;
use super::receive::{JsonCall, parse};
use crate::admission::AdmittedDecision;
use crate::auth::{ApiKey, Capability};
use crate::request::Preflight;
use crate::service::{Authorized, PendingPreflight};

#[utoipa::path(
    post,
    path = "/api/v1/actions/preflight",
    operation_id = "preflight",
    tag = "decisions",
    request_body = requests::Preflight,
    responses(
        (status = 200, description = "The recorded decision. A repeated idempotency key replays an `allow` while it is valid", body = Decision),
        (status = 409, description = "The idempotency key was used for a different request"),
        (status = 503, description = "Nothing was decided: too many decisions are in progress or writes are queued (with `Retry-After`), or the store is unavailable"),
        (status = 501, description = "Passports and the vault are disabled: no master key is configured"),
    ),
    security(("key" = []))
)]
pub(super) async fn preflight(State(app): State<Arc<App>>, call: JsonCall) -> Result<Response, ApiError> {
    let JsonCall { key, body: raw, took, proven_key, .. } = call;
    Authorized::of(&key, Capability::Act)?;
    let _admitted = admit(&app, &key)?;
    // Later processing must not count: see `PendingPreflight::received`.
    let received = app.service.clock.millis();
    let bytes = raw.len();
    let begun = Instant::now();
    let request = app.service.run(bytes, move || parse(&raw, Preflight::read)).await?;
    let pending = PendingPreflight { key, request, bytes, received, took, begun, proven_key };
    let response = app.service.preflight(pending).await?;
    Ok(json(StatusCode::OK, response))
}

/// Admits a decision, or refuses it because too many are in progress.
pub(super) fn admit(app: &App, key: &ApiKey) -> Result<AdmittedDecision, ApiError> {
    app.admission.admit(app.admission_limits).ok_or_else(|| {
        app.metrics.shed(&key.tenant.id);
        ApiError::Overloaded
    })
}
