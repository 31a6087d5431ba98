//! The forms of calls and answers of each host.

use actpass_protocol::{Json, json};

/// A host of hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    ClaudeCode,
    Codex,
    Cursor,
}

/// A tool call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) tool: String,
    /// An object.
    pub(crate) args: Json,
}

/// The answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Allow,
    /// With the reason for the model.
    Deny(String),
}

impl Answer {
    pub(crate) fn deny(reason: &str) -> Self {
        Self::Deny(format!("ActPass: {reason}"))
    }
}

impl Host {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "claude-code" => Some(Self::ClaudeCode),
            "codex" => Some(Self::Codex),
            "cursor" => Some(Self::Cursor),
            _ => None,
        }
    }

    /// The goal in requests. It is constant, so that a repeated call finds its approval.
    pub(crate) const fn goal(self) -> &'static str {
        match self {
            Self::ClaudeCode => "use a tool in Claude Code",
            Self::Codex => "use a tool in Codex",
            Self::Cursor => "use a tool in Cursor",
        }
    }

    /// Reads a call. An event that is not the start of a tool call is an error, because it has no
    /// action to decide about.
    pub(crate) fn read(self, input: &Json) -> Result<Call, String> {
        let event = text(input, "hook_event_name")?;
        match (self, event) {
            (Self::ClaudeCode | Self::Codex, "PreToolUse") | (Self::Cursor, "preToolUse") => {
                Ok(Call { tool: text(input, "tool_name")?.to_owned(), args: object(input, "tool_input")? })
            }
            (Self::Cursor, "beforeShellExecution") => {
                let command = Json::from(text(input, "command")?);
                let folder = input.member("cwd").filter(|folder| folder.as_str().is_some());
                let members = [("command", Some(command)), ("cwd", folder.cloned())];
                Ok(Call { tool: "Shell".to_owned(), args: json::object(members) })
            }
            (Self::Cursor, "beforeMCPExecution") => {
                // The arguments are JSON in a string.
                let args = text(input, "tool_input")?;
                let args = Json::parse(args.as_bytes()).map_err(|error| format!("tool_input: {error}"))?;
                if args.as_object().is_none() {
                    return Err(format!("tool_input: expected an object, found {}", args.kind()));
                }
                Ok(Call { tool: text(input, "tool_name")?.to_owned(), args })
            }
            (_, other) => Err(format!("hook_event_name: {other:?} is not the start of a tool call")),
        }
    }

    /// Writes an answer.
    pub(crate) fn write(self, answer: &Answer) -> Json {
        let (word, reason) = match answer {
            Answer::Allow => ("allow", None),
            Answer::Deny(reason) => ("deny", Some(Json::from(&**reason))),
        };
        match self {
            Self::ClaudeCode | Self::Codex => {
                let output = [
                    ("hookEventName", Some(Json::from("PreToolUse"))),
                    ("permissionDecision", Some(Json::from(word))),
                    ("permissionDecisionReason", reason),
                ];
                json::object([("hookSpecificOutput", Some(json::object(output)))])
            }
            Self::Cursor => json::object([
                ("permission", Some(Json::from(word))),
                ("user_message", reason.clone()),
                ("agent_message", reason),
            ]),
        }
    }
}

fn text<'j>(input: &'j Json, name: &str) -> Result<&'j str, String> {
    match input.member(name).map(Json::as_str) {
        Some(Some(text)) if !text.is_empty() => Ok(text),
        Some(Some(_) | None) | None => Err(format!("{name}: expected a non-empty string")),
    }
}

fn object(input: &Json, name: &str) -> Result<Json, String> {
    match input.member(name) {
        Some(object @ Json::Object(_)) => Ok(object.clone()),
        Some(Json::Array(_) | Json::Bool(_) | Json::Null | Json::Number(_) | Json::String(_)) | None => {
            Err(format!("{name}: expected an object"))
        }
    }
}
