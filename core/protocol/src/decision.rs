//! Decision words.

use std::fmt;

/// The word of a decision. An unknown word is kept as [`DecisionWord::Other`] and runs nothing
/// outside `monitor`.
///
/// A new variant is a breaking change, so that every guard that matches on it is reviewed.
///
/// ```
/// use actpass_protocol::DecisionWord;
///
/// assert_eq!(DecisionWord::from("require_approval"), DecisionWord::RequireApproval);
/// assert_eq!(DecisionWord::from("ALLOW"), DecisionWord::Other("ALLOW".to_owned()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecisionWord {
    /// `allow`: the action may run.
    Allow,
    /// `deny`: the action may not run.
    Deny,
    /// An unknown word, as received.
    Other(String),
    /// `require_approval`: a person must approve the action first.
    RequireApproval,
    /// `require_tool_reapproval`: the tool's manifest changed since it was approved.
    RequireToolReapproval,
    /// `warn`: enforce would block the action, and the request has the mode `warn`.
    Warn,
}

impl DecisionWord {
    /// The word as sent on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Other(word) => word,
            Self::RequireApproval => "require_approval",
            Self::RequireToolReapproval => "require_tool_reapproval",
            Self::Warn => "warn",
        }
    }
}

impl From<&str> for DecisionWord {
    fn from(word: &str) -> Self {
        match word {
            "allow" => Self::Allow,
            "deny" => Self::Deny,
            "require_approval" => Self::RequireApproval,
            "require_tool_reapproval" => Self::RequireToolReapproval,
            "warn" => Self::Warn,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for DecisionWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
