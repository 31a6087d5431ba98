//! Ends the servers of a proxy that was killed.
//!
//! A killed process cannot end its children. So a second process of the program reads from a pipe
//! which process groups the proxy has started and ended, and ends the others when the pipe closes.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use crate::exchange::lock;
use crate::warn;

/// The subcommand of the second process.
pub(crate) const SUBCOMMAND: &str = "watch-servers";
/// The interval of checks whether a process group has ended.
const POLL: Duration = Duration::from_millis(20);

/// The second process; `None` if it could not be started.
static WATCHER: OnceLock<Option<Mutex<Child>>> = OnceLock::new();

/// Notes the start of a process group.
pub(crate) fn started(group: Pid) {
    note(group.as_raw_nonzero().get());
}

/// Notes the end of a process group.
pub(crate) fn ended(group: Pid) {
    note(-group.as_raw_nonzero().get());
}

/// Writes the number of a process group, negative after its end.
fn note(group: i32) {
    let watcher = WATCHER.get_or_init(|| {
        let started = start().map_err(|error| {
            warn(format_args!(
                "the servers do not end if the proxy is killed: cannot start its second process: {error}"
            ));
        });
        started.ok().map(Mutex::new)
    });
    if let Some(pipe) = watcher.as_ref().map(lock).as_deref_mut().and_then(|child| child.stdin.as_mut()) {
        // Without the process, the servers only do not end with a killed proxy.
        let _ = writeln!(pipe, "{group}");
    }
}

/// Starts the second process, in a separate group: it outlives signals to that of the proxy.
fn start() -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(SUBCOMMAND).env_clear().process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

/// Runs the second process: reads until the proxy ends, then ends the process groups that are left:
/// SIGTERM, and SIGKILL after `termination`.
pub(crate) fn run(termination: Duration) {
    let mut groups = BTreeSet::new();
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        match line.parse::<i32>() {
            Ok(group) if group > 1 => groups.insert(group),
            Ok(group) => groups.remove(&group.saturating_neg()),
            Err(_) => false,
        };
    }
    let mut groups: Vec<Pid> = groups.into_iter().filter_map(Pid::from_raw).collect();
    for group in &groups {
        let _ = kill_process_group(*group, Signal::TERM);
    }
    let until = Instant::now() + termination;
    while !groups.is_empty() && Instant::now() < until {
        std::thread::sleep(POLL);
        groups.retain(|group| test_kill_process_group(*group).is_ok());
    }
    for group in groups {
        let _ = kill_process_group(group, Signal::KILL);
    }
}
