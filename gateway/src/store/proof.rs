//! Verification of rows against the ledger: a row that grants something counts only if an event
//! supports it.
//!
//! Anyone with write access to the tables could set a row. Events cannot be changed or removed
//! without detection, so they are looked up through indexes over their text and compared.

use actpass_protocol::Json;
use bytes::Bytes;

use super::{AllowBasis, EarlierResponse, FirstAllow};
use crate::approvals::{Approval, ApprovalDecision, Opening};
use crate::clock::{parse_millis, rfc3339};
use crate::ledger::was_approved;
use crate::ledger::{self, Head, idempotency_hash};
use crate::quorum::Vote;

/// A stored response with the events that it refers to.
#[derive(Clone, Debug)]
pub(super) struct StoredResponse {
    pub(super) fingerprint: Vec<u8>,
    pub(super) response: Bytes,
    /// In seconds since 1970.
    pub(super) expires_at: i64,
    pub(super) seq: u64,
    /// Text of the event `seq`.
    pub(super) event: Option<String>,
    pub(super) allowed_seq: Option<u64>,
    /// Text of the event `allowed_seq`.
    pub(super) allowed_event: Option<String>,
}

impl StoredResponse {
    /// Returns the response as seen by a decision. A response that its event does not support is
    /// never replayed.
    pub(super) fn earlier(&self, key_name: &str, idempotency_key: &str) -> EarlierResponse {
        let response = Json::parse(&self.response).ok();
        let says = |name| response.as_ref().and_then(|response| response.member(name)).and_then(Json::as_str);
        let event = self.event.as_deref().and_then(parse);
        let fingerprint = self.fingerprint.first_chunk().copied().unwrap_or_default();
        let bound = idempotency_hash(idempotency_key, &fingerprint);
        let follows = event.as_ref().is_some_and(|event| {
            let text = |name| text_of(event, name);
            text("event_type") == Some(ledger::DECISION)
                && text("event_id") == says("evidence_event_id")
                && text("key_name") == Some(key_name)
                && text("idempotency_hash") == Some(&*bound)
                && text("decision") == Some("allow")
                && text("credential_id") == says("credential_id")
        });
        let claims_allow = says("decision") == Some("allow");
        if claims_allow && event.is_some() && !follows {
            tracing::error!(key_name, "a stored response is not supported by the ledger; it is not replayed");
        }
        let allowed = self.allowed_seq.map(|_| {
            let event = self.allowed_event.as_deref().and_then(parse);
            let at = event.as_ref().and_then(|event| text_of(event, "created_at")).and_then(parse_millis);
            FirstAllow { at: at.unwrap_or(0), basis: event.as_ref().map(basis_of).unwrap_or_default() }
        });
        EarlierResponse {
            basis: event.as_ref().map(basis_of).unwrap_or_default(),
            rule: event.as_ref().and_then(rule_of),
            credential: says("credential_id").map(str::to_owned),
            is_allow: claims_allow && follows,
            response: self.response.clone(),
            seq: self.seq,
            allowed,
        }
    }
}

/// Returns the basis of a decision from its event.
fn basis_of(event: &Json) -> AllowBasis {
    let owned = |name| text_of(event, name).map(str::to_owned);
    AllowBasis { approval: owned("approval_request_id"), passport: owned("passport_jti") }
}

/// Returns the rule of a decision from its event.
fn rule_of(event: &Json) -> Option<String> {
    match event.member("matched_rules")? {
        Json::Array(rules) => rules.first().and_then(Json::as_str).map(str::to_owned),
        Json::Bool(_) | Json::Null | Json::Number(_) | Json::Object(_) | Json::String(_) => None,
    }
}

