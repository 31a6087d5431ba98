//! The strict JSON reader.

use super::path::quoted;
use std::collections::HashSet;
use std::fmt;

use jiter::{Jiter, JiterError, Peek};

/// The maximum nesting depth: 128.
pub const MAX_DEPTH: usize = 128;

/// Reads one JSON document, creating values with `builder`.
///
/// # Errors
///
/// [`ReadError::Syntax`] unless `text` is exactly one JSON value in UTF-8. Other variants for the
/// limits in the [module documentation](super). [`ReadError::Builder`] for errors of the builder.
///
/// ```
/// use actpass_protocol::json::{read, TreeBuilder};
///
/// let tree = read(br#"{"amount": 4900}"#, &mut TreeBuilder)?;
/// assert_eq!(tree.member("amount").unwrap().to_string(), "4900");
/// assert!(read(br#"{"decision": "deny", "decis\u0069on": "allow"}"#, &mut TreeBuilder).is_err());
/// # Ok::<(), actpass_protocol::json::ReadError<std::convert::Infallible>>(())
/// ```
pub fn read<B: Builder>(text: &[u8], builder: &mut B) -> Result<B::Value, ReadError<B::Error>> {
    read_below(text, builder, 0)
}

/// Like [`read`], for a text that will be nested inside `depth` arrays and objects.
pub fn read_below<B: Builder>(
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

/// Creates the values of a JSON document; see [`read`].
///
/// Calls are depth first: the members of an object before [`Builder::object`].
///
/// ```
/// use actpass_protocol::json::{Builder, read};
/// use std::convert::Infallible;
///
/// /// Counts the numbers of a document.
/// struct Numbers;
///
/// impl Builder for Numbers {
///     type Value = usize;
///     type Key = String;
///     type Error = Infallible;
///     fn null(&mut self) -> Result<usize, Infallible> { Ok(0) }
///     fn bool(&mut self, _: bool) -> Result<usize, Infallible> { Ok(0) }
///     fn number(&mut self, _: &str) -> Result<usize, Infallible> { Ok(1) }
///     fn string(&mut self, _: &str) -> Result<usize, Infallible> { Ok(0) }
///     fn array(&mut self, items: Vec<usize>) -> Result<usize, Infallible> { Ok(items.iter().sum()) }
///     fn key(&mut self, text: &str) -> String { text.to_owned() }
///     fn object(&mut self, members: Vec<(String, usize)>) -> Result<usize, Infallible> {
///         Ok(members.iter().map(|(_, count)| count).sum())
///     }
/// }
///
/// assert_eq!(read(br#"{"amount": 4900, "tags": ["a", 7]}"#, &mut Numbers), Ok(2));
/// ```
pub trait Builder {
    /// The type of a value.
    type Value;
    /// The type of a key of an object.
    type Key: AsRef<str>;
    /// The builder's error; [`std::convert::Infallible`] if it cannot fail.
    type Error;

    /// Creates `null`.
    fn null(&mut self) -> Result<Self::Value, Self::Error>;
    /// Creates `true` or `false`.
    fn bool(&mut self, value: bool) -> Result<Self::Value, Self::Error>;
    /// Creates a number from its text, which is valid JSON within the range of a double.
    fn number(&mut self, text: &str) -> Result<Self::Value, Self::Error>;
    /// Creates a string.
    fn string(&mut self, text: &str) -> Result<Self::Value, Self::Error>;
    /// Creates an array.
    fn array(&mut self, items: Vec<Self::Value>) -> Result<Self::Value, Self::Error>;
    /// Creates a key of an object, before its value.
    fn key(&mut self, text: &str) -> Self::Key;
    /// Creates an object from members in document order, with unique keys.
    fn object(&mut self, members: Vec<(Self::Key, Self::Value)>) -> Result<Self::Value, Self::Error>;
}

/// Why a text is not a valid JSON document; see [`read`].
///
/// ```
/// use actpass_protocol::Json;
/// use actpass_protocol::json::ReadError;
///
/// assert_eq!(Json::parse(br#"{"a": 1, "a": 2}"#), Err(ReadError::DuplicateKey("a".to_owned(), 13)));
/// assert_eq!(Json::parse(b"1e999"), Err(ReadError::NumberOutOfRange(0)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError<E> {
    /// An error of the builder.
    Builder(E),
    /// A duplicate key, whose second occurrence ends before this byte offset.
    DuplicateKey(String, usize),
    /// A number beyond the range of a double, at this byte offset.
    NumberOutOfRange(usize),
    /// A syntax error, with its byte offset.
    Syntax(String, usize),
    /// Nesting deeper than [`MAX_DEPTH`], at this byte offset.
    TooDeep(usize),
}

