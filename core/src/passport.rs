//! Passports: short-lived signed tokens that permit certain actions.

use std::fmt;

use actpass_protocol::json::RawObject;
use actpass_protocol::token::Claims;
use actpass_protocol::{Json, Secret};

use crate::halts;

/// A request for a passport.
///
/// ```
/// use actpass_core::PassportRequest;
/// use serde_json::json;
///
/// let request = PassportRequest::new("mcp://stripe-production", "resolve_refund_request", ["stripe.refund.create"])
///     .allowed_resources(["stripe:charge:ch_123"])
///     .resource_constraints(json!({"max_amount": 10000, "currency": "usd"}))
///     .ttl_seconds(300);
/// assert_eq!(request.risk_tier, "medium");
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PassportRequest {
    /// The service that the passport is presented to.
    pub audience: String,
    /// The agent's goal.
    pub goal: String,
    /// The permitted tools.
    pub allowed_tools: Vec<String>,
    /// The permitted resources; none by default.
    pub allowed_resources: Vec<String>,
    /// Constraints on the arguments, a JSON object: `{"max_amount": 10000, "currency": "usd"}`.
    pub resource_constraints: Json,
    /// The delegating user.
    pub user_id: Option<String>,
    /// `low`, `medium` (the default), `high` or `critical`.
    pub risk_tier: String,
    /// The lifetime in seconds; the gateway's default if `None`.
    pub ttl_seconds: Option<u32>,
    /// The approval that the passport stands for. The passport then permits that one action, and
    /// using it spends the approval.
    pub approval_request_id: Option<String>,
}

impl PassportRequest {
    /// A request for a passport for `audience` that permits `allowed_tools` for `goal`.
    pub fn new<T: Into<String>>(
        audience: impl Into<String>,
        goal: impl Into<String>,
        allowed_tools: impl IntoIterator<Item = T>,
    ) -> Self {
        Self {
            audience: audience.into(),
            goal: goal.into(),
            allowed_tools: allowed_tools.into_iter().map(Into::into).collect(),
            allowed_resources: Vec::new(),
            resource_constraints: Json::Object(Vec::new()),
            user_id: None,
            risk_tier: "medium".to_owned(),
            ttl_seconds: None,
            approval_request_id: None,
        }
    }

    /// Sets the permitted resources.
    #[must_use]
    pub fn allowed_resources<T: Into<String>>(mut self, resources: impl IntoIterator<Item = T>) -> Self {
        self.allowed_resources = resources.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the constraints on the arguments; must be a JSON object.
    #[must_use]
    pub fn resource_constraints(mut self, constraints: impl Into<Json>) -> Self {
        self.resource_constraints = constraints.into();
        self
    }

    /// Sets the delegating user.
    #[must_use]
    pub fn user_id(mut self, user_id: impl Into<String>) -> Self {
        self.user_id = Some(user_id.into());
        self
    }

    /// Sets the risk tier.
    #[must_use]
    pub fn risk_tier(mut self, risk_tier: impl Into<String>) -> Self {
        self.risk_tier = risk_tier.into();
        self
    }

    /// Sets the lifetime in seconds.
    #[must_use]
    pub fn ttl_seconds(mut self, seconds: u32) -> Self {
        self.ttl_seconds = Some(seconds);
        self
    }

    /// Sets the approval that the passport stands for.
    #[must_use]
    pub fn approval_request_id(mut self, id: impl Into<String>) -> Self {
        self.approval_request_id = Some(id.into());
        self
    }
}

/// An issued passport.
///
/// See [`ActPass::issue_passport`](crate::ActPass::issue_passport) for an example. `Debug` does not
/// show its content.
#[derive(Clone)]
pub struct IssuedPassport {
    text: Secret,
    token: Secret,
}

impl IssuedPassport {
    pub(crate) fn parse(document: &RawObject) -> Result<Self, String> {
        let token = document.string("token").filter(|token| !token.is_empty()).ok_or("missing `token`")?;
        Ok(Self { text: Secret::new(document.as_str()), token: Secret::new(token) })
    }

    /// The token, a compact JWS. It is a secret. Pass it to
    /// [`Action::passport`](crate::Action::passport).
    pub fn token(&self) -> &str {
        self.token.expose()
    }

    /// Returns another member of the response, such as `jwks_uri`, `jti` or `expires_at`.
    pub fn member(&self, name: &str) -> Option<Json> {
        RawObject::parse(self.text.expose().as_bytes()).ok()?.member(name)
    }

    /// The `halt_epoch` at which it was issued.
    pub(crate) fn halt_epoch(&self) -> Option<u64> {
        halts::epoch_of(&RawObject::parse(self.text.expose().as_bytes()).ok()?).ok()?
    }

    /// The JSON text of the whole response. It contains the token.
    pub fn as_json(&self) -> &str {
        self.text.expose()
    }
}

impl fmt::Debug for IssuedPassport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IssuedPassport([redacted])")
    }
}

