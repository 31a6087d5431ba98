//! The program: start, signals, crashes, command line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use actpass_protocol::token::{Algorithm, PublicKey, TokenType, encode, signing_input};
use actpass_protocol::{Json, hash_payload};
use common::{PREFLIGHT, refund, text};
use ring::signature::KeyPair;
use tempfile::TempDir;

/// A running gateway process.
struct Running {
    child: Child,
    url: String,
    out: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Running {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        Self::spawn(folder, command(folder, arguments))
    }

    /// Starts a gateway with this listening socket, as systemd does.
    #[cfg(unix)]
    fn inheriting(folder: &Path, listener: &std::net::TcpListener) -> Self {
        let socket = std::os::fd::OwnedFd::from(listener.try_clone().unwrap());
        let script = "exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"";
        let mut command = Command::new("sh");
        command.current_dir(folder).args(["-c", script, "sh", env!("CARGO_BIN_EXE_actpass-gateway")]);
        command.args(["serve", "--config", "gateway.toml"]).stdin(Stdio::from(socket));
        Self::spawn(folder, command)
    }

    fn spawn(folder: &Path, mut command: Command) -> Self {
        // Distinct, even with several in one directory.
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let log = folder.join(format!("log{}", STARTED.fetch_add(1, Ordering::Relaxed)));
        let file = std::fs::File::create(&log).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(file).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let Some(url) = line.strip_prefix("listening on ") else {
            panic!("{line}{}", std::fs::read_to_string(log).unwrap());
        };
        Self { child, url: url.trim_end().to_owned(), out, log }
    }

    fn dev(folder: &Path) -> Self {
        Self::start(folder, &["dev", "--listen", "127.0.0.1:0"])
    }

    fn serve(folder: &Path) -> Self {
        Self::start(folder, &["serve", "--config", "gateway.toml"])
    }

    /// Sends the signal; returns the exit code and the remaining output.
    fn end(mut self, signal: &str) -> (Option<i32>, String, String) {
        let process = self.child.id();
        let killed = Command::new("sh").arg("-c").arg(format!("kill -{signal} {process}")).status().unwrap();
        assert!(killed.success());
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        let code = self.child.wait().unwrap().code();
        (code, rest, std::fs::read_to_string(&self.log).unwrap())
    }
}

/// Kills the process if a test fails.
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_actpass-gateway"));
    command.current_dir(folder).args(arguments).stdin(Stdio::null());
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn decide(client: &reqwest::Client, url: &str, key: &str, body: String) -> reqwest::Result<Json> {
    let request =
        client.post(format!("{url}{PREFLIGHT}")).bearer_auth(key).header("content-type", "application/json");
    let body = request.body(body).send().await?.error_for_status()?.bytes().await?;
    Ok(Json::parse(&body).unwrap())
}

async fn read(client: &reqwest::Client, url: &str) -> Json {
    read_as(client, "apk_dev", url).await
}

async fn read_as(client: &reqwest::Client, api_key: &str, url: &str) -> Json {
    let response = client.get(url).bearer_auth(api_key).send().await.unwrap();
    assert_eq!(response.status(), 200);
    Json::parse(&response.bytes().await.unwrap()).unwrap()
}

#[tokio::test]
async fn dev_is_ready_when_it_reports_listening() {
    let folder = TempDir::new().unwrap();
    let gateway = Running::dev(folder.path());
    let client = common::client();
    for key in ["apk_dev", "apdv_dev"] {
        let response = decide(&client, &gateway.url, key, refund("4900", "")).await.unwrap();
        assert_eq!(text(&response, "reason_code"), Some("refund.small_in_scope"));
    }
    assert!(folder.path().join(".actpass/dev.db").exists());
    let page = format!("approve at {}/ with the operator key apdv_dev\n", gateway.url);
    let (code, rest, _) = gateway.end("INT");
    assert_eq!((code, rest), (Some(0), page));
}

