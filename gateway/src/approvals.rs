//! Approvals: actions that need a person's decision. An approval is bound to the hash of the
//! action, decided once and used once.

use std::sync::Arc;
use std::time::Duration;

use actpass_protocol::Json;
use actpass_protocol::signed_approval::MAX_SIGNATURES;
use tokio::sync::{broadcast, watch};

use crate::auth::is_same_person;
use crate::object_writer::{ObjectWriter, object};
use crate::quorum::{Requirement, Seat, Vote};

/// Reason codes for actions that need an approval.
pub mod reason {
    /// The action differs from the approved one.
    pub const ACTION_MISMATCH: &str = "approval.action_mismatch";
    /// A person approved it.
    pub const APPROVED: &str = "approval.approved";
    /// The deadline passed without a decision, or the approval was not used in time.
    pub const EXPIRED: &str = "approval.expired";
    /// The action has no canonical form, so no approval can be bound to it.
    pub const NOT_HASHABLE: &str = "approval.not_hashable";
    /// The stored decision is not supported by an event in the ledger.
    pub const NOT_PROVEN: &str = "approval.not_proven";
    /// The approval is not decided yet.
    pub const PENDING: &str = "approval.pending";
    /// A person rejected it.
    pub const REJECTED: &str = "approval.rejected";
    /// The person requested the action.
    pub const SELF: &str = "approval.self";
    /// The approval was already used.
    pub const SPENT: &str = "approval.spent";
    /// The limit of pending approvals for the key or agent is reached.
    pub const TOO_MANY_PENDING: &str = "approval.too_many_pending";
    /// The tenant has no such approval.
    pub const UNKNOWN: &str = "approval.unknown";
}

/// Status of an approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// A person approved it.
    Approved,
    /// The deadline has passed.
    Expired,
    /// Not decided yet.
    Pending,
    /// A person rejected it.
    Rejected,
}

impl Status {
    /// All statuses.
    pub const ALL: [Self; 4] = [Self::Approved, Self::Expired, Self::Pending, Self::Rejected];

    /// Parses a status word; `None` if it is unknown.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// The word used on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Expired => "expired",
            Self::Pending => "pending",
            Self::Rejected => "rejected",
        }
    }
}

/// A single-use approval of one action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// The id: `apr_` followed by a UUIDv7 in hex.
    pub id: String,
    /// `hash_payload` of the exact action.
    pub action_hash: String,
    /// The tool.
    pub tool: String,
    /// The resource that the action affects.
    pub resource: Option<String>,
    /// The arguments as JSON text.
    pub args: String,
    /// The agent's goal.
    pub goal: String,
    /// The agent that requested the approval.
    pub agent_id: Option<String>,
    /// The authenticated requester: `agent:<id>` if the API key is bound to an agent, otherwise
    /// `key:<name>`. Empty for approvals created by older versions.
    pub asker: String,
    /// The user on whose behalf the agent acts.
    pub user_id: Option<String>,
    /// The reason code of the rule that requires the approval.
    pub reason_code: String,
    /// Creation time, in seconds since 1970.
    pub created_at: i64,
    /// Deadline for the decision, in seconds since 1970.
    pub deadline: i64,
    /// The decision; `None` while pending.
    pub decided: Option<ApprovalDecision>,
    /// The notes of the votes.
    pub note: Option<String>,
    /// The requester and the requirement, from the event of its opening. `None` if the ledger has no
    /// such event: then it cannot be decided.
    pub opening: Option<Opening>,
    /// The votes, in order, from their events.
    pub votes: Vec<Vote>,
    /// Whether the approval was used.
    pub spent: bool,
    /// Whether an event in the ledger supports the decision. An unproven decision grants nothing.
    pub proven: bool,
}

/// The opening of an [`Approval`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The person who requested it: of the API key, otherwise the key's name.
    pub person: String,
    /// The required people, fixed from now on.
    pub requirement: Requirement,
    /// The event; `None` before it is recorded.
    pub event: Option<Arc<Json>>,
}

impl Opening {
    /// Returns the metadata of the opening's event; `None` if it is implied.
    pub(crate) fn to_metadata(&self, key_name: &str) -> Option<Json> {
        let person = (self.person != key_name).then(|| Json::from(&*self.person));
        let requirement = self.requirement != Requirement::default();
        let approval = requirement.then(|| self.requirement.to_json());
        (person.is_some() || approval.is_some()).then(|| object([("approval", approval), ("person", person)]))
    }

