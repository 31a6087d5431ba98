//! Authorization: from the request to the verdict.

use std::ops::ControlFlow;

use super::approval::ApprovalWait;
use super::call::{Call, unexpected_event};
use super::response::DecisionParser;
use super::{Engine, Event, Machine, Scope, Step};
use crate::approval::{ApprovalStatus, MAX_WAIT, PendingApproval};
use crate::clock::{Clock, Moment};
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
    /// Waits for the approval.
    Held {
        wait: ApprovalWait,
        held: Held,
    },
    /// A request with the approval. While it `is_pending`, a stop was issued or lifted, and the
    /// wait continues if the action is not stopped.
    AskingApproved {
        call: Call<DecisionParser>,
        approved: PreparedAction,
        held: Held,
        is_pending: bool,
    },
    Ended,
}

/// An action that waits for approval.
struct Held {
    /// The decision that requires it.
    original: Decision,
    pending: PendingApproval,
    until: Moment,
}

impl Authorization {
    pub(super) fn new(engine: Engine, prepared: PreparedAction, scope: Scope) -> Self {
        Self { engine, scope, prepared, state: State::Created }
    }

    fn finish(&self, verdict: Verdict) -> Step<Verdict> {
        ignore_panic(|| verdict.log(self.prepared.tool()));
        Step::Ended(verdict.in_client(self.engine.halts()))
    }

    /// The verdict if the gate failed after `original` had required an approval.
    fn finish_failed(&self, error: Error, held: &Held) -> Step<Verdict> {
        let verdict = Verdict::for_failure(&self.prepared, error);
        self.finish(verdict.after_approval_wait(&held.original, &held.pending))
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
        let until = clock.now() + wait.min(MAX_WAIT);
        let held = Held { original: original.clone(), pending: pending.clone(), until };
        let epoch = original.halt_epoch().ok().flatten();
        self.wait(held, epoch, clock)
    }

    /// Waits for the approval, or for a stop that the gateway issues or lifts after `epoch`.
    fn wait(&mut self, held: Held, epoch: Option<u64>, clock: &dyn Clock) -> Step<Verdict> {
        let wait = held.until.saturating_since(clock.now());
        match ApprovalWait::new(self.engine.clone(), held.pending.id(), wait, self.scope.clone()) {
            Ok(wait) => self.step_approval_wait(wait.until_newer_than(epoch), Event::Started, held, clock),
            Err(error) => self.finish_failed(error, &held),
        }
    }

    fn step_approval_wait(
        &mut self,
        mut wait: ApprovalWait,
        event: Event,
        held: Held,
        clock: &dyn Clock,
    ) -> Step<Verdict> {
        match wait.step(event, clock).into_end() {
            ControlFlow::Continue(step) => {
                self.state = State::Held { wait, held };
                step
            }
            ControlFlow::Break(Ok(approval)) => match approval.status() {
                ApprovalStatus::Pending if approval.is_halted() => {
                    self.finish(Verdict::halted(&self.prepared, &held.original, held.pending, &approval))
                }
                ApprovalStatus::Pending if wait.has_risen(&approval) => self.ask_approved(held, true, clock),
                ApprovalStatus::Approved => self.ask_approved(held, false, clock),
                status @ (ApprovalStatus::Expired | ApprovalStatus::Pending | ApprovalStatus::Rejected) => {
                    self.finish(Verdict::unapproved(&self.prepared, &held.original, held.pending, status))
                }
            },
            ControlFlow::Break(Err(error)) => self.finish_failed(error, &held),
        }
    }

    fn ask_approved(&mut self, held: Held, is_pending: bool, clock: &dyn Clock) -> Step<Verdict> {
        match self.approved_action(&held.pending, clock) {
            Ok(approved) => {
                let call = preflight(self.engine.clone(), approved.clone(), self.scope.clone());
                self.step_approved(call, Event::Started, approved, held, is_pending, clock)
            }
            Err(error) => self.finish_failed(error, &held),
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
        held: Held,
        is_pending: bool,
        clock: &dyn Clock,
    ) -> Step<Verdict> {
        match call.step(event, clock).into_end() {
            ControlFlow::Break(gate) => {
                let epoch = gate.as_ref().ok().and_then(|response| response.halt_epoch);
                let verdict = Verdict::of(&approved, gate, Some(clock.now()));
                let still_waits = verdict.pending().is_some_and(|(_, again)| again.id() == held.pending.id());
                match is_pending && still_waits {
                    true => self.wait(held, epoch, clock),
                    false => self.finish(verdict.after_approval_wait(&held.original, &held.pending)),
                }
            }
            ControlFlow::Continue(step) => {
                self.state = State::AskingApproved { call, approved, held, is_pending };
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
                ControlFlow::Continue(step) => step,
                ControlFlow::Break(gate) => {
                    self.state = State::Ended;
                    self.on_first_response(gate, clock)
                }
            };
        }
        match (std::mem::replace(&mut self.state, State::Ended), event) {
            (State::Held { wait, held }, event) => self.step_approval_wait(wait, event, held, clock),
            (State::AskingApproved { call, approved, held, is_pending }, event) => {
                self.step_approved(call, event, approved, held, is_pending, clock)
            }
            // Misuse: nothing was requested, or there is a verdict already. Runs nothing in any
            // mode.
            (State::Created | State::Asking(_) | State::Ended, _) => {
                Step::Ended(Verdict::blocked(&self.prepared, unexpected_event()))
            }
        }
    }
}
