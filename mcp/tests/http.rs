//! The proxy over Streamable HTTP, on the client's side and on the server's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "tests"
)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use actpass_hostile_gateway::{HostileGateway, Script};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The longest wait for an event.
const LIMIT: Duration = Duration::from_secs(60);
const STATELESS: &str = "2026-07-28";

fn hostile(script: Value) -> HostileGateway {
    HostileGateway::start(Script::from_json(script).unwrap()).unwrap()
}

fn allows() -> HostileGateway {
    hostile(json!({"steps": [{"do": "respond", "json": {"decision": "allow"}}]}))
}

fn wait_until(event: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < LIMIT, "{event}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_running(process: &str) -> bool {
    let output = Command::new("ps").args(["-o", "stat=", "-p", process]).output().unwrap();
    let state = String::from_utf8_lossy(&output.stdout).into_owned();
    !state.trim().is_empty() && !state.trim().starts_with('Z')
}

/// The proxy.
struct Proxy {
    child: Child,
    input: Option<ChildStdin>,
    output: mpsc::Receiver<String>,
    folder: TempDir,
    /// `https` or `http`.
    scheme: String,
    address: String,
}

impl Proxy {
    /// Starts the proxy with `options`; over HTTP if they contain `--listen`. A server without
    /// `--upstream` is the scripted one, with `fault`.
    fn start(gateway: &str, options: &[&str], fault: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_actpass-mcp"));
        command.args(["proxy", "--server", "stripe", "--goal", "g"]).args(options);
        if !options.contains(&"--upstream") {
            command
                .arg("--")
                .arg(env!("CARGO_BIN_EXE_actpass-mcp-test-server"))
                .arg(folder.path().join("log"));
            command.args(Some(fault).filter(|fault| !fault.is_empty()));
        }
        command.env("ACTPASS_API_KEY", "apk_dev").env("ACTPASS_API_BASE_URL", gateway);
        command.env("UPSTREAM_KEY", "sk_upstream");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let output = lines(child.stdout.take().unwrap());
        let (scheme, address) = match options.contains(&"--listen") {
            false => (String::new(), String::new()),
            true => {
                let line = output.recv_timeout(LIMIT).unwrap();
                let (scheme, address) =
                    line.strip_prefix("listening on ").unwrap().split_once("://").unwrap();
                (scheme.to_owned(), address.strip_suffix("/mcp").unwrap().to_owned())
            }
        };
        Self { input: child.stdin.take(), child, output, folder, scheme, address }
    }

    fn listen(gateway: &str, options: &[&str], fault: &str) -> Self {
        Self::start(gateway, &[&["--listen", "127.0.0.1:0"], options].concat(), fault)
    }

    fn send(&mut self, message: &Value) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{message}").unwrap();
        input.flush().unwrap();
    }

    fn read(&self) -> Value {
        serde_json::from_str(&self.output.recv_timeout(LIMIT).unwrap()).unwrap()
    }

    fn post(&self, headers: &[(&str, &str)], message: &Value) -> Answer {
        self.post_text(headers, &message.to_string())
    }

    fn post_text(&self, headers: &[(&str, &str)], text: &str) -> Answer {
        Answer::of(Request::new(&self.address, "POST", "/mcp").headers(headers).send(text))
    }

    /// Opens a session, and returns its id.
    fn initialize(&self, headers: &[(&str, &str)], capabilities: &Value) -> String {
        let answer = self.post(headers, &initialize(capabilities));
        assert_eq!((answer.status, answer.messages.len()), (200, 1), "{answer:?}");
        let session = answer.header("mcp-session-id").unwrap().to_owned();
        let all = [headers, &[("mcp-session-id", session.as_str())]].concat();
        let answer = self.post(&all, &json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        assert_eq!(answer.status, 202);
        session
    }

    /// The lines that the scripted server received.
    fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn ran(&self) -> usize {
        self.log().iter().filter(|line| line.contains("tools/call")).count()
    }

    fn end(mut self) -> Option<i32> {
        drop(self.input.take());
        let pid = self.child.id().to_string();
        if !self.address.is_empty() {
            assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        }
        self.child.wait().unwrap().code()
    }
}

/// Kills the process if a test fails.
impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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

fn initialize(capabilities: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize",
           "params": {"protocolVersion": "2025-11-25", "capabilities": capabilities}})
}

fn call(id: i64, amount: i64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
           "params": {"name": "refunds.create", "arguments": {"amount": amount, "currency": "usd"}}})
}

/// A call of the version without sessions.
fn stateless(id: i64, amount: i64) -> Value {
    let mut message = call(id, amount);
    message["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": STATELESS,
                                        "io.modelcontextprotocol/clientCapabilities": {}});
    message
}

const CALL_HEADERS: [(&str, &str); 3] =
    [("mcp-protocol-version", STATELESS), ("mcp-method", "tools/call"), ("mcp-name", "refunds.create")];

/// A request over a separate connection.
struct Request {
    address: String,
    head: String,
    has_host: bool,
}

impl Request {
    fn new(address: &str, method: &str, path: &str) -> Self {
        let head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        Self { address: address.to_owned(), head, has_host: false }
    }

    fn headers(mut self, headers: &[(&str, &str)]) -> Self {
        for (name, value) in headers {
            self.has_host |= *name == "host";
            self.head.push_str(&format!("{name}: {value}\r\n"));
        }
        self
    }

    /// Sends the request, and returns the connection.
    fn send(self, body: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(self.text(body).as_bytes()).unwrap();
        BufReader::new(stream)
    }

    fn text(mut self, body: &str) -> String {
        if !self.has_host {
            self.head.push_str(&format!("host: {}\r\n", self.address));
        }
        if !self.head.contains("content-type:") && !body.is_empty() {
            self.head.push_str("content-type: application/json\r\n");
        }
        self.head.push_str("accept: application/json, text/event-stream\r\n");
        format!("{}content-length: {}\r\n\r\n{body}", self.head, body.len())
    }
}

