//! The scripted gateway of `actpass_core::testing`.

#![cfg(feature = "testing")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use actpass_core::testing::{Answer, ScriptedGateway};
use actpass_core::{
    ActPass, Action, ApprovalStatus, ErrorKind, Json, Mode, Outcome, PassportRequest, VerifyRequest,
    hash_payload,
};
use common::{block_on, wait_until};
use serde_json::{Value, json};

const REFUND: &str = "stripe.refund.create";

fn refund(amount: u32) -> Action {
    Action::new("resolve_refund_request", REFUND).args(json!({"amount": amount}))
}

/// The decision word and the reason code of a guard of `action`, and whether it ran.
fn guard(actpass: &ActPass, action: &Action) -> (String, String, bool) {
    let outcome = block_on(actpass.guard(action, async |_| Ok::<_, ()>(()))).unwrap();
    let decision = outcome.decision();
    (decision.word().as_str().to_owned(), decision.reason_code().into_owned(), outcome.executed())
}

fn is(found: &(String, String, bool), word: &str, reason_code: &str) -> bool {
    (found.0.as_str(), found.1.as_str(), found.2) == (word, reason_code, word == "allow")
}

#[test]
fn scripted_answers_reach_the_guard() {
    let gateway = ScriptedGateway::new();
    let actpass = gateway.client().unwrap();
    assert!(is(&guard(&actpass, &refund(1)), "deny", "test.unscripted"));

    gateway.script_all(Answer::allow());
    gateway.script(REFUND, Answer::deny().reason_code("refund.over_limit"));
    assert!(is(&guard(&actpass, &refund(1)), "deny", "refund.over_limit"));
    assert!(is(&guard(&actpass, &Action::new("g", "crm.note.add")), "allow", "test.allow"));

    gateway.script_next(Answer::warn());
    gateway.script_next(Answer::allow());
    assert!(is(&guard(&actpass, &refund(1)), "warn", "test.warn"));
    assert!(is(&guard(&actpass, &refund(2)), "allow", "test.allow"));
    assert!(is(&guard(&actpass, &refund(3)), "deny", "refund.over_limit"));

    gateway.script_all(Answer::unreachable());
    let quick = ActPass::builder().api_key("k").max_retries(0).scripted_gateway(&gateway).build().unwrap();
    assert!(is(&guard(&quick, &refund(1)), "deny", "actpass.unreachable"));

    let ran: Vec<_> = gateway.executions().into_iter().map(|it| (it.tool, it.args.to_string())).collect();
    assert_eq!(
        ran,
        [("crm.note.add".to_owned(), "{}".to_owned()), (REFUND.to_owned(), r#"{"amount":2}"#.to_owned())]
    );
    gateway.assert_executed(REFUND, 1);
    gateway.assert_not_executed("rm");
    assert_eq!(gateway.actions().len(), 7);
    assert_eq!(gateway.actions()[0].member("tool"), Some(&Json::from(REFUND)));
}

#[test]
fn assertions_fail_with_the_counts() {
    let gateway = ScriptedGateway::new();
    gateway.script_all(Answer::allow());
    guard(&gateway.client().unwrap(), &refund(1));
    for (failing, message) in [
        (
            Box::new(|| gateway.assert_not_executed(REFUND)) as Box<dyn Fn()>,
            "to run 0 times, but it ran 1 times",
        ),
        (Box::new(|| gateway.assert_executed(REFUND, 2)), "to run 2 times, but it ran 1 times"),
        (
            Box::new(|| gateway.assert_executed("crm.note.add", 1)),
            "crm.note.add to run 1 times, but it ran 0",
        ),
    ] {
        let panic = catch_unwind(AssertUnwindSafe(failing)).unwrap_err();
        let panic = panic.downcast_ref::<String>().unwrap();
        assert!(panic.contains(message) && panic.contains(r#"ran: ["stripe.refund.create"]"#), "{panic}");
    }
}

#[test]
fn permit_that_is_not_spent_is_not_executed() {
    let gateway = ScriptedGateway::new();
    gateway.script_all(Answer::allow());
    drop(block_on(gateway.client().unwrap().authorize(&refund(1))).unwrap());
    gateway.assert_not_executed(REFUND);
}

#[test]
fn monitor_runs_and_is_journaled() {
    let gateway = ScriptedGateway::new();
    let found = guard(&gateway.client().unwrap(), &refund(1).mode(Mode::Monitor));
    assert_eq!(found, ("deny".to_owned(), "test.unscripted".to_owned(), true));
    gateway.assert_executed(REFUND, 1);
}

#[test]
fn strict_runs_on_a_scripted_allow() {
    let gateway = ScriptedGateway::new();
    gateway.script_all(Answer::allow());
    assert!(is(&guard(&gateway.client().unwrap(), &refund(1).mode(Mode::Strict)), "allow", "test.allow"));
    gateway.script_all(Answer::allow().member("request_hash", json!("of another")));
    let found = guard(&gateway.client().unwrap(), &refund(1).mode(Mode::Strict));
    assert!(is(&found, "deny", "actpass.invalid_response"), "{found:?}");
}

#[test]
fn approval_allows_its_action_once() {
    let gateway = ScriptedGateway::new();
    let actpass = gateway.client().unwrap();
    gateway.script(REFUND, Answer::require_approval().reason_code("refund.medium"));
    assert!(is(&guard(&actpass, &refund(1)), "require_approval", "refund.medium"));
    assert!(is(&guard(&actpass, &refund(1)), "require_approval", "refund.medium"));
    assert!(is(&guard(&actpass, &refund(2)), "require_approval", "refund.medium"));
    let ids =
        || gateway.approvals().iter().map(|it| (it.id.clone(), it.status, it.spent)).collect::<Vec<_>>();
    let state = |id: &str, status, spent| (id.to_owned(), status, spent);
    use ApprovalStatus::{Approved, Pending};
    assert_eq!(ids(), [state("apr_1", Pending, false), state("apr_2", Pending, false)]);

    assert_eq!(gateway.approve("apr_1").unwrap(), "apr_1");
    assert!(is(&guard(&actpass, &refund(2)), "require_approval", "refund.medium"));
    let other_agent =
        ActPass::builder().api_key("k").agent_id("other").scripted_gateway(&gateway).build().unwrap();
    assert!(is(&guard(&other_agent, &refund(1)), "require_approval", "refund.medium"));
    gateway.assert_not_executed(REFUND);
    assert!(is(&guard(&actpass, &refund(1)), "allow", "approval.approved"));
    assert!(is(&guard(&actpass, &refund(1)), "require_approval", "refund.medium"));
    gateway.assert_executed(REFUND, 1);
    let expected = [
        ("apr_1", Approved, true),
        ("apr_2", Pending, false),
        ("apr_3", Pending, false),
        ("apr_4", Pending, false),
    ];
    assert_eq!(ids(), expected.map(|(id, status, spent)| state(id, status, spent)));
}

#[test]
fn named_approval_is_compared_and_spent_once() {
    let gateway = ScriptedGateway::new();
    let actpass = gateway.client().unwrap();
    gateway.script(REFUND, Answer::require_approval());
    let named = |amount, id: &str| guard(&actpass, &refund(amount).approval_request_id(id));
    guard(&actpass, &refund(1));
    assert!(is(&named(1, "apr_1"), "require_approval", "approval.pending"));
    assert!(is(&named(1, "apr_9"), "deny", "approval.unknown"));
    gateway.approve(REFUND).unwrap();
    assert!(is(&named(2, "apr_1"), "deny", "approval.action_mismatch"));
    for other in [
        refund(1).user_id("u_2"),
        refund(1).resource("r"),
        Action::new("another goal", REFUND).args(json!({"amount": 1})),
        Action::new("resolve_refund_request", "crm.note.add").args(json!({"amount": 1})),
    ] {
        gateway.script("crm.note.add", Answer::require_approval());
        assert!(is(
            &guard(&actpass, &other.approval_request_id("apr_1")),
            "deny",
            "approval.action_mismatch"
        ));
    }
    gateway.assert_not_executed(REFUND);
    assert!(is(&named(1, "apr_1"), "allow", "approval.approved"));
    assert!(is(&named(1, "apr_1"), "deny", "approval.spent"));
    gateway.assert_executed(REFUND, 1);
}

#[test]
fn rejected_and_expired_approvals_deny() {
    let gateway = ScriptedGateway::new();
    let actpass = gateway.client().unwrap();
    gateway.script(REFUND, Answer::require_approval());
    for (amount, reason_code) in [(1, "approval.rejected"), (2, "approval.expired"), (3, "approval.expired")]
    {
        guard(&actpass, &refund(amount));
        let id = match amount {
            1 => gateway.reject(REFUND).unwrap(),
            2 => gateway.expire(REFUND).unwrap(),
            _ => {
                gateway.approve(REFUND).unwrap();
                gateway.expire(REFUND).unwrap()
            }
        };
        assert_eq!(id, format!("apr_{amount}"));
        assert!(is(&guard(&actpass, &refund(amount).approval_request_id(id)), "deny", reason_code));
    }
    // A decided approval is not found by its action: the same action opens another one.
    assert!(is(&guard(&actpass, &refund(1)), "require_approval", "test.require_approval"));
    assert_eq!(gateway.approvals().len(), 4);
    gateway.assert_not_executed(REFUND);
}

#[test]
fn present_script_decides_before_the_approval() {
    let gateway = ScriptedGateway::new();
    let actpass = gateway.client().unwrap();
    gateway.script_next(Answer::require_approval());
    guard(&actpass, &refund(1));
    gateway.approve(REFUND).unwrap();
    gateway.script(REFUND, Answer::deny());
    assert!(is(&guard(&actpass, &refund(1).approval_request_id("apr_1")), "deny", "test.deny"));
    gateway.script(REFUND, Answer::allow());
    assert!(is(&guard(&actpass, &refund(1).approval_request_id("apr_1")), "allow", "test.allow"));
    assert!(!gateway.approvals()[0].spent);
}

#[test]
fn approval_of_a_queued_answer_stays_usable() {
    let gateway = ScriptedGateway::new();
    let actpass = gateway.client().unwrap();
    gateway.script_next(Answer::require_approval());
    guard(&actpass, &refund(1));
    assert!(is(&guard(&actpass, &refund(2)), "deny", "test.unscripted"));
    gateway.approve("apr_1").unwrap();
    assert!(is(
        &guard(&actpass, &refund(2).approval_request_id("apr_1")),
        "deny",
        "approval.action_mismatch"
    ));
    assert!(is(&guard(&actpass, &refund(1)), "allow", "approval.approved"));
}

#[test]
fn observing_modes_open_and_spend_no_approval() {
    let gateway = ScriptedGateway::new();
    let actpass = gateway.client().unwrap();
    gateway.script(REFUND, Answer::require_approval());
    for mode in [Mode::Monitor, Mode::Warn] {
        guard(&actpass, &refund(1).mode(mode));
    }
    assert_eq!(gateway.approvals(), []);
    guard(&actpass, &refund(1));
    gateway.approve(REFUND).unwrap();
    guard(&actpass, &refund(1).mode(Mode::Monitor).approval_request_id("apr_1"));
    assert!(!gateway.approvals()[0].spent);
}

#[test]
fn members_of_the_script_are_kept() {
    let gateway = ScriptedGateway::new();
    let actpass = gateway.client().unwrap();
    let answer = Answer::require_approval()
        .member("approval_request_id", json!("apr_of_test"))
        .member("risk_tier", json!("high"))
        .member("credential", json!({"token": "tok_1", "expires_at": null}))
        .member("evidence_event_id", json!("ev_of_test"));
    gateway.script(REFUND, answer);
    let Outcome::Blocked(blocked) = block_on(actpass.guard(&refund(1), async |_| Ok::<_, ()>(()))).unwrap()
    else {
        panic!("it ran");
    };
    assert_eq!(blocked.approval().unwrap().id(), "apr_of_test");
    assert_eq!(blocked.decision().risk_tier().as_deref(), Some("high"));
    assert_eq!(blocked.decision().evidence_event_id().as_deref(), Some("ev_of_test"));
    guard(&actpass, &refund(2));
    assert_eq!(gateway.approvals()[1].id, "apr_of_test_2");

    gateway.approve("apr_of_test").unwrap();
    let token = block_on(actpass.guard(&refund(1), async |context| {
        Ok::<_, ()>(context.credential().map(|credential| credential.token().to_owned()))
    }));
    let Outcome::Returned { result, decision, .. } = token.unwrap() else { panic!("it did not run") };
    assert_eq!((result.as_deref(), decision.risk_tier().as_deref()), (Some("tok_1"), Some("high")));
}

#[test]
fn unknown_approval_is_an_error_that_lists_the_approvals() {
    let gateway = ScriptedGateway::new();
    let error = gateway.approve("apr_1").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Argument);
    let expected = "approval: expected the id of a pending approval, or a tool that has one, found \"apr_1\"; none was opened";
    assert_eq!(error.to_string(), expected);
    gateway.script(REFUND, Answer::require_approval());
    guard(&gateway.client().unwrap(), &refund(1));
    gateway.reject(REFUND).unwrap();
    for decide in [ScriptedGateway::approve, ScriptedGateway::reject, ScriptedGateway::expire] {
        let error = decide(&gateway, REFUND).unwrap_err().to_string();
        assert!(error.ends_with("; apr_1 of stripe.refund.create is rejected"), "{error}");
    }
}

#[test]
fn waiting_guard_runs_after_the_approval() {
    let gateway = ScriptedGateway::new();
    let actpass = gateway.client().unwrap();
    gateway.script(REFUND, Answer::require_approval());
    let waits = refund(1).wait_for_approval(Duration::from_secs(20));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| guard(&actpass, &waits));
        wait_until("the approval is opened", || gateway.approve(REFUND).is_ok());
        assert!(is(&waiting.join().unwrap(), "allow", "approval.approved"));
    });
    gateway.assert_executed(REFUND, 1);
    let undecided = refund(2).wait_for_approval(Duration::ZERO);
    assert!(is(&guard(&actpass, &undecided), "require_approval", "actpass.approval_timeout"));
}

