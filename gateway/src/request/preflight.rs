//! A request for a decision.

use actpass_protocol::{Json, Mode, Secret, canonical_json};
use sha2::{Digest, Sha256};

use super::Protocol;
use super::body::{BodyMembers, InvalidMember};
use crate::approvals::Action;
use crate::ledger::idempotency_hash;

/// Maximum length of a tool name, in characters.
pub const MAX_TOOL_CHARACTERS: usize = 256;

/// The member with the approval to use.
const APPROVAL: &str = "approval_request_id";

/// The member with the idempotency key.
const IDEMPOTENCY_KEY: &str = "idempotency_key";

/// A validated preflight request.
///
/// Unknown members are allowed; the hashes cover them.
#[derive(Clone, Debug)]
pub struct Preflight {
    /// The agent's id, as claimed by the client.
    pub agent_id: Option<Text>,
    /// The approval to use for the action.
    pub approval_request_id: Option<String>,
    /// The audience that the passport must name.
    pub audience: Option<String>,
    /// The arguments of the action, an object.
    pub args: Json,
    /// The goal of the agent.
    pub goal: Text,
    /// The idempotency key, if any.
    pub idempotency: Option<IdempotencyKey>,
    /// Mode of the request.
    pub mode: Mode,
    /// The passport, if any.
    pub passport: Option<Secret>,
    /// The protocol through which it came.
    pub protocol: Protocol,
    /// Hash of the body; `None` if it has no canonical form.
    pub request_hash: Option<String>,
    /// The affected resource.
    pub resource: Option<Text>,
    /// The tool to call.
    pub tool: Text,
    /// Hash of the tool's manifest as seen by the agent.
    pub tool_manifest_hash: Option<String>,
    /// The user on whose behalf the agent acts.
    pub user_id: Option<Text>,
}

/// An idempotency key and the body that it is bound to.
#[derive(Clone, Debug)]
pub struct IdempotencyKey {
    /// The key, as chosen by the client.
    pub name: String,
    /// The SHA-256 that identifies equivalent bodies under one key.
    pub fingerprint: [u8; 32],
    /// Binds an event to the key and body; see [`idempotency_hash`].
    pub hash: String,
}

impl Preflight {
    /// Returns whether the mode enforces the decision and consumes single-use grants.
    pub fn consumes(&self) -> bool {
        match self.mode {
            Mode::Enforce | Mode::Strict => true,
            Mode::Monitor | Mode::Warn => false,
        }
    }

    /// Validates and parses `body`.
    ///
    /// # Errors
    ///
    /// Returns the first invalid member.
    pub fn read(body: Json) -> Result<Self, InvalidMember> {
        // Without a canonical form, there is no request hash, and only byte-identical bodies are
        // equivalent.
        let digest = canonical_json(&body).ok().map(|canonical| <[u8; 32]>::from(Sha256::digest(canonical)));
        let fingerprint = fingerprint(&body, digest);
        let mut members = BodyMembers::of(body)?;
        let agent_id = members.optional_text("agent_id", 256)?;
        let approval_request_id = members.optional_text(APPROVAL, 256)?;
        let audience = members.optional_text("audience", 2048)?;
        let args = members.object("args")?;
        let goal = members.text("goal", 4096)?;
        let idempotency_key = members.optional_text(IDEMPOTENCY_KEY, 256)?;
        let mode = members.mode()?;
        let passport = members.optional_text("passport", usize::MAX)?;
        let resource = members.optional_text("resource", 2048)?;
        let tool_manifest_hash = members.optional_text("tool_manifest_hash", 128)?;
        let tool = members.text("tool", MAX_TOOL_CHARACTERS)?;
        let user_id = members.optional_text("user_id", 256)?;
        if idempotency_key.as_ref().is_some_and(String::is_empty) {
            return Err(InvalidMember::new(
                IDEMPOTENCY_KEY,
                "expected a non-empty string, found an empty one",
            ));
        }
        let idempotency = idempotency_key.zip(fingerprint).map(|(name, fingerprint)| {
            let hash = idempotency_hash(&name, &fingerprint);
            IdempotencyKey { name, fingerprint, hash }
        });
        Ok(Self {
            agent_id: agent_id.map(Text::new),
            approval_request_id,
            audience,
            args,
            goal: Text::new(goal),
            idempotency,
            mode,
            passport: passport.map(Secret::from),
            protocol: Protocol::default(),
            request_hash: digest.map(hex::encode),
            resource: resource.map(Text::new),
            tool: Text::new(tool),
            tool_manifest_hash,
            user_id: user_id.map(Text::new),
        })
    }

