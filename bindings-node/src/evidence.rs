//! Arguments of `recordEvidence`.

use actpass_core::{Error, EvidenceEvent};

use crate::convert::InputObject;

pub(crate) fn event(members: &InputObject) -> Result<EvidenceEvent, Error> {
    let mut event = EvidenceEvent::new(members.string("eventType")?, members.string("chainId")?);
    event.tool_id = members.optional("toolId")?;
    event.decision = members.optional("decision")?;
    event.reason_code = members.optional("reasonCode")?;
    event.metadata = members.json("metadata");
    event.request_hash = members.optional("requestHash")?;
    event.response_hash = members.optional("responseHash")?;
    Ok(event)
}
