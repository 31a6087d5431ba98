//! Passports: issued, looked at, ended, and the keys to verify them with.

use std::sync::Arc;

use actpass_protocol::Json;
use actpass_protocol::json::Number;
use actpass_protocol::token::{Bearer, MAX_BYTES, Typ};
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::App;
use super::error::{ApiError, json};
use super::openapi::answers::{Issued, JwkSet, Revoked, Verified};
use super::openapi::requests;
use super::receive::{Call, MaybeCaller};
use super::steps::{in_time, is_own, parse, work};
use crate::approvals::{Approval, Status};
use crate::auth::{Key, Role};
use crate::clock::rfc3339;
use crate::decide::MANIFEST_CHANGED;
use crate::events;
use crate::members::object;
use crate::passport::keys::KeyError;
use crate::passport::{self, Claims, Keys, Refusal, Ring};
use crate::request::{InvalidMember, Issue, Revoke, VerifyPassport};
use crate::store::{Change, Mutation, Record, StoreError, Subject, Transition, TransitionOutcome};

#[utoipa::path(
    post,
    path = "/api/v1/passports/issue",
    operation_id = "issue_passport",
    tag = "passports",
    request_body = requests::Issue,
    responses(
        (status = 200, description = "A new passport", body = Issued),
        (status = 403, description = "The key may not issue such a passport"),
        (status = 501, description = "The gateway has no master key, and so neither passports nor credentials"),
    ),
    security(("key" = []))
)]
pub(super) async fn issue(State(app): State<Arc<App>>, call: Call) -> Result<Response, ApiError> {
    let keys = keys(&app)?;
    let Call { key, body: raw } = call;
    let body = work(&app, raw.len(), move || parse(&raw)).await?;
    let request = Issue::read(&body)?;
    let ring = read(&app, keys).await?;

    let agent = key.agent.as_ref().and_then(Json::as_str).or(request.agent_id.map(|agent| agent.as_str()));
    let user = request.user_id.map(|user| user.as_str());
    let ttl_seconds = ttl_within_grants(&key, &request, &body)?;
    within_grants(&key, &request)?;
    let jti = format!("ap_{}", uuid::Uuid::now_v7().simple());
    let issued_at = app.clock.seconds();
    let approval = match request.approval_request_id {
        None => None,
        Some(id) => Some(approved(&app, &key, id.as_str(), issued_at).await?),
    };
    let approval = approval.as_ref();
    let expires_at = issued_at.saturating_add(ttl_seconds);
    let time = |seconds| Some(Json::Number(Number::from(seconds)));
    let or_null = |text: Option<&str>| Some(text.map_or(Json::Null, Json::from));
    let claims = object([
        ("iss", Some(Json::from(&*app.issuer))),
        ("aud", Some(request.audience.as_json().clone())),
        ("tenant_id", Some(Json::from(&*key.tenant.id))),
        ("agent_id", or_null(agent)),
        ("user_id", or_null(user)),
        ("goal", Some(request.goal.as_json().clone())),
        ("allowed_tools", Some(request.allowed_tools.clone())),
        ("allowed_resources", Some(request.allowed_resources.map_or(Json::Array(Vec::new()), Json::clone))),
        (
            "resource_constraints",
            Some(request.resource_constraints.map_or(Json::Object(Vec::new()), Json::clone)),
        ),
        ("risk_tier", Some(Json::from(request.risk_tier.as_str()))),
        ("approval_hash", approval.map(|approval| Json::from(&*approval.action_hash))),
        ("approval_request_id", approval.map(|approval| Json::from(&*approval.id))),
        ("iat", time(issued_at)),
        ("exp", time(expires_at)),
        ("jti", Some(Json::from(&*jti))),
    ]);
    let (token, kid) = ring.sign(Typ::Passport, &claims)?;
    if token.len() > MAX_BYTES {
        let problem = format!("makes a passport larger than {} bytes", MAX_BYTES);
        return Err(InvalidMember { member: "body".to_owned(), problem }.into());
    }
    let event = events::passport_issued(&key, &request, &jti, approval);
    let mutation = Some(Mutation::IssuePassport { jti: jti.clone(), kid, expires_at });
    in_time(&app, app.store.record(Record { event, mutation })).await?;
    let answer = object([
        ("token", Some(Json::String(token))),
        ("jwks_uri", Some(Json::String(format!("{}/.well-known/jwks.json", app.issuer)))),
        ("jti", Some(Json::String(jti))),
        ("expires_at", Some(Json::String(rfc3339(expires_at)))),
    ]);
    Ok(json(StatusCode::OK, answer.to_string()))
}

