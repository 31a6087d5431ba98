//! The calls of this instance, by the numbers of the TypeScript layer.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::Arc;

use actpass_core::{ActionEnd, Error, ErrorKind, Recording};
use actpass_node_text::call::{self, CallOutput, CallResult, CompletionKind};
use actpass_node_text::error::describe;
use actpass_node_text::{guard, log};
use actpass_session::{CallLog, GuardSession};

use crate::executor;
use crate::host::HostClock;

/// The state of a call.
enum Stage {
    /// The number of its task.
    Asking(u64),
    /// Permitted or running.
    Permitted(GuardSession),
    /// Ended, to be recorded.
    Ended(Recording),
}

/// A completed call.
pub(crate) struct Completion {
    pub(crate) id: u64,
    pub(crate) kind: CompletionKind,
    pub(crate) text: String,
    /// Log lines as JSON text, or empty.
    pub(crate) lines: String,
}

thread_local! {
    static CALLS: RefCell<HashMap<u64, Stage>> = RefCell::default();
    static COMPLETED: RefCell<VecDeque<(u64, CallResult, String)>> = RefCell::default();
}

/// Starts `call`, which completes under the number `id`.
pub(crate) fn start(
    id: u64,
    log: Option<Arc<CallLog>>,
    call: impl Future<Output = CallResult> + Send + 'static,
) {
    let call = CallLog::instrument(log.clone(), call);
    let task = executor::spawn(async move {
        let ended = call.await;
        let lines = log.as_deref().map(log::take).unwrap_or_default();
        push(id, ended, lines);
    });
    CALLS.with_borrow_mut(|calls| calls.insert(id, Stage::Asking(task)));
}

/// Cancels a call: a request in flight is aborted, and its permit is void.
pub(crate) fn cancel(id: u64) {
    match CALLS.with_borrow_mut(|calls| calls.remove(&id)) {
        Some(Stage::Asking(task)) => executor::cancel(task),
        Some(Stage::Permitted(_) | Stage::Ended(_)) | None => {}
    }
}

/// Takes the next completed call.
pub(crate) fn next() -> Option<Completion> {
    while let Some((id, ended, lines)) = COMPLETED.with_borrow_mut(VecDeque::pop_front) {
        let is_known = CALLS.with_borrow(|calls| calls.contains_key(&id));
        // A cancelled call has no state; its permit is dropped here.
        if !is_known {
            continue;
        }
        let (kind, text) = match ended {
            Ok(CallOutput::Halted) => {
                return Some(Completion { id, kind: CompletionKind::Halted, text: String::new(), lines });
            }
            Err(error) => (CompletionKind::Failed, describe(&error)),
            Ok(CallOutput::Text(text)) => (CompletionKind::Answered, text),
            Ok(CallOutput::Verdict(Err(blocked))) => (CompletionKind::Answered, guard::report(&blocked)),
            Ok(CallOutput::Verdict(Ok(session))) => {
                let decision = session.decision().map(|decision| decision.as_json().to_owned());
                CALLS.with_borrow_mut(|calls| calls.insert(id, Stage::Permitted(session)));
                let (kind, text) = (CompletionKind::Permitted, decision.unwrap_or_default());
                return Some(Completion { id, kind, text, lines });
            }
        };
        drop(CALLS.with_borrow_mut(|calls| calls.remove(&id)));
        return Some(Completion { id, kind, text, lines });
    }
    None
}

/// Spends the permit of a call. Returns the JSON text of the action's context, or of the block.
pub(crate) fn begin(id: u64, now: Option<String>) -> Result<String, Error> {
    let (halt, text) = session(id, |session| guard::begin(session, now, &HostClock))?;
    match halt {
        Some(halt) => halt.on_halt(move || push(id, Ok(CallOutput::Halted), String::new())),
        None => drop(CALLS.with_borrow_mut(|calls| calls.remove(&id))),
    }
    Ok(text)
}

/// Settles a permitted action.
pub(crate) fn finish(id: u64, ended: ActionEnd, response: Option<&str>) -> Result<String, Error> {
    let (settled, recording) = session(id, |session| call::finish(session, ended, response))?;
    let stage = CALLS.with_borrow_mut(|calls| match recording {
        Some(recording) => calls.insert(id, Stage::Ended(recording)),
        None => calls.remove(&id),
    });
    drop(stage);
    Ok(settled)
}

/// Takes the recording of the action of a call.
pub(crate) fn recording(id: i64) -> Result<Recording, Error> {
    let stage = u64::try_from(id).ok().and_then(|id| CALLS.with_borrow_mut(|calls| calls.remove(&id)));
    match stage {
        Some(Stage::Ended(recording)) => Ok(recording),
        Some(Stage::Asking(_) | Stage::Permitted(_)) | None => {
            Err(Error::new(ErrorKind::Internal, "the call has nothing to record"))
        }
    }
}

fn session<R>(id: u64, body: impl FnOnce(&GuardSession) -> Result<R, Error>) -> Result<R, Error> {
    // Taken out while it is used: its callbacks may look at the calls.
    let Some(stage) = CALLS.with_borrow_mut(|calls| calls.remove(&id)) else {
        return Err(Error::argument("permit", "already finished"));
    };
    let result = match &stage {
        Stage::Permitted(session) => body(session),
        Stage::Asking(_) | Stage::Ended(_) => Err(Error::argument("permit", "already finished")),
    };
    CALLS.with_borrow_mut(|calls| calls.insert(id, stage));
    result
}

fn push(id: u64, ended: CallResult, lines: String) {
    COMPLETED.with_borrow_mut(|completed| completed.push_back((id, ended, lines)));
}
