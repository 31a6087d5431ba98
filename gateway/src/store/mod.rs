//! Where events live.

mod append;
mod batch;
mod error;
mod lookup;
mod postgres;
mod proof;
mod queue;
mod sealed;
mod sqlite;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

pub use self::append::{
    AllowBasis, ApprovalOpening, Change, CredentialPin, DecisionOutcome, DecisionRecord, EarlierResponse,
    Fallback, FirstAllow, Idempotency, ManifestPin, Mutation, Record, SeenResponse, SingleUse, Transition,
    TransitionOutcome,
};
pub use self::error::{DatabaseError, OpenError, StoreError};
pub use self::lookup::{Author, Listing, PendingCounts, Subject};
pub use self::postgres::{Database, PostgresStore, TlsTrust};
pub use self::sealed::{SealedCredential, SealedKey};
pub use self::sqlite::{BackupError, BackupSummary, SqliteStore, accept_missing_wal, backup};
use crate::approvals::{Approval, Status};
use crate::clock::Clock;
use crate::ledger::Head;

/// Where a gateway keeps its data.
#[derive(Clone, Debug)]
pub enum Location {
    /// A PostgreSQL database, which gateways may share.
    Database(Database),
    /// A SQLite file, for one gateway.
    File(PathBuf),
}

impl Location {
    /// Opens the data of a gateway, and makes them first if they are not there. Events get the time of `clock`, which is
    /// never behind the last event from then on.
    ///
    /// # Errors
    ///
    /// As [`SqliteStore::open`] and [`PostgresStore::open`].
    pub async fn open(&self, clock: &Clock) -> Result<Arc<dyn Store>, OpenError> {
        Ok(match self {
            Self::Database(database) => {
                Arc::new(PostgresStore::open_with(database.clone(), clock.clone()).await?)
            }
            Self::File(path) => Arc::new(SqliteStore::open_with(path, clock.clone())?),
        })
    }

    /// Opens data that are there, also while a gateway has them.
    ///
    /// # Errors
    ///
    /// As [`SqliteStore::open_existing`] and [`PostgresStore::open_existing`].
    pub async fn open_existing(&self) -> Result<Arc<dyn Store>, OpenError> {
        Ok(match self {
            Self::Database(database) => Arc::new(PostgresStore::open_existing(database.clone()).await?),
            Self::File(path) => Arc::new(SqliteStore::open_existing(path)?),
        })
    }
}

/// Reads a tenant's chain and hands its events to `each`, in order. It only reads, and works beside a gateway; what is
/// recorded meanwhile is not part of it. The chain's head; `None` if there is no such chain.
///
/// It has a runtime of its own and must not be called from within another.
///
/// # Errors
///
/// If the data cannot be read or are a newer version's, and what `each` returned.
pub fn read_chain<E: From<OpenError>>(
    data: &Location,
    tenant_id: &str,
    chain_id: &str,
    each: impl FnMut(&StoredEvent) -> Result<(), E>,
) -> Result<Option<Head>, E> {
    match data {
        Location::Database(database) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(OpenError::Runtime)?;
            runtime.block_on(postgres::read_chain(database, tenant_id, chain_id, each))
        }
        Location::File(path) => sqlite::read_chain(path, tenant_id, chain_id, each),
    }
}

/// Reads the signing keys, as [`read_chain`] reads a chain; none if the data are older than passports are.
///
/// # Errors
///
/// If the data cannot be read or are another version's.
pub fn read_keys(data: &Location) -> Result<Vec<SealedKey>, OpenError> {
    match data {
        Location::Database(database) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(OpenError::Runtime)?.block_on(postgres::read_keys(database))
        }
        Location::File(path) => sqlite::read_keys(path),
    }
}

