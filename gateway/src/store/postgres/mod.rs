//! The ledger in a PostgreSQL database, which several gateways may share.
//!
//! Each gateway has one task that writes. It takes everything that waits, runs it as one transaction, and answers only
//! after the commit. A transaction locks the chains, passports and approvals that it is about, always in one order, so
//! that gateways take turns; then it is decided in memory what each append comes to, as over every store; then all of it
//! is written. That is three exchanges with the server, however many appends share them.

mod database;
mod rows;
mod schema;

use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::future::{try_join_all, try_join3};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Row, Statement};

pub use self::database::{Database, Trust};
use self::rows::{Loaded, LoadedApproval, LoadedPassport, Needs};
use super::batch::{Answer, ApprovalStanding, Batch};
use super::queue::{self, Job, Jobs, Round};
use super::{Append, Appended, Approval, Decided, Rotation, Standing, Store, StoreError, StoredEvent};
use crate::ledger::{GENESIS, Head};
use crate::passport::SealedKey;

/// How many connections read at once at most.
const READERS: usize = 4;

/// How long a batch may take, with all that is tried again. Less than a request waits.
const DEADLINE: Duration = Duration::from_secs(12);

/// How often a batch that certainly left nothing behind is tried.
const ATTEMPTS: u32 = 5;

/// How long to wait before a batch is tried again, at first; twice as long each time.
const PAUSE: Duration = Duration::from_millis(5);

/// How long to wait before connecting is tried again, at first and at most.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How many events, and how many bytes of them, [`Store::events`] hands out at once.
const PAGE_EVENTS: i64 = 512;
const PAGE_BYTES: i64 = 1 << 20;

/// How many bytes of events go to the server in one statement.
const INSERT_BYTES: usize = 4 << 20;

/// What a connection is told before anything else. What waits for a lock that another gateway holds gives up before its
/// batch has to; and who holds locks and falls silent loses them.
const SESSION: &str = "
SET client_min_messages = warning;
SET statement_timeout = '10s';
SET lock_timeout = '5s';
SET idle_in_transaction_session_timeout = '5s';
SELECT set_config('synchronous_commit', 'on', false)
WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply');
";

/// Statements look up a few rows in tables that grow fast, by their keys. A plan that was made while a table was small
/// must not read all of it later.
const PLANS: &str = "
SET plan_cache_mode = force_generic_plan;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_seqscan = off;
";

/// The columns that [`approval_of`] reads.
const APPROVAL: &str =
    "SELECT id, action_hash, tool, resource, args, goal, agent_id, user_id, reason_code, created_at,
    deadline, approved, decided_by, decided_at, note, spent FROM actpass.approvals WHERE tenant_id = $1";

/// The ledger in a PostgreSQL database; see [`PostgresStore::open`].
#[derive(Debug)]
pub struct PostgresStore {
    jobs: Jobs,
    readers: Readers,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// Why a database cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Its texts are not UTF-8.
    #[error("{0}: has the encoding {1}; expected UTF8")]
    Encoding(String, String),
    /// A newer version of the gateway made its tables.
    #[error(
        "{0}: has schema version {1}; this gateway knows versions up to {max}, so use a newer one",
        max = schema::SCHEMA_VERSION
    )]
    Newer(String, i32),
    /// An older version of the gateway made its tables, or none did.
    #[error("{0}: was made by an older version of the gateway, or by none; start this version on it once")]
    Older(String),
    /// Its tables cannot be made.
    #[error("{0}: the tables cannot be made: {1}")]
    Schema(String, String),
    /// It cannot be reached, or does not let the gateway in.
    #[error("{0}: {1}")]
    Unreachable(String, String),
}

impl PostgresStore {
    /// Connects to the database and makes its tables, in the schema `actpass`, or brings them forward.
    ///
    /// # Errors
    ///
    /// If it cannot be reached or used, or a newer version made its tables.
    pub async fn open(database: Database) -> Result<Self, DatabaseError> {
        let mut client = database.connect().await?;
        warn_of_risks(&client).await;
        schema::bring_forward(&mut client, &database).await?;
        Self::open_beside(database).await
    }

    /// Connects to a database whose tables are there. For what an operator does from the command line.
    ///
    /// # Errors
    ///
    /// As [`PostgresStore::open`]; if its tables are those of another version.
    pub async fn open_beside(database: Database) -> Result<Self, DatabaseError> {
        let server = Arc::new(Server { database, trouble: Mutex::default() });
        let connection = Writing::open(&server).await?;
        let (jobs, queue) = Jobs::new();
        let writer = Writer { server: Arc::clone(&server), connection: Some(connection), failing: false };
        Ok(Self {
            jobs,
            readers: Readers { server, idle: Mutex::default(), permits: Semaphore::new(READERS) },
            writer: Mutex::new(Some(tokio::spawn(writer.run(queue)))),
        })
    }
}

