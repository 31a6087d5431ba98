//! The gateway as the Guardian of the OWASP Agent Control Standard 0.1: JSON-RPC over HTTP.
//!
//! A request is authenticated by its signature alone; no header is an identity. Every authenticated
//! step gets a signed decision: a failure is a `deny`, because the client may proceed on an error.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actpass_acs::{ALGORITHM, Envelope, RpcError, SessionKey, VERSION, Verdict, result, sign};
use actpass_protocol::Json;
use actpass_protocol::json::Number;
use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;

use super::App;
use super::client::Client;
use super::error::{ApiError, json};
use super::preflight::admit;
use super::receive::{check_type, drain, read, within_limit};
use crate::acs::{AcsSettings, ContextEntry, SKEW_MS};
use crate::auth::{ApiKey, Capability};
use crate::clock::rfc3339;
use crate::connections::Connection;
use crate::events::SessionStep;
use crate::object_writer::object;
use crate::request::Preflight;
use crate::request::acs::{ACTIONS, EVENTS, Kind, Step, echo, read_step};
use crate::service::{Authorized, PendingPreflight, ServiceError};

/// Timeout of a client for a decision, in milliseconds: longer than the store's timeout.
const DECISION_TIMEOUT_MS: i64 = 10_000;

/// The query of the bridge for standard input and output, which declares the client's transport.
const STDIO: &str = "transport=stdio";

#[utoipa::path(
    post,
    path = "/acs",
    operation_id = "acs",
    tag = "acs",
    params(("transport" = Option<String>, Query, description = "stdio: the client's transport, which the hello declares; changes nothing else")),
    request_body(content = serde_json::Value, description = "A signed JSON-RPC 2.0 request of the Agent Control Standard 0.1"),
    responses(
        (status = 200, description = "A signed result; an error if the request cannot be authenticated", body = super::openapi::responses::RpcResponse),
        (status = 429, description = "Too many invalid signatures came from this address"),
    ),
)]
pub(super) async fn acs(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    if let Err(error) = check_type(&parts.headers) {
        drain(body);
        return Err(error);
    }
    let reading = tokio::time::timeout(app.body_timeout, read(body, app.body_bytes));
    let raw = reading.await.map_err(|_| ApiError::BodyTimeout)??;
    let received = app.service.clock.millis();
    let bytes = raw.len();
    let parsed = app.service.run(bytes, move || Ok::<_, ApiError>(Envelope::parse(&raw))).await?;
    let client = parts.extensions.get::<Client>().map(|client| client.0);
    let envelope = match parsed {
        Ok(envelope) => envelope,
        Err(error) => {
            app.attempts.count(client)?;
            return Ok(json(StatusCode::OK, error.response().to_string()));
        }
    };
    let connection = Connection::of(&parts.extensions);
    let Some(session) = Session::verify(&app, &envelope, connection) else {
        // A ping is answered with any signature.
        if envelope.is_ping() {
            return Ok(json(StatusCode::OK, pong(&app, &envelope).to_string()));
        }
        app.attempts.count(client)?;
        let error = RpcError::unsigned(envelope.id);
        return Ok(json(StatusCode::OK, error.response().to_string()));
    };
    if let Some(connection) = connection {
        connection.authenticate();
    }
    let span = tracing::Span::current();
    span.record("tenant", &*session.key.tenant.id).record("key", &*session.key.name);
    let transport = match parts.uri.query() {
        Some(STDIO) => "stdio",
        _ if app.service.url.starts_with("https://") => "https",
        _ => "http",
    };
    let response = session.respond(&app, &envelope, bytes, received, transport).await;
    // Its canonical form always exists: it has no large numbers.
    let response = sign(&session.session_key, &session.settings.key_id, &envelope.id, response)
        .ok_or(ApiError::Service(ServiceError::Internal))?;
    Ok(json(StatusCode::OK, response.to_string()))
}

/// An authenticated session.
struct Session {
    key: Arc<ApiKey>,
    settings: AcsSettings,
    session_key: SessionKey,
    chain_id: String,
}

/// A decision with the members of its event.
struct Ruled {
    verdict: Verdict,
    /// The event with the decision of the policy.
    event_id: Option<String>,
    tool: Option<String>,
    reason: String,
}

impl Ruled {
    fn allow(reason: &str) -> Self {
        Self { verdict: Verdict::allow(), event_id: None, tool: None, reason: reason.to_owned() }
    }

    fn deny(code: &str, message: &str) -> Self {
        Self { verdict: Verdict::deny(code, message), event_id: None, tool: None, reason: code.to_owned() }
    }
}

impl From<&ApiError> for Ruled {
    fn from(error: &ApiError) -> Self {
        Self::deny(error.status_and_code().1, &error.message())
    }
}

