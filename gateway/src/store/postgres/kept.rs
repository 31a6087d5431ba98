//! Records outside of the ledger.

use tokio_postgres::{Client, Row};

use super::super::error::StoreError;
use super::super::kept::{Kept, KeptChange, NewKept};
use super::describe;
use super::text::{StoredText, Text};

/// Tables of the schema version that added kept records.
pub(super) const KEPT: &str = r#"
CREATE TABLE actpass.kept (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id  text COLLATE "C" NOT NULL,
    kind       text COLLATE "C" NOT NULL,
    name       text COLLATE "C" NOT NULL,
    at         bigint NOT NULL,
    expires_at bigint,
    body       bytea NOT NULL,
    UNIQUE (tenant_id, kind, name)
);

CREATE INDEX kept_by_kind ON actpass.kept (tenant_id, kind, id);
CREATE INDEX kept_by_end ON actpass.kept (expires_at) WHERE expires_at IS NOT NULL;
"#;

/// The record with a name.
pub(super) const NAMED: &str =
    "SELECT id, name, at, body FROM actpass.kept WHERE tenant_id = $1 AND kind = $2 AND name = $3";

/// Adds records by column, except records with a known name.
pub(super) const INSERT: &str = "
INSERT INTO actpass.kept (tenant_id, kind, name, at, expires_at, body)
SELECT tenant_id, kind, name, at, expires_at, body
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bytea[])
    WITH ORDINALITY AS new (tenant_id, kind, name, at, expires_at, body, place)
ORDER BY place
ON CONFLICT (tenant_id, kind, name) DO NOTHING";

/// The records of tenant $1 and kind $2 after the id $3, at the time $4.
pub(super) const LIST: &str = "
SELECT id, name, at, body FROM actpass.kept WHERE tenant_id = $1 AND kind = $2 AND id > $3
AND (expires_at IS NULL OR expires_at > $4) ORDER BY id LIMIT $5";

/// The same, newest first and before the id $3.
pub(super) const LIST_NEWEST: &str = "
SELECT id, name, at, body FROM actpass.kept WHERE tenant_id = $1 AND kind = $2 AND id < $3
AND (expires_at IS NULL OR expires_at > $4) ORDER BY id DESC LIMIT $5";

/// Records by column, for [`INSERT`].
#[derive(Default)]
pub(super) struct Columns<'k> {
    tenants: Vec<Text<'k>>,
    kinds: Vec<&'static str>,
    names: Vec<Text<'k>>,
    ats: Vec<i64>,
    ends: Vec<Option<i64>>,
    bodies: Vec<&'k [u8]>,
}

impl<'k> Columns<'k> {
    pub(super) fn of(records: &'k [NewKept]) -> Self {
        let mut columns = Self::default();
        for record in records {
            columns.tenants.push(Text(&record.tenant_id));
            columns.kinds.push(record.kind.as_str());
            columns.names.push(Text(&record.name));
            columns.ats.push(record.at);
            columns.ends.push(record.expires_at);
            columns.bodies.push(&record.body);
        }
        columns
    }

    pub(super) fn parameters(&self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 6] {
        [&self.tenants, &self.kinds, &self.names, &self.ats, &self.ends, &self.bodies]
    }
}

/// Applies a change and returns the number of records that it added or removed.
pub(super) async fn change(client: &Client, change: &KeptChange) -> Result<u64, tokio_postgres::Error> {
    match change {
        KeptChange::Add(records) => client.execute(INSERT, &Columns::of(records).parameters()).await,
        KeptChange::Expire { now, limit } => {
            client
                .execute(
                    "DELETE FROM actpass.kept WHERE id IN (
                         SELECT id FROM actpass.kept WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2
                     )",
                    &[now, &i64::from(*limit)],
                )
                .await
        }
        KeptChange::Trim { tenant_id, kind, keep } => {
            client
                .execute(
                    "DELETE FROM actpass.kept WHERE id IN (
                         SELECT id FROM actpass.kept WHERE tenant_id = $1 AND kind = $2
                         ORDER BY id DESC OFFSET $3
                     )",
                    &[&Text(tenant_id), &kind.as_str(), &i64::from(*keep)],
                )
                .await
        }
    }
}

/// Reads the rows of a query.
pub(super) fn all_of(rows: &[Row]) -> Result<Vec<Kept>, StoreError> {
    rows.iter().map(kept_of).collect::<Result<_, _>>().map_err(|error| {
        tracing::error!(error = describe(&error), "reading records outside of the ledger failed");
        StoreError::Unavailable
    })
}

fn kept_of(row: &Row) -> Result<Kept, tokio_postgres::Error> {
    Ok(Kept {
        id: row.try_get(0)?,
        name: row.try_get::<_, StoredText>(1)?.0,
        at: row.try_get(2)?,
        body: row.try_get(3)?,
    })
}
