//! `native.node`: what the TypeScript face calls. It converts to the core and back, and means nothing of its own.

#![allow(clippy::needless_pass_by_value, reason = "napi hands values over")]
#![cfg_attr(test, allow(dead_code, reason = "a test build registers nothing with Node"))]

mod approval;
mod client;
mod convert;
mod error;
mod evidence;
mod guard;
mod log;
mod panic;
mod passport;
mod runtime;

/// The version of the native half, which the face compares with its own.
#[napi_derive::napi]
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
