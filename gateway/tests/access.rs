//! Access control: key grants, hosts, connections.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::time::Duration;

use actpass_gateway::auth::ApiKeyHash;
use actpass_gateway::config::{ConnectionLimits, Settings};
use actpass_gateway::store::Location;
use actpass_protocol::Json;
use common::{EVIDENCE, Gateway, PREFLIGHT, json, refund, text};
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ISSUE: &str = "/api/v1/passports/issue";
const REVOKE: &str = "/api/v1/passports/revoke";

/// Starts a gateway with additional keys of the tenant `one`: `(key, members of its table)`.
async fn with_keys(keys: &[(&str, &str)]) -> Gateway {
    start(keys, "", "", |_| {}).await
}

async fn start(
    keys: &[(&str, &str)],
    root: &str,
    limits: &str,
    change: impl FnOnce(&mut Settings),
) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("master.key"), hex_of(7)).unwrap();
    let head = format!("{root}\nmaster_key_file = \"master.key\"\n[limits]");
    let mut config = common::config(limits).replacen("[limits]", &head, 1);
    for (key, members) in keys {
        let hash = ApiKeyHash::of(key);
        config += &format!("[[keys]]\nname = \"{key}\"\nhash = \"{hash}\"\ntenant = \"one\"\n{members}\n");
    }
    let mut settings =
        Settings::parse(&config, folder.path()).unwrap_or_else(|problems| panic!("{problems}"));
    change(&mut settings);
    let data = settings.data.clone();
    let server = actpass_gateway::server::Server::start(settings).await.unwrap();
    Gateway { folder, data, url: server.url(), server: Some(server), client: common::client() }
}

fn hex_of(seed: u8) -> String {
    (0..32).map(|byte| format!("{:02x}", byte * 7 + seed)).collect()
}

async fn status(request: reqwest::RequestBuilder) -> (u16, Json) {
    let (status, response) = json(request.send().await.unwrap()).await;
    (status.as_u16(), response)
}

fn code(response: &Json) -> Option<&str> {
    text(response, "error.code")
}

