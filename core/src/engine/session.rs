//! Guard sessions: from the request to the outcome.

use std::ops::ControlFlow;

#[cfg(doc)]
use actpass_protocol::ErrorKind;
use actpass_protocol::{ActionEnd, Json};

use super::authorization::Authorization;
use super::call::unexpected_event;
use super::{Engine, Event, Machine, Scope, Step};
use crate::action::Action;
use crate::clock::Clock;
use crate::decision::Decision;
use crate::error::Error;
use crate::guard::{Blocked, ExecutionContext, Permit, Recording, Settlement, Verdict};
use crate::prepared::PreparedAction;

/// A guarded action, from the request to the outcome: see [`Engine::guard`].
///
/// As a [`Machine`] its result is a [`Stage`]: [`Stage::Ready`] if the action may run.
/// [`begin`](GuardSession::begin) then returns the action's context, once. The host runs the action
/// and passes its end to [`finish`](GuardSession::finish).
///
/// ```
/// use actpass_core::engine::{Begun, Event, Machine, Stage, Step};
/// use actpass_core::transport::Response;
/// use actpass_core::{ActPass, Action, ActionEnd, TokioClock};
///
/// let engine = ActPass::builder().api_key("apk_dev").base_url("http://127.0.0.1:8787").settings()?.engine();
/// let prepared = engine.prepare(Action::new("resolve_refund_request", "stripe.refund.create"), &TokioClock)?;
/// let mut session = engine.guard(prepared, Default::default(), false);
///
/// let Step::Send { .. } = session.step(Event::Started, &TokioClock) else { panic!("nothing to send") };
/// let answered = Event::Response(Response::new(200, r#"{"decision": "allow"}"#));
/// let Step::Ended(Stage::Ready) = session.step(answered, &TokioClock) else { panic!("not allowed") };
///
/// let Begun::Running(context) = session.begin(None, &TokioClock)? else { panic!("blocked") };
/// assert_eq!(context.decision().word().as_str(), "allow");
/// assert!(session.begin(None, &TokioClock).is_err());
/// let (settlement, recording) = session.finish(ActionEnd::Returned, None)?;
/// assert!(settlement.settle(Ok::<_, ()>("refunded")).executed());
/// assert!(recording.is_none());
/// # Ok::<(), actpass_core::Error>(())
/// ```
pub struct GuardSession {
    prepared: PreparedAction,
    record_outcome: bool,
    state: State,
}

enum State {
    Authorizing(Box<Authorization>),
    Permitted(Permit),
    Running(Settlement),
    Ended,
}

/// The result of a [`GuardSession`] before the action runs.
#[derive(Debug)]
#[must_use = "a stage decides whether the action may run"]
pub enum Stage {
    /// The action may not run.
    Blocked(Blocked),
    /// It may run, once: see [`GuardSession::begin`].
    Ready,
}

/// The result of [`GuardSession::begin`].
#[derive(Debug)]
#[must_use = "the result decides whether the action runs"]
pub enum Begun {
    /// The permit has expired, or the action differs from the evaluated one.
    Blocked(Blocked),
    /// The action runs with this context.
    Running(ExecutionContext),
}

impl GuardSession {
    pub(super) fn new(engine: &Engine, prepared: PreparedAction, scope: Scope, record_outcome: bool) -> Self {
        let authorization = engine.authorize(prepared.clone(), scope);
        Self { prepared, record_outcome, state: State::Authorizing(Box::new(authorization)) }
    }

    /// The session of a call that failed before the request was sent: see
    /// [`Verdict::for_failure`](crate::Verdict::for_failure).
    pub fn for_failure(prepared: PreparedAction, failure: Error, record_outcome: bool) -> (Self, Stage) {
        let verdict = Verdict::for_failure(&prepared, failure);
        let mut session = Self { prepared, record_outcome, state: State::Ended };
        let stage = session.apply_verdict(verdict);
        (session, stage)
    }

    /// The decision that permits the action; `None` before the verdict and after the action has
    /// begun.
    pub fn decision(&self) -> Option<&Decision> {
        match &self.state {
            State::Permitted(permit) => Some(permit.decision()),
            State::Authorizing(_) | State::Running(_) | State::Ended => None,
        }
    }

    /// Whether the end of the action is recorded.
    pub fn records_outcome(&self) -> bool {
        self.record_outcome
    }

    /// Spends the permit, once, and returns the action's context. `now` is the action as it is
    /// about to run, if it may have changed; a difference blocks: see
    /// [`Permit::compare`](crate::Permit::compare). An expired permit blocks too: see
    /// [`Permit::spend`](crate::Permit::spend).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`] if the action may not run, or has begun before. The action must not
    /// run then.
    pub fn begin(&mut self, now: Option<&Action>, clock: &dyn Clock) -> Result<Begun, Error> {
        let permit = match std::mem::replace(&mut self.state, State::Ended) {
            State::Permitted(permit) => permit,
            // A call out of order changes nothing.
            state @ (State::Authorizing(_) | State::Running(_) | State::Ended) => {
                self.state = state;
                return Err(Error::argument("permit", "already spent"));
            }
        };
        let verdict = match now {
            Some(now) => permit.compare(now),
            None => Verdict::Proceed(permit),
        };
        Ok(match verdict {
            Verdict::Blocked(blocked) => Begun::Blocked(blocked),
            Verdict::Proceed(permit) => match permit.spend(clock) {
                Err(blocked) => Begun::Blocked(*blocked),
                Ok((context, settlement)) => {
                    self.state = State::Running(settlement);
                    Begun::Running(context)
                }
            },
        })
    }

    /// Settles the action. `response` is its result, if it is JSON. Returns the [`Settlement`] and,
    /// if outcomes are recorded, the [`Recording`] for [`ActPass::record`](crate::ActPass::record).
    /// A failure to record does not change the outcome.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`] if the action is not running.
    pub fn finish(
        &mut self,
        ended: ActionEnd,
        response: Option<&Json>,
    ) -> Result<(Settlement, Option<Recording>), Error> {
        let mut settlement = match std::mem::replace(&mut self.state, State::Ended) {
            State::Running(settlement) => settlement,
            state @ (State::Authorizing(_) | State::Permitted(_) | State::Ended) => {
                self.state = state;
                return Err(Error::argument("permit", "not running: spend it first, and finish it once"));
            }
        };
        settlement.end();
        let recording = self.record_outcome.then(|| settlement.recording(ended, response));
        Ok((settlement, recording))
    }

    fn apply_verdict(&mut self, verdict: Verdict) -> Stage {
        match verdict {
            Verdict::Blocked(blocked) => Stage::Blocked(blocked),
            Verdict::Proceed(permit) => {
                self.state = State::Permitted(permit);
                Stage::Ready
            }
        }
    }
}

impl Machine for GuardSession {
    type Output = Stage;

    fn step(&mut self, event: Event, clock: &dyn Clock) -> Step<Stage> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Authorizing(mut authorization) => match authorization.step(event, clock).into_end() {
                ControlFlow::Break(verdict) => Step::Ended(self.apply_verdict(verdict)),
                ControlFlow::Continue(step) => {
                    self.state = State::Authorizing(authorization);
                    step
                }
            },
            // An event out of order voids the permit, so nothing runs twice.
            State::Permitted(_) | State::Running(_) | State::Ended => {
                Step::Ended(Stage::Blocked(Blocked::of(&self.prepared, unexpected_event())))
            }
        }
    }
}
