//! Reloads of the settings while the gateway serves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use actpass_gateway::auth::ApiKeyHash;
use actpass_gateway::config::Settings;
use actpass_gateway::policy::Policy;
use actpass_gateway::server::Server;
use actpass_protocol::Json;
use common::{PREFLIGHT, json, refund, text};
use reqwest::{Certificate, Client, Response, StatusCode};
use tempfile::TempDir;

const RELOAD: &str = "/api/v1/reload";

/// A gateway that was started with a file of settings.
struct Reloading {
    folder: TempDir,
    server: Option<Server>,
    url: String,
    client: Client,
}

impl Reloading {
    /// `more` precedes the tenants and keys of [`settings`].
    async fn start(more: &str) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("policy.json"), policy("a")).unwrap();
        std::fs::write(folder.path().join("gateway.toml"), settings(more, "a")).unwrap();
        Self::start_in(folder, common::client()).await
    }

    async fn start_in(folder: TempDir, client: Client) -> Self {
        let settings = Settings::load(&folder.path().join("gateway.toml")).unwrap_or_else(|p| panic!("{p}"));
        let server = Server::start(settings).await.unwrap();
        let url = server.url();
        Self { folder, server: Some(server), url, client }
    }

    /// Replaces a file as editors and deployments do.
    fn write(&self, name: &str, text: &str) {
        let beside = self.folder.path().join(format!("{name}.new"));
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, self.folder.path().join(name)).unwrap();
    }

    async fn reload(&self) -> (StatusCode, Json) {
        let request = self.client.post(format!("{}{RELOAD}", self.url)).bearer_auth("apdv_one");
        json(request.send().await.unwrap()).await
    }

    async fn reloaded(&self) -> Json {
        let (status, body) = self.reload().await;
        assert_eq!(status, 200, "{body}");
        body
    }

    async fn refused(&self) -> String {
        let (status, body) = self.reload().await;
        assert_eq!(status, 409, "{body}");
        assert_eq!(text(&body, "error.code"), Some("reload_refused"));
        text(&body, "error.message").unwrap().to_owned()
    }

    async fn ask(&self, key: &str) -> Response {
        ask(&self.client, &self.url, key).await.unwrap()
    }

    /// Decides with `apk_one` and returns the reason code.
    async fn reason(&self) -> String {
        let (status, body) = json(self.ask("apk_one").await).await;
        assert_eq!(status, 200, "{body}");
        text(&body, "reason_code").unwrap().to_owned()
    }

    /// Returns all events of the chain of decisions.
    async fn events(&self) -> Vec<Json> {
        let path = format!("{}/api/v1/evidence/chains/decisions", self.url);
        let response = self.client.get(path).bearer_auth("apdv_one").send().await.unwrap();
        let (status, body) = json(response).await;
        assert_eq!(status, 200, "{body}");
        match body.member("events") {
            Some(Json::Array(events)) => events.clone(),
            _ => panic!("{body}"),
        }
    }

    async fn metrics(&self) -> String {
        let request = self.client.get(format!("{}/metrics", self.url)).bearer_auth("apdv_one");
        request.send().await.unwrap().text().await.unwrap()
    }

    async fn events_of(&self, event_type: &str) -> Vec<Json> {
        let events = self.events().await.into_iter();
        events.filter(|event| text(event, "event_type") == Some(event_type)).collect()
    }

    async fn stop(mut self) {
        self.server.take().unwrap().stop().await.unwrap();
    }
}

async fn ask(client: &Client, url: &str, key: &str) -> reqwest::Result<Response> {
    let request = client.post(format!("{url}{PREFLIGHT}")).bearer_auth(key);
    request.header("content-type", "application/json").body(refund("1", "")).send().await
}

/// A policy whose answers name it.
fn policy(name: &str) -> String {
    format!(
        r#"{{"id": "{name}", "version": 1, "rules": [{{"name": "{name}", "when": [], "decision": "allow", "reason": "from.{name}"}}]}}"#
    )
}

