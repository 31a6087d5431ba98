//! A proxy that guards the tool calls of an MCP server.
//!
//! It starts the server and passes every message on. The server receives a `tools/call` only if an
//! ActPass gateway allows it.

#![forbid(unsafe_code)]

mod approvals;
mod approve;
mod auth;
mod carriers;
mod client;
mod configuration;
mod doctor;
mod edit;
mod exchange;
mod files;
mod gateway;
mod header_value;
mod http_server;
mod init;
mod key;
mod lines;
mod list;
mod listen;
mod message;
mod passport;
mod proxy;
mod scan;
mod server;
mod session;
mod sse;
mod tls;
mod tools;
mod upstream;
mod variables;
mod visibility;
#[cfg(unix)]
mod watcher;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use actpass_core::{ActPass, Mode, Secret};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Parser, Subcommand};
use reqwest::header::{HeaderName, HeaderValue};

use crate::approvals::{Approvals, Seal, random};
use crate::auth::ResourceServer;
use crate::gateway::Gateway;
use crate::http_server::{HttpServer, HttpSettings};
use crate::listen::ListenSettings;
use crate::server::Variable;
use crate::session::{Options, Shared};
use crate::upstream::Target;

/// An error of a command: one line.
type Error = Box<dyn std::error::Error>;

/// Guard the tool calls of an MCP server.
///
/// The gateway's URL and the API key are in ACTPASS_API_BASE_URL and ACTPASS_API_KEY.
#[derive(Parser)]
#[command(name = "actpass-mcp", version)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

/// Exit code of `approve --diff` if a tool is new or has changed.
const DIFFERS: u8 = 3;
/// Exit code of `init` if the changes were declined.
const DECLINED: u8 = 3;
/// Exit code of `init` if a file or a server was left alone.
const INCOMPLETE: u8 = 4;

#[derive(Subcommand)]
enum Task {
    /// Start the server, and pass its messages between standard input and output.
    ///
    /// A tools/call reaches the server only if the gateway allows it.
    Proxy(Box<ProxyArguments>),
    /// List the tools of the server and approve their definitions at the gateway.
    ///
    /// Needs an operator's key in ACTPASS_OPERATOR_KEY. Prints the name and the hash of each definition, and keeps the definitions in
    /// the lock file.
    Approve(ApproveArguments),
    /// Route the servers of MCP clients through the proxy.
    ///
    /// Reads the configuration files of Claude Desktop, Claude Code, Cursor, VS Code and Windsurf, shows the changes, and waits for a yes before it
    /// writes. The original is kept next to each file. Exits with 3 if the changes are declined, with 4 if something was left alone.
    Init(InitArguments),
    /// Find the problems of a set-up, and name the remedies.
    ///
    /// Checks the API key, the gateway, and each server in the configuration files of the clients: its command, its tools, their rules
    /// and their approved definitions. Exits with the code of the first problem: 10 no API key, 11 wrong key, 12 gateway unreachable,
    /// 13 no gateway at the URL, 14 command missing, 15 server fails, 16 no rule for its tools, 17 tools differ from the approved ones,
    /// 18 a server bypasses the proxy, 19 invalid configuration file, 20 invalid options.
    Doctor(DoctorArguments),
    /// Write a policy to start from, for the tools of the server.
    ///
    /// A tool that only reads is allowed; every other one requires approval. Check the result with `actpass-gateway policy check`.
    Scan(ScanArguments),
    /// End the servers of a proxy that was killed.
    #[cfg(unix)]
    #[command(name = watcher::SUBCOMMAND, hide = true)]
    WatchServers,
}

#[derive(clap::Args)]
struct ServerArguments {
    /// Name of the server: the policy's name of its tool T is NAME.T.
    #[arg(long, value_name = "NAME", value_parser = server_name)]
    server: String,
    /// Prefix of the policy's tool names, instead of `NAME.`.
    #[arg(long, value_name = "PREFIX")]
    policy_tool_prefix: Option<String>,
    /// Variable of the server's environment; without VALUE it is inherited. PATH and HOME are always inherited.
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<Variable>,
    /// URL of a server over Streamable HTTP, instead of a program.
    #[arg(long, value_name = "URL", conflicts_with = "command")]
    upstream: Option<String>,
    /// Header of each request to the server; its value is in the environment variable.
    #[arg(long, value_name = "NAME=VARIABLE", requires = "upstream", value_parser = upstream_header)]
    upstream_header: Vec<(HeaderName, HeaderValue)>,
    /// File with the bearer token for the server, read for each request.
    #[arg(long, value_name = "FILE", requires = "upstream")]
    upstream_token_file: Option<PathBuf>,
    /// File with certificates of a private authority, in PEM. Those of the system stay valid.
    #[arg(long, value_name = "FILE", requires = "upstream")]
    ca: Option<PathBuf>,
    /// Permit --upstream with http to another machine: its tokens and calls are readable on the network.
    #[arg(long, requires = "upstream")]
    danger_plain_http: bool,
    /// The server's program and its arguments.
    #[arg(last = true, required_unless_present = "upstream", value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl ServerArguments {
    fn tool_prefix(&self) -> String {
        self.policy_tool_prefix.clone().unwrap_or_else(|| format!("{}.", self.server))
    }

