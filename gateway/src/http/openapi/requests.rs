//! What the bodies of requests must be, as [`request`](crate::request) reads them; a test compares.
#![expect(dead_code, reason = "described, and never made")]

use utoipa::ToSchema;
use utoipa::openapi::schema::{ArrayBuilder, Object, ObjectBuilder, Schema, SchemaType, Type};

use super::RiskWord;
use crate::request::LIST_ITEMS;

/// A request for a decision.
///
/// Members of it that this version does not know are allowed; the request's hash covers them.
#[derive(ToSchema)]
pub(in crate::http) struct Preflight {
    /// The agent, as the client names it.
    #[schema(max_length = 256)]
    agent_id: Option<String>,
    /// The approval that the action uses.
    #[schema(max_length = 256)]
    approval_request_id: Option<String>,
    /// Whom the passport is shown to.
    #[schema(max_length = 2048)]
    audience: Option<String>,
    /// The arguments of the action, an object.
    #[schema(value_type = Object)]
    args: Object,
    /// What the agent is trying to achieve.
    #[schema(min_length = 1, max_length = 4096)]
    goal: String,
    /// What makes a repetition of this request get the first answer again.
    #[schema(min_length = 1, max_length = 256)]
    idempotency_key: Option<String>,
    /// How the answer is meant.
    #[schema(required = false)]
    mode: Option<ModeWord>,
    /// The passport that is shown; a secret.
    passport: Option<String>,
    /// The hash of the tool's manifest as the agent sees it.
    #[schema(max_length = 128)]
    tool_manifest_hash: Option<String>,
    /// What the action is done to.
    #[schema(max_length = 2048)]
    resource: Option<String>,
    /// The tool that would be called.
    #[schema(min_length = 1, max_length = 256)]
    tool: String,
    /// Whom the agent acts for.
    #[schema(max_length = 256)]
    user_id: Option<String>,
}

/// An event that a client wants recorded.
#[derive(ToSchema)]
pub(in crate::http) struct Evidence {
    /// Which chain it goes to.
    #[schema(min_length = 1, max_length = 256)]
    chain_id: String,
    /// What was decided, as the client says.
    #[schema(max_length = 128)]
    decision: Option<String>,
    /// What happened.
    #[schema(min_length = 1, max_length = 128)]
    event_type: String,
    /// What the client adds, an object that has a canonical form (RFC 8785): integers within ±(2^53 - 1).
    #[schema(value_type = Option<Object>)]
    metadata: Option<Object>,
    /// Why, as the client says.
    #[schema(max_length = 128)]
    reason_code: Option<String>,
    /// The hash of what was asked.
    #[schema(max_length = 128)]
    request_hash: Option<String>,
    /// The hash of what came of it.
    #[schema(max_length = 128)]
    response_hash: Option<String>,
    /// The tool.
    #[schema(max_length = 256)]
    tool_id: Option<String>,
}

/// A tool that an operator approves.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ToolApproval {
    /// What the tool is called in requests.
    #[schema(min_length = 1, max_length = 256)]
    tool_id: String,
    /// What the server says of it, an object that has a canonical form (RFC 8785); kept by its hash.
    #[schema(value_type = Object)]
    manifest: Object,
}

/// A request for a passport.
#[derive(ToSchema)]
pub(in crate::http) struct Issue {
    /// The agent, as the client names it.
    #[schema(max_length = 256)]
    agent_id: Option<String>,
    /// The approval that it stands for.
    #[schema(max_length = 256)]
    approval_request_id: Option<String>,
    /// The resources that it permits; `None` for any.
    #[schema(schema_with = texts_or_null::<2048>, required = false)]
    allowed_resources: Option<Vec<String>>,
    /// The tools that it permits.
    #[schema(schema_with = texts::<256>)]
    allowed_tools: Vec<String>,
    /// Whom it will be shown to.
    #[schema(min_length = 1, max_length = 2048)]
    audience: String,
    /// What the agent is to achieve.
    #[schema(min_length = 1, max_length = 4096)]
    goal: String,
    /// The values that bound the arguments, an object; those whose names begin with `max_` or `min_` are numbers.
    #[schema(value_type = Option<Object>)]
    resource_constraints: Option<Object>,
    /// How risky its use is.
    #[schema(required = false)]
    risk_tier: Option<RiskWord>,
    /// For how many seconds it holds.
    #[schema(minimum = 1, maximum = 3600, required = false)]
    ttl_seconds: Option<i64>,
    /// Who delegates.
    #[schema(max_length = 256)]
    user_id: Option<String>,
}

/// A request to look at a passport.
#[derive(ToSchema)]
pub(in crate::http) struct VerifyPassport {
    /// The agent that it must be made out to.
    #[schema(max_length = 256)]
    agent_id: Option<String>,
    /// Whom it is shown to.
    #[schema(min_length = 1, max_length = 2048)]
    audience: String,
    /// The hash of the policy that must be in force.
    #[schema(max_length = 128)]
    policy_hash: Option<String>,
    /// The passport; a secret.
    #[schema(min_length = 1)]
    token: String,
    /// A tool's manifest that must be one that was approved, by its hash.
    #[schema(max_length = 128)]
    current_tool_manifest_hash: Option<String>,
    /// Who must have delegated.
    #[schema(max_length = 256)]
    user_id: Option<String>,
}

/// What a person says about an approval.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct DecisionNote {
    /// What the person notes.
    #[schema(max_length = 2000)]
    note: Option<String>,
}

/// A request to end a passport.
#[derive(ToSchema)]
pub(in crate::http) struct Revoke {
    /// The passport's id.
    #[schema(min_length = 1, max_length = 256)]
    jti: String,
    /// Why, for the ledger.
    #[schema(max_length = 2000)]
    reason: Option<String>,
}

/// The request's mode.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum ModeWord {
    Enforce,
    Strict,
    Warn,
    Monitor,
}

/// A list of strings, each of at most `CHARACTERS` characters, or null.
fn texts_or_null<const CHARACTERS: usize>() -> Schema {
    list::<CHARACTERS>().schema_type(SchemaType::from_iter([Type::Array, Type::Null])).into()
}

/// A list of strings, each of at most `CHARACTERS` characters.
fn texts<const CHARACTERS: usize>() -> Schema {
    list::<CHARACTERS>().into()
}

fn list<const CHARACTERS: usize>() -> ArrayBuilder {
    let item = ObjectBuilder::new().schema_type(Type::String).max_length(Some(CHARACTERS));
    ArrayBuilder::new().items(item).max_items(Some(LIST_ITEMS))
}
