//! A scripted gateway for tests of programs that guard actions.
//!
//! The client and its guard are the real ones; nothing leaves the process. The feature `testing`
//! enables this module: add it to the `dev-dependencies`.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use actpass_core::testing::{Answer, ScriptedGateway};
//! use actpass_core::{ActPass, Action, Error, Outcome};
//! use serde_json::json;
//!
//! // The program under test.
//! async fn refund(actpass: &ActPass, cents: u32) -> Result<Outcome<u32, Error>, Error> {
//!     let action = Action::new("resolve_refund_request", "stripe.refund.create").args(json!({"amount": cents}));
//!     actpass.guard(&action, async |_context| Ok(cents)).await
//! }
//!
//! let gateway = ScriptedGateway::new();
//! let actpass = gateway.client()?;
//!
//! gateway.script("stripe.refund.create", Answer::deny().reason_code("refund.over_limit"));
//! assert!(!refund(&actpass, 90_000).await?.executed());
//! gateway.assert_not_executed("stripe.refund.create");
//!
//! // The approval is bound to this action: another amount needs another approval.
//! gateway.script("stripe.refund.create", Answer::require_approval());
//! assert!(!refund(&actpass, 25_000).await?.executed());
//! gateway.approve("stripe.refund.create")?;
//! assert!(!refund(&actpass, 26_000).await?.executed());
//! assert!(refund(&actpass, 25_000).await?.executed());
//! gateway.assert_executed("stripe.refund.create", 1);
//! # Ok::<(), Error>(())
//! # }).unwrap();
//! ```

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[cfg(feature = "testing")]
use actpass_protocol::ErrorKind;
use actpass_protocol::json::{Number, parse_argument};
use actpass_protocol::{DecisionWord, Json, Mode, Operation, canonical_json, hash_payload, sha256_hex};
use percent_encoding::percent_decode_str;
#[cfg(feature = "testing")]
use tokio::time::Instant;

use crate::approval::{ApprovalStatus, MAX_POLL};
use crate::error::Error;
#[cfg(feature = "testing")]
use crate::{
    client::ActPass,
    config::ExecutionLog,
    transport::{Request, Response, SendFuture, Transport, TransportError},
};

const APPROVAL_ID: &str = "approval_request_id";
/// Interval at which a held poll of an approval checks for a decision.
#[cfg(feature = "testing")]
const HOLD_INTERVAL: Duration = Duration::from_millis(5);

/// A scripted response to a preflight.
///
/// ```
/// use actpass_core::testing::Answer;
/// use serde_json::json;
///
/// let answer = Answer::allow().reason_code("refund.small_in_scope").member("risk_tier", json!("low"));
/// assert_eq!(answer.to_string(), r#"{"decision":"allow","reason_code":"refund.small_in_scope","risk_tier":"low"}"#);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: u16,
    /// `None` closes the connection.
    body: Option<Json>,
}

impl Answer {
    /// `allow`, with the reason code `test.allow`.
    pub fn allow() -> Self {
        Self::decision("allow")
    }

    /// `deny`, with the reason code `test.deny`.
    pub fn deny() -> Self {
        Self::decision("deny")
    }

    /// `warn`, with the reason code `test.warn`: the action runs in the modes `warn` and `monitor`.
    pub fn warn() -> Self {
        Self::decision("warn")
    }

    /// `require_approval`, with the reason code `test.require_approval`. In the modes `enforce` and
    /// `strict` it opens an approval; see [`ScriptedGateway::approve`].
    ///
    /// The approval has the id of the member `approval_request_id`, if the answer has it, with a
    /// number if that id is in use; else `apr_1`, `apr_2` and so on. The other members, such as
    /// `credential`, are also members of the `allow` of the approved action.
    pub fn require_approval() -> Self {
        Self::decision("require_approval")
    }

    /// The connection is closed without a response.
    pub fn unreachable() -> Self {
        Self { status: 0, body: None }
    }

    /// Any response: an HTTP status and a JSON body.
    pub fn response(status: u16, body: impl Into<Json>) -> Self {
        Self { status, body: Some(body.into()) }
    }

    /// A response from a binding's texts: `body` is the JSON text of the body; `None` is
    /// [`Answer::unreachable`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`], naming `answer`, if `body` is not JSON, or `status` is not in the
    /// range 100 to 999.
    pub fn from_text(status: u16, body: Option<&str>) -> Result<Self, Error> {
        let Some(body) = body else { return Ok(Self::unreachable()) };
        if !(100..1000).contains(&status) {
            let problem = format_args!("expected a status of 100 to 999, found {status}");
            return Err(Error::argument("answer", problem));
        }
        Ok(Self::response(status, parse_argument("answer", body)?))
    }

    fn decision(word: &str) -> Self {
        let members = [("decision", Json::from(word)), ("reason_code", Json::String(format!("test.{word}")))];
        Self::response(200, object(members))
    }

    /// Sets the reason code.
    #[must_use]
    pub fn reason_code(self, reason_code: impl Into<String>) -> Self {
        self.member("reason_code", Json::String(reason_code.into()))
    }

