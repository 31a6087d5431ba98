//! The command line.

mod approvals;
mod archive;
mod backup;
mod bucket;
mod config;
mod coverage;
mod evidence;
mod halts;
mod key;
mod keys;
mod log;
mod passkeys;
mod policy;
mod policy_life;
mod serve;
mod signed_data;
mod source;
mod tools;
mod vault;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::approvals::ApprovalsCommand;
use self::backup::make_backup;
use self::config::ConfigCommand;
use self::evidence::EvidenceCommand;
use self::halts::HaltsCommand;
use self::key::KeyCommand;
use self::keys::KeysCommand;
use self::passkeys::PasskeysCommand;
use self::policy::PolicyCommand;
use self::serve::{Dev, Serve};
use self::source::DataSource;
use self::tools::ToolsCommand;
use self::vault::VaultCommand;
use crate::config::{MASTER_KEY_VARIABLE, Settings};
use crate::http::openapi;
use crate::problems::Problems;
use crate::seal::MasterKey;
use crate::server;
use crate::store::{Location, Store};

/// Exit code for invalid settings.
const EXIT_INVALID_SETTINGS: u8 = 2;

/// Runs the program with the process arguments.
pub fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Approvals(command) => command.run(),
        Command::Backup { file, source } => make_backup(&file, source),
        Command::Config(command) => command.run(),
        Command::Dev(dev) => dev.run(),
        Command::Evidence(command) => command.run(),
        Command::Halts(command) => command.run(),
        Command::Key(command) => command.run(),
        Command::Keys(command) => command.run(),
        Command::Openapi => io::stdout().write_all(&openapi::DOCUMENT).map_err(Failure::new),
        Command::Passkeys(command) => command.run(),
        Command::Policy(command) => command.run(),
        Command::Serve(serve) => serve.run(),
        Command::Tools(command) => command.run(),
        Command::Vault(command) => command.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.code()
        }
    }
}

/// Self-hosted ActPass gateway: decides by policy whether an agent may act, and records each
/// decision before it responds
#[derive(Debug, Parser)]
#[command(name = "actpass-gateway", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what approvals need, and delegate decisions, also while the gateway runs
    #[command(subcommand)]
    Approvals(ApprovalsCommand),
    /// Back up the data file, also while the gateway runs: a consistent, verified copy without the
    /// master key
    Backup {
        /// Path of the copy; must not exist
        file: PathBuf,
        #[command(flatten)]
        source: DataSource,
    },
    /// Check settings without starting a gateway
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Run a gateway for evaluation and tests, with publicly known keys
    Dev(Dev),
    /// Export and verify ledger chains
    #[command(subcommand)]
    Evidence(EvidenceCommand),
    /// Stop agents, tools, users, tenants or everything, also while gateways run
    #[command(subcommand)]
    Halts(HaltsCommand),
    /// Generate and hash API keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Manage the keys that sign passports
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Print the OpenAPI 3.1 description of the HTTP API
    Openapi,
    /// Export the passkeys with which people sign approvals
    #[command(subcommand)]
    Passkeys(PasskeysCommand),
    /// Check and test policies
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Run a gateway
    Serve(Serve),
    /// Record the approved tools of an MCP server and detect changes
    #[command(subcommand)]
    Tools(ToolsCommand),
    /// Manage tool credentials, also while the gateway runs
    #[command(subcommand)]
    Vault(VaultCommand),
}

/// Reasons for a non-zero exit code.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Settings(Problems),
}

impl Failure {
    fn code(&self) -> ExitCode {
        match self {
            Self::Failed(_) => ExitCode::FAILURE,
            Self::Settings(_) => ExitCode::from(EXIT_INVALID_SETTINGS),
        }
    }

    fn new(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

fn require_master_key(settings: &Settings) -> Result<MasterKey, Failure> {
    server::master_key(&settings.master_key, &settings.data).map_err(Failure::new)?.ok_or_else(|| {
        let problem = format!(
            "no master key is configured: set master_key_file or the environment variable \
            {MASTER_KEY_VARIABLE}"
        );
        Failure::Failed(problem)
    })
}

/// Runs `job` on the data, also while a gateway uses it.
fn with_store<T>(
    data: &Location,
    job: impl AsyncFnOnce(&dyn Store) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    runtime.block_on(async {
        let store = data.open_existing().await.map_err(Failure::new)?;
        let done = job(&*store).await;
        store.close().await;
        done
    })
}

fn print(line: impl std::fmt::Display) -> Result<(), Failure> {
    writeln!(io::stdout(), "{line}").map_err(Failure::new)
}
