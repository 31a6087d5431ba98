//! DPoP proofs (RFC 9449): the holder of an API key proves with each request that it has a private
//! key, so that a stolen API key alone is useless.
//!
//! This module reads private keys, computes thumbprints and signs proofs. It has no clock and no
//! randomness: the caller passes both.
//!
//! ```
//! use actpass_protocol::dpop::{DpopKey, Proof, access_token_hash};
//!
//! let key = DpopKey::from_pem(
//!     "-----BEGIN PRIVATE KEY-----\n\
//!      MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
//!      -----END PRIVATE KEY-----\n",
//! )?;
//! // The key and the thumbprint of RFC 8037, appendix A.
//! assert_eq!(key.thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
//!
//! let ath = access_token_hash("apk_1234");
//! let proof = key.prove(&Proof {
//!     id: "8Zk0gCmb3cVbnUq2kWvTJA",
//!     method: "POST",
//!     url: "https://gateway.example/api/v1/actions/preflight",
//!     issued_at: 1_767_225_600,
//!     access_token_hash: Some(&ath),
//!     nonce: None,
//! });
//! assert_eq!(proof.unwrap().split('.').count(), 3);
//! # Ok::<(), &str>(())
//! ```

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::Signer;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::json::{JsonWriter, Style};
use crate::token::{Algorithm, PublicKey, encode};

/// The `typ` of a proof's header.
pub const PROOF_TYPE: &str = "dpop+jwt";
/// The error code of a response that demands a proof with a nonce (RFC 9449, section 8).
pub const USE_NONCE: &str = "use_dpop_nonce";
/// The maximum length of a nonce.
pub const MAX_NONCE_BYTES: usize = 512;

/// The length of a private key of either type in bytes.
const PRIVATE_KEY_LENGTH: usize = 32;
/// The maximum length of a PEM text. A key needs 250 bytes.
const MAX_PEM_BYTES: usize = 16 * 1024;

const EXPECTED: &str =
    "expected a P-256 or Ed25519 private key in PKCS#8 PEM (`-----BEGIN PRIVATE KEY-----`)";

/// A private key that signs proofs. It is zeroed when dropped, and `Debug` shows the thumbprint only.
pub struct DpopKey {
    signer: Signing,
    /// The header of every proof, encoded.
    header: String,
    thumbprint: String,
}

enum Signing {
    Ed25519(ed25519_dalek::SigningKey),
    P256(p256::ecdsa::SigningKey),
}

impl DpopKey {
    /// Reads a private key of P-256 or Ed25519 in PKCS#8 PEM (RFC 5958, RFC 7468), not encrypted.
    /// Text outside the encapsulation boundaries is ignored.
    ///
    /// # Errors
    ///
    /// The expected form, and the name of another known form. The message has nothing of the text.
    ///
    /// ```
    /// use actpass_protocol::dpop::DpopKey;
    ///
    /// let error = DpopKey::from_pem("-----BEGIN EC PRIVATE KEY-----").unwrap_err();
    /// assert!(error.contains("openssl pkcs8 -topk8 -nocrypt"), "{error}");
    /// ```
    pub fn from_pem(pem: &str) -> Result<Self, &'static str> {
        let der = decode_pem(pem)?;
        let signer = parse_pkcs8(&der)?;
        let public = signer.public().ok_or(EXPECTED)?;
        let mut header = JsonWriter::new(Style::Compact);
        header.raw("{");
        for (at, (name, value)) in
            [("typ", PROOF_TYPE), ("alg", public.algorithm().as_str())].into_iter().enumerate()
        {
            header.comma(at);
            header.key(name);
            header.string(value);
        }
        header.raw(",");
        header.key("jwk");
        header.raw(&public.required_members());
        header.raw("}");
        Ok(Self { signer, header: encode(header.as_str()), thumbprint: public.thumbprint() })
    }

    /// The algorithm of the signatures.
    pub const fn algorithm(&self) -> Algorithm {
        match self.signer {
            Signing::Ed25519(_) => Algorithm::EdDsa,
            Signing::P256(_) => Algorithm::Es256,
        }
    }

    /// The SHA-256 thumbprint of the public key (RFC 7638), in base64url: 43 characters.
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// Signs a proof, as a compact JWS. `None` if the signature failed, which no known input causes.
    pub fn prove(&self, proof: &Proof<'_>) -> Option<String> {
        let mut signed = [&*self.header, &encode(proof.claims())].join(".");
        let signature = match &self.signer {
            Signing::Ed25519(key) => key.try_sign(signed.as_bytes()).ok()?.to_bytes(),
            Signing::P256(key) => {
                let signature: p256::ecdsa::Signature = key.try_sign(signed.as_bytes()).ok()?;
                signature.to_bytes().into()
            }
        };
        signed.push('.');
        signed.push_str(&encode(signature));
        Some(signed)
    }
}