    /// The server, for the proxy with the id `instance`.
    fn target(&self, instance: &str) -> Result<Target, String> {
        let Some(url) = &self.upstream else {
            return Ok(Target::Process { command: self.command.clone(), environment: self.env.clone() });
        };
        Ok(Target::Http(Arc::new(HttpServer::new(HttpSettings {
            url: url.clone(),
            headers: self.upstream_header.clone(),
            token_file: self.upstream_token_file.clone(),
            ca: self.ca.clone(),
            allow_http: self.danger_plain_http,
            instance: instance.to_owned(),
        })?)))
    }
}

#[derive(clap::Args)]
struct ApproveArguments {
    #[command(flatten)]
    server: ServerArguments,
    /// Show how the tools differ from the approved definitions, and approve nothing. Exits with 3 if a tool is new or has changed.
    #[arg(long)]
    diff: bool,
    /// Approve only this tool of the server. Repeat it for each tool.
    #[arg(long, value_name = "TOOL", conflicts_with = "diff")]
    tool: Vec<String>,
    /// File with the approved definitions. Default: NAME.lock in ~/.local/state/actpass.
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
}

#[derive(clap::Args)]
struct DoctorArguments {
    /// Configuration files. Default: those of the clients, for the user and for the project in the current folder.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Arguments of one proxy to check, instead of configuration files: `doctor -- --server NAME -- COMMAND`.
    #[arg(last = true, value_name = "PROXY ARGUMENTS", conflicts_with = "files")]
    proxy: Vec<String>,
}

#[derive(clap::Args)]
struct ScanArguments {
    #[command(flatten)]
    server: ServerArguments,
    /// File for the policy, instead of standard output. It must not exist.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// File for test cases of the policy. It must not exist.
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
}

#[derive(clap::Args)]
struct InitArguments {
    /// Configuration files. Default: those of the clients, for the user and for the project in the current folder.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Write without a question.
    #[arg(long, short)]
    yes: bool,
    /// Restore the original configuration.
    #[arg(long)]
    undo: bool,
    /// Program of the proxy in the configuration. Default: this program; `actpass-mcp` in the files of a project.
    #[arg(long, value_name = "PROGRAM")]
    command: Option<String>,
    /// Option of the proxy, such as `--with=--mode=monitor`. Repeat it for each option.
    #[arg(long = "with", value_name = "OPTION", allow_hyphen_values = true)]
    options: Vec<String>,
}

#[derive(clap::Args)]
struct ProxyArguments {
    #[command(flatten)]
    server: ServerArguments,
    /// Goal of a call without `actpass/goal` in its `_meta`.
    #[arg(long, value_name = "GOAL", default_value = "use_mcp_tool", value_parser = non_empty)]
    goal: String,
    /// User of a call without `actpass/user_id` in its `_meta`.
    #[arg(long, value_name = "USER", value_parser = non_empty)]
    user_id: Option<String>,
    /// Mode of the guard: enforce, strict, warn or monitor.
    #[arg(long, default_value = "enforce")]
    mode: Mode,
    /// Longest time to the gateway's decision, without the wait for an approval.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = whole_seconds)]
    timeout: Duration,
    /// Handling of a call that needs approval.
    #[arg(long, value_enum, default_value = "auto")]
    approvals: Approvals,
    /// URL of the gateway's page for approvals, if people reach it at another URL than the proxy.
    #[arg(long, value_name = "URL", value_parser = non_empty)]
    approval_page: Option<String>,
    /// Longest time that a call waits for its approval.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = whole_seconds)]
    hold: Duration,
    /// Send the hash of the tool's definition, which an operator has approved.
    #[arg(long)]
    pin: bool,
    /// Deny a call without a user.
    #[arg(long)]
    require_user: bool,
    /// Read goal, user_id and passport from the argument `_actpass` too, and remove it. The model can choose them.
    #[arg(long)]
    reserved_argument: bool,
    /// File with 32 bytes as hex or base64 that seal request state, for several proxies with the same clients.
    #[arg(long, value_name = "FILE")]
    state_key_file: Option<PathBuf>,
    #[command(flatten)]
    listen: ListenArguments,
    /// Hide the tools that the policy can never permit, and with --pin those without an approved definition.
    #[arg(long)]
    hide: bool,
    /// Run a call only with a passport for this server in the `actpass/passport` of its `_meta`. Its goal, agent and user apply.
    #[arg(long)]
    require_passport: bool,
    /// Audience of the passports, instead of `mcp://NAME`.
    #[arg(long, value_name = "AUDIENCE", value_parser = non_empty, requires = "require_passport")]
    audience: Option<String>,
    /// Longest time to the server's response to a call; then the client gets an error.
    #[arg(long, value_name = "SECONDS", value_parser = whole_seconds)]
    response_timeout: Option<Duration>,
}

