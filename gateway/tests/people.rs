//! Roles, self-approval, quorums, escalation and delegation, over HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use actpass_gateway::auth::ApiKeyHash;
use actpass_gateway::clock::Clock;
use actpass_gateway::config::{MasterKeySource, Settings};
use actpass_gateway::seal::MasterKey;
use actpass_gateway::server::Server;
use actpass_gateway::store::Location;
use actpass_protocol::Json;
use common::{Gateway, json, text};
use futures_util::future::join_all;
use reqwest::Method;
use tempfile::TempDir;

const START: u64 = 1_800_000_000;

/// Number of people in the group `crowd`.
const CROWD: usize = 32;

const RULES: &[(&str, &str)] = &[
    ("plain", ""),
    ("two", r#", "approval": {"quorum": 2}"#),
    ("finance", r#", "approval": {"quorum": 2, "groups": ["finance"]}"#),
    ("both", r#", "approval": {"groups": {"finance": 1, "security": 1}}"#),
    ("crowd", r#", "approval": {"quorum": 16, "groups": ["crowd"]}"#),
    (
        "late",
        r#", "approval": {"groups": ["finance"], "deadline_seconds": 100,
            "escalate": {"after_seconds": 50, "groups": ["lead"]}}"#,
    ),
];

/// Name, role and further members of each key; the key is the name with the prefix `k_`.
const KEYS: &[(&str, &str, &str)] = &[
    ("agent", "agent", ""),
    ("alice-agent", "agent", "person = \"alice\""),
    ("bob-agent", "agent", "person = \"bob\""),
    ("bound", "agent", "agent = \"support\""),
    ("bound-alice", "agent", "agent = \"support\"\nperson = \"alice\""),
    ("alice", "approver", "person = \"alice\"\ngroups = [\"finance\"]"),
    ("alice-phone", "approver", "person = \"Alice\"\ngroups = [\"finance\"]"),
    ("bob", "approver", "person = \"bob\"\ngroups = [\"finance\", \"security\"]"),
    ("carol", "approver", "person = \"carol\"\ngroups = [\"security\"]"),
    ("dave", "approver", "person = \"dave\"\ngroups = [\"finance\"]"),
    ("erin", "approver", "person = \"erin\"\ngroups = [\"lead\"]"),
    ("frank", "approver", "person = \"frank\""),
    ("auditor", "auditor", ""),
    ("olga", "operator", "person = \"olga\""),
];

fn key_of(name: &str) -> String {
    format!("k_{name}")
}

fn settings_in(folder: &Path, rules: &[(&str, &str)], approvals: &str) -> Settings {
    let rules: Vec<_> = rules
        .iter()
        .map(|(tool, approval)| {
            format!(
                r#"{{"name": "{tool}", "when": [{{"path": "tool", "operator": "==", "value": "{tool}"}}],
                    "decision": "require_approval", "reason": "{tool}.needs_approval"{approval}}}"#
            )
        })
        .collect();
    let policy = format!(r#"{{"id": "people", "version": 1, "rules": [{}]}}"#, rules.join(","));
    std::fs::write(folder.join("policy.json"), policy).unwrap();
    let mut text = format!(
        "listen = \"127.0.0.1:0\"\ndata = \"data.db\"\n[approvals]\n{approvals}\n\
         [[tenants]]\nid = \"one\"\npolicy = \"policy.json\"\n\
         [[people]]\nname = \"frank\"\ntenant = \"one\"\ngroups = [\"security\"]\n"
    );
    let crowd = (0..CROWD).map(|number| format!("crowd{number}"));
    let crowd = crowd.map(|name| (name, "approver", "groups = [\"crowd\"]"));
    for (name, role, more) in
        KEYS.iter().map(|(name, role, more)| ((*name).to_owned(), *role, *more)).chain(crowd)
    {
        let hash = ApiKeyHash::of(&key_of(&name));
        text += &format!(
            "[[keys]]\nname = \"{name}\"\nhash = \"{hash}\"\ntenant = \"one\"\nrole = \"{role}\"\n{more}\n"
        );
    }
    Settings::parse(&text, folder).unwrap_or_else(|problems| panic!("{problems}"))
}

/// One gateway, or two on one database.
struct Team {
    gateway: Gateway,
    second: Option<(Server, String)>,
    time: Arc<AtomicU64>,
    folder: TempDir,
    /// Makes actions distinct.
    number: AtomicU64,
}

impl Team {
    async fn start() -> Self {
        Self::start_with("").await
    }

    async fn start_with(approvals: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let time = Arc::new(AtomicU64::new(START));
        let with = |data: Option<Location>| {
            let mut settings = settings_in(folder.path(), RULES, approvals);
            let time = Arc::clone(&time);
            settings.data = data.unwrap_or(settings.data);
            settings.master_key = MasterKeySource::Given(MasterKey::parse(&"07".repeat(32)).unwrap());
            settings.issuer = Some("http://gateway.example".to_owned());
            settings.timeouts.stop = Duration::from_secs(60);
            settings.clock =
                Clock::new(move || UNIX_EPOCH + Duration::from_secs(time.load(Ordering::SeqCst)));
            settings
        };
        let gateway = Gateway::start_with("", |settings| {
            let data = matches!(settings.data, Location::Database(_)).then(|| settings.data.clone());
            *settings = with(data);
        })
        .await;
        let second = match &gateway.data {
            // A data file has one gateway.
            Location::File(_) => None,
            Location::Database(_) => {
                let server = Server::start(with(Some(gateway.data.clone()))).await.unwrap();
                let url = server.url();
                Some((server, url))
            }
        };
        Self { gateway, second, time, folder, number: AtomicU64::new(0) }
    }

    /// Sends a request to one of the gateways.
    async fn send(&self, at: usize, method: Method, path: &str, name: &str, body: &str) -> (u16, Json) {
        let url = match &self.second {
            Some((_, second)) if at % 2 == 1 => second,
            Some(_) | None => &self.gateway.url,
        };
        let request = self.gateway.client.request(method, format!("{url}{path}")).bearer_auth(key_of(name));
        let request = request.header("content-type", "application/json").body(body.to_owned());
        let (status, body) = json(request.send().await.unwrap()).await;
        (status.as_u16(), body)
    }

    fn action(&self, tool: &str, user: &str) -> String {
        let number = self.number.fetch_add(1, Ordering::SeqCst);
        format!(
            r#"{{"agent_id": "sdk", "goal": "g", "tool": "{tool}", "args": {{"number": {number}}}, "user_id": {user}}}"#
        )
    }

    /// Requests an action as `name` for `user` (JSON); returns the body and the approval's id.
    async fn ask_for(&self, name: &str, tool: &str, user: &str) -> (String, String) {
        let body = self.action(tool, user);
        let (status, response) = self.send(0, Method::POST, common::PREFLIGHT, name, &body).await;
        assert_eq!((status, text(&response, "decision")), (200, Some("require_approval")), "{response}");
        (body, text(&response, "approval_request_id").unwrap().to_owned())
    }

    async fn ask(&self, tool: &str) -> String {
        self.ask_for("agent", tool, "null").await.1
    }

    /// Votes; returns the approval's status, or the error's code.
    async fn vote(&self, at: usize, name: &str, id: &str, word: &str, body: &str) -> String {
        let path = format!("/api/v1/approvals/{id}/{word}");
        let (_, response) = self.send(at, Method::POST, &path, name, body).await;
        text(&response, "status").or(text(&response, "error.code")).unwrap().to_owned()
    }

    async fn approve(&self, name: &str, id: &str) -> String {
        self.vote(0, name, id, "approve", "{}").await
    }

    async fn reject(&self, name: &str, id: &str) -> String {
        self.vote(0, name, id, "reject", "{}").await
    }

    async fn approve_for(&self, name: &str, id: &str, absent: &str) -> String {
        self.vote(0, name, id, "approve", &format!(r#"{{"for": "{absent}"}}"#)).await
    }

    async fn read(&self, name: &str, id: &str) -> Json {
        self.send(0, Method::GET, &format!("/api/v1/approvals/{id}"), name, "").await.1
    }

    /// Delegates from now for `seconds`; returns the delegation's id.
    async fn delegate(&self, name: &str, to: &str, seconds: u64, more: &str) -> String {
        let until = UNIX_EPOCH + Duration::from_secs(self.time.load(Ordering::SeqCst) + seconds);
        let until = humantime::format_rfc3339(until);
        let body = format!(r#"{{"to": "{to}", "until": "{until}"{more}}}"#);
        let (status, response) = self.send(0, Method::POST, "/api/v1/delegations", name, &body).await;
        assert_eq!(status, 200, "{response}");
        text(&response, "id").unwrap().to_owned()
    }

    async fn revoke(&self, name: &str, id: &str) -> u16 {
        self.send(0, Method::DELETE, &format!("/api/v1/delegations/{id}"), name, "").await.0
    }

    fn wait(&self, seconds: u64) {
        self.time.fetch_add(seconds, Ordering::SeqCst);
    }

    /// Returns the numbers of events of an approval by type.
    async fn events(&self, id: &str) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for event in self.gateway.events(&key_of("auditor"), "decisions").await {
            let kind = text(&event, "event_type").unwrap();
            if text(&event, "approval_request_id") == Some(id) && kind.starts_with("approval.") {
                *counts.entry(kind.to_owned()).or_insert(0) += 1;
            }
        }
        counts
    }

    async fn stop(self) {
        if let Some((server, _)) = self.second {
            server.stop().await.unwrap();
        }
        self.gateway.stop().await;
        drop(self.folder);
    }
}

/// The tries of one kind, and descriptions of wrong outcomes.
#[derive(Default)]
struct Tries {
    count: usize,
    wrong: Vec<String>,
}

impl Tries {
    #[expect(clippy::needless_pass_by_value, reason = "callers pass literals")]
    fn expect<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, found: T, expected: T) {
        self.count += 1;
        if found != expected {
            self.wrong.push(format!("{what}: found {found:?}, expected {expected:?}"));
        }
    }

    /// Expects an approval's status, or an error's code.
    fn status(&mut self, what: &str, found: String, expected: &str) {
        self.expect(what, found, expected.to_owned());
    }
}

/// Tries votes with a required outcome, and prints a table of the tries.
#[tokio::test]
async fn people_decide_as_required() {
    let team = Team::start().await;
    let mut table = vec![
        ("self-approval", self_approval(&team).await),
        ("double voting", double_voting(&team).await),
        ("one person in two groups", two_groups(&team).await),
        ("groups and roles", groups(&team).await),
        ("quorum races, 32 voters", races(&team).await),
        ("rejection races", rejections(&team).await),
        ("delegation", delegations(&team).await),
        ("delegated self-approval", delegated_self_approval(&team).await),
        ("expiry in the middle", expiry(&team).await),
        ("escalation", escalation(&team).await),
    ];
    let gateways = if team.second.is_some() { "two gateways, PostgreSQL" } else { "one gateway, SQLite" };
    team.stop().await;
    let permissive = Team::start_with("allow_self = true").await;
    table.push(("self-approval, allowed by name", permitted_self_approval(&permissive).await));
    permissive.stop().await;
    println!("{:<32} tries  wrong ({gateways})", "kind");
    for (kind, tries) in &table {
        println!("{kind:<32} {:>5}  {:>5}", tries.count, tries.wrong.len());
    }
    let wrong: Vec<_> =
        table.iter().flat_map(|(kind, tries)| tries.wrong.iter().map(move |w| (kind, w))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

async fn self_approval(team: &Team) -> Tries {
    let mut tries = Tries::default();
    for (asker, user, decider, expected) in [
        // By the key.
        ("olga", "null", "olga", "approval.self"),
        // By the person, also with another key, another case of the name, or a bound key.
        ("alice-agent", "null", "alice", "approval.self"),
        ("alice-agent", "null", "alice-phone", "approval.self"),
        ("bound-alice", "null", "alice", "approval.self"),
        // By the user on whose behalf the agent asked.
        ("agent", "\"alice\"", "alice", "approval.self"),
        ("agent", "\"ALICE\"", "alice-phone", "approval.self"),
        ("agent", "\"auditor\"", "alice", "approved"),
        ("alice-agent", "null", "bob", "approved"),
        ("agent", "null", "alice", "approved"),
    ] {
        let (_, id) = team.ask_for(asker, "plain", user).await;
        let what = format!("{asker} for {user}, {decider} approves");
        tries.status(&what, team.approve(decider, &id).await, expected);
        let status = if expected == "approved" { "approved" } else { "pending" };
        tries.expect(&what, text(&team.read("auditor", &id).await, "status"), Some(status));
        if status == "pending" {
            // A person may withdraw the own request.
            tries.status(&what, team.reject(decider, &id).await, "rejected");
        }
    }
    // The same action of another person's key is another request.
    let (body, id) = team.ask_for("alice-agent", "plain", "null").await;
    let (_, other) = team.send(0, Method::POST, common::PREFLIGHT, "bob-agent", &body).await;
    tries.expect("joined by another person", text(&other, "approval_request_id") == Some(&id), false);
    tries.status("bob approves alice's", team.approve("bob", &id).await, "approved");
    let naming = body.replace("\"goal\"", &format!("\"approval_request_id\": \"{id}\", \"goal\""));
    let (_, used) = team.send(0, Method::POST, common::PREFLIGHT, "bob-agent", &naming).await;
    tries.expect("bob uses alice's", text(&used, "decision"), Some("deny"));
    let (_, used) = team.send(0, Method::POST, common::PREFLIGHT, "alice-agent", &naming).await;
    tries.expect("alice uses it", text(&used, "decision"), Some("allow"));
    tries
}

async fn permitted_self_approval(team: &Team) -> Tries {
    let mut tries = Tries::default();
    let (_, id) = team.ask_for("alice-agent", "plain", "\"alice\"").await;
    tries.status("allowed", team.approve("alice", &id).await, "approved");
    let (_, id) = team.ask_for("alice-agent", "two", "null").await;
    tries.status("first", team.approve("alice", &id).await, "pending");
    tries.status("second", team.approve("alice", &id).await, "approval.already_voted");
    tries
}

async fn double_voting(team: &Team) -> Tries {
    let mut tries = Tries::default();
    let id = team.ask("finance").await;
    tries.status("first", team.approve("alice", &id).await, "pending");
    tries.status("again", team.approve("alice", &id).await, "approval.already_voted");
    tries.status("other key", team.approve("alice-phone", &id).await, "approval.already_voted");
    tries.status("second person", team.approve("dave", &id).await, "approved");
    tries.status("too late", team.approve("bob", &id).await, "already_decided");
    for _ in 0..4 {
        let id = team.ask("two").await;
        let votes = (0..16)
            .map(|at| team.vote(at, if at % 3 == 0 { "alice" } else { "alice-phone" }, &id, "approve", "{}"));
        let found = join_all(votes).await;
        let counted = found.iter().filter(|found| *found == "pending").count();
        let refused = found.iter().filter(|found| *found == "approval.already_voted").count();
        tries.expect("16 concurrent votes of one person", (counted, refused), (1, 15));
        tries.expect("still pending", text(&team.read("auditor", &id).await, "status"), Some("pending"));
    }
    tries
}

async fn two_groups(team: &Team) -> Tries {
    let mut tries = Tries::default();
    // Bob is in both groups and fills one seat, so that the second person can fill the other.
    for (first, second, expected) in [
        ("bob", "dave", "approved"),
        ("dave", "bob", "approved"),
        ("bob", "carol", "approved"),
        ("carol", "bob", "approved"),
        ("alice", "dave", "pending"),
        ("carol", "frank", "pending"),
        ("bob", "bob", "approval.already_voted"),
    ] {
        let id = team.ask("both").await;
        tries.status(first, team.approve(first, &id).await, "pending");
        tries.status(&format!("{first}, {second}"), team.approve(second, &id).await, expected);
    }
    let id = team.ask("both").await;
    team.approve("alice", &id).await;
    let found = team.read("auditor", &id).await;
    let needed = found.member("still_needed").unwrap().to_string();
    tries.expect("still needed", needed.as_str(), r#"[{"count":1,"groups":["security"]}]"#);
    tries
}

async fn groups(team: &Team) -> Tries {
    let mut tries = Tries::default();
    let id = team.ask("finance").await;
    for (name, expected) in [
        ("carol", "approval.no_seat"),
        ("erin", "approval.no_seat"),
        ("olga", "approval.no_seat"),
        ("agent", "forbidden"),
        ("auditor", "forbidden"),
    ] {
        tries.status(name, team.approve(name, &id).await, expected);
    }
    tries.status("another group rejects", team.reject("carol", &id).await, "approval.no_seat");
    let (status, _) = team.send(0, Method::GET, &format!("/api/v1/approvals/{id}"), "carol", "").await;
    tries.expect("another group reads", status, 404);
    for (name, sees) in [("carol", false), ("dave", true), ("auditor", true), ("olga", true)] {
        let (_, page) = team.send(0, Method::GET, "/api/v1/approvals?limit=1000", name, "").await;
        tries.expect(&format!("{name} lists"), page.to_string().contains(&id), sees);
    }
    let (body, id) = team.ask_for("agent", "both", "null").await;
    tries.status("frank, by [[people]]", team.approve("frank", &id).await, "pending");
    let (_, again) = team.send(0, Method::POST, common::PREFLIGHT, "agent", &body).await;
    tries.expect("half a quorum", text(&again, "decision"), Some("require_approval"));
    tries.status("complete", team.approve("dave", &id).await, "approved");
    let (_, again) = team.send(0, Method::POST, common::PREFLIGHT, "agent", &body).await;
    tries.expect("a quorum", text(&again, "decision"), Some("allow"));
    let id = team.ask("finance").await;
    tries.status("operators may reject any", team.reject("olga", &id).await, "rejected");
    tries
}

/// 32 people vote concurrently, 16 are needed: exactly one vote decides.
async fn races(team: &Team) -> Tries {
    let mut tries = Tries::default();
    for _ in 0..4 {
        let id = team.ask("crowd").await;
        let names: Vec<_> = (0..CROWD).map(|number| format!("crowd{number}")).collect();
        let votes = names.iter().enumerate().map(|(at, name)| team.vote(at, name, &id, "approve", "{}"));
        let found = join_all(votes).await;
        let late = found.iter().filter(|found| *found == "already_decided").count();
        tries.expect("too late", late, 16);
        tries.count += CROWD - 1;
        let expected =
            BTreeMap::from([("approval.approved".to_owned(), 1), ("approval.voted".to_owned(), 15)]);
        tries.expect("events", team.events(&id).await, expected);
        let approval = team.read("auditor", &id).await;
        let Some(Json::Array(votes)) = approval.member("votes") else { panic!("{approval}") };
        tries.expect("votes", (text(&approval, "status"), votes.len()), (Some("approved"), 16));
    }
    tries
}

/// Of concurrent approvals and rejections, exactly one decides.
async fn rejections(team: &Team) -> Tries {
    let mut tries = Tries::default();
    for round in 0..8 {
        let id = team.ask("crowd").await;
        let names: Vec<_> = (0..CROWD).map(|number| format!("crowd{number}")).collect();
        let votes = names.iter().enumerate().map(|(at, name)| {
            let word = if (at + round) % 12 == 11 { "reject" } else { "approve" };
            team.vote(at, name, &id, word, "{}")
        });
        join_all(votes).await;
        tries.count += CROWD;
        let events = team.events(&id).await;
        let count = |kind: &str| events.get(kind).copied().unwrap_or_default();
        let decided = count("approval.approved") + count("approval.rejected");
        tries.expect("decided once", decided, 1);
        let status = text(&team.read("auditor", &id).await, "status").unwrap().to_owned();
        let is_approved = count("approval.approved") == 1;
        tries.expect("status", status == "approved", is_approved);
        tries.expect("quorum", !is_approved || count("approval.voted") == 15, true);
    }
    let id = team.ask("finance").await;
    tries.status("one approves", team.approve("alice", &id).await, "pending");
    tries.status("one rejects", team.reject("dave", &id).await, "rejected");
    tries.status("too late", team.approve("bob", &id).await, "already_decided");
    let id = team.ask("finance").await;
    team.approve("alice", &id).await;
    tries.status("a change of mind", team.reject("alice", &id).await, "rejected");
    tries
}

async fn delegations(team: &Team) -> Tries {
    let mut tries = Tries::default();
    let id = team.ask("both").await;
    tries.status("before", team.approve_for("carol", &id, "alice").await, "invalid_member");
    let delegation = team.delegate("alice", "carol", 3600, "").await;
    // One person fills one seat: Carol cannot fill her own and Alice's.
    tries.status("own seat", team.approve("carol", &id).await, "pending");
    tries.status("and another's", team.approve_for("carol", &id, "alice").await, "approval.already_voted");
    tries.status("the absent person", team.approve("alice", &id).await, "approved");

    let id = team.ask("both").await;
    tries.status("for alice", team.approve_for("carol", &id, "alice").await, "pending");
    let found = team.read("auditor", &id).await;
    let Some(Json::Array(votes)) = found.member("votes") else { panic!("{found}") };
    tries.expect(
        "names the absent person",
        (text(&votes[0], "person"), text(&votes[0], "for")),
        (Some("carol"), Some("alice")),
    );
    tries.status("alice's seat is filled", team.approve("alice", &id).await, "approval.already_voted");
    tries.status("bob completes", team.approve("bob", &id).await, "approved");

    // Without an own seat, a vote fills the only delegated one.
    let id = team.ask("finance").await;
    tries.status("implied", team.approve("carol", &id).await, "pending");
    let (_, listed) = team.send(0, Method::GET, "/api/v1/approvals?limit=1000", "carol", "").await;
    tries.expect("delegates see the approvals", listed.to_string().contains(&id), true);

    // Not transitive: Carol's delegation does not include Alice's seat.
    let further = team.delegate("carol", "erin", 3600, "").await;
    let id = team.ask("finance").await;
    tries.status("not transitive", team.approve("erin", &id).await, "approval.no_seat");
    tries.status("not transitive", team.approve_for("erin", &id, "alice").await, "invalid_member");
    tries.expect("revoked by the delegate", team.revoke("erin", &further).await, 200);
    tries.expect("not theirs", team.revoke("frank", &delegation).await, 404);

    tries.expect("revoked", team.revoke("alice", &delegation).await, 200);
    tries.status("revoked", team.approve_for("carol", &id, "alice").await, "invalid_member");
    tries.status("revoked", team.approve("carol", &id).await, "approval.no_seat");

    team.delegate("alice", "carol", 60, "").await;
    let later = UNIX_EPOCH + Duration::from_secs(team.time.load(Ordering::SeqCst) + 100);
    let later = format!(r#", "from": "{}""#, humantime::format_rfc3339(later));
    team.delegate("dave", "carol", 200, &later).await;
    tries.status("not yet", team.approve_for("carol", &id, "dave").await, "invalid_member");
    team.wait(59);
    let id = team.ask("finance").await;
    tries.status("last second", team.approve("carol", &id).await, "pending");
    team.wait(1);
    let id = team.ask("finance").await;
    tries.status("expired", team.approve("carol", &id).await, "approval.no_seat");
    team.wait(40);
    tries.status("from now on", team.approve("carol", &id).await, "pending");
    team.wait(200);

    for (name, body, status) in [
        ("alice", r#"{"to": "bob", "until": "2037-01-01T00:00:00Z"}"#, 422),
        ("alice", r#"{"to": "bob", "until": "2020-01-01T00:00:00Z"}"#, 422),
        ("alice", r#"{"to": "bob", "until": "tomorrow"}"#, 422),
        ("alice", r#"{"to": "nobody", "until": "2027-02-01T00:00:00Z"}"#, 422),
        ("alice", r#"{"to": "ALICE", "until": "2027-02-01T00:00:00Z"}"#, 422),
        ("alice", r#"{"to": "bob", "until": "2027-02-01T00:00:00Z", "person": "dave"}"#, 403),
        ("agent", r#"{"to": "bob", "until": "2027-02-01T00:00:00Z"}"#, 403),
        ("auditor", r#"{"to": "bob", "until": "2027-02-01T00:00:00Z"}"#, 403),
    ] {
        let found = team.send(0, Method::POST, "/api/v1/delegations", name, body).await;
        tries.expect(body, found.0, status);
    }
    tries
}

async fn delegated_self_approval(team: &Team) -> Tries {
    let mut tries = Tries::default();
    let body = r#"{"person": "alice", "to": "carol", "until": "2027-02-01T00:00:00Z"}"#;
    let (status, created) = team.send(0, Method::POST, "/api/v1/delegations", "olga", body).await;
    tries.expect("an operator delegates for alice", status, 200);
    for (asker, user) in [("alice-agent", "null"), ("agent", "\"alice\""), ("agent", "\"Carol\"")] {
        let (_, id) = team.ask_for(asker, "finance", user).await;
        let what = format!("{asker} for {user}");
        tries.status(&what, team.approve_for("carol", &id, "alice").await, "approval.self");
        tries.status(&what, team.approve("carol", &id).await, "approval.self");
        tries.status(&what, team.approve("dave", &id).await, "pending");
    }
    tries.expect("revoked", team.revoke("carol", text(&created, "id").unwrap()).await, 200);
    tries
}

async fn expiry(team: &Team) -> Tries {
    let mut tries = Tries::default();
    let (body, id) = team.ask_for("agent", "finance", "null").await;
    tries.status("in time", team.approve("alice", &id).await, "pending");
    team.wait(899);
    let (body2, id2) = team.ask_for("agent", "finance", "null").await;
    tries.status("in time", team.approve("alice", &id2).await, "pending");
    team.wait(1);
    tries.status("the deadline", team.approve("dave", &id).await, "already_decided");
    tries.status("the deadline", team.reject("dave", &id).await, "already_decided");
    tries.expect("expired", text(&team.read("auditor", &id).await, "status"), Some("expired"));
    let naming = body.replace("\"goal\"", &format!("\"approval_request_id\": \"{id}\", \"goal\""));
    let (_, used) = team.send(0, Method::POST, common::PREFLIGHT, "agent", &naming).await;
    tries.expect("used", text(&used, "reason_code"), Some("approval.expired"));
    tries.status("the other is in time", team.approve("dave", &id2).await, "approved");
    let (_, used) = team.send(0, Method::POST, common::PREFLIGHT, "agent", &body2).await;
    tries.expect("used", text(&used, "decision"), Some("allow"));
    tries
}

async fn escalation(team: &Team) -> Tries {
    let mut tries = Tries::default();
    let id = team.ask("late").await;
    team.wait(49);
    tries.status("before", team.approve("erin", &id).await, "approval.no_seat");
    tries.expect("may be read", text(&team.read("erin", &id).await, "status"), Some("pending"));
    team.wait(1);
    tries.status("after a part of the deadline", team.approve("erin", &id).await, "approved");
    let found = team.read("auditor", &id).await;
    let Some(Json::Array(votes)) = found.member("votes") else { panic!("{found}") };
    tries.expect("the vote records it", votes[0].member("escalated"), Some(&Json::Bool(true)));
    let id = team.ask("late").await;
    team.wait(99);
    tries.status("the first group still", team.approve("dave", &id).await, "approved");
    let id = team.ask("late").await;
    team.wait(100);
    tries.status("the rule's deadline", team.approve("dave", &id).await, "already_decided");
    tries
}

/// The requirement is fixed when the approval is opened.
#[tokio::test]
async fn policy_change_does_not_affect_open_approval() {
    let folder = TempDir::new().unwrap();
    let start = |data: Option<Location>, rules: &'static [(&'static str, &'static str)]| {
        let mut settings = settings_in(folder.path(), rules, "");
        settings.data = data.unwrap_or(settings.data);
        settings
    };
    let mut gateway = Gateway::start_with("", |settings| {
        let data = matches!(settings.data, Location::Database(_)).then(|| settings.data.clone());
        *settings = start(data, &[("pay", r#", "approval": {"quorum": 2}"#)]);
    })
    .await;
    let body = r#"{"agent_id": "sdk", "goal": "g", "tool": "pay", "args": {}}"#;
    let asked = gateway.decide(&key_of("agent"), body).await;
    let id = text(&asked, "approval_request_id").unwrap().to_owned();
    let data = gateway.data.clone();
    gateway.restart(|settings| *settings = start(Some(data), &[("pay", "")])).await;
    for (name, expected) in [("alice", "pending"), ("bob", "approved")] {
        let request = gateway.post(&format!("/api/v1/approvals/{id}/approve"), &key_of(name)).body("{}");
        let (_, response) = json(request.send().await.unwrap()).await;
        assert_eq!(text(&response, "status"), Some(expected), "{response}");
    }
    let other = gateway.decide(&key_of("agent"), &body.replace("{}", r#"{"n": 1}"#)).await;
    let other = text(&other, "approval_request_id").unwrap();
    let request = gateway.post(&format!("/api/v1/approvals/{other}/approve"), &key_of("bob")).body("{}");
    assert_eq!(text(&json(request.send().await.unwrap()).await.1, "status"), Some("approved"));
    gateway.stop().await;
}

/// Every cell of the documentation's table holds over HTTP.
#[tokio::test]
async fn roles_have_documented_rights() {
    let team = Team::start().await;
    let id = team.ask("plain").await;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/gateway/people.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let mut documented = BTreeMap::new();
    let is_row = |line: &&str| {
        ["GET", "POST", "DELETE"].iter().any(|method| line.starts_with(&format!("| `{method} ")))
    };
    for line in docs.lines().filter(is_row) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [routes, agent, approver, auditor, operator] = cells[..] else { panic!("{line}") };
        for route in routes.split(',').map(|route| route.trim().trim_matches('`').to_owned()) {
            documented.insert(route, [agent, approver, auditor, operator].map(|cell| cell == "yes"));
        }
    }
    // Without roles: health, public keys and the description.
    let public = [
        "POST /acs",
        "GET /healthz",
        "GET /livez",
        "GET /readyz",
        "GET /.well-known/authzen-configuration",
        "GET /.well-known/jwks.json",
    ];
    let (_, description) = team.send(0, Method::GET, "/openapi.json", "agent", "").await;
    let paths = description.member("paths").unwrap().as_object().unwrap();
    let mut routes: Vec<_> = paths
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().iter();
            methods.map(move |(method, _)| format!("{} {path}", method.to_uppercase()))
        })
        .filter(|route| !public.contains(&&**route))
        .collect();
    routes.sort_unstable();
    let found: Vec<_> = documented.keys().cloned().collect();
    assert_eq!(found, routes, "docs/gateway/people.md");

    let mut cells = 0;
    for (route, expected) in documented {
        let (method, path) = route.split_once(' ').unwrap();
        let path = match path.contains("/approvals/{id}") {
            true => path.replace("{id}", &id),
            false => path.replace("{id}", "none").replace("{chain_id}", "decisions"),
        };
        for (name, expected) in ["agent", "frank", "auditor", "olga"].into_iter().zip(expected) {
            // An empty body is invalid for most routes, which only a permitted role finds out.
            let body = match (method, &*path) {
                // An agent may stop itself, so the body matters for the role.
                ("POST", "/api/v1/halts") => r#"{"scope": "tool", "id": "t", "reason": "r"}"#,
                ("POST", _) => r#"{"unknown": 1}"#,
                _ => "",
            };
            let (status, response) = match &*path {
                "/oauth/token" => {
                    let request = team.gateway.client.post(format!("{}{path}", team.gateway.url));
                    let request = request.bearer_auth(key_of(name)).body("");
                    let request = request.header("content-type", "application/x-www-form-urlencoded");
                    let (status, body) = json(request.send().await.unwrap()).await;
                    (status.as_u16(), body)
                }
                _ => team.send(0, Method::from_bytes(method.as_bytes()).unwrap(), &path, name, body).await,
            };
            // AuthZEN defines an error as a message.
            let is_message = response.as_str().is_some_and(|message| message.contains("may not"));
            let code = text(&response, "error.code").or(text(&response, "error"));
            let is_forbidden = status == 403 && (code == Some("forbidden") || is_message);
            assert_eq!(!is_forbidden, expected, "{route} as {name}: {status} {response}");
            cells += 1;
        }
    }
    println!("{cells} cells of roles and routes");
    team.stop().await;
}

#[tokio::test]
async fn vote_is_an_event_with_the_person() {
    let team = Team::start().await;
    let (_, id) = team.ask_for("alice-agent", "both", "null").await;
    team.vote(0, "dave", &id, "approve", r#"{"note": "called the customer"}"#).await;
    team.vote(0, "bob", &id, "approve", r#"{"note": "seen"}"#).await;
    let events = team.gateway.events(&key_of("auditor"), "decisions").await;
    let metadata: Vec<_> =
        events.iter().filter_map(|event| event.member("metadata")).map(Json::to_string).collect();
    assert_eq!(
        metadata[0],
        r#"{"approval":{"groups":{"finance":1,"security":1},"quorum":2},"person":"alice"}"#
    );
    let hash = text(&events[1], "metadata.action_hash").unwrap();
    assert_eq!(
        metadata[1],
        format!(r#"{{"action_hash":"{hash}","decided_by":"dave","groups":["finance"],"has_note":true}}"#)
    );
    assert!(metadata[2].contains(r#""groups":["finance","security"]"#), "{}", metadata[2]);
    let kinds: Vec<_> = events.iter().filter_map(|event| text(event, "event_type")).collect();
    assert_eq!(kinds, ["decision", "approval.voted", "approval.approved"]);
    assert!(!format!("{events:?}").contains("called the customer"));
    let approval = team.read("auditor", &id).await;
    assert_eq!(text(&approval, "decided_by"), Some("bob"));
    assert_eq!(
        approval.member("needs").unwrap().to_string(),
        r#"{"quorum":2,"groups":{"finance":1,"security":1}}"#
    );
    let (_, verified) =
        team.send(0, Method::GET, "/api/v1/evidence/chains/decisions/verify", "auditor", "").await;
    assert_eq!(verified.member("valid"), Some(&Json::Bool(true)), "{verified}");
    team.stop().await;
}
