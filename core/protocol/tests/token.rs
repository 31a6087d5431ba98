//! Passport tokens: form, signature, claims, and interoperability with another JWT library.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Once;

use actpass_protocol::Json;
use actpass_protocol::token::{
    Algorithm, Claims, MAX_BYTES, MAX_JWKS_BYTES, PassportError, Presentation, PublicKey, TokenType,
    Unverified, ValidationTime, encode, signing_input,
};
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::signature::{self, Signer, Verifier};
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

const HEADER: &str = r#"{"alg":"EdDSA","kid":"k1","typ":"JWT"}"#;
const CLAIMS: &str = r#"{"iss":"i","aud":"a","tenant_id":"t","agent_id":"g","user_id":null,"goal":"w","allowed_tools":["x","y"],"allowed_resources":["r"],"resource_constraints":{"max_amount":10000},"risk_tier":"low","iat":100,"exp":200,"jti":"ap_1"}"#;

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn key() -> PublicKey {
    PublicKey::new("k1", Algorithm::EdDsa, pair(7).public_key().as_ref()).unwrap()
}

fn sign_with(pair: &Ed25519KeyPair, header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", encode(header), encode(claims));
    format!("{signed}.{}", encode(pair.sign(signed.as_bytes())))
}

fn sign(header: &str, claims: &str) -> String {
    sign_with(&pair(7), header, claims)
}

fn open(token: &str) -> Result<Claims, PassportError> {
    Claims::parse(&Unverified::passport(token)?.verify(&key())?)
}

#[test]
fn accepts_the_one_valid_form() {
    for header in [HEADER, r#" { "kid" : "k1", "alg" : "EdDSA" } "#] {
        assert_eq!(open(&sign(header, CLAIMS)).unwrap().jti(), "ap_1");
    }
    let written = signing_input(TokenType::Passport, &key(), &Json::parse(CLAIMS.as_bytes()).unwrap());
    assert_eq!(sign(HEADER, CLAIMS).rsplit_once('.').unwrap().0, written);
    assert_eq!(open(&sign(HEADER, CLAIMS)).unwrap().as_json().to_string(), CLAIMS);
}

#[test]
fn limits_token_and_jwks_size() {
    for (length, expected) in [(MAX_BYTES, true), (MAX_BYTES + 1, false)] {
        // Base64 cannot have every length; white space in the header adjusts it.
        let token = (0..4)
            .flat_map(|spaces| {
                let header = format!("{HEADER}{}", " ".repeat(spaces));
                (MAX_BYTES / 4 * 3 - 500..MAX_BYTES / 4 * 3).map(move |long| (header.clone(), long))
            })
            .find(|(header, claims)| encode(header).len() + 2 + (claims * 4).div_ceil(3) + 86 == length)
            .map(|(header, claims)| {
                sign(&header, &CLAIMS.replace("\"w\"", &padded(claims - CLAIMS.len() + 1)))
            })
            .unwrap();
        assert_eq!(token.len(), length);
        assert_eq!(open(&token).map_err(|refusal| refusal == PassportError::Malformed).is_ok(), expected);
    }
    for (length, expected) in [(MAX_JWKS_BYTES, true), (MAX_JWKS_BYTES + 1, false)] {
        let set = format!("{{\"keys\": [], \"x\": {}}}", padded(length - 21));
        assert_eq!(set.len(), length);
        assert_eq!(PublicKey::parse_jwks(set.as_bytes()).is_ok(), expected);
    }
}

/// A JSON string of this many bytes, without its quotes.
fn padded(length: usize) -> String {
    format!("\"{}\"", "x".repeat(length))
}

