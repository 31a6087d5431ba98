//! Approvals: looked at, waited for, decided.

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
use super::openapi::{answers, requests};
use super::receive::{Call, Caller};
use super::steps::{in_time, parse, work};
use crate::approvals::{self, Approval, Decided, Status};
use crate::auth::{Key, Role};
use crate::clock::rfc3339;
use crate::events;
use crate::members::object;
use crate::request::{InvalidMember, Opinion};
use crate::store::{Change, Listing, Transition, TransitionOutcome};

/// How long a request may wait for a decision, in seconds.
const MAX_WAIT: u64 = 25;

/// How many approvals are listed, and how many at most.
pub(super) const LISTED: u32 = 100;
const MAX_LISTED: u32 = 1000;

type Asked = Result<Query<Vec<(String, String)>>, QueryRejection>;

#[utoipa::path(
    get,
    path = "/api/v1/approvals/{id}",
    operation_id = "read_approval",
    tag = "approvals",
    params(("id" = String, Path, description = "The approval's id"),
        ("wait" = Option<u64>, Query, minimum = 0, maximum = 25, description = "For how many seconds to wait for a decision, 0 if left out: the answer comes as soon as there is one, or when the time is over")),
    responses(
        (status = 200, description = "Where the approval stands", body = answers::Approval),
        (status = 404, description = "There is no such approval"),
    ),
    security(("key" = []))
)]
pub(super) async fn read(
    State(app): State<Arc<App>>,
    Caller(key): Caller,
    id: Result<Path<String>, PathRejection>,
    query: Asked,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::InvalidPath)?;
    let Query(query) = query.map_err(|_| ApiError::InvalidPath)?;
    let until = Instant::now() + read_wait(&query)?;
    let mut listener = app.notices.listen();
    loop {
        let approval = find(&app, &key, &id).await?;
        if key.confined_to().is_some_and(|agent| approval.agent_id.as_deref() != Some(agent)) {
            return Err(ApiError::NotFound("approval"));
        }
        let waits = approval.status(app.clock.seconds()) == Status::Pending && Instant::now() < until;
        // Nothing of the store is held while it waits.
        if !waits || tokio::time::timeout_at(until, listener.news(&id)).await == Ok(false) {
            return Ok(answer(&app, &approval));
        }
    }
}

#[utoipa::path(
    get,
    path = "/api/v1/approvals",
    operation_id = "list_approvals",
    tag = "approvals",
    params(("status" = inline(Option<answers::Listed>), Query, description = "Which ones; pending ones if left out"),
        ("agent" = Option<String>, Query, description = "Only those of this agent"),
        ("tool" = Option<String>, Query, description = "Only those of this tool"),
        ("after" = Option<String>, Query, pattern = "^apr_[0-9a-f]{32}$", description = "Only those after this approval: the `next` of the page before"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "How many at most, 100 if left out")),
    responses(
        (status = 200, description = "A page of approvals, the nearest deadline first", body = answers::Approvals),
        (status = 403, description = "An agent's key may not do this; expected an operator's"),
        (status = 404, description = "There is no approval `after`"),
    ),
    security(("key" = []))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Caller(key): Caller,
    query: Asked,
) -> Result<Response, ApiError> {
    operators_only(&key)?;
    let Query(query) = query.map_err(|_| ApiError::InvalidPath)?;
    let listing = read_listing(&query, app.clock.seconds())?;
    if let Some(after) = &listing.after
        && in_time(&app, app.store.approval(&key.tenant.id, after)).await?.is_none()
    {
        return Err(ApiError::NotFound("approval"));
    }
    let now = listing.now;
    let (found, next) = page_of(&app, &key, listing).await?;
    let bytes = found.iter().map(|approval| approval.args.len()).sum();
    let answer = move || {
        let found = found.iter().map(|approval| describe(approval, now)).collect::<Result<_, _>>()?;
        Ok(object([("approvals", Some(Json::Array(found))), ("next", next.map(Json::String))]).to_string())
    };
    Ok(json(StatusCode::OK, work(&app, bytes, answer).await?))
}

