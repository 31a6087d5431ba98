//! What enforce decides about a request, and for which reason: every way there is.

use crate::approvals::reason;
use crate::passport::PassportError;
use crate::policy::{self, NO_MATCH, RiskTier, Rule};
use crate::{auth, vault};

/// The reason code of a tool whose manifest is another one than was approved.
pub const MANIFEST_CHANGED: &str = "tool.manifest_changed";

/// The reason code of a tool of which no manifest was approved.
const MANIFEST_UNKNOWN: &str = "tool.not_registered";

/// What enforce decides. The list is closed: an `allow` is [`Ruling::ByRule`] of a rule that allows, or
/// [`Ruling::Approved`], and nothing else.
#[derive(Clone, Debug)]
pub(super) enum Ruling<'p> {
    /// A person approved the action.
    Approved { rule: &'p Rule, approval: String },
    /// The rule decides; or it requires an approval in a mode that opens no request.
    ByRule(&'p Rule),
    /// It would be allowed, but the tool's credential has expired.
    CredentialExpired(Box<Self>),
    /// The rule requires an approval, and as many requests as may be pending are.
    TooManyPending { rule: &'p Rule, limit: u32 },
    /// The tool's manifest is another one than was approved.
    ManifestChanged,
    /// No manifest of the tool was approved.
    ManifestUnknown,
    /// No rule matches.
    NoMatch,
    /// The API key may not make such a request.
    NotGranted(Grant),
    /// The passport is refused.
    Passport(PassportError),
    /// The approval that the request names is not decided yet.
    Pending { rule: &'p Rule, approval: String },
    /// The rule requires an approval, and the request has none that holds.
    Unapproved { rule: &'p Rule, approval: Option<String>, problem: Unapproved },
    /// The rule requires an approval, which this request asked for, or an earlier one for the same action.
    ApprovalRequested { rule: &'p Rule, approval: String },
}

/// A decision of enforce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Allow,
    Deny,
    RequireApproval,
    RequireToolReapproval,
}

impl Decision {
    /// The word on the wire.
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

/// Why a request has no approval that holds.
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
    /// What enforce decides.
    pub(super) fn decision(&self) -> Decision {
        match self {
            Self::Approved { .. } => Decision::Allow,
            Self::ByRule(rule) => rule.decision().into(),
            Self::CredentialExpired(_)
            | Self::TooManyPending { .. }
            | Self::NoMatch
            | Self::NotGranted(_)
            | Self::Passport(_)
            | Self::Unapproved { .. } => Decision::Deny,
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
            Self::ByRule(rule) | Self::ApprovalRequested { rule, .. } => rule.reason(),
            Self::CredentialExpired(_) => vault::EXPIRED,
            Self::TooManyPending { .. } => reason::TOO_MANY_PENDING,
            Self::ManifestChanged => MANIFEST_CHANGED,
            Self::ManifestUnknown => MANIFEST_UNKNOWN,
            Self::NoMatch => NO_MATCH,
            Self::NotGranted(Grant::Mode) => auth::reason::MODE,
            Self::NotGranted(Grant::Tool) => auth::reason::TOOL,
            Self::NotGranted(Grant::User) => auth::reason::USER,
            Self::Passport(refusal) => refusal.code(),
            Self::Pending { .. } => reason::PENDING,
            Self::Unapproved { problem, .. } => problem.reason(),
        }
    }

    /// The rule that matched, if one was looked for and did.
    pub(super) fn rule(&self) -> Option<&'p Rule> {
        match self {
            Self::Approved { rule, .. }
            | Self::ByRule(rule)
            | Self::TooManyPending { rule, .. }
            | Self::Pending { rule, .. }
            | Self::Unapproved { rule, .. }
            | Self::ApprovalRequested { rule, .. } => Some(rule),
            Self::CredentialExpired(allowed) => allowed.rule(),
            Self::ManifestChanged
            | Self::ManifestUnknown
            | Self::NoMatch
            | Self::NotGranted(_)
            | Self::Passport(_) => None,
        }
    }

    /// How risky the action is: as the rule says, `medium` if it does not say, `high` if no rule matched.
    pub(super) fn risk_tier(&self) -> RiskTier {
        self.rule().map_or(RiskTier::High, |rule| rule.risk_tier().unwrap_or(RiskTier::Medium))
    }

    /// The approval that was named, used or asked for.
    pub(super) fn approval(&self) -> Option<&str> {
        match self {
            Self::Approved { approval, .. }
            | Self::Pending { approval, .. }
            | Self::ApprovalRequested { approval, .. } => Some(approval),
            Self::Unapproved { approval, .. } => approval.as_deref(),
            Self::CredentialExpired(allowed) => allowed.approval(),
            Self::ByRule(_)
            | Self::TooManyPending { .. }
            | Self::ManifestChanged
            | Self::ManifestUnknown
            | Self::NoMatch
            | Self::NotGranted(_)
            | Self::Passport(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use actpass_protocol::DecisionWord;

    use super::*;

    /// A client that does not know the word runs nothing, whatever was decided.
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
