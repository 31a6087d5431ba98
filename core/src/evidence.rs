//! Evidence events: entries that the caller appends to the ledger.

use std::borrow::Cow;

use actpass_protocol::Json;
use actpass_protocol::json::RawObject;

/// An event to append to a chain of the ledger.
///
/// ```
/// use actpass_core::EvidenceEvent;
/// use serde_json::json;
///
/// let event = EvidenceEvent::new("refund.sent", "case_42")
///     .tool_id("stripe.refund.create")
///     .metadata(json!({"receipt": "re_1"}));
/// assert_eq!(event.chain_id, "case_42");
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EvidenceEvent {
    /// The event type, in the caller's own naming.
    pub event_type: String,
    /// The chain to append to. The first event creates the chain.
    pub chain_id: String,
    /// The tool.
    pub tool_id: Option<String>,
    /// The decision word that preceded the event.
    pub decision: Option<String>,
    /// The decision's reason code.
    pub reason_code: Option<String>,
    /// Other data, a JSON object.
    pub metadata: Option<Json>,
    /// [`hash_payload`](crate::hash_payload) of the request.
    pub request_hash: Option<String>,
    /// [`hash_payload`](crate::hash_payload) of the result.
    pub response_hash: Option<String>,
}

impl EvidenceEvent {
    /// Creates an event of this type for this chain.
    pub fn new(event_type: impl Into<String>, chain_id: impl Into<String>) -> Self {
        Self {
            event_type: event_type.into(),
            chain_id: chain_id.into(),
            tool_id: None,
            decision: None,
            reason_code: None,
            metadata: None,
            request_hash: None,
            response_hash: None,
        }
    }

    /// Sets the tool.
    #[must_use]
    pub fn tool_id(mut self, tool_id: impl Into<String>) -> Self {
        self.tool_id = Some(tool_id.into());
        self
    }

    /// Sets other data; it must be a JSON object.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Into<Json>) -> Self {
        self.metadata = Some(metadata.into());
        self
    }
}

/// An event that was recorded in the ledger.
///
/// [`ActPass::record_evidence`](crate::ActPass::record_evidence) has an example.
#[derive(Clone, Debug)]
pub struct RecordedEvidence(RawObject);

impl RecordedEvidence {
    pub(crate) fn parse(document: RawObject) -> Result<Self, String> {
        match document.string("event_id") {
            Some(_) => Ok(Self(document)),
            None => Err("missing `event_id`".to_owned()),
        }
    }

    /// The event's id in the ledger.
    pub fn event_id(&self) -> Cow<'_, str> {
        self.0.string("event_id").unwrap_or_default()
    }

    /// The hash of the event. The next event of the chain includes it.
    pub fn current_event_hash(&self) -> Option<Cow<'_, str>> {
        self.0.string("current_event_hash")
    }

    /// The JSON text of the whole response.
    pub fn as_json(&self) -> &str {
        self.0.as_str()
    }
}
