//! A worker: a program in one of the languages that makes guarded calls.
//!
//! It is started with the path of its [`WorkerConfig`], prints `ready`, and obeys commands on
//! standard input. `go` starts the load. `rest` stops it; when no call is in flight, the worker
//! prints `resting`. `call` makes two calls per client in sequence, so that closed connections are
//! noticed, and prints `called`. `end` closes the clients and exits with code 0. At end of input,
//! the worker exits with another code.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::Result;
use crate::call::{Endpoint, WorkerConfig};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const EXIT_TIMEOUT: Duration = Duration::from_secs(30);

/// A worker process; killed on drop.
#[derive(Debug)]
pub struct Worker {
    name: String,
    journal: PathBuf,
    child: Child,
    commands: ChildStdin,
    replies: BufReader<ChildStdout>,
    allowance: u64,
}

impl Worker {
    /// Starts the worker `name`; `command` gets the path of its configuration as an additional
    /// argument.
    ///
    /// # Errors
    ///
    /// Returns an error if it does not start.
    pub async fn start(
        name: &str,
        command: &[String],
        gateways: &[Endpoint],
        tasks: usize,
        folder: &Path,
    ) -> Result<Self> {
        let journal = folder.join(name).with_extension("journal");
        std::fs::write(&journal, "")?;
        let commands = WorkerConfig {
            journal: journal.to_string_lossy().into_owned(),
            gateways: gateways.to_vec(),
            tasks,
            pause_ms: 200,
            timeout_ms: 2500,
            fresh_client_each: 50,
        };
        let path = folder.join(name).with_extension("orders.json");
        std::fs::write(&path, serde_json::to_vec(&commands)?)?;
        let (program, arguments) = command.split_first().ok_or("an empty command")?;
        let mut child = Command::new(program)
            .args(arguments)
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{name}: {program}: {error}"))?;
        let commands = child.stdin.take().ok_or("no standard input")?;
        let replies = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        // Node's garbage collector is lazy, and freed pages count until the system needs them.
        let allowance = if name == "node" { 16 * 1024 } else { 4 * 1024 };
        let mut worker = Self { name: name.to_owned(), journal, child, commands, replies, allowance };
        worker.expect_line("ready", START_TIMEOUT).await?;
        Ok(worker)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Path of its journal.
    pub fn journal(&self) -> &Path {
        &self.journal
    }

    /// Its process id.
    pub fn process(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Permitted memory growth, in KiB.
    pub fn allowance(&self) -> u64 {
        self.allowance
    }

    /// Starts the load.
    ///
    /// # Errors
    ///
    /// Returns an error if it has exited.
    pub async fn start_load(&mut self) -> Result<()> {
        self.send_command("go").await
    }

    /// Stops the load and waits for calls in flight.
    ///
    /// # Errors
    ///
    /// Returns an error if it has exited or does not stop.
    pub async fn stop_load(&mut self) -> Result<()> {
        self.send_command("rest").await?;
        self.expect_line("resting", IDLE_TIMEOUT).await
    }

    /// Makes two calls with each client.
    ///
    /// # Errors
    ///
    /// Returns an error if it has exited or does not finish.
    pub async fn call(&mut self) -> Result<()> {
        self.send_command("call").await?;
        self.expect_line("called", IDLE_TIMEOUT).await
    }

    /// Closes its clients and waits for its exit.
    ///
    /// # Errors
    ///
    /// Returns an error if it does not exit with code 0.
    pub async fn end(mut self) -> Result<PathBuf> {
        self.send_command("end").await?;
        match timeout(EXIT_TIMEOUT, self.child.wait()).await {
            Ok(status) if status.as_ref().is_ok_and(std::process::ExitStatus::success) => Ok(self.journal),
            Ok(status) => Err(format!("{} exited with {}", self.name, status?).into()),
            Err(_) => Err(format!("{} did not exit", self.name).into()),
        }
    }

    async fn send_command(&mut self, word: &str) -> Result<()> {
        let said = self.commands.write_all(format!("{word}\n").as_bytes()).await;
        said.map_err(|error| format!("{}: writing a command failed: {error}", self.name).into())
    }

    async fn expect_line(&mut self, word: &str, longest: Duration) -> Result<()> {
        let mut line = String::new();
        match timeout(longest, self.replies.read_line(&mut line)).await {
            Err(_) => Err(format!("{} did not print {word}", self.name).into()),
            Ok(read) => match read.map(|_| line.trim_end() == word) {
                Ok(true) => Ok(()),
                _ => Err(format!("{} printed {line:?}, expected {word}", self.name).into()),
            },
        }
    }
}
