//! Tests of the store contract, run on every store; the submodules test one store each.

#[cfg(unix)]
mod postgres;
mod sqlite;

use std::sync::Arc;

use actpass_protocol::Json;
use bytes::Bytes;
use futures_util::future::join_all;
use rusqlite::Connection;
use tempfile::TempDir;

use super::{
    AllowBasis, ApprovalOpening, Change, Claim, Claims, CredentialPin, Database, DecisionOutcome,
    DecisionRecord, Excess, Fallback, Idempotency, KeptChange, KeptKind, KeptPage, Listing, ManifestPin,
    Mutation, NewKept, PassportState, PostgresStore, Record, SealedCredential, SealedKey, SeenResponse,
    SingleUse, SqliteStore, Store, StoreError, TlsTrust, Transition, TransitionOutcome,
};
use crate::approvals::{Approval, ApprovalDecision, Ballot, Opening, Status};
use crate::budget::{Account, Charge, Outcomes, Window};
use crate::capture::SealedRequest;
use crate::clock::rfc3339;
use crate::ledger::{Draft, Head, Verifier};
use crate::object_writer::object;
use crate::quorum::{Requirement, Vote};

/// The data of a test.
enum Backend {
    Sqlite(TempDir),
    /// The database's URL.
    Postgres(String),
}

impl Backend {
    fn sqlite() -> Self {
        Self::Sqlite(TempDir::new().unwrap())
    }

    /// `None` if PostgreSQL is not available.
    #[cfg(unix)]
    fn postgres() -> Option<Self> {
        let server = actpass_test_postgres::server().unwrap()?;
        Some(Self::Postgres(server.database().unwrap()))
    }

    fn another(&self) -> Self {
        match self {
            Self::Sqlite(_) => Self::sqlite(),
            Self::Postgres(_) => Self::postgres().unwrap(),
        }
    }

    async fn open(&self) -> Arc<dyn Store> {
        match self {
            Self::Sqlite(folder) => Arc::new(SqliteStore::open(&folder.path().join("data.db")).unwrap()),
            Self::Postgres(url) => Arc::new(PostgresStore::open(database(url)).await.unwrap()),
        }
    }

    async fn outside(&self) -> RawConnection {
        match self {
            Self::Sqlite(folder) => {
                RawConnection::Sqlite(Connection::open(folder.path().join("data.db")).unwrap())
            }
            Self::Postgres(url) => RawConnection::Postgres(connect(url).await),
        }
    }
}

fn database(url: &str) -> Database {
    Database::parse(url, TlsTrust::default()).unwrap()
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("SET search_path = actpass").await.unwrap();
    client
}

/// Direct access to the same data by another program.
enum RawConnection {
    Sqlite(Connection),
    Postgres(tokio_postgres::Client),
}

impl RawConnection {
    async fn try_run(&self, sql: &str) -> Result<(), String> {
        match self {
            Self::Sqlite(connection) => connection.execute_batch(sql).map_err(|error| error.to_string()),
            Self::Postgres(client) => client.batch_execute(sql).await.map_err(|error| format!("{error:?}")),
        }
    }

    /// Runs the statement of the respective store.
    async fn run(&self, sqlite: &str, postgres: &str) {
        let sql = match self {
            Self::Sqlite(_) => sqlite,
            Self::Postgres(_) => postgres,
        };
        self.try_run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Blocks writes until released.
    async fn block_writes(&self) {
        self.run("BEGIN IMMEDIATE", "BEGIN; LOCK TABLE chains IN EXCLUSIVE MODE").await;
    }

    async fn release(&self) {
        self.run("COMMIT", "COMMIT").await;
    }
}

/// Runs each test on each store.
macro_rules! on_every_store {
    ($($test:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test(&super::Backend::sqlite()).await;
            })*
        }
        #[cfg(unix)]
        mod on_postgres {
            $(#[tokio::test]
            async fn $test() {
                if let Some(backend) = super::Backend::postgres() {
                    super::$test(&backend).await;
                }
            })*
        }
    };
}

on_every_store! {
    kept_records_are_unique_paged_and_expire,
    captured_request_is_recorded_with_its_decision,
    budget_that_is_no_longer_exceeded_is_stale,
    single_use_and_record_are_atomic,
    response_without_matching_event_is_not_replayed,
    row_without_event_grants_nothing,
    response_is_replayed_while_its_basis_exists,
    cleared_spent_flag_is_restored_from_ledger,
    one_open_approval_per_action,
    append_only_tables_reject_changes,
    audit_finds_rows_without_events,
    credential_changes_with_its_event,
    failed_commit_records_and_returns_nothing,
    manifest_and_event_are_atomic,
    event_pages_are_bounded,
    replay_returns_first_response_without_event,
    approval_is_decided_once_before_deadline,
    detects_edited_data,
    concurrent_events_form_one_chain,
    non_canonical_metadata_fails_only_its_append,
    no_response_before_commit,
    concurrent_replays_record_one_event,
    tenants_see_own_chains_only,
    queued_appends_share_one_commit,
    close_drains_queue,
    events_survive_restart,
}

fn event(tenant: &str, chain: &str, number: usize) -> Record {
    let event = Draft {
        event_id: format!("ev_{number}"),
        tenant_id: tenant.into(),
        chain_id: chain.to_owned(),
        event_type: "note".to_owned(),
        key_name: "key".into(),
        ..Draft::default()
    };
    Record::of(event)
}

fn deciding(tenant: &str, chain: &str, number: usize) -> DecisionRecord {
    DecisionRecord::of(event(tenant, chain, number).event)
}

fn issue(jti: &str, expires_at: i64) -> Option<Mutation> {
    Some(Mutation::IssuePassport { jti: jti.to_owned(), kid: "k".to_owned(), expires_at, halt_epoch: 0 })
}

fn revoke(chain: &str, jti: &str) -> Transition {
    let Record { mut event, .. } = event("t", chain, 5);
    event.event_type = "passport.revoked".to_owned();
    event.passport_jti = Some(jti.to_owned());
    Transition { event, change: Change::RevokePassport { jti: jti.to_owned() } }
}

/// After any time that a clock shows during these tests, in seconds since 1970.
const FAR_FUTURE: i64 = 4_000_000_000;

/// A person's decision on an approval, with its event.
fn decision(tenant: &str, approval: &Approval, decided: &ApprovalDecision) -> Transition {
    let Record { mut event, .. } = event(tenant, "decisions", 2);
    let kind = if decided.approved { "approval.approved" } else { "approval.rejected" };
    event.event_type = kind.to_owned();
    event.tool_id = Some(approval.tool.clone());
    event.approval_request_id = Some(approval.id.clone());
    event.metadata = Some(object([
        ("action_hash", Some(Json::from(&*approval.action_hash))),
        ("decided_by", Some(Json::from(&*decided.by))),
        ("usable_until", Some(Json::String(rfc3339(approval.usable_until(decided))))),
    ]));
    let mut voted = Box::new(event.clone());
    voted.event_type = "approval.voted".to_owned();
    let ballot = Box::new(ballot(decided));
    let change = Change::DecideApproval { id: approval.id.clone(), ballot, voted, halt_epoch: Some(0) };
    Transition { event, change }
}

/// The vote that makes a decision.
fn ballot(decided: &ApprovalDecision) -> Ballot {
    Ballot {
        vote: Vote {
            approved: decided.approved,
            by: decided.by.clone(),
            person: decided.by.clone(),
            delegated: None,
            groups: Vec::new(),
            escalated: false,
            at: decided.at,
            signature: None,
        },
        asker: format!("key:{}", decided.by),
        rejects_all: false,
        allow_self: false,
        note: decided.note.clone(),
        shown_hash: None,
    }
}

