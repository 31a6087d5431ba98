//! Positions of webhooks, and messages that were set aside.

use std::sync::Arc;

use tokio_postgres::{Client, Row, Transaction};

use super::super::outbox::{
    Cursor, DEAD_LETTER_RETENTION, DeadLetter, DueItem, EXPIRY, OutboxChange, Place, SOURCES, WebhookState,
};
use super::from_sql;
use super::text::{StoredText, Text};

/// Tables of the schema version that added webhooks.
pub(super) const WEBHOOKS: &str = r#"
CREATE TABLE actpass.webhook_leases (
    webhook text COLLATE "C" PRIMARY KEY,
    holder  text COLLATE "C" NOT NULL,
    until   bigint NOT NULL
);

CREATE TABLE actpass.webhook_cursors (
    webhook       text COLLATE "C" NOT NULL,
    tenant_id     text COLLATE "C" NOT NULL,
    source        text COLLATE "C" NOT NULL,
    number        bigint NOT NULL,
    detail        text COLLATE "C" NOT NULL DEFAULT '',
    attempts      bigint NOT NULL DEFAULT 0,
    failing_since bigint NOT NULL DEFAULT 0,
    retry_at      bigint NOT NULL DEFAULT 0,
    problem       text,
    PRIMARY KEY (webhook, tenant_id, source)
) WITH (fillfactor = 50);

CREATE TABLE actpass.webhook_dead_letters (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    webhook      text COLLATE "C" NOT NULL,
    tenant_id    text COLLATE "C" NOT NULL,
    source       text COLLATE "C" NOT NULL,
    number       bigint NOT NULL,
    detail       text COLLATE "C" NOT NULL,
    announcement text NOT NULL,
    message_id   text NOT NULL,
    problem      text NOT NULL,
    failed_at    bigint NOT NULL,
    is_queued    boolean NOT NULL DEFAULT false
);
CREATE INDEX webhook_dead_letters_by_tenant ON actpass.webhook_dead_letters (tenant_id, id);
CREATE INDEX webhook_dead_letters_queued ON actpass.webhook_dead_letters (webhook, id) WHERE is_queued;
"#;

/// The condition that the gateway $2 has the lease of the webhook $1.
const HAS_LEASE: &str = "EXISTS (SELECT FROM actpass.webhook_leases WHERE webhook = $1 AND holder = $2)";

/// Applies a change; returns `false` if it is not possible.
pub(super) async fn change(
    client: &mut Client,
    change: &OutboxChange,
) -> Result<bool, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    let is_done = apply(&transaction, change).await?;
    transaction.commit().await?;
    Ok(is_done)
}

