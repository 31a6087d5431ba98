//! Inputs of a decision other than the request.

use std::sync::Arc;

use crate::approvals::Approval;
use crate::dpop::Thumbprint;
use crate::halts::ActiveHalts;
use crate::history::Truth;
use crate::passport::{Claims, PassportError};
use crate::store::{EarlierResponse, ManifestPin, PassportState};

/// All inputs of a decision other than the request and the key.
#[derive(Clone, Debug, Default)]
pub struct DecisionContext {
    /// The active halts.
    pub halts: Arc<ActiveHalts>,
    /// This gateway's issuer.
    pub issuer: Arc<str>,
    /// Current time, in seconds since 1970.
    pub now: i64,
    /// Time to decide an approval, in seconds.
    pub approval_seconds: i64,
    /// The approval named by the request, by its passport, or by an earlier response under its
    /// idempotency key. The inner `None` means that it does not exist.
    pub approval: Option<Option<Approval>>,
    /// The live approval for the same action if the request names no approval.
    pub live_approval: Option<Approval>,
    /// Whether approvals are reused for the same action.
    pub reuse_approvals: bool,
    /// The earlier response under the request's idempotency key.
    pub earlier: Option<EarlierResponse>,
    /// Retention of responses under idempotency keys, in seconds.
    pub retention_seconds: i64,
    /// The approved manifest of the tool if the request names one.
    pub manifest_pin: Option<ManifestPin>,
    /// The limit of pending approvals, if it is reached.
    pub pending_limit: Option<u32>,
    /// The budget that requires an approval because the action would exceed it, by name.
    pub over_budget: Option<String>,
    /// Whether the result contains the request, for a capture or a shadow policy.
    pub keeps_request: bool,
    /// The history conditions whose truth is known. The histories of others are assumed empty.
    pub history: Vec<Truth>,
    /// State of the manifest named in the request.
    pub manifest: ManifestState,
    /// The tool's credential, if any. Only an `allow` depends on it.
    pub credential: Option<ToolCredential>,
    /// Result of verifying the request's passport, if any.
    pub passport: Option<Result<PresentedPassport, PassportError>>,
    /// The key that signed the request's DPoP proof.
    pub proven_key: Option<Thumbprint>,
}

/// State of a tool's manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ManifestState {
    /// It is the approved one, or the request names no manifest.
    #[default]
    Approved,
    /// It differs from the approved one.
    Changed,
    /// The tool has no approved manifest.
    Unknown,
}

impl ManifestState {
    /// Compares `hash` with the hash of the last approved manifest.
    pub fn of(approved: Option<&str>, hash: &str) -> Self {
        match approved {
            None => Self::Unknown,
            Some(approved) if approved == hash => Self::Approved,
            Some(_) => Self::Changed,
        }
    }
}

/// A tool's credential, without its secret.
#[derive(Clone, Debug)]
pub struct ToolCredential {
    /// Its id.
    pub id: String,
    /// Whether it has expired.
    pub expired: bool,
    /// Expiry, in seconds since 1970; `None` for no expiry.
    pub expires_at: Option<i64>,
}

/// A passport with a valid signature.
#[derive(Clone, Debug)]
pub struct PresentedPassport {
    /// Its claims.
    pub claims: Claims,
    /// Its state; `None` if this gateway has no record of issuing it.
    pub standing: Option<PassportState>,
}
