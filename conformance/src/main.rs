//! Runs the published vectors against any guard.
//!
//! For each case it starts a gateway that misbehaves as the vector describes, lets an adapter call the
//! guard, and counts how often the guarded function ran. `docs/conformance.md` defines the outcomes
//! and the adapter's protocol.

#![forbid(unsafe_code)]

mod adapter;
mod cases;
mod report;
mod run;

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::cases::{Case, Wire};
use crate::report::Summary;
use crate::run::{CaseReport, Outcome, Settings};

/// Runs the vectors of the ActPass guard contract against any guard, through an adapter.
///
/// Exit codes: 0 nothing was evaded; 1 something was; 2 the run failed, or no permitted case ran.
#[derive(Parser)]
#[command(name = "actpass-conformance", version)]
struct Arguments {
    /// The adapter's command: the rest of the line
    #[arg(long, value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true, required_unless_present = "list")]
    adapter: Vec<String>,
    /// The cases to run
    #[arg(long, value_enum, default_value_t)]
    suite: Suite,
    /// The bodies of another wire protocol, for the suite `transport`
    #[arg(long, value_name = "FILE")]
    wire: Option<PathBuf>,
    /// Runs only the cases whose name begins with this: an area, `area/vector`, `area/vector/mode`
    #[arg(long, value_name = "AREA")]
    only: Vec<String>,
    /// Fails if a case differs from its vector: another outcome than held or fired by default, or
    /// another decision, credential or number of requests
    #[arg(long)]
    exact: bool,
    /// Writes the outcome of each case to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Prints the names of the cases and exits
    #[arg(long)]
    list: bool,
    /// The number of adapters that run concurrently
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// The time limit of a case, after which its adapter is killed
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    limit: u64,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum Suite {
    /// The published vectors: the whole contract, for a guard with the ActPass protocol
    #[default]
    Vectors,
    /// Failures of the transport, for a guard with any JSON protocol over HTTP
    Transport,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::Vectors => "vectors",
            Self::Transport => "transport",
        }
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            // Without a standard error output, the exit code remains.
            let _ = writeln!(io::stderr(), "actpass-conformance: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let cases = selected(arguments)?;
    let mut output = io::stdout().lock();
    if arguments.list {
        for case in &cases {
            writeln!(output, "{}\t{}", case.name, case.description)?;
        }
        return Ok(ExitCode::SUCCESS);
    }

    let folder = tempfile::tempdir()?;
    let settings = Settings {
        adapter: &arguments.adapter,
        jobs: usize::from(arguments.jobs).min(cases.len()),
        limit: Duration::from_secs(arguments.limit),
        folder: folder.path(),
    };
    let reports = run::run_all(&cases, &settings)?;
    let summary = Summary::new(&reports);
    write!(output, "{}", summary.table())?;
    for one in reports.iter().filter(|one| is_listed(one, arguments.exact)) {
        writeln!(output, "{}", line(one))?;
    }
    if let Some(path) = &arguments.json {
        let json = summary.json(arguments.suite.name(), &arguments.adapter, &reports);
        std::fs::write(path, format!("{json:#}\n"))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let code = exit_code(&summary, &reports, arguments.exact);
    if code == FAILED {
        return Err(
            "no permitted case ran: the adapter or the guard runs nothing, which proves nothing".into()
        );
    }
    Ok(ExitCode::from(code))
}

fn selected(arguments: &Arguments) -> Result<Vec<Case>, String> {
    let mut cases = match arguments.suite {
        Suite::Transport => cases::transport(&Wire::read(arguments.wire.as_deref())?)?,
        Suite::Vectors if arguments.wire.is_some() => {
            return Err("--wire: only with `--suite transport`".to_owned());
        }
        Suite::Vectors => cases::vectors()?,
    };
    for only in &arguments.only {
        if !cases.iter().any(|case| begins_with(&case.name, only)) {
            return Err(format!("--only {only}: no case begins with it; --list prints the names"));
        }
    }
    if !arguments.only.is_empty() {
        cases.retain(|case| arguments.only.iter().any(|only| begins_with(&case.name, only)));
    }
    Ok(cases)
}

/// Whether the first parts of `name` are `only`.
fn begins_with(name: &str, only: &str) -> bool {
    let only = only.trim_end_matches('/');
    name.strip_prefix(only).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_listed(report: &CaseReport, exact: bool) -> bool {
    match report.outcome {
        Outcome::Evaded | Outcome::RefusedWrongly => true,
        Outcome::Held | Outcome::FiredByDefault => exact && !report.differences.is_empty(),
        Outcome::BlockedByDefault | Outcome::Skipped => exact,
    }
}

fn line(report: &CaseReport) -> String {
    let reason = report.reason.iter().chain(&report.differences).map(String::as_str);
    let reason: Vec<_> = reason.filter(|text| !text.is_empty()).collect();
    let reason = if reason.is_empty() { String::new() } else { format!(": {}", reason.join("; ")) };
    // One line for any reason of an adapter.
    let reason: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("{} {} ({}){reason}", report.outcome.title(), report.case, report.description)
}

fn exit_code(summary: &Summary, reports: &[CaseReport], exact: bool) -> u8 {
    let permitted = reports.iter().any(|one| one.may_run);
    if summary.total.of(Outcome::Evaded) > 0 || exact && reports.iter().any(|one| is_listed(one, true)) {
        EVADED
    } else if permitted && summary.total.of(Outcome::FiredByDefault) == 0 {
        // A guard that never runs anything holds every case, which proves nothing.
        FAILED
    } else {
        0
    }
}

const EVADED: u8 = 1;
const FAILED: u8 = 2;