impl fmt::Debug for DpopKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DpopKey").field("thumbprint", &self.thumbprint).finish_non_exhaustive()
    }
}

impl Signing {
    fn public(&self) -> Option<PublicKey> {
        match self {
            Self::Ed25519(key) => PublicKey::new("", Algorithm::EdDsa, key.verifying_key().as_bytes()),
            Self::P256(key) => {
                let point = key.verifying_key().to_sec1_point(false);
                PublicKey::new("", Algorithm::Es256, point.as_bytes())
            }
        }
    }
}

/// The claims of a proof: see [`DpopKey::prove`].
#[derive(Clone, Copy, Debug)]
pub struct Proof<'p> {
    /// `jti`: random, at least 128 bits; fresh for each request.
    pub id: &'p str,
    /// `htm`: the method of the request.
    pub method: &'p str,
    /// `htu`: the absolute URL of the request. A query and a fragment are removed.
    pub url: &'p str,
    /// `iat`: the current time in seconds since 1970.
    pub issued_at: u64,
    /// `ath`: see [`access_token_hash`]. `None` for a request without an API key.
    pub access_token_hash: Option<&'p str>,
    /// `nonce`: the last one that the gateway gave.
    pub nonce: Option<&'p str>,
}

impl Proof<'_> {
    fn claims(&self) -> String {
        let url = self.url.split(['?', '#']).next().unwrap_or_default();
        let mut text = JsonWriter::new(Style::Compact);
        text.raw("{");
        text.key("jti");
        text.string(self.id);
        for (name, value) in [
            ("htm", Some(self.method)),
            ("htu", Some(url)),
            ("ath", self.access_token_hash),
            ("nonce", self.nonce),
        ] {
            if let Some(value) = value {
                text.raw(",");
                text.key(name);
                text.string(value);
            }
        }
        text.raw(",");
        text.key("iat");
        text.raw(&self.issued_at.to_string());
        text.raw("}");
        text.into_string()
    }
}

/// The claim `ath` for an API key: its SHA-256 in base64url.
///
/// ```
/// // RFC 9449, section 7.1.
/// let token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
/// let ath = actpass_protocol::dpop::access_token_hash(token);
/// assert_eq!(ath, "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo");
/// ```
pub fn access_token_hash(api_key: &str) -> String {
    encode(Sha256::digest(api_key))
}

/// Whether `text` is a nonce (RFC 9449, section 8.1) of at most [`MAX_NONCE_BYTES`].
///
/// ```
/// use actpass_protocol::dpop::is_nonce;
///
/// assert!(is_nonce("eyJ7S_zG.eyJH0-Z.HX4w-7v"));
/// assert!(!is_nonce("") && !is_nonce("two words") && !is_nonce("a\"b"));
/// ```
pub fn is_nonce(text: &str) -> bool {
    let is_nonce_char = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    !text.is_empty() && text.len() <= MAX_NONCE_BYTES && text.bytes().all(is_nonce_char)
}

