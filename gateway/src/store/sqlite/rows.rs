//! The transaction of a batch: reads and writes row by row.

use std::sync::Arc;

use rusqlite::{OptionalExtension, Transaction, params};
use rust_decimal::Decimal;

use super::answers::{self, AnswerTexts};
use super::budgets::Accounts;
use super::reader::{
    find_approval, find_approvals_for, find_chain, find_delegation, find_manifest, find_passport,
};
use super::to_sql;
use super::{halts, kept};
use crate::approvals::{Approval, ApprovalDecision};
use crate::budget::Account;
use crate::halts::{Acknowledgement, Halt};
use crate::ledger::{DECISIONS, Head, Sealed};
use crate::store::Claim;
use crate::store::batch::{ClaimedBy, Rows};
use crate::store::kept::NewKept;
use crate::store::proof::StoredResponse;
use crate::store::{Mutation, PassportState, SingleUse};

/// The transaction of a batch.
pub(super) struct BatchTransaction<'t, 'c> {
    pub(super) transaction: &'t Transaction<'c>,
    pub(super) accounts: Accounts,
    pub(super) texts: &'t mut AnswerTexts,
    /// Bytes of recorded events and responses.
    pub(super) bytes: usize,
}

impl Rows for BatchTransaction<'_, '_> {
    type Error = rusqlite::Error;

    fn response(
        &self,
        tenant_id: &str,
        key_name: &str,
        idempotency_key: &str,
    ) -> rusqlite::Result<Option<StoredResponse>> {
        answers::find(self.transaction, tenant_id, key_name, idempotency_key)
    }

    fn approval(&self, tenant_id: &str, id: &str) -> rusqlite::Result<Option<Approval>> {
        find_approval(self.transaction, tenant_id, id)
    }

    fn delegation(&self, tenant_id: &str, id: &str) -> rusqlite::Result<Vec<String>> {
        find_delegation(self.transaction, tenant_id, id)
    }

    fn approvals_for(
        &self,
        tenant_id: &str,
        action_hash: &str,
        asker: &str,
    ) -> rusqlite::Result<Vec<Approval>> {
        find_approvals_for(self.transaction, tenant_id, action_hash, asker)
    }

    fn manifest(&self, tenant_id: &str, tool_id: &str) -> rusqlite::Result<Option<String>> {
        find_manifest(self.transaction, tenant_id, tool_id)
    }

    fn credential(&self, tenant_id: &str, tool_id: &str) -> rusqlite::Result<Option<String>> {
        self.transaction
            .prepare_cached("SELECT id FROM credentials WHERE tenant_id = ?1 AND tool_id = ?2")?
            .query_row(params![tenant_id, tool_id], |row| row.get(0))
            .optional()
    }

    fn passport(&self, tenant_id: &str, jti: &str) -> rusqlite::Result<Option<PassportState>> {
        find_passport(self.transaction, tenant_id, jti)
    }

    fn deciding_tenants(&self) -> rusqlite::Result<Vec<Arc<str>>> {
        let mut statement =
            self.transaction.prepare_cached("SELECT tenant_id FROM chains WHERE chain_id = ?1")?;
        statement.query_map([DECISIONS], |row| Ok(row.get::<_, String>(0)?.into()))?.collect()
    }

    fn start_halt(&mut self, halt: &Arc<Halt>) -> rusqlite::Result<()> {
        halts::start(self.transaction, halt)
    }

    fn lift_halt(&mut self, halt: &Arc<Halt>) -> rusqlite::Result<()> {
        halts::lift(self.transaction, halt)
    }

    fn can_acknowledge(&self, acknowledgement: &Acknowledgement) -> rusqlite::Result<bool> {
        halts::can_acknowledge(self.transaction, acknowledgement)
    }

    fn open_chain(&mut self, tenant_id: &str, chain_id: &str) -> rusqlite::Result<(i64, Head)> {
        if let Some(known) = find_chain(self.transaction, tenant_id, chain_id)? {
            return Ok(known);
        }
        let head = Head::default();
        self.transaction
            .prepare_cached("INSERT INTO chains (tenant_id, chain_id, length, head) VALUES (?1, ?2, 0, ?3)")?
            .execute(params![tenant_id, chain_id, head.hash])?;
        Ok((self.transaction.last_insert_rowid(), head))
    }

    fn insert_event(&mut self, chain: i64, event: Sealed) -> rusqlite::Result<()> {
        self.bytes += event.text.len();
        self.transaction
            .prepare_cached("INSERT INTO events (chain, seq, event) VALUES (?1, ?2, ?3)")?
            .execute(params![chain, to_sql(event.head.length), event.text])?;
        Ok(())
    }

    fn consume(&mut self, tenant_id: &str, single_use: &SingleUse) -> rusqlite::Result<()> {
        match single_use {
            SingleUse::Approval { id, .. } => self
                .transaction
                .prepare_cached("UPDATE approvals SET spent = 1 WHERE tenant_id = ?1 AND id = ?2")?
                .execute(params![tenant_id, id])?,
            SingleUse::Passport { jti, .. } => return self.use_passport(tenant_id, jti),
        };
        Ok(())
    }

