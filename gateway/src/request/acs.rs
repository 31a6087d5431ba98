//! Requests of the OWASP Agent Control Standard 0.1: steps, and the mapping of steps that carry an
//! action to preflights.

use actpass_acs::Envelope;
use actpass_protocol::{Json, canonical_json, sha256_hex};
use uuid::Uuid;

use super::Protocol;
use super::body::{BodyMembers, InvalidMember};
use super::preflight::Preflight;
use crate::acs::SKEW_MS;
use crate::clock::parse_millis;
use crate::object_writer::object;

/// The steps whose payload is an action, by method. They are decided like a preflight.
pub(crate) const ACTIONS: [&str; 6] = [
    "protocols/MCP/tools/call",
    "steps/memoryStore",
    "steps/skillLoad",
    "steps/skillRegister",
    "steps/subagentStart",
    "steps/toolCallRequest",
];

/// The steps that carry no action. They are recorded and allowed.
pub(crate) const EVENTS: [&str; 15] = [
    "agbom/changed",
    "agbom/snapshot",
    "steps/agentResponse",
    "steps/agentTrigger",
    "steps/knowledgeRetrieval",
    "steps/memoryContextRetrieval",
    "steps/postCompact",
    "steps/preCompact",
    "steps/sessionEnd",
    "steps/sessionStart",
    "steps/skillUnload",
    "steps/subagentStop",
    "steps/toolCallResult",
    "steps/turnEnd",
    "steps/turnStart",
];

const USER_MESSAGE: &str = "steps/userMessage";
const MCP: &str = "protocols/MCP/";

/// The member of `args` with the parts of a tool call that are no arguments.
const RESERVED: &str = "acs";

/// Why an authenticated step is denied without a decision of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<InvalidMember> for Refusal {
    fn from(invalid: InvalidMember) -> Self {
        Self::new("invalid_member", invalid.to_string())
    }
}

/// A step of a session.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) request_id: String,
    pub(crate) timestamp: String,
    /// The timestamp, in milliseconds since 1970.
    pub(crate) sent: i64,
    /// The SHA-256 of the canonical `params`.
    pub(crate) request_hash: String,
    pub(crate) agent_id: Option<String>,
    pub(crate) kind: Kind,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Action(Box<Preflight>),
    Event,
    Hello,
    Ping,
}

/// Parses the step of a verified request at `now`, in milliseconds since 1970.
pub(crate) fn read_step(envelope: &Envelope, now: i64) -> Result<Step, Refusal> {
    let mut params = BodyMembers::of(envelope.params.clone())?;
    let version = params.text("acs_version", 32)?;
    if version.split('.').next() != Some("0") || version.split('.').count() != 3 {
        let problem = format!("acs_version: expected 0.1.0, found {version:?}");
        return Err(Refusal::new("unsupported_version", problem));
    }
    let request_id = params.text("request_id", 64)?;
    for (name, id) in [("request_id", &request_id), ("metadata.session_id", &envelope.session_id)] {
        if Uuid::try_parse(id).is_err() {
            return Err(Refusal::new("invalid_member", format!("{name}: expected a UUID")));
        }
    }
    let timestamp = params.text("timestamp", 64)?;
    let Some(sent) = parse_millis(&timestamp) else {
        return Err(Refusal::new("invalid_member", "timestamp: expected an RFC 3339 time"));
    };
    if sent.abs_diff(now) > SKEW_MS.unsigned_abs() {
        let problem = format!("timestamp: more than {SKEW_MS} ms from the gateway's clock");
        return Err(Refusal::new("timestamp_out_of_window", problem));
    }
    let mut metadata = BodyMembers::of(params.object("metadata")?)?;
    let within = |error: InvalidMember| error.within("metadata");
    let agent_id = metadata.optional_text("agent_id", 256).map_err(within)?;
    let user = metadata.optional_object("user_context").map_err(within)?;
    let user_id = match user {
        None => None,
        Some(user) => BodyMembers::of(user)?
            .optional_text("user_id", 256)
            .map_err(|error| error.within("user_context").within("metadata"))?,
    };
    let payload = params.optional_object("payload")?.unwrap_or(Json::Object(Vec::new()));
    let kind = match envelope.method.as_str() {
        "handshake/hello" => Kind::Hello,
        "system/ping" => Kind::Ping,
        method if is_event(method) => Kind::Event,
        method if ACTIONS.contains(&method) || method.starts_with(MCP) => {
            let mut body = action(method, payload)?;
            let key = format!("acs:{}:{request_id}", envelope.session_id);
            let named = [("agent_id", agent_id.clone()), ("user_id", user_id)];
            let named = named.into_iter().filter_map(|(name, text)| Some((name, text?)));
            body.extend(named.map(|(name, text)| (name.to_owned(), Json::String(text))));
            body.push(("idempotency_key".to_owned(), Json::String(key)));
            let preflight = Preflight::read(Json::Object(body))?;
            Kind::Action(Box::new(Preflight { protocol: Protocol::Acs, ..preflight }))
        }
        other => return Err(Refusal::new("unknown_method", format!("method: unknown: {other:?}"))),
    };
    let canonical = canonical_json(&envelope.params)
        .map_err(|error| Refusal::new("invalid_member", format!("params: no canonical form: {error}")))?;
    Ok(Step { request_id, timestamp, sent, request_hash: sha256_hex(&canonical), agent_id, kind })
}

