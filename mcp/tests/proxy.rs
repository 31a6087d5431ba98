//! The proxy between a client, a scripted server and a gateway: the server counts the calls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use actpass_hostile_gateway::{HostileGateway, Script};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The longest wait for an event.
const LIMIT: Duration = Duration::from_secs(60);
const GOAL: &str = "resolve_refund_request";

/// A client of the proxy, or of the server itself.
struct Session {
    child: Child,
    input: Option<ChildStdin>,
    output: mpsc::Receiver<String>,
    errors: mpsc::Receiver<String>,
    folder: TempDir,
}

impl Session {
    /// Starts the scripted server behind the proxy.
    fn start(gateway: &str, options: &[&str], fault: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_actpass-mcp"));
        command.args(["proxy", "--server", "stripe", "--goal", GOAL]).args(options).arg("--");
        command.arg(env!("CARGO_BIN_EXE_actpass-mcp-test-server")).arg(folder.path().join("log"));
        if !fault.is_empty() {
            command.arg(fault);
        }
        command.env("ACTPASS_API_KEY", "apk_dev").env("ACTPASS_API_BASE_URL", gateway);
        command.env("INHERITED", "yes").env("NOT_INHERITED", "yes");
        Self::of(command, folder)
    }

    /// Starts the scripted server alone.
    fn direct() -> Self {
        let folder = TempDir::new().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_actpass-mcp-test-server"));
        command.arg(folder.path().join("log"));
        Self::of(command, folder)
    }

    fn of(mut command: Command, folder: TempDir) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = lines(child.stdout.take().unwrap());
        let errors = lines(child.stderr.take().unwrap());
        Self { input: child.stdin.take(), child, output, errors, folder }
    }

    fn send_text(&mut self, text: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        input.flush().unwrap();
    }

    fn send(&mut self, message: &Value) {
        self.send_text(&format!("{message}\n"));
    }

    fn call(&mut self, id: i64, amount: i64) {
        self.send(&call(id, amount));
    }

    fn read_text(&self) -> String {
        self.output.recv_timeout(LIMIT).unwrap()
    }

    fn read(&self) -> Value {
        serde_json::from_str(&self.read_text()).unwrap()
    }

    /// Waits for the response to a ping: everything that was sent before has been handled.
    fn ping(&mut self) -> Vec<Value> {
        self.send(&json!({"jsonrpc": "2.0", "id": "ping", "method": "ping"}));
        let mut before = Vec::new();
        loop {
            let message = self.read();
            if message["id"] == "ping" {
                return before;
            }
            before.push(message);
        }
    }

    /// The lines that the server received.
    fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The ids of the server's processes, if its fault has some.
    fn processes(&self) -> Vec<String> {
        let of =
            |line: &String| line.strip_prefix("server ").or(line.strip_prefix("child ")).map(str::to_owned);
        self.log().iter().filter_map(of).collect()
    }

    /// The calls that the server received.
    fn ran(&self) -> usize {
        self.log().iter().filter(|line| line.contains("tools/call")).count()
    }

    /// Closes the input, and returns the exit code and the remaining output.
    fn end(mut self) -> (Option<i32>, Vec<String>) {
        drop(self.input.take());
        let code = self.child.wait().unwrap().code();
        (code, self.output.iter().collect())
    }
}

/// Kills the process if a test fails.
impl Drop for Session {
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

fn call(id: i64, amount: i64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
           "params": {"name": "refunds.create", "arguments": {"amount": amount, "currency": "usd"}}})
}

fn hostile(script: Value) -> HostileGateway {
    HostileGateway::start(Script::from_json(script).unwrap()).unwrap()
}

fn allows() -> HostileGateway {
    hostile(json!({"steps": [{"do": "respond", "json": {"decision": "allow"}}]}))
}

/// Waits until the gateway has received `count` requests.
fn wait_for_requests(gateway: &HostileGateway, count: usize) {
    wait_until("the requests", || gateway.seen().len() >= count);
}

