//! `actpass-mcp init`: routes the servers of MCP clients through the proxy, and undoes it.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use similar::TextDiff;

use crate::configuration::{
    Document, Entry, Kind, Place, edited, is_of_project, is_program, masked, places, quoted,
};
use crate::{Error, files, key};

/// The end of the name of the file with the original configuration.
const BACKUP: &str = ".actpass-backup";
/// The variable of the gateway's URL.
const BASE_URL: &str = "ACTPASS_API_BASE_URL";

/// The options of `init`.
pub(crate) struct Request {
    /// The files; if empty, those that the clients read.
    pub(crate) files: Vec<PathBuf>,
    /// The folder of the project.
    pub(crate) folder: PathBuf,
    /// The proxy's program, in place of the default.
    pub(crate) command: Option<String>,
    /// Further options of the proxy.
    pub(crate) options: Vec<String>,
    /// Whether to write without a question.
    pub(crate) yes: bool,
    pub(crate) undo: bool,
}

/// The end of `init`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// The person declined.
    Declined,
    /// A file or a server was left alone.
    Incomplete,
}

/// A change of a file.
struct Change {
    place: Place,
    before: String,
    after: String,
    backup: Backup,
}

/// The change of a backup.
enum Backup {
    Write(String),
    Remove,
}

/// Shows the changes, and writes them after a confirmation.
pub(crate) fn init(request: &Request) -> Result<Outcome, Error> {
    let mut out = io::stdout();
    let mut outcome = Outcome::Done;
    let mut changes = Vec::new();
    for place in found(request, &mut out)? {
        let title = format!("{}: {}", place.client, place.path.display());
        let mut notes = Vec::new();
        let planned = match request.undo {
            true => plan_undo(place, &mut notes),
            false => plan(place, request, &mut notes),
        };
        match planned {
            Err(problem) => {
                outcome = Outcome::Incomplete;
                writeln!(out, "{title}: left alone: {problem}")?;
            }
            Ok(change) => {
                if !notes.is_empty() {
                    outcome = Outcome::Incomplete;
                }
                match change {
                    None => writeln!(out, "{title}: nothing to change")?,
                    Some(change) => {
                        writeln!(out, "{title}")?;
                        write!(out, "{}", diff(&change))?;
                        changes.push(change);
                    }
                }
                for note in notes {
                    writeln!(out, "  {note}")?;
                }
            }
        }
    }
    let stored = if request.undo { None } else { key::to_store()? };
    if let Some((path, _)) = &stored {
        writeln!(out, "{}: will keep the key of ACTPASS_API_KEY for the proxies", path.display())?;
    }
    if changes.is_empty() && stored.is_none() {
        return Ok(outcome);
    }
    if !request.yes && !confirmed(&mut out)? {
        writeln!(out, "nothing written")?;
        return Ok(Outcome::Declined);
    }
    if let Some((path, key)) = &stored {
        files::replace(path, key.expose().as_bytes(), files::PRIVATE)?;
        writeln!(out, "{}: written", path.display())?;
    }
    for change in changes {
        write_change(&change)?;
        let backup = backup_of(&change.place.path);
        match change.backup {
            Backup::Write(_) => {
                writeln!(
                    out,
                    "{}: written; the original is {}",
                    change.place.path.display(),
                    backup.display()
                )?;
            }
            Backup::Remove => writeln!(out, "{}: restored", change.place.path.display())?,
        }
    }
    if !request.undo {
        writeln!(out, "Restart the clients, then check with: actpass-mcp doctor")?;
    }
    Ok(outcome)
}

/// The files that exist.
fn found(request: &Request, out: &mut impl Write) -> Result<Vec<Place>, Error> {
    if !request.files.is_empty() {
        let known = places(&request.folder)?;
        let place = |path: &PathBuf| {
            let client =
                known.iter().find(|place| place.path == *path).map_or("Client", |place| place.client);
            Place { client, path: path.clone() }
        };
        return Ok(request.files.iter().map(place).collect());
    }
    let places = places(&request.folder)?;
    let mut seen = HashSet::new();
    let is_first = |place: &&Place| fs::canonicalize(&place.path).is_ok_and(|path| seen.insert(path));
    let found: Vec<_> = places.iter().filter(is_first).cloned().collect();
    if found.is_empty() {
        writeln!(out, "no configuration file of an MCP client found; looked for:")?;
        for place in places {
            writeln!(out, "  {}: {}", place.client, place.path.display())?;
        }
        return Err("name the configuration file: actpass-mcp init FILE".into());
    }
    Ok(found)
}

