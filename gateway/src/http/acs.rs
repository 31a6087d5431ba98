//! The gateway as the Guardian of the OWASP Agent Control Standard 0.1: JSON-RPC over HTTP.
//!
//! A request is authenticated by its signature alone; no header is an identity. Every authenticated
//! step gets a signed decision: a failure is a `deny`, because the client may proceed on an error.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actpass_protocol::Json;
use actpass_protocol::json::Number;
use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;

use super::App;
use super::client::Client;
use super::error::{ApiError, json};
use super::preflight::admit;
use super::receive::{check_type, drain, parse, read, within_limit};
use crate::acs::{ALGORITHM, AcsSettings, ContextEntry, SKEW_MS, SessionKey, VERSION};
use crate::auth::{ApiKey, Capability};
use crate::clock::rfc3339;
use crate::connections::Connection;
use crate::events::SessionStep;
use crate::object_writer::object;
use crate::request::Preflight;
use crate::request::acs::{ACTIONS, EVENTS, Envelope, Kind, Refusal, RpcError, Step};
use crate::service::{Authorized, PendingPreflight};

/// Timeout of a client for a decision, in milliseconds: longer than the store's timeout.
const DECISION_TIMEOUT_MS: i64 = 10_000;

#[utoipa::path(
    post,
    path = "/acs",
    operation_id = "acs",
    tag = "acs",
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
    let parsed = app.service.run(bytes, move || Ok::<_, ApiError>(parse_envelope(&raw))).await?;
    let client = parts.extensions.get::<Client>().map(|client| client.0);
    let envelope = match parsed {
        Ok(envelope) => envelope,
        Err(error) => {
            app.attempts.count(client)?;
            return Ok(json(StatusCode::OK, error_response(&error).to_string()));
        }
    };
    if envelope.signature.is_none() {
        return Ok(json(StatusCode::OK, pong(&app, &envelope).to_string()));
    }
    let connection = Connection::of(&parts.extensions);
    let Some(session) = Session::verify(&app, &envelope, connection) else {
        app.attempts.count(client)?;
        let message = "params.signature: unknown key_id, or the signature does not cover this request";
        let error = RpcError {
            id: envelope.id.clone(),
            code: -32004,
            reason: "signature_invalid",
            message: message.to_owned(),
        };
        return Ok(json(StatusCode::OK, error_response(&error).to_string()));
    };
    if let Some(connection) = connection {
        connection.authenticate();
    }
    let span = tracing::Span::current();
    span.record("tenant", &*session.key.tenant.id).record("key", &*session.key.name);
    let response = session.respond(&app, &envelope, bytes, received).await;
    // Its canonical form always exists: it has no large numbers.
    let response = session
        .sign(&envelope.id, response)
        .ok_or(ApiError::Service(crate::service::ServiceError::Internal))?;
    Ok(json(StatusCode::OK, response.to_string()))
}

fn parse_envelope(raw: &[u8]) -> Result<Envelope, RpcError> {
    let mut envelope = Err(RpcError {
        id: Json::Null,
        code: -32700,
        reason: "parse_error",
        message: "expected one JSON object without duplicate members".to_owned(),
    });
    // Both failures are errors of JSON-RPC, so the parser's own is not used.
    let _ = parse(raw, |body| {
        envelope = Envelope::read(body);
        Ok(())
    });
    envelope
}

/// An authenticated session.
struct Session {
    key: Arc<ApiKey>,
    settings: AcsSettings,
    session_key: SessionKey,
    chain_id: String,
}

/// A decision, as members of the result.
struct Verdict {
    decision: &'static str,
    members: Vec<(&'static str, Json)>,
    /// The event with the decision of the policy.
    event_id: Option<String>,
    tool: Option<String>,
    reason: String,
}

impl Verdict {
    fn allow(reason: &str) -> Self {
        let (members, reason) = (Vec::new(), reason.to_owned());
        Self { decision: "allow", members, event_id: None, tool: None, reason }
    }

    fn deny(code: &str, message: &str) -> Self {
        let codes = Json::Array(vec![Json::from(code)]);
        let members = vec![("reason_codes", codes), ("reasoning", Json::from(message))];
        Self { decision: "deny", members, event_id: None, tool: None, reason: code.to_owned() }
    }
}

impl From<&Refusal> for Verdict {
    fn from(refusal: &Refusal) -> Self {
        Self::deny(refusal.code, &refusal.message)
    }
}

impl From<&ApiError> for Verdict {
    fn from(error: &ApiError) -> Self {
        Self::deny(error.status_and_code().1, &error.message())
    }
}

impl Session {
    /// Returns the session if its key signed the request.
    fn verify(app: &App, envelope: &Envelope, connection: Option<&Connection>) -> Option<Self> {
        let signature = envelope.signature.as_ref()?;
        let (key, settings) = app.keyring.speaks_acs(&signature.key_id, app.service.clock.seconds())?;
        let session_key = SessionKey::derive(&settings.secret, &envelope.session_id)?;
        let is_signed = session_key.verifies(&envelope.signed, &signature.value);
        (is_signed && app.is_usable(key, connection)).then(|| Self {
            chain_id: format!("acs:{}:{}", key.name, envelope.session_id),
            settings: settings.clone(),
            key: Arc::clone(key),
            session_key,
        })
    }

