//! A batch in memory: what it reads is loaded before it, what it writes is written after it, in few statements however
//! many appends there are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::super::batch::Rows;
use super::super::proof::KeptAnswer;
use super::super::{Append, Basis, Binding, Claim, Effect, Once, Pinned, SealedCredential, Standing};
use crate::approvals::Approval;
use crate::ledger::{Draft, Head, Sealed};

/// A name of a tenant's.
pub(super) type Name = (Arc<str>, String);

/// An idempotency key of a tenant's API key.
pub(super) type AskedBy = (Arc<str>, Arc<str>, String);

/// What a batch will read.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// Tenant, hash of the action and asker of requests that may be open.
    pub(super) actions: HashSet<(Arc<str>, String, String)>,
    /// Tools whose manifest it is about.
    pub(super) manifests: HashSet<Name>,
    pub(super) chains: HashSet<Name>,
    pub(super) answers: HashSet<AskedBy>,
    pub(super) approvals: HashSet<Name>,
    /// Tools whose credential it is about.
    pub(super) credentials: HashSet<Name>,
    pub(super) passports: HashSet<Name>,
    pub(super) tenants: HashSet<Arc<str>>,
}

impl Needs {
    pub(super) fn of(appends: &[Append]) -> Self {
        let mut needs = Self::default();
        for Append { event, once, claims, binding, manifest, holds_until: _, effect } in appends {
            needs.tenants.insert(Arc::clone(&event.tenant_id));
            let of_tenant = |name: &str| (Arc::clone(&event.tenant_id), name.to_owned());
            let chain_of = |event: &Draft| of_tenant(&event.chain_id);
            needs.chains.insert(chain_of(event));
            if let Some(Once { idempotency_key, repeats, .. }) = once {
                let (tenant_id, key) = of_tenant(idempotency_key);
                needs.answers.insert((tenant_id, Arc::clone(&event.key_name), key));
                if let Some(Basis { approval, passport }) = repeats {
                    needs.approvals.extend(approval.as_deref().map(of_tenant));
                    needs.passports.extend(passport.as_deref().map(of_tenant));
                }
            }
            if let Some(Pinned { tool_id, .. }) = manifest {
                needs.manifests.insert(of_tenant(tool_id));
            }
            if let Some(Binding { tool_id, .. }) = binding {
                needs.credentials.insert(of_tenant(tool_id));
            }
            for claim in claims {
                match claim {
                    Claim::Approval { id, spent } => {
                        needs.approvals.insert(of_tenant(id));
                        needs.chains.extend(spent.as_ref().map(|spent| chain_of(&spent.event)));
                    }
                    Claim::Passport { jti, replayed, revoked } => {
                        needs.passports.insert(of_tenant(jti));
                        needs.chains.insert(chain_of(&replayed.event));
                        needs.chains.insert(chain_of(&revoked.event));
                    }
                }
            }
            match effect {
                Some(Effect::Decide { id, .. }) => {
                    needs.approvals.insert(of_tenant(id));
                }
                Some(Effect::Open { approval, alone: true }) => {
                    let Approval { action_hash, asker, .. } = &**approval;
                    let tenant_id = Arc::clone(&event.tenant_id);
                    needs.actions.insert((tenant_id, action_hash.clone(), asker.clone()));
                }
                Some(Effect::Revoke { jti }) => {
                    needs.passports.insert(of_tenant(jti));
                }
                Some(Effect::RemoveCredential { tool_id, .. }) => {
                    needs.credentials.insert(of_tenant(tool_id));
                }
                Some(
                    Effect::ApproveManifest { .. }
                    | Effect::Issue { .. }
                    | Effect::Open { alone: false, .. }
                    | Effect::SetCredential(_),
                )
                | None => {}
            }
        }
        needs
    }
}

/// What a batch read, and what it has to write.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) answers: HashMap<AskedBy, KeptAnswer>,
    pub(super) approvals: HashMap<Name, LoadedApproval>,
    pub(super) chains: HashMap<Name, (i64, Head)>,
    /// The id of the credential that a tool has.
    pub(super) credentials: HashMap<Name, String>,
    /// The manifests that were approved last.
    pub(super) approved: HashMap<Name, String>,
    pub(super) passports: HashMap<Name, LoadedPassport>,

    /// The credentials of tools that have other ones now, or none.
    pub(super) changed: HashMap<Name, Option<SealedCredential>>,
    /// Chain, number and text.
    pub(super) events: Vec<(i64, i64, String)>,
    pub(super) heads: Vec<(i64, Head)>,
    /// Which of the answers are new.
    pub(super) kept: HashSet<AskedBy>,
    pub(super) manifests: HashMap<Name, String>,
    /// Until when a signing key is needed.
    pub(super) needed: HashMap<String, i64>,
    pub(super) opened: Vec<(Arc<str>, Approval)>,
}

#[derive(Debug)]
pub(super) struct LoadedApproval {
    pub(super) approval: Approval,
    pub(super) is_changed: bool,
}

#[derive(Debug)]
pub(super) struct LoadedPassport {
    pub(super) standing: Standing,
    /// When it expires, if it was issued in this batch.
    pub(super) issued: Option<i64>,
    pub(super) is_changed: bool,
}

