//! Use cases of webhooks: their states, and messages that were set aside.

use std::sync::Arc;

use super::{Authorized, Service, ServiceError, page_of};
use crate::store::{DeadLetter, OutboxChange, WebhookState};
use crate::webhooks::Webhook;

impl Service {
    /// Returns the webhooks of the key's tenant, with the state of those that have been leased.
    pub(crate) async fn webhook_states(
        &self,
        Authorized(key): Authorized<'_>,
    ) -> Result<Vec<(&Webhook, Option<WebhookState>)>, ServiceError> {
        let mut states = self.with_timeout(self.store.webhook_states(&key.tenant.id)).await?;
        let of_tenant = self.webhooks.iter().filter(|webhook| webhook.tenants.contains(&key.tenant.id));
        Ok(of_tenant
            .map(|webhook| {
                let state = states.iter().position(|state| *state.webhook == *webhook.name);
                (webhook, state.map(|at| states.swap_remove(at)))
            })
            .collect())
    }

    /// Returns a page of the tenant's messages that were set aside, and the id to continue after if
    /// there are more.
    pub(crate) async fn dead_letters(
        &self,
        Authorized(key): Authorized<'_>,
        after: i64,
        limit: u32,
    ) -> Result<(Vec<DeadLetter>, Option<i64>), ServiceError> {
        let page = self.store.dead_letters(&key.tenant.id, after, limit + 1);
        Ok(page_of(self.with_timeout(page).await?, limit, |dead| dead.id))
    }

    /// Queues a message that was set aside.
    pub(crate) async fn redeliver(
        &self,
        Authorized(key): Authorized<'_>,
        id: i64,
    ) -> Result<(), ServiceError> {
        let change = OutboxChange::Redeliver { tenant_id: Arc::clone(&key.tenant.id), id };
        match self.with_timeout(self.store.change_outbox(change)).await? {
            true => self.announced.notify_waiters(),
            false => return Err(ServiceError::NotFound("message")),
        }
        Ok(())
    }
}
