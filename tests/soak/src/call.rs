//! The calls of a worker. All languages use the same series, so that every request can be derived
//! from its id.

use actpass_core::{Json, hash_payload};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Result;

/// Agent and goal of all workers.
pub const AGENT: &str = "soak";
/// Tool of all workers; the refund policy decides by amount.
pub const TOOL: &str = "stripe.refund.create";
/// API key of all workers: the agent key of a dev gateway.
pub const KEY: &str = "apk_dev";
/// The largest amount that the policy allows.
pub const MOST_ALLOWED: i64 = 10_000;

/// Amounts: allowed, allowed, needs approval, denied. One flipped bit turns 90000 into the allowed
/// 10000.
const AMOUNTS: [i64; 4] = [4900, 4900, 25_000, 90_000];
const MODES: [Mode; 8] = [
    Mode::Enforce,
    Mode::Enforce,
    Mode::Strict,
    Mode::Enforce,
    Mode::Monitor,
    Mode::Strict,
    Mode::Enforce,
    Mode::Enforce,
];

/// The modes that workers use.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Runs if allowed.
    Enforce,
    /// Always runs.
    Monitor,
    /// Runs if allowed, recorded and bound to the request.
    Strict,
}

impl Mode {
    /// The word used on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Monitor => "monitor",
            Self::Strict => "strict",
        }
    }
}

/// A call of a series, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Amount in cents.
    pub amount: i64,
    /// Mode of the call.
    pub mode: Mode,
    /// Whether the action fails with its own error.
    pub fails: bool,
    /// Whether the call is repeated [`REPEATS`] times over TLS, by the same client and by a new
    /// one.
    pub repeats: bool,
}

/// Number of repetitions of a repeated call.
pub const REPEATS: usize = 2;

impl Call {
    /// Returns the call with this number.
    pub fn numbered(number: u64) -> Self {
        let at = |length: usize, number: u64| usize::try_from(number % length as u64).unwrap_or_default();
        let mode = MODES.get(at(MODES.len(), number / 4)).copied().unwrap_or(Mode::Enforce);
        Self {
            amount: AMOUNTS.get(at(AMOUNTS.len(), number)).copied().unwrap_or_default(),
            mode,
            fails: number % 16 == 8,
            repeats: [1, 7].contains(&(number % 8)) && mode != Mode::Monitor,
        }
    }

    /// Parses an id: series, dash, number; `None` if invalid.
    pub fn named(id: &str) -> Option<(&str, Self)> {
        let (series, number) = id.rsplit_once('-')?;
        Some((series, Self::numbered(number.parse().ok()?)))
    }

    /// Returns the hash of the request that a client sends for this call under `id`.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no canonical form, which is impossible here.
    pub fn request_hash(self, id: &str) -> Result<String> {
        let body = json!({
            "agent_id": AGENT,
            "goal": AGENT,
            "tool": TOOL,
            "resource": resource(id),
            "args": {"amount": self.amount, "currency": "usd"},
            "user_id": null,
            "passport": null,
            "mode": self.mode.as_str(),
            "idempotency_key": id,
            "audience": null,
        });
        Ok(hash_payload(&Json::from(body))?)
    }
}

/// Returns the resource of the call `id`.
pub fn resource(id: &str) -> String {
    format!("soak:{id}")
}

/// A line of a worker's journal.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Line {
    /// The outcome that a guard reported.
    Call(Reported),
    /// Written by the action while it ran.
    Ran(Ran),
}

/// An executed action.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Ran {
    /// Id of the call.
    pub id: String,
    /// The `evidence_event_id` passed to the action.
    pub evidence: Option<String>,
    /// The `request_hash` of the decision.
    pub hash: Option<String>,
}

/// A guard's outcome.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Reported {
    /// Id of the call.
    pub id: String,
    /// The called gateway.
    pub gateway: String,
    /// Whether the action ran.
    pub executed: bool,
    /// The decision word.
    pub word: String,
    /// The reason code.
    pub reason: Option<String>,
    /// Kind of the error: `action`, or the failure of the gate.
    pub kind: Option<String>,
    /// The decision's `evidence_event_id`.
    pub evidence: Option<String>,
    /// The decision's `request_hash`.
    pub hash: Option<String>,
}

/// Configuration of a worker.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct WorkerConfig {
    /// Journal to append to.
    pub journal: String,
    /// The gateways to call.
    pub gateways: Vec<Endpoint>,
    /// Concurrent calls per client.
    pub tasks: usize,
    /// Mean pause between calls of a task, in milliseconds.
    pub pause_ms: u64,
    /// Timeout of a call, in milliseconds.
    pub timeout_ms: u64,
    /// After this many calls, one is made with a new client that is closed afterwards.
    pub fresh_client_each: u64,
}

/// A gateway as seen by clients, through the proxy.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Its name.
    pub name: String,
    /// Its URL.
    pub url: String,
    /// Its CA certificate, in PEM.
    pub ca: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_cover_every_mode_and_decision() {
        let calls: Vec<_> = (0..32).map(Call::numbered).collect();
        for mode in [Mode::Enforce, Mode::Monitor, Mode::Strict] {
            for amount in AMOUNTS {
                assert!(
                    calls.iter().any(|call| call.mode == mode && call.amount == amount),
                    "{mode:?} {amount}"
                );
            }
        }
        assert!(calls.iter().any(|call| call.fails && call.amount <= MOST_ALLOWED));
        let repeated = |mode, amount| {
            calls.iter().any(|call| call.repeats && (call.mode, call.amount) == (mode, amount))
        };
        assert!(
            repeated(Mode::Enforce, 4900) && repeated(Mode::Strict, 4900) && repeated(Mode::Enforce, 90_000)
        );
        assert_eq!(Call::named("python-async-7"), Some(("python-async", Call::numbered(7))));
        assert_eq!(Call::named("7"), None);
    }

    #[test]
    fn journal_round_trips() {
        let line = r#"{"ran": {"id": "node-1", "evidence": "ev_1", "hash": null}}"#;
        let ran = Ran { id: "node-1".to_owned(), evidence: Some("ev_1".to_owned()), hash: None };
        assert_eq!(serde_json::from_str::<Line>(line).unwrap(), Line::Ran(ran));
    }
}