/// The status and the headers of a response.
fn head(reader: &mut impl BufRead) -> (u16, Vec<(String, String)>) {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("{line:?}")).parse().unwrap();
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim().split_once(": ") else { return (status, headers) };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
}

/// A whole response.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
    messages: Vec<Value>,
}

impl Answer {
    fn of(mut reader: impl BufRead) -> Self {
        let (status, headers) = head(&mut reader);
        let mut body = String::new();
        reader.read_to_string(&mut body).unwrap();
        if headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked") {
            body = unchunked(&body);
        }
        let texts: Vec<&str> = match body.starts_with('{') {
            true => vec![body.as_str()],
            false => body.lines().filter_map(|line| line.strip_prefix("data: ")).collect(),
        };
        let messages = texts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
        Self { status, headers, messages, body }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|(key, value)| (key == name).then_some(value.as_str()))
    }

    fn code(&self) -> &Value {
        &self.messages[0]["error"]["code"]
    }

    fn text(&self) -> &str {
        self.messages.last().unwrap()["result"]["content"][0]["text"].as_str().unwrap()
    }
}

fn unchunked(body: &str) -> String {
    let mut out = String::new();
    let mut rest = body;
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size, 16) else { break };
        out.push_str(&after[..size.min(after.len())]);
        rest = after.get(size + 2..).unwrap_or_default();
    }
    out
}

/// A request that a scripted server over HTTP received.
#[derive(Clone, Debug)]
struct Seen {
    method: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|(key, value)| (key == name).then_some(value.as_str()))
    }

    fn message(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// A scripted MCP server over HTTP. A response is bytes, after which the connection closes.
struct Upstream {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Upstream {
    /// `answer` gets the request and the number of requests before it.
    fn start(answer: impl Fn(&Seen, usize) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let (noted, answer) = (Arc::clone(&seen), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (noted, answer) = (Arc::clone(&noted), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.unwrap());
                    let mut line = String::new();
                    if reader.read_line(&mut line).unwrap_or(0) == 0 {
                        return;
                    }
                    let method = line.split(' ').next().unwrap().to_owned();
                    let mut headers = Vec::new();
                    loop {
                        line.clear();
                        reader.read_line(&mut line).unwrap();
                        let Some((name, value)) = line.trim().split_once(": ") else { break };
                        headers.push((name.to_ascii_lowercase(), value.to_owned()));
                    }
                    let request = Seen { method, headers, body: String::new() };
                    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    let request = Seen { body: String::from_utf8(body).unwrap(), ..request };
                    let before = {
                        let mut noted = noted.lock().unwrap();
                        noted.push(request.clone());
                        noted.len() - 1
                    };
                    let _ = reader.get_mut().write_all(&answer(&request, before));
                });
            }
        });
        Self { address, seen }
    }

    fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn calls(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.body.contains("tools/call")).collect()
    }
}

fn respond(status: u16, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} x\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn respond_json(message: &Value) -> Vec<u8> {
    respond(200, "content-type: application/json\r\n", &message.to_string())
}

fn respond_events(events: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 x\r\nconnection: close\r\ncontent-type: text/event-stream\r\n\r\n{events}")
        .into_bytes()
}

/// Answers as an MCP server with a session; `on_call` answers a call.
fn scripted(on_call: impl Fn(&Seen, &Value) -> Vec<u8> + Send + Sync + 'static) -> Upstream {
    Upstream::start(move |seen, _| {
        let message = seen.message();
        let id = &message["id"];
        match (seen.method.as_str(), message["method"].as_str()) {
            ("POST", Some("initialize")) => {
                let result = json!({"protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {}},
                                    "serverInfo": {"name": "scripted", "version": "1"}});
                let body = json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string();
                respond(200, "content-type: application/json\r\nmcp-session-id: upstream-1\r\n", &body)
            }
            ("POST", Some("tools/call")) => on_call(seen, id),
            ("POST", Some(_)) if !id.is_null() => {
                respond_json(&json!({"jsonrpc": "2.0", "id": id, "result": {}}))
            }
            ("POST", _) => respond(202, "", ""),
            ("DELETE", _) => respond(200, "", ""),
            _ => respond(405, "", ""),
        }
    })
}

