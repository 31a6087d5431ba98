//! What a worker asks about: the same series in each language, so that the judge knows every request from its id alone.

use actpass_core::{Json, hash_payload};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Result;

/// The agent of all workers, and their goal.
pub const AGENT: &str = "soak";
/// The tool of all workers; the refund policy decides about it by the amount.
pub const TOOL: &str = "stripe.refund.create";
/// The key of all workers: the agent's of a gateway for tests.
pub const KEY: &str = "apk_dev";
/// What the policy allows at most.
pub const MOST_ALLOWED: i64 = 10_000;

/// Allowed twice, then one for a person, then one that is denied. One bit makes 10000 of 90000, which is allowed.
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

/// The modes that workers call in.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Runs what is allowed.
    Enforce,
    /// Runs always.
    Monitor,
    /// Runs what is allowed, recorded and bound to the request.
    Strict,
}

impl Mode {
    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Monitor => "monitor",
            Self::Strict => "strict",
        }
    }
}

/// Call number `number` of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// In cents.
    pub amount: i64,
    /// The mode of the call.
    pub mode: Mode,
    /// Whether the action ends with an error of its own, once it runs.
    pub fails: bool,
    /// Whether the call is made [`REPEATS`] more times over TLS: by the same client, and by one of its own.
    pub repeats: bool,
}

/// How often a call that repeats is made again.
pub const REPEATS: usize = 2;

impl Call {
    /// The call of this number.
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

    /// The call that `id` names: a series, a dash and a number. `None` if it names none.
    pub fn named(id: &str) -> Option<(&str, Self)> {
        let (series, number) = id.rsplit_once('-')?;
        Some((series, Self::numbered(number.parse().ok()?)))
    }

    /// The hash of the request that a client sends for this call under `id`.
    ///
    /// # Errors
    ///
    /// If it has none, which cannot be.
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

/// The resource of the call `id`.
pub fn resource(id: &str) -> String {
    format!("soak:{id}")
}

/// A line of a worker's journal.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Line {
    /// What a guard reported.
    Call(Reported),
    /// Written by the action itself while it ran.
    Ran(Ran),
}

/// The action ran.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Ran {
    /// The call.
    pub id: String,
    /// The `evidence_event_id` of the decision that it was given.
    pub evidence: Option<String>,
    /// The `request_hash` of that decision.
    pub hash: Option<String>,
}

/// A guard's outcome.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Reported {
    /// The call.
    pub id: String,
    /// Which gateway was asked.
    pub gateway: String,
    /// Whether the action ran.
    pub executed: bool,
    /// The decision's word.
    pub word: String,
    /// The decision's reason.
    pub reason: Option<String>,
    /// The kind of the error: `action`, or how the gate failed.
    pub kind: Option<String>,
    /// The decision's `evidence_event_id`.
    pub evidence: Option<String>,
    /// The decision's `request_hash`.
    pub hash: Option<String>,
}

/// What a worker is told when it starts.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct WorkerConfig {
    /// The file to append to.
    pub journal: String,
    /// The gateways to ask.
    pub gateways: Vec<Endpoint>,
    /// How many calls at once, for each client.
    pub tasks: usize,
    /// The mean pause between two calls of a task, in milliseconds.
    pub pause_ms: u64,
    /// The deadline of a call, in milliseconds.
    pub timeout_ms: u64,
    /// Each so many calls one is made with a client of its own, which is closed after it.
    pub fresh_client_each: u64,
}

/// A gateway as its clients see it: through the proxy.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// The authority of its certificate, in PEM.
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
