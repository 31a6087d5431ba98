//! SQL for lookups of events and approvals.

use crate::approvals::Status;
use crate::store::lookup::{Subject, condition};

/// Indexes for [`Subject`]s. PostgreSQL's JSON functions reject U+0000, which events may contain.
/// Events are canonical JSON, so a quoted member name occurs only as a member name.
pub(super) const INDEXES: &str = r#"
CREATE INDEX IF NOT EXISTS events_decided ON actpass.events
    (chain, substring(event from '"request_hash":"([^"\\]*)"'))
    WHERE strpos(event, '"event_type":"decision"') > 0;
CREATE INDEX IF NOT EXISTS events_asked ON actpass.events
    (chain, substring(event from '"approval_request_id":"([^"\\]*)"'))
    WHERE strpos(event, '"event_type":"decision"') > 0;
CREATE INDEX IF NOT EXISTS events_issued ON actpass.events
    (chain, substring(event from '"passport_jti":"([^"\\]*)"'))
    WHERE strpos(event, '"event_type":"passport.issued"') > 0;
CREATE INDEX IF NOT EXISTS events_announced ON actpass.events (chain, seq) WHERE strpos(event, '"announces":[') > 0;
"#;

/// Finds an event about $3 that contains $4 or $5 on the chain $2 of the tenant $1.
pub(super) fn has_event(subject: Subject) -> String {
    format!(
        r#"SELECT seq, event FROM actpass.events
         WHERE chain = (SELECT id FROM actpass.chains WHERE tenant_id = $1 AND chain_id = $2)
         AND substring(event from '"{member}":"([^"\\]*)"') = $3
         AND strpos(event, '"event_type":"{event_type}"') > 0
         AND (strpos(event, $4) > 0 OR strpos(event, $5) > 0) LIMIT 1"#,
        member = subject.member(),
        event_type = subject.event_type(),
    )
}

/// SQL after the columns; parameters: $2 time, $3 agent, $4 tool, $5 last id of the previous page,
/// $6 limit.
pub(super) fn list_approvals(status: Option<Status>, is_newest_first: bool) -> String {
    let (beyond, order) = if is_newest_first { ("<", "DESC") } else { (">", "ASC") };
    format!(
        "AND {} AND ($3::text IS NULL OR agent_id = $3) AND ($4::text IS NULL OR tool = $4)
         AND ($5::text IS NULL OR (deadline, id) {beyond}
             (SELECT deadline, id FROM actpass.approvals WHERE tenant_id = $1 AND id = $5))
         ORDER BY deadline {order}, id {order} LIMIT $6",
        condition(status, "$2::bigint", "true", "false")
    )
}

/// Counts pending approvals of the tenant $1 at the time $3 that decisions on the chain $2
/// containing $4 opened: for the agent $5, and in total.
pub(super) const COUNT_PENDING: &str = r#"
SELECT count(*) FILTER (WHERE agent_id IS NOT DISTINCT FROM $5), count(*) FROM actpass.approvals
WHERE tenant_id = $1 AND approved IS NULL AND deadline > $3 AND EXISTS (
    SELECT 1 FROM actpass.events
    WHERE chain = (SELECT id FROM actpass.chains WHERE tenant_id = $1 AND chain_id = $2)
    AND substring(event from '"approval_request_id":"([^"\\]*)"') = approvals.id
    AND strpos(event, '"event_type":"decision"') > 0 AND strpos(event, $4) > 0
)"#;

/// Counts the chains and events of the tenant $1.
pub(super) const COUNT_EVENTS: &str =
    "SELECT coalesce(sum(length), 0)::bigint, count(*) FROM actpass.chains WHERE tenant_id = $1";

/// Counts the approvals of the tenant $1 that are pending at the time $2, by the ends of ages $3 to $6,
/// and returns the largest age.
pub(super) const COUNT_AGES: &str = "
SELECT count(*) FILTER (WHERE age < $3), count(*) FILTER (WHERE age >= $3 AND age < $4),
    count(*) FILTER (WHERE age >= $4 AND age < $5), count(*) FILTER (WHERE age >= $5 AND age < $6),
    count(*) FILTER (WHERE age >= $6), max(age)
FROM (SELECT greatest($2::bigint - created_at, 0) AS age FROM actpass.approvals
      WHERE tenant_id = $1 AND approved IS NULL AND deadline > $2::bigint) AS pending";

/// Counts the waiting events, at most $2 of each source, and the messages set aside for each webhook of
/// the tenant $1.
pub(super) const COUNT_OUTBOX: &str = r#"
SELECT webhook, sum((
    SELECT count(*) FROM (
        SELECT FROM actpass.events
        WHERE chain = (SELECT id FROM actpass.chains
                       WHERE chains.tenant_id = cursors.tenant_id AND chain_id = source)
        AND seq > number AND strpos(event, '"announces":[') > 0 LIMIT $2
    ) AS waiting
))::bigint, max(attempts), (
    SELECT count(*) FROM actpass.webhook_dead_letters AS dead
    WHERE dead.tenant_id = $1 AND dead.webhook = cursors.webhook
) FROM actpass.webhook_cursors AS cursors WHERE tenant_id = $1 GROUP BY webhook"#;

/// The version of the schema.
pub(super) const VERSION: &str = "SELECT coalesce(max(version), 0) FROM actpass.migrations";
