//! The buffers through which texts cross, of each module.
//!
//! The host gets a place from `input`, writes the bytes there and passes their number to an
//! entry, which takes them. An entry that returns a text leaves it at `output` until the next entry.

use std::cell::RefCell;

use actpass_core::{Error, ErrorKind};
use actpass_node_text::error::describe;

/// Larger buffers are not kept.
const KEPT: usize = 64 * 1024;

thread_local! {
    static INPUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static OUTPUT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Returns a place for `length` bytes of input.
#[unsafe(no_mangle)]
extern "C" fn input(length: usize) -> *mut u8 {
    INPUT.with_borrow_mut(|input| {
        if input.len() < length {
            input.resize(length, 0);
        }
        input.as_mut_ptr()
    })
}

/// The place of the text that the last entry returned.
#[unsafe(no_mangle)]
extern "C" fn output() -> *const u8 {
    OUTPUT.with_borrow(|output| output.as_ptr())
}

/// The length of the text that the last entry returned.
#[unsafe(no_mangle)]
extern "C" fn output_length() -> usize {
    OUTPUT.with_borrow(String::len)
}

/// Takes `length` bytes of input, and overwrites them in the buffer.
pub(crate) fn take(length: usize) -> Vec<u8> {
    INPUT.with_borrow_mut(|input| {
        let taken = input.get(..length).map(<[u8]>::to_vec).unwrap_or_default();
        input.iter_mut().take(length).for_each(|byte| *byte = 0);
        if input.len() > KEPT {
            *input = Vec::new();
        }
        taken
    })
}

/// Converts the bytes of an input.
pub(crate) fn text(bytes: Vec<u8>) -> Result<String, Error> {
    String::from_utf8(bytes).map_err(|_| Error::new(ErrorKind::Internal, "the input is not UTF-8"))
}

/// Runs an entry that returns a text, or the error as a text: returns whether it succeeded.
pub(crate) fn texts(body: impl FnOnce() -> Result<String, Error>) -> bool {
    let (succeeded, text) = match body() {
        Ok(text) => (true, text),
        Err(error) => (false, describe(&error)),
    };
    set_output(text);
    succeeded
}

/// Leaves a text at `output`.
pub(crate) fn set_output(text: String) {
    OUTPUT.set(text);
}
