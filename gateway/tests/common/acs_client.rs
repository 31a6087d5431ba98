//! A client of the Agent Control Standard, independent of the gateway.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests; not every test file uses all of it"
)]

use actpass_protocol::{Json, canonical_json};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{hkdf, hmac};
use tempfile::TempDir;

use super::common::{config_with, shipped_policy, text};

pub const SECRET: &str = "0123456789abcdef0123456789abcdef";
pub const SESSION: &str = "5c3f1b8e-9a0d-4c2e-8f4b-2d6a7e9c1b30";

/// A folder with the secret.
pub fn secret_folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("acs.secret"), format!("{SECRET}\n")).unwrap();
    folder
}

/// Returns the settings of a gateway whose key `apk_one` has the secret in `acs.secret`.
pub fn config(more: &str) -> String {
    config_with("", &shipped_policy("refunds.json")).replacen(
        "name = \"name-of-apk-one\"\n",
        &format!("name = \"name-of-apk-one\"\nacs_secret_file = \"acs.secret\"\n{more}\n"),
        1,
    )
}

/// The key of a session, derived independently of the gateway.
pub fn session_key(session: &str) -> hmac::Key {
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, &[0; 32]).extract(SECRET.as_bytes());
    extracted.expand(&[session.as_bytes()], hmac::HMAC_SHA256).unwrap().into()
}

pub fn parse(text: &str) -> Json {
    Json::parse(text.as_bytes()).unwrap()
}

/// A request without signature. `payload` is the payload's text.
pub fn request_at(timestamp: &str, method: &str, number: u32, payload: &str) -> String {
    let id = format!("8d0b6b0e-4d6b-4f7a-9d1c-{number:012}");
    format!(
        r#"{{"jsonrpc": "2.0", "method": "{method}", "id": "{id}", "params": {{"acs_version": "0.1.0",
            "request_id": "{id}", "timestamp": "{timestamp}", "metadata": {{"agent_id": "sdk",
            "session_id": "{SESSION}"}}, "payload": {payload}}}}}"#
    )
}

/// The payload of a refund of this many cents.
pub fn refund_payload(amount: u32) -> String {
    format!(
        r#"{{"tool": {{"name": "refunds.create"}}, "arguments": {{"amount": {{"value": {amount}}},
            "currency": {{"value": "usd"}}}}, "intent": {{"goal": "refund an order"}}}}"#
    )
}

pub fn without_signature(envelope: &Json, container: &str) -> Json {
    let Json::Object(mut members) = envelope.clone() else { panic!("{envelope}") };
    for (name, value) in &mut members {
        if let (true, Json::Object(inner)) = (name == container, value) {
            inner.retain(|(name, _)| name != "signature");
        }
    }
    Json::Object(members)
}

pub fn sign(request: &str) -> String {
    let canonical = canonical_json(&parse(request)).unwrap();
    let value = STANDARD.encode(hmac::sign(&session_key(SESSION), &canonical));
    let signature =
        format!(r#"{{"algorithm": "HMAC-SHA256", "key_id": "name-of-apk-one", "value": "{value}"}}"#);
    let (members, _) = request.rsplit_once("}}").unwrap();
    format!("{members}, \"signature\": {signature}}}}}")
}

/// Returns the result of a response, whose signature is verified.
pub fn verified(request: &str, response: &Json) -> Json {
    let result = response.member("result").unwrap_or_else(|| panic!("{response}"));
    let value = STANDARD.decode(text(result, "signature.value").unwrap()).unwrap();
    let signed = canonical_json(&without_signature(response, "result")).unwrap();
    assert!(hmac::verify(&session_key(SESSION), &signed, &value).is_ok(), "{response}");
    let asked = parse(request);
    assert_eq!(response.member("id"), asked.member("id"));
    assert_eq!(text(result, "type"), Some("final"));
    assert_eq!(text(result, "acs_version"), Some("0.1.0"));
    assert_eq!(result.member("request_id"), asked.member("params").unwrap().member("request_id"));
    let decision = text(result, "decision").unwrap();
    // The members that each decision requires.
    let required: &[&str] = match decision {
        "allow" => &[],
        "deny" => &["reasoning"],
        "ask" => &["reasoning", "ask_details"],
        "defer" => &["reasoning", "defer_details"],
        other => panic!("{other}"),
    };
    for member in required {
        assert!(result.member(member).is_some(), "{member}: {result}");
    }
    result.clone()
}

/// Asserts that a result is a denial with this code alone.
#[track_caller]
pub fn assert_denied(result: &Json, code: &str) {
    assert_eq!(text(result, "decision"), Some("deny"), "{result}");
    assert_eq!(result.member("reason_codes").unwrap().to_string(), format!("[\"{code}\"]"), "{result}");
}
