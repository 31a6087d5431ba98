//! Operations and their paths.

/// The operations of the protocol.
///
/// ```
/// use actpass_protocol::Operation;
///
/// assert_eq!(Operation::Preflight.path(), "/api/v1/actions/preflight");
/// assert!(Operation::Preflight.is_idempotent() && !Operation::RecordEvidence.is_idempotent());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Requests a decision about an action.
    Preflight,
    /// Issues a passport.
    IssuePassport,
    /// Verifies a passport at the gateway.
    VerifyPassport,
    /// Revokes a passport.
    RevokePassport,
    /// Appends an event to a chain of the ledger.
    RecordEvidence,
    /// Fetches the public keys for offline passport verification.
    Jwks,
    /// Polls an approval.
    Approval,
    /// Waits for a newer `halt_epoch`.
    WatchHalts,
    /// Acknowledges a `halt_epoch`.
    AcknowledgeHalt,
}

impl Operation {
    /// All operations.
    pub const ALL: [Self; 9] = [
        Self::Preflight,
        Self::IssuePassport,
        Self::VerifyPassport,
        Self::RevokePassport,
        Self::RecordEvidence,
        Self::Jwks,
        Self::Approval,
        Self::WatchHalts,
        Self::AcknowledgeHalt,
    ];

    /// The method name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::IssuePassport => "issue_passport",
            Self::VerifyPassport => "verify_passport",
            Self::RevokePassport => "revoke_passport",
            Self::RecordEvidence => "record_evidence",
            Self::Jwks => "jwks",
            Self::Approval => "approval",
            Self::WatchHalts => "watch_halts",
            Self::AcknowledgeHalt => "acknowledge_halt",
        }
    }

    /// The path relative to the base URL. Operations on a resource append its id.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Preflight => "/api/v1/actions/preflight",
            Self::IssuePassport => "/api/v1/passports/issue",
            Self::VerifyPassport => "/api/v1/passports/verify",
            Self::RevokePassport => "/api/v1/passports/revoke",
            Self::RecordEvidence => "/api/v1/evidence/events",
            Self::Jwks => "/.well-known/jwks.json",
            Self::Approval => "/api/v1/approvals",
            Self::WatchHalts => "/api/v1/halts/watch",
            Self::AcknowledgeHalt => "/api/v1/halts/ack",
        }
    }

    /// Whether it is a `GET` without a body; the others are `POST`s.
    pub const fn is_read(self) -> bool {
        match self {
            Self::Approval | Self::Jwks | Self::WatchHalts => true,
            Self::Preflight
            | Self::IssuePassport
            | Self::VerifyPassport
            | Self::RevokePassport
            | Self::RecordEvidence
            | Self::AcknowledgeHalt => false,
        }
    }

    /// The HTTP method: `GET` or `POST`.
    ///
    /// ```
    /// use actpass_protocol::Operation;
    ///
    /// assert_eq!((Operation::Approval.method(), Operation::Preflight.method()), ("GET", "POST"));
    /// ```
    pub const fn method(self) -> &'static str {
        if self.is_read() { "GET" } else { "POST" }
    }

    /// Whether it is idempotent.
    pub const fn is_idempotent(self) -> bool {
        match self {
            Self::AcknowledgeHalt
            | Self::Approval
            | Self::Jwks
            | Self::Preflight
            | Self::RevokePassport
            | Self::VerifyPassport
            | Self::WatchHalts => true,
            Self::IssuePassport | Self::RecordEvidence => false,
        }
    }
}
