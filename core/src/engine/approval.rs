//! Waiting for an approval.

use std::ops::ControlFlow;
use std::time::Duration;

use actpass_protocol::Operation;

use super::call::{Call, unexpected_event};
use super::response::ApprovalParser;
use super::{Engine, Event, Machine, Scope, Step};
use crate::approval::{self, Approval, ApprovalStatus};
use crate::clock::{Clock, Moment};
use crate::error::Error;
use crate::transport::Request;

/// Polls an approval until it is decided or the wait expires: see [`Engine::wait_for_approval`].
pub struct ApprovalWait {
    engine: Engine,
    scope: Scope,
    id: String,
    wait: Duration,
    /// The epoch whose rise ends the wait.
    epoch: Option<u64>,
    state: State,
}

enum State {
    Created,
    Polling { call: Box<Call<ApprovalParser>>, began: Moment, until: Moment },
    Pausing { until: Moment },
    Ended,
}

impl ApprovalWait {
    pub(super) fn new(engine: Engine, id: &str, wait: Duration, scope: Scope) -> Result<Self, Error> {
        // Validate the id before anything is sent.
        approval::path_suffix(id, Duration::ZERO)?;
        let wait = wait.min(approval::MAX_WAIT);
        Ok(Self { engine, scope, id: id.to_owned(), wait, epoch: None, state: State::Created })
    }

    /// Ends the wait also when the gateway reports a newer epoch than this one.
    pub(super) fn until_newer_than(self, epoch: Option<u64>) -> Self {
        Self { epoch, ..self }
    }

    /// Whether the gateway's epoch has risen while the approval is pending.
    pub(super) fn has_risen(&self, approval: &Approval) -> bool {
        approval.status() == ApprovalStatus::Pending
            && self.epoch.is_some()
            && approval.halt_epoch() > self.epoch
    }

    fn poll(&mut self, until: Moment, clock: &dyn Clock) -> Step<Result<Approval, Error>> {
        let began = clock.now();
        // The gateway must respond within the timeout of the call.
        let left = until.saturating_since(began);
        let poll = left.min(approval::MAX_POLL).min(self.engine.timeout(&self.scope).mul_f64(0.8));
        let path_suffix = match approval::path_suffix(&self.id, poll) {
            Ok(path_suffix) => path_suffix,
            Err(error) => return Step::Ended(Err(error)),
        };
        let request = Request { path_suffix, ..Request::new(Operation::Approval, "") };
        let call = Box::new(Call::new(
            self.engine.clone(),
            request,
            self.scope.clone(),
            ApprovalParser(self.id.clone()),
        ));
        self.advance(call, Event::Started, began, until, clock)
    }

    fn advance(
        &mut self,
        mut call: Box<Call<ApprovalParser>>,
        event: Event,
        began: Moment,
        until: Moment,
        clock: &dyn Clock,
    ) -> Step<Result<Approval, Error>> {
        match call.step(event, clock).into_end() {
            ControlFlow::Break(polled) => {
                let goes_on = match &polled {
                    Ok(approval) => {
                        let is_pending = approval.status() == ApprovalStatus::Pending;
                        is_pending && !approval.is_halted() && !self.has_risen(approval)
                    }
                    Err(error) => error.is_retryable(),
                };
                if !goes_on || until.saturating_since(began).is_zero() {
                    return Step::Ended(polled);
                }
                let retry_after = polled.err().and_then(|error| error.retry_after());
                self.state = State::Pausing { until };
                Step::Sleep { until: (began + retry_after.unwrap_or(approval::MIN_POLL_INTERVAL)).min(until) }
            }
            ControlFlow::Continue(step) => {
                self.state = State::Polling { call, began, until };
                step
            }
        }
    }
}

impl Machine for ApprovalWait {
    type Output = Result<Approval, Error>;

    fn step(&mut self, event: Event, clock: &dyn Clock) -> Step<Self::Output> {
        match (std::mem::replace(&mut self.state, State::Ended), event) {
            (State::Created, Event::Started) => {
                let until = clock.now() + self.wait;
                self.poll(until, clock)
            }
            (State::Polling { call, began, until }, event) => self.advance(call, event, began, until, clock),
            (State::Pausing { until }, Event::Elapsed) => self.poll(until, clock),
            (
                State::Created | State::Pausing { .. },
                Event::Started | Event::Response(_) | Event::Failed(_) | Event::Elapsed | Event::Panicked,
            )
            | (State::Ended, _) => Step::Ended(Err(unexpected_event())),
        }
    }
}
