//! Errors of the use cases.

use std::sync::Arc;

use crate::approvals::{Status, VoteRefusal};
use crate::auth::{Capability, Role};
use crate::halts::Halt;
use crate::passport::keys::SigningKeyError;
use crate::request::InvalidMember;
use crate::store::StoreError;

/// Error of a use case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServiceError {
    /// The approval cannot be decided; with its status.
    AlreadyDecided(Status),
    /// The approval's record does not match its action hash.
    ApprovalAltered,
    /// The write queue is full.
    Busy,
    /// The idempotency key was used for a different request.
    Conflict,
    /// The role does not have the capability.
    Forbidden(Role, Capability),
    /// A halt stops it; with the epoch.
    Halted(Arc<Halt>, u64),
    /// The halts changed in the meantime. Nothing was recorded.
    HaltsChanged,
    /// Internal error; the log has details.
    Internal,
    /// A member of the request is invalid.
    InvalidMember(InvalidMember),
    /// The halt was already lifted.
    NotActive,
    /// The named resource does not exist.
    NotFound(&'static str),
    /// No master key is configured.
    NoMasterKey,
    /// The key's grants do not permit the request; with the explanation.
    NotGranted(String),
    /// The record belongs to another key or agent; with the explanation.
    NotOwn(&'static str),
    /// The settings were not reloaded; with the problems. The previous ones are in force.
    ReloadRefused(String),
    /// The limit of active halts is reached.
    TooManyHalts,
    /// The store is unavailable.
    Unavailable,
    /// The vote does not count; with the seats of the approval.
    VoteRefused(VoteRefusal, String),
}

impl From<InvalidMember> for ServiceError {
    fn from(invalid: InvalidMember) -> Self {
        Self::InvalidMember(invalid)
    }
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Busy => Self::Busy,
            StoreError::HaltsChanged => Self::HaltsChanged,
            StoreError::NotCanonical => Self::InvalidMember(InvalidMember {
                member: "metadata".to_owned(),
                problem: "has no canonical form".to_owned(),
            }),
            StoreError::Unavailable => Self::Unavailable,
        }
    }
}

impl From<SigningKeyError> for ServiceError {
    fn from(error: SigningKeyError) -> Self {
        match error {
            SigningKeyError::Store(error) => error.into(),
            SigningKeyError::Crypto | SigningKeyError::Seal(_) | SigningKeyError::Sealed(_) => {
                tracing::error!(%error, "the signing keys are unusable");
                Self::Internal
            }
        }
    }
}
