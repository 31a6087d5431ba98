//! The ledger: hash-chained events. An edit, a deletion or a reordering is detectable.
//!
//! An event is a JSON object. Its `current_event_hash` is the [`hash_payload`] of the event without
//! that member; it covers `previous_event_hash`, the hash of the previous event (64 zeros for the
//! first). `seq` counts from 1 without gaps. A chain can be verified with its events alone; see
//! [`Verifier`].

use std::sync::Arc;
use std::time::SystemTime;

use actpass_protocol::json::{NotCanonical, is_canonical_object};
use actpass_protocol::{InvalidArgument, Json, canonical_json, hash_payload, sha256_hex};

use crate::announcement::Announcement;
use crate::merkle::Frontier;
use crate::object_writer::ObjectWriter;
use crate::policy::Policy;

/// The `previous_event_hash` of a chain's first event.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

pub use actpass_protocol::DECISIONS;

/// Event type of decisions; reserved for the gateway.
pub const DECISION: &str = "decision";

/// Chain of approved tools; reserved for the gateway.
pub const TOOLS: &str = "tools";

/// Event type of approved tools; reserved for the gateway.
pub const TOOL_APPROVED: &str = "tool.approved";

/// Event type of approved actions; reserved for the gateway.
pub const APPROVAL_APPROVED: &str = "approval.approved";

/// Event type of votes that do not decide yet; reserved for the gateway.
pub const APPROVAL_VOTED: &str = "approval.voted";

/// Chain of delegations; reserved for the gateway.
pub const DELEGATIONS: &str = "delegations";

/// Event type of delegations; reserved for the gateway.
pub const DELEGATION_CREATED: &str = "delegation.created";

/// Event type of revoked delegations; reserved for the gateway.
pub const DELEGATION_REVOKED: &str = "delegation.revoked";

/// Chain of passkeys; reserved for the gateway.
pub const PASSKEYS: &str = "passkeys";

/// Event type of registered passkeys; reserved for the gateway.
pub const PASSKEY_REGISTERED: &str = "passkey.registered";

/// Event type of removed passkeys; reserved for the gateway.
pub const PASSKEY_REMOVED: &str = "passkey.removed";

/// Event type of uses of passkeys with a counter; reserved for the gateway.
pub const PASSKEY_USED: &str = "passkey.used";

/// Event type of rejected actions; reserved for the gateway.
pub const APPROVAL_REJECTED: &str = "approval.rejected";

/// Event type of issued passports; reserved for the gateway.
pub const PASSPORT_ISSUED: &str = "passport.issued";

/// Event type: a passport was exchanged for a narrower one, which spent it.
pub const PASSPORT_EXCHANGED: &str = "passport.exchanged";

/// Event type of revoked passports; reserved for the gateway.
pub const PASSPORT_REVOKED: &str = "passport.revoked";

/// Chain of vault changes; reserved for the gateway.
pub const VAULT: &str = "vault";

/// Event type of credentials that were set; reserved for the gateway.
pub const CREDENTIAL_SET: &str = "credential.set";

/// Event type of removed credentials; reserved for the gateway.
pub const CREDENTIAL_REMOVED: &str = "credential.removed";

/// Chain of checkpoints; reserved for the gateway.
pub const CHECKPOINTS: &str = "checkpoints";

/// Event type of checkpoints; reserved for the gateway.
pub const CHECKPOINT: &str = "ledger.checkpoint";

/// Event type of archived segments; reserved for the gateway.
pub const ARCHIVED: &str = "ledger.archived";

/// Event type of started halts; reserved for the gateway.
pub const HALT_STARTED: &str = "halt.started";

/// Event type of lifted halts; reserved for the gateway.
pub const HALT_LIFTED: &str = "halt.lifted";

/// Event type of acknowledged halts; reserved for the gateway.
pub const HALT_ACKNOWLEDGED: &str = "halt.acknowledged";

/// Event type of reloaded settings; reserved for the gateway.
pub const POLICY_RELOADED: &str = "policy.reloaded";

/// Event type of rollbacks to earlier policies; reserved for the gateway.
pub const POLICY_ROLLED_BACK: &str = "policy.rolled_back";

