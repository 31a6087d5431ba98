//! Use case for approving tools.

use super::{Authorized, Service, ServiceError};
use crate::events;
use crate::request::ToolApproval;
use crate::store::{Mutation, Record};

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
}