    /// Sets the member `name`. Without effect if the body is not an object.
    #[must_use]
    pub fn member(mut self, name: &str, value: impl Into<Json>) -> Self {
        if let Some(Json::Object(members)) = &mut self.body {
            members.retain(|(key, _)| key != name);
            members.push((name.to_owned(), value.into()));
        }
        self
    }

    /// The id of the approval, if the script sets it.
    fn approval_id(&self) -> Option<&str> {
        self.body.as_ref().and_then(|body| text(body, APPROVAL_ID)).filter(|id| !id.is_empty())
    }

    /// Whether it is a decision with this word.
    fn is(&self, word: &DecisionWord) -> bool {
        let decision = self.body.as_ref().and_then(|body| text(body, "decision"));
        (200..300).contains(&self.status) && decision == Some(word.as_str())
    }
}

/// The JSON text of the body; `unreachable` without one.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.body {
            Some(body) => body.fmt(f),
            None => f.write_str("unreachable"),
        }
    }
}

/// A request that a [`ScriptedGateway`] received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedRequest {
    /// The HTTP method.
    pub method: String,
    /// The path, with the query.
    pub path: String,
    /// The body; empty without one. A body that is not UTF-8 has replacement characters.
    pub body: String,
}

/// An approval that a [`ScriptedGateway`] opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptedApproval {
    /// The id.
    pub id: String,
    /// The tool of the action.
    pub tool: String,
    /// The [`hash_payload`] of the action that it is bound to: `agent_id`, `args`, `goal`,
    /// `resource`, `tool` and `user_id`.
    pub action_hash: String,
    /// The status.
    pub status: ApprovalStatus,
    /// Whether the action was allowed with it.
    pub spent: bool,
    /// The answer that opened it.
    answer: Answer,
    subject: HaltSubject,
}

impl ScriptedApproval {
    /// The JSON text: `id`, `tool`, `action_hash`, `status` and `spent`.
    pub fn to_json(&self) -> String {
        let members = [
            ("id", Json::from(&*self.id)),
            ("tool", Json::from(&*self.tool)),
            ("action_hash", Json::from(&*self.action_hash)),
            ("status", Json::from(self.status_name())),
            ("spent", Json::Bool(self.spent)),
        ];
        object(members).to_string()
    }

    fn status_name(&self) -> &'static str {
        match self.status {
            ApprovalStatus::Approved => "approved",
            ApprovalStatus::Expired => "expired",
            ApprovalStatus::Pending => "pending",
            ApprovalStatus::Rejected => "rejected",
        }
    }

    /// Whether a preflight of the same action joins it.
    fn is_live(&self) -> bool {
        !self.spent && matches!(self.status, ApprovalStatus::Approved | ApprovalStatus::Pending)
    }
}

/// A stop of a [`ScriptedGateway`]: see [`ScriptedGateway::halt`].
#[derive(Clone, Debug, PartialEq, Eq)]
struct Halt {
    scope: HaltScope,
    /// The agent, the tool or the user.
    id: String,
    reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HaltScope {
    Agent,
    All,
    Tenant,
    Tool,
    User,
}

/// The members of an action that a stop can name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct HaltSubject {
    agent_id: String,
    tools: Vec<String>,
    user_id: String,
}

impl HaltSubject {
    /// The subject of a request, a passport or a query.
    fn of(member: impl Fn(&str) -> Option<String>, tools: Vec<String>) -> Self {
        let text = |name| member(name).unwrap_or_default();
        Self { agent_id: text("agent_id"), tools, user_id: text("user_id") }
    }

    fn of_body(body: &Json) -> Self {
        let owned = |name: &str| text(body, name).map(str::to_owned);
        let allowed = match body.member("allowed_tools") {
            Some(Json::Array(tools)) => tools.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        Self::of(owned, owned("tool").into_iter().chain(allowed).collect())
    }
}

impl Halt {
    fn covers(&self, subject: &HaltSubject) -> bool {
        match self.scope {
            HaltScope::All | HaltScope::Tenant => true,
            HaltScope::Agent => subject.agent_id == self.id,
            HaltScope::Tool => subject.tools.contains(&self.id),
            HaltScope::User => subject.user_id == self.id,
        }
    }

    fn summary(&self) -> String {
        format!("Stopped by test: {}", self.reason)
    }
}

/// An action that ran: a permit that was spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution {
    /// The tool.
    pub tool: String,
    /// The arguments that the gateway evaluated.
    pub args: Json,
}

