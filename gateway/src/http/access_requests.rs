//! The access-request profile of the `AuthZEN` Authorization API, draft 1, on the gateway's
//! approvals. A task is the approval that the denied evaluation opened or joined.

use std::sync::Arc;

use actpass_protocol::json::Number;
use actpass_protocol::{Json, canonical_json};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

use super::App;
use super::error::{ApiError, json};
use super::openapi::authzen as schemas;
use super::receive::{Caller, JsonCall, parse};
use crate::approvals::{Approval, Status, reason};
use crate::auth::{ApiKey, Capability, Role};
use crate::clock::rfc3339;
use crate::object_writer::object;
use crate::request::authzen::{AccessRequest, read_idempotency_key};
use crate::request::{InvalidMember, Text};
use crate::service::{Authorized, Earlier, ServiceError, Submission};

pub(super) const PATH: &str = "/access/v1/requests";
pub(super) const CAPABILITY: &str = "urn:openid:authzen:capability:access-request";

/// Seconds until the next poll of a pending approval.
const RETRY_SECONDS: i64 = 5;

/// An error of the profile.
#[derive(Clone, Copy, Debug)]
enum Problem {
    DuplicateRequest,
    ExpiredDenial,
    InvalidDenialBinding,
    UnknownTask,
}

impl Problem {
    fn respond(self) -> Response {
        let (status, kind, title) = match self {
            Self::DuplicateRequest => (
                StatusCode::CONFLICT,
                "duplicate_request",
                "the Idempotency-Key was used for a different request",
            ),
            Self::ExpiredDenial => (StatusCode::GONE, "expired_denial", "the denial has expired"),
            Self::InvalidDenialBinding => (
                StatusCode::BAD_REQUEST,
                "invalid_denial_binding",
                "the request does not belong to the denied evaluation",
            ),
            Self::UnknownTask => (StatusCode::NOT_FOUND, "unknown_task", "the task is unknown"),
        };
        let kind = format!("urn:openid:authzen:access-request:error:{kind}");
        let problem = object([
            ("type", Some(Json::String(kind))),
            ("title", Some(Json::from(title))),
            ("status", Some(Json::Number(Number::from(i64::from(status.as_u16()))))),
        ]);
        let mut response = json(status, problem.to_string());
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

/// Adds the members of the profile to the context of a denied evaluation.
pub(super) async fn describe(app: &App, key: &ApiKey, presents: bool, context: &mut Vec<(String, Json)>) {
    let text = |context: &[(String, Json)], name: &str| {
        let found = context.iter().find(|(found, _)| found == name);
        found.and_then(|(_, value)| value.as_str()).map(str::to_owned)
    };
    let pending = text(context, "approval_request_id");
    let mut next_action = "none";
    // Without the approval and the event of its opening, the denial is not requestable.
    if let Some(id) = pending
        && let Ok(Some(approval)) = app.service.find_approval(key, &id).await
        && let Some(evaluation_id) = evaluation_id(&approval)
    {
        context.retain(|(name, _)| name != "evaluation_id");
        context.push(("evaluation_id".to_owned(), Json::String(evaluation_id)));
        let requestable = object([
            ("endpoint", Some(Json::String(format!("{}{PATH}", app.service.url)))),
            ("expires_at", Some(Json::String(rfc3339(approval.deadline)))),
        ]);
        context.push(("access_request".to_owned(), requestable));
        next_action = "request";
    }
    if presents {
        if text(context, "reason_code").as_deref() == Some(reason::PENDING) {
            next_action = "retry";
            context.push(("retry_after".to_owned(), Json::Number(Number::from(RETRY_SECONDS))));
        }
        context.push(("next_action".to_owned(), Json::from(next_action)));
    }
}

#[utoipa::path(
    post,
    path = "/access/v1/requests",
    operation_id = "authzen_request_access",
    tag = "authzen",
    params(("Idempotency-Key" = Option<String>, Header, description = "Binds the request's body for the API key until a day after the deadline of the approval")),
    request_body = schemas::AccessRequest,
    responses(
        (status = 201, description = "The request is already approved", body = schemas::AccessTask),
        (status = 202, description = "The task", body = schemas::AccessTask),
        (status = 409, description = "The Idempotency-Key was used for a different request"),
        (status = 410, description = "The denial has expired"),
    ),
    security(("key" = []))
)]
pub(super) async fn submit(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    call: JsonCall,
) -> Result<Response, ApiError> {
    let JsonCall { key, body: raw, .. } = call;
    let authorized = Authorized::of(&key, Capability::Act)?;
    let name = idempotency_key(&headers)?;
    let read = move |body| {
        let submission = name.map(|name| Submission { name, fingerprint: fingerprint(&body) });
        Ok((AccessRequest::read(body)?, submission))
    };
    let (request, submission) = app.service.run(raw.len(), move || parse(&raw, read)).await?;
    let earlier = match &submission {
        Some(submission) => app.service.find_submission(authorized, submission).await?,
        None => None,
    };
    if earlier == Some(Earlier::Other) {
        return Ok(Problem::DuplicateRequest.respond());
    }
    let now = app.service.clock.seconds();
    // A repetition gets its task also after the denial has expired.
    let is_repeated = earlier == Some(Earlier::Same);
    if !is_repeated && request.expires_at.div_euclid(1000) <= now {
        return Ok(Problem::ExpiredDenial.respond());
    }
    let id = request.evaluation_id.split_once('.').map(|(_, id)| id.to_owned()).unwrap_or_default();
    let approval = own(&app, &key, &id).await?;
    let bound = |approval: &Approval| evaluation_id(approval).as_deref() == Some(&request.evaluation_id);
    let Some(approval) = approval.filter(bound) else {
        return Ok(Problem::InvalidDenialBinding.respond());
    };
    let args = Json::parse(approval.args.as_bytes()).unwrap_or(Json::Null);
    let requested = request.preflight(&args)?;
    let named = requested.agent_id.as_ref().map(Text::as_str);
    let hash = requested.action_hash(key.bound_agent().or(named));
    if hash.as_ref() != Some(&approval.action_hash) {
        return Ok(Problem::InvalidDenialBinding.respond());
    }
    let status = match approval.status(now) {
        Status::Expired if !is_repeated => return Ok(Problem::ExpiredDenial.respond()),
        Status::Approved => StatusCode::CREATED,
        Status::Expired | Status::Pending | Status::Rejected => StatusCode::ACCEPTED,
    };
    if !is_repeated
        && let Some(submission) = &submission
        && app.service.record_submission(authorized, submission, approval.deadline).await? == Earlier::Other
    {
        return Ok(Problem::DuplicateRequest.respond());
    }
    let mut response = json(status, task(&app, &approval, now).to_string());
    if let Ok(location) = HeaderValue::from_str(&status_endpoint(&app, &id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

#[utoipa::path(
    get,
    path = "/access/v1/requests/{id}",
    operation_id = "authzen_access_request",
    tag = "authzen",
    params(("id" = String, Path, description = "The task's id")),
    responses(
        (status = 200, description = "The task", body = schemas::AccessTask),
        (status = 404, description = "The task is unknown or of another key"),
    ),
    security(("key" = []))
)]
pub(super) async fn status(
    State(app): State<Arc<App>>,
    Caller(key): Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    Authorized::of(&key, Capability::Act)?;
    let Path(id) = id.map_err(|_| ApiError::InvalidPath)?;
    let now = app.service.clock.seconds();
    Ok(match own(&app, &key, &id).await? {
        Some(approval) => json(StatusCode::OK, task(&app, &approval, now).to_string()),
        None => Problem::UnknownTask.respond(),
    })
}

/// Reads the `Idempotency-Key`, of which there may be one.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, InvalidMember> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().ok().filter(|_| values.next().is_none());
    read_idempotency_key(text.unwrap_or_default()).map(Some)
}