impl Session {
    /// Returns the session if its key signed the request.
    fn verify(app: &App, envelope: &Envelope, connection: Option<&Connection>) -> Option<Self> {
        let signature = envelope.signature.as_ref()?;
        let (key, settings) = app.keyring.speaks_acs(&signature.key_id, app.service.clock.seconds())?;
        let session_key = envelope.authenticate(&settings.secret)?;
        app.is_usable(key, connection).then(|| Self {
            chain_id: format!("acs:{}:{}", key.name, envelope.session_id),
            settings: settings.clone(),
            key: Arc::clone(key),
            session_key,
        })
    }

    /// Returns the result of a request.
    async fn respond(
        &self,
        app: &App,
        envelope: &Envelope,
        bytes: usize,
        received: i64,
        transport: &'static str,
    ) -> Json {
        // A ping is always answered.
        if envelope.is_ping() {
            return pong_result(app, envelope);
        }
        let mut step = match read_step(envelope, received) {
            Ok(step) => step,
            Err(refusal) => {
                let verdict = Verdict::deny(refusal.code, &refusal.message);
                return result(envelope.request_id(), verdict, None);
            }
        };
        match &step.kind {
            Kind::Hello => return hello(&step, transport),
            Kind::Ping => return pong_result(app, envelope),
            Kind::Action(_) | Kind::Event => {}
        }
        let sessions = &app.service.state.acs;
        if !sessions.is_new(&self.chain_id, &step.request_id, step.sent, received) {
            let problem = "request_id: already used in this session; use a new one";
            return result(&step.request_id, Verdict::deny("replay_detected", problem), None);
        }
        let ruled = self.decide(app, &mut step, bytes, received).await;
        let ruled = ruled.unwrap_or_else(|error| Ruled::from(&error));
        let entry = ContextEntry {
            entry_id: ruled.event_id.as_deref().unwrap_or(&step.request_id),
            step_id: &step.request_id,
            step_type: &envelope.method,
            request_hash: &step.request_hash,
            timestamp: &step.timestamp,
        };
        let recorded = SessionStep {
            agent_id: step.agent_id.as_deref(),
            decision: ruled.verdict.decision,
            reason_code: &ruled.reason,
            tool_id: ruled.tool.as_deref(),
        };
        match app.service.append_session_entry(&self.key, &self.chain_id, &entry, recorded).await {
            Ok(hash) => result(&step.request_id, ruled.verdict, Some(hash)),
            // Without the entry, the published chain would not contain the decision.
            Err(error) => result(&step.request_id, Ruled::from(&ApiError::Service(error)).verdict, None),
        }
    }

    async fn decide(
        &self,
        app: &App,
        step: &mut Step,
        bytes: usize,
        received: i64,
    ) -> Result<Ruled, ApiError> {
        within_limit(&self.key)?;
        Authorized::of(&self.key, Capability::Act)?;
        match std::mem::replace(&mut step.kind, Kind::Event) {
            Kind::Action(request) => self.decide_action(app, *request, bytes, received).await,
            Kind::Event | Kind::Hello | Kind::Ping => Ok(Ruled::allow("acs.event")),
        }
    }

    async fn decide_action(
        &self,
        app: &App,
        request: Preflight,
        bytes: usize,
        received: i64,
    ) -> Result<Ruled, ApiError> {
        let tool = request.tool.as_str().to_owned();
        let _admitted = admit(app, &self.key)?;
        let (key, took, begun) = (Arc::clone(&self.key), Duration::ZERO, Instant::now());
        let pending = PendingPreflight { key, request, bytes, received, took, begun, proven_key: None };
        let response = app.service.preflight(pending).await?;
        let response = Json::parse(&response).unwrap_or(Json::Null);
        let text = |name: &str| response.member(name).and_then(Json::as_str);
        let explain = response.member("explain");
        let reason = text("reason_code").unwrap_or("unspecified").to_owned();
        let approval = text("approval_request_id");
        let mut members = vec![
            ("reason_codes", Json::Array(vec![Json::from(&*reason)])),
            ("policy_references", policy_references(&self.key, explain)),
            ("policy_data", policy_data(&response)),
        ];
        let summary = explain.and_then(|explain| explain.member("summary")).cloned();
        members.push(("reasoning", summary.clone().unwrap_or_else(|| Json::from(&*reason))));
        let decision = match (text("decision"), approval) {
            (Some("allow"), _) if response.member("replayed").is_some() => {
                let problem = "request_id: already used in this session; use a new one";
                let refused = Ruled::deny("replay_detected", problem);
                return Ok(Ruled { tool: Some(tool), ..refused });
            }
            (Some("allow"), _) => "allow",
            (Some("require_approval"), Some(id)) => {
                let (name, details) = self.approval(app, id, summary).await;
                let decision = if name == "ask_details" { "ask" } else { "defer" };
                members.push((name, details));
                decision
            }
            (_, _) => "deny",
        };
        let event_id = text("evidence_event_id").map(str::to_owned);
        Ok(Ruled { verdict: Verdict { decision, members }, event_id, tool: Some(tool), reason })
    }

