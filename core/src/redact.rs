//! Redacts secrets in response bodies that errors show.

use actpass_protocol::json::MAX_DEPTH;
use actpass_protocol::{Json, Secret};

/// The longest body that an error keeps: 64 KiB.
const MAX_BODY_KEPT: usize = 64 * 1024;
const REDACTED: &str = "[redacted]";

/// A non-2xx response body for an error, without the known `secrets` and without any `credential`
/// member. `None` if a secret cannot be ruled out.
pub(crate) fn body(body: &[u8], secrets: &[&Secret]) -> Option<String> {
    if body.is_empty() || body.len() > MAX_BODY_KEPT {
        return None;
    }
    let found = match Json::parse(body) {
        Ok(mut value) => match redact_json(&mut value, secrets, MAX_DEPTH) {
            true => value.to_string(),
            false => String::from_utf8_lossy(body).into_owned(),
        },
        // Unreadable text could hide a credential behind an escape.
        Err(_) => {
            let found = String::from_utf8_lossy(body).into_owned();
            if found.contains('\\') || found.to_ascii_lowercase().contains("credential") {
                return None;
            }
            found
        }
    };
    Some(text(&found, secrets))
}

/// `text` without the `secrets`.
pub(crate) fn text(text: &str, secrets: &[&Secret]) -> String {
    secrets
        .iter()
        .map(|secret| secret.expose())
        .filter(|secret| !secret.is_empty())
        .fold(text.to_owned(), |text, secret| text.replace(secret, REDACTED))
}

/// Redacts every `credential` member, and the `secrets` in keys and strings, however they are
/// escaped. Returns whether it redacted anything.
fn redact_json(value: &mut Json, secrets: &[&Secret], depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else {
        return false;
    };
    match value {
        Json::Array(items) => {
            items.iter_mut().fold(false, |found, item| redact_json(item, secrets, depth) | found)
        }
        Json::Object(members) => members.iter_mut().fold(false, |found, (key, value)| {
            if key.eq_ignore_ascii_case("credential") {
                *value = Json::from(REDACTED);
                return true;
            }
            redact_string(key, secrets) | redact_json(value, secrets, depth) | found
        }),
        Json::String(text) => redact_string(text, secrets),
        Json::Bool(_) | Json::Null | Json::Number(_) => false,
    }
}

fn redact_string(found: &mut String, secrets: &[&Secret]) -> bool {
    let shown = text(found, secrets);
    let hidden = shown != *found;
    *found = shown;
    hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Option<String> {
        body(text.as_bytes(), &[&Secret::new("apk_key"), &Secret::new("eyJ.pass.port")])
    }

    #[test]
    fn redacts_secrets() {
        for text in [
            "you sent apk_key",
            r#"{"error":{"message":"bad key apk_key"}}"#,
            r#"{"decision":"allow","credential":{"token":"s3cret"}}"#,
            r#"{"a":[{"Credential":"s3cret"}],"b":"eyJ.pass.port"}"#,
            r#"{"cred\u0065ntial":{"token":"s3cret"}}"#,
            r#"{"credential":{"token":"s3cret"}"#,
            r#"{"\u0063redential":{"token":"s3cret"}"#,
            r#"{"x":"apk\u005fkey"}"#,
        ] {
            let shown = shown(text).unwrap_or_default();
            for secret in ["apk_key", "s3cret", "eyJ.pass"] {
                assert!(!shown.contains(secret), "{text} gave {shown}");
            }
        }
    }

    #[test]
    fn leaves_other_text_unchanged() {
        for text in ["<h1>Bad gateway</h1>", r#"{ "error" : {"code":"x", "n":1.50} }"#] {
            assert_eq!(shown(text).as_deref(), Some(text));
        }
        assert_eq!(shown(""), None);
        assert_eq!(text("out of order", &[&Secret::new("")]), "out of order");
        assert_eq!(shown(&"x".repeat(MAX_BODY_KEPT + 1)), None);
    }
}
