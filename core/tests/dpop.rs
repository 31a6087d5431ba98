//! DPoP: each request proves possession of the key that the API key is bound to.

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
use std::time::{Duration, SystemTime};

use actpass_core::transport::Response;
use actpass_core::{
    ActPass, Clock, Error, ErrorKind, EvidenceEvent, Moment, OfflineVerifyRequest, PassportRequest, Sleep,
    TokioClock, VerifyRequest, dpop_thumbprint,
};
use actpass_hostile_gateway::HostileGateway;
use common::{
    KEY, ScriptedTransport, action, allow, block_on, builder, client, gateway, header, in_child, respond,
    scripted,
};
use serde_json::{Value, json};

/// RFC 8037, appendix A.
const PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
    -----END PRIVATE KEY-----\n";
const THUMBPRINT: &str = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";

/// A gateway that verifies the proof of each request.
fn bound(steps: &Value) -> HostileGateway {
    scripted(json!({"dpop": {"api_key": KEY, "jkt": THUMBPRINT}, "steps": steps}))
}

fn demand(nonce: &str) -> Value {
    json!({
        "do": "respond", "status": 401,
        "headers": {"www-authenticate": "DPoP error=\"use_dpop_nonce\"", "dpop-nonce": nonce},
        "json": {"error": {"code": "use_dpop_nonce", "message": "a nonce is required"}},
    })
}

fn prover(gateway: &HostileGateway) -> ActPass {
    builder(gateway).dpop_key(PEM).build().unwrap()
}

#[test]
fn every_call_has_its_own_proof() {
    let answer = |json: Value| json!({"do": "respond", "json": json, "headers": {"dpop-nonce": "n-1"}});
    let gateway = bound(&json!([
        respond(allow()),
        answer(json!({"token": "eyJ.a.b", "jwks_uri": "https://gateway.example/jwks"})),
        answer(json!({"valid": false, "errors": ["expired"]})),
        answer(json!({"keys": []})),
        answer(json!({"revoked": true, "jti": "ap_1"})),
        answer(json!({"id": "apr 1/2", "status": "pending"})),
        answer(json!({"id": "apr 1/2", "status": "rejected"})),
        answer(json!({"event_id": "ev_1", "current_event_hash": "ab"})),
    ]));
    let client = prover(&gateway);
    block_on(async {
        client.preflight(&action()).await.unwrap();
        client.issue_passport(&PassportRequest::new("aud", "goal", ["tool"])).await.unwrap();
        client.verify_passport(&VerifyRequest::new("eyJ.a.b", "aud")).await.unwrap();
        // {"alg":"EdDSA","kid":"k"}
        let offline = OfflineVerifyRequest::new("eyJhbGciOiJFZERTQSIsImtpZCI6ImsifQ.e30.AA", "aud");
        drop(client.verify_passport_offline(&offline).await);
        client.revoke_passport("ap_1", None).await.unwrap();
        client.wait_for_approval("apr 1/2", Duration::from_secs(20)).await.unwrap();
        client.record_evidence(&EvidenceEvent::new("custom", "chain")).await.unwrap();
    });
    let seen = gateway.seen();
    let paths: HashSet<_> = seen.iter().map(|seen| seen.path.split('?').next().unwrap()).collect();
    for path in [
        "/api/v1/actions/preflight",
        "/api/v1/passports/issue",
        "/api/v1/passports/verify",
        "/.well-known/jwks.json",
        "/api/v1/passports/revoke",
        "/api/v1/approvals/apr%201%2F2",
        "/api/v1/evidence/events",
    ] {
        assert!(paths.contains(path), "{paths:?}");
    }
    let proofs: HashSet<_> = seen.iter().map(|seen| header(seen, "dpop").unwrap()).collect();
    assert_eq!((seen.len(), proofs.len()), (8, 8), "{seen:?}");
}

