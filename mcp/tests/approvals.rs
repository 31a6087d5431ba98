//! Approvals in MCP's own way, with the real gateway. The transcripts are those of the documentation.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "tests"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

/// The longest wait for an event.
const LIMIT: Duration = Duration::from_secs(60);

/// A program of the workspace's build, or `None` with a message. In CI a missing program fails.
fn program(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_actpass-mcp")).with_file_name(name);
    if path.is_file() {
        return Some(path);
    }
    let problem = format!("{} is missing; build it with: cargo build -p {name}", path.display());
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{problem}");
    eprintln!("SKIPPED: {problem}");
    None
}

fn lines(stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The real gateway with the refund policy.
struct Gateway {
    child: Child,
    url: String,
    _folder: TempDir,
}

impl Gateway {
    fn start() -> Option<Self> {
        let program = program("actpass-gateway")?;
        let folder = TempDir::new().unwrap();
        let mut command = Command::new(program);
        command.args(["dev", "--listen", "127.0.0.1:0"]).current_dir(folder.path());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let line = lines(child.stdout.take().unwrap()).recv_timeout(LIMIT).unwrap();
        let url = line.strip_prefix("listening on ").unwrap().to_owned();
        Some(Self { child, url, _folder: folder })
    }

    /// Decides an approval as an operator.
    fn decide(&self, verb: &str, id: &str) {
        let mut stream = TcpStream::connect(self.url.strip_prefix("http://").unwrap()).unwrap();
        let host = "host: 127.0.0.1\r\nauthorization: Bearer apdv_dev\r\nconnection: close";
        let content = "content-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        write!(stream, "POST /api/v1/approvals/{id}/{verb} HTTP/1.1\r\n{host}\r\n{content}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client of the proxy, which notes the messages.
struct Session {
    child: Child,
    input: Option<ChildStdin>,
    output: mpsc::Receiver<String>,
    folder: TempDir,
    transcript: Vec<String>,
}

impl Session {
    fn start(gateway: &Gateway, options: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_actpass-mcp"));
        command
            .args(["proxy", "--server", "stripe", "--goal", "resolve_refund_request"])
            .args(options)
            .arg("--");
        command.arg(env!("CARGO_BIN_EXE_actpass-mcp-test-server")).arg(folder.path().join("log"));
        command.env("ACTPASS_API_KEY", "apk_dev").env("ACTPASS_API_BASE_URL", &gateway.url);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let output = lines(child.stdout.take().unwrap());
        Self { input: child.stdin.take(), child, output, folder, transcript: Vec::new() }
    }

    fn send(&mut self, message: &Value) {
        self.transcript.push(format!("→ {message}"));
        self.send_unnoted(message);
    }

    fn send_unnoted(&mut self, message: &Value) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{message}").unwrap();
        input.flush().unwrap();
    }

    fn read(&mut self) -> Value {
        let text = self.output.recv_timeout(LIMIT).unwrap();
        self.transcript.push(format!("← {text}"));
        serde_json::from_str(&text).unwrap()
    }

    /// The next message that is no progress.
    fn read_response(&mut self) -> Value {
        loop {
            let message = self.read();
            if message["method"] != "notifications/progress" {
                return message;
            }
            self.transcript.pop();
        }
    }

    fn note(&mut self, text: &str) {
        self.transcript.push(format!("  ({text})"));
    }

    /// Connects with the capability of elicitation by URL.
    fn initialize(&mut self, version: &str, capabilities: &Value) {
        let params = json!({"protocolVersion": version, "capabilities": capabilities});
        self.send_unnoted(&json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}));
        self.output.recv_timeout(LIMIT).unwrap();
        self.send_unnoted(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    }

    fn ran(&self) -> usize {
        let text = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        text.lines().filter(|line| line.contains("tools/call")).count()
    }

    /// The last call that the server received.
    fn received(&self) -> Value {
        let text = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
        serde_json::from_str(text.lines().rfind(|line| line.contains("tools/call")).unwrap()).unwrap()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn call(id: i64, amount: i64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
           "params": {"name": "refunds.create", "arguments": {"amount": amount, "currency": "usd"}}})
}

fn stateless(id: i64, amount: i64, capabilities: &Value) -> Value {
    let mut message = call(id, amount);
    message["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                                        "io.modelcontextprotocol/clientCapabilities": capabilities});
    message
}

fn by_url() -> Value {
    json!({"elicitation": {"url": {}}})
}

fn text(response: &Value) -> &str {
    response["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{response}"))
}

fn id_in_url(params: &Value) -> String {
    params["url"].as_str().unwrap().rsplit_once('/').unwrap().1.to_owned()
}

/// Compares a transcript with that of the documentation, in which ids, ports and state have fixed
/// values. ACTPASS_WRITE_TRANSCRIPTS=1 writes it.
fn documented(name: &str, gateway: &Gateway, transcript: &[String], replaced: &[(&str, &str)]) {
    let mut text = transcript.join("\n").replace(&gateway.url, "https://gateway.example");
    for (from, to) in replaced {
        text = text.replace(from, to);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/how-to/mcp-approvals.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let start = format!("<!-- transcript: {name} -->\n\n```text\n");
    let (before, rest) = page.split_once(&start).unwrap_or_else(|| panic!("no transcript {name}"));
    let (found, after) = rest.split_once("\n```").unwrap();
    if std::env::var("ACTPASS_WRITE_TRANSCRIPTS").is_ok() {
        std::fs::write(&path, format!("{before}{start}{text}\n```{after}")).unwrap();
        return;
    }
    assert_eq!(found, text, "run this test with ACTPASS_WRITE_TRANSCRIPTS=1");
}

#[test]
fn elicitation_leads_to_the_page_and_the_call_runs_once() {
    let Some(gateway) = Gateway::start() else { return };
    let mut session = Session::start(&gateway, &[]);
    session.initialize("2025-11-25", &by_url());
    session.send(&call(1, 25_000));
    let asked = session.read();
    assert_eq!((&asked["method"], &asked["params"]["mode"]), (&json!("elicitation/create"), &json!("url")));
    let (approval, elicitation) = (id_in_url(&asked["params"]), asked["params"]["elicitationId"].clone());
    session.send(&json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept"}}));
    assert_eq!(session.ran(), 0);
    session.note("the person approves on the page");
    gateway.decide("approve", &approval);
    let complete = session.read();
    assert_eq!(complete["method"], "notifications/elicitation/complete");
    assert_eq!(complete["params"]["elicitationId"], elicitation);
    assert_eq!(text(&session.read()), "ran");
    assert_eq!(session.ran(), 1);
    let replaced = [(approval.as_str(), "apr_1"), (elicitation.as_str().unwrap(), "actpass-5d41-1")];
    documented("elicitation", &gateway, &session.transcript, &replaced);

    for (answer, expected) in [
        (json!({"result": {"action": "decline"}}), "the person declined"),
        (json!({"result": {"action": "cancel"}}), "did not open"),
        (json!({"error": {"code": -32602, "message": "no"}}), "did not open"),
    ] {
        session.send(&call(2, 26_000));
        let asked = session.read();
        let mut response = json!({"jsonrpc": "2.0", "id": asked["id"]});
        response.as_object_mut().unwrap().extend(answer.as_object().unwrap().clone());
        session.send(&response);
        let blocked = session.read();
        assert_eq!((&blocked["id"], &blocked["result"]["isError"]), (&json!(2), &json!(true)));
        assert!(text(&blocked).contains(expected), "{blocked}");
        // The response to an elicitation of the proxy never reaches the server.
        session.send(&response);
    }
    session.send(&json!({"jsonrpc": "2.0", "id": 3, "method": "ping"}));
    assert_eq!(session.read()["id"], 3);
    let log = std::fs::read_to_string(session.folder.path().join("log")).unwrap();
    assert!(!log.contains("action") && !log.contains("no\""), "{log}");
    assert_eq!(session.ran(), 1);
}

#[test]
fn approval_without_an_answer_to_the_elicitation_runs_the_call() {
    let Some(gateway) = Gateway::start() else { return };
    let mut session = Session::start(&gateway, &[]);
    session.initialize("2025-11-25", &by_url());
    session.send(&call(1, 25_000));
    let asked = session.read();
    gateway.decide("reject", &id_in_url(&asked["params"]));
    assert_eq!(session.read()["method"], "notifications/elicitation/complete");
    assert!(text(&session.read()).contains("approval.rejected"));
    session.send(&call(2, 26_000));
    let asked = session.read();
    session.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}}));
    assert_eq!(session.read()["method"], "notifications/elicitation/complete");
    gateway.decide("approve", &id_in_url(&asked["params"]));
    session.send(&json!({"jsonrpc": "2.0", "id": 3, "method": "ping"}));
    assert_eq!(session.read()["id"], 3);
    assert_eq!(session.ran(), 0);
}

