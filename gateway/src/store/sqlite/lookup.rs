//! SQL for lookups of events and approvals.

use crate::approvals::Status;
use crate::store::lookup::{Subject, condition};

/// Indexes for [`Subject`]s. They are derived from the events, so gateways that do not know them
/// maintain them as well.
pub(super) const INDEXES: &str = "
CREATE INDEX IF NOT EXISTS events_decided ON events (chain,
    CASE WHEN json_valid(event) THEN json_extract(event, '$.request_hash') END)
    WHERE instr(event, '\"event_type\":\"decision\"') > 0;
CREATE INDEX IF NOT EXISTS events_asked ON events (chain,
    CASE WHEN json_valid(event) THEN json_extract(event, '$.approval_request_id') END)
    WHERE instr(event, '\"event_type\":\"decision\"') > 0;
CREATE INDEX IF NOT EXISTS events_issued ON events (chain,
    CASE WHEN json_valid(event) THEN json_extract(event, '$.passport_jti') END)
    WHERE instr(event, '\"event_type\":\"passport.issued\"') > 0;
CREATE INDEX IF NOT EXISTS events_announced ON events (chain, seq) WHERE instr(event, '\"announces\":[') > 0;
";

/// Finds an event about ?3 that contains ?4 or ?5 on the chain ?2 of the tenant ?1.
pub(super) fn has_event(subject: Subject) -> String {
    format!(
        "SELECT seq, event FROM events
         WHERE chain = (SELECT id FROM chains WHERE tenant_id = ?1 AND chain_id = ?2)
         AND CASE WHEN json_valid(event) THEN json_extract(event, '$.{member}') END = ?3
         AND instr(event, '\"event_type\":\"{event_type}\"') > 0
         AND (instr(event, ?4) > 0 OR instr(event, ?5) > 0) LIMIT 1",
        member = subject.member(),
        event_type = subject.event_type(),
    )
}

/// SQL after the columns; parameters: ?2 time, ?3 agent, ?4 tool, ?5 last id of the previous page,
/// ?6 limit.
pub(super) fn list_approvals(status: Option<Status>, is_newest_first: bool) -> String {
    let (beyond, order) = if is_newest_first { ("<", "DESC") } else { (">", "ASC") };
    format!(
        "AND {} AND (?3 IS NULL OR agent_id = ?3) AND (?4 IS NULL OR tool = ?4)
         AND (?5 IS NULL OR (deadline, id) {beyond} (SELECT deadline, id FROM approvals WHERE tenant_id = ?1 AND id = ?5))
         ORDER BY deadline {order}, id {order} LIMIT ?6",
        condition(status, "?2", "1", "0")
    )
}

/// Counts pending approvals of the tenant ?1 at the time ?3 that decisions on the chain ?2
/// containing ?4 opened: for the agent ?5, and in total.
pub(super) const COUNT_PENDING: &str = "
SELECT count(*) FILTER (WHERE agent_id IS ?5), count(*) FROM approvals
WHERE tenant_id = ?1 AND approved IS NULL AND deadline > ?3 AND EXISTS (
    SELECT 1 FROM events
    WHERE chain = (SELECT id FROM chains WHERE tenant_id = ?1 AND chain_id = ?2)
    AND CASE WHEN json_valid(event) THEN json_extract(event, '$.approval_request_id') END = +approvals.id
    AND instr(event, '\"event_type\":\"decision\"') > 0 AND instr(event, ?4) > 0
)";