/// A gateway that answers as a test scripts it; the [module documentation](self) has an example.
/// Cloning is cheap; clones are the same gateway.
///
/// - It denies a tool without a script: `test.unscripted`.
/// - An approval is bound to its action, found by it, and spent once, as by a real gateway.
/// - An idempotency key that is repeated with the same body repeats its `allow`, with
///   `replayed: true`; with another body the status is 409.
/// - It records evidence. It issues passports, which verify as valid until they are revoked; a
///   preflight does not check them.
/// - A decision has `evidence_event_id` and `request_hash`, unless the script sets them.
/// - A stop ([`halt`](ScriptedGateway::halt)) denies the actions that it covers, also if the
///   script allows them. `halt_epoch` is in every decision, approval and passport, and starts at 0.
///
/// [`ScriptedGateway::client`] connects a client without a server. A server passes its requests to
/// [`ScriptedGateway::reply`].
#[derive(Clone, Default)]
pub struct ScriptedGateway(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    next: VecDeque<Answer>,
    by_tool: HashMap<String, Answer>,
    otherwise: Option<Answer>,
    approvals: Vec<ScriptedApproval>,
    /// Decisions on approvals that are not opened yet, by scripted id.
    early: HashMap<String, ApprovalStatus>,
    /// By idempotency key.
    responses: HashMap<String, StoredResponse>,
    passports: Vec<Passport>,
    requests: Vec<ReceivedRequest>,
    executions: Vec<Execution>,
    halts: Vec<Halt>,
    halt_epoch: u64,
}

/// The first response under an idempotency key.
struct StoredResponse {
    fingerprint: String,
    /// If it was an `allow`.
    allow: Option<Json>,
    /// The approval that the `allow` spent.
    approval: Option<String>,
}

struct Passport {
    jti: String,
    token: String,
    claims: Json,
    is_revoked: bool,
}

/// Status and body.
type Reply = (u16, Json);

impl ScriptedGateway {
    /// Creates a gateway that denies every action.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a client of this gateway with default settings. For other settings, use
    /// [`ActPassBuilder::scripted_gateway`](crate::ActPassBuilder::scripted_gateway).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the environment has an invalid
    /// `ACTPASS_API_BASE_URL`.
    #[cfg(feature = "testing")]
    pub fn client(&self) -> Result<ActPass, Error> {
        ActPass::builder().api_key("apk_test").agent_id("tests").scripted_gateway(self).build()
    }

    /// Answers all following preflights of `tool` with `answer`.
    pub fn script(&self, tool: impl Into<String>, answer: Answer) {
        self.state().by_tool.insert(tool.into(), answer);
    }

    /// Answers all following preflights of every tool with `answer`; replaces the answers of single
    /// tools.
    pub fn script_all(&self, answer: Answer) {
        let mut state = self.state();
        state.by_tool.clear();
        state.otherwise = Some(answer);
    }

    /// Queues `answer` for one preflight, of any tool. Queued answers come first, in order.
    pub fn script_next(&self, answer: Answer) {
        self.state().next.push_back(answer);
    }

    /// Approves an approval: the next preflight of its action is allowed, once. `approval` is its
    /// id, or a tool: then the latest pending approval of the tool. Returns the id.
    ///
    /// An id that a scripted answer sets may be decided before the approval is opened. A guard that
    /// waits for approval then needs no other thread that decides.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`] if there is no such pending approval. The error lists the approvals.
    pub fn approve(&self, approval: &str) -> Result<String, Error> {
        self.state().settle(approval, ApprovalStatus::Approved)
    }

    /// Rejects an approval: its action stays blocked. Otherwise as [`ScriptedGateway::approve`].
    ///
    /// # Errors
    ///
    /// As [`ScriptedGateway::approve`].
    pub fn reject(&self, approval: &str) -> Result<String, Error> {
        self.state().settle(approval, ApprovalStatus::Rejected)
    }

    /// Lets an approval expire, which may be pending, or approved and not spent. Otherwise as
    /// [`ScriptedGateway::approve`].
    ///
    /// # Errors
    ///
    /// As [`ScriptedGateway::approve`].
    pub fn expire(&self, approval: &str) -> Result<String, Error> {
        self.state().settle(approval, ApprovalStatus::Expired)
    }