impl<E: fmt::Display> fmt::Display for ReadError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builder(error) => error.fmt(f),
            Self::DuplicateKey(key, _) => write!(f, "duplicate key {} in an object", quoted(key)),
            Self::NumberOutOfRange(at) => {
                write!(f, "the number at byte {at} is beyond the range of a double")
            }
            Self::Syntax(what, at) => write!(f, "not JSON: {what} at byte {at}"),
            Self::TooDeep(at) => write!(f, "nested deeper than {MAX_DEPTH} levels at byte {at}"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for ReadError<E> {}

impl<E> From<JiterError> for ReadError<E> {
    fn from(error: JiterError) -> Self {
        Self::Syntax(error.error_type.to_string(), error.index)
    }
}

pub(super) struct Reader<'t, 'b, B> {
    pub(super) input: Jiter<'t>,
    pub(super) builder: &'b mut B,
}

impl<B: Builder> Reader<'_, '_, B> {
    pub(super) fn value(&mut self, peek: Peek, depth: usize) -> Result<B::Value, ReadError<B::Error>> {
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
                if !is_in_f64_range(text) {
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
        let mut members: Vec<(B::Key, B::Value)> = Vec::new();
        let mut keys = SeenKeys::default();
        let mut next = self.input.known_object()?.map(|text| self.builder.key(text));
        while let Some(key) = next {
            let is_known = keys.contains_or_insert(
                key.as_ref(),
                &members,
                |(known, _), key| known.as_ref() == key,
                |(known, _)| known.as_ref(),
            );
            if is_known {
                return Err(ReadError::DuplicateKey(key.as_ref().to_owned(), self.input.current_index()));
            }
            let peek = self.input.peek()?;
            let value = self.value(peek, depth)?;
            members.push((key, value));
            next = self.input.next_key()?.map(|text| self.builder.key(text));
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

/// Detects duplicate keys: a linear scan for small objects, a set for large ones.
#[derive(Default)]
pub(super) struct SeenKeys(HashSet<String>);

impl SeenKeys {
    const SMALL: usize = 16;

    /// Whether a member in `before` has the key `key`; `key_of` returns a member's key.
    pub(super) fn contains_or_insert<'m, M, K: AsRef<str>>(
        &mut self,
        key: &str,
        before: &'m [M],
        is: impl Fn(&M, &str) -> bool,
        key_of: impl Fn(&'m M) -> K,
    ) -> bool {
        if before.len() < Self::SMALL {
            return before.iter().any(|member| is(member, key));
        }
        if self.0.is_empty() {
            self.0.extend(before.iter().map(|member| key_of(member).as_ref().to_owned()));
        }
        !self.0.insert(key.to_owned())
    }
}

fn is_in_f64_range(text: &str) -> bool {
    // 300 digits stay below 1e308, so only longer texts and exponents need the conversion.
    if text.len() <= 300 && !text.contains(['e', 'E']) {
        return true;
    }
    text.parse::<f64>().is_ok_and(f64::is_finite)
}

/// Validates a document without creating values; see [`read`].
///
/// ```
/// use actpass_protocol::json::{Validator, read};
///
/// assert!(read(br#"{"amount": 4900}"#, &mut Validator).is_ok());
/// assert!(read(br#"{"amount": 4900,}"#, &mut Validator).is_err());
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Validator;

impl Builder for Validator {
    type Value = ();
    type Key = String;
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

    fn key(&mut self, text: &str) -> String {
        text.to_owned()
    }

    fn object(&mut self, _: Vec<(String, ())>) -> Result<(), Self::Error> {
        Ok(())
    }
}