/// A server whose tool has parameters that requests repeat in headers.
fn scripted_with_header() -> Upstream {
    Upstream::start(|seen, _| {
        let message = seen.message();
        let properties = json!({"amount": {"type": "integer", "x-mcp-header": "Amount"},
                                "missing": {"type": "string", "x-mcp-header": "Missing"},
                                "at": {"properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}});
        let tool =
            json!({"name": "refunds.create", "inputSchema": {"type": "object", "properties": properties}});
        match message["method"].as_str() {
            Some("tools/list") => {
                respond_json(&json!({"jsonrpc": "2.0", "id": message["id"], "result": {"tools": [tool]}}))
            }
            _ => respond_json(&result(&message["id"])),
        }
    })
}

fn result(id: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": "ran"}]}})
}

#[test]
fn session_over_http_reaches_a_process() {
    let gateway = allows();
    let proxy = Proxy::listen(&gateway.base_url(), &[], "");
    let session = proxy.initialize(&[], &json!({}));
    let headers = [("mcp-session-id", session.as_str()), ("mcp-protocol-version", "2025-11-25")];
    let text = "{\"jsonrpc\": \"2.0\",\r\n \"id\": 1, \"method\":\"tools/call\",\n\"params\":{\"name\":\"refunds.create\",\"arguments\":{\"amount\": 49.00}}}";
    let answer = proxy.post_text(&headers, text);
    assert_eq!((answer.status, answer.text()), (200, "ran"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(proxy.log().last().unwrap(), &text.replace("\r\n", "  ").replace('\n', " "));

    let unknown = proxy.post(&[("mcp-session-id", "0")], &call(2, 1));
    assert_eq!(unknown.status, 404);
    assert_eq!(proxy.post(&[], &call(2, 1)).status, 400);
    let other = proxy.initialize(&[], &json!({}));
    assert_ne!(other, session);
    let ended = Answer::of(Request::new(&proxy.address, "DELETE", "/mcp").headers(&headers).send(""));
    assert_eq!(ended.status, 200);
    assert_eq!(proxy.post(&headers, &call(3, 1)).status, 404);
    assert_eq!(proxy.ran(), 1);
    assert_eq!(proxy.end(), Some(0));
}

#[test]
fn server_requests_and_progress_use_the_stream_of_the_call() {
    let gateway = allows();
    let proxy = Proxy::listen(&gateway.base_url(), &[], "");
    let session = proxy.initialize(&[], &json!({}));
    let headers = [("mcp-session-id", session.as_str())];
    let sample = json!({"jsonrpc": "2.0", "id": 5, "method": "tools/call",
                        "params": {"name": "sample", "_meta": {"progressToken": "p"}}});
    let mut stream = Request::new(&proxy.address, "POST", "/mcp").headers(&headers).send(&sample.to_string());
    let (status, found) = head(&mut stream);
    assert_eq!(status, 200);
    assert!(found.contains(&("content-type".to_owned(), "text/event-stream".to_owned())));
    assert_eq!(data(&mut stream)["method"], "notifications/progress");
    let asked = data(&mut stream);
    assert_eq!(asked["method"], "sampling/createMessage");
    let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"text": "sampled"}});
    assert_eq!(proxy.post(&headers, &answer).status, 202);
    assert_eq!(data(&mut stream)["result"]["content"][0]["text"], "sampled");
}

/// The next message of a stream.
fn data(stream: &mut impl BufRead) -> Value {
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the stream ended");
        if let Some(text) = line.strip_prefix("data: ") {
            return serde_json::from_str(text).unwrap();
        }
    }
}

#[test]
fn stream_without_a_request_gets_other_messages() {
    let gateway = allows();
    let proxy = Proxy::listen(&gateway.base_url(), &[], "");
    let session = proxy.initialize(&[], &json!({}));
    let headers = [("mcp-session-id", session.as_str())];
    // Two requests in progress, so that the notification belongs to neither.
    let mut hanging = Vec::new();
    for id in [1, 2] {
        let sample =
            json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "sample"}});
        hanging
            .push(Request::new(&proxy.address, "POST", "/mcp").headers(&headers).send(&sample.to_string()));
    }
    wait_until("the calls", || proxy.ran() == 2);
    let mut stream = Request::new(&proxy.address, "GET", "/mcp").headers(&headers).send("");
    assert_eq!(head(&mut stream).0, 200);
    let change = json!({"jsonrpc": "2.0", "id": 3, "method": "test/change"});
    let answer = proxy.post(&headers, &change);
    assert_eq!(answer.messages.last().unwrap()["id"], 3);
    loop {
        let message = data(&mut stream);
        if message["method"] == "notifications/tools/list_changed" {
            break;
        }
    }
}

#[test]
fn requests_without_a_session_reach_a_process() {
    let gateway = allows();
    let proxy = Proxy::listen(&gateway.base_url(), &[], "");
    for id in [1, 1, 2] {
        let answer = proxy.post(&CALL_HEADERS, &stateless(id, 1));
        assert_eq!((answer.status, answer.text()), (200, "ran"));
        assert_eq!(answer.header("mcp-session-id"), None);
    }
    let unknown = json!({"jsonrpc": "2.0", "id": 3, "method": "no/such",
                         "params": {"_meta": {"io.modelcontextprotocol/protocolVersion": STATELESS}}});
    let answer = proxy.post(&[("mcp-protocol-version", STATELESS), ("mcp-method", "no/such")], &unknown);
    assert_eq!((answer.status, answer.code()), (404, &json!(-32601)));
    let stream = Answer::of(
        Request::new(&proxy.address, "GET", "/mcp").headers(&[("mcp-protocol-version", STATELESS)]).send(""),
    );
    assert_eq!(stream.status, 405);
    assert_eq!(proxy.ran(), 3);
}

#[test]
fn concurrent_requests_with_one_id_get_their_own_responses() {
    let step = json!({"do": "respond", "json": {"decision": "allow"}, "delay_ms": 600_000});
    let gateway = hostile(json!({"steps": [step]}));
    let proxy = Proxy::listen(&gateway.base_url(), &[], "");
    let streams: Vec<_> = (0..4)
        .map(|amount| {
            Request::new(&proxy.address, "POST", "/mcp")
                .headers(&CALL_HEADERS)
                .send(&stateless(7, amount).to_string())
        })
        .collect();
    wait_until("the requests", || gateway.seen().len() == 4);
    gateway.release();
    for stream in streams {
        let answer = Answer::of(stream);
        assert_eq!((answer.messages[0]["id"].as_i64(), answer.text()), (Some(7), "ran"));
    }
    assert_eq!(proxy.ran(), 4);
}

#[test]
fn headers_must_repeat_the_message() {
    let gateway = allows();
    let proxy = Proxy::listen(&gateway.base_url(), &[], "");
    let [version, method, name] = CALL_HEADERS;
    let cases: [&[(&str, &str)]; 7] = [
        &[version, method],
        &[version, name],
        &[method, name],
        &[version, method, ("mcp-name", "refunds.list")],
        &[version, ("mcp-method", "tools/list"), name],
        &[("mcp-protocol-version", "2026-07-29"), method, name],
        &[version, method, ("mcp-name", "=?base64?%?=")],
    ];
    for headers in cases {
        let answer = proxy.post(headers, &stateless(1, 1));
        assert_eq!((answer.status, answer.code()), (400, &json!(-32020)), "{headers:?}");
    }
    assert_eq!(proxy.post(&[version, method, name, name], &stateless(1, 1)).status, 400);
    let session = proxy.initialize(&[], &json!({}));
    let other = [("mcp-session-id", session.as_str()), ("mcp-name", "refunds.list")];
    assert_eq!(proxy.post(&other, &call(1, 1)).code(), &json!(-32020));
    let encoded =
        format!("=?base64?{}?=", base64::engine::general_purpose::STANDARD.encode("refunds.create"));
    let answer = proxy.post(&[version, method, ("mcp-name", &encoded)], &stateless(1, 1));
    assert_eq!(answer.text(), "ran");
    assert_eq!(proxy.ran(), 1);
}

