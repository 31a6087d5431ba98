//! Actions that wait for approval, and the recording of outcomes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actpass_core::{
    ACTION_OUTCOME, ActPass, Action, ApprovalStatus, ErrorKind, Json, Mode, Outcome, PendingApproval,
    hash_payload,
};
use actpass_hostile_gateway::{HostileGateway, Script, Seen};
use common::{block_on, eventually};
use serde_json::{Value, json};

const WAIT: Duration = Duration::from_secs(20);

fn respond(json: &Value) -> Value {
    json!({"do": "respond", "json": json})
}

fn asked() -> Value {
    respond(
        &json!({"decision": "require_approval", "reason_code": "refund.medium", "approval_request_id": "apr_1",
            "evidence_event_id": "ev_1"}),
    )
}

fn stands(status: &str) -> Value {
    respond(&json!({"id": "apr_1", "status": status, "decided_by": "alice"}))
}

fn allowed() -> Value {
    respond(&json!({"decision": "allow", "reason_code": "approval.approved", "evidence_event_id": "ev_2",
        "evidence_chain_id": "decisions", "request_hash": "{{request_hash}}",
        "credential": {"token": "tok_after_approval", "expires_at": null}}))
}

fn gateway(steps: &[Value]) -> HostileGateway {
    HostileGateway::start(Script::from_json(json!({"steps": steps})).unwrap()).unwrap()
}

fn client(gateway: &HostileGateway) -> ActPass {
    ActPass::builder().api_key("apk_1").base_url(gateway.base_url()).max_retries(0).build().unwrap()
}

fn refund() -> Action {
    Action::new("resolve_refund_request", "stripe.refund.create")
        .resource("stripe:charge:ch_123")
        .args(json!({"amount": 25000, "currency": "usd"}))
        .user_id("u_1")
}

fn body(seen: &Seen) -> Value {
    serde_json::from_str(&seen.body).unwrap()
}

/// Guards `action` and returns the outcome and the number of runs.
fn guard(client: &ActPass, action: &Action) -> (Outcome<&'static str, ()>, usize) {
    let runs = AtomicUsize::new(0);
    let outcome = block_on(client.guard(action, |_| {
        runs.fetch_add(1, Ordering::SeqCst);
        async { Ok("refunded") }
    }))
    .unwrap();
    (outcome, runs.into_inner())
}

#[test]
fn approved_action_runs_once_unchanged() {
    let gateway = gateway(&[asked(), stands("pending"), stands("approved"), allowed()]);
    let action = refund().passport("a.b.c").idempotency_key("mine").wait_for_approval(WAIT);
    let (outcome, runs) = guard(&client(&gateway), &action);
    assert!(matches!(outcome, Outcome::Returned { result: "refunded", .. }));
    assert_eq!((runs, &*outcome.decision().reason_code()), (1, "approval.approved"));

    let seen = gateway.seen();
    let paths: Vec<_> = seen.iter().map(|seen| (seen.method.as_str(), seen.path.as_str())).collect();
    assert_eq!(paths[0], ("POST", "/api/v1/actions/preflight"));
    // The poll is shorter than the remaining wait, in whole seconds, and than the call timeout.
    assert_eq!(paths[1], ("GET", "/api/v1/approvals/apr_1?wait=19"));
    assert!(paths[2].1.starts_with("/api/v1/approvals/apr_1?wait=1"), "{paths:?}");
    assert_eq!((paths[3], paths.len()), (paths[0], 4));

    let (mut first, mut second) = (body(&seen[0]), body(&seen[3]));
    assert_eq!(second["approval_request_id"], "apr_1");
    assert_eq!((&first["idempotency_key"], &second["idempotency_key"]), (&json!("mine"), &json!("mine")));
    for body in [&mut first, &mut second] {
        body.as_object_mut().unwrap().remove("approval_request_id");
    }
    assert_eq!(first, Value::Object(second.as_object().unwrap().clone()), "nothing else differs");
    assert_eq!(first["passport"], "a.b.c");
}

#[test]
fn generated_key_changes_after_approval() {
    let gateway = gateway(&[asked(), stands("approved"), allowed()]);
    let (_, runs) = guard(&client(&gateway), &refund().wait_for_approval(WAIT));
    let seen = gateway.seen();
    assert_eq!((runs, seen.len()), (1, 3));
    assert_ne!(body(&seen[0])["idempotency_key"], body(&seen[2])["idempotency_key"]);
}

