//! `actpass-mcp doctor`: finds the problems of a set-up, and names the remedies.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use actpass_core::Json;

use crate::approve::{self, DriftKind, drift, read_lock};
use crate::configuration::{Document, Entry, Kind, places};
use crate::gateway::{Gateway, GatewayError, ToolState};
use crate::list::{ListError, list};
use crate::{Error, ProxyArguments, key, proxy_arguments, variables};

/// The problems that the doctor finds. The value is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Problem {
    NoKey = 10,
    WrongKey = 11,
    Unreachable = 12,
    NotAGateway = 13,
    NoCommand = 14,
    ServerFails = 15,
    NoRule = 16,
    ToolsDiffer = 17,
    Bypassed = 18,
    Unreadable = 19,
    InvalidOptions = 20,
}

/// A problem, and what to do about it.
#[derive(Clone, Debug)]
struct Finding {
    problem: Problem,
    what: String,
    remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n         {}", self.what, self.remedy.replace('\n', "\n         "))
    }
}

fn finding(problem: Problem, what: impl fmt::Display, remedy: impl fmt::Display) -> Finding {
    Finding { problem, what: what.to_string(), remedy: remedy.to_string() }
}

/// The key and the URL of a gateway, as configured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Access {
    key: Option<String>,
    url: Option<String>,
}

/// The examination, which prints a line for each part.
struct Doctor {
    first: Option<Problem>,
    gateways: HashMap<Access, Result<(), Finding>>,
}

/// Examines one server, or the configuration files of the clients. Returns the first problem.
pub(crate) async fn examine(
    server: Option<&ProxyArguments>,
    files: Vec<PathBuf>,
) -> Result<Option<Problem>, Error> {
    let mut doctor = Doctor { first: None, gateways: HashMap::new() };
    if let Some(server) = server {
        let access = Access { key: None, url: None };
        doctor.server(&server.server.server, server, &access).await?;
        return Ok(doctor.first);
    }
    let found: Vec<_> = match files.is_empty() {
        true => {
            let places = places(&std::env::current_dir()?)?;
            places
                .into_iter()
                .filter(|place| place.path.exists())
                .map(|place| (place.client, place.path))
                .collect()
        }
        false => files.into_iter().map(|path| ("Client", path)).collect(),
    };
    if found.is_empty() {
        doctor.access("gateway", &Access { key: None, url: None }).await?;
        doctor.note("no configuration file of an MCP client found; name it: actpass-mcp doctor FILE")?;
    }
    for (client, path) in found {
        doctor.file(client, &path).await?;
    }
    Ok(doctor.first)
}

impl Doctor {
    fn ok(&self, what: impl fmt::Display) -> io::Result<()> {
        writeln!(io::stdout(), "ok       {what}")
    }

    fn note(&self, what: impl fmt::Display) -> io::Result<()> {
        writeln!(io::stdout(), "note     {what}")
    }

    fn problem(&mut self, place: &str, finding: &Finding) -> io::Result<()> {
        self.first.get_or_insert(finding.problem);
        writeln!(io::stdout(), "problem  {place}: {finding}")
    }

    async fn file(&mut self, client: &str, path: &Path) -> Result<(), Error> {
        let title = format!("{client}: {}", path.display());
        let text = fs::read_to_string(path).map_err(|error| error.to_string());
        let text = text.map(|text| text.trim_start_matches('\u{feff}').to_owned());
        let document = text.as_ref().map_err(Clone::clone).and_then(|text| Document::parse(text));
        let entries = match document.as_ref().map_err(Clone::clone).and_then(Document::entries) {
            Ok(entries) => entries,
            Err(error) => {
                let remedy = "correct the file; the client may not read it either";
                self.problem(&title, &finding(Problem::Unreadable, error, remedy))?;
                return Ok(());
            }
        };
        if entries.is_empty() {
            self.ok(format_args!("{title}: no servers"))?;
        }
        for entry in entries {
            self.entry(&format!("{title}: {}", entry.name()), &entry, path).await?;
        }
        Ok(())
    }

