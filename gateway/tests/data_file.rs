//! The data file: replacement, locking, permissions, backup.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use actpass_gateway::store::{OpenError, SqliteStore, Store};
use actpass_protocol::Json;
use common::{Gateway, PREFLIGHT, json, refund, text};
use tempfile::TempDir;

/// A gateway process started through the shell.
struct Program {
    child: Child,
    url: String,
    log: std::path::PathBuf,
}

impl Program {
    fn start(folder: &Path, first: &str, arguments: &str) -> Self {
        let log = folder.join("the.log");
        let mut child = Command::new("sh")
            .current_dir(folder)
            .arg("-c")
            .arg(format!("{first} exec '{}' {arguments}", env!("CARGO_BIN_EXE_actpass-gateway")))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.strip_prefix("listening on ").unwrap_or_else(|| {
            panic!("{line}{}", fs::read_to_string(&log).unwrap());
        });
        Self { url: url.trim_end().to_owned(), child, log }
    }

    fn dev(folder: &Path, data: &str) -> Self {
        Self::start(folder, "", &format!("dev --listen 127.0.0.1:0 --data '{data}'"))
    }

    async fn ask(&self, client: &reqwest::Client, more: &str) -> (u16, Json) {
        let request = client.post(format!("{}{PREFLIGHT}", self.url)).bearer_auth("apk_dev");
        let request = request.header("content-type", "application/json").body(refund("1", more));
        let (status, response) = json(request.send().await.unwrap()).await;
        (status.as_u16(), response)
    }

    async fn health(&self, client: &reqwest::Client) -> u16 {
        client.get(format!("{}/healthz", self.url)).send().await.unwrap().status().as_u16()
    }

