//! Called by the Swift and Kotlin layers. It only converts to and from the core.
//!
//! These types are not a user interface: the generated code is private to the packages.

#![expect(
    clippy::large_enum_variant,
    clippy::needless_pass_by_value,
    clippy::result_large_err,
    reason = "uniffi passes values, a few per call"
)]

mod approval;
mod calls;
mod client;
mod error;
mod evidence;
mod guard;
mod json;
mod jvm;
mod log;
mod passport;
mod runtime;
mod scripted;
mod secret;
mod tools;

uniffi::setup_scaffolding!("actpass_native");
