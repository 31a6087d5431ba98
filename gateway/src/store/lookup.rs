//! Lookups in the ledger and among approvals, shared by all stores. The SQL of each store is in its
//! own `lookup.rs`.

use actpass_protocol::Json;
use actpass_protocol::json::{JsonWriter, Style};

use rust_decimal::Decimal;

use super::StoredEvent;
use crate::approvals::Status;
use crate::budget::Account;
use crate::ledger;

/// The use of a budget's account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountUse {
    /// Position in listings.
    pub id: i64,
    /// The account.
    pub account: Account,
    /// The sum of its claims.
    pub used: Decimal,
}

impl AccountUse {
    /// Creates it from stored decimals: the sum of all claims, and the amounts of expired ones,
    /// separated by commas. `None` if one is invalid.
    pub(super) fn of(id: i64, account: Account, used: &str, expired: Option<&str>) -> Option<Self> {
        let mut sum = Decimal::from_str_exact(used).ok()?;
        for amount in expired.unwrap_or_default().split(',').filter(|amount| !amount.is_empty()) {
            sum = sum.saturating_sub(Decimal::from_str_exact(amount).ok()?);
        }
        Some(Self { id, account, used: sum })
    }
}

/// The numbers of pending approvals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PendingCounts {
    /// The number for one agent of a key.
    pub agent: u64,
    /// The number for all agents of a key.
    pub key: u64,
}

/// The lookup key of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A decision that opened or used an approval, by the approval's id.
    Approval,
    /// A decision, by its `request_hash`.
    Decision,
    /// An issued passport, by its `jti`.
    Passport,
}

impl Subject {
    /// All subjects.
    pub(super) const ALL: [Self; 3] = [Self::Approval, Self::Decision, Self::Passport];

    /// The event member with the subject's id.
    pub(super) const fn member(self) -> &'static str {
        match self {
            Self::Approval => "approval_request_id",
            Self::Decision => "request_hash",
            Self::Passport => "passport_jti",
        }
    }

    /// The event type.
    pub(super) const fn event_type(self) -> &'static str {
        match self {
            Self::Approval | Self::Decision => ledger::DECISION,
            Self::Passport => ledger::PASSPORT_ISSUED,
        }
    }

    /// Returns whether `author` caused the event and it is about `id`.
    pub(super) fn matches_event(self, event: &StoredEvent, id: &str, author: &Author<'_>) -> bool {
        let Ok(event) = Json::parse(event.text.as_bytes()) else {
            return false;
        };
        let text = |name: &str| event.member(name).and_then(Json::as_str);
        let by_author = text("key_name") == Some(author.key_name)
            || author.agent.is_some_and(|agent| text("agent_id") == Some(agent));
        text("event_type") == Some(self.event_type()) && text(self.member()) == Some(id) && by_author
    }
}

/// The author of an event: a key, or any key for its bound agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Author<'a> {
    /// The key's name.
    pub key_name: &'a str,
    /// The agent.
    pub agent: Option<&'a str>,
}

impl Author<'_> {
    /// Returns text that the events of this key or agent contain.
    pub(super) fn event_markers(&self) -> [String; 2] {
        let mark = |name, value| {
            let mut member = JsonWriter::new(Style::Compact);
            member.key(name);
            member.string(value);
            member.into_string()
        };
        let key = mark("key_name", self.key_name);
        let agent = self.agent.map(|agent| mark("agent_id", agent));
        [key.clone(), agent.unwrap_or(key)]
    }
}

/// Returns text that the events of a delegation contain.
pub(super) fn delegation_marker(id: &str) -> String {
    let mut member = JsonWriter::new(Style::Compact);
    member.key("delegation_id");
    member.string(id);
    member.into_string()
}

/// Selection of a tenant's approvals, ordered by deadline, earliest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The time, in seconds since 1970.
    pub now: i64,
    /// Status at that time.
    pub status: Option<Status>,
    /// Filter by agent.
    pub agent: Option<String>,
    /// Filter by tool.
    pub tool: Option<String>,
    /// Whether the order is reversed: latest deadline first.
    pub is_newest_first: bool,
    /// Only approvals after the one with this id, in that order.
    pub after: Option<String>,
    /// Maximum number of approvals.
    pub limit: u32,
}

/// Selection of halts, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HaltListing {
    /// Only halts of this tenant and those of all tenants; `None` for every halt.
    pub tenant_id: Option<String>,
    /// Whether lifted halts are included.
    pub with_lifted: bool,
    /// Only halts that started after this epoch.
    pub after: u64,
    /// Maximum number of halts.
    pub limit: u32,
}

/// No status filter, and all statuses.
pub(super) const STATUSES: [Option<Status>; 5] =
    [None, Some(Status::Approved), Some(Status::Expired), Some(Status::Pending), Some(Status::Rejected)];

/// Returns the SQL condition for a status at the time `now`, equivalent to
/// [`Approval::status`](crate::approvals::Approval::status).
pub(super) fn condition(status: Option<Status>, now: &str, yes: &str, no: &str) -> String {
    let closes = "decided_at + deadline - created_at";
    match status {
        None => format!("{now} IS NOT NULL"),
        Some(Status::Approved) => format!("approved = {yes} AND (spent = {yes} OR {closes} > {now})"),
        Some(Status::Expired) => format!(
            "(approved IS NULL AND deadline <= {now} OR approved = {yes} AND spent = {no} AND {closes} <= {now})"
        ),
        Some(Status::Pending) => format!("approved IS NULL AND deadline > {now}"),
        Some(Status::Rejected) => format!("approved = {no} AND {now} IS NOT NULL"),
    }
}