#[utoipa::path(
    post,
    path = "/api/v1/passports/verify",
    operation_id = "verify_passport",
    tag = "passports",
    request_body = requests::VerifyPassport,
    responses(
        (status = 200, description = "Whether the passport holds, and what is wrong with it", body = Verified),
        (status = 501, description = "The gateway has no master key, and so neither passports nor credentials"),
    ),
    security(("key" = []))
)]
pub(super) async fn verify(State(app): State<Arc<App>>, call: Call) -> Result<Response, ApiError> {
    keys(&app)?;
    let Call { key, body: raw } = call;
    let body = work(&app, raw.len(), move || parse(&raw)).await?;
    let request = VerifyPassport::read(&body)?;
    let mut errors = Vec::new();
    let mut valid = None;
    match open(&app, request.token.as_str()).await? {
        Err(refusal) => errors.push(refusal.code()),
        Ok(claims) => {
            // A client that is not asked for its agent says a name of its own; the key knows better.
            let agent = request
                .agent_id
                .map(|agent| key.agent.as_ref().and_then(Json::as_str).or(Some(agent.as_str())));
            let bearer = Bearer {
                issuer: &app.issuer,
                audience: Some(request.audience.as_str()),
                tenant_id: Some(&key.tenant.id),
                agent_id: agent,
                user_id: request.user_id.map(|user| Some(user.as_str())),
            };
            errors.extend(
                claims.against(&bearer, &passport::at(app.clock.seconds())).into_iter().map(Refusal::code),
            );
            let standing = in_time(&app, app.store.passport(&key.tenant.id, claims.jti())).await?;
            // What is another tenant's is not known to have been issued either; that is no second error.
            let revoked = standing.is_none_or(|standing| standing.revoked);
            if revoked && !errors.contains(&Refusal::Tenant.code()) {
                errors.push(Refusal::Revoked.code());
            }
            let policy = key.tenant.policy.hash();
            if request.policy_hash.is_some_and(|hash| hash.as_str() != policy) {
                errors.push(Refusal::Policy.code());
            }
            if let Some(hash) = request.tool_manifest_hash
                && !is_approved(&app, &key.tenant.id, claims.texts("allowed_tools"), hash.as_str()).await?
            {
                errors.push(MANIFEST_CHANGED);
            }
            valid = errors.is_empty().then(|| claims.as_json().clone());
        }
    }
    let answer = object([
        ("valid", Some(Json::Bool(valid.is_some()))),
        ("errors", Some(Json::Array(errors.into_iter().map(Json::from).collect()))),
        ("claims", valid),
    ]);
    Ok(json(StatusCode::OK, answer.to_string()))
}

