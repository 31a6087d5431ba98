//! Approvals signed by a person's passkey: WebAuthn assertions (Level 3, section 7.2) by `ES256`.
//!
//! A person signs a [`Statement`]: the action, the approval, its scope, a nonce and an expiry. The
//! challenge of the assertion is the SHA-256 of the statement's canonical JSON. [`ApprovalKeys`] are
//! the passkeys that a verifier trusts; [`ApprovalKeys::verify`] needs nothing else, so that a
//! client verifies an approval without trusting the gateway that reports it.
//!
//! ```
//! use actpass_protocol::signed_approval::{ApprovalKeys, SignatureError};
//! use actpass_protocol::Json;
//!
//! # let jwk = r#"{"kty":"EC","crv":"P-256","kid":"AQID","x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}"#;
//! let keys = format!(r#"{{"rp_id": "gateway.example", "origins": ["https://gateway.example"], "keys": [{jwk}]}}"#);
//! let keys = ApprovalKeys::parse(&keys)?;
//! let forged = Json::parse(br#"{"key_id": "AQID", "signature": "AA"}"#).unwrap();
//! assert_eq!(keys.verify(&forged, "some hash", 0).unwrap_err(), SignatureError::Malformed);
//! # Ok::<(), String>(())
//! ```

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::hash::canonical_json;
use crate::json::{Json, Number};
use crate::token::{Algorithm, PublicKey, encode};

/// The member of a decision and a passport that lists the signatures of an approval.
pub const MEMBER: &str = "approval_signatures";

/// The maximum number of signatures of an approval.
pub const MAX_SIGNATURES: usize = 16;

/// The maximum length of a part of an assertion in bytes.
const MAX_PART_BYTES: usize = 4096;

/// The maximum length of [`ApprovalKeys`] as text, in bytes.
const MAX_KEYS_BYTES: usize = 256 * 1024;

/// The `decision` of a statement that approves.
const APPROVE: &str = "approve";

/// Length of the fixed part of authenticator data: the hash of the RP id, flags and a counter.
const AUTHENTICATOR_DATA: usize = 37;

const USER_PRESENT: u8 = 1;
const USER_VERIFIED: u8 = 1 << 2;
const BACKUP_ELIGIBLE: u8 = 1 << 3;
const BACKED_UP: u8 = 1 << 4;
const ATTESTED: u8 = 1 << 6;
const EXTENSIONS: u8 = 1 << 7;

/// Why a signature does not approve an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignatureError {
    /// The statement is about another action, or of another tenant.
    Action,
    /// The passkey signed another statement.
    Challenge,
    /// The statement has expired.
    Expired,
    /// Not a signature of the supported form.
    Malformed,
    /// The assertion was made on another site.
    Origin,
    /// The authenticator did not verify the person.
    Presence,
    /// The assertion was made for another relying party.
    RelyingParty,
    /// The signature was used before.
    Replayed,
    /// The signature is invalid.
    Signature,
    /// The passkey is not trusted.
    UnknownKey,
}

/// A predicate about the signature, to follow its subject: `has expired`.
impl fmt::Display for SignatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Action => "approves another action",
            Self::Challenge => "is for another statement",
            Self::Expired => "has expired",
            Self::Malformed => "is malformed",
            Self::Origin => "was made on another site",
            Self::Presence => "was made without verifying the person",
            Self::RelyingParty => "was made for another relying party",
            Self::Replayed => "was used before",
            Self::Signature => "is invalid",
            Self::UnknownKey => "is by an unknown passkey",
        })
    }
}

impl std::error::Error for SignatureError {}

/// The statement that a person signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The hash of the approved action.
    pub action_hash: String,
    /// The id of the approval.
    pub approval_request_id: String,
    /// The tenant.
    pub tenant_id: String,
    /// A random text.
    pub nonce: String,
    /// The hash of the card that the person was shown.
    pub shown_hash: String,
    /// The time after which it approves nothing, in seconds since 1970.
    pub expires_at: i64,
}

impl Statement {
    /// The statement as JSON.
    pub fn to_json(&self) -> Json {
        let text = |name: &str, value: &str| (name.to_owned(), Json::from(value));
        let number = |name: &str, value| (name.to_owned(), Json::Number(Number::from(value)));
        let scope = Json::Object(vec![text("tenant_id", &self.tenant_id), number("uses", 1)]);
        Json::Object(vec![
            text("action_hash", &self.action_hash),
            text("approval_request_id", &self.approval_request_id),
            text("decision", APPROVE),
            number("expires_at", self.expires_at),
            text("nonce", &self.nonce),
            ("scope".to_owned(), scope),
            text("shown_hash", &self.shown_hash),
        ])
    }

