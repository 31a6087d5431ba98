//! The events that the gateway records. Each of them is drafted here, and nowhere else.

use std::sync::Arc;

use actpass_protocol::Json;
use actpass_protocol::json::Number;

use crate::approvals::{Approval, Decided};
use crate::auth::Key;
use crate::clock::rfc3339;
use crate::ledger::{self, Draft, Head};
use crate::members::object;
use crate::request::{Evidence, Issue, ToolApproval};
use crate::store::SealedCredential;

/// The name in events that the gateway causes by itself.
const GATEWAY: &str = "(gateway)";

/// The name in events that are caused from the command line, where there is no API key.
const COMMAND_LINE: &str = "(command line)";

/// An event that a client wants recorded.
pub(crate) fn client_event(key: &Key, evidence: &Evidence<'_>) -> Draft {
    let owned = |text: crate::request::Text<'_>| text.as_str().to_owned();
    Draft {
        tool_id: evidence.tool_id.map(owned),
        decision: evidence.decision.map(owned),
        reason_code: evidence.reason_code.map(owned),
        request_hash: evidence.request_hash.map(owned),
        response_hash: evidence.response_hash.map(owned),
        metadata: evidence.metadata.cloned(),
        ..by_key(key, evidence.chain_id.as_str(), evidence.event_type.as_str())
    }
}

/// An operator approved a tool's manifest.
pub(crate) fn tool_approved(key: &Key, approval: &ToolApproval<'_>) -> Draft {
    Draft {
        tool_id: Some(approval.tool_id.as_str().to_owned()),
        metadata: Some(object([("manifest_hash", Some(Json::from(&*approval.manifest_hash)))])),
        ..draft(Arc::clone(&key.tenant.id), Arc::clone(&key.name), ledger::TOOLS, ledger::TOOL_APPROVED)
    }
}

/// A person decided about an approval.
pub(crate) fn approval_decided(key: &Key, approval: &Approval, decided: &Decided) -> Draft {
    let event_type = if decided.approved { ledger::APPROVAL_APPROVED } else { ledger::APPROVAL_REJECTED };
    Draft {
        tool_id: Some(approval.tool.clone()),
        approval_request_id: Some(approval.id.clone()),
        metadata: Some(object([
            ("action_hash", Some(Json::from(&*approval.action_hash))),
            ("decided_by", Some(Json::from(&*decided.by))),
            ("has_note", Some(Json::Bool(decided.note.is_some()))),
            ("usable_until", Some(Json::String(rfc3339(approval.usable_until(decided))))),
        ])),
        ..by_key(key, ledger::DECISIONS, event_type)
    }
}

/// A passport was issued to an agent, for an approval if there is one.
pub(crate) fn passport_issued(
    key: &Key,
    request: &Issue<'_>,
    jti: &str,
    approval: Option<&Approval>,
) -> Draft {
    let claimed = request.agent_id.map(|agent| agent.as_str());
    Draft {
        goal: Some(request.goal.as_str().to_owned()),
        user_id: request.user_id.map(|user| user.as_str().to_owned()),
        passport_jti: Some(jti.to_owned()),
        approval_request_id: approval.map(|approval| approval.id.clone()),
        ..by_agent(key, claimed, ledger::DECISIONS, ledger::PASSPORT_ISSUED)
    }
}

/// A passport was revoked.
pub(crate) fn passport_revoked(key: &Key, jti: &str, reason: Option<&str>) -> Draft {
    Draft {
        passport_jti: Some(jti.to_owned()),
        metadata: reason.map(|reason| object([("reason", Some(Json::from(reason)))])),
        ..by_key(key, ledger::DECISIONS, ledger::PASSPORT_REVOKED)
    }
}

/// A tool of a tenant has a new credential.
pub(crate) fn credential_set(tenant_id: &str, credential: &SealedCredential) -> Draft {
    let expires_at = credential.expires_at.map_or(Json::Null, |at| Json::String(rfc3339(at)));
    Draft {
        metadata: Some(object([("expires_at", Some(expires_at))])),
        ..of_credential(tenant_id, credential, ledger::CREDENTIAL_SET)
    }
}

/// A tool of a tenant has no credential any more.
pub(crate) fn credential_removed(tenant_id: &str, credential: &SealedCredential) -> Draft {
    of_credential(tenant_id, credential, ledger::CREDENTIAL_REMOVED)
}

fn of_credential(tenant_id: &str, credential: &SealedCredential, event_type: &str) -> Draft {
    Draft {
        tool_id: Some(credential.tool_id.clone()),
        credential_id: Some(credential.id.clone()),
        ..draft(Arc::from(tenant_id), Arc::from(COMMAND_LINE), ledger::VAULT, event_type)
    }
}

/// How a chain stood, after the checkpoint whose event has the hash `previous`.
pub(crate) fn checkpoint(
    tenant_id: &Arc<str>,
    chain_id: &str,
    head: &Head,
    previous: Option<&str>,
    signature: Option<&str>,
) -> Draft {
    let length = Number::from(i64::try_from(head.length).unwrap_or(i64::MAX));
    Draft {
        metadata: Some(object([
            ("chain_id", Some(Json::from(chain_id))),
            ("length", Some(Json::Number(length))),
            ("head", Some(Json::from(&*head.hash))),
            ("previous", previous.map(Json::from)),
            ("signature", signature.map(Json::from)),
        ])),
        ..draft(Arc::clone(tenant_id), Arc::from(GATEWAY), ledger::CHECKPOINTS, ledger::CHECKPOINT)
    }
}

/// An event that the holder of a key causes, or whoever acts for the agent that the key is bound to.
fn by_key(key: &Key, chain_id: &str, event_type: &str) -> Draft {
    Draft {
        agent_id: key.bound_agent().map(str::to_owned),
        ..draft(Arc::clone(&key.tenant.id), Arc::clone(&key.name), chain_id, event_type)
    }
}

/// An event that an agent causes: the one that the key is bound to, or else the one that the request claims to be.
pub(crate) fn by_agent(key: &Key, claimed: Option<&str>, chain_id: &str, event_type: &str) -> Draft {
    let agent = key.bound_agent().or(claimed);
    Draft {
        agent_id: agent.map(str::to_owned),
        claimed_agent_id: claimed.filter(|claimed| Some(*claimed) != agent).map(str::to_owned),
        ..draft(Arc::clone(&key.tenant.id), Arc::clone(&key.name), chain_id, event_type)
    }
}

fn draft(tenant_id: Arc<str>, key_name: Arc<str>, chain_id: &str, event_type: &str) -> Draft {
    Draft {
        event_id: ledger::new_event_id(),
        tenant_id,
        chain_id: chain_id.to_owned(),
        event_type: event_type.to_owned(),
        key_name,
        ..Draft::default()
    }
}
