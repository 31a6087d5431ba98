//! Approvals over HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use actpass_gateway::clock::Clock;
use actpass_gateway::config::{MasterKeySource, Settings};
use actpass_gateway::seal::MasterKey;
use actpass_protocol::{Json, hash_payload};
use common::{Gateway, json, refund, text};
use futures_util::future::join_all;

async fn start() -> (Gateway, Arc<AtomicU64>) {
    let time = Arc::new(AtomicU64::new(1_800_000_000));
    let gateway = Gateway::start_with("", with(&time)).await;
    (gateway, time)
}

/// Starts a gateway without reuse of approvals.
async fn start_without_reuse() -> (Gateway, Arc<AtomicU64>) {
    let time = Arc::new(AtomicU64::new(1_800_000_000));
    let change = with(&time);
    let gateway = Gateway::start_with("", |settings| {
        change(settings);
        settings.reuse_approvals = false;
    })
    .await;
    (gateway, time)
}

fn with(time: &Arc<AtomicU64>) -> impl FnOnce(&mut Settings) + use<> {
    let time = Arc::clone(time);
    move |settings| {
        settings.master_key = MasterKeySource::Given(MasterKey::parse(&"07".repeat(32)).unwrap());
        settings.timeouts.stop = Duration::from_secs(60);
        settings.clock = Clock::new(move || UNIX_EPOCH + Duration::from_secs(time.load(Ordering::SeqCst)));
    }
}

/// Requests a refund that needs an approval; returns the approval's id.
async fn ask(gateway: &Gateway) -> String {
    let response = gateway.decide("apk_one", &refund("25000", "")).await;
    assert_eq!(text(&response, "decision"), Some("require_approval"));
    text(&response, "approval_request_id").unwrap().to_owned()
}

