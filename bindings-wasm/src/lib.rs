//! `actpass.wasm`: the engine of the Node package for hosts without native addons.
//!
//! The module has no threads, no WASI and no JavaScript of its own. Its host, `ts/wasm/engine.ts`,
//! provides time, randomness, timers and `fetch`, and polls for completed calls. Texts cross as in the
//! native module: JSON, one direction each. An entry never calls the host's code back into the module:
//! the host only starts what the entry asks for.
//!
//! A panic ends the instance: it traps, and the host replaces it. Nothing is caught here.

#![cfg(target_family = "wasm")]
#![allow(clippy::needless_pass_by_value, reason = "the texts of a call are spent by it")]

mod abi;
mod calls;
mod client;
mod executor;
mod host;
mod transport;
