//! Ledger events as events of the Open Cybersecurity Schema Framework (OCSF), for a SIEM.
//!
//! Each ledger event becomes one event. The classes are those of the Agent Control Standard 0.1: a
//! decision is a Detection Finding, the end of a tool call a Process Activity. Everything else is a
//! Base Event. `unmapped.actpass` contains the ledger event as stored, with its hashes.

use actpass_protocol::json::Number;
use actpass_protocol::{ACTION_OUTCOME, ActionEnd, Json};

use crate::clock::parse_millis;
use crate::events;
use crate::ledger;
use crate::object_writer::object;

/// Version of the schema.
pub const VERSION: &str = "1.8.0";

/// The enum value for a value outside of the enum; its sibling attribute has the word.
const OTHER: i64 = 99;

/// An event class with an activity.
struct Class {
    uid: i64,
    name: &'static str,
    category: &'static str,
    activity_id: i64,
    activity: &'static str,
    /// The profiles whose attributes the event uses.
    profiles: &'static [&'static str],
}

impl Class {
    const fn finding(activity_id: i64, activity: &'static str) -> Self {
        let profiles = &["host", "security_control"];
        Self { uid: 2004, name: "Detection Finding", category: "Findings", activity_id, activity, profiles }
    }

    const TOOL_CALL_ENDED: Self = Self {
        uid: 1007,
        name: "Process Activity",
        category: "System Activity",
        activity_id: 2,
        activity: "Terminate",
        profiles: &[],
    };

    const OTHER: Self = Self {
        uid: 0,
        name: "Base Event",
        category: "Uncategorized",
        activity_id: OTHER,
        activity: "Other",
        profiles: &["host"],
    };
}

/// Values of `severity_id`.
#[derive(Clone, Copy)]
enum Severity {
    Informational = 1,
    Low = 2,
    Medium = 3,
    High = 4,
}

