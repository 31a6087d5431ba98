//! Health check.

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
    Ok(json(StatusCode::OK, r#"{"status":"ok"}"#))
}
