//! Captured requests: the values of each decision's request that a policy reads, sealed with the
//! master key.

use std::fmt;

use actpass_protocol::Json;

use crate::object_writer::object;
use crate::policy::RecordedInput;
use crate::seal::{Cipher, MasterKey, Purpose, SealError};

/// A captured request.
#[derive(Clone, Debug, PartialEq)]
pub struct CapturedRequest {
    /// The values that a policy reads.
    pub input: RecordedInput,
    /// The `request_hash` of the decision's event.
    pub request_hash: Option<String>,
    /// Whether it repeats an `allow` under the same idempotency key.
    pub repeats: bool,
    /// Whether a person had approved the action.
    pub approved: bool,
}

impl CapturedRequest {
    fn to_bytes(&self) -> Vec<u8> {
        let json = object([
            ("input", Some(self.input.as_json().clone())),
            ("request_hash", self.request_hash.as_deref().map(Json::from)),
            ("repeats", self.repeats.then_some(Json::Bool(true))),
            ("approved", self.approved.then_some(Json::Bool(true))),
        ]);
        json.to_string().into_bytes()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let Json::Object(members) = Json::parse(bytes).ok()? else { return None };
        let (mut input, mut request_hash) = (None, None);
        let (mut repeats, mut approved) = (false, false);
        for (name, value) in members {
            match &*name {
                "input" => input = Some(RecordedInput::from_json(value)),
                "request_hash" => request_hash = value.as_str().map(str::to_owned),
                "repeats" => repeats = value == Json::Bool(true),
                "approved" => approved = value == Json::Bool(true),
                _ => {}
            }
        }
        Some(Self { input: input?, request_hash, repeats, approved })
    }
}

/// A sealed request, to record with its decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedRequest {
    /// The sealed content.
    pub sealed: Vec<u8>,
    /// Its retention, in milliseconds.
    pub keep_ms: i64,
}

/// Seals and opens captured requests.
pub struct Captures(Cipher);

impl Captures {
    /// Creates the cipher.
    ///
    /// # Errors
    ///
    /// Returns an error only if a cryptographic primitive fails.
    pub fn new(master: &MasterKey) -> Result<Self, SealError> {
        Ok(Self(master.cipher(Purpose::Capture)?))
    }

    /// Seals a request of a tenant.
    ///
    /// # Errors
    ///
    /// Returns an error if the operating system provides no randomness.
    pub fn seal(&self, tenant_id: &str, request: &CapturedRequest) -> Result<Vec<u8>, SealError> {
        self.0.seal(tenant_id.as_bytes(), &request.to_bytes())
    }

    /// Opens a request; `None` if it was changed, belongs to another tenant, or was sealed with
    /// another master key.
    pub fn open(&self, tenant_id: &str, sealed: &[u8]) -> Option<CapturedRequest> {
        CapturedRequest::read(&self.0.open(tenant_id.as_bytes(), sealed)?)
    }
}

impl fmt::Debug for Captures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Captures(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_requests_open_for_their_tenant_only() {
        let input = Json::parse(br#"{"tool": "t", "args": {"amount": 1.50, "note": "secret"}}"#).unwrap();
        let request = CapturedRequest {
            input: RecordedInput::from_json(input),
            request_hash: Some("h".to_owned()),
            repeats: true,
            approved: true,
        };
        let captures = Captures::new(&MasterKey::generate().unwrap()).unwrap();
        let sealed = captures.seal("acme", &request).unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(captures.open("acme", &sealed), Some(request));
        assert_eq!(captures.open("other", &sealed), None);
        let other = Captures::new(&MasterKey::generate().unwrap()).unwrap();
        assert_eq!(other.open("acme", &sealed), None);
        let mut changed = sealed;
        if let Some(byte) = changed.last_mut() {
            *byte ^= 1;
        }
        assert_eq!(captures.open("acme", &changed), None);
    }
}
