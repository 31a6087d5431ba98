//! A gateway, given arbitrary bytes: it responds, never fails internally, and allows only actions
//! that its policy allows.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use actpass_core::Json;
use actpass_gateway::auth::ApiKeyHash;
use actpass_gateway::config::{MasterKeySource, Settings};
use actpass_gateway::seal::MasterKey;
use actpass_gateway::server::Server;
use serde_json::Value;
use tempfile::TempDir;

const KEYS: [&str; 3] = ["apk_fuzz", "apdv_fuzz", "apk_nobody"];
const PATHS: [&str; 14] = [
    "POST /api/v1/actions/preflight",
    "POST /api/v1/actions/preflight",
    "POST /api/v1/actions/preflight",
    "POST /api/v1/evidence/events",
    "POST /api/v1/passports/issue",
    "POST /api/v1/passports/verify",
    "POST /api/v1/passports/revoke",
    "POST /api/v1/tools",
    "GET /api/v1/evidence/chains/decisions/verify",
    "GET /api/v1/approvals?",
    "POST /api/v1/approvals/apr_1/approve",
    "GET /api/v1/evidence/chains/",
    "GET /.well-known/jwks.json",
    "DELETE /api/v1/",
];

/// If the first byte is 255, the rest is written to the connection. Otherwise the first byte
/// selects the route, the second the API key, and the rest is the body or, for routes without one,
/// the end of the path.
pub(crate) fn run(data: &[u8]) {
    let Some((&route, rest)) = data.split_first() else { return };
    if route == 255 {
        for answer in answers(&exchange(rest, Then::Hangup)) {
            check(&answer);
        }
        return;
    }
    let Some((&who, rest)) = rest.split_first() else { return };
    let line = PATHS[usize::from(route) % PATHS.len()];
    let key = KEYS[usize::from(who) % KEYS.len()];
    let (path, body) = match line.starts_with("POST") {
        true => (line.to_owned(), rest),
        false => (format!("{line}{}", escaped(rest)), &b""[..]),
    };
    let mut request = format!(
        "{path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    let found = answers(&exchange(&request, Then::Wait));
    let [answer] = found.as_slice() else { panic!("{} answers to one request: {path}", found.len()) };
    check(answer);

    let decision = answer.json.as_ref().and_then(|json| json["decision"].as_str());
    if key == "apk_nobody" && line.contains("/api/v1/") && line != "DELETE /api/v1/" {
        // 429: an address may send invalid keys at a limited rate.
        assert!(matches!(answer.status, 401 | 404 | 405 | 429), "{path}: {} without a key", answer.status);
    }
    if line.contains("preflight") && answer.status == 200 && decision == Some("allow") {
        // An independent check of dev.json.
        let body: Value = serde_json::from_slice(body).expect("an allowed request is JSON");
        let amount = body["args"]["amount"].as_f64();
        assert!(
            body["mode"] == "monitor" || amount.is_some_and(|amount| amount > 0.0 && amount <= 10_000.0),
            "allowed: {body}"
        );
        assert!(
            body["tool"].as_str().is_some_and(|tool| tool.to_lowercase().contains("refund")),
            "allowed: {body}"
        );
    }
    if line.contains("verify") && line.starts_with("GET") && rest.is_empty() && answer.status == 200 {
        assert_eq!(
            answer.json.as_ref().map(|json| &json["valid"]),
            Some(&Value::Bool(true)),
            "the ledger is broken"
        );
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let preflight = r#"{"agent_id":"a","goal":"resolve_refund_request","tool":"stripe.refund.create","resource":"stripe:charge:ch_1","args":{"amount":4900,"currency":"usd"},"user_id":null,"passport":null,"mode":"enforce","idempotency_key":null,"audience":null}"#;
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for (old, new) in [
        ("4900", "4900"),
        ("4900", "20000"),
        ("4900", "1e999"),
        ("4900", r#""4900""#),
        ("enforce", "warn"),
        ("enforce", "monitor"),
        ("enforce", "strict"),
        (r#""idempotency_key":null"#, r#""idempotency_key":"k""#),
        (r#""passport":null"#, r#""passport":"a.b.c""#),
        ("null}", r#"null,"approval_request_id":"apr_1","tool_manifest_hash":"00"}"#),
    ] {
        seeds.push([&[0, 0], preflight.replace(old, new).as_bytes()].concat());
    }
    for (route, who, body) in [
        (
            3,
            0,
            r#"{"event_type":"x","chain_id":"c","tool_id":"t","decision":"allow","reason_code":"r","metadata":{"n":1.5},"request_hash":null,"response_hash":null}"#,
        ),
        (
            4,
            0,
            r#"{"audience":"mcp://x","agent_id":"a","goal":"g","allowed_tools":["t"],"allowed_resources":[],"resource_constraints":{"max_amount":1},"user_id":null,"risk_tier":"low","ttl_seconds":60}"#,
        ),
        (5, 0, r#"{"token":"a.b.c","audience":"mcp://x","agent_id":"a","user_id":null}"#),
        (6, 0, r#"{"jti":"ap_1","reason":"x"}"#),
        (7, 1, r#"{"tool_id":"t","manifest":{"name":"t","description":"d"}}"#),
        (8, 0, ""),
        (9, 1, "status=pending"),
        (10, 1, r#"{"note":"n"}"#),
        (11, 0, "c"),
        (12, 0, ""),
        (13, 2, "x"),
        (0, 2, "{}"),
    ] {
        seeds.push([&[route, who], body.as_bytes()].concat());
    }
    for raw in [
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
        format!("POST /api/v1/actions/preflight HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer apk_fuzz\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{preflight}", preflight.len()),
        "POST /api/v1/actions/preflight HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer apk_fuzz\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ] {
        seeds.push([&[255], raw.as_bytes()].concat());
    }
    seeds
}

struct Answer {
    status: u16,
    json: Option<Value>,
}

/// Invariants of every response.
fn check(answer: &Answer) {
    assert!((100..600).contains(&answer.status), "the status is {}", answer.status);
    assert!(!matches!(answer.status, 500 | 503), "it failed inside: {:?}", answer.json);
}

struct Gateway {
    address: SocketAddr,
    _folder: TempDir,
    _server: Server,
    _runtime: tokio::runtime::Runtime,
}

static GATEWAY: LazyLock<Gateway> = LazyLock::new(|| {
    // In memory if possible: the disk is not under test.
    let folder = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/dev.json");
    let mut text = format!(
        "listen = \"127.0.0.1:0\"\ndata = \"data.db\"\n[[tenants]]\nid = \"fuzz\"\npolicy = \"{}\"\n",
        policy.display()
    );
    for (key, role) in [(KEYS[0], "agent"), (KEYS[1], "operator")] {
        let hash = ApiKeyHash::of(key);
        text += &format!(
            "[[keys]]\nname = \"{role}\"\nhash = \"{hash}\"\ntenant = \"fuzz\"\nrole = \"{role}\"\n"
        );
    }
    let mut settings = Settings::parse(&text, folder.path()).unwrap_or_else(|problems| panic!("{problems}"));
    settings.master_key = MasterKeySource::Given(MasterKey::generate().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(Server::start(settings)).unwrap();
    let address = server.url().trim_start_matches("http://").parse().unwrap();
    Gateway { address, _folder: folder, _server: server, _runtime: runtime }
});

/// The step after the written bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Close, while a response may be in progress.
    Hangup,
    /// Wait until the gateway closes the connection.
    Wait,
}

/// Returns all bytes that the gateway sends in response.
fn exchange(bytes: &[u8], then: Then) -> Vec<u8> {
    let mut stream = TcpStream::connect(GATEWAY.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The gateway may respond and close before everything is written.
    let _ = stream.write_all(bytes);
    if then == Then::Hangup {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answered = Vec::new();
    match stream.read_to_end(&mut answered) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the gateway does not come to an end: {error}"),
    }
    answered
}

/// Parses the HTTP/1.1 responses in `bytes`; other bytes yield none.
fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut found = Vec::new();
    while bytes.starts_with(b"HTTP/1.") {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { break };
        let head = str::from_utf8(&bytes[..end]).expect("headers are text").to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let rest = &bytes[end + 4..];
        let length = length.map_or(0, |length| length.parse::<usize>().unwrap()).min(rest.len());
        let (body, after) = rest.split_at(length);
        if head.contains("application/json") && length > 0 {
            Json::parse(body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(body)));
        }
        found.push(Answer { status, json: serde_json::from_slice(body).ok() });
        bytes = after;
    }
    found
}

/// Percent-encodes arbitrary bytes as the end of a path.
fn escaped(bytes: &[u8]) -> String {
    let shown = |byte: &u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' | b'?' | b'=' | b'&' | b'%' => {
            char::from(*byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    bytes.iter().map(shown).collect()
}
