//! The bodies of requests: the members, their order and their spacing are those of the 1.1.3 client, byte for byte. What
//! that client does not know is left out unless it was given.

use bytes::Bytes;

use crate::action::{self, Members};
use crate::error::Error;
use crate::evidence::EvidenceEvent;
use crate::passport::{PassportRequest, VerifyRequest};
use actpass_protocol::json::{Style, Text};
use actpass_protocol::{Json, Mode, Secret};

pub(crate) fn preflight(
    action: &Members,
    agent_id: &str,
    mode: Mode,
    idempotency_key: &str,
) -> Result<Bytes, Error> {
    needed("goal", &action.goal)?;
    needed("tool", &action.tool)?;
    needed("idempotency_key", idempotency_key)?;
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
    body.optional("user_id", action.user_id.as_deref());
    body.optional("passport", action.passport.as_ref().map(Secret::expose));
    body.string("mode", mode.as_str());
    body.string("idempotency_key", idempotency_key);
    body.optional("audience", action.audience.as_deref());
    for (name, value) in action.added() {
        body.given(name, value);
    }
    Ok(body.finish())
}

pub(crate) fn issue(wanted: &PassportRequest, agent_id: &str) -> Result<Bytes, Error> {
    needed("audience", &wanted.audience)?;
    needed("goal", &wanted.goal)?;
    needed("risk_tier", &wanted.risk_tier)?;
    let mut body = Body::new();
    body.string("audience", &wanted.audience);
    body.string("agent_id", agent_id);
    body.string("goal", &wanted.goal);
    body.strings("allowed_tools", &wanted.allowed_tools);
    body.strings("allowed_resources", &wanted.allowed_resources);
    body.object("resource_constraints", Some(&wanted.resource_constraints))?;
    body.optional("user_id", wanted.user_id.as_deref());
    body.string("risk_tier", &wanted.risk_tier);
    body.raw(
        "ttl_seconds",
        &wanted.ttl_seconds.map_or_else(|| "null".to_owned(), |seconds| seconds.to_string()),
    );
    body.given("approval_request_id", wanted.approval_request_id.as_deref());
    Ok(body.finish())
}

pub(crate) fn verify(wanted: &VerifyRequest) -> Result<Bytes, Error> {
    needed("token", wanted.token.expose())?;
    needed("audience", &wanted.audience)?;
    let mut body = Body::new();
    body.string("token", wanted.token.expose());
    body.string("audience", &wanted.audience);
    body.optional("agent_id", wanted.agent_id.as_deref());
    body.optional("user_id", wanted.user_id.as_deref());
    body.optional("current_tool_manifest_hash", wanted.current_tool_manifest_hash.as_deref());
    body.optional("policy_hash", wanted.policy_hash.as_deref());
    Ok(body.finish())
}

pub(crate) fn revoke(jti: &str, reason: Option<&str>) -> Result<Bytes, Error> {
    needed("jti", jti)?;
    let mut body = Body::new();
    body.string("jti", jti);
    body.optional("reason", reason);
    Ok(body.finish())
}

pub(crate) fn evidence(event: &EvidenceEvent) -> Result<Bytes, Error> {
    needed("event_type", &event.event_type)?;
    needed("chain_id", &event.chain_id)?;
    let mut body = Body::new();
    body.string("event_type", &event.event_type);
    body.string("chain_id", &event.chain_id);
    body.optional("tool_id", event.tool_id.as_deref());
    body.optional("decision", event.decision.as_deref());
    body.optional("reason_code", event.reason_code.as_deref());
    body.object("metadata", event.metadata.as_ref())?;
    body.optional("request_hash", event.request_hash.as_deref());
    body.optional("response_hash", event.response_hash.as_deref());
    Ok(body.finish())
}

pub(crate) fn needed(member: &str, value: &str) -> Result<(), Error> {
    match value.is_empty() {
        true => Err(Error::argument(member, "expected a non-empty string")),
        false => Ok(()),
    }
}

/// The object of a request being written.
struct Body {
    text: Text,
    members: usize,
}

impl Body {
    fn new() -> Self {
        let mut text = Text::new(Style::PythonCompat);
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

    /// `null` where it was not given.
    fn optional(&mut self, key: &str, value: Option<&str>) {
        match value {
            Some(value) => self.string(key, value),
            None => self.raw(key, "null"),
        }
    }

    /// Left out where it was not given.
    fn given(&mut self, key: &str, value: Option<&str>) {
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
                let mut text = Text::new(Style::PythonCompat);
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
