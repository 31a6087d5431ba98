//! The ledger in a SQLite file.
//!
//! One thread writes. It takes everything that waits, runs it as one transaction, and answers only after the commit
//! reached the disk; so the more there is to do, the more events share one write to the disk. Readers have their own
//! connections, which the write-ahead log lets read while the writer writes.

use std::cmp::Ordering;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use tokio::sync::{Semaphore, mpsc};

use super::batch::{Answer, ApprovalStanding, Batch, Rows};
use super::checkpoint::Checkpointer;
use super::finding::{self, Author, Listing, Subject};
use super::postgres::DatabaseError;
use super::queue::{self, Job, Jobs, Round};
use super::{
    Append, Appended, Approval, Claim, Decided, Effect, Once, Rotation, Standing, Store, StoreError,
    StoredEvent,
};
use crate::ledger::{DECISIONS, Head, Sealed};
use crate::passport::SealedKey;
use crate::vault::SealedCredential;

/// The form of the data that this version reads and writes.
const SCHEMA_VERSION: i64 = 5;

/// What leads to each version from the one before; the first from nothing.
const MIGRATIONS: [&str; 5] = [LEDGER, MANIFESTS, PASSPORTS, APPROVALS, CREDENTIALS];

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

/// The columns that [`credential_of`] reads.
const CREDENTIAL: &str =
    "SELECT id, tool_id, sealed, set_at, expires_at FROM credentials WHERE tenant_id = ?1";

/// The columns that [`approval_of`] reads.
const APPROVAL: &str =
    "SELECT id, action_hash, tool, resource, args, goal, agent_id, user_id, reason_code, created_at,
    deadline, approved, decided_by, decided_at, note, spent FROM approvals WHERE tenant_id = ?1";

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

