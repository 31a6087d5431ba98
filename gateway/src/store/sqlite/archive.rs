//! The archived part of a chain, and the deletion of its events.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::database::{BUSY_TIMEOUT, configure, connect, existing};
use super::{from_sql, to_sql};
use crate::ledger::{Archived, Head};
use crate::store::archive::{PRUNED_PER_STEP, Pruned, read_tree, tree_text};
use crate::store::error::OpenError;

/// Collects the events of the chain ?1 up to ?2 that stored responses refer to. A response that is
/// stored later refers to later events, or to those of the response that it replaces.
const NEEDED: &str = "INSERT INTO temp.needed
    SELECT seq FROM answers WHERE chain = ?1 AND seq <= ?2
    UNION SELECT allowed_seq FROM answers WHERE chain = ?1 AND allowed_seq <= ?2";

/// Removes the events of the chain ?1 with `seq` in ?2 + 1 ..= ?3 that nothing needs. ?4 is the tenant,
/// ?5 the time in seconds, ?6 the chain's name.
const PRUNE: &str = r#"DELETE FROM events WHERE chain = ?1 AND seq > ?2 AND seq <= ?3
    AND instr(event, '"approval_request_id":"') = 0 AND instr(event, '"event_type":"halt.') = 0
    AND NOT (instr(event, '"passport_jti":"') > 0 AND EXISTS (
        SELECT 1 FROM passports WHERE tenant_id = ?4 AND expires_at > ?5 AND jti =
            CASE WHEN json_valid(event) THEN json_extract(event, '$.passport_jti') END))
    AND seq NOT IN (SELECT seq FROM temp.needed)
    AND NOT (instr(event, '"request_hash":"') > 0 AND EXISTS (
        SELECT 1 FROM budget_claims JOIN budget_accounts ON budget_accounts.id = budget_claims.account
        WHERE tenant_id = ?4 AND budget_claims.request_hash =
            CASE WHEN json_valid(event) THEN json_extract(event, '$.request_hash') END))
    AND NOT (instr(event, '"announces":[') > 0 AND EXISTS (
        SELECT 1 FROM webhook_dead_letters WHERE tenant_id = ?4 AND source = ?6 AND number = events.seq))"#;

/// Returns the archived part of a chain.
pub(super) fn find(
    connection: &Connection,
    tenant_id: &str,
    chain_id: &str,
) -> rusqlite::Result<Option<Archived>> {
    let found = connection
        .prepare_cached(
            "SELECT archived, archived_head, archived_tree, archived_at FROM chains
             WHERE tenant_id = ?1 AND chain_id = ?2 AND archived > 0",
        )?
        .query_row(params![tenant_id, chain_id], |row| {
            let head = Head { length: from_sql(row.get(0)?), hash: row.get(1)? };
            Ok((head, row.get::<_, String>(2)?, row.get(3)?))
        })
        .optional()?;
    // Without its tree, no event continues the archived ones.
    Ok(found.map(|(head, tree, at)| Archived { tree: read_tree(head.length, &tree), head, at }))
}

/// Same as [`super::super::last_delivered`].
pub(in super::super) fn last_delivered(
    path: &Path,
    tenant_id: &str,
    chain_id: &str,
) -> Result<Option<u64>, OpenError> {
    let failed = |error| OpenError::Sqlite(path.to_owned(), error);
    let connection = connect(&existing(path)?).map_err(failed)?;
    connection
        .query_one(
            "SELECT min(number) FROM webhook_cursors WHERE tenant_id = ?1 AND source = ?2",
            params![tenant_id, chain_id],
            |row| Ok(row.get::<_, Option<i64>>(0)?.map(from_sql)),
        )
        .map_err(failed)
}

/// Same as [`super::super::prune`].
pub(in super::super) fn prune(
    path: &Path,
    tenant_id: &str,
    chain_id: &str,
    archived: &Archived,
) -> Result<Pruned, OpenError> {
    let failed = |error| OpenError::Sqlite(path.to_owned(), error);
    let mut connection = connect(&existing(path)?).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    configure(&connection).map_err(failed)?;
    let until = to_sql(archived.head.length);
    let (chain, before) = connection
        .query_one(
            "SELECT id, archived FROM chains WHERE tenant_id = ?1 AND chain_id = ?2",
            params![tenant_id, chain_id],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        )
        .map_err(failed)?;
    if before < until {
        connection
            .execute(
                "UPDATE chains SET archived = ?2, archived_head = ?3, archived_tree = ?4, archived_at = ?5
                 WHERE id = ?1",
                params![chain, until, archived.head.hash, tree_text(&archived.tree), archived.at],
            )
            .map_err(failed)?;
    }
    let mut pruned = Pruned::default();
    let mut after = connection
        .query_one("SELECT coalesce(min(seq), 1) - 1 FROM events WHERE chain = ?1", [chain], |row| {
            row.get::<_, i64>(0)
        })
        .map_err(failed)?;
    connection.execute_batch("CREATE TEMP TABLE needed (seq INTEGER PRIMARY KEY)").map_err(failed)?;
    connection.execute(NEEDED, [chain, until]).map_err(failed)?;
    // Short transactions, so that a gateway can record in between.
    while after < until {
        let end = after.saturating_add(PRUNED_PER_STEP).min(until);
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let removed = transaction
            .prepare_cached(PRUNE)
            .and_then(|mut prune| prune.execute(params![chain, after, end, tenant_id, archived.at, chain_id]))
            .map_err(failed)?;
        transaction.commit().map_err(failed)?;
        pruned.removed += u64::try_from(removed).unwrap_or(0);
        after = end;
    }
    let kept: i64 = connection
        .query_one("SELECT count(*) FROM events WHERE chain = ?1 AND seq <= ?2", [chain, until], |row| {
            row.get(0)
        })
        .map_err(failed)?;
    Ok(Pruned { kept: from_sql(kept), ..pruned })
}
