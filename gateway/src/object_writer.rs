//! JSON objects built member by member, as text without an intermediate tree, or as a tree.

use actpass_protocol::Json;
use actpass_protocol::json::{JsonWriter, NotCanonical, Style};
use sha2::{Digest, Sha256};

pub(crate) use actpass_protocol::json::object;

/// Bytes of most objects: events and responses.
const OBJECT_BYTES: usize = 1024;

/// Writes a JSON object; see [`ObjectWriter::finish`].
#[derive(Debug)]
pub(crate) struct ObjectWriter {
    text: JsonWriter,
    count: usize,
}

impl ObjectWriter {
    /// Starts an empty object.
    pub(crate) fn new() -> Self {
        let mut text = JsonWriter::with_capacity(Style::Compact, OBJECT_BYTES);
        text.raw("{");
        Self { text, count: 0 }
    }

    /// Adds a string; `None` is omitted.
    pub(crate) fn string(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.key(name);
            self.text.string(value);
        }
    }

    /// Adds a string, or `null`.
    pub(crate) fn string_or_null(&mut self, name: &str, value: Option<&str>) {
        self.key(name);
        match value {
            Some(value) => self.text.string(value),
            None => self.text.raw("null"),
        }
    }

    /// Adds a value in its canonical form.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no canonical form. The object is unusable then.
    pub(crate) fn canonical(&mut self, name: &str, value: &Json) -> Result<(), NotCanonical> {
        self.key(name);
        value.write_canonical(&mut self.text)
    }

    /// Adds a value.
    pub(crate) fn json(&mut self, name: &str, value: &Json) {
        self.key(name);
        self.text.raw(&value.to_string());
    }

    /// Adds an integer.
    pub(crate) fn integer(&mut self, name: &str, value: u64) {
        self.key(name);
        self.text.raw(&value.to_string());
    }

    /// Adds a list of strings.
    pub(crate) fn strings<'s>(&mut self, name: &str, values: impl IntoIterator<Item = &'s str>) {
        self.key(name);
        self.text.raw("[");
        for (at, value) in values.into_iter().enumerate() {
            self.text.comma(at);
            self.text.string(value);
        }
        self.text.raw("]");
    }

    /// Adds a nested object.
    pub(crate) fn object(&mut self, name: &str, members: impl FnOnce(&mut Self)) {
        self.key(name);
        self.text.raw("{");
        let count = std::mem::take(&mut self.count);
        members(self);
        self.count = count;
        self.text.raw("}");
    }

    /// Returns the SHA-256, in hex, of the members so far. It equals `hash_payload` if they were
    /// added in canonical order.
    pub(crate) fn sha256(&self) -> String {
        let hash = Sha256::new().chain_update(self.text.as_str()).chain_update("}");
        hex::encode(hash.finalize())
    }

    /// Returns the object's text.
    pub(crate) fn finish(mut self) -> String {
        self.text.raw("}");
        self.text.into_string()
    }

    fn key(&mut self, name: &str) {
        self.text.comma(self.count);
        self.text.key(name);
        self.count += 1;
    }
}
