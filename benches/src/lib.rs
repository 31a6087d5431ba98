//! What the measurements share: what is asked and answered, the policies that decide, and servers that answer alike.

pub mod load;
pub mod pure;
pub mod round;
pub mod samples;
pub mod server;
pub mod worker;

use actpass_gateway::policy;

/// What ends a measurement early.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
