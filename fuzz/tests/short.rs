//! Runs each target for a few seconds: every seed, then random mutations.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use actpass_fuzz::{TARGETS, Target};

/// The default time per target; `ACTPASS_FUZZ_SECONDS` overrides it.
const SECONDS: f64 = 3.0;

#[test]
fn decision() {
    run("decision");
}

#[test]
fn policy() {
    run("policy");
}

#[test]
fn passport() {
    run("passport");
}

#[test]
fn canonical() {
    run("canonical");
}

#[test]
fn gateway() {
    run("gateway");
}

#[test]
fn every_target_is_tested() {
    assert_eq!(TARGETS.map(|target| target.name), ["decision", "policy", "passport", "canonical", "gateway"]);
}

fn run(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let seconds = std::env::var("ACTPASS_FUZZ_SECONDS").map_or(SECONDS, |given| given.parse().unwrap());
    let seed =
        std::env::var("ACTPASS_FUZZ_SEED").map_or_else(|_| from_the_clock(), |given| given.parse().unwrap());
    let mut random = Random(seed | 1);
    let seeds = (target.seeds)();
    for input in &seeds {
        attempt(target, input, seed);
    }
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let mut count = seeds.len();
    while Instant::now() < until {
        let mut input = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(4) {
            change(&mut input, &seeds, &mut random);
        }
        attempt(target, &input, seed);
        count += 1;
    }
    println!("{name}: {count} inputs, {} of them seeds, ACTPASS_FUZZ_SEED={seed}", seeds.len());
}

/// Runs the target and saves the input if an invariant is violated.
fn attempt(target: &Target, input: &[u8], seed: u64) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz").join(target.name);
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("found-{seed}"));
        std::fs::write(&path, input).unwrap();
        eprintln!(
            "{} does not hold for {:?}, kept in {}",
            target.name,
            String::from_utf8_lossy(input),
            path.display()
        );
        resume_unwind(panic);
    }
}

fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    const WORDS: [&str; 24] = [
        "allow",
        "\"",
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "null",
        "true",
        "1e999",
        "-",
        "\\u0000",
        "\\ud800",
        "\u{feff}",
        "\r\n",
        " ",
        "0",
        "9007199254740993",
        "\"decision\":",
        "\"token\":",
        "%00",
        ".",
        "=",
    ];
    let at = random.below(input.len() + 1);
    match random.below(8) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.byte(),
        2 => input.insert(at, random.byte()),
        3 => drop(input.splice(at..at, WORDS[random.below(WORDS.len())].bytes())),
        4 => drop(input.drain(at..(at + 1 + random.below(8)).min(input.len()).max(at))),
        5 => input.truncate(at),
        6 => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len() + 1);
            let until = (from + random.below(64)).min(other.len());
            drop(input.splice(at..at, other[from..until].iter().copied()));
        }
        _ => {
            let until = (at + random.below(32)).min(input.len());
            let again = input[at..until].repeat(1 + random.below(3));
            drop(input.splice(at..at, again));
        }
    }
}

/// xorshift: varied, and reproducible from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }
}

fn from_the_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros().try_into().unwrap()
}
