//! PostgreSQL only: shared databases, lost connections, server settings and privileges.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actpass_test_postgres::{PASSWORD, Server, server};
use bytes::Bytes;
use futures_util::future::join_all;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::{DatabaseError, HaltChange, HaltOutcome, Rotation, SealedKey};
use super::*;
use crate::halts::{Halt, Scope};

/// Returns the server and a new database, or ends the test if PostgreSQL is not available.
macro_rules! database_or_return {
    () => {
        match server().unwrap() {
            Some(server) => (server, server.database().unwrap()),
            None => return,
        }
    };
}

async fn open(url: &str) -> PostgresStore {
    PostgresStore::open(database(url)).await.unwrap()
}

fn name_of(url: &str) -> &str {
    url.rsplit_once('/').unwrap().1
}

/// Returns a query's output without the trailing line break.
fn submit(server: &Server, url: &str, sql: &str) -> String {
    server.run(name_of(url), sql).unwrap().trim_end().to_owned()
}

fn claim(number: usize) -> DecisionRecord {
    let fallback = |response: &'static str| {
        let Record { event, .. } = event("t", "c", number);
        Box::new(Fallback { event, response: Bytes::from_static(response.as_bytes()) })
    };
    DecisionRecord {
        uses: vec![SingleUse::Passport {
            ancestors: Vec::new(),
            jti: "ap_1".to_owned(),
            replayed: fallback("replayed"),
            revoked: fallback("revoked"),
        }],
        ..deciding("t", "c", number)
    }
}

fn set_credential(id: &str) -> Record {
    let credential = SealedCredential {
        id: id.to_owned(),
        tool_id: "pay".to_owned(),
        sealed: vec![1],
        set_at: 1,
        expires_at: None,
    };
    Record { mutation: Some(Mutation::SetCredential(Box::new(credential))), ..event("t", "vault", 1) }
}

