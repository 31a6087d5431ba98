//! SQLite only.

use bytes::Bytes;
use rusqlite::{Connection, params};
use tempfile::TempDir;

use super::super::{
    Author, DecisionOutcome, DecisionRecord, HaltChange, HaltOutcome, OpenError, SqliteStore, Store, Subject,
};
use super::{event, first_broken, idempotent, texts};
use crate::halts::{Halt, Scope};

/// Restores the table `events` of version 14, without its indexes.
const EVENTS_OF_VERSION_14: &str = "
    DROP INDEX events_by_approval; DROP INDEX events_by_passport; DROP INDEX events_by_tool;
    DROP INDEX events_announced; DROP INDEX events_asked; DROP INDEX events_decided; DROP INDEX events_issued;
    ALTER TABLE events DROP COLUMN event_type; ALTER TABLE events DROP COLUMN announces;
    ALTER TABLE events DROP COLUMN approval_request_id; ALTER TABLE events DROP COLUMN decision;
    ALTER TABLE events DROP COLUMN mode; ALTER TABLE events DROP COLUMN passport_jti;
    ALTER TABLE events DROP COLUMN request_hash; ALTER TABLE events DROP COLUMN tool_id;
    ALTER TABLE events DROP COLUMN json; PRAGMA user_version = 14;";

fn open(folder: &TempDir) -> SqliteStore {
    SqliteStore::open(&folder.path().join("data.db")).unwrap()
}

#[tokio::test]
async fn second_gateway_cannot_open_data_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    let store = SqliteStore::open(&path).unwrap();
    let error = SqliteStore::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Locked(_)), "{error}");
    assert!(error.to_string().contains("in use by another gateway"), "{error}");
    store.close().await;
    drop(store);
    SqliteStore::open(&path).unwrap();
}

#[test]
fn newer_schema_is_rejected_unchanged() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = SqliteStore::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Newer(_, 99, _)), "{error}");
}

#[tokio::test]
async fn older_schema_is_migrated() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    let store = open(&folder);
    store.record(event("t", "c", 1)).await.unwrap();
    store.close().await;
    drop(store);
    // As created by the first version.
    let file = Connection::open(&path).unwrap();
    file.execute_batch(EVENTS_OF_VERSION_14).unwrap();
    file.execute_batch(
            "DROP TRIGGER events_are_not_replaced; DROP TRIGGER chains_are_not_replaced;
             DROP TRIGGER chains_are_not_removed; DROP TRIGGER chains_only_grow;
             DROP TRIGGER archives_only_grow; DROP TRIGGER events_are_not_restored; DROP TRIGGER events_are_not_removed;
             ALTER TABLE chains DROP COLUMN archived; ALTER TABLE chains DROP COLUMN archived_head;
             ALTER TABLE chains DROP COLUMN archived_tree; ALTER TABLE chains DROP COLUMN archived_at;
             CREATE TRIGGER events_are_not_removed BEFORE DELETE ON events BEGIN SELECT RAISE (ABORT, 'x'); END;
             DROP TABLE answers; DROP TABLE answer_texts; DROP TABLE state;
             CREATE TABLE answers (tenant_id TEXT NOT NULL, key_name TEXT NOT NULL, idempotency_key TEXT NOT NULL,
                 fingerprint BLOB NOT NULL, answer BLOB NOT NULL, UNIQUE (tenant_id, key_name, idempotency_key)) STRICT;
             DROP TABLE halts; DROP TABLE halt_state; DROP TABLE halt_acknowledgements;
             DROP TABLE kept; DROP TABLE sessions; DROP TABLE sign_ins; DROP TABLE webhook_leases; DROP TABLE webhook_cursors; DROP TABLE webhook_dead_letters;
             DROP TABLE budget_claims; DROP TABLE budget_accounts; DROP TABLE credentials; DROP TABLE approvals; DROP TABLE passports; DROP TABLE signing_keys; DROP TABLE manifests;
             PRAGMA user_version = 1",
        )
        .unwrap();
    drop(file);
    let error = SqliteStore::open_existing(&path).unwrap_err();
    assert!(matches!(error, OpenError::Older(_)), "{error}");

    let store = open(&folder);
    store.record(event("t", "c", 2)).await.unwrap();
    assert_eq!(store.passport("t", "ap_1").await, Ok(None));
    assert_eq!(store.credential("t", "tool").await, Ok(None));
    assert_eq!(store.approved_manifest("t", "tool").await, Ok(None));
    assert_eq!(first_broken(&store, "t", "c").await, None);
}