/// Returns the hash of a body; equal for bodies with the same members in another order.
fn fingerprint(body: &Json) -> [u8; 32] {
    let canonical = canonical_json(body).unwrap_or_else(|_| body.to_string().into_bytes());
    Sha256::digest(canonical).into()
}

/// Returns an approval that the key requested; an operator may read every one of its tenant.
async fn own(app: &App, key: &ApiKey, id: &str) -> Result<Option<Approval>, ServiceError> {
    let approval = app.service.find_approval(key, id).await?;
    Ok(approval.filter(|approval| key.role != Role::Agent || approval.asker == key.asker()))
}

/// Identifies the denied evaluation: the event that opened the approval, and the approval.
fn evaluation_id(approval: &Approval) -> Option<String> {
    let event = approval.opening.as_ref()?.event.as_ref()?;
    Some(format!("{}.{}", event.member("event_id")?.as_str()?, approval.id))
}

fn status_endpoint(app: &App, id: &str) -> String {
    format!("{}{PATH}/{id}", app.service.url)
}

fn task(app: &App, approval: &Approval, now: i64) -> Json {
    let id = &*approval.id;
    let status = match approval.status(now) {
        Status::Approved => "approved",
        Status::Expired => "expired",
        Status::Pending => "pending",
        Status::Rejected => "denied",
    };
    let review = Json::String(format!("{}/approvals/{id}", app.service.url));
    let task = object([
        ("id", Some(Json::from(id))),
        ("status", Some(Json::from(status))),
        ("status_endpoint", Some(Json::String(status_endpoint(app, id)))),
        ("expires_at", Some(Json::String(rfc3339(approval.deadline)))),
        ("links", Some(object([("review", Some(review))]))),
    ]);
    let decided = approval.decided.as_ref().filter(|_| status == "approved");
    let result = decided.map(|decided| {
        let usable = object([
            ("id", Some(Json::from(id))),
            ("approved_at", Some(Json::String(rfc3339(decided.at)))),
            ("approved_until", Some(Json::String(rfc3339(approval.usable_until(decided))))),
        ]);
        object([("mode", Some(Json::from("reevaluate"))), ("approval", Some(usable))])
    });
    object([("task", Some(task)), ("result", result)])
}
