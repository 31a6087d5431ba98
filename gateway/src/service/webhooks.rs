//! Use cases of webhooks: their states, and messages that were set aside.

use std::sync::Arc;

use super::{Authorized, Service, ServiceError, page_of};
use crate::store::{DeadLetter, OutboxChange, WebhookState};
use crate::webhooks::{WaitingMessage, Webhook, waiting_messages};

/// Maximum number of events of a webhook's queue that are read.
const MAX_WAITING: u32 = 50;

/// A webhook of a tenant with the messages that wait to be sent.
#[derive(Debug)]
pub(crate) struct WebhookQueue {
    pub(crate) webhook: Webhook,
    /// `None` until a gateway has registered it.
    pub(crate) state: Option<WebhookState>,
    pub(crate) waiting: Vec<WaitingMessage>,
    /// Whether more messages wait than those in `waiting`.
    pub(crate) has_more: bool,
}

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

    /// Returns the webhooks of the key's tenant with their queues.
    pub(crate) async fn webhook_queues(
        &self,
        auditor: Authorized<'_>,
    ) -> Result<Vec<WebhookQueue>, ServiceError> {
        let now = self.clock.millis();
        let mut queues = Vec::new();
        for (webhook, state) in self.webhook_states(auditor).await? {
            let tenant_id = &auditor.0.tenant.id;
            let items = self.store.waiting_announcements(&webhook.name, tenant_id, now, MAX_WAITING);
            let items = self.with_timeout(items).await?;
            queues.push(WebhookQueue {
                webhook: webhook.clone(),
                state,
                waiting: items.iter().flat_map(|item| waiting_messages(webhook, item)).collect(),
                has_more: u32::try_from(items.len()).is_ok_and(|items| items >= MAX_WAITING),
            });
        }
        Ok(queues)
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
