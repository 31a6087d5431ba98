//! Decisions: from a checked request and a policy to an answer and the event that records it.
//!
//! All of it is a function of its input; only the event's id is new each time.

use std::sync::Arc;

use actpass_core::{Json, Mode, canonical_json};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::auth::Key;
use crate::ledger::{self, Draft, PolicyRef};
use crate::policy::{Decision, Input, NO_MATCH, Policy, RiskTier, Rule};
use crate::request::{Evidence, Preflight, ToolApproval};
use crate::store::{Append, Effect, Once};

/// A decision that was made, and may be answered once its event is durable.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The answer's body.
    pub answer: Bytes,
    /// What must be recorded before.
    pub append: Append,
}

/// What a tool's manifest is, by the hash that a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manifest {
    /// The one that was approved, or the request names none.
    Approved,
    /// Another one than was approved.
    Changed,
    /// One of a tool of which none was approved.
    Unknown,
}

/// Decides about `request`, which is `body`, which came as the bytes `raw`.
pub fn decide(key: &Key, request: &Preflight<'_>, manifest: Manifest, body: &Json, raw: &[u8]) -> Decided {
    let policy = &key.tenant.policy;
    let agent = key.agent.as_ref().or(request.agent_id.map(|agent| agent.as_json()));
    let tool = request.tool.as_str();
    let ruling = match manifest {
        Manifest::Approved => Ruling::new(policy, policy.first_match(&input(request, agent)), tool),
        Manifest::Changed => {
            Ruling::drifted(policy, tool, "tool.manifest_changed", "changed since it was approved")
        }
        Manifest::Unknown => Ruling::drifted(policy, tool, "tool.not_registered", "was never approved"),
    };
    // Not every body has a canonical form; then no hash is claimed, and only the same bytes are the same request.
    let canonical = canonical_json(body).ok();
    let fingerprint: [u8; 32] = Sha256::digest(canonical.as_deref().unwrap_or(raw)).into();
    let request_hash = canonical.map(|_| hex::encode(fingerprint));

    let event_id = ledger::new_event_id();
    let answer = Bytes::from(ruling.answer(request.mode, &event_id, request_hash.as_deref()).to_string());
    let event = Draft {
        event_id,
        chain_id: ledger::DECISIONS.to_owned(),
        event_type: ledger::DECISION.to_owned(),
        user_id: request.user_id.map(|user| user.as_str().to_owned()),
        tool_id: Some(request.tool.as_str().to_owned()),
        resource: request.resource.map(|resource| resource.as_str().to_owned()),
        goal: Some(request.goal.as_str().to_owned()),
        mode: Some(request.mode.as_str()),
        decision: Some(ruling.decision.to_owned()),
        reason_code: Some(ruling.reason.to_owned()),
        matched_rules: Some(ruling.matched_rules()),
        policy: Some(PolicyRef {
            id: policy.id().to_owned(),
            version: policy.version().clone(),
            hash: policy.hash().to_owned(),
        }),
        request_hash,
        ..signed(key, agent.and_then(Json::as_str), request.agent_id.map(|agent| agent.as_str()))
    };
    let once = request.idempotency_key.map(|idempotency_key| Once {
        idempotency_key: idempotency_key.as_str().to_owned(),
        fingerprint,
        answer: answer.clone(),
    });
    Decided { answer, append: Append { event, once, effect: None } }
}

/// The event that a client wants recorded.
pub fn witness(key: &Key, evidence: &Evidence<'_>) -> Append {
    let owned = |text: crate::request::Text<'_>| text.as_str().to_owned();
    let event = Draft {
        event_id: ledger::new_event_id(),
        chain_id: owned(evidence.chain_id),
        event_type: owned(evidence.event_type),
        tool_id: evidence.tool_id.map(owned),
        decision: evidence.decision.map(owned),
        reason_code: evidence.reason_code.map(owned),
        request_hash: evidence.request_hash.map(owned),
        response_hash: evidence.response_hash.map(owned),
        metadata: evidence.metadata.cloned(),
        ..signed(key, key.agent.as_ref().and_then(Json::as_str), None)
    };
    Append { event, once: None, effect: None }
}

/// The event of a tool that an operator approves, which has that effect.
pub fn approve_tool(key: &Key, approval: &ToolApproval<'_>) -> Append {
    let hash = approval.manifest_hash.clone();
    let event = Draft {
        event_id: ledger::new_event_id(),
        chain_id: ledger::TOOLS.to_owned(),
        event_type: ledger::TOOL_APPROVED.to_owned(),
        tool_id: Some(approval.tool_id.as_str().to_owned()),
        metadata: Some(object([("manifest_hash", Some(Json::from(&*hash)))])),
        ..signed(key, None, None)
    };
    Append { event, once: None, effect: Some(Effect::ApproveManifest { hash }) }
}

