//! Tables and migrations of the data file.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::answer_tables::{self, ANSWERS};
use super::database::{BUSY_TIMEOUT, configure, connect_reader};
use super::kept::KEPT;
use super::outbox::WEBHOOKS;
use super::sessions::SESSIONS;
use crate::store::error::OpenError;

/// Current schema version.
pub(super) const SCHEMA_VERSION: i64 = 15;

/// Migrations to each version from the previous one.
const MIGRATIONS: [&str; 15] = [
    LEDGER,
    MANIFESTS,
    PASSPORTS,
    APPROVALS,
    CREDENTIALS,
    PROOFS,
    BUDGETS,
    HALTS,
    OUTCOMES,
    WEBHOOKS,
    SESSIONS,
    ARCHIVE,
    KEPT,
    ANSWERS,
    MEMBERS,
];

const LEDGER: &str = "
CREATE TABLE chains (
    id        INTEGER PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    chain_id  TEXT NOT NULL,
    length    INTEGER NOT NULL,
    head      TEXT NOT NULL,
    UNIQUE (tenant_id, chain_id)
) STRICT;

CREATE TABLE events (
    id    INTEGER PRIMARY KEY,
    chain INTEGER NOT NULL REFERENCES chains (id),
    seq   INTEGER NOT NULL,
    event TEXT NOT NULL,
    UNIQUE (chain, seq)
) STRICT;

CREATE TABLE answers (
    tenant_id       TEXT NOT NULL,
    key_name        TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    fingerprint     BLOB NOT NULL,
    answer          BLOB NOT NULL,
    UNIQUE (tenant_id, key_name, idempotency_key)
) STRICT;

