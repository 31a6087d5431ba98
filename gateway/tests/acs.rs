//! The gateway as the Guardian of the Agent Control Standard.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "common/broken.rs"]
mod broken;
mod common;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use actpass_gateway::clock::Clock;
use actpass_gateway::config::{MasterKeySource, Settings};
use actpass_gateway::seal::MasterKey;
use actpass_gateway::server::Server;
use actpass_gateway::store::Location;
use actpass_protocol::{Json, canonical_json, sha256_hex};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use broken::Broken;
use common::{Gateway, PREFLIGHT, config, config_with, json, refund, text};
use ring::{hkdf, hmac};
use tempfile::TempDir;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const SESSION: &str = "5c3f1b8e-9a0d-4c2e-8f4b-2d6a7e9c1b30";

/// 2027-01-15T08:00:00Z.
const START: u64 = 1_800_000_000_000;

struct Guarded {
    gateway: Gateway,
    time: Arc<AtomicU64>,
    _folder: TempDir,
}

/// A gateway whose key `apk_one` has a secret of the standard.
async fn start(more: &str) -> Guarded {
    start_with(more, |_| {}).await
}

async fn start_with(more: &str, change: impl FnOnce(&mut Settings)) -> Guarded {
    let folder = secret_folder();
    let time = Arc::new(AtomicU64::new(START));
    let gateway = Gateway::start_with("", |settings| {
        let data = settings.data.clone();
        *settings = settings_of(&folder, &time, more);
        settings.data = data;
        change(settings);
    })
    .await;
    Guarded { gateway, time, _folder: folder }
}

fn secret_folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("acs.secret"), format!("{SECRET}\n")).unwrap();
    folder
}

fn settings_of(folder: &TempDir, time: &Arc<AtomicU64>, more: &str) -> Settings {
    let keys = config_with("", &common::shipped_policy("refunds.json")).replacen(
        "name = \"name-of-apk-one\"\n",
        &format!("name = \"name-of-apk-one\"\nacs_secret_file = \"acs.secret\"\n{more}\n"),
        1,
    );
    let mut settings = Settings::parse(&keys, folder.path()).unwrap_or_else(|problems| panic!("{problems}"));
    let time = Arc::clone(time);
    settings.clock = Clock::new(move || UNIX_EPOCH + Duration::from_millis(time.load(Ordering::SeqCst)));
    settings
}

/// The key of a session, derived independently of the gateway.
fn session_key(session: &str) -> hmac::Key {
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, &[0; 32]).extract(SECRET.as_bytes());
    extracted.expand(&[session.as_bytes()], hmac::HMAC_SHA256).unwrap().into()
}

fn parse(text: &str) -> Json {
    Json::parse(text.as_bytes()).unwrap()
}

/// A request without signature. `payload` is the payload's text.
fn request(method: &str, number: u32, payload: &str) -> String {
    let id = format!("8d0b6b0e-4d6b-4f7a-9d1c-{number:012}");
    format!(
        r#"{{"jsonrpc": "2.0", "method": "{method}", "id": "{id}", "params": {{"acs_version": "0.1.0",
            "request_id": "{id}", "timestamp": "2027-01-15T08:00:00Z", "metadata": {{"agent_id": "sdk",
            "session_id": "{SESSION}"}}, "payload": {payload}}}}}"#
    )
}

fn refund_step(number: u32, amount: u32) -> String {
    request(
        "steps/toolCallRequest",
        number,
        &format!(
            r#"{{"tool": {{"name": "refunds.create"}}, "arguments": {{"amount": {{"value": {amount}}},
                "currency": {{"value": "usd"}}}}, "intent": {{"goal": "refund an order"}}}}"#
        ),
    )
}

fn without_signature(envelope: &Json, container: &str) -> Json {
    let Json::Object(mut members) = envelope.clone() else { panic!("{envelope}") };
    for (name, value) in &mut members {
        if let (true, Json::Object(inner)) = (name == container, value) {
            inner.retain(|(name, _)| name != "signature");
        }
    }
    Json::Object(members)
}

