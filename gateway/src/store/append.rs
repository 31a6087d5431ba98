//! The three kinds of records, and their outcomes.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use actpass_protocol::ActionEnd;
use bytes::Bytes;

use super::SealedCredential;
use crate::approvals::{Approval, Ballot, VoteRefusal};
use crate::budget::Charge;
use crate::capture::SealedRequest;
use crate::halts::{Acknowledgement, Halt};
use crate::history::{Check, Truth};
use crate::ledger::Draft;

/// An event that is recorded unconditionally, with an optional mutation; both are atomic.
#[derive(Clone, Debug)]
pub struct Record {
    /// The event.
    pub event: Draft,
    /// The mutation, for the event's tenant.
    pub mutation: Option<Mutation>,
}

impl Record {
    /// Creates a record without mutation.
    pub fn of(event: Draft) -> Self {
        Self { event, mutation: None }
    }
}

/// A mutation that does not depend on existing state.
#[derive(Clone, Debug)]
pub enum Mutation {
    /// Approves a tool's manifest.
    ApproveManifest {
        /// The tool.
        tool_id: String,
        /// The `manifest_hash`.
        hash: String,
    },
    /// Applies the outcome of an action to the claims of the first decision on this request whose
    /// claims depend on it and whose outcome is not final.
    EndAction {
        /// The request's `request_hash`.
        request_hash: String,
        /// The outcome.
        ended: ActionEnd,
    },
    /// Registers an issued passport.
    IssuePassport {
        /// The passport's id.
        jti: String,
        /// Id of the key that signed it.
        kid: String,
        /// Expiry, in seconds since 1970.
        expires_at: i64,
        /// The epoch of the halts that permit it; otherwise nothing is recorded.
        halt_epoch: u64,
    },
    /// Sets a tool's credential, replacing any other.
    SetCredential(Box<SealedCredential>),
}

/// An event with a change that is possible only once. If it is no longer possible, nothing is
/// recorded.
#[derive(Clone, Debug)]
pub struct Transition {
    /// The event.
    pub event: Draft,
    /// The change, for the event's tenant.
    pub change: Change,
}

/// A change that requires a certain state.
#[derive(Clone, Debug)]
pub enum Change {
    /// Records a client's acknowledgement of an epoch, once.
    Acknowledge(Box<Acknowledgement>),
    /// Votes on an existing, pending approval before its deadline, which decides it if no other vote
    /// is needed.
    DecideApproval {
        /// The approval's id.
        id: String,
        /// The vote.
        ballot: Box<Ballot>,
        /// The event in place of the transition's if others must approve too.
        voted: Box<Draft>,
        /// The epoch of the halts that permit an approval; otherwise nothing is recorded. `None`
        /// for a rejection.
        halt_epoch: Option<u64>,
    },
    /// Exchanges an issued passport that was neither used nor revoked for a new one. The transition's
    /// event is that of the new passport.
    ExchangePassport {
        /// The id of the passport, which is spent.
        subject: String,
        /// The passports that were exchanged for it. None of them may be revoked.
        ancestors: Vec<String>,
        /// The event about the passport that is spent.
        exchanged: Box<Draft>,
        /// The new passport: [`Mutation::IssuePassport`].
        issue: Box<Mutation>,
    },
    /// Removes a tool's credential if it is still this one.
    RemoveCredential {
        /// The tool.
        tool_id: String,
        /// The credential's id.
        id: String,
    },
    /// Revokes an existing delegation that is not revoked.
    RevokeDelegation {
        /// The delegation's id.
        id: String,
    },
    /// Revokes an issued passport that is not revoked.
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
    /// The vote does not count. Nothing was recorded.
    Refused(VoteRefusal),
    /// The change is not possible, or no longer. Nothing was recorded.
    Stale,
}

