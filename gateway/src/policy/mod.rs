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

pub use cases::{Case, Cases, Mismatch};
pub use check::{Finding, FindingKind};
pub use evaluate::Input;
pub use model::{Decision, Policy, RiskTier, Rule};

/// The reason of a decision that no rule made.
pub const NO_MATCH: &str = "policy.no_match";