    /// Reads the opening from its event; `None` if it is invalid.
    pub(crate) fn of_event(event: Json) -> Option<Self> {
        let metadata = event.member("metadata");
        let requirement = match metadata.and_then(|metadata| metadata.member("approval")) {
            Some(requirement) => Requirement::parse(requirement).ok()?,
            None => Requirement::default(),
        };
        let person = metadata.and_then(|metadata| metadata.member("person")).and_then(Json::as_str);
        let person = person.or_else(|| event.member("key_name").and_then(Json::as_str))?;
        Some(Self { person: person.to_owned(), requirement, event: Some(Arc::new(event)) })
    }
}

/// A vote to be cast, with the context for its evaluation in the transaction.
#[derive(Clone, Debug)]
pub struct Ballot {
    /// The vote.
    pub vote: Vote,
    /// See [`Principal::asker`](crate::auth::Principal::asker).
    pub asker: String,
    /// Whether the role may reject approvals of all groups.
    pub rejects_all: bool,
    /// Whether people may approve their own requests.
    pub allow_self: bool,
    /// The note of the person who votes.
    pub note: Option<String>,
    /// The hash of the card that the person was shown, if the gateway showed it.
    pub shown_hash: Option<String>,
}

impl Ballot {
    /// Returns the decision that this vote makes.
    pub fn decision(&self, note: Option<String>) -> ApprovalDecision {
        let Vote { approved, by, at, .. } = &self.vote;
        ApprovalDecision { approved: *approved, by: by.clone(), at: *at, note }
    }
}

/// The effect of a [`Ballot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteOutcome {
    /// The vote decides the approval.
    Decides,
    /// The vote counts; others must approve too.
    Counts,
    /// The vote does not count.
    Refused(VoteRefusal),
    /// The approval is already decided, or its deadline has passed.
    TooLate,
}

/// Why a vote does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteRefusal {
    /// This person, or the absent person, has already approved.
    AlreadyVoted,
    /// The ledger does not support the approval's record.
    Altered,
    /// No delegation for the absent person is in force.
    NotDelegated,
    /// The person's groups have no seat.
    NoSeat,
    /// The approval must be signed with a passkey.
    NotSigned,
    /// The person, or the absent person, requested the action.
    SelfApproval,
}

/// A person's decision on an [`Approval`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalDecision {
    /// Whether the action may run.
    pub approved: bool,
    /// The name of the API key that decided.
    pub by: String,
    /// When it was decided, in seconds since 1970.
    pub at: i64,
    /// The note of the person who decided.
    pub note: Option<String>,
}

impl Approval {
    /// Returns the status at `now`, in seconds since 1970.
    ///
    /// An approved action must be used within the same duration that was available for the
    /// decision.
    pub fn status(&self, now: i64) -> Status {
        match &self.decided {
            // A decision without an event grants nothing.
            Some(_) if !self.proven => Status::Expired,
            None if now >= self.deadline => Status::Expired,
            None => Status::Pending,
            Some(decided) if !decided.approved => Status::Rejected,
            Some(decided) if !self.spent && now >= self.usable_until(decided) => Status::Expired,
            Some(_) => Status::Approved,
        }
    }

    /// Returns whether the approval is approved and not expired at `now`, even if it was already
    /// used.
    pub fn is_usable(&self, now: i64) -> bool {
        self.is_approved() && self.decided.as_ref().is_some_and(|decided| now < self.usable_until(decided))
    }

    /// Returns the time until which the decision can be used, in seconds since 1970.
    pub fn usable_until(&self, decided: &ApprovalDecision) -> i64 {
        decided.at.saturating_add(self.deadline.saturating_sub(self.created_at))
    }

    /// Computes the hash of the stored action; `None` if the action has no canonical form. A result
    /// that differs from [`Approval::action_hash`] means that the record was changed.
    pub fn recompute_hash(&self) -> Option<String> {
        let args = Json::parse(self.args.as_bytes()).ok()?;
        let action = Action {
            agent_id: self.agent_id.as_deref(),
            args: &args,
            goal: &self.goal,
            resource: self.resource.as_deref(),
            tool: &self.tool,
            user_id: self.user_id.as_deref(),
        };
        action.hash()
    }

