//! Verification of a provider's tokens: a compact JWS with a key of the provider.

use actpass_protocol::Json;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256,
    RsaPublicKeyComponents, UnparsedPublicKey,
};

/// Maximum length of a token in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// Permitted difference of clocks, in seconds.
const LEEWAY: i64 = 60;

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("is for another audience")]
    Audience,
    #[error("has expired")]
    Expired,
    #[error("was issued by another issuer")]
    Issuer,
    #[error("has no usable claims")]
    Malformed,
    #[error("does not belong to this sign-in")]
    Nonce,
    #[error("is not valid yet")]
    NotYetValid,
    #[error("has no valid signature")]
    Signature,
    #[error("is signed by an unknown key")]
    UnknownKey,
}

/// A provider's public key. Its type fixes the algorithms that may use it.
#[derive(Clone, Debug)]
struct Key {
    id: Option<String>,
    algorithm: Option<String>,
    material: Material,
}

#[derive(Clone, Debug)]
enum Material {
    Ed25519(Vec<u8>),
    P256(Vec<u8>),
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
}

/// A provider's public keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys(Vec<Key>);

impl Keys {
    /// Reads the usable signing keys of a JWK Set; `None` if it is invalid.
    pub(crate) fn parse(jwks: &Json) -> Option<Self> {
        let Some(Json::Array(keys)) = jwks.member("keys") else { return None };
        Some(Self(keys.iter().filter_map(Key::parse).collect()))
    }

    /// Verifies the signature of a token and returns its claims.
    pub(crate) fn verify(&self, token: &str) -> Result<Json, TokenError> {
        if token.len() > MAX_BYTES {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let header = object(header).ok_or(TokenError::Malformed)?;
        let claims = object(claims).ok_or(TokenError::Malformed)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Signature)?;
        let text = |name| header.member(name).and_then(Json::as_str);
        // An extension that must be understood is not.
        if header.member("crit").is_some() {
            return Err(TokenError::Malformed);
        }
        let (algorithm, id) = (text("alg").ok_or(TokenError::Malformed)?, text("kid"));
        let mut candidates = self
            .0
            .iter()
            .filter(|key| id.is_none() || key.id.as_deref() == id)
            .filter(|key| key.algorithm.as_deref().is_none_or(|fixed| fixed == algorithm))
            .peekable();
        if candidates.peek().is_none() {
            return Err(TokenError::UnknownKey);
        }
        let is_valid = candidates.any(|key| key.verifies(algorithm, signed.as_bytes(), &signature));
        is_valid.then_some(claims).ok_or(TokenError::Signature)
    }
}

impl Key {
    fn parse(jwk: &Json) -> Option<Self> {
        let text = |name: &str| jwk.member(name).and_then(Json::as_str);
        if text("use").is_some_and(|usage| usage != "sig") {
            return None;
        }
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        let material = match (text("kty")?, text("crv")) {
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes("x")?),
            ("EC", Some("P-256")) => Material::P256([vec![4], bytes("x")?, bytes("y")?].concat()),
            ("RSA", None) => Material::Rsa { modulus: bytes("n")?, exponent: bytes("e")? },
            _ => return None,
        };
        Some(Self { id: text("kid").map(str::to_owned), algorithm: text("alg").map(str::to_owned), material })
    }

    fn verifies(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        match (&self.material, algorithm) {
            (Material::Ed25519(key), "EdDSA" | "Ed25519") => {
                UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
            }
            (Material::P256(key), "ES256") => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(message, signature).is_ok()
            }
            (Material::Rsa { modulus, exponent }, "RS256" | "PS256") => {
                let parameters = match algorithm {
                    "RS256" => &RSA_PKCS1_2048_8192_SHA256,
                    _ => &RSA_PSS_2048_8192_SHA256,
                };
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(parameters, message, signature).is_ok()
            }
            _ => false,
        }
    }
}

/// The required claims of a token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) client_id: &'a str,
    /// In seconds since 1970.
    pub(crate) now: i64,
}

impl Expected<'_> {
    /// Checks issuer, audience and time.
    pub(crate) fn check(&self, claims: &Json) -> Result<(), TokenError> {
        let text = |name: &str| claims.member(name).and_then(Json::as_str);
        if text("iss") != Some(self.issuer) {
            return Err(TokenError::Issuer);
        }
        let (is_in, is_alone) = match claims.member("aud") {
            Some(Json::Array(audiences)) => {
                let is_in = audiences.iter().any(|audience| audience.as_str() == Some(self.client_id));
                (is_in, audiences.len() == 1)
            }
            Some(audience) => (audience.as_str() == Some(self.client_id), true),
            None => (false, false),
        };
        let is_authorized = match text("azp") {
            Some(party) => party == self.client_id,
            None => is_alone,
        };
        if !is_in || !is_authorized {
            return Err(TokenError::Audience);
        }
        let seconds = |name: &str| claims.member(name).and_then(whole_seconds);
        let expires = seconds("exp").ok_or(TokenError::Malformed)?;
        if self.now >= expires.saturating_add(LEEWAY) {
            return Err(TokenError::Expired);
        }
        let issued = seconds("iat").ok_or(TokenError::Malformed)?;
        let from = seconds("nbf").unwrap_or(issued).max(issued);
        if self.now.saturating_add(LEEWAY) < from {
            return Err(TokenError::NotYetValid);
        }
        Ok(())
    }
}

/// Reads a NumericDate; a fraction is cut off.
fn whole_seconds(value: &Json) -> Option<i64> {
    let Json::Number(number) = value else { return None };
    let text = number.as_str();
    text.split_once('.').map_or(text, |(whole, _)| whole).parse().ok()
}

