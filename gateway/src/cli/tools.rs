//! `actpass-gateway tools`.

use std::fs;
use std::path::{Path, PathBuf};

use actpass_protocol::tools::{Tools, ToolsError};
use clap::Subcommand;

use super::{Failure, print};

#[derive(Debug, Subcommand)]
pub(super) enum ToolsCommand {
    /// Compare a tool list with the lock file and print added, removed and changed parts of each
    /// tool
    Check {
        /// MCP tools/list result, a JSON file
        file: PathBuf,
        /// Lock file
        #[arg(long, value_name = "FILE", default_value = "actpass.lock")]
        lock: PathBuf,
    },
    /// Write the lock file, which approves the listed tools as they are now
    Scan {
        /// MCP tools/list result, a JSON file
        file: PathBuf,
        /// Lock file
        #[arg(long, value_name = "FILE", default_value = "actpass.lock")]
        lock: PathBuf,
    },
}

impl ToolsCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Check { file, lock } => check_tools(&file, &lock),
            Self::Scan { file, lock } => scan_tools(&file, &lock),
        }
    }
}

fn scan_tools(file: &Path, lock: &Path) -> Result<(), Failure> {
    let tools = read_tools(file, Tools::from_list)?;
    let text = tools.lock().map_err(Failure::new)?;
    // Write atomically: a partial lock file would be invalid.
    let mut beside = lock.as_os_str().to_owned();
    beside.push(".new");
    fs::write(&beside, text)
        .and_then(|()| fs::rename(&beside, lock))
        .map_err(|error| Failure::Failed(format!("{}: {error}", lock.display())))?;
    print(format_args!("{}: {} tools", lock.display(), tools.len()))
}

fn check_tools(file: &Path, lock: &Path) -> Result<(), Failure> {
    let approved = read_tools(lock, Tools::from_lock)?;
    let now = read_tools(file, Tools::from_list)?;
    let differences = approved.differences(&now);
    for difference in &differences {
        print(difference)?;
    }
    match differences.len() {
        0 => print(format_args!("{} tools, all match {}", now.len(), lock.display())),
        found => Err(Failure::Failed(format!(
            "{} differs from {}: {found} {}",
            file.display(),
            lock.display(),
            if found == 1 { "difference" } else { "differences" }
        ))),
    }
}

fn read_tools(file: &Path, parse: impl Fn(&[u8]) -> Result<Tools, ToolsError>) -> Result<Tools, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(format!("{}: {error}", file.display()));
    let text = fs::read(file).map_err(|error| failed(&error))?;
    parse(&text).map_err(|error| failed(&error))
}
