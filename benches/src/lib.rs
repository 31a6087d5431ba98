//! Shared parts of the benchmarks: requests, responses, policies and fixed-response servers.

pub mod load;
pub mod pure;
pub mod round;
pub mod samples;
pub mod server;
pub mod worker;

use actpass_gateway::policy;

/// An error that aborts a measurement.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
