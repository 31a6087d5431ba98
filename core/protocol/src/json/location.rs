//! Locates errors in a JSON text, as a [path](super::path).

use std::fmt;

use super::path::{Step, path};
use super::read::{MAX_DEPTH, ReadError};
use super::tree::Json;
use crate::error::InvalidArgument;

/// How languages write numbers that JSON does not have.
const NON_FINITE_LITERALS: [(&str, f64); 8] = [
    ("NaN", f64::NAN),
    ("nan", f64::NAN),
    ("Infinity", f64::INFINITY),
    ("infinity", f64::INFINITY),
    ("inf", f64::INFINITY),
    ("-Infinity", f64::NEG_INFINITY),
    ("-infinity", f64::NEG_INFINITY),
    ("-inf", f64::NEG_INFINITY),
];

/// The message for a number that JSON does not have.
///
/// ```
/// use actpass_protocol::json::not_finite;
///
/// assert_eq!(not_finite(f64::NEG_INFINITY), "expected a finite number, found -Infinity");
/// ```
pub fn not_finite(number: f64) -> String {
    let name = match number {
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => "NaN",
    };
    format!("expected a finite number, found {name}")
}

/// Parses the JSON text of the argument `member`.
///
/// # Errors
///
/// For a text that [`read`](crate::json::read) rejects. The message begins with the [`path`] to the
/// problem.
///
/// ```
/// use actpass_protocol::json::parse_argument;
///
/// assert!(parse_argument("args", r#"{"amount": 4900}"#).is_ok());
/// let error = parse_argument("args", r#"{"order": {"prices": [1, 1e999]}}"#).unwrap_err();
/// assert_eq!(error.to_string(), "args.order.prices[1]: expected a number within the range of a double");
/// ```
pub fn parse_argument(member: &str, text: &str) -> Result<Json, InvalidArgument> {
    Json::parse(text.as_bytes()).map_err(|problem| argument_error(member, text, &problem))
}

/// Creates the error for the argument `member`, whose JSON `text` was rejected with `problem`. For
/// readers with their own [`Builder`](crate::json::Builder).
///
/// ```
/// use actpass_protocol::json::{TreeBuilder, argument_error, read};
///
/// let text = r#"{"tags": ["a", NaN]}"#;
/// let problem = read(text.as_bytes(), &mut TreeBuilder).unwrap_err();
/// let error = argument_error("metadata", text, &problem);
/// assert_eq!(error.to_string(), "metadata.tags[1]: expected a finite number, found NaN");
/// ```
pub fn argument_error<E: fmt::Display>(member: &str, text: &str, problem: &ReadError<E>) -> InvalidArgument {
    let at = match problem {
        ReadError::Builder(_) => return InvalidArgument::new(member, problem),
        ReadError::DuplicateKey(_, at)
        | ReadError::NumberOutOfRange(at)
        | ReadError::Syntax(_, at)
        | ReadError::TooDeep(at) => *at,
    };
    let location = Location::of(text, at);
    let path = path(member, &location.steps());
    let token = text.get(location.token..).unwrap_or_default();
    let token = token.split([',', '}', ']']).next().unwrap_or_default().trim();
    let not_a_number = NON_FINITE_LITERALS.iter().find(|(name, _)| *name == token);
    match (problem, not_a_number) {
        (ReadError::DuplicateKey(..), _) => {
            InvalidArgument::new(&path, "expected unique keys, found a duplicate")
        }
        (ReadError::TooDeep(_), _) => {
            InvalidArgument::new(&path, format_args!("nested deeper than {MAX_DEPTH} levels"))
        }
        (ReadError::NumberOutOfRange(_), _) => {
            InvalidArgument::new(&path, "expected a number within the range of a double")
        }
        (ReadError::Syntax(..), Some((_, number))) => InvalidArgument::new(&path, not_finite(*number)),
        (ReadError::Syntax(..), None) if token.contains(r"\ud") => {
            InvalidArgument::new(&path, "expected text in Unicode, found a lone surrogate")
        }
        (ReadError::Builder(_) | ReadError::Syntax(..), _) => InvalidArgument::new(&path, problem),
    }
}

