//! Verifies DPoP proofs (RFC 9449), independently of the SDK's own code.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::request::Seen;
use crate::script::{Body, Dpop, Respond, Step};

/// The largest difference between `iat` and the time of arrival, in seconds.
const WINDOW: u64 = 60;

/// The state of the verification.
#[derive(Debug, Default)]
pub(crate) struct Proofs {
    used: HashSet<String>,
    /// The last nonce that a response gave.
    nonce: Option<String>,
}

impl Proofs {
    /// Keeps the nonce that `step` gives.
    pub(crate) fn note(&mut self, step: &Step) {
        let Step::Respond(respond) = step else { return };
        let given = respond.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("dpop-nonce"));
        if let Some((_, nonce)) = given {
            self.nonce = Some(nonce.clone());
        }
    }

    /// Verifies the proof of a request.
    ///
    /// # Errors
    ///
    /// The first problem.
    pub(crate) fn verify(&mut self, dpop: &Dpop, origin: &str, seen: &Seen) -> Result<(), String> {
        let authorization = the_header(seen, "authorization")?;
        if authorization != format!("DPoP {}", dpop.api_key) {
            return Err("authorization: expected the scheme DPoP and the API key".into());
        }
        let proof = the_header(seen, "dpop")?;
        let [header, claims, signature] = proof.split('.').collect::<Vec<_>>()[..] else {
            return Err("dpop: expected a compact JWS".into());
        };
        let key = Jwk::read(&decode_json(header)?)?;
        if key.thumbprint() != dpop.jkt {
            return Err("jwk: another key".into());
        }
        let signed = format!("{header}.{claims}");
        UnparsedPublicKey::new(key.algorithm, &key.bytes)
            .verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| "signature: invalid")?;
        self.verify_claims(&decode_json(claims)?, dpop, origin, seen)
    }

    fn verify_claims(
        &mut self,
        claims: &Value,
        dpop: &Dpop,
        origin: &str,
        seen: &Seen,
    ) -> Result<(), String> {
        let path = seen.path.split('?').next().unwrap_or_default();
        for (name, expected) in [
            ("htm", Some(seen.method.clone())),
            ("htu", Some(format!("{origin}{path}"))),
            ("ath", Some(encode(Sha256::digest(&dpop.api_key)))),
            ("nonce", self.nonce.clone()),
        ] {
            if claims.get(name) != expected.as_ref().map(|text| json!(text)).as_ref() {
                return Err(format!("{name}: expected {expected:?}, found {:?}", claims.get(name)));
            }
        }
        let issued_at = claims.get("iat").and_then(Value::as_u64).ok_or("iat: expected an integer")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if issued_at.abs_diff(now) > WINDOW {
            return Err(format!("iat: found {issued_at} at {now}"));
        }
        let id = claims.get("jti").and_then(Value::as_str).unwrap_or_default();
        if decode(id)?.len() < 16 {
            return Err("jti: expected at least 128 bits".into());
        }
        if !self.used.insert(id.to_owned()) {
            return Err("jti: replayed".into());
        }
        let count = 5 + usize::from(self.nonce.is_some());
        match claims.as_object().map(serde_json::Map::len) {
            Some(found) if found == count => Ok(()),
            _ => Err(format!("claims: expected {count} members")),
        }
    }
}

/// The response to a request with an invalid proof.
pub(crate) fn refusal(problem: &str) -> Step {
    let challenge = r#"DPoP error="invalid_dpop_proof", algs="ES256 EdDSA""#;
    Step::Respond(Respond {
        status: 401,
        headers: [("www-authenticate".to_owned(), challenge.to_owned())].into(),
        body: Body::Json(json!({"error": {"code": "invalid_dpop_proof", "message": problem}})),
        ..Respond::default()
    })
}

/// A public key.
struct Jwk {
    algorithm: &'static dyn VerificationAlgorithm,
    bytes: Vec<u8>,
    /// The form of RFC 7638.
    canonical: String,
}

impl Jwk {
    /// Reads the header of a proof.
    fn read(header: &Value) -> Result<Self, String> {
        let text = |value: &Value, name: &str| {
            value.get(name).and_then(Value::as_str).map(str::to_owned).ok_or(format!("{name}: missing"))
        };
        let members = |value: &Value| value.as_object().map_or(0, serde_json::Map::len);
        if text(header, "typ")? != "dpop+jwt" || members(header) != 3 {
            return Err("header: expected typ dpop+jwt, alg and jwk".into());
        }
        let jwk = header.get("jwk").ok_or("jwk: missing")?;
        let (kind, curve, x) = (text(jwk, "kty")?, text(jwk, "crv")?, text(jwk, "x")?);
        let canonical = |rest: String| format!(r#"{{"crv":"{curve}","kty":"{kind}","x":"{x}"{rest}}}"#);
        match (text(header, "alg")?.as_str(), kind.as_str(), curve.as_str(), members(jwk)) {
            ("EdDSA", "OKP", "Ed25519", 3) => {
                Ok(Self { algorithm: &ED25519, bytes: decode(&x)?, canonical: canonical(String::new()) })
            }
            ("ES256", "EC", "P-256", 4) => {
                let y = text(jwk, "y")?;
                Ok(Self {
                    algorithm: &ECDSA_P256_SHA256_FIXED,
                    bytes: [vec![4], decode(&x)?, decode(&y)?].concat(),
                    canonical: canonical(format!(r#","y":"{y}""#)),
                })
            }
            _ => Err("jwk: expected a public key of P-256 or Ed25519 that fits alg".into()),
        }
    }

    fn thumbprint(&self) -> String {
        encode(Sha256::digest(&self.canonical))
    }
}

fn the_header<'s>(seen: &'s Seen, name: &str) -> Result<&'s str, String> {
    let mut values = seen.headers.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str());
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value),
        (None, _) => Err(format!("{name}: missing")),
        (Some(_), Some(_)) => Err(format!("{name}: given twice")),
    }
}

fn decode_json(part: &str) -> Result<Value, String> {
    serde_json::from_slice(&decode(part)?).map_err(|error| error.to_string())
}

fn decode(part: &str) -> Result<Vec<u8>, String> {
    URL_SAFE_NO_PAD.decode(part).map_err(|error| error.to_string())
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
