//! Passports: only the signed bytes are valid.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actpass_core::transport::FixedResponse;
use actpass_core::{ActPass, OfflineVerifyRequest, Verification};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

const AUDIENCE: &str = "mcp://fuzz";
const ISSUER: &str = "https://gateway.example";
const HEADER: &str = r#"{"alg":"EdDSA","kid":"k1","typ":"JWT"}"#;

static KEY: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap());
static KEYS: LazyLock<String> = LazyLock::new(|| {
    let x = URL_SAFE_NO_PAD.encode(KEY.public_key());
    json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "k1", "x": x}]})
        .to_string()
});
static GOOD: LazyLock<String> = LazyLock::new(|| signed(HEADER.as_bytes(), claims().as_bytes()));

/// The first byte selects the type of the rest: a token, claims to sign, a header to sign, or the
/// gateway's keys.
pub(crate) fn run(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    match choice & 3 {
        0 => {
            let Ok(token) = str::from_utf8(rest) else { return };
            let valid = verify(&KEYS, token).is_some_and(|found| found.is_valid());
            assert_eq!(valid, token == *GOOD, "{token}, valid is {}", *GOOD);
        }
        1 => {
            let token = signed(HEADER.as_bytes(), rest);
            let Some(found) = verify(&KEYS, &token) else { return };
            if found.is_valid() {
                let claims: Value = serde_json::from_slice(rest).expect("claims are JSON");
                assert_eq!((&claims["aud"], &claims["iss"]), (&json!(AUDIENCE), &json!(ISSUER)));
                let now = now();
                assert!(claims["exp"].as_i64().is_some_and(|until| until > now - 60));
                assert!(claims["iat"].as_i64().is_some_and(|from| from < now + 60));
            } else {
                assert!(!found.errors().is_empty(), "rejected without an error");
            }
        }
        2 => {
            let token = signed(rest, claims().as_bytes());
            if verify(&KEYS, &token).is_some_and(|found| found.is_valid()) {
                let header: Value = serde_json::from_slice(rest).expect("a header is JSON");
                assert_eq!((&header["alg"], &header["kid"]), (&json!("EdDSA"), &json!("k1")));
                assert_eq!(header.get("crit"), None);
            }
        }
        _ => {
            let Ok(keys) = str::from_utf8(rest) else { return };
            if verify(keys, &GOOD).is_some_and(|found| found.is_valid()) {
                assert!(keys.contains("k1") || keys.contains('\\'), "valid by {keys}");
            }
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let good = GOOD.as_bytes();
    let mut seeds = vec![
        [b"\0", good].concat(),
        [b"\0", good, b"="].concat(),
        [b"\0", signed(br#"{"alg":"none","kid":"k1"}"#, claims().as_bytes()).as_bytes()].concat(),
        [b"\x01", claims().as_bytes()].concat(),
        [b"\x02", HEADER.as_bytes()].concat(),
        [b"\x03", KEYS.as_bytes()].concat(),
    ];
    for changed in [r#","exp":1e10"#, r#","nbf":4102444800"#, r#","exp":-1"#, r#","crit":["exp"]"#] {
        let open = |text: &str| format!("{}{changed}}}", text.trim_end_matches('}')).into_bytes();
        seeds.push([vec![1], open(&claims())].concat());
        seeds.push([vec![2], open(HEADER)].concat());
    }
    seeds
}

/// `None` if the keys cannot be fetched.
fn verify(keys: &str, token: &str) -> Option<Verification> {
    let client = ActPass::builder()
        .api_key("apk_fuzz_secret")
        .max_retries(0)
        .transport(FixedResponse::new(200, keys))
        .build()
        .unwrap();
    let mut request = OfflineVerifyRequest::new(token, AUDIENCE);
    request.issuer = Some(ISSUER.to_owned());
    crate::block_on(client.verify_passport_offline(&request)).ok()
}

fn signed(header: &[u8], claims: &[u8]) -> String {
    let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(KEY.sign(input.as_bytes()));
    format!("{input}.{signature}")
}

/// Constant for the lifetime of the process.
fn claims() -> String {
    static ISSUED: LazyLock<i64> = LazyLock::new(now);
    let until = *ISSUED + 86_400;
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "tenant_id": "t", "agent_id": "a", "jti": "ap_1", "iat": *ISSUED, "exp": until,
        "user_id": null, "goal": "g", "risk_tier": "medium", "allowed_tools": ["stripe.refund.create"],
        "allowed_resources": [], "resource_constraints": {"max_amount": 10_000},
    })
    .to_string()
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_secs()).unwrap()
}
