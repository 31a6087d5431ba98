//! Public keys of tokens. A key fixes the algorithm of its signatures.

use std::fmt;

use ed25519_dalek::PUBLIC_KEY_LENGTH;
use p256::ecdsa::signature::Verifier;
use sha2::{Digest, Sha256};

use super::{MAX_JWKS_BYTES, PassportError, decode, encode};
use crate::json::Json;

/// The length of a coordinate of a P-256 point in bytes.
const COORDINATE_LENGTH: usize = 32;

/// The first byte of an uncompressed point (SEC 1).
const UNCOMPRESSED: u8 = 4;

/// An algorithm of signatures, by its JOSE name.
///
/// ```
/// use actpass_protocol::token::Algorithm;
///
/// assert_eq!(Algorithm::from_name("ES256"), Some(Algorithm::Es256));
/// assert_eq!(Algorithm::from_name("HS256"), None);
/// assert_eq!(Algorithm::EdDsa.to_string(), "EdDSA");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `EdDSA`: Ed25519 (RFC 8037).
    EdDsa,
    /// `ES256`: ECDSA with P-256 and SHA-256 (RFC 7518).
    Es256,
}

impl Algorithm {
    /// All algorithms.
    pub const ALL: [Self; 2] = [Self::EdDsa, Self::Es256];

    /// The algorithm with a name; `None` for an unknown one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    /// The value of `alg` in a JWS header and a JWK.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A public key that verifies tokens of one [`Algorithm`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    kid: String,
    material: Material,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    Ed25519([u8; PUBLIC_KEY_LENGTH]),
    P256(p256::ecdsa::VerifyingKey),
}

impl PublicKey {
    /// Creates the key `kid` of `algorithm`: 32 bytes for `EdDSA`, an uncompressed point (SEC 1, 65
    /// bytes) for `ES256`. Returns `None` for another length, or a point that is not on the curve.
    ///
    /// ```
    /// use actpass_protocol::token::{Algorithm, PublicKey};
    ///
    /// let key = PublicKey::new("k1", Algorithm::EdDsa, &[7; 32]).unwrap();
    /// assert_eq!(key.algorithm(), Algorithm::EdDsa);
    /// assert_eq!(PublicKey::new("k1", Algorithm::Es256, &[4; 65]), None);
    /// ```
    pub fn new(kid: impl Into<String>, algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        let material = match algorithm {
            Algorithm::EdDsa => Material::Ed25519(bytes.try_into().ok()?),
            Algorithm::Es256 => Material::P256(p256_key(bytes)?),
        };
        Some(Self { kid: kid.into(), material })
    }

    /// The key id.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The algorithm of the key's signatures.
    pub const fn algorithm(&self) -> Algorithm {
        match self.material {
            Material::Ed25519(_) => Algorithm::EdDsa,
            Material::P256(_) => Algorithm::Es256,
        }
    }

    /// The key in the form that [`PublicKey::new`] reads.
    ///
    /// ```
    /// use actpass_protocol::token::{Algorithm, PublicKey};
    ///
    /// let key = PublicKey::new("k1", Algorithm::EdDsa, &[7; 32]).unwrap();
    /// assert_eq!(key.to_bytes(), [7; 32]);
    /// ```
    pub fn to_bytes(&self) -> Vec<u8> {
        match &self.material {
            Material::Ed25519(bytes) => bytes.to_vec(),
            Material::P256(key) => key.to_sec1_point(false).as_bytes().to_vec(),
        }
    }

