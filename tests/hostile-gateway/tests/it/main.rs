//! The gateway's behaviour as seen by clients.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    reason = "tests"
)]

mod client;
mod connections;
mod http2;
mod process;
mod requests;
mod scripts;
mod steps;
mod tls;