/// A request to verify a passport.
///
/// ```
/// use actpass_core::VerifyRequest;
///
/// let request = VerifyRequest::new("eyJ...", "mcp://stripe-production");
/// assert!(!format!("{request:?}").contains("eyJ"));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VerifyRequest {
    /// The passport.
    pub token: Secret,
    /// The service that the passport is presented to.
    pub audience: String,
    /// The expected agent.
    pub agent_id: Option<String>,
    /// The expected delegating user.
    pub user_id: Option<String>,
    /// The current hash of the tool's manifest.
    pub current_tool_manifest_hash: Option<String>,
    /// The current hash of the policy.
    pub policy_hash: Option<String>,
}

impl VerifyRequest {
    /// Verifies `token`, presented to `audience`.
    pub fn new(token: impl Into<Secret>, audience: impl Into<String>) -> Self {
        Self {
            token: token.into(),
            audience: audience.into(),
            agent_id: None,
            user_id: None,
            current_tool_manifest_hash: None,
            policy_hash: None,
        }
    }
}

/// A request to verify a passport offline.
///
/// The signature must verify with the gateway's key that the passport names, by that key's
/// algorithm (`EdDSA` or `ES256`). Issuer, audience and validity period must match, with 10 s of clock leeway. The tenant, if known, and the agent and user, if
/// given, must match the passport. A passport with a `halt_epoch` older than the newest one that the
/// client has seen is rejected (`halted`).
///
/// ```
/// use actpass_core::OfflineVerifyRequest;
///
/// let request = OfflineVerifyRequest::new("eyJ...", "mcp://stripe-production");
/// assert_eq!(request.issuer, None);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OfflineVerifyRequest {
    /// The passport.
    pub token: Secret,
    /// The service that the passport is presented to.
    pub audience: String,
    /// The expected issuer. Default: the issuer published with the gateway's keys, else the base
    /// URL.
    pub issuer: Option<String>,
    /// The expected tenant. Default: the API key's tenant, if published with the gateway's keys,
    /// else the client's [`tenant_id`](crate::ActPassBuilder::tenant_id), else any.
    pub tenant_id: Option<String>,
    /// The expected agent.
    pub agent_id: Option<String>,
    /// The expected delegating user.
    pub user_id: Option<String>,
}

impl OfflineVerifyRequest {
    /// Verifies `token`, presented to `audience`.
    pub fn new(token: impl Into<Secret>, audience: impl Into<String>) -> Self {
        Self {
            token: token.into(),
            audience: audience.into(),
            issuer: None,
            tenant_id: None,
            agent_id: None,
            user_id: None,
        }
    }
}

/// The result of verifying a passport.
///
/// See [`ActPass::verify_passport`](crate::ActPass::verify_passport) for an example.
#[derive(Clone, Debug)]
pub struct Verification(RawObject, bool);

impl Verification {
    pub(crate) fn parse(document: RawObject) -> Result<Self, String> {
        match document.member("valid") {
            Some(Json::Bool(valid)) => Ok(Self(document, valid)),
            Some(_) | None => Err("missing boolean `valid`".to_owned()),
        }
    }

    /// `verified` has the claims, or the codes of every reason why the passport is invalid.
    pub(crate) fn from_result(verified: Result<Claims, Vec<&'static str>>) -> Self {
        let (errors, claims) = match verified {
            Ok(claims) => (Vec::new(), Some(claims)),
            Err(errors) => (errors, None),
        };
        let errors = errors.into_iter().map(Json::from).collect();
        let mut members = vec![("valid", Json::Bool(claims.is_some())), ("errors", Json::Array(errors))];
        members.extend(claims.map(|claims| ("claims", claims.as_json().clone())));
        let members = members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self::from_text(&Json::Object(members).to_string())
    }

    /// Unreadable text counts as invalid.
    fn from_text(text: &str) -> Self {
        let document = RawObject::parse(text.as_bytes()).unwrap_or_default();
        let valid = document.member("valid") == Some(Json::Bool(true));
        Self(document, valid)
    }

    /// Whether the passport is valid.
    pub fn is_valid(&self) -> bool {
        self.1
    }

    /// The reasons why it is invalid; empty if it is valid.
    pub fn errors(&self) -> Vec<String> {
        match self.0.member("errors") {
            Some(Json::Array(errors)) => errors
                .iter()
                .map(|error| error.as_str().map_or_else(|| error.to_string(), str::to_owned))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// The JSON text of the whole response.
    pub fn as_json(&self) -> &str {
        self.0.as_str()
    }
}

/// The result of revoking a passport.
///
/// See [`ActPass::revoke_passport`](crate::ActPass::revoke_passport) for an example.
#[derive(Clone, Debug)]
pub struct Revocation(RawObject, bool);

impl Revocation {
    pub(crate) fn parse(document: RawObject) -> Result<Self, String> {
        match document.member("revoked") {
            Some(Json::Bool(revoked)) => Ok(Self(document, revoked)),
            Some(_) | None => Err("missing boolean `revoked`".to_owned()),
        }
    }

    /// Whether the passport is revoked.
    pub fn is_revoked(&self) -> bool {
        self.1
    }

    /// The JSON text of the whole response.
    pub fn as_json(&self) -> &str {
        self.0.as_str()
    }
}