    /// Returns whether this key made the signature of the message, in the form of a JWS.
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        self.verify(message, signature).is_ok()
    }

    /// Verifies a JWS signature.
    ///
    /// An `ES256` signature is `r` and `s`, 32 bytes each. RFC 7518 permits both values of `s` that
    /// are valid for an `r`, so a token can have two signatures.
    pub(super) fn verify(&self, signed: &[u8], signature: &[u8]) -> Result<(), PassportError> {
        match &self.material {
            // Strict: a key of small order would accept a signature of any message.
            Material::Ed25519(bytes) => ed25519_dalek::Signature::from_slice(signature)
                .and_then(|signature| {
                    ed25519_dalek::VerifyingKey::from_bytes(bytes)?.verify_strict(signed, &signature)
                })
                .map_err(|_| PassportError::Signature),
            Material::P256(key) => p256::ecdsa::Signature::from_slice(signature)
                .and_then(|signature| key.verify(signed, &signature))
                .map_err(|_| PassportError::Signature),
        }
    }

    /// Whether `signature` is a DER signature of `message` by this P-256 key, as in WebAuthn.
    pub(crate) fn verifies_der(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Ed25519(_) => false,
            Material::P256(key) => p256::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
        }
    }

    /// The key as a JWK (RFC 8037, RFC 7518).
    pub fn to_jwk(&self) -> Json {
        let text = |name: &str, value: &str| (name.to_owned(), Json::from(value));
        let mut members = match &self.material {
            Material::Ed25519(bytes) => {
                vec![text("kty", "OKP"), text("crv", "Ed25519"), text("x", &encode(bytes))]
            }
            Material::P256(key) => {
                let [x, y] = coordinates(key);
                vec![text("kty", "EC"), text("crv", "P-256"), text("x", &x), text("y", &y)]
            }
        };
        members.extend([text("kid", &self.kid), text("alg", self.algorithm().as_str()), text("use", "sig")]);
        Json::Object(members)
    }

    /// Parses the Ed25519 and P-256 keys of a JWK Set of at most [`MAX_JWKS_BYTES`]. Keys of other
    /// types, algorithms or uses and invalid keys are skipped.
    ///
    /// # Errors
    ///
    /// The problem, to follow `expected a JWK Set:`.
    ///
    /// ```
    /// use actpass_protocol::token::{Algorithm, PublicKey};
    ///
    /// let key = PublicKey::new("k1", Algorithm::EdDsa, &[7; 32]).unwrap();
    /// let set = format!(r#"{{"keys": [{}, {{"kty": "RSA"}}]}}"#, key.to_jwk());
    /// assert_eq!(PublicKey::parse_jwks(set.as_bytes())?, [key]);
    /// assert!(PublicKey::parse_jwks(b"{}").is_err());
    /// # Ok::<(), &str>(())
    /// ```
    pub fn parse_jwks(text: &[u8]) -> Result<Vec<Self>, &'static str> {
        if text.len() > MAX_JWKS_BYTES {
            return Err("the JWK Set is larger than 64 KiB");
        }
        let set = Json::parse(text).map_err(|_| "not JSON, or a duplicate key")?;
        match set.member("keys") {
            Some(Json::Array(keys)) => Ok(keys.iter().filter_map(Self::parse_jwk).collect()),
            Some(_) | None => Err("missing list `keys`"),
        }
    }

    pub(crate) fn parse_jwk(key: &Json) -> Option<Self> {
        if !is_absent_or(key, "use", &["sig"]) {
            return None;
        }
        let (algorithm, names, material) = jwk_material(key).ok()?;
        is_absent_or(key, "alg", names).then_some(())?;
        Self::new(jwk_text(key, "kid")?, algorithm, &material)
    }

    /// Parses a JWK with public members only, as in the header of a DPoP proof. The key id is the
    /// [`PublicKey::thumbprint`]; `kid` is ignored.
    ///
    /// # Errors
    ///
    /// The problem, with the member's name: a private member, another key type or algorithm, or an
    /// invalid coordinate.
    ///
    /// ```
    /// use actpass_protocol::Json;
    /// use actpass_protocol::token::PublicKey;
    ///
    /// let jwk = r#"{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    /// let key = PublicKey::from_public_jwk(&Json::parse(jwk.as_bytes()).unwrap())?;
    /// assert_eq!(key.thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    /// # Ok::<(), String>(())
    /// ```
    pub fn from_public_jwk(key: &Json) -> Result<Self, String> {
        if let Some(name) = PRIVATE_MEMBERS.into_iter().find(|name| key.member(name).is_some()) {
            return Err(format!("{name}: expected a public key, found a private or symmetric one"));
        }
        let (algorithm, names, material) = jwk_material(key)?;
        if !is_absent_or(key, "alg", names) {
            return Err(format!("alg: expected {}, or no member", algorithm.as_str()));
        }
        let unnamed = Self::new("", algorithm, &material);
        let unnamed = unnamed.ok_or("x: expected 32 bytes of an Ed25519 key, or x and y of a P-256 point")?;
        Ok(Self { kid: unnamed.thumbprint(), ..unnamed })
    }

    /// Computes the thumbprint (RFC 7638, SHA-256) in base64url: 43 characters.
    pub fn thumbprint(&self) -> String {
        encode(Sha256::digest(self.required_members()))
    }

    /// The key as a JWK with the members that RFC 7638 and RFC 8037 require only, in lexicographic
    /// order, without spaces.
    pub(crate) fn required_members(&self) -> String {
        match &self.material {
            Material::Ed25519(bytes) => {
                format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, encode(bytes))
            }
            Material::P256(key) => {
                let [x, y] = coordinates(key);
                format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#)
            }
        }
    }
}

