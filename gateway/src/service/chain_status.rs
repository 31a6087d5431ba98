//! Status of a tenant's chain of decisions: its head, whether it is intact, and its last decisions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use actpass_protocol::Json;

use super::evidence::ChainReader;
use super::{Service, ServiceError};
use crate::ledger::{
    APPROVAL_APPROVED, APPROVAL_REJECTED, APPROVAL_VOTED, DECISION, DECISIONS, Head, Verifier,
};

/// Maximum number of events verified per page view. The next view continues there.
const VERIFY_BATCH: u64 = 1000;

/// Maximum number of decisions shown.
const MAX_DECISIONS: usize = 20;

/// Number of recent events that are searched for decisions.
const SCANNED_EVENTS: u64 = 60;

/// Verification progress of each tenant's chain in this process.
#[derive(Debug, Default)]
pub(super) struct VerifiedChains(Mutex<HashMap<Arc<str>, Arc<tokio::sync::Mutex<Progress>>>>);

#[derive(Clone, Debug, Default)]
struct Progress {
    verifier: Verifier,
    /// When verification started.
    since: i64,
    broken: Option<u64>,
}

/// A tenant's chain of decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChainStatus {
    pub(crate) head: Head,
    pub(crate) state: ChainState,
}

/// Integrity of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainState {
    /// This event was changed or is missing.
    Broken(u64),
    /// Another request is verifying the chain.
    Busy,
    Empty,
    /// This many events are verified; the rest is not verified yet.
    PartlyVerified(u64),
    /// All events are verified; verification started at this time.
    Complete(i64),
}

/// Extent of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VerifyScope {
    /// All events, from the first.
    Full,
    /// New events, up to the limit per page view.
    Incremental,
}

impl Service {
    /// Verifies a tenant's chain of decisions, completely or incrementally, and returns its status.
    pub(crate) async fn chain_status(
        self: &Arc<Self>,
        tenant_id: &Arc<str>,
        extent: VerifyScope,
    ) -> Result<ChainStatus, ServiceError> {
        let progress = {
            let mut tenants = self.state.verified.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(tenants.entry(Arc::clone(tenant_id)).or_default())
        };
        // A page view does not wait for another view's verification.
        let progress = progress.try_lock();
        let head = self.head(tenant_id, DECISIONS).await?.unwrap_or_default();
        let Ok(mut progress) = progress else {
            return Ok(ChainStatus { head, state: ChainState::Busy });
        };
        if extent == VerifyScope::Full || progress.verifier.head().length == 0 {
            *progress = Progress { since: self.clock.seconds(), ..Progress::default() };
        }
        if progress.broken.is_none() {
            let seen = progress.verifier.head().length;
            let until = match extent {
                VerifyScope::Full => head.length,
                VerifyScope::Incremental => head.length.min(seen.saturating_add(VERIFY_BATCH)),
            };
            let reader = ChainReader::new(self, tenant_id, DECISIONS.to_owned(), until);
            progress.verifier = reader.examine(progress.verifier.clone()).await?;
            let expected = match until == head.length {
                true => head.clone(),
                // The hash at an intermediate event is not known in advance, only its position.
                false => Head { length: until, hash: progress.verifier.head().hash.clone() },
            };
            progress.broken = progress.verifier.clone().finish(expected).first_broken;
        }
        let whole = progress.verifier.head().length;
        let state = match progress.broken {
            Some(first) => ChainState::Broken(first),
            None if head.length == 0 => ChainState::Empty,
            None if whole < head.length => ChainState::PartlyVerified(whole),
            None => ChainState::Complete(progress.since),
        };
        Ok(ChainStatus { head, state })
    }

    /// Returns the last decisions before the chain's head, newest first.
    pub(crate) async fn last_decisions(
        self: &Arc<Self>,
        tenant_id: &Arc<str>,
        head: &Head,
    ) -> Result<Vec<LastDecision>, ServiceError> {
        let reader = ChainReader::new(self, tenant_id, DECISIONS.to_owned(), head.length);
        let mut after = head.length.saturating_sub(SCANNED_EVENTS);
        let mut found = Vec::new();
        loop {
            let page = reader.page(after).await?;
            let Some(last) = page.last() else {
                break;
            };
            after = last.seq;
            let events = page.iter().filter_map(|event| Json::parse(event.text.as_bytes()).ok());
            found.extend(events.map(|event| LastDecision { event }).filter(|last| {
                matches!(
                    last.text("event_type"),
                    Some(APPROVAL_APPROVED | APPROVAL_REJECTED | APPROVAL_VOTED | DECISION)
                )
            }));
        }
        found.reverse();
        found.truncate(MAX_DECISIONS);
        Ok(found)
    }
}

/// A decision in the ledger, by policy or person.
#[derive(Clone, Debug)]
pub(crate) struct LastDecision {
    event: Json,
}

impl LastDecision {
    /// Returns the decision word.
    pub(crate) fn decision(&self) -> &str {
        match self.text("event_type") {
            Some(APPROVAL_APPROVED) => "approved",
            Some(APPROVAL_REJECTED) => "rejected",
            Some(APPROVAL_VOTED) => "voted",
            Some(_) | None => self.text("decision").unwrap_or_default(),
        }
    }

    /// Returns the name of the person who decided, if any.
    pub(crate) fn decided_by(&self) -> Option<&str> {
        self.event.member("metadata")?.member("decided_by")?.as_str()
    }

    pub(crate) fn text(&self, member: &str) -> Option<&str> {
        self.event.member(member).and_then(Json::as_str)
    }
}
