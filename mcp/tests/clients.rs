//! Real clients and servers through the proxy. `make test-adapters` installs their environments.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "tests"
)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// `path` if it exists, or `None` with a message. In CI a missing file fails.
fn found(path: PathBuf, remedy: &str) -> Option<PathBuf> {
    if path.exists() {
        return Some(path);
    }
    let problem = format!("{} is missing; {remedy}", path.display());
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{problem}");
    eprintln!("SKIPPED: {problem}");
    None
}

/// The Python of the environment of FastMCP.
fn python() -> Option<PathBuf> {
    let path = std::env::var_os("ACTPASS_MCP_PYTHON")
        .map_or_else(|| root().join("target/adapters/python/fastmcp/bin/python"), PathBuf::from);
    found(path, "install tests/adapters/python/requirements-fastmcp.txt and set ACTPASS_MCP_PYTHON")
}

/// The folder of the installed packages of `clients/package.json`.
fn modules() -> Option<PathBuf> {
    let (source, folder) = (root().join("mcp/tests/clients"), root().join("target/adapters/mcp"));
    let wanted = std::fs::read_to_string(source.join("package.json")).unwrap();
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["client1.mjs", "client2.mjs", "scenario.mjs"] {
        std::fs::copy(source.join(name), folder.join(name)).unwrap();
    }
    let (package, modules) = (folder.join("package.json"), folder.join("node_modules"));
    if std::fs::read_to_string(&package).ok() != Some(wanted.clone()) || !modules.exists() {
        std::fs::write(&package, wanted).unwrap();
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(&folder);
        if !npm.status().is_ok_and(|status| status.success()) {
            std::fs::remove_file(&package).unwrap();
            let _ = std::fs::remove_dir_all(&modules);
        }
    }
    found(modules, "install Node and npm")
}

/// The real gateway with the refund policy.
struct Gateway {
    child: Child,
    url: String,
    folder: TempDir,
}

impl Gateway {
    fn start() -> Option<Self> {
        let program = Path::new(env!("CARGO_BIN_EXE_actpass-mcp")).with_file_name("actpass-gateway");
        let program = found(program, "build it with: cargo build -p actpass-gateway")?;
        let folder = TempDir::new().unwrap();
        let mut command = Command::new(program);
        command.args(["dev", "--listen", "127.0.0.1:0"]).current_dir(folder.path());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        Some(Self { child, url, folder })
    }

    /// Runs a script of `clients` with the proxy, and returns its output.
    fn run(&self, python: &Path, script: &str, arguments: &[&Path]) -> String {
        let mut command = Command::new(python);
        command.arg(root().join("mcp/tests/clients").join(script)).arg(env!("CARGO_BIN_EXE_actpass-mcp"));
        command.args(arguments).current_dir(self.folder.path()).env("HOME", self.folder.path());
        command.env("ACTPASS_API_KEY", "apk_dev").env("ACTPASS_API_BASE_URL", &self.url);
        let output = command.stderr(Stdio::piped()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{text}");
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs the environments that `make test-adapters` installs, and is run there"]
fn real_client_runs_guarded_calls() {
    let (Some(python), Some(gateway)) = (python(), Gateway::start()) else { return };
    let text = gateway.run(&python, "guarded.py", &[]);
    assert_eq!(text.lines().filter(|line| line.contains(": ran {")).count(), 4, "{text}");
}

#[test]
#[ignore = "needs the environments that `make test-adapters` installs, and is run there"]
fn real_clients_and_servers_exchange_the_same_messages() {
    let (Some(python), Some(modules), Some(gateway)) = (python(), modules(), Gateway::start()) else {
        return;
    };
    let text = gateway.run(&python, "compare.py", &[&modules]);
    assert!(text.contains("compared 40 runs, 0 differences without a reason"), "{text}");
}