/// A credential that was absent must stay absent until the decision is recorded, even on another
/// chain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credential_set_by_another_gateway_serializes_with_decisions() {
    for _ in 0..10 {
        let (_, url) = database_or_return!();
        let stores = [open(&url).await, open(&url).await];
        let decide = |number| {
            let credential = Some(CredentialPin { tool_id: "pay".to_owned(), credential_id: None });
            stores[0].decide(DecisionRecord { credential, ..deciding("t", "decisions", number) })
        };
        let (decided, set) =
            tokio::join!(join_all((0..40).map(decide)), stores[1].record(set_credential("cr_1")));
        set.unwrap();
        let created_at = |text: &String| {
            let event = Json::parse(text.as_bytes()).unwrap();
            event.member("created_at").unwrap().as_str().unwrap().to_owned()
        };
        let set_at = created_at(&texts(&stores[1], "t", "vault").await[0]);
        let decisions = texts(&stores[1], "t", "decisions").await;
        assert!(decisions.iter().all(|decision| created_at(decision) <= set_at), "{set_at} {decisions:?}");
        let count = |outcome| decided.iter().filter(|found| found.as_ref() == Ok(&outcome)).count();
        let (recorded, stale) = (count(DecisionOutcome::Recorded), count(DecisionOutcome::Stale));
        assert_eq!((recorded, recorded + stale), (decisions.len(), 40));
        assert_eq!(decide(1).await, Ok(DecisionOutcome::Stale));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_share_one_chain_and_single_uses() {
    let (_, url) = database_or_return!();
    let stores = [open(&url).await, open(&url).await, open(&url).await];
    stores[0].record(Record { mutation: issue("ap_1", 9), ..event("t", "c", 0) }).await.unwrap();
    let stores = &stores;
    let appends = (0..1500).map(|number| async move {
        let store = &stores[number / 3 % 3];
        match number % 3 {
            0 => store.decide(claim(number)).await,
            // The same key at every gateway at about the same time.
            1 => store.decide(idempotent("t", "k", &(number / 30).to_string(), 1, "first")).await,
            // Chains of two tenants, in any order.
            _ => {
                let tenant = if number % 2 == 0 { "t" } else { "u" };
                let recorded = store.record(event(tenant, &(number % 7).to_string(), number)).await;
                recorded.map(|_| DecisionOutcome::Recorded)
            }
        }
    });
    let responses: Vec<_> = join_all(appends).await.into_iter().map(Result::unwrap).collect();
    let of_kind = |kind: usize, wanted: fn(&DecisionOutcome) -> bool| {
        responses
            .iter()
            .enumerate()
            .filter(|(number, response)| number % 3 == kind && wanted(response))
            .count()
    };
    let is_recorded: fn(&DecisionOutcome) -> bool = |response| *response == DecisionOutcome::Recorded;
    assert_eq!((of_kind(0, is_recorded), of_kind(1, is_recorded), of_kind(2, is_recorded)), (1, 50, 500));
    assert_eq!(
        of_kind(0, |response| *response == DecisionOutcome::Refused(Bytes::from_static(b"replayed"))),
        499
    );
    assert_eq!(of_kind(1, |response| was_answered(response, "first")), 450);

    let mut events = 0;
    for (tenant, chain) in ["t", "u"].iter().flat_map(|tenant| {
        ["c", "decisions", "0", "1", "2", "3", "4", "5", "6"].map(|chain| (*tenant, chain))
    }) {
        for store in stores {
            if let Some(head) = store.head(tenant, chain).await.unwrap() {
                assert_eq!(texts(store, tenant, chain).await.len() as u64, head.length);
                assert_eq!(first_broken(store, tenant, chain).await, None, "{tenant} {chain}");
            }
        }
        events += texts(&stores[0], tenant, chain).await.len();
    }
    assert_eq!(events, 1 + 500 + 50 + 500);
}

#[tokio::test]
async fn concurrent_starts_create_one_schema_and_key() {
    let (_, url) = database_or_return!();
    let stores = join_all((0..5).map(|_| open(&url))).await;
    let key = |number: u8| SealedKey {
        kid: number.to_string(),
        sealed: vec![number],
        active: true,
        needed_until: 0,
    };
    let adding =
        stores.iter().zip(0..).map(|(store, number)| store.add_signing_key(key(number), Rotation::First));
    join_all(adding).await.into_iter().for_each(Result::unwrap);
    assert_eq!(stores[0].signing_keys().await.unwrap().len(), 1);

    stores[1].add_signing_key(key(9), Rotation::Next).await.unwrap();
    let keys = stores[2].signing_keys().await.unwrap();
    assert_eq!(keys.iter().map(|key| key.active).collect::<Vec<_>>(), [false, true]);
    let issue = |expires_at| {
        let (jti, kid) = (format!("ap_{expires_at}"), "9".to_owned());
        Record {
            mutation: Some(Mutation::IssuePassport { jti, kid, expires_at, halt_epoch: 0 }),
            ..event("t", "c", 1)
        }
    };
    // An earlier expiry does not replace a later one.
    for expires_at in [70, 50] {
        stores[3].record(issue(expires_at)).await.unwrap();
    }
    assert_eq!(stores[4].signing_keys().await.unwrap()[1].needed_until, 70);
}

#[tokio::test]
async fn unusable_database_error_names_cause() {
    let (server, url) = database_or_return!();
    let nothing = PostgresStore::open_existing(database(&url)).await.unwrap_err();
    assert!(matches!(nothing, DatabaseError::Older(_)), "{nothing}");
    drop(open(&url).await);
    submit(server, &url, "INSERT INTO actpass.migrations VALUES (99)");
    let newer = PostgresStore::open(database(&url)).await.unwrap_err();
    assert!(matches!(newer, DatabaseError::Newer(_, 99, _)), "{newer}");
    let second = PostgresStore::open_existing(database(&url)).await.unwrap_err();
    assert!(matches!(second, DatabaseError::Newer(_, 99, _)), "{second}");

    server
        .run("postgres", "CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
        .unwrap();
    let ascii = url.replace(name_of(&url), "ascii");
    let encoding = PostgresStore::open(database(&ascii)).await.unwrap_err();
    assert!(matches!(encoding, DatabaseError::Encoding(..)), "{encoding}");

    for (wrong, expected) in [
        (url.replace("postgres:pg", "postgres:no"), "password authentication failed"),
        (url.replace(name_of(&url), "nowhere"), "does not exist"),
        (format!("postgresql://postgres:{PASSWORD}@127.0.0.1:1/l"), "refused"),
    ] {
        let error = PostgresStore::open(database(&wrong)).await.unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(expected) && shown.contains("the database 127.0.0.1:"), "{shown}");
        assert!(!shown.contains("_password_secret"), "{shown}");
    }
}

#[tokio::test]
async fn texts_round_trip() {
    let (_, url) = database_or_return!();
    let store = open(&url).await;
    let odd = "a\0b\\0c\\\u{1F512}\u{FFFF}";
    let mut append = idempotent("t", odd, odd, 1, "first");
    append.event.chain_id = odd.to_owned();
    append.event.goal = Some(odd.to_owned());
    append.event.tenant_id = odd.into();
    let approval = Approval {
        id: "apr_1".to_owned(),
        action_hash: "h".to_owned(),
        tool: odd.to_owned(),
        resource: Some(odd.to_owned()),
        args: "{}".to_owned(),
        goal: odd.to_owned(),
        agent_id: Some(odd.to_owned()),
        asker: odd.to_owned(),
        user_id: Some(odd.to_owned()),
        reason_code: odd.to_owned(),
        created_at: FAR_FUTURE,
        deadline: FAR_FUTURE + 9,
        decided: None,
        note: None,
        opening: Some(Opening { person: "key".to_owned(), requirement: Requirement::default(), event: None }),
        votes: Vec::new(),
        spent: false,
        proven: true,
    };
    let second = store.record(event("t", "c", 1));
    let (odd_one, second) = tokio::join!(store.decide(append.clone()), second);
    assert_eq!((odd_one, second.is_ok()), (Ok(DecisionOutcome::Recorded), true));
    assert!(was_answered(&store.decide(append.clone()).await.unwrap(), "first"));
    store.decide(opening_of(odd, approval.clone(), true)).await.unwrap();
    let found = store.approval(odd, "apr_1").await.unwrap().unwrap();
    assert!(found.opening.as_ref().is_some_and(|opening| opening.event.is_some()));
    assert_eq!(Approval { opening: approval.opening.clone(), ..found }, approval);
    assert_eq!(store.approval_events(odd, odd, 9).await, Ok(Vec::new()));
    assert_eq!(first_broken(&store, odd, odd).await, None);
    assert_eq!(store.head(odd, "a").await, Ok(None));
    assert_eq!(store.passport("\0", "\0").await, Ok(None));

    let event = append.event;
    let mutation = Some(Mutation::ApproveManifest { tool_id: odd.to_owned(), hash: odd.to_owned() });
    store.record(Record { event: event.clone(), mutation }).await.unwrap();
    assert_eq!(store.approved_manifest(odd, odd).await, Ok(Some(odd.to_owned())));
    let decided = ApprovalDecision {
        approved: true,
        // Not the user, who cannot decide.
        by: format!("{odd}\0"),
        at: FAR_FUTURE + 3,
        note: Some(odd.to_owned()),
    };
    let (ballot, voted) = (Box::new(ballot(&decided)), Box::new(event.clone()));
    let change = Change::DecideApproval { id: "apr_1".to_owned(), ballot, voted, halt_epoch: Some(0) };
    assert_eq!(store.change(Transition { event, change }).await, Ok(TransitionOutcome::Recorded));
    assert_eq!(store.approval(odd, "apr_1").await.unwrap().unwrap().decided, Some(decided));
}

/// Makes every event insertion run `body`, with the sequence `tried` as a counter that survives
/// rollbacks.
fn on_insert(server: &Server, url: &str, when: &str, body: &str) {
    let timing = match when {
        "commit" => "CREATE CONSTRAINT TRIGGER hook AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED",
        _ => "CREATE TRIGGER hook BEFORE INSERT ON events",
    };
    let sql = format!(
        "SET search_path = actpass; CREATE SEQUENCE tried;
         CREATE FUNCTION hook() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$;
         {timing} FOR EACH ROW EXECUTE FUNCTION hook()"
    );
    submit(server, url, &sql);
}

/// The hook holds the transaction of the decision after it has read the epoch, until the halt waits
/// for the lock.
#[tokio::test]
async fn halt_waits_for_decisions_in_progress() {
    let (server, url) = database_or_return!();
    let (one, other) = (Arc::new(open(&url).await), open(&url).await);
    let body = r#"IF NEW.event LIKE '%"ev_1"%' THEN
            PERFORM nextval('actpass.tried');
            WHILE NOT EXISTS (
                SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                AND classid = 1633907824 AND objid = 1751215220
            ) LOOP PERFORM pg_sleep(0.01); END LOOP;
        END IF;"#;
    on_insert(server, &url, "insert", body);
    let begun = tokio::spawn({
        let one = Arc::clone(&one);
        async move { one.decide(deciding("t", "decisions", 1)).await }
    });
    while submit(server, &url, "SELECT is_called FROM actpass.tried") != "t" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let halt = Halt::new(Some("t".into()), Scope::Tenant, None, "r".to_owned(), "k");
    let outcome = other.change_halts(HaltChange::Start(Box::new(halt))).await.unwrap();
    assert!(matches!(outcome, HaltOutcome::Changed(_)), "{outcome:?}");
    assert_eq!(begun.await.unwrap(), Ok(DecisionOutcome::Recorded));
    assert_eq!(one.decide(deciding("t", "decisions", 2)).await, Err(StoreError::HaltsChanged));
    assert_eq!(one.known_halts().latest().epoch, 1);
    let events = texts(&*one, "t", "decisions").await;
    assert_eq!(events.len(), 2);
    assert!(events[0].contains("ev_1") && events[1].contains("halt.started"), "{events:?}");
    for change in [
        "DELETE FROM actpass.halts",
        "UPDATE actpass.halts SET target = 'x'",
        "UPDATE actpass.halts SET tenant_id = 'x'",
        "DELETE FROM actpass.halt_state",
        "UPDATE actpass.halt_state SET epoch = 0",
    ] {
        assert!(server.run(name_of(&url), change).is_err(), "{change}");
    }
}

#[tokio::test]
async fn aborted_batch_is_retried_a_bounded_number_of_times() {
    for (code, least, times, recorded) in [
        ("40001", 3, 3, true),
        ("40P01", 2, 2, true),
        ("23505", 5, 5, true),
        ("40001", 99, 5, false),
        ("53100", 99, 1, false),
    ] {
        let (server, url) = database_or_return!();
        let store = open(&url).await;
        let body = format!(
            "IF nextval('actpass.tried') < {least} THEN RAISE EXCEPTION 'not now' USING ERRCODE = '{code}'; END IF;"
        );
        on_insert(server, &url, "insert", &body);
        let response = store.record(event("t", "c", 1)).await;
        assert_eq!(response.is_ok(), recorded, "{code} {least}: {response:?}");
        assert_eq!(submit(server, &url, "SELECT last_value FROM actpass.tried"), times.to_string(), "{code}");
        assert_eq!(
            submit(server, &url, "SELECT count(*) FROM actpass.events"),
            u8::from(recorded).to_string()
        );
        submit(server, &url, "DROP FUNCTION actpass.hook CASCADE");
        store.check().await.unwrap();
        store.record(event("t", "c", 2)).await.unwrap();
        assert_eq!(first_broken(&store, "t", "c").await, None);
    }
}

#[tokio::test]
async fn connection_lost_before_commit_is_retried() {
    let (server, url) = database_or_return!();
    let store = open(&url).await;
    store.record(event("t", "c", 1)).await.unwrap();
    store.head("t", "c").await.unwrap();
    let end_all = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                   WHERE application_name = 'actpass-gateway' AND datname = current_database()";
    for number in 2..5 {
        assert!(submit(server, &url, end_all).parse::<u32>().unwrap() >= 2);
        store.record(event("t", "c", number)).await.unwrap();
        store.check().await.unwrap();
    }
    let body = "IF nextval('actpass.tried') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;";
    on_insert(server, &url, "insert", body);
    store.record(event("t", "c", 5)).await.unwrap();
    assert_eq!(store.head("t", "c").await.unwrap().unwrap().length, 5);
    assert_eq!(first_broken(&store, "t", "c").await, None);
}

#[tokio::test]
async fn commit_with_unknown_outcome_is_not_retried() {
    let (server, url) = database_or_return!();
    let store = open(&url).await;
    on_insert(
        server,
        &url,
        "commit",
        "PERFORM nextval('actpass.tried'); PERFORM pg_terminate_backend(pg_backend_pid());",
    );
    assert_eq!(store.record(event("t", "c", 1)).await, Err(StoreError::Unavailable));
    assert_eq!(submit(server, &url, "SELECT last_value FROM actpass.tried"), "1");
    submit(server, &url, "DROP FUNCTION actpass.hook CASCADE");
    store.record(event("t", "c", 2)).await.unwrap();
    assert_eq!(first_broken(&store, "t", "c").await, None);
}

/// A proxy to the server that, while enabled, closes a connection when the server reports a commit.
async fn between(url: &str, cut: Arc<AtomicBool>, cuts: Arc<AtomicUsize>) -> String {
    let at = url.split_once('@').unwrap().1.split_once('/').unwrap().0.to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let through = url.replace(&at, &listener.local_addr().unwrap().to_string());
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(&at).await.unwrap();
            let (cut, cuts) = (Arc::clone(&cut), Arc::clone(&cuts));
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let there =
                    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                let mut bytes = vec![0; 1 << 16];
                while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
                    let said = &bytes[..count];
                    if cut.load(Ordering::SeqCst) && said.windows(7).any(|word| word == b"COMMIT\0") {
                        cuts.fetch_add(1, Ordering::SeqCst);
                        break;
                    }
                    if to_client.write_all(said).await.is_err() {
                        break;
                    }
                }
                there.abort();
            });
        }
    });
    through
}

