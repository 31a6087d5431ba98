//! A proxy that guards the tool calls of an MCP server.
//!
//! It starts the server and passes every message on. The server receives a `tools/call` only if an
//! ActPass gateway allows it.

#![forbid(unsafe_code)]

mod approvals;
mod approve;
mod carriers;
mod client;
mod edit;
mod lines;
mod message;
mod proxy;
mod server;
mod session;
mod tools;
mod upstream;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use actpass_core::{ActPass, Mode, Secret};
use clap::{Parser, Subcommand};

use crate::approvals::{Approvals, Seal};
use crate::server::Variable;
use crate::session::{Options, Shared};

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
    Proxy(ProxyArguments),
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
    /// The server's program and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl ServerArguments {
    fn tool_prefix(&self) -> String {
        self.policy_tool_prefix.clone().unwrap_or_else(|| format!("{}.", self.server))
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
    /// Longest time to the server's response to a call; then the client gets an error.
    #[arg(long, value_name = "SECONDS", value_parser = whole_seconds)]
    response_timeout: Option<Duration>,
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
            Task::Proxy(arguments) => proxy(arguments).await,
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

async fn proxy(arguments: ProxyArguments) -> Result<(), Box<dyn std::error::Error>> {
    let client = ActPass::builder().mode(arguments.mode).timeout(arguments.timeout).build()?;
    let server = arguments.server.server.clone();
    let options = Options {
        tool_prefix: arguments.server.tool_prefix(),
        goal: arguments.goal,
        user_id: arguments.user_id,
        approvals: arguments.approvals,
        hold: arguments.hold,
        approval_page: arguments.approval_page,
        pin: arguments.pin,
        response_timeout: arguments.response_timeout,
        environment: arguments.server.env,
        command: arguments.server.command,
    };
    let seal = Seal::new(&server, None)?;
    Ok(proxy::run(Arc::new(Shared { options, actpass: client, seal })).await?)
}

async fn approve(arguments: &ServerArguments) -> Result<(), Box<dyn std::error::Error>> {
    let key = std::env::var("ACTPASS_OPERATOR_KEY").ok().filter(|key| !key.is_empty());
    let key = Secret::new(key.ok_or("ACTPASS_OPERATOR_KEY is not set; it is the key of an operator")?);
    approve::approve(&arguments.tool_prefix(), &arguments.env, &arguments.command, key).await
}
