//! Validated request bodies. Each member is checked once; requests own their data.

pub(crate) mod acs;
pub(crate) mod authzen;
mod body;
pub(crate) mod exchange;
pub(crate) mod ext_authz;
pub(crate) mod ext_mcp;
mod halts;
mod preflight;

use actpass_protocol::tools::manifest_hash;
use actpass_protocol::{ACTION_OUTCOME, ActionEnd, Json, Secret};

use self::body::BodyMembers;
pub use self::body::InvalidMember;
pub(crate) use self::body::LIST_ITEMS;
pub(crate) use self::halts::{Acknowledge, LiftHalt, StartHalt};
pub use self::preflight::{IdempotencyKey, MAX_TOOL_CHARACTERS, Preflight, Text};
use crate::clock::parse_millis;
use crate::dpop::Thumbprint;
use crate::ledger::{ACS_CHAINS, DECISIONS, RESERVED, RESERVED_CHAINS};
use crate::policy::RiskTier;

/// The protocol through which a request came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// The gateway's own API.
    #[default]
    ActPass,
    /// The OWASP Agent Control Standard.
    Acs,
    /// The `AuthZEN` Authorization API.
    AuthZen,
    /// Envoy's external authorization.
    ExtAuthz,
    /// The external policy server of agentgateway for MCP.
    ExtMcp,
}

impl Protocol {
    /// The name in events; `None` for the gateway's own API.
    pub const fn as_str(self) -> Option<&'static str> {
        match self {
            Self::ActPass => None,
            Self::Acs => Some("acs"),
            Self::AuthZen => Some("authzen"),
            Self::ExtAuthz => Some("ext_authz"),
            Self::ExtMcp => Some("ext_mcp"),
        }
    }

    /// Returns whether a response may contain a tool's credential. The clients of other protocols
    /// expect no secret and may log the response.
    pub const fn carries_credentials(self) -> bool {
        matches!(self, Self::ActPass)
    }
}

/// An event to record for a client.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The chain to append to.
    pub chain_id: String,
    /// The decision, as reported by the client.
    pub decision: Option<String>,
    /// The event type.
    pub event_type: String,
    /// Additional data, an object with a canonical form (RFC 8785): integers within ±(2^53 - 1).
    pub metadata: Option<Json>,
    /// The reason code, as reported by the client.
    pub reason_code: Option<String>,
    /// Hash of the request.
    pub request_hash: Option<String>,
    /// Hash of the result.
    pub response_hash: Option<String>,
    /// The tool.
    pub tool_id: Option<String>,
}

impl Evidence {
    /// Validates and parses `body`.
    ///
    /// # Errors
    ///
    /// Returns the first invalid member, including reserved values.
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
        // An outcome is recorded on the chain of its decision.
        let is_outcome = chain == DECISIONS && event_type == ACTION_OUTCOME;
        let is_session = chain.starts_with(ACS_CHAINS);
        if (RESERVED_CHAINS.contains(&chain) || is_session) && !is_outcome {
            return Err(reserved("chain_id", chain));
        }
        if RESERVED.contains(&event_type) {
            return Err(reserved("event_type", event_type));
        }
        if is_outcome && event.request_hash.is_none() {
            return Err(InvalidMember::new(
                "request_hash",
                "missing; expected the hash of the action's preflight",
            ));
        }
        Ok(event)
    }
}

impl Evidence {
    /// Returns the `request_hash` of the decision that this outcome belongs to; `None` for other
    /// events.
    pub fn decided_request(&self) -> Option<&str> {
        let is_outcome = self.chain_id == DECISIONS && self.event_type == ACTION_OUTCOME;
        self.request_hash.as_deref().filter(|_| is_outcome)
    }

    /// Returns the `request_hash` of the decision and how its action ended, if this is an outcome.
    pub fn ended(&self) -> Option<(&str, ActionEnd)> {
        let ended = self.metadata.as_ref()?.member("ended")?.as_str()?;
        let known = [ActionEnd::Cancelled, ActionEnd::Failed, ActionEnd::Returned, ActionEnd::Suspended];
        let ended = known.into_iter().find(|end| end.as_str() == ended)?;
        Some((self.decided_request()?, ended))
    }
}

fn reserved(member: &str, word: &str) -> InvalidMember {
    InvalidMember::new(
        member,
        format_args!("{word:?} is reserved for the gateway's own events; expected another"),
    )
}

/// A tool manifest to approve.
#[derive(Clone, Debug)]
pub struct ToolApproval {
    /// The tool's name in requests.
    pub tool_id: String,
    /// Hash of the tool's manifest, an object with a canonical form (RFC 8785).
    pub manifest_hash: String,
}

