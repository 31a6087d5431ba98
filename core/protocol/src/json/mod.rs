//! Strict JSON without loss or coercion.
//!
//! [`read`] accepts RFC 8259 and additionally rejects input that parsers interpret differently:
//! duplicate keys (however escaped), nesting deeper than [`MAX_DEPTH`], lone surrogates, and
//! numbers beyond the range of a double. Numbers keep their text, so integers of any length and
//! floats are preserved.
//!
//! A reader supplies a [`Builder`], so a binding creates its language's objects directly from the
//! bytes, without an intermediate tree. [`Json`] is a tree for other uses.

mod canonical;
mod canonical_text;
mod location;
mod number;
mod path;
mod raw;
mod read;
#[cfg(test)]
mod tests;
mod tree;
mod write;

pub use canonical::NotCanonical;
pub use canonical_text::is_canonical_object;
pub use location::{argument_error, not_finite, parse_argument};
pub use number::{NotFinite, Number};
pub use path::{Step, path};
pub use raw::{RawObject, all_members, is_array_of_strings};
pub use read::{Builder, MAX_DEPTH, ReadError, Validator, read, read_below};
pub use tree::{Json, TreeBuilder, object};
pub use write::{JsonWriter, Style};

/// The largest integer that every JSON implementation represents exactly: 2^53 - 1.
pub const MAX_SAFE_INTEGER: i64 = (1 << 53) - 1;
