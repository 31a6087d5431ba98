//! JSON as this protocol needs it: nothing is lost, nothing is guessed.
//!
//! [`read`] accepts exactly RFC 8259, and refuses besides what two parsers could understand differently: a key given
//! twice in an object (however it is escaped), nesting past [`MAX_DEPTH`], a lone surrogate, a number beyond the
//! range of a double. Numbers keep their text, so an integer of any length and a float arrive as they were sent.
//!
//! A reader brings its own [`Builder`], so a binding makes its language's objects straight from the bytes, without a
//! tree between. [`Json`] is the tree for those who want one.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use jiter::{Jiter, JiterError, Peek};
use serde::ser::{Error as _, Serialize, SerializeMap, SerializeSeq, Serializer};
use zeroize::Zeroize;

/// How many arrays and objects may be open at once: 128.
pub const MAX_DEPTH: usize = 128;

/// The largest integer that every JSON implementation carries exactly: 2^53 - 1.
pub const MAX_SAFE_INTEGER: i64 = (1 << 53) - 1;

/// Reads one JSON document from `text`, making its values with `builder`.
///
/// # Errors
///
/// [`ReadError::Syntax`] for what is not a JSON text of one value in UTF-8; the other variants for the limits named
/// in the [module documentation](self); [`ReadError::Builder`] for what the builder itself reported.
///
/// ```
/// use actpass_core::json::{read, TreeBuilder};
///
/// let tree = read(br#"{"amount": 4900}"#, &mut TreeBuilder)?;
/// assert_eq!(tree.member("amount").unwrap().to_string(), "4900");
/// assert!(read(br#"{"decision": "deny", "decis\u0069on": "allow"}"#, &mut TreeBuilder).is_err());
/// # Ok::<(), actpass_core::json::ReadError<std::convert::Infallible>>(())
/// ```
pub fn read<B: Builder>(text: &[u8], builder: &mut B) -> Result<B::Value, ReadError<B::Error>> {
    read_below(text, builder, 0)
}

/// As [`read`], for a text that will stand inside `depth` other arrays and objects.
pub(crate) fn read_below<B: Builder>(
    text: &[u8],
    builder: &mut B,
    depth: usize,
) -> Result<B::Value, ReadError<B::Error>> {
    let mut reader = Reader { input: Jiter::new(text), builder };
    let first = reader.input.peek()?;
    let value = reader.value(first, depth)?;
    reader.input.finish()?;
    Ok(value)
}

/// Makes the values of a JSON document; see [`read`].
///
/// Calls come depth first: the members of an object before [`Builder::object`].
///
/// ```
/// use actpass_core::json::{Builder, read};
/// use std::convert::Infallible;
///
/// /// Counts the numbers of a document.
/// struct Numbers;
///
/// impl Builder for Numbers {
///     type Value = usize;
///     type Error = Infallible;
///     fn null(&mut self) -> Result<usize, Infallible> { Ok(0) }
///     fn bool(&mut self, _: bool) -> Result<usize, Infallible> { Ok(0) }
///     fn number(&mut self, _: &str) -> Result<usize, Infallible> { Ok(1) }
///     fn string(&mut self, _: &str) -> Result<usize, Infallible> { Ok(0) }
///     fn array(&mut self, items: Vec<usize>) -> Result<usize, Infallible> { Ok(items.iter().sum()) }
///     fn object(&mut self, members: Vec<(String, usize)>) -> Result<usize, Infallible> {
///         Ok(members.iter().map(|(_, count)| count).sum())
///     }
/// }
///
/// assert_eq!(read(br#"{"amount": 4900, "tags": ["a", 7]}"#, &mut Numbers), Ok(2));
/// ```
pub trait Builder {
    /// What a JSON value becomes.
    type Value;
    /// What can go wrong in making one; [`std::convert::Infallible`] if nothing can.
    type Error;

    /// Makes `null`.
    fn null(&mut self) -> Result<Self::Value, Self::Error>;
    /// Makes `true` or `false`.
    fn bool(&mut self, value: bool) -> Result<Self::Value, Self::Error>;
    /// Makes a number from its text, which is in JSON's grammar and within the range of a double.
    fn number(&mut self, text: &str) -> Result<Self::Value, Self::Error>;
    /// Makes a string.
    fn string(&mut self, text: &str) -> Result<Self::Value, Self::Error>;
    /// Makes an array.
    fn array(&mut self, items: Vec<Self::Value>) -> Result<Self::Value, Self::Error>;
    /// Makes an object of members in the order they came; no key comes twice.
    fn object(&mut self, members: Vec<(String, Self::Value)>) -> Result<Self::Value, Self::Error>;
}

