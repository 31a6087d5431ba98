//! Passports: short-lived, signed leave to ask for certain actions, once.
//!
//! A passport is a compact JWS. [`jws`] reads and writes that form and nothing wider; [`keys`] has the keys, which the
//! data store keeps sealed; [`claims`] says what a passport claims and compares it with what is asked.
//!
//! What is checked, in this order: the form, the algorithm, the key, the signature; then issuer, audience, tenant,
//! agent, user, time; then whether it was revoked or used; then tool, resource, goal and constraints.

pub mod claims;
pub mod jws;
pub mod keys;
#[cfg(test)]
mod tests;

use std::fmt;

pub use claims::Claims;
pub use keys::{Keys, Ring, SealedKey};

/// For how long a passport holds at most, in seconds.
pub const MAX_TTL: i64 = 3600;

/// For how long it holds if nobody says, in seconds.
pub const DEFAULT_TTL: i64 = 300;

/// Why a passport is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// It is made out to another agent.
    Agent,
    /// It says an algorithm other than EdDSA.
    Algorithm,
    /// It is for another audience, or the request names none.
    Audience,
    /// An argument is not within what it permits.
    Constraint,
    /// It has expired.
    Expired,
    /// It is for another goal.
    Goal,
    /// Another issuer made it.
    Issuer,
    /// It is no compact JWS of the one form that there is.
    Malformed,
    /// It says that it was issued in the future.
    NotYetValid,
    /// It was used for another request.
    Replayed,
    /// It does not permit this resource.
    Resource,
    /// It was revoked, or this gateway has no record of having issued it.
    Revoked,
    /// Its signature is not its key's.
    Signature,
    /// It is another tenant's.
    Tenant,
    /// It does not permit this tool.
    Tool,
    /// No key of this gateway has its `kid`.
    UnknownKey,
    /// It was delegated by another user.
    User,
}

impl Refusal {
    /// Its reason code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Agent => "passport.agent",
            Self::Algorithm => "passport.algorithm",
            Self::Audience => "passport.audience",
            Self::Constraint => "passport.constraint",
            Self::Expired => "passport.expired",
            Self::Goal => "passport.goal",
            Self::Issuer => "passport.issuer",
            Self::Malformed => "passport.malformed",
            Self::NotYetValid => "passport.not_yet_valid",
            Self::Replayed => "passport.replayed",
            Self::Resource => "passport.resource",
            Self::Revoked => "passport.revoked",
            Self::Signature => "passport.signature",
            Self::Tenant => "passport.tenant",
            Self::Tool => "passport.tool",
            Self::UnknownKey => "passport.unknown_key",
            Self::User => "passport.user",
        }
    }
}

/// A clause about the passport, to follow its subject: `has expired`.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "is made out to another agent",
            Self::Algorithm => "is not signed with EdDSA",
            Self::Audience => "is not for the audience that the request names",
            Self::Constraint => "does not permit these arguments",
            Self::Expired => "has expired",
            Self::Goal => "is for another goal",
            Self::Issuer => "is from another issuer",
            Self::Malformed => "is malformed",
            Self::NotYetValid => "is not valid yet",
            Self::Replayed => "was used before",
            Self::Resource => "does not permit this resource",
            Self::Revoked => "was revoked or is not known here",
            Self::Signature => "has a wrong signature",
            Self::Tenant => "is another tenant's",
            Self::Tool => "does not permit this tool",
            Self::UnknownKey => "names a key that this gateway does not have",
            Self::User => "is not delegated by the user that the request names",
        })
    }
}