fn object(part: &str) -> Option<Json> {
    let json = Json::parse(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()?;
    json.as_object().is_some().then_some(json)
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};

    use super::*;

    const CLAIMS: &str = r#"{"iss":"https://login.example","aud":"actpass","sub":"u","exp":1100,"iat":1000}"#;

    fn encode(bytes: impl AsRef<[u8]>) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn p256() -> (EcdsaKeyPair, String) {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        let point = pair.public_key().as_ref();
        let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
        (pair, format!(r#"{{"kty":"EC","crv":"P-256","kid":"p","use":"sig","x":"{x}","y":"{y}"}}"#))
    }

    fn token(pair: &EcdsaKeyPair, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", encode(signature.as_ref()))
    }

    fn keys(jwks: &[&str]) -> Keys {
        Keys::parse(&Json::parse(format!(r#"{{"keys":[{}]}}"#, jwks.join(",")).as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn signature_must_fit_key_and_algorithm() {
        let (pair, jwk) = p256();
        let (other, _) = p256();
        let known = keys(&[&jwk]);
        let good = token(&pair, r#"{"alg":"ES256","kid":"p"}"#, CLAIMS);
        assert_eq!(known.verify(&good).unwrap().to_string(), CLAIMS);
        assert!(known.verify(&token(&pair, r#"{"alg":"ES256"}"#, CLAIMS)).is_ok(), "without kid");
        for (token, expected) in [
            (token(&other, r#"{"alg":"ES256","kid":"p"}"#, CLAIMS), TokenError::Signature),
            (token(&pair, r#"{"alg":"ES256","kid":"q"}"#, CLAIMS), TokenError::UnknownKey),
            (token(&pair, r#"{"alg":"RS256","kid":"p"}"#, CLAIMS), TokenError::Signature),
            (token(&pair, r#"{"alg":"HS256","kid":"p"}"#, CLAIMS), TokenError::Signature),
            (token(&pair, r#"{"alg":"none","kid":"p"}"#, CLAIMS), TokenError::Signature),
            (token(&pair, r#"{"alg":"ES256","kid":"p","crit":["b64"]}"#, CLAIMS), TokenError::Malformed),
            (token(&pair, r#"{"alg":"ES256","alg":"none","kid":"p"}"#, CLAIMS), TokenError::Malformed),
            (token(&pair, r#"{"kid":"p"}"#, CLAIMS), TokenError::Malformed),
            (token(&pair, r#"{"alg":"ES256","kid":"p"}"#, "[]"), TokenError::Malformed),
            (format!("{}.", good.rsplit_once('.').unwrap().0), TokenError::Signature),
            (good.replacen('.', "", 1), TokenError::Malformed),
            ("a.b".to_owned(), TokenError::Malformed),
        ] {
            assert_eq!(known.verify(&token).unwrap_err(), expected, "{token}");
        }
        // A key for another algorithm, and one for encryption, are not used.
        assert!(keys(&[&jwk.replace("\"kid\"", "\"alg\":\"ES384\",\"kid\"")]).verify(&good).is_err());
        assert_eq!(keys(&[&jwk.replace("sig", "enc")]).verify(&good).unwrap_err(), TokenError::UnknownKey);

        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let x = encode(pair.public_key());
        let known = keys(&[&format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"e","x":"{x}"}}"#)]);
        let signed = format!("{}.{}", encode(r#"{"alg":"EdDSA","kid":"e"}"#), encode(CLAIMS));
        assert!(known.verify(&format!("{signed}.{}", encode(pair.sign(signed.as_bytes())))).is_ok());
    }

    #[test]
    fn claims_must_fit_issuer_audience_and_time() {
        let check = |claims: &str, now| {
            let claims = Json::parse(claims.as_bytes()).unwrap();
            Expected { issuer: "https://login.example", client_id: "actpass", now }.check(&claims)
        };
        for (now, expected) in [
            (1000, Ok(())),
            (940, Ok(())),
            (939, Err(TokenError::NotYetValid)),
            (1159, Ok(())),
            (1160, Err(TokenError::Expired)),
        ] {
            assert_eq!(check(CLAIMS, now), expected, "{now}");
        }
        for (from, to, expected) in [
            ("https://login.example", "https://login.example/", Err(TokenError::Issuer)),
            (r#""aud":"actpass""#, r#""aud":"other""#, Err(TokenError::Audience)),
            (r#""aud":"actpass""#, r#""aud":["actpass"]"#, Ok(())),
            (r#""aud":"actpass""#, r#""aud":["actpass","other"]"#, Err(TokenError::Audience)),
            (r#""aud":"actpass""#, r#""aud":["actpass","other"],"azp":"actpass""#, Ok(())),
            (r#""aud":"actpass""#, r#""aud":"actpass","azp":"other""#, Err(TokenError::Audience)),
            (r#""aud":"actpass","#, "", Err(TokenError::Audience)),
            (r#""exp":1100,"#, "", Err(TokenError::Malformed)),
            (r#""exp":1100"#, r#""exp":"1100""#, Err(TokenError::Malformed)),
            (r#""exp":1100"#, r#""exp":1100.9"#, Ok(())),
            (r#","iat":1000"#, "", Err(TokenError::Malformed)),
            (r#""iat":1000"#, r#""iat":1000,"nbf":1061"#, Err(TokenError::NotYetValid)),
        ] {
            assert_eq!(check(&CLAIMS.replace(from, to), 1000), expected, "{to}");
        }
    }
}