/// Why a text is not a JSON document; see [`read`].
///
/// ```
/// use actpass_core::Json;
/// use actpass_core::json::ReadError;
///
/// assert_eq!(Json::parse(br#"{"a": 1, "a": 2}"#), Err(ReadError::DuplicateKey("a".to_owned())));
/// assert_eq!(Json::parse(b"1e999"), Err(ReadError::NumberOutOfRange(0)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError<E> {
    /// The builder's own error.
    Builder(E),
    /// A key stands twice in one object.
    DuplicateKey(String),
    /// A number is beyond the range of a double, at this byte offset.
    NumberOutOfRange(usize),
    /// Not JSON: what the parser found, at which byte offset.
    Syntax(String, usize),
    /// More than [`MAX_DEPTH`] arrays and objects are open at this byte offset.
    TooDeep(usize),
}

impl<E: fmt::Display> fmt::Display for ReadError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builder(error) => error.fmt(f),
            Self::DuplicateKey(key) => write!(f, "the key {key:?} is given twice in one object"),
            Self::NumberOutOfRange(at) => {
                write!(f, "the number at byte {at} is beyond the range of a double")
            }
            Self::Syntax(what, at) => write!(f, "not JSON: {what} at byte {at}"),
            Self::TooDeep(at) => write!(f, "nested past {MAX_DEPTH} levels at byte {at}"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for ReadError<E> {}

impl<E> From<JiterError> for ReadError<E> {
    fn from(error: JiterError) -> Self {
        Self::Syntax(error.error_type.to_string(), error.index)
    }
}

struct Reader<'t, 'b, B> {
    input: Jiter<'t>,
    builder: &'b mut B,
}

impl<B: Builder> Reader<'_, '_, B> {
    fn value(&mut self, peek: Peek, depth: usize) -> Result<B::Value, ReadError<B::Error>> {
        let built = match peek {
            Peek::Null => {
                self.input.known_null()?;
                self.builder.null()
            }
            Peek::True | Peek::False => {
                let value = self.input.known_bool(peek)?;
                self.builder.bool(value)
            }
            Peek::String => self.builder.string(self.input.known_str()?),
            Peek::Array => return self.array(depth + 1),
            Peek::Object => return self.object(depth + 1),
            _ => {
                let at = self.input.current_index();
                let text = str::from_utf8(self.input.known_number_bytes(peek)?)
                    .map_err(|_| ReadError::Syntax("invalid number".to_owned(), at))?;
                if !fits_a_double(text) {
                    return Err(ReadError::NumberOutOfRange(at));
                }
                self.builder.number(text)
            }
        };
        built.map_err(ReadError::Builder)
    }

    fn array(&mut self, depth: usize) -> Result<B::Value, ReadError<B::Error>> {
        self.check_depth(depth)?;
        let mut items = Vec::new();
        let mut next = self.input.known_array()?;
        while let Some(peek) = next {
            items.push(self.value(peek, depth)?);
            next = self.input.array_step()?;
        }
        self.builder.array(items).map_err(ReadError::Builder)
    }

    fn object(&mut self, depth: usize) -> Result<B::Value, ReadError<B::Error>> {
        self.check_depth(depth)?;
        let mut members: Vec<(String, B::Value)> = Vec::new();
        let mut keys = Keys::default();
        let mut next = self.input.known_object()?.map(str::to_owned);
        while let Some(key) = next {
            if keys.seen(&key, &members) {
                return Err(ReadError::DuplicateKey(key));
            }
            let peek = self.input.peek()?;
            let value = self.value(peek, depth)?;
            members.push((key, value));
            next = self.input.next_key()?.map(str::to_owned);
        }
        self.builder.object(members).map_err(ReadError::Builder)
    }

    fn check_depth(&self, depth: usize) -> Result<(), ReadError<B::Error>> {
        match depth > MAX_DEPTH {
            true => Err(ReadError::TooDeep(self.input.current_index())),
            false => Ok(()),
        }
    }
}

/// Finds a repeated key: by looking at each in a small object, by a set in a large one.
#[derive(Default)]
struct Keys(HashSet<String>);

impl Keys {
    const SMALL: usize = 16;

    fn seen<V>(&mut self, key: &str, members: &[(String, V)]) -> bool {
        if members.len() < Self::SMALL {
            return members.iter().any(|(known, _)| known == key);
        }
        if self.0.is_empty() {
            self.0.extend(members.iter().map(|(known, _)| known.clone()));
        }
        !self.0.insert(key.to_owned())
    }
}

fn fits_a_double(text: &str) -> bool {
    // 300 digits stay below 1e308, so only longer texts and those with an exponent need the conversion.
    if text.len() <= 300 && !text.contains(['e', 'E']) {
        return true;
    }
    text.parse::<f64>().is_ok_and(f64::is_finite)
}

/// A JSON value that keeps everything: the order of members, the text of numbers.
///
/// Two values are equal when their texts without white space are; [`Json::same_value`] compares numbers as numbers.
///
/// ```
/// use actpass_core::Json;
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
    /// A number, by its text.
    Number(Number),
    /// `{..}`: members in the order they came, no key twice.
    Object(Vec<(String, Json)>),
    /// `".."`
    String(String),
}