#[test]
fn input_required_result_requests_the_call_again() {
    let Some(gateway) = Gateway::start() else { return };
    let mut session = Session::start(&gateway, &[]);
    session.send(&stateless(1, 25_000, &by_url()));
    let asked = session.read();
    assert_eq!(asked["result"]["resultType"], "input_required");
    let elicited = &asked["result"]["inputRequests"]["actpass_approval"];
    assert_eq!(
        (&elicited["method"], &elicited["params"]["mode"]),
        (&json!("elicitation/create"), &json!("url"))
    );
    let approval = id_in_url(&elicited["params"]);
    let state = asked["result"]["requestState"].as_str().unwrap().to_owned();
    session.note("the person approves on the page");
    gateway.decide("approve", &approval);
    let retry = |id: i64, amount: i64, state: &str, action: &str| {
        let mut message = stateless(id, amount, &by_url());
        message["params"]["requestState"] = json!(state);
        message["params"]["inputResponses"] = json!({"actpass_approval": {"action": action}});
        message
    };
    let noted = session.transcript.len();
    let other = retry(2, 25_001, &state, "accept");
    session.send(&other);
    let refused = session.read();
    assert_eq!(refused["error"]["code"], -32602);
    assert!(refused["error"]["message"].as_str().unwrap().contains("another call"));
    let last = if state.ends_with('A') { "B" } else { "A" };
    session.send(&retry(3, 25_000, &format!("{}{last}", &state[..state.len() - 1]), "accept"));
    assert!(session.read()["error"]["message"].as_str().unwrap().contains("not issued"));
    session.transcript.truncate(noted);

    session.send(&retry(4, 25_000, &state, "accept"));
    assert_eq!(text(&session.read()), "ran");
    let received = session.received();
    assert_eq!(
        (received["params"].get("requestState"), received["params"].get("inputResponses")),
        (None, None)
    );
    let replaced = [(approval.as_str(), "apr_1"), (state.as_str(), "actpass1.stripe.NT0x…")];
    documented("input-required", &gateway, &session.transcript, &replaced);

    session.send(&retry(5, 25_000, &state, "accept"));
    assert!(session.read()["error"]["message"].as_str().unwrap().contains("used before"));
    assert_eq!(session.ran(), 1);

    session.send(&stateless(6, 26_000, &by_url()));
    let state = session.read()["result"]["requestState"].as_str().unwrap().to_owned();
    session.send(&retry(7, 26_000, &state, "decline"));
    assert!(text(&session.read()).contains("the person declined"));
    assert_eq!(session.ran(), 1);
}

