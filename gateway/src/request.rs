//! What clients ask: bodies whose every member was checked.

use std::cmp::Ordering;
use std::fmt;

use actpass_protocol::json::Number;
use actpass_protocol::{ACTION_OUTCOME, Json, Mode};

use crate::approvals::hash_of_action;
use crate::ledger::{DECISIONS, RESERVED, RESERVED_CHAINS};
use crate::passport::{self, coverage};
use crate::policy::RiskTier;
use crate::tools::manifest_hash;

/// How long a tool's name may be, in characters.
pub const MAX_TOOL_CHARACTERS: usize = 256;

/// A member of a request is missing or not what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidMember {
    /// The member's name; `body` for the whole.
    pub member: String,
    /// What was expected and what was found.
    pub problem: String,
}

impl InvalidMember {
    fn new(member: &str, problem: impl fmt::Display) -> Self {
        Self { member: member.to_owned(), problem: problem.to_string() }
    }
}

impl fmt::Display for InvalidMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.member, self.problem)
    }
}

/// A request for a decision.
///
/// Members of it that this version does not know are allowed; the request's hash covers them.
#[derive(Clone, Debug)]
pub struct Preflight<'b> {
    /// The agent, as the client names it.
    pub agent_id: Option<Text<'b>>,
    /// The approval that the action uses.
    pub approval_request_id: Option<Text<'b>>,
    /// Whom the passport is shown to.
    pub audience: Option<Text<'b>>,
    /// The arguments of the action, an object.
    pub args: &'b Json,
    /// What the agent is trying to achieve.
    pub goal: Text<'b>,
    /// What makes a repetition of this request get the first answer again.
    pub idempotency_key: Option<Text<'b>>,
    /// How the answer is meant.
    pub mode: Mode,
    /// The passport that is shown; a secret.
    pub passport: Option<Text<'b>>,
    /// The hash of the tool's manifest as the agent sees it.
    pub tool_manifest_hash: Option<Text<'b>>,
    /// What the action is done to.
    pub resource: Option<Text<'b>>,
    /// The tool that would be called.
    pub tool: Text<'b>,
    /// Whom the agent acts for.
    pub user_id: Option<Text<'b>>,
}

impl<'b> Preflight<'b> {
    /// Checks `body` and takes it apart.
    ///
    /// # Errors
    ///
    /// The first member that is not what it must be.
    pub fn read(body: &'b Json) -> Result<Self, InvalidMember> {
        let members = Members::of(body)?;
        let request = Self {
            agent_id: members.optional_text("agent_id", 256)?,
            approval_request_id: members.optional_text("approval_request_id", 256)?,
            audience: members.optional_text("audience", 2048)?,
            args: members.object("args")?,
            goal: members.text("goal", 4096)?,
            idempotency_key: members.optional_text("idempotency_key", 256)?,
            mode: members.mode()?,
            passport: members.optional_text("passport", usize::MAX)?,
            resource: members.optional_text("resource", 2048)?,
            tool_manifest_hash: members.optional_text("tool_manifest_hash", 128)?,
            tool: members.text("tool", MAX_TOOL_CHARACTERS)?,
            user_id: members.optional_text("user_id", 256)?,
        };
        if request.idempotency_key.is_some_and(|key| key.as_str().is_empty()) {
            return Err(InvalidMember::new(
                "idempotency_key",
                "expected a non-empty string, found an empty one",
            ));
        }
        Ok(request)
    }

    /// The hash that an approval of the action is bound to, if `agent` is the one that acts; `None` if the action has no
    /// canonical form.
    pub fn action_hash(&self, agent: Option<&Json>) -> Option<String> {
        let or_null = |value: Option<&Json>| value.cloned().unwrap_or(Json::Null);
        hash_of_action([
            ("tool", self.tool.as_json().clone()),
            ("resource", or_null(self.resource.map(|resource| resource.as_json()))),
            ("args", self.args.clone()),
            ("goal", self.goal.as_json().clone()),
            ("agent_id", or_null(agent)),
            ("user_id", or_null(self.user_id.map(|user| user.as_json()))),
        ])
    }
}

