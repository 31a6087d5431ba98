//! Arguments of `recordEvidence`.

use actpass_core::{Error, EvidenceEvent};

use crate::convert::InputObject;

/// The event to record.
///
/// # Errors
///
/// If a member has the wrong type.
pub fn event(members: &InputObject) -> Result<EvidenceEvent, Error> {
    let mut event = EvidenceEvent::new(members.string("eventType")?, members.string("chainId")?);
    event.tool_id = members.optional("toolId")?;
    event.decision = members.optional("decision")?;
    event.reason_code = members.optional("reasonCode")?;
    event.metadata = members.json("metadata");
    event.request_hash = members.optional("requestHash")?;
    event.response_hash = members.optional("responseHash")?;
    Ok(event)
}