/// A decision that opens an approval.
fn opening_of(tenant: &str, approval: Approval, exclusive: bool) -> DecisionRecord {
    let mut append = deciding(tenant, "decisions", 1);
    append.event.event_type = "decision".to_owned();
    append.event.approval_request_id = Some(approval.id.clone());
    DecisionRecord { opens: Some(ApprovalOpening { approval: Box::new(approval), exclusive }), ..append }
}

fn idempotent(tenant: &str, key_name: &str, key: &str, body: u8, response: &'static str) -> DecisionRecord {
    let mut append = deciding(tenant, "decisions", usize::from(body));
    append.event.key_name = key_name.into();
    append.idempotency = Some(Idempotency {
        key: key.to_owned(),
        fingerprint: [body; 32],
        response: Bytes::from_static(response.as_bytes()),
        allows: false,
        retention_seconds: 86_400,
        earlier: None,
    });
    append
}

/// Returns whether the outcome is an earlier response with this body.
fn was_answered(outcome: &DecisionOutcome, response: &str) -> bool {
    matches!(outcome, DecisionOutcome::EarlierResponse(earlier) if earlier.response == response)
}

async fn texts(store: &dyn Store, tenant: &str, chain: &str) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        let page = store.events(tenant, chain, texts.len() as u64, u64::MAX).await.unwrap();
        if page.is_empty() {
            return texts;
        }
        texts.extend(page.into_iter().map(|event| event.text));
    }
}

async fn first_broken(store: &dyn Store, tenant: &str, chain: &str) -> Option<u64> {
    let head = store.head(tenant, chain).await.unwrap().unwrap();
    let mut verifier = Verifier::default();
    let _ = texts(store, tenant, chain).await.iter().all(|text| verifier.push(text));
    verifier.finish(head).first_broken
}

async fn concurrent_events_form_one_chain(backend: &Backend) {
    let store = backend.open().await;
    // More than one page and one batch.
    let recorded = join_all((0..1500).map(|number| store.record(event("t", "c", number)))).await;

    let mut lengths: Vec<_> = recorded.into_iter().map(|recorded| recorded.unwrap().length).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, (1..=1500).collect::<Vec<_>>());
    assert_eq!(texts(&*store, "t", "c").await.len(), 1500);
    assert_eq!(first_broken(&*store, "t", "c").await, None);
}

async fn queued_appends_share_one_commit(backend: &Backend) {
    let store = backend.open().await;
    let other = backend.outside().await;
    let appends = join_all((0..400).map(|number| store.record(event("t", "c", number))));
    tokio::pin!(appends);
    // Blocked, so that all but the first few appends queue up together.
    other.block_writes().await;
    let results = tokio::select! {
        biased;
        _ = &mut appends => panic!("responded while writes were blocked"),
        () = tokio::task::yield_now() => {
            other.release().await;
            appends.await
        }
    };
    assert!(results.iter().all(Result::is_ok));

    // Events of one transaction share a timestamp: 400 appends take at most two transactions.
    let times: std::collections::BTreeSet<_> = texts(&*store, "t", "c")
        .await
        .iter()
        .map(|text| Json::parse(text.as_bytes()).unwrap().member("created_at").unwrap().to_string())
        .collect();
    assert!(times.len() <= 2, "{times:?}");
}

async fn failed_commit_records_and_returns_nothing(backend: &Backend) {
    let store = backend.open().await;
    store.record(event("t", "c", 1)).await.unwrap();
    let other = backend.outside().await;
    other
        .run(
            "CREATE TRIGGER no_room BEFORE INSERT ON events WHEN NEW.event LIKE '%ev_poison%'
             BEGIN SELECT RAISE (ABORT, 'the disk is full'); END",
            "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'the disk is full'; END $$;
             CREATE TRIGGER no_room BEFORE INSERT ON events FOR EACH ROW
             WHEN (NEW.event LIKE '%ev_poison%') EXECUTE FUNCTION no_room()",
        )
        .await;

    let mut poison = event("t", "c", 2);
    poison.event.event_id = "ev_poison".to_owned();
    // Blocked, so that both are in one batch, or the invalid one is alone in the first.
    other.block_writes().await;
    let both = async { tokio::join!(store.record(poison), store.record(event("t", "c", 3))) };
    tokio::pin!(both);
    let (poisoned, second) = tokio::select! {
        biased;
        _ = &mut both => panic!("responded while writes were blocked"),
        () = tokio::task::yield_now() => {
            other.release().await;
            both.await
        }
    };
    assert_eq!(poisoned, Err(StoreError::Unavailable));
    let recorded = texts(&*store, "t", "c").await;
    match second {
        Ok(_) => assert!(recorded.len() == 2 && recorded[1].contains("ev_3")),
        Err(_) => assert_eq!(recorded.len(), 1),
    }

    // The chain continues after the last recorded event.
    store.record(event("t", "c", 4)).await.unwrap();
    store.check().await.unwrap();
    assert_eq!(first_broken(&*store, "t", "c").await, None);
}

async fn no_response_before_commit(backend: &Backend) {
    let store = backend.open().await;
    store.record(event("t", "c", 1)).await.unwrap();
    // Every statement of an append succeeds, but its commit fails.
    let other = backend.outside().await;
    other
        .run(
            "CREATE TABLE needed (id INTEGER PRIMARY KEY);
             CREATE TABLE needs (id INTEGER REFERENCES needed (id) DEFERRABLE INITIALLY DEFERRED);
             CREATE TRIGGER late AFTER INSERT ON events BEGIN INSERT INTO needs VALUES (1); END",
            "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'too late'; END $$;
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION late()",
        )
        .await;
    let responses = join_all((2..10).map(|number| store.record(event("t", "c", number)))).await;
    assert!(responses.iter().all(|response| *response == Err(StoreError::Unavailable)), "{responses:?}");
    assert_eq!(store.head("t", "c").await.unwrap().unwrap().length, 1);

    other.run("DROP TRIGGER late", "DROP TRIGGER late ON events").await;
    store.record(event("t", "c", 2)).await.unwrap();
    assert_eq!(store.head("t", "c").await.unwrap().unwrap().length, 2);
    assert_eq!(first_broken(&*store, "t", "c").await, None);
}

async fn replay_returns_first_response_without_event(backend: &Backend) {
    let store = backend.open().await;
    assert_eq!(store.decide(idempotent("t", "k", "i", 1, "first")).await, Ok(DecisionOutcome::Recorded));
    let again = store.decide(idempotent("t", "k", "i", 1, "second")).await;
    assert!(was_answered(&again.unwrap(), "first"));
    assert_eq!(store.decide(idempotent("t", "k", "i", 2, "third")).await, Ok(DecisionOutcome::Conflict));
    assert_eq!(store.head("t", "decisions").await.unwrap().unwrap().length, 1);

    for (tenant, key) in [("u", "k"), ("t", "l")] {
        let other = store.decide(idempotent(tenant, key, "i", 2, "other")).await;
        assert_eq!(other, Ok(DecisionOutcome::Recorded), "{tenant} {key}");
    }
}

async fn concurrent_replays_record_one_event(backend: &Backend) {
    let store = backend.open().await;
    let responses = join_all((0..50).map(|_| store.decide(idempotent("t", "k", "i", 1, "first")))).await;
    let recorded = responses.iter().filter(|response| **response == Ok(DecisionOutcome::Recorded)).count();
    let is_repeated =
        |response: &&Result<_, _>| matches!(response, Ok(found) if was_answered(found, "first"));
    let repeated = responses.iter().filter(is_repeated).count();
    assert_eq!((recorded, repeated), (1, 49));
    assert_eq!(store.head("t", "decisions").await.unwrap().unwrap().length, 1);
}

