//! Coverage: the runs in a ledger and in receipts that no decision permits.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use actpass_protocol::Json;
use common::{Gateway, config_with, json, random, shipped_policy, text};

const EVENTS: &str = "/api/v1/evidence/events";

fn coverage(folder: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_actpass-gateway"));
    command.current_dir(folder).args(["evidence", "coverage", "--config", "gateway.toml", "--tenant", "one"]);
    command.args(more).stdin(Stdio::null()).output().unwrap()
}

/// The lines that name a run, without its time, and the summary.
fn listed(output: &Output) -> (Vec<String>, String) {
    let out = String::from_utf8(output.stdout.clone()).unwrap();
    let (runs, rest): (Vec<_>, Vec<_>) =
        out.lines().partition(|line| line.starts_with("outcome ") || line.starts_with("receipt "));
    let without_time = |line: &str| {
        let parts: Vec<_> = line.splitn(3, ", ").collect();
        assert!(parts[1].ends_with('Z'), "{line}");
        format!("{}, {}", parts[0], parts[2])
    };
    (runs.into_iter().map(without_time).collect(), rest.join("\n"))
}

async fn start() -> Gateway {
    let gateway = Gateway::start().await;
    let text = config_with("", &shipped_policy("dev.json"));
    std::fs::write(gateway.folder.path().join("gateway.toml"), text).unwrap();
    gateway
}

/// Requests a decision about a refund. The `amount` decides: the policy allows small ones.
async fn decide(gateway: &Gateway, amount: u64, key: &str, mode: &str) -> Json {
    let body = format!(
        r#"{{"agent_id": "sdk", "goal": "resolve_refund_request", "tool": "stripe.refund.create",
            "resource": "stripe:charge:ch_1", "args": {{"amount": {amount}, "currency": "usd"}},
            "idempotency_key": "{key}", "mode": "{mode}"}}"#
    );
    gateway.decide("apk_one", &body).await
}

/// Records an outcome, and returns its event.
async fn outcome(gateway: &Gateway, api_key: &str, hash: &str, event: Option<&str>) -> String {
    let event = event.map_or_else(|| "null".to_owned(), |event| format!("{event:?}"));
    let body = format!(
        r#"{{"event_type": "action.outcome", "chain_id": "decisions", "tool_id": "stripe.refund.create",
            "request_hash": "{hash}", "metadata": {{"ended": "returned", "evidence_event_id": {event}}}}}"#
    );
    let (status, recorded) = json(gateway.post(EVENTS, api_key).body(body).send().await.unwrap()).await;
    assert_eq!(status, 200, "{recorded}");
    text(&recorded, "event_id").unwrap().to_owned()
}

fn named(decision: &Json) -> (String, String) {
    let of = |name| text(decision, name).unwrap().to_owned();
    (of("evidence_event_id"), of("request_hash"))
}

