//! Configuration files of MCP clients: where they are, and the servers in them.
//!
//! A file is edited by replacing parts of its text, which keeps everything else,
//! comments and formatting included.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use jsonc_parser::ast::{Object, ObjectProp, Value};
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use crate::{Error, files};

/// Whether an item of a command names the proxy: its program, or its package with or without a version.
pub(crate) fn is_program(word: &str) -> bool {
    let name = Path::new(word).file_name().unwrap_or_default().to_string_lossy();
    let plain = name.split_once(['@', '=']).map_or(&*name, |(name, _)| name);
    plain == "actpass-mcp" || (plain == "mcp" && word.starts_with("@actpass/"))
}

/// A configuration file of a client, which may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) client: &'static str,
    pub(crate) path: PathBuf,
}

/// The configuration files that the clients read: the user's, and those of the project in `folder`.
pub(crate) fn places(folder: &Path) -> Result<Vec<Place>, Error> {
    let home = files::home()?;
    let settings = files::xdg("XDG_CONFIG_HOME", ".config")?;
    let support = home.join("Library/Application Support");
    let place = |client, path| Place { client, path };
    Ok(vec![
        place("Claude Desktop", support.join("Claude/claude_desktop_config.json")),
        place("Claude Desktop", settings.join("Claude/claude_desktop_config.json")),
        place("Claude Code", home.join(".claude.json")),
        place("Claude Code", folder.join(".mcp.json")),
        place("Cursor", home.join(".cursor/mcp.json")),
        place("Cursor", folder.join(".cursor/mcp.json")),
        place("VS Code", support.join("Code/User/mcp.json")),
        place("VS Code", settings.join("Code/User/mcp.json")),
        place("VS Code", folder.join(".vscode/mcp.json")),
        place("Windsurf", home.join(".codeium/windsurf/mcp_config.json")),
    ])
}

/// Whether a file belongs to a project, whose other users have the program elsewhere.
pub(crate) fn is_of_project(path: &Path) -> bool {
    let ends = |end: &str| path.ends_with(end);
    let is_home = || {
        let home = files::home().ok();
        path.parent().and_then(Path::parent).is_some_and(|folder| Some(folder) == home.as_deref())
    };
    ends(".mcp.json") || ends(".vscode/mcp.json") || (ends(".cursor/mcp.json") && !is_home())
}

/// The text of a configuration file, parsed.
pub(crate) struct Document<'t> {
    text: &'t str,
    root: Object<'t>,
}

/// A server of a configuration file.
pub(crate) struct Entry<'d, 't> {
    /// The names of the members that lead to it; the last one is its name.
    pub(crate) path: Vec<&'d str>,
    text: &'t str,
    value: &'d Value<'t>,
}

/// The kind of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Its command is the proxy, with these arguments.
    Routed(Vec<String>),
    /// A command and its arguments.
    Stdio { command: String, arguments: Vec<String> },
    /// A server over streamable HTTP, with the names and values of its headers.
    Http { url: String, headers: Vec<(String, String)> },
}

/// A replacement of a part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) text: String,
}

/// Applies edits that do not overlap.
pub(crate) fn edited(text: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|edit| (edit.start, edit.end));
    let mut out = String::with_capacity(text.len() + 256);
    let mut at = 0;
    for edit in edits {
        out.push_str(text.get(at..edit.start).unwrap_or_default());
        out.push_str(&edit.text);
        at = edit.end;
    }
    out.push_str(text.get(at..).unwrap_or_default());
    out
}

impl<'t> Document<'t> {
    /// Parses JSON with comments and trailing commas.
    ///
    /// # Errors
    ///
    /// Not a JSON object, no `mcpServers` or `servers`, or a key twice.
    pub(crate) fn parse(text: &'t str) -> Result<Self, String> {
        let options = ParseOptions {
            allow_comments: true,
            allow_trailing_commas: true,
            allow_loose_object_property_names: false,
            allow_missing_commas: false,
            allow_single_quoted_strings: false,
            allow_hexadecimal_numbers: false,
            allow_unary_plus_numbers: false,
            allow_bare_decimal_point_numbers: false,
            allow_non_finite_numbers: false,
            allow_extended_string_escapes: false,
        };
        let parsed = parse_to_ast(text, &CollectOptions::default(), &options)
            .map_err(|error| format!("not JSON: {error}"))?;
        match parsed.value {
            Some(Value::Object(root)) => {
                unique(&root)?;
                Ok(Self { text, root })
            }
            Some(_) | None => Err("not a configuration: expected a JSON object".to_owned()),
        }
    }

