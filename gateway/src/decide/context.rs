//! What is known beside a request when it is decided.

use std::sync::Arc;

use crate::approvals::Approval;
use crate::passport::{Claims, PassportError};
use crate::store::{EarlierResponse, ManifestPin, PassportState};

/// What is known beside the request when it is decided.
#[derive(Clone, Debug, Default)]
pub struct DecisionContext {
    /// The issuer that this gateway is.
    pub issuer: Arc<str>,
    /// The time, in seconds since 1970.
    pub now: i64,
    /// For how many seconds an approval may be decided.
    pub approval_seconds: i64,
    /// The approval that the request names or else its passport stands for, if there is one, or what an earlier answer
    /// under its idempotency key rested on; the inner `None` if there is no such.
    pub approval: Option<Option<Approval>>,
    /// The live request for the same action, where the request names no approval.
    pub live_approval: Option<Approval>,
    /// Whether approvals are found by their action.
    pub reuse_approvals: bool,
    /// What was answered under the request's idempotency key before.
    pub earlier: Option<EarlierResponse>,
    /// For how many seconds an answer is kept under its idempotency key.
    pub retention_seconds: i64,
    /// Which manifest of the tool is approved, if the request names one.
    pub manifest_pin: Option<ManifestPin>,
    /// How many approval requests of one key may be pending, if this key has as many.
    pub pending_limit: Option<u32>,
    /// What the manifest is that the request names.
    pub manifest: ManifestState,
    /// The credential of the tool, if it has one. Only an `allow` depends on it.
    pub credential: Option<ToolCredential>,
    /// The outcome of verifying the passport that the request shows, if it shows one.
    pub passport: Option<Result<PresentedPassport, PassportError>>,
}

/// What a tool's manifest is, by the hash that a request names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ManifestState {
    /// The one that was approved, or the request names none.
    #[default]
    Approved,
    /// Another one than was approved.
    Changed,
    /// One of a tool of which none was approved.
    Unknown,
}

impl ManifestState {
    /// What the manifest with `hash` is, if the one of its tool that was approved last has the hash `approved`.
    pub fn of(approved: Option<&str>, hash: &str) -> Self {
        match approved {
            None => Self::Unknown,
            Some(approved) if approved == hash => Self::Approved,
            Some(_) => Self::Changed,
        }
    }
}

/// A credential of a tool.
#[derive(Clone, Debug)]
pub struct ToolCredential {
    /// Its id.
    pub id: String,
    /// Whether it no longer holds.
    pub expired: bool,
    /// Until when it holds, in seconds since 1970; `None` if nobody said.
    pub expires_at: Option<i64>,
}

/// A passport whose signature is good.
#[derive(Clone, Debug)]
pub struct PresentedPassport {
    /// What it claims.
    pub claims: Claims,
    /// What became of it; `None` if it is not known to have been issued.
    pub standing: Option<PassportState>,
}
