//! The data store.

mod append;
mod archive;
mod batch;
mod error;
mod kept;
mod lookup;
mod outbox;
mod postgres;
mod proof;
mod queue;
mod sealed;
mod sessions;
mod sqlite;
#[cfg(test)]
mod tests;
mod timings;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

pub use self::append::{
    AllowBasis, ApprovalOpening, Change, Claim, Claims, CredentialPin, DecisionOutcome, DecisionRecord,
    EarlierResponse, Excess, Fallback, FirstAllow, HaltChange, HaltOutcome, Idempotency, ManifestPin,
    Mutation, Record, SeenResponse, SingleUse, Transition, TransitionOutcome,
};
pub use self::archive::Pruned;
pub use self::error::{DatabaseError, OpenError, StoreError};
pub use self::kept::{Kept, KeptChange, KeptKind, KeptPage, NewKept};
pub use self::lookup::{AccountUse, Author, HaltListing, Listing, PendingCounts, Subject};
pub(crate) use self::outbox::EXPIRY;
pub use self::outbox::{Cursor, DeadLetter, DueItem, OutboxChange, Place, WebhookState};
pub use self::postgres::{Database, PostgresStore, TlsTrust};
pub use self::sealed::{SealedCredential, SealedKey};
pub use self::sessions::{IdHash, SessionChange, StoredSession};
pub use self::sqlite::{BackupError, BackupSummary, SqliteStore, accept_missing_wal, backup};
pub(crate) use self::timings::duration_histogram;
pub use self::timings::{AGES, TenantTotals, WebhookTotals, WriteTimings};
use crate::approvals::{Approval, Status};
use crate::budget::Account;
use crate::clock::Clock;
use crate::halts::{Acknowledged, ActiveHalts, Halt, KnownHalts};
use crate::ledger::{Archived, Head};

/// Location of a gateway's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A PostgreSQL database, which several gateways may share.
    Database(Database),
    /// A SQLite file, used by one gateway.
    File(PathBuf),
}

impl Location {
    /// Opens a gateway's data, creating it if necessary. `clock` timestamps events and is advanced
    /// to the last event.
    ///
    /// # Errors
    ///
    /// Same as [`SqliteStore::open`] and [`PostgresStore::open`].
    pub async fn open(&self, clock: &Clock) -> Result<Arc<dyn Store>, OpenError> {
        Ok(match self {
            Self::Database(database) => {
                Arc::new(PostgresStore::open_with(database.clone(), clock.clone()).await?)
            }
            Self::File(path) => Arc::new(SqliteStore::open_with(path, clock.clone())?),
        })
    }

    /// Opens existing data, also while a gateway uses it.
    ///
    /// # Errors
    ///
    /// Same as [`SqliteStore::open_existing`] and [`PostgresStore::open_existing`].
    pub async fn open_existing(&self) -> Result<Arc<dyn Store>, OpenError> {
        Ok(match self {
            Self::Database(database) => Arc::new(PostgresStore::open_existing(database.clone()).await?),
            Self::File(path) => Arc::new(SqliteStore::open_existing(path)?),
        })
    }
}

/// Reads a tenant's chain and passes its events that are not archived to `each` in order. Returns the
/// chain's head, or `None` if the chain does not exist. Read-only; works while a gateway runs and excludes later
/// events.
///
/// Starts its own async runtime, so it must not be called from within one.
///
/// # Errors
///
/// Returns an error if the data cannot be read or has a newer schema, and errors of `each`.
pub fn read_chain<E: From<OpenError>>(
    data: &Location,
    tenant_id: &str,
    chain_id: &str,
    each: impl FnMut(&StoredEvent) -> Result<(), E>,
) -> Result<Option<Head>, E> {
    read_chain_until(data, tenant_id, chain_id, u64::MAX, each)
}

/// Same as [`read_chain`], up to the event `until`.
///
/// # Errors
///
/// Same as [`read_chain`].
pub fn read_chain_until<E: From<OpenError>>(
    data: &Location,
    tenant_id: &str,
    chain_id: &str,
    until: u64,
    each: impl FnMut(&StoredEvent) -> Result<(), E>,
) -> Result<Option<Head>, E> {
    match data {
        Location::Database(database) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(OpenError::Runtime)?;
            runtime.block_on(postgres::read_chain(database, tenant_id, chain_id, until, each))
        }
        Location::File(path) => sqlite::read_chain(path, tenant_id, chain_id, until, each),
    }
}

