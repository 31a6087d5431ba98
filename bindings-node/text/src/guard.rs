//! The two steps of the guard. Between them the TypeScript layer runs the caller's function on the
//! caller's thread.

use actpass_core::engine::Begun;
use actpass_core::json::{JsonWriter, Style, parse_argument};
use actpass_core::{
    Action, Blocked, Clock, Decision, Error, ErrorKind, ExecutionContext, HaltSignal, Json, Outcome,
    PendingApproval, Secret, Settlement, canonical_outcome as canonical,
};
use actpass_session::{GuardSession, test_hooks};

use crate::convert::InputObject;
use crate::error::{camel_case, describe};

/// The action of a `preflight`.
pub fn action(members: &InputObject) -> Result<Action, Error> {
    let tool = members.string("tool")?;
    test_hooks::before_conversion(&tool);
    let mut action = Action::new(members.string("goal")?, tool);
    match members.text("args") {
        Some(args) => action = action.args_text(args),
        None => return Err(members.wrong("args", "expected an object, found nothing")),
    }
    if let Some(resource) = members.optional("resource")? {
        action = action.resource(resource);
    }
    if let Some(mode) = members.optional("mode")? {
        action = action.mode(mode.parse()?);
    }
    for (name, set) in Action::STRING_FIELDS {
        if let Some(text) = members.optional(&camel_case(name))? {
            action = set(action, text);
        }
    }
    Ok(action)
}

/// The action of a `guard`.
pub fn guarded(members: &InputObject) -> Result<Action, Error> {
    holding(action(members)?, members)
}

/// The action of a `resume`: the one that waited for approval.
pub fn resumed(members: &InputObject) -> Result<Action, Error> {
    let pending = members.text("pending").unwrap_or("null");
    let mut action = PendingApproval::parse(pending)?.action();
    if let Some(passport) = members.optional("passport")? {
        action = action.passport(passport);
    }
    holding(action, members)
}

fn holding(action: Action, members: &InputObject) -> Result<Action, Error> {
    Ok(match members.wait("waitForApprovalMs")? {
        Some(wait) => action.wait_for_approval(wait),
        None => action,
    })
}

/// The action as it is about to run. An unreadable one differs from every evaluated action.
fn present(text: String) -> Action {
    let text = Secret::new(text);
    InputObject::of_call(&text).and_then(|members| action(&members)).unwrap_or_else(|_| Action::new("", ""))
}

