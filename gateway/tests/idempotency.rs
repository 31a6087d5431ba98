//! Idempotency over HTTP: the replayed responses and their retention.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actpass_gateway::policy::Policy;
use actpass_protocol::{Json, hash_payload};
use common::{Gateway, assert_repeats, at_test_time, json, refund, start_at_test_time, text};
use futures_util::future::join_all;

async fn post(gateway: &Gateway, path: &str, key: &str, body: &str) -> Json {
    let (status, response) = json(gateway.post(path, key).body(body.to_owned()).send().await.unwrap()).await;
    assert_eq!(status, 200, "{response}");
    response
}

async fn approve(gateway: &Gateway, id: &str) {
    post(gateway, &format!("/api/v1/approvals/{id}/approve"), "apdv_one", "{}").await;
}

fn id_of(response: &Json) -> String {
    assert_eq!(text(response, "decision"), Some("require_approval"), "{response}");
    text(response, "approval_request_id").unwrap().to_owned()
}

#[track_caller]
fn assert_is(response: &Json, decision: &str, reason: &str) {
    let found = (text(response, "decision"), text(response, "reason_code"));
    assert_eq!(found, (Some(decision), Some(reason)), "{response}");
}

async fn events(gateway: &Gateway) -> usize {
    gateway.events("apk_one", "decisions").await.len()
}

