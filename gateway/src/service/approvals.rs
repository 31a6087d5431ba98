//! Use cases for approvals: read, await, list, decide.

use tokio::time::Instant;

use super::{Authorized, Service, ServiceError};
use crate::approvals::{Approval, ApprovalDecision, Status};
use crate::auth::Principal;
use crate::events;
use crate::store::{Change, Listing, Transition, TransitionOutcome};

const NOT_FOUND: ServiceError = ServiceError::NotFound("approval");

impl Service {
    /// Returns an approval of the key's tenant; `None` if it does not exist.
    pub(crate) async fn find_approval(
        &self,
        key: &Principal,
        id: &str,
    ) -> Result<Option<Approval>, ServiceError> {
        self.with_timeout(self.store.approval(&key.tenant.id, id)).await
    }

    /// Returns an approval of the key's tenant.
    pub(crate) async fn approval(&self, key: &Principal, id: &str) -> Result<Approval, ServiceError> {
        self.find_approval(key, id).await?.ok_or(NOT_FOUND)
    }

    /// Returns an approval that the key may see as soon as it is decided, or its state at `until`.
    pub(crate) async fn wait_for_approval(
        &self,
        key: &Principal,
        id: &str,
        until: Instant,
    ) -> Result<Approval, ServiceError> {
        let mut listener = self.notifier.listen();
        loop {
            let approval = self.approval(key, id).await?;
            if key.confined_to().is_some_and(|agent| approval.agent_id.as_deref() != Some(agent)) {
                return Err(NOT_FOUND);
            }
            let waits = approval.status(self.clock.seconds()) == Status::Pending && Instant::now() < until;
            // No store resources are held while waiting.
            if !waits || tokio::time::timeout_at(until, listener.changed(id)).await == Ok(false) {
                return Ok(approval);
            }
        }
    }

    /// Returns a page of a tenant's approvals and the start of the next page.
    pub(crate) async fn list_approvals(
        &self,
        key: Authorized<'_>,
        mut listing: Listing,
    ) -> Result<(Vec<Approval>, Option<String>), ServiceError> {
        let wanted = usize::try_from(listing.limit).unwrap_or(usize::MAX);
        // One extra item shows if there is another page.
        listing.limit = listing.limit.saturating_add(1);
        let mut found = self.with_timeout(self.store.approvals(&key.0.tenant.id, listing)).await?;
        let is_last = found.len() <= wanted;
        found.truncate(wanted);
        let next = found.last().filter(|_| !is_last).map(|approval| approval.id.clone());
        Ok((found, next))
    }

    /// Decides an approval as the key's holder, records it, and returns its new state.
    pub(crate) async fn decide_approval(
        &self,
        Authorized(key): Authorized<'_>,
        approval: &Approval,
        approved: bool,
        note: Option<String>,
    ) -> Result<Approval, ServiceError> {
        let id = &approval.id;
        // Decide what was displayed: verify the stored action against its hash.
        if approval.recompute_hash().as_ref() != Some(&approval.action_hash) {
            tracing::error!(id, "the approval's record was changed: it does not match its action hash");
            return Err(ServiceError::ApprovalAltered);
        }
        let decided = ApprovalDecision { approved, by: key.name.to_string(), at: self.clock.seconds(), note };
        let event = events::approval_decided(key, approval, &decided);
        let change = Change::DecideApproval { id: id.clone(), decided };
        match self.with_timeout(self.store.change(Transition { event, change })).await? {
            TransitionOutcome::Recorded => self.notifier.decided(id),
            TransitionOutcome::Stale => {
                let now = self.approval(key, id).await?;
                return Err(ServiceError::AlreadyDecided(now.status(self.clock.seconds())));
            }
        }
        self.approval(key, id).await
    }
}
