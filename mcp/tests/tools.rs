//! `init`, `doctor`, `scan`, changed definitions, hidden tools and passports, with the real gateway.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use actpass_hostile_gateway::{HostileGateway, Script};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The longest wait for an event.
const LIMIT: Duration = Duration::from_secs(60);
const GOAL: &str = "resolve_refund_request";
const PROGRAM: &str = env!("CARGO_BIN_EXE_actpass-mcp");
const SERVER: &str = env!("CARGO_BIN_EXE_actpass-mcp-test-server");

/// A user's home folder, with a project in `project`.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(TempDir::new().unwrap());
        fs::create_dir(home.path("project")).unwrap();
        home
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// A command of the program, without the variables of this process.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).env_clear().env("HOME", self.0.path()).stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap()).current_dir(self.path("project"));
        command
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        ended(&self.command(arguments).output().unwrap())
    }

    /// The content of each file, by path.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.0.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => drop(found.insert(path.clone(), fs::read(path).unwrap())),
                }
            }
        }
        found
    }
}

/// The exit code and all output.
fn ended(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
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

/// A program of the workspace's build, or `None` with a message. In CI a missing program fails.
fn gateway_program() -> Option<PathBuf> {
    let path = Path::new(PROGRAM).with_file_name("actpass-gateway");
    if path.is_file() {
        return Some(path);
    }
    let problem = format!("{} is missing; build it with: cargo build -p actpass-gateway", path.display());
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{problem}");
    eprintln!("SKIPPED: {problem}");
    None
}

/// The real gateway with the refund policy, or another one.
struct Gateway {
    child: Child,
    url: String,
    _folder: TempDir,
}

impl Gateway {
    fn start() -> Option<Self> {
        let program = gateway_program()?;
        let folder = TempDir::new().unwrap();
        let mut command = Command::new(program);
        command.args(["dev", "--listen", "127.0.0.1:0"]).current_dir(folder.path());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let line = lines(child.stdout.take().unwrap()).recv_timeout(LIMIT).unwrap();
        let url = line.strip_prefix("listening on ").unwrap().to_owned();
        Some(Self { child, url, _folder: folder })
    }

    fn post(&self, path: &str, key: &str, body: &Value) -> Value {
        post(&format!("{}{path}", self.url), &format!("authorization: Bearer {key}\r\n"), body)
    }
}

/// Sends a request with `headers`, lines of HTTP, and returns the body of the response 200.
fn post(url: &str, headers: &str, body: &Value) -> Value {
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let body = body.to_string();
    let head = format!("POST /{path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}");
    let content = format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    write!(stream, "{head}{content}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(body).unwrap()
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client of the proxy before the scripted server.
struct Session {
    child: Child,
    input: ChildStdin,
    output: mpsc::Receiver<String>,
    log: PathBuf,
    next: u64,
}

impl Session {
    fn start(home: &Home, url: &str, options: &[&str]) -> Self {
        let log = home.path("log");
        let mut command = home.command(&["proxy", "--server", "stripe", "--goal", GOAL]);
        command.args(options).arg("--").arg(SERVER).arg(&log);
        command.env("ACTPASS_API_KEY", "apk_dev").env("ACTPASS_API_BASE_URL", url);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let output = lines(child.stdout.take().unwrap());
        Self { input: child.stdin.take().unwrap(), child, output, log, next: 0 }
    }

    /// Sends a request and returns the response; notifications are skipped.
    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.next += 1;
        let id = self.next;
        writeln!(self.input, "{}", json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
            .unwrap();
        loop {
            let message: Value = serde_json::from_str(&self.output.recv_timeout(LIMIT).unwrap()).unwrap();
            if message["id"] == id {
                return message;
            }
        }
    }

    fn call(&mut self, amount: u64) -> String {
        let arguments = json!({"amount": amount, "currency": "usd"});
        result(&self.ask("tools/call", &json!({"name": "refunds.create", "arguments": arguments})))
    }

    /// The names of all tools, over all pages.
    fn list(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        let mut params = json!({});
        loop {
            let page = self.ask("tools/list", &params);
            let tools = page["result"]["tools"].as_array().unwrap_or_else(|| panic!("{page}"));
            names.extend(tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()));
            let Some(cursor) = page["result"]["nextCursor"].as_str() else { return names };
            params = json!({"cursor": cursor});
        }
    }

    /// The calls that the server received.
    fn ran(&self) -> usize {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains("tools/call")).count()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `ran`, or the text of a call that was blocked.
fn result(response: &Value) -> String {
    response["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{response}")).to_owned()
}

// --- init -----------------------------------------------------------------------------------------

const DESKTOP: &str = ".config/Claude/claude_desktop_config.json";
const CODE_USER: &str = ".claude.json";
const CODE_PROJECT: &str = "project/.mcp.json";
const CURSOR: &str = ".cursor/mcp.json";
const VS_CODE: &str = "project/.vscode/mcp.json";
const WINDSURF: &str = ".codeium/windsurf/mcp_config.json";

/// The files of five clients as their documentation has them.
fn samples() -> [(&'static str, &'static str); 6] {
    [
        (
            DESKTOP,
            "{\n  \"mcpServers\": {\n    \"filesystem\": {\n      \"command\": \"npx\",\n      \"args\": [\n        \"-y\",\n        \
             \"@modelcontextprotocol/server-filesystem\",\n        \"/home/me/Desktop\"\n      ]\n    }\n  }\n}\n",
        ),
        (
            CODE_USER,
            "{\"numStartups\": 7, \"mcpServers\": {\"github\": {\"type\": \"http\", \"url\": \"https://mcp.example/mcp/\",\
             \"headers\": {\"Authorization\": \"Bearer ${GITHUB_TOKEN}\"}}},\n \"projects\": {\"/work/shop\": \
             {\"allowedTools\": [], \"mcpServers\": {\"db\": {\"type\": \"stdio\", \"command\": \"/opt/db\", \"args\": [], \
             \"env\": {}}}}}}",
        ),
        (
            CODE_PROJECT,
            "{\r\n\t\"mcpServers\": {\r\n\t\t\"shared tools\": {\r\n\t\t\t\"command\": \"${TOOLS:-tools}\",\r\n\t\t\t\
             \"env\": {\r\n\t\t\t\t\"API_KEY\": \"${API_KEY}\",\r\n\t\t\t\t\"LEVEL\": 3\r\n\t\t\t}\r\n\t\t}\r\n\t}\r\n}\r\n",
        ),
        (
            CURSOR,
            "\u{feff}{\"mcpServers\":{\"linear\":{\"url\":\"https://mcp.example/linear\"},\"stripe\":{\"command\":\"npx\",\
             \"args\":[\"stripe-mcp\"],\"env\":{\"STRIPE_KEY\":\"sk_live_1\"}}}}",
        ),
        (
            VS_CODE,
            "{\n  // Prompted for once.\n  \"inputs\": [\n    {\"type\": \"promptString\", \"id\": \"key\", \"password\": true},\n  \
             ],\n  \"servers\": {\n    /* the mail */\n    \"mail\": {\n      \"type\": \"stdio\",\n      \"command\": \"uvx\", \
             // from PyPI\n      \"args\": [\"mail-mcp\", \"--dry-run\"], // safe\n      \"env\": {\"MAIL_KEY\": \
             \"${input:key}\"},\n      \"envFile\": \"${workspaceFolder}/.env\",\n    },\n  },\n}\n",
        ),
        (
            WINDSURF,
            "{\n  \"mcpServers\": {\n    \"figma\": {\n      \"serverUrl\": \"https://mcp.example/figma\",\n      \"headers\": \
             {\n        \"X-Token\": \"secret-1\"\n      },\n      \"disabled\": false\n    }\n  }\n}\n",
        ),
    ]
}

fn home_with_samples() -> Home {
    let home = Home::new();
    for (path, text) in samples() {
        home.write(path, text);
    }
    home.write("project/.env", "# keys\nexport REGION=eu\nTOKEN = t\n");
    home
}

/// A file without comments and trailing commas.
fn parsed(text: &str) -> Value {
    let mut plain = String::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let line = line.split(" // ").next().unwrap();
        if !line.trim_start().starts_with(['/']) {
            plain.push_str(line);
        }
    }
    for _ in 0..8 {
        plain = plain.replace("  ", " ").replace(", }", "}").replace(",}", "}").replace(", ]", "]");
    }
    serde_json::from_str(&plain).unwrap_or_else(|error| panic!("{error}: {plain}"))
}

fn arguments(server: &Value) -> Vec<&str> {
    server["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap()).collect()
}

#[test]
fn init_routes_the_servers_of_five_clients_and_undo_restores_the_bytes() {
    let home = home_with_samples();
    let before = home.files();
    let (code, text) = home.run(&["init", "--yes"]);
    assert_eq!(code, Some(0), "{text}");

    let desktop = parsed(&home.read(DESKTOP));
    let server = &desktop["mcpServers"]["filesystem"];
    assert_eq!(server["command"], PROGRAM);
    let expected = [
        "proxy",
        "--server",
        "filesystem",
        "--",
        "npx",
        "-y",
        "@modelcontextprotocol/server-filesystem",
        "/home/me/Desktop",
    ];
    assert_eq!(arguments(server), expected);
    let user = parsed(&home.read(CODE_USER));
    let server = &user["mcpServers"]["github"];
    let expected = [
        "proxy",
        "--server",
        "github",
        "--upstream",
        "https://mcp.example/mcp/",
        "--upstream-header",
        "Authorization=UPSTREAM_AUTHORIZATION",
    ];
    assert_eq!((&server["type"], arguments(server)), (&json!("stdio"), expected.to_vec()));
    assert_eq!(server["env"]["UPSTREAM_AUTHORIZATION"], "Bearer ${GITHUB_TOKEN}");
    assert!(server.get("url").is_none() && server.get("headers").is_none());
    let server = &user["projects"]["/work/shop"]["mcpServers"]["db"];
    assert_eq!(arguments(server), ["proxy", "--server", "db", "--", "/opt/db"]);
    assert_eq!(user["numStartups"], 7);

    let text = home.read(CODE_PROJECT);
    let project = parsed(&text);
    let server = &project["mcpServers"]["shared tools"];
    assert_eq!(server["command"], "actpass-mcp", "others have the program elsewhere");
    let expected =
        ["proxy", "--server", "shared_tools", "--env", "API_KEY", "--env", "LEVEL", "--", "${TOOLS:-tools}"];
    assert_eq!(arguments(server), expected);
    assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());

    let text = home.read(CURSOR);
    let cursor = parsed(&text);
    assert!(text.starts_with('\u{feff}'));
    let expected = ["proxy", "--server", "stripe", "--env", "STRIPE_KEY", "--", "npx", "stripe-mcp"];
    assert_eq!(arguments(&cursor["mcpServers"]["stripe"]), expected);
    assert_eq!(cursor["mcpServers"]["stripe"]["env"]["STRIPE_KEY"], "sk_live_1");

    let text = home.read(VS_CODE);
    for kept in ["// Prompted for once.", "/* the mail */", "// from PyPI", "// safe", "\"inputs\": [\n"] {
        assert!(text.contains(kept), "{kept}: {text}");
    }
    let server = &parsed(&text)["servers"]["mail"];
    let mut expected =
        vec!["proxy", "--server", "mail", "--env", "MAIL_KEY", "--env", "REGION", "--env", "TOKEN"];
    expected.extend(["--", "uvx", "mail-mcp", "--dry-run"]);
    assert_eq!(arguments(server), expected);

    let server = &parsed(&home.read(WINDSURF))["mcpServers"]["figma"];
    assert_eq!(server["env"]["UPSTREAM_X_TOKEN"], "secret-1");
    assert!(server.get("serverUrl").is_none() && server["disabled"] == false);

    let routed = home.files();
    let (code, text) = home.run(&["init", "--yes"]);
    assert_eq!((code, text.matches("nothing to change").count()), (Some(0), 6), "{text}");
    assert!(home.files() == routed, "a second run changes nothing");

    let (code, text) = home.run(&["init", "--undo", "--yes"]);
    assert_eq!((code, text.matches(": restored").count()), (Some(0), 6), "{text}");
    assert!(home.files() == before, "everything is as before");
    let (code, text) = home.run(&["init", "--undo", "--yes"]);
    assert_eq!((code, text.matches("nothing to change").count()), (Some(0), 6), "{text}");
}

#[test]
fn init_shows_the_diff_without_secrets_and_writes_after_a_yes_only() {
    let home = home_with_samples();
    let before = home.files();
    for (answer, code) in [("n\n", 3), ("", 3), ("yes, please\n", 3), ("y\n", 0)] {
        assert!(home.files() == before, "nothing is written before");
        let mut command = home.command(&["init"]);
        command.env("ACTPASS_API_KEY", "apk_secret").env("ACTPASS_API_BASE_URL", "http://127.0.0.1:9");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let (found, text) = ended(&child.wait_with_output().unwrap());
        assert_eq!(found, Some(code), "{text}");
        for shown in [
            "-      \"command\": \"npx\",",
            "+        \"filesystem\",",
            "Windsurf: ",
            "@@ ",
            "\"ACTPASS_API_BASE_URL\": \"http://127.0.0.1:9\"",
        ] {
            assert!(text.contains(shown), "{shown}: {text}");
        }
        for secret in ["sk_live_1", "secret-1", "apk_secret", "Bearer"] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }
    assert_eq!(home.read(".config/actpass/api-key"), "apk_secret");
    assert!(home.read(DESKTOP).contains("\"ACTPASS_API_BASE_URL\": \"http://127.0.0.1:9\""));
    let (code, _) = home.run(&["init", "--undo", "--yes"]);
    assert_eq!(code, Some(0));
    assert_eq!(home.read(DESKTOP), samples()[0].1);
}

#[test]
fn undo_keeps_what_changed_since() {
    let home = home_with_samples();
    home.run(&["init", "--yes"]);
    let added = home.read(CURSOR).replacen(
        "{\"mcpServers\":{",
        "{\"theme\": 1, \"mcpServers\":{\"new\":{\"command\":\"new\"},",
        1,
    );
    home.write(CURSOR, &added);
    // Another run routes the new server, and keeps the originals of all.
    let (code, text) = home.run(&["init", "--yes"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(home.read(CURSOR).matches("\"proxy\"").count(), 3);
    home.run(&["init", "--undo", "--yes"]);
    let original = samples()[3].1;
    let expected = original.replacen(
        "{\"mcpServers\":{",
        "{\"theme\": 1, \"mcpServers\":{\"new\":{\"command\":\"new\"},",
        1,
    );
    assert_eq!(home.read(CURSOR), expected);
    assert!(!home.exists(".cursor/mcp.json.actpass-backup"));
}

#[test]
fn init_leaves_unclear_files_and_servers_alone() {
    let entry = |server: &str| format!("{{\"mcpServers\": {{\"s\": {server}}}}}");
    for (text, expected) in [
        ("{\"mcpServers\": {", "left alone: not JSON"),
        ("[]", "expected a JSON object"),
        ("{\"mcpServers\": []}", "mcpServers: expected an object of servers"),
        (
            "{\"mcpServers\": {\"a\": {\"command\": \"x\"}, \"a\": {\"command\": \"y\"}}}",
            "\"a\" is given twice",
        ),
        (&entry("{\"command\": \"a\", \"command\": \"b\"}"), "\"command\" is given twice"),
        (&entry("{}"), "s: left alone: expected a command or a URL"),
        (&entry("7"), "s: left alone: expected an object"),
        (&entry("{\"command\": \"a\", \"url\": \"https://b\"}"), "expected either a command or a URL"),
        (&entry("{\"command\": \"a\", \"args\": \"b\"}"), "args: expected an array of strings"),
        (&entry("{\"command\": \"a\", \"args\": [1]}"), "args: expected an array of strings"),
        (&entry("{\"command\": \"a\", \"env\": {\"B\": []}}"), "env.B: expected a string"),
        (&entry("{\"command\": \"a\", \"envFile\": \"/nonexistent/.env\"}"), "envFile /nonexistent/.env: "),
        (&entry("{\"url\": \"ftp://a\"}"), "expected an http or https URL"),
        (&entry("{\"type\": \"sse\", \"url\": \"https://a\"}"), "server-sent events"),
        (&entry("{\"serverUrl\": \"https://a/sse\"}"), "server-sent events"),
    ] {
        let home = Home::new();
        home.write(DESKTOP, text);
        let (code, shown) = home.run(&["init", "--yes"]);
        assert_eq!((code, shown.contains(expected)), (Some(4), true), "{text}: {shown}");
        assert_eq!((home.read(DESKTOP), home.files().len()), (text.to_owned(), 1));
    }
    let home = Home::new();
    let (code, shown) = home.run(&["init", "--yes"]);
    assert!(code == Some(1) && shown.contains(DESKTOP) && shown.contains(WINDSURF), "{shown}");
    // The other files are still changed.
    home.write(DESKTOP, "{");
    home.write(CURSOR, samples()[3].1);
    let (code, shown) = home.run(&["init", "--yes"]);
    assert_eq!((code, home.read(DESKTOP)), (Some(4), "{".to_owned()), "{shown}");
    assert!(home.read(CURSOR).contains("--server"));
}

#[cfg(unix)]
#[test]
fn init_keeps_permissions_and_links() {
    use std::os::unix::fs::PermissionsExt;
    let home = home_with_samples();
    let mode = |path: &str| fs::metadata(home.path(path)).unwrap().permissions().mode() & 0o777;
    fs::rename(home.path(DESKTOP), home.path("dotfile.json")).unwrap();
    std::os::unix::fs::symlink(home.path("dotfile.json"), home.path(DESKTOP)).unwrap();
    fs::set_permissions(home.path("dotfile.json"), fs::Permissions::from_mode(0o640)).unwrap();
    home.run(&["init", "--yes"]);
    assert!(fs::symlink_metadata(home.path(DESKTOP)).unwrap().is_symlink());
    assert!(home.read("dotfile.json").contains("--server"));
    assert_eq!((mode("dotfile.json"), mode("dotfile.json.actpass-backup")), (0o640, 0o640));
    home.run(&["init", "--undo", "--yes"]);
    assert!(fs::symlink_metadata(home.path(DESKTOP)).unwrap().is_symlink());
    assert_eq!((home.read("dotfile.json"), mode("dotfile.json")), (samples()[0].1.to_owned(), 0o640));
    let key = home.command(&["init", "--yes"]).env("ACTPASS_API_KEY", "apk_dev").output().unwrap();
    assert_eq!((ended(&key).0, mode(".config/actpass/api-key")), (Some(0), 0o600));
}

#[test]
fn options_for_the_proxy_are_checked_and_passed() {
    let home = home_with_samples();
    let (code, text) = home.run(&["init", "--yes", "--with=--mode=monitor", "--with=--pin"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        home.read(CURSOR).contains("\"stripe\", \"--mode=monitor\", \"--pin\", \"--env\""),
        "{}",
        home.read(CURSOR)
    );
    let (code, text) = home.run(&["init", "--yes", "--with=--wrong"]);
    assert!(code == Some(1) && text.contains("--with: "), "{text}");
}

// --- doctor ---------------------------------------------------------------------------------------

/// A home folder with one routed server.
fn routed(command: &str, options: &[&str]) -> Home {
    let home = Home::new();
    let arguments = [&["proxy", "--server", "stripe"], options, &["--", command, "log"]].concat();
    home.write(
        CURSOR,
        &json!({"mcpServers": {"stripe": {"command": PROGRAM, "args": arguments}}}).to_string(),
    );
    home
}

fn doctor(home: &Home, key: &str, url: &str) -> (Option<i32>, String) {
    let mut command = home.command(&["doctor"]);
    command.env("ACTPASS_API_KEY", key).env("ACTPASS_API_BASE_URL", url);
    ended(&command.output().unwrap())
}

#[test]
fn doctor_names_each_broken_set_up() {
    let Some(gateway) = Gateway::start() else { return };
    let url = gateway.url.as_str();
    let unused = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("http://{}", unused.local_addr().unwrap());
    drop(unused);
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let not_a_gateway = format!("http://{}", other.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in other.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 404 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    let bypassing = Home::new();
    bypassing.write(CURSOR, r#"{"mcpServers": {"stripe": {"command": "stripe-mcp"}}}"#);
    let unreadable = Home::new();
    unreadable.write(CURSOR, "{");
    let not_mcp = routed("false", &[]);
    let good = || routed(SERVER, &[]);
    let cases = [
        (good(), "", url, 10, "there is no API key", "set ACTPASS_API_KEY"),
        (
            good(),
            "apk_wrong",
            url,
            11,
            "does not know the API key",
            "use a key from the gateway's configuration",
        ),
        (good(), "apk_dev", &closed, 12, "no response from the gateway", "start the gateway"),
        (good(), "apk_dev", &not_a_gateway, 13, "404 Not Found", "check ACTPASS_API_BASE_URL"),
        (
            routed("stripe-mcp-missing", &[]),
            "apk_dev",
            url,
            14,
            "cannot start stripe-mcp-missing",
            "absolute path",
        ),
        (not_mcp, "apk_dev", url, 15, "the server ended (exit status: 1)", "run the command by itself"),
        (
            routed(SERVER, &["--policy-tool-prefix", "mail/"]),
            "apk_dev",
            url,
            16,
            "no call of any tool: mail/",
            "actpass-mcp scan",
        ),
        (
            routed(SERVER, &["--pin"]),
            "apk_dev",
            url,
            17,
            "calls of 2 tools are held",
            "refunds.create: is new",
        ),
        (bypassing, "apk_dev", url, 18, "its calls bypass the proxy", "run: actpass-mcp init"),
        (unreadable, "apk_dev", url, 19, "not JSON", "correct the file"),
        (routed(SERVER, &["--hold", "0"]), "apk_dev", url, 20, "invalid value '0'", "correct its args"),
    ];
    for (home, key, url, code, what, remedy) in cases {
        let (found, text) = doctor(&home, key, url);
        assert_eq!(found, Some(code), "{what}: {text}");
        assert!(text.contains(what) && text.contains(remedy) && text.contains("problem  "), "{what}: {text}");
        assert!(!text.contains("apk_"), "{text}");
    }
    let (code, text) = doctor(&good(), "apk_dev", url);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("ok       gateway") && text.contains("stripe: 2 tools"), "{text}");
    // One proxy, without a configuration file.
    let home = Home::new();
    let mut command = home.command(&["doctor", "--", "--server", "stripe", "--", SERVER, "log"]);
    command.env("ACTPASS_API_KEY", "apk_dev").env("ACTPASS_API_BASE_URL", url);
    let (code, text) = ended(&command.output().unwrap());
    assert_eq!((code, text.contains("stripe: 2 tools")), (Some(0), true), "{text}");
}

#[test]
fn doctor_uses_the_key_and_the_variables_of_the_client() {
    let Some(gateway) = Gateway::start() else { return };
    let home = Home::new();
    let arguments =
        ["proxy", "--server", "stripe", "--env", "STRIPE_KEY", "--", SERVER, "log", "environment"];
    let environment = json!({"STRIPE_KEY": "sk_1", "ACTPASS_API_BASE_URL": gateway.url, "ACTPASS_API_KEY": "${env:MY_KEY}"});
    let server = json!({"command": PROGRAM, "args": arguments, "env": environment});
    home.write(CURSOR, &json!({"mcpServers": {"stripe": server}}).to_string());
    let output = home.command(&["doctor"]).env("MY_KEY", "apk_dev").output().unwrap();
    let (code, text) = ended(&output);
    assert_eq!(code, Some(0), "{text}");
    assert!(home.read("project/log").contains("STRIPE_KEY=sk_1"));
    assert!(!home.read("project/log").contains("ACTPASS"));
    let (code, text) = home.run(&["doctor"]);
    assert_eq!(code, Some(10), "{text}");
    // The file that init writes.
    let server = json!({"command": PROGRAM, "args": ["proxy", "--server", "stripe", "--", SERVER, "log"],
                        "env": {"ACTPASS_API_BASE_URL": gateway.url}});
    home.write(CURSOR, &json!({"mcpServers": {"stripe": server}}).to_string());
    home.write(".config/actpass/api-key", "apk_dev\n");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let (code, text) = home.run(&["doctor"]);
        assert!(code == Some(10) && text.contains("chmod 600"), "{text}");
        fs::set_permissions(home.path(".config/actpass/api-key"), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let (code, text) = home.run(&["doctor"]);
    assert_eq!(code, Some(0), "{text}");
}

// --- scan -----------------------------------------------------------------------------------------

#[test]
fn scan_writes_a_policy_that_the_gateway_accepts() {
    let home = Home::new();
    let mut command =
        home.command(&["scan", "--server", "shop", "--policy", "policy.json", "--cases", "cases.json"]);
    let output = command.args(["--", SERVER, "log", "catalog"]).output().unwrap();
    let (code, notes) = ended(&output);
    assert_eq!(code, Some(0), "{notes}");
    let policy: Value = serde_json::from_str(&home.read("project/policy.json")).unwrap();
    let rules = policy["rules"].as_array().unwrap();
    let decided: Vec<(&str, &str, &str)> = rules
        .iter()
        .map(|rule| {
            let text = |name: &str| rule[name].as_str().unwrap();
            (rule["when"][0]["value"].as_str().unwrap(), text("decision"), text("risk_tier"))
        })
        .collect();
    let expected = [
        ("shop.list_orders", "allow", "low"),
        ("shop.getOrder", "allow", "low"),
        ("shop.delete_order", "require_approval", "high"),
        ("shop.delete_everything", "require_approval", "high"),
        ("shop.read_and_send", "require_approval", "high"),
        ("shop.search_any", "require_approval", "high"),
        ("shop.update_note", "require_approval", "medium"),
        ("shop.plain", "require_approval", "high"),
        ("shop.read_but_destructive", "require_approval", "high"),
    ];
    assert_eq!(decided, expected);
    for note in ["delete_everything: requires approval", "read_and_send: ", "search_any: "] {
        assert!(notes.contains(note), "{note}: {notes}");
    }
    let conditions = home.read("project/policy.json");
    for condition in [
        r#"{"path": "args", "operator": "has_only", "value": ["limit","state"]}"#,
        r#"{"path": "args.state", "operator": "in", "value": ["open","closed"]}"#,
        r#"{"path": "args.limit", "operator": "<=", "value": 100}"#,
        r#"{"path": "args.limit", "operator": ">=", "value": 1}"#,
        r#"{"path": "args.id", "operator": "starts_with", "value": ""}"#,
    ] {
        assert!(conditions.contains(condition), "{condition}: {conditions}");
    }
    // Existing files stay.
    let (code, text) =
        home.run(&["scan", "--server", "shop", "--policy", "policy.json", "--", SERVER, "log"]);
    assert!(code == Some(1) && text.contains("not overwritten"), "{text}");

    let Some(program) = gateway_program() else { return };
    let check = |arguments: &[&str]| {
        ended(&Command::new(&program).args(arguments).current_dir(home.path("project")).output().unwrap())
    };
    let (code, text) = check(&["policy", "check", "policy.json"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("error"), "{text}");
    let (code, text) = check(&["policy", "test", "policy.json", "cases.json"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(", 0 failed"), "{text}");
}

// --- changed definitions --------------------------------------------------------------------------

#[test]
fn changed_tool_is_held_until_its_diff_is_approved() {
    let Some(gateway) = Gateway::start() else { return };
    let home = Home::new();
    let approve = |arguments: &[&str], fault: &str| {
        let mut command = home.command(&["approve", "--server", "stripe"]);
        command.args(arguments).arg("--").arg(SERVER).arg("approved").arg(fault);
        command.env("ACTPASS_OPERATOR_KEY", "apdv_dev").env("ACTPASS_API_BASE_URL", &gateway.url);
        ended(&command.output().unwrap())
    };
    let (code, text) = approve(&["--diff"], "");
    assert_eq!((code, text.as_str()), (Some(3), "refunds.create: is new\nsample: is new\n"));
    let (code, text) = approve(&[], "");
    assert_eq!((code, text.lines().count()), (Some(0), 2), "{text}");
    let (code, text) = approve(&["--diff"], "");
    assert_eq!((code, text.as_str()), (Some(0), "2 tools, all as approved\n"));

    let mut session = Session::start(&home, &gateway.url, &["--pin"]);
    assert_eq!(session.list(), ["refunds.create", "sample"]);
    assert_eq!(session.call(4900), "ran");
    session.ask("test/change", &json!({}));
    // The list has changed: its tools are not known until it is read.
    let unread = session.ask("tools/call", &json!({"name": "refunds.create", "arguments": {"amount": 1}}));
    assert_eq!(unread["error"]["code"], -32602, "{unread}");
    session.list();
    let text = session.call(4900);
    assert!(text.contains("require_tool_reapproval (tool.manifest_changed)"), "{text}");
    assert_eq!(session.ran(), 1);

    let changed =
        "refunds.create: changed description: \"Refunds.\" became \"Refunds, and sends the card number.\"\n";
    let (code, text) = approve(&["--diff"], "changed");
    assert_eq!((code, text.as_str()), (Some(3), changed));
    let mut command =
        home.command(&["doctor", "--", "--server", "stripe", "--pin", "--", SERVER, "log2", "changed"]);
    command.env("ACTPASS_API_KEY", "apk_dev").env("ACTPASS_API_BASE_URL", &gateway.url);
    let (code, text) = ended(&command.output().unwrap());
    assert_eq!((code, text.contains(changed.trim())), (Some(17), true), "{text}");
    assert!(session.call(4900).contains("require_tool_reapproval"), "showing approves nothing");

    let (code, text) = approve(&["--tool", "refunds.create"], "changed");
    assert_eq!((code, text.lines().count()), (Some(0), 1), "{text}");
    assert_eq!(session.call(4900), "ran");
    assert_eq!(session.ran(), 2);

    let (code, text) = approve(&["--diff"], "renamed");
    assert_eq!(code, Some(3));
    let expected =
        "refund: is new, with the definition of refunds.create under another name\nrefunds.create: is gone\n";
    assert_eq!(text, expected);
    let (code, text) = approve(&["--tool", "unknown"], "");
    assert!(code == Some(1) && text.contains("no tool \"unknown\""), "{text}");
}

#[test]
fn hidden_tools_are_not_listed() {
    let Some(gateway) = Gateway::start() else { return };
    let home = Home::new();
    let mut session = Session::start(&home, &gateway.url, &["--hide"]);
    // The policy has rules for refunds only.
    assert_eq!(session.list(), ["refunds.create"]);
    assert_eq!(session.call(4900), "ran");
    let unlisted = session.ask("tools/call", &json!({"name": "sample", "arguments": {}}));
    assert!(result(&unlisted).contains("policy.no_match"), "{unlisted}");
    drop(session);

    let mut session = Session::start(&home, &gateway.url, &["--hide", "--pin"]);
    assert_eq!(session.list(), Vec::<String>::new());
    let mut command = home.command(&["approve", "--server", "stripe", "--", SERVER, "approved"]);
    command.env("ACTPASS_OPERATOR_KEY", "apdv_dev").env("ACTPASS_API_BASE_URL", &gateway.url);
    assert!(command.output().unwrap().status.success());
    assert_eq!(session.list(), ["refunds.create"]);
    assert_eq!(session.call(4900), "ran");
    session.ask("test/change", &json!({}));
    assert_eq!(session.list(), Vec::<String>::new());
    drop(session);

    let unused = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("http://{}", unused.local_addr().unwrap());
    drop(unused);
    let mut session = Session::start(&home, &closed, &["--hide"]);
    let unknown = session.ask("tools/list", &json!({}));
    assert_eq!(unknown["error"]["code"], -32603, "{unknown}");
}

// --- passports ------------------------------------------------------------------------------------

#[test]
fn required_passports_are_verified_and_used_once() {
    let Some(gateway) = Gateway::start() else { return };
    // Each waits for the end of a passport.
    std::thread::scope(|scope| {
        for in_authorization in [false, true] {
            let gateway = &gateway;
            scope.spawn(move || run_passports(gateway, in_authorization));
        }
    });
    let home = Home::new();
    for mode in ["monitor", "warn"] {
        let mut command = home.command(&["proxy", "--server", "s", "--require-passport", "--mode", mode]);
        let output = command.args(["--", SERVER, "log"]).env("ACTPASS_API_KEY", "apk_dev").output().unwrap();
        let (code, text) = ended(&output);
        assert!(code == Some(1) && text.contains("expected --mode enforce or strict"), "{text}");
    }
}

/// Runs the table with passports in `_meta` over stdio, or in `Authorization` over HTTP.
fn run_passports(gateway: &Gateway, in_authorization: bool) {
    let home = Home::new();
    let table: Value = serde_json::from_str(include_str!("passports.json")).unwrap();
    let options: &[&str] = match in_authorization {
        false => &["--require-passport"],
        true => &["--require-passport", "--listen", "127.0.0.1:0"],
    };
    let mut session = Session::start(&home, &gateway.url, options);
    let url = in_authorization.then(|| {
        let line = session.output.recv_timeout(LIMIT).unwrap();
        line.strip_prefix("listening on ").unwrap().to_owned()
    });
    let mut ask = |token: Option<&str>, in_meta: Option<&str>, arguments: &Value| {
        let mut meta = json!({"actpass/goal": "another", "actpass/user_id": "u_9"});
        if let Some(token) = in_meta.or(token.filter(|_| !in_authorization)) {
            meta["actpass/passport"] = json!(token);
        }
        let Some(url) = &url else {
            let params = json!({"name": "refunds.create", "arguments": arguments, "_meta": meta});
            return result(&session.ask("tools/call", &params));
        };
        meta["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
        let params = json!({"name": "refunds.create", "arguments": arguments, "_meta": meta});
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        let mut headers = "mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\n\
                           mcp-name: refunds.create\r\n"
            .to_owned();
        if let Some(token) = token {
            headers.push_str(&format!("authorization: Bearer {token}\r\n"));
        }
        result(&post(url, &headers, &message))
    };
    let log = home.path("log");
    let ran_at_server = || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        log.lines().filter(|line| line.contains("tools/call")).count()
    };
    let mut ran = 0;
    let cases = table["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 17);
    let issued: Vec<Value> = cases.iter().map(|case| issue(gateway, &table, case)).collect();
    for (case, issued) in cases.iter().zip(&issued) {
        let token = present(gateway, &table, case, issued);
        for (at, expected) in case["expected"].as_array().unwrap().iter().enumerate() {
            let arguments = match (case.get("calls"), case.get("arguments")) {
                (Some(calls), _) => &calls[at],
                (None, Some(arguments)) => arguments,
                (None, None) => &table["arguments"],
            };
            let text = ask(token.as_deref(), None, arguments);
            let expected = expected.as_str().unwrap();
            ran += usize::from(expected == "ran");
            match expected {
                "ran" => assert_eq!(text, "ran", "{case}"),
                code => assert!(text.contains(&format!("({code})")), "{case}: {text}"),
            }
            assert_eq!(ran_at_server(), ran, "{case}");
        }
    }
    // `Authorization` counts last.
    let issued = issue(gateway, &table, &json!({}));
    let text = ask(Some("another"), issued["token"].as_str(), &table["arguments"]);
    assert_eq!((text.as_str(), ran_at_server()), ("ran", ran + 1));
}

/// Issues the passport of a case.
fn issue(gateway: &Gateway, table: &Value, case: &Value) -> Value {
    let mut request = table["issue"].clone();
    request["agent_id"] = json!("planner");
    for (name, value) in case["issue"].as_object().into_iter().flatten() {
        request[name] = value.clone();
    }
    gateway.post("/api/v1/passports/issue", "apk_dev", &request)
}

/// The text that a case presents.
fn present(gateway: &Gateway, table: &Value, case: &Value, issued: &Value) -> Option<String> {
    let token = issued["token"].as_str().unwrap().to_owned();
    match case["present"].as_str() {
        None => Some(token),
        Some("nothing") => None,
        Some("text") => Some("not a passport".to_owned()),
        Some("changed") => {
            // The claims of another passport, with the signature of this one.
            let other = issue(gateway, table, &json!({"issue": {"resource_constraints": {}}}));
            let other: Vec<&str> = other["token"].as_str().unwrap().split('.').collect();
            let signature = token.rsplit('.').next().unwrap();
            Some(format!("{}.{}.{signature}", other[0], other[1]))
        }
        Some("revoked") => {
            gateway.post("/api/v1/passports/revoke", "apdv_dev", &json!({"jti": issued["jti"]}));
            Some(token)
        }
        Some("expired") => {
            let start = Instant::now();
            let request = json!({"token": token, "audience": table["audience"]});
            // Beyond the leeway of an offline verification, which is 10 s.
            while start.elapsed() < Duration::from_secs(12) {
                std::thread::sleep(Duration::from_millis(200));
            }
            let verified = gateway.post("/api/v1/passports/verify", "apk_dev", &request);
            assert!(verified["errors"].to_string().contains("passport.expired"), "{verified}");
            Some(token)
        }
        Some(other) => panic!("{other}: unknown"),
    }
}

#[test]
fn requests_about_tools_have_a_proof_of_the_key_in_the_file() {
    // RFC 8037, appendix A.
    let pem = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
        -----END PRIVATE KEY-----\n";
    let demand = json!({"do": "respond", "status": 401, "headers": {"dpop-nonce": "n-1"}, "json": {}});
    let script = json!({
        "dpop": {"api_key": "apdv_dev", "jkt": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"},
        "steps": [
            demand,
            {"do": "respond", "json": {"tools": [
                {"tool_id": "stripe.refunds.create", "manifest_hash": null},
                {"tool_id": "stripe.sample", "manifest_hash": null},
            ]}},
        ],
    });
    let gateway = HostileGateway::start(Script::from_json(script).unwrap()).unwrap();
    let home = Home::new();
    home.write("dpop.pem", pem);
    let diff = |path: Option<PathBuf>| {
        let mut command =
            home.command(&["approve", "--server", "stripe", "--diff", "--", SERVER, "approved"]);
        command.env("ACTPASS_OPERATOR_KEY", "apdv_dev").env("ACTPASS_API_BASE_URL", gateway.base_url());
        if let Some(path) = path {
            command.env("ACTPASS_DPOP_KEY_FILE", path);
        }
        ended(&command.output().unwrap())
    };
    let (code, text) = diff(Some(home.path("dpop.pem")));
    assert_eq!((code, text.as_str()), (Some(3), "refunds.create: is new\nsample: is new\n"));
    assert_eq!(gateway.seen().len(), 2);
    let (code, text) = diff(None);
    assert!(code == Some(1) && text.contains("does not know the API key"), "{code:?} {text}");
}