#[tokio::test]
async fn preflight_outside_key_grants_is_recorded_denial() {
    let gateway = with_keys(&[
        ("apk_strict", "role = \"agent\"\nmodes = [\"strict\"]"),
        ("apk_stripe", "role = \"agent\"\ntools = [\"stripe.*\", \"refunds.create\"]\nusers = [\"u*\"]"),
    ])
    .await;
    for (key, more, expected) in [
        ("apk_strict", r#", "mode": "strict""#, "refund.small_in_scope"),
        ("apk_strict", "", "key.mode_not_allowed"),
        ("apk_strict", r#", "mode": "warn""#, "key.mode_not_allowed"),
        ("apk_strict", r#", "mode": "monitor""#, "key.mode_not_allowed"),
        ("apk_stripe", "", "refund.small_in_scope"),
        ("apk_stripe", r#", "user_id": "u7""#, "refund.small_in_scope"),
        ("apk_stripe", r#", "user_id": "v7""#, "key.user_not_allowed"),
    ] {
        let response = gateway.decide(key, &refund("1", more)).await;
        assert_eq!(text(&response, "reason_code"), Some(expected), "{key} {more}");
        let word = if expected.starts_with("key.") { "deny" } else { "allow" };
        assert_eq!(text(&response, "decision"), Some(word), "{key} {more}");
    }
    let other = refund("1", "").replace("refunds.create", "stripe_refunds");
    let response = gateway.decide("apk_stripe", &other).await;
    assert_eq!(text(&response, "reason_code"), Some("key.tool_not_allowed"));
    assert!(text(&response, "explain.summary").unwrap().contains("apk_stripe"), "{response}");
    let events = gateway.events("apdv_one", "decisions").await;
    assert_eq!(events.len(), 8);
    let reasons: Vec<_> = events.iter().filter_map(|event| text(event, "reason_code")).collect();
    assert_eq!(reasons.iter().filter(|reason| reason.starts_with("key.")).count(), 5);
    gateway.stop().await;
}

#[tokio::test]
async fn bound_key_reads_own_agent_events_only() {
    let gateway = with_keys(&[
        ("apk_second", "role = \"agent\"\nagent = \"support\""),
        ("apk_other", "role = \"agent\"\nagent = \"other\""),
    ])
    .await;
    for key in ["apk_bound", "apk_second", "apk_other", "apk_one"] {
        gateway.decide(key, &refund("1", "")).await;
    }
    let asked = gateway.decide("apk_other", &refund("25000", "")).await;
    let id = text(&asked, "approval_request_id").unwrap().to_owned();
    let approve = format!("/api/v1/approvals/{id}/approve");
    assert_eq!(status(gateway.post(&approve, "apdv_one").body("{}")).await.0, 200);

    let count = async |key| gateway.events(key, "decisions").await.len();
    assert_eq!(count("apdv_one").await, 6);
    assert_eq!(count("apk_one").await, 6, "an unbound key reads the tenant's events");
    assert_eq!(count("apk_bound").await, 2, "its agent's events under any key");
    assert_eq!(count("apk_other").await, 3, "and decisions on its agent's approvals");
    let events = gateway.events("apk_bound", "decisions").await;
    assert!(events.iter().all(|event| text(event, "agent_id") == Some("support")));

    let path = format!("/api/v1/approvals/{id}");
    for (key, expected) in [("apk_other", 200), ("apk_bound", 404), ("apk_one", 200), ("apk_two", 404)] {
        assert_eq!(status(gateway.get(&path, key)).await.0, expected, "{key}");
    }
    // An agent sees only its events, also when paginated.
    let page = gateway.get("/api/v1/evidence/chains/decisions?after=1&limit=1", "apk_bound");
    let (_, page) = status(page).await;
    assert_eq!(page.member("events").map(|events| events.to_string().matches("event_id").count()), Some(1));
    let page = gateway.get("/api/v1/evidence/chains/decisions?after=2&limit=2", "apk_bound");
    assert_eq!(status(page).await.1.member("events"), Some(&Json::Array(Vec::new())));
    gateway.stop().await;
}

#[tokio::test]
async fn outcome_requires_own_decision() {
    let gateway = with_keys(&[
        ("apk_second", "role = \"agent\"\nagent = \"support\""),
        ("apk_other", "role = \"agent\"\nagent = \"other\""),
    ])
    .await;
    let decided = gateway.decide("apk_bound", &refund("1", r#", "x": 1"#)).await;
    let hash = text(&decided, "request_hash").unwrap().to_owned();
    let outcome = |hash: &str| {
        format!(
            r#"{{"chain_id": "decisions", "event_type": "action.outcome", "request_hash": "{hash}",
            "metadata": {{"ended": "returned", "key_name": "name-of-apk-bound", "agent_id": "support"}}}}"#
        )
    };
    for (key, expected) in [
        ("apk_other", 403),
        ("apk_one", 403),
        ("apk_two", 403),
        ("apk_bound", 200),
        ("apk_second", 200),
        ("apdv_one", 200),
    ] {
        let (found, response) = status(gateway.post(EVIDENCE, key).body(outcome(&hash))).await;
        assert_eq!(found, expected, "{key}: {response}");
        if found == 403 {
            assert_eq!(code(&response), Some("not_own"));
        }
    }
    for forged in ["0".repeat(64), "x\\\"y".to_owned(), "%".to_owned()] {
        let (found, response) = status(gateway.post(EVIDENCE, "apk_bound").body(outcome(&forged))).await;
        assert_eq!((found, code(&response)), (403, Some("not_own")), "{forged}");
    }
    // The same request by another agent has its own decision.
    gateway.decide("apk_other", &refund("1", r#", "x": 1"#)).await;
    assert_eq!(status(gateway.post(EVIDENCE, "apk_other").body(outcome(&hash))).await.0, 200);
    // A client event that resembles a decision does not count as one.
    let posing = format!(
        r#"{{"chain_id": "mine", "event_type": "note", "request_hash": "{}", "metadata": {{"event_type": "decision"}}}}"#,
        "1".repeat(64)
    );
    assert_eq!(status(gateway.post(EVIDENCE, "apk_other").body(posing)).await.0, 200);
    assert_eq!(status(gateway.post(EVIDENCE, "apk_other").body(outcome(&"1".repeat(64)))).await.0, 403);
    gateway.stop().await;
}

fn passport(more: &str) -> String {
    format!(
        r#"{{"audience": "mcp://shop", "goal": "refund an order", "allowed_tools": ["refunds.create"]{more}}}"#
    )
}

#[tokio::test]
async fn passport_claims_stay_within_issuer_grants() {
    let gateway = with_keys(&[(
        "apk_issuer",
        "role = \"agent\"\nagent = \"support\"\nrisk_tiers = [\"low\", \"medium\"]\nusers = [\"u*\"]\n\
         max_ttl_seconds = 60\nallowed_tools = [\"refunds.*\"]",
    )])
    .await;
    for (key, more, expected) in [
        ("apk_bound", "", 200),
        ("apk_bound", r#", "risk_tier": "low""#, 403),
        ("apk_bound", r#", "risk_tier": "critical""#, 403),
        ("apk_bound", r#", "user_id": "u1""#, 403),
        ("apk_bound", r#", "ttl_seconds": 3600"#, 200),
        ("apk_one", r#", "risk_tier": "critical", "user_id": "anybody""#, 200),
        ("apdv_one", r#", "risk_tier": "critical", "user_id": "anybody""#, 200),
        ("apk_issuer", r#", "risk_tier": "low", "user_id": "u1", "ttl_seconds": 60"#, 200),
        ("apk_issuer", r#", "risk_tier": "high""#, 403),
        ("apk_issuer", r#", "user_id": "v1""#, 403),
        ("apk_issuer", r#", "ttl_seconds": 61"#, 403),
        ("apk_issuer", r#", "ttl_seconds": null"#, 200),
    ] {
        let (found, response) = status(gateway.post(ISSUE, key).body(passport(more))).await;
        assert_eq!(found, expected, "{key} {more}: {response}");
        if found == 403 {
            assert_eq!(code(&response), Some("not_granted"));
            let member = more.split('"').nth(1).unwrap();
            assert!(text(&response, "error.message").unwrap().starts_with(member), "{response}");
        }
    }
    let tool = passport("").replace("\"refunds.create\"", "\"refunds.create\", \"stripe.x\"");
    let (found, response) = status(gateway.post(ISSUE, "apk_issuer").body(tool)).await;
    assert_eq!(found, 403);
    assert!(text(&response, "error.message").unwrap().starts_with("allowed_tools: "), "{response}");
    gateway.stop().await;
}

#[tokio::test]
async fn only_issuer_or_holder_revokes_passport() {
    let gateway = with_keys(&[
        ("apk_second", "role = \"agent\"\nagent = \"support\""),
        ("apk_other", "role = \"agent\"\nagent = \"other\""),
    ])
    .await;
    let issue = async |key, more: &str| {
        let (_, response) = status(gateway.post(ISSUE, key).body(passport(more))).await;
        text(&response, "jti").unwrap().to_owned()
    };
    let revoke =
        async |key, jti: &str| status(gateway.post(REVOKE, key).body(format!(r#"{{"jti": "{jti}"}}"#))).await;
    let own = issue("apk_bound", "").await;
    let (found, response) = revoke("apk_other", &own).await;
    assert_eq!((found, code(&response)), (403, Some("not_own")));
    assert_eq!(revoke("apk_one", &own).await.0, 403);
    assert_eq!(revoke("apk_two", &own).await.1.to_string(), r#"{"revoked":false}"#);
    assert_eq!(revoke("apk_second", &own).await.1.to_string(), r#"{"revoked":true}"#);
    assert_eq!(revoke("apk_other", &own).await.0, 403, "the state is not revealed either");
    let issued = issue("apk_one", r#", "agent_id": "support""#).await;
    assert_eq!(revoke("apk_other", &issued).await.0, 403);
    assert_eq!(revoke("apk_bound", &issued).await.1.to_string(), r#"{"revoked":true}"#);
    let another = issue("apk_one", r#", "agent_id": "support""#).await;
    assert_eq!(revoke("apdv_one", &another).await.1.to_string(), r#"{"revoked":true}"#);
    gateway.stop().await;
}

#[tokio::test]
async fn operator_requests_reject_unknown_members() {
    let gateway = with_keys(&[]).await;
    let asked = gateway.decide("apk_one", &refund("25000", "")).await;
    let id = text(&asked, "approval_request_id").unwrap();
    for word in ["approve", "reject"] {
        let path = format!("/api/v1/approvals/{id}/{word}");
        for (body, member) in [
            (r#"{"approved": false}"#, "approved"),
            (r#"{"note": "x", "decision": "reject"}"#, "decision"),
            (r#"{"Note": "x"}"#, "Note"),
            (r#"{"note": false}"#, "note"),
            (r#"{"approved": null}"#, "approved"),
            ("[]", "body"),
            ("null", "body"),
        ] {
            let (found, response) = status(gateway.post(&path, "apdv_one").body(body)).await;
            assert_eq!((found, code(&response)), (422, Some("invalid_member")), "{body}");
            assert!(
                text(&response, "error.message").unwrap().starts_with(&format!("{member}: ")),
                "{response}"
            );
        }
    }
    let tool = r#"{"tool_id": "t", "manifest": {}, "approved": false}"#;
    let (found, response) = status(gateway.post("/api/v1/tools", "apdv_one").body(tool)).await;
    assert_eq!(found, 422);
    assert!(text(&response, "error.message").unwrap().starts_with("approved: unknown member"), "{response}");
    let (_, standing) = status(gateway.get(&format!("/api/v1/approvals/{id}"), "apk_one")).await;
    assert_eq!(text(&standing, "status"), Some("pending"));
    gateway.stop().await;
}

#[tokio::test]
async fn pending_approvals_of_one_agent_do_not_hide_others() {
    let gateway =
        start(&[("apk_other", "role = \"agent\"\nagent = \"other\"")], "", "pending_approvals = 150", |_| {})
            .await;
    for number in 0..150 {
        gateway.decide("apk_bound", &refund(&(20_000 + number).to_string(), "")).await;
    }
    let other = gateway.decide("apk_other", &refund("25000", "")).await;
    let other = text(&other, "approval_request_id").unwrap().to_owned();
    let list = async |query: &str| {
        let (found, response) = status(gateway.get(&format!("/api/v1/approvals{query}"), "apdv_one")).await;
        assert_eq!(found, 200, "{query}: {response}");
        let Some(Json::Array(approvals)) = response.member("approvals") else { panic!("{response}") };
        let ids: Vec<_> = approvals.iter().map(|one| text(one, "id").unwrap().to_owned()).collect();
        (ids, text(&response, "next").map(str::to_owned))
    };
    let (first, next) = list("").await;
    assert_eq!(first.len(), 100);
    let (second, end) = list(&format!("?after={}", next.unwrap())).await;
    assert_eq!((second.len(), end), (51, None));
    assert_eq!(second.last(), Some(&other));
    let all: std::collections::HashSet<_> = first.iter().chain(&second).collect();
    assert_eq!(all.len(), 151);
    assert_eq!(list("?agent=other").await, (vec![other.clone()], None));
    assert_eq!(list("?tool=none").await, (Vec::new(), None));
    assert_eq!(list("?agent=support&tool=refunds.create&limit=1000").await.0.len(), 150);
    let mut after = String::new();
    let mut pages = 0;
    loop {
        let (_, next) = list(&format!("?limit=50{after}")).await;
        pages += 1;
        let Some(next) = next else { break };
        after = format!("&after={next}");
    }
    assert_eq!(pages, 4);

    status(gateway.post(&format!("/api/v1/approvals/{other}/approve"), "apdv_one").body("{}")).await;
    let rejected = first[0].clone();
    status(gateway.post(&format!("/api/v1/approvals/{rejected}/reject"), "apdv_one").body("{}")).await;
    assert_eq!(list("?status=approved").await, (vec![other.clone()], None));
    assert_eq!(list("?status=rejected").await, (vec![rejected], None));
    assert_eq!(list("?status=expired").await, (Vec::new(), None));
    assert_eq!(list("?status=all&limit=1000").await.0.len(), 151);
    for (query, member) in [
        ("?limit=0", "limit"),
        ("?limit=1001", "limit"),
        ("?limit=x", "limit"),
        ("?limit=1&limit=2", "limit"),
        ("?after=apr_0", "after"),
        ("?status=", "status"),
        ("?state=all", "state"),
    ] {
        let (found, response) = status(gateway.get(&format!("/api/v1/approvals{query}"), "apdv_one")).await;
        assert_eq!(found, 422, "{query}");
        assert!(text(&response, "error.message").unwrap().starts_with(&format!("{member}: ")), "{response}");
    }
    let unknown = format!("/api/v1/approvals?after=apr_{}", "0".repeat(32));
    assert_eq!(status(gateway.get(&unknown, "apdv_one")).await.0, 404);
    gateway.stop().await;
}

#[tokio::test]
async fn pending_approvals_per_key_are_bounded() {
    let gateway =
        start(&[("apk_other", "role = \"agent\"\nagent = \"other\"")], "", "pending_approvals = 3", |_| {})
            .await;
    // Sent concurrently, so that all are decided before any is recorded.
    let bodies: Vec<_> = (0..12).map(|number| refund(&(20_000 + number).to_string(), "")).collect();
    let answers = join_all(bodies.iter().map(|body| gateway.decide("apk_bound", body))).await;
    let opened: Vec<_> =
        answers.iter().filter_map(|response| text(response, "approval_request_id")).collect();
    assert_eq!(opened.len(), 3);
    let refused: Vec<_> = answers
        .iter()
        .filter(|response| text(response, "reason_code") == Some("approval.too_many_pending"))
        .collect();
    assert_eq!(refused.len(), 9);
    assert!(refused.iter().all(|response| text(response, "decision") == Some("deny")));
    let events = gateway.events("apdv_one", "decisions").await;
    assert_eq!(events.len(), 12, "each is recorded");
    // Another key has its own limit; decided approvals free capacity.
    let response = gateway.decide("apk_other", &refund("25000", "")).await;
    assert_eq!(text(&response, "decision"), Some("require_approval"));
    status(gateway.post(&format!("/api/v1/approvals/{}/reject", opened[0]), "apdv_one").body("{}")).await;
    let response = gateway.decide("apk_bound", &refund("30000", "")).await;
    assert_eq!(text(&response, "decision"), Some("require_approval"));
    let response = gateway.decide("apk_bound", &refund("30001", "")).await;
    assert_eq!(text(&response, "reason_code"), Some("approval.too_many_pending"));
    // An unbound key: each agent has the limit, and all agents together ten times that.
    let mut opened = 0;
    for number in 0..60 {
        let body = refund(&(20_000 + number).to_string(), "");
        let body = body.replace("\"sdk\"", &format!("\"agent-{}\"", number / 4));
        let response = gateway.decide("apk_one", &body).await;
        let is_open = text(&response, "approval_request_id").is_some();
        assert_eq!(is_open, number % 4 < 3 && opened < 30, "{number}: {response}");
        opened += i32::from(is_open);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn tampered_approval_cannot_be_decided() {
    let mut gateway = with_keys(&[]).await;
    let asked = gateway.decide("apk_one", &refund("25000", "")).await;
    let id = text(&asked, "approval_request_id").unwrap().to_owned();
    gateway.server.take().unwrap().stop().await.unwrap();
    let Location::File(file) = &gateway.data else { panic!("a file") };
    let connection = rusqlite::Connection::open(file).unwrap();
    // Anyone who can write the file can drop its triggers.
    let guards =
        "SELECT group_concat('DROP TRIGGER ' || name || ';', ' ') FROM sqlite_master WHERE type = 'trigger'";
    let guards: String = connection.query_one(guards, [], |row| row.get(0)).unwrap();
    connection.execute_batch(&guards).unwrap();
    connection.execute("UPDATE approvals SET args = replace(args, '25000', '49999')", []).unwrap();
    drop(connection);
    let data = gateway.data.clone();
    gateway.restart_on(data).await;
    for word in ["approve", "reject"] {
        let path = format!("/api/v1/approvals/{id}/{word}");
        let (found, response) = status(gateway.post(&path, "apdv_one").body("{}")).await;
        assert_eq!((found, code(&response)), (409, Some("approval_altered")), "{response}");
    }
    gateway.stop().await;
}

/// Sends bytes on a new connection and reads until the gateway closes it.
async fn raw(gateway: &Gateway, bytes: &str) -> String {
    let address = gateway.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes.as_bytes()).await;
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response).await;
    String::from_utf8_lossy(&response).into_owned()
}

#[tokio::test]
async fn host_is_checked_before_key() {
    let gateway = start(&[], "hosts = [\"gateway.example\", \"other.example:8443\"]", "", |_| {}).await;
    let get = |target: &str, headers: &str| {
        format!(
            "GET {target} HTTP/1.1\r\n{headers}authorization: Bearer apk_one\r\nconnection: close\r\n\r\n"
        )
    };
    for (target, headers, expected) in [
        ("/api/v1/approvals/apr_0", "host: localhost\r\n", "404"),
        ("/api/v1/approvals/apr_0", "host: LOCALHOST:1\r\n", "404"),
        ("/api/v1/approvals/apr_0", "host: gateway.example\r\n", "404"),
        ("/api/v1/approvals/apr_0", "host: gateway.example:1\r\n", "404"),
        ("/api/v1/approvals/apr_0", "host: other.example:8443\r\n", "404"),
        ("/api/v1/approvals/apr_0", "host: other.example\r\n", "421"),
        ("/api/v1/approvals/apr_0", "host: evil.example\r\n", "421"),
        ("/api/v1/approvals/apr_0", "host: localhost.evil.example\r\n", "421"),
        ("/api/v1/approvals/apr_0", "host: 10.9.8.7\r\n", "421"),
        ("/", "host: evil.example\r\n", "421"),
        ("/healthz", "host: evil.example\r\n", "421"),
        ("/.well-known/jwks.json", "host: evil.example\r\n", "421"),
        ("/nowhere", "host: evil.example\r\n", "421"),
        ("/healthz", "", "400"),
        ("/healthz", "host: localhost\r\nhost: localhost\r\n", "400"),
        ("/healthz", "host: localhost\r\nhost: evil.example\r\n", "400"),
        ("/healthz", "host: \r\n", "400"),
        ("/healthz", "host: user@localhost\r\n", "400"),
        ("/healthz", "host: localhost/x\r\n", "400"),
        ("http://localhost/healthz", "host: localhost\r\n", "200"),
        ("http://evil.example/healthz", "host: localhost\r\n", "400"),
        ("http://localhost/healthz", "host: evil.example\r\n", "400"),
        ("http://user@localhost/healthz", "host: localhost\r\n", "400"),
    ] {
        let response = raw(&gateway, &get(target, headers)).await;
        assert!(response.starts_with(&format!("HTTP/1.1 {expected} ")), "{target} {headers:?}: {response}");
    }
    let forwarded =
        get("/healthz", "host: evil.example\r\nx-forwarded-host: localhost\r\nforwarded: host=localhost\r\n");
    assert!(raw(&gateway, &forwarded).await.starts_with("HTTP/1.1 421 "), "forwarded hosts are ignored");
    gateway.stop().await;
}

#[tokio::test]
async fn wrong_keys_are_rate_limited_but_valid_key_is_not() {
    let gateway = with_keys(&[]).await;
    let wrong = join_all((0..300).map(async |number| {
        let request = gateway.post(PREFLIGHT, &format!("apk_guess_{number}")).body("{}");
        status(request).await
    }));
    let (wrong, right) = tokio::join!(wrong, async {
        let mut answers = Vec::new();
        for _ in 0..20 {
            answers.push(gateway.decide("apk_one", &refund("1", "")).await);
        }
        answers
    });
    assert!(right.iter().all(|response| text(response, "decision") == Some("allow")));
    let refused = wrong.iter().filter(|(status, _)| *status == 429).count();
    assert!(refused > 0 && wrong.iter().all(|(status, _)| [401, 429].contains(status)));
    let (_, response) = wrong.iter().find(|(status, _)| *status == 429).unwrap();
    assert_eq!(code(response), Some("wrong_keys"));
    gateway.stop().await;
}

#[tokio::test]
async fn clients_behind_trusted_proxy_are_distinguished() {
    let gateway = start(&[], "trusted_proxies = [\"127.0.0.0/8\"]", "", |_| {}).await;
    let guess = async |client: &str| {
        let request = gateway.post(PREFLIGHT, "apk_guess").header("x-forwarded-for", client).body("{}");
        status(request).await.0
    };
    let mut refused = 0;
    for _ in 0..300 {
        refused += usize::from(guess("198.51.100.1").await == 429);
    }
    assert!(refused > 0);
    assert_eq!(guess("198.51.100.2").await, 401, "another client of the same proxy is not limited");
    gateway.stop().await;
}

#[tokio::test]
async fn idle_connections_do_not_block_new_ones() {
    let gateway = start(&[], "", "connections = 40\nconnections_per_address = 20", |_| {}).await;
    let address = gateway.url.strip_prefix("http://").unwrap();
    let mut idle = Vec::new();
    for number in 0..100 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let begun: &[u8] = if number % 2 == 0 { b"" } else { b"GET / HTTP/1.1\r\nhost: localhost\r\nx:" };
        let _ = stream.write_all(begun).await;
        idle.push(stream);
        if number % 10 == 0 {
            // Opens a new connection with each client.
            let client = common::client();
            let request = client.post(format!("{}{PREFLIGHT}", gateway.url)).bearer_auth("apk_one");
            let request = request.header("content-type", "application/json").body(refund("1", ""));
            assert_eq!(request.send().await.unwrap().status(), 200, "after {number} others");
        }
    }
    // The oldest connection was evicted.
    let mut end = [0];
    assert_eq!(idle[0].read(&mut end).await.unwrap_or(0), 0);
    // An authenticated connection stays.
    gateway.decide("apk_one", &refund("1", "")).await;
    gateway.stop().await;
}

#[tokio::test]
async fn authenticated_connection_is_not_evicted() {
    let gateway = start(&[], "", "connections = 8\nconnections_per_address = 8", |_| {}).await;
    let address = gateway.url.strip_prefix("http://").unwrap();
    let body = refund("1", "");
    let request = format!(
        "POST {PREFLIGHT} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer apk_one\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut own = TcpStream::connect(address).await.unwrap();
    let mut buffer = vec![0; 4096];
    let mut others = Vec::new();
    for _ in 0..5 {
        own.write_all(request.as_bytes()).await.unwrap();
        let read = own.read(&mut buffer).await.unwrap();
        assert!(buffer[..read].starts_with(b"HTTP/1.1 200 "), "the same connection");
        for _ in 0..20 {
            others.push(TcpStream::connect(address).await.unwrap());
        }
    }
    gateway.stop().await;
}

#[tokio::test]
async fn each_connection_stage_times_out() {
    let gateway = start(&[], "", "", |settings| {
        settings.timeouts.headers = Duration::from_millis(200);
        settings.timeouts.body = Duration::from_millis(200);
        settings.timeouts.response = Duration::from_millis(200);
    })
    .await;
    // Reading to the end returns when the gateway closes the connection.
    for (what, bytes) in [
        ("nothing", String::new()),
        ("a part of a method", "G".to_owned()),
        ("a part of the headers", "GET / HTTP/1.1\r\nhost:".to_owned()),
        ("junk", "\u{1}\u{2}\u{3}".to_owned()),
        ("a part of the preface of HTTP/2", "PRI * HT".to_owned()),
        ("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("a request, and nothing more", "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned()),
        (
            "two requests, and a part of a third",
            "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(2) + "GET /he",
        ),
        (
            "a part of a body",
            format!(
                "POST {PREFLIGHT} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer apk_one\r\n\
                 content-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
            ),
        ),
        (
            "a part of a chunk",
            format!(
                "POST {PREFLIGHT} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer apk_one\r\n\
                 content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{{"
            ),
        ),
        (
            "a part of a login form",
            "POST /login HTTP/1.1\r\nhost: localhost\r\norigin: http://localhost\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: 100\r\n\r\nkey="
                .to_owned(),
        ),
    ] {
        let ended = tokio::time::timeout(Duration::from_secs(60), raw(&gateway, &bytes)).await;
        assert!(ended.is_ok(), "{what} has no end");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn client_that_stops_reading_is_disconnected() {
    let gateway =
        start(&[], "", "", |settings| settings.timeouts.response = Duration::from_millis(300)).await;
    let long = "x".repeat(200_000);
    let note = format!(r#"{{"event_type": "note", "chain_id": "long", "metadata": {{"text": "{long}"}}}}"#);
    for _ in 0..100 {
        assert_eq!(status(gateway.post(EVIDENCE, "apk_one").body(note.clone())).await.0, 200);
    }
    let address = gateway.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /api/v1/evidence/chains/long HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer apk_one\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    // Reads nothing until the gateway has given up; the 20 MB never arrive completely, regardless
    // of timing.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut response = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut response)).await;
    assert!(read.is_ok(), "the connection was closed");
    assert!(response.len() < 20_000_000, "{}", response.len());
    gateway.decide("apk_one", &refund("1", "")).await;
    gateway.stop().await;
}

#[tokio::test]
async fn configured_limits_apply() {
    let folder = tempfile::tempdir().unwrap();
    let text = common::config("connections = 10\nconnections_per_address = 5\npending_approvals = 7");
    let settings = Settings::parse(&text, folder.path()).unwrap();
    assert_eq!(settings.connections, ConnectionLimits { total: 10, per_address: 5 });
    assert_eq!(settings.pending_approvals, 7);
    let settings = Settings::parse(&common::config(""), folder.path()).unwrap();
    assert_eq!(settings.connections, ConnectionLimits { total: 4096, per_address: 1024 });
    assert_eq!(settings.pending_approvals, 100);
}