/// A page of a tenant's approvals, and where the next one begins, if there is one.
pub(super) async fn page_of(
    app: &App,
    key: &Key,
    mut listing: Listing,
) -> Result<(Vec<Approval>, Option<String>), ApiError> {
    let wanted = usize::try_from(listing.limit).unwrap_or(usize::MAX);
    // One more shows whether there is another page.
    listing.limit = listing.limit.saturating_add(1);
    let mut found = in_time(app, app.store.approvals(&key.tenant.id, listing)).await?;
    let is_last = found.len() <= wanted;
    found.truncate(wanted);
    let next = found.last().filter(|_| !is_last).map(|approval| approval.id.clone());
    Ok((found, next))
}

fn read_listing(query: &[(String, String)], now: i64) -> Result<Listing, InvalidMember> {
    let mut listing = Listing { now, status: Some(Status::Pending), limit: LISTED, ..Listing::default() };
    let mut given = Vec::new();
    for (name, value) in query {
        let wrong = |problem: String| InvalidMember { member: name.clone(), problem };
        if given.contains(&name) {
            return Err(wrong("expected one, found two".to_owned()));
        }
        given.push(name);
        match name.as_str() {
            "status" if value == "all" => listing.status = None,
            "status" => match Status::parse(value) {
                Some(status) => listing.status = Some(status),
                None => {
                    let problem = "expected pending, approved, rejected, expired or all, found another word";
                    return Err(wrong(problem.to_owned()));
                }
            },
            "agent" => listing.agent = Some(value.clone()),
            "tool" => listing.tool = Some(value.clone()),
            "after" if approvals::is_id(value) => listing.after = Some(value.clone()),
            "after" => {
                let problem = "expected the id of an approval, as `next` of the page before has it";
                return Err(wrong(problem.to_owned()));
            }
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=MAX_LISTED).contains(limit));
                listing.limit =
                    limit.ok_or_else(|| wrong(format!("expected an integer of 1 to {MAX_LISTED}")))?;
            }
            _ => {
                return Err(wrong(
                    "unknown parameter; known are status, agent, tool, after, limit".to_owned(),
                ));
            }
        }
    }
    Ok(listing)
}

#[utoipa::path(
    post,
    path = "/api/v1/approvals/{id}/approve",
    operation_id = "approve",
    tag = "approvals",
    params(("id" = String, Path, description = "The approval's id")),
    request_body = requests::Opinion,
    responses(
        (status = 200, description = "The approval, approved", body = answers::Approval),
        (status = 403, description = "An agent's key may not do this; expected an operator's"),
        (status = 404, description = "There is no such approval"),
        (status = 409, description = "The approval is decided already, past its deadline, or was changed in the data"),
    ),
    security(("key" = []))
)]
pub(super) async fn approve(
    state: State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    call: Call,
) -> Result<Response, ApiError> {
    decide(state, id, call, true).await
}

#[utoipa::path(
    post,
    path = "/api/v1/approvals/{id}/reject",
    operation_id = "reject",
    tag = "approvals",
    params(("id" = String, Path, description = "The approval's id")),
    request_body = requests::Opinion,
    responses(
        (status = 200, description = "The approval, rejected", body = answers::Approval),
        (status = 403, description = "An agent's key may not do this; expected an operator's"),
        (status = 404, description = "There is no such approval"),
        (status = 409, description = "The approval is decided already, past its deadline, or was changed in the data"),
    ),
    security(("key" = []))
)]
pub(super) async fn reject(
    state: State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    call: Call,
) -> Result<Response, ApiError> {
    decide(state, id, call, false).await
}

async fn decide(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    Call { key, body: raw }: Call,
    approved: bool,
) -> Result<Response, ApiError> {
    operators_only(&key)?;
    let Path(id) = id.map_err(|_| ApiError::InvalidPath)?;
    let body = work(&app, raw.len(), move || parse(&raw)).await?;
    let note = Opinion::read(&body)?.note.map(|note| note.as_str().to_owned());
    let approval = find(&app, &key, &id).await?;
    Ok(answer(&app, &settle(&app, &key, &approval, approved, note).await?))
}

