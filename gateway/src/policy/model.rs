//! What a policy is made of, after it was checked.

use std::fmt;
use std::hash::{BuildHasherDefault, DefaultHasher};

use actpass_protocol::Json;
use actpass_protocol::json::Number;
use regex::Regex;

/// A rule: what it decides when all its conditions hold.
#[derive(Clone, Debug)]
pub struct Rule {
    pub(super) name: String,
    pub(super) when: Vec<Condition>,
    pub(super) decision: Decision,
    pub(super) reason: String,
    pub(super) risk_tier: Option<RiskTier>,
    pub(super) next_steps: Vec<String>,
}

impl Rule {
    /// The name, which no other rule of the policy has.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the rule decides.
    pub fn decision(&self) -> Decision {
        self.decision
    }

    /// The reason code of its decision.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// How risky the action is; `None` if the rule does not say.
    pub fn risk_tier(&self) -> Option<RiskTier> {
        self.risk_tier
    }

    /// What to do after its decision, in sentences.
    pub fn next_steps(&self) -> &[String] {
        &self.next_steps
    }
}

/// What a rule may decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The action may run.
    Allow,
    /// The action may not run.
    Deny,
    /// The action may run after a person approved it.
    RequireApproval,
}

impl Decision {
    /// Every decision.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Deny, Self::RequireApproval];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::RequireApproval => "require_approval",
        }
    }

    /// The decision of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|decision| decision.as_str() == word)
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How risky an action is.
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
    /// Every tier, from the least to the most.
    pub const ALL: [Self; 4] = [Self::Low, Self::Medium, Self::High, Self::Critical];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Low => "low",
            Self::Medium => "medium",
        }
    }

    /// The tier of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == word)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Condition {
    /// Which of the policy's paths.
    pub(super) path: usize,
    pub(super) test: Test,
}

#[derive(Clone, Debug)]
pub(super) enum Test {
    /// Against the value at another of the policy's paths.
    Compare(Comparison, usize),
    Contains(Json),
    EndsWith(String),
    Equal(Json),
    Exists(bool),
    /// An object with no other members than these.
    HasOnly(HashSet<String>),
    In(List),
    Matches(Regex),
    NotEqual(Json),
    NotIn(List),
    Order(Relation, Bound),
    StartsWith(String),
}

/// How two values are compared.
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

/// Hashes with a fixed seed, so that an evaluation costs the same in every process.
///
/// Only the operator, who writes the policy, inserts keys. A request looks keys up and inserts none, so it cannot make a
/// look-up longer than the policy made it.
pub(super) type FixedState = BuildHasherDefault<DefaultHasher>;

/// A map of that kind. Loading uses it as well: how its memory lies when it is done decides what an evaluation costs.
pub(super) type HashMap<K, V> = std::collections::HashMap<K, V, FixedState>;

/// A set of that kind.
pub(super) type HashSet<T> = std::collections::HashSet<T, FixedState>;

/// Values of one type. Strings are looked up, so that a long list of allowed ones costs no more than a short one.
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

    /// Whether it holds members, and is not a string.
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

/// As it is written in a policy.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.root.name())?;
        self.segments.iter().try_for_each(|segment| write!(f, ".{}", segment.name))
    }
}

/// A step of a path: into the member of this name, or into the item at this index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) index: Option<usize>,
}
