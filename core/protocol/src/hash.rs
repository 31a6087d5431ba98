//! Canonical JSON (RFC 8785) and hashes of it.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::error::InvalidArgument;
use crate::json::{Json, JsonWriter, Style};

/// Serializes `value` as canonical JSON (RFC 8785, JCS) in UTF-8.
///
/// # Errors
///
/// For an integer beyond ±(2^53 - 1), which has no canonical form. The message names its path, such
/// as `payload.ids[2]`.
///
/// ```
/// use actpass_protocol::{Json, canonical_json};
///
/// let value = Json::parse(br#"{"b": 1.50, "a": "\u20ac"}"#).unwrap();
/// assert_eq!(canonical_json(&value)?, r#"{"a":"€","b":1.5}"#.as_bytes());
/// # Ok::<(), actpass_protocol::InvalidArgument>(())
/// ```
pub fn canonical_json(value: &Json) -> Result<Vec<u8>, InvalidArgument> {
    let mut out = JsonWriter::new(Style::Compact);
    value
        .write_canonical(&mut out)
        .map_err(|error| InvalidArgument::new(&error.path_from("payload"), error.problem()))?;
    Ok(out.into_string().into_bytes())
}

/// Returns the SHA-256 of the canonical JSON of `value` as 64 lower-case hex digits: `request_hash`
/// and `response_hash` of evidence events.
///
/// # Errors
///
/// As [`canonical_json`].
///
/// ```
/// use actpass_protocol::{Json, hash_payload};
///
/// let payload = Json::from(serde_json::json!({"currency": "usd", "amount": 4900}));
/// assert_eq!(hash_payload(&payload)?, "b8254cdaf74420349cd61cd59255812d66cf264b642850b3746a88420ab48ca2");
/// # Ok::<(), actpass_protocol::InvalidArgument>(())
/// ```
pub fn hash_payload(value: &Json) -> Result<String, InvalidArgument> {
    Ok(sha256_hex(&canonical_json(value)?))
}

/// Returns the HMAC-SHA256 of the canonical JSON of `value` under `secret`, as 64 lower-case hex
/// digits.
///
/// # Errors
///
/// As [`canonical_json`].
///
/// ```
/// use actpass_protocol::{Json, sign_payload};
///
/// let signature = sign_payload(b"secret", &Json::from("payload"))?;
/// assert_eq!(signature, "d912ed098d037477e66ef16477113f9b07284bd18e6f8e93a183ab37cc5d1a2e");
/// # Ok::<(), actpass_protocol::InvalidArgument>(())
/// ```
pub fn sign_payload(secret: &[u8], value: &Json) -> Result<String, InvalidArgument> {
    let canonical = canonical_json(value)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(secret)
        .map_err(|error| InvalidArgument::new("secret", error.to_string()))?;
    mac.update(&canonical);
    Ok(hex::encode(mac.finalize().into_bytes()))
}

/// Returns the SHA-256 of `bytes` as 64 lower-case hex digits.
///
/// ```
/// assert!(actpass_protocol::sha256_hex(b"").starts_with("e3b0c442"));
/// ```
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
