//! `native.node`, called by the TypeScript layer. It only converts to and from the core.

#![allow(clippy::needless_pass_by_value, reason = "napi passes values")]
#![cfg_attr(test, allow(dead_code, reason = "a test build registers nothing with Node"))]

mod client;
mod guard;
mod panic;
mod runtime;
mod scripted;

/// The version of the native module, which the TypeScript layer compares with its own.
#[napi_derive::napi]
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