    /// Stops every action of an agent, a tool or a user, or all actions: `scope` is `agent`, `tool`,
    /// `user`, `tenant` or `all`. The first three need an `id`. Returns the new `halt_epoch`.
    ///
    /// The actions are denied with the reason code `halted` and a summary that names `reason`. A
    /// wait for an approval of such an action ends, and the approval cannot be approved. A client signals the
    /// running functions of the actions, and acknowledges.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`] for an unknown scope, or a missing or superfluous id.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use actpass_core::Action;
    /// use actpass_core::testing::{Answer, ScriptedGateway};
    ///
    /// let gateway = ScriptedGateway::new();
    /// gateway.script_all(Answer::allow());
    /// let actpass = gateway.client()?;
    /// let action = Action::new("resolve_refund_request", "stripe.refund.create");
    ///
    /// gateway.halt("tool", Some("stripe.refund.create"), "wrong amounts")?;
    /// let stopped = actpass.preflight(&action).await?;
    /// assert_eq!((&*stopped.reason_code(), &*stopped.explain().summary), ("halted", "Stopped by test: wrong amounts"));
    ///
    /// gateway.lift();
    /// assert_eq!(actpass.preflight(&action).await?.reason_code(), "test.allow");
    /// # Ok::<(), actpass_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn halt(&self, scope: &str, id: Option<&str>, reason: &str) -> Result<u64, Error> {
        let (scope, is_named) = match scope {
            "agent" => (HaltScope::Agent, true),
            "all" => (HaltScope::All, false),
            "tenant" => (HaltScope::Tenant, false),
            "tool" => (HaltScope::Tool, true),
            "user" => (HaltScope::User, true),
            other => {
                let problem = format_args!("expected agent, tool, user, tenant or all, found {other:?}");
                return Err(Error::argument("scope", problem));
            }
        };
        let id = match (id.filter(|id| !id.is_empty()), is_named) {
            (Some(id), true) => id.to_owned(),
            (None, false) => String::new(),
            (None, true) => return Err(Error::argument("id", "expected a name, found nothing")),
            (Some(id), false) => {
                return Err(Error::argument("id", format_args!("expected none, found {id:?}")));
            }
        };
        let mut state = self.state();
        state.halts.push(Halt { scope, id, reason: reason.to_owned() });
        state.halt_epoch += 1;
        Ok(state.halt_epoch)
    }

    /// Lifts all stops. Returns the new `halt_epoch`.
    pub fn lift(&self) -> u64 {
        let mut state = self.state();
        state.halts.clear();
        state.halt_epoch += 1;
        state.halt_epoch
    }

    /// The bodies of the acknowledgements of stops so far, in order: `epoch`, `in_flight`,
    /// `agent_id` and `instance`.
    pub fn acknowledgements(&self) -> Vec<Json> {
        self.bodies(Operation::AcknowledgeHalt)
    }

    /// The approvals so far, in the order in which they were opened.
    pub fn approvals(&self) -> Vec<ScriptedApproval> {
        self.state().approvals.clone()
    }

    /// The requests so far, in order, retries included.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.state().requests.clone()
    }

    /// The bodies of the preflights so far, in order, retries included.
    pub fn actions(&self) -> Vec<Json> {
        self.bodies(Operation::Preflight)
    }

    /// The bodies of the evidence events so far, in order.
    pub fn evidence(&self) -> Vec<Json> {
        self.bodies(Operation::RecordEvidence)
    }

    /// The actions of clients of this gateway that ran, in order.
    pub fn executions(&self) -> Vec<Execution> {
        self.state().executions.clone()
    }

    /// Asserts that actions of `tool` ran exactly `times` times.
    ///
    /// # Panics
    ///
    /// If they did not. The message lists the tools that ran.
    #[track_caller]
    pub fn assert_executed(&self, tool: &str, times: usize) {
        let ran: Vec<_> = self.executions().into_iter().map(|execution| execution.tool).collect();
        let count = ran.iter().filter(|name| *name == tool).count();
        assert!(
            count == times,
            "expected {tool} to run {times} times, but it ran {count} times; ran: {ran:?}"
        );
    }

    /// Asserts that no action of `tool` ran.
    ///
    /// # Panics
    ///
    /// As [`ScriptedGateway::assert_executed`].
    #[track_caller]
    pub fn assert_not_executed(&self, tool: &str) {
        self.assert_executed(tool, 0);
    }

    /// Answers a request: returns the status and the JSON body, or `None` if the server must close
    /// the connection without a response. `path` includes the query.
    ///
    /// Before it calls this method, a server holds the request for the time that
    /// [`hold`](ScriptedGateway::hold) returns.
    ///
    /// ```
    /// use actpass_core::testing::{Answer, ScriptedGateway};
    ///
    /// let gateway = ScriptedGateway::new();
    /// gateway.script("crm.note.add", Answer::allow());
    /// let body = br#"{"goal": "demo", "tool": "crm.note.add", "args": {}}"#;
    /// let (status, body) = gateway.reply("POST", "/api/v1/actions/preflight", body).unwrap();
    /// assert_eq!(status, 200);
    /// assert!(body.starts_with(r#"{"decision":"allow","reason_code":"test.allow""#), "{body}");
    /// ```
    pub fn reply(&self, method: &str, path: &str, body: &[u8]) -> Option<(u16, String)> {
        let mut state = self.state();
        state.requests.push(ReceivedRequest {
            method: method.to_owned(),
            path: path.to_owned(),
            body: String::from_utf8_lossy(body).into_owned(),
        });
        let (status, body) = state.reply(method, path, body)?;
        Some((status, body.to_string()))
    }

    /// The time for which a server holds this request before it calls
    /// [`reply`](ScriptedGateway::reply): the `wait` of a poll of a pending approval, at most 25 s;
    /// zero as soon as the approval is decided or its action is stopped. For a watch for stops it is
    /// its `wait`; zero as soon as the epoch rises. For every other request it is zero. A server
    /// without a notification calls it again every few milliseconds.
    pub fn hold(&self, method: &str, path: &str) -> Duration {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let number = |name| parameter(query, name).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
        let wait = number("wait");
        let state = self.state();
        let is_pending = method == "GET"
            && match approval_id(path) {
                Some(id) => state.approval(&id).is_some_and(|approval| {
                    approval.status == ApprovalStatus::Pending && state.halt_of(&approval.subject).is_none()
                }),
                None => path == Operation::WatchHalts.path() && state.halt_epoch <= number("after"),
            };
        if is_pending { Duration::from_secs(wait).min(MAX_POLL) } else { Duration::ZERO }
    }

    fn bodies(&self, operation: Operation) -> Vec<Json> {
        let state = self.state();
        let requests = state.requests.iter().filter(|request| request.path == operation.path());
        requests.filter_map(|request| Json::parse(request.body.as_bytes()).ok()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ScriptedGateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedGateway").finish_non_exhaustive()
    }
}

