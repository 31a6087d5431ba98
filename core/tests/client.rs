//! Requests, responses and settings of the client.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod common;

use std::collections::HashSet;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actpass_core::transport::{MAX_BODY, TransportError};
use actpass_core::{
    ActPass, ActPassBuilder, Action, CallOptions, DecisionWord, Error, ErrorKind, EvidenceEvent, Json, Mode,
    OfflineVerifyRequest, Operation, PassportRequest, Verdict, VerifyRequest,
};
use actpass_hostile_gateway::Seen;
use common::{KEY, action, allow, block_on, body, builder, client, gateway, header, in_child, over, respond};
use serde_json::{Value, json};
use uuid::Uuid;

// Requests. The expected bodies are the output of client 1.1.3's json.dumps for the same calls.

#[test]
fn preflight_request_bytes() {
    let minimal = Action::new("resolve_refund_request", "stripe.refund.create")
        .args_text(r#"{"amount": 4900, "currency": "usd"}"#);
    let seen = sent(|client| Box::pin(async move { drop(client.preflight(&minimal).await) }));
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/api/v1/actions/preflight"));
    let key = body(&seen)["idempotency_key"].as_str().unwrap().to_owned();
    assert_eq!(
        seen.body.replace(&format!("\"{key}\""), "null"),
        r#"{"agent_id": "refunds", "goal": "resolve_refund_request", "tool": "stripe.refund.create", "resource": "", "args": {"amount": 4900, "currency": "usd"}, "user_id": null, "passport": null, "mode": "enforce", "idempotency_key": null, "audience": null}"#
    );

    let full = Action::new("Zoë \"quoted\" \\ / \x7f\n\t\0😀", "stripe.refund.create")
        .resource("stripe:charge:ch_123")
        .args_text(r#"{"amount": 4900, "note": "caf\u00e9 \ud83d\ude00", "list": [1, -2, true, false, null, {}], "nested": {"a": []}}"#)
        .user_id("u_1")
        .passport("eyJ.p.s")
        .mode(Mode::Strict)
        .idempotency_key("idem-1")
        .audience("mcp://stripe");
    let expected = r#"{"agent_id": "refunds", "goal": "Zo\u00eb \"quoted\" \\ / \u007f\n\t\u0000\ud83d\ude00", "tool": "stripe.refund.create", "resource": "stripe:charge:ch_123", "args": {"amount": 4900, "note": "caf\u00e9 \ud83d\ude00", "list": [1, -2, true, false, null, {}], "nested": {"a": []}}, "user_id": "u_1", "passport": "eyJ.p.s", "mode": "strict", "idempotency_key": "idem-1", "audience": "mcp://stripe"}"#;
    let seen = sent({
        let full = full.clone();
        |client| Box::pin(async move { drop(client.preflight(&full).await) })
    });
    assert_eq!(seen.body, expected);

    // Members unknown to 1.1.3 follow the others, and only if set.
    let ours = full.approval_request_id("apr_1").tool_manifest_hash("ab12");
    let seen = sent(|client| Box::pin(async move { drop(client.preflight(&ours).await) }));
    let known = expected.strip_suffix('}').unwrap();
    assert_eq!(
        seen.body,
        format!(r#"{known}, "approval_request_id": "apr_1", "tool_manifest_hash": "ab12"}}"#)
    );
}

#[test]
fn args_value_is_written_like_client_1_1_3() {
    let value =
        Json::parse(r#"{"zeta":[1,-2,{}],"amount":4900,"note":"café 😀","nested":{"a":[]}}"#.as_bytes());
    let action = action().args(value.unwrap());
    let seen = sent(|client| Box::pin(async move { drop(client.preflight(&action).await) }));
    let expected = r#""args": {"zeta": [1, -2, {}], "amount": 4900, "note": "caf\u00e9 \ud83d\ude00", "nested": {"a": []}}, "#;
    assert!(seen.body.contains(expected), "{}", seen.body);
}

#[test]
fn args_text_is_sent_verbatim() {
    let text = r#"{"amount":4900.00,"id":123456789012345678901234567890,"rate":1E-7,"note":"caf\u00E9 é"}"#;
    let action = action().args_text(text);
    let seen = sent(|client| Box::pin(async move { drop(client.preflight(&action).await) }));
    assert!(seen.body.contains(&format!("\"args\": {text}, ")), "{}", seen.body);
}

#[test]
fn passport_request_bytes() {
    let minimal =
        PassportRequest::new("mcp://stripe-production", "resolve_refund_request", ["stripe.refund.create"]);
    let seen = sent(|client| Box::pin(async move { drop(client.issue_passport(&minimal).await) }));
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/api/v1/passports/issue"));
    assert_eq!(
        seen.body,
        r#"{"audience": "mcp://stripe-production", "agent_id": "refunds", "goal": "resolve_refund_request", "allowed_tools": ["stripe.refund.create"], "allowed_resources": [], "resource_constraints": {}, "user_id": null, "risk_tier": "medium", "ttl_seconds": null}"#
    );

    let full = PassportRequest::new(
        "mcp://stripe-production",
        "resolve_refund_request",
        ["stripe.refund.create", "stripe.charge.get"],
    )
    .allowed_resources(["stripe:charge:ch_123"])
    .resource_constraints(Json::parse(br#"{"max_amount":10000,"currency":"usd"}"#).unwrap())
    .user_id("u_1")
    .risk_tier("high")
    .ttl_seconds(300)
    .approval_request_id("apr_1");
    let seen = sent(|client| Box::pin(async move { drop(client.issue_passport(&full).await) }));
    assert_eq!(
        seen.body,
        r#"{"audience": "mcp://stripe-production", "agent_id": "refunds", "goal": "resolve_refund_request", "allowed_tools": ["stripe.refund.create", "stripe.charge.get"], "allowed_resources": ["stripe:charge:ch_123"], "resource_constraints": {"max_amount": 10000, "currency": "usd"}, "user_id": "u_1", "risk_tier": "high", "ttl_seconds": 300, "approval_request_id": "apr_1"}"#
    );

    let minimal = VerifyRequest::new("eyJ.p.s", "mcp://stripe-production");
    let mut full = minimal.clone();
    let seen = sent(|client| Box::pin(async move { drop(client.verify_passport(&minimal).await) }));
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/api/v1/passports/verify"));
    assert_eq!(
        seen.body,
        r#"{"token": "eyJ.p.s", "audience": "mcp://stripe-production", "agent_id": null, "user_id": null, "current_tool_manifest_hash": null, "policy_hash": null}"#
    );

    full.agent_id = Some("refunds".to_owned());
    full.user_id = Some("u_1".to_owned());
    full.current_tool_manifest_hash = Some("ab12".to_owned());
    full.policy_hash = Some("cd34".to_owned());
    let seen = sent(|client| Box::pin(async move { drop(client.verify_passport(&full).await) }));
    assert_eq!(
        seen.body,
        r#"{"token": "eyJ.p.s", "audience": "mcp://stripe-production", "agent_id": "refunds", "user_id": "u_1", "current_tool_manifest_hash": "ab12", "policy_hash": "cd34"}"#
    );

    let seen = sent(|client| Box::pin(async move { drop(client.revoke_passport("ap_1", None).await) }));
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/api/v1/passports/revoke"));
    assert_eq!(seen.body, r#"{"jti": "ap_1", "reason": null}"#);
    let seen =
        sent(|client| Box::pin(async move { drop(client.revoke_passport("ap_1", Some("stoïen")).await) }));
    assert_eq!(seen.body, r#"{"jti": "ap_1", "reason": "sto\u00efen"}"#);
}

#[test]
fn evidence_request_bytes() {
    let minimal = EvidenceEvent::new("refund.sent", "case_42");
    let seen = sent(|client| Box::pin(async move { drop(client.record_evidence(&minimal).await) }));
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/api/v1/evidence/events"));
    assert_eq!(
        seen.body,
        r#"{"event_type": "refund.sent", "chain_id": "case_42", "tool_id": null, "decision": null, "reason_code": null, "metadata": null, "request_hash": null, "response_hash": null}"#
    );

    let metadata = Json::parse(r#"{"receipt":"re_1","amounts":[4900,1],"note":"€"}"#.as_bytes()).unwrap();
    let mut full =
        EvidenceEvent::new("refund.sent", "case_42").tool_id("stripe.refund.create").metadata(metadata);
    full.decision = Some("allow".to_owned());
    full.reason_code = Some("refund.small_in_scope".to_owned());
    full.request_hash = Some("aa".to_owned());
    full.response_hash = Some("bb".to_owned());
    let seen = sent(|client| Box::pin(async move { drop(client.record_evidence(&full).await) }));
    assert_eq!(
        seen.body,
        r#"{"event_type": "refund.sent", "chain_id": "case_42", "tool_id": "stripe.refund.create", "decision": "allow", "reason_code": "refund.small_in_scope", "metadata": {"receipt": "re_1", "amounts": [4900, 1], "note": "\u20ac"}, "request_hash": "aa", "response_hash": "bb"}"#
    );
}

#[test]
fn sends_expected_headers() {
    let gateway = gateway(json!([respond(json!({}))]));
    let plain = client(&gateway);
    let with_tenant = builder(&gateway).tenant_id("team 1").user_agent("my-agent/1").build().unwrap();
    for operation in calls() {
        for client in [&plain, &with_tenant] {
            drop(block_on(call(client, operation)));
        }
    }
    let seen = gateway.seen();
    assert_eq!(seen.len(), 2 * calls().count());
    let own_name = format!("actpass-rust/{}", env!("CARGO_PKG_VERSION"));
    for (at, seen) in seen.iter().enumerate() {
        let tenant = at % 2 == 1;
        let mut names: Vec<_> = seen.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let reads = calls().nth(at / 2).unwrap().is_read();
        assert_eq!(seen.method, if reads { "GET" } else { "POST" });
        let mut expected = vec!["accept", "accept-encoding", "authorization", "host", "user-agent"];
        if !reads {
            expected.extend(["content-length", "content-type"]);
        }
        if tenant {
            expected.push("x-actpass-tenant");
        }
        expected.sort_unstable();
        assert_eq!(names, expected, "{}", seen.path);
        assert_eq!(header(seen, "authorization"), Some("Bearer apk_test_secret"));
        assert_eq!(header(seen, "content-type"), (!reads).then_some("application/json"));
        assert_eq!(header(seen, "accept-encoding"), Some("identity"));
        assert_eq!(header(seen, "x-actpass-tenant"), tenant.then_some("team 1"));
        assert_eq!(header(seen, "user-agent"), Some(if tenant { "my-agent/1" } else { own_name.as_str() }));
    }
}

#[test]
fn retries_reuse_idempotency_key() {
    let busy = || json!({"do": "respond", "status": 503, "json": {}});
    let gateway = gateway(
        json!([busy(), busy(), respond(allow()), busy(), {"do": "reset", "at": "request"}, respond(allow())]),
    );
    let client = builder(&gateway).max_retries(2).build().unwrap();
    block_on(client.preflight(&action())).unwrap();
    block_on(client.preflight(&action())).unwrap();
    block_on(client.preflight(&action().idempotency_key("order-1"))).unwrap();

    let seen = gateway.seen();
    assert_eq!(seen.len(), 7);
    let key = |at: usize| body(&seen[at])["idempotency_key"].as_str().unwrap().to_owned();
    for first in [0, 3] {
        assert_eq!(Uuid::parse_str(&key(first)).unwrap().get_version_num(), 7);
        assert!(seen[first..first + 3].iter().all(|again| again.body == seen[first].body));
    }
    assert_ne!(key(0), key(3));
    assert_eq!(key(6), "order-1");

    let transport = common::ScriptedTransport::answer(200, allow().to_string());
    let client = over(transport.clone());
    for _ in 0..1000 {
        block_on(client.preflight(&action())).unwrap();
    }
    let keys: HashSet<_> = transport
        .requests()
        .iter()
        .map(|request| serde_json::from_slice::<Value>(&request.body).unwrap()["idempotency_key"].to_string())
        .collect();
    assert_eq!(keys.len(), 1000);
}

#[test]
fn ten_calls_use_one_connection() {
    for tls in ["none", "trusted"] {
        let gateway = common::scripted(json!({"tls": tls, "steps": [respond(allow())]}));
        let mut builder = builder(&gateway);
        if let Some(ca) = gateway.ca_pem() {
            builder = builder.ca(ca);
        }
        let client = builder.build().unwrap();
        block_on(async {
            for _ in 0..10 {
                client.clone().preflight(&action()).await.unwrap();
            }
        });
        let connections: HashSet<_> = gateway.seen().iter().map(|seen| seen.connection).collect();
        assert_eq!((gateway.seen().len(), connections.len()), (10, 1), "tls: {tls}");
    }
}

#[test]
fn client_serves_concurrent_tasks() {
    let gateway = gateway(json!([respond(json!({"event_id": "ev_1"}))]));
    let client = client(&gateway);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..64)
            .map(|n| {
                let client = client.clone();
                let event = EvidenceEvent::new(format!("event.{n}"), "chain");
                tokio::spawn(async move { client.record_evidence(&event).await.map(|_| ()) })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
    });
    let events: HashSet<_> = gateway.seen().iter().map(|seen| body(seen)["event_type"].to_string()).collect();
    assert_eq!((gateway.seen().len(), events.len()), (64, 64));
}

// Retries.

#[test]
fn non_idempotent_calls_are_retried_only_before_send() {
    let busy = |status: u16, headers: Value| json!({"do": "respond", "status": status, "headers": headers, "json": {}});
    let again = json!({"retry-after": "0"});
    for operation in calls() {
        let safe = !matches!(operation, Operation::IssuePassport | Operation::RecordEvidence);
        for (step, retried) in [
            (busy(429, json!({})), true),
            (busy(429, again.clone()), true),
            (busy(503, again.clone()), true),
            (busy(503, json!({})), safe),
            (busy(502, again.clone()), safe),
            (busy(504, again.clone()), safe),
            (busy(500, again.clone()), false),
            (busy(409, again.clone()), false),
            (json!({"do": "reset", "at": "request"}), safe),
            (json!({"do": "reset", "at": "body"}), safe),
            (json!({"do": "raw", "text": ""}), safe),
            (json!({"do": "truncate", "body": "{}", "missing": 1}), false),
            (json!({"do": "raw", "text": "nonsense\r\n\r\n"}), false),
        ] {
            let gateway = gateway(json!([step, respond(answer_to(operation))]));
            let client = builder(&gateway).max_retries(1).build().unwrap();
            let ended = block_on(call(&client, operation));
            assert_eq!(ended.is_ok(), retried, "{operation:?} {step}: {ended:?}");
            assert_eq!(gateway.seen().len(), 1 + usize::from(retried), "{operation:?} {step}");
        }
    }
}

#[test]
fn broken_pooled_connection_does_not_repeat_non_idempotent_calls() {
    for operation in [Operation::IssuePassport, Operation::RecordEvidence] {
        for broken in [json!({"do": "reset", "at": "request"}), json!({"do": "raw", "text": ""})] {
            let gateway =
                gateway(json!([respond(answer_to(operation)), broken, respond(answer_to(operation))]));
            let client = builder(&gateway).max_retries(2).build().unwrap();
            block_on(async {
                call(&client, operation).await.unwrap();
                let error = call(&client, operation).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Connection, "{operation:?} {broken}: {error}");
            });
            assert_eq!(gateway.seen().len(), 2, "{operation:?} {broken}");
        }
    }
}

#[test]
fn refused_connection_is_retried_for_every_operation() {
    for operation in calls() {
        let failure =
            TransportError { error: Error::new(ErrorKind::Connection, "a test"), is_pre_send: true };
        let transport = common::ScriptedTransport::new([Err(failure)]);
        let client =
            ActPass::builder().api_key(KEY).transport(transport.clone()).max_retries(2).build().unwrap();
        assert!(block_on(call(&client, operation)).is_err());
        assert_eq!(transport.requests().len(), 3, "{operation:?}");

        // The default transport retries it: the two backoffs take at least 50 and 100 ms.
        let gateway = common::scripted(json!({"listen": "refused"}));
        let client = builder(&gateway).max_retries(2).build().unwrap();
        let began = Instant::now();
        assert_eq!(block_on(call(&client, operation)).unwrap_err().kind(), ErrorKind::Connection);
        assert!(began.elapsed() >= Duration::from_millis(150), "{operation:?}: {:?}", began.elapsed());
    }
}

#[test]
fn honors_and_reports_retry_after() {
    let busy =
        |after: &str| json!({"do": "respond", "status": 503, "headers": {"retry-after": after}, "json": {}});
    let soon = gateway(json!([busy("1"), respond(allow())]));
    let began = Instant::now();
    block_on(builder(&soon).max_retries(1).build().unwrap().preflight(&action())).unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());

    let late = gateway(json!([busy("3600"), respond(allow())]));
    // `block_on` times out before that deadline.
    let client = builder(&late).max_retries(1).timeout(Duration::from_secs(600)).build().unwrap();
    let error = block_on(client.preflight(&action())).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Status, Some(503)));
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
    assert_eq!(late.seen().len(), 1);
}

#[test]
fn deadline_covers_all_attempts() {
    let gateway = gateway(json!([{"do": "respond", "status": 503, "json": {}, "delay_ms": 400}]));
    // All eleven attempts would take more than 4.4 s.
    let client = builder(&gateway).max_retries(10).timeout(Duration::from_secs(3)).build().unwrap();
    let error = block_on(client.preflight(&action())).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Status | ErrorKind::Timeout), "{error}");
    let attempts = gateway.seen().len();
    assert!((2..10).contains(&attempts), "{attempts}");
}

#[test]
fn redirects_are_never_followed() {
    for operation in calls() {
        for status in [301, 307] {
            let gateway = gateway(json!([{"do": "redirect", "status": status}]));
            let client = builder(&gateway).max_retries(2).build().unwrap();
            let error = block_on(call(&client, operation)).unwrap_err();
            assert_eq!((error.kind(), error.status()), (ErrorKind::Status, Some(status)));
            assert_eq!(gateway.seen().len(), 1);
            assert_eq!(gateway.other_seen(), [], "{operation:?} {status}");
        }
    }
}

// Responses.

#[test]
fn decision_preserves_unknown_members() {
    let text = r#"{"x-first" : 1.50, "decision":"require_approval","big":123456789012345678901234567890,"e":1E2,"neg":-0.0, "deep":{"b":[0.10,"\u00e9"],"a":null}}"#;
    let gateway = gateway(json!([{"do": "respond", "body": text}]));
    let decision = block_on(client(&gateway).preflight(&action())).unwrap();
    let completed =
        r#","reason_code":"unspecified","explain":{"summary":"","matched_rules":[],"next_steps":[]}}"#;
    assert_eq!(decision.as_json(), text.replace("null}}", "null}") + completed);
    assert_eq!(decision.word(), &DecisionWord::RequireApproval);
    for (name, value) in [
        ("x-first", "1.50"),
        ("big", "123456789012345678901234567890"),
        ("e", "1E2"),
        ("neg", "-0.0"),
        ("deep", r#"{"b":[0.10,"é"],"a":null}"#),
    ] {
        assert_eq!(decision.member(name).unwrap().to_string(), value);
    }

    // Also if a credential is removed.
    let with_credential = text.replace("\"e\":", r#""credential":{"token":"tok_secret"},"e":"#);
    let decision =
        block_on(over(common::ScriptedTransport::answer(200, with_credential)).preflight(&action())).unwrap();
    assert!(!decision.as_json().contains("tok_secret"));
    for name in ["x-first", "big", "e", "neg", "deep"] {
        assert_eq!(
            decision.member(name),
            Json::parse(text.as_bytes()).unwrap().member(name).cloned(),
            "{name}"
        );
    }
}

#[test]
fn decision_accessors() {
    let answer = json!({
        "decision": "require_approval", "reason_code": "refund.medium_needs_approval", "risk_tier": "high",
        "evidence_event_id": "ev_1", "approval_request_id": "apr_1",
        "explain": {"summary": "Ask.", "matched_rules": ["medium"], "next_steps": ["Ask a manager."]},
    });
    let decision =
        block_on(over(common::ScriptedTransport::answer(200, answer.to_string())).preflight(&action()))
            .unwrap();
    assert_eq!(decision.reason_code(), "refund.medium_needs_approval");
    assert_eq!(decision.risk_tier().as_deref(), Some("high"));
    assert_eq!(decision.evidence_event_id().as_deref(), Some("ev_1"));
    assert_eq!(decision.approval_request_id().as_deref(), Some("apr_1"));
    let explain = decision.explain();
    assert_eq!(explain.summary, "Ask.");
    assert_eq!(
        (explain.matched_rules, explain.next_steps),
        (vec!["medium".into()], vec!["Ask a manager.".into()])
    );
}

#[test]
fn parses_other_responses() {
    let answer = |text: &str| over(common::ScriptedTransport::answer(200, text));
    let passport = r#"{"token":"eyJ.p.secret","jwks_uri":"https://gate/jwks","jti":"ap_1","new":1.50}"#;
    let wanted = PassportRequest::new("a", "g", ["t"]);
    let issued = block_on(answer(passport).issue_passport(&wanted)).unwrap();
    assert_eq!((issued.token(), issued.as_json()), ("eyJ.p.secret", passport));
    assert_eq!(issued.member("new").unwrap().to_string(), "1.50");
    assert!(!format!("{issued:?}").contains("secret"));

    let wanted = VerifyRequest::new("eyJ.p.secret", "a");
    let verified =
        block_on(answer(r#"{"valid":false,"errors":["expired",{"x":1}]}"#).verify_passport(&wanted)).unwrap();
    assert!(!verified.is_valid());
    assert_eq!(verified.errors(), ["expired", r#"{"x":1}"#]);
    assert!(block_on(answer(r#"{"valid":true}"#).verify_passport(&wanted)).unwrap().is_valid());
    assert!(block_on(answer(r#"{"revoked":true}"#).revoke_passport("ap_1", None)).unwrap().is_revoked());
    let event = EvidenceEvent::new("e", "c");
    let recorded =
        block_on(answer(r#"{"event_id":"ev_1","current_event_hash":"ab"}"#).record_evidence(&event)).unwrap();
    assert_eq!((&*recorded.event_id(), recorded.current_event_hash().as_deref()), ("ev_1", Some("ab")));

    for operation in calls() {
        for text in ["", "[]", "{}", "null", r#"{"token":1,"valid":"true","revoked":1,"event_id":null}"#] {
            let error = block_on(call(&answer(text), operation)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Response, "{operation:?} {text}");
            assert_eq!(error.operation(), Some(operation));
        }
        let good = answer_to(operation).to_string();
        for (status, kind) in [
            (401, ErrorKind::Authentication),
            (403, ErrorKind::Permission),
            (429, ErrorKind::RateLimit),
            (501, ErrorKind::Status),
        ] {
            let error =
                block_on(call(&over(common::ScriptedTransport::answer(status, good.as_str())), operation))
                    .unwrap_err();
            assert_eq!((error.kind(), error.status()), (kind, Some(status)), "{operation:?}");
        }
    }
}

#[test]
fn decisions_and_errors_carry_the_request_id() {
    let said = |status: u16, body: &str| json!({"do": "respond", "status": status, "headers": {"x-request-id": "req_1 apk_test"}, "body": body});
    for (status, body) in [(200, r#"{"decision":"allow"}"#), (403, r#"{"decision":"deny"}"#)] {
        let gateway = gateway(json!([said(status, body)]));
        let client = builder(&gateway).api_key("apk_test").build().unwrap();
        let decision = block_on(client.preflight(&action())).unwrap();
        assert_eq!(decision.request_id(), Some("req_1 [redacted]"), "{body}");
        assert!(!decision.as_json().contains("req_1"));
    }
    for (status, body) in [(500, ""), (200, "<html>"), (200, r#"{"decision":7}"#), (200, "[]")] {
        let gateway = gateway(json!([said(status, body)]));
        let client = builder(&gateway).api_key("apk_test").max_retries(0).build().unwrap();
        let verdict = block_on(client.authorize(&action())).unwrap();
        let Verdict::Blocked(blocked) = verdict else { panic!("{body}: allowed") };
        assert_eq!(blocked.error().unwrap().request_id(), Some("req_1 [redacted]"), "{body}");
        assert_eq!(blocked.decision().request_id(), Some("req_1 [redacted]"), "{body}");
        let error = block_on(client.revoke_passport("ap_1", None)).unwrap_err();
        assert_eq!(error.request_id(), Some("req_1 [redacted]"), "{body}");
    }
}

#[test]
fn call_options_override_client_settings() {
    let hang = json!({"do": "hang", "at": "request"});
    let slow = gateway(json!([hang]));
    let client = builder(&slow).timeout(Duration::from_secs(600)).build().unwrap();
    let quick = client.with_options(CallOptions::new(Some(Duration::from_millis(80)), None).unwrap());
    let error = block_on(quick.preflight(&action())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("within 0.08 s"), "{error}");

    let busy = gateway(json!([{"do": "respond", "status": 503}]));
    let client = builder(&busy).max_retries(2).build().unwrap();
    let once = client.with_options(CallOptions::new(None, Some(0)).unwrap());
    // Options that a handle does not set are inherited.
    let once = once.with_options(CallOptions::new(Some(Duration::from_secs(20)), None).unwrap());
    block_on(once.preflight(&action())).unwrap_err();
    assert_eq!(busy.seen().len(), 1);
    block_on(client.preflight(&action())).unwrap_err();
    assert_eq!(busy.seen().len(), 1 + 3, "the settings of the client are unchanged");

    for (timeout, retries, problem) in [
        (Some(Duration::ZERO), None, "timeout: expected seconds above 0 and at most 86400, found 0"),
        (Some(Duration::MAX), None, "timeout: expected seconds above 0 and at most 86400, found "),
        (None, Some(11), "max_retries: expected 0 to 10, found 11"),
    ] {
        let error = CallOptions::new(timeout, retries).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Argument);
        assert!(error.to_string().starts_with(problem), "{error}");
    }
}

#[test]
fn error_shows_gateway_message() {
    let said = json!({"error": {"code": "busy", "message": "line one\nline \u{7}two"}, "n": 1});
    let gateway = gateway(json!([{
        "do": "respond", "status": 500, "headers": {"x-request-id": "req_1"}, "json": said,
    }]));
    let error = block_on(client(&gateway).preflight(&action())).unwrap_err();
    assert_eq!(error.to_string(), "preflight: the gateway answered 500: line one line  two");
    assert_eq!(serde_json::from_str::<Value>(error.body().unwrap()).unwrap(), said);
    assert_eq!((error.request_id(), error.operation()), (Some("req_1"), Some(Operation::Preflight)));

    let long = json!({"error": {"message": "x".repeat(10_000)}}).to_string();
    let error =
        block_on(over(common::ScriptedTransport::answer(500, long)).preflight(&action())).unwrap_err();
    assert!(error.to_string().len() < 400, "{error}");
    let huge = "x".repeat(MAX_BODY);
    let error =
        block_on(over(common::ScriptedTransport::answer(500, huge)).preflight(&action())).unwrap_err();
    assert_eq!(error.body(), None);
}

#[test]
fn errors_redact_secrets() {
    let passport = "eyJ.passport_secret.x";
    let action = action().passport(passport);
    let bodies = [
        format!("you sent {KEY} and {passport}"),
        json!({"error": {"message": format!("{KEY} {passport}")}}).to_string(),
        r#"{"error":{"message":"apk\u005ftest\u005f\u0073ecret eyJ.passport\u005f\u0073ecret.x"}}"#
            .to_owned(),
        r#"{"error":{"message":"no","apk_test_\u0073ecret":1}}"#.to_owned(),
        r#"{"decision":"allow","cred\u0065ntial":{"token":"tok_\u0073ecret"}}"#.to_owned(),
        r#"{"x":[{"CREDENTIAL":"tok_secret"}]}"#.to_owned(),
    ];
    for body in bodies {
        let client = over(common::ScriptedTransport::answer(500, body.as_str()));
        let error = block_on(client.preflight(&action)).unwrap_err();
        let shown_body = error.body().unwrap_or_default().to_owned();
        // The decoded JSON must not contain a secret either.
        let decoded = Json::parse(shown_body.as_bytes()).map(|json| json.to_string()).unwrap_or_default();
        for shown in [error.to_string(), format!("{error:?}"), shown_body, decoded] {
            assert!(!shown.contains("secret"), "{body} gave {shown}");
        }
    }
}

#[test]
fn rejects_empty_passport_before_sending() {
    let transport = common::ScriptedTransport::answer(200, r#"{"decision":"allow"}"#);
    let client = over(transport.clone());
    let action = action().passport("");
    for error in [
        block_on(client.preflight(&action)).unwrap_err(),
        block_on(client.authorize(&action)).unwrap_err(),
        block_on(client.guard(&action, async |_| Ok::<(), ()>(()))).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Argument);
        assert_eq!(error.to_string(), "passport: expected a token, found an empty string");
    }
    assert!(transport.requests().is_empty());
}

#[test]
fn limits_response_body_size() {
    let sized = |size: usize| {
        let empty = r#"{"decision":"allow","pad":""}"#;
        empty.replace("\"\"", &format!("\"{}\"", "x".repeat(size - empty.len())))
    };
    let respond = |text: String| json!({"do": "respond", "body": text});
    let chunked = |text: String| {
        let chunks: String = text
            .as_bytes()
            .chunks(10_000)
            .map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk)))
            .collect();
        json!({"do": "raw", "text": format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")})
    };
    for frame in [&respond as &dyn Fn(String) -> Value, &chunked] {
        let gateway = gateway(json!([frame(sized(MAX_BODY)), frame(sized(MAX_BODY + 1))]));
        let client = client(&gateway);
        let decision = block_on(client.preflight(&action())).unwrap();
        let pad = decision.member("pad").unwrap();
        assert_eq!(pad.as_str().unwrap().len(), MAX_BODY - r#"{"decision":"allow","pad":""}"#.len());
        let error = block_on(client.preflight(&action())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Response);
        assert!(error.to_string().ends_with("the body is larger than 1048576 bytes"), "{error}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn endless_body_uses_bounded_memory() {
    in_child("endless_body_uses_bounded_memory", &[], || {
        let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
        let endless = |headers: Value, text: &str| json!({"do": "respond", "headers": headers, "body_repeat": {"text": text, "times": 1 << 20}});
        let gateway = gateway(json!([
            endless(json!({"transfer-encoding": "chunked"}), &chunk),
            endless(json!({}), &chunk),
        ]));
        let client = client(&gateway);
        let before = peak_memory_kib();
        for _ in 0..2 {
            let error = block_on(client.preflight(&action())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Response);
        }
        let grown = peak_memory_kib() - before;
        assert!(grown < 64 * 1024, "{grown} KiB");
    });
}

// Settings.

#[test]
fn rejects_invalid_api_keys() {
    for (key, message) in [
        ("", "api_key: expected a key, found an empty string"),
        (
            "apk_1\n",
            "api_key: expected visible ASCII characters, found a space, a line break or another character at position 5",
        ),
        (
            "a b",
            "api_key: expected visible ASCII characters, found a space, a line break or another character at position 1",
        ),
        (
            "apk_é",
            "api_key: expected visible ASCII characters, found a space, a line break or another character at position 4",
        ),
    ] {
        assert_eq!(refused(ActPass::builder().api_key(key)), message);
    }
}

#[test]
fn rejects_invalid_base_urls() {
    let insecure = "base_url: expected https: plain http to a remote host exposes the API key to the \
                    network (danger_allow_insecure_http permits it)";
    for (url, message) in [
        ("gate.example", "base_url: expected an absolute http(s) URL: relative URL without a base"),
        ("https://", "base_url: expected an absolute http(s) URL: empty host"),
        ("ftp://gate.example", "base_url: expected an https URL, or http to localhost"),
        ("file:///etc/passwd", "base_url: expected an https URL, or http to localhost"),
        ("http://gate.example", insecure),
        ("http://10.0.0.1:8787", insecure),
        ("http://localhost.example", insecure),
        ("http://127.0.0.1.example", insecure),
        ("http://0.0.0.0", insecure),
        (
            "https://user:pw@gate.example",
            "base_url: expected a URL without a user name or password: the API key is the identity",
        ),
        ("https://gate.example/?a=1", "base_url: expected a URL without a query or fragment"),
        ("https://gate.example/#a", "base_url: expected a URL without a query or fragment"),
    ] {
        assert_eq!(refused(ActPass::builder().api_key(KEY).base_url(url)), message, "{url}");
    }
    for (url, shown) in [
        ("https://gate.example/", "https://gate.example"),
        ("https://gate.example/a//", "https://gate.example/a"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("http://localhost:1", "http://localhost:1"),
        ("http://[::1]:1", "http://[::1]:1"),
    ] {
        let client = ActPass::builder().api_key(KEY).base_url(url).build().unwrap();
        assert_eq!(
            format!("{client:?}"),
            format!(r#"ActPass {{ base_url: "{shown}", agent_id: "sdk", .. }}"#)
        );
    }
    // The environment could override it.
    if std::env::var_os("ACTPASS_API_BASE_URL").is_none() {
        let client = ActPass::builder().api_key(KEY).build().unwrap();
        assert_eq!(client.base_url(), "https://www.api.actpass.org");
    }
    let danger = ActPass::builder().api_key(KEY).base_url("http://10.0.0.1").danger_allow_insecure_http(true);
    assert!(danger.build().is_ok());
}

#[test]
fn accepts_base_url_with_path() {
    let gateway = gateway(json!([respond(allow())]));
    let client =
        builder(&gateway).base_url(format!("{}/behind/a%20proxy/", gateway.base_url())).build().unwrap();
    block_on(client.preflight(&action())).unwrap();
    assert_eq!(gateway.seen()[0].path, "/behind/a%20proxy/api/v1/actions/preflight");
}

#[test]
fn rejects_invalid_settings() {
    let with = || ActPass::builder().api_key(KEY);
    let day = Duration::from_secs(86_400);
    for (builder, message) in [
        (with().timeout(Duration::ZERO), "timeout: expected seconds above 0 and at most 86400, found 0"),
        (
            with().timeout(day + Duration::from_secs(1)),
            "timeout: expected seconds above 0 and at most 86400, found 86401",
        ),
        (
            with().connect_timeout(Duration::ZERO),
            "connect_timeout: expected seconds above 0 and at most 86400, found 0",
        ),
        (with().max_retries(11), "max_retries: expected 0 to 10, found 11"),
        (with().tenant_id("a\nb"), "tenant_id: expected printable ASCII characters"),
        (with().user_agent("é"), "user_agent: expected printable ASCII characters"),
        (with().user_agent(""), "user_agent: expected a name, found an empty string"),
        (with().ca(""), "ca: expected certificates in PEM, found none"),
    ] {
        assert_eq!(refused(builder), message);
    }
    assert!(with().timeout(day).max_retries(10).tenant_id("").build().is_ok());
    for value in [0.0, -1.0, f64::NAN, f64::INFINITY, 86_400.5] {
        assert_eq!(actpass_core::seconds("timeout", value).unwrap_err().kind(), ErrorKind::Config, "{value}");
    }
}

#[test]
fn reads_settings_from_environment() {
    let gateway = gateway(json!([respond(allow())]));
    let url = gateway.base_url();
    in_child(
        "reads_settings_from_environment",
        &[("ACTPASS_API_KEY", "apk_environment"), ("ACTPASS_API_BASE_URL", &url)],
        || {
            block_on(ActPass::builder().build().unwrap().preflight(&action())).unwrap();
            // A given key is used unchanged.
            let given = ActPass::builder().api_key("apk_given");
            block_on(given.build().unwrap().preflight(&action())).unwrap();
            assert_eq!(
                refused(ActPass::builder().api_key("")),
                "api_key: expected a key, found an empty string"
            );
            assert_eq!(
                refused(ActPass::builder().base_url("")),
                "base_url: expected an absolute http(s) URL, found an empty string"
            );
            let elsewhere = ActPass::builder().base_url("https://gate.example").build().unwrap();
            assert!(format!("{elsewhere:?}").contains("https://gate.example"));
        },
    );
    if std::env::var_os("ACTPASS_TEST_CHILD").is_none() {
        let keys: Vec<_> =
            gateway.seen().iter().map(|seen| header(seen, "authorization").unwrap().to_owned()).collect();
        assert_eq!(keys, ["Bearer apk_environment", "Bearer apk_given"]);
    }
}

#[test]
fn rejects_missing_api_key() {
    in_child("rejects_missing_api_key", &[], || {
        assert_eq!(
            refused(ActPass::builder()),
            "api_key: expected a key, found none; pass one or set ACTPASS_API_KEY"
        );
        let client = ActPass::builder().api_key(KEY).build().unwrap();
        assert!(format!("{client:?}").contains(r#""https://www.api.actpass.org""#));
    });
}

#[test]
fn invalid_environment_is_an_error() {
    in_child(
        "invalid_environment_is_an_error",
        &[("ACTPASS_API_KEY", "apk 1"), ("ACTPASS_API_BASE_URL", "http://gate.example")],
        || {
            assert!(refused(ActPass::builder()).starts_with("api_key: expected visible ASCII"));
            assert!(refused(ActPass::builder().api_key(KEY)).starts_with("base_url: expected https"));
        },
    );
}

#[test]
fn environment_never_changes_the_mode() {
    let environment =
        ["ACTPASS_MODE", "ACTPASS_DEFAULT_MODE", "ACTPASS_GUARD_MODE", "ACTPASS_ENFORCEMENT_MODE", "MODE"]
            .map(|name| (name, "monitor"));
    in_child("environment_never_changes_the_mode", &environment, || {
        let transport = common::ScriptedTransport::answer(200, r#"{"decision":"deny"}"#);
        let (runs, _) = block_on(common::counted(&over(transport.clone()), &action()));
        assert_eq!(runs, 0);
        assert!(String::from_utf8_lossy(&transport.requests()[0].body).contains(r#""mode": "enforce""#));
    });
}

#[test]
fn plain_http_bypasses_environment_proxy() {
    let proxy = gateway(json!([{"do": "respond", "status": 403, "body": "no"}]));
    let proxy_url = proxy.base_url();
    let environment: Vec<_> = [
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
        "ACTPASS_TEST_PROXY",
    ]
    .map(|name| (name, proxy_url.as_str()))
    .into();
    in_child("plain_http_bypasses_environment_proxy", &environment, || {
        let plain = gateway(json!([respond(allow())]));
        block_on(client(&plain).preflight(&action())).unwrap();
        assert_eq!(plain.seen().len(), 1);

        let secure = common::scripted(json!({"tls": "trusted", "steps": [respond(allow())]}));
        let client = builder(&secure).ca(secure.ca_pem().unwrap()).build().unwrap();
        let error = block_on(client.preflight(&action())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
    });
    if std::env::var_os("ACTPASS_TEST_CHILD").is_none() {
        // Over https the client requests a tunnel, and the proxy sees only ciphertext.
        let seen = proxy.seen();
        assert!(!seen.is_empty() && seen.iter().all(|seen| seen.method == "CONNECT"), "{seen:?}");
        assert!(!format!("{seen:?}").contains(KEY), "{seen:?}");
    }
}

#[test]
fn https_tunnels_through_environment_proxy() {
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://user:pass_secret@{}", proxy.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let carried = Arc::clone(&seen);
    // Ends with the test process.
    std::thread::spawn(move || carry(proxy.accept().unwrap().0, &carried));
    in_child("https_tunnels_through_environment_proxy", &[("HTTPS_PROXY", &url)], || {
        let secure = common::scripted(json!({"tls": "trusted", "steps": [respond(allow())]}));
        let client = builder(&secure).ca(secure.ca_pem().unwrap()).build().unwrap();
        let decision = block_on(client.preflight(&action())).unwrap();
        assert_eq!(decision.word(), &DecisionWord::Allow);
        assert_eq!(secure.seen().len(), 1);
    });
    if std::env::var_os("ACTPASS_TEST_CHILD").is_none() {
        let seen = String::from_utf8_lossy(&seen.lock().unwrap()).into_owned();
        assert!(seen.starts_with("CONNECT 127.0.0.1:"), "{seen}");
        // user:pass_secret
        assert!(
            seen.to_ascii_lowercase().contains("proxy-authorization: basic dxnlcjpwyxnzx3nly3jlda=="),
            "{seen}"
        );
        assert!(!seen.contains(KEY) && !seen.contains("preflight"), "{seen}");
    }
}

/// Opens the tunnel that `client` requests, and records the bytes to the gateway.
fn carry(mut client: TcpStream, seen: &Mutex<Vec<u8>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let target = String::from_utf8_lossy(&head).split(' ').nth(1).unwrap().to_owned();
    seen.lock().unwrap().extend(head);
    let mut gateway = TcpStream::connect(target).unwrap();
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let (mut answers, mut to_client) = (gateway.try_clone().unwrap(), client.try_clone().unwrap());
    std::thread::spawn(move || std::io::copy(&mut answers, &mut to_client));
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = client.read(&mut buffer) {
        seen.lock().unwrap().extend(&buffer[..length]);
        gateway.write_all(&buffer[..length]).unwrap();
    }
}

#[test]
fn debug_output_hides_the_api_key() {
    let builder = ActPass::builder().api_key(KEY);
    assert!(!format!("{builder:?}").contains(KEY));
    let client = builder.build().unwrap();
    assert!(!format!("{client:?}{client:#?}").contains(KEY));
    let action = action().passport("eyJ.passport_secret");
    assert!(!format!("{action:?}").contains("passport_secret"));
}

/// Returns the one request that `calls` sends.
fn sent(calls: impl FnOnce(ActPass) -> Pin<Box<dyn Future<Output = ()>>>) -> Seen {
    let gateway = gateway(json!([respond(json!({}))]));
    block_on(calls(builder(&gateway).agent_id("refunds").build().unwrap()));
    let mut seen = gateway.seen();
    assert_eq!(seen.len(), 1);
    seen.remove(0)
}

/// Makes a call of this operation.
async fn call(client: &ActPass, operation: Operation) -> Result<(), Error> {
    match operation {
        Operation::Preflight => client.preflight(&action()).await.map(drop),
        Operation::IssuePassport => {
            client.issue_passport(&PassportRequest::new("audience", "goal", ["tool"])).await.map(drop)
        }
        Operation::VerifyPassport => {
            client.verify_passport(&VerifyRequest::new("token", "audience")).await.map(drop)
        }
        Operation::Approval => client.wait_for_approval("apr_1", Duration::ZERO).await.map(drop),
        Operation::RevokePassport => client.revoke_passport("ap_1", None).await.map(drop),
        Operation::RecordEvidence => {
            client.record_evidence(&EvidenceEvent::new("type", "chain")).await.map(drop)
        }
        Operation::Jwks => {
            // {"alg":"EdDSA","kid":"k"}
            let token = "eyJhbGciOiJFZERTQSIsImtpZCI6ImsifQ.e30.AA";
            client.verify_passport_offline(&OfflineVerifyRequest::new(token, "audience")).await.map(drop)
        }
        Operation::AcknowledgeHalt | Operation::WatchHalts => panic!("not a call of the client"),
    }
}

/// A valid response for this operation.
fn answer_to(operation: Operation) -> Value {
    match operation {
        Operation::Preflight => allow(),
        Operation::IssuePassport => json!({"token": "eyJ.p.s"}),
        Operation::VerifyPassport => json!({"valid": true}),
        Operation::Approval => json!({"id": "apr_1", "status": "pending"}),
        Operation::RevokePassport => json!({"revoked": true}),
        Operation::RecordEvidence => json!({"event_id": "ev_1"}),
        Operation::Jwks => json!({"keys": []}),
        Operation::AcknowledgeHalt | Operation::WatchHalts => json!({"halt_epoch": 0, "halted": false}),
    }
}

/// The operations that are calls of a client.
fn calls() -> impl Iterator<Item = Operation> {
    let observes =
        |operation: &Operation| matches!(operation, Operation::AcknowledgeHalt | Operation::WatchHalts);
    Operation::ALL.into_iter().filter(move |operation| !observes(operation))
}

fn refused(builder: ActPassBuilder) -> String {
    let error = builder.build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    error.to_string()
}

#[cfg(target_os = "linux")]
fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn circuit_opens_for_unreachable_gateway() {
    let resets = vec![json!({"do": "reset", "at": "request"}); 10];
    let gateway = gateway(json!(resets));
    let client = builder(&gateway).max_retries(1).circuit_failures(2).build().unwrap();
    let ask = |operation| block_on(call(&client, operation)).unwrap_err();
    assert_eq!(ask(Operation::Preflight).retry_after(), None);
    assert_eq!((client.circuit().as_str(), ask(Operation::Jwks).retry_after()), ("closed", None));
    // The circuit counts calls of all operations, not attempts. From now on, nothing is sent.
    assert_eq!((gateway.seen().len(), client.circuit().as_str()), (4, "open"));
    for operation in calls() {
        let error = ask(operation);
        assert_eq!((error.kind(), error.operation()), (ErrorKind::Connection, Some(operation)));
        assert!(error.retry_after().is_some(), "{error}");
    }
    assert_eq!(gateway.seen().len(), 4);
}

#[cfg(feature = "reqwest")]
#[test]
fn rejects_settings_incompatible_with_reqwest() {
    // No TLS provider is installed in this process, and nothing panics.
    let given =
        || ActPass::builder().api_key(KEY).base_url("http://127.0.0.1:9").reqwest(reqwest::Client::builder());
    for (builder, problem) in [
        (
            given().transport(common::PendingTransport),
            "transport: cannot be combined with reqwest, which has its own",
        ),
        (given().ca("-----BEGIN CERTIFICATE-----"), "ca: cannot be combined with reqwest, which has its own"),
        (given(), "reqwest: cannot build a client: no TLS provider is installed"),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Config, problem));
    }
    let error = given().settings().unwrap_err();
    assert!(error.to_string().starts_with("reqwest: not supported by settings(): each client"), "{error}");
}
