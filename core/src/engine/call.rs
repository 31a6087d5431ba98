//! One call: its attempts and backoff, under one timeout.

use std::time::Duration;

use actpass_protocol::ErrorKind;

use super::response::{LostAttempts, ResponseParser};
use super::{Engine, Event, Machine, Scope, Step};
use crate::breaker::Admission;
use crate::clock::{Clock, Moment};
use crate::error::Error;
use crate::observe::Span;
use crate::retry;
use crate::transport::{Request, Response, TransportError};

/// A call as a state machine.
pub(super) struct Call<R> {
    engine: Engine,
    request: Request,
    timeout: Duration,
    max_retries: u32,
    state: State<R>,
}

enum State<R> {
    Created(R),
    Sending(Attempts<R>),
    Waiting(Attempts<R>),
    Ended,
}

/// The attempts of an admitted call.
struct Attempts<R> {
    parser: R,
    admission: Admission,
    span: Span,
    deadline: Moment,
    /// The start of the current attempt.
    began: Moment,
    retry: u32,
    /// Whether the request was repeated because the gateway demanded a DPoP proof with a nonce.
    has_new_nonce: bool,
    lost: LostAttempts,
}

impl<R: ResponseParser> Call<R> {
    pub(super) fn new(engine: Engine, request: Request, scope: Scope, parser: R) -> Self {
        let (timeout, max_retries) = (engine.timeout(&scope), engine.max_retries(&scope));
        let request = Request { traceparent: scope.traceparent, ..request };
        Self { engine, request, timeout, max_retries, state: State::Created(parser) }
    }

    fn start(&mut self, parser: R, clock: &dyn Clock) -> Step<Result<R::Output, Error>> {
        let operation = self.request.operation;
        let span = Span::new(|| {
            tracing::debug_span!(
                "actpass.call",
                operation = operation.name(),
                attempts = tracing::field::Empty,
                status = tracing::field::Empty,
                error = tracing::field::Empty,
            )
        });
        let now = clock.now();
        match self.engine.breaker().admit(now) {
            Ok(admission) => {
                let (deadline, lost) = (now + self.timeout, LostAttempts::default());
                let (retry, has_new_nonce) = (0, false);
                let attempts =
                    Attempts { parser, admission, span, deadline, began: now, retry, has_new_nonce, lost };
                self.send(attempts, clock)
            }
            Err(error) => {
                span.record("error", error.code());
                Step::Ended(Err(error.with_operation(operation)))
            }
        }
    }

    fn send(&mut self, attempts: Attempts<R>, clock: &dyn Clock) -> Step<Result<R::Output, Error>> {
        let proof = match self.engine.prove(&self.request, clock) {
            Ok(proof) => proof,
            Err(error) => return self.end(attempts, Err(error), clock),
        };
        let request = Request { retry: attempts.retry, proof, ..self.request.clone() };
        let until = attempts.deadline;
        self.state = State::Sending(attempts);
        Step::Send { request, until }
    }

