//! Handlers for issuing, verifying and revoking passports, and for the public keys.

use std::sync::Arc;

use actpass_protocol::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::App;
use super::error::{ApiError, json};
use super::openapi::requests;
use super::openapi::responses::{Issued, JwkSet, Revoked, Verified};
use super::receive::{JsonCall, OptionalCaller, parse};
use crate::auth::Capability;
use crate::clock::rfc3339;
use crate::halts::epoch_json;
use crate::object_writer::object;
use crate::request::{Issue, Revoke, VerifyPassport};
use crate::service::Authorized;

#[utoipa::path(
    post,
    path = "/api/v1/passports/issue",
    operation_id = "issue_passport",
    tag = "passports",
    request_body = requests::Issue,
    responses(
        (status = 200, description = "A new passport", body = Issued),
        (status = 403, description = "The key is not permitted to issue this passport"),
        (status = 409, description = "A halt stops the agent, the user or one of the tools"),
        (status = 501, description = "Passports and the vault are disabled: no master key is configured"),
    ),
    security(("key" = []))
)]
pub(super) async fn issue(State(app): State<Arc<App>>, call: JsonCall) -> Result<Response, ApiError> {
    let JsonCall { key, body: raw, workload, .. } = call;
    Authorized::of(&key, Capability::Act)?;
    let passports = app.service.passports()?;
    let request = app.service.run(raw.len(), move || parse(&raw, Issue::read)).await?;
    let issued = passports.issue(&key, workload.as_deref(), request).await?;
    let jwks_uri = format!("{}/.well-known/jwks.json", app.service.issuer);
    let response = object([
        ("token", Some(Json::String(issued.token))),
        ("jwks_uri", Some(Json::String(jwks_uri))),
        ("jti", Some(Json::String(issued.jti))),
        ("expires_at", Some(Json::String(rfc3339(issued.expires_at)))),
        ("halt_epoch", Some(epoch_json(issued.halt_epoch))),
    ]);
    Ok(json(StatusCode::OK, response.to_string()))
}

#[utoipa::path(
    post,
    path = "/api/v1/passports/verify",
    operation_id = "verify_passport",
    tag = "passports",
    request_body = requests::VerifyPassport,
    responses(
        (status = 200, description = "The result of the verification", body = Verified),
        (status = 501, description = "Passports and the vault are disabled: no master key is configured"),
    ),
    security(("key" = []))
)]
pub(super) async fn verify(State(app): State<Arc<App>>, call: JsonCall) -> Result<Response, ApiError> {
    let JsonCall { key, body: raw, .. } = call;
    Authorized::of(&key, Capability::Act)?;
    let passports = app.service.passports()?;
    let request = app.service.run(raw.len(), move || parse(&raw, VerifyPassport::read)).await?;
    let verified = passports.verify(&key, &request).await?;
    let errors = verified.errors.into_iter().map(Json::from).collect();
    let response = object([
        ("valid", Some(Json::Bool(verified.claims.is_some()))),
        ("errors", Some(Json::Array(errors))),
        ("claims", verified.claims),
        ("halt_epoch", Some(epoch_json(verified.halt_epoch))),
    ]);
    Ok(json(StatusCode::OK, response.to_string()))
}

#[utoipa::path(
    post,
    path = "/api/v1/passports/revoke",
    operation_id = "revoke_passport",
    tag = "passports",
    request_body = requests::Revoke,
    responses(
        (status = 200, description = "The result of the revocation", body = Revoked),
        (status = 403, description = "The passport was not issued by this key or to its agent"),
        (status = 501, description = "Passports and the vault are disabled: no master key is configured"),
    ),
    security(("key" = []))
)]
pub(super) async fn revoke(State(app): State<Arc<App>>, call: JsonCall) -> Result<Response, ApiError> {
    let JsonCall { key, body: raw, .. } = call;
    Authorized::of(&key, Capability::Act)?;
    let passports = app.service.passports()?;
    let request = app.service.run(raw.len(), move || parse(&raw, Revoke::read)).await?;
    let revoked = passports.revoke(&key, &request).await?;
    Ok(json(StatusCode::OK, object([("revoked", Some(Json::Bool(revoked)))]).to_string()))
}

#[utoipa::path(
    get,
    path = "/.well-known/jwks.json",
    operation_id = "jwks",
    tag = "passports",
    responses(
        (status = 200, description = "The public keys, and the tenant if the request has a valid API key", body = JwkSet),
        (status = 501, description = "Passports and the vault are disabled: no master key is configured"),
    ),
)]
pub(super) async fn jwks(
    State(app): State<Arc<App>>,
    OptionalCaller(caller): OptionalCaller,
) -> Result<Response, ApiError> {
    let response = object([
        ("keys", Some(app.service.passports()?.jwks().await?)),
        ("issuer", Some(Json::from(&*app.service.issuer))),
        ("tenant_id", caller.map(|key| Json::from(&*key.tenant.id))),
    ]);
    Ok(json(StatusCode::OK, response.to_string()))
}
