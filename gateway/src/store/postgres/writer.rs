//! The write connection.

use std::collections::{BTreeSet, HashSet};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::{try_join_all, try_join3};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::super::batch::Batch;
use super::super::error::{DatabaseError, StoreError};
use super::super::kept::KeptChange;
use super::super::lookup::delegation_marker;
use super::super::outbox::OutboxChange;
use super::super::proof::StoredResponse;
use super::super::queue::{self, Append, Job, JobBatch};
use super::super::sessions::SessionChange;
use super::super::{PassportState, Rotation, SealedKey, WriteTimings};
use super::budgets::BudgetStatements;
use super::halts::{self, HALT_LOCK_ID, HaltStatements};
use super::keys::{self, BatchKeys};
use super::reader::{approval_columns, approval_of, decisions_of, passport_standing};
use super::rows::{Loaded, LoadedApproval, LoadedPassport};
use super::schema::{member, of_approval, of_passport, spends, spends_passport};
use super::text::{StoredText, Text};
use super::{BATCH_DEADLINE, PLANNER_SETTINGS, Server, describe, from_sql, kept, outbox, sessions, to_sql};
use crate::approvals::Approval;
use crate::clock::{Clock, parse_millis};
use crate::halts::{ActiveHalts, KnownHalts};
use crate::ledger::{DECISIONS, GENESIS, Head};

/// Maximum number of attempts of a batch that certainly left nothing behind.
const MAX_ATTEMPTS: u32 = 5;

/// Initial retry delay; doubles with each attempt.
const RETRY_DELAY: Duration = Duration::from_millis(5);

/// Maximum bytes of events per statement.
const INSERT_BYTES: usize = 4 << 20;

/// Expired responses removed after a batch, in addition to as many as it added.
const MIN_PRUNED: usize = 64;

/// Bytes written by a health check: more than a typical decision.
const PROBE_BYTES: usize = 96 * 1024;

/// Begins the transaction of a batch.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// Begins the transaction of a batch that changes halts. It waits for batches of all gateways. One of
/// a gateway that was cut off ends after the idle timeout of its session.
const BEGIN_HALT: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = '9s'";

/// The writer task; it executes one batch at a time.
pub(super) struct Writer {
    server: Arc<Server>,
    connection: Option<WriteConnection>,
    clock: Clock,
    halts: KnownHalts,
    /// Whether the missing DELETE privilege was logged.
    cannot_prune: bool,
    /// Whether the missing UPDATE privilege was logged.
    cannot_probe: bool,
    timings: WriteTimings,
}

