//! Accounts of budgets and their claims, in the memory of a batch.
//!
//! The lock of the tenant serializes the batches of all gateways that use an account. A batch loads
//! the accounts that it uses and removes their expired claims, and some of other accounts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use actpass_protocol::ActionEnd;
use rust_decimal::Decimal;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::super::Claim;
use super::super::batch::ClaimedBy;
use super::keys::{BatchKeys, NotLoaded, TenantKey};
use super::text::{StoredText, Text};
use crate::budget::{Account, Outcomes, is_final};

/// Expired claims per tenant that a batch removes from any account.
const PRUNED: i64 = 256;

/// The primary key of a claim.
type ClaimKey = (i64, i64, String);

/// The accounts of a batch and their changes.
#[derive(Debug, Default)]
pub(super) struct LoadedBudgets {
    ids: HashMap<(Arc<str>, Account), i64>,
    /// Sums of the stored claims by account id.
    used: HashMap<i64, Decimal>,
    /// Claims that depend on the outcome of their action, by tenant and request hash.
    undecided: HashMap<TenantKey, Vec<Undecided>>,
    /// Their changes: whether they count, and whether that is final.
    ended: HashMap<ClaimKey, (bool, bool)>,
    /// The time at which expired claims were removed, in milliseconds since 1970.
    now: i64,
    changed: HashSet<i64>,
    claims: Vec<NewClaim>,
    removed: HashSet<ClaimKey>,
}

/// A claim whose action has no final outcome.
#[derive(Debug)]
struct Undecided {
    key: ClaimKey,
    amount: Decimal,
    outcomes: Outcomes,
    counts: bool,
}

#[derive(Debug)]
struct NewClaim {
    key: ClaimKey,
    amount: Decimal,
    tenant_id: Arc<str>,
    request_hash: Option<String>,
    outcomes: Outcomes,
    counts: bool,
}

impl LoadedBudgets {
    pub(super) fn used(
        &mut self,
        tenant_id: &str,
        account: &Account,
        now: i64,
    ) -> Result<Decimal, NotLoaded> {
        let id = *self.ids.get(&(tenant_id.into(), account.clone())).ok_or(NotLoaded)?;
        self.used.get(&id).copied().filter(|_| now == self.now).ok_or(NotLoaded)
    }

    pub(super) fn claim(
        &mut self,
        tenant_id: &str,
        Claim { charge, .. }: &Claim,
        decision: ClaimedBy<'_>,
    ) -> Result<(), NotLoaded> {
        let tenant_id: Arc<str> = tenant_id.into();
        let id = *self.ids.get(&(Arc::clone(&tenant_id), charge.account.clone())).ok_or(NotLoaded)?;
        let used = self.used.get_mut(&id).ok_or(NotLoaded)?;
        let counts = charge.outcomes.contains(None);
        if counts {
            *used = used.saturating_add(charge.amount);
            self.changed.insert(id);
        }
        let expires_at = decision.at.saturating_add(charge.window.millis());
        let key = (id, expires_at, decision.event_id.to_owned());
        let request_hash =
            decision.request_hash.filter(|_| charge.outcomes != Outcomes::ALL).map(str::to_owned);
        let (amount, outcomes) = (charge.amount, charge.outcomes);
        if let Some(request_hash) = &request_hash {
            let of_request = self.undecided.entry((Arc::clone(&tenant_id), request_hash.clone()));
            of_request.or_default().push(Undecided { key: key.clone(), amount, outcomes, counts });
        }
        self.claims.push(NewClaim { key, amount, tenant_id, request_hash, outcomes, counts });
        Ok(())
    }

