//! Approvals that a person's passkey must have signed.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use actpass_protocol::signed_approval::{ApprovalKeys, MEMBER, SignatureError};
use actpass_protocol::token::{Claims, PassportError};
use actpass_protocol::{DecisionWord, Json, hash_payload};

use crate::error::Error;

/// The reason code of an action that a person approved.
const APPROVED: &str = "approval.approved";
/// The members of a request that an approval is bound to.
const ACTION: [&str; 6] = ["agent_id", "args", "goal", "resource", "tool", "user_id"];
/// The tolerated clock difference, in seconds.
const LEEWAY: i64 = 10;
/// The maximum number of remembered signatures. Beyond it, signatures are refused.
const MAX_USED: usize = 1 << 16;

/// Why an approved action is not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsigned {
    /// The response has no signature.
    Missing,
    /// The signatures approve nothing; the reason of the last one.
    Invalid(SignatureError),
}

impl fmt::Display for Unsigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("no passkey has signed it"),
            Self::Invalid(error) => write!(f, "the signature {error}"),
        }
    }
}

/// Verifies the signatures of approvals. A signature is used once.
#[derive(Debug)]
pub(crate) struct ApprovalVerifier {
    keys: ApprovalKeys,
    /// The challenges that were used, with the time until which they are valid.
    used: Mutex<HashMap<String, i64>>,
}

impl ApprovalVerifier {
    /// Parses the setting `approval_keys`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config), naming the member.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let keys = ApprovalKeys::parse(text).map_err(|problem| Error::config("approval_keys", problem))?;
        Ok(Self { keys, used: Mutex::default() })
    }

    /// Returns why a decision about `request`, the body of a preflight, permits nothing. Other
    /// decisions than those of an approved action, or of a tool that needs a signature, pass.
    /// `member` reads a member of the decision.
    pub(crate) fn check(
        &self,
        word: &DecisionWord,
        member: impl Fn(&str) -> Option<Json>,
        tool: &str,
        request: &[u8],
        now: SystemTime,
    ) -> Option<Unsigned> {
        let signatures = member(MEMBER).filter(|signatures| *signatures != Json::Null);
        let is_approved = signatures.is_some()
            || member("reason_code").is_some_and(|reason| reason.as_str() == Some(APPROVED));
        let runs = matches!(word, DecisionWord::Allow | DecisionWord::Warn);
        if !runs || !(self.keys.covers(tool) || is_approved) {
            return None;
        }
        let Some(signatures) = signatures else { return Some(Unsigned::Missing) };
        let now = seconds(now);
        let verified = action_hash(request)
            .ok_or(SignatureError::Action)
            .and_then(|hash| self.keys.verify_all(&signatures, &hash, now.saturating_sub(LEEWAY)));
        let signed = match verified {
            Ok(signed) => signed,
            Err(error) => return Some(Unsigned::Invalid(error)),
        };
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, until| *until > now.saturating_sub(LEEWAY));
        let challenges: Vec<_> =
            signed.iter().map(|signed| (signed.statement.challenge(), signed.statement.expires_at)).collect();
        let is_used = challenges.iter().any(|(challenge, _)| used.contains_key(challenge));
        if is_used || used.len() + challenges.len() > MAX_USED {
            return Some(Unsigned::Invalid(SignatureError::Replayed));
        }
        used.extend(challenges);
        None
    }

    /// Rejects a passport that stands for an approval which no trusted passkey has signed. A passport
    /// is used once, so its signatures are not remembered.
    pub(crate) fn check_passport(&self, claims: &Claims, now: SystemTime) -> Result<(), PassportError> {
        let Some(hash) = claims.approval_hash() else { return Ok(()) };
        let signatures = claims.as_json().member(MEMBER).unwrap_or(&Json::Null);
        let verified = self.keys.verify_all(signatures, hash, seconds(now).saturating_sub(LEEWAY));
        verified.map(drop).map_err(|_| PassportError::ApprovalSignature)
    }
}

/// The hash of the action in the body of a preflight.
fn action_hash(request: &[u8]) -> Option<String> {
    let request = Json::parse(request).ok()?;
    let member = |name: &str| (name.to_owned(), request.member(name).cloned().unwrap_or(Json::Null));
    hash_payload(&Json::Object(ACTION.map(member).into())).ok()
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