impl Json {
    /// Reads a value from its JSON text.
    ///
    /// # Errors
    ///
    /// As [`read`].
    pub fn parse(text: &[u8]) -> Result<Self, ReadError<std::convert::Infallible>> {
        read(text, &mut TreeBuilder)
    }

    /// The member `name` of an object; `None` for anything else.
    pub fn member(&self, name: &str) -> Option<&Json> {
        self.as_object()?.iter().find_map(|(key, value)| (key == name).then_some(value))
    }

    /// The members, if this is an object.
    pub fn as_object(&self) -> Option<&[(String, Json)]> {
        match self {
            Self::Object(members) => Some(members),
            Self::Array(_) | Self::Bool(_) | Self::Null | Self::Number(_) | Self::String(_) => None,
        }
    }

    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            Self::Array(_) | Self::Bool(_) | Self::Null | Self::Number(_) | Self::Object(_) => None,
        }
    }

    /// Whether both are the same value: numbers compare as numbers (`1`, `1.0` and `10e-1` are the same), exactly;
    /// objects without regard to the order of members.
    ///
    /// ```
    /// use actpass_core::Json;
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

    /// What this is called in JSON's words: `"an object"`, `"a number"` and so on, for messages.
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

    pub(crate) fn write(&self, out: &mut Text) {
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

    /// Appends the canonical text to `out`, which is compact; `Err` says why there is none, and where.
    pub(crate) fn write_canonical(&self, out: &mut Text) -> Result<(), NotCanonical> {
        match self {
            Self::Array(items) => {
                out.raw("[");
                for (at, item) in items.iter().enumerate() {
                    out.comma(at);
                    item.write_canonical(out).map_err(|error| error.within(format!("[{at}]")))?;
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
                    value.write_canonical(out).map_err(|error| error.in_member(key))?;
                }
                out.raw("}");
            }
            Self::Bool(_) | Self::Null | Self::String(_) => self.write(out),
        }
        Ok(())
    }
}

/// Why a value has no canonical form.
#[derive(Debug)]
pub(crate) struct NotCanonical {
    /// The steps to the number, such as `.args`, `[2]`; none for the value itself.
    path: String,
    problem: String,
}

impl NotCanonical {
    fn new(problem: String) -> Self {
        Self { path: String::new(), problem }
    }

    fn within(mut self, step: String) -> Self {
        self.path = step + &self.path;
        self
    }

    /// The same problem, of the member `key` of an object.
    pub(crate) fn in_member(self, key: &str) -> Self {
        let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
        match !key.is_empty() && key.chars().all(is_plain) {
            true => self.within(format!(".{key}")),
            false => self.within(format!("[{key:?}]")),
        }
    }

    /// Where in the value, such as `args.ids[2]`; empty for the value itself.
    pub(crate) fn path(&self) -> &str {
        self.path.strip_prefix('.').unwrap_or(&self.path)
    }

    /// The problem without its path.
    pub(crate) fn problem(&self) -> &str {
        &self.problem
    }
}

/// One line: the path, if there is one, and the problem.
impl fmt::Display for NotCanonical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path() {
            "" => f.write_str(&self.problem),
            path => write!(f, "{path}: {}", self.problem),
        }
    }
}

/// The order of members in canonical JSON. UTF-8 has the same but beside surrogates.
fn by_utf16(a: &str, b: &str) -> Ordering {
    match a.is_ascii() && b.is_ascii() {
        true => a.cmp(b),
        false => a.encode_utf16().cmp(b.encode_utf16()),
    }
}

