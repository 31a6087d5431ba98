//! DPoP proofs (RFC 9449), as a server verifies them.

use std::fmt;

use super::key::{Algorithm, PublicKey};
use super::{decode, seconds};
use crate::dpop::PROOF_TYPE;
use crate::json::Json;

/// The maximum length of a proof in bytes.
pub const MAX_PROOF_BYTES: usize = 8 * 1024;

/// Why a proof is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidProof {
    /// The member of the header or the claims; `DPoP` for the whole proof.
    pub member: &'static str,
    /// The problem.
    pub problem: String,
}

impl InvalidProof {
    /// Creates the error of a member.
    pub fn new(member: &'static str, problem: impl fmt::Display) -> Self {
        Self { member, problem: problem.to_string() }
    }
}

impl fmt::Display for InvalidProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.member, self.problem)
    }
}

impl std::error::Error for InvalidProof {}

/// The claims of a proof with a valid signature by the key in its header.
///
/// The caller compares the claims with the request: see the checks in section 4.3 of RFC 9449.
///
/// ```
/// use actpass_protocol::token::DpopProof;
///
/// // The example of section 7.1 of RFC 9449.
/// let proof = DpopProof::verify(concat!(
///     "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNo",
///     "UklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERW",
///     "clUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR",
///     "1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCw",
///     "iYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-E",
///     "y71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA",
/// ))?;
/// assert_eq!(proof.thumbprint(), "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I");
/// assert_eq!((proof.method(), proof.issued_at()), ("GET", 1_562_262_618));
/// # Ok::<(), actpass_protocol::token::InvalidProof>(())
/// ```
#[derive(Clone, Debug)]
pub struct DpopProof {
    key: PublicKey,
    id: String,
    method: String,
    url: String,
    issued_at: i64,
    token_hash: Option<String>,
    nonce: Option<String>,
}

impl DpopProof {
    /// Parses a proof of at most [`MAX_PROOF_BYTES`] and verifies its signature.
    ///
    /// Unknown members are ignored, except `crit`, whose extensions would have to be understood.
    ///
    /// # Errors
    ///
    /// The first problem: the form; `typ`, `alg`, `jwk`; the signature; a missing or wrongly typed
    /// claim.
    pub fn verify(proof: &str) -> Result<Self, InvalidProof> {
        if proof.len() > MAX_PROOF_BYTES {
            let problem = format_args!("expected at most {MAX_PROOF_BYTES} bytes, found {}", proof.len());
            return Err(InvalidProof::new("DPoP", problem));
        }
        let (signed, signature) = proof.rsplit_once('.').ok_or_else(not_jws)?;
        let (header, payload) = signed.split_once('.').ok_or_else(not_jws)?;
        let part = |part: &str| decode(part).map_err(|_| not_jws());
        let (header, payload, signature) = (part(header)?, part(payload)?, part(signature)?);
        let key = read_header(&object(&header)?)?;
        if !key.has_signed(signed.as_bytes(), &signature) {
            return Err(InvalidProof::new("DPoP", "the signature is not by the key in jwk"));
        }
        let claims = object(&payload)?;
        let issued_at = claims.member("iat").and_then(seconds);
        Ok(Self {
            id: required(&claims, "jti")?,
            method: required(&claims, "htm")?,
            url: required(&claims, "htu")?,
            issued_at: issued_at
                .ok_or_else(|| InvalidProof::new("iat", "expected whole seconds since 1970"))?,
            token_hash: optional(&claims, "ath")?,
            nonce: optional(&claims, "nonce")?,
            key,
        })
    }

    /// The thumbprint of the key that signed the proof (RFC 7638), 43 characters.
    pub fn thumbprint(&self) -> &str {
        self.key.kid()
    }

    /// The algorithm of the signature.
    pub const fn algorithm(&self) -> Algorithm {
        self.key.algorithm()
    }

    /// The proof's unique id, `jti`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The method of the request, `htm`.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The URL of the request, `htu`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// When the proof was created, `iat`, in seconds since 1970.
    pub const fn issued_at(&self) -> i64 {
        self.issued_at
    }

    /// The hash of the access token, `ath`.
    pub fn token_hash(&self) -> Option<&str> {
        self.token_hash.as_deref()
    }

    /// The nonce of the server, `nonce`.
    pub fn nonce(&self) -> Option<&str> {
        self.nonce.as_deref()
    }
}

fn not_jws() -> InvalidProof {
    InvalidProof::new("DPoP", "expected a compact JWS: three parts in base64url without padding")
}

fn object(bytes: &[u8]) -> Result<Json, InvalidProof> {
    let json = Json::parse(bytes).ok().filter(|json| json.as_object().is_some());
    json.ok_or_else(|| {
        InvalidProof::new("DPoP", "expected a header and claims of JSON objects without duplicate members")
    })
}

/// Returns the key in a header.
fn read_header(header: &Json) -> Result<PublicKey, InvalidProof> {
    let text = |name| header.member(name).and_then(Json::as_str);
    if text("typ") != Some(PROOF_TYPE) {
        return Err(InvalidProof::new("typ", format_args!("expected {PROOF_TYPE:?}")));
    }
    let algorithm = text("alg").and_then(Algorithm::from_name);
    let algorithm =
        algorithm.ok_or_else(|| InvalidProof::new("alg", "unsupported; expected ES256 or EdDSA"))?;
    if header.member("crit").is_some() {
        return Err(InvalidProof::new("crit", "unsupported; expected no extensions"));
    }
    let jwk =
        header.member("jwk").ok_or_else(|| InvalidProof::new("jwk", "missing; expected a public key"))?;
    let key = PublicKey::from_public_jwk(jwk).map_err(|problem| InvalidProof::new("jwk", problem))?;
    if key.algorithm() != algorithm {
        let problem = format_args!("{algorithm} is not the algorithm of the key in jwk, {}", key.algorithm());
        return Err(InvalidProof::new("alg", problem));
    }
    Ok(key)
}

fn required(claims: &Json, name: &'static str) -> Result<String, InvalidProof> {
    let text = optional(claims, name)?.filter(|text| !text.is_empty());
    text.ok_or_else(|| InvalidProof::new(name, "missing; expected a non-empty string"))
}

fn optional(claims: &Json, name: &'static str) -> Result<Option<String>, InvalidProof> {
    match claims.member(name) {
        None => Ok(None),
        Some(Json::String(text)) => Ok(Some(text.clone())),
        Some(other) => {
            Err(InvalidProof::new(name, format_args!("expected a string, found {}", other.kind())))
        }
    }
}