    async fn entry(&mut self, place: &str, entry: &Entry<'_, '_>, path: &Path) -> Result<(), Error> {
        let arguments = match entry.kind() {
            _ if entry.is_disabled() => return Ok(self.note(format_args!("{place}: disabled"))?),
            Err(error) => {
                let remedy = "correct the entry";
                return Ok(self.problem(place, &finding(Problem::Unreadable, error, remedy))?);
            }
            Ok(Kind::Stdio { .. } | Kind::Http { .. }) => {
                let found = finding(
                    Problem::Bypassed,
                    "its calls bypass the proxy",
                    format_args!("run: actpass-mcp init {}", path.display()),
                );
                return Ok(self.problem(place, &found)?);
            }
            Ok(Kind::Routed(arguments)) => arguments,
        };
        let environment = entry.environment().unwrap_or_default();
        let value = |name: &str| {
            let (_, text) = environment.iter().find(|(found, _)| found == name)?;
            resolved(text)
        };
        let access = Access { key: value(key::VARIABLE), url: value("ACTPASS_API_BASE_URL") };
        let known =
            |(name, text): &(String, String)| Some((name.clone(), resolved(text).unwrap_or_default()));
        let configured = environment.iter().filter_map(known).collect();
        match variables::with(configured, || proxy_arguments(&arguments)) {
            Err(error) => {
                let remedy = "correct its args, or run: actpass-mcp init --undo, then actpass-mcp init";
                Ok(self.problem(place, &finding(Problem::InvalidOptions, error, remedy))?)
            }
            Ok(arguments) => self.server(place, &arguments, &access).await,
        }
    }

    /// Checks the key and the gateway once. Returns the gateway if it answers.
    async fn access(&mut self, place: &str, access: &Access) -> Result<Option<Gateway>, Error> {
        let gateway = connect(access);
        if let Some(known) = self.gateways.get(access) {
            return Ok(match known {
                Ok(()) => gateway.ok(),
                Err(_) => None,
            });
        }
        let checked = match &gateway {
            Err(found) => Err(found.clone()),
            Ok(gateway) => match gateway.states(&["doctor".to_owned()]).await {
                Ok(_) => Ok(()),
                Err(error) => Err(of_gateway(&error)),
            },
        };
        match &checked {
            Ok(()) => {
                let url = gateway.as_ref().map(Gateway::url).unwrap_or_default();
                self.ok(format_args!("gateway {url}"))?;
            }
            Err(found) => self.problem(place, found)?,
        }
        let is_well = checked.is_ok();
        self.gateways.insert(access.clone(), checked);
        Ok(gateway.ok().filter(|_| is_well))
    }

    async fn server(&mut self, place: &str, proxy: &ProxyArguments, access: &Access) -> Result<(), Error> {
        let gateway = self.access(place, access).await?;
        let server = &proxy.server;
        let target = match server.target("doctor") {
            Ok(target) => target,
            Err(error) => {
                let remedy = "correct the options of the proxy";
                return Ok(self.problem(place, &finding(Problem::InvalidOptions, error, remedy))?);
            }
        };
        let listed = match list(&target).await {
            Ok(listed) => listed,
            Err(error) => return Ok(self.problem(place, &of_server(&error, &server.command))?),
        };
        let Some(gateway) = gateway else {
            return Ok(
                self.note(format_args!("{place}: {} tools; the policy could not be checked", listed.len()))?
            );
        };
        let prefix = server.tool_prefix();
        let names: Vec<_> = listed.iter().map(|(name, _)| format!("{prefix}{name}")).collect();
        let states = match gateway.states(&names).await {
            Ok(states) => states,
            Err(error) => return Ok(self.problem(place, &of_gateway(&error))?),
        };
        let before = self.first;
        self.rules(place, &names, &states)?;
        self.definitions(place, proxy, &listed, &states)?;
        if self.first == before {
            self.ok(format_args!("{place}: {} tools", listed.len()))?;
        }
        Ok(())
    }

    fn rules(&mut self, place: &str, names: &[String], states: &[ToolState]) -> Result<(), Error> {
        let denied: Vec<&str> = names
            .iter()
            .zip(states)
            .filter_map(|(name, state)| (!state.may_permit).then_some(name.as_str()))
            .collect();
        if denied.is_empty() {
            return Ok(());
        }
        if denied.len() < names.len() {
            return Ok(
                self.note(format_args!("{place}: the policy permits no call of {}", denied.join(", ")))?
            );
        }
        let found = finding(
            Problem::NoRule,
            format_args!("the policy permits no call of any tool: {}", denied.join(", ")),
            "add rules for them; actpass-mcp scan writes a policy to start from",
        );
        Ok(self.problem(place, &found)?)
    }