/// As [`super::read_chain`], from a database.
pub(super) async fn read_chain<E: From<super::OpenError>>(
    database: &Database,
    tenant_id: &str,
    chain_id: &str,
    mut each: impl FnMut(&StoredEvent) -> Result<(), E>,
) -> Result<Option<Head>, E> {
    let server = Server { database: database.clone(), trouble: Mutex::default() };
    let failed = |error: tokio_postgres::Error| super::OpenError::from(server.error(&error));
    let reader = Reading::open(&server).await.map_err(super::OpenError::from)?;
    let (tenant_id, chain_id) = (Text(tenant_id), Text(chain_id));
    let found = reader.client.query_opt(&reader.head, &[&tenant_id, &chain_id]).await.map_err(failed)?;
    let Some(head) = found.as_ref().map(head_of).transpose().map_err(failed)? else {
        return Ok(None);
    };
    let (mut after, until) = (0, to_sql(head.length));
    loop {
        let columns: [&(dyn ToSql + Sync); 6] =
            [&tenant_id, &chain_id, &after, &until, &PAGE_EVENTS, &PAGE_BYTES];
        let page = reader.client.query(&reader.events, &columns).await.map_err(failed)?;
        if page.is_empty() {
            return Ok(Some(head));
        }
        for row in &page {
            let event = event_of(row).map_err(failed)?;
            after = to_sql(event.seq);
            each(&event)?;
        }
    }
}

/// What a server is set to loses what it said was committed: an operator should know.
async fn warn_of_risks(client: &Client) {
    let fsync = client.query_one("SELECT current_setting('fsync')", &[]).await;
    if fsync.and_then(|row| row.try_get::<_, String>(0)).is_ok_and(|fsync| fsync != "on") {
        tracing::warn!("the database server has fsync off: what it recorded may not survive a crash");
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn append(&self, append: Append) -> Result<Appended, StoreError> {
        self.jobs.ask(|answer| Job::Append(Box::new(append), answer)).await
    }

    async fn head(&self, tenant_id: &str, chain_id: &str) -> Result<Option<Head>, StoreError> {
        let rows = self.readers.read(|reader| &reader.head, &[&Text(tenant_id), &Text(chain_id)]).await?;
        first(&rows, head_of)
    }

    async fn events(
        &self,
        tenant_id: &str,
        chain_id: &str,
        after: u64,
        until: u64,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let range = (to_sql(after), to_sql(until));
        let rows = self
            .readers
            .read(
                |reader| &reader.events,
                &[&Text(tenant_id), &Text(chain_id), &range.0, &range.1, &PAGE_EVENTS, &PAGE_BYTES],
            )
            .await?;
        all(&rows, event_of)
    }

    async fn approved_manifest(&self, tenant_id: &str, tool_id: &str) -> Result<Option<String>, StoreError> {
        let rows = self.readers.read(|reader| &reader.manifest, &[&Text(tenant_id), &Text(tool_id)]).await?;
        first(&rows, |row| Ok(row.try_get::<_, Kept>(0)?.0))
    }

    async fn passport(&self, tenant_id: &str, jti: &str) -> Result<Option<Standing>, StoreError> {
        let rows = self.readers.read(|reader| &reader.passport, &[&Text(tenant_id), &Text(jti)]).await?;
        first(&rows, |row| Ok(Standing { revoked: row.try_get(0)?, used: row.try_get(1)? }))
    }

    async fn approval(&self, tenant_id: &str, id: &str) -> Result<Option<Approval>, StoreError> {
        let rows = self.readers.read(|reader| &reader.approval, &[&Text(tenant_id), &Text(id)]).await?;
        first(&rows, approval_of)
    }

    async fn pending_approvals(
        &self,
        tenant_id: &str,
        now: i64,
        limit: u32,
    ) -> Result<Vec<Approval>, StoreError> {
        let limit = i64::from(limit);
        let rows = self.readers.read(|reader| &reader.pending, &[&Text(tenant_id), &now, &limit]).await?;
        all(&rows, approval_of)
    }

    async fn signing_keys(&self) -> Result<Vec<SealedKey>, StoreError> {
        let rows = self.readers.read(|reader| &reader.signing_keys, &[]).await?;
        all(&rows, |row| {
            Ok(SealedKey {
                kid: row.try_get(0)?,
                sealed: row.try_get(1)?,
                active: row.try_get(2)?,
                needed_until: row.try_get(3)?,
            })
        })
    }

    async fn add_signing_key(&self, key: SealedKey, rotation: Rotation) -> Result<(), StoreError> {
        self.jobs.ask(|answer| Job::AddKey(Box::new(key), rotation, answer)).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.readers.read(|reader| &reader.nothing, &[]).await?;
        self.jobs.ask(Job::Check).await
    }

    async fn close(&self) {
        if !self.jobs.stop().await {
            return;
        }
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // A writer that panicked was reported by the panic itself; there is nothing left to finish.
            let _ = writer.await;
        }
        self.readers.idle().clear();
    }
}

/// The server, and whether it is worth trying to connect to it.
#[derive(Debug)]
struct Server {
    database: Database,
    trouble: Mutex<Option<Trouble>>,
}

#[derive(Debug)]
struct Trouble {
    error: DatabaseError,
    pause: Duration,
    until: Instant,
}

impl Server {
    /// A connection that is ready for this version's statements. After a failure the next ones fail at once for a while:
    /// what nobody can record is refused sooner than it is waited for.
    async fn connect(&self) -> Result<Client, DatabaseError> {
        if let Some(trouble) = &*self.trouble()
            && Instant::now() < trouble.until
        {
            return Err(trouble.error.clone());
        }
        let connected = self.prepare().await;
        let mut trouble = self.trouble();
        *trouble = connected.as_ref().err().map(|error| {
            let pause = trouble.as_ref().map_or(RECONNECT.0, |last| RECONNECT.1.min(last.pause * 2));
            Trouble { error: error.clone(), pause, until: Instant::now() + pause }
        });
        connected
    }