/// The compact JSON text.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Text::new(Style::Compact);
        self.write(&mut out);
        f.write_str(out.as_str())
    }
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
            serde_json::Value::Number(number) => Self::Number(Number(number.to_string().into())),
            serde_json::Value::String(text) => Self::String(text),
            serde_json::Value::Array(items) => Self::Array(items.into_iter().map(Self::from).collect()),
            serde_json::Value::Object(members) => {
                Self::Object(members.into_iter().map(|(key, value)| (key, Self::from(value))).collect())
            }
        }
    }
}

/// Serializes as the same value, for canonical JSON: an integer beyond ±([`MAX_SAFE_INTEGER`]) is an error, because
/// a double cannot carry it.
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

/// A JSON number, kept as the text it came in.
///
/// ```
/// use actpass_core::json::Number;
///
/// assert_eq!(Number::try_from(1e21)?.as_str(), "1e21");
/// assert!(Number::from(4900).is_integer() && !Number::try_from(4900.0)?.is_integer());
/// # Ok::<(), actpass_core::json::NotFinite>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Number(Box<str>);

impl Number {
    /// The number as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nearest double; for an integer within ±([`MAX_SAFE_INTEGER`]) it is exact.
    pub fn as_f64(&self) -> f64 {
        // The text is in JSON's grammar and within range, which `read` checked, so this never falls back.
        self.0.parse().unwrap_or(f64::NAN)
    }

    /// Whether the text is an integer's: no fraction and no exponent.
    pub fn is_integer(&self) -> bool {
        !self.0.contains(['.', 'e', 'E'])
    }

    /// Orders two numbers by value, exactly, whatever their length.
    ///
    /// ```
    /// use actpass_core::Json;
    /// use std::cmp::Ordering;
    ///
    /// let number = |text: &str| match Json::parse(text.as_bytes()) {
    ///     Ok(Json::Number(number)) => number,
    ///     other => panic!("{other:?}"),
    /// };
    /// assert_eq!(number("9007199254740993").compare(&number("9007199254740992")), Ordering::Greater);
    /// assert_eq!(number("5e1").compare(&number("50.0")), Ordering::Equal);
    /// ```
    pub fn compare(&self, other: &Self) -> Ordering {
        match (self.0.parse::<i64>(), other.0.parse::<i64>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            _ => Decimal::new(&self.0).cmp(&Decimal::new(&other.0)),
        }
    }

    fn write_canonical(&self, out: &mut Text) -> Result<(), String> {
        if !self.is_integer() {
            let text =
                serde_json_canonicalizer::to_string(&self.as_f64()).map_err(|error| error.to_string())?;
            out.raw(&text);
            return Ok(());
        }
        // A double's exact integers are written as they are read, but for one.
        match self.as_safe_integer().ok_or_else(|| self.not_canonical())? {
            0 => out.raw("0"),
            _ => out.raw(&self.0),
        }
        Ok(())
    }

    fn not_canonical(&self) -> String {
        format!("the integer {self} is beyond ±(2^53-1) and has no canonical form")
    }

    /// The double that canonical JSON writes; `None` for an integer that a double cannot carry.
    fn as_canonical(&self) -> Option<f64> {
        if !self.is_integer() {
            return Some(self.as_f64());
        }
        self.as_safe_integer().map(|_| self.as_f64())
    }

    /// The integer that this is, if a double carries it.
    fn as_safe_integer(&self) -> Option<i64> {
        self.0.parse().ok().filter(|value| (-MAX_SAFE_INTEGER..=MAX_SAFE_INTEGER).contains(value))
    }
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Self(value.to_string().into())
    }
}

impl TryFrom<f64> for Number {
    type Error = NotFinite;