#[test]
fn invalid_requests_are_rejected() {
    let gateway = allows();
    let proxy = Proxy::listen(&gateway.base_url(), &[], "");
    let session = proxy.initialize(&[], &json!({}));
    let session = ("mcp-session-id", session.as_str());
    let text = call(1, 1).to_string();
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, u16);
    let cases: [Case<'_>; 12] = [
        (&[session, ("host", "evil.example")], &text, 403),
        (&[session, ("host", "127.0.0.1:1")], &text, 403),
        (&[session, ("origin", "http://evil.example")], &text, 403),
        (&[session, ("origin", "null")], &text, 403),
        (&[session, ("content-type", "text/plain")], &text, 415),
        (&[session], "{", 400),
        (&[session], "[]", 400),
        (&[session], &format!("[{text}]"), 400),
        (&[session], &text.replace("\"id\":1", "\"id\":1,\"id\":2"), 400),
        (&[session], &text.replace("\"method\"", "\"Method\""), 400),
        (&[session], &text.replace("\"id\":1,", ""), 400),
        (&[session, session], &text, 400),
    ];
    for (headers, text, status) in cases {
        let answer = proxy.post_text(headers, text);
        assert_eq!(answer.status, status, "{headers:?} {text}: {answer:?}");
    }
    let put = Answer::of(Request::new(&proxy.address, "PUT", "/mcp").send(""));
    assert_eq!((put.status, put.header("allow")), (405, Some("POST, GET, DELETE")));
    let elsewhere = Answer::of(Request::new(&proxy.address, "POST", "/other").send(&text));
    assert_eq!(elsewhere.status, 404);
    assert_eq!(proxy.ran(), 0);

    let options = ["--allow-origin", "http://app.example", "--allow-host", "proxy.example"];
    let proxy = Proxy::listen(&gateway.base_url(), &options, "");
    let allowed = [("origin", "http://app.example"), ("host", "proxy.example")];
    proxy.initialize(&allowed, &json!({}));
}

#[test]
fn closed_response_cancels_the_decision_and_the_request() {
    let step = json!({"do": "respond", "json": {"decision": "allow"}, "delay_ms": 600_000});
    let gateway = hostile(json!({"steps": [step]}));
    let proxy = Proxy::listen(&gateway.base_url(), &[], "");
    let session = proxy.initialize(&[], &json!({}));
    let headers = [("mcp-session-id", session.as_str())];
    let stream = Request::new(&proxy.address, "POST", "/mcp").headers(&headers).send(&call(1, 1).to_string());
    wait_until("the request", || gateway.seen().len() == 1);
    // The id is in use until the decision has ended.
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    assert_eq!(proxy.post(&headers, &ping).code(), &json!(-32600));
    drop(stream);
    wait_until("the end of the decision", || proxy.post(&headers, &ping).messages[0].get("result").is_some());
    gateway.release();
    assert_eq!(proxy.post(&headers, &ping).messages[0]["id"], 1);
    assert_eq!(proxy.ran(), 0);

    let gateway = allows();
    let proxy = Proxy::listen(&gateway.base_url(), &[], "hang");
    let stream = Request::new(&proxy.address, "POST", "/mcp")
        .headers(&CALL_HEADERS)
        .send(&stateless(1, 1).to_string());
    wait_until("the call", || proxy.ran() == 1);
    drop(stream);
    wait_until("the cancellation", || {
        proxy.log().iter().any(|line| line.contains("notifications/cancelled"))
    });
}

#[test]
fn dead_process_is_reported_and_restarted() {
    let gateway = allows();
    let proxy = Proxy::listen(&gateway.base_url(), &[], "crash");
    let session = proxy.initialize(&[], &json!({}));
    let headers = [("mcp-session-id", session.as_str())];
    let answer = proxy.post(&headers, &call(1, 1));
    assert_eq!(answer.code(), &json!(-32603), "{answer:?}");
    assert!(answer.body.contains("exit status: 3") && answer.body.contains("may have been processed"));
    wait_until("the end of the session", || proxy.post(&headers, &call(2, 1)).status == 404);
    assert_eq!(proxy.ran(), 1);
    for id in [1, 2] {
        let answer = proxy.post(&CALL_HEADERS, &stateless(id, 1));
        assert_eq!(answer.code(), &json!(-32603), "{answer:?}");
    }
    assert_eq!(proxy.ran(), 3);
}

#[test]
fn end_of_the_proxy_leaves_no_process() {
    let gateway = allows();
    let proxy = Proxy::listen(&gateway.base_url(), &[], "child");
    proxy.initialize(&[], &json!({}));
    assert_eq!(proxy.post(&CALL_HEADERS, &stateless(1, 1)).text(), "ran");
    let children: Vec<String> =
        proxy.log().iter().filter_map(|line| line.strip_prefix("child ").map(str::to_owned)).collect();
    assert_eq!(children.len(), 2);
    assert!(children.iter().all(|child| is_running(child)));
    assert_eq!(proxy.end(), Some(0));
    for child in children {
        wait_until("the end of the server's child", || !is_running(&child));
    }
}

