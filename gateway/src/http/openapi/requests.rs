//! Schemas of request bodies, as [`request`](crate::request) parses them; a test compares both.
#![expect(dead_code, reason = "used for the OpenAPI description only")]

use utoipa::ToSchema;
use utoipa::openapi::schema::{ArrayBuilder, Object, ObjectBuilder, Schema, SchemaType, Type};

use super::RiskWord;
use crate::request::LIST_ITEMS;

/// A request for a decision.
///
/// Unknown members are allowed; the request's hash covers them.
#[derive(ToSchema)]
pub(in crate::http) struct Preflight {
    /// The agent's id, as claimed by the client.
    #[schema(max_length = 256)]
    agent_id: Option<String>,
    /// The approval to use for the action.
    #[schema(max_length = 256)]
    approval_request_id: Option<String>,
    /// The audience that the passport must name.
    #[schema(max_length = 2048)]
    audience: Option<String>,
    /// The arguments of the action.
    #[schema(value_type = Object)]
    args: Object,
    /// The goal of the agent.
    #[schema(min_length = 1, max_length = 4096)]
    goal: String,
    /// Requests with the same key are executed once; a repetition replays an `allow`.
    #[schema(min_length = 1, max_length = 256)]
    idempotency_key: Option<String>,
    /// How decisions are enforced.
    #[schema(required = false)]
    mode: Option<ModeWord>,
    /// A passport; secret.
    passport: Option<String>,
    /// Hash of the tool's manifest as seen by the agent.
    #[schema(max_length = 128)]
    tool_manifest_hash: Option<String>,
    /// The resource that the action affects.
    #[schema(max_length = 2048)]
    resource: Option<String>,
    /// The tool to call.
    #[schema(min_length = 1, max_length = 256)]
    tool: String,
    /// The user on whose behalf the agent acts.
    #[schema(max_length = 256)]
    user_id: Option<String>,
}

/// An event to record for a client.
#[derive(ToSchema)]
pub(in crate::http) struct Evidence {
    /// The chain to append to.
    #[schema(min_length = 1, max_length = 256)]
    chain_id: String,
    /// The decision, as reported by the client.
    #[schema(max_length = 128)]
    decision: Option<String>,
    /// The type of the event.
    #[schema(min_length = 1, max_length = 128)]
    event_type: String,
    /// Additional data, an object with a canonical form (RFC 8785): integers within ±(2^53 - 1).
    #[schema(value_type = Option<Object>)]
    metadata: Option<Object>,
    /// The reason code, as reported by the client.
    #[schema(max_length = 128)]
    reason_code: Option<String>,
    /// Hash of the request.
    #[schema(max_length = 128)]
    request_hash: Option<String>,
    /// Hash of the result.
    #[schema(max_length = 128)]
    response_hash: Option<String>,
    /// The tool.
    #[schema(max_length = 256)]
    tool_id: Option<String>,
}

/// A request to stop something.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct StartHalt {
    /// The scope.
    scope: ScopeWord,
    /// The agent, the tool or the user, with these scopes only. `*` in a tool matches any characters.
    #[schema(min_length = 1, max_length = 256)]
    id: Option<String>,
    /// The reason, which clients and the ledger show.
    #[schema(min_length = 1, max_length = 2000)]
    reason: String,
}

/// A request to lift a halt.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct LiftHalt {
    /// The reason, which the ledger shows.
    #[schema(min_length = 1, max_length = 2000)]
    reason: String,
}

/// A client's confirmation that it has seen an epoch.
#[derive(ToSchema)]
pub(in crate::http) struct Acknowledge {
    /// The agent's id, as claimed by the client.
    #[schema(max_length = 256)]
    agent_id: Option<String>,
    /// The epoch.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    epoch: i64,
    /// The number of stopped actions that still run in the client.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    in_flight: i64,
    /// The client's name of its process.
    #[schema(max_length = 128)]
    instance: Option<String>,
}

/// Scope of a halt.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum ScopeWord {
    Agent,
    Tool,
    User,
    Tenant,
    All,
}

/// A tool manifest to approve.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ToolApproval {
    /// The tool's name in requests.
    #[schema(min_length = 1, max_length = 256)]
    tool_id: String,
    /// The tool's manifest, an object with a canonical form (RFC 8785); stored as a hash.
    #[schema(value_type = Object)]
    manifest: Object,
}

/// A request for a passport.
#[derive(ToSchema)]
pub(in crate::http) struct Issue {
    /// The agent's id, as claimed by the client.
    #[schema(max_length = 256)]
    agent_id: Option<String>,
    /// The approval that the passport carries.
    #[schema(max_length = 256)]
    approval_request_id: Option<String>,
    /// Permitted resources; null permits any.
    #[schema(schema_with = texts_or_null::<2048>, required = false)]
    allowed_resources: Option<Vec<String>>,
    /// Permitted tools.
    #[schema(schema_with = texts::<256>)]
    allowed_tools: Vec<String>,
    /// The audience of the passport.
    #[schema(min_length = 1, max_length = 2048)]
    audience: String,
    /// The DPoP key that the passport is bound to.
    #[schema(required = false)]
    cnf: Option<KeyConfirmation>,
    /// The goal that the passport permits.
    #[schema(min_length = 1, max_length = 4096)]
    goal: String,
    /// Constraints on arguments. A name with the prefix `max_` or `min_` takes a number.
    #[schema(value_type = Option<Object>)]
    resource_constraints: Option<Object>,
    /// Risk tier of the passport.
    #[schema(required = false)]
    risk_tier: Option<RiskWord>,
    /// The immutable context of the transaction that the passport begins. The passport then has the
    /// claims `txn`, `tctx` and `req_wl`.
    #[schema(value_type = Option<Object>)]
    tctx: Option<Object>,
    /// Lifetime in seconds.
    #[schema(minimum = 1, maximum = 3600, required = false)]
    ttl_seconds: Option<i64>,
    /// The delegating user.
    #[schema(max_length = 256)]
    user_id: Option<String>,
}

