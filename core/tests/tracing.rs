//! Tracing output of calls. In its own test binary, because the subscriber is process-wide.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod common;

use std::io::Write;
use std::sync::{Arc, Mutex};

use actpass_core::{Action, EvidenceEvent, PassportRequest, VerifyRequest};
use common::{block_on, builder, gateway, respond};
use serde_json::json;
use tracing_subscriber::fmt::format::FmtSpan;

#[test]
fn call_spans_contain_no_secrets_or_arguments() {
    let log = Log::default();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(FmtSpan::NEW | FmtSpan::CLOSE)
        .with_ansi(false)
        .with_writer({
            let log = log.clone();
            move || log.clone()
        })
        .init();

    let busy = json!({"do": "respond", "status": 503, "json": {"error": {"message": "apk_test_secret"}}});
    let gateway = gateway(json!([
        busy,
        respond(json!({"decision": "allow", "reason_code": "test.allow", "credential": {"token": "tok_secret"}})),
        respond(json!({"token": "eyJ.issued_secret.x"})),
        respond(json!({"valid": true})),
        respond(json!({"revoked": true})),
        respond(json!({"event_id": "ev_1"})),
        {"do": "respond", "status": 401, "json": {"error": {"message": "no key apk_test_secret"}}},
        {"do": "reset", "at": "request"},
    ]));
    let client = builder(&gateway).tenant_id("tenant_value").max_retries(1).build().unwrap();
    let action = Action::new("goal_value", "tool_name")
        .resource("resource_value")
        .args(json!({"amount": 490_017, "note": "argument_value"}))
        .user_id("user_value")
        .passport("eyJ.passport_secret.x");
    block_on(async {
        let ran = client.guard(&action, |context| async move {
            assert_eq!(context.credential().unwrap().token(), "tok_secret");
            Ok::<_, std::io::Error>(())
        });
        assert!(ran.await.unwrap().executed());
        let constraints = json!({"max_amount": 490_017});
        let wanted = PassportRequest::new("audience_value", "goal_value", ["tool_name"])
            .resource_constraints(constraints);
        client.issue_passport(&wanted).await.unwrap();
        client.verify_passport(&VerifyRequest::new("eyJ.passport_secret.x", "audience_value")).await.unwrap();
        client.revoke_passport("jti_value", Some("reason_value")).await.unwrap();
        let event =
            EvidenceEvent::new("event_value", "chain_value").metadata(json!({"note": "argument_value"}));
        client.record_evidence(&event).await.unwrap();
        client.preflight(&action).await.unwrap_err();
        client.record_evidence(&event).await.unwrap_err();
    });

    let logged = log.text();
    let ended: Vec<_> =
        logged.lines().filter(|line| line.contains("actpass.call{") && line.contains(" close ")).collect();
    assert_eq!(ended.len(), 7, "{logged}");
    for (line, fields) in ended.iter().zip([
        ["operation=\"preflight\"", "attempts=2", "status=200"],
        ["operation=\"issue_passport\"", "attempts=1", "status=200"],
        ["operation=\"verify_passport\"", "attempts=1", "status=200"],
        ["operation=\"revoke_passport\"", "attempts=1", "status=200"],
        ["operation=\"record_evidence\"", "attempts=1", "status=200"],
        ["operation=\"preflight\"", "attempts=1", "status=401"],
        ["operation=\"record_evidence\"", "attempts=1", "error=\"actpass.unreachable\""],
    ]) {
        for field in fields {
            assert!(line.contains(field), "no {field} in {line}");
        }
    }
    for line in logged.lines() {
        assert!(!line.contains("secret") && !line.contains("_value") && !line.contains("490017"), "{line}");
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
