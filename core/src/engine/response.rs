//! Parsing of responses.

use actpass_protocol::json::RawObject;
use actpass_protocol::{DecisionWord, ErrorKind, Json, Operation, Secret};

use super::Engine;
use crate::approval::Approval;
use crate::cause::Cause;
use crate::clock::{Clock, Moment};
use crate::decision::{Decision, Replay};
use crate::dpop;
use crate::error::Error;
use crate::guard::PreflightResponse;
use crate::halts;
use crate::prepared::PreparedAction;
use crate::redact;
use crate::transport::Response;

/// Parses the response of a call.
pub(super) trait ResponseParser {
    type Output;

    fn parse(
        self,
        engine: &Engine,
        operation: Operation,
        response: Response,
        lost: LostAttempts,
        clock: &dyn Clock,
    ) -> Result<Self::Output, Error>;
}

/// Parses a 2xx response that is a JSON object.
pub(super) struct JsonParser<T> {
    /// A secret in the request, in addition to the API key.
    pub(super) token: Option<Secret>,
    pub(super) parse: fn(RawObject) -> Result<T, String>,
}

impl<T> ResponseParser for JsonParser<T> {
    type Output = T;

    fn parse(
        self,
        engine: &Engine,
        operation: Operation,
        response: Response,
        _: LostAttempts,
        clock: &dyn Clock,
    ) -> Result<T, Error> {
        parse_object(engine, operation, response, self.token.as_ref(), clock, self.parse)
    }
}

/// Parses the response about the approval with this id.
pub(super) struct ApprovalParser(pub(super) String);

impl ResponseParser for ApprovalParser {
    type Output = Approval;

    fn parse(
        self,
        engine: &Engine,
        operation: Operation,
        response: Response,
        _: LostAttempts,
        clock: &dyn Clock,
    ) -> Result<Approval, Error> {
        parse_object(engine, operation, response, None, clock, |document| Approval::parse(document, &self.0))
    }
}

/// Parses the response to a preflight.
pub(super) struct DecisionParser(pub(super) PreparedAction);

impl ResponseParser for DecisionParser {
    type Output = PreflightResponse;

    /// A decision is accepted in a 2xx response. In a 401 or 403 it is accepted unless it is an
    /// `allow`.
    fn parse(
        self,
        engine: &Engine,
        operation: Operation,
        response: Response,
        lost: LostAttempts,
        clock: &dyn Clock,
    ) -> Result<PreflightResponse, Error> {
        let request = self.0;
        let passport = request.action().fields().passport.as_ref();
        let request_id = request_id(engine, &response, passport);
        let malformed = |problem: String| (Cause::Malformed, problem);
        let decided = response.body.as_ref().map_err(|problem| (problem.cause(), problem.to_string()));
        let decided = decided.and_then(|body| {
            let (decision, credential) = Decision::parse_with_credential(body).map_err(|problem| {
                let cause = RawObject::parse(body).map_or(Cause::NotAnObject, |_| Cause::Malformed);
                (cause, problem)
            })?;
            let decision = decision.with_request_id(request_id.clone());
            let bound = decision.is_bound(&request)?;
            let replay = decision.replay().map_err(malformed)?;
            let halt_epoch = decision.halt_epoch().map_err(malformed)?;
            let replays_another_call =
                replay.is_some_and(|replay| !lost.includes(replay, request.has_generated_key(), clock.now()));
            let refused = !is_success(response.status);
            let unsigned = request.approvals().filter(|_| !refused).and_then(|keys| {
                let member = |name: &str| decision.member(name);
                keys.check(decision.word(), member, request.tool(), request.body(), clock.wall_clock())
            });
            Ok(PreflightResponse {
                decision,
                credential,
                refused,
                bound,
                replays_another_call,
                halt_epoch,
                unsigned,
            })
        });
        match decided {
            Ok(parsed)
                if !parsed.refused
                    || (matches!(response.status, 401 | 403)
                        && *parsed.decision.word() != DecisionWord::Allow) =>
            {
                engine.halts().observe(parsed.halt_epoch);
                Ok(parsed)
            }
            Err((cause, problem)) if is_success(response.status) => {
                let error = invalid_response(operation, &format!("not a decision: {problem}"));
                Err(error.with_cause(cause).with_request_id(request_id))
            }
            Ok(_) | Err(_) => Err(status_error(engine, operation, &response, passport, clock)),
        }
    }
}