CREATE TRIGGER events_are_not_changed BEFORE UPDATE ON events
BEGIN SELECT RAISE (ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER events_are_not_removed BEFORE DELETE ON events
BEGIN SELECT RAISE (ABORT, 'the ledger is append-only'); END;
";

const MANIFESTS: &str = "
CREATE TABLE manifests (
    tenant_id     TEXT NOT NULL,
    tool_id       TEXT NOT NULL,
    manifest_hash TEXT NOT NULL,
    PRIMARY KEY (tenant_id, tool_id)
) STRICT, WITHOUT ROWID;
";

const PASSPORTS: &str = "
CREATE TABLE signing_keys (
    id           INTEGER PRIMARY KEY,
    kid          TEXT NOT NULL UNIQUE,
    sealed       BLOB NOT NULL,
    active       INTEGER NOT NULL,
    needed_until INTEGER NOT NULL
) STRICT;

CREATE TABLE passports (
    tenant_id  TEXT NOT NULL,
    jti        TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked    INTEGER NOT NULL DEFAULT 0,
    used       INTEGER NOT NULL DEFAULT 0,
    UNIQUE (tenant_id, jti)
) STRICT;
";

const APPROVALS: &str = "
CREATE TABLE approvals (
    tenant_id   TEXT NOT NULL,
    id          TEXT NOT NULL,
    action_hash TEXT NOT NULL,
    tool        TEXT NOT NULL,
    resource    TEXT,
    args        TEXT NOT NULL,
    goal        TEXT NOT NULL,
    agent_id    TEXT,
    user_id     TEXT,
    reason_code TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    deadline    INTEGER NOT NULL,
    approved    INTEGER,
    decided_by  TEXT,
    decided_at  INTEGER,
    note        TEXT,
    spent       INTEGER NOT NULL DEFAULT 0,
    UNIQUE (tenant_id, id)
) STRICT;

CREATE INDEX approvals_pending ON approvals (tenant_id, deadline) WHERE approved IS NULL;
";

const CREDENTIALS: &str = "
CREATE TABLE credentials (
    tenant_id  TEXT NOT NULL,
    tool_id    TEXT NOT NULL,
    id         TEXT NOT NULL,
    sealed     BLOB NOT NULL,
    set_at     INTEGER NOT NULL,
    expires_at INTEGER,
    UNIQUE (tenant_id, tool_id)
) STRICT;
";

/// Condition for events that consume grants: an `allow` in an enforcing mode.
macro_rules! spends {
    () => {
        "(event_type = 'decision' AND decision = 'allow' AND mode IN ('enforce', 'strict'))"
    };
}

/// Events in the index [`events_by_approval`](MEMBERS): those that decide or spend an approval.
macro_rules! of_approval {
    () => {
        concat!("approval_request_id IS NOT NULL AND (event_type GLOB 'approval.*' OR ", spends!(), ")")
    };
}

/// Events in the index [`events_by_passport`](MEMBERS): those that issue, revoke or spend a
/// passport.
macro_rules! of_passport {
    () => {
        concat!("passport_jti IS NOT NULL AND (event_type GLOB 'passport.*' OR ", spends!(), ")")
    };
}

/// Events in the index [`events_by_tool`](MEMBERS): those that approve a manifest, or set or remove
/// a credential.
macro_rules! of_tool {
    () => {
        "(event_type = 'tool.approved' OR event_type GLOB 'credential.*')"
    };
}

/// The tenant's chain of decisions; the tenant is the first parameter.
macro_rules! decisions {
    () => {
        "(SELECT id FROM chains WHERE tenant_id = ?1 AND chain_id = 'decisions')"
    };
}

/// Expiry of responses, reuse of approvals by action, and triggers that reject changes of append-only data. `INSERT OR REPLACE` deletes rows without
/// firing delete triggers, so it is rejected beforehand.
const PROOFS: &str = r#"
ALTER TABLE answers ADD COLUMN expires_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE answers ADD COLUMN seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE answers ADD COLUMN allowed_seq INTEGER;
UPDATE answers SET expires_at = CAST(strftime('%s', 'now') AS INTEGER) + 86400,
    allowed_seq = CASE WHEN substr(answer, 1, 19) = CAST('{"decision":"allow"' AS BLOB) THEN 0 END;
CREATE INDEX answers_by_end ON answers (expires_at);

ALTER TABLE approvals ADD COLUMN asker TEXT NOT NULL DEFAULT '';
CREATE INDEX approvals_by_action ON approvals (tenant_id, action_hash) WHERE spent = 0;

CREATE TABLE state (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    is_open INTEGER NOT NULL,
    probe   BLOB NOT NULL
) STRICT;
INSERT INTO state (id, is_open, probe) VALUES (1, 0, x'');

CREATE TRIGGER events_are_not_replaced BEFORE INSERT ON events
WHEN EXISTS (SELECT 1 FROM events WHERE id = NEW.id OR (chain = NEW.chain AND seq = NEW.seq))
BEGIN SELECT RAISE (ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER chains_are_not_replaced BEFORE INSERT ON chains
WHEN EXISTS (
    SELECT 1 FROM chains WHERE id = NEW.id OR (tenant_id = NEW.tenant_id AND chain_id = NEW.chain_id)
)
BEGIN SELECT RAISE (ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER chains_are_not_removed BEFORE DELETE ON chains
BEGIN SELECT RAISE (ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER chains_only_grow BEFORE UPDATE ON chains
WHEN NEW.id IS NOT OLD.id OR NEW.tenant_id IS NOT OLD.tenant_id OR NEW.chain_id IS NOT OLD.chain_id
    OR NEW.length < OLD.length
BEGIN SELECT RAISE (ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER approvals_are_not_replaced BEFORE INSERT ON approvals
WHEN EXISTS (SELECT 1 FROM approvals WHERE tenant_id = NEW.tenant_id AND id = NEW.id)
BEGIN SELECT RAISE (ABORT, 'an approval stays as it was decided'); END;

CREATE TRIGGER approvals_are_not_removed BEFORE DELETE ON approvals
BEGIN SELECT RAISE (ABORT, 'an approval stays as it was decided'); END;

CREATE TRIGGER approvals_are_decided_once BEFORE UPDATE ON approvals
WHEN NEW.tenant_id IS NOT OLD.tenant_id OR NEW.id IS NOT OLD.id OR NEW.action_hash IS NOT OLD.action_hash
    OR NEW.tool IS NOT OLD.tool OR NEW.resource IS NOT OLD.resource OR NEW.args IS NOT OLD.args
    OR NEW.goal IS NOT OLD.goal OR NEW.agent_id IS NOT OLD.agent_id OR NEW.user_id IS NOT OLD.user_id
    OR NEW.reason_code IS NOT OLD.reason_code OR NEW.created_at IS NOT OLD.created_at
    OR NEW.deadline IS NOT OLD.deadline OR NEW.asker IS NOT OLD.asker OR NEW.spent < OLD.spent
    OR (OLD.approved IS NOT NULL AND (NEW.approved IS NOT OLD.approved OR NEW.decided_by IS NOT OLD.decided_by
        OR NEW.decided_at IS NOT OLD.decided_at OR NEW.note IS NOT OLD.note))
BEGIN SELECT RAISE (ABORT, 'an approval stays as it was decided'); END;

CREATE TRIGGER passports_are_not_replaced BEFORE INSERT ON passports
WHEN EXISTS (SELECT 1 FROM passports WHERE tenant_id = NEW.tenant_id AND jti = NEW.jti)
BEGIN SELECT RAISE (ABORT, 'a passport stays used and revoked'); END;

CREATE TRIGGER passports_are_not_removed BEFORE DELETE ON passports
BEGIN SELECT RAISE (ABORT, 'a passport stays used and revoked'); END;

CREATE TRIGGER passports_stay_used BEFORE UPDATE ON passports
WHEN NEW.tenant_id IS NOT OLD.tenant_id OR NEW.jti IS NOT OLD.jti OR NEW.expires_at IS NOT OLD.expires_at
    OR NEW.used < OLD.used OR NEW.revoked < OLD.revoked
BEGIN SELECT RAISE (ABORT, 'a passport stays used and revoked'); END;

CREATE TRIGGER signing_keys_are_not_replaced BEFORE INSERT ON signing_keys
WHEN EXISTS (SELECT 1 FROM signing_keys WHERE id = NEW.id OR kid = NEW.kid)
BEGIN SELECT RAISE (ABORT, 'a signing key stays as it was made'); END;

CREATE TRIGGER signing_keys_are_not_removed BEFORE DELETE ON signing_keys
BEGIN SELECT RAISE (ABORT, 'a signing key stays as it was made'); END;

CREATE TRIGGER signing_keys_are_not_changed BEFORE UPDATE ON signing_keys
WHEN NEW.id IS NOT OLD.id OR NEW.kid IS NOT OLD.kid OR NEW.sealed IS NOT OLD.sealed
BEGIN SELECT RAISE (ABORT, 'a signing key stays as it was made'); END;
"#;

/// Accounts of budgets with the sum of their claims, and the claims. Amounts are exact decimals as
/// text. A claim has a `request_hash` if the outcome of its action matters.
const BUDGETS: &str = "
CREATE TABLE budget_accounts (
    id        INTEGER PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    budget    TEXT NOT NULL,
    account   TEXT NOT NULL,
    used      TEXT NOT NULL,
    UNIQUE (tenant_id, budget, account)
) STRICT;

CREATE TABLE budget_claims (
    account      INTEGER NOT NULL REFERENCES budget_accounts (id),
    expires_at   INTEGER NOT NULL,
    event_id     TEXT NOT NULL,
    amount       TEXT NOT NULL,
    request_hash TEXT,
    PRIMARY KEY (account, expires_at, event_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX budget_claims_by_end ON budget_claims (expires_at);
CREATE INDEX budget_claims_by_request ON budget_claims (request_hash) WHERE request_hash IS NOT NULL;
";

/// Halts, their epoch, and acknowledgements. A halt is never removed, and lifted once.
const HALTS: &str = "
CREATE TABLE halt_state (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    epoch INTEGER NOT NULL
) STRICT;
INSERT INTO halt_state (id, epoch) VALUES (1, 0);

CREATE TABLE halts (
    epoch        INTEGER PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    tenant_id    TEXT,
    scope        TEXT NOT NULL,
    target       TEXT,
    reason       TEXT NOT NULL,
    started_by   TEXT NOT NULL,
    started_at   INTEGER NOT NULL,
    lifted_epoch INTEGER,
    lifted_by    TEXT,
    lifted_at    INTEGER,
    lift_reason  TEXT
) STRICT;

CREATE INDEX halts_active ON halts (epoch) WHERE lifted_epoch IS NULL;

CREATE TABLE halt_acknowledgements (
    id        INTEGER PRIMARY KEY,
    tenant_id TEXT NOT NULL,
    key_name  TEXT NOT NULL,
    epoch     INTEGER NOT NULL,
    agent_id  TEXT NOT NULL,
    instance  TEXT NOT NULL,
    in_flight INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    UNIQUE (tenant_id, key_name, epoch, agent_id, instance, in_flight)
) STRICT;

CREATE TRIGGER halt_state_is_not_removed BEFORE DELETE ON halt_state
BEGIN SELECT RAISE (ABORT, 'the halt epoch only rises'); END;

CREATE TRIGGER halt_state_is_not_replaced BEFORE INSERT ON halt_state
BEGIN SELECT RAISE (ABORT, 'the halt epoch only rises'); END;

CREATE TRIGGER halt_epoch_only_rises BEFORE UPDATE ON halt_state
WHEN NEW.id IS NOT OLD.id OR NEW.epoch < OLD.epoch
BEGIN SELECT RAISE (ABORT, 'the halt epoch only rises'); END;

CREATE TRIGGER halts_are_not_removed BEFORE DELETE ON halts
BEGIN SELECT RAISE (ABORT, 'a halt is lifted, not removed'); END;

CREATE TRIGGER halts_are_not_replaced BEFORE INSERT ON halts
WHEN EXISTS (SELECT 1 FROM halts WHERE epoch = NEW.epoch OR id = NEW.id)
BEGIN SELECT RAISE (ABORT, 'a halt is lifted, not removed'); END;

CREATE TRIGGER halts_are_lifted_once BEFORE UPDATE ON halts
WHEN OLD.lifted_epoch IS NOT NULL OR NEW.epoch IS NOT OLD.epoch OR NEW.id IS NOT OLD.id
    OR NEW.tenant_id IS NOT OLD.tenant_id OR NEW.scope IS NOT OLD.scope OR NEW.target IS NOT OLD.target
    OR NEW.reason IS NOT OLD.reason OR NEW.started_by IS NOT OLD.started_by
    OR NEW.started_at IS NOT OLD.started_at
BEGIN SELECT RAISE (ABORT, 'a halt is lifted once'); END;
";

/// A claim whose action has no final outcome has the [outcomes](crate::budget::Outcomes) with which it
/// counts, and counts or not. 27 is all but `failed`.
const OUTCOMES: &str = "
ALTER TABLE budget_claims ADD COLUMN outcomes INTEGER;
ALTER TABLE budget_claims ADD COLUMN counts INTEGER NOT NULL DEFAULT 1;
UPDATE budget_claims SET outcomes = 27 WHERE request_hash IS NOT NULL;
";

/// The end of the archived events of a chain: the number, the hash of the last one, the chain's Merkle
/// tree, and the time in seconds since 1970. Only archived events can be removed, and no event can be
/// added between them.
const ARCHIVE: &str = "
ALTER TABLE chains ADD COLUMN archived INTEGER NOT NULL DEFAULT 0;
ALTER TABLE chains ADD COLUMN archived_head TEXT NOT NULL DEFAULT '';
ALTER TABLE chains ADD COLUMN archived_tree TEXT NOT NULL DEFAULT '';
ALTER TABLE chains ADD COLUMN archived_at INTEGER NOT NULL DEFAULT 0;

DROP TRIGGER events_are_not_removed;
CREATE TRIGGER events_are_not_removed BEFORE DELETE ON events
WHEN OLD.seq > (SELECT archived FROM chains WHERE id = OLD.chain)
BEGIN SELECT RAISE (ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER events_are_not_restored BEFORE INSERT ON events
WHEN NEW.seq <= (SELECT archived FROM chains WHERE id = NEW.chain)
BEGIN SELECT RAISE (ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER archives_only_grow BEFORE UPDATE ON chains
WHEN NEW.archived < OLD.archived OR NEW.archived > NEW.length OR (NEW.archived = OLD.archived
    AND (NEW.archived_head IS NOT OLD.archived_head OR NEW.archived_tree IS NOT OLD.archived_tree))
BEGIN SELECT RAISE (ABORT, 'the ledger is append-only'); END;
";

/// The events in the index of passports that spend one: an `allow`, or an exchange.
macro_rules! spends_passport {
    () => {
        concat!("(", spends!(), " OR event_type = 'passport.exchanged')")
    };
}

/// Members of an event as columns that SQLite computes from its text, and indexes over them to verify
/// rows against the ledger. An insertion computes each column once, and parses the text once for all
/// that refer to `json`. The text of a row that was changed outside of the gateway may not be JSON.
///
/// A gateway creates the indexes of [`INDEXES`](super::lookup::INDEXES) again, which this version
/// defines otherwise.
const MEMBERS: &str = concat!(
    "
DROP INDEX IF EXISTS events_by_approval;
DROP INDEX IF EXISTS events_by_passport;
DROP INDEX IF EXISTS events_by_tool;
DROP INDEX IF EXISTS events_announced;
DROP INDEX IF EXISTS events_asked;
DROP INDEX IF EXISTS events_decided;
DROP INDEX IF EXISTS events_issued;

ALTER TABLE events ADD COLUMN json TEXT AS (iif(json_valid(event), event, '{}'));
ALTER TABLE events ADD COLUMN event_type TEXT AS (json_extract(json, '$.event_type'));
ALTER TABLE events ADD COLUMN announces TEXT AS (json_extract(json, '$.announces'));
ALTER TABLE events ADD COLUMN approval_request_id TEXT AS (json_extract(json, '$.approval_request_id'));
ALTER TABLE events ADD COLUMN decision TEXT AS (json_extract(json, '$.decision'));
ALTER TABLE events ADD COLUMN mode TEXT AS (json_extract(json, '$.mode'));
ALTER TABLE events ADD COLUMN passport_jti TEXT AS (json_extract(json, '$.passport_jti'));
ALTER TABLE events ADD COLUMN request_hash TEXT AS (json_extract(json, '$.request_hash'));
ALTER TABLE events ADD COLUMN tool_id TEXT AS (json_extract(json, '$.tool_id'));

CREATE INDEX events_by_approval ON events (chain, approval_request_id, seq) WHERE ",
    of_approval!(),
    ";
CREATE INDEX events_by_passport ON events (chain, passport_jti, seq) WHERE ",
    of_passport!(),
    ";
CREATE INDEX events_by_tool ON events (chain, tool_id, seq) WHERE ",
    of_tool!(),
    ";
"
);

pub(super) use {decisions, of_approval, of_passport, of_tool, spends, spends_passport};

/// Configures the connection, creates or migrates the tables, and returns the previous schema
/// version.
pub(super) fn prepare(connection: &mut Connection) -> rusqlite::Result<i64> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let version = connection.query_one("PRAGMA user_version", [], |row| row.get(0))?;
    if version > SCHEMA_VERSION {
        return Ok(version);
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    configure(connection)?;
    if version < SCHEMA_VERSION {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
        for migration in MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or(0)) {
            transaction.execute_batch(migration)?;
        }
        if version < 14 {
            answer_tables::migrate(&transaction)?;
        }
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        transaction.commit()?;
    }
    Ok(version)
}

/// Returns whether the file was copied in use or its gateway was not shut down cleanly. Then its
/// last records are in the write-ahead log.
pub(super) fn was_left_open(path: &Path) -> Result<bool, OpenError> {
    let read = |connection: Connection| {
        let version: i64 = connection.query_one("PRAGMA user_version", [], |row| row.get(0))?;
        match version {
            6..=SCHEMA_VERSION => connection.query_one("SELECT is_open FROM state", [], |row| row.get(0)),
            _ => Ok(false),
        }
    };
    connect_reader(path).and_then(read).map_err(|error| OpenError::Sqlite(path.to_owned(), error))
}

/// Records in the data file itself, not only in its log, whether a gateway uses it.
pub(super) fn set_open(connection: &Connection, is_open: bool) -> rusqlite::Result<()> {
    connection.execute("UPDATE state SET is_open = ?1", [is_open])?;
    // While it is in use, the log is never empty: see `DataFile::has_wal`.
    let checkpoint = if is_open { "PRAGMA wal_checkpoint(FULL)" } else { "PRAGMA wal_checkpoint(TRUNCATE)" };
    connection.query_one(checkpoint, [], |_| Ok(()))
}
