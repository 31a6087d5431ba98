//! What is looked for in a ledger and among approvals: the same over every store. Each store has its statements in a file of this
//! name.

use actpass_protocol::Json;
use actpass_protocol::json::{JsonWriter, Style};

use super::StoredEvent;
use crate::approvals::Status;
use crate::ledger;

/// How many approval requests are pending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PendingCounts {
    /// Of one agent of a key.
    pub agent: u64,
    /// Of all agents of the key.
    pub key: u64,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A decision that opened or used an approval, by the approval's id.
    Approval,
    /// A decision, by its `request_hash`.
    Decision,
    /// The issue of a passport, by its `jti`.
    Passport,
}

impl Subject {
    /// Every subject.
    pub(super) const ALL: [Self; 3] = [Self::Approval, Self::Decision, Self::Passport];

    /// The member of the event that names it.
    pub(super) const fn member(self) -> &'static str {
        match self {
            Self::Approval => "approval_request_id",
            Self::Decision => "request_hash",
            Self::Passport => "passport_jti",
        }
    }

    /// The type of the event.
    pub(super) const fn event_type(self) -> &'static str {
        match self {
            Self::Approval | Self::Decision => ledger::DECISION,
            Self::Passport => ledger::PASSPORT_ISSUED,
        }
    }

    /// Whether an event is about `id` and was caused by `author`.
    pub(super) fn is_of(self, event: &StoredEvent, id: &str, author: &Author<'_>) -> bool {
        let Ok(event) = Json::parse(event.text.as_bytes()) else {
            return false;
        };
        let text = |name: &str| event.member(name).and_then(Json::as_str);
        let by_author = text("key_name") == Some(author.key_name)
            || author.agent.is_some_and(|agent| text("agent_id") == Some(agent));
        text("event_type") == Some(self.event_type()) && text(self.member()) == Some(id) && by_author
    }
}

/// Who may have caused an event: a key, or whoever acted for the agent that it is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Author<'a> {
    /// The key's name.
    pub key_name: &'a str,
    /// The agent.
    pub agent: Option<&'a str>,
}

impl Author<'_> {
    /// What an event's text holds if this key, or this agent, caused it.
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

/// Which of a tenant's approvals are listed: the ones with the nearest deadline first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The time, in seconds since 1970.
    pub now: i64,
    /// Only those that stand so at this time.
    pub status: Option<Status>,
    /// Only those of this agent.
    pub agent: Option<String>,
    /// Only those of this tool.
    pub tool: Option<String>,
    /// Only those that come after the approval with this id.
    pub after: Option<String>,
    /// How many at most.
    pub limit: u32,
}

/// None, and every status.
pub(super) const STATUSES: [Option<Status>; 5] =
    [None, Some(Status::Approved), Some(Status::Expired), Some(Status::Pending), Some(Status::Rejected)];

/// The SQL condition of a status at the time `now`, as [`Approval::status`](crate::approvals::Approval::status) has it.
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