    async fn prepare(&self) -> Result<Client, DatabaseError> {
        let client = self.database.connect().await?;
        let encoding: Result<String, _> = async {
            client.batch_execute(SESSION).await?;
            client.query_one("SELECT current_setting('server_encoding')", &[]).await?.try_get(0)
        }
        .await;
        match encoding.map_err(|error| self.error(&error))?.as_str() {
            "UTF8" => {}
            other => return Err(DatabaseError::Encoding(self.database.to_string(), other.to_owned())),
        }
        // A newer gateway may have brought the tables forward since the last connection.
        schema::check(&client, &self.database).await?;
        Ok(client)
    }

    fn error(&self, error: &tokio_postgres::Error) -> DatabaseError {
        DatabaseError::Unreachable(self.database.to_string(), describe(error))
    }

    fn trouble(&self) -> MutexGuard<'_, Option<Trouble>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A few connections that only read.
#[derive(Debug)]
struct Readers {
    server: Arc<Server>,
    idle: Mutex<Vec<Reading>>,
    permits: Semaphore,
}

impl Readers {
    async fn read(
        &self,
        statement: fn(&Reading) -> &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let reading = async {
            let _permit = self.permits.acquire().await.map_err(|_| StoreError::Unavailable)?;
            loop {
                let idle = self.idle().pop();
                let was_idle = idle.is_some();
                let reader = match idle {
                    Some(reader) => reader,
                    None => Reading::open(&self.server).await.map_err(|error| {
                        tracing::error!(%error, "the ledger could not be read");
                        StoreError::Unavailable
                    })?,
                };
                match reader.client.query(statement(&reader), parameters).await {
                    Ok(rows) => {
                        self.idle().push(reader);
                        return Ok(rows);
                    }
                    // It was lost while nobody used it, and so may be the other idle ones.
                    Err(_) if was_idle && reader.client.is_closed() => {}
                    Err(error) => {
                        tracing::error!(error = describe(&error), "the ledger could not be read");
                        return Err(StoreError::Unavailable);
                    }
                }
            }
        };
        tokio::time::timeout(DEADLINE, reading).await.unwrap_or_else(|_| {
            tracing::error!("the database did not answer in time");
            Err(StoreError::Unavailable)
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Reading>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that reads.
#[derive(Debug)]
struct Reading {
    client: Client,
    approval: Statement,
    events: Statement,
    head: Statement,
    manifest: Statement,
    nothing: Statement,
    passport: Statement,
    pending: Statement,
    signing_keys: Statement,
}

impl Reading {
    async fn open(server: &Server) -> Result<Self, DatabaseError> {
        let client = server.connect().await?;
        Self::prepare(client).await.map_err(|error| server.error(&error))
    }

    async fn prepare(client: Client) -> Result<Self, tokio_postgres::Error> {
        client.batch_execute(PLANS).await?;
        client.batch_execute("SET default_transaction_read_only = on").await?;
        Ok(Self {
            approval: client.prepare(&format!("{APPROVAL} AND id = $2")).await?,
            // As many as fit a page: those before which there is less than a page.
            events: client
                .prepare(
                    "SELECT seq, event FROM (
                         SELECT seq, event,
                             sum(octet_length(event)) OVER (ORDER BY seq) - octet_length(event) AS before
                         FROM (
                             SELECT seq, event FROM actpass.events
                             WHERE chain = (
                                 SELECT id FROM actpass.chains WHERE tenant_id = $1 AND chain_id = $2
                             ) AND seq > $3 AND seq <= $4
                             ORDER BY seq LIMIT $5
                         ) AS candidates
                     ) AS page WHERE before < $6 ORDER BY seq",
                )
                .await?,
            head: client
                .prepare(
                    "SELECT length, head FROM actpass.chains
                     WHERE tenant_id = $1 AND chain_id = $2 AND length > 0",
                )
                .await?,
            manifest: client
                .prepare("SELECT manifest_hash FROM actpass.manifests WHERE tenant_id = $1 AND tool_id = $2")
                .await?,
            nothing: client.prepare("SELECT 1").await?,
            passport: client
                .prepare("SELECT revoked, used FROM actpass.passports WHERE tenant_id = $1 AND jti = $2")
                .await?,
            pending: client
                .prepare(&format!(
                    "{APPROVAL} AND approved IS NULL AND deadline > $2 ORDER BY deadline, id LIMIT $3"
                ))
                .await?,
            signing_keys: client
                .prepare("SELECT kid, sealed, active, needed_until FROM actpass.signing_keys ORDER BY id")
                .await?,
            client,
        })
    }
}

struct Writer {
    server: Arc<Server>,
    connection: Option<Writing>,
    /// Whether the last transaction failed.
    failing: bool,
}

/// Why nothing may be answered.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// A row is not as it was read, although it is locked.
    #[error("{0} rows were changed where {1} had to be")]
    Changed(u64, usize),
    #[error(transparent)]
    Connect(#[from] DatabaseError),
    /// Working in memory failed.
    #[error("a batch could not be made: {0}")]
    Made(String),
    /// The transaction did not take place.
    #[error("{}", describe(.0))]
    Undone(#[from] tokio_postgres::Error),
    /// The transaction may have taken place.
    #[error("it is not known whether a batch was recorded, and none of it was answered: {}", describe(.0))]
    Unknown(tokio_postgres::Error),
}

impl Failure {
    /// Whether it certainly left nothing behind and may go well the next time.
    fn is_passing(&self) -> bool {
        let Self::Undone(error) = self else {
            return false;
        };
        match error.code() {
            None => error.is_closed() || error.source().is_some_and(|source| source.is::<std::io::Error>()),
            Some(code) => [
                // The server was restarted, or an administrator ended the connection.
                SqlState::ADMIN_SHUTDOWN,
                SqlState::CRASH_SHUTDOWN,
                // Another gateway was first.
                SqlState::T_R_DEADLOCK_DETECTED,
                SqlState::T_R_SERIALIZATION_FAILURE,
                SqlState::UNIQUE_VIOLATION,
            ]
            .contains(code),
        }
    }
}

impl Writer {
    /// Works until told to stop, or until nobody is left to ask for anything.
    async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.recv().await {
            let Round { keys, appends, answers, checks } = Round::gather(first, &mut queue);
            for (key, rotation, answer) in keys {
                let added = self.in_time(async |writer| writer.add_key(&key, rotation).await).await;
                let _ = answer.send(added.ok_or(StoreError::Unavailable));
            }
            if !appends.is_empty() {
                let outcomes = self.in_time(async |writer| writer.transact(appends).await).await;
                self.failing = outcomes.is_none();
                queue::answer_all(answers, outcomes);
            }
            if !checks.is_empty() {
                let works = self.in_time(async |writer| writer.check().await).await;
                for answer in checks {
                    let _ = answer.send(works.ok_or(StoreError::Unavailable));
                }
            }
        }
    }

    /// What comes of `job`. A connection that it left in the middle of something is not used again.
    async fn in_time<T>(&mut self, job: impl AsyncFnOnce(&mut Self) -> Result<T, Failure>) -> Option<T> {
        match tokio::time::timeout(DEADLINE, job(self)).await {
            Ok(Ok(done)) => return Some(done),
            Ok(Err(error)) => tracing::error!(%error, "the ledger could not be written"),
            Err(_) => tracing::error!("the database did not answer in time"),
        }
        self.connection = None;
        None
    }

    async fn connected(&mut self) -> Result<&mut Writing, DatabaseError> {
        let usable = self.connection.take().filter(|connection| !connection.client.is_closed());
        let connection = match usable {
            Some(connection) => connection,
            None => Writing::open(&self.server).await?,
        };
        Ok(self.connection.insert(connection))
    }

    /// Runs all of `appends` in one transaction, and again if another gateway or a lost connection undid it.
    async fn transact(&mut self, appends: Vec<Append>) -> Result<Vec<Result<Appended, StoreError>>, Failure> {
        let mut attempt = 1;
        loop {
            let connection = self.connected().await?;
            let failure = match connection.transact(appends.clone()).await {
                Ok(outcomes) => return Ok(outcomes),
                Err(failure) => failure,
            };
            // What the connection was in the middle of ends with it.
            self.connection = None;
            if attempt == ATTEMPTS || !failure.is_passing() {
                return Err(failure);
            }
            tracing::warn!(error = %failure, attempt, "a batch is tried again");
            tokio::time::sleep(PAUSE * 2_u32.pow(attempt)).await;
            attempt += 1;
        }
    }

    async fn add_key(&mut self, key: &SealedKey, rotation: Rotation) -> Result<(), Failure> {
        let transaction = self.connected().await?.client.transaction().await?;
        // Two gateways that start at once on a new database make one key.
        transaction.batch_execute("LOCK TABLE actpass.signing_keys IN SHARE ROW EXCLUSIVE MODE").await?;
        let others: i64 =
            transaction.query_one("SELECT count(*) FROM actpass.signing_keys", &[]).await?.try_get(0)?;
        if rotation == Rotation::Next || others == 0 {
            transaction.execute("UPDATE actpass.signing_keys SET active = false", &[]).await?;
            transaction
                .execute(
                    "INSERT INTO actpass.signing_keys (kid, sealed, active, needed_until)
                     VALUES ($1, $2, $3, $4)",
                    &[&key.kid, &key.sealed, &key.active, &key.needed_until],
                )
                .await?;
        }
        Ok(transaction.commit().await?)
    }

    /// After a failure only a write can tell whether writing works again.
    async fn check(&mut self) -> Result<(), Failure> {
        let failing = self.failing;
        let connection = self.connected().await?;
        match failing {
            true => connection.client.execute(&connection.touch, &[]).await?,
            false => connection.client.execute("SELECT 1", &[]).await?,
        };
        self.failing = false;
        Ok(())
    }
}

/// The connection that writes.
#[derive(Debug)]
struct Writing {
    client: Client,
    answers: Statement,
    approvals: Statement,
    change_approvals: Statement,
    change_passports: Statement,
    chains: Statement,
    clock: Statement,
    insert_events: Statement,
    insert_passports: Statement,
    keep_answers: Statement,
    keep_manifests: Statement,
    make_chains: Statement,
    need_keys: Statement,
    open_approval: Statement,
    passports: Statement,
    save_heads: Statement,
    touch: Statement,
}

impl Writing {
    async fn open(server: &Server) -> Result<Self, DatabaseError> {
        let client = server.connect().await?;
        Self::prepare(client).await.map_err(|error| server.error(&error))
    }

    async fn prepare(client: Client) -> Result<Self, tokio_postgres::Error> {
        client.batch_execute(PLANS).await?;
        Ok(Self {
            answers: client
                .prepare(
                    "SELECT tenant_id, key_name, idempotency_key, fingerprint, answer FROM actpass.answers
                     JOIN unnest($1::text[], $2::text[], $3::text[])
                         AS wanted (tenant_id, key_name, idempotency_key)
                         USING (tenant_id, key_name, idempotency_key)",
                )
                .await?,
            approvals: client
                .prepare(
                    "SELECT tenant_id, id, deadline, approved, spent FROM actpass.approvals
                     JOIN unnest($1::text[], $2::text[]) AS wanted (tenant_id, id) USING (tenant_id, id)
                     ORDER BY tenant_id, id FOR UPDATE OF approvals",
                )
                .await?,
            change_approvals: client
                .prepare(
                    "UPDATE actpass.approvals
                     SET approved = coalesce(approvals.approved, change.approved),
                         decided_by = coalesce(approvals.decided_by, change.decided_by),
                         decided_at = coalesce(approvals.decided_at, change.decided_at),
                         note = coalesce(approvals.note, change.note),
                         spent = change.spent
                     FROM unnest($1::text[], $2::text[], $3::boolean[], $4::text[], $5::bigint[], $6::text[],
                         $7::boolean[]) AS change (tenant_id, id, approved, decided_by, decided_at, note, spent)
                     WHERE approvals.tenant_id = change.tenant_id AND approvals.id = change.id",
                )
                .await?,
            change_passports: client
                .prepare(
                    "UPDATE actpass.passports SET revoked = change.revoked, used = change.used
                     FROM unnest($1::text[], $2::text[], $3::boolean[], $4::boolean[])
                         AS change (tenant_id, jti, revoked, used)
                     WHERE passports.tenant_id = change.tenant_id AND passports.jti = change.jti",
                )
                .await?,
            chains: client
                .prepare(
                    "SELECT tenant_id, chain_id, id, length, head FROM actpass.chains
                     JOIN unnest($1::text[], $2::text[]) AS wanted (tenant_id, chain_id)
                         USING (tenant_id, chain_id)
                     ORDER BY id FOR UPDATE OF chains",
                )
                .await?,
            clock: client.prepare("SELECT clock_timestamp()").await?,
            insert_events: client
                .prepare(
                    "INSERT INTO actpass.events (chain, seq, event)
                     SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[])",
                )
                .await?,
            insert_passports: client
                .prepare(
                    "INSERT INTO actpass.passports (tenant_id, jti, expires_at, revoked, used)
                     SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::boolean[], $5::boolean[])",
                )
                .await?,
            keep_answers: client
                .prepare(
                    "INSERT INTO actpass.answers (tenant_id, key_name, idempotency_key, fingerprint, answer)
                     SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[])",
                )
                .await?,
            keep_manifests: client
                .prepare(
                    "INSERT INTO actpass.manifests (tenant_id, tool_id, manifest_hash)
                     SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
                     ON CONFLICT (tenant_id, tool_id) DO UPDATE SET manifest_hash = excluded.manifest_hash",
                )
                .await?,
            // Nothing is tried for what is there: each try would use up a number.
            make_chains: client
                .prepare(
                    "INSERT INTO actpass.chains (tenant_id, chain_id, length, head)
                     SELECT tenant_id, chain_id, 0, $3 FROM unnest($1::text[], $2::text[])
                         AS wanted (tenant_id, chain_id)
                     WHERE NOT EXISTS (
                         SELECT FROM actpass.chains
                         WHERE chains.tenant_id = wanted.tenant_id AND chains.chain_id = wanted.chain_id
                     )
                     ORDER BY tenant_id COLLATE \"C\", chain_id COLLATE \"C\" ON CONFLICT DO NOTHING",
                )
                .await?,
            need_keys: client
                .prepare(
                    "UPDATE actpass.signing_keys SET needed_until = needed.until
                     FROM unnest($1::text[], $2::bigint[]) AS needed (kid, until)
                     WHERE signing_keys.kid = needed.kid AND signing_keys.needed_until < needed.until",
                )
                .await?,
            open_approval: client
                .prepare(
                    "INSERT INTO actpass.approvals (tenant_id, id, action_hash, tool, resource, args, goal,
                         agent_id, user_id, reason_code, created_at, deadline)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
                )
                .await?,
            passports: client
                .prepare(
                    "SELECT tenant_id, jti, revoked, used FROM actpass.passports
                     JOIN unnest($1::text[], $2::text[]) AS wanted (tenant_id, jti) USING (tenant_id, jti)
                     ORDER BY tenant_id, jti FOR UPDATE OF passports",
                )
                .await?,
            save_heads: client
                .prepare(
                    "UPDATE actpass.chains SET length = new.length, head = new.head
                     FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS new (id, length, head)
                     WHERE chains.id = new.id",
                )
                .await?,
            touch: client
                .prepare(
                    "UPDATE actpass.chains SET length = length
                     WHERE id = (SELECT id FROM actpass.chains ORDER BY id LIMIT 1)",
                )
                .await?,
            client,
        })
    }

