//! The `AuthZEN` Authorization API 1.0: evaluations and metadata.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actpass_protocol::Json;
use actpass_protocol::json::Number;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderName, StatusCode};

use super::access_requests;
use super::error::{ApiError, Message, json};
use super::openapi::authzen::{self as schemas, Configuration};
use super::preflight::admit;
use super::receive::{JsonCall, parse, within_limit};
use super::{App, REQUEST_ID};
use crate::auth::{ApiKey, Capability};
use crate::dpop::Thumbprint;
use crate::object_writer::object;
use crate::request::Preflight;
use crate::request::authzen::{Batch, Evaluations, read_evaluation, read_evaluations};
use crate::service::{Authorized, PendingPreflight, ServiceError};

const EVALUATION: &str = "/access/v1/evaluation";
const EVALUATIONS: &str = "/access/v1/evaluations";
const CONFIGURATION: &str = "/.well-known/authzen-configuration";

/// The gateway's own request id, if the client named one.
const OWN_REQUEST_ID: HeaderName = HeaderName::from_static("x-actpass-request-id");

#[utoipa::path(
    post,
    path = "/access/v1/evaluation",
    operation_id = "authzen_evaluation",
    tag = "authzen",
    request_body = schemas::Evaluation,
    responses(
        (status = 200, description = "The recorded decision", body = schemas::EvaluationDecision),
        (status = 409, description = "The idempotency key was used for a different request"),
        (status = 501, description = "Passports and the vault are disabled: no master key is configured"),
    ),
    security(("key" = []))
)]
pub(super) async fn evaluation(State(app): State<Arc<App>>, call: JsonCall) -> Result<Response, ApiError> {
    let JsonCall { key, body: raw, took, proven_key, .. } = call;
    Authorized::of(&key, Capability::Act)?;
    let received = app.service.clock.millis();
    let (bytes, begun) = (raw.len(), Instant::now());
    let request = app.service.run(bytes, move || parse(&raw, read_evaluation)).await?;
    let pending = PendingPreflight { key, request, bytes, received, took, begun, proven_key };
    let decision = decide(&app, pending).await?;
    Ok(json(StatusCode::OK, decision.to_string()))
}

#[utoipa::path(
    post,
    path = "/access/v1/evaluations",
    operation_id = "authzen_evaluations",
    tag = "authzen",
    request_body = schemas::Evaluations,
    responses(
        (status = 200, description = "The recorded decisions, in the order of the evaluations", body = schemas::EvaluationDecisions),
        (status = 409, description = "Without evaluations: the idempotency key was used for a different request"),
        (status = 501, description = "Passports and the vault are disabled: no master key is configured"),
    ),
    security(("key" = []))
)]
pub(super) async fn evaluations(State(app): State<Arc<App>>, call: JsonCall) -> Result<Response, ApiError> {
    let JsonCall { key, body: raw, took, proven_key, .. } = call;
    Authorized::of(&key, Capability::Act)?;
    let received = app.service.clock.millis();
    let (bytes, begun) = (raw.len(), Instant::now());
    let response = match app.service.run(bytes, move || parse(&raw, read_evaluations)).await? {
        Evaluations::One(request) => {
            let request = *request;
            decide(&app, PendingPreflight { key, request, bytes, received, took, begun, proven_key }).await?
        }
        Evaluations::Many(batch) => {
            let caller = Evaluator { key, proven_key, bytes, received };
            decide_all(&app, &caller, batch).await?
        }
    };
    Ok(json(StatusCode::OK, response.to_string()))
}

/// The caller of several evaluations in one request.
struct Evaluator {
    key: Arc<ApiKey>,
    proven_key: Option<Thumbprint>,
    bytes: usize,
    received: i64,
}

/// Decides the evaluations one after the other. One that fails is denied.
async fn decide_all(app: &Arc<App>, caller: &Evaluator, mut batch: Batch) -> Result<Json, ApiError> {
    let semantic = batch.semantic;
    let mut decisions = Vec::new();
    loop {
        let parsed: Result<_, ApiError> = app
            .service
            .run(caller.bytes, move || {
                let next = batch.next();
                Ok((batch, next))
            })
            .await;
        let (left, next) = parsed?;
        batch = left;
        let Some(request) = next else { break };
        let decision = decide_next(app, caller, request.map_err(ApiError::from), decisions.len());
        let decision = decision.await.unwrap_or_else(|error| failed(&error));
        let is_permitted = decision.member("decision") == Some(&Json::Bool(true));
        decisions.push(decision);
        if semantic.ends_with(is_permitted) {
            break;
        }
    }
    Ok(object([("evaluations", Some(Json::Array(decisions)))]))
}

