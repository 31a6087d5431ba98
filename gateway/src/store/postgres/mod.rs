//! The store in a PostgreSQL database, which several gateways may share.
//!
//! Each gateway has one writer task. It takes all queued appends, runs them as one transaction, and
//! responds after the commit. A transaction locks its tenants, so that gateways take turns per
//! tenant; reads the affected rows; computes all outcomes in memory with the code shared by all
//! stores; and writes the results. It needs three round trips, regardless of the number of appends.

mod archive;
mod budgets;
mod database;
mod halts;
mod kept;
mod keys;
mod lookup;
mod outbox;
mod reader;
mod rows;
mod schema;
mod sessions;
mod text;
mod writer;

use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actpass_protocol::{Json, canonical_json};
use async_trait::async_trait;
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

pub(super) use self::archive::{last_delivered, prune, read_archived};
pub use self::database::{Database, TlsTrust};
use self::reader::{
    PAGE_BYTES, PAGE_EVENTS, Readers, all, approval_of, credential_of, event_of, first, head_of,
    signing_key_of, unreadable,
};
pub(super) use self::reader::{read_chain, read_keys};
use self::text::{StoredText, Text};
use self::writer::Writer;
use super::batch::find_live;
use super::error::{DatabaseError, StoreError};
use super::kept::{Kept, KeptChange, KeptKind, KeptPage};
use super::lookup::{AccountUse, Author, Listing, PendingCounts, Subject};
use super::outbox::{DeadLetter, DueItem, OutboxChange, WebhookState};
use super::proof::{describe_unproven, describe_unproven_archives};
use super::queue::{Job, Jobs};
use super::sessions::{IdHash, SessionChange, StoredSession};
use super::timings::{AGE_ENDS, MAX_WAITING};
use super::{
    DecisionOutcome, DecisionRecord, HaltChange, HaltListing, HaltOutcome, PassportState, Record, Rotation,
    SealedCredential, SealedKey, Store, StoredEvent, TenantTotals, Transition, TransitionOutcome,
    WebhookTotals, WriteTimings,
};
use crate::approvals::{Approval, Status};
use crate::budget::Account;
use crate::clock::{Clock, parse_millis};
use crate::halts::{Acknowledged, ActiveHalts, Halt, KnownHalts};
use crate::ledger::{Archived, DECISIONS, Head, TOOLS};

/// Deadline of a batch including retries; shorter than the request timeout.
const BATCH_DEADLINE: Duration = Duration::from_secs(12);

/// Initial and maximum reconnect delay.
const RECONNECT_DELAYS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Session settings of a connection. A statement that waits for another gateway's lock times out
/// before its batch does; a silent connection loses its locks.
const SESSION_SETTINGS: &str = "
SET client_min_messages = warning;
SET statement_timeout = '10s';
SET lock_timeout = '5s';
SET idle_in_transaction_session_timeout = '5s';
SELECT set_config('synchronous_commit', 'on', false)
WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply');
";

/// Forces plans that use indexes. A plan made for a small table must not scan it after it has
/// grown. The cost of the disabled kinds of plans exceeds the threshold of JIT compilation, which
/// takes longer than the statements.
const PLANNER_SETTINGS: &str = "
SET plan_cache_mode = force_generic_plan;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_seqscan = off;
SET jit = off;
";