/// A request to exchange a passport for a narrower one (RFC 8693).
#[derive(ToSchema)]
pub(in crate::http) struct TokenExchange {
    /// `urn:ietf:params:oauth:grant-type:token-exchange`.
    grant_type: String,
    /// The passport; secret.
    subject_token: String,
    /// `urn:ietf:params:oauth:token-type:jwt`.
    subject_token_type: String,
    /// `urn:ietf:params:oauth:token-type:jwt`.
    #[schema(nullable = false)]
    requested_token_type: Option<String>,
    /// The audience of the passport; no other is permitted.
    #[schema(nullable = false)]
    audience: Option<String>,
    /// Permitted tools, separated by spaces: some of those of the passport. Default: all of them.
    #[schema(nullable = false)]
    scope: Option<String>,
    /// Permitted resources, a JSON list: some of those of the passport. Default: all of them.
    #[schema(nullable = false)]
    allowed_resources: Option<String>,
    /// Further or narrower constraints, a JSON object.
    #[schema(nullable = false)]
    resource_constraints: Option<String>,
    /// Lifetime in seconds, at most the rest of the passport's.
    #[schema(nullable = false)]
    ttl_seconds: Option<i64>,
    /// The acting agent, if the API key is not bound to one.
    #[schema(nullable = false)]
    agent_id: Option<String>,
    /// The thumbprint of the DPoP key of the new passport. Default: the passport's.
    #[schema(nullable = false)]
    dpop_jkt: Option<String>,
}

/// The DPoP key that a passport is bound to (RFC 9449).
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct KeyConfirmation {
    /// The thumbprint of the public key (RFC 7638, SHA-256).
    #[schema(
        pattern = "^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$",
        example = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
    )]
    jkt: String,
}

/// A request to verify a passport.
#[derive(ToSchema)]
pub(in crate::http) struct VerifyPassport {
    /// Expected agent.
    #[schema(max_length = 256)]
    agent_id: Option<String>,
    /// Expected audience.
    #[schema(min_length = 1, max_length = 2048)]
    audience: String,
    /// The thumbprint of the DPoP key whose proof the caller has checked. A passport that is bound to
    /// another key is invalid.
    #[schema(
        pattern = "^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$",
        example = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
    )]
    dpop_jkt: Option<String>,
    /// Expected hash of the policy.
    #[schema(max_length = 128)]
    policy_hash: Option<String>,
    /// The passport; secret.
    #[schema(min_length = 1)]
    token: String,
    /// Hash of a tool manifest that must be approved.
    #[schema(max_length = 128)]
    current_tool_manifest_hash: Option<String>,
    /// Expected delegating user.
    #[schema(max_length = 256)]
    user_id: Option<String>,
}

/// Optional note of the person who decides.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct DecisionNote {
    /// The note.
    #[schema(max_length = 2000)]
    note: Option<String>,
    /// The absent person in whose place the vote is given, by a delegation. Default: the own seat,
    /// otherwise the only delegated one.
    #[schema(max_length = 256)]
    r#for: Option<String>,
}

/// A request to let another person decide in place of an absent one.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct DelegationRequest {
    /// The absent person; default: the person of the key. Only operators may name another.
    #[schema(max_length = 256)]
    person: Option<String>,
    /// The person who decides.
    #[schema(min_length = 1, max_length = 256)]
    to: String,
    /// Start; default: now.
    #[schema(format = DateTime)]
    from: Option<String>,
    /// End.
    #[schema(format = DateTime)]
    until: String,
    /// The reason, recorded in the ledger.
    #[schema(max_length = 2000)]
    reason: Option<String>,
}

/// A request to revoke a passport.
#[derive(ToSchema)]
pub(in crate::http) struct Revoke {
    /// The passport's id.
    #[schema(min_length = 1, max_length = 256)]
    jti: String,
    /// The reason, recorded in the ledger.
    #[schema(max_length = 2000)]
    reason: Option<String>,
}

/// Mode of a request.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum ModeWord {
    Enforce,
    Strict,
    Warn,
    Monitor,
}

/// A list of strings of at most `CHARACTERS` characters each, or null.
fn texts_or_null<const CHARACTERS: usize>() -> Schema {
    list::<CHARACTERS>().schema_type(SchemaType::from_iter([Type::Array, Type::Null])).into()
}

/// A list of strings of at most `CHARACTERS` characters each.
fn texts<const CHARACTERS: usize>() -> Schema {
    list::<CHARACTERS>().into()
}

fn list<const CHARACTERS: usize>() -> ArrayBuilder {
    let item = ObjectBuilder::new().schema_type(Type::String).max_length(Some(CHARACTERS));
    ArrayBuilder::new().items(item).max_items(Some(LIST_ITEMS))
}

/// A tool's name in a request.
#[derive(ToSchema)]
#[schema(min_length = 1, max_length = 256)]
pub(in crate::http) struct ToolName(String);