#[test]
fn stdio_client_reaches_a_server_over_http() {
    let gateway = allows();
    let upstream = scripted(|_, id| {
        let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}});
        respond_events(&format!(
            ": hi\n\nid: 1\ndata:\n\nevent: message\ndata: {progress}\n\ndata: {}\n\n",
            result(id)
        ))
    });
    let options =
        ["--upstream", &upstream.url(), "--upstream-header", "authorization=UPSTREAM_KEY", "--user-id", "u"];
    let mut proxy = Proxy::start(&gateway.base_url(), &options, "");
    proxy.send(&initialize(&json!({})));
    assert_eq!(proxy.read()["result"]["protocolVersion"], "2025-11-25");
    proxy.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    proxy.send(&call(1, 4900));
    assert_eq!(proxy.read()["method"], "notifications/progress");
    assert_eq!(proxy.read(), result(&json!(1)));
    let calls = upstream.calls();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].body.trim_end(), call(1, 4900).to_string());
    for (name, value) in [
        ("mcp-session-id", "upstream-1"),
        ("mcp-protocol-version", "2025-11-25"),
        ("authorization", "sk_upstream"),
        ("accept", "application/json, text/event-stream"),
    ] {
        assert_eq!(calls[0].header(name), Some(value));
    }
    assert_eq!(upstream.seen()[0].header("mcp-session-id"), None);
    wait_until("the stream", || upstream.seen().iter().any(|seen| seen.method == "GET"));
    let seen = Arc::clone(&upstream.seen);
    assert_eq!(proxy.end(), Some(0));
    assert_eq!(seen.lock().unwrap().last().unwrap().method, "DELETE");
}

#[test]
fn request_without_a_session_repeats_its_message_in_headers() {
    let gateway = allows();
    let upstream = scripted(|_, id| respond_json(&result(id)));
    let mut proxy = Proxy::start(&gateway.base_url(), &["--upstream", &upstream.url()], "");
    proxy.send(&stateless(1, 1));
    assert_eq!(proxy.read(), result(&json!(1)));
    let seen = &upstream.calls()[0];
    for (name, value) in CALL_HEADERS {
        assert_eq!(seen.header(name), Some(value));
    }

    let repeated = scripted_with_header();
    let mut proxy = Proxy::start(&gateway.base_url(), &["--upstream", &repeated.url()], "");
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list",
                      "params": {"_meta": {"io.modelcontextprotocol/protocolVersion": STATELESS}}});
    proxy.send(&list);
    proxy.read();
    let mut message = stateless(2, 7);
    message["params"]["arguments"]["at"] = json!({"region": "é"});
    proxy.send(&message);
    proxy.read();
    let seen = &repeated.calls()[0];
    let parameters = ["amount", "region", "missing"].map(|name| seen.header(&format!("mcp-param-{name}")));
    assert_eq!(parameters, [Some("7"), Some("=?base64?w6k=?="), None]);

    let proxy = Proxy::listen(&gateway.base_url(), &["--upstream", &upstream.url()], "");
    let headers =
        [&CALL_HEADERS[..], &[("mcp-param-region", "eu"), ("authorization", "Bearer client")]].concat();
    assert_eq!(proxy.post(&headers, &stateless(1, 1)).text(), "ran");
    let seen = &upstream.calls()[1];
    assert_eq!((seen.header("mcp-param-region"), seen.header("authorization")), (Some("eu"), None));
    assert_eq!((seen.header("mcp-name"), seen.header("mcp-session-id")), (Some("refunds.create"), None));
}

#[test]
fn broken_server_over_http_fails_its_request_once() {
    type Fault = (&'static str, fn(&Value) -> Vec<u8>, &'static str);
    let cases: [Fault; 10] = [
        ("no response", |_| Vec::new(), "unreachable"),
        (
            "redirect",
            |_| respond(307, "location: http://127.0.0.1:1/mcp\r\n", ""),
            "redirects are not followed",
        ),
        ("status", |_| respond(500, "", "oops"), "500"),
        (
            "garbage",
            |_| respond(200, "content-type: application/json\r\n", "{\"jsonrpc\": "),
            "invalid message",
        ),
        ("no JSON", |_| respond(200, "content-type: text/html\r\n", "<html>"), "content type"),
        ("another id", |_| respond_json(&result(&json!(99))), "another request"),
        (
            "cut",
            |_| respond_events("data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\n\ndata: {\"js"),
            "before the response",
        ),
        (
            "cut JSON",
            |_| b"HTTP/1.1 200 x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{".to_vec(),
            "before the end",
        ),
        (
            "huge",
            |_| respond(200, "content-type: application/json\r\n", &format!("\"{}\"", "y".repeat(17 << 20))),
            "over 16777216 bytes",
        ),
        ("huge event", |_| respond_events(&format!("data: {}", "y".repeat(17 << 20))), "over 16777216 bytes"),
    ];
    let gateway = allows();
    for (name, fault, expected) in cases {
        let upstream = scripted(move |_, id| fault(id));
        let mut proxy = Proxy::start(&gateway.base_url(), &["--upstream", &upstream.url()], "");
        proxy.send(&initialize(&json!({})));
        proxy.read();
        proxy.send(&call(1, 1));
        let mut error = proxy.read();
        while error.get("id").is_none() {
            error = proxy.read();
        }
        assert_eq!((&error["id"], &error["error"]["code"]), (&json!(1), &json!(-32603)), "{name}: {error}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(expected), "{name}: {message}");
        proxy.send(&json!({"jsonrpc": "2.0", "id": "ping", "method": "ping"}));
        assert_eq!(proxy.read()["id"], "ping", "{name}");
        assert_eq!(upstream.calls().len(), 1, "{name}");
    }
}

#[test]
fn errors_of_the_server_pass_with_their_status() {
    let gateway = allows();
    let upstream = scripted(|_, _| {
        respond(
            400,
            "content-type: application/json\r\n",
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32021,"message":"m","data":{"a":1}}}"#,
        )
    });
    let proxy = Proxy::listen(&gateway.base_url(), &["--upstream", &upstream.url()], "");
    let answer = proxy.post(&CALL_HEADERS, &stateless(1, 1));
    assert_eq!(answer.status, 400);
    assert_eq!(
        answer.messages[0],
        json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32021, "message": "m", "data": {"a": 1}}})
    );
    let upstream = scripted(|_, _| respond(401, "www-authenticate: Bearer\r\n", ""));
    let proxy = Proxy::listen(&gateway.base_url(), &["--upstream", &upstream.url()], "");
    let answer = proxy.post(&CALL_HEADERS, &stateless(1, 1));
    assert_eq!((answer.status, answer.header("www-authenticate")), (502, None));
}

