//! Fuzz targets and their invariants: the guard, policies, passports, canonical JSON and the
//! gateway's HTTP.
//!
//! Each [`Target`] is a function that panics if an invariant is violated. Two drivers run the
//! targets: `tests/short.rs`, which needs no tools and runs with the other tests, and the
//! coverage-guided `src/bin/libfuzzer.rs`, which runs indefinitely.
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

/// An invariant over arbitrary bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Panics if the invariant is violated.
    pub run: fn(&[u8]),
    /// Seed inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
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

/// Polls a future to completion, without a thread.
fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(future)
}
