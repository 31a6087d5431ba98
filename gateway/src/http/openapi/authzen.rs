//! Schemas of the `AuthZEN` Authorization API, as [`authzen`](crate::request::authzen) parses them.
#![expect(dead_code, reason = "used for the OpenAPI description only")]

use utoipa::ToSchema;
use utoipa::openapi::schema::Object;

use super::RiskWord;
use super::requests::ModeWord;
use super::responses::{DecisionWord, Explain};

/// The person or program that acts.
#[derive(ToSchema)]
pub(in crate::http) struct Subject {
    /// `agent`, `user`, or another type.
    #[schema(min_length = 1, max_length = 256)]
    r#type: String,
    /// The id, within the type.
    #[schema(min_length = 1, max_length = 256)]
    id: String,
    /// In policies: `args.authzen.subject.properties`.
    #[schema(value_type = Option<Object>)]
    properties: Option<Object>,
}

/// The action: a tool and its arguments.
#[derive(ToSchema)]
pub(in crate::http) struct EvaluationAction {
    /// The tool.
    #[schema(min_length = 1, max_length = 256)]
    name: String,
    /// The arguments; `authzen` is reserved.
    #[schema(value_type = Option<Object>)]
    properties: Option<Object>,
}

/// The resource, in policies `type:id`.
#[derive(ToSchema)]
pub(in crate::http) struct EvaluationResource {
    #[schema(min_length = 1, max_length = 256)]
    r#type: String,
    /// With the action `tools/call` and the type `tool`, the tool: at most 256 characters.
    #[schema(min_length = 1, max_length = 1024)]
    id: String,
    /// In policies: `args.authzen.resource.properties`.
    #[schema(value_type = Option<Object>)]
    properties: Option<Object>,
}

/// The environment. Other members are in policies under `args.authzen.context`.
#[derive(ToSchema)]
pub(in crate::http) struct EvaluationContext {
    /// The goal of the agent; by default the action's name.
    #[schema(min_length = 1, max_length = 4096)]
    goal: Option<String>,
    actpass: Option<EvaluationExtension>,
    approval: Option<EvaluationApproval>,
}

/// Members of a preflight that the standard has no member for.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct EvaluationExtension {
    /// The agent, as claimed by the client, unless it is the subject.
    #[schema(max_length = 256)]
    agent_id: Option<String>,
    /// The approval to use for the action, unless `context.approval` names it.
    #[schema(max_length = 256)]
    approval_request_id: Option<String>,
    /// The audience that the passport must name.
    #[schema(max_length = 2048)]
    audience: Option<String>,
    /// Evaluations with the same key are executed once; a repetition replays an `allow`.
    #[schema(min_length = 1, max_length = 256)]
    idempotency_key: Option<String>,
    /// The mode.
    #[schema(required = false)]
    mode: Option<ModeWord>,
    /// A passport; secret.
    passport: Option<String>,
    /// Hash of the tool's manifest as seen by the agent.
    #[schema(max_length = 128)]
    tool_manifest_hash: Option<String>,
    /// The user on whose behalf the agent acts, unless it is the subject.
    #[schema(max_length = 256)]
    user_id: Option<String>,
}

/// The approval of an access request, as it was received.
#[derive(ToSchema)]
pub(in crate::http) struct EvaluationApproval {
    #[schema(min_length = 1, max_length = 256)]
    id: String,
}

/// An access evaluation.
#[derive(ToSchema)]
pub(in crate::http) struct Evaluation {
    subject: Subject,
    action: EvaluationAction,
    resource: EvaluationResource,
    context: Option<EvaluationContext>,
}

/// Access evaluations.
///
/// Without `evaluations`, this is one evaluation. Otherwise, the other entities are defaults.
#[derive(ToSchema)]
pub(in crate::http) struct Evaluations {
    subject: Option<Subject>,
    action: Option<EvaluationAction>,
    resource: Option<EvaluationResource>,
    context: Option<EvaluationContext>,
    /// Objects with the members of an evaluation. An invalid one is denied.
    #[schema(value_type = Option<Vec<Object>>, max_items = 100)]
    evaluations: Option<Vec<Object>>,
    options: Option<EvaluationsOptions>,
}

/// Options of the execution.
#[derive(ToSchema)]
pub(in crate::http) struct EvaluationsOptions {
    /// When to stop; by default after all evaluations.
    #[schema(required = false, nullable = false)]
    evaluations_semantic: Option<SemanticWord>,
}

/// When to stop.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum SemanticWord {
    ExecuteAll,
    DenyOnFirstDeny,
    PermitOnFirstPermit,
}

/// A decision.
#[derive(ToSchema)]
pub(in crate::http) struct EvaluationDecision {
    /// Whether the action is permitted: only with `allow`.
    decision: bool,
    context: DecisionDetails,
}

/// Decisions, or the decision of a request without evaluations.
#[derive(ToSchema)]
pub(in crate::http) struct EvaluationDecisions {
    /// In the order of the evaluations.
    #[schema(nullable = false)]
    evaluations: Option<Vec<EvaluationDecision>>,
    /// Whether the action is permitted; only without evaluations.
    #[schema(nullable = false)]
    decision: Option<bool>,
    #[schema(nullable = false)]
    context: Option<DecisionDetails>,
}

