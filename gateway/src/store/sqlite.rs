//! The ledger in a SQLite file.
//!
//! One thread writes. It takes everything that waits, runs it as one transaction, and answers only after the commit
//! reached the disk; so the more there is to do, the more events share one write to the disk. Readers have their own
//! connections, which the write-ahead log lets read while the writer writes.

use std::cmp::Ordering;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use tokio::sync::{Semaphore, mpsc};

use super::batch::{Batch, Rows, live};
use super::checkpoint::Checkpointer;
use super::error::{OpenError, StoreError};
use super::file::{self, DataFile, Lock};
use super::finding::{self, Author, Listing, PendingOf, Subject};
use super::proof::{KeptAnswer, describe_unproven, hold_to_ledger, recorded_at};
use super::queue::{self, Job, Jobs, Round};
use super::{
    Append, Appended, Claim, Effect, Rotation, SealedCredential, SealedKey, Standing, Store, StoredEvent,
};
use crate::approvals::{Approval, Decided};
use crate::clock::Clock;
use crate::ledger::{DECISIONS, Head, Sealed, TOOLS};

/// The form of the data that this version reads and writes.
const SCHEMA_VERSION: i64 = 6;

/// What leads to each version from the one before; the first from nothing.
const MIGRATIONS: [&str; 6] = [LEDGER, MANIFESTS, PASSPORTS, APPROVALS, CREDENTIALS, PROOFS];

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

/// An event that used up what it names, as text: an `allow` in a mode that spends.
macro_rules! spends {
    () => {
        r#"(instr(event, '"event_type":"decision"') > 0 AND instr(event, '"decision":"allow"') > 0
            AND (instr(event, '"mode":"enforce"') > 0 OR instr(event, '"mode":"strict"') > 0))"#
    };
}

