//! Errors as JSON texts. The TypeScript layer creates its exceptions from them.

use actpass_core::json::{JsonWriter, Style};
use actpass_core::{Error, ErrorKind};

/// The JSON text of `error`.
pub fn describe(error: &Error) -> String {
    let mut text = JsonWriter::new(Style::Compact);
    text.raw("{");
    let mut members = 0;
    let mut string = |text: &mut JsonWriter, key: &str, value: &str| {
        text.comma(members);
        text.key(key);
        text.string(value);
        members += 1;
    };
    string(&mut text, "name", error.kind().class_name());
    string(&mut text, "message", &message(error));
    string(&mut text, "code", error.code());
    string(&mut text, "kind", error.kind().name());
    if let Some(body) = error.body() {
        string(&mut text, "body", body);
    }
    if let Some(operation) = error.operation() {
        string(&mut text, "operation", operation.name());
    }
    if let Some(id) = error.request_id() {
        string(&mut text, "requestId", id);
    }
    text.raw(&format!(r#","retryable":{}"#, error.is_retryable()));
    if let Some(status) = error.status() {
        text.raw(&format!(r#","status":{status}"#));
    }
    if let Some(wait) = error.retry_after() {
        text.raw(&format!(r#","retryAfterMs":{}"#, wait.as_millis()));
    }
    text.raw(r#","causes":["#);
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    for (at, cause) in causes.enumerate() {
        text.comma(at);
        text.string(&cause.to_string());
    }
    text.raw("]}");
    text.into_string()
}

/// The core names settings and arguments by wire name; TypeScript by its own.
fn message(error: &Error) -> String {
    let message = error.to_string();
    if !matches!(error.kind(), ErrorKind::Argument | ErrorKind::Config) {
        return message;
    }
    let end = message.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(message.len());
    let (member, rest) = message.split_at(end);
    // The rest of a path belongs to the caller and is unchanged.
    match rest.chars().next() {
        Some(':' | '.' | '[') => {
            let rest = rest.replace("danger_allow_insecure_http", "dangerAllowInsecureHttp");
            format!("{}{rest}", camel_case(member))
        }
        Some(_) | None => message,
    }
}

/// Converts a name of the core to TypeScript's spelling.
pub fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let mut spelled = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        spelled.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        spelled.push_str(letters.as_str());
    }
    spelled
}
