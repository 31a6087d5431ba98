//! Construction of all events that the gateway records.

use std::sync::Arc;

use actpass_protocol::Json;
use actpass_protocol::json::Number;

use crate::announcement::Announcement;
use crate::approvals::{Approval, Ballot};
use crate::auth::{ApiKey, Principal};
use crate::budget::{self, Charge};
use crate::clock::rfc3339;
use crate::delegation::Delegation;
use crate::halts::{Acknowledgement, Halt, Lifting, epoch_json};
use crate::ledger::{self, Draft, Head, PolicyRef};
use crate::merkle::Frontier;
use crate::object_writer::object;
use crate::passkeys::Registration;
use crate::policy::Policy;
use crate::request::{Evidence, Issue, Preflight, Protocol, Text};

/// Actor name of events caused by the gateway itself.
pub(crate) const GATEWAY: &str = "(gateway)";

/// Actor name of events caused from the command line, where there is no API key.
pub(crate) const COMMAND_LINE: &str = "(command line)";

/// The decision part of an event.
#[derive(Clone, Debug)]
pub(crate) struct Decision<'a> {
    /// The decision of the mode enforce, in every mode.
    pub(crate) decision: &'static str,
    pub(crate) reason_code: &'a str,
    /// The matching rule.
    pub(crate) rule: Option<&'a str>,
    pub(crate) approval: Option<&'a str>,
    pub(crate) passport_jti: Option<&'a str>,
    /// The credential in the response.
    pub(crate) credential_id: Option<&'a str>,
    /// The amounts that it claims or would claim from budgets.
    pub(crate) charges: &'a [Charge],
    /// Its announcements to webhooks.
    pub(crate) announces: Vec<Announcement>,
}

/// A decision on a request.
pub(crate) fn decision(key: &ApiKey, request: &Preflight, decision: Decision<'_>) -> Draft {
    let policy = &key.tenant.policy;
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let text = |text: &Option<Text>| owned(text.as_ref().map(Text::as_str));
    let claimed = request.agent_id.as_ref().map(Text::as_str);
    Draft {
        user_id: text(&request.user_id),
        tool_id: owned(Some(request.tool.as_str())),
        resource: text(&request.resource),
        goal: owned(Some(request.goal.as_str())),
        idempotency_hash: request.idempotency.as_ref().map(|key| key.hash.clone()),
        mode: Some(request.mode.as_str()),
        decision: owned(Some(decision.decision)),
        reason_code: owned(Some(decision.reason_code)),
        matched_rules: Some(decision.rule.iter().map(|rule| (*rule).to_owned()).collect()),
        policy: Some(PolicyRef::of(policy)),
        protocol: request.protocol.as_str(),
        request_hash: request.request_hash.clone(),
        approval_request_id: owned(decision.approval),
        passport_jti: owned(decision.passport_jti),
        credential_id: owned(decision.credential_id),
        budgets: (!decision.charges.is_empty()).then(|| budget::event_member(decision.charges)),
        announces: decision.announces,
        ..by_agent(key, claimed, ledger::DECISIONS, ledger::DECISION)
    }
}

/// An event recorded for a client.
pub(crate) fn client_event(key: &Principal, evidence: Evidence) -> Draft {
    Draft {
        tool_id: evidence.tool_id,
        decision: evidence.decision,
        reason_code: evidence.reason_code,
        request_hash: evidence.request_hash,
        response_hash: evidence.response_hash,
        metadata: evidence.metadata,
        ..by_key(key, &evidence.chain_id, &evidence.event_type)
    }
}

/// An operator approved the manifest with this hash.
pub(crate) fn tool_approved(key: &Principal, tool_id: &str, manifest_hash: &str) -> Draft {
    Draft {
        tool_id: Some(tool_id.to_owned()),
        metadata: Some(object([("manifest_hash", Some(Json::from(manifest_hash)))])),
        ..draft(Arc::clone(&key.tenant.id), Arc::clone(&key.name), ledger::TOOLS, ledger::TOOL_APPROVED)
    }
}