/// Options of Streamable HTTP for clients.
#[derive(clap::Args)]
#[group(skip)]
struct ListenArguments {
    /// Serve Streamable HTTP on this address instead of the standard streams; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Path of the endpoint.
    #[arg(long, value_name = "PATH", default_value = "/mcp", requires = "listen", value_parser = url_path)]
    path: String,
    /// Host, with a port unless it is the default one, that clients may use, as well as the address.
    #[arg(long, value_name = "HOST", requires = "listen", value_parser = lower_case)]
    allow_host: Vec<String>,
    /// Origin of a web page that may connect. Without it no page may.
    #[arg(long, value_name = "ORIGIN", requires = "listen")]
    allow_origin: Vec<String>,
    /// Most sessions at the same time.
    #[arg(long, value_name = "COUNT", default_value = "256", requires = "listen")]
    max_sessions: usize,
    /// Require access tokens for this resource: the URL of the endpoint as clients use it.
    #[arg(long, value_name = "URL", requires_all = ["listen", "authorization_server", "jwks"])]
    resource: Option<String>,
    /// Issuer of access tokens, as in their claim iss.
    #[arg(long, value_name = "URL", requires = "resource")]
    authorization_server: Vec<String>,
    /// Key set of the authorization server: a file, or a URL.
    #[arg(long, value_name = "FILE_OR_URL", requires = "resource")]
    jwks: Option<String>,
    /// Scope that each access token must have.
    #[arg(long, value_name = "SCOPE", requires = "resource")]
    scope: Vec<String>,
    /// Take the user of a call from the subject of the access token.
    #[arg(long, requires = "resource")]
    user_from_token: bool,
    /// File with the certificate of --listen and its chain, in PEM: serve https instead of http.
    #[arg(long, value_name = "FILE", requires_all = ["listen", "tls_key"])]
    tls_certificate: Option<PathBuf>,
    /// File with the private key of the certificate, in PEM, not encrypted.
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Permit --listen on an address that other machines reach, without access tokens.
    #[arg(long, requires = "listen")]
    danger_unauthenticated: bool,
    /// Permit --listen with http on an address that other machines reach: its tokens and calls are readable on the network.
    #[arg(long, requires = "listen", conflicts_with = "tls_certificate")]
    danger_serve_plain_http: bool,
}

impl ListenArguments {
    /// The settings of the endpoint; `None` for the standard streams.
    fn settings(self, instance: String) -> Result<Option<ListenSettings>, String> {
        let Some(address) = self.listen else { return Ok(None) };
        let is_local = address.ip().is_loopback();
        if self.resource.is_none() && !is_local && !self.danger_unauthenticated {
            return Err(format!(
                "--listen {address}: other machines reach it; require access tokens with --resource, \
                 or permit it with --danger-unauthenticated"
            ));
        }
        let tls = match (&self.tls_certificate, &self.tls_key) {
            (Some(certificate), Some(key)) => Some(tls::acceptor(certificate, key)?),
            (None | Some(_), _) => None,
        };
        if tls.is_none() && !is_local && !self.danger_serve_plain_http {
            return Err(format!(
                "--listen {address}: other machines reach it; serve https with --tls-certificate and --tls-key, \
                 or permit http behind a proxy that ends TLS with --danger-serve-plain-http"
            ));
        }
        let resource = match (&self.resource, &self.jwks) {
            (Some(resource), Some(jwks)) => {
                Some(ResourceServer::new(resource, self.authorization_server, self.scope, jwks)?)
            }
            (Some(_) | None, _) => None,
        };
        let mut hosts = self.allow_host;
        hosts.extend(self.resource.as_deref().and_then(host_of));
        Ok(Some(ListenSettings {
            address,
            path: self.path,
            hosts,
            origins: self.allow_origin,
            max_sessions: self.max_sessions,
            resource,
            tls,
            user_from_token: self.user_from_token,
            instance,
        }))
    }
}

