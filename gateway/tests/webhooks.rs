//! Webhooks, as a receiver sees them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use actpass_gateway::clock::Clock;
use actpass_gateway::config::Settings;
use actpass_protocol::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{Gateway, config_with, json, refund, shipped_policy, text};
use ring::hmac;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const SECRET: [u8; 32] = [9; 32];

/// A message as received.
#[derive(Clone, Debug)]
struct Received {
    headers: HeaderMap,
    body: String,
}

impl Received {
    fn json(&self) -> Json {
        Json::parse(self.body.as_bytes()).unwrap()
    }

    fn kind(&self) -> String {
        text(&self.json(), "type").unwrap().to_owned()
    }

    fn id(&self) -> &str {
        self.headers["webhook-id"].to_str().unwrap()
    }
}

/// Response of a receiver.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Status(u16),
    /// Redirects to itself at another path.
    Redirect,
    Never,
}

#[derive(Clone)]
struct Behaviour {
    answer: Arc<Mutex<Answer>>,
    attempts: Arc<AtomicU64>,
    messages: watch::Sender<Vec<Received>>,
}

/// A receiver of messages.
struct Receiver {
    port: u16,
    behaviour: Behaviour,
    serving: Option<JoinHandle<()>>,
}

impl Receiver {
    async fn start() -> Self {
        let behaviour = Behaviour {
            answer: Arc::new(Mutex::new(Answer::Status(204))),
            attempts: Arc::default(),
            messages: watch::channel(Vec::new()).0,
        };
        let mut receiver = Self { port: 0, behaviour, serving: None };
        receiver.listen().await;
        receiver
    }

    async fn listen(&mut self) {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        self.port = listener.local_addr().unwrap().port();
        let routes = Router::new().fallback(receive).with_state(self.behaviour.clone());
        self.serving = Some(tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() }));
    }

    async fn stop(&mut self) {
        let serving = self.serving.take().unwrap();
        serving.abort();
        let _ = serving.await;
    }

    fn answer(&self, answer: Answer) {
        *self.behaviour.answer.lock().unwrap() = answer;
    }

    /// Waits for this number of accepted messages.
    async fn messages(&self, count: usize) -> Vec<Received> {
        let mut messages = self.behaviour.messages.subscribe();
        let waited =
            tokio::time::timeout(Duration::from_secs(60), messages.wait_for(|m| m.len() >= count)).await;
        match waited {
            Ok(found) => found.unwrap().clone(),
            Err(_) => panic!("{count} messages expected: {:?}", self.behaviour.messages.borrow()),
        }
    }

    /// Waits for this number of attempts.
    async fn attempts(&self, count: u64) {
        let waited = async {
            while self.behaviour.attempts.load(Ordering::SeqCst) < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waited).await.expect("attempts");
    }
}

async fn receive(State(behaviour): State<Behaviour>, headers: HeaderMap, body: Bytes) -> Response {
    behaviour.attempts.fetch_add(1, Ordering::SeqCst);
    let answer = *behaviour.answer.lock().unwrap();
    match answer {
        Answer::Never => std::future::pending().await,
        Answer::Redirect => {
            (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "/elsewhere")]).into_response()
        }
        Answer::Status(status) => {
            let status = StatusCode::from_u16(status).unwrap();
            if status.is_success() {
                let body = String::from_utf8(body.to_vec()).unwrap();
                behaviour.messages.send_modify(|messages| messages.push(Received { headers, body }));
            }
            status.into_response()
        }
    }
}