/// A person decided an approval.
pub(crate) fn approval_decided(who: &Principal, approval: &Approval, ballot: &Ballot) -> Draft {
    let approved = ballot.vote.approved;
    let event_type = if approved { ledger::APPROVAL_APPROVED } else { ledger::APPROVAL_REJECTED };
    let until = approval.usable_until(&ballot.decision(None));
    let event = vote(who, approval, ballot, event_type, Some(Json::String(rfc3339(until))));
    Draft { announces: vec![Announcement::ApprovalDecided], ..event }
}

/// A person voted on an approval that others must decide too.
pub(crate) fn approval_voted(who: &Principal, approval: &Approval, ballot: &Ballot) -> Draft {
    vote(who, approval, ballot, ledger::APPROVAL_VOTED, None)
}

fn vote(
    who: &Principal,
    approval: &Approval,
    ballot: &Ballot,
    event_type: &str,
    usable_until: Option<Json>,
) -> Draft {
    let metadata = [
        ("action_hash", Some(Json::from(&*approval.action_hash))),
        ("has_note", Some(Json::Bool(ballot.note.is_some()))),
        ("shown_hash", ballot.shown_hash.as_deref().map(Json::from)),
        ("usable_until", usable_until),
    ];
    let metadata = metadata.into_iter().chain(ballot.vote.to_metadata());
    let metadata = metadata.filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Draft {
        tool_id: Some(approval.tool.clone()),
        approval_request_id: Some(approval.id.clone()),
        metadata: Some(Json::Object(metadata.collect())),
        ..by_key(who, ledger::DECISIONS, event_type)
    }
}

/// A person lets another decide in their place.
pub(crate) fn delegation_created(
    tenant_id: &Arc<str>,
    by: &str,
    delegation: &Delegation,
    reason: Option<&str>,
) -> Draft {
    Draft {
        metadata: Some(object([
            ("delegation_id", Some(Json::from(&*delegation.id))),
            ("from", Some(Json::String(rfc3339(delegation.from)))),
            ("person", Some(Json::from(&*delegation.person))),
            ("reason", reason.map(Json::from)),
            ("to", Some(Json::from(&*delegation.to))),
            ("until", Some(Json::String(rfc3339(delegation.until)))),
        ])),
        ..draft(Arc::clone(tenant_id), Arc::from(by), ledger::DELEGATIONS, ledger::DELEGATION_CREATED)
    }
}

/// A delegation was revoked.
pub(crate) fn delegation_revoked(tenant_id: &Arc<str>, by: &str, id: &str) -> Draft {
    Draft {
        metadata: Some(object([("delegation_id", Some(Json::from(id)))])),
        ..draft(Arc::clone(tenant_id), Arc::from(by), ledger::DELEGATIONS, ledger::DELEGATION_REVOKED)
    }
}

/// A person registered a passkey.
pub(crate) fn passkey_registered(who: &Principal, new: &Registration, name: &str) -> Draft {
    let metadata = object([
        ("passkey_id", Some(Json::from(&*new.id))),
        ("person", Some(Json::from(who.person()))),
        ("name", Some(Json::from(name))),
        ("public_key", Some(Json::from(&*new.public_key))),
        ("sign_count", Some(Json::Number(Number::from(i64::from(new.sign_count))))),
    ]);
    Draft { metadata: Some(metadata), ..by_key(who, ledger::PASSKEYS, ledger::PASSKEY_REGISTERED) }
}

/// A person removed a passkey.
pub(crate) fn passkey_removed(who: &Principal, id: &str) -> Draft {
    let metadata = object([("passkey_id", Some(Json::from(id)))]);
    Draft { metadata: Some(metadata), ..by_key(who, ledger::PASSKEYS, ledger::PASSKEY_REMOVED) }
}

/// A passkey with a counter signed an approval.
pub(crate) fn passkey_used(who: &Principal, id: &str, sign_count: u32, approval: &str) -> Draft {
    Draft {
        approval_request_id: Some(approval.to_owned()),
        metadata: Some(object([
            ("passkey_id", Some(Json::from(id))),
            ("sign_count", Some(Json::Number(Number::from(i64::from(sign_count))))),
        ])),
        ..by_key(who, ledger::PASSKEYS, ledger::PASSKEY_USED)
    }
}