#[utoipa::path(
    post,
    path = "/api/v1/passports/revoke",
    operation_id = "revoke_passport",
    tag = "passports",
    request_body = requests::Revoke,
    responses(
        (status = 200, description = "Whether the passport is revoked", body = Revoked),
        (status = 403, description = "The passport is neither the key's nor its agent's"),
        (status = 501, description = "The gateway has no master key, and so neither passports nor credentials"),
    ),
    security(("key" = []))
)]
pub(super) async fn revoke(State(app): State<Arc<App>>, call: Call) -> Result<Response, ApiError> {
    keys(&app)?;
    let Call { key, body: raw } = call;
    let body = work(&app, raw.len(), move || parse(&raw)).await?;
    let request = Revoke::read(&body)?;
    let jti = request.jti.as_str();
    let revoked = match in_time(&app, app.store.passport(&key.tenant.id, jti)).await? {
        None => false,
        Some(_) if key.role == Role::Agent && !is_own(&app, &key, Subject::Passport, jti).await? => {
            return Err(ApiError::NotOwn(
                "jti: this passport was issued by another key, and not to the agent of this one; expected one of its \
                 own, or an operator's key",
            ));
        }
        Some(standing) if standing.revoked => true,
        Some(_) => {
            let reason = request.reason.map(|reason| reason.as_str());
            let event = events::passport_revoked(&key, jti, reason);
            let change = Change::RevokePassport { jti: jti.to_owned() };
            match in_time(&app, app.store.change(Transition { event, change })).await? {
                // Stale: another request revoked it just now.
                TransitionOutcome::Recorded | TransitionOutcome::Stale => true,
            }
        }
    };
    Ok(json(StatusCode::OK, format!(r#"{{"revoked":{revoked}}}"#)))
}

#[utoipa::path(
    get,
    path = "/.well-known/jwks.json",
    operation_id = "jwks",
    tag = "passports",
    responses(
        (status = 200, description = "The public keys; to a key of this gateway, also its tenant", body = JwkSet),
        (status = 501, description = "The gateway has no master key, and so neither passports nor credentials"),
    ),
)]
pub(super) async fn jwks(
    State(app): State<Arc<App>>,
    MaybeCaller(caller): MaybeCaller,
) -> Result<Response, ApiError> {
    let keys = keys(&app)?;
    let keys = in_time(&app, async { on_store(keys.jwks(&*app.store, app.clock.seconds()).await) }).await??;
    let answer = object([
        ("keys", Some(keys)),
        ("issuer", Some(Json::from(&*app.issuer))),
        ("tenant_id", caller.map(|key| Json::from(&*key.tenant.id))),
    ]);
    Ok(json(StatusCode::OK, answer.to_string()))
}

/// Whether the key may issue such a passport: what a passport claims, its issuer must be allowed to claim.
fn within_grants(key: &Key, request: &Issue<'_>) -> Result<(), ApiError> {
    let grants = &key.grants;
    let refused = |member: &str, found: &str, granted: &dyn std::fmt::Display| {
        Err(ApiError::NotGranted(format!(
            "{member}: this key may not issue a passport with {found:?}; expected one of those in its settings: {granted}"
        )))
    };
    if let Json::Array(tools) = request.allowed_tools
        && let Some(tool) =
            tools.iter().filter_map(Json::as_str).find(|tool| !grants.passport_tools.matches(tool))
    {
        return refused("allowed_tools", tool, &grants.passport_tools);
    }
    if let Some(user) = request.user_id.map(|user| user.as_str())
        && !grants.passport_users.matches(user)
    {
        return refused("user_id", user, &grants.passport_users);
    }
    if !grants.risk_tiers.contains(&request.risk_tier) {
        let tiers: Vec<_> = grants.risk_tiers.iter().map(|tier| tier.as_str()).collect();
        return refused("risk_tier", request.risk_tier.as_str(), &tiers.join(", "));
    }
    Ok(())
}

/// For how many seconds the passport holds. A request that does not say gets no more than the key may give.
fn ttl_within_grants(key: &Key, request: &Issue<'_>, body: &Json) -> Result<i64, ApiError> {
    let most = key.grants.max_ttl_seconds;
    let is_given = body.member("ttl_seconds").is_some_and(|given| *given != Json::Null);
    match request.ttl_seconds {
        seconds if seconds <= most => Ok(seconds),
        _ if !is_given => Ok(most),
        _ => Err(ApiError::NotGranted(format!(
            "ttl_seconds: this key may issue passports for {most} seconds at most"
        ))),
    }
}

/// What a token claims, or why it claims nothing.
pub(super) async fn open(app: &App, token: &str) -> Result<Result<Claims, Refusal>, ApiError> {
    let keys = keys(app)?;
    match keys.known().verify(token) {
        // Another process may have made this key.
        Err(Refusal::UnknownKey) => Ok(read(app, keys).await?.verify(token)),
        found => Ok(found),
    }
}

/// The tenant's approval, if it could be used now. Whether it still can is looked at when it is.
async fn approved(app: &App, key: &Key, id: &str, now: i64) -> Result<Approval, ApiError> {
    let approval = in_time(app, app.store.approval(&key.tenant.id, id)).await?;
    // Another agent's is none.
    let approval = approval
        .filter(|approval| key.confined_to().is_none_or(|agent| approval.agent_id.as_deref() == Some(agent)));
    let found = match &approval {
        None => "unknown",
        Some(approval) if approval.spent => "used",
        Some(approval) => approval.status(now).as_str(),
    };
    approval.filter(|_| found == Status::Approved.as_str()).ok_or_else(|| {
        let problem =
            format!("expected an approval that is approved and not used, found one that is {found}");
        InvalidMember { member: "approval_request_id".to_owned(), problem }.into()
    })
}

/// Whether `hash` is the manifest that was approved last of one of these tools.
async fn is_approved(
    app: &App,
    tenant_id: &str,
    tools: impl Iterator<Item = &str>,
    hash: &str,
) -> Result<bool, ApiError> {
    for tool in tools {
        let approved = in_time(app, app.store.approved_manifest(tenant_id, tool)).await?;
        if approved.as_deref() == Some(hash) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn keys(app: &App) -> Result<&Keys, ApiError> {
    app.keys.as_ref().ok_or(ApiError::NoMasterKey)
}

async fn read(app: &App, keys: &Keys) -> Result<Arc<Ring>, ApiError> {
    Ok(in_time(app, async { on_store(keys.read(&*app.store).await) }).await??)
}

/// Tells what is the store's fault from what is the keys'.
fn on_store<T>(found: Result<T, KeyError>) -> Result<Result<T, KeyError>, StoreError> {
    match found {
        Err(KeyError::Store(error)) => Err(error),
        found => Ok(found),
    }
}
