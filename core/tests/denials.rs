//! Denials by the SDK name their cause and helpful steps.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use actpass_core::{ActPass, ActPassBuilder, Mode};
use common::{KEY, MODES, action, block_on, builder, counted, gate_error, respond, scripted};
use serde_json::{Value, json};

/// The report, which is equal in all modes: summary, steps and error.
fn report(builder: impl Fn() -> ActPassBuilder) -> (String, Vec<String>, String) {
    let reports: Vec<_> = MODES
        .into_iter()
        .map(|mode| {
            let client = builder().build().unwrap();
            let (ran, outcome) = block_on(counted(&client, &action().mode(mode)));
            assert_eq!(ran, usize::from(mode == Mode::Monitor));
            let explain = outcome.decision().explain();
            assert!(explain.summary.ends_with('.') && !explain.summary.contains(". "), "{}", explain.summary);
            assert!(!explain.next_steps.is_empty());
            assert!(explain.next_steps.iter().all(|step| step.ends_with('.')), "{:?}", explain.next_steps);
            (explain.summary, explain.next_steps, gate_error(&outcome).unwrap().to_string())
        })
        .collect();
    assert!(reports.windows(2).all(|pair| pair[0].0 == pair[1].0 && pair[0].1 == pair[1].1), "{reports:?}");
    reports.into_iter().next().unwrap()
}

fn answered(step: Value) -> impl Fn() -> (String, Vec<String>, String) {
    move || {
        let gateway = scripted(json!({"steps": [step]}));
        report(|| builder(&gateway))
    }
}

fn over_tls(script: Value) -> impl Fn() -> (String, Vec<String>, String) {
    move || {
        let gateway = scripted(script.clone());
        report(|| builder(&gateway).ca(gateway.ca_pem().unwrap()))
    }
}

fn status(status: u16) -> Value {
    json!({"do": "respond", "status": status, "json": {"error": {"code": "test", "message": "the gateway's words"}}})
}

/// A failure: its name, its setup, and fragments of the summary, a step and the error.
type Case =
    (&'static str, Box<dyn Fn() -> (String, Vec<String>, String)>, &'static str, &'static str, &'static str);