/// A passport was issued, possibly for an approval.
pub(crate) fn passport_issued(
    key: &ApiKey,
    request: &Issue,
    jti: &str,
    approval: Option<&Approval>,
) -> Draft {
    Draft {
        goal: Some(request.goal.clone()),
        user_id: request.user_id.clone(),
        passport_jti: Some(jti.to_owned()),
        approval_request_id: approval.map(|approval| approval.id.clone()),
        ..by_agent(key, request.agent_id.as_deref(), ledger::DECISIONS, ledger::PASSPORT_ISSUED)
    }
}

/// A passport was exchanged for another one, which spent it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExchangedPassport<'a> {
    pub(crate) agent: &'a str,
    pub(crate) goal: Option<&'a str>,
    pub(crate) user_id: Option<&'a str>,
    /// The id of the passport that was exchanged.
    pub(crate) subject: &'a str,
    /// The id of the new passport.
    pub(crate) jti: &'a str,
    pub(crate) txn: &'a str,
}

/// The events of an exchange: of the passport that was spent, and of the new one.
pub(crate) fn passport_exchanged(key: &ApiKey, exchanged: ExchangedPassport<'_>) -> [Draft; 2] {
    let ExchangedPassport { agent, goal, user_id, subject, jti, txn } = exchanged;
    let event = |event_type: &str, about: &str, (name, other): (&str, &str)| Draft {
        goal: goal.map(str::to_owned),
        user_id: user_id.map(str::to_owned),
        passport_jti: Some(about.to_owned()),
        metadata: Some(object([(name, Some(Json::from(other))), ("txn", Some(Json::from(txn)))])),
        ..by_agent(key, Some(agent), ledger::DECISIONS, event_type)
    };
    [
        event(ledger::PASSPORT_EXCHANGED, subject, ("exchanged_for", jti)),
        event(ledger::PASSPORT_ISSUED, jti, ("exchanged_from", subject)),
    ]
}

/// A passport was revoked.
pub(crate) fn passport_revoked(key: &Principal, jti: &str, reason: Option<&str>) -> Draft {
    Draft {
        passport_jti: Some(jti.to_owned()),
        metadata: reason.map(|reason| object([("reason", Some(Json::from(reason)))])),
        ..by_key(key, ledger::DECISIONS, ledger::PASSPORT_REVOKED)
    }
}

/// A credential of the vault.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CredentialRef<'a> {
    pub(crate) tool_id: &'a str,
    pub(crate) id: &'a str,
}

/// A tool's credential was set.
pub(crate) fn credential_set(
    tenant_id: &str,
    credential: CredentialRef<'_>,
    expires_at: Option<i64>,
) -> Draft {
    let expires_at = expires_at.map_or(Json::Null, |at| Json::String(rfc3339(at)));
    Draft {
        metadata: Some(object([("expires_at", Some(expires_at))])),
        ..of_credential(tenant_id, credential, ledger::CREDENTIAL_SET)
    }
}

/// A tool's credential was removed.
pub(crate) fn credential_removed(tenant_id: &str, credential: CredentialRef<'_>) -> Draft {
    of_credential(tenant_id, credential, ledger::CREDENTIAL_REMOVED)
}

fn of_credential(tenant_id: &str, credential: CredentialRef<'_>, event_type: &str) -> Draft {
    Draft {
        tool_id: Some(credential.tool_id.to_owned()),
        credential_id: Some(credential.id.to_owned()),
        ..draft(Arc::from(tenant_id), Arc::from(COMMAND_LINE), ledger::VAULT, event_type)
    }
}

/// A halt started or, if it is lifted, was lifted, on the chain of decisions of a tenant.
pub(crate) fn halt(tenant_id: &Arc<str>, halt: &Halt) -> Draft {
    let (event_type, announcement, by, reason, epoch) = match &halt.lifted {
        None => (ledger::HALT_STARTED, Announcement::HaltStarted, &halt.by, &halt.reason, halt.epoch),
        Some(Lifting { by, reason, epoch, .. }) => {
            (ledger::HALT_LIFTED, Announcement::HaltLifted, by, reason, *epoch)
        }
    };
    Draft {
        announces: vec![announcement],
        metadata: Some(object([
            ("halt_id", Some(Json::from(&*halt.id))),
            ("scope", Some(Json::from(halt.scope.as_str()))),
            ("target", halt.target.as_deref().map(Json::from)),
            ("reason", Some(Json::from(&**reason))),
            ("halt_epoch", Some(epoch_json(epoch))),
        ])),
        ..draft(Arc::clone(tenant_id), Arc::from(&**by), ledger::DECISIONS, event_type)
    }
}

