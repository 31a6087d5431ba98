//! Passport tokens, as read by the gateway and by clients that verify offline.
//!
//! A token is a restricted compact JWS (RFC 7515): three base64url parts without padding, a header
//! of only `alg`, `kid` and `typ`, and a signature by Ed25519 (RFC 8037) or ECDSA with P-256 (RFC
//! 7518). The key that `kid` names fixes the [`Algorithm`]; a token with another `alg` is rejected.
//! [`Unverified::passport`] parses a token, [`Unverified::verify`] checks the signature, [`Claims`]
//! holds the claims, and [`Claims::validate`] checks them against the presentation.
//! [`PassportError`] lists every reason for rejection.
//!
//! ```
//! use actpass_protocol::Json;
//! use actpass_protocol::token::{Algorithm, Presentation, Claims, PublicKey, PassportError, ValidationTime, TokenType, Unverified, encode, signing_input};
//! use ed25519_dalek::{Signer, SigningKey};
//!
//! let pair = SigningKey::from_bytes(&[7; 32]);
//! let key = PublicKey::new("k1", Algorithm::EdDsa, pair.verifying_key().as_bytes()).unwrap();
//! let claims = Json::parse(br#"{"iss": "https://gateway", "aud": "mcp://shop", "tenant_id": "acme", "agent_id": "bot",
//!     "user_id": null, "goal": "refund", "allowed_tools": ["refunds.create"], "allowed_resources": [],
//!     "resource_constraints": {}, "risk_tier": "low", "iat": 1000, "exp": 1300, "jti": "ap_1"}"#).unwrap();
//! let input = signing_input(TokenType::Passport, &key, &claims);
//! let token = format!("{input}.{}", encode(pair.sign(input.as_bytes()).to_bytes()));
//!
//! let unverified = Unverified::passport(&token)?;
//! assert_eq!(unverified.kid(), "k1");
//! let claims = Claims::parse(&unverified.verify(&key)?)?;
//! let presentation = Presentation {
//!     issuer: "https://gateway",
//!     audience: Some("mcp://bank"),
//!     tenant_id: Some("acme"),
//!     agent_id: Some(Some("bot")),
//!     user_id: None,
//! };
//! assert_eq!(claims.validate(&presentation, &ValidationTime { now: 1000, not_before_leeway: 5, expiry_leeway: 0 }), [PassportError::Audience]);
//! # Ok::<(), PassportError>(())
//! ```

mod dpop_proof;
mod key;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::json::Json;
pub use dpop_proof::{DpopProof, InvalidProof, MAX_PROOF_BYTES};
pub use key::{Algorithm, PublicKey};

/// The maximum length of a token in bytes.
pub const MAX_BYTES: usize = 32 * 1024;

/// The maximum length of a JWK Set in bytes.
pub const MAX_JWKS_BYTES: usize = 64 * 1024;

/// Why a passport is rejected.
///
/// Some reasons are known only to the gateway, such as reuse, revocation and the action.
///
/// ```
/// use actpass_protocol::token::PassportError;
///
/// assert_eq!(PassportError::Expired.code(), "passport.expired");
/// assert_eq!(PassportError::Expired.to_string(), "has expired");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PassportError {
    /// Issued to another agent.
    Agent,
    /// An unknown algorithm, or another one than the key's.
    Algorithm,
    /// Bound to an approval of another action.
    Approval,
    /// Bound to an approval that no trusted passkey has signed.
    ApprovalSignature,
    /// Issued for another audience.
    Audience,
    /// An argument violates a constraint.
    Constraint,
    /// Expired.
    Expired,
    /// Issued for another goal.
    Goal,
    /// Issued by another issuer.
    Issuer,
    /// Bound to a key that did not sign a DPoP proof for the request.
    Key,
    /// Not a compact JWS of the supported form, or without the required claims.
    Malformed,
    /// Issued in the future, or not valid yet.
    NotYetValid,
    /// Presented under another policy than the one in force.
    Policy,
    /// Already used for another request.
    Replayed,
    /// Does not permit the resource.
    Resource,
    /// Revoked, or never issued by this gateway.
    Revoked,
    /// Invalid signature.
    Signature,
    /// Belongs to another tenant.
    Tenant,
    /// Does not permit the tool.
    Tool,
    /// Unknown `kid`.
    UnknownKey,
    /// Delegated by another user.
    User,
}

