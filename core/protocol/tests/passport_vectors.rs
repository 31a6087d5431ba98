//! The passports of `tests/passports/vectors.json`, which every language verifies.
//!
//! `ACTPASS_WRITE_VECTORS=1 cargo test -p actpass-protocol --test passport_vectors` writes the file.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;

use actpass_protocol::Json;
use actpass_protocol::token::{
    Algorithm, Claims, PassportError, Presentation, PublicKey, TokenType, Unverified, ValidationTime, encode,
    signing_input,
};
use hmac::{Hmac, KeyInit, Mac};
use p256::ecdsa::Signature;
use p256::ecdsa::signature::Signer;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use sha2::Sha256;

const AUDIENCE: &str = "mcp://vectors";
const ISSUER: &str = "https://gateway.example";
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/passports/vectors.json");

/// The order of the group, as 32 bytes.
const ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";

struct Keys {
    ed25519: Ed25519KeyPair,
    p256: p256::ecdsa::SigningKey,
}

impl Keys {
    fn of(seed: u8) -> Self {
        Self {
            ed25519: Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap(),
            p256: p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap(),
        }
    }

    fn point(&self) -> Vec<u8> {
        self.p256.verifying_key().to_sec1_point(false).as_bytes().to_vec()
    }

    fn jwk(&self, algorithm: Algorithm) -> Value {
        let bytes = match algorithm {
            Algorithm::EdDsa => self.ed25519.public_key().as_ref().to_vec(),
            Algorithm::Es256 => self.point(),
        };
        let key = PublicKey::new(kid(algorithm), algorithm, &bytes).unwrap();
        serde_json::from_str(&key.to_jwk().to_string()).unwrap()
    }

    fn sign(&self, algorithm: Algorithm, header: &Value, claims: &Value) -> String {
        let signed = signed_part(header, claims);
        let signature = match algorithm {
            Algorithm::EdDsa => self.ed25519.sign(signed.as_bytes()).as_ref().to_vec(),
            Algorithm::Es256 => self.low(&signed).to_bytes().to_vec(),
        };
        format!("{signed}.{}", encode(signature))
    }

    fn low(&self, signed: &str) -> Signature {
        let signature: Signature = self.p256.sign(signed.as_bytes());
        signature.normalize_s()
    }
}

const fn kid(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::EdDsa => "ed25519",
        Algorithm::Es256 => "p256",
    }
}

fn header(alg: &str, kid: &str) -> Value {
    json!({"alg": alg, "kid": kid, "typ": "JWT"})
}

fn signed_part(header: &Value, claims: &Value) -> String {
    format!("{}.{}", encode(header.to_string()), encode(claims.to_string()))
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "tenant_id": "t", "agent_id": "vectors", "user_id": null,
        "goal": "resolve_refund_request", "allowed_tools": ["stripe.refund.create"], "allowed_resources": [],
        "resource_constraints": {}, "risk_tier": "low", "iat": 1_700_000_000, "exp": 4_102_444_800_i64, "jti": "ap_1",
    })
}

