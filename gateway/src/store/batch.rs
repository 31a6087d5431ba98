//! The semantics of appends, shared by all stores.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use rust_decimal::Decimal;

use super::PassportState;
use super::append::{
    AllowBasis, ApprovalOpening, Change, Claim, Claims, DecisionOutcome, DecisionRecord, Excess, Fallback,
    HaltChange, HaltOutcome, Idempotency, Mutation, Record, SingleUse, Transition, TransitionOutcome,
};
use super::error::StoreError;
use super::kept::{KeptKind, NewKept};
use super::proof::StoredResponse;
use super::queue::Append;
use crate::approvals::{Approval, ApprovalDecision, Ballot, Status, VoteOutcome, VoteRefusal};
use crate::budget::{self, Account, Usage};
use crate::capture::SealedRequest;
use crate::clock::system_time;
use crate::delegation::Delegation;
use crate::events;
use crate::halts::{Acknowledgement, ActiveHalts, Halt, Lifting, MAX_ACTIVE};
use crate::history::{Check, Truth};
use crate::ledger::{DECISIONS, Draft, Head, Sealed};
use crate::quorum::Vote;

/// Reads and writes of a batch within one transaction. Rows that were read do not change until it
/// ends, and reads see earlier writes of the batch.
pub(super) trait Rows {
    /// Failure of the whole transaction.
    type Error;

    /// Returns the stored response under an idempotency key, even if it has expired.
    fn response(
        &self,
        tenant_id: &str,
        key_name: &str,
        idempotency_key: &str,
    ) -> Result<Option<StoredResponse>, Self::Error>;

    /// Returns an approval, verified against the ledger.
    fn approval(&self, tenant_id: &str, id: &str) -> Result<Option<Approval>, Self::Error>;

    /// Returns the approvals for an action that `asker` opened, verified against the ledger; spent,
    /// rejected or expired ones may be omitted.
    fn approvals_for(
        &self,
        tenant_id: &str,
        action_hash: &str,
        asker: &str,
    ) -> Result<Vec<Approval>, Self::Error>;

    /// Returns the events of the delegation `id`, in order.
    fn delegation(&self, tenant_id: &str, id: &str) -> Result<Vec<String>, Self::Error>;

    /// Returns the id of a tool's credential.
    fn credential(&self, tenant_id: &str, tool_id: &str) -> Result<Option<String>, Self::Error>;

    /// Returns the hash of a tool's approved manifest.
    fn manifest(&self, tenant_id: &str, tool_id: &str) -> Result<Option<String>, Self::Error>;

    /// Returns a passport's state, verified against the ledger.
    fn passport(&self, tenant_id: &str, jti: &str) -> Result<Option<PassportState>, Self::Error>;

    /// Returns the tenants with a chain of decisions.
    fn deciding_tenants(&self) -> Result<Vec<Arc<str>>, Self::Error>;

    fn start_halt(&mut self, halt: &Arc<Halt>) -> Result<(), Self::Error>;

    /// Stores the lifting of a halt.
    fn lift_halt(&mut self, halt: &Arc<Halt>) -> Result<(), Self::Error>;

    /// Returns whether the acknowledgement is new and within the limit of its API key and epoch.
    fn can_acknowledge(&self, acknowledgement: &Acknowledgement) -> Result<bool, Self::Error>;

    /// Returns the chain's row id and head; creates the chain if it does not exist.
    fn open_chain(&mut self, tenant_id: &str, chain_id: &str) -> Result<(i64, Head), Self::Error>;

    fn insert_event(&mut self, chain: i64, event: Sealed) -> Result<(), Self::Error>;

    /// Adds a record outside of the ledger, unless its name is known.
    fn keep(&mut self, record: NewKept) -> Result<(), Self::Error>;

    /// Marks a single-use grant as used.
    fn consume(&mut self, tenant_id: &str, single_use: &SingleUse) -> Result<(), Self::Error>;

    /// Returns the sum of an account's claims that expire after `now`, in milliseconds since 1970.
    fn used(&mut self, tenant_id: &str, account: &Account, now: i64) -> Result<Decimal, Self::Error>;

