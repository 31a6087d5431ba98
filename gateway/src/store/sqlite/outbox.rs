//! Positions of webhooks, and messages that were set aside.

use rusqlite::{Connection, Row, Transaction, TransactionBehavior, params};

use super::from_sql;
use crate::store::outbox::{
    Cursor, DEAD_LETTER_RETENTION, DeadLetter, DueItem, EXPIRY, OutboxChange, Place, SOURCES, WebhookState,
};

/// Tables of the schema version that added webhooks.
pub(super) const WEBHOOKS: &str = "
CREATE TABLE webhook_leases (
    webhook TEXT PRIMARY KEY,
    holder  TEXT NOT NULL,
    until   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE webhook_cursors (
    webhook       TEXT NOT NULL,
    tenant_id     TEXT NOT NULL,
    source        TEXT NOT NULL,
    number        INTEGER NOT NULL,
    detail        TEXT NOT NULL DEFAULT '',
    attempts      INTEGER NOT NULL DEFAULT 0,
    failing_since INTEGER NOT NULL DEFAULT 0,
    retry_at      INTEGER NOT NULL DEFAULT 0,
    problem       TEXT,
    PRIMARY KEY (webhook, tenant_id, source)
) STRICT, WITHOUT ROWID;

CREATE TABLE webhook_dead_letters (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    webhook      TEXT NOT NULL,
    tenant_id    TEXT NOT NULL,
    source       TEXT NOT NULL,
    number       INTEGER NOT NULL,
    detail       TEXT NOT NULL,
    announcement TEXT NOT NULL,
    message_id   TEXT NOT NULL,
    problem      TEXT NOT NULL,
    failed_at    INTEGER NOT NULL,
    is_queued    INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX webhook_dead_letters_by_tenant ON webhook_dead_letters (tenant_id, id);
CREATE INDEX webhook_dead_letters_queued ON webhook_dead_letters (webhook, id) WHERE is_queued = 1;
";

/// The condition that the gateway ?2 has the lease of the webhook ?1.
const HAS_LEASE: &str = "EXISTS (SELECT 1 FROM webhook_leases WHERE webhook = ?1 AND holder = ?2)";

/// Applies a change; returns `false` if it is not possible.
pub(super) fn change(connection: &mut Connection, change: &OutboxChange) -> rusqlite::Result<bool> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let is_done = apply(&transaction, change)?;
    transaction.commit()?;
    Ok(is_done)
}

fn apply(transaction: &Transaction<'_>, change: &OutboxChange) -> rusqlite::Result<bool> {
    match change {
        OutboxChange::Register { webhook, tenants, now } => {
            let mut create = transaction.prepare_cached(
                "INSERT OR IGNORE INTO webhook_cursors (webhook, tenant_id, source, number)
                 VALUES (?1, ?2, ?3, CASE WHEN ?3 = ?4 THEN ?5 ELSE coalesce(
                     (SELECT length FROM chains WHERE tenant_id = ?2 AND chain_id = ?3), 0) END)",
            )?;
            let seconds = now.div_euclid(1000);
            let mut created = 0;
            for tenant_id in tenants {
                for source in SOURCES {
                    created += create.execute(params![webhook, tenant_id, source, EXPIRY, seconds])?;
                }
            }
            Ok(created > 0)
        }
        OutboxChange::Lease { webhook, holder, now, until } => {
            let taken = transaction.execute(
                "INSERT INTO webhook_leases (webhook, holder, until) VALUES (?1, ?2, ?4)
                 ON CONFLICT (webhook) DO UPDATE SET holder = excluded.holder, until = excluded.until
                 WHERE holder = excluded.holder OR until <= ?3",
                params![webhook, holder, now, until],
            )?;
            Ok(taken > 0)
        }
        OutboxChange::Advance { cursor, holder, to, now, dead } => {
            let advanced = transaction.prepare_cached(&format!(
                "UPDATE webhook_cursors
                 SET number = ?5, detail = ?6, attempts = 0, failing_since = 0, retry_at = ?7, problem = NULL
                 WHERE webhook = ?1 AND tenant_id = ?3 AND source = ?4 AND {HAS_LEASE}"
            ))?;
            let columns =
                params![cursor.webhook, holder, cursor.tenant_id, cursor.source, to.number, to.detail, now];
            if execute(advanced, columns)? == 0 {
                return Ok(false);
            }
            if let Some(dead) = dead {
                transaction.execute(
                    "DELETE FROM webhook_dead_letters WHERE failed_at <= ?1",
                    [now - DEAD_LETTER_RETENTION],
                )?;
                transaction.execute(
                    "INSERT INTO webhook_dead_letters (webhook, tenant_id, source, number, detail,
                         announcement, message_id, problem, failed_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                    params![
                        cursor.webhook,
                        cursor.tenant_id,
                        cursor.source,
                        dead.item.number,
                        dead.item.detail,
                        dead.announcement,
                        dead.message_id,
                        dead.problem,
                        now
                    ],
                )?;
            }
            Ok(true)
        }
        OutboxChange::Retry { cursor, holder, attempts, failing_since, retry_at, problem } => {
            let postponed = transaction.prepare_cached(&format!(
                "UPDATE webhook_cursors SET attempts = ?5, failing_since = ?6, retry_at = ?7, problem = ?8
                 WHERE webhook = ?1 AND tenant_id = ?3 AND source = ?4 AND {HAS_LEASE}"
            ))?;
            let columns = params![
                cursor.webhook,
                holder,
                cursor.tenant_id,
                cursor.source,
                attempts,
                failing_since,
                retry_at,
                problem
            ];
            Ok(execute(postponed, columns)? > 0)
        }
        OutboxChange::Redeliver { tenant_id, id } => {
            let queued = transaction.execute(
                "UPDATE webhook_dead_letters SET is_queued = 1 WHERE tenant_id = ?1 AND id = ?2",
                params![tenant_id, id],
            )?;
            Ok(queued > 0)
        }
        OutboxChange::Redelivered { id, webhook, holder, problem, now } => {
            let changed = match problem {
                None => transaction.execute(
                    &format!(
                        "DELETE FROM webhook_dead_letters WHERE webhook = ?1 AND id = ?3 AND {HAS_LEASE}"
                    ),
                    params![webhook, holder, id],
                )?,
                Some(problem) => transaction.execute(
                    &format!(
                        "UPDATE webhook_dead_letters SET is_queued = 0, problem = ?4, failed_at = ?5
                         WHERE webhook = ?1 AND id = ?3 AND {HAS_LEASE}"
                    ),
                    params![webhook, holder, id, problem, now],
                )?,
            };
            Ok(changed > 0)
        }
    }
}

fn execute(
    mut statement: rusqlite::CachedStatement<'_>,
    columns: impl rusqlite::Params,
) -> rusqlite::Result<usize> {
    statement.execute(columns)
}

/// Returns the next items of a webhook's sources that may be tried at `now`, in milliseconds since
/// 1970, the longest waiting source first. With a tenant, returns its items, also those that may be
/// tried later.
pub(super) fn due(
    connection: &Connection,
    webhook: &std::sync::Arc<str>,
    tenant_id: Option<&str>,
    now: i64,
    limit: u32,
) -> rusqlite::Result<Vec<DueItem>> {
    let mut events = connection.prepare_cached(
        r#"SELECT cursors.tenant_id, source, number, detail, attempts, failing_since, seq, event
           FROM webhook_cursors AS cursors
           JOIN chains ON chains.tenant_id = cursors.tenant_id AND chain_id = source
           JOIN events INDEXED BY events_announced
               ON chain = chains.id AND seq > number AND announces IS NOT NULL
           WHERE webhook = ?1 AND (cursors.tenant_id = ?4 OR ?4 IS NULL AND retry_at <= ?2)
           ORDER BY retry_at, cursors.tenant_id, source, seq LIMIT ?3"#,
    )?;
    let mut expired = connection.prepare_cached(
        "SELECT cursors.tenant_id, source, number, detail, attempts, failing_since, deadline, id
         FROM webhook_cursors AS cursors
         JOIN approvals ON approvals.tenant_id = cursors.tenant_id AND approved IS NULL
             AND deadline >= number AND deadline <= ?4 AND (deadline, id) > (number, detail)
         WHERE webhook = ?1 AND source = ?5
             AND (cursors.tenant_id = ?6 OR ?6 IS NULL AND retry_at <= ?2)
         ORDER BY retry_at, cursors.tenant_id, deadline, id LIMIT ?3",
    )?;
    let item = |row: &Row<'_>| {
        Ok(DueItem {
            cursor: Cursor { webhook: webhook.clone(), tenant_id: row.get(0)?, source: row.get(1)? },
            reached: Place { number: row.get(2)?, detail: row.get(3)? },
            attempts: row.get(4)?,
            failing_since: row.get(5)?,
            number: row.get(6)?,
            content: row.get(7)?,
        })
    };
    let mut found: Vec<DueItem> =
        events.query_map(params![webhook, now, limit, tenant_id], item)?.collect::<rusqlite::Result<_>>()?;
    let columns = params![webhook, now, limit, now.div_euclid(1000), EXPIRY, tenant_id];
    found.extend(expired.query_map(columns, item)?.collect::<rusqlite::Result<Vec<_>>>()?);
    Ok(found)
}

