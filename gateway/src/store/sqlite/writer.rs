//! The write connection.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, TransactionBehavior, params};
use tokio::sync::mpsc;

use super::answers::{self, AnswerTexts};
use super::budgets::Accounts;
use super::checkpoint::Checkpointer;
use super::database::{DataFile, FileError, Lock, configure, connect};
use super::outbox;
use super::reader::{last_event, last_recorded};
use super::rows::BatchTransaction;
use super::schema::set_open;
use super::sessions;
use super::{halts, kept};
use crate::clock::Clock;
use crate::halts::KnownHalts;
use crate::store::batch::Batch;
use crate::store::error::{OpenError, StoreError};
use crate::store::kept::KeptChange;
use crate::store::outbox::OutboxChange;
use crate::store::queue::{self, Append, Job, JobBatch};
use crate::store::sessions::SessionChange;
use crate::store::{Rotation, SealedKey, WriteTimings};

/// Expired responses removed with a batch, in addition to as many as it adds.
const MIN_PRUNED: usize = 64;

/// Bytes written by a health check: more than a typical decision.
const PROBE_BYTES: usize = 96 * 1024;

/// The writer thread; it executes one batch at a time.
pub(super) struct Writer {
    /// Present until the writer ends.
    checkpointer: Option<Checkpointer>,
    connection: Connection,
    clock: Clock,
    file: Arc<DataFile>,
    halts: KnownHalts,
    /// Held by a gateway; dropped after the connections.
    lock: Option<Lock>,
    /// The id of the last event at the end of this writer's last batch.
    last_event: Option<i64>,
    texts: AnswerTexts,
    timings: WriteTimings,
}

impl Writer {
    /// Creates a writer on `connection` to the file `path`. A gateway passes the `lock`.
    pub(super) fn new(
        path: &Path,
        connection: Connection,
        clock: Clock,
        file: Arc<DataFile>,
        lock: Option<Lock>,
        halts: KnownHalts,
        timings: WriteTimings,
    ) -> Result<Self, OpenError> {
        let sqlite = |error| OpenError::Sqlite(path.to_owned(), error);
        let folding = connect(file.path()).map_err(sqlite)?;
        configure(&folding).map_err(sqlite)?;
        let checkpointer =
            Checkpointer::start(folding).map_err(|error| OpenError::Io(path.to_owned(), error))?;
        let (checkpointer, texts) = (Some(checkpointer), AnswerTexts::default());
        Ok(Self { checkpointer, connection, clock, file, halts, last_event: None, lock, texts, timings })
    }