#[test]
fn unreachable_server_receives_nothing() {
    let gateway = allows();
    let mut proxy = Proxy::start(&gateway.base_url(), &["--upstream", "http://127.0.0.1:1/mcp"], "");
    proxy.send(&stateless(1, 1));
    let error = proxy.read();
    assert!(error["error"]["message"].as_str().unwrap().ends_with("was not sent"), "{error}");
}

#[test]
fn cut_stream_is_resumed_after_its_last_event() {
    let gateway = allows();
    let upstream = Upstream::start(|seen, _| {
        let message = seen.message();
        match (seen.method.as_str(), seen.header("last-event-id")) {
            ("POST", _) if message["method"] == "tools/call" => respond_events(
                "id: 7-1\nretry: 10\ndata:\n\nid: 7-2\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\n\n",
            ),
            ("POST", _) if message["id"].is_null() => respond(202, "", ""),
            ("POST", _) => respond_json(
                &json!({"jsonrpc": "2.0", "id": message["id"], "result": {"protocolVersion": "2025-11-25"}}),
            ),
            ("GET", Some("7-2")) => respond_events(&format!("id: 7-3\ndata: {}\n\n", result(&json!(1)))),
            _ => respond(405, "", ""),
        }
    });
    let mut proxy = Proxy::start(&gateway.base_url(), &["--upstream", &upstream.url()], "");
    proxy.send(&initialize(&json!({})));
    proxy.read();
    proxy.send(&call(1, 1));
    assert_eq!(proxy.read()["method"], "notifications/x");
    assert_eq!(proxy.read(), result(&json!(1)));
    assert_eq!(upstream.calls().len(), 1);

    // Over HTTP the events keep their ids, and the client resumes.
    let proxy = Proxy::listen(&gateway.base_url(), &["--upstream", &upstream.url()], "");
    let session = proxy.initialize(&[], &json!({}));
    let headers = [("mcp-session-id", session.as_str())];
    let answer = proxy.post(&headers, &call(1, 1));
    assert!(answer.body.contains("id: 7-1\nretry: 10\n") && answer.body.contains("id: 7-2\n"), "{answer:?}");
    assert_eq!(answer.text(), "ran");
    let listening = Answer::of(Request::new(&proxy.address, "GET", "/mcp").headers(&headers).send(""));
    assert_eq!(listening.status, 405);
}

#[test]
fn client_resumes_the_stream_of_the_server() {
    let gateway = allows();
    let stop = Arc::new(AtomicUsize::new(0));
    let stopped = Arc::clone(&stop);
    let upstream = Upstream::start(move |seen, _| {
        let message = seen.message();
        match (seen.method.as_str(), seen.header("last-event-id")) {
            ("POST", _) if message["method"] == "tools/call" => {
                wait_until("the client's end", || stopped.load(Ordering::SeqCst) == 1);
                Vec::new()
            }
            ("POST", _) if message["id"].is_null() => respond(202, "", ""),
            ("POST", _) => respond_json(
                &json!({"jsonrpc": "2.0", "id": message["id"], "result": {"protocolVersion": "2025-11-25"}}),
            ),
            ("GET", Some("7-2")) => respond_events(&format!("id: 7-3\ndata: {}\n\n", result(&json!(1)))),
            _ => respond(405, "", ""),
        }
    });
    let proxy = Proxy::listen(&gateway.base_url(), &["--upstream", &upstream.url()], "");
    let session = proxy.initialize(&[], &json!({}));
    let headers = [("mcp-session-id", session.as_str())];
    let stream = Request::new(&proxy.address, "POST", "/mcp").headers(&headers).send(&call(1, 1).to_string());
    wait_until("the call", || upstream.calls().len() == 1);
    drop(stream);
    let resumed = [headers[0], ("last-event-id", "7-2")];
    let answer = Answer::of(Request::new(&proxy.address, "GET", "/mcp").headers(&resumed).send(""));
    stop.store(1, Ordering::SeqCst);
    assert_eq!((answer.status, answer.text()), (200, "ran"));
    assert_eq!(upstream.calls().len(), 1);
}

#[test]
fn server_that_is_the_proxy_itself_is_detected() {
    let gateway = allows();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (listen, url) = (format!("127.0.0.1:{port}"), format!("http://127.0.0.1:{port}/mcp"));
    let proxy = Proxy::start(&gateway.base_url(), &["--listen", &listen, "--upstream", &url], "");
    let answer = proxy.post(&CALL_HEADERS, &stateless(1, 1));
    assert!(answer.body.contains("passed through this proxy before") || answer.status == 502, "{answer:?}");
    assert_eq!(gateway.seen().len(), 1);
}

