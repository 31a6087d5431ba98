//! Handler for approving tools.

use std::sync::Arc;

use actpass_protocol::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::App;
use super::error::{ApiError, json};
use super::openapi::requests;
use super::openapi::responses::ToolApproved;
use super::receive::{JsonCall, parse};
use crate::auth::Capability;
use crate::object_writer::object;
use crate::request::ToolApproval;
use crate::service::Authorized;

#[utoipa::path(
    post,
    path = "/api/v1/tools",
    operation_id = "approve_tool",
    tag = "tools",
    request_body = requests::ToolApproval,
    responses(
        (status = 200, description = "The manifest is approved", body = ToolApproved),
        (status = 403, description = "The role is not permitted; use an operator key"),
    ),
    security(("key" = []))
)]
pub(super) async fn approve(State(app): State<Arc<App>>, call: JsonCall) -> Result<Response, ApiError> {
    let JsonCall { key, body: raw } = call;
    let operator = Authorized::of(&key, Capability::ManageTools)?;
    let approval = app.service.run(raw.len(), move || parse(&raw, ToolApproval::read)).await?;
    let hash = app.service.approve_tool(operator, approval).await?;
    let response =
        object([("manifest_hash", Some(Json::String(hash))), ("approved", Some(Json::Bool(true)))]);
    Ok(json(StatusCode::OK, response.to_string()))
}