    /// The servers, in the order of the file.
    ///
    /// # Errors
    ///
    /// `mcpServers` or `servers` is not an object.
    pub(crate) fn entries(&self) -> Result<Vec<Entry<'_, 't>>, String> {
        let mut found = Vec::new();
        for name in ["mcpServers", "servers"] {
            self.collect(&self.root, &[], name, &mut found)?;
        }
        // Claude Code keeps servers of one project in the user's file.
        if let Some(projects) = self.root.get_object("projects") {
            for project in &projects.properties {
                if let Value::Object(settings) = &project.value {
                    self.collect(settings, &["projects", project.name.as_str()], "mcpServers", &mut found)?;
                }
            }
        }
        Ok(found)
    }

    fn collect<'d>(
        &'d self,
        parent: &'d Object<'t>,
        path: &[&'d str],
        name: &'static str,
        found: &mut Vec<Entry<'d, 't>>,
    ) -> Result<(), String> {
        let servers = match parent.get(name).map(|property| &property.value) {
            None => return Ok(()),
            Some(Value::Object(servers)) => servers,
            Some(_) => return Err(format!("{name}: expected an object of servers")),
        };
        for server in &servers.properties {
            let mut path = path.to_vec();
            path.extend([name, server.name.as_str()]);
            found.push(Entry { path, text: self.text, value: &server.value });
        }
        Ok(())
    }
}

/// Checks that no object has a key twice: clients could read either value.
fn unique(object: &Object<'_>) -> Result<(), String> {
    let mut names = HashSet::new();
    for property in &object.properties {
        if !names.insert(property.name.as_str()) {
            return Err(format!("the key {:?} is given twice in an object", property.name.as_str()));
        }
        unique_in(&property.value)?;
    }
    Ok(())
}

fn unique_in(value: &Value<'_>) -> Result<(), String> {
    match value {
        Value::Object(object) => unique(object),
        Value::Array(array) => array.elements.iter().try_for_each(unique_in),
        Value::StringLit(_) | Value::NumberLit(_) | Value::BooleanLit(_) | Value::NullKeyword(_) => Ok(()),
    }
}