/// Keeps the ledger.
///
/// An implementation promises: what it reports as recorded is durable; the events of a chain are in
/// one unbroken order, whoever appends at once; and a tenant's events are found under that tenant alone.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Records an event at the end of its chain: the chain's head with it.
    ///
    /// # Errors
    ///
    /// Nothing is known to be recorded then, and nothing may be answered as if it were.
    async fn record(&self, record: Record) -> Result<Head, StoreError>;

    /// Records a change and its event, if the change is still possible.
    ///
    /// # Errors
    ///
    /// As [`Store::record`].
    async fn change(&self, transition: Transition) -> Result<TransitionOutcome, StoreError>;

    /// Records a decision, if what it rests on is as it must be.
    ///
    /// # Errors
    ///
    /// As [`Store::record`]. The decision may be recorded nevertheless, if the store was lost at the last moment; asked
    /// again with the same [`Idempotency`], it is recorded once.
    async fn decide(&self, decision: DecisionRecord) -> Result<DecisionOutcome, StoreError>;

    /// The head of a tenant's chain; `None` if the tenant has no such chain.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    async fn head(&self, tenant_id: &str, chain_id: &str) -> Result<Option<Head>, StoreError>;

    /// The events of a tenant's chain with a `seq` in `after + 1 ..= until`, in order: the first ones of them, and at
    /// least one if there is one.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    async fn events(
        &self,
        tenant_id: &str,
        chain_id: &str,
        after: u64,
        until: u64,
    ) -> Result<Vec<StoredEvent>, StoreError>;

    /// The hash of a tenant's tool's manifest that was approved last; `None` if none was.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    async fn approved_manifest(&self, tenant_id: &str, tool_id: &str) -> Result<Option<String>, StoreError>;

    /// What became of a passport that was issued to a tenant; `None` if none with this id was.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    async fn passport(&self, tenant_id: &str, jti: &str) -> Result<Option<PassportState>, StoreError>;

    /// An approval that a tenant's request asked for; `None` if there is none with this id.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    async fn approval(&self, tenant_id: &str, id: &str) -> Result<Option<Approval>, StoreError>;

    /// A tenant's live request for an action: one that `asker` opened, and that may be spent at `now` or still be decided;
    /// the former first.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    async fn live_approval(
        &self,
        tenant_id: &str,
        action_hash: &str,
        asker: &str,
        now: i64,
    ) -> Result<Option<Approval>, StoreError>;

    /// The last event about a tool on a tenant's chain of tools or of the vault, its JSON text.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    async fn last_tool_event(
        &self,
        tenant_id: &str,
        chain_id: &str,
        tool_id: &str,
    ) -> Result<Option<String>, StoreError>;

    /// Which of a tenant's rows say something that no event records, and which events the rows forgot: in words, each with
    /// its id. For whoever audits; what is decided looks at each row by itself.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    async fn unproven(&self, tenant_id: &str) -> Result<Vec<String>, StoreError>;

    /// When the last event of all tenants was recorded, in milliseconds since 1970; `None` if there is none.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    async fn last_recorded(&self) -> Result<Option<i64>, StoreError>;

    /// The approvals of a tenant that nobody decided about and whose deadline is after `now`, the nearest deadline first,
    /// `limit` of them at most.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    async fn pending_approvals(
        &self,
        tenant_id: &str,
        now: i64,
        limit: u32,
    ) -> Result<Vec<Approval>, StoreError> {
        let status = Some(Status::Pending);
        self.approvals(tenant_id, Listing { now, status, limit, ..Listing::default() }).await
    }

    /// A part of a tenant's approvals, the nearest deadline first.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    async fn approvals(&self, tenant_id: &str, listing: Listing) -> Result<Vec<Approval>, StoreError>;

    /// How many of a tenant's approvals are pending at `now` that decisions about the key's requests asked for.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    async fn count_pending(
        &self,
        tenant_id: &str,
        asker: Author<'_>,
        now: i64,
    ) -> Result<PendingCounts, StoreError>;

    /// Whether the tenant's chain of decisions has an event about `id` that `author` caused.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    async fn caused(
        &self,
        tenant_id: &str,
        subject: Subject,
        id: &str,
        author: Author<'_>,
    ) -> Result<bool, StoreError>;

    /// The credential of a tenant's tool; `None` if it has none. What another process set or removed counts at once.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    async fn credential(
        &self,
        tenant_id: &str,
        tool_id: &str,
    ) -> Result<Option<SealedCredential>, StoreError>;

    /// The credentials of all of a tenant's tools, by the tool's name.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    async fn credentials(&self, tenant_id: &str) -> Result<Vec<SealedCredential>, StoreError>;

    /// Every key that ever signed passports, in the order in which they were made.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    async fn signing_keys(&self) -> Result<Vec<SealedKey>, StoreError>;

    /// Keeps a new signing key.
    ///
    /// # Errors
    ///
    /// It is not known to be kept then.
    async fn add_signing_key(&self, key: SealedKey, rotation: Rotation) -> Result<(), StoreError>;

    /// Whether an event could be appended now.
    ///
    /// # Errors
    ///
    /// Why it could not.
    async fn check(&self) -> Result<(), StoreError>;

    /// Finishes what was begun and lets go of the data. Nothing can be appended afterwards.
    async fn close(&self);
}

/// What became of a passport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassportState {
    /// It was revoked.
    pub revoked: bool,
    /// A request used it.
    pub used: bool,
}

/// What a new signing key does to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// It is kept only if there is no other.
    First,
    /// It signs from now on, and the others no longer do.
    Next,
}

/// An event as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its number in its chain.
    pub seq: u64,
    /// Its JSON text.
    pub text: String,
}
