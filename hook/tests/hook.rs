//! The program as hosts start it: a call on standard input, an answer on standard output.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::io::Write;
use std::process::{Command, Output, Stdio};

use actpass_hostile_gateway::{HostileGateway, Script};
use serde_json::{Value, json};

const HOSTS: [&str; 3] = ["claude-code", "codex", "cursor"];

/// Responds to every request with `step`.
fn responding(step: &Value) -> HostileGateway {
    HostileGateway::start(Script::from_json(json!({"steps": [step]})).unwrap()).unwrap()
}

fn allowing() -> HostileGateway {
    responding(&json!({"do": "respond", "json": {"decision": "allow"}}))
}

fn run(arguments: &[&str], url: &str, input: &[u8]) -> Output {
    finish(&mut hook(arguments, url), input)
}

fn hook(arguments: &[&str], url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_actpass-hook"));
    command.args(arguments).env("ACTPASS_API_KEY", "apk_hook_secret").env("ACTPASS_API_BASE_URL", url);
    command
}

fn finish(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut hook = command.spawn().unwrap();
    // The program may refuse its arguments without reading.
    let _ = hook.stdin.take().unwrap().write_all(input);
    hook.wait_with_output().unwrap()
}

fn call(host: &str) -> Value {
    match host {
        "cursor" => {
            json!({"hook_event_name": "preToolUse", "tool_name": "Shell", "tool_input": {"command": "ls"}})
        }
        _ => {
            json!({"session_id": "s", "hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_use_id": "t",
            "tool_input": {"command": "ls"}, "cwd": "/", "permission_mode": "default"})
        }
    }
}

/// Returns the decision and its reason in the host's form, which must have no other member.
#[track_caller]
fn answered(host: &str, output: &Output) -> (String, Option<String>) {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 1);
    assert!(!String::from_utf8_lossy(&output.stdout).contains("secret"), "{answer}");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (decision, reason, names) = match host {
        "cursor" => (
            &answer["permission"],
            &answer["agent_message"],
            vec!["agent_message", "permission", "user_message"],
        ),
        _ => {
            assert_eq!(answer.as_object().unwrap().len(), 1);
            let output = &answer["hookSpecificOutput"];
            assert_eq!(output["hookEventName"], "PreToolUse");
            let names = vec!["hookEventName", "permissionDecision", "permissionDecisionReason"];
            (&output["permissionDecision"], &output["permissionDecisionReason"], names)
        }
    };
    let object = if host == "cursor" { &answer } else { &answer["hookSpecificOutput"] };
    assert!(object.as_object().unwrap().keys().all(|name| names.contains(&&**name)), "{answer}");
    (text(decision).unwrap(), text(reason))
}

#[track_caller]
fn assert_denied(host: &str, output: &Output, word: &str) {
    let (decision, reason) = answered(host, output);
    assert_eq!(decision, "deny", "{host}");
    let reason = reason.unwrap();
    assert!(reason.starts_with("ActPass: ") && reason.contains(word), "{host}: {reason}");
}

#[test]
fn allow_is_the_only_permission() {
    for host in HOSTS {
        let input = call(host).to_string();
        let gateway = allowing();
        let output = run(&[host], &gateway.base_url(), input.as_bytes());
        assert_eq!(answered(host, &output), ("allow".to_owned(), None));
        let seen = gateway.seen();
        let body: Value = serde_json::from_str(&seen[0].body).unwrap();
        assert_eq!(body["tool"], call(host)["tool_name"]);
        assert_eq!(body["args"], json!({"command": "ls"}));
        assert_eq!(body["mode"], "enforce");
        for decision in ["deny", "require_approval", "require_tool_reapproval", "warn", "Allow", "allow "] {
            let answer = json!({"decision": decision, "reason_code": "r", "approval_request_id": "apr_1"});
            let gateway = responding(&json!({"do": "respond", "json": answer}));
            assert_denied(host, &run(&[host], &gateway.base_url(), input.as_bytes()), "");
        }
    }
}

#[test]
fn failures_of_the_gateway_deny_in_the_form_of_the_host() {
    for host in HOSTS {
        let input = call(host).to_string();
        assert_denied(host, &run(&[host], "http://127.0.0.1:1", input.as_bytes()), "");
        for url in ["not a url", "http://example.com", "ftp://127.0.0.1"] {
            assert_denied(host, &run(&[host], url, input.as_bytes()), "");
        }
        for step in [
            json!({"do": "respond", "status": 500, "json": {"decision": "allow"}}),
            json!({"do": "respond", "status": 401, "json": {"decision": "allow"}}),
            json!({"do": "respond", "json": {"decision": "allow", "replayed": true}}),
            json!({"do": "respond", "body": "{\"decision\": \"deny\", \"decision\": \"allow\"}"}),
            json!({"do": "respond", "body": "allow"}),
        ] {
            let gateway = responding(&step);
            assert_denied(host, &run(&[host], &gateway.base_url(), input.as_bytes()), "");
        }
    }
}

