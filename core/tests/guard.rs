//! The properties documented in `guard`, each by a test of the same name, and further guarantees.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod common;

use std::cell::Cell;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actpass_core::transport::{BodyError, Request, Response, SendFuture, Transport, TransportError};
use actpass_core::{
    ActPass, Action, Blocked, Error, ErrorKind, Json, Mode, Outcome, Permit, TokioClock, Verdict,
};
use common::{
    GUARDING, KEY, MODES, PanickingTransport, PendingTransport, ScriptedTransport, action, allow,
    assert_gate_failed, block_on, client, counted, gate_error, gateway, over, respond,
};
use proptest::prelude::*;
use serde_json::{Value, json};

#[test]
fn default_deny() {
    let words = [
        "allow",
        "warn",
        "deny",
        "require_approval",
        "require_tool_reapproval",
        "quarantine",
        "Allow",
        "monitor",
        "*",
    ];
    for mode in MODES {
        for word in words {
            for recorded in [true, false] {
                for status in [200, 401, 403] {
                    let runs = matches!(
                        (mode, word, recorded, status),
                        (Mode::Monitor, ..)
                            | (Mode::Enforce | Mode::Warn, "allow", _, 200)
                            | (Mode::Strict, "allow", true, 200)
                            | (Mode::Warn, "warn", _, 200)
                    );
                    let (ran, outcome) = answered(mode, status, decision(word, recorded));
                    assert_eq!(
                        (ran, outcome.executed()),
                        (usize::from(runs), runs),
                        "{mode} {word} {status}"
                    );
                }
            }
        }
    }
    // The default mode is enforce.
    let (ran, _) =
        block_on(counted(&over(ScriptedTransport::answer(200, decision("warn", true))), &action()));
    assert_eq!(ran, 0);
}

#[test]
fn error_denies() {
    for kind in ErrorKind::ALL {
        for is_pre_send in [true, false] {
            for mode in MODES {
                let failure = TransportError { error: Error::new(kind, "a test"), is_pre_send };
                let client = over(ScriptedTransport::new([Err(failure)]));
                assert_gate_failed(mode, kind, &guarded(&client, mode));
            }
        }
    }
    for status in (100..200).chain(201..600).filter(|status| !(200..300).contains(status)) {
        let kind = match status {
            401 => ErrorKind::Authentication,
            403 => ErrorKind::Permission,
            429 => ErrorKind::RateLimit,
            _ => ErrorKind::Status,
        };
        let client = over(ScriptedTransport::answer(status, decision("allow", true)));
        for mode in GUARDING {
            assert_gate_failed(mode, kind, &guarded(&client, mode));
        }
    }
}

#[test]
fn timeout_denies() {
    let soon = Duration::from_millis(300);
    let late = json!({"do": "respond", "json": allow(), "delay_ms": 2000});
    let trickle = json!({"do": "trickle", "body": decision("allow", true), "interval_ms": 50});
    let hang = |at: &str| json!({"do": "hang", "at": at});
    for mode in GUARDING {
        let never =
            ActPass::builder().api_key(KEY).transport(PendingTransport).timeout(soon).build().unwrap();
        assert_gate_failed(mode, ErrorKind::Timeout, &guarded(&never, mode));
        for step in [&late, &trickle, &hang("request"), &hang("headers"), &hang("body")] {
            let gateway = gateway(json!([step]));
            let client = common::builder(&gateway).timeout(soon).max_retries(2).build().unwrap();
            assert_gate_failed(mode, ErrorKind::Timeout, &guarded(&client, mode));
        }
    }
}

