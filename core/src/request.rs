//! Request bodies. Their members, order and spacing match client 1.1.3 byte for byte. Members that
//! it does not know are omitted unless set.

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

use crate::action::{self, ActionFields};
use crate::error::Error;
use crate::evidence::EvidenceEvent;
use crate::passport::{PassportRequest, VerifyRequest};
use actpass_protocol::json::{JsonWriter, Style};
use actpass_protocol::{Json, Mode, Secret};

pub(crate) fn preflight(
    action: &ActionFields,
    agent_id: &str,
    mode: Mode,
    idempotency_key: &str,
) -> Result<Bytes, Error> {
    require_non_empty("goal", &action.goal)?;
    require_non_empty("tool", &action.tool)?;
    require_non_empty("idempotency_key", idempotency_key)?;
    if action.passport.as_ref().is_some_and(|passport| passport.expose().is_empty()) {
        return Err(Error::argument("passport", "expected a token, found an empty string"));
    }
    action::check_object("args", &action.args)?;
    if mode == Mode::Strict {
        action::check_canonical("args", &action.args)?;
    }
    let mut body = Body::new();
    body.string("agent_id", agent_id);
    body.string("goal", &action.goal);
    body.string("tool", &action.tool);
    body.string("resource", &action.resource);
    body.raw("args", &action.args);
    body.nullable("user_id", action.user_id.as_deref());
    body.nullable("passport", action.passport.as_ref().map(Secret::expose));
    body.string("mode", mode.as_str());
    body.string("idempotency_key", idempotency_key);
    body.nullable("audience", action.audience.as_deref());
    for (name, value) in action.extension_fields() {
        body.optional(name, value);
    }
    Ok(body.finish())
}

pub(crate) fn issue(request: &PassportRequest, agent_id: &str) -> Result<Bytes, Error> {
    require_non_empty("audience", &request.audience)?;
    require_non_empty("goal", &request.goal)?;
    require_non_empty("risk_tier", &request.risk_tier)?;
    let mut body = Body::new();
    body.string("audience", &request.audience);
    body.string("agent_id", agent_id);
    body.string("goal", &request.goal);
    body.strings("allowed_tools", &request.allowed_tools);
    body.strings("allowed_resources", &request.allowed_resources);
    body.object("resource_constraints", Some(&request.resource_constraints))?;
    body.nullable("user_id", request.user_id.as_deref());
    body.string("risk_tier", &request.risk_tier);
    body.raw(
        "ttl_seconds",
        &request.ttl_seconds.map_or_else(|| "null".to_owned(), |seconds| seconds.to_string()),
    );
    body.optional("approval_request_id", request.approval_request_id.as_deref());
    Ok(body.finish())
}

pub(crate) fn verify(request: &VerifyRequest) -> Result<Bytes, Error> {
    require_non_empty("token", request.token.expose())?;
    require_non_empty("audience", &request.audience)?;
    let mut body = Body::new();
    body.string("token", request.token.expose());
    body.string("audience", &request.audience);
    body.nullable("agent_id", request.agent_id.as_deref());
    body.nullable("user_id", request.user_id.as_deref());
    body.nullable("current_tool_manifest_hash", request.current_tool_manifest_hash.as_deref());
    body.nullable("policy_hash", request.policy_hash.as_deref());
    Ok(body.finish())
}

pub(crate) fn revoke(jti: &str, reason: Option<&str>) -> Result<Bytes, Error> {
    require_non_empty("jti", jti)?;
    let mut body = Body::new();
    body.string("jti", jti);
    body.nullable("reason", reason);
    Ok(body.finish())
}

pub(crate) fn evidence(event: &EvidenceEvent) -> Result<Bytes, Error> {
    require_non_empty("event_type", &event.event_type)?;
    require_non_empty("chain_id", &event.chain_id)?;
    let mut body = Body::new();
    body.string("event_type", &event.event_type);
    body.string("chain_id", &event.chain_id);
    body.nullable("tool_id", event.tool_id.as_deref());
    body.nullable("decision", event.decision.as_deref());
    body.nullable("reason_code", event.reason_code.as_deref());
    body.object("metadata", event.metadata.as_ref())?;
    body.nullable("request_hash", event.request_hash.as_deref());
    body.nullable("response_hash", event.response_hash.as_deref());
    Ok(body.finish())
}

pub(crate) fn acknowledge_halt(epoch: u64, in_flight: usize, agent_id: &str, instance: &str) -> Bytes {
    let mut body = Body::new();
    body.raw("epoch", &epoch.to_string());
    body.raw("in_flight", &in_flight.to_string());
    body.string("agent_id", agent_id);
    body.string("instance", instance);
    body.finish()
}

/// Encodes a segment of a path or a value of a query.
pub(crate) fn encode(text: &str) -> PercentEncode<'_> {
    const KEPT: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, &KEPT)
}

pub(crate) fn require_non_empty(member: &str, value: &str) -> Result<(), Error> {
    match value.is_empty() {
        true => Err(Error::argument(member, "expected a non-empty string")),
        false => Ok(()),
    }
}

/// A request object under construction.
struct Body {
    text: JsonWriter,
    members: usize,
}

impl Body {
    fn new() -> Self {
        let mut text = JsonWriter::new(Style::PythonCompat);
        text.raw("{");
        Self { text, members: 0 }
    }

    fn raw(&mut self, key: &str, json: &str) {
        self.key(key);
        self.text.raw(json);
    }

    fn string(&mut self, key: &str, value: &str) {
        self.key(key);
        self.text.string(value);
    }

    /// `null` if `None`.
    fn nullable(&mut self, key: &str, value: Option<&str>) {
        match value {
            Some(value) => self.string(key, value),
            None => self.raw(key, "null"),
        }
    }

    /// Omitted if `None`.
    fn optional(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.string(key, value);
        }
    }

    fn strings(&mut self, key: &str, values: &[String]) {
        self.key(key);
        self.text.raw("[");
        for (at, value) in values.iter().enumerate() {
            self.text.comma(at);
            self.text.string(value);
        }
        self.text.raw("]");
    }

    fn object(&mut self, key: &str, value: Option<&Json>) -> Result<(), Error> {
        self.key(key);
        match value {
            Some(value) => {
                let mut text = JsonWriter::new(Style::PythonCompat);
                value.write(&mut text);
                action::check_object(key, text.as_str())?;
                self.text.raw(text.as_str());
            }
            None => self.text.raw("null"),
        }
        Ok(())
    }

    fn key(&mut self, key: &str) {
        self.text.comma(self.members);
        self.text.key(key);
        self.members += 1;
    }

    fn finish(mut self) -> Bytes {
        self.text.raw("}");
        Bytes::from(self.text.into_string())
    }
}