/// Settings in which the key `apk_one` has the name `agent-{name}`.
fn settings(more: &str, name: &str) -> String {
    let key = |key: &str, name: &str, role: &str| {
        let hash = ApiKeyHash::of(key);
        format!("[[keys]]\nname = \"{name}\"\nhash = \"{hash}\"\ntenant = \"one\"\nrole = \"{role}\"\n")
    };
    format!(
        "listen = \"127.0.0.1:0\"\ndata = \"data.db\"\n{more}\n[[tenants]]\nid = \"one\"\npolicy = \
        \"policy.json\"\n{}{}",
        key("apdv_one", "operator", "operator"),
        key("apk_one", &format!("agent-{name}"), "agent")
    )
}

#[tokio::test]
async fn reloads_policy_and_keys_and_records_hashes() {
    let gateway = Reloading::start("").await;
    assert_eq!(gateway.reason().await, "from.a");
    let hash = |name: &str| Policy::parse(policy(name).as_bytes()).unwrap().hash().to_owned();

    gateway.write("policy.json", &policy("b"));
    assert_eq!(gateway.reason().await, "from.a", "nothing is reloaded without a request");
    let answer = gateway.reloaded().await;
    assert_eq!(text(&answer, "policy_hash_before"), Some(&*hash("a")));
    assert_eq!(text(&answer, "policy_hash"), Some(&*hash("b")));
    assert_eq!(text(&answer, "settings_hash_before"), text(&answer, "settings_hash"));
    assert_eq!(gateway.reason().await, "from.b");

    let event = gateway.events_of("policy.reloaded").await.remove(0);
    assert_eq!(text(&event, "key_name"), Some("operator"));
    assert_eq!(text(&event, "policy_hash"), Some(&*hash("b")));
    assert_eq!(text(&event, "metadata.trigger"), Some("operator"));
    for name in ["policy_hash", "policy_hash_before", "settings_hash", "settings_hash_before"] {
        assert_eq!(text(&event, &format!("metadata.{name}")), text(&answer, name), "{name}");
    }

    // The removed key is rejected, and the new one is valid.
    let other = settings("", "b")
        .replace(&ApiKeyHash::of("apk_one").to_string(), &ApiKeyHash::of("apk_new").to_string());
    gateway.write("gateway.toml", &other);
    let answer = gateway.reloaded().await;
    assert_ne!(text(&answer, "settings_hash_before"), text(&answer, "settings_hash"));
    assert_eq!(gateway.ask("apk_one").await.status(), 401);
    assert_eq!(gateway.ask("apk_new").await.status(), 200);

    let agent = gateway.client.post(format!("{}{RELOAD}", gateway.url)).bearer_auth("apk_new");
    assert_eq!(agent.send().await.unwrap().status(), 403);
    gateway.stop().await;
}