async fn apply(transaction: &Transaction<'_>, change: &OutboxChange) -> Result<bool, tokio_postgres::Error> {
    let changed = match change {
        OutboxChange::Register { webhook, tenants, now } => {
            let tenants: Vec<_> = tenants.iter().map(|tenant_id| Text(tenant_id)).collect();
            transaction
                .execute(
                    "INSERT INTO actpass.webhook_cursors (webhook, tenant_id, source, number)
                     SELECT $1, tenant_id, source, CASE WHEN source = $4 THEN $5 ELSE coalesce(
                         (SELECT length FROM actpass.chains
                          WHERE chains.tenant_id = of.tenant_id AND chain_id = source), 0) END
                     FROM unnest($2::text[]) AS of (tenant_id), unnest($3::text[]) AS source
                     ON CONFLICT DO NOTHING",
                    &[&Text(webhook), &tenants, &SOURCES.as_slice(), &EXPIRY, &now.div_euclid(1000)],
                )
                .await?
        }
        OutboxChange::Lease { webhook, holder, now, until } => {
            transaction
                .execute(
                    "INSERT INTO actpass.webhook_leases AS lease (webhook, holder, until) VALUES ($1, $2, $4)
                     ON CONFLICT (webhook) DO UPDATE SET holder = excluded.holder, until = excluded.until
                     WHERE lease.holder = excluded.holder OR lease.until <= $3",
                    &[&Text(webhook), &Text(holder), now, until],
                )
                .await?
        }
        OutboxChange::Advance { cursor, holder, to, now, dead } => {
            let (webhook, tenant_id) = (Text(&cursor.webhook), Text(&cursor.tenant_id));
            let advanced = transaction
                .execute(
                    &format!(
                        "UPDATE actpass.webhook_cursors SET number = $5, detail = $6, attempts = 0,
                             failing_since = 0, retry_at = $7, problem = NULL
                         WHERE webhook = $1 AND tenant_id = $3 AND source = $4 AND {HAS_LEASE}"
                    ),
                    &[&webhook, &Text(holder), &tenant_id, &cursor.source, &to.number, &to.detail, now],
                )
                .await?;
            if let (Some(dead), true) = (dead, advanced > 0) {
                let before = now - DEAD_LETTER_RETENTION;
                transaction
                    .execute("DELETE FROM actpass.webhook_dead_letters WHERE failed_at <= $1", &[&before])
                    .await?;
                transaction
                    .execute(
                        "INSERT INTO actpass.webhook_dead_letters (webhook, tenant_id, source, number,
                             detail, announcement, message_id, problem, failed_at)
                         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                        &[
                            &webhook,
                            &tenant_id,
                            &cursor.source,
                            &dead.item.number,
                            &dead.item.detail,
                            &dead.announcement,
                            &dead.message_id,
                            &Text(&dead.problem),
                            now,
                        ],
                    )
                    .await?;
            }
            advanced
        }
        OutboxChange::Retry { cursor, holder, attempts, failing_since, retry_at, problem } => {
            transaction
                .execute(
                    &format!(
                        "UPDATE actpass.webhook_cursors
                         SET attempts = $5, failing_since = $6, retry_at = $7, problem = $8
                         WHERE webhook = $1 AND tenant_id = $3 AND source = $4 AND {HAS_LEASE}"
                    ),
                    &[
                        &Text(&cursor.webhook),
                        &Text(holder),
                        &Text(&cursor.tenant_id),
                        &cursor.source,
                        &i64::from(*attempts),
                        failing_since,
                        retry_at,
                        &Text(problem),
                    ],
                )
                .await?
        }
        OutboxChange::Redeliver { tenant_id, id } => transaction
            .execute(
                "UPDATE actpass.webhook_dead_letters SET is_queued = true WHERE tenant_id = $1 AND id = $2",
                &[&Text(tenant_id), id],
            )
            .await?,
        OutboxChange::Redelivered { id, webhook, holder, problem: None, now: _ } => transaction
            .execute(
                &format!(
                    "DELETE FROM actpass.webhook_dead_letters WHERE webhook = $1 AND id = $3 AND {HAS_LEASE}"
                ),
                &[&Text(webhook), &Text(holder), id],
            )
            .await?,
        OutboxChange::Redelivered { id, webhook, holder, problem: Some(problem), now } => {
            transaction
                .execute(
                    &format!(
                        "UPDATE actpass.webhook_dead_letters
                         SET is_queued = false, problem = $4, failed_at = $5
                         WHERE webhook = $1 AND id = $3 AND {HAS_LEASE}"
                    ),
                    &[&Text(webhook), &Text(holder), id, &Text(problem), now],
                )
                .await?
        }
    };
    Ok(changed > 0)
}

/// Returns the next announcing events for the webhook $1: those that may be tried at $2 or, with the
/// tenant $4, those of the tenant.
pub(super) const DUE_EVENTS: &str = r#"
SELECT cursors.tenant_id, source, number, detail, attempts, failing_since, seq, event
FROM actpass.webhook_cursors AS cursors
JOIN actpass.chains ON chains.tenant_id = cursors.tenant_id AND chain_id = source
JOIN actpass.events ON chain = chains.id AND seq > number AND strpos(event, '"announces":[') > 0
WHERE webhook = $1 AND (cursors.tenant_id = $4 OR $4::text IS NULL AND retry_at <= $2)
ORDER BY retry_at, cursors.tenant_id, source, seq LIMIT $3"#;