    /// Returns its log after a clean shutdown.
    fn end(mut self) -> String {
        let ended = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(ended.success());
        let _ = self.child.wait();
        fs::read_to_string(&self.log).unwrap()
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_actpass-gateway"));
    command.current_dir(folder).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn replaced_data_file_is_detected_before_response() {
    type Change = fn(&Path);
    let moved = |path: &Path| path.with_extension("moved");
    let changes: [(&str, Change, bool); 10] = [
        ("the file removed", |path| fs::remove_file(path).unwrap(), false),
        (
            "the file cut short",
            |path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap(),
            false,
        ),
        ("the folder removed", |path| fs::remove_dir_all(path.parent().unwrap()).unwrap(), false),
        ("the file renamed", |path| fs::rename(path, path.with_extension("moved")).unwrap(), true),
        (
            "the file replaced",
            |path| {
                fs::rename(path, path.with_extension("moved")).unwrap();
                fs::copy(path.with_extension("moved"), path).unwrap();
            },
            true,
        ),
        ("the log removed", |path| fs::remove_file(path.with_extension("db-wal")).unwrap(), false),
        (
            "the log replaced",
            |path| {
                fs::remove_file(path.with_extension("db-wal")).unwrap();
                fs::write(path.with_extension("db-wal"), "").unwrap();
            },
            false,
        ),
        (
            "the log cut short",
            |path| {
                let log = fs::OpenOptions::new().write(true).open(path.with_extension("db-wal")).unwrap();
                log.set_len(0).unwrap();
            },
            false,
        ),
        ("the index removed", |path| fs::remove_file(path.with_extension("db-shm")).unwrap(), false),
        (
            "a link in its place",
            |path| {
                fs::write(path.with_extension("other"), "").unwrap();
                fs::rename(path, path.with_extension("moved")).unwrap();
                symlink(path.with_extension("other"), path).unwrap();
            },
            true,
        ),
    ];
    for (name, change, comes_back) in changes {
        let gateway = Gateway::start_with("", |settings| {
            let actpass_gateway::store::Location::File(path) = &mut settings.data else { panic!() };
            let folder = path.parent().unwrap().join("d");
            fs::create_dir(&folder).unwrap();
            *path = folder.join("led.db");
        })
        .await;
        let path = gateway.folder.path().join("d/led.db");
        gateway.decide("apk_one", &refund("1", "")).await;
        change(&path);
        for _ in 0..2 {
            for request in [
                gateway.post(PREFLIGHT, "apk_one").body(refund("1", "")),
                gateway.get("/healthz", "apk_one"),
                gateway.get("/api/v1/evidence/chains/decisions", "apk_one"),
            ] {
                let (status, response) = json(request.send().await.unwrap()).await;
                assert_eq!(
                    (status.as_u16(), text(&response, "error.code")),
                    (503, Some("unavailable")),
                    "{name}"
                );
            }
        }
        if comes_back {
            fs::rename(moved(&path), &path).unwrap();
            gateway.decide("apk_one", &refund("1", "")).await;
            assert_eq!(gateway.events("apk_one", "decisions").await.len(), 2, "{name}");
        }
        gateway.stop().await;
    }
}

#[test]
fn rejects_names_that_sqlite_interprets() {
    let folder = TempDir::new().unwrap();
    for name in [":memory:", "file:x.db", "file:x.db?mode=memory", "file::memory:", "file:///tmp/x.db"] {
        for arguments in [
            vec!["dev", "--listen", "127.0.0.1:0", "--data", name],
            vec!["evidence", "export", "decisions", "--data", name, "--tenant", "t"],
            vec!["backup", "copy.db", "--data", name],
        ] {
            let output = run(folder.path(), &arguments);
            assert_ne!(output.status.code(), Some(0), "{arguments:?}");
            assert!(err(&output).contains("expected a file name"), "{arguments:?}: {}", err(&output));
        }
    }
    // A settings file joins its directory with the name.
    for name in [":memory:", "file:x.db?mode=memory"] {
        let error = SqliteStore::open(&folder.path().join(name)).unwrap_err();
        assert!(matches!(error, OpenError::Name(_)), "{error}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a file was created");
    for name in ["a?mode=memory", "a%20b", "a#b", "a?vfs=none&cache=shared", "-", " ", "a'b\"c;", "\u{e9}.db"]
    {
        let store = SqliteStore::open(&folder.path().join(name)).unwrap();
        assert!(folder.path().join(name).metadata().unwrap().len() > 0, "{name}");
        drop(store);
    }
}

#[test]
fn rejects_special_files() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("folder")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    symlink("/dev/zero", at("device")).unwrap();
    for (name, kind) in
        [("folder", "a directory"), ("socket", "a socket"), ("pipe", "a named pipe"), ("device", "a device")]
    {
        for error in
            [SqliteStore::open(&at(name)).unwrap_err(), SqliteStore::open_existing(&at(name)).unwrap_err()]
        {
            let text = error.to_string();
            assert!(text.contains(name) && text.contains(kind), "{text}");
        }
    }
    let nowhere = SqliteStore::open(&at("none/data.db")).unwrap_err().to_string();
    assert!(nowhere.contains("none/data.db"), "{nowhere}");
}

#[tokio::test]
async fn data_file_lock_follows_links() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let store = SqliteStore::open(&at("real.db")).unwrap();
    symlink("real.db", at("link.db")).unwrap();
    symlink(at("link.db"), at("link of link.db")).unwrap();
    fs::create_dir(at("sub")).unwrap();
    symlink("..", at("sub/up")).unwrap();
    let mut names = vec!["real.db", "link.db", "link of link.db", "sub/../real.db", "sub/up/real.db"];
    if cfg!(target_os = "linux") {
        fs::hard_link(at("real.db"), at("hard.db")).unwrap();
        names.push("hard.db");
    }
    for name in &names {
        let error = SqliteStore::open(&at(name)).unwrap_err();
        assert!(matches!(error, OpenError::Locked(_)), "{name}: {error}");
        let _ = fs::remove_file(at(&format!("{name}.lock")));
        let error = SqliteStore::open(&at(name)).unwrap_err();
        assert!(matches!(error, OpenError::Locked(_)), "{name}: {error}");
    }
    // Commands work concurrently and do not take the gateway's lock.
    for name in ["real.db", "link.db"] {
        let beside = SqliteStore::open_existing(&at(name)).unwrap();
        beside.check().await.unwrap();
        beside.close().await;
    }
    store.check().await.unwrap();
    let program = run(folder.path(), &["dev", "--listen", "127.0.0.1:0", "--data", "link.db"]);
    assert!(err(&program).contains("in use by another gateway"), "{}", err(&program));
    store.close().await;
    drop(store);
    SqliteStore::open(&at("link.db")).unwrap().close().await;
}

#[tokio::test]
async fn all_data_files_are_private() {
    let folder = TempDir::new().unwrap();
    let client = common::client();
    for data in ["led.db", "no ending", "odd.sqlite-wal"] {
        let at = |suffix: &str| folder.path().join(format!("{data}{suffix}"));
        for round in 0..2 {
            let start = format!("dev --listen 127.0.0.1:0 --data '{data}'");
            let mut program = Program::start(folder.path(), "umask 000;", &start);
            assert_eq!(program.ask(&client, "").await.0, 200);
            for suffix in ["", "-wal", "-shm", ".master-key"] {
                let mode = at(suffix).metadata().unwrap().mode() & 0o777;
                assert_eq!(mode, 0o600, "{data}{suffix} in round {round}");
            }
            // As after a copy.
            program.kill();
            for suffix in ["", "-wal", "-shm", ".master-key"] {
                fs::set_permissions(at(suffix), PermissionsExt::from_mode(0o666)).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn full_disk_makes_gateway_unhealthy() {
    let client = common::client();
    // Different amounts of free space: none, a page, a few.
    for blocks in (700..=764).step_by(8) {
        let folder = TempDir::new().unwrap();
        // Limits the file size; writes beyond it fail like on a full disk.
        let limits = format!("trap '' XFSZ; ulimit -f {blocks};");
        let program = Program::start(folder.path(), &limits, "dev --listen 127.0.0.1:0 --data led.db");
        let mut answered = 0;
        while program.ask(&client, "").await.0 == 200 {
            answered += 1;
            assert!(answered < 10_000, "the file size limit has no effect");
        }
        assert!(answered > 0, "{}", fs::read_to_string(&program.log).unwrap());
        // A health check that writes less than a decision would briefly report success.
        for _ in 0..3 {
            let well = program.health(&client).await == 200;
            let (status, _) = program.ask(&client, "").await;
            assert!(!well && status == 503, "{blocks} blocks: well {well}, then {status}");
        }
    }
}

#[tokio::test]
async fn backup_is_consistent_while_gateway_runs() {
    let folder = TempDir::new().unwrap();
    let client = common::client();
    let at = |name: &str| folder.path().join(name);
    let program = Program::dev(folder.path(), "led.db");
    for _ in 0..20 {
        assert_eq!(program.ask(&client, "").await.0, 200);
    }
    let made = run(folder.path(), &["backup", "copy.db", "--data", "led.db"]);
    assert_eq!(made.status.code(), Some(0), "{}", err(&made));
    assert_eq!(String::from_utf8_lossy(&made.stdout), "copy.db: 20 events in 1 chains, all intact\n");
    assert_eq!(at("copy.db").metadata().unwrap().mode() & 0o777, 0o600);
    let names = || -> Vec<_> {
        let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().contains("copy")).collect()
    };
    assert_eq!(names(), ["copy.db"], "the backup is a single file");
    // Existing files of any kind are not overwritten.
    let before = fs::read(at("copy.db")).unwrap();
    symlink("nowhere", at("dangling copy")).unwrap();
    for there in ["copy.db", "led.db", "dangling copy", "."] {
        let again = run(folder.path(), &["backup", there, "--data", "led.db"]);
        assert_ne!(again.status.code(), Some(0), "{there}");
    }
    assert_eq!(fs::read(at("copy.db")).unwrap(), before);
    assert!(!at("nowhere").exists());
    let nothing = run(folder.path(), &["backup", "other.db", "--data", "none.db"]);
    assert!(nothing.status.code() != Some(0) && !at("other.db").exists() && !at("none.db").exists());
    assert_eq!(program.ask(&client, "").await.0, 200);
    drop(program);

    // The copy is a regular data file and needs the master key of the original.
    fs::copy(at("led.db.master-key"), at("copy.db.master-key")).unwrap();
    let restored = Program::dev(folder.path(), "copy.db");
    assert_eq!(restored.ask(&client, "").await.0, 200);
    let chain = client.get(format!("{}/api/v1/evidence/chains/decisions/verify", restored.url));
    let (_, verified) = json(chain.bearer_auth("apk_dev").send().await.unwrap()).await;
    assert_eq!(
        (verified.member("length").unwrap().to_string(), verified.member("valid")),
        ("21".to_owned(), Some(&Json::Bool(true)))
    );
}

#[tokio::test]
async fn missing_write_ahead_log_is_detected() {
    let folder = TempDir::new().unwrap();
    let client = common::client();
    let at = |name: &str| folder.path().join(name);
    let mut program = Program::dev(folder.path(), "led.db");
    for _ in 0..5 {
        assert_eq!(program.ask(&client, "").await.0, 200);
    }
    fs::copy(at("led.db"), at("part.db")).unwrap();
    for suffix in ["", "-wal"] {
        fs::copy(at(&format!("led.db{suffix}")), at(&format!("both.db{suffix}"))).unwrap();
    }
    // As with a copy of a killed gateway.
    program.kill();
    fs::copy(at("led.db"), at("killed.db")).unwrap();
    let dev = |data| ["dev", "--listen", "127.0.0.1:0", "--data", data];
    // Inspection or another attempt does not make it complete.
    let export = ["evidence", "export", "decisions", "--data", "part.db", "--tenant", "dev"];
    run(folder.path(), &export);
    for data in ["part.db", "killed.db", "part.db", "killed.db"] {
        let output = run(folder.path(), &dev(data));
        assert!(
            err(&output).contains("write-ahead log") && err(&output).contains("missing"),
            "{}",
            err(&output)
        );
    }
    // A killed gateway's files, and a complete copy of them, are complete; concurrent commands do
    // not change that.
    fs::copy(at("led.db.master-key"), at("both.db.master-key")).unwrap();
    for data in ["led.db", "both.db"] {
        let export = ["evidence", "export", "decisions", "--data", data, "--tenant", "dev"];
        assert_eq!(run(folder.path(), &export).status.code(), Some(0));
        SqliteStore::open_existing(&at(data)).unwrap().close().await;
        let program = Program::dev(folder.path(), data);
        let chain = client.get(format!("{}/api/v1/evidence/chains/decisions", program.url));
        let (_, chain) = json(chain.bearer_auth("apk_dev").send().await.unwrap()).await;
        let Some(Json::Array(events)) = chain.member("events") else { panic!("{chain}") };
        assert_eq!(events.len(), 5, "{data}");
    }
    // The operator confirms that nothing is missing.
    let accepted =
        Program::start(folder.path(), "", "dev --listen 127.0.0.1:0 --data part.db --accept-missing-wal");
    assert_eq!(accepted.ask(&client, "").await.0, 200);
    let log = accepted.end();
    assert!(log.contains("without the write-ahead log"), "{log}");
}
