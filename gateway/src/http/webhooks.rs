//! Handlers for the states of webhooks and the messages that were set aside.

use std::sync::Arc;

use actpass_protocol::Json;
use actpass_protocol::json::Number;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use http::StatusCode;

use super::App;
use super::error::{ApiError, json};
use super::openapi::responses;
use super::paging::read_page;
use super::receive::Caller;
use crate::auth::Capability;
use crate::clock::rfc3339;
use crate::object_writer::object;
use crate::service::Authorized;
use crate::store::DeadLetter;

#[utoipa::path(
    get,
    path = "/api/v1/webhooks",
    operation_id = "list_webhooks",
    tag = "webhooks",
    responses(
        (status = 200, description = "The webhooks that receive announcements of the tenant", body = responses::Webhooks),
        (status = 403, description = "The role is not permitted; use an auditor or operator key"),
    ),
    security(("key" = []))
)]
pub(super) async fn list(State(app): State<Arc<App>>, Caller(key): Caller) -> Result<Response, ApiError> {
    let states = app.service.webhook_states(Authorized::of(&key, Capability::ReadWebhooks)?).await?;
    let webhooks = states.iter().map(|(webhook, state)| {
        let state = state.as_ref();
        let retry_at = state.filter(|state| state.attempts > 0).map(|state| state.retry_at);
        object([
            ("name", Some(Json::from(&*webhook.name))),
            ("form", Some(Json::from(webhook.form.as_str()))),
            (
                "events",
                Some(Json::Array(
                    webhook.announcements.iter().map(|event| Json::from(event.as_str())).collect(),
                )),
            ),
            ("attempts", Some(number(state.map_or(0, |state| i64::from(state.attempts))))),
            (
                "problem",
                Some(state.and_then(|state| state.problem.as_deref()).map_or(Json::Null, Json::from)),
            ),
            ("retry_at", Some(retry_at.map_or(Json::Null, time))),
            (
                "dead_letters",
                Some(number(state.map_or(0, |state| i64::try_from(state.dead).unwrap_or(i64::MAX)))),
            ),
        ])
    });
    Ok(json(StatusCode::OK, object([("webhooks", Some(Json::Array(webhooks.collect())))]).to_string()))
}

#[utoipa::path(
    get,
    path = "/api/v1/webhooks/dead_letters",
    operation_id = "list_dead_letters",
    tag = "webhooks",
    params(("after" = Option<String>, Query, pattern = "^[0-9]{1,18}$", description = "Continue after this message: the `next` of the previous page"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Page size; default 100")),
    responses(
        (status = 200, description = "A page of the messages that were not delivered", body = responses::DeadLetters),
        (status = 403, description = "The role is not permitted; use an auditor or operator key"),
    ),
    security(("key" = []))
)]
pub(super) async fn dead_letters(
    State(app): State<Arc<App>>,
    Caller(key): Caller,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiError> {
    let auditor = Authorized::of(&key, Capability::ReadWebhooks)?;
    let Query(query) = query.map_err(|_| ApiError::InvalidPath)?;
    let (after, limit) = read_page(&query)?;
    let (found, next) = app.service.dead_letters(auditor, after, limit).await?;
    let found = found.iter().map(describe).collect();
    let next = next.map(|next| Json::String(next.to_string()));
    Ok(json(StatusCode::OK, object([("dead_letters", Some(Json::Array(found))), ("next", next)]).to_string()))
}

#[utoipa::path(
    post,
    path = "/api/v1/webhooks/dead_letters/{id}/redeliver",
    operation_id = "redeliver",
    tag = "webhooks",
    params(("id" = i64, Path, description = "The message's `id`")),
    responses(
        (status = 202, description = "The message will be sent again, once", body = responses::Queued),
        (status = 403, description = "The role is not permitted; use an auditor or operator key"),
        (status = 404, description = "The message does not exist"),
    ),
    security(("key" = []))
)]
pub(super) async fn redeliver(
    State(app): State<Arc<App>>,
    Caller(key): Caller,
    id: Result<Path<i64>, PathRejection>,
) -> Result<Response, ApiError> {
    let operator = Authorized::of(&key, Capability::Redeliver)?;
    let Path(id) = id.map_err(|_| ApiError::InvalidPath)?;
    app.service.redeliver(operator, id).await?;
    Ok(json(StatusCode::ACCEPTED, object([("queued", Some(Json::Bool(true)))]).to_string()))
}

fn describe(dead: &DeadLetter) -> Json {
    object([
        ("id", Some(number(dead.id))),
        ("webhook", Some(Json::from(&*dead.cursor.webhook))),
        ("type", Some(Json::from(&*dead.announcement))),
        ("message_id", Some(Json::from(&*dead.message_id))),
        ("problem", Some(Json::from(&*dead.problem))),
        ("failed_at", Some(time(dead.failed_at))),
        ("queued", Some(Json::Bool(dead.is_queued))),
    ])
}

fn number(number: i64) -> Json {
    Json::Number(Number::from(number))
}

/// `millis` is in milliseconds since 1970.
fn time(millis: i64) -> Json {
    Json::String(rfc3339(millis.div_euclid(1000)))
}
