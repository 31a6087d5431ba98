//! Compact JWS, as narrow as it can be: three parts of base64url without padding, a header of `alg`, `kid` and `typ`
//! alone, and EdDSA.

use actpass_core::Json;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Refusal;

/// The longest token that is looked at, in bytes.
pub const MAX_BYTES: usize = 32 * 1024;

/// The one algorithm.
pub const ALGORITHM: &str = "EdDSA";

/// A token whose form was checked, and nothing else: nothing in it is known to be true.
#[derive(Debug)]
pub struct Unverified<'t> {
    /// Which key is said to have signed it.
    pub kid: String,
    /// What is signed.
    pub signed: &'t [u8],
    /// The signature.
    pub signature: Vec<u8>,
    /// The bytes of the claims.
    pub payload: Vec<u8>,
}

impl<'t> Unverified<'t> {
    /// Takes a token apart.
    ///
    /// # Errors
    ///
    /// [`Refusal::Algorithm`] if it is a JWS of another algorithm, whatever else is wrong with it; else
    /// [`Refusal::Malformed`] for anything but the one form: padding, spare bits, white space, an unknown or repeated
    /// member of the header.
    pub fn read(token: &'t str) -> Result<Self, Refusal> {
        if token.len() > MAX_BYTES {
            return Err(Refusal::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Refusal::Malformed)?;
        let kid = read_header(&decode(header)?)?;
        let (payload, signature) = (decode(payload)?, decode(signature)?);
        Ok(Self { kid, signed: signed.as_bytes(), signature, payload })
    }
}

/// Writes the part of a token that is signed.
pub fn signing_input(kid: &str, claims: &Json) -> String {
    let header = Json::Object(vec![
        ("alg".to_owned(), Json::from(ALGORITHM)),
        ("kid".to_owned(), Json::from(kid)),
        ("typ".to_owned(), Json::from("JWT")),
    ]);
    format!("{}.{}", encode(header.to_string()), encode(claims.to_string()))
}

/// Base64url without padding.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn decode(part: &str) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Malformed)
}

fn read_header(bytes: &[u8]) -> Result<String, Refusal> {
    let header = Json::parse(bytes).map_err(|_| Refusal::Malformed)?;
    let text = |name| header.member(name).and_then(Json::as_str);
    if text("alg").ok_or(Refusal::Malformed)? != ALGORITHM {
        return Err(Refusal::Algorithm);
    }
    let members = header.as_object().unwrap_or_default();
    let known = members.iter().all(|(name, value)| match name.as_str() {
        "alg" | "kid" => true,
        "typ" => value.as_str() == Some("JWT"),
        // Such as `crit`, which asks to be understood, or `jwk`, which brings its own key.
        _ => false,
    });
    match text("kid") {
        Some(kid) if known && !kid.is_empty() => Ok(kid.to_owned()),
        Some(_) | None => Err(Refusal::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str) -> String {
        format!("{}.{}.{}", encode(header), encode("{}"), encode([7; 64]))
    }

    #[test]
    fn the_one_form_is_read() {
        let whole = token(r#"{"alg": "EdDSA", "kid": "k", "typ": "JWT"}"#);
        let read = Unverified::read(&whole).unwrap();
        assert_eq!((read.kid.as_str(), read.payload.as_slice()), ("k", b"{}".as_slice()));
        assert_eq!((read.signature.as_slice(), read.signed.len()), ([7; 64].as_slice(), whole.len() - 87));
        assert!(Unverified::read(&token(r#"{"kid": "k", "alg": "EdDSA"}"#)).is_ok());
    }

    #[test]
    fn headers_are_closed() {
        for (header, refusal) in [
            (r#"{"alg": "none", "kid": "k"}"#, Refusal::Algorithm),
            (r#"{"alg": "HS256", "kid": "k"}"#, Refusal::Algorithm),
            (r#"{"alg": "RS256"}"#, Refusal::Algorithm),
            (r#"{"alg": "eddsa", "kid": "k"}"#, Refusal::Algorithm),
            (r#"{"alg": "Ed25519", "kid": "k"}"#, Refusal::Algorithm),
            (r#"{"alg": ["EdDSA"], "kid": "k"}"#, Refusal::Malformed),
            (r#"{"kid": "k"}"#, Refusal::Malformed),
            (r#"{"alg": "EdDSA"}"#, Refusal::Malformed),
            (r#"{"alg": "EdDSA", "kid": ""}"#, Refusal::Malformed),
            (r#"{"alg": "EdDSA", "kid": 1}"#, Refusal::Malformed),
            (r#"{"alg": "EdDSA", "alg": "EdDSA", "kid": "k"}"#, Refusal::Malformed),
            (r#"{"alg": "EdDSA", "kid": "k", "crit": ["x"]}"#, Refusal::Malformed),
            (r#"{"alg": "EdDSA", "kid": "k", "jwk": {}}"#, Refusal::Malformed),
            (r#"{"alg": "EdDSA", "kid": "k", "b64": false}"#, Refusal::Malformed),
            (r#"{"alg": "EdDSA", "kid": "k", "typ": "other"}"#, Refusal::Malformed),
            ("[]", Refusal::Malformed),
            ("", Refusal::Malformed),
        ] {
            assert_eq!(Unverified::read(&token(header)).unwrap_err(), refusal, "{header}");
        }
    }

    #[test]
    fn parts_are_closed() {
        let whole = token(r#"{"alg": "EdDSA", "kid": "k"}"#);
        for wrong in [
            String::new(),
            ".".to_owned(),
            "..".to_owned(),
            whole.replace('.', ""),
            whole.replacen('.', "", 1),
            format!("{whole}."),
            format!("{whole}="),
            format!("{whole} "),
            format!(" {whole}"),
            format!("{whole}\n"),
            whole.strip_suffix('w').map(|start| format!("{start}x")).unwrap(),
            "x".repeat(MAX_BYTES + 1),
        ] {
            assert_eq!(Unverified::read(&wrong).unwrap_err(), Refusal::Malformed, "{wrong:?}");
        }
    }
}
