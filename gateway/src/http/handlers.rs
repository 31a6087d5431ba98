//! What each route does.

use std::sync::Arc;
use std::time::Instant;

use actpass_protocol::json::Number;
use actpass_protocol::{Json, Secret};
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;

use super::error::{ApiError, json};
use super::openapi::answers::{Chain, ChainVerified, Decision, Health, Recorded, ToolApproved};
use super::openapi::requests;
use super::receive::{Call, Caller};
use super::steps::{heavy, in_time, is_own, parse, work};
use super::{App, passports};
use crate::auth::{Key, Role};
use crate::decide::{self, Bound, Decided, Facts, Manifest, Shown};
use crate::ledger::{self, APPROVAL_APPROVED, APPROVAL_REJECTED, Head, Verifier};
use crate::request::{Evidence, InvalidMember, Preflight, ToolApproval};
use crate::store::{
    Author, DecisionOutcome, Earlier, ManifestPin, Mutation, Record, SealedCredential, StoredEvent, Subject,
};
use crate::{events, tools, vault};

/// The largest number that an event may have.
const MAX_SEQ: u64 = i64::MAX.unsigned_abs();

/// How often a tool's credential may change while one call of the tool is decided.
const CHANGES: usize = 8;

#[utoipa::path(
    post,
    path = "/api/v1/actions/preflight",
    operation_id = "preflight",
    tag = "decisions",
    request_body = requests::Preflight,
    responses(
        (status = 200, description = "What is decided, recorded; with an idempotency key that was answered `allow`, that answer again while it holds", body = Decision),
        (status = 409, description = "The idempotency key was used for another body"),
        (status = 501, description = "The gateway has no master key, and so neither passports nor credentials"),
    ),
    security(("key" = []))
)]
pub(super) async fn preflight(State(app): State<Arc<App>>, call: Call) -> Result<Response, ApiError> {
    let Call { key, body: raw } = call;
    // By this the client tells its own earlier attempt from another call, so what follows must not count.
    let received = app.clock.millis();
    let bytes = raw.len();
    let asks = Arc::new(work(&app, bytes, move || Asks::read(key, &raw)).await?);
    // Most requests are new, most tools have no credential, and most actions no open request. That it is so is seen where
    // the decision is recorded, without another look.
    let (mut earlier, mut credential, mut action_hash) = (None, None, None);
    for _ in 0..CHANGES {
        let facts = learn(&app, &asks, earlier.take(), action_hash.as_deref()).await?;
        let expired = |credential: &SealedCredential| credential.has_expired(facts.now);
        // What cannot be opened must stop the call before anything is recorded.
        let secret = match &credential {
            Some(credential) if !expired(credential) => Some(open_credential(&app, &asks, credential).await?),
            Some(_) | None => None,
        };
        let expires_at = credential.as_ref().and_then(|credential| credential.expires_at);
        let bound = credential.as_ref().map(|found| Bound {
            id: found.id.clone(),
            expired: expired(found),
            expires_at,
        });
        let facts = Facts { credential: bound, ..facts };
        let before = facts.earlier.clone();
        let mut decided = asks.decide(&app, facts.clone()).await?;
        let opens = decided.opens().map(str::to_owned);
        // Held until the request is recorded, so that a key never has more pending requests than it may.
        let _opening = match &opens {
            Some(_) => Some(asks.key.opening.lock().await),
            None => None,
        };
        if opens.is_some() && is_crowded(&app, &asks, facts.now).await? {
            // The action may have an open request already, which is then the one it waits for.
            if app.finds_approvals && action_hash.is_none() {
                earlier = before;
                action_hash = opens;
                continue;
            }
            decided = asks.decide(&app, Facts { crowded: Some(app.pending_approvals), ..facts }).await?;
        }
        let request_hash = decided.request_hash;
        let age = before.as_ref().and_then(|before| before.allowed.as_ref()).map(|allowed| allowed.at);
        let age = age.map(|at| received.saturating_sub(at).max(0));
        let answer = match in_time(&app, app.store.decide(decided.record)).await? {
            DecisionOutcome::Conflict => return Err(ApiError::Conflict),
            DecisionOutcome::Earlier(found) => {
                earlier = Some(*found);
                continue;
            }
            DecisionOutcome::Recorded => {
                // A key that was answered `allow` before gives no new leave.
                let answer = match age.filter(|_| decided.allows) {
                    Some(age) => replayed(&decided.answer, request_hash.as_deref(), age)?,
                    None => decided.answer,
                };
                match secret.filter(|_| decided.hands_out) {
                    Some(secret) => vault::hand_out(&answer, &secret, expires_at),
                    None => answer,
                }
            }
            DecisionOutcome::Refused(answer) => answer,
            DecisionOutcome::Repeated(answer) => {
                let age = age.unwrap_or(i64::MAX);
                let answer = replayed(&answer, request_hash.as_deref(), age)?;
                let had_credential = before.is_some_and(|before| before.credential.is_some());
                match secret.filter(|_| had_credential && age < HANDED_OUT_AGAIN_MS) {
                    Some(secret) => vault::hand_out(&answer, &secret, expires_at),
                    None => answer,
                }
            }
            DecisionOutcome::Stale => {
                credential = find_credential(&app, &asks).await?;
                earlier = before;
                action_hash = opens.or(action_hash);
                continue;
            }
        };
        log(&asks.tool, &answer);
        return Ok(json(StatusCode::OK, answer));
    }
    Err(ApiError::Busy)
}

