//! Policies: ordered rules of which the first match decides.
//!
//! A [`Policy`] is validated completely when it is parsed, so evaluation cannot fail. It is a pure
//! function of the policy and the [`Input`], without clock, randomness or network. If no rule
//! matches, the decision is deny.
//!
//! Semantics of conditions:
//!
//! - A missing path makes every operator false, except `exists` with `false`.
//! - A comparison of different types is false for every operator, including `!=` and `not_in`.
//! - Numbers compare exactly by value: `1` equals `1.0`, and large integers are not rounded.
//! - History conditions depend on earlier decisions; the caller states which of them are true.

mod analysis;
mod budget;
mod cases;
mod check;
mod describe;
mod evaluate;
mod history;
mod index;
mod load;
mod model;
mod reconsider;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use actpass_protocol::Json;
pub use analysis::{Change, Changes, Insight, InsightKind, OpenChange, Outcome};
pub use budget::NotMeasurable;
pub use cases::{Case, CaseChange, Cases, Mismatch};
pub use check::{Finding, FindingKind};
pub use evaluate::{Input, Values};
pub use history::Unmeasured;
use index::Index;
pub use model::{Budget, Decision, OnExceed, RiskTier, Rule};
use model::{History, Path, Tracker};
pub use reconsider::{Answer, Reconsidered, RecordedDecision, RecordedInput, ShadowPolicy, UnknownSum};

use crate::budget::Outcomes;

/// Reason code if no rule matches.
pub const NO_MATCH: &str = "policy.no_match";

/// A validated policy; see [`Policy::parse`].
#[derive(Clone, Debug)]
pub struct Policy {
    id: String,
    version: Json,
    hash: String,
    /// As it was parsed.
    source: Arc<[u8]>,
    /// All paths in conditions, without duplicates; conditions refer to them by index.
    paths: Vec<Path>,
    rules: Vec<Rule>,
    index: Index,
    budgets: Vec<Budget>,
    /// The distinct history conditions; rules refer to them by index.
    histories: Vec<History>,
    /// The distinct histories that they read.
    trackers: Vec<Tracker>,
    tracker_index: Index,
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

    /// The SHA-256, in hex, of the policy's canonical JSON. If that would round a number, the hash
    /// of the policy with sorted members and original number literals.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The text that was parsed.
    pub fn source(&self) -> &[u8] {
        &self.source
    }

    /// The rules in evaluation order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Returns whether outcomes change a sum of a budget or a history.
    pub fn depends_on_outcomes(&self) -> bool {
        self.budgets.iter().any(|budget| budget.release_on_failure)
            || self.trackers.iter().any(|tracker| tracker.outcomes != Outcomes::ALL)
    }

    /// The budgets.
    pub fn budgets(&self) -> &[Budget] {
        &self.budgets
    }
}