#[test]
fn replay_after_approval_runs_nothing() {
    let replayed = respond(&json!({"decision": "allow", "evidence_event_id": "ev_2", "replayed": true,
        "credential": {"token": "tok_after_approval", "expires_at": null}}));
    let reset = json!({"do": "reset", "at": "request"});
    for (steps, expected) in [(vec![replayed.clone()], 0), (vec![reset, replayed], 1)] {
        let gateway = gateway(&[vec![asked(), stands("approved")], steps].concat());
        let client = ActPass::builder().api_key("apk_1").base_url(gateway.base_url()).build().unwrap();
        let action = refund().idempotency_key("mine").wait_for_approval(WAIT);
        let (outcome, runs) = guard(&client, &action);
        assert_eq!(runs, expected);
        if let Outcome::Blocked(blocked) = &outcome {
            let decision = blocked.decision();
            assert_eq!(decision.reason_code(), "actpass.replayed");
            assert_eq!(decision.evidence_event_id().as_deref(), Some("ev_2"));
            assert_eq!(decision.approval_request_id().as_deref(), Some("apr_1"));
            assert!(!format!("{outcome:?}").contains("tok_after_approval"));
        }
    }
}

#[test]
fn unapproved_action_does_not_run() {
    for (steps, wait, word, reason, waits) in [
        (vec![stands("rejected"), allowed()], WAIT, "deny", "approval.rejected", false),
        (vec![stands("expired"), allowed()], WAIT, "deny", "approval.expired", false),
        (
            vec![stands("pending")],
            Duration::from_millis(1_200),
            "require_approval",
            "actpass.approval_timeout",
            true,
        ),
    ] {
        let gateway = gateway(&[vec![asked()], steps].concat());
        let action = refund().wait_for_approval(wait);
        let (outcome, runs) = guard(&client(&gateway), &action);
        let Outcome::Blocked(blocked) = outcome else { panic!("{reason}: it ran") };
        assert_eq!(runs, 0);
        let decision = blocked.decision();
        assert_eq!((decision.word().as_str(), &*decision.reason_code()), (word, reason));
        assert_eq!(decision.approval_request_id().as_deref(), Some("apr_1"));
        assert!(blocked.error().is_none());
        assert_eq!(blocked.approval().map(PendingApproval::id), waits.then_some("apr_1"), "{reason}");
        assert_eq!(decision.evidence_event_id().as_deref(), Some("ev_1"), "the evidence event id is kept");
    }
}

#[test]
fn failure_while_waiting_for_approval_blocks() {
    let other = respond(&json!({"id": "apr_2", "status": "approved"}));
    let shouted = respond(&json!({"id": "apr_1", "status": "APPROVED"}));
    let list = respond(&json!(["approved"]));
    for (step, reason, kind) in [
        (other, "actpass.invalid_response", ErrorKind::Response),
        (shouted, "actpass.invalid_response", ErrorKind::Response),
        (list, "actpass.invalid_response", ErrorKind::Response),
        (json!({"do": "respond", "status": 404}), "actpass.gateway_error", ErrorKind::Status),
        (
            json!({"do": "respond", "status": 401, "json": {"decision": "allow"}}),
            "actpass.unauthenticated",
            ErrorKind::Authentication,
        ),
    ] {
        let gateway = gateway(&[asked(), step, allowed()]);
        let (outcome, runs) = guard(&client(&gateway), &refund().wait_for_approval(WAIT));
        let Outcome::Blocked(blocked) = outcome else { panic!("{reason}: it ran") };
        assert_eq!(runs, 0);
        assert_eq!(blocked.decision().reason_code(), reason);
        assert_eq!(blocked.error().map(|error| error.kind()), Some(kind));
        assert_eq!(
            blocked.decision().approval_request_id().as_deref(),
            Some("apr_1"),
            "the approval id is kept"
        );
        assert_eq!(blocked.approval().map(PendingApproval::id), Some("apr_1"), "the handle is kept");
        assert_eq!(
            blocked.decision().evidence_event_id().as_deref(),
            Some("ev_1"),
            "the evidence event id is kept"
        );
        assert_eq!(gateway.seen().len(), 2, "{reason}: no further request");
    }
}