fn naming(amount: &str, id: &str, more: &str) -> String {
    refund(amount, &format!(r#", "approval_request_id": "{id}"{more}"#))
}

async fn say(gateway: &Gateway, key: &str, id: &str, word: &str, body: &str) -> (u16, Json) {
    let request = gateway.post(&format!("/api/v1/approvals/{id}/{word}"), key).body(body.to_owned());
    let (status, response) = json(request.send().await.unwrap()).await;
    (status.as_u16(), response)
}

async fn approve(gateway: &Gateway, id: &str) {
    let (status, response) = say(gateway, "apdv_one", id, "approve", "{}").await;
    assert_eq!((status, text(&response, "status")), (200, Some("approved")), "{response}");
}

async fn look(gateway: &Gateway, key: &str, path: &str) -> (u16, Json) {
    let response = gateway.get(&format!("/api/v1/approvals{path}"), key).send().await.unwrap();
    let (status, response) = json(response).await;
    (status.as_u16(), response)
}

#[track_caller]
fn assert_is(response: &Json, decision: &str, reason: &str) {
    let found = (text(response, "decision"), text(response, "reason_code"));
    assert_eq!(found, (Some(decision), Some(reason)), "{response}");
}

#[tokio::test]
async fn approval_allows_exact_action_once() {
    let (gateway, _) = start().await;
    let id = ask(&gateway).await;
    let again = gateway.decide("apk_one", &naming("25000", &id, "")).await;
    assert_is(&again, "require_approval", "approval.pending");
    assert_eq!(text(&again, "approval_request_id"), Some(&*id));

    let (_, before) = look(&gateway, "apk_one", &format!("/{id}")).await;
    let action = r#"{"tool": "refunds.create", "resource": "", "args": {"amount": 25000, "currency": "usd"},
                     "goal": "refund an order", "agent_id": "sdk", "user_id": null}"#;
    let hash = hash_payload(&Json::parse(action.as_bytes()).unwrap()).unwrap();
    assert_eq!(
        before.to_string(),
        format!(
            r#"{{"id":"{id}","status":"pending","action_hash":"{hash}","decided_by":null,"decided_at":null,"deadline":"2027-01-15T08:15:00Z","halt_epoch":0,"needs":{{"quorum":1}},"votes":[],"still_needed":[{{"count":1}}]}}"#
        )
    );
    let (status, approved) = say(&gateway, "apdv_one", &id, "approve", r#"{"note": "called them"}"#).await;
    assert_eq!((status, text(&approved, "decided_by")), (200, Some("name-of-apdv-one")));
    assert_eq!(text(&approved, "decided_at"), Some("2027-01-15T08:00:00Z"));

    for body in [
        naming("25001", &id, ""),
        naming("25000", &id, r#", "user_id": "u""#),
        naming("25000", &id, "").replace("refund an order", "another"),
        naming("25000", &id, "").replace("\"sdk\"", "\"other\""),
        naming("25000", &id, "").replace("\"usd\"", "\"usd\", \"memo\": 1"),
    ] {
        assert_is(&gateway.decide("apk_one", &body).await, "deny", "approval.action_mismatch");
    }
    // The policy still applies, and reading spends nothing.
    assert_is(&gateway.decide("apk_one", &naming("90000", &id, "")).await, "deny", "refund.over_limit");
    assert_is(&gateway.decide("apk_one", &naming("1", &id, "")).await, "allow", "refund.small_in_scope");
    for mode in ["monitor", "warn"] {
        let looked =
            gateway.decide("apk_one", &naming("25000", &id, &format!(r#", "mode": "{mode}""#))).await;
        assert_is(&looked, "allow", "approval.approved");
    }
    let body = naming("25000", &id, r#", "idempotency_key": "i""#);
    let first = gateway.decide("apk_one", &body).await;
    assert_is(&first, "allow", "approval.approved");
    assert_eq!(first.member("approval_request_id"), None);
    let rules = first.member("explain").unwrap().member("matched_rules").unwrap().to_string();
    assert_eq!(rules, r#"["medium_refund_needs_approval"]"#);
    common::assert_repeats(&gateway.decide("apk_one", &body).await, &first);
    assert_is(&gateway.decide("apk_one", &naming("25000", &id, "")).await, "deny", "approval.spent");

    let events = gateway.events("apk_one", "decisions").await;
    let approval: Vec<_> =
        events.iter().filter(|event| text(event, "event_type") == Some("approval.approved")).collect();
    assert_eq!(approval.len(), 1);
    assert_eq!(text(approval[0], "metadata.decided_by"), Some("name-of-apdv-one"));
    assert_eq!(approval[0].member("metadata").unwrap().member("has_note"), Some(&Json::Bool(true)));
    assert!(!format!("{events:?}").contains("called them"));
    assert_eq!(text(&events[0], "approval_request_id"), Some(&*id));
    gateway.stop().await;
}

#[tokio::test]
async fn only_operators_decide_before_deadline() {
    let (gateway, time) = start_without_reuse().await;
    let id = ask(&gateway).await;
    for word in ["approve", "reject"] {
        let (status, response) = say(&gateway, "apk_one", &id, word, "{}").await;
        assert_eq!((status, text(&response, "error.code")), (403, Some("forbidden")));
        assert_eq!(say(&gateway, "apk_two", &id, word, "{}").await.0, 403);
        assert_eq!(say(&gateway, "apdv_one", "apr_0", word, "{}").await.0, 404);
        let long = format!(r#"{{"note": "{}"}}"#, "n".repeat(2001));
        assert_eq!(say(&gateway, "apdv_one", &id, word, &long).await.0, 422);
    }
    assert_eq!(look(&gateway, "apk_one", "").await.0, 403);
    assert_eq!(look(&gateway, "apk_two", &format!("/{id}")).await.0, 404);
    assert_eq!(look(&gateway, "apdv_one", "?status=done").await.0, 422);
    assert_is(&gateway.decide("apk_two", &naming("25000", &id, "")).await, "deny", "approval.unknown");
    assert_is(&gateway.decide("apk_one", &naming("25000", "apr_0", "")).await, "deny", "approval.unknown");

    let (_, list) = look(&gateway, "apdv_one", "?status=pending").await;
    let Some(Json::Array(pending)) = list.member("approvals") else { panic!("{list}") };
    assert_eq!(pending.len(), 1);
    assert_eq!(text(&pending[0], "id"), Some(&*id));
    assert_eq!(pending[0].member("args").unwrap().to_string(), r#"{"amount":25000,"currency":"usd"}"#);
    for (member, expected) in [
        ("tool", "refunds.create"),
        ("resource", ""),
        ("goal", "refund an order"),
        ("agent_id", "sdk"),
        ("reason_code", "refund.medium_needs_approval"),
        ("created_at", "2027-01-15T08:00:00Z"),
        ("deadline", "2027-01-15T08:15:00Z"),
    ] {
        assert_eq!(text(&pending[0], member), Some(expected), "{member}");
    }

    let rejected = say(&gateway, "apdv_one", &id, "reject", "{}").await;
    assert_eq!((rejected.0, text(&rejected.1, "status")), (200, Some("rejected")));
    for word in ["approve", "reject"] {
        let (status, response) = say(&gateway, "apdv_one", &id, word, "{}").await;
        assert_eq!((status, text(&response, "error.code")), (409, Some("already_decided")));
    }
    assert_is(&gateway.decide("apk_one", &naming("25000", &id, "")).await, "deny", "approval.rejected");

    let (late, approved) = (ask(&gateway).await, ask(&gateway).await);
    time.fetch_add(899, Ordering::SeqCst);
    approve(&gateway, &approved).await;
    time.fetch_add(1, Ordering::SeqCst);
    assert_eq!(say(&gateway, "apdv_one", &late, "approve", "{}").await.0, 409);
    assert_eq!(text(&look(&gateway, "apk_one", &format!("/{late}")).await.1, "status"), Some("expired"));
    assert_is(&gateway.decide("apk_one", &naming("25000", &late, "")).await, "deny", "approval.expired");
    assert_eq!(look(&gateway, "apdv_one", "").await.1.to_string(), r#"{"approvals":[],"halt_epoch":0}"#);
    // An approval expires, and a clock that steps back does not revive it.
    time.fetch_add(898, Ordering::SeqCst);
    let looked = gateway.decide("apk_one", &naming("25000", &approved, r#", "mode": "monitor""#)).await;
    assert_is(&looked, "allow", "approval.approved");
    time.fetch_add(1, Ordering::SeqCst);
    assert_is(&gateway.decide("apk_one", &naming("25000", &approved, "")).await, "deny", "approval.expired");
    time.fetch_sub(100, Ordering::SeqCst);
    assert_is(&gateway.decide("apk_one", &naming("25000", &approved, "")).await, "deny", "approval.expired");
    gateway.stop().await;
}

#[tokio::test]
async fn only_enforcing_modes_open_approvals() {
    let (gateway, _) = start().await;
    for mode in ["monitor", "warn"] {
        let response = gateway.decide("apk_one", &refund("25000", &format!(r#", "mode": "{mode}""#))).await;
        assert_eq!(text(&response, "reason_code"), Some("refund.medium_needs_approval"));
        assert_eq!(response.member("approval_request_id"), None);
    }
    assert_eq!(look(&gateway, "apdv_one", "").await.1.to_string(), r#"{"approvals":[],"halt_epoch":0}"#);
    let body = refund("25000", r#", "mode": "strict", "idempotency_key": "i""#);
    let first = gateway.decide("apk_one", &body).await;
    assert!(text(&first, "approval_request_id").is_some());
    let again = gateway.decide("apk_one", &body).await;
    assert_eq!(text(&again, "approval_request_id"), text(&first, "approval_request_id"));
    assert_ne!(text(&again, "evidence_event_id"), text(&first, "evidence_event_id"));
    let unhashable = refund("25000, \"n\": 9007199254740993", "");
    assert_is(&gateway.decide("apk_one", &unhashable).await, "deny", "approval.not_hashable");
    let (_, list) = look(&gateway, "apdv_one", "").await;
    let Some(Json::Array(pending)) = list.member("approvals") else { panic!("{list}") };
    assert_eq!(pending.len(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn concurrent_requests_spend_approval_once() {
    let (gateway, _) = start_without_reuse().await;
    let id = ask(&gateway).await;
    let said =
        join_all(["approve", "reject", "approve"].map(|word| say(&gateway, "apdv_one", &id, word, "{}")))
            .await;
    assert_eq!(said.iter().filter(|(status, _)| *status == 200).count(), 1);
    let id = ask(&gateway).await;
    approve(&gateway, &id).await;
    let body = naming("25000", &id, "");
    let answers = join_all((0..200).map(|_| gateway.decide("apk_one", &body))).await;
    let allowed = answers.iter().filter(|response| text(response, "decision") == Some("allow")).count();
    let spent =
        answers.iter().filter(|response| text(response, "reason_code") == Some("approval.spent")).count();
    assert_eq!((allowed, spent), (1, 199));
    gateway.stop().await;
}

#[tokio::test]
async fn passport_and_approval_are_spent_atomically() {
    let (gateway, _) = start().await;
    let body = r#"{"audience": "a", "agent_id": "sdk", "goal": "refund an order", "allowed_tools": ["refunds.create"]}"#;
    let issue = async || {
        let request = gateway.post("/api/v1/passports/issue", "apk_one").body(body).send().await.unwrap();
        text(&json(request).await.1, "token").unwrap().to_owned()
    };
    let with = |token: &str| format!(r#", "passport": "{token}", "audience": "a""#);
    let (one, other) = (issue().await, issue().await);
    let asked = gateway.decide("apk_one", &refund("25000", &with(&one))).await;
    let id = text(&asked, "approval_request_id").unwrap().to_owned();
    approve(&gateway, &id).await;
    let allowed = gateway.decide("apk_one", &naming("25000", &id, &with(&one))).await;
    assert_is(&allowed, "allow", "approval.approved");
    assert_is(
        &gateway.decide("apk_one", &naming("25000", &id, &with(&one))).await,
        "deny",
        "passport.replayed",
    );
    assert_is(
        &gateway.decide("apk_one", &naming("25000", &id, &with(&other))).await,
        "deny",
        "approval.spent",
    );
    // The denied request did not spend the second passport.
    assert_is(
        &gateway.decide("apk_one", &refund("1", &with(&other))).await,
        "allow",
        "refund.small_in_scope",
    );
    gateway.stop().await;
}

/// Requests a passport that carries an approval.
async fn passport_for(gateway: &Gateway, key: &str, id: &str) -> (u16, Json) {
    let body = format!(
        r#"{{"audience": "a", "agent_id": "sdk", "goal": "refund an order",
            "allowed_tools": ["refunds.create", "refunds.read"], "approval_request_id": "{id}"}}"#
    );
    let request = gateway.post("/api/v1/passports/issue", key).body(body);
    let (status, response) = json(request.send().await.unwrap()).await;
    (status.as_u16(), response)
}

#[tokio::test]
async fn passport_can_carry_approval() {
    let (gateway, time) = start().await;
    let id = ask(&gateway).await;
    let refused = async |key: &str, id: &str| {
        let (status, response) = passport_for(&gateway, key, id).await;
        let message = text(&response, "error.message").unwrap().to_owned();
        assert_eq!((status, message.starts_with("approval_request_id: ")), (422, true), "{response}");
        message.rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(refused("apk_one", &id).await, "pending");
    assert_eq!(refused("apk_one", "apr_0").await, "unknown");
    approve(&gateway, &id).await;
    assert_eq!(refused("apk_two", &id).await, "unknown");

    let issued = async |id: &str| {
        let (status, response) = passport_for(&gateway, "apk_one", id).await;
        assert_eq!(status, 200, "{response}");
        text(&response, "token").unwrap().to_owned()
    };
    let (token, second) = (issued(&id).await, issued(&id).await);
    let body = format!(r#"{{"token": "{token}", "audience": "a"}}"#);
    let verified = gateway.post("/api/v1/passports/verify", "apk_one").body(body).send().await.unwrap();
    let (_, verified) = json(verified).await;
    let (_, approval) = look(&gateway, "apk_one", &format!("/{id}")).await;
    assert_eq!(text(&verified, "claims.approval_hash"), text(&approval, "action_hash"));
    assert_eq!(text(&verified, "claims.approval_request_id"), Some(&*id));

    // Only the approved action, even if the policy allows another.
    let with = |token: &str, more: &str| format!(r#", "passport": "{token}", "audience": "a"{more}"#);
    for body in [
        refund("25001", &with(&token, "")),
        refund("1", &with(&token, "")),
        refund("25000, \"memo\": 1", &with(&token, "")),
        refund("25000, \"n\": 9007199254740993", &with(&token, "")),
        refund("25000", &with(&token, "")).replace("refunds.create", "refunds.read"),
        refund("25000", &with(&token, r#", "approval_request_id": "apr_0""#)),
    ] {
        assert_is(&gateway.decide("apk_one", &body).await, "deny", "passport.approval");
    }
    let looked = gateway.decide("apk_one", &refund("25000", &with(&token, r#", "mode": "monitor""#))).await;
    assert_is(&looked, "allow", "approval.approved");
    let body = refund("25000", &with(&token, r#", "idempotency_key": "i""#));
    let allowed = gateway.decide("apk_one", &body).await;
    assert_is(&allowed, "allow", "approval.approved");
    common::assert_repeats(&gateway.decide("apk_one", &body).await, &allowed);
    // Passport and approval are spent, also for other passports and requests.
    let body = refund("25000", &with(&token, ""));
    assert_is(&gateway.decide("apk_one", &body).await, "deny", "passport.replayed");
    let body = refund("25000", &with(&second, ""));
    assert_is(&gateway.decide("apk_one", &body).await, "deny", "approval.spent");
    assert_is(&gateway.decide("apk_one", &naming("25000", &id, "")).await, "deny", "approval.spent");
    assert_eq!(refused("apk_one", &id).await, "used");

    let late = ask(&gateway).await;
    approve(&gateway, &late).await;
    time.fetch_add(800, Ordering::SeqCst);
    let token = issued(&late).await;
    time.fetch_add(100, Ordering::SeqCst);
    let body = refund("25000", &with(&token, ""));
    assert_is(&gateway.decide("apk_one", &body).await, "deny", "approval.expired");
    assert_eq!(refused("apk_one", &late).await, "expired");
    let events = gateway.events("apk_one", "decisions").await;
    let is_issued = |event: &&Json| text(event, "event_type") == Some("passport.issued");
    assert_eq!(text(events.iter().find(is_issued).unwrap(), "approval_request_id"), Some(&*id));
    gateway.stop().await;
}

#[tokio::test]
async fn approval_is_spent_once_across_passports() {
    let (gateway, _) = start().await;
    let id = ask(&gateway).await;
    approve(&gateway, &id).await;
    let issued = join_all((0..50).map(|_| passport_for(&gateway, "apk_one", &id))).await;
    let answers = join_all(issued.iter().map(|(_, issued)| {
        let token = text(issued, "token").unwrap();
        let body = refund("25000", &format!(r#", "passport": "{token}", "audience": "a""#));
        let gateway = &gateway;
        async move { gateway.decide("apk_one", &body).await }
    }))
    .await;
    let count =
        |reason| answers.iter().filter(|response| text(response, "reason_code") == Some(reason)).count();
    assert_eq!((count("approval.approved"), count("approval.spent")), (1, 49));
    gateway.stop().await;
}

#[tokio::test]
async fn wait_returns_on_decision() {
    let (gateway, _) = start().await;
    let id = ask(&gateway).await;
    for wrong in ["26", "-1", "x", "1&wait=2"] {
        assert_eq!(look(&gateway, "apk_one", &format!("/{id}?wait={wrong}")).await.0, 422, "{wrong}");
    }
    let path = format!("/{id}?wait=25");
    // More waiting requests than store connections.
    let waiting = join_all((0..20).map(|_| look(&gateway, "apk_one", &path)));
    let deciding = async {
        // They do not block others.
        gateway.decide("apk_one", &refund("1", "")).await;
        approve(&gateway, &id).await;
    };
    let started = std::time::Instant::now();
    let (answers, ()) = tokio::join!(waiting, deciding);
    assert!(
        answers
            .iter()
            .all(|(status, response)| *status == 200 && text(response, "status") == Some("approved"))
    );
    assert!(started.elapsed() < Duration::from_secs(20), "not woken by the decision");
    gateway.stop().await;
}

#[tokio::test]
async fn shutdown_releases_waiting_requests() {
    let (mut gateway, _) = start().await;
    let id = ask(&gateway).await;
    let server = gateway.server.take().unwrap();
    let path = format!("/{id}?wait=25");
    let waiting = look(&gateway, "apk_one", &path);
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.stop().await.unwrap();
    };
    let started = std::time::Instant::now();
    let ((status, response), ()) = tokio::join!(waiting, stopping);
    assert_eq!((status, text(&response, "status")), (200, Some("pending")));
    assert!(started.elapsed() < Duration::from_secs(20), "waited until the timeout");
}

#[tokio::test]
async fn approvals_survive_restart() {
    let (mut gateway, time) = start_without_reuse().await;
    let (open, approved, spent) = (ask(&gateway).await, ask(&gateway).await, ask(&gateway).await);
    approve(&gateway, &approved).await;
    approve(&gateway, &spent).await;
    gateway.decide("apk_one", &naming("25000", &spent, "")).await;
    gateway.restart(with(&time)).await;
    assert_is(
        &gateway.decide("apk_one", &naming("25000", &open, "")).await,
        "require_approval",
        "approval.pending",
    );
    assert_is(&gateway.decide("apk_one", &naming("25000", &spent, "")).await, "deny", "approval.spent");
    assert_is(
        &gateway.decide("apk_one", &naming("25000", &approved, "")).await,
        "allow",
        "approval.approved",
    );
    gateway.stop().await;
}