    /// Evaluates a vote at `now`, in seconds since 1970. The caller checks its delegation.
    pub fn evaluate(&self, ballot: &Ballot, now: i64) -> VoteOutcome {
        let vote = &ballot.vote;
        if self.decided.is_some() || vote.at.max(now) >= self.deadline {
            return VoteOutcome::TooLate;
        }
        let Some(Opening { requirement, .. }) = &self.opening else {
            return VoteOutcome::Refused(VoteRefusal::Altered);
        };
        let is_admitted = requirement.admits(vote);
        if !vote.approved {
            return match is_admitted || ballot.rejects_all {
                true => VoteOutcome::Decides,
                false => VoteOutcome::Refused(VoteRefusal::NoSeat),
            };
        }
        let is_own = ballot.asker == self.asker || vote.people().any(|person| self.is_requested_by(person));
        if is_own && !ballot.allow_self {
            return VoteOutcome::Refused(VoteRefusal::SelfApproval);
        }
        if !is_admitted {
            return VoteOutcome::Refused(VoteRefusal::NoSeat);
        }
        if requirement.is_signed() && vote.signature.is_none() {
            return VoteOutcome::Refused(VoteRefusal::NotSigned);
        }
        // One person fills one seat, and each person's seat is filled once.
        let mut earlier = self.votes.iter().flat_map(Vote::people);
        if earlier.any(|known| vote.people().any(|person| is_same_person(known, person))) {
            return VoteOutcome::Refused(VoteRefusal::AlreadyVoted);
        }
        let mut votes = self.votes.clone();
        votes.push(vote.clone());
        match requirement.missing(&votes).is_empty() {
            true => VoteOutcome::Decides,
            false => VoteOutcome::Counts,
        }
    }

    /// Returns whether the person requested it, or is the request's user.
    fn is_requested_by(&self, person: &str) -> bool {
        let requester = self.opening.as_ref().map(|opening| &opening.person);
        requester.into_iter().chain(&self.user_id).any(|known| is_same_person(known, person))
    }

    /// Returns the notes with the one of this ballot. With several votes, each line names its voter.
    pub fn note_with(&self, ballot: &Ballot, is_only: bool) -> Option<String> {
        let note = ballot.note.as_ref().map(|note| match is_only {
            true => note.clone(),
            false => format!("{}: {note}", ballot.vote.person),
        });
        match (&self.note, note) {
            (Some(earlier), Some(note)) => Some(format!("{earlier}\n{note}")),
            (earlier, note) => note.or_else(|| earlier.clone()),
        }
    }

    /// Returns the seats that votes must still fill; empty unless it is pending at `now`.
    pub fn still_needed(&self, now: i64) -> Vec<Seat<'_>> {
        match (&self.opening, self.status(now)) {
            (Some(opening), Status::Pending) => opening.requirement.missing(&self.votes),
            (Some(_) | None, _) => Vec::new(),
        }
    }

    /// Returns the signatures of the approving votes; `None` without any.
    pub fn signatures(&self) -> Option<Json> {
        let votes = self.votes.iter().filter(|vote| vote.approved);
        let signatures: Vec<_> =
            votes.filter_map(|vote| vote.signature.clone()).take(MAX_SIGNATURES).collect();
        (!signatures.is_empty()).then_some(Json::Array(signatures))
    }

    /// Returns whether a person approved it, regardless of expiry.
    pub fn is_approved(&self) -> bool {
        self.proven && self.decided.as_ref().is_some_and(|decided| decided.approved)
    }
}

/// Generates a time-ordered approval id.
pub fn new_id() -> String {
    format!("apr_{}", uuid::Uuid::now_v7().simple())
}

/// Returns whether `text` has the form of an approval id.
pub fn is_id(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.strip_prefix("apr_").is_some_and(|digits| digits.len() == 32 && digits.bytes().all(is_digit))
}

/// The exact action that an approval is bound to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Action<'a> {
    pub(crate) agent_id: Option<&'a str>,
    pub(crate) args: &'a Json,
    pub(crate) goal: &'a str,
    pub(crate) resource: Option<&'a str>,
    pub(crate) tool: &'a str,
    pub(crate) user_id: Option<&'a str>,
}

impl Action<'_> {
    /// Returns the SHA-256 of the canonical JSON; `None` if there is no canonical form.
    pub(crate) fn hash(&self) -> Option<String> {
        let mut action = ObjectWriter::new();
        action.string_or_null("agent_id", self.agent_id);
        action.canonical("args", self.args).ok()?;
        action.string("goal", Some(self.goal));
        action.string_or_null("resource", self.resource);
        action.string("tool", Some(self.tool));
        action.string_or_null("user_id", self.user_id);
        Some(action.sha256())
    }
}

/// Polling interval of a waiting request. It covers decisions made through another gateway on the
/// same data, which sends no notification.
const REPOLL_INTERVAL: Duration = Duration::from_secs(2);

