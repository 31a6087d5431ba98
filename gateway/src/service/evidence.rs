//! Use cases for evidence: recording client events, and reading and verifying chains.

use std::sync::Arc;

use actpass_protocol::Json;

use super::{Service, ServiceError};
use crate::auth::{ApiKey, Role};
use crate::events;
use crate::ledger::{
    APPROVAL_APPROVED, APPROVAL_REJECTED, APPROVAL_VOTED, DECISIONS, Head, Verification, Verifier,
};
use crate::request::Evidence;
use crate::store::{Mutation, Record, StoredEvent, Subject};

/// A recorded event.
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
        // Only the key or agent that the action was decided for can report its outcome.
        if let Some(request_hash) = evidence.decided_request()
            && key.role == Role::Agent
            && !self.is_own(key, Subject::Decision, request_hash).await?
        {
            return Err(ServiceError::NotOwn(
                "request_hash: no decision with this hash exists for this key or its agent; expected the \
                request_hash of a decision",
            ));
        }
        let mutation = evidence.ended().filter(|_| key.tenant.policy.depends_on_outcomes()).map(
            |(request_hash, ended)| Mutation::EndAction { request_hash: request_hash.to_owned(), ended },
        );
        let event = events::client_event(key, evidence);
        let event_id = event.event_id.clone();
        let head = self.with_timeout(self.store.record(Record { event, mutation })).await?;
        Ok(RecordedEvent { event_id, hash: head.hash })
    }

    /// Returns the head of a tenant's chain; `None` if it does not exist.
    pub(super) async fn head(&self, tenant_id: &str, chain_id: &str) -> Result<Option<Head>, ServiceError> {
        self.with_timeout(self.store.head(tenant_id, chain_id)).await
    }

    /// Returns the head of the archived part of a tenant's chain.
    pub(super) async fn archived_head(&self, tenant_id: &str, chain_id: &str) -> Result<Head, ServiceError> {
        let archived = self.with_timeout(self.store.archived(tenant_id, chain_id)).await?;
        Ok(archived.unwrap_or_default().head)
    }

    /// Returns a view of a chain of the key's tenant, up to its head or the event `until`.
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

    /// Verifies a chain. For the chain of decisions, also returns descriptions of rows that the
    /// ledger does not support.
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
        let archived = self.archived_head(&key.tenant.id, &reader.chain_id).await?;
        let verifier = reader.examine(Verifier::after(archived)).await?;
        Ok((verifier.finish(head), unproven))
    }
}

/// Reads a chain up to an event, page by page.
#[derive(Debug)]
pub(super) struct ChainReader {
    service: Arc<Service>,
    tenant_id: Arc<str>,
    chain_id: String,
    until: u64,
}

impl ChainReader {
    /// Creates a reader of `chain_id` up to the event `until`.
    pub(super) fn new(service: &Arc<Service>, tenant_id: &Arc<str>, chain_id: String, until: u64) -> Self {
        Self { service: Arc::clone(service), tenant_id: Arc::clone(tenant_id), chain_id, until }
    }

    /// Returns the next events after `after`, at least one unless at the end.
    pub(super) async fn page(&self, after: u64) -> Result<Vec<StoredEvent>, ServiceError> {
        let events = self.service.store.events(&self.tenant_id, &self.chain_id, after, self.until);
        self.service.with_timeout(events).await
    }

    /// Verifies the events that `verifier` has not seen, until the end or the first defect.
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

/// A chain as visible to a key.
#[derive(Debug)]
pub(crate) struct ChainView {
    reader: ChainReader,
    key: Arc<ApiKey>,
}

impl ChainView {
    /// Returns the next visible events after `after` and the `seq` of the last event examined;
    /// `None` at the end.
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

    /// Returns whether a key bound to `agent` may read the event: events caused by the agent and
    /// decisions on its approvals.
    async fn may_read(&self, event: &StoredEvent, agent: &str) -> Result<bool, ServiceError> {
        let Ok(event) = Json::parse(event.text.as_bytes()) else {
            return Ok(false);
        };
        let text = |name: &str| event.member(name).and_then(Json::as_str);
        if text("key_name").is_some_and(|name| self.key.owns(name, text("agent_id"))) {
            return Ok(true);
        }
        let decides =
            matches!(text("event_type"), Some(APPROVAL_APPROVED | APPROVAL_REJECTED | APPROVAL_VOTED));
        let Some(id) = text("approval_request_id").filter(|_| decides) else {
            return Ok(false);
        };
        let ChainReader { service, tenant_id, .. } = &self.reader;
        let approval = service.with_timeout(service.store.approval(tenant_id, id)).await?;
        Ok(approval.is_some_and(|approval| approval.agent_id.as_deref() == Some(agent)))
    }
}
