//! Sample requests, responses and policies.

use std::fmt::Write;

use actpass_core::{Action, Json};

use crate::policy::Input;

/// The path of a preflight.
pub const PATH: &str = "/api/v1/actions/preflight";

/// The API key of the clients.
pub const KEY: &str = "apk_bench";

/// The body sent by the fixed-response servers.
pub const ANSWER: &str = r#"{"decision":"allow","reason_code":"refund.small_in_scope","risk_tier":"high","explain":{"summary":"Small refund.","matched_rules":["small_refund_auto_approve"],"next_steps":[]},"evidence_event_id":"ev_0192f0c1"}"#;

/// [`ANSWER`] as a complete HTTP/1.1 response.
pub fn response() -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{ANSWER}",
        ANSWER.len()
    )
}

/// The refund policy, whose three rules end every longer policy.
const REFUNDS: &str = include_str!("../../policies/dev.json");

/// The action of every client.
pub fn action() -> Action {
    Action::new("resolve_refund_request", "stripe.refund.create")
        .resource("stripe:charge:ch_123")
        .args_text(r#"{"amount": 4900, "currency": "usd"}"#)
}

/// The same action with arguments of about `bytes` bytes.
pub fn action_of(bytes: usize) -> Action {
    Action::new("resolve_refund_request", "stripe.refund.create")
        .resource("stripe:charge:ch_123")
        .args_text(arguments(bytes))
}

/// Realistic arguments of about `bytes` bytes: rows of short strings and numbers.
pub fn arguments(bytes: usize) -> String {
    let mut text = String::from(r#"{"amount": 4900, "currency": "usd", "items": ["#);
    for index in 0.. {
        let comma = if index == 0 { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            r#"{comma}{{"sku": "article-{index}", "count": {}, "note": "left at the door"}}"#,
            index % 7
        );
        if text.len() + 2 >= bytes {
            break;
        }
    }
    text.push_str("]}");
    text
}

/// A preflight body of the same length as the client's.
pub fn body(idempotency_key: &str) -> String {
    format!(
        r#"{{"agent_id": "sdk", "goal": "resolve_refund_request", "tool": "stripe.refund.create", "resource": "stripe:charge:ch_123", "args": {{"amount": 4900, "currency": "usd"}}, "user_id": null, "passport": null, "mode": "enforce", "idempotency_key": "{idempotency_key}", "audience": null}}"#
    )
}

/// A policy with `rules` rules, at least three: rules about other tools, followed by the refund
/// policy.
///
/// # Errors
///
/// If the refund policy cannot be parsed.
pub fn policy(rules: usize) -> Result<String, crate::Failure> {
    let (head, refunds) =
        REFUNDS.split_once("\"rules\": [").ok_or("the refund policy has no rules that are found")?;
    let mut text = format!("{head}\"rules\": [");
    for index in 0..rules.saturating_sub(3) {
        write!(
            text,
            r#"
    {{
      "name": "record_{index}",
      "when": [
        {{"path": "tool", "operator": "==", "value": "crm.record.update_{index}"}},
        {{"path": "args.amount", "operator": "<=", "value": {index}}}
      ],
      "decision": "allow",
      "reason": "crm.record_{index}"
    }},"#
        )?;
    }
    text.push_str(refunds);
    Ok(text)
}

/// The members of the action as policy input.
#[derive(Debug)]
pub struct Asked {
    agent_id: Json,
    args: Json,
    goal: Json,
    resource: Json,
    tool: Json,
}

impl Asked {
    /// The members of [`action`].
    ///
    /// # Errors
    ///
    /// If its arguments are not JSON.
    pub fn new() -> Result<Self, crate::Failure> {
        Ok(Self {
            agent_id: Json::from("sdk"),
            args: Json::parse(br#"{"amount": 4900, "currency": "usd"}"#)?,
            goal: Json::from("resolve_refund_request"),
            resource: Json::from("stripe:charge:ch_123"),
            tool: Json::from("stripe.refund.create"),
        })
    }

    /// The policy input.
    pub fn input(&self) -> Input<'_> {
        Input {
            agent_id: Some(&self.agent_id),
            args: Some(&self.args),
            goal: Some(&self.goal),
            resource: Some(&self.resource),
            tool: Some(&self.tool),
            ..Input::default()
        }
    }
}
