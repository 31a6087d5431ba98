//! `actpass-mcp scan`: a policy to start from, for the tools of a server.

use std::collections::HashSet;

use actpass_core::Json;
use serde_json::{Map, Value, json};

/// Words in the name of a tool that only reads.
const READS: &[&str] = &[
    "browse", "check", "count", "describe", "exists", "fetch", "find", "get", "inspect", "list", "lookup",
    "read", "search", "show", "stat", "status", "tree", "view",
];
/// Words in the name of a tool that changes something, for any annotations.
const WRITES: &[&str] = &[
    "add",
    "append",
    "apply",
    "approve",
    "archive",
    "assign",
    "ban",
    "block",
    "buy",
    "call",
    "cancel",
    "change",
    "charge",
    "clear",
    "clone",
    "close",
    "commit",
    "configure",
    "copy",
    "create",
    "delete",
    "deploy",
    "destroy",
    "disable",
    "download",
    "drop",
    "edit",
    "email",
    "enable",
    "erase",
    "exec",
    "execute",
    "export",
    "fork",
    "grant",
    "import",
    "insert",
    "install",
    "invite",
    "invoke",
    "kill",
    "lock",
    "mark",
    "merge",
    "modify",
    "move",
    "mutate",
    "overwrite",
    "patch",
    "pay",
    "post",
    "publish",
    "purchase",
    "purge",
    "push",
    "put",
    "reboot",
    "refund",
    "register",
    "reject",
    "remove",
    "rename",
    "replace",
    "reply",
    "reset",
    "restart",
    "restore",
    "resume",
    "retry",
    "revoke",
    "rotate",
    "run",
    "save",
    "send",
    "set",
    "share",
    "shutdown",
    "sign",
    "start",
    "stop",
    "submit",
    "subscribe",
    "sync",
    "terminate",
    "transfer",
    "trigger",
    "truncate",
    "uninstall",
    "unlink",
    "unlock",
    "update",
    "upload",
    "upsert",
    "withdraw",
    "wipe",
    "write",
];
/// The longest name of a tool in a request, in characters.
const MAX_NAME: usize = 256;

/// A policy and its test cases, as JSON texts, and notes about the tools.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) policy: String,
    pub(crate) cases: String,
    pub(crate) notes: Vec<String>,
}

/// A rule for a tool.
struct Rule {
    name: String,
    when: Vec<Value>,
    decision: &'static str,
    reason: String,
    risk_tier: &'static str,
    /// Arguments for which it decides.
    example: Map<String, Value>,
    is_closed: bool,
    tool: String,
}

/// Writes a policy for the tools. A tool that only reads is allowed, every other one needs approval.
///
/// The annotations come from the server: they can raise the risk, and `readOnlyHint` is believed
/// only for a tool whose name does not contradict it.
pub(crate) fn scan(server: &str, tool_prefix: &str, listed: &[(String, Json)]) -> Scan {
    let mut notes = Vec::new();
    let mut names = HashSet::new();
    let mut rules = Vec::new();
    for (name, definition) in listed {
        let tool = format!("{tool_prefix}{name}");
        if tool.chars().count() > MAX_NAME {
            notes.push(format!(
                "{}: no rule: its name is longer than {MAX_NAME} characters",
                name.escape_debug()
            ));
            continue;
        }
        let definition: Value = serde_json::from_str(&definition.to_string()).unwrap_or_default();
        let (rule, note) = rule(server, name, tool, &definition, &mut names);
        notes.extend(note);
        rules.push(rule);
    }
    Scan { policy: policy_text(server, &rules), cases: cases_text(tool_prefix, &rules), notes }
}

