//! Approvals that people sign with passkeys, through the page, and the answers and passports that
//! carry the signatures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actpass_core::{ActPass, Action, OfflineVerifyRequest, Outcome, PassportRequest};
use actpass_gateway::auth::ApiKeyHash;
use actpass_gateway::clock::Clock;
use actpass_gateway::config::{MasterKeySource, Settings};
use actpass_gateway::seal::MasterKey;
use actpass_gateway::store::Location;
use actpass_protocol::Json;
use actpass_protocol::signed_approval::Statement;
use actpass_protocol::token::encode;
use common::{Gateway, json, text};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const ORIGIN: &str = "https://gateway.example";
const RP_ID: &str = "gateway.example";
const POLICY: &str = r#"{"id": "signed", "version": 1, "rules": [
    {"name": "refunds", "when": [{"path": "tool", "operator": "==", "value": "refunds.create"}],
     "decision": "require_approval", "reason": "refund.needs_signature", "approval": {"signed": true}},
    {"name": "mails", "when": [{"path": "tool", "operator": "==", "value": "mail.send"}],
     "decision": "require_approval", "reason": "mail.needs_approval"}]}"#;

fn settings_in(folder: &Path) -> Settings {
    std::fs::write(folder.join("policy.json"), POLICY).unwrap();
    let mut text = format!(
        "listen = \"127.0.0.1:0\"\ndata = \"data.db\"\nissuer = \"{ORIGIN}\"\n\
         [[tenants]]\nid = \"one\"\npolicy = \"policy.json\"\n"
    );
    for (name, role) in [("agent", "agent"), ("alice", "approver"), ("bob", "approver"), ("olga", "operator")]
    {
        let hash = ApiKeyHash::of(&format!("k_{name}"));
        text +=
            &format!("[[keys]]\nname = \"{name}\"\nhash = \"{hash}\"\ntenant = \"one\"\nrole = \"{role}\"\n");
    }
    Settings::parse(&text, folder).unwrap_or_else(|problems| panic!("{problems}"))
}

async fn start(folder: &TempDir) -> (Gateway, Arc<AtomicU64>) {
    // Clients use the system clock.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let time = Arc::new(AtomicU64::new(now));
    let clock = Arc::clone(&time);
    let gateway = Gateway::start_with("", |settings| {
        let data = matches!(settings.data, Location::Database(_)).then(|| settings.data.clone());
        *settings = settings_in(folder.path());
        settings.data = data.unwrap_or_else(|| settings.data.clone());
        settings.master_key = MasterKeySource::Given(MasterKey::parse(&"07".repeat(32)).unwrap());
        settings.clock = Clock::new(move || UNIX_EPOCH + Duration::from_secs(clock.load(Ordering::SeqCst)));
    })
    .await;
    (gateway, time)
}

/// A browser with an authenticator, in which a person is logged in.
struct Person {
    client: Client,
    url: String,
    cookie: String,
    token: String,
    pair: EcdsaKeyPair,
    id: String,
    count: u32,
}

