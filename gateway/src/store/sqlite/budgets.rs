//! Accounts of budgets and their claims.
//!
//! `used` is the sum of the stored claims of an account that count. Before it is read, the expired
//! claims are subtracted and removed, so that a decision costs the same with any number of claims. A
//! claim that depends on the outcome of its action may be stored and not count.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use actpass_protocol::ActionEnd;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use rust_decimal::Decimal;

use crate::budget::{Account, Outcomes, is_final};
use crate::store::AccountUse;
use crate::store::Claim;
use crate::store::batch::ClaimedBy;

/// Reads an exact decimal.
fn decimal(row: &Row<'_>, column: usize) -> rusqlite::Result<Decimal> {
    let text: String = row.get(column)?;
    Decimal::from_str_exact(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

/// The accounts that a batch has read. Each is read once, and [`Self::write`] writes its sum.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    /// Ids by tenant and account; `None` if there is no account.
    ids: HashMap<(String, Account), Option<i64>>,
    sums: HashMap<i64, Sum>,
}

/// The sum of an account's claims that count.
#[derive(Debug)]
struct Sum {
    used: Decimal,
    is_changed: bool,
    /// Whether the claims that have expired at the time of the batch are removed.
    is_current: bool,
}

impl Accounts {
    /// Returns the sum of the account's claims that expire after `now`, in milliseconds since 1970,
    /// which is the same in the whole batch. Removes the others.
    pub(super) fn used(
        &mut self,
        transaction: &Transaction<'_>,
        tenant_id: &str,
        account: &Account,
        now: i64,
    ) -> rusqlite::Result<Decimal> {
        let Some(id) = self.find(transaction, tenant_id, account)? else {
            return Ok(Decimal::ZERO);
        };
        let sum = self.sum(transaction, id)?;
        if sum.is_current {
            return Ok(sum.used);
        }
        sum.is_current = true;
        let expired: Vec<Decimal> = transaction
            .prepare_cached(
                "DELETE FROM budget_claims WHERE account = ?1 AND expires_at <= ?2
                 RETURNING iif(counts, amount, '0')",
            )?
            .query_map(params![id, now], |row| decimal(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        if expired.is_empty() {
            return Ok(sum.used);
        }
        sum.used = expired.iter().fold(sum.used, |used, amount| used.saturating_sub(*amount));
        sum.is_changed = true;
        let used = sum.used;
        self.drop_if_empty(transaction, id)?;
        Ok(used)
    }

    /// Records a claim.
    pub(super) fn claim(
        &mut self,
        transaction: &Transaction<'_>,
        tenant_id: &str,
        Claim { charge, .. }: &Claim,
        decision: ClaimedBy<'_>,
    ) -> rusqlite::Result<()> {
        let account = &charge.account;
        let counts = charge.outcomes.contains(None);
        let added = if counts { charge.amount } else { Decimal::ZERO };
        let id = match self.find(transaction, tenant_id, account)? {
            Some(id) => {
                let sum = self.sum(transaction, id)?;
                sum.used = sum.used.saturating_add(added);
                sum.is_changed |= counts;
                id
            }
            None => {
                transaction
                    .prepare_cached(
                        "INSERT INTO budget_accounts (tenant_id, budget, account, used) VALUES (?1, ?2, ?3, ?4)",
                    )?
                    .execute(params![tenant_id, account.budget, account.key, added.normalize().to_string()])?;
                let id = transaction.last_insert_rowid();
                self.ids.insert((tenant_id.to_owned(), account.clone()), Some(id));
                self.sums.insert(id, Sum { used: added, is_changed: false, is_current: true });
                id
            }
        };
        let request_hash = decision.request_hash.filter(|_| charge.outcomes != Outcomes::ALL);
        let outcomes = request_hash.map(|_| charge.outcomes.bits());
        let expires_at = decision.at.saturating_add(charge.window.millis());
        transaction
            .prepare_cached(
                "INSERT INTO budget_claims (account, expires_at, event_id, amount, request_hash, outcomes, counts)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                id,
                expires_at,
                decision.event_id,
                charge.amount.to_string(),
                request_hash,
                outcomes,
                counts
            ])?;
        Ok(())
    }

    /// Applies an outcome to the claims of the first decision on a request whose outcome is not final.
    pub(super) fn end_action(
        &mut self,
        transaction: &Transaction<'_>,
        tenant_id: &str,
        request_hash: &str,
        ended: ActionEnd,
    ) -> rusqlite::Result<()> {
        let event: Option<String> = transaction
            .prepare_cached(
                "SELECT min(event_id) FROM budget_claims WHERE request_hash = ?2
                 AND EXISTS (SELECT 1 FROM budget_accounts WHERE id = budget_claims.account AND tenant_id = ?1)",
            )?
            .query_row(params![tenant_id, request_hash], |row| row.get(0))?;
        let Some(event) = event else { return Ok(()) };
        let claims: Vec<(i64, i64, Decimal, i64, bool)> = transaction
            .prepare_cached(
                "SELECT account, expires_at, amount, outcomes, counts FROM budget_claims
                 WHERE request_hash = ?2 AND event_id = ?3
                 AND EXISTS (SELECT 1 FROM budget_accounts WHERE id = budget_claims.account AND tenant_id = ?1)",
            )?
            .query_map(params![tenant_id, request_hash, event], |row| {
                Ok((row.get(0)?, row.get(1)?, decimal(row, 2)?, row.get(3)?, row.get(4)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        for (id, expires_at, amount, outcomes, counted) in claims {
            let counts = Outcomes::from_bits(outcomes).contains(Some(ended));
            if counts != counted {
                let sum = self.sum(transaction, id)?;
                sum.used =
                    if counts { sum.used.saturating_add(amount) } else { sum.used.saturating_sub(amount) };
                sum.is_changed = true;
            }
            if is_final(ended) && !counts {
                remove(transaction, id, expires_at, &event)?;
                self.drop_if_empty(transaction, id)?;
            } else {
                let request_hash = Some(request_hash).filter(|_| !is_final(ended));
                transaction
                    .prepare_cached(
                        "UPDATE budget_claims SET counts = ?4, request_hash = ?5
                         WHERE account = ?1 AND expires_at = ?2 AND event_id = ?3",
                    )?
                    .execute(params![id, expires_at, event, counts, request_hash])?;
            }
        }
        Ok(())
    }

    /// Removes up to `limit` expired claims of any account, and accounts without claims.
    pub(super) fn prune(
        &mut self,
        transaction: &Transaction<'_>,
        now: i64,
        limit: usize,
    ) -> rusqlite::Result<()> {
        let oldest: Option<i64> = transaction
            .prepare_cached("SELECT expires_at FROM budget_claims ORDER BY expires_at LIMIT 1")?
            .query_row([], |row| row.get(0))
            .optional()?;
        // SQLite prepares the next statement again for each time that it is bound to.
        if oldest.is_none_or(|oldest| oldest > now) {
            return Ok(());
        }
        let expired: Vec<(i64, i64, String, Decimal)> = transaction
            .prepare_cached(
                "SELECT account, expires_at, event_id, iif(counts, amount, '0') FROM budget_claims
                 WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2",
            )?
            .query_map(params![now, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, decimal(row, 3)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        for (id, expires_at, event_id, amount) in expired {
            remove(transaction, id, expires_at, &event_id)?;
            let sum = self.sum(transaction, id)?;
            sum.used = sum.used.saturating_sub(amount);
            sum.is_changed = true;
            self.drop_if_empty(transaction, id)?;
        }
        Ok(())
    }

    /// Writes the changed sums.
    pub(super) fn write(&self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        let mut update = transaction.prepare_cached("UPDATE budget_accounts SET used = ?2 WHERE id = ?1")?;
        for (id, sum) in self.sums.iter().filter(|(_, sum)| sum.is_changed) {
            update.execute(params![id, sum.used.normalize().to_string()])?;
        }
        Ok(())
    }

    /// Returns the id of an account; `None` if it has no claims.
    fn find(
        &mut self,
        transaction: &Transaction<'_>,
        tenant_id: &str,
        account: &Account,
    ) -> rusqlite::Result<Option<i64>> {
        let known = match self.ids.entry((tenant_id.to_owned(), account.clone())) {
            Entry::Occupied(known) => return Ok(*known.get()),
            Entry::Vacant(unknown) => unknown,
        };
        let found = transaction
            .prepare_cached(
                "SELECT id, used FROM budget_accounts WHERE tenant_id = ?1 AND budget = ?2 AND account = ?3",
            )?
            .query_row(params![tenant_id, account.budget, account.key], |row| {
                Ok((row.get(0)?, decimal(row, 1)?))
            })
            .optional()?;
        let id = found.map(|(id, used)| {
            // An outcome may have changed the sum in this batch.
            self.sums.entry(id).or_insert(Sum { used, is_changed: false, is_current: false });
            id
        });
        known.insert(id);
        Ok(id)
    }

    fn sum(&mut self, transaction: &Transaction<'_>, id: i64) -> rusqlite::Result<&mut Sum> {
        Ok(match self.sums.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let used = transaction
                    .prepare_cached("SELECT used FROM budget_accounts WHERE id = ?1")?
                    .query_row([id], |row| decimal(row, 0))?;
                unknown.insert(Sum { used, is_changed: false, is_current: false })
            }
        })
    }

    fn drop_if_empty(&mut self, transaction: &Transaction<'_>, id: i64) -> rusqlite::Result<()> {
        let dropped = transaction
            .prepare_cached(
                "DELETE FROM budget_accounts WHERE id = ?1
                 AND NOT EXISTS (SELECT 1 FROM budget_claims WHERE account = ?1)",
            )?
            .execute([id])?;
        if dropped > 0 {
            self.sums.remove(&id);
            self.ids.retain(|_, known| *known != Some(id));
        }
        Ok(())
    }
}

fn remove(transaction: &Transaction<'_>, id: i64, expires_at: i64, event_id: &str) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM budget_claims WHERE account = ?1 AND expires_at = ?2 AND event_id = ?3")?
        .execute(params![id, expires_at, event_id])?;
    Ok(())
}

/// Lists accounts of budgets after the one with the id `after`.
pub(super) fn list(
    connection: &Connection,
    tenant_id: &str,
    now: i64,
    after: i64,
    limit: u32,
) -> rusqlite::Result<Vec<AccountUse>> {
    let query = format!("{USES} AND id > ?3 AND budget NOT GLOB 'history:*' ORDER BY id LIMIT ?4");
    let mut statement = connection.prepare_cached(&query)?;
    statement.query_map(params![tenant_id, now, after, limit], use_of)?.collect()
}

/// Returns the use of those of the accounts that have claims.
pub(super) fn uses(
    connection: &Connection,
    tenant_id: &str,
    now: i64,
    accounts: &[Account],
) -> rusqlite::Result<Vec<AccountUse>> {
    let mut statement = connection.prepare_cached(&format!("{USES} AND budget = ?3 AND account = ?4"))?;
    let found = accounts.iter().map(|Account { budget, key }| {
        statement.query_row(params![tenant_id, now, budget, key], use_of).optional()
    });
    found.filter_map(Result::transpose).collect()
}

/// The uses of the accounts of the tenant ?1 at the time ?2.
const USES: &str = "SELECT id, budget, account, used, (
        SELECT group_concat(amount) FROM budget_claims
        WHERE budget_claims.account = budget_accounts.id AND expires_at <= ?2 AND counts
    ) FROM budget_accounts WHERE tenant_id = ?1";

fn use_of(row: &Row<'_>) -> rusqlite::Result<AccountUse> {
    let account = Account { budget: row.get(1)?, key: row.get(2)? };
    let (used, expired) = (row.get::<_, String>(3)?, row.get::<_, Option<String>>(4)?);
    AccountUse::of(row.get(0)?, account, &used, expired.as_deref()).ok_or(rusqlite::Error::InvalidColumnType(
        3,
        "used".to_owned(),
        rusqlite::types::Type::Text,
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use actpass_protocol::ActionEnd;
    use rusqlite::Connection;
    use rust_decimal::Decimal;

    use super::Accounts;
    use crate::budget::{Account, Charge, Outcomes, Window, is_final};
    use crate::store::batch::ClaimedBy;
    use crate::store::sqlite::schema;
    use crate::store::{Claim, Excess};

    struct Stored {
        account: usize,
        expires_at: i64,
        event_id: String,
        amount: i64,
        request_hash: Option<String>,
        outcomes: Outcomes,
        counts: bool,
    }

    fn account(number: usize) -> Account {
        Account { budget: "daily".to_owned(), key: number.to_string() }
    }

    fn claim(number: usize, amount: i64, outcomes: Outcomes) -> Claim {
        let window = Window::parse("2s").unwrap();
        let (account, amount) = (account(number), Decimal::from(amount));
        Claim { charge: Charge { account, amount, limit: None, window, outcomes }, on_excess: Excess::Claim }
    }

    fn used(stored: &[Stored], number: usize) -> Decimal {
        let counted = stored.iter().filter(|stored| stored.account == number && stored.counts);
        counted.map(|stored| Decimal::from(stored.amount)).sum()
    }

    fn end(stored: &mut Vec<Stored>, hash: &str, ended: ActionEnd) {
        let is_of = |stored: &Stored| stored.request_hash.as_deref() == Some(hash);
        let first = stored.iter().filter(|stored| is_of(stored)).map(|stored| stored.event_id.clone()).min();
        stored.retain_mut(|stored| {
            if !is_of(stored) || Some(&stored.event_id) != first.as_ref() {
                return true;
            }
            stored.counts = stored.outcomes.contains(Some(ended));
            if is_final(ended) {
                stored.request_hash = None;
            }
            stored.counts || !is_final(ended)
        });
    }

    /// Batches of random operations, compared with a list of claims.
    #[test]
    fn sums_equal_claims_after_any_batch() {
        let mut seed = 7_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let mut connection = Connection::open_in_memory().unwrap();
        schema::prepare(&mut connection).unwrap();
        let mut stored: Vec<Stored> = Vec::new();
        let (mut now, mut events, mut dropped) = (1_000, 0, 0);
        for _ in 0..600 {
            let transaction = connection.transaction().unwrap();
            let mut accounts = Accounts::default();
            for _ in 0..random(12) {
                let number = usize::try_from(random(3)).unwrap();
                let hash = format!("h{}", random(4));
                match random(8) {
                    0..3 => {
                        stored.retain(|stored| stored.account != number || stored.expires_at > now);
                        let found = accounts.used(&transaction, "t", &account(number), now).unwrap();
                        assert_eq!(found, used(&stored, number));
                    }
                    3..6 => {
                        events += 1;
                        let (event_id, amount) = (format!("e{events:06}"), i64::try_from(random(9)).unwrap());
                        let outcomes = match random(3) {
                            0 => Outcomes::ALL,
                            1 => Outcomes::unless_failed(),
                            _ => Outcomes::of(|outcome| outcome == Some(ActionEnd::Returned)),
                        };
                        let by = ClaimedBy { event_id: &event_id, request_hash: Some(&hash), at: now };
                        accounts.claim(&transaction, "t", &claim(number, amount, outcomes), by).unwrap();
                        let request_hash = (outcomes != Outcomes::ALL).then_some(hash);
                        let (expires_at, counts) = (now + 2_000, outcomes.contains(None));
                        stored.push(Stored {
                            account: number,
                            expires_at,
                            event_id,
                            amount,
                            request_hash,
                            outcomes,
                            counts,
                        });
                    }
                    6 => {
                        let ended = [ActionEnd::Failed, ActionEnd::Returned, ActionEnd::Suspended];
                        let ended = ended[usize::try_from(random(3)).unwrap()];
                        accounts.end_action(&transaction, "t", &hash, ended).unwrap();
                        end(&mut stored, &hash, ended);
                    }
                    _ => {
                        let other = accounts.used(&transaction, "other", &account(number), now).unwrap();
                        assert_eq!(other, Decimal::ZERO);
                    }
                }
            }
            accounts.prune(&transaction, now, 1_000).unwrap();
            accounts.write(&transaction).unwrap();
            transaction.commit().unwrap();
            stored.retain(|stored| stored.expires_at > now);
            let rows: HashSet<(String, String)> = connection
                .prepare("SELECT account, used FROM budget_accounts")
                .unwrap()
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
                .unwrap()
                .collect::<rusqlite::Result<_>>()
                .unwrap();
            let known = (0..3).filter(|number| stored.iter().any(|stored| stored.account == *number));
            let expected = known.map(|number| (number.to_string(), used(&stored, number).to_string()));
            let expected: HashSet<_> = expected.collect();
            assert_eq!(rows, expected);
            dropped += usize::from(expected.len() < 3);
            now += i64::try_from(random(900)).unwrap();
        }
        assert!(events > 1_000 && dropped > 20, "{events} {dropped}");
    }
}