impl PassportError {
    /// All reasons.
    const ALL: [Self; 21] = [
        Self::Agent,
        Self::Algorithm,
        Self::Approval,
        Self::ApprovalSignature,
        Self::Audience,
        Self::Constraint,
        Self::Expired,
        Self::Goal,
        Self::Issuer,
        Self::Key,
        Self::Malformed,
        Self::NotYetValid,
        Self::Policy,
        Self::Replayed,
        Self::Resource,
        Self::Revoked,
        Self::Signature,
        Self::Tenant,
        Self::Tool,
        Self::UnknownKey,
        Self::User,
    ];

    /// The reason with a code; `None` for an unknown one.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// The stable reason code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Agent => "passport.agent",
            Self::Algorithm => "passport.algorithm",
            Self::Approval => "passport.approval",
            Self::ApprovalSignature => "passport.approval_signature",
            Self::Audience => "passport.audience",
            Self::Constraint => "passport.constraint",
            Self::Expired => "passport.expired",
            Self::Goal => "passport.goal",
            Self::Issuer => "passport.issuer",
            Self::Key => "passport.key",
            Self::Malformed => "passport.malformed",
            Self::NotYetValid => "passport.not_yet_valid",
            Self::Policy => "passport.policy",
            Self::Replayed => "passport.replayed",
            Self::Resource => "passport.resource",
            Self::Revoked => "passport.revoked",
            Self::Signature => "passport.signature",
            Self::Tenant => "passport.tenant",
            Self::Tool => "passport.tool",
            Self::UnknownKey => "passport.unknown_key",
            Self::User => "passport.user",
        }
    }
}

/// A predicate about the passport, to follow its subject: `has expired`.
impl fmt::Display for PassportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "was issued to another agent",
            Self::Algorithm => "is not signed with the algorithm of its key",
            Self::Approval => "is bound to an approval of another action",
            Self::ApprovalSignature => "is bound to an approval that no trusted passkey has signed",
            Self::Audience => "is for another audience",
            Self::Constraint => "does not permit these arguments",
            Self::Expired => "has expired",
            Self::Goal => "is for another goal",
            Self::Issuer => "is from another issuer",
            Self::Key => "is bound to a key that did not sign a DPoP proof for this request",
            Self::Malformed => "is malformed",
            Self::NotYetValid => "is not valid yet",
            Self::Policy => "was presented under another policy",
            Self::Replayed => "was used before",
            Self::Resource => "does not permit this resource",
            Self::Revoked => "was revoked or is unknown to this gateway",
            Self::Signature => "has an invalid signature",
            Self::Tenant => "belongs to another tenant",
            Self::Tool => "does not permit this tool",
            Self::UnknownKey => "names an unknown key",
            Self::User => "was not delegated by the requesting user",
        })
    }
}

impl std::error::Error for PassportError {}

/// The type of a token. The same keys sign all types, so the type is always checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// The head of a ledger chain at the time of an export.
    ChainHead,
    /// A passport.
    Passport,
}

impl TokenType {
    /// The `typ` header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ChainHead => "actpass-chain-head+jwt",
            Self::Passport => "JWT",
        }
    }

    /// Whether a header may have this `typ`; passports of other gateways may omit it.
    fn permits(self, typ: Option<&Json>) -> bool {
        match (self, typ) {
            (Self::Passport, None) => true,
            (Self::ChainHead | Self::Passport, typ) => typ.and_then(Json::as_str) == Some(self.as_str()),
        }
    }
}

/// A parsed token. Only its form was checked; its content is untrusted.
#[derive(Debug)]
pub struct Unverified<'t> {
    algorithm: Algorithm,
    kid: String,
    signed: &'t str,
    signature: Vec<u8>,
    payload: Vec<u8>,
}

impl<'t> Unverified<'t> {
    /// Parses a passport of at most [`MAX_BYTES`].
    ///
    /// # Errors
    ///
    /// [`PassportError::Algorithm`] for an unknown algorithm, before any other error;
    /// [`PassportError::Malformed`] for padding, spare bits, white space, a missing `kid`, or an
    /// unknown or duplicate header member.
    pub fn passport(token: &'t str) -> Result<Self, PassportError> {
        Self::read(token, TokenType::Passport)
    }

    /// Parses a signed chain head.
    ///
    /// # Errors
    ///
    /// As [`Unverified::passport`].
    pub fn chain_head(token: &'t str) -> Result<Self, PassportError> {
        Self::read(token, TokenType::ChainHead)
    }

