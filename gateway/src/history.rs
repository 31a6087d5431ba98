//! Histories: conditions on earlier decisions of a tenant.
//!
//! Each distinct history of a policy is an account of the budgets' machinery. An `allow` adds to the
//! accounts of the histories that it is part of. A decision that depends on a history states its
//! assumption about the sum. The transaction that records the decision compares the assumptions
//! with the sums.

use rust_decimal::Decimal;

use crate::budget::Account;

/// Reason code: the values or the number that a history reads cannot be determined.
pub const NOT_MEASURABLE: &str = "history.not_measurable";

/// Prefix of the names of accounts. Names of budgets do not start with it.
pub const PREFIX: &str = "history:";

/// Comparison of the sum of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `>=`
    AtLeast,
    /// `<=`
    AtMost,
    /// `==`
    Equal,
    /// `>`
    Greater,
    /// `<`
    Less,
}

impl Operator {
    /// All operators.
    pub const ALL: [Self; 5] = [Self::Less, Self::AtMost, Self::Greater, Self::AtLeast, Self::Equal];

    /// The word in a policy.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AtLeast => ">=",
            Self::AtMost => "<=",
            Self::Equal => "==",
            Self::Greater => ">",
            Self::Less => "<",
        }
    }

    /// Parses an operator; `None` if it is unknown.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operator| operator.as_str() == word)
    }
}

/// The required range of the sum of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bound {
    /// The comparison.
    pub operator: Operator,
    /// The value to compare with.
    pub value: Decimal,
}

impl Bound {
    /// Returns whether `sum` is within it.
    pub fn holds(&self, sum: Decimal) -> bool {
        match self.operator {
            Operator::AtLeast => sum >= self.value,
            Operator::AtMost => sum <= self.value,
            Operator::Equal => sum == self.value,
            Operator::Greater => sum > self.value,
            Operator::Less => sum < self.value,
        }
    }
}

/// A history condition that a decision depends on.
#[derive(Clone, Debug)]
pub struct Check {
    /// Index of the condition in its policy.
    pub condition: usize,
    /// The account with the sum.
    pub account: Account,
    /// The required range of the sum.
    pub bound: Bound,
    /// Whether the decision assumed that the condition is true.
    pub assumed: bool,
}

/// Whether a history condition is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truth {
    /// Index of the condition in its policy.
    pub condition: usize,
    /// Whether it is true.
    pub holds: bool,
}