/// For how long after the first `allow` a repetition still carries the credential: no longer than a caller's permit from
/// that answer may be used.
const HANDED_OUT_AGAIN_MS: i64 = 300_000;

fn replayed(answer: &[u8], request_hash: Option<&str>, age_ms: i64) -> Result<Bytes, ApiError> {
    decide::mark_replayed(answer, request_hash, age_ms).ok_or(ApiError::Internal)
}

/// How many agents of one key may each have as many pending approval requests as an agent may.
const AGENTS_OF_A_KEY: u64 = 10;

/// Whether the agent or the key has as many pending approval requests as it may.
async fn is_crowded(app: &App, asks: &Asks, now: i64) -> Result<bool, ApiError> {
    let key = &asks.key;
    let asker = Author { key_name: &key.name, agent: key.bound_agent().or(asks.agent.as_deref()) };
    let pending = in_time(app, app.store.pending_of(&key.tenant.id, asker, now)).await?;
    let limit = u64::from(app.pending_approvals);
    Ok(pending.agent >= limit || pending.key >= limit.saturating_mul(AGENTS_OF_A_KEY))
}

/// Tells the log what was decided; never what the answer carries beside that.
fn log(tool: &str, answer: &[u8]) {
    let span = tracing::Span::current();
    if span.is_disabled() {
        return;
    }
    span.record("tool", tool);
    if let Ok(answer) = Json::parse(answer) {
        for (field, member) in
            [("decision", "decision"), ("reason", "reason_code"), ("event_id", "evidence_event_id")]
        {
            if let Some(value) = answer.member(member).and_then(Json::as_str) {
                span.record(field, value);
            }
        }
    }
}

/// A preflight, and what it asks to be looked up.
struct Asks {
    key: Arc<Key>,
    body: Json,
    body_bytes: usize,
    /// The agent that the request names.
    agent: Option<String>,
    tool: String,
    passport: Option<Secret>,
    approval: Option<String>,
    manifest: Option<String>,
}

impl Asks {
    fn read(key: Arc<Key>, raw: &[u8]) -> Result<Self, ApiError> {
        let body = parse(raw)?;
        let request = Preflight::read(&body)?;
        let tool = request.tool.as_str().to_owned();
        let agent = request.agent_id.map(|agent| agent.as_str().to_owned());
        let passport = request.passport.map(|passport| Secret::new(passport.as_str()));
        let approval = request.approval_request_id.map(|id| id.as_str().to_owned());
        let manifest = request.tool_manifest_hash.map(|hash| hash.as_str().to_owned());
        Ok(Self { agent, tool, passport, approval, manifest, body_bytes: raw.len(), key, body })
    }