#[test]
fn polling_survives_gateway_restart() {
    let busy = json!({"do": "respond", "status": 503});
    let reset = json!({"do": "reset", "at": "request"});
    let gateway = gateway(&[asked(), busy, reset, stands("approved"), allowed()]);
    let (outcome, runs) = guard(&client(&gateway), &refund().wait_for_approval(WAIT));
    assert_eq!((outcome.executed(), runs), (true, 1));

    let gateway = self::gateway(&[asked(), json!({"do": "respond", "status": 503})]);
    let (outcome, runs) = guard(&client(&gateway), &refund().wait_for_approval(Duration::from_millis(1_500)));
    assert_eq!((outcome.executed(), runs), (false, 0));
    assert_eq!(outcome.decision().reason_code(), "actpass.gateway_error", "until the end");
}

#[test]
fn decision_after_approval_is_final() {
    for (answer, reason, kept) in [
        (json!({"decision": "deny", "reason_code": "approval.spent"}), "approval.spent", None),
        (
            json!({"decision": "require_approval", "reason_code": "again", "approval_request_id": "apr_2"}),
            "again",
            Some("apr_2"),
        ),
        (json!({"decision": "deny", "reason_code": "tool.quarantined"}), "tool.quarantined", Some("apr_1")),
        (
            json!({"decision": "allow", "request_hash": "of another"}),
            "actpass.invalid_response",
            Some("apr_1"),
        ),
    ] {
        let gateway =
            gateway(&[asked(), stands("approved"), respond(&answer), stands("approved"), allowed()]);
        let (outcome, runs) = guard(&client(&gateway), &refund().wait_for_approval(WAIT));
        assert_eq!((outcome.executed(), runs), (false, 0), "{answer}");
        assert_eq!(outcome.decision().reason_code(), reason);
        let Outcome::Blocked(blocked) = outcome else { panic!("{answer}: it ran") };
        assert_eq!(blocked.approval().map(PendingApproval::id), kept, "{answer}");
        assert_eq!(gateway.seen().len(), 3, "the guard waits once");
    }
}

#[test]
fn waits_only_for_pending_approvals() {
    let without_id = respond(&json!({"decision": "require_approval"}));
    let empty_id = respond(&json!({"decision": "require_approval", "approval_request_id": ""}));
    let refused = json!({"do": "respond", "status": 403, "json": {"decision": "require_approval",
        "approval_request_id": "apr_1"}});
    let denied = respond(&json!({"decision": "deny", "approval_request_id": "apr_1"}));
    for (step, action, executed, waits) in [
        (asked(), refund(), false, true),
        (asked(), refund().wait_for_approval(WAIT).mode(Mode::Monitor), true, false),
        (without_id, refund().wait_for_approval(WAIT), false, false),
        (empty_id, refund().wait_for_approval(WAIT), false, false),
        (refused, refund().wait_for_approval(WAIT), false, false),
        (denied, refund().wait_for_approval(WAIT), false, false),
    ] {
        let gateway = gateway(&[step, stands("approved"), allowed()]);
        let (outcome, _) = guard(&client(&gateway), &action);
        assert_eq!((outcome.executed(), gateway.seen().len()), (executed, 1));
        let pending = match &outcome {
            Outcome::Blocked(blocked) => blocked.approval().is_some(),
            Outcome::Failed { .. } | Outcome::Returned { .. } => false,
        };
        assert_eq!(pending, waits);
    }
}

#[test]
fn preflight_never_waits_for_approval() {
    let gateway = gateway(&[asked(), stands("approved"), allowed()]);
    let decision = block_on(client(&gateway).preflight(&refund().wait_for_approval(WAIT))).unwrap();
    assert_eq!(decision.word().as_str(), "require_approval");
    assert_eq!(gateway.seen().len(), 1);
}

#[test]
fn call_dropped_while_waiting_runs_nothing() {
    let gateway = gateway(&[asked(), json!({"do": "hang", "at": "request"})]);
    let client = client(&gateway);
    let action = refund().wait_for_approval(WAIT);
    let runs = AtomicUsize::new(0);
    block_on(async {
        let guarded = client.guard(&action, |_| {
            runs.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, ()>(()) }
        });
        tokio::select! {
            ended = guarded => panic!("{:?}", ended.map(|outcome| outcome.executed())),
            () = eventually("the approval is polled", || gateway.seen().len() == 2) => {}
        }
    });
    assert_eq!((runs.into_inner(), gateway.seen().len()), (0, 2));
}