#[test]
fn scripted_id_is_decided_before_it_is_opened() {
    let gateway = ScriptedGateway::new();
    let actpass = gateway.client().unwrap();
    for (amount, word, reason_code) in
        [(1, "allow", "approval.approved"), (2, "deny", "approval.rejected"), (3, "deny", "approval.expired")]
    {
        let id = format!("apr_of_test_{amount}");
        gateway.script_next(Answer::require_approval().member("approval_request_id", json!(id)));
        let decide = [ScriptedGateway::approve, ScriptedGateway::reject, ScriptedGateway::expire];
        assert_eq!(decide[amount as usize - 1](&gateway, &id).unwrap(), id);
        let waits = refund(amount).wait_for_approval(Duration::from_secs(20));
        assert!(is(&guard(&actpass, &waits), word, reason_code));
    }
    assert!(gateway.approve("apr_of_test").is_err());
    gateway.assert_executed(REFUND, 1);
}

#[test]
fn server_holds_a_poll_while_the_approval_is_pending() {
    let gateway = ScriptedGateway::new();
    gateway.script(REFUND, Answer::require_approval());
    guard(&gateway.client().unwrap(), &refund(1));
    let path = "/api/v1/approvals/apr_1?wait=3";
    assert_eq!(gateway.hold("GET", path), Duration::from_secs(3));
    assert_eq!(gateway.hold("GET", "/api/v1/approvals/apr_1?wait=900"), Duration::from_secs(25));
    for (method, other) in
        [("POST", path), ("GET", "/api/v1/approvals/apr_1"), ("GET", "/api/v1/approvals/apr_2?wait=3")]
    {
        assert_eq!(gateway.hold(method, other), Duration::ZERO, "{method} {other}");
    }
    let body = |path| {
        gateway
            .reply("GET", path, b"")
            .map(|(status, body)| (status, serde_json::from_str::<Value>(&body).unwrap()))
    };
    let action_hash = hash_payload(&Json::from(json!({
        "agent_id": "tests", "args": {"amount": 1}, "goal": "resolve_refund_request", "resource": "",
        "tool": REFUND, "user_id": null,
    })))
    .unwrap();
    let pending = json!({
        "id": "apr_1", "status": "pending", "action_hash": action_hash, "decided_by": null, "halt_epoch": 0,
    });
    assert_eq!(body(path), Some((200, pending)));
    gateway.approve("apr_1").unwrap();
    assert_eq!(gateway.hold("GET", path), Duration::ZERO);
    let approved = json!({"id": "apr_1", "status": "approved", "action_hash": action_hash, "decided_by": "test", "halt_epoch": 0});
    assert_eq!(body(path), Some((200, approved)));
    assert_eq!(body("/api/v1/approvals/apr_2").unwrap().0, 404);
}

