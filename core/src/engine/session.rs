//! From the question to the report.

use actpass_protocol::{Ended, ErrorKind, Json};

use super::answer::Reply;
use super::authorization::Authorization;
use super::call::{Call, unexpected};
use super::{Engine, Event, Machine, Scope, Step};
use crate::clock::Clock;
use crate::error::Error;
use crate::evidence::RecordedEvidence;
use crate::guard::{Blocked, ExecutionContext, Outcome, Permit, Settlement, Verdict};
use crate::prepared::PreparedAction;

/// A guarded action, from the question to the report: see [`Engine::guard`].
///
/// As a [`Machine`] it comes to a [`Stage`]: [`Stage::Ready`], if the action may run. Then [`begin`](GuardSession::begin) gives
/// the action's context, once; the host runs the action and says how it ended to [`finish`](GuardSession::finish), which takes
/// the machine on to [`Stage::Done`].
///
/// ```
/// use actpass_core::engine::{Event, Machine, Stage, Step};
/// use actpass_core::transport::Answer;
/// use actpass_core::{ActPass, Action, Ended, TokioClock};
///
/// let engine = ActPass::builder().api_key("apk_dev").base_url("http://127.0.0.1:8787").settings()?.engine();
/// let prepared = engine.prepare(Action::new("resolve_refund_request", "stripe.refund.create"), &TokioClock)?;
/// let mut session = engine.guard(prepared, Default::default(), false);
///
/// let Step::Send { .. } = session.step(Event::Started, &TokioClock) else { panic!("nothing to send") };
/// let answered = Event::Answered(Answer::new(200, r#"{"decision": "allow"}"#));
/// let Step::Ended(Stage::Ready) = session.step(answered, &TokioClock) else { panic!("not allowed") };
///
/// let context = session.begin()?;
/// assert_eq!(context.decision().word().as_str(), "allow");
/// assert!(session.begin().is_err());
/// let Step::Ended(Stage::Done(report)) = session.finish(Ended::Returned, None, &TokioClock)? else { panic!("not done") };
/// assert!(report.settle(Ok::<_, ()>("refunded")).executed());
/// # Ok::<(), actpass_core::Error>(())
/// ```
pub struct GuardSession {
    engine: Engine,
    scope: Scope,
    record_outcome: bool,
    state: State,
}

enum State {
    Authorizing(Box<Authorization>),
    Permitted(Permit),
    Running(Settlement),
    Recording { call: Box<Call<Reply<RecordedEvidence>>>, settlement: Settlement },
    Ended,
}

/// What a [`GuardSession`] comes to.
#[derive(Debug)]
#[must_use = "a stage says whether the action may run"]
pub enum Stage {
    /// The action may not run.
    Blocked(Blocked),
    /// It ran; how it ended is recorded, if that was asked for.
    Done(Report),
    /// It may run, once: see [`GuardSession::begin`].
    Ready,
}

/// What is known about an action that ran, but for its result or error, which the host has.
#[derive(Debug)]
#[must_use = "an action that ran is reported"]
pub struct Report {
    settlement: Settlement,
    recorded: Option<Result<RecordedEvidence, Error>>,
}

impl Report {
    /// The event that records how the action ended, or why it could not be recorded; `None` if that was not asked for. A
    /// failure to record changes nothing about the outcome.
    pub fn recorded(&self) -> Option<&Result<RecordedEvidence, Error>> {
        self.recorded.as_ref()
    }

    /// The outcome of an action that ended so.
    pub fn settle<T, E>(self, ended: Result<T, E>) -> Outcome<T, E> {
        self.settlement.settle(ended)
    }

    pub(crate) fn into_recorded(self) -> (Settlement, Option<Result<RecordedEvidence, Error>>) {
        (self.settlement, self.recorded)
    }
}

impl GuardSession {
    pub(super) fn new(engine: Engine, prepared: PreparedAction, scope: Scope, record_outcome: bool) -> Self {
        let state = State::Authorizing(Box::new(engine.authorize(prepared, scope.clone())));
        Self { engine, scope, record_outcome, state }
    }

