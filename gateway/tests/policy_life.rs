//! The life of a policy: shadow, capture and replay, history and rollback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actpass_gateway::auth::ApiKeyHash;
use actpass_gateway::clock::Clock;
use actpass_gateway::config::Settings;
use actpass_gateway::server::Server;
use actpass_gateway::store::{KeptChange, KeptKind, KeptPage, Store};
use actpass_protocol::Json;
use common::{EVIDENCE, PREFLIGHT, json, text};
use reqwest::Client;
use tempfile::TempDir;

const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;

/// A gateway with a file of settings, a test clock and captured requests.
struct Living {
    folder: TempDir,
    server: Option<Server>,
    url: String,
    client: Client,
    /// In milliseconds since 1970.
    now: Arc<AtomicU64>,
}

impl Living {
    /// `tenant` is added to the tenant's settings.
    async fn start(policy: &str, tenant: &str) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("policy.json"), policy).unwrap();
        let hash = |key: &str| ApiKeyHash::of(key).to_string();
        let settings = format!(
            "listen = \"127.0.0.1:0\"\ndata = \"data.db\"\nmaster_key_file = \"master.key\"\n\
             [limits]\npending_approvals = 100000\n\
             [[tenants]]\nid = \"one\"\npolicy = \"policy.json\"\n{tenant}\n\
             [[keys]]\nname = \"agent\"\nhash = \"{}\"\ntenant = \"one\"\nrole = \"agent\"\n\
             [[keys]]\nname = \"operator\"\nhash = \"{}\"\ntenant = \"one\"\nrole = \"operator\"\n",
            hash("apk_one"),
            hash("apdv_one")
        );
        std::fs::write(folder.path().join("gateway.toml"), settings).unwrap();
        std::fs::write(folder.path().join("master.key"), "a1b2c3d4e5f60718".repeat(4)).unwrap();
        // A month before now, so that nothing has expired for the commands.
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() * 1000 - 31 * DAY;
        let now = Arc::new(AtomicU64::new(start));
        let mut living = Self { folder, server: None, url: String::new(), client: common::client(), now };
        living.serve().await;
        living
    }

    async fn serve(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop().await.unwrap();
        }
        let file = self.folder.path().join("gateway.toml");
        let mut settings = Settings::load(&file).unwrap_or_else(|problems| panic!("{problems}"));
        let now = Arc::clone(&self.now);
        settings.clock = Clock::new(move || UNIX_EPOCH + Duration::from_millis(now.load(Ordering::SeqCst)));
        let server = Server::start(settings).await.unwrap();
        self.url = server.url();
        self.server = Some(server);
    }

    async fn post(&self, path: &str, key: &str, body: String) -> Json {
        let request = self.client.post(format!("{}{path}", self.url)).bearer_auth(key);
        let request = request.header("content-type", "application/json").body(body);
        let (status, body) = json(request.send().await.unwrap()).await;
        assert!(status.is_success(), "{status} {body}");
        body
    }

    async fn get(&self, path: &str) -> Json {
        let response = self.client.get(format!("{}{path}", self.url)).bearer_auth("apdv_one");
        let (status, body) = json(response.send().await.unwrap()).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    fn run(&self, arguments: &[&str]) -> Output {
        run(self.folder.path(), arguments)
    }

    async fn store(&self) -> Arc<dyn Store> {
        let file = self.folder.path().join("gateway.toml");
        Settings::load(&file).unwrap().data.open_existing().await.unwrap()
    }
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_actpass-gateway"));
    command.current_dir(folder).args(arguments).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The numbers of a policy of the month, with an independent computation of its answers.
#[derive(Clone, Copy)]
struct Month {
    version: u32,
    blocks: bool,
    small: u64,
    refund: u64,
    repeats: u64,
    daily: u64,
    weekly: Option<u64>,
}

const IN_FORCE: Month =
    Month { version: 1, blocks: true, small: 100, refund: 50, repeats: 2, daily: 500, weekly: None };
const PLANNED: Month =
    Month { version: 2, blocks: false, small: 120, refund: 40, repeats: 1, daily: 350, weekly: Some(6) };

impl Month {
    fn policy(self) -> String {
        let Self { version, small, refund, repeats, daily, .. } = self;
        let blocked = match self.blocks {
            true => {
                r#"{"name": "blocked", "decision": "deny", "reason": "pay.blocked", "when": [
                {"path": "tool", "operator": "==", "value": "pay"},
                {"path": "agent_id", "operator": "==", "value": "eve"}]},"#
            }
            false => "",
        };
        let weekly = self.weekly.map_or(String::new(), |limit| {
            format!(
                r#", {{"name": "weekly", "when": [{{"path": "tool", "operator": "==", "value": "refund"}}],
                "per": ["agent_id"], "count": true, "limit": {limit}, "window": "7d",
                "on_exceed": "require_approval", "reason": "refund.weekly"}}"#
            )
        });
        format!(
            r#"{{"id": "month", "version": {version}, "rules": [{blocked}
            {{"name": "repeated", "decision": "deny", "reason": "refund.repeated", "when": [
                {{"path": "tool", "operator": "==", "value": "refund"}},
                {{"history": "count", "of": [{{"path": "tool", "operator": "==", "value": "refund"}}],
                  "within": "7d", "same": ["args.order"], "operator": ">=", "value": {repeats}}}]}},
            {{"name": "refund", "decision": "allow", "reason": "refund.ok", "when": [
                {{"path": "tool", "operator": "==", "value": "refund"}},
                {{"path": "args.amount", "operator": "<=", "value": {refund}}}]}},
            {{"name": "small", "decision": "allow", "reason": "pay.small", "when": [
                {{"path": "tool", "operator": "==", "value": "pay"}},
                {{"path": "args.amount", "operator": "<=", "value": {small}}}]}},
            {{"name": "medium", "decision": "require_approval", "reason": "pay.medium", "when": [
                {{"path": "tool", "operator": "==", "value": "pay"}},
                {{"path": "args.amount", "operator": "<=", "value": 200}}]}}],
            "budgets": [{{"name": "daily", "when": [{{"path": "tool", "operator": "==", "value": "pay"}}],
                "per": ["agent_id"], "sum": "args.amount", "limit": {daily}, "window": "24h",
                "on_exceed": "deny", "reason": "pay.daily", "release_on_failure": true}}{weekly}]}}"#
        )
    }
}

