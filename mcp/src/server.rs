//! The MCP server as a child process.

use std::ffi::{OsStr, OsString};
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Grace period of the server after the end of its input.
pub(crate) const INPUT_END: Duration = Duration::from_secs(5);
/// Grace period of the server after SIGTERM.
pub(crate) const TERMINATION: Duration = Duration::from_secs(2);
/// The variables that the server gets without being named.
const INHERITED: [&str; 2] = ["HOME", "PATH"];

/// A variable of the server's environment: `NAME`, whose value is the proxy's own, or `NAME=VALUE`.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    name: String,
    value: OsString,
}

impl std::str::FromStr for Variable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (text, crate::variables::value(text)),
        };
        if name.is_empty() {
            return Err("expected NAME or NAME=VALUE".to_owned());
        }
        let value = value.ok_or_else(|| format!("the variable {name} is not set"))?;
        Ok(Self { name: name.to_owned(), value })
    }
}

/// A running server. It leads a separate process group.
pub(crate) struct Server {
    child: Child,
    #[cfg(unix)]
    group: Option<rustix::process::Pid>,
}

impl Server {
    /// Starts `command`, the program and its arguments. Its standard error is the proxy's.
    pub(crate) fn start(
        command: &[OsString],
        environment: &[Variable],
    ) -> io::Result<(Self, ChildStdin, ChildStdout)> {
        let program = command.first().map_or(OsStr::new(""), OsString::as_os_str);
        let mut process = Command::new(program);
        process.args(command.iter().skip(1)).env_clear().kill_on_drop(true);
        process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        for name in INHERITED {
            process.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        process.envs(environment.iter().map(|variable| (&variable.name, &variable.value)));
        #[cfg(unix)]
        process.process_group(0);
        let mut child = process.spawn().map_err(|error| {
            io::Error::new(error.kind(), format!("cannot start {}: {error}", program.display()))
        })?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the server has no standard streams"));
        };
        #[cfg(unix)]
        let group = child.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
        #[cfg(unix)]
        group.into_iter().for_each(crate::watcher::started);
        let server = Self {
            child,
            #[cfg(unix)]
            group,
        };
        Ok((server, input, output))
    }

    /// Waits for the end of the process. Can be cancelled.
    pub(crate) async fn wait(&mut self) -> Option<ExitStatus> {
        self.child.wait().await.ok()
    }

    /// Waits until the process ends with an error. Can be cancelled.
    pub(crate) async fn failed(&mut self) -> ExitStatus {
        match self.child.wait().await {
            Ok(status) if !status.success() => status,
            Ok(_) | Err(_) => std::future::pending().await,
        }
    }

    /// Ends the process and all of its group: SIGTERM, then SIGKILL.
    pub(crate) async fn stop(mut self) {
        self.terminate();
        let _ = timeout(TERMINATION, self.child.wait()).await;
        self.kill();
        let _ = self.child.wait().await;
        #[cfg(unix)]
        self.group.into_iter().for_each(crate::watcher::ended);
    }

    #[cfg(unix)]
    fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    #[cfg(not(unix))]
    fn terminate(&self) {}

    #[cfg(unix)]
    fn kill(&mut self) {
        self.signal(rustix::process::Signal::KILL);
    }

    #[cfg(not(unix))]
    fn kill(&mut self) {
        let _ = self.child.start_kill();
    }

    /// Sends `signal` to the group. An error means that no process of the group is left.
    #[cfg(unix)]
    fn signal(&self, signal: rustix::process::Signal) {
        if let Some(group) = self.group {
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }
}
