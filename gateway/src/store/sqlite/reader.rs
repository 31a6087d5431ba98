//! Read connections.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::Semaphore;

use super::archive;
use super::database::{DataFile, FileError, connect_reader, existing};
use super::schema::{SCHEMA_VERSION, decisions, of_approval, of_passport, of_tool, spends, spends_passport};
use super::{from_sql, to_sql};
use crate::approvals::{Approval, ApprovalDecision};
use crate::ledger::{Archived, CHECKPOINTS, Head, TOOLS};
use crate::store::error::{OpenError, StoreError};
use crate::store::lookup::delegation_marker;
use crate::store::proof::{
    describe_unproven, describe_unproven_archives, recorded_at, verify_against_ledger,
};
use crate::store::{PassportState, SealedCredential, SealedKey, StoredEvent};

/// Maximum number of concurrent read connections.
const READERS: usize = 4;

/// Maximum number and bytes of events per page of [`Store::events`](crate::store::Store::events).
const PAGE_EVENTS: usize = 512;
const PAGE_BYTES: usize = 1 << 20;

/// The columns for [`credential_of`].
pub(super) const CREDENTIAL: &str =
    "SELECT id, tool_id, sealed, set_at, expires_at FROM credentials WHERE tenant_id = ?1";

/// The columns for [`approval_of`].
pub(super) const APPROVAL: &str = concat!(
    "SELECT id, action_hash, tool, resource, args, goal, agent_id, user_id, reason_code, created_at,
    deadline, approved, decided_by, decided_at, note, spent, asker,
    (SELECT group_concat(event, char(10) ORDER BY seq) FROM events INDEXED BY events_by_approval WHERE chain = ",
    decisions!(),
    " AND approval_request_id = approvals.id AND ",
    of_approval!(),
    " AND event_type GLOB 'approval.*' AND seq <= (
        SELECT length FROM chains WHERE tenant_id = ?1 AND chain_id = 'decisions'
    )),
    EXISTS (SELECT 1 FROM events INDEXED BY events_by_approval WHERE chain = ",
    decisions!(),
    " AND approval_request_id = approvals.id AND ",
    of_approval!(),
    " AND ",
    spends!(),
    "), (SELECT event FROM events WHERE chain = ",
    decisions!(),
    " AND approval_request_id = approvals.id AND approval_request_id IS NOT NULL
    AND event_type = 'decision' ORDER BY +seq LIMIT 1)
    FROM approvals WHERE tenant_id = ?1"
);

/// The events that voted on, decided or used the approval ?2.
pub(super) const APPROVAL_EVENTS: &str = concat!(
    "SELECT event FROM events INDEXED BY events_by_approval WHERE chain = ",
    decisions!(),
    " AND approval_request_id = ?2 AND ",
    of_approval!(),
    " ORDER BY seq LIMIT ?3"
);