    /// Spends the permit, once, for what the action is given.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Internal`] if the action may not run, or has begun before. Nothing may run then.
    pub fn begin(&mut self) -> Result<ExecutionContext, Error> {
        let (context, settlement) = self.permit()?.spend();
        self.state = State::Running(settlement);
        Ok(context)
    }

    /// Rules again, because the arguments are no longer those that were judged: see
    /// [`Permit::arguments_changed`](crate::Permit::arguments_changed).
    ///
    /// # Errors
    ///
    /// As [`GuardSession::begin`].
    pub fn arguments_changed(&mut self) -> Result<Stage, Error> {
        let verdict = self.permit()?.arguments_changed();
        Ok(self.ruled(verdict))
    }

    /// Takes in how the action ended; `response` is what it returned, if that is JSON.
    ///
    /// If outcomes are recorded, this sends an event; of an action that was stopped, for one second at most. An event that
    /// cannot be sent is part of the report.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Internal`] if the action does not run.
    pub fn finish(
        &mut self,
        ended: Ended,
        response: Option<&Json>,
        clock: &dyn Clock,
    ) -> Result<Step<Stage>, Error> {
        let settlement = match std::mem::replace(&mut self.state, State::Ended) {
            State::Running(settlement) => settlement,
            state
            @ (State::Authorizing(_) | State::Permitted(_) | State::Recording { .. } | State::Ended) => {
                self.state = state;
                return Err(Error::new(ErrorKind::Internal, "the action does not run"));
            }
        };
        if !self.record_outcome {
            return Ok(Step::Ended(Stage::Done(Report { settlement, recorded: None })));
        }
        let scope = match ended {
            Ended::Cancelled | Ended::Suspended => self.engine.stopped(self.scope.clone()),
            Ended::Failed | Ended::Returned => Ok(self.scope.clone()),
        };
        let event = settlement.evidence_of(ended, response);
        let recording = scope.and_then(|scope| self.engine.recording(&event, scope));
        Ok(match recording {
            Ok(call) => self.record(Box::new(call), settlement, Event::Started, clock),
            Err(error) => Step::Ended(Stage::Done(Report { settlement, recorded: Some(Err(error)) })),
        })
    }

    fn record(
        &mut self,
        mut call: Box<Call<Reply<RecordedEvidence>>>,
        settlement: Settlement,
        event: Event,
        clock: &dyn Clock,
    ) -> Step<Stage> {
        match call.step(event, clock).into_end() {
            Ok(recorded) => Step::Ended(Stage::Done(Report { settlement, recorded: Some(recorded) })),
            Err(step) => {
                self.state = State::Recording { call, settlement };
                step
            }
        }
    }

    fn ruled(&mut self, verdict: Verdict) -> Stage {
        match verdict {
            Verdict::Blocked(blocked) => Stage::Blocked(blocked),
            Verdict::Proceed(permit) => {
                self.state = State::Permitted(permit);
                Stage::Ready
            }
        }
    }

    /// The permit, if it is there to be spent. A call of the host out of turn changes nothing.
    fn permit(&mut self) -> Result<Permit, Error> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Permitted(permit) => Ok(permit),
            state @ (State::Authorizing(_) | State::Running(_) | State::Recording { .. } | State::Ended) => {
                self.state = state;
                Err(Error::new(ErrorKind::Internal, "the action has no permit, or has begun"))
            }
        }
    }
}

impl Machine for GuardSession {
    type Output = Stage;

    fn step(&mut self, event: Event, clock: &dyn Clock) -> Step<Stage> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Authorizing(mut authorization) => match authorization.step(event, clock).into_end() {
                Ok(verdict) => Step::Ended(self.ruled(verdict)),
                Err(step) => {
                    self.state = State::Authorizing(authorization);
                    step
                }
            },
            State::Recording { call, settlement } => self.record(call, settlement, event, clock),
            // An event out of turn voids the permit: nothing runs twice.
            State::Permitted(_) => Step::Ended(Stage::Blocked(Blocked::of(unexpected()))),
            State::Running(settlement) => Step::Ended(Stage::Done(Report { settlement, recorded: None })),
            State::Ended => Step::Ended(Stage::Blocked(Blocked::of(unexpected()))),
        }
    }
}
