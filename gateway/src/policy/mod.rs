//! Policies: an ordered list of rules, of which the first that matches decides.
//!
//! A [`Policy`] exists only after it was checked whole, so evaluating one cannot fail: it is a pure function of the
//! policy and the [`Input`], without a clock, randomness or the network. What no rule matches is denied.
//!
//! What a condition means:
//!
//! - A missing path makes it false, whatever the operator; only `exists` with `false` holds then.
//! - A comparison of different types is false for every operator, `!=` and `not_in` included.
//! - Numbers compare by value, exactly: `1` equals `1.0`, and no large integer is rounded.

mod cases;
mod check;
mod evaluate;
mod index;
mod load;
mod model;
#[cfg(test)]
mod tests;

use actpass_protocol::Json;
pub use cases::{Case, Cases, Mismatch};
pub use check::{Finding, FindingKind};
pub use evaluate::Input;
use index::Index;
use model::Path;
pub use model::{Decision, RiskTier, Rule};

/// The reason of a decision that no rule made.
pub const NO_MATCH: &str = "policy.no_match";

/// A policy that was checked whole; see [`Policy::parse`].
#[derive(Clone, Debug)]
pub struct Policy {
    id: String,
    version: Json,
    hash: String,
    /// Every path that a condition names, once: conditions refer to them by index.
    paths: Vec<Path>,
    rules: Vec<Rule>,
    index: Index,
}

impl Policy {
    /// The policy's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The policy's version: a positive integer or a string.
    pub fn version(&self) -> &Json {
        &self.version
    }

    /// The SHA-256 of the policy's canonical JSON, in hex; where that would round a number, of the policy with sorted
    /// members and the numbers as they are written.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The rules, in the order in which they are tried.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}
