//! What the Swift and Kotlin faces call. It converts to the core and back, and means nothing of its own.
//!
//! The types here are no interface for users: the generated code is private to the packages, and the faces over it are
//! what they show.

#![expect(
    clippy::large_enum_variant,
    clippy::needless_pass_by_value,
    clippy::result_large_err,
    reason = "what crosses the border is given by value, a few times a call"
)]

mod approval;
mod calls;
mod client;
mod error;
mod evidence;
mod guard;
mod json;
mod log;
mod passport;
mod runtime;
mod scripted;
mod secret;

uniffi::setup_scaffolding!("actpass_native");
