//! JSON objects made member by member: as text, without a tree between, and as trees.

use actpass_protocol::Json;
use actpass_protocol::json::{Style, Text};

/// The text of a JSON object; see [`Members::finish`].
#[derive(Debug)]
pub(crate) struct Members {
    text: Text,
    count: usize,
}

impl Members {
    /// An object without members.
    pub(crate) fn new() -> Self {
        let mut text = Text::new(Style::Compact);
        text.raw("{");
        Self { text, count: 0 }
    }

    /// Adds a string, if there is one.
    pub(crate) fn string(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.key(name);
            self.text.string(value);
        }
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

    /// Adds a value by its JSON text.
    pub(crate) fn raw(&mut self, name: &str, value: &str) {
        self.key(name);
        self.text.raw(value);
    }

    /// The object's text.
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

/// An object of the members that have a value.
pub(crate) fn object<const N: usize>(members: [(&str, Option<Json>); N]) -> Json {
    Json::Object(members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
}