/// A client acknowledged an epoch.
pub(crate) fn halt_acknowledged(key: &ApiKey, acknowledgement: &Acknowledgement) -> Draft {
    let Acknowledgement { agent_id, instance, epoch, in_flight, .. } = acknowledgement;
    let named = |text: &str| (!text.is_empty()).then(|| Json::from(text));
    Draft {
        metadata: Some(object([
            ("halt_epoch", Some(epoch_json(*epoch))),
            ("in_flight", Some(epoch_json(*in_flight))),
            ("instance", named(instance)),
        ])),
        ..by_agent(
            key,
            Some(&**agent_id).filter(|agent| !agent.is_empty()),
            ledger::DECISIONS,
            ledger::HALT_ACKNOWLEDGED,
        )
    }
}

/// A step of a session of the Agent Control Standard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionStep<'a> {
    /// The agent, as claimed by the client.
    pub(crate) agent_id: Option<&'a str>,
    /// The decision in the response.
    pub(crate) decision: &'static str,
    pub(crate) reason_code: &'a str,
    pub(crate) tool_id: Option<&'a str>,
}

/// A step was answered; `entry` is its entry in the chain of the session.
pub(crate) fn session_step(key: &ApiKey, chain_id: &str, step: SessionStep<'_>, entry: Json) -> Draft {
    Draft {
        decision: Some(step.decision.to_owned()),
        reason_code: Some(step.reason_code.to_owned()),
        tool_id: step.tool_id.map(str::to_owned),
        protocol: Protocol::Acs.as_str(),
        metadata: Some(entry),
        ..by_agent(key, step.agent_id, chain_id, ledger::ACS_STEP)
    }
}

/// The hashes of a tenant's settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadedHashes<'a> {
    pub(crate) settings: &'a str,
    /// The tenant's policy; `None` if the tenant is not in the settings.
    pub(crate) policy: Option<&'a Policy>,
}

/// The settings were reloaded; by the key `by`, or by the gateway itself.
pub(crate) fn policy_reloaded(
    tenant_id: &Arc<str>,
    by: Option<&Arc<str>>,
    trigger: &str,
    [before, after]: [LoadedHashes<'_>; 2],
) -> Draft {
    let policy = |loaded: LoadedHashes<'_>| loaded.policy.map(|policy| Json::from(policy.hash()));
    Draft {
        announces: vec![Announcement::PolicyReloaded],
        policy: after.policy.map(PolicyRef::of),
        metadata: Some(object([
            ("trigger", Some(Json::from(trigger))),
            ("settings_hash_before", Some(Json::from(before.settings))),
            ("settings_hash", Some(Json::from(after.settings))),
            ("policy_hash_before", policy(before)),
            ("policy_hash", policy(after)),
        ])),
        ..of_reload(tenant_id, by, ledger::POLICY_RELOADED)
    }
}

/// An earlier policy was written to the tenant's policy file; a reload puts it in force.
pub(crate) fn policy_rolled_back(tenant_id: &str, from: &Policy, to: &Policy) -> Draft {
    Draft {
        policy: Some(PolicyRef::of(to)),
        metadata: Some(object([
            ("policy_hash_before", Some(Json::from(from.hash()))),
            ("policy_hash", Some(Json::from(to.hash()))),
        ])),
        ..draft(Arc::from(tenant_id), Arc::from(COMMAND_LINE), ledger::DECISIONS, ledger::POLICY_ROLLED_BACK)
    }
}

/// A reload was refused for this number of problems; the settings `current` stay in force.
pub(crate) fn reload_refused(
    tenant_id: &Arc<str>,
    by: Option<&Arc<str>>,
    trigger: &str,
    current: LoadedHashes<'_>,
    problems: usize,
) -> Draft {
    Draft {
        policy: current.policy.map(PolicyRef::of),
        metadata: Some(object([
            ("trigger", Some(Json::from(trigger))),
            ("settings_hash", Some(Json::from(current.settings))),
            ("problems", Some(Json::Number(Number::from(i64::try_from(problems).unwrap_or(i64::MAX))))),
        ])),
        ..of_reload(tenant_id, by, ledger::RELOAD_REFUSED)
    }
}

fn of_reload(tenant_id: &Arc<str>, by: Option<&Arc<str>>, event_type: &str) -> Draft {
    let by = by.map_or_else(|| Arc::from(GATEWAY), Arc::clone);
    draft(Arc::clone(tenant_id), by, ledger::DECISIONS, event_type)
}

/// A checkpoint of a chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewCheckpoint<'a> {
    pub(crate) tenant_id: &'a Arc<str>,
    pub(crate) chain_id: &'a str,
    pub(crate) head: &'a Head,
    /// The chain's Merkle tree.
    pub(crate) tree: &'a Frontier,
    /// Hash of the previous checkpoint event.
    pub(crate) previous: Option<&'a str>,
    pub(crate) signature: Option<&'a str>,
    pub(crate) note: Option<&'a str>,
}