/// Notifies waiting requests of decisions.
#[derive(Clone, Debug)]
pub struct ApprovalNotifier {
    decided: broadcast::Sender<Arc<str>>,
    stopping: watch::Sender<bool>,
}

impl Default for ApprovalNotifier {
    fn default() -> Self {
        Self { decided: broadcast::channel(64).0, stopping: watch::channel(false).0 }
    }
}

impl ApprovalNotifier {
    /// Announces that the approval `id` was decided.
    pub fn decided(&self, id: &str) {
        // An error means that no request is waiting.
        let _ = self.decided.send(id.into());
    }

    /// Wakes all waiting requests because the gateway is stopping.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Subscribes to notifications. Subscribe before reading the approval, so that no decision is
    /// missed.
    pub fn listen(&self) -> ApprovalListener {
        ApprovalListener { decided: self.decided.subscribe(), stopping: self.stopping.subscribe() }
    }
}

/// The subscription of one waiting request.
#[derive(Debug)]
pub struct ApprovalListener {
    decided: broadcast::Receiver<Arc<str>>,
    stopping: watch::Receiver<bool>,
}

impl ApprovalListener {
    /// Waits until the gateway is stopping.
    pub async fn stopped(&mut self) {
        // An error means that the gateway is gone.
        let _ = self.stopping.wait_for(|stopping| *stopping).await;
    }

    /// Waits until the approval `id` may have changed; returns `false` if the gateway is stopping.
    pub async fn changed(&mut self, id: &str) -> bool {
        let notified = async {
            loop {
                match self.decided.recv().await {
                    Ok(decided) if *decided != *id => {}
                    // The approval was decided, or notifications were lost: check again.
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            () = notified => true,
            () = tokio::time::sleep(REPOLL_INTERVAL) => true,
            _ = self.stopping.wait_for(|stopping| *stopping) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn approval(decided: Option<(bool, i64)>, spent: bool) -> Approval {
        Approval {
            id: "apr_1".to_owned(),
            action_hash: "h".to_owned(),
            tool: "t".to_owned(),
            resource: None,
            args: "{}".to_owned(),
            goal: "g".to_owned(),
            agent_id: None,
            asker: "key:k".to_owned(),
            user_id: None,
            reason_code: "r".to_owned(),
            created_at: 100,
            deadline: 200,
            decided: decided.map(|(approved, at)| ApprovalDecision {
                approved,
                by: "alice".to_owned(),
                at,
                note: None,
            }),
            note: None,
            opening: None,
            votes: Vec::new(),
            spent,
            proven: true,
        }
    }

    #[test]
    fn action_hash_is_sha256_of_canonical_json() {
        let args = Json::parse(br#"{"b": 1.50, "a": "\u20ac\u0001"}"#).unwrap();
        let action = Action {
            agent_id: Some("a\""),
            args: &args,
            goal: "g\n",
            resource: None,
            tool: "t",
            user_id: Some(""),
        };
        let payload = Json::parse(
            br#"{"tool": "t", "resource": null, "args": {"a": "\u20ac\u0001", "b": 1.5}, "goal": "g\n",
                "agent_id": "a\"", "user_id": ""}"#,
        );
        assert_eq!(action.hash(), actpass_protocol::hash_payload(&payload.unwrap()).ok());
    }

    #[test]
    fn approval_status_follows_time() {
        for (decided, spent, now, status) in [
            (None, false, 199, Status::Pending),
            (None, false, 200, Status::Expired),
            (Some((true, 190)), false, 289, Status::Approved),
            (Some((true, 190)), false, 290, Status::Expired),
            (Some((true, 190)), true, 999, Status::Approved),
            (Some((false, 190)), false, 999, Status::Rejected),
        ] {
            assert_eq!(approval(decided, spent).status(now), status, "{decided:?} {spent} {now}");
        }
    }

    #[tokio::test]
    async fn listener_wakes_for_its_approval_only() {
        let soon = REPOLL_INTERVAL / 4;
        let notifier = ApprovalNotifier::default();
        let mut listener = notifier.listen();
        notifier.decided("apr_2");
        assert!(tokio::time::timeout(soon, listener.changed("apr_1")).await.is_err());
        notifier.decided("apr_1");
        assert_eq!(tokio::time::timeout(soon, listener.changed("apr_1")).await, Ok(true));
        assert!(tokio::time::timeout(soon, listener.changed("apr_1")).await.is_err());
        notifier.stop();
        assert_eq!(tokio::time::timeout(soon, listener.changed("apr_1")).await, Ok(false));
        assert_eq!(tokio::time::timeout(soon, notifier.listen().changed("apr_1")).await, Ok(false));
    }
}
