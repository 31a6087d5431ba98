//! The store in a SQLite file.
//!
//! One thread writes. It takes all queued appends, runs them as one transaction, and responds after
//! the commit is synced to disk; under load, more appends share one sync. Readers use their own
//! connections, which the write-ahead log lets run concurrently.

mod answer_tables;
mod answers;
mod archive;
mod backup;
mod budgets;
mod checkpoint;
mod database;
mod halts;
mod kept;
mod lookup;
mod outbox;
mod reader;
mod rows;
mod schema;
mod sessions;
mod writer;

use std::cmp::Ordering;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

pub(super) use self::archive::{last_delivered, prune};
pub use self::backup::{BackupError, BackupSummary, backup};
use self::database::{DataFile, Lock, connect, connect_reader, make_private};
use self::reader::{
    APPROVAL, APPROVAL_EVENTS, CREDENTIAL, Readers, TOOL_EVENT, approval_of, credential_of, find_approval,
    find_approvals_for, find_chain, find_credential, find_manifest, find_passport, find_unproven,
    last_recorded, read_page, read_signing_keys,
};
pub(super) use self::reader::{read_archived, read_chain, read_keys};
use self::schema::{SCHEMA_VERSION, prepare, set_open, was_left_open};
use self::writer::{Writer, probe};
use super::batch::find_live;
use super::error::{OpenError, StoreError};
use super::kept::{Kept, KeptChange, KeptKind, KeptPage};
use super::lookup::{AccountUse, Author, Listing, PendingCounts, Subject};
use super::outbox::{DeadLetter, DueItem, OutboxChange, WebhookState};
use super::queue::{Job, Jobs};
use super::sessions::{IdHash, SessionChange, StoredSession};
use super::{
    DecisionOutcome, DecisionRecord, HaltChange, HaltListing, HaltOutcome, PassportState, Record, Rotation,
    SealedCredential, SealedKey, Store, StoredEvent, TenantTotals, Transition, TransitionOutcome,
    WriteTimings,
};
use crate::approvals::Approval;
use crate::budget::Account;
use crate::clock::Clock;
use crate::halts::{Acknowledged, ActiveHalts, Halt, KnownHalts};
use crate::ledger::{Archived, DECISIONS, Head};

/// The store in a SQLite file; see [`SqliteStore::open`].
#[derive(Debug)]
pub struct SqliteStore {
    jobs: Jobs,
    halts: KnownHalts,
    readers: Arc<Readers>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl SqliteStore {
    /// Opens or creates the data file `path`, accessible to its owner only, and locks it against
    /// other gateways.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be created or read, is not a regular file, lacks its
    /// write-ahead log, is in use by another gateway, or was created by a newer version.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with(path, Clock::default())
    }

    /// Same as [`SqliteStore::open`]. Events get the time of `clock`.
    ///
    /// # Errors
    ///
    /// Same as [`SqliteStore::open`].
    pub fn open_with(path: &Path, clock: Clock) -> Result<Self, OpenError> {
        let (file, lock) = DataFile::open(path)?;
        if !file.has_wal() && was_left_open(file.path())? {
            return Err(OpenError::MissingWal(path.to_owned()));
        }
        Self::start(path, file, clock, Some(lock))
    }

    /// Opens an existing data file for a command, also while a gateway uses it. Each change is one
    /// transaction and visible to the gateway.
    ///
    /// # Errors
    ///
    /// Same as [`SqliteStore::open`]; also if the file does not exist or its gateway has another
    /// version.
    pub fn open_existing(path: &Path) -> Result<Self, OpenError> {
        let file = DataFile::existing_file(path)?;
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

    /// A gateway passes the lock.
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
            connection.execute_batch(lookup::INDEXES).map_err(sqlite)?;
            set_open(&connection, true).map_err(sqlite)?;
        }
        probe(&connection).map_err(sqlite)?;
        make_private(file.path()).map_err(|error| OpenError::Io(path.to_owned(), error))?;
        file.watch_files()?;
        let (jobs, queue) = Jobs::new();
        let halts = KnownHalts::default();
        halts.publish(&Arc::new(halts::active(&connection).map_err(sqlite)?));
        let file = Arc::new(file);
        let timings = jobs.timings().clone();
        let mut writer =
            Writer::new(path, connection, clock, Arc::clone(&file), lock, halts.clone(), timings)?;
        let thread = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|error| OpenError::Io(path.to_owned(), error))?;
        Ok(Self { jobs, halts, readers: Arc::new(Readers::new(file)), writer: Mutex::new(Some(thread)) })
    }
}

/// Declares that the data file `path` is complete although its write-ahead log is missing, because
/// another program checkpointed it.
///
/// # Errors
///
/// Returns an error if the file does not exist or cannot be written.
pub fn accept_missing_wal(path: &Path) -> Result<(), OpenError> {
    let (file, _lock) = DataFile::open(path)?;
    let sqlite = |error| OpenError::Sqlite(path.to_owned(), error);
    if !file.has_wal() && was_left_open(file.path())? {
        tracing::warn!(file = %path.display(), "starting without the write-ahead log: recorded decisions \
        may be missing");
        let connection = connect(file.path()).map_err(sqlite)?;
        connection.execute("UPDATE state SET is_open = 0", []).map_err(sqlite)?;
    }
    Ok(())
}

