//! Passports: short-lived, signed leave to ask for certain actions.

use std::fmt;

use actpass_protocol::json::RawObject;
use actpass_protocol::token::{Claims, PassportError};
use actpass_protocol::{Json, Secret};

/// What to ask a passport for.
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
    /// Whom the passport is shown to.
    pub audience: String,
    /// What the agent is to achieve.
    pub goal: String,
    /// The tools that it may ask for.
    pub allowed_tools: Vec<String>,
    /// The resources that it may ask for; none by default.
    pub allowed_resources: Vec<String>,
    /// Values that bound the arguments, a JSON object: `{"max_amount": 10000, "currency": "usd"}`.
    pub resource_constraints: Json,
    /// Who delegated.
    pub user_id: Option<String>,
    /// `low`, `medium` (the default), `high` or `critical`.
    pub risk_tier: String,
    /// For how many seconds it holds; the gateway's default if not set.
    pub ttl_seconds: Option<u32>,
    /// The approval that it stands for: it is then for that one action, and using it spends the approval.
    pub approval_request_id: Option<String>,
}

impl PassportRequest {
    /// A passport for `audience` that permits `allowed_tools` for `goal`.
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

    /// Sets the resources that may be asked for.
    #[must_use]
    pub fn allowed_resources<T: Into<String>>(mut self, resources: impl IntoIterator<Item = T>) -> Self {
        self.allowed_resources = resources.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the values that bound the arguments; it must be a JSON object.
    #[must_use]
    pub fn resource_constraints(mut self, constraints: impl Into<Json>) -> Self {
        self.resource_constraints = constraints.into();
        self
    }

    /// Sets who delegated.
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

    /// Sets for how many seconds it holds.
    #[must_use]
    pub fn ttl_seconds(mut self, seconds: u32) -> Self {
        self.ttl_seconds = Some(seconds);
        self
    }

    /// Sets the approval that it stands for.
    #[must_use]
    pub fn approval_request_id(mut self, id: impl Into<String>) -> Self {
        self.approval_request_id = Some(id.into());
        self
    }
}

/// A passport that was issued.
///
/// [`ActPass::issue_passport`](crate::ActPass::issue_passport) has an example. Its `Debug` shows nothing of it.
#[derive(Clone)]
pub struct IssuedPassport {
    text: Secret,
    token: Secret,
}

impl IssuedPassport {
    pub(crate) fn parse(document: &RawObject) -> Result<Self, String> {
        let token = document.string("token").filter(|token| !token.is_empty()).ok_or("it has no `token`")?;
        Ok(Self { text: Secret::new(document.as_str()), token: Secret::new(token) })
    }

    /// The passport itself, a compact JWS; a secret. Give it to [`Action::passport`](crate::Action::passport).
    pub fn token(&self) -> &str {
        self.token.expose()
    }

    /// Any other member of the answer, such as `jwks_uri`, `jti`, `expires_at`.
    pub fn member(&self, name: &str) -> Option<Json> {
        RawObject::parse(self.text.expose().as_bytes()).ok()?.member(name)
    }

    /// The JSON text of the whole answer. It holds the token.
    pub fn as_json(&self) -> &str {
        self.text.expose()
    }
}

impl fmt::Debug for IssuedPassport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IssuedPassport([redacted])")
    }
}

/// What to have verified.
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
    /// Whom it is shown to.
    pub audience: String,
    /// The agent that it must be made out to.
    pub agent_id: Option<String>,
    /// Who must have delegated.
    pub user_id: Option<String>,
    /// The hash of the tool's definition as it is now.
    pub current_tool_manifest_hash: Option<String>,
    /// The hash of the policy as it is now.
    pub policy_hash: Option<String>,
}

impl VerifyRequest {
    /// Verifies `token` as shown to `audience`.
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

/// What a passport must be to be valid, without asking the gateway about it.
///
/// The signature must be Ed25519 by one of the gateway's keys, the issuer, the audience and the time must be right (10 s
/// of difference between clocks are borne), and the tenant, if the client has one, and the agent and user, if given here,
/// must be those of the passport.
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
    /// Whom it is shown to.
    pub audience: String,
    /// Who must have issued it; by default the issuer that the gateway names with its keys, or else its base URL.
    pub issuer: Option<String>,
    /// The tenant that it must belong to; by default that of the API key, if the gateway names it with its keys, or else the
    /// client's [`tenant_id`](crate::ActPassBuilder::tenant_id); any if neither is known.
    pub tenant_id: Option<String>,
    /// The agent that it must be made out to.
    pub agent_id: Option<String>,
    /// Who must have delegated.
    pub user_id: Option<String>,
}

impl OfflineVerifyRequest {
    /// Verifies `token` as shown to `audience`.
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

/// Whether a passport is valid.
///
/// [`ActPass::verify_passport`](crate::ActPass::verify_passport) has an example.
#[derive(Clone, Debug)]
pub struct Verification(RawObject, bool);

impl Verification {
    pub(crate) fn parse(document: RawObject) -> Result<Self, String> {
        match document.member("valid") {
            Some(Json::Bool(valid)) => Ok(Self(document, valid)),
            Some(_) | None => Err("it has no boolean `valid`".to_owned()),
        }
    }

    pub(crate) fn from_result(verified: Result<Claims, Vec<PassportError>>) -> Self {
        let (errors, claims) = match verified {
            Ok(claims) => (Vec::new(), Some(claims)),
            Err(errors) => (errors, None),
        };
        let errors = errors.into_iter().map(|refusal| Json::from(refusal.code())).collect();
        let mut members = vec![("valid", Json::Bool(claims.is_some())), ("errors", Json::Array(errors))];
        members.extend(claims.map(|claims| ("claims", claims.as_json().clone())));
        let members = members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self::from_text(&Json::Object(members).to_string())
    }

    /// What cannot be read is not valid.
    fn from_text(text: &str) -> Self {
        let document = RawObject::parse(text.as_bytes()).unwrap_or_default();
        let valid = document.member("valid") == Some(Json::Bool(true));
        Self(document, valid)
    }

    /// Whether it is.
    pub fn is_valid(&self) -> bool {
        self.1
    }

    /// What is wrong with it.
    pub fn errors(&self) -> Vec<String> {
        match self.0.member("errors") {
            Some(Json::Array(errors)) => errors
                .iter()
                .map(|error| error.as_str().map_or_else(|| error.to_string(), str::to_owned))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// The JSON text of the whole answer.
    pub fn as_json(&self) -> &str {
        self.0.as_str()
    }
}

/// Whether a passport was revoked.
///
/// [`ActPass::revoke_passport`](crate::ActPass::revoke_passport) has an example.
#[derive(Clone, Debug)]
pub struct Revocation(RawObject, bool);

impl Revocation {
    pub(crate) fn parse(document: RawObject) -> Result<Self, String> {
        match document.member("revoked") {
            Some(Json::Bool(revoked)) => Ok(Self(document, revoked)),
            Some(_) | None => Err("it has no boolean `revoked`".to_owned()),
        }
    }

    /// Whether it was.
    pub fn is_revoked(&self) -> bool {
        self.1
    }

    /// The JSON text of the whole answer.
    pub fn as_json(&self) -> &str {
        self.0.as_str()
    }
}
