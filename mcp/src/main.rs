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
mod edit;
mod exchange;
mod header_value;
mod http_server;
mod lines;
mod listen;
mod message;
mod proxy;
mod server;
mod session;
mod sse;
mod tools;
mod upstream;

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
use crate::http_server::{HttpServer, HttpSettings};
use crate::listen::ListenSettings;
use crate::server::Variable;
use crate::session::{Options, Shared};
use crate::upstream::Target;

/// Guard the tool calls of an MCP server.
///
/// The gateway's URL and the API key are in ACTPASS_API_BASE_URL and ACTPASS_API_KEY.
#[derive(Parser)]
#[command(name = "actpass-mcp", version)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Start the server, and pass its messages between standard input and output.
    ///
    /// A tools/call reaches the server only if the gateway allows it.
    Proxy(Box<ProxyArguments>),
    /// List the tools of the server and approve their definitions at the gateway.
    ///
    /// Needs an operator's key in ACTPASS_OPERATOR_KEY. Prints the name and the hash of each definition.
    Approve(ServerArguments),
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
    /// Permit --listen on an address that other machines reach, without access tokens.
    #[arg(long, requires = "listen")]
    danger_unauthenticated: bool,
}

impl ListenArguments {
    /// The settings of the endpoint; `None` for the standard streams.
    fn settings(self, instance: String) -> Result<Option<ListenSettings>, String> {
        let Some(address) = self.listen else { return Ok(None) };
        if self.resource.is_none() && !address.ip().is_loopback() && !self.danger_unauthenticated {
            return Err(format!(
                "--listen {address}: other machines reach it; require access tokens with --resource, \
                 or permit it with --danger-unauthenticated"
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
    let value = std::env::var(variable).map_err(|_| format!("the variable {variable} is not set"))?;
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
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let ended = runtime.block_on(async {
        match command {
            Task::Proxy(arguments) => proxy(*arguments).await,
            Task::Approve(arguments) => approve(&arguments).await,
        }
    });
    // A read of standard input cannot be cancelled.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
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

async fn proxy(arguments: ProxyArguments) -> Result<(), Box<dyn std::error::Error>> {
    let client = ActPass::builder().mode(arguments.mode).timeout(arguments.timeout).build()?;
    let instance = hex::encode(random::<16>()?);
    let key = arguments.state_key_file.as_deref().map(state_key).transpose()?;
    let seal = Seal::new(&arguments.server.server, key)?;
    let options = Options {
        tool_prefix: arguments.server.tool_prefix(),
        goal: arguments.goal,
        user_id: arguments.user_id,
        approvals: arguments.approvals,
        hold: arguments.hold,
        approval_page: arguments.approval_page,
        pin: arguments.pin,
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

async fn approve(arguments: &ServerArguments) -> Result<(), Box<dyn std::error::Error>> {
    let key = std::env::var("ACTPASS_OPERATOR_KEY").ok().filter(|key| !key.is_empty());
    let key = Secret::new(key.ok_or("ACTPASS_OPERATOR_KEY is not set; it is the key of an operator")?);
    let target = arguments.target(&hex::encode(random::<16>()?))?;
    approve::approve(&arguments.tool_prefix(), &target, key).await
}
