//! How a tenant's chain of decisions stands: how long it is, how it ends, whether it is whole, and the last decisions in it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use actpass_protocol::Json;

use super::evidence::ChainReader;
use super::{Service, ServiceError};
use crate::ledger::{APPROVAL_APPROVED, APPROVAL_REJECTED, DECISION, DECISIONS, Head, Verifier};

/// How many events are verified at most while somebody waits for the page. The next look goes on where this one ended.
const VERIFY_BATCH: u64 = 1000;

/// How many of the last decisions are shown.
const MAX_DECISIONS: usize = 20;

/// Among how many of the last events they are looked for.
const SCANNED_EVENTS: u64 = 60;

/// How far this process verified each tenant's decisions.
#[derive(Debug, Default)]
pub(super) struct VerifiedChains(Mutex<HashMap<Arc<str>, Arc<tokio::sync::Mutex<Progress>>>>);

#[derive(Clone, Debug, Default)]
struct Progress {
    verifier: Verifier,
    /// When the first event was read.
    since: i64,
    broken: Option<u64>,
}

/// A tenant's chain of decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChainStatus {
    pub(crate) head: Head,
    pub(crate) state: ChainState,
}

/// Whether a chain is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainState {
    /// This event is not what was recorded, or is gone.
    Broken(u64),
    /// Somebody else has it verified at this moment.
    Busy,
    Empty,
    /// So many events are whole, and the others were not looked at yet.
    PartlyVerified(u64),
    /// All events are; the first of them was read at this time.
    Complete(i64),
}

/// How much is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VerifyScope {
    /// All of it, from the first event.
    Full,
    /// What is new, or a part of it.
    Incremental,
}

impl Service {
    /// Verifies a tenant's chain of decisions, or a part of it, and says how it stands.
    pub(crate) async fn chain_status(
        self: &Arc<Self>,
        tenant_id: &Arc<str>,
        extent: VerifyScope,
    ) -> Result<ChainStatus, ServiceError> {
        let progress = {
            let mut tenants = self.state.verified.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(tenants.entry(Arc::clone(tenant_id)).or_default())
        };
        // Nobody's page waits for a long verification of somebody else's.
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
                // What the part must end with is not known; only that it must go so far.
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

    /// The last decisions up to the head of the chain, the newest first.
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
                matches!(last.text("event_type"), Some(APPROVAL_APPROVED | APPROVAL_REJECTED | DECISION))
            }));
        }
        found.reverse();
        found.truncate(MAX_DECISIONS);
        Ok(found)
    }
}

/// A decision as the ledger has it: the policy's or a person's.
#[derive(Clone, Debug)]
pub(crate) struct LastDecision {
    event: Json,
}

impl LastDecision {
    /// What was decided.
    pub(crate) fn decision(&self) -> &str {
        match self.text("event_type") {
            Some(APPROVAL_APPROVED) => "approved",
            Some(APPROVAL_REJECTED) => "rejected",
            Some(_) | None => self.text("decision").unwrap_or_default(),
        }
    }

    /// The person who decided, if it was a person.
    pub(crate) fn decided_by(&self) -> Option<&str> {
        self.event.member("metadata")?.member("decided_by")?.as_str()
    }

    pub(crate) fn text(&self, member: &str) -> Option<&str> {
        self.event.member(member).and_then(Json::as_str)
    }
}