fn with(value: &Value, name: &str, member: Value) -> Value {
    let mut changed = value.clone();
    changed[name] = member;
    changed
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn vectors() -> Value {
    let (keys, other) = (Keys::of(7), Keys::of(8));
    let (ed25519, p256) = (keys.jwk(Algorithm::EdDsa), keys.jwk(Algorithm::Es256));
    let (ed_header, es_header) = (header("EdDSA", "ed25519"), header("ES256", "p256"));
    let good = keys.sign(Algorithm::Es256, &es_header, &claims());
    let signed = good.rsplit_once('.').unwrap().0.to_owned();
    let with_signature = |bytes: &[u8]| format!("{signed}.{}", encode(bytes));
    let low = keys.low(&signed);
    let low_bytes = low.to_bytes();
    let (r, s) = low_bytes.split_at(32);
    let order = hex::decode(ORDER).unwrap();
    let high = subtract(&order, s);
    let hmac = |key: &[u8]| {
        let signed = signed_part(&header("HS256", "p256"), &claims());
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(signed.as_bytes());
        format!("{signed}.{}", encode(mac.finalize().into_bytes()))
    };
    let bytes = |name: &str| keys.point()[if name == "x" { 1..33 } else { 33..65 }].to_vec();
    let shifted = |name: &str| {
        let mut coordinate = bytes(name);
        coordinate[31] ^= 1;
        encode(coordinate)
    };

    let mut cases = Vec::new();
    let mut add = |description: &str, keys: Option<Value>, token: String, errors: &[PassportError]| {
        let errors: Vec<_> = errors.iter().map(|error| error.code()).collect();
        let mut case = json!({"description": description, "token": token, "errors": errors});
        if let Some(keys) = keys {
            case["keys"] = keys;
        }
        cases.push(case);
    };
    add("signed with EdDSA", None, keys.sign(Algorithm::EdDsa, &ed_header, &claims()), &[]);
    add("signed with ES256", None, good.clone(), &[]);
    add("ES256, the other valid s (RFC 7518 permits both)", None, with_signature(&[r, &high].concat()), &[]);
    let mut delegated = claims();
    for (name, value) in [
        ("act", json!({"sub": "vectors", "act": {"sub": "planner"}})),
        ("ancestors", json!(["ap_0"])),
        ("cnf", json!({"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"})),
        ("req_wl", json!("spiffe://example.org/vectors")),
        ("tctx", json!({"order": 7})),
        ("txn", json!("ap_0")),
    ] {
        delegated[name] = value;
    }
    add(
        "ES256, exchanged and bound to a key, which a verifier of the token does not check",
        None,
        keys.sign(Algorithm::Es256, &es_header, &delegated),
        &[],
    );
    add(
        "ES256, expired",
        None,
        keys.sign(Algorithm::Es256, &es_header, &with(&claims(), "exp", json!(1_700_000_060))),
        &[PassportError::Expired],
    );
    add(
        "ES256, for another audience",
        None,
        keys.sign(Algorithm::Es256, &es_header, &with(&claims(), "aud", json!("mcp://other"))),
        &[PassportError::Audience],
    );

    // The algorithm belongs to the key.
    for (description, alg, kid, signer) in [
        ("alg EdDSA, key and signature ES256", "EdDSA", "p256", Algorithm::Es256),
        ("alg ES256, key and signature EdDSA", "ES256", "ed25519", Algorithm::EdDsa),
        ("alg and signature ES256, key EdDSA", "ES256", "ed25519", Algorithm::Es256),
        ("alg and signature EdDSA, key ES256", "EdDSA", "p256", Algorithm::EdDsa),
        ("alg ES384", "ES384", "p256", Algorithm::Es256),
        ("alg ES256K", "ES256K", "p256", Algorithm::Es256),
        ("alg Ed25519 (RFC 9864)", "Ed25519", "ed25519", Algorithm::EdDsa),
        ("alg es256", "es256", "p256", Algorithm::Es256),
        ("alg none", "none", "p256", Algorithm::Es256),
        ("alg HS256", "HS256", "p256", Algorithm::Es256),
    ] {
        let token = keys.sign(signer, &header(alg, kid), &claims());
        add(description, None, token, &[PassportError::Algorithm]);
    }
    add("alg HS256, keyed with the public point", None, hmac(&keys.point()), &[PassportError::Algorithm]);
    add("alg HS256, keyed with x", None, hmac(&bytes("x")), &[PassportError::Algorithm]);
    add(
        "alg is a list",
        None,
        keys.sign(Algorithm::Es256, &with(&es_header, "alg", json!(["ES256"])), &claims()),
        &[PassportError::Malformed],
    );
    add(
        "the token contains its own key",
        None,
        other.sign(Algorithm::Es256, &with(&es_header, "jwk", other.jwk(Algorithm::Es256)), &claims()),
        &[PassportError::Malformed],
    );
    add(
        "ES256, unknown kid",
        None,
        keys.sign(Algorithm::Es256, &header("ES256", "p257"), &claims()),
        &[PassportError::UnknownKey],
    );

    // Signatures.
    let signature = [PassportError::Signature];
    add("ES256 by another key", None, other.sign(Algorithm::Es256, &es_header, &claims()), &signature);
    add("EdDSA signature under ES256", None, keys.sign(Algorithm::EdDsa, &es_header, &claims()), &signature);
    add("ES256 signature under EdDSA", None, keys.sign(Algorithm::Es256, &ed_header, &claims()), &signature);
    let changed = encode(with(&claims(), "risk_tier", json!("high")).to_string());
    let parts: Vec<_> = good.split('.').collect();
    add("ES256, other claims", None, format!("{}.{changed}.{}", parts[0], parts[2]), &signature);
    let zero = [0; 32];
    for (description, r, s) in [
        ("r and s are zero (CVE-2022-21449)", &zero[..], &zero[..]),
        ("r is zero", &zero, s),
        ("s is zero", r, &zero),
        ("r is the order", &order, s),
        ("s is the order", r, &order),
        ("r and s are the order", &order, &order),
        ("r and s exchanged", s, r),
        ("r is 2^256 - 1", &[255; 32], s),
    ] {
        add(&format!("ES256, {description}"), None, with_signature(&[r, s].concat()), &signature);
    }
    add("ES256, in DER", None, with_signature(low.to_der().as_bytes()), &signature);
    add("ES256, of 63 bytes", None, with_signature(&low_bytes[..63]), &signature);
    add("ES256, of 65 bytes", None, with_signature(&[&low_bytes[..], &[0]].concat()), &signature);
    add("ES256, no signature", None, with_signature(&[]), &signature);
    // The identity as an Ed25519 key makes R = 1, S = 0 a signature of any message.
    let identity = [&[1_u8][..], &[0; 31]].concat();
    let weak = with(&ed25519, "x", json!(encode(&identity)));
    let anything =
        format!("{}.{}", signed_part(&ed_header, &claims()), encode([&identity[..], &zero].concat()));
    add("EdDSA, a key of small order", Some(json!([weak])), anything, &signature);

    // Keys.
    let unknown = [PassportError::UnknownKey];
    for (description, key) in [
        ("a point that is not on the curve: another y", with(&p256, "y", json!(shifted("y")))),
        ("a point that is not on the curve: another x", with(&p256, "x", json!(shifted("x")))),
        ("the point (0, 0)", with(&with(&p256, "x", json!(encode(zero))), "y", json!(encode(zero)))),
        ("x without its first byte", with(&p256, "x", json!(encode(&bytes("x")[1..])))),
        ("x with a leading zero", with(&p256, "x", json!(encode([&[0][..], &bytes("x")].concat())))),
        ("a byte of x moved to y", {
            let (x, y) = (bytes("x"), bytes("y"));
            let moved = encode([&x[31..], &y[..]].concat());
            with(&with(&p256, "x", json!(encode(&x[..31]))), "y", json!(moved))
        }),
        ("x with padding", with(&p256, "x", json!(format!("{}=", encode(bytes("x")))))),
        ("y is missing", with(&p256, "y", Value::Null)),
        ("a compressed point as x", {
            let point = keys.p256.verifying_key().to_sec1_point(true);
            with(&p256, "x", json!(encode(point.as_bytes())))
        }),
        ("another curve", with(&p256, "crv", json!("secp256k1"))),
        ("another kty", with(&p256, "kty", json!("OKP"))),
        ("a key for ES384", with(&p256, "alg", json!("ES384"))),
        ("a key for EdDSA", with(&p256, "alg", json!("EdDSA"))),
        ("alg is not a string", with(&p256, "alg", json!(["ES256"]))),
        ("a key for encryption", with(&p256, "use", json!("enc"))),
    ] {
        add(&format!("JWK: {description}"), Some(json!([key])), good.clone(), &unknown);
    }
    let mut plain = p256.clone();
    plain.as_object_mut().unwrap().retain(|name, _| name != "alg" && name != "use");
    add("JWK without alg and use", Some(json!([plain])), good.clone(), &[]);
    let named = with(&ed25519, "kid", json!("p256"));
    add("two keys with one kid: the first counts", Some(json!([p256, named])), good.clone(), &[]);
    add(
        "two keys with one kid: the first is EdDSA",
        Some(json!([named, p256])),
        good,
        &[PassportError::Algorithm],
    );
    json!({"issuer": ISSUER, "audience": AUDIENCE, "keys": [ed25519, p256], "cases": cases})
}

/// `one` - `two`, big-endian.
fn subtract(one: &[u8], two: &[u8]) -> Vec<u8> {
    let mut borrow = 0_i16;
    let mut digits: Vec<u8> = one
        .iter()
        .zip(two)
        .rev()
        .map(|(one, two)| {
            let digit = i16::from(*one) - i16::from(*two) - borrow;
            borrow = i16::from(digit < 0);
            u8::try_from(digit.rem_euclid(256)).unwrap()
        })
        .collect();
    digits.reverse();
    digits
}

#[test]
fn file_has_the_vectors() {
    let text = format!("{}\n", serde_json::to_string_pretty(&vectors()).unwrap());
    if std::env::var_os("ACTPASS_WRITE_VECTORS").is_some() {
        std::fs::create_dir_all(Path::new(FILE).parent().unwrap()).unwrap();
        std::fs::write(FILE, &text).unwrap();
    }
    assert!(std::fs::read_to_string(FILE).unwrap() == text, "differs: set ACTPASS_WRITE_VECTORS=1");
}

#[test]
fn verifies_vectors() {
    let file: Value = serde_json::from_str(&std::fs::read_to_string(FILE).unwrap()).unwrap();
    let presentation = Presentation {
        issuer: file["issuer"].as_str().unwrap(),
        audience: file["audience"].as_str(),
        tenant_id: None,
        agent_id: None,
        user_id: None,
    };
    let now = ValidationTime { now: 1_800_000_000, not_before_leeway: 0, expiry_leeway: 0 };
    for case in file["cases"].as_array().unwrap() {
        let keys = json!({"keys": case.get("keys").unwrap_or(&file["keys"])});
        let keys = PublicKey::parse_jwks(keys.to_string().as_bytes()).unwrap();
        let read = |token| {
            let unverified = Unverified::passport(token)?;
            let key =
                keys.iter().find(|key| key.kid() == unverified.kid()).ok_or(PassportError::UnknownKey)?;
            Claims::parse(&unverified.verify(key)?)
        };
        let errors = match read(case["token"].as_str().unwrap()) {
            Ok(claims) => claims.validate(&presentation, &now),
            Err(error) => vec![error],
        };
        let errors: Vec<_> = errors.into_iter().map(PassportError::code).collect();
        assert_eq!(json!(errors), case["errors"], "{}", case["description"]);
    }
}

#[test]
fn a_token_is_written_for_its_key() {
    let keys = Keys::of(7);
    let key = PublicKey::new("p256", Algorithm::Es256, &keys.point()).unwrap();
    let text = claims().to_string();
    let input = signing_input(TokenType::Passport, &key, &Json::parse(text.as_bytes()).unwrap());
    let token = format!("{input}.{}", encode(keys.low(&input).to_bytes()));
    assert!(token.starts_with(&encode(r#"{"alg":"ES256","kid":"p256","typ":"JWT"}"#)));
    assert!(Unverified::passport(&token).unwrap().verify(&key).is_ok());
}
