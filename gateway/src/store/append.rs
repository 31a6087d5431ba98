//! What is recorded, in three kinds, and what comes of each.

use bytes::Bytes;

use super::SealedCredential;
use crate::approvals::{Approval, ApprovalDecision};
use crate::ledger::Draft;

/// An event that is recorded whatever else is in the store, and what changes with it, both or neither.
#[derive(Clone, Debug)]
pub struct Record {
    /// The event.
    pub event: Draft,
    /// What changes for the event's tenant.
    pub mutation: Option<Mutation>,
}

impl Record {
    /// An event that changes nothing.
    pub fn of(event: Draft) -> Self {
        Self { event, mutation: None }
    }
}

/// What an event changes, whatever was there before.
#[derive(Clone, Debug)]
pub enum Mutation {
    /// A tool has this manifest from now on.
    ApproveManifest {
        /// The tool.
        tool_id: String,
        /// The `manifest_hash`.
        hash: String,
    },
    /// A passport is known to have been issued.
    IssuePassport {
        /// The passport's id.
        jti: String,
        /// The key that signed it.
        kid: String,
        /// When it expires, in seconds since 1970.
        expires_at: i64,
    },
    /// A tool has this credential from now on, in place of any other.
    SetCredential(Box<SealedCredential>),
}

/// An event of a change that is possible once. If it no longer is, neither takes place.
#[derive(Clone, Debug)]
pub struct Transition {
    /// The event.
    pub event: Draft,
    /// The change, for the event's tenant.
    pub change: Change,
}

/// A change that is possible only from a certain state.
#[derive(Clone, Debug)]
pub enum Change {
    /// A person decides about an approval that is there, undecided and before its deadline.
    DecideApproval {
        /// The approval's id.
        id: String,
        /// The decision.
        decided: ApprovalDecision,
    },
    /// A tool loses its credential, if it still is this one.
    RemoveCredential {
        /// The tool.
        tool_id: String,
        /// The credential's id.
        id: String,
    },
    /// A passport is revoked that was issued and is not revoked yet.
    RevokePassport {
        /// The passport's id.
        jti: String,
    },
}

/// The outcome of a [`Transition`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransitionOutcome {
    /// The event and its change are durable.
    Recorded,
    /// The change is not possible, or no longer. Nothing was recorded.
    Stale,
}

/// A decision to record, and what must be so for it, all or nothing.
///
/// In one transaction, in this order: `idempotency` (a key that was used for another body, or under which something was
/// answered that the decision does not take into account, ends it), `holds_until`, `opens`, `credential` and `manifest`
/// (each may make it stale), whether the earlier answer is repeated, `uses` (the first that fails records its fallback, or
/// makes the decision stale), and then all of it is written.
#[derive(Clone, Debug)]
pub struct DecisionRecord {
    /// The event.
    pub event: Draft,
    /// What makes a repetition of the same request record nothing.
    pub idempotency: Option<Idempotency>,
    /// What this decision uses up: all of it, or none.
    pub uses: Vec<SingleUse>,
    /// Which credential the tool must have.
    pub credential: Option<CredentialPin>,
    /// Which manifest of the tool must be approved.
    pub manifest: Option<ManifestPin>,
    /// From when on the decision is stale, in seconds since 1970: what it rests on has expired.
    pub holds_until: Option<i64>,
    /// The approval request that it opens.
    pub opens: Option<ApprovalOpening>,
}

impl DecisionRecord {
    /// A decision that depends on nothing.
    pub fn of(event: Draft) -> Self {
        Self {
            event,
            idempotency: None,
            uses: Vec::new(),
            credential: None,
            manifest: None,
            holds_until: None,
            opens: None,
        }
    }
}

/// Which manifest of a tool of the event's tenant is approved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestPin {
    /// The tool.
    pub tool_id: String,
    /// The `manifest_hash`; `None` if the tool has none.
    pub hash: Option<String>,
}

/// Which credential a tool of the event's tenant has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialPin {
    /// The tool.
    pub tool_id: String,
    /// The credential's id; `None` if the tool has none.
    pub credential_id: Option<String>,
}

/// An approval request to open.
#[derive(Clone, Debug)]
pub struct ApprovalOpening {
    /// The approval.
    pub approval: Box<Approval>,
    /// Whether the decision is stale if there is a live request for the same action by the same asker.
    pub exclusive: bool,
}

/// Something of the event's tenant that one request alone may use, and what to record and answer if it cannot.
#[derive(Clone, Debug)]
pub enum SingleUse {
    /// A passport's single use.
    Passport {
        /// The passport's id.
        jti: String,
        /// If it was used before.
        replayed: Box<Fallback>,
        /// If it was revoked, or never issued.
        revoked: Box<Fallback>,
    },
    /// An approval's single use.
    Approval {
        /// The approval's id.
        id: String,
        /// If it was used before; `None` makes the decision stale then.
        spent: Option<Box<Fallback>>,
    },
}

/// What is recorded and answered in place of a decision whose [`SingleUse`] failed.
#[derive(Clone, Debug)]
pub struct Fallback {
    /// The event.
    pub event: Draft,
    /// The answer.
    pub response: Bytes,
}

/// A request that must take effect once, and the answer to keep.
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// The client's key, unique to the tenant and the API key.
    pub key: String,
    /// The SHA-256 of what the client asked for.
    pub fingerprint: [u8; 32],
    /// The answer to keep.
    pub response: Bytes,
    /// Whether that answer is an `allow`: only such an answer is ever repeated.
    pub allows: bool,
    /// For how many seconds the answer is kept.
    pub retention_seconds: i64,
    /// The earlier answer that the decision takes into account.
    pub earlier: Option<SeenResponse>,
}

/// An earlier answer that a decision takes into account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenResponse {
    /// The `seq` of its event.
    pub seq: u64,
    /// What it rested on, if it still holds as far as is known before the transaction. It is repeated then.
    pub replay_of: Option<AllowBasis>,
}

/// What an `allow` rests on besides the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowBasis {
    /// An approval's id.
    pub approval: Option<String>,
    /// A passport's id.
    pub passport: Option<String>,
}

/// What was answered under an idempotency key before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierResponse {
    /// The latest answer.
    pub response: Bytes,
    /// The `seq` of its event on the chain of decisions.
    pub seq: u64,
    /// What it rested on.
    pub basis: AllowBasis,
    /// The credential that it was handed out with.
    pub credential: Option<String>,
    /// Whether it is an `allow` and follows from the ledger.
    pub is_allow: bool,
    /// The first `allow` under this key, if there was one.
    pub allowed: Option<FirstAllow>,
}

/// The first `allow` under an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstAllow {
    /// When it was recorded, in milliseconds since 1970; 0 if the ledger does not say.
    pub at: i64,
    /// What it rested on.
    pub basis: AllowBasis,
}

/// The outcome of a [`DecisionRecord`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecisionOutcome {
    /// The idempotency key was used for another request. Nothing was recorded.
    Conflict,
    /// Something was answered under the key that the decision does not take into account. Nothing was recorded.
    EarlierResponse(Box<EarlierResponse>),
    /// The decision is durable.
    Recorded,
    /// A single use failed: its fallback is durable, and this is the answer with it.
    Refused(Bytes),
    /// This earlier answer still holds and is to be repeated. Nothing was recorded.
    Repeated(Bytes),
    /// What the decision rests on is not as it must be. Nothing was recorded.
    Stale,
}
