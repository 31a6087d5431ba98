//! Why a use case did not do what it was asked to.

use crate::approvals::Status;
use crate::passport::keys::SigningKeyError;
use crate::request::InvalidMember;
use crate::store::StoreError;

/// Why a use case did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ServiceError {
    /// The approval can no longer be decided, because it stands so.
    AlreadyDecided(Status),
    /// The approval's record does not match its action hash.
    ApprovalAltered,
    /// There is more to record than the gateway can take.
    Busy,
    /// The idempotency key was used for another body.
    Conflict,
    /// The gateway failed; the log says why.
    Internal,
    /// A member of the request is not what it must be.
    InvalidMember(InvalidMember),
    /// There is none of this.
    NotFound(&'static str),
    /// There are neither passports nor credentials.
    NoMasterKey,
    /// The key may not ask for this, and why.
    NotGranted(String),
    /// What it is about is not the key's own, and what was expected.
    NotOwn(&'static str),
    /// An agent's key may not do this.
    OperatorsOnly,
    /// The store cannot be used.
    Unavailable,
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
                tracing::error!(%error, "the signing keys cannot be used");
                Self::Internal
            }
        }
    }
}