    /// Ends the call with this attempt, repeats it with a new nonce, or schedules a retry.
    fn on_attempt_end(
        &mut self,
        mut attempts: Attempts<R>,
        attempt: Result<Response, TransportError>,
        clock: &dyn Clock,
    ) -> Step<Result<R::Output, Error>> {
        let now = clock.now();
        let demands_nonce = attempt.as_ref().is_ok_and(|response| self.engine.observe_nonce(response));
        if demands_nonce && !attempts.has_new_nonce && now < attempts.deadline {
            // Not a retry: the gateway did not process the request, and a proof with the nonce is new.
            attempts.span.event(|span| {
                tracing::debug!(parent: span, "repeating with the gateway's DPoP nonce");
            });
            (attempts.has_new_nonce, attempts.began) = (true, now);
            return self.send(attempts, clock);
        }
        let again =
            attempts.retry < self.max_retries && retry::should_retry(self.request.operation, &attempt);
        let wait = again
            .then(|| {
                let retry_after = attempt.as_ref().ok().and_then(|response| response.retry_after(clock));
                retry::backoff(attempts.retry, retry_after, clock)
            })
            // A backoff that the deadline cuts off would turn a known failure into a timeout.
            .filter(|wait| now + *wait < attempts.deadline);
        let Some(wait) = wait else {
            attempts.span.record("attempts", attempts.retry + 1 + u32::from(attempts.has_new_nonce));
            return match attempt {
                Ok(response) => {
                    attempts.lost.connected = Some(attempts.began + response.connected_after);
                    self.end(attempts, Ok(response), clock)
                }
                Err(failure) => self.end(attempts, Err(failure.error), clock),
            };
        };
        if retry::may_have_been_processed(&attempt) {
            attempts.lost.first.get_or_insert(attempts.began);
        }
        attempts.span.event(|span| {
            let (retry, wait_ms) = (attempts.retry + 1, wait.as_secs_f64() * 1e3);
            tracing::debug!(parent: span, retry, wait_ms, "retrying");
        });
        self.state = State::Waiting(attempts);
        Step::Sleep { until: now + wait }
    }

    fn end(
        &mut self,
        attempts: Attempts<R>,
        ended: Result<Response, Error>,
        clock: &dyn Clock,
    ) -> Step<Result<R::Output, Error>> {
        let operation = self.request.operation;
        let Attempts { parser, admission, span, lost, .. } = attempts;
        admission.settle(ended.as_ref().err(), clock);
        match &ended {
            Ok(response) => span.record("status", response.status),
            Err(error) => span.record("error", error.code()),
        }
        let (status, code) = match &ended {
            Ok(response) => (Some(response.status), None),
            Err(error) => (None, Some(error.code())),
        };
        span.event(|span| {
            tracing::debug!(parent: span, operation = operation.name(), status, code, "call completed");
        });
        Step::Ended(match ended {
            Ok(response) => parser.parse(&self.engine, operation, response, lost, clock),
            Err(error) => Err(error.with_operation(operation)),
        })
    }

    fn timeout_error(&self) -> Error {
        let config = self.engine.config();
        let (url, timeout, via_proxy) =
            (config.base_url.as_str(), self.timeout.as_secs_f64(), &config.via_proxy);
        Error::new(ErrorKind::Timeout, format!("no response from {url} within {timeout} s{via_proxy}"))
    }
}

impl<R: ResponseParser> Machine for Call<R> {
    type Output = Result<R::Output, Error>;

    fn step(&mut self, event: Event, clock: &dyn Clock) -> Step<Self::Output> {
        match (std::mem::replace(&mut self.state, State::Ended), event) {
            (State::Created(parser), Event::Started) => self.start(parser, clock),
            (State::Sending(attempts), Event::Response(response)) => {
                self.on_attempt_end(attempts, Ok(response), clock)
            }
            (State::Sending(attempts), Event::Failed(failure)) => {
                self.on_attempt_end(attempts, Err(failure), clock)
            }
            (State::Sending(attempts), Event::Elapsed) => {
                let error = self.timeout_error();
                self.end(attempts, Err(error), clock)
            }
            (State::Sending(attempts) | State::Waiting(attempts), Event::Panicked) => {
                self.end(attempts, Err(Error::panicked()), clock)
            }
            (State::Waiting(mut attempts), Event::Elapsed) => {
                attempts.retry += 1;
                attempts.began = clock.now();
                self.send(attempts, clock)
            }
            (State::Sending(attempts) | State::Waiting(attempts), Event::Started)
            | (State::Waiting(attempts), Event::Response(_) | Event::Failed(_)) => {
                self.end(attempts, Err(unexpected_event()), clock)
            }
            (State::Created(_), Event::Response(_) | Event::Failed(_) | Event::Elapsed | Event::Panicked)
            | (State::Ended, _) => Step::Ended(Err(unexpected_event())),
        }
    }
}

/// The error of a machine that is misused.
pub(super) fn unexpected_event() -> Error {
    Error::new(ErrorKind::Internal, "unexpected engine event")
}