/// Error of converting an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event {0} has no {1}")]
pub struct NotAnEvent(String, &'static str);

/// Converts a ledger event.
///
/// # Errors
///
/// Returns an error if a member that every ledger event has is missing or invalid.
pub fn event(event: &Json) -> Result<Json, NotAnEvent> {
    let text = |name: &str| event.member(name).and_then(Json::as_str);
    let missing = |name| NotAnEvent(text("event_id").unwrap_or("without an id").to_owned(), name);
    let created_at = text("created_at").ok_or_else(|| missing("created_at"))?;
    let time = number(parse_millis(created_at).ok_or_else(|| missing("valid created_at"))?);
    let event_id = text("event_id").ok_or_else(|| missing("event_id"))?;
    let event_type = text("event_type").ok_or_else(|| missing("event_type"))?;
    let decision = text("decision").unwrap_or_default();

    let (class, severity, mut more) = match event_type {
        ledger::DECISION | ledger::ACS_STEP => {
            let finding = finding(event, event_id, time.clone(), decision);
            (Class::finding(1, "Create"), severity_of(decision), finding)
        }
        ledger::APPROVAL_APPROVED | ledger::APPROVAL_REJECTED | ledger::APPROVAL_VOTED => {
            (Class::finding(2, "Update"), Severity::Informational, vote(event, event_id, event_type, &time))
        }
        ACTION_OUTCOME => {
            let (severity, call) = tool_call(event, event_id);
            (Class::TOOL_CALL_ENDED, severity, call)
        }
        ledger::HALT_STARTED => (Class::OTHER, Severity::High, Vec::new()),
        ledger::RELOAD_REFUSED => (Class::OTHER, Severity::Medium, Vec::new()),
        _ => (Class::OTHER, Severity::Informational, Vec::new()),
    };
    let message = words([Some(event_type), text("tool_id"), text("decision"), text("reason_code")]);
    let members = [
        ("time", Some(time)),
        ("category_uid", Some(number(class.uid / 1000))),
        ("category_name", Some(Json::from(class.category))),
        ("class_uid", Some(number(class.uid))),
        ("class_name", Some(Json::from(class.name))),
        ("activity_id", Some(number(class.activity_id))),
        ("activity_name", Some(Json::from(class.activity))),
        ("type_uid", Some(number(class.uid * 100 + class.activity_id))),
        ("severity_id", Some(number(severity as i64))),
        ("message", Some(Json::String(message))),
        ("metadata", Some(metadata(event, event_id, event_type, created_at, class.profiles))),
        ("actor", Some(object([("user", Some(user(event, event_type)))]))),
        ("status_code", text("reason_code").map(Json::from)),
        ("unmapped", Some(object([("actpass", Some(event.clone()))]))),
    ];
    let members = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let mut members: Vec<_> = members.collect();
    members.append(&mut more);
    Ok(Json::Object(members))
}

/// Joins the words that are present.
fn words<const N: usize>(words: [Option<&str>; N]) -> String {
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn number(value: i64) -> Json {
    Json::Number(Number::from(value))
}

/// Severity of a decision, as in the mapping of the Agent Control Standard.
fn severity_of(decision: &str) -> Severity {
    match decision {
        "allow" => Severity::Informational,
        "modify" => Severity::Low,
        "deny" => Severity::High,
        _ => Severity::Medium,
    }
}

/// The attributes of a decision.
fn finding(event: &Json, event_id: &str, time: Json, decision: &str) -> Vec<(String, Json)> {
    let text = |name: &str| event.member(name).and_then(Json::as_str);
    let runs_anyway = matches!(text("mode"), Some("monitor" | "warn"));
    // The ids of the action and of the disposition, with their captions.
    let (action, disposition) = match decision {
        "allow" => ((1, "Allowed"), (1, "Allowed")),
        _ if runs_anyway => ((3, "Observed"), (17, "Logged")),
        "deny" => ((2, "Denied"), (2, "Blocked")),
        "ask" | "defer" | "require_approval" | "require_tool_reapproval" => {
            ((0, "Unknown"), (23, "Challenge"))
        }
        other => ((OTHER, other), (OTHER, other)),
    };
    let rule = match event.member("matched_rules") {
        Some(Json::Array(rules)) => rules.first().and_then(Json::as_str),
        _ => None,
    };
    let analytic = rule.map(|rule| {
        object([
            ("name", Some(Json::from(rule))),
            ("type_id", Some(number(1))),
            ("type", Some(Json::from("Rule"))),
        ])
    });
    let title = words([Some(decision), text("tool_id"), text("reason_code")]);
    let info = object([
        ("uid", Some(Json::from(event_id))),
        ("title", Some(Json::String(title))),
        ("created_time", Some(time)),
        ("analytic", analytic),
    ]);
    let evidence = object([
        ("process", text("tool_id").map(|tool| process(event, event_id, tool))),
        ("user", Some(user(event, ledger::DECISION))),
        ("verdict_id", Some(number(OTHER))),
        ("verdict", Some(Json::from(decision))),
    ]);
    let version = event.member("policy_version");
    let version = version.map(|version| version.as_str().map_or_else(|| version.to_string(), str::to_owned));
    let policy = text("policy_hash").map(|hash| {
        object([
            ("uid", Some(Json::from(hash))),
            ("name", text("policy_id").map(Json::from)),
            ("version", version.map(Json::String)),
            ("is_applied", Some(Json::Bool(!runs_anyway))),
        ])
    });
    let mut members =
        vec![("finding_info".to_owned(), info), ("evidences".to_owned(), Json::Array(vec![evidence]))];
    members.extend(control(action, disposition));
    members.extend(policy.map(|policy| ("policy".to_owned(), policy)));
    members
}

/// The attributes of a vote on the finding whose decision opened the approval.
fn vote(event: &Json, event_id: &str, event_type: &str, time: &Json) -> Vec<(String, Json)> {
    let text = |name: &str| event.member(name).and_then(Json::as_str);
    let info = object([
        ("uid", Some(Json::from(text("approval_request_id").unwrap_or(event_id)))),
        ("title", Some(Json::String(words([Some(event_type), text("tool_id")])))),
        ("modified_time", Some(time.clone())),
    ]);
    let (action, disposition) = match event_type {
        ledger::APPROVAL_APPROVED => ((1, "Allowed"), (8, "Approved")),
        ledger::APPROVAL_REJECTED => ((2, "Denied"), (25, "Rejected")),
        _ => ((0, "Unknown"), (23, "Challenge")),
    };
    let mut members = vec![("finding_info".to_owned(), info)];
    members.extend(control(action, disposition));
    members
}

/// The attributes of a security control.
fn control(action: (i64, &str), disposition: (i64, &str)) -> [(String, Json); 4] {
    [
        ("action_id", number(action.0)),
        ("action", Json::from(action.1)),
        ("disposition_id", number(disposition.0)),
        ("disposition", Json::from(disposition.1)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
}

/// The severity and the attributes of the end of a tool call.
fn tool_call(event: &Json, event_id: &str) -> (Severity, Vec<(String, Json)>) {
    let metadata = event.member("metadata");
    let ended = metadata.and_then(|metadata| metadata.member("ended")).and_then(Json::as_str);
    let (severity, status_id, status) = match ended {
        Some(ended) if ended == ActionEnd::Returned.as_str() => (Severity::Informational, 1, "Success"),
        Some(ended) if ended == ActionEnd::Failed.as_str() => (Severity::Low, 2, "Failure"),
        Some(ended) => (Severity::Informational, OTHER, ended),
        None => (Severity::Informational, 0, "Unknown"),
    };
    let tool = event.member("tool_id").and_then(Json::as_str).unwrap_or("(unknown)");
    let device = object([
        ("uid", Some(Json::from(actor(event)))),
        ("type_id", Some(number(OTHER))),
        ("type", Some(Json::from("AI Agent"))),
    ]);
    let members = [
        ("process", process(event, event_id, tool)),
        ("device", device),
        ("status_id", number(status_id)),
        ("status", Json::from(status)),
    ];
    (severity, members.map(|(name, value)| (name.to_owned(), value)).into())
}

/// A tool call as a process. Its id is the hash of the request, which the decision and the end share.
fn process(event: &Json, event_id: &str, tool: &str) -> Json {
    let call = event.member("request_hash").and_then(Json::as_str).unwrap_or(event_id);
    object([("name", Some(Json::from(tool))), ("uid", Some(Json::from(call)))])
}

fn metadata(event: &Json, event_id: &str, event_type: &str, created_at: &str, profiles: &[&str]) -> Json {
    let member = |name: &str| event.member(name).cloned();
    let product = object([
        ("name", Some(Json::from("ActPass Gateway"))),
        ("vendor_name", Some(Json::from("ActPass"))),
        ("version", Some(Json::from(env!("CARGO_PKG_VERSION")))),
    ]);
    let profiles: Vec<_> = profiles.iter().map(|profile| Json::from(*profile)).collect();
    object([
        ("version", Some(Json::from(VERSION))),
        ("product", Some(product)),
        ("profiles", (!profiles.is_empty()).then_some(Json::Array(profiles))),
        ("uid", Some(Json::from(event_id))),
        ("event_code", Some(Json::from(event_type))),
        ("log_name", member("chain_id")),
        ("sequence", member("seq")),
        ("tenant_uid", member("tenant_id")),
        ("original_time", Some(Json::from(created_at))),
        ("correlation_uid", member("approval_request_id").or_else(|| member("request_hash"))),
    ])
}

/// The agent, otherwise the name of the API key.
fn actor(event: &Json) -> &str {
    let text = |name: &str| event.member(name).and_then(Json::as_str);
    text("agent_id").or_else(|| text("key_name")).unwrap_or("(unknown)")
}

fn user(event: &Json, event_type: &str) -> Json {
    let key_name = event.member("key_name").and_then(Json::as_str);
    let (type_id, kind) = match event_type {
        ledger::APPROVAL_APPROVED | ledger::APPROVAL_REJECTED | ledger::APPROVAL_VOTED => (1, "User"),
        _ if key_name == Some(events::GATEWAY) => (3, "System"),
        _ if event.member("agent_id").is_some() => (OTHER, "AI Agent"),
        ledger::DECISION | ledger::ACS_STEP | ACTION_OUTCOME => (OTHER, "AI Agent"),
        _ => (0, "Unknown"),
    };
    object([
        ("uid", Some(Json::from(actor(event)))),
        ("name", key_name.map(Json::from)),
        ("type_id", Some(number(type_id))),
        ("type", Some(Json::from(kind))),
    ])
}
