//! Schemas of response bodies. The handlers write them member by member; a test compares both.
#![expect(dead_code, reason = "used for the OpenAPI description only")]

use utoipa::ToSchema;
use utoipa::openapi::schema::Object;

use super::RiskWord;
use super::requests::ScopeWord;

/// A decision.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum DecisionWord {
    Allow,
    Deny,
    RequireApproval,
    RequireToolReapproval,
    /// Only in the mode warn.
    Warn,
}

/// Explanation for people.
#[derive(ToSchema)]
pub(in crate::http) struct Explain {
    /// One sentence.
    summary: String,
    /// Names of the rules that decided.
    matched_rules: Vec<String>,
    /// Possible next steps, one sentence each.
    next_steps: Vec<String>,
    /// The budgets that apply, with this decision; absent without one.
    #[schema(nullable = false)]
    budgets: Option<Vec<BudgetUse>>,
}

/// The use of an account of a budget.
#[derive(ToSchema)]
pub(in crate::http) struct BudgetUse {
    /// Name of the budget.
    name: String,
    /// The values that identify the account, by path.
    account: serde_json::Map<String, serde_json::Value>,
    /// The limit of the sum in a window; null if the policy no longer has this budget.
    #[schema(required = true)]
    limit: Option<f64>,
    /// The sum in the trailing window: an exact decimal.
    used: f64,
    /// The limit minus the sum, at least 0; null if the policy no longer has this budget.
    #[schema(required = true)]
    remaining: Option<f64>,
    /// The window as in the policy, such as `24h`; null if the policy no longer has this budget.
    #[schema(required = true)]
    window: Option<String>,
}

/// A page of accounts.
#[derive(ToSchema)]
pub(in crate::http) struct Budgets {
    /// In the order of their first actions.
    budgets: Vec<BudgetUse>,
    /// The value of `after` for the next page; absent on the last page.
    #[schema(nullable = false)]
    next: Option<String>,
}

/// The shadow policy of a tenant: its counts since it was loaded, and its disagreements.
#[derive(ToSchema)]
pub(in crate::http) struct Shadow {
    /// The shadow policy; absent without one.
    #[schema(nullable = false)]
    policy: Option<ShadowPolicy>,
    /// Decisions that it makes too.
    agreed: u64,
    /// Decisions that it makes otherwise.
    disagreed: u64,
    /// Decisions that depend on a budget or a history that only the shadow policy has.
    undetermined: u64,
    /// Decisions that were not evaluated, because too many were waiting.
    skipped: u64,
    /// The newest 1000 are kept, also those of earlier shadow policies.
    disagreements: Vec<ShadowDisagreement>,
    /// The value of `after` for the next page; absent on the last page.
    #[schema(nullable = false)]
    next: Option<String>,
}

/// A policy.
#[derive(ToSchema)]
pub(in crate::http) struct ShadowPolicy {
    id: String,
    /// A positive integer or a string.
    version: serde_json::Value,
    /// The policy's hash.
    hash: String,
}

/// A decision that a shadow policy would have made otherwise.
#[derive(ToSchema)]
pub(in crate::http) struct ShadowDisagreement {
    /// The event of the decision.
    event_id: String,
    /// When it was decided, RFC 3339.
    at: String,
    tool: String,
    /// Absent if no agent is known.
    #[schema(nullable = false)]
    agent_id: Option<String>,
    /// The decision that the client got, of the mode enforce.
    decided: ShadowAnswer,
    /// The decision of the shadow policy.
    shadow: ShadowAnswer,
    /// Hash of the policy in force.
    policy_hash: String,
    /// Hash of the shadow policy.
    shadow_policy_hash: String,
}

/// The answer of a policy.
#[derive(ToSchema)]
pub(in crate::http) struct ShadowAnswer {
    decision: String,
    reason_code: String,
    /// The matching rule; null without one.
    #[schema(required = true)]
    rule: Option<String>,
}

/// The webhooks of a tenant.
#[derive(ToSchema)]
pub(in crate::http) struct Webhooks {
    webhooks: Vec<Webhook>,
}

