//! Handlers for metrics.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use http::{HeaderValue, header};
use prometheus_client::encoding::prometheus_text;

use super::App;
use super::client::Client;
use super::error::ApiError;
use super::receive::{Caller, bearer};
use crate::auth::{ApiKeyHash, Capability};
use crate::metrics::{Gauges, ReloadCounts, of_tenant};
use crate::service::{Authorized, ServiceError};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The routes of the listener for metrics.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/metrics", get(all_tenants))
        .route("/livez", get(super::health::live))
        .route("/readyz", get(super::health::ready))
}

/// The metrics of the key's tenant and of the process.
pub(super) async fn own_tenant(
    State(app): State<Arc<App>>,
    Caller(key): Caller,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    Authorized::of(&key, Capability::ReadMetrics)?;
    write(&app, &headers, Some(&key.tenant.id)).await
}

/// The metrics of all tenants. If the settings have the hash of a token, the token is required.
async fn all_tenants(
    State(app): State<Arc<App>>,
    client: Option<axum::Extension<Client>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if let Some(hash) = &app.metrics_token
        && !bearer(&headers).is_some_and(|token| ApiKeyHash::of(token) == *hash)
    {
        app.attempts.count(client.map(|client| client.0.0))?;
        return Err(ApiError::Unauthenticated);
    }
    write(&app, &headers, None).await
}

async fn write(app: &App, headers: &HeaderMap, tenant_id: Option<&str>) -> Result<Response, ApiError> {
    let service = &app.service;
    let measured = service.measure(&app.loaded.tenants).await;
    let mut gauges = Gauges::default();
    gauges.process();
    gauges.state(*app.stopping.borrow(), service.store.write_queue());
    gauges.admission(app.admission.load(app.admission_limits));
    gauges.dpop_proofs(app.replays.load());
    if let Some(access_log) = &app.access_log {
        gauges.access_log(access_log.dropped());
    }
    let report = app.reloads.report();
    let reloads = ReloadCounts {
        succeeded: report.succeeded,
        failed: report.refused,
        succeeded_at: report.succeeded_at,
        has_last_failed: report.refused_at.is_some(),
    };
    gauges.reloads(reloads, app.metrics.started());
    let expiring = app
        .keyring
        .keys()
        .filter_map(|key| key.expires_at.map(|at| (Arc::clone(&key.tenant.id), Arc::clone(&key.name), at)));
    gauges.keys(expiring);
    gauges.certificate(app.loaded.certificate_expires_at);
    gauges.halts(&service.store.known_halts().latest(), app.loaded.tenants.iter().map(|tenant| &tenant.id));
    gauges.store(measured.as_deref(), service.clock.seconds());
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    let is_open = accepted.into_iter().any(|accept| accept.contains("application/openmetrics-text"));
    let (written, content_type) = match is_open {
        true => (app.metrics.open_metrics(&gauges), OPEN_METRICS),
        false => (app.metrics.prometheus_text(&gauges), prometheus_text::CONTENT_TYPE),
    };
    let written = written.map_err(|_| ServiceError::Internal)?;
    let written = match tenant_id {
        Some(tenant_id) => of_tenant(&written, tenant_id),
        None => written,
    };
    let mut response = Response::new(written.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}