/// A recorded request of the month.
struct Request {
    event_id: String,
    goal: String,
    at: u64,
    agent: &'static str,
    is_refund: bool,
    order: u64,
    amount: u64,
    is_approved: bool,
    decision: String,
    reason: String,
}

enum Step {
    Asked(Request),
    /// The action with this goal failed.
    Failed(String),
}

/// Computes the answers of a policy to all steps, with plain lists instead of accounts.
fn answers(of: Month, steps: &[Step]) -> Vec<(String, &'static str, &'static str)> {
    let (mut paid, mut refunded) = (Vec::new(), Vec::new());
    let mut found = Vec::new();
    for step in steps {
        let request = match step {
            Step::Failed(goal) => {
                // The amount of the first action with this request.
                if let Some(first) =
                    paid.iter().position(|(_, _, _, of): &(u64, &str, u64, String)| of == goal)
                {
                    paid.remove(first);
                }
                continue;
            }
            Step::Asked(request) => request,
        };
        let Request { at, agent, amount, order, .. } = *request;
        let is_approved = request.is_approved;
        let answer = if request.is_refund {
            let of_order = refunded.iter().filter(|(when, _, other)| when + 7 * DAY > at && *other == order);
            let of_agent = refunded.iter().filter(|(when, who, _)| when + 7 * DAY > at && *who == agent);
            let of_agent = u64::try_from(of_agent.count()).unwrap();
            if u64::try_from(of_order.count()).unwrap() >= of.repeats {
                ("deny", "refund.repeated")
            } else if amount > of.refund {
                ("deny", "policy.no_match")
            } else if of.weekly.is_some_and(|limit| of_agent + 1 > limit) {
                ("require_approval", "refund.weekly")
            } else {
                refunded.push((at, agent, order));
                ("allow", "refund.ok")
            }
        } else if of.blocks && agent == "eve" {
            ("deny", "pay.blocked")
        } else if amount > 200 {
            ("deny", "policy.no_match")
        } else if amount > of.small && !is_approved {
            ("require_approval", "pay.medium")
        } else {
            let of_agent = paid.iter().filter(|(when, who, _, _)| when + DAY > at && *who == agent);
            let sum: u64 = of_agent.map(|(_, _, amount, _)| amount).sum();
            if sum + amount > of.daily {
                ("deny", "pay.daily")
            } else {
                paid.push((at, agent, amount, request.goal.clone()));
                ("allow", if amount > of.small { "approval.approved" } else { "pay.small" })
            }
        };
        found.push((request.event_id.clone(), answer.0, answer.1));
    }
    found
}

