//! Archived segments: written, removed from the data, verified, and proven.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;
#[path = "common/object_store.rs"]
mod object_store;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

use actpass_gateway::config::{MasterKeySource, Settings};
use actpass_gateway::evidence::Chain;
use actpass_gateway::ledger::{Archived, Draft, Head};
use actpass_gateway::passport::SigningKeyStore;
use actpass_gateway::seal::MasterKey;
use actpass_gateway::store::{Database, Location, SqliteStore, StoredEvent, TlsTrust};
use actpass_gateway::{proofs, replay};
use actpass_protocol::Json;
use actpass_protocol::token::Algorithm;
use common::{Gateway, assert_repeats, config_with, json, text};
use tempfile::TempDir;

const MASTER: &str = "0707070707070707070707070707070707070707070707070707070707070707";

/// Allows payments of up to 10000, six in 30 days, and one with `pay-once`; requires an approval
/// above.
const POLICY: &str = r#"{"id": "payments", "version": 1,
    "budgets": [{"name": "six", "count": true, "limit": 6, "per": ["agent_id"], "window": "30d",
        "when": [{"path": "tool", "operator": "==", "value": "pay"}], "release_on_failure": true,
        "on_exceed": "deny", "reason": "budget.six"}],
    "rules": [
        {"name": "again", "decision": "deny", "reason": "payment.again", "when": [
            {"path": "tool", "operator": "==", "value": "pay-once"},
            {"history": "after", "of": [{"path": "tool", "operator": "==", "value": "pay-once"}],
             "within": "30d", "same": ["agent_id"]}]},
        {"name": "small", "when": [{"path": "args.amount", "operator": "<=", "value": 10000}],
         "decision": "allow", "reason": "payment.small"},
        {"name": "large", "when": [], "decision": "require_approval", "reason": "payment.large"}]}"#;

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_actpass-gateway"));
    command.current_dir(folder).args(arguments).env("ACTPASS_MASTER_KEY", MASTER);
    command.stdin(Stdio::null()).output().unwrap()
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A gateway with the policy, and the settings of its data in `gateway.toml`.
async fn start() -> Gateway {
    let url = match module_path!().starts_with("on_postgres::") {
        false => None,
        // Tests cannot be skipped at run time; the reason was already printed.
        true => Some(common::database_url().unwrap_or_else(|| std::process::exit(0))),
    };
    let gateway = Gateway::start_with("", |settings| {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("policy.json"), POLICY).unwrap();
        let data = match &url {
            Some(url) => Location::Database(Database::parse(url, TlsTrust::default()).unwrap()),
            None => settings.data.clone(),
        };
        *settings = Settings::parse(&config_with("", "policy.json"), folder.path()).unwrap();
        settings.data = data;
        settings.master_key = MasterKeySource::Given(MasterKey::parse(MASTER).unwrap());
        settings.issuer = Some("https://gateway.example".to_owned());
    })
    .await;
    let folder = gateway.folder.path();
    std::fs::write(folder.join("policy.json"), POLICY).unwrap();
    let text = format!("issuer = \"https://gateway.example\"\n{}", config_with("", "policy.json"));
    let text = match url {
        Some(url) => text.replace("data = \"data.db\"", &format!("database_url = \"{url}\"")),
        None => text,
    };
    std::fs::write(folder.join("gateway.toml"), text).unwrap();
    std::fs::create_dir(folder.join("segments")).unwrap();
    let jwks = gateway.get("/.well-known/jwks.json", "apk_one").send().await.unwrap().bytes().await.unwrap();
    std::fs::write(folder.join("jwks.json"), &jwks).unwrap();
    gateway
}

const OF_GATEWAY: [&str; 4] = ["--config", "gateway.toml", "--tenant", "one"];

fn archive(folder: &Path, more: &[&str]) -> Output {
    let arguments = ["evidence", "archive", "--to", "segments", "--older-than", "0s"];
    run(folder, &[&arguments[..], &OF_GATEWAY, more].concat())
}

fn export(folder: &Path) -> Output {
    let exported = run(folder, &[&["evidence", "export", "decisions"], &OF_GATEWAY[..]].concat());
    std::fs::write(folder.join("live.jsonl"), &exported.stdout).unwrap();
    exported
}

/// The names of the segments in order.
fn segments(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder.join("segments")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".jsonl")).collect();
    names.sort();
    names.into_iter().map(|name| format!("segments/{name}")).collect()
}

fn verify(folder: &Path, files: &[&str]) -> Output {
    run(folder, &[&["evidence", "verify", "--jwks", "jwks.json"], files].concat())
}