/// State of a passport by its row and the ledger.
const PASSPORT: &str = concat!(
    "SELECT revoked OR EXISTS (SELECT 1 FROM events INDEXED BY events_by_passport WHERE chain = ",
    decisions!(),
    " AND passport_jti = ?2 AND ",
    of_passport!(),
    " AND event_type = 'passport.revoked'),
    used OR EXISTS (SELECT 1 FROM events INDEXED BY events_by_passport WHERE chain = ",
    decisions!(),
    " AND passport_jti = ?2 AND ",
    of_passport!(),
    " AND ",
    spends_passport!(),
    ") FROM passports WHERE tenant_id = ?1 AND jti = ?2"
);

/// Passports whose rows and events differ.
const UNPROVEN_PASSPORTS: &str = concat!(
    "SELECT jti FROM passports WHERE tenant_id = ?1 AND expires_at > coalesce(
        (SELECT archived_at FROM chains WHERE tenant_id = ?1 AND chain_id = 'decisions'), 0) AND (NOT EXISTS (SELECT 1 FROM events INDEXED BY events_by_passport
    WHERE chain = ",
    decisions!(),
    " AND passport_jti = passports.jti AND ",
    of_passport!(),
    " AND event_type = 'passport.issued')
    OR (revoked = 0 AND EXISTS (SELECT 1 FROM events INDEXED BY events_by_passport WHERE chain = ",
    decisions!(),
    " AND passport_jti = passports.jti AND ",
    of_passport!(),
    " AND event_type = 'passport.revoked'))
    OR (used = 0 AND EXISTS (SELECT 1 FROM events INDEXED BY events_by_passport WHERE chain = ",
    decisions!(),
    " AND passport_jti = passports.jti AND ",
    of_passport!(),
    " AND ",
    spends_passport!(),
    ")))"
);

/// The events of the delegation whose quoted id ?2 contains.
const DELEGATION: &str = "SELECT event FROM events
    WHERE chain = (SELECT id FROM chains WHERE tenant_id = ?1 AND chain_id = 'delegations') AND seq <= (
        SELECT length FROM chains WHERE tenant_id = ?1 AND chain_id = 'delegations'
    ) AND instr(event, ?2) > 0 ORDER BY seq";

/// The last event about a tool.
pub(super) const TOOL_EVENT: &str = concat!(
    "SELECT event FROM events INDEXED BY events_by_tool
    WHERE chain = (SELECT id FROM chains WHERE tenant_id = ?1 AND chain_id = ?2) AND tool_id = ?3 AND ",
    of_tool!(),
    " AND seq <= (SELECT length FROM chains WHERE tenant_id = ?1 AND chain_id = ?2) ORDER BY seq DESC LIMIT 1"
);

/// A pool of read-only connections, used on blocking threads.
#[derive(Debug)]
pub(super) struct Readers {
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    file: Arc<DataFile>,
}

impl Readers {
    pub(super) fn new(file: Arc<DataFile>) -> Self {
        Self { idle: Mutex::default(), permits: Arc::new(Semaphore::new(READERS)), file }
    }

    /// Closes idle connections.
    pub(super) fn release(&self) {
        self.idle().clear();
    }

    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| StoreError::Unavailable)?;
        let readers = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            // Held until the read ends, even if the request ends earlier: each permit stands for a
            // connection.
            let _permit = permit;
            if !readers.file.is_in_place() {
                return Err(FileError::NotInPlace);
            }
            let idle = readers.idle().pop();
            let connection = idle.map_or_else(|| connect_reader(readers.file.path()), Ok)?;
            let value = read(&connection)?;
            readers.idle().push(connection);
            Ok(value)
        });
        match done.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                tracing::error!(%error, "reading the ledger failed");
                Err(StoreError::Unavailable)
            }
            Err(_) => Err(StoreError::Unavailable),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Same as [`super::super::read_chain`], for a data file.
pub(in super::super) fn read_chain<E: From<OpenError>>(
    path: &Path,
    tenant_id: &str,
    chain_id: &str,
    until: u64,
    mut each: impl FnMut(&StoredEvent) -> Result<(), E>,
) -> Result<Option<Head>, E> {
    let failed = |error| OpenError::Sqlite(path.to_owned(), error);
    let connection = connect_reader(&existing(path)?).map_err(failed)?;
    let version: i64 = connection.query_one("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    if version > SCHEMA_VERSION {
        return Err(OpenError::Newer(path.to_owned(), version, SCHEMA_VERSION).into());
    }
    let Some((_, head)) = find_chain(&connection, tenant_id, chain_id).map_err(failed)? else {
        return Ok(None);
    };
    let archived = match version {
        ..12 => None,
        _ => archive::find(&connection, tenant_id, chain_id).map_err(failed)?,
    };
    let mut after = archived.map_or(0, |archived| archived.head.length);
    loop {
        let page =
            read_page(&connection, tenant_id, chain_id, after, head.length.min(until)).map_err(failed)?;
        let Some(last) = page.last() else {
            return Ok(Some(head));
        };
        after = last.seq;
        for event in &page {
            each(event)?;
        }
    }
}

/// Same as [`super::super::read_archived`], for a data file.
pub(in super::super) fn read_archived(
    path: &Path,
    tenant_id: &str,
    chain_id: &str,
) -> Result<Option<Archived>, OpenError> {
    let failed = |error| OpenError::Sqlite(path.to_owned(), error);
    let connection = connect_reader(&existing(path)?).map_err(failed)?;
    let version: i64 = connection.query_one("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    match version {
        ..12 => Ok(None),
        12..=SCHEMA_VERSION => archive::find(&connection, tenant_id, chain_id).map_err(failed),
        _ => Err(OpenError::Newer(path.to_owned(), version, SCHEMA_VERSION)),
    }
}

/// Reads the signing keys from the data file `path`, like [`read_chain`]; empty if the file
/// predates passports.
///
/// # Errors
///
/// Returns an error if the file cannot be read or has a newer schema.
pub(in super::super) fn read_keys(path: &Path) -> Result<Vec<SealedKey>, OpenError> {
    let failed = |error| OpenError::Sqlite(path.to_owned(), error);
    let connection = connect_reader(&existing(path)?).map_err(failed)?;
    let version: i64 = connection.query_one("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    match version {
        ..3 => Ok(Vec::new()),
        3..=SCHEMA_VERSION => read_signing_keys(&connection).map_err(failed),
        _ => Err(OpenError::Newer(path.to_owned(), version, SCHEMA_VERSION)),
    }
}

/// Returns the id of the event that was recorded last on any chain.
pub(super) fn last_event(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection.prepare_cached("SELECT max(id) FROM events")?.query_row([], |row| row.get(0))
}

/// Returns when the last event was recorded, in milliseconds since 1970.
pub(super) fn last_recorded(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let event: Option<String> = connection
        .prepare_cached("SELECT event FROM events ORDER BY id DESC LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(event.as_deref().and_then(recorded_at))
}

pub(super) fn find_chain(
    connection: &Connection,
    tenant_id: &str,
    chain_id: &str,
) -> rusqlite::Result<Option<(i64, Head)>> {
    connection
        .prepare_cached("SELECT id, length, head FROM chains WHERE tenant_id = ?1 AND chain_id = ?2")?
        .query_row(params![tenant_id, chain_id], |row| {
            Ok((row.get(0)?, Head { length: from_sql(row.get(1)?), hash: row.get(2)? }))
        })
        .optional()
}

pub(super) fn find_passport(
    connection: &Connection,
    tenant_id: &str,
    jti: &str,
) -> rusqlite::Result<Option<PassportState>> {
    connection
        .prepare_cached(PASSPORT)?
        .query_row(params![tenant_id, jti], |row| {
            Ok(PassportState { revoked: row.get(0)?, used: row.get(1)? })
        })
        .optional()
}

pub(super) fn find_approval(
    connection: &Connection,
    tenant_id: &str,
    id: &str,
) -> rusqlite::Result<Option<Approval>> {
    connection
        .prepare_cached(&format!("{APPROVAL} AND id = ?2"))?
        .query_row(params![tenant_id, id], approval_of)
        .optional()
}

pub(super) fn find_delegation(
    connection: &Connection,
    tenant_id: &str,
    id: &str,
) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare_cached(DELEGATION)?;
    statement.query_map(params![tenant_id, delegation_marker(id)], |row| row.get(0))?.collect()
}

/// Unspent approvals, oldest first.
pub(super) fn find_approvals_for(
    connection: &Connection,
    tenant_id: &str,
    action_hash: &str,
    asker: &str,
) -> rusqlite::Result<Vec<Approval>> {
    let query =
        format!("{APPROVAL} AND action_hash = ?2 AND asker = ?3 AND spent = 0 ORDER BY created_at, id");
    let mut statement = connection.prepare_cached(&query)?;
    statement.query_map(params![tenant_id, action_hash, asker], approval_of)?.collect()
}

pub(super) fn find_unproven(connection: &Connection, tenant_id: &str) -> rusqlite::Result<Vec<String>> {
    let mut decided = connection.prepare(&format!("{APPROVAL} AND approved IS NOT NULL"))?;
    let approvals = decided.query_map(params![tenant_id], approval_of)?.collect::<Result<Vec<_>, _>>()?;
    let mut passports = connection.prepare(UNPROVEN_PASSPORTS)?;
    let passports = passports.query_map(params![tenant_id], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut approved =
        connection.prepare("SELECT tool_id, manifest_hash FROM manifests WHERE tenant_id = ?1")?;
    let approved = approved.query_map(params![tenant_id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut manifests = Vec::new();
    for row in approved {
        let (tool_id, hash): (String, String) = row?;
        let mut event = connection.prepare_cached(TOOL_EVENT)?;
        let event = event.query_row(params![tenant_id, TOOLS, tool_id], |row| row.get(0)).optional()?;
        manifests.push((tool_id, hash, event));
    }
    let mut archives = connection.prepare(
        "SELECT chain_id, archived, archived_head FROM chains WHERE tenant_id = ?1 AND archived > 0",
    )?;
    let archives = archives.query_map(params![tenant_id], |row| {
        Ok((row.get(0)?, Head { length: from_sql(row.get(1)?), hash: row.get(2)? }))
    })?;
    let archives = archives.collect::<Result<Vec<_>, _>>()?;
    let mut events = connection.prepare(
        "SELECT event FROM events WHERE chain = (SELECT id FROM chains WHERE tenant_id = ?1 AND chain_id = ?2)
         AND event_type = 'ledger.archived'",
    )?;
    let events = events.query_map(params![tenant_id, CHECKPOINTS], |row| row.get(0))?;
    let unproven_archives = describe_unproven_archives(&archives, &events.collect::<Result<Vec<_>, _>>()?);
    let mut unproven = describe_unproven(&approvals, passports, manifests);
    unproven.extend(unproven_archives);
    Ok(unproven)
}

pub(super) fn find_manifest(
    connection: &Connection,
    tenant_id: &str,
    tool_id: &str,
) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached("SELECT manifest_hash FROM manifests WHERE tenant_id = ?1 AND tool_id = ?2")?
        .query_row(params![tenant_id, tool_id], |row| row.get(0))
        .optional()
}

pub(super) fn approval_of(row: &Row<'_>) -> rusqlite::Result<Approval> {
    let decided = match row.get(11)? {
        None => None,
        Some(approved) => {
            Some(ApprovalDecision { approved, by: row.get(12)?, at: row.get(13)?, note: row.get(14)? })
        }
    };
    let approval = Approval {
        id: row.get(0)?,
        action_hash: row.get(1)?,
        tool: row.get(2)?,
        resource: row.get(3)?,
        args: row.get(4)?,
        goal: row.get(5)?,
        agent_id: row.get(6)?,
        user_id: row.get(7)?,
        reason_code: row.get(8)?,
        created_at: row.get(9)?,
        deadline: row.get(10)?,
        decided,
        note: row.get(14)?,
        opening: None,
        votes: Vec::new(),
        spent: row.get(15)?,
        asker: row.get(16)?,
        proven: false,
    };
    let (votes, opened): (Option<String>, Option<String>) = (row.get(17)?, row.get(19)?);
    Ok(verify_against_ledger(approval, opened.as_deref(), votes.as_deref(), row.get(18)?))
}

pub(super) fn find_credential(
    connection: &Connection,
    tenant_id: &str,
    tool_id: &str,
) -> rusqlite::Result<Option<SealedCredential>> {
    connection
        .prepare_cached(&format!("{CREDENTIAL} AND tool_id = ?2"))?
        .query_row(params![tenant_id, tool_id], credential_of)
        .optional()
}

pub(super) fn credential_of(row: &Row<'_>) -> rusqlite::Result<SealedCredential> {
    Ok(SealedCredential {
        id: row.get(0)?,
        tool_id: row.get(1)?,
        sealed: row.get(2)?,
        set_at: row.get(3)?,
        expires_at: row.get(4)?,
    })
}

pub(super) fn read_signing_keys(connection: &Connection) -> rusqlite::Result<Vec<SealedKey>> {
    let mut statement = connection
        .prepare_cached("SELECT kid, sealed, active, needed_until FROM signing_keys ORDER BY id")?;
    let keys = statement.query_map([], |row| {
        Ok(SealedKey {
            kid: row.get(0)?,
            sealed: row.get(1)?,
            active: row.get(2)?,
            needed_until: row.get(3)?,
        })
    })?;
    keys.collect()
}

/// Returns a page of events after `after`; see [`Store::events`](crate::store::Store::events).
pub(super) fn read_page(
    connection: &Connection,
    tenant_id: &str,
    chain_id: &str,
    after: u64,
    until: u64,
) -> rusqlite::Result<Vec<StoredEvent>> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, event FROM events
         WHERE chain = (SELECT id FROM chains WHERE tenant_id = ?1 AND chain_id = ?2) AND seq > ?3 AND seq <= ?4
         ORDER BY seq",
    )?;
    let mut rows = statement.query(params![tenant_id, chain_id, to_sql(after), to_sql(until)])?;
    let mut page = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let event = StoredEvent { seq: from_sql(row.get(0)?), text: row.get(1)? };
        bytes += event.text.len();
        page.push(event);
        if page.len() >= PAGE_EVENTS || bytes >= PAGE_BYTES {
            break;
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::{SqliteStore, lookup};
    use super::*;
    use crate::store::lookup::Subject;

    /// A lookup by chain alone would read all events of the chain.
    #[test]
    fn event_lookups_use_indexes() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("data.db");
        drop(SqliteStore::open(&path).unwrap());
        let connection = connect_reader(&path).unwrap();
        let subjects = Subject::ALL.map(lookup::has_event);
        let queries = [APPROVAL, PASSPORT, UNPROVEN_PASSPORTS, TOOL_EVENT, lookup::COUNT_PENDING];
        let mut lookups = 0;
        for query in queries.into_iter().chain(subjects.iter().map(String::as_str)) {
            let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {query}")).unwrap();
            let steps =
                plan.raw_query().mapped(|row| row.get::<_, String>("detail")).collect::<Result<Vec<_>, _>>();
            for step in steps.unwrap().iter().filter(|step| step.contains(" events ")) {
                let members = ["approval_request_id=?", "passport_jti=?", "tool_id=?", "<expr>=?"];
                assert!(members.iter().any(|member| step.contains(member)), "{step}, of {query}");
                lookups += 1;
            }
        }
        assert_eq!(lookups, 3 + 2 + 3 + 1 + 1 + 3);
    }
}