#[test]
fn rejects_unknown_header_members() {
    for (header, refusal) in [
        (r#"{"alg": "none", "kid": "k1"}"#, PassportError::Algorithm),
        (r#"{"alg": "HS256", "kid": "k1"}"#, PassportError::Algorithm),
        (r#"{"alg": "RS256"}"#, PassportError::Algorithm),
        (r#"{"alg": "eddsa", "kid": "k1"}"#, PassportError::Algorithm),
        (r#"{"alg": "Ed25519", "kid": "k1"}"#, PassportError::Algorithm),
        (r#"{"alg": "ES256", "kid": "k1"}"#, PassportError::Algorithm),
        (r#"{"alg": "ES256", "kid": "k2"}"#, PassportError::UnknownKey),
        (r#"{"alg": "ES384", "kid": "k1"}"#, PassportError::Algorithm),
        (r#"{"alg": ["EdDSA"], "kid": "k1"}"#, PassportError::Malformed),
        (r#"{"alg": {"EdDSA": null}, "kid": "k1"}"#, PassportError::Malformed),
        (r#"{"kid": "k1"}"#, PassportError::Malformed),
        (r#"{"alg": "EdDSA"}"#, PassportError::Malformed),
        (r#"{"alg": "EdDSA", "kid": ""}"#, PassportError::Malformed),
        (r#"{"alg": "EdDSA", "kid": null}"#, PassportError::Malformed),
        (r#"{"alg": "EdDSA", "kid": 1}"#, PassportError::Malformed),
        (r#"{"alg": "EdDSA", "kid": "k2"}"#, PassportError::UnknownKey),
        (r#"{"alg": "EdDSA", "alg": "EdDSA", "kid": "k1"}"#, PassportError::Malformed),
        (r#"{"alg": "EdDSA", "kid": "k1", "\u006bid": "k1"}"#, PassportError::Malformed),
        (r#"{"alg": "EdDSA", "kid": "k1", "crit": ["b64"], "b64": false}"#, PassportError::Malformed),
        (r#"{"alg": "EdDSA", "kid": "k1", "crit": null}"#, PassportError::Malformed),
        (r#"{"alg": "EdDSA", "kid": "k1", "jwk": {}}"#, PassportError::Malformed),
        (r#"{"alg": "EdDSA", "kid": "k1", "jku": "https://elsewhere"}"#, PassportError::Malformed),
        (r#"{"alg": "EdDSA", "kid": "k1", "x5c": []}"#, PassportError::Malformed),
        (r#"{"alg": "EdDSA", "kid": "k1", "b64": false}"#, PassportError::Malformed),
        (r#"{"alg": "EdDSA", "kid": "k1", "typ": "other"}"#, PassportError::Malformed),
        (r#"{"alg": "EdDSA", "kid": "k1", "typ": null}"#, PassportError::Malformed),
        ("[]", PassportError::Malformed),
        ("", PassportError::Malformed),
    ] {
        assert_eq!(open(&sign(header, CLAIMS)).unwrap_err(), refusal, "{header}");
    }
}

#[test]
fn rejects_malformed_parts() {
    let whole = sign(HEADER, CLAIMS);
    let spare = {
        // The last character has four insignificant bits.
        let (start, last) = whole.split_at(whole.len() - 1);
        format!("{start}{}", char::from(last.as_bytes()[0] + 1))
    };
    for wrong in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        whole.replace('.', ""),
        whole.replacen('.', "", 1),
        format!("{whole}."),
        format!("{whole}.{whole}"),
        format!("{whole}="),
        format!("{whole} "),
        format!(" {whole}"),
        format!("{whole}\n"),
        spare,
        "x".repeat(MAX_BYTES + 1),
    ] {
        assert_eq!(open(&wrong).unwrap_err(), PassportError::Malformed, "{wrong:?}");
    }
    let (signed, _) = whole.rsplit_once('.').unwrap();
    for short in [String::new(), encode([7; 63]), encode([7; 64]), encode([0; 64])] {
        assert_eq!(open(&format!("{signed}.{short}")).unwrap_err(), PassportError::Signature);
    }
}

#[test]
fn verifies_only_with_the_named_key() {
    assert_eq!(open(&sign_with(&pair(8), HEADER, CLAIMS)).unwrap_err(), PassportError::Signature);
    let other = PublicKey::new("k2", Algorithm::EdDsa, pair(7).public_key().as_ref()).unwrap();
    let token = sign(HEADER, CLAIMS);
    let passport = Unverified::passport(&token).unwrap();
    assert_eq!(passport.verify(&other).unwrap_err(), PassportError::UnknownKey);
}

#[test]
fn rejects_other_token_types() {
    let claims = Json::parse(CLAIMS.as_bytes()).unwrap();
    for (typ, is_passport, is_head) in [
        (Some(TokenType::Passport), true, false),
        (Some(TokenType::ChainHead), false, true),
        (None, true, false),
    ] {
        let input = match typ {
            Some(typ) => signing_input(typ, &key(), &claims),
            None => format!("{}.{}", encode(r#"{"alg":"EdDSA","kid":"k1"}"#), encode(CLAIMS)),
        };
        let token = format!("{input}.{}", encode(pair(7).sign(input.as_bytes())));
        assert_eq!(Unverified::passport(&token).is_ok(), is_passport, "{typ:?}");
        assert_eq!(Unverified::chain_head(&token).is_ok(), is_head, "{typ:?}");
    }
}

#[test]
fn requires_every_claim() {
    let malformed =
        |claims: String| Claims::parse(claims.as_bytes()).unwrap_err() == PassportError::Malformed;
    let Json::Object(members) = Json::parse(CLAIMS.as_bytes()).unwrap() else { panic!() };
    for at in 0..members.len() {
        let mut fewer = members.clone();
        fewer.remove(at);
        assert!(malformed(Json::Object(fewer).to_string()), "{}", members[at].0);
        let mut other = members.clone();
        other[at].1 = Json::Bool(true);
        assert!(malformed(Json::Object(other).to_string()), "{}", members[at].0);
    }
    for (from, to) in [
        ("200", "2e2"),
        ("200", "\"200\""),
        ("200", "200.5"),
        ("200", "200,\"exp\":900"),
        ("\"aud\":\"a\"", "\"aud\":[\"a\"]"),
        ("[\"r\"]", "[1]"),
        ("\"jti\"", "\"nbf\":\"1\",\"jti\""),
        ("\"jti\"", "\"approval_hash\":1,\"jti\""),
        ("\"jti\"", "\"approval_request_id\":\"apr_1\",\"jti\""),
        ("\"jti\"", "\"approval_hash\":null,\"approval_request_id\":\"apr_1\",\"jti\""),
        ("}", ""),
        ("low\"", "low\",\"iss\":1"),
        ("low\"", "low\",\"new\":1,\"new\":1"),
    ] {
        assert!(malformed(CLAIMS.replace(from, to)), "{to}");
    }
    for more in ["\"approval_hash\":null", "\"approval_hash\":\"h\"", "\"new\":[1]", "\"nbf\":1"] {
        let claims = CLAIMS.replace("\"jti\"", &format!("{more},\"jti\""));
        assert!(Claims::parse(claims.as_bytes()).is_ok(), "{more}");
    }
}

const PRESENTATION: Presentation<'static> = Presentation {
    issuer: "i",
    audience: Some("a"),
    tenant_id: Some("t"),
    agent_id: Some(Some("g")),
    user_id: Some(None),
};

fn at(now: i64) -> ValidationTime {
    ValidationTime { now, not_before_leeway: 5, expiry_leeway: 3 }
}

#[test]
fn validates_presentation() {
    let claims = Claims::parse(CLAIMS.as_bytes()).unwrap();
    assert_eq!(claims.validate(&PRESENTATION, &at(150)), []);
    let any = Presentation { tenant_id: None, agent_id: None, user_id: None, ..PRESENTATION };
    assert_eq!(claims.validate(&any, &at(150)), []);
    for (presentation, refusal) in [
        (Presentation { issuer: "j", ..PRESENTATION }, PassportError::Issuer),
        (Presentation { audience: Some("b"), ..PRESENTATION }, PassportError::Audience),
        (Presentation { tenant_id: Some("u"), ..PRESENTATION }, PassportError::Tenant),
        (Presentation { agent_id: Some(Some("h")), ..PRESENTATION }, PassportError::Agent),
        (Presentation { agent_id: Some(None), ..PRESENTATION }, PassportError::Agent),
        (Presentation { user_id: Some(Some("u")), ..PRESENTATION }, PassportError::User),
    ] {
        assert_eq!(claims.validate(&presentation, &at(150)), [refusal], "{presentation:?}");
    }
    let all = claims.validate(&Presentation { issuer: "j", audience: Some("b"), ..PRESENTATION }, &at(300));
    assert_eq!(all, [PassportError::Issuer, PassportError::Audience, PassportError::Expired]);
}

#[test]
fn applies_leeway_exactly() {
    let claims = Claims::parse(CLAIMS.as_bytes()).unwrap();
    for (now, refused) in [
        (94, Some(PassportError::NotYetValid)),
        (95, None),
        (199, None),
        (202, None),
        (203, Some(PassportError::Expired)),
        (i64::MAX, Some(PassportError::Expired)),
        (i64::MIN, Some(PassportError::NotYetValid)),
    ] {
        assert_eq!(claims.validate(&PRESENTATION, &at(now)), Vec::from_iter(refused), "{now}");
    }
    let strict = ValidationTime { now: 200, not_before_leeway: 0, expiry_leeway: 0 };
    assert_eq!(claims.validate(&PRESENTATION, &strict), [PassportError::Expired]);
    let later = CLAIMS.replace("\"jti\"", "\"nbf\":151,\"jti\"");
    let later = Claims::parse(later.as_bytes()).unwrap();
    assert_eq!(later.validate(&PRESENTATION, &at(145)), [PassportError::NotYetValid]);
    assert_eq!(later.validate(&PRESENTATION, &at(146)), []);
}

#[test]
fn keeps_only_usable_keys_of_a_jwks() {
    let x = encode([7; 32]);
    let set = format!(
        r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"good","x":"{x}"}},{{"kty":"OKP","crv":"X25519","kid":"b","x":"{x}"}},
        {{"kty":"oct","kid":"c","k":"AA"}},{{"kty":"OKP","crv":"Ed25519","kid":"d","x":"AA"}},{{"kty":"OKP","crv":"Ed25519","x":"{x}"}},
        {{"kty":"OKP","crv":"Ed25519","kid":"e","x":"{x}","use":"enc"}},7]}}"#
    );
    let keys = PublicKey::parse_jwks(set.as_bytes()).unwrap();
    assert_eq!(keys.iter().map(PublicKey::kid).collect::<Vec<_>>(), ["good"]);
    let large = format!("{{\"keys\": [], \"x\": \"{}\"}}", "x".repeat(64 * 1024));
    for wrong in ["{}", "[]", "", r#"{"keys": {}}"#, r#"{"keys": [], "keys": []}"#, &large] {
        assert!(PublicKey::parse_jwks(wrong.as_bytes()).is_err(), "{wrong:.40}");
    }
}

/// Replaces, removes, inserts and truncates at every byte, with a seed.
#[test]
fn any_changed_byte_invalidates_a_passport() {
    let token = sign(HEADER, CLAIMS);
    assert!(open(&token).is_ok() && others_read(&token).is_some());
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \n\0";
    let mut refused = 0;
    for at in 0..token.len() {
        for change in 0..8 {
            let mut bytes = token.clone().into_bytes();
            let other = alphabet[usize::try_from(next()).unwrap() % alphabet.len()];
            match change {
                0 => drop(bytes.remove(at)),
                1 => bytes.insert(at, other),
                2 => bytes.truncate(at),
                _ => bytes[at] = other,
            }
            let changed = String::from_utf8(bytes).unwrap();
            if changed != token {
                assert!(open(&changed).is_err(), "{at} {change}: {changed}");
                refused += 1;
            }
        }
    }
    assert!(refused > token.len() * 7, "{refused}");
}

#[test]
fn jsonwebtoken_reads_our_tokens() {
    let input = signing_input(TokenType::Passport, &key(), &Json::parse(CLAIMS.as_bytes()).unwrap());
    let token = format!("{input}.{}", encode(pair(7).sign(input.as_bytes())));
    let claims = Json::parse(CLAIMS.as_bytes()).unwrap();
    assert!(others_read(&token).unwrap().same_value(&claims));
    for forged in [
        sign(r#"{"alg":"none","kid":"k1"}"#, CLAIMS),
        sign(r#"{"alg":"HS256","kid":"k1"}"#, CLAIMS),
        sign_with(&pair(8), HEADER, CLAIMS),
        token.replace('.', ""),
    ] {
        assert!(others_read(&forged).is_none() && open(&forged).is_err(), "{forged}");
    }
}

#[test]
fn reads_tokens_from_jsonwebtoken() {
    install();
    let header = Header { kid: Some("k1".to_owned()), ..Header::new(jsonwebtoken::Algorithm::EdDSA) };
    let claims: serde_json::Value = serde_json::from_str(CLAIMS).unwrap();
    let seed = EncodingKey::from_ed_der(&[7; 32]);
    let token = jsonwebtoken::encode(&header, &claims, &seed).unwrap();
    assert_eq!(open(&token).unwrap().jti(), "ap_1");
    let nameless =
        jsonwebtoken::encode(&Header::new(jsonwebtoken::Algorithm::EdDSA), &claims, &seed).unwrap();
    assert_eq!(open(&nameless).unwrap_err(), PassportError::Malformed);
}

/// The claims as a general JWT library reads the token, restricted to EdDSA.
fn others_read(token: &str) -> Option<Json> {
    install();
    let mut wanted = Validation::new(jsonwebtoken::Algorithm::EdDSA);
    wanted.required_spec_claims.clear();
    (wanted.validate_exp, wanted.validate_aud) = (false, false);
    let key = DecodingKey::from_ed_der(pair(7).public_key().as_ref());
    let read = jsonwebtoken::decode::<serde_json::Value>(token, &key, &wanted).ok()?;
    let header = read.header;
    assert_eq!((header.alg, header.kid.as_deref()), (jsonwebtoken::Algorithm::EdDSA, Some("k1")));
    Some(Json::from(read.claims))
}

/// The library has no Ed25519 backend here, so it uses `ring`'s.
fn install() {
    static PROVIDER: CryptoProvider = CryptoProvider {
        signer_factory: |_, key| Ok(Box::new(Lent(key.as_bytes().to_vec()))),
        verifier_factory: |_, key| Ok(Box::new(Lent(key.try_get_as_bytes()?.to_vec()))),
        key_utils: KeyUtils::new_unimplemented(),
    };
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| PROVIDER.install_default().unwrap());
}

struct Lent(Vec<u8>);

impl Signer<Vec<u8>> for Lent {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&self.0).map_err(|_| signature::Error::new())?;
        Ok(pair.sign(message).as_ref().to_vec())
    }
}

impl Verifier<Vec<u8>> for Lent {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        key.verify(message, signature).map_err(|_| signature::Error::new())
    }
}

impl JwtSigner for Lent {
    fn algorithm(&self) -> jsonwebtoken::Algorithm {
        jsonwebtoken::Algorithm::EdDSA
    }
}

impl JwtVerifier for Lent {
    fn algorithm(&self) -> jsonwebtoken::Algorithm {
        jsonwebtoken::Algorithm::EdDSA
    }
}
