//! What the answers are. The handlers write them member by member; a test compares.
#![expect(dead_code, reason = "described, and never made")]

use utoipa::ToSchema;
use utoipa::openapi::schema::Object;

use super::RiskWord;

/// What is decided.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum DecisionWord {
    Allow,
    Deny,
    RequireApproval,
    RequireToolReapproval,
    /// In answer to the mode warn alone.
    Warn,
}

/// Why it was decided so, for people.
#[derive(ToSchema)]
pub(in crate::http) struct Explain {
    /// One sentence.
    summary: String,
    /// The names of the rules that decided.
    matched_rules: Vec<String>,
    /// What could be done, a sentence each.
    next_steps: Vec<String>,
}

/// A secret that the tool needs.
#[derive(ToSchema)]
pub(in crate::http) struct Credential {
    /// The secret.
    token: String,
    /// Until when it holds.
    #[schema(required = true, format = DateTime)]
    expires_at: Option<String>,
}

/// A decision, recorded.
#[derive(ToSchema)]
pub(in crate::http) struct Decision {
    decision: DecisionWord,
    /// Why: stable and dotted.
    reason_code: String,
    risk_tier: RiskWord,
    explain: Explain,
    /// The ledger's event of this decision.
    #[schema(pattern = "^ev_[0-9a-f]{32}$")]
    evidence_event_id: String,
    /// The chain that it is in.
    evidence_chain_id: String,
    /// The approval to wait for; with `require_approval` in the modes enforce and strict.
    #[schema(nullable = false, pattern = "^apr_[0-9a-f]{32}$")]
    approval_request_id: Option<String>,
    /// `hash_payload` of the request's body; left out if the body has no canonical form.
    #[schema(nullable = false, pattern = "^[0-9a-f]{64}$")]
    request_hash: Option<String>,
    /// `hash_payload` of the policy that decided.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    policy_hash: String,
    /// Which credential of the vault it carries.
    #[schema(nullable = false, pattern = "^cr_[0-9a-f]{32}$")]
    credential_id: Option<String>,
    /// The tool's credential; on an `allow` alone.
    #[schema(nullable = false)]
    credential: Option<Credential>,
    /// What enforce would decide; with `warn`.
    #[schema(nullable = false)]
    would_be: Option<DecisionWord>,
    /// `true` on an `allow` whose idempotency key was answered `allow` before: it gives no new leave to act.
    #[schema(nullable = false)]
    replayed: Option<bool>,
    /// How long ago the first `allow` under the idempotency key was recorded, in milliseconds, by the gateway's clock;
    /// with `replayed`.
    #[schema(nullable = false, minimum = 0)]
    replay_age_ms: Option<i64>,
}

/// A passport.
#[derive(ToSchema)]
pub(in crate::http) struct Issued {
    /// A compact JWS; a secret.
    token: String,
    /// Where the keys are to verify it with.
    jwks_uri: String,
    /// Its id.
    #[schema(pattern = "^ap_[0-9a-f]{32}$")]
    jti: String,
    /// Until when it holds.
    #[schema(format = DateTime)]
    expires_at: String,
}

/// Whether a passport holds.
#[derive(ToSchema)]
pub(in crate::http) struct Verified {
    valid: bool,
    /// The codes of all that is wrong with it.
    errors: Vec<String>,
    /// What it claims, if it is valid.
    #[schema(nullable = false, value_type = Option<Object>)]
    claims: Option<Object>,
}

/// Whether the passport is revoked now.
#[derive(ToSchema)]
pub(in crate::http) struct Revoked {
    /// False if no such passport is known.
    revoked: bool,
}

/// The public keys that passports are signed with, a JWK Set (RFC 8037).
#[derive(ToSchema)]
pub(in crate::http) struct JwkSet {
    keys: Vec<Jwk>,
    /// The `iss` of the passports that these keys sign.
    issuer: String,
    /// The tenant of the API key that the request names; its passports have this `tenant_id`.
    tenant_id: Option<String>,
}

/// A public key.
#[derive(ToSchema)]
pub(in crate::http) struct Jwk {
    kty: String,
    crv: String,
    x: String,
    kid: String,
    alg: String,
    r#use: String,
}

/// Where an approval stands.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum Status {
    Pending,
    Approved,
    Rejected,
    Expired,
}

/// Which approvals are listed.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum Listed {
    Pending,
    Approved,
    Rejected,
    Expired,
    All,
}