    async fn transact(&self, appends: Vec<Append>) -> Result<Vec<Result<Appended, StoreError>>, Failure> {
        let (now, loaded) = self.load(&Needs::of(&appends)).await?;
        // Hashing a large batch takes long enough to hold up connections.
        let made = tokio::task::spawn_blocking(move || {
            let mut batch = Batch::new(loaded, now);
            let outcomes =
                appends.into_iter().map(|append| batch.append(append)).collect::<Result<_, _>>()?;
            Ok::<_, rows::NotLoaded>((outcomes, batch.finish()?))
        });
        let (outcomes, loaded) = made
            .await
            .map_err(|error| Failure::Made(error.to_string()))?
            .map_err(|error| Failure::Made(error.to_string()))?;
        self.write(&loaded).await?;
        self.commit().await?;
        Ok(outcomes)
    }

    /// Begins the transaction and locks and reads what it is about: one exchange, in which the server takes one statement
    /// after the other. Every gateway locks chains, then passports, then approvals, and each of them in one order.
    async fn load(&self, needs: &Needs) -> Result<(SystemTime, Loaded), tokio_postgres::Error> {
        let chains: (Vec<_>, Vec<_>) = needs.chains.iter().map(|(t, c)| (Text(t), Text(c))).unzip();
        let passports: (Vec<_>, Vec<_>) = needs.passports.iter().map(|(t, j)| (Text(t), Text(j))).unzip();
        let approvals: (Vec<_>, Vec<_>) = needs.approvals.iter().map(|(t, i)| (Text(t), Text(i))).unzip();
        let mut asked = (Vec::new(), Vec::new(), Vec::new());
        for (tenant_id, key_name, key) in &needs.answers {
            asked.0.push(Text(tenant_id));
            asked.1.push(Text(key_name));
            asked.2.push(Text(key));
        }
        type Columns<'a, const N: usize> = [&'a (dyn ToSql + Sync); N];
        let make_chains: Columns<'_, 3> = [&chains.0, &chains.1, &GENESIS];
        let passport_columns: Columns<'_, 2> = [&passports.0, &passports.1];
        let approval_columns: Columns<'_, 2> = [&approvals.0, &approvals.1];
        let asked_columns: Columns<'_, 3> = [&asked.0, &asked.1, &asked.2];
        let client = &self.client;
        let (_, _, chains, passports, approvals, answers, now) = tokio::try_join!(
            biased;
            client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"),
            client.execute(&self.make_chains, &make_chains),
            client.query(&self.chains, &make_chains[..2]),
            unless(passports.0.is_empty(), client.query(&self.passports, &passport_columns)),
            unless(approvals.0.is_empty(), client.query(&self.approvals, &approval_columns)),
            unless(asked.0.is_empty(), client.query(&self.answers, &asked_columns)),
            // The server's clock, so that a chain that many gateways write to has one.
            client.query_one(&self.clock, &[]),
        )?;
        let mut loaded = Loaded::default();
        for row in chains {
            let head = Head { length: from_sql(row.try_get(3)?), hash: row.try_get(4)? };
            loaded.chains.insert(name_of(&row)?, (row.try_get(2)?, head));
        }
        for row in passports {
            let standing = Standing { revoked: row.try_get(2)?, used: row.try_get(3)? };
            let passport = LoadedPassport { standing, issued: None, is_changed: false };
            loaded.passports.insert(name_of(&row)?, passport);
        }
        for row in approvals {
            let standing = ApprovalStanding {
                deadline: row.try_get(2)?,
                approved: row.try_get(3)?,
                spent: row.try_get(4)?,
            };
            let approval = LoadedApproval { standing, decided: None, is_changed: false };
            loaded.approvals.insert(name_of(&row)?, approval);
        }
        for row in answers {
            let (tenant_id, key_name) = name_of(&row)?;
            let asked_by = (tenant_id, key_name.into(), row.try_get::<_, Kept>(2)?.0);
            let answer = Bytes::from(row.try_get::<_, Vec<u8>>(4)?);
            loaded.answers.insert(asked_by, Answer { fingerprint: row.try_get(3)?, answer });
        }
        Ok((now.try_get(0)?, loaded))
    }

    async fn write(&self, loaded: &Loaded) -> Result<(), Failure> {
        tokio::try_join!(
            biased;
            self.insert_events(&loaded.events),
            self.save_heads(loaded),
            self.keep_answers(loaded),
            self.write_passports(loaded),
            self.write_approvals(loaded),
            self.keep_manifests(loaded),
        )?;
        Ok(())
    }

    async fn insert_events(&self, events: &[(i64, i64, String)]) -> Result<(), Failure> {
        let mut columns = (Vec::new(), Vec::new(), Vec::new());
        let mut bytes = 0;
        for (index, (chain, seq, text)) in events.iter().enumerate() {
            columns.0.push(chain);
            columns.1.push(seq);
            columns.2.push(text);
            bytes += text.len();
            if bytes >= INSERT_BYTES || index + 1 == events.len() {
                let (chains, seqs, texts) = std::mem::take(&mut columns);
                self.client.execute(&self.insert_events, &[&chains, &seqs, &texts]).await?;
                bytes = 0;
            }
        }
        Ok(())
    }

    async fn save_heads(&self, loaded: &Loaded) -> Result<(), Failure> {
        let mut columns = (Vec::new(), Vec::new(), Vec::new());
        for (chain, head) in &loaded.heads {
            columns.0.push(chain);
            columns.1.push(to_sql(head.length));
            columns.2.push(&head.hash);
        }
        self.change(&self.save_heads, columns.0.len(), &[&columns.0, &columns.1, &columns.2]).await
    }

    async fn keep_answers(&self, loaded: &Loaded) -> Result<(), Failure> {
        let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (tenant_id, key_name, once) in &loaded.kept {
            columns.0.push(Text(tenant_id));
            columns.1.push(Text(key_name));
            columns.2.push(Text(&once.idempotency_key));
            columns.3.push(once.fingerprint.as_slice());
            columns.4.push(once.answer.as_ref());
        }
        let (t, k, i, f, a) = (&columns.0, &columns.1, &columns.2, &columns.3, &columns.4);
        self.change(&self.keep_answers, t.len(), &[t, k, i, f, a]).await
    }

    async fn write_passports(&self, loaded: &Loaded) -> Result<(), Failure> {
        let mut issued = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut changed = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for ((tenant_id, jti), passport) in &loaded.passports {
            let (tenant_id, jti, standing) = (Text(tenant_id), Text(jti), passport.standing);
            if let Some(expires_at) = passport.issued {
                issued.0.push(tenant_id);
                issued.1.push(jti);
                issued.2.push(expires_at);
                issued.3.push(standing.revoked);
                issued.4.push(standing.used);
            } else if passport.is_changed {
                changed.0.push(tenant_id);
                changed.1.push(jti);
                changed.2.push(standing.revoked);
                changed.3.push(standing.used);
            }
        }
        let issued_columns: [&(dyn ToSql + Sync); 5] =
            [&issued.0, &issued.1, &issued.2, &issued.3, &issued.4];
        let changed_columns: [&(dyn ToSql + Sync); 4] = [&changed.0, &changed.1, &changed.2, &changed.3];
        let (mut kids, mut until) = (Vec::new(), Vec::new());
        for (kid, needed) in &loaded.needed {
            kids.push(kid);
            until.push(needed);
        }
        let need = async {
            if !kids.is_empty() {
                self.client.execute(&self.need_keys, &[&kids, &until]).await?;
            }
            Ok::<_, Failure>(())
        };
        let insert = self.change(&self.insert_passports, issued.0.len(), &issued_columns);
        let update = self.change(&self.change_passports, changed.0.len(), &changed_columns);
        try_join3(insert, update, need).await?;
        Ok(())
    }

    async fn write_approvals(&self, loaded: &Loaded) -> Result<(), Failure> {
        try_join_all(
            loaded.opened.iter().map(|(tenant_id, approval)| self.open_approval(tenant_id, approval)),
        )
        .await?;
        let mut columns =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for ((tenant_id, id), approval) in loaded.approvals.iter().filter(|(_, found)| found.is_changed) {
            let decided = approval.decided.as_ref();
            columns.0.push(Text(tenant_id));
            columns.1.push(Text(id));
            columns.2.push(decided.map(|decided| decided.approved));
            columns.3.push(decided.map(|decided| Text(&decided.by)));
            columns.4.push(decided.map(|decided| decided.at));
            columns.5.push(decided.and_then(|decided| decided.note.as_deref()).map(Text));
            columns.6.push(approval.standing.spent);
        }
        let (t, i, a, b, at, n, s) =
            (&columns.0, &columns.1, &columns.2, &columns.3, &columns.4, &columns.5, &columns.6);
        self.change(&self.change_approvals, t.len(), &[t, i, a, b, at, n, s]).await
    }

    async fn open_approval(&self, tenant_id: &str, approval: &Approval) -> Result<(), Failure> {
        self.client
            .execute(
                &self.open_approval,
                &[
                    &Text(tenant_id),
                    &Text(&approval.id),
                    &approval.action_hash,
                    &Text(&approval.tool),
                    &approval.resource.as_deref().map(Text),
                    &Text(&approval.args),
                    &Text(&approval.goal),
                    &approval.agent_id.as_deref().map(Text),
                    &approval.user_id.as_deref().map(Text),
                    &Text(&approval.reason_code),
                    &approval.created_at,
                    &approval.deadline,
                ],
            )
            .await?;
        Ok(())
    }

    async fn keep_manifests(&self, loaded: &Loaded) -> Result<(), Failure> {
        let mut columns = (Vec::new(), Vec::new(), Vec::new());
        for ((tenant_id, tool_id), hash) in &loaded.manifests {
            columns.0.push(Text(tenant_id));
            columns.1.push(Text(tool_id));
            columns.2.push(Text(hash));
        }
        self.change(&self.keep_manifests, columns.0.len(), &[&columns.0, &columns.1, &columns.2]).await
    }

    /// Runs a statement that must touch `rows` rows, unless there are none.
    async fn change(
        &self,
        statement: &Statement,
        rows: usize,
        columns: &[&(dyn ToSql + Sync)],
    ) -> Result<(), Failure> {
        if rows == 0 {
            return Ok(());
        }
        let changed = self.client.execute(statement, columns).await?;
        match u64::try_from(rows).is_ok_and(|rows| rows == changed) {
            true => Ok(()),
            false => Err(Failure::Changed(changed, rows)),
        }
    }

    /// Only an error that the server itself reports, and after which it goes on, says that nothing was recorded.
    ///
    /// A server that waits for its standbys must not be cut short by the statement's timeout: it would say that the
    /// transaction is committed, on itself alone.
    async fn commit(&self) -> Result<(), Failure> {
        let committed = self.client.batch_execute("SET LOCAL statement_timeout = 0; COMMIT").await;
        committed.map_err(|error| {
            let severity = error.as_db_error().and_then(|error| error.parsed_severity());
            match severity {
                Some(Severity::Error) => Failure::Undone(error),
                _ => Failure::Unknown(error),
            }
        })
    }
}

