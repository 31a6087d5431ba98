//! From the question to the verdict.

use super::answer::Ruling;
use super::approval::ApprovalWait;
use super::call::{Call, unexpected};
use super::{Engine, Event, Machine, Scope, Step};
use crate::approval::{ApprovalStatus, PendingApproval};
use crate::clock::Clock;
use crate::decision::Decision;
use crate::error::Error;
use crate::guard::{Answered, Verdict};
use crate::observe::observe;
use crate::prepared::PreparedAction;
use crate::transport::Request;
use actpass_protocol::Operation;

/// Asks about an action and rules on the answer: see [`Engine::authorize`]. A gate that fails is a verdict.
///
/// An action that needs an approval and waits for it is held: once it is approved, the same action is asked about again, with
/// the approval's id, and that answer rules.
pub struct Authorization {
    engine: Engine,
    scope: Scope,
    prepared: PreparedAction,
    state: State,
}

enum State {
    Created,
    Asking(Call<Ruling>),
    /// For the approval that `asked` opened.
    Held {
        wait: ApprovalWait,
        asked: Decision,
        pending: PendingApproval,
    },
    /// Once more, with the approval.
    AskingApproved {
        call: Call<Ruling>,
        approved: PreparedAction,
        asked: Decision,
        pending: PendingApproval,
    },
    Ruled,
}

impl Authorization {
    pub(super) fn new(engine: Engine, prepared: PreparedAction, scope: Scope) -> Self {
        Self { engine, scope, prepared, state: State::Created }
    }

    fn ruled(&self, verdict: Verdict) -> Step<Verdict> {
        observe(|| verdict.log(self.prepared.tool()));
        Step::Ended(verdict)
    }

    /// The gate failed after `asked` had opened an approval.
    fn failed(&self, error: Error, asked: &Decision, pending: &PendingApproval) -> Step<Verdict> {
        self.ruled(Verdict::for_failure(&self.prepared, error).held_for(asked, pending))
    }

    /// The first question is answered.
    fn asked(&mut self, gate: Result<Answered, Error>, clock: &dyn Clock) -> Step<Verdict> {
        let verdict = Verdict::of(&self.prepared, gate, Some(clock.now()));
        let wait = self.prepared.action().members().wait_for_approval;
        let (Some(wait), Some((asked, pending))) = (wait, verdict.pending()) else {
            return self.ruled(verdict);
        };
        match ApprovalWait::new(self.engine.clone(), pending.id(), wait, self.scope.clone()) {
            Ok(wait) => {
                let (asked, pending) = (asked.clone(), pending.clone());
                self.hold(wait, Event::Started, asked, pending, clock)
            }
            Err(error) => self.failed(error, asked, pending),
        }
    }

    fn hold(
        &mut self,
        mut wait: ApprovalWait,
        event: Event,
        asked: Decision,
        pending: PendingApproval,
        clock: &dyn Clock,
    ) -> Step<Verdict> {
        match wait.step(event, clock).into_end() {
            Err(step) => {
                self.state = State::Held { wait, asked, pending };
                step
            }
            Ok(Ok(approval)) => match approval.status() {
                ApprovalStatus::Approved => match self.approved(&pending, clock) {
                    Ok(approved) => {
                        let call = preflight(self.engine.clone(), approved.clone(), self.scope.clone());
                        self.ask_approved(call, Event::Started, approved, asked, pending, clock)
                    }
                    Err(error) => self.failed(error, &asked, &pending),
                },
                status @ (ApprovalStatus::Expired | ApprovalStatus::Pending | ApprovalStatus::Rejected) => {
                    self.ruled(Verdict::unapproved(&self.prepared, &asked, pending, status))
                }
            },
            Ok(Err(error)) => self.failed(error, &asked, &pending),
        }
    }

    /// The approved action. The caller's key identifies it before and after the approval: a gateway repeats nothing but an
    /// `allow`.
    fn approved(&self, pending: &PendingApproval, clock: &dyn Clock) -> Result<PreparedAction, Error> {
        let mut approved = pending.action();
        let (asked, members) = (self.prepared.action().members(), approved.members_mut());
        members.passport.clone_from(&asked.passport);
        members.idempotency_key.clone_from(&asked.idempotency_key);
        self.engine.prepare(approved, clock)
    }

    fn ask_approved(
        &mut self,
        mut call: Call<Ruling>,
        event: Event,
        approved: PreparedAction,
        asked: Decision,
        pending: PendingApproval,
        clock: &dyn Clock,
    ) -> Step<Verdict> {
        match call.step(event, clock).into_end() {
            Ok(gate) => {
                self.ruled(Verdict::of(&approved, gate, Some(clock.now())).held_for(&asked, &pending))
            }
            Err(step) => {
                self.state = State::AskingApproved { call, approved, asked, pending };
                step
            }
        }
    }
}

/// The call that asks about an action.
pub(super) fn preflight(engine: Engine, prepared: PreparedAction, scope: Scope) -> Call<Ruling> {
    let request = Request::new(Operation::Preflight, prepared.body().clone());
    Call::new(engine, request, scope, Ruling(prepared))
}

impl Machine for Authorization {
    type Output = Verdict;

    fn step(&mut self, event: Event, clock: &dyn Clock) -> Step<Verdict> {
        if let (State::Created, Event::Started) = (&self.state, &event) {
            let call = preflight(self.engine.clone(), self.prepared.clone(), self.scope.clone());
            self.state = State::Asking(call);
        }
        // In place, because most actions are asked about once.
        if let State::Asking(call) = &mut self.state {
            return match call.step(event, clock).into_end() {
                Err(step) => step,
                Ok(gate) => {
                    self.state = State::Ruled;
                    self.asked(gate, clock)
                }
            };
        }
        match (std::mem::replace(&mut self.state, State::Ruled), event) {
            (State::Held { wait, asked, pending }, event) => self.hold(wait, event, asked, pending, clock),
            (State::AskingApproved { call, approved, asked, pending }, event) => {
                self.ask_approved(call, event, approved, asked, pending, clock)
            }
            // Nothing was asked, or there is a verdict already: runs nothing, in no mode.
            (State::Created | State::Asking(_) | State::Ruled, _) => {
                Step::Ended(Verdict::blocked(&self.prepared, unexpected()))
            }
        }
    }
}