    /// Records a claim of the decision `event`.
    fn claim(&mut self, tenant_id: &str, claim: &Claim, decision: ClaimedBy<'_>) -> Result<(), Self::Error>;

    /// Opens an approval.
    fn open(&mut self, tenant_id: &Arc<str>, approval: &Approval) -> Result<(), Self::Error>;

    fn apply_mutation(&mut self, tenant_id: &Arc<str>, mutation: &Mutation) -> Result<(), Self::Error>;

    /// Stores an acknowledgement; `at` is in seconds since 1970.
    fn acknowledge(&mut self, acknowledgement: &Acknowledgement, at: i64) -> Result<(), Self::Error>;

    /// Removes a tool's credential.
    fn remove_credential(&mut self, tenant_id: &Arc<str>, tool_id: &str) -> Result<(), Self::Error>;

    /// Marks a passport as used.
    fn use_passport(&mut self, tenant_id: &str, jti: &str) -> Result<(), Self::Error>;

    /// Revokes a passport.
    fn revoke_passport(&mut self, tenant_id: &Arc<str>, jti: &str) -> Result<(), Self::Error>;

    /// Replaces the note of a pending approval, and decides it if there is a decision.
    fn vote(
        &mut self,
        tenant_id: &Arc<str>,
        id: &str,
        note: Option<&str>,
        decided: Option<&ApprovalDecision>,
    ) -> Result<(), Self::Error>;

    /// Stores a response, replacing any other under its key. `chain` is the row id of its event's
    /// chain.
    fn store_response(
        &mut self,
        chain: i64,
        tenant_id: &Arc<str>,
        key_name: &Arc<str>,
        idempotency_key: &str,
        kept: StoredResponse,
    ) -> Result<(), Self::Error>;

    fn save_head(&mut self, chain: i64, head: &Head) -> Result<(), Self::Error>;
}

/// The decision that claims.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClaimedBy<'a> {
    pub(super) event_id: &'a str,
    pub(super) request_hash: Option<&'a str>,
    /// In milliseconds since 1970.
    pub(super) at: i64,
}

/// Returns the approval that may be spent at `now`, otherwise one that is pending.
pub(super) fn find_live(approvals: Vec<Approval>, now: i64) -> Option<Approval> {
    let mut found: Option<Approval> = None;
    for approval in approvals.into_iter().filter(|approval| !approval.spent) {
        match approval.status(now) {
            Status::Approved => return Some(approval),
            Status::Pending if found.is_none() => found = Some(approval),
            Status::Expired | Status::Pending | Status::Rejected => {}
        }
    }
    found
}

/// Many appends in one transaction. Each chain's head is read once and written once.
pub(super) struct Batch<R> {
    rows: R,
    /// In milliseconds since 1970.
    now: i64,
    halts: Arc<ActiveHalts>,
    chains: HashMap<(Arc<str>, String), (i64, Head)>,
    /// Votes of this batch by approval. Rows see events only up to the chain's saved head.
    votes: HashMap<(Arc<str>, String), Vec<Vote>>,
    /// Delegations revoked in this batch.
    revoked: HashSet<(Arc<str>, String)>,
}

/// Result of an append. The outer error fails the whole transaction, the inner one this append.
type Outcome<T, E> = Result<Result<T, StoreError>, E>;

/// Availability of a single-use grant.
enum Availability<'a> {
    Free,
    Refused(&'a Fallback),
    Stale,
}