#[test]
fn carriers_replace_meta_that_was_stripped() {
    let gateway = allows();
    let proxy = Proxy::listen(&gateway.base_url(), &["--require-user", "--reserved-argument"], "");
    let body = |at: usize| -> Value { serde_json::from_str(&gateway.seen()[at].body).unwrap() };
    let none = proxy.post(&CALL_HEADERS, &stateless(1, 1));
    assert!(none.text().contains("deny (actpass.user_missing)"), "{none:?}");
    assert_eq!((proxy.ran(), gateway.seen().len()), (0, 0));

    let carried =
        [("actpass-user-id", "u_1"), ("actpass-goal", "=?base64?w6k=?="), ("actpass-passport", "a.b.c")];
    let answer = proxy.post(&[&CALL_HEADERS[..], &carried].concat(), &stateless(2, 1));
    assert_eq!(answer.text(), "ran");
    let found = body(0);
    assert_eq!(
        ["user_id", "goal", "passport"].map(|name| found[name].as_str().unwrap()),
        ["u_1", "é", "a.b.c"]
    );

    let mut message = stateless(3, 1);
    message["params"]["arguments"] =
        json!({"a": 1, "_actpass": {"user_id": "u_2", "passport": "d.e.f"}, "b": 2.50});
    assert_eq!(proxy.post(&CALL_HEADERS, &message).text(), "ran");
    let found = body(1);
    assert_eq!((&found["user_id"], &found["passport"]), (&json!("u_2"), &json!("d.e.f")));
    assert_eq!(found["args"], json!({"a": 1, "b": 2.5}));
    let last: Value = serde_json::from_str(proxy.log().last().unwrap()).unwrap();
    assert_eq!(last["params"]["arguments"], json!({"a": 1, "b": 2.5}));

    message["params"]["_meta"]["actpass/user_id"] = json!("u_3");
    let conflict = proxy.post(&CALL_HEADERS, &message);
    assert_eq!(conflict.code(), &json!(-32602));
    message["params"]["arguments"]["_actpass"] = json!({"users": "u_3"});
    assert_eq!(proxy.post(&CALL_HEADERS, &message).code(), &json!(-32602));
    assert_eq!(proxy.ran(), 2);
}

/// An authorization server with one key.
struct Issuer {
    key: Ed25519KeyPair,
    folder: TempDir,
}

impl Issuer {
    fn new() -> Self {
        let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let folder = TempDir::new().unwrap();
        let x = URL_SAFE_NO_PAD.encode(key.public_key());
        let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "1"}, {"kty": "oct"}]});
        std::fs::write(folder.path().join("jwks.json"), set.to_string()).unwrap();
        Self { key, folder }
    }

    fn jwks(&self) -> PathBuf {
        self.folder.path().join("jwks.json")
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(self.key.sign(signed.as_bytes())))
    }
}

#[test]
fn access_tokens_are_for_this_resource() {
    let (gateway, issuer) = (allows(), Issuer::new());
    let upstream = scripted(|_, id| respond_json(&result(id)));
    let (jwks, url) = (issuer.jwks(), upstream.url());
    let options = [
        "--upstream",
        &url,
        "--resource",
        "https://mcp.example/pay",
        "--authorization-server",
        "https://as.example",
        "--jwks",
        jwks.to_str().unwrap(),
        "--scope",
        "tools",
        "--user-from-token",
    ];
    let proxy = Proxy::listen(&gateway.base_url(), &options, "");
    let metadata_url = "https://mcp.example/.well-known/oauth-protected-resource/pay";
    for path in ["/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/pay"] {
        let metadata = Answer::of(Request::new(&proxy.address, "GET", path).send(""));
        let expected = json!({"resource": "https://mcp.example/pay", "authorization_servers": ["https://as.example"],
                              "scopes_supported": ["tools"], "bearer_methods_supported": ["header"]});
        assert_eq!((metadata.status, &metadata.messages[0]), (200, &expected));
    }
    let far = 4_000_000_000_u64;
    let header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "1"});
    let claims = json!({"iss": "https://as.example", "aud": ["x", "https://mcp.example/pay"], "sub": "alice", "exp": far, "scope": "a tools"});
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        issuer.token(&header, &claims)
    };
    let good = issuer.token(&header, &claims);
    let mut forged = good.clone();
    forged.replace_range(good.len() - 4.., "AAAA");
    let none = URL_SAFE_NO_PAD.encode(json!({"alg": "none"}).to_string());
    let refused = [
        (String::new(), 401, ""),
        ("Bearer x".to_owned(), 401, "invalid_token"),
        (format!("Basic {good}"), 401, "invalid_token"),
        (format!("Bearer {forged}"), 401, "signature"),
        (format!("Bearer {none}.{}", good.split_once('.').unwrap().1), 401, "signature"),
        (format!("Bearer {}", issuer.token(&json!({"alg": "RS256", "kid": "1"}), &claims)), 401, "signature"),
        (format!("Bearer {}", with("aud", json!("https://other.example/pay"))), 401, "audience"),
        (format!("Bearer {}", with("aud", json!(["https://mcp.example"]))), 401, "audience"),
        (format!("Bearer {}", with("iss", json!("https://evil.example"))), 401, "authorization server"),
        (format!("Bearer {}", with("exp", json!(1))), 401, "expired"),
        (format!("Bearer {}", with("exp", json!("4000000000"))), 401, "expired"),
        (format!("Bearer {}", with("nbf", json!(far))), 401, "not yet valid"),
        (format!("Bearer {}", with("sub", json!(""))), 401, "subject"),
        (format!("Bearer {}", with("scope", json!("a toolsx"))), 403, "insufficient_scope"),
    ];
    for (authorization, status, expected) in refused {
        let headers = match authorization.as_str() {
            "" => CALL_HEADERS.to_vec(),
            value => [&CALL_HEADERS[..], &[("authorization", value)]].concat(),
        };
        let answer = proxy.post(&headers, &stateless(1, 1));
        let challenge = answer.header("www-authenticate").unwrap();
        assert_eq!(answer.status, status, "{expected}: {answer:?}");
        assert!(challenge.contains(&format!("resource_metadata=\"{metadata_url}\"")), "{challenge}");
        assert!(
            challenge.contains(expected) && challenge.contains("scope=\"tools\""),
            "{expected}: {challenge}"
        );
    }
    assert!(gateway.seen().is_empty() && upstream.seen().is_empty());

    let bearer = format!("Bearer {good}");
    let headers = [&CALL_HEADERS[..], &[("authorization", bearer.as_str())]].concat();
    assert_eq!(proxy.post(&headers, &stateless(1, 1)).text(), "ran");
    let body: Value = serde_json::from_str(&gateway.seen()[0].body).unwrap();
    assert_eq!(body["user_id"], "alice");
    assert!(upstream.seen().iter().all(|seen| seen.header("authorization").is_none()));
    let other = [&headers[..], &[("actpass-user-id", "bob")]].concat();
    assert_eq!(proxy.post(&other, &stateless(2, 1)).status, 400);

    // The access token is not a passport.
    let strict = Proxy::listen(&gateway.base_url(), &[&options[..], &["--require-passport"]].concat(), "");
    let answer = strict.post(&headers, &stateless(1, 1));
    assert!(answer.text().contains("(passport.missing)"), "{answer:?}");

    // A session belongs to its client.
    let session = proxy.initialize(&[("authorization", &bearer)], &json!({}));
    let bob = format!("Bearer {}", with("sub", json!("bob")));
    let stolen = proxy.post(&[("authorization", &bob), ("mcp-session-id", &session)], &call(3, 1));
    assert_eq!(stolen.status, 404);
    let own = proxy.post(&[("authorization", &bearer), ("mcp-session-id", &session)], &call(3, 1));
    assert_eq!(own.text(), "ran");
}

