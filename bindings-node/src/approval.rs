//! Arguments of `waitForApproval`.

use std::time::Duration;

use actpass_core::Error;

use crate::convert::InputObject;

pub(crate) fn awaited(members: &InputObject) -> Result<(String, Duration), Error> {
    Ok((members.string("approvalRequestId")?, members.wait("timeoutMs")?.unwrap_or_default()))
}