/// Completes an approval from its row with its events: the one that opened it, the votes, one a
/// line, and whether one spent it.
pub(super) fn verify_against_ledger(
    mut approval: Approval,
    opened: Option<&str>,
    votes: Option<&str>,
    is_spent: bool,
) -> Approval {
    approval.opening =
        opened.and_then(parse).filter(|event| opens(event, &approval)).and_then(Opening::of_event);
    let mut decision = None;
    for event in votes.unwrap_or_default().lines().filter_map(parse) {
        let approved = match text_of(&event, "event_type") {
            Some(ledger::APPROVAL_APPROVED | ledger::APPROVAL_VOTED) => true,
            Some(ledger::APPROVAL_REJECTED) => false,
            Some(_) | None => continue,
        };
        let is_voted = text_of(&event, "event_type") == Some(ledger::APPROVAL_VOTED);
        approval.votes.extend(Vote::of_event(&event, approved));
        if !is_voted {
            decision = Some(event);
            break;
        }
    }
    let proven = match &approval.decided {
        None => true,
        Some(decided) => {
            let is_filled = |opening: &Opening| opening.requirement.missing(&approval.votes).is_empty();
            decision.is_some_and(|event| decides(&event, &approval, decided))
                && (!decided.approved || approval.opening.as_ref().is_none_or(is_filled))
        }
    };
    if !proven {
        let id = &*approval.id;
        tracing::error!(
            id,
            "the decision on this approval is not supported by the ledger; it grants nothing"
        );
    }
    Approval { spent: approval.spent || is_spent, proven, ..approval }
}

/// Returns whether the event is a decision that names the approval; the first of them opened it.
fn opens(event: &Json, approval: &Approval) -> bool {
    text_of(event, "event_type") == Some(ledger::DECISION)
        && text_of(event, "approval_request_id") == Some(&approval.id)
}

fn decides(event: &Json, approval: &Approval, decided: &ApprovalDecision) -> bool {
    let text = |name| text_of(event, name);
    let metadata = |name| event.member("metadata").and_then(|metadata| text_of(metadata, name));
    let expected = match decided.approved {
        true => ledger::APPROVAL_APPROVED,
        false => ledger::APPROVAL_REJECTED,
    };
    // Older events have no `usable_until`; approvals from then were decided before this version
    // started.
    let until = metadata("usable_until").is_none_or(|until| until == rfc3339(approval.usable_until(decided)));
    text("event_type") == Some(expected)
        && text("approval_request_id") == Some(&approval.id)
        && text("tool_id") == Some(&approval.tool)
        && metadata("action_hash") == Some(&approval.action_hash)
        && metadata("decided_by") == Some(&decided.by)
        && until
}

/// Describes a tenant's unsupported rows: decided `approvals`, verified against the ledger;
/// `passports` without an issuing event, or whose row misses a use or revocation; `manifests` with
/// tool, hash and the last event about the tool.
pub(super) fn describe_unproven(
    approvals: &[Approval],
    passports: Vec<String>,
    manifests: Vec<(String, String, Option<String>)>,
) -> Vec<String> {
    let approvals = approvals.iter().filter(|approval| !approval.proven);
    let approvals =
        approvals.map(|approval| format!("approval {}: no event records its decision", approval.id));
    let passports = passports.into_iter().map(|jti| format!("passport {jti}: its row and its events differ"));
    let is_unproven = |(_, hash, event): &(String, String, Option<String>)| {
        !event.as_deref().is_some_and(|event| was_approved(event, hash))
    };
    let manifests = manifests.into_iter().filter(is_unproven);
    let manifests = manifests.map(|(tool, ..)| {
        format!(
            "manifest of {tool:?}: no event records its \
            approval"
        )
    });
    approvals.chain(passports).chain(manifests).collect()
}

/// Describes the archived parts of chains, with their heads, that none of the `events` records.
pub(super) fn describe_unproven_archives(archives: &[(String, Head)], events: &[String]) -> Vec<String> {
    let events: Vec<_> = events.iter().filter_map(|event| parse(event)).collect();
    let is_recorded = |(chain_id, head): &&(String, Head)| {
        events.iter().filter_map(|event| event.member("metadata")).any(|metadata| {
            let length = metadata.member("length").map(Json::to_string);
            text_of(metadata, "chain_id") == Some(chain_id)
                && length == Some(head.length.to_string())
                && text_of(metadata, "head") == Some(&head.hash)
        })
    };
    let unproven = archives.iter().filter(|archive| !is_recorded(archive));
    unproven
        .map(|(chain_id, head)| {
            format!("chain {chain_id:?}: no event records that {} events were archived", head.length)
        })
        .collect()
}

/// Returns when an event was recorded, in milliseconds since 1970.
pub(super) fn recorded_at(event: &str) -> Option<i64> {
    text_of(&parse(event)?, "created_at").and_then(parse_millis)
}

fn parse(event: &str) -> Option<Json> {
    Json::parse(event.as_bytes()).ok()
}

fn text_of<'j>(object: &'j Json, name: &str) -> Option<&'j str> {
    object.member(name).and_then(Json::as_str)
}