/// What `query` finds, or nothing without asking.
async fn unless(
    nothing: bool,
    query: impl Future<Output = Result<Vec<Row>, tokio_postgres::Error>>,
) -> Result<Vec<Row>, tokio_postgres::Error> {
    if nothing { Ok(Vec::new()) } else { query.await }
}

/// What went wrong, for the log: the server's message without its details, which can hold what clients sent.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => format!("{}: {} ({})", said.severity(), said.message(), said.code().code()),
        None => match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

fn first<T>(
    rows: &[Row],
    read: impl Fn(&Row) -> Result<T, tokio_postgres::Error>,
) -> Result<Option<T>, StoreError> {
    rows.first().map(read).transpose().map_err(|error| unreadable(&error))
}

fn all<T>(
    rows: &[Row],
    read: impl Fn(&Row) -> Result<T, tokio_postgres::Error>,
) -> Result<Vec<T>, StoreError> {
    rows.iter().map(read).collect::<Result<_, _>>().map_err(|error| unreadable(&error))
}

fn unreadable(error: &tokio_postgres::Error) -> StoreError {
    tracing::error!(error = describe(error), "the ledger holds what no gateway wrote");
    StoreError::Unavailable
}

/// The tenant and the name in a row's first columns.
fn name_of(row: &Row) -> Result<rows::Name, tokio_postgres::Error> {
    Ok((row.try_get::<_, Kept>(0)?.0.into(), row.try_get::<_, Kept>(1)?.0))
}