/// Event type of refused reloads; reserved for the gateway.
pub const RELOAD_REFUSED: &str = "policy.reload_refused";

/// Event type of steps of the Agent Control Standard; reserved for the gateway.
pub const ACS_STEP: &str = "acs.step";

/// Prefix of the chains of sessions of the Agent Control Standard; reserved for the gateway.
pub const ACS_CHAINS: &str = "acs:";

/// Event types that clients cannot use.
pub const RESERVED: &[&str] = &[
    ACS_STEP,
    APPROVAL_APPROVED,
    APPROVAL_REJECTED,
    APPROVAL_VOTED,
    ARCHIVED,
    CHECKPOINT,
    CREDENTIAL_REMOVED,
    CREDENTIAL_SET,
    DECISION,
    DELEGATION_CREATED,
    DELEGATION_REVOKED,
    HALT_ACKNOWLEDGED,
    HALT_LIFTED,
    HALT_STARTED,
    PASSKEY_REGISTERED,
    PASSKEY_REMOVED,
    PASSKEY_USED,
    PASSPORT_EXCHANGED,
    PASSPORT_ISSUED,
    PASSPORT_REVOKED,
    POLICY_RELOADED,
    POLICY_ROLLED_BACK,
    RELOAD_REFUSED,
    TOOL_APPROVED,
];

/// Chains that clients cannot append to.
pub const RESERVED_CHAINS: &[&str] = &[CHECKPOINTS, DECISIONS, DELEGATIONS, PASSKEYS, TOOLS, VAULT];

/// An event without its position in a chain.
///
/// `None` members are omitted from the event.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// The id: `ev_` followed by a UUIDv7 in hex.
    pub event_id: String,
    /// The tenant.
    pub tenant_id: Arc<str>,
    /// The chain to append to.
    pub chain_id: String,
    /// The event type.
    pub event_type: String,
    /// Name of the API key that caused the event.
    pub key_name: Arc<str>,
    /// The agent: bound to the key, otherwise named in the request.
    pub agent_id: Option<String>,
    /// The agent named in the request, if it differs from the agent bound to the key.
    pub claimed_agent_id: Option<String>,
    /// The user on whose behalf the agent acts.
    pub user_id: Option<String>,
    /// The tool.
    pub tool_id: Option<String>,
    /// The resource that the action affects.
    pub resource: Option<String>,
    /// The goal of the agent.
    pub goal: Option<String>,
    /// Binds the event to the idempotency key and body; see [`idempotency_hash`].
    pub idempotency_hash: Option<String>,
    /// Mode of the request.
    pub mode: Option<&'static str>,
    /// The decision of the mode enforce, in every mode; for a client's event, the client's value.
    pub decision: Option<String>,
    /// The reason code.
    pub reason_code: Option<String>,
    /// Names of the rules that decided.
    pub matched_rules: Option<Vec<String>>,
    /// The policy that decided.
    pub policy: Option<PolicyRef>,
    /// The protocol of the request; `None` for the gateway's own API.
    pub protocol: Option<&'static str>,
    /// The `hash_payload` of the request.
    pub request_hash: Option<String>,
    /// The `hash_payload` of the result.
    pub response_hash: Option<String>,
    /// The approval that was opened, used or decided.
    pub approval_request_id: Option<String>,
    /// The passport with a valid signature in the request, or the one issued or revoked.
    pub passport_jti: Option<String>,
    /// Id of the credential in the response, or of the one set or removed. Never the secret.
    pub credential_id: Option<String>,
    /// The amounts that a decision claims or would claim from budgets, and claims on histories.
    pub budgets: Option<Json>,
    /// Additional data of the client.
    pub metadata: Option<Json>,
    /// Its announcements to webhooks.
    pub announces: Vec<Announcement>,
}

/// Reference to a policy.
#[derive(Clone, Debug)]
pub struct PolicyRef {
    /// The policy's id.
    pub id: String,
    /// The policy's version: a positive integer or a string.
    pub version: Json,
    /// The policy's hash.
    pub hash: String,
}