#[tokio::test]
async fn lost_commit_response_fails_without_retry() {
    let (_, url) = database_or_return!();
    let (cut, cuts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let store = open(&between(&url, Arc::clone(&cut), Arc::clone(&cuts)).await).await;
    let other = open(&url).await;
    assert_eq!(store.decide(idempotent("t", "k", "0", 1, "first")).await, Ok(DecisionOutcome::Recorded));

    cut.store(true, Ordering::SeqCst);
    let lost = store.decide(idempotent("t", "k", "1", 1, "first")).await;
    assert_eq!((lost, cuts.load(Ordering::SeqCst)), (Err(StoreError::Unavailable), 1));
    cut.store(false, Ordering::SeqCst);
    // It was recorded once; a retry at any gateway returns its result.
    assert_eq!(other.head("t", "decisions").await.unwrap().unwrap().length, 2);
    for store in [&store, &other] {
        let again = store.decide(idempotent("t", "k", "1", 1, "second")).await;
        assert!(was_answered(&again.unwrap(), "first"));
    }
    assert_eq!(first_broken(&store, "t", "decisions").await, None);
}

#[tokio::test]
async fn reconnects_after_server_outage() {
    let (server, url) = database_or_return!();
    let store = open(&url).await;
    let database = name_of(&url);
    // Terminate all connections and reject new ones.
    server.run("postgres", &format!("ALTER DATABASE {database} ALLOW_CONNECTIONS false")).unwrap();
    let end_all =
        format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{database}'");
    server.run("postgres", &end_all).unwrap();
    assert_eq!(store.record(event("t", "c", 1)).await, Err(StoreError::Unavailable));
    // Further calls fail immediately without a connection attempt.
    let started = Instant::now();
    let mut failed = 0;
    while started.elapsed() < Duration::from_millis(200) {
        assert_eq!(store.record(event("t", "c", 1)).await, Err(StoreError::Unavailable));
        assert_eq!(store.check().await, Err(StoreError::Unavailable));
        failed += 1;
    }
    assert!(failed > 50, "{failed}: each attempt waited for a connection");

    server.run("postgres", &format!("ALTER DATABASE {database} ALLOW_CONNECTIONS true")).unwrap();
    let found = async {
        while store.check().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), found).await.unwrap();
    store.record(event("t", "c", 1)).await.unwrap();
    assert_eq!(store.head("t", "c").await.unwrap().unwrap().length, 1);
}

