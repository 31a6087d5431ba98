//! Approvals: human decisions that an action can wait for, and handles to resume it.

use std::borrow::Cow;
use std::time::Duration;

use crate::action::{self, Action};
use crate::error::Error;
use crate::halts;
use crate::request;
use actpass_protocol::json::{self, JsonWriter, RawObject, Step, Style};
use actpass_protocol::{Json, Mode};

/// The longest that one poll of an approval is held by the gateway.
pub(crate) const MAX_POLL: Duration = Duration::from_secs(25);
/// The longest wait for a decision: 30 days.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The minimum time between the starts of two polls.
pub(crate) const MIN_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The state of an approval.
///
/// ```
/// # use actpass_core::transport::FixedResponse;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use actpass_core::{ActPass, ApprovalStatus};
/// use std::time::Duration;
///
/// let answer = FixedResponse::new(200, r#"{"id": "apr_1", "status": "rejected", "decided_by": "alice"}"#);
/// let actpass = ActPass::builder().api_key("apk_dev").transport(answer).build()?;
/// let approval = actpass.wait_for_approval("apr_1", Duration::from_secs(60)).await?;
/// assert_eq!(approval.status(), ApprovalStatus::Rejected);
/// assert_eq!(approval.decided_by().as_deref(), Some("alice"));
/// # Ok::<(), actpass_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Approval {
    document: RawObject,
    status: ApprovalStatus,
    is_halted: bool,
    halt_epoch: Option<u64>,
}

impl Approval {
    /// Parses the gateway's response about the approval `id`.
    pub(crate) fn parse(document: RawObject, id: &str) -> Result<Self, String> {
        if document.string("id").as_deref() != Some(id) {
            return Err("it is about another approval".to_owned());
        }
        let status = match document.string("status").as_deref() {
            Some("approved") => ApprovalStatus::Approved,
            Some("expired") => ApprovalStatus::Expired,
            Some("pending") => ApprovalStatus::Pending,
            Some("rejected") => ApprovalStatus::Rejected,
            Some(_) => return Err("unknown `status`".to_owned()),
            None => return Err("missing `status`".to_owned()),
        };
        let is_halted = match document.member("halted") {
            None | Some(Json::Null | Json::Bool(false)) => false,
            Some(Json::Bool(true)) => true,
            Some(_) => return Err("`halted` is not a boolean".to_owned()),
        };
        let halt_epoch = halts::epoch_of(&document)?;
        Ok(Self { document, status, is_halted, halt_epoch })
    }

    /// Its status.
    pub fn status(&self) -> ApprovalStatus {
        self.status
    }

    /// Whether its action is stopped. It cannot be approved before the stop is lifted.
    pub fn is_halted(&self) -> bool {
        self.is_halted
    }

    /// The gateway's `halt_epoch`.
    pub(crate) fn halt_epoch(&self) -> Option<u64> {
        self.halt_epoch
    }

    /// The explanation, if the gateway sent one.
    pub(crate) fn explain(&self) -> Option<Json> {
        self.document.member("explain")
    }

    /// The decider; `None` while it is undecided.
    pub fn decided_by(&self) -> Option<Cow<'_, str>> {
        self.document.string("decided_by")
    }

    /// Returns any member by name.
    pub fn member(&self, name: &str) -> Option<Json> {
        self.document.member(name)
    }

    /// The JSON text of the whole response.
    pub fn as_json(&self) -> &str {
        self.document.as_str()
    }
}

/// The status of an [`Approval`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApprovalStatus {
    /// A person approved it.
    Approved,
    /// It expired before a decision.
    Expired,
    /// It is undecided.
    Pending,
    /// A person rejected it.
    Rejected,
}

