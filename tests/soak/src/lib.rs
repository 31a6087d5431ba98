//! The soak test: clients in several languages call gateways for a long time over a network that
//! refuses, resets, delays, stalls, truncates, duplicates and corrupts, while gateways are killed
//! and restarted, data files are removed, keys are repeated and passports are revoked. At the end,
//! executed actions are checked against the ledgers.
//!
//! See `docs/soak.md` for the method and the results of a long run.

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

/// Result of everything in this crate.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;