impl<'d> Entry<'d, '_> {
    /// The name of the server.
    pub(crate) fn name(&self) -> &'d str {
        self.path.last().copied().unwrap_or_default()
    }

    /// The text of its value.
    pub(crate) fn source(&self) -> &str {
        self.text.get(self.value.start()..self.value.end()).unwrap_or_default()
    }

    /// Whether the client does not start it.
    pub(crate) fn is_disabled(&self) -> bool {
        self.object().is_ok_and(|object| {
            let flag = |name| object.get_boolean(name).map(|flag| flag.value);
            flag("disabled") == Some(true) || flag("enabled") == Some(false)
        })
    }

    /// Its kind.
    ///
    /// # Errors
    ///
    /// The problem, if it has another form.
    pub(crate) fn kind(&self) -> Result<Kind, String> {
        let object = self.object()?;
        let text = |name: &str| match object.get(name).map(|property| &property.value) {
            None | Some(Value::NullKeyword(_)) => Ok(None),
            Some(Value::StringLit(text)) => Ok(Some(text.value.to_string())),
            Some(_) => Err(format!("{name}: expected a string")),
        };
        let url = match (text("url")?, text("serverUrl")?) {
            (Some(_), Some(_)) => return Err("expected either url or serverUrl".to_owned()),
            (url, server_url) => url.or(server_url),
        };
        let transport = text("type")?.or(text("transport")?).unwrap_or_default();
        match (text("command")?, url) {
            (Some(_), Some(_)) => Err("expected either a command or a URL".to_owned()),
            (None, None) => Err("expected a command or a URL".to_owned()),
            (Some(command), None) => {
                let arguments = self.arguments()?;
                self.environment()?;
                // A launcher such as npx or uvx may start the proxy.
                let words: Vec<&str> =
                    std::iter::once(&command).chain(&arguments).map(String::as_str).collect();
                let start = words.windows(2).position(|pair| matches!(pair, [program, "proxy"] if is_program(program)));
                match start.and_then(|start| arguments.get(start..)) {
                    Some(arguments) => Ok(Kind::Routed(arguments.to_vec())),
                    None => Ok(Kind::Stdio { command, arguments }),
                }
            }
            (None, Some(url)) if transport == "sse" || url.trim_end_matches('/').ends_with("/sse") => {
                Err("it uses server-sent events, which the proxy does not support: use its URL for streamable HTTP"
                    .to_owned())
            }
            (None, Some(url)) if !url.starts_with("http://") && !url.starts_with("https://") => {
                Err("url: expected an http or https URL".to_owned())
            }
            (None, Some(url)) => Ok(Kind::Http { url, headers: self.texts("headers")? }),
        }
    }

    fn arguments(&self) -> Result<Vec<String>, String> {
        let elements = match self.member("args")? {
            None | Some(Value::NullKeyword(_)) => return Ok(Vec::new()),
            Some(Value::Array(array)) => &array.elements,
            Some(_) => return Err("args: expected an array of strings".to_owned()),
        };
        let text = |value: &Value<'_>| value.as_string_lit().map(|text| text.value.to_string());
        let texts: Option<Vec<_>> = elements.iter().map(text).collect();
        texts.ok_or_else(|| "args: expected an array of strings".to_owned())
    }

    /// The variables that the entry sets, as written: clients replace `${…}` in them.
    pub(crate) fn environment(&self) -> Result<Vec<(String, String)>, String> {
        self.texts("env")
    }

    /// The file with further variables.
    pub(crate) fn environment_file(&self) -> Result<Option<String>, String> {
        match self.member("envFile")? {
            None | Some(Value::NullKeyword(_)) => Ok(None),
            Some(Value::StringLit(text)) => Ok(Some(text.value.to_string())),
            Some(_) => Err("envFile: expected a string".to_owned()),
        }
    }

    /// The members of an object whose values are texts, numbers or truth values.
    fn texts(&self, name: &str) -> Result<Vec<(String, String)>, String> {
        let object = match self.member(name)? {
            None | Some(Value::NullKeyword(_)) => return Ok(Vec::new()),
            Some(Value::Object(object)) => object,
            Some(_) => return Err(format!("{name}: expected an object of strings")),
        };
        let mut found = Vec::new();
        for property in &object.properties {
            let text = match &property.value {
                Value::StringLit(text) => text.value.to_string(),
                Value::NumberLit(number) => number.value.to_owned(),
                Value::BooleanLit(flag) => flag.value.to_string(),
                Value::NullKeyword(_) => continue,
                Value::Object(_) | Value::Array(_) => {
                    return Err(format!("{name}.{}: expected a string", property.name.as_str()));
                }
            };
            found.push((property.name.as_str().to_owned(), text));
        }
        Ok(found)
    }

    fn object(&self) -> Result<&'d Object<'d>, String> {
        match self.value {
            Value::Object(object) => Ok(object),
            Value::StringLit(_)
            | Value::NumberLit(_)
            | Value::BooleanLit(_)
            | Value::Array(_)
            | Value::NullKeyword(_) => Err("expected an object".to_owned()),
        }
    }

    fn member(&self, name: &str) -> Result<Option<&'d Value<'d>>, String> {
        Ok(self.object()?.get(name).map(|property| &property.value))
    }

    /// The replacement of the whole value.
    pub(crate) fn replace(&self, text: &str) -> Edit {
        Edit { start: self.value.start(), end: self.value.end(), text: text.to_owned() }
    }

    /// The edits that make `command` with `leading` arguments start the server. `variables` are
    /// added to its environment: a name, and its value as JSON.
    pub(crate) fn route(
        &self,
        command: &str,
        leading: &[String],
        variables: &[(String, String)],
    ) -> Result<Vec<Edit>, String> {
        let object = self.object()?;
        let mut edits = Vec::new();
        let is_url = |property: &&ObjectProp<'_>| matches!(property.name.as_str(), "url" | "serverUrl");
        let anchor = match object.get("command") {
            Some(property) => {
                edits.push(replaced(&property.value, &quoted(command)));
                match object.get("args") {
                    Some(arguments) => {
                        edits.push(match arguments.value.as_array() {
                            Some(_) => self.prepend(&arguments.value, leading),
                            None => replaced(&arguments.value, &array(leading)),
                        });
                        arguments
                    }
                    None => {
                        edits.push(self.append_after(property, "args", &array(leading)));
                        property
                    }
                }
            }
            None => {
                let url = object.properties.iter().find(is_url).ok_or("expected a command or a URL")?;
                let separator = self.separator(url);
                let text =
                    format!("\"command\": {},{separator}\"args\": {}", quoted(command), array(leading));
                edits.push(Edit { start: url.start(), end: url.end(), text });
                for name in ["type", "transport"] {
                    if let Some(transport) = object.get(name) {
                        edits.push(replaced(&transport.value, "\"stdio\""));
                    }
                }
                url
            }
        };
        let members: Vec<_> =
            variables.iter().map(|(name, value)| format!("{}: {value}", quoted(name))).collect();
        let headers = object.get("headers");
        match (members.is_empty(), object.get("env"), headers) {
            (true, _, None) => {}
            (_, Some(environment), headers) => {
                if let (Value::Object(inner), false) = (&environment.value, members.is_empty()) {
                    let edit = match inner.properties.last() {
                        Some(last) => {
                            let separator = self.separator(last);
                            let text: String =
                                members.iter().map(|member| format!(",{separator}{member}")).collect();
                            Edit { start: last.end(), end: last.end(), text }
                        }
                        None => replaced(&environment.value, &format!("{{{}}}", members.join(", "))),
                    };
                    edits.push(edit);
                } else if !members.is_empty() {
                    edits.push(replaced(&environment.value, &format!("{{{}}}", members.join(", "))));
                }
                if let Some(headers) = headers {
                    edits.push(replaced(&headers.value, "{}"));
                }
            }
            (_, None, Some(headers)) => {
                let text = format!("\"env\": {{{}}}", members.join(", "));
                edits.push(Edit { start: headers.start(), end: headers.end(), text });
            }
            (false, None, None) => {
                let text = format!("{{{}}}", members.join(", "));
                // Two edits at one place keep their order, so that args come first.
                edits.push(self.append_after(anchor, "env", &text));
            }
        }
        Ok(edits)
    }

    /// The edit that puts `texts` before the elements of an array, laid out as these.
    fn prepend(&self, value: &Value<'_>, texts: &[String]) -> Edit {
        let quoted: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
        let first = value.as_array().and_then(|array| array.elements.first());
        let (at, text) = match first {
            Some(first) => {
                let separator = self.space_before(value.start() + 1, first.start());
                let text: String = quoted.iter().map(|text| format!("{text},{separator}")).collect();
                (first.start(), text)
            }
            None => (value.start() + 1, quoted.join(", ")),
        };
        Edit { start: at, end: at, text }
    }

    /// The edit that adds a member behind another one, laid out as it.
    fn append_after(&self, property: &ObjectProp<'_>, name: &str, value: &str) -> Edit {
        let at = property.end();
        Edit { start: at, end: at, text: format!(",{}{}: {value}", self.separator(property), quoted(name)) }
    }

    /// The white space that separates a member from the one before it.
    fn separator(&self, property: &ObjectProp<'_>) -> String {
        self.space_before(0, property.start())
    }

    /// The line break and the indentation before `at`, or a space if the line begins earlier.
    fn space_before(&self, from: usize, at: usize) -> String {
        let before = self.text.get(from..at).unwrap_or_default();
        let space = before.trim_end_matches([' ', '\t']);
        let indentation = before.get(space.len()..).unwrap_or_default();
        match (space.ends_with("\r\n"), space.ends_with('\n')) {
            (true, _) => format!("\r\n{indentation}"),
            (false, true) => format!("\n{indentation}"),
            (false, false) => " ".to_owned(),
        }
    }
}