/// The events that [`events_by_approval`](PROOFS) holds: those that decide or spend an approval. A quote within a string
/// is escaped in JSON, so a client's text is no match.
macro_rules! of_approval {
    () => {
        concat!(
            r#"instr(event, '"approval_request_id":"') > 0
                AND (instr(event, '"event_type":"approval.') > 0 OR "#,
            spends!(),
            ")"
        )
    };
}

/// The events that [`events_by_passport`](PROOFS) holds: those that issue, revoke or spend a passport.
macro_rules! of_passport {
    () => {
        concat!(
            r#"instr(event, '"passport_jti":"') > 0 AND (instr(event, '"event_type":"passport.') > 0 OR "#,
            spends!(),
            ")"
        )
    };
}

/// The events that [`events_by_tool`](PROOFS) holds: those that approve a manifest, or set or remove a credential.
macro_rules! of_tool {
    () => {
        r#"(instr(event, '"event_type":"tool.approved"') > 0 OR instr(event, '"event_type":"credential.') > 0)"#
    };
}

/// A member of an event.
macro_rules! member {
    ($name:literal) => {
        concat!("CASE WHEN json_valid(event) THEN json_extract(event, '$.", $name, "') END")
    };
}

/// The tenant's chain of decisions; the tenant is the first parameter.
macro_rules! decisions {
    () => {
        "(SELECT id FROM chains WHERE tenant_id = ?1 AND chain_id = 'decisions')"
    };
}

/// Answers that end, approvals that are found by their action, indexes by which rows are held to the ledger, and triggers
/// against every statement that would change what is only added to. `INSERT OR REPLACE` removes rows without any trigger
/// for removal, so it is refused before.
const PROOFS: &str = concat!(
    r#"
ALTER TABLE answers ADD COLUMN expires_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE answers ADD COLUMN seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE answers ADD COLUMN allowed_seq INTEGER;
UPDATE answers SET expires_at = CAST(strftime('%s', 'now') AS INTEGER) + 86400,
    allowed_seq = CASE WHEN substr(answer, 1, 19) = CAST('{"decision":"allow"' AS BLOB) THEN 0 END;
CREATE INDEX answers_by_end ON answers (expires_at);

ALTER TABLE approvals ADD COLUMN asker TEXT NOT NULL DEFAULT '';
CREATE INDEX approvals_by_action ON approvals (tenant_id, action_hash) WHERE spent = 0;

CREATE INDEX events_by_approval ON events (chain, "#,
    member!("approval_request_id"),
    ", seq) WHERE ",
    of_approval!(),
    ";
CREATE INDEX events_by_passport ON events (chain, ",
    member!("passport_jti"),
    ", seq) WHERE ",
    of_passport!(),
    ";
CREATE INDEX events_by_tool ON events (chain, ",
    member!("tool_id"),
    ", seq) WHERE ",
    of_tool!(),
    r#";

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
"#
);

/// The columns that [`credential_of`] reads.
const CREDENTIAL: &str =
    "SELECT id, tool_id, sealed, set_at, expires_at FROM credentials WHERE tenant_id = ?1";

/// The columns that [`approval_of`] reads.
///
/// `+` takes a column's affinity away, here and below: SQLite uses no index of an expression, which has none, for what has one.
const APPROVAL: &str = concat!(
    "SELECT id, action_hash, tool, resource, args, goal, agent_id, user_id, reason_code, created_at,
    deadline, approved, decided_by, decided_at, note, spent, asker,
    (SELECT event FROM events INDEXED BY events_by_approval WHERE chain = ",
    decisions!(),
    " AND ",
    member!("approval_request_id"),
    " = +approvals.id AND ",
    of_approval!(),
    r#" AND instr(event, '"event_type":"approval.') > 0 AND seq <= (
        SELECT length FROM chains WHERE tenant_id = ?1 AND chain_id = 'decisions'
    ) ORDER BY seq LIMIT 1),
    EXISTS (SELECT 1 FROM events INDEXED BY events_by_approval WHERE chain = "#,
    decisions!(),
    " AND ",
    member!("approval_request_id"),
    " = +approvals.id AND ",
    of_approval!(),
    " AND ",
    spends!(),
    ") FROM approvals WHERE tenant_id = ?1"
);

/// What became of a passport, by its row and by the ledger.
const PASSPORT: &str = concat!(
    "SELECT revoked OR EXISTS (SELECT 1 FROM events INDEXED BY events_by_passport WHERE chain = ",
    decisions!(),
    " AND ",
    member!("passport_jti"),
    " = ?2 AND ",
    of_passport!(),
    r#" AND instr(event, '"event_type":"passport.revoked"') > 0),
    used OR EXISTS (SELECT 1 FROM events INDEXED BY events_by_passport WHERE chain = "#,
    decisions!(),
    " AND ",
    member!("passport_jti"),
    " = ?2 AND ",
    of_passport!(),
    " AND ",
    spends!(),
    ") FROM passports WHERE tenant_id = ?1 AND jti = ?2"
);

/// The passports whose rows and events differ.
const UNPROVEN_PASSPORTS: &str = concat!(
    "SELECT jti FROM passports WHERE tenant_id = ?1 AND (NOT EXISTS (SELECT 1 FROM events INDEXED BY events_by_passport
    WHERE chain = ",
    decisions!(),
    " AND ",
    member!("passport_jti"),
    " = +passports.jti AND ",
    of_passport!(),
    r#" AND instr(event, '"event_type":"passport.issued"') > 0)
    OR (revoked = 0 AND EXISTS (SELECT 1 FROM events INDEXED BY events_by_passport WHERE chain = "#,
    decisions!(),
    " AND ",
    member!("passport_jti"),
    " = +passports.jti AND ",
    of_passport!(),
    r#" AND instr(event, '"event_type":"passport.revoked"') > 0))
    OR (used = 0 AND EXISTS (SELECT 1 FROM events INDEXED BY events_by_passport WHERE chain = "#,
    decisions!(),
    " AND ",
    member!("passport_jti"),
    " = +passports.jti AND ",
    of_passport!(),
    " AND ",
    spends!(),
    ")))"
);

/// The last event about a tool.
const TOOL_EVENT: &str = concat!(
    "SELECT event FROM events INDEXED BY events_by_tool
    WHERE chain = (SELECT id FROM chains WHERE tenant_id = ?1 AND chain_id = ?2) AND ",
    member!("tool_id"),
    " = ?3 AND ",
    of_tool!(),
    " AND seq <= (SELECT length FROM chains WHERE tenant_id = ?1 AND chain_id = ?2) ORDER BY seq DESC LIMIT 1"
);

/// An answer, with the events that it names.
const ANSWER: &str = concat!(
    "SELECT fingerprint, answer, expires_at, seq, allowed_seq,
    (SELECT event FROM events WHERE chain = ",
    decisions!(),
    " AND events.seq = answers.seq), (SELECT event FROM events WHERE chain = ",
    decisions!(),
    " AND events.seq = answers.allowed_seq)
    FROM answers WHERE tenant_id = ?1 AND key_name = ?2 AND idempotency_key = ?3"
);

/// How many answers that are kept no longer are removed with a batch, beside as many as the batch adds.
const PRUNED: usize = 64;

/// How many bytes a check writes: more than an ordinary decision.
const PROBE_BYTES: usize = 96 * 1024;
/// How many connections read at once at most.
const READERS: usize = 4;

/// How long a statement waits for another program that holds the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How many statements a connection keeps prepared; there are fewer.
const STATEMENTS: usize = 64;

/// How much of the file the writer keeps in memory: -1 is 1 KiB. Idempotency keys come in no order, so each is
/// looked for on another page of their index.
const CACHE_KIB: i64 = -16 * 1024;

/// How many events, and how many bytes of them, [`Store::events`] hands out at once.
const PAGE_EVENTS: usize = 512;
const PAGE_BYTES: usize = 1 << 20;

/// The ledger in a SQLite file; see [`SqliteStore::open`].
#[derive(Debug)]
pub struct SqliteStore {
    jobs: Jobs,
    readers: Arc<Readers>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl SqliteStore {
    /// Opens the data file `path`, or makes it, readable by its owner alone, and locks it against other gateways.
    ///
    /// # Errors
    ///
    /// If it cannot be made or read, is no ordinary file, lacks its write-ahead log, another gateway has it, or a newer
    /// version made it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with(path, Clock::default())
    }

    /// As [`SqliteStore::open`]; events get the time of `clock`.
    ///
    /// # Errors
    ///
    /// As [`SqliteStore::open`].
    pub fn open_with(path: &Path, clock: Clock) -> Result<Self, OpenError> {
        let (file, lock) = DataFile::open(path)?;
        if !file.has_wal() && was_left_open(file.path())? {
            return Err(OpenError::MissingWal(path.to_owned()));
        }
        Self::start(path, file, clock, Some(lock))
    }

    /// Opens a data file that is there, also while a gateway has it: each change is one transaction, and the gateway
    /// sees it. For what an operator does from the command line.
    ///
    /// # Errors
    ///
    /// As [`SqliteStore::open`]; if there is no such file; if its gateway is of another version.
    pub fn open_beside(path: &Path) -> Result<Self, OpenError> {
        let file = DataFile::beside(path)?;
        let version = connect_reader(file.path())
            .and_then(|connection| {
                connection.query_one("PRAGMA user_version", [], |row| row.get::<_, i64>(0))
            })
            .map_err(|error| OpenError::Sqlite(path.to_owned(), error))?;
        match version.cmp(&SCHEMA_VERSION) {
            Ordering::Equal => Self::start(path, file, Clock::default(), None),
            Ordering::Greater => Err(OpenError::Newer(path.to_owned(), version, SCHEMA_VERSION)),
            Ordering::Less => Err(OpenError::Older(path.to_owned())),
        }
    }

    /// A gateway has the lock.
    fn start(path: &Path, mut file: DataFile, clock: Clock, lock: Option<Lock>) -> Result<Self, OpenError> {
        let sqlite = |error| OpenError::Sqlite(path.to_owned(), error);
        let mut connection = connect(file.path()).map_err(sqlite)?;
        if connection.is_readonly("main").map_err(sqlite)? {
            return Err(OpenError::ReadOnly(path.to_owned()));
        }
        let version = prepare(&mut connection).map_err(sqlite)?;
        if version > SCHEMA_VERSION {
            return Err(OpenError::Newer(path.to_owned(), version, SCHEMA_VERSION));
        }
        if lock.is_some() {
            connection.execute_batch(finding::SQLITE_INDEXES).map_err(sqlite)?;
            set_open(&connection, true).map_err(sqlite)?;
        }
        probe(&connection).map_err(sqlite)?;
        file::make_private(file.path()).map_err(|error| OpenError::Io(path.to_owned(), error))?;
        file.remember()?;
        let folding = connect(file.path()).map_err(sqlite)?;
        set_up(&folding).map_err(sqlite)?;
        let checkpointer =
            Checkpointer::start(folding).map_err(|error| OpenError::Io(path.to_owned(), error))?;
        let (jobs, queue) = Jobs::new();
        let file = Arc::new(file);
        let mut writer =
            Writer { checkpointer: Some(checkpointer), connection, clock, file: Arc::clone(&file), lock };
        let thread = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|error| OpenError::Io(path.to_owned(), error))?;
        Ok(Self {
            jobs,
            readers: Arc::new(Readers {
                idle: Mutex::default(),
                permits: Arc::new(Semaphore::new(READERS)),
                file,
            }),
            writer: Mutex::new(Some(thread)),
        })
    }
}

/// Says that the data file `path` lacks nothing, though its write-ahead log is missing: another program folded it.
///
/// # Errors
///
/// If there is no such file, or it cannot be written.
pub fn accept_missing_wal(path: &Path) -> Result<(), OpenError> {
    let (file, _lock) = DataFile::open(path)?;
    let sqlite = |error| OpenError::Sqlite(path.to_owned(), error);
    if !file.has_wal() && was_left_open(file.path())? {
        tracing::warn!(file = %path.display(), "starting without the write-ahead log: decisions may be missing");
        let connection = connect(file.path()).map_err(sqlite)?;
        connection.execute("UPDATE state SET is_open = 0", []).map_err(sqlite)?;
    }
    Ok(())
}

#[async_trait]
impl Store for SqliteStore {
    async fn append(&self, append: Append) -> Result<Appended, StoreError> {
        self.jobs.ask(|answer| Job::Append(Box::new(append), answer)).await
    }

    async fn head(&self, tenant_id: &str, chain_id: &str) -> Result<Option<Head>, StoreError> {
        let (tenant_id, chain_id) = (tenant_id.to_owned(), chain_id.to_owned());
        let read = move |connection: &Connection| find_chain(connection, &tenant_id, &chain_id);
        Ok(self.readers.read(read).await?.map(|(_, head)| head).filter(|head| head.length > 0))
    }

    async fn events(
        &self,
        tenant_id: &str,
        chain_id: &str,
        after: u64,
        until: u64,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let (tenant_id, chain_id) = (tenant_id.to_owned(), chain_id.to_owned());
        self.readers.read(move |connection| read_page(connection, &tenant_id, &chain_id, after, until)).await
    }

    async fn approved_manifest(&self, tenant_id: &str, tool_id: &str) -> Result<Option<String>, StoreError> {
        let (tenant_id, tool_id) = (tenant_id.to_owned(), tool_id.to_owned());
        self.readers.read(move |connection| find_manifest(connection, &tenant_id, &tool_id)).await
    }

    async fn live_approval(
        &self,
        tenant_id: &str,
        action_hash: &str,
        asker: &str,
        now: i64,
    ) -> Result<Option<Approval>, StoreError> {
        let (tenant_id, action_hash, asker) =
            (tenant_id.to_owned(), action_hash.to_owned(), asker.to_owned());
        let read = move |connection: &Connection| {
            Ok(live(find_approvals_for(connection, &tenant_id, &action_hash, &asker)?, now))
        };
        self.readers.read(read).await
    }

    async fn last_tool_event(
        &self,
        tenant_id: &str,
        chain_id: &str,
        tool_id: &str,
    ) -> Result<Option<String>, StoreError> {
        let (tenant_id, chain_id, tool_id) = (tenant_id.to_owned(), chain_id.to_owned(), tool_id.to_owned());
        let read = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(TOOL_EVENT)?;
            statement.query_row(params![tenant_id, chain_id, tool_id], |row| row.get(0)).optional()
        };
        self.readers.read(read).await
    }

    async fn unproven(&self, tenant_id: &str) -> Result<Vec<String>, StoreError> {
        let tenant_id = tenant_id.to_owned();
        self.readers.read(move |connection| find_unproven(connection, &tenant_id)).await
    }

    async fn last_recorded(&self) -> Result<Option<i64>, StoreError> {
        self.readers.read(last_recorded).await
    }

    async fn passport(&self, tenant_id: &str, jti: &str) -> Result<Option<Standing>, StoreError> {
        let (tenant_id, jti) = (tenant_id.to_owned(), jti.to_owned());
        self.readers.read(move |connection| find_passport(connection, &tenant_id, &jti)).await
    }

    async fn approval(&self, tenant_id: &str, id: &str) -> Result<Option<Approval>, StoreError> {
        let (tenant_id, id) = (tenant_id.to_owned(), id.to_owned());
        self.readers.read(move |connection| find_approval(connection, &tenant_id, &id)).await
    }

    async fn approvals(&self, tenant_id: &str, listing: Listing) -> Result<Vec<Approval>, StoreError> {
        let tenant_id = tenant_id.to_owned();
        let read = move |connection: &Connection| {
            let query = format!("{APPROVAL} {}", finding::listed_in_sqlite(listing.status));
            let mut statement = connection.prepare_cached(&query)?;
            let Listing { now, agent, tool, after, limit, .. } = listing;
            statement.query_map(params![tenant_id, now, agent, tool, after, limit], approval_of)?.collect()
        };
        self.readers.read(read).await
    }

    async fn pending_of(
        &self,
        tenant_id: &str,
        asker: Author<'_>,
        now: i64,
    ) -> Result<PendingOf, StoreError> {
        let (tenant_id, agent) = (tenant_id.to_owned(), asker.agent.map(str::to_owned));
        let [mark, _] = asker.marks();
        let read = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(finding::SQLITE_PENDING_OF)?;
            statement.query_row(params![tenant_id, DECISIONS, now, mark, agent], |row| {
                Ok(PendingOf { agent: from_sql(row.get(0)?), key: from_sql(row.get(1)?) })
            })
        };
        self.readers.read(read).await
    }

    async fn caused(
        &self,
        tenant_id: &str,
        subject: Subject,
        id: &str,
        author: Author<'_>,
    ) -> Result<bool, StoreError> {
        let (tenant_id, wanted, [key, agent]) = (tenant_id.to_owned(), id.to_owned(), author.marks());
        let read = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(&subject.sqlite())?;
            let event = |row: &Row<'_>| Ok(StoredEvent { seq: from_sql(row.get(0)?), text: row.get(1)? });
            statement.query_row(params![tenant_id, DECISIONS, wanted, key, agent], event).optional()
        };
        let found = self.readers.read(read).await?;
        Ok(found.is_some_and(|event| subject.is_of(&event, id, &author)))
    }

    async fn credential(
        &self,
        tenant_id: &str,
        tool_id: &str,
    ) -> Result<Option<SealedCredential>, StoreError> {
        let (tenant_id, tool_id) = (tenant_id.to_owned(), tool_id.to_owned());
        self.readers.read(move |connection| find_credential(connection, &tenant_id, &tool_id)).await
    }

    async fn credentials(&self, tenant_id: &str) -> Result<Vec<SealedCredential>, StoreError> {
        let tenant_id = tenant_id.to_owned();
        let read = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(&format!("{CREDENTIAL} ORDER BY tool_id"))?;
            statement.query_map(params![tenant_id], credential_of)?.collect()
        };
        self.readers.read(read).await
    }

    async fn signing_keys(&self) -> Result<Vec<SealedKey>, StoreError> {
        self.readers.read(read_signing_keys).await
    }

    async fn add_signing_key(&self, key: SealedKey, rotation: Rotation) -> Result<(), StoreError> {
        self.jobs.ask(|answer| Job::AddKey(Box::new(key), rotation, answer)).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.readers.read(|connection| connection.query_one("SELECT 1", [], |_| Ok(()))).await?;
        self.jobs.ask(Job::Check).await
    }

    async fn close(&self) {
        // The last connection to close tidies up, and that is the writer's.
        self.readers.idle().clear();
        if !self.jobs.stop().await {
            return;
        }
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A writer that panicked was reported by the panic itself; there is nothing left to finish.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

/// As [`super::read_chain`], from a data file.
pub(super) fn read_chain<E: From<OpenError>>(
    path: &Path,
    tenant_id: &str,
    chain_id: &str,
    mut each: impl FnMut(&StoredEvent) -> Result<(), E>,
) -> Result<Option<Head>, E> {
    let failed = |error| OpenError::Sqlite(path.to_owned(), error);
    let connection = connect_reader(&file::existing(path)?).map_err(failed)?;
    let version = connection.query_one("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    if version > SCHEMA_VERSION {
        return Err(OpenError::Newer(path.to_owned(), version, SCHEMA_VERSION).into());
    }
    let Some((_, head)) = find_chain(&connection, tenant_id, chain_id).map_err(failed)? else {
        return Ok(None);
    };
    let mut after = 0;
    loop {
        let page = read_page(&connection, tenant_id, chain_id, after, head.length).map_err(failed)?;
        let Some(last) = page.last() else {
            return Ok(Some(head));
        };
        after = last.seq;
        for event in &page {
            each(event)?;
        }
    }
}

/// Reads the signing keys from the data file `path`, as [`read_chain`] reads a chain; none if the file is older than
/// passports are.
///
/// # Errors
///
/// If the file cannot be read or is a newer version's.
pub(super) fn read_keys(path: &Path) -> Result<Vec<SealedKey>, OpenError> {
    let failed = |error| OpenError::Sqlite(path.to_owned(), error);
    let connection = connect_reader(&file::existing(path)?).map_err(failed)?;
    let version: i64 = connection.query_one("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    match version {
        ..3 => Ok(Vec::new()),
        3..=SCHEMA_VERSION => read_signing_keys(&connection).map_err(failed),
        _ => Err(OpenError::Newer(path.to_owned(), version, SCHEMA_VERSION)),
    }
}

fn connect_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    Ok(connection)
}

/// A connection that writes. The path is absolute, and so is taken as it is.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // A write-ahead log that is gone means that something was lost: see `was_left_open`.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

/// Whether a gateway had the file when it was copied, or did not end in order. What it recorded last is in the write-ahead
/// log then.
fn was_left_open(path: &Path) -> Result<bool, OpenError> {
    let read = |connection: Connection| {
        let version: i64 = connection.query_one("PRAGMA user_version", [], |row| row.get(0))?;
        match version {
            6..=SCHEMA_VERSION => connection.query_one("SELECT is_open FROM state", [], |row| row.get(0)),
            _ => Ok(false),
        }
    };
    connect_reader(path).and_then(read).map_err(|error| OpenError::Sqlite(path.to_owned(), error))
}

/// Notes in the data file itself, not in its log alone, whether a gateway has it.
fn set_open(connection: &Connection, is_open: bool) -> rusqlite::Result<()> {
    connection.execute("UPDATE state SET is_open = ?1", [is_open])?;
    // While it is open, the log is never empty: see `DataFile::has_wal`.
    let fold = if is_open { "PRAGMA wal_checkpoint(FULL)" } else { "PRAGMA wal_checkpoint(TRUNCATE)" };
    connection.query_one(fold, [], |_| Ok(()))
}

/// Writes and commits as much as a decision does.
fn probe(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .execute("UPDATE state SET probe = randomblob(?1)", [i64::try_from(PROBE_BYTES).unwrap_or(0)])?;
    Ok(())
}

/// When the last event was recorded, in milliseconds since 1970.
fn last_recorded(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let event: Option<String> = connection
        .prepare_cached("SELECT event FROM events ORDER BY id DESC LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(event.as_deref().and_then(recorded_at))
}

/// Sets the connection up and makes the tables of a new file. The schema version it found.
fn prepare(connection: &mut Connection) -> rusqlite::Result<i64> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let version = connection.query_one("PRAGMA user_version", [], |row| row.get(0))?;
    if version > SCHEMA_VERSION {
        return Ok(version);
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    set_up(connection)?;
    if version < SCHEMA_VERSION {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
        for migration in MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or(0)) {
            transaction.execute_batch(migration)?;
        }
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        transaction.commit()?;
    }
    Ok(version)
}

/// What every connection that writes is told.
fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    connection.pragma_update(None, "cache_size", CACHE_KIB)?;
    // A commit must not wait for it: see `Checkpointer`.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(())
}

struct Writer {
    /// Until the writer ends.
    checkpointer: Option<Checkpointer>,
    connection: Connection,
    clock: Clock,
    file: Arc<DataFile>,
    /// A gateway's. Dropped after the connections.
    lock: Option<Lock>,
}

impl Writer {
    /// Works until told to stop, or until nobody is left to ask for anything.
    fn run(&mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.blocking_recv() {
            let Round { keys, appends, answers, checks } = Round::gather(first, &mut queue);
            for (key, rotation, answer) in keys {
                let _ = answer.send(self.add_key(&key, rotation));
            }
            if !appends.is_empty() {
                let written = self.in_place(|writer| writer.transact(&appends)).inspect_err(|error| {
                    tracing::error!(%error, events = answers.len(), "the ledger could not be written");
                });
                let (outcomes, bytes) = written.ok().unzip();
                queue::answer_all(answers, outcomes);
                if let (Some(checkpointer), Some(bytes)) = (&mut self.checkpointer, bytes) {
                    checkpointer.recorded(bytes, &self.connection);
                }
            }
            self.answer_checks(checks);
        }
        self.checkpointer = None;
        if !self.file.is_in_place() {
            return;
        }
        // Everything is durable already; this only leaves one tidy file behind.
        let tidied = match self.lock.is_some() {
            // What is folded whole needs no log.
            true => set_open(&self.connection, false).and_then(|()| {
                self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map(|_| ())
            }),
            false => self.connection.query_one("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())),
        };
        if let Err(error) = tidied {
            tracing::warn!(%error, "the write-ahead log could not be folded into the data file");
        }
    }

    /// Does `job` only while the open file is the one at its path. What was written to another one is not recorded.
    fn in_place<T>(&mut self, job: impl FnOnce(&mut Self) -> rusqlite::Result<T>) -> Result<T, WriteError> {
        if !self.file.is_in_place() {
            return Err(WriteError::NotInPlace);
        }
        let done = job(self)?;
        if self.file.is_in_place() { Ok(done) } else { Err(WriteError::NotInPlace) }
    }

    fn add_key(&mut self, key: &SealedKey, rotation: Rotation) -> Result<(), StoreError> {
        let added = self.in_place(|writer| add_signing_key(&mut writer.connection, key, rotation));
        added.map_err(|error| {
            tracing::error!(%error, "a signing key could not be kept");
            StoreError::Unavailable
        })
    }

    /// What came of the appends, and how many bytes were recorded.
    fn transact(&mut self, appends: &[Append]) -> rusqlite::Result<(Outcomes, usize)> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Another process may have recorded something later than this one's clock shows.
        if let Some(last) = last_recorded(&transaction)? {
            self.clock.at_least(last);
        }
        let now = self.clock.millis();
        let writing = Writing { transaction: &transaction, bytes: 0 };
        let mut batch = Batch::new(writing, now);
        let outcomes = appends.iter().map(|append| batch.append(append)).collect::<Result<_, _>>()?;
        let bytes = batch.finish()?.bytes;
        prune(&transaction, now.div_euclid(1000), PRUNED.max(2 * appends.len()))?;
        transaction.commit()?;
        Ok((outcomes, bytes))
    }

    /// Only a write can tell whether writing works.
    fn answer_checks(&mut self, checks: Vec<queue::Answer<()>>) {
        if checks.is_empty() {
            return;
        }
        let probed = self.in_place(|writer| probe(&writer.connection));
        let works = probed.map_err(|error| {
            tracing::error!(%error, "the ledger could not be written");
            StoreError::Unavailable
        });
        if let (Ok(()), Some(checkpointer)) = (works, &mut self.checkpointer) {
            checkpointer.recorded(PROBE_BYTES, &self.connection);
        }
        for answer in checks {
            let _ = answer.send(works);
        }
    }
}

/// Why nothing was recorded.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("the data file is no longer the one at its path")]
    NotInPlace,
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// Removes some of the answers that are kept no longer at `now`, in seconds since 1970.
fn prune(transaction: &Transaction<'_>, now: i64, limit: usize) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "DELETE FROM answers WHERE rowid IN (
                 SELECT rowid FROM answers INDEXED BY answers_by_end WHERE expires_at <= ?1 LIMIT ?2
             )",
        )?
        .execute(params![now, i64::try_from(limit).unwrap_or(i64::MAX)])?;
    Ok(())
}

/// What came of each append of a batch.
type Outcomes = Vec<Result<Appended, StoreError>>;

/// A transaction of many appends.
struct Writing<'t, 'c> {
    transaction: &'t Transaction<'c>,
    /// How many bytes of events and answers it records.
    bytes: usize,
}

impl Rows for Writing<'_, '_> {
    type Error = rusqlite::Error;

    fn answer(
        &self,
        tenant_id: &str,
        key_name: &str,
        idempotency_key: &str,
    ) -> rusqlite::Result<Option<KeptAnswer>> {
        self.transaction
            .prepare_cached(ANSWER)?
            .query_row(params![tenant_id, key_name, idempotency_key], |row| {
                Ok(KeptAnswer {
                    fingerprint: row.get(0)?,
                    answer: Bytes::from(row.get::<_, Vec<u8>>(1)?),
                    expires_at: row.get(2)?,
                    seq: from_sql(row.get(3)?),
                    event: row.get(5)?,
                    allowed_seq: row.get::<_, Option<i64>>(4)?.map(from_sql),
                    allowed_event: row.get(6)?,
                })
            })
            .optional()
    }

    fn approval(&self, tenant_id: &str, id: &str) -> rusqlite::Result<Option<Approval>> {
        find_approval(self.transaction, tenant_id, id)
    }

    fn approvals_for(
        &self,
        tenant_id: &str,
        action_hash: &str,
        asker: &str,
    ) -> rusqlite::Result<Vec<Approval>> {
        find_approvals_for(self.transaction, tenant_id, action_hash, asker)
    }

    fn manifest(&self, tenant_id: &str, tool_id: &str) -> rusqlite::Result<Option<String>> {
        find_manifest(self.transaction, tenant_id, tool_id)
    }

    fn credential(&self, tenant_id: &str, tool_id: &str) -> rusqlite::Result<Option<String>> {
        self.transaction
            .prepare_cached("SELECT id FROM credentials WHERE tenant_id = ?1 AND tool_id = ?2")?
            .query_row(params![tenant_id, tool_id], |row| row.get(0))
            .optional()
    }

    fn passport(&self, tenant_id: &str, jti: &str) -> rusqlite::Result<Option<Standing>> {
        find_passport(self.transaction, tenant_id, jti)
    }

    fn open_chain(&mut self, tenant_id: &str, chain_id: &str) -> rusqlite::Result<(i64, Head)> {
        if let Some(known) = find_chain(self.transaction, tenant_id, chain_id)? {
            return Ok(known);
        }
        let head = Head::default();
        self.transaction
            .prepare_cached("INSERT INTO chains (tenant_id, chain_id, length, head) VALUES (?1, ?2, 0, ?3)")?
            .execute(params![tenant_id, chain_id, head.hash])?;
        Ok((self.transaction.last_insert_rowid(), head))
    }

    fn insert_event(&mut self, chain: i64, event: Sealed) -> rusqlite::Result<()> {
        self.bytes += event.text.len();
        self.transaction
            .prepare_cached("INSERT INTO events (chain, seq, event) VALUES (?1, ?2, ?3)")?
            .execute(params![chain, to_sql(event.head.length), event.text])?;
        Ok(())
    }

    fn take(&mut self, tenant_id: &str, claim: &Claim) -> rusqlite::Result<()> {
        match claim {
            Claim::Approval { id, .. } => self
                .transaction
                .prepare_cached("UPDATE approvals SET spent = 1 WHERE tenant_id = ?1 AND id = ?2")?
                .execute(params![tenant_id, id])?,
            Claim::Passport { jti, .. } => self
                .transaction
                .prepare_cached("UPDATE passports SET used = 1 WHERE tenant_id = ?1 AND jti = ?2")?
                .execute(params![tenant_id, jti])?,
        };
        Ok(())
    }

    fn apply(&mut self, tenant_id: &Arc<str>, effect: &Effect) -> rusqlite::Result<()> {
        match effect {
            Effect::ApproveManifest { tool_id, hash } => {
                self.transaction
                    .prepare_cached(
                        "INSERT INTO manifests (tenant_id, tool_id, manifest_hash) VALUES (?1, ?2, ?3)
                         ON CONFLICT (tenant_id, tool_id) DO UPDATE SET manifest_hash = ?3",
                    )?
                    .execute(params![tenant_id, tool_id, hash])?;
            }
            Effect::Decide { id, decided } => {
                self.transaction
                    .prepare_cached(
                        "UPDATE approvals SET approved = ?3, decided_by = ?4, decided_at = ?5, note = ?6
                         WHERE tenant_id = ?1 AND id = ?2",
                    )?
                    .execute(params![
                        tenant_id,
                        id,
                        decided.approved,
                        decided.by,
                        decided.at,
                        decided.note
                    ])?;
            }
            Effect::Open { approval, .. } => {
                self.transaction
                    .prepare_cached(
                        "INSERT INTO approvals (tenant_id, id, action_hash, tool, resource, args, goal, agent_id,
                         user_id, reason_code, created_at, deadline, asker)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
                    )?
                    .execute(params![
                        tenant_id,
                        approval.id,
                        approval.action_hash,
                        approval.tool,
                        approval.resource,
                        approval.args,
                        approval.goal,
                        approval.agent_id,
                        approval.user_id,
                        approval.reason_code,
                        approval.created_at,
                        approval.deadline,
                        approval.asker
                    ])?;
            }
            Effect::Issue { jti, kid, expires_at } => {
                self.transaction
                    .prepare_cached("INSERT INTO passports (tenant_id, jti, expires_at) VALUES (?1, ?2, ?3)")?
                    .execute(params![tenant_id, jti, expires_at])?;
                self.transaction
                    .prepare_cached(
                        "UPDATE signing_keys SET needed_until = max(needed_until, ?2) WHERE kid = ?1",
                    )?
                    .execute(params![kid, expires_at])?;
            }
            Effect::RemoveCredential { tool_id, id: _ } => {
                self.transaction
                    .prepare_cached("DELETE FROM credentials WHERE tenant_id = ?1 AND tool_id = ?2")?
                    .execute(params![tenant_id, tool_id])?;
            }
            Effect::SetCredential(credential) => {
                self.transaction
                    .prepare_cached(
                        "INSERT INTO credentials (tenant_id, tool_id, id, sealed, set_at, expires_at)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                         ON CONFLICT (tenant_id, tool_id)
                         DO UPDATE SET id = ?3, sealed = ?4, set_at = ?5, expires_at = ?6",
                    )?
                    .execute(params![
                        tenant_id,
                        credential.tool_id,
                        credential.id,
                        credential.sealed,
                        credential.set_at,
                        credential.expires_at
                    ])?;
            }
            Effect::Revoke { jti } => {
                self.transaction
                    .prepare_cached("UPDATE passports SET revoked = 1 WHERE tenant_id = ?1 AND jti = ?2")?
                    .execute(params![tenant_id, jti])?;
            }
        }
        Ok(())
    }

    fn keep_answer(
        &mut self,
        tenant_id: &Arc<str>,
        key_name: &Arc<str>,
        idempotency_key: &str,
        kept: KeptAnswer,
    ) -> rusqlite::Result<()> {
        self.bytes += kept.answer.len();
        self.transaction
            .prepare_cached(
                "INSERT INTO answers (tenant_id, key_name, idempotency_key, fingerprint, answer, expires_at, seq,
                 allowed_seq) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                 ON CONFLICT (tenant_id, key_name, idempotency_key)
                 DO UPDATE SET fingerprint = ?4, answer = ?5, expires_at = ?6, seq = ?7, allowed_seq = ?8",
            )?
            .execute(params![
                tenant_id,
                key_name,
                idempotency_key,
                kept.fingerprint,
                kept.answer.as_ref(),
                kept.expires_at,
                to_sql(kept.seq),
                kept.allowed_seq.map(to_sql)
            ])?;
        Ok(())
    }

    fn save_head(&mut self, chain: i64, head: &Head) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached("UPDATE chains SET length = ?2, head = ?3 WHERE id = ?1")?
            .execute(params![chain, to_sql(head.length), head.hash])?;
        Ok(())
    }
}

