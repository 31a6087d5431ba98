//! Decisions: from a checked request and a policy to an answer and the event that records it.
//!
//! [`decide`] is a function of its input; only the ids of the event and of an approval request that it opens are new each
//! time. A request with what is known about it is a `Case` (`case.rs`). Its `Ruling` (`ruling.rs`) is what enforce decides, a
//! closed list; `explain.rs` says why in words, and `answer.rs` writes it down.

mod answer;
mod case;
mod context;
mod explain;
mod ruling;

use bytes::Bytes;

pub use self::answer::mark_replayed;
use self::case::Case;
pub use self::context::{DecisionContext, ManifestState, PresentedPassport, ToolCredential};
pub use self::ruling::MANIFEST_CHANGED;
use crate::auth::Key;
use crate::request::Preflight;
use crate::store::{Considered, CredentialPin, DecisionRecord, Fallback, Idempotency};

/// A decision that was made, and may be answered once its event is durable.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The answer's body, without the credential that it may be sent with.
    pub answer: Bytes,
    /// Whether it is an `allow`, if nothing that it uses up is refused.
    pub allows: bool,
    /// Whether the tool's credential goes out with it.
    pub hands_out: bool,
    /// What must be recorded before.
    pub record: DecisionRecord,
}

impl Decided {
    /// The hash of the action for which it opens an approval request.
    pub fn opens(&self) -> Option<&str> {
        self.record.opens.as_ref().map(|opening| &*opening.approval.action_hash)
    }
}

/// Decides about `request`, by what is known beside it.
pub fn decide(key: &Key, request: &Preflight, context: &DecisionContext) -> Decided {
    let case = Case::new(key, request, context);
    let judgement = case.judge();
    let repeats = context.earlier.as_ref().and_then(|earlier| case.repeats(earlier));
    let holds_until = match &repeats {
        Some((_, holds_until)) => *holds_until,
        None => judgement.holds_until,
    };
    let allows = judgement.ruling.allows();
    let hands_out = case.hands_out(&judgement.ruling);
    let Fallback { event, answer } = case.record(&judgement.ruling);
    let idempotency = request.idempotency.as_ref().map(|key| Idempotency {
        key: key.name.clone(),
        fingerprint: key.fingerprint,
        answer: answer.clone(),
        allows,
        keep_seconds: context.keep_seconds,
        earlier: context
            .earlier
            .as_ref()
            .map(|earlier| Considered { seq: earlier.seq, repeats: repeats.map(|(basis, _)| basis) }),
    });
    // What is handed out, or not, must be the tool's when it is recorded.
    let credential = allows.then(|| CredentialPin {
        tool_id: request.tool.as_str().to_owned(),
        credential_id: context.credential.as_ref().map(|credential| credential.id.clone()),
    });
    let (uses, opens, manifest) = (judgement.uses, judgement.opens, context.manifest_pin.clone());
    let record = DecisionRecord { event, idempotency, uses, credential, manifest, holds_until, opens };
    Decided { answer, allows, hands_out, record }
}