fn replaced(value: &Value<'_>, text: &str) -> Edit {
    Edit { start: value.start(), end: value.end(), text: text.to_owned() }
}

/// `text` as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn array(texts: &[String]) -> String {
    let texts: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", texts.join(", "))
}

/// The text with the values of variables and headers replaced, to show it. References to variables
/// of the client, and the gateway's URL, stay.
pub(crate) fn masked(text: &str) -> String {
    let Ok(document) = Document::parse(text) else { return String::new() };
    let Ok(entries) = document.entries() else { return String::new() };
    let mut edits = Vec::new();
    for entry in &entries {
        for name in ["env", "headers"] {
            let Ok(Some(Value::Object(object))) = entry.member(name) else { continue };
            for property in &object.properties {
                let is_shown = property.name.as_str() == "ACTPASS_API_BASE_URL"
                    || property.value.as_string_lit().is_some_and(|text| is_reference(&text.value));
                if !is_shown {
                    edits.push(replaced(&property.value, "\"…\""));
                }
            }
        }
    }
    edited(text, edits)
}

fn is_reference(text: &str) -> bool {
    text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).is_some_and(|name| {
        !name.contains([':', '}']) || {
            let (kind, name) = name.split_once(':').unwrap_or_default();
            matches!(kind, "env" | "input") && !name.contains('}')
        }
    })
}