async fn kept_records_are_unique_paged_and_expire(backend: &Backend) {
    let store = backend.open().await;
    let record = |tenant: &str, name: &str, expires_at: Option<i64>| NewKept {
        tenant_id: tenant.into(),
        kind: KeptKind::Shadow,
        name: name.to_owned(),
        at: 5,
        expires_at,
        body: name.as_bytes().to_vec(),
    };
    let records = vec![record("t", "a", None), record("t", "b", Some(10)), record("u", "a", None)];
    assert_eq!(store.change_kept(KeptChange::Add(records)).await, Ok(3));
    let again = vec![record("t", "a", None), record("t", "c", Some(20))];
    assert_eq!(store.change_kept(KeptChange::Add(again)).await, Ok(1));

    let page = KeptPage { kind: KeptKind::Shadow, from: 0, newest: false, now: 9, limit: 2 };
    let names = async |page: KeptPage| -> Vec<String> {
        store.kept("t", page).await.unwrap().into_iter().map(|kept| kept.name).collect()
    };
    assert_eq!(names(page).await, ["a", "b"]);
    let last = store.kept("t", page).await.unwrap()[1].id;
    assert_eq!(names(KeptPage { from: last, ..page }).await, ["c"]);
    assert_eq!(names(KeptPage { from: i64::MAX, newest: true, ..page }).await, ["c", "b"]);
    assert_eq!(names(KeptPage { now: 10, ..page }).await, ["a", "c"]);
    assert!(names(KeptPage { kind: KeptKind::Policy, ..page }).await.is_empty());
    let named = async |tenant: &str, kind: KeptKind, name: &str| {
        store.kept_named(tenant, kind, name).await.unwrap().map(|kept| kept.body)
    };
    assert_eq!(named("t", KeptKind::Shadow, "b").await.as_deref(), Some(&b"b"[..]));
    for (tenant, kind, name) in
        [("t", KeptKind::Shadow, "x"), ("t", KeptKind::Policy, "a"), ("u", KeptKind::Shadow, "b")]
    {
        assert_eq!(named(tenant, kind, name).await, None, "{tenant} {name}");
    }

    assert_eq!(store.change_kept(KeptChange::Expire { now: 9, limit: 5 }).await, Ok(0));
    assert_eq!(store.change_kept(KeptChange::Expire { now: 20, limit: 1 }).await, Ok(1));
    assert_eq!(names(page).await, ["a", "c"]);
    let trim = KeptChange::Trim { tenant_id: "t".into(), kind: KeptKind::Shadow, keep: 1 };
    assert_eq!(store.change_kept(trim).await, Ok(1));
    assert_eq!(names(page).await, ["c"]);
    assert_eq!(store.kept("u", page).await.unwrap().len(), 1);
}

async fn captured_request_is_recorded_with_its_decision(backend: &Backend) {
    let store = backend.open().await;
    for number in 0..3 {
        let capture = Some(SealedRequest { sealed: vec![u8::try_from(number).unwrap()], keep_ms: 60_000 });
        let decision = DecisionRecord { capture, ..deciding("t", "decisions", number) };
        assert_eq!(store.decide(decision).await, Ok(DecisionOutcome::Recorded));
    }
    let page = KeptPage { kind: KeptKind::Capture, from: 0, newest: false, now: 0, limit: 10 };
    let kept = store.kept("t", page).await.unwrap();
    let kept: Vec<_> = kept.iter().map(|kept| (&*kept.name, &*kept.body)).collect();
    assert_eq!(kept, [("ev_0", &[0_u8][..]), ("ev_1", &[1]), ("ev_2", &[2])]);
}

async fn tenants_see_own_chains_only(backend: &Backend) {
    let store = backend.open().await;
    store.record(event("t", "c", 1)).await.unwrap();
    store.record(event("u", "c", 2)).await.unwrap();
    store.record(event("u", "c", 3)).await.unwrap();

    assert_eq!(texts(&*store, "t", "c").await.len(), 1);
    assert_eq!(texts(&*store, "u", "c").await.len(), 2);
    assert_eq!(store.head("t", "c").await.unwrap().unwrap().length, 1);
    assert_eq!(store.head("v", "c").await, Ok(None));
    assert_eq!(store.head("t", "d").await, Ok(None));
    assert!(texts(&*store, "t", "d").await.is_empty());
}

async fn event_pages_are_bounded(backend: &Backend) {
    let store = backend.open().await;
    for number in 0..3 {
        let mut large = event("t", "c", number);
        large.event.goal = Some("g".repeat(700_000));
        store.record(large).await.unwrap();
    }
    let page = store.events("t", "c", 0, u64::MAX).await.unwrap();
    assert_eq!(page.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2]);
    let page = store.events("t", "c", 0, 1).await.unwrap();
    assert_eq!(page.iter().map(|event| event.seq).collect::<Vec<_>>(), [1]);
}

async fn events_survive_restart(backend: &Backend) {
    let store = backend.open().await;
    store.record(event("t", "c", 1)).await.unwrap();
    store.decide(idempotent("t", "k", "i", 1, "first")).await.unwrap();
    store.close().await;
    if let Backend::Sqlite(folder) = backend {
        assert!(!folder.path().join("data.db-wal").exists(), "the write-ahead log was not removed");
    }
    assert_eq!(store.record(event("t", "c", 2)).await, Err(StoreError::Unavailable));
    assert_eq!(store.check().await, Err(StoreError::Unavailable));

    let store = backend.open().await;
    store.record(event("t", "c", 2)).await.unwrap();
    assert_eq!(store.head("t", "c").await.unwrap().unwrap().length, 2);
    assert_eq!(first_broken(&*store, "t", "c").await, None);
    let again = store.decide(idempotent("t", "k", "i", 1, "second")).await;
    assert!(was_answered(&again.unwrap(), "first"));
}

async fn close_drains_queue(backend: &Backend) {
    let store = backend.open().await;
    let appends = join_all((0..300).map(|number| store.record(event("t", "c", number))));
    // Polled in this order: everything is queued before the store closes.
    let (results, ()) = tokio::join!(biased; appends, store.close());
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(backend.open().await.head("t", "c").await.unwrap().unwrap().length, 300);
}

async fn detects_edited_data(backend: &Backend) {
    for (edit, expected) in [
        ("UPDATE events SET event = replace(event, 'note', 'nota') WHERE seq = 3", Some(3)),
        ("DELETE FROM events WHERE seq = 2", Some(2)),
        ("DELETE FROM events WHERE seq = 5", Some(5)),
        (
            "UPDATE events SET seq = 9 WHERE seq = 2; UPDATE events SET seq = 2 WHERE seq = 4;
          UPDATE events SET seq = 4 WHERE seq = 9",
            Some(2),
        ),
        ("UPDATE chains SET length = 4", Some(5)),
        ("UPDATE chains SET head = 'x'", Some(5)),
        ("SELECT 1", None),
    ] {
        let backend = backend.another();
        let store = backend.open().await;
        for number in 1..=5 {
            store.record(event("t", "c", number)).await.unwrap();
        }
        let other = backend.outside().await;
        let changes_events =
            edit.contains("events SET") || edit.contains("length") || edit.starts_with("DELETE");
        if changes_events {
            let refused = other.try_run(edit).await.unwrap_err();
            assert!(refused.contains("append-only"), "{edit}: {refused}");
        }
        other
            .run(
                "DROP TRIGGER events_are_not_changed; DROP TRIGGER events_are_not_removed; DROP TRIGGER chains_only_grow",
                "DROP TRIGGER events_are_not_changed ON events; DROP TRIGGER only_archived_events_are_removed ON events;
                 DROP TRIGGER chains_only_grow ON chains",
            )
            .await;
        other.run(edit, edit).await;
        assert_eq!(first_broken(&*store, "t", "c").await, expected, "{edit}");
    }
}

