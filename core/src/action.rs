//! The action that an agent is about to run.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use actpass_protocol::json::{self, JsonWriter, Style, Validator};
use actpass_protocol::{Json, Mode, Secret};

/// An action to authorize: the agent's tool call, and its goal.
///
/// ```
/// use actpass_core::{Action, Mode};
/// use serde_json::json;
///
/// let action = Action::new("resolve_refund_request", "stripe.refund.create")
///     .resource("stripe:charge:ch_123")
///     .args(json!({"amount": 4900, "currency": "usd"}))
///     .mode(Mode::Strict);
/// ```
///
/// Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Action(Arc<ActionFields>);

#[derive(Clone, Debug)]
pub(crate) struct ActionFields {
    pub(crate) goal: String,
    pub(crate) tool: String,
    pub(crate) resource: String,
    /// JSON text, validated when the request is built.
    pub(crate) args: String,
    /// `None` for the client's.
    pub(crate) agent_id: Option<String>,
    pub(crate) user_id: Option<String>,
    pub(crate) passport: Option<Secret>,
    pub(crate) mode: Option<Mode>,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) audience: Option<String>,
    pub(crate) approval_request_id: Option<String>,
    pub(crate) tool_manifest_hash: Option<String>,
    pub(crate) wait_for_approval: Option<Duration>,
}

impl ActionFields {
    /// The members that client 1.1.3 does not send; omitted unless set.
    pub(crate) fn extension_fields(&self) -> [(&'static str, Option<&str>); 2] {
        [
            ("approval_request_id", self.approval_request_id.as_deref()),
            ("tool_manifest_hash", self.tool_manifest_hash.as_deref()),
        ]
    }

    fn judged_fields(&self) -> ([&str; 4], [Option<&str>; 4]) {
        let Self { goal, tool, resource, args, agent_id, user_id, audience, tool_manifest_hash, .. } = self;
        let optional = [agent_id, user_id, audience, tool_manifest_hash].map(Option::as_deref);
        ([goal, tool, resource, args].map(String::as_str), optional)
    }
}

/// Sets an optional string member of an action: see [`Action::STRING_FIELDS`].
pub type SetString = fn(Action, String) -> Action;

impl Action {
    /// The optional string members by wire name, each with its setter. For bindings that look up
    /// members by name.
    ///
    /// ```
    /// use actpass_core::Action;
    ///
    /// let mut action = Action::new("resolve_refund_request", "stripe.refund.create");
    /// for (name, set) in Action::STRING_FIELDS {
    ///     if *name == "user_id" {
    ///         action = set(action, "u_1".to_owned());
    ///     }
    /// }
    /// ```
    pub const STRING_FIELDS: &[(&str, SetString)] = &[
        ("agent_id", |action, text| action.agent_id(text)),
        ("user_id", |action, text| action.user_id(text)),
        ("passport", |action, text| action.passport(text)),
        ("idempotency_key", |action, text| action.idempotency_key(text)),
        ("audience", |action, text| action.audience(text)),
        ("approval_request_id", |action, text| action.approval_request_id(text)),
        ("tool_manifest_hash", |action, text| action.tool_manifest_hash(text)),
    ];

    /// Creates an action: use `tool` for `goal`. No arguments, no resource, the client's mode.
    pub fn new(goal: impl Into<String>, tool: impl Into<String>) -> Self {
        Self(Arc::new(ActionFields {
            goal: goal.into(),
            tool: tool.into(),
            resource: String::new(),
            args: "{}".to_owned(),
            agent_id: None,
            user_id: None,
            passport: None,
            mode: None,
            idempotency_key: None,
            audience: None,
            approval_request_id: None,
            tool_manifest_hash: None,
            wait_for_approval: None,
        }))
    }

    pub(crate) fn fields(&self) -> &ActionFields {
        &self.0
    }

    /// Whether the gateway would judge `other` as the same action.
    pub(crate) fn matches_judged(&self, other: &Self) -> bool {
        self.fields().judged_fields() == other.fields().judged_fields()
    }

    pub(crate) fn fields_mut(&mut self) -> &mut ActionFields {
        Arc::make_mut(&mut self.0)
    }

    /// Sets the resource that the tool acts on, such as `stripe:charge:ch_123`. Empty by default.
    #[must_use]
    pub fn resource(mut self, resource: impl Into<String>) -> Self {
        self.fields_mut().resource = resource.into();
        self
    }

