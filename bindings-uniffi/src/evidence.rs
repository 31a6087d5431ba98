//! Evidence events.

use actpass_core::json::parse_argument;
use actpass_core::{Error, EvidenceEvent, RecordedEvidence};

/// An event to record.
#[derive(uniffi::Record)]
pub(crate) struct NativeEvent {
    /// The event type.
    pub(crate) event_type: String,
    /// The chain.
    pub(crate) chain_id: String,
    /// The tool.
    pub(crate) tool_id: Option<String>,
    /// The decision word that preceded the event.
    pub(crate) decision: Option<String>,
    /// That decision's reason code.
    pub(crate) reason_code: Option<String>,
    /// The JSON text of an object.
    pub(crate) metadata: Option<String>,
    /// The hash of the request.
    pub(crate) request_hash: Option<String>,
    /// The hash of the result.
    pub(crate) response_hash: Option<String>,
}

impl NativeEvent {
    pub(crate) fn convert(self) -> Result<EvidenceEvent, Error> {
        let mut event = EvidenceEvent::new(self.event_type, self.chain_id);
        event.tool_id = self.tool_id;
        event.decision = self.decision;
        event.reason_code = self.reason_code;
        event.metadata = self.metadata.map(|metadata| parse_argument("metadata", &metadata)).transpose()?;
        event.request_hash = self.request_hash;
        event.response_hash = self.response_hash;
        Ok(event)
    }
}

/// A recorded event.
#[derive(uniffi::Record)]
pub(crate) struct NativeRecorded {
    /// Its id.
    pub(crate) event_id: String,
    /// Its hash, which the next event of the chain includes.
    pub(crate) current_event_hash: Option<String>,
    /// The JSON text of the response.
    pub(crate) json: String,
}

impl From<&RecordedEvidence> for NativeRecorded {
    fn from(recorded: &RecordedEvidence) -> Self {
        Self {
            event_id: recorded.event_id().into_owned(),
            current_event_hash: recorded.current_event_hash().map(Into::into),
            json: recorded.as_json().to_owned(),
        }
    }
}
