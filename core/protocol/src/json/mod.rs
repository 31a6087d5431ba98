//! JSON as this protocol needs it: nothing is lost, nothing is guessed.
//!
//! [`read`] accepts exactly RFC 8259, and refuses besides what two parsers could understand differently: a key given
//! twice in an object (however it is escaped), nesting past [`MAX_DEPTH`], a lone surrogate, a number beyond the
//! range of a double. Numbers keep their text, so an integer of any length and a float arrive as they were sent.
//!
//! A reader brings its own [`Builder`], so a binding makes its language's objects straight from the bytes, without a
//! tree between. [`Json`] is the tree for those who want one.

mod canonical;
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
pub use location::{argument_error, not_finite, parse_argument};
pub use number::{NotFinite, Number};
pub use path::{Step, path};
pub use raw::{RawObject, all_members, is_array_of_strings};
pub use read::{Builder, MAX_DEPTH, ReadError, Validator, read, read_below};
pub use tree::{Json, TreeBuilder};
pub use write::{JsonWriter, Style};

/// The largest integer that every JSON implementation carries exactly: 2^53 - 1.
pub const MAX_SAFE_INTEGER: i64 = (1 << 53) - 1;
