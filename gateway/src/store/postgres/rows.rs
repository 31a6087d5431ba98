//! A batch in memory: its rows are loaded before, and its changes are written after it, in few
//! statements regardless of the number of appends.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rust_decimal::Decimal;

use super::super::batch::{ClaimedBy, Rows};
use super::super::kept::NewKept;
use super::super::proof::StoredResponse;
use super::super::{Claim, Mutation, PassportState, SealedCredential, SingleUse};
use super::budgets::LoadedBudgets;
use super::halts::LoadedHalts;
use super::keys::{IdempotencyScope, NotLoaded, TenantKey};
use crate::approvals::{Approval, ApprovalDecision};
use crate::budget::Account;
use crate::halts::{Acknowledgement, Halt};
use crate::ledger::{Head, Sealed};

/// The rows and pending changes of a batch.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) responses: HashMap<IdempotencyScope, StoredResponse>,
    pub(super) approvals: HashMap<TenantKey, LoadedApproval>,
    pub(super) chains: HashMap<TenantKey, (i64, Head)>,
    /// Events of delegations.
    pub(super) delegations: HashMap<TenantKey, Vec<String>>,
    /// Credential ids by tool.
    pub(super) credentials: HashMap<TenantKey, String>,
    /// Approved manifests.
    pub(super) approved: HashMap<TenantKey, String>,
    pub(super) passports: HashMap<TenantKey, LoadedPassport>,

    /// New credentials of tools; `None` if removed.
    pub(super) changed: HashMap<TenantKey, Option<SealedCredential>>,
    /// Chain row id, position and text.
    pub(super) events: Vec<(i64, i64, String)>,
    pub(super) heads: Vec<(i64, Head)>,
    /// New responses.
    pub(super) kept: HashSet<IdempotencyScope>,
    pub(super) manifests: HashMap<TenantKey, String>,
    /// Times until which signing keys are needed.
    pub(super) needed: HashMap<String, i64>,
    pub(super) opened: Vec<(Arc<str>, Approval)>,
    /// New records outside of the ledger.
    pub(super) captured: Vec<NewKept>,
    pub(super) budgets: LoadedBudgets,
    pub(super) halts: LoadedHalts,
}

#[derive(Debug)]
pub(super) struct LoadedApproval {
    pub(super) approval: Approval,
    pub(super) is_changed: bool,
}

#[derive(Debug)]
pub(super) struct LoadedPassport {
    pub(super) standing: PassportState,
    /// Expiry, if issued in this batch.
    pub(super) issued: Option<i64>,
    pub(super) is_changed: bool,
}

impl Rows for Loaded {
    type Error = NotLoaded;

    fn response(
        &self,
        tenant_id: &str,
        key_name: &str,
        idempotency_key: &str,
    ) -> Result<Option<StoredResponse>, NotLoaded> {
        let asked_by = (tenant_id.into(), key_name.into(), idempotency_key.to_owned());
        Ok(self.responses.get(&asked_by).cloned())
    }

    fn approval(&self, tenant_id: &str, id: &str) -> Result<Option<Approval>, NotLoaded> {
        Ok(self.approvals.get(&name(tenant_id, id)).map(|found| found.approval.clone()))
    }

    fn approvals_for(
        &self,
        tenant_id: &str,
        action_hash: &str,
        asker: &str,
    ) -> Result<Vec<Approval>, NotLoaded> {
        let is_for = |approval: &Approval| approval.action_hash == action_hash && approval.asker == asker;
        let of_tenant = self.approvals.iter().filter(|((tenant, _), _)| **tenant == *tenant_id);
        let approvals = of_tenant.map(|(_, found)| &found.approval).filter(|approval| is_for(approval));
        Ok(approvals.cloned().collect())
    }

    fn delegation(&self, tenant_id: &str, id: &str) -> Result<Vec<String>, NotLoaded> {
        self.delegations.get(&name(tenant_id, id)).cloned().ok_or(NotLoaded)
    }

    fn manifest(&self, tenant_id: &str, tool_id: &str) -> Result<Option<String>, NotLoaded> {
        Ok(self.approved.get(&name(tenant_id, tool_id)).cloned())
    }

    fn credential(&self, tenant_id: &str, tool_id: &str) -> Result<Option<String>, NotLoaded> {
        Ok(self.credentials.get(&name(tenant_id, tool_id)).cloned())
    }

    fn passport(&self, tenant_id: &str, jti: &str) -> Result<Option<PassportState>, NotLoaded> {
        Ok(self.passports.get(&name(tenant_id, jti)).map(|passport| passport.standing))
    }

    fn deciding_tenants(&self) -> Result<Vec<Arc<str>>, NotLoaded> {
        Ok(self.halts.tenants.clone())
    }

    fn start_halt(&mut self, halt: &Arc<Halt>) -> Result<(), NotLoaded> {
        self.halts.changed.push(Arc::clone(halt));
        Ok(())
    }

    fn lift_halt(&mut self, halt: &Arc<Halt>) -> Result<(), NotLoaded> {
        self.halts.changed.push(Arc::clone(halt));
        Ok(())
    }

    fn can_acknowledge(&self, acknowledgement: &Acknowledgement) -> Result<bool, NotLoaded> {
        self.halts.can_acknowledge(acknowledgement)
    }

    fn open_chain(&mut self, tenant_id: &str, chain_id: &str) -> Result<(i64, Head), NotLoaded> {
        self.chains.get(&name(tenant_id, chain_id)).cloned().ok_or(NotLoaded)
    }