/// The columns for [`dead_message_of`].
const DEAD_LETTER: &str = "SELECT id, webhook, tenant_id, source, number, detail, announcement, message_id,
    problem, failed_at, is_queued FROM webhook_dead_letters";

fn dead_message_of(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    let webhook: String = row.get(1)?;
    Ok(DeadLetter {
        id: row.get(0)?,
        cursor: Cursor { webhook: webhook.into(), tenant_id: row.get(2)?, source: row.get(3)? },
        item: Place { number: row.get(4)?, detail: row.get(5)? },
        announcement: row.get(6)?,
        message_id: row.get(7)?,
        problem: row.get(8)?,
        failed_at: row.get(9)?,
        is_queued: row.get(10)?,
    })
}

/// Returns the queued messages of a webhook.
pub(super) fn queued(
    connection: &Connection,
    webhook: &str,
    limit: u32,
) -> rusqlite::Result<Vec<DeadLetter>> {
    let mut statement = connection.prepare_cached(&format!(
        "{DEAD_LETTER} WHERE webhook = ?1 AND is_queued = 1 ORDER BY id LIMIT ?2"
    ))?;
    statement.query_map(params![webhook, limit], dead_message_of)?.collect()
}

/// Returns a page of the messages of a tenant that were set aside.
pub(super) fn dead_letters(
    connection: &Connection,
    tenant_id: &str,
    after: i64,
    limit: u32,
) -> rusqlite::Result<Vec<DeadLetter>> {
    let mut statement = connection
        .prepare_cached(&format!("{DEAD_LETTER} WHERE tenant_id = ?1 AND id > ?2 ORDER BY id LIMIT ?3"))?;
    statement.query_map(params![tenant_id, after, limit], dead_message_of)?.collect()
}

/// Returns the states of the webhooks of a tenant.
pub(super) fn states(connection: &Connection, tenant_id: &str) -> rusqlite::Result<Vec<WebhookState>> {
    let mut statement = connection.prepare_cached(
        "SELECT webhook, max(attempts), max(retry_at), max(problem),
             (SELECT count(*) FROM webhook_dead_letters AS dead
              WHERE dead.tenant_id = ?1 AND dead.webhook = webhook_cursors.webhook)
         FROM webhook_cursors WHERE tenant_id = ?1 GROUP BY webhook",
    )?;
    let states = statement.query_map([tenant_id], |row| {
        Ok(WebhookState {
            webhook: row.get(0)?,
            attempts: row.get(1)?,
            retry_at: row.get(2)?,
            problem: row.get(3)?,
            dead: from_sql(row.get(4)?),
        })
    })?;
    states.collect()
}