/// A few connections that only read, on threads that may wait.
#[derive(Debug)]
struct Readers {
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    file: Arc<DataFile>,
}

impl Readers {
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| StoreError::Unavailable)?;
        let readers = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            // Until the read ends: its request may end sooner, and there are as many connections as permits.
            let _permit = permit;
            if !readers.file.is_in_place() {
                return Err(WriteError::NotInPlace);
            }
            let idle = readers.idle().pop();
            let connection = idle.map_or_else(|| connect_reader(readers.file.path()), Ok)?;
            let value = read(&connection)?;
            readers.idle().push(connection);
            Ok(value)
        });
        match done.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                tracing::error!(%error, "the ledger could not be read");
                Err(StoreError::Unavailable)
            }
            Err(_) => Err(StoreError::Unavailable),
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find_chain(
    connection: &Connection,
    tenant_id: &str,
    chain_id: &str,
) -> rusqlite::Result<Option<(i64, Head)>> {
    connection
        .prepare_cached("SELECT id, length, head FROM chains WHERE tenant_id = ?1 AND chain_id = ?2")?
        .query_row(params![tenant_id, chain_id], |row| {
            Ok((row.get(0)?, Head { length: from_sql(row.get(1)?), hash: row.get(2)? }))
        })
        .optional()
}