#[tokio::test]
async fn commit_is_synchronous_regardless_of_server_settings() {
    for (set, found) in [("off", "on"), ("local", "on"), ("on", "on"), ("remote_apply", "remote_apply")] {
        let (server, url) = database_or_return!();
        server
            .run("postgres", &format!("ALTER DATABASE {} SET synchronous_commit = {set}", name_of(&url)))
            .unwrap();
        let store = open(&url).await;
        submit(server, &url, "CREATE TABLE actpass.seen (commits text, statements text)");
        on_insert(
            server,
            &url,
            "commit",
            "INSERT INTO actpass.seen
             VALUES (current_setting('synchronous_commit'), current_setting('statement_timeout'));",
        );
        store.record(event("t", "c", 1)).await.unwrap();
        // Nothing interrupts the wait for a standby.
        assert_eq!(submit(server, &url, "SELECT * FROM actpass.seen"), format!("{found}|0"), "{set}");
    }
}

/// A compilation takes longer than the statements of a decision.
#[tokio::test]
async fn statements_are_not_compiled_regardless_of_server_settings() {
    let (server, url) = database_or_return!();
    server.run("postgres", &format!("ALTER DATABASE {} SET jit = on", name_of(&url))).unwrap();
    let store = open(&url).await;
    submit(server, &url, "CREATE TABLE actpass.seen (jit text)");
    on_insert(server, &url, "event", "INSERT INTO actpass.seen VALUES (current_setting('jit'));");
    store.record(event("t", "c", 1)).await.unwrap();
    assert_eq!(submit(server, &url, "SELECT * FROM actpass.seen"), "off");
}

