//! What an answer means.

use actpass_protocol::json::RawObject;
use actpass_protocol::{DecisionWord, ErrorKind, Json, Operation, Secret};

use super::Engine;
use crate::approval::Approval;
use crate::cause::Cause;
use crate::clock::{Clock, Moment};
use crate::decision::{Decision, Replay};
use crate::error::Error;
use crate::guard::Answered;
use crate::prepared::PreparedAction;
use crate::redact;
use crate::transport::Answer;

/// Reads the answer of a call.
pub(super) trait ReadAnswer {
    type Output;

    fn read(
        self,
        engine: &Engine,
        operation: Operation,
        answer: Answer,
        lost: LostAttempts,
        clock: &dyn Clock,
    ) -> Result<Self::Output, Error>;
}

/// An answer that is a JSON object with a status of 2xx.
pub(super) struct Reply<T> {
    /// A secret in the request, beside the API key.
    pub(super) token: Option<Secret>,
    pub(super) parse: fn(RawObject) -> Result<T, String>,
}

impl<T> ReadAnswer for Reply<T> {
    type Output = T;

    fn read(
        self,
        engine: &Engine,
        operation: Operation,
        answer: Answer,
        _: LostAttempts,
        clock: &dyn Clock,
    ) -> Result<T, Error> {
        object(engine, operation, answer, self.token.as_ref(), clock, self.parse)
    }
}

/// The answer about the approval of this id.
pub(super) struct ApprovalReply(pub(super) String);

impl ReadAnswer for ApprovalReply {
    type Output = Approval;

    fn read(
        self,
        engine: &Engine,
        operation: Operation,
        answer: Answer,
        _: LostAttempts,
        clock: &dyn Clock,
    ) -> Result<Approval, Error> {
        object(engine, operation, answer, None, clock, |document| Approval::parse(document, &self.0))
    }
}

/// The answer to a preflight.
pub(super) struct Ruling(pub(super) PreparedAction);

impl ReadAnswer for Ruling {
    type Output = Answered;

    /// A decision counts in a 2xx answer; in a 401 or 403 it does unless it is an `allow`.
    fn read(
        self,
        engine: &Engine,
        operation: Operation,
        answer: Answer,
        lost: LostAttempts,
        clock: &dyn Clock,
    ) -> Result<Answered, Error> {
        let request = self.0;
        let passport = request.action().members().passport.as_ref();
        let request_id = request_id(engine, &answer, passport);
        let malformed = |problem: String| (Cause::Malformed, problem);
        let decided = answer.body.as_ref().map_err(|problem| (problem.cause(), problem.to_string()));
        let decided = decided.and_then(|body| {
            let (decision, credential) = Decision::parse_with_credential(body).map_err(|problem| {
                let cause = RawObject::parse(body).map_or(Cause::NotAnObject, |_| Cause::Malformed);
                (cause, problem)
            })?;
            let decision = decision.with_request_id(request_id.clone());
            let bound = decision.is_bound(&request)?;
            let replay = decision.replay().map_err(malformed)?;
            let repeats_another =
                replay.is_some_and(|replay| !lost.got(replay, request.has_own_key(), clock.now()));
            Ok(Answered { decision, credential, refused: !is_success(answer.status), bound, repeats_another })
        });
        match decided {
            Ok(answered) if !answered.refused => Ok(answered),
            Ok(answered)
                if matches!(answer.status, 401 | 403) && *answered.decision.word() != DecisionWord::Allow =>
            {
                Ok(answered)
            }
            Err((cause, problem)) if is_success(answer.status) => {
                let error = invalid(operation, &format!("not a decision: {problem}"));
                Err(error.with_cause(cause).with_request_id(request_id))
            }
            Ok(_) | Err(_) => Err(refusal(engine, operation, &answer, passport, clock)),
        }
    }
}

fn object<T>(
    engine: &Engine,
    operation: Operation,
    answer: Answer,
    token: Option<&Secret>,
    clock: &dyn Clock,
    parse: impl FnOnce(RawObject) -> Result<T, String>,
) -> Result<T, Error> {
    if !is_success(answer.status) {
        return Err(refusal(engine, operation, &answer, token, clock));
    }
    let request_id = request_id(engine, &answer, token);
    let body = answer.body.map_err(|problem| problem.to_string());
    body.and_then(|body| RawObject::parse(&body))
        .and_then(parse)
        .map_err(|problem| invalid(operation, &problem).with_request_id(request_id))
}

/// The error of an answer outside 2xx.
fn refusal(
    engine: &Engine,
    operation: Operation,
    answer: &Answer,
    token: Option<&Secret>,
    clock: &dyn Clock,
) -> Error {
    let kind = match answer.status {
        401 => ErrorKind::Authentication,
        403 => ErrorKind::Permission,
        429 => ErrorKind::RateLimit,
        _ => ErrorKind::Status,
    };
    let body = answer.body.as_ref().ok().and_then(|body| redact::body(body, &secrets(engine, token)));
    let said = body.as_deref().and_then(said).map(|said| format!(": {said}")).unwrap_or_default();
    let request_id = request_id(engine, answer, token);
    Error::new(kind, format!("the gateway answered {}{said}", answer.status))
        .with_operation(operation)
        .with_answer(answer.status, body, request_id, answer.retry_after(clock))
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

fn invalid(operation: Operation, problem: &str) -> Error {
    let error = Error::new(ErrorKind::Response, format!("the gateway's answer cannot be used: {problem}"))
        .with_operation(operation);
    match operation {
        Operation::Approval => error.with_cause(Cause::NotAnApproval),
        Operation::Preflight
        | Operation::IssuePassport
        | Operation::VerifyPassport
        | Operation::RevokePassport
        | Operation::RecordEvidence
        | Operation::Jwks => error,
    }
}

/// The `x-request-id` of an answer. A gateway that repeats a secret in it does not get it into a log.
fn request_id(engine: &Engine, answer: &Answer, token: Option<&Secret>) -> Option<String> {
    answer.request_id.as_ref().map(|id| redact::text(id, &secrets(engine, token)))
}

/// What must not show in texts about a call that carries `token`.
fn secrets<'s>(engine: &'s Engine, token: Option<&'s Secret>) -> Vec<&'s Secret> {
    std::iter::once(&engine.config().api_key).chain(token).collect()
}

/// The message in a gateway's `{"error": {"message"}}`, in one line of bounded length.
fn said(body: &str) -> Option<String> {
    let error = RawObject::parse(body.as_bytes()).ok()?.member("error")?;
    let message = error.member("message").and_then(Json::as_str)?;
    Some(message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect())
}

/// The attempts of a call before the last one that the gateway may have taken, their answers lost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LostAttempts {
    /// When the first of them began.
    pub(super) first: Option<Moment>,
    /// When the attempt that was answered had a connection, so before the gateway got it.
    pub(super) answered: Option<Moment>,
}

impl LostAttempts {
    /// Whether the answer that the gateway now repeats was the answer to a lost attempt.
    ///
    /// An answer that was recorded before the first lost attempt began was older than the time from there to the attempt that
    /// got it again. How long that one took to arrive says nothing. A key of the SDK's own is no other call's, so for it the
    /// answer may have been recorded up to now.
    pub(super) fn got(&self, replay: Replay, is_own_key: bool, now: Moment) -> bool {
        let until = if is_own_key { Some(now) } else { self.answered };
        let (Some(began), Some(until)) = (self.first, until) else { return false };
        let most = until.saturating_since(began).as_nanos().div_ceil(1_000_000);
        replay.age_ms.is_none_or(|age| u128::from(age) <= most)
    }
}