    /// A double as JSON writes it, always with a fraction or an exponent.
    fn try_from(value: f64) -> Result<Self, NotFinite> {
        match value.is_finite() {
            true => Ok(Self(ryu::Buffer::new().format_finite(value).into())),
            false => Err(NotFinite),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// NaN and the infinities are not JSON.
///
/// ```
/// use actpass_core::json::{NotFinite, Number};
///
/// assert_eq!(Number::try_from(f64::NAN), Err(NotFinite));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFinite;

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NaN and infinity are not JSON")
    }
}

impl std::error::Error for NotFinite {}

/// A number's value: 0.d1d2d3… × 10^magnitude, without zeros at either end of the digits.
#[derive(PartialEq, Eq)]
struct Decimal {
    negative: bool,
    magnitude: i64,
    digits: String,
}

impl Decimal {
    fn new(text: &str) -> Self {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let significant = all.trim_start_matches('0');
        let leading = all.len() - significant.len();
        let digits = significant.trim_end_matches('0');
        if digits.is_empty() {
            return Self { negative: false, magnitude: 0, digits: String::new() };
        }
        // An exponent too long for an i64 is so far out that its sign alone orders it.
        let exponent =
            exponent.trim_start_matches('+').parse().unwrap_or_else(|_| match exponent.starts_with('-') {
                true => i64::MIN / 2,
                false => i64::MAX / 2,
            });
        let shift = i64::try_from(whole.len()).unwrap_or(i64::MAX / 4)
            - i64::try_from(leading).unwrap_or(i64::MAX / 4);
        Self { negative, magnitude: exponent.saturating_add(shift), digits: digits.to_owned() }
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| match (number.digits.is_empty(), number.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        let size = || self.magnitude.cmp(&other.magnitude).then_with(|| self.digits.cmp(&other.digits));
        sign(self).cmp(&sign(other)).then_with(|| match sign(self) {
            0 => Ordering::Equal,
            1 => size(),
            _ => size().reverse(),
        })
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Builds a [`Json`] tree; see [`read`].
///
/// ```
/// use actpass_core::json::{TreeBuilder, read};
///
/// assert_eq!(read(b"[1, null]", &mut TreeBuilder).unwrap().to_string(), "[1,null]");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct TreeBuilder;

impl Builder for TreeBuilder {
    type Value = Json;
    type Error = std::convert::Infallible;

    fn null(&mut self) -> Result<Json, Self::Error> {
        Ok(Json::Null)
    }

    fn bool(&mut self, value: bool) -> Result<Json, Self::Error> {
        Ok(Json::Bool(value))
    }

    fn number(&mut self, text: &str) -> Result<Json, Self::Error> {
        Ok(Json::Number(Number(text.into())))
    }

    fn string(&mut self, text: &str) -> Result<Json, Self::Error> {
        Ok(Json::String(text.to_owned()))
    }

    fn array(&mut self, items: Vec<Json>) -> Result<Json, Self::Error> {
        Ok(Json::Array(items))
    }

    fn object(&mut self, members: Vec<(String, Json)>) -> Result<Json, Self::Error> {
        Ok(Json::Object(members))
    }
}

/// Checks a document and makes nothing of it; see [`read`].
///
/// ```
/// use actpass_core::json::{Checker, read};
///
/// assert!(read(br#"{"amount": 4900}"#, &mut Checker).is_ok());
/// assert!(read(br#"{"amount": 4900,}"#, &mut Checker).is_err());
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Checker;

impl Builder for Checker {
    type Value = ();
    type Error = std::convert::Infallible;

    fn null(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    fn bool(&mut self, _: bool) -> Result<(), Self::Error> {
        Ok(())
    }

    fn number(&mut self, _: &str) -> Result<(), Self::Error> {
        Ok(())
    }

    fn string(&mut self, _: &str) -> Result<(), Self::Error> {
        Ok(())
    }

    fn array(&mut self, _: Vec<()>) -> Result<(), Self::Error> {
        Ok(())
    }

    fn object(&mut self, _: Vec<(String, ())>) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// A JSON object kept as the text it came in, with its members found: what is not known here is not touched.
///
/// ```
/// use actpass_core::json::Document;
///
/// let document = Document::parse(br#"{"decision": "allow", "x-new": 1.50}"#).unwrap();
/// assert_eq!(document.string("decision").as_deref(), Some("allow"));
/// assert_eq!(document.text_of("x-new"), Some("1.50"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Document {
    text: String,
    members: Members,
}

impl Document {
    /// Reads an object from its JSON text; `Err` says in one line why it is none.
    ///
    /// # Errors
    ///
    /// As [`read`], and for any other JSON value than an object.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let members = members(text)
            .map_err(|error| match error {
                // A key of somebody else's document may be a secret, and this ends up in messages.
                ReadError::DuplicateKey(_) => "a key is given twice in one object".to_owned(),
                ReadError::Builder(_)
                | ReadError::NumberOutOfRange(_)
                | ReadError::Syntax(..)
                | ReadError::TooDeep(_) => error.to_string(),
            })?
            .ok_or("not an object")?;
        // Every string was checked as it was read, and the rest of JSON is ASCII.
        let text = String::from_utf8(text.to_vec()).map_err(|error| error.to_string())?;
        Ok(Self { text, members })
    }

    /// The whole object as it came.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The JSON text of the member `name`.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        let (_, range) = self.members.iter().find(|(key, _)| key == name)?;
        self.text.get(range.clone())
    }

    /// The member `name`, if it is a string.
    pub fn string(&self, name: &str) -> Option<Cow<'_, str>> {
        let text = self.text_of(name)?;
        match text.strip_prefix('"')?.strip_suffix('"')? {
            plain if !plain.contains('\\') => Some(Cow::Borrowed(plain)),
            _ => Json::parse(text.as_bytes()).ok()?.as_str().map(|text| Cow::Owned(text.to_owned())),
        }
    }

    /// The member `name`, if it is there.
    pub fn member(&self, name: &str) -> Option<Json> {
        Json::parse(self.text_of(name)?.as_bytes()).ok()
    }

    /// Takes the member `name` out and returns its JSON text.
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let taken = self.text_of(name)?.to_owned();
        let mut rest = Text::new(Style::Compact);
        let mut members = Vec::with_capacity(self.members.len());
        rest.raw("{");
        for (key, range) in self.members.iter().filter(|(key, _)| key != name) {
            rest.comma(members.len());
            rest.key(key);
            let start = rest.out.len();
            rest.raw(self.text.get(range.clone()).unwrap_or_default());
            members.push((key.clone(), start..rest.out.len()));
        }
        rest.raw("}");
        self.text.zeroize();
        self.text = rest.into_string();
        self.members = members;
        Some(taken)
    }