#[tokio::test]
async fn invalid_settings_leave_the_previous_ones_in_force() {
    let gateway = Reloading::start("").await;
    let valid = settings("", "a");
    let page = login(&gateway).await;
    let shown = async || page_text(&gateway, &page).await.contains("The settings were not reloaded at ");
    assert!(!shown().await);

    gateway.write("policy.json", &policy("b"));
    let listed = [
        (valid.replace("[[tenants]]", "[[tenants"), "line 4"),
        (valid.replace("role = \"agent\"", "role = \"agents\""), "keys[1].role: "),
        (valid.replace("policy.json", "none.json"), "tenants[0].policy: "),
        (valid.replace("tenant = \"one\"", "tenant = \"two\""), "keys[0].tenant: "),
        (valid.replace("127.0.0.1:0", "127.0.0.1:1"), "listen: changed, which needs a restart"),
        (valid.replace("data.db", "other.db"), "data: changed, which needs a restart"),
        (valid.replace("[[tenants]]", "log = \"json\"\n[[tenants]]"), "log: changed"),
        (valid.replace("[[tenants]]", "log_level = \"warn\"\n[[tenants]]"), "log_level: changed"),
        (
            valid.replace("[[tenants]]", "signing_algorithm = \"ES256\"\n[[tenants]]"),
            "signing_algorithm: changed",
        ),
        (valid.replace("[[tenants]]", "watch = true\n[[tenants]]"), "watch: changed"),
        (valid.replace("[[tenants]]", "issuer = \"https://g.example\"\n[[tenants]]"), "issuer: changed"),
        (
            valid.replace("[[tenants]]", "[limits]\nconnections = 7\n[[tenants]]"),
            "limits.connections: changed",
        ),
        (
            valid.replace("[[tenants]]", "[limits]\nconnections_per_address = 7\n[[tenants]]"),
            "limits.connections_per_address: changed",
        ),
        (valid.replace("[[tenants]]", "[ledger]\ncheckpoint_events = 7\n[[tenants]]"), "ledger: changed"),
        (
            valid.replace("[[tenants]]", "[metrics]\nlisten = \"127.0.0.1:0\"\n[[tenants]]"),
            "metrics.listen: changed",
        ),
        (valid.replace("[[tenants]]", "[page]\nbase_path = \"/p\"\n[[tenants]]"), "page.base_path: changed"),
    ];
    for (text, problem) in &listed {
        gateway.write("gateway.toml", text);
        let message = gateway.refused().await;
        assert!(message.contains(problem), "{message}");
        assert_eq!(gateway.reason().await, "from.a", "{problem}");
    }
    assert!(shown().await);
    let failures = format!("actpass_gateway_reloads_total{{result=\"failed\"}} {}\n", listed.len());
    let metrics = gateway.metrics().await;
    assert!(metrics.contains(&failures), "{metrics}");
    assert!(metrics.contains("\nactpass_gateway_reload_last_failed 1"), "{metrics}");
    let refused = gateway.events_of("policy.reload_refused").await;
    assert_eq!(refused.len(), listed.len());
    assert!(gateway.events_of("policy.reloaded").await.is_empty());
    assert_eq!(text(&refused[0], "policy_id"), Some("a"));

    gateway.write("gateway.toml", &valid);
    gateway.reloaded().await;
    assert_eq!(gateway.reason().await, "from.b");
    assert!(!shown().await);
    let metrics = gateway.metrics().await;
    assert!(metrics.contains("actpass_gateway_reloads_total{result=\"ok\"} 1\n"), "{metrics}");
    assert!(metrics.contains("\nactpass_gateway_reload_last_failed 0"), "{metrics}");
    gateway.stop().await;
}

/// Logs in to the page and returns the cookie.
async fn login(gateway: &Reloading) -> String {
    let client = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let form = client.get(&gateway.url).send().await.unwrap();
    let cookie = form.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let token = cookie.split_once('=').unwrap().1.to_owned();
    let request = client.post(format!("{}/login", gateway.url)).header("cookie", cookie);
    let request = request.header("origin", &gateway.url).header("sec-fetch-site", "same-origin");
    let body = format!("key=apdv_one&token={token}");
    let request = request.header("content-type", "application/x-www-form-urlencoded").body(body);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 303);
    response.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned()
}

async fn page_text(gateway: &Reloading, cookie: &str) -> String {
    let response = gateway.client.get(&gateway.url).header("cookie", cookie).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.text().await.unwrap()
}

#[tokio::test]
async fn sessions_of_removed_keys_end() {
    let gateway = Reloading::start("").await;
    let cookie = login(&gateway).await;
    let is_logged_in = async || page_text(&gateway, &cookie).await.contains("action=\"/logout\"");
    gateway.reloaded().await;
    assert!(is_logged_in().await, "the key is unchanged");
    let other = settings("", "a")
        .replace(&ApiKeyHash::of("apdv_one").to_string(), &ApiKeyHash::of("apdv_two").to_string());
    gateway.write("gateway.toml", &other);
    gateway.reloaded().await;
    assert!(!is_logged_in().await);
    gateway.stop().await;
}