async fn decide_next(
    app: &Arc<App>,
    caller: &Evaluator,
    request: Result<Preflight, ApiError>,
    decided: usize,
) -> Result<Json, ApiError> {
    // The first one was counted with the request.
    if decided > 0 {
        within_limit(&caller.key)?;
    }
    let pending = PendingPreflight {
        key: Arc::clone(&caller.key),
        request: request?,
        bytes: caller.bytes,
        received: caller.received,
        took: Duration::ZERO,
        begun: Instant::now(),
        proven_key: caller.proven_key.clone(),
    };
    decide(app, pending).await
}

async fn decide(app: &App, pending: PendingPreflight) -> Result<Json, ApiError> {
    let key = Arc::clone(&pending.key);
    let presents = pending.request.approval_request_id.is_some();
    let _admitted = admit(app, &pending.key)?;
    let response = app.service.preflight(pending).await?;
    let (permitted, mut context) = decision(&response).ok_or(ApiError::Service(ServiceError::Internal))?;
    if !permitted {
        access_requests::describe(app, &key, presents, &mut context).await;
    }
    Ok(object([("decision", Some(Json::Bool(permitted))), ("context", Some(Json::Object(context)))]))
}

/// Returns whether a preflight's response permits the action, only with `allow`, and its context.
fn decision(response: &[u8]) -> Option<(bool, Vec<(String, Json)>)> {
    let Json::Object(mut context) = Json::parse(response).ok()? else {
        return None;
    };
    let found = |name: &str| context.iter().find_map(|(found, value)| (found == name).then(|| value.clone()));
    let is_permitted = found("decision").is_some_and(|decision| decision.as_str() == Some("allow"));
    let named = [("evaluation_id", found("evidence_event_id")), ("reason", found("reason_code"))];
    context.extend(named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    Some((is_permitted, context))
}

/// The decision of an evaluation that failed.
fn failed(error: &ApiError) -> Json {
    let (status, code) = error.status_and_code();
    let error = object([
        ("status", Some(Json::Number(Number::from(i64::from(conforming(status).as_u16()))))),
        ("code", Some(Json::from(code))),
        ("message", Some(Json::String(error.message()))),
    ]);
    let context = object([("error", Some(error))]);
    object([("decision", Some(Json::Bool(false))), ("context", Some(context))])
}

#[utoipa::path(
    get,
    path = "/.well-known/authzen-configuration",
    operation_id = "authzen_configuration",
    tag = "authzen",
    responses((status = 200, description = "The metadata of this policy decision point", body = Configuration)),
)]
pub(super) async fn configuration(State(app): State<Arc<App>>) -> Response {
    let url = &app.service.url;
    let at = |path: &str| Some(Json::String(format!("{url}{path}")));
    let configuration = object([
        ("policy_decision_point", at("")),
        ("access_evaluation_endpoint", at(EVALUATION)),
        ("access_evaluations_endpoint", at(EVALUATIONS)),
        ("access_request_endpoint", at(access_requests::PATH)),
        ("capabilities", Some(Json::Array(vec![Json::from(access_requests::CAPABILITY)]))),
    ]);
    json(StatusCode::OK, configuration.to_string())
}

/// Writes errors and request ids of the API's paths as the standard requires: the error is a
/// message, and the request id of the client is repeated.
pub(super) async fn conform(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !path.starts_with("/access/v1/") && path != CONFIGURATION {
        return next.run(request).await;
    }
    let request_id = request.headers().get(REQUEST_ID).cloned();
    let mut response = next.run(request).await;
    if let Some(Message(message)) = response.extensions().get() {
        let message = message.clone();
        let (mut parts, _) = response.into_parts();
        parts.status = conforming(parts.status);
        let body = Json::String(message).to_string();
        response = Response::from_parts(parts, body.into());
    }
    if let Some(id) = request_id
        && let Some(own) = response.headers_mut().insert(REQUEST_ID, id)
    {
        response.headers_mut().insert(OWN_REQUEST_ID, own);
    }
    response
}

/// Every request that is not understood is a bad one.
fn conforming(status: StatusCode) -> StatusCode {
    match status {
        StatusCode::UNPROCESSABLE_ENTITY | StatusCode::UNSUPPORTED_MEDIA_TYPE => StatusCode::BAD_REQUEST,
        other => other,
    }
}
