//! Where events live.

mod sqlite;
#[cfg(test)]
mod tests;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

pub use self::sqlite::{OpenError, SqliteStore, read_chain};
use crate::ledger::{Draft, Head};

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
    /// Nothing is known to be recorded then, and nothing may be answered as if it were.
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

    /// Whether an event could be appended now.
    ///
    /// # Errors
    ///
    /// Why it could not.
    async fn check(&self) -> Result<(), StoreError>;

    /// Finishes what was begun and lets go of the data. Nothing can be appended afterwards.
    async fn close(&self);
}

/// An event to append.
#[derive(Clone, Debug)]
pub struct Append {
    /// The event.
    pub event: Draft,
    /// What makes a repetition of the same request append nothing.
    pub once: Option<Once>,
    /// What takes effect with the event, or not at all.
    pub effect: Option<Effect>,
}

/// What an event brings about.
#[derive(Clone, Debug)]
pub enum Effect {
    /// The event's tool has this manifest from now on.
    ApproveManifest {
        /// The `manifest_hash`.
        hash: String,
    },
}

/// A request that must take effect once, and the answer it gets each time.
#[derive(Clone, Debug)]
pub struct Once {
    /// The client's key for it, unique to the tenant and the API key.
    pub idempotency_key: String,
    /// The SHA-256 of what the client asked for.
    pub fingerprint: [u8; 32],
    /// The answer to keep.
    pub answer: Bytes,
}

/// What came of an [`Append`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The idempotency key was used for another request. Nothing was appended.
    Conflict,
    /// The event is durable, and this is its chain's head with it.
    Recorded(Head),
    /// The same request was answered before, so. Nothing was appended.
    Repeated(Bytes),
}

/// An event as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its number in its chain.
    pub seq: u64,
    /// Its JSON text.
    pub text: String,
}

/// Why a store did not do what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is more to do than it can take; soon there may be less.
    #[error("the store is busy")]
    Busy,
    /// The event has no canonical form.
    #[error("the event has no canonical form")]
    NotCanonical,
    /// It failed or is closed. The log says why.
    #[error("the store does not work")]
    Unavailable,
}