/// A change of the halts, with its events on the chains of decisions of all tenants that it affects.
#[derive(Clone, Debug)]
pub enum HaltChange {
    /// Starts a halt. The transaction sets its time and epoch.
    Start(Box<Halt>),
    /// Lifts an active halt.
    Lift {
        /// The halt's id.
        id: String,
        /// Author of the lifting.
        by: String,
        /// The reason.
        reason: String,
    },
}

/// The outcome of a [`HaltChange`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HaltOutcome {
    /// The change and its events are durable.
    Changed(Arc<Halt>),
    /// The same author already stops the same. Nothing was recorded.
    Repeated(Arc<Halt>),
    /// There is no such active halt. Nothing was recorded.
    NotActive,
    /// The limit of active halts is reached. Nothing was recorded.
    TooMany,
}

/// A decision to record, with its preconditions; all or nothing.
///
/// One transaction checks in this order: `halt_epoch` (another epoch is an error), `idempotency` (a conflict, or an earlier response that the
/// decision did not see, ends it), `history` (a wrong assumption ends it, unless the earlier
/// response may be replayed), `holds_until`, `opens`, `credential` and `manifest` (each can make it
/// stale), whether to replay the earlier response, `uses` (the first failure records its
/// fallback or makes the decision stale), and `budgets` (a claim that does not fit records its
/// fallback or requires an approval). Then everything is written.
#[derive(Clone, Debug)]
pub struct DecisionRecord {
    /// The event.
    pub event: Draft,
    /// The epoch of the halts that the decision has considered.
    pub halt_epoch: u64,
    /// Ensures that a repetition of the request records nothing.
    pub idempotency: Option<Idempotency>,
    /// The history conditions that it depends on.
    pub history: Vec<Check>,
    /// The single uses that the decision consumes: all or nothing.
    pub uses: Vec<SingleUse>,
    /// The credential that the tool must have.
    pub credential: Option<CredentialPin>,
    /// The manifest of the tool that must be approved.
    pub manifest: Option<ManifestPin>,
    /// When the decision's basis expires, in seconds since 1970.
    pub holds_until: Option<i64>,
    /// The approval that it opens.
    pub opens: Option<ApprovalOpening>,
    /// The budgets that apply.
    pub budgets: Option<Claims>,
    /// The request, to keep with the decision.
    pub capture: Option<SealedRequest>,
    /// Set to the time at which its transaction begins.
    pub begun: Option<Arc<OnceLock<Instant>>>,
}

impl DecisionRecord {
    /// Creates a decision without preconditions.
    pub fn of(event: Draft) -> Self {
        Self {
            event,
            halt_epoch: 0,
            idempotency: None,
            history: Vec::new(),
            uses: Vec::new(),
            credential: None,
            manifest: None,
            holds_until: None,
            opens: None,
            budgets: None,
            capture: None,
            begun: None,
        }
    }
}

/// The expected approved manifest of a tool of the event's tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestPin {
    /// The tool.
    pub tool_id: String,
    /// The `manifest_hash`; `None` for no approved manifest.
    pub hash: Option<String>,
}

/// The expected credential of a tool of the event's tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialPin {
    /// The tool.
    pub tool_id: String,
    /// The credential's id; `None` for no credential.
    pub credential_id: Option<String>,
}

/// An approval to open.
#[derive(Clone, Debug)]
pub struct ApprovalOpening {
    /// The approval.
    pub approval: Box<Approval>,
    /// Whether a live approval for the same action and asker makes the decision stale.
    pub exclusive: bool,
}

/// A single-use grant of the event's tenant, with the fallback if it cannot be used.
#[derive(Clone, Debug)]
pub enum SingleUse {
    /// A passport's single use.
    Passport {
        /// The passport's id.
        jti: String,
        /// The passports that were exchanged for it. If one is revoked, it is revoked.
        ancestors: Vec<String>,
        /// If it was already used.
        replayed: Box<Fallback>,
        /// If it was revoked, or never issued.
        revoked: Box<Fallback>,
    },
    /// An approval's single use.
    Approval {
        /// The approval's id.
        id: String,
        /// If it was already used; `None` makes the decision stale.
        spent: Option<Box<Fallback>>,
    },
}