#[tokio::test]
async fn least_privilege_role_suffices_and_cannot_change_events() {
    let (server, url) = database_or_return!();
    open(&url).await.close().await;
    // The privileges in the documentation.
    let page = include_str!("../../../../docs/gateway/operations.md");
    let (grants, _) = page.split_once("```sql\n").unwrap().1.split_once("```").unwrap();
    submit(server, &url, &format!("CREATE ROLE gateway LOGIN PASSWORD '{PASSWORD}'; {grants}"));
    let unwritable = "SELECT string_agg(tablename, ' ') FROM pg_tables WHERE schemaname = 'actpass'
                      AND NOT has_table_privilege('gateway', schemaname || '.' || tablename, 'INSERT, UPDATE')";
    assert_eq!(submit(server, &url, unwritable), "migrations");
    let url = url.replace("postgres:pg", "gateway:pg");
    let store = open(&url).await;
    store.record(Record { mutation: issue("ap_1", 9), ..event("t", "c", 1) }).await.unwrap();
    assert_eq!(store.decide(claim(2)).await, Ok(DecisionOutcome::Recorded));
    store.decide(idempotent("t", "k", "i", 1, "first")).await.unwrap();
    let key = SealedKey { kid: "k".to_owned(), sealed: vec![1], active: true, needed_until: 0 };
    store.add_signing_key(key, Rotation::First).await.unwrap();
    for id in ["cr_1", "cr_2"] {
        store.record(set_credential(id)).await.unwrap();
    }
    let change = Change::RemoveCredential { tool_id: "pay".to_owned(), id: "cr_2".to_owned() };
    let removed = store.change(Transition { event: event("t", "vault", 1).event, change }).await;
    assert_eq!(removed, Ok(TransitionOutcome::Recorded));
    store.check().await.unwrap();

    let outside = connect(&url).await;
    for edit in [
        "UPDATE events SET seq = 9",
        "DELETE FROM events",
        "TRUNCATE events",
        "DROP TRIGGER events_are_not_removed ON events",
        "ALTER TABLE events DISABLE TRIGGER ALL",
    ] {
        let error = outside.batch_execute(edit).await.unwrap_err();
        assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE), "{edit}");
    }
    let owner = connect(&url.replace("gateway:pg", "postgres:pg")).await;
    for edit in ["TRUNCATE events", "SET session_replication_role = replica; DELETE FROM events"] {
        let error = owner.batch_execute(edit).await.unwrap_err();
        assert!(format!("{error:?}").contains("append-only"), "{edit}: {error:?}");
    }
}

