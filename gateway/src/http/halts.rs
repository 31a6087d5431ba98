//! Handlers for halts: start, lift, list, watch, acknowledge.

use std::sync::Arc;

use actpass_protocol::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use http::StatusCode;
use tokio::time::Instant;

use super::App;
use super::approvals::read_wait;
use super::error::{ApiError, json};
use super::openapi::{requests, responses};
use super::receive::{Caller, JsonCall, parse};
use crate::auth::Capability;
use crate::clock::rfc3339;
use crate::halts::{Acknowledged, Acknowledgement, Halt, epoch_json};
use crate::object_writer::object;
use crate::request::{Acknowledge, InvalidMember, LiftHalt, StartHalt};
use crate::service::{Authorized, HaltWatch, Watched};
use crate::store::HaltListing;

/// Default and maximum number of halts, and of confirmations, per page.
const DEFAULT_PAGE_SIZE: u32 = 100;
const MAX_PAGE_SIZE: u32 = 1000;

type QueryPairs = Result<Query<Vec<(String, String)>>, QueryRejection>;

#[utoipa::path(
    post,
    path = "/api/v1/halts",
    operation_id = "start_halt",
    tag = "halts",
    request_body = requests::StartHalt,
    responses(
        (status = 201, description = "The halt. After this response, no gateway of the database allows its target", body = responses::Halt),
        (status = 200, description = "The active halt with which this key already stops the same", body = responses::Halt),
        (status = 403, description = "Agent keys may stop their bound agent only; `all` needs halt_all in the key's settings"),
        (status = 409, description = "The limit of active halts is reached"),
    ),
    security(("key" = []))
)]
pub(super) async fn start(State(app): State<Arc<App>>, call: JsonCall) -> Result<Response, ApiError> {
    let JsonCall { key, body, .. } = call;
    let request = parse(&body, StartHalt::read)?;
    let (halt, is_new) = app.service.start_halt(&key, request).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(halt_response(status, &halt))
}

#[utoipa::path(
    delete,
    path = "/api/v1/halts/{id}",
    operation_id = "lift_halt",
    tag = "halts",
    params(("id" = String, Path, description = "The halt's id")),
    request_body = requests::LiftHalt,
    responses(
        (status = 200, description = "The lifted halt", body = responses::Halt),
        (status = 403, description = "This key may not lift this halt"),
        (status = 404, description = "The halt does not exist"),
        (status = 409, description = "The halt is already lifted"),
    ),
    security(("key" = []))
)]
pub(super) async fn lift(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    call: JsonCall,
) -> Result<Response, ApiError> {
    let JsonCall { key, body, .. } = call;
    let operator = Authorized::of(&key, Capability::Halt)?;
    let Path(id) = id.map_err(|_| ApiError::InvalidPath)?;
    let LiftHalt { reason } = parse(&body, LiftHalt::read)?;
    let halt = app.service.lift_halt(operator, &id, reason).await?;
    Ok(halt_response(StatusCode::OK, &halt))
}

/// The halt with the epoch of its last change.
fn halt_response(status: StatusCode, halt: &Halt) -> Response {
    let mut members = halt.members();
    let epoch = halt.lifted.as_ref().map_or(halt.epoch, |lifted| lifted.epoch);
    members.push(("halt_epoch".to_owned(), epoch_json(epoch)));
    json(status, Json::Object(members).to_string())
}

#[utoipa::path(
    get,
    path = "/api/v1/halts",
    operation_id = "list_halts",
    tag = "halts",
    params(("status" = inline(Option<responses::HaltFilter>), Query, description = "Filter by status; default active"),
        ("after" = Option<u64>, Query, minimum = 0, description = "Continue after this halt: the `next` of the previous page"),
        ("confirmations_before" = Option<u64>, Query, minimum = 0, description = "Continue before this confirmation: the `confirmations_next` of the previous page"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Page size of both lists; default 100")),
    responses(
        (status = 200, description = "A page of halts, oldest first, and of confirmations, newest first", body = responses::Halts),
        (status = 403, description = "The role may not list halts; use a key with the role auditor or operator"),
    ),
    security(("key" = []))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Caller(key): Caller,
    query: QueryPairs,
) -> Result<Response, ApiError> {
    let reader = Authorized::of(&key, Capability::ReadHalts)?;
    let Query(query) = query.map_err(|_| ApiError::InvalidPath)?;
    let (listing, before) = read_listing(&query)?;
    let limit = listing.limit;
    let (epoch, halts, next) = app.service.list_halts(reader, listing).await?;
    let (confirmations, confirmations_next) = app.service.acknowledged_halts(reader, before, limit).await?;
    let response = object([
        ("halt_epoch", Some(epoch_json(epoch))),
        ("halts", Some(Json::Array(halts.iter().map(|halt| Json::Object(halt.members())).collect()))),
        ("next", next.map(|next| Json::String(next.to_string()))),
        ("confirmations", Some(Json::Array(confirmations.iter().map(confirmation).collect()))),
        ("confirmations_next", confirmations_next.map(|next| Json::String(next.to_string()))),
    ]);
    Ok(json(StatusCode::OK, response.to_string()))
}

fn confirmation(acknowledged: &Acknowledged) -> Json {
    let Acknowledged { acknowledgement, at, .. } = acknowledged;
    let Acknowledgement { key_name, agent_id, instance, epoch, in_flight, .. } = acknowledgement;
    let or_null = |text: &str| Some(if text.is_empty() { Json::Null } else { Json::from(text) });
    object([
        ("halt_epoch", Some(epoch_json(*epoch))),
        (
            "client",
            Some(object([
                ("key_name", Some(Json::from(&**key_name))),
                ("agent_id", or_null(agent_id)),
                ("instance", or_null(instance)),
            ])),
        ),
        ("in_flight", Some(epoch_json(*in_flight))),
        ("at", Some(Json::String(rfc3339(*at)))),
    ])
}

fn read_listing(query: &[(String, String)]) -> Result<(HaltListing, Option<i64>), InvalidMember> {
    let mut listing = HaltListing { limit: DEFAULT_PAGE_SIZE, ..HaltListing::default() };
    let mut before = None;
    for (name, value) in unique(query)? {
        let wrong = |problem: &str| InvalidMember { member: name.to_owned(), problem: problem.to_owned() };
        let number = non_negative(value);
        let expected = "expected the value of the previous page";
        match name {
            "status" => {
                listing.with_lifted = match value {
                    "active" => false,
                    "all" => true,
                    _ => return Err(wrong("expected active or all")),
                }
            }
            "after" => {
                listing.after = number.ok_or_else(|| wrong(expected))?.unsigned_abs();
            }
            "confirmations_before" => before = Some(number.ok_or_else(|| wrong(expected))?),
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=MAX_PAGE_SIZE).contains(limit));
                listing.limit =
                    limit.ok_or_else(|| wrong(&format!("expected an integer of 1 to {MAX_PAGE_SIZE}")))?;
            }
            _ => {
                return Err(wrong(
                    "unknown parameter; expected status, after, confirmations_before or limit",
                ));
            }
        }
    }
    Ok((listing, before))
}

