//! The words of evidence events.

/// The type of the event that records how an action ended.
pub const ACTION_OUTCOME: &str = "action.outcome";

/// The chain of the decisions.
pub const DECISIONS: &str = "decisions";

/// How an action ended, as the ledger records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionEnd {
    /// It had begun and was stopped: the program or its task ends.
    Cancelled,
    /// It ended with an error of its own.
    Failed,
    /// It returned.
    Returned,
    /// A framework's control-flow signal suspended it.
    Suspended,
}

impl ActionEnd {
    /// Its word in the event.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Returned => "returned",
            Self::Suspended => "suspended",
        }
    }
}
