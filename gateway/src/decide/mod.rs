//! Decisions: from a checked request and a policy to an answer and the event that records it.
//!
//! [`decide`] is a function of its input; only the ids of the event and of an approval request that it opens are new each
//! time. A request with what is known about it is a `Case` (`case.rs`). Its `Ruling` (`ruling.rs`) is what enforce decides, a
//! closed list; `explain.rs` says why in words, and `response.rs` writes it down.

mod case;
mod context;
mod explain;
mod response;
mod ruling;

use bytes::Bytes;

use self::case::Case;
pub use self::context::{DecisionContext, ManifestState, PresentedPassport, ToolCredential};
pub use self::response::mark_replayed;
pub use self::ruling::MANIFEST_CHANGED;
use crate::auth::ApiKey;
use crate::request::Preflight;
use crate::store::{CredentialPin, DecisionRecord, Fallback, Idempotency, SeenResponse};

/// A decision that was made, and may be answered once its event is durable.
#[derive(Clone, Debug)]
pub struct DecisionResult {
    /// The answer's body, without the credential that it may be sent with.
    pub response: Bytes,
    /// Whether it is an `allow`, if nothing that it uses up is refused.
    pub allows: bool,
    /// Whether the tool's credential goes out with it.
    pub returns_credential: bool,
    /// What must be recorded before.
    pub record: DecisionRecord,
}

impl DecisionResult {
    /// The hash of the action for which it opens an approval request.
    pub fn opens(&self) -> Option<&str> {
        self.record.opens.as_ref().map(|opening| &*opening.approval.action_hash)
    }
}

/// Decides about `request`, by what is known beside it.
pub fn decide(key: &ApiKey, request: &Preflight, context: &DecisionContext) -> DecisionResult {
    let case = Case::new(key, request, context);
    let judgement = case.judge();
    let replay_basis = context.earlier.as_ref().and_then(|earlier| case.replay_basis(earlier));
    let holds_until = match &replay_basis {
        Some((_, holds_until)) => *holds_until,
        None => judgement.holds_until,
    };
    let allows = judgement.ruling.allows();
    let returns_credential = case.returns_credential(&judgement.ruling);
    let Fallback { event, response } = case.record(&judgement.ruling);
    let idempotency = request.idempotency.as_ref().map(|key| Idempotency {
        key: key.name.clone(),
        fingerprint: key.fingerprint,
        response: response.clone(),
        allows,
        retention_seconds: context.retention_seconds,
        earlier: context.earlier.as_ref().map(|earlier| SeenResponse {
            seq: earlier.seq,
            replay_of: replay_basis.map(|(basis, _)| basis),
        }),
    });
    // What is handed out, or not, must be the tool's when it is recorded.
    let credential = allows.then(|| CredentialPin {
        tool_id: request.tool.as_str().to_owned(),
        credential_id: context.credential.as_ref().map(|credential| credential.id.clone()),
    });
    let (uses, opens, manifest) = (judgement.uses, judgement.opens, context.manifest_pin.clone());
    let record = DecisionRecord { event, idempotency, uses, credential, manifest, holds_until, opens };
    DecisionResult { response, allows, returns_credential, record }
}
