//! The command line.

use std::fs;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use actpass_protocol::Secret;
use actpass_protocol::token::PublicKey;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_appender::non_blocking::{ErrorCounter, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use zeroize::Zeroizing;

use crate::auth::{self, KeyHash, MAX_KEY_BYTES, Role, SHORT_KEY};
use crate::checkpoints::{Checkpoint, Collector};
use crate::clock::{Clock, LAST_SECOND, rfc3339};
use crate::config::{LogFormat, LogLevel, MASTER_KEY_VARIABLE, Settings, parse_listen};
use crate::evidence::{self, Chain, Expected, ExportError, Verified};
use crate::files;
use crate::http::openapi;
use crate::ledger::{self, Head};
use crate::passport::{Keys, Ring};
use crate::policy::{Cases, Policy};
use crate::problems::Problems;
use crate::request::MAX_TOOL_CHARACTERS;
use crate::seal::MasterKey;
use crate::server::{self, Server};
use crate::store::{Appended, Location, Store, accept_missing_wal, backup, read_chain, read_keys};
use crate::tools::{Tools, ToolsError};
use crate::vault::{self, MAX_SECRET_BYTES, Vault};

/// The exit code for settings that are wrong.
const WRONG_SETTINGS: u8 = 2;

/// Runs the program with the process's arguments.
pub fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Backup { file, source } => make_backup(&file, source),
        Command::Config(ConfigCommand::Check { config, deny_warnings }) => {
            check_config(&config, deny_warnings)
        }
        Command::Dev(dev) => Settings::dev(dev.listen, dev.data, dev.policy.as_deref())
            .map_err(Failure::Settings)
            .and_then(|settings| serve(settings, dev.log_level, Some("apdv_dev"), dev.accept_missing_wal)),
        Command::Evidence(EvidenceCommand::Export { chain, source, tenant, checkpoint }) => {
            export_evidence(Chain { tenant_id: &tenant, chain_id: &chain }, source, checkpoint.as_deref())
        }
        Command::Evidence(EvidenceCommand::Audit { source, tenant }) => audit_evidence(source, &tenant),
        Command::Evidence(EvidenceCommand::Verify(verify)) => verify_evidence(&verify),
        Command::Key(KeyCommand::Hash) => hash_key(),
        Command::Key(KeyCommand::New { role }) => new_key(role.into()),
        Command::Keys(KeysCommand::Rotate { config }) => {
            Settings::load(&config).map_err(Failure::Settings).and_then(|settings| rotate_keys(&settings))
        }
        Command::Openapi => io::stdout().write_all(&openapi::DOCUMENT).map_err(Failure::new),
        Command::Policy(PolicyCommand::Check { file }) => check_policy(&file),
        Command::Policy(PolicyCommand::Test { file, cases }) => test_policy(&file, &cases),
        Command::Tools(ToolsCommand::Check { file, lock }) => check_tools(&file, &lock),
        Command::Tools(ToolsCommand::Scan { file, lock }) => scan_tools(&file, &lock),
        Command::Vault(command) => vault(command),
        Command::Serve { config, log_level, accept_missing_wal } => Settings::load(&config)
            .map_err(Failure::Settings)
            .and_then(|settings| serve(settings, log_level, None, accept_missing_wal)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.code()
        }
    }
}