impl Person {
    async fn log_in(gateway: &Gateway, name: &str) -> Self {
        let client = Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            document.as_ref(),
            &SystemRandom::new(),
        );
        let mut person = Self {
            client,
            url: gateway.url.clone(),
            cookie: String::new(),
            token: String::new(),
            pair: pair.unwrap(),
            id: encode(format!("passkey of {name}")),
            count: 1,
        };
        let first = person.client.get(&person.url).send().await.unwrap();
        person.cookie = cookie_of(&first);
        let form = first.text().await.unwrap();
        let token = field(&form, "name=\"token\" value");
        let key = format!("k_{name}");
        let opened = person.send("/login", &[("token", &token), ("key", &key)]).await;
        assert_eq!(opened.status(), 303);
        person.cookie = cookie_of(&opened);
        let page = person.get("/passkeys").await;
        person.token = field(&page, "name=\"token\" value");
        person
    }

    async fn get(&self, path: &str) -> String {
        let request = self.client.get(format!("{}{path}", self.url)).header("cookie", &self.cookie);
        request.send().await.unwrap().text().await.unwrap()
    }

    async fn send(&self, path: &str, fields: &[(&str, &str)]) -> reqwest::Response {
        let body: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = self.client.post(format!("{}{path}", self.url)).body(body);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let request = request.header("cookie", &self.cookie).header("origin", &self.url);
        request.header("sec-fetch-site", "same-origin").send().await.unwrap()
    }

    /// The response of an authenticator to a registration on this origin.
    fn registration(&self, challenge: &str, origin: &str) -> Value {
        let client = json!({"type": "webauthn.create", "challenge": challenge, "origin": origin}).to_string();
        let id = self.id_bytes();
        let length = u16::try_from(id.len()).unwrap().to_be_bytes();
        let data =
            [&Sha256::digest(RP_ID)[..], &[0x45], &[0, 0, 0, 0], &[0; 16], &length, &id, b"cose"].concat();
        let prefix = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
        json!({
            "id": self.id, "client_data_json": encode(client), "authenticator_data": encode(data),
            "public_key": encode([&prefix[..], self.pair.public_key().as_ref()].concat()),
        })
    }

    fn id_bytes(&self) -> Vec<u8> {
        use base64::Engine;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(&self.id).unwrap()
    }

    async fn register(&self) {
        let page = self.get("/passkeys").await;
        let passkey = self.registration(&field(&page, "data-challenge"), ORIGIN).to_string();
        let fields = [("token", &*self.token), ("name", "laptop"), ("passkey", &passkey)];
        assert_eq!(self.send("/passkeys", &fields).await.status(), 303);
    }

    /// The statement on the page of a request, and the hash of its card.
    async fn statement(&self, id: &str) -> (Statement, String) {
        let page = self.get(&format!("/approvals/{id}")).await;
        let text = field(&page, "data-statement").replace("&quot;", "\"").replace("&#34;", "\"");
        let statement = Statement::parse(&Json::parse(text.as_bytes()).unwrap()).unwrap();
        assert_eq!(field(&page, "data-challenge"), statement.challenge());
        (statement, field(&page, "name=\"shown_hash\" value"))
    }

    fn assertion(&mut self, statement: &Statement, origin: &str, rp_id: &str, flags: u8) -> Value {
        self.count += 1;
        let client =
            json!({"type": "webauthn.get", "challenge": statement.challenge(), "origin": origin}).to_string();
        let data = [&Sha256::digest(rp_id)[..], &[flags], &self.count.to_be_bytes()].concat();
        let message = [&data[..], &Sha256::digest(&client)].concat();
        let signature = self.pair.sign(&SystemRandom::new(), &message).unwrap();
        json!({
            "statement": serde_json::from_str::<Value>(&statement.to_json().to_string()).unwrap(),
            "key_id": self.id, "authenticator_data": encode(data), "client_data_json": encode(client),
            "signature": encode(signature),
        })
    }

    async fn approve(&self, id: &str, hash: &str, signature: Option<&Value>) -> (StatusCode, String) {
        let signature = signature.map(Value::to_string).unwrap_or_default();
        let fields = [("token", &*self.token), ("shown_hash", hash), ("note", ""), ("signature", &signature)];
        let response = self.send(&format!("/approvals/{id}/approve"), &fields).await;
        (response.status(), response.text().await.unwrap())
    }

    /// Signs and approves a request.
    async fn sign(&mut self, id: &str) -> Value {
        let (statement, hash) = self.statement(id).await;
        let signature = self.assertion(&statement, ORIGIN, RP_ID, 5);
        let (status, page) = self.approve(id, &hash, Some(&signature)).await;
        assert_eq!(status, 303, "{page}");
        signature
    }

    /// The setting `approval_keys` of a client that trusts this passkey.
    fn approval_keys(&self) -> String {
        let point = self.pair.public_key().as_ref();
        json!({
            "rp_id": RP_ID, "origins": [ORIGIN], "tenant_id": "one",
            "keys": [{"kty": "EC", "crv": "P-256", "kid": self.id, "x": encode(&point[1..33]), "y": encode(&point[33..])}],
        })
        .to_string()
    }
}

fn cookie_of(response: &reqwest::Response) -> String {
    let cookies = response.headers().get_all("set-cookie").iter();
    let pairs = cookies.map(|line| line.to_str().unwrap().split(';').next().unwrap().to_owned());
    pairs.filter(|pair| !pair.ends_with('=')).collect::<Vec<_>>().join("; ")
}