/// Failure of a batch.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// A locked row changed unexpectedly.
    #[error("{0} rows were changed, expected {1}")]
    Changed(u64, usize),
    #[error(transparent)]
    Connect(#[from] DatabaseError),
    /// Computing the batch failed.
    #[error("computing a batch failed: {0}")]
    Made(String),
    /// The row with the halt epoch is missing.
    #[error("the table actpass.halt_state has no row")]
    NoEpoch,
    /// The transaction was rolled back.
    #[error("{}", describe(.0))]
    Undone(#[from] tokio_postgres::Error),
    /// The transaction may have been committed.
    #[error("the outcome of a commit is unknown, no response was sent: {}", describe(.0))]
    Unknown(tokio_postgres::Error),
}

impl Failure {
    /// Returns whether the batch certainly left nothing behind and a retry may succeed.
    fn is_transient(&self) -> bool {
        let Self::Undone(error) = self else {
            return false;
        };
        match error.code() {
            None => error.is_closed() || error.source().is_some_and(|source| source.is::<std::io::Error>()),
            Some(code) => [
                // The server was restarted, or an administrator closed the connection.
                SqlState::ADMIN_SHUTDOWN,
                SqlState::CRASH_SHUTDOWN,
                // Conflict with another gateway.
                SqlState::T_R_DEADLOCK_DETECTED,
                SqlState::T_R_SERIALIZATION_FAILURE,
                SqlState::UNIQUE_VIOLATION,
            ]
            .contains(code),
        }
    }
}

impl Writer {
    /// Connects a writer.
    pub(super) async fn open(
        server: Arc<Server>,
        clock: Clock,
        halts: KnownHalts,
        timings: WriteTimings,
    ) -> Result<Self, DatabaseError> {
        let connection = Some(WriteConnection::open(&server).await?);
        Ok(Self { server, connection, clock, halts, cannot_prune: false, cannot_probe: false, timings })
    }

    /// Runs until stopped or until all senders are gone.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.recv().await {
            let JobBatch { keys, appends, checks, kept, outbox, sessions } =
                JobBatch::collect_jobs(first, &mut queue);
            for (key, rotation, response) in keys {
                let added = self.with_timeout(async |writer| writer.add_key(&key, rotation).await).await;
                let _ = response.send(added.ok_or(StoreError::Unavailable));
            }
            if !appends.is_empty() {
                let added = appends.len();
                if let Some(committed) =
                    self.with_timeout(async |writer| writer.transact(appends).await).await
                {
                    queue::reply_all(committed);
                    self.prune(added).await;
                }
            }
            for (change, response) in sessions {
                let done = self.with_timeout(async |writer| writer.change_session(&change).await).await;
                let _ = response.send(done.ok_or(StoreError::Unavailable));
            }
            for (change, response) in kept {
                let done = self.with_timeout(async |writer| writer.change_kept(&change).await).await;
                let _ = response.send(done.ok_or(StoreError::Unavailable));
            }
            for (change, response) in outbox {
                let done = self.with_timeout(async |writer| writer.change_outbox(&change).await).await;
                let _ = response.send(done.ok_or(StoreError::Unavailable));
            }
            if !checks.is_empty() {
                let works = self.with_timeout(async |writer| writer.check().await).await;
                for response in checks {
                    let _ = response.send(works.ok_or(StoreError::Unavailable));
                }
            }
        }
    }

    /// Runs `job` with the batch deadline. A connection left in an unknown state is discarded.
    async fn with_timeout<T>(&mut self, job: impl AsyncFnOnce(&mut Self) -> Result<T, Failure>) -> Option<T> {
        match tokio::time::timeout(BATCH_DEADLINE, job(self)).await {
            Ok(Ok(done)) => return Some(done),
            Ok(Err(error)) => tracing::error!(%error, "writing to the ledger failed"),
            Err(_) => tracing::error!("database operation timed out"),
        }
        self.connection = None;
        None
    }

    async fn connected(&mut self) -> Result<&mut WriteConnection, DatabaseError> {
        let usable = self.connection.take().filter(|connection| !connection.client.is_closed());
        let connection = match usable {
            Some(connection) => connection,
            None => WriteConnection::open(&self.server).await?,
        };
        Ok(self.connection.insert(connection))
    }

    /// Runs `appends` in one transaction, with retries if another gateway or a lost connection
    /// rolled it back. Sets their outcomes.
    async fn transact(&mut self, mut appends: Vec<Append>) -> Result<Vec<Append>, Failure> {
        let clock = self.clock.clone();
        let timings = self.timings.clone();
        let mut attempt = 1;
        loop {
            let begun = Instant::now();
            let connection = self.connected().await?;
            let failure = match connection.transact(&mut appends, &clock, &timings).await {
                Ok(halts) => {
                    self.timings.batch(begun, appends.len());
                    self.halts.publish(&halts);
                    return Ok(appends);
                }
                Err(failure) => failure,
            };
            // Closing the connection ends its transaction.
            self.connection = None;
            if attempt == MAX_ATTEMPTS || !failure.is_transient() {
                return Err(failure);
            }
            tracing::warn!(error = %failure, attempt, "retrying a batch");
            tokio::time::sleep(RETRY_DELAY * 2_u32.pow(attempt)).await;
            attempt += 1;
        }
    }

    async fn add_key(&mut self, key: &SealedKey, rotation: Rotation) -> Result<(), Failure> {
        let transaction = self.connected().await?.client.transaction().await?;
        // Two gateways that start concurrently on a new database create one key.
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

    async fn change_session(&mut self, change: &SessionChange) -> Result<bool, Failure> {
        Ok(sessions::change(&mut self.connected().await?.client, change).await?)
    }

    async fn change_kept(&mut self, change: &KeptChange) -> Result<u64, Failure> {
        Ok(kept::change(&self.connected().await?.client, change).await?)
    }

    async fn change_outbox(&mut self, change: &OutboxChange) -> Result<bool, Failure> {
        Ok(outbox::change(&mut self.connected().await?.client, change).await?)
    }

    /// Checks writability by writing as much as a decision.
    async fn check(&mut self) -> Result<(), Failure> {
        if !self.cannot_probe {
            let mut data = vec![0; PROBE_BYTES];
            // Incompressible bytes; zeros if there is no randomness.
            let _ = getrandom::fill(&mut data);
            let connection = self.connected().await?;
            match connection.client.execute(&connection.probe, &[&data]).await {
                Ok(_) => return Ok(()),
                Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                    tracing::warn!(
                        "missing privilege UPDATE on actpass.probe: health checks write less than decisions"
                    );
                    self.cannot_probe = true;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let connection = self.connected().await?;
        connection.client.execute(&connection.touch, &[]).await?;
        Ok(())
    }

    /// Removes some expired responses in the background.
    async fn prune(&mut self, added: usize) {
        if self.cannot_prune {
            return;
        }
        let (now, limit) = (self.clock.seconds(), MIN_PRUNED.max(2 * added));
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let Some(connection) = &self.connection else { return };
        let columns: [&(dyn ToSql + Sync); 2] = [&now, &limit];
        let pruning = connection.client.execute(&connection.prune, &columns);
        match tokio::time::timeout(BATCH_DEADLINE, pruning).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                tracing::warn!(
                    "missing privilege DELETE on actpass.answers: expired responses are not removed"
                );
                self.cannot_prune = true;
            }
            Ok(Err(error)) => tracing::warn!(error = describe(&error), "removing expired responses failed"),
            Err(_) => self.connection = None,
        }
    }
}