/// Reads the archived part of a chain like [`read_chain`]; `None` if no event is archived.
///
/// # Errors
///
/// Same as [`read_chain`].
pub fn read_archived(
    data: &Location,
    tenant_id: &str,
    chain_id: &str,
) -> Result<Option<Archived>, OpenError> {
    match data {
        Location::Database(database) => block_on(postgres::read_archived(database, tenant_id, chain_id)),
        Location::File(path) => sqlite::read_archived(path, tenant_id, chain_id),
    }
}

/// Returns the number of events of a chain whose announcements all webhooks have received; `None` if
/// there are no webhooks.
///
/// Starts its own async runtime, so it must not be called from within one.
///
/// # Errors
///
/// Returns an error if the data cannot be read.
pub fn last_delivered(data: &Location, tenant_id: &str, chain_id: &str) -> Result<Option<u64>, OpenError> {
    match data {
        Location::Database(database) => block_on(postgres::last_delivered(database, tenant_id, chain_id)),
        Location::File(path) => sqlite::last_delivered(path, tenant_id, chain_id),
    }
}

/// Removes the archived events of a chain, except those that the store needs: events about approvals
/// and halts, and those of passports, responses and claims that have not expired. Works while a
/// gateway runs; can be repeated.
///
/// Starts its own async runtime, so it must not be called from within one.
///
/// # Errors
///
/// Returns an error if the data cannot be changed. Then some events may have been removed.
pub fn prune(
    data: &Location,
    tenant_id: &str,
    chain_id: &str,
    archived: &Archived,
) -> Result<Pruned, OpenError> {
    match data {
        Location::Database(database) => block_on(postgres::prune(database, tenant_id, chain_id, archived)),
        Location::File(path) => sqlite::prune(path, tenant_id, chain_id, archived),
    }
}

fn block_on<T>(job: impl Future<Output = Result<T, OpenError>>) -> Result<T, OpenError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(OpenError::Runtime)?.block_on(job)
}

/// Reads the signing keys like [`read_chain`]; empty if the data predates passports.
///
/// # Errors
///
/// Returns an error if the data cannot be read or has another schema version.
pub fn read_keys(data: &Location) -> Result<Vec<SealedKey>, OpenError> {
    match data {
        Location::Database(database) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(OpenError::Runtime)?.block_on(postgres::read_keys(database))
        }
        Location::File(path) => sqlite::read_keys(path),
    }
}

