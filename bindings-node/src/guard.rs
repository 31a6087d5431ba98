//! The two steps of the guard. The face runs the caller's function between them, on the caller's own thread.

use actpass_core::json::{Step, Style, Text, parse_argument, path};
use actpass_core::{
    Action, Decision, Ended, Error, ErrorKind, EvidenceEvent, Json, Outcome, PendingApproval, Settlement,
    Verdict, canonical_outcome as canonical,
};
use napi::Either;
use napi_derive::napi;

use crate::convert::Members;
use crate::enter::enter;
use crate::error::describe;

/// The action of a `preflight`.
pub(crate) fn action(members: &Members) -> Result<Action, Error> {
    let mut action = Action::new(members.string("goal")?, members.string("tool")?);
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
    if let Some(user_id) = members.optional("userId")? {
        action = action.user_id(user_id);
    }
    if let Some(passport) = members.optional("passport")? {
        action = action.passport(passport);
    }
    if let Some(key) = members.optional("idempotencyKey")? {
        action = action.idempotency_key(key);
    }
    if let Some(audience) = members.optional("audience")? {
        action = action.audience(audience);
    }
    if let Some(id) = members.optional("approvalRequestId")? {
        action = action.approval_request_id(id);
    }
    if let Some(hash) = members.optional("toolManifestHash")? {
        action = action.tool_manifest_hash(hash);
    }
    Ok(action)
}

/// The action of a `guard`.
pub(crate) fn guarded(members: &Members) -> Result<Action, Error> {
    holding(action(members)?, members)
}

/// The action of a `resume`: the one that waited.
pub(crate) fn resumed(members: &Members) -> Result<Action, Error> {
    let pending = members.text("pending").unwrap_or("null");
    let mut action = PendingApproval::parse(pending)?.action();
    if let Some(passport) = members.optional("passport")? {
        action = action.passport(passport);
    }
    holding(action, members)
}

fn holding(action: Action, members: &Members) -> Result<Action, Error> {
    Ok(match members.wait("waitForApprovalMs")? {
        Some(wait) => action.wait_for_approval(wait),
        None => action,
    })
}

/// Leave to run the action, once.
pub(crate) enum Permit {
    /// Not spent yet.
    Granted(actpass_core::Permit),
    /// The action runs.
    Running(Settlement),
}

impl Permit {
    /// Spends the permit: the JSON text of the context that the action is given, and what settles its end.
    pub(crate) fn spend(self) -> Result<(String, Self), Error> {
        let Self::Granted(permit) = self else {
            return Err(Error::new(ErrorKind::Internal, "the permit is spent"));
        };
        let spent = permit.spend(&actpass_core::TokioClock);
        let (context, settlement) =
            spent.map_err(|_| Error::new(ErrorKind::Internal, "the permit is void"))?;
        let credential = context.credential().map_or("null", |credential| credential.as_json());
        let given = format!(r#"{{"credential":{credential},"decision":{}}}"#, context.decision().as_json());
        Ok((given, Self::Running(settlement)))
    }

    /// Rules again on an action whose arguments are no longer those that were judged.
    pub(crate) fn arguments_changed(self) -> Result<Verdict, Error> {
        match self {
            Self::Granted(permit) => Ok(permit.arguments_changed()),
            Self::Running(_) => Err(Error::new(ErrorKind::Internal, "the permit is spent")),
        }
    }

    /// The event that records how the running action ended.
    pub(crate) fn evidence(&self, returned: bool, response: Option<&Json>) -> Result<EvidenceEvent, Error> {
        match self {
            Self::Granted(_) => Err(Error::new(ErrorKind::Internal, "the permit is not spent")),
            Self::Running(settlement) => {
                let ended = if returned { Ended::Returned } else { Ended::Failed };
                Ok(settlement.recording(ended, response).event().clone())
            }
        }
    }

    /// The outcome of an action that ended so, without its result or its error.
    pub(crate) fn settle(self, ended: Result<(), ()>) -> Result<String, Error> {
        match self {
            Self::Granted(_) => Err(Error::new(ErrorKind::Internal, "the permit is not spent")),
            Self::Running(settlement) => Ok(report(&settlement.settle(ended))),
        }
    }
}

/// The JSON text of `{decision, executed, requestId?, error?, approval?}`, the error being the gate's.
pub(crate) fn report(outcome: &Outcome<(), ()>) -> String {
    let (gate_error, approval) = match outcome {
        Outcome::Blocked(blocked) => (blocked.error(), blocked.approval()),
        Outcome::Failed { .. } => (None, None),
        Outcome::Returned { gate_error, .. } => (gate_error.as_ref(), None),
    };
    let mut text = Text::new(Style::Compact);
    text.raw(r#"{"decision":"#);
    text.raw(outcome.decision().as_json());
    text.raw(if outcome.executed() { r#","executed":true"# } else { r#","executed":false"# });
    if let Some(id) = outcome.decision().request_id() {
        text.raw(r#","requestId":"#);
        text.string(id);
    }
    if let Some(error) = gate_error {
        text.raw(r#","error":"#);
        text.raw(&describe(error));
    }
    if let Some(approval) = approval {
        text.raw(r#","approval":"#);
        text.raw(&approval.to_json());
    }
    text.raw("}");
    text.into_string()
}

/// The outcome of a guard in the form that is the same in every language, canonical JSON.
#[napi]
pub(crate) fn canonical_outcome(
    executed: bool,
    decision: String,
    kind: Option<String>,
    status: Option<u16>,
) -> napi::Result<String> {
    enter(|| {
        let decision =
            Decision::parse(decision.as_bytes()).map_err(|problem| Error::argument("decision", problem))?;
        canonical(executed, &decision, kind.as_deref().map(|kind| (kind, status)))
    })
}

/// The path that leads from an argument over keys and indices, as every language's messages show it.
#[napi]
pub(crate) fn argument_path(member: String, steps: Vec<Either<String, u32>>) -> napi::Result<String> {
    enter(|| {
        let step = |step| match step {
            Either::A(key) => Step::Key(key),
            Either::B(at) => Step::Index(usize::try_from(at).unwrap_or(usize::MAX)),
        };
        let steps: Vec<Step> = steps.into_iter().map(step).collect();
        Ok(path(&member, &steps))
    })
}

/// The SHA-256 of the canonical JSON of a value.
#[napi]
pub(crate) fn hash_payload(payload: String) -> napi::Result<String> {
    enter(|| Ok(actpass_core::hash_payload(&payload_of(&payload)?)?))
}

/// The HMAC-SHA256 of the canonical JSON of a value.
#[napi]
pub(crate) fn sign_payload(secret: String, payload: String) -> napi::Result<String> {
    let secret = actpass_core::Secret::new(secret);
    enter(|| Ok(actpass_core::sign_payload(secret.expose().as_bytes(), &payload_of(&payload)?)?))
}

fn payload_of(text: &str) -> Result<Json, Error> {
    Ok(parse_argument("payload", text)?)
}