/// The write connection with prepared statements.
#[derive(Debug)]
struct WriteConnection {
    client: Client,
    budgets: BudgetStatements,
    halts: HaltStatements,
    active_halts: Statement,
    lock_halts: Statement,
    share_halts: Statement,
    deciding_chains: Statement,
    responses: Statement,
    approvals: Statement,
    approvals_for: Statement,
    change_approvals: Statement,
    change_passports: Statement,
    chains: Statement,
    clock: Statement,
    credentials: Statement,
    delegations: Statement,
    insert_events: Statement,
    insert_passports: Statement,
    store_responses: Statement,
    keep: Statement,
    keep_manifests: Statement,
    lock: Statement,
    make_chains: Statement,
    manifests: Statement,
    need_keys: Statement,
    open_approval: Statement,
    passports: Statement,
    probe: Statement,
    prune: Statement,
    remove_credentials: Statement,
    save_heads: Statement,
    set_credentials: Statement,
    touch: Statement,
}

impl WriteConnection {
    async fn open(server: &Server) -> Result<Self, DatabaseError> {
        let client = server.connect().await?;
        Self::prepare(client).await.map_err(|error| server.error(&error))
    }

    async fn prepare(client: Client) -> Result<Self, tokio_postgres::Error> {
        client.batch_execute(PLANNER_SETTINGS).await?;
        Ok(Self {
            budgets: BudgetStatements::prepare(&client).await?,
            halts: HaltStatements::prepare(&client).await?,
            active_halts: client.prepare(halts::ACTIVE).await?,
            lock_halts: client.prepare("SELECT pg_advisory_xact_lock($1)").await?,
            share_halts: client.prepare("SELECT pg_advisory_xact_lock_shared($1)").await?,
            deciding_chains: client
                .prepare(concat!(
                    "SELECT tenant_id, chain_id, id, length, head,
                         (SELECT ",
                    member!("created_at"),
                    " FROM actpass.events WHERE chain = chains.id AND seq = chains.length)
                     FROM actpass.chains WHERE chain_id = $1"
                ))
                .await?,
            responses: client
                .prepare(concat!(
                    "SELECT answers.tenant_id, key_name, idempotency_key, fingerprint, answer, expires_at, seq,
                         allowed_seq,
                         (SELECT event FROM actpass.events WHERE chain = ",
                    decisions_of!("answers"),
                    " AND events.seq = answers.seq),
                         (SELECT event FROM actpass.events WHERE chain = ",
                    decisions_of!("answers"),
                    " AND events.seq = answers.allowed_seq)
                     FROM actpass.answers
                     JOIN unnest($1::text[], $2::text[], $3::text[])
                         AS wanted (tenant_id, key_name, idempotency_key)
                         USING (tenant_id, key_name, idempotency_key)",
                ))
                .await?,
            approvals: client
                .prepare(concat!(
                    approval_columns!(),
                    " FROM actpass.approvals
                     JOIN unnest($1::text[], $2::text[]) AS wanted (tenant_id, id) USING (tenant_id, id)",
                ))
                .await?,
            approvals_for: client
                .prepare(concat!(
                    approval_columns!(),
                    " FROM actpass.approvals
                     JOIN unnest($1::text[], $2::text[], $3::text[]) AS wanted (tenant_id, action_hash, asker)
                         USING (tenant_id, action_hash, asker)
                     WHERE NOT spent",
                ))
                .await?,
            change_approvals: client
                .prepare(
                    "UPDATE actpass.approvals
                     SET approved = coalesce(approvals.approved, change.approved),
                         decided_by = coalesce(approvals.decided_by, change.decided_by),
                         decided_at = coalesce(approvals.decided_at, change.decided_at),
                         note = CASE WHEN approvals.approved IS NULL THEN change.note ELSE approvals.note END,
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
                    concat!("SELECT tenant_id, chain_id, id, length, head,
                         (SELECT ", member!("created_at"), " FROM actpass.events
                          WHERE chain = chains.id AND seq = chains.length)
                     FROM actpass.chains
                     JOIN unnest($1::text[], $2::text[]) AS wanted (tenant_id, chain_id)
                         USING (tenant_id, chain_id)"),
                )
                .await?,
            credentials: client
                .prepare(
                    "SELECT tenant_id, tool_id, id FROM actpass.credentials
                     JOIN unnest($1::text[], $2::text[]) AS wanted (tenant_id, tool_id)
                         USING (tenant_id, tool_id)",
                )
                .await?,
            clock: client.prepare("SELECT clock_timestamp()").await?,
            delegations: client
                .prepare(
                    "SELECT wanted.tenant_id, wanted.id, (
                         SELECT string_agg(event, E'\\n' ORDER BY seq) FROM actpass.events
                         JOIN actpass.chains ON chains.id = chain
                         WHERE chains.tenant_id = wanted.tenant_id AND chains.chain_id = 'delegations'
                             AND seq <= chains.length AND strpos(event, wanted.marker) > 0
                     ) FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted (tenant_id, id, marker)",
                )
                .await?,
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
            store_responses: client
                .prepare(
                    "INSERT INTO actpass.answers (tenant_id, key_name, idempotency_key, fingerprint, answer,
                         expires_at, seq, allowed_seq)
                     SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[],
                         $6::bigint[], $7::bigint[], $8::bigint[])
                     ON CONFLICT (tenant_id, key_name, idempotency_key) DO UPDATE
                     SET fingerprint = excluded.fingerprint, answer = excluded.answer,
                         expires_at = excluded.expires_at, seq = excluded.seq,
                         allowed_seq = excluded.allowed_seq",
                )
                .await?,
            keep: client.prepare(kept::INSERT).await?,
            keep_manifests: client
                .prepare(
                    "INSERT INTO actpass.manifests (tenant_id, tool_id, manifest_hash)
                     SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
                     ON CONFLICT (tenant_id, tool_id) DO UPDATE SET manifest_hash = excluded.manifest_hash",
                )
                .await?,
            lock: client.prepare("SELECT pg_advisory_xact_lock(tenant) FROM unnest($1::bigint[]) AS tenant").await?,
            make_chains: client
                .prepare(
                    "INSERT INTO actpass.chains (tenant_id, chain_id, length, head)
                     SELECT tenant_id, chain_id, 0, $3 FROM unnest($1::text[], $2::text[])
                         AS wanted (tenant_id, chain_id)
                     WHERE NOT EXISTS (
                         SELECT FROM actpass.chains
                         WHERE chains.tenant_id = wanted.tenant_id AND chains.chain_id = wanted.chain_id
                     )",
                )
                .await?,
            manifests: client
                .prepare(
                    "SELECT tenant_id, tool_id, manifest_hash FROM actpass.manifests
                     JOIN unnest($1::text[], $2::text[]) AS wanted (tenant_id, tool_id)
                         USING (tenant_id, tool_id)",
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
                         agent_id, user_id, reason_code, created_at, deadline, asker)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
                )
                .await?,
            passports: client
                .prepare(concat!(
                    "SELECT passports.tenant_id, passports.jti, ",
                    passport_standing!(),
                    " FROM actpass.passports
                     JOIN unnest($1::text[], $2::text[]) AS wanted (tenant_id, jti) USING (tenant_id, jti)",
                ))
                .await?,
            probe: client.prepare("UPDATE actpass.probe SET data = $1").await?,
            prune: client
                .prepare(
                    "DELETE FROM actpass.answers WHERE ctid = ANY (ARRAY(
                         SELECT ctid FROM actpass.answers WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2
                         FOR UPDATE SKIP LOCKED
                     ))",
                )
                .await?,
            save_heads: client
                .prepare(
                    "UPDATE actpass.chains SET length = new.length, head = new.head
                     FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS new (id, length, head)
                     WHERE chains.id = new.id",
                )
                .await?,
            remove_credentials: client
                .prepare(
                    "DELETE FROM actpass.credentials
                     USING unnest($1::text[], $2::text[]) AS removed (tenant_id, tool_id)
                     WHERE credentials.tenant_id = removed.tenant_id AND credentials.tool_id = removed.tool_id",
                )
                .await?,
            set_credentials: client
                .prepare(
                    "INSERT INTO actpass.credentials (tenant_id, tool_id, id, sealed, set_at, expires_at)
                     SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bigint[],
                         $6::bigint[])
                     ON CONFLICT (tenant_id, tool_id) DO UPDATE
                     SET id = excluded.id, sealed = excluded.sealed, set_at = excluded.set_at,
                         expires_at = excluded.expires_at",
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

    /// Returns the halts after the batch.
    async fn transact(
        &self,
        appends: &mut Vec<Append>,
        clock: &Clock,
        timings: &WriteTimings,
    ) -> Result<Arc<ActiveHalts>, Failure> {
        let keys = BatchKeys::of(appends);
        let (latest, mut loaded, halts) = Box::pin(self.load(&keys)).await?;
        // The server's clock or another gateway's events may be ahead of this clock.
        clock.advance_to(latest);
        let now = clock.millis();
        loaded.budgets = self.budgets.load(&self.client, &keys, now).await?;
        let mut batched = std::mem::take(appends);
        // Hashing a large batch would block the runtime.
        let making = tokio::task::spawn_blocking(move || {
            let mut batch = Batch::new(loaded, now, halts);
            let appended = batched.iter_mut().try_for_each(|append| batch.append(append));
            (batched, appended.and_then(|()| batch.finish()))
        });
        // A panic is not retried.
        let (batched, made) = making.await.map_err(|error| Failure::Made(error.to_string()))?;
        *appends = batched;
        let (loaded, halts) = made.map_err(|error| Failure::Made(error.to_string()))?;
        Box::pin(self.write(&loaded)).await?;
        let committing = Instant::now();
        self.commit().await?;
        timings.commit(committing.elapsed());
        Ok(halts)
    }

    /// Begins the transaction, locks and reads in one round trip. The server executes the
    /// statements in order; each sees earlier commits.
    ///
    /// Returns the later of the server's clock and the chains' last events, in milliseconds since
    /// 1970.
    async fn load(&self, keys: &BatchKeys) -> Result<(i64, Loaded, Arc<ActiveHalts>), Failure> {
        let tenants = lock_numbers(&keys.tenants);
        let chains = columns_of(&keys.chains);
        let passports = columns_of(&keys.passports);
        let approvals = columns_of(&keys.approvals);
        let credentials = columns_of(&keys.credentials);
        let manifests = columns_of(&keys.manifests);
        let mut actions = (Vec::new(), Vec::new(), Vec::new());
        for (tenant_id, action_hash, asker) in &keys.actions {
            actions.0.push(Text(tenant_id));
            actions.1.push(action_hash.as_str());
            actions.2.push(Text(asker));
        }
        let mut scopes = (Vec::new(), Vec::new(), Vec::new());
        for (tenant_id, key_name, key) in &keys.responses {
            scopes.0.push(Text(tenant_id));
            scopes.1.push(Text(key_name));
            scopes.2.push(Text(key));
        }
        let delegations = columns_of(&keys.delegations);
        let markers: Vec<_> = keys.delegations.iter().map(|(_, id)| delegation_marker(id)).collect();
        type Columns<'a, const N: usize> = [&'a (dyn ToSql + Sync); N];
        let tenant_columns: Columns<'_, 1> = [&tenants];
        let chain_columns: Columns<'_, 3> = [&chains.0, &chains.1, &GENESIS];
        let passport_columns: Columns<'_, 2> = [&passports.0, &passports.1];
        let approval_columns: Columns<'_, 2> = [&approvals.0, &approvals.1];
        let delegation_columns: Columns<'_, 3> = [&delegations.0, &delegations.1, &markers];
        let credential_columns: Columns<'_, 2> = [&credentials.0, &credentials.1];
        let manifest_columns: Columns<'_, 2> = [&manifests.0, &manifests.1];
        let action_columns: Columns<'_, 3> = [&actions.0, &actions.1, &actions.2];
        let key_columns: Columns<'_, 3> = [&scopes.0, &scopes.1, &scopes.2];
        let client = &self.client;
        let (begin, lock_halts) = match keys.changes_halts {
            false => (BEGIN, &self.share_halts),
            true => (BEGIN_HALT, &self.lock_halts),
        };
        let (
            _,
            _,
            _,
            _,
            halts,
            deciding,
            chains,
            passports,
            approvals,
            open,
            delegations,
            credentials,
            manifests,
            responses,
            now,
        ) = tokio::try_join!(
            biased;
            client.batch_execute(begin),
            client.execute(lock_halts, &[&HALT_LOCK_ID]),
            client.execute(&self.lock, &tenant_columns),
            client.execute(&self.make_chains, &chain_columns),
            client.query(&self.active_halts, &[]),
            query_unless(!keys.changes_halts, client.query(&self.deciding_chains, &[&DECISIONS])),
            client.query(&self.chains, &chain_columns[..2]),
            query_unless(passports.0.is_empty(), client.query(&self.passports, &passport_columns)),
            query_unless(approvals.0.is_empty(), client.query(&self.approvals, &approval_columns)),
            query_unless(actions.0.is_empty(), client.query(&self.approvals_for, &action_columns)),
            query_unless(delegations.0.is_empty(), client.query(&self.delegations, &delegation_columns)),
            query_unless(credentials.0.is_empty(), client.query(&self.credentials, &credential_columns)),
            query_unless(manifests.0.is_empty(), client.query(&self.manifests, &manifest_columns)),
            query_unless(scopes.0.is_empty(), client.query(&self.responses, &key_columns)),
            // Use the server's clock, so that all gateways on a chain share one.
            client.query_one(&self.clock, &[]),
        )?;
        let mut loaded = Loaded::default();
        let mut latest = millis_since(now.try_get(0)?);
        let halts = halts::active_of(&halts)?.ok_or(Failure::NoEpoch)?;
        for row in &deciding {
            loaded.halts.tenants.push(name_of(row)?.0);
        }
        for row in deciding.into_iter().chain(chains) {
            let recorded = row.try_get::<_, Option<String>>(5)?;
            latest = latest.max(recorded.as_deref().and_then(parse_millis).unwrap_or(0));
            let head = Head { length: from_sql(row.try_get(3)?), hash: row.try_get(4)? };
            loaded.chains.insert(name_of(&row)?, (row.try_get(2)?, head));
        }
        for row in passports {
            let standing = PassportState { revoked: row.try_get(2)?, used: row.try_get(3)? };
            let passport = LoadedPassport { standing, issued: None, is_changed: false };
            loaded.passports.insert(name_of(&row)?, passport);
        }
        for row in approvals.iter().chain(&open) {
            let approval = approval_of(row)?;
            let tenant_id = row.try_get::<_, StoredText>(19)?.0.into();
            let name = (tenant_id, approval.id.clone());
            loaded.approvals.insert(name, LoadedApproval { approval, is_changed: false });
        }
        for row in delegations {
            let events = row.try_get::<_, Option<String>>(2)?.unwrap_or_default();
            loaded.delegations.insert(name_of(&row)?, events.lines().map(str::to_owned).collect());
        }
        for row in manifests {
            loaded.approved.insert(name_of(&row)?, row.try_get::<_, StoredText>(2)?.0);
        }
        for row in credentials {
            loaded.credentials.insert(name_of(&row)?, row.try_get::<_, StoredText>(2)?.0);
        }
        for row in responses {
            let (tenant_id, key_name) = name_of(&row)?;
            let asked_by = (tenant_id, key_name.into(), row.try_get::<_, StoredText>(2)?.0);
            let kept = StoredResponse {
                fingerprint: row.try_get(3)?,
                response: Bytes::from(row.try_get::<_, Vec<u8>>(4)?),
                expires_at: row.try_get(5)?,
                seq: from_sql(row.try_get(6)?),
                event: row.try_get(8)?,
                allowed_seq: row.try_get::<_, Option<i64>>(7)?.map(from_sql),
                allowed_event: row.try_get(9)?,
            };
            loaded.responses.insert(asked_by, kept);
        }
        self.halts.load(client, &keys.acknowledgements, &mut loaded.halts).await?;
        Ok((latest, loaded, Arc::new(halts)))
    }