/// The state of a webhook.
#[derive(ToSchema)]
pub(in crate::http) struct Webhook {
    /// Its name in the settings.
    name: String,
    form: WebhookForm,
    /// The types of messages that it receives.
    events: Vec<String>,
    /// Failed attempts of the next message.
    attempts: u64,
    /// The last failure of the next message.
    #[schema(required = true)]
    problem: Option<String>,
    /// Time of the next attempt.
    #[schema(required = true, format = DateTime)]
    retry_at: Option<String>,
    /// The number of messages that were set aside.
    dead_letters: u64,
}

/// The form of a webhook's messages.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum WebhookForm {
    Mail,
    Slack,
    Standard,
}

/// A page of messages that were set aside.
#[derive(ToSchema)]
pub(in crate::http) struct DeadLetters {
    /// The oldest first.
    dead_letters: Vec<DeadLetter>,
    /// The value of `after` for the next page; absent on the last page.
    #[schema(nullable = false)]
    next: Option<String>,
}

/// A message that was not delivered.
#[derive(ToSchema)]
pub(in crate::http) struct DeadLetter {
    id: i64,
    /// Name of the webhook.
    webhook: String,
    /// Type of the message.
    r#type: String,
    /// The `webhook-id` of the message.
    message_id: String,
    /// The last failure.
    problem: String,
    /// When it was set aside.
    #[schema(format = DateTime)]
    failed_at: String,
    /// Whether it will be sent again.
    queued: bool,
}

/// A message that will be sent again.
#[derive(ToSchema)]
pub(in crate::http) struct Queued {
    queued: bool,
}

/// A tool's credential.
#[derive(ToSchema)]
pub(in crate::http) struct Credential {
    /// The secret.
    token: String,
    /// Expiry.
    #[schema(required = true, format = DateTime)]
    expires_at: Option<String>,
}

/// A recorded decision.
#[derive(ToSchema)]
pub(in crate::http) struct Decision {
    decision: DecisionWord,
    /// Stable, dotted reason code.
    reason_code: String,
    risk_tier: RiskWord,
    explain: Explain,
    /// Id of the ledger event with this decision.
    #[schema(pattern = "^ev_[0-9a-f]{32}$")]
    evidence_event_id: String,
    /// Chain of that event.
    evidence_chain_id: String,
    /// The pending approval; with `require_approval` in the modes enforce and strict.
    #[schema(nullable = false, pattern = "^apr_[0-9a-f]{32}$")]
    approval_request_id: Option<String>,
    /// `hash_payload` of the request body; absent if the body has no canonical form.
    #[schema(nullable = false, pattern = "^[0-9a-f]{64}$")]
    request_hash: Option<String>,
    /// `hash_payload` of the policy that decided.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    policy_hash: String,
    /// Id of the vault credential in this response.
    #[schema(nullable = false, pattern = "^cr_[0-9a-f]{32}$")]
    credential_id: Option<String>,
    /// The signatures of the approval that allows the action, if people signed it.
    #[schema(nullable = false, value_type = Option<Vec<Value>>)]
    approval_signatures: Option<Vec<String>>,
    /// The tool's credential; only with `allow`.
    #[schema(nullable = false)]
    credential: Option<Credential>,
    /// The decision of the mode enforce; with `warn`.
    #[schema(nullable = false)]
    would_be: Option<DecisionWord>,
    /// `true` on an `allow` whose idempotency key already received an `allow`. It does not permit
    /// another execution.
    #[schema(nullable = false)]
    replayed: Option<bool>,
    /// Age of the first `allow` under the idempotency key, in milliseconds of the gateway's clock;
    /// with `replayed`.
    #[schema(nullable = false, minimum = 0)]
    replay_age_ms: Option<i64>,
    /// The halt epoch: the number of halts and liftings in the database when this was decided.
    halt_epoch: u64,
}