fn pay(amount: u32, more: &str) -> String {
    format!(r#"{{"agent_id": "sdk", "goal": "pay", "tool": "pay", "args": {{"amount": {amount}}}{more}}}"#)
}

#[track_caller]
fn assert_decision(response: &Json, decision: &str, reason: &str) {
    let found = (text(response, "decision"), text(response, "reason_code"));
    assert_eq!(found, (Some(decision), Some(reason)), "{response}");
}

async fn post(gateway: &Gateway, path: &str, key: &str, body: &str) -> Json {
    let (status, response) = json(gateway.post(path, key).body(body.to_owned()).send().await.unwrap()).await;
    assert_eq!(status, 200, "{response}");
    response
}

async fn issue(gateway: &Gateway) -> Json {
    let body = r#"{"audience": "mcp://shop", "agent_id": "sdk", "goal": "pay", "allowed_tools": ["pay"]}"#;
    post(gateway, "/api/v1/passports/issue", "apk_one", body).await
}

/// Coverage reads archived decisions from their segments, and requires them.
#[tokio::test]
async fn coverage_reads_segments() {
    let gateway = start().await;
    let folder = gateway.folder.path().to_owned();
    let outcome = async |decision: &Json| {
        let of = |name| text(decision, name).unwrap();
        let body = format!(
            r#"{{"event_type": "action.outcome", "chain_id": "decisions", "tool_id": "pay", "request_hash": "{}",
                "metadata": {{"ended": "returned", "evidence_event_id": "{}"}}}}"#,
            of("request_hash"),
            of("evidence_event_id")
        );
        post(&gateway, "/api/v1/evidence/events", "apk_one", &body).await;
    };
    let (first, second) =
        (gateway.decide("apk_one", &pay(1, "")).await, gateway.decide("apk_one", &pay(2, "")).await);
    outcome(&first).await;
    out(&archive(&folder, &["--until", "2"]));
    outcome(&second).await;

    let coverage = |more: &[&str]| run(&folder, &[&["evidence", "coverage"], &OF_GATEWAY[..], more].concat());
    let missing = err(&coverage(&[]));
    assert!(
        missing.contains("the events up to 2 of the chain are archived; give their segments"),
        "{missing}"
    );
    let segments = segments(&folder);
    let given: Vec<_> = segments.iter().flat_map(|segment| ["--segment", segment]).collect();
    let covered = out(&coverage(&given));
    assert!(covered.starts_with("2 outcomes and 0 receipts, 0 of them"), "{covered}");
}

