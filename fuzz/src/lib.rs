//! What holds for any bytes: of the guard's answers, of policies, of passports, of canonical JSON, of the gateway's HTTP.
//!
//! Each [`Target`] is a function that panics where something does not hold. Two drivers feed it: `tests/short.rs`, which needs
//! nothing and runs with the other tests, and `src/bin/libfuzzer.rs`, which is guided by coverage and runs for as long as it
//! is let.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "tests"
)]

mod canonical;
mod decision;
mod gateway;
mod passport;
mod policy;

use std::path::{Path, PathBuf};

/// Something that holds for any bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Panics if it does not hold for these.
    pub run: fn(&[u8]),
    /// Bytes to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: [Target; 5] = [
    Target { name: "decision", run: decision::run, seeds: decision::seeds },
    Target { name: "policy", run: policy::run, seeds: policy::seeds },
    Target { name: "passport", run: passport::run, seeds: passport::seeds },
    Target { name: "canonical", run: canonical::run, seeds: canonical::seeds },
    Target { name: "gateway", run: gateway::run, seeds: gateway::seeds },
];

/// The files with `extension` in a folder of the repository.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let mut found: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|found| found == extension));
    found.sort();
    assert!(!found.is_empty(), "nothing to begin with in {}", folder.display());
    found
}

/// Runs a future to its end, without a thread.
fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(future)
}