/// A halt.
#[derive(ToSchema)]
pub(in crate::http) struct Halt {
    #[schema(pattern = "^halt_[0-9a-f]{32}$")]
    id: String,
    scope: ScopeWord,
    /// The agent, the pattern of tools or the user.
    #[schema(required = true)]
    target: Option<String>,
    reason: String,
    /// Name of the API key that started it, or `(command line)`.
    by: String,
    #[schema(format = DateTime)]
    at: String,
    /// The epoch that it started.
    started_epoch: u64,
    /// Name of the API key that lifted it, or `(command line)`; absent while it is active, as the
    /// following members.
    #[schema(nullable = false)]
    lifted_by: Option<String>,
    #[schema(nullable = false, format = DateTime)]
    lifted_at: Option<String>,
    #[schema(nullable = false)]
    lift_reason: Option<String>,
    /// The epoch that its lifting started.
    #[schema(nullable = false)]
    lifted_epoch: Option<u64>,
    /// The epoch that the change started; only in the responses to the start and the lifting.
    #[schema(nullable = false)]
    halt_epoch: Option<u64>,
}

/// Halts and who has confirmed them.
#[derive(ToSchema)]
pub(in crate::http) struct Halts {
    /// The current epoch.
    halt_epoch: u64,
    /// Oldest first.
    halts: Vec<Halt>,
    /// The value of `after` for the next page of halts; absent on the last page.
    #[schema(nullable = false)]
    next: Option<String>,
    /// Newest first.
    confirmations: Vec<Confirmation>,
    /// The value of `confirmations_before` for the next page of confirmations; absent on the last
    /// page.
    #[schema(nullable = false)]
    confirmations_next: Option<String>,
}

/// A client's confirmation that it has seen an epoch.
#[derive(ToSchema)]
pub(in crate::http) struct Confirmation {
    halt_epoch: u64,
    client: HaltClient,
    /// The number of stopped actions that still ran in the client.
    in_flight: u64,
    #[schema(format = DateTime)]
    at: String,
}

/// A client that has confirmed an epoch.
#[derive(ToSchema)]
pub(in crate::http) struct HaltClient {
    /// Name of the API key.
    key_name: String,
    #[schema(required = true)]
    agent_id: Option<String>,
    /// The client's name of its process.
    #[schema(required = true)]
    instance: Option<String>,
}

/// Whether the client is stopped.
#[derive(ToSchema)]
pub(in crate::http) struct HaltState {
    /// The current epoch.
    halt_epoch: u64,
    halted: bool,
    /// The halt that stops it.
    #[schema(nullable = false)]
    halt: Option<Halt>,
}

/// Result of an acknowledgement.
#[derive(ToSchema)]
pub(in crate::http) struct AcknowledgedHalts {
    /// True.
    acknowledged: bool,
    /// The current epoch.
    halt_epoch: u64,
}

/// Result of a reload.
#[derive(ToSchema)]
pub(in crate::http) struct Reloaded {
    /// True.
    reloaded: bool,
    /// SHA-256 of the previous settings, without secrets.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    settings_hash_before: String,
    /// SHA-256 of the settings in force, without secrets.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    settings_hash: String,
    /// Hash of the tenant's previous policy.
    #[schema(pattern = "^[0-9a-f]{64}$", nullable = false)]
    policy_hash_before: Option<String>,
    /// Hash of the tenant's policy; absent if the tenant was removed.
    #[schema(pattern = "^[0-9a-f]{64}$", nullable = false)]
    policy_hash: Option<String>,
}

/// Filter for halts.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum HaltFilter {
    Active,
    All,
}

/// A passport.
#[derive(ToSchema)]
pub(in crate::http) struct Issued {
    /// A compact JWS; secret.
    token: String,
    /// URL of the public keys that verify it.
    jwks_uri: String,
    /// The passport's id.
    #[schema(pattern = "^ap_[0-9a-f]{32}$")]
    jti: String,
    /// Expiry.
    #[schema(format = DateTime)]
    expires_at: String,
    /// The halt epoch: the number of halts and liftings in the database when this was decided.
    halt_epoch: u64,
}

