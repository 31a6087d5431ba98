//! What the Swift and Kotlin faces call. It converts to the core and back, and means nothing of its own.
//!
//! The types here are no interface for users: the generated code is private to the packages, and the faces over it are
//! what they show.

mod approval;
mod client;
mod error;
mod evidence;
mod guard;
mod passport;
mod runtime;

uniffi::setup_scaffolding!("actpass_native");
