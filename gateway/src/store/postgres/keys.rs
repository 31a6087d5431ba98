//! The keys of the rows that a batch reads.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::queue::Append;
use super::super::{
    AllowBasis, ApprovalOpening, Change, Claims, CredentialPin, DecisionRecord, Excess, HaltChange,
    Idempotency, ManifestPin, Mutation, SeenResponse, SingleUse,
};
use crate::budget::Account;
use crate::halts::Acknowledgement;
use crate::ledger::{DECISIONS, Draft};

/// A name within a tenant.
pub(super) type TenantKey = (Arc<str>, String);

/// An idempotency key of a tenant's API key.
pub(super) type IdempotencyScope = (Arc<str>, Arc<str>, String);

/// The keys of all rows that a batch reads.
#[derive(Debug, Default)]
pub(super) struct BatchKeys {
    /// Tenant, action hash and asker of possible live approvals.
    pub(super) actions: HashSet<(Arc<str>, String, String)>,
    /// Tools whose manifest is needed.
    pub(super) manifests: HashSet<TenantKey>,
    pub(super) chains: HashSet<TenantKey>,
    pub(super) responses: HashSet<IdempotencyScope>,
    pub(super) approvals: HashSet<TenantKey>,
    pub(super) delegations: HashSet<TenantKey>,
    /// Tools whose credential is needed.
    pub(super) credentials: HashSet<TenantKey>,
    pub(super) passports: HashSet<TenantKey>,
    pub(super) tenants: HashSet<Arc<str>>,
    /// Accounts of budgets.
    pub(super) accounts: HashSet<(Arc<str>, Account)>,
    /// Acknowledgements of halts.
    pub(super) acknowledgements: HashSet<Acknowledgement>,
    /// Whether the batch changes the halts.
    pub(super) changes_halts: bool,
    /// Tenant and request hash of actions that ended.
    pub(super) ended: HashSet<TenantKey>,
}

impl BatchKeys {
    pub(super) fn of(appends: &[Append]) -> Self {
        let mut keys = Self::default();
        for append in appends {
            match append {
                Append::Decision(decision, _) => keys.add_decision(decision),
                Append::Halt(change, _) => {
                    keys.changes_halts = true;
                    // Other tenants with a chain of decisions are loaded as well.
                    if let HaltChange::Start(halt) = &**change
                        && let Some(tenant_id) = &halt.tenant_id
                    {
                        keys.tenants.insert(Arc::clone(tenant_id));
                        keys.chains.insert((Arc::clone(tenant_id), DECISIONS.to_owned()));
                    }
                }
                Append::Record(record, _) => {
                    keys.add_event(&record.event);
                    if let Some(Mutation::EndAction { request_hash, .. }) = &record.mutation {
                        keys.ended.insert((Arc::clone(&record.event.tenant_id), request_hash.clone()));
                    }
                }
                Append::Transition(transition, _) => {
                    keys.add_event(&transition.event);
                    keys.add_change(&transition.event.tenant_id, &transition.change);
                }
            }
        }
        keys
    }

    fn add_event(&mut self, event: &Draft) {
        self.tenants.insert(Arc::clone(&event.tenant_id));
        self.chains.insert((Arc::clone(&event.tenant_id), event.chain_id.clone()));
    }

    fn add_change(&mut self, tenant_id: &Arc<str>, change: &Change) {
        let (names, name) = match change {
            Change::Acknowledge(acknowledgement) => {
                self.acknowledgements.insert(Acknowledgement::clone(acknowledgement));
                return;
            }
            Change::DecideApproval { id, ballot, voted, halt_epoch: _ } => {
                self.add_event(voted);
                if let Some(seat) = &ballot.vote.delegated {
                    self.delegations.insert((Arc::clone(tenant_id), seat.delegation.clone()));
                }
                (&mut self.approvals, id)
            }
            Change::ExchangePassport { subject, ancestors, exchanged, issue: _ } => {
                self.add_event(exchanged);
                self.passports.extend(ancestors.iter().map(|jti| (Arc::clone(tenant_id), jti.clone())));
                (&mut self.passports, subject)
            }
            Change::RevokeDelegation { id } => (&mut self.delegations, id),
            Change::RemoveCredential { tool_id, .. } => (&mut self.credentials, tool_id),
            Change::RevokePassport { jti } => (&mut self.passports, jti),
        };
        names.insert((Arc::clone(tenant_id), name.clone()));
    }

    fn add_decision(&mut self, decision: &DecisionRecord) {
        let DecisionRecord {
            event,
            halt_epoch: _,
            idempotency,
            history,
            uses,
            credential,
            manifest,
            holds_until: _,
            opens,
            budgets,
            capture: _,
            begun: _,
        } = decision;
        self.add_event(event);
        let tenant_id = || Arc::clone(&event.tenant_id);
        let of_tenant = |name: &str| (tenant_id(), name.to_owned());
        if let Some(Idempotency { key, earlier, .. }) = idempotency {
            self.responses.insert((tenant_id(), Arc::clone(&event.key_name), key.clone()));
            if let Some(SeenResponse { replay_of: Some(AllowBasis { approval, passport }), .. }) = earlier {
                self.approvals.extend(approval.as_deref().map(of_tenant));
                self.passports.extend(passport.as_deref().map(of_tenant));
            }
        }
        self.accounts.extend(history.iter().map(|check| (tenant_id(), check.account.clone())));
        if let Some(ManifestPin { tool_id, .. }) = manifest {
            self.manifests.insert(of_tenant(tool_id));
        }
        if let Some(CredentialPin { tool_id, .. }) = credential {
            self.credentials.insert(of_tenant(tool_id));
        }
        for single_use in uses {
            match single_use {
                SingleUse::Approval { id, spent } => {
                    self.approvals.insert(of_tenant(id));
                    spent.iter().for_each(|spent| self.add_event(&spent.event));
                }
                SingleUse::Passport { jti, ancestors, replayed, revoked } => {
                    self.passports.extend(ancestors.iter().chain([jti]).map(|jti| of_tenant(jti)));
                    self.add_event(&replayed.event);
                    self.add_event(&revoked.event);
                }
            }
        }
        if let Some(Claims { claims, exceeds, .. }) = budgets {
            let charges = claims.iter().map(|claim| &claim.charge).chain(exceeds);
            self.accounts.extend(charges.map(|charge| (tenant_id(), charge.account.clone())));
            for claim in claims {
                if let Excess::Refuse(fallback) = &claim.on_excess {
                    self.add_event(&fallback.event);
                }
            }
        }
        if let Some(ApprovalOpening { approval, exclusive: true }) = opens {
            self.actions.insert((tenant_id(), approval.action_hash.clone(), approval.asker.clone()));
        }
    }
}

/// A batch read a row not in [`BatchKeys`]. Nothing is recorded.
#[derive(Debug, thiserror::Error)]
#[error("a batch read a row that was not loaded")]
pub(super) struct NotLoaded;
