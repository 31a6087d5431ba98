//! Handlers for tools: approving definitions, and their state.

use std::sync::Arc;

use actpass_protocol::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use http::StatusCode;

use super::App;
use super::error::{ApiError, json};
use super::openapi::requests;
use super::openapi::responses::{ToolApproved, ToolStates};
use super::receive::{Caller, JsonCall, parse};
use crate::auth::Capability;
use crate::object_writer::object;
use crate::request::{InvalidMember, MAX_TOOL_CHARACTERS, ToolApproval};
use crate::service::Authorized;

/// Maximum number of tools in one request.
const MAX_TOOLS: usize = 100;

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
    let JsonCall { key, body: raw, .. } = call;
    let operator = Authorized::of(&key, Capability::ManageTools)?;
    let approval = app.service.run(raw.len(), move || parse(&raw, ToolApproval::read)).await?;
    let hash = app.service.approve_tool(operator, approval).await?;
    let response =
        object([("manifest_hash", Some(Json::String(hash))), ("approved", Some(Json::Bool(true)))]);
    Ok(json(StatusCode::OK, response.to_string()))
}

#[utoipa::path(
    get,
    path = "/api/v1/tools",
    operation_id = "read_tools",
    tag = "tools",
    params(("tool" = Vec<requests::ToolName>, Query, min_items = 1, max_items = 100, description = "The tools' names in requests; repeat the parameter")),
    responses(
        (status = 200, description = "The approved manifest and the policy's view of each tool, in the order of the request", body = ToolStates),
    ),
    security(("key" = []))
)]
pub(super) async fn read(
    State(app): State<Arc<App>>,
    Caller(key): Caller,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiError> {
    Authorized::of(&key, Capability::ReadTools)?;
    let Query(query) = query.map_err(|_| ApiError::InvalidPath)?;
    let tools = read_names(query)?;
    let states = app.service.tool_states(&key, &tools).await?;
    let tools = tools.into_iter().zip(states).map(|(tool_id, state)| {
        object([
            ("tool_id", Some(Json::String(tool_id))),
            ("manifest_hash", Some(state.manifest_hash.map_or(Json::Null, Json::String))),
            ("may_permit", Some(Json::Bool(state.may_permit))),
        ])
    });
    let response = object([("tools", Some(Json::Array(tools.collect())))]);
    Ok(json(StatusCode::OK, response.to_string()))
}

fn read_names(query: Vec<(String, String)>) -> Result<Vec<String>, InvalidMember> {
    let invalid = |member: &str, problem: String| InvalidMember { member: member.to_owned(), problem };
    if let Some((name, _)) = query.iter().find(|(name, _)| name != "tool") {
        return Err(invalid(name, "unknown parameter; expected tool".to_owned()));
    }
    if query.is_empty() || query.len() > MAX_TOOLS {
        return Err(invalid("tool", format!("expected 1 to {MAX_TOOLS} values, found {}", query.len())));
    }
    let names = query.into_iter().map(|(_, name)| match name.chars().count() {
        1..=MAX_TOOL_CHARACTERS => Ok(name),
        _ => Err(invalid("tool", format!("expected 1 to {MAX_TOOL_CHARACTERS} characters"))),
    });
    names.collect()
}
