//! Approvals.

use actpass_core::{Action, Approval, ApprovalStatus, Error, PendingApproval, Secret, wait_seconds};

use crate::error::NativeError;
use crate::guard::NativePending;
use crate::runtime::catch_panic;

/// The status of an approval.
#[derive(Clone, Copy, Debug, uniffi::Enum)]
pub(crate) enum NativeApprovalStatus {
    /// A person approved it.
    Approved,
    /// It expired before a decision.
    Expired,
    /// It is undecided.
    Pending,
    /// A person rejected it.
    Rejected,
}

impl From<ApprovalStatus> for NativeApprovalStatus {
    fn from(status: ApprovalStatus) -> Self {
        match status {
            ApprovalStatus::Approved => Self::Approved,
            ApprovalStatus::Expired => Self::Expired,
            ApprovalStatus::Pending => Self::Pending,
            ApprovalStatus::Rejected => Self::Rejected,
        }
    }
}

/// An approval.
#[derive(uniffi::Record)]
pub(crate) struct NativeApproval {
    /// Its status.
    pub(crate) status: NativeApprovalStatus,
    /// The decider.
    pub(crate) decided_by: Option<String>,
    /// The JSON text.
    pub(crate) json: String,
}

impl From<&Approval> for NativeApproval {
    fn from(approval: &Approval) -> Self {
        Self {
            status: approval.status().into(),
            decided_by: approval.decided_by().map(Into::into),
            json: approval.as_json().to_owned(),
        }
    }
}

impl From<&PendingApproval> for NativePending {
    fn from(pending: &PendingApproval) -> Self {
        Self { id: pending.id().to_owned(), json: pending.to_json() }
    }
}

/// Parses a stored handle of an action that waits for approval.
#[uniffi::export]
pub(crate) fn native_pending_approval(json: String) -> Result<NativePending, NativeError> {
    catch_panic(|| {
        let id = PendingApproval::parse(&json)?.id().to_owned();
        Ok(NativePending { id, json })
    })
}

/// The action of a stored handle.
pub(crate) fn pending_action(
    json: &str,
    passport: Option<Secret>,
    wait: Option<f64>,
) -> Result<Action, Error> {
    let mut action = PendingApproval::parse(json)?.action();
    if let Some(passport) = passport {
        action = action.passport(passport.expose());
    }
    if let Some(seconds) = wait {
        action = action.wait_for_approval(wait_seconds("wait_for_approval", seconds)?);
    }
    Ok(action)
}
