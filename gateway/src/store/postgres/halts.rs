//! Halts and acknowledgements.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::keys::NotLoaded;
use super::text::{StoredText, Text};
use super::{from_sql, to_sql};
use crate::halts::{Acknowledged, Acknowledgement, ActiveHalts, Halt, Lifting, MAX_ACKNOWLEDGEMENTS, Scope};

/// Advisory lock id of the halts. Every batch holds it shared; a batch that changes the halts holds
/// it exclusively, so it waits for earlier batches, and later ones see its halts.
pub(super) const HALT_LOCK_ID: i64 = 0x6163_7470_6861_6c74;

/// The columns for [`halt_of`].
macro_rules! columns {
    () => {
        "halts.epoch, halts.id, tenant_id, scope, target, reason, started_by, started_at,
        lifted_epoch, lifted_by, lifted_at, lift_reason"
    };
}

/// The statement for [`active_of`]. One statement, so that the epoch and the halts belong together.
pub(super) const ACTIVE: &str = concat!(
    "SELECT halt_state.epoch, ",
    columns!(),
    " FROM actpass.halt_state LEFT JOIN actpass.halts ON lifted_epoch IS NULL ORDER BY halts.epoch"
);

/// Finds the halt with the id $1.
pub(super) const FIND: &str = concat!("SELECT ", columns!(), " FROM actpass.halts WHERE id = $1");

/// Lists halts of the tenant $1, or all, including lifted ones if $2, after the epoch $3.
pub(super) const LIST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM actpass.halts WHERE ($1::text IS NULL OR tenant_id IS NULL OR tenant_id = $1)
     AND ($2::boolean OR lifted_epoch IS NULL) AND epoch > $3 ORDER BY epoch LIMIT $4"
);

/// Lists the lifted halts of the tenant $1 and of all tenants before the epoch $2, newest first.
pub(super) const LIFTED: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM actpass.halts WHERE (tenant_id IS NULL OR tenant_id = $1)
     AND lifted_epoch IS NOT NULL AND epoch < $2 ORDER BY epoch DESC LIMIT $3"
);

/// Lists acknowledgements of the tenant $1 before the id $2.
pub(super) const ACKNOWLEDGED: &str =
    "SELECT id, key_name, epoch, agent_id, instance, in_flight, at FROM actpass.halt_acknowledgements
     WHERE tenant_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3";

/// A scope that no version writes stops everything of its tenant.
pub(super) fn halt_of(row: &Row, first: usize) -> Result<Halt, tokio_postgres::Error> {
    let text =
        |column: usize| Ok::<_, tokio_postgres::Error>(row.try_get::<_, StoredText>(first + column)?.0);
    let optional = |column: usize| {
        Ok::<_, tokio_postgres::Error>(
            row.try_get::<_, Option<StoredText>>(first + column)?.map(|kept| kept.0),
        )
    };
    let lifted = match row.try_get::<_, Option<i64>>(first + 8)? {
        None => None,
        Some(epoch) => Some(Lifting {
            epoch: from_sql(epoch),
            by: text(9)?,
            at: row.try_get(first + 10)?,
            reason: text(11)?,
        }),
    };
    Ok(Halt {
        epoch: from_sql(row.try_get(first)?),
        id: text(1)?,
        tenant_id: optional(2)?.map(Arc::from),
        scope: Scope::parse(row.try_get(first + 3)?).unwrap_or(Scope::Tenant),
        target: optional(4)?,
        reason: text(5)?,
        by: text(6)?,
        at: row.try_get(first + 7)?,
        lifted,
    })
}

/// Returns the halts; `None` if the row with the epoch is missing.
pub(super) fn active_of(rows: &[Row]) -> Result<Option<ActiveHalts>, tokio_postgres::Error> {
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let mut active = ActiveHalts { epoch: from_sql(first.try_get(0)?), halts: Vec::new() };
    for row in rows {
        if row.try_get::<_, Option<i64>>(1)?.is_some() {
            active.halts.push(Arc::new(halt_of(row, 1)?));
        }
    }
    Ok(Some(active))
}

pub(super) fn acknowledged_of(
    row: &Row,
    tenant_id: &Arc<str>,
) -> Result<Acknowledged, tokio_postgres::Error> {
    let text = |column: usize| Ok::<_, tokio_postgres::Error>(row.try_get::<_, StoredText>(column)?.0);
    Ok(Acknowledged {
        id: row.try_get(0)?,
        acknowledgement: Acknowledgement {
            tenant_id: Arc::clone(tenant_id),
            key_name: text(1)?.into(),
            epoch: from_sql(row.try_get(2)?),
            agent_id: text(3)?,
            instance: text(4)?,
            in_flight: from_sql(row.try_get(5)?),
        },
        at: row.try_get(6)?,
    })
}

/// Halts and acknowledgements of a batch.
#[derive(Debug, Default)]
pub(super) struct LoadedHalts {
    /// The tenants with a chain of decisions, if the batch changes halts.
    pub(super) tenants: Vec<Arc<str>>,
    /// The numbers of recorded acknowledgements, by tenant, API key and epoch.
    counts: HashMap<(Arc<str>, Arc<str>, u64), u64>,
    known: HashSet<Acknowledgement>,
    /// Changed halts, in order.
    pub(super) changed: Vec<Arc<Halt>>,
    acknowledged: Vec<(Acknowledgement, i64)>,
}

