//! What an append means: the same over every store.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::{Append, Appended, Claim, Effect, Instead, Once, Standing, StoreError};
use crate::ledger::{Head, Sealed};

/// What a batch reads and writes, inside of one transaction. Nobody else changes what was read while it is open, and what
/// was written is read by what follows.
pub(super) trait Rows {
    /// Why the whole transaction fails.
    type Error;

    /// What was answered to an idempotency key before.
    fn answer(
        &self,
        tenant_id: &str,
        key_name: &str,
        idempotency_key: &str,
    ) -> Result<Option<Answer>, Self::Error>;

    fn approval(&self, tenant_id: &str, id: &str) -> Result<Option<ApprovalStanding>, Self::Error>;

    /// The id of the credential that a tool has.
    fn credential(&self, tenant_id: &str, tool_id: &str) -> Result<Option<String>, Self::Error>;

    fn passport(&self, tenant_id: &str, jti: &str) -> Result<Option<Standing>, Self::Error>;

    /// The chain's number and head. It is made if it is not there.
    fn open_chain(&mut self, tenant_id: &str, chain_id: &str) -> Result<(i64, Head), Self::Error>;

    fn insert_event(&mut self, chain: i64, event: Sealed) -> Result<(), Self::Error>;

    fn take(&mut self, tenant_id: &str, claim: &Claim) -> Result<(), Self::Error>;

    fn apply(&mut self, tenant_id: &Arc<str>, effect: &Effect) -> Result<(), Self::Error>;

    fn keep_answer(
        &mut self,
        tenant_id: &Arc<str>,
        key_name: &Arc<str>,
        once: &Once,
        answer: &Bytes,
    ) -> Result<(), Self::Error>;

    fn save_head(&mut self, chain: i64, head: &Head) -> Result<(), Self::Error>;
}

/// What was answered to a request, and which it was.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) fingerprint: Vec<u8>,
    pub(super) answer: Bytes,
}

/// Where an approval stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct ApprovalStanding {
    pub(super) deadline: i64,
    /// What a person decided; `None` if nobody has.
    pub(super) approved: Option<bool>,
    pub(super) spent: bool,
}

/// Many appends in one transaction. The heads of its chains are read inside of it, once, and written once.
pub(super) struct Batch<R> {
    rows: R,
    now: SystemTime,
    chains: HashMap<(Arc<str>, String), (i64, Head)>,
}

impl<R: Rows> Batch<R> {
    pub(super) fn new(rows: R, now: SystemTime) -> Self {
        Self { rows, now, chains: HashMap::new() }
    }

    /// The outer error is the whole transaction's, the inner one this append's alone.
    pub(super) fn append(&mut self, append: &Append) -> Result<Result<Appended, StoreError>, R::Error> {
        let Append { event, once, claims, binding, effect } = append;
        let (tenant_id, key_name) = (&event.tenant_id, &event.key_name);
        if let Some(once) = once
            && let Some(earlier) = self.rows.answer(tenant_id, key_name, &once.idempotency_key)?
        {
            return Ok(Ok(match earlier.fingerprint == once.fingerprint {
                true => Appended::Repeated(earlier.answer),
                false => Appended::Conflict,
            }));
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
        // Nobody else writes what this transaction reads, so what is free here is free below.
        let mut refused = None;
        for claim in claims {
            refused = self.refusal(tenant_id, claim)?;
            if refused.is_some() {
                break;
            }
        }
        let event = refused.map_or(event, |instead| &instead.event);
        let chain = (Arc::clone(tenant_id), event.chain_id.clone());
        let (id, head) = match self.chains.remove(&chain) {
            Some(known) => known,
            None => self.rows.open_chain(&chain.0, &chain.1)?,
        };
        let Ok(sealed) = event.seal(&head, self.now) else {
            self.chains.insert(chain, (id, head));
            return Ok(Err(StoreError::NotCanonical));
        };
        let head = sealed.head.clone();
        self.rows.insert_event(id, sealed)?;
        if refused.is_none() {
            for claim in claims {
                self.rows.take(tenant_id, claim)?;
            }
            if let Some(effect) = effect {
                self.rows.apply(tenant_id, effect)?;
            }
        }
        if let Some(once) = once {
            let answer = refused.map_or(&once.answer, |instead| &instead.answer);
            self.rows.keep_answer(tenant_id, key_name, once, answer)?;
        }
        self.chains.insert(chain, (id, head.clone()));
        Ok(Ok(match refused {
            None => Appended::Recorded(head),
            Some(instead) => Appended::Refused(instead.answer.clone()),
        }))
    }

    /// Writes the heads. What is left is to commit.
    pub(super) fn finish(mut self) -> Result<R, R::Error> {
        for (id, head) in self.chains.values() {
            self.rows.save_head(*id, head)?;
        }
        Ok(self.rows)
    }

    /// What to record instead, if the claim cannot be had.
    fn refusal<'a>(&self, tenant_id: &str, claim: &'a Claim) -> Result<Option<&'a Instead>, R::Error> {
        match claim {
            Claim::Passport { jti, replayed, revoked } => Ok(match self.rows.passport(tenant_id, jti)? {
                None | Some(Standing { revoked: true, .. }) => Some(revoked),
                Some(Standing { used: true, .. }) => Some(replayed),
                Some(Standing { revoked: false, used: false }) => None,
            }),
            Claim::Approval { id, spent } => {
                let approval = self.rows.approval(tenant_id, id)?;
                let is_there = approval.is_some_and(|found| !found.spent && found.approved == Some(true));
                Ok((!is_there).then_some(spent))
            }
        }
    }

    fn is_stale(&self, tenant_id: &str, effect: &Effect) -> Result<bool, R::Error> {
        match effect {
            Effect::Decide { id, decided } => {
                let approval = self.rows.approval(tenant_id, id)?;
                Ok(approval.is_none_or(|found| found.approved.is_some() || decided.at >= found.deadline))
            }
            Effect::ApproveManifest { .. }
            | Effect::Issue { .. }
            | Effect::Open(_)
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
