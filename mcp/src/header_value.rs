//! Values of the headers that repeat members of a message: 2026-07-28.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;

const PREFIX: &str = "=?base64?";
const SUFFIX: &str = "?=";

/// The header value of `text`: unchanged, or encoded if it is not plain ASCII.
pub(crate) fn encode(text: &str) -> HeaderValue {
    let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
        && text.trim() == text
        && !text.is_empty()
        && !(text.starts_with(PREFIX) && text.ends_with(SUFFIX));
    let encoded = || format!("{PREFIX}{}{SUFFIX}", STANDARD.encode(text));
    let value = if is_plain { text.to_owned() } else { encoded() };
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// The text of a header value; `None` if it is invalid.
pub(crate) fn decode(value: &str) -> Option<String> {
    match value.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX)) {
        Some(encoded) => String::from_utf8(STANDARD.decode(encoded).ok()?).ok(),
        None => Some(value.to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn encodes_as_the_protocol_lists() {
        for (text, expected) in [
            ("us-west1", "us-west1"),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ] {
            let value = encode(text);
            assert_eq!(value.to_str().unwrap(), expected);
            assert_eq!(decode(value.to_str().unwrap()).as_deref(), Some(text));
        }
        assert_eq!(decode("=?base64?%?="), None);
    }
}