impl PolicyRef {
    /// Refers to `policy`.
    pub fn of(policy: &Policy) -> Self {
        Self { id: policy.id().to_owned(), version: policy.version().clone(), hash: policy.hash().to_owned() }
    }
}

/// Returns the SHA-256, in hex, of an idempotency key and the fingerprint of its body.
pub fn idempotency_hash(idempotency_key: &str, fingerprint: &[u8; 32]) -> String {
    sha256_hex(&[fingerprint, idempotency_key.as_bytes()].concat())
}

/// Returns whether an event approves a manifest with this hash.
pub fn was_approved(event: &str, hash: &str) -> bool {
    Json::parse(event.as_bytes()).is_ok_and(|event| {
        let said = event.member("metadata").and_then(|metadata| metadata.member("manifest_hash"));
        event.member("event_type").and_then(Json::as_str) == Some(TOOL_APPROVED)
            && said.and_then(Json::as_str) == Some(hash)
    })
}

/// Start of the last member of a recorded event.
const HASH_PREFIX: &str = "\"current_event_hash\":\"";

/// Returns the hash that an event states; `None` if it is missing. The content is not checked.
pub fn stated_hash(text: &str) -> Option<[u8; 32]> {
    // Recorded events end with their hash; others are parsed.
    let recorded = text.strip_suffix("\"}").and_then(|text| text.rsplit_once(HASH_PREFIX));
    let hash = match recorded.filter(|(_, hash)| hash.len() == GENESIS.len()) {
        Some((_, hash)) => hash.to_owned(),
        None => {
            let event = Json::parse(text.as_bytes()).ok()?;
            event.member("current_event_hash")?.as_str()?.to_owned()
        }
    };
    hex::decode(hash).ok()?.try_into().ok()
}

/// Checks an event by itself, and returns its position and its hash.
///
/// # Errors
///
/// Returns an error if the value is not an event, or its hash does not match its content.
pub fn check_event(event: &Json) -> Result<(u64, [u8; 32]), Defect> {
    let members = event.as_object().ok_or(Defect::NotAnEvent)?;
    let claimed = event.member("current_event_hash").and_then(Json::as_str).ok_or(Defect::NotAnEvent)?;
    let Some(Json::Number(seq)) = event.member("seq") else {
        return Err(Defect::NotAnEvent);
    };
    let seq = seq.as_str().parse().ok().filter(|seq| *seq > 0).ok_or(Defect::NotAnEvent)?;
    let content = members.iter().filter(|(name, _)| name != "current_event_hash").cloned().collect();
    let hash = hash_payload(&Json::Object(content)).map_err(|_| Defect::Edited)?;
    if hash != claimed {
        return Err(Defect::Edited);
    }
    let hash = hex::decode(hash).ok().and_then(|hash| hash.try_into().ok()).ok_or(Defect::Edited)?;
    Ok((seq, hash))
}

/// Generates a time-ordered event id.
pub fn new_event_id() -> String {
    format!("ev_{}", uuid::Uuid::now_v7().simple())
}

/// The head of a chain: its length and the hash of its last event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number of events in the chain.
    pub length: u64,
    /// Hash of the last event.
    pub hash: String,
}

impl Default for Head {
    /// Returns the head of an empty chain.
    fn default() -> Self {
        Self { length: 0, hash: GENESIS.to_owned() }
    }
}

/// The part of a chain whose events are in archived segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archived {
    /// The chain's head at the last archived event.
    pub head: Head,
    /// The chain's Merkle tree at that event.
    pub tree: Frontier,
    /// When the last segment was archived, in seconds since 1970.
    pub at: i64,
}

/// An event at its position in a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The event's JSON text.
    pub text: String,
    /// The chain's head with this event.
    pub head: Head,
}

/// Checks that `value` has a canonical form that verifiers can parse and hash again.
///
/// # Errors
///
/// Returns an error for integers beyond ±(2^53 - 1), including numbers that canonical JSON writes
/// as such an integer: `1e20` becomes `100000000000000000000`.
pub fn recordable(value: &Json) -> Result<(), InvalidArgument> {
    let canonical = canonical_json(value)?;
    let again = Json::parse(&canonical).map_err(|error| InvalidArgument::new("canonical JSON", error))?;
    canonical_json(&again).map(|_| ())
}

