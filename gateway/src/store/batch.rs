//! What an append means: the same over every store.

use std::collections::HashMap;
use std::sync::Arc;

use super::error::StoreError;
use super::proof::KeptAnswer;
use super::{Append, Appended, Basis, Claim, Effect, Instead, Once, Standing};
use crate::approvals::{Approval, Status};
use crate::clock::time_of;
use crate::ledger::{Head, Sealed};

/// What a batch reads and writes, inside of one transaction. Nobody else changes what was read while it is open, and what
/// was written is read by what follows.
pub(super) trait Rows {
    /// Why the whole transaction fails.
    type Error;

    /// What was answered to an idempotency key before, however long ago.
    fn answer(
        &self,
        tenant_id: &str,
        key_name: &str,
        idempotency_key: &str,
    ) -> Result<Option<KeptAnswer>, Self::Error>;

    /// An approval, held to the ledger.
    fn approval(&self, tenant_id: &str, id: &str) -> Result<Option<Approval>, Self::Error>;

    /// The approvals for an action that `asker` asked for, held to the ledger; those that are spent, rejected or expired
    /// may be left out.
    fn approvals_for(
        &self,
        tenant_id: &str,
        action_hash: &str,
        asker: &str,
    ) -> Result<Vec<Approval>, Self::Error>;

    /// The id of the credential that a tool has.
    fn credential(&self, tenant_id: &str, tool_id: &str) -> Result<Option<String>, Self::Error>;

    /// The hash of a tool's manifest that was approved last.
    fn manifest(&self, tenant_id: &str, tool_id: &str) -> Result<Option<String>, Self::Error>;

    /// What became of a passport, held to the ledger.
    fn passport(&self, tenant_id: &str, jti: &str) -> Result<Option<Standing>, Self::Error>;

    /// The chain's number and head. It is made if it is not there.
    fn open_chain(&mut self, tenant_id: &str, chain_id: &str) -> Result<(i64, Head), Self::Error>;

    fn insert_event(&mut self, chain: i64, event: Sealed) -> Result<(), Self::Error>;

    fn take(&mut self, tenant_id: &str, claim: &Claim) -> Result<(), Self::Error>;

    fn apply(&mut self, tenant_id: &Arc<str>, effect: &Effect) -> Result<(), Self::Error>;

    /// Keeps an answer, in place of any other under its key.
    fn keep_answer(
        &mut self,
        tenant_id: &Arc<str>,
        key_name: &Arc<str>,
        idempotency_key: &str,
        kept: KeptAnswer,
    ) -> Result<(), Self::Error>;

    fn save_head(&mut self, chain: i64, head: &Head) -> Result<(), Self::Error>;
}

