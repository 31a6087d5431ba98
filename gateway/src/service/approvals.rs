//! Use cases for approvals: read, await, list, decide.

use tokio::time::Instant;

use super::{Authorized, Service, ServiceError};
use crate::approvals::{Approval, ApprovalDecision, Status};
use crate::auth::Principal;
use crate::events;
use crate::halts::HaltSubject;
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

    /// Returns an approval that the key may see as soon as it is decided or the halt epoch rises, or
    /// its state at `until`, and an epoch at which it had that state.
    pub(crate) async fn wait_for_approval(
        &self,
        key: &Principal,
        id: &str,
        until: Instant,
    ) -> Result<(Approval, u64), ServiceError> {
        let mut listener = self.notifier.listen();
        let mut halts = self.store.known_halts().subscribe();
        let first = halts.borrow().epoch;
        loop {
            let epoch = halts.borrow_and_update().epoch;
            let approval = self.approval(key, id).await?;
            if key.confined_to().is_some_and(|agent| approval.agent_id.as_deref() != Some(agent)) {
                return Err(NOT_FOUND);
            }
            let is_pending = approval.status(self.clock.seconds()) == Status::Pending;
            if !is_pending || epoch > first || Instant::now() >= until {
                return Ok((approval, epoch));
            }
            // No store resources are held while waiting.
            let changed = async {
                tokio::select! {
                    changed = listener.changed(id) => changed,
                    Ok(()) = halts.changed() => true,
                }
            };
            if tokio::time::timeout_at(until, changed).await == Ok(false) {
                return Ok((approval, epoch));
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
        let record = |halt_epoch| {
            let change = Change::DecideApproval { id: id.clone(), decided: decided.clone(), halt_epoch };
            self.store.change(Transition { event: event.clone(), change })
        };
        let outcome = match approved {
            true => {
                let subject = HaltSubject {
                    tenant_id: &key.tenant.id,
                    agent_id: approval.agent_id.as_deref(),
                    tools: &[&approval.tool],
                    user_id: approval.user_id.as_deref(),
                };
                self.unless_halted(&subject, |epoch| record(Some(epoch))).await?.0
            }
            // A halted action can be rejected.
            false => self.with_timeout(record(None)).await?,
        };
        match outcome {
            TransitionOutcome::Recorded => self.notifier.decided(id),
            TransitionOutcome::Stale => {
                let now = self.approval(key, id).await?;
                return Err(ServiceError::AlreadyDecided(now.status(self.clock.seconds())));
            }
        }
        self.approval(key, id).await
    }
}
