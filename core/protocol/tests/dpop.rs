//! DPoP: keys, thumbprints and proofs, verified with another implementation.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

use actpass_protocol::dpop::{DpopKey, Proof, access_token_hash, is_nonce};
use actpass_protocol::token::{Algorithm, PublicKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use serde_json::{Value, json};

/// RFC 8037, appendix A.
const ED25519_DER: &str = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g";
/// RFC 7515, appendix A.3, with the public key as openssl writes it.
const P256_DER: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgjpsQnnGQmL+YBIff\
    H1136cspYG6+0iY7X1fCE9+E9LKhRANCAAR/zc4ncPbEXUGDy+5v20t7WAczNXvp\
    7xO6z248e9FURcfxRM0bvZt+hyzf7bnuufSzaV1uqQskrYpGIyiFiOWt";

fn pem(label: &str, base64: &str) -> String {
    format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
}

fn key(der: &str) -> DpopKey {
    DpopKey::from_pem(&pem("PRIVATE KEY", der)).unwrap()
}

fn decoded(part: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(part).unwrap()
}

/// A proof's header and claims, if `algorithm` verifies its signature by the key in the header.
fn opened(proof: &str, algorithm: &'static dyn VerificationAlgorithm) -> (Value, Value) {
    let (signed, signature) = proof.rsplit_once('.').unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    let header: Value = serde_json::from_slice(&decoded(header)).unwrap();
    let coordinate = |name: &str| header["jwk"][name].as_str().map(decoded).unwrap_or_default();
    let public = match header["jwk"]["kty"].as_str() {
        Some("EC") => [vec![4], coordinate("x"), coordinate("y")].concat(),
        _ => coordinate("x"),
    };
    let key = UnparsedPublicKey::new(algorithm, public);
    key.verify(signed.as_bytes(), &decoded(signature)).expect("the signature is valid");
    (header, serde_json::from_slice(&decoded(claims)).unwrap())
}

const PROOF: Proof<'static> = Proof {
    id: "e1j3V_bKic8-LAEB",
    method: "POST",
    url: "https://gateway.example/base/api/v1/approvals/a%2Fb?wait=30#top",
    issued_at: 1_562_262_616,
    access_token_hash: None,
    nonce: None,
};

#[test]
fn ed25519_proof_has_the_claims_and_a_valid_signature() {
    let proof = key(ED25519_DER).prove(&PROOF).unwrap();
    let (header, claims) = opened(&proof, &ED25519);
    assert_eq!(
        header,
        json!({"typ": "dpop+jwt", "alg": "EdDSA",
            "jwk": {"crv": "Ed25519", "kty": "OKP", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}})
    );
    assert_eq!(
        claims,
        json!({"jti": "e1j3V_bKic8-LAEB", "htm": "POST", "iat": 1_562_262_616,
            "htu": "https://gateway.example/base/api/v1/approvals/a%2Fb"})
    );
}

#[test]
fn p256_proof_has_the_claims_and_a_valid_signature() {
    let ath = access_token_hash("apk_1234");
    let given = Proof { access_token_hash: Some(&ath), nonce: Some("n-1"), ..PROOF };
    let (header, claims) = opened(&key(P256_DER).prove(&given).unwrap(), &ECDSA_P256_SHA256_FIXED);
    assert_eq!(
        header,
        json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": {"crv": "P-256", "kty": "EC",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}})
    );
    assert_eq!((&claims["ath"], &claims["nonce"]), (&json!(ath), &json!("n-1")));
    assert_eq!(claims.as_object().unwrap().len(), 6, "{claims}");
}