#[test]
fn repeated_key_repeats_the_allow() {
    let gateway = ScriptedGateway::new();
    let actpass = gateway.client().unwrap();
    let keyed = |amount| refund(amount).idempotency_key("key_1");
    gateway.script(REFUND, Answer::deny());
    assert!(is(&guard(&actpass, &keyed(1)), "deny", "test.deny"));
    gateway.script(REFUND, Answer::require_approval());
    assert!(is(&guard(&actpass, &keyed(1)), "require_approval", "test.require_approval"));
    gateway.approve(REFUND).unwrap();
    assert!(is(&guard(&actpass, &keyed(1).approval_request_id("apr_1")), "allow", "approval.approved"));
    assert!(is(&guard(&actpass, &keyed(1)), "deny", "actpass.replayed"));
    let decision = block_on(actpass.preflight(&keyed(1))).unwrap();
    assert_eq!((decision.word().as_str(), decision.member("replayed")), ("allow", Some(Json::Bool(true))));

    let decision = block_on(actpass.guard(&keyed(2), async |_| Ok::<_, ()>(()))).unwrap();
    assert_eq!(decision.decision().reason_code(), "actpass.gateway_error");
    let Outcome::Blocked(blocked) = decision else { panic!("it ran") };
    assert_eq!(blocked.error().unwrap().status(), Some(409));
    gateway.assert_executed(REFUND, 1);

    // The basis of the `allow` is no longer valid.
    gateway.script(REFUND, Answer::deny());
    assert!(is(&guard(&actpass, &keyed(1)), "deny", "test.deny"));
}