    fn read(token: &'t str, typ: TokenType) -> Result<Self, PassportError> {
        if token.len() > MAX_BYTES {
            return Err(PassportError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(PassportError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(PassportError::Malformed)?;
        let (algorithm, kid) = read_header(&decode(header)?, typ)?;
        Ok(Self { algorithm, kid, signed, signature: decode(signature)?, payload: decode(payload)? })
    }

    /// The id of the key that the token claims to be signed with.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The payload without verification: to display, not to trust.
    pub fn danger_unverified(self) -> Vec<u8> {
        self.payload
    }

    /// Verifies the signature and returns the payload.
    ///
    /// # Errors
    ///
    /// [`PassportError::UnknownKey`] if `key` has another id, [`PassportError::Algorithm`] if the
    /// token names another algorithm than the key's, [`PassportError::Signature`] if the signature
    /// is invalid.
    pub fn verify(self, key: &PublicKey) -> Result<Vec<u8>, PassportError> {
        if key.kid() != self.kid {
            return Err(PassportError::UnknownKey);
        }
        if key.algorithm() != self.algorithm {
            return Err(PassportError::Algorithm);
        }
        key.verify(self.signed.as_bytes(), &self.signature)?;
        Ok(self.payload)
    }
}

/// Builds the signed part of a token for `key`. Append a dot and the [`encode`]d signature to
/// complete it.
pub fn signing_input(typ: TokenType, key: &PublicKey, claims: &Json) -> String {
    let header = Json::Object(vec![
        ("alg".to_owned(), Json::from(key.algorithm().as_str())),
        ("kid".to_owned(), Json::from(key.kid())),
        ("typ".to_owned(), Json::from(typ.as_str())),
    ]);
    format!("{}.{}", encode(header.to_string()), encode(claims.to_string()))
}

/// Encodes base64url without padding.
///
/// ```
/// assert_eq!(actpass_protocol::token::encode([255; 3]), "____");
/// ```
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Decodes base64url without padding.
///
/// # Errors
///
/// [`PassportError::Malformed`] for padding, spare bits, or other characters.
///
/// ```
/// assert_eq!(actpass_protocol::token::decode("____").unwrap(), [255; 3]);
/// ```
pub fn decode(part: &str) -> Result<Vec<u8>, PassportError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| PassportError::Malformed)
}

/// Returns the algorithm and the `kid` of a header.
fn read_header(bytes: &[u8], typ: TokenType) -> Result<(Algorithm, String), PassportError> {
    let header = Json::parse(bytes).map_err(|_| PassportError::Malformed)?;
    let text = |name| header.member(name).and_then(Json::as_str);
    let algorithm = text("alg").ok_or(PassportError::Malformed)?;
    let algorithm = Algorithm::from_name(algorithm).ok_or(PassportError::Algorithm)?;
    // Reject members such as `crit`, which demands extensions, or `jwk`, which supplies its own
    // key.
    let is_known = |name: &str| matches!(name, "alg" | "kid" | "typ");
    let members = header.as_object().unwrap_or_default();
    let closed = members.iter().all(|(name, _)| is_known(name)) && typ.permits(header.member("typ"));
    match text("kid") {
        Some(kid) if closed && !kid.is_empty() => Ok((algorithm, kid.to_owned())),
        Some(_) | None => Err(PassportError::Malformed),
    }
}

/// The claims of a passport.
///
/// They are only as trustworthy as the parsed bytes: use the output of [`Unverified::verify`].
#[derive(Clone, Debug)]
pub struct Claims {
    json: Json,
    issued_at: i64,
    not_before: Option<i64>,
    expires_at: i64,
}

/// The context in which a passport is presented.
#[derive(Clone, Copy, Debug)]
pub struct Presentation<'a> {
    /// The expected issuer.
    pub issuer: &'a str,
    /// The audience; `None` accepts any.
    pub audience: Option<&'a str>,
    /// The tenant; `None` accepts any.
    pub tenant_id: Option<&'a str>,
    /// The agent; the outer `None` accepts any.
    pub agent_id: Option<Option<&'a str>>,
    /// The user; the outer `None` accepts any.
    pub user_id: Option<Option<&'a str>>,
}

/// The time at which a passport is validated.
#[derive(Clone, Copy, Debug)]
pub struct ValidationTime {
    /// The time, in seconds since 1970.
    pub now: i64,
    /// Seconds before its start of validity in which a passport is accepted: the issuer's clock may
    /// be ahead.
    pub not_before_leeway: i64,
    /// Seconds after its expiry in which a passport is still accepted.
    pub expiry_leeway: i64,
}

impl Claims {
    /// Parses the claims. Times are whole seconds; `agent_id` and `user_id` may be `null`.
    ///
    /// # Errors
    ///
    /// [`PassportError::Malformed`] for a missing, duplicate or wrongly typed claim.
    pub fn parse(payload: &[u8]) -> Result<Self, PassportError> {
        Self::read(payload).ok_or(PassportError::Malformed)
    }