/// An event that a client wants recorded.
#[derive(Clone, Debug)]
pub struct Evidence<'b> {
    /// Which chain it goes to.
    pub chain_id: Text<'b>,
    /// What was decided, as the client says.
    pub decision: Option<Text<'b>>,
    /// What happened.
    pub event_type: Text<'b>,
    /// What the client adds, an object that has a canonical form (RFC 8785): integers within ±(2^53 - 1).
    pub metadata: Option<&'b Json>,
    /// Why, as the client says.
    pub reason_code: Option<Text<'b>>,
    /// The hash of what was asked.
    pub request_hash: Option<Text<'b>>,
    /// The hash of what came of it.
    pub response_hash: Option<Text<'b>>,
    /// The tool.
    pub tool_id: Option<Text<'b>>,
}

impl<'b> Evidence<'b> {
    /// Checks `body` and takes it apart.
    ///
    /// # Errors
    ///
    /// The first member that is not what it must be; what only the gateway may write is among that.
    pub fn read(body: &'b Json) -> Result<Self, InvalidMember> {
        let members = Members::of(body)?;
        let event = Self {
            chain_id: members.text("chain_id", 256)?,
            decision: members.optional_text("decision", 128)?,
            event_type: members.text("event_type", 128)?,
            metadata: members.metadata()?,
            reason_code: members.optional_text("reason_code", 128)?,
            request_hash: members.optional_text("request_hash", 128)?,
            response_hash: members.optional_text("response_hash", 128)?,
            tool_id: members.optional_text("tool_id", 256)?,
        };
        let (chain, event_type) = (event.chain_id.as_str(), event.event_type.as_str());
        // How an action ended belongs beside the decision to let it run.
        let is_outcome = chain == DECISIONS && event_type == ACTION_OUTCOME;
        if RESERVED_CHAINS.contains(&chain) && !is_outcome {
            return Err(reserved("chain_id", chain));
        }
        if RESERVED.contains(&event_type) {
            return Err(reserved("event_type", event_type));
        }
        if is_outcome && event.request_hash.is_none() {
            return Err(InvalidMember::new(
                "request_hash",
                "missing; expected that of the action's preflight",
            ));
        }
        Ok(event)
    }
}

impl<'b> Evidence<'b> {
    /// The `request_hash` of the decision whose action's end this is; `None` if it is no such event.
    pub fn decided_request(&self) -> Option<&'b str> {
        let is_outcome = self.chain_id.as_str() == DECISIONS && self.event_type.as_str() == ACTION_OUTCOME;
        self.request_hash.filter(|_| is_outcome).map(Text::as_str)
    }
}

fn reserved(member: &str, word: &str) -> InvalidMember {
    InvalidMember::new(
        member,
        format_args!("{word:?} is reserved for the gateway's own events; expected another"),
    )
}

/// A tool that an operator approves.
#[derive(Clone, Debug)]
pub struct ToolApproval<'b> {
    /// What the tool is called in requests.
    pub tool_id: Text<'b>,
    /// What the server says of it, an object that has a canonical form (RFC 8785); kept by its hash.
    pub manifest_hash: String,
}

impl<'b> ToolApproval<'b> {
    /// Checks `body` and takes it apart.
    ///
    /// # Errors
    ///
    /// The first member that is not what it must be.
    pub fn read(body: &'b Json) -> Result<Self, InvalidMember> {
        let members = Members::only(body, &["tool_id", "manifest"])?;
        let tool_id = members.text("tool_id", 256)?;
        let manifest = members.object("manifest")?;
        let manifest_hash = manifest_hash(manifest).map_err(|error| InvalidMember::new("manifest", error))?;
        Ok(Self { tool_id, manifest_hash })
    }
}