fn find_passport(connection: &Connection, tenant_id: &str, jti: &str) -> rusqlite::Result<Option<Standing>> {
    connection
        .prepare_cached(PASSPORT)?
        .query_row(params![tenant_id, jti], |row| Ok(Standing { revoked: row.get(0)?, used: row.get(1)? }))
        .optional()
}

fn find_approval(connection: &Connection, tenant_id: &str, id: &str) -> rusqlite::Result<Option<Approval>> {
    connection
        .prepare_cached(&format!("{APPROVAL} AND id = ?2"))?
        .query_row(params![tenant_id, id], approval_of)
        .optional()
}

/// Those that are not spent, the oldest first.
fn find_approvals_for(
    connection: &Connection,
    tenant_id: &str,
    action_hash: &str,
    asker: &str,
) -> rusqlite::Result<Vec<Approval>> {
    let query =
        format!("{APPROVAL} AND action_hash = ?2 AND asker = ?3 AND spent = 0 ORDER BY created_at, id");
    let mut statement = connection.prepare_cached(&query)?;
    statement.query_map(params![tenant_id, action_hash, asker], approval_of)?.collect()
}

fn find_unproven(connection: &Connection, tenant_id: &str) -> rusqlite::Result<Vec<String>> {
    let mut decided = connection.prepare(&format!("{APPROVAL} AND approved IS NOT NULL"))?;
    let approvals = decided.query_map(params![tenant_id], approval_of)?.collect::<Result<Vec<_>, _>>()?;
    let mut passports = connection.prepare(UNPROVEN_PASSPORTS)?;
    let passports = passports.query_map(params![tenant_id], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut approved =
        connection.prepare("SELECT tool_id, manifest_hash FROM manifests WHERE tenant_id = ?1")?;
    let approved = approved.query_map(params![tenant_id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut manifests = Vec::new();
    for row in approved {
        let (tool_id, hash): (String, String) = row?;
        let mut event = connection.prepare_cached(TOOL_EVENT)?;
        let event = event.query_row(params![tenant_id, TOOLS, tool_id], |row| row.get(0)).optional()?;
        manifests.push((tool_id, hash, event));
    }
    Ok(describe_unproven(&approvals, passports, manifests))
}

fn find_manifest(
    connection: &Connection,
    tenant_id: &str,
    tool_id: &str,
) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached("SELECT manifest_hash FROM manifests WHERE tenant_id = ?1 AND tool_id = ?2")?
        .query_row(params![tenant_id, tool_id], |row| row.get(0))
        .optional()
}

fn approval_of(row: &Row<'_>) -> rusqlite::Result<Approval> {
    let decided = match row.get(11)? {
        None => None,
        Some(approved) => Some(Decided { approved, by: row.get(12)?, at: row.get(13)?, note: row.get(14)? }),
    };
    let approval = Approval {
        id: row.get(0)?,
        action_hash: row.get(1)?,
        tool: row.get(2)?,
        resource: row.get(3)?,
        args: row.get(4)?,
        goal: row.get(5)?,
        agent_id: row.get(6)?,
        user_id: row.get(7)?,
        reason_code: row.get(8)?,
        created_at: row.get(9)?,
        deadline: row.get(10)?,
        decided,
        spent: row.get(15)?,
        asker: row.get(16)?,
        proven: false,
    };
    Ok(hold_to_ledger(approval, row.get::<_, Option<String>>(17)?.as_deref(), row.get(18)?))
}

fn find_credential(
    connection: &Connection,
    tenant_id: &str,
    tool_id: &str,
) -> rusqlite::Result<Option<SealedCredential>> {
    connection
        .prepare_cached(&format!("{CREDENTIAL} AND tool_id = ?2"))?
        .query_row(params![tenant_id, tool_id], credential_of)
        .optional()
}

fn credential_of(row: &Row<'_>) -> rusqlite::Result<SealedCredential> {
    Ok(SealedCredential {
        id: row.get(0)?,
        tool_id: row.get(1)?,
        sealed: row.get(2)?,
        set_at: row.get(3)?,
        expires_at: row.get(4)?,
    })
}

fn read_signing_keys(connection: &Connection) -> rusqlite::Result<Vec<SealedKey>> {
    let mut statement = connection
        .prepare_cached("SELECT kid, sealed, active, needed_until FROM signing_keys ORDER BY id")?;
    let keys = statement.query_map([], |row| {
        Ok(SealedKey {
            kid: row.get(0)?,
            sealed: row.get(1)?,
            active: row.get(2)?,
            needed_until: row.get(3)?,
        })
    })?;
    keys.collect()
}

fn add_signing_key(connection: &mut Connection, key: &SealedKey, rotation: Rotation) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let others: i64 = transaction.query_one("SELECT count(*) FROM signing_keys", [], |row| row.get(0))?;
    if rotation == Rotation::First && others > 0 {
        return Ok(());
    }
    transaction.execute("UPDATE signing_keys SET active = 0", [])?;
    transaction.execute(
        "INSERT INTO signing_keys (kid, sealed, active, needed_until) VALUES (?1, ?2, ?3, ?4)",
        params![key.kid, key.sealed, key.active, key.needed_until],
    )?;
    transaction.commit()
}

/// The next events of a chain after `after`, as [`Store::events`] hands them out.
pub(super) fn read_page_of(
    connection: &Connection,
    tenant_id: &str,
    chain_id: &str,
    after: u64,
) -> rusqlite::Result<Vec<StoredEvent>> {
    read_page(connection, tenant_id, chain_id, after, u64::MAX)
}

fn read_page(
    connection: &Connection,
    tenant_id: &str,
    chain_id: &str,
    after: u64,
    until: u64,
) -> rusqlite::Result<Vec<StoredEvent>> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, event FROM events
         WHERE chain = (SELECT id FROM chains WHERE tenant_id = ?1 AND chain_id = ?2) AND seq > ?3 AND seq <= ?4
         ORDER BY seq",
    )?;
    let mut rows = statement.query(params![tenant_id, chain_id, to_sql(after), to_sql(until)])?;
    let mut page = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let event = StoredEvent { seq: from_sql(row.get(0)?), text: row.get(1)? };
        bytes += event.text.len();
        page.push(event);
        if page.len() >= PAGE_EVENTS || bytes >= PAGE_BYTES {
            break;
        }
    }
    Ok(page)
}

/// SQLite's integers are signed; no chain comes near their end.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A lookup by the chain alone reads as many events as the chain has.
    #[test]
    fn events_are_looked_up_by_what_they_name() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("data.db");
        drop(SqliteStore::open(&path).unwrap());
        let connection = connect_reader(&path).unwrap();
        let subjects = Subject::ALL.map(Subject::sqlite);
        let queries = [APPROVAL, PASSPORT, UNPROVEN_PASSPORTS, TOOL_EVENT, finding::SQLITE_PENDING_OF];
        let mut lookups = 0;
        for query in queries.into_iter().chain(subjects.iter().map(String::as_str)) {
            let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {query}")).unwrap();
            let steps =
                plan.raw_query().mapped(|row| row.get::<_, String>("detail")).collect::<Result<Vec<_>, _>>();
            for step in steps.unwrap().iter().filter(|step| step.contains(" events ")) {
                assert!(step.contains("<expr>=?"), "{step}, of {query}");
                lookups += 1;
            }
        }
        assert_eq!(lookups, 2 + 2 + 3 + 1 + 1 + 3);
    }
}
