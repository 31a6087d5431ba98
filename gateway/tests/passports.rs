//! Passports over HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use actpass_core::{ActPass, Json, OfflineVerifyRequest};
use actpass_gateway::config::Settings;
use actpass_gateway::passport::SigningKeys;
use actpass_gateway::seal::MasterKey;
use actpass_protocol::json::Number;
use actpass_protocol::token::{Algorithm, TokenType, encode};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{Gateway, PREFLIGHT, at_test_time, json, start_at_test_time, text};
use futures_util::future::join_all;

const ISSUE: &str = "/api/v1/passports/issue";
const VERIFY: &str = "/api/v1/passports/verify";
const REVOKE: &str = "/api/v1/passports/revoke";

async fn call(gateway: &Gateway, path: &str, key: &str, body: &str) -> Json {
    let (status, response) = json(gateway.post(path, key).body(body.to_owned()).send().await.unwrap()).await;
    assert_eq!(status, 200, "{response}");
    response
}

fn passport(more: &str) -> String {
    format!(
        r#"{{"audience": "mcp://shop", "agent_id": "sdk", "goal": "refund an order", "allowed_tools": ["refunds.create"],
            "resource_constraints": {{"max_amount": 10000, "currency": "usd"}}{more}}}"#
    )
}

async fn issue(gateway: &Gateway, more: &str) -> String {
    text(&call(gateway, ISSUE, "apk_one", &passport(more)).await, "token").unwrap().to_owned()
}

/// The claims of a passport issued this many seconds later.
async fn later(gateway: &Gateway, token: &str, seconds: i64) -> String {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let Ok(Json::Object(mut claims)) = Json::parse(&payload) else { panic!("{token}") };
    for (name, value) in &mut claims {
        if let (Json::Number(number), "iat" | "exp") = (&*value, &**name) {
            *value = Json::Number(Number::from(number.as_str().parse::<i64>().unwrap() + seconds));
        }
    }
    let beside = gateway.data.open_existing().await.unwrap();
    let keys = beside.signing_keys().await.unwrap();
    let ring = SigningKeys::open(&keys, &MasterKey::parse(&"07".repeat(32)).unwrap()).unwrap();
    ring.sign(TokenType::Passport, &Json::Object(claims)).unwrap().0
}

