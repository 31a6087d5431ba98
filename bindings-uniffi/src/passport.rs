//! The passport calls.

use actpass_core::json::parse_argument;
use actpass_core::{
    Error, IssuedPassport, OfflineVerifyRequest, PassportRequest, Revocation, Secret, Verification,
    VerifyRequest,
};

/// A request for a passport.
#[derive(uniffi::Record)]
pub(crate) struct NativePassportRequest {
    /// The service that the passport is presented to.
    pub(crate) audience: String,
    /// The agent's goal.
    pub(crate) goal: String,
    /// The permitted tools.
    pub(crate) allowed_tools: Vec<String>,
    /// The permitted resources.
    pub(crate) allowed_resources: Vec<String>,
    /// The JSON text of the constraints on the arguments, an object.
    pub(crate) resource_constraints: String,
    /// The delegating user.
    pub(crate) user_id: Option<String>,
    /// The risk tier.
    pub(crate) risk_tier: String,
    /// The lifetime in seconds.
    pub(crate) ttl_seconds: Option<i64>,
    /// The approval that the passport stands for.
    pub(crate) approval_request_id: Option<String>,
}

impl NativePassportRequest {
    pub(crate) fn convert(self) -> Result<PassportRequest, Error> {
        let mut request = PassportRequest::new(self.audience, self.goal, self.allowed_tools)
            .allowed_resources(self.allowed_resources)
            .resource_constraints(parse_argument("resource_constraints", &self.resource_constraints)?)
            .risk_tier(self.risk_tier);
        request.user_id = self.user_id;
        if let Some(seconds) = self.ttl_seconds {
            let whole = u32::try_from(seconds).map_err(|_| {
                Error::argument("ttl_seconds", format_args!("expected whole seconds, found {seconds}"))
            })?;
            request = request.ttl_seconds(whole);
        }
        request.approval_request_id = self.approval_request_id;
        Ok(request)
    }
}

/// An issued passport.
#[derive(uniffi::Record)]
pub(crate) struct NativeIssued {
    /// The passport.
    pub(crate) token: Secret,
    /// The JSON text of the response, which contains the token.
    pub(crate) json: Secret,
}

impl From<&IssuedPassport> for NativeIssued {
    fn from(issued: &IssuedPassport) -> Self {
        Self { token: Secret::new(issued.token()), json: Secret::new(issued.as_json()) }
    }
}

/// A request to verify a passport at the gateway.
#[derive(uniffi::Record)]
pub(crate) struct NativeVerifyRequest {
    /// The passport.
    pub(crate) token: Secret,
    /// The service that the passport is presented to.
    pub(crate) audience: String,
    /// The expected agent.
    pub(crate) agent_id: Option<String>,
    /// The expected delegating user.
    pub(crate) user_id: Option<String>,
    /// The current hash of the tool's manifest.
    pub(crate) current_tool_manifest_hash: Option<String>,
    /// The current hash of the policy.
    pub(crate) policy_hash: Option<String>,
}

impl NativeVerifyRequest {
    pub(crate) fn convert(self) -> VerifyRequest {
        let mut request = VerifyRequest::new(self.token.expose(), self.audience);
        request.agent_id = self.agent_id;
        request.user_id = self.user_id;
        request.current_tool_manifest_hash = self.current_tool_manifest_hash;
        request.policy_hash = self.policy_hash;
        request
    }
}

/// A request to verify a passport offline.
#[derive(uniffi::Record)]
pub(crate) struct NativeOfflineVerifyRequest {
    /// The passport.
    pub(crate) token: Secret,
    /// The service that the passport is presented to.
    pub(crate) audience: String,
    /// The expected issuer.
    pub(crate) issuer: Option<String>,
    /// The expected agent.
    pub(crate) agent_id: Option<String>,
    /// The expected delegating user.
    pub(crate) user_id: Option<String>,
    /// The expected tenant.
    pub(crate) tenant_id: Option<String>,
}

impl NativeOfflineVerifyRequest {
    pub(crate) fn convert(self) -> OfflineVerifyRequest {
        let mut request = OfflineVerifyRequest::new(self.token.expose(), self.audience);
        request.issuer = self.issuer;
        request.agent_id = self.agent_id;
        request.user_id = self.user_id;
        request.tenant_id = self.tenant_id;
        request
    }
}

/// The result of verifying a passport.
#[derive(uniffi::Record)]
pub(crate) struct NativeVerification {
    /// Whether it is valid.
    pub(crate) valid: bool,
    /// The reasons why it is invalid.
    pub(crate) errors: Vec<String>,
    /// The JSON text of the response.
    pub(crate) json: String,
}

impl From<&Verification> for NativeVerification {
    fn from(verification: &Verification) -> Self {
        Self {
            valid: verification.is_valid(),
            errors: verification.errors(),
            json: verification.as_json().to_owned(),
        }
    }
}

/// The result of revoking a passport.
#[derive(uniffi::Record)]
pub(crate) struct NativeRevocation {
    /// Whether it is revoked.
    pub(crate) revoked: bool,
    /// The JSON text of the response.
    pub(crate) json: String,
}

impl From<&Revocation> for NativeRevocation {
    fn from(revocation: &Revocation) -> Self {
        Self { revoked: revocation.is_revoked(), json: revocation.as_json().to_owned() }
    }
}