/// The store in a PostgreSQL database; see [`PostgresStore::open`].
#[derive(Debug)]
pub struct PostgresStore {
    jobs: Jobs,
    halts: KnownHalts,
    readers: Readers,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl PostgresStore {
    /// Connects to the database and creates or migrates its tables in the schema `actpass`.
    ///
    /// # Errors
    ///
    /// Returns an error if the database is unreachable or unusable, or a newer version created its
    /// tables.
    pub async fn open(database: Database) -> Result<Self, DatabaseError> {
        Self::open_with(database, Clock::default()).await
    }

    /// Same as [`PostgresStore::open`]. Events get the time of `clock` or of the server, whichever
    /// is later.
    ///
    /// # Errors
    ///
    /// Same as [`PostgresStore::open`].
    pub async fn open_with(database: Database, clock: Clock) -> Result<Self, DatabaseError> {
        let mut client = database.connect().await?;
        warn_of_risks(&client).await;
        schema::ensure_schema(&mut client, &database).await?;
        Self::start(database, clock).await
    }

    /// Connects to an initialized database, for use by commands.
    ///
    /// # Errors
    ///
    /// Same as [`PostgresStore::open`]; also if the tables have another schema version.
    pub async fn open_existing(database: Database) -> Result<Self, DatabaseError> {
        Self::start(database, Clock::default()).await
    }

    async fn start(database: Database, clock: Clock) -> Result<Self, DatabaseError> {
        let server = Arc::new(Server { database, backoff: Mutex::default() });
        let halts = KnownHalts::default();
        let (jobs, queue) = Jobs::new();
        let timings = jobs.timings().clone();
        let writer = Writer::open(Arc::clone(&server), clock, halts.clone(), timings).await?;
        let readers = Readers::new(server);
        Ok(Self { jobs, halts, readers, writer: Mutex::new(Some(tokio::spawn(writer.run(queue)))) })
    }

    /// Returns the due items of a webhook; with a tenant, its items that were not processed.
    async fn due_items(
        &self,
        webhook: &Arc<str>,
        tenant_id: Option<&str>,
        now: i64,
        limit: u32,
    ) -> Result<Vec<DueItem>, StoreError> {
        let (limit, seconds) = (i64::from(limit), now.div_euclid(1000));
        let (name, tenant_id) = (Text(webhook), tenant_id.map(Text));
        let events: [&(dyn ToSql + Sync); 4] = [&name, &now, &limit, &tenant_id];
        let events = self.readers.read(|reader| &reader.due_events, &events).await?;
        let expired: [&(dyn ToSql + Sync); 5] = [&name, &now, &limit, &seconds, &tenant_id];
        let expired = self.readers.read(|reader| &reader.due_expired, &expired).await?;
        let rows: Vec<_> = events.into_iter().chain(expired).collect();
        all(&rows, |row| outbox::due_item_of(webhook, row))
    }
}

/// Warns if the server may lose committed data.
async fn warn_of_risks(client: &Client) {
    let fsync = client.query_one("SELECT current_setting('fsync')", &[]).await;
    if fsync.and_then(|row| row.try_get::<_, String>(0)).is_ok_and(|fsync| fsync != "on") {
        tracing::warn!("the database server has fsync off: committed records may be lost in a crash");
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn record(&self, record: Record) -> Result<Head, StoreError> {
        self.jobs.record(record).await
    }

    async fn change(&self, transition: Transition) -> Result<TransitionOutcome, StoreError> {
        self.jobs.change(transition).await
    }

    async fn decide(&self, decision: DecisionRecord) -> Result<DecisionOutcome, StoreError> {
        self.jobs.decide(decision).await
    }

    async fn change_halts(&self, change: HaltChange) -> Result<HaltOutcome, StoreError> {
        self.jobs.change_halts(change).await
    }

    fn known_halts(&self) -> &KnownHalts {
        &self.halts
    }

    async fn halts(&self) -> Result<Arc<ActiveHalts>, StoreError> {
        let rows = self.readers.read(|reader| &reader.active_halts, &[]).await?;
        let active = halts::active_of(&rows).map_err(|error| unreadable(&error))?;
        let Some(active) = active else {
            tracing::error!("the table actpass.halt_state has no row");
            return Err(StoreError::Unavailable);
        };
        Ok(self.halts.publish(&Arc::new(active)))
    }

    async fn halt(&self, id: &str) -> Result<Option<Halt>, StoreError> {
        let rows = self.readers.read(|reader| &reader.halt, &[&Text(id)]).await?;
        first(&rows, |row| halts::halt_of(row, 0))
    }

    async fn list_halts(&self, listing: HaltListing) -> Result<Vec<Halt>, StoreError> {
        let HaltListing { tenant_id, with_lifted, after, limit } = listing;
        let (after, limit) = (to_sql(after), i64::from(limit));
        let rows = self
            .readers
            .read(|reader| &reader.halts, &[&tenant_id.as_deref().map(Text), &with_lifted, &after, &limit])
            .await?;
        all(&rows, |row| halts::halt_of(row, 0))
    }

    async fn lifted_halts(&self, tenant_id: &str, before: u64, limit: u32) -> Result<Vec<Halt>, StoreError> {
        let columns: [&(dyn ToSql + Sync); 3] = [&Text(tenant_id), &to_sql(before), &i64::from(limit)];
        let rows = self.readers.read(|reader| &reader.lifted_halts, &columns).await?;
        all(&rows, |row| halts::halt_of(row, 0))
    }

    async fn acknowledged_halts(
        &self,
        tenant_id: &str,
        before: i64,
        limit: u32,
    ) -> Result<Vec<Acknowledged>, StoreError> {
        let limit = i64::from(limit);
        let rows = self
            .readers
            .read(|reader| &reader.acknowledged_halts, &[&Text(tenant_id), &before, &limit])
            .await?;
        let tenant_id = tenant_id.into();
        all(&rows, |row| halts::acknowledged_of(row, &tenant_id))
    }

    async fn head(&self, tenant_id: &str, chain_id: &str) -> Result<Option<Head>, StoreError> {
        let rows = self.readers.read(|reader| &reader.head, &[&Text(tenant_id), &Text(chain_id)]).await?;
        first(&rows, head_of)
    }

    async fn archived(&self, tenant_id: &str, chain_id: &str) -> Result<Option<Archived>, StoreError> {
        let rows = self.readers.read(|reader| &reader.archived, &[&Text(tenant_id), &Text(chain_id)]).await?;
        first(&rows, archive::archived_of)
    }

    async fn events(
        &self,
        tenant_id: &str,
        chain_id: &str,
        after: u64,
        until: u64,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let range = (to_sql(after), to_sql(until));
        let rows = self
            .readers
            .read(
                |reader| &reader.events,
                &[&Text(tenant_id), &Text(chain_id), &range.0, &range.1, &PAGE_EVENTS, &PAGE_BYTES],
            )
            .await?;
        all(&rows, event_of)
    }

    async fn approved_manifest(&self, tenant_id: &str, tool_id: &str) -> Result<Option<String>, StoreError> {
        let rows = self.readers.read(|reader| &reader.manifest, &[&Text(tenant_id), &Text(tool_id)]).await?;
        first(&rows, |row| Ok(row.try_get::<_, StoredText>(0)?.0))
    }

    async fn live_approval(
        &self,
        tenant_id: &str,
        action_hash: &str,
        asker: &str,
        now: i64,
    ) -> Result<Option<Approval>, StoreError> {
        let rows = self
            .readers
            .read(|reader| &reader.live_approval, &[&Text(tenant_id), &action_hash, &Text(asker)])
            .await?;
        Ok(find_live(all(&rows, approval_of)?, now))
    }

    async fn last_tool_event(
        &self,
        tenant_id: &str,
        chain_id: &str,
        tool_id: &str,
    ) -> Result<Option<String>, StoreError> {
        // As in the event's JSON, between the quotes.
        let tool_id = canonical_json(&Json::from(tool_id)).map_err(|_| StoreError::NotCanonical)?;
        let tool_id = String::from_utf8_lossy(&tool_id);
        let tool_id = tool_id.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or_default();
        let rows = self
            .readers
            .read(|reader| &reader.tool_event, &[&Text(tenant_id), &Text(chain_id), &tool_id])
            .await?;
        first(&rows, |row| row.try_get(0))
    }

    async fn unproven(&self, tenant_id: &str) -> Result<Vec<String>, StoreError> {
        let tenant = Text(tenant_id);
        let decided = self.readers.read(|reader| &reader.decided, &[&tenant]).await?;
        let passports = self.readers.read(|reader| &reader.unproven_passports, &[&tenant]).await?;
        let passports = all(&passports, |row| Ok(row.try_get::<_, StoredText>(0)?.0))?;
        let rows = self.readers.read(|reader| &reader.manifests, &[&tenant]).await?;
        let text = |row: &tokio_postgres::Row, column: usize| Ok(row.try_get::<_, StoredText>(column)?.0);
        let mut manifests = Vec::new();
        for (tool_id, hash) in all(&rows, |row| Ok((text(row, 0)?, text(row, 1)?)))? {
            let event = self.last_tool_event(tenant_id, TOOLS, &tool_id).await?;
            manifests.push((tool_id, hash, event));
        }
        let archives = self.readers.read(|reader| &reader.archives, &[&tenant]).await?;
        let archives = all(&archives, |row| {
            let head = Head { length: from_sql(row.try_get(1)?), hash: row.try_get(2)? };
            Ok((text(row, 0)?, head))
        })?;
        let events = self.readers.read(|reader| &reader.archive_events, &[&tenant]).await?;
        let events = all(&events, |row| row.try_get::<_, String>(0))?;
        let mut unproven = describe_unproven(&all(&decided, approval_of)?, passports, manifests);
        unproven.extend(describe_unproven_archives(&archives, &events));
        Ok(unproven)
    }

    async fn last_recorded(&self) -> Result<Option<i64>, StoreError> {
        let rows = self.readers.read(|reader| &reader.last_recorded, &[]).await?;
        let text: Option<Option<String>> = first(&rows, |row| row.try_get(0))?;
        Ok(text.flatten().as_deref().and_then(parse_millis))
    }

    async fn passport(&self, tenant_id: &str, jti: &str) -> Result<Option<PassportState>, StoreError> {
        let rows = self.readers.read(|reader| &reader.passport, &[&Text(tenant_id), &Text(jti)]).await?;
        first(&rows, |row| Ok(PassportState { revoked: row.try_get(0)?, used: row.try_get(1)? }))
    }

    async fn approval(&self, tenant_id: &str, id: &str) -> Result<Option<Approval>, StoreError> {
        let rows = self.readers.read(|reader| &reader.approval, &[&Text(tenant_id), &Text(id)]).await?;
        first(&rows, approval_of)
    }

    async fn approvals(&self, tenant_id: &str, listing: Listing) -> Result<Vec<Approval>, StoreError> {
        let Listing { now, status, agent, tool, is_newest_first, after, limit } = listing;
        let texts = [agent, tool, after];
        let [agent, tool, after] = texts.each_ref().map(|text| text.as_deref().map(Text));
        let limit = i64::from(limit);
        // A function pointer instead of a closure, because it captures nothing.
        let statement: fn(&reader::ReadConnection) -> &Statement = match (status, is_newest_first) {
            (None, false) => |reader| &reader.list_approvals[0],
            (Some(Status::Approved), false) => |reader| &reader.list_approvals[1],
            (Some(Status::Expired), false) => |reader| &reader.list_approvals[2],
            (Some(Status::Pending), false) => |reader| &reader.list_approvals[3],
            (Some(Status::Rejected), false) => |reader| &reader.list_approvals[4],
            (None, true) => |reader| &reader.list_newest[0],
            (Some(Status::Approved), true) => |reader| &reader.list_newest[1],
            (Some(Status::Expired), true) => |reader| &reader.list_newest[2],
            (Some(Status::Pending), true) => |reader| &reader.list_newest[3],
            (Some(Status::Rejected), true) => |reader| &reader.list_newest[4],
        };
        let rows =
            self.readers.read(statement, &[&Text(tenant_id), &now, &agent, &tool, &after, &limit]).await?;
        all(&rows, approval_of)
    }

    async fn approval_events(
        &self,
        tenant_id: &str,
        id: &str,
        limit: u32,
    ) -> Result<Vec<String>, StoreError> {
        let limit = i64::from(limit);
        let rows = self
            .readers
            .read(|reader| &reader.approval_events, &[&Text(tenant_id), &Text(id), &limit])
            .await?;
        all(&rows, |row| row.try_get(0))
    }

    async fn count_pending(
        &self,
        tenant_id: &str,
        asker: Author<'_>,
        now: i64,
    ) -> Result<PendingCounts, StoreError> {
        let ([mark, _], agent) = (asker.event_markers(), asker.agent.map(Text));
        let columns: &[&(dyn ToSql + Sync)] = &[&Text(tenant_id), &DECISIONS, &now, &mark, &agent];
        let rows = self.readers.read(|reader| &reader.count_pending, columns).await?;
        let counted = |row: &tokio_postgres::Row| {
            Ok(PendingCounts { agent: from_sql(row.try_get(0)?), key: from_sql(row.try_get(1)?) })
        };
        Ok(first(&rows, counted)?.unwrap_or_default())
    }

    async fn has_event(
        &self,
        tenant_id: &str,
        subject: Subject,
        id: &str,
        author: Author<'_>,
    ) -> Result<bool, StoreError> {
        let [key, agent] = author.event_markers();
        let statement: fn(&reader::ReadConnection) -> &Statement = match subject {
            Subject::Approval => |reader| &reader.has_event[0],
            Subject::Decision => |reader| &reader.has_event[1],
            Subject::Passport => |reader| &reader.has_event[2],
        };
        let rows = self.readers.read(statement, &[&Text(tenant_id), &DECISIONS, &id, &key, &agent]).await?;
        Ok(first(&rows, event_of)?.is_some_and(|event| subject.matches_event(&event, id, &author)))
    }

    async fn credential(
        &self,
        tenant_id: &str,
        tool_id: &str,
    ) -> Result<Option<SealedCredential>, StoreError> {
        let rows =
            self.readers.read(|reader| &reader.credential, &[&Text(tenant_id), &Text(tool_id)]).await?;
        first(&rows, credential_of)
    }

    async fn budget_accounts(
        &self,
        tenant_id: &str,
        now: i64,
        after: i64,
        limit: u32,
    ) -> Result<Vec<AccountUse>, StoreError> {
        let limit = i64::from(limit);
        let rows = self
            .readers
            .read(|reader| &reader.budget_accounts, &[&Text(tenant_id), &now, &after, &limit])
            .await?;
        uses_of(&rows)
    }

    async fn budget_uses(
        &self,
        tenant_id: &str,
        now: i64,
        accounts: &[Account],
    ) -> Result<Vec<AccountUse>, StoreError> {
        let budgets: Vec<_> = accounts.iter().map(|account| Text(&account.budget)).collect();
        let keys: Vec<_> = accounts.iter().map(|account| Text(&account.key)).collect();
        let rows = self
            .readers
            .read(|reader| &reader.budget_uses, &[&Text(tenant_id), &now, &budgets, &keys])
            .await?;
        uses_of(&rows)
    }

    async fn change_session(&self, change: SessionChange) -> Result<bool, StoreError> {
        self.jobs.change_session(change).await
    }

    async fn session(&self, id: IdHash) -> Result<Option<StoredSession>, StoreError> {
        let rows = self.readers.read(|reader| &reader.session, &[&id.as_slice()]).await?;
        first(&rows, |row| sessions::session_of(&id, row))
    }

    async fn sign_in(&self, state: IdHash) -> Result<Option<(String, i64)>, StoreError> {
        let rows = self.readers.read(|reader| &reader.sign_in, &[&state.as_slice()]).await?;
        first(&rows, |row| Ok((row.try_get(0)?, row.try_get(1)?)))
    }

    async fn change_kept(&self, change: KeptChange) -> Result<u64, StoreError> {
        self.jobs.change_kept(change).await
    }

    async fn kept(&self, tenant_id: &str, page: KeptPage) -> Result<Vec<Kept>, StoreError> {
        let KeptPage { kind, from, newest, now, limit } = page;
        let statement: fn(&reader::ReadConnection) -> &Statement = match newest {
            true => |reader| &reader.kept_newest,
            false => |reader| &reader.kept,
        };
        let limit = i64::from(limit);
        let rows =
            self.readers.read(statement, &[&Text(tenant_id), &kind.as_str(), &from, &now, &limit]).await?;
        kept::all_of(&rows)
    }

    async fn kept_named(
        &self,
        tenant_id: &str,
        kind: KeptKind,
        name: &str,
    ) -> Result<Option<Kept>, StoreError> {
        let parameters: [&(dyn ToSql + Sync); 3] = [&Text(tenant_id), &kind.as_str(), &Text(name)];
        let rows = self.readers.read(|reader| &reader.kept_named, &parameters).await?;
        Ok(kept::all_of(&rows)?.pop())
    }

    async fn change_outbox(&self, change: OutboxChange) -> Result<bool, StoreError> {
        self.jobs.change_outbox(change).await
    }

    async fn due_announcements(
        &self,
        webhook: &Arc<str>,
        now: i64,
        limit: u32,
    ) -> Result<Vec<DueItem>, StoreError> {
        self.due_items(webhook, None, now, limit).await
    }

    async fn waiting_announcements(
        &self,
        webhook: &Arc<str>,
        tenant_id: &str,
        now: i64,
        limit: u32,
    ) -> Result<Vec<DueItem>, StoreError> {
        self.due_items(webhook, Some(tenant_id), now, limit).await
    }

    async fn queued_messages(&self, webhook: &str, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
        let limit = i64::from(limit);
        let rows = self.readers.read(|reader| &reader.dead_letters[0], &[&Text(webhook), &limit]).await?;
        all(&rows, outbox::dead_message_of)
    }

    async fn dead_letters(
        &self,
        tenant_id: &str,
        after: i64,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let limit = i64::from(limit);
        let rows =
            self.readers.read(|reader| &reader.dead_letters[1], &[&Text(tenant_id), &after, &limit]).await?;
        all(&rows, outbox::dead_message_of)
    }

    async fn webhook_states(&self, tenant_id: &str) -> Result<Vec<WebhookState>, StoreError> {
        let rows = self.readers.read(|reader| &reader.webhook_states, &[&Text(tenant_id)]).await?;
        all(&rows, outbox::state_of)
    }

    async fn credentials(&self, tenant_id: &str) -> Result<Vec<SealedCredential>, StoreError> {
        let rows = self.readers.read(|reader| &reader.credentials, &[&Text(tenant_id)]).await?;
        all(&rows, credential_of)
    }

    async fn signing_keys(&self) -> Result<Vec<SealedKey>, StoreError> {
        let rows = self.readers.read(|reader| &reader.signing_keys, &[]).await?;
        all(&rows, signing_key_of)
    }

    async fn add_signing_key(&self, key: SealedKey, rotation: Rotation) -> Result<(), StoreError> {
        self.jobs.submit(|response| Job::AddKey(Box::new(key), rotation, response)).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.readers.read(|reader| &reader.nothing, &[]).await?;
        self.jobs.submit(Job::Check).await
    }

    async fn is_schema_current(&self) -> Result<bool, StoreError> {
        let rows = self.readers.read(|reader| &reader.version, &[]).await?;
        Ok(first(&rows, |row| row.try_get::<_, i32>(0))? == Some(schema::SCHEMA_VERSION))
    }

    async fn totals(&self, tenant_id: &str, now: i64) -> Result<TenantTotals, StoreError> {
        let tenant = Text(tenant_id);
        let rows = self.readers.read(|reader| &reader.count_events, &[&tenant]).await?;
        let counted = first(&rows, |row| Ok((from_sql(row.try_get(0)?), from_sql(row.try_get(1)?))))?;
        let (events, chains) = counted.unwrap_or_default();
        let [one, two, three, four] = AGE_ENDS;
        let columns: [&(dyn ToSql + Sync); 6] = [&tenant, &now, &one, &two, &three, &four];
        let rows = self.readers.read(|reader| &reader.count_ages, &columns).await?;
        let counted = first(&rows, |row| {
            let number = |column: usize| row.try_get(column).map(from_sql);
            let pending = [number(0)?, number(1)?, number(2)?, number(3)?, number(4)?];
            Ok((pending, row.try_get::<_, Option<i64>>(5)?))
        })?;
        let (pending, oldest) = counted.unwrap_or_default();
        let rows = self.readers.read(|reader| &reader.count_outbox, &[&tenant, &MAX_WAITING]).await?;
        let webhooks = all(&rows, |row| {
            Ok(WebhookTotals {
                webhook: row.try_get::<_, StoredText>(0)?.0,
                waiting: from_sql(row.try_get(1)?),
                attempts: from_sql(row.try_get(2)?),
                dead: from_sql(row.try_get(3)?),
            })
        })?;
        Ok(TenantTotals { events, chains, pending, oldest_pending: oldest.map(|age| now - age), webhooks })
    }

    fn timings(&self) -> Option<&WriteTimings> {
        Some(self.jobs.timings())
    }

    fn write_queue(&self) -> [usize; 2] {
        self.jobs.depth()
    }

    async fn close(&self) {
        if !self.jobs.stop().await {
            return;
        }
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // A panic in the writer was already reported.
            let _ = writer.await;
        }
        self.readers.release();
    }
}

fn uses_of(rows: &[tokio_postgres::Row]) -> Result<Vec<AccountUse>, StoreError> {
    let found = all(rows, |row| {
        let account =
            Account { budget: row.try_get::<_, StoredText>(1)?.0, key: row.try_get::<_, StoredText>(2)?.0 };
        Ok(AccountUse::of(row.try_get(0)?, account, row.try_get(3)?, row.try_get(4)?))
    })?;
    found.into_iter().collect::<Option<_>>().ok_or(StoreError::Unavailable)
}

/// The server and its reconnect state.
#[derive(Debug)]
struct Server {
    database: Database,
    backoff: Mutex<Option<ReconnectBackoff>>,
}

#[derive(Debug)]
struct ReconnectBackoff {
    error: DatabaseError,
    pause: Duration,
    until: Instant,
}

impl Server {
    /// Returns a connection ready for this version's statements. After a failure, calls fail
    /// immediately during the backoff, so that requests fail fast.
    async fn connect(&self) -> Result<Client, DatabaseError> {
        if let Some(backoff) = &*self.backoff()
            && Instant::now() < backoff.until
        {
            return Err(backoff.error.clone());
        }
        let connected = self.prepare().await;
        let mut backoff = self.backoff();
        *backoff = connected.as_ref().err().map(|error| {
            let pause =
                backoff.as_ref().map_or(RECONNECT_DELAYS.0, |last| RECONNECT_DELAYS.1.min(last.pause * 2));
            ReconnectBackoff { error: error.clone(), pause, until: Instant::now() + pause }
        });
        connected
    }

    async fn prepare(&self) -> Result<Client, DatabaseError> {
        let client = self.database.connect().await?;
        let encoding: Result<String, _> = async {
            client.batch_execute(SESSION_SETTINGS).await?;
            client.query_one("SELECT current_setting('server_encoding')", &[]).await?.try_get(0)
        }
        .await;
        match encoding.map_err(|error| self.error(&error))?.as_str() {
            "UTF8" => {}
            other => return Err(DatabaseError::Encoding(self.database.to_string(), other.to_owned())),
        }
        // A newer gateway may have migrated the tables since the last connection.
        schema::check(&client, &self.database).await?;
        Ok(client)
    }

    fn error(&self, error: &tokio_postgres::Error) -> DatabaseError {
        DatabaseError::Unreachable(self.database.to_string(), describe(error))
    }

    fn backoff(&self) -> MutexGuard<'_, Option<ReconnectBackoff>> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Describes an error for the log: the server's message without details, which may contain client
/// data.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => format!("{}: {} ({})", said.severity(), said.message(), said.code().code()),
        None => match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

/// PostgreSQL's integers are signed; chain lengths stay far below the limit.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