/// The text of a ping that its response repeats.
pub(crate) fn echo(envelope: &Envelope) -> Option<&Json> {
    let echo = envelope.params.member("payload").and_then(|payload| payload.member("echo"));
    echo.filter(|echo| echo.as_str().is_some())
}

/// Returns whether a step carries no action.
fn is_event(method: &str) -> bool {
    let mcp = method.strip_prefix(MCP).unwrap_or_default();
    let lists =
        mcp == "initialize" || mcp == "ping" || mcp.ends_with("/list") || mcp.starts_with("notifications/");
    method == USER_MESSAGE || EVENTS.contains(&method) || lists
}

/// Returns the members of the preflight that are the action itself.
fn action(method: &str, payload: Json) -> Result<Vec<(String, Json)>, Refusal> {
    let member = |name: &str, value: Json| (name.to_owned(), value);
    let empty = || Json::Object(Vec::new());
    if method == "steps/toolCallRequest" {
        return tool_call(payload).map_err(|error| error.within("payload").into());
    }
    if let Some(mcp) = method.strip_prefix(MCP) {
        // The wrapped message, or its parameters alone.
        let params = payload.member("params").cloned().unwrap_or(payload);
        let mut params = BodyMembers::of(params)?;
        if mcp == "tools/call" {
            let tool = params.text("name", 256).map_err(|error| error.within("payload"))?;
            let args = params.optional_object("arguments").map_err(|error| error.within("payload"))?;
            return Ok(vec![
                member("tool", Json::String(tool)),
                member("args", args.unwrap_or_else(empty)),
                member("goal", Json::from(mcp)),
            ]);
        }
        let args = Json::Object(params.take_all());
        return Ok(vec![
            member("tool", Json::from(mcp)),
            member("args", args),
            member("goal", Json::from(mcp)),
        ]);
    }
    Ok(vec![member("tool", Json::from(method)), member("args", payload), member("goal", Json::from(method))])
}

fn tool_call(payload: Json) -> Result<Vec<(String, Json)>, InvalidMember> {
    let mut payload = BodyMembers::of(payload)?;
    let mut tool = BodyMembers::of(payload.object("tool")?)?;
    let name = tool.text("name", 256).map_err(|error| error.within("tool"))?;
    let mut args = Vec::new();
    let given = payload.optional_object("arguments")?.unwrap_or(Json::Object(Vec::new()));
    for (name, argument) in BodyMembers::of(given)?.take_all() {
        if name == RESERVED {
            return Err(InvalidMember::new("arguments", format_args!("{RESERVED:?} is reserved")));
        }
        let Some(value) = argument.member("value") else {
            let problem = "expected objects with a value";
            return Err(InvalidMember::new("arguments", format_args!("{name:?}: {problem}")));
        };
        args.push((name, value.clone()));
    }
    let rest = object([
        ("capability", payload.optional_text("capability", 256)?.map(Json::String)),
        ("operation", payload.optional_text("operation", 256)?.map(Json::String)),
        ("raw_command", payload.optional_text("raw_command", usize::MAX)?.map(Json::String)),
    ]);
    if rest != Json::Object(Vec::new()) {
        args.push((RESERVED.to_owned(), rest));
    }
    let mut goal = "steps/toolCallRequest".to_owned();
    if let Some(intent) = payload.optional_object("intent")? {
        let mut intent = BodyMembers::of(intent)?;
        let within = |error: InvalidMember| error.within("intent");
        let described = intent.optional_text("description", 4096).map_err(within)?;
        let named = intent.optional_text("goal", 4096).map_err(within)?;
        goal = named.or(described).filter(|text| !text.is_empty()).unwrap_or(goal);
    }
    Ok(vec![
        ("tool".to_owned(), Json::String(name)),
        ("args".to_owned(), Json::Object(args)),
        ("goal".to_owned(), Json::String(goal)),
    ])
}
