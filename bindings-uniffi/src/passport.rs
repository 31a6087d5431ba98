//! The passport calls.

use actpass_core::json::parse_argument;
use actpass_core::{
    Error, IssuedPassport, OfflineVerifyRequest, PassportRequest, Revocation, Secret, Verification,
    VerifyRequest,
};

/// What to ask a passport for.
#[derive(uniffi::Record)]
pub(crate) struct NativePassportRequest {
    /// Whom it is shown to.
    pub(crate) audience: String,
    /// What the agent is to achieve.
    pub(crate) goal: String,
    /// The tools that it may ask for.
    pub(crate) allowed_tools: Vec<String>,
    /// The resources that it may ask for.
    pub(crate) allowed_resources: Vec<String>,
    /// The JSON text of an object: values that bound the arguments.
    pub(crate) resource_constraints: String,
    /// Who delegated.
    pub(crate) user_id: Option<String>,
    /// How much it could damage.
    pub(crate) risk_tier: String,
    /// For how many seconds it holds.
    pub(crate) ttl_seconds: Option<i64>,
    /// The approval that it stands for.
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

/// A passport that was issued.
#[derive(uniffi::Record)]
pub(crate) struct NativeIssued {
    /// The passport.
    pub(crate) token: Secret,
    /// The whole of the answer; it holds the token.
    pub(crate) json: Secret,
}

impl From<&IssuedPassport> for NativeIssued {
    fn from(issued: &IssuedPassport) -> Self {
        Self { token: Secret::new(issued.token()), json: Secret::new(issued.as_json()) }
    }
}

/// What to have verified by the gateway.
#[derive(uniffi::Record)]
pub(crate) struct NativeVerifyRequest {
    /// The passport.
    pub(crate) token: Secret,
    /// Whom it is shown to.
    pub(crate) audience: String,
    /// The agent that it must be made out to.
    pub(crate) agent_id: Option<String>,
    /// Who must have delegated.
    pub(crate) user_id: Option<String>,
    /// The hash of the tool's definition as it is now.
    pub(crate) current_tool_manifest_hash: Option<String>,
    /// The hash of the policy as it is now.
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

/// What to verify with the gateway's public keys.
#[derive(uniffi::Record)]
pub(crate) struct NativeOfflineVerifyRequest {
    /// The passport.
    pub(crate) token: Secret,
    /// Whom it is shown to.
    pub(crate) audience: String,
    /// Who must have issued it.
    pub(crate) issuer: Option<String>,
    /// The agent that it must be made out to.
    pub(crate) agent_id: Option<String>,
    /// Who must have delegated.
    pub(crate) user_id: Option<String>,
    /// The tenant that it must be of.
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

/// Whether a passport is valid.
#[derive(uniffi::Record)]
pub(crate) struct NativeVerification {
    /// Whether it is.
    pub(crate) valid: bool,
    /// What is wrong with it.
    pub(crate) errors: Vec<String>,
    /// The whole of the answer.
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

/// Whether a passport was revoked.
#[derive(uniffi::Record)]
pub(crate) struct NativeRevocation {
    /// Whether it was.
    pub(crate) revoked: bool,
    /// The whole of the answer.
    pub(crate) json: String,
}

impl From<&Revocation> for NativeRevocation {
    fn from(revocation: &Revocation) -> Self {
        Self { revoked: revocation.is_revoked(), json: revocation.as_json().to_owned() }
    }
}
