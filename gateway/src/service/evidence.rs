//! Evidence: events recorded for clients, and chains read and verified.

use std::sync::Arc;

use actpass_protocol::Json;

use super::{Service, ServiceError};
use crate::auth::{ApiKey, Role};
use crate::events;
use crate::ledger::{APPROVAL_APPROVED, APPROVAL_REJECTED, DECISIONS, Head, Verification, Verifier};
use crate::request::Evidence;
use crate::store::{Record, StoredEvent, Subject};

/// An event that was recorded.
#[derive(Clone, Debug)]
pub(crate) struct RecordedEvent {
    pub(crate) event_id: String,
    /// The hash of the event.
    pub(crate) hash: String,
}

impl Service {
    /// Records an event for a client.
    pub(crate) async fn record_evidence(
        &self,
        key: &ApiKey,
        evidence: Evidence,
    ) -> Result<RecordedEvent, ServiceError> {
        // How an action ended, only who was allowed it can say.
        if let Some(request_hash) = evidence.decided_request()
            && key.role == Role::Agent
            && !self.is_own(key, Subject::Decision, request_hash).await?
        {
            return Err(ServiceError::NotOwn(
                "request_hash: there is no decision about such a request of this key or its agent; expected the hash \
                 that the decision carries",
            ));
        }
        let event = events::client_event(key, evidence);
        let event_id = event.event_id.clone();
        let head = self.with_timeout(self.store.record(Record::of(event))).await?;
        Ok(RecordedEvent { event_id, hash: head.hash })
    }

    /// The head of a tenant's chain; `None` if there is no such chain.
    pub(super) async fn head(&self, tenant_id: &str, chain_id: &str) -> Result<Option<Head>, ServiceError> {
        self.with_timeout(self.store.head(tenant_id, chain_id)).await
    }

    /// A chain of the key's tenant, as far as the key may read it: up to its head, or to the event `until` if that is before.
    pub(crate) async fn view_chain(
        self: &Arc<Self>,
        key: Arc<ApiKey>,
        chain_id: String,
        until: Option<u64>,
    ) -> Result<ChainView, ServiceError> {
        let head = self.known_head(&key, &chain_id).await?;
        let until = until.map_or(head.length, |until| head.length.min(until));
        Ok(ChainView { reader: ChainReader::new(self, &key.tenant.id, chain_id, until), key })
    }

    async fn known_head(&self, key: &ApiKey, chain_id: &str) -> Result<Head, ServiceError> {
        self.head(&key.tenant.id, chain_id).await?.ok_or(ServiceError::NotFound("chain"))
    }

    /// Verifies a chain, and on the chain of decisions also the rows that must follow from it: these in words.
    pub(crate) async fn verify_chain(
        self: &Arc<Self>,
        key: &ApiKey,
        chain_id: String,
    ) -> Result<(Verification, Vec<String>), ServiceError> {
        let head = self.known_head(key, &chain_id).await?;
        let unproven = match &*chain_id {
            DECISIONS => self.with_timeout(self.store.unproven(&key.tenant.id)).await?,
            _ => Vec::new(),
        };
        let reader = ChainReader::new(self, &key.tenant.id, chain_id, head.length);
        let verifier = reader.examine(Verifier::default()).await?;
        Ok((verifier.finish(head), unproven))
    }
}

/// A chain up to a certain event, page by page.
#[derive(Debug)]
pub(super) struct ChainReader {
    service: Arc<Service>,
    tenant_id: Arc<str>,
    chain_id: String,
    until: u64,
}

impl ChainReader {
    /// The chain `chain_id` up to the event `until`.
    pub(super) fn new(service: &Arc<Service>, tenant_id: &Arc<str>, chain_id: String, until: u64) -> Self {
        Self { service: Arc::clone(service), tenant_id: Arc::clone(tenant_id), chain_id, until }
    }

    /// The first events after `after`, and at least one if there is one.
    pub(super) async fn page(&self, after: u64) -> Result<Vec<StoredEvent>, ServiceError> {
        let events = self.service.store.events(&self.tenant_id, &self.chain_id, after, self.until);
        self.service.with_timeout(events).await
    }

    /// Looks at the events that `verifier` has not seen, as far as they go or are whole.
    pub(super) async fn examine(&self, mut verifier: Verifier) -> Result<Verifier, ServiceError> {
        let mut after = verifier.head().length;
        loop {
            let page = self.page(after).await?;
            let Some(last) = page.last() else {
                return Ok(verifier);
            };
            after = last.seq;
            let examine = move || {
                let whole = page.iter().all(|event| verifier.push(&event.text));
                Ok::<_, ServiceError>((verifier, whole))
            };
            let (back, whole) = self.service.run_blocking(examine).await?;
            verifier = back;
            if !whole {
                return Ok(verifier);
            }
        }
    }
}

/// A chain as a key sees it.
#[derive(Debug)]
pub(crate) struct ChainView {
    reader: ChainReader,
    key: Arc<ApiKey>,
}

impl ChainView {
    /// The next events after `after` that the key may read, and the `seq` of the last that was looked at; `None` at the end
    /// of the chain.
    pub(crate) async fn page(&self, after: u64) -> Result<Option<(Vec<StoredEvent>, u64)>, ServiceError> {
        let mut page = self.reader.page(after).await?;
        let Some(last) = page.last().map(|event| event.seq) else {
            return Ok(None);
        };
        if let Some(agent) = self.key.confined_to() {
            let mut shown = Vec::with_capacity(page.len());
            for event in page {
                if self.may_read(&event, agent).await? {
                    shown.push(event);
                }
            }
            page = shown;
        }
        Ok(Some((page, last)))
    }

    /// Whether a key that is bound to `agent` may read the event: what that agent caused, and what was decided about that
    /// agent's approval requests.
    async fn may_read(&self, event: &StoredEvent, agent: &str) -> Result<bool, ServiceError> {
        let Ok(event) = Json::parse(event.text.as_bytes()) else {
            return Ok(false);
        };
        let text = |name: &str| event.member(name).and_then(Json::as_str);
        if text("key_name").is_some_and(|name| self.key.owns(name, text("agent_id"))) {
            return Ok(true);
        }
        let decides = matches!(text("event_type"), Some(APPROVAL_APPROVED | APPROVAL_REJECTED));
        let Some(id) = text("approval_request_id").filter(|_| decides) else {
            return Ok(false);
        };
        let ChainReader { service, tenant_id, .. } = &self.reader;
        let approval = service.with_timeout(service.store.approval(tenant_id, id)).await?;
        Ok(approval.is_some_and(|approval| approval.agent_id.as_deref() == Some(agent)))
    }
}
