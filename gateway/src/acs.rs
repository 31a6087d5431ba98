//! Replays and the session chain of the OWASP Agent Control Standard 0.1.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use actpass_protocol::{Json, Secret, canonical_json};
use sha2::{Digest, Sha256};

use crate::object_writer::object;

/// Maximum difference between a request's timestamp and the gateway's clock, in milliseconds.
pub(crate) const SKEW_MS: i64 = 300_000;

/// Minimum number of stored requests before expired ones are removed.
const CLEAN_FROM: usize = 4096;

/// Number of locks for session chains. Sessions may share one.
const LOCKS: usize = 64;

/// Settings of an API key for the standard.
#[derive(Clone, Debug)]
pub struct AcsSettings {
    /// The `key_id` of its signatures.
    pub key_id: String,
    /// The secret of its sessions. The keys of the sessions are derived with it.
    pub secret: Secret,
    /// Whether an action that needs an approval is answered with `ask` in place of `defer`.
    pub asks: bool,
}

/// An entry of a session's chain, before its hashes.
#[derive(Clone, Debug)]
pub(crate) struct ContextEntry<'a> {
    /// The event with the decision; otherwise the request's id.
    pub(crate) entry_id: &'a str,
    /// The request's id.
    pub(crate) step_id: &'a str,
    /// The method.
    pub(crate) step_type: &'a str,
    /// The SHA-256 of the canonical `params`.
    pub(crate) request_hash: &'a str,
    /// The request's time, as it was sent.
    pub(crate) timestamp: &'a str,
}

impl ContextEntry<'_> {
    /// Returns the entry with its hash: the SHA-256 of its canonical JSON and of the previous
    /// hash's bytes. `None` if `previous` is an invalid hash.
    pub(crate) fn seal(&self, previous: Option<&str>) -> Option<(Json, String)> {
        let text = |text: &str| Some(Json::from(text));
        let content = object([
            ("entry_id", text(self.entry_id)),
            ("request_hash", text(self.request_hash)),
            ("step_id", text(self.step_id)),
            ("step_type", text(self.step_type)),
            ("timestamp", text(self.timestamp)),
        ]);
        let hash = entry_hash(&content, previous)?;
        let Json::Object(mut members) = content else { return None };
        members.push(("previous_hash".to_owned(), previous.map_or(Json::Null, Json::from)));
        members.push(("entry_hash".to_owned(), Json::from(&*hash)));
        Some((Json::Object(members), hash))
    }
}

fn entry_hash(content: &Json, previous: Option<&str>) -> Option<String> {
    let mut hash = Sha256::new().chain_update(canonical_json(content).ok()?);
    if let Some(previous) = previous {
        let mut bytes = [0; 32];
        hex::decode_to_slice(previous, &mut bytes).ok()?;
        hash.update(bytes);
    }
    Some(hex::encode(hash.finalize()))
}

/// The sessions of this process.
#[derive(Debug)]
pub(crate) struct Sessions {
    /// Requests that were accepted, with the time when their timestamp expires.
    seen: Mutex<HashMap<[u8; 32], i64>>,
    /// Held while an entry is appended, so that each entry follows the previous one.
    chains: [tokio::sync::Mutex<()>; LOCKS],
}

impl Default for Sessions {
    fn default() -> Self {
        Self { seen: Mutex::default(), chains: std::array::from_fn(|_| tokio::sync::Mutex::new(())) }
    }
}

impl Sessions {
    /// Stores a request until its timestamp is too old; returns whether it is new.
    pub(crate) fn is_new(&self, chain_id: &str, request_id: &str, timestamp: i64, now: i64) -> bool {
        let digest =
            Sha256::new().chain_update(chain_id).chain_update([0]).chain_update(request_id).finalize();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= CLEAN_FROM && seen.len() == seen.capacity() {
            seen.retain(|_, expires| *expires >= now);
        }
        seen.insert(digest.into(), timestamp.saturating_add(SKEW_MS)).is_none()
    }

    /// Waits for the right to append to a chain.
    pub(crate) async fn chain(&self, chain_id: &str) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let [first, ..] = <[u8; 32]>::from(Sha256::digest(chain_id));
        Some(self.chains.get(usize::from(first) % LOCKS)?.lock().await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Json {
        Json::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn entry_hash_equals_other_implementations() {
        let first = r#"{"entry_id": "1", "step_id": "0b2f6f7e-0c1d-4e5f-8a9b-1c2d3e4f5a60",
            "step_type": "steps/sessionStart", "timestamp": "2026-09-19T10:00:00Z"}"#;
        let hash = entry_hash(&parse(first), None).unwrap();
        assert_eq!(hash, "1552a42d04ec72f9c18945400488e3f50fba5b3256537db01b705eea66e30373");
        let second = r#"{"entry_id": "2", "step_id": "8d0b6b0e-4d6b-4f7a-9d1c-1f1c7f0e2a10",
            "step_type": "steps/toolCallRequest",
            "request_hash": "1f73e15e340da6bc294e18e38557aef0241921fd3985c94266e1b7416c743058",
            "timestamp": "2026-09-19T10:00:01Z", "provenance_summary": {"origins_seen": ["user_input", "tool_output"],
            "entry_count": 2, "entry_count_by_origin": {"user_input": 1, "tool_output": 1}}}"#;
        assert_eq!(
            entry_hash(&parse(second), Some(&hash)).as_deref(),
            Some("14e6d50a913e8295606bc0d86ee9cde870040e0e0a319b13ae15836128d0d111")
        );
        assert_eq!(entry_hash(&parse(second), Some("x")), None);
    }

    #[test]
    fn request_is_new_once() {
        let sessions = Sessions::default();
        assert!(sessions.is_new("a", "1", 0, 0));
        assert!(!sessions.is_new("a", "1", 1, 1));
        assert!(sessions.is_new("b", "1", 0, 0) && sessions.is_new("a", "2", 0, 0));
        for number in 0..20_000 {
            assert!(sessions.is_new("c", &number.to_string(), number, number * 1000));
        }
        // Expired requests are removed; a request of their time is refused by its timestamp.
        assert!(sessions.seen.lock().unwrap().len() < 15_000);
    }
}