#[test]
fn state_of_the_server_survives_the_approval() {
    let Some(gateway) = Gateway::start() else { return };
    let mut session = Session::start(&gateway, &[]);
    let mut message = stateless(1, 25_000, &by_url());
    message["params"]["requestState"] = json!("of the server");
    message["params"]["inputResponses"] = json!({"name": {"action": "accept", "content": {"a": 1.50}}});
    session.send(&message);
    let asked = session.read();
    let params = &asked["result"]["inputRequests"]["actpass_approval"]["params"];
    gateway.decide("approve", &id_in_url(params));
    let mut retry = stateless(2, 25_000, &by_url());
    retry["params"]["requestState"] = asked["result"]["requestState"].clone();
    retry["params"]["inputResponses"] = json!({"actpass_approval": {"action": "accept"}});
    session.send(&retry);
    assert_eq!(text(&session.read()), "ran");
    let received = session.received();
    for name in ["requestState", "inputResponses"] {
        assert_eq!(received["params"][name], message["params"][name]);
    }
}

#[test]
fn held_call_reports_progress_and_runs_once() {
    let Some(gateway) = Gateway::start() else { return };
    // The same action has the same approval.
    let mut asking = Session::start(&gateway, &[]);
    asking.send(&call(1, 25_000));
    let told = asking.read();
    let approval = text(&told).split_once("(approval ").unwrap().1.split_once(')').unwrap().0.to_owned();

    let mut session = Session::start(&gateway, &[]);
    let mut message = call(1, 25_000);
    message["params"]["_meta"] = json!({"progressToken": "p"});
    session.send(&message);
    let progress = session.read();
    assert_eq!(
        (&progress["method"], &progress["params"]["progressToken"]),
        (&json!("notifications/progress"), &json!("p"))
    );
    assert_eq!(session.ran(), 0);
    session.note("the person approves on the page");
    gateway.decide("approve", &approval);
    assert_eq!(text(&session.read_response()), "ran");
    assert_eq!(session.ran(), 1);
    documented("hold", &gateway, &session.transcript, &[]);
}