    async fn decide(self: &Arc<Self>, app: &App, facts: Facts) -> Result<Decided, ApiError> {
        let asks = Arc::clone(self);
        work(app, self.body_bytes, move || {
            let request = Preflight::read(&asks.body)?;
            Ok(decide::decide(&asks.key, &request, &asks.body, &facts))
        })
        .await
    }
}

async fn find_credential(app: &App, asks: &Asks) -> Result<Option<SealedCredential>, ApiError> {
    in_time(app, app.store.credential(&asks.key.tenant.id, &asks.tool)).await
}

async fn open_credential(app: &App, asks: &Asks, credential: &SealedCredential) -> Result<Secret, ApiError> {
    let vault = app.vault.as_ref().ok_or(ApiError::NoMasterKey)?;
    let id = &*credential.id;
    // An earlier credential that was put back opens; the ledger knows that it was replaced.
    let event = app.store.last_tool_event(&asks.key.tenant.id, ledger::VAULT, &asks.tool);
    if !in_time(app, event).await?.is_some_and(|event| vault::was_set(&event, id)) {
        tracing::error!(
            id,
            "the credential in the data store is not the one that the ledger says was set last"
        );
        return Err(ApiError::Internal);
    }
    vault.open(&asks.key.tenant.id, &asks.tool, credential).ok_or_else(|| {
        tracing::error!(
            id,
            "the master key does not open this credential, or it was changed in the data file"
        );
        ApiError::Internal
    })
}

/// Finds out what the decision depends on. `earlier` is what was answered under its idempotency key before; `action_hash`
/// is the action's, if there may be a live request for it.
async fn learn(
    app: &App,
    asks: &Asks,
    earlier: Option<Earlier>,
    action_hash: Option<&str>,
) -> Result<Facts, ApiError> {
    let tenant_id = &asks.key.tenant.id;
    let passport = match &asks.passport {
        None => None,
        Some(token) => Some(match passports::open(app, token.expose()).await? {
            Ok(claims) => {
                let standing = in_time(app, app.store.passport(tenant_id, claims.jti())).await?;
                Ok(Shown { claims, standing })
            }
            Err(refusal) => Err(refusal),
        }),
    };
    let stood_for = match &passport {
        Some(Ok(shown)) => shown.claims.approval_request_id(),
        Some(Err(_)) | None => None,
    };
    // A key that was answered `allow` by an approval stays with that one: it takes no second.
    let allowed_by = earlier.as_ref().and_then(|earlier| earlier.allowed.as_ref());
    let allowed_by = allowed_by.and_then(|allowed| allowed.basis.approval.as_deref());
    let now = app.clock.seconds();
    let (mut approval, mut live_approval) = (None, None);
    match (allowed_by.or(asks.approval.as_deref()).or(stood_for), action_hash) {
        (Some(id), _) => approval = Some(in_time(app, app.store.approval(tenant_id, id)).await?),
        (None, Some(hash)) if app.finds_approvals => {
            let asker = asks.key.asker();
            live_approval = in_time(app, app.store.live_approval(tenant_id, hash, &asker, now)).await?;
        }
        (None, Some(_) | None) => {}
    }
    let (manifest, pinned) = match &asks.manifest {
        None => (Manifest::Approved, None),
        Some(hash) => {
            let approved = in_time(app, app.store.approved_manifest(tenant_id, &asks.tool)).await?;
            let mut manifest = Manifest::of(approved.as_deref(), hash);
            if let (Manifest::Approved, Some(approved)) = (manifest, &approved) {
                let event = app.store.last_tool_event(tenant_id, ledger::TOOLS, &asks.tool);
                let proven =
                    in_time(app, event).await?.is_some_and(|event| tools::was_approved(&event, approved));
                if !proven {
                    let tool = &*asks.tool;
                    tracing::error!(
                        tool,
                        "the approved manifest of this tool does not follow from the ledger"
                    );
                    manifest = Manifest::Changed;
                }
            }
            (manifest, Some(ManifestPin { tool_id: asks.tool.clone(), hash: approved }))
        }
    };
    Ok(Facts {
        issuer: Arc::clone(&app.issuer),
        now,
        approval_seconds: app.approval_seconds,
        approval,
        live_approval,
        finds_approvals: app.finds_approvals,
        earlier,
        keep_seconds: app.keep_seconds,
        crowded: None,
        manifest,
        pinned,
        passport,
        credential: None,
    })
}