/// Settings with the policy and a webhook to the receiver with more members.
fn settings(folder: &Path, policy: &str, port: u16, more: &str) -> Settings {
    std::fs::write(folder.join("hook.secret"), format!("whsec_{}\n", STANDARD.encode(SECRET))).unwrap();
    let mut text = config_with("", policy);
    write!(
        text,
        "[[webhooks]]\nname = \"ops\"\nurl = \"http://127.0.0.1:{port}/hook?token=query-secret\"\n\
         danger_allow_private_address = true\nmax_retry_seconds = 1\ntimeout_seconds = 1\n{more}\n"
    )
    .unwrap();
    if !more.contains("form") {
        text += "secret_file = \"hook.secret\"\n";
    }
    Settings::parse(&text, folder).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Changes the settings of a gateway to those with a webhook.
fn with(receiver: &Receiver, policy: &str, more: &str) -> impl Fn(&mut Settings) + use<> {
    let (port, policy, more) = (receiver.port, policy.to_owned(), more.to_owned());
    move |current| {
        let folder = TempDir::new().unwrap();
        let changed = settings(folder.path(), &policy, port, &more);
        let data = current.data.clone();
        *current = changed;
        current.data = data;
    }
}

async fn start(receiver: &Receiver, more: &str) -> Gateway {
    Gateway::start_with("", with(receiver, &shipped_policy("dev.json"), more)).await
}

/// Opens an approval and returns its id.
async fn request(gateway: &Gateway, key: &str, more: &str) -> String {
    let response = gateway.decide(key, &refund("25000", more)).await;
    assert_eq!(text(&response, "decision"), Some("require_approval"), "{response}");
    text(&response, "approval_request_id").unwrap().to_owned()
}

async fn decide(gateway: &Gateway, id: &str, verb: &str) {
    let path = format!("/api/v1/approvals/{id}/{verb}");
    let (status, body) = json(gateway.post(&path, "apdv_one").body("{}").send().await.unwrap()).await;
    assert_eq!(status, 200, "{body}");
}

#[track_caller]
fn assert_signed(message: &Received) {
    let header = |name: &str| message.headers[name].to_str().unwrap();
    let signed = format!("{}.{}.{}", header("webhook-id"), header("webhook-timestamp"), message.body);
    let expected = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &SECRET), signed.as_bytes());
    assert_eq!(header("webhook-signature"), format!("v1,{}", STANDARD.encode(expected)));
    assert_eq!(header("content-type"), "application/json");
}

