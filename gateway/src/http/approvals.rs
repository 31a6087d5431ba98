//! Handlers for reading, awaiting, listing and deciding approvals.

use std::sync::Arc;
use std::time::Duration;

use actpass_protocol::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use http::StatusCode;
use tokio::time::Instant;

use super::App;
use super::error::{ApiError, json};
use super::openapi::{requests, responses};
use super::paging::{NOT_NEXT, read_query};
use super::receive::{Caller, JsonCall, parse};
use crate::approvals::{self, Approval, Status};
use crate::auth::Capability;
use crate::clock::rfc3339;
use crate::halts::epoch_json;
use crate::object_writer::object;
use crate::quorum::Vote;
use crate::request::{DecisionNote, InvalidMember};
use crate::service::{Authorized, ServiceError};
use crate::store::Listing;

/// Maximum long-polling time, in seconds.
const MAX_WAIT: u64 = 25;

type ListQuery = Result<Query<Vec<(String, String)>>, QueryRejection>;

#[utoipa::path(
    get,
    path = "/api/v1/approvals/{id}",
    operation_id = "read_approval",
    tag = "approvals",
    params(("id" = String, Path, description = "The approval's id"),
        ("wait" = Option<u64>, Query, minimum = 0, maximum = 25, description = "Seconds to wait for a decision; default 0. The response is sent on the decision, when the halt epoch rises, or when the time has passed")),
    responses(
        (status = 200, description = "The approval's status", body = responses::Approval),
        (status = 404, description = "The approval does not exist"),
    ),
    security(("key" = []))
)]
pub(super) async fn read(
    State(app): State<Arc<App>>,
    Caller(key): Caller,
    id: Result<Path<String>, PathRejection>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::InvalidPath)?;
    let Query(query) = query.map_err(|_| ApiError::InvalidPath)?;
    let until = Instant::now() + read_wait(&query)?;
    let (approval, halt_epoch) = app.service.wait_for_approval(&key, &id, until).await?;
    Ok(approval_response(&app, &approval, halt_epoch))
}

#[utoipa::path(
    get,
    path = "/api/v1/approvals",
    operation_id = "list_approvals",
    tag = "approvals",
    params(("status" = inline(Option<responses::StatusFilter>), Query, description = "Filter by status; default pending"),
        ("agent" = Option<String>, Query, description = "Filter by agent"),
        ("tool" = Option<String>, Query, description = "Filter by tool"),
        ("after" = Option<String>, Query, pattern = "^apr_[0-9a-f]{32}$", description = "Continue after this approval: the `next` of the previous page"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Page size; default 100")),
    responses(
        (status = 200, description = "A page of approvals ordered by deadline, nearest first", body = responses::Approvals),
        (status = 403, description = "The role is not permitted, the groups have no seat, or the person requested the action"),
        (status = 404, description = "The approval `after` does not exist"),
    ),
    security(("key" = []))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Caller(key): Caller,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let reader = Authorized::of(&key, Capability::ListApprovals)?;
    let Query(query) = query.map_err(|_| ApiError::InvalidPath)?;
    let listing = read_listing(&query, app.service.clock.seconds())?;
    if let Some(after) = &listing.after {
        app.service.approval(&key, after).await?;
    }
    let now = listing.now;
    let halt_epoch = epoch_json(app.service.store.known_halts().latest().epoch);
    let (found, next) = app.service.list_approvals(reader, listing).await?;
    let bytes = found.iter().map(|approval| approval.args.len()).sum();
    let approval_response = move || {
        let found = found.iter().map(|approval| describe(approval, now)).collect::<Result<_, _>>()?;
        Ok::<_, ApiError>(
            object([
                ("approvals", Some(Json::Array(found))),
                ("next", next.map(Json::String)),
                ("halt_epoch", Some(halt_epoch)),
            ])
            .to_string(),
        )
    };
    Ok(json(StatusCode::OK, app.service.run(bytes, approval_response).await?))
}

fn read_listing(query: &[(String, String)], now: i64) -> Result<Listing, InvalidMember> {
    let mut listing = Listing { now, status: Some(Status::Pending), ..Listing::default() };
    let limit = read_query(query, &["status", "agent", "tool", "after"], |name, value| {
        match name {
            "status" if value == "all" => listing.status = None,
            "status" => {
                let status =
                    Status::parse(value).ok_or("expected pending, approved, rejected, expired or all")?;
                listing.status = Some(status);
            }
            "agent" => listing.agent = Some(value.to_owned()),
            "tool" => listing.tool = Some(value.to_owned()),
            _ if approvals::is_id(value) => listing.after = Some(value.to_owned()),
            _ => return Err(NOT_NEXT.to_owned()),
        }
        Ok(())
    })?;
    Ok(Listing { limit, ..listing })
}

#[utoipa::path(
    post,
    path = "/api/v1/approvals/{id}/approve",
    operation_id = "approve",
    tag = "approvals",
    params(("id" = String, Path, description = "The approval's id")),
    request_body = requests::DecisionNote,
    responses(
        (status = 200, description = "The approval: approved, or pending if others must approve too", body = responses::Approval),
        (status = 403, description = "The role is not permitted, the groups have no seat, or the person requested the action"),
        (status = 404, description = "The approval does not exist"),
        (status = 409, description = "The approval is already decided, has expired, the person has already approved, its record was changed, or a halt stops its action"),
    ),
    security(("key" = []))
)]
pub(super) async fn approve(
    state: State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    call: JsonCall,
) -> Result<Response, ApiError> {
    decide(state, id, call, true).await
}

