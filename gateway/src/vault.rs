//! The vault: sealed tool credentials, returned with the response that allows their use.
//!
//! A credential belongs to a tenant's tool. Its secret is only in the response to an allowed
//! preflight, never in the ledger, in stored responses or in the log. Those contain its id, which
//! is new each time a credential is set.

use std::fmt;

use actpass_protocol::{Json, Secret};
use bytes::Bytes;
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::clock::rfc3339;
use crate::events::{self, CredentialRef};
use crate::ledger;
use crate::seal::{Cipher, MasterKey, Purpose, SealError};
use crate::store::{Change, Mutation, Record, SealedCredential, Transition};

/// Reason code: the tool's credential has expired.
pub const EXPIRED: &str = "credential.expired";

/// Maximum length of a secret, in bytes.
pub const MAX_SECRET_BYTES: usize = 16 * 1024;

impl SealedCredential {
    /// Returns the associated data of the seal, as unambiguous JSON.
    fn associated_data(&self, tenant_id: &str, tool_id: &str) -> Vec<u8> {
        Json::Array(vec![
            Json::from(tenant_id),
            Json::from(tool_id),
            Json::from(&*self.id),
            Json::String(self.set_at.to_string()),
            self.expires_at.map_or(Json::Null, |at| Json::String(at.to_string())),
        ])
        .to_string()
        .into_bytes()
    }
}

/// Seals and opens credentials.
#[derive(Debug)]
pub struct Vault(Cipher);

impl Vault {
    /// Opens the vault with `master`.
    ///
    /// # Errors
    ///
    /// Returns an error only if a cryptographic primitive fails.
    pub fn new(master: &MasterKey) -> Result<Self, SealError> {
        master.cipher(Purpose::Credential).map(Self)
    }

    /// Creates a credential for a tenant's tool.
    ///
    /// # Errors
    ///
    /// Returns an error if the operating system provides no randomness.
    pub fn seal(
        &self,
        tenant_id: &str,
        tool_id: &str,
        secret: &Secret,
        set_at: i64,
        expires_at: Option<i64>,
    ) -> Result<SealedCredential, SealError> {
        let mut credential = SealedCredential {
            id: format!("cr_{}", uuid::Uuid::now_v7().simple()),
            tool_id: tool_id.to_owned(),
            sealed: Vec::new(),
            set_at,
            expires_at,
        };
        credential.sealed =
            self.0.seal(&credential.associated_data(tenant_id, tool_id), secret.expose().as_bytes())?;
        Ok(credential)
    }

    /// Opens a credential; `None` if another master key sealed it, or it was changed or belongs to
    /// another tool.
    pub fn open(&self, tenant_id: &str, tool_id: &str, credential: &SealedCredential) -> Option<Secret> {
        let secret = self.0.open(&credential.associated_data(tenant_id, tool_id), &credential.sealed)?;
        str::from_utf8(&secret).ok().map(Secret::from)
    }
}

/// The ordered members of a response, with values as JSON text.
struct ResponseMembers<'a>(Vec<(&'a str, &'a RawValue)>);

impl<'de> Deserialize<'de> for ResponseMembers<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = ResponseMembers<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ResponseMembers<'de>, A::Error> {
                let mut members = Vec::with_capacity(16);
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(ResponseMembers(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}

/// The member `credential` of a response.
#[derive(Serialize)]
struct CredentialMember<'a> {
    token: &'a str,
    expires_at: Option<String>,
}

/// Adds the member `credential` to the response for the client; the stored `response` does not
/// contain it. Returns `None` if `response` is not an object.
pub fn add_credential(response: &[u8], secret: &Secret, expires_at: Option<i64>) -> Option<Bytes> {
    let ResponseMembers(members) = serde_json::from_slice(response).ok()?;
    let credential = CredentialMember { token: secret.expose(), expires_at: expires_at.map(rfc3339) };
    // Large enough for six-byte escapes of every byte. The buffer never grows, because reallocation
    // would leave a copy.
    let capacity = response.len() + 6 * secret.expose().len() + 128;
    let mut text = Zeroizing::new(Vec::with_capacity(capacity));
    let mut writer = serde_json::Serializer::new(&mut *text);
    let mut object = writer.serialize_map(None).ok()?;
    for (name, value) in members {
        object.serialize_entry(name, value).ok()?;
    }
    object.serialize_entry("credential", &credential).ok()?;
    object.end().ok()?;
    Some(Bytes::from_owner(text))
}

