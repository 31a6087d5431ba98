//! Authorization: from the request to the verdict.

use super::approval::ApprovalWait;
use super::call::{Call, unexpected_event};
use super::response::DecisionParser;
use super::{Engine, Event, Machine, Scope, Step};
use crate::approval::{ApprovalStatus, PendingApproval};
use crate::clock::Clock;
use crate::decision::Decision;
use crate::error::Error;
use crate::guard::{PreflightResponse, Verdict};
use crate::observe::ignore_panic;
use crate::prepared::PreparedAction;
use crate::transport::Request;
use actpass_protocol::Operation;

/// Requests a decision and returns the verdict: see [`Engine::authorize`]. A failed gate is a
/// verdict.
///
/// An action that needs approval and waits for it is held. After approval the same action is sent
/// again with the id of the approval, and that decision is final.
pub struct Authorization {
    engine: Engine,
    scope: Scope,
    prepared: PreparedAction,
    state: State,
}

enum State {
    Created,
    Asking(Call<DecisionParser>),
    /// Waits for the approval that `original` requires.
    Held {
        wait: ApprovalWait,
        original: Decision,
        pending: PendingApproval,
    },
    /// The second request, with the approval.
    AskingApproved {
        call: Call<DecisionParser>,
        approved: PreparedAction,
        original: Decision,
        pending: PendingApproval,
    },
    Ended,
}

impl Authorization {
    pub(super) fn new(engine: Engine, prepared: PreparedAction, scope: Scope) -> Self {
        Self { engine, scope, prepared, state: State::Created }
    }

    fn finish(&self, verdict: Verdict) -> Step<Verdict> {
        ignore_panic(|| verdict.log(self.prepared.tool()));
        Step::Ended(verdict)
    }

    /// The verdict if the gate failed after `original` had required an approval.
    fn finish_failed(&self, error: Error, original: &Decision, pending: &PendingApproval) -> Step<Verdict> {
        self.finish(Verdict::for_failure(&self.prepared, error).after_approval_wait(original, pending))
    }

    /// Handles the response to the first request.
    fn on_first_response(
        &mut self,
        gate: Result<PreflightResponse, Error>,
        clock: &dyn Clock,
    ) -> Step<Verdict> {
        let verdict = Verdict::of(&self.prepared, gate, Some(clock.now()));
        let wait = self.prepared.action().fields().wait_for_approval;
        let (Some(wait), Some((original, pending))) = (wait, verdict.pending()) else {
            return self.finish(verdict);
        };
        match ApprovalWait::new(self.engine.clone(), pending.id(), wait, self.scope.clone()) {
            Ok(wait) => {
                let (original, pending) = (original.clone(), pending.clone());
                self.step_approval_wait(wait, Event::Started, original, pending, clock)
            }
            Err(error) => self.finish_failed(error, original, pending),
        }
    }

    fn step_approval_wait(
        &mut self,
        mut wait: ApprovalWait,
        event: Event,
        original: Decision,
        pending: PendingApproval,
        clock: &dyn Clock,
    ) -> Step<Verdict> {
        match wait.step(event, clock).into_end() {
            Err(step) => {
                self.state = State::Held { wait, original, pending };
                step
            }
            Ok(Ok(approval)) => match approval.status() {
                ApprovalStatus::Approved => match self.approved_action(&pending, clock) {
                    Ok(approved) => {
                        let call = preflight(self.engine.clone(), approved.clone(), self.scope.clone());
                        self.step_approved(call, Event::Started, approved, original, pending, clock)
                    }
                    Err(error) => self.finish_failed(error, &original, &pending),
                },
                status @ (ApprovalStatus::Expired | ApprovalStatus::Pending | ApprovalStatus::Rejected) => {
                    self.finish(Verdict::unapproved(&self.prepared, &original, pending, status))
                }
            },
            Ok(Err(error)) => self.finish_failed(error, &original, &pending),
        }
    }

    /// The approved action. It keeps the caller's idempotency key: a gateway replays only an
    /// `allow`.
    fn approved_action(&self, pending: &PendingApproval, clock: &dyn Clock) -> Result<PreparedAction, Error> {
        let mut approved = pending.action();
        let (original, members) = (self.prepared.action().fields(), approved.fields_mut());
        members.passport.clone_from(&original.passport);
        members.idempotency_key.clone_from(&original.idempotency_key);
        self.engine.prepare(approved, clock)
    }

    fn step_approved(
        &mut self,
        mut call: Call<DecisionParser>,
        event: Event,
        approved: PreparedAction,
        original: Decision,
        pending: PendingApproval,
        clock: &dyn Clock,
    ) -> Step<Verdict> {
        match call.step(event, clock).into_end() {
            Ok(gate) => self.finish(
                Verdict::of(&approved, gate, Some(clock.now())).after_approval_wait(&original, &pending),
            ),
            Err(step) => {
                self.state = State::AskingApproved { call, approved, original, pending };
                step
            }
        }
    }
}

/// The preflight call.
pub(super) fn preflight(engine: Engine, prepared: PreparedAction, scope: Scope) -> Call<DecisionParser> {
    let request = Request::new(Operation::Preflight, prepared.body().clone());
    Call::new(engine, request, scope, DecisionParser(prepared))
}

impl Machine for Authorization {
    type Output = Verdict;

    fn step(&mut self, event: Event, clock: &dyn Clock) -> Step<Verdict> {
        if let (State::Created, Event::Started) = (&self.state, &event) {
            let call = preflight(self.engine.clone(), self.prepared.clone(), self.scope.clone());
            self.state = State::Asking(call);
        }
        // In place, because most actions need one request only.
        if let State::Asking(call) = &mut self.state {
            return match call.step(event, clock).into_end() {
                Err(step) => step,
                Ok(gate) => {
                    self.state = State::Ended;
                    self.on_first_response(gate, clock)
                }
            };
        }
        match (std::mem::replace(&mut self.state, State::Ended), event) {
            (State::Held { wait, original, pending }, event) => {
                self.step_approval_wait(wait, event, original, pending, clock)
            }
            (State::AskingApproved { call, approved, original, pending }, event) => {
                self.step_approved(call, event, approved, original, pending, clock)
            }
            // Misuse: nothing was requested, or there is a verdict already. Runs nothing in any
            // mode.
            (State::Created | State::Asking(_) | State::Ended, _) => {
                Step::Ended(Verdict::blocked(&self.prepared, unexpected_event()))
            }
        }
    }
}
