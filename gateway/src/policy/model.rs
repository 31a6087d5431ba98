//! The validated policy model.

use std::fmt;
use std::hash::{BuildHasherDefault, DefaultHasher};

use actpass_protocol::Json;
use actpass_protocol::json::Number;
use regex::Regex;
use rust_decimal::Decimal;

use crate::budget::{Outcomes, Window};
use crate::history::Bound as HistoryBound;
use crate::quorum::Requirement;

/// A rule: its decision applies if all its conditions hold.
#[derive(Clone, Debug)]
pub struct Rule {
    pub(super) name: String,
    pub(super) when: Vec<Condition>,
    /// Indexes of its history conditions, which must all be true as well.
    pub(super) histories: Vec<usize>,
    pub(super) decision: Decision,
    pub(super) reason: String,
    pub(super) risk_tier: Option<RiskTier>,
    pub(super) next_steps: Vec<String>,
    pub(super) approval: Option<Requirement>,
}

impl Rule {
    /// The unique name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The decision.
    pub fn decision(&self) -> Decision {
        self.decision
    }

    /// The reason code.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The risk tier; `None` if not specified.
    pub fn risk_tier(&self) -> Option<RiskTier> {
        self.risk_tier
    }

    /// Returns whether it has conditions on earlier decisions.
    pub fn has_history(&self) -> bool {
        !self.histories.is_empty()
    }

    /// Indexes of its history conditions, as in [`Check`](crate::history::Check).
    pub fn histories(&self) -> &[usize] {
        &self.histories
    }

    /// The required people, if the rule specifies them.
    pub fn approval(&self) -> Option<&Requirement> {
        self.approval.as_ref()
    }

    /// Next steps after the decision, in sentences.
    pub fn next_steps(&self) -> &[String] {
        &self.next_steps
    }
}

/// A budget: a limit on the sum or the number of allowed actions of an account over a trailing
/// window.
#[derive(Clone, Debug)]
pub struct Budget {
    pub(super) name: String,
    pub(super) when: Vec<Condition>,
    /// Paths whose values identify the account.
    pub(super) per: Vec<usize>,
    pub(super) measure: Measure,
    pub(super) limit: Decimal,
    pub(super) window: Window,
    pub(super) on_exceed: OnExceed,
    pub(super) reason: String,
    pub(super) release_on_failure: bool,
}

impl Budget {
    /// The unique name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The limit.
    pub fn limit(&self) -> Decimal {
        self.limit
    }

    /// The window.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// The decision about an action that would exceed the limit.
    pub fn on_exceed(&self) -> OnExceed {
        self.on_exceed
    }

    /// The reason code of that decision.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether an action that failed returns its amount.
    pub fn release_on_failure(&self) -> bool {
        self.release_on_failure
    }
}

/// The amount of an action.
#[derive(Clone, Copy, Debug)]
pub(super) enum Measure {
    /// One.
    Count,
    /// The number at a path.
    Sum(usize),
}

impl Measure {
    /// Index of the path of the number to sum.
    pub(super) const fn path(self) -> Option<usize> {
        match self {
            Self::Count => None,
            Self::Sum(path) => Some(path),
        }
    }
}

/// The decision about an action that would exceed a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExceed {
    /// The action may not run.
    Deny,
    /// The action may run after a person approves it.
    RequireApproval,
}

impl OnExceed {
    /// All decisions.
    pub const ALL: [Self; 2] = [Self::Deny, Self::RequireApproval];

    /// The word in a policy.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::RequireApproval => "require_approval",
        }
    }

    /// Parses a decision; `None` if it is unknown.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|decision| decision.as_str() == word)
    }
}

/// A rule's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The action may run.
    Allow,
    /// The action may not run.
    Deny,
    /// The action may run after a person approves it.
    RequireApproval,
}

impl Decision {
    /// All decisions.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Deny, Self::RequireApproval];

    /// The word used on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::RequireApproval => "require_approval",
        }
    }

    /// Parses a decision word; `None` if it is unknown.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|decision| decision.as_str() == word)
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Risk tier of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RiskTier {
    /// `critical`
    Critical,
    /// `high`
    High,
    /// `low`
    Low,
    /// `medium`
    Medium,
}

impl RiskTier {
    /// All tiers in ascending order.
    pub const ALL: [Self; 4] = [Self::Low, Self::Medium, Self::High, Self::Critical];