/// The value of the first attribute after `name`; empty if missing.
fn field(page: &str, name: &str) -> String {
    let rest = page.split_once(&format!("{name}=\"")).map(|(_, rest)| rest).unwrap_or_default();
    rest.split_once('"').map_or("", |(value, _)| value).to_owned()
}

fn refund(amount: u32, more: &str) -> String {
    format!(
        r#"{{"agent_id": "sdk", "goal": "refund", "tool": "refunds.create", "resource": "", "args": {{"amount": {amount}}}{more}}}"#
    )
}

async fn ask(gateway: &Gateway, amount: u32) -> String {
    let answer = gateway.decide("k_agent", &refund(amount, "")).await;
    text(&answer, "approval_request_id").unwrap_or_else(|| panic!("{answer}")).to_owned()
}

fn action(amount: u32) -> Action {
    Action::new("refund", "refunds.create").args(json!({"amount": amount}))
}

fn client(gateway: &Gateway, keys: &str) -> ActPass {
    ActPass::builder().api_key("k_agent").base_url(&gateway.url).approval_keys(keys).build().unwrap()
}

#[tokio::test]
async fn only_a_signature_approves_and_the_client_verifies_it() {
    let folder = TempDir::new().unwrap();
    let (gateway, _) = start(&folder).await;
    let mut alice = Person::log_in(&gateway, "alice").await;
    let id = ask(&gateway, 1).await;

    // Without a passkey, neither the page nor the API approves; an operator does not either.
    let page = alice.get(&format!("/approvals/{id}")).await;
    assert!(page.contains("signed with your passkey") && !page.contains("class=\"approve\""), "{page}");
    for key in ["k_alice", "k_olga"] {
        let approve = gateway.post(&format!("/api/v1/approvals/{id}/approve"), key).body("{}");
        let (status, answer) = json(approve.send().await.unwrap()).await;
        assert_eq!((status.as_u16(), text(&answer, "error.code")), (403, Some("approval.not_signed")));
    }

    alice.register().await;
    let signature = alice.sign(&id).await;
    let answer = gateway.decide("k_agent", &refund(1, "")).await;
    assert_eq!(text(&answer, "decision"), Some("allow"), "{answer}");
    let Some(Json::Array(signatures)) = answer.member("approval_signatures") else { panic!("{answer}") };
    assert!(signatures[0].same_value(&Json::from(signature.clone())));
    let voted = gateway.events("k_olga", "decisions").await;
    let voted = voted.iter().find(|event| text(event, "event_type") == Some("approval.approved")).unwrap();
    assert_eq!(text(voted, "metadata.signature.key_id"), Some(&*alice.id));

    // The same approval through clients that trust Alice, and another person.
    let trusting = client(&gateway, &alice.approval_keys());
    let id = ask(&gateway, 2).await;
    alice.sign(&id).await;
    let outcome = trusting.guard(&action(2), async |_| Ok::<_, ()>("refunded")).await.unwrap();
    assert!(matches!(outcome, Outcome::Returned { .. }), "{outcome:?}");
    let bob = Person::log_in(&gateway, "bob").await;
    let id = ask(&gateway, 3).await;
    alice.sign(&id).await;
    let outcome = client(&gateway, &bob.approval_keys()).guard(&action(3), async |_| Ok::<_, ()>(())).await;
    let outcome = outcome.unwrap();
    assert!(!outcome.executed());
    assert_eq!(outcome.decision().reason_code(), "actpass.approval_unsigned");

    // A passport carries the signature; the offline verification requires it.
    let id = ask(&gateway, 4).await;
    alice.sign(&id).await;
    let mut request = PassportRequest::new("mcp://shop", "refund", ["refunds.create"]);
    request.approval_request_id = Some(id);
    let issued = trusting.issue_passport(&request).await.unwrap();
    let wanted = OfflineVerifyRequest::new(issued.token(), "mcp://shop");
    assert_eq!(trusting.verify_passport_offline(&wanted).await.unwrap().errors(), Vec::<String>::new());
    let other = client(&gateway, &bob.approval_keys()).verify_passport_offline(&wanted).await.unwrap();
    assert_eq!(other.errors(), ["passport.approval_signature"]);
    let outcome =
        trusting.guard(&action(4).passport(issued.token()), async |_| Ok::<_, ()>(())).await.unwrap();
    assert!(outcome.executed(), "{outcome:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn wrong_signatures_decide_nothing() {
    let folder = TempDir::new().unwrap();
    let (gateway, _) = start(&folder).await;
    let mut alice = Person::log_in(&gateway, "alice").await;
    let mut bob = Person::log_in(&gateway, "bob").await;
    alice.register().await;
    bob.register().await;
    let (id, other) = (ask(&gateway, 1).await, ask(&gateway, 2).await);
    let (statement, hash) = alice.statement(&id).await;
    let (other_statement, other_hash) = alice.statement(&other).await;
    let changed = |change: fn(&mut Statement)| {
        let mut statement = statement.clone();
        change(&mut statement);
        statement
    };
    let later = changed(|statement| statement.expires_at += 1_000_000);
    let tenant = changed(|statement| statement.tenant_id = "two".to_owned());
    let shown = changed(|statement| statement.shown_hash = "0".repeat(64));
    let mut altered = alice.assertion(&statement, ORIGIN, RP_ID, 5);
    altered["statement"]["nonce"] = json!("another");
    for (name, signature, expected) in [
        ("none", None, "signed with your passkey"),
        (
            "foreign origin",
            Some(alice.assertion(&statement, "https://evil.example", RP_ID, 5)),
            "another site",
        ),
        (
            "foreign site",
            Some(alice.assertion(&statement, ORIGIN, "evil.example", 5)),
            "another relying party",
        ),
        ("person not verified", Some(alice.assertion(&statement, ORIGIN, RP_ID, 1)), "without verifying"),
        ("another request", Some(alice.assertion(&other_statement, ORIGIN, RP_ID, 5)), "another action"),
        ("a longer expiry", Some(alice.assertion(&later, ORIGIN, RP_ID, 5)), "approves another request"),
        ("another tenant", Some(alice.assertion(&tenant, ORIGIN, RP_ID, 5)), "another action"),
        ("another card", Some(alice.assertion(&shown, ORIGIN, RP_ID, 5)), "another card"),
        ("a changed statement", Some(altered), "another statement"),
        ("the passkey of Bob", Some(bob.assertion(&statement, ORIGIN, RP_ID, 5)), "unknown passkey"),
        ("not a signature", Some(json!({})), "malformed"),
    ] {
        let (status, page) = alice.approve(&id, &hash, signature.as_ref()).await;
        assert_eq!(status, 409, "{name}: {page}");
        assert!(page.contains(expected), "{name}: {page}");
    }
    // A signature counts once: not for another request, and not with a counter that does not rise.
    let used = alice.sign(&id).await;
    let (status, _) = alice.approve(&id, &hash, Some(&used)).await;
    assert_eq!(status, 409, "already decided");
    let (status, page) = alice.approve(&other, &other_hash, Some(&used)).await;
    assert!(status == 409 && page.contains("another action"), "{page}");
    alice.count = 0;
    let copied = alice.assertion(&other_statement, ORIGIN, RP_ID, 5);
    let (status, page) = alice.approve(&other, &other_hash, Some(&copied)).await;
    assert!(status == 409 && page.contains("counter did not rise"), "{page}");

    // Registrations for another site, another session, or twice.
    let page = alice.get("/passkeys").await;
    let challenge = field(&page, "data-challenge");
    let foreign = alice.registration(&challenge, "https://evil.example");
    let replayed = alice.registration(&encode([7; 32]), ORIGIN);
    let again = alice.registration(&challenge, ORIGIN);
    let mut another = again.clone();
    another["id"] = json!(encode("another id"));
    for (passkey, expected) in [
        (foreign, "another site"),
        (replayed, "another statement"),
        (again, "already registered"),
        (another, "differs"),
    ] {
        let passkey = passkey.to_string();
        let fields = [("token", &*alice.token), ("name", "x"), ("passkey", &passkey)];
        let response = alice.send("/passkeys", &fields).await;
        assert_eq!(response.status(), 422);
        let page = response.text().await.unwrap();
        assert!(page.contains(expected), "{page}");
    }
    // A removed passkey signs nothing.
    let path = format!("/passkeys/{}/remove", alice.id);
    assert_eq!(bob.send(&path, &[("token", &bob.token)]).await.status(), 404, "it is not Bob's");
    assert_eq!(alice.send(&path, &[("token", &alice.token)]).await.status(), 303);
    alice.count = 99;
    let signature = alice.assertion(&other_statement, ORIGIN, RP_ID, 5);
    let (status, _) = alice.approve(&other, &other_hash, Some(&signature)).await;
    assert_eq!(status, 409);
    assert_eq!(text(&gateway.decide("k_agent", &refund(2, "")).await, "decision"), Some("require_approval"));
    gateway.stop().await;
}

#[tokio::test]
async fn rules_without_a_signature_are_approved_as_before_or_signed() {
    let folder = TempDir::new().unwrap();
    let (gateway, _) = start(&folder).await;
    let mut alice = Person::log_in(&gateway, "alice").await;
    let mail = r#"{"agent_id": "sdk", "goal": "g", "tool": "mail.send", "args": {}}"#;
    let answer = gateway.decide("k_agent", mail).await;
    let id = text(&answer, "approval_request_id").unwrap().to_owned();
    alice.register().await;
    // A person with a passkey signs every approval on the page.
    alice.sign(&id).await;
    let answer = gateway.decide("k_agent", mail).await;
    assert_eq!(text(&answer, "decision"), Some("allow"));
    assert!(answer.member("approval_signatures").is_some());
    let answer = gateway.decide("k_agent", mail).await;
    let id = text(&answer, "approval_request_id").unwrap().to_owned();
    let approve = gateway.post(&format!("/api/v1/approvals/{id}/approve"), "k_alice").body("{}");
    assert_eq!(json(approve.send().await.unwrap()).await.0, 200);
    let answer = gateway.decide("k_agent", mail).await;
    assert_eq!((text(&answer, "decision"), answer.member("approval_signatures")), (Some("allow"), None));
    gateway.stop().await;
}

/// Rows and events that were written past the gateway: the data approve nothing by themselves.
#[tokio::test]
async fn forged_records_grant_nothing() {
    let folder = TempDir::new().unwrap();
    let (mut gateway, _) = start(&folder).await;
    let Location::File(path) = gateway.data.clone() else {
        gateway.stop().await;
        return;
    };
    let mut alice = Person::log_in(&gateway, "alice").await;
    alice.register().await;
    let (approved, forged) = (ask(&gateway, 1).await, ask(&gateway, 2).await);
    alice.sign(&approved).await;
    gateway.server.take().unwrap().stop().await.unwrap();
    // The decision and its event are copied from the signed approval to the other one.
    let data = rusqlite::Connection::open(&path).unwrap();
    let hash = |id: &str| -> String {
        data.query_row("SELECT action_hash FROM approvals WHERE id = ?1", [id], |row| row.get(0)).unwrap()
    };
    let (from, to) = (hash(&approved), hash(&forged));
    data.execute_batch("PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE type = 'trigger';")
        .unwrap();
    drop(data);
    let data = rusqlite::Connection::open(&path).unwrap();
    let changed = data
        .execute(
            "UPDATE events SET event = replace(replace(event, ?1, ?2), ?3, ?4) \
             WHERE event LIKE '%approval.approved%'",
            [&approved, &forged, &from, &to],
        )
        .unwrap();
    assert_eq!(changed, 1);
    data.execute(
        "UPDATE approvals SET (approved, decided_by, decided_at) = \
         (SELECT approved, decided_by, decided_at FROM approvals WHERE id = ?1) WHERE id = ?2",
        [&approved, &forged],
    )
    .unwrap();
    drop(data);
    let data = gateway.data.clone();
    let mut settings = settings_in(folder.path());
    settings.data = data;
    settings.master_key = MasterKeySource::Given(MasterKey::parse(&"07".repeat(32)).unwrap());
    let server = actpass_gateway::server::Server::start(settings).await.unwrap();
    gateway.url = server.url();
    gateway.server = Some(server);
    let answer =
        gateway.decide("k_agent", &refund(2, &format!(r#", "approval_request_id": "{forged}""#))).await;
    assert_eq!(
        (text(&answer, "decision"), text(&answer, "reason_code")),
        (Some("deny"), Some("approval.not_proven")),
        "{answer}"
    );
    gateway.stop().await;
}