impl Draft {
    /// Positions the event after `head` and hashes it.
    ///
    /// # Errors
    ///
    /// Returns an error if `metadata` has no canonical form; see [`recordable`].
    pub fn seal(&self, head: &Head, created_at: SystemTime) -> Result<Sealed, InvalidArgument> {
        let seq = head.length.saturating_add(1);
        if let Some(metadata) = &self.metadata {
            recordable(metadata)?;
        }
        // Store exactly the hashed bytes: the canonical members, plus their hash.
        let mut event = self.canonical(seq, &head.hash, created_at)?;
        let hash = event.sha256();
        event.string("current_event_hash", Some(&hash));
        Ok(Sealed { text: event.finish(), head: Head { length: seq, hash } })
    }

    /// Writes the members in canonical order.
    fn canonical(
        &self,
        seq: u64,
        previous: &str,
        created_at: SystemTime,
    ) -> Result<ObjectWriter, InvalidArgument> {
        let created_at = humantime::format_rfc3339_millis(created_at).to_string();
        let policy = self.policy.as_ref();
        let not_canonical =
            |error: NotCanonical| InvalidArgument::new(&error.path_from("event"), error.problem());
        let mut event = ObjectWriter::new();
        event.string("agent_id", self.agent_id.as_deref());
        if !self.announces.is_empty() {
            event.strings("announces", self.announces.iter().map(|announcement| announcement.as_str()));
        }
        event.string("approval_request_id", self.approval_request_id.as_deref());
        if let Some(budgets) = &self.budgets {
            event.canonical("budgets", budgets).map_err(not_canonical)?;
        }
        event.string("chain_id", Some(&self.chain_id));
        event.string("claimed_agent_id", self.claimed_agent_id.as_deref());
        event.string("created_at", Some(&created_at));
        event.string("credential_id", self.credential_id.as_deref());
        event.string("decision", self.decision.as_deref());
        event.string("event_id", Some(&self.event_id));
        event.string("event_type", Some(&self.event_type));
        event.string("goal", self.goal.as_deref());
        event.string("idempotency_hash", self.idempotency_hash.as_deref());
        event.string("key_name", Some(&self.key_name));
        if let Some(rules) = &self.matched_rules {
            event.strings("matched_rules", rules.iter().map(String::as_str));
        }
        if let Some(metadata) = &self.metadata {
            event.canonical("metadata", metadata).map_err(not_canonical)?;
        }
        event.string("mode", self.mode);
        event.string("passport_jti", self.passport_jti.as_deref());
        event.string("policy_hash", policy.map(|policy| policy.hash.as_str()));
        event.string("policy_id", policy.map(|policy| policy.id.as_str()));
        if let Some(policy) = policy {
            event.canonical("policy_version", &policy.version).map_err(not_canonical)?;
        }
        event.string("previous_event_hash", Some(previous));
        event.string("protocol", self.protocol);
        event.string("reason_code", self.reason_code.as_deref());
        event.string("request_hash", self.request_hash.as_deref());
        event.string("resource", self.resource.as_deref());
        event.string("response_hash", self.response_hash.as_deref());
        event.integer("seq", seq);
        event.string("tenant_id", Some(&self.tenant_id));
        event.string("tool_id", self.tool_id.as_deref());
        event.string("user_id", self.user_id.as_deref());
        Ok(event)
    }
}

/// Verifies a chain event by event, from the first.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    head: Head,
    first_broken: Option<u64>,
}

/// Defect of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// Its hash does not match its content.
    #[error("edited: the hash does not match the content")]
    Edited,
    /// It is not an event.
    #[error("not an event: expected a JSON object with `seq` and `current_event_hash`")]
    NotAnEvent,
    /// It has the wrong position.
    #[error("found event {found}, expected event {expected}: events are missing or out of order")]
    OutOfPlace {
        /// Its `seq`.
        found: u64,
        /// The `seq` of the event that comes next.
        expected: u64,
    },
    /// It is consistent but does not link to the previous event.
    #[error("not linked to the previous event: `previous_event_hash` does not match")]
    Unlinked,
}

