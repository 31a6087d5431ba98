//! Arguments of the passport calls.

use actpass_core::{OfflineVerifyRequest, PassportRequest, VerifyRequest};
use pyo3::prelude::*;
use pyo3::types::PyBool;

use crate::arguments::arguments;
use crate::convert::{json_by, optional, string, strings, wrong_type};

arguments! {
    /// A request for a passport, by parameter name.
    IssueArguments {
        audience, goal, allowed_tools, risk_tier;
        allowed_resources, resource_constraints, user_id, ttl_seconds, approval_request_id,
    }
}

impl IssueArguments<'_> {
    pub(crate) fn convert(self, default: Option<&Bound<'_, PyAny>>) -> PyResult<PassportRequest> {
        let mut request = PassportRequest::new(
            string("audience", &self.audience)?,
            string("goal", &self.goal)?,
            strings("allowed_tools", &self.allowed_tools)?,
        )
        .risk_tier(string("risk_tier", &self.risk_tier)?);
        if let Some(resources) = self.allowed_resources {
            request = request.allowed_resources(strings("allowed_resources", &resources)?);
        }
        if let Some(constraints) = self.resource_constraints {
            request = request.resource_constraints(json_by("resource_constraints", &constraints, default)?);
        }
        if let Some(user_id) = optional("user_id", self.user_id.as_ref())? {
            request = request.user_id(user_id);
        }
        if let Some(seconds) = self.ttl_seconds {
            let whole = seconds.extract().ok().filter(|_| !seconds.is_instance_of::<PyBool>());
            let seconds = whole.ok_or_else(|| wrong_type("ttl_seconds", "whole seconds", &seconds))?;
            request = request.ttl_seconds(seconds);
        }
        if let Some(id) = optional("approval_request_id", self.approval_request_id.as_ref())? {
            request = request.approval_request_id(id);
        }
        Ok(request)
    }
}

arguments! {
    /// A verification request, by parameter name.
    VerifyArguments {
        token, audience;
        agent_id, user_id, current_tool_manifest_hash, policy_hash,
    }
}

impl VerifyArguments<'_> {
    pub(crate) fn convert(self) -> PyResult<VerifyRequest> {
        let mut request =
            VerifyRequest::new(string("token", &self.token)?, string("audience", &self.audience)?);
        request.agent_id = optional("agent_id", self.agent_id.as_ref())?;
        request.user_id = optional("user_id", self.user_id.as_ref())?;
        request.current_tool_manifest_hash =
            optional("current_tool_manifest_hash", self.current_tool_manifest_hash.as_ref())?;
        request.policy_hash = optional("policy_hash", self.policy_hash.as_ref())?;
        Ok(request)
    }
}

arguments! {
    /// An offline verification request, by parameter name.
    OfflineVerifyArguments {
        token, audience;
        issuer, agent_id, user_id, tenant_id,
    }
}

impl OfflineVerifyArguments<'_> {
    pub(crate) fn convert(self) -> PyResult<OfflineVerifyRequest> {
        let mut request =
            OfflineVerifyRequest::new(string("token", &self.token)?, string("audience", &self.audience)?);
        request.tenant_id = optional("tenant_id", self.tenant_id.as_ref())?;
        request.issuer = optional("issuer", self.issuer.as_ref())?;
        request.agent_id = optional("agent_id", self.agent_id.as_ref())?;
        request.user_id = optional("user_id", self.user_id.as_ref())?;
        Ok(request)
    }
}
