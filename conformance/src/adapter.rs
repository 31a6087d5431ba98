//! An adapter's process: one line of JSON for each case, one line back.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Map, Value};

/// The adapter's line about one case.
#[derive(Debug, Deserialize)]
pub(crate) struct Reply {
    /// The number of runs of the tested call's function, as the adapter counted them.
    #[serde(default)]
    pub(crate) executed: u64,
    pub(crate) outcome: Reported,
    /// The decision that the guard reported, with a member `decision`.
    #[serde(default)]
    pub(crate) decision: Option<Map<String, Value>>,
    /// The token that the function received.
    #[serde(default)]
    pub(crate) credential: Option<String>,
    /// Whether the adapter reports a credential.
    #[serde(skip)]
    pub(crate) names_credential: bool,
    /// An error, or the reason for `unsupported`.
    #[serde(default)]
    pub(crate) reason: Option<String>,
}

impl Reply {
    fn parse(line: &str) -> Result<Self, String> {
        let members: Map<String, Value> =
            serde_json::from_str(line).map_err(|error| format!("the reply is not a JSON object: {error}"))?;
        let names_credential = members.contains_key("credential");
        let reply: Self = serde_json::from_value(Value::Object(members))
            .map_err(|error| format!("the reply is invalid: {error}"))?;
        Ok(Self { names_credential, ..reply })
    }

    /// The word of the reported decision, if present.
    pub(crate) fn word(&self) -> Option<&str> {
        self.decision.as_ref()?.get("decision")?.as_str().filter(|word| !word.is_empty())
    }
}

/// The guard's result.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reported {
    /// The function ran and returned.
    Returned,
    /// The guard reported a decision and did not run the function.
    Blocked,
    /// The guard raised an error, or the function did.
    Failed,
    /// The guard has no such feature; it was not called.
    Unsupported,
}

/// An adapter; its process is started for the first case, and again after it was killed or exited.
pub(crate) struct Adapter<'a> {
    command: &'a [String],
    process: Option<Process>,
}

impl<'a> Adapter<'a> {
    pub(crate) fn new(command: &'a [String]) -> Self {
        Self { command, process: None }
    }

    /// Runs one case. After `limit` the process is killed.
    ///
    /// # Errors
    ///
    /// The outer error: the command cannot be started. The inner: the adapter sent no valid reply.
    pub(crate) fn run(&mut self, line: &str, limit: Duration) -> io::Result<Result<Reply, String>> {
        let mut process = match self.process.take() {
            Some(process) => process,
            None => Process::start(self.command)?,
        };
        match process.exchange(line, limit) {
            Ok(reply) => {
                self.process = Some(process);
                Ok(Reply::parse(&reply))
            }
            Err(what) => Ok(Err(process.kill(what))),
        }
    }

    /// Ends the process: closes its input, and kills it if it does not exit within `limit`.
    pub(crate) fn stop(&mut self, limit: Duration) {
        if let Some(process) = self.process.take() {
            process.stop(limit);
        }
    }
}

struct Process {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Process {
    fn start(command: &[String]) -> io::Result<Self> {
        let (program, arguments) =
            command.split_first().ok_or_else(|| io::Error::other("--adapter: missing"))?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("--adapter {program}: {error}")))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the adapter has no standard input or output"));
        };
        let (sender, lines) = mpsc::channel();
        thread::Builder::new().name("adapter-output".to_owned()).spawn(move || {
            // Ends with the output, or when the receiver is dropped.
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { child, input, lines })
    }

    fn exchange(&mut self, line: &str, limit: Duration) -> Result<String, String> {
        // A late second line about an earlier case must not count as the reply to this one.
        if self.lines.try_recv().is_ok() {
            return Err("the adapter wrote more than one line about a case".to_owned());
        }
        self.input
            .write_all(line.as_bytes())
            .and_then(|()| self.input.flush())
            .map_err(|error| format!("the adapter does not read: {error}"))?;
        self.lines.recv_timeout(limit).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("no reply within {} s", limit.as_secs_f64()),
            RecvTimeoutError::Disconnected => "the adapter exited without a reply".to_owned(),
        })
    }

    /// Kills the process, waits for it, and adds its exit status to `what`.
    fn kill(mut self, what: String) -> String {
        // Fails only if the process has exited already.
        let _ = self.child.kill();
        match self.child.wait() {
            Ok(status) => format!("{what} ({status})"),
            Err(_) => what,
        }
    }

    fn stop(self, limit: Duration) {
        let Self { mut child, input, .. } = self;
        drop(input);
        let started = Instant::now();
        while started.elapsed() < limit {
            if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}
