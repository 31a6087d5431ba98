//! SQL for lookups of events and approvals.

use rusqlite::{Connection, params};

use super::from_sql;
use crate::approvals::Status;
use crate::store::lookup::{Subject, condition};
use crate::store::timings::{AGE_ENDS, MAX_WAITING};
use crate::store::{TenantTotals, WebhookTotals};

/// Indexes for [`Subject`]s. They are derived from the events, so gateways that do not know them
/// maintain them as well. A hash is indexed by its first 16 digits, which are unique enough.
pub(super) const INDEXES: &str = "
CREATE INDEX IF NOT EXISTS events_decided ON events (chain, substr(request_hash, 1, 16))
    WHERE event_type = 'decision';
CREATE INDEX IF NOT EXISTS events_asked ON events (chain, approval_request_id)
    WHERE approval_request_id IS NOT NULL AND event_type = 'decision';
CREATE INDEX IF NOT EXISTS events_issued ON events (chain, passport_jti)
    WHERE event_type = 'passport.issued';
CREATE INDEX IF NOT EXISTS events_announced ON events (chain, seq) WHERE announces IS NOT NULL;
";

/// Finds an event about ?3 that contains ?4 or ?5 on the chain ?2 of the tenant ?1.
pub(super) fn has_event(subject: Subject) -> String {
    let member = subject.member();
    let is_indexed = match subject {
        Subject::Approval => "approval_request_id IS NOT NULL",
        Subject::Decision => "substr(request_hash, 1, 16) = substr(?3, 1, 16)",
        Subject::Passport => "TRUE",
    };
    format!(
        "SELECT seq, event FROM events
         WHERE chain = (SELECT id FROM chains WHERE tenant_id = ?1 AND chain_id = ?2)
         AND {member} = ?3 AND {is_indexed} AND event_type = '{event_type}'
         AND (instr(event, ?4) > 0 OR instr(event, ?5) > 0) LIMIT 1",
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
    AND approval_request_id = approvals.id AND approval_request_id IS NOT NULL AND event_type = 'decision'
    AND instr(event, ?4) > 0
)";

/// Counts the data of a tenant at `now`, in seconds since 1970.
pub(super) fn totals(connection: &Connection, tenant_id: &str, now: i64) -> rusqlite::Result<TenantTotals> {
    let mut chains = connection
        .prepare_cached("SELECT coalesce(sum(length), 0), count(*) FROM chains WHERE tenant_id = ?1")?;
    let (events, chains) =
        chains.query_row([tenant_id], |row| Ok((from_sql(row.get(0)?), from_sql(row.get(1)?))))?;
    let mut ages = connection.prepare_cached(
        "SELECT count(*) FILTER (WHERE age < ?3), count(*) FILTER (WHERE age >= ?3 AND age < ?4),
             count(*) FILTER (WHERE age >= ?4 AND age < ?5), count(*) FILTER (WHERE age >= ?5 AND age < ?6),
             count(*) FILTER (WHERE age >= ?6), max(age)
         FROM (SELECT max(?2 - created_at, 0) AS age FROM approvals
               WHERE tenant_id = ?1 AND approved IS NULL AND deadline > ?2)",
    )?;
    let [first, second, third, fourth] = AGE_ENDS;
    let (pending, oldest) = ages.query_row(params![tenant_id, now, first, second, third, fourth], |row| {
        let number = |column: usize| row.get(column).map(from_sql);
        Ok(([number(0)?, number(1)?, number(2)?, number(3)?, number(4)?], row.get::<_, Option<i64>>(5)?))
    })?;
    let mut webhooks = connection.prepare_cached(
        "SELECT webhook, sum((
               SELECT count(*) FROM (
                   SELECT 1 FROM events INDEXED BY events_announced
                   WHERE chain = (SELECT id FROM chains
                                  WHERE tenant_id = cursors.tenant_id AND chain_id = source)
                   AND seq > number AND announces IS NOT NULL LIMIT ?2
               )
           )), max(attempts), (
               SELECT count(*) FROM webhook_dead_letters AS dead
               WHERE dead.tenant_id = ?1 AND dead.webhook = cursors.webhook
           ) FROM webhook_cursors AS cursors WHERE tenant_id = ?1 GROUP BY webhook",
    )?;
    let webhooks = webhooks.query_map(params![tenant_id, MAX_WAITING], |row| {
        Ok(WebhookTotals {
            webhook: row.get(0)?,
            waiting: from_sql(row.get(1)?),
            attempts: from_sql(row.get(2)?),
            dead: from_sql(row.get(3)?),
        })
    })?;
    let webhooks = webhooks.collect::<Result<_, _>>()?;
    Ok(TenantTotals { events, chains, pending, oldest_pending: oldest.map(|age| now - age), webhooks })
}
