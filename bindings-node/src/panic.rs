//! The panic boundary to JavaScript.

use std::panic::{AssertUnwindSafe, catch_unwind};

use actpass_core::Error;

use actpass_node_text::error::describe;

/// Runs a conversion. A panic in it becomes an error.
pub(crate) fn catch_panic<T>(body: impl FnOnce() -> Result<T, Error>) -> napi::Result<T> {
    catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|_panic| Err(Error::panicked()))
        .map_err(|error| napi::Error::from_reason(describe(&error)))
}
