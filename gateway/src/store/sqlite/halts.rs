//! Halts and acknowledgements.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{from_sql, to_sql};
use crate::halts::{Acknowledged, Acknowledgement, ActiveHalts, Halt, Lifting, MAX_ACKNOWLEDGEMENTS, Scope};
use crate::store::HaltListing;

/// The columns for [`halt_of`].
macro_rules! columns {
    () => {
        "halts.epoch, halts.id, halts.tenant_id, scope, target, reason, started_by, started_at,
        lifted_epoch, lifted_by, lifted_at, lift_reason"
    };
}

/// The epoch and the active halts. One statement, so that both belong together.
const ACTIVE: &str = concat!(
    "SELECT halt_state.epoch, ",
    columns!(),
    " FROM halt_state LEFT JOIN halts INDEXED BY halts_active ON lifted_epoch IS NULL ORDER BY halts.epoch"
);

/// A scope that no version writes stops everything of its tenant.
fn halt_of(row: &Row<'_>, first: usize) -> rusqlite::Result<Halt> {
    let scope = Scope::parse(&row.get::<_, String>(first + 3)?).unwrap_or(Scope::Tenant);
    let lifted = match row.get::<_, Option<i64>>(first + 8)? {
        None => None,
        Some(epoch) => Some(Lifting {
            epoch: from_sql(epoch),
            by: row.get(first + 9)?,
            at: row.get(first + 10)?,
            reason: row.get(first + 11)?,
        }),
    };
    Ok(Halt {
        epoch: from_sql(row.get(first)?),
        id: row.get(first + 1)?,
        tenant_id: row.get::<_, Option<String>>(first + 2)?.map(Arc::from),
        scope,
        target: row.get(first + 4)?,
        reason: row.get(first + 5)?,
        by: row.get(first + 6)?,
        at: row.get(first + 7)?,
        lifted,
    })
}

pub(super) fn active(connection: &Connection) -> rusqlite::Result<ActiveHalts> {
    let mut statement = connection.prepare_cached(ACTIVE)?;
    let mut rows = statement.query([])?;
    let mut active = ActiveHalts::default();
    let mut has_state = false;
    while let Some(row) = rows.next()? {
        has_state = true;
        active.epoch = from_sql(row.get(0)?);
        if row.get::<_, Option<i64>>(1)?.is_some() {
            active.halts.push(Arc::new(halt_of(row, 1)?));
        }
    }
    if has_state { Ok(active) } else { Err(rusqlite::Error::QueryReturnedNoRows) }
}

pub(super) fn find(connection: &Connection, id: &str) -> rusqlite::Result<Option<Halt>> {
    connection
        .prepare_cached(concat!("SELECT ", columns!(), " FROM halts WHERE id = ?1"))?
        .query_row([id], |row| halt_of(row, 0))
        .optional()
}

pub(super) fn list(connection: &Connection, listing: &HaltListing) -> rusqlite::Result<Vec<Halt>> {
    let HaltListing { tenant_id, with_lifted, after, limit } = listing;
    connection
        .prepare_cached(concat!(
            "SELECT ",
            columns!(),
            " FROM halts WHERE (?1 IS NULL OR tenant_id IS NULL OR tenant_id = ?1)
             AND (?2 OR lifted_epoch IS NULL) AND epoch > ?3 ORDER BY epoch LIMIT ?4"
        ))?
        .query_map(params![tenant_id, with_lifted, to_sql(*after), limit], |row| halt_of(row, 0))?
        .collect()
}

pub(super) fn lifted(
    connection: &Connection,
    tenant_id: &str,
    before: u64,
    limit: u32,
) -> rusqlite::Result<Vec<Halt>> {
    connection
        .prepare_cached(concat!(
            "SELECT ",
            columns!(),
            " FROM halts WHERE (tenant_id IS NULL OR tenant_id = ?1)
             AND lifted_epoch IS NOT NULL AND epoch < ?2 ORDER BY epoch DESC LIMIT ?3"
        ))?
        .query_map(params![tenant_id, to_sql(before), limit], |row| halt_of(row, 0))?
        .collect()
}

pub(super) fn acknowledged(
    connection: &Connection,
    tenant_id: &str,
    before: i64,
    limit: u32,
) -> rusqlite::Result<Vec<Acknowledged>> {
    let tenant: Arc<str> = tenant_id.into();
    connection
        .prepare_cached(
            "SELECT id, key_name, epoch, agent_id, instance, in_flight, at FROM halt_acknowledgements
             WHERE tenant_id = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3",
        )?
        .query_map(params![tenant_id, before, limit], |row| {
            Ok(Acknowledged {
                id: row.get(0)?,
                acknowledgement: Acknowledgement {
                    tenant_id: Arc::clone(&tenant),
                    key_name: row.get::<_, String>(1)?.into(),
                    epoch: from_sql(row.get(2)?),
                    agent_id: row.get(3)?,
                    instance: row.get(4)?,
                    in_flight: from_sql(row.get(5)?),
                },
                at: row.get(6)?,
            })
        })?
        .collect()
}

pub(super) fn can_acknowledge(
    connection: &Connection,
    acknowledgement: &Acknowledgement,
) -> rusqlite::Result<bool> {
    let Acknowledgement { tenant_id, key_name, agent_id, instance, epoch, in_flight } = acknowledgement;
    let (count, known): (i64, Option<bool>) = connection
        .prepare_cached(
            "SELECT count(*), max(agent_id = ?4 AND instance = ?5 AND in_flight = ?6) FROM halt_acknowledgements
             WHERE tenant_id = ?1 AND key_name = ?2 AND epoch = ?3",
        )?
        .query_row(
            params![tenant_id, key_name, to_sql(*epoch), agent_id, instance, to_sql(*in_flight)],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
    Ok(known != Some(true) && from_sql(count) < MAX_ACKNOWLEDGEMENTS)
}

pub(super) fn acknowledge(
    transaction: &Transaction<'_>,
    acknowledgement: &Acknowledgement,
    at: i64,
) -> rusqlite::Result<()> {
    let Acknowledgement { tenant_id, key_name, agent_id, instance, epoch, in_flight } = acknowledgement;
    transaction
        .prepare_cached(
            "INSERT INTO halt_acknowledgements (tenant_id, key_name, epoch, agent_id, instance, in_flight, at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![tenant_id, key_name, to_sql(*epoch), agent_id, instance, to_sql(*in_flight), at])?;
    Ok(())
}

pub(super) fn start(transaction: &Transaction<'_>, halt: &Halt) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO halts (epoch, id, tenant_id, scope, target, reason, started_by, started_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            to_sql(halt.epoch),
            halt.id,
            halt.tenant_id,
            halt.scope.as_str(),
            halt.target,
            halt.reason,
            halt.by,
            halt.at
        ])?;
    raise(transaction, halt.epoch)
}

pub(super) fn lift(transaction: &Transaction<'_>, halt: &Halt) -> rusqlite::Result<()> {
    let Some(Lifting { by, at, reason, epoch }) = &halt.lifted else {
        return Ok(());
    };
    transaction
        .prepare_cached(
            "UPDATE halts SET lifted_epoch = ?2, lifted_by = ?3, lifted_at = ?4, lift_reason = ?5 WHERE id = ?1",
        )?
        .execute(params![halt.id, to_sql(*epoch), by, at, reason])?;
    raise(transaction, *epoch)
}

fn raise(transaction: &Transaction<'_>, epoch: u64) -> rusqlite::Result<()> {
    transaction.prepare_cached("UPDATE halt_state SET epoch = ?1")?.execute([to_sql(epoch)])?;
    Ok(())
}
