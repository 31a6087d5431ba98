//! An in-process gateway and a client for it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests; not every test file uses all of it"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use actpass_gateway::auth::ApiKeyHash;
use actpass_gateway::clock::Clock;
use actpass_gateway::config::{MasterKeySource, Settings};
use actpass_gateway::seal::MasterKey;
use actpass_gateway::server::Server;
use actpass_gateway::store::{Database, Location, TlsTrust};
use actpass_protocol::Json;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use tempfile::TempDir;

pub const PREFLIGHT: &str = "/api/v1/actions/preflight";
pub const EVIDENCE: &str = "/api/v1/evidence/events";

/// The start of the test clock, in seconds since 1970.
pub const TEST_TIME: u64 = 1_800_000_000;

/// A gateway with a master key and a test clock.
pub async fn start_at_test_time() -> (Gateway, Arc<AtomicU64>) {
    let time = Arc::new(AtomicU64::new(TEST_TIME));
    let gateway = Gateway::start_with("", at_test_time(&time)).await;
    (gateway, time)
}

/// Sets a master key, an issuer and a test clock.
pub fn at_test_time(time: &Arc<AtomicU64>) -> impl FnOnce(&mut Settings) + use<> {
    let time = Arc::clone(time);
    move |settings| {
        settings.master_key = MasterKeySource::Given(MasterKey::parse(&"07".repeat(32)).unwrap());
        settings.issuer = Some("https://gateway.example".to_owned());
        settings.clock = Clock::new(move || UNIX_EPOCH + Duration::from_secs(time.load(Ordering::SeqCst)));
    }
}

/// A gateway with the tenants `one` and `two` and the keys `apk_one`, `apk_bound`, `apdv_one` and
/// `apk_two`.
pub struct Gateway {
    pub folder: TempDir,
    /// Location of its data.
    pub data: Location,
    pub server: Option<Server>,
    pub url: String,
    pub client: Client,
}

impl Gateway {
    pub async fn start() -> Self {
        Self::start_with("", |_| {}).await
    }

    /// `limits` is the content of `[limits]`.
    pub async fn start_with(limits: &str, change: impl FnOnce(&mut Settings)) -> Self {
        let folder = TempDir::new().unwrap();
        let mut settings = Settings::parse(&config(limits), folder.path()).unwrap_or_else(|p| panic!("{p}"));
        #[cfg(unix)]
        if is_on_postgres() {
            settings.data = new_database();
        }
        change(&mut settings);
        let data = settings.data.clone();
        let server = Server::start(settings).await.unwrap();
        let url = server.url();
        Self { folder, data, server: Some(server), url, client: client() }
    }

    /// Restarts it on the same data.
    pub async fn restart(&mut self, change: impl FnOnce(&mut Settings)) {
        self.server.take().unwrap().stop().await.unwrap();
        let mut settings = Settings::parse(&config(""), self.folder.path()).unwrap();
        settings.data = self.data.clone();
        change(&mut settings);
        let server = Server::start(settings).await.unwrap();
        self.url = server.url();
        self.server = Some(server);
    }

    /// Starts it on these data after a stop.
    pub async fn restart_on(&mut self, data: Location) {
        let mut settings = Settings::parse(&config(""), self.folder.path()).unwrap();
        settings.data = data;
        let server = Server::start(settings).await.unwrap();
        self.url = server.url();
        self.server = Some(server);
    }

    pub fn post(&self, path: &str, key: &str) -> RequestBuilder {
        self.client
            .post(format!("{}{path}", self.url))
            .bearer_auth(key)
            .header("content-type", "application/json")
    }

