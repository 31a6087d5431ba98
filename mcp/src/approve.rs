//! `actpass-mcp approve`: registers the definitions of a server's tools at the gateway, and shows
//! how they differ from the approved ones.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use actpass_core::{Json, hash_payload};
use actpass_protocol::tools::Tools;

use crate::gateway::{Gateway, ToolState};
use crate::{Error, files};

/// A tool's definition in relation to the approved one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Drift {
    /// The server's name of the tool.
    pub(crate) tool: String,
    pub(crate) kind: DriftKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DriftKind {
    /// Another definition is approved. With the differences from it, each a line, if the lock file
    /// has it.
    Changed(Vec<String>),
    /// The server no longer has the tool.
    Gone,
    /// No definition is approved. With the name of a tool that is gone and had the same definition.
    New(Option<String>),
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tool = self.tool.escape_debug();
        match &self.kind {
            DriftKind::Changed(lines) if lines.is_empty() => {
                write!(f, "{tool}: changed; the lock file does not have the approved definition")
            }
            DriftKind::Changed(lines) => f.write_str(&lines.join("\n")),
            DriftKind::Gone => write!(f, "{tool}: is gone"),
            DriftKind::New(None) => write!(f, "{tool}: is new"),
            DriftKind::New(Some(former)) => {
                write!(
                    f,
                    "{tool}: is new, with the definition of {} under another name",
                    former.escape_debug()
                )
            }
        }
    }
}

impl Drift {
    /// Whether calls of the tool are held until an operator approves its definition.
    pub(crate) fn holds_calls(&self) -> bool {
        match self.kind {
            DriftKind::Changed(_) | DriftKind::New(_) => true,
            DriftKind::Gone => false,
        }
    }
}

/// Compares the tools of a server with the approved definitions: their hashes at the gateway
/// decide, and the lock file shows the differences. `states` are in the order of `listed`.
pub(crate) fn drift(listed: &[(String, Json)], states: &[ToolState], lock: &Tools) -> Vec<Drift> {
    let now: BTreeMap<&str, &Json> = listed.iter().map(|(name, tool)| (name.as_str(), tool)).collect();
    let gone: Vec<&str> = lock.names().filter(|name| !now.contains_key(name)).collect();
    let mut found = Vec::new();
    for ((name, definition), state) in listed.iter().zip(states) {
        let hash = hash_payload(definition).ok();
        let kind = match &state.approved {
            Some(approved) if Some(approved) == hash.as_ref() => continue,
            Some(approved) => {
                let known =
                    lock.get(name).filter(|known| hash_payload(known).ok().as_ref() == Some(approved));
                DriftKind::Changed(known.map(|known| differences(known, definition)).unwrap_or_default())
            }
            None => {
                let is_same = |former: &&&str| {
                    lock.get(former).is_some_and(|former| unnamed(former).same_value(&unnamed(definition)))
                };
                DriftKind::New(gone.iter().find(is_same).map(|former| (*former).to_owned()))
            }
        };
        found.push(Drift { tool: name.clone(), kind });
    }
    found.extend(gone.into_iter().map(|name| Drift { tool: name.to_owned(), kind: DriftKind::Gone }));
    found
}

fn differences(before: &Json, now: &Json) -> Vec<String> {
    let tools = |definition| {
        let mut tools = Tools::default();
        tools.set(definition).map(|_| tools)
    };
    match (tools(before), tools(now)) {
        (Ok(before), Ok(now)) => before.differences(&now).iter().map(ToString::to_string).collect(),
        (Err(error), _) | (_, Err(error)) => vec![error.to_string()],
    }
}

fn unnamed(definition: &Json) -> Json {
    let members = definition.as_object().unwrap_or_default();
    Json::Object(members.iter().filter(|(name, _)| name != "name").cloned().collect())
}

/// The default lock file of a server: below the user's state folder.
pub(crate) fn default_lock(server: &str) -> Result<PathBuf, Error> {
    Ok(files::state_folder()?.join(format!("{server}.lock")))
}

/// Reads a lock file; a missing one has no tools.
pub(crate) fn read_lock(path: &Path) -> Result<Tools, Error> {
    match fs::read(path) {
        Ok(text) => Tools::from_lock(&text).map_err(|error| format!("{}: {error}", path.display()).into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Tools::default()),
        Err(error) => Err(format!("{}: {error}", path.display()).into()),
    }
}

/// Prints how the tools differ from the approved definitions. Returns whether any call is held.
pub(crate) async fn show(
    tool_prefix: &str,
    listed: &[(String, Json)],
    gateway: &Gateway,
    lock: &Path,
) -> Result<bool, Error> {
    let names: Vec<_> = listed.iter().map(|(name, _)| format!("{tool_prefix}{name}")).collect();
    let found = drift(listed, &gateway.states(&names).await?, &read_lock(lock)?);
    for drift in &found {
        writeln!(io::stdout(), "{drift}")?;
    }
    if found.is_empty() {
        writeln!(io::stdout(), "{} tools, all as approved", listed.len())?;
    }
    Ok(found.iter().any(Drift::holds_calls))
}

/// Approves the definitions of the tools, or of `only` these, as an operator, and keeps them in the
/// lock file. Prints a line for each tool: its name in the policy, and the hash of its definition.
pub(crate) async fn approve(
    tool_prefix: &str,
    listed: &[(String, Json)],
    only: &[String],
    gateway: &Gateway,
    lock: &Path,
) -> Result<(), Error> {
    if let Some(unknown) = only.iter().find(|name| !listed.iter().any(|(listed, _)| listed == *name)) {
        return Err(format!("--tool: the server has no tool {unknown:?}").into());
    }
    let mut known = read_lock(lock)?;
    let mut outcome = Ok(());
    for (name, definition) in listed.iter().filter(|(name, _)| only.is_empty() || only.contains(name)) {
        let tool = format!("{tool_prefix}{name}");
        outcome = gateway.approve(&tool, definition).await.and_then(|hash| {
            known.set(definition)?;
            Ok(writeln!(io::stdout(), "{tool} {hash}")?)
        });
        if outcome.is_err() {
            break;
        }
    }
    if only.is_empty() && outcome.is_ok() {
        let gone: Vec<_> = known
            .names()
            .filter(|name| !listed.iter().any(|(listed, _)| listed == name))
            .map(str::to_owned)
            .collect();
        gone.iter().for_each(|name| known.remove(name));
    }
    files::replace(lock, known.lock()?.as_bytes(), files::PRIVATE)?;
    outcome
}
