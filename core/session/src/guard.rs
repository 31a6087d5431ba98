//! Guard sessions for bindings: from the request to the outcome.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use actpass_core::engine::{self, Begun, Stage};
use actpass_core::{
    ActPass, Action, ActionEnd, Blocked, Clock, Decision, Error, Json, PreparedAction, Recording, Settlement,
};

use crate::test_hooks;

/// An action that may run, once. Between [`authorize`](GuardSession::authorize) and
/// [`finish`](GuardSession::finish) the binding runs the function on any thread.
///
/// ```
/// # use actpass_core::transport::FixedResponse;
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use actpass_core::engine::Begun;
/// use actpass_core::{ActPass, Action, ActionEnd};
/// use actpass_session::GuardSession;
///
/// let answer = FixedResponse::new(200, r#"{"decision": "allow"}"#);
/// let actpass = ActPass::builder().api_key("apk_dev").transport(answer).build()?;
/// let prepared = actpass.prepare(Action::new("resolve_refund_request", "stripe.refund.create"))?;
/// let Ok(session) = GuardSession::authorize(&actpass, prepared, false).await else { panic!("blocked") };
/// let Begun::Running(context) = session.begin(None)? else { panic!("blocked") };
/// assert!(session.begin(None).is_err());
/// // ... the host runs its function, with the context:
/// let (settlement, recording) = session.finish(ActionEnd::Returned, None)?;
/// assert!(settlement.settle(Ok::<_, ()>("refunded")).executed());
/// // ... outcomes are not recorded here; else `ActPass::record` records it.
/// assert!(recording.is_none());
/// # Ok::<(), actpass_core::Error>(())
/// # }).unwrap();
/// ```
pub struct GuardSession {
    /// The process that made the request.
    process: u32,
    session: Mutex<engine::GuardSession>,
}

impl GuardSession {
    /// Requests a decision and returns the session if the action may run. A failed gate blocks,
    /// except in `monitor`.
    ///
    /// # Errors
    ///
    /// The block.
    pub async fn authorize(
        actpass: &ActPass,
        prepared: PreparedAction,
        record_outcome: bool,
    ) -> Result<Self, Box<Blocked>> {
        test_hooks::before_call(prepared.tool()).await;
        let mut session = actpass.guard_session(prepared, record_outcome);
        let stage = actpass.drive(&mut session).await;
        Self::from_stage(session, stage)
    }

    /// The result for a call that failed before the request was sent, because it panicked, was
    /// dropped, or had no thread: see [`Verdict::for_failure`](actpass_core::Verdict::for_failure).
    ///
    /// # Errors
    ///
    /// As [`GuardSession::authorize`].
    pub fn for_failure(
        prepared: PreparedAction,
        failure: Error,
        record_outcome: bool,
    ) -> Result<Self, Box<Blocked>> {
        let (session, stage) = engine::GuardSession::for_failure(prepared, failure, record_outcome);
        Self::from_stage(session, stage)
    }

    fn from_stage(session: engine::GuardSession, stage: Stage) -> Result<Self, Box<Blocked>> {
        match stage {
            Stage::Blocked(blocked) => Err(Box::new(blocked)),
            Stage::Ready => Ok(Self { process: process_id(), session: Mutex::new(session) }),
        }
    }

    /// The decision that permits the action; `None` after it has begun.
    pub fn decision(&self) -> Option<Decision> {
        self.with(|session| session.decision().cloned())
    }

    /// Spends the permit, once, and returns the function's context. `now` is the action as it is
    /// about to run, if it may have changed; a difference blocks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`](actpass_core::ErrorKind::Argument) if the action has begun before,
    /// or in a forked child, because the parent may spend the same permit. The action must not run
    /// then.
    #[cfg(feature = "drivers")]
    pub fn begin(&self, now: Option<&Action>) -> Result<Begun, Error> {
        self.begin_at(now, &actpass_core::TokioClock)
    }

    /// As [`GuardSession::begin`], on the clock of the client.
    ///
    /// # Errors
    ///
    /// As [`GuardSession::begin`].
    pub fn begin_at(&self, now: Option<&Action>, clock: &dyn Clock) -> Result<Begun, Error> {
        if self.process != process_id() {
            let problem = "spent in a forked child; spend it in the process that requested it";
            return Err(Error::argument("permit", problem));
        }
        self.with(|session| session.begin(now, clock))
    }

    /// Settles the function. `response` is its result, if it is JSON. Returns the [`Settlement`]
    /// and, if outcomes are recorded, the [`Recording`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`](actpass_core::ErrorKind::Argument) if the action has not begun, or
    /// is already settled.
    pub fn finish(
        &self,
        ended: ActionEnd,
        response: Option<&Json>,
    ) -> Result<(Settlement, Option<Recording>), Error> {
        self.with(|session| session.finish(ended, response))
    }

    /// Whether the end of the action is recorded. If not, a host need not convert the result.
    pub fn records_outcome(&self) -> bool {
        self.with(|session| session.records_outcome())
    }

    fn with<T>(&self, body: impl FnOnce(&mut engine::GuardSession) -> T) -> T {
        body(&mut self.session.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The id of the process; 0 in wasm.
fn process_id() -> u32 {
    if cfg!(target_family = "wasm") { 0 } else { std::process::id() }
}

impl fmt::Debug for GuardSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardSession").finish_non_exhaustive()
    }
}