    /// Parses a statement; `None` for a missing, unknown or invalid member. An unknown member could
    /// narrow the approval.
    pub fn parse(json: &Json) -> Option<Self> {
        let text = |name| json.member(name).and_then(Json::as_str).map(str::to_owned);
        let scope = json.member("scope")?;
        let Some(Json::Number(expires_at)) = json.member("expires_at") else { return None };
        let statement = Self {
            action_hash: text("action_hash")?,
            approval_request_id: text("approval_request_id")?,
            tenant_id: scope.member("tenant_id")?.as_str()?.to_owned(),
            nonce: text("nonce")?,
            shown_hash: text("shown_hash")?,
            expires_at: expires_at.as_str().parse().ok()?,
        };
        let members = |json: &Json| json.as_object().map(<[_]>::len);
        let expected = statement.to_json();
        let is_whole = members(json) == members(&expected) && members(scope) == Some(2);
        (is_whole && expected.same_value(json)).then_some(statement)
    }

    /// The challenge of its assertion: base64url of the SHA-256 of its canonical JSON.
    pub fn challenge(&self) -> String {
        challenge_of(&self.to_json()).unwrap_or_default()
    }
}

fn challenge_of(json: &Json) -> Option<String> {
    Some(encode(Sha256::digest(canonical_json(json).ok()?)))
}

/// A verified signature of an approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedApproval {
    /// The id of the passkey.
    pub key_id: String,
    /// The statement that the person signed.
    pub statement: Statement,
    /// The counter of the passkey; 0 without one.
    pub sign_count: u32,
}

/// The passkeys that a verifier trusts, and the site on which they sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalKeys {
    rp_id: String,
    origins: Vec<String>,
    keys: Vec<PublicKey>,
    tenant_id: Option<String>,
    tools: Vec<String>,
    quorum: usize,
}

impl ApprovalKeys {
    /// Creates the keys of the relying party `rp_id`, for assertions made on `origins`.
    pub fn new(rp_id: impl Into<String>, origins: Vec<String>, keys: Vec<PublicKey>) -> Self {
        Self { rp_id: rp_id.into(), origins, keys, tenant_id: None, tools: Vec::new(), quorum: 1 }
    }

