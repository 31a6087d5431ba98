//! Resource usage of processes: memory, descriptors, sockets and threads, from Linux's /proc.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A sample of a process's resources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Time since the start of the load.
    pub at: Duration,
    /// Resident memory, in KiB.
    pub memory: u64,
    /// Open descriptors, including sockets.
    pub descriptors: u64,
    /// Open sockets.
    pub sockets: u64,
    /// Threads.
    pub threads: u64,
}

impl Sample {
    /// Samples the process `process`.
    ///
    /// # Errors
    ///
    /// Returns an error if the process does not exist.
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
            // It may have been closed in the meantime.
            let leads_to = descriptor.and_then(|descriptor| fs::read_link(descriptor.path()));
            if leads_to.is_ok_and(|to| to.to_string_lossy().starts_with("socket:")) {
                sample.sockets += 1;
            }
        }
        Ok(sample)
    }
}

/// Samples of a process in order of time.
#[derive(Clone, Debug, Default)]
pub struct Series(Vec<Sample>);

impl Series {
    /// Adds a sample.
    pub fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// Returns the last sample.
    pub fn last(&self) -> Option<Sample> {
        self.0.last().copied()
    }

    /// Returns the median of a value in the quarter `quarter` of the samples, counted from 0;
    /// `None` if there are no samples.
    pub fn median(&self, quarter: usize, figure: impl Fn(&Sample) -> u64) -> Option<u64> {
        let bound = |quarter: usize| self.0.len() * quarter / 4;
        let mut figures: Vec<_> =
            self.0.get(bound(quarter)..bound(quarter + 1))?.iter().map(figure).collect();
        figures.sort_unstable();
        figures.get(figures.len() / 2).copied()
    }

    /// Returns the maximum of a value.
    pub fn most(&self, figure: impl Fn(&Sample) -> u64) -> u64 {
        self.0.iter().map(figure).max().unwrap_or_default()
    }
}

/// Compares two idle samples and describes leaks beyond `memory` KiB and the `readers` of a store,
/// each of which may temporarily keep a thread and three files.
///
/// One leaked descriptor, socket or thread per hundred calls would exceed the allowances by far.
pub fn leaked(name: &str, before: &Sample, after: &Sample, memory: u64, readers: u64) -> Vec<String> {
    [
        ("KiB", before.memory, after.memory, memory),
        ("descriptors", before.descriptors, after.descriptors, 3 + 3 * readers),
        ("sockets", before.sockets, after.sockets, 2),
        ("threads", before.threads, after.threads, 2 + readers),
    ]
    .into_iter()
    .filter(|(_, before, after, allowance)| *after > before + allowance)
    .map(|(what, before, after, _)| format!("{name}: {after} {what} when idle, {before} before the load"))
    .collect()
}

/// Describes memory growth under load if it exceeds `allowance` KiB between the medians of the
/// second and last quarter.
pub fn grew(name: &str, series: &Series, allowance: u64) -> Option<String> {
    let (before, after) =
        (series.median(1, |sample| sample.memory)?, series.median(3, |sample| sample.memory)?);
    (after > before + allowance)
        .then(|| format!("{name} grew from {before} to {after} KiB under load, limit {allowance} KiB more"))
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