    /// Applies an outcome to the claims of the first decision on a request whose outcome is not final.
    pub(super) fn end_action(&mut self, tenant_id: &Arc<str>, request_hash: &str, ended: ActionEnd) {
        let Some(claims) = self.undecided.get_mut(&(Arc::clone(tenant_id), request_hash.to_owned())) else {
            return;
        };
        claims.retain(|claim| !self.removed.contains(&claim.key));
        let Some(first) = claims.iter().map(|claim| claim.key.2.clone()).min() else { return };
        for claim in claims.iter_mut().filter(|claim| claim.key.2 == first) {
            let counts = claim.outcomes.contains(Some(ended));
            if let Some(used) = self.used.get_mut(&claim.key.0).filter(|_| counts != claim.counts) {
                *used = match counts {
                    true => used.saturating_add(claim.amount),
                    false => used.saturating_sub(claim.amount),
                };
                self.changed.insert(claim.key.0);
            }
            claim.counts = counts;
            if is_final(ended) && !counts {
                self.removed.insert(claim.key.clone());
            } else {
                self.ended.insert(claim.key.clone(), (counts, is_final(ended)));
            }
        }
        claims.retain(|claim| claim.key.2 != first || !is_final(ended));
    }

    fn remove(&mut self, claims: Vec<(ClaimKey, Decimal)>) {
        for (key, amount) in claims {
            let id = key.0;
            if self.removed.insert(key)
                && let Some(used) = self.used.get_mut(&id)
            {
                *used = used.saturating_sub(amount);
                self.changed.insert(id);
            }
        }
    }
}

/// Prepared statements.
#[derive(Debug)]
pub(super) struct BudgetStatements {
    make_accounts: Statement,
    accounts: Statement,
    expired: Statement,
    expired_of_tenants: Statement,
    undecided: Statement,
    end: Statement,
    save: Statement,
    insert: Statement,
    remove: Statement,
    drop_empty: Statement,
}