#[tokio::test]
async fn expired_keys_are_rejected() {
    let with = |time: &str| {
        settings("", "a").replace("role = \"agent\"", &format!("role = \"agent\"\nexpires_at = {time}"))
    };
    let gateway = Reloading::start("").await;
    for (time, status) in [
        ("\"2999-01-31T00:00:00Z\"", 200),
        ("2999-01-31T00:00:00Z", 200),
        ("\"2020-01-31T00:00:00Z\"", 401),
        ("2020-01-31T00:00:00Z", 401),
    ] {
        gateway.write("gateway.toml", &with(time));
        gateway.reloaded().await;
        assert_eq!(gateway.ask("apk_one").await.status(), status, "{time}");
    }
    for time in ["\"soon\"", "2999-01-31", "7"] {
        gateway.write("gateway.toml", &with(time));
        let message = gateway.refused().await;
        assert!(message.contains("keys[1].expires_at: expected a time in UTC"), "{message}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn watched_files_are_reloaded_when_they_change() {
    let gateway = Reloading::start("watch = true").await;
    assert_eq!(gateway.reason().await, "from.a");
    gateway.write("policy.json", "{");
    wait_for(async || gateway.events_of("policy.reload_refused").await.len() == 1).await;
    assert_eq!(gateway.reason().await, "from.a");
    gateway.write("policy.json", &policy("b"));
    wait_for(async || gateway.reason().await == "from.b").await;
    let event = gateway.events_of("policy.reloaded").await.remove(0);
    assert_eq!(text(&event, "metadata.trigger"), Some("watch"));
    assert_eq!(text(&event, "key_name"), Some("(gateway)"));
    // A file that is named for the first time is watched too.
    gateway.write("gateway.toml", &settings("watch = true", "a").replace("policy.json", "second.json"));
    wait_for(async || gateway.events_of("policy.reload_refused").await.len() == 2).await;
    gateway.write("second.json", &policy("c"));
    wait_for(async || gateway.reason().await == "from.c").await;
    gateway.stop().await;
}

async fn wait_for(is_done: impl AsyncFn() -> bool) {
    while !is_done().await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_continue_during_reloads() {
    decide_during_reloads(100, 1_000).await;
}

/// Run alone: `cargo test -p actpass-gateway --test reload -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn decisions_continue_during_a_thousand_reloads() {
    decide_during_reloads(1_000, 100_000).await;
}

/// Decides over several connections while two complete settings take turns and each tenth file is
/// broken, until both numbers are reached.
async fn decide_during_reloads(reloads: usize, decisions: usize) {
    let gateway = Arc::new(Reloading::start("").await);
    let began = std::time::Instant::now();
    let (decided, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let (decided, done, url) = (Arc::clone(&decided), Arc::clone(&done), gateway.url.clone());
            tokio::spawn(async move {
                let client = common::client();
                let mut by_reason = BTreeMap::new();
                while !done.load(Ordering::Relaxed) || decided.load(Ordering::Relaxed) < decisions {
                    let (status, body) = json(ask(&client, &url, "apk_one").await.unwrap()).await;
                    assert_eq!(status, 200, "{body}");
                    *by_reason.entry(text(&body, "reason_code").unwrap().to_owned()).or_insert(0) += 1;
                    decided.fetch_add(1, Ordering::Relaxed);
                }
                by_reason
            })
        })
        .collect();

    let mut slowest = Duration::ZERO;
    for turn in 1..=reloads {
        let name = if turn % 2 == 0 { "a" } else { "b" };
        gateway.write("gateway.toml", &settings("", name));
        let whole = policy(name);
        let is_broken = turn % 10 == 0;
        gateway.write("policy.json", if is_broken { whole.trim_end_matches('}') } else { &whole });
        let asked = std::time::Instant::now();
        let (status, body) = gateway.reload().await;
        slowest = slowest.max(asked.elapsed());
        assert_eq!(status, if is_broken { 409 } else { 200 }, "{turn}: {body}");
        // Decisions happen under each of them.
        let seen = decided.load(Ordering::Relaxed);
        while decided.load(Ordering::Relaxed) < seen + 2 {
            tokio::task::yield_now().await;
        }
    }
    done.store(true, Ordering::Relaxed);
    let mut answered = BTreeMap::new();
    for client in clients {
        for (reason, count) in client.await.unwrap() {
            *answered.entry(reason).or_insert(0) += count;
        }
    }
    println!("{reloads} reloads, slowest {slowest:?}; {answered:?} decisions in {:?}", began.elapsed());

    let mut recorded = BTreeMap::new();
    let (mut reloaded, mut refused) = (0, 0);
    for event in gateway.events().await {
        match text(&event, "event_type").unwrap() {
            "policy.reloaded" => reloaded += 1,
            "policy.reload_refused" => refused += 1,
            _ => {
                let reason = text(&event, "reason_code").unwrap();
                let name = reason.strip_prefix("from.").unwrap();
                // The policy, its hash and the key are of the same settings.
                let hash = Policy::parse(policy(name).as_bytes()).unwrap().hash().to_owned();
                assert_eq!(text(&event, "policy_hash"), Some(&*hash), "{event}");
                assert_eq!(text(&event, "key_name"), Some(&*format!("agent-{name}")), "{event}");
                *recorded.entry(reason.to_owned()).or_insert(0) += 1;
            }
        }
    }
    assert_eq!((reloaded, refused), (reloads - reloads / 10, reloads / 10));
    assert_eq!(recorded, answered);
    assert_eq!(recorded.len(), 2, "both policies decided");
    Arc::into_inner(gateway).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_is_renewed_without_a_refused_connection() {
    common::install_provider();
    let folder = TempDir::new().unwrap();
    let certificate = || {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    };
    let (old, new) = (certificate(), certificate());
    let trusting = |certificates: &[&str]| {
        let certificates = certificates.iter().map(|pem| Certificate::from_pem(pem.as_bytes()).unwrap());
        // A new connection for each request.
        let client = Client::builder().no_proxy().pool_max_idle_per_host(0).http1_only();
        client.tls_certs_only(certificates).build().unwrap()
    };
    let more = "[tls]\ncertificate = \"certificate.pem\"\nkey = \"key.pem\"";
    std::fs::write(folder.path().join("policy.json"), policy("a")).unwrap();
    std::fs::write(folder.path().join("gateway.toml"), settings(more, "a")).unwrap();
    std::fs::write(folder.path().join("certificate.pem"), &old.0).unwrap();
    std::fs::write(folder.path().join("key.pem"), &old.1).unwrap();
    let both = trusting(&[&old.0, &new.0]);
    let gateway = Reloading::start_in(folder, both.clone()).await;
    let kept =
        Client::builder().no_proxy().tls_certs_only([Certificate::from_pem(old.0.as_bytes()).unwrap()]);
    let kept = kept.build().unwrap();
    assert_eq!(ask(&kept, &gateway.url, "apk_one").await.unwrap().status(), 200);

    let (done, connected) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let connecting = tokio::spawn({
        let (done, connected, url) = (Arc::clone(&done), Arc::clone(&connected), gateway.url.clone());
        async move {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(ask(&both, &url, "apk_one").await.unwrap().status(), 200);
                connected.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    // A key that does not belong to the certificate.
    gateway.write("key.pem", &new.1);
    assert!(gateway.refused().await.contains("tls.key: cannot be used with tls.certificate"));
    gateway.write("certificate.pem", &new.0);
    let answer = gateway.reloaded().await;
    assert_ne!(text(&answer, "settings_hash_before"), text(&answer, "settings_hash"));
    let seen = connected.load(Ordering::Relaxed);
    while connected.load(Ordering::Relaxed) < seen + 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    done.store(true, Ordering::Relaxed);
    connecting.await.unwrap();

    let only = async |pem: &str| ask(&trusting(&[pem]), &gateway.url, "apk_one").await;
    assert_eq!(only(&new.0).await.unwrap().status(), 200);
    assert!(only(&old.0).await.unwrap_err().is_connect());
    assert_eq!(
        ask(&kept, &gateway.url, "apk_one").await.unwrap().status(),
        200,
        "an open connection continues"
    );
    gateway.write("gateway.toml", &settings("", "a"));
    assert!(gateway.refused().await.contains("tls: changed, which needs a restart"));
    gateway.stop().await;
}