/// A request for a passport.
#[derive(Clone, Debug)]
pub struct Issue<'b> {
    /// The agent, as the client names it.
    pub agent_id: Option<Text<'b>>,
    /// The approval that it stands for.
    pub approval_request_id: Option<Text<'b>>,
    /// The resources that it permits; `None` for any.
    pub allowed_resources: Option<&'b Json>,
    /// The tools that it permits.
    pub allowed_tools: &'b Json,
    /// Whom it will be shown to.
    pub audience: Text<'b>,
    /// What the agent is to achieve.
    pub goal: Text<'b>,
    /// The values that bound the arguments, an object; those whose names begin with `max_` or `min_` are numbers.
    pub resource_constraints: Option<&'b Json>,
    /// How risky its use is.
    pub risk_tier: RiskTier,
    /// For how many seconds it holds.
    pub ttl_seconds: i64,
    /// Who delegates.
    pub user_id: Option<Text<'b>>,
}

impl<'b> Issue<'b> {
    /// Checks `body` and takes it apart.
    ///
    /// # Errors
    ///
    /// The first member that is not what it must be.
    pub fn read(body: &'b Json) -> Result<Self, InvalidMember> {
        let members = Members::of(body)?;
        let missing = || InvalidMember::new("allowed_tools", "missing; expected a list of strings");
        Ok(Self {
            agent_id: members.optional_text("agent_id", 256)?,
            approval_request_id: members.optional_text("approval_request_id", 256)?,
            allowed_resources: members.texts("allowed_resources", 2048)?,
            allowed_tools: members.texts("allowed_tools", 256)?.ok_or_else(missing)?,
            audience: members.text("audience", 2048)?,
            goal: members.text("goal", 4096)?,
            resource_constraints: members.constraints()?,
            risk_tier: members.risk_tier()?,
            ttl_seconds: members.ttl()?,
            user_id: members.optional_text("user_id", 256)?,
        })
    }
}

/// A request to look at a passport.
#[derive(Clone, Debug)]
pub struct VerifyPassport<'b> {
    /// The agent that it must be made out to.
    pub agent_id: Option<Text<'b>>,
    /// Whom it is shown to.
    pub audience: Text<'b>,
    /// The hash of the policy that must be in force.
    pub policy_hash: Option<Text<'b>>,
    /// The passport; a secret.
    pub token: Text<'b>,
    /// A tool's manifest that must be one that was approved, by its hash.
    pub tool_manifest_hash: Option<Text<'b>>,
    /// Who must have delegated.
    pub user_id: Option<Text<'b>>,
}

impl<'b> VerifyPassport<'b> {
    /// Checks `body` and takes it apart.
    ///
    /// # Errors
    ///
    /// The first member that is not what it must be.
    pub fn read(body: &'b Json) -> Result<Self, InvalidMember> {
        let members = Members::of(body)?;
        Ok(Self {
            agent_id: members.optional_text("agent_id", 256)?,
            audience: members.text("audience", 2048)?,
            policy_hash: members.optional_text("policy_hash", 128)?,
            token: members.text("token", usize::MAX)?,
            tool_manifest_hash: members.optional_text("current_tool_manifest_hash", 128)?,
            user_id: members.optional_text("user_id", 256)?,
        })
    }
}

/// What a person says about an approval.
#[derive(Clone, Debug)]
pub struct Opinion<'b> {
    /// What the person notes.
    pub note: Option<Text<'b>>,
}

impl<'b> Opinion<'b> {
    /// Checks `body` and takes it apart.
    ///
    /// # Errors
    ///
    /// The first member that is not what it must be.
    pub fn read(body: &'b Json) -> Result<Self, InvalidMember> {
        Ok(Self { note: Members::only(body, &["note"])?.optional_text("note", 2000)? })
    }
}

/// A request to end a passport.
#[derive(Clone, Debug)]
pub struct Revoke<'b> {
    /// The passport's id.
    pub jti: Text<'b>,
    /// Why, for the ledger.
    pub reason: Option<Text<'b>>,
}