fn rule(
    server: &str,
    name: &str,
    tool: String,
    definition: &Value,
    names: &mut HashSet<String>,
) -> (Rule, Option<String>) {
    let hint = |name: &str| definition.pointer(&format!("/annotations/{name}")).and_then(Value::as_bool);
    let words = words(name);
    let has = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    let claims_reading = hint("readOnlyHint") == Some(true) && hint("destructiveHint") != Some(true);
    let is_credible = has(READS) && !has(WRITES);
    let arguments = Arguments::of(definition.get("inputSchema").unwrap_or(&Value::Null));
    let is_read = claims_reading && is_credible && arguments.is_closed;
    let note = (claims_reading && !is_read).then(|| {
        let why = match is_credible {
            true => "its arguments are open",
            false => "its name does not state that it only reads",
        };
        format!(
            "{}: requires approval although the server states that it only reads: {why}",
            name.escape_debug()
        )
    });
    let risk_tier = match (is_read, hint("destructiveHint")) {
        (true, _) => "low",
        (false, Some(false)) => "medium",
        // The protocol's default is that a tool is destructive.
        (false, Some(true) | None) => "high",
    };
    let mut when = vec![json!({"path": "tool", "operator": "==", "value": tool})];
    when.extend(arguments.conditions);
    let rule = Rule {
        name: unique_name(&format!("{server}_{name}"), names),
        when,
        decision: if is_read { "allow" } else { "require_approval" },
        reason: format!("{server}.{}", if is_read { "read" } else { "needs_approval" }),
        risk_tier,
        example: arguments.example,
        is_closed: arguments.is_closed,
        tool,
    };
    (rule, note)
}