/// Result of [`Verifier::finish`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// Expected number of events.
    pub length: u64,
    /// Expected hash of the last event.
    pub head: String,
    /// The `seq` of the first broken or missing event; `None` if the chain is intact.
    pub first_broken: Option<u64>,
}

impl Verifier {
    /// Continues a chain after `head`.
    pub fn after(head: Head) -> Self {
        Self { head, first_broken: None }
    }

    /// Verifies the next event; returns `false` once the chain is broken.
    pub fn push(&mut self, text: &str) -> bool {
        self.first_broken.is_none() && self.examine(text).is_ok()
    }

    /// Verifies the next event.
    ///
    /// # Errors
    ///
    /// Returns the defect. Later events are not meaningful.
    pub fn examine(&mut self, text: &str) -> Result<(), Defect> {
        let seq = self.head.length.saturating_add(1);
        match check(text, seq, &self.head.hash) {
            Ok(hash) => {
                self.head = Head { length: seq, hash };
                Ok(())
            }
            Err(defect) => {
                self.first_broken = Some(seq);
                Err(defect)
            }
        }
    }

    /// Returns the verified head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Compares the verified events with the expected head.
    pub fn finish(self, head: Head) -> Verification {
        let found = self.head;
        let first_broken = self.first_broken.or_else(|| {
            if found == head {
                return None;
            }
            // Events are missing or added at the end, or the head was changed.
            Some(if found.length == head.length { head.length } else { found.length.min(head.length) + 1 })
        });
        Verification { length: head.length, head: head.hash, first_broken }
    }
}

/// The last member of a sealed event, without its value.
const HASH_MEMBER: &str = r#","current_event_hash":""#;

/// Length of the end of a sealed event: the hash with its member, and the brace.
const SEALED_END: usize = HASH_MEMBER.len() + 64 + 2;

/// Returns the event's hash if it follows `previous` at position `seq`.
fn check(text: &str, seq: u64, previous: &str) -> Result<String, Defect> {
    let event = match ReadEvent::of_sealed(text, previous) {
        Some(event) => event,
        None => ReadEvent::parse(text, previous)?,
    };
    match event {
        ReadEvent { seq: found, .. } if found != seq => Err(Defect::OutOfPlace { found, expected: seq }),
        ReadEvent { is_linked: false, .. } => Err(Defect::Unlinked),
        ReadEvent { hash, .. } => Ok(hash),
    }
}

/// The members of an event about its place in the chain.
#[derive(Debug, PartialEq, Eq)]
struct ReadEvent {
    seq: u64,
    /// The hash of its content, which it contains.
    hash: String,
    /// Whether it names the event before.
    is_linked: bool,
}

