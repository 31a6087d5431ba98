//! Announcements: the members of events that [webhooks](crate::webhooks) report.

/// An announcement of an event to webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Announcement {
    /// A person decided an approval.
    ApprovalDecided,
    /// An approval's deadline passed without a decision.
    ApprovalExpired,
    /// An action needs a person's approval.
    ApprovalRequested,
    /// An action would have exceeded a budget.
    BudgetExceeded,
    /// A halt was lifted.
    HaltLifted,
    /// A halt started.
    HaltStarted,
    /// A checkpoint of a chain.
    LedgerCheckpoint,
    /// The settings were reloaded.
    PolicyReloaded,
}

impl Announcement {
    /// All announcements.
    pub const ALL: [Self; 8] = [
        Self::ApprovalDecided,
        Self::ApprovalExpired,
        Self::ApprovalRequested,
        Self::BudgetExceeded,
        Self::HaltLifted,
        Self::HaltStarted,
        Self::LedgerCheckpoint,
        Self::PolicyReloaded,
    ];

    /// The word used in settings, events and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ApprovalDecided => "approval.decided",
            Self::ApprovalExpired => "approval.expired",
            Self::ApprovalRequested => "approval.requested",
            Self::BudgetExceeded => "budget.exceeded",
            Self::HaltLifted => "halt.lifted",
            Self::HaltStarted => "halt.started",
            Self::LedgerCheckpoint => "ledger.checkpoint",
            Self::PolicyReloaded => "policy.reloaded",
        }
    }

    /// Parses an announcement's word; `None` if it is unknown.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|announcement| announcement.as_str() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcement_words_are_unique() {
        for announcement in Announcement::ALL {
            assert_eq!(Announcement::parse(announcement.as_str()), Some(announcement));
        }
        assert_eq!(Announcement::parse("approval"), None);
    }
}