impl<'b> Revoke<'b> {
    /// Checks `body` and takes it apart.
    ///
    /// # Errors
    ///
    /// The first member that is not what it must be.
    pub fn read(body: &'b Json) -> Result<Self, InvalidMember> {
        let members = Members::of(body)?;
        Ok(Self { jti: members.text("jti", 256)?, reason: members.optional_text("reason", 2000)? })
    }
}

/// A JSON string of a request, not longer than it may be.
#[derive(Clone, Copy, Debug)]
pub struct Text<'b>(&'b Json);

impl<'b> Text<'b> {
    /// The text.
    pub fn as_str(self) -> &'b str {
        self.0.as_str().unwrap_or_default()
    }

    /// The JSON string.
    pub fn as_json(self) -> &'b Json {
        self.0
    }
}

/// How many tools or resources a passport may name.
pub(crate) const LIST_ITEMS: usize = 100;

struct Members<'b>(&'b Json);

impl<'b> Members<'b> {
    fn of(body: &'b Json) -> Result<Self, InvalidMember> {
        if body.as_object().is_none() {
            return Err(InvalidMember::new(
                "body",
                format_args!("expected an object, found {}", body.kind()),
            ));
        }
        Ok(Self(body))
    }

    /// An object with no other members than these. What a person decides must not be something else than what the body
    /// seems to say.
    fn only(body: &'b Json, known: &[&str]) -> Result<Self, InvalidMember> {
        let members = Self::of(body)?;
        let unknown =
            body.as_object().into_iter().flatten().find(|(name, _)| !known.contains(&name.as_str()));
        match unknown {
            None => Ok(members),
            Some((name, _)) => {
                Err(InvalidMember::new(name, format_args!("unknown member; known are {}", known.join(", "))))
            }
        }
    }