/// A passport that was issued in exchange for another (RFC 8693).
#[derive(ToSchema)]
pub(in crate::http) struct ExchangedPassport {
    /// The new passport, a compact JWS; secret.
    access_token: String,
    /// `urn:ietf:params:oauth:token-type:jwt`.
    issued_token_type: String,
    /// `N_A`: the passport is not used in the header `Authorization`.
    token_type: String,
    /// Lifetime in seconds.
    expires_in: i64,
    /// The permitted tools, separated by spaces.
    scope: String,
}

/// An error of the exchange (RFC 6749, section 5.2).
#[derive(ToSchema)]
pub(in crate::http) struct OAuthFailure {
    /// The error code.
    #[schema(pattern = "^[a-z_.]+$")]
    error: String,
    /// Description for people. Starts with the parameter's name if a parameter is invalid.
    error_description: String,
}

/// Result of verifying a passport.
#[derive(ToSchema)]
pub(in crate::http) struct Verified {
    valid: bool,
    /// Codes of all problems.
    errors: Vec<String>,
    /// The claims, if the passport is valid.
    #[schema(nullable = false, value_type = Option<Object>)]
    claims: Option<Object>,
    /// The halt epoch: the number of halts and liftings in the database when this was decided.
    halt_epoch: u64,
}

/// Result of a revocation.
#[derive(ToSchema)]
pub(in crate::http) struct Revoked {
    /// False if the passport is unknown.
    revoked: bool,
}

/// Public keys of the passport signers, a JWK Set (RFC 8037).
#[derive(ToSchema)]
pub(in crate::http) struct JwkSet {
    keys: Vec<Jwk>,
    /// The `iss` claim of the passports.
    issuer: String,
    /// The tenant of the request's API key, which is the `tenant_id` claim of its passports.
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

/// Status of an approval.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum Status {
    Pending,
    Approved,
    Rejected,
    Expired,
}

/// Filter for approvals.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum StatusFilter {
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
    /// `hash_payload` of the approved action.
    action_hash: String,
    /// Name of the API key that decided.
    #[schema(required = true)]
    decided_by: Option<String>,
    #[schema(required = true, format = DateTime)]
    decided_at: Option<String>,
    /// Deadline for the decision.
    #[schema(format = DateTime)]
    deadline: String,
    /// The halt epoch: the number of halts and liftings in the database when this was decided.
    halt_epoch: u64,
    #[schema(required = true)]
    needs: Option<Requirement>,
    votes: Vec<Vote>,
    still_needed: Vec<Seats>,
}

/// The required people, as in the policy; `null` if the ledger does not support the record.
#[derive(ToSchema)]
pub(in crate::http) struct Requirement {
    /// Number of people.
    #[schema(minimum = 1)]
    quorum: u32,
    /// The groups: a list, or an object with the number of people of each.
    #[schema(nullable = false, value_type = Option<Value>)]
    groups: Option<String>,
    #[schema(nullable = false)]
    deadline_seconds: Option<i64>,
    #[schema(nullable = false)]
    escalate: Option<Escalation>,
    /// Whether only votes that a passkey signed count.
    #[schema(nullable = false)]
    signed: Option<bool>,
}

/// Further groups after a part of the deadline.
#[derive(ToSchema)]
pub(in crate::http) struct Escalation {
    after_seconds: i64,
    groups: Vec<String>,
}

/// A vote.
#[derive(ToSchema)]
pub(in crate::http) struct Vote {
    approved: bool,
    /// Name of the API key.
    by: String,
    /// The person.
    person: String,
    /// The absent person in whose place it was given.
    #[schema(required = true)]
    r#for: Option<String>,
    /// The groups whose seats it can fill.
    groups: Vec<String>,
    /// Whether the further groups could decide at that time.
    escalated: bool,
    #[schema(format = DateTime)]
    at: String,
}

/// Seats that votes must still fill.
#[derive(ToSchema)]
pub(in crate::http) struct Seats {
    #[schema(minimum = 1)]
    count: u32,
    /// The groups that can fill them; absent for any.
    #[schema(nullable = false)]
    groups: Option<Vec<String>>,
}