    async fn write(&self, loaded: &Loaded) -> Result<(), Failure> {
        tokio::try_join!(
            biased;
            self.insert_events(&loaded.events),
            self.save_heads(loaded),
            self.store_responses(loaded),
            self.write_passports(loaded),
            self.write_approvals(loaded),
            self.keep_manifests(loaded),
            self.capture(loaded),
            self.change_credentials(loaded),
            async { Ok(self.budgets.write(&self.client, &loaded.budgets).await?) },
            async { Ok(self.halts.write(&self.client, &loaded.halts).await?) },
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

    async fn store_responses(&self, loaded: &Loaded) -> Result<(), Failure> {
        let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut numbers = (Vec::new(), Vec::new(), Vec::new());
        for asked_by in &loaded.kept {
            let Some(kept) = loaded.responses.get(asked_by) else { continue };
            let (tenant_id, key_name, key) = asked_by;
            columns.0.push(Text(tenant_id));
            columns.1.push(Text(key_name));
            columns.2.push(Text(key));
            columns.3.push(kept.fingerprint.as_slice());
            columns.4.push(kept.response.as_ref());
            numbers.0.push(kept.expires_at);
            numbers.1.push(to_sql(kept.seq));
            numbers.2.push(kept.allowed_seq.map(to_sql));
        }
        let (t, k, i, f, a) = (&columns.0, &columns.1, &columns.2, &columns.3, &columns.4);
        let (e, s, w) = (&numbers.0, &numbers.1, &numbers.2);
        self.change(&self.store_responses, t.len(), &[t, k, i, f, a, e, s, w]).await
    }

    async fn capture(&self, loaded: &Loaded) -> Result<(), Failure> {
        let records = kept::Columns::of(&loaded.captured);
        self.change(&self.keep, loaded.captured.len(), &records.parameters()).await
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
            let decided = approval.approval.decided.as_ref();
            columns.0.push(Text(tenant_id));
            columns.1.push(Text(id));
            columns.2.push(decided.map(|decided| decided.approved));
            columns.3.push(decided.map(|decided| Text(&decided.by)));
            columns.4.push(decided.map(|decided| decided.at));
            columns.5.push(approval.approval.note.as_deref().map(Text));
            columns.6.push(approval.approval.spent);
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
                    &Text(&approval.asker),
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

    async fn change_credentials(&self, loaded: &Loaded) -> Result<(), Failure> {
        let mut set = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut removed = (Vec::new(), Vec::new());
        for ((tenant_id, tool_id), credential) in &loaded.changed {
            match credential {
                Some(credential) => {
                    set.0.push(Text(tenant_id));
                    set.1.push(Text(tool_id));
                    set.2.push(Text(&credential.id));
                    set.3.push(credential.sealed.as_slice());
                    set.4.push(credential.set_at);
                    set.5.push(credential.expires_at);
                }
                None => {
                    removed.0.push(Text(tenant_id));
                    removed.1.push(Text(tool_id));
                }
            }
        }
        let columns: [&(dyn ToSql + Sync); 6] = [&set.0, &set.1, &set.2, &set.3, &set.4, &set.5];
        self.change(&self.set_credentials, set.0.len(), &columns).await?;
        // Set and removed within this batch.
        if !removed.0.is_empty() {
            self.client.execute(&self.remove_credentials, &[&removed.0, &removed.1]).await?;
        }
        Ok(())
    }

    /// Runs a statement that must affect `rows` rows; skipped for zero rows.
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

    /// Only an error reported by the server on a live connection proves that nothing was recorded.
    ///
    /// A server that waits for its standbys must not be interrupted by the statement timeout: it
    /// would report a commit that is only local.
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

/// Runs `query` unless `skip` is set.
async fn query_unless(
    nothing: bool,
    query: impl Future<Output = Result<Vec<Row>, tokio_postgres::Error>>,
) -> Result<Vec<Row>, tokio_postgres::Error> {
    if nothing { Ok(Vec::new()) } else { query.await }
}

fn millis_since(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Reads the tenant and name from a row's first columns.
fn name_of(row: &Row) -> Result<keys::TenantKey, tokio_postgres::Error> {
    Ok((row.try_get::<_, StoredText>(0)?.0.into(), row.try_get::<_, StoredText>(1)?.0))
}

/// Splits names into a column of tenants and a column of names.
fn columns_of(names: &HashSet<keys::TenantKey>) -> (Vec<Text<'_>>, Vec<Text<'_>>) {
    names.iter().map(|(tenant_id, name)| (Text(tenant_id), Text(name))).unzip()
}

/// Returns the advisory lock ids of tenants, in the same order on every gateway. A collision only
/// serializes two tenants.
fn lock_numbers(tenants: &HashSet<Arc<str>>) -> Vec<i64> {
    let number = |tenant_id: &Arc<str>| {
        let hash = Sha256::digest(format!("actpass tenant\0{tenant_id}"));
        hash.first_chunk().map_or(0, |first| i64::from_be_bytes(*first))
    };
    let numbers: BTreeSet<i64> = tenants.iter().map(number).collect();
    numbers.into_iter().collect()
}