/// Why data could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file or its folder cannot be made or opened.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Another gateway has it.
    #[error("{0}: in use by another gateway; two must not write one data file")]
    Locked(PathBuf),
    /// A newer version of the gateway made it.
    #[error(
        "{0}: has schema version {1}; this gateway knows versions up to {SCHEMA_VERSION}, so use a newer one"
    )]
    Newer(PathBuf, i64),
    /// An older version of the gateway made it, and may still use it.
    #[error("{0}: was made by an older version of the gateway; start this version on it once")]
    Older(PathBuf),
    /// This process cannot do more than one thing at a time.
    #[error("no runtime could be started: {0}")]
    Runtime(#[source] io::Error),
    /// It is not a SQLite database, or is damaged.
    #[error("{0}: {1}")]
    Sqlite(PathBuf, #[source] rusqlite::Error),
}

impl SqliteStore {
    /// Opens the data file `path`, or makes it, readable by its owner alone, and locks it against other gateways.
    ///
    /// # Errors
    ///
    /// If it cannot be made or read, another gateway has it, or a newer version made it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with(path, Some(lock(path)?))
    }

    /// Opens a data file that is there, also while a gateway has it: each change is one transaction, and the gateway
    /// sees it. For what an operator does from the command line.
    ///
    /// # Errors
    ///
    /// As [`SqliteStore::open`]; if there is no such file; if its gateway is of another version.
    pub fn open_beside(path: &Path) -> Result<Self, OpenError> {
        let io = |error| OpenError::Io(path.to_owned(), error);
        if !path.try_exists().map_err(io)? {
            return Err(io(io::ErrorKind::NotFound.into()));
        }
        let version = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .and_then(|connection| {
                connection.query_one("PRAGMA user_version", [], |row| row.get::<_, i64>(0))
            })
            .map_err(|error| OpenError::Sqlite(path.to_owned(), error))?;
        match version.cmp(&SCHEMA_VERSION) {
            Ordering::Equal => Self::open_with(path, None),
            Ordering::Greater => Err(OpenError::Newer(path.to_owned(), version)),
            Ordering::Less => Err(OpenError::Older(path.to_owned())),
        }
    }

    fn open_with(path: &Path, lock: Option<File>) -> Result<Self, OpenError> {
        let sqlite = |error| OpenError::Sqlite(path.to_owned(), error);
        make_private(path).map_err(|error| OpenError::Io(path.to_owned(), error))?;
        let mut connection = Connection::open(path).map_err(sqlite)?;
        let version = prepare(&mut connection).map_err(sqlite)?;
        if version > SCHEMA_VERSION {
            return Err(OpenError::Newer(path.to_owned(), version));
        }
        if lock.is_some() {
            connection.execute_batch(finding::SQLITE_INDEXES).map_err(sqlite)?;
        }
        let folding = Connection::open(path).map_err(sqlite)?;
        set_up(&folding).map_err(sqlite)?;
        let checkpointer =
            Checkpointer::start(folding).map_err(|error| OpenError::Io(path.to_owned(), error))?;
        let (jobs, queue) = Jobs::new();
        let mut writer = Writer { checkpointer: Some(checkpointer), connection, failing: false, _lock: lock };
        let thread = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|error| OpenError::Io(path.to_owned(), error))?;
        Ok(Self {
            jobs,
            readers: Arc::new(Readers {
                path: path.to_owned(),
                idle: Mutex::default(),
                permits: Semaphore::new(READERS),
            }),
            writer: Mutex::new(Some(thread)),
        })
    }
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
        let read = move |connection: &Connection| {
            connection
                .prepare_cached("SELECT manifest_hash FROM manifests WHERE tenant_id = ?1 AND tool_id = ?2")?
                .query_row(params![tenant_id, tool_id], |row| row.get(0))
                .optional()
        };
        self.readers.read(read).await
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

    async fn pending_of(&self, tenant_id: &str, key_name: &str, now: i64) -> Result<u64, StoreError> {
        let tenant_id = tenant_id.to_owned();
        let [mark, _] = Author { key_name, agent: None }.marks();
        let read = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(finding::SQLITE_PENDING_OF)?;
            statement.query_row(params![tenant_id, DECISIONS, now, mark], |row| Ok(from_sql(row.get(0)?)))
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
    let connection = connect_reader(path).map_err(failed)?;
    let version = connection.query_one("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    if version > SCHEMA_VERSION {
        return Err(OpenError::Newer(path.to_owned(), version).into());
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
    let connection = connect_reader(path).map_err(failed)?;
    let version: i64 = connection.query_one("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    match version {
        ..3 => Ok(Vec::new()),
        3..=SCHEMA_VERSION => read_signing_keys(&connection).map_err(failed),
        _ => Err(OpenError::Newer(path.to_owned(), version)),
    }
}

fn connect_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    Ok(connection)
}

/// Holds the lock that keeps a second gateway away from `path`, until it is dropped.
///
/// It is on a file beside the data file: closing the data file itself anywhere in the process would also give up the
/// locks that SQLite holds on it.
fn lock(path: &Path) -> Result<File, OpenError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let beside = PathBuf::from(beside);
    let failed = |error| OpenError::Io(beside.clone(), error);
    let file = private_file().open(&beside).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Makes the file with its permissions, or corrects them. SQLite gives its other files the same ones.
