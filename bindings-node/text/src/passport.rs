//! Arguments of the passport calls.

use actpass_core::{Error, OfflineVerifyRequest, PassportRequest, VerifyRequest};

use crate::convert::InputObject;

/// The passport to issue.
///
/// # Errors
///
/// If a member has the wrong type.
pub fn issue(members: &InputObject) -> Result<PassportRequest, Error> {
    if members.text("allowedTools").is_none() {
        return Err(members.wrong("allowedTools", "expected a list of strings, found nothing"));
    }
    let mut request = PassportRequest::new(
        members.string("audience")?,
        members.string("goal")?,
        members.strings("allowedTools")?,
    )
    .allowed_resources(members.strings("allowedResources")?);
    if let Some(constraints) = members.json("resourceConstraints") {
        request = request.resource_constraints(constraints);
    }
    if let Some(user_id) = members.optional("userId")? {
        request = request.user_id(user_id);
    }
    if let Some(risk_tier) = members.optional("riskTier")? {
        request = request.risk_tier(risk_tier);
    }
    if let Some(id) = members.optional("approvalRequestId")? {
        request = request.approval_request_id(id);
    }
    if let Some(seconds) = members.whole("ttlSeconds")? {
        request = request.ttl_seconds(seconds);
    }
    Ok(request)
}

/// The passport to verify.
///
/// # Errors
///
/// If a member has the wrong type.
pub fn verify(members: &InputObject) -> Result<VerifyRequest, Error> {
    let mut request = VerifyRequest::new(members.string("token")?, members.string("audience")?);
    request.agent_id = members.optional("agentId")?;
    request.user_id = members.optional("userId")?;
    request.current_tool_manifest_hash = members.optional("currentToolManifestHash")?;
    request.policy_hash = members.optional("policyHash")?;
    Ok(request)
}

/// The passport to verify offline.
///
/// # Errors
///
/// If a member has the wrong type.
pub fn verify_offline(members: &InputObject) -> Result<OfflineVerifyRequest, Error> {
    let mut request = OfflineVerifyRequest::new(members.string("token")?, members.string("audience")?);
    request.issuer = members.optional("issuer")?;
    request.tenant_id = members.optional("tenantId")?;
    request.agent_id = members.optional("agentId")?;
    request.user_id = members.optional("userId")?;
    Ok(request)
}

/// The id of the passport to revoke, and the reason.
///
/// # Errors
///
/// If a member has the wrong type.
pub fn revoke(members: &InputObject) -> Result<(String, Option<String>), Error> {
    Ok((members.string("jti")?, members.optional("reason")?))
}