    /// Parses keys from JSON text: `rp_id`, `origins` and `keys` (a list of P-256 JWKs, whose `kid`
    /// is the id of the passkey). Optional are `tenant_id`, the only tenant whose approvals count;
    /// `tools`, the names of tools that run only with a signed approval, or `*` for all; and
    /// `quorum`, the number of passkeys that must sign (1 by default). Unknown members are errors,
    /// because a misspelled one would be ignored.
    ///
    /// # Errors
    ///
    /// The member, and the expected value.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_KEYS_BYTES {
            return Err(format!("expected at most {MAX_KEYS_BYTES} bytes, found {}", text.len()));
        }
        let json = Json::parse(text.as_bytes()).map_err(|_| "expected a JSON object, found invalid JSON")?;
        let members = json.as_object().ok_or_else(|| format!("expected an object, found {}", json.kind()))?;
        const KNOWN: [&str; 6] = ["keys", "origins", "quorum", "rp_id", "tenant_id", "tools"];
        if let Some((name, _)) = members.iter().find(|(name, _)| !KNOWN.contains(&&**name)) {
            return Err(format!("{name}: unknown member; expected {}", KNOWN.join(", ")));
        }
        let rp_id = json.member("rp_id").and_then(Json::as_str).filter(|id| !id.is_empty());
        let rp_id = rp_id.ok_or("rp_id: expected a host name")?;
        let texts = |name: &str| match json.member(name) {
            Some(Json::Array(items)) => items
                .iter()
                .map(|item| item.as_str().filter(|text| !text.is_empty()).map(str::to_owned))
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| format!("{name}: expected a list of non-empty strings")),
            Some(_) => Err(format!("{name}: expected a list of non-empty strings")),
            None => Ok(Vec::new()),
        };
        let origins = texts("origins")?;
        if origins.is_empty() {
            return Err("origins: expected at least one, such as https://gateway.example".to_owned());
        }
        let Some(Json::Array(listed)) = json.member("keys") else {
            return Err("keys: expected a list of JWKs".to_owned());
        };
        let keys = listed.iter().enumerate().map(|(at, jwk)| {
            let key = PublicKey::parse_jwk(jwk).filter(|key| key.algorithm() == Algorithm::Es256);
            key.ok_or_else(|| format!("keys[{at}]: expected a P-256 JWK with a kid"))
        });
        let keys: Vec<_> = keys.collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err("keys: expected at least one JWK".to_owned());
        }
        let tenant_id = match json.member("tenant_id") {
            None | Some(Json::Null) => None,
            Some(id) => Some(id.as_str().ok_or("tenant_id: expected a string")?.to_owned()),
        };
        let quorum = match json.member("quorum") {
            None => Some(1),
            Some(Json::Number(quorum)) => quorum.as_str().parse().ok(),
            Some(_) => None,
        };
        let limit = keys.len().min(MAX_SIGNATURES);
        let quorum = quorum.filter(|quorum| (1..=limit).contains(quorum));
        let quorum = quorum.ok_or_else(|| format!("quorum: expected an integer of 1 to {limit}"))?;
        Ok(Self { rp_id: rp_id.to_owned(), origins, keys, tenant_id, tools: texts("tools")?, quorum })
    }

    /// Counts only approvals of this tenant.
    #[must_use]
    pub fn of_tenant(self, tenant_id: impl Into<String>) -> Self {
        Self { tenant_id: Some(tenant_id.into()), ..self }
    }

    /// The keys as JSON, as [`ApprovalKeys::parse`] reads them.
    pub fn to_json(&self) -> Json {
        let texts = |texts: &[String]| Json::Array(texts.iter().map(|text| Json::from(&**text)).collect());
        let mut members = vec![
            ("rp_id".to_owned(), Json::from(&*self.rp_id)),
            ("origins".to_owned(), texts(&self.origins)),
            ("keys".to_owned(), Json::Array(self.keys.iter().map(PublicKey::to_jwk).collect())),
        ];
        if let Some(tenant) = &self.tenant_id {
            members.push(("tenant_id".to_owned(), Json::from(&**tenant)));
        }
        if self.quorum > 1 {
            let quorum = i64::try_from(self.quorum).unwrap_or(i64::MAX);
            members.push(("quorum".to_owned(), Json::Number(Number::from(quorum))));
        }
        if !self.tools.is_empty() {
            members.push(("tools".to_owned(), texts(&self.tools)));
        }
        Json::Object(members)
    }

    /// Whether `tool` runs only with a signed approval.
    pub fn covers(&self, tool: &str) -> bool {
        self.tools.iter().any(|covered| covered == "*" || covered == tool)
    }

    /// Verifies the signatures of an approval of the action with this hash at `now`, in seconds since
    /// 1970. At least `quorum` passkeys must have signed the same approval; further signatures do
    /// not count. Returns those that do.
    ///
    /// # Errors
    ///
    /// The first reason of a signature that does not count; [`SignatureError::Malformed`] without
    /// signatures.
    pub fn verify_all(
        &self,
        signatures: &Json,
        action_hash: &str,
        now: i64,
    ) -> Result<Vec<SignedApproval>, SignatureError> {
        let Json::Array(signatures) = signatures else { return Err(SignatureError::Malformed) };
        let mut found: Vec<SignedApproval> = Vec::new();
        let mut problem = SignatureError::Malformed;
        for signature in signatures.iter().take(MAX_SIGNATURES) {
            match self.verify(signature, action_hash, now) {
                Ok(signed) if found.iter().all(|known| known.key_id != signed.key_id) => found.push(signed),
                Ok(_) => problem = SignatureError::Replayed,
                Err(error) => problem = error,
            }
        }
        let of_one = |approval: &SignedApproval| {
            let id = &approval.statement.approval_request_id;
            found.iter().filter(|other| other.statement.approval_request_id == *id).count() >= self.quorum
        };
        let counted: Vec<_> = found.iter().filter(|approval| of_one(approval)).cloned().collect();
        if counted.is_empty() { Err(problem) } else { Ok(counted) }
    }

    /// Verifies a signature of the action with this hash at `now`, in seconds since 1970.
    ///
    /// # Errors
    ///
    /// The first reason why it does not approve the action.
    pub fn verify(
        &self,
        signature: &Json,
        action_hash: &str,
        now: i64,
    ) -> Result<SignedApproval, SignatureError> {
        let text = |name| signature.member(name).and_then(Json::as_str).ok_or(SignatureError::Malformed);
        let part = |name| decode(text(name)?);
        let stated = signature.member("statement").ok_or(SignatureError::Malformed)?;
        let statement = Statement::parse(stated).ok_or(SignatureError::Malformed)?;
        let (data, client, signed) =
            (part("authenticator_data")?, part("client_data_json")?, part("signature")?);
        let key_id = text("key_id")?;
        let key = self.keys.iter().find(|key| key.kid() == key_id).ok_or(SignatureError::UnknownKey)?;
        self.check_client_data(&client, "webauthn.get", &statement.challenge())?;
        let sign_count = self.check_authenticator_data(&data)?.sign_count;
        let message = [&data[..], &Sha256::digest(&client)].concat();
        if !key.verifies_der(&message, &signed) {
            return Err(SignatureError::Signature);
        }
        let is_of_tenant = self.tenant_id.as_ref().is_none_or(|tenant| *tenant == statement.tenant_id);
        if statement.action_hash != action_hash || !is_of_tenant {
            return Err(SignatureError::Action);
        }
        if now >= statement.expires_at {
            return Err(SignatureError::Expired);
        }
        Ok(SignedApproval { key_id: key_id.to_owned(), statement, sign_count })
    }

    /// Checks the data that a browser collected for a ceremony of this type with this challenge.
    ///
    /// # Errors
    ///
    /// The first problem.
    pub fn check_client_data(
        &self,
        client_data: &[u8],
        ceremony: &str,
        challenge: &str,
    ) -> Result<(), SignatureError> {
        let json = Json::parse(client_data).map_err(|_| SignatureError::Malformed)?;
        let text = |name| json.member(name).and_then(Json::as_str).ok_or(SignatureError::Malformed);
        if text("type")? != ceremony {
            return Err(SignatureError::Malformed);
        }
        if text("challenge")? != challenge {
            return Err(SignatureError::Challenge);
        }
        let origin = text("origin")?;
        // In a frame of another site, a person may not know the purpose of the assertion.
        let is_framed = json.member("crossOrigin").is_some_and(|framed| *framed != Json::Bool(false))
            || json.member("topOrigin").is_some();
        if is_framed || !self.origins.iter().any(|known| known == origin) {
            return Err(SignatureError::Origin);
        }
        Ok(())
    }

    /// Checks the authenticator data of a ceremony: relying party, presence, verification.
    ///
    /// # Errors
    ///
    /// The first problem.
    pub fn check_authenticator_data<'d>(
        &self,
        data: &'d [u8],
    ) -> Result<AuthenticatorData<'d>, SignatureError> {
        let (fixed, rest) = data.split_at_checked(AUTHENTICATOR_DATA).ok_or(SignatureError::Malformed)?;
        let (rp_id_hash, fixed) = fixed.split_at_checked(32).ok_or(SignatureError::Malformed)?;
        let (flags, count) = fixed.split_first().ok_or(SignatureError::Malformed)?;
        let count: [u8; 4] = count.try_into().map_err(|_| SignatureError::Malformed)?;
        let has = |flag| flags & flag == flag;
        let is_well_formed = (has(BACKUP_ELIGIBLE) || !has(BACKED_UP))
            && (has(ATTESTED) || has(EXTENSIONS) || rest.is_empty());
        if !is_well_formed {
            return Err(SignatureError::Malformed);
        }
        if *rp_id_hash != *Sha256::digest(&self.rp_id) {
            return Err(SignatureError::RelyingParty);
        }
        if !has(USER_PRESENT) || !has(USER_VERIFIED) {
            return Err(SignatureError::Presence);
        }
        let attested = if has(ATTESTED) { rest } else { &[] };
        Ok(AuthenticatorData { sign_count: u32::from_be_bytes(count), attested })
    }
}

/// The parsed data of an authenticator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthenticatorData<'d> {
    /// The counter; 0 without one.
    pub sign_count: u32,
    attested: &'d [u8],
}

impl<'d> AuthenticatorData<'d> {
    /// The id of the new passkey of a registration; `None` for an assertion.
    pub fn key_id(&self) -> Option<&'d [u8]> {
        // An AAGUID of 16 bytes, and a length of 2.
        let (length, rest) = self.attested.get(16..)?.split_at_checked(2)?;
        let length = u16::from_be_bytes(length.try_into().ok()?);
        rest.get(..usize::from(length)).filter(|id| !id.is_empty())
    }
}

fn decode(text: &str) -> Result<Vec<u8>, SignatureError> {
    if text.len() > MAX_PART_BYTES {
        return Err(SignatureError::Malformed);
    }
    URL_SAFE_NO_PAD.decode(text).map_err(|_| SignatureError::Malformed)
}