#[test]
fn panic_denies() {
    for transport in [PanickingTransport::Immediately, PanickingTransport::WhenPolled] {
        for mode in MODES {
            assert_gate_failed(mode, ErrorKind::Internal, &guarded(&over(transport), mode));
        }
        let error = block_on(over(transport).preflight(&action())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(!error.to_string().contains("transport that panics"), "{error}");
    }
}

#[test]
fn unknown_word_denies() {
    let look_alikes = [
        "ALLOW",
        "Allow",
        " allow",
        "allow ",
        "allow\n",
        "\u{feff}allow",
        "\u{430}llow",
        "al\u{200b}low",
        "allowed",
        "allow\0",
        "\"allow\"",
        "true",
        "1",
        "yes",
        "permit",
        "WARN",
        "warn ",
        "monitor",
        " ",
    ];
    for word in look_alikes {
        for mode in MODES {
            let (ran, outcome) = answered(mode, 200, decision(word, true));
            assert_eq!(ran, usize::from(mode == Mode::Monitor), "{mode} {word:?}");
            assert_eq!(outcome.decision().word().as_str(), word, "the word is reported unchanged");
            assert!(gate_error(&outcome).is_none(), "an unknown word has no gate error");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn any_other_word_denies(word in "(?i)[ \"]?[aаａw][lr]{1,2}[oοn][w\u{200b}ed ]{0,3}|\\PC{1,12}") {
        prop_assume!(!["allow", "warn"].contains(&word.as_str()));
        for mode in GUARDING {
            let (ran, _) = answered(mode, 200, decision(&word, true));
            prop_assert_eq!(ran, 0, "{} {:?}", mode, word);
        }
    }

    #[test]
    fn any_other_body_denies(mut body in proptest::collection::vec(any::<u8>(), 0..64), at in 0_usize..64) {
        // Random bytes, and a valid response with random bytes inserted.
        let good = decision("allow", true).into_bytes();
        let spoilt: Vec<u8> = good[..at.min(good.len())].iter().chain(&body).copied().collect();
        body.extend_from_slice(&good);
        for body in [body, spoilt] {
            let is_allow = serde_json::from_slice::<Value>(&body).is_ok_and(|value| value["decision"] == "allow");
            prop_assume!(!is_allow);
            let (ran, _) = answered(Mode::Enforce, 200, body);
            prop_assert_eq!(ran, 0);
        }
    }
}

#[test]
fn malformed_denies() {
    let bodies = [
        "",
        " ",
        "allow",
        "\"allow\"",
        "null",
        "true",
        "1",
        "[]",
        "{}",
        "[{\"decision\":\"allow\"}]",
        r#"{"decision":null}"#,
        r#"{"decision":""}"#,
        r#"{"decision":true}"#,
        r#"{"decision":1}"#,
        r#"{"decision":["allow"]}"#,
        r#"{"decision":{"allow":true}}"#,
        r#"{"Decision":"allow"}"#,
        r#"{"decision":"allow""#,
        r#"{"decision":"allow"}}"#,
        r#"{"decision":"allow"} {}"#,
        r#"{"decision":"allow",}"#,
        r#"{"decision":"deny","decision":"allow"}"#,
        r#"{"decision":"allow","decision":"allow"}"#,
        r#"{"decision":"deny","decis\u0069on":"allow"}"#,
        r#"{"decision":"allow","x":{"a":1,"a":1}}"#,
        r#"{"decision":"allow","x":1e999}"#,
        r#"{"decision":"allow","x":NaN}"#,
        "\u{feff}{\"decision\":\"allow\"}",
        r#"{"decision":"allow","x":"\ud800"}"#,
        r#"{"decision":"allow","credential":"tok"}"#,
        "<html>allow</html>",
    ];
    for body in bodies {
        for mode in MODES {
            let client = over(ScriptedTransport::answer(200, body));
            assert_gate_failed(mode, ErrorKind::Response, &guarded(&client, mode));
        }
    }
    for problem in [BodyError::CutShort, BodyError::TooLarge] {
        for mode in MODES {
            let answer = Response { body: Err(problem), ..Response::new(200, "") };
            assert_gate_failed(
                mode,
                ErrorKind::Response,
                &guarded(&over(ScriptedTransport::new([Ok(answer)])), mode),
            );
        }
    }
}

#[test]
fn replay_denies() {
    let replay = |age: Option<u64>| {
        json!({"decision": "allow", "evidence_event_id": "ev_1", "evidence_chain_id": "decisions",
            "request_hash": "{{request_hash}}", "replayed": true, "replay_age_ms": age,
            "credential": {"token": "tok_secret"}})
        .to_string()
    };
    let answers = |status, age| Ok(Response::new(status, replay(age)));
    let fails = |kind, is_pre_send| Err(TransportError { error: Error::new(kind, "a test"), is_pre_send });
    let busy = |status, retry_after: Option<&str>| {
        Ok(Response { retry_after: retry_after.map(str::to_owned), ..Response::new(status, "") })
    };
    for (before, age, runs) in [
        // No earlier attempt, or the gateway processed no earlier attempt.
        (vec![], None, false),
        (vec![], Some(0), false),
        (vec![fails(ErrorKind::Connection, true)], Some(0), false),
        (vec![fails(ErrorKind::Timeout, true)], None, false),
        (vec![busy(429, None)], None, false),
        (vec![busy(429, Some("0"))], Some(0), false),
        (vec![busy(503, Some("0"))], None, false),
        (vec![busy(429, None), fails(ErrorKind::Connection, true)], None, false),
        // An earlier attempt may have received the replayed response.
        (vec![fails(ErrorKind::Connection, false)], None, true),
        (vec![fails(ErrorKind::Timeout, false)], None, true),
        (vec![busy(502, None)], Some(0), true),
        (vec![busy(503, None)], None, true),
        (vec![busy(504, Some("0"))], None, true),
        (vec![busy(502, None), busy(429, None)], None, true),
        // The response is older than that attempt.
        (vec![fails(ErrorKind::Connection, false)], Some(600_000), false),
        (vec![busy(502, None)], Some(u64::MAX), false),
    ] {
        for mode in MODES {
            let transport = ScriptedTransport::new(before.iter().cloned().chain([answers(200, age)]));
            let client = ActPass::builder().api_key(KEY).transport(transport.clone()).build().unwrap();
            let (ran, outcome) = guarded(&client, mode);
            let expected = runs || mode == Mode::Monitor;
            assert_eq!(
                (ran, outcome.executed()),
                (usize::from(expected), expected),
                "{mode} {before:?} {age:?}"
            );
            assert_eq!(transport.requests().len(), before.len() + 1);
            let decision = outcome.decision();
            assert!(gate_error(&outcome).is_none());
            assert_eq!(decision.evidence_event_id().as_deref(), Some("ev_1"));
            if !expected {
                assert_eq!(decision.word().as_str(), "deny");
                assert_eq!(decision.reason_code(), "actpass.replayed");
                assert!(
                    decision.member("request_hash").is_some()
                        && decision.member("evidence_chain_id").is_some()
                );
                let explain = decision.explain();
                assert!(explain.summary.contains("may have run before"), "{}", explain.summary);
                assert!(explain.next_steps[0].contains("action.outcome"), "{:?}", explain.next_steps);
                assert!(!format!("{outcome:?}").contains("tok_secret"));
            }
        }
    }
    let decision = block_on(over(ScriptedTransport::new([answers(200, None)])).preflight(&action())).unwrap();
    assert_eq!((decision.word().as_str(), decision.member("replayed")), ("allow", Some(Json::Bool(true))));
}

/// Waits, then completes the attempt.
#[derive(Clone, Debug)]
struct After(Duration, ScriptedTransport);

impl Transport for After {
    fn send(&self, request: Request) -> SendFuture<'_> {
        Box::pin(async move {
            tokio::time::sleep(self.0).await;
            self.1.send(request).await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn replay_older_than_lost_attempt_denies() {
    // Each attempt takes 50 ms: one that was not processed with a delay of 1 s, a lost one with a
    // backoff of at most 200 ms, and the replay.
    for (age, runs) in [(0, true), (100, true), (300, false), (301, false), (1_100, false), (1_300, false)] {
        let asked = Response { retry_after: Some("1".to_owned()), ..Response::new(429, "") };
        let lost = TransportError { error: Error::new(ErrorKind::Connection, "a test"), is_pre_send: false };
        let replay = json!({"decision": "allow", "replayed": true, "replay_age_ms": age}).to_string();
        let canned = ScriptedTransport::new([Ok(asked), Err(lost), Ok(Response::new(200, replay))]);
        let transport = After(Duration::from_millis(50), canned);
        let client = ActPass::builder().api_key(KEY).transport(transport).build().unwrap();
        let (ran, _) = counted(&client, &action()).await;
        assert_eq!(ran, usize::from(runs), "{age}");
    }
}

/// `tests/vectors/signed` has every reason, in every language.
#[test]
fn unsigned_denies() {
    let keys = |tools: &str| {
        let jwk = r#"{"kty":"EC","crv":"P-256","kid":"a","x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}"#;
        format!(r#"{{"rp_id": "g", "origins": ["https://g"], "keys": [{jwk}], "tools": {tools}}}"#)
    };
    for (tools, reason, signatures, runs) in [
        ("[]", "refund.small_in_scope", json!(null), true),
        ("[]", "approval.approved", json!(null), false),
        ("[]", "refund.small_in_scope", json!([]), false),
        ("[\"*\"]", "refund.small_in_scope", json!(null), false),
    ] {
        for mode in MODES {
            let mut answer = allow();
            answer["reason_code"] = json!(reason);
            answer["approval_signatures"] = signatures.clone();
            let gateway = gateway(json!([respond(answer)]));
            let client = common::builder(&gateway).approval_keys(keys(tools)).build().unwrap();
            let (ran, outcome) = guarded(&client, mode);
            let runs = runs || mode == Mode::Monitor;
            assert_eq!((ran, outcome.executed()), (usize::from(runs), runs), "{reason} {tools} {mode:?}");
            let expected = if runs { reason } else { "actpass.approval_unsigned" };
            assert_eq!(outcome.decision().reason_code(), expected);
        }
    }
    let error = ActPass::builder().api_key(KEY).approval_keys(r#"{"rp_id": "g"}"#).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().starts_with("approval_keys: origins: expected at least one"), "{error}");
}

#[test]
fn redirect_denies() {
    for status in [301, 302, 303, 307, 308] {
        for mode in MODES {
            let gateway = gateway(json!([{"do": "redirect", "status": status}]));
            let client = common::builder(&gateway).max_retries(2).build().unwrap();
            let ended = guarded(&client, mode);
            assert_gate_failed(mode, ErrorKind::Status, &ended);
            assert_eq!(gate_error(&ended.1).unwrap().status(), Some(status));
            assert_eq!(gateway.seen().len(), 1, "{status}");
            assert_eq!(gateway.other_seen(), [], "{status}");
        }
    }
}

#[test]
fn cancelled_never_runs() {
    let runs = Arc::new(AtomicUsize::new(0));
    let execute = |runs: &Arc<AtomicUsize>| {
        let runs = Arc::clone(runs);
        move |_| async move {
            runs.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Error>(())
        }
    };
    let slow = gateway(json!([{"do": "respond", "json": allow(), "delay_ms": 60_000}]));
    let client = client(&slow);
    let seen = |count: usize| {
        let slow = &slow;
        common::eventually("the calls are on their way", move || slow.seen().len() == count)
    };
    block_on(async {
        for (mode, before) in MODES.into_iter().zip((0..).step_by(2)) {
            // The call is never polled.
            drop(client.guard(&action().mode(mode), execute(&runs)));
            // The call is dropped while waiting for the verdict.
            let action = action().mode(mode);
            let guard = client.guard(&action, execute(&runs));
            tokio::select! {
                ended = guard => panic!("{mode}: {ended:?}"),
                () = seen(before + 1) => {}
            }
            // The task of the call is aborted.
            let task = tokio::spawn({
                let (client, action, execute) = (client.clone(), action.clone(), execute(&runs));
                async move { client.guard(&action, execute).await.map(|outcome| outcome.executed()) }
            });
            seen(before + 2).await;
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
        }
        slow.release();
        slow.close_connections();
        assert_eq!(runs.load(Ordering::SeqCst), 0);

        // The same call runs if it is awaited: only the cancellation prevented it.
        assert!(client.guard(&action(), execute(&runs)).await.unwrap().executed());
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn runs_at_most_once() {
    let reset = |at: &str| json!({"do": "reset", "at": at});
    let busy = |status: u16| json!({"do": "respond", "status": status, "json": allow()});
    let scripts = [
        (json!([reset("request"), reset("body"), respond(allow())]), 3, true),
        (json!([busy(502), busy(503), respond(allow())]), 3, true),
        (json!([busy(429), busy(504), respond(allow())]), 3, true),
        (json!([busy(503), busy(503), busy(503), respond(allow())]), 3, false),
        (json!([respond(allow()), respond(allow())]), 1, true),
        // Bytes after the response belong to no request.
        (json!([{"do": "raw", "text": twice(&decision("allow", true))}]), 1, true),
    ];
    for (steps, requests, runs) in scripts {
        for mode in MODES {
            let gateway = gateway(steps.clone());
            let client = common::builder(&gateway).max_retries(2).build().unwrap();
            let (ran, outcome) = guarded(&client, mode);
            let runs = runs || mode == Mode::Monitor;
            assert_eq!((ran, outcome.executed()), (usize::from(runs), runs), "{mode}: {steps}");
            assert_eq!(gateway.seen().len(), requests, "{mode}: {steps}");
        }
    }
}

#[test]
fn discards_bytes_after_a_response() {
    let deny = decision("deny", true);
    let allowed = decision("allow", true);
    let more = format!("{deny}HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{allowed}", allowed.len());
    let smuggled =
        json!({"do": "respond", "headers": {"content-length": deny.len().to_string()}, "body": more});
    for pause in [0, 20] {
        for _ in 0..20 {
            let gateway = gateway(json!([smuggled, {"do": "respond", "body": deny}]));
            let client = client(&gateway);
            block_on(async {
                for call in 0..3 {
                    let (ran, outcome) = counted(&client, &action()).await;
                    assert_eq!(ran, 0, "call {call}: {outcome:?}");
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
            });
        }
    }
}

#[test]
fn failed_action_is_not_retried() {
    let gateway = gateway(json!([respond(allow())]));
    let client = common::builder(&gateway).max_retries(2).build().unwrap();
    let runs = Cell::new(0);
    let outcome = block_on(client.guard(&action(), |_| async {
        runs.set(runs.get() + 1);
        Err::<(), _>(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
    }));
    assert!(matches!(outcome.unwrap(), Outcome::Failed { .. }));
    assert_eq!((runs.get(), gateway.seen().len()), (1, 1));
}

#[test]
fn monitor_always_runs() {
    for word in ["allow", "warn", "deny", "require_approval", "require_tool_reapproval", "quarantine"] {
        for status in [200, 401, 403] {
            if (status, word) == (401, "allow") || (status, word) == (403, "allow") {
                continue;
            }
            let (ran, outcome) = answered(Mode::Monitor, status, decision(word, false));
            assert_eq!(ran, 1);
            assert_eq!(outcome.decision().word().as_str(), word);
            assert!(gate_error(&outcome).is_none());
        }
    }
    let failures: [(Box<dyn Fn() -> ActPass>, ErrorKind); 4] = [
        (Box::new(|| over(ScriptedTransport::answer(403, decision("allow", true)))), ErrorKind::Permission),
        (Box::new(|| over(ScriptedTransport::answer(200, "not JSON"))), ErrorKind::Response),
        (
            Box::new(|| {
                let timeout = Duration::from_millis(50);
                ActPass::builder().api_key(KEY).transport(PendingTransport).timeout(timeout).build().unwrap()
            }),
            ErrorKind::Timeout,
        ),
        (Box::new(|| over(PanickingTransport::WhenPolled)), ErrorKind::Internal),
    ];
    for (client, kind) in failures {
        assert_gate_failed(Mode::Monitor, kind, &guarded(&client(), Mode::Monitor));
        // The action's own error takes precedence over the gate's.
        let outcome =
            block_on(client().guard(&action().mode(Mode::Monitor), |_| async { Err::<(), _>("mine") }));
        let Outcome::Failed { decision, error } = outcome.unwrap() else { panic!("{kind:?}") };
        assert_eq!((error, &*decision.reason_code()), ("mine", kind.code()));
    }
}

#[test]
fn returns_the_same_result_value() {
    let client = over(ScriptedTransport::answer(200, decision("allow", true)));
    let value = Rc::new(Cell::new(7));
    let outcome = block_on(client.guard(&action(), |_| {
        let value = Rc::clone(&value);
        async { Ok::<_, Error>(value) }
    }));
    let Outcome::Returned { result, gate_error, .. } = outcome.unwrap() else {
        panic!("the action did not return")
    };
    assert!(Rc::ptr_eq(&result, &value));
    assert!(gate_error.is_none());
}

#[test]
fn returns_the_same_error_value() {
    #[derive(Debug)]
    struct Mine;
    for mode in MODES {
        let client = over(ScriptedTransport::answer(200, decision("allow", true)));
        let value = Arc::new(Mine);
        let outcome = block_on(client.guard(&action().mode(mode), |_| {
            let value = Arc::clone(&value);
            async { Err::<(), _>(value) }
        }))
        .unwrap();
        assert!(outcome.executed());
        assert!(outcome.canonical().unwrap().contains(r#""error":{"kind":"action","status":null}"#));
        let Outcome::Failed { error, decision } = outcome else { panic!("the action did not fail") };
        assert!(Arc::ptr_eq(&error, &value));
        assert_eq!(decision.word().as_str(), "allow");
    }
}

#[test]
fn action_runs_in_the_callers_task() {
    tokio::task_local!(static WHOSE: u8);
    let gateway = gateway(json!([respond(allow())]));
    let client = client(&gateway);
    let here = std::thread::current().id();
    block_on(WHOSE.scope(42, async {
        let action = action();
        let ran =
            client.guard(&action, |_| async { Ok::<_, Error>((std::thread::current().id(), WHOSE.get())) });
        let Outcome::Returned { result, .. } = ran.await.unwrap() else {
            panic!("the action did not return")
        };
        assert_eq!(result, (here, 42));
    }));
}

#[test]
fn action_panic_propagates() {
    let client = over(ScriptedTransport::answer(200, decision("allow", true)));
    fn fails() -> Result<(), Error> {
        std::panic::panic_any("mine")
    }
    let ran = std::panic::catch_unwind(AssertUnwindSafe(|| {
        block_on(client.guard(&action(), |_| async { fails() }))
    }));
    assert_eq!(ran.unwrap_err().downcast_ref(), Some(&"mine"));
}

#[test]
fn strict_blocks_unrecorded() {
    for evidence in
        ["", r#","evidence_event_id":null"#, r#","evidence_event_id":"""#, r#","evidence_event_id":7"#]
    {
        let body = format!(r#"{{"decision":"allow","credential":{{"token":"tok_secret"}}{evidence}}}"#);
        let (ran, outcome) = answered(Mode::Strict, 200, &body);
        assert_eq!(ran, 0, "{body}");
        let decision = outcome.decision();
        assert_eq!(decision.word().as_str(), "deny");
        assert_eq!(decision.reason_code(), "actpass.unrecorded");
        assert!(!decision.explain().summary.is_empty() && !decision.explain().next_steps.is_empty());
        assert_eq!(decision.explain().matched_rules, [""; 0]);
        assert!(gate_error(&outcome).is_none(), "a policy decision has no error");
        assert!(!format!("{outcome:?}").contains("tok_secret"));
        assert_eq!(answered(Mode::Enforce, 200, &body).0, 1, "{body}");
    }
}

#[test]
fn changed_arguments_block_except_in_monitor() {
    let allowed = r#"{"decision":"allow","evidence_event_id":"ev_1","request_hash":"{{request_hash}}",
        "credential":{"token":"tok_secret"}}"#;
    for (mode, answer) in MODES.map(|mode| (mode, allowed)).into_iter().chain([
        (Mode::Monitor, r#"{"decision":"deny","reason_code":"refund.over_limit"}"#),
        (Mode::Monitor, "{}"),
        (Mode::Warn, r#"{"decision":"warn","reason_code":"refund.over_limit"}"#),
    ]) {
        let gateway = gateway(json!([{"do": "respond", "body": answer}]));
        let verdict = block_on(client(&gateway).authorize(&action().mode(mode))).unwrap();
        let Verdict::Proceed(permit) = verdict else { panic!("{mode}: blocked") };
        match (mode, permit.arguments_changed()) {
            (Mode::Monitor, Verdict::Proceed(permit)) => {
                let (context, settlement) = permit.spend(&TokioClock).unwrap();
                assert!(context.credential().is_none(), "{answer}");
                let outcome = settlement.settle(Ok::<_, ()>(()));
                let expected = match answer {
                    "{}" => "actpass.invalid_response",
                    _ if answer == allowed => "actpass.arguments_changed",
                    _ => "refund.over_limit",
                };
                assert_eq!(outcome.decision().word().as_str(), "deny");
                assert_eq!(outcome.decision().reason_code(), expected);
                assert_eq!(gate_error(&outcome).is_some(), answer == "{}");
            }
            (Mode::Enforce | Mode::Strict | Mode::Warn, Verdict::Blocked(blocked)) => {
                let decision = blocked.decision();
                assert_eq!(decision.word().as_str(), "deny");
                assert_eq!(decision.reason_code(), "actpass.arguments_changed");
                assert_eq!(
                    decision.evidence_event_id().is_some(),
                    answer == allowed,
                    "the event id of the allow is kept"
                );
                assert!(!decision.explain().summary.is_empty() && !decision.explain().next_steps.is_empty());
                assert!(blocked.error().is_none(), "a policy decision has no error");
            }
            (mode, verdict) => panic!("{mode}: {verdict:?}"),
        }
    }
}

#[test]
fn strict_blocks_unbound() {
    for hash in ["", r#","request_hash":null"#] {
        let body = format!(
            r#"{{"decision":"allow","evidence_event_id":"ev_1","credential":{{"token":"tok_secret"}}{hash}}}"#
        );
        let (ran, outcome) = answered(Mode::Strict, 200, &body);
        assert_eq!((ran, outcome.executed()), (0, false), "{body}");
        assert_eq!(outcome.decision().reason_code(), "actpass.invalid_response");
        assert_eq!(gate_error(&outcome).map(Error::kind), Some(ErrorKind::Response));
        assert!(!format!("{outcome:?}").contains("tok_secret"));
        assert_eq!(answered(Mode::Enforce, 200, &body).0, 1, "{body}");
    }
}

#[test]
fn response_to_another_request_denies() {
    let right = "{{request_hash}}";
    let other = "0".repeat(64);
    let wrong =
        ["7".to_owned(), "[]".to_owned(), "\"\"".to_owned(), format!("\"{other}\""), format!("\" {right}\"")];
    for word in ["allow", "warn", "deny"] {
        for wrong in &wrong {
            let body = format!(
                r#"{{"decision":"{word}","evidence_event_id":"ev_1","request_hash":{wrong},"credential":{{"token":"tok_secret"}}}}"#
            );
            for mode in MODES {
                let (ran, outcome) = answered(mode, 200, &body);
                assert_eq!(ran, usize::from(mode == Mode::Monitor), "{mode} {body}");
                assert_eq!(outcome.decision().reason_code(), "actpass.invalid_response");
                assert!(!format!("{outcome:?}").contains("tok_secret"));
            }
            let error =
                block_on(over(ScriptedTransport::answer(200, body)).preflight(&action())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Response);
        }
    }
}

#[test]
fn names_non_canonical_integer_in_every_mode() {
    let args = r#"{"orders": [1, {"order_id": 9007199254740993}], "note": "1234567890123456789"}"#;
    let action = |mode| Action::new("g", "t").args_text(args).mode(mode);
    for mode in [Mode::Enforce, Mode::Warn, Mode::Monitor] {
        // No gateway can compute this hash; a response with a hash belongs to another request.
        let body = r#"{"decision":"allow","evidence_event_id":"ev_1","request_hash":"abc"}"#;
        let (ran, outcome) = block_on(counted(&over(ScriptedTransport::answer(200, body)), &action(mode)));
        assert_eq!(ran, usize::from(mode == Mode::Monitor));
        let explain = outcome.decision().explain();
        assert!(explain.summary.contains("args.orders[1].order_id"), "{}", explain.summary);
        assert_eq!(explain.next_steps, ["Send args.orders[1].order_id as a string."]);
        let error = gate_error(&outcome).unwrap().to_string();
        assert!(error.contains("args.orders[1].order_id: the integer 9007199254740993 is beyond"), "{error}");

        let (ran, _) = block_on(counted(
            &over(ScriptedTransport::answer(200, r#"{"decision":"allow"}"#)),
            &action(mode),
        ));
        assert_eq!(ran, 1, "{mode} demands no hash");
    }
    // No response could be bound, so nothing is sent, and no approval or passport is spent.
    let transport = ScriptedTransport::answer(200, r#"{"decision":"allow","evidence_event_id":"ev_1"}"#);
    let client = over(transport.clone());
    let strict = action(Mode::Strict);
    let guarded = block_on(client.guard(&strict, async |_| Ok::<(), ()>(()))).unwrap_err();
    let asked = block_on(client.preflight(&strict)).unwrap_err();
    for error in [guarded, asked] {
        assert_eq!(error.kind(), ErrorKind::Argument);
        assert_eq!(
            error.to_string(),
            "args.orders[1].order_id: the integer 9007199254740993 is beyond ±(2^53-1) and has no canonical form, \
             which strict mode requires; send it as a string"
        );
    }
    assert!(transport.requests().is_empty());
    for fine in
        ["9007199254740991", "-9007199254740991", "9007199254740993.5", "1e300", "\"9007199254740993\""]
    {
        let action = Action::new("g", "t").args_text(format!(r#"{{"n": {fine}}}"#)).mode(Mode::Strict);
        let (ran, _) = block_on(counted(&over(ScriptedTransport::answer(200, allow().to_string())), &action));
        assert_eq!(ran, 1, "{fine}");
    }
}

#[test]
fn failure_keeps_known_approval() {
    let named = || action().approval_request_id("apr_1");
    for (answer, reason) in [
        (Ok(Response::new(500, "")), "actpass.gateway_error"),
        (Ok(Response::new(200, "<html>")), "actpass.invalid_response"),
        (Ok(Response::new(200, r#"{"decision":"allow"}"#)), "actpass.unrecorded"),
        (
            Ok(Response::new(200, r#"{"decision":"allow","evidence_event_id":"ev"}"#)),
            "actpass.invalid_response",
        ),
        (
            Ok(Response::new(200, allow().to_string().replacen('{', r#"{"replayed":true,"#, 1))),
            "actpass.replayed",
        ),
        (
            Err(TransportError { error: Error::new(ErrorKind::Connection, "a test"), is_pre_send: true }),
            "actpass.unreachable",
        ),
    ] {
        let client = over(ScriptedTransport::new([answer]));
        let (ran, outcome) = block_on(counted(&client, &named().mode(Mode::Strict)));
        let Outcome::Blocked(blocked) = &outcome else { panic!("{reason}: it ran") };
        assert_eq!((ran, &*blocked.decision().reason_code()), (0, reason));
        assert_eq!(blocked.decision().approval_request_id().as_deref(), Some("apr_1"), "{reason}");
        assert_eq!(blocked.approval().map(|pending| pending.id()), Some("apr_1"), "{reason}");
    }
    // The gateway's own decision keeps no approval.
    let (_, outcome) =
        block_on(counted(&over(ScriptedTransport::answer(200, r#"{"decision":"deny"}"#)), &named()));
    assert_eq!(outcome.decision().approval_request_id(), None);
}

#[test]
fn failure_decision_has_explanation() {
    for kind in ErrorKind::ALL {
        let failure = TransportError { error: Error::new(kind, "a test"), is_pre_send: true };
        let (_, outcome) = guarded(&over(ScriptedTransport::new([Err(failure)])), Mode::Enforce);
        let decision = Json::parse(outcome.decision().as_json().as_bytes()).unwrap();
        let members: Vec<_> = decision.as_object().unwrap().iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(members, ["decision", "reason_code", "explain"]);
        let explain = decision.member("explain").unwrap();
        let members: Vec<_> = explain.as_object().unwrap().iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(members, ["summary", "matched_rules", "next_steps"]);
        assert!(!outcome.decision().explain().next_steps.is_empty(), "{kind:?}");
    }
}

#[test]
fn preflight_never_invents_a_decision() {
    for (status, body, kind) in [
        (401, "{}", ErrorKind::Authentication),
        (403, r#"{"decision":"allow"}"#, ErrorKind::Permission),
        (429, "", ErrorKind::RateLimit),
        (500, r#"{"decision":"deny"}"#, ErrorKind::Status),
        (200, "{}", ErrorKind::Response),
    ] {
        let client = over(ScriptedTransport::answer(status, body));
        assert_eq!(block_on(client.preflight(&action())).unwrap_err().kind(), kind, "{status}");
        assert_eq!(
            block_on(client.preflight(&action().mode(Mode::Monitor))).unwrap_err().kind(),
            kind,
            "{status}"
        );
    }
    let denied =
        block_on(over(ScriptedTransport::answer(403, decision("deny", true))).preflight(&action())).unwrap();
    assert_eq!(denied.reason_code(), "test");
}

#[test]
fn credential_is_given_to_allowed_action_only() {
    for (word, mode, handed) in [
        ("allow", Mode::Enforce, true),
        ("allow", Mode::Strict, true),
        ("allow", Mode::Warn, true),
        ("allow", Mode::Monitor, true),
        ("warn", Mode::Warn, false),
        ("warn", Mode::Monitor, false),
        ("deny", Mode::Monitor, false),
        ("quarantine", Mode::Monitor, false),
    ] {
        let body = json!({
            "decision": word,
            "evidence_event_id": "ev_1",
            "request_hash": "{{request_hash}}",
            "credential": {"token": "tok_secret", "expires_at": "2030-01-01T00:00:00Z", "scope": ["refund"]},
        });
        let client = over(ScriptedTransport::answer(200, body.to_string()));
        let outcome = block_on(client.guard(&action().mode(mode), |context| async move {
            assert!(!format!("{context:?}").contains("tok_secret"));
            assert_eq!(context.decision().member("credential"), None);
            let credential = context.credential().cloned();
            Ok::<_, Error>(credential.map(|c| (c.token().to_owned(), c.expires_at(), c.as_json().to_owned())))
        }))
        .unwrap();
        let Outcome::Returned { result, decision, .. } = outcome else {
            panic!("{word} did not run in {mode}")
        };
        assert_eq!(result.is_some(), handed, "{word} {mode}");
        if let Some((token, expires_at, text)) = result {
            assert_eq!((token.as_str(), expires_at.as_deref()), ("tok_secret", Some("2030-01-01T00:00:00Z")));
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), body["credential"]);
        }
        assert!(!decision.as_json().contains("tok_secret") && decision.member("credential").is_none());
    }
}

#[test]
fn invalid_argument_is_an_error_in_every_mode() {
    let deep = |depth: usize| format!("{}{}", r#"{"x":"#.repeat(depth), "1") + &"}".repeat(depth);
    let cases = [
        (action().args(json!([1])), "args: expected an object"),
        (action().args(Json::Null), "args: expected an object"),
        (action().args_text("\"{}\""), "args: expected an object"),
        (action().args_text(""), "args: not JSON"),
        (action().args_text("{"), "args: not JSON"),
        (action().args_text("{}, \"mode\": \"monitor\""), "args: not JSON"),
        (action().args_text(r#"{"a": NaN}"#), "args.a: expected a finite number, found NaN"),
        (action().args_text(r#"{"a": [1, -inf]}"#), "args.a[1]: expected a finite number, found -Infinity"),
        (action().args_text(r#"{"a": truth}"#), "args.a: not JSON"),
        (action().args_text(r#"{"a": 1e999}"#), "args.a: expected a number within the range of a double"),
        (action().args_text(r#"{"a": 1, "a": 2}"#), "args.a: expected unique keys, found a duplicate"),
        (action().args_text(r#"{"o": [{"x": {}, "\u0078": 2}]}"#), "args.o[0].x: expected unique keys"),
        (
            action().args_text(r#"{"a": "\ud800"}"#),
            "args.a: expected text in Unicode, found a lone surrogate",
        ),
        (action().args_text(deep(128)), "args.x.x.x.x.x.x.x.x…: nested deeper than 128 levels"),
        (action().passport(""), "passport: expected a token, found an empty string"),
        (Action::new("", "tool"), "goal: expected a non-empty string"),
        (Action::new("goal", ""), "tool: expected a non-empty string"),
        (action().idempotency_key(""), "idempotency_key: expected a non-empty string"),
    ];
    for (action, message) in cases {
        for mode in MODES {
            let transport = ScriptedTransport::answer(200, decision("allow", true));
            let client = over(transport.clone());
            let action = action.clone().mode(mode);
            let ran = Cell::new(false);
            let guarded = block_on(client.guard(&action, |_| async {
                ran.set(true);
                Ok::<_, Error>(())
            }));
            let asked = block_on(client.preflight(&action)).map(|_| ());
            let ruled = block_on(client.authorize(&action)).map(|_| ());
            for error in [guarded.map(|_| ()).unwrap_err(), asked.unwrap_err(), ruled.unwrap_err()] {
                assert_eq!(error.kind(), ErrorKind::Argument);
                assert!(error.to_string().starts_with(message), "{mode}: {error}");
            }
            assert!(!ran.get() && transport.requests().is_empty(), "{mode}: {message}");
        }
    }
    // At the limit it is sent: the request itself is one level.
    let transport = ScriptedTransport::answer(200, decision("allow", true));
    assert!(block_on(over(transport.clone()).preflight(&action().args_text(deep(127)))).is_ok());
    assert!(Json::parse(&transport.requests()[0].body).is_ok());
}

/// All bindings read the same table.
#[test]
fn argument_paths_match_across_languages() {
    let table: Value = serde_json::from_str(include_str!("../../tests/argument-paths.json")).unwrap();
    let rows = table.as_array().unwrap();
    assert!(!rows.is_empty());
    for row in rows {
        let steps = row["steps"].as_array().unwrap();
        let args = steps.iter().rev().fold("NaN".to_owned(), |inner, step| match step.as_u64() {
            Some(at) => format!("[{}{inner}]", "null,".repeat(usize::try_from(at).unwrap())),
            None => format!("{{{step}: {inner}}}"),
        });
        let transport = ScriptedTransport::answer(200, decision("allow", true));
        let error = block_on(over(transport.clone()).preflight(&action().args_text(args))).unwrap_err();
        let expected = format!("{}: expected a finite number, found NaN", row["path"].as_str().unwrap());
        assert_eq!(error.to_string(), expected);
        assert!(transport.requests().is_empty());
    }
}

#[test]
fn rejects_unknown_mode() {
    for (text, mode) in [
        ("enforce", Mode::Enforce),
        ("strict", Mode::Strict),
        ("warn", Mode::Warn),
        ("monitor", Mode::Monitor),
    ] {
        assert_eq!(text.parse::<Mode>().unwrap(), mode);
        assert_eq!(mode.to_string(), text);
    }
    for text in ["", "Monitor", "monitor ", "MONITOR", "off", "audit", "allow", "none", "enforce\0"] {
        let error = text.parse::<Mode>().unwrap_err();
        assert_eq!(Error::from(error.clone()).kind(), ErrorKind::Argument);
        assert_eq!(
            error.to_string(),
            format!("mode: expected enforce, strict, warn or monitor, found {text:?}")
        );
    }
    assert_eq!(Mode::default(), Mode::Enforce);
}

#[test]
fn action_mode_overrides_client_mode() {
    let client = |mode| {
        let answer = ScriptedTransport::answer(200, decision("deny", true));
        ActPass::builder().api_key(KEY).mode(mode).transport(answer).build().unwrap()
    };
    assert_eq!(block_on(counted(&client(Mode::Monitor), &action())).0, 1);
    assert_eq!(block_on(counted(&client(Mode::Monitor), &action().mode(Mode::Enforce))).0, 0);
    assert_eq!(block_on(counted(&client(Mode::Enforce), &action().mode(Mode::Monitor))).0, 1);
}

#[test]
fn permit_is_neither_clone_nor_default() {
    // Each of these fails to compile if the type implements the trait.
    trait Copied<Marker> {
        fn is_not() {}
    }
    struct Clones;
    struct Defaults;
    impl<T: ?Sized> Copied<()> for T {}
    impl<T: Clone> Copied<Clones> for T {}
    impl<T: Default> Copied<Defaults> for T {}
    <Permit as Copied<_>>::is_not();
    <actpass_core::ExecutionContext as Copied<_>>::is_not();
    <actpass_core::Settlement as Copied<_>>::is_not();
    <Verdict as Copied<_>>::is_not();

    // The shared types implement the traits.
    fn shared<T: Clone + fmt::Debug + Send + Sync>() {}
    shared::<Blocked>();
    shared::<ActPass>();
    shared::<Error>();
}

#[test]
fn authorize_matches_guard() {
    let answer = r#"{"decision":"allow","evidence_event_id":"ev_1","reason_code":"test"}"#;
    let client = over(ScriptedTransport::answer(200, answer));
    let verdict = block_on(client.authorize(&action())).unwrap();
    let Verdict::Proceed(permit) = verdict else { panic!("{verdict:?}") };
    let (context, settlement) = permit.spend(&TokioClock).unwrap();
    assert_eq!(context.decision().evidence_event_id().as_deref(), Some("ev_1"));
    let outcome = settlement.settle(Ok::<_, Error>(7));
    assert_eq!(
        outcome.canonical().unwrap(),
        r#"{"decision":{"decision":"allow","evidence_event_id":"ev_1","explain":{"matched_rules":[],"next_steps":[],"summary":""},"reason_code":"test"},"error":null,"executed":true}"#
    );

    let client = over(ScriptedTransport::answer(429, ""));
    let verdict = block_on(client.authorize(&action())).unwrap();
    let Verdict::Blocked(blocked) = verdict else { panic!("{verdict:?}") };
    assert_eq!(blocked.decision().reason_code(), "actpass.rate_limited");
    assert_eq!(blocked.error().unwrap().status(), Some(429));
    let outcome = Outcome::<(), Error>::Blocked(blocked);
    assert!(
        outcome
            .canonical()
            .unwrap()
            .ends_with(r#","error":{"kind":"rate_limit","status":429},"executed":false}"#)
    );
}

fn decision(word: &str, recorded: bool) -> String {
    match recorded {
        true => json!({
            "decision": word, "reason_code": "test", "evidence_event_id": "ev_1",
            "request_hash": "{{request_hash}}",
        })
        .to_string(),
        false => json!({"decision": word, "reason_code": "test"}).to_string(),
    }
}

/// The result of a response in a mode: the number of runs and the outcome.
fn answered(
    mode: Mode,
    status: u16,
    body: impl AsRef<[u8]>,
) -> (usize, Outcome<(), std::convert::Infallible>) {
    guarded(&over(ScriptedTransport::answer(status, body.as_ref())), mode)
}

fn guarded(client: &ActPass, mode: Mode) -> (usize, Outcome<(), std::convert::Infallible>) {
    block_on(counted(client, &action().mode(mode)))
}

fn twice(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.replace("{{request_hash}}", &"0".repeat(64)).len()
    )
    .repeat(2)
}
