//! Accounts of budgets and their claims.
//!
//! `used` is the sum of the stored claims of an account that count. Before it is read, the expired
//! claims are subtracted and removed, so that a decision costs the same with any number of claims. A
//! claim that depends on the outcome of its action may be stored and not count.

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

/// Returns the id of an account; `None` if it has no claims.
pub(super) fn find(
    transaction: &Transaction<'_>,
    tenant_id: &str,
    Account { budget, key }: &Account,
) -> rusqlite::Result<Option<i64>> {
    transaction
        .prepare_cached(
            "SELECT id FROM budget_accounts WHERE tenant_id = ?1 AND budget = ?2 AND account = ?3",
        )?
        .query_row(params![tenant_id, budget, key], |row| row.get(0))
        .optional()
}

/// Removes the account's claims that have expired at `now`, in milliseconds since 1970, and returns
/// the sum of the others.
pub(super) fn expire(transaction: &Transaction<'_>, id: i64, now: i64) -> rusqlite::Result<Decimal> {
    let expired: Vec<Decimal> = transaction
        .prepare_cached(
            "DELETE FROM budget_claims WHERE account = ?1 AND expires_at <= ?2
             RETURNING iif(counts, amount, '0')",
        )?
        .query_map(params![id, now], |row| decimal(row, 0))?
        .collect::<rusqlite::Result<_>>()?;
    let used = subtract(transaction, id, &expired)?;
    if !expired.is_empty() {
        drop_if_empty(transaction, id)?;
    }
    Ok(used)
}

fn drop_if_empty(transaction: &Transaction<'_>, id: i64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "DELETE FROM budget_accounts WHERE id = ?1
             AND NOT EXISTS (SELECT 1 FROM budget_claims WHERE account = ?1)",
        )?
        .execute([id])?;
    Ok(())
}

/// Returns the stored sum of an account.
fn read(transaction: &Transaction<'_>, id: i64) -> rusqlite::Result<Decimal> {
    transaction
        .prepare_cached("SELECT used FROM budget_accounts WHERE id = ?1")?
        .query_row([id], |row| decimal(row, 0))
}

/// Subtracts removed claims and returns the sum of the others.
fn subtract(transaction: &Transaction<'_>, id: i64, amounts: &[Decimal]) -> rusqlite::Result<Decimal> {
    let used = read(transaction, id)?;
    if amounts.is_empty() {
        return Ok(used);
    }
    let used = amounts.iter().fold(used, |used, amount| used.saturating_sub(*amount));
    save(transaction, id, used)?;
    Ok(used)
}

fn save(transaction: &Transaction<'_>, id: i64, used: Decimal) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("UPDATE budget_accounts SET used = ?2 WHERE id = ?1")?
        .execute(params![id, used.normalize().to_string()])?;
    Ok(())
}

/// Records a claim.
pub(super) fn claim(
    transaction: &Transaction<'_>,
    tenant_id: &str,
    Claim { charge, .. }: &Claim,
    decision: ClaimedBy<'_>,
) -> rusqlite::Result<()> {
    let account = &charge.account;
    let id = match find(transaction, tenant_id, account)? {
        Some(id) => id,
        None => {
            transaction
                .prepare_cached(
                    "INSERT INTO budget_accounts (tenant_id, budget, account, used) VALUES (?1, ?2, ?3, '0')",
                )?
                .execute(params![tenant_id, account.budget, account.key])?;
            transaction.last_insert_rowid()
        }
    };
    let counts = charge.outcomes.contains(None);
    if counts {
        let used = read(transaction, id)?;
        save(transaction, id, used.saturating_add(charge.amount))?;
    }
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
            let used = read(transaction, id)?;
            let used = if counts { used.saturating_add(amount) } else { used.saturating_sub(amount) };
            save(transaction, id, used)?;
        }
        if is_final(ended) && !counts {
            remove(transaction, id, expires_at, &event)?;
            drop_if_empty(transaction, id)?;
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

/// Removes up to `limit` expired claims of any account, and accounts without claims.
pub(super) fn prune(transaction: &Transaction<'_>, now: i64, limit: usize) -> rusqlite::Result<()> {
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
        subtract(transaction, id, &[amount])?;
        drop_if_empty(transaction, id)?;
    }
    Ok(())
}
