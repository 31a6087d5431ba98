//! The operations and their paths.

/// The calls of the protocol.
///
/// ```
/// use actpass_protocol::Operation;
///
/// assert_eq!(Operation::Preflight.path(), "/api/v1/actions/preflight");
/// assert!(Operation::Preflight.is_idempotent() && !Operation::RecordEvidence.is_idempotent());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Asks for a decision about an action.
    Preflight,
    /// Asks for a passport.
    IssuePassport,
    /// Has the gateway verify a passport.
    VerifyPassport,
    /// Revokes a passport.
    RevokePassport,
    /// Appends an event to a chain of the ledger.
    RecordEvidence,
    /// Fetches the public keys by which passports are verified offline.
    Jwks,
    /// Polls an approval.
    Approval,
}

impl Operation {
    /// Every call.
    pub const ALL: [Self; 7] = [
        Self::Preflight,
        Self::IssuePassport,
        Self::VerifyPassport,
        Self::RevokePassport,
        Self::RecordEvidence,
        Self::Jwks,
        Self::Approval,
    ];

    /// The method's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::IssuePassport => "issue_passport",
            Self::VerifyPassport => "verify_passport",
            Self::RevokePassport => "revoke_passport",
            Self::RecordEvidence => "record_evidence",
            Self::Jwks => "jwks",
            Self::Approval => "approval",
        }
    }

    /// The path below the base URL; where a call names what it is about, that follows.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Preflight => "/api/v1/actions/preflight",
            Self::IssuePassport => "/api/v1/passports/issue",
            Self::VerifyPassport => "/api/v1/passports/verify",
            Self::RevokePassport => "/api/v1/passports/revoke",
            Self::RecordEvidence => "/api/v1/evidence/events",
            Self::Jwks => "/.well-known/jwks.json",
            Self::Approval => "/api/v1/approvals",
        }
    }

    /// Whether it is a `GET`, which has no body; the others are `POST`s.
    pub const fn is_read(self) -> bool {
        match self {
            Self::Approval | Self::Jwks => true,
            Self::Preflight
            | Self::IssuePassport
            | Self::VerifyPassport
            | Self::RevokePassport
            | Self::RecordEvidence => false,
        }
    }

    /// Whether sending it twice is the same as sending it once.
    pub const fn is_idempotent(self) -> bool {
        match self {
            Self::Approval | Self::Jwks | Self::Preflight | Self::RevokePassport | Self::VerifyPassport => {
                true
            }
            Self::IssuePassport | Self::RecordEvidence => false,
        }
    }
}