/// Budgets, histories, approvals, passports and responses outlive the events behind them.
#[tokio::test]
async fn archived_events_still_count() {
    let gateway = start().await;
    let folder = gateway.folder.path().to_owned();
    let decide = async |body: &str| gateway.decide("apk_one", body).await;
    let once = pay(1, "").replace("\"pay\", \"args\"", "\"pay-once\", \"args\"");
    assert_decision(&decide(&once).await, "allow", "payment.small");
    let keyed = pay(1, r#", "idempotency_key": "k1""#);
    let first = decide(&keyed).await;
    for _ in 0..2 {
        assert_decision(&decide(&pay(2, "")).await, "allow", "payment.small");
    }
    let ask = async |amount| {
        let asked = gateway.decide("apk_one", &pay(amount, "")).await;
        assert_decision(&asked, "require_approval", "payment.large");
        text(&asked, "approval_request_id").unwrap().to_owned()
    };
    let (pending, approved, spent) = (ask(20001).await, ask(20002).await, ask(20003).await);
    let approve = async |id: &str| {
        post(&gateway, &format!("/api/v1/approvals/{id}/approve"), "apdv_one", "{}").await;
    };
    approve(&approved).await;
    approve(&spent).await;
    assert_decision(&decide(&pay(20003, "")).await, "allow", "approval.approved");
    let (unused, used, revoked) = (issue(&gateway).await, issue(&gateway).await, issue(&gateway).await);
    let token = |issued: &Json| text(issued, "token").unwrap().to_owned();
    let with =
        |issued: &Json| pay(3, &format!(r#", "passport": "{}", "audience": "mcp://shop""#, token(issued)));
    assert_decision(&decide(&with(&used)).await, "allow", "payment.small");
    let jti = text(&revoked, "jti").unwrap();
    post(&gateway, "/api/v1/passports/revoke", "apk_one", &format!(r#"{{"jti": "{jti}"}}"#)).await;
    for _ in 0..5 {
        gateway.decide("apk_one", &pay(1, "").replace("\"pay\"", "\"pay-other\"")).await;
    }

    let length = gateway.events("apk_one", "decisions").await.len();
    let until = (length - 1).to_string();
    let archived = out(&archive(&folder, &["--until", &until]));
    assert!(archived.contains(&format!("events 1 to {until}")), "{archived}");
    assert!(gateway.events("apk_one", "decisions").await.len() < length, "{archived}");

    // The chain is intact, and no row lacks its event.
    let path = "/api/v1/evidence/chains/decisions/verify";
    let (_, verified) = json(gateway.get(path, "apk_one").send().await.unwrap()).await;
    assert_eq!(verified.member("valid"), Some(&Json::Bool(true)), "{verified}");
    assert_eq!(verified.member("length").map(Json::to_string), Some(length.to_string()));
    out(&run(&folder, &[&["evidence", "audit"], &OF_GATEWAY[..]].concat()));
    // A stored response, the budget, the history, approvals and passports.
    assert_repeats(&decide(&keyed).await, &first);
    assert_decision(&decide(&once).await, "deny", "payment.again");
    assert_decision(&decide(&with(&used)).await, "deny", "passport.replayed");
    assert_decision(&decide(&with(&revoked)).await, "deny", "passport.revoked");
    assert_decision(&decide(&pay(20002, "")).await, "allow", "approval.approved");
    approve(&pending).await;
    let named = format!(r#", "approval_request_id": "{spent}""#);
    assert_decision(&decide(&pay(20003, &named)).await, "deny", "approval.spent");
    // Four allowed before, two with approvals, of which one is after the archive.
    assert_decision(&decide(&with(&unused)).await, "deny", "budget.six");

    // The gateway continues the chain after a restart.
    let mut gateway = gateway;
    gateway
        .restart(|settings| {
            settings.master_key = MasterKeySource::Given(MasterKey::parse(MASTER).unwrap());
            settings.issuer = Some("https://gateway.example".to_owned());
        })
        .await;
    gateway.decide("apk_one", &pay(1, "")).await;
    export(&folder);
    let segments = segments(&folder);
    assert_eq!(segments.len(), 1);
    let verified = out(&verify(&folder, &[&segments[0], "live.jsonl"]));
    assert!(verified.contains("events, head"), "{verified}");
    gateway.stop().await;
}

fn replace_byte(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    std::fs::write(file, text.replacen(from, to, 1)).unwrap();
}

#[tokio::test]
async fn change_in_any_segment_is_found() {
    let gateway = start().await;
    let folder = gateway.folder.path().to_owned();
    for amount in 0..20 {
        gateway.decide("apk_one", &pay(amount, "")).await;
    }
    let events = gateway.events("apk_one", "decisions").await;
    let ids: Vec<_> = events.iter().map(|event| text(event, "event_id").unwrap().to_owned()).collect();
    let archived = out(&archive(&folder, &["--until", "15", "--segment-events", "5"]));
    assert_eq!(archived.lines().count(), 3, "{archived}");
    assert_eq!(out(&archive(&folder, &["--until", "15"])), "no events to archive\n");
    assert!(export(&folder).status.success());
    let segments = segments(&folder);
    let [one, two, three] = [&*segments[0], &*segments[1], &*segments[2]];
    let whole = out(&verify(&folder, &[one, two, three, "live.jsonl"]));
    assert!(whole.starts_with("20 events, head "), "{whole}");
    assert!(whole.contains("signed: events 11 to 15 of chain \"decisions\" of tenant \"one\""), "{whole}");
    // Alone, a segment is verified from its signed start.
    let alone = out(&verify(&folder, &[two]));
    assert!(alone.contains("5 events") && alone.contains("begins at event 6: earlier events are"), "{alone}");
    let notes: Vec<_> = segments.iter().map(|name| name.replace(".jsonl", ".checkpoint")).collect();
    let noted = ["--checkpoint", &*notes[0], "--checkpoint", &*notes[2]];
    out(&verify(&folder, &[&[one, two, three, "live.jsonl"][..], &noted].concat()));

    let order = "a segment is missing, repeated or out of order";
    for (files, problem) in [
        (
            vec![one, three, "live.jsonl"],
            format!("{three}: line 1: begins at event 11, expected event 6: {order}"),
        ),
        (
            vec![one, two, "live.jsonl"],
            format!("live.jsonl: line 1: begins at event 16, expected event 11: {order}"),
        ),
        (vec![one, three, two], format!("{three}: line 1: begins at event 11, expected event 6")),
        (vec![one, one], format!("{one}: line 1: begins at event 1, expected event 6")),
    ] {
        let found = err(&verify(&folder, &files));
        assert!(found.contains(&problem), "{found}");
    }
    // One byte in each place.
    let files = [one, two, three, "live.jsonl"];
    for (at, file) in files.into_iter().enumerate() {
        let path = folder.join(file);
        let kept = std::fs::read(&path).unwrap();
        let event = &ids[at * 5 + 2];
        let id = format!("\"event_id\":\"{event}\"");
        let last = if event.ends_with('0') { '1' } else { '0' };
        let changed = format!("\"event_id\":\"{}{last}\"", event.get(..event.len() - 1).unwrap());
        let signature =
            std::str::from_utf8(&kept).unwrap().rsplit_once("{\"signature\":\"").unwrap().1.to_owned();
        let (head, end) = signature.trim_end().trim_end_matches("\"}").rsplit_once('.').unwrap();
        let changed_signature =
            format!("{head}.{}{}", if end.starts_with('A') { 'B' } else { 'A' }, end.get(1..).unwrap());
        let mut changes = vec![
            (id, changed, format!("event {}", at * 5 + 3)),
            (format!("{head}.{end}"), changed_signature, "the signature".to_owned()),
        ];
        if at > 0 {
            let first = at * 5 + 1;
            changes.push((
                format!("\"first\":{first}"),
                format!("\"first\":{}", first + 1),
                "line 1".to_owned(),
            ));
            changes.push(("\"previous\":\"".to_owned(), "\"previous\":\"0".to_owned(), "line 1".to_owned()));
            changes.push(("\"frontier\":[\"".to_owned(), "\"frontier\":[\"0".to_owned(), "event".to_owned()));
        }
        for (from, to, problem) in changes {
            replace_byte(&path, &from, &to);
            let found = err(&verify(&folder, &files));
            assert!(found.starts_with(file) && found.contains(&problem), "{from}: {found}");
            std::fs::write(&path, &kept).unwrap();
        }
        // Without its last event, or without its signature.
        let lines: Vec<_> = std::str::from_utf8(&kept).unwrap().lines().collect();
        let without = |line: usize| {
            let lines = lines.iter().enumerate().filter(|(at, _)| *at != line);
            lines.fold(String::new(), |mut text, (_, line)| {
                writeln!(text, "{line}").unwrap();
                text
            })
        };
        for (line, problem) in [(lines.len() - 2, "missing"), (lines.len() - 1, "not signed")] {
            std::fs::write(&path, without(line)).unwrap();
            let found = err(&verify(&folder, &files));
            assert!(found.starts_with(file) && found.contains(problem), "{found}");
        }
        std::fs::write(&path, &kept).unwrap();
    }
    out(&verify(&folder, &files));

    // Proofs of archived and live events.
    let prove = |event: &str, more: &[&str]| {
        run(&folder, &[&["evidence", "prove", event], &OF_GATEWAY[..], more].concat())
    };
    let in_segments = ["--segment", one, "--segment", two, "--segment", three];
    for at in [0, 4, 5, 14, 15, 19] {
        let more: &[&str] = if at < 15 { &in_segments } else { &[] };
        std::fs::write(folder.join("proof.json"), prove(&ids[at], more).stdout).unwrap();
        let verified =
            out(&run(&folder, &["evidence", "verify", "--proof", "proof.json", "--jwks", "jwks.json"]));
        assert!(
            verified.contains(&format!("is event {} of 20 in gateway.example/one/decisions", at + 1)),
            "{verified}"
        );
    }
    assert!(err(&prove(&ids[3], &[])).contains("if it is archived, pass its segment"));
    assert!(err(&prove(&ids[8], &in_segments[2..4])).contains("event 11 is broken"));
    let kept = ["--checkpoint", &*notes[0]];
    assert!(err(&prove(&ids[17], &kept)).contains("pass all segments from the first one"));
    let proof = prove(&ids[17], &[&kept[..], &in_segments].concat());
    std::fs::write(folder.join("proof.json"), proof.stdout).unwrap();
    let arguments = ["evidence", "verify", "--proof", "proof.json", "--jwks", "jwks.json"];
    let verified = out(&run(&folder, &[&arguments[..], &kept].concat()));
    assert!(verified.contains("agrees with the kept checkpoint at event 5"), "{verified}");

    assert!(
        err(&run(
            &folder,
            &[&["evidence", "archive", "tools", "--to", "segments"], &OF_GATEWAY[..]].concat()
        ))
        .contains("cannot be archived")
    );
    gateway.stop().await;
}

/// Segments in a bucket are those of a folder. Nothing is removed unless the bucket has the segment.
#[tokio::test]
async fn segments_are_uploaded_before_events_are_removed() {
    let gateway = start().await;
    let folder = gateway.folder.path().to_owned();
    for amount in 0..10 {
        gateway.decide("apk_one", &pay(amount, "")).await;
    }
    let buckets = folder.join("buckets");
    for bucket in ["ledger", "damaged"] {
        std::fs::create_dir_all(buckets.join(bucket)).unwrap();
    }
    let endpoint = format!("http://{}", object_store::object_store(&buckets));
    let archive = |to: &str, secret: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_actpass-gateway"));
        command.current_dir(&folder).args(["evidence", "archive", "--to", to, "--older-than", "0s"]);
        command.args(OF_GATEWAY).args(more).env("ACTPASS_MASTER_KEY", MASTER).stdin(Stdio::null());
        command.env("AWS_ENDPOINT_URL", &endpoint).env("AWS_ALLOW_HTTP", "true");
        command.env("AWS_ACCESS_KEY_ID", object_store::ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", secret);
        command.output().unwrap()
    };
    let in_bucket = |name: &str| buckets.join("ledger/a").join(name);
    let segment = "one-decisions-000000000001-000000000004.jsonl";

    let refused = err(&archive("s3://ledger/a", "wrong", &["--until", "4"]));
    assert!(refused.contains(&format!("s3://ledger/a/{segment}: ")) && refused.contains("403"), "{refused}");
    std::fs::create_dir(buckets.join("ledger/a")).unwrap();
    std::fs::write(in_bucket(segment), "another file\n").unwrap();
    let refused = err(&archive("s3://ledger/a", object_store::SECRET_KEY, &["--until", "4"]));
    assert!(refused.contains("line 1"), "{refused}");
    assert_eq!(std::fs::read_to_string(in_bucket(segment)).unwrap(), "another file\n");
    let refused = err(&archive("s3://damaged", object_store::SECRET_KEY, &["--until", "4"]));
    assert!(refused.contains("the object differs from the upload"), "{refused}");
    assert_eq!(gateway.events("apk_one", "decisions").await.len(), 10);
    std::fs::remove_file(in_bucket(segment)).unwrap();

    let archived =
        out(&archive("s3://ledger/a", object_store::SECRET_KEY, &["--until", "8", "--segment-events", "4"]));
    assert!(archived.starts_with(&format!("s3://ledger/a/{segment}: events 1 to 4, ")), "{archived}");
    assert!(gateway.events("apk_one", "decisions").await.len() < 10);
    export(&folder);
    let second = "one-decisions-000000000005-000000000008.jsonl";
    let files = [segment, second].map(|name| in_bucket(name).display().to_string());
    let note = in_bucket("one-decisions-000000000005-000000000008.checkpoint").display().to_string();
    let whole = out(&verify(&folder, &[&files[0], &files[1], "live.jsonl", "--checkpoint", &note]));
    assert!(whole.starts_with("10 events, head "), "{whole}");
    assert!(
        err(&run(&folder, &[&["evidence", "archive", "--to", "gs://a"], &OF_GATEWAY[..]].concat()))
            .contains("unknown scheme \"gs\"")
    );
    gateway.stop().await;
}

/// Records this many random decisions, and returns the events with the bodies of the requests.
async fn random_decisions(gateway: &Gateway, count: u64) -> Vec<(StoredEvent, Option<String>)> {
    let mut random = common::random(7);
    let mut bodies = HashMap::new();
    for number in 0..count {
        let agent = random(count / 20 + 2);
        let mut pick = |words: [&'static str; 4]| words[usize::try_from(random(4)).unwrap()];
        let tool = pick(["pay", "pay", "pay-once", "pay-other"]);
        let mode = pick(["enforce", "enforce", "strict", "monitor"]);
        let ended = pick(["failed", "failed", "returned", "suspended"]);
        let amount = random(15_000);
        let key = match random(4) {
            0 => format!(r#", "idempotency_key": "k{number}""#),
            _ => String::new(),
        };
        let body = format!(
            r#"{{"agent_id": "a{agent}", "goal": "pay", "tool": "{tool}", "mode": "{mode}",
                "args": {{"amount": {amount}, "number": {number}}}{key}}}"#
        );
        let mut response = gateway.decide("apk_one", &body).await;
        if random(5) == 0 {
            // A repetition: a stored response, or another decision.
            let event = text(&response, "evidence_event_id").unwrap().to_owned();
            bodies.entry(event).or_insert(body.clone());
            response = gateway.decide("apk_one", &body).await;
        }
        let request_hash = text(&response, "request_hash").unwrap().to_owned();
        let event = text(&response, "evidence_event_id").unwrap().to_owned();
        bodies.entry(event).or_insert(body.clone());
        match (text(&response, "approval_request_id"), text(&response, "decision"), random(3)) {
            (Some(id), _, 0) => {
                let path = format!("/api/v1/approvals/{id}/approve");
                post(gateway, &path, "apdv_one", "{}").await;
                let response = gateway.decide("apk_one", &body).await;
                bodies.entry(text(&response, "evidence_event_id").unwrap().to_owned()).or_insert(body);
            }
            (_, Some("allow"), 0) => {
                let outcome = format!(
                    r#"{{"event_type": "action.outcome", "chain_id": "decisions", "request_hash": "{request_hash}",
                        "metadata": {{"ended": "{ended}"}}}}"#
                );
                post(gateway, common::EVIDENCE, "apk_one", &outcome).await;
            }
            _ => {}
        }
    }
    let events = gateway.events("apk_one", "decisions").await;
    let events = (1..).zip(events).map(|(seq, event)| {
        let body = bodies.get(text(&event, "event_id").unwrap()).cloned();
        (StoredEvent { seq, text: event.to_string() }, body)
    });
    events.collect()
}

/// Makes a bundle for each decision, and replays it.
async fn assert_replays_agree(gateway: &Gateway, count: u64) {
    let events = random_decisions(gateway, count).await;
    let store = gateway.data.open_existing().await.unwrap();
    let keys =
        SigningKeyStore::open(&*store, MasterKey::parse(MASTER).unwrap(), Algorithm::EdDsa).await.unwrap();
    let (keys, public) = (keys.cached(), keys.cached().public_keys());
    store.close().await;
    let last = Json::parse(events.last().unwrap().0.text.as_bytes()).unwrap();
    let head =
        Head { length: events.len() as u64, hash: text(&last, "current_event_hash").unwrap().to_owned() };
    let read = |each: &mut proofs::EventHandler<'_>| {
        events.iter().try_for_each(|(event, _)| each(event))?;
        Ok(Some(head.clone()))
    };
    let bundle = |event_id: &str, policy: &str, body: &str| {
        let request = proofs::Request {
            chain: Chain { tenant_id: "one", chain_id: "decisions" },
            start: &Archived::default(),
            event_id,
            authority: "gateway.example",
            kept: &[],
            known: &[],
            notes: &[],
            replay: Some((policy.as_bytes(), body.as_bytes())),
            signer: Ok(&keys),
        };
        proofs::prove(&request, read)
    };
    let replay = |bundle: &str| {
        let event = proofs::verify(bundle, &public, &[]).unwrap().event;
        replay::replay(&Json::parse(bundle.as_bytes()).unwrap(), &event)
    };
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    let mut whole = None;
    for (event, body) in &events {
        let Some(body) = body else { continue };
        let event = Json::parse(event.text.as_bytes()).unwrap();
        let made = bundle(text(&event, "event_id").unwrap(), POLICY, body).unwrap();
        let replayed = replay(&made).unwrap();
        assert!(replayed.differences.is_empty(), "{replayed}\n{made}");
        *reasons.entry(replayed.recorded.1.clone()).or_default() += 1;
        if replayed.recorded.1 == "budget.six" {
            whole = Some((text(&event, "event_id").unwrap().to_owned(), body.clone(), made));
        }
    }
    eprintln!("{} decisions replayed: {reasons:?}", reasons.values().sum::<u64>());
    for reason in ["approval.approved", "budget.six", "payment.again", "payment.large", "payment.small"] {
        assert!(reasons.contains_key(reason), "{reason}: {reasons:?}");
    }

    // Each change is named.
    let (id, body, made) = whole.unwrap();
    for (policy, body, problem) in [
        (POLICY.replace("\"limit\": 6", "\"limit\": 7"), body.clone(), "the policy has the hash"),
        (POLICY.to_owned(), body.replace("\"pay\"", "\"pai\""), "the request has the hash"),
        (POLICY.replace("30d", "31x"), body.clone(), "the policy is invalid"),
    ] {
        let refused = bundle(&id, &policy, &body).unwrap_err().to_string();
        assert!(refused.starts_with(problem), "{refused}");
    }
    let used = made.split_once("\"name\":\"six\",\"used\":\"").unwrap().1.split_once('"').unwrap().0;
    let (from, to) = (format!("\"six\",\"used\":\"{used}\""), "\"six\",\"used\":\"1\"");
    for (from, to, problem) in [
        ("\"limit\":6", "\"limit\":7", "the policy has the hash"),
        ("\"args\":{\"amount\":", "\"args\":{\"amount\":1", "the request has the hash"),
        (&*from, to, "the digest does not match the sums"),
        ("\"name\":\"six\",\"used\"", "\"name\":\"ten\",\"used\"", "the digest does not match the sums"),
        (",\"state\":", ",\"stated\":", "is not a bundle"),
    ] {
        assert!(made.contains(from), "{from}: {made}");
        let refused = replay(&made.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(refused.contains(problem), "{from}: {refused}");
    }
    // Other sums with their digest give another decision, which differs from the event.
    let mut forged = Json::parse(made.as_bytes()).unwrap();
    let accounts = forged.member("state").unwrap().member("accounts").unwrap().to_string();
    let accounts = Json::parse(accounts.replace(&from, to).as_bytes()).unwrap();
    let digest = Json::from(&*actpass_protocol::hash_payload(&accounts).unwrap());
    let Json::Object(members) = &mut forged else { panic!() };
    members.retain(|(name, _)| name != "state");
    let state = vec![("accounts".to_owned(), accounts), ("digest".to_owned(), digest)];
    members.push(("state".to_owned(), Json::Object(state)));
    let replayed = replay(&forged.to_string()).unwrap();
    assert_eq!(replayed.differences[0], "decision: recorded deny, replayed allow", "{replayed}");
    let changed = made.replacen("\"index\":", "\"index\":1", 1);
    let refused = proofs::verify(&changed, &public, &[]).unwrap_err().to_string();
    assert!(refused.contains("is not in the chain of the checkpoint"), "{refused}");
}

#[tokio::test]
async fn replayed_decisions_agree_with_the_ledger() {
    let gateway = start().await;
    assert_replays_agree(&gateway, 250).await;
    // From the command line.
    let folder = gateway.folder.path().to_owned();
    let body = pay(1, "").replace("sdk", "cli");
    let response = gateway.decide("apk_one", &body).await;
    std::fs::write(folder.join("request.json"), &body).unwrap();
    let event = text(&response, "evidence_event_id").unwrap();
    let with = ["--policy", "policy.json", "--request", "request.json"];
    let bundle = run(&folder, &[&["evidence", "prove", event], &OF_GATEWAY[..], &with].concat());
    std::fs::write(folder.join("bundle.json"), out(&bundle)).unwrap();
    let replay = ["evidence", "replay", "bundle.json", "--jwks", "jwks.json"];
    let agrees = out(&run(&folder, &replay));
    assert!(agrees.contains("the replay agrees: allow, payment.small, rule small"), "{agrees}");
    replace_byte(&folder.join("bundle.json"), "\"amount\":1", "\"amount\":2");
    assert!(err(&run(&folder, &replay)).contains("the request has the hash"));
    gateway.stop().await;
}

/// `cargo test -p actpass-gateway --test archive -- --ignored ten_thousand --nocapture`.
#[tokio::test]
#[ignore = "takes minutes"]
async fn ten_thousand_replayed_decisions_agree_with_the_ledger() {
    let gateway = start().await;
    assert_replays_agree(&gateway, 10_000).await;
    gateway.stop().await;
}

/// Writes a ledger of this many events, as a gateway records them, and returns the last one's id.
async fn write_ledger(path: &Path, events: u64) -> String {
    let store = SqliteStore::open(path).unwrap();
    SigningKeyStore::open(&store, MasterKey::parse(MASTER).unwrap(), Algorithm::EdDsa).await.unwrap();
    actpass_gateway::store::Store::close(&store).await;
    drop(store);
    let mut file = rusqlite::Connection::open(path).unwrap();
    file.execute_batch("PRAGMA synchronous = OFF").unwrap();
    let mut head = Head::default();
    let transaction = file.transaction().unwrap();
    transaction
        .execute(
            "INSERT INTO chains (tenant_id, chain_id, length, head) VALUES ('one', 'decisions', 0, '')",
            [],
        )
        .unwrap();
    for number in 1..=events {
        let text = |text: &str| Some(text.to_owned());
        let draft = Draft {
            event_id: format!("ev_{number:032x}"),
            tenant_id: "one".into(),
            chain_id: "decisions".to_owned(),
            event_type: "decision".to_owned(),
            key_name: "support-agent".into(),
            agent_id: text("support"),
            tool_id: text("refunds.create"),
            goal: text("refund an order"),
            mode: Some("enforce"),
            decision: text(if number % 7 == 0 { "deny" } else { "allow" }),
            reason_code: text("refund.small_in_scope"),
            matched_rules: Some(vec!["small_refund_auto_approve".to_owned()]),
            request_hash: Some(format!("{number:064x}")),
            ..Draft::default()
        };
        let sealed = draft.seal(&head, UNIX_EPOCH + Duration::from_secs(1_700_000_000 + number)).unwrap();
        transaction
            .prepare_cached("INSERT INTO events (chain, seq, event) VALUES (1, ?1, ?2)")
            .unwrap()
            .execute(rusqlite::params![i64::try_from(number).unwrap(), sealed.text])
            .unwrap();
        head = sealed.head;
    }
    transaction
        .execute(
            "UPDATE chains SET length = ?1, head = ?2",
            rusqlite::params![i64::try_from(events).unwrap(), head.hash],
        )
        .unwrap();
    transaction.commit().unwrap();
    format!("ev_{events:032x}")
}

/// Prints the times of a ledger over years; `EVENTS` is its length, a million by default:
/// `cargo test -p actpass-gateway --release --test archive -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "takes minutes"]
async fn million_events_are_proven_archived_and_verified() {
    let events: u64 = std::env::var("EVENTS").map_or(1_000_000, |events| events.parse().unwrap());
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let start = Instant::now();
    let last = write_ledger(&folder.join("data.db"), events).await;
    eprintln!("{events} events written in {:.1} s", start.elapsed().as_secs_f64());
    let store = SqliteStore::open(&folder.join("data.db")).unwrap();
    let keys =
        SigningKeyStore::open(&store, MasterKey::parse(MASTER).unwrap(), Algorithm::EdDsa).await.unwrap();
    let jwks = Json::Object(vec![("keys".to_owned(), keys.cached().jwks(0))]);
    actpass_gateway::store::Store::close(&store).await;
    std::fs::write(folder.join("jwks.json"), jwks.to_string()).unwrap();
    std::fs::create_dir(folder.join("segments")).unwrap();
    let timed = |what: &str, arguments: &[&str]| {
        let start = Instant::now();
        let output = out(&run(folder, arguments));
        eprintln!("{what}: {:.2} s", start.elapsed().as_secs_f64());
        output
    };
    let of_data = ["--data", "data.db", "--tenant", "one"];
    let size = |file: &str| std::fs::metadata(folder.join(file)).unwrap().len();
    let middle = format!("ev_{:032x}", events / 2);
    let proof = timed("prove", &[&["evidence", "prove", &middle], &of_data[..]].concat());
    std::fs::write(folder.join("proof.json"), &proof).unwrap();
    eprintln!("proof: {} bytes", proof.len());
    let verify_proof = ["evidence", "verify", "--proof", "proof.json", "--jwks", "jwks.json"];
    let verified = timed("verify the proof", &verify_proof);
    assert!(verified.contains(&format!("is event {} of {events}", events / 2)), "{verified}");
    let before = size("data.db");
    let segment = (events / 4).to_string();
    let until = (events / 4 * 3).to_string();
    let cut = ["--to", "segments", "--until", &until, "--segment-events", &segment];
    let archived =
        timed("archive and remove three segments", &[&["evidence", "archive"], &of_data[..], &cut].concat());
    assert_eq!(archived.lines().count(), 3, "{archived}");
    let names = segments(folder);
    eprintln!(
        "segments: {:?} bytes; data file: {before} bytes",
        names.iter().map(|name| size(name)).collect::<Vec<_>>()
    );
    let live = timed("export the rest", &[&["evidence", "export", "decisions"], &of_data[..]].concat());
    std::fs::write(folder.join("live.jsonl"), live).unwrap();
    let files: Vec<_> = names.iter().map(String::as_str).chain(["live.jsonl"]).collect();
    let verify = [&["evidence", "verify", "--jwks", "jwks.json"], &files[..]].concat();
    let whole = timed("verify three segments and the rest", &verify);
    assert!(whole.starts_with(&format!("{events} events, ")), "{whole}");
    let proof = timed("prove a live event", &[&["evidence", "prove", &last], &of_data[..]].concat());
    std::fs::write(folder.join("proof.json"), &proof).unwrap();
    assert!(timed("verify the proof", &verify_proof).contains(&format!("is event {events} of {events}")));
    let pieces = names.iter().flat_map(|name| ["--segment", name]).collect::<Vec<_>>();
    let proof =
        timed("prove an archived event", &[&["evidence", "prove", &middle], &of_data[..], &pieces].concat());
    std::fs::write(folder.join("proof.json"), &proof).unwrap();
    assert!(
        timed("verify the proof", &verify_proof).contains(&format!("is event {} of {events}", events / 2))
    );
    // One byte in the last event of the second segment.
    let path = folder.join(files[1]);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        text.replacen(&format!("ev_{:032x}", events / 2), &format!("ev_{:032X}", events / 2 + 10), 1),
    )
    .unwrap();
    let found = err(&run(folder, &verify));
    assert!(found.contains(&format!("event {}", events / 2)), "{found}");
    eprintln!("{found}");
}

/// Prints how long a gateway takes to start on a ledger of `EVENTS` events, ten million by default,
/// and its memory; a tenth of them is the comparison. The command is that of
/// [`million_events_are_proven_archived_and_verified`].
#[tokio::test]
#[ignore = "takes minutes, and a gigabyte a million events"]
async fn gateway_starts_with_a_long_ledger() {
    let events: u64 = std::env::var("EVENTS").map_or(10_000_000, |events| events.parse().unwrap());
    for events in [events / 10, events] {
        let folder = TempDir::new().unwrap();
        let folder = folder.path();
        write_ledger(&folder.join("data.db"), events).await;
        std::fs::write(folder.join("policy.json"), POLICY).unwrap();
        std::fs::write(folder.join("gateway.toml"), config_with("", "policy.json")).unwrap();
        for _ in 0..3 {
            let began = Instant::now();
            let mut command = Command::new(env!("CARGO_BIN_EXE_actpass-gateway"));
            command.current_dir(folder).args(["serve", "--config", "gateway.toml"]);
            command.env("ACTPASS_MASTER_KEY", MASTER).stdin(Stdio::null()).stdout(Stdio::piped());
            let mut gateway = command.spawn().unwrap();
            let mut line = String::new();
            BufReader::new(gateway.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
            let took = began.elapsed().as_secs_f64();
            assert!(line.starts_with("listening on "), "{line}");
            let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.id())).unwrap();
            let memory = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
            eprintln!("{events} events: ready after {took:.3} s, {memory}");
            gateway.kill().unwrap();
            gateway.wait().unwrap();
        }
    }
}
