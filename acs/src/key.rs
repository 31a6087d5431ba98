//! The secret of an API key, and the keys of its sessions.

use std::fmt;

use actpass_protocol::{Json, Secret, canonical_json};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::hmac::{self, HMAC_SHA256};

/// Minimum length of a secret.
const MIN_CHARACTERS: usize = 32;

/// A secret that is too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidSecret;

impl fmt::Display for InvalidSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected at least {MIN_CHARACTERS} random characters")
    }
}

impl std::error::Error for InvalidSecret {}

/// Reads the content of a file with a secret. White space around it is not part of the secret.
///
/// # Errors
///
/// [`InvalidSecret`] for fewer than 32 characters.
///
/// ```
/// let secret = actpass_acs::read_secret("0123456789abcdef0123456789abcdef\n")?;
/// assert_eq!(secret.expose().len(), 32);
/// assert!(actpass_acs::read_secret("short").is_err());
/// # Ok::<(), actpass_acs::InvalidSecret>(())
/// ```
pub fn read_secret(content: &str) -> Result<Secret, InvalidSecret> {
    let text = content.trim();
    if text.chars().count() < MIN_CHARACTERS {
        return Err(InvalidSecret);
    }
    Ok(Secret::new(text))
}

/// The key of a session.
#[derive(Debug)]
pub struct SessionKey(hmac::Key);

impl SessionKey {
    /// Derives the key: HKDF-SHA256 without salt, with the session's id as information. `None` if it
    /// cannot be derived.
    pub fn derive(secret: &Secret, session_id: &str) -> Option<Self> {
        let extracted = Salt::new(HKDF_SHA256, &[]).extract(secret.expose().as_bytes());
        let information = [session_id.as_bytes()];
        let expanded = extracted.expand(&information, HMAC_SHA256).ok()?;
        Some(Self(hmac::Key::from(expanded)))
    }

    /// Signs an envelope without signature. `None` if it has no canonical form.
    pub fn sign(&self, envelope: &Json) -> Option<String> {
        let canonical = canonical_json(envelope).ok()?;
        Some(STANDARD.encode(hmac::sign(&self.0, &canonical)))
    }

    /// Returns whether `value` signs the envelope without its signature.
    pub fn verifies(&self, envelope: &Json, value: &str) -> bool {
        let (Ok(canonical), Ok(value)) = (canonical_json(envelope), STANDARD.decode(value)) else {
            return false;
        };
        hmac::verify(&self.0, &canonical, &value).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &str = "5c3f1b8e-9a0d-4c2e-8f4b-2d6a7e9c1b30";

    /// The derivation, with the values of RFC 5869 and of other implementations of the standard:
    /// the bytes 0 to 31 as the secret.
    #[test]
    fn signature_equals_other_implementations() {
        let secret = Secret::new((0..32u8).map(char::from).collect::<String>());
        let key = SessionKey::derive(&secret, SESSION).unwrap();
        let request = Json::parse(
            br#"{"jsonrpc": "2.0", "method": "steps/toolCallRequest", "id": "8d0b6b0e-4d6b-4f7a-9d1c-1f1c7f0e2a10",
            "params": {"acs_version": "0.1.0", "request_id": "8d0b6b0e-4d6b-4f7a-9d1c-1f1c7f0e2a10",
            "timestamp": "2026-09-19T10:00:00Z", "metadata": {"agent_id": "agent",
            "session_id": "5c3f1b8e-9a0d-4c2e-8f4b-2d6a7e9c1b30"}, "payload": {"tool": {"name": "Bash"},
            "arguments": {"command": {"value": "echo rm -rf /"}}, "raw_command": "echo rm -rf /"}}}"#,
        )
        .unwrap();
        let value = "yJ3BXf/Hfc3jSnSMgOoNVGQ+5LKBKakvctDwE52lrM0=";
        assert_eq!(key.sign(&request).as_deref(), Some(value));
        assert!(key.verifies(&request, value));
        for wrong in ["", "yJ3B", "!", "zJ3BXf/Hfc3jSnSMgOoNVGQ+5LKBKakvctDwE52lrM0="] {
            assert!(!key.verifies(&request, wrong), "{wrong}");
        }
        let other = SessionKey::derive(&secret, "5c3f1b8e-9a0d-4c2e-8f4b-2d6a7e9c1b31").unwrap();
        assert!(!other.verifies(&request, value));
    }

    #[test]
    fn secrets_have_32_characters() {
        let long = "0123456789abcdef0123456789abcdef";
        let short = "123456789abcdef0123456789abcdef";
        for valid in [long.to_owned(), format!("{long}\n"), format!(" {long}\r\n")] {
            assert_eq!(read_secret(&valid).unwrap().expose(), long);
        }
        for invalid in ["", short, &format!("{short}\n\n")] {
            assert_eq!(read_secret(invalid), Err(InvalidSecret), "{invalid}");
        }
    }
}