#[utoipa::path(
    post,
    path = "/api/v1/tools",
    operation_id = "approve_tool",
    tag = "tools",
    request_body = requests::ToolApproval,
    responses(
        (status = 200, description = "The tool has this manifest from now on", body = ToolApproved),
        (status = 403, description = "An agent's key may not do this; expected an operator's"),
    ),
    security(("key" = []))
)]
pub(super) async fn tools(State(app): State<Arc<App>>, call: Call) -> Result<Response, ApiError> {
    let Call { key, body: raw } = call;
    if key.role != Role::Operator {
        return Err(ApiError::Forbidden);
    }
    let (append, hash) = work(&app, raw.len(), move || {
        let body = parse(&raw)?;
        let approval = ToolApproval::read(&body)?;
        let hash = approval.manifest_hash.clone();
        let mutation = Mutation::ApproveManifest { tool_id: approval.tool_id.as_str().to_owned(), hash };
        let event = events::tool_approved(&key, &approval);
        Ok((Record { event, mutation: Some(mutation) }, approval.manifest_hash))
    })
    .await?;
    in_time(&app, app.store.record(append)).await?;
    let answer = Json::Object(vec![
        ("manifest_hash".to_owned(), Json::String(hash)),
        ("approved".to_owned(), Json::Bool(true)),
    ]);
    Ok(json(StatusCode::OK, answer.to_string()))
}

#[utoipa::path(
    post,
    path = "/api/v1/evidence/events",
    operation_id = "record_evidence",
    tag = "evidence",
    request_body = requests::Evidence,
    responses(
        (status = 200, description = "The event is recorded", body = Recorded),
        (status = 403, description = "The end of an action that was not decided for this key or its agent"),
    ),
    security(("key" = []))
)]
pub(super) async fn evidence(State(app): State<Arc<App>>, call: Call) -> Result<Response, ApiError> {
    let Call { key, body: raw } = call;
    let author = Arc::clone(&key);
    let (event, decided) = work(&app, raw.len(), move || {
        let body = parse(&raw)?;
        let evidence = Evidence::read(&body)?;
        let decided = evidence.decided_request().map(str::to_owned);
        Ok((events::client_event(&key, &evidence), decided))
    })
    .await?;
    // How an action ended, only who was allowed it can say.
    if let Some(request_hash) = decided
        && author.role == Role::Agent
        && !is_own(&app, &author, Subject::Decision, &request_hash).await?
    {
        return Err(ApiError::NotOwn(
            "request_hash: there is no decision about such a request of this key or its agent; expected the hash that \
             the decision carries",
        ));
    }
    let event_id = event.event_id.clone();
    let head = in_time(&app, app.store.record(Record::of(event))).await?;
    let answer = Json::Object(vec![
        ("event_id".to_owned(), Json::String(event_id)),
        ("current_event_hash".to_owned(), Json::String(head.hash)),
    ]);
    Ok(json(StatusCode::OK, answer.to_string()))
}

