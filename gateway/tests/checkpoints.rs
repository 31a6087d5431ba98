//! Ledger checkpoints: created when due, exported, and contradicted by a rewritten ledger.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use actpass_gateway::checkpoints::{Checkpoint, Checkpoints, Interval};
use actpass_gateway::clock::Clock;
use actpass_gateway::config::MasterKeySource;
use actpass_gateway::passport::SigningKeyStore;
use actpass_gateway::seal::MasterKey;
use actpass_protocol::token::{Algorithm, PublicKey};
use actpass_protocol::{Json, hash_payload};
use common::{EVIDENCE, Gateway, refund, text};

const MASTER: &str = "0707070707070707070707070707070707070707070707070707070707070707";

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_actpass-gateway"));
    command.current_dir(folder).args(arguments).env("ACTPASS_MASTER_KEY", MASTER);
    command.stdin(Stdio::null()).output().unwrap()
}

fn export(folder: &Path, more: &[&str]) -> Output {
    let arguments = ["evidence", "export", "decisions", "--data", "data.db", "--tenant", "one"];
    run(folder, &[arguments.as_slice(), more].concat())
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn is_signed(output: &Output) -> bool {
    String::from_utf8_lossy(&output.stdout).contains("{\"signature\":")
}

/// Changes an event and recomputes all hashes, as an attacker with the data file but no key can.
fn rewrite(path: &Path) {
    let file = rusqlite::Connection::open(path).unwrap();
    file.execute_batch(
        "DROP TRIGGER events_are_not_changed; DROP TRIGGER events_are_not_removed; DROP TRIGGER chains_are_not_removed",
    )
    .unwrap();
    let chain: i64 = file
        .query_one("SELECT id FROM chains WHERE tenant_id = 'one' AND chain_id = 'decisions'", [], |row| {
            row.get(0)
        })
        .unwrap();
    let mut previous = "0".repeat(64);
    let mut seq = 1;
    while let Ok(event) = file.query_one(
        "SELECT event FROM events WHERE chain = ?1 AND seq = ?2",
        rusqlite::params![chain, seq],
        |row| row.get::<_, String>(0),
    ) {
        let Ok(Json::Object(mut members)) = Json::parse(event.as_bytes()) else { panic!("{event}") };
        members.retain(|(name, _)| name != "current_event_hash");
        for (name, value) in &mut members {
            match &**name {
                "previous_event_hash" => *value = Json::from(&*previous),
                "goal" if seq == 2 => *value = Json::from("something else"),
                _ => {}
            }
        }
        let hash = hash_payload(&Json::Object(members.clone())).unwrap();
        members.push(("current_event_hash".to_owned(), Json::from(&*hash)));
        file.execute(
            "UPDATE events SET event = ?3 WHERE chain = ?1 AND seq = ?2",
            rusqlite::params![chain, seq, Json::Object(members).to_string()],
        )
        .unwrap();
        (previous, seq) = (hash, seq + 1);
    }
    file.execute("UPDATE chains SET head = ?2 WHERE id = ?1", rusqlite::params![chain, previous]).unwrap();
}

#[tokio::test]
async fn rewritten_ledger_contradicts_checkpoints_and_is_not_signed() {
    let time = Arc::new(AtomicU64::new(2_000_000_000));
    let read = Arc::clone(&time);
    let clock = Clock::new(move || UNIX_EPOCH + Duration::from_secs(read.load(Ordering::SeqCst)));
    let own = clock.clone();
    let gateway = Gateway::start_with("", |settings| {
        settings.master_key = MasterKeySource::Given(MasterKey::parse(MASTER).unwrap());
        settings.clock = own;
    })
    .await;
    let folder = gateway.folder.path().to_owned();
    let store = gateway.data.open_existing().await.unwrap();
    let keys =
        SigningKeyStore::open(&*store, MasterKey::parse(MASTER).unwrap(), Algorithm::EdDsa).await.unwrap();
    let interval = Interval { events: 5, seconds: 3600 };
    let mut checkpoints = Checkpoints::new(interval, clock);
    let tenants = ["one".to_owned(), "two".to_owned()];
    let mut make = async |decisions: usize| {
        for _ in 0..decisions {
            gateway.decide("apk_one", &refund("1", "")).await;
        }
        checkpoints.make(&*store, Some(&keys), &tenants).await.unwrap()
    };
    // After the configured number of events or seconds, and not for chains without new events.
    let made = [make(4).await, make(1).await, make(0).await, make(3).await];
    assert_eq!(made, [0, 1, 0, 0]);
    time.fetch_add(3599, Ordering::SeqCst);
    assert_eq!(make(0).await, 0);
    time.fetch_add(1, Ordering::SeqCst);
    assert_eq!((make(0).await, make(0).await), (1, 0));
    // Another process continues from the last checkpoint.
    let mut after =
        Checkpoints::new(interval, Clock::new(|| UNIX_EPOCH + Duration::from_secs(2_000_009_999)));
    assert_eq!(after.make(&*store, Some(&keys), &tenants).await.unwrap(), 0);

    let events = gateway.events("apk_one", "checkpoints").await;
    let lengths: Vec<_> = events
        .iter()
        .map(|event| event.member("metadata").unwrap().member("length").unwrap().to_string())
        .collect();
    assert_eq!(lengths, ["5", "8"]);
    assert_eq!(text(&events[1], "metadata.previous"), text(&events[0], "current_event_hash"));
    let jwks = gateway.get("/.well-known/jwks.json", "apk_one").send().await.unwrap().bytes().await.unwrap();
    let public = PublicKey::parse_jwks(&jwks).unwrap();
    let read = Checkpoint::read(&events[1].to_string(), &public).unwrap();
    assert_eq!((&*read.tenant_id, &*read.chain_id, read.head.length), ("one", "decisions", 8));
    let exclusive = text(&events[1], "metadata.signature").unwrap();
    assert_eq!(Checkpoint::read(exclusive, &public).unwrap(), read);
    for (from, to) in [("\"length\":8", "\"length\":7"), ("\"decisions\"", "\"tools\""), (exclusive, "x.y.z")]
    {
        assert!(Checkpoint::read(&events[1].to_string().replace(from, to), &public).is_err(), "{from}");
    }
    // Clients cannot create checkpoints.
    for body in [
        r#"{"event_type": "note", "chain_id": "checkpoints"}"#,
        r#"{"event_type": "ledger.checkpoint", "chain_id": "c"}"#,
    ] {
        assert_eq!(
            gateway.post(EVIDENCE, "apdv_one").body(body).send().await.unwrap().status(),
            422,
            "{body}"
        );
    }
    gateway.decide("apk_one", &refund("1", "")).await;
    std::fs::write(folder.join("kept.json"), events[1].to_string()).unwrap();
    std::fs::write(folder.join("jwks.json"), &jwks).unwrap();
    store.close().await;
    drop(store);
    let mut gateway = gateway;
    gateway.server.take().unwrap().stop().await.unwrap();

    let whole = export(&folder, &["--checkpoint", "kept.json"]);
    assert!(whole.status.success() && is_signed(&whole), "{}", err(&whole));
    std::fs::write(folder.join("whole.jsonl"), &whole.stdout).unwrap();
    let checked = ["--jwks", "jwks.json", "--checkpoint", "kept.json"];
    let verify = |file: &str| run(&folder, &[&["evidence", "verify", file], checked.as_slice()].concat());
    assert!(verify("whole.jsonl").status.success(), "{}", err(&verify("whole.jsonl")));
    // The checkpoint chain is verified with the same keys.
    let own = run(&folder, &["evidence", "export", "checkpoints", "--data", "data.db", "--tenant", "one"]);
    std::fs::write(folder.join("own.jsonl"), &own.stdout).unwrap();
    let own = run(&folder, &["evidence", "verify", "own.jsonl", "--jwks", "jwks.json"]);
    assert!(own.status.success(), "{}", err(&own));

    rewrite(&folder.join("data.db"));
    let rewritten = export(&folder, &[]);
    assert!(!rewritten.status.success() && !is_signed(&rewritten));
    assert!(err(&rewritten).contains("contradicts the checkpoint at event 5"), "{}", err(&rewritten));
    std::fs::write(folder.join("rewritten.jsonl"), &rewritten.stdout).unwrap();
    assert!(err(&verify("rewritten.jsonl")).contains("contradicts the checkpoint at event 8"));
    // Without the checkpoints in the data, the externally kept one detects it.
    let file = rusqlite::Connection::open(folder.join("data.db")).unwrap();
    file.execute_batch(
        "DELETE FROM events WHERE chain = (SELECT id FROM chains WHERE tenant_id = 'one' AND chain_id = 'checkpoints');
         DELETE FROM chains WHERE tenant_id = 'one' AND chain_id = 'checkpoints'",
    )
    .unwrap();
    assert!(is_signed(&export(&folder, &[])), "not detectable from the data");
    let kept = export(&folder, &["--checkpoint", "kept.json"]);
    assert!(!kept.status.success() && !is_signed(&kept), "{}", err(&kept));
    // An unsigned checkpoint, or one of another chain, is rejected.
    std::fs::write(folder.join("forged.json"), events[1].to_string().replace("\"length\":8", "\"length\":5"))
        .unwrap();
    for file in ["forged.json", "jwks.json"] {
        let refused = export(&folder, &["--checkpoint", file]);
        assert!(!refused.status.success() && !is_signed(&refused), "{file}");
    }
}

/// A gateway with `decisions` decisions and a master key, and its public keys in `jwks.json`.
async fn gateway_with(decisions: usize) -> Gateway {
    let gateway = Gateway::start_with("", |settings| {
        settings.master_key = MasterKeySource::Given(MasterKey::parse(MASTER).unwrap());
    })
    .await;
    for _ in 0..decisions {
        gateway.decide("apk_one", &refund("1", "")).await;
    }
    let jwks = gateway.get("/.well-known/jwks.json", "apk_one").send().await.unwrap().bytes().await.unwrap();
    std::fs::write(gateway.folder.path().join("jwks.json"), &jwks).unwrap();
    gateway
}

/// Makes a checkpoint of each chain and returns the signed note of the decisions.
async fn checkpoint(gateway: &Gateway, file: Option<&str>) -> String {
    let store = gateway.data.open_existing().await.unwrap();
    let keys =
        SigningKeyStore::open(&*store, MasterKey::parse(MASTER).unwrap(), Algorithm::EdDsa).await.unwrap();
    let checkpoints = Checkpoints::new(Interval { events: 1, seconds: 1 }, Clock::default());
    let file = file.map(|file| gateway.folder.path().join(file));
    let mut checkpoints = checkpoints.publish(Some("https://gateway.example/"), file);
    assert_eq!(checkpoints.make(&*store, Some(&keys), &["one".to_owned()]).await.unwrap(), 1);
    store.close().await;
    let events = gateway.events("apk_one", "checkpoints").await;
    text(events.last().unwrap(), "metadata.note").unwrap().to_owned()
}

fn prove(folder: &Path, event: &str, more: &[&str]) -> Output {
    let arguments = ["evidence", "prove", event, "--data", "data.db", "--tenant", "one"];
    run(folder, &[arguments.as_slice(), more].concat())
}

fn verify_proof(folder: &Path, proof: &str, more: &[&str]) -> Output {
    std::fs::write(folder.join("proof.json"), proof).unwrap();
    let arguments = ["evidence", "verify", "--proof", "proof.json", "--jwks", "jwks.json"];
    run(folder, &[arguments.as_slice(), more].concat())
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn proof_of_an_event_verifies_without_the_ledger() {
    let gateway = gateway_with(6).await;
    let folder = gateway.folder.path().to_owned();
    let ids: Vec<_> = gateway.events("apk_one", "decisions").await;
    let ids: Vec<_> = ids.iter().map(|event| text(event, "event_id").unwrap().to_owned()).collect();
    let kept = checkpoint(&gateway, Some("notes.txt")).await;
    assert!(kept.starts_with("gateway.example/one/decisions\n6\n"), "{kept}");
    gateway.decide("apk_one", &refund("1", "")).await;
    let newer = checkpoint(&gateway, Some("notes.txt")).await;
    std::fs::write(folder.join("kept.txt"), &kept).unwrap();
    std::fs::write(folder.join("newer.txt"), &newer).unwrap();
    assert_eq!(std::fs::read_to_string(folder.join("notes.txt")).unwrap(), format!("{kept}\n{newer}\n"));
    gateway.decide("apk_one", &refund("1", "")).await;

    // Each event, to a new checkpoint and to a kept one.
    for (at, id) in (1..).zip(&ids) {
        let proof = out(&prove(&folder, id, &[]));
        let verified = verify_proof(&folder, &proof, &[]);
        assert!(
            out(&verified).contains(&format!("is event {at} of 8 in actpass-gateway/one/decisions")),
            "{verified:?}"
        );
        let proof = out(&prove(&folder, id, &["--checkpoint", "kept.txt"]));
        let verified = verify_proof(&folder, &proof, &["--checkpoint", "kept.txt"]);
        assert!(
            out(&verified).contains(&format!("event {at} of 6 in gateway.example/one/decisions")),
            "{verified:?}"
        );
        assert!(out(&verified).contains("agrees with the kept checkpoint at event 6"), "{verified:?}");
        let newer = verify_proof(&folder, &proof, &["--checkpoint", "newer.txt"]);
        assert!(err(&newer).contains("is newer than the proof"), "{newer:?}");
    }
    // An event after the kept checkpoints: the proof leads back to all of them.
    let last = gateway.events("apk_one", "decisions").await;
    let last = text(&last[7], "event_id").unwrap();
    let whole = out(&prove(&folder, last, &["--checkpoint", "notes.txt"]));
    let verified = verify_proof(&folder, &whole, &["--checkpoint", "notes.txt"]);
    assert!(out(&verified).contains("event 8 of 8"), "{verified:?}");
    assert!(
        out(&verified).ends_with("event 6\nagrees with the kept checkpoint at event 7\n"),
        "{verified:?}"
    );
    let bare = out(&prove(&folder, last, &[]));
    let unproven = verify_proof(&folder, &bare, &["--checkpoint", "kept.txt"]);
    assert!(err(&unproven).contains("does not cover the kept checkpoint at event 6"), "{unproven:?}");

    // Each changed part is named.
    let Some(Json::Array(hashes)) =
        Json::parse(whole.as_bytes()).unwrap().member("inclusion").and_then(|i| i.member("hashes")).cloned()
    else {
        panic!("{whole}")
    };
    let first = hashes[0].as_str().unwrap();
    let (_, root) = whole.split_once("\\n8\\n").unwrap();
    for (from, to, problem) in [
        ("\"allow\"", "\"deny\"", "the event in the proof is broken: edited"),
        (first, &*"0".repeat(64), "is not in the chain of the checkpoint"),
        ("\"index\":7", "\"index\":6", "is not in the chain of the checkpoint"),
        ("\\n8\\n", "\\n9\\n", "the checkpoint has an invalid signature"),
        (root.get(..8).unwrap(), "AAAAAAAA", "the checkpoint has an invalid signature"),
        ("/one/", "/two/", "the checkpoint is not signed by a given key"),
        ("\"size\":6", "\"size\":5", "does not cover the kept checkpoint at event 6"),
        ("\"inclusion\"", "\"exclusion\"", "expected a proof"),
    ] {
        let changed = verify_proof(&folder, &whole.replace(from, to), &["--checkpoint", "notes.txt"]);
        assert!(!changed.status.success() && err(&changed).contains(problem), "{from}: {changed:?}");
    }
    let consistency = whole.rsplit_once("\"consistency\"").unwrap();
    let hash = consistency.1.split_once("\"hashes\":[\"").unwrap().1;
    let changed = whole.replacen(hash.get(..64).unwrap(), &"0".repeat(64), 9);
    let changed = verify_proof(&folder, &changed, &["--checkpoint", "notes.txt"]);
    assert!(!changed.status.success(), "{changed:?}");
    // The proof of one event is not that of another.
    let other = out(&prove(&folder, &ids[0], &[]));
    let (event, _) = other.split_once(",\"checkpoint\"").unwrap();
    let (_, rest) = whole.split_once(",\"checkpoint\"").unwrap();
    let swapped = verify_proof(&folder, &format!("{event},\"checkpoint\"{rest}"), &[]);
    assert!(err(&swapped).contains("event 1 is not in the chain of the checkpoint"), "{swapped:?}");

    let unknown = prove(&folder, "ev_0", &[]);
    assert!(err(&unknown).contains("has no event \"ev_0\""), "{unknown:?}");
    // Without the master key, the newest recorded checkpoint is used.
    let bare = |event: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_actpass-gateway"));
        let arguments = ["evidence", "prove", event, "--data", "data.db", "--tenant", "one"];
        command.current_dir(&folder).args(arguments).env_remove("ACTPASS_MASTER_KEY").output().unwrap()
    };
    let proof = out(&bare(&ids[2]));
    assert!(out(&verify_proof(&folder, &proof, &[])).contains("event 3 of 7"), "{proof}");
    assert!(err(&bare(last)).contains("no signed checkpoint covers the event, and no master key"));
    gateway.stop().await;
}

#[tokio::test]
async fn rewritten_ledger_contradicts_a_kept_note() {
    let gateway = gateway_with(5).await;
    let folder = gateway.folder.path().to_owned();
    let kept = checkpoint(&gateway, None).await;
    std::fs::write(folder.join("kept.txt"), kept).unwrap();
    gateway.decide("apk_one", &refund("1", "")).await;
    let events = gateway.events("apk_one", "decisions").await;
    let (second, last) = (text(&events[1], "event_id").unwrap(), text(&events[5], "event_id").unwrap());
    let honest = out(&prove(&folder, last, &["--checkpoint", "kept.txt"]));
    let mut gateway = gateway;
    gateway.server.take().unwrap().stop().await.unwrap();
    let keep = ["--checkpoint", "kept.txt"];
    let verify = |file: &str| {
        run(&folder, &["evidence", "verify", file, "--jwks", "jwks.json", "--checkpoint", "kept.txt"])
    };
    std::fs::write(folder.join("whole.jsonl"), export(&folder, &keep).stdout).unwrap();
    assert!(verify("whole.jsonl").status.success(), "{:?}", verify("whole.jsonl"));

    // All hashes are recomputed, and the checkpoints in the data are removed.
    rewrite(&folder.join("data.db"));
    let file = rusqlite::Connection::open(folder.join("data.db")).unwrap();
    let chain = "(SELECT id FROM chains WHERE chain_id = 'checkpoints')";
    file.execute_batch(&format!(
        "DELETE FROM events WHERE chain = {chain}; DELETE FROM chains WHERE id = {chain}"
    ))
    .unwrap();
    drop(file);
    let signed = export(&folder, &[]);
    assert!(is_signed(&signed), "not detectable without the note");
    std::fs::write(folder.join("rewritten.jsonl"), &signed.stdout).unwrap();
    let found = verify("rewritten.jsonl");
    assert!(err(&found).contains("contradicts the checkpoint at event 5 with root"), "{found:?}");
    let refused = export(&folder, &keep);
    assert!(
        !is_signed(&refused) && err(&refused).contains("contradicts the checkpoint at event 5"),
        "{refused:?}"
    );
    for event in [second, last] {
        let refused = prove(&folder, event, &keep);
        assert!(err(&refused).contains("contradicts the checkpoint at event 5"), "{refused:?}");
    }
    // A proof from the rewritten ledger: its hashes do not lead back to the kept checkpoint.
    let forged = out(&prove(&folder, last, &[]));
    let part =
        |proof: &str, name: &str| Json::parse(proof.as_bytes()).unwrap().member(name).unwrap().to_string();
    let forged =
        forged.replace("\"consistency\":[]", &format!("\"consistency\":{}", part(&honest, "consistency")));
    assert!(verify_proof(&folder, &forged, &[]).status.success());
    let found = verify_proof(&folder, &forged, &keep);
    assert!(err(&found).contains("contradicts the kept checkpoint at event 5"), "{found:?}");
}

#[tokio::test]
async fn approval_without_event_is_denied_and_reported() {
    let gateway = Gateway::start().await;
    let asked = gateway.decide("apk_one", &refund("25000", "")).await;
    let id = text(&asked, "approval_request_id").unwrap();
    let verify = async || {
        let path = "/api/v1/evidence/chains/decisions/verify";
        common::json(gateway.get(path, "apk_one").send().await.unwrap()).await.1
    };
    let whole = verify().await;
    assert_eq!((whole.member("valid"), whole.member("unproven")), (Some(&Json::Bool(true)), None));
    let file = rusqlite::Connection::open(gateway.folder.path().join("data.db")).unwrap();
    file.execute(
        "UPDATE approvals SET approved = 1, decided_by = 'name-of-apdv-one', decided_at = created_at",
        [],
    )
    .unwrap();
    let named = refund("25000", &format!(r#", "approval_request_id": "{id}""#));
    let denied = gateway.decide("apk_one", &named).await;
    assert_eq!(
        (text(&denied, "decision"), text(&denied, "reason_code")),
        (Some("deny"), Some("approval.not_proven"))
    );
    // Reused by action, it grants nothing either, and does not block new approvals.
    let again = gateway.decide("apk_one", &refund("25000", "")).await;
    assert_eq!(text(&again, "decision"), Some("require_approval"));
    assert_ne!(text(&again, "approval_request_id"), Some(id));
    let events = gateway.events("apk_one", "decisions").await;
    assert_eq!(text(&events[1], "reason_code"), Some("approval.not_proven"), "it is recorded");
    let forged = verify().await;
    assert_eq!(forged.member("valid"), Some(&Json::Bool(false)), "{forged}");
    assert!(forged.member("unproven").unwrap().to_string().contains(id), "{forged}");
    let audit = run(gateway.folder.path(), &["evidence", "audit", "--data", "data.db", "--tenant", "one"]);
    assert_eq!(audit.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&audit.stdout).contains(id), "{}", err(&audit));
    let other = run(gateway.folder.path(), &["evidence", "audit", "--data", "data.db", "--tenant", "two"]);
    assert_eq!(other.status.code(), Some(0), "{}", err(&other));
    gateway.stop().await;
}

#[tokio::test]
async fn gateway_checkpoints_with_and_without_master_key() {
    for (source, is_signed) in
        [(MasterKeySource::Missing, false), (MasterKeySource::Given(MasterKey::parse(MASTER).unwrap()), true)]
    {
        let gateway = Gateway::start_with("", |settings| {
            settings.master_key = source;
            settings.checkpoints = Interval { events: 1, seconds: 1 };
        })
        .await;
        gateway.decide("apk_one", &refund("1", "")).await;
        let path = "/api/v1/evidence/chains/checkpoints";
        let mut tries = 0;
        while gateway.get(path, "apk_one").send().await.unwrap().status() != 200 {
            tries += 1;
            assert!(tries < 600, "no checkpoint was created");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let events = gateway.events("apk_one", "checkpoints").await;
        assert_eq!(text(&events[0], "metadata.chain_id"), Some("decisions"));
        assert_eq!(text(&events[0], "metadata.signature").is_some(), is_signed);
        gateway.stop().await;
    }
}