#[test]
fn hold_ends_at_its_limit_and_tells() {
    let Some(gateway) = Gateway::start() else { return };
    let mut session = Session::start(&gateway, &["--approvals", "hold", "--hold", "1"]);
    session.send(&call(1, 25_000));
    let told = session.read();
    assert!(text(&told).contains("(approval "), "{told}");
    assert_eq!(session.ran(), 0);
}

#[test]
fn told_call_is_found_by_its_action() {
    let Some(gateway) = Gateway::start() else { return };
    let mut session = Session::start(&gateway, &[]);
    session.send(&call(1, 25_000));
    let told = session.read();
    let approval = text(&told).split_once("(approval ").unwrap().1.split_once(')').unwrap().0.to_owned();
    session.note("the person approves on the page");
    gateway.decide("approve", &approval);
    session.send(&call(2, 25_000));
    assert_eq!(text(&session.read()), "ran");
    documented("tell", &gateway, &session.transcript, &[(approval.as_str(), "apr_1")]);
    session.send(&call(3, 25_000));
    assert!(text(&session.read()).contains("require_approval"));
    assert_eq!(session.ran(), 1);

    // Elicitation by form only, an earlier version, and --approvals tell: the model reads that it waits.
    let mut form = Session::start(&gateway, &[]);
    form.initialize("2025-11-25", &json!({"elicitation": {}}));
    form.send(&call(1, 27_000));
    assert!(text(&form.read()).contains("require_approval"));
    let mut earlier = Session::start(&gateway, &[]);
    earlier.initialize("2025-06-18", &by_url());
    earlier.send(&call(1, 27_000));
    assert!(text(&earlier.read()).contains("require_approval"));
    let mut tell = Session::start(&gateway, &["--approvals", "tell"]);
    tell.send(&stateless(1, 27_000, &by_url()));
    assert!(text(&tell.read()).contains("require_approval"));
    assert_eq!(form.ran() + earlier.ran() + tell.ran(), 0);
}
