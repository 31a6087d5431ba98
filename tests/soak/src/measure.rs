//! What processes hold: memory, descriptors, sockets and threads, as Linux tells it.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// What a process held at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Since the beginning of the load.
    pub at: Duration,
    /// Resident memory, in KiB.
    pub memory: u64,
    /// Open descriptors, sockets included.
    pub descriptors: u64,
    /// Open sockets.
    pub sockets: u64,
    /// Threads.
    pub threads: u64,
}

impl Sample {
    /// What the process `process` holds.
    ///
    /// # Errors
    ///
    /// If there is no such process.
    pub fn take(process: u32, at: Duration) -> io::Result<Self> {
        let folder = PathBuf::from(format!("/proc/{process}"));
        let status = fs::read_to_string(folder.join("status"))?;
        let figure = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let mut sample = Self {
            at,
            memory: figure("VmRSS:").unwrap_or_default(),
            threads: figure("Threads:").unwrap_or_default(),
            ..Self::default()
        };
        for descriptor in fs::read_dir(folder.join("fd"))? {
            sample.descriptors += 1;
            // It may be closed by now.
            let leads_to = descriptor.and_then(|descriptor| fs::read_link(descriptor.path()));
            if leads_to.is_ok_and(|to| to.to_string_lossy().starts_with("socket:")) {
                sample.sockets += 1;
            }
        }
        Ok(sample)
    }
}

/// What a process held at many times, in order.
#[derive(Clone, Debug, Default)]
pub struct Series(Vec<Sample>);

impl Series {
    /// One more.
    pub fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// The last.
    pub fn last(&self) -> Option<Sample> {
        self.0.last().copied()
    }

    /// The median of a figure in the quarter `quarter` of the samples, counted from 0; `None` if it has none.
    pub fn median(&self, quarter: usize, figure: impl Fn(&Sample) -> u64) -> Option<u64> {
        let bound = |quarter: usize| self.0.len() * quarter / 4;
        let mut figures: Vec<_> =
            self.0.get(bound(quarter)..bound(quarter + 1))?.iter().map(figure).collect();
        figures.sort_unstable();
        figures.get(figures.len() / 2).copied()
    }

    /// The greatest of a figure.
    pub fn most(&self, figure: impl Fn(&Sample) -> u64) -> u64 {
        self.0.iter().map(figure).max().unwrap_or_default()
    }
}

/// What is leaked, between two times at which a process should hold the same, but for `memory` KiB and for the `readers` of a
/// store, each of which is a thread with three files and stays for a while: each as a sentence.
///
/// A program that leaks one descriptor, socket or thread for some hundred calls is far beyond the allowances.
pub fn leaked(name: &str, before: &Sample, after: &Sample, memory: u64, readers: u64) -> Vec<String> {
    [
        ("KiB", before.memory, after.memory, memory),
        ("descriptors", before.descriptors, after.descriptors, 3 + 3 * readers),
        ("sockets", before.sockets, after.sockets, 2),
        ("threads", before.threads, after.threads, 2 + readers),
    ]
    .into_iter()
    .filter(|(_, before, after, allowance)| *after > before + allowance)
    .map(|(what, before, after, _)| format!("{name} holds {after} {what} at rest, {before} before the load"))
    .collect()
}

/// How far memory grew under the load, from the median of the second quarter to that of the last, if that is more than
/// `allowance` KiB.
pub fn grew(name: &str, series: &Series, allowance: u64) -> Option<String> {
    let (before, after) =
        (series.median(1, |sample| sample.memory)?, series.median(3, |sample| sample.memory)?);
    (after > before + allowance).then(|| {
        format!("{name} grew from {before} to {after} KiB under the load, {allowance} KiB more are allowed")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_open_files() {
        let take = || Sample::take(std::process::id(), Duration::ZERO).unwrap();
        let before = take();
        let held: Vec<_> = (0..8).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let after = take();
        assert!(after.sockets >= before.sockets + 8 && after.memory > 0 && after.threads > 0, "{after:?}");
        let said = leaked("it", &before, &after, u64::MAX / 2, 0);
        assert!(said.iter().any(|leak| leak.contains("sockets")), "{said:?}");
        drop(held);
    }

    #[test]
    fn distinguishes_leak_from_noise() {
        let series = |slope: u64| {
            let mut series = Series::default();
            for number in 0..100 {
                let memory = 50_000 + slope * number + 700 * (number % 7);
                series.push(Sample { memory, ..Sample::default() });
            }
            series
        };
        assert_eq!(grew("it", &series(0), 8192), None);
        assert!(grew("it", &series(200), 8192).unwrap().starts_with("it grew from "));
    }
}