#[tokio::test]
async fn idempotency_key_spans_approval_wait_and_replays_allow_only() {
    let (gateway, time) = start_at_test_time().await;
    let key = r#", "idempotency_key": "k", "mode": "strict""#;
    let body = refund("25000", key);
    let id = id_of(&gateway.decide("apk_one", &body).await);
    assert_eq!(id_of(&gateway.decide("apk_one", &body).await), id);
    approve(&gateway, &id).await;
    // The same request with the approval that it opened.
    let named = refund("25000", &format!(r#"{key}, "approval_request_id": "{id}""#));
    let first = gateway.decide("apk_one", &named).await;
    assert_is(&first, "allow", "approval.approved");
    assert_eq!(first.member("replayed"), None);
    let count = events(&gateway).await;
    time.fetch_add(7, Ordering::SeqCst);
    for _ in 0..3 {
        let again = gateway.decide("apk_one", &named).await;
        assert_repeats(&again, &first);
        assert_eq!(again.member("replay_age_ms").unwrap().to_string(), "7000");
    }
    // Without the approval it is the same request; the response refers to the body that was sent.
    let again = gateway.decide("apk_one", &body).await;
    assert_eq!(text(&again, "evidence_event_id"), text(&first, "evidence_event_id"));
    let hash = hash_payload(&Json::parse(body.as_bytes()).unwrap()).unwrap();
    assert_eq!(text(&again, "request_hash"), Some(&*hash));
    assert_ne!(text(&first, "request_hash"), Some(&*hash));
    assert_eq!(events(&gateway).await, count, "a replay appends nothing");
    // A key is bound to its body, regardless of the decision.
    for (key, amount) in [("k", "25001"), ("denied", "1")] {
        let denied = refund("90000", r#", "idempotency_key": "denied""#);
        assert_is(&gateway.decide("apk_one", &denied).await, "deny", "refund.over_limit");
        let other = refund(amount, &format!(r#", "idempotency_key": "{key}""#));
        let (status, _) =
            json(gateway.post(common::PREFLIGHT, "apk_one").body(other).send().await.unwrap()).await;
        assert_eq!(status, 409, "{key}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn replayed_allow_expires_with_its_approval() {
    let (gateway, time) = start_at_test_time().await;
    let body = refund("25000", r#", "idempotency_key": "k""#);
    let id = id_of(&gateway.decide("apk_one", &body).await);
    approve(&gateway, &id).await;
    let first = gateway.decide("apk_one", &body).await;
    assert_is(&first, "allow", "approval.approved");
    time.fetch_add(899, Ordering::SeqCst);
    assert_repeats(&gateway.decide("apk_one", &body).await, &first);
    time.fetch_add(1, Ordering::SeqCst);
    let over = gateway.decide("apk_one", &body).await;
    assert_is(&over, "deny", "approval.spent");
    assert_ne!(text(&over, "evidence_event_id"), text(&first, "evidence_event_id"));
    // Another approval of the same action is not spent under this key.
    let other = id_of(&gateway.decide("apk_one", &refund("25000", "")).await);
    approve(&gateway, &other).await;
    let naming = refund("25000", &format!(r#", "idempotency_key": "k", "approval_request_id": "{other}""#));
    assert_is(&gateway.decide("apk_one", &naming).await, "deny", "approval.spent");
    assert_is(&gateway.decide("apk_one", &body).await, "deny", "approval.spent");
    assert_is(&gateway.decide("apk_one", &refund("25000", "")).await, "allow", "approval.approved");
    gateway.stop().await;
}

#[tokio::test]
async fn replayed_allow_expires_with_its_passport() {
    let (gateway, time) = start_at_test_time().await;
    let issue = async || {
        let body = r#"{"audience": "a", "agent_id": "sdk", "goal": "refund an order", "allowed_tools": ["refunds.create"]}"#;
        post(&gateway, "/api/v1/passports/issue", "apk_one", body).await
    };
    for ends in ["revoked", "expired"] {
        let passport = issue().await;
        let token = text(&passport, "token").unwrap();
        let body =
            refund("1", &format!(r#", "passport": "{token}", "audience": "a", "idempotency_key": "{ends}""#));
        let first = gateway.decide("apk_one", &body).await;
        assert_is(&first, "allow", "refund.small_in_scope");
        assert_repeats(&gateway.decide("apk_one", &body).await, &first);
        if ends == "revoked" {
            let jti = text(&passport, "jti").unwrap();
            post(&gateway, "/api/v1/passports/revoke", "apk_one", &format!(r#"{{"jti": "{jti}"}}"#)).await;
        } else {
            time.fetch_add(300, Ordering::SeqCst);
        }
        let count = events(&gateway).await;
        assert_is(&gateway.decide("apk_one", &body).await, "deny", &format!("passport.{ends}"));
        assert_eq!(events(&gateway).await, count + 1, "the new decision is recorded");
    }
    gateway.stop().await;
}

/// A policy with this decision for everything.
fn policy_of(decision: &str) -> Policy {
    let text = format!(
        r#"{{"id": "p", "version": 2, "rules": [
            {{"name": "all", "when": [], "decision": "{decision}", "reason": "now.{decision}"}}]}}"#
    );
    Policy::parse(text.as_bytes()).unwrap_or_else(|problems| panic!("{problems}"))
}

#[tokio::test]
async fn replayed_allow_ends_with_policy_change() {
    for (decision, expected) in
        [("deny", "deny"), ("require_approval", "require_approval"), ("allow", "allow")]
    {
        let (mut gateway, time) = start_at_test_time().await;
        let body = refund("1", r#", "idempotency_key": "k""#);
        let first = gateway.decide("apk_one", &body).await;
        assert_is(&first, "allow", "refund.small_in_scope");
        let change = at_test_time(&time);
        gateway
            .restart(|settings| {
                change(settings);
                let mut keyring = actpass_gateway::auth::Keyring::default();
                let tenant = actpass_gateway::auth::Tenant::new("one", policy_of(decision));
                let role = actpass_gateway::auth::Role::Agent;
                let key = actpass_gateway::auth::ApiKey::new("name-of-apk-one", Arc::new(tenant), role, None);
                keyring.add(actpass_gateway::auth::ApiKeyHash::of("apk_one"), key);
                settings.keyring = keyring;
            })
            .await;
        let again = gateway.decide("apk_one", &body).await;
        assert_eq!(text(&again, "decision"), Some(expected), "{again}");
        match decision {
            "allow" => assert_repeats(&again, &first),
            _ => {
                assert_is(&again, expected, &format!("now.{decision}"));
                assert_ne!(text(&again, "evidence_event_id"), text(&first, "evidence_event_id"));
                assert_eq!(again.member("replayed"), None);
            }
        }
        gateway.stop().await;
    }
}

#[tokio::test]
async fn replayed_allow_ends_with_manifest_change() {
    let (gateway, _) = start_at_test_time().await;
    let approve_tool = async |manifest: &str| {
        let body = format!(r#"{{"tool_id": "refunds.create", "manifest": {{"v": "{manifest}"}}}}"#);
        let response = post(&gateway, "/api/v1/tools", "apdv_one", &body).await;
        text(&response, "manifest_hash").unwrap().to_owned()
    };
    let hash = approve_tool("one").await;
    let body = refund("1", &format!(r#", "tool_manifest_hash": "{hash}", "idempotency_key": "k""#));
    let first = gateway.decide("apk_one", &body).await;
    assert_is(&first, "allow", "refund.small_in_scope");
    assert_repeats(&gateway.decide("apk_one", &body).await, &first);
    approve_tool("two").await;
    assert_is(&gateway.decide("apk_one", &body).await, "require_tool_reapproval", "tool.manifest_changed");
    // The original definition again: allowed, but as a replay.
    approve_tool("one").await;
    let again = gateway.decide("apk_one", &body).await;
    assert_is(&again, "allow", "refund.small_in_scope");
    assert_eq!(again.member("replayed"), Some(&Json::Bool(true)));
    assert_ne!(text(&again, "evidence_event_id"), text(&first, "evidence_event_id"));
    gateway.stop().await;
}

#[tokio::test]
async fn stored_responses_are_pruned_after_retention() {
    let (mut gateway, time) = start_at_test_time().await;
    let change = at_test_time(&time);
    gateway
        .restart(|settings| {
            change(settings);
            settings.retention_seconds = 100;
        })
        .await;
    let body = |number: usize, amount: &str| refund(amount, &format!(r#", "idempotency_key": "k{number}""#));
    let first = gateway.decide("apk_one", &body(0, "1")).await;
    join_all((1..300).map(|number| {
        let gateway = &gateway;
        async move { gateway.decide("apk_one", &body(number, "1")).await }
    }))
    .await;
    let waited = refund("25000", r#", "idempotency_key": "w""#);
    let id = id_of(&gateway.decide("apk_one", &waited).await);
    approve(&gateway, &id).await;
    assert_is(&gateway.decide("apk_one", &waited).await, "allow", "approval.approved");
    time.fetch_add(99, Ordering::SeqCst);
    assert_repeats(&gateway.decide("apk_one", &body(0, "1")).await, &first);
    time.fetch_add(1, Ordering::SeqCst);
    // An expired key is free for any body.
    let other = gateway.decide("apk_one", &body(0, "2")).await;
    assert_is(&other, "allow", "refund.small_in_scope");
    assert_eq!(other.member("replayed"), None);
    // Spent grants stay spent.
    let named = refund("25000", &format!(r#", "idempotency_key": "w", "approval_request_id": "{id}""#));
    assert_is(&gateway.decide("apk_one", &named).await, "deny", "approval.spent");
    // Pruned in portions along with other records.
    for _ in 0..10 {
        gateway.decide("apk_one", &refund("1", "")).await;
    }
    let kept = kept_answers(&gateway).await;
    assert_eq!(kept, 2);
    gateway.stop().await;
}

/// Number of stored responses.
async fn kept_answers(gateway: &Gateway) -> usize {
    match &gateway.data {
        actpass_gateway::store::Location::File(path) => {
            let connection = rusqlite::Connection::open(path).unwrap();
            let count = connection.query_one("SELECT count(*) FROM answers", [], |row| row.get::<_, u32>(0));
            usize::try_from(count.unwrap()).unwrap()
        }
        #[cfg(unix)]
        actpass_gateway::store::Location::Database(database) => {
            let place = database.to_string();
            let (_, name) = place.rsplit_once('/').unwrap();
            let server = actpass_test_postgres::server().unwrap().unwrap();
            // The last portion is pruned after its response.
            for _ in 0..200 {
                let count = server.run(name, "SELECT count(*) FROM actpass.answers").unwrap();
                if count.trim() == "2" {
                    return 2;
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            usize::MAX
        }
        #[cfg(not(unix))]
        _ => panic!("these tests do not use a database"),
    }
}

#[tokio::test]
async fn approvals_are_reused_by_action() {
    let (gateway, time) = start_at_test_time().await;
    let body = refund("25000", "");
    let asked = join_all((0..30).map(|_| gateway.decide("apk_one", &body))).await;
    let ids: std::collections::BTreeSet<_> = asked.iter().map(id_of).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    let id = ids.first().unwrap();
    // Another action, another agent, or another key that claims the same agent opens its own
    // approval.
    for (key, body) in [
        ("apk_one", refund("25001", "")),
        ("apk_one", body.replace("\"sdk\"", "\"other\"")),
        ("apdv_one", body.clone()),
        ("apk_bound", body.clone()),
    ] {
        assert_ne!(id_of(&gateway.decide(key, &body).await), *id, "{key}");
    }
    for mode in ["monitor", "warn"] {
        let looked = gateway.decide("apk_one", &refund("25000", &format!(r#", "mode": "{mode}""#))).await;
        assert_eq!(
            text(&looked, "approval_request_id"),
            Some(&**id),
            "{mode} reports the approval that enforce joins"
        );
        let other = gateway.decide("apk_one", &refund("25002", &format!(r#", "mode": "{mode}""#))).await;
        assert_eq!(other.member("approval_request_id"), None, "{mode} opens nothing");
    }
    approve(&gateway, id).await;
    for mode in ["monitor", "warn", "monitor"] {
        let looked = gateway.decide("apk_one", &refund("25000", &format!(r#", "mode": "{mode}""#))).await;
        assert_is(&looked, "allow", "approval.approved");
    }
    // The observing modes spent nothing.
    // One of many concurrent requests spends it, and the others share one new approval.
    for key in ["apdv_one", "apk_bound"] {
        assert_ne!(id_of(&gateway.decide(key, &body).await), *id, "{key}");
    }
    let answers = join_all((0..30).map(|_| gateway.decide("apk_one", &body))).await;
    let (allowed, asked): (Vec<_>, Vec<_>) =
        answers.iter().partition(|response| text(response, "decision") == Some("allow"));
    assert_eq!(allowed.len(), 1);
    let next: std::collections::BTreeSet<_> = asked.iter().map(|response| id_of(response)).collect();
    assert_eq!((asked.len(), next.len()), (29, 1), "two payments need two approvals in sequence");
    assert_ne!(next.first(), Some(id));

    // A rejected or expired approval is not reused.
    let rejected = next.first().unwrap();
    post(&gateway, &format!("/api/v1/approvals/{rejected}/reject"), "apdv_one", "{}").await;
    let third = id_of(&gateway.decide("apk_one", &body).await);
    assert_ne!(third, *rejected);
    time.fetch_add(900, Ordering::SeqCst);
    let fourth = id_of(&gateway.decide("apk_one", &body).await);
    assert_ne!(fourth, third);
    // An approval that was not used in time is not reused either.
    approve(&gateway, &fourth).await;
    time.fetch_add(900, Ordering::SeqCst);
    assert_ne!(id_of(&gateway.decide("apk_one", &body).await), fourth);
    gateway.stop().await;
}

#[tokio::test]
async fn claimed_agent_cannot_spend_bound_agents_approval() {
    let (gateway, _) = start_at_test_time().await;
    let body = refund("25000", "").replace("\"sdk\"", "\"support\"");
    let id = id_of(&gateway.decide("apk_bound", &body).await);
    approve(&gateway, &id).await;
    let named = body.replacen('{', &format!(r#"{{"approval_request_id": "{id}", "#), 1);
    assert_is(&gateway.decide("apk_one", &named).await, "deny", "approval.action_mismatch");
    assert_is(&gateway.decide("apk_bound", &named).await, "allow", "approval.approved");
    gateway.stop().await;
}

#[tokio::test]
async fn clock_never_precedes_ledger_after_restart() {
    let (mut gateway, time) = start_at_test_time().await;
    let id = id_of(&gateway.decide("apk_one", &refund("25000", "")).await);
    time.fetch_add(899, Ordering::SeqCst);
    // Recorded for another tenant.
    gateway.decide("apk_two", &refund("1", "")).await;
    time.fetch_sub(10_000, Ordering::SeqCst);
    gateway.restart(at_test_time(&time)).await;
    let body = format!("/api/v1/approvals/{id}");
    let (_, approval) = json(gateway.get(&body, "apk_one").send().await.unwrap()).await;
    assert_eq!(text(&approval, "status"), Some("pending"), "{approval}");
    time.fetch_add(10_001, Ordering::SeqCst);
    let (_, approval) = json(gateway.get(&body, "apk_one").send().await.unwrap()).await;
    assert_eq!(text(&approval, "status"), Some("expired"), "{approval}");
    time.fetch_sub(50_000, Ordering::SeqCst);
    let named = refund("25000", &format!(r#", "approval_request_id": "{id}""#));
    assert_is(&gateway.decide("apk_one", &named).await, "deny", "approval.expired");
    gateway.restart(at_test_time(&time)).await;
    assert_is(&gateway.decide("apk_one", &named).await, "deny", "approval.expired");
    let events = gateway.events("apk_one", "decisions").await;
    let times: Vec<_> = events.iter().map(|event| text(event, "created_at").unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    gateway.stop().await;
}
