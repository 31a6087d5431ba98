//! Handler for reloads of the settings.

use std::sync::Arc;

use actpass_protocol::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::App;
use super::error::{ApiError, json};
use super::openapi::responses;
use super::receive::Caller;
use crate::auth::Capability;
use crate::object_writer::object;
use crate::service::Authorized;

#[utoipa::path(
    post,
    path = "/api/v1/reload",
    operation_id = "reload",
    tag = "gateway",
    responses(
        (status = 200, description = "The settings in force. Requests that began before finish with the previous ones", body = responses::Reloaded),
        (status = 403, description = "The role may not reload the settings; use a key with the role operator"),
        (status = 409, description = "The settings are invalid, or a changed member needs a restart; the message names the members. The previous settings are in force"),
    ),
    security(("key" = []))
)]
pub(super) async fn reload(State(app): State<Arc<App>>, Caller(key): Caller) -> Result<Response, ApiError> {
    Authorized::of(&key, Capability::Reload)?;
    let [before, after] = app.reloads.by_operator(&key).await?;
    let response = object([
        ("reloaded", Some(Json::Bool(true))),
        ("settings_hash_before", Some(Json::String(before.settings))),
        ("settings_hash", Some(Json::String(after.settings))),
        ("policy_hash_before", before.policy.map(Json::String)),
        ("policy_hash", after.policy.map(Json::String)),
    ]);
    Ok(json(StatusCode::OK, response.to_string()))
}