#[async_trait]
impl Store for SqliteStore {
    async fn record(&self, record: Record) -> Result<Head, StoreError> {
        self.jobs.record(record).await
    }

    async fn change(&self, transition: Transition) -> Result<TransitionOutcome, StoreError> {
        self.jobs.change(transition).await
    }

    async fn decide(&self, decision: DecisionRecord) -> Result<DecisionOutcome, StoreError> {
        self.jobs.decide(decision).await
    }

    async fn change_halts(&self, change: HaltChange) -> Result<HaltOutcome, StoreError> {
        self.jobs.change_halts(change).await
    }

    fn known_halts(&self) -> &KnownHalts {
        &self.halts
    }

    async fn halts(&self) -> Result<Arc<ActiveHalts>, StoreError> {
        Ok(self.halts.publish(&Arc::new(self.readers.read(halts::active).await?)))
    }

    async fn halt(&self, id: &str) -> Result<Option<Halt>, StoreError> {
        let id = id.to_owned();
        self.readers.read(move |connection| halts::find(connection, &id)).await
    }

    async fn list_halts(&self, listing: HaltListing) -> Result<Vec<Halt>, StoreError> {
        self.readers.read(move |connection| halts::list(connection, &listing)).await
    }

    async fn lifted_halts(&self, tenant_id: &str, before: u64, limit: u32) -> Result<Vec<Halt>, StoreError> {
        let tenant_id = tenant_id.to_owned();
        self.readers.read(move |connection| halts::lifted(connection, &tenant_id, before, limit)).await
    }

    async fn acknowledged_halts(
        &self,
        tenant_id: &str,
        before: i64,
        limit: u32,
    ) -> Result<Vec<Acknowledged>, StoreError> {
        let tenant_id = tenant_id.to_owned();
        self.readers.read(move |connection| halts::acknowledged(connection, &tenant_id, before, limit)).await
    }

    async fn head(&self, tenant_id: &str, chain_id: &str) -> Result<Option<Head>, StoreError> {
        let (tenant_id, chain_id) = (tenant_id.to_owned(), chain_id.to_owned());
        let read = move |connection: &Connection| find_chain(connection, &tenant_id, &chain_id);
        Ok(self.readers.read(read).await?.map(|(_, head)| head).filter(|head| head.length > 0))
    }

    async fn archived(&self, tenant_id: &str, chain_id: &str) -> Result<Option<Archived>, StoreError> {
        let (tenant_id, chain_id) = (tenant_id.to_owned(), chain_id.to_owned());
        self.readers.read(move |connection| archive::find(connection, &tenant_id, &chain_id)).await
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
            Ok(find_live(find_approvals_for(connection, &tenant_id, &action_hash, &asker)?, now))
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

    async fn passport(&self, tenant_id: &str, jti: &str) -> Result<Option<PassportState>, StoreError> {
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
            let query =
                format!("{APPROVAL} {}", lookup::list_approvals(listing.status, listing.is_newest_first));
            let mut statement = connection.prepare_cached(&query)?;
            let Listing { now, agent, tool, after, limit, .. } = listing;
            statement.query_map(params![tenant_id, now, agent, tool, after, limit], approval_of)?.collect()
        };
        self.readers.read(read).await
    }