#[utoipa::path(
    post,
    path = "/api/v1/approvals/{id}/reject",
    operation_id = "reject",
    tag = "approvals",
    params(("id" = String, Path, description = "The approval's id")),
    request_body = requests::DecisionNote,
    responses(
        (status = 200, description = "The approval, rejected", body = responses::Approval),
        (status = 403, description = "The role is not permitted, the groups have no seat, or the person requested the action"),
        (status = 404, description = "The approval does not exist"),
        (status = 409, description = "The approval is already decided, has expired, the person has already approved, or its record was changed"),
    ),
    security(("key" = []))
)]
pub(super) async fn reject(
    state: State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    call: JsonCall,
) -> Result<Response, ApiError> {
    decide(state, id, call, false).await
}

async fn decide(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    JsonCall { key, body: raw, .. }: JsonCall,
    approved: bool,
) -> Result<Response, ApiError> {
    let decider = Authorized::of(&key, Capability::DecideApprovals)?;
    let Path(id) = id.map_err(|_| ApiError::InvalidPath)?;
    let note = app.service.run(raw.len(), move || parse(&raw, DecisionNote::read)).await?;
    let approval = app.service.find_approval(&key, &id).await?.ok_or(ServiceError::NotFound("approval"))?;
    let halt_epoch = app.service.store.known_halts().latest().epoch;
    let approval = app.service.decide_approval(decider, &approval, approved, note).await?;
    Ok(approval_response(&app, &approval, halt_epoch))
}

pub(super) fn read_wait(query: &[(String, String)]) -> Result<Duration, InvalidMember> {
    let mut given = query.iter().filter(|(name, _)| name == "wait").map(|(_, value)| value);
    let (first, second) = (given.next(), given.next());
    let seconds = first.map_or(Some(0), |value| value.parse().ok()).filter(|seconds| *seconds <= MAX_WAIT);
    seconds.filter(|_| second.is_none()).map(Duration::from_secs).ok_or_else(|| InvalidMember {
        member: "wait".to_owned(),
        problem: format!("expected one integer of 0 to {MAX_WAIT}"),
    })
}

fn approval_response(app: &App, approval: &Approval, halt_epoch: u64) -> Response {
    let decided = approval.decided.as_ref();
    let approval_response = [
        ("id", Some(Json::from(&*approval.id))),
        ("status", Some(Json::from(approval.status(app.service.clock.seconds()).as_str()))),
        ("action_hash", Some(Json::from(&*approval.action_hash))),
        ("decided_by", Some(decided.map_or(Json::Null, |decided| Json::from(&*decided.by)))),
        ("decided_at", Some(decided.map_or(Json::Null, |decided| Json::String(rfc3339(decided.at))))),
        ("deadline", Some(Json::String(rfc3339(approval.deadline)))),
        ("halt_epoch", Some(epoch_json(halt_epoch))),
    ];
    let members = approval_response.into_iter().chain(vote_members(approval, app.service.clock.seconds()));
    let members = members.filter_map(|(name, value)| Some((name.to_owned(), value?)));
    json(StatusCode::OK, Json::Object(members.collect()).to_string())
}

/// Describes who must approve, who did, and which seats are empty.
fn vote_members(approval: &Approval, now: i64) -> [(&'static str, Option<Json>); 3] {
    let opening = approval.opening.as_ref();
    let needs = opening.map_or(Json::Null, |opening| opening.requirement.to_json());
    let seats = approval.still_needed(now);
    let needed = opening.map(|opening| opening.requirement.seats_json(&seats));
    [
        ("needs", Some(needs)),
        ("votes", Some(Json::Array(approval.votes.iter().map(Vote::to_json).collect()))),
        ("still_needed", Some(needed.unwrap_or(Json::Array(Vec::new())))),
    ]
}

/// Describes an approval with everything that a person needs to decide.
fn describe(approval: &Approval, now: i64) -> Result<Json, ApiError> {
    let [needs, votes, still_needed] = vote_members(approval, now);
    let or_null = |text: &Option<String>| Some(text.as_deref().map_or(Json::Null, Json::from));
    Ok(object([
        ("id", Some(Json::from(&*approval.id))),
        ("status", Some(Json::from(approval.status(now).as_str()))),
        ("action_hash", Some(Json::from(&*approval.action_hash))),
        ("tool", Some(Json::from(&*approval.tool))),
        ("resource", or_null(&approval.resource)),
        ("args", Some(Json::parse(approval.args.as_bytes()).map_err(|_| ServiceError::Internal)?)),
        ("goal", Some(Json::from(&*approval.goal))),
        ("agent_id", or_null(&approval.agent_id)),
        ("user_id", or_null(&approval.user_id)),
        ("reason_code", Some(Json::from(&*approval.reason_code))),
        ("created_at", Some(Json::String(rfc3339(approval.created_at)))),
        ("deadline", Some(Json::String(rfc3339(approval.deadline)))),
        needs,
        votes,
        still_needed,
    ]))
}
