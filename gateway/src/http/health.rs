//! Health checks.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::App;
use super::error::{ApiError, json};
use super::openapi::responses::Health;

#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "health",
    tag = "gateway",
    responses(
        (status = 200, description = "The gateway can decide", body = Health),
    ),
)]
pub(super) async fn health(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    app.service.check().await?;
    Ok(ok())
}

#[utoipa::path(
    get,
    path = "/livez",
    operation_id = "live",
    tag = "gateway",
    responses(
        (status = 200, description = "The process answers, whether or not it can decide", body = Health),
    ),
)]
pub(super) async fn live() -> Response {
    ok()
}

#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "ready",
    tag = "gateway",
    responses(
        (status = 200, description = "The gateway can decide, its schema is current, and it does not stop", body = Health),
    ),
)]
pub(super) async fn ready(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    if *app.stopping.borrow() {
        return Err(ApiError::NotReady("the gateway is stopping"));
    }
    app.service.check().await?;
    if !app.service.is_schema_current().await? {
        return Err(ApiError::NotReady("a newer gateway has migrated the database"));
    }
    Ok(ok())
}

fn ok() -> Response {
    json(StatusCode::OK, r#"{"status":"ok"}"#)
}
