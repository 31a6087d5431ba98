//! A hook for coding agents that start a process for each tool call.
//!
//! The host writes the call to standard input. The hook requests a decision from an ActPass gateway
//! and writes the answer in the host's own form. Everything that is not an `allow` is a denial: an
//! invalid input, a gateway that is unreachable, a panic. With `acs`, it serves the Agent Control
//! Standard until its input ends.

#![forbid(unsafe_code)]

mod host;

use std::io::{Read, Write, stderr, stdin, stdout};
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use actpass_core::{ActPass, ActPassBuilder, Action, Mode, Verdict};
use actpass_hook::acs::{Bridge, PATH};
use actpass_protocol::Json;

use crate::host::{Answer, Call, Host};

/// Total time for a decision. Hosts permit a call whose hook does not answer in their own time,
/// which must be longer.
const TIMEOUT: Duration = Duration::from_secs(8);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum size of a call, in bytes. The gateway's default limit is the same.
const MAX_BYTES: u64 = 1 << 20;

/// Hosts treat this exit code as a denial, also without an answer.
const DENIED: u8 = 2;

const USAGE: &str = "usage: actpass-hook claude-code | codex | cursor
       actpass-hook acs [--gateway URL]
The gateway's URL and the API key are in ACTPASS_API_BASE_URL and ACTPASS_API_KEY, the file of a DPoP key
in ACTPASS_DPOP_KEY_FILE. acs serves the Agent Control Standard on standard input and output; it needs
ACS_HMAC_SECRET_FILE and no API key.";

/// The variable with the path of the secret of the Agent Control Standard.
const SECRET_FILE: &str = "ACS_HMAC_SECRET_FILE";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let host = match arguments.as_slice() {
        ["acs"] => return serve_acs(None),
        ["acs", "--gateway", url] => return serve_acs(Some(url)),
        ["--version"] => {
            let shown = writeln!(stdout(), "actpass-hook {}", env!("CARGO_PKG_VERSION"));
            return if shown.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        [name] => Host::parse(name),
        _ => None,
    };
    let Some(host) = host else {
        let _ = writeln!(stderr(), "{USAGE}");
        return ExitCode::from(DENIED);
    };
    // A panic's message could contain parts of the call.
    std::panic::set_hook(Box::new(|_| {}));
    let answer = catch_unwind(|| answer(host)).unwrap_or_else(|_panic| Answer::deny("internal error"));
    let text = host.write(&answer).to_string();
    let mut out = stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        return ExitCode::from(DENIED);
    }
    ExitCode::SUCCESS
}

fn answer(host: Host) -> Answer {
    match read_call(host).and_then(|call| decide(host, &call)) {
        Ok(answer) => answer,
        Err(problem) => Answer::deny(&problem),
    }
}

/// Reads the call from standard input.
fn read_call(host: Host) -> Result<Call, String> {
    let mut input = Vec::new();
    let read = stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut input);
    read.map_err(|error| format!("standard input: {error}"))?;
    if u64::try_from(input.len()).unwrap_or(u64::MAX) > MAX_BYTES {
        return Err(format!("the call is larger than {MAX_BYTES} bytes"));
    }
    let input = Json::parse(&input).map_err(|error| format!("the call is not JSON: {error}"))?;
    host.read(&input)
}

/// The builder of a client with the limits of a hook.
fn builder() -> ActPassBuilder {
    ActPass::builder().timeout(TIMEOUT).connect_timeout(CONNECT_TIMEOUT)
}

/// Serves the Agent Control Standard until the end of standard input.
fn serve_acs(gateway: Option<&str>) -> ExitCode {
    // A panic's message could contain parts of a request. The bridge denies that request.
    std::panic::set_hook(Box::new(|_| {}));
    let bridge = match bridge(gateway) {
        Ok(bridge) => Arc::new(bridge),
        Err(problem) => {
            let _ = writeln!(stderr(), "actpass-hook: {problem}");
            return ExitCode::from(DENIED);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(bridge.serve(stdin(), stdout()))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(stderr(), "actpass-hook: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bridge(gateway: Option<&str>) -> Result<Bridge, String> {
    let file = std::env::var_os(SECRET_FILE).filter(|file| !file.is_empty());
    let file = file.ok_or_else(|| format!("{SECRET_FILE}: missing; expected the path of the secret"))?;
    let secret = std::fs::read_to_string(&file).map_err(|error| format!("{SECRET_FILE}: {error}"))?;
    let secret = actpass_acs::read_secret(&secret).map_err(|error| format!("{SECRET_FILE}: {error}"))?;
    let builder = gateway.into_iter().fold(builder(), ActPassBuilder::base_url);
    let endpoint = builder.endpoint(PATH).map_err(|error| error.to_string())?;
    Ok(Bridge::new(endpoint, secret))
}

/// Requests the decision.
fn decide(host: Host, call: &Call) -> Result<Answer, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let client = builder().mode(Mode::Enforce).build().map_err(|error| error.to_string())?;
        let action = Action::new(host.goal(), &*call.tool).args(call.args.clone());
        match client.authorize(&action).await {
            // The host runs the tool, in its own process.
            Ok(Verdict::Proceed(_permit)) => Ok(Answer::Allow),
            Ok(Verdict::Blocked(blocked)) => Ok(Answer::deny(&blocked.texts().model)),
            Err(error) => Err(error.to_string()),
        }
    })
}