/// Decisions by one rule, with the responses that the gateway writes.
fn keyed(number: usize, body: u8) -> (DecisionRecord, String) {
    let hash = format!("{number:064x}");
    let response =
        format!(r#"{{"decision":"allow","evidence_event_id":"ev_{number}","request_hash":"{hash}"}}"#);
    let mut append = idempotent("t", "key", &format!("i{number}"), body, "");
    append.event.event_id = format!("ev_{number}");
    append.event.request_hash = Some(hash);
    append.idempotency.as_mut().unwrap().response = Bytes::from(response.clone());
    (append, response)
}

async fn assert_replayed(store: &SqliteStore, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let (append, response) = keyed(number, 1);
        let outcome = store.decide(append).await.unwrap();
        let DecisionOutcome::EarlierResponse(earlier) = outcome else { panic!("{number}: {outcome:?}") };
        assert_eq!(earlier.response, response);
        assert_eq!(store.decide(keyed(number, 2).0).await, Ok(DecisionOutcome::Conflict));
    }
}

#[tokio::test]
async fn responses_that_share_a_text_are_replayed_unchanged() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    for start in 0..3 {
        let store = open(&folder);
        for number in 0..5 {
            let (append, _) = keyed(start * 5 + number, 1);
            assert_eq!(store.decide(append).await, Ok(DecisionOutcome::Recorded));
        }
        assert_replayed(&store, 0..start * 5 + 5).await;
        store.close().await;
    }
    let file = Connection::open(&path).unwrap();
    let count = |query: &str| file.query_one(query, [], |row| row.get::<_, u32>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM answer_texts"), 1);
    // The first one of each start.
    assert_eq!(count("SELECT count(*) FROM answers WHERE answer IS NOT NULL"), 3);
    assert_eq!(count("SELECT count(*) FROM answers WHERE text IS NOT NULL"), 12);
    let kept = count("SELECT needed_until - (SELECT max(expires_at) FROM answers) FROM answer_texts");
    assert!((80_000..=86_400).contains(&kept), "{kept}");
}

#[tokio::test]
async fn texts_of_a_failed_batch_are_stored_again() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    let file = Connection::open(folder.path().join("data.db")).unwrap();
    store.decide(keyed(0, 1).0).await.unwrap();
    file.execute_batch("CREATE TRIGGER fails BEFORE INSERT ON answers BEGIN SELECT RAISE (ABORT, 'x'); END")
        .unwrap();
    assert!(store.decide(keyed(1, 1).0).await.is_err());
    file.execute_batch("DROP TRIGGER fails").unwrap();
    for number in 1..5 {
        store.decide(keyed(number, 1).0).await.unwrap();
    }
    assert_replayed(&store, 0..5).await;
}

#[tokio::test]
async fn responses_of_an_older_schema_are_replayed() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    let store = open(&folder);
    store.decide(keyed(0, 1).0).await.unwrap();
    store.close().await;
    drop(store);
    // As created by version 13.
    let file = Connection::open(&path).unwrap();
    file.execute_batch(EVENTS_OF_VERSION_14).unwrap();
    file.execute_batch(
            "ALTER TABLE answers RENAME TO new_answers;
             CREATE TABLE answers (tenant_id TEXT NOT NULL, key_name TEXT NOT NULL, idempotency_key TEXT NOT NULL,
                 fingerprint BLOB NOT NULL, answer BLOB NOT NULL, expires_at INTEGER NOT NULL DEFAULT 0,
                 seq INTEGER NOT NULL DEFAULT 0, allowed_seq INTEGER,
                 UNIQUE (tenant_id, key_name, idempotency_key)) STRICT;
             CREATE INDEX answers_by_end ON answers (expires_at);
             INSERT INTO answers SELECT 't', 'key', 'i0', fingerprint, answer, expires_at, seq, allowed_seq
                 FROM new_answers;
             DROP TABLE new_answers; DROP TABLE answer_texts;
             CREATE INDEX events_decided ON events (chain); CREATE INDEX events_asked ON events (chain);
             PRAGMA user_version = 13",
        )
        .unwrap();
    drop(file);
    let store = open(&folder);
    for number in 1..3 {
        store.decide(keyed(number, 1).0).await.unwrap();
    }
    assert_replayed(&store, 0..3).await;
    assert_eq!(first_broken(&store, "t", "decisions").await, None);
    let file = Connection::open(&path).unwrap();
    let indexes = "SELECT sql FROM sqlite_master WHERE name = 'events_decided'";
    let index: String = file.query_one(indexes, [], |row| row.get(0)).unwrap();
    assert!(index.contains("substr("), "{index}");
}

