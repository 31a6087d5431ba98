//! What is looked for in a ledger and among approvals: the same over every store.

use actpass_protocol::Json;

use super::StoredEvent;
use crate::approvals::Status;
use crate::ledger;

/// The indexes of a SQLite file that [`Subject`]s are found by. They repeat what is in the events, so that a gateway that
/// does not know them keeps them all the same.
pub(super) const SQLITE_INDEXES: &str = "
CREATE INDEX IF NOT EXISTS events_decided ON events (chain,
    CASE WHEN json_valid(event) THEN json_extract(event, '$.request_hash') END)
    WHERE instr(event, '\"event_type\":\"decision\"') > 0;
CREATE INDEX IF NOT EXISTS events_asked ON events (chain,
    CASE WHEN json_valid(event) THEN json_extract(event, '$.approval_request_id') END)
    WHERE instr(event, '\"event_type\":\"decision\"') > 0;
CREATE INDEX IF NOT EXISTS events_issued ON events (chain,
    CASE WHEN json_valid(event) THEN json_extract(event, '$.passport_jti') END)
    WHERE instr(event, '\"event_type\":\"passport.issued\"') > 0;
";

/// The same of a PostgreSQL database. Its JSON functions refuse U+0000, which an event may hold; an event is canonical
/// JSON, in which a name with its quotes is nowhere but where the name is.
pub(super) const POSTGRES_INDEXES: &str = r#"
CREATE INDEX IF NOT EXISTS events_decided ON actpass.events
    (chain, substring(event from '"request_hash":"([^"\\]*)"'))
    WHERE strpos(event, '"event_type":"decision"') > 0;
CREATE INDEX IF NOT EXISTS events_asked ON actpass.events
    (chain, substring(event from '"approval_request_id":"([^"\\]*)"'))
    WHERE strpos(event, '"event_type":"decision"') > 0;
CREATE INDEX IF NOT EXISTS events_issued ON actpass.events
    (chain, substring(event from '"passport_jti":"([^"\\]*)"'))
    WHERE strpos(event, '"event_type":"passport.issued"') > 0;
"#;

/// How many approval requests are pending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PendingOf {
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

    const fn member(self) -> &'static str {
        match self {
            Self::Approval => "approval_request_id",
            Self::Decision => "request_hash",
            Self::Passport => "passport_jti",
        }
    }

    const fn event_type(self) -> &'static str {
        match self {
            Self::Approval | Self::Decision => ledger::DECISION,
            Self::Passport => ledger::PASSPORT_ISSUED,
        }
    }

    /// Events about ?3 that hold ?4 or ?5, of the tenant ?1's chain ?2: one at most.
    pub(super) fn sqlite(self) -> String {
        format!(
            "SELECT seq, event FROM events
             WHERE chain = (SELECT id FROM chains WHERE tenant_id = ?1 AND chain_id = ?2)
             AND CASE WHEN json_valid(event) THEN json_extract(event, '$.{member}') END = ?3
             AND instr(event, '\"event_type\":\"{event_type}\"') > 0
             AND (instr(event, ?4) > 0 OR instr(event, ?5) > 0) LIMIT 1",
            member = self.member(),
            event_type = self.event_type(),
        )
    }

    /// As [`Self::sqlite`].
    pub(super) fn postgres(self) -> String {
        format!(
            r#"SELECT seq, event FROM actpass.events
             WHERE chain = (SELECT id FROM actpass.chains WHERE tenant_id = $1 AND chain_id = $2)
             AND substring(event from '"{member}":"([^"\\]*)"') = $3
             AND strpos(event, '"event_type":"{event_type}"') > 0
             AND (strpos(event, $4) > 0 OR strpos(event, $5) > 0) LIMIT 1"#,
            member = self.member(),
            event_type = self.event_type(),
        )
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
    pub(super) fn marks(&self) -> [String; 2] {
        let key = format!("\"key_name\":{}", Json::from(self.key_name));
        let agent = self.agent.map(|agent| format!("\"agent_id\":{}", Json::from(agent)));
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
fn condition(status: Option<Status>, now: &str, yes: &str, no: &str) -> String {
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

/// What follows the columns: ?2 is the time, ?3 the agent, ?4 the tool, ?5 the last id before, ?6 how many.
pub(super) fn listed_in_sqlite(status: Option<Status>) -> String {
    format!(
        "AND {} AND (?3 IS NULL OR agent_id = ?3) AND (?4 IS NULL OR tool = ?4)
         AND (?5 IS NULL OR (deadline, id) > (SELECT deadline, id FROM approvals WHERE tenant_id = ?1 AND id = ?5))
         ORDER BY deadline, id LIMIT ?6",
        condition(status, "?2", "1", "0")
    )
}

/// As [`listed_in_sqlite`].
pub(super) fn listed_in_postgres(status: Option<Status>) -> String {
    format!(
        "AND {} AND ($3::text IS NULL OR agent_id = $3) AND ($4::text IS NULL OR tool = $4)
         AND ($5::text IS NULL OR (deadline, id) >
             (SELECT deadline, id FROM actpass.approvals WHERE tenant_id = $1 AND id = $5))
         ORDER BY deadline, id LIMIT $6",
        condition(status, "$2::bigint", "true", "false")
    )
}

/// How many of the tenant ?1's pending approvals (the time is ?3) decisions in the chain ?2 asked for that hold ?4: for the
/// agent ?5, and in all.
pub(super) const SQLITE_PENDING_OF: &str = "
SELECT count(*) FILTER (WHERE agent_id IS ?5), count(*) FROM approvals
WHERE tenant_id = ?1 AND approved IS NULL AND deadline > ?3 AND EXISTS (
    SELECT 1 FROM events
    WHERE chain = (SELECT id FROM chains WHERE tenant_id = ?1 AND chain_id = ?2)
    AND CASE WHEN json_valid(event) THEN json_extract(event, '$.approval_request_id') END = +approvals.id
    AND instr(event, '\"event_type\":\"decision\"') > 0 AND instr(event, ?4) > 0
)";

/// As [`SQLITE_PENDING_OF`].
pub(super) const POSTGRES_PENDING_OF: &str = r#"
SELECT count(*) FILTER (WHERE agent_id IS NOT DISTINCT FROM $5), count(*) FROM actpass.approvals
WHERE tenant_id = $1 AND approved IS NULL AND deadline > $3 AND EXISTS (
    SELECT 1 FROM actpass.events
    WHERE chain = (SELECT id FROM actpass.chains WHERE tenant_id = $1 AND chain_id = $2)
    AND substring(event from '"approval_request_id":"([^"\\]*)"') = approvals.id
    AND strpos(event, '"event_type":"decision"') > 0 AND strpos(event, $4) > 0
)"#;