#[test]
fn stop_watch_and_acknowledgement_have_proofs() {
    let epoch = |epoch: u64| respond(json!({"halt_epoch": epoch, "halted": false}));
    let mut decision = allow();
    decision["halt_epoch"] = json!(1);
    let gateway = bound(&json!([respond(decision), demand("n-1"), epoch(2)]));
    let client = prover(&gateway);
    block_on(async {
        let action = action();
        let run = client.guard(&action, async |_| {
            tokio::time::sleep(actpass_core::HALT_WATCH_DELAY + Duration::from_millis(500)).await;
            Ok::<_, Error>(())
        });
        assert!(run.await.unwrap().executed());
    });
    let seen = gateway.seen();
    assert!(seen.iter().any(|seen| seen.path.starts_with("/api/v1/halts/watch?")), "{seen:?}");
    for seen in &seen {
        assert!(header(seen, "dpop").is_some(), "{seen:?}");
    }
    let again: HashSet<_> = seen.iter().map(|seen| header(seen, "dpop").unwrap()).collect();
    assert_eq!(again.len(), seen.len());
}

#[test]
fn calls_that_are_not_idempotent_are_repeated_with_the_nonce() {
    let gateway = bound(&json!([
        demand("n-1"),
        respond(json!({"event_id": "ev_1", "current_event_hash": "ab"})),
        demand("n-2"),
        respond(json!({"token": "eyJ.a.b", "jwks_uri": "https://gateway.example/jwks"})),
    ]));
    let client = prover(&gateway);
    block_on(async {
        client.record_evidence(&EvidenceEvent::new("custom", "chain")).await.unwrap();
        client.issue_passport(&PassportRequest::new("aud", "goal", ["tool"])).await.unwrap();
    });
    let seen = gateway.seen();
    assert_eq!(seen.len(), 4);
    assert_eq!((&seen[0].body, &seen[2].body), (&seen[1].body, &seen[3].body));
}

#[test]
fn second_demand_for_a_nonce_is_an_error_that_names_the_cause() {
    let gateway = bound(&json!([demand("n-1"), demand("n-2"), respond(allow())]));
    let client = builder(&gateway).dpop_key(PEM).max_retries(2).build().unwrap();
    let (runs, outcome) = block_on(common::counted(&client, &action()));
    assert_eq!((runs, gateway.seen().len()), (0, 2));
    assert_eq!(outcome.decision().reason_code(), "actpass.unauthenticated");
    let explain = outcome.decision().explain().summary;
    assert!(explain.contains("refused the proof of possession"), "{explain}");
    // The last nonce is kept, and the next call succeeds.
    assert_eq!(block_on(common::counted(&client, &action())).0, 1);
}

#[test]
fn proof_is_for_the_url_with_its_path_and_over_http2() {
    let gateway = scripted(json!({
        "tls": "trusted", "http2": true, "dpop": {"api_key": KEY, "jkt": THUMBPRINT},
        "steps": [demand("n-1"), respond(allow())],
    }));
    let url = format!("{}/behind/a/proxy/", gateway.base_url());
    let client = builder(&gateway).base_url(url).ca(gateway.ca_pem().unwrap()).dpop_key(PEM).build().unwrap();
    block_on(client.preflight(&action())).unwrap();
    assert_eq!(gateway.seen()[1].path, "/behind/a/proxy/api/v1/actions/preflight");
}

#[test]
fn clients_of_the_same_settings_share_the_nonce() {
    let step = json!({"do": "respond", "json": allow(), "headers": {"dpop-nonce": "n-1"}});
    let gateway = bound(&json!([step]));
    let settings = builder(&gateway).dpop_key(PEM).settings().unwrap();
    block_on(async {
        settings.connect().preflight(&action()).await.unwrap();
        // The gateway refuses a proof without the nonce.
        settings.connect().preflight(&action()).await.unwrap();
    });
}

#[test]
fn without_a_key_a_demand_for_a_nonce_is_an_error() {
    let gateway = gateway(json!([demand("n-1"), respond(allow())]));
    let error = block_on(client(&gateway).preflight(&action())).unwrap_err();
    assert_eq!((error.kind(), gateway.seen().len()), (ErrorKind::Authentication, 1));
    let seen = &gateway.seen()[0];
    assert_eq!(header(seen, "authorization"), Some(&*format!("Bearer {KEY}")));
    assert_eq!(header(seen, "dpop"), None);
}

#[test]
fn custom_transport_gets_the_proof() {
    let nonce = Response { dpop_nonce: Some("n-1".to_owned()), ..Response::new(200, allow().to_string()) };
    let transport = ScriptedTransport::new([Ok(nonce)]);
    let client = ActPass::builder().api_key(KEY).dpop_key(PEM).transport(transport.clone()).build().unwrap();
    block_on(client.preflight(&action())).unwrap();
    let request = transport.requests().remove(0);
    assert_eq!(request.proof.as_ref().unwrap().expose().split('.').count(), 3);
    assert!(!format!("{request:?}").contains(request.proof.as_ref().unwrap().expose()));
}