/// The self-hosted ActPass gateway: decides by policy whether an agent may act, and records each decision before it
/// answers.
#[derive(Debug, Parser)]
#[command(name = "actpass-gateway", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copies the data file, also while the gateway runs: of one moment, whole and checked; the master key is not in it
    Backup {
        /// The copy: a name that no file has yet
        file: PathBuf,
        #[command(flatten)]
        source: Source,
    },
    /// Checks settings without starting a gateway
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Runs a gateway for a first try and for tests, with keys that everyone knows
    Dev(Dev),
    /// Exports chains of the ledger and checks exports
    #[command(subcommand)]
    Evidence(EvidenceCommand),
    /// Makes API keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Looks after the keys that sign passports
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Prints the description of the HTTP interface, OpenAPI 3.1
    Openapi,
    /// Checks and tests policies
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Runs a gateway
    Serve {
        /// The settings, a TOML file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Starts although the data file was in use when it was copied or left, and its write-ahead log is missing: what
        /// was recorded last may be lost
        #[arg(long)]
        accept_missing_wal: bool,
        /// Which lines the log has, whatever the settings say
        #[arg(long, value_enum, value_name = "LEVEL")]
        log_level: Option<LogLevelArgument>,
    },
    /// Keeps the tools of an MCP server as they were approved, and finds what changed
    #[command(subcommand)]
    Tools(ToolsCommand),
    /// Looks after the credentials that tools need, also while the gateway runs
    #[command(subcommand)]
    Vault(VaultCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Prints everything that is wrong with the settings, and what is probably not meant
    Check {
        /// The settings, a TOML file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Fails also if something is only probably not meant
        #[arg(long)]
        deny_warnings: bool,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogLevelArgument {
    Error,
    Warn,
    Info,
    Debug,
}

impl From<LogLevelArgument> for LogLevel {
    fn from(level: LogLevelArgument) -> Self {
        match level {
            LogLevelArgument::Error => Self::Error,
            LogLevelArgument::Warn => Self::Warn,
            LogLevelArgument::Info => Self::Info,
            LogLevelArgument::Debug => Self::Debug,
        }
    }
}

#[derive(Args, Debug)]
struct Dev {
    /// Which lines the log has
    #[arg(long, value_enum, value_name = "LEVEL")]
    log_level: Option<LogLevelArgument>,
    /// Where to listen: a loopback address; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8787", value_parser = parse_listen)]
    listen: SocketAddr,
    /// The policy that decides; the refund policy if there is none
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The data file; .actpass/dev.db if there is none
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Starts although the data file was in use when it was copied or left, and its write-ahead log is missing: what was
    /// recorded last may be lost
    #[arg(long)]
    accept_missing_wal: bool,
}

#[derive(Debug, Subcommand)]
enum EvidenceCommand {
    /// Prints a chain's events, one a line, and a signature of how it ends; a gateway may run meanwhile
    Export {
        /// The chain; a tenant's decisions are in "decisions"
        chain: String,
        #[command(flatten)]
        source: Source,
        /// Whose chain it is
        #[arg(long, value_name = "ID")]
        tenant: String,
        /// A checkpoint of the chain that was kept elsewhere: its event or its signature. What contradicts it, or one in
        /// the data, is not signed
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
    },
    /// Finds approvals, passports and manifests in the data that no event in the ledger stands for; a gateway may run meanwhile
    Audit {
        #[command(flatten)]
        source: Source,
        /// Whose data
        #[arg(long, value_name = "ID")]
        tenant: String,
    },
    /// Checks an export, without any gateway
    Verify(Verify),
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Source {
    /// The gateway's settings, a TOML file, for its data and its master key: needed if the data are in PostgreSQL
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The gateway's data file; the master key is ACTPASS_MASTER_KEY, or else in FILE.master-key, if it is there
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Verify {
    /// The export; - for the standard input
    file: PathBuf,
    /// The hash that the last event must have, to see whether any is missing at the end
    #[arg(long, value_name = "HASH")]
    head: Option<String>,
    /// The gateway's public keys, a JWK Set from where you trust it; then the export must be signed with one of them
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
    /// Fails unless there is a signature, and --jwks to check it with
    #[arg(long)]
    require_signature: bool,
    /// A checkpoint of the chain that was kept elsewhere: its event or its signature; needs --jwks
    #[arg(long, value_name = "FILE", requires = "jwks")]
    checkpoint: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Reads a key from the standard input and prints its hash, for the settings
    Hash,
    /// Prints a new random key, and its hash for the settings
    New {
        /// What the key is for
        #[arg(long, value_enum, default_value_t)]
        role: RoleArgument,
    },
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Makes a new signing key, also while the gateway runs; the old ones verify until their passports have expired
    Rotate {
        /// The settings, a TOML file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum RoleArgument {
    #[default]
    Agent,
    Operator,
}

impl From<RoleArgument> for Role {
    fn from(role: RoleArgument) -> Self {
        match role {
            RoleArgument::Agent => Self::Agent,
            RoleArgument::Operator => Self::Operator,
        }
    }
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Checks a policy whole
    Check {
        /// The policy, a JSON file
        file: PathBuf,
    },
    /// Checks that a policy decides as expected
    Test {
        /// The policy, a JSON file
        file: PathBuf,
        /// The cases, a JSON file
        cases: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum ToolsCommand {
    /// Compares a list of tools with the lock file, and names what each tool gained, lost or changed
    Check {
        /// An MCP tools/list result, a JSON file
        file: PathBuf,
        /// The lock file
        #[arg(long, value_name = "FILE", default_value = "actpass.lock")]
        lock: PathBuf,
    },
    /// Writes the lock file: these tools, as they are now, are approved
    Scan {
        /// An MCP tools/list result, a JSON file
        file: PathBuf,
        /// The lock file
        #[arg(long, value_name = "FILE", default_value = "actpass.lock")]
        lock: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum VaultCommand {
    /// Prints the tools that have a credential, since when and until when
    List {
        #[command(flatten)]
        place: VaultPlace,
    },
    /// Removes a tool's credential
    Remove {
        /// The tool, as requests name it
        tool: String,
        #[command(flatten)]
        place: VaultPlace,
    },
    /// Reads a secret from the standard input and keeps it as the tool's credential, in place of any other
    ///
    /// One line break at its end is dropped. At a terminal it asks for one line and does not show it.
    Set {
        /// The tool, as requests name it
        tool: String,
        /// Until when it holds: a time such as 2027-01-31T00:00:00Z, or from now on such as 90d or 12h; for ever if left out
        #[arg(long, value_name = "WHEN")]
        expires: Option<String>,
        #[command(flatten)]
        place: VaultPlace,
    },
}

#[derive(Args, Debug)]
struct VaultPlace {
    /// The settings, a TOML file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Whose tool it is; may be left out if there is one tenant
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
}

/// Why the program ends with another code than 0.
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
            Self::Settings(_) => ExitCode::from(WRONG_SETTINGS),
        }
    }

    fn new(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

/// `known` is an operator's key that everyone knows.
fn serve(
    settings: Settings,
    level: Option<LogLevelArgument>,
    known: Option<&str>,
    accepts_missing_wal: bool,
) -> Result<(), Failure> {
    let log = start_log(settings.log, level.map_or(settings.log_level, LogLevel::from));
    if let (true, Location::File(data)) = (accepts_missing_wal, &settings.data)
        && data.try_exists().map_err(Failure::new)?
    {
        accept_missing_wal(data).map_err(Failure::new)?;
    }
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::new)?;
    runtime.block_on(async {
        // From before anything is there to be stopped.
        let signals = Signals::new().map_err(Failure::new)?;
        tokio::spawn(report_dropped(log.dropped.clone()));
        let server = Server::start(settings).await.map_err(Failure::new)?;
        let mut out = io::stdout();
        // Whoever started the gateway may have closed its end of the pipe; the gateway works all the same.
        let _ = writeln!(out, "listening on {}", server.url()).and_then(|()| out.flush());
        if let Some(key) = known {
            let _ = writeln!(out, "approve at {}/ with the operator's key {key}", server.url());
        }
        tracing::info!(address = %server.address(), "started");
        server
            .run_until(async {
                let signal = signals.any().await;
                tracing::info!(signal, "stopping");
            })
            .await
            .map_err(Failure::new)?;
        tracing::info!("stopped");
        Ok(())
    })
}

/// Says how many lines the log lost, whenever there are more.
async fn report_dropped(dropped: ErrorCounter) {
    let mut known = 0;
    let mut looks = tokio::time::interval(DROPPED_EVERY);
    loop {
        looks.tick().await;
        let now = dropped.dropped_lines();
        if now > known {
            tracing::warn!(
                lines = now - known,
                total = now,
                "log lines were dropped: nobody took them in time"
            );
            known = now;
        }
    }
}

/// How often it is looked whether lines of the log were dropped.
const DROPPED_EVERY: Duration = Duration::from_secs(10);

/// The log, which is written until this is dropped.
struct Log {
    dropped: ErrorCounter,
    _guard: WorkerGuard,
}

/// Sends the gateway's own log lines to the standard error. Those of its libraries are left out: theirs are not checked
/// for what they show.
///
/// A thread of its own writes them, and drops lines rather than wait: a log that nobody reads must not stop the gateway.
/// What is left is written when the guard is dropped.
fn start_log(format: LogFormat, level: LogLevel) -> Log {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let own = Targets::new().with_target("actpass_gateway", level);
    // That thread flushes whenever nothing more waits for it.
    let (writer, guard) = tracing_appender::non_blocking(io::BufWriter::new(io::stderr()));
    let dropped = writer.error_counter();
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    let registry = tracing_subscriber::registry().with(own);
    // Only a second call in one process fails, and then there is a log already.
    let _ = match format {
        LogFormat::Json => registry.with(lines.json()).try_init(),
        LogFormat::Text => registry.with(lines).try_init(),
    };
    // A panic's message can hold what was being worked on; where it happened cannot.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, "panicked");
    }));
    Log { dropped, _guard: guard }
}

#[cfg(unix)]
struct Signals {
    hangup: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for a signal that stops the gateway. A hangup does not: whoever sends one means that settings be read again,
    /// or has closed the terminal.
    async fn any(mut self) -> &'static str {
        loop {
            tokio::select! {
                Some(()) = self.hangup.recv() => {
                    tracing::warn!("SIGHUP is ignored: settings are read when the gateway starts, so restart it");
                }
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.terminate.recv() => return "SIGTERM",
            }
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn any(self) -> &'static str {
        match tokio::signal::ctrl_c().await {
            Ok(()) => "Ctrl-C",
            Err(_) => std::future::pending().await,
        }
    }
}

fn audit_evidence(source: Source, tenant: &str) -> Result<(), Failure> {
    let data = match source {
        Source { config: Some(config), .. } => Settings::load(&config).map_err(Failure::Settings)?.data,
        Source { config: None, data } => Location::File(data.unwrap_or_default()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let unproven = runtime.block_on(async {
        let store = data.open_beside().await.map_err(Failure::new)?;
        let unproven = store.unproven(tenant).await.map_err(Failure::new);
        store.close().await;
        unproven
    })?;
    for line in &unproven {
        print(line)?;
    }
    match unproven.len() {
        0 => print("every approval, passport and manifest follows from the ledger"),
        count => Err(Failure::Failed(format!("{count} do not follow from the ledger"))),
    }
}

fn make_backup(to: &Path, source: Source) -> Result<(), Failure> {
    let data = match source {
        Source { config: Some(config), .. } => Settings::load(&config).map_err(Failure::Settings)?.data,
        Source { config: None, data } => Location::File(data.unwrap_or_default()),
    };
    let Location::File(data) = data else {
        return Err(Failure::new("the data are in PostgreSQL: back them up with pg_dump or pg_basebackup"));
    };
    let copied = backup(&data, to).map_err(Failure::new)?;
    print(format_args!("{}: {} events in {} chains, all whole", to.display(), copied.events, copied.chains))
}

fn export_evidence(chain: Chain<'_>, source: Source, checkpoint: Option<&Path>) -> Result<(), Failure> {
    let (data, master) = match source {
        Source { config: Some(config), .. } => {
            let settings = Settings::load(&config).map_err(Failure::Settings)?;
            let master = server::master_key(&settings.master_key, &settings.data).map_err(Failure::new)?;
            (settings.data, master)
        }
        Source { config: None, data } => {
            let data = data.unwrap_or_default();
            let master = find_master_key(&data)?;
            (Location::File(data), master)
        }
    };
    let signer = match master {
        None => Err("there is no master key"),
        Some(master) => match &*read_keys(&data).map_err(Failure::new)? {
            [] => Err("the data file has no signing key"),
            keys => Ok(Ring::open(keys, &master).map_err(Failure::new)?),
        },
    };
    let read = |each: &mut evidence::Each<'_>| {
        read_chain(&data, chain.tenant_id, chain.chain_id, |event| each(event))
    };
    let mut collector = Collector::new(chain.chain_id, signer.as_ref().ok());
    read_chain(&data, chain.tenant_id, ledger::CHECKPOINTS, |event| {
        collector.push(&event.text).map_err(ExportError::from)
    })
    .map_err(Failure::new)?;
    let mut checkpoints = collector.found;
    if let Some(file) = checkpoint {
        let keys = signer.as_ref().map(Ring::public_keys).unwrap_or_default();
        checkpoints.push(read_checkpoint(file, &keys, Some(chain))?);
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    let now = Clock::default().seconds();
    evidence::export(chain, read, signer.as_ref().ok(), &checkpoints, now, &mut out).map_err(Failure::new)?;
    if let Err(reason) = signer {
        eprintln!("not signed: {reason}");
    }
    Ok(())
}

/// How a chain stood at the checkpoint in the file.
fn read_checkpoint(file: &Path, keys: &[PublicKey], of: Option<Chain<'_>>) -> Result<Head, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(format!("{}: {error}", file.display()));
    let text = fs::read_to_string(file).map_err(|error| failed(&error))?;
    let found = Checkpoint::read(&text, keys).map_err(|error| failed(&error))?;
    if of.is_some_and(|of| (of.tenant_id, of.chain_id) != (&*found.tenant_id, &*found.chain_id)) {
        let (chain, tenant) = (found.chain_id, found.tenant_id);
        return Err(failed(&format_args!("is a checkpoint of the chain {chain:?} of the tenant {tenant:?}")));
    }
    Ok(found.head)
}

/// The master key of a data file whose gateway's settings are not known.
fn find_master_key(data: &Path) -> Result<Option<MasterKey>, Failure> {
    if let Some(text) = std::env::var_os(MASTER_KEY_VARIABLE) {
        let key = text.to_str().and_then(MasterKey::parse);
        return key.map(Some).ok_or_else(|| {
            let problem = "expected 32 bytes as 64 hex digits or base64";
            Failure::Failed(format!("{MASTER_KEY_VARIABLE}: {problem}"))
        });
    }
    let file = server::master_key_file(data);
    match file.try_exists().map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))? {
        true => MasterKey::load_or_make(&file).map(Some).map_err(Failure::new),
        false => Ok(None),
    }
}

fn verify_evidence(verify: &Verify) -> Result<(), Failure> {
    let file = &verify.file;
    let failed =
        |file: &Path, error: &dyn std::fmt::Display| Failure::Failed(format!("{}: {error}", file.display()));
    let keys = match &verify.jwks {
        None => None,
        Some(jwks) => {
            let text = fs::read(jwks).map_err(|error| failed(jwks, &error))?;
            let unread = |problem| failed(jwks, &format_args!("expected a JWK Set: {problem}"));
            Some(PublicKey::read_set(&text).map_err(unread)?)
        }
    };
    let checkpoint = match &verify.checkpoint {
        None => None,
        Some(file) => Some(read_checkpoint(file, keys.as_deref().unwrap_or_default(), None)?),
    };
    let expected = Expected {
        head: verify.head.as_deref(),
        keys: keys.as_deref(),
        signature: verify.require_signature,
        checkpoint: checkpoint.as_ref(),
    };
    let verified = match file == Path::new("-") {
        true => evidence::verify(io::stdin().lock(), &expected),
        false => {
            let export = fs::File::open(file).map_err(|error| failed(file, &error))?;
            evidence::verify(io::BufReader::new(export), &expected)
        }
    };
    let Verified { head, signature } = verified.map_err(|error| failed(file, &error))?;
    print(format_args!("{} events, head {}, whole\n{signature}", head.length, head.hash))
}

fn scan_tools(file: &Path, lock: &Path) -> Result<(), Failure> {
    let tools = read_tools(file, Tools::from_list)?;
    let text = tools.lock().map_err(Failure::new)?;
    // Whole or not at all: half a lock file would approve nothing it says.
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
        0 => print(format_args!("{} tools, all as in {}", now.len(), lock.display())),
        found => Err(Failure::Failed(format!(
            "{} differs from {} in {found} {}",
            file.display(),
            lock.display(),
            if found == 1 { "thing" } else { "things" }
        ))),
    }
}

fn read_tools(file: &Path, parse: impl Fn(&[u8]) -> Result<Tools, ToolsError>) -> Result<Tools, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(format!("{}: {error}", file.display()));
    let text = fs::read(file).map_err(|error| failed(&error))?;
    parse(&text).map_err(|error| failed(&error))
}

fn new_key(role: Role) -> Result<(), Failure> {
    let key = auth::generate(role).map_err(Failure::new)?;
    print(format_args!("{}\n{}", key.expose(), hash_line(&KeyHash::of(key.expose()))))
}

fn rotate_keys(settings: &Settings) -> Result<(), Failure> {
    let master = require_master_key(settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let kid = runtime.block_on(async {
        let store = settings.data.open_beside().await.map_err(Failure::new)?;
        let kid = Keys::rotate(&*store, &master).await;
        store.close().await;
        kid.map_err(Failure::new)
    })?;
    print(format_args!("kid = \"{kid}\""))
}

fn require_master_key(settings: &Settings) -> Result<MasterKey, Failure> {
    server::master_key(&settings.master_key, &settings.data).map_err(Failure::new)?.ok_or_else(|| {
        let problem =
            format!("no master key: set master_key_file or the environment variable {MASTER_KEY_VARIABLE}");
        Failure::Failed(problem)
    })
}

fn vault(command: VaultCommand) -> Result<(), Failure> {
    match command {
        VaultCommand::List { place } => on_vault(&place, async |settings, store, tenant| {
            let now = settings.clock.seconds();
            for credential in store.credentials(tenant).await.map_err(Failure::new)? {
                let until = match credential.expires_at {
                    None => "never".to_owned(),
                    Some(at) if credential.has_expired(now) => format!("{} (has expired)", rfc3339(at)),
                    Some(at) => rfc3339(at),
                };
                let (tool, set_at) = (credential.tool_id.escape_debug(), rfc3339(credential.set_at));
                print(format_args!("{tool}\t{}\tset {set_at}\texpires {until}", credential.id))?;
            }
            Ok(())
        }),
        VaultCommand::Remove { tool, place } => on_vault(&place, async |_, store, tenant| {
            let none = || Failure::Failed(format!("{tenant:?} has no credential for the tool {tool:?}"));
            let credential = store.credential(tenant, &tool).await.map_err(Failure::new)?.ok_or_else(none)?;
            match store.append(vault::remove(tenant, &credential)).await.map_err(Failure::new)? {
                Appended::Recorded(_) => print(format_args!("removed {}", credential.id)),
                Appended::Stale => Err(Failure::new("it was replaced just now, and is still there")),
                other @ (Appended::Conflict
                | Appended::Earlier(_)
                | Appended::Refused(_)
                | Appended::Repeated) => Err(Failure::Failed(format!("it was not removed: {other:?}"))),
            }
        }),
        VaultCommand::Set { tool, expires, place } => on_vault(&place, async |settings, store, tenant| {
            let characters = tool.chars().count();
            if characters == 0 || characters > MAX_TOOL_CHARACTERS {
                let problem = format!("expected a tool's name of 1 to {MAX_TOOL_CHARACTERS} characters");
                return Err(Failure::Failed(problem));
            }
            let master = require_master_key(settings)?;
            // What another master key seals, the gateway would not open.
            Keys::check(store, &master).await.map_err(Failure::new)?;
            let now = settings.clock.seconds();
            let expires_at = expires.as_deref().map(|expires| read_expiry(expires, now)).transpose()?;
            let vault = Vault::new(&master).map_err(Failure::new)?;
            let credential =
                vault.seal(tenant, &tool, &read_secret()?, now, expires_at).map_err(Failure::new)?;
            let id = credential.id.clone();
            match store.append(vault::set(tenant, credential)).await.map_err(Failure::new)? {
                Appended::Recorded(_) => print(format_args!("set {id}")),
                other @ (Appended::Conflict
                | Appended::Earlier(_)
                | Appended::Refused(_)
                | Appended::Repeated
                | Appended::Stale) => Err(Failure::Failed(format!("it was not set: {other:?}"))),
            }
        }),
    }
}

/// Does `job` for the tenant that is meant, on the gateway's data, beside the gateway if one runs.
fn on_vault(
    place: &VaultPlace,
    job: impl AsyncFnOnce(&Settings, &dyn Store, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let settings = Settings::load(&place.config).map_err(Failure::Settings)?;
    let tenant = match (&place.tenant, settings.tenants.as_slice()) {
        (Some(tenant), tenants) if tenants.contains(tenant) => tenant,
        (None, [only]) => only,
        (_, tenants) => {
            let problem = format!("--tenant: expected one of {}", tenants.join(", "));
            return Err(Failure::Failed(problem));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    runtime.block_on(async {
        let store = settings.data.open_beside().await.map_err(Failure::new)?;
        let done = job(&settings, &*store, tenant).await;
        store.close().await;
        done
    })
}

/// Until when a credential holds, in seconds since 1970.
fn read_expiry(text: &str, now: i64) -> Result<i64, Failure> {
    let at = match humantime::parse_rfc3339(text) {
        Ok(time) => {
            time.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok())
        }
        Err(_) => humantime::parse_duration(text)
            .ok()
            .and_then(|duration| i64::try_from(duration.as_secs()).ok())
            .and_then(|seconds| now.checked_add(seconds)),
    };
    at.filter(|at| (now + 1..=LAST_SECOND).contains(at)).ok_or_else(|| {
        let expected = "expected a time to come, such as 2027-01-31T00:00:00Z, or a duration such as 90d";
        Failure::Failed(format!("--expires: {expected}, found {text:?}"))
    })
}

/// The secret on the standard input. Nothing of it is in any error.
fn read_secret() -> Result<Secret, Failure> {
    if io::stdin().is_terminal() {
        let secret = rpassword::prompt_password("secret (not shown): ").map_err(Failure::new)?;
        return check_secret(Secret::from(secret));
    }
    let limit = MAX_SECRET_BYTES + "\r\n".len();
    // One byte more than may be there shows that it is too much; and it never grows, which would leave a copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * limit));
    let most = u64::try_from(limit + 1).unwrap_or(u64::MAX);
    io::stdin().lock().take(most).read_to_end(&mut bytes).map_err(Failure::new)?;
    let text = str::from_utf8(&bytes).map_err(|_| Failure::new("the secret is not UTF-8 text"))?;
    let text = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    check_secret(Secret::from(text))
}

fn check_secret(secret: Secret) -> Result<Secret, Failure> {
    match secret.expose().len() {
        1..=MAX_SECRET_BYTES => Ok(secret),
        0 => Err(Failure::new("expected a secret on the standard input, found nothing")),
        _ => Err(Failure::Failed(format!("the secret is longer than {MAX_SECRET_BYTES} bytes"))),
    }
}

fn hash_key() -> Result<(), Failure> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(Failure::new)?;
    let key = Secret::from(line);
    let key = key.expose().trim();
    if key.is_empty() || key.len() > MAX_KEY_BYTES || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        let problem =
            format!("expected a key on the standard input: 1 to {MAX_KEY_BYTES} visible ASCII characters");
        return Err(Failure::Failed(problem));
    }
    let distinct = key.bytes().collect::<std::collections::HashSet<_>>().len();
    if key.len() < SHORT_KEY || distinct < SHORT_KEY / 4 {
        eprintln!(
            "warning: this key can be guessed: it has {} characters, {distinct} different ones; expected a random one \
             of at least {SHORT_KEY}, as `key new` makes it",
            key.len()
        );
    }
    print(hash_line(&KeyHash::of(key)))
}

fn hash_line(hash: &KeyHash) -> String {
    format!("hash = \"{hash}\"")
}

fn check_config(config: &Path, deny_warnings: bool) -> Result<(), Failure> {
    let settings = Settings::load(config).map_err(Failure::Settings)?;
    for warning in &settings.warnings {
        print(format_args!("warning: {warning}"))?;
    }
    print(format_args!(
        "{}: can be used; {} tenants, {} warnings",
        config.display(),
        settings.tenants.len(),
        settings.warnings.len()
    ))?;
    match settings.warnings.is_empty() || !deny_warnings {
        true => Ok(()),
        false => Err(Failure::new("there are warnings, and --deny-warnings was given")),
    }
}

fn check_policy(file: &Path) -> Result<(), Failure> {
    let policy = read_checked(file, Policy::parse)?;
    let version = policy.version().as_str().map_or_else(|| policy.version().to_string(), str::to_owned);
    print(format_args!(
        "id       {}\nversion  {version}\nhash     {}\nrules    {}",
        policy.id(),
        policy.hash(),
        policy.rules().len()
    ))?;
    let findings = policy.findings();
    let mut defects = 0_usize;
    for finding in &findings {
        let word = if finding.is_defect() { "error" } else { "warning" };
        defects += usize::from(finding.is_defect());
        // Beside what describes the policy, which programs read.
        eprintln!("{word}: {finding}");
    }
    match defects {
        0 => Ok(()),
        _ => Err(Failure::Failed(format!("{}: {defects} rules never decide anything", file.display()))),
    }
}

fn test_policy(file: &Path, cases: &Path) -> Result<(), Failure> {
    let policy = read_checked(file, Policy::parse)?;
    let cases = read_checked(cases, Cases::parse)?;
    let mut passed = 0_usize;
    let mut failed = 0_usize;
    for case in cases.iter() {
        let mismatches = case.run(&policy);
        if mismatches.is_empty() {
            passed += 1;
            continue;
        }
        failed += 1;
        print(format_args!("FAIL {}", case.name()))?;
        for mismatch in mismatches {
            print(mismatch)?;
        }
    }
    print(format_args!("{passed} passed, {failed} failed"))?;
    match failed {
        0 => Ok(()),
        _ => Err(Failure::Failed(format!("{} does not decide as expected", file.display()))),
    }
}

/// What `parse` makes of the file; its problems name the file.
fn read_checked<T>(file: &Path, parse: impl Fn(&[u8]) -> Result<T, Problems>) -> Result<T, Failure> {
    let text =
        files::read_bytes(file).map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))?;
    parse(&text).map_err(|found| {
        let mut problems = Problems::default();
        problems.add_all(file.display(), &found);
        Failure::new(problems)
    })
}

fn print(line: impl std::fmt::Display) -> Result<(), Failure> {
    writeln!(io::stdout(), "{line}").map_err(Failure::new)
}