/// Measurement of a decision's claims.
enum Measured<'a> {
    Fits(Vec<Usage<'a>>),
    Refused(&'a Fallback, Option<Usage<'a>>),
    /// The budget's name.
    RequiresApproval(&'a str),
    Stale,
}

impl<R: Rows> Batch<R> {
    /// `now` is in milliseconds since 1970 and must not precede any recorded event. `halts` is
    /// the state in the transaction.
    pub(super) fn new(rows: R, now: i64, halts: Arc<ActiveHalts>) -> Self {
        let (chains, votes, revoked) = (HashMap::new(), HashMap::new(), HashSet::new());
        Self { rows, now, halts, chains, votes, revoked }
    }

    /// Executes the append and sets its ticket's outcome. An error fails the whole transaction.
    pub(super) fn append(&mut self, append: &mut Append) -> Result<(), R::Error> {
        match append {
            Append::Decision(decision, ticket) => ticket.outcome = self.decide(decision)?,
            Append::Halt(change, ticket) => ticket.outcome = self.change_halts(change)?,
            Append::Record(record, ticket) => ticket.outcome = self.record(record)?,
            Append::Transition(transition, ticket) => ticket.outcome = self.change(transition)?,
        }
        Ok(())
    }

    fn record(&mut self, Record { event, mutation }: &Record) -> Outcome<Head, R::Error> {
        if let Some(Mutation::IssuePassport { halt_epoch, .. }) = mutation
            && *halt_epoch != self.halts.epoch
        {
            return Ok(Err(StoreError::HaltsChanged));
        }
        let (chain, sealed) = match self.seal(event)? {
            Ok(sealed) => sealed,
            Err(error) => return Ok(Err(error)),
        };
        let head = sealed.head.clone();
        self.rows.insert_event(chain, sealed)?;
        if let Some(mutation) = mutation {
            self.rows.apply_mutation(&event.tenant_id, mutation)?;
        }
        Ok(Ok(head))
    }

    fn change(&mut self, Transition { event, change }: &Transition) -> Outcome<TransitionOutcome, R::Error> {
        let tenant_id = &event.tenant_id;
        let of_tenant = |name: &str| (Arc::clone(tenant_id), name.to_owned());
        match change {
            Change::Acknowledge(acknowledgement) => {
                if !self.rows.can_acknowledge(acknowledgement)? {
                    return Ok(Ok(TransitionOutcome::Stale));
                }
                self.rows.acknowledge(acknowledgement, self.seconds())?;
            }
            Change::DecideApproval { id, ballot, voted, halt_epoch } => {
                if halt_epoch.is_some_and(|epoch| epoch != self.halts.epoch) {
                    return Ok(Err(StoreError::HaltsChanged));
                }
                return self.vote(event, voted, id, ballot);
            }
            Change::ExchangePassport { subject, ancestors, exchanged, issue } => {
                if let Mutation::IssuePassport { halt_epoch, .. } = &**issue
                    && *halt_epoch != self.halts.epoch
                {
                    return Ok(Err(StoreError::HaltsChanged));
                }
                let standing = self.rows.passport(tenant_id, subject)?;
                let is_free = standing == Some(PassportState::default());
                if !is_free || self.is_any_revoked(tenant_id, ancestors)? {
                    return Ok(Ok(TransitionOutcome::Stale));
                }
                if let Err(error) = self.insert(exchanged)? {
                    return Ok(Err(error));
                }
                self.rows.use_passport(tenant_id, subject)?;
                self.rows.apply_mutation(tenant_id, issue)?;
            }
            Change::RemoveCredential { tool_id, id } => {
                if self.rows.credential(tenant_id, tool_id)?.as_ref() != Some(id) {
                    return Ok(Ok(TransitionOutcome::Stale));
                }
                self.rows.remove_credential(tenant_id, tool_id)?;
            }
            Change::RevokeDelegation { id } => {
                let known = self.delegation(tenant_id, id)?;
                if known.is_none_or(|delegation| delegation.revoked) {
                    return Ok(Ok(TransitionOutcome::Stale));
                }
                self.revoked.insert(of_tenant(id));
            }
            Change::RevokePassport { jti } => {
                if self.rows.passport(tenant_id, jti)?.is_none_or(|standing| standing.revoked) {
                    return Ok(Ok(TransitionOutcome::Stale));
                }
                self.rows.revoke_passport(tenant_id, jti)?;
            }
        }
        let recorded = self.insert(event)?;
        Ok(recorded.map(|()| TransitionOutcome::Recorded))
    }

    /// Votes on an approval: `decided` is the event of a vote that decides it, `voted` of another.
    fn vote(
        &mut self,
        decided: &Draft,
        voted: &Draft,
        id: &str,
        ballot: &Ballot,
    ) -> Outcome<TransitionOutcome, R::Error> {
        let tenant_id = &decided.tenant_id;
        let name = (Arc::clone(tenant_id), id.to_owned());
        let Some(mut approval) = self.rows.approval(tenant_id, id)? else {
            return Ok(Ok(TransitionOutcome::Stale));
        };
        approval.votes.extend(self.votes.get(&name).into_iter().flatten().cloned());
        let decides = match approval.evaluate(ballot, self.seconds()) {
            VoteOutcome::Decides => true,
            VoteOutcome::Counts => false,
            VoteOutcome::Refused(refusal) => return Ok(Ok(TransitionOutcome::Refused(refusal))),
            VoteOutcome::TooLate => return Ok(Ok(TransitionOutcome::Stale)),
        };
        if let Some(seat) = &ballot.vote.delegated {
            let at = ballot.vote.at.max(self.seconds());
            let delegation = self.delegation(tenant_id, &seat.delegation)?;
            if !delegation.is_some_and(|found| found.permits(&seat.person, &ballot.vote.person, at)) {
                return Ok(Ok(TransitionOutcome::Refused(VoteRefusal::NotDelegated)));
            }
        }
        if let Err(error) = self.insert(if decides { decided } else { voted })? {
            return Ok(Err(error));
        }
        let note = approval.note_with(ballot, decides && approval.votes.is_empty());
        let decision = decides.then(|| ballot.decision(note.clone()));
        self.rows.vote(tenant_id, id, note.as_deref(), decision.as_ref())?;
        self.votes.entry(name).or_default().push(ballot.vote.clone());
        Ok(Ok(TransitionOutcome::Recorded))
    }

    fn delegation(&self, tenant_id: &Arc<str>, id: &str) -> Result<Option<Delegation>, R::Error> {
        let events = self.rows.delegation(tenant_id, id)?;
        let found = Delegation::of_events(events.iter().map(String::as_str));
        let is_revoked = self.revoked.contains(&(Arc::clone(tenant_id), id.to_owned()));
        let found = found.into_iter().find(|delegation| delegation.id == id);
        Ok(found.map(|found| Delegation { revoked: found.revoked || is_revoked, ..found }))
    }

    /// Appends an event to its chain.
    fn insert(&mut self, event: &Draft) -> Outcome<(), R::Error> {
        match self.seal(event)? {
            Ok((chain, sealed)) => self.rows.insert_event(chain, sealed).map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    fn change_halts(&mut self, change: &HaltChange) -> Outcome<HaltOutcome, R::Error> {
        let epoch = self.halts.epoch.saturating_add(1);
        let (halt, halts) = match change {
            HaltChange::Start(halt) => {
                let active = &self.halts.halts;
                if let Some(known) = active.iter().find(|known| known.repeats(halt)) {
                    return Ok(Ok(HaltOutcome::Repeated(Arc::clone(known))));
                }
                if active.iter().filter(|known| known.tenant_id == halt.tenant_id).count() >= MAX_ACTIVE {
                    return Ok(Ok(HaltOutcome::TooMany));
                }
                let halt = Arc::new(Halt { at: self.seconds(), epoch, ..Halt::clone(halt) });
                let halts = self.halts.with(Arc::clone(&halt));
                (halt, halts)
            }
            HaltChange::Lift { id, by, reason } => {
                let Some(active) = self.halts.halts.iter().find(|active| active.id == *id) else {
                    return Ok(Ok(HaltOutcome::NotActive));
                };
                let lifted = Lifting { by: by.clone(), at: self.seconds(), reason: reason.clone(), epoch };
                let halt = Arc::new(Halt { lifted: Some(lifted), ..Halt::clone(active) });
                (halt, self.halts.without(id, epoch))
            }
        };
        let tenants = match &halt.tenant_id {
            Some(tenant_id) => vec![Arc::clone(tenant_id)],
            None => self.rows.deciding_tenants()?,
        };
        for tenant_id in &tenants {
            match self.seal(&events::halt(tenant_id, &halt))? {
                Ok((chain, sealed)) => self.rows.insert_event(chain, sealed)?,
                Err(error) => return Ok(Err(error)),
            }
        }
        match halt.lifted {
            None => self.rows.start_halt(&halt)?,
            Some(_) => self.rows.lift_halt(&halt)?,
        }
        self.halts = Arc::new(halts);
        Ok(Ok(HaltOutcome::Changed(halt)))
    }

    fn decide(&mut self, decision: &DecisionRecord) -> Outcome<DecisionOutcome, R::Error> {
        let DecisionRecord {
            event,
            halt_epoch,
            idempotency,
            history,
            uses,
            credential,
            manifest,
            holds_until,
            opens,
            budgets,
            capture,
            begun: _,
        } = decision;
        if *halt_epoch != self.halts.epoch {
            return Ok(Err(StoreError::HaltsChanged));
        }
        let (tenant_id, key_name) = (&event.tenant_id, &event.key_name);
        let kept = match idempotency {
            None => None,
            Some(idempotency) => {
                let kept = self.rows.response(tenant_id, key_name, &idempotency.key)?;
                kept.filter(|kept| kept.expires_at > self.seconds())
            }
        };
        let mut replay = None;
        if let Some(idempotency) = idempotency {
            match (&kept, &idempotency.earlier) {
                (Some(kept), _) if kept.fingerprint != idempotency.fingerprint => {
                    return Ok(Ok(DecisionOutcome::Conflict));
                }
                (Some(kept), Some(considered)) if considered.seq == kept.seq => {
                    replay = considered.replay_of.as_ref().map(|basis| (basis, kept.response.clone()));
                }
                (Some(kept), Some(_) | None) => {
                    let earlier = kept.earlier(key_name, &idempotency.key);
                    return Ok(Ok(DecisionOutcome::EarlierResponse(Box::new(earlier))));
                }
                // It expired in the meantime.
                (None, Some(_)) => return Ok(Ok(DecisionOutcome::Stale)),
                (None, None) => {}
            }
        }
        if replay.is_none()
            && let Some(truths) = self.differing_history(tenant_id, history)?
        {
            return Ok(Ok(DecisionOutcome::History(truths)));
        }
        if holds_until.is_some_and(|until| self.seconds() >= until) {
            return Ok(Ok(DecisionOutcome::Stale));
        }
        if let Some(ApprovalOpening { approval, exclusive: true }) = opens {
            let open = self.rows.approvals_for(tenant_id, &approval.action_hash, &approval.asker)?;
            if find_live(open, self.seconds()).is_some() {
                return Ok(Ok(DecisionOutcome::Stale));
            }
        }
        if let Some(pin) = credential
            && self.rows.credential(tenant_id, &pin.tool_id)? != pin.credential_id
        {
            return Ok(Ok(DecisionOutcome::Stale));
        }
        if let Some(pin) = manifest
            && self.rows.manifest(tenant_id, &pin.tool_id)? != pin.hash
        {
            return Ok(Ok(DecisionOutcome::Stale));
        }
        if let Some((basis, response)) = replay {
            return Ok(Ok(match self.still_holds(tenant_id, basis)? {
                true => DecisionOutcome::Repeated(response),
                false => DecisionOutcome::Stale,
            }));
        }
        // The transaction's locks ensure that an available single use stays available below.
        let mut refused = None;
        for single_use in uses {
            match self.availability(tenant_id, single_use)? {
                Availability::Free => {}
                Availability::Refused(fallback) => {
                    refused = Some(fallback);
                    break;
                }
                Availability::Stale => return Ok(Ok(DecisionOutcome::Stale)),
            }
        }
        // The response, if the state of the budgets completes it.
        let mut completed = None;
        if let Some(budgets) = budgets.as_ref().filter(|_| refused.is_none()) {
            completed = Some(match self.measure(tenant_id, budgets)? {
                Measured::Fits(usages) => budget::complete(&budgets.response, &usages),
                Measured::Refused(fallback, usage) => {
                    refused = Some(fallback);
                    budget::complete(&fallback.response, usage.as_slice())
                }
                Measured::RequiresApproval(name) => {
                    return Ok(Ok(DecisionOutcome::OverBudget(name.to_owned())));
                }
                Measured::Stale => return Ok(Ok(DecisionOutcome::Stale)),
            });
        }
        let event = refused.map_or(event, |fallback| &fallback.event);
        let (chain, sealed) = match self.seal(event)? {
            Ok(sealed) => sealed,
            Err(error) => return Ok(Err(error)),
        };
        let stored = idempotency.as_ref().map(|idempotency| {
            let response = match (&completed, refused) {
                (Some(completed), _) => completed,
                (None, Some(fallback)) => &fallback.response,
                (None, None) => &idempotency.response,
            };
            let allows = idempotency.allows && refused.is_none();
            self.build_stored_response(idempotency, kept, (response.clone(), allows), &sealed)
        });
        self.rows.insert_event(chain, sealed)?;
        if let Some(SealedRequest { sealed, keep_ms }) = capture {
            self.rows.keep(NewKept {
                tenant_id: Arc::clone(tenant_id),
                kind: KeptKind::Capture,
                name: event.event_id.clone(),
                at: self.now,
                expires_at: Some(self.now.saturating_add(*keep_ms)),
                body: sealed.clone(),
            })?;
        }
        if refused.is_none() {
            for single_use in uses {
                self.rows.consume(tenant_id, single_use)?;
            }
            for claim in
                budgets.iter().filter(|budgets| budgets.are_recorded).flat_map(|budgets| &budgets.claims)
            {
                let request_hash = event.request_hash.as_deref();
                let decision = ClaimedBy { event_id: &event.event_id, request_hash, at: self.now };
                self.rows.claim(tenant_id, claim, decision)?;
            }
            if let Some(ApprovalOpening { approval, .. }) = opens {
                self.rows.open(tenant_id, approval)?;
            }
        }
        if let (Some(idempotency), Some(kept)) = (idempotency, stored) {
            self.rows.store_response(chain, tenant_id, key_name, &idempotency.key, kept)?;
        }
        Ok(Ok(match (refused, completed) {
            (None, None) => DecisionOutcome::Recorded,
            (None, Some(response)) => DecisionOutcome::Claimed(response),
            (Some(fallback), None) => DecisionOutcome::Refused(fallback.response.clone()),
            (Some(_), Some(response)) => DecisionOutcome::Refused(response),
        }))
    }

    /// Positions an event at the end of its chain; returns the chain's row id and the event.
    fn seal(&mut self, event: &Draft) -> Outcome<(i64, Sealed), R::Error> {
        let (chain, head) = match self.chains.entry((Arc::clone(&event.tenant_id), event.chain_id.clone())) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let (tenant_id, chain_id) = unknown.key();
                let (chain, mut head) = self.rows.open_chain(tenant_id, chain_id)?;
                // A new chain of decisions starts with the halts of all tenants.
                if head.length == 0 && chain_id == DECISIONS {
                    for halt in self.halts.halts.iter().filter(|halt| halt.tenant_id.is_none()) {
                        let Ok(sealed) = events::halt(tenant_id, halt).seal(&head, system_time(self.now))
                        else {
                            return Ok(Err(StoreError::NotCanonical));
                        };
                        head = sealed.head.clone();
                        self.rows.insert_event(chain, sealed)?;
                    }
                }
                unknown.insert((chain, head))
            }
        };
        let Ok(sealed) = event.seal(head, system_time(self.now)) else {
            return Ok(Err(StoreError::NotCanonical));
        };
        *head = sealed.head.clone();
        Ok(Ok((*chain, sealed)))
    }

    /// Builds the stored response for the event `sealed`.
    fn build_stored_response(
        &self,
        idempotency: &Idempotency,
        earlier: Option<StoredResponse>,
        (response, allows): (Bytes, bool),
        sealed: &Sealed,
    ) -> StoredResponse {
        // The first `allow` under a key is retained for the key's lifetime.
        let (allowed_seq, allowed_event) = match earlier {
            Some(StoredResponse { allowed_seq: Some(seq), allowed_event, .. }) => (Some(seq), allowed_event),
            Some(_) | None if allows => (Some(sealed.head.length), Some(sealed.text.clone())),
            Some(_) | None => (None, None),
        };
        StoredResponse {
            fingerprint: idempotency.fingerprint.to_vec(),
            response,
            expires_at: self.seconds().saturating_add(idempotency.retention_seconds),
            seq: sealed.head.length,
            event: Some(sealed.text.clone()),
            allowed_seq,
            allowed_event,
        }
    }

    fn seconds(&self) -> i64 {
        self.now.div_euclid(1000)
    }

    /// Writes the heads, before the commit, and returns the halts after the batch.
    pub(super) fn finish(mut self) -> Result<(R, Arc<ActiveHalts>), R::Error> {
        for (id, head) in self.chains.values() {
            self.rows.save_head(*id, head)?;
        }
        Ok((self.rows, self.halts))
    }

    /// Returns whether the basis of an earlier `allow` still exists, even if that `allow` spent it.
    fn still_holds(&self, tenant_id: &str, basis: &AllowBasis) -> Result<bool, R::Error> {
        if let Some(jti) = &basis.passport
            && self.rows.passport(tenant_id, jti)?.is_none_or(|standing| standing.revoked)
        {
            return Ok(false);
        }
        let Some(id) = &basis.approval else {
            return Ok(true);
        };
        let approval = self.rows.approval(tenant_id, id)?;
        Ok(approval.is_some_and(|approval| approval.is_usable(self.seconds())))
    }

    /// Returns whether one of these passports is revoked or unknown.
    fn is_any_revoked(&self, tenant_id: &str, jtis: &[String]) -> Result<bool, R::Error> {
        for jti in jtis {
            if self.rows.passport(tenant_id, jti)?.is_none_or(|standing| standing.revoked) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn availability<'a>(
        &self,
        tenant_id: &str,
        single_use: &'a SingleUse,
    ) -> Result<Availability<'a>, R::Error> {
        match single_use {
            SingleUse::Passport { jti, ancestors, replayed, revoked } => {
                if self.is_any_revoked(tenant_id, ancestors)? {
                    return Ok(Availability::Refused(revoked));
                }
                Ok(match self.rows.passport(tenant_id, jti)? {
                    None | Some(PassportState { revoked: true, .. }) => Availability::Refused(revoked),
                    Some(PassportState { used: true, .. }) => Availability::Refused(replayed),
                    Some(PassportState { revoked: false, used: false }) => Availability::Free,
                })
            }
            SingleUse::Approval { id, spent } => {
                let approval = self.rows.approval(tenant_id, id)?;
                let is_there = approval.is_some_and(|found| !found.spent && found.is_approved());
                Ok(match (is_there, spent) {
                    (true, _) => Availability::Free,
                    (false, Some(spent)) => Availability::Refused(spent),
                    (false, None) => Availability::Stale,
                })
            }
        }
    }

    /// Returns which history conditions hold if the decision assumed otherwise.
    fn differing_history(
        &mut self,
        tenant_id: &str,
        checks: &[Check],
    ) -> Result<Option<Vec<Truth>>, R::Error> {
        let mut truths = Vec::with_capacity(checks.len());
        let mut differs = false;
        for Check { condition, account, bound, assumed } in checks {
            let holds = bound.holds(self.rows.used(tenant_id, account, self.now)?);
            differs |= holds != *assumed;
            truths.push(Truth { condition: *condition, holds });
        }
        Ok(differs.then_some(truths))
    }

    /// Measures the claims against their budgets. A budget that denies takes precedence over one
    /// that requires an approval.
    fn measure<'b>(&mut self, tenant_id: &str, budgets: &'b Claims) -> Result<Measured<'b>, R::Error> {
        let at = self.now;
        if let Some(charge) = &budgets.exceeds {
            let used = self.rows.used(tenant_id, &charge.account, at)?;
            if budget::fits(charge, used) {
                return Ok(Measured::Stale);
            }
            if budgets.claims.is_empty() {
                return Ok(Measured::Fits(vec![Usage { charge, used }]));
            }
        }
        let mut usages = Vec::with_capacity(budgets.claims.len());
        let mut requires_approval = None;
        for Claim { charge, on_excess, .. } in &budgets.claims {
            if charge.limit.is_none() && matches!(on_excess, Excess::Claim) {
                continue;
            }
            let used = self.rows.used(tenant_id, &charge.account, at)?;
            let fits = budget::fits(charge, used);
            match on_excess {
                Excess::Refuse(fallback) if !fits => {
                    let usage = charge.limit.is_some().then_some(Usage { charge, used });
                    return Ok(Measured::Refused(fallback, usage));
                }
                Excess::RequireApproval if !fits => {
                    requires_approval.get_or_insert(&*charge.account.budget);
                }
                Excess::Claim | Excess::Refuse(_) | Excess::RequireApproval => {}
            }
            let used = if budgets.are_recorded { used.saturating_add(charge.amount) } else { used };
            if charge.limit.is_some() {
                usages.push(Usage { charge, used });
            }
        }
        Ok(match requires_approval {
            Some(name) => Measured::RequiresApproval(name),
            None => Measured::Fits(usages),
        })
    }
}
