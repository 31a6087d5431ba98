//! Arguments of `waitForApproval`.

use std::time::Duration;

use actpass_core::Error;

use crate::convert::InputObject;

/// The id of an approval and the wait for its decision.
///
/// # Errors
///
/// If a member has the wrong type.
pub fn awaited(members: &InputObject) -> Result<(String, Duration), Error> {
    Ok((members.string("approvalRequestId")?, members.wait("timeoutMs")?.unwrap_or_default()))
}