    pub fn get(&self, path: &str, key: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.url)).bearer_auth(key)
    }

    /// Requests a decision and expects status 200.
    pub async fn decide(&self, key: &str, body: &str) -> Json {
        let response = self.post(PREFLIGHT, key).body(body.to_owned()).send().await.unwrap();
        let (status, body) = json(response).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    /// Returns the events of a chain.
    pub async fn events(&self, key: &str, chain: &str) -> Vec<Json> {
        let response = self.get(&format!("/api/v1/evidence/chains/{chain}"), key).send().await.unwrap();
        let (status, body) = json(response).await;
        assert_eq!(status, 200, "{body}");
        match body.member("events") {
            Some(Json::Array(events)) => events.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// Returns all stored bytes: the data file's directory, or the database.
    pub fn everything_kept(&self) -> Vec<u8> {
        match &self.data {
            Location::File(_) => {
                let entries = std::fs::read_dir(self.folder.path()).unwrap();
                entries.flat_map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect()
            }
            #[cfg(unix)]
            Location::Database(database) => {
                let place = database.to_string();
                let (_, name) = place.rsplit_once('/').unwrap();
                let server = actpass_test_postgres::server().unwrap().unwrap();
                let tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'actpass'";
                let tables = server.run(name, tables).unwrap();
                let all: String = tables.lines().map(|table| format!("TABLE actpass.{table};")).collect();
                server.run(name, &format!("SET bytea_output = escape; {all}")).unwrap().into_bytes()
            }
            #[cfg(not(unix))]
            Location::Database(_) => panic!("these tests do not use a database"),
        }
    }

    pub async fn stop(mut self) {
        self.server.take().unwrap().stop().await.unwrap();
    }
}

/// Whether the tests run in `on_postgres.rs`.
fn is_on_postgres() -> bool {
    module_path!().starts_with("on_postgres::")
}

/// Returns the URL of a new database with its password; `None` if PostgreSQL is not available.
#[cfg(unix)]
pub fn database_url() -> Option<String> {
    Some(actpass_test_postgres::server().unwrap()?.database().unwrap())
}

/// Creates a database. Ends the test program if PostgreSQL is not available.
#[cfg(unix)]
fn new_database() -> Location {
    let Some(url) = database_url() else {
        // Tests cannot be skipped at run time; the reason was already printed.
        std::process::exit(0);
    };
    Location::Database(Database::parse(&url, TlsTrust::default()).unwrap())
}

pub fn client() -> Client {
    install_provider();
    Client::builder().no_proxy().build().unwrap()
}

pub fn install_provider() {
    // May already be installed by another test file's copy of this module.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Returns the settings; the policy is the one of development mode.
pub fn config(limits: &str) -> String {
    config_with(limits, &shipped_policy("dev.json"))
}

/// Returns the path of a policy of the project.
pub fn shipped_policy(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies").join(name).display().to_string()
}

/// Returns the settings with the policy in the file `policy`.
pub fn config_with(limits: &str, policy: &str) -> String {
    let mut text = format!("listen = \"127.0.0.1:0\"\ndata = \"data.db\"\n[limits]\n{limits}\n");
    for tenant in ["one", "two"] {
        text += &format!("[[tenants]]\nid = \"{tenant}\"\npolicy = \"{policy}\"\n");
    }
    for (key, tenant, role, agent) in [
        ("apk_one", "one", "agent", ""),
        ("apk_bound", "one", "agent", "agent = \"support\""),
        ("apdv_one", "one", "operator", ""),
        ("apk_two", "two", "agent", ""),
    ] {
        let hash = ApiKeyHash::of(key);
        text += &format!(
            "[[keys]]\nname = \"name-of-{}\"\nhash = \"{hash}\"\ntenant = \"{tenant}\"\nrole = \"{role}\"\n{agent}\n",
            key.replace('_', "-")
        );
    }
    text
}

pub async fn json(response: Response) -> (StatusCode, Json) {
    let status = response.status();
    let body = response.bytes().await.unwrap();
    let json =
        Json::parse(&body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&body)));
    (status, json)
}

/// Returns the string at a path.
pub fn text<'j>(json: &'j Json, path: &str) -> Option<&'j str> {
    path.split('.').try_fold(json, |json, name| json.member(name)).and_then(Json::as_str)
}

/// Asserts that a response is a marked replay of an earlier one.
#[track_caller]
pub fn assert_repeats(again: &Json, first: &Json) {
    assert_eq!(again.member("replayed"), Some(&Json::Bool(true)), "{again}");
    let age = again.member("replay_age_ms").unwrap().to_string();
    assert!(age.parse::<u64>().is_ok(), "{age}");
    let without = |response: &Json| -> Vec<(String, Json)> {
        let members = response.as_object().unwrap().iter();
        let mut members: Vec<_> = members.filter(|(name, _)| !name.starts_with("replay")).cloned().collect();
        members.sort_by(|(one, _), (other, _)| one.cmp(other));
        members
    };
    assert_eq!(without(again), without(first));
}

/// Returns a refund of this many cents.
pub fn refund(amount: &str, more: &str) -> String {
    format!(
        r#"{{"agent_id": "sdk", "goal": "refund an order", "tool": "refunds.create", "resource": "",
            "args": {{"amount": {amount}, "currency": "usd"}}{more}}}"#
    )
}

/// Returns a generator of repeatable numbers below its argument.
pub fn random(mut seed: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    }
}

/// Recomputes a budget from the events of the ledger: no window of `millis` exceeds `limit`, and no
/// action was refused that would have fit. Returns the numbers of allowed and refused actions.
pub fn assert_windows(events: &[Json], millis: u128, limit: u64) -> (usize, usize) {
    let mut claims: Vec<(u128, u64)> = Vec::new();
    let mut refused = 0;
    for event in events {
        // A repetition claims nothing.
        let Some(Json::Array(budgets)) = event.member("budgets") else { continue };
        let created_at = humantime::parse_rfc3339(text(event, "created_at").unwrap()).unwrap();
        let at = created_at.duration_since(UNIX_EPOCH).unwrap().as_millis();
        let amount: u64 = text(&budgets[0], "amount").unwrap().parse().unwrap();
        let used: u64 = claims.iter().filter(|(then, _)| then + millis > at).map(|(_, amount)| amount).sum();
        if text(event, "decision") == Some("allow") {
            assert!(used + amount <= limit, "{used} + {amount} at {at}");
            claims.push((at, amount));
        } else {
            assert!(used + amount > limit, "refused at {at}, but {used} + {amount} fits");
            refused += 1;
        }
    }
    (claims.len(), refused)
}