/// A delegation.
#[derive(ToSchema)]
pub(in crate::http) struct Delegation {
    #[schema(pattern = "^dlg_[0-9a-f]{32}$")]
    id: String,
    /// The absent person.
    person: String,
    /// The person who decides.
    to: String,
    #[schema(format = DateTime)]
    from: String,
    #[schema(format = DateTime)]
    until: String,
    /// Name of the API key that created it.
    created_by: String,
    revoked: bool,
}

/// Delegations.
#[derive(ToSchema)]
pub(in crate::http) struct Delegations {
    /// In order of creation.
    delegations: Vec<Delegation>,
}

/// A page of approvals.
#[derive(ToSchema)]
pub(in crate::http) struct Approvals {
    /// Ordered by deadline, nearest first.
    approvals: Vec<PendingApproval>,
    /// The value of `after` for the next page; absent on the last page.
    next: Option<String>,
    /// The halt epoch: the number of halts and liftings in the database when this was decided.
    halt_epoch: u64,
}

/// An approval with everything needed to decide.
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
    #[schema(required = true)]
    needs: Option<Requirement>,
    votes: Vec<Vote>,
    still_needed: Vec<Seats>,
}

/// A recorded event.
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

/// An event of the ledger. Members without a value are absent.
#[derive(ToSchema)]
pub(in crate::http) struct Event {
    event_id: String,
    chain_id: String,
    /// Position in the chain, starting at 1 without gaps.
    #[schema(minimum = 1)]
    seq: u64,
    event_type: String,
    #[schema(format = DateTime)]
    created_at: String,
    tenant_id: String,
    key_name: String,
    #[schema(nullable = false)]
    agent_id: Option<String>,
    /// The types of messages that webhooks receive.
    #[schema(nullable = false)]
    announces: Option<Vec<String>>,
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
    /// SHA-256 of the body's fingerprint and the idempotency key; on decisions with an idempotency
    /// key.
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
    /// The protocol of the request; absent for the gateway's own API.
    #[schema(nullable = false)]
    protocol: Option<String>,
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

/// Result of verifying a chain.
#[derive(ToSchema)]
pub(in crate::http) struct ChainVerified {
    valid: bool,
    /// Expected number of events.
    length: u64,
    /// Expected hash of the last event.
    head: String,
    /// The first broken or missing event.
    #[schema(required = true)]
    first_broken: Option<u64>,
    /// On the chain of decisions: descriptions of approvals, passports and manifests that no ledger
    /// event supports; absent if there are none.
    #[schema(nullable = false)]
    unproven: Option<Vec<String>>,
}

/// An approved tool manifest.
#[derive(ToSchema)]
pub(in crate::http) struct ToolApproved {
    /// `hash_payload` of the manifest.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    manifest_hash: String,
    approved: bool,
}

/// The state of tools.
#[derive(ToSchema)]
pub(in crate::http) struct ToolStates {
    /// In the order of the request.
    tools: Vec<ToolState>,
}

/// The state of a tool.
#[derive(ToSchema)]
pub(in crate::http) struct ToolState {
    tool_id: String,
    /// Hash of the approved manifest; `null` if no manifest is approved.
    #[schema(required = true, pattern = "^[0-9a-f]{64}$")]
    manifest_hash: Option<String>,
    /// Whether the policy may permit the tool for some arguments. `false` is certain.
    may_permit: bool,
}

/// A response of JSON-RPC 2.0.
#[derive(ToSchema)]
pub(in crate::http) struct RpcResponse {
    jsonrpc: String,
    /// The id of the request; null if it could not be read.
    #[schema(required = true, value_type = Option<Value>)]
    id: Option<String>,
    /// The signed decision.
    #[schema(nullable = false, value_type = Option<Value>)]
    result: Option<Object>,
    /// Only for a request that cannot be authenticated.
    #[schema(nullable = false, value_type = Option<Value>)]
    error: Option<Object>,
}

/// The gateway is healthy.
#[derive(ToSchema)]
pub(in crate::http) struct Health {
    status: String,
}
