//! The JSON tree.

use std::cmp::Ordering;
use std::fmt;

use super::number::Number;
use super::read::{Builder, ReadError, read};
use super::write::{JsonWriter, Style};

/// A JSON value that preserves member order and number text.
///
/// Two values are equal if their texts without white space are; [`Json::same_value`] compares
/// numbers by value.
///
/// ```
/// use actpass_protocol::Json;
///
/// let args = Json::parse(br#"{"amount": 4900, "rate": 1.50}"#).unwrap();
/// assert_eq!(args.member("rate").unwrap().to_string(), "1.50");
/// assert!(args.same_value(&Json::from(serde_json::json!({"rate": 1.5, "amount": 4900}))));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    /// `[..]`
    Array(Vec<Json>),
    /// `true` or `false`
    Bool(bool),
    /// `null`
    Null,
    /// A number, as text.
    Number(Number),
    /// `{..}`: members in document order, with unique keys.
    Object(Vec<(String, Json)>),
    /// `".."`
    String(String),
}

impl Json {
    /// Parses a JSON text.
    ///
    /// # Errors
    ///
    /// As [`read`].
    pub fn parse(text: &[u8]) -> Result<Self, ReadError<std::convert::Infallible>> {
        read(text, &mut TreeBuilder)
    }

    /// Returns the member `name` of an object; `None` for other values.
    pub fn member(&self, name: &str) -> Option<&Json> {
        self.as_object()?.iter().find_map(|(key, value)| (key == name).then_some(value))
    }

    /// The members, if it is an object.
    pub fn as_object(&self) -> Option<&[(String, Json)]> {
        match self {
            Self::Object(members) => Some(members),
            Self::Array(_) | Self::Bool(_) | Self::Null | Self::Number(_) | Self::String(_) => None,
        }
    }

    /// The text, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            Self::Array(_) | Self::Bool(_) | Self::Null | Self::Number(_) | Self::Object(_) => None,
        }
    }

    /// Whether both are the same value. Numbers are compared exactly by value (`1`, `1.0` and
    /// `10e-1` are equal), objects regardless of member order.
    ///
    /// ```
    /// use actpass_protocol::Json;
    ///
    /// let parse = |text: &str| Json::parse(text.as_bytes()).unwrap();
    /// assert!(parse("[1, {}]").same_value(&parse("[1.0, {}]")));
    /// assert!(!parse("9007199254740993").same_value(&parse("9007199254740992")));
    /// assert!(!parse("1").same_value(&parse("\"1\"")));
    /// ```
    pub fn same_value(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a.compare(b) == Ordering::Equal,
            (Self::Array(a), Self::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same_value(b))
            }
            (Self::Object(a), Self::Object(b)) => {
                a.len() == b.len()
                    && a.iter()
                        .all(|(key, value)| other.member(key).is_some_and(|found| value.same_value(found)))
            }
            (Self::Array(_), _)
            | (Self::Bool(_), _)
            | (Self::Null, _)
            | (Self::Number(_), _)
            | (Self::Object(_), _)
            | (Self::String(_), _) => self == other,
        }
    }

    /// The JSON type with its article, for messages: `"an object"`, `"a number"`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Array(_) => "an array",
            Self::Bool(_) => "a boolean",
            Self::Null => "null",
            Self::Number(_) => "a number",
            Self::Object(_) => "an object",
            Self::String(_) => "a string",
        }
    }

    /// Appends the JSON text to `out`, in its style.
    pub fn write(&self, out: &mut JsonWriter) {
        match self {
            Self::Array(items) => {
                out.raw("[");
                for (at, item) in items.iter().enumerate() {
                    out.comma(at);
                    item.write(out);
                }
                out.raw("]");
            }
            Self::Bool(true) => out.raw("true"),
            Self::Bool(false) => out.raw("false"),
            Self::Null => out.raw("null"),
            Self::Number(number) => out.raw(number.as_str()),
            Self::Object(members) => {
                out.raw("{");
                for (at, (key, value)) in members.iter().enumerate() {
                    out.comma(at);
                    out.key(key);
                    value.write(out);
                }
                out.raw("}");
            }
            Self::String(text) => out.string(text),
        }
    }
}

/// The compact JSON text.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = JsonWriter::new(Style::Compact);
        self.write(&mut out);
        f.write_str(out.as_str())
    }
}

/// Builds an object from the members with a value.
///
/// ```
/// use actpass_protocol::Json;
/// use actpass_protocol::json::object;
///
/// let built = object([("a", Some(Json::from("b"))), ("c", None)]);
/// assert_eq!(built.to_string(), r#"{"a":"b"}"#);
/// ```
pub fn object<const N: usize>(members: [(&str, Option<Json>); N]) -> Json {
    Json::Object(members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<serde_json::Value> for Json {
    fn from(value: serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(value) => Self::Bool(value),
            serde_json::Value::Number(number) => Self::Number(Number::of(&number.to_string())),
            serde_json::Value::String(text) => Self::String(text),
            serde_json::Value::Array(items) => Self::Array(items.into_iter().map(Self::from).collect()),
            serde_json::Value::Object(members) => {
                Self::Object(members.into_iter().map(|(key, value)| (key, Self::from(value))).collect())
            }
        }
    }
}

/// Builds a [`Json`] tree; see [`read`].
///
/// ```
/// use actpass_protocol::json::{TreeBuilder, read};
///
/// assert_eq!(read(b"[1, null]", &mut TreeBuilder).unwrap().to_string(), "[1,null]");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct TreeBuilder;

impl Builder for TreeBuilder {
    type Value = Json;
    type Key = String;
    type Error = std::convert::Infallible;

    fn null(&mut self) -> Result<Json, Self::Error> {
        Ok(Json::Null)
    }

    fn bool(&mut self, value: bool) -> Result<Json, Self::Error> {
        Ok(Json::Bool(value))
    }

    fn number(&mut self, text: &str) -> Result<Json, Self::Error> {
        Ok(Json::Number(Number::of(text)))
    }

    fn string(&mut self, text: &str) -> Result<Json, Self::Error> {
        Ok(Json::String(text.to_owned()))
    }

    fn array(&mut self, items: Vec<Json>) -> Result<Json, Self::Error> {
        Ok(Json::Array(items))
    }

    fn key(&mut self, text: &str) -> String {
        text.to_owned()
    }

    fn object(&mut self, members: Vec<(String, Json)>) -> Result<Json, Self::Error> {
        Ok(Json::Object(members))
    }
}
