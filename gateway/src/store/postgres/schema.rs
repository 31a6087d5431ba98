//! Tables and migrations.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::super::error::DatabaseError;
use super::kept::KEPT;
use super::outbox::WEBHOOKS;
use super::sessions::SESSIONS;
use super::{Database, describe, lookup};

/// Current schema version.
pub(super) const SCHEMA_VERSION: i32 = 9;

/// Migrations to each version from the previous one.
const MIGRATIONS: [&str; 9] = [INITIAL, PROOFS, BUDGETS, HALTS, OUTCOMES, WEBHOOKS, SESSIONS, ARCHIVE, KEPT];

/// Advisory lock id that serializes migrations.
const MIGRATION_LOCK_ID: i64 = 0x0061_6374_7061_7373;

/// Keys use bytewise collation, so that upgrades of the system's collations cannot corrupt their
/// indexes.
///
/// A chain's row is updated with every batch; its page has free space for new row versions.
const INITIAL: &str = r#"
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

/// Text condition for events that consume grants: an `allow` in an enforcing mode.
macro_rules! spends {
    () => {
        r#"(strpos(event, '"event_type":"decision"') > 0 AND strpos(event, '"decision":"allow"') > 0
            AND (strpos(event, '"mode":"enforce"') > 0 OR strpos(event, '"mode":"strict"') > 0))"#
    };
}