    /// Runs until stopped or until all senders are gone.
    pub(super) fn run(&mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.blocking_recv() {
            let JobBatch { keys, mut appends, checks, kept, outbox, sessions } =
                JobBatch::collect_jobs(first, &mut queue);
            for (key, rotation, response) in keys {
                let _ = response.send(self.add_key(&key, rotation));
            }
            if !appends.is_empty() {
                match self.while_in_place(|writer| writer.transact(&mut appends)) {
                    Ok(bytes) => {
                        queue::reply_all(appends);
                        if let Some(checkpointer) = &mut self.checkpointer {
                            checkpointer.recorded(bytes, &self.connection);
                        }
                    }
                    Err(error) => {
                        self.texts.clear();
                        tracing::error!(%error, events = appends.len(), "writing to the ledger failed");
                    }
                }
            }
            for (change, response) in sessions {
                let _ = response.send(self.change_session(&change));
            }
            for (change, response) in kept {
                let _ = response.send(self.change_kept(&change));
            }
            for (change, response) in outbox {
                let _ = response.send(self.change_outbox(&change));
            }
            self.reply_checks(checks);
        }
        self.checkpointer = None;
        if !self.file.is_in_place() {
            return;
        }
        // All data is durable; this only leaves a single file behind.
        let tidied = match self.lock.is_some() {
            // A completely checkpointed file needs no log.
            true => set_open(&self.connection, false).and_then(|()| {
                self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map(|_| ())
            }),
            false => self.connection.query_one("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())),
        };
        if let Err(error) = tidied {
            tracing::warn!(%error, "checkpointing the write-ahead log failed");
        }
    }

    /// Runs `job` only while the open file is the one at its path; otherwise nothing counts as
    /// recorded.
    fn while_in_place<T>(
        &mut self,
        job: impl FnOnce(&mut Self) -> rusqlite::Result<T>,
    ) -> Result<T, FileError> {
        if !self.file.is_in_place() {
            return Err(FileError::NotInPlace);
        }
        let done = job(self)?;
        if self.file.is_in_place() { Ok(done) } else { Err(FileError::NotInPlace) }
    }

    fn add_key(&mut self, key: &SealedKey, rotation: Rotation) -> Result<(), StoreError> {
        let added = self.while_in_place(|writer| add_signing_key(&mut writer.connection, key, rotation));
        added.map_err(|error| {
            tracing::error!(%error, "storing a signing key failed");
            StoreError::Unavailable
        })
    }

    fn change_session(&mut self, change: &SessionChange) -> Result<bool, StoreError> {
        self.while_in_place(|writer| sessions::change(&mut writer.connection, change)).map_err(|error| {
            tracing::error!(%error, "storing a session failed");
            StoreError::Unavailable
        })
    }

    fn change_kept(&mut self, change: &KeptChange) -> Result<u64, StoreError> {
        self.while_in_place(|writer| kept::change(&mut writer.connection, change)).map_err(|error| {
            tracing::error!(%error, "storing a record outside of the ledger failed");
            StoreError::Unavailable
        })
    }

    fn change_outbox(&mut self, change: &OutboxChange) -> Result<bool, StoreError> {
        self.while_in_place(|writer| outbox::change(&mut writer.connection, change)).map_err(|error| {
            tracing::error!(%error, "storing the state of a webhook failed");
            StoreError::Unavailable
        })
    }

    /// Runs `appends` in one transaction and returns the recorded bytes.
    fn transact(&mut self, appends: &mut [Append]) -> rusqlite::Result<usize> {
        let begun = Instant::now();
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Another process may have recorded an event ahead of this clock.
        if last_event(&transaction)? != self.last_event
            && let Some(last) = last_recorded(&transaction)?
        {
            self.clock.advance_to(last);
        }
        let now = self.clock.millis();
        let (accounts, texts) = (Accounts::default(), &mut self.texts);
        let writing = BatchTransaction { transaction: &transaction, accounts, texts, bytes: 0 };
        let mut batch = Batch::new(writing, now, Arc::new(halts::active(&transaction)?));
        appends.iter_mut().try_for_each(|append| batch.append(append))?;
        let (BatchTransaction { mut accounts, bytes, .. }, halts) = batch.finish()?;
        let pruned = MIN_PRUNED.max(2 * appends.len());
        answers::prune(&transaction, now.div_euclid(1000), pruned)?;
        accounts.prune(&transaction, now, pruned)?;
        accounts.write(&transaction)?;
        let last_event = last_event(&transaction)?;
        let committing = Instant::now();
        transaction.commit()?;
        self.last_event = last_event;
        self.timings.commit(committing.elapsed());
        self.timings.batch(begun, appends.len());
        self.halts.publish(&halts);
        Ok(bytes)
    }

    /// Checks writability by writing.
    fn reply_checks(&mut self, checks: Vec<queue::Reply<()>>) {
        if checks.is_empty() {
            return;
        }
        let probed = self.while_in_place(|writer| probe(&writer.connection));
        let works = probed.map_err(|error| {
            tracing::error!(%error, "writing to the ledger failed");
            StoreError::Unavailable
        });
        if let (Ok(()), Some(checkpointer)) = (works, &mut self.checkpointer) {
            checkpointer.recorded(PROBE_BYTES, &self.connection);
        }
        for response in checks {
            let _ = response.send(works);
        }
    }
}

/// Writes and commits as much as a decision.
pub(super) fn probe(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .execute("UPDATE state SET probe = randomblob(?1)", [i64::try_from(PROBE_BYTES).unwrap_or(0)])?;
    Ok(())
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