#[utoipa::path(
    get,
    path = "/api/v1/evidence/chains/{chain_id}",
    operation_id = "read_chain",
    tag = "evidence",
    params(("chain_id" = String, Path, description = "The chain; a tenant's decisions are in decisions"),
        ("after" = Option<u64>, Query, description = "Only events with a greater seq"),
        ("limit" = Option<u64>, Query, minimum = 1, description = "How many at most")),
    responses(
        (status = 200, description = "The chain's events, all of them or the part that is asked for", body = Chain),
        (status = 404, description = "There is no such chain"),
    ),
    security(("key" = []))
)]
pub(super) async fn chain(
    State(app): State<Arc<App>>,
    Caller(key): Caller,
    chain_id: Result<Path<String>, PathRejection>,
    query: Result<Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let Path(chain_id) = chain_id.map_err(|_| ApiError::InvalidPath)?;
    let Query(query) = query.map_err(|_| ApiError::InvalidPath)?;
    let range = Range::read(&query)?;
    let head = find(&app, &key.tenant.id, &chain_id).await?;
    // Events that come while this answer goes out are the next answer's.
    let until = range.limit.map_or(head.length, |limit| head.length.min(range.after.saturating_add(limit)));
    let opening = format!(r#"{{"chain_id":{},"events":["#, Json::from(&*chain_id));
    let source = Source { app, tenant_id: Arc::clone(&key.tenant.id), chain_id, until };
    let source = Seen { source, key };
    let state = Export::Opening(opening, source, range.after);
    Ok(json(StatusCode::OK, Body::from_stream(stream::try_unfold(state, Export::next))))
}

#[utoipa::path(
    get,
    path = "/api/v1/evidence/chains/{chain_id}/verify",
    operation_id = "verify_chain",
    tag = "evidence",
    params(("chain_id" = String, Path, description = "The chain; a tenant's decisions are in decisions")),
    responses(
        (status = 200, description = "Whether the chain is whole", body = ChainVerified),
        (status = 404, description = "There is no such chain"),
    ),
    security(("key" = []))
)]
pub(super) async fn verify(
    State(app): State<Arc<App>>,
    Caller(key): Caller,
    chain_id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(chain_id) = chain_id.map_err(|_| ApiError::InvalidPath)?;
    let head = find(&app, &key.tenant.id, &chain_id).await?;
    let source =
        Source { app: Arc::clone(&app), tenant_id: Arc::clone(&key.tenant.id), chain_id, until: head.length };
    let unproven = match &*source.chain_id {
        ledger::DECISIONS => in_time(&app, app.store.unproven(&key.tenant.id)).await?,
        _ => Vec::new(),
    };
    let found = examine(&source, Verifier::default()).await?.finish(head);
    let mut answer = vec![
        ("valid".to_owned(), Json::Bool(found.first_broken.is_none() && unproven.is_empty())),
        ("length".to_owned(), number(found.length)),
        ("head".to_owned(), Json::String(found.head)),
        ("first_broken".to_owned(), found.first_broken.map_or(Json::Null, number)),
    ];
    if !unproven.is_empty() {
        let unproven = unproven.into_iter().map(Json::String).collect();
        answer.push(("unproven".to_owned(), Json::Array(unproven)));
    }
    Ok(json(StatusCode::OK, Json::Object(answer).to_string()))
}

/// Looks at the events of a chain that `verifier` has not seen, as far as they go or are whole.
pub(super) async fn examine(source: &Source, mut verifier: Verifier) -> Result<Verifier, ApiError> {
    let mut after = verifier.head().length;
    loop {
        let page = source.page(after).await?;
        let Some(last) = page.last() else {
            return Ok(verifier);
        };
        after = last.seq;
        let (back, whole) = heavy(&source.app, move || {
            let whole = page.iter().all(|event| verifier.push(&event.text));
            Ok((verifier, whole))
        })
        .await?;
        verifier = back;
        if !whole {
            return Ok(verifier);
        }
    }
}

