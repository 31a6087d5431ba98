//! Passkeys: the keys with which people sign approvals (WebAuthn).
//!
//! Passkeys exist only as events of the tenant's chain of passkeys.

use actpass_protocol::Json;
use actpass_protocol::signed_approval::ApprovalKeys;
use actpass_protocol::token::{Algorithm, PublicKey, encode};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::auth::is_same_person;
use crate::ledger::{PASSKEY_REGISTERED, PASSKEY_REMOVED, PASSKEY_USED};

/// Maximum number of passkeys of a person.
pub const MAX_PASSKEYS: usize = 16;

/// The DER prefix of a P-256 public key (RFC 5480), before its uncompressed point.
const SPKI_PREFIX: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200";

/// The site on which people sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelyingParty {
    /// The host name.
    pub id: String,
    /// The origin of the page.
    pub origin: String,
}

impl RelyingParty {
    /// Derives the site from the URL of the page. A loopback address is `localhost`, because the id
    /// is a host name; `None` for another address.
    pub fn of_url(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let authority = rest.split('/').next()?;
        let address: Option<std::net::SocketAddr> = authority.parse().ok();
        let (host, port) = match address {
            Some(address) if address.ip().is_loopback() => ("localhost", Some(address.port().to_string())),
            Some(_) => return None,
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, Some(port.to_owned())),
                None => (authority, None),
            },
        };
        let is_name = !host.is_empty() && host.parse::<std::net::IpAddr>().is_err() && !host.starts_with('[');
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        is_name.then(|| Self {
            id: host.to_ascii_lowercase(),
            origin: format!("{scheme}://{}{port}", host.to_ascii_lowercase()),
        })
    }

    /// The keys of this site for the passkeys of a tenant, also removed ones if `all`.
    pub(crate) fn keys<'p>(
        &self,
        tenant_id: &str,
        passkeys: impl IntoIterator<Item = &'p Passkey>,
    ) -> ApprovalKeys {
        let keys = passkeys.into_iter().map(|passkey| passkey.key.clone()).collect();
        ApprovalKeys::new(&*self.id, vec![self.origin.clone()], keys).of_tenant(tenant_id)
    }

    /// The challenge of a registration in the session with this token.
    pub(crate) fn registration_challenge(token: &str) -> String {
        encode(Sha256::digest(format!("actpass passkey registration\n{token}")))
    }
}

/// A person's passkey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passkey {
    /// The key, whose id is the credential's id.
    pub key: PublicKey,
    /// The person.
    pub person: String,
    /// A name given by the person.
    pub name: String,
    /// When it was registered, as RFC 3339.
    pub created_at: String,
    /// The highest counter that was seen; 0 for a passkey without one.
    pub sign_count: u32,
    /// Whether it was removed. The approvals that it signed stay valid.
    pub removed: bool,
}

impl Passkey {
    /// Returns whether the person may sign with it.
    pub fn is_of(&self, person: &str) -> bool {
        !self.removed && is_same_person(&self.person, person)
    }

    /// Returns the passkeys that events of the chain describe, in order of registration.
    pub fn of_events<'e>(events: impl IntoIterator<Item = &'e str>) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        for event in events.into_iter().filter_map(|event| Json::parse(event.as_bytes()).ok()) {
            let Some(metadata) = event.member("metadata") else { continue };
            let text = |name: &str| metadata.member(name).and_then(Json::as_str);
            let Some(id) = text("passkey_id") else { continue };
            let known = found.iter_mut().find(|passkey| passkey.key.kid() == id);
            match (event.member("event_type").and_then(Json::as_str), known) {
                (Some(PASSKEY_REGISTERED), None) => found.extend(Self::of_event(&event, metadata, id)),
                (Some(PASSKEY_REMOVED), Some(passkey)) => passkey.removed = true,
                (Some(PASSKEY_USED), Some(passkey)) => {
                    passkey.sign_count = passkey.sign_count.max(count_of(metadata));
                }
                (_, _) => {}
            }
        }
        found
    }

    fn of_event(event: &Json, metadata: &Json, id: &str) -> Option<Self> {
        let text = |name: &str| metadata.member(name).and_then(Json::as_str);
        let point = URL_SAFE_NO_PAD.decode(text("public_key")?).ok()?;
        Some(Self {
            key: PublicKey::new(id, Algorithm::Es256, &point)?,
            person: text("person")?.to_owned(),
            name: text("name")?.to_owned(),
            created_at: event.member("created_at").and_then(Json::as_str)?.to_owned(),
            sign_count: count_of(metadata),
            removed: false,
        })
    }
}

fn count_of(metadata: &Json) -> u32 {
    match metadata.member("sign_count") {
        Some(Json::Number(count)) => count.as_str().parse().unwrap_or_default(),
        Some(_) | None => 0,
    }
}

/// A new passkey, as a browser reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The credential's id, in base64url.
    pub id: String,
    /// The uncompressed point, in base64url.
    pub public_key: String,
    /// The counter.
    pub sign_count: u32,
}

impl Registration {
    /// Checks the response of a browser for this challenge: `id`, `client_data_json`,
    /// `authenticator_data`, `public_key` (DER), each in base64url. The person's session vouches for
    /// the key, so no attestation is requested.
    ///
    /// # Errors
    ///
    /// Returns the problem.
    pub fn read(json: &Json, site: &RelyingParty, challenge: &str) -> Result<Self, String> {
        let part = |name: &str| {
            let text = json.member(name).and_then(Json::as_str).filter(|text| text.len() <= 4096);
            text.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
                .ok_or_else(|| format!("{name}: expected base64url"))
        };
        let keys = site.keys("", []);
        let failed = |error| format!("the passkey {error}");
        keys.check_client_data(&part("client_data_json")?, "webauthn.create", challenge).map_err(failed)?;
        let data = part("authenticator_data")?;
        let data = keys.check_authenticator_data(&data).map_err(failed)?;
        let id = part("id")?;
        if data.key_id() != Some(&id) {
            return Err("id: differs from the one in authenticator_data".to_owned());
        }
        let public_key = part("public_key")?;
        let prefix = hex::decode(SPKI_PREFIX).unwrap_or_default();
        let point = public_key.strip_prefix(&*prefix).unwrap_or_default();
        PublicKey::new("", Algorithm::Es256, point)
            .ok_or("public_key: expected a P-256 key (ES256)".to_owned())?;
        Ok(Self { id: encode(id), public_key: encode(point), sign_count: data.sign_count })
    }
}