fn make_private(path: &Path) -> io::Result<()> {
    let file = private_file().open(path)?;
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    drop(file);
    Ok(())
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
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
    /// Whether the last transaction failed.
    failing: bool,
    _lock: Option<File>,
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
                let written = self.transact(&appends);
                self.failing = written.is_err();
                let written = written.inspect_err(|error| {
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
        // Everything is durable already; this only leaves one tidy file behind.
        if let Err(error) = self.connection.query_one("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            tracing::warn!(%error, "the write-ahead log could not be folded into the data file");
        }
    }

    fn add_key(&mut self, key: &SealedKey, rotation: Rotation) -> Result<(), StoreError> {
        add_signing_key(&mut self.connection, key, rotation).map_err(|error| {
            tracing::error!(%error, "a signing key could not be kept");
            StoreError::Unavailable
        })
    }

    /// What came of the appends, and how many bytes were recorded.
    fn transact(&mut self, appends: &[Append]) -> rusqlite::Result<(Outcomes, usize)> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let writing = Writing { transaction: &transaction, bytes: 0 };
        let mut batch = Batch::new(writing, SystemTime::now());
        let outcomes = appends.iter().map(|append| batch.append(append)).collect::<Result<_, _>>()?;
        let bytes = batch.finish()?.bytes;
        transaction.commit()?;
        Ok((outcomes, bytes))
    }

    /// After a failure only a write can tell whether writing works again.
    fn answer_checks(&mut self, checks: Vec<queue::Answer<()>>) {
        if checks.is_empty() {
            return;
        }
        if self.failing {
            self.failing = self.connection.pragma_update(None, "user_version", SCHEMA_VERSION).is_err();
        }
        let works = if self.failing { Err(StoreError::Unavailable) } else { Ok(()) };
        for answer in checks {
            let _ = answer.send(works);
        }
    }
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
    ) -> rusqlite::Result<Option<Answer>> {
        self.transaction
            .prepare_cached(
                "SELECT fingerprint, answer FROM answers
                 WHERE tenant_id = ?1 AND key_name = ?2 AND idempotency_key = ?3",
            )?
            .query_row(params![tenant_id, key_name, idempotency_key], |row| {
                Ok(Answer { fingerprint: row.get(0)?, answer: Bytes::from(row.get::<_, Vec<u8>>(1)?) })
            })
            .optional()
    }

    fn approval(&self, tenant_id: &str, id: &str) -> rusqlite::Result<Option<ApprovalStanding>> {
        self.transaction
            .prepare_cached(
                "SELECT deadline, approved, spent FROM approvals WHERE tenant_id = ?1 AND id = ?2",
            )?
            .query_row(params![tenant_id, id], |row| {
                Ok(ApprovalStanding { deadline: row.get(0)?, approved: row.get(1)?, spent: row.get(2)? })
            })
            .optional()
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
            Effect::Open(approval) => {
                self.transaction
                    .prepare_cached(
                        "INSERT INTO approvals (tenant_id, id, action_hash, tool, resource, args, goal, agent_id,
                         user_id, reason_code, created_at, deadline)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
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
                        approval.deadline
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
                        "INSERT OR REPLACE INTO credentials (tenant_id, tool_id, id, sealed, set_at, expires_at)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
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
        once: &Once,
        answer: &Bytes,
    ) -> rusqlite::Result<()> {
        self.bytes += answer.len();
        self.transaction
            .prepare_cached(
                "INSERT INTO answers (tenant_id, key_name, idempotency_key, fingerprint, answer)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![tenant_id, key_name, once.idempotency_key, once.fingerprint, answer.as_ref()])?;
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
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl Readers {
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _permit = self.permits.acquire().await.map_err(|_| StoreError::Unavailable)?;
        let readers = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            let idle = readers.idle().pop();
            let connection = idle.map_or_else(|| connect_reader(&readers.path), Ok)?;
            let value = read(&connection)?;
            readers.idle().push(connection);
            Ok::<_, rusqlite::Error>(value)
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
        .prepare_cached("SELECT revoked, used FROM passports WHERE tenant_id = ?1 AND jti = ?2")?
        .query_row(params![tenant_id, jti], |row| Ok(Standing { revoked: row.get(0)?, used: row.get(1)? }))
        .optional()
}

fn find_approval(connection: &Connection, tenant_id: &str, id: &str) -> rusqlite::Result<Option<Approval>> {
    connection
        .prepare_cached(&format!("{APPROVAL} AND id = ?2"))?
        .query_row(params![tenant_id, id], approval_of)
        .optional()
}

fn approval_of(row: &Row<'_>) -> rusqlite::Result<Approval> {
    let decided = match row.get(11)? {
        None => None,
        Some(approved) => Some(Decided { approved, by: row.get(12)?, at: row.get(13)?, note: row.get(14)? }),
    };
    Ok(Approval {
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
    })
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