    /// The word used on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Low => "low",
            Self::Medium => "medium",
        }
    }

    /// Parses a tier word; `None` if it is unknown.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == word)
    }
}

/// A condition on the sum of a history.
#[derive(Clone, Debug)]
pub(super) struct History {
    /// Index of the tracker.
    pub(super) tracker: usize,
    pub(super) bound: HistoryBound,
}

/// The earlier actions of a history and the amount that each of them counts.
#[derive(Clone, Debug)]
pub(super) struct Tracker {
    /// Name of its accounts: a prefix and the hash of its definition.
    pub(super) account: String,
    /// Conditions on an earlier request.
    pub(super) of: Vec<Condition>,
    /// The outcomes of an earlier action.
    pub(super) outcomes: Outcomes,
    /// Paths whose values must be the same in both requests.
    pub(super) same: Vec<usize>,
    pub(super) measure: Measure,
    pub(super) window: Window,
}

/// The kind of a history condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HistoryKind {
    /// At least one earlier action.
    After,
    /// A comparison of the number of earlier actions.
    Count,
    /// No earlier action.
    Never,
    /// A comparison of a sum over earlier actions.
    Sum,
}

impl HistoryKind {
    pub(super) const ALL: [Self; 4] = [Self::After, Self::Never, Self::Count, Self::Sum];

    /// The word in a policy.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::After => "after",
            Self::Count => "count",
            Self::Never => "never",
            Self::Sum => "sum",
        }
    }

    pub(super) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Condition {
    /// Index of the path.
    pub(super) path: usize,
    pub(super) test: Test,
}

#[derive(Clone, Debug)]
pub(super) enum Test {
    /// Compares with the value at another path.
    Compare(Comparison, usize),
    Contains(Json),
    EndsWith(String),
    Equal(Json),
    Exists(bool),
    /// An object without other members.
    HasOnly(HashSet<String>),
    In(List),
    Matches(Regex),
    NotEqual(Json),
    NotIn(List),
    Order(Relation, Bound),
    StartsWith(String),
}

/// Comparison of two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Contains,
    EndsWith,
    Equal,
    In,
    NotEqual,
    NotIn,
    Order(Relation),
    StartsWith,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    AtLeast,
    AtMost,
    Greater,
    Less,
}

#[derive(Clone, Debug)]
pub(super) enum Bound {
    Number(Number),
    Text(String),
}

/// Hash state with a fixed seed, so that evaluation costs are the same in every process.
///
/// Only the operator, who writes the policy, determines the keys. Requests only look keys up, so
/// they cannot cause collisions.
pub(super) type FixedState = BuildHasherDefault<DefaultHasher>;

/// A map with a fixed seed. Loading uses it as well, because the memory layout affects evaluation.
pub(super) type HashMap<K, V> = std::collections::HashMap<K, V, FixedState>;

/// A set with a fixed seed.
pub(super) type HashSet<T> = std::collections::HashSet<T, FixedState>;

/// Values of one type. Strings are hashed, so that long lists cost no more than short ones.
#[derive(Clone, Debug)]
pub(super) enum List {
    Strings(HashSet<String>),
    Values(Vec<Json>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Root {
    AgentId,
    Args,
    Goal,
    Passport,
    Resource,
    RiskTier,
    Tool,
    UserId,
}

impl Root {
    pub(super) const ALL: [Self; 8] = [
        Self::Tool,
        Self::Resource,
        Self::Args,
        Self::Goal,
        Self::AgentId,
        Self::UserId,
        Self::Passport,
        Self::RiskTier,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::AgentId => "agent_id",
            Self::Args => "args",
            Self::Goal => "goal",
            Self::Passport => "passport",
            Self::Resource => "resource",
            Self::RiskTier => "risk_tier",
            Self::Tool => "tool",
            Self::UserId => "user_id",
        }
    }

    /// Returns whether the root has members.
    pub(super) const fn is_object(self) -> bool {
        match self {
            Self::Args | Self::Passport => true,
            Self::AgentId | Self::Goal | Self::Resource | Self::RiskTier | Self::Tool | Self::UserId => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) root: Root,
    pub(super) segments: Vec<Segment>,
}

/// Formats the path as written in a policy.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.root.name())?;
        self.segments.iter().try_for_each(|segment| write!(f, ".{}", segment.name))
    }
}

/// A path segment: a member name or an array index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) index: Option<usize>,
}