/// The members of a preflight's decision, without a credential; or why the evaluation failed.
#[derive(ToSchema)]
pub(in crate::http) struct DecisionDetails {
    /// The failure of an evaluation in a list; without the other members.
    #[schema(nullable = false)]
    error: Option<EvaluationError>,
    #[schema(nullable = false)]
    decision: Option<DecisionWord>,
    /// Stable, dotted reason code.
    #[schema(nullable = false)]
    reason_code: Option<String>,
    /// The reason code.
    #[schema(nullable = false)]
    reason: Option<String>,
    #[schema(nullable = false)]
    risk_tier: Option<RiskWord>,
    #[schema(nullable = false)]
    explain: Option<Explain>,
    /// Id of the ledger event with this decision.
    #[schema(nullable = false, pattern = "^ev_[0-9a-f]{32}$")]
    evidence_event_id: Option<String>,
    /// The same id. If the denial can be approved: the event that opened the approval, and its id.
    #[schema(nullable = false, pattern = "^ev_[0-9a-f]{32}(\\.apr_[0-9a-f]{32})?$")]
    evaluation_id: Option<String>,
    /// Chain of that event.
    #[schema(nullable = false)]
    evidence_chain_id: Option<String>,
    /// The pending approval.
    #[schema(nullable = false, pattern = "^apr_[0-9a-f]{32}$")]
    approval_request_id: Option<String>,
    /// `hash_payload` of the body of the preflight to which the evaluation maps.
    #[schema(nullable = false, pattern = "^[0-9a-f]{64}$")]
    request_hash: Option<String>,
    /// `hash_payload` of the policy that decided.
    #[schema(nullable = false, pattern = "^[0-9a-f]{64}$")]
    policy_hash: Option<String>,
    /// The decision of the mode enforce; with `warn`.
    #[schema(nullable = false)]
    would_be: Option<DecisionWord>,
    /// `true` on an `allow` whose idempotency key already received an `allow`. It does not permit
    /// another execution.
    #[schema(nullable = false)]
    replayed: Option<bool>,
    /// Age of the first `allow` under the idempotency key, in milliseconds.
    #[schema(nullable = false, minimum = 0)]
    replay_age_ms: Option<i64>,
    /// The halt epoch: the number of halts and liftings in the database when this was decided.
    #[schema(nullable = false)]
    halt_epoch: Option<u64>,
    /// Where and until when to request an approval.
    #[schema(nullable = false)]
    access_request: Option<Requestable>,
    /// The next step, if the denied evaluation named an approval.
    #[schema(nullable = false)]
    next_action: Option<NextAction>,
    /// Seconds to wait; with `retry`.
    #[schema(nullable = false)]
    retry_after: Option<u32>,
}

/// A failure.
#[derive(ToSchema)]
pub(in crate::http) struct EvaluationError {
    /// The status that a request with this evaluation alone would have.
    status: u16,
    /// Stable error code.
    #[schema(pattern = "^[a-z_.]+$")]
    code: String,
    /// Description for people.
    message: String,
}

/// A request to have a denied evaluation approved.
#[derive(ToSchema)]
pub(in crate::http) struct AccessRequest {
    subject: Subject,
    action: EvaluationAction,
    resource: EvaluationResource,
    /// The context of the evaluation; members that are added to it are ignored.
    context: Option<EvaluationContext>,
    denial: Denial,
}

/// The denied evaluation.
#[derive(ToSchema)]
pub(in crate::http) struct Denial {
    /// The `context.evaluation_id` of the denial.
    #[schema(min_length = 1, max_length = 256)]
    evaluation_id: String,
    /// The `context.access_request.expires_at` of the denial.
    #[schema(format = DateTime)]
    expires_at: String,
}

/// Where and until when to request an approval.
#[derive(ToSchema)]
pub(in crate::http) struct Requestable {
    /// Where to submit the request.
    endpoint: String,
    /// The deadline of the approval.
    #[schema(format = DateTime)]
    expires_at: String,
}

/// The next step after a denial with an approval.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum NextAction {
    Request,
    Retry,
    None,
}

/// An access request.
#[derive(ToSchema)]
pub(in crate::http) struct AccessTask {
    task: Task,
    /// Only of an approved task.
    #[schema(nullable = false)]
    result: Option<TaskResult>,
}

/// The state of an access request.
#[derive(ToSchema)]
pub(in crate::http) struct Task {
    /// The approval's id.
    #[schema(pattern = "^apr_[0-9a-f]{32}$")]
    id: String,
    status: TaskStatus,
    status_endpoint: String,
    /// The deadline of the approval.
    #[schema(format = DateTime)]
    expires_at: String,
    links: TaskLinks,
}

/// Pages about a task.
#[derive(ToSchema)]
pub(in crate::http) struct TaskLinks {
    /// Where people decide.
    review: String,
}

/// The state of an access request.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(in crate::http) enum TaskStatus {
    Approved,
    Denied,
    Expired,
    Pending,
}

/// The use of an approved task.
#[derive(ToSchema)]
pub(in crate::http) struct TaskResult {
    /// Always `reevaluate`.
    mode: String,
    approval: TaskApproval,
}

/// The approval to send in `context.approval`.
#[derive(ToSchema)]
pub(in crate::http) struct TaskApproval {
    #[schema(pattern = "^apr_[0-9a-f]{32}$")]
    id: String,
    #[schema(format = DateTime)]
    approved_at: String,
    #[schema(format = DateTime)]
    approved_until: String,
}

/// A problem (RFC 9457).
#[derive(ToSchema)]
pub(in crate::http) struct Problem {
    /// `urn:openid:authzen:access-request:error:` and the kind.
    r#type: String,
    title: String,
    status: u16,
}

/// Metadata of a policy decision point.
#[derive(ToSchema)]
pub(in crate::http) struct Configuration {
    /// The gateway's URL.
    policy_decision_point: String,
    access_evaluation_endpoint: String,
    access_evaluations_endpoint: String,
    access_request_endpoint: String,
    capabilities: Vec<String>,
}