/// The members of private and symmetric keys (RFC 7518, RFC 8037).
const PRIVATE_MEMBERS: [&str; 8] = ["d", "dp", "dq", "k", "oth", "p", "q", "qi"];

fn jwk_text<'k>(key: &'k Json, name: &str) -> Option<&'k str> {
    key.member(name).and_then(Json::as_str)
}

fn is_absent_or(key: &Json, name: &str, permitted: &[&str]) -> bool {
    key.member(name).is_none_or(|value| value.as_str().is_some_and(|value| permitted.contains(&value)))
}

/// Returns the algorithm of a JWK, its names in `alg`, and the key as [`PublicKey::new`] reads it.
fn jwk_material(key: &Json) -> Result<(Algorithm, &'static [&'static str], Vec<u8>), &'static str> {
    let bytes = |name: &str| decode(jwk_text(key, name)?).ok();
    match (jwk_text(key, "kty"), jwk_text(key, "crv")) {
        // RFC 9864 names the curve.
        (Some("OKP"), Some("Ed25519")) => {
            let x = bytes("x").ok_or("x: expected base64url without padding")?;
            Ok((Algorithm::EdDsa, &["EdDSA", "Ed25519"], x))
        }
        (Some("EC"), Some("P-256")) => {
            let coordinate = |bytes: Option<Vec<u8>>| bytes.filter(|bytes| bytes.len() == COORDINATE_LENGTH);
            let x = coordinate(bytes("x")).ok_or("x: expected 32 bytes in base64url without padding")?;
            let y = coordinate(bytes("y")).ok_or("y: expected 32 bytes in base64url without padding")?;
            Ok((Algorithm::Es256, &["ES256"], [vec![UNCOMPRESSED], x, y].concat()))
        }
        _ => Err("kty: expected EC with crv P-256, or OKP with crv Ed25519"),
    }
}

/// Returns the coordinates of a point in base64url.
fn coordinates(key: &p256::ecdsa::VerifyingKey) -> [String; 2] {
    let point = key.to_sec1_point(false);
    [point.x(), point.y()].map(|bytes| bytes.map(encode).unwrap_or_default())
}

/// Parses an uncompressed point of the curve.
fn p256_key(bytes: &[u8]) -> Option<p256::ecdsa::VerifyingKey> {
    if bytes.len() != 1 + 2 * COORDINATE_LENGTH || bytes.first() != Some(&UNCOMPRESSED) {
        return None;
    }
    p256::ecdsa::VerifyingKey::from_sec1_bytes(bytes).ok()
}