#[test]
fn invalid_calls_deny_without_a_request() {
    let gateway = allowing();
    let url = gateway.base_url();
    for host in HOSTS {
        let valid = call(host);
        let name = valid["hook_event_name"].as_str().unwrap();
        let changed = |member: &str, value: Value| {
            let mut call = valid.clone();
            call[member] = value;
            call.to_string()
        };
        for (input, word) in [
            (String::new(), "not JSON"),
            ("[]".to_owned(), "hook_event_name"),
            (format!("{{\"hook_event_name\": \"{name}\", \"hook_event_name\": \"{name}\"}}"), "not JSON"),
            (changed("hook_event_name", json!("PostToolUse")), "hook_event_name"),
            (changed("hook_event_name", Value::Null), "hook_event_name"),
            (changed("tool_name", json!("")), "tool_name"),
            (changed("tool_name", json!(7)), "tool_name"),
            (changed("tool_input", json!("ls")), "tool_input"),
            (changed("tool_input", json!([])), "tool_input"),
            (changed("padding", json!("x".repeat(1 << 20))), "larger than"),
        ] {
            assert_denied(host, &run(&[host], &url, input.as_bytes()), word);
        }
    }
    assert!(gateway.seen().is_empty());
}

#[test]
fn cursor_has_separate_events() {
    for (input, tool, args) in [
        (
            json!({"hook_event_name": "beforeShellExecution", "command": "ls", "cwd": "/tmp"}),
            "Shell",
            json!({"command": "ls", "cwd": "/tmp"}),
        ),
        (
            json!({"hook_event_name": "beforeMCPExecution", "tool_name": "create", "tool_input": "{\"a\": 1}"}),
            "create",
            json!({"a": 1}),
        ),
    ] {
        let gateway = allowing();
        let output = run(&["cursor"], &gateway.base_url(), input.to_string().as_bytes());
        assert_eq!(answered("cursor", &output).0, "allow");
        let body: Value = serde_json::from_str(&gateway.seen()[0].body).unwrap();
        assert_eq!((&body["tool"], &body["args"]), (&json!(tool), &args));
    }
    let gateway = allowing();
    let input = json!({"hook_event_name": "beforeMCPExecution", "tool_name": "t", "tool_input": "[]"});
    assert_denied(
        "cursor",
        &run(&["cursor"], &gateway.base_url(), input.to_string().as_bytes()),
        "tool_input",
    );
    assert!(gateway.seen().is_empty());
}

#[test]
fn unknown_hosts_exit_with_the_code_of_a_denial() {
    for arguments in [&[][..], &["other"], &["claude-code", "more"]] {
        let output = run(arguments, "http://127.0.0.1:1", call("codex").to_string().as_bytes());
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
}

#[test]
fn missing_key_denies() {
    let output = Command::new(env!("CARGO_BIN_EXE_actpass-hook"))
        .arg("claude-code")
        .env_remove("ACTPASS_API_KEY")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .and_then(|mut hook| {
            hook.stdin.take().unwrap().write_all(call("claude-code").to_string().as_bytes())?;
            hook.wait_with_output()
        })
        .unwrap();
    assert_denied("claude-code", &output, "ACTPASS_API_KEY");
}

#[test]
fn decision_has_a_proof_of_the_key_in_the_file() {
    // RFC 8037, appendix A.
    let pem = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
        -----END PRIVATE KEY-----\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dpop.pem");
    std::fs::write(&path, pem).unwrap();
    let script = json!({
        "dpop": {"api_key": "apk_hook_secret", "jkt": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"},
        "steps": [{"do": "respond", "json": {"decision": "allow"}}],
    });
    let gateway = HostileGateway::start(Script::from_json(script).unwrap()).unwrap();
    let mut command = hook(&["codex"], &gateway.base_url());
    let proven = finish(command.env("ACTPASS_DPOP_KEY_FILE", &path), call("codex").to_string().as_bytes());
    assert_eq!(answered("codex", &proven).0, "allow");
    let unproven = run(&["codex"], &gateway.base_url(), call("codex").to_string().as_bytes());
    assert_denied("codex", &unproven, "actpass.unauthenticated");
    let missing = command.env("ACTPASS_DPOP_KEY_FILE", folder.path().join("missing.pem"));
    assert_denied("codex", &finish(missing, call("codex").to_string().as_bytes()), "dpop_key: cannot read");
    assert_eq!(gateway.seen().len(), 2);
}