#[test]
fn thumbprints_match_the_public_keys() {
    let ed25519 = key(ED25519_DER);
    assert_eq!(ed25519.algorithm(), Algorithm::EdDsa);
    // RFC 8037, appendix A.3.
    assert_eq!(ed25519.thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    let p256 = key(P256_DER);
    assert_eq!(p256.algorithm(), Algorithm::Es256);
    // The SHA-256 of the canonical JWK, computed with another implementation.
    assert_eq!(p256.thumbprint(), "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U");
    let x = decoded("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
    let public = PublicKey::new("any", Algorithm::EdDsa, &x).unwrap();
    assert_eq!(public.thumbprint(), ed25519.thumbprint());
}

#[test]
fn text_around_the_key_is_ignored() {
    let text =
        format!("Bag Attributes\r\n{}trailing\n", pem("PRIVATE KEY", ED25519_DER).replace('\n', "\r\n"));
    assert_eq!(DpopKey::from_pem(&text).unwrap().thumbprint(), key(ED25519_DER).thumbprint());
}

#[test]
fn public_key_in_the_private_key_is_optional() {
    // The key without its public key, and the attributes and public key of RFC 8410, section 10.3.
    let mut der = STANDARD.decode(P256_DER).unwrap();
    let whole = der.len();
    der.truncate(whole - 0x46);
    for (at, length) in [(2, 0x41), (28, 0x27), (30, 0x25)] {
        der[at] = length;
    }
    assert_eq!(key(&STANDARD.encode(der)).thumbprint(), key(P256_DER).thumbprint());
    let with_public = "MHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\
        oB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
    assert_eq!(key(with_public).algorithm(), Algorithm::EdDsa);
}

#[test]
fn other_keys_are_rejected_with_the_expected_form() {
    let x25519 = "MC4CAQAwBQYDK2VuBCIEIKAC23mmOPklAImriLr3lQjNNiSwEma3Wg9/aVby+DRS";
    let p384 = "MIG2AgEAMBAGByqGSM49AgEGBSuBBAAiBIGeMIGbAgEBBDCD3SWaMfeZLYd5Esjr6F0IGwuk0Ae5pIdocl9ThCYlV2M+\
        8SHPnoWVgl3smbB+/lShZANiAASJA99mP1cJpPoaDYSS3FUHRq8sXXs7VVNoJFKqSdb4MP9FD3v4SSAQBD8ZX1+P5BAysShCeK/W\
        9gJuXLAtaNEW+4SK/BSzzdDM7pDiLXJ8PRB9SgoKvuYOUpDTWDxUASw=";
    let zero = STANDARD.encode(
        [&STANDARD.decode(P256_DER).unwrap()[..36], &[0; 32], &STANDARD.decode(P256_DER).unwrap()[68..]]
            .concat(),
    );
    for (text, part) in [
        (String::new(), "found an empty string"),
        ("apk_1234".to_owned(), "expected a P-256 or Ed25519 private key in PKCS#8 PEM"),
        (ED25519_DER.to_owned(), "expected a P-256 or Ed25519 private key in PKCS#8 PEM"),
        (pem("ENCRYPTED PRIVATE KEY", ED25519_DER), "not encrypted"),
        (pem("EC PRIVATE KEY", ED25519_DER), "openssl pkcs8 -topk8 -nocrypt"),
        (pem("RSA PRIVATE KEY", ED25519_DER), "openssl pkcs8 -topk8 -nocrypt"),
        (pem("OPENSSH PRIVATE KEY", ED25519_DER), "found an OpenSSH key"),
        (pem("PUBLIC KEY", ED25519_DER), "found a public key"),
        (format!("-----BEGIN PRIVATE KEY-----\n{ED25519_DER}"), "truncated"),
        (pem("PRIVATE KEY", ED25519_DER).repeat(2), "found several"),
        (pem("PRIVATE KEY", "MC4CAQ!"), "invalid base64"),
        (pem("PRIVATE KEY", ""), "invalid DER"),
        (pem("PRIVATE KEY", ED25519_DER.strip_suffix("rn9g").unwrap()), "invalid DER"),
        (pem("PRIVATE KEY", &format!("{ED25519_DER}AAAA")), "invalid DER"),
        (pem("PRIVATE KEY", x25519), "found another type of key"),
        (pem("PRIVATE KEY", p384), "found another type of key"),
        // Not a scalar of the curve.
        (pem("PRIVATE KEY", &zero), "invalid DER"),
        (" ".repeat(20_000), "16 KiB"),
    ] {
        let error = DpopKey::from_pem(&text).expect_err(part);
        assert!(error.contains(part), "{error}");
        assert!(!error.contains("MC4CAQ") && !error.contains("apk_1234"), "{error}");
    }
}

#[test]
fn debug_shows_the_thumbprint_only() {
    let shown = format!("{:?}", key(ED25519_DER));
    assert_eq!(shown, r#"DpopKey { thumbprint: "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", .. }"#);
}

#[test]
fn nonces_have_the_characters_of_the_rfc() {
    assert!(is_nonce("!") && is_nonce(&"~".repeat(512)));
    for text in ["", " ", "a b", "\"", "\\", "é", "a\r\nb", &"~".repeat(513)] {
        assert!(!is_nonce(text), "{text:?}");
    }
}

proptest! {
    #[test]
    fn altered_keys_are_rejected_or_read_without_a_panic(
        at in 0usize..48, byte: u8, der in proptest::sample::select(vec![ED25519_DER, P256_DER]), cut in 0usize..160,
    ) {
        let mut bytes = STANDARD.decode(der).unwrap();
        bytes[at] = byte;
        bytes.truncate(cut.max(1));
        let _ = DpopKey::from_pem(&pem("PRIVATE KEY", &STANDARD.encode(bytes)));
    }

    #[test]
    fn claims_with_any_text_stay_json(id: String, url: String) {
        let proof = key(ED25519_DER).prove(&Proof { id: &id, url: &url, ..PROOF }).unwrap();
        let (_, claims) = opened(&proof, &ED25519);
        prop_assert_eq!(&claims["jti"], &json!(id));
        let path = url.split(['?', '#']).next().unwrap();
        prop_assert_eq!(&claims["htu"], &json!(path));
    }
}