/// Spends the permit of `session`. Returns the JSON text of `{running: {credential, decision?}}`,
/// with the decision if it differs from the verdict's, or of `{blocked}`; and the signal of the
/// running action.
///
/// # Errors
///
/// As [`GuardSession::begin_at`].
pub fn begin(
    session: &GuardSession,
    now: Option<String>,
    clock: &dyn Clock,
) -> Result<(Option<HaltSignal>, String), Error> {
    let judged = session.decision();
    Ok(match session.begin_at(now.map(present).as_ref(), clock)? {
        Begun::Blocked(blocked) => (None, format!(r#"{{"blocked":{}}}"#, report(&blocked))),
        Begun::Running(context) => (Some(context.halt().clone()), running(&context, judged.as_ref())),
    })
}

fn running(context: &ExecutionContext, judged: Option<&Decision>) -> String {
    let credential = context.credential().map_or("null", |credential| credential.as_json());
    let decision = context.decision().as_json();
    match judged.is_some_and(|judged| judged.as_json() == decision) {
        true => format!(r#"{{"running":{{"credential":{credential}}}}}"#),
        false => format!(r#"{{"running":{{"credential":{credential},"decision":{decision}}}}}"#),
    }
}

/// The JSON text of a block: `{decision, requestId?, error?, approval?, texts}`.
pub fn report(blocked: &Blocked) -> String {
    let mut text = JsonWriter::new(Style::Compact);
    text.raw(r#"{"decision":"#);
    text.raw(blocked.decision().as_json());
    identify(&mut text, blocked.decision(), blocked.error());
    if let Some(approval) = blocked.approval() {
        text.raw(r#","approval":"#);
        text.raw(&approval.to_json());
    }
    let texts = blocked.texts();
    text.raw(r#","texts":{"developerText":"#);
    text.string(&texts.developer);
    text.raw(r#","message":"#);
    text.string(&texts.model);
    text.raw(&format!(r#","retryable":{},"tool":"#, texts.is_retryable));
    text.string(blocked.tool());
    text.raw("}}");
    text.into_string()
}

/// The JSON text of the native part of the outcome of an action that ran: `{executed, requestId?,
/// error?}`, where the error is the gate's.
pub fn settled(settlement: Settlement, returned: bool) -> String {
    let outcome = settlement.settle(if returned { Ok(()) } else { Err(()) });
    let error = match &outcome {
        Outcome::Blocked(blocked) => blocked.error(),
        Outcome::Failed { .. } => None,
        Outcome::Returned { gate_error, .. } => gate_error.as_ref(),
    };
    let mut text = JsonWriter::new(Style::Compact);
    text.raw(if outcome.executed() { r#"{"executed":true"# } else { r#"{"executed":false"# });
    identify(&mut text, outcome.decision(), error);
    text.raw("}");
    text.into_string()
}

fn identify(text: &mut JsonWriter, decision: &Decision, error: Option<&Error>) {
    if let Some(id) = decision.request_id() {
        text.raw(r#","requestId":"#);
        text.string(id);
    }
    if let Some(error) = error {
        text.raw(r#","error":"#);
        text.raw(&describe(error));
    }
}

/// The JSON text of the block of a tool to which no action is mapped, as a blocked call reports it.
/// Sends nothing.
pub fn unmapped_tool(tool: String) -> String {
    report(&Blocked::unmapped_tool(tool))
}

/// The JSON text of the block of a tool whose arguments cannot be sent, for the reason `problem`, as
/// a blocked call reports it. Sends nothing.
pub fn invalid_argument(tool: String, problem: String) -> String {
    report(&Blocked::invalid_argument(tool, Error::new(ErrorKind::Argument, problem)))
}

/// The JSON text of the block of a call without a valid passport, as a blocked call reports it.
/// `errors` are the codes of a verification. Sends nothing.
pub fn invalid_passport(tool: String, errors: &[String]) -> String {
    report(&Blocked::invalid_passport(tool, errors))
}

/// The outcome as canonical JSON, the same in every language.
///
/// # Errors
///
/// If `decision` is not a decision.
pub fn canonical_outcome(
    executed: bool,
    decision: &str,
    kind: Option<&str>,
    status: Option<u16>,
) -> Result<String, Error> {
    let decision =
        Decision::parse(decision.as_bytes()).map_err(|problem| Error::argument("decision", problem))?;
    canonical(executed, &decision, kind.map(|kind| (kind, status)))
}

/// The SHA-256 of a value's canonical JSON.
///
/// # Errors
///
/// If `payload` has no canonical form.
pub fn hash_payload(payload: &str) -> Result<String, Error> {
    Ok(actpass_core::hash_payload(&payload_of(payload)?)?)
}

/// The HMAC-SHA256 of a value's canonical JSON.
///
/// # Errors
///
/// If `payload` has no canonical form.
pub fn sign_payload(secret: &Secret, payload: &str) -> Result<String, Error> {
    Ok(actpass_core::sign_payload(secret.expose().as_bytes(), &payload_of(payload)?)?)
}

/// The thumbprint of a DPoP key.
///
/// # Errors
///
/// If it is not a private key in PEM.
pub fn dpop_thumbprint(key: &Secret) -> Result<String, Error> {
    Ok(actpass_core::dpop_thumbprint(key)?)
}

fn payload_of(text: &str) -> Result<Json, Error> {
    Ok(parse_argument("payload", text)?)
}