/// The host of a URL as in a `Host` header.
fn host_of(url: &str) -> Option<String> {
    let url = reqwest::Url::parse(url).ok()?;
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

fn upstream_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, variable) = text.split_once('=').ok_or("expected NAME=VARIABLE")?;
    let name = HeaderName::try_from(name).map_err(|_| "expected the name of a header".to_owned())?;
    let value = variables::text(variable).ok_or_else(|| format!("the variable {variable} is not set"))?;
    let value = HeaderValue::try_from(value);
    let mut value = value.map_err(|_| format!("the variable {variable} is not a header value"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

fn url_path(text: &str) -> Result<String, String> {
    let is_plain =
        text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.' | '~'));
    match text.starts_with('/') && is_plain {
        true => Ok(text.to_owned()),
        false => Err("expected a path such as /mcp".to_owned()),
    }
}

fn lower_case(text: &str) -> Result<String, String> {
    non_empty(text).map(|text| text.to_ascii_lowercase())
}

/// The key that seals request state.
fn state_key(path: &Path) -> Result<[u8; 32], String> {
    let failed = |problem: &dyn Display| format!("--state-key-file {}: {problem}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    let text = text.trim();
    let decoded = hex::decode(text).ok().or_else(|| STANDARD.decode(text).ok());
    let key = decoded.and_then(|key| key.try_into().ok());
    key.ok_or_else(|| failed(&"expected 32 bytes as hex or base64"))
}

fn server_name(text: &str) -> Result<String, String> {
    match !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
        true => Ok(text.to_owned()),
        false => Err("expected ASCII letters, digits, - and _".to_owned()),
    }
}

fn non_empty(text: &str) -> Result<String, String> {
    match text.is_empty() {
        true => Err("expected a non-empty text".to_owned()),
        false => Ok(text.to_owned()),
    }
}

fn whole_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(seconds) if (1..=86_400).contains(&seconds) => Ok(Duration::from_secs(seconds.into())),
        Ok(_) | Err(_) => Err("expected whole seconds from 1 to 86400".to_owned()),
    }
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    // One thread: the wake of another one takes longer than the proxy's work on a message.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let ended = runtime.block_on(async {
        match command {
            Task::Proxy(arguments) => proxy(*arguments).await.map(|()| ExitCode::SUCCESS),
            Task::Approve(arguments) => approve(&arguments).await,
            Task::Init(arguments) => init(arguments),
            Task::Doctor(arguments) => doctor(arguments).await,
            Task::Scan(arguments) => scan(&arguments).await,
            #[cfg(unix)]
            Task::WatchServers => {
                watcher::run(server::TERMINATION);
                Ok(ExitCode::SUCCESS)
            }
        }
    });
    // A read of standard input cannot be cancelled.
    runtime.shutdown_background();
    match ended {
        Ok(code) => code,
        Err(error) => failed(&*error),
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    warn(error);
    ExitCode::FAILURE
}

/// Writes a line to standard error, which may be closed.
fn warn(problem: impl Display) {
    let _ = writeln!(io::stderr(), "actpass-mcp: {problem}");
}

/// Writes a line to standard output.
fn say(text: impl Display) -> io::Result<()> {
    let mut output = io::stdout();
    writeln!(output, "{text}")?;
    output.flush()
}

async fn proxy(arguments: ProxyArguments) -> Result<(), Error> {
    let mut client = ActPass::builder().mode(arguments.mode).timeout(arguments.timeout);
    if let Some(key) = key::find(std::env::var(key::VARIABLE).ok())? {
        client = client.api_key(key);
    }
    let client = client.build()?;
    let server = arguments.server.server.clone();
    let require_passport = match arguments.require_passport {
        true => {
            passport::check_mode(arguments.mode)?;
            Some(arguments.audience.unwrap_or_else(|| format!("mcp://{server}")))
        }
        false => None,
    };
    let hide = match arguments.hide {
        true => {
            let key = key::find(std::env::var(key::VARIABLE).ok())?;
            let key = key.ok_or("--hide: expected an API key, found none; set ACTPASS_API_KEY")?;
            Some(Arc::new(Gateway::new(key, None)?))
        }
        false => None,
    };
    let instance = hex::encode(random::<16>()?);
    let state_key = arguments.state_key_file.as_deref().map(state_key).transpose()?;
    let seal = Seal::new(&server, state_key)?;
    let options = Options {
        tool_prefix: arguments.server.tool_prefix(),
        goal: arguments.goal,
        user_id: arguments.user_id,
        approvals: arguments.approvals,
        hold: arguments.hold,
        approval_page: arguments.approval_page,
        pin: arguments.pin,
        hide,
        require_passport,
        response_timeout: arguments.response_timeout,
        target: arguments.server.target(&instance)?,
        require_user: arguments.require_user,
        reserved_argument: arguments.reserved_argument,
    };
    let listen = arguments.listen.settings(instance)?;
    let shared = Arc::new(Shared { options, actpass: client, seal });
    match listen {
        Some(settings) => Ok(listen::serve(shared, settings).await?),
        None => Ok(proxy::run(shared).await?),
    }
}

