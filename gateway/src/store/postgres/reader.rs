//! Read connections.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::super::error::{DatabaseError, OpenError};
use super::super::lookup::{STATUSES, Subject};
use super::super::proof::verify_against_ledger;
use super::super::{SealedCredential, SealedKey, StoreError, StoredEvent};
use super::archive::{self, archived_of};
use super::schema::{member, of_approval, of_passport, of_tool, spends, spends_passport};
use super::text::{StoredText, Text};
use super::{
    BATCH_DEADLINE, Database, PLANNER_SETTINGS, Server, describe, from_sql, halts, kept, lookup, outbox,
    sessions, to_sql,
};
use crate::approvals::{Approval, ApprovalDecision};
use crate::ledger::Head;

/// Maximum number of concurrent read connections.
const READERS: usize = 4;

/// Maximum number and bytes of events per page of [`Store::events`](crate::store::Store::events).
pub(super) const PAGE_EVENTS: i64 = 512;
pub(super) const PAGE_BYTES: i64 = 1 << 20;

/// The chain of decisions of a row's tenant.
macro_rules! decisions_of {
    ($row:literal) => {
        concat!(
            "(SELECT id FROM actpass.chains WHERE chains.tenant_id = ",
            $row,
            ".tenant_id AND chains.chain_id = 'decisions')"
        )
    };
}

/// The columns for [`approval_of`], from rows named `approvals`.
macro_rules! approval_columns {
    () => {
        concat!(
            "SELECT approvals.id, action_hash, tool, resource, args, goal, agent_id, user_id, reason_code, created_at,
            deadline, approved, decided_by, decided_at, note, spent, asker,
            (SELECT string_agg(event, E'\n' ORDER BY seq) FROM actpass.events WHERE chain = ",
            decisions_of!("approvals"),
            " AND ",
            member!("approval_request_id"),
            " = approvals.id AND ",
            of_approval!(),
            r#" AND strpos(event, '"event_type":"approval.') > 0 AND seq <= (
                SELECT length FROM actpass.chains
                WHERE chains.tenant_id = approvals.tenant_id AND chains.chain_id = 'decisions'
            )),
            EXISTS (SELECT FROM actpass.events WHERE chain = "#,
            decisions_of!("approvals"),
            " AND ",
            member!("approval_request_id"),
            " = approvals.id AND ",
            of_approval!(),
            " AND ",
            spends!(),
            "), approvals.tenant_id, (SELECT (array_agg(event ORDER BY seq))[1] FROM actpass.events WHERE chain = ",
            decisions_of!("approvals"),
            r#" AND substring(event from '"approval_request_id":"([^"\\]*)"') = approvals.id
            AND strpos(event, '"event_type":"decision"') > 0)"#
        )
    };
}

/// The statement for [`approval_of`].
const APPROVAL: &str = concat!(approval_columns!(), " FROM actpass.approvals WHERE tenant_id = $1");

/// The events that voted on, decided or used the approval $2.
const APPROVAL_EVENTS: &str = concat!(
    "SELECT event FROM actpass.events WHERE chain =
        (SELECT id FROM actpass.chains WHERE tenant_id = $1 AND chain_id = 'decisions') AND ",
    member!("approval_request_id"),
    " = $2 AND ",
    of_approval!(),
    " ORDER BY seq LIMIT $3"
);

