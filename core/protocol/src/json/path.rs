//! Paths to a value in error messages, the same in every language: `args.order.items[2]`.
//!
//! A path begins with the member of the call. An array index follows as `[2]`. A key of at most 64
//! letters, digits, `_` and `-` follows as `.key`; any other key as a JSON string, `["a b"]`, with
//! non-printing characters escaped and truncated to 64 characters. After eight steps the path ends
//! with `…`. A message is therefore one short line for any keys, and never contains a value.

use std::fmt::Write as _;

/// Paths are truncated after this many steps.
const MAX_STEPS: usize = 8;
/// Keys are truncated after this many characters.
const MAX_KEY: usize = 64;

/// One step from a JSON value to a part of it; see [`path`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// An item of an array, counted from 0.
    Index(usize),
    /// A member of an object.
    Key(String),
}

/// Formats the path from `member`, an argument of a call, along `steps`, outermost first.
///
/// A key that is not a name of at most 64 letters, digits, `_` and `-` is quoted, escaped and
/// truncated. A path of more than eight steps is truncated.
/// eight steps is cut.
///
/// ```
/// use actpass_protocol::json::{Step, path};
///
/// let key = |name: &str| Step::Key(name.to_owned());
/// assert_eq!(path("args", &[key("orders"), Step::Index(3), key("unit-price")]), "args.orders[3].unit-price");
/// assert_eq!(path("args", &[key("line\nbreak")]), r#"args["line\nbreak"]"#);
/// assert_eq!(path("payload", &[]), "payload");
/// ```
pub fn path<'s>(member: &str, steps: impl IntoIterator<Item = &'s Step>) -> String {
    let mut path = member.to_owned();
    for (count, step) in steps.into_iter().enumerate() {
        if count == MAX_STEPS {
            path.push('…');
            break;
        }
        match step {
            Step::Index(at) => path.extend(["[", &at.to_string(), "]"]),
            Step::Key(key) if is_name(key) => path.extend([".", key]),
            Step::Key(key) => path.extend(["[", &quoted(key), "]"]),
        }
    }
    path
}

fn is_name(key: &str) -> bool {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    !key.is_empty() && key.chars().all(is_plain) && key.chars().nth(MAX_KEY).is_none()
}

/// Formats a key as a JSON string, truncated if it is long.
pub(super) fn quoted(key: &str) -> String {
    let mut text = String::from('"');
    for (count, c) in key.chars().enumerate() {
        if count == MAX_KEY {
            text.push('…');
            break;
        }
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            // `escape_debug` decides which characters print; the notation is JSON's.
            c if c == '\'' || c.escape_debug().len() == 1 => text.push(c),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    let _ = write!(text, "\\u{unit:04x}");
                }
            }
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: impl Into<String>) -> Step {
        Step::Key(name.into())
    }

    #[test]
    fn formats_plain_keys_and_indices() {
        for (steps, expected) in [
            (vec![], "args"),
            (vec![Step::Index(3)], "args[3]"),
            (vec![key("order"), key("x")], "args.order.x"),
            (vec![key("content-type"), key("_id"), key("1st")], "args.content-type._id.1st"),
            (vec![key("größe"), Step::Index(0)], "args.größe[0]"),
        ] {
            assert_eq!(path("args", &steps), expected);
        }
        let longest = "k".repeat(MAX_KEY);
        assert_eq!(path("args", &[key(&longest)]), format!("args.{longest}"));
    }

    #[test]
    fn quotes_escapes_and_truncates_other_keys() {
        for (name, expected) in [
            ("", r#"args[""]"#),
            ("a b", r#"args["a b"]"#),
            ("a.b", r#"args["a.b"]"#),
            ("it's", r#"args["it's"]"#),
            ("$ref", r#"args["$ref"]"#),
            ("say \"hi\" \\", r#"args["say \"hi\" \\"]"#),
            ("a\nb\r\t\0", r#"args["a\nb\r\t\u0000"]"#),
            ("\u{1b}[31m", r#"args["\u001b[31m"]"#),
            ("\u{202e}\u{200b}\u{2028}", r#"args["\u202e\u200b\u2028"]"#),
            ("\u{e0001}", r#"args["\udb40\udc01"]"#),
            ("naïve 😀", r#"args["naïve 😀"]"#),
        ] {
            assert_eq!(path("args", &[key(name)]), expected);
        }
        let long = "k".repeat(MAX_KEY + 1);
        assert_eq!(path("args", &[key(&long)]), format!("args[\"{}…\"]", "k".repeat(MAX_KEY)));
    }

    #[test]
    fn truncates_long_paths() {
        let steps = |count| vec![Step::Index(7); count];
        assert_eq!(path("p", &steps(MAX_STEPS)), format!("p{}", "[7]".repeat(MAX_STEPS)));
        assert_eq!(path("p", &steps(MAX_STEPS + 1)), format!("p{}…", "[7]".repeat(MAX_STEPS)));
    }
}