async fn manifest_and_event_are_atomic(backend: &Backend) {
    let store = backend.open().await;
    let approve = |tenant: &str, hash: &str, metadata: Option<Json>| {
        let mut append = event(tenant, "tools", 1);
        append.event.tool_id = Some("mail".to_owned());
        append.event.metadata = metadata;
        append.mutation =
            Some(Mutation::ApproveManifest { tool_id: "mail".to_owned(), hash: hash.to_owned() });
        append
    };
    for (tenant, hash, length) in [("t", "aa", 1), ("t", "bb", 2), ("u", "cc", 1)] {
        assert_eq!(store.record(approve(tenant, hash, None)).await.unwrap().length, length);
    }
    let uncanonical = Json::parse(b"9007199254740993").unwrap();
    assert_eq!(store.record(approve("t", "dd", Some(uncanonical))).await, Err(StoreError::NotCanonical));
    store.close().await;
    drop(store);

    let store = backend.open().await;
    let approved = async |tenant: &str, tool: &str| store.approved_manifest(tenant, tool).await.unwrap();
    assert_eq!(approved("t", "mail").await.as_deref(), Some("bb"));
    assert_eq!(approved("u", "mail").await.as_deref(), Some("cc"));
    assert_eq!(approved("t", "other").await, None);
    store.close().await;
}

