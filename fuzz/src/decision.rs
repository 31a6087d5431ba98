//! The guard, given responses of any status and body.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use actpass_core::transport::FixedResponse;
use actpass_core::{ActPass, Action, Decision, Mode, Outcome};
use serde_json::Value;

const MODES: [Mode; 4] = [Mode::Enforce, Mode::Strict, Mode::Warn, Mode::Monitor];
const STATUSES: [u16; 16] = [200, 200, 200, 200, 200, 201, 204, 299, 300, 302, 401, 403, 403, 429, 500, 503];

/// The first byte selects mode and status, the rest is the body.
pub(crate) fn run(data: &[u8]) {
    let Some((choice, body)) = data.split_first() else { return };
    let (mode, status) = (MODES[usize::from(choice & 3)], STATUSES[usize::from(choice >> 4)]);

    let parsed = Decision::parse(body);
    if let Ok(decision) = &parsed {
        let again = Decision::parse(decision.as_json().as_bytes()).expect("a parsed decision parses again");
        assert_eq!(&again, decision);
        assert_eq!(decision.member("credential"), None);
    }

    let client = ActPass::builder()
        .api_key("apk_fuzz_secret")
        .max_retries(0)
        .transport(FixedResponse::new(status, body))
        .build()
        .unwrap();
    let runs = AtomicUsize::new(0);
    let action = Action::new("fuzz", "fuzz.tool").mode(mode);
    let outcome = crate::block_on(client.guard(&action, async |context| {
        runs.fetch_add(1, Ordering::SeqCst);
        if let Some(credential) = context.credential() {
            assert!(!context.decision().as_json().contains(r#""credential""#));
            assert!(
                parsed.is_ok()
                    && !format!("{context:?}").contains(&format!("{:?}", credential.token().repeat(9)))
            );
        }
        Ok::<(), ()>(())
    }))
    .unwrap();
    let runs = runs.into_inner();
    assert_eq!(runs, usize::from(outcome.executed()));
    if serde_json::from_slice::<Value>(body)
        .is_ok_and(|answer| answer["replay_age_ms"].as_f64() >= Some(2e19))
    {
        return; // serde_json does not distinguish integers from fractions here.
    }
    // serde_json accepts duplicate keys, but nothing that is not JSON may run anything.
    let word = serde_json::from_slice::<Value>(body).ok().and_then(|answer| {
        let answer = answer.as_object()?;
        let bound = answer.get("request_hash").is_none_or(Value::is_null);
        // A fixed response loses no attempt, so a replay never belongs to this call.
        let first = matches!(answer.get("replayed"), None | Some(Value::Null | Value::Bool(false)));
        let aged = answer.get("replay_age_ms").is_none_or(|age| age.is_null() || age.is_u64());
        let epoch = answer
            .get("halt_epoch")
            .is_none_or(|epoch| epoch.is_null() || epoch.as_u64().is_some_and(|epoch| epoch < 1 << 53));
        (bound && first && aged && epoch)
            .then(|| answer.get("decision").and_then(Value::as_str).map(str::to_owned))?
    });
    let may = match (mode, word.as_deref()) {
        (Mode::Monitor, _) => true,
        // A fixed response cannot contain the request's hash.
        (Mode::Strict, _) => false,
        (_, Some("allow")) => (200..300).contains(&status),
        (Mode::Warn, Some("warn")) => (200..300).contains(&status),
        _ => false,
    };
    assert!(runs == 0 || may, "it ran in {mode} on {status}");
    // A permit ends with its credential, and random digits make `expires_at` a time of the past.
    let expired = matches!(&outcome, Outcome::Blocked(blocked)
        if blocked.decision().reason_code() == "actpass.permit_expired")
        && serde_json::from_slice::<Value>(body)
            .is_ok_and(|answer| answer["credential"]["expires_at"].is_string());
    assert_eq!(
        runs == 1,
        mode == Mode::Monitor || (may && parsed.is_ok() && !expired),
        "{mode}, {status}: {outcome:?}"
    );
    drop(outcome.canonical());
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    static BODIES: LazyLock<Vec<String>> = LazyLock::new(|| {
        let mut bodies = Vec::new();
        for area in ["failures", "halts", "replays", "table", "retries"] {
            for path in crate::files(&format!("tests/vectors/{area}"), "json") {
                let vector: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
                for step in vector["gateway"]["steps"].as_array().into_iter().flatten() {
                    bodies.extend(step.get("json").map(ToString::to_string));
                    bodies.extend(step.get("body").and_then(Value::as_str).map(str::to_owned));
                }
            }
        }
        bodies.retain(|body| body.len() < 4096);
        bodies.sort();
        bodies.dedup();
        bodies
    });
    let choices = [0_u8, 1, 2, 3, 0xa0, 0xe2];
    BODIES
        .iter()
        .zip(choices.iter().cycle())
        .map(|(body, choice)| [&[*choice], body.as_bytes()].concat())
        .collect()
}