/// Reads a file as text, without its byte order mark, which is returned too.
fn read(path: &Path) -> Result<(String, String), Error> {
    let bytes = fs::read(path)?;
    let text = String::from_utf8(bytes).map_err(|_| "not UTF-8")?;
    match text.strip_prefix('\u{feff}') {
        Some(rest) => Ok(("\u{feff}".to_owned(), rest.to_owned())),
        None => Ok((String::new(), text)),
    }
}

/// The routed configuration; `None` if nothing changes.
fn plan(place: Place, request: &Request, notes: &mut Vec<String>) -> Result<Option<Change>, Error> {
    let (mark, text) = read(&place.path)?;
    let document = Document::parse(&text)?;
    let entries = document.entries()?;
    let command = match &request.command {
        Some(command) if !is_program(command) => {
            return Err(format!("--command: expected a path of actpass-mcp, found {command}").into());
        }
        Some(command) => command.clone(),
        None if is_of_project(&place.path) => "actpass-mcp".to_owned(),
        // A client that is started from a desktop has another PATH than a shell.
        None => installed(&std::env::current_exe()?.display().to_string())?,
    };
    let mut names = HashSet::new();
    let mut edits = Vec::new();
    for entry in &entries {
        let edits_of_entry = route(entry, &place, &command, request, &mut names);
        match edits_of_entry {
            Ok(found) => edits.extend(found),
            Err(problem) => notes.push(format!("{}: left alone: {problem}", entry.name())),
        }
    }
    if edits.is_empty() {
        return Ok(None);
    }
    let original = match fs::read_to_string(backup_of(&place.path)) {
        // An earlier run routed some of the servers: their originals are in its backup.
        Ok(backup) => restored(&text, backup.trim_start_matches('\u{feff}'), &mut Vec::new())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => text.clone(),
        Err(error) => return Err(error.into()),
    };
    let after = format!("{mark}{}", edited(&text, edits));
    let backup = Backup::Write(format!("{mark}{original}"));
    Ok(Some(Change { place, before: format!("{mark}{text}"), after, backup }))
}

/// The path of this program, unless it is in a cache that is cleaned.
fn installed(path: &str) -> Result<String, String> {
    match ["/_npx/", "/uv/archive", "/uvx/"].iter().any(|cache| path.contains(cache)) {
        true => Err(format!("{path} is temporary: install actpass-mcp, or name it with --command")),
        false => Ok(path.to_owned()),
    }
}

/// The edits that route a server; none if it is routed.
fn route(
    entry: &Entry<'_, '_>,
    place: &Place,
    command: &str,
    request: &Request,
    names: &mut HashSet<String>,
) -> Result<Vec<crate::configuration::Edit>, String> {
    let kind = entry.kind()?;
    let mut variables = Vec::new();
    let mut leading = vec!["proxy".to_owned(), "--server".to_owned(), policy_name(entry.name(), names)];
    leading.extend(request.options.iter().cloned());
    match kind {
        Kind::Routed(_) => return Ok(Vec::new()),
        Kind::Stdio { command: program, .. } => {
            let mut passed: Vec<_> = entry.environment()?.into_iter().map(|(name, _)| name).collect();
            if let Some(file) = entry.environment_file()? {
                passed.extend(names_in(&file, place, &request.folder)?);
            }
            passed.retain(|name| !matches!(name.as_str(), "PATH" | "HOME"));
            let mut seen = HashSet::new();
            for name in passed.into_iter().filter(|name| seen.insert(name.clone())) {
                leading.extend(["--env".to_owned(), name]);
            }
            leading.extend(["--".to_owned(), program]);
        }
        Kind::Http { url, headers } => {
            leading.extend(["--upstream".to_owned(), url]);
            for (name, value) in headers {
                let variable: String = name
                    .chars()
                    .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
                    .collect();
                let variable = format!("UPSTREAM_{variable}");
                leading.extend(["--upstream-header".to_owned(), format!("{name}={variable}")]);
                variables.push((variable, quoted(&value)));
            }
        }
    }
    if let Some(url) = std::env::var(BASE_URL).ok().filter(|url| !url.is_empty())
        && !entry.environment()?.iter().any(|(name, _)| name == BASE_URL)
    {
        variables.push((BASE_URL.to_owned(), quoted(&url)));
    }
    entry.route(command, &leading, &variables)
}

/// The policy's name of a server: its own name with other characters than letters, digits, - and _
/// replaced.
fn policy_name(name: &str, names: &mut HashSet<String>) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    let plain = if plain.is_empty() { "server".to_owned() } else { plain };
    let mut free = plain.clone();
    let mut count = 1;
    while !names.insert(free.clone()) {
        count += 1;
        free = format!("{plain}_{count}");
    }
    free
}

