//! SQLite only.

use rusqlite::Connection;
use tempfile::TempDir;

use super::super::{HaltChange, HaltOutcome, OpenError, SqliteStore, Store};
use super::{event, first_broken};
use crate::halts::{Halt, Scope};

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
    Connection::open(&path)
        .unwrap()
        .execute_batch(
            "DROP INDEX events_by_approval; DROP INDEX events_by_passport; DROP INDEX events_by_tool;
             DROP TRIGGER events_are_not_replaced; DROP TRIGGER chains_are_not_replaced;
             DROP TRIGGER chains_are_not_removed; DROP TRIGGER chains_only_grow; DROP INDEX answers_by_end;
             DROP TRIGGER archives_only_grow; DROP TRIGGER events_are_not_restored; DROP TRIGGER events_are_not_removed;
             ALTER TABLE chains DROP COLUMN archived; ALTER TABLE chains DROP COLUMN archived_head;
             ALTER TABLE chains DROP COLUMN archived_tree; ALTER TABLE chains DROP COLUMN archived_at;
             CREATE TRIGGER events_are_not_removed BEFORE DELETE ON events BEGIN SELECT RAISE (ABORT, 'x'); END;
             ALTER TABLE answers DROP COLUMN expires_at; ALTER TABLE answers DROP COLUMN seq;
             ALTER TABLE answers DROP COLUMN allowed_seq; DROP TABLE state;
             DROP TABLE halts; DROP TABLE halt_state; DROP TABLE halt_acknowledgements;
             DROP TABLE kept; DROP TABLE sessions; DROP TABLE sign_ins; DROP TABLE webhook_leases; DROP TABLE webhook_cursors; DROP TABLE webhook_dead_letters;
             DROP TABLE budget_claims; DROP TABLE budget_accounts; DROP TABLE credentials; DROP TABLE approvals; DROP TABLE passports; DROP TABLE signing_keys; DROP TABLE manifests;
             PRAGMA user_version = 1",
        )
        .unwrap();
    let error = SqliteStore::open_existing(&path).unwrap_err();
    assert!(matches!(error, OpenError::Older(_)), "{error}");

    let store = open(&folder);
    store.record(event("t", "c", 2)).await.unwrap();
    assert_eq!(store.passport("t", "ap_1").await, Ok(None));
    assert_eq!(store.credential("t", "tool").await, Ok(None));
    assert_eq!(store.approved_manifest("t", "tool").await, Ok(None));
    assert_eq!(first_broken(&store, "t", "c").await, None);
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