    fn read(payload: &[u8]) -> Option<Self> {
        let json = Json::parse(payload).ok()?;
        for name in ["iss", "aud", "tenant_id", "goal", "risk_tier", "jti"] {
            json.member(name)?.as_str()?;
        }
        for name in ["agent_id", "user_id"] {
            string_or_null(json.member(name)?)?;
        }
        for name in ["approval_hash", "approval_request_id"] {
            json.member(name).map_or(Some(()), string_or_null)?;
        }
        let text = |name| json.member(name).and_then(Json::as_str);
        if text("approval_request_id").is_some() && text("approval_hash").is_none() {
            return None;
        }
        for name in ["allowed_tools", "allowed_resources"] {
            let Json::Array(items) = json.member(name)? else {
                return None;
            };
            if !items.iter().all(|item| item.as_str().is_some()) {
                return None;
            }
        }
        json.member("resource_constraints")?.as_object()?;
        let not_before = match json.member("nbf") {
            Some(time) => Some(seconds(time)?),
            None => None,
        };
        let (issued_at, expires_at) = (seconds(json.member("iat")?)?, seconds(json.member("exp")?)?);
        Some(Self { json, issued_at, not_before, expires_at })
    }

    /// All claims, as an object.
    pub fn as_json(&self) -> &Json {
        &self.json
    }

    /// Returns a string claim.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.json.member(name).and_then(Json::as_str)
    }

    /// Returns a claim that is a list of strings; empty if missing.
    pub fn texts(&self, name: &str) -> impl Iterator<Item = &str> {
        let listed = match self.json.member(name) {
            Some(Json::Array(items)) => &**items,
            Some(_) | None => &[],
        };
        listed.iter().filter_map(Json::as_str)
    }

    /// The passport's id.
    pub fn jti(&self) -> &str {
        self.text("jti").unwrap_or_default()
    }

    /// When the passport expires, in seconds since 1970.
    pub const fn expires_at(&self) -> i64 {
        self.expires_at
    }

    /// The hash of the approved action, if the passport is bound to an approval.
    pub fn approval_hash(&self) -> Option<&str> {
        self.text("approval_hash")
    }

    /// The id of that approval; only with [`Claims::approval_hash`].
    pub fn approval_request_id(&self) -> Option<&str> {
        self.text("approval_request_id")
    }

    /// Returns whether a presentation may use the passport. `proven` is the thumbprint of the key that
    /// signed the presentation's DPoP proof, if it has one. An unbound passport may always be used.
    ///
    /// A passport with a `cnf` (RFC 7800) of another form is bound to an unknown key.
    pub fn is_held_by(&self, proven: Option<&str>) -> bool {
        let Some(confirmation) = self.json.member("cnf") else { return true };
        let key = confirmation.member("jkt").and_then(Json::as_str);
        key.is_some() && key == proven
    }

    /// Returns every reason why the passport is invalid for this presentation at this time, most
    /// important first.
    pub fn validate(&self, presentation: &Presentation<'_>, time: &ValidationTime) -> Vec<PassportError> {
        let is = |name, value: Option<Option<&str>>| value.is_none_or(|value| value == self.text(name));
        let begins = self.not_before.unwrap_or(i64::MIN).max(self.issued_at);
        let found = [
            (self.text("iss") != Some(presentation.issuer), PassportError::Issuer),
            (
                presentation.audience.is_some_and(|audience| Some(audience) != self.text("aud")),
                PassportError::Audience,
            ),
            (!is("tenant_id", presentation.tenant_id.map(Some)), PassportError::Tenant),
            (!is("agent_id", presentation.agent_id), PassportError::Agent),
            (!is("user_id", presentation.user_id), PassportError::User),
            (time.now >= self.expires_at.saturating_add(time.expiry_leeway), PassportError::Expired),
            (begins > time.now.saturating_add(time.not_before_leeway), PassportError::NotYetValid),
        ];
        found.into_iter().filter_map(|(wrong, refusal)| wrong.then_some(refusal)).collect()
    }
}

fn string_or_null(value: &Json) -> Option<()> {
    (*value == Json::Null || value.as_str().is_some()).then_some(())
}

fn seconds(value: &Json) -> Option<i64> {
    match value {
        Json::Number(number) => number.as_str().parse().ok(),
        Json::Array(_) | Json::Bool(_) | Json::Null | Json::Object(_) | Json::String(_) => None,
    }
}