fn parse_object<T>(
    engine: &Engine,
    operation: Operation,
    response: Response,
    token: Option<&Secret>,
    clock: &dyn Clock,
    parse: impl FnOnce(RawObject) -> Result<T, String>,
) -> Result<T, Error> {
    if !is_success(response.status) {
        return Err(status_error(engine, operation, &response, token, clock));
    }
    let request_id = request_id(engine, &response, token);
    let body = response.body.map_err(|problem| problem.to_string());
    let parsed = body.and_then(|body| RawObject::parse(&body)).and_then(|document| {
        let epoch = halts::epoch_of(&document)?;
        Ok((epoch, parse(document)?))
    });
    parsed
        .map(|(epoch, parsed)| {
            engine.halts().observe(epoch);
            parsed
        })
        .map_err(|problem| invalid_response(operation, &problem).with_request_id(request_id))
}

/// The error for a non-2xx response.
fn status_error(
    engine: &Engine,
    operation: Operation,
    response: &Response,
    token: Option<&Secret>,
    clock: &dyn Clock,
) -> Error {
    let kind = match response.status {
        401 => ErrorKind::Authentication,
        403 => ErrorKind::Permission,
        429 => ErrorKind::RateLimit,
        _ => ErrorKind::Status,
    };
    let body = response.body.as_ref().ok().and_then(|body| redact::body(body, &secrets(engine, token)));
    let message =
        body.as_deref().and_then(gateway_message).map(|message| format!(": {message}")).unwrap_or_default();
    let request_id = request_id(engine, response, token);
    let error = Error::new(kind, format!("the gateway answered {}{message}", response.status))
        .with_operation(operation)
        .with_answer(response.status, body, request_id, response.retry_after(clock));
    match dpop::refusal(response) {
        Some(_) => error.with_cause(Cause::ProofRefused),
        None => error,
    }
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

fn invalid_response(operation: Operation, problem: &str) -> Error {
    let error = Error::new(ErrorKind::Response, format!("invalid response from the gateway: {problem}"))
        .with_operation(operation);
    match operation {
        Operation::Approval => error.with_cause(Cause::NotAnApproval),
        Operation::Preflight
        | Operation::IssuePassport
        | Operation::VerifyPassport
        | Operation::RevokePassport
        | Operation::RecordEvidence
        | Operation::Jwks
        | Operation::WatchHalts
        | Operation::AcknowledgeHalt => error,
    }
}

/// The `x-request-id` of a response, redacted in case the gateway echoes a secret in it.
fn request_id(engine: &Engine, response: &Response, token: Option<&Secret>) -> Option<String> {
    response.request_id.as_ref().map(|id| redact::text(id, &secrets(engine, token)))
}

/// The secrets that must not appear in texts about a call that carries `token`.
fn secrets<'s>(engine: &'s Engine, token: Option<&'s Secret>) -> Vec<&'s Secret> {
    std::iter::once(&engine.config().api_key).chain(token).collect()
}

/// The message in the gateway's `{"error": {"message"}}`, on one line and truncated.
fn gateway_message(body: &str) -> Option<String> {
    let error = RawObject::parse(body.as_bytes()).ok()?.member("error")?;
    let message = error.member("message").and_then(Json::as_str)?;
    Some(message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect())
}

/// Earlier attempts of a call that the gateway may have processed, without a response.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LostAttempts {
    /// The start of the first lost attempt.
    pub(super) first: Option<Moment>,
    /// When the answered attempt had a connection, which is before the gateway received it.
    pub(super) connected: Option<Moment>,
}

impl LostAttempts {
    /// Whether the replayed response belongs to a lost attempt.
    ///
    /// A response recorded before the first lost attempt began is older than the time from then
    /// until the answered attempt was sent. The duration of that attempt itself is irrelevant. A
    /// key generated by the SDK belongs to no other call, so for it the response may have been
    /// recorded up to now.
    pub(super) fn includes(&self, replay: Replay, is_own_key: bool, now: Moment) -> bool {
        let until = if is_own_key { Some(now) } else { self.connected };
        let (Some(began), Some(until)) = (self.first, until) else { return false };
        let most = until.saturating_since(began).as_nanos().div_ceil(1_000_000);
        replay.age_ms.is_none_or(|age| u128::from(age) <= most)
    }
}