#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "health",
    tag = "gateway",
    responses(
        (status = 200, description = "The gateway can decide", body = Health),
    ),
)]
pub(super) async fn health(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let asked = Instant::now();
    let check = async {
        let mut last = app.checking.lock().await;
        // What was begun after this was asked answers it: however many ask, one check is under way and one waits.
        if let Some((begun, found)) = *last
            && begun >= asked
        {
            return found;
        }
        let begun = Instant::now();
        let found = app.store.check().await;
        *last = Some((begun, found));
        found
    };
    in_time(&app, check).await?;
    Ok(json(StatusCode::OK, r#"{"status":"ok"}"#))
}

async fn find(app: &App, tenant_id: &str, chain_id: &str) -> Result<Head, ApiError> {
    in_time(app, app.store.head(tenant_id, chain_id)).await?.ok_or(ApiError::NotFound("chain"))
}

fn number(value: u64) -> Json {
    Json::Number(Number::from(i64::try_from(value).unwrap_or(i64::MAX)))
}

/// Which events of a chain are asked for.
struct Range {
    after: u64,
    limit: Option<u64>,
}

impl Range {
    fn read(query: &[(String, String)]) -> Result<Self, InvalidMember> {
        let mut after = None;
        let mut limit = None;
        for (name, value) in query {
            let (known, least) = match name.as_str() {
                "after" => (&mut after, 0),
                "limit" => (&mut limit, 1),
                _ => continue,
            };
            let number = value.parse().ok().filter(|number| (least..=MAX_SEQ).contains(number));
            *known = Some(number.filter(|_| known.is_none()).ok_or_else(|| InvalidMember {
                member: name.clone(),
                problem: format!("expected one integer of {least} to {MAX_SEQ}"),
            })?);
        }
        Ok(Self { after: after.unwrap_or(0), limit })
    }
}

/// A chain up to the event `until`, page by page.
pub(super) struct Source {
    pub(super) app: Arc<App>,
    pub(super) tenant_id: Arc<str>,
    pub(super) chain_id: String,
    pub(super) until: u64,
}

impl Source {
    pub(super) async fn page(&self, after: u64) -> Result<Vec<StoredEvent>, ApiError> {
        let asked = self.app.store.events(&self.tenant_id, &self.chain_id, after, self.until);
        in_time(&self.app, asked).await
    }
}

/// The answer with a chain's events, as it goes out: never all of it in memory.
enum Export {
    Opening(String, Seen, u64),
    Events(Seen, u64, &'static str),
    Done,
}

impl Export {
    /// The next piece. An error cuts the answer short, so that a part of a chain never looks like all of it.
    async fn next(self) -> Result<Option<(Bytes, Self)>, std::io::Error> {
        let (mut piece, seen, mut after, mut comma) = match self {
            Self::Opening(opening, seen, after) => (opening, seen, after, ""),
            Self::Events(seen, after, comma) => (String::new(), seen, after, comma),
            Self::Done => return Ok(None),
        };
        let broken = |_: ApiError| std::io::Error::other("the ledger could not be read");
        loop {
            let page = seen.source.page(after).await.map_err(broken)?;
            let Some(last) = page.last().map(|event| event.seq) else {
                piece.push_str("]}");
                return Ok(Some((Bytes::from(piece), Self::Done)));
            };
            after = last;
            for event in &page {
                if seen.shows(event).await.map_err(broken)? {
                    piece.push_str(comma);
                    piece.push_str(&event.text);
                    comma = ",";
                }
            }
            // An empty piece is none.
            if !piece.is_empty() {
                return Ok(Some((Bytes::from(piece), Self::Events(seen, after, comma))));
            }
        }
    }
}

/// A chain as a key sees it.
struct Seen {
    source: Source,
    key: Arc<Key>,
}

impl Seen {
    /// Whether the key may read the event: a key that is bound to an agent reads what that agent caused, and what was
    /// decided about that agent's approval requests.
    async fn shows(&self, event: &StoredEvent) -> Result<bool, ApiError> {
        let Some(agent) = self.key.confined_to() else {
            return Ok(true);
        };
        let Ok(event) = Json::parse(event.text.as_bytes()) else {
            return Ok(false);
        };
        let text = |name: &str| event.member(name).and_then(Json::as_str);
        if text("key_name").is_some_and(|name| self.key.owns(name, text("agent_id"))) {
            return Ok(true);
        }
        let decides = matches!(text("event_type"), Some(APPROVAL_APPROVED | APPROVAL_REJECTED));
        let Some(id) = text("approval_request_id").filter(|_| decides) else {
            return Ok(false);
        };
        let Source { app, tenant_id, .. } = &self.source;
        let approval = in_time(app, app.store.approval(tenant_id, id)).await?;
        Ok(approval.is_some_and(|approval| approval.agent_id.as_deref() == Some(agent)))
    }
}
