//! The exchange of passports for narrower ones (RFC 8693).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actpass_gateway::config::Settings;
use actpass_gateway::store::Location;
use actpass_protocol::Json;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{Gateway, PREFLIGHT, TEST_TIME as NOW, at_test_time, json, start_at_test_time, text};
use futures_util::future::join_all;
use reqwest::{Client, StatusCode};

const TOKEN: &str = "/oauth/token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

async fn post(gateway: &Gateway, path: &str, key: &str, body: String) -> Json {
    let (status, body) = json(gateway.post(path, key).body(body).send().await.unwrap()).await;
    assert_eq!(status, 200, "{body}");
    body
}

/// Issues a passport of the agent `planner`.
async fn issue(gateway: &Gateway, more: &str) -> String {
    let body = format!(
        r#"{{"audience": "mcp://shop", "agent_id": "planner", "goal": "refund an order", "user_id": "u_1",
            "allowed_tools": ["refunds.create", "orders.read"], "ttl_seconds": 600,
            "resource_constraints": {{"max_amount": 5000, "min_amount": 1, "currency": "usd"}}{more}}}"#
    );
    text(&post(gateway, "/api/v1/passports/issue", "apk_one", body).await, "token").unwrap().to_owned()
}

fn form(token: &str, more: &[(&str, &str)]) -> String {
    let base = [("grant_type", GRANT), ("subject_token", token), ("subject_token_type", JWT)];
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(base.iter().filter(|(name, _)| !more.iter().any(|(other, _)| name == other)));
    form.extend_pairs(more.iter().filter(|(_, value)| *value != "ABSENT"));
    form.finish()
}

async fn send(client: &Client, url: &str, key: &str, body: String) -> (StatusCode, Json) {
    let request = client.post(format!("{url}{TOKEN}")).bearer_auth(key);
    let request = request.header("content-type", "application/x-www-form-urlencoded").body(body);
    json(request.send().await.unwrap()).await
}

async fn try_exchange(
    gateway: &Gateway,
    key: &str,
    token: &str,
    more: &[(&str, &str)],
) -> (StatusCode, Json) {
    send(&gateway.client, &gateway.url, key, form(token, more)).await
}

/// Exchanges with the key that is bound to the agent `support`.
async fn exchange(gateway: &Gateway, token: &str, more: &[(&str, &str)]) -> String {
    let (status, body) = try_exchange(gateway, "apk_bound", token, more).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!((text(&body, "issued_token_type"), text(&body, "token_type")), (Some(JWT), Some("N_A")));
    text(&body, "access_token").unwrap().to_owned()
}

async fn refused(gateway: &Gateway, token: &str, more: &[(&str, &str)]) -> (String, String) {
    let (status, body) = try_exchange(gateway, "apk_bound", token, more).await;
    assert_eq!(status, 400, "{body}");
    let text = |name| text(&body, name).unwrap().to_owned();
    (text("error"), text("error_description"))
}

