//! The arguments of `record_evidence`.

use actpass_core::EvidenceEvent;
use pyo3::prelude::*;

use crate::convert::{json_by, optional, string};

/// The members of an event, in the order of the face's parameters.
#[derive(FromPyObject)]
pub(crate) struct EvidenceArguments<'py>(
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
);

impl EvidenceArguments<'_> {
    pub(crate) fn convert(self, default: Option<&Bound<'_, PyAny>>) -> PyResult<EvidenceEvent> {
        let Self(event_type, chain_id, tool_id, decision, reason_code, metadata, request_hash, response_hash) =
            self;
        let mut event =
            EvidenceEvent::new(string("event_type", &event_type)?, string("chain_id", &chain_id)?);
        event.tool_id = optional("tool_id", tool_id.as_ref())?;
        event.decision = optional("decision", decision.as_ref())?;
        event.reason_code = optional("reason_code", reason_code.as_ref())?;
        event.metadata = metadata.map(|metadata| json_by("metadata", &metadata, default)).transpose()?;
        event.request_hash = optional("request_hash", request_hash.as_ref())?;
        event.response_hash = optional("response_hash", response_hash.as_ref())?;
        Ok(event)
    }
}