/// The words of a name in snake, kebab, dotted or camel case, in lower case.
fn words(name: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut was_lower = false;
    for c in name.chars() {
        if !c.is_alphanumeric() || (c.is_uppercase() && was_lower) {
            words.push(std::mem::take(&mut word));
        }
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
        was_lower = c.is_lowercase() || c.is_numeric();
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

fn unique_name(name: &str, names: &mut HashSet<String>) -> String {
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let mut free = plain.clone();
    let mut count = 1;
    while !names.insert(free.clone()) {
        count += 1;
        free = format!("{plain}_{count}");
    }
    free
}

/// The conditions on the arguments of a tool.
struct Arguments {
    conditions: Vec<Value>,
    example: Map<String, Value>,
    /// Whether no other arguments than the listed ones are accepted.
    is_closed: bool,
}

impl Arguments {
    fn of(schema: &Value) -> Self {
        let none = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
        let is_open = schema.get("additionalProperties").is_some_and(|more| *more != Value::Bool(false))
            || ["patternProperties", "allOf", "anyOf", "oneOf", "$ref", "if"]
                .iter()
                .any(|name| schema.get(name).is_some());
        let mut conditions = Vec::new();
        if !is_open {
            let names: Vec<_> = properties.keys().cloned().collect();
            conditions.push(json!({"path": "args", "operator": "has_only", "value": names}));
        }
        let mut example = Map::new();
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        let mut seen = HashSet::new();
        for name in required.filter_map(Value::as_str).filter(|name| seen.insert(*name)) {
            let Some(of) = properties.get(name) else { continue };
            // A member whose name contains a dot has no path.
            let path = (!name.is_empty() && !name.contains('.')).then(|| format!("args.{name}"));
            let (found, value) = argument(path.as_deref(), of);
            conditions.extend(found);
            example.insert(name.to_owned(), value);
        }
        Self { conditions, example, is_closed: !is_open }
    }
}

/// The conditions that a required argument has its type, and a value that fulfils them.
fn argument(path: Option<&str>, schema: &Value) -> (Vec<Value>, Value) {
    let condition = |operator: &str, value: Value| {
        path.map(|path| json!({"path": path, "operator": operator, "value": value}))
            .into_iter()
            .collect::<Vec<_>>()
    };
    let choices = match (schema.get("const"), schema.get("enum")) {
        (Some(value), _) => vec![value.clone()],
        (None, Some(Value::Array(values))) => values.clone(),
        (None, _) => Vec::new(),
    };
    if let Some(first) = choices.first() {
        let is_plain = |value: &Value| value.is_string() || value.is_number() || value.is_boolean();
        let is_alike = |value: &Value| std::mem::discriminant(value) == std::mem::discriminant(first);
        let conditions = match is_plain(first) && choices.iter().all(is_alike) {
            true => condition("in", Value::Array(choices.clone())),
            false => condition("exists", Value::Bool(true)),
        };
        return (conditions, first.clone());
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => (condition("starts_with", json!("")), json!("example")),
        Some("boolean") => (condition("in", json!([true, false])), json!(true)),
        Some("number" | "integer") => {
            let bound = |name: &str| schema.get(name).filter(|bound| bound.is_number()).cloned();
            let (least, most) = (bound("minimum"), bound("maximum"));
            let is_range = match (&least, &most) {
                (Some(least), Some(most)) => least.as_f64() <= most.as_f64(),
                (Some(_) | None, _) => true,
            };
            let (least, most) = if is_range { (least, most) } else { (None, None) };
            let example = least.clone().or(most.clone()).unwrap_or(json!(1));
            let mut conditions = Vec::new();
            if let Some(most) = most {
                conditions.extend(condition("<=", most));
            }
            // Without a bound, the comparison states that it is a number.
            if least.is_some() || conditions.is_empty() {
                conditions.extend(condition(">=", least.unwrap_or(json!(-9_007_199_254_740_991_i64))));
            }
            (conditions, example)
        }
        Some("array") => (condition("exists", Value::Bool(true)), json!([])),
        Some("object") => (condition("exists", Value::Bool(true)), json!({})),
        Some(_) | None => (condition("exists", Value::Bool(true)), json!("example")),
    }
}

fn policy_text(server: &str, rules: &[Rule]) -> String {
    let mut out =
        format!("{{\n  \"id\": {},\n  \"version\": 1,\n  \"rules\": [", json!(format!("mcp-{server}")));
    for (at, rule) in rules.iter().enumerate() {
        out.push_str(if at == 0 { "\n" } else { ",\n" });
        let when: Vec<_> =
            rule.when.iter().map(|condition| format!("        {}", spaced(condition))).collect();
        out.push_str(&format!(
            "    {{\n      \"name\": {},\n      \"when\": [\n{}\n      ],\n      \"decision\": \"{}\",\n      \
             \"reason\": {},\n      \"risk_tier\": \"{}\"\n    }}",
            json!(rule.name),
            when.join(",\n"),
            rule.decision,
            json!(rule.reason),
            rule.risk_tier
        ));
    }
    out.push_str(if rules.is_empty() { "]\n}\n" } else { "\n  ]\n}\n" });
    out
}

/// A condition on one line, in the order of the documentation.
fn spaced(condition: &Value) -> String {
    let member = |name: &str| condition.get(name).unwrap_or(&Value::Null).to_string();
    format!(
        "{{\"path\": {}, \"operator\": {}, \"value\": {}}}",
        member("path"),
        member("operator"),
        member("value")
    )
}

fn cases_text(tool_prefix: &str, rules: &[Rule]) -> String {
    let mut cases = vec![json!({
        "name": "unknown tool",
        "input": {"tool": format!("{tool_prefix}actpass_unknown_tool"), "args": {}},
        "expect": {"decision": "deny", "rule": null},
    })];
    for rule in rules {
        cases.push(json!({
            "name": rule.name,
            "input": {"tool": rule.tool, "args": rule.example},
            "expect": {"decision": rule.decision, "rule": rule.name},
        }));
        if rule.is_closed {
            let mut args = rule.example.clone();
            args.insert("actpass_unknown_argument".to_owned(), Value::Bool(true));
            cases.push(json!({
                "name": format!("{}, unknown argument", rule.name),
                "input": {"tool": rule.tool, "args": args},
                "expect": "deny",
            }));
        }
    }
    let lines: Vec<_> = cases.iter().map(|case| format!("    {case}")).collect();
    format!("{{\n  \"cases\": [\n{}\n  ]\n}}\n", lines.join(",\n"))
}