fn wait_until(event: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < LIMIT, "{event}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The text of a result with `isError`.
fn blocked(response: &Value, id: i64) -> String {
    assert_eq!(response["id"], id, "{response}");
    assert_eq!(response["result"]["isError"], true, "{response}");
    assert_eq!(response["result"]["content"][0]["type"], "text", "{response}");
    response["result"]["content"][0]["text"].as_str().unwrap().to_owned()
}

#[test]
fn allowed_call_runs_once_with_the_bytes_of_the_client() {
    let gateway = allows();
    let mut session = Session::start(&gateway.base_url(), &["--user-id", "u_7"], "");
    let text = r#"{"id": 1,"method":"tools/call", "jsonrpc":"2.0","params":{"arguments":{"amount": 49.00,"note":"é\u00e9"} ,"name":"refunds.create"}}"#;
    session.send_text(&format!("{text}\r\n"));
    assert_eq!(session.read()["result"]["content"][0]["text"], "ran");
    assert_eq!(session.log(), [text]);
    let seen = gateway.seen();
    let body: Value = serde_json::from_str(&seen[0].body).unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(body["tool"], "stripe.refunds.create");
    assert_eq!(body["goal"], GOAL);
    assert_eq!(body["user_id"], "u_7");
    assert_eq!(body["args"], json!({"amount": 49.00, "note": "éé"}));
    assert_eq!(session.end().0, Some(0));
}

#[test]
fn meta_of_the_call_names_goal_user_and_passport() {
    let gateway = allows();
    let options = ["--user-id", "u_7", "--policy-tool-prefix", "pay/"];
    let mut session = Session::start(&gateway.base_url(), &options, "");
    let mut message = call(1, 4900);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    message["params"]["_meta"] = json!({"actpass/goal": "g", "actpass/user_id": "u_8", "actpass/passport": "a.b.c", "traceparent": trace});
    session.send(&message);
    assert_eq!(session.read()["result"]["content"][0]["text"], "ran");
    let seen = gateway.seen();
    let body: Value = serde_json::from_str(&seen[0].body).unwrap();
    let members = ["tool", "goal", "user_id", "passport"].map(|name| body[name].as_str().unwrap());
    assert_eq!(members, ["pay/refunds.create", "g", "u_8", "a.b.c"]);
    assert!(seen[0].headers.contains(&("traceparent".to_owned(), trace.to_owned())));
}

#[test]
fn blocked_call_does_not_run() {
    let cases = [
        (
            json!({"steps": [{"do": "respond", "json": {"decision": "deny", "reason_code": "refund.over_limit"}}]}),
            "deny (refund.over_limit)",
        ),
        (json!({"steps": [{"do": "respond", "json": {"decision": "ALLOW"}}]}), "ALLOW"),
        (
            json!({"steps": [{"do": "respond", "json": {"decision": "require_approval", "approval_request_id": "apr_1"}}]}),
            "(approval apr_1)",
        ),
        (
            json!({"steps": [{"do": "respond", "status": 500, "body": "{\"decision\":\"allow\"}"}]}),
            "actpass.gateway_error",
        ),
        (json!({"steps": [{"do": "respond", "body": "allow"}]}), "actpass.invalid_response"),
        (json!({"listen": "refused"}), "actpass.unreachable"),
        (json!({"steps": [{"do": "reset", "at": "body"}]}), "actpass.unreachable"),
    ];
    for (script, expected) in cases {
        let gateway = hostile(script);
        let mut session = Session::start(&gateway.base_url(), &[], "");
        session.call(1, 4900);
        let response = session.read();
        let text = blocked(&response, 1);
        assert!(text.contains(expected) && text.starts_with("stripe.refunds.create was not run"), "{text}");
        assert!(response["result"].get("resultType").is_none());
        assert_eq!(session.ping(), Vec::<Value>::new());
        assert_eq!(session.ran(), 0, "{expected}");
    }
}

#[test]
fn hanging_gateway_times_out() {
    let gateway = hostile(json!({"steps": [{"do": "hang", "at": "request"}]}));
    let mut session = Session::start(&gateway.base_url(), &["--timeout", "1"], "");
    let mut message = call(1, 4900);
    message["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    session.send(&message);
    let response = session.read();
    assert!(blocked(&response, 1).contains("actpass.timeout"), "{response}");
    assert_eq!(response["result"]["resultType"], "complete");
    session.ping();
    assert_eq!(session.ran(), 0);
}

#[test]
fn cancelled_call_does_not_run_even_if_it_is_allowed_later() {
    let step = json!({"do": "respond", "json": {"decision": "allow"}, "delay_ms": 600_000});
    let gateway = hostile(json!({"steps": [step]}));
    let mut session = Session::start(&gateway.base_url(), &[], "");
    session.call(1, 4900);
    session.call(2, 4900);
    wait_for_requests(&gateway, 2);
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    session.send(&cancel);
    session.ping();
    gateway.release();
    assert_eq!(session.read()["id"], 2);
    assert_eq!(session.ping(), Vec::<Value>::new());
    let log: Vec<String> = session.log().into_iter().filter(|line| !line.contains("ping")).collect();
    assert_eq!(log, [call(2, 4900).to_string()]);
}

#[test]
fn end_of_the_client_ends_decisions_and_processes() {
    let gateway = hostile(json!({"steps": [{"do": "hang", "at": "request"}]}));
    let mut session = Session::start(&gateway.base_url(), &[], "child");
    session.call(1, 4900);
    wait_for_requests(&gateway, 1);
    session.ping();
    let child = session.log()[0].strip_prefix("child ").unwrap().to_owned();
    let log = session.folder.path().join("log");
    let folder = std::mem::replace(&mut session.folder, TempDir::new().unwrap());
    let (code, rest) = session.end();
    assert_eq!((code, rest.len()), (Some(0), 0), "{rest:?}");
    assert!(!std::fs::read_to_string(log).unwrap().contains("tools/call"));
    wait_until("the end of the server's child", || !is_running(&child));
    drop(folder);
}

#[test]
fn signal_ends_a_stuck_server_and_its_children() {
    let gateway = allows();
    let mut session = Session::start(&gateway.base_url(), &[], "stuck");
    session.call(1, 4900);
    wait_until("the call", || session.ran() == 1);
    let proxy = session.child.id();
    let processes = session.processes();
    assert!(processes.len() == 2 && processes.iter().all(|process| is_running(process)));
    assert!(Command::new("kill").args(["-TERM", &proxy.to_string()]).status().unwrap().success());
    let error = session.read();
    assert_eq!((&error["id"], &error["error"]["code"]), (&json!(1), &json!(-32603)), "{error}");
    assert_eq!(session.child.wait().unwrap().code(), Some(0));
    assert!(!is_running(&processes[0]));
    wait_until("the end of the server's child", || !is_running(&processes[1]));
}

#[test]
fn killed_proxy_leaves_no_process() {
    let gateway = allows();
    let mut session = Session::start(&gateway.base_url(), &[], "stuck");
    session.call(1, 4900);
    wait_until("the call", || session.ran() == 1);
    let mut processes = session.processes();
    assert_eq!(processes.len(), 2);
    let proxy = session.child.id().to_string();
    let children = Command::new("pgrep").args(["-P", &proxy]).output().unwrap();
    let children = String::from_utf8(children.stdout).unwrap();
    processes.extend(children.split_whitespace().map(str::to_owned));
    // The server, its child, the server again, and the process that ends them.
    assert_eq!(processes.len(), 4, "{processes:?}");
    session.child.kill().unwrap();
    session.child.wait().unwrap();
    for process in processes {
        wait_until("the end of each process", || !is_running(&process));
    }
}

fn is_running(process: &str) -> bool {
    let output = Command::new("ps").args(["-o", "stat=", "-p", process]).output().unwrap();
    let state = String::from_utf8_lossy(&output.stdout).into_owned();
    !state.trim().is_empty() && !state.trim().starts_with('Z')
}

#[test]
fn everything_else_passes_unchanged_and_in_order() {
    let gateway = allows();
    let sent = [
        json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-11-25", "capabilities": {}}}).to_string(),
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string(),
        r#"{ "method":"ping" ,"id":"é", "jsonrpc":"2.0" }"#.to_owned(),
        json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}).to_string(),
        json!({"jsonrpc": "2.0", "id": 3, "method": "tools/list", "params": {"cursor": "2"}}).to_string(),
        json!({"jsonrpc": "2.0", "id": -4, "method": "resources/read", "params": {"uri": "a:b", "unknown": [1.50, null]}}).to_string(),
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}}).to_string(),
        json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}).to_string(),
    ];
    let sampled = json!({"jsonrpc": "2.0", "id": "s-1", "result": {"text": "sampled"}}).to_string();
    let tool = json!({"jsonrpc": "2.0", "id": 5, "method": "tools/call",
                      "params": {"name": "sample", "_meta": {"progressToken": 5}}});
    let mut results = Vec::new();
    for mut session in [Session::direct(), Session::start(&gateway.base_url(), &[], "")] {
        for line in &sent {
            session.send_text(&format!("{line}\n"));
        }
        let mut received: Vec<String> = (0..5).map(|_| session.read_text()).collect();
        session.send(&tool);
        received.extend((0..2).map(|_| session.read_text()));
        session.send_text(&format!("{sampled}\n"));
        received.push(session.read_text());
        results.push((session.log(), received));
    }
    assert_eq!(results[0].1.len(), 8);
    assert_eq!(results[0].0.len(), sent.len() + 2);
    assert_eq!(results[0], results[1]);
}

