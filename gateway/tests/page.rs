//! The approvals page, as used by a browser.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use actpass_gateway::auth::{ApiKey, ApiKeyHash, Keyring, Role};
use actpass_gateway::clock::Clock;
use actpass_gateway::config::Settings;
use actpass_protocol::Json;
use common::{Gateway, text};
use futures_util::future::join_all;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};

const ALICE: &str = "apdv_page_alice_secret";
const BOB: &str = "apdv_page_bob_secret";
const EVE: &str = "apdv_page_eve_secret";

/// Starts a gateway with the operators Alice and Bob of the tenant `one` and Eve of the tenant
/// `two`.
async fn start_with(limits: &str) -> (Gateway, Arc<AtomicU64>) {
    let time = Arc::new(AtomicU64::new(1_800_000_000));
    let clock = Arc::clone(&time);
    let gateway = Gateway::start_with(limits, |settings| {
        add_operators(&mut settings.keyring);
        // Many tests request the same action more than once.
        settings.reuse_approvals = false;
        settings.clock = Clock::new(move || UNIX_EPOCH + Duration::from_secs(clock.load(Ordering::SeqCst)));
    })
    .await;
    (gateway, time)
}

fn add_operators(keyring: &mut Keyring) {
    for (key, name, beside) in [(ALICE, "alice", "apk_one"), (BOB, "bob", "apk_one"), (EVE, "eve", "apk_two")]
    {
        let tenant = Arc::clone(&keyring.find(beside, 0).unwrap().tenant);
        keyring.add(ApiKeyHash::of(key), ApiKey::new(name, tenant, Role::Operator, None));
    }
}

async fn start() -> (Gateway, Arc<AtomicU64>) {
    start_with("").await
}

/// A minimal browser: cookies, no redirects.
struct Browser {
    client: Client,
    url: String,
    /// The origin that it reports.
    origin: Option<String>,
    site: Option<&'static str>,
    cookies: Vec<(String, String)>,
}

impl Browser {
    fn of(gateway: &Gateway) -> Self {
        let client = Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
        Self::with(client, &gateway.url)
    }

    fn with(client: Client, url: &str) -> Self {
        let url = url.to_owned();
        Self { client, origin: Some(url.clone()), url, site: Some("same-origin"), cookies: Vec::new() }
    }

    async fn logged_in(gateway: &Gateway, key: &str) -> Self {
        let mut browser = Self::of(gateway);
        let (status, _) = browser.log_in(key).await;
        assert_eq!(status, 303);
        browser
    }

    async fn log_in(&mut self, key: &str) -> (StatusCode, String) {
        let (_, form) = self.get("/").await;
        let response = self.send("/login", &[("token", &token(&form)), ("key", key)]).await;
        (response.status(), response.text().await.unwrap())
    }

    fn cookie(&self) -> String {
        let pairs: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("; ")
    }