/// What to record and respond if a [`SingleUse`] failed or a budget would be exceeded.
#[derive(Clone, Debug)]
pub struct Fallback {
    /// The event.
    pub event: Draft,
    /// The response body.
    pub response: Bytes,
}

/// A charge on a budget in the transaction of a decision.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The account and the amount.
    pub charge: Charge,
    /// The effect if it would exceed the limit.
    pub on_excess: Excess,
}

/// The effect of a claim that would exceed the limit.
#[derive(Clone, Debug)]
pub enum Excess {
    /// It is claimed anyway: a person approved the action, or it counts for a history.
    Claim,
    /// Nothing is recorded; the action needs approval.
    RequireApproval,
    /// The fallback is recorded.
    Refuse(Box<Fallback>),
}

/// The claims of a decision.
#[derive(Clone, Debug)]
pub struct Claims {
    /// The claims of an `allow`.
    pub claims: Vec<Claim>,
    /// The charge that must exceed its budget: the reason why an approval is required.
    pub exceeds: Option<Charge>,
    /// Whether they are recorded. Observing modes only measure.
    pub are_recorded: bool,
    /// The response, which the transaction completes with the state of the budgets.
    pub response: Bytes,
}

/// The idempotency key of a request, and the response to store.
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// The client's key; unique per tenant and API key.
    pub key: String,
    /// The SHA-256 that identifies equivalent requests.
    pub fingerprint: [u8; 32],
    /// The response to store.
    pub response: Bytes,
    /// Whether the response is an `allow`; only an `allow` is replayed.
    pub allows: bool,
    /// Retention of the response, in seconds.
    pub retention_seconds: i64,
    /// The earlier response that the decision has seen.
    pub earlier: Option<SeenResponse>,
}

/// An earlier response that a decision has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenResponse {
    /// The `seq` of its event.
    pub seq: u64,
    /// The basis of that response, if it appears to be valid; then it is replayed.
    pub replay_of: Option<AllowBasis>,
}

/// The basis of an `allow`, in addition to the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowBasis {
    /// Id of the approval.
    pub approval: Option<String>,
    /// Id of the passport.
    pub passport: Option<String>,
}

/// The earlier response under an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierResponse {
    /// The last response.
    pub response: Bytes,
    /// The `seq` of its event on the chain of decisions.
    pub seq: u64,
    /// Its basis.
    pub basis: AllowBasis,
    /// Id of the credential that it included.
    pub credential: Option<String>,
    /// The rule that decided.
    pub rule: Option<String>,
    /// Whether it is an `allow` that the ledger supports.
    pub is_allow: bool,
    /// The first `allow` under this key, if any.
    pub allowed: Option<FirstAllow>,
}

/// The first `allow` under an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstAllow {
    /// When it was recorded, in milliseconds since 1970; 0 if unknown.
    pub at: i64,
    /// Its basis.
    pub basis: AllowBasis,
}

/// The outcome of a [`DecisionRecord`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecisionOutcome {
    /// The idempotency key was used for a different request. Nothing was recorded.
    Conflict,
    /// There is an earlier response that the decision has not seen. Nothing was recorded.
    EarlierResponse(Box<EarlierResponse>),
    /// The decision and its claims on budgets are durable; this is its response.
    Claimed(Bytes),
    /// The decision assumed otherwise of these history conditions. Nothing was recorded.
    History(Vec<Truth>),
    /// The action would exceed this budget, which requires an approval. Nothing was recorded.
    OverBudget(String),
    /// The decision is durable.
    Recorded,
    /// A single use failed, or a budget would be exceeded. The fallback is durable; this is its response.
    Refused(Bytes),
    /// The earlier response is still valid and must be replayed. Nothing was recorded.
    Repeated(Bytes),
    /// A precondition is no longer true. Nothing was recorded.
    Stale,
}