/// A refund with a passport for the correct audience.
fn refund(amount: &str, token: &str, more: &str) -> String {
    common::refund(amount, &format!(r#", "passport": "{token}", "audience": "mcp://shop"{more}"#))
}

#[track_caller]
fn assert_denied(response: &Json, reason: &str) {
    assert_eq!(
        (text(response, "decision"), text(response, "reason_code")),
        (Some("deny"), Some(reason)),
        "{response}"
    );
}

#[tokio::test]
async fn audience_is_optional_in_preflight() {
    let (gateway, _) = start_at_test_time().await;
    let issued = call(&gateway, ISSUE, "apk_one", &passport("")).await;
    let token = text(&issued, "token").unwrap();
    let ask = async |more: &str| {
        let body = common::refund("4900", &format!(r#", "passport": "{token}"{more}"#));
        gateway.decide("apk_one", &body).await
    };
    assert_denied(&ask(r#", "audience": "mcp://bank""#).await, "passport.audience");
    assert_denied(&ask(r#", "audience": """#).await, "passport.audience");
    assert_eq!(text(&ask("").await, "decision"), Some("allow"));
    gateway.stop().await;
}

#[tokio::test]
async fn issued_passport_has_requested_claims() {
    let (gateway, _) = start_at_test_time().await;
    let response =
        call(&gateway, ISSUE, "apk_one", &passport(r#", "user_id": "u7", "ttl_seconds": 60"#)).await;
    let names: Vec<_> = response.as_object().unwrap().iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["token", "jwks_uri", "jti", "expires_at", "halt_epoch"]);
    assert_eq!(text(&response, "jwks_uri"), Some("https://gateway.example/.well-known/jwks.json"));
    assert_eq!(text(&response, "expires_at"), Some("2027-01-15T08:01:00Z"));
    let jti = text(&response, "jti").unwrap();
    assert!(jti.starts_with("ap_") && jti.len() == 35, "{jti}");

    let token = text(&response, "token").unwrap();
    let body = format!(r#"{{"token": "{token}", "audience": "mcp://shop"}}"#);
    let verified = call(&gateway, VERIFY, "apk_one", &body).await;
    assert_eq!(
        verified.to_string(),
        format!(
            r#"{{"valid":true,"errors":[],"claims":{{"iss":"https://gateway.example","aud":"mcp://shop","tenant_id":"one","agent_id":"sdk","user_id":"u7","goal":"refund an order","allowed_tools":["refunds.create"],"allowed_resources":[],"resource_constraints":{{"max_amount":10000,"currency":"usd"}},"risk_tier":"medium","iat":1800000000,"exp":1800000060,"jti":"{jti}"}},"halt_epoch":0}}"#
        )
    );
    let bound = call(&gateway, ISSUE, "apk_bound", &passport("")).await;
    let body = format!(r#"{{"token": "{}", "audience": "mcp://shop"}}"#, text(&bound, "token").unwrap());
    let verified = call(&gateway, VERIFY, "apk_one", &body).await;
    assert_eq!(text(&verified, "claims.agent_id"), Some("support"));
    assert_eq!(verified.member("claims").unwrap().member("exp").unwrap().to_string(), "1800000300");

    let events = gateway.events("apk_one", "decisions").await;
    assert_eq!(text(&events[0], "event_type"), Some("passport.issued"));
    assert_eq!(text(&events[0], "passport_jti"), Some(jti));
    assert!(!format!("{events:?}").contains("eyJ"));
    gateway.stop().await;
}

#[tokio::test]
async fn invalid_passport_request_is_named() {
    let (gateway, _) = start_at_test_time().await;
    for (member, from, to) in [
        ("ttl_seconds", "}}}", "}, \"ttl_seconds\": 0}"),
        ("ttl_seconds", "}}}", "}, \"ttl_seconds\": 3601}"),
        ("ttl_seconds", "}}}", "}, \"ttl_seconds\": 1.5}"),
        ("ttl_seconds", "}}}", "}, \"ttl_seconds\": \"60\"}"),
        ("audience", "\"mcp://shop\"", "null"),
        ("goal", "\"refund an order\"", "\"\""),
        ("allowed_tools", "[\"refunds.create\"]", "null"),
        ("allowed_tools", "[\"refunds.create\"]", "[1]"),
        ("allowed_tools", "[\"refunds.create\"]", "\"refunds.create\""),
        ("resource_constraints", "{\"max_amount\": 10000, \"currency\": \"usd\"}", "[]"),
        ("resource_constraints", "10000", "\"10000\""),
        ("resource_constraints", "max_amount", "max_"),
        ("risk_tier", "}}}", "}, \"risk_tier\": \"none\"}"),
        ("allowed_resources", "}}}", "}, \"allowed_resources\": {}}"),
    ] {
        let whole = passport("");
        let from = if from == "}}}" { "}}" } else { from };
        assert!(whole.contains(from), "{from}");
        let body = whole.replace(from, to);
        let (status, response) =
            json(gateway.post(ISSUE, "apk_one").body(body.clone()).send().await.unwrap()).await;
        assert_eq!(status, 422, "{body}: {response}");
        assert!(text(&response, "error.message").unwrap().starts_with(&format!("{member}: ")), "{response}");
    }
    for (path, body, member) in [
        (VERIFY, r#"{"audience": "a"}"#, "token"),
        (VERIFY, r#"{"token": "t"}"#, "audience"),
        (REVOKE, "{}", "jti"),
    ] {
        let (status, response) = json(gateway.post(path, "apk_one").body(body).send().await.unwrap()).await;
        assert_eq!(status, 422, "{body}");
        assert!(text(&response, "error.message").unwrap().starts_with(&format!("{member}: ")), "{response}");
    }
    let many =
        format!(r#", "allowed_resources": [{}]"#, vec![format!("\"{}\"", "r".repeat(2000)); 100].join(","));
    let (status, _) = json(gateway.post(ISSUE, "apk_one").body(passport(&many)).send().await.unwrap()).await;
    assert_eq!(status, 422);
    gateway.stop().await;
}

#[tokio::test]
async fn passport_bounds_action_and_is_single_use() {
    let (gateway, _) = start_at_test_time().await;
    let token = issue(&gateway, "").await;
    for (amount, tool, more, reason) in [
        ("25000", "refunds.create", "", "passport.constraint"),
        ("10000.5", "refunds.create", "", "passport.constraint"),
        ("\"4900\"", "refunds.create", "", "passport.constraint"),
        ("4900", "refunds.delete", "", "passport.tool"),
        ("4900", "refunds.create", r#", "user_id": "u""#, "passport.user"),
    ] {
        let body = refund(amount, &token, more).replace("refunds.create", tool);
        assert_denied(&gateway.decide("apk_one", &body).await, reason);
    }
    for (from, to, reason) in [
        ("refund an order", "another goal", "passport.goal"),
        ("mcp://shop", "mcp://bank", "passport.audience"),
        (r#""agent_id": "sdk""#, r#""agent_id": "other""#, "passport.agent"),
        (r#""agent_id": "sdk""#, r#""agent_id": null"#, "passport.agent"),
    ] {
        let body = refund("4900", &token, "").replace(from, to);
        assert_denied(&gateway.decide("apk_one", &body).await, reason);
    }
    assert_denied(&gateway.decide("apk_bound", &refund("4900", &token, "")).await, "passport.agent");
    assert_denied(&gateway.decide("apk_two", &refund("4900", &token, "")).await, "passport.tenant");
    assert_denied(&gateway.decide("apk_one", &refund("4900", "not-a-token", "")).await, "passport.malformed");

    // Neither these denials nor verification spend it.
    for mode in ["monitor", "warn"] {
        let response =
            gateway.decide("apk_one", &refund("4900", &token, &format!(r#", "mode": "{mode}""#))).await;
        assert_eq!(text(&response, "decision"), Some("allow"), "{response}");
    }
    let body = refund("4900", &token, r#", "idempotency_key": "i""#);
    let first = gateway.decide("apk_one", &body).await;
    assert_eq!(text(&first, "decision"), Some("allow"));
    common::assert_repeats(&gateway.decide("apk_one", &body).await, &first);
    assert_denied(&gateway.decide("apk_one", &refund("4900", &token, "")).await, "passport.replayed");
    let looked = gateway.decide("apk_one", &refund("4900", &token, r#", "mode": "warn""#)).await;
    assert_eq!((text(&looked, "decision"), text(&looked, "would_be")), (Some("warn"), Some("deny")));

    let events = gateway.events("apk_one", "decisions").await;
    let last = &events[events.len() - 2];
    assert_eq!(text(last, "reason_code"), Some("passport.replayed"));
    assert!(text(last, "passport_jti").unwrap().starts_with("ap_"));
    assert!(
        !format!("{events:?}").contains(token.rsplit('.').next().unwrap()),
        "the token must not be in the ledger"
    );
    gateway.stop().await;
}

#[tokio::test]
async fn passport_allows_listed_resources_only() {
    let (gateway, _) = start_at_test_time().await;
    let token = issue(&gateway, r#", "allowed_resources": ["charge:1", "charge:2"]"#).await;
    assert_denied(&gateway.decide("apk_one", &refund("1", &token, "")).await, "passport.resource");
    let body = refund("1", &token, "").replace(r#""resource": """#, r#""resource": "charge:2""#);
    assert_eq!(text(&gateway.decide("apk_one", &body).await, "decision"), Some("allow"));
    gateway.stop().await;
}

#[tokio::test]
async fn policy_denial_does_not_spend_passport() {
    let (gateway, _) = start_at_test_time().await;
    let body = passport("").replace("10000", "900000");
    let token = text(&call(&gateway, ISSUE, "apk_one", &body).await, "token").unwrap().to_owned();
    assert_denied(&gateway.decide("apk_one", &refund("90000", &token, "")).await, "refund.over_limit");
    let response = gateway.decide("apk_one", &refund("25000", &token, "")).await;
    assert_eq!(text(&response, "decision"), Some("require_approval"));
    assert_eq!(text(&gateway.decide("apk_one", &refund("1", &token, "")).await, "decision"), Some("allow"));
    gateway.stop().await;
}

#[tokio::test]
async fn policies_read_passport_claims() {
    let time = Arc::new(AtomicU64::new(1_800_000_000));
    let set = at_test_time(&time);
    let gateway = Gateway::start_with("", |settings| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("p.json"),
            br#"{"id": "p", "version": 1, "rules": [{"name": "r", "decision": "allow", "reason": "ok", "when": [
                {"path": "passport.user_id", "operator": "==", "value": "u7"},
                {"path": "risk_tier", "operator": "==", "value": "low"}]}]}"#,
        )
        .unwrap();
        let refunds = format!("{}/../policies/dev.json", env!("CARGO_MANIFEST_DIR"));
        let data = settings.data.clone();
        *settings = Settings::parse(&common::config("").replace(&refunds, "p.json"), folder.path()).unwrap();
        settings.data = data;
        set(settings);
    })
    .await;
    for (tier, decision) in [("low", "allow"), ("high", "deny")] {
        let token = issue(&gateway, &format!(r#", "user_id": "u7", "risk_tier": "{tier}""#)).await;
        let response = gateway.decide("apk_one", &refund("1", &token, r#", "user_id": "u7""#)).await;
        assert_eq!(text(&response, "decision"), Some(decision), "{tier}");
    }
    // Claims in the request body are ignored.
    let body = common::refund("1", r#", "user_id": "u7", "risk_tier": "low""#);
    assert_eq!(text(&gateway.decide("apk_one", &body).await, "decision"), Some("deny"));
    gateway.stop().await;
}

#[tokio::test]
async fn passport_ends_by_expiry_or_revocation() {
    let (gateway, time) = start_at_test_time().await;
    let verify = async |key: &str, token: &str, more: &str| {
        let body = format!(r#"{{"token": "{token}", "audience": "mcp://shop"{more}}}"#);
        let response = call(&gateway, VERIFY, key, &body).await;
        assert_eq!(response.member("valid"), Some(&Json::Bool(response.member("claims").is_some())));
        response.member("errors").unwrap().to_string()
    };
    let token = issue(&gateway, "").await;
    assert_eq!(verify("apk_one", &token, r#", "agent_id": "sdk", "user_id": null"#).await, "[]");
    for (key, more, errors) in [
        ("apk_one", r#", "agent_id": "other""#, r#"["passport.agent"]"#),
        ("apk_one", r#", "user_id": "u""#, r#"["passport.user"]"#),
        ("apk_one", r#", "policy_hash": "x""#, r#"["passport.policy"]"#),
        ("apk_two", "", r#"["passport.tenant"]"#),
    ] {
        assert_eq!(verify(key, &token, more).await, errors, "{key} {more}");
    }
    assert_eq!(verify("apk_one", "x.y.z", "").await, r#"["passport.malformed"]"#);

    let early = later(&gateway, &token, 60).await;
    assert_eq!(verify("apk_one", &early, "").await, r#"["passport.not_yet_valid"]"#);
    assert_denied(&gateway.decide("apk_one", &refund("1", &early, "")).await, "passport.not_yet_valid");
    time.fetch_add(299, Ordering::SeqCst);
    assert_eq!(verify("apk_one", &token, "").await, "[]");
    time.fetch_add(1, Ordering::SeqCst);
    assert_eq!(verify("apk_one", &token, "").await, r#"["passport.expired"]"#);
    // A clock that steps back does not revive it.
    time.fetch_sub(200, Ordering::SeqCst);
    assert_eq!(verify("apk_one", &token, "").await, r#"["passport.expired"]"#);
    assert_denied(&gateway.decide("apk_one", &refund("1", &token, "")).await, "passport.expired");

    let issued = call(&gateway, ISSUE, "apk_one", &passport("")).await;
    let (token, jti) = (text(&issued, "token").unwrap(), text(&issued, "jti").unwrap());
    let revoke = format!(r#"{{"jti": "{jti}", "reason": "lost"}}"#);
    assert_eq!(call(&gateway, REVOKE, "apk_two", &revoke).await.to_string(), r#"{"revoked":false}"#);
    assert_eq!(verify("apk_one", token, "").await, "[]");
    for _ in 0..2 {
        assert_eq!(call(&gateway, REVOKE, "apk_one", &revoke).await.to_string(), r#"{"revoked":true}"#);
    }
    let unknown = call(&gateway, REVOKE, "apk_one", r#"{"jti": "ap_0"}"#).await;
    assert_eq!(unknown.to_string(), r#"{"revoked":false}"#);
    assert_eq!(verify("apk_one", token, "").await, r#"["passport.revoked"]"#);
    assert_denied(&gateway.decide("apk_one", &refund("1", token, "")).await, "passport.revoked");
    let events = gateway.events("apk_one", "decisions").await;
    let revoked: Vec<_> =
        events.iter().filter(|e| text(e, "event_type") == Some("passport.revoked")).collect();
    assert_eq!(revoked.len(), 1);
    assert_eq!(text(revoked[0], "metadata.reason"), Some("lost"));
    gateway.stop().await;
}

/// The verifiers: the gateway's decision, its verification, and an offline client.
struct Readers {
    gateway: Gateway,
    offline: ActPass,
}

impl Readers {
    fn new(gateway: Gateway) -> Self {
        let offline = Self::client(&gateway);
        Self { gateway, offline }
    }

    /// The client's tenant is wrong and its issuer is not its base URL; the gateway supplies both.
    fn client(gateway: &Gateway) -> ActPass {
        ActPass::builder().api_key("apk_one").tenant_id("hint").base_url(&gateway.url).build().unwrap()
    }

    /// Returns the reason with which all verifiers reject the token for `audience`; `None` if all
    /// accept it.
    async fn refuse(&self, token: &str, audience: &str) -> Option<String> {
        let quoted = Json::from(token).to_string();
        let (with_token, shown) =
            (format!(r#", "passport": {quoted}, "audience": "{audience}""#), Json::from(audience));
        // In a mode that spends nothing.
        let decided = self
            .gateway
            .decide("apk_one", &common::refund("1", &(with_token + r#", "mode": "monitor""#)))
            .await;
        let decided = match text(&decided, "decision") {
            Some("deny") => vec![text(&decided, "reason_code").unwrap().to_owned()],
            decision => {
                assert_eq!(decision, Some("allow"), "{decided}");
                Vec::new()
            }
        };
        let body = format!(r#"{{"token": {quoted}, "audience": {shown}, "agent_id": "sdk"}}"#);
        let verified = call(&self.gateway, VERIFY, "apk_one", &body).await;
        let mut wanted = OfflineVerifyRequest::new(token, audience);
        wanted.agent_id = Some("sdk".to_owned());
        let offline = self.offline.verify_passport_offline(&wanted).await.unwrap();
        for (valid, errors) in [
            (verified.member("valid") == Some(&Json::Bool(true)), errors(&verified)),
            (offline.is_valid(), offline.errors()),
        ] {
            assert_eq!((valid, &errors), (decided.is_empty(), &decided), "{token}");
        }
        decided.into_iter().next()
    }
}

fn errors(verified: &Json) -> Vec<String> {
    let Some(Json::Array(errors)) = verified.member("errors") else { panic!("{verified}") };
    errors.iter().map(|error| error.as_str().unwrap().to_owned()).collect()
}

/// Every byte of a passport changed in several seeded ways, and all known forgeries: each is
/// rejected for the correct reason, identically by the gateway's decision, its verification, and an
/// offline client with the gateway's keys.
#[tokio::test]
async fn all_verifiers_reject_damaged_tokens_alike() {
    // A client uses the system clock.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let time = Arc::new(AtomicU64::new(now - 1000));
    let gateway = Gateway::start_with("", at_test_time(&time)).await;
    let issue_at = async |gateway: &Gateway, at: u64, time: &AtomicU64| {
        time.store(at, Ordering::SeqCst);
        let token = issue(gateway, "").await;
        time.store(now, Ordering::SeqCst);
        token
    };
    let past = issue_at(&gateway, now - 1000, &time).await;
    let token = issue_at(&gateway, now, &time).await;
    let future = later(&gateway, &token, 1000).await;
    // Another gateway with the same name.
    let (other, elsewhere) = start_at_test_time().await;
    let foreign = issue_at(&other, now, &elsewhere).await;
    other.stop().await;

    let mut readers = Readers::new(gateway);
    let parts: Vec<_> = token.split('.').collect();
    let header = String::from_utf8(URL_SAFE_NO_PAD.decode(parts[0]).unwrap()).unwrap();
    let kid = text(&Json::parse(header.as_bytes()).unwrap(), "kid").unwrap().to_owned();
    let with_header = |header: &str| {
        let header = encode(header.replace("KID", &kid));
        format!("{header}.{}.{}", parts[1], parts[2])
    };
    let unsigned = |header: &str| format!("{}.{}.", encode(header.replace("KID", &kid)), parts[1]);
    let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    let richer = encode(claims.replace("10000", "90000"));
    // The public key as an HMAC secret (algorithm confusion).
    let jwks = readers.gateway.client.get(format!("{}/.well-known/jwks.json", readers.gateway.url));
    let (_, jwks) = json(jwks.send().await.unwrap()).await;
    let Some(Json::Array(keys)) = jwks.member("keys") else { panic!("{jwks}") };
    let public = URL_SAFE_NO_PAD.decode(text(&keys[0], "x").unwrap()).unwrap();
    let input = format!("{}.{}", encode(format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#)), parts[1]);
    let hmac = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &public), input.as_bytes());
    // The attacker's key under the gateway's key id.
    let own = ring::signature::Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap();
    let input_own = format!("{}.{richer}", parts[0]);
    let signed_own = format!("{input_own}.{}", encode(own.sign(input_own.as_bytes())));

    let bank = ("mcp://bank", "passport.audience");
    let shop = |reason| ("mcp://shop", reason);
    for (name, damaged, (audience, reason)) in [
        ("alg none", unsigned(r#"{"alg":"none","kid":"KID"}"#), shop("passport.algorithm")),
        ("alg none, signed", with_header(r#"{"alg":"none","kid":"KID"}"#), shop("passport.algorithm")),
        ("alg None", unsigned(r#"{"alg":"None"}"#), shop("passport.algorithm")),
        ("alg HS256", with_header(r#"{"alg":"HS256","kid":"KID"}"#), shop("passport.algorithm")),
        ("alg HS256 by the public key", format!("{input}.{}", encode(hmac)), shop("passport.algorithm")),
        ("alg RS256", with_header(r#"{"alg":"RS256","kid":"KID"}"#), shop("passport.algorithm")),
        ("alg missing", with_header(r#"{"kid":"KID"}"#), shop("passport.malformed")),
        ("kid missing", with_header(r#"{"alg":"EdDSA"}"#), shop("passport.malformed")),
        ("kid empty", with_header(r#"{"alg":"EdDSA","kid":""}"#), shop("passport.malformed")),
        ("unknown kid", with_header(r#"{"alg":"EdDSA","kid":"k"}"#), shop("passport.unknown_key")),
        ("embedded JWK", with_header(r#"{"alg":"EdDSA","kid":"KID","jwk":{}}"#), shop("passport.malformed")),
        (
            "a key elsewhere",
            with_header(r#"{"alg":"EdDSA","kid":"KID","jku":"https://x"}"#),
            shop("passport.malformed"),
        ),
        (
            "critical",
            with_header(r#"{"alg":"EdDSA","kid":"KID","crit":["x"],"x":1}"#),
            shop("passport.malformed"),
        ),
        (
            "a member twice",
            with_header(r#"{"alg":"EdDSA","kid":"k","kid":"KID"}"#),
            shop("passport.malformed"),
        ),
        (
            "another typ",
            with_header(r#"{"alg":"EdDSA","kid":"KID","typ":"actpass-chain-head+jwt"}"#),
            shop("passport.malformed"),
        ),
        (
            "the same header, formatted differently",
            with_header(r#"{"kid":"KID","alg":"EdDSA"}"#),
            shop("passport.signature"),
        ),
        ("other claims", format!("{}.{richer}.{}", parts[0], parts[2]), shop("passport.signature")),
        ("other claims, own key", signed_own, shop("passport.signature")),
        ("no signature", format!("{}.{}.", parts[0], parts[1]), shop("passport.signature")),
        ("two parts", format!("{}.{}", parts[0], parts[1]), shop("passport.malformed")),
        ("four parts", format!("{token}.{}", parts[2]), shop("passport.malformed")),
        ("white space", format!("{token}\n"), shop("passport.malformed")),
        ("padding", format!("{token}="), shop("passport.malformed")),
        ("too long", "A".repeat(32 * 1024 + 1), shop("passport.malformed")),
        ("foreign key", foreign, shop("passport.unknown_key")),
        ("expired", past, shop("passport.expired")),
        ("not yet valid", future, shop("passport.not_yet_valid")),
        ("another audience", token.clone(), bank),
    ] {
        assert_eq!(readers.refuse(&damaged, audience).await.as_deref(), Some(reason), "{name}");
    }

    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+ ";
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut seen = BTreeMap::<String, usize>::new();
    // The verifiers do not depend on the store: with a slow one, each sixteenth byte is changed.
    let is_first_store = module_path!() == "passports";
    for at in (0..token.len()).step_by(if is_first_store { 1 } else { 16 }) {
        for _ in 0..3 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let mut bytes = token.clone().into_bytes();
            bytes[at] = alphabet[usize::try_from(random % alphabet.len() as u64).unwrap()];
            let changed = String::from_utf8(bytes).unwrap();
            if changed == token {
                continue;
            }
            if at < parts[0].len() {
                // A client without keys does not wait before fetching them for an unknown key.
                readers.offline = Readers::client(&readers.gateway);
            }
            let reason = readers.refuse(&changed, "mcp://shop").await;
            let reason = reason.unwrap_or_else(|| panic!("byte {at} of {changed} may be changed"));
            assert!(
                matches!(&*reason, "passport.malformed" | "passport.signature")
                    || at < parts[0].len()
                        && matches!(&*reason, "passport.algorithm" | "passport.unknown_key"),
                "{at}: {reason}"
            );
            *seen.entry(reason).or_default() += 1;
        }
    }
    let (kinds, changed) = if is_first_store { (4, token.len() * 2) } else { (2, token.len() / 8) };
    assert!(seen.len() >= kinds && seen.values().sum::<usize>() > changed, "{seen:?}");
    assert_eq!(readers.refuse(&token, "mcp://shop").await, None);
    readers.gateway.stop().await;
}

#[tokio::test]
async fn concurrent_requests_use_passport_once() {
    let (gateway, _) = start_at_test_time().await;
    let token = issue(&gateway, "").await;
    let answers = join_all((0..200).map(|number| {
        let body = refund("1", &token, &format!(r#", "idempotency_key": "{number}""#));
        let gateway = &gateway;
        async move { (gateway.decide("apk_one", &body).await, body) }
    }))
    .await;
    let allowed: Vec<_> =
        answers.iter().filter(|(response, _)| text(response, "decision") == Some("allow")).collect();
    assert_eq!(allowed.len(), 1);
    for (response, body) in &answers {
        if text(response, "decision") != Some("allow") {
            assert_denied(response, "passport.replayed");
        }
        let again = gateway.decide("apk_one", body).await;
        match text(response, "decision") {
            Some("allow") => common::assert_repeats(&again, response),
            // A denial is decided again.
            _ => assert_denied(&again, "passport.replayed"),
        }
    }
    let events = gateway.events("apk_one", "decisions").await;
    let recorded = |decision| events.iter().filter(|event| text(event, "decision") == Some(decision)).count();
    assert_eq!((recorded("allow"), recorded("deny"), events.len()), (1, 2 * 199, 400));
    gateway.stop().await;
}

#[tokio::test]
async fn es256_passports_are_verified_everywhere_by_their_key_alone() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let time = Arc::new(AtomicU64::new(now));
    let settings = at_test_time(&time);
    let gateway = Gateway::start_with("", |given| {
        settings(given);
        given.signing_algorithm = Algorithm::Es256;
    })
    .await;
    let readers = Readers::new(gateway);
    let token = issue(&readers.gateway, "").await;
    assert_eq!(readers.refuse(&token, "mcp://shop").await, None);

    let jwks = readers.gateway.client.get(format!("{}/.well-known/jwks.json", readers.gateway.url));
    let (_, jwks) = json(jwks.send().await.unwrap()).await;
    let Some(Json::Array(keys)) = jwks.member("keys") else { panic!("{jwks}") };
    for (member, expected) in [("kty", "EC"), ("crv", "P-256"), ("alg", "ES256"), ("use", "sig")] {
        assert_eq!(text(&keys[0], member), Some(expected));
    }
    assert_eq!((keys.len(), keys[0].member("d")), (1, None));

    let kid = text(&keys[0], "kid").unwrap();
    let parts: Vec<_> = token.split('.').collect();
    let with_alg = |alg: &str| encode(format!(r#"{{"alg":"{alg}","kid":"{kid}","typ":"JWT"}}"#));
    let x = URL_SAFE_NO_PAD.decode(text(&keys[0], "x").unwrap()).unwrap();
    let confused = format!("{}.{}", with_alg("HS256"), parts[1]);
    let mac = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &x), confused.as_bytes());
    let other = ring::signature::Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap();
    let eddsa = format!("{}.{}", with_alg("EdDSA"), parts[1]);
    for (token, expected) in [
        (format!("{confused}.{}", encode(mac)), "passport.algorithm"),
        (format!("{eddsa}.{}", encode(other.sign(eddsa.as_bytes()))), "passport.algorithm"),
        (format!("{eddsa}.{}", parts[2]), "passport.algorithm"),
        (format!("{}.{}.{}", with_alg("none"), parts[1], ""), "passport.algorithm"),
        (format!("{}.{}.{}", parts[0], parts[1], encode([0; 64])), "passport.signature"),
        (format!("{}.{}.{}", parts[0], encode("{}"), parts[2]), "passport.signature"),
    ] {
        assert_eq!(readers.refuse(&token, "mcp://shop").await.as_deref(), Some(expected), "{token}");
    }
    readers.gateway.stop().await;
}

#[tokio::test]
async fn keys_uses_and_revocations_survive_restart() {
    let (mut gateway, time) = start_at_test_time().await;
    let (unused, used) = (issue(&gateway, "").await, issue(&gateway, "").await);
    let revoked = call(&gateway, ISSUE, "apk_one", &passport("")).await;
    gateway.decide("apk_one", &refund("1", &used, "")).await;
    let revoke = format!(r#"{{"jti": "{}"}}"#, text(&revoked, "jti").unwrap());
    call(&gateway, REVOKE, "apk_one", &revoke).await;
    gateway.restart(at_test_time(&time)).await;
    assert_denied(&gateway.decide("apk_one", &refund("1", &used, "")).await, "passport.replayed");
    let revoked = text(&revoked, "token").unwrap();
    assert_denied(&gateway.decide("apk_one", &refund("1", revoked, "")).await, "passport.revoked");
    assert_eq!(text(&gateway.decide("apk_one", &refund("1", &unused, "")).await, "decision"), Some("allow"));
    gateway.stop().await;
}

#[tokio::test]
async fn jwks_is_public() {
    let (gateway, _) = start_at_test_time().await;
    let response = gateway.client.get(format!("{}/.well-known/jwks.json", gateway.url)).send().await.unwrap();
    let (status, set) = json(response).await;
    assert_eq!(status, 200);
    let Some(Json::Array(keys)) = set.member("keys") else { panic!("{set}") };
    assert_eq!(keys.len(), 1);
    for (member, expected) in [("kty", "OKP"), ("crv", "Ed25519"), ("alg", "EdDSA"), ("use", "sig")] {
        assert_eq!(text(&keys[0], member), Some(expected));
    }
    assert_eq!(keys[0].member("d"), None);
    assert_eq!(text(&keys[0], "x").unwrap().len(), 43);
    assert_eq!(text(&set, "issuer"), Some("https://gateway.example"));
    assert_eq!(set.member("tenant_id"), None);
    for (key, tenant) in [("apk_one", Some("one")), ("apk_two", Some("two")), ("apk_unknown", None)] {
        let (status, set) = json(gateway.get("/.well-known/jwks.json", key).send().await.unwrap()).await;
        assert_eq!(status, 200, "{key}");
        assert_eq!(text(&set, "tenant_id"), tenant, "{key}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn missing_master_key_error_names_setting() {
    let gateway = Gateway::start().await;
    let requests = [
        gateway.post(ISSUE, "apk_one").body(passport("")),
        gateway.post(VERIFY, "apk_one").body(r#"{"token": "t", "audience": "a"}"#),
        gateway.post(REVOKE, "apk_one").body(r#"{"jti": "ap_1"}"#),
        gateway.get("/.well-known/jwks.json", ""),
        gateway.post(PREFLIGHT, "apk_one").body(refund("1", "t", "")),
    ];
    for request in requests {
        let (status, response) = json(request.send().await.unwrap()).await;
        assert_eq!(status, 501);
        let message = text(&response, "error.message").unwrap();
        assert!(message.contains("master_key_file") && message.contains("ACTPASS_MASTER_KEY"), "{message}");
    }
    gateway.stop().await;
}
