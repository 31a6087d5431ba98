//! `native.node`: what the TypeScript face calls. It converts to the core and back, and means nothing of its own.

mod approval;
mod client;
mod convert;
mod error;
mod evidence;
mod guard;
mod passport;
mod runtime;
