//! Approvals.

use actpass_core::{Action, Approval, ApprovalStatus, Error, PendingApproval, Secret, wait_seconds};

use crate::error::NativeError;
use crate::guard::NativePending;
use crate::runtime::catch_panic;

/// Where an approval stands.
#[derive(Clone, Copy, Debug, uniffi::Enum)]
pub(crate) enum NativeApprovalStatus {
    /// A person approved it.
    Approved,
    /// Its deadline passed.
    Expired,
    /// Nobody has decided yet.
    Pending,
    /// A person rejected it.
    Rejected,
}

/// An approval.
#[derive(uniffi::Record)]
pub(crate) struct NativeApproval {
    /// Where it stands.
    pub(crate) status: NativeApprovalStatus,
    /// Who decided.
    pub(crate) decided_by: Option<String>,
    /// The whole of it.
    pub(crate) json: String,
}

impl From<&Approval> for NativeApproval {
    fn from(approval: &Approval) -> Self {
        let status = match approval.status() {
            ApprovalStatus::Approved => NativeApprovalStatus::Approved,
            ApprovalStatus::Expired => NativeApprovalStatus::Expired,
            ApprovalStatus::Pending => NativeApprovalStatus::Pending,
            ApprovalStatus::Rejected => NativeApprovalStatus::Rejected,
        };
        Self {
            status,
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

/// Reads what was kept of an action that waits for a person.
#[uniffi::export]
pub(crate) fn native_pending_approval(json: String) -> Result<NativePending, NativeError> {
    catch_panic(|| {
        let id = PendingApproval::parse(&json)?.id().to_owned();
        Ok(NativePending { id, json })
    })
}

/// The action that was kept, to be asked about again.
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
