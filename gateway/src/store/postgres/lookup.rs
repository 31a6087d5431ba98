//! The statements that look for events and approvals in a database.

use crate::approvals::Status;
use crate::store::lookup::{Subject, condition};

/// The indexes that [`Subject`]s are found by. PostgreSQL's JSON functions refuse U+0000, which an event may hold; an event is canonical
/// JSON, in which a name with its quotes is nowhere but where the name is.
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
"#;

/// Events about $3 that hold $4 or $5, of the tenant $1's chain $2: one at most.
pub(super) fn caused(subject: Subject) -> String {
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

/// What follows the columns: $2 is the time, $3 the agent, $4 the tool, $5 the last id before, $6 how many.
pub(super) fn listed(status: Option<Status>) -> String {
    format!(
        "AND {} AND ($3::text IS NULL OR agent_id = $3) AND ($4::text IS NULL OR tool = $4)
         AND ($5::text IS NULL OR (deadline, id) >
             (SELECT deadline, id FROM actpass.approvals WHERE tenant_id = $1 AND id = $5))
         ORDER BY deadline, id LIMIT $6",
        condition(status, "$2::bigint", "true", "false")
    )
}

/// How many of the tenant $1's pending approvals (the time is $3) decisions in the chain $2 asked for that hold $4: for the
/// agent $5, and in all.
pub(super) const COUNT_PENDING: &str = r#"
SELECT count(*) FILTER (WHERE agent_id IS NOT DISTINCT FROM $5), count(*) FROM actpass.approvals
WHERE tenant_id = $1 AND approved IS NULL AND deadline > $3 AND EXISTS (
    SELECT 1 FROM actpass.events
    WHERE chain = (SELECT id FROM actpass.chains WHERE tenant_id = $1 AND chain_id = $2)
    AND substring(event from '"approval_request_id":"([^"\\]*)"') = approvals.id
    AND strpos(event, '"event_type":"decision"') > 0 AND strpos(event, $4) > 0
)"#;
