//! Passports: short-lived, signed leave to ask for certain actions, once.
//!
//! What a passport is as a token, and why one is refused, is [`actpass_protocol::token`]: clients that verify offline read it
//! the same way. [`keys`] has the keys, which the data store keeps sealed; [`coverage`] compares a passport with what is
//! asked.
//!
//! What is checked, in this order: the form, the algorithm, the key, the signature; then issuer, audience, tenant,
//! agent, user, time; then whether it was revoked or used; then tool, resource, goal and constraints,
//! and the action that a person approved.

pub mod coverage;
pub mod keys;
#[cfg(test)]
mod tests;

use actpass_protocol::token::ValidationTime;
pub use actpass_protocol::token::{Claims, PassportError};
pub use keys::{SigningKeyStore, SigningKeys};

/// For how long a passport holds at most, in seconds.
pub const MAX_TTL: i64 = 3600;

/// For how long it holds if nobody says, in seconds.
pub const DEFAULT_TTL: i64 = 300;

/// How far ahead another gateway's clock may be, in seconds.
const LEEWAY: i64 = 5;

/// The time `now`, as passports are held against it here: what has expired has expired.
pub(crate) fn at(now: i64) -> ValidationTime {
    ValidationTime { now, not_before_leeway: LEEWAY, expiry_leeway: 0 }
}