/// The integer, if the stores can represent it.
fn non_negative(value: &str) -> Option<i64> {
    value.parse().ok().filter(|number| *number >= 0)
}

/// Rejects repeated parameters.
fn unique(query: &[(String, String)]) -> Result<Vec<(&str, &str)>, InvalidMember> {
    let mut given: Vec<(&str, &str)> = Vec::with_capacity(query.len());
    for (name, value) in query {
        if given.iter().any(|(known, _)| known == name) {
            let problem = "expected one value, found two".to_owned();
            return Err(InvalidMember { member: name.clone(), problem });
        }
        given.push((name, value));
    }
    Ok(given)
}

#[utoipa::path(
    get,
    path = "/api/v1/halts/watch",
    operation_id = "watch_halts",
    tag = "halts",
    params(("after" = Option<u64>, Query, minimum = 0, description = "The last epoch that the client has seen; default 0"),
        ("wait" = Option<u64>, Query, minimum = 0, maximum = 25, description = "Seconds to wait for a newer epoch; default 0"),
        ("agent_id" = Option<String>, Query, description = "The client's agent. A key that is bound to an agent asks for that agent"),
        ("tool" = Option<String>, Query, description = "The tool that the client uses"),
        ("user_id" = Option<String>, Query, description = "The user on whose behalf the client acts")),
    responses(
        (status = 200, description = "The epoch, and whether the client is stopped; sent as soon as the epoch is newer than `after`", body = responses::HaltState),
    ),
    security(("key" = []))
)]
pub(super) async fn watch(
    State(app): State<Arc<App>>,
    Caller(key): Caller,
    query: QueryPairs,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|_| ApiError::InvalidPath)?;
    Authorized::of(&key, Capability::Act)?;
    let until = Instant::now() + read_wait(&query)?;
    let watch = read_watch(&query)?;
    let Watched { epoch, halt } = app.service.watch_halts(&key, &watch, until).await?;
    let response = object([
        ("halt_epoch", Some(epoch_json(epoch))),
        ("halted", Some(Json::Bool(halt.is_some()))),
        ("halt", halt.map(|halt| Json::Object(halt.members()))),
    ]);
    Ok(json(StatusCode::OK, response.to_string()))
}

fn read_watch(query: &[(String, String)]) -> Result<HaltWatch, InvalidMember> {
    let mut watch = HaltWatch::default();
    for (name, value) in unique(query)? {
        let wrong = |problem: &str| InvalidMember { member: name.to_owned(), problem: problem.to_owned() };
        match name {
            "after" => {
                let epoch = non_negative(value).ok_or_else(|| wrong("expected an integer of at least 0"))?;
                watch.after = epoch.unsigned_abs();
            }
            "wait" => {}
            "agent_id" => watch.agent_id = Some(value.to_owned()),
            "tool" => watch.tool = Some(value.to_owned()),
            "user_id" => watch.user_id = Some(value.to_owned()),
            _ => {
                return Err(wrong("unknown parameter; expected after, wait, agent_id, tool or user_id"));
            }
        }
    }
    Ok(watch)
}

#[utoipa::path(
    post,
    path = "/api/v1/halts/ack",
    operation_id = "acknowledge_halts",
    tag = "halts",
    request_body = requests::Acknowledge,
    responses(
        (status = 200, description = "Recorded, or known already; with the current epoch", body = responses::AcknowledgedHalts),
    ),
    security(("key" = []))
)]
pub(super) async fn acknowledge(State(app): State<Arc<App>>, call: JsonCall) -> Result<Response, ApiError> {
    let JsonCall { key, body, .. } = call;
    Authorized::of(&key, Capability::Act)?;
    let request = parse(&body, Acknowledge::read)?;
    let epoch = app.service.acknowledge_halts(&key, request).await?;
    let response =
        object([("acknowledged", Some(Json::Bool(true))), ("halt_epoch", Some(epoch_json(epoch)))]);
    Ok(json(StatusCode::OK, response.to_string()))
}