/// State of a passport by its row and the ledger, from rows named `passports`.
macro_rules! passport_standing {
    () => {
        concat!(
            "revoked OR EXISTS (SELECT FROM actpass.events WHERE chain = ",
            decisions_of!("passports"),
            " AND ",
            member!("passport_jti"),
            " = passports.jti AND ",
            of_passport!(),
            r#" AND strpos(event, '"event_type":"passport.revoked"') > 0),
            used OR EXISTS (SELECT FROM actpass.events WHERE chain = "#,
            decisions_of!("passports"),
            " AND ",
            member!("passport_jti"),
            " = passports.jti AND ",
            of_passport!(),
            " AND ",
            spends_passport!(),
            ")"
        )
    };
}
pub(super) use {approval_columns, decisions_of, passport_standing};

/// The columns for [`credential_of`].
const CREDENTIAL: &str =
    "SELECT id, tool_id, sealed, set_at, expires_at FROM actpass.credentials WHERE tenant_id = $1";

/// A pool of read-only connections.
#[derive(Debug)]
pub(super) struct Readers {
    server: Arc<Server>,
    idle: Mutex<Vec<ReadConnection>>,
    permits: Semaphore,
}

impl Readers {
    pub(super) fn new(server: Arc<Server>) -> Self {
        Self { server, idle: Mutex::default(), permits: Semaphore::new(READERS) }
    }

    /// Closes idle connections.
    pub(super) fn release(&self) {
        self.idle().clear();
    }

    pub(super) async fn read(
        &self,
        statement: fn(&ReadConnection) -> &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let reading = async {
            let _permit = self.permits.acquire().await.map_err(|_| StoreError::Unavailable)?;
            loop {
                let idle = self.idle().pop();
                let was_idle = idle.is_some();
                let reader = match idle {
                    Some(reader) => reader,
                    None => ReadConnection::open(&self.server).await.map_err(|error| {
                        tracing::error!(%error, "reading the ledger failed");
                        StoreError::Unavailable
                    })?,
                };
                match reader.client.query(statement(&reader), parameters).await {
                    Ok(rows) => {
                        self.idle().push(reader);
                        return Ok(rows);
                    }
                    // The connection was lost while idle; other idle ones may be lost too.
                    Err(_) if was_idle && reader.client.is_closed() => {}
                    Err(error) => {
                        tracing::error!(error = describe(&error), "reading the ledger failed");
                        return Err(StoreError::Unavailable);
                    }
                }
            }
        };
        tokio::time::timeout(BATCH_DEADLINE, reading).await.unwrap_or_else(|_| {
            tracing::error!("database operation timed out");
            Err(StoreError::Unavailable)
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<ReadConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A read connection with prepared statements.
#[derive(Debug)]
pub(super) struct ReadConnection {
    client: Client,
    pub(super) acknowledged_halts: Statement,
    pub(super) active_halts: Statement,
    pub(super) approval: Statement,
    pub(super) approval_events: Statement,
    pub(super) budget_accounts: Statement,
    pub(super) budget_uses: Statement,
    pub(super) credential: Statement,
    pub(super) credentials: Statement,
    pub(super) events: Statement,
    pub(super) halt: Statement,
    pub(super) halts: Statement,
    pub(super) lifted_halts: Statement,
    pub(super) head: Statement,
    pub(super) kept: Statement,
    /// The same, newest first.
    pub(super) kept_newest: Statement,
    pub(super) kept_named: Statement,
    pub(super) last_recorded: Statement,
    pub(super) live_approval: Statement,
    pub(super) manifest: Statement,
    pub(super) nothing: Statement,
    pub(super) passport: Statement,
    pub(super) count_pending: Statement,
    pub(super) archived: Statement,
    /// The events that record archived parts of chains.
    pub(super) archive_events: Statement,
    /// The archived parts of a tenant's chains.
    pub(super) archives: Statement,
    pub(super) count_ages: Statement,
    pub(super) count_events: Statement,
    pub(super) count_outbox: Statement,
    pub(super) version: Statement,
    /// In the order of [`STATUSES`].
    pub(super) list_approvals: [Statement; 5],
    /// The same, latest deadline first.
    pub(super) list_newest: [Statement; 5],
    /// In the order of [`Subject::ALL`].
    pub(super) has_event: [Statement; 3],
    pub(super) signing_keys: Statement,
    pub(super) tool_event: Statement,
    pub(super) decided: Statement,
    pub(super) manifests: Statement,
    pub(super) unproven_passports: Statement,
    pub(super) due_events: Statement,
    pub(super) due_expired: Statement,
    /// For a webhook, and for a tenant.
    pub(super) dead_letters: [Statement; 2],
    pub(super) webhook_states: Statement,
    pub(super) session: Statement,
    pub(super) sign_in: Statement,
}

impl ReadConnection {
    async fn open(server: &Server) -> Result<Self, DatabaseError> {
        let client = server.connect().await?;
        Self::prepare(client).await.map_err(|error| server.error(&error))
    }

    async fn prepare(client: Client) -> Result<Self, tokio_postgres::Error> {
        client.batch_execute(PLANNER_SETTINGS).await?;
        client.batch_execute("SET default_transaction_read_only = on").await?;
        let list = async |is_newest_first| -> Result<[Statement; 5], tokio_postgres::Error> {
            let query = |status| format!("{APPROVAL} {}", lookup::list_approvals(status, is_newest_first));
            let [a, b, c, d, e] = STATUSES.map(query);
            Ok([
                client.prepare(&a).await?,
                client.prepare(&b).await?,
                client.prepare(&c).await?,
                client.prepare(&d).await?,
                client.prepare(&e).await?,
            ])
        };
        let (list_approvals, list_newest) = (list(false).await?, list(true).await?);
        let [a, b, c] = Subject::ALL.map(lookup::has_event);
        let has_event = [client.prepare(&a).await?, client.prepare(&b).await?, client.prepare(&c).await?];
        let [a, b] = outbox::dead_letters();
        let dead_letters = [client.prepare(&a).await?, client.prepare(&b).await?];
        Ok(Self {
            dead_letters,
            due_events: client.prepare(outbox::DUE_EVENTS).await?,
            due_expired: client.prepare(outbox::DUE_EXPIRED).await?,
            webhook_states: client.prepare(outbox::STATES).await?,
            kept: client.prepare(kept::LIST).await?,
            kept_newest: client.prepare(kept::LIST_NEWEST).await?,
            kept_named: client.prepare(kept::NAMED).await?,
            session: client.prepare(sessions::FIND).await?,
            sign_in: client.prepare(sessions::FIND_SIGN_IN).await?,
            list_approvals,
            list_newest,
            has_event,
            count_pending: client.prepare(lookup::COUNT_PENDING).await?,
            archived: client.prepare(archive::FIND).await?,
            archive_events: client
                .prepare(
                    r#"SELECT event FROM actpass.events WHERE chain = (
                           SELECT id FROM actpass.chains WHERE tenant_id = $1 AND chain_id = 'checkpoints'
                       ) AND strpos(event, '"event_type":"ledger.archived"') > 0"#,
                )
                .await?,
            archives: client
                .prepare(
                    "SELECT chain_id, archived, archived_head FROM actpass.chains
                     WHERE tenant_id = $1 AND archived > 0",
                )
                .await?,
            count_ages: client.prepare(lookup::COUNT_AGES).await?,
            count_events: client.prepare(lookup::COUNT_EVENTS).await?,
            count_outbox: client.prepare(lookup::COUNT_OUTBOX).await?,
            version: client.prepare(lookup::VERSION).await?,
            acknowledged_halts: client.prepare(halts::ACKNOWLEDGED).await?,
            active_halts: client.prepare(halts::ACTIVE).await?,
            halt: client.prepare(halts::FIND).await?,
            halts: client.prepare(halts::LIST).await?,
            lifted_halts: client.prepare(halts::LIFTED).await?,
            approval: client.prepare(&format!("{APPROVAL} AND id = $2")).await?,
            approval_events: client.prepare(APPROVAL_EVENTS).await?,
            budget_accounts: client
                .prepare(
                    "SELECT id, budget, account, used, (
                         SELECT string_agg(amount, ',') FROM actpass.budget_claims
                         WHERE budget_claims.account = budget_accounts.id AND expires_at <= $2 AND counts
                     ) FROM actpass.budget_accounts
                     WHERE tenant_id = $1 AND id > $3 AND NOT starts_with(budget, 'history:')
                     ORDER BY id LIMIT $4",
                )
                .await?,
            budget_uses: client
                .prepare(
                    "SELECT id, budget, account, used, (
                         SELECT string_agg(amount, ',') FROM actpass.budget_claims
                         WHERE budget_claims.account = budget_accounts.id AND expires_at <= $2 AND counts
                     ) FROM actpass.budget_accounts
                     JOIN unnest($3::text[], $4::text[]) AS wanted (budget, account) USING (budget, account)
                     WHERE tenant_id = $1",
                )
                .await?,
            credential: client.prepare(&format!("{CREDENTIAL} AND tool_id = $2")).await?,
            credentials: client.prepare(&format!("{CREDENTIAL} ORDER BY tool_id")).await?,
            // Events until the preceding ones fill a page.
            events: client
                .prepare(
                    "SELECT seq, event FROM (
                         SELECT seq, event,
                             sum(octet_length(event)) OVER (ORDER BY seq) - octet_length(event) AS before
                         FROM (
                             SELECT seq, event FROM actpass.events
                             WHERE chain = (
                                 SELECT id FROM actpass.chains WHERE tenant_id = $1 AND chain_id = $2
                             ) AND seq > $3 AND seq <= $4
                             ORDER BY seq LIMIT $5
                         ) AS candidates
                     ) AS page WHERE before < $6 ORDER BY seq",
                )
                .await?,
            head: client
                .prepare(
                    "SELECT length, head FROM actpass.chains
                     WHERE tenant_id = $1 AND chain_id = $2 AND length > 0",
                )
                .await?,
            last_recorded: client
                .prepare(concat!(
                    "SELECT max(",
                    member!("created_at"),
                    ") FROM actpass.chains JOIN actpass.events ON chain = chains.id AND seq = chains.length"
                ))
                .await?,
            live_approval: client
                .prepare(&format!(
                    "{APPROVAL} AND action_hash = $2 AND asker = $3 AND NOT spent ORDER BY created_at, id"
                ))
                .await?,
            manifest: client
                .prepare("SELECT manifest_hash FROM actpass.manifests WHERE tenant_id = $1 AND tool_id = $2")
                .await?,
            nothing: client.prepare("SELECT 1").await?,
            passport: client
                .prepare(concat!(
                    "SELECT ",
                    passport_standing!(),
                    " FROM actpass.passports WHERE tenant_id = $1 AND jti = $2"
                ))
                .await?,
            signing_keys: client
                .prepare("SELECT kid, sealed, active, needed_until FROM actpass.signing_keys ORDER BY id")
                .await?,
            decided: client.prepare(&format!("{APPROVAL} AND approved IS NOT NULL")).await?,
            manifests: client
                .prepare("SELECT tool_id, manifest_hash FROM actpass.manifests WHERE tenant_id = $1")
                .await?,
            unproven_passports: client
                .prepare(concat!(
                    "SELECT jti FROM actpass.passports
                     LEFT JOIN LATERAL (SELECT ",
                    passport_standing!(),
                    ") AS held (revoked_ever, used_ever) ON true
                     WHERE tenant_id = $1 AND expires_at > coalesce((
                         SELECT archived_at FROM actpass.chains WHERE tenant_id = $1 AND chain_id = 'decisions'
                     ), 0) AND (revoked <> revoked_ever OR used <> used_ever OR NOT EXISTS (
                         SELECT FROM actpass.events WHERE chain = ",
                    decisions_of!("passports"),
                    " AND ",
                    member!("passport_jti"),
                    " = passports.jti AND ",
                    of_passport!(),
                    r#" AND strpos(event, '"event_type":"passport.issued"') > 0))"#
                ))
                .await?,
            tool_event: client
                .prepare(concat!(
                    "SELECT event FROM actpass.events
                     WHERE chain = (SELECT id FROM actpass.chains WHERE tenant_id = $1 AND chain_id = $2) AND ",
                    member!("tool_id"),
                    " = $3 AND ",
                    of_tool!(),
                    " AND seq <= (SELECT length FROM actpass.chains WHERE tenant_id = $1 AND chain_id = $2)
                     ORDER BY seq DESC LIMIT 1"
                ))
                .await?,
            client,
        })
    }
}

/// Same as [`super::super::read_chain`], for a database.
pub(in super::super) async fn read_chain<E: From<OpenError>>(
    database: &Database,
    tenant_id: &str,
    chain_id: &str,
    until: u64,
    mut each: impl FnMut(&StoredEvent) -> Result<(), E>,
) -> Result<Option<Head>, E> {
    let server = Server { database: database.clone(), backoff: Mutex::default() };
    let failed = |error: tokio_postgres::Error| OpenError::from(server.error(&error));
    let reader = ReadConnection::open(&server).await.map_err(OpenError::from)?;
    let (tenant_id, chain_id) = (Text(tenant_id), Text(chain_id));
    let found = reader.client.query_opt(&reader.head, &[&tenant_id, &chain_id]).await.map_err(failed)?;
    let Some(head) = found.as_ref().map(head_of).transpose().map_err(failed)? else {
        return Ok(None);
    };
    let archived =
        reader.client.query_opt(&reader.archived, &[&tenant_id, &chain_id]).await.map_err(failed)?;
    let archived = archived.as_ref().map(archived_of).transpose().map_err(failed)?.unwrap_or_default();
    let (mut after, until) = (to_sql(archived.head.length), to_sql(head.length.min(until)));
    loop {
        let columns: [&(dyn ToSql + Sync); 6] =
            [&tenant_id, &chain_id, &after, &until, &PAGE_EVENTS, &PAGE_BYTES];
        let page = reader.client.query(&reader.events, &columns).await.map_err(failed)?;
        if page.is_empty() {
            return Ok(Some(head));
        }
        for row in &page {
            let event = event_of(row).map_err(failed)?;
            after = to_sql(event.seq);
            each(&event)?;
        }
    }
}

/// Same as [`super::super::read_keys`], for a database.
pub(in super::super) async fn read_keys(database: &Database) -> Result<Vec<SealedKey>, OpenError> {
    let server = Server { database: database.clone(), backoff: Mutex::default() };
    let reader = ReadConnection::open(&server).await?;
    let rows = reader.client.query(&reader.signing_keys, &[]).await.map_err(|error| server.error(&error))?;
    let keys = rows.iter().map(signing_key_of).collect::<Result<_, _>>();
    keys.map_err(|error| server.error(&error).into())
}

pub(super) fn signing_key_of(row: &Row) -> Result<SealedKey, tokio_postgres::Error> {
    Ok(SealedKey {
        kid: row.try_get(0)?,
        sealed: row.try_get(1)?,
        active: row.try_get(2)?,
        needed_until: row.try_get(3)?,
    })
}

pub(super) fn first<T>(
    rows: &[Row],
    read: impl Fn(&Row) -> Result<T, tokio_postgres::Error>,
) -> Result<Option<T>, StoreError> {
    rows.first().map(read).transpose().map_err(|error| unreadable(&error))
}

pub(super) fn all<T>(
    rows: &[Row],
    read: impl Fn(&Row) -> Result<T, tokio_postgres::Error>,
) -> Result<Vec<T>, StoreError> {
    rows.iter().map(read).collect::<Result<_, _>>().map_err(|error| unreadable(&error))
}

pub(super) fn unreadable(error: &tokio_postgres::Error) -> StoreError {
    tracing::error!(error = describe(error), "the ledger contains invalid rows");
    StoreError::Unavailable
}

pub(super) fn head_of(row: &Row) -> Result<Head, tokio_postgres::Error> {
    Ok(Head { length: from_sql(row.try_get(0)?), hash: row.try_get(1)? })
}

pub(super) fn event_of(row: &Row) -> Result<StoredEvent, tokio_postgres::Error> {
    Ok(StoredEvent { seq: from_sql(row.try_get(0)?), text: row.try_get(1)? })
}

pub(super) fn approval_of(row: &Row) -> Result<Approval, tokio_postgres::Error> {
    let text = |column: usize| Ok(row.try_get::<_, StoredText>(column)?.0);
    let optional = |column: usize| Ok(row.try_get::<_, Option<StoredText>>(column)?.map(|kept| kept.0));
    let decided = match row.try_get(11)? {
        None => None,
        Some(approved) => {
            Some(ApprovalDecision { approved, by: text(12)?, at: row.try_get(13)?, note: optional(14)? })
        }
    };
    let approval = Approval {
        id: text(0)?,
        action_hash: row.try_get(1)?,
        tool: text(2)?,
        resource: optional(3)?,
        args: text(4)?,
        goal: text(5)?,
        agent_id: optional(6)?,
        user_id: optional(7)?,
        reason_code: text(8)?,
        created_at: row.try_get(9)?,
        deadline: row.try_get(10)?,
        decided,
        note: optional(14)?,
        opening: None,
        votes: Vec::new(),
        spent: row.try_get(15)?,
        asker: text(16)?,
        proven: false,
    };
    Ok(verify_against_ledger(approval, row.try_get(20)?, row.try_get(17)?, row.try_get(18)?))
}

pub(super) fn credential_of(row: &Row) -> Result<SealedCredential, tokio_postgres::Error> {
    Ok(SealedCredential {
        id: row.try_get::<_, StoredText>(0)?.0,
        tool_id: row.try_get::<_, StoredText>(1)?.0,
        sealed: row.try_get(2)?,
        set_at: row.try_get(3)?,
        expires_at: row.try_get(4)?,
    })
}