    fn keep(&mut self, response: &Response) {
        for line in response.headers().get_all("set-cookie") {
            let (name, rest) = line.to_str().unwrap().split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            self.cookies.retain(|(known, _)| known != name);
            if !value.is_empty() {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    async fn get(&mut self, path: &str) -> (StatusCode, String) {
        let request = self.client.get(format!("{}{path}", self.url)).header("cookie", self.cookie());
        let response = request.send().await.unwrap();
        self.keep(&response);
        (response.status(), response.text().await.unwrap())
    }

    async fn send(&mut self, path: &str, fields: &[(&str, &str)]) -> Response {
        let body: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let mut request = self.client.post(format!("{}{path}", self.url)).body(body);
        request = request
            .header("content-type", "application/x-www-form-urlencoded")
            .header("cookie", self.cookie());
        if let Some(origin) = &self.origin {
            request = request.header("origin", origin);
        }
        if let Some(site) = self.site {
            request = request.header("sec-fetch-site", site);
        }
        let response = request.send().await.unwrap();
        self.keep(&response);
        response
    }

    async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> (StatusCode, String) {
        let response = self.send(path, fields).await;
        (response.status(), response.text().await.unwrap())
    }

    /// Submits the form on the request's page.
    async fn decide(&mut self, id: &str, word: &str, note: &str) -> (StatusCode, String) {
        let (_, page) = self.get(&format!("/approvals/{id}")).await;
        let fields =
            [("token", token(&page)), ("shown_hash", field(&page, "shown_hash")), ("note", note.to_owned())];
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.post(&format!("/approvals/{id}/{word}"), &fields).await
    }
}

/// Returns the value of a hidden field; empty if missing.
fn field(page: &str, name: &str) -> String {
    let start = format!("name=\"{name}\" value=\"");
    page.split_once(&start)
        .and_then(|(_, rest)| rest.split_once('"'))
        .map_or("", |(value, _)| value)
        .to_owned()
}

fn token(page: &str) -> String {
    field(page, "token")
}

fn heading(page: &str) -> &str {
    let (_, rest) = page.split_once("<h1 id=\"waiting\" aria-live=\"polite\">").expect(page);
    rest.split_once("</h1>").unwrap().0
}

async fn ask_with(gateway: &Gateway, key: &str, args: &str) -> String {
    let body = format!(
        r#"{{"agent_id": "sdk", "goal": "refund <b>an</b> order", "tool": "refunds.create", "resource": "", "args": {args}}}"#
    );
    let response = gateway.decide(key, &body).await;
    text(&response, "approval_request_id").unwrap_or_else(|| panic!("{response}")).to_owned()
}

async fn ask(gateway: &Gateway) -> String {
    ask_with(gateway, "apk_one", r#"{"amount": 25000, "currency": "usd"}"#).await
}

async fn status_of(gateway: &Gateway, id: &str) -> String {
    let response = gateway.get(&format!("/api/v1/approvals/{id}"), "apk_one").send().await.unwrap();
    let (_, response) = common::json(response).await;
    text(&response, "status").unwrap().to_owned()
}

#[tokio::test]
async fn page_requires_operator_key() {
    let (gateway, _) = start().await;
    let mut browser = Browser::of(&gateway);
    let (status, form) = browser.get("/").await;
    assert_eq!((status, token(&form).len()), (StatusCode::OK, 64));
    assert!(form.contains("type=\"password\""));

    let mut refusals = Vec::new();
    for key in ["", "apk_one", "apk_two", "apk_unknown_secret", &"k".repeat(600), "apdv_page_alice"] {
        let started = Instant::now();
        let (status, page) = browser.log_in(key).await;
        assert_eq!(status, 403, "{key}");
        assert!(started.elapsed() >= Duration::from_millis(900), "{key}");
        assert!(key.is_empty() || !page.contains(key));
        refusals.push(page);
    }
    refusals.dedup();
    assert_eq!(refusals.len(), 1, "responses do not reveal which keys exist");
    assert!(refusals[0].contains("Invalid operator key."));

    let (_, form) = browser.get("/").await;
    let response = browser.send("/login", &[("token", &token(&form)), ("key", &format!(" {ALICE}\n"))]).await;
    assert_eq!((response.status().as_u16(), response.headers()["location"].to_str().unwrap()), (303, "/"));
    let cookies: Vec<_> =
        response.headers().get_all("set-cookie").iter().map(|c| c.to_str().unwrap()).collect();
    let (id, attributes) = cookies[0].strip_prefix("actpass=").unwrap().split_once("; ").unwrap();
    assert_eq!((id.len(), attributes), (64, "HttpOnly; SameSite=Strict; Path=/; Max-Age=28800"));
    assert_eq!(cookies[1], "actpass-login=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0");
    assert!(!format!("{cookies:?}").contains(ALICE));

    let (status, page) = browser.get("/").await;
    assert_eq!((status, heading(&page)), (StatusCode::OK, "No pending requests"));
    assert!(page.contains(">alice</span>") && page.contains("<title>Approvals · ActPass</title>"));
    assert!(!page.contains(ALICE) && !page.contains(id));

    let before = browser.cookies.clone();
    assert_eq!(browser.post("/logout", &[("token", &token(&page))]).await.0, 303);
    assert!(browser.cookies.iter().all(|(name, _)| name == "actpass-login"), "{:?}", browser.cookies);
    browser.cookies = before;
    assert!(
        browser.get("/").await.1.contains("type=\"password\""),
        "the session ended for every holder of the cookie"
    );
    gateway.stop().await;
}

#[tokio::test]
async fn cross_site_login_is_rejected() {
    let (gateway, _) = start().await;
    let mut other = Browser::of(&gateway);
    let foreign = token(&other.get("/").await.1);
    let mut browser = Browser::of(&gateway);
    let own = token(&browser.get("/").await.1);
    assert_ne!(own, foreign);
    for wrong in [foreign.as_str(), "", own.strip_suffix(|_: char| true).unwrap()] {
        assert_eq!(browser.post("/login", &[("token", wrong), ("key", ALICE)]).await.0, 403);
    }
    let mut without = Browser::of(&gateway);
    assert_eq!(without.post("/login", &[("token", &own), ("key", ALICE)]).await.0, 403, "no cookie");
    assert_eq!(without.post("/login", &[("token", ""), ("key", ALICE)]).await.0, 403);
    for (origin, site) in foreign_origins() {
        (browser.origin, browser.site) = (origin.clone(), site);
        let (status, page) = browser.post("/login", &[("token", &own), ("key", ALICE)]).await;
        assert_eq!(status, 403, "{origin:?} {site:?}");
        assert!(page.contains("did not come from this gateway&#39;s page"));
    }
    assert!(!browser.cookies.iter().any(|(name, _)| name == "actpass"));
    (browser.origin, browser.site) = (Some(gateway.url.clone()), None);
    assert_eq!(browser.post("/login", &[("token", &own), ("key", ALICE)]).await.0, 303);
    gateway.stop().await;
}

fn foreign_origins() -> Vec<(Option<String>, Option<&'static str>)> {
    vec![
        (None, None),
        (None, Some("same-origin")),
        (Some("null".to_owned()), None),
        (Some("https://evil.example".to_owned()), Some("cross-site")),
        (Some("http://127.0.0.1:1".to_owned()), Some("same-site")),
        (Some("http://localhost".to_owned()), None),
    ]
}

#[tokio::test]
async fn forms_require_session_token() {
    let (gateway, _) = start().await;
    let id = ask(&gateway).await;
    let mut bob = Browser::logged_in(&gateway, BOB).await;
    let bobs = token(&bob.get("/").await.1);
    let mut again = Browser::logged_in(&gateway, ALICE).await;
    let anothers = token(&again.get("/").await.1);
    let mut alice = Browser::logged_in(&gateway, ALICE).await;
    let (_, page) = alice.get("/").await;
    let (own, hash) = (token(&page), field(&page, "shown_hash"));
    assert_eq!(hash.len(), 64);

    let paths = [format!("/approvals/{id}/approve"), format!("/approvals/{id}/reject")];
    let fields =
        |token: &str| [("token", token.to_owned()), ("shown_hash", hash.clone()), ("note", String::new())];
    for path in &paths {
        for wrong in [
            "",
            &bobs,
            &anothers,
            own.strip_suffix(|_: char| true).unwrap(),
            &own.to_uppercase(),
            &"0".repeat(64),
        ] {
            let fields = fields(wrong);
            let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let (status, page) = alice.post(path, &fields).await;
            assert_eq!(status, 403, "{wrong}");
            assert!(page.contains("belongs to another session"));
        }
        let good = fields(&own);
        let good: Vec<_> = good.iter().map(|(name, value)| (*name, value.as_str())).collect();
        for (origin, site) in foreign_origins() {
            (alice.origin, alice.site) = (origin.clone(), site);
            assert_eq!(alice.post(path, &good).await.0, 403, "{origin:?} {site:?}");
        }
        (alice.origin, alice.site) = (Some(gateway.url.clone()), Some("same-origin"));
        // A missing, duplicate or unknown field.
        assert_eq!(alice.post(path, &good[..2]).await.0, 400);
        assert_eq!(alice.post(path, &[good[0], good[1], good[1]]).await.0, 400);
        assert_eq!(alice.post(path, &[good[0], good[1], good[2], ("x", "y")]).await.0, 400);
        let json = alice.client.post(format!("{}{path}", gateway.url)).header("cookie", alice.cookie());
        let json = json.header("origin", &gateway.url).header("content-type", "text/plain");
        assert_eq!(
            json.body(format!("token={own}&shown_hash={hash}&note=")).send().await.unwrap().status(),
            400
        );
        let mut nobody = Browser::of(&gateway);
        let (status, page) = nobody.post(path, &good).await;
        assert_eq!(status, 403);
        assert!(page.contains("session has expired") && page.contains("type=\"password\""));
        assert_eq!(alice.get(path).await.0, 405, "GET is not allowed");
        // An API key is not a session and vice versa.
        let bearer = gateway.client.post(format!("{}{path}", gateway.url)).bearer_auth(ALICE);
        let bearer =
            bearer.header("origin", &gateway.url).header("content-type", "application/x-www-form-urlencoded");
        assert_eq!(
            bearer.body(format!("token={own}&shown_hash={hash}&note=")).send().await.unwrap().status(),
            403
        );
        let api =
            gateway.client.post(format!("{}/api/v1{path}", gateway.url)).header("cookie", alice.cookie());
        let api = api.header("content-type", "application/json").body("{}");
        assert_eq!(api.send().await.unwrap().status(), 401);
    }
    for path in ["/logout", "/chain/verify"] {
        assert_eq!(alice.post(path, &[("token", &bobs)]).await.0, 403);
        assert_eq!(alice.post(path, &[]).await.0, 400);
        assert_eq!(alice.get(path).await.0, 405);
    }
    assert_eq!(status_of(&gateway, &id).await, "pending");
    assert_eq!(heading(&alice.get("/").await.1), "1 pending");
    gateway.stop().await;
}

#[tokio::test]
async fn records_decision_with_note_and_decider() {
    let (gateway, _) = start().await;
    let (yes, no) = (ask(&gateway).await, ask(&gateway).await);
    let mut alice = Browser::logged_in(&gateway, ALICE).await;
    let (_, page) = alice.get("/").await;
    assert_eq!(heading(&page), "2 pending");
    assert!(page.contains("<title>(2) Approvals · ActPass</title>"));
    assert!(!page.contains("class=\"hides\""));
    for shown in ["refunds.create", "refund.medium_needs_approval", "0 s ago", "15 min left", ">sdk<"] {
        assert!(page.contains(shown), "{shown}");
    }
    let fields = [("token", token(&page)), ("shown_hash", field(&page, "shown_hash"))];
    let note = "called <i>them</i>\r\nand they said yes";
    let fields = [(fields[0].0, &*fields[0].1), (fields[1].0, &*fields[1].1), ("note", note)];
    let response = alice.send(&format!("/approvals/{yes}/approve"), &fields).await;
    assert_eq!(response.status(), 303);
    let to = response.headers()["location"].to_str().unwrap().to_owned();
    let (_, after) = alice.get(&to).await;
    assert_eq!(heading(&after), "1 pending");
    assert!(after.contains("approved</strong> by alice at"));
    let (_, one) = alice.get(&format!("/approvals/{yes}")).await;
    assert!(one.contains("called &#60;i&#62;them&#60;/i&#62;\nand they said yes"));
    assert!(one.contains("Not used yet.") && !one.contains("<button class=\"approve\">"));

    assert_eq!(alice.decide(&no, "reject", "  ").await.0, 303);
    assert_eq!(
        (status_of(&gateway, &yes).await, status_of(&gateway, &no).await),
        ("approved".into(), "rejected".into())
    );
    let events = gateway.events("apk_one", "decisions").await;
    let decided: Vec<_> = events.iter().filter(|e| text(e, "metadata.decided_by").is_some()).collect();
    let said = |event: &Json| {
        let noted = event.member("metadata").and_then(|metadata| metadata.member("has_note")).cloned();
        (text(event, "event_type").unwrap().to_owned(), text(event, "key_name").unwrap().to_owned(), noted)
    };
    assert_eq!(said(decided[0]), ("approval.approved".into(), "alice".into(), Some(Json::Bool(true))));
    assert_eq!(said(decided[1]), ("approval.rejected".into(), "alice".into(), Some(Json::Bool(false))));

    let body = common::refund("25000", &format!(r#", "approval_request_id": "{yes}""#));
    let body = body.replace("refund an order", "refund <b>an</b> order");
    assert_eq!(text(&gateway.decide("apk_one", &body).await, "reason_code"), Some("approval.approved"));
    assert!(alice.get(&format!("/approvals/{yes}")).await.1.contains("Used."));
    let (_, last) = alice.get("/").await;
    assert!(
        last.contains("approval.approved") && last.contains(">rejected</span>") && last.contains("by alice")
    );

    let third = ask(&gateway).await;
    let (status, page) = alice.decide(&third, "approve", &"n".repeat(2001)).await;
    assert_eq!(status, 422);
    assert!(page.contains("note"));
    assert_eq!(alice.decide(&third, "approve", &"\u{1f600}".repeat(2000)).await.0, 303);
    gateway.stop().await;
}

#[tokio::test]
async fn late_decision_names_first_decider() {
    let (gateway, time) = start().await;
    let (id, late) = (ask(&gateway).await, ask(&gateway).await);
    let mut alice = Browser::logged_in(&gateway, ALICE).await;
    let mut bob = Browser::logged_in(&gateway, BOB).await;
    let (_, seen) = bob.get(&format!("/approvals/{id}")).await;
    assert_eq!(alice.decide(&id, "reject", "not this customer").await.0, 303);
    let fields =
        [("token", token(&seen)), ("shown_hash", field(&seen, "shown_hash")), ("note", "fine".to_owned())];
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (status, page) = bob.post(&format!("/approvals/{id}/approve"), &fields).await;
    assert_eq!(status, 409);
    assert!(
        page.contains(
            "alice already rejected this at 2027-01-15 08:00:00 UTC. Your decision was not recorded."
        )
    );
    assert!(page.contains("not this customer"));
    assert_eq!(status_of(&gateway, &id).await, "rejected");

    let (_, seen) = bob.get(&format!("/approvals/{late}")).await;
    time.fetch_add(900, Ordering::SeqCst);
    let fields =
        [("token", token(&seen)), ("shown_hash", field(&seen, "shown_hash")), ("note", String::new())];
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (status, page) = bob.post(&format!("/approvals/{late}/approve"), &fields).await;
    assert_eq!(status, 409);
    assert!(page.contains("The deadline passed at 2027-01-15 08:15:00 UTC."));
    assert!(page.contains("expired</strong>") && !page.contains("<button class=\"approve\">"));
    assert_eq!(heading(&bob.get("/").await.1), "No pending requests");
    gateway.stop().await;
}

#[tokio::test]
async fn approves_displayed_action_only() {
    let (gateway, _) = start().await;
    let small = ask_with(&gateway, "apk_one", r#"{"amount": 10001, "currency": "usd"}"#).await;
    let large = ask_with(&gateway, "apk_one", r#"{"amount": 49999, "currency": "usd"}"#).await;
    let mut alice = Browser::logged_in(&gateway, ALICE).await;
    let (_, page) = alice.get(&format!("/approvals/{small}")).await;
    let (token, seen) = (token(&page), field(&page, "shown_hash"));
    for hash in [seen.as_str(), "", &"0".repeat(64)] {
        let fields = [("token", token.as_str()), ("shown_hash", hash), ("note", "")];
        let (status, page) = alice.post(&format!("/approvals/{large}/approve"), &fields).await;
        assert_eq!(status, 409);
        assert!(page.contains("have changed since this form") && page.contains("49999"));
    }
    assert_eq!(status_of(&gateway, &large).await, "pending");
    gateway.stop().await;
}

#[tokio::test]
async fn page_stops_and_lifts_with_reason() {
    let (gateway, _) = start().await;
    let mut alice = Browser::logged_in(&gateway, ALICE).await;
    let (_, page) = alice.get("/").await;
    let token = token(&page);
    assert!(!page.contains("halts-heading"));
    let fields = [("token", &*token), ("scope", "tool"), ("id", "refunds.*"), ("reason", "<b>twice</b>")];
    for wrong in [("token", "x"), ("scope", "tools"), ("id", ""), ("reason", " ")] {
        let fields = fields.map(|field| if field.0 == wrong.0 { wrong } else { field });
        let (status, _) = alice.post("/halts", &fields).await;
        assert!([403, 422].contains(&status.as_u16()), "{wrong:?}: {status}");
    }
    assert_eq!(alice.post("/halts", &fields).await.0, 303);
    let denied = gateway.decide("apk_one", &common::refund("100", "")).await;
    assert_eq!(text(&denied, "reason_code"), Some("halted"));
    let (_, page) = alice.get("/live").await;
    assert!(page.contains("id=\"halts-heading\"") && page.contains("refunds.*"), "{page}");
    assert!(page.contains("alice") && page.contains("twice") && !page.contains("<b>"));
    let id = page.split("/halts/").nth(1).unwrap().split('/').next().unwrap().to_owned();
    let lift = format!("/halts/{id}/lift");
    assert_eq!(alice.post(&lift, &[("token", &*token), ("reason", "")]).await.0, 422);
    assert_eq!(alice.post(&lift, &[("token", &*token), ("reason", "fixed")]).await.0, 303);
    let allowed = gateway.decide("apk_one", &common::refund("100", "")).await;
    assert_eq!(text(&allowed, "decision"), Some("allow"));
    assert!(!alice.get("/").await.1.contains("halts-heading"));
    gateway.stop().await;
}

#[tokio::test]
async fn history_of_halts_lists_active_ones_first() {
    let (gateway, time) = start().await;
    let mut alice = Browser::logged_in(&gateway, ALICE).await;
    let token = token(&alice.get("/").await.1);
    for (id, reason) in [("one.*", "<i>loops</i>"), ("two.*", "pays twice"), ("three.*", "leaks")] {
        let fields = [("token", &*token), ("scope", "tool"), ("id", id), ("reason", reason)];
        assert_eq!(alice.post("/halts", &fields).await.0, 303);
        time.fetch_add(60, Ordering::SeqCst);
    }
    let id_of = |page: &str, what: &str| {
        let rest = page.split_once(what).unwrap().1;
        rest.split_once("/halts/").unwrap().1.split_once('/').unwrap().0.to_owned()
    };
    for (what, reason) in [("one.*", "fixed <b>it</b>"), ("three.*", "a false alarm")] {
        let (_, page) = alice.get("/halts").await;
        let lift = format!("/halts/{}/lift", id_of(&page, what));
        time.fetch_add(60, Ordering::SeqCst);
        assert_eq!(alice.post(&lift, &[("token", &*token), ("reason", reason)]).await.0, 303);
    }
    let (status, page) = alice.get("/halts").await;
    assert_eq!(status, 200);
    let (active, lifted) = page.split_once("id=\"lifted\"").unwrap();
    assert!(active.contains("two.*") && active.contains("pays twice") && active.contains("/lift\""));
    assert!(!active.contains("one.*") && !lifted.contains("two.*") && !lifted.contains("/lift\""));
    let at = |text: &str| lifted.find(text).unwrap_or_else(|| panic!("{text}: {lifted}"));
    let newest_first = ["three.*", "leaks", "a false alarm", "one.*", "loops", "fixed"];
    assert!(newest_first.windows(2).all(|pair| at(pair[0]) < at(pair[1])), "{lifted}");
    let times = ["2027-01-15 08:02:00 UTC", "2027-01-15 08:05:00 UTC", "2027-01-15 08:00:00 UTC"];
    assert!(times.windows(2).all(|pair| at(pair[0]) < at(pair[1])), "{lifted}");
    assert!(!page.contains("<i>") && !page.contains("<b>"));

    // Pages continue with the lifted ones, newest first; the active ones are on the first page.
    let (_, first) = alice.get("/halts?limit=1").await;
    assert!(first.contains("three.*") && !first.contains("one.*") && first.contains("two.*"), "{first}");
    let next = first.split_once("/halts?before=").unwrap().1.split_once('"').unwrap().0;
    let (_, second) = alice.get(&format!("/halts?before={next}")).await;
    assert!(second.contains("one.*") && !second.contains("two.*") && !second.contains("three.*"));
    assert!(!second.contains("Earlier halts"));
    for wrong in ["before=x", "before=1&before=2", "after=1", "limit=0"] {
        assert_eq!(alice.get(&format!("/halts?{wrong}")).await.0, 422, "{wrong}");
    }

    // Another tenant sees none of them.
    let mut eve = Browser::logged_in(&gateway, EVE).await;
    let (_, page) = eve.get("/halts").await;
    assert!(page.contains("Nothing is stopped.") && page.contains("No lifted halts."), "{page}");
    gateway.stop().await;
}

#[tokio::test]
async fn concurrent_decisions_record_one() {
    let (gateway, _) = start().await;
    let id = ask(&gateway).await;
    let mut browsers = Vec::new();
    for key in [ALICE, BOB, ALICE, BOB] {
        browsers.push(Browser::logged_in(&gateway, key).await);
    }
    let decided = join_all(browsers.iter_mut().map(|browser| browser.decide(&id, "approve", ""))).await;
    let statuses: Vec<_> = decided.iter().map(|(status, _)| status.as_u16()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 303).count(), 1, "{statuses:?}");
    // After the decision, the page has no form.
    assert!(statuses.iter().all(|status| [303, 409, 403].contains(status)), "{statuses:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn arguments_are_rendered_as_text() {
    let (gateway, _) = start().await;
    let args = r#"{"amount": 12345.50, "currency": "usd", "big": 12345678901234567.25, "memo":
        "<script>alert(1)</script><img src=x onerror=alert(2)>\"'`&amp;</div>{{7*7}}\u0000\u202egpj.exe\u200b\ufeff 😀 שלום",
        "</textarea><svg onload=alert(3)>": [[], {}, null, true, -0, 1e-7]}"#;
    let id = ask_with(&gateway, "apk_one", args).await;
    let mut alice = Browser::logged_in(&gateway, ALICE).await;
    for path in ["/".to_owned(), format!("/approvals/{id}")] {
        let (status, page) = alice.get(&path).await;
        assert_eq!(status, 200);
        for raw in ["<script>alert", "<img src=x", "<svg", "<b>an", "\u{202e}", "\u{200b}", "\u{feff}", "\0"]
        {
            assert!(!page.contains(raw), "{raw:?}");
        }
        assert!(page.contains("class=\"hides\""));
        for shown in [
            "&#60;script&#62;alert(1)&#60;/script&#62;",
            "\\&#34;&#39;`&#38;amp;&#60;/div&#62;{{7*7}}",
            ">\\u0000\\u202e</mark>gpj.exe",
            ">\\u200b\\ufeff</mark> 😀 שלום",
            "&#60;/textarea&#62;&#60;svg onload=alert(3)&#62;",
            "12345.50,",
            "12345678901234567.25,",
            "-0,",
            "1e-7\n",
            "refund &#60;b&#62;an&#60;/b&#62; order",
        ] {
            assert!(page.contains(shown), "{shown} in {page}");
        }
    }
    gateway.stop().await;
}

#[tokio::test]
async fn large_arguments_are_decided_on_detail_page() {
    let (gateway, _) = start().await;
    let keys: Vec<_> = (0..10_000).map(|key| format!(r#""key{key}": {key}"#)).collect();
    let args = format!(r#"{{"amount": 25000, "currency": "usd", {}}}"#, keys.join(","));
    let many = ask_with(&gateway, "apk_one", &args).await;
    let long = format!(r#"{{"amount": 25000, "currency": "usd", "memo": "{}end"}}"#, "word ".repeat(2000));
    let long = ask_with(&gateway, "apk_one", &long).await;
    let mut alice = Browser::logged_in(&gateway, ALICE).await;
    let (_, page) = alice.get("/").await;
    assert!(page.len() < 64 * 1024, "{}", page.len());
    assert!(!page.contains("key9999") && !page.contains(&format!("action=\"/approvals/{many}/approve\"")));
    assert!(page.contains(&format!("<a href=\"/approvals/{many}\">View the arguments and decide</a>")));
    assert!(page.contains("10003 characters: show all") && page.contains("word end"));
    let (_, one) = alice.get(&format!("/approvals/{many}")).await;
    assert!(one.contains("&#34;key9999&#34;: 9999\n}"));
    assert_eq!(alice.decide(&many, "approve", "").await.0, 303);
    // Nothing can be approved while parts are folded.
    assert!(!page.contains(&format!("action=\"/approvals/{long}/")));
    assert!(page.contains(&format!("<a href=\"/approvals/{long}\">View everything and decide</a>")));
    let (_, one) = alice.get(&format!("/approvals/{long}")).await;
    assert!(!one.contains("<details") && one.contains("word end") && one.contains("class=\"approve\""));
    assert_eq!(alice.decide(&long, "reject", "").await.0, 303);

    // Together they exceed the limit, individually they do not.
    let memos: Vec<_> = (0..25).map(|n| format!(r#""memo{n}": "{}""#, "x".repeat(390))).collect();
    let each = format!(r#"{{"amount": 25000, "currency": "usd", {}}}"#, memos.join(","));
    let shown = 256 * 1024 / Json::parse(each.as_bytes()).unwrap().to_string().len();
    for _ in 0..shown + 3 {
        ask_with(&gateway, "apk_one", &each).await;
    }
    let (_, page) = alice.get("/").await;
    assert_eq!(page.matches("<button class=\"approve\">").count(), shown);
    assert_eq!(page.matches("View the arguments and decide").count(), 3);
    gateway.stop().await;
}

#[tokio::test]
async fn page_isolates_tenants() {
    let (gateway, _) = start().await;
    let id = ask(&gateway).await;
    let theirs = ask_with(&gateway, "apk_two", r#"{"amount": 30000, "currency": "usd"}"#).await;
    let mut alice = Browser::logged_in(&gateway, ALICE).await;
    let hash = field(&alice.get("/").await.1, "shown_hash");
    let mut eve = Browser::logged_in(&gateway, EVE).await;
    for path in ["/", "/live", &format!("/?decided={id}")] {
        let (status, page) = eve.get(path).await;
        assert_eq!((status, heading(&page)), (StatusCode::OK, "1 pending"));
        assert!(
            page.contains(&theirs)
                && !page.contains(&id)
                && page.contains("30000")
                && !page.contains("25000")
        );
        assert!(page.contains("<dt>Events</dt><dd>1</dd>"));
    }
    assert_eq!(eve.get(&format!("/approvals/{id}")).await.0, 404);
    let token = token(&eve.get("/").await.1);
    for word in ["approve", "reject"] {
        let fields = [("token", token.as_str()), ("shown_hash", &hash), ("note", "")];
        assert_eq!(eve.post(&format!("/approvals/{id}/{word}"), &fields).await.0, 404);
    }
    assert_eq!(status_of(&gateway, &id).await, "pending");
    gateway.stop().await;
}

#[tokio::test]
async fn session_expires() {
    let (gateway, time) = start().await;
    let id = ask(&gateway).await;
    let mut alice = Browser::logged_in(&gateway, ALICE).await;
    let (_, page) = alice.get("/").await;
    for _ in 0..3 {
        time.fetch_add(599, Ordering::SeqCst);
        assert_eq!(alice.get("/live").await.0, 200);
    }
    time.fetch_add(3, Ordering::SeqCst);
    let (status, form) = alice.get("/live").await;
    assert_eq!(status, 403, "refreshes do not extend the session");
    assert!(form.contains("type=\"password\""));
    let fields =
        [("token", token(&page)), ("shown_hash", field(&page, "shown_hash")), ("note", String::new())];
    let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(alice.post(&format!("/approvals/{id}/approve"), &fields).await.0, 403);

    let mut alice = Browser::logged_in(&gateway, ALICE).await;
    for _ in 0..28 {
        time.fetch_add(1000, Ordering::SeqCst);
        assert!(alice.get("/").await.1.contains("id=\"requests\""));
    }
    time.fetch_add(800, Ordering::SeqCst);
    assert!(alice.get("/").await.1.contains("type=\"password\""), "eight hours");
    gateway.stop().await;
}

#[tokio::test]
async fn page_responses_have_security_headers() {
    let (gateway, _) = start_with("requests_per_second = 1\nburst = 100").await;
    let id = ask(&gateway).await;
    let alice = Browser::logged_in(&gateway, ALICE).await;
    let style = {
        let (_, page) = Browser::of(&gateway).get("/").await;
        page.split_once("rel=\"stylesheet\" href=\"").unwrap().1.split_once('"').unwrap().0.to_owned()
    };
    let (one, approve) = (format!("/approvals/{id}"), format!("/approvals/{id}/approve"));
    for cookie in [String::new(), alice.cookie()] {
        for (method, path, asset) in [
            ("GET", "/", false),
            ("GET", "/live", false),
            ("GET", &one, false),
            ("GET", "/approvals/apr_0", false),
            ("GET", &approve, false),
            ("POST", &approve, false),
            ("POST", "/login", false),
            ("POST", "/logout", false),
            ("POST", "/chain/verify", false),
            ("GET", "/approvals/%ff", false),
            ("GET", "/assets/none.js", false),
            ("GET", &style, true),
        ] {
            let request = gateway.client.request(method.parse().unwrap(), format!("{}{path}", gateway.url));
            let response = request.header("cookie", &cookie).send().await.unwrap();
            let header =
                |name: &str| response.headers().get(name).map_or("", |value| value.to_str().unwrap());
            let policy = header("content-security-policy");
            assert!(
                policy
                    .starts_with("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "),
                "{path}"
            );
            for directive in
                ["form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'", "trusted-types 'none'"]
            {
                assert!(policy.contains(directive), "{path} {directive}");
            }
            assert!(!policy.contains("unsafe"));
            assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
            assert_eq!(header("referrer-policy"), "same-origin", "{path}");
            assert_eq!(header("x-frame-options"), "DENY", "{path}");
            assert_eq!(header("cross-origin-opener-policy"), "same-origin", "{path}");
            assert_eq!(header("cross-origin-resource-policy"), "same-origin", "{path}");
            let kept = if asset { "public, max-age=31536000, immutable" } else { "no-store" };
            assert_eq!(header("cache-control"), kept, "{path}");
            assert!(header("access-control-allow-origin").is_empty());
        }
    }
    gateway.stop().await;
}

#[tokio::test]
async fn page_loads_own_assets_without_inline_code() {
    let (gateway, _) = start().await;
    let id = ask(&gateway).await;
    let mut alice = Browser::logged_in(&gateway, ALICE).await;
    let mut found = std::collections::BTreeSet::new();
    for path in ["/", &format!("/approvals/{id}")] {
        let (_, page) = alice.get(path).await;
        for inline in ["style=", "<style", " on", "javascript:", "http:", "https:", "http-equiv"] {
            let inside = page
                .split('<')
                .skip(1)
                .filter_map(|tag| tag.split('>').next())
                .any(|tag| tag.contains(inline));
            assert!(!inside, "{inline} in {page}");
        }
        assert!(
            page.split("<script")
                .skip(1)
                .all(|tag| tag.starts_with(" src=\"/assets/") && tag.contains("></script>"))
        );
        let links = page.split(['"']).filter(|text| text.starts_with("/assets/")).map(str::to_owned);
        found.extend(links);
    }
    assert_eq!(found.len(), 4, "{found:?}");
    for path in &found {
        let response = gateway.client.get(format!("{}{path}", gateway.url)).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let (kind, extension) =
            (response.headers()["content-type"].to_str().unwrap(), path.rsplit('.').next().unwrap());
        let expected = match extension {
            "css" => "text/css; charset=utf-8",
            "js" => "text/javascript; charset=utf-8",
            _ => "image/svg+xml",
        };
        assert_eq!(kind, expected);
        let content = response.bytes().await.unwrap();
        let hash = actpass_protocol::sha256_hex(&content);
        assert!(path.contains(hash.get(..16).unwrap()), "the path contains a hash of the content");
        let (stem, _) = path.split_once('-').unwrap();
        let other = format!("{}{stem}-{}.{extension}", gateway.url, "0".repeat(16));
        assert_eq!(gateway.client.get(other).send().await.unwrap().status(), 404);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn page_shows_ledger_verification() {
    let (gateway, _) = start().await;
    let mut alice = Browser::logged_in(&gateway, ALICE).await;
    assert!(alice.get("/").await.1.contains("No decisions yet."));
    for _ in 0..3 {
        ask(&gateway).await;
    }
    let response = gateway.get("/api/v1/evidence/chains/decisions/verify", "apk_one").send().await.unwrap();
    let (_, verified) = common::json(response).await;
    let (_, page) = alice.get("/").await;
    assert!(page.contains("All events are verified. Verification started at 2027-01-15 08:00:00 UTC"));
    assert!(page.contains(text(&verified, "head").unwrap()) && page.contains("<dt>Events</dt><dd>3</dd>"));

    let file = rusqlite::Connection::open(gateway.folder.path().join("data.db")).unwrap();
    file.busy_timeout(Duration::from_secs(5)).unwrap();
    let edit = "SELECT group_concat('DROP TRIGGER ' || name, ';') FROM sqlite_master WHERE type = 'trigger'";
    let drop: String = file.query_row(edit, [], |row| row.get(0)).unwrap();
    file.execute_batch(&drop).unwrap();
    let changed = file
        .execute(
            "UPDATE events SET event = replace(event, 'refunds.create', 'refunds.createx') WHERE seq = 2",
            [],
        )
        .unwrap();
    assert_eq!(changed, 1);
    // Verified events are not read again unless requested.
    assert!(alice.get("/").await.1.contains("All events are verified"));
    let token = token(&alice.get("/").await.1);
    let response = alice.send("/chain/verify", &[("token", &token)]).await;
    assert_eq!(
        (response.status().as_u16(), response.headers()["location"].to_str().unwrap()),
        (303, "/#chain")
    );
    for _ in 0..2 {
        let (_, page) = alice.get("/").await;
        assert!(page.contains("class=\"state broken\">Event 2 was changed or is missing"), "{page}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn long_chain_is_verified_incrementally() {
    let (gateway, _) = start().await;
    let body = common::refund("1", "");
    for _ in 0..22 {
        join_all((0..50).map(|_| gateway.decide("apk_one", &body))).await;
    }
    let mut alice = Browser::logged_in(&gateway, ALICE).await;
    let (_, page) = alice.get("/").await;
    assert!(page.contains("The first 1\u{202f}000 events are verified; verification continues."), "{page}");
    assert!(page.contains("<dt>Events</dt><dd>1\u{202f}100</dd>"));
    assert!(alice.get("/").await.1.contains("All events are verified"));
    gateway.stop().await;
}

#[tokio::test]
async fn login_attempts_are_slowed_and_rate_limited() {
    let (gateway, _) = start_with("requests_per_second = 1\nburst = 8").await;
    let mut browser = Browser::of(&gateway);
    let token = token(&browser.get("/").await.1);
    let cookie = browser.cookie();
    let attempts = join_all((0..40).map(|number| {
        let request = gateway.client.post(format!("{}/login", gateway.url)).header("origin", &gateway.url);
        let request =
            request.header("cookie", &cookie).header("content-type", "application/x-www-form-urlencoded");
        let body = format!("token={token}&key=apdv_guess_{number}");
        async move {
            let response = request.body(body).send().await.unwrap();
            (response.status().as_u16(), response.headers().contains_key("retry-after"))
        }
    }));
    let attempts = attempts.await;
    let wrong = attempts.iter().filter(|attempt| **attempt == (403, false)).count();
    let turned_away = attempts.iter().filter(|attempt| **attempt == (429, true)).count();
    assert_eq!((wrong, turned_away), (16, 24), "{attempts:?}");

    // Disconnecting does not speed up guessing.
    let impatient = |number: u8| {
        let request = gateway.client.post(format!("{}/login", gateway.url)).header("origin", &gateway.url);
        let request =
            request.header("cookie", &cookie).header("content-type", "application/x-www-form-urlencoded");
        request
            .body(format!("token={token}&key=apdv_guess_{number}"))
            .timeout(Duration::from_millis(300))
            .send()
    };
    let attempts = join_all((0..16).map(impatient)).await;
    assert!(attempts.iter().all(|attempt| attempt.as_ref().is_err_and(reqwest::Error::is_timeout)));
    assert_eq!(impatient(16).await.unwrap().status(), 429);
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(browser.log_in("apdv_one").await.0, 303);

    let mut statuses = Vec::new();
    for _ in 0..10 {
        statuses.push(browser.get("/live").await.0.as_u16());
    }
    assert_eq!((statuses[0], statuses[9]), (200, 429), "{statuses:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn https_cookies_are_secure() {
    // TLS by the gateway.
    let folder = tempfile::TempDir::new().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(folder.path().join("certificate.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    common::install_provider();
    let config =
        format!("{}\n[tls]\ncertificate = \"certificate.pem\"\nkey = \"key.pem\"\n", common::config(""));
    let mut settings = Settings::parse(&config, folder.path()).unwrap();
    add_operators(&mut settings.keyring);
    let server = actpass_gateway::server::Server::start(settings).await.unwrap();
    let certificate = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let client =
        Client::builder().no_proxy().redirect(Policy::none()).tls_certs_only([certificate]).build().unwrap();
    let mut alice = Browser::with(client, &server.url());
    let (_, form) = alice.get("/").await;
    let response = alice.send("/login", &[("token", &token(&form)), ("key", ALICE)]).await;
    assert_eq!((response.status().as_u16(), response.version()), (303, reqwest::Version::HTTP_2));
    let cookie = response.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.starts_with("__Host-actpass="), "{cookie}");
    assert!(cookie.ends_with("; HttpOnly; SameSite=Strict; Secure; Path=/; Max-Age=28800"), "{cookie}");
    assert!(alice.get("/").await.1.contains("No pending requests"));
    alice.cookies.iter_mut().for_each(|(name, _)| *name = name.replace("__Host-", ""));
    assert!(
        alice.get("/").await.1.contains("type=\"password\""),
        "a non-secure cookie is ignored over https"
    );
    server.stop().await.unwrap();

    // TLS by a proxy: the browser uses https, the gateway sees http.
    let (gateway, _) = start().await;
    let mut alice = Browser::of(&gateway);
    let (_, form) = alice.get("/").await;
    alice.origin = Some(gateway.url.replace("http://", "https://"));
    let response = alice.send("/login", &[("token", &token(&form)), ("key", ALICE)]).await;
    let cookie = response.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.starts_with("__Host-actpass=") && cookie.contains("; Secure; "), "{cookie}");
    assert!(alice.get("/").await.1.contains("No pending requests"));
    gateway.stop().await;
}

#[tokio::test]
async fn deceptive_text_cannot_be_approved() {
    let (gateway, _) = start().await;
    let mut alice = Browser::logged_in(&gateway, ALICE).await;
    for (more, why) in [
        (r#""memo": "invoice\u202egpj.exe""#, "invisible or look-alike"),
        (r#""memo": "a\u200bb""#, "invisible or look-alike"),
        (r#""memo": "\u0007""#, "invisible or look-alike"),
        (r#""to": "p\u0430ypal""#, "invisible or look-alike"),
        (r#""\u0430mount": 1"#, "confusable names"),
        (r#""Amount": 1"#, "confusable names"),
        (r#""amount ": 1"#, "confusable names"),
        (r#""nested": [{"total": 1, "tota1": 2}]"#, "confusable names"),
    ] {
        let id = ask_with(&gateway, "apk_one", &format!(r#"{{"amount": 25000, "currency": "usd", {more}}}"#))
            .await;
        for path in ["/".to_owned(), format!("/approvals/{id}")] {
            let (_, page) = alice.get(&path).await;
            assert!(!page.contains("class=\"approve\""), "{more} {path}");
            assert!(page.contains("class=\"reject\"") && page.contains(why), "{more} {path}: {page}");
            assert!(page.contains(&format!("POST /api/v1/approvals/{id}/approve")), "{more} {path}");
        }
        // The form is rejected too; the API can approve it, and rejecting is always possible.
        let (status, page) = alice.decide(&id, "approve", "").await;
        assert!(status == 409 && page.contains("Nothing was decided"), "{more}: {status}");
        assert_eq!(status_of(&gateway, &id).await, "pending");
        assert_eq!(alice.decide(&id, "reject", "").await.0, 303, "{more}");
    }
    let id = ask_with(&gateway, "apk_one", r#"{"amount": 25000, "currency": "usd", "memo": "caf\u00e9 \u05e9\u05dc\u05d5\u05dd 1990\u20132000"}"#).await;
    assert_eq!(alice.decide(&id, "approve", "").await.0, 303);

    let long: Vec<_> = (0..30_000).map(|key| format!(r#""key{key}": {key}"#)).collect();
    let id = ask_with(
        &gateway,
        "apk_one",
        &format!(r#"{{"amount": 25000, "currency": "usd", {}}}"#, long.join(",")),
    )
    .await;
    let (_, page) = alice.get(&format!("/approvals/{id}")).await;
    assert!(!page.contains("class=\"approve\"") && page.contains("too many to show"), "too long");
    gateway.stop().await;
}

#[tokio::test]
async fn pending_requests_are_paginated_and_filtered() {
    let (gateway, _) = start_with("pending_approvals = 200").await;
    for number in 0..70 {
        ask_with(&gateway, "apk_bound", &format!(r#"{{"amount": {}, "currency": "usd"}}"#, 20_000 + number))
            .await;
    }
    let other = ask(&gateway).await;
    let mut alice = Browser::logged_in(&gateway, ALICE).await;
    let (_, page) = alice.get("/").await;
    assert_eq!(heading(&page), "50+ pending");
    assert!(!page.contains(&format!("id=\"{other}\"")));
    let more =
        page.split_once("<p class=\"more\"><a href=\"").unwrap().1.split_once('"').unwrap().0.to_owned();
    let (_, next) = alice.get(&more).await;
    assert_eq!(heading(&next), "21 pending");
    assert!(next.contains(&format!("id=\"{other}\"")) && !next.contains("class=\"more\""));
    for path in ["/?agent=sdk", "/live?agent=sdk&tool=refunds.create"] {
        let (_, page) = alice.get(path).await;
        assert!(heading(&page) == "1 pending" && page.contains(&other), "{path}");
    }
    assert_eq!(heading(&alice.get("/?tool=none").await.1), "No pending requests");
    gateway.stop().await;
}

#[tokio::test]
async fn page_works_under_base_path() {
    let gateway = Gateway::start_with("", |settings| {
        add_operators(&mut settings.keyring);
        settings.base_path = "/actpass".to_owned();
    })
    .await;
    let id = ask(&gateway).await;
    // The page is the same whether or not the proxy strips the path.
    for root in ["", "/actpass"] {
        let mut alice = Browser::of(&gateway);
        let (_, form) = alice.get(&format!("{root}/")).await;
        assert!(
            form.contains("action=\"/actpass/login\"") && form.contains("href=\"/actpass/assets/"),
            "{form}"
        );
        let response =
            alice.send(&format!("{root}/login"), &[("token", &token(&form)), ("key", ALICE)]).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["location"]),
            (303, &"/actpass/".parse().unwrap())
        );
        let cookies: Vec<_> = response
            .headers()
            .get_all("set-cookie")
            .iter()
            .map(|line| line.to_str().unwrap().to_owned())
            .collect();
        assert!(
            !cookies.is_empty() && cookies.iter().all(|line| line.contains("; Path=/actpass;")),
            "{cookies:?}"
        );
        let (status, page) = alice.get(&format!("{root}/approvals/{id}")).await;
        assert_eq!(status, 200);
        for link in page.split("=\"/").skip(1) {
            assert!(link.starts_with("actpass/"), "{}", link.lines().next().unwrap_or_default());
        }
        let style =
            page.split_once("rel=\"stylesheet\" href=\"").unwrap().1.split_once('"').unwrap().0.to_owned();
        assert_eq!(alice.get(&style).await.0, 200);
        assert_eq!(alice.get(style.strip_prefix("/actpass").unwrap()).await.0, 200);
        for path in
            ["/", "/approvals?agent=sdk", "/decisions?tool=refunds.create", "/budgets", "/halts", "/webhooks"]
        {
            let (status, page) = alice.get(&format!("{root}{path}")).await;
            assert_eq!(status, 200, "{path}");
            for link in page.split("=\"/").skip(1) {
                assert!(link.starts_with("actpass/"), "{path}: {}", link.lines().next().unwrap_or_default());
            }
        }
    }
    let decided = gateway
        .post(&format!("/actpass/api/v1/approvals/{id}/approve"), ALICE)
        .body("{}")
        .send()
        .await
        .unwrap();
    assert_eq!(decided.status(), 200, "the API is under the base path too");
    gateway.stop().await;
}

#[tokio::test]
async fn wrong_keys_do_not_lock_out_operators() {
    let (gateway, _) = start().await;
    let mut browser = Browser::of(&gateway);
    let token = token(&browser.get("/").await.1);
    let cookie = browser.cookie();
    let guess = |number: usize| {
        let request = gateway.client.post(format!("{}/login", gateway.url)).header("origin", &gateway.url);
        let request =
            request.header("cookie", &cookie).header("content-type", "application/x-www-form-urlencoded");
        request.body(format!("token={token}&key=apdv_guess_{number}")).send()
    };
    let storm = join_all((0..300).map(guess));
    let (storm, person) = tokio::join!(storm, async {
        let mut statuses = Vec::new();
        for _ in 0..5 {
            statuses.push(Browser::of(&gateway).log_in(ALICE).await.0.as_u16());
        }
        statuses
    });
    assert_eq!(person, [303; 5], "valid keys are accepted during the attack");
    let refused = storm.iter().filter(|response| response.as_ref().unwrap().status() == 429).count();
    assert!(refused >= 300 - 16 - 16, "{refused}");
    gateway.stop().await;
}

#[tokio::test]
async fn lists_the_accounts_of_budgets() {
    let change = |settings: &mut Settings| {
        let folder = tempfile::TempDir::new().unwrap();
        let data = settings.data.clone();
        let text = common::config_with("", &common::shipped_policy("refunds.json"));
        *settings = Settings::parse(&text, folder.path()).unwrap();
        settings.data = data;
    };
    let gateway = Gateway::start_with("", change).await;
    let mut browser = Browser::of(&gateway);
    assert!(!browser.get("/budgets").await.1.contains("Budget"));
    let mut browser = Browser::logged_in(&gateway, "apdv_one").await;
    let (status, page) = browser.get("/budgets").await;
    assert_eq!(status, 200);
    assert!(page.contains("No account has been used yet."), "{page}");
    let allowed = gateway.decide("apk_one", &common::refund("4900", "")).await;
    assert_eq!(text(&allowed, "decision"), Some("allow"), "{allowed}");
    let (_, page) = browser.get("/budgets").await;
    assert!(page.contains(">4900</td>") && page.contains(">24h</td>"), "{page}");
    assert!(browser.get("/").await.1.contains("/budgets\">Budgets</a>"));
    assert_eq!(browser.get("/budgets?after=x").await.0, 422);
    gateway.stop().await;
}

const APPROVER: &str = "apdv_page_approver_secret";
const STRANGER: &str = "apdv_page_stranger_secret";
const AUDITOR: &str = "apdv_page_auditor_secret";

/// Starts a gateway whose refunds have a budget, and with approvers of `finance` and of `legal`, an
/// auditor, and the operator Alice, whose agent is `apk_one`.
async fn start_team() -> (Gateway, tempfile::TempDir) {
    let folder = tempfile::TempDir::new().unwrap();
    let policy = std::fs::read_to_string(common::shipped_policy("refunds.json")).unwrap();
    let medium = r#""reason": "refund.medium_needs_approval","#;
    assert!(policy.contains(medium));
    let policy =
        policy.replace(medium, &format!(r#"{medium} "approval": {{"quorum": 2, "groups": ["finance"]}},"#));
    let path = folder.path().join("policy.json");
    std::fs::write(&path, policy).unwrap();
    let gateway = Gateway::start_with("", |settings| {
        let mut text = common::config_with("", &path.display().to_string());
        for (key, name, role, more) in [
            (ALICE, "alice", "operator", "person = \"alice\"\ngroups = [\"finance\"]"),
            (BOB, "bob", "operator", "person = \"bob\"\ngroups = [\"finance\"]"),
            (APPROVER, "carol", "approver", "person = \"carol\"\ngroups = [\"finance\"]"),
            (STRANGER, "dave", "approver", "groups = [\"legal\"]"),
            (AUDITOR, "audrey", "auditor", ""),
            ("apk_alice", "agent-of-alice", "agent", "person = \"alice\""),
        ] {
            let hash = ApiKeyHash::of(key);
            text += &format!(
                "[[keys]]\nname = \"{name}\"\nhash = \"{hash}\"\ntenant = \"one\"\nrole = \"{role}\"\n{more}\n"
            );
        }
        text += "[approvals]\nreuse = false\n";
        let data = settings.data.clone();
        *settings = Settings::parse(&text, folder.path()).unwrap_or_else(|problems| panic!("{problems}"));
        settings.data = data;
    })
    .await;
    (gateway, folder)
}

/// Returns the text of a page without markup.
fn words(page: &str) -> String {
    let mut text = String::new();
    for piece in page.split('<') {
        text += " ";
        text += piece.split_once('>').map_or("", |(_, text)| text);
    }
    let text = text.replace("&#34;", "\"").replace("&#62;", ">").replace("&#60;", "<");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn card_shows_what_decides_and_the_vote_records_its_hash() {
    let (gateway, _folder) = start_team().await;
    for amount in ["4900", "100", "60000"] {
        gateway.decide("apk_one", &common::refund(amount, "")).await;
    }
    gateway.decide("apk_one", &common::refund("1", "").replace("\"sdk\"", "\"another\"")).await;
    let body = common::refund("20000", r#", "user_id": "u-7""#);
    let id = text(&gateway.decide("apk_one", &body).await, "approval_request_id").unwrap().to_owned();
    let mut alice = Browser::logged_in(&gateway, ALICE).await;
    let mut hashes = Vec::new();
    for path in ["/".to_owned(), format!("/approvals/{id}")] {
        let (_, page) = alice.get(&path).await;
        hashes.push(field(&page, "shown_hash"));
        let said = words(&page);
        for shown in [
            "Key name-of-apk-one",
            "For u-7",
            "Still needed 2 of finance",
            "The rule \"medium_refund_needs_approval\" requires a person's approval",
            "Reason refund.medium_needs_approval , rule medium_refund_needs_approval",
            "args.currency == \"usd\" args.amount > 10000 args.amount <= 50000",
            "Arguments that the policy reads args.currency \"usd\" args.amount 20000",
            "daily_refunds {\"agent_id\":\"sdk\",\"args.currency\":\"usd\"}",
            "used 5000 + this 20000 = 25000 of 50000 in 24h",
            "deny refunds.create refund.over_limit",
        ] {
            assert!(said.replace("&#39;", "'").contains(shown), "{path}: {shown}\n{said}");
        }
        let (_, earlier) = said.split_once("Before this request, the same agent").unwrap();
        let earlier = earlier.split("Note").next().unwrap();
        assert_eq!(earlier.matches("refunds.create").count(), 3, "{earlier}");
    }
    assert_eq!((hashes[0].len(), &hashes[0]), (64, &hashes[1]), "the card is the same everywhere");
    let (_, carols) = Browser::logged_in(&gateway, APPROVER).await.get(&format!("/approvals/{id}")).await;
    assert_eq!(field(&carols, "shown_hash"), hashes[0], "and for everyone");

    // Another action uses the budget: the decision is refused with the current card.
    gateway.decide("apk_one", &common::refund("3000", "")).await;
    let (_, form) = alice.get("/").await;
    let token = token(&form);
    for word in ["approve", "reject"] {
        for wrong in [&*hashes[0], "", &"0".repeat(64)] {
            let fields = [("token", &*token), ("shown_hash", wrong), ("note", "")];
            let (status, page) = alice.post(&format!("/approvals/{id}/{word}"), &fields).await;
            assert_eq!(status, 409, "{word} {wrong}");
            assert!(page.contains("have changed since this form") && words(&page).contains("used 8000"));
        }
    }
    assert_eq!(status_of(&gateway, &id).await, "pending");
    let shown = field(&form, "shown_hash");
    assert_ne!(shown, hashes[0]);
    assert_eq!(alice.decide(&id, "approve", "").await.0, 303);

    // A vote changes the card for the others too.
    let mut bob = Browser::logged_in(&gateway, BOB).await;
    let fields = [("token", &*self::token(&bob.get("/").await.1)), ("shown_hash", &*shown), ("note", "")];
    assert_eq!(bob.post(&format!("/approvals/{id}/approve"), &fields).await.0, 409);
    let (_, page) = bob.get(&format!("/approvals/{id}")).await;
    let second = field(&page, "shown_hash");
    assert!(words(&page).contains("Still needed 1 of finance"));
    assert_eq!(bob.decide(&id, "approve", "").await.0, 303);
    let events = gateway.events("apdv_one", "decisions").await;
    let recorded: Vec<_> = events.iter().filter_map(|event| text(event, "metadata.shown_hash")).collect();
    assert_eq!(recorded, [&*shown, &*second]);
    gateway.stop().await;
}

#[tokio::test]
async fn story_tells_votes_use_and_outcome() {
    let (gateway, _folder) = start_team().await;
    let asked = gateway.decide("apk_one", &common::refund("20000", "")).await;
    let id = text(&asked, "approval_request_id").unwrap().to_owned();
    for key in [ALICE, APPROVER] {
        assert_eq!(Browser::logged_in(&gateway, key).await.decide(&id, "approve", "").await.0, 303);
    }
    let body = common::refund("20000", &format!(r#", "approval_request_id": "{id}""#));
    let used = gateway.decide("apk_one", &body).await;
    assert_eq!(text(&used, "decision"), Some("allow"), "{used}");
    let request_hash = text(&used, "request_hash").unwrap();
    let outcome = format!(
        r#"{{"chain_id": "decisions", "event_type": "action.outcome", "request_hash": "{request_hash}",
            "metadata": {{"ended": "returned"}}}}"#
    );
    let sent = gateway.post("/api/v1/evidence/events", "apk_one").body(outcome).send().await.unwrap();
    assert_eq!(sent.status(), 200);
    let (_, page) = Browser::logged_in(&gateway, AUDITOR).await.get(&format!("/approvals/{id}")).await;
    let (_, story) = page.split_once("id=\"story-heading\"").unwrap();
    let story = words(&format!("<{story}"));
    let mut rest = &*story;
    for told in [
        "Requested with the key name-of-apk-one (refund.medium_needs_approval)",
        "alice approved; more votes are needed",
        "card shown",
        "carol approved: the request is approved",
        "card shown",
        "Used: the action is allowed (approval.approved)",
        "The action ended: returned",
    ] {
        rest = rest.split_once(told).unwrap_or_else(|| panic!("{told} in {story}")).1;
    }
    gateway.stop().await;
}

#[tokio::test]
async fn roles_limit_views_and_buttons() {
    let (gateway, _folder) = start_team().await;
    let body = common::refund("20000", "");
    let id = text(&gateway.decide("apk_alice", &body).await, "approval_request_id").unwrap().to_owned();
    let detail = format!("/approvals/{id}");
    // Key, status of the views of the ledger and of the request, and its buttons.
    for (key, [ledger, request], approve, reject) in [
        (ALICE, [200, 200], false, true),
        (BOB, [200, 200], true, true),
        (APPROVER, [403, 200], true, true),
        (STRANGER, [403, 404], false, false),
        (AUDITOR, [200, 200], false, false),
    ] {
        let mut browser = Browser::logged_in(&gateway, key).await;
        let (_, list) = browser.get("/").await;
        for (path, link, status) in [
            ("/decisions", "Decisions", ledger),
            ("/budgets", "Budgets", ledger),
            ("/halts", "Halts", ledger),
            ("/webhooks", "Webhooks", ledger),
            (&*detail, "refunds.create", request),
        ] {
            assert_eq!(browser.get(path).await.0, status, "{key} {path}");
            let is_linked = list.contains(&format!("href=\"{path}\">{link}"));
            assert_eq!(is_linked, status == 200, "{key} {path}");
        }
        for page in [&list, &browser.get(&detail).await.1] {
            assert_eq!(page.contains("class=\"approve\""), approve, "{key}");
            assert_eq!(page.contains("formaction=\"/approvals/apr_"), reject, "{key}");
        }
        assert_eq!(list.contains("name=\"select\""), reject, "{key}");
        let (_, found) = browser.get("/approvals").await;
        assert_eq!(found.contains(&id), request == 200, "{key}");
        // A form that the page did not offer is refused as well.
        if !approve {
            let hash = "0".repeat(64);
            let token = token(&list);
            let fields = [("token", &*token), ("shown_hash", &*hash), ("note", "")];
            let status = browser.post(&format!("{detail}/approve"), &fields).await.0;
            assert!([403, 404, 409].contains(&status.as_u16()), "{key}: {status}");
        }
    }
    let mut alice = Browser::logged_in(&gateway, ALICE).await;
    assert!(
        alice
            .get(&detail)
            .await
            .1
            .contains("You cannot approve it: a person cannot approve their own request")
    );
    let (status, page) = alice.decide(&id, "approve", "").await;
    assert!(status == 409 && page.contains("cannot approve their own request"), "{status}");
    assert_eq!(status_of(&gateway, &id).await, "pending");
    gateway.stop().await;
}

#[tokio::test]
async fn selected_requests_are_rejected_with_one_note() {
    let (gateway, _) = start().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(ask(&gateway).await);
    }
    let mut alice = Browser::logged_in(&gateway, ALICE).await;
    let (_, page) = alice.get("/").await;
    let selected: Vec<_> = page
        .split("name=\"select\" value=\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap().to_owned())
        .collect();
    assert_eq!(selected.len(), 4);
    // One is decided in the meantime, and one form was changed.
    let decided = selected[0].split('.').next().unwrap();
    assert_eq!(alice.decide(decided, "approve", "").await.0, 303);
    let changed = format!("{}.{}", selected[1].split('.').next().unwrap(), "0".repeat(64));
    let token = token(&page);
    let fields = [
        ("token", &*token),
        ("note", "duplicates"),
        ("select", &*selected[0]),
        ("select", &*changed),
        ("select", &*selected[2]),
        ("select", &*selected[3]),
    ];
    assert_eq!(alice.post("/approvals/reject", &fields[1..]).await.0, 400);
    assert_eq!(alice.post("/approvals/reject", &[fields[0], fields[1], ("select", "x")]).await.0, 400);
    let (status, page) = alice.post("/approvals/reject", &fields).await;
    assert_eq!(status, 200);
    let said = words(&page);
    assert!(said.contains("Rejected: 2. Not rejected: 2."), "{said}");
    assert!(said.contains("alice already approved this") && said.contains("have changed since this form"));
    let mut statuses = Vec::new();
    for id in &ids {
        statuses.push(status_of(&gateway, id).await);
    }
    statuses.sort();
    assert_eq!(statuses, ["approved", "pending", "rejected", "rejected"]);
    let last = selected[3].split('.').next().unwrap();
    assert!(alice.get(&format!("/approvals/{last}")).await.1.contains("duplicates"));
    let events = gateway.events("apk_one", "decisions").await;
    assert_eq!(events.iter().filter(|event| text(event, "metadata.shown_hash").is_some()).count(), 3);
    assert_eq!(heading(&alice.post("/approvals/reject", &fields[..2]).await.1), "1 pending");
    gateway.stop().await;
}

#[tokio::test]
async fn approvals_and_decisions_are_searched_page_by_page() {
    let (gateway, _) = start_with("pending_approvals = 200").await;
    let refused = gateway.decide("apk_one", &common::refund("90000", "")).await;
    let event_id = text(&refused, "evidence_event_id").unwrap().to_owned();
    let mut ids = Vec::new();
    for number in 0..101 {
        let args = format!(r#"{{"amount": {}, "currency": "usd"}}"#, 20_000 + number);
        ids.push(ask_with(&gateway, "apk_one", &args).await);
    }
    let mut alice = Browser::logged_in(&gateway, ALICE).await;
    assert_eq!(alice.decide(&ids[7], "reject", "").await.0, 303);
    let count = |page: &str| page.matches("<tr>").count().saturating_sub(1);
    let more = |page: &str| {
        let (_, rest) = page.split_once("<p class=\"more\"><a href=\"").unwrap();
        rest.split_once('"').unwrap().0.replace("&#38;", "&")
    };
    let (_, first) = alice.get("/approvals?agent=sdk").await;
    assert_eq!(count(&first), 100);
    let (_, second) = alice.get(&more(&first)).await;
    assert!(count(&second) == 1 && !second.contains("class=\"more\""));
    for id in &ids {
        assert!(first.contains(id) != second.contains(id), "{id}");
    }
    let (_, rejected) = alice.get("/approvals?status=rejected").await;
    assert!(
        count(&rejected) == 1
            && rejected.contains(&ids[7])
            && rejected.contains("<option value=\"rejected\" selected>")
    );
    assert!(alice.get("/approvals?tool=none").await.1.contains("No approvals found."));

    // 1 denial, 101 requests, 1 rejection.
    let (mut path, mut counts) = ("/decisions?".to_owned(), Vec::new());
    loop {
        let (_, page) = alice.get(&path).await;
        counts.push(count(&page));
        if !page.contains("class=\"more\"") {
            break;
        }
        path = more(&page);
    }
    assert_eq!(counts, [50, 50, 3]);
    for (query, expected) in [
        (format!("event={event_id}"), 1),
        ("decision=deny".to_owned(), 1),
        ("decision=rejected".to_owned(), 1),
        ("reason=refund.over_limit&agent=sdk&tool=refunds.create".to_owned(), 1),
        ("reason=refund.over_limit&agent=other".to_owned(), 0),
        ("agent=%3Cb%3E".to_owned(), 0),
    ] {
        let (_, page) = alice.get(&format!("/decisions?{query}")).await;
        assert_eq!(count(&page), expected, "{query}");
        assert!(page.contains("Searched events 1 to 103.") && !page.contains("<b>"), "{query}");
    }
    let mut eve = Browser::logged_in(&gateway, EVE).await;
    for path in ["/approvals", "/decisions"] {
        let (_, page) = eve.get(path).await;
        assert!(!page.contains("refunds.create") && !page.contains("<tr>"), "{path}");
    }
    gateway.stop().await;
}
