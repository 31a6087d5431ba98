//! A store whose operations fail.
#![allow(unreachable_pub, reason = "tests")]

use std::sync::Arc;

use actpass_gateway::approvals::Approval;
use actpass_gateway::budget::Account;
use actpass_gateway::halts::{Acknowledged, ActiveHalts, Halt, KnownHalts};
use actpass_gateway::ledger::{Archived, Head};
use actpass_gateway::store::{
    AccountUse, Author, DeadLetter, DecisionOutcome, DecisionRecord, DueItem, HaltChange, HaltListing,
    HaltOutcome, IdHash, Kept, KeptChange, KeptKind, KeptPage, Listing, OutboxChange, PassportState,
    PendingCounts, Record, Rotation, SealedCredential, SealedKey, SessionChange, Store, StoreError,
    StoredEvent, StoredSession, Subject, TenantTotals, Transition, TransitionOutcome, WebhookState,
};
use async_trait::async_trait;

/// A store that fails or never responds.
#[derive(Debug)]
pub struct Broken(Option<StoreError>, KnownHalts);

impl Broken {
    /// A store that fails with this error; without one, it never responds.
    pub fn new(error: Option<StoreError>) -> Arc<Self> {
        Arc::new(Self(error, KnownHalts::default()))
    }

    async fn fail<T>(&self) -> Result<T, StoreError> {
        match self.0 {
            Some(error) => Err(error),
            None => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Store for Broken {
    async fn record(&self, _: Record) -> Result<Head, StoreError> {
        self.fail().await
    }
    async fn change(&self, _: Transition) -> Result<TransitionOutcome, StoreError> {
        self.fail().await
    }
    async fn decide(&self, _: DecisionRecord) -> Result<DecisionOutcome, StoreError> {
        self.fail().await
    }
    async fn change_halts(&self, _: HaltChange) -> Result<HaltOutcome, StoreError> {
        self.fail().await
    }
    fn known_halts(&self) -> &KnownHalts {
        &self.1
    }
    async fn halts(&self) -> Result<Arc<ActiveHalts>, StoreError> {
        self.fail().await
    }
    async fn halt(&self, _: &str) -> Result<Option<Halt>, StoreError> {
        self.fail().await
    }
    async fn list_halts(&self, _: HaltListing) -> Result<Vec<Halt>, StoreError> {
        self.fail().await
    }
    async fn lifted_halts(&self, _: &str, _: u64, _: u32) -> Result<Vec<Halt>, StoreError> {
        self.fail().await
    }
    async fn acknowledged_halts(&self, _: &str, _: i64, _: u32) -> Result<Vec<Acknowledged>, StoreError> {
        self.fail().await
    }
    async fn head(&self, _: &str, _: &str) -> Result<Option<Head>, StoreError> {
        self.fail().await
    }
    async fn archived(&self, _: &str, _: &str) -> Result<Option<Archived>, StoreError> {
        self.fail().await
    }
    async fn events(&self, _: &str, _: &str, _: u64, _: u64) -> Result<Vec<StoredEvent>, StoreError> {
        self.fail().await
    }
    async fn approved_manifest(&self, _: &str, _: &str) -> Result<Option<String>, StoreError> {
        self.fail().await
    }
    async fn passport(&self, _: &str, _: &str) -> Result<Option<PassportState>, StoreError> {
        self.fail().await
    }
    async fn totals(&self, _: &str, _: i64) -> Result<TenantTotals, StoreError> {
        self.fail().await
    }
    async fn approval(&self, _: &str, _: &str) -> Result<Option<Approval>, StoreError> {
        self.fail().await
    }
    async fn approvals(&self, _: &str, _: Listing) -> Result<Vec<Approval>, StoreError> {
        self.fail().await
    }
    async fn count_pending(&self, _: &str, _: Author<'_>, _: i64) -> Result<PendingCounts, StoreError> {
        self.fail().await
    }
    async fn change_session(&self, _: SessionChange) -> Result<bool, StoreError> {
        self.fail().await
    }
    async fn session(&self, _: IdHash) -> Result<Option<StoredSession>, StoreError> {
        self.fail().await
    }
    async fn sign_in(&self, _: IdHash) -> Result<Option<(String, i64)>, StoreError> {
        self.fail().await
    }
    /// Fails even if the store never answers: a start does not depend on it.
    async fn change_kept(&self, _: KeptChange) -> Result<u64, StoreError> {
        Err(StoreError::Unavailable)
    }
    async fn kept(&self, _: &str, _: KeptPage) -> Result<Vec<Kept>, StoreError> {
        self.fail().await
    }
    async fn kept_named(&self, _: &str, _: KeptKind, _: &str) -> Result<Option<Kept>, StoreError> {
        self.fail().await
    }
    async fn change_outbox(&self, _: OutboxChange) -> Result<bool, StoreError> {
        self.fail().await
    }
    async fn due_announcements(&self, _: &Arc<str>, _: i64, _: u32) -> Result<Vec<DueItem>, StoreError> {
        self.fail().await
    }
    async fn waiting_announcements(
        &self,
        _: &Arc<str>,
        _: &str,
        _: i64,
        _: u32,
    ) -> Result<Vec<DueItem>, StoreError> {
        self.fail().await
    }
    async fn queued_messages(&self, _: &str, _: u32) -> Result<Vec<DeadLetter>, StoreError> {
        self.fail().await
    }
    async fn dead_letters(&self, _: &str, _: i64, _: u32) -> Result<Vec<DeadLetter>, StoreError> {
        self.fail().await
    }
    async fn webhook_states(&self, _: &str) -> Result<Vec<WebhookState>, StoreError> {
        self.fail().await
    }
    async fn has_event(&self, _: &str, _: Subject, _: &str, _: Author<'_>) -> Result<bool, StoreError> {
        self.fail().await
    }
    async fn live_approval(&self, _: &str, _: &str, _: &str, _: i64) -> Result<Option<Approval>, StoreError> {
        self.fail().await
    }
    async fn last_tool_event(&self, _: &str, _: &str, _: &str) -> Result<Option<String>, StoreError> {
        self.fail().await
    }
    async fn unproven(&self, _: &str) -> Result<Vec<String>, StoreError> {
        self.fail().await
    }
    async fn last_recorded(&self) -> Result<Option<i64>, StoreError> {
        self.fail().await
    }
    async fn credential(&self, _: &str, _: &str) -> Result<Option<SealedCredential>, StoreError> {
        self.fail().await
    }
    async fn budget_accounts(&self, _: &str, _: i64, _: i64, _: u32) -> Result<Vec<AccountUse>, StoreError> {
        self.fail().await
    }
    async fn approval_events(&self, _: &str, _: &str, _: u32) -> Result<Vec<String>, StoreError> {
        self.fail().await
    }
    async fn budget_uses(&self, _: &str, _: i64, _: &[Account]) -> Result<Vec<AccountUse>, StoreError> {
        self.fail().await
    }
    async fn credentials(&self, _: &str) -> Result<Vec<SealedCredential>, StoreError> {
        self.fail().await
    }
    async fn signing_keys(&self) -> Result<Vec<SealedKey>, StoreError> {
        self.fail().await
    }
    async fn add_signing_key(&self, _: SealedKey, _: Rotation) -> Result<(), StoreError> {
        self.fail().await
    }
    async fn check(&self) -> Result<(), StoreError> {
        self.fail().await
    }
    async fn close(&self) {}
}