fn head_of(row: &Row) -> Result<Head, tokio_postgres::Error> {
    Ok(Head { length: from_sql(row.try_get(0)?), hash: row.try_get(1)? })
}

fn event_of(row: &Row) -> Result<StoredEvent, tokio_postgres::Error> {
    Ok(StoredEvent { seq: from_sql(row.try_get(0)?), text: row.try_get(1)? })
}

fn approval_of(row: &Row) -> Result<Approval, tokio_postgres::Error> {
    let text = |column: usize| Ok(row.try_get::<_, Kept>(column)?.0);
    let optional = |column: usize| Ok(row.try_get::<_, Option<Kept>>(column)?.map(|kept| kept.0));
    let decided = match row.try_get(11)? {
        None => None,
        Some(approved) => {
            Some(Decided { approved, by: text(12)?, at: row.try_get(13)?, note: optional(14)? })
        }
    };
    Ok(Approval {
        id: text(0)?,
        action_hash: row.try_get(1)?,
        tool: text(2)?,
        resource: optional(3)?,
        args: text(4)?,
        goal: text(5)?,
        agent_id: optional(6)?,
        user_id: optional(7)?,
        reason_code: text(8)?,
        created_at: row.try_get(9)?,
        deadline: row.try_get(10)?,
        decided,
        spent: row.try_get(15)?,
    })
}

