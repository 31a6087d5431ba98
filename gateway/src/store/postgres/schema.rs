//! The tables, and how older ones are brought forward.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::super::finding::POSTGRES_INDEXES;
use super::{Database, DatabaseError, describe};

/// The form of the data that this version reads and writes.
pub(super) const SCHEMA_VERSION: i32 = 1;

/// What leads to each version from the one before; the first from nothing.
const MIGRATIONS: [&str; 1] = [FIRST];

/// What holds off whoever else would bring the same tables forward.
const LOCK: i64 = 0x0061_6374_7061_7373;

/// Keys compare by their bytes: a new version of the system's collations must not break their indexes.
///
/// A chain's row changes with every batch, so its page has room for the next version beside the last.
const FIRST: &str = r#"
CREATE TABLE actpass.chains (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    chain_id  text COLLATE "C" NOT NULL,
    length    bigint NOT NULL,
    head      text NOT NULL,
    UNIQUE (tenant_id, chain_id)
) WITH (fillfactor = 20);

CREATE TABLE actpass.events (
    chain bigint NOT NULL REFERENCES actpass.chains (id),
    seq   bigint NOT NULL,
    event text NOT NULL,
    PRIMARY KEY (chain, seq)
);

CREATE TABLE actpass.answers (
    tenant_id       text COLLATE "C" NOT NULL,
    key_name        text COLLATE "C" NOT NULL,
    idempotency_key text COLLATE "C" NOT NULL,
    fingerprint     bytea NOT NULL,
    answer          bytea NOT NULL,
    PRIMARY KEY (tenant_id, key_name, idempotency_key)
);

CREATE TABLE actpass.manifests (
    tenant_id     text COLLATE "C" NOT NULL,
    tool_id       text COLLATE "C" NOT NULL,
    manifest_hash text NOT NULL,
    PRIMARY KEY (tenant_id, tool_id)
);

CREATE TABLE actpass.signing_keys (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kid          text COLLATE "C" NOT NULL UNIQUE,
    sealed       bytea NOT NULL,
    active       boolean NOT NULL,
    needed_until bigint NOT NULL
);

CREATE TABLE actpass.passports (
    tenant_id  text COLLATE "C" NOT NULL,
    jti        text COLLATE "C" NOT NULL,
    expires_at bigint NOT NULL,
    revoked    boolean NOT NULL,
    used       boolean NOT NULL,
    PRIMARY KEY (tenant_id, jti)
);

CREATE TABLE actpass.approvals (
    tenant_id   text COLLATE "C" NOT NULL,
    id          text COLLATE "C" NOT NULL,
    action_hash text NOT NULL,
    tool        text NOT NULL,
    resource    text,
    args        text NOT NULL,
    goal        text NOT NULL,
    agent_id    text,
    user_id     text,
    reason_code text NOT NULL,
    created_at  bigint NOT NULL,
    deadline    bigint NOT NULL,
    approved    boolean,
    decided_by  text,
    decided_at  bigint,
    note        text,
    spent       boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, id)
);

CREATE INDEX approvals_pending ON actpass.approvals (tenant_id, deadline, id) WHERE approved IS NULL;

CREATE TABLE actpass.credentials (
    tenant_id  text COLLATE "C" NOT NULL,
    tool_id    text COLLATE "C" NOT NULL,
    id         text NOT NULL,
    sealed     bytea NOT NULL,
    set_at     bigint NOT NULL,
    expires_at bigint,
    PRIMARY KEY (tenant_id, tool_id)
);

CREATE FUNCTION actpass.refuse_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$;

CREATE TRIGGER events_are_not_changed BEFORE UPDATE ON actpass.events
FOR EACH STATEMENT EXECUTE FUNCTION actpass.refuse_change();

CREATE TRIGGER events_are_not_removed BEFORE DELETE OR TRUNCATE ON actpass.events
FOR EACH STATEMENT EXECUTE FUNCTION actpass.refuse_change();

ALTER TABLE actpass.events ENABLE ALWAYS TRIGGER events_are_not_changed;
ALTER TABLE actpass.events ENABLE ALWAYS TRIGGER events_are_not_removed;
"#;

/// Makes the tables of a new database, or brings those of an older version forward: whole or not at all, by one gateway
/// while others wait.
pub(super) async fn bring_forward(client: &mut Client, database: &Database) -> Result<(), DatabaseError> {
    // Whoever runs the gateway day by day need not be allowed to make tables.
    if version(client, database).await? != SCHEMA_VERSION {
        match migrate(client).await {
            Ok(found) if found > SCHEMA_VERSION => {
                return Err(DatabaseError::Newer(database.to_string(), found));
            }
            Ok(_) => {}
            Err(error) => return Err(DatabaseError::Schema(database.to_string(), describe(&error))),
        }
    }
    index(client).await;
    Ok(())
}

/// Makes the indexes that are missing. They change no answer, only how long it takes; so a role that may not make them
/// does without.
async fn index(client: &Client) {
    if let Err(error) = client.batch_execute(POSTGRES_INDEXES).await
        && error.code() != Some(&SqlState::INSUFFICIENT_PRIVILEGE)
    {
        tracing::warn!(error = describe(&error), "the indexes of the ledger could not be made");
    }
}

/// That the database has the form that this version knows, and a gateway made it.
pub(super) async fn check(client: &Client, database: &Database) -> Result<(), DatabaseError> {
    match version(client, database).await? {
        SCHEMA_VERSION => Ok(()),
        _ => Err(DatabaseError::Older(database.to_string())),
    }
}

/// Which version the database has, 0 if it has none; an error if it is newer than this one knows.
async fn version(client: &Client, database: &Database) -> Result<i32, DatabaseError> {
    match client.query_one("SELECT coalesce(max(version), 0) FROM actpass.migrations", &[]).await {
        Ok(row) => match row.get(0) {
            newer if newer > SCHEMA_VERSION => Err(DatabaseError::Newer(database.to_string(), newer)),
            known => Ok(known),
        },
        Err(error)
            if matches!(error.code(), Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME)) =>
        {
            Ok(0)
        }
        Err(error) => Err(DatabaseError::Unreachable(database.to_string(), describe(&error))),
    }
}

/// The version that it found.
async fn migrate(client: &mut Client) -> Result<i32, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute("SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = 0").await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    // A schema that is there needs no leave to make one.
    let has_schema: bool =
        transaction.query_one("SELECT to_regnamespace('actpass') IS NOT NULL", &[]).await?.try_get(0)?;
    if !has_schema {
        transaction.batch_execute("CREATE SCHEMA actpass").await?;
    }
    transaction
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS actpass.migrations (
                 version integer PRIMARY KEY,
                 made_at timestamptz NOT NULL DEFAULT now()
             )",
        )
        .await?;
    let found: i32 = transaction
        .query_one("SELECT coalesce(max(version), 0) FROM actpass.migrations", &[])
        .await?
        .try_get(0)?;
    for (version, migration) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > found) {
        transaction.batch_execute(migration).await?;
        transaction.execute("INSERT INTO actpass.migrations (version) VALUES ($1)", &[&version]).await?;
    }
    transaction.commit().await?;
    Ok(found)
}
