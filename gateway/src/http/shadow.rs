//! Handler for the disagreements of a shadow policy.

use std::sync::Arc;

use actpass_protocol::Json;
use actpass_protocol::json::Number;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use http::StatusCode;

use super::App;
use super::error::{ApiError, json};
use super::openapi::responses;
use super::paging::read_page;
use super::receive::Caller;
use crate::auth::Capability;
use crate::object_writer::object;
use crate::policy::Policy;
use crate::service::Authorized;

#[utoipa::path(
    get,
    path = "/api/v1/shadow",
    operation_id = "list_shadow_disagreements",
    tag = "gateway",
    params(("after" = Option<String>, Query, pattern = "^[0-9]{1,18}$", description = "Continue after this disagreement: the `next` of the previous page"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Page size; default 100")),
    responses(
        (status = 200, description = "The counts of the shadow policy, and a page of its disagreements, newest first", body = responses::Shadow),
        (status = 403, description = "The role is not permitted; use an auditor or operator key"),
    ),
    security(("key" = []))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Caller(key): Caller,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiError> {
    let reader = Authorized::of(&key, Capability::ReadPolicies)?;
    let Query(query) = query.map_err(|_| ApiError::InvalidPath)?;
    let (after, limit) = read_page(&query)?;
    let before = if after == 0 { i64::MAX } else { after };
    let (found, next) = app.service.shadow_disagreements(reader, before, limit).await?;
    let tenant = &key.tenant;
    let counts = tenant.shadow.as_ref().map(|shadow| app.service.shadows.counts(&tenant.id, &shadow.policy));
    let counts = counts.unwrap_or_default();
    let number = |count: u64| Some(Json::Number(Number::from(i64::try_from(count).unwrap_or(i64::MAX))));
    let disagreements = found.iter().filter_map(|kept| Json::parse(&kept.body).ok()).collect();
    let response = object([
        ("policy", tenant.shadow.as_ref().map(|shadow| policy_json(&shadow.policy))),
        ("agreed", number(counts.agreed)),
        ("disagreed", number(counts.disagreed)),
        ("undetermined", number(counts.undetermined)),
        ("skipped", number(counts.skipped)),
        ("disagreements", Some(Json::Array(disagreements))),
        ("next", next.map(|next| Json::String(next.to_string()))),
    ]);
    Ok(json(StatusCode::OK, response.to_string()))
}

fn policy_json(policy: &Policy) -> Json {
    object([
        ("id", Some(Json::from(policy.id()))),
        ("version", Some(policy.version().clone())),
        ("hash", Some(Json::from(policy.hash()))),
    ])
}
