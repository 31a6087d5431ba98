//! Handlers for creating, listing and revoking delegations.

use std::sync::Arc;

use actpass_protocol::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;

use super::App;
use super::error::{ApiError, json};
use super::openapi::{requests, responses};
use super::receive::{Caller, JsonCall, parse};
use crate::auth::Capability;
use crate::delegation::Delegation;
use crate::object_writer::object;
use crate::request::DelegationRequest;
use crate::service::Authorized;

#[utoipa::path(
    post,
    path = "/api/v1/delegations",
    operation_id = "delegate",
    tag = "approvals",
    request_body = requests::DelegationRequest,
    responses(
        (status = 200, description = "The delegation", body = responses::Delegation),
        (status = 403, description = "The role is not permitted, or the person is another one"),
    ),
    security(("key" = []))
)]
pub(super) async fn create(State(app): State<Arc<App>>, call: JsonCall) -> Result<Response, ApiError> {
    let JsonCall { key, body: raw, .. } = call;
    let person = Authorized::of(&key, Capability::Delegate)?;
    let request = app.service.run(raw.len(), move || parse(&raw, DelegationRequest::read)).await?;
    let created = app.service.delegate(person, &request).await?;
    Ok(json(StatusCode::OK, created.to_json().to_string()))
}

#[utoipa::path(
    get,
    path = "/api/v1/delegations",
    operation_id = "list_delegations",
    tag = "approvals",
    responses(
        (status = 200, description = "The delegations that are in force or will be; for approvers those from or to them", body = responses::Delegations),
        (status = 403, description = "The role is not permitted"),
    ),
    security(("key" = []))
)]
pub(super) async fn list(State(app): State<Arc<App>>, Caller(key): Caller) -> Result<Response, ApiError> {
    let reader = Authorized::of(&key, Capability::ListApprovals)?;
    let found = app.service.list_delegations(reader).await?;
    let found = Json::Array(found.iter().map(Delegation::to_json).collect());
    Ok(json(StatusCode::OK, object([("delegations", Some(found))]).to_string()))
}

#[utoipa::path(
    delete,
    path = "/api/v1/delegations/{id}",
    operation_id = "revoke_delegation",
    tag = "approvals",
    params(("id" = String, Path, description = "The delegation's id")),
    responses(
        (status = 200, description = "The delegation, revoked", body = responses::Delegation),
        (status = 403, description = "The role is not permitted"),
        (status = 404, description = "The delegation does not exist, or is between other people"),
    ),
    security(("key" = []))
)]
pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    Caller(key): Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let person = Authorized::of(&key, Capability::Delegate)?;
    let Path(id) = id.map_err(|_| ApiError::InvalidPath)?;
    let revoked = app.service.revoke_delegation(person, &id).await?;
    Ok(json(StatusCode::OK, revoked.to_json().to_string()))
}
