//! Status of a tenant's chain of decisions: its head, whether it is intact, and its last decisions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use actpass_protocol::{ACTION_OUTCOME, Json};

use super::evidence::ChainReader;
use super::{Authorized, Service, ServiceError};
use crate::approvals::Approval;
use crate::ledger::{
    APPROVAL_APPROVED, APPROVAL_REJECTED, APPROVAL_VOTED, DECISION, DECISIONS, Head, Verifier,
};

/// Maximum number of events verified per page view. The next view continues there.
const VERIFY_BATCH: u64 = 1000;

/// Maximum number of decisions shown.
const MAX_DECISIONS: usize = 20;

/// Maximum number of decisions that a search returns.
const SEARCHED_DECISIONS: usize = 50;

/// Maximum number of events that a search examines.
const SEARCHED_EVENTS: u64 = 5000;

/// Number of events that a search reads in one step.
const SEARCH_BATCH: u64 = 500;

/// Maximum number of votes and uses in a story.
const STORY_EVENTS: u32 = 100;

/// Number of events after the use of an approval that are searched for the outcome.
const OUTCOME_EVENTS: u64 = 1000;

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
        let archived = self.archived_head(tenant_id, DECISIONS).await?;
        if extent == VerifyScope::Full || progress.verifier.head().length <= archived.length {
            let verifier = Verifier::after(archived);
            *progress = Progress { since: self.clock.seconds(), verifier, broken: None };
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
            found.extend(events.filter_map(LastDecision::of));
        }
        found.reverse();
        found.truncate(MAX_DECISIONS);
        Ok(found)
    }

    /// Searches decisions, newest first: up to [`SEARCHED_DECISIONS`] among at most
    /// [`SEARCHED_EVENTS`] events.
    pub(crate) async fn search_decisions(
        self: &Arc<Self>,
        Authorized(who): Authorized<'_>,
        search: &DecisionSearch,
    ) -> Result<SearchResult, ServiceError> {
        let tenant_id = &who.tenant.id;
        let head = self.head(tenant_id, DECISIONS).await?.unwrap_or_default();
        let last = search.before.map_or(head.length, |before| before.saturating_sub(1).min(head.length));
        let lowest = last.saturating_sub(SEARCHED_EVENTS);
        let (mut found, mut end) = (Vec::new(), last);
        while end > lowest {
            let start = end.saturating_sub(SEARCH_BATCH).max(lowest);
            let reader = ChainReader::new(self, tenant_id, DECISIONS.to_owned(), end);
            let (mut after, mut batch) = (start, Vec::new());
            loop {
                let page = reader.page(after).await?;
                let Some(last) = page.last() else { break };
                after = last.seq;
                for event in page {
                    let decision = Json::parse(event.text.as_bytes()).ok().and_then(LastDecision::of);
                    batch
                        .extend(decision.filter(|decision| search.matches(decision)).map(|d| (event.seq, d)));
                }
            }
            for (seq, decision) in batch.into_iter().rev() {
                if found.len() == SEARCHED_DECISIONS {
                    let next = seq.saturating_add(1);
                    return Ok(SearchResult { found, first: next, last, next: Some(next) });
                }
                found.push(decision);
            }
            end = start;
        }
        let next = (end > 0).then(|| end.saturating_add(1));
        Ok(SearchResult { found, first: end.saturating_add(1), last, next })
    }

    /// Returns the events of an approval's story, oldest first: opened, voted on, decided, used, and
    /// the outcome of the action, if reported among the next [`OUTCOME_EVENTS`] events.
    pub(crate) async fn story(
        self: &Arc<Self>,
        tenant_id: &Arc<str>,
        approval: &Approval,
    ) -> Result<Vec<LastDecision>, ServiceError> {
        let opening = approval.opening.as_ref().and_then(|opening| opening.event.as_deref());
        let mut story: Vec<_> =
            opening.into_iter().map(|event| LastDecision { event: event.clone() }).collect();
        let events = self.store.approval_events(tenant_id, &approval.id, STORY_EVENTS);
        let events = self.with_timeout(events).await?;
        let events = events.iter().filter_map(|text| Json::parse(text.as_bytes()).ok());
        story.extend(events.map(|event| LastDecision { event }));
        let used = story.iter().rev().find(|event| event.text("decision") == Some("allow"));
        let Some((seq, request)) =
            used.and_then(|used| Some((used.seq()?, used.text("request_hash")?.to_owned())))
        else {
            return Ok(story);
        };
        let until = seq.saturating_add(OUTCOME_EVENTS);
        let reader = ChainReader::new(self, tenant_id, DECISIONS.to_owned(), until);
        let mut after = seq;
        loop {
            let page = reader.page(after).await?;
            let Some(last) = page.last() else { return Ok(story) };
            after = last.seq;
            let events = page.iter().filter_map(|event| Json::parse(event.text.as_bytes()).ok());
            let events = events.map(|event| LastDecision { event });
            story.extend(events.filter(|event| {
                event.text("event_type") == Some(ACTION_OUTCOME)
                    && event.text("request_hash") == Some(&request)
            }));
        }
    }
}

/// Selection of decisions; `None` matches all.
#[derive(Clone, Debug, Default)]
pub(crate) struct DecisionSearch {
    pub(crate) agent: Option<String>,
    pub(crate) tool: Option<String>,
    /// The decision word; see [`LastDecision::decision`].
    pub(crate) decision: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) event_id: Option<String>,
    /// Only events before this one.
    pub(crate) before: Option<u64>,
}

impl DecisionSearch {
    fn matches(&self, decision: &LastDecision) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        is(&self.agent, decision.text("agent_id"))
            && is(&self.tool, decision.text("tool_id"))
            && is(&self.decision, Some(decision.decision()))
            && is(&self.reason, decision.text("reason_code"))
            && is(&self.event_id, decision.text("event_id"))
    }
}

/// A page of decisions, newest first.
#[derive(Clone, Debug)]
pub(crate) struct SearchResult {
    pub(crate) found: Vec<LastDecision>,
    /// The first event that was searched.
    pub(crate) first: u64,
    /// The last event that was searched.
    pub(crate) last: u64,
    /// Continue before this event.
    pub(crate) next: Option<u64>,
}

/// A decision in the ledger, by policy or person.
#[derive(Clone, Debug)]
pub(crate) struct LastDecision {
    event: Json,
}

impl LastDecision {
    /// Returns the event as a decision; `None` for other events.
    fn of(event: Json) -> Option<Self> {
        let last = Self { event };
        let kind = last.text("event_type")?;
        [APPROVAL_APPROVED, APPROVAL_REJECTED, APPROVAL_VOTED, DECISION].contains(&kind).then_some(last)
    }

    fn seq(&self) -> Option<u64> {
        match self.event.member("seq")? {
            Json::Number(number) => number.as_str().parse().ok(),
            Json::Array(_) | Json::Bool(_) | Json::Null | Json::Object(_) | Json::String(_) => None,
        }
    }

    /// Returns a text in the event's metadata.
    pub(crate) fn metadata(&self, member: &str) -> Option<&str> {
        self.event.member("metadata")?.member(member)?.as_str()
    }

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
        self.metadata("decided_by")
    }

    pub(crate) fn text(&self, member: &str) -> Option<&str> {
        self.event.member(member).and_then(Json::as_str)
    }
}