#[test]
fn stored_handle_resumes_in_another_client() {
    let gateway = gateway(&[asked(), allowed()]);
    let (outcome, _) = guard(&client(&gateway), &refund().passport("a.secret.c").mode(Mode::Strict));
    let Outcome::Blocked(blocked) = outcome else { panic!("it ran") };
    let kept = blocked.approval().unwrap().to_json();
    assert!(!kept.contains("secret"), "{kept}");

    let pending = PendingApproval::parse(&kept).unwrap();
    let (outcome, runs) = guard(&client(&gateway), &pending.action());
    assert_eq!((outcome.executed(), runs), (true, 1));
    let seen = gateway.seen();
    let (first, second) = (body(&seen[0]), body(&seen[1]));
    for member in ["goal", "tool", "resource", "args", "user_id", "mode", "agent_id", "audience"] {
        assert_eq!(first[member], second[member], "{member}");
    }
    assert_eq!((&second["approval_request_id"], &second["passport"]), (&json!("apr_1"), &Value::Null));
}

#[test]
fn poll_returns_approval_status() {
    let gateway = gateway(&[stands("pending"), stands("pending"), stands("approved")]);
    let client = client(&gateway);
    let look = |wait| block_on(client.wait_for_approval("apr_1", wait));
    assert_eq!(look(Duration::ZERO).unwrap().status(), ApprovalStatus::Pending);
    // An infinite wait is limited to a month.
    let approval = look(Duration::MAX).unwrap();
    assert_eq!(
        (approval.status(), approval.decided_by().as_deref()),
        (ApprovalStatus::Approved, Some("alice"))
    );
    let paths: Vec<_> = gateway.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths[..2], ["/api/v1/approvals/apr_1?wait=0", "/api/v1/approvals/apr_1?wait=24"]);
    assert_eq!(look_error(&client, ""), "approval_request_id: expected a non-empty string");
}

fn look_error(client: &ActPass, id: &str) -> String {
    block_on(client.wait_for_approval(id, Duration::ZERO)).unwrap_err().to_string()
}

#[test]
fn records_outcome_on_the_decisions_chain() {
    let recorded = respond(&json!({"event_id": "ev_3", "current_event_hash": "aa"}));
    for (ended, response) in [(Ok(json!({"id": "re_1", "amount": 4900})), true), (Err("card closed"), false)]
    {
        let gateway = gateway(&[allowed(), recorded.clone()]);
        let (outcome, evidence) =
            block_on(client(&gateway).guard_and_record(&refund(), async |_| ended.clone())).unwrap();
        assert!(outcome.executed());
        assert_eq!(evidence.unwrap().unwrap().event_id(), "ev_3");
        let seen = gateway.seen();
        let event = body(&seen[1]);
        let hash = |value: &Value| hash_payload(&Json::from(value.clone())).unwrap();
        assert_eq!((&event["event_type"], &event["chain_id"]), (&json!(ACTION_OUTCOME), &json!("decisions")));
        assert_eq!(event["request_hash"], hash(&body(&seen[0])));
        assert_eq!(event["tool_id"], "stripe.refund.create");
        assert_eq!(
            (&event["decision"], &event["reason_code"]),
            (&json!("allow"), &json!("approval.approved"))
        );
        let word = if response { "returned" } else { "failed" };
        assert_eq!(event["metadata"], json!({"ended": word, "evidence_event_id": "ev_2"}));
        let expected = ended.ok().map_or(Value::Null, |result| json!(hash(&result)));
        assert_eq!(event["response_hash"], expected);
        assert!(!seen[1].body.contains("tok_after_approval") && !seen[1].body.contains("card closed"));
    }
}

#[test]
fn recording_failure_does_not_change_the_outcome() {
    let gateway = gateway(&[allowed(), json!({"do": "respond", "status": 500})]);
    let (outcome, evidence) =
        block_on(client(&gateway).guard_and_record(&refund(), async |_| Ok::<_, ()>("refunded"))).unwrap();
    assert!(matches!(outcome, Outcome::Returned { result: "refunded", .. }));
    assert_eq!(evidence.unwrap().unwrap_err().kind(), ErrorKind::Status);

    let gateway = self::gateway(&[respond(&json!({"decision": "deny"}))]);
    let (outcome, evidence) =
        block_on(client(&gateway).guard_and_record(&refund(), async |_| Ok::<_, ()>("refunded"))).unwrap();
    assert!(!outcome.executed() && evidence.is_none());
    assert_eq!(gateway.seen().len(), 1);
}
