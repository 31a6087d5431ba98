//! Decisions: a checked request and a policy become a response and the event that records it.
//!
//! [`decide`] depends only on its input; only the ids of the event and of a new approval are
//! generated. A `Case` (`case.rs`) is a request with its context. Its `Ruling` (`ruling.rs`) is the
//! decision of the mode enforce, a closed enum. `explain.rs` describes it in words and
//! `response.rs` writes the response body.

mod case;
mod context;
pub(crate) mod explain;
mod response;
mod ruling;

use bytes::Bytes;

use self::case::Case;
pub use self::context::{DecisionContext, ManifestState, PresentedPassport, ToolCredential};
pub use self::response::mark_replayed;
pub use self::ruling::MANIFEST_CHANGED;
use crate::auth::ApiKey;
use crate::capture::CapturedRequest;
use crate::request::Preflight;
use crate::store::{Claims, CredentialPin, DecisionRecord, Fallback, Idempotency, SeenResponse};

/// A decision. It may be returned to the client once its event is durable.
#[derive(Clone, Debug)]
pub struct DecisionResult {
    /// The response body without the credential.
    pub response: Bytes,
    /// Whether it is an `allow`, provided that no single use is refused.
    pub allows: bool,
    /// Whether the response includes the tool's credential.
    pub returns_credential: bool,
    /// The request, if the context keeps it.
    pub request: Option<CapturedRequest>,
    /// The record to write before responding.
    pub record: DecisionRecord,
}

impl DecisionResult {
    /// The hash of the action for which it opens an approval.
    pub fn opens(&self) -> Option<&str> {
        self.record.opens.as_ref().map(|opening| &*opening.approval.action_hash)
    }
}

/// Decides `request` in the given context.
pub fn decide(key: &ApiKey, request: &Preflight, context: &DecisionContext) -> DecisionResult {
    let case = Case::new(key, request, context);
    let evaluation = case.evaluate();
    let replay_basis = context.earlier.as_ref().and_then(|earlier| case.replay_basis(earlier));
    let holds_until = match &replay_basis {
        Some((_, holds_until)) => *holds_until,
        None => evaluation.holds_until,
    };
    let allows = evaluation.ruling.allows();
    let returns_credential = case.returns_credential(&evaluation.ruling);
    let charges: Vec<_> = evaluation.claims.iter().map(|claim| claim.charge.clone()).collect();
    let Fallback { mut event, response } = case.charged_record(
        &evaluation.ruling,
        if charges.is_empty() { evaluation.exceeds.as_slice() } else { &charges },
        evaluation.opens.is_some(),
    );
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
    // The credential in the response must still be the tool's when the decision is recorded.
    let credential = allows.then(|| CredentialPin {
        tool_id: request.tool.as_str().to_owned(),
        credential_id: context.credential.as_ref().map(|credential| credential.id.clone()),
    });
    let opening = evaluation.opens.as_ref().and_then(|opens| opens.approval.opening.as_ref());
    event.metadata = opening.and_then(|opening| opening.to_metadata(&key.name));
    let (uses, opens, manifest) = (evaluation.uses, evaluation.opens, context.manifest_pin.clone());
    let budgets = (!charges.is_empty() || evaluation.exceeds.is_some()).then(|| Claims {
        claims: evaluation.claims,
        exceeds: evaluation.exceeds,
        are_recorded: case.consumes(),
        response: response.clone(),
    });
    let captured = context.keeps_request.then(|| case.captured(&evaluation.ruling));
    let history = evaluation.history;
    let record = DecisionRecord {
        event,
        halt_epoch: context.halts.epoch,
        idempotency,
        history,
        uses,
        credential,
        manifest,
        holds_until,
        opens,
        budgets,
        capture: None,
        begun: None,
    };
    DecisionResult { response, allows, returns_credential, request: captured, record }
}