    /// Gives the member `name` the value `json`, a JSON text: in its place, or at the end if it is missing.
    pub(crate) fn set(&mut self, name: &str, json: &str) {
        match self.members.iter().position(|(key, _)| key == name) {
            Some(at) => {
                let Some((_, range)) = self.members.get_mut(at) else { return };
                let (start, end) = (range.start, range.end);
                self.text.replace_range(start..end, json);
                *range = start..start + json.len();
                for (_, later) in self.members.iter_mut().skip(at + 1) {
                    let moved = |offset: usize| offset - end + start + json.len();
                    *later = moved(later.start)..moved(later.end);
                }
            }
            None => {
                let end = self.text.rfind('}').unwrap_or(self.text.len());
                let mut added = Text::new(Style::Compact);
                added.comma(self.members.len());
                added.key(name);
                let start = end + added.out.len();
                added.raw(json);
                self.text.insert_str(end, &added.out);
                self.members.push((name.to_owned(), start..start + json.len()));
            }
        }
    }
}

/// The empty object.
impl Default for Document {
    fn default() -> Self {
        Self { text: "{}".to_owned(), members: Vec::new() }
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The members of an object: their keys, and where their values stand in its text.
type Members = Vec<(String, Range<usize>)>;

/// The members of an object; `None` for another JSON value.
fn members(text: &[u8]) -> Result<Option<Members>, ReadError<std::convert::Infallible>> {
    let mut reader = Reader { input: Jiter::new(text), builder: &mut Checker };
    let first = reader.input.peek()?;
    if first != Peek::Object {
        reader.value(first, 0)?;
        reader.input.finish()?;
        return Ok(None);
    }
    let mut members = Members::with_capacity(8);
    let mut keys = Keys::default();
    let mut next = reader.input.known_object()?.map(str::to_owned);
    while let Some(key) = next {
        if keys.seen(&key, &members) {
            return Err(ReadError::DuplicateKey(key));
        }
        let peek = reader.input.peek()?;
        let start = reader.input.current_index();
        reader.value(peek, 1)?;
        members.push((key, start..reader.input.current_index()));
        next = reader.input.next_key()?.map(str::to_owned);
    }
    reader.input.finish()?;
    Ok(Some(members))
}

/// How a JSON text is laid out.
///
/// ```
/// use actpass_core::json::{Style, Text};
///
/// let mut text = Text::new(Style::Compact);
/// text.key("name");
/// text.string("Zoë");
/// assert_eq!(text.as_str(), r#""name":"Zoë""#);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// No white space, UTF-8 as it is.
    Compact,
    /// As Python's `json.dumps` writes by default, which is what the 1.1.3 client sends: a space behind each comma and
    /// colon, everything outside ASCII escaped.
    Wire,
}

/// A JSON text being written.
///
/// ```
/// use actpass_core::json::{Style, Text};
///
/// let mut text = Text::new(Style::Wire);
/// text.raw("{");
/// text.key("name");
/// text.string("Zoë");
/// text.raw("}");
/// assert_eq!(text.as_str(), r#"{"name": "Zo\u00eb"}"#);
/// ```
#[derive(Clone, Debug)]
pub struct Text {
    style: Style,
    out: String,
}

/// How many bytes of a text are looked at together.
const BLOCK: usize = 16;

impl Text {
    /// An empty text.
    pub fn new(style: Style) -> Self {
        Self { style, out: String::with_capacity(256) }
    }