/// Creates the record that sets a credential, replacing the tool's earlier one.
pub fn set(tenant_id: &str, credential: SealedCredential) -> Record {
    let event = events::credential_set(tenant_id, reference(&credential), credential.expires_at);
    Record { event, mutation: Some(Mutation::SetCredential(Box::new(credential))) }
}

/// Returns whether an event sets the credential `id`.
pub fn was_set(event: &str, id: &str) -> bool {
    Json::parse(event.as_bytes()).is_ok_and(|event| {
        let text = |name| event.member(name).and_then(Json::as_str);
        text("event_type") == Some(ledger::CREDENTIAL_SET) && text("credential_id") == Some(id)
    })
}

/// Creates the transition that removes a credential; stale if it was replaced.
pub fn remove(tenant_id: &str, credential: &SealedCredential) -> Transition {
    let change = Change::RemoveCredential { tool_id: credential.tool_id.clone(), id: credential.id.clone() };
    Transition { event: events::credential_removed(tenant_id, reference(credential)), change }
}

fn reference(credential: &SealedCredential) -> CredentialRef<'_> {
    CredentialRef { tool_id: &credential.tool_id, id: &credential.id }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault() -> Vault {
        Vault::new(&MasterKey::parse(&"07".repeat(32)).unwrap()).unwrap()
    }

    fn sealed() -> SealedCredential {
        vault().seal("t", "pay", &Secret::from("vault_secret"), 100, Some(200)).unwrap()
    }

    #[test]
    fn credential_opens_only_for_its_tool() {
        let own = sealed();
        let open = |tenant, tool, credential: &SealedCredential| vault().open(tenant, tool, credential);
        assert_eq!(open("t", "pay", &own).unwrap().expose(), "vault_secret");
        assert!(open("u", "pay", &own).is_none());
        assert!(open("t", "refund", &own).is_none());
        // Write access to the data cannot extend its lifetime or assign it to another tool.
        for changed in [
            SealedCredential { expires_at: None, ..own.clone() },
            SealedCredential { expires_at: Some(201), ..own.clone() },
            SealedCredential { set_at: 101, ..own.clone() },
            SealedCredential { id: "cr_1".to_owned(), ..own.clone() },
            SealedCredential { sealed: Vec::new(), ..own.clone() },
        ] {
            assert!(open("t", "pay", &changed).is_none(), "{changed:?}");
        }
        let other = Vault::new(&MasterKey::parse(&"08".repeat(32)).unwrap()).unwrap();
        assert!(other.open("t", "pay", &own).is_none());
        assert!(!String::from_utf8_lossy(&own.sealed).contains("vault_secret"));
    }

    #[test]
    fn credential_associated_data_is_unambiguous() {
        let credential = sealed();
        assert_ne!(credential.associated_data("t\",\"p", "ay"), credential.associated_data("t", "p\",\"ay"));
        let words = SealedCredential { id: "x".to_owned(), expires_at: None, ..credential.clone() };
        assert_ne!(words.associated_data("t", "null"), credential.associated_data("t", "null"));
    }

    #[test]
    fn credential_is_valid_until_expiry() {
        let credential = sealed();
        assert!(!credential.has_expired(199) && credential.has_expired(200));
        assert!(!SealedCredential { expires_at: None, ..credential }.has_expired(i64::MAX));
    }

    #[test]
    fn credential_is_added_to_response() {
        let response = br#"{"decision":"allow"}"#;
        for (secret, expires_at, expected) in [
            ("s", None, r#"{"decision":"allow","credential":{"token":"s","expires_at":null}}"#),
            (
                "-----BEGIN\n\"\\\u{1}é",
                Some(0),
                r#"{"decision":"allow","credential":{"token":"-----BEGIN\n\"\\\u0001é","expires_at":"1970-01-01T00:00:00Z"}}"#,
            ),
        ] {
            let handed = add_credential(response, &Secret::from(secret), expires_at).unwrap();
            assert_eq!(str::from_utf8(&handed).unwrap(), expected);
            let token = Json::parse(&handed).unwrap();
            let token = token.member("credential").and_then(|credential| credential.member("token"));
            assert_eq!(token.and_then(Json::as_str), Some(secret));
        }
        let worst = "\u{1}".repeat(MAX_SECRET_BYTES);
        let handed = add_credential(response, &Secret::from(worst), Some(i64::MAX)).unwrap();
        assert!(Json::parse(&handed).is_ok());
        assert_eq!(add_credential(b"[]", &Secret::from("s"), None), None);
    }
}