/// The location of a byte in a JSON text.
#[derive(Default)]
struct Location {
    open: Vec<Container>,
    /// The start of the value, or of its key.
    token: usize,
}

/// An array or object that is open at the location.
enum Container {
    Array(usize),
    /// `None` until its key is read.
    Object(Option<String>),
}

impl Location {
    /// Parses `text`, which is valid JSON up to the byte `at`.
    fn of(text: &str, at: usize) -> Self {
        let bytes = text.as_bytes();
        let mut location = Self::default();
        let mut next = 0;
        while let Some(byte) = bytes.get(next).filter(|_| next < at) {
            match byte {
                b'{' => location.open.push(Container::Object(None)),
                b'[' => location.open.push(Container::Array(0)),
                b'}' | b']' => drop(location.open.pop()),
                b',' => match location.open.last_mut() {
                    Some(Container::Array(index)) => *index += 1,
                    Some(Container::Object(name)) => *name = None,
                    None => {}
                },
                b'"' => {
                    let end = end_of_string(bytes, next);
                    if end > at {
                        location.token = next;
                        return location;
                    }
                    if let Some(Container::Object(name @ None)) = location.open.last_mut() {
                        let key = text.get(next..end).and_then(|key| Json::parse(key.as_bytes()).ok());
                        *name = key.as_ref().and_then(Json::as_str).map(str::to_owned);
                    }
                    next = end;
                    location.token = next;
                    continue;
                }
                _ => {
                    next += 1;
                    continue;
                }
            }
            next += 1;
            location.token = next;
        }
        // Skip the colon between key and value.
        if let Some(rest) = text.get(location.token..) {
            location.token += rest.len() - rest.trim_start_matches([':', ' ']).len();
        }
        location
    }

    fn steps(&self) -> Vec<Step> {
        let step = |container: &Container| match container {
            Container::Array(index) => Some(Step::Index(*index)),
            Container::Object(name) => name.clone().map(Step::Key),
        };
        self.open.iter().filter_map(step).collect()
    }
}

/// The byte after the string that begins at `start`.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut next = start + 1;
    while let Some(byte) = bytes.get(next) {
        next += match byte {
            b'"' => return next + 1,
            b'\\' => 2,
            _ => 1,
        };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locates_parse_errors() {
        for (text, expected) in [
            ("nan", "m: expected a finite number, found NaN"),
            ("[1, Infinity]", "m[1]: expected a finite number, found Infinity"),
            (r#"{"a": "}],nan", "b": -inf}"#, "m.b: expected a finite number, found -Infinity"),
            (r#"{"a b": [[], 1e999]}"#, r#"m["a b"][1]: expected a number within the range of a double"#),
            (r#"{"a": {"b": "\ud800"}}"#, "m.a.b: expected text in Unicode, found a lone surrogate"),
            (r#"{"a": {"\udc00": 1}}"#, "m.a: expected text in Unicode, found a lone surrogate"),
            (r#"[{"k": 1, "k": 2}]"#, "m[0].k: expected unique keys, found a duplicate"),
            (r#"{"a": [tru]}"#, "m.a[0]: not JSON: "),
            ("{", "m: not JSON: "),
            ("", "m: not JSON: "),
        ] {
            let error = parse_argument("m", text).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{text}: {error}");
        }
        let mut many: Vec<String> = (0..40).map(|n| format!("\"k{n}\": {n}")).collect();
        many.push("\"k7\" : 0".to_owned());
        let error = parse_argument("m", &format!("[{{{}}}]", many.join(","))).unwrap_err();
        assert_eq!(error.to_string(), "m[0].k7: expected unique keys, found a duplicate");
        let deep = "[".repeat(MAX_DEPTH + 1);
        let error = parse_argument("m", &deep).unwrap_err();
        assert_eq!(error.to_string(), format!("m{}…: nested deeper than 128 levels", "[0]".repeat(8)));
    }
}