async fn doctor(arguments: DoctorArguments) -> Result<ExitCode, Error> {
    let DoctorArguments { files, proxy } = arguments;
    let proxy = match proxy.is_empty() {
        true => None,
        false => Some(proxy_arguments(&[vec!["proxy".to_owned()], proxy].concat())?),
    };
    let problem = doctor::examine(proxy.as_ref(), files).await?;
    Ok(problem.map_or(ExitCode::SUCCESS, |problem| ExitCode::from(problem as u8)))
}

/// Parses the arguments of `actpass-mcp proxy`.
fn proxy_arguments(arguments: &[String]) -> Result<ProxyArguments, String> {
    let program = std::iter::once("actpass-mcp".to_owned());
    match Arguments::try_parse_from(program.chain(arguments.iter().cloned())) {
        Ok(Arguments { command: Task::Proxy(arguments) }) => Ok(*arguments),
        Ok(_) => Err("expected the arguments of actpass-mcp proxy".to_owned()),
        Err(error) => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            Err(line.trim_start_matches("error: ").to_owned())
        }
    }
}

async fn scan(arguments: &ScanArguments) -> Result<ExitCode, Error> {
    let ScanArguments { server, policy, cases } = arguments;
    for path in [policy, cases].into_iter().flatten() {
        if path.exists() {
            return Err(format!("{}: exists; it is not overwritten", path.display()).into());
        }
    }
    let listed = list::list(&server.target(&hex::encode(random::<16>()?))?).await?;
    let found = scan::scan(&server.server, &server.tool_prefix(), &listed);
    match policy {
        Some(path) => files::replace(path, found.policy.as_bytes(), files::SHARED)?,
        None => write!(io::stdout(), "{}", found.policy)?,
    }
    if let Some(path) = cases {
        files::replace(path, found.cases.as_bytes(), files::SHARED)?;
    }
    found.notes.iter().for_each(warn);
    Ok(ExitCode::SUCCESS)
}

fn init(arguments: InitArguments) -> Result<ExitCode, Error> {
    let InitArguments { files, yes, undo, command, options } = arguments;
    let check = ["proxy", "--server", "name"].into_iter().map(str::to_owned).chain(options.iter().cloned());
    let check: Vec<_> = check.chain(["--".to_owned(), "command".to_owned()]).collect();
    proxy_arguments(&check).map_err(|error| format!("--with: {error}"))?;
    let folder = std::env::current_dir()?;
    let ended = init::init(&init::Request { files, folder, command, options, yes, undo })?;
    Ok(match ended {
        init::Outcome::Done => ExitCode::SUCCESS,
        init::Outcome::Declined => ExitCode::from(DECLINED),
        init::Outcome::Incomplete => ExitCode::from(INCOMPLETE),
    })
}

async fn approve(arguments: &ApproveArguments) -> Result<ExitCode, Error> {
    let ApproveArguments { server, diff, tool, lock } = arguments;
    let gateway = Gateway::new(operator_key(*diff)?, None)?;
    let lock = match lock {
        Some(lock) => lock.clone(),
        None => approve::default_lock(&server.server)?,
    };
    let listed = list::list(&server.target(&hex::encode(random::<16>()?))?).await?;
    let prefix = server.tool_prefix();
    if *diff {
        let is_held = approve::show(&prefix, &listed, &gateway, &lock).await?;
        return Ok(if is_held { ExitCode::from(DIFFERS) } else { ExitCode::SUCCESS });
    }
    approve::approve(&prefix, &listed, tool, &gateway, &lock).await?;
    Ok(ExitCode::SUCCESS)
}

/// The operator's key. An agent's key suffices to read.
fn operator_key(reads_only: bool) -> Result<Secret, Error> {
    let found = |name: &str| std::env::var(name).ok().filter(|key| !key.is_empty());
    let key = found("ACTPASS_OPERATOR_KEY").or_else(|| found("ACTPASS_API_KEY").filter(|_| reads_only));
    Ok(Secret::new(key.ok_or("ACTPASS_OPERATOR_KEY is not set; it is the key of an operator")?))
}