#[tokio::test]
async fn approval_is_announced_once_and_its_decision_too() {
    let receiver = Receiver::start().await;
    let gateway = start(&receiver, "").await;
    let id = request(&gateway, "apk_one", "").await;
    // The same action meets the same request.
    assert_eq!(request(&gateway, "apk_one", "").await, id);
    receiver.messages(1).await;
    decide(&gateway, &id, "approve").await;
    let rejected = request(&gateway, "apk_bound", "").await;
    decide(&gateway, &rejected, "reject").await;

    let messages = receiver.messages(4).await;
    let kinds: Vec<_> = messages.iter().map(Received::kind).collect();
    assert_eq!(kinds, ["approval.requested", "approval.decided", "approval.requested", "approval.decided"]);
    messages.iter().for_each(assert_signed);
    let requested = messages[0].json();
    for (path, expected) in [
        ("data.tenant_id", "one"),
        ("data.tool", "refunds.create"),
        ("data.decision", "require_approval"),
        ("data.approval.id", &*id),
        ("data.approval.goal", "refund an order"),
        ("data.approval.url", &format!("{}/approvals/{id}", gateway.url)),
    ] {
        assert_eq!(text(&requested, path), Some(expected), "{path}: {requested}");
    }
    let event = text(&requested, "data.event_id").unwrap();
    assert_eq!(messages[0].id(), format!("{event}_approval_requested"));
    assert_eq!(text(&messages[1].json(), "data.decided.status"), Some("approved"));
    assert_eq!(text(&messages[1].json(), "data.decided.by"), Some("name-of-apdv-one"));
    assert_eq!(text(&messages[3].json(), "data.decided.status"), Some("rejected"));
    // The ledger names the announcements.
    let events = gateway.events("apdv_one", "decisions").await;
    let announcing: Vec<_> = events.iter().filter_map(|event| event.member("announces")).collect();
    assert_eq!(announcing.len(), 4, "{announcing:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn messages_contain_arguments_only_if_configured_and_no_secret() {
    for (more, has_arguments) in [("", false), ("arguments = true", true)] {
        let receiver = Receiver::start().await;
        let gateway = start(&receiver, more).await;
        let id = request(&gateway, "apk_one", "").await;
        decide(&gateway, &id, "approve").await;
        for message in receiver.messages(2).await {
            let approval = message.json().member("data").and_then(|data| data.member("approval")).cloned();
            assert_eq!(approval.unwrap().member("args").is_some(), has_arguments, "{}", message.body);
            for secret in ["apk_", "apdv_", "query-secret", &STANDARD.encode(SECRET)] {
                assert!(!message.body.contains(secret), "{secret}");
            }
        }
        gateway.stop().await;
    }
}

#[tokio::test]
async fn webhook_receives_only_its_tenants_and_events() {
    let receiver = Receiver::start().await;
    let more = "tenants = [\"one\"]\nevents = [\"approval.decided\"]";
    let gateway = start(&receiver, more).await;
    request(&gateway, "apk_two", "").await;
    let id = request(&gateway, "apk_one", "").await;
    decide(&gateway, &id, "approve").await;
    let messages = receiver.messages(1).await;
    assert_eq!(text(&messages[0].json(), "data.approval.id"), Some(&*id));
    assert_eq!(receiver.behaviour.attempts.load(Ordering::SeqCst), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn expired_approval_is_announced() {
    let receiver = Receiver::start().await;
    let time = Arc::new(AtomicU64::new(1_800_000_000_000));
    let change = with(&receiver, &shipped_policy("dev.json"), "events = [\"approval.expired\"]");
    let clock = Arc::clone(&time);
    let gateway = Gateway::start_with("", |settings| {
        change(settings);
        settings.timeouts.stop = Duration::from_secs(60);
        settings.clock = Clock::new(move || UNIX_EPOCH + Duration::from_millis(clock.load(Ordering::SeqCst)));
    })
    .await;
    let mut ids = Vec::new();
    for user in ["a", "b", "c"] {
        ids.push(request(&gateway, "apk_one", &format!(r#", "user_id": "{user}""#)).await);
    }
    decide(&gateway, &ids.remove(0), "reject").await;
    time.fetch_add(900_000, Ordering::SeqCst);
    let messages = receiver.messages(2).await;
    let mut expired: Vec<_> = messages
        .iter()
        .map(|message| text(&message.json(), "data.approval.id").unwrap().to_owned())
        .collect();
    expired.sort_unstable();
    assert_eq!(expired, ids);
    assert_eq!(messages[0].id(), format!("{}_approval_expired", ids[0]));
    // Time passes, nothing more expires.
    time.fetch_add(900_000, Ordering::SeqCst);
    ids = vec![request(&gateway, "apk_one", "").await];
    time.fetch_add(900_000, Ordering::SeqCst);
    let messages = receiver.messages(3).await;
    assert_eq!(text(&messages[2].json(), "data.approval.id"), Some(&*ids[0]));
    gateway.stop().await;
}

#[tokio::test]
async fn exceeded_budget_is_announced() {
    for (on_exceed, kinds) in
        [("deny", &["budget.exceeded"][..]), ("require_approval", &["budget.exceeded", "approval.requested"])]
    {
        let receiver = Receiver::start().await;
        let folder = TempDir::new().unwrap();
        let policy = folder.path().join("policy.json");
        std::fs::write(
            &policy,
            format!(
                r#"{{"id": "p", "version": 1, "rules": [{{"name": "all", "when": [], "decision": "allow", "reason": "ok"}}],
                 "budgets": [{{"name": "daily", "when": [], "per": ["agent_id"], "sum": "args.amount", "limit": 100,
                   "window": "24h", "on_exceed": "{on_exceed}", "reason": "over"}}]}}"#
            ),
        )
        .unwrap();
        let gateway = Gateway::start_with("", with(&receiver, policy.to_str().unwrap(), "")).await;
        gateway.decide("apk_one", &refund("100", "")).await;
        // Observing modes announce nothing.
        gateway.decide("apk_one", &refund("1", r#", "mode": "monitor""#)).await;
        let refused = gateway.decide("apk_one", &refund("1", "")).await;
        assert_eq!(text(&refused, "decision"), Some(on_exceed), "{refused}");
        let messages = receiver.messages(kinds.len()).await;
        assert_eq!(messages.iter().map(Received::kind).collect::<Vec<_>>(), kinds);
        let exceeded = messages[0].json();
        assert_eq!(text(&exceeded, "data.reason_code"), Some("over"));
        assert!(exceeded.to_string().contains(r#""name":"daily""#), "{exceeded}");
        gateway.stop().await;
    }
}

#[tokio::test]
async fn messages_arrive_in_order_after_receiver_was_down() {
    let mut receiver = Receiver::start().await;
    let mut gateway = start(&receiver, "").await;
    receiver.stop().await;
    let mut expected = Vec::new();
    for user in 0..5 {
        expected.push(request(&gateway, "apk_one", &format!(r#", "user_id": "u{user}""#)).await);
    }
    // Another process continues.
    gateway.restart(with(&receiver, &shipped_policy("dev.json"), "")).await;
    expected.push(request(&gateway, "apk_one", r#", "user_id": "later""#).await);
    receiver.listen().await;
    let messages = receiver.messages(6).await;
    let ids: Vec<_> = messages
        .iter()
        .map(|message| text(&message.json(), "data.approval.id").unwrap().to_owned())
        .collect();
    assert_eq!(ids, expected);
    assert_eq!(receiver.behaviour.attempts.load(Ordering::SeqCst), 6, "nothing is sent twice");
    gateway.stop().await;
}

#[tokio::test]
async fn failing_and_silent_receivers_are_retried_with_same_message() {
    for answer in [Answer::Status(500), Answer::Status(429), Answer::Never] {
        let receiver = Receiver::start().await;
        receiver.answer(answer);
        let gateway = start(&receiver, "").await;
        let id = request(&gateway, "apk_one", "").await;
        receiver.attempts(3).await;
        receiver.answer(Answer::Status(200));
        let messages = receiver.messages(1).await;
        assert_eq!(text(&messages[0].json(), "data.approval.id"), Some(&*id));
        assert_signed(&messages[0]);
        gateway.stop().await;
    }
}

/// Returns the messages that were set aside.
async fn dead_letters(gateway: &Gateway, key: &str) -> Vec<Json> {
    let response = gateway.get("/api/v1/webhooks/dead_letters", key).send().await.unwrap();
    let (status, body) = json(response).await;
    assert_eq!(status, 200, "{body}");
    match body.member("dead_letters") {
        Some(Json::Array(found)) => found.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn refused_message_is_set_aside_and_sent_again_on_request() {
    for answer in [Answer::Status(400), Answer::Redirect] {
        let receiver = Receiver::start().await;
        receiver.answer(answer);
        let gateway = start(&receiver, "").await;
        let refused = request(&gateway, "apk_one", r#", "user_id": "refused""#).await;
        receiver.attempts(5).await;
        let found = loop {
            let found = dead_letters(&gateway, "apdv_one").await;
            if !found.is_empty() {
                break found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(found.len(), 1);
        assert_eq!(text(&found[0], "type"), Some("approval.requested"));
        assert!(text(&found[0], "problem").unwrap().starts_with("the receiver responded"), "{}", found[0]);
        assert!(!found[0].to_string().contains("query-secret"));
        // Later messages go on.
        receiver.answer(Answer::Status(200));
        let next = request(&gateway, "apk_one", r#", "user_id": "next""#).await;
        let messages = receiver.messages(1).await;
        assert_eq!(text(&messages[0].json(), "data.approval.id"), Some(&*next));
        assert_eq!(receiver.behaviour.attempts.load(Ordering::SeqCst), 6, "a redirect is not followed");

        let id = found[0].member("id").unwrap().to_string();
        let path = format!("/api/v1/webhooks/dead_letters/{id}/redeliver");
        // Agents and other tenants cannot.
        assert_eq!(gateway.post(&path, "apk_one").body("{}").send().await.unwrap().status(), 403);
        assert_eq!(gateway.post(&path, "apdv_one").body("{}").send().await.unwrap().status(), 202);
        let messages = receiver.messages(2).await;
        assert_eq!(text(&messages[1].json(), "data.approval.id"), Some(&*refused));
        assert_eq!(text(&found[0], "message_id"), Some(messages[1].id()));
        while !dead_letters(&gateway, "apdv_one").await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let unknown = "/api/v1/webhooks/dead_letters/999/redeliver";
        assert_eq!(gateway.post(unknown, "apdv_one").body("{}").send().await.unwrap().status(), 404);
        gateway.stop().await;
    }
}

#[tokio::test]
async fn set_aside_message_does_not_spend_the_attempts_of_later_ones() {
    let receiver = Receiver::start().await;
    receiver.answer(Answer::Status(400));
    let gateway = start(&receiver, "").await;
    request(&gateway, "apk_one", r#", "user_id": "refused""#).await;
    let mut later = Vec::new();
    for user in ["a", "b"] {
        later.push(request(&gateway, "apk_one", &format!(r#", "user_id": "{user}""#)).await);
    }
    while dead_letters(&gateway, "apdv_one").await.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    receiver.answer(Answer::Status(200));
    let messages = receiver.messages(2).await;
    let ids: Vec<_> = messages
        .iter()
        .map(|message| text(&message.json(), "data.approval.id").unwrap().to_owned())
        .collect();
    assert_eq!(ids, later);
    assert_eq!(dead_letters(&gateway, "apdv_one").await.len(), 1);
    gateway.stop().await;
}

/// Logs in and returns the cookie of the session.
async fn log_in(gateway: &Gateway, key: &str) -> String {
    let cookie = |response: &reqwest::Response, name: &str| {
        let lines = response.headers().get_all("set-cookie").iter();
        lines
            .filter_map(|line| line.to_str().ok()?.split(';').next())
            .find(|pair| pair.starts_with(name))
            .unwrap_or_else(|| panic!("{name}: {response:?}"))
            .to_owned()
    };
    let form = gateway.client.get(format!("{}/", gateway.url)).send().await.unwrap();
    let login = cookie(&form, "actpass-login=");
    let token = hidden(&form.text().await.unwrap(), "token");
    let response = submit(gateway, "/login", &login, &[("token", &token), ("key", key)]).await;
    assert_eq!(response.status(), 303);
    cookie(&response, "actpass=")
}

/// Returns the value of a hidden field.
fn hidden(page: &str, name: &str) -> String {
    let start = format!("name=\"{name}\" value=\"");
    page.split_once(&start).expect(page).1.split_once('"').unwrap().0.to_owned()
}

async fn submit(gateway: &Gateway, path: &str, cookie: &str, fields: &[(&str, &str)]) -> reqwest::Response {
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let body: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let request = client.build().unwrap().post(format!("{}{path}", gateway.url)).body(body);
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    request.header("origin", &gateway.url).header("cookie", cookie).send().await.unwrap()
}

async fn page(gateway: &Gateway, path: &str, cookie: &str) -> (u16, String) {
    let request = gateway.client.get(format!("{}{path}", gateway.url)).header("cookie", cookie);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// Waits until the view of webhooks contains a text.
async fn page_with(gateway: &Gateway, cookie: &str, text: &str) -> String {
    let found = async {
        loop {
            let (status, page) = page(gateway, "/webhooks", cookie).await;
            assert_eq!(status, 200, "{page}");
            if page.contains(text) {
                break page;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), found).await.expect(text)
}

#[tokio::test]
async fn page_shows_the_queue_and_sends_a_dead_letter_again() {
    let receiver = Receiver::start().await;
    receiver.answer(Answer::Status(500));
    let gateway = start(&receiver, "events = [\"approval.requested\"]").await;
    let alice = log_in(&gateway, "apdv_one").await;
    assert!(page_with(&gateway, &alice, "<td data-label=\"Waiting\">0</td>").await.contains("standard"));
    // The decision is an event that the webhook does not receive.
    let rejected = request(&gateway, "apk_one", r#", "user_id": "rejected""#).await;
    decide(&gateway, &rejected, "reject").await;
    request(&gateway, "apk_one", r#", "user_id": "waits""#).await;
    // Of another tenant.
    request(&gateway, "apk_two", "").await;
    let shown = page_with(&gateway, &alice, "the receiver responded 500").await;
    assert!(shown.contains("<summary>2</summary>"), "{shown}");
    assert_eq!(shown.matches("<li>approval.requested").count(), 2, "{shown}");
    assert!(
        shown.contains("data-label=\"Next attempt\"") && !shown.contains("data-label=\"Failed attempts\">0")
    );
    assert!(!shown.contains("query-secret") && !shown.contains("127.0.0.1"), "{shown}");

    receiver.answer(Answer::Status(400));
    let shown = page_with(&gateway, &alice, "Send again").await;
    assert!(shown.contains("the receiver responded 400"), "{shown}");
    receiver.answer(Answer::Status(200));
    let message = receiver.messages(1).await.len();
    let path = format!("/webhooks/dead_letters/{}/redeliver", {
        let rest = shown.split_once("/webhooks/dead_letters/").unwrap().1;
        rest.split_once('/').unwrap().0
    });
    let token = hidden(&shown, "token");
    assert_eq!(submit(&gateway, &path, &alice, &[("token", "0")]).await.status(), 403);
    assert_eq!(submit(&gateway, &path, "", &[("token", &token)]).await.status(), 403);
    let unknown = "/webhooks/dead_letters/999/redeliver";
    assert_eq!(submit(&gateway, unknown, &alice, &[("token", &token)]).await.status(), 404);
    assert_eq!(submit(&gateway, &path, &alice, &[("token", &token)]).await.status(), 303);
    receiver.messages(message + 1).await;
    page_with(&gateway, &alice, "No messages.").await;
    assert_eq!(page(&gateway, "/webhooks?after=x", &alice).await.0, 422);
    gateway.stop().await;
}

#[tokio::test]
async fn halt_and_its_lifting_are_announced() {
    for (form, is_slack) in [("", false), ("form = \"slack\"", true)] {
        let receiver = Receiver::start().await;
        let more = format!("events = [\"halt.started\", \"halt.lifted\"]\n{form}");
        let gateway = start(&receiver, &more).await;
        let body = r#"{"scope": "tool", "id": "refunds.*", "reason": "<!channel> pays twice"}"#;
        let start =
            async || json(gateway.post("/api/v1/halts", "apdv_one").body(body).send().await.unwrap()).await;
        let (status, halt) = start().await;
        assert_eq!(status, 201, "{halt}");
        // A repetition is the same halt.
        assert_eq!(start().await.0, 200);
        let id = text(&halt, "id").unwrap();
        let lift =
            gateway.client.delete(format!("{}/api/v1/halts/{id}", gateway.url)).bearer_auth("apdv_one");
        let lift = lift.header("content-type", "application/json").body(r#"{"reason": "fixed"}"#);
        assert_eq!(lift.send().await.unwrap().status(), 200);
        let messages = receiver.messages(2).await;
        assert_eq!(messages.len(), 2);
        if is_slack {
            let facts = messages[0].json().to_string();
            assert_eq!(
                text(&messages[0].json(), "text"),
                Some("A halt stops actions: the tool \"refunds.*\"")
            );
            assert!(facts.contains("*Reason*: &lt;!channel&gt; pays twice"), "{facts}");
            assert!(facts.contains("*By*: name-of-apdv-one"), "{facts}");
            assert!(
                messages[1].body.contains("A halt was lifted")
                    && messages[1].body.contains("*Reason*: fixed")
            );
        } else {
            messages.iter().for_each(assert_signed);
            for (message, kind, status, reason) in [
                (&messages[0], "halt.started", "active", "<!channel> pays twice"),
                (&messages[1], "halt.lifted", "lifted", "fixed"),
            ] {
                let body = message.json();
                assert_eq!(message.kind(), kind);
                for (path, expected) in [
                    ("data.halt.id", id),
                    ("data.halt.status", status),
                    ("data.halt.scope", "tool"),
                    ("data.halt.target", "refunds.*"),
                    ("data.halt.reason", reason),
                    ("data.halt.by", "name-of-apdv-one"),
                    ("data.tenant_id", "one"),
                ] {
                    assert_eq!(text(&body, path), Some(expected), "{path}: {body}");
                }
            }
        }
        // The announcements are part of the events of the halt, so they are in its transaction.
        let events = gateway.events("apdv_one", "decisions").await;
        let announcing: Vec<_> = events.iter().filter_map(|event| event.member("announces")).collect();
        assert_eq!(announcing.len(), 2, "{announcing:?}");
        let (status, halts) = page(&gateway, "/halts", &log_in(&gateway, "apdv_one").await).await;
        assert_eq!(status, 200);
        let lifted = halts.split_once("No lifted halts").is_none() && halts.contains("fixed");
        assert!(lifted && halts.contains("Nothing is stopped."), "{halts}");
        gateway.stop().await;
    }
}

#[tokio::test]
async fn states_of_webhooks_are_listed_without_url() {
    let mut receiver = Receiver::start().await;
    let gateway = start(&receiver, "").await;
    receiver.stop().await;
    request(&gateway, "apk_one", "").await;
    let state = loop {
        let response = gateway.get("/api/v1/webhooks", "apdv_one").send().await.unwrap();
        let (status, body) = json(response).await;
        assert_eq!(status, 200, "{body}");
        if text(&body, "webhooks").is_some() || body.to_string().contains("\"problem\":\"") {
            break body;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let state = state.to_string();
    assert!(state.contains(r#""name":"ops""#) && state.contains("Connection refused"), "{state}");
    assert!(!state.contains("query-secret") && !state.contains("127.0.0.1"), "{state}");
    assert_eq!(gateway.get("/api/v1/webhooks", "apk_one").send().await.unwrap().status(), 403);
    gateway.stop().await;
}

#[tokio::test]
async fn slack_message_cannot_mention_or_link_by_agents_text() {
    let receiver = Receiver::start().await;
    let gateway = start(&receiver, "form = \"slack\"\narguments = true").await;
    let body =
        refund("25000", "").replace("refund an order", "<!channel> ``` <https://evil.example|ok> & *b*");
    gateway.decide("apk_one", &body).await;
    let message = receiver.messages(1).await.remove(0);
    assert!(!message.headers.contains_key("webhook-signature"));
    let body = message.json();
    assert_eq!(text(&body, "text"), Some("An action needs your approval: refunds.create"));
    let Some(Json::Array(blocks)) = body.member("blocks") else { panic!("{body}") };
    let kinds: Vec<_> = blocks.iter().map(|block| text(block, "type").unwrap()).collect();
    assert_eq!(kinds, ["header", "section", "section", "actions"]);
    let facts = text(&blocks[1], "text.text").unwrap();
    assert!(facts.contains("&lt;!channel&gt; ''' &lt;https://evil.example|ok&gt; &amp; *b*"), "{facts}");
    assert_eq!(text(&blocks[2], "text.text"), Some(r#"```{"amount":25000,"currency":"usd"}```"#));
    gateway.stop().await;
}

/// A start announces no events from before the webhook was configured.
#[tokio::test]
async fn new_webhook_starts_at_the_present() {
    let receiver = Receiver::start().await;
    let mut gateway = Gateway::start().await;
    request(&gateway, "apk_one", "").await;
    gateway.restart(with(&receiver, &shipped_policy("dev.json"), "")).await;
    let id = request(&gateway, "apk_one", r#", "user_id": "new""#).await;
    let messages = receiver.messages(1).await;
    assert_eq!(text(&messages[0].json(), "data.approval.id"), Some(&*id));
    gateway.stop().await;
}
