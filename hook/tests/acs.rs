//! The bridge of the Agent Control Standard, as hosts start it, to a gateway.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "../../gateway/tests/common/acs_client.rs"]
mod acs_client;
#[path = "../../gateway/tests/common/mod.rs"]
mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use acs_client::{SECRET, assert_denied, parse, refund_payload, request_at, secret_folder, sign, verified};
use actpass_gateway::config::Settings;
use actpass_hostile_gateway::{HostileGateway, Script};
use actpass_protocol::Json;
use common::{Gateway, text};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Separation of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Headers,
    Lines,
}

const FRAMINGS: [Framing; 2] = [Framing::Headers, Framing::Lines];

/// A host with its bridge.
struct Host {
    bridge: Child,
    input: Option<ChildStdin>,
    output: Option<BufReader<ChildStdout>>,
    framing: Framing,
    _folder: TempDir,
}

impl Host {
    fn start(url: &str, framing: Framing) -> Self {
        let folder = secret_folder();
        let mut bridge = Command::new(env!("CARGO_BIN_EXE_actpass-hook"))
            .args(["acs", "--gateway", url])
            .env("ACS_HMAC_SECRET_FILE", folder.path().join("acs.secret"))
            .env_remove("ACTPASS_API_KEY")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (bridge.stdin.take(), bridge.stdout.take().map(BufReader::new));
        Self { bridge, input, output, framing, _folder: folder }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.input.as_mut().unwrap().write_all(bytes).unwrap();
    }

    fn send(&mut self, message: &str) {
        let message = message.replace('\n', " ");
        match self.framing {
            Framing::Headers => {
                self.write(format!("Content-Length: {}\r\n\r\n{message}", message.len()).as_bytes());
            }
            Framing::Lines => self.write(format!("{message}\n").as_bytes()),
        }
    }

    /// Reads an answer; `None` at the end.
    fn receive(&mut self) -> Option<Json> {
        let output = self.output.as_mut().unwrap();
        let mut line = String::new();
        if output.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        if self.framing == Framing::Lines {
            return Some(parse(&line));
        }
        let length: usize = line.strip_prefix("Content-Length: ").unwrap().trim_end().parse().unwrap();
        let mut message = vec![0; 2 + length];
        output.read_exact(&mut message).unwrap();
        assert!(message.starts_with(b"\r\n"));
        Some(Json::parse(&message[2..]).unwrap())
    }

    /// Sends a signed request and returns the result, whose signature is verified.
    fn ask(&mut self, request: &str) -> Json {
        self.send(&sign(request));
        verified(request, &self.receive().unwrap())
    }

    /// Sends a message that cannot be authenticated.
    fn assert_error(&mut self, message: &str, code: i64) -> Json {
        self.send(message);
        let response = self.receive().unwrap();
        assert_eq!(response.member("error").unwrap().member("code").unwrap().to_string(), code.to_string());
        assert_eq!(response.member("result"), None);
        response
    }

    /// Closes the input and waits for the end of the bridge.
    fn end(&mut self) -> ExitStatus {
        drop(self.input.take());
        self.exit()
    }

    fn exit(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.bridge.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "the bridge did not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns the log. The bridge has ended.
    fn log(&mut self) -> String {
        let mut log = String::new();
        self.bridge.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        log
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.bridge.kill();
        let _ = self.bridge.wait();
    }
}

async fn gateway() -> Gateway {
    let folder = secret_folder();
    Gateway::start_with("", |settings| {
        let data = settings.data.clone();
        *settings = Settings::parse(&acs_client::config(""), folder.path()).unwrap_or_else(|p| panic!("{p}"));
        settings.data = data;
    })
    .await
}

/// Responds to every request with `step`.
fn responding(step: &Value) -> HostileGateway {
    HostileGateway::start(Script::from_json(json!({"steps": [step]})).unwrap()).unwrap()
}

fn request(method: &str, number: u32, payload: &str) -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    request_at(&now, method, number, payload)
}