/// Decodes the only `PRIVATE KEY` of a PEM text.
fn decode_pem(pem: &str) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
    const END: &str = "-----END PRIVATE KEY-----";
    if pem.len() > MAX_PEM_BYTES {
        return Err("expected a PEM text of at most 16 KiB");
    }
    let Some((_, rest)) = pem.split_once(BEGIN) else {
        return Err(other_form(pem));
    };
    let Some((body, rest)) = rest.split_once(END) else {
        return Err("expected `-----END PRIVATE KEY-----`: the PEM text is truncated");
    };
    if rest.contains(BEGIN) {
        return Err("expected one private key, found several");
    }
    let body: Zeroizing<Vec<u8>> =
        Zeroizing::new(body.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect());
    let mut der = Zeroizing::new(vec![0; body.len()]);
    let length = STANDARD.decode_slice(&*body, &mut der).map_err(|_| "invalid base64 in the PEM text")?;
    der.truncate(length);
    Ok(der)
}

/// Why a text without a PKCS#8 private key is invalid.
fn other_form(pem: &str) -> &'static str {
    let has = |label: &str| pem.contains(&format!("-----BEGIN {label}-----"));
    if pem.trim().is_empty() {
        "expected a P-256 or Ed25519 private key in PKCS#8 PEM, found an empty string"
    } else if has("ENCRYPTED PRIVATE KEY") {
        "expected a private key in PKCS#8 PEM that is not encrypted; convert it with \
         `openssl pkcs8 -topk8 -nocrypt`"
    } else if has("EC PRIVATE KEY") || has("RSA PRIVATE KEY") {
        "expected a P-256 or Ed25519 private key in PKCS#8 PEM, found an older form; convert it with \
         `openssl pkcs8 -topk8 -nocrypt`"
    } else if has("OPENSSH PRIVATE KEY") {
        "expected a P-256 or Ed25519 private key in PKCS#8 PEM, found an OpenSSH key"
    } else if has("PUBLIC KEY") {
        "expected a private key in PKCS#8 PEM, found a public key"
    } else {
        EXPECTED
    }
}

/// `id-ecPublicKey` with the curve `secp256r1` (RFC 5480), and `id-Ed25519` (RFC 8410).
const P256_ALGORITHM: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const ED25519_ALGORITHM: &[u8] = b"\x06\x03\x2b\x65\x70";

/// Parses a `OneAsymmetricKey` (RFC 5958). Attributes and the public key are ignored.
fn parse_pkcs8(der: &[u8]) -> Result<Signing, &'static str> {
    const MALFORMED: &str = "expected a PKCS#8 private key in the PEM text, found invalid DER";
    let (key, rest) = element(der, SEQUENCE).ok_or(MALFORMED)?;
    if !rest.is_empty() {
        return Err(MALFORMED);
    }
    let (version, rest) = element(key, INTEGER).ok_or(MALFORMED)?;
    let (algorithm, rest) = element(rest, SEQUENCE).ok_or(MALFORMED)?;
    let (private, _) = element(rest, OCTET_STRING).ok_or(MALFORMED)?;
    if !matches!(version, [0] | [1]) {
        return Err(MALFORMED);
    }
    match algorithm {
        ED25519_ALGORITHM => {
            let (seed, rest) = element(private, OCTET_STRING).ok_or(MALFORMED)?;
            let seed = <&[u8; PRIVATE_KEY_LENGTH]>::try_from(seed).map_err(|_| MALFORMED)?;
            let key = ed25519_dalek::SigningKey::from_bytes(seed);
            rest.is_empty().then_some(Signing::Ed25519(key)).ok_or(MALFORMED)
        }
        P256_ALGORITHM => {
            let (key, rest) = element(private, SEQUENCE).ok_or(MALFORMED)?;
            let (version, key) = element(key, INTEGER).ok_or(MALFORMED)?;
            let (scalar, _) = element(key, OCTET_STRING).ok_or(MALFORMED)?;
            if version != [1] || scalar.len() != PRIVATE_KEY_LENGTH || !rest.is_empty() {
                return Err(MALFORMED);
            }
            p256::ecdsa::SigningKey::from_slice(scalar).map(Signing::P256).map_err(|_| MALFORMED)
        }
        _ => Err("expected a P-256 or Ed25519 private key, found another type of key"),
    }
}

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

/// Splits the DER element with this tag from the start of `der`: its content and the rest.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, length], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 => {
            let (length, rest) = rest.split_first()?;
            (usize::from(*length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    (found == tag).then(|| rest.split_at_checked(length)).flatten()
}