impl ReadEvent {
    /// Reads an unchanged text of [`Draft::seal`] without parsing it. `None` leaves it undecided: parse
    /// the text.
    fn of_sealed(text: &str, previous: &str) -> Option<Self> {
        let (content, hash) = text.split_at_checked(text.len().checked_sub(SEALED_END)?)?;
        let claimed = hash.strip_prefix(HASH_MEMBER)?.strip_suffix("\"}")?;
        // The hashed bytes: the brace was moved behind the hash.
        let content = [content, "}"].concat();
        let (mut seq, mut is_linked, mut has_hash) = (None, false, false);
        let is_canonical = is_canonical_object(&content, |name, value| match name {
            "current_event_hash" => has_hash = true,
            "previous_event_hash" => {
                is_linked =
                    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) == Some(previous);
            }
            "seq" => seq = value.parse().ok(),
            _ => {}
        });
        if !is_canonical || has_hash {
            return None;
        }
        let hash = sha256_hex(content.as_bytes());
        (claimed == hash).then_some(Self { seq: seq?, is_linked, hash })
    }

    fn parse(text: &str, previous: &str) -> Result<Self, Defect> {
        let Ok(Json::Object(mut members)) = Json::parse(text.as_bytes()) else {
            return Err(Defect::NotAnEvent);
        };
        let at =
            members.iter().position(|(name, _)| name == "current_event_hash").ok_or(Defect::NotAnEvent)?;
        let (_, claimed) = members.remove(at);
        let event = Json::Object(members);
        let Some(Json::Number(number)) = event.member("seq") else {
            return Err(Defect::NotAnEvent);
        };
        let seq = number.as_str().parse().map_err(|_| Defect::NotAnEvent)?;
        let hash = hash_payload(&event).map_err(|_| Defect::Edited)?;
        let is_linked = event.member("previous_event_hash").and_then(Json::as_str) == Some(previous);
        match claimed.as_str() == Some(&hash) {
            true => Ok(Self { seq, is_linked, hash }),
            false => Err(Defect::Edited),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn recordable_numbers_verify() {
        for (number, recorded) in [
            ("1.5", true),
            ("9007199254740991", true),
            ("9007199254740992", false),
            ("9007199254740991.0", true),
            ("9007199254740992.0", false),
            ("1e20", false),
            ("-1.5e20", false),
            ("1e21", true),
            ("1e308", true),
            ("1e-400", true),
        ] {
            let metadata = Json::parse(format!(r#"{{"a":[{number}]}}"#).as_bytes()).unwrap();
            let draft = Draft { metadata: Some(metadata), ..draft(1) };
            let sealed = draft.seal(&Head::default(), UNIX_EPOCH);
            assert_eq!(sealed.is_ok(), recorded, "{number}");
            if let Ok(sealed) = sealed {
                assert_eq!(Verifier::default().examine(&sealed.text), Ok(()), "{number}");
            }
        }
    }

    #[test]
    fn event_has_documented_members() {
        let draft = Draft { agent_id: Some("support".to_owned()), ..draft(1) };
        let sealed = draft.seal(&Head::default(), UNIX_EPOCH + Duration::from_millis(1_500)).unwrap();
        let event = Json::parse(sealed.text.as_bytes()).unwrap();
        let text = |name| event.member(name).and_then(Json::as_str);
        assert_eq!(text("event_id"), Some("ev_1"));
        assert_eq!(text("agent_id"), Some("support"));
        assert_eq!(text("created_at"), Some("1970-01-01T00:00:01.500Z"));
        assert_eq!(text("previous_event_hash"), Some(GENESIS));
        assert_eq!(event.member("seq").map(Json::to_string).as_deref(), Some("1"));
        assert_eq!(event.member("user_id"), None);

        let without: Vec<_> =
            event.as_object().unwrap().iter().filter(|(n, _)| n != "current_event_hash").cloned().collect();
        assert_eq!(text("current_event_hash"), Some(&*hash_payload(&Json::Object(without)).unwrap()));
        assert_eq!(text("current_event_hash"), Some(&*sealed.head.hash));
    }

    #[test]
    fn stated_hash_is_the_last_member() {
        let metadata =
            Json::parse(br#"{"current_event_hash": "00", "z": "\"current_event_hash\":\"00"}"#).unwrap();
        let draft = Draft { metadata: Some(metadata), ..draft(1) };
        let sealed = draft.seal(&Head::default(), UNIX_EPOCH).unwrap();
        let stated = stated_hash(&sealed.text).map(hex::encode);
        assert_eq!(stated.as_deref(), Some(&*sealed.head.hash));
        let event = Json::parse(sealed.text.as_bytes()).unwrap();
        assert_eq!(
            check_event(&event).map(|(seq, hash)| (seq, hex::encode(hash))),
            Ok((1, sealed.head.hash))
        );
        let Json::Object(mut members) = event else { panic!() };
        members.rotate_right(1);
        let turned = Json::Object(members).to_string();
        assert_eq!(stated_hash(&turned).map(hex::encode), stated, "in another order");
        for other in
            [r#"{"metadata":{"current_event_hash":"00"}}"#, "{}", "", r#"{"current_event_hash":"0"}"#]
        {
            assert_eq!(stated_hash(other), None, "{other}");
        }
    }

    #[test]
    fn intact_chain_verifies() {
        let (texts, head) = chain(5);
        assert_eq!(verify(&texts, &head), None);
        assert_eq!(verify(&[], &Head::default()), None);
    }

    #[test]
    fn detects_edited_event() {
        for at in 0..5 {
            let (mut texts, head) = chain(5);
            texts[at] = texts[at].replace("\"allow\"", "\"deny\"");
            assert_eq!(verify(&texts, &head), Some(at as u64 + 1));
        }
    }

    #[test]
    fn detects_rehashed_event_at_its_successor() {
        let (mut texts, head) = chain(5);
        let mut head_before = Head::default();
        for (at, text) in texts.iter().enumerate().take(2) {
            head_before =
                Head { length: at as u64 + 1, hash: check(text, at as u64 + 1, &head_before.hash).unwrap() };
        }
        let forged = Draft { decision: Some("deny".to_owned()), ..draft(3) };
        texts[2] = forged.seal(&head_before, UNIX_EPOCH).unwrap().text;
        assert_eq!(verify(&texts, &head), Some(4));
    }

    #[test]
    fn detects_forged_last_event() {
        let (mut texts, head) = chain(1);
        let forged = Draft { decision: Some("deny".to_owned()), ..draft(1) };
        texts[0] = forged.seal(&Head::default(), UNIX_EPOCH).unwrap().text;
        assert_eq!(verify(&texts, &head), Some(1));
    }

    #[test]
    fn detects_removed_event() {
        for at in 0..5 {
            let (mut texts, head) = chain(5);
            texts.remove(at);
            assert_eq!(verify(&texts, &head), Some(at as u64 + 1));
        }
    }

    #[test]
    fn detects_swapped_events() {
        let (mut texts, head) = chain(5);
        texts.swap(1, 3);
        assert_eq!(verify(&texts, &head), Some(2));
    }

    #[test]
    fn detects_added_event() {
        let (mut texts, head) = chain(3);
        texts.push(draft(4).seal(&head, UNIX_EPOCH).unwrap().text);
        assert_eq!(verify(&texts, &head), Some(4));
    }

    #[test]
    fn event_hash_covers_canonical_json() {
        let text = |text: &str| Some(text.to_owned());
        let draft = Draft {
            key_name: "k\u{e9}\"".into(),
            agent_id: text("a"),
            claimed_agent_id: text("b"),
            user_id: text("u\n"),
            tool_id: text("t"),
            resource: text(""),
            goal: text("g"),
            mode: Some("enforce"),
            reason_code: text("r"),
            matched_rules: Some(vec!["one".to_owned(), "t\\wo".to_owned()]),
            policy: Some(PolicyRef {
                id: "p".to_owned(),
                version: Json::parse(b"1.50").unwrap(),
                hash: "h".to_owned(),
            }),
            protocol: Some("authzen"),
            request_hash: text("rq"),
            response_hash: text("rs"),
            approval_request_id: text("apr"),
            passport_jti: text("jti"),
            credential_id: text("cred"),
            metadata: Some(Json::parse(br#"{"z": 1.0, "a": null}"#).unwrap()),
            ..draft(1)
        };
        let sealed = draft.seal(&Head::default(), UNIX_EPOCH).unwrap();
        let Ok(Json::Object(mut members)) = Json::parse(sealed.text.as_bytes()) else { panic!("no object") };
        let (name, hash) = members.pop().unwrap();
        assert_eq!((name.as_str(), hash.as_str()), ("current_event_hash", Some(sealed.head.hash.as_str())));
        assert_eq!(members.len(), 28);
        let canonical = String::from_utf8(canonical_json(&Json::Object(members)).unwrap()).unwrap();
        let whole =
            format!(r#"{},"current_event_hash":"{}"}}"#, canonical.trim_end_matches('}'), sealed.head.hash);
        assert_eq!(sealed.text, whole);
        assert_eq!(sha256_hex(canonical.as_bytes()), sealed.head.hash);
    }

    #[test]
    fn detects_non_event() {
        let (mut texts, head) = chain(2);
        for wrong in ["", "null", "{}", "[]", r#"{"seq":1,"seq":1}"#] {
            texts[0] = wrong.to_owned();
            assert_eq!(verify(&texts, &head), Some(1), "{wrong}");
        }
    }

    #[test]
    fn names_each_chain_defect() {
        let (texts, _) = chain(3);
        let examine = |texts: &[&str]| {
            let mut verifier = Verifier::default();
            texts.iter().try_for_each(|text| verifier.examine(text))
        };
        let other =
            draft(2).seal(&Head { length: 1, hash: GENESIS.replace('0', "1") }, UNIX_EPOCH).unwrap().text;
        let edited = texts[1].replace("ev_2", "ev_9");
        assert_eq!(examine(&[&texts[0], &texts[1], &texts[2]]), Ok(()));
        assert_eq!(examine(&[&texts[0], &edited]), Err(Defect::Edited));
        assert_eq!(examine(&[&texts[0], &texts[2]]), Err(Defect::OutOfPlace { found: 3, expected: 2 }));
        assert_eq!(examine(&[&texts[0], &texts[0]]), Err(Defect::OutOfPlace { found: 1, expected: 2 }));
        assert_eq!(examine(&[&texts[0], &other]), Err(Defect::Unlinked));
        assert_eq!(examine(&["{}"]), Err(Defect::NotAnEvent));
    }

    proptest! {
        #[test]
        fn sealed_event_is_read_as_a_parser_reads_it(
            goal in "[ -~\u{e9}\n]{0,30}",
            change in prop::option::of((any::<prop::sample::Index>(), "[ -~]{0,2}", 0usize..3)),
        ) {
            let drafted = Draft { goal: Some(goal), ..draft(1) };
            let mut text = drafted.seal(&Head::default(), UNIX_EPOCH).unwrap().text;
            prop_assert!(ReadEvent::of_sealed(&text, GENESIS).is_some(), "{}", text);
            if let Some((at, new, removed)) = change {
                let mut chars: Vec<char> = text.chars().collect();
                let at = at.index(chars.len());
                chars.splice(at..(at + removed).min(chars.len()), new.chars()).for_each(drop);
                text = chars.into_iter().collect();
            }
            if let Some(event) = ReadEvent::of_sealed(&text, GENESIS) {
                prop_assert_eq!(Ok(event), ReadEvent::parse(&text, GENESIS), "{}", text);
            }
        }
    }

    #[test]
    fn event_with_an_invalid_string_as_hash_is_malformed() {
        let text = draft(1).seal(&Head::default(), UNIX_EPOCH).unwrap().text;
        let at = text.len() - "0\"}".len();
        let changed = format!("{}\\{}", &text.get(..at).unwrap(), &text.get(at + 1..).unwrap());
        assert_eq!(Verifier::default().examine(&changed), Err(Defect::NotAnEvent));
    }

    #[test]
    fn event_with_two_hashes_is_not_read_without_parsing() {
        let text = draft(1).seal(&Head::default(), UNIX_EPOCH).unwrap().text;
        let content = text.split(HASH_MEMBER).next().unwrap();
        let twice = content.replace(r#","decision""#, &format!(r#"{HASH_MEMBER}{GENESIS}","decision""#));
        assert_ne!(twice, content);
        let hash = sha256_hex(format!("{twice}}}").as_bytes());
        let text = format!("{twice}{HASH_MEMBER}{hash}\"}}");
        assert_eq!(Verifier::default().examine(&text), Err(Defect::NotAnEvent));
    }

    fn draft(number: usize) -> Draft {
        Draft {
            event_id: format!("ev_{number}"),
            tenant_id: "t".into(),
            chain_id: "c".to_owned(),
            event_type: "note".to_owned(),
            decision: Some("allow".to_owned()),
            ..Draft::default()
        }
    }

    fn chain(length: usize) -> (Vec<String>, Head) {
        let mut head = Head::default();
        let mut texts = Vec::new();
        for number in 1..=length {
            let sealed = draft(number).seal(&head, UNIX_EPOCH).unwrap();
            head = sealed.head;
            texts.push(sealed.text);
        }
        (texts, head)
    }

    fn verify(texts: &[String], head: &Head) -> Option<u64> {
        let mut verifier = Verifier::default();
        let _ = texts.iter().all(|text| verifier.push(text));
        verifier.finish(head.clone()).first_broken
    }
}