#[tokio::test]
async fn sigterm_drains_requests() {
    let folder = TempDir::new().unwrap();
    let gateway = Running::dev(folder.path());
    let client = common::client();
    let url = gateway.url.clone();
    decide(&client, &url, "apk_dev", refund("1", "")).await.unwrap();

    // A request that is incomplete when the signal arrives.
    let mut half = std::net::TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    let body = refund("4900", "");
    let head = format!(
        "POST {PREFLIGHT} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer apk_dev\r\nexpect: 100-continue\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    half.write_all(head.as_bytes()).unwrap();
    // The gateway sends `100 Continue`, so the request has begun.
    let mut begun = [0; 25];
    half.read_exact(&mut begun).unwrap();
    assert!(begun.starts_with(b"HTTP/1.1 100 Continue\r\n"));

    let ending = std::thread::spawn(move || gateway.end("TERM"));
    // After the signal, new connections are refused.
    while std::net::TcpStream::connect(url.strip_prefix("http://").unwrap()).is_ok() {
        tokio::task::yield_now().await;
    }
    half.write_all(body.as_bytes()).unwrap();
    let mut response = String::new();
    half.read_to_string(&mut response).unwrap();
    assert!(
        response.starts_with("HTTP/1.1 200 ") && response.contains("refund.small_in_scope"),
        "{response}"
    );

    let (code, _, log) = ending.join().unwrap();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stopped"), "{log}");
    assert!(!folder.path().join(".actpass/dev.db-wal").exists(), "the write-ahead log was not removed");
    let again = Running::dev(folder.path());
    let verified = read(&client, &format!("{}/api/v1/evidence/chains/decisions/verify", again.url)).await;
    assert_eq!(verified.member("length").unwrap().to_string(), "2");
}

#[tokio::test]
async fn blocked_log_does_not_block_gateway() {
    let folder = TempDir::new().unwrap();
    let mut child = command(folder.path(), &["dev", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    let url = line.trim_end().strip_prefix("listening on ").unwrap().to_owned();
    let gateway = Running { child, url, out, log: PathBuf::new() };
    let client = common::client();
    // More lines than fit into a pipe.
    for _ in 0..1000 {
        let health = client.get(format!("{}/healthz", gateway.url)).send().await.unwrap();
        assert_eq!(health.status(), 200);
    }
}

#[tokio::test]
async fn serve_applies_settings_and_logs_no_secret() {
    let folder = TempDir::new().unwrap();
    let settings = common::config("").replace("[limits]", "log = \"json\"\n[limits]");
    std::fs::write(folder.path().join("gateway.toml"), settings).unwrap();
    let gateway = Running::start(folder.path(), &["serve", "--config", "gateway.toml"]);
    let client = common::client();
    let url = gateway.url.clone();
    decide(&client, &url, "apk_one", refund("4900", "")).await.unwrap();
    let passport = refund("4900", r#", "passport": "eyJ.secret.passport""#);
    assert_eq!(decide(&client, &url, "apk_one", passport).await.unwrap_err().status().unwrap(), 501);
    assert_eq!(
        decide(&client, &url, "apk_wrong_secret", refund("1", "")).await.unwrap_err().status().unwrap(),
        401
    );
    client
        .get(format!("{url}/api/v1/evidence/chains/apk_in_path"))
        .bearer_auth("apk_one")
        .send()
        .await
        .unwrap();

    let (code, rest, log) = gateway.end("TERM");
    assert_eq!((code, rest.as_str()), (Some(0), ""));
    let lines: Vec<_> = log.lines().map(|line| Json::parse(line.as_bytes()).unwrap()).collect();
    assert!(lines.len() >= 6, "{log}");
    assert!(log.contains("name-of-apk-one") && log.contains("\"status\":501"), "{log}");
    for secret in ["apk_one", "apk_wrong", "eyJ", "apk_in_path", "amount", "refund an order"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[test]
fn failed_start_prints_reason() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("gateway.toml"), common::config("body_bytes = 0")).unwrap();
    for (arguments, code, expected) in [
        (&["serve", "--config", "gateway.toml"][..], 2, "limits.body_bytes: "),
        (&["serve", "--config", "none.toml"], 2, "none.toml: "),
        (&["dev", "--listen", "0.0.0.0:0"], 2, "--listen: "),
        (&["dev", "--listen", "localhost"], 2, "--listen"),
        (&["dev", "--policy", "none.json"], 2, "--policy: none.json: "),
        (&["dev", "--data", "none/dev.db"], 1, "none/dev.db"),
        (&["nothing"], 2, "nothing"),
    ] {
        let output = run(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", err(&output));
        assert!(err(&output).contains(expected), "{arguments:?}: {}", err(&output));
        assert_eq!(out(&output), "");
    }
}

#[test]
fn second_gateway_on_same_data_does_not_start() {
    let folder = TempDir::new().unwrap();
    let _first = Running::dev(folder.path());
    let second = run(folder.path(), &["dev", "--listen", "127.0.0.1:0"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(err(&second).contains("dev.db: in use by another gateway"), "{}", err(&second));
}

#[test]
fn address_in_use_is_named() {
    let folder = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(folder.path(), &["dev", "--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains(&format!("cannot listen on {address}")), "{}", err(&output));
}

#[test]
fn key_commands_generate_and_hash() {
    let folder = TempDir::new().unwrap();
    for (arguments, prefix) in
        [(&["key", "new"][..], "apk_"), (&["key", "new", "--role", "operator"], "apdv_")]
    {
        let made = out(&run(folder.path(), arguments));
        let [key, hash] = made.lines().collect::<Vec<_>>()[..] else { panic!("{made}") };
        assert!(key.starts_with(prefix) && key.len() >= prefix.len() + 64, "{key}");
        assert!(hash.starts_with("hash = \"sha256:"), "{hash}");

        let mut child = command(folder.path(), &["key", "hash"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(format!("{key}\n").as_bytes()).unwrap();
        assert_eq!(out(&child.wait_with_output().unwrap()).trim_end(), hash);
    }
    let empty = run(folder.path(), &["key", "hash"]);
    assert_eq!(empty.status.code(), Some(1));
    assert_eq!(out(&empty), "");
}

#[tokio::test]
async fn signing_keys_rotate_while_running() {
    let folder = TempDir::new().unwrap();
    let settings = common::config("").replace("[limits]", "master_key_file = \"master.key\"\n[limits]");
    std::fs::write(folder.path().join("gateway.toml"), settings).unwrap();
    std::fs::write(folder.path().join("master.key"), "07".repeat(32)).unwrap();
    let rotate = &["keys", "rotate", "--config", "gateway.toml"];
    let early = run(folder.path(), rotate);
    assert_eq!(early.status.code(), Some(1), "the data file does not exist yet");

    let gateway = Running::start(folder.path(), &["serve", "--config", "gateway.toml"]);
    let client = common::client();
    let issue = async || {
        let body = r#"{"audience": "a", "goal": "refund an order", "agent_id": "sdk",
                       "allowed_tools": ["refunds.create"]}"#;
        let request = client.post(format!("{}/api/v1/passports/issue", gateway.url)).bearer_auth("apk_one");
        let response = request.header("content-type", "application/json").body(body).send().await.unwrap();
        let response = Json::parse(&response.bytes().await.unwrap()).unwrap();
        text(&response, "token").unwrap().to_owned()
    };
    let before = issue().await;
    // The new key has another algorithm; the running gateway signs with it.
    let settings = common::config("")
        .replace("[limits]", "master_key_file = \"master.key\"\nsigning_algorithm = \"ES256\"\n[limits]");
    std::fs::write(folder.path().join("es256.toml"), settings).unwrap();
    let rotated = run(folder.path(), &["keys", "rotate", "--config", "es256.toml"]);
    assert_eq!(rotated.status.code(), Some(0), "{}", err(&rotated));
    let after = issue().await;
    // A multiple of three bytes, which base64url encodes independently of the rest.
    for (token, start) in [(&before, r#"{"alg":"EdDSA","ki"#), (&after, r#"{"alg":"ES256","ki"#)] {
        assert!(token.starts_with(&encode(start)), "{token}");
    }
    for token in [&before, &after] {
        let body = refund("1", &format!(r#", "audience": "a", "passport": "{token}""#));
        let response = decide(&client, &gateway.url, "apk_one", body).await.unwrap();
        assert_eq!(text(&response, "decision"), Some("allow"), "{response}");
    }
    let kid = out(&rotated);
    let kid = kid.trim_end().strip_prefix("kid = \"").unwrap().trim_end_matches('"');
    let (_, _, log) = gateway.end("TERM");
    assert!(!log.contains("eyJ") && !log.contains("0707"), "{log}");

    // Another master key does not open them; the environment variable is equivalent to the file.
    std::fs::write(folder.path().join("master.key"), "08".repeat(32)).unwrap();
    for arguments in [&rotate[..], &["serve", "--config", "gateway.toml"]] {
        let wrong = run(folder.path(), arguments);
        assert_eq!(wrong.status.code(), Some(1));
        assert!(err(&wrong).contains("master key does not open"), "{}", err(&wrong));
    }
    let both = command(folder.path(), rotate).env("ACTPASS_MASTER_KEY", "07".repeat(32)).output().unwrap();
    assert_eq!(both.status.code(), Some(2));
    assert!(err(&both).contains("master_key_file: "), "{}", err(&both));
    std::fs::write(folder.path().join("gateway.toml"), common::config("")).unwrap();
    let none = run(folder.path(), rotate);
    assert!(none.status.code() == Some(1) && err(&none).contains("ACTPASS_MASTER_KEY"), "{}", err(&none));
    let wrong = command(folder.path(), rotate).env("ACTPASS_MASTER_KEY", "secret").output().unwrap();
    assert!(
        err(&wrong).contains("ACTPASS_MASTER_KEY: ") && !err(&wrong).contains("secret"),
        "{}",
        err(&wrong)
    );
    let again = command(folder.path(), rotate).env("ACTPASS_MASTER_KEY", "07".repeat(32)).output().unwrap();
    assert_eq!(again.status.code(), Some(0), "{}", err(&again));
    assert!(!out(&again).contains(kid));
}

#[tokio::test]
async fn vault_commands_work_while_running_and_reveal_nothing() {
    const TOKEN: &str = "process_vault_secret";
    let folder = TempDir::new().unwrap();
    let keyless = common::config("");
    std::fs::write(folder.path().join("keyless.toml"), &keyless).unwrap();
    std::fs::write(
        folder.path().join("gateway.toml"),
        format!("master_key_file = \"master.key\"\n{keyless}"),
    )
    .unwrap();
    std::fs::write(folder.path().join("master.key"), "07".repeat(32)).unwrap();
    let vault = |arguments: &[&str], given: &[u8]| {
        let arguments = [&["vault"], arguments].concat();
        let mut command = command(folder.path(), &arguments);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // It may have exited without reading.
        let _ = child.stdin.take().unwrap().write_all(given);
        let output = child.wait_with_output().unwrap();
        assert!(!out(&output).contains(TOKEN) && !err(&output).contains(TOKEN), "{output:?}");
        (output.status.code(), out(&output), err(&output))
    };
    let place = ["--config", "gateway.toml", "--tenant", "one"];
    let set =
        |more: &[&str], given: &[u8]| vault(&[&["set", "refunds.create"], &place[..], more].concat(), given);

    let (code, _, error) = set(&[], TOKEN.as_bytes());
    assert!(code == Some(1) && error.contains("data.db"), "the data file does not exist: {error}");
    let gateway = Running::start(folder.path(), &["serve", "--config", "gateway.toml"]);
    let client = common::client();
    let decide = async || decide(&client, &gateway.url, "apk_one", refund("4900", "")).await.unwrap();

    for (arguments, given, complaint) in [
        (&["set", "t", "--config", "keyless.toml", "--tenant", "one"][..], TOKEN.as_bytes(), "no master key"),
        (&["set", "t", "--config", "gateway.toml"], TOKEN.as_bytes(), "--tenant: expected one of one, two"),
        (&["set", "t", "--config", "gateway.toml", "--tenant", "x"], TOKEN.as_bytes(), "--tenant: expected"),
        (
            &["set", "", "--config", "gateway.toml", "--tenant", "one"],
            TOKEN.as_bytes(),
            "a tool name of 1 to 256",
        ),
        (
            &["remove", "t", "--config", "gateway.toml", "--tenant", "one"],
            b"",
            "has no credential for tool \"t\"",
        ),
    ] {
        let (code, printed, error) = vault(arguments, given);
        assert!(
            (code, &*printed) == (Some(1), "") && error.contains(complaint),
            "{arguments:?}: {code:?} {error}"
        );
    }
    let long = format!("{TOKEN}{}", "s".repeat(16_385 - TOKEN.len()));
    for (given, complaint) in [
        (&b""[..], "found nothing"),
        (b"\n", "found nothing"),
        (b"\r\n", "found nothing"),
        (long.as_bytes(), "longer than 16384 bytes"),
        (&long.repeat(50).into_bytes(), "longer than 16384 bytes"),
        (b"\xffprocess_vault_secret", "not UTF-8"),
    ] {
        let (code, _, error) = set(&[], given);
        assert!(code == Some(1) && error.contains(complaint), "{complaint}: {error}");
    }
    for when in ["2001-01-01T00:00:00Z", "0s", "yesterday", "9999999999y", "10000-01-01T00:00:00Z"] {
        let (code, _, error) = set(&["--expires", when], TOKEN.as_bytes());
        assert!(code == Some(1) && error.starts_with("--expires: expected"), "{when}: {error}");
    }
    assert_eq!(decide().await.member("credential"), None);

    let longest = long.strip_suffix('s').unwrap();
    for (given, token, more, until) in [
        (&b"process_vault_secret"[..], TOKEN, &[][..], "expires never"),
        (b"process_vault_secret\n", TOKEN, &[], "expires never"),
        (
            b"process_vault_secret\r\n",
            TOKEN,
            &["--expires", "2999-01-01T00:00:00Z"],
            "expires 2999-01-01T00:00:00Z",
        ),
        (b"process_vault_secret\n\n", "process_vault_secret\n", &["--expires", "90d"], "expires 20"),
        (longest.as_bytes(), longest, &[], "expires never"),
    ] {
        let (code, printed, error) = set(more, given);
        assert_eq!(code, Some(0), "{error}");
        let id = printed.trim_end().strip_prefix("set ").unwrap();
        let response = decide().await;
        assert!(text(&response, "credential.token") == Some(token), "{given:?}");
        assert_eq!(text(&response, "credential_id"), Some(id));
        let (_, listed, _) = vault(&[&["list"], &place[..]].concat(), b"");
        assert_eq!(listed.lines().count(), 1, "{listed}");
        assert!(
            listed.starts_with(&format!("refunds.create\t{id}\tset 20")) && listed.contains(until),
            "{listed}"
        );
    }
    let (_, listed, _) = vault(&["list", "--config", "gateway.toml", "--tenant", "two"], b"");
    assert_eq!(listed, "");

    // A different master key would seal credentials that the gateway cannot open.
    let other = command(folder.path(), &["vault", "set", "t", "--config", "keyless.toml", "--tenant", "one"])
        .env("ACTPASS_MASTER_KEY", "08".repeat(32))
        .output()
        .unwrap();
    assert!(err(&other).contains("master key does not open"), "{}", err(&other));

    let (code, printed, error) = vault(&[&["remove", "refunds.create"], &place[..]].concat(), b"");
    assert!(code == Some(0) && printed.starts_with("removed cr_"), "{error}");
    assert_eq!(decide().await.member("credential"), None);
    let export = ["evidence", "export", "vault", "--data", "data.db", "--tenant", "one"];
    let exported = run(folder.path(), &export);
    assert_eq!(out(&exported).lines().count(), 6, "{}", err(&exported));
    let (code, _, log) = gateway.end("TERM");
    assert_eq!(code, Some(0));
    assert!(!log.contains(TOKEN) && !out(&exported).contains(TOKEN), "{log}");
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes()), "{}", path.display());
    }
}

#[test]
fn policy_commands_check_and_test() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let rule = r#"{"name": "r", "when": [{"path": "tool", "operator": "==", "value": "t"}],
                   "decision": "allow", "reason": "ok"}"#;
    let policy = format!(r#"{{"id": "p", "version": 3, "rules": [{rule}]}}"#);
    write("good.json", &policy);
    write("bad.json", r#"{"id": "p", "rules": [{"name": "r"}]}"#);
    write("pass.json", r#"{"cases": [{"name": "t", "input": {"tool": "t"}, "expect": "allow"}]}"#);
    write(
        "fail.json",
        r#"{"cases": [{"name": "t", "input": {"tool": "t"}, "expect": "allow"},
                      {"name": "other tool", "input": {"tool": "u"}, "expect": {"decision": "allow"}}]}"#,
    );
    write("none.json", r#"{"cases": []}"#);
    write("unknown.json", r#"{"cases": [{"name": "t", "input": {"tol": "t"}, "expect": "deny"}]}"#);

    let hash = hash_payload(&Json::parse(policy.as_bytes()).unwrap()).unwrap();
    for (arguments, code, printed, complained) in [
        (
            &["policy", "check", "good.json"][..],
            0,
            format!("id       p\nversion  3\nhash     {hash}\nrules    1\nbudgets  0\n"),
            "",
        ),
        (&["policy", "check", "bad.json"], 1, String::new(), "bad.json: rule \"r\": when: missing"),
        (&["policy", "check", "bad.json"], 1, String::new(), "bad.json: version: missing"),
        (&["policy", "check", "missing.json"], 1, String::new(), "missing.json: "),
        (&["policy", "test", "good.json", "pass.json"], 0, "1 passed, 0 failed\n".to_owned(), ""),
        (
            &["policy", "test", "good.json", "fail.json"],
            1,
            "FAIL other tool\n  - expected decision: allow\n  + actual   decision: deny\n1 passed, 1 \
            failed\n"
                .to_owned(),
            "good.json: decisions differ from expectations",
        ),
        (&["policy", "test", "good.json", "none.json"], 1, String::new(), "at least one case"),
        (&["policy", "test", "good.json", "unknown.json"], 1, String::new(), "unknown member \"tol\""),
        (&["policy", "test", "bad.json", "pass.json"], 1, String::new(), "bad.json: version: missing"),
    ] {
        let output = run(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", err(&output));
        assert_eq!(out(&output), printed, "{arguments:?}");
        assert!(err(&output).contains(complained), "{arguments:?}: {}", err(&output));
    }
}

#[test]
fn policy_check_fails_dead_rules_and_warns_open_arguments() {
    let folder = TempDir::new().unwrap();
    let policy = |when: &str, decision: &str| {
        format!(
            r#"{{"id": "p", "version": 1, "rules": [{{"name": "r", "when": [{when}], "decision": "{decision}", "reason": "x"}}]}}"#
        )
    };
    let never = policy(r#"{"path": "tool", "operator": "<=", "value": 5}"#, "allow");
    let open = policy(r#"{"path": "args.amount", "operator": "<=", "value": 5}"#, "allow");
    for (text, code, complained) in [
        (&never, 1, "error: rule \"r\": never matches"),
        (&open, 0, "warning: rule \"r\": allows arguments that it does not check"),
        (&open.replace("\"allow\"", "\"require_approval\""), 0, ""),
    ] {
        std::fs::write(folder.path().join("policy.json"), text).unwrap();
        let output = run(folder.path(), &["policy", "check", "policy.json"]);
        assert_eq!(output.status.code(), Some(code), "{}", err(&output));
        assert!(err(&output).contains(complained), "{}", err(&output));
        assert_eq!(err(&output).is_empty(), complained.is_empty());
        assert!(out(&output).ends_with("rules    1\nbudgets  0\n"), "{}", out(&output));
    }
}

#[test]
fn policy_check_compares_with_an_older_policy() {
    let folder = TempDir::new().unwrap();
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy-check");
    let check = |name: &str, old: &str| {
        let file = |name: &str| shared.join(format!("{name}.json")).display().to_string();
        run(folder.path(), &["policy", "check", &file(name), "--against", &file(old)])
    };
    let output = check("wider-limit", "wider-limit.old");
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    let grants = "error: rule \"pay\": grants more than the old policy: allow (test.pay) instead of deny (policy.no_match)";
    assert!(err(&output).contains(grants), "{}", err(&output));
    // The example is a case that the engine answers so.
    let complained = err(&output);
    let example = complained.lines().find_map(|line| line.strip_prefix("  example: ")).unwrap();
    std::fs::write(folder.path().join("cases.json"), format!("[{example}]")).unwrap();
    for (name, code) in [("wider-limit", 0), ("wider-limit.old", 1)] {
        let file = shared.join(format!("{name}.json")).display().to_string();
        let output = run(folder.path(), &["policy", "test", &file, "cases.json"]);
        assert_eq!(output.status.code(), Some(code), "{}", err(&output));
    }
    for (name, old) in [("wider-limit", "wider-limit"), ("fine-narrower", "fine-narrower.old")] {
        let output = check(name, old);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    }
}

#[test]
fn policy_diff_reports_changed_requests_and_cases() {
    let folder = TempDir::new().unwrap();
    let file = |name: &str| {
        let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy-check");
        shared.join(format!("{name}.json")).display().to_string()
    };
    let [old, new] = ["wider-limit.old", "wider-limit"].map(file);
    let cases = r#"[{"name": "small", "input": {"tool": "pay", "args": {"amount": 1}}},
                    {"name": "large", "input": {"tool": "pay", "args": {"amount": 150}}}]"#;
    std::fs::write(folder.path().join("cases.json"), cases).unwrap();
    let output = run(folder.path(), &["policy", "diff", &old, &new, "--cases", "cases.json"]);
    let printed = out(&output);
    assert_eq!(output.status.code(), Some(1), "{printed}{}", err(&output));
    let change = "deny -> allow\n  allow (test.pay, rule \"pay\") instead of deny (policy.no_match, no rule)\n    example: ";
    assert!(printed.starts_with(change), "{printed}");
    let case = "case \"large\": allow (test.pay, rule \"pay\") instead of deny (policy.no_match, no rule)\n1 of 2 cases change\n";
    assert!(printed.ends_with(case), "{printed}");
    assert!(err(&output).contains("1 changes from"), "{}", err(&output));

    let output = run(folder.path(), &["policy", "diff", &old, &new, "--cases", "cases.json", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!(report["complete"], true);
    assert_eq!(report["changes"][0]["old"]["decision"], "deny");
    assert_eq!(report["changes"][0]["new"]["decision"], "allow");
    assert_eq!(report["cases"], 2);
    assert_eq!(report["changed_cases"][0]["name"], "large");
    // The example is a case that the new policy answers so.
    std::fs::write(folder.path().join("example.json"), format!("[{}]", report["changes"][0]["example"]))
        .unwrap();
    for (policy, code) in [(&new, 0), (&old, 1)] {
        let output = run(folder.path(), &["policy", "test", policy, "example.json"]);
        assert_eq!(output.status.code(), Some(code), "{}", err(&output));
    }

    let output = run(folder.path(), &["policy", "diff", &old, &old, "--cases", "cases.json"]);
    assert_eq!(
        (output.status.code(), &*out(&output)),
        (Some(0), "no request changes\n0 of 2 cases change\n")
    );
}

#[tokio::test]
async fn sighup_is_ignored() {
    let folder = TempDir::new().unwrap();
    let gateway = Running::dev(folder.path());
    let client = common::client();
    decide(&client, &gateway.url, "apk_dev", refund("1", "")).await.unwrap();
    for _ in 0..3 {
        let process = gateway.child.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &process]).status().unwrap().success());
        let response = decide(&client, &gateway.url, "apk_dev", refund("1", "")).await.unwrap();
        assert_eq!(text(&response, "decision"), Some("allow"));
    }
    let (code, _, log) = gateway.end("TERM");
    assert_eq!(code, Some(0));
    assert!(log.contains("SIGHUP ignored"), "{log}");
}

#[cfg(unix)]
#[tokio::test]
async fn sighup_reloads_settings() {
    let folder = TempDir::new().unwrap();
    let policy = |reason: &str| {
        format!(
            r#"{{"id": "p", "version": 1, "rules": [{{"name": "r", "when": [], "decision": "allow", "reason": "{reason}"}}]}}"#
        )
    };
    let file = folder.path().join("policy.json");
    std::fs::write(&file, policy("first")).unwrap();
    std::fs::write(folder.path().join("gateway.toml"), common::config_with("", "policy.json")).unwrap();
    let gateway = Running::serve(folder.path());
    let client = common::client();
    let hang_up = || {
        let process = gateway.child.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &process]).status().unwrap().success());
    };
    let wait_until = async |text: &str| {
        while !std::fs::read_to_string(&gateway.log).unwrap().contains(text) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    for (text_of_policy, logged, reason) in [
        (policy("second"), "settings reloaded", "second"),
        ("{".to_owned(), "the settings were not reloaded; the previous ones are in force", "second"),
    ] {
        std::fs::write(&file, text_of_policy).unwrap();
        hang_up();
        wait_until(logged).await;
        let response = decide(&client, &gateway.url, "apk_one", refund("1", "")).await.unwrap();
        assert_eq!(text(&response, "reason_code"), Some(reason));
    }
    let (code, _, log) = gateway.end("TERM");
    assert_eq!(code, Some(0));
    assert!(log.contains("tenants[0].policy: policy.json: policy: "), "{log}");
}

#[tokio::test]
async fn log_has_actor_action_and_decision() {
    let folder = TempDir::new().unwrap();
    let settings = common::config("").replace("[limits]", "log = \"json\"\n[limits]");
    std::fs::write(folder.path().join("gateway.toml"), settings).unwrap();
    let client = common::client();
    let ask = async |url: &str| {
        let request = client.post(format!("{url}{PREFLIGHT}")).bearer_auth("apk_one");
        let request = request
            .header("content-type", "application/json")
            .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let body = request.body(refund("4900", "")).send().await.unwrap().bytes().await.unwrap();
        text(&Json::parse(&body).unwrap(), "evidence_event_id").unwrap().to_owned()
    };
    let gateway = Running::serve(folder.path());
    let event = ask(&gateway.url).await;
    let (_, _, log) = gateway.end("TERM");
    let line = log.lines().find(|line| line.contains("\"answered\"")).unwrap();
    let line = Json::parse(line.as_bytes()).unwrap();
    for (field, expected) in [
        ("span.peer", "127.0.0.1"),
        ("span.trace_id", "0af7651916cd43dd8448eb211c80319c"),
        ("span.tool", "refunds.create"),
        ("span.decision", "allow"),
        ("span.reason", "refund.small_in_scope"),
        ("span.event_id", event.as_str()),
        ("span.key", "name-of-apk-one"),
        ("span.method", "POST"),
        ("span.route", PREFLIGHT),
    ] {
        assert_eq!(text(&line, field), Some(expected), "{field} of {line}");
    }
    // A lower level logs less; the command line takes precedence.
    for arguments in [&["--log-level", "warn"][..], &["--log-level", "error"]] {
        let arguments = [&["serve", "--config", "gateway.toml"], arguments].concat();
        let gateway = Running::start(folder.path(), &arguments);
        ask(&gateway.url).await;
        let (_, _, log) = gateway.end("TERM");
        assert!(!log.contains("answered"), "{log}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn survives_file_descriptor_exhaustion() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};

    let folder = TempDir::new().unwrap();
    let gateway = Running::dev(folder.path());
    let client = common::client();
    // Open connections continue.
    decide(&client, &gateway.url, "apk_dev", refund("1", "")).await.unwrap();
    let process = i32::try_from(gateway.child.id()).ok().and_then(Pid::from_raw);
    let open = std::fs::read_dir(format!("/proc/{}/fd", gateway.child.id())).unwrap().count() as u64;
    let limit = |files: u64| Rlimit { current: Some(files), maximum: Some(files.max(4096)) };
    prlimit(process, Resource::Nofile, limit(open + 2)).unwrap();
    let address = gateway.url.strip_prefix("http://").unwrap();
    let waiting: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    let logged = || std::fs::read_to_string(&gateway.log).unwrap().contains("accept failed");
    while !logged() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    prlimit(process, Resource::Nofile, limit(4096)).unwrap();
    drop(waiting);
    let other = common::client();
    let response = decide(&other, &gateway.url, "apk_dev", refund("1", "")).await.unwrap();
    assert_eq!(text(&response, "decision"), Some("allow"));
    let (code, _, log) = gateway.end("TERM");
    assert_eq!(code, Some(0));
    assert!(log.matches("accept failed").count() <= 2, "at most every 10 s: {log}");
}

#[test]
fn config_check_does_not_start_gateway() {
    let folder = TempDir::new().unwrap();
    let check = |text: &str, more: &[&str]| {
        std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
        run(folder.path(), &[&["config", "check", "--config", "gateway.toml"], more].concat())
    };
    let whole = common::config("");
    let good = check(&whole, &["--deny-warnings"]);
    assert_eq!(good.status.code(), Some(0), "{}{}", out(&good), err(&good));
    assert!(out(&good).contains("gateway.toml: valid; 2 tenants, 0 warnings"), "{}", out(&good));
    assert!(!folder.path().join("data.db").exists(), "no gateway was started");

    let wrong = check(&common::config("body_bytes = 0\nburst = 1"), &[]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(
        err(&wrong).contains("limits.body_bytes: ") && err(&wrong).contains("limits.burst: "),
        "{}",
        err(&wrong)
    );

    std::fs::write(folder.path().join("master.key"), "00".repeat(32)).unwrap();
    let doubtful = common::config("body_bytes = 1000000000")
        .replace("[limits]", "master_key_file = \"master.key\"\ndanger_allow_plain_http = true\n[limits]")
        .replace("127.0.0.1:0", "0.0.0.0:8787");
    let found = check(&doubtful, &[]);
    assert_eq!(found.status.code(), Some(0), "{}", err(&found));
    for warning in ["warning: limits.body_bytes: ", "warning: issuer: missing", "few distinct bytes"] {
        assert!(out(&found).contains(warning), "{warning}: {}", out(&found));
    }
    assert_eq!(check(&doubtful, &["--deny-warnings"]).status.code(), Some(1));
}

#[test]
fn warns_about_weak_key() {
    let folder = TempDir::new().unwrap();
    for (key, weak) in [
        ("apk_short", true),
        (&*"a".repeat(64), true),
        (&*out(&run(folder.path(), &["key", "new"])).lines().next().unwrap().to_owned(), false),
    ] {
        let mut child = command(folder.path(), &["key", "hash"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(key.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(err(&output).contains("is guessable"), weak, "{}", err(&output));
        assert!(!err(&output).contains(key));
    }
}

#[test]
fn tools_commands_scan_and_check() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let mail = r#"{"name": "gmail.send", "inputSchema": {"properties": {"to": {}}}}"#;
    write("tools.json", &format!(r#"{{"tools": [{mail}]}}"#));
    let changed = mail.replace(r#""to": {}"#, r#""to": {}, "bcc": {}"#);
    write("changed.json", &format!(r#"{{"tools": [{changed}, {{"name": "slack.post"}}]}}"#));
    write("bad.json", "{}");

    let without = run(folder.path(), &["tools", "check", "tools.json"]);
    assert_eq!(without.status.code(), Some(1));
    assert!(err(&without).starts_with("actpass.lock: "), "{}", err(&without));
    for (arguments, code, printed, complained) in [
        (&["tools", "scan", "bad.json"][..], 1, "", "bad.json: expected an MCP tools/list result"),
        (&["tools", "scan", "tools.json"], 0, "actpass.lock: 1 tools\n", ""),
        (&["tools", "check", "tools.json"], 0, "1 tools, all match actpass.lock\n", ""),
        (
            &["tools", "check", "changed.json"],
            1,
            "gmail.send: gained inputSchema.properties.bcc\nslack.post: is new\n",
            "changed.json differs from actpass.lock: 2 differences",
        ),
        (&["tools", "check", "tools.json", "--lock", "tools.json"], 1, "", "tools.json: version: missing"),
    ] {
        let output = run(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", err(&output));
        assert_eq!(out(&output), printed, "{arguments:?}");
        assert!(err(&output).contains(complained), "{arguments:?}: {}", err(&output));
    }
    assert!(!folder.path().join("actpass.lock.new").exists());
}

/// Replaces content of an export and recomputes the hash chain, as a forger would.
fn rehashed(events: &[String]) -> Vec<String> {
    let mut previous = "0".repeat(64);
    let again = |(seq, event): (usize, &String)| {
        let Json::Object(mut members) = Json::parse(event.as_bytes()).unwrap() else { panic!("{event}") };
        members.retain(|(name, _)| name != "current_event_hash");
        for (name, value) in &mut members {
            match name.as_str() {
                "previous_event_hash" => *value = Json::from(&*previous),
                "seq" => *value = Json::parse((seq + 1).to_string().as_bytes()).unwrap(),
                _ => {}
            }
        }
        previous = hash_payload(&Json::Object(members.clone())).unwrap();
        members.push(("current_event_hash".to_owned(), Json::from(&*previous)));
        Json::Object(members).to_string()
    };
    events.iter().enumerate().map(again).collect()
}

#[tokio::test]
async fn chain_exports_while_running_and_verifies_offline() {
    let folder = TempDir::new().unwrap();
    let gateway = Running::dev(folder.path());
    let client = common::client();
    for _ in 0..5 {
        decide(&client, &gateway.url, "apk_dev", refund("4900", "")).await.unwrap();
    }
    let export = |tenant: &str, chain: &str| {
        run(folder.path(), &["evidence", "export", chain, "--data", ".actpass/dev.db", "--tenant", tenant])
    };
    let exported = export("dev", "decisions");
    assert_eq!((exported.status.code(), err(&exported)), (Some(0), String::new()));
    let lines: Vec<String> = out(&exported).lines().map(str::to_owned).collect();
    let chain = read(&client, &format!("{}/api/v1/evidence/chains/decisions", gateway.url)).await;
    let Some(Json::Array(events)) = chain.member("events") else { panic!("{chain}") };
    assert_eq!(lines[..5], events.iter().map(Json::to_string).collect::<Vec<_>>());
    assert_eq!(lines.len(), 6);
    for (tenant, chain) in [("other", "decisions"), ("dev", "other")] {
        let none = export(tenant, chain);
        assert_eq!((none.status.code(), out(&none)), (Some(1), String::new()));
        assert!(err(&none).contains(&format!("the tenant {tenant:?} has no chain {chain:?}")));
    }
    let jwks = read(&client, &format!("{}/.well-known/jwks.json", gateway.url)).await;
    std::fs::write(folder.path().join("jwks.json"), jwks.to_string()).unwrap();
    let body = r#"{"audience": "a", "goal": "g", "allowed_tools": []}"#;
    let issue = client.post(format!("{}/api/v1/passports/issue", gateway.url)).bearer_auth("apk_dev");
    let issued = issue.header("content-type", "application/json").body(body).send().await.unwrap();
    let (_, issued) = common::json(issued).await;
    let passport = text(&issued, "token").unwrap();
    drop(gateway);

    let head = text(&events[4], "current_event_hash").unwrap();
    let verify = |lines: &[String], more: &[&str]| {
        std::fs::write(folder.path().join("export"), lines.join("\n")).unwrap();
        let checked = run(folder.path(), &[&["evidence", "verify", "export"], more].concat());
        (checked.status.code(), out(&checked) + &err(&checked))
    };
    const KEYS: &[&str] = &["--jwks", "jwks.json"];
    let whole = format!("5 events, head {head}, intact\n");
    for (lines, more, code, said) in [
        (&lines[..], KEYS, 0, "\nsigned: chain \"decisions\" of tenant \"dev\" at 2"),
        (&lines, &["--head", head], 0, "\nsignature not verified: "),
        (&lines[..5], &[], 0, "\nnot signed: "),
    ] {
        let (found, out) = verify(lines, more);
        assert!(found == Some(code) && out.starts_with(&whole) && out.contains(said), "{more:?}: {out}");
    }
    for (lines, more, said) in [
        (&lines[..], &["--require-signature"][..], "no public keys are given"),
        (&lines[..5], &["--require-signature"], "the export is not signed"),
        (&lines[..5], KEYS, "the export is not signed"),
        (&lines, &["--jwks", "nothing"], "nothing: "),
        (&lines, &["--jwks", "export"], "export: expected a JWK Set: "),
    ] {
        let (code, out) = verify(lines, more);
        assert!(code == Some(1) && out.contains(said), "{more:?}: {out}");
    }

    let name = |at: usize| text(&events[at], "event_id").unwrap().to_owned();
    let damage = |change: &dyn Fn(&mut Vec<String>)| {
        let mut damaged = lines.clone();
        change(&mut damaged);
        damaged
    };
    // Recomputed hashes with the original signature.
    let forge = |change: &dyn Fn(&mut Vec<String>)| {
        let mut events = lines[..5].to_vec();
        change(&mut events);
        [rehashed(&events), lines[5..].to_vec()].concat()
    };
    let deny = |line: &mut String| {
        let other = line.replace(r#""decision":"allow""#, r#""decision":"deny""#);
        assert_ne!(other, *line);
        *line = other;
    };
    let edited = |at: usize, what: &str| format!("line {}: event {} ({}): {what}", at + 1, at + 1, name(at));
    for (damaged, more, expected) in [
        (damage(&|lines| deny(&mut lines[1])), KEYS, edited(1, "edited: the hash does not match")),
        (damage(&|lines| deny(&mut lines[4])), KEYS, edited(4, "edited: the hash does not match")),
        (
            damage(&|lines| drop(lines.remove(2))),
            KEYS,
            format!("line 3: event 3 ({}): found event 4, expected event 3", name(3)),
        ),
        (
            damage(&|lines| lines.swap(2, 3)),
            KEYS,
            format!("line 3: event 3 ({}): found event 4, expected event 3", name(3)),
        ),
        (
            damage(&|lines| lines.swap(3, 4)),
            KEYS,
            format!("line 4: event 4 ({}): found event 5, expected event 4", name(4)),
        ),
        (
            damage(&|lines| lines[2] = lines[1].clone()),
            KEYS,
            format!("line 3: event 3 ({}): found event 2, expected event 3", name(1)),
        ),
        (
            damage(&|lines| lines.insert(5, "null".to_owned())),
            KEYS,
            "line 6: event 6: not an event".to_owned(),
        ),
        (
            damage(&|lines| lines.push(lines[4].clone())),
            KEYS,
            "line 7: unexpected data after the signature".to_owned(),
        ),
        // Only the signature detects changes at the end.
        (
            damage(&|lines| drop(lines.remove(4))),
            KEYS,
            "line 5: event 5: missing; 5 events are signed".to_owned(),
        ),
        (
            damage(&|lines| drop(lines.drain(2..5))),
            KEYS,
            "line 3: event 3: missing; 5 events are signed".to_owned(),
        ),
        (
            damage(&|lines| drop(lines.remove(4))),
            &[],
            "line 5: event 5: missing; 5 events are signed".to_owned(),
        ),
        (forge(&|events| deny(&mut events[1])), KEYS, edited(4, "differs from the signed event")),
        (forge(&|events| deny(&mut events[4])), KEYS, edited(4, "differs from the signed event")),
        (forge(&|events| drop(events.remove(1))), KEYS, "line 5: event 5: missing".to_owned()),
        (forge(&|events| events.swap(0, 1)), KEYS, edited(4, "differs from the signed event")),
        (
            forge(&|events| events.swap(3, 4)),
            KEYS,
            format!("line 5: event 5 ({}): differs from the signed event", name(3)),
        ),
        (
            forge(&|events| events.push(events[0].clone())),
            KEYS,
            format!("line 6: event 6 ({}): added after signing; 5 events are signed", name(0)),
        ),
        (forge(&|events| deny(&mut events[1])), &[], edited(4, "differs from the signed event")),
        (damage(&|lines| lines.truncate(4)), &["--head", head], "the chain ends at event 4".to_owned()),
        (Vec::new(), &[], "the export has no events".to_owned()),
        (lines[5..].to_vec(), KEYS, "the export has no events".to_owned()),
    ] {
        let (code, said) = verify(&damaged, more);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&expected), "{said}\nexpected: {expected}");
    }

    // A signature for the forged chain by an attacker without the gateway's key.
    let forged = forge(&|events| deny(&mut events[1]));
    let forged_head = Json::parse(forged[4].as_bytes()).unwrap();
    let claims = format!(
        r#"{{"tenant_id":"dev","chain_id":"decisions","length":5,"head":"{}","exported_at":"2026-01-01T00:00:00Z"}}"#,
        text(&forged_head, "current_event_hash").unwrap()
    );
    let claims = Json::parse(claims.as_bytes()).unwrap();
    let Some(Json::Array(keys)) = jwks.member("keys") else { panic!("{jwks}") };
    let own = ring::signature::Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap();
    let signed_by_own = |typ, kid: &str| {
        let key = PublicKey::new(kid, Algorithm::EdDsa, own.public_key().as_ref()).unwrap();
        let input = signing_input(typ, &key, &claims);
        format!("{input}.{}", encode(own.sign(input.as_bytes())))
    };
    let kid = text(&keys[0], "kid").unwrap();
    for (token, said) in [
        (signed_by_own(TokenType::ChainHead, kid), "line 6: the signature has an invalid signature"),
        (signed_by_own(TokenType::ChainHead, "own"), "line 6: the signature names an unknown key"),
        (signed_by_own(TokenType::Passport, kid), "line 6: the signature is malformed"),
        (passport.to_owned(), "line 6: the signature is malformed"),
        (String::new(), "line 6: the signature is malformed"),
    ] {
        let with = [&forged[..5], &[format!(r#"{{"signature":"{token}"}}"#)]].concat();
        let (code, out) = verify(&with, KEYS);
        assert!(code == Some(1) && out.contains(said), "{out}");
    }
    // Without keys, the signature is reported as not verified.
    let with =
        [&forged[..5], &[format!(r#"{{"signature":"{}"}}"#, signed_by_own(TokenType::ChainHead, kid))]]
            .concat();
    let (code, out_) = verify(&with, &[]);
    assert!(
        code == Some(0) && out_.contains("\nsignature not verified: pass the gateway's public keys"),
        "{out_}"
    );

    std::fs::write(folder.path().join("export"), [lines[0].as_bytes(), b"\n{\"a\":\"\xff\"}"].concat())
        .unwrap();
    let no_text = run(folder.path(), &["evidence", "verify", "export"]);
    assert!(err(&no_text).contains("line 2: event 2: not an event"), "{}", err(&no_text));
    let missing = run(folder.path(), &["evidence", "verify", "nothing"]);
    assert!(err(&missing).starts_with("nothing: "), "{}", err(&missing));

    // Missing or different master key.
    std::fs::rename(folder.path().join(".actpass/dev.db.master-key"), folder.path().join("master-key"))
        .unwrap();
    let unsigned = export("dev", "decisions");
    assert_eq!(
        (unsigned.status.code(), err(&unsigned)),
        (Some(0), "not signed: no master key is configured\n".to_owned())
    );
    assert_eq!(out(&unsigned).lines().count(), 6);
    std::fs::write(folder.path().join(".actpass/dev.db.master-key"), "07".repeat(32)).unwrap();
    let other = export("dev", "decisions");
    assert_eq!((other.status.code(), out(&other)), (Some(1), String::new()));
    assert!(err(&other).contains("the master key does not open the signing key"), "{}", err(&other));
    let mut given = command(
        folder.path(),
        &["evidence", "export", "decisions", "--tenant", "dev", "--data", ".actpass/dev.db"],
    );
    let given =
        given.env("ACTPASS_MASTER_KEY", std::fs::read_to_string(folder.path().join("master-key")).unwrap());
    let given = given.output().unwrap();
    assert_eq!((given.status.code(), out(&given).lines().count()), (Some(0), 7), "{}", err(&given));
}

/// Every response is recorded, regardless of when the process is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_under_load_loses_no_response() {
    let folder = TempDir::new().unwrap();
    survive_kills(20, "apk_dev", || Running::dev(folder.path())).await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_under_load_loses_no_response_on_postgresql() {
    let folder = TempDir::new().unwrap();
    let Some(_) = settings_with_database(folder.path()) else { return };
    // One gateway's crash must not block the other for long.
    let other = Running::serve(folder.path());
    survive_kills(8, "apk_one", || Running::serve(folder.path())).await;
    decide(&common::client(), &other.url, "apk_one", refund("1", "")).await.unwrap();
}

async fn survive_kills(kills: usize, api_key: &'static str, start: impl Fn() -> Running) {
    const CLIENTS: usize = 32;
    /// Number of decisions before each kill.
    const ANSWERS: usize = 64;

    let http = common::client();
    // Responses by idempotency key.
    let mut known: HashMap<String, String> = HashMap::new();
    for round in 0..kills {
        let mut gateway = start();
        let answered = Arc::new(AtomicUsize::new(0));
        let killed = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (url, http) = (gateway.url.clone(), http.clone());
                let (answered, killed) = (answered.clone(), killed.clone());
                tokio::spawn(async move {
                    let mut given = Vec::new();
                    for number in 0.. {
                        let key = format!("{round}-{client}-{number}");
                        let body = refund("4900", &format!(r#", "idempotency_key": "{key}""#));
                        match decide(&http, &url, api_key, body).await {
                            Ok(response) => {
                                given.push((key, text(&response, "evidence_event_id").unwrap().to_owned()));
                                answered.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(error) => {
                                assert!(error.status().is_none(), "unexpected error response: {error}");
                                assert!(killed.load(Ordering::SeqCst), "failed before the kill: {error}");
                                break;
                            }
                        }
                    }
                    given
                })
            })
            .collect();
        while answered.load(Ordering::SeqCst) < ANSWERS {
            assert!(clients.iter().all(|client| !client.is_finished()), "a client stopped before the kill");
            tokio::task::yield_now().await;
        }
        killed.store(true, Ordering::SeqCst);
        gateway.child.kill().unwrap();
        gateway.child.wait().unwrap();
        for client in clients {
            known.extend(client.await.unwrap());
        }
    }

    let gateway = start();
    let client = http;
    let chain = format!("{}/api/v1/evidence/chains/decisions", gateway.url);
    let verified = read_as(&client, api_key, &format!("{chain}/verify")).await;
    assert_eq!(verified.member("valid"), Some(&Json::Bool(true)), "{verified}");

    let export = read_as(&client, api_key, &chain).await;
    let Some(Json::Array(events)) = export.member("events") else { panic!("{export}") };
    let recorded: std::collections::HashSet<_> =
        events.iter().filter_map(|event| text(event, "event_id")).collect();
    assert!(known.len() >= kills * ANSWERS);
    let lost: Vec<_> = known.values().filter(|event| !recorded.contains(event.as_str())).collect();
    assert!(lost.is_empty(), "{} of {} decisions are not in the ledger: {lost:?}", lost.len(), known.len());
    assert_eq!(recorded.len(), events.len());
    assert_eq!(verified.member("length").unwrap().to_string(), events.len().to_string());

    // A retry after the crash returns the same response.
    for (key, event) in known.iter().take(50) {
        let body = refund("4900", &format!(r#", "idempotency_key": "{key}""#));
        let again = decide(&client, &gateway.url, api_key, body).await.unwrap();
        assert_eq!(text(&again, "evidence_event_id"), Some(event.as_str()));
    }
}

/// Writes settings of gateways that share a new database and returns its URL; `None` if PostgreSQL
/// is not available.
#[cfg(unix)]
fn settings_with_database(folder: &Path) -> Option<String> {
    let url = common::database_url()?;
    let settings = common::config("").replace(
        "data = \"data.db\"",
        &format!(
            "database_url = \"{url}\"\nmaster_key_file = \"master.key\"\nissuer = \"https://gateway.example\""
        ),
    );
    std::fs::write(folder.join("gateway.toml"), settings).unwrap();
    std::fs::write(folder.join("master.key"), "07".repeat(32)).unwrap();
    Some(url)
}

/// Sends a body `count` times concurrently over both gateways and returns the responses.
#[cfg(unix)]
async fn race(gateways: &[Running; 2], count: usize, body: &str) -> Vec<String> {
    /// Below the number of concurrent requests that a slow gateway still accepts.
    const AT_ONCE: usize = 60;

    let http = common::client();
    let racing: Vec<_> = (0..AT_ONCE)
        .map(|racer| {
            let (http, body) = (http.clone(), body.to_owned());
            let urls = [gateways[0].url.clone(), gateways[1].url.clone()];
            tokio::spawn(async move {
                let mut answers = Vec::new();
                for number in (racer..count).step_by(AT_ONCE) {
                    let url = &urls[(racer + number / AT_ONCE) % 2];
                    let response = decide(&http, url, "apk_one", body.clone()).await.unwrap();
                    answers.push(response.to_string());
                }
                answers
            })
        })
        .collect();
    let mut answers = Vec::new();
    for racer in racing {
        answers.extend(racer.await.unwrap());
    }
    answers
}

/// Races 64 clients over two gateways, one of which is killed and restarted twice. A client repeats
/// a lost request under its idempotency key at the other gateway.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn budget_holds_over_two_gateways_and_kills() {
    const CLIENTS: usize = 64;
    const TRIES: usize = 40;

    let folder = TempDir::new().unwrap();
    let Some(_) = settings_with_database(folder.path()) else { return };
    let policy = r#"{"id": "p", "version": 1, "budgets": [{"name": "b", "when": [], "per": ["agent_id"],
        "sum": "args.amount", "limit": 1000, "window": "1s", "on_exceed": "deny", "reason": "b.limit"}],
        "rules": [{"name": "r", "when": [], "decision": "allow", "reason": "r.allow"}]}"#;
    std::fs::write(folder.path().join("policy.json"), policy).unwrap();
    let settings = folder.path().join("gateway.toml");
    let text_of_settings = std::fs::read_to_string(&settings).unwrap();
    let own = text_of_settings.replace(&common::shipped_policy("dev.json"), "policy.json");
    std::fs::write(&settings, own).unwrap();
    let mut gateways = [Running::serve(folder.path()), Running::serve(folder.path())];
    let urls = Arc::new(std::sync::Mutex::new(gateways.each_ref().map(|gateway| gateway.url.clone())));
    let done = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (urls, done, http) = (Arc::clone(&urls), Arc::clone(&done), common::client());
            tokio::spawn(async move {
                let mut random = common::random(u64::try_from(number).unwrap());
                for attempt in 0..TRIES {
                    let more = format!(r#", "idempotency_key": "{number}-{attempt}""#);
                    let body = refund(&random(100).to_string(), &more);
                    let mut at = number % 2;
                    loop {
                        let url = urls.lock().unwrap()[at].clone();
                        if decide(&http, &url, "apk_one", body.clone()).await.is_ok() {
                            break;
                        }
                        at = 1 - at;
                        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for share in [3, 6] {
        while done.load(Ordering::SeqCst) < CLIENTS * TRIES * share / 10 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        gateways[1].child.kill().unwrap();
        gateways[1] = Running::serve(folder.path());
        urls.lock().unwrap()[1].clone_from(&gateways[1].url);
    }
    for client in clients {
        client.await.unwrap();
    }
    let http = common::client();
    let chain = format!("{}/api/v1/evidence/chains/decisions", gateways[0].url);
    let chain = read_as(&http, "apdv_one", &chain).await;
    let Some(Json::Array(events)) = chain.member("events") else { panic!("{chain}") };
    let (allowed, refused) = common::assert_windows(events, 1_000, 1000);
    assert!(allowed + refused >= CLIENTS * TRIES && allowed > 20 && refused > 100, "{allowed}, {refused}");
    // Each key was allowed at most once.
    let mut keys = HashMap::new();
    for event in events.iter().filter(|event| event.member("budgets").is_some()) {
        if text(event, "decision") == Some("allow") {
            *keys.entry(text(event, "idempotency_hash").unwrap()).or_insert(0) += 1;
        }
    }
    assert!(keys.values().all(|allowed| *allowed == 1), "{keys:?}");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_share_one_database() {
    const RACERS: usize = 1000;

    let folder = TempDir::new().unwrap();
    let Some(_) = settings_with_database(folder.path()) else { return };
    let gateways = [Running::serve(folder.path()), Running::serve(folder.path())];
    let client = common::client();
    let post = async |gateway: &Running, key: &str, path: &str, body: &str| {
        let request = client.post(format!("{}/api/v1/{path}", gateway.url)).bearer_auth(key);
        let request = request.header("content-type", "application/json").body(body.to_owned());
        let response = request.send().await.unwrap().error_for_status().unwrap();
        Json::parse(&response.bytes().await.unwrap()).unwrap()
    };
    let length = async || {
        let mut lengths = Vec::new();
        for gateway in &gateways {
            let chain = format!("{}/api/v1/evidence/chains/decisions/verify", gateway.url);
            let verified = read_as(&client, "apk_one", &chain).await;
            assert_eq!(verified.member("valid"), Some(&Json::Bool(true)), "{verified}");
            lengths.push(verified.member("length").unwrap().to_string().parse::<usize>().unwrap());
        }
        assert_eq!(lengths[0], lengths[1]);
        lengths[0]
    };
    let count = |answers: &[String], reason: &str| {
        answers.iter().filter(|response| response.contains(&format!(r#""reason_code":"{reason}""#))).count()
    };

    // A passport.
    let asked = r#"{"audience": "a", "goal": "refund an order", "agent_id": "sdk",
                    "allowed_tools": ["refunds.create"]}"#;
    let passport = post(&gateways[0], "apk_one", "passports/issue", asked).await;
    let token = text(&passport, "token").unwrap();
    let shown = format!(r#", "audience": "a", "passport": "{token}""#);
    let answers = race(&gateways, RACERS, &refund("4900", &shown)).await;
    let allowed = answers.iter().filter(|response| response.contains(r#""decision":"allow""#)).count();
    assert_eq!((answers.len(), allowed, count(&answers, "passport.replayed")), (RACERS, 1, RACERS - 1));
    assert_eq!(length().await, 1 + RACERS);

    // Revoked at the other gateway.
    let revoked = post(&gateways[0], "apk_one", "passports/issue", asked).await;
    let body = format!(r#"{{"jti": "{}"}}"#, text(&revoked, "jti").unwrap());
    post(&gateways[1], "apk_one", "passports/revoke", &body).await;
    let shown = format!(r#", "audience": "a", "passport": "{}""#, text(&revoked, "token").unwrap());
    let denied = decide(&client, &gateways[0].url, "apk_one", refund("1", &shown)).await.unwrap();
    assert_eq!(text(&denied, "reason_code"), Some("passport.revoked"));

    // An approval: opened at one gateway, decided at the other during a wait at the first, spent
    // once.
    let before = length().await;
    let asks = decide(&client, &gateways[0].url, "apk_one", refund("25000", "")).await.unwrap();
    let id = text(&asks, "approval_request_id").unwrap();
    let url = format!("{}/api/v1/approvals/{id}?wait=25", gateways[0].url);
    let waiting = read_as(&client, "apk_one", &url);
    let approve = format!("approvals/{id}/approve");
    let started = std::time::Instant::now();
    let (waited, _) = tokio::join!(waiting, post(&gateways[1], "apdv_one", &approve, "{}"));
    assert_eq!(text(&waited, "status"), Some("approved"));
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "waited until the timeout");
    let named = format!(r#", "approval_request_id": "{id}""#);
    let answers = race(&gateways, 200, &refund("25000", &named)).await;
    assert_eq!((count(&answers, "approval.approved"), count(&answers, "approval.spent")), (1, 199));
    assert_eq!(length().await, before + 202);

    // An idempotency key.
    let answers = race(&gateways, 200, &refund("4900", r#", "idempotency_key": "i""#)).await;
    let answers: Vec<_> = answers.iter().map(|response| Json::parse(response.as_bytes()).unwrap()).collect();
    let (repeated, first): (Vec<_>, Vec<_>) =
        answers.iter().partition(|response| response.member("replayed").is_some());
    assert_eq!((first.len(), repeated.len()), (1, 199), "{answers:?}");
    repeated.iter().for_each(|again| common::assert_repeats(again, first[0]));
    assert_eq!(length().await, before + 203);

    // Commands during operation.
    let rotated = run(folder.path(), &["keys", "rotate", "--config", "gateway.toml"]);
    assert_eq!(rotated.status.code(), Some(0), "{}", err(&rotated));
    let later = post(&gateways[0], "apk_one", "passports/issue", asked).await;
    let shown = format!(r#", "audience": "a", "passport": "{}""#, text(&later, "token").unwrap());
    let used = decide(&client, &gateways[1].url, "apk_one", refund("1", &shown)).await.unwrap();
    assert_eq!(text(&used, "decision"), Some("allow"), "{used}");
    let export = ["evidence", "export", "decisions", "--config", "gateway.toml", "--tenant", "one"];
    let exported = run(folder.path(), &export);
    assert_eq!(exported.status.code(), Some(0), "{}", err(&exported));
    std::fs::write(folder.path().join("export"), &exported.stdout).unwrap();
    let checked = run(folder.path(), &["evidence", "verify", "export"]);
    assert!(out(&checked).starts_with(&format!("{} events, ", before + 205)), "{}", out(&checked));
    for gateway in gateways {
        let (code, _, log) = gateway.end("TERM");
        assert_eq!(code, Some(0), "{log}");
        assert!(!log.contains("_password_secret") && !log.contains("ERROR"), "{log}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn database_url_from_environment_reveals_no_password() {
    let folder = TempDir::new().unwrap();
    let Some(url) = settings_with_database(folder.path()) else { return };
    let settings = std::fs::read_to_string(folder.path().join("gateway.toml")).unwrap();
    let without: String = settings
        .lines()
        .filter(|line| !line.starts_with("database_url"))
        .map(|line| format!("{line}\n"))
        .collect();
    let serve = |settings: &str, url: &str| {
        std::fs::write(folder.path().join("gateway.toml"), settings).unwrap();
        let mut command = command(folder.path(), &["serve", "--config", "gateway.toml"]);
        command.env("ACTPASS_DATABASE_URL", url);
        command
    };
    for (settings, url, code, expected) in [
        (
            &settings,
            url.as_str(),
            2,
            "database_url: conflicts with the environment variable \
        ACTPASS_DATABASE_URL",
        ),
        (&without, "pg_password_secret", 2, "ACTPASS_DATABASE_URL: expected postgresql://"),
        (&common::config(""), &url, 2, "data: conflicts with ACTPASS_DATABASE_URL"),
        (&without, &url.replace("pg_", "no_pg_"), 1, "password authentication failed"),
        (&without, &url.replace("/test", "/none"), 1, "does not exist"),
        (&without, "postgresql://u:pg_password_secret@127.0.0.1:1/l", 1, "the database 127.0.0.1:1/l: "),
    ] {
        let output = serve(settings, url).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{expected}: {}", err(&output));
        assert!(err(&output).contains(expected), "{expected}: {}", err(&output));
        assert!(!err(&output).contains("password_secret") && out(&output).is_empty(), "{}", err(&output));
    }
    let early = |arguments: &[&str]| {
        let output = command(folder.path(), arguments).env("ACTPASS_DATABASE_URL", &url).output().unwrap();
        (output.status.code(), err(&output))
    };
    let export = ["evidence", "export", "decisions", "--config", "gateway.toml", "--tenant", "one"];
    for arguments in [&["keys", "rotate", "--config", "gateway.toml"][..], &export] {
        let (code, error) = early(arguments);
        assert!(code == Some(1) && error.contains("start this version once to migrate it"), "{error}");
    }
    let mut child = serve(&without, &url).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let url = line.trim_end().strip_prefix("listening on ").unwrap().to_owned();
    let gateway = Running { child, url, out: output, log: PathBuf::from("/dev/null") };
    decide(&common::client(), &gateway.url, "apk_one", refund("1", "")).await.unwrap();
    let (code, error) = early(&export);
    assert_eq!(code, Some(0), "{error}");
    let both = run(folder.path(), &[&export[..], &["--data", "data.db"]].concat());
    assert_eq!(both.status.code(), Some(2), "{}", err(&both));
}

/// Every response is recorded, even if the database server closes connections.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_connections_under_load_lose_no_response() {
    const CLIENTS: usize = 32;
    const KILLS: usize = 20;

    let folder = TempDir::new().unwrap();
    let Some(url) = settings_with_database(folder.path()) else { return };
    let gateway = Running::serve(folder.path());
    let client = common::client();
    let ended = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (url, client) = (gateway.url.clone(), client.clone());
            let (ended, answered) = (Arc::clone(&ended), Arc::clone(&answered));
            tokio::spawn(async move {
                let mut given = Vec::new();
                for attempt in 0.. {
                    if ended.load(Ordering::SeqCst) {
                        break;
                    }
                    let key = format!(r#", "idempotency_key": "{number}-{attempt}""#);
                    match decide(&client, &url, "apk_one", refund("4900", &key)).await {
                        Ok(response) => {
                            given.push(text(&response, "evidence_event_id").unwrap().to_owned());
                            answered.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(error) => assert_eq!(error.status().unwrap(), 503, "{error}"),
                    }
                }
                given
            })
        })
        .collect();
    let server = actpass_test_postgres::server().unwrap().unwrap();
    let database = url.rsplit_once('/').unwrap().1;
    let kill =
        format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{database}'");
    for _ in 0..KILLS {
        let before = answered.load(Ordering::SeqCst);
        while answered.load(Ordering::SeqCst) < before + CLIENTS {
            assert!(clients.iter().all(|client| !client.is_finished()), "a client stopped early");
            tokio::task::yield_now().await;
        }
        server.run("postgres", &kill).unwrap();
    }
    ended.store(true, Ordering::SeqCst);
    let mut known = Vec::new();
    for client in clients {
        known.extend(client.await.unwrap());
    }
    let chain = format!("{}/api/v1/evidence/chains/decisions", gateway.url);
    let verified = read_as(&client, "apk_one", &format!("{chain}/verify")).await;
    assert_eq!(verified.member("valid"), Some(&Json::Bool(true)), "{verified}");
    let export = read_as(&client, "apk_one", &chain).await;
    let Some(Json::Array(events)) = export.member("events") else { panic!("{export}") };
    let recorded: std::collections::HashSet<_> =
        events.iter().filter_map(|event| text(event, "event_id")).collect();
    assert_eq!(recorded.len(), events.len());
    let lost: Vec<_> = known.iter().filter(|event| !recorded.contains(event.as_str())).collect();
    assert!(lost.is_empty(), "{} of {} decisions are not in the ledger: {lost:?}", lost.len(), known.len());
}

/// Forwards connections to the database of a gateway, and can be cut.
#[cfg(unix)]
struct Link {
    port: u16,
    is_up: tokio::sync::watch::Sender<bool>,
}

#[cfg(unix)]
impl Link {
    /// Forwards to a port of 127.0.0.1.
    async fn to(database: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (is_up, state) = tokio::sync::watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut state = state.clone();
                tokio::spawn(async move {
                    if !*state.borrow() {
                        return;
                    }
                    let Ok(mut far) = tokio::net::TcpStream::connect(("127.0.0.1", database)).await else {
                        return;
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = state.wait_for(|is_up| !is_up) => {}
                    }
                });
            }
        });
        Self { port, is_up }
    }
}

/// A request of a client: its gateway, when it was sent and answered, and the answer; `None` for an
/// error.
#[cfg(unix)]
struct Sent {
    client: usize,
    at: std::time::Instant,
    until: std::time::Instant,
    allowed: Option<bool>,
}

/// The requests of 64 clients over two gateways so far.
#[cfg(unix)]
#[derive(Clone, Default)]
struct Traffic(Arc<std::sync::Mutex<Vec<Sent>>>);

#[cfg(unix)]
impl Traffic {
    const CLIENTS: usize = 64;

    fn start(gateways: &[Running; 2], stop: &Arc<AtomicBool>) -> (Self, Vec<tokio::task::JoinHandle<()>>) {
        let traffic = Self::default();
        let clients = (0..Self::CLIENTS)
            .map(|client| {
                let (traffic, stop, url) =
                    (traffic.clone(), Arc::clone(stop), gateways[client % 2].url.clone());
                tokio::spawn(async move {
                    let http = common::client();
                    while !stop.load(Ordering::SeqCst) {
                        let at = std::time::Instant::now();
                        let answer = decide(&http, &url, "apk_one", refund("100", "")).await;
                        let allowed = answer.ok().map(|answer| text(&answer, "decision") == Some("allow"));
                        let until = std::time::Instant::now();
                        traffic.0.lock().unwrap().push(Sent { client, at, until, allowed });
                    }
                })
            })
            .collect();
        (traffic, clients)
    }

    fn count(&self, counts: impl Fn(&Sent) -> bool) -> usize {
        self.0.lock().unwrap().iter().filter(|sent| counts(sent)).count()
    }

    /// Waits until each of these clients has sent a request after `after` with such an answer.
    async fn wait_for_each(
        &self,
        after: std::time::Instant,
        clients: impl Fn(usize) -> bool,
        answer: impl Fn(Option<bool>) -> bool,
    ) {
        loop {
            let found: std::collections::HashSet<_> = {
                let sent = self.0.lock().unwrap();
                let matching = sent.iter().filter(|sent| sent.at > after && answer(sent.allowed));
                matching.map(|sent| sent.client).collect()
            };
            if (0..Self::CLIENTS).filter(|client| clients(*client)).all(|client| found.contains(&client)) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
}

/// Stops 64 clients of two gateways `rounds` times, and a last time while one gateway is cut off from
/// the database. Returns the milliseconds from each call to its answer and to the last allow.
#[cfg(unix)]
async fn stop_under_load(rounds: usize) -> Option<Vec<(f64, f64)>> {
    use std::time::Instant;

    let folder = TempDir::new().unwrap();
    let url = settings_with_database(folder.path())?;
    let (_, place) = url.rsplit_once(':').unwrap();
    let (port, _) = place.split_once('/').unwrap();
    let link = Link::to(port.parse().unwrap()).await;
    let settings = std::fs::read_to_string(folder.path().join("gateway.toml")).unwrap();
    let linked = settings.replace(&format!(":{port}/"), &format!(":{}/", link.port));
    assert_ne!(linked, settings);
    std::fs::write(folder.path().join("linked.toml"), linked).unwrap();
    let gateways =
        [Running::serve(folder.path()), Running::start(folder.path(), &["serve", "--config", "linked.toml"])];
    let http = common::client();
    let base = format!("{}/api/v1/halts", gateways[0].url);
    let call = async |request: reqwest::RequestBuilder, body: &str| {
        let request = request.bearer_auth("apdv_one").header("content-type", "application/json");
        let answer = request.body(body.to_owned()).send().await.unwrap().error_for_status().unwrap();
        Json::parse(&answer.bytes().await.unwrap()).unwrap()
    };
    let is_allowed = |answer: Option<bool>| answer == Some(true);
    let stop = Arc::new(AtomicBool::new(false));
    let (traffic, clients) = Traffic::start(&gateways, &stop);
    let mut timings = Vec::new();
    for round in 0..=rounds {
        let is_cut = round == rounds;
        traffic.wait_for_each(Instant::now(), |_| true, is_allowed).await;
        let called = Instant::now();
        if is_cut {
            link.is_up.send_replace(false);
        }
        let halt = call(http.post(&base), r#"{"scope": "tenant", "reason": "drill"}"#).await;
        let answered = Instant::now();
        // Each client sends two requests after the answer.
        for _ in 0..2 {
            traffic.wait_for_each(Instant::now(), |_| true, |answer| answer != Some(true)).await;
        }
        assert_eq!(traffic.count(|sent| sent.at > answered && is_allowed(sent.allowed)), 0, "round {round}");
        let last = {
            let sent = traffic.0.lock().unwrap();
            let allows = sent.iter().filter(|sent| is_allowed(sent.allowed) && sent.until > called);
            allows.map(|sent| sent.until.duration_since(called)).max().unwrap_or_default()
        };
        timings.push((answered.duration_since(called).as_secs_f64() * 1e3, last.as_secs_f64() * 1e3));
        if is_cut {
            let errors =
                traffic.count(|sent| sent.client % 2 == 1 && sent.at > answered && sent.allowed.is_none());
            assert!(errors >= Traffic::CLIENTS / 2, "{errors}");
        }
        let epoch = halt.member("halt_epoch").unwrap().to_string();
        for client in 0..Traffic::CLIENTS {
            let url = if is_cut { &gateways[0].url } else { &gateways[client % 2].url };
            let body = format!(r#"{{"epoch": {epoch}, "in_flight": 0, "instance": "client {client}"}}"#);
            call(http.post(format!("{url}/api/v1/halts/ack")), &body).await;
        }
        let lifted = Instant::now();
        let id = text(&halt, "id").unwrap();
        call(http.delete(format!("{base}/{id}")), r#"{"reason": "drill ended"}"#).await;
        traffic.wait_for_each(lifted, |client| !is_cut || client % 2 == 0, is_allowed).await;
        link.is_up.send_replace(true);
        traffic.wait_for_each(lifted, |_| true, is_allowed).await;
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    let exported = run(
        folder.path(),
        &["evidence", "export", "decisions", "--config", "gateway.toml", "--tenant", "one"],
    );
    std::fs::write(folder.path().join("export"), &exported.stdout).unwrap();
    let verified = run(folder.path(), &["evidence", "verify", "export"]);
    let (halts, acknowledged) = (rounds + 1, (rounds + 1) * Traffic::CLIENTS);
    let expected = format!(
        "{halts} halts, 0 active at the end, {acknowledged} acknowledgements, no allow during a halt"
    );
    assert!(out(&verified).contains(&expected), "{} {}", out(&verified), err(&verified));
    Some(timings)
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn halt_stops_clients_of_two_gateways_one_of_them_cut_off() {
    stop_under_load(1).await;
}

/// Measures halts: `cargo test -p actpass-gateway --test process measure_halts -- --ignored --nocapture`.
#[cfg(unix)]
#[ignore = "measures; run with --ignored --nocapture"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measure_halts() {
    let Some(mut timings) = stop_under_load(20).await else { return };
    let (_, last) = timings.pop().unwrap();
    for (name, mut times) in [
        ("to the answer", timings.iter().map(|(answer, _)| *answer).collect::<Vec<_>>()),
        ("to the last allow", timings.iter().map(|(_, last)| *last).collect()),
    ] {
        times.sort_by(f64::total_cmp);
        println!("{name}: median {:.1} ms, maximum {:.1} ms", times[times.len() / 2], times[times.len() - 1]);
    }
    println!("with one gateway cut off, to the last allow: {last:.1} ms");
}

#[test]
fn halts_command_stops_and_lifts_on_the_data() {
    let folder = TempDir::new().unwrap();
    let gateway = Running::dev(folder.path());
    let data = ["--data", ".actpass/dev.db"];
    let halts = |arguments: &[&str]| run(folder.path(), &[&["halts"], arguments, &data].concat());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ask = || {
        let http = common::client();
        let asked = runtime.block_on(decide(&http, &gateway.url, "apk_dev", refund("100", ""))).unwrap();
        text(&asked, "reason_code").unwrap().to_owned()
    };
    assert_eq!(ask(), "refund.small_in_scope");
    let added = halts(&["add", "agent", "sdk", "--tenant", "dev", "--reason", "it pays twice"]);
    let line = out(&added);
    assert!(
        added.status.success() && line.contains("agent\tsdk") && line.contains("it pays twice"),
        "{line}"
    );
    assert_eq!(ask(), "halted");
    let id = line.split('\t').next().unwrap();
    assert_eq!(out(&halts(&["list"])), line);
    for (arguments, problem) in [
        (&["add", "agent", "--tenant", "dev", "--reason", "r"][..], "missing ID"),
        (&["add", "tenant", "x", "--tenant", "dev", "--reason", "r"], "unexpected ID"),
        (&["add", "agent", "x", "--reason", "r"], "--tenant: missing"),
        (&["add", "all", "--tenant", "dev", "--reason", "r"], "--tenant: unexpected"),
        (&["add", "agent", "x", "--tenant", "dev", "--reason", ""], "--reason: expected 1 to 2000"),
        (&["lift", "halt_0", "--reason", "r"], "there is no active halt"),
    ] {
        let refused = halts(arguments);
        assert_eq!(refused.status.code(), Some(1), "{arguments:?}");
        assert!(err(&refused).contains(problem), "{arguments:?}: {}", err(&refused));
    }
    let lifted = out(&halts(&["lift", id, "--reason", "fixed"]));
    assert!(lifted.contains("by (command line): fixed"), "{lifted}");
    assert_eq!(ask(), "refund.small_in_scope");
    assert_eq!(out(&halts(&["list"])), "");
    assert_eq!(out(&halts(&["list", "--all"])), lifted);
    gateway.end("TERM");
}

/// Clients of a gateway that restarts with a socket of its supervisor are never refused: connections wait
/// for the next gateway.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_with_inherited_socket_refuses_no_connection() {
    const RESTARTS: usize = 4;
    common::install_provider();
    let folder = TempDir::new().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let config = common::config("").replace("127.0.0.1:0", &address);
    std::fs::write(folder.path().join("gateway.toml"), &config).unwrap();
    let mut gateway = Running::inheriting(folder.path(), &listener);
    assert_eq!(gateway.url, format!("http://{address}"));

    let done = Arc::new(AtomicBool::new(false));
    let (decided, retried) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|number| {
            // Half of the clients use a connection for each request.
            let idle = if number % 2 == 0 { 0 } else { 1 };
            let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(idle).build().unwrap();
            let (done, decided, retried) = (Arc::clone(&done), Arc::clone(&decided), Arc::clone(&retried));
            let url = gateway.url.clone();
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    match decide(&client, &url, "apk_one", refund("1", "")).await {
                        Ok(_) => decided.fetch_add(1, Ordering::Relaxed),
                        Err(error) if error.is_connect() => panic!("refused: {error:?}"),
                        // The gateway closed an idle connection when the request arrived.
                        Err(_) => retried.fetch_add(1, Ordering::Relaxed),
                    };
                }
            })
        })
        .collect();
    let more = async |count: usize| {
        let enough = decided.load(Ordering::Relaxed) + count;
        while decided.load(Ordering::Relaxed) < enough {
            assert!(!clients.iter().any(tokio::task::JoinHandle::is_finished), "a client was refused");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    for _ in 0..RESTARTS {
        more(50).await;
        let (code, _, log) = tokio::task::spawn_blocking(move || gateway.end("TERM")).await.unwrap();
        assert_eq!(code, Some(0), "{log}");
        let (path, socket) = (folder.path().to_owned(), listener.try_clone().unwrap());
        gateway = tokio::task::spawn_blocking(move || Running::inheriting(&path, &socket)).await.unwrap();
    }
    more(50).await;
    done.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    println!("{RESTARTS} restarts, {decided:?} decisions, 0 refused, {retried:?} closed connections");
    assert_eq!(gateway.end("TERM").0, Some(0));

    // A socket with another address than the settings is an error.
    std::fs::write(
        folder.path().join("gateway.toml"),
        common::config("").replace("127.0.0.1:0", "127.0.0.2:0"),
    )
    .unwrap();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = std::os::fd::OwnedFd::from(other);
    let script = "exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"";
    let mut command = Command::new("sh");
    command.current_dir(folder.path()).args(["-c", script, "sh", env!("CARGO_BIN_EXE_actpass-gateway")]);
    let output =
        command.args(["serve", "--config", "gateway.toml"]).stdin(Stdio::from(socket)).output().unwrap();
    assert!(!output.status.success());
    assert!(err(&output).contains("the inherited socket 127.0.0.1:"), "{}", err(&output));
}

/// Goodput and latency at twice the load that the gateway can carry, with and without shedding. Prints a
/// table; `docs/gateway/operations.md` has the command. Answers within a second count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures for a minute"]
async fn goodput_at_twice_the_load() {
    const SECONDS: u64 = 10;
    common::install_provider();
    let deadline = std::time::Duration::from_secs(1);
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge();
            client.timeout(deadline).build().unwrap()
        })
        .collect();
    let start = |limits: &str| {
        let folder = TempDir::new().unwrap();
        let config = common::config(limits).replace("data = ", "log_level = \"error\"\ndata = ");
        std::fs::write(folder.path().join("gateway.toml"), config).unwrap();
        let gateway = Running::serve(folder.path());
        (folder, gateway)
    };
    let (without, with) = ("decisions = 1000000\ndecision_latency_ms = 1000000\n", "");

    // The capacity: 64 clients that wait for their answers.
    let (_folder, gateway) = start(with);
    let answered = Arc::new(AtomicUsize::new(0));
    let waiting: Vec<_> = (0..64)
        .map(|number| {
            let (client, url) = (clients[number % clients.len()].clone(), gateway.url.clone());
            let answered = Arc::clone(&answered);
            tokio::spawn(async move {
                loop {
                    if decide(&client, &url, "apk_one", refund("1", "")).await.is_ok() {
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let before = answered.load(Ordering::Relaxed);
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let capacity = (answered.load(Ordering::Relaxed) - before) / 5;
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    drop(gateway);
    println!("capacity: {capacity}/s; offered: {}/s for {SECONDS} s", 2 * capacity);
    println!("| shedding | goodput/s | p50 ms | p99 ms | refused | p99 of refusals ms | later than 1 s |");
    println!("|---|---|---|---|---|---|---|");
    for (name, limits) in [("off", without), ("on", with), ("off", without), ("on", with)] {
        let (_folder, gateway) = start(limits);
        let begun = tokio::time::Instant::now();
        let count = 2 * capacity * usize::try_from(SECONDS).unwrap();
        let mut running = tokio::task::JoinSet::new();
        for number in 0..count {
            let at = std::time::Duration::from_secs_f64(number as f64 / (2 * capacity) as f64);
            tokio::time::sleep_until(begun + at).await;
            let (client, url) = (clients[number % clients.len()].clone(), gateway.url.clone());
            running.spawn(async move {
                let asked = std::time::Instant::now();
                let request = client.post(format!("{url}{PREFLIGHT}")).bearer_auth("apk_one");
                let request = request.header("content-type", "application/json").body(refund("1", ""));
                let response = async { request.send().await?.error_for_status()?.bytes().await };
                let status = match response.await {
                    Ok(_) => Some(200),
                    Err(error) => error.status().map(|status| status.as_u16()),
                };
                (status, asked.elapsed().as_secs_f64() * 1000.0)
            });
        }
        let took = begun.elapsed().as_secs_f64();
        let (mut good, mut refused, mut late) = (Vec::new(), Vec::new(), 0);
        while let Some(ended) = running.join_next().await {
            match ended.unwrap() {
                (Some(200), millis) => good.push(millis),
                (Some(_), millis) => refused.push(millis),
                (None, _) => late += 1,
            }
        }
        let quantile = |values: &mut Vec<f64>, percent: usize| {
            values.sort_by(f64::total_cmp);
            let last = values.len().saturating_sub(1);
            values.get(last * percent / 100).copied().unwrap_or(f64::NAN)
        };
        let (goodput, count) = (good.len() as f64 / took, refused.len());
        println!(
            "| {name} | {goodput:.0} | {:.0} | {:.0} | {count} | {:.0} | {late} |",
            quantile(&mut good, 50),
            quantile(&mut good, 99),
            quantile(&mut refused, 99)
        );
    }
}