/// An approval.
#[derive(ToSchema)]
pub(in crate::http) struct Approval {
    #[schema(pattern = "^apr_[0-9a-f]{32}$")]
    id: String,
    status: Status,
    /// `hash_payload` of the action that it is bound to.
    action_hash: String,
    /// The name of the key that decided.
    #[schema(required = true)]
    decided_by: Option<String>,
    #[schema(required = true, format = DateTime)]
    decided_at: Option<String>,
    /// Until when it may be decided.
    #[schema(format = DateTime)]
    deadline: String,
}

/// A page of approvals.
#[derive(ToSchema)]
pub(in crate::http) struct Approvals {
    /// The nearest deadline first.
    approvals: Vec<PendingApproval>,
    /// What `after` must be for the next page; left out if this is the last one.
    next: Option<String>,
}

/// An approval, with what a person must see to decide.
#[derive(ToSchema)]
pub(in crate::http) struct PendingApproval {
    id: String,
    status: Status,
    action_hash: String,
    tool: String,
    #[schema(required = true)]
    resource: Option<String>,
    #[schema(value_type = Object)]
    args: Object,
    goal: String,
    #[schema(required = true)]
    agent_id: Option<String>,
    #[schema(required = true)]
    user_id: Option<String>,
    reason_code: String,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    deadline: String,
}

/// An event that was recorded.
#[derive(ToSchema)]
pub(in crate::http) struct Recorded {
    #[schema(pattern = "^ev_[0-9a-f]{32}$")]
    event_id: String,
    #[schema(pattern = "^[0-9a-f]{64}$")]
    current_event_hash: String,
}

/// The events of a chain, in order.
#[derive(ToSchema)]
pub(in crate::http) struct Chain {
    chain_id: String,
    events: Vec<Event>,
}

/// An event of the ledger. A member without a value is left out.
#[derive(ToSchema)]
pub(in crate::http) struct Event {
    event_id: String,
    chain_id: String,
    /// Counts from 1 without a gap.
    #[schema(minimum = 1)]
    seq: u64,
    event_type: String,
    #[schema(format = DateTime)]
    created_at: String,
    tenant_id: String,
    key_name: String,
    #[schema(nullable = false)]
    agent_id: Option<String>,
    #[schema(nullable = false)]
    claimed_agent_id: Option<String>,
    #[schema(nullable = false)]
    user_id: Option<String>,
    #[schema(nullable = false)]
    tool_id: Option<String>,
    #[schema(nullable = false)]
    resource: Option<String>,
    #[schema(nullable = false)]
    goal: Option<String>,
    /// SHA-256 of the body's fingerprint and the idempotency key; on decisions with one.
    #[schema(nullable = false, pattern = "^[0-9a-f]{64}$")]
    idempotency_hash: Option<String>,
    #[schema(nullable = false)]
    mode: Option<String>,
    #[schema(nullable = false)]
    decision: Option<String>,
    #[schema(nullable = false)]
    reason_code: Option<String>,
    #[schema(nullable = false)]
    matched_rules: Option<Vec<String>>,
    #[schema(nullable = false)]
    policy_id: Option<String>,
    /// A positive integer or a string.
    #[schema(nullable = false, value_type = Option<Value>)]
    policy_version: Option<String>,
    #[schema(nullable = false)]
    policy_hash: Option<String>,
    #[schema(nullable = false)]
    request_hash: Option<String>,
    #[schema(nullable = false)]
    response_hash: Option<String>,
    #[schema(nullable = false)]
    approval_request_id: Option<String>,
    #[schema(nullable = false)]
    passport_jti: Option<String>,
    #[schema(nullable = false)]
    credential_id: Option<String>,
    #[schema(nullable = false, value_type = Option<Object>)]
    metadata: Option<Object>,
    #[schema(pattern = "^[0-9a-f]{64}$")]
    previous_event_hash: String,
    #[schema(pattern = "^[0-9a-f]{64}$")]
    current_event_hash: String,
}

/// Whether a chain is whole.
#[derive(ToSchema)]
pub(in crate::http) struct ChainVerified {
    valid: bool,
    /// How many events it should have.
    length: u64,
    /// The hash of its last event.
    head: String,
    /// The first event that is not what was recorded, or is gone.
    #[schema(required = true)]
    first_broken: Option<u64>,
    /// On the chain of decisions: the approvals, passports and manifests in the data store that do not follow from the
    /// ledger, in words; left out if there are none.
    #[schema(nullable = false)]
    unproven: Option<Vec<String>>,
}

/// A tool's manifest, approved.
#[derive(ToSchema)]
pub(in crate::http) struct ToolApproved {
    /// `hash_payload` of the manifest.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    manifest_hash: String,
    approved: bool,
}

/// That the gateway can decide.
#[derive(ToSchema)]
pub(in crate::http) struct Health {
    status: String,
}
