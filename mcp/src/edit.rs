//! Changes of a message that keep the bytes of everything else.

use std::fmt;

use actpass_core::json::{JsonWriter, Style};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of an object with their JSON texts, in order.
pub(crate) struct Members<'t>(pub(crate) Vec<(String, &'t str)>);

impl<'t> Members<'t> {
    /// Parses the object `text`; `None` for any other value.
    pub(crate) fn parse(text: &'t str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The JSON text of a member, a part of the parsed text.
    pub(crate) fn text(&self, name: &str) -> Option<&'t str> {
        self.0.iter().find_map(|(key, value)| (key == name).then_some(*value))
    }

    /// Removes a member, or sets it if `value` is given.
    pub(crate) fn set(&mut self, name: &str, value: Option<&'t str>) {
        self.0.retain(|(key, _)| key != name);
        self.0.extend(value.map(|value| (name.to_owned(), value)));
    }

    /// The JSON text of the object.
    pub(crate) fn write(&self) -> String {
        let mut out = JsonWriter::new(Style::Compact);
        out.raw("{");
        for (at, (key, value)) in self.0.iter().enumerate() {
            out.comma(at);
            out.key(key);
            out.raw(value);
        }
        out.raw("}");
        out.into_string()
    }
}

impl<'de: 't, 't> Deserialize<'de> for Members<'t> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Vec<(String, &'de str)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
                    members.push((key, value.get()));
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Object).map(Self)
    }
}

/// `text` with `part`, a slice of it, replaced.
pub(crate) fn replace(text: &str, part: &str, by: &str) -> Option<String> {
    let start = (part.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    Some([text.get(..start)?, by, text.get(start + part.len()..)?].concat())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn replaces_one_member_and_keeps_the_bytes_of_the_others() {
        let text = r#"{"params" : {"a": 1.00, "b" :"x\u00e9" ,"c":[ ]}, "id":1}"#;
        let whole = Members::parse(text).unwrap();
        let params = whole.text("params").unwrap();
        let mut members = Members::parse(params).unwrap();
        members.set("a", None);
        members.set("d", Some("{ }"));
        let edited = replace(text, params, &members.write()).unwrap();
        assert_eq!(edited, r#"{"params" : {"b":"x\u00e9","c":[ ],"d":{ }}, "id":1}"#);
        assert!(Members::parse("[1]").is_none());
    }
}