/// A handle of an action that needs approval. It is small, contains no secrets, and can be stored
/// as JSON and resumed in another process. The gateway compares the resumed action with the
/// approved one, so a modified handle runs nothing.
///
/// ```
/// # use actpass_core::transport::FixedResponse;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use actpass_core::{ActPass, Action, Outcome, PendingApproval};
///
/// let answer = FixedResponse::new(200, r#"{"decision": "require_approval", "approval_request_id": "apr_1"}"#);
/// let actpass = ActPass::builder().api_key("apk_dev").transport(answer).build()?;
/// let action = Action::new("resolve_refund_request", "stripe.refund.create");
/// let Outcome::Blocked(blocked) = actpass.guard(&action, async |_| Ok::<_, ()>("refunded")).await? else {
///     panic!("it ran");
/// };
/// let kept = blocked.approval().unwrap().to_json();
///
/// let pending = PendingApproval::parse(&kept)?;
/// assert_eq!(pending.id(), "apr_1");
/// let later = actpass.guard(&pending.action(), async |_| Ok::<_, ()>("refunded")).await?;
/// assert!(!later.executed());
/// # Ok::<(), actpass_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct PendingApproval {
    id: String,
    /// Without the passport, which is a secret, and without the idempotency key, which was used.
    action: Action,
}

impl PendingApproval {
    /// `action` waits for the approval `id`; `mode` is the mode of its request.
    pub(crate) fn new(id: String, action: &Action, mode: Mode) -> Self {
        let mut action = action.clone();
        let members = action.fields_mut();
        members.passport = None;
        members.mode = Some(mode);
        members.idempotency_key = None;
        members.wait_for_approval = None;
        members.approval_request_id = Some(id.clone());
        Self { id, action }
    }

    /// The approval's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The action to guard after the decision: the original action plus the id of the approval that
    /// it spends. Add a passport if it needs one.
    pub fn action(&self) -> Action {
        self.action.clone()
    }

    /// Serializes the handle as a JSON object, to store.
    pub fn to_json(&self) -> String {
        let action = self.action.fields();
        let mut text = JsonWriter::new(Style::Compact);
        text.raw("{");
        let mut count = 0;
        let mut member = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                text.comma(count);
                text.key(name);
                text.string(value);
                count += 1;
            }
        };
        member("approval_request_id", Some(&self.id));
        member("goal", Some(&action.goal));
        member("tool", Some(&action.tool));
        member("resource", Some(&action.resource));
        member("agent_id", action.agent_id.as_deref());
        member("user_id", action.user_id.as_deref());
        member("mode", action.mode.map(Mode::as_str));
        member("audience", action.audience.as_deref());
        member("tool_manifest_hash", action.tool_manifest_hash.as_deref());
        text.comma(count);
        text.key("args");
        text.raw(&action.args);
        text.raw("}");
        text.into_string()
    }

    /// Parses the output of [`PendingApproval::to_json`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`](crate::ErrorKind::Argument), naming the member that is missing,
    /// unknown or invalid.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let json = json::parse_argument("pending", text)?;
        let members = json.as_object().ok_or_else(|| {
            Error::argument("pending", format_args!("expected an object, found {}", json.kind()))
        })?;
        let mut pending = Self { id: String::new(), action: Action::new("", "") };
        for (name, value) in members {
            let action = pending.action.fields_mut();
            if name == "args" {
                let mut args = JsonWriter::new(Style::PythonCompat);
                value.write(&mut args);
                action.args = args.into_string();
                action::check_object("pending.args", &action.args)?;
                continue;
            }
            let member = json::path("pending", [&Step::Key(name.clone())]);
            let text = value.as_str().ok_or_else(|| {
                Error::argument(&member, format_args!("expected a string, found {}", value.kind()))
            })?;
            match name.as_str() {
                "approval_request_id" => pending.id = text.to_owned(),
                "agent_id" => action.agent_id = Some(text.to_owned()),
                "audience" => action.audience = Some(text.to_owned()),
                "goal" => action.goal = text.to_owned(),
                "mode" => {
                    action.mode = Some(text.parse().map_err(|error| Error::from(error).inside("pending"))?);
                }
                "resource" => action.resource = text.to_owned(),
                "tool" => action.tool = text.to_owned(),
                "tool_manifest_hash" => action.tool_manifest_hash = Some(text.to_owned()),
                "user_id" => action.user_id = Some(text.to_owned()),
                _ => return Err(Error::argument(&member, "unknown member")),
            }
        }
        request::require_non_empty("pending.approval_request_id", &pending.id)?;
        request::require_non_empty("pending.goal", &pending.action.fields().goal)?;
        request::require_non_empty("pending.tool", &pending.action.fields().tool)?;
        if members.iter().all(|(name, _)| name != "args") {
            return Err(Error::argument("pending.args", "expected an object, found nothing"));
        }
        pending.action.fields_mut().approval_request_id = Some(pending.id.clone());
        Ok(pending)
    }
}