/// Text as it is kept: PostgreSQL has no U+0000 in its texts, and clients may send it.
///
/// A backslash and a zero stand for it, and two backslashes for one.
#[derive(Clone, Copy, Debug)]
struct Text<'a>(&'a str);

impl ToSql for Text<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self.0.contains(['\\', '\0']) {
            true => self.0.replace('\\', "\\\\").replace('\0', "\\0").to_sql(ty, out),
            false => self.0.to_sql(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        <&str as ToSql>::accepts(ty)
    }

    to_sql_checked!();
}

/// What [`Text`] kept.
struct Kept(String);

impl<'a> FromSql<'a> for Kept {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let kept = <&str as FromSql>::from_sql(ty, raw)?;
        if !kept.contains('\\') {
            return Ok(Self(kept.to_owned()));
        }
        let mut text = String::with_capacity(kept.len());
        let mut characters = kept.chars();
        while let Some(character) = characters.next() {
            text.push(match character {
                '\\' => match characters.next() {
                    Some('0') => '\0',
                    Some('\\') => '\\',
                    Some(_) | None => return Err("a backslash stands alone".into()),
                },
                other => other,
            });
        }
        Ok(Self(text))
    }

    fn accepts(ty: &Type) -> bool {
        <&str as FromSql>::accepts(ty)
    }
}

/// PostgreSQL's integers are signed; no chain comes near their end.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
