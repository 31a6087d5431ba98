//! The gateway as a process: one line in, one line out.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Client, End, address, open};

#[test]
fn starts_serves_and_stops() {
    let mut process = Process::start();
    let started = process.tell(&json!({"start": {"steps": [
        {"do": "respond", "body": "hi"}, {"do": "redirect"},
    ]}}));
    assert_eq!(started["id"], 1);
    assert_eq!(started["ca_pem"], Value::Null);
    assert_eq!(members(&started), ["base_url", "ca_pem", "id"]);
    let url = started["base_url"].as_str().unwrap();

    let mut client = Client::new(open(address(url)));
    client.get("/a");
    assert_eq!(client.answer().text(), "hi");
    client.get("/b");
    let answer = client.answer();
    let other = answer.header("location").unwrap().split('/').nth(2).unwrap();
    let mut other = Client::new(open(other));
    other.get("/c");
    other.answer();

    let seen = process.tell(&json!({"seen": 1}));
    assert_eq!(members(&seen), ["other_seen", "seen"]);
    assert_eq!(
        seen["seen"][0],
        json!({"connection": 1, "method": "GET", "path": "/a", "headers": [["host", "gateway"]], "body": ""})
    );
    assert_eq!(seen["seen"][1]["path"], "/b");
    assert_eq!(seen["other_seen"][0]["path"], "/c");

    assert_eq!(process.tell(&json!({"stop": 1})), json!({"stopped": 1}));
    assert_eq!(client.rest(), (Vec::new(), End::Fin));
    let err = TcpStream::connect(address(url)).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ConnectionRefused);
    assert_error(&process.tell(&json!({"stop": 1})), "stop: no gateway with the id 1");
    assert_error(&process.tell(&json!({"seen": 1})), "seen: no gateway with the id 1");
}

#[test]
fn gateways_run_concurrently() {
    let mut process = Process::start();
    let one = process.tell(&json!({"start": {}}));
    let two = process.tell(&json!({"start": {"tls": "trusted"}}));
    assert_eq!((&one["id"], &two["id"]), (&json!(1), &json!(2)));
    assert!(two["base_url"].as_str().unwrap().starts_with("https://127.0.0.1:"));
    let pem = two["ca_pem"].as_str().unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(process.tell(&json!({"stop": 1})), json!({"stopped": 1}));
    assert_eq!(process.tell(&json!({"seen": 2})), json!({"seen": [], "other_seen": []}));
    assert_eq!(process.tell(&json!({"start": {}}))["id"], 3);
}

#[test]
fn invalid_command_reports_error_and_continues() {
    let mut process = Process::start();
    for (line, message) in [
        ("", "line: "),
        ("nonsense", "line: "),
        ("[]", "line: invalid type"),
        ("{}", "line: must have exactly one member, one of `close`, `release`, `seen`, `start`, `stop`"),
        (r#"{"seen": 1, "stop": 1}"#, "line: must have exactly one member"),
        (r#"{"restart": 1}"#, "restart: unknown command"),
        (r#"{"seen": "1"}"#, "seen: no gateway with the id \"1\""),
        (r#"{"stop": -1}"#, "stop: no gateway with the id -1"),
        (r#"{"start": 5}"#, "start: "),
        (r#"{"start": {"step": []}}"#, "start: step: unknown field `step`"),
        (
            r#"{"start": {"steps": [{"do": "hang", "at": "end"}]}}"#,
            "start: steps[0]: at: unknown variant `end`",
        ),
        (r#"{"start": {"steps": [{"do": "respond", "status": 5}]}}"#, "start: steps[0].status: 5"),
    ] {
        assert_error(&process.tell_line(line.as_bytes()), message);
    }
    assert_error(&process.tell_line(b"\xff"), "line: ");
    assert_eq!(process.tell(&json!({"start": {}}))["id"], 1);
}

#[test]
fn end_of_input_stops_everything() {
    let mut process = Process::start();
    let mut hanging = Vec::new();
    for at in ["request", "body"] {
        let started = process.tell(&json!({"start": {"steps": [{"do": "hang", "at": at}]}}));
        let mut client = Client::new(open(address(started["base_url"].as_str().unwrap())));
        client.get("/");
        hanging.push(client);
    }
    process.input = None;
    let closed = Instant::now();
    let status = loop {
        if let Some(status) = process.child.try_wait().unwrap() {
            break status;
        }
        assert!(closed.elapsed() < Duration::from_secs(5), "still running");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success());
    for mut client in hanging {
        assert_ne!(client.rest().1, End::NotYet);
    }
}

struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_actpass-hostile-gateway"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self { input: child.stdin.take(), output: BufReader::new(child.stdout.take().unwrap()), child }
    }

    fn tell(&mut self, command: &Value) -> Value {
        self.tell_line(command.to_string().as_bytes())
    }

    fn tell_line(&mut self, line: &[u8]) -> Value {
        let input = self.input.as_mut().unwrap();
        input.write_all(&[line, b"\n"].concat()).unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.input = None;
        self.child.wait().unwrap();
    }
}

fn members(value: &Value) -> Vec<&str> {
    let members = value.as_object().unwrap();
    let mut names: Vec<_> = members.keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

fn assert_error(answer: &Value, message: &str) {
    assert_eq!(members(answer), ["error"]);
    let error = answer["error"].as_str().unwrap();
    assert!(error.starts_with(message), "{error}");
}