/// The names of the variables in a file that the client reads.
fn names_in(file: &str, place: &Place, folder: &Path) -> Result<Vec<String>, String> {
    let problem = |why: &dyn std::fmt::Display| {
        format!("envFile {file}: {why}; its variables could not be passed by name")
    };
    let root =
        match place.path.parent().filter(|parent| parent.ends_with(".vscode") || parent.ends_with(".cursor"))
        {
            Some(settings) => settings.parent().unwrap_or(folder),
            None => folder,
        };
    let home = files::home().map_err(|error| problem(&error))?;
    let path = file
        .replace("${workspaceFolder}", &root.display().to_string())
        .replace("${userHome}", &home.display().to_string());
    if path.contains("${") {
        return Err(problem(&"expected no other variable than ${workspaceFolder} and ${userHome}"));
    }
    let path = match path.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None => root.join(path),
    };
    let text = fs::read_to_string(path).map_err(|error| problem(&error))?;
    let names = text.lines().filter_map(|line| {
        let line = line.trim().strip_prefix("export ").unwrap_or(line.trim());
        let (name, _) = line.split_once('=').filter(|_| !line.starts_with('#'))?;
        Some(name.trim().to_owned())
    });
    Ok(names.collect())
}

/// The original configuration; `None` if nothing changes.
fn plan_undo(place: Place, notes: &mut Vec<String>) -> Result<Option<Change>, Error> {
    let (mark, text) = read(&place.path)?;
    let backup = match fs::read_to_string(backup_of(&place.path)) {
        Ok(backup) => backup,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let document = Document::parse(&text)?;
            let is_routed =
                document.entries()?.iter().any(|entry| matches!(entry.kind(), Ok(Kind::Routed(_))));
            return match is_routed {
                true => {
                    Err(format!("{} is missing, which has the original", backup_of(&place.path).display())
                        .into())
                }
                false => Ok(None),
            };
        }
        Err(error) => return Err(error.into()),
    };
    let after = restored(&text, backup.trim_start_matches('\u{feff}'), notes)?;
    let (before, after) = (format!("{mark}{text}"), format!("{mark}{after}"));
    Ok(Some(Change { place, before, after, backup: Backup::Remove }))
}

/// The configuration in which each routed server has its value in `backup`. Everything else, such as
/// servers that were added since, stays.
fn restored(text: &str, backup: &str, notes: &mut Vec<String>) -> Result<String, String> {
    let (now, original) = (Document::parse(text)?, Document::parse(backup)?);
    let originals = original.entries()?;
    let mut edits = Vec::new();
    for entry in now.entries()? {
        match originals.iter().find(|original| original.path == entry.path) {
            Some(original) if matches!(entry.kind(), Ok(Kind::Routed(_))) => {
                edits.push(entry.replace(original.source()));
            }
            None if matches!(entry.kind(), Ok(Kind::Routed(_))) => {
                notes.push(format!("{}: left alone: not in the backup", entry.name()));
            }
            Some(_) | None => {}
        }
    }
    Ok(edited(text, edits))
}

fn backup_of(path: &Path) -> PathBuf {
    // Next to the file itself, if `path` is a link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut name = path.into_os_string();
    name.push(BACKUP);
    PathBuf::from(name)
}

/// Writes a file, and its backup before.
fn write_change(change: &Change) -> Result<(), Error> {
    let path = &change.place.path;
    if fs::read(path)? != change.before.as_bytes() {
        return Err(format!("{}: changed since it was read; run init again", path.display()).into());
    }
    let backup = backup_of(path);
    if let Backup::Write(original) = &change.backup {
        if !backup.exists() {
            // With the permissions of the original.
            fs::copy(path, &backup).map_err(|error| format!("{}: {error}", backup.display()))?;
        }
        files::replace(&backup, original.as_bytes(), files::PRIVATE)?;
    }
    files::replace(path, change.after.as_bytes(), files::PRIVATE)?;
    if let Backup::Remove = change.backup {
        fs::remove_file(&backup).map_err(|error| format!("{}: {error}", backup.display()))?;
    }
    Ok(())
}

/// The differences, without the values of variables and headers.
fn diff(change: &Change) -> String {
    let strip = |text: &str| text.trim_start_matches('\u{feff}').to_owned();
    let (before, after) = (masked(&strip(&change.before)), masked(&strip(&change.after)));
    TextDiff::from_lines(&before, &after).unified_diff().context_radius(2).to_string()
}

fn confirmed(out: &mut impl Write) -> io::Result<bool> {
    write!(out, "Write this? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