impl BudgetStatements {
    pub(super) async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            make_accounts: client
                .prepare(
                    "INSERT INTO actpass.budget_accounts (tenant_id, budget, account, used)
                     SELECT tenant_id, budget, account, '0' FROM unnest($1::text[], $2::text[], $3::text[])
                         AS wanted (tenant_id, budget, account)
                     ON CONFLICT DO NOTHING",
                )
                .await?,
            accounts: client
                .prepare(
                    "SELECT tenant_id, budget, account, id, used FROM actpass.budget_accounts
                     JOIN unnest($1::text[], $2::text[], $3::text[]) AS wanted (tenant_id, budget, account)
                         USING (tenant_id, budget, account)",
                )
                .await?,
            expired: client
                .prepare(
                    "SELECT claims.account, expires_at, event_id, CASE WHEN counts THEN amount ELSE '0' END
                     FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted (tenant_id, budget, account)
                     JOIN actpass.budget_accounts AS accounts USING (tenant_id, budget, account)
                     JOIN actpass.budget_claims AS claims
                         ON claims.account = accounts.id AND claims.expires_at <= $4",
                )
                .await?,
            expired_of_tenants: client
                .prepare(
                    "SELECT account, expires_at, event_id, CASE WHEN counts THEN amount ELSE '0' END,
                         (SELECT used FROM actpass.budget_accounts WHERE id = claims.account)
                     FROM unnest($1::text[]) AS wanted (tenant_id)
                     CROSS JOIN LATERAL (
                         SELECT account, expires_at, event_id, amount, counts FROM actpass.budget_claims
                         WHERE budget_claims.tenant_id = wanted.tenant_id AND expires_at <= $2
                         ORDER BY expires_at LIMIT $3
                     ) AS claims",
                )
                .await?,
            undecided: client
                .prepare(
                    "SELECT account, expires_at, event_id, amount,
                         (SELECT used FROM actpass.budget_accounts WHERE id = budget_claims.account),
                         tenant_id, request_hash, outcomes, counts
                     FROM actpass.budget_claims
                     JOIN unnest($1::text[], $2::text[]) AS wanted (tenant_id, request_hash)
                         USING (tenant_id, request_hash)",
                )
                .await?,
            save: client
                .prepare(
                    "UPDATE actpass.budget_accounts SET used = change.used
                     FROM unnest($1::bigint[], $2::text[]) AS change (id, used)
                     WHERE budget_accounts.id = change.id",
                )
                .await?,
            insert: client
                .prepare(
                    "INSERT INTO actpass.budget_claims
                         (account, expires_at, event_id, amount, tenant_id, request_hash, outcomes, counts)
                     SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[],
                         $6::text[], $7::bigint[], $8::boolean[])",
                )
                .await?,
            end: client
                .prepare(
                    "UPDATE actpass.budget_claims SET counts = change.counts,
                         request_hash = CASE WHEN change.is_final THEN NULL ELSE request_hash END
                     FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::boolean[], $5::boolean[])
                         AS change (account, expires_at, event_id, counts, is_final)
                     WHERE budget_claims.account = change.account
                         AND budget_claims.expires_at = change.expires_at
                         AND budget_claims.event_id = change.event_id",
                )
                .await?,
            remove: client
                .prepare(
                    "DELETE FROM actpass.budget_claims
                     USING unnest($1::bigint[], $2::bigint[], $3::text[])
                         AS removed (account, expires_at, event_id)
                     WHERE budget_claims.account = removed.account
                         AND budget_claims.expires_at = removed.expires_at
                         AND budget_claims.event_id = removed.event_id",
                )
                .await?,
            drop_empty: client
                .prepare(
                    "DELETE FROM actpass.budget_accounts WHERE id = ANY ($1::bigint[]) AND NOT EXISTS (
                         SELECT FROM actpass.budget_claims WHERE budget_claims.account = budget_accounts.id
                     )",
                )
                .await?,
        })
    }

    /// Loads the accounts of a batch in one round trip and removes claims that have expired at `now`,
    /// in milliseconds since 1970. The transaction holds the locks of the tenants.
    pub(super) async fn load(
        &self,
        client: &Client,
        keys: &BatchKeys,
        now: i64,
    ) -> Result<LoadedBudgets, tokio_postgres::Error> {
        let mut loaded = LoadedBudgets { now, ..LoadedBudgets::default() };
        if keys.accounts.is_empty() && keys.ended.is_empty() {
            return Ok(loaded);
        }
        let mut wanted = (Vec::new(), Vec::new(), Vec::new());
        for (tenant_id, Account { budget, key }) in &keys.accounts {
            wanted.0.push(Text(tenant_id));
            wanted.1.push(Text(budget));
            wanted.2.push(Text(key));
        }
        let ended: (Vec<_>, Vec<_>) =
            keys.ended.iter().map(|(tenant_id, hash)| (Text(tenant_id), hash.as_str())).unzip();
        let tenants: Vec<_> = keys.tenants.iter().map(|tenant_id| Text(tenant_id)).collect();
        let account_columns: [&(dyn ToSql + Sync); 4] = [&wanted.0, &wanted.1, &wanted.2, &now];
        let tenant_columns: [&(dyn ToSql + Sync); 3] = [&tenants, &now, &PRUNED];
        let ended_columns: [&(dyn ToSql + Sync); 2] = [&ended.0, &ended.1];
        let (_, accounts, expired, others, undecided) = tokio::try_join!(
            biased;
            client.execute(&self.make_accounts, &account_columns[..3]),
            client.query(&self.accounts, &account_columns[..3]),
            client.query(&self.expired, &account_columns),
            client.query(&self.expired_of_tenants, &tenant_columns),
            client.query(&self.undecided, &ended_columns),
        )?;
        for row in &accounts {
            let account = Account {
                budget: row.try_get::<_, StoredText>(1)?.0,
                key: row.try_get::<_, StoredText>(2)?.0,
            };
            let id = row.try_get(3)?;
            loaded.ids.insert((row.try_get::<_, StoredText>(0)?.0.into(), account), id);
            loaded.used.insert(id, decimal(row, 4));
        }
        for row in others.iter().chain(&undecided) {
            loaded.used.entry(row.try_get(0)?).or_insert_with(|| decimal(row, 4));
        }
        for row in &undecided {
            let name = (row.try_get::<_, StoredText>(5)?.0.into(), row.try_get(6)?);
            let (key, amount) = claim_of(row)?;
            let outcomes = Outcomes::from_bits(row.try_get(7)?);
            let claim = Undecided { key, amount, outcomes, counts: row.try_get(8)? };
            loaded.undecided.entry(name).or_default().push(claim);
        }
        for row in expired.iter().chain(&others) {
            let (key, amount) = claim_of(row)?;
            loaded.remove(vec![(key, amount)]);
        }
        Ok(loaded)
    }

    pub(super) async fn write(
        &self,
        client: &Client,
        loaded: &LoadedBudgets,
    ) -> Result<(), tokio_postgres::Error> {
        let ids: Vec<i64> = loaded.changed.iter().copied().collect();
        let used = ids.iter().map(|id| loaded.used.get(id).copied().unwrap_or_default());
        let used: Vec<String> = used.map(|used| used.normalize().to_string()).collect();
        let claims: Vec<&NewClaim> =
            loaded.claims.iter().filter(|claim| !loaded.removed.contains(&claim.key)).collect();
        let added = columns(claims.iter().map(|claim| &claim.key));
        let amounts: Vec<String> = claims.iter().map(|claim| claim.amount.to_string()).collect();
        let tenants: Vec<_> = claims.iter().map(|claim| Text(&claim.tenant_id)).collect();
        // An action can end in the batch that records its decision.
        let state = |claim: &NewClaim| match loaded.ended.get(&claim.key) {
            Some((counts, is_final)) => (*counts, *is_final),
            None => (claim.counts, false),
        };
        let hashes: Vec<_> =
            claims.iter().map(|claim| claim.request_hash.as_deref().filter(|_| !state(claim).1)).collect();
        let outcomes: Vec<Option<i64>> = claims
            .iter()
            .map(|claim| claim.request_hash.as_ref().map(|_| i64::from(claim.outcomes.bits())))
            .collect();
        let counts: Vec<bool> = claims.iter().map(|claim| state(claim).0).collect();
        let ended = columns(loaded.ended.keys());
        let (ended_counts, ended_final): (Vec<bool>, Vec<bool>) = loaded.ended.values().copied().unzip();
        let removed = columns(loaded.removed.iter());
        // Accounts that were only measured have no claims.
        let empty: Vec<i64> =
            loaded.used.iter().filter(|(_, used)| used.is_zero()).map(|(id, _)| *id).collect();
        let saved_columns: [&(dyn ToSql + Sync); 2] = [&ids, &used];
        let added_columns: [&(dyn ToSql + Sync); 8] =
            [&added.0, &added.1, &added.2, &amounts, &tenants, &hashes, &outcomes, &counts];
        let ended_columns: [&(dyn ToSql + Sync); 5] =
            [&ended.0, &ended.1, &ended.2, &ended_counts, &ended_final];
        let removed_columns: [&(dyn ToSql + Sync); 3] = [&removed.0, &removed.1, &removed.2];
        let empty_columns: [&(dyn ToSql + Sync); 1] = [&empty];
        tokio::try_join!(
            biased;
            execute_unless(ids.is_empty(), client.execute(&self.save, &saved_columns)),
            execute_unless(claims.is_empty(), client.execute(&self.insert, &added_columns)),
            execute_unless(loaded.ended.is_empty(), client.execute(&self.end, &ended_columns)),
            execute_unless(removed.0.is_empty(), client.execute(&self.remove, &removed_columns)),
            execute_unless(empty.is_empty(), client.execute(&self.drop_empty, &empty_columns)),
        )?;
        Ok(())
    }
}

/// Runs `statement` unless `skip` is set.
async fn execute_unless(
    skip: bool,
    statement: impl Future<Output = Result<u64, tokio_postgres::Error>>,
) -> Result<u64, tokio_postgres::Error> {
    if skip { Ok(0) } else { statement.await }
}

fn columns<'k>(keys: impl Iterator<Item = &'k ClaimKey>) -> (Vec<i64>, Vec<i64>, Vec<&'k str>) {
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for (id, expires_at, event_id) in keys {
        columns.0.push(*id);
        columns.1.push(*expires_at);
        columns.2.push(event_id.as_str());
    }
    columns
}

/// Reads a claim from the first columns.
fn claim_of(row: &Row) -> Result<(ClaimKey, Decimal), tokio_postgres::Error> {
    Ok(((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?), decimal(row, 3)))
}

/// Reads an exact decimal. One that is not is as large as possible, so that nothing more is allowed.
fn decimal(row: &Row, column: usize) -> Decimal {
    let text = row.try_get::<_, &str>(column).ok();
    text.and_then(|text| Decimal::from_str_exact(text).ok()).unwrap_or(Decimal::MAX)
}