impl ToolApproval {
    /// Validates and parses `body`.
    ///
    /// # Errors
    ///
    /// Returns the first invalid member.
    pub fn read(body: Json) -> Result<Self, InvalidMember> {
        let mut members = BodyMembers::with_known_members(body, &["tool_id", "manifest"])?;
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
    /// The agent's id, as claimed by the client.
    pub agent_id: Option<String>,
    /// The approval that the passport carries.
    pub approval_request_id: Option<String>,
    /// Permitted resources; `None` for any.
    pub allowed_resources: Option<Vec<String>>,
    /// Permitted tools.
    pub allowed_tools: Vec<String>,
    /// The audience of the passport.
    pub audience: String,
    /// The DPoP key that the passport is bound to.
    pub confirmation: Option<Thumbprint>,
    /// The permitted goal.
    pub goal: String,
    /// Constraints on arguments; names with the prefix `max_` or `min_` take numbers.
    pub resource_constraints: Option<Json>,
    /// Risk tier of the passport.
    pub risk_tier: RiskTier,
    /// The immutable context of the transaction that the passport begins; `None` begins none.
    pub tctx: Option<Json>,
    /// Requested lifetime in seconds.
    pub ttl_seconds: Option<i64>,
    /// The delegating user.
    pub user_id: Option<String>,
}

impl Issue {
    /// Validates and parses `body`.
    ///
    /// # Errors
    ///
    /// Returns the first invalid member.
    pub fn read(body: Json) -> Result<Self, InvalidMember> {
        let mut members = BodyMembers::of(body)?;
        let missing = || InvalidMember::new("allowed_tools", "missing; expected a list of strings");
        Ok(Self {
            agent_id: members.optional_text("agent_id", 256)?,
            approval_request_id: members.optional_text("approval_request_id", 256)?,
            allowed_resources: members.texts("allowed_resources", 2048)?,
            allowed_tools: members.texts("allowed_tools", 256)?.ok_or_else(missing)?,
            audience: members.text("audience", 2048)?,
            confirmation: members.confirmation()?,
            goal: members.text("goal", 4096)?,
            resource_constraints: members.constraints()?,
            risk_tier: members.risk_tier()?,
            tctx: members.optional_object("tctx")?,
            ttl_seconds: members.ttl()?,
            user_id: members.optional_text("user_id", 256)?,
        })
    }
}

/// A request to verify a passport.
#[derive(Clone, Debug)]
pub struct VerifyPassport {
    /// Expected agent.
    pub agent_id: Option<String>,
    /// Expected audience.
    pub audience: String,
    /// The DPoP key whose proof the caller has checked.
    pub dpop_jkt: Option<Thumbprint>,
    /// Expected hash of the policy.
    pub policy_hash: Option<String>,
    /// The passport.
    pub token: Secret,
    /// Hash of a tool manifest that must be approved.
    pub tool_manifest_hash: Option<String>,
    /// Expected delegating user.
    pub user_id: Option<String>,
}

impl VerifyPassport {
    /// Validates and parses `body`.
    ///
    /// # Errors
    ///
    /// Returns the first invalid member.
    pub fn read(body: Json) -> Result<Self, InvalidMember> {
        let mut members = BodyMembers::of(body)?;
        Ok(Self {
            agent_id: members.optional_text("agent_id", 256)?,
            audience: members.text("audience", 2048)?,
            dpop_jkt: members.thumbprint("dpop_jkt")?,
            policy_hash: members.optional_text("policy_hash", 128)?,
            token: Secret::from(members.text("token", usize::MAX)?),
            tool_manifest_hash: members.optional_text("current_tool_manifest_hash", 128)?,
            user_id: members.optional_text("user_id", 256)?,
        })
    }
}

/// The optional members of a vote on an approval.
#[derive(Clone, Debug, Default)]
pub struct DecisionNote {
    /// The note.
    pub note: Option<String>,
    /// The absent person in whose place the vote is given.
    pub on_behalf_of: Option<String>,
    /// The hash of the card that the person was shown. Only the gateway's own page sets it.
    pub shown_hash: Option<String>,
    /// The signature by the person's passkey. Only the gateway's own page sets it.
    pub signature: Option<Json>,
}

impl DecisionNote {
    /// Validates and parses `body`.
    ///
    /// # Errors
    ///
    /// Returns the first invalid member.
    pub fn read(body: Json) -> Result<Self, InvalidMember> {
        let mut members = BodyMembers::with_known_members(body, &["for", "note"])?;
        Ok(Self {
            note: members.optional_text("note", 2000)?,
            on_behalf_of: members.optional_text("for", 256)?,
            shown_hash: None,
            signature: None,
        })
    }
}

/// A request to let another person decide in place of an absent one.
#[derive(Clone, Debug)]
pub struct DelegationRequest {
    /// The absent person; `None` for the caller.
    pub person: Option<String>,
    /// The person who decides.
    pub to: String,
    /// Start, in seconds since 1970; `None` for now.
    pub from: Option<i64>,
    /// End, in seconds since 1970.
    pub until: i64,
    /// The reason, recorded in the ledger.
    pub reason: Option<String>,
}

impl DelegationRequest {
    /// Validates and parses `body`.
    ///
    /// # Errors
    ///
    /// Returns the first invalid member.
    pub fn read(body: Json) -> Result<Self, InvalidMember> {
        let known = ["from", "person", "reason", "to", "until"];
        let mut members = BodyMembers::with_known_members(body, &known)?;
        let mut time = |name: &str| {
            let text = members.optional_text(name, 64)?;
            let time = text.map(|text| {
                let millis = parse_millis(&text).map(|millis| millis.div_euclid(1000));
                let expected = "expected a time such as \"2027-01-31T00:00:00Z\"";
                millis.ok_or_else(|| InvalidMember::new(name, format_args!("{expected}, found {text:?}")))
            });
            time.transpose()
        };
        let (from, until) = (time("from")?, time("until")?);
        let missing = || InvalidMember::new("until", "missing; expected a time");
        Ok(Self {
            person: members.optional_text("person", 256)?,
            to: members.text("to", 256)?,
            from,
            until: until.ok_or_else(missing)?,
            reason: members.optional_text("reason", 2000)?,
        })
    }
}

/// A request to revoke a passport.
#[derive(Clone, Debug)]
pub struct Revoke {
    /// The passport's id.
    pub jti: String,
    /// The reason, recorded in the ledger.
    pub reason: Option<String>,
}

impl Revoke {
    /// Validates and parses `body`.
    ///
    /// # Errors
    ///
    /// Returns the first invalid member.
    pub fn read(body: Json) -> Result<Self, InvalidMember> {
        let mut members = BodyMembers::of(body)?;
        Ok(Self { jti: members.text("jti", 256)?, reason: members.optional_text("reason", 2000)? })
    }
}