#[cfg(feature = "testing")]
impl ExecutionLog for ScriptedGateway {
    fn note_execution(&self, tool: &str, args: &str) {
        let args = Json::parse(args.as_bytes()).unwrap_or(Json::Null);
        self.state().executions.push(Execution { tool: tool.to_owned(), args });
    }
}

/// Answers without a network. Holds polls on tokio's clock.
#[cfg(feature = "testing")]
impl Transport for ScriptedGateway {
    fn send(&self, request: Request) -> SendFuture<'_> {
        Box::pin(async move {
            let method = if request.operation.is_read() { "GET" } else { "POST" };
            let path = request.path();
            let until = Instant::now() + self.hold(method, &path);
            while !self.hold(method, &path).is_zero() && Instant::now() < until {
                tokio::time::sleep(HOLD_INTERVAL).await;
            }
            match self.reply(method, &path, &request.body) {
                Some((status, body)) => Ok(Response::new(status, body)),
                None => {
                    let error = Error::new(ErrorKind::Connection, "cannot reach the scripted gateway");
                    Err(TransportError { error, is_pre_send: true })
                }
            }
        })
    }
}

impl State {
    fn reply(&mut self, method: &str, path: &str, body: &[u8]) -> Option<Reply> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let approval = approval_id(path);
        let operation = match &approval {
            Some(_) => Some(Operation::Approval),
            None => Operation::ALL.into_iter().find(|operation| operation.path() == path),
        };
        let not_found = || Some(error(404, "not_found", format!("{path}: not found")));
        let Some(operation) = operation else { return not_found() };
        let expected = if operation.is_read() { "GET" } else { "POST" };
        if method != expected {
            return Some(error(
                405,
                "method_not_allowed",
                format!("{path}: expected {expected}, found {method}"),
            ));
        }
        if operation.is_read() {
            return match approval.as_deref().map(|id| self.approval(id)) {
                None if operation == Operation::Jwks => {
                    Some((200, object([("keys", Json::Array(Vec::new()))])))
                }
                None if operation == Operation::WatchHalts => {
                    let tools = parameter(query, "tool").into_iter().collect();
                    let subject = HaltSubject::of(|name| parameter(query, name), tools);
                    let halted = ("halted", Json::Bool(self.halt_of(&subject).is_some()));
                    Some((200, self.with_epoch(object([halted]))))
                }
                None | Some(None) => not_found(),
                Some(Some(approval)) => {
                    let halt = self.halt_of(&approval.subject);
                    Some((200, self.with_epoch(describe(approval, halt))))
                }
            };
        }
        let body = match Json::parse(body) {
            Ok(body @ Json::Object(_)) => body,
            Ok(body) => {
                return Some(error(
                    422,
                    "invalid_member",
                    format!("expected an object, found {}", body.kind()),
                ));
            }
            Err(problem) => return Some(error(400, "invalid_json", problem.to_string())),
        };
        let count = self.requests.len();
        match operation {
            Operation::Preflight => {
                let (status, body) = self.preflight(&body)?;
                Some((status, if text(&body, "decision").is_some() { self.with_epoch(body) } else { body }))
            }
            Operation::IssuePassport => Some(self.issue(&body)),
            Operation::VerifyPassport => Some((200, self.with_epoch(self.verify(&body)))),
            Operation::AcknowledgeHalt => Some((200, object([]))),
            Operation::RevokePassport => Some((200, self.revoke(&body))),
            Operation::RecordEvidence => Some((
                200,
                object([
                    ("event_id", Json::String(format!("ev_{count}"))),
                    ("current_event_hash", Json::String(sha256_hex(format!("{count} {body}").as_bytes()))),
                ]),
            )),
            Operation::Approval | Operation::Jwks | Operation::WatchHalts => not_found(),
        }
    }

    fn preflight(&mut self, request: &Json) -> Option<Reply> {
        let Some(tool) = text(request, "tool") else {
            return Some(error(422, "invalid_member", "tool: expected a string".to_owned()));
        };
        if let Some(halt) = self.halt_of(&HaltSubject::of_body(request)) {
            return Some((200, recorded(stopped(halt).body?, request, self.requests.len())));
        }
        let key = text(request, "idempotency_key");
        let fingerprint = fingerprint(request);
        let earlier = key.and_then(|key| self.responses.get(key));
        if earlier.is_some_and(|earlier| earlier.fingerprint != fingerprint) {
            let problem =
                "idempotency_key: already used for a different request; use a new key or send the same body";
            return Some(error(409, "idempotency_conflict", problem.to_owned()));
        }
        let allowed =
            earlier.and_then(|earlier| earlier.allow.clone().filter(|_| self.is_still_valid(tool, earlier)));
        if let Some(allowed) = allowed {
            return Some((200, replayed(allowed, request)));
        }
        let is_repeated = earlier.is_some_and(|earlier| earlier.allow.is_some());

        let named = text(request, APPROVAL_ID).filter(|id| !id.is_empty());
        let action_hash = action_hash(request);
        let answer = self.next.pop_front().or_else(|| self.standing(tool).cloned()).or_else(|| {
            // An approval that a queued answer opened stays usable.
            let approval = named.map_or_else(|| self.live(action_hash.as_deref()), |id| self.approval(id));
            approval.map(|approval| approval.answer.clone())
        });
        let answer = answer.unwrap_or_else(unscripted);
        let (answer, approval) = match answer.is(&DecisionWord::RequireApproval) {
            true => self.require_approval(&answer, request, named, action_hash, consumes(request)),
            false => (answer, None),
        };
        let (is_allow, status) = (answer.is(&DecisionWord::Allow), answer.status);
        let body = recorded(answer.body?, request, self.requests.len());
        // The first `allow` under a key is kept for the key's lifetime.
        if let Some(key) = key.filter(|_| is_allow || !is_repeated) {
            let allow = is_allow.then(|| body.clone());
            self.responses.insert(key.to_owned(), StoredResponse { fingerprint, allow, approval });
        }
        Some((status, if is_allow && is_repeated { replayed(body, request) } else { body }))
    }

    /// Applies the approvals to the scripted `require_approval`. Returns the answer, and the approval
    /// that it spends. Unless it `consumes`, it opens and spends nothing.
    fn require_approval(
        &mut self,
        scripted: &Answer,
        request: &Json,
        named: Option<&str>,
        action_hash: Option<String>,
        consumes: bool,
    ) -> (Answer, Option<String>) {
        let Some(action_hash) = action_hash else { return (denied("approval.not_hashable"), None) };
        let found = match named {
            None => self.approvals.iter_mut().rev().find(|it| it.action_hash == action_hash && it.is_live()),
            Some(id) => match self.approvals.iter_mut().find(|approval| approval.id == id) {
                None => return (denied("approval.unknown"), None),
                Some(approval) if approval.action_hash != action_hash => {
                    return (denied("approval.action_mismatch"), None);
                }
                Some(approval) if approval.spent => return (denied("approval.spent"), None),
                Some(approval) => Some(approval),
            },
        };
        let approval = match found {
            None if consumes => return (self.open(scripted, request, action_hash), None),
            None => return (without_approval(scripted), None),
            Some(approval) => approval,
        };
        let id = Json::from(approval.id.as_str());
        match approval.status {
            ApprovalStatus::Approved => {
                approval.spent |= consumes;
                let allow = Answer::allow().reason_code("approval.approved");
                (with_extras(allow, scripted), consumes.then(|| approval.id.clone()))
            }
            ApprovalStatus::Expired => (denied("approval.expired"), None),
            ApprovalStatus::Pending => {
                let reason_code = named.map(|_| "approval.pending");
                (waiting(scripted, id, reason_code), None)
            }
            ApprovalStatus::Rejected => (denied("approval.rejected"), None),
        }
    }

    fn open(&mut self, scripted: &Answer, request: &Json, action_hash: String) -> Answer {
        let wanted = scripted.approval_id();
        let numbered = |at: usize| match wanted {
            Some(id) if at == 1 => id.to_owned(),
            Some(id) => format!("{id}_{at}"),
            None => format!("apr_{at}"),
        };
        let id = (1..).map(numbered).find(|id| self.approval(id).is_none()).unwrap_or_default();
        let answer = waiting(scripted, Json::from(id.as_str()), None);
        self.approvals.push(ScriptedApproval {
            status: self.early.remove(&id).unwrap_or(ApprovalStatus::Pending),
            id,
            tool: text(request, "tool").unwrap_or_default().to_owned(),
            subject: HaltSubject::of_body(request),
            action_hash,
            spent: false,
            answer: scripted.clone(),
        });
        answer
    }

    /// Decides the approval that `name` names.
    fn settle(&mut self, name: &str, status: ApprovalStatus) -> Result<String, Error> {
        let halted = self.approvals.iter().filter(|it| it.id == name || it.tool == name);
        let halted = halted.rev().find_map(|approval| self.halt_of(&approval.subject));
        if let Some(halt) = halted.filter(|_| status == ApprovalStatus::Approved) {
            let summary = halt.summary();
            return Err(Error::argument(
                "approval",
                format_args!("the action of {name:?} is stopped: {summary}"),
            ));
        }
        let may = |approval: &&mut ScriptedApproval| match status {
            ApprovalStatus::Expired => approval.is_live(),
            ApprovalStatus::Approved | ApprovalStatus::Pending | ApprovalStatus::Rejected => {
                approval.status == ApprovalStatus::Pending
            }
        };
        let is_id = self.approval(name).is_some();
        let mut scripted = self.next.iter().chain(self.by_tool.values()).chain(&self.otherwise);
        if !is_id && scripted.any(|answer| answer.approval_id() == Some(name)) {
            self.early.insert(name.to_owned(), status);
            return Ok(name.to_owned());
        }
        let named = |approval: &&mut ScriptedApproval| match is_id {
            true => approval.id == name,
            false => approval.tool == name,
        };
        if let Some(approval) = self.approvals.iter_mut().rev().filter(named).find(may) {
            approval.status = status;
            return Ok(approval.id.clone());
        }
        let states: Vec<_> = self
            .approvals
            .iter()
            .map(|approval| {
                let status = if approval.spent { "spent" } else { approval.status_name() };
                format!("{} of {} is {status}", approval.id, approval.tool)
            })
            .collect();
        let states = if states.is_empty() { "none was opened".to_owned() } else { states.join(", ") };
        let expected = "expected the id of a pending approval, or a tool that has one";
        Err(Error::argument("approval", format_args!("{expected}, found {name:?}; {states}")))
    }

    fn approval(&self, id: &str) -> Option<&ScriptedApproval> {
        self.approvals.iter().find(|approval| approval.id == id)
    }

    /// The approval that a preflight of this action joins.
    fn live(&self, action_hash: Option<&str>) -> Option<&ScriptedApproval> {
        self.approvals.iter().rev().find(|it| Some(it.action_hash.as_str()) == action_hash && it.is_live())
    }

    /// The scripted answer to preflights of `tool`, without queued ones.
    fn standing(&self, tool: &str) -> Option<&Answer> {
        self.by_tool.get(tool).or(self.otherwise.as_ref())
    }

    /// Whether the basis of an earlier `allow` is still valid.
    fn is_still_valid(&self, tool: &str, earlier: &StoredResponse) -> bool {
        let approval = earlier.approval.as_deref().map(|id| self.approval(id));
        let is_usable = approval.is_none_or(|it| it.is_some_and(|it| it.status == ApprovalStatus::Approved));
        let word = if approval.is_some() { DecisionWord::RequireApproval } else { DecisionWord::Allow };
        is_usable && self.standing(tool).is_none_or(|answer| answer.is(&word))
    }

    fn halt_of(&self, subject: &HaltSubject) -> Option<&Halt> {
        self.halts.iter().find(|halt| halt.covers(subject))
    }

    /// Adds `halt_epoch`, unless the script sets it.
    fn with_epoch(&self, body: Json) -> Json {
        let Json::Object(mut members) = body else { return body };
        if members.iter().all(|(name, _)| name != "halt_epoch") {
            let epoch = Number::from(i64::try_from(self.halt_epoch).unwrap_or(i64::MAX));
            members.push(("halt_epoch".to_owned(), Json::Number(epoch)));
        }
        Json::Object(members)
    }

    fn issue(&mut self, request: &Json) -> Reply {
        if let Some(halt) = self.halt_of(&HaltSubject::of_body(request)) {
            return error(409, "halted", halt.summary());
        }
        let count = self.passports.len() + 1;
        let (jti, token) = (format!("ap_{count}"), format!("test.passport.{count}"));
        let issued = object([("token", Json::from(&*token)), ("jti", Json::from(&*jti))]);
        self.passports.push(Passport { jti, token, claims: request.clone(), is_revoked: false });
        (200, self.with_epoch(issued))
    }

    fn verify(&self, request: &Json) -> Json {
        let token = text(request, "token").unwrap_or_default();
        let error = match self.passports.iter().find(|passport| passport.token == token) {
            None => "passport.malformed",
            Some(passport) if passport.is_revoked => "passport.revoked",
            Some(Passport { claims, .. }) if self.halt_of(&HaltSubject::of_body(claims)).is_some() => {
                "halted"
            }
            Some(Passport { claims, .. }) => {
                let errors = ("errors", Json::Array(Vec::new()));
                return object([("valid", Json::Bool(true)), errors, ("claims", claims.clone())]);
            }
        };
        object([("valid", Json::Bool(false)), ("errors", Json::Array(vec![Json::from(error)]))])
    }

    fn revoke(&mut self, request: &Json) -> Json {
        let jti = text(request, "jti").unwrap_or_default();
        let passport = self.passports.iter_mut().find(|passport| passport.jti == jti);
        let revoked = passport.is_some();
        if let Some(passport) = passport {
            passport.is_revoked = true;
        }
        object([("revoked", Json::Bool(revoked))])
    }
}