#[tokio::test]
async fn database_tls_certificate_is_verified() {
    let (server, url) = database_or_return!();
    let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
    let open = async |url: &str, authority: &str| {
        let trust = TlsTrust { authorities: Some(vec![certificate(authority)]), danger_allow_plain: false };
        PostgresStore::open(Database::parse(url, trust).unwrap()).await
    };
    let tls = format!("{}?sslmode=require", url.replace("127.0.0.1", "localhost"));
    let store = open(&tls, server.authority()).await.unwrap();
    store.record(event("t", "c", 1)).await.unwrap();
    let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                 WHERE application_name = 'actpass-gateway' AND datname = current_database() AND NOT ssl";
    assert_eq!(submit(server, &url, plain), "0");

    for (url, authority) in
        [(&tls, stranger.as_str()), (&tls.replace("localhost", "127.0.0.1"), server.authority())]
    {
        let error = open(url, authority).await.unwrap_err().to_string();
        assert!(error.contains("certificate"), "{error}");
    }
}

#[tokio::test]
async fn lookups_use_indexes_not_table_scans() {
    let (server, url) = database_or_return!();
    // Statistics of a session are visible after it ends.
    let ended = async |store: PostgresStore| {
        store.close().await;
        drop(store);
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'actpass-gateway'
                   AND datname = current_database()";
        while submit(server, &url, sql) != "0" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // Migrations read the tables.
    ended(open(&url).await).await;
    submit(server, &url, "SELECT pg_stat_reset()");
    let store = open(&url).await;
    let spent = |number: usize| {
        let Record { event, .. } = event("t", "c", number);
        let spent = Box::new(Fallback { event, response: Bytes::new() });
        SingleUse::Approval { id: "apr_1".to_owned(), spent: Some(spent) }
    };
    for number in 0..20 {
        let mut append = idempotent("t", "k", &number.to_string(), 1, "first");
        append.uses = claim(number).uses;
        append.uses.push(spent(number));
        store.decide(append).await.unwrap();
        store.events("t", "c", 0, 9).await.unwrap();
        store.passport("t", "ap_1").await.unwrap();
        store.approval("t", "apr_1").await.unwrap();
    }
    ended(store).await;
    for table in ["answers", "approvals", "events", "passports"] {
        let sql = format!("SELECT seq_scan, idx_scan > 0 FROM pg_stat_user_tables WHERE relname = '{table}'");
        assert_eq!(submit(server, &url, &sql), "0|t", "{table}");
    }
}
