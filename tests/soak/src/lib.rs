//! The soak test: real clients in several languages ask real gateways for a long time, over a network that refuses, resets,
//! delays, stalls, cuts, repeats and corrupts, while the gateways are killed and started again, their files are taken away, keys are repeated and passports are
//! revoked. At the end a judge holds
//! what ran against what the ledgers say.
//!
//! `docs/soak.md` says what is asked for, how it is made sure of, and what a long run found.

#![forbid(unsafe_code)]

pub mod call;
pub mod checks;
pub mod faults;
pub mod files;
pub mod gateway;
pub mod measure;
pub mod passports;
pub mod proxy;
pub mod report;
pub mod worker;

use std::error::Error;

/// What anything here ends with.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;