#[test]
fn replayed_allow_ends_with_its_approval() {
    let gateway = ScriptedGateway::new();
    let actpass = gateway.client().unwrap();
    gateway.script(REFUND, Answer::allow());
    assert!(is(&guard(&actpass, &refund(1).idempotency_key("key_1")), "allow", "test.allow"));
    gateway.script(REFUND, Answer::deny());
    assert!(is(&guard(&actpass, &refund(1).idempotency_key("key_1")), "deny", "test.deny"));
    gateway.script(REFUND, Answer::allow());
    assert!(is(&guard(&actpass, &refund(1).idempotency_key("key_1")), "deny", "actpass.replayed"));
    gateway.assert_executed(REFUND, 1);
}

#[test]
fn retry_after_a_scripted_failure_runs_once() {
    let gateway = ScriptedGateway::new();
    let actpass = gateway.client().unwrap();
    gateway.script(REFUND, Answer::allow());
    gateway.script_next(Answer::response(503, json!({})));
    gateway.script_next(Answer::unreachable());
    assert!(is(&guard(&actpass, &refund(1)), "allow", "test.allow"));
    assert_eq!(gateway.actions().len(), 3);
    gateway.assert_executed(REFUND, 1);
}

#[test]
fn passports_and_evidence() {
    let gateway = ScriptedGateway::new();
    let actpass = gateway.client().unwrap();
    block_on(async {
        let issued =
            actpass.issue_passport(&PassportRequest::new("mcp://bank", "demo", [REFUND])).await.unwrap();
        let token = issued.token().to_owned();
        let verify = async |token: &str| {
            let verified = actpass.verify_passport(&VerifyRequest::new(token, "mcp://bank")).await.unwrap();
            (verified.is_valid(), verified.errors().join(" "))
        };
        assert_eq!(verify(&token).await, (true, String::new()));
        assert_eq!(verify("forged").await, (false, "passport.malformed".to_owned()));
        assert!(!actpass.revoke_passport("ap_9", None).await.unwrap().is_revoked());
        assert!(actpass.revoke_passport("ap_1", None).await.unwrap().is_revoked());
        assert_eq!(verify(&token).await, (false, "passport.revoked".to_owned()));
        let event = actpass_core::EvidenceEvent::new("refund.sent", "case_42");
        let recorded = actpass.record_evidence(&event).await.unwrap();
        assert!(recorded.event_id().starts_with("ev_") && recorded.current_event_hash().unwrap().len() == 64);
    });
    assert_eq!(gateway.evidence()[0].member("event_type"), Some(&Json::from("refund.sent")));
}