/// Decides about an approval, for whoever holds the key, and records it: the approval as it is then.
pub(super) async fn settle(
    app: &App,
    key: &Key,
    approval: &Approval,
    approved: bool,
    note: Option<String>,
) -> Result<Approval, ApiError> {
    operators_only(key)?;
    let id = &approval.id;
    // What is decided about is what was shown: the record itself, and not what it says of itself.
    if approval.shown_hash().as_ref() != Some(&approval.action_hash) {
        tracing::error!(id, "an approval does not match its action hash: it was changed in the data");
        return Err(ApiError::ApprovalAltered);
    }
    let decided = Decided { approved, by: key.name.to_string(), at: app.clock.seconds(), note };
    let event = events::approval_decided(key, approval, &decided);
    let change = Change::DecideApproval { id: id.clone(), decided };
    match in_time(app, app.store.change(Transition { event, change })).await? {
        TransitionOutcome::Recorded => app.notices.decided(id),
        TransitionOutcome::Stale => {
            let now = find(app, key, id).await?;
            return Err(ApiError::Decided(now.status(app.clock.seconds()).as_str()));
        }
    }
    find(app, key, id).await
}

fn operators_only(key: &Key) -> Result<(), ApiError> {
    match key.role {
        Role::Agent => Err(ApiError::Forbidden),
        Role::Operator => Ok(()),
    }
}

pub(super) async fn find(app: &App, key: &Key, id: &str) -> Result<Approval, ApiError> {
    in_time(app, app.store.approval(&key.tenant.id, id)).await?.ok_or(ApiError::NotFound("approval"))
}

fn read_wait(query: &[(String, String)]) -> Result<Duration, InvalidMember> {
    let mut given = query.iter().filter(|(name, _)| name == "wait").map(|(_, value)| value);
    let (first, second) = (given.next(), given.next());
    let seconds = first.map_or(Some(0), |value| value.parse().ok()).filter(|seconds| *seconds <= MAX_WAIT);
    seconds.filter(|_| second.is_none()).map(Duration::from_secs).ok_or_else(|| InvalidMember {
        member: "wait".to_owned(),
        problem: format!("expected one integer of 0 to {MAX_WAIT}"),
    })
}

fn answer(app: &App, approval: &Approval) -> Response {
    let decided = approval.decided.as_ref();
    let answer = object([
        ("id", Some(Json::from(&*approval.id))),
        ("status", Some(Json::from(approval.status(app.clock.seconds()).as_str()))),
        ("action_hash", Some(Json::from(&*approval.action_hash))),
        ("decided_by", Some(decided.map_or(Json::Null, |decided| Json::from(&*decided.by)))),
        ("decided_at", Some(decided.map_or(Json::Null, |decided| Json::String(rfc3339(decided.at))))),
        ("deadline", Some(Json::String(rfc3339(approval.deadline)))),
    ]);
    json(StatusCode::OK, answer.to_string())
}

/// What a person must see to decide.
fn describe(approval: &Approval, now: i64) -> Result<Json, ApiError> {
    let or_null = |text: &Option<String>| Some(text.as_deref().map_or(Json::Null, Json::from));
    Ok(object([
        ("id", Some(Json::from(&*approval.id))),
        ("status", Some(Json::from(approval.status(now).as_str()))),
        ("action_hash", Some(Json::from(&*approval.action_hash))),
        ("tool", Some(Json::from(&*approval.tool))),
        ("resource", or_null(&approval.resource)),
        ("args", Some(Json::parse(approval.args.as_bytes()).map_err(|_| ApiError::Internal)?)),
        ("goal", Some(Json::from(&*approval.goal))),
        ("agent_id", or_null(&approval.agent_id)),
        ("user_id", or_null(&approval.user_id)),
        ("reason_code", Some(Json::from(&*approval.reason_code))),
        ("created_at", Some(Json::String(rfc3339(approval.created_at)))),
        ("deadline", Some(Json::String(rfc3339(approval.deadline)))),
    ]))
}
