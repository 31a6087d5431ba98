//! One call: attempts, waits and all under one deadline.

use std::time::Duration;

use actpass_protocol::ErrorKind;

use super::answer::{LostAttempts, ReadAnswer};
use super::{Engine, Event, Machine, Scope, Step};
use crate::breaker::Admission;
use crate::clock::{Clock, Moment};
use crate::error::Error;
use crate::observe::Span;
use crate::retry;
use crate::transport::{Answer, Failure, Request};

/// A call of the client, as a machine.
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

/// The attempts of a call that was admitted.
struct Attempts<R> {
    reader: R,
    admission: Admission,
    span: Span,
    deadline: Moment,
    /// When the present attempt began.
    began: Moment,
    retry: u32,
    lost: LostAttempts,
}

impl<R: ReadAnswer> Call<R> {
    pub(super) fn new(engine: Engine, request: Request, scope: Scope, reader: R) -> Self {
        let (timeout, max_retries) = (engine.timeout(&scope), engine.max_retries(&scope));
        let request = Request { traceparent: scope.traceparent, ..request };
        Self { engine, request, timeout, max_retries, state: State::Created(reader) }
    }

    fn start(&mut self, reader: R, clock: &dyn Clock) -> Step<Result<R::Output, Error>> {
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
                self.send(Attempts { reader, admission, span, deadline, began: now, retry: 0, lost })
            }
            Err(error) => {
                span.record("error", error.code());
                Step::Ended(Err(error.with_operation(operation)))
            }
        }
    }

    fn send(&mut self, attempts: Attempts<R>) -> Step<Result<R::Output, Error>> {
        let request = Request { retry: attempts.retry, ..self.request.clone() };
        let until = attempts.deadline;
        self.state = State::Sending(attempts);
        Step::Send { request, until }
    }

    /// An attempt has ended: the call ends with it, or waits for the next.
    fn attempted(
        &mut self,
        mut attempts: Attempts<R>,
        attempt: Result<Answer, Failure>,
        clock: &dyn Clock,
    ) -> Step<Result<R::Output, Error>> {
        let now = clock.now();
        let again = attempts.retry < self.max_retries && retry::permits(self.request.operation, &attempt);
        let wait = again
            .then(|| {
                let retry_after = attempt.as_ref().ok().and_then(|answer| answer.retry_after(clock));
                retry::wait(attempts.retry, retry_after, clock)
            })
            // A wait that the deadline cuts off would turn a known failure into a time-out.
            .filter(|wait| now + *wait < attempts.deadline);
        let Some(wait) = wait else {
            attempts.span.record("attempts", attempts.retry + 1);
            return match attempt {
                Ok(answer) => {
                    attempts.lost.answered = Some(attempts.began + answer.connected_after);
                    self.end(attempts, Ok(answer), clock)
                }
                Err(failure) => self.end(attempts, Err(failure.error), clock),
            };
        };
        if retry::may_be_taken(&attempt) {
            attempts.lost.first.get_or_insert(attempts.began);
        }
        attempts.span.event(|span| {
            let (retry, wait_ms) = (attempts.retry + 1, wait.as_secs_f64() * 1e3);
            tracing::debug!(parent: span, retry, wait_ms, "trying again");
        });
        self.state = State::Waiting(attempts);
        Step::Sleep { until: now + wait }
    }

    fn end(
        &mut self,
        attempts: Attempts<R>,
        ended: Result<Answer, Error>,
        clock: &dyn Clock,
    ) -> Step<Result<R::Output, Error>> {
        let operation = self.request.operation;
        let Attempts { reader, admission, span, lost, .. } = attempts;
        admission.settle(ended.as_ref().err(), clock);
        match &ended {
            Ok(answer) => span.record("status", answer.status),
            Err(error) => span.record("error", error.code()),
        }
        let (status, code) = match &ended {
            Ok(answer) => (Some(answer.status), None),
            Err(error) => (None, Some(error.code())),
        };
        span.event(|span| {
            tracing::debug!(parent: span, operation = operation.name(), status, code, "the call ended");
        });
        Step::Ended(match ended {
            Ok(answer) => reader.read(&self.engine, operation, answer, lost, clock),
            Err(error) => Err(error.with_operation(operation)),
        })
    }

    fn too_late(&self) -> Error {
        let config = self.engine.config();
        let (url, timeout, through) = (config.base_url.as_str(), self.timeout.as_secs_f64(), &config.through);
        Error::new(ErrorKind::Timeout, format!("no answer from {url} within {timeout} s{through}"))
    }
}

impl<R: ReadAnswer> Machine for Call<R> {
    type Output = Result<R::Output, Error>;

    fn step(&mut self, event: Event, clock: &dyn Clock) -> Step<Self::Output> {
        match (std::mem::replace(&mut self.state, State::Ended), event) {
            (State::Created(reader), Event::Started) => self.start(reader, clock),
            (State::Sending(attempts), Event::Answered(answer)) => {
                self.attempted(attempts, Ok(answer), clock)
            }
            (State::Sending(attempts), Event::Failed(failure)) => {
                self.attempted(attempts, Err(failure), clock)
            }
            (State::Sending(attempts), Event::Elapsed) => {
                let error = self.too_late();
                self.end(attempts, Err(error), clock)
            }
            (State::Sending(attempts) | State::Waiting(attempts), Event::Panicked) => {
                self.end(attempts, Err(Error::panicked()), clock)
            }
            (State::Waiting(mut attempts), Event::Elapsed) => {
                attempts.retry += 1;
                attempts.began = clock.now();
                self.send(attempts)
            }
            (State::Sending(attempts) | State::Waiting(attempts), Event::Started)
            | (State::Waiting(attempts), Event::Answered(_) | Event::Failed(_)) => {
                self.end(attempts, Err(unexpected()), clock)
            }
            (State::Created(_), Event::Answered(_) | Event::Failed(_) | Event::Elapsed | Event::Panicked)
            | (State::Ended, _) => Step::Ended(Err(unexpected())),
        }
    }
}

/// The error of a machine that is driven wrongly.
pub(super) fn unexpected() -> Error {
    Error::new(ErrorKind::Internal, "the engine got an event for which it did not wait")
}