#[test]
fn rejects_invalid_requests() {
    let gateway = ScriptedGateway::new();
    let preflight = "/api/v1/actions/preflight";
    for (method, path, body, status, message) in [
        ("GET", preflight, "", 405, "/api/v1/actions/preflight: expected POST, found GET"),
        ("POST", "/.well-known/jwks.json", "", 405, "/.well-known/jwks.json: expected GET, found POST"),
        ("POST", "/api/v1/nothing", "{}", 404, "/api/v1/nothing: not found"),
        ("GET", "/api/v1/approvals", "", 404, "/api/v1/approvals: not found"),
        ("POST", preflight, "[]", 422, "expected an object, found an array"),
        ("POST", preflight, r#"{"tool": 7}"#, 422, "tool: expected a string"),
    ] {
        let (found, body) = gateway.reply(method, path, body.as_bytes()).unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((found, body["error"]["message"].as_str()), (status, Some(message)), "{method} {path}");
    }
    assert_eq!(gateway.reply("POST", preflight, b"{").unwrap().0, 400);
    let jwks = gateway.reply("GET", "/.well-known/jwks.json", b"");
    assert_eq!(jwks, Some((200, r#"{"keys":[]}"#.to_owned())));
    assert_eq!(gateway.requests().len(), 8);
}

#[test]
fn answer_of_a_binding_is_validated() {
    assert_eq!(Answer::from_text(200, None).unwrap(), Answer::unreachable());
    assert_eq!(
        Answer::from_text(200, Some(r#"{"decision":"allow"}"#)).unwrap().to_string(),
        r#"{"decision":"allow"}"#
    );
    for (status, body, problem) in [
        (200, "{", "answer: "),
        (0, "{}", "answer: expected a status of 100 to 999, found 0"),
        (1000, "{}", "answer: expected a status of 100 to 999, found 1000"),
    ] {
        let error = Answer::from_text(status, Some(body)).unwrap_err();
        assert!(error.kind() == ErrorKind::Argument && error.to_string().starts_with(problem), "{error}");
    }
}
