//! The output of a call.

use actpass_core::{Action, ActionEnd, Blocked, Error};
use actpass_session::GuardSession;

use crate::convert::InputObject;
use crate::guard;

/// The output of a call.
pub enum CallOutput {
    /// The JSON text of the gateway's response.
    Text(String),
    /// The verdict of a guard.
    Verdict(Result<GuardSession, Box<Blocked>>),
    /// The action of the call was stopped while its function runs.
    Halted,
}

/// The result of a call.
pub type CallResult = Result<CallOutput, Error>;

/// The completion of a call, as the TypeScript layer numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletionKind {
    /// With its output: the gateway's response, or the outcome of a blocked guard.
    Answered = 0,
    /// With an error.
    Failed = 1,
    /// With permission to run the action.
    Permitted = 2,
    /// Not completed: its running action was stopped.
    Halted = 3,
}

/// A conversion of the input of a guard.
pub type Guarded = fn(&InputObject) -> Result<Action, Error>;

/// Settles a permitted action. `response` is the JSON text of its result, if it is recorded. Returns
/// the native part of the outcome and the recording, if outcomes are recorded.
///
/// # Errors
///
/// As [`GuardSession::finish`].
pub fn finish(
    session: &GuardSession,
    ended: ActionEnd,
    response: Option<&str>,
) -> Result<(String, Option<actpass_core::Recording>), Error> {
    let response = response.and_then(|text| actpass_core::Json::parse(text.as_bytes()).ok());
    let (settlement, recording) = session.finish(ended, response.as_ref())?;
    Ok((guard::settled(settlement, ended == ActionEnd::Returned), recording))
}