/// Returns the next approvals that expired before $4, for the webhook $1: those that may be tried at
/// $2 or, with the tenant $5, those of the tenant.
pub(super) const DUE_EXPIRED: &str = "
SELECT cursors.tenant_id, source, number, detail, attempts, failing_since, deadline, id
FROM actpass.webhook_cursors AS cursors
JOIN actpass.approvals ON approvals.tenant_id = cursors.tenant_id AND approved IS NULL
    AND deadline <= $4 AND (deadline, id) > (number, detail)
WHERE webhook = $1 AND source = 'expiry'
    AND (cursors.tenant_id = $5 OR $5::text IS NULL AND retry_at <= $2)
ORDER BY retry_at, cursors.tenant_id, deadline, id LIMIT $3";

pub(super) fn due_item_of(webhook: &Arc<str>, row: &Row) -> Result<DueItem, tokio_postgres::Error> {
    Ok(DueItem {
        cursor: Cursor {
            webhook: Arc::clone(webhook),
            tenant_id: row.try_get::<_, StoredText>(0)?.0,
            source: row.try_get(1)?,
        },
        reached: Place { number: row.try_get(2)?, detail: row.try_get(3)? },
        attempts: u32::try_from(row.try_get::<_, i64>(4)?).unwrap_or(u32::MAX),
        failing_since: row.try_get(5)?,
        number: row.try_get(6)?,
        content: row.try_get(7)?,
    })
}

/// The columns for [`dead_message_of`].
const DEAD_LETTER: &str = "SELECT id, webhook, tenant_id, source, number, detail, announcement, message_id,
    problem, failed_at, is_queued FROM actpass.webhook_dead_letters";

/// Returns the statements for the queued messages of a webhook, and for a tenant's page.
pub(super) fn dead_letters() -> [String; 2] {
    [
        format!("{DEAD_LETTER} WHERE webhook = $1 AND is_queued ORDER BY id LIMIT $2"),
        format!("{DEAD_LETTER} WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3"),
    ]
}

pub(super) fn dead_message_of(row: &Row) -> Result<DeadLetter, tokio_postgres::Error> {
    let text = |column: usize| Ok::<_, tokio_postgres::Error>(row.try_get::<_, StoredText>(column)?.0);
    Ok(DeadLetter {
        id: row.try_get(0)?,
        cursor: Cursor { webhook: text(1)?.into(), tenant_id: text(2)?, source: row.try_get(3)? },
        item: Place { number: row.try_get(4)?, detail: row.try_get(5)? },
        announcement: row.try_get(6)?,
        message_id: row.try_get(7)?,
        problem: text(8)?,
        failed_at: row.try_get(9)?,
        is_queued: row.try_get(10)?,
    })
}

/// Returns the states of the webhooks of the tenant $1.
pub(super) const STATES: &str = "
SELECT webhook, max(attempts), max(retry_at), max(problem),
    (SELECT count(*) FROM actpass.webhook_dead_letters AS dead
     WHERE dead.tenant_id = $1 AND dead.webhook = webhook_cursors.webhook)
FROM actpass.webhook_cursors WHERE tenant_id = $1 GROUP BY webhook";

pub(super) fn state_of(row: &Row) -> Result<WebhookState, tokio_postgres::Error> {
    let text = |text: StoredText| text.0;
    Ok(WebhookState {
        webhook: text(row.try_get(0)?),
        attempts: u32::try_from(row.try_get::<_, i64>(1)?).unwrap_or(u32::MAX),
        retry_at: row.try_get(2)?,
        problem: row.try_get::<_, Option<StoredText>>(3)?.map(text),
        dead: from_sql(row.try_get(4)?),
    })
}
