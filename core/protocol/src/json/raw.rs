//! JSON objects kept as text.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use jiter::{Jiter, Peek};
use zeroize::Zeroize;

use super::read::{ReadError, Reader, SeenKeys, Validator};
use super::tree::Json;
use super::write::{JsonWriter, Style};

/// A JSON object kept as received, with an index of its members. Unknown members are preserved.
///
/// ```
/// use actpass_protocol::json::RawObject;
///
/// let document = RawObject::parse(br#"{"decision": "allow", "x-new": 1.50}"#).unwrap();
/// assert_eq!(document.string("decision").as_deref(), Some("allow"));
/// assert_eq!(document.member_text("x-new"), Some("1.50"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RawObject {
    text: String,
    members: MemberSpans,
}

impl RawObject {
    /// Parses an object. The error is one line.
    ///
    /// # Errors
    ///
    /// As [`read`](super::read()), and for any JSON value other than an object.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let (text, members) = members(text)
            .map_err(|error| match error {
                // Do not show the key: it may be a secret, and the error ends up in messages.
                ReadError::DuplicateKey(..) => "duplicate key in an object".to_owned(),
                ReadError::Builder(_)
                | ReadError::NumberOutOfRange(_)
                | ReadError::Syntax(..)
                | ReadError::TooDeep(_) => error.to_string(),
            })?
            .ok_or("not an object")?;
        Ok(Self { text: text.to_owned(), members })
    }

    /// The whole object as received.
    #[inline]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the JSON text of the member `name`.
    #[inline]
    pub fn member_text(&self, name: &str) -> Option<&str> {
        let member = self.members.iter().find(|member| member.is(name, &self.text))?;
        self.text.get(member.value.clone())
    }

    /// Returns the member `name`, if it is a string.
    #[inline]
    pub fn string(&self, name: &str) -> Option<Cow<'_, str>> {
        let text = self.member_text(name)?;
        match text.strip_prefix('"')?.strip_suffix('"')? {
            plain if !plain.contains('\\') => Some(Cow::Borrowed(plain)),
            _ => Json::parse(text.as_bytes()).ok()?.as_str().map(|text| Cow::Owned(text.to_owned())),
        }
    }

    /// Returns the member `name`, if present.
    pub fn member(&self, name: &str) -> Option<Json> {
        Json::parse(self.member_text(name)?.as_bytes()).ok()
    }

    /// Removes the member `name` and returns its JSON text.
    pub fn take(&mut self, name: &str) -> Option<String> {
        let taken = self.member_text(name)?.to_owned();
        let mut rest = JsonWriter::new(Style::Compact);
        let mut members = Vec::with_capacity(self.members.len());
        rest.raw("{");
        for member in self.members.iter().filter(|member| !member.is(name, &self.text)) {
            rest.comma(members.len());
            let mut copy = |range: &Range<usize>, before, after| {
                rest.raw(before);
                let start = rest.out.len();
                rest.raw(self.text.get(range.clone()).unwrap_or_default());
                let end = rest.out.len();
                rest.raw(after);
                start..end
            };
            let (key, value) = (copy(&member.key, "\"", "\":"), copy(&member.value, "", ""));
            members.push(Member { key, value, ..member.clone() });
        }
        rest.raw("}");
        self.text.zeroize();
        self.text = rest.into_string();
        self.members = members;
        Some(taken)
    }

    /// Sets the member `name` to the JSON text `json`: in place, or appended if missing.
    pub fn set(&mut self, name: &str, json: &str) {
        match self.members.iter().position(|member| member.is(name, &self.text)) {
            Some(at) => {
                let Some(Member { value, .. }) = self.members.get_mut(at) else { return };
                let (start, end) = (value.start, value.end);
                self.text.replace_range(start..end, json);
                *value = start..start + json.len();
                let moved = |offset: usize| offset - end + start + json.len();
                for Member { key, value, .. } in self.members.iter_mut().skip(at + 1) {
                    *key = moved(key.start)..moved(key.end);
                    *value = moved(value.start)..moved(value.end);
                }
            }
            None => {
                let end = self.text.rfind('}').unwrap_or(self.text.len());
                let mut added = JsonWriter::new(Style::Compact);
                added.comma(self.members.len());
                added.key(name);
                let key = between_quotes(&added.out, 0..added.out.len());
                let start = end + added.out.len();
                added.raw(json);
                self.text.insert_str(end, &added.out);
                self.members.push(Member {
                    is_escaped: added.out.get(key.clone()).is_some_and(|raw| raw.contains('\\')),
                    key: end + key.start..end + key.end,
                    value: start..start + json.len(),
                });
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

/// The members of an object.
type MemberSpans = Vec<Member>;

/// The position of a member in the object's text.
#[derive(Clone, PartialEq, Eq)]
struct Member {
    /// The key, without its quotes.
    key: Range<usize>,
    is_escaped: bool,
    value: Range<usize>,
}

impl Member {
    fn key<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let raw = text.get(self.key.clone()).unwrap_or_default();
        if self.is_escaped
            && let Ok(Json::String(key)) = Json::parse(format!("\"{raw}\"").as_bytes())
        {
            return Cow::Owned(key);
        }
        Cow::Borrowed(raw)
    }

    /// Whether its key is `name`.
    #[inline]
    fn is(&self, name: &str, text: &str) -> bool {
        match self.is_escaped {
            true => self.key(text) == name,
            false => {
                self.key.len() == name.len() && text.as_bytes().get(self.key.clone()) == Some(name.as_bytes())
            }
        }
    }
}

/// Indexes the members of an object; `None` for another JSON value.
fn members(text: &[u8]) -> Result<Option<(&str, MemberSpans)>, ReadError<std::convert::Infallible>> {
    let mut reader = Reader { input: Jiter::new(text), builder: &mut Validator };
    let first = reader.input.peek()?;
    // Invalid UTF-8 is read up to the first error.
    let (Peek::Object, Ok(text)) = (first, str::from_utf8(text)) else {
        reader.value(first, 0)?;
        reader.input.finish()?;
        return Ok(None);
    };
    let mut members = MemberSpans::with_capacity(8);
    let mut keys = SeenKeys::default();
    let mut before = reader.input.current_index();
    let mut next = reader.input.known_object()?.is_some();
    while next {
        let key = between_quotes(text, before..reader.input.current_index());
        let is_escaped = text.get(key.clone()).is_some_and(|raw| raw.contains('\\'));
        let mut member = Member { key, is_escaped, value: 0..0 };
        let name = member.key(text);
        if keys.contains_or_insert(
            &name,
            &members,
            |member, name| member.is(name, text),
            |member: &Member| member.key(text),
        ) {
            return Err(ReadError::DuplicateKey(name.into_owned(), reader.input.current_index()));
        }
        let peek = reader.input.peek()?;
        let start = reader.input.current_index();
        reader.value(peek, 1)?;
        before = reader.input.current_index();
        member.value = start..before;
        members.push(member);
        next = reader.input.next_key()?.is_some();
    }
    reader.input.finish()?;
    Ok(Some((text, members)))
}

/// Whether `test` accepts every member of an object. `test` receives the key and returns a
/// predicate on the value's JSON text. `text` must have been validated: values are skipped, and
/// invalid JSON yields `false`.
pub fn all_members<F: FnOnce(&str) -> bool>(text: &str, mut test: impl FnMut(&str) -> F) -> bool {
    let mut input = Jiter::new(text.as_bytes());
    let mut accepts = match input.next_object() {
        Ok(key) => key.map(&mut test),
        Err(_) => return false,
    };
    while let Some(accept) = accepts {
        let Ok(peek) = input.peek() else { return false };
        let start = input.current_index();
        if input.known_skip(peek).is_err() {
            return false;
        }
        if !text.get(start..input.current_index()).is_some_and(accept) {
            return false;
        }
        accepts = match input.next_key() {
            Ok(key) => key.map(&mut test),
            Err(_) => return false,
        };
    }
    true
}

/// Whether a value is an array of strings. `text` must have been validated.
pub fn is_array_of_strings(text: &str) -> bool {
    let mut input = Jiter::new(text.as_bytes());
    let mut next = input.next_array();
    while let Ok(Some(Peek::String)) = next {
        if input.known_skip(Peek::String).is_err() {
            return false;
        }
        next = input.array_step();
    }
    matches!(next, Ok(None))
}

/// Finds the key in a part of `text` that may include white space, a brace or comma, and a colon
/// around it.
fn between_quotes(text: &str, part: Range<usize>) -> Range<usize> {
    let found = text.get(part.clone()).unwrap_or_default().as_bytes();
    let first = found.iter().position(|byte| *byte == b'"').unwrap_or(0);
    let last = found.iter().rposition(|byte| *byte == b'"').unwrap_or(0);
    part.start + first + 1..part.start + last
}