/// The id in the path of an approval.
fn approval_id(path: &str) -> Option<String> {
    let id = path.strip_prefix(Operation::Approval.path())?.strip_prefix('/')?;
    Some(percent_decode_str(id).decode_utf8().ok()?.into_owned()).filter(|id| !id.is_empty())
}

/// The value of a parameter of a query.
fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    Some(percent_decode_str(value).decode_utf8().ok()?.into_owned())
}

fn describe(approval: &ScriptedApproval, halt: Option<&Halt>) -> Json {
    let is_decided = matches!(approval.status, ApprovalStatus::Approved | ApprovalStatus::Rejected);
    let described = object([
        ("id", Json::from(&*approval.id)),
        ("status", Json::from(approval.status_name())),
        ("action_hash", Json::from(&*approval.action_hash)),
        ("decided_by", if is_decided { Json::from("test") } else { Json::Null }),
    ]);
    let (Json::Object(mut members), Some(halt)) = (described.clone(), halt) else { return described };
    let explain = stopped(halt).body.and_then(|body| body.member("explain").cloned());
    members.push(("halted".to_owned(), Json::Bool(true)));
    members.extend(explain.map(|explain| ("explain".to_owned(), explain)));
    Json::Object(members)
}

/// The decision about a stopped action.
fn stopped(halt: &Halt) -> Answer {
    explained(Answer::deny().reason_code("halted"), &halt.summary(), "Wait until the stop is lifted.")
}

