//! Budgets under kills, restarts, clock steps, replays, approvals and passports, and history
//! conditions under races. The exported ledger is evaluated by code that shares nothing with the
//! gateway.
//!
//! `ACTPASS_LIMITS_TRIES` sets the number of actions; `scripts/limits` runs 10,000 on both stores.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actpass_gateway::clock::Clock;
use actpass_gateway::config::{MasterKeySource, Settings};
use actpass_gateway::seal::MasterKey;
use actpass_gateway::server::Server;
use actpass_gateway::store::{Database, Location, TlsTrust};
use actpass_protocol::Json;
use common::{Gateway, PREFLIGHT, client, config_with, json, text};
use futures_util::future::join_all;
use reqwest::Client;
use tempfile::TempDir;

const CLIENTS: usize = 64;
const WINDOW: u128 = 10_000;
const LIMIT: u64 = 1_000;
const COUNT: usize = 40;

const POLICY: &str = r#"{"id": "limits", "version": 1,
    "rules": [
        {"name": "small", "when": [{"path": "args.amount", "operator": "<=", "value": 400}],
         "decision": "allow", "reason": "pay.small"},
        {"name": "large", "when": [], "decision": "require_approval", "reason": "pay.large"}],
    "budgets": [
        {"name": "sum", "when": [], "per": ["agent_id"], "sum": "args.amount", "limit": 1000,
         "window": "10s", "on_exceed": "deny", "reason": "pay.sum"},
        {"name": "count", "when": [], "per": [], "count": true, "limit": 40, "window": "10s",
         "on_exceed": "deny", "reason": "pay.count"}]}"#;

/// A gateway in a separate process that is killed; not a test. Its clock is the system's plus the
/// milliseconds in the file `offset`.
#[tokio::test]
#[ignore = "started by another test"]
async fn gateway_process() {
    let Some(folder) = std::env::var_os("ACTPASS_LIMITS_FOLDER") else { return };
    let folder = Path::new(&folder);
    common::install_provider();
    let mut settings = Settings::parse(&config_with("", "policy.json"), folder).unwrap();
    if let Ok(url) = std::env::var("ACTPASS_LIMITS_DATABASE") {
        settings.data = Location::Database(Database::parse(&url, TlsTrust::default()).unwrap());
    }
    settings.master_key = MasterKeySource::Given(MasterKey::parse(&"07".repeat(32)).unwrap());
    // The address changes with each start.
    settings.issuer = Some("https://gateway.example".to_owned());
    let offset = folder.join("offset");
    settings.clock = Clock::new(move || {
        let step = std::fs::read_to_string(&offset).ok().and_then(|text| text.parse().ok()).unwrap_or(0_i64);
        let magnitude = Duration::from_millis(step.unsigned_abs());
        if step < 0 { SystemTime::now() - magnitude } else { SystemTime::now() + magnitude }
    });
    let server = Server::start(settings).await.unwrap();
    write(folder, "url", &server.url());
    std::future::pending::<()>().await;
}

/// Replaces a file, so that no reader sees a part of it.
fn write(folder: &Path, name: &str, text: &str) {
    let new = folder.join(format!("{name}.new"));
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, folder.join(name)).unwrap();
}

struct Killed {
    folder: TempDir,
    database: Option<String>,
    child: Mutex<Child>,
}

