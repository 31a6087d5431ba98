//! The response body of a preflight.

use actpass_protocol::json::Number;
use actpass_protocol::signed_approval::MEMBER;
use actpass_protocol::{Json, Mode};
use bytes::Bytes;

use super::explain;
use super::ruling::{Decision, Grant, Ruling};
use crate::auth::ApiKey;
use crate::halts::epoch_json;
use crate::ledger;
use crate::object_writer::ObjectWriter;
use crate::request::Preflight;

/// The members of a response that do not follow from the ruling.
pub(super) struct Attachments<'r> {
    /// The event that records the ruling.
    pub(super) event_id: &'r str,
    /// The credential that the client receives.
    pub(super) credential_id: Option<&'r str>,
    /// Adds a placeholder of the budgets, which the transaction replaces.
    pub(super) has_budgets: bool,
    /// The signatures of the approval that the ruling uses.
    pub(super) signatures: Option<Json>,
    /// The newest epoch of halts.
    pub(super) halt_epoch: u64,
}

/// Writes the response to a ruling.
pub(super) fn write(
    ruling: &Ruling<'_>,
    key: &ApiKey,
    request: &Preflight,
    attachments: &Attachments<'_>,
) -> Bytes {
    let decision = ruling.decision();
    // If the key does not permit this mode, the response is not softened to `warn`.
    let warns = request.mode == Mode::Warn
        && decision != Decision::Allow
        && !matches!(ruling, Ruling::NotGranted(Grant::Mode));
    // The approval that the caller may wait for.
    let pending = ruling.approval().filter(|_| decision == Decision::RequireApproval);
    let mut response = ObjectWriter::new();
    response.string("decision", Some(if warns { "warn" } else { decision.as_str() }));
    response.string("reason_code", Some(ruling.reason()));
    response.string("risk_tier", Some(ruling.risk_tier().as_str()));
    response.object("explain", |explain| {
        let steps = explain::next_steps(ruling, key);
        explain.string("summary", Some(&explain::summary(ruling, key, request.tool.as_str())));
        explain.strings("matched_rules", ruling.rule().iter().map(|rule| rule.name()));
        explain.strings("next_steps", steps.iter().map(|step| &**step));
        if attachments.has_budgets {
            explain.strings("budgets", []);
        }
    });
    response.string("evidence_event_id", Some(attachments.event_id));
    response.string("evidence_chain_id", Some(ledger::DECISIONS));
    response.string("approval_request_id", pending);
    if let Some(signatures) = &attachments.signatures {
        response.json(MEMBER, signatures);
    }
    response.string("request_hash", request.request_hash.as_deref());
    response.string("policy_hash", Some(key.tenant.policy.hash()));
    response.string("credential_id", attachments.credential_id);
    response.integer("halt_epoch", attachments.halt_epoch);
    response.string("would_be", warns.then_some(decision.as_str()));
    Bytes::from(response.finish())
}

/// Marks a response as replayed: an earlier response under the same idempotency key, or a new
/// `allow` under a key with an earlier `allow`. Adds the age of the first `allow` and the current
/// `request_hash`, and replaces the halt epoch with the current one.
pub fn mark_replayed(
    response: &[u8],
    request_hash: Option<&str>,
    age_ms: i64,
    halt_epoch: u64,
) -> Option<Bytes> {
    let Json::Object(mut members) = Json::parse(response).ok()? else {
        return None;
    };
    match (members.iter_mut().find(|(name, _)| name == "request_hash"), request_hash) {
        (Some((_, kept)), Some(hash)) => *kept = Json::from(hash),
        (Some(_), None) => members.retain(|(name, _)| name != "request_hash"),
        (None, Some(hash)) => members.push(("request_hash".to_owned(), Json::from(hash))),
        (None, None) => {}
    }
    members.retain(|(name, _)| name != "halt_epoch");
    members.push(("halt_epoch".to_owned(), epoch_json(halt_epoch)));
    members.push(("replayed".to_owned(), Json::Bool(true)));
    members.push(("replay_age_ms".to_owned(), Json::Number(Number::from(age_ms.max(0)))));
    Some(Bytes::from(Json::Object(members).to_string()))
}
