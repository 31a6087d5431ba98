//! Records outside of the ledger.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use crate::store::kept::{Kept, KeptChange, KeptKind, KeptPage, NewKept};

/// Tables of the schema version that added kept records.
pub(super) const KEPT: &str = "
CREATE TABLE kept (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id  TEXT NOT NULL,
    kind       TEXT NOT NULL,
    name       TEXT NOT NULL,
    at         INTEGER NOT NULL,
    expires_at INTEGER,
    body       BLOB NOT NULL,
    UNIQUE (tenant_id, kind, name)
) STRICT;

CREATE INDEX kept_by_kind ON kept (tenant_id, kind, id);
CREATE INDEX kept_by_end ON kept (expires_at) WHERE expires_at IS NOT NULL;
";

/// Adds a record unless its name is known.
pub(super) fn insert(transaction: &Transaction<'_>, record: &NewKept) -> rusqlite::Result<usize> {
    transaction
        .prepare_cached(
            "INSERT INTO kept (tenant_id, kind, name, at, expires_at, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (tenant_id, kind, name) DO NOTHING",
        )?
        .execute(params![
            record.tenant_id,
            record.kind.as_str(),
            record.name,
            record.at,
            record.expires_at,
            record.body
        ])
}

/// Applies a change and returns the number of records that it added or removed.
pub(super) fn change(connection: &mut Connection, change: &KeptChange) -> rusqlite::Result<u64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let changed = match change {
        KeptChange::Add(records) => {
            let mut added = 0;
            for record in records {
                added += insert(&transaction, record)?;
            }
            added
        }
        KeptChange::Expire { now, limit } => transaction.execute(
            "DELETE FROM kept WHERE id IN (
                 SELECT id FROM kept WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2
             )",
            params![now, limit],
        )?,
        KeptChange::Trim { tenant_id, kind, keep } => transaction.execute(
            "DELETE FROM kept WHERE id IN (
                 SELECT id FROM kept WHERE tenant_id = ?1 AND kind = ?2 ORDER BY id DESC LIMIT -1 OFFSET ?3
             )",
            params![tenant_id, kind.as_str(), keep],
        )?,
    };
    transaction.commit()?;
    Ok(u64::try_from(changed).unwrap_or(u64::MAX))
}

/// Returns a page of a tenant's records.
pub(super) fn list(connection: &Connection, tenant_id: &str, page: KeptPage) -> rusqlite::Result<Vec<Kept>> {
    let (after, order) = if page.newest { ("<", "DESC") } else { (">", "ASC") };
    let query = format!(
        "SELECT id, name, at, body FROM kept WHERE tenant_id = ?1 AND kind = ?2 AND id {after} ?3
         AND (expires_at IS NULL OR expires_at > ?4) ORDER BY id {order} LIMIT ?5"
    );
    connection
        .prepare_cached(&query)?
        .query_map(params![tenant_id, page.kind.as_str(), page.from, page.now, page.limit], kept_of)?
        .collect()
}

/// Returns the record with this name.
pub(super) fn find(
    connection: &Connection,
    tenant_id: &str,
    kind: KeptKind,
    name: &str,
) -> rusqlite::Result<Option<Kept>> {
    connection
        .prepare_cached(
            "SELECT id, name, at, body FROM kept WHERE tenant_id = ?1 AND kind = ?2 AND name = ?3",
        )?
        .query_row(params![tenant_id, kind.as_str(), name], kept_of)
        .optional()
}

fn kept_of(row: &Row<'_>) -> rusqlite::Result<Kept> {
    Ok(Kept { id: row.get(0)?, name: row.get(1)?, at: row.get(2)?, body: row.get(3)? })
}
