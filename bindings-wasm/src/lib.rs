//! `actpass.wasm`: the engine of the Node package for hosts without native addons.
//!
//! The module has no threads, no WASI and no JavaScript. Its host, `ts/engine.ts`, provides time,
//! randomness, timers and `fetch`, and takes completed calls. JSON texts cross as in the native module.
//! An entry is never entered again while it runs: the host starts requests and timers later.
//!
//! A panic ends the instance: it traps, and the host replaces it. Nothing is caught here.

#![cfg(target_family = "wasm")]
#![allow(clippy::needless_pass_by_value, reason = "the texts of a call are spent by it")]

mod abi;
mod buffers;
mod calls;
mod client;
mod executor;
mod host;
mod transport;
