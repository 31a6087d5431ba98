//! What clients ask: bodies whose every member was checked, once, and which belong to whoever handles them.

mod body;
mod preflight;

use actpass_protocol::{ACTION_OUTCOME, Json, Secret};

use self::body::BodyMembers;
pub use self::body::InvalidMember;
pub(crate) use self::body::LIST_ITEMS;
pub use self::preflight::{IdempotencyKey, MAX_TOOL_CHARACTERS, Preflight, Text};
use crate::ledger::{DECISIONS, RESERVED, RESERVED_CHAINS};
use crate::policy::RiskTier;
use crate::tools::manifest_hash;

/// An event that a client wants recorded.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// Which chain it goes to.
    pub chain_id: String,
    /// What was decided, as the client says.
    pub decision: Option<String>,
    /// What happened.
    pub event_type: String,
    /// What the client adds, an object that has a canonical form (RFC 8785): integers within ±(2^53 - 1).
    pub metadata: Option<Json>,
    /// Why, as the client says.
    pub reason_code: Option<String>,
    /// The hash of what was asked.
    pub request_hash: Option<String>,
    /// The hash of what came of it.
    pub response_hash: Option<String>,
    /// The tool.
    pub tool_id: Option<String>,
}

impl Evidence {
    /// Checks `body` and takes it apart.
    ///
    /// # Errors
    ///
    /// The first member that is not what it must be; what only the gateway may write is among that.
    pub fn read(body: Json) -> Result<Self, InvalidMember> {
        let mut members = BodyMembers::of(body)?;
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

impl Evidence {
    /// The `request_hash` of the decision whose action's end this is; `None` if it is no such event.
    pub fn decided_request(&self) -> Option<&str> {
        let is_outcome = self.chain_id == DECISIONS && self.event_type == ACTION_OUTCOME;
        self.request_hash.as_deref().filter(|_| is_outcome)
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
pub struct ToolApproval {
    /// What the tool is called in requests.
    pub tool_id: String,
    /// What the server says of it, an object that has a canonical form (RFC 8785); kept by its hash.
    pub manifest_hash: String,
}

impl ToolApproval {
    /// Checks `body` and takes it apart.
    ///
    /// # Errors
    ///
    /// The first member that is not what it must be.
    pub fn read(body: Json) -> Result<Self, InvalidMember> {
        let mut members = BodyMembers::only(body, &["tool_id", "manifest"])?;
        let tool_id = members.text("tool_id", 256)?;
        let manifest = members.object("manifest")?;
        let manifest_hash =
            manifest_hash(&manifest).map_err(|error| InvalidMember::new("manifest", error))?;
        Ok(Self { tool_id, manifest_hash })
    }
}

/// A request for a passport.
#[derive(Clone, Debug)]
pub struct Issue {
    /// The agent, as the client names it.
    pub agent_id: Option<String>,
    /// The approval that it stands for.
    pub approval_request_id: Option<String>,
    /// The resources that it permits; `None` for any.
    pub allowed_resources: Option<Vec<String>>,
    /// The tools that it permits.
    pub allowed_tools: Vec<String>,
    /// Whom it will be shown to.
    pub audience: String,
    /// What the agent is to achieve.
    pub goal: String,
    /// The values that bound the arguments, an object; those whose names begin with `max_` or `min_` are numbers.
    pub resource_constraints: Option<Json>,
    /// How risky its use is.
    pub risk_tier: RiskTier,
    /// For how many seconds it holds, if the client says.
    pub ttl_seconds: Option<i64>,
    /// Who delegates.
    pub user_id: Option<String>,
}

impl Issue {
    /// Checks `body` and takes it apart.
    ///
    /// # Errors
    ///
    /// The first member that is not what it must be.
    pub fn read(body: Json) -> Result<Self, InvalidMember> {
        let mut members = BodyMembers::of(body)?;
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
pub struct VerifyPassport {
    /// The agent that it must be made out to.
    pub agent_id: Option<String>,
    /// Whom it is shown to.
    pub audience: String,
    /// The hash of the policy that must be in force.
    pub policy_hash: Option<String>,
    /// The passport.
    pub token: Secret,
    /// A tool's manifest that must be one that was approved, by its hash.
    pub tool_manifest_hash: Option<String>,
    /// Who must have delegated.
    pub user_id: Option<String>,
}

impl VerifyPassport {
    /// Checks `body` and takes it apart.
    ///
    /// # Errors
    ///
    /// The first member that is not what it must be.
    pub fn read(body: Json) -> Result<Self, InvalidMember> {
        let mut members = BodyMembers::of(body)?;
        Ok(Self {
            agent_id: members.optional_text("agent_id", 256)?,
            audience: members.text("audience", 2048)?,
            policy_hash: members.optional_text("policy_hash", 128)?,
            token: Secret::from(members.text("token", usize::MAX)?),
            tool_manifest_hash: members.optional_text("current_tool_manifest_hash", 128)?,
            user_id: members.optional_text("user_id", 256)?,
        })
    }
}

/// What a person says about an approval.
#[derive(Clone, Debug)]
pub struct DecisionNote {
    /// What the person notes.
    pub note: Option<String>,
}

impl DecisionNote {
    /// Checks `body` and takes it apart.
    ///
    /// # Errors
    ///
    /// The first member that is not what it must be.
    pub fn read(body: Json) -> Result<Self, InvalidMember> {
        Ok(Self { note: BodyMembers::only(body, &["note"])?.optional_text("note", 2000)? })
    }
}

/// A request to end a passport.
#[derive(Clone, Debug)]
pub struct Revoke {
    /// The passport's id.
    pub jti: String,
    /// Why, for the ledger.
    pub reason: Option<String>,
}

impl Revoke {
    /// Checks `body` and takes it apart.
    ///
    /// # Errors
    ///
    /// The first member that is not what it must be.
    pub fn read(body: Json) -> Result<Self, InvalidMember> {
        let mut members = BodyMembers::of(body)?;
        Ok(Self { jti: members.text("jti", 256)?, reason: members.optional_text("reason", 2000)? })
    }
}
