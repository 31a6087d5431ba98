//! The program itself: started, signalled, killed, and its command line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use actpass_core::{Json, hash_payload};
use common::{PREFLIGHT, refund, text};
use tempfile::TempDir;

/// The running program.
struct Running {
    child: Child,
    url: String,
    out: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Running {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        // Each has its own, also of several in one folder.
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let log = folder.join(format!("log{}", STARTED.fetch_add(1, Ordering::Relaxed)));
        let file = std::fs::File::create(&log).unwrap();
        let mut child = command(folder, arguments).stdout(Stdio::piped()).stderr(file).spawn().unwrap();
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

    /// Its exit code and all that it still printed, after this signal.
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

/// A test that fails leaves nothing running.
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
async fn dev_decides_as_soon_as_it_says_that_it_listens() {
    let folder = TempDir::new().unwrap();
    let gateway = Running::dev(folder.path());
    let client = common::client();
    for key in ["apk_dev", "apdv_dev"] {
        let answer = decide(&client, &gateway.url, key, refund("4900", "")).await.unwrap();
        assert_eq!(text(&answer, "reason_code"), Some("refund.small_in_scope"));
    }
    assert!(folder.path().join(".actpass/dev.db").exists());
    let (code, rest, _) = gateway.end("INT");
    assert_eq!((code, rest.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn a_termination_finishes_what_was_begun() {
    let folder = TempDir::new().unwrap();
    let gateway = Running::dev(folder.path());
    let client = common::client();
    let url = gateway.url.clone();
    decide(&client, &url, "apk_dev", refund("1", "")).await.unwrap();

    // A request that is half sent when the signal comes.
    let mut half = std::net::TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    let body = refund("4900", "");
    let head = format!(
        "POST {PREFLIGHT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer apk_dev\r\nexpect: 100-continue\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    half.write_all(head.as_bytes()).unwrap();
    // The gateway asks for the body: it has begun.
    let mut begun = [0; 25];
    half.read_exact(&mut begun).unwrap();
    assert!(begun.starts_with(b"HTTP/1.1 100 Continue\r\n"));

    let ending = std::thread::spawn(move || gateway.end("TERM"));
    // It takes no new connections once it has heard the signal.
    while std::net::TcpStream::connect(url.strip_prefix("http://").unwrap()).is_ok() {
        tokio::task::yield_now().await;
    }
    half.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    half.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("refund.small_in_scope"), "{answer}");

    let (code, _, log) = ending.join().unwrap();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stopped"), "{log}");
    assert!(!folder.path().join(".actpass/dev.db-wal").exists(), "the store was not flushed");
    let again = Running::dev(folder.path());
    let verified = read(&client, &format!("{}/api/v1/evidence/chains/decisions/verify", again.url)).await;
    assert_eq!(verified.member("length").unwrap().to_string(), "2");
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_nothing() {
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
    // More lines than a pipe holds.
    for _ in 0..1000 {
        let health = client.get(format!("{}/healthz", gateway.url)).send().await.unwrap();
        assert_eq!(health.status(), 200);
    }
}

#[tokio::test]
async fn serve_is_what_its_settings_say_and_logs_no_secret() {
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
fn a_wrong_start_ends_with_its_reason() {
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
fn a_second_gateway_on_the_same_data_does_not_start() {
    let folder = TempDir::new().unwrap();
    let _first = Running::dev(folder.path());
    let second = run(folder.path(), &["dev", "--listen", "127.0.0.1:0"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(err(&second).contains("dev.db: in use by another gateway"), "{}", err(&second));
}

#[test]
fn an_address_in_use_is_named() {
    let folder = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(folder.path(), &["dev", "--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains(&format!("cannot listen on {address}")), "{}", err(&output));
}

#[test]
fn keys_are_made_and_hashed() {
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
async fn keys_are_rotated_while_the_gateway_runs() {
    let folder = TempDir::new().unwrap();
    let settings = common::config("").replace("[limits]", "master_key_file = \"master.key\"\n[limits]");
    std::fs::write(folder.path().join("gateway.toml"), settings).unwrap();
    std::fs::write(folder.path().join("master.key"), "07".repeat(32)).unwrap();
    let rotate = &["keys", "rotate", "--config", "gateway.toml"];
    let early = run(folder.path(), rotate);
    assert_eq!(early.status.code(), Some(1), "there is no data file yet");

    let gateway = Running::start(folder.path(), &["serve", "--config", "gateway.toml"]);
    let client = common::client();
    let issue = async || {
        let body = r#"{"audience": "a", "goal": "refund an order", "agent_id": "sdk",
                       "allowed_tools": ["refunds.create"]}"#;
        let request = client.post(format!("{}/api/v1/passports/issue", gateway.url)).bearer_auth("apk_one");
        let response = request.header("content-type", "application/json").body(body).send().await.unwrap();
        let answer = Json::parse(&response.bytes().await.unwrap()).unwrap();
        text(&answer, "token").unwrap().to_owned()
    };
    let before = issue().await;
    let rotated = run(folder.path(), rotate);
    assert_eq!(rotated.status.code(), Some(0), "{}", err(&rotated));
    let after = issue().await;
    assert_ne!(before.split('.').next(), after.split('.').next());
    for token in [&before, &after] {
        let body = refund("1", &format!(r#", "audience": "a", "passport": "{token}""#));
        let answer = decide(&client, &gateway.url, "apk_one", body).await.unwrap();
        assert_eq!(text(&answer, "decision"), Some("allow"), "{answer}");
    }
    let kid = out(&rotated);
    let kid = kid.trim_end().strip_prefix("kid = \"").unwrap().trim_end_matches('"');
    let (_, _, log) = gateway.end("TERM");
    assert!(!log.contains("eyJ") && !log.contains("0707"), "{log}");

    // Another master key does not open them, and the one in the environment is the same as in the file.
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
async fn credentials_are_set_listed_and_removed_beside_the_gateway_and_seen_nowhere() {
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
        // It may have refused already, and then does not read.
        let _ = child.stdin.take().unwrap().write_all(given);
        let output = child.wait_with_output().unwrap();
        assert!(!out(&output).contains(TOKEN) && !err(&output).contains(TOKEN), "{output:?}");
        (output.status.code(), out(&output), err(&output))
    };
    let place = ["--config", "gateway.toml", "--tenant", "one"];
    let set =
        |more: &[&str], given: &[u8]| vault(&[&["set", "refunds.create"], &place[..], more].concat(), given);

    let (code, _, error) = set(&[], TOKEN.as_bytes());
    assert!(code == Some(1) && error.contains("data.db"), "no gateway has been there: {error}");
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
            "a tool's name of 1 to 256",
        ),
        (
            &["remove", "t", "--config", "gateway.toml", "--tenant", "one"],
            b"",
            "has no credential for the tool \"t\"",
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
        let answer = decide().await;
        assert!(text(&answer, "credential.token") == Some(token), "{given:?}");
        assert_eq!(text(&answer, "credential_id"), Some(id));
        let (_, listed, _) = vault(&[&["list"], &place[..]].concat(), b"");
        assert_eq!(listed.lines().count(), 1, "{listed}");
        assert!(
            listed.starts_with(&format!("refunds.create\t{id}\tset 20")) && listed.contains(until),
            "{listed}"
        );
    }
    let (_, listed, _) = vault(&["list", "--config", "gateway.toml", "--tenant", "two"], b"");
    assert_eq!(listed, "");

    // A master key that is not the gateway's would seal what the gateway cannot open.
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
fn policies_are_checked_and_tested() {
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
        (&["policy", "check", "good.json"][..], 0, format!("id       p\nversion  3\nhash     {hash}\nrules    1\n"), ""),
        (&["policy", "check", "bad.json"], 1, String::new(), "bad.json: rule \"r\": when: missing"),
        (&["policy", "check", "bad.json"], 1, String::new(), "bad.json: version: missing"),
        (&["policy", "check", "missing.json"], 1, String::new(), "missing.json: "),
        (&["policy", "test", "good.json", "pass.json"], 0, "1 passed, 0 failed\n".to_owned(), ""),
        (
            &["policy", "test", "good.json", "fail.json"],
            1,
            "FAIL other tool\n  - expected decision: allow\n  + actual   decision: deny\n1 passed, 1 failed\n".to_owned(),
            "good.json does not decide as expected",
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
fn tools_are_locked_and_checked() {
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
        (&["tools", "check", "tools.json"], 0, "1 tools, all as in actpass.lock\n", ""),
        (
            &["tools", "check", "changed.json"],
            1,
            "gmail.send: gained inputSchema.properties.bcc\nslack.post: is new\n",
            "changed.json differs from actpass.lock in 2 things",
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

#[tokio::test]
async fn a_chain_is_exported_beside_the_gateway_and_checked_without_it() {
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
    assert_eq!(exported.status.code(), Some(0), "{}", err(&exported));
    let lines: Vec<String> = out(&exported).lines().map(str::to_owned).collect();
    let chain = read(&client, &format!("{}/api/v1/evidence/chains/decisions", gateway.url)).await;
    let Some(Json::Array(events)) = chain.member("events") else { panic!("{chain}") };
    assert_eq!(lines, events.iter().map(Json::to_string).collect::<Vec<_>>());
    for (tenant, chain) in [("other", "decisions"), ("dev", "other")] {
        let none = export(tenant, chain);
        assert_eq!((none.status.code(), out(&none)), (Some(1), String::new()));
        assert!(err(&none).contains(&format!("the tenant {tenant:?} has no chain {chain:?}")));
    }
    drop(gateway);

    let head = text(&events[4], "current_event_hash").unwrap();
    let verify = |lines: &[String], more: &[&str]| {
        std::fs::write(folder.path().join("export"), lines.join("\n")).unwrap();
        let checked = run(folder.path(), &[&["evidence", "verify", "export"], more].concat());
        (checked.status.code(), out(&checked) + &err(&checked))
    };
    let whole = format!("5 events, head {head}, whole\n");
    assert_eq!(verify(&lines, &[]), (Some(0), whole.clone()));
    assert_eq!(verify(&lines, &["--head", head]), (Some(0), whole));

    let name = |at: usize| text(&events[at], "event_id").unwrap().to_owned();
    let damage = |change: &dyn Fn(&mut Vec<String>)| {
        let mut damaged = lines.clone();
        change(&mut damaged);
        damaged
    };
    let edited =
        damage(&|lines| lines[1] = lines[1].replace(r#""decision":"allow""#, r#""decision":"deny""#));
    let removed = damage(&|lines| drop(lines.remove(2)));
    let swapped = damage(&|lines| lines.swap(2, 3));
    let added = damage(&|lines| lines.push("null".to_owned()));
    let cut = damage(&|lines| lines.truncate(4));
    for (damaged, more, expected) in [
        (&edited, &[][..], format!("line 2: event 2 ({}): it was edited", name(1))),
        (&removed, &[], format!("line 3: event 3 ({}): it is event 4 where event 3 must be", name(3))),
        (&swapped, &[], format!("line 3: event 3 ({}): it is event 4 where event 3 must be", name(3))),
        (&added, &[], "line 6: event 6: it is not an event".to_owned()),
        (&cut, &["--head", head], "the chain ends with event 4".to_owned()),
        (&Vec::new(), &[], "there are no events".to_owned()),
    ] {
        let (code, said) = verify(damaged, more);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&expected), "{said}\nexpected: {expected}");
    }
    std::fs::write(folder.path().join("export"), [lines[0].as_bytes(), b"\n{\"a\":\"\xff\"}"].concat())
        .unwrap();
    let no_text = run(folder.path(), &["evidence", "verify", "export"]);
    assert!(err(&no_text).contains("line 2: event 2: it is not an event"), "{}", err(&no_text));
    let missing = run(folder.path(), &["evidence", "verify", "nothing"]);
    assert!(err(&missing).starts_with("nothing: "), "{}", err(&missing));
}

/// Answered means recorded: whatever moment the process dies at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_under_load() {
    let folder = TempDir::new().unwrap();
    survive_kills(20, "apk_dev", || Running::dev(folder.path())).await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_under_load_on_postgresql() {
    let folder = TempDir::new().unwrap();
    let Some(_) = settings_with_database(folder.path()) else { return };
    // What one gateway was killed over, the other must not wait for long.
    let other = Running::serve(folder.path());
    survive_kills(8, "apk_one", || Running::serve(folder.path())).await;
    decide(&common::client(), &other.url, "apk_one", refund("1", "")).await.unwrap();
}

async fn survive_kills(kills: usize, api_key: &'static str, start: impl Fn() -> Running) {
    const CLIENTS: usize = 32;
    /// How many decisions are answered before each kill.
    const ANSWERS: usize = 64;

    let http = common::client();
    // What each idempotency key was answered.
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
                            Ok(answer) => {
                                given.push((key, text(&answer, "evidence_event_id").unwrap().to_owned()));
                                answered.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(error) => {
                                assert!(error.status().is_none(), "answered with an error: {error}");
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
            assert!(clients.iter().all(|client| !client.is_finished()), "a client ended before the kill");
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

    // And a client that asks again after the crash gets its answer again.
    for (key, event) in known.iter().take(50) {
        let body = refund("4900", &format!(r#", "idempotency_key": "{key}""#));
        let again = decide(&client, &gateway.url, api_key, body).await.unwrap();
        assert_eq!(text(&again, "evidence_event_id"), Some(event.as_str()));
    }
}

/// Writes the settings of gateways that share a new database; its URL. `None` where there is no PostgreSQL.
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

/// Sends a body `count` times over both gateways, many at once; the answers' texts.
#[cfg(unix)]
async fn race(gateways: &[Running; 2], count: usize, body: &str) -> Vec<String> {
    const AT_ONCE: usize = 100;

    let http = common::client();
    let racing: Vec<_> = (0..AT_ONCE)
        .map(|racer| {
            let (http, body) = (http.clone(), body.to_owned());
            let urls = [gateways[0].url.clone(), gateways[1].url.clone()];
            tokio::spawn(async move {
                let mut answers = Vec::new();
                for number in (racer..count).step_by(AT_ONCE) {
                    let url = &urls[(racer + number / AT_ONCE) % 2];
                    let answer = decide(&http, url, "apk_one", body.clone()).await.unwrap();
                    answers.push(answer.to_string());
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

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_on_one_database_are_one() {
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
        answers.iter().filter(|answer| answer.contains(&format!(r#""reason_code":"{reason}""#))).count()
    };

    // A passport.
    let asked = r#"{"audience": "a", "goal": "refund an order", "agent_id": "sdk",
                    "allowed_tools": ["refunds.create"]}"#;
    let passport = post(&gateways[0], "apk_one", "passports/issue", asked).await;
    let token = text(&passport, "token").unwrap();
    let shown = format!(r#", "audience": "a", "passport": "{token}""#);
    let answers = race(&gateways, RACERS, &refund("4900", &shown)).await;
    let allowed = answers.iter().filter(|answer| answer.contains(r#""decision":"allow""#)).count();
    assert_eq!((answers.len(), allowed, count(&answers, "passport.replayed")), (RACERS, 1, RACERS - 1));
    assert_eq!(length().await, 1 + RACERS);

    // One that is revoked at the other gateway.
    let revoked = post(&gateways[0], "apk_one", "passports/issue", asked).await;
    let body = format!(r#"{{"jti": "{}"}}"#, text(&revoked, "jti").unwrap());
    post(&gateways[1], "apk_one", "passports/revoke", &body).await;
    let shown = format!(r#", "audience": "a", "passport": "{}""#, text(&revoked, "token").unwrap());
    let denied = decide(&client, &gateways[0].url, "apk_one", refund("1", &shown)).await.unwrap();
    assert_eq!(text(&denied, "reason_code"), Some("passport.revoked"));

    // An approval: asked for at one, decided at the other while somebody waits at the first, spent once.
    let before = length().await;
    let asks = decide(&client, &gateways[0].url, "apk_one", refund("25000", "")).await.unwrap();
    let id = text(&asks, "approval_request_id").unwrap();
    let url = format!("{}/api/v1/approvals/{id}?wait=25", gateways[0].url);
    let waiting = read_as(&client, "apk_one", &url);
    let approve = format!("approvals/{id}/approve");
    let started = std::time::Instant::now();
    let (waited, _) = tokio::join!(waiting, post(&gateways[1], "apdv_one", &approve, "{}"));
    assert_eq!(text(&waited, "status"), Some("approved"));
    assert!(started.elapsed() < std::time::Duration::from_secs(20), "it waited to the end");
    let named = format!(r#", "approval_request_id": "{id}""#);
    let answers = race(&gateways, 200, &refund("25000", &named)).await;
    assert_eq!((count(&answers, "approval.approved"), count(&answers, "approval.spent")), (1, 199));
    assert_eq!(length().await, before + 202);

    // An idempotency key.
    let mut answers = race(&gateways, 200, &refund("4900", r#", "idempotency_key": "i""#)).await;
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(length().await, before + 203);

    // And what an operator does beside them.
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
async fn the_database_may_be_in_the_environment_and_its_password_is_nowhere_else() {
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
        (&settings, url.as_str(), 2, "database_url: the environment has ACTPASS_DATABASE_URL too"),
        (&without, "pg_password_secret", 2, "ACTPASS_DATABASE_URL: expected postgresql://"),
        (&common::config(""), &url, 2, "data: there is ACTPASS_DATABASE_URL too"),
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
        assert!(code == Some(1) && error.contains("or by none; start this version on it once"), "{error}");
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

/// Answered means recorded, also when the database's server ends connections in the middle of everything.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_killed_under_load() {
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
                        Ok(answer) => {
                            given.push(text(&answer, "evidence_event_id").unwrap().to_owned());
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
            assert!(clients.iter().all(|client| !client.is_finished()), "a client ended too early");
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
