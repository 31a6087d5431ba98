//! The arguments of `waitForApproval`.

use std::time::Duration;

use actpass_core::Error;

use crate::convert::Members;

pub(crate) fn awaited(members: &Members) -> Result<(String, Duration), Error> {
    // Without a limit of one's own it is as long as the core ever waits; the gateway lets approvals expire before.
    Ok((members.string("approvalRequestId")?, members.wait("waitMs")?.unwrap_or(Duration::MAX)))
}
