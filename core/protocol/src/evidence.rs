//! Words of evidence events.

/// The type of the event that records how an action ended.
pub const ACTION_OUTCOME: &str = "action.outcome";

/// The chain of decisions.
pub const DECISIONS: &str = "decisions";

/// The end of an action, as recorded in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionEnd {
    /// It was cancelled after it had begun: the program or its task is ending.
    Cancelled,
    /// It failed with its own error.
    Failed,
    /// It returned.
    Returned,
    /// A framework's control-flow signal suspended it.
    Suspended,
}

impl ActionEnd {
    /// The word in the event.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Returned => "returned",
            Self::Suspended => "suspended",
        }
    }
}