impl Killed {
    fn start(database: Option<String>) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("policy.json"), POLICY).unwrap();
        write(folder.path(), "offset", "0");
        let child = Mutex::new(Self::spawn(folder.path(), database.as_deref()));
        Self { folder, database, child }
    }

    fn spawn(folder: &Path, database: Option<&str>) -> Child {
        let _ = std::fs::remove_file(folder.join("url"));
        let (_, module) = module_path!().split_once("::").unwrap_or_default();
        let test = if module.is_empty() {
            "gateway_process".to_owned()
        } else {
            format!("{module}::gateway_process")
        };
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &test, "--ignored"]).env("ACTPASS_LIMITS_FOLDER", folder);
        if let Some(database) = database {
            command.env("ACTPASS_LIMITS_DATABASE", database);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Kills the gateway with SIGKILL and starts it again.
    fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        *child = Self::spawn(self.folder.path(), self.database.as_deref());
    }

    /// Returns the address of the gateway once it has started.
    async fn url(&self) -> String {
        loop {
            if let Ok(url) = std::fs::read_to_string(self.folder.path().join("url")) {
                return url;
            }
            assert!(self.child.lock().unwrap().try_wait().unwrap().is_none(), "the gateway ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends a request until there is an answer, over all kills.
    async fn post(&self, client: &Client, path: &str, key: &str, body: &str) -> (u16, Json) {
        loop {
            let url = format!("{}{path}", self.url().await);
            let request = client.post(url).bearer_auth(key).header("content-type", "application/json");
            if let Ok(response) = request.body(body.to_owned()).send().await {
                let status = response.status().as_u16();
                if let Ok(body) = response.bytes().await
                    && status < 500
                {
                    return (status, Json::parse(&body).unwrap());
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn events(&self, client: &Client) -> Vec<Json> {
        let url = format!("{}/api/v1/evidence/chains/decisions", self.url().await);
        let (status, body) = json(client.get(url).bearer_auth("apdv_one").send().await.unwrap()).await;
        assert_eq!(status, 200, "{body}");
        let Some(Json::Array(events)) = body.member("events") else { panic!("{body}") };
        events.clone()
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        if let Ok(mut child) = self.child.lock() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The agent and the amount of each action, as its client knows them.
type Known = Mutex<HashMap<String, (String, u64)>>;

/// Returns when an event was recorded, in milliseconds since 1970.
fn at(event: &Json) -> u128 {
    let created_at = humantime::parse_rfc3339(text(event, "created_at").unwrap()).unwrap();
    created_at.duration_since(UNIX_EPOCH).unwrap().as_millis()
}

/// Results of the evaluation of a ledger.
#[derive(Debug, Default)]
struct Totals {
    allowed: usize,
    approved: usize,
    with_passport: usize,
    refused: usize,
}

/// Evaluates both budgets over every window that ends at an event.
fn evaluate(events: &[Json], known: &HashMap<String, (String, u64)>) -> Totals {
    let mut spent: Vec<(u128, String, u64)> = Vec::new();
    let mut totals = Totals::default();
    for event in events.iter().filter(|event| text(event, "event_type") == Some("decision")) {
        let (now, agent) = (at(event), text(event, "agent_id").unwrap());
        let recent = || spent.iter().rev().take_while(|(then, ..)| then + WINDOW > now);
        let sum: u64 = recent().filter(|(_, of, _)| of == agent).map(|(_, _, amount)| amount).sum();
        let count = recent().count();
        let reason = text(event, "reason_code").unwrap();
        // The amount of an action whose answers were all lost is in the event only.
        let recorded = match event.member("budgets") {
            Some(Json::Array(claims)) => claims
                .iter()
                .find(|claim| text(claim, "name") == Some("sum"))
                .map(|claim| text(claim, "amount").unwrap().parse::<u64>().unwrap()),
            _ => None,
        };
        let own = known.get(text(event, "event_id").unwrap());
        if let (Some((of, amount)), Some(recorded)) = (own, recorded) {
            assert_eq!((of.as_str(), *amount), (agent, recorded), "{event}");
        }
        let amount = own.map(|(_, amount)| *amount).or(recorded);
        if text(event, "decision") == Some("allow") {
            let amount = amount.unwrap();
            assert!(sum + amount <= LIMIT, "{agent}: {sum} + {amount} at {now}");
            assert!(count < COUNT, "{count} at {now}");
            spent.push((now, agent.to_owned(), amount));
            totals.allowed += 1;
            totals.approved += usize::from(reason == "approval.approved");
            totals.with_passport += usize::from(event.member("passport_jti").is_some());
        } else if reason == "pay.sum" {
            assert!(sum + amount.unwrap() > LIMIT, "refused, but {sum} + {amount:?} fits: {event}");
            totals.refused += 1;
        } else if reason == "pay.count" {
            assert!(count >= COUNT, "refused, but {count} is less than the limit: {event}");
            totals.refused += 1;
        } else {
            assert!(["pay.large", "passport.replayed", "approval.spent"].contains(&reason), "{event}");
        }
    }
    totals
}

/// One client: payments, replays, approvals and passports.
async fn pay_until(killed: &Killed, number: usize, tries: usize, done: &AtomicUsize, known: &Known) -> usize {
    let client = client();
    let mut random = common::random(number as u64 + 1);
    let mut last: Option<(String, Json)> = None;
    let mut replays = 0;
    let mut serial = 0;
    while done.fetch_add(1, Ordering::SeqCst) < tries {
        serial += 1;
        let agent = format!("a{}", random(4));
        let kind = random(12);
        let amount = if kind == 0 { 401 + random(200) } else { 1 + random(400) };
        let body = |more: &str| {
            format!(
                r#"{{"agent_id": "{agent}", "goal": "pay", "tool": "pay", "args": {{"amount": {amount}}},
                    "idempotency_key": "{number}-{serial}{more}"#
            )
        };
        let decide = async |body: &str| {
            let (status, answer) = killed.post(&client, PREFLIGHT, "apk_one", body).await;
            assert_eq!(status, 200, "{answer}");
            let event = text(&answer, "evidence_event_id").unwrap().to_owned();
            known.lock().unwrap().insert(event, (agent.clone(), amount));
            answer
        };
        let simple = body("\"}");
        match kind {
            0 => {
                let waiting = decide(&simple).await;
                if let Some(id) = text(&waiting, "approval_request_id") {
                    let path = format!("/api/v1/approvals/{id}/approve");
                    // A repetition after a kill finds the approval decided.
                    killed.post(&client, &path, "apdv_one", "{}").await;
                    decide(&body(&format!("-approved\", \"approval_request_id\": \"{id}\"}}"))).await;
                }
            }
            1 => {
                let issue = format!(
                    r#"{{"audience": "mcp://bank", "agent_id": "{agent}", "goal": "pay", "allowed_tools": ["pay"]}}"#
                );
                let (status, issued) =
                    killed.post(&client, "/api/v1/passports/issue", "apk_one", &issue).await;
                assert_eq!(status, 200, "{issued}");
                let token = text(&issued, "token").unwrap();
                decide(&body(&format!("\", \"passport\": \"{token}\", \"audience\": \"mcp://bank\"}}")))
                    .await;
            }
            2 | 3 if last.is_some() => {
                let (body, first) = last.as_ref().unwrap();
                let (status, again) = killed.post(&client, PREFLIGHT, "apk_one", body).await;
                assert_eq!(status, 200, "{again}");
                if text(first, "decision") == Some("allow") {
                    assert_eq!(text(&again, "decision"), Some("allow"), "{again}");
                    assert_eq!(text(&again, "evidence_event_id"), text(first, "evidence_event_id"));
                    replays += 1;
                }
            }
            _ => {
                let answer = decide(&simple).await;
                // A denial is decided again under its key, as another event.
                if text(&answer, "decision") == Some("allow") {
                    last = Some((simple, answer));
                }
            }
        }
    }
    replays
}

/// 64 clients against a gateway that is killed, with clock steps in both directions.
async fn run(database: Option<String>) {
    let tries = std::env::var("ACTPASS_LIMITS_TRIES").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    let kills = (tries / 400).max(3);
    let killed = Killed::start(database);
    let (done, known) = (AtomicUsize::new(0), Known::default());
    let clients = join_all((0..CLIENTS).map(|number| pay_until(&killed, number, tries, &done, &known)));
    let control = async {
        let mut random = common::random(99);
        let mut offset = 0_i64;
        for kill in 1..=kills {
            while done.load(Ordering::SeqCst) < tries * kill / (kills + 1) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            // Forward by up to 8 s, or back by up to 4 s.
            offset += i64::try_from(random(12_000)).unwrap() - 4_000;
            write(killed.folder.path(), "offset", &offset.to_string());
            killed.kill();
        }
    };
    let (replays, ()) = tokio::join!(clients, control);
    let replays: usize = replays.into_iter().sum();
    let events = killed.events(&client()).await;
    let known = known.into_inner().unwrap();
    let totals = evaluate(&events, &known);
    // Every answer is in the ledger.
    let recorded: HashMap<&str, &Json> =
        events.iter().map(|event| (text(event, "event_id").unwrap(), event)).collect();
    assert!(known.keys().all(|event| recorded.contains_key(event.as_str())));
    println!("{tries} tries, {kills} kills, {replays} replays, {} events: {totals:?}", events.len());
    assert!(totals.allowed > 0 && totals.refused > 0 && replays > 0, "{totals:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_window_exceeds_its_budget_under_kills() {
    run(database()).await;
}

/// Returns a new database for the tests on PostgreSQL.
fn database() -> Option<String> {
    if !module_path!().starts_with("on_postgres") {
        return None;
    }
    let Some(url) = common::database_url() else {
        // Tests cannot be skipped at run time; the reason was already printed.
        std::process::exit(0);
    };
    Some(url)
}

/// An earlier action, for the evaluation of histories.
struct Earlier {
    at: u128,
    tool: String,
    args: Json,
    agent: String,
    request_hash: String,
    outcome: &'static str,
    is_final: bool,
}

/// The history that an example depends on, in terms of the ledger.
type Expected = fn(&dyn Fn(&str, &str, u128) -> Vec<usize>, &[Earlier], &str, &Json) -> bool;

struct Example {
    name: &'static str,
    rules: &'static str,
    /// The tools that the clients call.
    tools: &'static [&'static str],
    /// Whether the ledger supports an `allow` of the tool.
    expected: Expected,
}

const EXAMPLES: [Example; 5] = [
    Example {
        name: "a refund only after the lookup of the same order",
        rules: r#"
            {"name": "lookup", "when": [{"path": "tool", "operator": "==", "value": "lookup"}],
             "decision": "allow", "reason": "ok"},
            {"name": "refund", "when": [{"path": "tool", "operator": "==", "value": "refund"},
                {"history": "after", "of": [{"path": "tool", "operator": "==", "value": "lookup"}],
                 "within": "10s", "same": ["args.id", "agent_id"]}],
             "decision": "allow", "reason": "ok"}"#,
        tools: &["lookup", "refund", "refund"],
        expected: |find, _, tool, _| tool == "lookup" || !find("lookup", "agent", 10_000).is_empty(),
    },
    Example {
        name: "never twice for one charge, unless the first failed",
        rules: r#"
            {"name": "refund", "when": [{"path": "tool", "operator": "==", "value": "refund"},
                {"history": "never", "of": [{"path": "tool", "operator": "==", "value": "refund"},
                    {"path": "outcome", "operator": "!=", "value": "failed"}],
                 "within": "5s", "same": ["args.id"]}],
             "decision": "allow", "reason": "ok"}"#,
        tools: &["refund"],
        expected: |find, earlier, _, _| {
            find("refund", "", 5_000).into_iter().all(|index| earlier[index].outcome == "failed")
        },
    },
    Example {
        name: "no export after secrets were read",
        rules: r#"
            {"name": "secrets", "when": [{"path": "tool", "operator": "==", "value": "secrets"}],
             "decision": "allow", "reason": "ok"},
            {"name": "leak", "when": [{"path": "tool", "operator": "==", "value": "export"},
                {"history": "after", "of": [{"path": "tool", "operator": "==", "value": "secrets"}],
                 "within": "3s", "same": ["agent_id"]}],
             "decision": "deny", "reason": "leak"},
            {"name": "export", "when": [{"path": "tool", "operator": "==", "value": "export"}],
             "decision": "allow", "reason": "ok"}"#,
        tools: &["export", "export", "export", "secrets"],
        expected: |find, _, tool, _| tool == "secrets" || find("secrets", "only agent", 3_000).is_empty(),
    },
    Example {
        name: "at most three mails to a recipient",
        rules: r#"
            {"name": "mail", "when": [{"path": "tool", "operator": "==", "value": "mail"},
                {"history": "count", "of": [{"path": "tool", "operator": "==", "value": "mail"}],
                 "within": "10s", "same": ["args.id"], "operator": "<", "value": 3}],
             "decision": "allow", "reason": "ok"}"#,
        tools: &["mail"],
        expected: |find, _, _, _| find("mail", "", 10_000).len() < 3,
    },
    Example {
        name: "a transfer only while those that returned stay below a sum",
        rules: r#"
            {"name": "transfer", "when": [{"path": "tool", "operator": "==", "value": "transfer"},
                {"history": "sum", "path": "args.amount",
                 "of": [{"path": "tool", "operator": "==", "value": "transfer"},
                    {"path": "outcome", "operator": "in", "value": ["returned", "suspended"]}],
                 "within": "10s", "same": ["args.id"], "operator": "<=", "value": 100}],
             "decision": "allow", "reason": "ok"}"#,
        tools: &["transfer"],
        expected: |find, earlier, _, _| {
            let counted = find("transfer", "", 10_000)
                .into_iter()
                .filter(|index| ["returned", "suspended"].contains(&earlier[*index].outcome));
            let amounts = counted.map(|index| amount_of(&earlier[index].args));
            amounts.sum::<u64>() <= 100
        },
    },
];

fn amount_of(args: &Json) -> u64 {
    args.member("amount").unwrap().to_string().parse().unwrap()
}

/// Evaluates an example over the ledger; returns the numbers of allowed and denied actions.
fn evaluate_history(
    example: &Example,
    events: &[Json],
    args: &HashMap<String, (String, Json)>,
) -> (usize, usize) {
    let mut earlier: Vec<Earlier> = Vec::new();
    let (mut allowed, mut denied) = (0, 0);
    for event in events {
        let hash = text(event, "request_hash").unwrap();
        if text(event, "event_type") == Some("action.outcome") {
            let ended = text(event, "metadata.ended").unwrap();
            let of = earlier.iter_mut().find(|earlier| earlier.request_hash == hash && !earlier.is_final);
            if let Some(of) = of {
                let known = ["returned", "failed", "cancelled", "suspended"];
                of.outcome = known.into_iter().find(|word| *word == ended).unwrap();
                of.is_final = ended != "suspended";
            }
            continue;
        }
        let (agent, args) = &args[text(event, "event_id").unwrap()];
        let (now, tool) = (at(event), text(event, "tool_id").unwrap());
        let find = |tool: &str, same: &str, within: u128| -> Vec<usize> {
            let is_same = |earlier: &Earlier| {
                let id = same == "only agent" || earlier.args.member("id") == args.member("id");
                id && (same.is_empty() || earlier.agent == *agent)
            };
            let found = earlier
                .iter()
                .enumerate()
                .filter(|(_, earlier)| earlier.tool == tool && is_same(earlier) && earlier.at + within > now);
            found.map(|(index, _)| index).collect()
        };
        let expected = (example.expected)(&find, &earlier, tool, args);
        let is_allowed = text(event, "decision") == Some("allow");
        assert_eq!(is_allowed, expected, "{}: {event}", example.name);
        if is_allowed {
            allowed += 1;
            earlier.push(Earlier {
                at: now,
                tool: tool.to_owned(),
                args: args.clone(),
                agent: agent.clone(),
                request_hash: hash.to_owned(),
                outcome: "pending",
                is_final: false,
            });
        } else {
            denied += 1;
        }
    }
    (allowed, denied)
}

/// 64 clients race in rounds and report outcomes while others decide.
#[tokio::test(flavor = "multi_thread")]
async fn ledger_explains_every_history() {
    let tries: u64 =
        std::env::var("ACTPASS_LIMITS_TRIES").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    for example in &EXAMPLES {
        let time = Arc::new(AtomicU64::new(1_800_000_000_000));
        let gateway = {
            let (time, rules) = (Arc::clone(&time), example.rules);
            let change = move |settings: &mut Settings| {
                let folder = TempDir::new().unwrap();
                let policy = format!(r#"{{"id": "p", "version": 1, "rules": [{rules}]}}"#);
                std::fs::write(folder.path().join("policy.json"), policy).unwrap();
                let data = settings.data.clone();
                *settings = Settings::parse(&config_with("", "policy.json"), folder.path()).unwrap();
                settings.data = data;
                settings.clock =
                    Clock::new(move || UNIX_EPOCH + Duration::from_millis(time.load(Ordering::SeqCst)));
            };
            Gateway::start_with("", change).await
        };
        let known: Mutex<HashMap<String, (String, Json)>> = Mutex::default();
        let mut random = common::random(5);
        for round in 0..(tries / 64).max(6) {
            let calls: Vec<_> = (0..64_u64).map(|client| (client, random(1 << 16))).collect();
            let (gateway, known) = (&gateway, &known);
            join_all(calls.into_iter().map(|(client, seed)| async move {
                let mut random = common::random(seed * 64 + client);
                let tool = example.tools[usize::try_from(random(example.tools.len() as u64)).unwrap()];
                let agent = format!("a{}", random(3));
                let args = format!(r#"{{"id": {}, "amount": {}, "n": {round}}}"#, random(12), 1 + random(60));
                let body =
                    format!(r#"{{"agent_id": "{agent}", "goal": "g", "tool": "{tool}", "args": {args}}}"#);
                let answer = gateway.decide("apk_one", &body).await;
                let event = text(&answer, "evidence_event_id").unwrap().to_owned();
                known.lock().unwrap().insert(event, (agent, Json::parse(args.as_bytes()).unwrap()));
                if text(&answer, "decision") == Some("allow") {
                    let hash = text(&answer, "request_hash").unwrap();
                    for _ in 0..random(3) {
                        let words = ["returned", "failed", "cancelled", "suspended"];
                        let ended = words[usize::try_from(random(4)).unwrap()];
                        let report = format!(
                            r#"{{"event_type": "action.outcome", "chain_id": "decisions",
                                "request_hash": "{hash}", "metadata": {{"ended": "{ended}"}}}}"#
                        );
                        let sent =
                            gateway.post(common::EVIDENCE, "apk_one").body(report).send().await.unwrap();
                        assert!(sent.status().is_success());
                    }
                }
            }))
            .await;
            time.fetch_add(random(3_000), Ordering::SeqCst);
        }
        let events = gateway.events("apdv_one", "decisions").await;
        let (allowed, denied) = evaluate_history(example, &events, &known.into_inner().unwrap());
        println!("{}: {allowed} allowed, {denied} denied, 0 violations", example.name);
        assert!(allowed > 20 && denied > 20, "{}: {allowed} allowed, {denied} denied", example.name);
        gateway.stop().await;
    }
}