    fn insert_event(&mut self, chain: i64, event: Sealed) -> Result<(), NotLoaded> {
        self.events.push((chain, super::to_sql(event.head.length), event.text));
        Ok(())
    }

    fn consume(&mut self, tenant_id: &str, single_use: &SingleUse) -> Result<(), NotLoaded> {
        match single_use {
            SingleUse::Approval { id, .. } => {
                let approval = self.approvals.get_mut(&name(tenant_id, id)).ok_or(NotLoaded)?;
                approval.approval.spent = true;
                approval.is_changed = true;
            }
            SingleUse::Passport { jti, .. } => self.use_passport(tenant_id, jti)?,
        }
        Ok(())
    }

    fn used(&mut self, tenant_id: &str, account: &Account, now: i64) -> Result<Decimal, NotLoaded> {
        self.budgets.used(tenant_id, account, now)
    }

    fn claim(&mut self, tenant_id: &str, claim: &Claim, decision: ClaimedBy<'_>) -> Result<(), NotLoaded> {
        self.budgets.claim(tenant_id, claim, decision)
    }

    fn open(&mut self, tenant_id: &Arc<str>, approval: &Approval) -> Result<(), NotLoaded> {
        let opened = LoadedApproval { approval: approval.clone(), is_changed: false };
        self.approvals.insert((Arc::clone(tenant_id), approval.id.clone()), opened);
        self.opened.push((Arc::clone(tenant_id), approval.clone()));
        Ok(())
    }

    fn apply_mutation(&mut self, tenant_id: &Arc<str>, mutation: &Mutation) -> Result<(), NotLoaded> {
        let of_tenant = |name: &str| (Arc::clone(tenant_id), name.to_owned());
        match mutation {
            Mutation::ApproveManifest { tool_id, hash } => {
                self.approved.insert(of_tenant(tool_id), hash.clone());
                self.manifests.insert(of_tenant(tool_id), hash.clone());
            }
            Mutation::IssuePassport { jti, kid, expires_at, halt_epoch: _ } => {
                let issued = LoadedPassport {
                    standing: PassportState::default(),
                    issued: Some(*expires_at),
                    is_changed: false,
                };
                self.passports.insert(of_tenant(jti), issued);
                let needed = self.needed.entry(kid.clone()).or_insert(*expires_at);
                *needed = (*expires_at).max(*needed);
            }
            Mutation::EndAction { request_hash, ended } => {
                self.budgets.end_action(tenant_id, request_hash, *ended);
            }
            Mutation::SetCredential(credential) => {
                let name = of_tenant(&credential.tool_id);
                self.credentials.insert(name.clone(), credential.id.clone());
                self.changed.insert(name, Some(SealedCredential::clone(credential)));
            }
        }
        Ok(())
    }

    fn acknowledge(&mut self, acknowledgement: &Acknowledgement, at: i64) -> Result<(), NotLoaded> {
        self.halts.acknowledge(acknowledgement, at);
        Ok(())
    }

    fn remove_credential(&mut self, tenant_id: &Arc<str>, tool_id: &str) -> Result<(), NotLoaded> {
        self.credentials.remove(&name(tenant_id, tool_id));
        self.changed.insert(name(tenant_id, tool_id), None);
        Ok(())
    }

    fn use_passport(&mut self, tenant_id: &str, jti: &str) -> Result<(), NotLoaded> {
        let passport = self.passports.get_mut(&name(tenant_id, jti)).ok_or(NotLoaded)?;
        passport.standing.used = true;
        passport.is_changed = true;
        Ok(())
    }

    fn revoke_passport(&mut self, tenant_id: &Arc<str>, jti: &str) -> Result<(), NotLoaded> {
        let passport = self.passports.get_mut(&name(tenant_id, jti)).ok_or(NotLoaded)?;
        passport.standing.revoked = true;
        passport.is_changed = true;
        Ok(())
    }

    fn vote(
        &mut self,
        tenant_id: &Arc<str>,
        id: &str,
        note: Option<&str>,
        decided: Option<&ApprovalDecision>,
    ) -> Result<(), NotLoaded> {
        let approval = self.approvals.get_mut(&name(tenant_id, id)).ok_or(NotLoaded)?;
        approval.approval.note = note.map(str::to_owned);
        approval.approval.decided = decided.cloned();
        // The event is part of the same transaction.
        approval.approval.proven = true;
        approval.is_changed = true;
        Ok(())
    }

    fn keep(&mut self, record: NewKept) -> Result<(), NotLoaded> {
        self.captured.push(record);
        Ok(())
    }

    fn store_response(
        &mut self,
        _: i64,
        tenant_id: &Arc<str>,
        key_name: &Arc<str>,
        idempotency_key: &str,
        kept: StoredResponse,
    ) -> Result<(), NotLoaded> {
        let asked_by = (Arc::clone(tenant_id), Arc::clone(key_name), idempotency_key.to_owned());
        self.kept.insert(asked_by.clone());
        self.responses.insert(asked_by, kept);
        Ok(())
    }

    fn save_head(&mut self, chain: i64, head: &Head) -> Result<(), NotLoaded> {
        self.heads.push((chain, head.clone()));
        Ok(())
    }
}

fn name(tenant_id: &str, name: &str) -> TenantKey {
    (tenant_id.into(), name.to_owned())
}