#[test]
fn invalid_keys_are_named_and_not_shown() {
    let body = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v";
    for pem in [String::new(), body.to_owned(), PEM.replace("PRIVATE KEY", "EC PRIVATE KEY"), PEM.repeat(2)] {
        let error = ActPass::builder().api_key(KEY).dpop_key(pem.as_str()).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let text = format!("{error} {error:?}");
        assert!(text.starts_with("dpop_key: expected "), "{text}");
        assert!(!text.contains("MC4CAQ"), "{text}");
        let argument = dpop_thumbprint(&pem.into()).unwrap_err().to_string();
        assert!(text.starts_with(&argument), "{argument}");
    }
    assert_eq!(dpop_thumbprint(&PEM.into()).unwrap(), THUMBPRINT);
}

#[test]
fn key_is_not_shown() {
    let builder = ActPass::builder().api_key(KEY).dpop_key(PEM);
    let shown = format!("{builder:?}");
    let shown = format!("{shown}\n{:#?}", builder.build().unwrap());
    // The key in base64, base64url and hex.
    for part in ["MC4CAQ", "nWGxne", "9d61b19d"] {
        assert!(!shown.contains(part), "{shown}");
    }
}

#[test]
fn key_file_of_the_environment_is_the_default() {
    let gateway = bound(&json!([respond(allow())]));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dpop key.pem");
    std::fs::write(&path, PEM).unwrap();
    let url = gateway.base_url();
    let environment = [("ACTPASS_DPOP_KEY_FILE", path.to_str().unwrap()), ("ACTPASS_TEST_URL", &url)];
    in_child("key_file_of_the_environment_is_the_default", &environment, || {
        let url = std::env::var("ACTPASS_TEST_URL").unwrap();
        let client = ActPass::builder().api_key(KEY).base_url(url).build().unwrap();
        block_on(client.preflight(&action())).unwrap();
    });
    if gateway.seen().is_empty() {
        // In the child, which has its own gateway.
        return;
    }
    assert!(header(&gateway.seen()[0], "dpop").is_some());
}

#[test]
fn unreadable_key_file_is_an_error_with_its_path() {
    in_child(
        "unreadable_key_file_is_an_error_with_its_path",
        &[("ACTPASS_DPOP_KEY_FILE", "/nowhere/dpop.pem")],
        || {
            let error = ActPass::builder().api_key(KEY).build().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            let text = error.to_string();
            let expected = "dpop_key: cannot read /nowhere/dpop.pem, the file in ACTPASS_DPOP_KEY_FILE: ";
            assert!(text.starts_with(expected), "{text}");
            // A given key takes precedence.
            assert!(ActPass::builder().api_key(KEY).dpop_key(PEM).build().is_ok());
        },
    );
}

#[test]
fn empty_key_file_variable_counts_as_unset() {
    in_child("empty_key_file_variable_counts_as_unset", &[("ACTPASS_DPOP_KEY_FILE", "")], || {
        let gateway = gateway(json!([respond(allow())]));
        block_on(client(&gateway).preflight(&action())).unwrap();
        assert_eq!(header(&gateway.seen()[0], "dpop"), None);
    });
}

/// A clock whose generator of random numbers fails.
#[derive(Debug)]
struct WithoutRandomness;

impl Clock for WithoutRandomness {
    fn now(&self) -> Moment {
        TokioClock.now()
    }

    fn wall_clock(&self) -> SystemTime {
        TokioClock.wall_clock()
    }

    fn random(&self) -> Result<[u8; 16], Error> {
        Err(Error::new(ErrorKind::Internal, "random number generator failed"))
    }

    fn sleep_until(&self, until: Moment) -> Sleep<'_> {
        TokioClock.sleep_until(until)
    }
}

#[test]
fn nothing_is_sent_without_randomness() {
    let transport = ScriptedTransport::answer(200, allow().to_string());
    let builder = ActPass::builder().api_key(KEY).dpop_key(PEM).clock(WithoutRandomness);
    let client = builder.transport(transport.clone()).build().unwrap();
    let error = block_on(client.preflight(&action().idempotency_key("k"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(transport.requests().is_empty());
}
