//! Canonical JSON (RFC 8785, JCS).

use std::cmp::Ordering;
use std::fmt;

use serde::ser::{Error as _, Serialize, SerializeMap, SerializeSeq, Serializer};

use super::MAX_SAFE_INTEGER;
use super::number::Number;
use super::path::{Step, path};
use super::tree::Json;
use super::write::JsonWriter;

impl Json {
    /// Appends the canonical form to `out`, which is compact. The error names the value without a
    /// canonical form, and its path.
    pub fn write_canonical(&self, out: &mut JsonWriter) -> Result<(), NotCanonical> {
        match self {
            Self::Array(items) => {
                out.raw("[");
                for (at, item) in items.iter().enumerate() {
                    out.comma(at);
                    item.write_canonical(out).map_err(|error| error.within(Step::Index(at)))?;
                }
                out.raw("]");
            }
            Self::Number(number) => number.write_canonical(out).map_err(NotCanonical::new)?,
            Self::Object(members) => {
                let mut sorted: Vec<_> = members.iter().collect();
                sorted.sort_unstable_by(|(a, _), (b, _)| by_utf16(a, b));
                if sorted.windows(2).any(|pair| matches!(pair, [(a, _), (b, _)] if a == b)) {
                    return Err(NotCanonical::new("duplicate object key".to_owned()));
                }
                out.raw("{");
                for (at, (key, value)) in sorted.into_iter().enumerate() {
                    out.comma(at);
                    out.key(key);
                    value.write_canonical(out).map_err(|error| error.within(Step::Key(key.clone())))?;
                }
                out.raw("}");
            }
            Self::Bool(_) | Self::Null | Self::String(_) => self.write(out),
        }
        Ok(())
    }
}

impl Number {
    fn write_canonical(&self, out: &mut JsonWriter) -> Result<(), String> {
        if !self.is_integer() {
            let text =
                serde_json_canonicalizer::to_string(&self.as_f64()).map_err(|error| error.to_string())?;
            out.raw(&text);
            return Ok(());
        }
        // All exact integers of a double are written as read, except negative zero.
        match self.as_safe_integer().ok_or_else(|| self.not_canonical())? {
            0 => out.raw("0"),
            _ => out.raw(self.as_str()),
        }
        Ok(())
    }

    fn not_canonical(&self) -> String {
        format!("the integer {self} is beyond ±(2^53-1) and has no canonical form")
    }

    /// The double that canonical JSON writes; `None` for an integer beyond a double's precision.
    fn as_canonical(&self) -> Option<f64> {
        if !self.is_integer() {
            return Some(self.as_f64());
        }
        self.as_safe_integer().map(|_| self.as_f64())
    }

    /// The integer value, if a double represents it exactly.
    fn as_safe_integer(&self) -> Option<i64> {
        self.as_str().parse().ok().filter(|value| (-MAX_SAFE_INTEGER..=MAX_SAFE_INTEGER).contains(value))
    }
}

/// Why a value has no canonical form.
#[derive(Debug)]
pub struct NotCanonical {
    /// The path from the value to the number, innermost first.
    steps: Vec<Step>,
    problem: String,
}

impl NotCanonical {
    fn new(problem: String) -> Self {
        Self { steps: Vec::new(), problem }
    }

    fn within(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// The path within the argument `member`, such as `args.ids[2]`.
    pub fn path_from(&self, member: &str) -> String {
        path(member, self.steps.iter().rev())
    }

    /// The path within the value, such as `args.ids[2]`; empty for the value itself.
    pub fn path(&self) -> String {
        self.path_from("").trim_start_matches('.').to_owned()
    }

    /// The problem without the path.
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

/// One line: the path, if any, and the problem.
impl fmt::Display for NotCanonical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path().as_str() {
            "" => f.write_str(&self.problem),
            path => write!(f, "{path}: {}", self.problem),
        }
    }
}

/// The member order of canonical JSON. UTF-8 order differs only for surrogate pairs.
fn by_utf16(a: &str, b: &str) -> Ordering {
    match a.is_ascii() && b.is_ascii() {
        true => a.cmp(b),
        false => a.encode_utf16().cmp(b.encode_utf16()),
    }
}

/// Serializes the value for canonical JSON. An integer beyond ±([`MAX_SAFE_INTEGER`]) is an error,
/// because a double cannot represent it.
impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Array(items) => {
                let mut sequence = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    sequence.serialize_element(item)?;
                }
                sequence.end()
            }
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Null => serializer.serialize_unit(),
            Self::Number(number) => match number.as_canonical() {
                Some(value) => serializer.serialize_f64(value),
                None => Err(S::Error::custom(number.not_canonical())),
            },
            Self::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (key, value) in members {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
            Self::String(text) => serializer.serialize_str(text),
        }
    }
}
