//! Where events live.

mod batch;
mod error;
mod finding;
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
use bytes::Bytes;

pub use self::error::{DatabaseError, OpenError, StoreError};
pub use self::finding::{Author, Listing, PendingOf, Subject};
pub use self::postgres::{Database, PostgresStore, Trust};
pub use self::sealed::{SealedCredential, SealedKey};
pub use self::sqlite::{BackupError, Copied, SqliteStore, accept_missing_wal, backup};
use crate::approvals::{Approval, Decided, Status};
use crate::clock::Clock;
use crate::ledger::{Draft, Head};

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
    /// As [`SqliteStore::open_beside`] and [`PostgresStore::open_beside`].
    pub async fn open_beside(&self) -> Result<Arc<dyn Store>, OpenError> {
        Ok(match self {
            Self::Database(database) => Arc::new(PostgresStore::open_beside(database.clone()).await?),
            Self::File(path) => Arc::new(SqliteStore::open_beside(path)?),
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
/// An implementation promises: what [`Store::append`] reports as recorded is durable; the events of a chain are in
/// one unbroken order, whoever appends at once; and a tenant's events are found under that tenant alone.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Gives an event its place at the end of its chain and makes it durable.
    ///
    /// # Errors
    ///
    /// Nothing is known to be recorded then, and nothing may be answered as if it were. It may be recorded all the same, if
    /// the store was lost at the last moment; asked again with the same [`Once`], it is recorded once.
    async fn append(&self, append: Append) -> Result<Appended, StoreError>;

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
    async fn passport(&self, tenant_id: &str, jti: &str) -> Result<Option<Standing>, StoreError>;

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
    async fn pending_of(&self, tenant_id: &str, asker: Author<'_>, now: i64)
    -> Result<PendingOf, StoreError>;

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

/// An event to append, and what must become true with it, all or nothing.
///
/// In one transaction, in this order: `once` (a key that was used for another body, or under which something was answered
/// that was not taken into account, ends it), `holds_until`, what the effect changes, `binding` and `manifest` (each may be
/// stale), whether the earlier answer is repeated, `claims` (the first that fails puts something else in the event's
/// place, or is stale), and then all of it is written.
#[derive(Clone, Debug, Default)]
pub struct Append {
    /// The event.
    pub event: Draft,
    /// What makes a repetition of the same request append nothing.
    pub once: Option<Once>,
    /// What this request takes, which no other may have taken: all of them, or none.
    pub claims: Vec<Claim>,
    /// What must be so, or else the append is stale.
    pub binding: Option<Binding>,
    /// What must be so, or else the append is stale.
    pub manifest: Option<Pinned>,
    /// The append is stale from then on, in seconds since 1970: what it rests on has expired.
    pub holds_until: Option<i64>,
    /// What changes with the event.
    pub effect: Option<Effect>,
}

/// Which manifest of a tool of the event's tenant is approved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The tool.
    pub tool_id: String,
    /// The `manifest_hash`; `None` if the tool has none.
    pub hash: Option<String>,
}

/// Which credential a tool of the event's tenant has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The tool.
    pub tool_id: String,
    /// The credential's id; `None` if the tool has none.
    pub credential_id: Option<String>,
}

impl Append {
    /// An event with nothing beside it.
    pub fn of(event: Draft) -> Self {
        Self { event, ..Self::default() }
    }
}

/// Something of the event's tenant that one request alone may take, and what to record and answer if it cannot.
#[derive(Clone, Debug)]
pub enum Claim {
    /// A passport's single use.
    Passport {
        /// The passport's id.
        jti: String,
        /// If it was used before.
        replayed: Box<Instead>,
        /// If it was revoked, or never issued.
        revoked: Box<Instead>,
    },
    /// An approval's single use.
    Approval {
        /// The approval's id.
        id: String,
        /// If it was used before; `None` makes the append stale then.
        spent: Option<Box<Instead>>,
    },
}

/// What is recorded and answered in place of what could not be had.
#[derive(Clone, Debug)]
pub struct Instead {
    /// The event.
    pub event: Draft,
    /// The answer.
    pub answer: Bytes,
}

/// What changes with an event, for the event's tenant.
#[derive(Clone, Debug)]
pub enum Effect {
    /// A tool has this manifest from now on.
    ApproveManifest {
        /// The tool.
        tool_id: String,
        /// The `manifest_hash`.
        hash: String,
    },
    /// A person decides about an approval; stale if it is decided already, past its deadline, or not there.
    Decide {
        /// The approval's id.
        id: String,
        /// What is decided.
        decided: Decided,
    },
    /// An approval is asked for.
    Open {
        /// The approval.
        approval: Box<Approval>,
        /// Whether it is stale if there is a live request for the same action by the same asker.
        alone: bool,
    },
    /// A passport is known to have been issued.
    Issue {
        /// The passport's id.
        jti: String,
        /// The key that signed it.
        kid: String,
        /// When it expires, in seconds since 1970.
        expires_at: i64,
    },
    /// A tool has no credential any more; stale if it has another one, or none.
    RemoveCredential {
        /// The tool.
        tool_id: String,
        /// The credential's id.
        id: String,
    },
    /// A passport is revoked; stale if it is so already, or never was issued.
    Revoke {
        /// The passport's id.
        jti: String,
    },
    /// A tool has this credential from now on, in place of any other.
    SetCredential(Box<SealedCredential>),
}

/// What became of a passport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
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

/// A request that must take effect once, and the answer to keep.
#[derive(Clone, Debug)]
pub struct Once {
    /// The client's key for it, unique to the tenant and the API key.
    pub idempotency_key: String,
    /// The SHA-256 of what the client asked for.
    pub fingerprint: [u8; 32],
    /// The answer to keep.
    pub answer: Bytes,
    /// Whether that answer is an `allow`: only such a one is ever repeated.
    pub allows: bool,
    /// For how many seconds the answer is kept.
    pub keep_seconds: i64,
    /// Which earlier answer was taken into account, by the `seq` of its event.
    pub earlier: Option<u64>,
    /// What the earlier answer rested on, if it still holds as far as is known before the transaction. It is repeated then.
    pub repeats: Option<Basis>,
}

/// What an `allow` rests on besides the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Basis {
    /// An approval's id.
    pub approval: Option<String>,
    /// A passport's id.
    pub passport: Option<String>,
}

/// What was answered under an idempotency key before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Earlier {
    /// The latest answer.
    pub answer: Bytes,
    /// The `seq` of its event on the chain of decisions.
    pub seq: u64,
    /// What it rested on.
    pub basis: Basis,
    /// The credential that it was handed out with.
    pub credential: Option<String>,
    /// Whether it is an `allow` and follows from the ledger.
    pub is_allow: bool,
    /// The first `allow` under this key, if there was one.
    pub allowed: Option<Allowed>,
}

/// The first `allow` under an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// When it was recorded, in milliseconds since 1970; 0 if the ledger does not say.
    pub at: i64,
    /// What it rested on.
    pub basis: Basis,
}

/// What came of an [`Append`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The idempotency key was used for another request. Nothing was appended.
    Conflict,
    /// Something was answered under the key that was not taken into account. Nothing was appended.
    Earlier(Box<Earlier>),
    /// The event is durable, and this is its chain's head with it.
    Recorded(Head),
    /// A claim failed: what was to be recorded instead is durable, and this is the answer with it.
    Refused(Bytes),
    /// The earlier answer still holds and is to be repeated. Nothing was appended.
    Repeated,
    /// What the effect was to change, or what the append rests on, is not as it must be. Nothing was appended.
    Stale,
}

/// An event as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its number in its chain.
    pub seq: u64,
    /// Its JSON text.
    pub text: String,
}