    async fn approval_events(
        &self,
        tenant_id: &str,
        id: &str,
        limit: u32,
    ) -> Result<Vec<String>, StoreError> {
        let (tenant_id, id) = (tenant_id.to_owned(), id.to_owned());
        let read = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(APPROVAL_EVENTS)?;
            statement.query_map(params![tenant_id, id, limit], |row| row.get(0))?.collect()
        };
        self.readers.read(read).await
    }

    async fn count_pending(
        &self,
        tenant_id: &str,
        asker: Author<'_>,
        now: i64,
    ) -> Result<PendingCounts, StoreError> {
        let (tenant_id, agent) = (tenant_id.to_owned(), asker.agent.map(str::to_owned));
        let [mark, _] = asker.event_markers();
        let read = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(lookup::COUNT_PENDING)?;
            statement.query_row(params![tenant_id, DECISIONS, now, mark, agent], |row| {
                Ok(PendingCounts { agent: from_sql(row.get(0)?), key: from_sql(row.get(1)?) })
            })
        };
        self.readers.read(read).await
    }

    async fn has_event(
        &self,
        tenant_id: &str,
        subject: Subject,
        id: &str,
        author: Author<'_>,
    ) -> Result<bool, StoreError> {
        let (tenant_id, wanted, [key, agent]) = (tenant_id.to_owned(), id.to_owned(), author.event_markers());
        let read = move |connection: &Connection| {
            let mut statement = connection.prepare_cached(&lookup::has_event(subject))?;
            let event = |row: &Row<'_>| Ok(StoredEvent { seq: from_sql(row.get(0)?), text: row.get(1)? });
            statement.query_row(params![tenant_id, DECISIONS, wanted, key, agent], event).optional()
        };
        let found = self.readers.read(read).await?;
        Ok(found.is_some_and(|event| subject.matches_event(&event, id, &author)))
    }

    async fn credential(
        &self,
        tenant_id: &str,
        tool_id: &str,
    ) -> Result<Option<SealedCredential>, StoreError> {
        let (tenant_id, tool_id) = (tenant_id.to_owned(), tool_id.to_owned());
        self.readers.read(move |connection| find_credential(connection, &tenant_id, &tool_id)).await
    }

    async fn budget_accounts(
        &self,
        tenant_id: &str,
        now: i64,
        after: i64,
        limit: u32,
    ) -> Result<Vec<AccountUse>, StoreError> {
        let tenant_id = tenant_id.to_owned();
        self.readers.read(move |connection| budgets::list(connection, &tenant_id, now, after, limit)).await
    }

    async fn change_session(&self, change: SessionChange) -> Result<bool, StoreError> {
        self.jobs.change_session(change).await
    }

    async fn session(&self, id: IdHash) -> Result<Option<StoredSession>, StoreError> {
        self.readers.read(move |connection| sessions::find(connection, &id)).await
    }

    async fn sign_in(&self, state: IdHash) -> Result<Option<(String, i64)>, StoreError> {
        self.readers.read(move |connection| sessions::find_sign_in(connection, &state)).await
    }

    async fn change_kept(&self, change: KeptChange) -> Result<u64, StoreError> {
        self.jobs.change_kept(change).await
    }

    async fn kept(&self, tenant_id: &str, page: KeptPage) -> Result<Vec<Kept>, StoreError> {
        let tenant_id = tenant_id.to_owned();
        self.readers.read(move |connection| kept::list(connection, &tenant_id, page)).await
    }

    async fn kept_named(
        &self,
        tenant_id: &str,
        kind: KeptKind,
        name: &str,
    ) -> Result<Option<Kept>, StoreError> {
        let (tenant_id, name) = (tenant_id.to_owned(), name.to_owned());
        self.readers.read(move |connection| kept::find(connection, &tenant_id, kind, &name)).await
    }

    async fn change_outbox(&self, change: OutboxChange) -> Result<bool, StoreError> {
        self.jobs.change_outbox(change).await
    }

    async fn due_announcements(
        &self,
        webhook: &Arc<str>,
        now: i64,
        limit: u32,
    ) -> Result<Vec<DueItem>, StoreError> {
        let webhook = Arc::clone(webhook);
        self.readers.read(move |connection| outbox::due(connection, &webhook, None, now, limit)).await
    }

    async fn waiting_announcements(
        &self,
        webhook: &Arc<str>,
        tenant_id: &str,
        now: i64,
        limit: u32,
    ) -> Result<Vec<DueItem>, StoreError> {
        let (webhook, tenant_id) = (Arc::clone(webhook), tenant_id.to_owned());
        self.readers
            .read(move |connection| outbox::due(connection, &webhook, Some(&tenant_id), now, limit))
            .await
    }

    async fn queued_messages(&self, webhook: &str, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
        let webhook = webhook.to_owned();
        self.readers.read(move |connection| outbox::queued(connection, &webhook, limit)).await
    }

    async fn dead_letters(
        &self,
        tenant_id: &str,
        after: i64,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let tenant_id = tenant_id.to_owned();
        self.readers.read(move |connection| outbox::dead_letters(connection, &tenant_id, after, limit)).await
    }

    async fn webhook_states(&self, tenant_id: &str) -> Result<Vec<WebhookState>, StoreError> {
        let tenant_id = tenant_id.to_owned();
        self.readers.read(move |connection| outbox::states(connection, &tenant_id)).await
    }

    async fn budget_uses(
        &self,
        tenant_id: &str,
        now: i64,
        accounts: &[Account],
    ) -> Result<Vec<AccountUse>, StoreError> {
        let (tenant_id, accounts) = (tenant_id.to_owned(), accounts.to_vec());
        self.readers.read(move |connection| budgets::uses(connection, &tenant_id, now, &accounts)).await
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
        self.jobs.submit(|response| Job::AddKey(Box::new(key), rotation, response)).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.readers.read(|connection| connection.query_one("SELECT 1", [], |_| Ok(()))).await?;
        self.jobs.submit(Job::Check).await
    }

    async fn totals(&self, tenant_id: &str, now: i64) -> Result<TenantTotals, StoreError> {
        let tenant_id = tenant_id.to_owned();
        self.readers.read(move |connection| lookup::totals(connection, &tenant_id, now)).await
    }

    fn timings(&self) -> Option<&WriteTimings> {
        Some(self.jobs.timings())
    }

    fn write_queue(&self) -> [usize; 2] {
        self.jobs.depth()
    }

    async fn close(&self) {
        // The last connection to close cleans up, which must be the writer's.
        self.readers.release();
        if !self.jobs.stop().await {
            return;
        }
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic in the writer was already reported.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

/// SQLite's integers are signed; chain lengths stay far below the limit.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