    /// Returns how a pending approval is resolved.
    async fn approval(&self, app: &App, id: &str, summary: Option<Json>) -> (&'static str, Json) {
        let found = app.service.find_approval(&self.key, id).await.ok().flatten();
        let now = app.service.clock.seconds();
        let left = found.map_or(app.service.approval_seconds, |found| found.deadline.saturating_sub(now));
        let left = left.max(1);
        let number = |number: i64| Some(Json::Number(Number::from(number)));
        if !self.settings.asks {
            let details = [
                ("reason", Some(Json::from("pending_dependency"))),
                ("resolution_method", Some(Json::from("human_approval"))),
                ("resolution_timeout_ms", number(left.saturating_mul(1000))),
                ("timeout_decision", Some(Json::from("deny"))),
            ];
            return ("defer_details", object(details));
        }
        let page = format!("{}/approvals/{id}", app.service.url);
        let approver = object([
            ("type", Some(Json::from("human"))),
            ("id", Some(Json::from(id))),
            ("endpoint", Some(Json::String(page))),
        ]);
        let details = [
            ("approver", Some(approver)),
            ("question", Some(summary.unwrap_or_else(|| Json::from("May this action run?")))),
            ("options", Some(Json::Array(vec![Json::from("approve"), Json::from("reject")]))),
            ("timeout_seconds", number(left)),
            ("timeout_disposition", Some(Json::from("deny"))),
        ];
        ("ask_details", object(details))
    }
}

/// Returns the result of a hello over a transport.
fn hello(step: &Step, transport: &'static str) -> Json {
    let texts = |texts: &[&str]| Some(Json::Array(texts.iter().map(|text| Json::from(*text)).collect()));
    let number = |number: i64| Some(Json::Number(Number::from(number)));
    let methods: Vec<&str> =
        ACTIONS.into_iter().chain(EVENTS).chain(["steps/userMessage", "system/ping"]).collect();
    let hello = object([
        ("negotiated_version", Some(Json::from(VERSION))),
        ("methods_evaluated", texts(&methods)),
        ("selected_transport", Some(Json::from(transport))),
        ("signature_algorithms_supported", texts(&[ALGORITHM])),
        ("timeout_config", Some(object([("default_ms", number(DECISION_TIMEOUT_MS))]))),
        ("skew_window_ms", number(SKEW_MS)),
        ("on_decision_failure", Some(Json::from("deny"))),
        ("approver_types_supported", texts(&["human"])),
        ("policy_requires_provenance", Some(Json::Bool(false))),
        ("profiles_accepted", texts(&["acs-core", "acs-audit"])),
    ]);
    let Json::Object(members) = result(&step.request_id, Verdict::allow(), None) else {
        return Json::Null;
    };
    let mut members = members;
    // The implementations of the standard read the hello in two places.
    members.extend(hello.as_object().into_iter().flatten().cloned());
    members.push(("payload".to_owned(), hello));
    Json::Object(members)
}

fn policy_references(key: &ApiKey, explain: Option<&Json>) -> Json {
    let policy = &key.tenant.policy;
    let version = match policy.version() {
        Json::String(version) => version.clone(),
        other @ (Json::Array(_) | Json::Bool(_) | Json::Null | Json::Number(_) | Json::Object(_)) => {
            other.to_string()
        }
    };
    let rules = match explain.and_then(|explain| explain.member("matched_rules")) {
        Some(Json::Array(rules)) => rules.as_slice(),
        Some(_) | None => &[],
    };
    let reference = |rule: &Json| {
        object([
            ("policy_id", Some(Json::from(policy.id()))),
            ("policy_version", Some(Json::from(&*version))),
            ("rule_id", Some(rule.clone())),
        ])
    };
    Json::Array(rules.iter().map(reference).collect())
}

/// The parts of a decision that the standard has no member for.
fn policy_data(response: &Json) -> Json {
    let kept = ["approval_request_id", "evidence_event_id", "policy_hash", "request_hash", "risk_tier"];
    let kept = kept.into_iter().filter_map(|name| Some((name.to_owned(), response.member(name)?.clone())));
    object([("actpass", Some(Json::Object(kept.collect())))])
}

/// The response to a ping without signature.
fn pong(app: &App, envelope: &Envelope) -> Json {
    object([
        ("jsonrpc", Some(Json::from("2.0"))),
        ("id", Some(envelope.id.clone())),
        ("result", Some(pong_result(app, envelope))),
    ])
}

fn pong_result(app: &App, envelope: &Envelope) -> Json {
    let payload = object([
        ("status", Some(Json::from("ok"))),
        ("echo", echo(envelope).cloned()),
        ("server_timestamp", Some(Json::String(rfc3339(app.service.clock.seconds())))),
    ]);
    let verdict = Verdict { members: vec![("payload", payload)], ..Verdict::allow() };
    result(envelope.request_id(), verdict, None)
}
