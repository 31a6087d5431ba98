//! The archived part of a chain, and the deletion of its events.

use std::sync::Mutex;

use tokio_postgres::Row;

use super::super::archive::{PRUNED_PER_STEP, Pruned, read_tree, tree_text};
use super::super::error::OpenError;
use super::schema::member;
use super::text::Text;
use super::{Database, Server, from_sql, schema, to_sql};
use crate::ledger::{Archived, Head};

/// Finds the archived part of the chain $2 of the tenant $1.
pub(super) const FIND: &str = "
SELECT archived, archived_head, archived_tree, archived_at FROM actpass.chains
WHERE tenant_id = $1 AND chain_id = $2 AND archived > 0";

/// Removes the events of the chain $1 with `seq` in $2 + 1 .. $3 that nothing needs. $4 is the tenant,
/// $5 the time in seconds, $6 the chain's name.
const PRUNE: &str = concat!(
    r#"DELETE FROM actpass.events WHERE chain = $1 AND seq > $2 AND seq <= $3
    AND strpos(event, '"approval_request_id":"') = 0 AND strpos(event, '"event_type":"halt.') = 0
    AND NOT (strpos(event, '"passport_jti":"') > 0 AND EXISTS (
        SELECT FROM actpass.passports WHERE tenant_id = $4 AND expires_at > $5 AND jti = "#,
    member!("passport_jti"),
    r#"))
    AND NOT ($6 = 'decisions' AND EXISTS (
        SELECT FROM actpass.answers WHERE tenant_id = $4 AND (answers.seq = events.seq OR allowed_seq = events.seq)))
    AND NOT (strpos(event, '"request_hash":"') > 0 AND EXISTS (
        SELECT FROM actpass.budget_claims WHERE tenant_id = $4 AND request_hash = "#,
    member!("request_hash"),
    r#"))
    AND NOT (strpos(event, '"announces":[') > 0 AND EXISTS (
        SELECT FROM actpass.webhook_dead_letters WHERE tenant_id = $4 AND source = $6 AND number = events.seq))"#
);

/// Reads a row of [`FIND`].
pub(super) fn archived_of(row: &Row) -> Result<Archived, tokio_postgres::Error> {
    let head = Head { length: from_sql(row.try_get(0)?), hash: row.try_get(1)? };
    let tree: String = row.try_get(2)?;
    // Without its tree, no event continues the archived ones.
    Ok(Archived { tree: read_tree(head.length, &tree), head, at: row.try_get(3)? })
}

/// Same as [`super::super::read_archived`].
pub(in super::super) async fn read_archived(
    database: &Database,
    tenant_id: &str,
    chain_id: &str,
) -> Result<Option<Archived>, OpenError> {
    let server = Server { database: database.clone(), backoff: Mutex::default() };
    let client = server.connect().await?;
    schema::check(&client, database).await?;
    let found = client.query_opt(FIND, &[&Text(tenant_id), &Text(chain_id)]).await;
    let found = found.and_then(|row| row.as_ref().map(archived_of).transpose());
    found.map_err(|error| server.error(&error).into())
}

/// Same as [`super::super::last_delivered`].
pub(in super::super) async fn last_delivered(
    database: &Database,
    tenant_id: &str,
    chain_id: &str,
) -> Result<Option<u64>, OpenError> {
    let server = Server { database: database.clone(), backoff: Mutex::default() };
    let client = server.connect().await?;
    let delivered = client
        .query_one(
            "SELECT min(number) FROM actpass.webhook_cursors WHERE tenant_id = $1 AND source = $2",
            &[&Text(tenant_id), &Text(chain_id)],
        )
        .await;
    let delivered = delivered.and_then(|row| row.try_get::<_, Option<i64>>(0));
    Ok(delivered.map_err(|error| server.error(&error))?.map(from_sql))
}

/// Same as [`super::super::prune`].
pub(in super::super) async fn prune(
    database: &Database,
    tenant_id: &str,
    chain_id: &str,
    archived: &Archived,
) -> Result<Pruned, OpenError> {
    let server = Server { database: database.clone(), backoff: Mutex::default() };
    let client = server.connect().await?;
    schema::check(&client, database).await?;
    let done = async {
        client.batch_execute("SET statement_timeout = '60s'").await?;
        let until = to_sql(archived.head.length);
        let (tenant, chain_name) = (Text(tenant_id), Text(chain_id));
        let row = client
            .query_one(
                "UPDATE actpass.chains SET archived = $3, archived_head = $4, archived_tree = $5, archived_at = $6
                 WHERE tenant_id = $1 AND chain_id = $2 AND archived <= $3 RETURNING id",
                &[&tenant, &chain_name, &until, &archived.head.hash, &tree_text(&archived.tree), &archived.at],
            )
            .await?;
        let chain: i64 = row.try_get(0)?;
        let first = "SELECT coalesce(min(seq), 1) - 1 FROM actpass.events WHERE chain = $1";
        let mut after: i64 = client.query_one(first, &[&chain]).await?.try_get(0)?;
        let prune = client.prepare(PRUNE).await?;
        let mut pruned = Pruned::default();
        // Short transactions, so that gateways can record in between.
        while after < until {
            let end = after.saturating_add(PRUNED_PER_STEP).min(until);
            let columns: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
                [&chain, &after, &end, &tenant, &archived.at, &chain_name];
            pruned.removed += client.execute(&prune, &columns).await?;
            after = end;
        }
        let count = "SELECT count(*) FROM actpass.events WHERE chain = $1 AND seq <= $2";
        let kept: i64 = client.query_one(count, &[&chain, &until]).await?.try_get(0)?;
        Ok(Pruned { kept: from_sql(kept), ..pruned })
    };
    done.await.map_err(|error| server.error(&error).into())
}
