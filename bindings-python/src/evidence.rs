//! Arguments of `record_evidence`.

use actpass_core::EvidenceEvent;
use pyo3::prelude::*;

use crate::arguments::arguments;
use crate::convert::{json_by, optional, string};

arguments! {
    /// An event, by parameter name.
    EvidenceArguments {
        event_type, chain_id;
        tool_id, decision, reason_code, metadata, request_hash, response_hash,
    }
}

impl EvidenceArguments<'_> {
    pub(crate) fn convert(self, default: Option<&Bound<'_, PyAny>>) -> PyResult<EvidenceEvent> {
        let mut event =
            EvidenceEvent::new(string("event_type", &self.event_type)?, string("chain_id", &self.chain_id)?);
        event.tool_id = optional("tool_id", self.tool_id.as_ref())?;
        event.decision = optional("decision", self.decision.as_ref())?;
        event.reason_code = optional("reason_code", self.reason_code.as_ref())?;
        event.metadata = self.metadata.map(|metadata| json_by("metadata", &metadata, default)).transpose()?;
        event.request_hash = optional("request_hash", self.request_hash.as_ref())?;
        event.response_hash = optional("response_hash", self.response_hash.as_ref())?;
        Ok(event)
    }
}
