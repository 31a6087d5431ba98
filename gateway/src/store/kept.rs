//! Records outside of the ledger: policies that were in force, captured requests, disagreements of
//! shadow policies, and idempotency keys of access requests. Nothing that decides reads them.

use std::sync::Arc;

/// The kind of a kept record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeptKind {
    /// A sealed request of a decision; its name is the id of the decision's event.
    Capture,
    /// The text of a policy that was in force; its name is the policy's hash.
    Policy,
    /// A decision that a shadow policy would have made otherwise; its name is the id of the event.
    Shadow,
    /// The hash of an access request's body; its name is the hash of the idempotency key.
    Submission,
}

impl KeptKind {
    /// The word in the store.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Policy => "policy",
            Self::Shadow => "shadow",
            Self::Submission => "submission",
        }
    }
}

/// A record to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKept {
    /// The tenant.
    pub tenant_id: Arc<str>,
    /// The kind.
    pub kind: KeptKind,
    /// The name, unique among the tenant's records of the kind.
    pub name: String,
    /// When it was made, in milliseconds since 1970.
    pub at: i64,
    /// When it is removed, in milliseconds since 1970; `None` keeps it.
    pub expires_at: Option<i64>,
    /// The content.
    pub body: Vec<u8>,
}

/// A kept record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Rises in the order of addition.
    pub id: i64,
    /// The name.
    pub name: String,
    /// When it was made, in milliseconds since 1970.
    pub at: i64,
    /// The content.
    pub body: Vec<u8>,
}

/// A change of kept records.
#[derive(Clone, Debug)]
pub enum KeptChange {
    /// Adds records, except records with a known name.
    Add(Vec<NewKept>),
    /// Removes records that have expired at `now`, in milliseconds since 1970, up to a limit.
    Expire {
        /// The time.
        now: i64,
        /// Maximum number of records.
        limit: u32,
    },
    /// Removes a tenant's records of a kind, except the newest ones.
    Trim {
        /// The tenant.
        tenant_id: Arc<str>,
        /// The kind.
        kind: KeptKind,
        /// The number of records that remain.
        keep: u32,
    },
}

/// A page of a tenant's kept records.
#[derive(Clone, Copy, Debug)]
pub struct KeptPage {
    /// The kind.
    pub kind: KeptKind,
    /// The page contains records after this id, or before it if `newest` comes first.
    pub from: i64,
    /// Newest first, otherwise in the order of addition.
    pub newest: bool,
    /// Records that have expired at this time, in milliseconds since 1970, are omitted.
    pub now: i64,
    /// Maximum number of records.
    pub limit: u32,
}
