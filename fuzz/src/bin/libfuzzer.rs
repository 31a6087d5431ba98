//! The coverage-guided driver. `scripts/fuzz` builds it and sets `ACTPASS_FUZZ_TARGET`.
//!
//! With `ACTPASS_FUZZ_SEEDS` it first writes the target's seeds to that folder.
#![no_main]

use std::env;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use actpass_fuzz::{TARGETS, Target};

static CHOSEN: LazyLock<Target> = LazyLock::new(|| {
    let name = env::var("ACTPASS_FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.into_iter().find(|target| target.name == name);
    let chosen = found.unwrap_or_else(|| {
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        give_up(&format!("ACTPASS_FUZZ_TARGET: expected one of {}, found {name:?}", names.join(", ")))
    });
    if let Ok(folder) = env::var("ACTPASS_FUZZ_SEEDS") {
        for (number, seed) in (chosen.seeds)().into_iter().enumerate() {
            if let Err(error) = fs::write(Path::new(&folder).join(format!("seed-{number}")), seed) {
                give_up(&format!("{folder}: {error}"));
            }
        }
    }
    chosen
});

fn give_up(problem: &str) -> ! {
    eprintln!("{problem}");
    std::process::exit(2)
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| (CHOSEN.run)(data));
