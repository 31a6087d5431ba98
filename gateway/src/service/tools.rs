//! Use cases for tools: approving definitions, and their state.

use super::{Authorized, Service, ServiceError};
use crate::auth::ApiKey;
use crate::events;
use crate::request::ToolApproval;
use crate::store::{Mutation, Record};

/// The state of a tool.
#[derive(Clone, Debug)]
pub(crate) struct ToolState {
    /// Hash of the approved manifest.
    pub(crate) manifest_hash: Option<String>,
    /// Whether the policy may permit the tool for some arguments.
    pub(crate) may_permit: bool,
}

impl Service {
    /// Approves a tool's manifest and returns its hash.
    pub(crate) async fn approve_tool(
        &self,
        Authorized(key): Authorized<'_>,
        approval: ToolApproval,
    ) -> Result<String, ServiceError> {
        let ToolApproval { tool_id, manifest_hash } = approval;
        let event = events::tool_approved(key, &tool_id, &manifest_hash);
        let mutation = Some(Mutation::ApproveManifest { tool_id, hash: manifest_hash.clone() });
        self.with_timeout(self.store.record(Record { event, mutation })).await?;
        Ok(manifest_hash)
    }

    /// Returns the state of tools of the key's tenant, in the order of `tool_ids`.
    pub(crate) async fn tool_states(
        &self,
        key: &ApiKey,
        tool_ids: &[String],
    ) -> Result<Vec<ToolState>, ServiceError> {
        let mut states = Vec::with_capacity(tool_ids.len());
        for tool_id in tool_ids {
            let approved = self.store.approved_manifest(&key.tenant.id, tool_id);
            let manifest_hash = self.with_timeout(approved).await?;
            states.push(ToolState { manifest_hash, may_permit: key.tenant.policy.may_permit(tool_id) });
        }
        Ok(states)
    }
}