/// A receipt of a run at the time of `event`.
fn receipt(tool: &str, at: &str, more: &str) -> String {
    format!(r#"{{"tool": "{tool}", "at": "{at}", "log": "ignored"{more}}}"#)
}

#[tokio::test]
async fn lists_every_bypass_and_nothing_else() {
    let gateway = start().await;
    let mut next = random(7);
    let mut bypasses = Vec::new();
    let mut receipts = String::new();
    let (mut outcomes, mut by_mode, mut unrecorded) = (0, 0, 0);
    let mut add = |receipts: &mut String, event: &str, hash: &str| {
        // By its event, by its hash, and by both.
        let more = match next(3) {
            0 => format!(r#", "evidence_event_id": "{event}""#),
            1 => format!(r#", "request_hash": "{hash}""#),
            _ => format!(r#", "evidence_event_id": "{event}", "request_hash": "{hash}""#),
        };
        writeln!(receipts, "{}", receipt("stripe.refund.create", "2099-01-01T00:00:00Z", &more)).unwrap();
        receipts.lines().count()
    };
    for n in 0..40_u64 {
        let mode = ["enforce", "strict", "monitor", "warn"][usize::try_from(n % 4).unwrap()];
        let allowed = n % 3 != 0;
        let decision = decide(&gateway, if allowed { 4900 } else { 90_000 }, &format!("k{n}"), mode).await;
        let (event, hash) = named(&decision);
        let runs = allowed || ["monitor", "warn"].contains(&mode);
        let word = if allowed { "allow" } else { "deny" };
        if n % 5 == 4 {
            // Not run, or not recorded.
            unrecorded += usize::from(allowed);
            continue;
        }
        // A function that ran although it must not, by its own report and by another log.
        let id =
            outcome(&gateway, "apk_one", &hash, Some(&event).filter(|_| n % 2 == 0).map(|id| &**id)).await;
        let line = add(&mut receipts, &event, &hash);
        outcomes += 1;
        by_mode += usize::from(runs && !allowed) * 2;
        if !runs {
            bypasses
                .push((0, format!("outcome {id}, \"stripe.refund.create\": the decision {event} is {word}")));
            bypasses.push((
                line,
                format!("receipt of line {line}, \"stripe.refund.create\": the decision {event} is {word}"),
            ));
        } else if n % 7 == 0 {
            // It ran twice on one decision.
            let again = outcome(&gateway, "apk_one", &hash, Some(&event)).await;
            let second = add(&mut receipts, &event, &hash);
            outcomes += 1;
            bypasses.push((
                0,
                format!("outcome {again}, \"stripe.refund.create\": the decision {event} has the outcome {id} already"),
            ));
            bypasses.push((
                second,
                format!(
                    "receipt of line {second}, \"stripe.refund.create\": the decision {event} has the receipt \
                     of line {line} already"
                ),
            ));
        }
    }
    // A report that names the decision on another request, and two without a decision.
    let (_, denied) = named(&decide(&gateway, 90_000, "denied", "enforce").await);
    let (allowing, _) = named(&decide(&gateway, 4900, "allowed", "enforce").await);
    unrecorded += 1;
    let id = outcome(&gateway, "apk_one", &denied, Some(&allowing)).await;
    bypasses.push((
        0,
        format!("outcome {id}, \"stripe.refund.create\": the decision {allowing} belongs to another request"),
    ));
    let id = outcome(&gateway, "apdv_one", &"0".repeat(64), None).await;
    bypasses.push((
        0,
        format!("outcome {id}, \"stripe.refund.create\": no decision on this request precedes it"),
    ));
    let id = outcome(&gateway, "apdv_one", &"0".repeat(64), Some("ev_none")).await;
    bypasses.push((0, format!("outcome {id}, \"stripe.refund.create\": no decision ev_none precedes it")));
    outcomes += 3;
    // A tool without a decision, and a receipt for another tool than the decision's.
    for (tool, more, reason) in [
        ("shell", String::new(), "no unused decision permits the tool in the 5m before it".to_owned()),
        (
            "shell",
            format!(r#", "evidence_event_id": "{allowing}""#),
            format!("the decision {allowing} is for the tool \"stripe.refund.create\""),
        ),
    ] {
        writeln!(receipts, "{}", receipt(tool, "2026-01-01T00:00:00Z", &more)).unwrap();
        let line = receipts.lines().count();
        bypasses.push((line, format!("receipt of line {line}, {tool:?}: {reason}")));
    }
    bypasses.sort_by_key(|(line, _)| *line);

    let folder = gateway.folder.path();
    std::fs::write(folder.join("receipts.jsonl"), &receipts).unwrap();
    let done = coverage(folder, &["--receipts", "receipts.jsonl"]);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let (runs, summary) = listed(&done);
    let expected: Vec<_> = bypasses.into_iter().map(|(_, line)| line).collect();
    assert_eq!(runs, expected, "{summary}");
    let count = receipts.lines().count();
    let expected = format!(
        "{outcomes} outcomes and {count} receipts, {by_mode} of them permitted by the mode only; {unrecorded} \
         decisions allow without an outcome"
    );
    assert_eq!(summary, expected);
    let errors = String::from_utf8(done.stderr).unwrap();
    assert!(errors.contains(&format!("{} runs have no decision that permits them", runs.len())), "{errors}");
}

#[tokio::test]
async fn unnamed_receipts_need_separate_decisions() {
    let gateway = start().await;
    let folder = gateway.folder.path().to_owned();
    let mut hashes = Vec::new();
    for n in 0..3 {
        let (event, hash) = named(&decide(&gateway, 4900, &format!("k{n}"), "enforce").await);
        outcome(&gateway, "apk_one", &hash, Some(&event)).await;
        hashes.push(hash);
    }
    decide(&gateway, 90_000, "denied", "enforce").await;
    let events = gateway.events("apk_one", "decisions").await;
    let at = text(events.last().unwrap(), "created_at").unwrap().to_owned();
    let run = |lines: &[String], more: &[&str]| {
        std::fs::write(folder.join("receipts.jsonl"), lines.join("\n")).unwrap();
        coverage(&folder, &[&["--receipts", "receipts.jsonl"], more].concat())
    };
    let unnamed = receipt("stripe.refund.create", &at, "");
    let by_hash = receipt("stripe.refund.create", &at, &format!(r#", "request_hash": "{}""#, hashes[2]));

    // Three decisions cover three receipts; the named one takes its own, also as the last.
    let done = run(&[unnamed.clone(), unnamed.clone(), by_hash.clone(), String::new()], &[]);
    assert!(done.status.success(), "{done:?}");
    let (runs, summary) = listed(&done);
    assert_eq!(runs, [""; 0]);
    assert!(summary.ends_with("every outcome and receipt has a decision that permits it"), "{summary}");
    let done = run(&[unnamed.clone(), unnamed.clone(), unnamed.clone(), by_hash], &[]);
    assert_eq!(
        listed(&done).0,
        [
            "receipt of line 3, \"stripe.refund.create\": no unused decision permits the tool in the 5m before it"
        ]
    );
    // A decision does not cover earlier runs, also of the same request.
    let hash = format!(r#", "request_hash": "{}""#, hashes[0]);
    for more in ["", &hash] {
        let done = run(&[receipt("stripe.refund.create", "2026-01-01T00:00:00Z", more)], &[]);
        assert_eq!(listed(&done).0.len(), 1, "{more}");
    }
    // Nor later ones than the limit.
    let late = receipt("stripe.refund.create", "2099-01-01T00:00:00Z", "");
    assert_eq!(listed(&run(std::slice::from_ref(&late), &[])).0.len(), 1);
    assert_eq!(listed(&run(&[late], &["--within", "200years"])).0.len(), 0);

    let mut other = Command::new(env!("CARGO_BIN_EXE_actpass-gateway"));
    other.current_dir(&folder).args(["evidence", "coverage", "--config", "gateway.toml", "--tenant", "onee"]);
    let other = other.output().unwrap();
    assert_eq!(other.status.code(), Some(1));
    assert!(String::from_utf8(other.stderr).unwrap().contains("the tenant \"onee\" has no chain"));

    for (line, message) in [
        ("{}", "receipts.jsonl: line 1: at: missing; expected a time in RFC 3339"),
        (r#"{"at": "today", "tool": "t"}"#, "line 1: at: expected a time in RFC 3339 and UTC"),
        (r#"{"at": "2026-01-01T00:00:00Z", "tool": 1}"#, "line 1: tool: expected a non-empty string"),
        ("[]", "line 1: expected an object"),
    ] {
        let done = run(&[line.to_owned()], &[]);
        let errors = String::from_utf8(done.stderr).unwrap();
        assert!(errors.contains(message), "{line}: {errors}");
    }
}
