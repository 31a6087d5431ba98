//! Passports: short-lived, signed, single-use authorizations to request certain actions.
//!
//! [`actpass_protocol::token`] defines the token and its errors, shared with clients that verify
//! offline. [`keys`] manages the signing keys; [`coverage`] compares a passport with an action.
//!
//! Checks, in order: form, algorithm, key, signature; issuer, audience, tenant, agent, user, time;
//! revocation and use; tool, resource, goal, constraints, and the approved action.

pub mod coverage;
pub mod keys;
#[cfg(test)]
mod tests;

use actpass_protocol::token::ValidationTime;
pub use actpass_protocol::token::{Claims, PassportError};
pub use keys::{SigningKeyStore, SigningKeys};

/// Maximum lifetime of a passport, in seconds.
pub const MAX_TTL: i64 = 3600;

/// Default lifetime of a passport, in seconds.
pub const DEFAULT_TTL: i64 = 300;

/// Tolerance for the clock of another gateway that is ahead, in seconds.
const LEEWAY: i64 = 5;

/// Maximum number of exchanges from an issued passport to one that descends from it.
pub const MAX_EXCHANGES: usize = 4;

/// Claim with the ids of the passports that were exchanged for a passport, nearest first.
pub(crate) const ANCESTORS: &str = "ancestors";

/// Returns the ids of the passports that were exchanged for a passport, nearest first.
pub(crate) fn ancestors(claims: &Claims) -> Vec<String> {
    claims.texts(ANCESTORS).map(str::to_owned).collect()
}

/// Returns the clock for verification at `now`, without tolerance for expired passports.
pub(crate) fn at(now: i64) -> ValidationTime {
    ValidationTime { now, not_before_leeway: LEEWAY, expiry_leeway: 0 }
}