/// Whether the mode of the request opens and spends approvals.
fn consumes(request: &Json) -> bool {
    match text(request, "mode").and_then(|mode| mode.parse().ok()).unwrap_or_default() {
        Mode::Enforce | Mode::Strict => true,
        Mode::Monitor | Mode::Warn => false,
    }
}

/// The hash of the action; `None` if it has no canonical form.
fn action_hash(request: &Json) -> Option<String> {
    let members = ["agent_id", "args", "goal", "resource", "tool", "user_id"];
    let member = |name| (name, request.member(name).cloned().unwrap_or(Json::Null));
    hash_payload(&object(members.map(member))).ok()
}

/// Identifies equal requests under an idempotency key, whether or not they name the approval.
fn fingerprint(request: &Json) -> String {
    let members = request.as_object().unwrap_or_default().iter();
    let body = Json::Object(members.filter(|(name, _)| name != APPROVAL_ID).cloned().collect());
    let canonical = canonical_json(&body).unwrap_or_else(|_| body.to_string().into_bytes());
    sha256_hex(&canonical)
}

fn unscripted() -> Answer {
    explained(
        Answer::deny().reason_code("test.unscripted"),
        "The test scripts no answer for this tool.",
        "Script an answer for the tool first.",
    )
}

fn denied(reason_code: &str) -> Answer {
    explained(
        Answer::deny().reason_code(reason_code),
        &format!("This call needs a valid approval ({reason_code})."),
        "Do not run it. Send the request without an approval id to open a new approval.",
    )
}