/// The data store of a gateway.
///
/// Implementations guarantee: recorded events are durable; each chain is gapless under concurrent
/// appends; tenants are isolated.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Appends an event to its chain and returns the chain's head.
    ///
    /// # Errors
    ///
    /// On error, it is unknown whether anything was recorded; do not respond as if it were.
    async fn record(&self, record: Record) -> Result<Head, StoreError>;

    /// Records a change and its event if the change is still possible.
    ///
    /// # Errors
    ///
    /// Same as [`Store::record`].
    async fn change(&self, transition: Transition) -> Result<TransitionOutcome, StoreError>;

    /// Records a decision if its preconditions hold.
    ///
    /// # Errors
    ///
    /// Same as [`Store::record`]. If the connection was lost at commit, the decision may be
    /// recorded; a retry with the same [`Idempotency`] records it only once.
    async fn decide(&self, decision: DecisionRecord) -> Result<DecisionOutcome, StoreError>;

    /// Starts or lifts a halt. After this returns, no store of the database records an `allow` for
    /// its target.
    ///
    /// # Errors
    ///
    /// Same as [`Store::record`].
    async fn change_halts(&self, change: HaltChange) -> Result<HaltOutcome, StoreError>;

    /// Returns the latest halts that this store has seen. Others of the database may be newer.
    fn known_halts(&self) -> &KnownHalts;

    /// Reads the active halts of the database.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn halts(&self) -> Result<Arc<ActiveHalts>, StoreError>;

    /// Returns a halt, also after it was lifted; `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn halt(&self, id: &str) -> Result<Option<Halt>, StoreError>;

    /// Returns a page of halts, oldest first.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn list_halts(&self, listing: HaltListing) -> Result<Vec<Halt>, StoreError>;

    /// Returns up to `limit` lifted halts of a tenant and of all tenants that started before the epoch
    /// `before`, newest first.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn lifted_halts(&self, tenant_id: &str, before: u64, limit: u32) -> Result<Vec<Halt>, StoreError>;

    /// Returns up to `limit` acknowledgements of a tenant's clients before the one with the id
    /// `before`, newest first.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn acknowledged_halts(
        &self,
        tenant_id: &str,
        before: i64,
        limit: u32,
    ) -> Result<Vec<Acknowledged>, StoreError>;

    /// Returns the head of a tenant's chain; `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn head(&self, tenant_id: &str, chain_id: &str) -> Result<Option<Head>, StoreError>;

    /// Returns the archived part of a tenant's chain; `None` if no event is archived.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn archived(&self, tenant_id: &str, chain_id: &str) -> Result<Option<Archived>, StoreError>;

    /// Returns events of a tenant's chain with `seq` in `after + 1 ..= until`, in order: a page of
    /// at least one event, or an empty page at the end. Most archived events are missing.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn events(
        &self,
        tenant_id: &str,
        chain_id: &str,
        after: u64,
        until: u64,
    ) -> Result<Vec<StoredEvent>, StoreError>;

    /// Returns the hash of the tool's approved manifest; `None` if absent.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn approved_manifest(&self, tenant_id: &str, tool_id: &str) -> Result<Option<String>, StoreError>;

    /// Returns the state of a tenant's passport; `None` if it was not issued.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn passport(&self, tenant_id: &str, jti: &str) -> Result<Option<PassportState>, StoreError>;

    /// Returns an approval; `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn approval(&self, tenant_id: &str, id: &str) -> Result<Option<Approval>, StoreError>;

    /// Returns a live approval for an action that `asker` opened: one that may be spent at `now`,
    /// otherwise a pending one.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn live_approval(
        &self,
        tenant_id: &str,
        action_hash: &str,
        asker: &str,
        now: i64,
    ) -> Result<Option<Approval>, StoreError>;

    /// Returns the JSON text of the last event about a tool, on the tenant's chain of tools or of
    /// the vault.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn last_tool_event(
        &self,
        tenant_id: &str,
        chain_id: &str,
        tool_id: &str,
    ) -> Result<Option<String>, StoreError>;

    /// Describes a tenant's rows that no event supports, and events that the rows miss, with ids.
    /// For audits; decisions check each row individually.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn unproven(&self, tenant_id: &str) -> Result<Vec<String>, StoreError>;

    /// Returns when the last event of any tenant was recorded, in milliseconds since 1970; `None`
    /// for an empty ledger.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn last_recorded(&self) -> Result<Option<i64>, StoreError>;

    /// Returns up to `limit` approvals that are pending at `now`, nearest deadline first.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn pending_approvals(
        &self,
        tenant_id: &str,
        now: i64,
        limit: u32,
    ) -> Result<Vec<Approval>, StoreError> {
        let status = Some(Status::Pending);
        self.approvals(tenant_id, Listing { now, status, limit, ..Listing::default() }).await
    }

    /// Returns a page of a tenant's approvals, in the order of the listing.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn approvals(&self, tenant_id: &str, listing: Listing) -> Result<Vec<Approval>, StoreError>;

    /// Returns the texts of up to `limit` events that voted on, decided or used an approval, oldest
    /// first.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn approval_events(&self, tenant_id: &str, id: &str, limit: u32)
    -> Result<Vec<String>, StoreError>;

    /// Counts approvals pending at `now` that requests of `asker` opened.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn count_pending(
        &self,
        tenant_id: &str,
        asker: Author<'_>,
        now: i64,
    ) -> Result<PendingCounts, StoreError>;

    /// Returns whether `author` caused an event about `id` on the tenant's chain of decisions.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn has_event(
        &self,
        tenant_id: &str,
        subject: Subject,
        id: &str,
        author: Author<'_>,
    ) -> Result<bool, StoreError>;

    /// Returns a tenant's accounts of budgets with the sum of their claims that have not expired at
    /// `now`, in milliseconds since 1970: up to `limit` accounts after the one with the id `after`,
    /// in the order of their first claims.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn budget_accounts(
        &self,
        tenant_id: &str,
        now: i64,
        after: i64,
        limit: u32,
    ) -> Result<Vec<AccountUse>, StoreError>;

    /// Returns the use of those of a tenant's `accounts` that have claims, like
    /// [`Store::budget_accounts`], in any order.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn budget_uses(
        &self,
        tenant_id: &str,
        now: i64,
        accounts: &[Account],
    ) -> Result<Vec<AccountUse>, StoreError>;

    /// Changes sessions of the page; returns `false` if there is nothing to change.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn change_session(&self, change: SessionChange) -> Result<bool, StoreError>;

    /// Returns a session of the page, even if it has ended.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn session(&self, id: IdHash) -> Result<Option<StoredSession>, StoreError>;

    /// Returns the data of a sign-in and its end, in seconds since 1970.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn sign_in(&self, state: IdHash) -> Result<Option<(String, i64)>, StoreError>;

    /// Changes records outside of the ledger; returns the number of records that it added or removed.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn change_kept(&self, change: KeptChange) -> Result<u64, StoreError>;

    /// Returns a page of a tenant's records outside of the ledger.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn kept(&self, tenant_id: &str, page: KeptPage) -> Result<Vec<Kept>, StoreError>;

    /// Returns the record with this name, also if it has expired and is not removed yet.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn kept_named(
        &self,
        tenant_id: &str,
        kind: KeptKind,
        name: &str,
    ) -> Result<Option<Kept>, StoreError>;

    /// Changes the state of a webhook; returns `false` if the change is not possible: another
    /// gateway has the lease, or the message is unknown.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn change_outbox(&self, change: OutboxChange) -> Result<bool, StoreError>;

    /// Returns the next announcements for a webhook from sources that may be tried at `now`, in
    /// milliseconds since 1970: in order for each source, the longest waiting source first.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn due_announcements(
        &self,
        webhook: &Arc<str>,
        now: i64,
        limit: u32,
    ) -> Result<Vec<DueItem>, StoreError>;

    /// Returns the items of a tenant that a webhook has not processed at `now`, in milliseconds since
    /// 1970, in order for each source.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn waiting_announcements(
        &self,
        webhook: &Arc<str>,
        tenant_id: &str,
        now: i64,
        limit: u32,
    ) -> Result<Vec<DueItem>, StoreError>;

    /// Returns a webhook's messages that an operator has queued again.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn queued_messages(&self, webhook: &str, limit: u32) -> Result<Vec<DeadLetter>, StoreError>;

    /// Returns up to `limit` messages of a tenant that were set aside, after the one with the id
    /// `after`.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn dead_letters(
        &self,
        tenant_id: &str,
        after: i64,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, StoreError>;

    /// Returns the states of the webhooks that have announced events of a tenant.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn webhook_states(&self, tenant_id: &str) -> Result<Vec<WebhookState>, StoreError>;

    /// Returns a tool's credential; `None` if absent. Changes by other processes are visible
    /// immediately.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn credential(
        &self,
        tenant_id: &str,
        tool_id: &str,
    ) -> Result<Option<SealedCredential>, StoreError>;

    /// Returns the credentials of all tools of a tenant, ordered by tool name.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn credentials(&self, tenant_id: &str) -> Result<Vec<SealedCredential>, StoreError>;

    /// Returns all signing keys, including retired ones, in order of creation.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn signing_keys(&self) -> Result<Vec<SealedKey>, StoreError>;

    /// Adds a signing key.
    ///
    /// # Errors
    ///
    /// On error, it is unknown whether the key was stored.
    async fn add_signing_key(&self, key: SealedKey, rotation: Rotation) -> Result<(), StoreError>;

    /// Checks whether events can be appended.
    ///
    /// # Errors
    ///
    /// Returns the reason if they cannot.
    async fn check(&self) -> Result<(), StoreError>;

    /// Returns whether the schema has this version; a newer gateway may have migrated it.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn is_schema_current(&self) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// Counts a tenant's data at `now`, in seconds since 1970.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
    async fn totals(&self, tenant_id: &str, now: i64) -> Result<TenantTotals, StoreError>;

    /// Returns the measurements of the writer; `None` without a writer.
    fn timings(&self) -> Option<&WriteTimings> {
        None
    }

    /// Returns the number of queued writes and the capacity of the queue.
    fn write_queue(&self) -> [usize; 2] {
        [0, 0]
    }

    /// Completes queued work and releases the data. Later appends fail.
    async fn close(&self);
}

/// State of a passport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassportState {
    /// Whether it was revoked.
    pub revoked: bool,
    /// Whether a request used it.
    pub used: bool,
}

/// Effect of a new signing key on the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Store it only if there is no other key.
    First,
    /// Activate it and retire the others.
    Next,
}

/// An event as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Position in its chain.
    pub seq: u64,
    /// Its JSON text.
    pub text: String,
}
