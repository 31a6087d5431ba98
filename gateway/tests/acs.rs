//! The gateway as the Guardian of the Agent Control Standard.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "common/acs_client.rs"]
mod acs_client;
#[path = "common/broken.rs"]
mod broken;
mod common;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use acs_client::{
    SECRET, SESSION, assert_denied, parse, refund_payload, request_at, secret_folder, sign, verified,
};
use actpass_gateway::clock::Clock;
use actpass_gateway::config::Settings;
use actpass_gateway::server::Server;
use actpass_gateway::store::Location;
use actpass_protocol::{Json, canonical_json, sha256_hex};
use broken::Broken;
use common::{Gateway, config, json, refund, text};
use tempfile::TempDir;

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

fn settings_of(folder: &TempDir, time: &Arc<AtomicU64>, more: &str) -> Settings {
    let mut settings =
        Settings::parse(&acs_client::config(more), folder.path()).unwrap_or_else(|p| panic!("{p}"));
    let time = Arc::clone(time);
    settings.clock = Clock::new(move || UNIX_EPOCH + Duration::from_millis(time.load(Ordering::SeqCst)));
    settings
}

/// A request without signature. `payload` is the payload's text.
fn request(method: &str, number: u32, payload: &str) -> String {
    request_at("2027-01-15T08:00:00Z", method, number, payload)
}

fn refund_step(number: u32, amount: u32) -> String {
    request("steps/toolCallRequest", number, &refund_payload(amount))
}

impl Guarded {
    async fn send(&self, body: String) -> Json {
        self.send_to("", body).await
    }

    async fn send_to(&self, query: &str, body: String) -> Json {
        let url = format!("{}/acs{query}", self.gateway.url);
        let request = self.gateway.client.post(url).header("content-type", "application/json").body(body);
        let (status, response) = json(request.send().await.unwrap()).await;
        assert_eq!(status, 200, "{response}");
        response
    }

    /// Sends a signed request and returns the result, whose signature is verified.
    async fn ask(&self, request: &str) -> Json {
        let response = self.send(sign(request)).await;
        verified(request, &response)
    }

    async fn denied(&self, request: &str, code: &str) {
        assert_denied(&self.ask(request).await, code);
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
    for (query, transport) in [("?transport=stdio", "stdio"), ("?transport=other", "http")] {
        let hello = request("handshake/hello", 2, "{}");
        let response = guarded.send_to(query, sign(&hello)).await;
        assert_eq!(text(&verified(&hello, &response), "selected_transport"), Some(transport));
    }
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
    let forged = sign(&request_ping()).replace("hello", "other");
    assert_eq!(text(&guarded.send(forged).await, "result.decision"), Some("allow"));
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