/// A checkpoint was made.
pub(crate) fn checkpoint(made: NewCheckpoint<'_>) -> Draft {
    let length = Number::from(i64::try_from(made.head.length).unwrap_or(i64::MAX));
    let nodes = made.tree.nodes().iter().map(|node| Json::String(hex::encode(node)));
    Draft {
        metadata: Some(object([
            ("chain_id", Some(Json::from(made.chain_id))),
            ("length", Some(Json::Number(length))),
            ("head", Some(Json::from(&*made.head.hash))),
            ("root", Some(Json::String(hex::encode(made.tree.root())))),
            ("frontier", Some(Json::Array(nodes.collect()))),
            ("previous", made.previous.map(Json::from)),
            ("signature", made.signature.map(Json::from)),
            ("note", made.note.map(Json::from)),
        ])),
        announces: vec![Announcement::LedgerCheckpoint],
        ..draft(Arc::clone(made.tenant_id), Arc::from(GATEWAY), ledger::CHECKPOINTS, ledger::CHECKPOINT)
    }
}

/// A part of a chain was archived in a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewArchive<'a> {
    pub(crate) tenant_id: &'a str,
    pub(crate) chain_id: &'a str,
    /// The first event in the file.
    pub(crate) first: u64,
    /// The chain's head at the last event in the file.
    pub(crate) head: &'a Head,
    pub(crate) tree: &'a Frontier,
    /// The name of the file.
    pub(crate) segment: &'a str,
    /// The SHA-256 of the file.
    pub(crate) segment_hash: &'a str,
}

/// A part of a chain was archived.
pub(crate) fn archived(made: NewArchive<'_>) -> Draft {
    let number = |value: u64| Json::Number(Number::from(i64::try_from(value).unwrap_or(i64::MAX)));
    Draft {
        metadata: Some(object([
            ("chain_id", Some(Json::from(made.chain_id))),
            ("first", Some(number(made.first))),
            ("length", Some(number(made.head.length))),
            ("head", Some(Json::from(&*made.head.hash))),
            ("root", Some(Json::String(hex::encode(made.tree.root())))),
            ("segment", Some(Json::from(made.segment))),
            ("segment_hash", Some(Json::from(made.segment_hash))),
        ])),
        ..draft(Arc::from(made.tenant_id), Arc::from(COMMAND_LINE), ledger::CHECKPOINTS, ledger::ARCHIVED)
    }
}

/// An event attributed to a key and its bound agent.
fn by_key(key: &Principal, chain_id: &str, event_type: &str) -> Draft {
    Draft {
        agent_id: key.bound_agent().map(str::to_owned),
        ..draft(Arc::clone(&key.tenant.id), Arc::clone(&key.name), chain_id, event_type)
    }
}

/// An event attributed to an agent: the one bound to the key, otherwise the one that the request
/// claims.
fn by_agent(key: &ApiKey, claimed: Option<&str>, chain_id: &str, event_type: &str) -> Draft {
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