    /// Returns the hash of the action if performed by `agent`; `None` if the action has no
    /// canonical form.
    pub fn action_hash(&self, agent: Option<&str>) -> Option<String> {
        let action = Action {
            agent_id: agent,
            args: &self.args,
            goal: self.goal.as_str(),
            resource: self.resource.as_ref().map(Text::as_str),
            tool: self.tool.as_str(),
            user_id: self.user_id.as_ref().map(Text::as_str),
        };
        action.hash()
    }
}

/// Returns the fingerprint of equivalent bodies under one idempotency key; `None` without a key. It
/// excludes the approval id, so that a request without an approval is equivalent to its repetition
/// with the approval that it opened. `digest` is the digest of the complete body.
fn fingerprint(body: &Json, digest: Option<[u8; 32]>) -> Option<[u8; 32]> {
    body.member(IDEMPOTENCY_KEY)?;
    let named = |(name, _): &&(String, Json)| name != APPROVAL;
    let without_approval = match (body.as_object(), body.member(APPROVAL)) {
        (Some(members), Some(_)) => Some(Json::Object(members.iter().filter(named).cloned().collect())),
        (_, _) => None,
    };
    let canonical = match (&without_approval, digest) {
        (None, Some(digest)) => return Some(digest),
        (None, None) => None,
        (Some(body), _) => canonical_json(body).ok(),
    };
    let same = without_approval.as_ref().unwrap_or(body);
    Some(Sha256::digest(canonical.unwrap_or_else(|| same.to_string().into_bytes())).into())
}

/// A string of a request, also usable as JSON by policies.
#[derive(Clone, Debug)]
pub struct Text(Json);

impl Text {
    fn new(text: String) -> Self {
        Self(Json::String(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.as_str().unwrap_or_default()
    }

    /// The JSON string.
    pub fn as_json(&self) -> &Json {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Preflight {
        Preflight::read(Json::parse(body.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn action_hash_covers_every_member() {
        let hash = |body: &str| {
            let request = read(body);
            request.action_hash(request.agent_id.as_ref().map(Text::as_str))
        };
        let whole = r#"{"tool": "t", "resource": "r", "args": {"a": 1}, "goal": "g", "agent_id": "i", "user_id": "u"}"#;
        let same = r#"{"user_id": "u", "args": {"a": 1.0}, "goal": "g", "agent_id": "i", "tool": "t", "resource": "r", "mode": "strict"}"#;
        assert_eq!(hash(whole), hash(same));
        for (from, to) in [
            ("\"t\"", "\"x\""),
            ("\"r\"", "\"x\""),
            ("\"r\"", "null"),
            ("1", "2"),
            ("1", "\"1\""),
            ("1", "1, \"b\": 2"),
            ("\"g\"", "\"x\""),
            ("\"i\"", "null"),
            ("\"u\"", "\"x\""),
        ] {
            let other = hash(&whole.replacen(from, to, 1));
            assert!(other.is_some() && other != hash(whole), "{from} {to}");
        }
        assert_eq!(hash(&whole.replace('1', "9007199254740993")), None);
    }

    #[test]
    fn parsed_request_keeps_its_hashes() {
        let body =
            r#"{"tool": "t", "args": {"a": 1}, "goal": "g", "idempotency_key": "k", "unknown": [1.50]"#;
        let plain = read(&format!("{body}}}"));
        let hash = actpass_protocol::hash_payload(&Json::parse(format!("{body}}}").as_bytes()).unwrap());
        assert_eq!(plain.request_hash, hash.ok());
        let key = plain.idempotency.unwrap();
        assert_eq!((key.name.as_str(), hex::encode(key.fingerprint)), ("k", plain.request_hash.unwrap()));

        // The approval is part of the request hash but not of the fingerprint.
        let spends = read(&format!(r#"{body}, "approval_request_id": "apr_1"}}"#));
        assert_eq!(spends.idempotency.unwrap().fingerprint, key.fingerprint);
        assert_ne!(spends.request_hash, hex::encode(key.fingerprint).into());
        let other = read(&format!("{}}}", body.replace("1.50", "1.51")));
        assert_ne!(other.idempotency.unwrap().fingerprint, key.fingerprint);

        // Without a canonical form, member order matters.
        let large = body.replace("1.50", "9007199254740993");
        let odd = read(&format!("{large}}}"));
        assert_eq!(odd.request_hash, None);
        let odd = odd.idempotency.unwrap().fingerprint;
        let spends = read(&format!(r#"{large}, "approval_request_id": "apr_1"}}"#));
        assert_eq!(spends.idempotency.unwrap().fingerprint, odd);
        let moved = read(&format!(
            r#"{{"idempotency_key": "k", {}}}"#,
            large.trim_start_matches('{').replace(r#""idempotency_key": "k", "#, "")
        ));
        assert_ne!(moved.idempotency.unwrap().fingerprint, odd);
    }
}