    /// Returns the result of a request.
    async fn respond(&self, app: &App, envelope: &Envelope, bytes: usize, received: i64) -> Json {
        // A ping is always answered.
        if envelope.method == "system/ping" {
            return pong_result(app, envelope);
        }
        let mut step = match envelope.step(received) {
            Ok(step) => step,
            Err(refusal) => return result(envelope.request_id(), Verdict::from(&refusal), None),
        };
        match &step.kind {
            Kind::Hello => return self.hello(app, &step),
            Kind::Ping => return pong_result(app, envelope),
            Kind::Action(_) | Kind::Event => {}
        }
        let sessions = &app.service.state.acs;
        if !sessions.is_new(&self.chain_id, &step.request_id, step.sent, received) {
            let problem = "request_id: already used in this session; use a new one";
            return result(&step.request_id, Verdict::deny("replay_detected", problem), None);
        }
        let verdict = self.decide(app, &mut step, bytes, received).await;
        let verdict = verdict.unwrap_or_else(|error| Verdict::from(&error));
        let entry = ContextEntry {
            entry_id: verdict.event_id.as_deref().unwrap_or(&step.request_id),
            step_id: &step.request_id,
            step_type: &envelope.method,
            request_hash: &step.request_hash,
            timestamp: &step.timestamp,
        };
        let recorded = SessionStep {
            agent_id: step.agent_id.as_deref(),
            decision: verdict.decision,
            reason_code: &verdict.reason,
            tool_id: verdict.tool.as_deref(),
        };
        match app.service.append_session_entry(&self.key, &self.chain_id, &entry, recorded).await {
            Ok(hash) => result(&step.request_id, verdict, Some(hash)),
            // Without the entry, the published chain would not contain the decision.
            Err(error) => result(&step.request_id, Verdict::from(&ApiError::Service(error)), None),
        }
    }

    async fn decide(
        &self,
        app: &App,
        step: &mut Step,
        bytes: usize,
        received: i64,
    ) -> Result<Verdict, ApiError> {
        within_limit(&self.key)?;
        Authorized::of(&self.key, Capability::Act)?;
        match std::mem::replace(&mut step.kind, Kind::Event) {
            Kind::Action(request) => self.decide_action(app, *request, bytes, received).await,
            Kind::Event | Kind::Hello | Kind::Ping => Ok(Verdict::allow("acs.event")),
        }
    }

    async fn decide_action(
        &self,
        app: &App,
        request: Preflight,
        bytes: usize,
        received: i64,
    ) -> Result<Verdict, ApiError> {
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
                let refused = Verdict::deny("replay_detected", problem);
                return Ok(Verdict { tool: Some(tool), ..refused });
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
        Ok(Verdict { decision, members, event_id, tool: Some(tool), reason })
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

    fn hello(&self, app: &App, step: &Step) -> Json {
        let texts = |texts: &[&str]| Some(Json::Array(texts.iter().map(|text| Json::from(*text)).collect()));
        let number = |number: i64| Some(Json::Number(Number::from(number)));
        let methods: Vec<&str> =
            ACTIONS.into_iter().chain(EVENTS).chain(["steps/userMessage", "system/ping"]).collect();
        let transport = if app.service.url.starts_with("https://") { "https" } else { "http" };
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
        let Json::Object(members) = result(&step.request_id, Verdict::allow("acs.hello"), None) else {
            return Json::Null;
        };
        let mut members = members;
        // The implementations of the standard read the hello in two places.
        members.extend(hello.as_object().into_iter().flatten().cloned());
        members.push(("payload".to_owned(), hello));
        Json::Object(members)
    }

    /// Signs a result.
    fn sign(&self, id: &Json, result: Json) -> Option<Json> {
        let envelope = |result: Json| {
            object([("jsonrpc", Some(Json::from("2.0"))), ("id", Some(id.clone())), ("result", Some(result))])
        };
        let value = self.session_key.sign(&envelope(result.clone()))?;
        let Json::Object(mut members) = result else { return None };
        let signature = object([
            ("algorithm", Some(Json::from(ALGORITHM))),
            ("value", Some(Json::String(value))),
            ("key_id", Some(Json::from(&*self.settings.key_id))),
        ]);
        members.push(("signature".to_owned(), signature));
        Some(envelope(Json::Object(members)))
    }
}

fn result(request_id: &str, verdict: Verdict, chain_hash: Option<String>) -> Json {
    let fixed = object([
        ("type", Some(Json::from("final"))),
        ("acs_version", Some(Json::from(VERSION))),
        ("request_id", Some(Json::from(request_id))),
        ("decision", Some(Json::from(verdict.decision))),
        ("metadata", Some(object([("evaluator", Some(Json::from("deterministic")))]))),
        ("chain_hash", chain_hash.map(Json::String)),
    ]);
    let Json::Object(mut members) = fixed else { return Json::Null };
    members.extend(verdict.members.into_iter().map(|(name, value)| (name.to_owned(), value)));
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
        ("echo", envelope.echo().cloned()),
        ("server_timestamp", Some(Json::String(rfc3339(app.service.clock.seconds())))),
    ]);
    let verdict = Verdict { members: vec![("payload", payload)], ..Verdict::allow("acs.ping") };
    result(envelope.request_id(), verdict, None)
}

fn error_response(error: &RpcError) -> Json {
    let data =
        object([("reason", Some(Json::from(error.reason))), ("message", Some(Json::from(&*error.message)))]);
    let shown = object([
        ("code", Some(Json::Number(Number::from(error.code)))),
        ("message", Some(Json::from(&*error.message))),
        ("data", Some(data)),
    ]);
    object([("jsonrpc", Some(Json::from("2.0"))), ("id", Some(error.id.clone())), ("error", Some(shown))])
}