fn cases() -> Vec<Case> {
    let another = json!({"decision": "allow", "evidence_event_id": "ev_1", "request_hash": "0".repeat(64)});
    vec![
        ("401", Box::new(answered(status(401))), "does not know the API key", "Check the API key", "401"),
        ("403", Box::new(answered(status(403))), "lacks permission to request", "role of the API key", "403"),
        (
            "404",
            Box::new(answered(status(404))),
            "no such API path",
            "an API path",
            "404: the gateway's words",
        ),
        (
            "409",
            Box::new(answered(status(409))),
            "conflicts with an earlier one",
            "new idempotency key",
            "409: the gateway's words",
        ),
        ("413", Box::new(answered(status(413))), "larger than the gateway accepts", "smaller args", "413: "),
        (
            "422",
            Box::new(answered(status(422))),
            "rejected a member",
            "Correct the member",
            "422: the gateway's words",
        ),
        ("418", Box::new(answered(status(418))), "rejected the request", "base URL", "418: "),
        ("429", Box::new(answered(status(429))), "rate limit is exceeded", "Slow down", "429: "),
        ("500", Box::new(answered(status(500))), "failed to answer", "gateway's log", "500: "),
        ("501", Box::new(answered(status(501))), "does not support", "master key", "501: "),
        ("502", Box::new(answered(status(502))), "in front of the gateway", "load balancer", "502: "),
        ("503", Box::new(answered(status(503))), "temporarily unavailable", "/healthz", "503: "),
        ("redirect", Box::new(answered(json!({"do": "redirect"}))), "redirect", "Set the base URL", "302"),
        (
            "html",
            Box::new(answered(json!({"do": "respond", "body": "<html>Log in</html>"}))),
            "not a JSON object",
            "login page",
            "not a decision: ",
        ),
        (
            "a list",
            Box::new(answered(respond(json!(["allow"])))),
            "not a JSON object",
            "login page",
            "not an object",
        ),
        (
            "no word",
            Box::new(answered(respond(json!({"status": "ok"})))),
            "is not a valid decision",
            "gateway's version",
            "missing `decision`",
        ),
        (
            "a malformed replay",
            Box::new(answered(respond(json!({"decision": "allow", "replayed": 1})))),
            "is not a valid decision",
            "gateway's version",
            "`replayed`",
        ),
        (
            "another request",
            Box::new(answered(respond(another))),
            "belongs to another request",
            "cache or proxy",
            "belongs to another request",
        ),
        (
            "too large",
            Box::new(answered(json!({"do": "respond", "body_repeat": {"text": " ", "times": 1_100_000}}))),
            "larger than 1 MiB",
            "another service",
            "larger than 1048576 bytes",
        ),
        (
            "truncated body",
            Box::new(answered(json!({"do": "truncate", "body": "{", "missing": 10}))),
            "is incomplete",
            "aborted responses",
            "truncated body",
        ),
        (
            "reset",
            Box::new(answered(json!({"do": "reset", "at": "request"}))),
            "closed before the response",
            "restarted",
            "cannot reach",
        ),
        (
            "closed",
            Box::new(answered(json!({"do": "raw", "text": ""}))),
            "closed before the response",
            "restarted",
            "cannot reach",
        ),
        (
            "no HTTP",
            Box::new(answered(json!({"do": "raw", "text": "SSH-2.0\r\n"}))),
            "does not speak HTTP",
            "host, port and scheme",
            "invalid HTTP from",
        ),
        (
            "refused",
            Box::new(|| {
                let gateway = scripted(json!({"listen": "refused"}));
                report(|| builder(&gateway))
            }),
            "refused the connection",
            "Check that the gateway runs",
            "cannot reach",
        ),
        (
            "unresolved",
            Box::new(|| {
                report(|| ActPass::builder().api_key(KEY).base_url("https://gate.invalid").max_retries(0))
            }),
            "could not be resolved",
            "name resolution",
            "gate.invalid cannot be resolved",
        ),
        (
            "no answer",
            Box::new(|| {
                let gateway = scripted(json!({"steps": [{"do": "hang", "at": "request"}]}));
                report(|| builder(&gateway).timeout(Duration::from_millis(300)))
            }),
            "did not respond before the deadline",
            "Raise the timeout",
            "no response from",
        ),
        (
            "timed out connecting",
            Box::new(|| {
                let gateway = scripted(json!({"tls": "trusted", "hang_accept": true}));
                report(|| {
                    builder(&gateway)
                        .ca(gateway.ca_pem().unwrap())
                        .connect_timeout(Duration::from_millis(300))
                })
            }),
            "within connect_timeout",
            "firewall",
            "timed out connecting to",
        ),
        ("expired", Box::new(over_tls(json!({"tls": "expired"}))), "has expired", "Renew", "expired"),
        (
            "wrong host",
            Box::new(over_tls(json!({"tls": "wrong_host"}))),
            "is for another name",
            "the certificate lists",
            "not valid for name",
        ),
        (
            "untrusted",
            Box::new(over_tls(json!({"tls": "self_signed"}))),
            "not signed by a trusted authority",
            "as ca",
            "UnknownIssuer; trusted authorities: ",
        ),
        (
            "plain on https",
            Box::new(over_tls(json!({"plain_on_https": true}))),
            "ended the connection during the TLS handshake",
            "plain http",
            "cannot reach",
        ),
        (
            "not TLS",
            Box::new(|| {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let url = format!("https://{}", listener.local_addr().unwrap());
                // Ends with the test process.
                std::thread::spawn(move || {
                    for mut stream in listener.incoming().flatten() {
                        let mut hello = [0; 4096];
                        let _ = stream.read(&mut hello);
                        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
                    }
                });
                report(|| ActPass::builder().api_key(KEY).base_url(&url).max_retries(0))
            }),
            "does not speak TLS",
            "serves https there",
            "invalid TLS from",
        ),
        (
            "old TLS",
            Box::new(over_tls(json!({"tls": "old_protocol"}))),
            "TLS handshake",
            "TLS 1.2 or 1.3",
            "cannot reach",
        ),
        (
            "circuit open",
            Box::new(|| {
                let gateway = scripted(json!({"listen": "refused"}));
                let mut last = None;
                for mode in MODES {
                    let client = builder(&gateway).circuit_failures(1).build().unwrap();
                    let asked = action().mode(mode);
                    drop(block_on(counted(&client, &asked)));
                    let (_, outcome) = block_on(counted(&client, &asked));
                    let explain = outcome.decision().explain();
                    last = Some((
                        explain.summary,
                        explain.next_steps,
                        gate_error(&outcome).unwrap().to_string(),
                    ));
                }
                last.unwrap()
            }),
            "circuit is open",
            "retry_after",
            "circuit open: earlier calls could not reach the gateway; next attempt in",
        ),
    ]
}

#[test]
fn each_failure_names_its_own_cause() {
    let mut summaries = BTreeMap::new();
    for (name, come_to_it, summary_says, step_says, error_says) in cases() {
        let (summary, steps, error) = come_to_it();
        assert!(summary.contains(summary_says), "{name}: {summary}");
        assert!(steps.iter().any(|step| step.contains(step_says)), "{name}: {steps:?}");
        assert!(error.contains(error_says), "{name}: {error}");
        summaries.entry(summary).or_insert_with(Vec::new).push(name);
    }
    let shared: Vec<_> = summaries.into_values().filter(|names| names.len() > 1).collect();
    let expected: [&[&str]; 3] =
        [&["reset", "closed"], &["no word", "a malformed replay"], &["html", "a list"]];
    assert_eq!(shared.len(), expected.len(), "{shared:?}");
    assert!(shared.iter().all(|names| expected.contains(&names.as_slice())), "{shared:?}");
}

#[test]
fn strict_names_missing_member() {
    let report = |answer: Value| {
        let gateway = scripted(json!({"steps": [respond(answer)]}));
        let client = builder(&gateway).build().unwrap();
        let (_, outcome) = block_on(counted(&client, &action().mode(Mode::Strict)));
        let explain = outcome.decision().explain();
        (explain.summary, explain.next_steps)
    };
    let (summary, steps) = report(json!({"decision": "allow", "evidence_event_id": "ev_1"}));
    assert!(summary.contains("has no request_hash, which strict mode requires"), "{summary}");
    assert!(steps[0].contains("must carry request_hash"), "{steps:?}");
    let (summary, steps) = report(json!({"decision": "allow", "request_hash": "{{request_hash}}"}));
    assert!(summary.contains("without recording it"), "{summary}");
    assert!(steps[0].contains("must carry evidence_event_id"), "{steps:?}");
}