/// Numbers that look random, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Sends 30 days of requests.
async fn send_month(living: &Living, requests: u64) -> Vec<Step> {
    let mut dice = Dice(7);
    let mut steps: Vec<Step> = Vec::new();
    for number in 0..requests {
        living.now.fetch_add(dice.below(2 * 30 * DAY / requests) + 1, Ordering::SeqCst);
        let agent = ["ann", "bob", "eve"][usize::try_from(dice.below(3)).unwrap()];
        let (is_refund, order) = (dice.below(3) == 0, dice.below(requests / 12));
        let amount = if is_refund { dice.below(60) + 1 } else { dice.below(240) + 1 };
        let (tool, goal) = (if is_refund { "refund" } else { "pay" }, format!("step {number}"));
        let body = format!(
            r#"{{"tool": "{tool}", "goal": "{goal}", "agent_id": "{agent}",
            "args": {{"amount": {amount}, "order": {order}}}}}"#
        );
        let mut response = living.post(PREFLIGHT, "apk_one", body.clone()).await;
        let mut record = |response: &Json, is_approved: bool| {
            let member = |name: &str| text(response, name).unwrap().to_owned();
            steps.push(Step::Asked(Request {
                event_id: member("evidence_event_id"),
                goal: goal.clone(),
                at: living.now.load(Ordering::SeqCst),
                agent,
                is_refund,
                order,
                amount,
                is_approved,
                decision: member("decision"),
                reason: member("reason_code"),
            }));
        };
        record(&response, false);
        if let Some(id) = text(&response, "approval_request_id")
            && dice.below(2) == 0
        {
            let path = format!("/api/v1/approvals/{id}/approve");
            living.post(&path, "apdv_one", "{}".to_owned()).await;
            living.now.fetch_add(1, Ordering::SeqCst);
            response = living.post(PREFLIGHT, "apk_one", body).await;
            record(&response, true);
        }
        if text(&response, "decision") == Some("allow") && dice.below(6) == 0 {
            let hash = text(&response, "request_hash").unwrap();
            let event = format!(
                r#"{{"event_type": "action.outcome", "chain_id": "decisions", "request_hash": "{hash}",
                "metadata": {{"ended": "failed"}}}}"#
            );
            living.post(EVIDENCE, "apk_one", event).await;
            if !is_refund {
                steps.push(Step::Failed(goal));
            }
        }
    }
    steps
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_of_a_month_equals_an_independent_computation() {
    let living = Living::start(&IN_FORCE.policy(), "capture = \"90d\"").await;
    std::fs::write(living.folder.path().join("new.json"), PLANNED.policy()).unwrap();
    let steps = send_month(&living, 600).await;
    let recorded: Vec<_> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Asked(request) => {
                Some((request.event_id.clone(), request.decision.clone(), request.reason.clone()))
            }
            Step::Failed(_) => None,
        })
        .collect();
    // The independent computation is right about the policy in force.
    let own: Vec<_> = answers(IN_FORCE, &steps)
        .into_iter()
        .map(|(event, decision, reason)| (event, decision.to_owned(), reason.to_owned()))
        .collect();
    assert_eq!(own, recorded);

    let replay = |policy: &str, more: &[&str]| -> serde_json::Value {
        let arguments =
            [&["policy", "replay", "--policy", policy, "--config", "gateway.toml", "--json"], more].concat();
        let output = living.run(&arguments);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        serde_json::from_str(&out(&output)).unwrap()
    };
    let report = replay("new.json", &[]);
    let expected: Vec<_> = answers(PLANNED, &steps)
        .into_iter()
        .zip(&recorded)
        .filter(|((_, decision, reason), (_, was, because))| (*decision, *reason) != (&**was, &**because))
        .map(|((event, decision, reason), _)| (event, decision.to_owned(), reason.to_owned()))
        .collect();
    let member = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let found: Vec<_> = report["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| {
            let replayed = &change["replayed"];
            (member(&change["event_id"]), member(&replayed["decision"]), member(&replayed["reason_code"]))
        })
        .collect();
    assert_eq!(found, expected);
    assert!(expected.len() > 50 && expected.len() < recorded.len(), "{}", expected.len());
    let kinds: std::collections::BTreeSet<_> = expected.iter().map(|(_, _, reason)| reason).collect();
    assert!(kinds.len() >= 6, "{kinds:?}");
    assert_eq!(report["decisions"], recorded.len());
    assert_eq!((&report["exact"], &report["reproduced"]), (&true.into(), &recorded.len().into()));

    // The policy in force changes nothing; a later start reports less, with the same state.
    assert_eq!(replay("policy.json", &[])["changed"], 0);
    let middle = report["changes"][found.len() / 2]["created_at"].as_str().unwrap();
    let later = replay("new.json", &["--from", middle]);
    assert_eq!(
        later["changes"].as_array().unwrap()[..],
        report["changes"].as_array().unwrap()[found.len() / 2..]
    );

    // A captured request that is missing is reported.
    let store = living.store().await;
    let keep = u32::try_from(recorded.len() - 1).unwrap();
    let trim = KeptChange::Trim { tenant_id: "one".into(), kind: KeptKind::Capture, keep };
    assert_eq!(store.change_kept(trim).await, Ok(1));
    let output = living.run(&["policy", "replay", "--policy", "new.json", "--config", "gateway.toml"]);
    // The first one: the replay begins with the second.
    assert!(err(&output).is_empty() || err(&output).contains("not exact"), "{}", err(&output));
    assert!(out(&output).starts_with(&format!("{keep} decisions replayed")), "{}", out(&output));
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn captured_requests_are_sealed_and_expire() {
    const SECRET: &str = "captured_argument_secret";
    let body =
        format!(r#"{{"tool": "pay", "goal": "g", "args": {{"amount": 1, "order": 1, "note": "{SECRET}"}}}}"#);
    for (capture, expected) in [("", 0), ("capture = \"2d\"", 2)] {
        let mut living = Living::start(&IN_FORCE.policy(), capture).await;
        // Captured requests live by the time of their decision.
        living.now.fetch_add(30 * DAY, Ordering::SeqCst);
        for _ in 0..2 {
            let response = living.post(PREFLIGHT, "apk_one", body.clone()).await;
            assert!(!response.to_string().contains("capture"), "{response}");
        }
        let store = living.store().await;
        let now = i64::try_from(living.now.load(Ordering::SeqCst)).unwrap();
        let page = KeptPage { kind: KeptKind::Capture, from: 0, newest: false, now, limit: 10 };
        let kept = store.kept("one", page).await.unwrap();
        assert_eq!(kept.len(), expected);
        assert!(store.kept("two", page).await.unwrap().is_empty());
        let end = now + 2 * i64::try_from(DAY).unwrap();
        let expired = KeptPage { now: end, ..page };
        assert_eq!(store.kept("one", KeptPage { now: end - 1, ..page }).await.unwrap().len(), expected);
        assert!(store.kept("one", expired).await.unwrap().is_empty());
        assert_eq!(store.change_kept(KeptChange::Expire { now: end - 1, limit: 10 }).await, Ok(0));
        let removed = store.change_kept(KeptChange::Expire { now: end, limit: 10 }).await;
        assert_eq!(removed, Ok(u64::try_from(expected).unwrap()));
        store.close().await;
        living.server.take().unwrap().stop().await.unwrap();
        for file in std::fs::read_dir(living.folder.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shadow_policy_has_no_effect_and_its_disagreements_are_listed() {
    let plain = Living::start(&IN_FORCE.policy(), "").await;
    let folder = TempDir::new().unwrap();
    let shadow = folder.path().join("shadow.json");
    // Without the budget that only the planned policy has, whose sums are unknown.
    std::fs::write(&shadow, Month { weekly: None, repeats: 2, ..PLANNED }.policy()).unwrap();
    let living =
        Living::start(&IN_FORCE.policy(), &format!("shadow = {:?}", shadow.display().to_string())).await;
    let (without, steps) = (send_month(&plain, 150).await, send_month(&living, 150).await);
    let of = |steps: &[Step]| -> Vec<(String, String)> {
        let asked = steps.iter().filter_map(|step| match step {
            Step::Asked(request) => Some((request.decision.clone(), request.reason.clone())),
            Step::Failed(_) => None,
        });
        asked.collect()
    };
    assert_eq!(of(&steps), of(&without));
    let asked = of(&steps).len();
    let number = |report: &Json, name: &str| -> usize {
        report.member(name).map(Json::to_string).unwrap().parse().unwrap()
    };
    let report = loop {
        let report = living.get("/api/v1/shadow?limit=1000").await;
        let evaluated = ["agreed", "disagreed", "undetermined"].map(|name| number(&report, name));
        let listed = report.member("disagreements");
        let Some(Json::Array(listed)) = listed else { panic!("{report}") };
        if evaluated.iter().sum::<usize>() == asked && listed.len() == number(&report, "disagreed") {
            break report;
        }
    };
    assert_eq!(number(&report, "skipped"), 0);
    assert!(number(&report, "disagreed") > 10, "{report}");
    let Some(Json::Array(listed)) = report.member("disagreements") else { panic!("{report}") };
    let by_event: HashMap<_, _> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Asked(request) => Some((&*request.event_id, request)),
            Step::Failed(_) => None,
        })
        .collect();
    for disagreement in listed {
        let request = by_event[text(disagreement, "event_id").unwrap()];
        assert_eq!(text(disagreement, "decided.decision"), Some(&*request.decision));
        assert_eq!(text(disagreement, "decided.reason_code"), Some(&*request.reason));
        assert_ne!(disagreement.member("decided"), disagreement.member("shadow"), "{disagreement}");
        assert!(!disagreement.to_string().contains("order"), "{disagreement}");
    }
    // Rules decide these alone: each is listed.
    for step in &steps {
        let Step::Asked(request) = step else { continue };
        if request.is_refund && (41..=50).contains(&request.amount) && request.reason == "refund.ok" {
            let found =
                listed.iter().find(|found| text(found, "event_id") == Some(&*request.event_id)).unwrap();
            assert_eq!(text(found, "shadow.reason_code"), Some("policy.no_match"));
        }
    }
    // Pages.
    let first = living.get("/api/v1/shadow?limit=3").await;
    let next = text(&first, "next").unwrap();
    let second = living.get(&format!("/api/v1/shadow?limit=3&after={next}")).await;
    let page = |report: &Json| match report.member("disagreements") {
        Some(Json::Array(list)) => list.clone(),
        _ => panic!("{report}"),
    };
    assert_eq!([page(&first), page(&second)].concat()[..], listed[..6]);
    assert_eq!(plain.get("/api/v1/shadow").await.member("policy"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_restores_a_policy_that_was_in_force() {
    let mut living = Living::start(&IN_FORCE.policy(), "").await;
    let body = r#"{"tool": "pay", "goal": "g", "args": {"amount": 110, "order": 1}}"#;
    let decide = async |living: &Living| {
        let response = living.post(PREFLIGHT, "apk_one", body.to_owned()).await;
        (text(&response, "decision").unwrap().to_owned(), text(&response, "policy_hash").unwrap().to_owned())
    };
    let (decision, first) = decide(&living).await;
    assert_eq!(decision, "require_approval");
    std::fs::write(living.folder.path().join("policy.json"), PLANNED.policy()).unwrap();
    living.serve().await;
    let (decision, second) = decide(&living).await;
    assert_eq!(decision, "allow");

    let listed = out(&living.run(&["policy", "history", "--config", "gateway.toml"]));
    let lines: Vec<_> = listed.lines().collect();
    assert_eq!(lines.len(), 2, "{listed}");
    assert!(lines[0].starts_with(&first) && lines[0].ends_with("month 1"), "{listed}");
    assert!(lines[1].starts_with(&second) && lines[1].ends_with("month 2\tin the settings"), "{listed}");

    for (hash, problem) in [
        (&*"0".repeat(64), "was in force"),
        (first.get(..4).unwrap(), "was in force"),
        (&*second, "has this policy already"),
    ] {
        let output = living.run(&["policy", "rollback", hash, "--config", "gateway.toml"]);
        assert_eq!(output.status.code(), Some(1), "{}", err(&output));
        assert!(err(&output).contains(problem), "{}", err(&output));
    }
    let output = living.run(&["policy", "rollback", first.get(..12).unwrap(), "--config", "gateway.toml"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(std::fs::read_to_string(living.folder.path().join("policy.json")).unwrap(), IN_FORCE.policy());
    // In force after a reload, which a restart does too.
    assert_eq!(decide(&living).await.1, second);
    let reloaded = living.post("/api/v1/reload", "apdv_one", String::new()).await;
    assert_eq!(text(&reloaded, "policy_hash"), Some(&*first));
    assert_eq!(decide(&living).await.1, first);
    let chain = living.get("/api/v1/evidence/chains/decisions").await;
    let Some(Json::Array(events)) = chain.member("events") else { panic!("{chain}") };
    let event = events.iter().find(|event| text(event, "event_type") == Some("policy.rolled_back")).unwrap();
    assert_eq!(text(event, "metadata.policy_hash_before"), Some(&*second));
    assert_eq!(text(event, "metadata.policy_hash"), Some(&*first));
    assert_eq!(text(event, "key_name"), Some("(command line)"));
}

#[test]
fn capture_needs_a_master_key_and_a_duration() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("policy.json"), IN_FORCE.policy()).unwrap();
    let settings = |master: &str, tenant: &str| {
        let text = format!(
            "listen = \"127.0.0.1:0\"\ndata = \"data.db\"\n{master}\n[[tenants]]\nid = \"one\"\n\
             policy = \"policy.json\"\n{tenant}\n[[keys]]\nname = \"agent\"\nhash = \"{}\"\n\
             tenant = \"one\"\nrole = \"agent\"\n",
            ApiKeyHash::of("apk_one")
        );
        Settings::parse(&text, folder.path()).map(|_| ()).map_err(|problems| problems.to_string())
    };
    std::fs::write(folder.path().join("master.key"), "a1b2c3d4e5f60718".repeat(4)).unwrap();
    let master = "master_key_file = \"master.key\"";
    assert_eq!(settings(master, "capture = \"30d\""), Ok(()));
    for (master, tenant, problem) in [
        ("", "capture = \"30d\"", "tenants[0].capture: needs a master key"),
        (master, "capture = \"0d\"", "tenants[0].capture: expected a duration of 1s to 366d"),
        (master, "shadow = \"missing.json\"", "tenants[0].shadow: "),
    ] {
        let found = settings(master, tenant).unwrap_err();
        assert!(found.contains(problem), "{found}");
    }
}
