//! Conversion between the JSON texts of the TypeScript layer and the core: for the native module of
//! Node and for the wasm module, which exchange the same texts. It contains neither.

#![forbid(unsafe_code)]
#![allow(clippy::needless_pass_by_value, reason = "the texts of a call are spent by it")]

pub mod approval;
pub mod call;
pub mod convert;
pub mod error;
pub mod evidence;
pub mod guard;
pub mod log;
pub mod passport;
pub mod settings;