    /// Appends `text` as it is.
    pub fn raw(&mut self, text: &str) {
        self.out.push_str(text);
    }

    /// Appends the comma before item or member number `at`, which the first has none of.
    pub fn comma(&mut self, at: usize) {
        if at > 0 {
            self.out.push_str(match self.style {
                Style::Compact => ",",
                Style::Wire => ", ",
            });
        }
    }

    /// Appends a member's key and its colon.
    pub fn key(&mut self, key: &str) {
        self.string(key);
        self.out.push_str(match self.style {
            Style::Compact => ":",
            Style::Wire => ": ",
        });
    }

    /// Appends a string, quoted and escaped.
    pub fn string(&mut self, text: &str) {
        self.out.push('"');
        let mut rest = text;
        while let Some(at) = self.first_escaped(rest) {
            let (plain, tail) = rest.split_at(at);
            self.out.push_str(plain);
            let mut chars = tail.chars();
            if let Some(c) = chars.next() {
                self.escape(c);
            }
            rest = chars.as_str();
        }
        self.out.push_str(rest);
        self.out.push('"');
    }

    /// The text so far.
    pub fn as_str(&self) -> &str {
        &self.out
    }

    /// The text.
    pub fn into_string(self) -> String {
        self.out
    }

    /// Where the first character begins that must be escaped. No byte within a longer character is one of these.
    fn first_escaped(&self, text: &str) -> Option<usize> {
        let bytes = text.as_bytes();
        let wire = self.style == Style::Wire;
        let escapes = |byte: &u8| {
            matches!(*byte, b'"' | b'\\') | (*byte < b' ') | (wire & matches!(*byte, 0x7f..=0xff))
        };
        // Most texts have none, and whole blocks without one are many bytes at a time.
        let plain = |block: &&[u8]| !block.iter().fold(false, |found, byte| found | escapes(byte));
        let skipped = bytes.chunks_exact(BLOCK).take_while(plain).count() * BLOCK;
        bytes.get(skipped..)?.iter().position(escapes).map(|at| skipped + at)
    }

    fn escape(&mut self, c: char) {
        match c {
            '"' => self.out.push_str("\\\""),
            '\\' => self.out.push_str("\\\\"),
            '\n' => self.out.push_str("\\n"),
            '\r' => self.out.push_str("\\r"),
            '\t' => self.out.push_str("\\t"),
            '\x08' => self.out.push_str("\\b"),
            '\x0c' => self.out.push_str("\\f"),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    self.out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Json {
        Json::parse(text.as_bytes()).unwrap()
    }

    fn fails(text: &str) -> bool {
        Json::parse(text.as_bytes()).is_err()
    }

    #[test]
    fn keeps_what_it_reads() {
        for text in [
            r#"{"z":1,"a":[1.0,-0,1e5,123456789012345678901234567890],"s":"\"\\\n é 😀"}"#,
            "[]",
            "{}",
            "null",
            "true",
            "-0.0",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
    }

    #[test]
    fn refuses_what_is_not_json() {
        for text in [
            "",
            " ",
            "nul",
            "NaN",
            "Infinity",
            "-Infinity",
            "01",
            "1.",
            ".5",
            "+1",
            "-",
            "1e",
            "[1,]",
            "[1 2]",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\" 1}",
            "'a'",
            "\"\u{1}\"",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"\\udc00\"",
            "\"\\ud800\\u0041\"",
            "[1]]",
            "{} {}",
            "\u{feff}{}",
            "// c\n1",
            "\"a",
            "[",
            "{\"a\":",
            "tru",
            "\"\t\"",
            "\x0b1",
            "\u{a0}1",
        ] {
            assert!(fails(text), "accepted {text:?}");
        }
        assert!(Json::parse(b"\"\xff\"").is_err());
        assert!(Json::parse(b"\"\xed\xa0\x80\"").is_err());
        assert!(Json::parse(b"{\"\xff\": 1}").is_err());
        assert!(Json::parse(b"\xff\xfe{\0}\0").is_err());
    }

    #[test]
    fn refuses_a_key_given_twice_however_escaped_and_however_deep() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"decision":"deny","decis\u0069on":"allow"}"#,
            r#"[{"x":{"a":1,"b":2,"a":3}}]"#,
        ] {
            assert!(matches!(Json::parse(text.as_bytes()), Err(ReadError::DuplicateKey(_))), "{text}");
        }
        let many: Vec<String> = (0..40).map(|n| format!("\"k{n}\":{n}")).collect();
        assert!(!fails(&format!("{{{}}}", many.join(","))));
        for again in [0, 15, 16, 39] {
            let text = format!("{{{},\"k{again}\":0}}", many.join(","));
            assert!(matches!(Json::parse(text.as_bytes()), Err(ReadError::DuplicateKey(_))));
        }
    }