fn sign(request: &str) -> String {
    let canonical = canonical_json(&parse(request)).unwrap();
    let value = STANDARD.encode(hmac::sign(&session_key(SESSION), &canonical));
    let signature =
        format!(r#"{{"algorithm": "HMAC-SHA256", "key_id": "name-of-apk-one", "value": "{value}"}}"#);
    let (members, _) = request.rsplit_once("}}").unwrap();
    format!("{members}, \"signature\": {signature}}}}}")
}

impl Guarded {
    async fn send(&self, body: String) -> Json {
        let url = format!("{}/acs", self.gateway.url);
        let request = self.gateway.client.post(url).header("content-type", "application/json").body(body);
        let (status, response) = json(request.send().await.unwrap()).await;
        assert_eq!(status, 200, "{response}");
        response
    }

    /// Sends a signed request and returns the result, whose signature is verified.
    async fn ask(&self, request: &str) -> Json {
        let response = self.send(sign(request)).await;
        let result = response.member("result").unwrap_or_else(|| panic!("{response}"));
        let value = STANDARD.decode(text(result, "signature.value").unwrap()).unwrap();
        let signed = canonical_json(&without_signature(&response, "result")).unwrap();
        assert!(hmac::verify(&session_key(SESSION), &signed, &value).is_ok(), "{response}");
        let asked = parse(request);
        assert_eq!(response.member("id"), asked.member("id"));
        assert_eq!(text(result, "type"), Some("final"));
        assert_eq!(text(result, "acs_version"), Some("0.1.0"));
        assert_eq!(result.member("request_id"), asked.member("params").unwrap().member("request_id"));
        let decision = text(result, "decision").unwrap();
        // The members that each decision requires.
        let required: &[&str] = match decision {
            "allow" => &[],
            "deny" => &["reasoning"],
            "ask" => &["reasoning", "ask_details"],
            "defer" => &["reasoning", "defer_details"],
            other => panic!("{other}"),
        };
        for member in required {
            assert!(result.member(member).is_some(), "{member}: {result}");
        }
        result.clone()
    }

    async fn denied(&self, request: &str, code: &str) {
        let result = self.ask(request).await;
        assert_eq!(text(&result, "decision"), Some("deny"), "{result}");
        assert_eq!(result.member("reason_codes").unwrap().to_string(), format!("[\"{code}\"]"), "{result}");
    }

    async fn chain(&self) -> Vec<Json> {
        self.gateway.events("apk_one", &format!("acs:name-of-apk-one:{SESSION}")).await
    }
}

#[tokio::test]
async fn hello_declares_that_failures_deny() {
    let guarded = start("").await;
    let result =
        guarded.ask(&request("handshake/hello", 1, r#"{"acs_versions_supported": ["0.1.0"]}"#)).await;
    for hello in [&result, result.member("payload").unwrap()] {
        for (member, expected) in [
            ("negotiated_version", r#""0.1.0""#),
            ("selected_transport", r#""http""#),
            ("signature_algorithms_supported", r#"["HMAC-SHA256"]"#),
            ("on_decision_failure", r#""deny""#),
            ("skew_window_ms", "300000"),
            ("policy_requires_provenance", "false"),
        ] {
            assert_eq!(hello.member(member).unwrap().to_string(), expected, "{member}");
        }
        assert!(hello.member("methods_evaluated").unwrap().to_string().contains("steps/toolCallRequest"));
    }
    assert_eq!(result.member("chain_hash"), None);
    guarded.gateway.stop().await;
}

#[tokio::test]
async fn tool_calls_are_decided_like_preflights() {
    let guarded = start("acs_ask = true").await;
    for (number, amount, decision, reason) in [
        (1, 4900, "allow", "refund.small_in_scope"),
        (2, 25000, "ask", "refund.medium_needs_approval"),
        (3, 90000, "deny", "refund.over_limit"),
    ] {
        let result = guarded.ask(&refund_step(number, amount)).await;
        assert_eq!(text(&result, "decision"), Some(decision), "{result}");
        assert_eq!(result.member("reason_codes").unwrap().to_string(), format!("[\"{reason}\"]"));
        let preflight = refund(&amount.to_string(), "").replace(r#""resource": "","#, "");
        let expected = guarded.gateway.decide("apk_one", &preflight).await;
        assert_eq!(text(&expected, "reason_code"), Some(reason));
        let found = text(&result, "policy_data.actpass.approval_request_id");
        assert_eq!(found, text(&expected, "approval_request_id"), "one action, one approval");
        assert_eq!(result.member("reasoning"), expected.member("explain").unwrap().member("summary"));
    }
    let events = guarded.gateway.events("apk_one", "decisions").await;
    assert_eq!(text(&events[0], "protocol"), Some("acs"));
    assert_eq!(text(&events[0], "tool_id"), Some("refunds.create"));
    assert_eq!(events[1].member("protocol"), None);
    guarded.gateway.stop().await;
}

#[tokio::test]
async fn approval_is_opened_and_spent_by_the_next_request() {
    for (setting, decision) in [("", "defer"), ("acs_ask = false", "defer"), ("acs_ask = true", "ask")] {
        let guarded = start(setting).await;
        let asked = guarded.ask(&refund_step(1, 25000)).await;
        assert_eq!(text(&asked, "decision"), Some(decision), "{asked}");
        let id = text(&asked, "policy_data.actpass.approval_request_id").unwrap();
        if decision == "ask" {
            let page = format!("{}/approvals/{id}", guarded.gateway.url);
            assert_eq!(text(&asked, "ask_details.approver.endpoint"), Some(&*page));
            assert_eq!(text(&asked, "ask_details.timeout_disposition"), Some("deny"));
        } else {
            assert_eq!(text(&asked, "defer_details.timeout_decision"), Some("deny"));
            assert_eq!(text(&asked, "defer_details.resolution_method"), Some("human_approval"));
        }
        let path = format!("/api/v1/approvals/{id}/approve");
        let approved = guarded.gateway.post(&path, "apdv_one").body("{}").send().await.unwrap();
        assert_eq!(approved.status(), 200);
        // The same request is a replay; the next one spends the approval, and a third one needs another.
        guarded.denied(&refund_step(1, 25000), "replay_detected").await;
        assert_eq!(text(&guarded.ask(&refund_step(2, 25000)).await, "decision"), Some("allow"));
        assert_eq!(text(&guarded.ask(&refund_step(3, 25000)).await, "decision"), Some(decision));
        guarded.gateway.stop().await;
    }
}

#[tokio::test]
async fn authenticated_step_is_never_answered_with_an_error() {
    let guarded = start("").await;
    let valid = refund_step(1, 1);
    for (from, to, code) in [
        ("\"0.1.0\"", "\"1.0.0\"", "unsupported_version"),
        ("\"0.1.0\"", "\"0.1\"", "unsupported_version"),
        ("\"acs_version\": \"0.1.0\",", "", "invalid_member"),
        ("2027-01-15T08:00:00Z", "2027-01-15T08:05:01Z", "timestamp_out_of_window"),
        ("2027-01-15T08:00:00Z", "2027-01-15T07:54:59Z", "timestamp_out_of_window"),
        ("2027-01-15T08:00:00Z", "yesterday", "invalid_member"),
        ("\"request_id\": \"8d0b6b0e", "\"request_id\": \"x", "invalid_member"),
        ("\"name\": \"refunds.create\"", "\"id\": \"refunds.create\"", "invalid_member"),
        ("{\"value\": 1}", "1", "invalid_member"),
        ("\"amount\"", "\"acs\"", "invalid_member"),
        ("\"goal\": \"refund an order\"", "\"goal\": 7", "invalid_member"),
        ("steps/toolCallRequest", "steps/other", "unknown_method"),
        ("steps/toolCallRequest", "protocols/A2A/message/send", "unknown_method"),
        ("\"agent_id\": \"sdk\"", "\"agent_id\": 7", "invalid_member"),
    ] {
        guarded.denied(&valid.replacen(from, to, 1), code).await;
    }
    assert_eq!(text(&guarded.ask(&valid).await, "decision"), Some("allow"));
    guarded.denied(&valid, "replay_detected").await;
    // The same id with another action, too.
    guarded.denied(&valid.replace("{\"value\": 1}", "{\"value\": 2}"), "replay_detected").await;
    guarded.gateway.stop().await;
}

#[tokio::test]
async fn unavailable_store_is_a_signed_denial() {
    let (folder, time) = (secret_folder(), Arc::new(AtomicU64::new(START)));
    let mut settings = settings_of(&folder, &time, "");
    settings.timeouts.store = Duration::from_millis(100);
    let server = Server::start_with(settings, Broken::new(None)).await.unwrap();
    let gateway = Gateway {
        folder: TempDir::new().unwrap(),
        data: Location::File(PathBuf::new()),
        url: server.url(),
        server: Some(server),
        client: common::client(),
    };
    let guarded = Guarded { gateway, time, _folder: folder };
    guarded.denied(&refund_step(1, 1), "unavailable").await;
    guarded.denied(&request("steps/userMessage", 2, "{}"), "unavailable").await;
    guarded.gateway.stop().await;
}

#[tokio::test]
async fn replay_after_a_restart_is_denied() {
    let mut guarded = start("").await;
    let request = refund_step(1, 1);
    assert_eq!(text(&guarded.ask(&request).await, "decision"), Some("allow"));
    let (folder, time) = (guarded._folder.path().to_owned(), Arc::clone(&guarded.time));
    guarded
        .gateway
        .restart(|settings| {
            let data = settings.data.clone();
            let keys = config("").replacen(
                "name = \"name-of-apk-one\"\n",
                "name = \"name-of-apk-one\"\nacs_secret_file = \"acs.secret\"\n",
                1,
            );
            *settings = Settings::parse(&keys, &folder).unwrap();
            settings.data = data;
            settings.clock =
                Clock::new(move || UNIX_EPOCH + Duration::from_millis(time.load(Ordering::SeqCst)));
        })
        .await;
    guarded.denied(&request, "replay_detected").await;
    guarded.gateway.stop().await;
}

#[tokio::test]
async fn unauthenticated_requests_are_errors() {
    let guarded = start("").await;
    let valid = sign(&refund_step(1, 1));
    for (from, to, code) in [
        // The signature covers the whole envelope.
        ("\"value\": 1}", "\"value\": 2}", -32004),
        (SESSION, "5c3f1b8e-9a0d-4c2e-8f4b-2d6a7e9c1b31", -32004),
        ("steps/toolCallRequest", "steps/userMessage", -32004),
        ("name-of-apk-one", "name-of-apk-bound", -32004),
        ("HMAC-SHA256", "none", -32004),
        ("\"signature\"", "\"other\"", -32004),
        ("\"jsonrpc\": \"2.0\", ", "", -32600),
        ("\"id\": \"8d0b6b0e-4d6b-4f7a-9d1c-000000000001\",", "", -32600),
        ("\"jsonrpc\": \"2.0\", ", "\"jsonrpc\": \"2.0\", \"jsonrpc\": \"2.0\", ", -32700),
    ] {
        let response = guarded.send(valid.replacen(from, to, 1)).await;
        let error = response.member("error").unwrap_or_else(|| panic!("{from}: {response}"));
        assert_eq!(error.member("code").unwrap().to_string(), code.to_string(), "{from}: {response}");
        assert_eq!(response.member("result"), None);
    }
    for body in ["", "[]", "{", &format!("[{valid}]")] {
        let response = guarded.send(body.to_owned()).await;
        assert!(response.member("error").is_some(), "{response}");
    }
    // No header is an identity.
    let request = guarded.gateway.post("/acs", "apk_one").body(refund_step(2, 1));
    let (_, response) = json(request.send().await.unwrap()).await;
    assert!(response.member("error").is_some(), "{response}");
    // A ping needs no signature and proves nothing.
    let ping = guarded.send(request_ping()).await;
    assert_eq!(text(&ping, "result.decision"), Some("allow"));
    assert_eq!(text(&ping, "result.payload.echo"), Some("hello"));
    assert_eq!(text(&ping, "result.payload.status"), Some("ok"));
    let missing = guarded.gateway.get("/api/v1/evidence/chains/decisions", "apk_one").send().await.unwrap();
    assert_eq!(missing.status(), 404, "nothing was recorded");
    guarded.gateway.stop().await;
}

fn request_ping() -> String {
    request("system/ping", 9, r#"{"echo": "hello"}"#)
}

#[tokio::test]
async fn chain_of_the_session_is_published_and_recomputable() {
    let guarded = start("").await;
    let mut heads = Vec::new();
    let sent = [
        request("steps/sessionStart", 1, "{}"),
        request("steps/userMessage", 2, r#"{"content": [{"type": "text", "value": "hello"}]}"#),
        refund_step(3, 1),
        refund_step(4, 90000),
        request("protocols/MCP/resources/read", 5, r#"{"params": {"uri": "file:///etc/passwd"}}"#),
        request("protocols/MCP/tools/list", 6, "{}"),
        request("steps/toolCallResult", 7, "{}"),
        request("steps/sessionEnd", 8, r#"{"reason": "completed"}"#),
    ];
    let expected = ["allow", "allow", "allow", "deny", "deny", "allow", "allow", "allow"];
    for (step, decision) in sent.iter().zip(expected) {
        let result = guarded.ask(step).await;
        assert_eq!(text(&result, "decision"), Some(decision), "{result}");
        heads.push(text(&result, "chain_hash").unwrap().to_owned());
    }
    // A denied replay is not part of the session.
    guarded.denied(&sent[0], "replay_detected").await;
    let mut previous: Option<String> = None;
    let events = guarded.chain().await;
    assert_eq!(events.len(), sent.len());
    for ((event, head), step) in events.iter().zip(&heads).zip(&sent) {
        assert_eq!((text(event, "event_type"), text(event, "protocol")), (Some("acs.step"), Some("acs")));
        let Json::Object(mut entry) = event.member("metadata").unwrap().clone() else { panic!("{event}") };
        entry.retain(|(name, _)| name != "entry_hash" && name != "previous_hash");
        let entry = Json::Object(entry);
        let mut bytes = canonical_json(&entry).unwrap();
        bytes.extend(previous.iter().flat_map(|hash| hex::decode(hash).unwrap()));
        assert_eq!(sha256_hex(&bytes), *head);
        assert_eq!(text(event, "metadata.entry_hash"), Some(&**head));
        // The entry commits to the request with its signature.
        let params = parse(&sign(step)).member("params").unwrap().clone();
        let hash = sha256_hex(&canonical_json(&params).unwrap());
        assert_eq!(text(&entry, "request_hash"), Some(&*hash));
        previous = Some(head.clone());
    }
    let verify = format!("/api/v1/evidence/chains/acs:name-of-apk-one:{SESSION}/verify");
    let (_, verified) = json(guarded.gateway.get(&verify, "apk_one").send().await.unwrap()).await;
    assert_eq!(verified.member("valid"), Some(&Json::Bool(true)), "{verified}");
    // No client can append to it.
    let forged = format!(r#"{{"event_type": "e", "chain_id": "acs:name-of-apk-one:{SESSION}"}}"#);
    let response = guarded.gateway.post(common::EVIDENCE, "apk_one").body(forged).send().await.unwrap();
    assert_eq!(response.status(), 422);
    guarded.gateway.stop().await;
}

#[tokio::test]
async fn concurrent_steps_have_one_order() {
    let guarded = start("").await;
    let requests: Vec<_> = (0..20).map(|number| refund_step(number, 1)).collect();
    let results = futures_util::future::join_all(requests.iter().map(|request| guarded.ask(request))).await;
    let mut heads: Vec<_> = results.iter().map(|result| text(result, "chain_hash").unwrap()).collect();
    let events = guarded.chain().await;
    let mut recorded: Vec<_> =
        events.iter().map(|event| text(event, "metadata.entry_hash").unwrap()).collect();
    for pair in events.windows(2) {
        assert_eq!(text(&pair[1], "metadata.previous_hash"), text(&pair[0], "metadata.entry_hash"));
    }
    heads.sort_unstable();
    recorded.sort_unstable();
    assert_eq!(heads, recorded);
    guarded.gateway.stop().await;
}

#[tokio::test]
async fn time_moves_the_window() {
    let guarded = start("").await;
    guarded.time.store(START + 300_000, Ordering::SeqCst);
    assert_eq!(text(&guarded.ask(&refund_step(1, 1)).await, "decision"), Some("allow"));
    guarded.time.store(START + 300_001, Ordering::SeqCst);
    guarded.denied(&refund_step(2, 1), "timestamp_out_of_window").await;
    guarded.gateway.stop().await;
}

#[test]
fn settings_are_checked() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("acs.secret"), SECRET).unwrap();
    std::fs::write(folder.path().join("short.secret"), "short").unwrap();
    let name = "name = \"name-of-apk-one\"\n";
    for (member, problem) in [
        ("acs_secret_file = \"acs.secret\"", None),
        ("acs_secret_file = \"acs.secret\"\nacs_key_id = \"default\"", None),
        ("acs_secret_file = \"none.secret\"", Some("acs_secret_file")),
        ("acs_secret_file = \"short.secret\"", Some("at least 32 random characters")),
        ("acs_key_id = \"default\"", Some("acs_key_id: needs acs_secret_file")),
        ("acs_ask = true", Some("acs_ask: needs acs_secret_file")),
        ("acs_secret_file = \"acs.secret\"\nacs_ask = \"yes\"", Some("acs_ask")),
    ] {
        let text = config("").replacen(name, &format!("{name}{member}\n"), 1);
        let found = Settings::parse(&text, folder.path()).err().map(|problems| problems.to_string());
        match problem {
            None => assert_eq!(found, None, "{member}"),
            Some(problem) => {
                assert!(found.as_ref().is_some_and(|found| found.contains(problem)), "{found:?}");
            }
        }
    }
}

/// The same refund through each interface: its decision must be one action's.
#[derive(Clone, Copy, Debug)]
enum Interface {
    Acs,
    AuthZen,
    Preflight,
}

impl Guarded {
    /// Returns whether a refund is allowed. `more` are members of a preflight: `, "name": value`.
    async fn refund(&self, interface: Interface, number: u32, amount: u32, more: &str) -> bool {
        match interface {
            Interface::Acs => {
                text(&self.ask(&refund_step(number, amount)).await, "decision") == Some("allow")
            }
            Interface::AuthZen => {
                let extension = more.trim_start_matches(", ");
                let body = format!(
                    r#"{{"subject": {{"type": "agent", "id": "sdk"}}, "action": {{"name": "tools/call",
                        "properties": {{"amount": {amount}, "currency": "usd"}}}},
                        "resource": {{"type": "tool", "id": "refunds.create"}},
                        "context": {{"goal": "refund an order", "actpass": {{{extension}}}}}}}"#
                );
                let request = self.gateway.post("/access/v1/evaluation", "apk_one").body(body);
                let (status, response) = json(request.send().await.unwrap()).await;
                assert!(status == 200 || status == 503, "{status} {response}");
                response.member("decision") == Some(&Json::Bool(true))
            }
            Interface::Preflight => {
                let body = refund(&amount.to_string(), more).replace(r#""resource": "","#, "");
                let request = self.gateway.post(PREFLIGHT, "apk_one").body(body);
                let (status, response) = json(request.send().await.unwrap()).await;
                // A race that is lost too often is reported as busy.
                assert!(status == 200 || status == 503, "{status} {response}");
                text(&response, "decision") == Some("allow")
            }
        }
    }

    /// Sends the same refund many times concurrently through these interfaces; returns how many are
    /// allowed, in all and through each.
    async fn race(&self, interfaces: &[Interface], first: u32, amount: u32, more: &str) -> usize {
        let racing = (0..24).map(|number: u32| {
            let interface = interfaces[usize::try_from(number).unwrap() % interfaces.len()];
            self.refund(interface, first + number, amount, more)
        });
        let allowed = futures_util::future::join_all(racing).await;
        allowed.into_iter().filter(|allowed| *allowed).count()
    }
}

#[tokio::test]
async fn approvals_budgets_and_passports_are_spent_once_over_all_interfaces() {
    const ALL: [Interface; 3] = [Interface::Acs, Interface::AuthZen, Interface::Preflight];
    let master = MasterKeySource::Given(MasterKey::parse(&"07".repeat(32)).unwrap());
    let guarded = start_with("", |settings| settings.master_key = master).await;
    // One approval: each interface joins it, and one request spends it.
    assert_eq!(guarded.race(&ALL, 0, 25000, "").await, 0);
    let pending = guarded.gateway.get("/api/v1/approvals", "apdv_one").send().await.unwrap();
    let (_, pending) = json(pending).await;
    let Some(Json::Array(approvals)) = pending.member("approvals") else { panic!("{pending}") };
    let [approval] = approvals.as_slice() else { panic!("{pending}") };
    let path = format!("/api/v1/approvals/{}/approve", text(approval, "id").unwrap());
    assert_eq!(guarded.gateway.post(&path, "apdv_one").body("{}").send().await.unwrap().status(), 200);
    assert_eq!(guarded.race(&ALL, 100, 25000, "").await, 1);

    // One budget of 50000, of which 25000 are left.
    assert_eq!(guarded.race(&ALL, 200, 10000, "").await, 2);

    // One passport.
    let body = r#"{"audience": "a", "goal": "refund an order", "agent_id": "sdk", "allowed_tools": ["refunds.create"]}"#;
    let issued = guarded.gateway.post("/api/v1/passports/issue", "apk_one").body(body).send().await.unwrap();
    let (_, issued) = json(issued).await;
    let more = format!(r#", "passport": "{}""#, text(&issued, "token").unwrap());
    let interfaces = [Interface::AuthZen, Interface::Preflight];
    assert_eq!(guarded.race(&interfaces, 300, 1000, &more).await, 1);

    let events = guarded.gateway.events("apk_one", "decisions").await;
    let allowed = events.iter().filter(|event| text(event, "decision") == Some("allow"));
    assert_eq!(allowed.count(), 1 + 2 + 1);
    for interface in [Some("acs"), Some("authzen"), None] {
        assert!(events.iter().any(|event| text(event, "protocol") == interface), "{interface:?}");
    }
    guarded.gateway.stop().await;
}

/// A field of a message of Protocol Buffers that has a length.
fn field(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag << 3 | 2, u8::try_from(content.len()).unwrap()][..], content].concat()
}

/// A check of Envoy of `POST http://h/refunds` with this body, as a gRPC body.
fn check(body: &[u8]) -> Vec<u8> {
    let entry = |name: &[u8], value: &[u8]| field(3, &[field(1, name), field(2, value)].concat());
    let http = [
        field(2, b"POST"),
        entry(b"x-envoy-auth-partial-body", b"false"),
        entry(b"content-type", b"application/json"),
        field(4, b"/r"),
        field(5, b"h"),
        field(6, b"http"),
        field(12, body),
    ];
    let message = field(1, &field(4, &field(2, &http.concat())));
    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat()
}

/// Measures the time of a decision by each interface, one at a time:
/// `cargo test -p actpass-gateway --test acs measure_interfaces -- --ignored --nocapture`.
#[ignore = "measures; run with --ignored --nocapture"]
#[tokio::test]
async fn measure_interfaces() {
    const ROUNDS: u32 = 1000;
    const NAMES: [&str; 4] = ["preflight", "AuthZEN", "ACS", "Envoy, gRPC"];
    let guarded = start("").await;
    let grpc = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let url = format!("{}/envoy.service.auth.v3.Authorization/Check", guarded.gateway.url);
    let mut times: [Vec<f64>; 4] = Default::default();
    for round in 0..ROUNDS {
        for (place, times) in times.iter_mut().enumerate() {
            let begun = std::time::Instant::now();
            let is_decided = match place {
                0 => guarded.refund(Interface::Preflight, round, 1, "").await,
                1 => guarded.refund(Interface::AuthZen, round, 1, "").await,
                2 => guarded.refund(Interface::Acs, round, 1, "").await,
                _ => {
                    let sent = grpc.post(&url).bearer_auth("apk_one").body(check(b"{\"amount\": 1}"));
                    let body = sent.send().await.unwrap().bytes().await.unwrap();
                    String::from_utf8_lossy(&body).contains("evidence_event_id")
                }
            };
            times.push(begun.elapsed().as_secs_f64() * 1e6);
            assert!(is_decided, "{}", NAMES[place]);
        }
    }
    let at = |times: &[f64], percent: usize| times[times.len() * percent / 100];
    for times in &mut times {
        times.sort_by(f64::total_cmp);
    }
    for (name, measured) in NAMES.iter().zip(&times) {
        let ratio = at(measured, 50) / at(&times[0], 50);
        println!("{name}: p50 {:.0} us, p99 {:.0} us, {ratio:.2} times", at(measured, 50), at(measured, 99));
    }
    guarded.gateway.stop().await;
}