/// Events that decide or spend an approval. JSON escapes quotes within strings, so client text
/// cannot match.
macro_rules! of_approval {
    () => {
        concat!(
            r#"(strpos(event, '"approval_request_id":"') > 0
                AND (strpos(event, '"event_type":"approval.') > 0 OR "#,
            spends!(),
            "))"
        )
    };
}

/// Events that issue, revoke or spend a passport.
macro_rules! of_passport {
    () => {
        concat!(
            r#"(strpos(event, '"passport_jti":"') > 0
                AND (strpos(event, '"event_type":"passport.') > 0 OR "#,
            spends!(),
            "))"
        )
    };
}

/// The events in the index of passports that spend one: an `allow`, or an exchange.
macro_rules! spends_passport {
    () => {
        concat!("(", spends!(), r#" OR strpos(event, '"event_type":"passport.exchanged"') > 0)"#)
    };
}

/// Events that approve a manifest, or set or remove a credential.
macro_rules! of_tool {
    () => {
        r#"(strpos(event, '"event_type":"tool.approved"') > 0 OR strpos(event, '"event_type":"credential.') > 0)"#
    };
}

/// A string member of an event, as in its JSON between the quotes.
macro_rules! member {
    ($name:literal) => {
        concat!(r#"substring(event from '""#, $name, r#"":"((?:[^"\\]|\\.)*)"')"#)
    };
}
pub(super) use {member, of_approval, of_passport, of_tool, spends, spends_passport};

/// Expiry of responses, reuse of approvals by action, indexes to verify rows against the ledger,
/// and triggers that reject changes of append-only data.
const PROOFS: &str = concat!(
    r#"
ALTER TABLE actpass.answers ADD COLUMN expires_at bigint NOT NULL DEFAULT 0;
ALTER TABLE actpass.answers ADD COLUMN seq bigint NOT NULL DEFAULT 0;
ALTER TABLE actpass.answers ADD COLUMN allowed_seq bigint;
UPDATE actpass.answers SET expires_at = extract(epoch FROM clock_timestamp())::bigint + 86400,
    allowed_seq = CASE WHEN substring(answer FROM 1 FOR 19) = convert_to('{"decision":"allow"', 'UTF8') THEN 0 END;
CREATE INDEX answers_by_end ON actpass.answers (expires_at);

ALTER TABLE actpass.approvals ADD COLUMN asker text COLLATE "C" NOT NULL DEFAULT '';
CREATE INDEX approvals_by_action ON actpass.approvals (tenant_id, action_hash) WHERE NOT spent;

CREATE INDEX events_by_approval ON actpass.events (chain, ("#,
    member!("approval_request_id"),
    "), seq) WHERE ",
    of_approval!(),
    ";\nCREATE INDEX events_by_passport ON actpass.events (chain, (",
    member!("passport_jti"),
    "), seq) WHERE ",
    of_passport!(),
    ";\nCREATE INDEX events_by_tool ON actpass.events (chain, (",
    member!("tool_id"),
    "), seq) WHERE ",
    of_tool!(),
    r#";

CREATE TABLE actpass.probe (
    id   integer PRIMARY KEY CHECK (id = 1),
    data bytea NOT NULL
);
INSERT INTO actpass.probe (id, data) VALUES (1, '');

CREATE TRIGGER chains_are_not_removed BEFORE DELETE OR TRUNCATE ON actpass.chains
FOR EACH STATEMENT EXECUTE FUNCTION actpass.refuse_change();

CREATE FUNCTION actpass.only_grow() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF (NEW.id, NEW.tenant_id, NEW.chain_id) IS DISTINCT FROM (OLD.id, OLD.tenant_id, OLD.chain_id)
        OR NEW.length < OLD.length THEN
        RAISE EXCEPTION 'the ledger is append-only';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER chains_only_grow BEFORE UPDATE ON actpass.chains
FOR EACH ROW EXECUTE FUNCTION actpass.only_grow();

CREATE FUNCTION actpass.refuse_removal() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'this table is added to and never removed from'; END $$;

CREATE TRIGGER approvals_are_not_removed BEFORE DELETE OR TRUNCATE ON actpass.approvals
FOR EACH STATEMENT EXECUTE FUNCTION actpass.refuse_removal();

CREATE TRIGGER passports_are_not_removed BEFORE DELETE OR TRUNCATE ON actpass.passports
FOR EACH STATEMENT EXECUTE FUNCTION actpass.refuse_removal();

CREATE TRIGGER signing_keys_are_not_removed BEFORE DELETE OR TRUNCATE ON actpass.signing_keys
FOR EACH STATEMENT EXECUTE FUNCTION actpass.refuse_removal();

CREATE FUNCTION actpass.decide_once() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF (NEW.tenant_id, NEW.id, NEW.action_hash, NEW.tool, NEW.resource, NEW.args, NEW.goal, NEW.agent_id, NEW.user_id,
            NEW.reason_code, NEW.created_at, NEW.deadline, NEW.asker)
        IS DISTINCT FROM (OLD.tenant_id, OLD.id, OLD.action_hash, OLD.tool, OLD.resource, OLD.args, OLD.goal,
            OLD.agent_id, OLD.user_id, OLD.reason_code, OLD.created_at, OLD.deadline, OLD.asker)
        OR (OLD.spent AND NOT NEW.spent)
        OR (OLD.approved IS NOT NULL AND (NEW.approved, NEW.decided_by, NEW.decided_at, NEW.note)
            IS DISTINCT FROM (OLD.approved, OLD.decided_by, OLD.decided_at, OLD.note)) THEN
        RAISE EXCEPTION 'an approval stays as it was decided';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER approvals_are_decided_once BEFORE UPDATE ON actpass.approvals
FOR EACH ROW EXECUTE FUNCTION actpass.decide_once();

CREATE FUNCTION actpass.stay_used() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF (NEW.tenant_id, NEW.jti, NEW.expires_at) IS DISTINCT FROM (OLD.tenant_id, OLD.jti, OLD.expires_at)
        OR (OLD.used AND NOT NEW.used) OR (OLD.revoked AND NOT NEW.revoked) THEN
        RAISE EXCEPTION 'a passport stays used and revoked';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER passports_stay_used BEFORE UPDATE ON actpass.passports
FOR EACH ROW EXECUTE FUNCTION actpass.stay_used();

CREATE FUNCTION actpass.keep_key() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF (NEW.id, NEW.kid, NEW.sealed) IS DISTINCT FROM (OLD.id, OLD.kid, OLD.sealed) THEN
        RAISE EXCEPTION 'a signing key stays as it was made';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER signing_keys_are_not_changed BEFORE UPDATE ON actpass.signing_keys
FOR EACH ROW EXECUTE FUNCTION actpass.keep_key();

ALTER TABLE actpass.chains ENABLE ALWAYS TRIGGER chains_are_not_removed;
ALTER TABLE actpass.chains ENABLE ALWAYS TRIGGER chains_only_grow;
ALTER TABLE actpass.approvals ENABLE ALWAYS TRIGGER approvals_are_not_removed;
ALTER TABLE actpass.approvals ENABLE ALWAYS TRIGGER approvals_are_decided_once;
ALTER TABLE actpass.passports ENABLE ALWAYS TRIGGER passports_are_not_removed;
ALTER TABLE actpass.passports ENABLE ALWAYS TRIGGER passports_stay_used;
ALTER TABLE actpass.signing_keys ENABLE ALWAYS TRIGGER signing_keys_are_not_removed;
ALTER TABLE actpass.signing_keys ENABLE ALWAYS TRIGGER signing_keys_are_not_changed;
"#
);

/// Accounts of budgets with the sum of their claims, and the claims. Amounts are exact decimals as
/// text. A claim has a `request_hash` if the outcome of its action matters.
const BUDGETS: &str = r#"
CREATE TABLE actpass.budget_accounts (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    budget    text COLLATE "C" NOT NULL,
    account   text COLLATE "C" NOT NULL,
    used      text NOT NULL,
    UNIQUE (tenant_id, budget, account)
) WITH (fillfactor = 50);

CREATE TABLE actpass.budget_claims (
    account      bigint NOT NULL,
    expires_at   bigint NOT NULL,
    event_id     text COLLATE "C" NOT NULL,
    amount       text NOT NULL,
    tenant_id    text COLLATE "C" NOT NULL,
    request_hash text,
    PRIMARY KEY (account, expires_at, event_id)
);

CREATE INDEX budget_claims_by_end ON actpass.budget_claims (tenant_id, expires_at);
CREATE INDEX budget_claims_by_request ON actpass.budget_claims (tenant_id, request_hash)
    WHERE request_hash IS NOT NULL;
"#;

/// Halts, their epoch, and acknowledgements. A halt is never removed, and lifted once.
const HALTS: &str = r#"
CREATE TABLE actpass.halt_state (
    id    integer PRIMARY KEY CHECK (id = 1),
    epoch bigint NOT NULL
);
INSERT INTO actpass.halt_state (id, epoch) VALUES (1, 0);

CREATE TABLE actpass.halts (
    epoch        bigint PRIMARY KEY,
    id           text COLLATE "C" NOT NULL UNIQUE,
    tenant_id    text COLLATE "C",
    scope        text NOT NULL,
    target       text,
    reason       text NOT NULL,
    started_by   text NOT NULL,
    started_at   bigint NOT NULL,
    lifted_epoch bigint,
    lifted_by    text,
    lifted_at    bigint,
    lift_reason  text
);

CREATE INDEX halts_active ON actpass.halts (epoch) WHERE lifted_epoch IS NULL;

CREATE TABLE actpass.halt_acknowledgements (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    key_name  text COLLATE "C" NOT NULL,
    epoch     bigint NOT NULL,
    agent_id  text COLLATE "C" NOT NULL,
    instance  text COLLATE "C" NOT NULL,
    in_flight bigint NOT NULL,
    at        bigint NOT NULL,
    UNIQUE (tenant_id, key_name, epoch, agent_id, instance, in_flight)
);

CREATE INDEX halt_acknowledgements_by_tenant ON actpass.halt_acknowledgements (tenant_id, id);

CREATE TRIGGER halts_are_not_removed BEFORE DELETE OR TRUNCATE ON actpass.halts
FOR EACH STATEMENT EXECUTE FUNCTION actpass.refuse_removal();

CREATE TRIGGER halt_state_is_not_removed BEFORE DELETE OR TRUNCATE ON actpass.halt_state
FOR EACH STATEMENT EXECUTE FUNCTION actpass.refuse_removal();

CREATE FUNCTION actpass.halt_epoch_rises() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF NEW.epoch < OLD.epoch THEN
        RAISE EXCEPTION 'the halt epoch only rises';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER halt_epoch_only_rises BEFORE UPDATE ON actpass.halt_state
FOR EACH ROW EXECUTE FUNCTION actpass.halt_epoch_rises();

CREATE FUNCTION actpass.lift_once() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF OLD.lifted_epoch IS NOT NULL
        OR (NEW.epoch, NEW.id, NEW.tenant_id, NEW.scope, NEW.target, NEW.reason, NEW.started_by, NEW.started_at)
        IS DISTINCT FROM (OLD.epoch, OLD.id, OLD.tenant_id, OLD.scope, OLD.target, OLD.reason, OLD.started_by,
            OLD.started_at) THEN
        RAISE EXCEPTION 'a halt is lifted once';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER halts_are_lifted_once BEFORE UPDATE ON actpass.halts
FOR EACH ROW EXECUTE FUNCTION actpass.lift_once();

ALTER TABLE actpass.halts ENABLE ALWAYS TRIGGER halts_are_not_removed;
ALTER TABLE actpass.halts ENABLE ALWAYS TRIGGER halts_are_lifted_once;
ALTER TABLE actpass.halt_state ENABLE ALWAYS TRIGGER halt_state_is_not_removed;
ALTER TABLE actpass.halt_state ENABLE ALWAYS TRIGGER halt_epoch_only_rises;
"#;

/// A claim whose action has no final outcome has the [outcomes](crate::budget::Outcomes) with which it
/// counts, and counts or not. 27 is all but `failed`.
const OUTCOMES: &str = "
ALTER TABLE actpass.budget_claims ADD COLUMN outcomes bigint;
ALTER TABLE actpass.budget_claims ADD COLUMN counts boolean NOT NULL DEFAULT true;
UPDATE actpass.budget_claims SET outcomes = 27 WHERE request_hash IS NOT NULL;
";

/// The end of the archived events of a chain: the number, the hash of the last one, the chain's Merkle
/// tree, and the time in seconds since 1970. Only archived events can be removed, and no event can be
/// added between them.
const ARCHIVE: &str = r#"
ALTER TABLE actpass.chains ADD COLUMN archived bigint NOT NULL DEFAULT 0;
ALTER TABLE actpass.chains ADD COLUMN archived_head text NOT NULL DEFAULT '';
ALTER TABLE actpass.chains ADD COLUMN archived_tree text NOT NULL DEFAULT '';
ALTER TABLE actpass.chains ADD COLUMN archived_at bigint NOT NULL DEFAULT 0;

DROP TRIGGER events_are_not_removed ON actpass.events;
CREATE TRIGGER events_are_not_removed BEFORE TRUNCATE ON actpass.events
FOR EACH STATEMENT EXECUTE FUNCTION actpass.refuse_change();

CREATE FUNCTION actpass.refuse_unarchived() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF EXISTS (SELECT FROM removed JOIN actpass.chains ON chains.id = removed.chain
               WHERE removed.seq > chains.archived) THEN
        RAISE EXCEPTION 'the ledger is append-only';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER only_archived_events_are_removed AFTER DELETE ON actpass.events
REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION actpass.refuse_unarchived();

CREATE FUNCTION actpass.refuse_archived() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF EXISTS (SELECT FROM added JOIN actpass.chains ON chains.id = added.chain
               WHERE added.seq <= chains.archived) THEN
        RAISE EXCEPTION 'the ledger is append-only';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER events_are_not_restored AFTER INSERT ON actpass.events
REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION actpass.refuse_archived();

CREATE FUNCTION actpass.archive_only_grows() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF NEW.archived < OLD.archived OR NEW.archived > NEW.length OR (NEW.archived = OLD.archived
        AND (NEW.archived_head, NEW.archived_tree) IS DISTINCT FROM (OLD.archived_head, OLD.archived_tree)) THEN
        RAISE EXCEPTION 'the ledger is append-only';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER archives_only_grow BEFORE UPDATE ON actpass.chains
FOR EACH ROW EXECUTE FUNCTION actpass.archive_only_grows();

ALTER TABLE actpass.events ENABLE ALWAYS TRIGGER events_are_not_removed;
ALTER TABLE actpass.events ENABLE ALWAYS TRIGGER only_archived_events_are_removed;
ALTER TABLE actpass.events ENABLE ALWAYS TRIGGER events_are_not_restored;
ALTER TABLE actpass.chains ENABLE ALWAYS TRIGGER archives_only_grow;
"#;

/// Creates or migrates the tables atomically; other gateways wait.
pub(super) async fn ensure_schema(client: &mut Client, database: &Database) -> Result<(), DatabaseError> {
    // The role that runs the gateway need not have the right to create tables.
    if version(client, database).await? != SCHEMA_VERSION {
        match migrate(client).await {
            Ok(found) if found > SCHEMA_VERSION => {
                return Err(DatabaseError::Newer(database.to_string(), found, SCHEMA_VERSION));
            }
            Ok(_) => {}
            Err(error) => return Err(DatabaseError::Schema(database.to_string(), describe(&error))),
        }
    }
    index(client).await;
    Ok(())
}

/// Creates missing indexes. They affect performance only, so a role without the right does without.
async fn index(client: &Client) {
    if let Err(error) = client.batch_execute(lookup::INDEXES).await
        && error.code() != Some(&SqlState::INSUFFICIENT_PRIVILEGE)
    {
        tracing::warn!(error = describe(&error), "creating the ledger's indexes failed");
    }
}

/// Checks that the schema has the current version.
pub(super) async fn check(client: &Client, database: &Database) -> Result<(), DatabaseError> {
    match version(client, database).await? {
        SCHEMA_VERSION => Ok(()),
        _ => Err(DatabaseError::Older(database.to_string())),
    }
}

/// Returns the schema version, 0 without a schema; an error if it is newer than supported.
async fn version(client: &Client, database: &Database) -> Result<i32, DatabaseError> {
    match client.query_one("SELECT coalesce(max(version), 0) FROM actpass.migrations", &[]).await {
        Ok(row) => match row.get(0) {
            newer if newer > SCHEMA_VERSION => {
                Err(DatabaseError::Newer(database.to_string(), newer, SCHEMA_VERSION))
            }
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

/// Migrates and returns the previous version.
async fn migrate(client: &mut Client) -> Result<i32, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute("SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = 0").await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK_ID]).await?;
    // Creating an existing schema would require a privilege.
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