    fn used(&mut self, tenant_id: &str, account: &Account, now: i64) -> rusqlite::Result<Decimal> {
        self.accounts.used(self.transaction, tenant_id, account, now)
    }

    fn claim(&mut self, tenant_id: &str, claim: &Claim, decision: ClaimedBy<'_>) -> rusqlite::Result<()> {
        self.accounts.claim(self.transaction, tenant_id, claim, decision)
    }

    fn open(&mut self, tenant_id: &Arc<str>, approval: &Approval) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached(
                "INSERT INTO approvals (tenant_id, id, action_hash, tool, resource, args, goal, agent_id,
                 user_id, reason_code, created_at, deadline, asker)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            )?
            .execute(params![
                tenant_id,
                approval.id,
                approval.action_hash,
                approval.tool,
                approval.resource,
                approval.args,
                approval.goal,
                approval.agent_id,
                approval.user_id,
                approval.reason_code,
                approval.created_at,
                approval.deadline,
                approval.asker
            ])?;
        Ok(())
    }

    fn apply_mutation(&mut self, tenant_id: &Arc<str>, mutation: &Mutation) -> rusqlite::Result<()> {
        match mutation {
            Mutation::ApproveManifest { tool_id, hash } => {
                self.transaction
                    .prepare_cached(
                        "INSERT INTO manifests (tenant_id, tool_id, manifest_hash) VALUES (?1, ?2, ?3)
                         ON CONFLICT (tenant_id, tool_id) DO UPDATE SET manifest_hash = ?3",
                    )?
                    .execute(params![tenant_id, tool_id, hash])?;
            }
            Mutation::IssuePassport { jti, kid, expires_at, halt_epoch: _ } => {
                self.transaction
                    .prepare_cached("INSERT INTO passports (tenant_id, jti, expires_at) VALUES (?1, ?2, ?3)")?
                    .execute(params![tenant_id, jti, expires_at])?;
                self.transaction
                    .prepare_cached(
                        "UPDATE signing_keys SET needed_until = max(needed_until, ?2) WHERE kid = ?1",
                    )?
                    .execute(params![kid, expires_at])?;
            }
            Mutation::EndAction { request_hash, ended } => {
                self.accounts.end_action(self.transaction, tenant_id, request_hash, *ended)?;
            }
            Mutation::SetCredential(credential) => {
                self.transaction
                    .prepare_cached(
                        "INSERT INTO credentials (tenant_id, tool_id, id, sealed, set_at, expires_at)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                         ON CONFLICT (tenant_id, tool_id)
                         DO UPDATE SET id = ?3, sealed = ?4, set_at = ?5, expires_at = ?6",
                    )?
                    .execute(params![
                        tenant_id,
                        credential.tool_id,
                        credential.id,
                        credential.sealed,
                        credential.set_at,
                        credential.expires_at
                    ])?;
            }
        }
        Ok(())
    }

    fn acknowledge(&mut self, acknowledgement: &Acknowledgement, at: i64) -> rusqlite::Result<()> {
        halts::acknowledge(self.transaction, acknowledgement, at)
    }

    fn remove_credential(&mut self, tenant_id: &Arc<str>, tool_id: &str) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached("DELETE FROM credentials WHERE tenant_id = ?1 AND tool_id = ?2")?
            .execute(params![tenant_id, tool_id])?;
        Ok(())
    }

    fn use_passport(&mut self, tenant_id: &str, jti: &str) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached("UPDATE passports SET used = 1 WHERE tenant_id = ?1 AND jti = ?2")?
            .execute(params![tenant_id, jti])?;
        Ok(())
    }

    fn revoke_passport(&mut self, tenant_id: &Arc<str>, jti: &str) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached("UPDATE passports SET revoked = 1 WHERE tenant_id = ?1 AND jti = ?2")?
            .execute(params![tenant_id, jti])?;
        Ok(())
    }

    fn vote(
        &mut self,
        tenant_id: &Arc<str>,
        id: &str,
        note: Option<&str>,
        decided: Option<&ApprovalDecision>,
    ) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached(
                "UPDATE approvals SET approved = ?3, decided_by = ?4, decided_at = ?5, note = ?6
                 WHERE tenant_id = ?1 AND id = ?2",
            )?
            .execute(params![
                tenant_id,
                id,
                decided.map(|decided| decided.approved),
                decided.map(|decided| &decided.by),
                decided.map(|decided| decided.at),
                note
            ])?;
        Ok(())
    }

    fn keep(&mut self, record: NewKept) -> rusqlite::Result<()> {
        self.bytes += record.body.len();
        kept::insert(self.transaction, &record).map(|_| ())
    }

    fn store_response(
        &mut self,
        chain: i64,
        tenant_id: &Arc<str>,
        key_name: &Arc<str>,
        idempotency_key: &str,
        kept: StoredResponse,
    ) -> rusqlite::Result<()> {
        self.bytes += kept.response.len();
        let key = [tenant_id, key_name, idempotency_key];
        answers::store(self.transaction, self.texts, chain, key, &kept)
    }

    fn save_head(&mut self, chain: i64, head: &Head) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached("UPDATE chains SET length = ?2, head = ?3 WHERE id = ?1")?
            .execute(params![chain, to_sql(head.length), head.hash])?;
        Ok(())
    }
}
