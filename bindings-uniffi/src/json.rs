//! JSON values, for public API layers without a JSON reader.

use actpass_core::Json;
use actpass_core::json::parse_argument;

use crate::error::NativeError;
use crate::runtime::catch_panic;

/// A JSON value.
#[derive(uniffi::Enum)]
pub(crate) enum NativeJson {
    /// An array.
    Array {
        /// Its items.
        items: Vec<NativeJson>,
    },
    /// A boolean.
    Bool {
        /// The value.
        value: bool,
    },
    /// Null.
    Null,
    /// A number.
    Number {
        /// Its text.
        text: String,
    },
    /// An object.
    Object {
        /// Its members, in order.
        members: Vec<NativeMember>,
    },
    /// A string.
    Text {
        /// The value.
        value: String,
    },
}

/// A member of an object.
#[derive(uniffi::Record)]
pub(crate) struct NativeMember {
    /// Its key.
    pub(crate) name: String,
    /// Its value.
    pub(crate) value: NativeJson,
}

impl From<Json> for NativeJson {
    fn from(json: Json) -> Self {
        match json {
            Json::Array(items) => Self::Array { items: items.into_iter().map(Into::into).collect() },
            Json::Bool(value) => Self::Bool { value },
            Json::Null => Self::Null,
            Json::Number(number) => Self::Number { text: number.as_str().to_owned() },
            Json::Object(members) => {
                let member = |(name, value): (String, Json)| NativeMember { name, value: value.into() };
                Self::Object { members: members.into_iter().map(member).collect() }
            }
            Json::String(value) => Self::Text { value },
        }
    }
}

/// Parses a text that is one unambiguous JSON value; `member` is its name in error messages.
#[uniffi::export]
pub(crate) fn native_parse_json(member: String, text: String) -> Result<NativeJson, NativeError> {
    catch_panic(|| Ok(NativeJson::from(parse_argument(&member, &text)?)))
}