fn claims(token: &str) -> Json {
    Json::parse(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

/// Presents a passport with a key; returns the decision and the reason.
async fn present(gateway: &Gateway, key: &str, token: &str, amount: &str) -> [String; 2] {
    let more = format!(r#", "user_id": "u_1", "passport": "{token}", "audience": "mcp://shop""#);
    let body = common::refund(amount, &more).replace(r#""sdk""#, r#""planner""#);
    let body = post(gateway, PREFLIGHT, key, body).await;
    ["decision", "reason_code"].map(|name| text(&body, name).unwrap().to_owned())
}

#[tokio::test]
async fn exchange_gives_a_narrower_passport_to_the_acting_agent() {
    let (gateway, _) = start_at_test_time().await;
    let token = issue(&gateway, r#", "tctx": {"order": 7}"#).await;
    let root = claims(&token);
    assert_eq!(text(&root, "txn"), text(&root, "jti"), "a transaction begins with its passport");
    let narrow = [
        ("scope", "refunds.create"),
        ("resource_constraints", r#"{"max_amount": 100, "charge": "ch_1"}"#),
        ("ttl_seconds", "60"),
        ("requested_token_type", JWT),
        ("audience", "mcp://shop"),
        ("unknown", "ignored"),
    ];
    let exchanged = exchange(&gateway, &token, &narrow).await;
    let found = claims(&exchanged);
    for (path, expected) in [
        ("agent_id", "support"),
        ("user_id", "u_1"),
        ("aud", "mcp://shop"),
        ("goal", "refund an order"),
        ("txn", text(&root, "jti").unwrap()),
        ("req_wl", "support"),
        ("act.sub", "support"),
        ("act.act.sub", "planner"),
        ("resource_constraints.charge", "ch_1"),
        ("resource_constraints.currency", "usd"),
    ] {
        assert_eq!(text(&found, path), Some(expected), "{path}: {found}");
    }
    for (name, expected) in [
        ("allowed_tools", r#"["refunds.create"]"#),
        ("tctx", r#"{"order":7}"#),
        ("exp", "1800000060"),
        ("ancestors", &format!("[{}]", root.member("jti").unwrap())),
    ] {
        assert_eq!(found.member(name).unwrap().to_string(), expected, "{name}");
    }
    let constraints = found.member("resource_constraints").unwrap();
    assert_eq!(constraints.member("max_amount").unwrap().to_string(), "100");
    assert_eq!(constraints.member("min_amount").unwrap().to_string(), "1");

    // The first one is spent; the new one acts for its agent, once.
    assert_eq!(present(&gateway, "apk_one", &token, "50").await, ["deny", "passport.replayed"]);
    assert_eq!(present(&gateway, "apk_one", &exchanged, "50").await, ["deny", "passport.agent"]);
    assert_eq!(present(&gateway, "apk_bound", &exchanged, "101").await, ["deny", "passport.constraint"]);
    let wide = exchange(&gateway, &issue(&gateway, "").await, &[]).await;
    assert_eq!(present(&gateway, "apk_bound", &wide, "50").await[0], "allow");
    assert_eq!(present(&gateway, "apk_bound", &wide, "50").await, ["deny", "passport.replayed"]);

    let events = gateway.events("apdv_one", "decisions").await;
    let kinds: Vec<_> = events.iter().take(3).map(|event| text(event, "event_type").unwrap()).collect();
    assert_eq!(kinds, ["passport.issued", "passport.exchanged", "passport.issued"]);
    assert_eq!(text(&events[1], "passport_jti"), text(&root, "jti"));
    assert_eq!(text(&events[1], "metadata.exchanged_for"), text(&found, "jti"));
    assert_eq!(text(&events[2], "passport_jti"), text(&found, "jti"));
    assert_eq!(text(&events[2], "metadata.exchanged_from"), text(&root, "jti"));
    assert_eq!(text(&events[2], "agent_id"), Some("support"));
    let beside = gateway.data.open_existing().await.unwrap();
    assert_eq!(beside.unproven("one").await.unwrap(), Vec::<String>::new());
    beside.close().await;
    gateway.stop().await;
}

#[tokio::test]
async fn passport_without_transaction_is_issued_as_before() {
    let (gateway, _) = start_at_test_time().await;
    let token = issue(&gateway, "").await;
    let found = claims(&token);
    let names: Vec<_> = found.as_object().unwrap().iter().map(|(name, _)| &**name).collect();
    for name in ["txn", "tctx", "req_wl", "cnf", "act", "ancestors"] {
        assert!(!names.contains(&name), "{name}");
    }
    // Its id is the transaction of those that descend from it.
    let exchanged = claims(&exchange(&gateway, &token, &[]).await);
    assert_eq!(text(&exchanged, "txn"), text(&found, "jti"));
    gateway.stop().await;
}

#[tokio::test]
async fn exchange_widens_nothing() {
    let (gateway, _) = start_at_test_time().await;
    let token = issue(&gateway, r#", "allowed_resources": ["order:7", "order:8"]"#).await;
    for (more, code, problem) in [
        (
            ("scope", "refunds.create admin"),
            "invalid_scope",
            "scope: subject_token does not permit the tool \"admin\"",
        ),
        (("scope", "refunds.create  orders.read"), "invalid_scope", "scope: "),
        (("allowed_resources", r#"["order:9"]"#), "invalid_scope", "allowed_resources: "),
        (("allowed_resources", "[]"), "invalid_scope", "allowed_resources: "),
        (
            ("resource_constraints", r#"{"max_amount": 5001}"#),
            "invalid_scope",
            "resource_constraints: \"max_amount\"",
        ),
        (
            ("resource_constraints", r#"{"min_amount": 0}"#),
            "invalid_scope",
            "resource_constraints: \"min_amount\"",
        ),
        (
            ("resource_constraints", r#"{"currency": "eur"}"#),
            "invalid_scope",
            "resource_constraints: \"currency\"",
        ),
        (("ttl_seconds", "601"), "invalid_scope", "ttl_seconds: expected at most 600"),
        (("audience", "mcp://other"), "invalid_target", "audience: "),
        (("resource", "https://shop.example"), "invalid_target", "resource: "),
        (("grant_type", "client_credentials"), "unsupported_grant_type", "grant_type: "),
        (("grant_type", "ABSENT"), "invalid_request", "grant_type: missing"),
        (("subject_token", "ABSENT"), "invalid_request", "subject_token: missing"),
        (("subject_token_type", "ABSENT"), "invalid_request", "subject_token_type: "),
        (
            ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            "invalid_request",
            "requested_",
        ),
        (("actor_token", "x"), "invalid_request", "actor_token: "),
        (("resource_constraints", "{"), "invalid_request", "resource_constraints: expected JSON"),
        (("resource_constraints", r#"{"max_amount": "x"}"#), "invalid_request", "resource_constraints: "),
        (("allowed_resources", r#""x""#), "invalid_request", "allowed_resources: "),
        (("ttl_seconds", "0"), "invalid_request", "ttl_seconds: "),
        (("dpop_jkt", "x"), "invalid_request", "dpop_jkt: "),
        (("subject_token", "x.y.z"), "invalid_grant", "subject_token: the passport is malformed"),
    ] {
        let found = refused(&gateway, &token, &[more]).await;
        assert_eq!(found.0, code, "{more:?}: {found:?}");
        assert!(found.1.starts_with(problem), "{more:?}: {found:?}");
    }
    let twice = refused(&gateway, &token, &[("scope", "orders.read"), ("scope", "refunds.create")]).await;
    assert_eq!(twice, ("invalid_request".to_owned(), "scope: expected one value, found two".to_owned()));
    // A key without an agent names one, and another tenant's key exchanges nothing.
    let (status, body) = try_exchange(&gateway, "apk_one", &token, &[]).await;
    assert_eq!((status.as_u16(), text(&body, "error")), (400, Some("invalid_request")), "{body}");
    let (status, body) = try_exchange(&gateway, "apk_two", &token, &[("agent_id", "x")]).await;
    assert_eq!((status.as_u16(), text(&body, "error")), (400, Some("invalid_grant")), "{body}");
    let (status, body) = try_exchange(&gateway, "apk_unknown", &token, &[]).await;
    assert_eq!((status.as_u16(), text(&body, "error")), (401, Some("invalid_client")), "{body}");
    let plain = gateway.post(TOKEN, "apk_bound").body("{}").send().await.unwrap();
    let (status, body) = json(plain).await;
    assert_eq!((status.as_u16(), text(&body, "error")), (400, Some("invalid_request")), "{body}");
    // Nothing of this has spent it.
    let named = try_exchange(&gateway, "apk_one", &token, &[("agent_id", "worker")]).await.1;
    assert_eq!(text(&claims(text(&named, "access_token").unwrap()), "act.sub"), Some("worker"));
    gateway.stop().await;
}

#[tokio::test]
async fn expired_used_and_revoked_passports_are_not_exchanged() {
    let (gateway, time) = start_at_test_time().await;
    let [used, exchanged, revoked, expired] = [
        issue(&gateway, "").await,
        issue(&gateway, "").await,
        issue(&gateway, "").await,
        issue(&gateway, "").await,
    ];
    assert_eq!(present(&gateway, "apk_one", &used, "50").await[0], "allow");
    exchange(&gateway, &exchanged, &[]).await;
    revoke(&gateway, &revoked).await;
    for (token, reason) in
        [(&used, "passport.replayed"), (&exchanged, "passport.replayed"), (&revoked, "passport.revoked")]
    {
        let found = refused(&gateway, token, &[]).await;
        assert!(found.0 == "invalid_grant" && found.1.contains(reason), "{reason}: {found:?}");
    }
    time.store(NOW + 600, Ordering::SeqCst);
    let found = refused(&gateway, &expired, &[]).await;
    assert!(found.0 == "invalid_grant" && found.1.contains("passport.expired"), "{found:?}");
    gateway.stop().await;
}

async fn revoke(gateway: &Gateway, token: &str) {
    let body = format!(r#"{{"jti": {}}}"#, claims(token).member("jti").unwrap());
    post(gateway, "/api/v1/passports/revoke", "apdv_one", body).await;
}

#[tokio::test]
async fn revocation_reaches_all_descendants() {
    let (gateway, _) = start_at_test_time().await;
    let root = issue(&gateway, "").await;
    let child = exchange(&gateway, &root, &[]).await;
    let grandchild = exchange(&gateway, &child, &[]).await;
    let other = exchange(&gateway, &issue(&gateway, "").await, &[]).await;
    revoke(&gateway, &root).await;
    assert_eq!(present(&gateway, "apk_bound", &grandchild, "50").await, ["deny", "passport.revoked"]);
    let found = refused(&gateway, &grandchild, &[]).await;
    assert!(found.1.contains("passport.revoked"), "{found:?}");
    let body = format!(r#"{{"token": "{grandchild}", "audience": "mcp://shop"}}"#);
    let verified = post(&gateway, "/api/v1/passports/verify", "apk_one", body).await;
    assert_eq!(verified.member("errors").unwrap().to_string(), r#"["passport.revoked"]"#);
    assert_eq!(present(&gateway, "apk_bound", &other, "50").await[0], "allow");
    gateway.stop().await;
}

#[tokio::test]
async fn number_of_exchanges_is_limited() {
    let (gateway, _) = start_at_test_time().await;
    let mut token = issue(&gateway, "").await;
    for _ in 0..4 {
        token = exchange(&gateway, &token, &[]).await;
    }
    let found = refused(&gateway, &token, &[]).await;
    assert!(found.0 == "invalid_grant" && found.1.contains("exchanged 4 times"), "{found:?}");
    assert_eq!(present(&gateway, "apk_bound", &token, "50").await[0], "allow");
    gateway.stop().await;
}

#[tokio::test]
async fn halted_agents_exchange_no_passport() {
    let (gateway, _) = start_at_test_time().await;
    let token = issue(&gateway, "").await;
    for agent in ["support", "planner"] {
        let halt = format!(r#"{{"scope": "agent", "id": "{agent}", "reason": "test"}}"#);
        let halt = gateway.post("/api/v1/halts", "apdv_one").body(halt).send().await.unwrap();
        let (status, halt) = json(halt).await;
        assert!(status.is_success(), "{halt}");
        let (status, body) = try_exchange(&gateway, "apk_bound", &token, &[]).await;
        assert_eq!((status.as_u16(), text(&body, "error")), (409, Some("halted")), "{agent}: {body}");
        let lift = format!("{}/api/v1/halts/{}", gateway.url, text(&halt, "id").unwrap());
        let lift = gateway.client.delete(lift).bearer_auth("apdv_one").body(r#"{"reason": "test"}"#);
        let lift = lift.header("content-type", "application/json").send().await.unwrap();
        assert_eq!(lift.status(), 200, "{agent}");
    }
    exchange(&gateway, &token, &[]).await;
    gateway.stop().await;
}

#[tokio::test]
async fn bound_passport_is_exchanged_by_its_holder_only() {
    let (gateway, _) = start_at_test_time().await;
    let bound = issue(&gateway, r#", "cnf": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}"#).await;
    let found = refused(&gateway, &bound, &[]).await;
    assert!(found.0 == "invalid_grant" && found.1.contains("passport.key"), "{found:?}");
    // A free one can be bound by its exchange.
    let jkt = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
    let exchanged = exchange(&gateway, &issue(&gateway, "").await, &[("dpop_jkt", jkt)]).await;
    assert_eq!(text(&claims(&exchanged), "cnf.jkt"), Some(jkt));
    gateway.stop().await;
}

#[tokio::test]
async fn policy_sees_the_actor_and_the_transaction() {
    let folder = tempfile::TempDir::new().unwrap();
    let policy = folder.path().join("policy.json");
    let rules = r#"{"id": "p", "version": 1, "rules": [{"name": "delegated", "decision": "allow", "reason": "by.support",
        "risk_tier": "low", "when": [{"path": "passport.act.sub", "operator": "==", "value": "support"},
            {"path": "passport.act.act.sub", "operator": "==", "value": "planner"},
            {"path": "passport.txn", "operator": "exists", "value": true}]}]}"#;
    std::fs::write(&policy, rules).unwrap();
    let settings = common::config_with("", &policy.display().to_string());
    let time = Arc::new(AtomicU64::new(NOW));
    let gateway = Gateway::start_with("", |before| {
        let data = before.data.clone();
        *before = Settings::parse(&settings, folder.path()).unwrap();
        before.data = data;
        at_test_time(&time)(before);
    })
    .await;
    let token = issue(&gateway, "").await;
    assert_eq!(present(&gateway, "apk_one", &token, "50").await[0], "deny");
    let exchanged = exchange(&gateway, &token, &[]).await;
    assert_eq!(present(&gateway, "apk_bound", &exchanged, "50").await, ["allow", "by.support"]);
    gateway.stop().await;
}

/// Of 32 concurrent exchanges of each passport, one wins; the passport is not used as well.
async fn race(gateway: &Gateway, urls: &[String]) {
    for _ in 0..4 {
        let token = issue(gateway, "").await;
        let attempts = (0..32).map(|number| {
            let (url, token) = (urls[number % urls.len()].clone(), token.clone());
            async move {
                let client = common::client();
                if number % 8 == 7 {
                    let more =
                        format!(r#", "user_id": "u_1", "passport": "{token}", "audience": "mcp://shop""#);
                    let body = common::refund("50", &more).replace(r#""sdk""#, r#""planner""#);
                    let request = client.post(format!("{url}{PREFLIGHT}")).bearer_auth("apk_one");
                    let request = request.header("content-type", "application/json").body(body);
                    let (status, body) = json(request.send().await.unwrap()).await;
                    assert_eq!(status, 200, "{body}");
                    return text(&body, "decision") == Some("allow");
                }
                let (status, body) = send(&client, &url, "apk_bound", form(&token, &[])).await;
                match status.as_u16() {
                    200 => true,
                    400 => {
                        assert_eq!(text(&body, "error"), Some("invalid_grant"), "{body}");
                        false
                    }
                    _ => panic!("{status}: {body}"),
                }
            }
        });
        let won = join_all(attempts).await.into_iter().filter(|won| *won).count();
        assert_eq!(won, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_concurrent_exchanges_wins() {
    let (gateway, _) = start_at_test_time().await;
    race(&gateway, std::slice::from_ref(&gateway.url)).await;
    gateway.stop().await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn one_of_concurrent_exchanges_over_two_gateways_wins() {
    use actpass_gateway::store::{Database, TlsTrust};

    let Some(url) = common::database_url() else { return };
    let time = Arc::new(AtomicU64::new(NOW));
    let shared = |settings: &mut Settings| {
        settings.data = Location::Database(Database::parse(&url, TlsTrust::default()).unwrap());
        at_test_time(&time)(settings);
    };
    let one = Gateway::start_with("", shared).await;
    let other = Gateway::start_with("", shared).await;
    race(&one, &[one.url.clone(), other.url.clone()]).await;
    other.stop().await;
    one.stop().await;
}

/// Another process holds the lock of the data file.
#[tokio::test]
async fn unavailable_store_issues_nothing() {
    let time = Arc::new(AtomicU64::new(NOW));
    let gateway = Gateway::start_with("", |settings| {
        at_test_time(&time)(settings);
        settings.timeouts.store = Duration::from_secs(1);
    })
    .await;
    let Location::File(file) = &gateway.data else { return gateway.stop().await };
    let token = issue(&gateway, "").await;
    let lock = rusqlite::Connection::open(file).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (status, body) = try_exchange(&gateway, "apk_bound", &token, &[]).await;
    assert_eq!((status.as_u16(), text(&body, "error")), (503, Some("unavailable")), "{body}");
    assert_eq!(body.member("access_token"), None);
    lock.execute_batch("ROLLBACK").unwrap();
    gateway.stop().await;
}
