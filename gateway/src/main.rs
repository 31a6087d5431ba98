//! `actpass-gateway`; see the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    actpass_gateway::cli::run()
}
