//! The arguments of `recordEvidence`, and of the record of an outcome.

use actpass_core::{Error, EvidenceEvent};

use crate::convert::Members;
use crate::runtime::Door;

pub(crate) fn event(members: &Members) -> Result<EvidenceEvent, Error> {
    let mut event = EvidenceEvent::new(members.string("eventType")?, members.string("chainId")?);
    event.tool_id = members.optional("toolId")?;
    event.decision = members.optional("decision")?;
    event.reason_code = members.optional("reasonCode")?;
    event.metadata = members.json("metadata");
    event.request_hash = members.optional("requestHash")?;
    event.response_hash = members.optional("responseHash")?;
    Ok(event)
}

/// How a permitted action ended: `call` is its number, `response` what it returned, where that is JSON.
pub(crate) fn outcome(members: &Members, door: &Door) -> Result<EvidenceEvent, Error> {
    door.evidence(members.call("call")?, members.switch("returned")?, members.json("response").as_ref())
}
