//! One guarded action, from the question to the report, for bindings.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use actpass_core::engine::{self, Begun, Stage};
use actpass_core::{
    ActPass, Action, ActionEnd, Blocked, Decision, Error, Json, PreparedAction, Recording, Settlement,
    TokioClock,
};

use crate::test_hooks;

/// An action that may run, once. Between [`authorize`](GuardSession::authorize) and [`finish`](GuardSession::finish) the host
/// language runs its function, on whatever thread it wants.
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
    /// The process that asked.
    process: u32,
    session: Mutex<engine::GuardSession>,
}

impl GuardSession {
    /// Asks whether the action may run, and rules on the answer. It cannot fail: a gate that fails is a block, or, in
    /// `monitor`, a session.
    ///
    /// # Errors
    ///
    /// What blocked the action.
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

    /// Rules on an action about which the gateway could not be asked, because the call panicked, was dropped, or had no
    /// thread: see [`Verdict::for_failure`](actpass_core::Verdict::for_failure).
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
            Stage::Ready => Ok(Self { process: std::process::id(), session: Mutex::new(session) }),
        }
    }

    /// The decision under which the action may run; `None` once it has begun.
    pub fn decision(&self) -> Option<Decision> {
        self.with(|session| session.decision().cloned())
    }

    /// Spends the permit, once, for what the function is given. `now` is the action as it is about to run, if that can differ
    /// from what was judged: then a difference blocks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`](actpass_core::ErrorKind::Argument) if it has begun before, or in a process that was forked from
    /// the one that asked, which may spend the same permit. Nothing may run then.
    pub fn begin(&self, now: Option<&Action>) -> Result<Begun, Error> {
        if self.process != std::process::id() {
            let problem = "expected the process that asked, found one that was forked since";
            return Err(Error::argument("permit", problem));
        }
        self.with(|session| session.begin(now, &TokioClock))
    }

    /// Takes in how the function ended; `response` is what it returned, if that is JSON. Gives what makes the report, and what
    /// is to be recorded, if outcomes are.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`](actpass_core::ErrorKind::Argument) if it has not begun, or its end was reported before.
    pub fn finish(
        &self,
        ended: ActionEnd,
        response: Option<&Json>,
    ) -> Result<(Settlement, Option<Recording>), Error> {
        self.with(|session| session.finish(ended, response))
    }

    /// Whether the end of the action is to be recorded, so that a host need not convert a result that nobody reads.
    pub fn records_outcome(&self) -> bool {
        self.with(|session| session.records_outcome())
    }

    fn with<T>(&self, body: impl FnOnce(&mut engine::GuardSession) -> T) -> T {
        body(&mut self.session.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for GuardSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardSession").finish_non_exhaustive()
    }
}