#[tokio::test]
async fn events_of_an_older_schema_are_found() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    let decision = |number| {
        let (mut decision, _) = keyed(number, 1);
        decision.event.event_type = "decision".to_owned();
        decision
    };
    let store = open(&folder);
    store.decide(decision(0)).await.unwrap();
    store.close().await;
    drop(store);
    let file = Connection::open(&path).unwrap();
    file.execute_batch(EVENTS_OF_VERSION_14).unwrap();
    file.execute_batch(
        r#"CREATE INDEX events_by_tool ON events (chain) WHERE instr(event, '"event_type":"tool.approved"') > 0;
           CREATE INDEX events_decided ON events (chain) WHERE instr(event, '"event_type":"decision"') > 0"#,
    )
    .unwrap();
    drop(file);
    let store = open(&folder);
    store.decide(decision(1)).await.unwrap();
    let author = Author { key_name: "key", agent: None };
    for number in 0..3 {
        let found = store.has_event("t", Subject::Decision, &format!("{number:064x}"), author).await;
        assert_eq!(found, Ok(number < 2), "{number}");
    }
    let file = Connection::open(&path).unwrap();
    let old = "SELECT count(*) FROM sqlite_master WHERE type = 'index' AND sql LIKE '%instr%'";
    assert_eq!(file.query_one(old, [], |row| row.get(0)), Ok(0));
}

#[tokio::test]
async fn clock_follows_events_of_other_processes() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    let file = Connection::open(folder.path().join("data.db")).unwrap();
    for (number, year) in (1_u16..).zip([2999, 3000]) {
        store.record(event("t", "c", number.into())).await.unwrap();
        let text = format!(r#"{{"created_at":"{year}-01-01T00:00:00.000Z"}}"#);
        file.execute(
            "INSERT INTO events (chain, seq, event) SELECT id, ?1, ?2 FROM chains",
            params![100 + number, text],
        )
        .unwrap();
        store.record(event("t", "c", number.into())).await.unwrap();
        let recorded = texts(&store, "t", "c").await;
        let last = recorded.iter().rfind(|text| text.contains("event_id")).unwrap();
        assert!(last.contains(&format!(r#""created_at":"{year}-"#)), "{last}");
    }
}

#[test]
fn members_of_events_are_those_of_the_object() {
    let folder = TempDir::new().unwrap();
    drop(open(&folder));
    let file = Connection::open(folder.path().join("data.db")).unwrap();
    file.execute_batch(
        "INSERT INTO chains (id, tenant_id, chain_id, length, head) VALUES (1, 't', 'c', 0, '')",
    )
    .unwrap();
    let texts = [
        (r#"{"event_type":"decision","tool_id":"t"}"#, Some("decision"), Some("t")),
        (r#"{"event_type":"evidence","metadata":{"tool_id":"t"}}"#, Some("evidence"), None),
        (r#"{"goal":"\",\"event_type\":\"decision\"","tool_id":"t"}"#, None, Some("t")),
        (r#"{"event_type":"decision","tool_id":"t""#, None, None),
        ("", None, None),
    ];
    for (seq, (text, event_type, tool)) in (1..).zip(texts) {
        file.execute("INSERT INTO events (chain, seq, event) VALUES (1, ?1, ?2)", params![seq, text])
            .unwrap();
        let found = file.query_one("SELECT event_type, tool_id FROM events WHERE seq = ?1", [seq], |row| {
            Ok((row.get::<_, Option<String>>(0)?, row.get::<_, Option<String>>(1)?))
        });
        let (found_type, found_tool) = found.unwrap();
        assert_eq!((found_type.as_deref(), found_tool.as_deref()), (event_type, tool), "{text}");
    }
}

#[tokio::test]
async fn halt_rows_cannot_be_removed_or_lifted_twice() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    let halt = Halt::new(Some("t".into()), Scope::Tenant, None, "r".to_owned(), "k");
    let started = store.change_halts(HaltChange::Start(Box::new(halt))).await.unwrap();
    let HaltOutcome::Changed(halt) = started else { panic!("{started:?}") };
    let lift = HaltChange::Lift { id: halt.id.clone(), by: "k".to_owned(), reason: "r".to_owned() };
    assert!(matches!(store.change_halts(lift).await, Ok(HaltOutcome::Changed(_))));
    let file = Connection::open(folder.path().join("data.db")).unwrap();
    for change in [
        "DELETE FROM halts",
        "UPDATE halts SET target = 'x'",
        "UPDATE halts SET lifted_epoch = NULL",
        "INSERT OR REPLACE INTO halts SELECT * FROM halts",
        "DELETE FROM halt_state",
        "INSERT OR REPLACE INTO halt_state VALUES (1, 0)",
        "UPDATE halt_state SET epoch = 0",
    ] {
        assert!(file.execute(change, []).is_err(), "{change}");
    }
}

#[test]
fn non_database_file_is_rejected() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    std::fs::write(&path, "not a database, but long enough to be taken for one".repeat(100)).unwrap();
    assert!(matches!(SqliteStore::open(&path), Err(OpenError::Sqlite(..))));
    let nowhere = folder.path().join("none/data.db");
    assert!(matches!(SqliteStore::open(&nowhere), Err(OpenError::Io(..))));
}

#[cfg(unix)]
#[tokio::test]
async fn data_files_are_private() {
    use std::os::unix::fs::PermissionsExt;

    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.db");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let store = open(&folder);
    store.record(event("t", "c", 1)).await.unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{:?}", file.file_name());
    }
}