impl LoadedHalts {
    pub(super) fn can_acknowledge(&self, acknowledgement: &Acknowledgement) -> Result<bool, NotLoaded> {
        let Acknowledgement { tenant_id, key_name, epoch, .. } = acknowledgement;
        let count = self.counts.get(&(Arc::clone(tenant_id), Arc::clone(key_name), *epoch));
        Ok(*count.ok_or(NotLoaded)? < MAX_ACKNOWLEDGEMENTS && !self.known.contains(acknowledgement))
    }

    pub(super) fn acknowledge(&mut self, acknowledgement: &Acknowledgement, at: i64) {
        let Acknowledgement { tenant_id, key_name, epoch, .. } = acknowledgement;
        *self.counts.entry((Arc::clone(tenant_id), Arc::clone(key_name), *epoch)).or_default() += 1;
        self.known.insert(acknowledgement.clone());
        self.acknowledged.push((acknowledgement.clone(), at));
    }
}

/// Prepared statements.
#[derive(Debug)]
pub(super) struct HaltStatements {
    acknowledge: Statement,
    find_acknowledged: Statement,
    lift: Statement,
    raise: Statement,
    start: Statement,
}

impl HaltStatements {
    pub(super) async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            acknowledge: client
                .prepare(
                    "INSERT INTO actpass.halt_acknowledgements
                         (tenant_id, key_name, epoch, agent_id, instance, in_flight, at)
                     VALUES ($1, $2, $3, $4, $5, $6, $7)",
                )
                .await?,
            find_acknowledged: client
                .prepare(
                    "SELECT count(*), coalesce(bool_or(agent_id = $4 AND instance = $5 AND in_flight = $6), false)
                     FROM actpass.halt_acknowledgements
                     WHERE tenant_id = $1 AND key_name = $2 AND epoch = $3",
                )
                .await?,
            lift: client
                .prepare(
                    "UPDATE actpass.halts
                     SET lifted_epoch = $2, lifted_by = $3, lifted_at = $4, lift_reason = $5 WHERE id = $1",
                )
                .await?,
            raise: client.prepare("UPDATE actpass.halt_state SET epoch = $1").await?,
            start: client
                .prepare(
                    "INSERT INTO actpass.halts
                         (epoch, id, tenant_id, scope, target, reason, started_by, started_at)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                )
                .await?,
        })
    }

    /// Loads the state of acknowledgements.
    pub(super) async fn load(
        &self,
        client: &Client,
        acknowledgements: &HashSet<Acknowledgement>,
        loaded: &mut LoadedHalts,
    ) -> Result<(), tokio_postgres::Error> {
        for acknowledgement in acknowledgements {
            let Acknowledgement { tenant_id, key_name, agent_id, instance, epoch, in_flight } =
                acknowledgement;
            let columns: [&(dyn ToSql + Sync); 6] = [
                &Text(tenant_id),
                &Text(key_name),
                &to_sql(*epoch),
                &Text(agent_id),
                &Text(instance),
                &to_sql(*in_flight),
            ];
            let row = client.query_one(&self.find_acknowledged, &columns).await?;
            let count = from_sql(row.try_get(0)?);
            loaded.counts.insert((Arc::clone(tenant_id), Arc::clone(key_name), *epoch), count);
            if row.try_get(1)? {
                loaded.known.insert(acknowledgement.clone());
            }
        }
        Ok(())
    }

    pub(super) async fn write(
        &self,
        client: &Client,
        loaded: &LoadedHalts,
    ) -> Result<(), tokio_postgres::Error> {
        for halt in &loaded.changed {
            let epoch = match &halt.lifted {
                None => {
                    let columns: [&(dyn ToSql + Sync); 8] = [
                        &to_sql(halt.epoch),
                        &halt.id,
                        &halt.tenant_id.as_deref().map(Text),
                        &halt.scope.as_str(),
                        &halt.target.as_deref().map(Text),
                        &Text(&halt.reason),
                        &Text(&halt.by),
                        &halt.at,
                    ];
                    client.execute(&self.start, &columns).await?;
                    halt.epoch
                }
                Some(Lifting { by, at, reason, epoch }) => {
                    let columns: [&(dyn ToSql + Sync); 5] =
                        [&halt.id, &to_sql(*epoch), &Text(by), at, &Text(reason)];
                    client.execute(&self.lift, &columns).await?;
                    *epoch
                }
            };
            client.execute(&self.raise, &[&to_sql(epoch)]).await?;
        }
        for (acknowledgement, at) in &loaded.acknowledged {
            let Acknowledgement { tenant_id, key_name, agent_id, instance, epoch, in_flight } =
                acknowledgement;
            let columns: [&(dyn ToSql + Sync); 7] = [
                &Text(tenant_id),
                &Text(key_name),
                &to_sql(*epoch),
                &Text(agent_id),
                &Text(instance),
                &to_sql(*in_flight),
                at,
            ];
            client.execute(&self.acknowledge, &columns).await?;
        }
        Ok(())
    }
}
