//! An object as text.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use jiter::{Jiter, Peek};
use zeroize::Zeroize;

use super::read::{Keys, ReadError, Reader, Validator};
use super::tree::Json;
use super::write::{Style, Text};

/// A JSON object kept as the text it came in, with its members found: what is not known here is not touched.
///
/// ```
/// use actpass_protocol::json::RawObject;
///
/// let document = RawObject::parse(br#"{"decision": "allow", "x-new": 1.50}"#).unwrap();
/// assert_eq!(document.string("decision").as_deref(), Some("allow"));
/// assert_eq!(document.text_of("x-new"), Some("1.50"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RawObject {
    text: String,
    members: Members,
}

impl RawObject {
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
    pub fn take(&mut self, name: &str) -> Option<String> {
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
    pub fn set(&mut self, name: &str, json: &str) {
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
impl Default for RawObject {
    fn default() -> Self {
        Self { text: "{}".to_owned(), members: Vec::new() }
    }
}

impl fmt::Debug for RawObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The members of an object: their keys, and where their values stand in its text.
type Members = Vec<(String, Range<usize>)>;

/// The members of an object; `None` for another JSON value.
fn members(text: &[u8]) -> Result<Option<Members>, ReadError<std::convert::Infallible>> {
    let mut reader = Reader { input: Jiter::new(text), builder: &mut Validator };
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
