//! The connection that writes.

use std::path::Path;
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use tokio::sync::mpsc;

use super::checkpoint::Checkpointer;
use super::database::{DataFile, FileError, Lock, configure, connect};
use super::reader::last_recorded;
use super::rows::BatchTransaction;
use super::schema::set_open;
use crate::clock::Clock;
use crate::store::batch::Batch;
use crate::store::error::{OpenError, StoreError};
use crate::store::queue::{self, Append, Job, JobBatch};
use crate::store::{Rotation, SealedKey};

/// How many answers that are kept no longer are removed with a batch, beside as many as the batch adds.
const MIN_PRUNED: usize = 64;

/// How many bytes a check writes: more than an ordinary decision.
const PROBE_BYTES: usize = 96 * 1024;

/// What writes: one thread, which does one thing after the other.
pub(super) struct Writer {
    /// Until the writer ends.
    checkpointer: Option<Checkpointer>,
    connection: Connection,
    clock: Clock,
    file: Arc<DataFile>,
    /// A gateway's. Dropped after the connections.
    lock: Option<Lock>,
}

impl Writer {
    /// A writer on `connection`, which is to the file of this `path`. A gateway's has the `lock`.
    pub(super) fn new(
        path: &Path,
        connection: Connection,
        clock: Clock,
        file: Arc<DataFile>,
        lock: Option<Lock>,
    ) -> Result<Self, OpenError> {
        let sqlite = |error| OpenError::Sqlite(path.to_owned(), error);
        let folding = connect(file.path()).map_err(sqlite)?;
        configure(&folding).map_err(sqlite)?;
        let checkpointer =
            Checkpointer::start(folding).map_err(|error| OpenError::Io(path.to_owned(), error))?;
        Ok(Self { checkpointer: Some(checkpointer), connection, clock, file, lock })
    }

    /// Works until told to stop, or until nobody is left to ask for anything.
    pub(super) fn run(&mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.blocking_recv() {
            let JobBatch { keys, mut appends, checks } = JobBatch::collect_jobs(first, &mut queue);
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
                        tracing::error!(%error, events = appends.len(), "the ledger could not be written");
                    }
                }
            }
            self.reply_checks(checks);
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
            tracing::error!(%error, "a signing key could not be kept");
            StoreError::Unavailable
        })
    }

    /// Runs all of `appends` in one transaction: how many bytes were recorded.
    fn transact(&mut self, appends: &mut [Append]) -> rusqlite::Result<usize> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Another process may have recorded something later than this one's clock shows.
        if let Some(last) = last_recorded(&transaction)? {
            self.clock.advance_to(last);
        }
        let now = self.clock.millis();
        let writing = BatchTransaction { transaction: &transaction, bytes: 0 };
        let mut batch = Batch::new(writing, now);
        appends.iter_mut().try_for_each(|append| batch.append(append))?;
        let bytes = batch.finish()?.bytes;
        prune(&transaction, now.div_euclid(1000), MIN_PRUNED.max(2 * appends.len()))?;
        transaction.commit()?;
        Ok(bytes)
    }

    /// Only a write can tell whether writing works.
    fn reply_checks(&mut self, checks: Vec<queue::Reply<()>>) {
        if checks.is_empty() {
            return;
        }
        let probed = self.while_in_place(|writer| probe(&writer.connection));
        let works = probed.map_err(|error| {
            tracing::error!(%error, "the ledger could not be written");
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

/// Writes and commits as much as a decision does.
pub(super) fn probe(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .execute("UPDATE state SET probe = randomblob(?1)", [i64::try_from(PROBE_BYTES).unwrap_or(0)])?;
    Ok(())
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