    /// Sets the tool's arguments, a JSON object. Empty by default.
    #[must_use]
    pub fn args(mut self, args: impl Into<Json>) -> Self {
        let mut text = JsonWriter::new(Style::PythonCompat);
        args.into().write(&mut text);
        self.fields_mut().args = text.into_string();
        self
    }

    /// Sets the tool's arguments from the text of a JSON object. The text is sent unchanged.
    #[must_use]
    pub fn args_text(mut self, args: impl Into<String>) -> Self {
        self.fields_mut().args = args.into();
        self
    }

    /// Sets the goal.
    #[must_use]
    pub fn goal(mut self, goal: impl Into<String>) -> Self {
        self.fields_mut().goal = goal.into();
        self
    }

    /// Sets the agent that acts, in place of the client's: for a server that presents the passports of
    /// several agents.
    #[must_use]
    pub fn agent_id(mut self, agent_id: impl Into<String>) -> Self {
        self.fields_mut().agent_id = Some(agent_id.into());
        self
    }

    /// Sets the user on whose behalf the agent acts.
    #[must_use]
    pub fn user_id(mut self, user_id: impl Into<String>) -> Self {
        self.fields_mut().user_id = Some(user_id.into());
        self
    }

    /// Sets the passport to present. An empty passport is an argument error.
    #[must_use]
    pub fn passport(mut self, passport: impl Into<Secret>) -> Self {
        self.fields_mut().passport = Some(passport.into());
        self
    }

    /// Sets the mode. Default: the client's mode.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.fields_mut().mode = Some(mode);
        self
    }

    /// Sets the idempotency key. Default: a fresh UUIDv7 for each call.
    ///
    /// A second call with the same key runs nothing: see [`guard`](crate::guard). Do not share a
    /// key between concurrent calls.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.fields_mut().idempotency_key = Some(key.into());
        self
    }

    /// Sets the audience: the service that the passport is presented to.
    #[must_use]
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.fields_mut().audience = Some(audience.into());
        self
    }

    /// Sets the id of the approval to spend.
    #[must_use]
    pub fn approval_request_id(mut self, id: impl Into<String>) -> Self {
        self.fields_mut().approval_request_id = Some(id.into());
        self
    }

    /// Sets the hash of the tool's manifest as the agent sees it.
    #[must_use]
    pub fn tool_manifest_hash(mut self, hash: impl Into<String>) -> Self {
        self.fields_mut().tool_manifest_hash = Some(hash.into());
        self
    }

    /// Sets how long a guard waits for a human decision if the action needs approval. Default: no
    /// wait; the action is reported as blocked immediately. The wait is in addition to the client's
    /// timeout, which applies to each request. A preflight never waits.
    #[must_use]
    pub fn wait_for_approval(mut self, wait: Duration) -> Self {
        self.fields_mut().wait_for_approval = Some(wait);
        self
    }
}

/// Checks that `text` is a JSON object that can be nested in the request object.
pub(crate) fn check_object(member: &str, text: &str) -> Result<(), Error> {
    json::read_below(text.as_bytes(), &mut Validator, 1)
        .map_err(|error| json::argument_error(member, text, &error))?;
    match text.trim_start().starts_with('{') {
        true => Ok(()),
        false => Err(Error::argument(member, "expected an object")),
    }
}

/// An integer of at most this many digits always has a canonical form.
const SAFE_DIGITS: usize = 15;

/// Checks that `text`, a JSON value, has a canonical form. Without one, no response can name the
/// request by its hash.
pub(crate) fn check_canonical(member: &str, text: &str) -> Result<(), Error> {
    // Only integers can lack a canonical form, and most texts have no number that is long enough.
    if text
        .as_bytes()
        .chunk_by(|a, b| a.is_ascii_digit() && b.is_ascii_digit())
        .all(|run| run.len() <= SAFE_DIGITS)
    {
        return Ok(());
    }
    let value = json::parse_argument(member, text)?;
    value.write_canonical(&mut JsonWriter::new(Style::Compact)).map_err(|error| {
        Error::argument(
            &error.path_from(member),
            format_args!("{}, which strict mode requires; send it as a string", error.problem()),
        )
    })
}