    /// The member; `null` is the same as absence.
    fn given(&self, name: &str) -> Option<&'b Json> {
        self.0.member(name).filter(|value| **value != Json::Null)
    }

    fn optional_text(&self, name: &str, limit: usize) -> Result<Option<Text<'b>>, InvalidMember> {
        let expected = format_args!("expected a string of at most {limit} characters");
        match self.given(name) {
            None => Ok(None),
            // A character takes at least a byte: most texts need no counting.
            Some(value @ Json::String(text)) if text.len() <= limit || text.chars().count() <= limit => {
                Ok(Some(Text(value)))
            }
            Some(Json::String(text)) => {
                let problem = format!("{expected}, found {} characters", text.chars().count());
                Err(InvalidMember::new(name, problem))
            }
            Some(other) => Err(InvalidMember::new(name, format_args!("{expected}, found {}", other.kind()))),
        }
    }

    fn text(&self, name: &str, limit: usize) -> Result<Text<'b>, InvalidMember> {
        match self.optional_text(name, limit)? {
            Some(text) if text.as_str().is_empty() => {
                Err(InvalidMember::new(name, "expected a non-empty string, found an empty one"))
            }
            Some(text) => Ok(text),
            None => Err(InvalidMember::new(
                name,
                format_args!("missing; expected a string of at most {limit} characters"),
            )),
        }
    }

    fn object(&self, name: &str) -> Result<&'b Json, InvalidMember> {
        match self.0.member(name) {
            Some(object @ Json::Object(_)) => Ok(object),
            Some(other) => {
                Err(InvalidMember::new(name, format_args!("expected an object, found {}", other.kind())))
            }
            None => Err(InvalidMember::new(name, "missing; expected an object")),
        }
    }

    fn metadata(&self) -> Result<Option<&'b Json>, InvalidMember> {
        let Some(metadata) = self.given("metadata") else {
            return Ok(None);
        };
        if metadata.as_object().is_none() {
            let problem = format_args!("expected an object, found {}", metadata.kind());
            return Err(InvalidMember::new("metadata", problem));
        }
        crate::ledger::recordable(metadata).map_err(|error| InvalidMember::new("metadata", error))?;
        Ok(Some(metadata))
    }

    fn mode(&self) -> Result<Mode, InvalidMember> {
        let Some(value) = self.given("mode") else {
            return Ok(Mode::Enforce);
        };
        let word = value.as_str().ok_or_else(|| {
            InvalidMember::new("mode", format_args!("expected a string, found {}", value.kind()))
        })?;
        word.parse().map_err(|_| {
            InvalidMember::new("mode", "expected enforce, strict, warn or monitor, found another word")
        })
    }

    /// A list of strings, each of at most `limit` characters.
    fn texts(&self, name: &str, limit: usize) -> Result<Option<&'b Json>, InvalidMember> {
        let Some(value) = self.given(name) else {
            return Ok(None);
        };
        let fits = |item: &Json| item.as_str().is_some_and(|text| text.chars().count() <= limit);
        if let Json::Array(items) = value
            && items.len() <= LIST_ITEMS
            && items.iter().all(fits)
        {
            return Ok(Some(value));
        }
        let found = if matches!(value, Json::Array(_)) { "another list" } else { value.kind() };
        Err(InvalidMember::new(
            name,
            format_args!(
                "expected a list of at most {LIST_ITEMS} strings of at most {limit} characters, found {found}"
            ),
        ))
    }

    fn constraints(&self) -> Result<Option<&'b Json>, InvalidMember> {
        const MEMBER: &str = "resource_constraints";
        let Some(value) = self.given(MEMBER) else {
            return Ok(None);
        };
        let Some(constraints) = value.as_object() else {
            return Err(InvalidMember::new(
                MEMBER,
                format_args!("expected an object, found {}", value.kind()),
            ));
        };
        for (name, value) in constraints {
            let Some((argument, _)) = coverage::bound(name) else {
                continue;
            };
            if argument.is_empty() {
                return Err(InvalidMember::new(
                    MEMBER,
                    format_args!("{name:?}: expected an argument's name after it"),
                ));
            }
            if !matches!(value, Json::Number(_)) {
                let problem = format_args!("{name:?}: expected a number, found {}", value.kind());
                return Err(InvalidMember::new(MEMBER, problem));
            }
        }
        Ok(Some(value))
    }

    fn risk_tier(&self) -> Result<RiskTier, InvalidMember> {
        let Some(value) = self.given("risk_tier") else {
            return Ok(RiskTier::Medium);
        };
        value.as_str().and_then(RiskTier::parse).ok_or_else(|| {
            InvalidMember::new("risk_tier", "expected low, medium, high or critical, found something else")
        })
    }

    fn ttl(&self) -> Result<i64, InvalidMember> {
        let Some(value) = self.given("ttl_seconds") else {
            return Ok(passport::DEFAULT_TTL);
        };
        let seconds = match value {
            // A number is an integer by its value, in whatever way it is written: 300.0 and 3e2 are.
            Json::Number(number) => {
                let nearest = format!("{:.0}", number.as_f64()).parse::<i64>().ok();
                nearest.filter(|nearest| number.compare(&Number::from(*nearest)) == Ordering::Equal)
            }
            Json::Array(_) | Json::Bool(_) | Json::Null | Json::Object(_) | Json::String(_) => None,
        };
        seconds.filter(|seconds| (1..=passport::MAX_TTL).contains(seconds)).ok_or_else(|| {
            let expected = format_args!("expected an integer of 1 to {}", passport::MAX_TTL);
            InvalidMember::new("ttl_seconds", format_args!("{expected}, found {}", value.kind()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_an_action_is_in_its_hash() {
        let hash = |body: &str| {
            let body = Json::parse(body.as_bytes()).unwrap();
            let request = Preflight::read(&body).unwrap();
            request.action_hash(request.agent_id.map(|agent| agent.as_json()))
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
}