/// A batch reads what [`Needs`] does not know of. Nothing of the batch is recorded then.
#[derive(Debug, thiserror::Error)]
#[error("a batch needs what was not loaded")]
pub(super) struct NotLoaded;

impl Rows for Loaded {
    type Error = NotLoaded;

    fn answer(
        &self,
        tenant_id: &str,
        key_name: &str,
        idempotency_key: &str,
    ) -> Result<Option<KeptAnswer>, NotLoaded> {
        let asked_by = (tenant_id.into(), key_name.into(), idempotency_key.to_owned());
        Ok(self.answers.get(&asked_by).cloned())
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

    fn manifest(&self, tenant_id: &str, tool_id: &str) -> Result<Option<String>, NotLoaded> {
        Ok(self.approved.get(&name(tenant_id, tool_id)).cloned())
    }

    fn credential(&self, tenant_id: &str, tool_id: &str) -> Result<Option<String>, NotLoaded> {
        Ok(self.credentials.get(&name(tenant_id, tool_id)).cloned())
    }

    fn passport(&self, tenant_id: &str, jti: &str) -> Result<Option<Standing>, NotLoaded> {
        Ok(self.passports.get(&name(tenant_id, jti)).map(|passport| passport.standing))
    }

    fn open_chain(&mut self, tenant_id: &str, chain_id: &str) -> Result<(i64, Head), NotLoaded> {
        self.chains.get(&name(tenant_id, chain_id)).cloned().ok_or(NotLoaded)
    }

    fn insert_event(&mut self, chain: i64, event: Sealed) -> Result<(), NotLoaded> {
        self.events.push((chain, super::to_sql(event.head.length), event.text));
        Ok(())
    }

    fn take(&mut self, tenant_id: &str, claim: &Claim) -> Result<(), NotLoaded> {
        match claim {
            Claim::Approval { id, .. } => {
                let approval = self.approvals.get_mut(&name(tenant_id, id)).ok_or(NotLoaded)?;
                approval.approval.spent = true;
                approval.is_changed = true;
            }
            Claim::Passport { jti, .. } => {
                let passport = self.passports.get_mut(&name(tenant_id, jti)).ok_or(NotLoaded)?;
                passport.standing.used = true;
                passport.is_changed = true;
            }
        }
        Ok(())
    }

    fn apply(&mut self, tenant_id: &Arc<str>, effect: &Effect) -> Result<(), NotLoaded> {
        let of_tenant = |name: &str| (Arc::clone(tenant_id), name.to_owned());
        match effect {
            Effect::ApproveManifest { tool_id, hash } => {
                self.approved.insert(of_tenant(tool_id), hash.clone());
                self.manifests.insert(of_tenant(tool_id), hash.clone());
            }
            Effect::Decide { id, decided } => {
                let approval = self.approvals.get_mut(&of_tenant(id)).ok_or(NotLoaded)?;
                approval.approval.decided = Some(decided.clone());
                // Its event is part of the same transaction.
                approval.approval.proven = true;
                approval.is_changed = true;
            }
            Effect::Open { approval, .. } => {
                let opened = LoadedApproval { approval: Approval::clone(approval), is_changed: false };
                self.approvals.insert(of_tenant(&approval.id), opened);
                self.opened.push((Arc::clone(tenant_id), Approval::clone(approval)));
            }
            Effect::Issue { jti, kid, expires_at } => {
                let issued = LoadedPassport {
                    standing: Standing::default(),
                    issued: Some(*expires_at),
                    is_changed: false,
                };
                self.passports.insert(of_tenant(jti), issued);
                let needed = self.needed.entry(kid.clone()).or_insert(*expires_at);
                *needed = (*expires_at).max(*needed);
            }
            Effect::RemoveCredential { tool_id, id: _ } => {
                self.credentials.remove(&of_tenant(tool_id));
                self.changed.insert(of_tenant(tool_id), None);
            }
            Effect::SetCredential(credential) => {
                let name = of_tenant(&credential.tool_id);
                self.credentials.insert(name.clone(), credential.id.clone());
                self.changed.insert(name, Some(SealedCredential::clone(credential)));
            }
            Effect::Revoke { jti } => {
                let passport = self.passports.get_mut(&of_tenant(jti)).ok_or(NotLoaded)?;
                passport.standing.revoked = true;
                passport.is_changed = true;
            }
        }
        Ok(())
    }

    fn keep_answer(
        &mut self,
        tenant_id: &Arc<str>,
        key_name: &Arc<str>,
        idempotency_key: &str,
        kept: KeptAnswer,
    ) -> Result<(), NotLoaded> {
        let asked_by = (Arc::clone(tenant_id), Arc::clone(key_name), idempotency_key.to_owned());
        self.kept.insert(asked_by.clone());
        self.answers.insert(asked_by, kept);
        Ok(())
    }

    fn save_head(&mut self, chain: i64, head: &Head) -> Result<(), NotLoaded> {
        self.heads.push((chain, head.clone()));
        Ok(())
    }
}

fn name(tenant_id: &str, name: &str) -> Name {
    (tenant_id.into(), name.to_owned())
}
