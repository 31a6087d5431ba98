//! Use case of the Agent Control Standard: the chain of a session.

use actpass_protocol::Json;

use super::{Service, ServiceError};
use crate::acs::ContextEntry;
use crate::auth::ApiKey;
use crate::events::{self, SessionStep};
use crate::store::Record;

impl Service {
    /// Appends an entry to the chain of a session and returns its hash.
    ///
    /// The entry is the metadata of an event on a separate chain, so the ledger and the standard
    /// have one order.
    pub(crate) async fn append_session_entry(
        &self,
        key: &ApiKey,
        chain_id: &str,
        entry: &ContextEntry<'_>,
        step: SessionStep<'_>,
    ) -> Result<String, ServiceError> {
        let _turn = self.state.acs.chain(chain_id).await;
        let tenant_id = &key.tenant.id;
        let previous = match self.head(tenant_id, chain_id).await? {
            None => None,
            Some(head) => {
                let last = self.store.events(tenant_id, chain_id, head.length.saturating_sub(1), head.length);
                let last = self.with_timeout(last).await?;
                let event = last.last().and_then(|event| Json::parse(event.text.as_bytes()).ok());
                let metadata = event.as_ref().and_then(|event| event.member("metadata"));
                let hash = metadata.and_then(|metadata| metadata.member("entry_hash")?.as_str());
                Some(hash.ok_or(ServiceError::Internal)?.to_owned())
            }
        };
        let (entry, hash) = entry.seal(previous.as_deref()).ok_or(ServiceError::Internal)?;
        let event = events::session_step(key, chain_id, step, entry);
        self.with_timeout(self.store.record(Record { event, mutation: None })).await?;
        Ok(hash)
    }
}