/// Of a tenant's approvals for one action: the one that may be spent at `now`, or else the one that may still be decided.
pub(super) fn live(approvals: Vec<Approval>, now: i64) -> Option<Approval> {
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

/// Many appends in one transaction. The heads of its chains are read inside of it, once, and written once.
pub(super) struct Batch<R> {
    rows: R,
    /// In milliseconds since 1970.
    now: i64,
    chains: HashMap<(Arc<str>, String), (i64, Head)>,
}

/// Whether a claim can be had.
enum Had<'a> {
    Free,
    Refused(&'a Instead),
    Stale,
}

impl<R: Rows> Batch<R> {
    /// `now` is in milliseconds since 1970, and not before any event that was recorded.
    pub(super) fn new(rows: R, now: i64) -> Self {
        Self { rows, now, chains: HashMap::new() }
    }

    /// The outer error is the whole transaction's, the inner one this append's alone.
    pub(super) fn append(&mut self, append: &Append) -> Result<Result<Appended, StoreError>, R::Error> {
        let Append { event, once, claims, binding, manifest, holds_until, effect } = append;
        let (tenant_id, key_name) = (&event.tenant_id, &event.key_name);
        let kept = match once {
            None => None,
            Some(once) => {
                let kept = self.rows.answer(tenant_id, key_name, &once.idempotency_key)?;
                kept.filter(|kept| kept.expires_at > self.seconds())
            }
        };
        if let Some(once) = once {
            match &kept {
                Some(kept) if kept.fingerprint != once.fingerprint => return Ok(Ok(Appended::Conflict)),
                Some(kept) if once.earlier != Some(kept.seq) => {
                    let earlier = kept.earlier(key_name, &once.idempotency_key);
                    return Ok(Ok(Appended::Earlier(Box::new(earlier))));
                }
                // It was kept no longer just now.
                None if once.earlier.is_some() => return Ok(Ok(Appended::Stale)),
                Some(_) | None => {}
            }
        }
        if holds_until.is_some_and(|until| self.seconds() >= until) {
            return Ok(Ok(Appended::Stale));
        }
        if let Some(effect) = effect
            && self.is_stale(tenant_id, effect)?
        {
            return Ok(Ok(Appended::Stale));
        }
        if let Some(binding) = binding
            && self.rows.credential(tenant_id, &binding.tool_id)? != binding.credential_id
        {
            return Ok(Ok(Appended::Stale));
        }
        if let Some(pinned) = manifest
            && self.rows.manifest(tenant_id, &pinned.tool_id)? != pinned.hash
        {
            return Ok(Ok(Appended::Stale));
        }
        if let Some(basis) = once.as_ref().and_then(|once| once.repeats.as_ref()) {
            return Ok(Ok(match self.still_holds(tenant_id, basis)? {
                true => Appended::Repeated,
                false => Appended::Stale,
            }));
        }
        // Nobody else writes what this transaction reads, so what is free here is free below.
        let mut refused = None;
        for claim in claims {
            match self.look_at(tenant_id, claim)? {
                Had::Free => {}
                Had::Refused(instead) => {
                    refused = Some(instead);
                    break;
                }
                Had::Stale => return Ok(Ok(Appended::Stale)),
            }
        }
        let event = refused.map_or(event, |instead| &instead.event);
        let chain = (Arc::clone(tenant_id), event.chain_id.clone());
        let (id, head) = match self.chains.remove(&chain) {
            Some(known) => known,
            None => self.rows.open_chain(&chain.0, &chain.1)?,
        };
        let Ok(sealed) = event.seal(&head, time_of(self.now)) else {
            self.chains.insert(chain, (id, head));
            return Ok(Err(StoreError::NotCanonical));
        };
        let head = sealed.head.clone();
        let keep = once.as_ref().map(|once| self.keep(once, kept, refused, &sealed));
        self.rows.insert_event(id, sealed)?;
        if refused.is_none() {
            for claim in claims {
                self.rows.take(tenant_id, claim)?;
            }
            if let Some(effect) = effect {
                self.rows.apply(tenant_id, effect)?;
            }
        }
        if let (Some(once), Some(kept)) = (once, keep) {
            self.rows.keep_answer(tenant_id, key_name, &once.idempotency_key, kept)?;
        }
        self.chains.insert(chain, (id, head.clone()));
        Ok(Ok(match refused {
            None => Appended::Recorded(head),
            Some(instead) => Appended::Refused(instead.answer.clone()),
        }))
    }

    /// What is kept of an answer whose event is `sealed`.
    fn keep(
        &self,
        once: &Once,
        earlier: Option<KeptAnswer>,
        refused: Option<&Instead>,
        sealed: &Sealed,
    ) -> KeptAnswer {
        let allows = once.allows && refused.is_none();
        // What was allowed first under a key stays known for the key's life.
        let (allowed_seq, allowed_event) = match earlier {
            Some(KeptAnswer { allowed_seq: Some(seq), allowed_event, .. }) => (Some(seq), allowed_event),
            Some(_) | None if allows => (Some(sealed.head.length), Some(sealed.text.clone())),
            Some(_) | None => (None, None),
        };
        KeptAnswer {
            fingerprint: once.fingerprint.to_vec(),
            answer: refused.map_or(&once.answer, |instead| &instead.answer).clone(),
            expires_at: self.seconds().saturating_add(once.keep_seconds),
            seq: sealed.head.length,
            event: Some(sealed.text.clone()),
            allowed_seq,
            allowed_event,
        }
    }

    fn seconds(&self) -> i64 {
        self.now.div_euclid(1000)
    }

    /// Writes the heads. What is left is to commit.
    pub(super) fn finish(mut self) -> Result<R, R::Error> {
        for (id, head) in self.chains.values() {
            self.rows.save_head(*id, head)?;
        }
        Ok(self.rows)
    }

    /// Whether what an earlier `allow` rested on is still there. That it was spent by that very answer does not matter.
    fn still_holds(&self, tenant_id: &str, basis: &Basis) -> Result<bool, R::Error> {
        if let Some(jti) = &basis.passport
            && self.rows.passport(tenant_id, jti)?.is_none_or(|standing| standing.revoked)
        {
            return Ok(false);
        }
        let Some(id) = &basis.approval else {
            return Ok(true);
        };
        let approval = self.rows.approval(tenant_id, id)?;
        Ok(approval.is_some_and(|approval| approval.is_leave(self.seconds())))
    }

    fn look_at<'a>(&self, tenant_id: &str, claim: &'a Claim) -> Result<Had<'a>, R::Error> {
        match claim {
            Claim::Passport { jti, replayed, revoked } => Ok(match self.rows.passport(tenant_id, jti)? {
                None | Some(Standing { revoked: true, .. }) => Had::Refused(revoked),
                Some(Standing { used: true, .. }) => Had::Refused(replayed),
                Some(Standing { revoked: false, used: false }) => Had::Free,
            }),
            Claim::Approval { id, spent } => {
                let approval = self.rows.approval(tenant_id, id)?;
                let is_there = approval.is_some_and(|found| !found.spent && found.is_approved());
                Ok(match (is_there, spent) {
                    (true, _) => Had::Free,
                    (false, Some(spent)) => Had::Refused(spent),
                    (false, None) => Had::Stale,
                })
            }
        }
    }

    fn is_stale(&self, tenant_id: &str, effect: &Effect) -> Result<bool, R::Error> {
        match effect {
            Effect::Decide { id, decided } => {
                let approval = self.rows.approval(tenant_id, id)?;
                let at = decided.at.max(self.seconds());
                Ok(approval.is_none_or(|found| found.decided.is_some() || at >= found.deadline))
            }
            Effect::Open { approval, alone: true } => {
                let open = self.rows.approvals_for(tenant_id, &approval.action_hash, &approval.asker)?;
                Ok(live(open, self.seconds()).is_some())
            }
            Effect::ApproveManifest { .. }
            | Effect::Issue { .. }
            | Effect::Open { alone: false, .. }
            | Effect::SetCredential(_) => Ok(false),
            Effect::RemoveCredential { tool_id, id } => {
                Ok(self.rows.credential(tenant_id, tool_id)?.as_ref() != Some(id))
            }
            Effect::Revoke { jti } => {
                let standing = self.rows.passport(tenant_id, jti)?;
                Ok(standing.is_none_or(|standing| standing.revoked))
            }
        }
    }
}