/// A key, and its certificate for `localhost`, in PEM and DER.
fn certificate(folder: &TempDir, name: &str) -> (String, String, CertificateDer<'static>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let write = |kind: &str, text: String| {
        let path = folder.path().join(format!("{name}.{kind}"));
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    (write("crt", certificate.pem()), write("key", key.serialize_pem()), certificate.der().clone())
}

/// Sends a request over TLS; an error if the certificate is not `trusted`.
fn send_https(request: Request, trusted: CertificateDer<'static>, body: &str) -> io::Result<Answer> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let client = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    let stream = TcpStream::connect(&request.address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut stream = StreamOwned::new(client, stream);
    stream.write_all(request.text(body).as_bytes())?;
    Ok(Answer::of(BufReader::new(stream)))
}

#[test]
fn https_is_served_with_the_certificate() {
    let (gateway, folder) = (allows(), TempDir::new().unwrap());
    let (chain, key, trusted) = certificate(&folder, "a");
    let (_, other_key, other) = certificate(&folder, "b");
    let proxy = Proxy::listen(&gateway.base_url(), &["--tls-certificate", &chain, "--tls-key", &key], "");
    assert_eq!(proxy.scheme, "https");
    let port = proxy.address.rsplit(':').next().unwrap();
    let host = format!("localhost:{port}");
    let headers = [&CALL_HEADERS[..], &[("host", host.as_str())]].concat();
    let request = || Request::new(&proxy.address, "POST", "/mcp").headers(&headers);
    let body = stateless(1, 1).to_string();
    assert_eq!(send_https(request(), trusted, &body).unwrap().text(), "ran");
    send_https(request(), other, &body).unwrap_err();
    let mut plain = request().send(&body);
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    assert_eq!(proxy.ran(), 1);

    for (chain, key, expected) in [
        (chain.as_str(), other_key.as_str(), "not usable with --tls-certificate"),
        (chain.as_str(), chain.as_str(), "expected a private key in PEM"),
        (key.as_str(), key.as_str(), "expected a certificate in PEM"),
        ("/nonexistent.crt", key.as_str(), "/nonexistent.crt"),
        (chain.as_str(), "/nonexistent.key", "/nonexistent.key"),
    ] {
        let (code, text) =
            refused(&["--listen", "127.0.0.1:0", "--tls-certificate", chain, "--tls-key", key]);
        assert!(code == Some(1) && text.contains(expected), "{expected}: {text}");
    }
}

/// The exit code and the errors of a proxy that does not start.
fn refused(options: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_actpass-mcp"));
    command.args(["proxy", "--server", "a"]).args(options);
    if !options.contains(&"--upstream") {
        command.args(["--", "true"]);
    }
    command.env("ACTPASS_API_KEY", "apk_dev").stdin(Stdio::null());
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn unsafe_options_are_rejected() {
    for (options, expected) in [
        (["--listen", "0.0.0.0:0"].as_slice(), "--danger-unauthenticated"),
        (&["--listen", "0.0.0.0:0", "--danger-unauthenticated"], "--danger-serve-plain-http"),
        (
            &["--listen", "0.0.0.0:0", "--danger-unauthenticated", "--danger-plain-http"],
            "--danger-serve-plain-http",
        ),
        (&["--listen", "127.0.0.1:0", "--tls-certificate", "/nonexistent"], "--tls-key"),
        (&["--listen", "127.0.0.1:0", "--tls-key", "/nonexistent"], "--tls-certificate"),
        (&["--tls-certificate", "/nonexistent", "--tls-key", "/nonexistent"], "--listen"),
        (&["--upstream", "http://mcp.example/mcp"], "expected https"),
        (&["--upstream", "ftp://127.0.0.1/"], "expected https"),
        (&["--upstream", "https://a:b@mcp.example/mcp"], "user information"),
        (
            &["--upstream", "https://mcp.example", "--upstream-header", "a=NOT_SET_HERE"],
            "NOT_SET_HERE is not set",
        ),
        (&["--upstream", "https://mcp.example", "--upstream-token-file", "/nonexistent"], "/nonexistent"),
        (&["--upstream", "https://mcp.example", "--ca", "/nonexistent"], "/nonexistent"),
        (&["--state-key-file", "/nonexistent"], "/nonexistent"),
        (&["--path", "/x"], "--listen"),
        (&["--listen", "127.0.0.1:0", "--resource", "https://a.example"], "--authorization-server"),
    ] {
        let (code, text) = refused(options);
        assert!(code != Some(0) && text.contains(expected), "{options:?}: {text}");
    }
}
