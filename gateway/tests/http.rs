//! The HTTP API of a running server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "common/broken.rs"]
mod broken;
mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use actpass_gateway::server::Server;
use actpass_gateway::store::{Location, StoreError};
use actpass_protocol::{Json, hash_payload};
use broken::Broken;
use common::{EVIDENCE, Gateway, PREFLIGHT, json, refund, text};

#[tokio::test]
async fn decisions_follow_policy() {
    let gateway = Gateway::start().await;
    for (amount, decision, reason, rules) in [
        ("4900", "allow", "refund.small_in_scope", r#"["small_refund_auto_approve"]"#),
        ("25000", "require_approval", "refund.medium_needs_approval", r#"["medium_refund_needs_approval"]"#),
        ("90000", "deny", "refund.over_limit", r#"["large_refund_denied"]"#),
        ("\"4900\"", "deny", "policy.no_match", "[]"),
        ("9007199254740993", "deny", "refund.over_limit", r#"["large_refund_denied"]"#),
    ] {
        let response = gateway.decide("apk_one", &refund(amount, "")).await;
        assert_eq!(text(&response, "decision"), Some(decision), "{response}");
        assert_eq!(text(&response, "reason_code"), Some(reason));
        let explain = response.member("explain").unwrap();
        assert_eq!(explain.member("matched_rules").unwrap().to_string(), rules);
        let summary = text(explain, "summary").unwrap();
        assert!(summary.contains("refunds.create") && summary.contains(reason), "{summary}");
        let is_asked = text(&response, "approval_request_id").is_some_and(|id| id.starts_with("apr_"));
        assert_eq!(is_asked, decision == "require_approval");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn decision_members_are_ordered() {
    let gateway = Gateway::start().await;
    let body = refund("90000", r#", "unknown": {"kept": 1.50}, "user_id": null"#);
    let response = gateway.decide("apk_one", &body).await;
    let names: Vec<_> = response.as_object().unwrap().iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "decision",
            "reason_code",
            "risk_tier",
            "explain",
            "evidence_event_id",
            "evidence_chain_id",
            "request_hash",
            "policy_hash",
            "halt_epoch"
        ]
    );
    assert_eq!(text(&response, "risk_tier"), Some("critical"));
    assert_eq!(text(&response, "evidence_chain_id"), Some("decisions"));
    let hash = hash_payload(&Json::parse(body.as_bytes()).unwrap()).unwrap();
    assert_eq!(text(&response, "request_hash"), Some(&*hash));

    let no_canonical_form = gateway.decide("apk_one", &refund("9007199254740993", "")).await;
    assert_eq!(no_canonical_form.member("request_hash"), None);
    gateway.stop().await;
}

#[tokio::test]
async fn modes_change_response_but_ledger_keeps_decision() {
    let gateway = Gateway::start().await;
    for (mode, decision, would_be) in [
        (r#""enforce""#, "deny", None),
        (r#""strict""#, "deny", None),
        (r#""monitor""#, "deny", None),
        (r#""warn""#, "warn", Some("deny")),
        ("null", "deny", None),
    ] {
        let response = gateway.decide("apk_one", &refund("90000", &format!(r#", "mode": {mode}"#))).await;
        assert_eq!(text(&response, "decision"), Some(decision), "{mode}");
        assert_eq!(text(&response, "would_be"), would_be, "{mode}");
        assert_eq!(text(&response, "reason_code"), Some("refund.over_limit"));
    }
    let allowed = gateway.decide("apk_one", &refund("1", r#", "mode": "warn""#)).await;
    assert_eq!(text(&allowed, "decision"), Some("allow"));
    assert_eq!(allowed.member("would_be"), None);

    let events = gateway.events("apk_one", "decisions").await;
    let kept: Vec<_> =
        events.iter().map(|event| (text(event, "mode").unwrap(), text(event, "decision").unwrap())).collect();
    assert_eq!(
        kept,
        [
            ("enforce", "deny"),
            ("strict", "deny"),
            ("monitor", "deny"),
            ("warn", "deny"),
            ("enforce", "deny"),
            ("warn", "allow")
        ]
    );
    gateway.stop().await;
}

#[tokio::test]
async fn ledger_records_actor_action_and_reason() {
    let gateway = Gateway::start().await;
    let more = r#", "user_id": "u7", "mode": "strict""#;
    let response = gateway.decide("apk_bound", &refund("4900", more)).await;
    gateway.decide("apk_one", &refund("4900", "")).await;

    let events = gateway.events("apk_one", "decisions").await;
    let [bound, unbound] = events.as_slice() else { panic!("{events:?}") };
    for (member, expected) in [
        ("event_id", text(&response, "evidence_event_id").unwrap()),
        ("chain_id", "decisions"),
        ("event_type", "decision"),
        ("tenant_id", "one"),
        ("agent_id", "support"),
        ("claimed_agent_id", "sdk"),
        ("key_name", "name-of-apk-bound"),
        ("tool_id", "refunds.create"),
        ("resource", ""),
        ("goal", "refund an order"),
        ("user_id", "u7"),
        ("mode", "strict"),
        ("decision", "allow"),
        ("reason_code", "refund.small_in_scope"),
        ("policy_id", "refunds"),
        ("policy_hash", text(&response, "policy_hash").unwrap()),
        ("request_hash", text(&response, "request_hash").unwrap()),
    ] {
        assert_eq!(text(bound, member), Some(expected), "{member}");
    }
    assert!(!bound.to_string().contains("amount"), "arguments must not be stored: {bound}");
    assert_eq!(text(unbound, "agent_id"), Some("sdk"));
    assert_eq!(unbound.member("claimed_agent_id"), None);
    assert_eq!(text(unbound, "previous_event_hash"), text(bound, "current_event_hash"));
    gateway.stop().await;
}

#[tokio::test]
async fn policy_uses_agent_bound_to_key() {
    let gateway = Gateway::start_with("", |settings| {
        let policy =
            br#"{"id": "p", "version": 1, "rules": [{"name": "support", "decision": "allow", "reason": "ok",
            "when": [{"path": "agent_id", "operator": "==", "value": "support"}]}]}"#;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("p.json"), policy).unwrap();
        let refunds = format!("{}/../policies/dev.json", env!("CARGO_MANIFEST_DIR"));
        let config = common::config("").replace(&refunds, "p.json");
        let data = settings.data.clone();
        *settings = actpass_gateway::config::Settings::parse(&config, folder.path()).unwrap();
        settings.data = data;
    })
    .await;
    let body = |agent: &str| format!(r#"{{"agent_id": {agent}, "goal": "g", "tool": "t", "args": {{}}}}"#);
    for (key, agent, decision) in [
        ("apk_bound", "\"other\"", "allow"),
        ("apk_bound", "null", "allow"),
        ("apk_one", "\"support\"", "allow"),
        ("apk_one", "\"other\"", "deny"),
        ("apk_one", "null", "deny"),
    ] {
        let response = gateway.decide(key, &body(agent)).await;
        assert_eq!(text(&response, "decision"), Some(decision), "{key} {agent}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn invalid_member_is_named() {
    let gateway = Gateway::start().await;
    let long = |length: usize| "x".repeat(length);
    let preflight = |member: &str, value: &str| {
        let mut members = vec![("goal", "\"g\""), ("tool", "\"t\""), ("args", "{}")];
        members.retain(|(name, _)| *name != member);
        members.push((member, value));
        let members: Vec<_> =
            members.iter().filter(|(_, v)| !v.is_empty()).map(|(n, v)| format!("\"{n}\": {v}")).collect();
        format!("{{{}}}", members.join(", "))
    };
    let table = [
        ("goal", String::new()),
        ("goal", "null".to_owned()),
        ("goal", "\"\"".to_owned()),
        ("goal", "7".to_owned()),
        ("goal", format!("\"{}\"", long(4097))),
        ("tool", String::new()),
        ("tool", "\"\"".to_owned()),
        ("tool", "[\"t\"]".to_owned()),
        ("tool", format!("\"{}\"", long(257))),
        ("args", String::new()),
        ("args", "null".to_owned()),
        ("args", "[]".to_owned()),
        ("args", "\"{}\"".to_owned()),
        ("resource", "1".to_owned()),
        ("resource", format!("\"{}\"", long(2049))),
        ("agent_id", "true".to_owned()),
        ("agent_id", format!("\"{}\"", long(257))),
        ("user_id", "{}".to_owned()),
        ("user_id", format!("\"{}\"", long(257))),
        ("audience", "1".to_owned()),
        ("audience", format!("\"{}\"", long(2049))),
        ("idempotency_key", "1".to_owned()),
        ("idempotency_key", "\"\"".to_owned()),
        ("idempotency_key", format!("\"{}\"", long(257))),
        ("mode", "\"off\"".to_owned()),
        ("mode", "\"Enforce\"".to_owned()),
        ("mode", "1".to_owned()),
        ("passport", "1".to_owned()),
        ("approval_request_id", "1".to_owned()),
        ("tool_manifest_hash", "1".to_owned()),
    ];
    for (member, value) in &table {
        let body = preflight(member, value);
        let response = gateway.post(PREFLIGHT, "apk_one").body(body.clone()).send().await.unwrap();
        let (status, response) = json(response).await;
        assert_eq!(status, 422, "{body}");
        assert_eq!(text(&response, "error.code"), Some("invalid_member"));
        let message = text(&response, "error.message").unwrap();
        assert!(
            message.starts_with(&format!("{member}: ")) && message.contains("expected"),
            "{body}: {message}"
        );
    }
    // Limits count characters, not bytes.
    let response = gateway.decide("apk_one", &preflight("tool", &format!("\"{}\"", "é".repeat(256)))).await;
    assert_eq!(text(&response, "decision"), Some("deny"));

    for (member, body) in [
        ("event_type", r#"{"chain_id": "c"}"#.to_owned()),
        ("event_type", r#"{"chain_id": "c", "event_type": ""}"#.to_owned()),
        ("event_type", format!(r#"{{"chain_id": "c", "event_type": "{}"}}"#, long(129))),
        ("event_type", r#"{"chain_id": "c", "event_type": "decision"}"#.to_owned()),
        ("chain_id", r#"{"event_type": "e"}"#.to_owned()),
        ("chain_id", r#"{"event_type": "e", "chain_id": 7}"#.to_owned()),
        ("event_type", r#"{"chain_id": "c", "event_type": "tool.approved"}"#.to_owned()),
        ("chain_id", r#"{"event_type": "e", "chain_id": "decisions"}"#.to_owned()),
        ("chain_id", r#"{"event_type": "e", "chain_id": "tools"}"#.to_owned()),
        ("chain_id", r#"{"event_type": "action.outcome", "chain_id": "tools"}"#.to_owned()),
        ("request_hash", r#"{"event_type": "action.outcome", "chain_id": "decisions"}"#.to_owned()),
        ("chain_id", format!(r#"{{"event_type": "e", "chain_id": "{}"}}"#, long(257))),
        ("tool_id", format!(r#"{{"event_type": "e", "chain_id": "c", "tool_id": "{}"}}"#, long(257))),
        ("decision", r#"{"event_type": "e", "chain_id": "c", "decision": true}"#.to_owned()),
        ("reason_code", format!(r#"{{"event_type": "e", "chain_id": "c", "reason_code": "{}"}}"#, long(129))),
        (
            "request_hash",
            format!(r#"{{"event_type": "e", "chain_id": "c", "request_hash": "{}"}}"#, long(129)),
        ),
        ("response_hash", r#"{"event_type": "e", "chain_id": "c", "response_hash": []}"#.to_owned()),
        ("metadata", r#"{"event_type": "e", "chain_id": "c", "metadata": [1]}"#.to_owned()),
        (
            "metadata",
            r#"{"event_type": "e", "chain_id": "c", "metadata": {"n": 9007199254740993}}"#.to_owned(),
        ),
        ("metadata", r#"{"event_type": "e", "chain_id": "c", "metadata": {"n": 1e20}}"#.to_owned()),
        ("body", "[]".to_owned()),
    ] {
        let response = gateway.post(EVIDENCE, "apk_one").body(body.clone()).send().await.unwrap();
        let (status, response) = json(response).await;
        assert_eq!(status, 422, "{body}");
        let message = text(&response, "error.message").unwrap();
        assert!(message.starts_with(&format!("{member}: ")), "{body}: {message}");
    }
    // Only the decision with the long tool name: rejected requests are not recorded.
    assert_eq!(gateway.events("apk_one", "decisions").await.len(), 1);
    let chain = gateway.get("/api/v1/evidence/chains/c", "apk_one").send().await.unwrap();
    assert_eq!(chain.status(), 404);
    gateway.stop().await;
}

#[tokio::test]
async fn invalid_json_is_400() {
    let gateway = Gateway::start().await;
    let deep = format!("{{\"args\": {}{}}}", "[".repeat(200), "]".repeat(200));
    let bodies: [&[u8]; 8] = [
        b"",
        b"{",
        b"not json",
        b"{} {}",
        br#"{"goal": "g", "go\u0061l": "h"}"#,
        deep.as_bytes(),
        b"{\"goal\": \"\xff\"}",
        br#"{"args": {"amount": 1e400}}"#,
    ];
    for body in bodies {
        let response = gateway.post(PREFLIGHT, "apk_one").body(body.to_vec()).send().await.unwrap();
        let (status, response) = json(response).await;
        assert_eq!(status, 400, "{}", String::from_utf8_lossy(body));
        assert_eq!(text(&response, "error.code"), Some("invalid_json"));
    }
    gateway.stop().await;
}

#[tokio::test]
async fn authentication_precedes_validation() {
    let gateway = Gateway::start().await;
    let url = format!("{}{PREFLIGHT}", gateway.url);
    let requests = [
        gateway.client.post(&url),
        gateway.client.post(&url).bearer_auth("apk_unknown"),
        gateway.client.post(&url).bearer_auth(""),
        gateway.client.post(&url).header("authorization", "apk_one"),
        gateway.client.post(&url).basic_auth("apk_one", Some("x")),
        gateway.client.post(&url).bearer_auth("apk_one").header("authorization", "Bearer apk_one"),
        gateway.client.post(&url).bearer_auth("k".repeat(4000)),
        gateway.client.get(format!("{}/api/v1/evidence/chains/decisions", gateway.url)),
        gateway.client.get(format!("{}/api/v1/approvals", gateway.url)),
    ];
    for request in requests {
        let response = request.body("not json").send().await.unwrap();
        assert_eq!(response.headers()["www-authenticate"], "Bearer, DPoP algs=\"ES256 EdDSA\"");
        let (status, response) = json(response).await;
        assert_eq!(status, 401);
        assert_eq!(text(&response, "error.code"), Some("unauthenticated"));
    }
    // The scheme is case-insensitive.
    let response = gateway.client.post(&url).header("authorization", "bearer apk_one").send().await.unwrap();
    assert_eq!(response.status(), 415);
    gateway.stop().await;
}

#[tokio::test]
async fn unknown_key_is_rejected_before_body() {
    let gateway = Gateway::start().await;
    let head = "POST /api/v1/actions/preflight HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer apk_unknown\r\n\
                content-type: application/json\r\ncontent-length: 1000\r\n\r\n";
    let response = raw(&gateway, head).await;
    assert!(response.starts_with("HTTP/1.1 401 "), "{response}");
    gateway.stop().await;
}

#[tokio::test]
async fn oversized_body_is_413() {
    let gateway = Gateway::start_with("body_bytes = 2000", |_| {}).await;
    let fitting = refund("1", &format!(r#", "x": "{}""#, "x".repeat(1500)));
    gateway.decide("apk_one", &fitting).await;
    let large = refund("1", &format!(r#", "x": "{}""#, "x".repeat(3_000_000)));
    for chunked in [false, true] {
        let body = match chunked {
            false => reqwest::Body::from(large.clone()),
            true => reqwest::Body::wrap_stream(in_chunks(&large)),
        };
        let response = gateway.post(PREFLIGHT, "apk_one").body(body).send().await.unwrap();
        let (status, response) = json(response).await;
        assert_eq!(status, 413, "chunked: {chunked}");
        assert_eq!(text(&response, "error.code"), Some("body_too_large"));
    }
    gateway.stop().await;
}

/// A body without content length.
fn in_chunks(text: &str) -> impl futures_util::Stream<Item = Result<Vec<u8>, std::io::Error>> + use<> {
    let chunks: Vec<_> = text.as_bytes().chunks(10_000).map(|chunk| Ok(chunk.to_vec())).collect();
    futures_util::stream::iter(chunks)
}

#[tokio::test]
async fn requires_json_content_type() {
    let gateway = Gateway::start().await;
    let url = format!("{}{PREFLIGHT}", gateway.url);
    for (name, value) in [
        ("content-type", "text/plain"),
        ("content-type", "application/jsonp"),
        ("content-type", "application/x-www-form-urlencoded"),
        ("x-nothing", "1"),
    ] {
        let request = gateway.client.post(&url).bearer_auth("apk_one").header(name, value);
        let (status, response) = json(request.body(refund("1", "")).send().await.unwrap()).await;
        assert_eq!(status, 415, "{name}: {value}");
        assert_eq!(text(&response, "error.code"), Some("unsupported_media_type"));
    }
    let request = gateway.post(PREFLIGHT, "apk_one").header("content-encoding", "gzip");
    assert_eq!(request.body(refund("1", "")).send().await.unwrap().status(), 415);
    let request = gateway
        .client
        .post(&url)
        .bearer_auth("apk_one")
        .header("content-type", "Application/JSON; charset=utf-8");
    assert_eq!(request.body(refund("1", "")).send().await.unwrap().status(), 200);
    gateway.stop().await;
}

#[tokio::test]
async fn unknown_path_is_404_and_method_is_405() {
    let gateway = Gateway::start().await;
    for path in ["/nothing", "/api/v1/nothing", "/api/v1/actions/preflight/", "/API/v1/actions/preflight"] {
        let (status, response) = json(gateway.get(path, "apk_one").send().await.unwrap()).await;
        assert_eq!(status, 404, "{path}");
        assert_eq!(text(&response, "error.code"), Some("not_found"));
    }
    for (method, path, allow) in [
        ("GET", PREFLIGHT, "POST"),
        ("DELETE", EVIDENCE, "POST"),
        ("POST", "/healthz", "GET,HEAD"),
        ("POST", "/api/v1/evidence/chains/c", "GET,HEAD"),
    ] {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = gateway.client.request(method, format!("{}{path}", gateway.url)).bearer_auth("apk_one");
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["allow"], allow);
        let (status, response) = json(response).await;
        assert_eq!(status, 405, "{path}");
        assert_eq!(text(&response, "error.code"), Some("method_not_allowed"));
    }
    gateway.stop().await;
}

#[tokio::test]
async fn passports_without_master_key_are_501() {
    let gateway = Gateway::start().await;
    for (method, path) in [
        ("POST", "/api/v1/passports/issue"),
        ("POST", "/api/v1/passports/verify"),
        ("POST", "/api/v1/passports/revoke"),
        ("GET", "/.well-known/jwks.json"),
    ] {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request =
            gateway.client.request(method, format!("{}{path}", gateway.url)).bearer_auth("apdv_one");
        let request = request.header("content-type", "application/json").body("{}");
        let (status, response) = json(request.send().await.unwrap()).await;
        assert_eq!(status, 501, "{path}");
        assert_eq!(text(&response, "error.code"), Some("not_implemented"));
    }
    let request = gateway.post(PREFLIGHT, "apk_one").body(refund("1", r#", "passport": "x""#));
    assert_eq!(request.send().await.unwrap().status(), 501);
    gateway.decide("apk_one", &refund("1", r#", "passport": null"#)).await;
    assert_eq!(gateway.events("apk_one", "decisions").await.len(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn outcome_links_to_decision() {
    let gateway = Gateway::start().await;
    let decision = gateway.decide("apk_one", &refund("1", "")).await;
    let hash = text(&decision, "request_hash").unwrap();
    let body = format!(
        r#"{{"event_type": "action.outcome", "chain_id": "decisions", "request_hash": "{hash}", "decision": "allow"}}"#
    );
    let (status, _) =
        json(gateway.post("/api/v1/evidence/events", "apk_one").body(body).send().await.unwrap()).await;
    assert_eq!(status, 200);
    let events = gateway.events("apk_one", "decisions").await;
    let found: Vec<_> =
        events.iter().map(|event| (text(event, "event_type"), text(event, "request_hash"))).collect();
    assert_eq!(found, [(Some("decision"), Some(hash)), (Some("action.outcome"), Some(hash))]);
    gateway.stop().await;
}

#[tokio::test]
async fn changed_tool_requires_reapproval() {
    let gateway = Gateway::start().await;
    let register = async |key: &str, manifest: &str| {
        let body = format!(r#"{{"tool_id": "refunds.create", "manifest": {manifest}}}"#);
        json(gateway.post("/api/v1/tools", key).body(body).send().await.unwrap()).await
    };
    let ask = async |key: &str, hash: &str, more: &str| {
        gateway.decide(key, &refund("4900", &format!(r#", "tool_manifest_hash": "{hash}"{more}"#))).await
    };
    let word = |decision: &Json| text(decision, "decision").unwrap().to_owned();

    let unknown = ask("apk_one", "aa", "").await;
    assert_eq!(
        (&*word(&unknown), text(&unknown, "reason_code")),
        ("require_tool_reapproval", Some("tool.not_registered"))
    );

    let manifest = r#"{"name": "refunds.create", "inputSchema": {"type": "object"}}"#;
    let (status, response) = register("apk_one", manifest).await;
    assert_eq!((status.as_u16(), text(&response, "error.code")), (403, Some("forbidden")));
    let (status, response) = register("apdv_one", manifest).await;
    let hash = hash_payload(&Json::parse(manifest.as_bytes()).unwrap()).unwrap();
    assert_eq!((status.as_u16(), text(&response, "manifest_hash")), (200, Some(&*hash)));
    assert_eq!(response.member("approved"), Some(&Json::Bool(true)));

    assert_eq!(word(&ask("apk_one", &hash, "").await), "allow");
    let changed = ask("apk_one", &hash.replace(|c: char| c.is_ascii_digit(), "0"), "").await;
    assert_eq!(
        (&*word(&changed), text(&changed, "reason_code")),
        ("require_tool_reapproval", Some("tool.manifest_changed"))
    );
    assert_eq!(text(&changed, "risk_tier"), Some("high"));
    let warned = ask("apk_one", "aa", r#", "mode": "warn""#).await;
    assert_eq!((&*word(&warned), text(&warned, "would_be")), ("warn", Some("require_tool_reapproval")));
    assert_eq!(word(&ask("apk_one", "aa", r#", "mode": "monitor""#).await), "require_tool_reapproval");
    // Without a manifest hash there is no check; another tenant's approval does not count.
    assert_eq!(word(&gateway.decide("apk_one", &refund("4900", "")).await), "allow");
    assert_eq!(text(&ask("apk_two", &hash, "").await, "reason_code"), Some("tool.not_registered"));

    let states = async |key: &str, query: &str| {
        json(gateway.get(&format!("/api/v1/tools{query}"), key).send().await.unwrap()).await
    };
    let query = "?tool=refunds.create&tool=files.delete";
    let (status, response) = states("apk_one", query).await;
    let expected = format!(
        r#"{{"tools":[{{"tool_id":"refunds.create","manifest_hash":"{hash}","may_permit":true}},{{"tool_id":"files.delete","manifest_hash":null,"may_permit":false}}]}}"#
    );
    assert_eq!((status.as_u16(), response.to_string()), (200, expected));
    let (_, response) = states("apk_two", query).await;
    assert_eq!(response.member("tools").unwrap().to_string().matches("\"manifest_hash\":null").count(), 2);
    for (query, problem) in [
        ("", "tool: expected 1 to 100 values, found 0"),
        ("?tool=", "tool: expected 1 to 256 characters"),
        ("?tools=a", "tools: unknown parameter; expected tool"),
        (&*format!("?{}", "tool=a&".repeat(101)), "tool: expected 1 to 100 values, found 101"),
    ] {
        let (status, response) = states("apk_one", query).await;
        assert_eq!((status.as_u16(), text(&response, "error.message")), (422, Some(problem)));
    }

    let newer = r#"{"name": "refunds.create", "inputSchema": {"type": "object", "properties": {}}}"#;
    let (_, response) = register("apdv_one", newer).await;
    let newer = text(&response, "manifest_hash").unwrap().to_owned();
    assert_eq!(word(&ask("apk_one", &newer, "").await), "allow");
    assert_eq!(word(&ask("apk_one", &hash, "").await), "require_tool_reapproval");

    let approvals = gateway.events("apk_one", "tools").await;
    let hashes: Vec<_> =
        approvals.iter().map(|event| text(event, "metadata.manifest_hash").unwrap()).collect();
    assert_eq!(hashes, [&*hash, &*newer]);
    assert_eq!(text(&approvals[0], "event_type"), Some("tool.approved"));
    assert_eq!(
        (text(&approvals[0], "tool_id"), text(&approvals[0], "key_name")),
        (Some("refunds.create"), Some("name-of-apdv-one"))
    );
    let decisions = gateway.events("apk_one", "decisions").await;
    assert_eq!(text(&decisions[0], "decision"), Some("require_tool_reapproval"));
    assert_eq!(text(&decisions[3], "decision"), Some("require_tool_reapproval"), "also in mode warn");

    for (body, expected) in [
        ("{}", "tool_id: missing"),
        (r#"{"tool_id": "t"}"#, "manifest: missing"),
        (r#"{"tool_id": "t", "manifest": []}"#, "manifest: expected an object, found an array"),
        (r#"{"tool_id": "t", "manifest": {"x": 9007199254740993}}"#, "manifest: "),
    ] {
        let (status, response) =
            json(gateway.post("/api/v1/tools", "apdv_one").body(body).send().await.unwrap()).await;
        assert_eq!(status, 422, "{response}");
        assert!(text(&response, "error.message").unwrap().contains(expected), "{response}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn every_response_has_request_id_and_no_store() {
    let gateway = Gateway::start().await;
    let mut ids = std::collections::HashSet::new();
    for path in ["/healthz", "/nothing", PREFLIGHT, "/api/v1/evidence/chains/c"] {
        let response = gateway.get(path, "apk_one").header("x-request-id", "mine").send().await.unwrap();
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        assert!(id != "mine" && ids.insert(id));
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["content-type"], "application/json");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn repeated_request_returns_same_response() {
    let gateway = Gateway::start().await;
    let send = async |key: &str, body: String| {
        let response = gateway.post(PREFLIGHT, key).body(body).send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    };
    let body = refund("4900", r#", "idempotency_key": "i""#);
    let (status, first) = send("apk_one", body.clone()).await;
    assert_eq!(status, 200);
    let first = Json::parse(first.as_bytes()).unwrap();
    assert_eq!((first.member("replayed"), first.member("replay_age_ms")), (None, None));
    // The same body, formatted differently.
    let spelled = Json::parse(body.as_bytes()).unwrap().to_string().replace("4900", "4900.0");
    common::assert_repeats(&Json::parse(send("apk_one", spelled).await.1.as_bytes()).unwrap(), &first);

    let (status, response) = send("apk_one", refund("4901", r#", "idempotency_key": "i""#)).await;
    assert_eq!(status, 409);
    assert!(response.contains("idempotency_key: "), "{response}");
    assert_eq!(gateway.events("apk_one", "decisions").await.len(), 1);

    // Another key has its own idempotency keys; without one, each request is new.
    for (key, more) in [("apdv_one", r#", "idempotency_key": "i""#), ("apk_one", ""), ("apk_one", "")] {
        let (_, other) = send(key, refund("4900", more)).await;
        let other = Json::parse(other.as_bytes()).unwrap();
        assert_ne!(text(&other, "evidence_event_id"), text(&first, "evidence_event_id"));
        assert_eq!(other.member("replayed"), None);
    }
    // Without a canonical form, the bytes count. A denial is decided again.
    let huge = refund("9007199254740993", r#", "idempotency_key": "huge""#);
    let (_, first) = send("apk_one", huge.clone()).await;
    let (status, again) = send("apk_one", huge.clone()).await;
    assert_eq!(status, 200);
    assert_ne!(again, first);
    assert!(!again.contains("replayed"), "{again}");
    assert_eq!(send("apk_one", huge.replace("993", "994")).await.0, 409);
    gateway.stop().await;
}

#[tokio::test]
async fn records_client_evidence_verbatim() {
    let gateway = Gateway::start().await;
    let body = r#"{"event_type": "refund.done", "chain_id": "case/7 é", "tool_id": "refunds.create",
        "decision": "allow", "reason_code": null, "metadata": {"amount": 49.50, "nested": {"b": 1, "a": [null]}},
        "request_hash": "aa", "response_hash": "bb"}"#;
    let (status, response) = json(gateway.post(EVIDENCE, "apk_bound").body(body).send().await.unwrap()).await;
    assert_eq!(status, 200, "{response}");
    let names: Vec<_> = response.as_object().unwrap().iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["event_id", "current_event_hash"]);
    gateway
        .post(EVIDENCE, "apk_one")
        .body(r#"{"event_type": "e", "chain_id": "case/7 é"}"#)
        .send()
        .await
        .unwrap();

    let chain = "case%2F7%20%C3%A9";
    let events = gateway.events("apk_one", chain).await;
    let [first, second] = events.as_slice() else { panic!("{events:?}") };
    for (member, expected) in [
        ("event_id", text(&response, "event_id").unwrap()),
        ("current_event_hash", text(&response, "current_event_hash").unwrap()),
        ("event_type", "refund.done"),
        ("chain_id", "case/7 é"),
        ("agent_id", "support"),
        ("key_name", "name-of-apk-bound"),
        ("decision", "allow"),
        ("request_hash", "aa"),
        ("response_hash", "bb"),
    ] {
        assert_eq!(text(first, member), Some(expected), "{member}");
    }
    let metadata = Json::parse(br#"{"amount": 49.5, "nested": {"a": [null], "b": 1}}"#).unwrap();
    assert!(first.member("metadata").unwrap().same_value(&metadata), "{first}");
    assert_eq!(first.member("reason_code"), None);
    assert_eq!(text(second, "previous_event_hash"), text(first, "current_event_hash"));

    let verify =
        gateway.get(&format!("/api/v1/evidence/chains/{chain}/verify"), "apk_one").send().await.unwrap();
    let (_, verified) = json(verify).await;
    let head = text(second, "current_event_hash").unwrap();
    assert_eq!(
        verified.to_string(),
        format!(r#"{{"valid":true,"length":2,"head":"{head}","first_broken":null}}"#)
    );
    gateway.stop().await;
}

#[tokio::test]
async fn chain_export_is_paginated() {
    let gateway = Gateway::start().await;
    for number in 1..=600 {
        let body = format!(r#"{{"event_type": "e", "chain_id": "c", "metadata": {{"n": {number}}}}}"#);
        assert_eq!(gateway.post(EVIDENCE, "apk_one").body(body).send().await.unwrap().status(), 200);
    }
    let numbers = async |query: &str| -> Vec<String> {
        let events = gateway.events("apk_one", &format!("c{query}")).await;
        events.iter().map(|event| event.member("seq").unwrap().to_string()).collect()
    };
    let all: Vec<_> = (1..=600).map(|n| n.to_string()).collect();
    assert_eq!(numbers("").await, all);
    assert_eq!(numbers("?after=598").await, ["599", "600"]);
    assert_eq!(numbers("?limit=2").await, ["1", "2"]);
    assert_eq!(numbers("?after=5&limit=1").await, ["6"]);
    assert_eq!(numbers("?after=590&limit=50").await.len(), 10);
    assert!(numbers("?after=600").await.is_empty());
    assert!(numbers("?after=9223372036854775807&limit=5").await.is_empty());
    for (query, member) in [
        ("?after=-1", "after"),
        ("?limit=0", "limit"),
        ("?limit=x", "limit"),
        ("?after=1&after=2", "after"),
        ("?after=9223372036854775808", "after"),
    ] {
        let response =
            gateway.get(&format!("/api/v1/evidence/chains/c{query}"), "apk_one").send().await.unwrap();
        let (status, response) = json(response).await;
        assert_eq!(status, 422, "{query}");
        assert!(text(&response, "error.message").unwrap().starts_with(&format!("{member}: ")));
    }
    gateway.stop().await;
}

#[tokio::test]
async fn tenants_are_isolated() {
    let gateway = Gateway::start().await;
    gateway.decide("apk_one", &refund("1", r#", "idempotency_key": "i""#)).await;
    let body = r#"{"event_type": "e", "chain_id": "c"}"#;
    gateway.post(EVIDENCE, "apk_one").body(body).send().await.unwrap();
    for chain in ["decisions", "c", "never"] {
        for suffix in ["", "/verify"] {
            let path = format!("/api/v1/evidence/chains/{chain}{suffix}");
            let request = gateway.get(&path, "apk_two").header("x-actpass-tenant", "one");
            let (status, response) = json(request.send().await.unwrap()).await;
            assert_eq!(status, 404, "{path}");
            assert_eq!(text(&response, "error.message"), Some("chain not found"));
        }
    }
    // The same idempotency key with another body: no conflict on another chain.
    gateway.decide("apk_two", &refund("2", r#", "idempotency_key": "i""#)).await;
    let events = gateway.events("apk_two", "decisions").await;
    assert_eq!(events.len(), 1);
    assert_eq!(text(&events[0], "tenant_id"), Some("two"));
    gateway.stop().await;
}

#[tokio::test]
async fn rate_limited_key_is_429() {
    let gateway = Gateway::start_with("requests_per_second = 1\nburst = 3", |_| {}).await;
    let mut refused = None;
    for _ in 0..50 {
        let response = gateway.post(PREFLIGHT, "apk_one").body(refund("1", "")).send().await.unwrap();
        if response.status() != 200 {
            refused = Some(response);
            break;
        }
    }
    let refused = refused.expect("50 requests with a limit of one per second");
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(wait >= 1);
    let (status, response) = json(refused).await;
    assert_eq!(status, 429);
    assert_eq!(text(&response, "error.code"), Some("rate_limited"));
    // Each key has its own rate limit.
    gateway.decide("apk_two", &refund("1", "")).await;
    gateway.stop().await;
}

/// The agent keys of a tenant share its limit, a key has its own, and operators have only theirs.
#[tokio::test]
async fn tenant_and_key_have_their_own_limits() {
    let gateway = Gateway::start_with("", |settings| {
        let folder = tempfile::tempdir().unwrap();
        let text = common::config("").replacen(
            "id = \"one\"",
            "id = \"one\"\nrequests_per_second = 1\nburst = 4",
            1,
        );
        let text = text + "requests_per_second = 1\nburst = 2\n";
        let data = settings.data.clone();
        *settings = actpass_gateway::config::Settings::parse(&text, folder.path()).unwrap();
        settings.data = data;
    })
    .await;
    let refused = async |key: &str| {
        for _ in 0..50 {
            let response = gateway.post(PREFLIGHT, key).body(refund("1", "")).send().await.unwrap();
            if response.status() != 200 {
                assert!(response.headers().contains_key("retry-after"));
                let (status, body) = json(response).await;
                assert_eq!((status.as_u16(), text(&body, "error.code")), (429, Some("rate_limited")));
                return text(&body, "error.message").unwrap().to_owned();
            }
        }
        panic!("50 requests with a limit of one per second");
    };
    assert!(refused("apk_one").await.contains("rate limit of this tenant exceeded"));
    let other = gateway.post(PREFLIGHT, "apk_bound").body(refund("1", "")).send().await.unwrap();
    assert_eq!(other.status(), 429, "another agent of the tenant");
    for _ in 0..20 {
        gateway.decide("apdv_one", &refund("1", "")).await;
    }
    assert!(refused("apk_two").await.contains("rate limit of this API key exceeded"));
    gateway.stop().await;
}

/// Beyond the limit of decisions in progress, a preflight is refused immediately, and nothing else is.
#[tokio::test]
async fn excess_decisions_are_shed() {
    let folder = tempfile::tempdir().unwrap();
    let config = common::config("decisions = 2\n");
    let mut settings = actpass_gateway::config::Settings::parse(&config, folder.path()).unwrap();
    settings.timeouts.store = Duration::from_secs(3600);
    settings.timeouts.stop = Duration::from_millis(1);
    // The store never answers.
    let server = Server::start_with(settings, Broken::new(None)).await.unwrap();
    let data = Location::File(PathBuf::new());
    let gateway = Gateway { folder, data, url: server.url(), server: Some(server), client: common::client() };
    let waiting: Vec<_> = (0..2)
        .map(|_| tokio::spawn(gateway.post(PREFLIGHT, "apk_one").body(refund("1", "")).send()))
        .collect();
    let in_progress = async |count: u32| {
        let series = format!("\nactpass_gateway_decisions_in_progress {count}\n");
        loop {
            let metrics = gateway.get("/metrics", "apdv_one").send().await.unwrap().text().await.unwrap();
            if metrics.replace(".0\n", "\n").contains(&series) {
                return metrics;
            }
        }
    };
    in_progress(2).await;
    for _ in 0..3 {
        let response = gateway.post(PREFLIGHT, "apk_one").body(refund("1", "")).send().await.unwrap();
        assert_eq!(response.headers()["retry-after"], "1");
        let (status, body) = json(response).await;
        assert_eq!(status, 503);
        assert_eq!(text(&body, "error.code"), Some("overloaded"));
    }
    assert_eq!(gateway.get("/livez", "").send().await.unwrap().status(), 200);
    let metrics = in_progress(2).await;
    assert!(metrics.contains("actpass_gateway_shed_total{tenant=\"one\"} 3\n"), "{metrics}");
    assert!(metrics.contains("\nactpass_gateway_decisions_limit 2"), "{metrics}");
    // A client that leaves makes room.
    for request in waiting {
        request.abort();
    }
    in_progress(0).await;
    gateway.stop().await;
}

#[tokio::test]
async fn slow_headers_and_bodies_time_out() {
    let gateway = Gateway::start_with("", |settings| {
        settings.timeouts.body = Duration::from_millis(200);
        settings.timeouts.headers = Duration::from_millis(200);
    })
    .await;
    let head = "POST /api/v1/actions/preflight HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer apk_one\r\n\
                content-type: application/json\r\ncontent-length: 1000\r\n\r\n{";
    let response = raw(&gateway, head).await;
    assert!(response.starts_with("HTTP/1.1 408 ") && response.contains("body_timeout"), "{response}");
    for slow in ["", "GET /healthz HTTP/1.1\r\nhost:"] {
        assert_eq!(raw(&gateway, slow).await, "", "{slow:?}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn survives_malformed_http() {
    let gateway = Gateway::start().await;
    for bytes in
        ["\0\0\0\0", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n"]
    {
        let response = raw(&gateway, bytes).await;
        assert!(response.is_empty() || response.starts_with("HTTP/1.1 400 "), "{bytes:?}: {response}");
    }
    let too_long = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(100_000));
    let response = raw(&gateway, &too_long).await;
    assert!(response.is_empty() || response.starts_with("HTTP/1.1 431 "), "{response}");
    gateway.decide("apk_one", &refund("1", "")).await;
    gateway.stop().await;
}

/// Sends bytes and reads until the gateway closes the connection or has responded.
async fn raw(gateway: &Gateway, bytes: &str) -> String {
    let address = gateway.url.strip_prefix("http://").unwrap().to_owned();
    let bytes = bytes.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // The gateway may respond and close before everything is written.
        let _ = stream.write_all(bytes.as_bytes());
        let mut response = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => response.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{error}"),
            }
            if response.ends_with(b"}") {
                break;
            }
        }
        String::from_utf8_lossy(&response).into_owned()
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn health_checks_the_store() {
    let gateway = Gateway::start().await;
    let (status, response) =
        json(gateway.client.get(format!("{}/healthz", gateway.url)).send().await.unwrap()).await;
    assert_eq!((status.as_u16(), response.to_string().as_str()), (200, r#"{"status":"ok"}"#));
    gateway.stop().await;
}

#[tokio::test]
async fn unrecorded_decision_is_not_returned() {
    for (broken, code) in [
        (Some(StoreError::Busy), "busy"),
        (Some(StoreError::HaltsChanged), "busy"),
        (Some(StoreError::Unavailable), "unavailable"),
        (None, "unavailable"),
    ] {
        let retry_after = (code == "busy").then_some("1");
        let folder = tempfile::tempdir().unwrap();
        let mut settings =
            actpass_gateway::config::Settings::parse(&common::config(""), folder.path()).unwrap();
        settings.timeouts.store = Duration::from_millis(100);
        let broken_with = broken;
        let server = Server::start_with(settings, Broken::new(broken)).await.unwrap();
        let data = Location::File(PathBuf::new());
        let gateway =
            Gateway { folder, data, url: server.url(), server: Some(server), client: common::client() };
        let requests = [
            gateway.post(PREFLIGHT, "apk_one").body(refund("1", "")),
            gateway.post(PREFLIGHT, "apk_one").body(refund("1", r#", "tool_manifest_hash": "aa""#)),
            gateway.post("/api/v1/tools", "apdv_one").body(r#"{"tool_id": "t", "manifest": {}}"#),
            gateway.post(EVIDENCE, "apk_one").body(r#"{"event_type": "e", "chain_id": "c"}"#),
            gateway.get("/api/v1/evidence/chains/c", "apk_one"),
            gateway.get("/api/v1/evidence/chains/c/verify", "apk_one"),
            gateway.get("/api/v1/approvals/apr_1", "apk_one"),
            gateway.get("/api/v1/approvals", "apdv_one"),
            gateway.post("/api/v1/approvals/apr_1/approve", "apdv_one").body("{}"),
            gateway.post(PREFLIGHT, "apk_one").body(refund("1", r#", "approval_request_id": "apr_1""#)),
            gateway.post("/api/v1/halts", "apdv_one").body(r#"{"scope": "tenant", "reason": "r"}"#),
            gateway.get("/api/v1/halts", "apdv_one"),
            gateway.get("/api/v1/halts/watch", "apk_one"),
            gateway.post("/api/v1/halts/ack", "apk_one").body(r#"{"epoch": 1, "in_flight": 0}"#),
            gateway.get("/healthz", ""),
            gateway.get("/readyz", ""),
        ];
        for request in requests {
            let response = request.send().await.unwrap();
            let wait = response.headers().get("retry-after").map(|wait| wait.to_str().unwrap().to_owned());
            assert_eq!(wait.as_deref(), retry_after);
            let (status, response) = json(response).await;
            assert_eq!(status, 503, "{response}");
            assert_eq!(text(&response, "error.code"), Some(code));
            assert_eq!(response.member("decision"), None);
        }
        // An AuthZEN error is a message; in a list, the evaluation is denied.
        let evaluation = r#"{"subject": {"type": "agent", "id": "sdk"}, "action": {"name": "t"},
            "resource": {"type": "r", "id": "1"}}"#;
        let request = gateway.post("/access/v1/evaluation", "apk_one").body(evaluation);
        let (status, response) = json(request.send().await.unwrap()).await;
        assert_eq!(status, 503);
        assert!(response.as_str().is_some(), "{response}");
        let body = format!(r#"{{"evaluations": [{evaluation}, {evaluation}]}}"#);
        let request = gateway.post("/access/v1/evaluations", "apk_one").body(body);
        let (status, response) = json(request.send().await.unwrap()).await;
        assert_eq!(status, 200);
        let Some(Json::Array(decisions)) = response.member("evaluations") else { panic!("{response}") };
        assert_eq!(decisions.len(), 2);
        for decision in decisions {
            assert_eq!(decision.member("decision"), Some(&Json::Bool(false)));
            assert_eq!(text(decision, "context.error.code"), Some(code));
        }
        // The process is alive, and its metrics show the failure.
        assert_eq!(gateway.get("/livez", "").send().await.unwrap().status(), 200);
        let metrics = gateway.get("/metrics", "apdv_one").send().await.unwrap().text().await.unwrap();
        assert!(metrics.contains("\nactpass_gateway_store_up 0"), "{metrics}");
        let kind = match broken_with {
            Some(StoreError::Busy) => Some("busy"),
            Some(StoreError::Unavailable) => Some("unavailable"),
            Some(StoreError::HaltsChanged | StoreError::NotCanonical) => None,
            None => Some("timeout"),
        };
        for counted in ["busy", "not_canonical", "timeout", "unavailable"] {
            let none = format!("actpass_gateway_store_errors_total{{kind=\"{counted}\"}} 0\n");
            assert_eq!(metrics.contains(&none), kind != Some(counted), "{counted}: {metrics}");
        }
        gateway.stop().await;
    }
}

#[tokio::test]
async fn large_concurrent_requests_are_decided() {
    let gateway = Gateway::start().await;
    let padded = refund("1", &format!(r#", "x": "{}""#, "x".repeat(200_000)));
    let answers = futures_util::future::join_all((0..64).map(|number| {
        let body = if number % 8 == 0 { padded.clone() } else { refund("1", "") };
        let gateway = &gateway;
        async move { gateway.decide("apk_one", &body).await }
    }))
    .await;
    assert!(answers.iter().all(|response| text(response, "decision") == Some("allow")));
    let verify = gateway.get("/api/v1/evidence/chains/decisions/verify", "apk_one").send().await.unwrap();
    let (_, verified) = json(verify).await;
    assert_eq!(verified.member("valid"), Some(&Json::Bool(true)));
    assert_eq!(verified.member("length").unwrap().to_string(), "64");
    gateway.stop().await;
}