    #[test]
    fn nesting_is_allowed_to_the_limit_and_not_past_it() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(!fails(&nested(MAX_DEPTH)));
        assert!(matches!(Json::parse(nested(MAX_DEPTH + 1).as_bytes()), Err(ReadError::TooDeep(_))));
        assert!(fails(&"[".repeat(100_000)));
        let objects = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        assert!(!fails(&objects(MAX_DEPTH)));
        assert!(fails(&objects(MAX_DEPTH + 1)));
    }

    #[test]
    fn numbers_past_a_double_are_refused() {
        for text in ["1e999", "-1e999", "1E400"] {
            assert!(matches!(Json::parse(text.as_bytes()), Err(ReadError::NumberOutOfRange(0))), "{text}");
        }
        assert!(fails(&"9".repeat(400)));
        assert!(!fails(&"9".repeat(300)));
        assert!(!fails("1e308"));
        assert!(!fails("1e-999"));
    }

    #[test]
    fn numbers_compare_exactly() {
        let number = |text: &str| {
            let Json::Number(number) = parse(text) else { panic!("{text} is not a number") };
            number
        };
        let ascending = [
            "-1e300",
            "-10",
            "-9.5",
            "-1",
            "-0.001",
            "0",
            "1e-999",
            "1e-5",
            "0.1",
            "0.10000000000000000001",
            "1",
            "9007199254740992",
            "9007199254740993",
            "9007199254740993.5",
            "1e17",
            "123456789012345678901",
            "1e300",
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(number(a).compare(&number(b)), i.cmp(&j), "{a} against {b}");
            }
        }
        for (a, b) in
            [("1", "1.0"), ("1", "10e-1"), ("0", "-0.0"), ("0", "0e999"), ("1E+2", "100"), ("0.5", "5e-1")]
        {
            assert_eq!(number(a).compare(&number(b)), Ordering::Equal, "{a} against {b}");
        }
    }

    #[test]
    fn a_document_keeps_what_it_does_not_know() {
        let text = r#" {"a" : {"b":[1.0, 2]} ,"c\u0061":"x\n", "d":1e2 } "#;
        let mut document = Document::parse(text.as_bytes()).unwrap();
        assert_eq!(document.as_str(), text);
        assert_eq!(document.text_of("a"), Some(r#"{"b":[1.0, 2]}"#));
        assert_eq!(document.string("ca").as_deref(), Some("x\n"));
        assert_eq!(document.string("d"), None);
        assert_eq!(document.take("ca").as_deref(), Some(r#""x\n""#));
        assert_eq!(document.as_str(), r#"{"a":{"b":[1.0, 2]},"d":1e2}"#);
        assert_eq!(document.text_of("d"), Some("1e2"));
        assert_eq!(document.take("ca"), None);
        for text in ["[]", "1", "null", "\"{}\"", "{}{}", "{\"a\":1,\"\\u0061\":2}", ""] {
            assert!(Document::parse(text.as_bytes()).is_err(), "accepted {text}");
        }
    }

    #[test]
    fn wire_style_is_that_of_python() {
        // json.dumps({"a": [1, "é\u007f\n\b\f\"\\/"], "😀": None})
        let mut out = Text::new(Style::Wire);
        parse(r#"{"a":[1,"é\u007f\n\b\f\"\\/"],"😀":null}"#).write(&mut out);
        assert_eq!(out.as_str(), r#"{"a": [1, "\u00e9\u007f\n\b\f\"\\/"], "\ud83d\ude00": null}"#);
    }
}