/// The scripted `require_approval` with the id of its approval.
fn waiting(scripted: &Answer, id: Json, reason_code: Option<&str>) -> Answer {
    let mut answer = scripted.clone().member(APPROVAL_ID, id);
    if let Some(Json::Object(members)) = &mut answer.body {
        members.retain(|(name, _)| name != "credential");
    }
    match reason_code {
        Some(reason_code) => answer.reason_code(reason_code),
        None => answer,
    }
}

/// The scripted `require_approval` without an id, as an observing mode gets it.
fn without_approval(scripted: &Answer) -> Answer {
    let mut answer = scripted.clone();
    if let Some(Json::Object(members)) = &mut answer.body {
        members.retain(|(name, _)| name != APPROVAL_ID);
    }
    answer
}

/// Adds the members of the scripted `require_approval` that do not belong to that decision.
fn with_extras(answer: Answer, scripted: &Answer) -> Answer {
    let members = scripted.body.as_ref().and_then(Json::as_object).unwrap_or_default().iter();
    let extras = members
        .filter(|(name, _)| !["decision", "reason_code", "explain", APPROVAL_ID].contains(&name.as_str()));
    extras.fold(answer, |answer, (name, value)| answer.member(name, value.clone()))
}

fn explained(answer: Answer, summary: &str, next_step: &str) -> Answer {
    let explain = object([
        ("summary", Json::from(summary)),
        ("matched_rules", Json::Array(Vec::new())),
        ("next_steps", Json::Array(vec![Json::from(next_step)])),
    ]);
    answer.member("explain", explain)
}

/// The decision as a gateway with a ledger sends it: with its ledger entry and the hash of its
/// request, unless the script sets them.
fn recorded(decision: Json, request: &Json, count: usize) -> Json {
    let Json::Object(mut members) = decision else { return decision };
    let event = Json::String(format!("ev_{count}"));
    let bound = hash_payload(request).ok().map(Json::String);
    for (name, value) in [("evidence_event_id", Some(event)), ("request_hash", bound)] {
        if let Some(value) = value.filter(|_| members.iter().all(|(member, _)| member != name)) {
            members.push((name.to_owned(), value));
        }
    }
    Json::Object(members)
}

/// An earlier `allow`, as the response to `request`.
fn replayed(allow: Json, request: &Json) -> Json {
    let Json::Object(mut members) = allow else { return allow };
    members.retain(|(name, _)| name != "request_hash");
    if let Ok(hash) = hash_payload(request) {
        members.push(("request_hash".to_owned(), Json::String(hash)));
    }
    members.push(("replayed".to_owned(), Json::Bool(true)));
    Json::Object(members)
}

fn error(status: u16, code: &str, message: String) -> Reply {
    let error = object([("code", Json::from(code)), ("message", Json::String(message))]);
    (status, object([("error", error)]))
}

fn object<const N: usize>(members: [(&str, Json); N]) -> Json {
    Json::Object(members.map(|(name, value)| (name.to_owned(), value)).into())
}

fn text<'j>(object: &'j Json, name: &str) -> Option<&'j str> {
    object.member(name).and_then(Json::as_str)
}