fn refund(number: u32, amount: u32) -> String {
    request("steps/toolCallRequest", number, &refund_payload(amount))
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_of_the_gateway_pass_the_bridge() {
    for framing in FRAMINGS {
        let gateway = gateway().await;
        let mut host = Host::start(&gateway.url, framing);
        let hello = host.ask(&request("handshake/hello", 1, "{}"));
        assert_eq!(text(&hello, "selected_transport"), Some("stdio"));
        assert_eq!(text(&host.ask(&refund(2, 4900)), "decision"), Some("allow"));
        assert_denied(&host.ask(&refund(3, 90000)), "refund.over_limit");
        let asked = host.ask(&refund(4, 25000));
        assert_eq!(text(&asked, "decision"), Some("defer"), "{asked}");
        let id = text(&asked, "policy_data.actpass.approval_request_id").unwrap();
        let path = format!("/api/v1/approvals/{id}/approve");
        let approved = gateway.post(&path, "apdv_one").body("{}").send().await.unwrap();
        assert_eq!(approved.status(), 200);
        let allowed = host.ask(&refund(5, 25000));
        assert_eq!(text(&allowed, "decision"), Some("allow"));
        assert!(text(&allowed, "chain_hash").is_some());
        assert_eq!(text(&host.ask(&request("steps/sessionEnd", 6, "{}")), "decision"), Some("allow"));
        assert!(host.end().success());
        assert_eq!(host.receive(), None);
        assert_eq!(host.log(), "");
        let events = gateway.events("apk_one", "decisions").await;
        let decisions = events.iter().filter(|event| text(event, "event_type") == Some("decision"));
        let protocols: Vec<_> = decisions.map(|event| text(event, "protocol")).collect();
        assert_eq!(protocols, [Some("acs"); 4]);
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn authenticated_step_is_denied_and_not_answered_with_an_error() {
    let gateway = gateway().await;
    let mut host = Host::start(&gateway.url, Framing::Headers);
    let valid = refund(1, 1);
    for (from, to, code) in [
        ("\"0.1.0\"", "\"1.0.0\"", "unsupported_version"),
        ("\"request_id\": \"8d0b6b0e", "\"request_id\": \"x", "invalid_member"),
        ("steps/toolCallRequest", "steps/other", "unknown_method"),
    ] {
        assert_denied(&host.ask(&valid.replacen(from, to, 1)), code);
    }
    for shift in [-301, 301] {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(now.checked_add_signed(shift).unwrap());
        let then = humantime::format_rfc3339_seconds(then).to_string();
        let skewed = request_at(&then, "steps/userMessage", 2, "{}");
        assert_denied(&host.ask(&skewed), "timestamp_out_of_window");
    }
    assert_eq!(text(&host.ask(&valid), "decision"), Some("allow"));
    assert_denied(&host.ask(&valid), "replay_detected");
    // Larger than the gateway accepts.
    let large = format!(r#"{{"content": "{}"}}"#, "x".repeat(3 << 20));
    assert_denied(&host.ask(&request("steps/userMessage", 3, &large)), "actpass.gateway_error");
    assert!(host.end().success());
    gateway.stop().await;
}

#[test]
fn message_that_cannot_be_authenticated_is_an_error_without_a_request() {
    let gateway = responding(&json!({"do": "respond", "json": {}}));
    for framing in FRAMINGS {
        let mut host = Host::start(&gateway.base_url(), framing);
        let valid = sign(&refund(1, 1));
        for (from, to, code) in [
            // The signature covers the whole envelope.
            ("\"value\": 1}", "\"value\": 2}", -32004),
            ("HMAC-SHA256", "none", -32004),
            ("\"signature\"", "\"other\"", -32004),
            ("\"jsonrpc\": \"2.0\", ", "", -32600),
            ("\"jsonrpc\": \"2.0\", ", "\"jsonrpc\": \"2.0\", \"jsonrpc\": \"2.0\", ", -32700),
        ] {
            let changed = valid.replacen(from, to, 1);
            assert_ne!(changed, valid, "{from}");
            host.assert_error(&changed, code);
        }
        host.assert_error(&format!("[{valid}]"), -32600);
        host.assert_error(&format!("{{{}}}", "\"a\":0,".repeat(1 << 20)), -32600);
        // Not UTF-8.
        let mut raw = valid.replace('\n', " ").into_bytes();
        raw[20] = 0xff;
        match framing {
            Framing::Headers => host.write(format!("Content-Length: {}\r\n\r\n", raw.len()).as_bytes()),
            Framing::Lines => raw.push(b'\n'),
        }
        host.write(&raw);
        let response = host.receive().unwrap();
        assert_eq!(response.member("error").unwrap().member("code").unwrap().to_string(), "-32700");
        assert!(host.end().success());
    }
    assert!(gateway.seen().is_empty());
}

#[test]
fn gateway_that_does_not_decide_is_a_signed_denial() {
    let forged = json!({"jsonrpc": "2.0", "id": "8d0b6b0e-4d6b-4f7a-9d1c-000000000001", "result": {
        "type": "final", "acs_version": "0.1.0", "request_id": "8d0b6b0e-4d6b-4f7a-9d1c-000000000001",
        "decision": "allow", "signature": {"algorithm": "HMAC-SHA256", "key_id": "name-of-apk-one", "value": "AAAA"}}});
    let error = json!({"jsonrpc": "2.0", "id": "8d0b6b0e-4d6b-4f7a-9d1c-000000000001", "error": {"code": -32004, "message": "m"}});
    for (step, code) in [
        (json!({"do": "respond", "json": forged}), "actpass.invalid_response"),
        (json!({"do": "respond", "json": error}), "actpass.invalid_response"),
        (json!({"do": "respond", "json": {"decision": "allow"}}), "actpass.invalid_response"),
        (json!({"do": "respond", "body": "allow"}), "actpass.invalid_response"),
        (json!({"do": "respond", "body": "x".repeat((1 << 20) + 1)}), "actpass.invalid_response"),
        (
            json!({"do": "truncate", "body": "{\"jsonrpc\": \"2.0\"}", "missing": 5}),
            "actpass.invalid_response",
        ),
        (json!({"do": "respond", "status": 500, "json": forged}), "actpass.gateway_error"),
        (json!({"do": "respond", "status": 429, "json": forged}), "actpass.rate_limited"),
        (json!({"do": "reset", "at": "request"}), "actpass.unreachable"),
        (json!({"do": "hang", "at": "headers"}), "actpass.timeout"),
    ] {
        let gateway = responding(&step);
        let mut host = Host::start(&gateway.base_url(), Framing::Lines);
        assert_denied(&host.ask(&refund(1, 1)), code);
        assert!(host.end().success());
        let seen = gateway.seen();
        assert_eq!(seen[0].path, "/acs?transport=stdio");
        assert!(seen.iter().all(|request| !request.headers.iter().any(|(name, _)| name == "authorization")));
        let log = host.log();
        assert!(log.starts_with("actpass-hook: ") && !log.contains(SECRET), "{log}");
    }
    let mut host = Host::start("http://127.0.0.1:1", Framing::Lines);
    assert_denied(&host.ask(&refund(1, 1)), "actpass.unreachable");
    // A ping gets an error, which is not a decision.
    host.assert_error(&request("system/ping", 2, "{}"), -32603);
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_of_the_gateway_is_for_this_request_and_has_status_200() {
    let gateway = gateway().await;
    let mut host = Host::start(&gateway.url, Framing::Lines);
    let (first, second) = (refund(1, 1), refund(2, 1));
    host.send(&sign(&first));
    let answer: Value = serde_json::from_str(&host.receive().unwrap().to_string()).unwrap();
    let mut unsigned = answer.clone();
    unsigned["result"].as_object_mut().unwrap().remove("signature");
    // The gateway's own signed allow, again.
    for (request, status, answer, code) in [
        (&first, 200, &answer, None),
        (&first, 200, &unsigned, Some("actpass.invalid_response")),
        (&first, 500, &answer, Some("actpass.gateway_error")),
        (&first, 403, &answer, Some("actpass.gateway_error")),
        (&second, 200, &answer, Some("actpass.invalid_response")),
    ] {
        let replaying = responding(&json!({"do": "respond", "status": status, "json": answer}));
        let mut host = Host::start(&replaying.base_url(), Framing::Lines);
        let result = host.ask(request);
        match code {
            None => assert_eq!(text(&result, "decision"), Some("allow")),
            Some(code) => assert_denied(&result, code),
        }
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_that_stops_between_requests_is_a_signed_denial() {
    let mut gateway = gateway().await;
    let mut host = Host::start(&gateway.url, Framing::Headers);
    assert_eq!(text(&host.ask(&refund(1, 1)), "decision"), Some("allow"));
    gateway.server.take().unwrap().stop().await.unwrap();
    for number in 2..5 {
        assert_denied(&host.ask(&refund(number, 1)), "actpass.unreachable");
    }
    assert!(host.end().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_at_the_end_of_input_are_answered() {
    let gateway = gateway().await;
    let mut host = Host::start(&gateway.url, Framing::Lines);
    let requests: Vec<_> = (0..150).map(|number| refund(number, 1)).collect();
    let mut sent: Vec<_> = requests.iter().map(|request| sign(request)).collect();
    // The last line has no line feed.
    let last = sent.pop().unwrap().replace('\n', " ");
    // The host does not read before it has written all.
    let mut input = host.input.take().unwrap();
    let writing = std::thread::spawn(move || {
        for message in sent {
            input.write_all(format!("{}\n", message.replace('\n', " ")).as_bytes()).unwrap();
        }
        input.write_all(last.as_bytes()).unwrap();
    });
    let mut answered = Vec::new();
    while let Some(response) = host.receive() {
        let id = text(&response, "id").unwrap().to_owned();
        let request = requests.iter().find(|request| request.contains(&id)).unwrap();
        assert_eq!(text(&verified(request, &response), "decision"), Some("allow"), "{response}");
        answered.push(id);
    }
    writing.join().unwrap();
    answered.sort_unstable();
    answered.dedup();
    assert_eq!(answered.len(), requests.len());
    assert!(host.exit().success());
    gateway.stop().await;
}

#[test]
fn closed_output_ends_the_bridge() {
    let gateway = responding(&json!({"do": "respond", "json": {}}));
    let mut host = Host::start(&gateway.base_url(), Framing::Lines);
    drop(host.output.take());
    host.send(&sign(&refund(1, 1)));
    assert_eq!(host.exit().code(), Some(1));
}

#[test]
fn invalid_headers_end_the_bridge_after_an_error() {
    for stream in ["hello\r\n\r\n", "Content-Length: 20\r\n\r\n{}", "Content-Length: x\r\n\r\n{}"] {
        let mut host = Host::start("http://127.0.0.1:1", Framing::Headers);
        host.write(stream.as_bytes());
        drop(host.input.take());
        let response = host.receive().unwrap();
        assert_eq!(response.member("error").unwrap().member("code").unwrap().to_string(), "-32700");
        assert_eq!(host.receive(), None);
        assert_eq!(host.exit().code(), Some(1));
    }
}

#[test]
fn bridge_needs_a_secret_and_a_safe_url() {
    let folder = secret_folder();
    let secret = folder.path().join("acs.secret");
    let short = folder.path().join("short.secret");
    std::fs::write(&short, "short").unwrap();
    let missing = folder.path().join("none");
    for (arguments, secret, problem) in [
        (&["acs"][..], None, "ACS_HMAC_SECRET_FILE: missing"),
        (&["acs"], Some(&missing), "ACS_HMAC_SECRET_FILE: "),
        (&["acs"], Some(&short), "at least 32 random characters"),
        (&["acs", "--gateway", "http://example.com"], Some(&secret), "expected https"),
        (&["acs", "--gateway"], Some(&secret), "usage: "),
        (&["acs", "--other", "http://127.0.0.1:1"], Some(&secret), "usage: "),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_actpass-hook"));
        command.args(arguments).env_remove("ACS_HMAC_SECRET_FILE").stdin(Stdio::null());
        command.envs(secret.map(|file| ("ACS_HMAC_SECRET_FILE", file)));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(log.contains(problem), "{log}");
        assert!(output.stdout.is_empty());
    }
}
