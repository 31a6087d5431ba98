//! A request for a decision.

use actpass_protocol::{Json, Mode, Secret, canonical_json};
use sha2::{Digest, Sha256};

use super::body::{BodyMembers, InvalidMember};
use crate::approvals::Action;
use crate::ledger::idempotency_hash;

/// How long a tool's name may be, in characters.
pub const MAX_TOOL_CHARACTERS: usize = 256;

/// The member that names the approval that a request spends.
const APPROVAL: &str = "approval_request_id";

/// The member that names the key under which a request takes effect once.
const IDEMPOTENCY_KEY: &str = "idempotency_key";

/// A request for a decision, checked once and taken out of its body.
///
/// Members that this version does not know are allowed; the hashes cover them.
#[derive(Clone, Debug)]
pub struct Preflight {
    /// The agent, as the client names it.
    pub agent_id: Option<Text>,
    /// The approval that the action uses.
    pub approval_request_id: Option<String>,
    /// Whom the passport is shown to.
    pub audience: Option<String>,
    /// The arguments of the action, an object.
    pub args: Json,
    /// What the agent is trying to achieve.
    pub goal: Text,
    /// The key under which this request takes effect once.
    pub idempotency: Option<IdempotencyKey>,
    /// How the answer is meant.
    pub mode: Mode,
    /// The passport that is shown.
    pub passport: Option<Secret>,
    /// The hash of the body; `None` if it has no canonical form.
    pub request_hash: Option<String>,
    /// What the action is done to.
    pub resource: Option<Text>,
    /// The tool that would be called.
    pub tool: Text,
    /// The hash of the tool's manifest as the agent sees it.
    pub tool_manifest_hash: Option<String>,
    /// Whom the agent acts for.
    pub user_id: Option<Text>,
}

/// An idempotency key, and the body that it is bound to.
#[derive(Clone, Debug)]
pub struct IdempotencyKey {
    /// The key, as the client names it.
    pub name: String,
    /// The SHA-256 of what makes two bodies under one key the same request.
    pub fingerprint: [u8; 32],
    /// What binds an event to the key and the body; see [`idempotency_hash`].
    pub hash: String,
}

impl Preflight {
    /// Checks `body` and takes it apart.
    ///
    /// # Errors
    ///
    /// The first member that is not what it must be.
    pub fn read(body: Json) -> Result<Self, InvalidMember> {
        // Not every body has a canonical form; then no hash is claimed, and only the same text is the same request.
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
            request_hash: digest.map(hex::encode),
            resource: resource.map(Text::new),
            tool: Text::new(tool),
            tool_manifest_hash,
            user_id: user_id.map(Text::new),
        })
    }

    /// The hash that an approval of the action is bound to, if `agent` is the one that acts; `None` if the action has no
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

/// What makes two bodies under one idempotency key the same request; `None` for a body without one. The approval that a
/// request names is left out: a request that was asked without one and then with the one that it opened is the same.
/// `digest` is that of the whole body.
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

/// A text of a request, which policies compare as JSON.
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

        // The approval is in the request's hash, and is not what makes two requests the same.
        let spends = read(&format!(r#"{body}, "approval_request_id": "apr_1"}}"#));
        assert_eq!(spends.idempotency.unwrap().fingerprint, key.fingerprint);
        assert_ne!(spends.request_hash, hex::encode(key.fingerprint).into());
        let other = read(&format!("{}}}", body.replace("1.50", "1.51")));
        assert_ne!(other.idempotency.unwrap().fingerprint, key.fingerprint);

        // Without a canonical form the text counts, in its order.
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