/// The path and query, after the approvals path, that polls `id` for at most `wait`.
pub(crate) fn path_suffix(id: &str, wait: Duration) -> Result<String, Error> {
    request::require_non_empty("approval_request_id", id)?;
    // As path segments, `.` and `..` would change the path.
    if id == "." || id == ".." {
        return Err(Error::argument("approval_request_id", format_args!("expected an id, found {id:?}")));
    }
    Ok(format!("/{}?wait={}", request::encode(id), wait.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn approval_id_is_one_path_segment() {
        let look = |id| path_suffix(id, Duration::from_millis(2_900));
        assert_eq!(look("apr_01-a.b~c").unwrap(), "/apr_01-a.b~c?wait=2");
        assert_eq!(look("../x?y#z %").unwrap(), "/..%2Fx%3Fy%23z%20%25?wait=2");
        for id in ["", ".", ".."] {
            assert!(look(id).unwrap_err().to_string().starts_with("approval_request_id: expected "), "{id}");
        }
    }

    #[test]
    fn pending_approval_round_trips() {
        let same = |text: &str| Json::parse(text.as_bytes()).unwrap();
        let action = Action::new("g", "t")
            .resource("r")
            .args_text(r#"{"amount": 4900.50, "note": "é\u0000"}"#)
            .user_id("u")
            .passport("a.secret.passport")
            .idempotency_key("k")
            .audience("a")
            .approval_request_id("apr_0")
            .tool_manifest_hash("h")
            .wait_for_approval(Duration::from_secs(1));
        let kept = PendingApproval::new("apr_1".to_owned(), &action, Mode::Strict).to_json();
        assert!(!kept.contains("secret") && !kept.contains("\"k\""), "{kept}");
        let pending = PendingApproval::parse(&kept).unwrap();
        assert!(same(&pending.to_json()).same_value(&same(&kept)), "{}", pending.to_json());
        let again = pending.action();
        assert_eq!(
            (again.fields().mode, again.fields().approval_request_id.as_deref()),
            (Some(Mode::Strict), Some("apr_1"))
        );
        assert_eq!(
            (again.fields().wait_for_approval, again.fields().idempotency_key.as_deref()),
            (None, None)
        );
        assert!(
            same(&again.fields().args).same_value(&same(&action.fields().args)),
            "{}",
            again.fields().args
        );
    }

    #[test]
    fn rejects_invalid_pending_approval() {
        let whole = r#"{"approval_request_id": "apr_1", "goal": "g", "tool": "t", "args": {}}"#;
        assert!(PendingApproval::parse(whole).is_ok());
        for (from, to, problem) in [
            ("{}", "[]", "pending.args: expected an object"),
            (r#", "args": {}"#, "", "pending.args: expected an object, found nothing"),
            (r#""g""#, "7", "pending.goal: expected a string, found a number"),
            (r#""t""#, "\"\"", "pending.tool: expected a non-empty string"),
            (
                r#""approval_request_id": "apr_1", "#,
                "",
                "pending.approval_request_id: expected a non-empty string",
            ),
            (r#""goal""#, r#""gaol""#, "pending.gaol: unknown member"),
            (r#""tool""#, r#""mode": "x", "tool""#, "pending.mode: expected enforce"),
            (r#""goal""#, r#""a b""#, r#"pending["a b"]: unknown member"#),
            (r#""tool""#, r#""goal": "h", "tool""#, "pending.goal: expected unique keys"),
            ("{}", r#"{"n": [NaN]}"#, "pending.args.n[0]: expected a finite number, found NaN"),
            (whole, "7", "pending: expected an object, found a number"),
            (whole, "{", "pending: "),
        ] {
            let error = PendingApproval::parse(&whole.replacen(from, to, 1)).unwrap_err();
            assert!(error.to_string().starts_with(problem), "{error}");
        }
    }
}