async fn credential_changes_with_its_event(backend: &Backend) {
    let store = backend.open().await;
    let credential = |tool: &str, id: &str| SealedCredential {
        id: id.to_owned(),
        tool_id: tool.to_owned(),
        sealed: vec![0, 255, 7],
        set_at: 1,
        expires_at: (id != "cr_1").then_some(2),
    };
    let set = |tenant: &str, tool: &str, id: &str| Record {
        mutation: Some(Mutation::SetCredential(Box::new(credential(tool, id)))),
        ..event(tenant, "vault", 1)
    };
    let remove = |tenant: &str, tool: &str, id: &str| {
        let change = Change::RemoveCredential { tool_id: tool.to_owned(), id: id.to_owned() };
        Transition { event: event(tenant, "vault", 2).event, change }
    };
    for (tenant, tool, id) in
        [("t", "pay", "cr_1"), ("t", "mail", "cr_2"), ("u", "pay", "cr_3"), ("t", "pay", "cr_4")]
    {
        store.record(set(tenant, tool, id)).await.unwrap();
        assert_eq!(store.credential(tenant, tool).await, Ok(Some(credential(tool, id))));
    }
    assert_eq!(store.credential("t", "Pay").await, Ok(None));
    assert_eq!(store.credentials("t").await, Ok(vec![credential("mail", "cr_2"), credential("pay", "cr_4")]));
    // A rejected event changes nothing.
    let mut wrong = set("t", "pay", "cr_5");
    wrong.event.metadata = Some(Json::parse(br#"{"n": 9007199254740993}"#).unwrap());
    assert_eq!(store.record(wrong).await, Err(StoreError::NotCanonical));
    // A replaced credential or another tenant's is not removed.
    for (tenant, tool, id) in [("t", "pay", "cr_1"), ("u", "mail", "cr_2"), ("t", "other", "cr_4")] {
        assert_eq!(store.change(remove(tenant, tool, id)).await, Ok(TransitionOutcome::Stale));
    }
    assert_eq!(store.credential("t", "pay").await, Ok(Some(credential("pay", "cr_4"))));
    // A decision that pins a credential is recorded only while it is the tool's.
    for (tool, id, is_so) in [
        ("pay", Some("cr_4"), true),
        ("pay", Some("cr_1"), false),
        ("pay", None, false),
        ("other", None, true),
        ("other", Some("cr_4"), false),
    ] {
        let credential =
            Some(CredentialPin { tool_id: tool.to_owned(), credential_id: id.map(str::to_owned) });
        let decided = store.decide(DecisionRecord { credential, ..deciding("t", "decisions", 1) }).await;
        let expected = if is_so { DecisionOutcome::Recorded } else { DecisionOutcome::Stale };
        assert_eq!(decided, Ok(expected), "{tool} {id:?}");
    }
    assert_eq!(texts(&*store, "t", "decisions").await.len(), 2);
    assert_eq!(store.change(remove("t", "pay", "cr_4")).await, Ok(TransitionOutcome::Recorded));
    assert_eq!(store.credential("t", "pay").await, Ok(None));
    assert_eq!(store.credential("u", "pay").await, Ok(Some(credential("pay", "cr_3"))));
    assert_eq!(texts(&*store, "t", "vault").await.len(), 4);
}

async fn single_use_and_record_are_atomic(backend: &Backend) {
    let store = backend.open().await;
    let fallback = |number: usize| {
        let Record { event, .. } = event("t", "c", number);
        Box::new(Fallback { event, response: Bytes::from(number.to_string()) })
    };
    let claim = |tenant: &str| DecisionRecord {
        uses: vec![SingleUse::Passport {
            ancestors: Vec::new(),
            jti: "ap_1".to_owned(),
            replayed: fallback(100),
            revoked: fallback(200),
        }],
        ..deciding(tenant, "c", 1)
    };
    let refused = |response| Ok(DecisionOutcome::Refused(Bytes::from_static(response)));
    assert_eq!(store.decide(claim("t")).await, refused(b"200"));
    store.record(Record { mutation: issue("ap_1", 9), ..event("t", "c", 2) }).await.unwrap();
    // A rejected event consumes nothing.
    let mut wrong = claim("t");
    wrong.event.metadata = Some(Json::parse(br#"{"n": 9007199254740993}"#).unwrap());
    assert_eq!(store.decide(wrong).await, Err(StoreError::NotCanonical));
    assert_eq!(store.passport("t", "ap_1").await, Ok(Some(PassportState::default())));

    let responses = join_all((0..50).map(|_| store.decide(claim("t")))).await;
    let count = |outcome| responses.iter().filter(|response| **response == outcome).count();
    assert_eq!((count(Ok(DecisionOutcome::Recorded)), count(refused(b"100"))), (1, 49));
    assert_eq!(store.passport("t", "ap_1").await, Ok(Some(PassportState { used: true, revoked: false })));
    assert_eq!(store.passport("u", "ap_1").await, Ok(None));

    assert_eq!(store.change(revoke("c", "ap_1")).await, Ok(TransitionOutcome::Recorded));
    assert_eq!(store.change(revoke("c", "ap_1")).await, Ok(TransitionOutcome::Stale));
    assert_eq!(store.decide(claim("t")).await, refused(b"200"));
    assert_eq!(texts(&*store, "t", "c").await.len(), 54);
    assert_eq!(first_broken(&*store, "t", "c").await, None);
}

async fn approval_is_decided_once_before_deadline(backend: &Backend) {
    let store = backend.open().await;
    let approval = |id: &str| Approval {
        id: id.to_owned(),
        action_hash: "h".to_owned(),
        tool: "t".to_owned(),
        resource: None,
        args: "{}".to_owned(),
        goal: "g".to_owned(),
        agent_id: None,
        asker: "key:key".to_owned(),
        user_id: Some("u".to_owned()),
        reason_code: "r".to_owned(),
        created_at: FAR_FUTURE,
        deadline: FAR_FUTURE + 100,
        decided: None,
        note: None,
        opening: Some(Opening { person: "key".to_owned(), requirement: Requirement::default(), event: None }),
        votes: Vec::new(),
        spent: false,
        proven: true,
    };
    for id in ["apr_1", "apr_2"] {
        store.decide(opening_of("t", approval(id), false)).await.unwrap();
    }
    let opened = store.approval("t", "apr_1").await.unwrap().unwrap();
    let opening = opened.opening.as_ref().and_then(|opening| opening.event.clone());
    let recorded = opening.as_ref().and_then(|event| event.member("approval_request_id")?.as_str());
    assert_eq!(recorded, Some("apr_1"));
    let approval = |id: &str| {
        let opening = approval(id).opening.map(|known| Opening { event: opening.clone(), ..known });
        Approval { opening, ..approval(id) }
    };
    assert_eq!(opened, approval("apr_1"));
    assert_eq!(store.approval("u", "apr_1").await, Ok(None));
    let pending = async |now, limit| store.pending_approvals("t", now, limit).await.unwrap().len();
    assert_eq!(
        (pending(FAR_FUTURE + 99, 9).await, pending(FAR_FUTURE + 100, 9).await, pending(0, 1).await),
        (2, 0, 1)
    );
    assert_eq!(store.pending_approvals("u", 0, 9).await, Ok(Vec::new()));
    let list = async |is_newest_first, after: Option<&str>| {
        let after = after.map(str::to_owned);
        let listing = Listing { is_newest_first, after, limit: 9, ..Listing::default() };
        let found = store.approvals("t", listing).await.unwrap();
        found.into_iter().map(|approval| approval.id).collect::<Vec<_>>()
    };
    assert_eq!(list(false, None).await, ["apr_1", "apr_2"]);
    assert_eq!(list(true, None).await, ["apr_2", "apr_1"]);
    assert_eq!(list(true, Some("apr_2")).await, ["apr_1"]);

    let said = |approved, at| ApprovalDecision { approved, by: "alice".to_owned(), at, note: None };
    let decide = |tenant: &str, id: &str, decided: ApprovalDecision| {
        store.change(decision(tenant, &approval(id), &decided))
    };
    assert_eq!(decide("t", "apr_1", said(true, FAR_FUTURE + 100)).await, Ok(TransitionOutcome::Stale));
    assert_eq!(decide("u", "apr_1", said(true, FAR_FUTURE + 50)).await, Ok(TransitionOutcome::Stale));
    let spend = |number: usize| {
        let Record { event, .. } = event("t", "c", number);
        let spent = Box::new(Fallback { event, response: Bytes::from_static(b"spent") });
        store.decide(DecisionRecord {
            uses: vec![SingleUse::Approval { id: "apr_1".to_owned(), spent: Some(spent) }],
            ..deciding("t", "c", number)
        })
    };
    let refused = Ok(DecisionOutcome::Refused(Bytes::from_static(b"spent")));
    assert_eq!(spend(3).await, refused, "not approved yet");
    assert_eq!(decide("t", "apr_1", said(true, FAR_FUTURE + 99)).await, Ok(TransitionOutcome::Recorded));
    assert_eq!(decide("t", "apr_1", said(false, FAR_FUTURE + 99)).await, Ok(TransitionOutcome::Stale));
    assert_eq!(spend(4).await, Ok(DecisionOutcome::Recorded));
    assert_eq!(spend(5).await, refused);
    let found = store.approval("t", "apr_1").await.unwrap().unwrap();
    let votes: Vec<_> = found.votes.iter().map(|vote| (vote.approved, &*vote.by)).collect();
    assert_eq!(votes, [(true, "alice")]);
    let kept = Approval {
        decided: Some(said(true, FAR_FUTURE + 99)),
        votes: found.votes.clone(),
        spent: true,
        ..approval("apr_1")
    };
    assert_eq!(found, kept);
    let story = store.approval_events("t", "apr_1", 9).await.unwrap();
    assert!(story.len() == 1 && story[0].contains(r#""event_type":"approval.approved""#), "{story:?}");
    assert_eq!(store.approval_events("t", "apr_2", 9).await, Ok(Vec::new()));
    assert_eq!(store.approval_events("u", "apr_1", 9).await, Ok(Vec::new()));
    assert_eq!(pending(0, 9).await, 1);
    assert_eq!(texts(&*store, "t", "c").await.len(), 3);
    assert_eq!(texts(&*store, "t", "decisions").await.len(), 3);
    assert_eq!(store.head("u", "decisions").await, Ok(None));
}

/// A pending approval opened by `key:key` with a distant deadline.
fn pending_approval(id: &str) -> Approval {
    Approval {
        id: id.to_owned(),
        action_hash: "h".to_owned(),
        tool: "pay".to_owned(),
        resource: None,
        args: "{}".to_owned(),
        goal: "g".to_owned(),
        agent_id: None,
        asker: "key:key".to_owned(),
        user_id: None,
        reason_code: "r".to_owned(),
        created_at: FAR_FUTURE,
        deadline: FAR_FUTURE + 100,
        decided: None,
        note: None,
        opening: Some(Opening { person: "key".to_owned(), requirement: Requirement::default(), event: None }),
        votes: Vec::new(),
        spent: false,
        proven: true,
    }
}

fn opening(id: &str, exclusive: bool) -> DecisionRecord {
    opening_of("t", pending_approval(id), exclusive)
}

/// A decision that spends the named approval and passport.
fn spending(approval: Option<&str>, passport: Option<&str>) -> DecisionRecord {
    let mut append = deciding("t", "decisions", 3);
    append.event.event_type = "decision".to_owned();
    append.event.decision = Some("allow".to_owned());
    append.event.mode = Some("enforce");
    append.event.approval_request_id = approval.map(str::to_owned);
    append.event.passport_jti = passport.map(str::to_owned);
    let fallback = || {
        let Record { event, .. } = event("t", "decisions", 4);
        Box::new(Fallback { event, response: Bytes::from_static(b"refused") })
    };
    append.uses.extend(approval.map(|id| SingleUse::Approval { id: id.to_owned(), spent: Some(fallback()) }));
    append.uses.extend(passport.map(|jti| SingleUse::Passport {
        ancestors: Vec::new(),
        jti: jti.to_owned(),
        replayed: fallback(),
        revoked: fallback(),
    }));
    append
}

fn refused() -> Result<DecisionOutcome, StoreError> {
    Ok(DecisionOutcome::Refused(Bytes::from_static(b"refused")))
}

async fn row_without_event_grants_nothing(backend: &Backend) {
    let store = backend.open().await;
    for id in ["apr_1", "apr_2", "apr_3"] {
        store.decide(opening(id, false)).await.unwrap();
    }
    let yes = || ApprovalDecision { approved: true, by: "alice".to_owned(), at: FAR_FUTURE + 1, note: None };
    store.change(decision("t", &pending_approval("apr_2"), &yes())).await.unwrap();
    let no = ApprovalDecision { approved: false, ..yes() };
    store.change(decision("t", &pending_approval("apr_3"), &no)).await.unwrap();
    let other = backend.outside().await;
    let forge = |set: &str, id: &str| format!("UPDATE approvals SET {set} WHERE id = '{id}'");
    let forged = forge("approved = true, decided_by = 'alice', decided_at = 4000000001", "apr_1");
    other.run(&forged, &forged).await;
    let found = store.approval("t", "apr_1").await.unwrap().unwrap();
    assert_eq!((found.proven, found.is_approved(), found.is_usable(FAR_FUTURE + 2)), (false, false, false));
    assert_eq!(found.status(FAR_FUTURE + 2), Status::Expired);
    assert_eq!(store.decide(spending(Some("apr_1"), None)).await, refused());
    // It is not found by its action either, and does not block a new approval.
    assert_eq!(store.live_approval("t", "h", "key:key", FAR_FUTURE + 2).await.unwrap().unwrap().id, "apr_2");

    // Decisions are immutable; without the triggers, changed ones no longer match their event.
    let drop_triggers = "DROP TRIGGER approvals_are_decided_once";
    other.run(drop_triggers, &format!("{drop_triggers} ON approvals")).await;
    let was = store.approval("t", "apr_2").await.unwrap().unwrap();
    assert!(was.proven && was.is_usable(FAR_FUTURE + 2));
    for (set, back) in [
        ("action_hash = 'other'", "action_hash = 'h'"),
        ("tool = 'refund'", "tool = 'pay'"),
        ("decided_by = 'mallory'", "decided_by = 'alice'"),
        ("decided_at = 4000000099", "decided_at = 4000000001"),
        ("deadline = 4000009999", "deadline = 4000000100"),
        ("created_at = 3000000000", "created_at = 4000000000"),
        ("approved = false", "approved = true"),
    ] {
        other.run(&forge(set, "apr_2"), &forge(set, "apr_2")).await;
        let found = store.approval("t", "apr_2").await.unwrap().unwrap();
        assert!(!found.proven && !found.is_usable(FAR_FUTURE + 2), "{set}");
        assert_eq!(store.decide(spending(Some("apr_2"), None)).await, refused(), "{set}");
        other.run(&forge(back, "apr_2"), &forge(back, "apr_2")).await;
    }
    other.run(&forge("approved = true", "apr_3"), &forge("approved = true", "apr_3")).await;
    assert_eq!(store.decide(spending(Some("apr_3"), None)).await, refused());
    // An event beyond the chain's head supports nothing.
    let beyond = r#"INSERT INTO events (chain, seq, event) SELECT id, 1000000, '{"event_type":"approval.approved","approval_request_id":"apr_1","tool_id":"pay","metadata":{"action_hash":"h","decided_by":"alice"}}' FROM chains WHERE tenant_id = 't' AND chain_id = 'decisions'"#;
    other.run(beyond, beyond).await;
    assert!(!store.approval("t", "apr_1").await.unwrap().unwrap().proven);
    assert_eq!(store.decide(spending(Some("apr_1"), None)).await, refused());
    // Another tenant's event supports nothing here.
    let moved = "UPDATE approvals SET tenant_id = 'u' WHERE id = 'apr_2'";
    other.run(moved, moved).await;
    assert!(!store.approval("u", "apr_2").await.unwrap().unwrap().proven);
    let moved = "UPDATE approvals SET tenant_id = 't' WHERE id = 'apr_2'";
    other.run(moved, moved).await;
    assert_eq!(store.decide(spending(Some("apr_2"), None)).await, Ok(DecisionOutcome::Recorded));
}

async fn audit_finds_rows_without_events(backend: &Backend) {
    let store = backend.open().await;
    let issue = |jti: &str| {
        let mut append = Record { mutation: issue(jti, FAR_FUTURE), ..event("t", "decisions", 1) };
        append.event.event_type = "passport.issued".to_owned();
        append.event.passport_jti = Some(jti.to_owned());
        append
    };
    let approve_tool = |tool: &str, hash: &str| {
        let mut append = event("t", "tools", 1);
        append.event.event_type = "tool.approved".to_owned();
        append.event.tool_id = Some(tool.to_owned());
        append.event.metadata = Some(object([("manifest_hash", Some(Json::from(hash)))]));
        append.mutation = Some(Mutation::ApproveManifest { tool_id: tool.to_owned(), hash: hash.to_owned() });
        append
    };
    let yes = || ApprovalDecision { approved: true, by: "alice".to_owned(), at: FAR_FUTURE + 1, note: None };
    for id in ["apr_1", "apr_2", "apr_3"] {
        store.decide(opening(id, false)).await.unwrap();
    }
    store.change(decision("t", &pending_approval("apr_1"), &yes())).await.unwrap();
    for jti in ["ap_1", "ap_2", "ap_3"] {
        store.record(issue(jti)).await.unwrap();
    }
    store.decide(spending(Some("apr_1"), Some("ap_1"))).await.unwrap();
    store.change(revoke("decisions", "ap_2")).await.unwrap();
    for (tool, hash) in [("mail\"\\\u{e9}", "aa"), ("mail\"\\\u{e9}", "bb"), ("pay", "cc")] {
        store.record(approve_tool(tool, hash)).await.unwrap();
    }
    assert_eq!(store.unproven("t").await, Ok(Vec::new()));
    assert_eq!(store.unproven("u").await, Ok(Vec::new()));

    let other = backend.outside().await;
    let drop_trigger = "DROP TRIGGER passports_stay_used";
    other.run(drop_trigger, &format!("{drop_trigger} ON passports")).await;
    for forged in [
        "UPDATE approvals SET approved = true, decided_by = 'alice', decided_at = 4000000001 WHERE id = 'apr_2'",
        "UPDATE passports SET used = false WHERE jti = 'ap_1'",
        "UPDATE passports SET revoked = false WHERE jti = 'ap_2'",
        "INSERT INTO passports (tenant_id, jti, expires_at, revoked, used) VALUES ('t', 'ap_9', 1, false, false)",
        "UPDATE manifests SET manifest_hash = 'aa' WHERE manifest_hash = 'bb'",
        "INSERT INTO manifests (tenant_id, tool_id, manifest_hash) VALUES ('t', 'new', 'dd')",
    ] {
        other.run(forged, forged).await;
    }
    let mut found = store.unproven("t").await.unwrap();
    found.sort_unstable();
    let of_kind = |kind: &str| found.iter().filter(|line| line.starts_with(kind)).count();
    assert_eq!((of_kind("approval apr_2"), of_kind("manifest of"), found.len()), (1, 2, 6), "{found:?}");
    for jti in ["ap_1", "ap_2", "ap_9"] {
        assert_eq!(of_kind(&format!("passport {jti}:")), 1, "{found:?}");
    }
}

async fn cleared_spent_flag_is_restored_from_ledger(backend: &Backend) {
    let store = backend.open().await;
    store.decide(opening("apr_1", false)).await.unwrap();
    let yes = ApprovalDecision { approved: true, by: "alice".to_owned(), at: FAR_FUTURE + 1, note: None };
    store.change(decision("t", &pending_approval("apr_1"), &yes)).await.unwrap();
    for jti in ["ap_1", "ap_2"] {
        store
            .record(Record { mutation: issue(jti, FAR_FUTURE), ..event("t", "decisions", 1) })
            .await
            .unwrap();
    }
    assert_eq!(store.decide(spending(Some("apr_1"), Some("ap_1"))).await, Ok(DecisionOutcome::Recorded));
    store.change(revoke("decisions", "ap_2")).await.unwrap();

    let other = backend.outside().await;
    let resets = ["UPDATE approvals SET spent = false", "UPDATE passports SET used = false, revoked = false"];
    for reset in resets {
        assert!(other.try_run(reset).await.is_err(), "{reset}");
    }
    let triggers = ["approvals_are_decided_once", "passports_stay_used"];
    for (trigger, table) in triggers.into_iter().zip(["approvals", "passports"]) {
        other.run(&format!("DROP TRIGGER {trigger}"), &format!("DROP TRIGGER {trigger} ON {table}")).await;
    }
    for reset in resets {
        other.run(reset, reset).await;
    }
    assert!(store.approval("t", "apr_1").await.unwrap().unwrap().spent);
    let used = PassportState { used: true, revoked: false };
    assert_eq!(store.passport("t", "ap_1").await, Ok(Some(used)));
    let revoked = PassportState { used: false, revoked: true };
    assert_eq!(store.passport("t", "ap_2").await, Ok(Some(revoked)));
    assert_eq!(store.decide(spending(Some("apr_1"), None)).await, refused());
    assert_eq!(store.decide(spending(None, Some("ap_1"))).await, refused());
    assert_eq!(store.decide(spending(None, Some("ap_2"))).await, refused());
    assert_eq!(store.live_approval("t", "h", "key:key", FAR_FUTURE + 2).await, Ok(None));
}

async fn response_without_matching_event_is_not_replayed(backend: &Backend) {
    let store = backend.open().await;
    let response = br#"{"decision":"allow","evidence_event_id":"ev_3"}"#;
    let keyed = |name: &str, body: u8| {
        let fingerprint = [body; 32];
        let mut append = spending(None, None);
        append.event.idempotency_hash = Some(crate::ledger::idempotency_hash(name, &fingerprint));
        append.idempotency = Some(Idempotency {
            key: name.to_owned(),
            fingerprint,
            response: Bytes::from_static(response),
            allows: true,
            retention_seconds: 1_000_000_000,
            earlier: None,
        });
        append
    };
    let earlier = async |name: &str, body: u8| match store.decide(keyed(name, body)).await {
        Ok(DecisionOutcome::EarlierResponse(earlier)) => *earlier,
        other => panic!("{other:?}"),
    };
    for name in ["i", "j"] {
        assert_eq!(store.decide(keyed(name, 1)).await, Ok(DecisionOutcome::Recorded));
    }
    let found = earlier("i", 1).await;
    assert!(found.is_allow && found.allowed.is_some());
    let other = backend.outside().await;
    for (sqlite, postgres) in [
        (
            "UPDATE answers SET fingerprint = zeroblob(32)",
            "UPDATE answers SET fingerprint = decode(repeat('00', 32), 'hex')",
        ),
        ("UPDATE answers SET seq = 1", "UPDATE answers SET seq = 1"),
        ("UPDATE answers SET seq = 99", "UPDATE answers SET seq = 99"),
        (
            r#"UPDATE answers SET answer = CAST('{"decision":"allow","evidence_event_id":"ev_9"}' AS BLOB)"#,
            r#"UPDATE answers SET answer = '{"decision":"allow","evidence_event_id":"ev_9"}'::bytea"#,
        ),
        (
            r#"UPDATE answers SET answer = CAST('{"decision":"allow","evidence_event_id":"ev_3","credential_id":"c"}' AS BLOB)"#,
            r#"UPDATE answers SET answer = '{"decision":"allow","evidence_event_id":"ev_3","credential_id":"c"}'::bytea"#,
        ),
    ] {
        let of_j = " WHERE idempotency_key = 'j'";
        other.run(&format!("{sqlite} WHERE id = 2"), &format!("{postgres}{of_j}")).await;
        let body = if sqlite.contains("fingerprint") { 0 } else { 1 };
        let found = earlier("j", body).await;
        assert!(!found.is_allow && found.allowed.is_some(), "{sqlite}");
        let restore = "UPDATE answers SET (fingerprint, seq, answer) = (
            SELECT fingerprint, 2, answer FROM answers WHERE idempotency_key = 'i') WHERE idempotency_key = 'j'";
        let restore_text = "UPDATE answers SET (fingerprint, seq, answer) = (
            SELECT fingerprint, 2, NULL FROM answers WHERE id = 1) WHERE id = 2";
        other.run(restore_text, restore).await;
        assert!(earlier("j", 1).await.is_allow);
    }
}

async fn response_is_replayed_while_its_basis_exists(backend: &Backend) {
    let store = backend.open().await;
    for id in ["apr_1", "apr_2"] {
        store.decide(opening(id, false)).await.unwrap();
    }
    let yes = ApprovalDecision { approved: true, by: "alice".to_owned(), at: FAR_FUTURE + 1, note: None };
    store.change(decision("t", &pending_approval("apr_1"), &yes)).await.unwrap();
    store.record(Record { mutation: issue("ap_1", FAR_FUTURE), ..event("t", "decisions", 1) }).await.unwrap();
    store.decide(spending(Some("apr_1"), Some("ap_1"))).await.unwrap();
    assert_eq!(store.decide(idempotent("t", "key", "i", 1, "first")).await, Ok(DecisionOutcome::Recorded));
    let seq = store.head("t", "decisions").await.unwrap().unwrap().length;
    let repeat = |approval: Option<&str>, passport: Option<&str>| {
        let mut append = idempotent("t", "key", "i", 1, "second");
        let basis =
            AllowBasis { approval: approval.map(str::to_owned), passport: passport.map(str::to_owned) };
        append.idempotency.as_mut().unwrap().earlier = Some(SeenResponse { seq, replay_of: Some(basis) });
        append
    };
    let holds = async |decision: DecisionRecord| match store.decide(decision).await {
        Ok(DecisionOutcome::Repeated(response)) => response == "first",
        Ok(DecisionOutcome::Stale) => false,
        other => panic!("{other:?}"),
    };
    // Both are spent, but by this response itself.
    assert!(holds(repeat(None, None)).await);
    assert!(holds(repeat(Some("apr_1"), Some("ap_1"))).await);
    for (approval, passport) in
        [(Some("apr_2"), None), (Some("apr_9"), None), (None, Some("ap_9")), (Some("apr_1"), Some("ap_9"))]
    {
        assert!(!holds(repeat(approval, passport)).await, "{approval:?} {passport:?}");
    }
    let pinned = |hash: Option<&str>| {
        let manifest = ManifestPin { tool_id: "mail".to_owned(), hash: hash.map(str::to_owned) };
        DecisionRecord { manifest: Some(manifest), ..repeat(None, None) }
    };
    assert!(holds(pinned(None)).await && !holds(pinned(Some("aa"))).await);
    assert!(!holds(DecisionRecord { holds_until: Some(1), ..repeat(None, None) }).await);
    assert!(holds(DecisionRecord { holds_until: Some(FAR_FUTURE), ..repeat(None, None) }).await);
    store.change(revoke("decisions", "ap_1")).await.unwrap();
    assert!(!holds(repeat(None, Some("ap_1"))).await);
    // A later response takes precedence.
    let mut newer = idempotent("t", "key", "i", 1, "third");
    newer.idempotency.as_mut().unwrap().earlier = Some(SeenResponse { seq, replay_of: None });
    assert_eq!(store.decide(newer).await, Ok(DecisionOutcome::Recorded));
    assert!(was_answered(&store.decide(repeat(None, None)).await.unwrap(), "third"));
}

async fn one_open_approval_per_action(backend: &Backend) {
    let (one, other) = match backend {
        // A data file has one gateway.
        Backend::Sqlite(_) => {
            let store = backend.open().await;
            (Arc::clone(&store), store)
        }
        Backend::Postgres(_) => (backend.open().await, backend.open().await),
    };
    let ids: Vec<_> = (0..40).map(|number| format!("apr_{number}")).collect();
    let stores = [one, other];
    let opened =
        join_all(ids.iter().enumerate().map(|(number, id)| stores[number % 2].decide(opening(id, true))))
            .await;
    let count = |wanted: DecisionOutcome| opened.iter().filter(|found| **found == Ok(wanted.clone())).count();
    assert_eq!((count(DecisionOutcome::Recorded), count(DecisionOutcome::Stale)), (1, 39));
    let approval = stores[1].live_approval("t", "h", "key:key", FAR_FUTURE + 1).await.unwrap().unwrap();
    assert_eq!(stores[1].live_approval("t", "h", "key:other", FAR_FUTURE + 1).await, Ok(None));
    assert_eq!(stores[1].live_approval("u", "h", "key:key", FAR_FUTURE + 1).await, Ok(None));
    assert_eq!(stores[1].live_approval("t", "h", "key:key", FAR_FUTURE + 100).await, Ok(None));
    let yes = ApprovalDecision { approved: true, by: "alice".to_owned(), at: FAR_FUTURE + 1, note: None };
    stores[0].change(decision("t", &approval, &yes)).await.unwrap();
    assert_eq!(
        stores[1].decide(opening("apr_a", true)).await,
        Ok(DecisionOutcome::Stale),
        "approved but not spent"
    );
    stores[1].decide(spending(Some(&approval.id), None)).await.unwrap();
    assert_eq!(stores[0].decide(opening("apr_b", true)).await, Ok(DecisionOutcome::Recorded));
}

async fn append_only_tables_reject_changes(backend: &Backend) {
    let store = backend.open().await;
    store.decide(opening("apr_1", false)).await.unwrap();
    let yes = ApprovalDecision { approved: true, by: "alice".to_owned(), at: FAR_FUTURE + 1, note: None };
    store.change(decision("t", &pending_approval("apr_1"), &yes)).await.unwrap();
    store.record(Record { mutation: issue("ap_1", FAR_FUTURE), ..event("t", "decisions", 1) }).await.unwrap();
    store.decide(spending(Some("apr_1"), Some("ap_1"))).await.unwrap();
    let key = SealedKey { kid: "k".to_owned(), sealed: vec![1], active: true, needed_until: 0 };
    store.add_signing_key(key, super::Rotation::First).await.unwrap();

    let both = [
        "UPDATE events SET event = '{}'",
        "UPDATE events SET seq = 99 WHERE seq = 1",
        "DELETE FROM events",
        "INSERT INTO events SELECT * FROM events WHERE seq = 1",
        "INSERT INTO events (chain, seq, event) SELECT chain, seq, '{}' FROM events WHERE seq = 1
         ON CONFLICT (chain, seq) DO UPDATE SET event = '{}'",
        "DELETE FROM chains",
        "UPDATE chains SET length = 1",
        "UPDATE chains SET tenant_id = 'u'",
        "UPDATE chains SET chain_id = 'c'",
        "DELETE FROM approvals",
        "UPDATE approvals SET spent = false",
        "UPDATE approvals SET approved = NULL",
        "UPDATE approvals SET approved = false",
        "UPDATE approvals SET decided_by = 'mallory'",
        "UPDATE approvals SET args = '[]'",
        "UPDATE approvals SET id = 'apr_9'",
        "UPDATE approvals SET asker = 'key:mallory'",
        "DELETE FROM passports",
        "UPDATE passports SET used = false",
        "UPDATE passports SET jti = 'ap_9'",
        "UPDATE passports SET expires_at = 5000000000",
        "DELETE FROM signing_keys",
        "UPDATE signing_keys SET kid = 'mine'",
    ];
    let sqlite = [
        "INSERT OR REPLACE INTO events (id, chain, seq, event) SELECT id, chain, seq, '{}' FROM events WHERE seq = 1",
        "REPLACE INTO events (chain, seq, event) SELECT chain, seq, '{}' FROM events WHERE seq = 2",
        "INSERT OR REPLACE INTO events (id, chain, seq, event) SELECT id, chain, 99, '{}' FROM events WHERE seq = 1",
        "UPDATE OR REPLACE events SET seq = 1 WHERE seq = 2",
        "UPDATE OR IGNORE events SET seq = 98 WHERE seq = 2",
        "INSERT OR REPLACE INTO chains (id, tenant_id, chain_id, length, head) SELECT id, tenant_id, chain_id, 0, '' FROM chains",
        "REPLACE INTO chains (tenant_id, chain_id, length, head) SELECT tenant_id, chain_id, 0, '' FROM chains",
        "INSERT OR REPLACE INTO approvals SELECT * FROM approvals",
        "INSERT OR REPLACE INTO passports (tenant_id, jti, expires_at) SELECT tenant_id, jti, expires_at FROM passports",
        "INSERT INTO passports (tenant_id, jti, expires_at) SELECT tenant_id, jti, expires_at FROM passports WHERE true
         ON CONFLICT (tenant_id, jti) DO UPDATE SET used = 0",
        "UPDATE OR REPLACE approvals SET spent = 0",
        "REPLACE INTO signing_keys (kid, sealed, active, needed_until) SELECT kid, x'00', 1, 0 FROM signing_keys",
    ];
    let postgres = [
        "TRUNCATE events",
        "TRUNCATE chains CASCADE",
        "TRUNCATE approvals",
        "TRUNCATE passports",
        "TRUNCATE signing_keys",
        "SET session_replication_role = replica; UPDATE approvals SET spent = false",
        "SET session_replication_role = replica; DELETE FROM passports",
    ];
    let before = texts(&*store, "t", "decisions").await;
    let other = backend.outside().await;
    let own = match backend {
        Backend::Sqlite(_) => sqlite.as_slice(),
        Backend::Postgres(_) => postgres.as_slice(),
    };
    for statement in both.iter().chain(own) {
        assert!(other.try_run(statement).await.is_err(), "{statement}");
    }
    assert_eq!(texts(&*store, "t", "decisions").await, before);
    assert_eq!(first_broken(&*store, "t", "decisions").await, None);
    let approval = store.approval("t", "apr_1").await.unwrap().unwrap();
    assert!(approval.spent && approval.is_approved());
    assert_eq!(store.passport("t", "ap_1").await, Ok(Some(PassportState { used: true, revoked: false })));
    assert_eq!(store.signing_keys().await.unwrap().len(), 1);
}

async fn non_canonical_metadata_fails_only_its_append(backend: &Backend) {
    let store = backend.open().await;
    let mut wrong = event("t", "c", 1);
    wrong.event.metadata = Some(Json::parse(br#"{"n": 9007199254740993}"#).unwrap());
    let (wrong, right) = tokio::join!(store.record(wrong), store.record(event("t", "d", 2)));
    assert_eq!(wrong, Err(StoreError::NotCanonical));
    assert!(right.is_ok());
    assert_eq!(store.head("t", "c").await, Ok(None));
    assert_ne!(store.head("t", "d").await, Ok(Some(Head::default())));
}

/// A decision that requires an approval because a budget is exceeded is stale once it fits.
async fn budget_that_is_no_longer_exceeded_is_stale(backend: &Backend) {
    let store = backend.open().await;
    let charge = |amount: i64| Charge {
        account: Account { budget: "daily".to_owned(), key: "{}".to_owned() },
        amount: amount.into(),
        limit: Some(500.into()),
        window: Window::parse("24h").unwrap(),
        outcomes: Outcomes::ALL,
    };
    let claims = |claims: Vec<Claim>, exceeds: Option<Charge>| {
        Some(Claims { claims, exceeds, are_recorded: true, response: Bytes::from_static(b"{}") })
    };
    let claim = Claim { charge: charge(400), on_excess: Excess::RequireApproval };
    let first = DecisionRecord { budgets: claims(vec![claim], None), ..deciding("t", "decisions", 1) };
    assert!(matches!(store.decide(first).await, Ok(DecisionOutcome::Claimed(_))));
    for (number, amount, is_stale) in [(2, 100, true), (3, 101, false)] {
        let asking = DecisionRecord {
            budgets: claims(Vec::new(), Some(charge(amount))),
            ..deciding("t", "decisions", number)
        };
        let outcome = store.decide(asking).await.unwrap();
        assert_eq!(outcome == DecisionOutcome::Stale, is_stale, "{amount}: {outcome:?}");
    }
    assert_eq!(store.head("t", "decisions").await.unwrap().unwrap().length, 2);
    store.close().await;
}