/// An event with the members that say who caused it.
fn signed(key: &Key, agent: Option<&str>, claimed: Option<&str>) -> Draft {
    Draft {
        tenant_id: Arc::clone(&key.tenant.id),
        key_name: Arc::clone(&key.name),
        agent_id: agent.map(str::to_owned),
        claimed_agent_id: claimed.filter(|claimed| Some(*claimed) != agent).map(str::to_owned),
        ..Draft::default()
    }
}

fn input<'a>(request: &Preflight<'a>, agent: Option<&'a Json>) -> Input<'a> {
    Input {
        agent_id: agent,
        args: Some(request.args),
        goal: Some(request.goal.as_json()),
        // Only a verified passport says something, and this version verifies none.
        passport: None,
        resource: request.resource.map(|resource| resource.as_json()),
        risk_tier: None,
        tool: Some(request.tool.as_json()),
        user_id: request.user_id.map(|user| user.as_json()),
    }
}

/// What enforce decides, and why.
struct Ruling<'p> {
    decision: &'static str,
    reason: &'p str,
    risk_tier: RiskTier,
    rule: Option<&'p Rule>,
    summary: String,
    next_steps: Vec<String>,
    policy: &'p Policy,
}

impl<'p> Ruling<'p> {
    fn new(policy: &'p Policy, rule: Option<&'p Rule>, tool: &str) -> Self {
        let Some(rule) = rule else {
            return Self::no_match(policy, tool);
        };
        let (name, reason) = (rule.name(), rule.reason());
        let (verb, default_step) = match rule.decision() {
            Decision::Allow => ("allows", None),
            Decision::Deny => {
                ("denies", Some(format!("Do not run it. If it should be allowed, change the rule {name:?}.")))
            }
            Decision::RequireApproval => (
                "requires a person's approval for",
                Some("Do not run it before a person approved it.".to_owned()),
            ),
        };
        let next_steps = match rule.next_steps() {
            [] => default_step.into_iter().collect(),
            given => given.to_vec(),
        };
        Self {
            decision: rule.decision().as_str(),
            reason,
            risk_tier: rule.risk_tier().unwrap_or(RiskTier::Medium),
            rule: Some(rule),
            summary: format!("The rule {name:?} {verb} the tool {tool:?} ({reason})."),
            next_steps,
            policy,
        }
    }

    fn no_match(policy: &'p Policy, tool: &str) -> Self {
        let id = policy.id();
        Self {
            decision: Decision::Deny.as_str(),
            reason: NO_MATCH,
            risk_tier: RiskTier::High,
            rule: None,
            summary: format!(
                "No rule of the policy {id:?} matches this call of the tool {tool:?}, so it is denied ({NO_MATCH})."
            ),
            next_steps: vec![
                format!("Check the names and types of the arguments against the rules of the policy {id:?}."),
                "If the action should be possible, add a rule for it to the policy.".to_owned(),
            ],
            policy,
        }
    }

    /// A tool whose manifest nobody approved; no rule is asked about it.
    fn drifted(policy: &'p Policy, tool: &str, reason: &'p str, what: &str) -> Self {
        Self {
            decision: "require_tool_reapproval",
            reason,
            risk_tier: RiskTier::High,
            rule: None,
            summary: format!("The definition of the tool {tool:?} {what} ({reason})."),
            next_steps: vec![
                "Do not run it before an operator looked at the tool's definition.".to_owned(),
                "An operator approves it with POST /api/v1/tools.".to_owned(),
            ],
            policy,
        }
    }

    fn matched_rules(&self) -> Vec<String> {
        self.rule.iter().map(|rule| rule.name().to_owned()).collect()
    }

    fn answer(&self, mode: Mode, event_id: &str, request_hash: Option<&str>) -> Json {
        let warns = mode == Mode::Warn && self.decision != Decision::Allow.as_str();
        let texts = |texts: Vec<String>| Json::Array(texts.into_iter().map(Json::String).collect());
        let explain = object([
            ("summary", Some(Json::from(&*self.summary))),
            ("matched_rules", Some(texts(self.matched_rules()))),
            ("next_steps", Some(texts(self.next_steps.clone()))),
        ]);
        object([
            ("decision", Some(Json::from(if warns { "warn" } else { self.decision }))),
            ("reason_code", Some(Json::from(self.reason))),
            ("risk_tier", Some(Json::from(self.risk_tier.as_str()))),
            ("explain", Some(explain)),
            ("evidence_event_id", Some(Json::from(event_id))),
            ("evidence_chain_id", Some(Json::from(ledger::DECISIONS))),
            ("request_hash", request_hash.map(Json::from)),
            ("policy_hash", Some(Json::from(self.policy.hash()))),
            ("would_be", warns.then(|| Json::from(self.decision))),
        ])
    }
}

fn object<const N: usize>(members: [(&str, Option<Json>); N]) -> Json {
    Json::Object(members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
}