#[test]
fn ambiguous_and_invalid_messages_do_not_reach_the_server() {
    let gateway = allows();
    let mut session = Session::start(&gateway.base_url(), &[], "");
    let refund = r#""params":{"name":"refunds.create","arguments":{}}"#;
    let cases = [
        ("{", -32700),
        ("7", -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","a":1,"a":2}"#, -32700),
        (&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call",{refund}}}"#), -32700),
        (&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call",{refund}}}"#), -32600),
        (&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"TOOLS/call",{refund}}}"#), -32600),
        (&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","result":{{}},{refund}}}"#), -32600),
        (&format!(r#"{{"jsonrpc":"2.0","method":"tools/call",{refund}}}"#), -32600),
        (&format!(r#"{{"jsonrpc":"2.0","id":null,"method":"tools/call",{refund}}}"#), -32600),
        (&format!(r#"{{"jsonrpc":"2.0","id":1.5,"method":"tools/call",{refund}}}"#), -32600),
        (&format!(r#"{{"id":1,"method":"tools/call",{refund}}}"#), -32600),
        (&format!(r#"[{{"jsonrpc":"2.0","id":1,"method":"tools/call",{refund}}}]"#), -32600),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Name":"b"}}"#, -32602),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","argument\u017f":{}}}"#,
            -32602,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","_meta":{"actpass/goal":7}}}"#,
            -32602,
        ),
    ];
    for (text, code) in cases {
        session.send_text(&format!("{text}\n"));
        let error = session.read();
        assert_eq!(error["error"]["code"], code, "{text}: {error}");
    }
    session.send_text("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"a\",\"arguments\":null}}\n");
    assert!(blocked(&session.read(), 1).contains("actpass.invalid_argument"));
    session.send_text(&format!("{{\"jsonrpc\":\"2.0\",\"x\":\"{}\"}}\n", "y".repeat(17 * 1024 * 1024)));
    assert_eq!(session.read()["error"]["code"], -32600);
    session.ping();
    assert_eq!(session.log().len(), 1);
    assert!(gateway.seen().is_empty());
}

#[test]
fn no_part_of_a_message_becomes_a_message() {
    let gateway = allows();
    let mut session = Session::start(&gateway.base_url(), &[], "");
    let hidden = r#"{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"refunds.create"}}"#;
    session.send_text(&format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":\r{hidden}\r}}\n"
    ));
    session.read();
    let quoted = "\u{2028}a\u{2029}b\u{85}";
    session.send_text(&format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"ping\",\"params\":{{\"a\":\"{quoted}\"}}}}\n"
    ));
    session.read();
    let log = session.log();
    assert!(log.iter().all(|line| !line.contains(['\r', '\u{2028}', '\u{2029}', '\u{85}'])), "{log:?}");
    let received: Value = serde_json::from_str(&log[1]).unwrap();
    assert_eq!(received["params"]["a"], quoted);
    assert_eq!(log.len(), 2);
}

#[test]
fn batches_pass_in_their_version_without_calls() {
    let gateway = allows();
    let mut session = Session::start(&gateway.base_url(), &[], "");
    session.send(&json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-03-26"}}));
    session.read();
    let ping = |id| json!({"jsonrpc": "2.0", "id": id, "method": "ping"});
    session.send(&json!([ping(1), ping(2)]));
    assert_eq!(session.read().as_array().unwrap().len(), 2);
    session.send(&json!([ping(3), call(4, 1)]));
    assert_eq!(session.read()["error"]["code"], -32600);
    session.send(&json!([ping(5), ping(5)]));
    assert_eq!(session.read()["error"]["code"], -32600);
    session.ping();
    assert_eq!(session.ran(), 0);
}

#[test]
fn id_in_use_is_rejected() {
    let step = json!({"do": "respond", "json": {"decision": "allow"}, "delay_ms": 600_000});
    let gateway = hostile(json!({"steps": [step]}));
    let mut session = Session::start(&gateway.base_url(), &[], "");
    session.call(1, 4900);
    session.call(1, 90_000);
    let error = session.read();
    assert_eq!((error.get("id"), &error["error"]["code"]), (None, &json!(-32600)), "{error}");
    wait_for_requests(&gateway, 1);
    gateway.release();
    assert_eq!(session.read()["id"], 1);
    session.ping();
    assert_eq!(session.ran(), 1);
}

#[test]
fn broken_server_fails_its_requests() {
    for (fault, expected) in
        [("crash", "exit status: 3"), ("garbage", "invalid message"), ("huge", "over 16777216 bytes")]
    {
        let gateway = allows();
        let mut session = Session::start(&gateway.base_url(), &[], fault);
        session.call(1, 4900);
        let error = session.read();
        assert_eq!((&error["id"], &error["error"]["code"]), (&json!(1), &json!(-32603)), "{error}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(expected) && message.ends_with("may have been processed"), "{message}");
        session.call(2, 4900);
        let error = session.read();
        assert_eq!((&error["id"], &error["error"]["code"]), (&json!(2), &json!(-32603)), "{error}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(expected) && message.ends_with("was not sent"), "{message}");
        assert_eq!(session.ran(), 1);
        assert_eq!(session.child.wait().unwrap().code(), Some(1));
        for process in session.processes() {
            wait_until("the end of the server's processes", || !is_running(&process));
        }
    }
}

#[test]
fn hanging_server_fails_the_call_in_time() {
    let gateway = allows();
    let mut session = Session::start(&gateway.base_url(), &["--response-timeout", "1"], "hang");
    session.call(1, 4900);
    let error = session.read();
    assert_eq!((&error["id"], &error["error"]["code"]), (&json!(1), &json!(-32603)), "{error}");
    session.ping();
    assert_eq!(session.ran(), 1);
    assert!(session.log()[1].contains("notifications/cancelled"));
}

#[test]
fn stray_lines_of_the_server_are_dropped() {
    for (fault, warning) in
        [("banner", "not a message"), ("unknown", "to no request"), ("twice", "to no request")]
    {
        let gateway = allows();
        let mut session = Session::start(&gateway.base_url(), &[], fault);
        session.call(1, 4900);
        let response = session.read();
        assert_eq!((&response["id"], &response["result"]["content"][0]["text"]), (&json!(1), &json!("ran")));
        assert_eq!(session.ping(), Vec::<Value>::new());
        assert_eq!(session.ran(), 1);
        let line = session.errors.recv_timeout(LIMIT).unwrap();
        assert!(line.contains(warning), "{line}");
    }
}

#[test]
fn server_gets_only_the_named_environment() {
    let gateway = allows();
    let options = ["--env", "INHERITED", "--env", "STRIPE_KEY=sk_1=2"];
    let mut session = Session::start(&gateway.base_url(), &options, "environment");
    session.ping();
    let mut names: Vec<String> =
        session.log().iter().filter_map(|line| Some(line.split_once('=')?.0.to_owned())).collect();
    names.retain(|name| !name.starts_with('{'));
    names.sort();
    assert_eq!(names, ["HOME", "INHERITED", "PATH", "STRIPE_KEY"]);
    assert!(session.log().contains(&"STRIPE_KEY=sk_1=2".to_owned()));
}

#[test]
fn invalid_options_are_rejected() {
    for (arguments, expected) in [
        (["proxy", "--server", "a b", "--", "true"].as_slice(), "ASCII letters"),
        (&["proxy", "--server", "a", "--env", "NOT_SET_HERE", "--", "true"], "NOT_SET_HERE is not set"),
        (&["proxy", "--server", "a", "--hold", "0", "--", "true"], "from 1 to 86400"),
        (&["proxy", "--server", "a"], "COMMAND"),
        (&["proxy", "--server", "a", "--", "/nonexistent/server"], "cannot start /nonexistent/server"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_actpass-mcp"));
        command.args(arguments).env("ACTPASS_API_KEY", "apk_dev").stdin(Stdio::null());
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(expected), "{arguments:?}: {text}");
    }
}

/// A program of the workspace's build, or `None` with a message. In CI a missing program fails.
fn program(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_actpass-mcp")).with_file_name(name);
    found(path, &format!("build it with: cargo build -p {name}"))
}

fn found(path: PathBuf, remedy: &str) -> Option<PathBuf> {
    if path.is_file() {
        return Some(path);
    }
    let problem = format!("{} is missing; {remedy}", path.display());
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{problem}");
    eprintln!("SKIPPED: {problem}");
    None
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

fn approval_id(text: &str) -> String {
    let (_, rest) = text.split_once("(approval ").unwrap();
    rest.split_once(')').unwrap().0.to_owned()
}

#[test]
fn told_call_runs_once_after_its_approval() {
    let Some(gateway) = Gateway::start() else { return };
    let mut session = Session::start(&gateway.url, &[], "");
    session.call(1, 25_000);
    let id = approval_id(&blocked(&session.read(), 1));
    session.call(2, 25_000);
    assert_eq!(approval_id(&blocked(&session.read(), 2)), id);
    gateway.decide("approve", &id);
    session.call(3, 26_000);
    assert_ne!(approval_id(&blocked(&session.read(), 3)), id);
    assert_eq!(session.ran(), 0);
    session.call(4, 25_000);
    assert_eq!(session.read()["result"]["content"][0]["text"], "ran");
    session.call(5, 25_000);
    assert_ne!(approval_id(&blocked(&session.read(), 5)), id);
    session.call(6, 90_000);
    assert!(blocked(&session.read(), 6).contains("refund.over_limit"));
    assert_eq!(session.ran(), 1);
}

#[test]
fn held_call_waits_for_the_approval() {
    let Some(gateway) = Gateway::start() else { return };
    for (verb, amount, ran) in [("reject", 25_000, 0), ("approve", 26_000, 1)] {
        // The same action has the same approval, so this names the one that the held call waits for.
        let mut asking = Session::start(&gateway.url, &[], "");
        asking.call(1, amount);
        let id = approval_id(&blocked(&asking.read(), 1));

        let mut session = Session::start(&gateway.url, &["--approvals", "hold", "--hold", "600"], "");
        let mut message = call(1, amount);
        message["params"]["_meta"] = json!({"progressToken": "p"});
        session.send(&message);
        let progress = session.read();
        assert_eq!(progress["method"], "notifications/progress", "{progress}");
        assert_eq!(progress["params"]["progressToken"], "p");
        assert!(progress["params"]["progress"].as_f64().unwrap() < 0.0);
        session.ping();
        assert_eq!(session.ran(), 0);
        gateway.decide(verb, &id);
        let response = loop {
            let message = session.read();
            if message["id"] == 1 {
                break message;
            }
        };
        match ran {
            0 => assert!(blocked(&response, 1).contains("approval.rejected"), "{response}"),
            _ => assert_eq!(response["result"]["content"][0]["text"], "ran", "{response}"),
        }
        assert_eq!((session.ran(), asking.ran()), (ran, 0));
    }
}

#[test]
fn cancelled_held_call_leaves_the_approval_unspent() {
    let Some(gateway) = Gateway::start() else { return };
    let mut asking = Session::start(&gateway.url, &[], "");
    asking.call(1, 25_000);
    let id = approval_id(&blocked(&asking.read(), 1));
    let mut session = Session::start(&gateway.url, &["--approvals", "hold", "--hold", "600"], "");
    let mut message = call(1, 25_000);
    message["params"]["_meta"] = json!({"progressToken": 7});
    session.send(&message);
    assert_eq!(session.read()["params"]["progressToken"], 7);
    session.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}));
    session.ping();
    gateway.decide("approve", &id);
    asking.call(2, 25_000);
    assert_eq!(asking.read()["result"]["content"][0]["text"], "ran");
    assert!(session.ping().iter().all(|message| message.get("id").is_none()));
    assert_eq!((session.ran(), asking.ran()), (0, 1));
}

#[test]
fn changed_tool_is_not_called() {
    let Some(gateway) = Gateway::start() else { return };
    let mut session = Session::start(&gateway.url, &["--pin"], "");
    session.call(1, 4900);
    assert_eq!(session.read()["error"]["code"], -32602);
    let list = |session: &mut Session| {
        session.send(&json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}));
        session.read();
        session.send(&json!({"jsonrpc": "2.0", "id": 3, "method": "tools/list", "params": {"cursor": "2"}}));
        session.read();
    };
    list(&mut session);
    session.call(4, 4900);
    assert!(blocked(&session.read(), 4).contains("tool.not_registered"));
    assert_eq!(session.ran(), 0);

    let approve = |key: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_actpass-mcp"));
        command.args(["approve", "--server", "stripe", "--lock"]).arg(session.folder.path().join("lock"));
        command.args(["--", env!("CARGO_BIN_EXE_actpass-mcp-test-server")]);
        command.arg(session.folder.path().join("approved"));
        command.env("ACTPASS_OPERATOR_KEY", key).env("ACTPASS_API_BASE_URL", &gateway.url);
        command.output().unwrap()
    };
    let refused = approve("apk_dev");
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("403") && !text.contains("apk_dev"), "{text}");
    let approved = approve("apdv_dev");
    let text = String::from_utf8_lossy(&approved.stdout).into_owned();
    assert!(approved.status.success(), "{}", String::from_utf8_lossy(&approved.stderr));
    let names: Vec<&str> = text.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["stripe.refunds.create", "stripe.sample"]);

    session.call(5, 4900);
    assert_eq!(session.read()["result"]["content"][0]["text"], "ran");
    session.send(&json!({"jsonrpc": "2.0", "id": 6, "method": "test/change"}));
    assert_eq!(session.read()["method"], "notifications/tools/list_changed");
    session.read();
    session.call(7, 4900);
    assert_eq!(session.read()["error"]["code"], -32602);
    list(&mut session);
    session.call(8, 4900);
    let text = blocked(&session.read(), 8);
    assert!(text.contains("require_tool_reapproval (tool.manifest_changed)"), "{text}");
    assert_eq!(session.ran(), 1);
}
