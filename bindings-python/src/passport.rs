//! The arguments of the passport calls.

use actpass_core::{OfflineVerifyRequest, PassportRequest, VerifyRequest};
use pyo3::prelude::*;
use pyo3::types::PyBool;

use crate::convert::{json_by, optional, string, strings, wrong_type};

/// The members of a request for a passport, in the order of the face's parameters.
#[derive(FromPyObject)]
pub(crate) struct IssueArguments<'py>(
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Bound<'py, PyAny>,
    Option<Bound<'py, PyAny>>,
);

impl IssueArguments<'_> {
    pub(crate) fn convert(self, default: Option<&Bound<'_, PyAny>>) -> PyResult<PassportRequest> {
        let Self(audience, goal, tools, resources, constraints, user_id, ttl_seconds, risk_tier, approval) =
            self;
        let mut request = PassportRequest::new(
            string("audience", &audience)?,
            string("goal", &goal)?,
            strings("allowed_tools", &tools)?,
        )
        .risk_tier(string("risk_tier", &risk_tier)?);
        if let Some(resources) = resources {
            request = request.allowed_resources(strings("allowed_resources", &resources)?);
        }
        if let Some(constraints) = constraints {
            request = request.resource_constraints(json_by("resource_constraints", &constraints, default)?);
        }
        if let Some(user_id) = optional("user_id", user_id.as_ref())? {
            request = request.user_id(user_id);
        }
        if let Some(seconds) = ttl_seconds {
            let whole = seconds.extract().ok().filter(|_| !seconds.is_instance_of::<PyBool>());
            let seconds = whole.ok_or_else(|| wrong_type("ttl_seconds", "whole seconds", &seconds))?;
            request = request.ttl_seconds(seconds);
        }
        if let Some(id) = optional("approval_request_id", approval.as_ref())? {
            request = request.approval_request_id(id);
        }
        Ok(request)
    }
}

/// The members of a verification, in the order of the face's parameters.
#[derive(FromPyObject)]
pub(crate) struct VerifyArguments<'py>(
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
);

impl VerifyArguments<'_> {
    pub(crate) fn convert(self) -> PyResult<VerifyRequest> {
        let Self(token, audience, agent_id, user_id, manifest_hash, policy_hash) = self;
        let mut request = VerifyRequest::new(string("token", &token)?, string("audience", &audience)?);
        request.agent_id = optional("agent_id", agent_id.as_ref())?;
        request.user_id = optional("user_id", user_id.as_ref())?;
        request.current_tool_manifest_hash = optional("current_tool_manifest_hash", manifest_hash.as_ref())?;
        request.policy_hash = optional("policy_hash", policy_hash.as_ref())?;
        Ok(request)
    }
}

/// The members of a verification without the gateway, in the order of the face's parameters.
#[derive(FromPyObject)]
pub(crate) struct OfflineVerifyArguments<'py>(
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
);

impl OfflineVerifyArguments<'_> {
    pub(crate) fn convert(self) -> PyResult<OfflineVerifyRequest> {
        let Self(token, audience, issuer, agent_id, user_id, tenant_id) = self;
        let mut request = OfflineVerifyRequest::new(string("token", &token)?, string("audience", &audience)?);
        request.tenant_id = optional("tenant_id", tenant_id.as_ref())?;
        request.issuer = optional("issuer", issuer.as_ref())?;
        request.agent_id = optional("agent_id", agent_id.as_ref())?;
        request.user_id = optional("user_id", user_id.as_ref())?;
        Ok(request)
    }
}
