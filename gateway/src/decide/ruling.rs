//! Rulings: all possible decisions of the mode enforce and their reasons.

use crate::approvals::reason;
use crate::halts::{HALTED, Halt};
use crate::passport::PassportError;
use crate::policy::{self, Budget, NO_MATCH, NotMeasurable, OnExceed, RiskTier, Rule, Unmeasured};
use crate::quorum::Requirement;
use crate::{auth, budget, history, vault};

/// Reason code: the tool's manifest differs from the approved one.
pub const MANIFEST_CHANGED: &str = "tool.manifest_changed";

/// Reason code: the tool has no approved manifest.
const MANIFEST_UNKNOWN: &str = "tool.not_registered";

/// The reason for an approval: a rule, or a budget that an action allowed by the rule would exceed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand<'p> {
    /// The matching rule.
    pub(super) rule: &'p Rule,
    pub(super) budget: Option<&'p Budget>,
}

impl<'p> Demand<'p> {
    /// Returns who must approve.
    pub(super) fn requirement(&self) -> Requirement {
        let of_rule = self.rule.approval().filter(|_| self.budget.is_none());
        of_rule.cloned().unwrap_or_default()
    }

    /// The reason code.
    pub(super) fn reason(&self) -> &'p str {
        self.budget.map_or_else(|| self.rule.reason(), Budget::reason)
    }
}

