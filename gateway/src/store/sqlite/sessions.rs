//! Sessions of the page, and sign-ins in progress.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::store::sessions::{IdHash, MAX_SIGN_INS, SessionChange, StoredSession};

/// Tables of the schema version that added sessions.
pub(super) const SESSIONS: &str = "
CREATE TABLE sessions (
    id               BLOB PRIMARY KEY,
    opener           TEXT NOT NULL,
    tenant_id        TEXT NOT NULL,
    identity         TEXT,
    token            TEXT NOT NULL,
    secure           INTEGER NOT NULL,
    opened           INTEGER NOT NULL,
    used             INTEGER NOT NULL,
    until            INTEGER NOT NULL,
    provider_session TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_by_opener ON sessions (opener, used);

CREATE TABLE sign_ins (
    state BLOB PRIMARY KEY,
    data  TEXT NOT NULL,
    until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sign_ins_by_end ON sign_ins (until);
";

/// Applies a change; returns `false` if it is not possible.
pub(super) fn change(connection: &mut Connection, change: &SessionChange) -> rusqlite::Result<bool> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let changed = match change {
        SessionChange::Open { session, limit, idle_since } => {
            transaction.execute(
                "DELETE FROM sessions WHERE until <= ?1 OR used <= ?2",
                params![session.opened, idle_since],
            )?;
            transaction.execute(
                "DELETE FROM sessions WHERE id IN (
                     SELECT id FROM sessions WHERE opener = ?1 ORDER BY used DESC, id LIMIT -1 OFFSET ?2
                 )",
                params![session.opener, limit.saturating_sub(1)],
            )?;
            transaction.execute(
                "INSERT INTO sessions (id, opener, tenant_id, identity, token, secure, opened, used, until,
                     provider_session) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                params![
                    session.id,
                    session.opener,
                    session.tenant_id,
                    session.identity,
                    session.token,
                    session.secure,
                    session.opened,
                    session.used,
                    session.until,
                    session.provider_session
                ],
            )?
        }
        SessionChange::Touch { id, now } => transaction
            .execute("UPDATE sessions SET used = ?2 WHERE id = ?1 AND used < ?2", params![id, now])?,
        SessionChange::Close { id } => {
            transaction.execute("DELETE FROM sessions WHERE id = ?1", params![id])?
        }
        SessionChange::CloseAll { opener, provider_session } => transaction.execute(
            "DELETE FROM sessions WHERE identity IS NOT NULL AND (?1 IS NULL OR opener = ?1)
             AND (?2 IS NULL OR provider_session = ?2)",
            params![opener, provider_session],
        )?,
        SessionChange::Begin { state, data, now, until } => {
            transaction.execute("DELETE FROM sign_ins WHERE until <= ?1", [now])?;
            transaction.execute(
                "DELETE FROM sign_ins WHERE state IN (
                     SELECT state FROM sign_ins ORDER BY until DESC LIMIT -1 OFFSET ?1
                 )",
                [MAX_SIGN_INS - 1],
            )?;
            transaction.execute(
                "INSERT INTO sign_ins (state, data, until) VALUES (?1, ?2, ?3)",
                params![state, data, until],
            )?
        }
        SessionChange::End { state } => {
            transaction.execute("DELETE FROM sign_ins WHERE state = ?1", params![state])?
        }
    };
    transaction.commit()?;
    Ok(changed > 0)
}

/// Returns a session.
pub(super) fn find(connection: &Connection, id: &IdHash) -> rusqlite::Result<Option<StoredSession>> {
    connection
        .prepare_cached(
            "SELECT opener, tenant_id, identity, token, secure, opened, used, until, provider_session
             FROM sessions WHERE id = ?1",
        )?
        .query_row(params![id], |row| {
            Ok(StoredSession {
                id: *id,
                opener: row.get(0)?,
                tenant_id: row.get::<_, String>(1)?.into(),
                identity: row.get(2)?,
                token: row.get(3)?,
                secure: row.get(4)?,
                opened: row.get(5)?,
                used: row.get(6)?,
                until: row.get(7)?,
                provider_session: row.get(8)?,
            })
        })
        .optional()
}

/// Returns the data and the end of a sign-in.
pub(super) fn find_sign_in(
    connection: &Connection,
    state: &IdHash,
) -> rusqlite::Result<Option<(String, i64)>> {
    connection
        .prepare_cached("SELECT data, until FROM sign_ins WHERE state = ?1")?
        .query_row(params![state], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}