    fn definitions(
        &mut self,
        place: &str,
        proxy: &ProxyArguments,
        listed: &[(String, Json)],
        states: &[ToolState],
    ) -> Result<(), Error> {
        let lock = approve::default_lock(&proxy.server.server)?;
        let found = drift(listed, states, &read_lock(&lock).unwrap_or_default());
        let is_changed = |kind: &DriftKind| matches!(kind, DriftKind::Changed(_));
        let held: Vec<_> = found
            .iter()
            .filter(|drift| drift.holds_calls() && (proxy.pin || is_changed(&drift.kind)))
            .collect();
        if held.is_empty() {
            if !proxy.pin {
                self.note(format_args!("{place}: changed tools are not held; add --pin to the proxy"))?;
            }
            return Ok(());
        }
        let lines: Vec<_> = held.iter().map(ToString::to_string).collect();
        let what = match proxy.pin {
            true => format!("calls of {} tools are held until an operator approves them", held.len()),
            false => format!(
                "{} tools have changed since their approval, and without --pin their calls are not held",
                held.len()
            ),
        };
        let remedy = format!("{}\nread the definitions, then run: actpass-mcp approve", lines.join("\n"));
        Ok(self.problem(place, &finding(Problem::ToolsDiffer, what, remedy))?)
    }
}

fn connect(access: &Access) -> Result<Gateway, Finding> {
    let given = access.key.clone().or_else(|| std::env::var(key::VARIABLE).ok());
    let missing = |what: &dyn fmt::Display| {
        finding(
            Problem::NoKey,
            what,
            "set ACTPASS_API_KEY to the API key of the agent and run actpass-mcp init, which keeps it for the proxies",
        )
    };
    match key::find(given) {
        Err(error) => Err(missing(&error)),
        Ok(None) => Err(missing(&"there is no API key")),
        Ok(Some(key)) => Gateway::new(key, access.url.as_deref()).map_err(|error| {
            finding(Problem::InvalidOptions, error, "correct ACTPASS_API_BASE_URL and ACTPASS_API_KEY")
        }),
    }
}

fn of_gateway(error: &GatewayError) -> Finding {
    match error {
        GatewayError::Key(_) => finding(
            Problem::WrongKey,
            error,
            "use a key from the gateway's configuration, and check that ACTPASS_API_BASE_URL is its URL",
        ),
        GatewayError::Unreachable(..) => finding(
            Problem::Unreachable,
            error,
            "start the gateway, and check ACTPASS_API_BASE_URL; until then every call is blocked",
        ),
        GatewayError::Unexpected(..) => {
            finding(Problem::NotAGateway, error, "check ACTPASS_API_BASE_URL, and update the gateway")
        }
    }
}

fn of_server(error: &ListError, command: &[OsString]) -> Finding {
    if command.is_empty() {
        return finding(
            Problem::ServerFails,
            error,
            "check the URL and the headers of the server; a login of the client does not apply to the proxy",
        );
    }
    let program = command.first().map(|program| program.to_string_lossy().into_owned()).unwrap_or_default();
    match error {
        ListError::Start(cause) if cause.kind() == ErrorKind::NotFound => finding(
            Problem::NoCommand,
            error,
            format_args!(
                "install {program}, or use its absolute path: a client has another PATH than a shell"
            ),
        ),
        ListError::Start(cause) if cause.kind() == ErrorKind::PermissionDenied => {
            finding(Problem::NoCommand, error, format_args!("make {program} executable"))
        }
        ListError::Start(_) | ListError::Ended(..) | ListError::Protocol(_) => finding(
            Problem::ServerFails,
            error,
            "run the command by itself and read its standard error; it gets PATH, HOME and the variables that --env \
             names, and no others",
        ),
    }
}

/// The value of a variable in a client's configuration: `${NAME}`, `${NAME:-DEFAULT}` and
/// `${env:NAME}` are this process's. `None` if it cannot be known, as of `${input:…}`.
fn resolved(text: &str) -> Option<String> {
    let Some(name) = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) else {
        return (!text.contains("${")).then(|| text.to_owned());
    };
    let (name, default) = match name.split_once(":-") {
        Some((name, default)) => (name, Some(default.to_owned())),
        None => (name.strip_prefix("env:").unwrap_or(name), None),
    };
    std::env::var(name).ok().or(default)
}