/// The decision of the mode enforce. Only [`Ruling::Approved`] and [`Ruling::ByRule`] with an
/// allowing rule are an `allow`.
#[derive(Clone, Debug)]
pub(super) enum Ruling<'p> {
    /// A person approved the action.
    Approved { demand: Demand<'p>, approval: String },
    /// A rule decides, or it requires an approval in a mode that opens none.
    ByRule(&'p Rule),
    /// Would be allowed, but the tool's credential has expired.
    CredentialExpired(Box<Self>),
    /// A halt stops the action.
    Halted(&'p Halt),
    /// A history that matters, or that the action allowed by `rule` is part of, cannot be measured.
    HistoryNotMeasurable { rule: Option<&'p Rule>, problem: Unmeasured },
    /// An approval is required and the limit of pending approvals is reached.
    TooManyPending { demand: Demand<'p>, limit: u32 },
    /// The tool's manifest differs from the approved one.
    ManifestChanged,
    /// The tool has no approved manifest.
    ManifestUnknown,
    /// No rule matches.
    NoMatch,
    /// A budget that applies cannot measure the action.
    NotMeasurable { rule: &'p Rule, problem: NotMeasurable<'p> },
    /// The API key does not permit the request.
    NotGranted(Grant),
    /// The action would exceed a budget that denies, or that requires an approval in a mode that
    /// opens none.
    OverBudget { rule: &'p Rule, budget: &'p Budget },
    /// The passport is rejected.
    Passport(PassportError),
    /// The named approval is pending.
    Pending { demand: Demand<'p>, approval: String },
    /// An approval is required and the request has no usable one.
    Unapproved { demand: Demand<'p>, approval: Option<String>, problem: Unapproved },
    /// An approval is required that this request, or an earlier one for the same action, opened.
    ApprovalRequested { demand: Demand<'p>, approval: String },
}

/// A decision word of the mode enforce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Allow,
    Deny,
    RequireApproval,
    RequireToolReapproval,
}

impl Decision {
    /// The word used on the wire.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::RequireApproval => "require_approval",
            Self::RequireToolReapproval => "require_tool_reapproval",
        }
    }
}

impl From<policy::Decision> for Decision {
    fn from(decision: policy::Decision) -> Self {
        match decision {
            policy::Decision::Allow => Self::Allow,
            policy::Decision::Deny => Self::Deny,
            policy::Decision::RequireApproval => Self::RequireApproval,
        }
    }
}

/// A grant of an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    Mode,
    Tool,
    User,
}

/// Why a request has no usable approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unapproved {
    ActionMismatch,
    Expired,
    NotHashable,
    NotProven,
    Rejected,
    Spent,
    Unknown,
}

impl Unapproved {
    const fn reason(self) -> &'static str {
        match self {
            Self::ActionMismatch => reason::ACTION_MISMATCH,
            Self::Expired => reason::EXPIRED,
            Self::NotHashable => reason::NOT_HASHABLE,
            Self::NotProven => reason::NOT_PROVEN,
            Self::Rejected => reason::REJECTED,
            Self::Spent => reason::SPENT,
            Self::Unknown => reason::UNKNOWN,
        }
    }
}

impl<'p> Ruling<'p> {
    /// Returns the decision.
    pub(super) fn decision(&self) -> Decision {
        match self {
            Self::Approved { .. } => Decision::Allow,
            Self::ByRule(rule) => rule.decision().into(),
            Self::CredentialExpired(_)
            | Self::Halted(_)
            | Self::HistoryNotMeasurable { .. }
            | Self::TooManyPending { .. }
            | Self::NoMatch
            | Self::NotGranted(_)
            | Self::NotMeasurable { .. }
            | Self::Passport(_)
            | Self::Unapproved { .. } => Decision::Deny,
            Self::OverBudget { budget, .. } => match budget.on_exceed() {
                OnExceed::Deny => Decision::Deny,
                OnExceed::RequireApproval => Decision::RequireApproval,
            },
            Self::ManifestChanged | Self::ManifestUnknown => Decision::RequireToolReapproval,
            Self::Pending { .. } | Self::ApprovalRequested { .. } => Decision::RequireApproval,
        }
    }

    pub(super) fn allows(&self) -> bool {
        self.decision() == Decision::Allow
    }

    /// The reason code.
    pub(super) fn reason(&self) -> &'p str {
        match self {
            Self::Approved { .. } => reason::APPROVED,
            Self::ByRule(rule) => rule.reason(),
            Self::ApprovalRequested { demand, .. } => demand.reason(),
            Self::CredentialExpired(_) => vault::EXPIRED,
            Self::Halted(_) => HALTED,
            Self::HistoryNotMeasurable { .. } => history::NOT_MEASURABLE,
            Self::TooManyPending { .. } => reason::TOO_MANY_PENDING,
            Self::ManifestChanged => MANIFEST_CHANGED,
            Self::ManifestUnknown => MANIFEST_UNKNOWN,
            Self::NoMatch => NO_MATCH,
            Self::NotGranted(Grant::Mode) => auth::reason::MODE,
            Self::NotGranted(Grant::Tool) => auth::reason::TOOL,
            Self::NotGranted(Grant::User) => auth::reason::USER,
            Self::NotMeasurable { .. } => budget::NOT_MEASURABLE,
            Self::OverBudget { budget, .. } => budget.reason(),
            Self::Passport(refusal) => refusal.code(),
            Self::Pending { .. } => reason::PENDING,
            Self::Unapproved { problem, .. } => problem.reason(),
        }
    }

    /// Returns the matching rule, if any.
    pub(super) fn rule(&self) -> Option<&'p Rule> {
        match self {
            Self::Approved { demand, .. }
            | Self::TooManyPending { demand, .. }
            | Self::Pending { demand, .. }
            | Self::Unapproved { demand, .. }
            | Self::ApprovalRequested { demand, .. } => Some(demand.rule),
            Self::ByRule(rule) | Self::NotMeasurable { rule, .. } | Self::OverBudget { rule, .. } => {
                Some(rule)
            }
            Self::CredentialExpired(allowed) => allowed.rule(),
            Self::HistoryNotMeasurable { rule, .. } => *rule,
            Self::Halted(_)
            | Self::ManifestChanged
            | Self::ManifestUnknown
            | Self::NoMatch
            | Self::NotGranted(_)
            | Self::Passport(_) => None,
        }
    }

    /// Returns the risk tier: the rule's, `medium` if the rule has none, `high` if no rule matched.
    pub(super) fn risk_tier(&self) -> RiskTier {
        self.rule().map_or(RiskTier::High, |rule| rule.risk_tier().unwrap_or(RiskTier::Medium))
    }

    /// Returns whether a person has approved the action.
    pub(super) fn is_approved(&self) -> bool {
        match self {
            Self::Approved { .. } => true,
            Self::CredentialExpired(allowed) => allowed.is_approved(),
            Self::ApprovalRequested { .. }
            | Self::ByRule(_)
            | Self::Halted(_)
            | Self::HistoryNotMeasurable { .. }
            | Self::TooManyPending { .. }
            | Self::ManifestChanged
            | Self::ManifestUnknown
            | Self::NoMatch
            | Self::NotGranted(_)
            | Self::NotMeasurable { .. }
            | Self::OverBudget { .. }
            | Self::Passport(_)
            | Self::Pending { .. }
            | Self::Unapproved { .. } => false,
        }
    }

    /// Returns the approval that was named, used or opened.
    pub(super) fn approval(&self) -> Option<&str> {
        match self {
            Self::Approved { approval, .. }
            | Self::Pending { approval, .. }
            | Self::ApprovalRequested { approval, .. } => Some(approval),
            Self::Unapproved { approval, .. } => approval.as_deref(),
            Self::CredentialExpired(allowed) => allowed.approval(),
            Self::ByRule(_)
            | Self::Halted(_)
            | Self::HistoryNotMeasurable { .. }
            | Self::TooManyPending { .. }
            | Self::ManifestChanged
            | Self::ManifestUnknown
            | Self::NoMatch
            | Self::NotGranted(_)
            | Self::NotMeasurable { .. }
            | Self::OverBudget { .. }
            | Self::Passport(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use actpass_protocol::DecisionWord;

    use super::*;

    /// A client denies an unknown decision word.
    #[test]
    fn decision_words_match_protocol() {
        for (decision, word) in [
            (Decision::Allow, DecisionWord::Allow),
            (Decision::Deny, DecisionWord::Deny),
            (Decision::RequireApproval, DecisionWord::RequireApproval),
            (Decision::RequireToolReapproval, DecisionWord::RequireToolReapproval),
        ] {
            assert_eq!(DecisionWord::from(decision.as_str()), word);
        }
        for decision in policy::Decision::ALL {
            assert_eq!(Decision::from(decision).as_str(), decision.as_str());
        }
    }
}
