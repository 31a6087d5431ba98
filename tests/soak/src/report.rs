//! Markdown tables of the report.

use std::collections::{BTreeMap, BTreeSet};

use crate::checks::{RunSummary, Tally};
use crate::faults::Fault;
use crate::files::Damaged;
use crate::gateway::Log;
use crate::measure::{Sample, Series};
use crate::passports::Revocations;
use crate::proxy::Proxy;

/// A process over the whole run.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its name.
    pub name: String,
    /// Samples under load.
    pub load: Series,
    /// Idle samples before and after the load; `None` if not measured.
    pub rest: Option<(Sample, Sample)>,
}

/// A gateway over the whole run.
#[derive(Debug)]
pub struct Gateway<'r> {
    /// Its name.
    pub name: &'r str,
    /// Its proxy.
    pub proxy: &'r Proxy,
    /// Number of kills.
    pub kills: u64,
    /// Its log.
    pub log: &'r Log,
    /// Number of events in its ledger.
    pub events: usize,
    /// Output of the verification.
    pub verified: &'r str,
}

/// Outcomes of the calls.
pub fn calls(judgement: &RunSummary) -> String {
    let mut rows = vec![
        [
            "client",
            "gateway",
            "calls",
            "ran",
            "of these failed",
            "ran in monitor",
            "blocked by policy",
            "gate failed",
            "made again",
            "blocked as repeated",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    let mut total = Tally::default();
    let row = |series: &str, gateway: &str, tally: &Tally| {
        let failures = tally.by_failure.values().sum();
        let figures = [
            tally.calls,
            tally.executed,
            tally.failed,
            tally.observed,
            tally.by_policy,
            failures,
            tally.repeated,
            tally.replayed,
        ]
        .map(number);
        [series.to_owned(), gateway.to_owned()].into_iter().chain(figures).collect::<Vec<_>>()
    };
    for ((series, gateway), tally) in &judgement.tallies {
        rows.push(row(series, gateway, tally));
        add(&mut total, tally);
    }
    rows.push(row("all", "", &total));
    table(&rows)
}

/// Reasons for actions that did not run because of gate failures, by client.
pub fn reasons(judgement: &RunSummary) -> String {
    let mut by_series: BTreeMap<&str, Tally> = BTreeMap::new();
    for ((series, _), tally) in &judgement.tallies {
        add(by_series.entry(series).or_default(), tally);
    }
    let reasons: BTreeSet<_> = by_series.values().flat_map(|tally| tally.by_failure.keys()).collect();
    let mut rows =
        vec![["blocked by"].into_iter().chain(by_series.keys().copied()).map(str::to_owned).collect()];
    let mut row = |name: String, figure: &dyn Fn(&Tally) -> u64| {
        rows.push([name].into_iter().chain(by_series.values().map(|tally| number(figure(tally)))).collect());
    };
    for reason in reasons {
        row(format!("`{reason}`"), &|tally| tally.by_failure.get(reason).copied().unwrap_or_default());
    }
    row("unknown decision word".to_owned(), &|tally| tally.by_unknown_word);
    row("`actpass.unrecorded`".to_owned(), &|tally| tally.by_unrecorded);
    table(&rows)
}

/// Results of revocations and file damage.
pub fn safeguards(revocations: &Revocations, deployments: &[(&str, &Damaged)]) -> String {
    let Revocations { revoked, used, denied, failed, violations } = revocations;
    let mut rows = vec![
        vec!["passports".to_owned(), String::new()],
        vec!["revoked".to_owned(), number(*revoked)],
        vec!["of these, used before".to_owned(), number(*used)],
        vec!["denied after the revocation was acknowledged".to_owned(), number(*denied)],
        vec!["failed after the revocation was acknowledged".to_owned(), number(*failed)],
        vec!["allowed after the revocation was acknowledged".to_owned(), number(violations.len() as u64)],
    ];
    for (name, harmed) in deployments {
        rows.push(vec![format!("files of {name} removed or replaced"), number(harmed.times)]);
        rows.push(vec!["requests rejected with 503 while damaged".to_owned(), number(harmed.refused)]);
        rows.push(vec!["decided while damaged".to_owned(), number(harmed.violations.len() as u64)]);
    }
    table(&rows)
}

/// Network faults, their consequences, and the ledgers.
pub fn network(gateways: &[Gateway<'_>], judgement: &RunSummary) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, figure: &dyn Fn(&Gateway<'_>) -> String| {
        rows.push([name.to_owned()].into_iter().chain(gateways.iter().map(figure)).collect());
    };
    row("", &|gateway| gateway.name.to_owned());
    row("connections", &|gateway| number(gateway.proxy.connections()));
    row("gateway unreachable", &|gateway| number(gateway.proxy.unreachable()));
    for fault in Fault::ALL {
        row(fault.name(), &|gateway| number(gateway.proxy.faults().of(fault)));
    }
    row("gateway killed", &|gateway| number(gateway.kills));
    let statuses: BTreeSet<_> = gateways.iter().flat_map(|gateway| gateway.log.statuses.keys()).collect();
    for status in statuses {
        let count = |gateway: &Gateway<'_>| gateway.log.statuses.get(status).copied().unwrap_or_default();
        row(&format!("answered {status}"), &|gateway| number(count(gateway)));
    }
    let way = |gateway: &Gateway<'_>| judgement.on_the_way.get(gateway.name).cloned().unwrap_or_default();
    row("changed request allowed, not executed", &|gateway| number(way(gateway).allowed_changed));
    row("of these, original request denied", &|gateway| number(way(gateway).allowed_denied));
    row("changed request not allowed", &|gateway| number(way(gateway).other_changed));
    row("executed as recorded, evidence id corrupted", &|gateway| number(way(gateway).damaged_evidence));
    row("executed as recorded, request hash lost", &|gateway| number(way(gateway).unbound));
    row("events in the ledger", &|gateway| number(gateway.events as u64));
    row("`evidence verify`", &|gateway| gateway.verified.to_owned());
    table(&rows)
}

/// Resource usage of processes: idle, under load, idle again. Memory under load is given as two
/// medians.
pub fn processes(processes: &[Process]) -> String {
    let columns = ["process", "memory, KiB", "descriptors", "sockets", "threads"];
    let mut rows = vec![columns.map(str::to_owned).to_vec()];
    for process in processes {
        let figures = |figure: fn(&Sample) -> u64, quarters: &[usize]| {
            let load =
                quarters.iter().map(|quarter| process.load.median(*quarter, figure).unwrap_or_default());
            let before = process.rest.iter().map(|(before, _)| figure(before));
            let after = process.rest.iter().map(|(_, after)| figure(after));
            before.chain(load).chain(after).map(number).collect::<Vec<_>>().join(" → ")
        };
        rows.push(vec![
            process.name.clone(),
            figures(|sample| sample.memory, &[1, 3]),
            figures(|sample| sample.descriptors, &[3]),
            figures(|sample| sample.sockets, &[3]),
            figures(|sample| sample.threads, &[3]),
        ]);
    }
    table(&rows)
}

fn add(total: &mut Tally, tally: &Tally) {
    total.calls += tally.calls;
    total.executed += tally.executed;
    total.failed += tally.failed;
    total.observed += tally.observed;
    total.by_policy += tally.by_policy;
    total.by_unknown_word += tally.by_unknown_word;
    total.by_unrecorded += tally.by_unrecorded;
    total.repeated += tally.repeated;
    total.replayed += tally.replayed;
    for (reason, count) in &tally.by_failure {
        *total.by_failure.entry(reason.clone()).or_default() += count;
    }
}

fn table(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        text.push_str(&format!("| {} |\n", row.join(" | ")));
        if at == 0 {
            text.push_str(&format!("|{}\n", "---|".repeat(row.len())));
        }
    }
    text
}

/// Formats with groups of three digits.
fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_numbers_and_tables() {
        assert_eq!([0, 999, 1000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        let rows = [["a", "b"], ["c", "d"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "| a | b |\n|---|---|\n| c | d |\n");
    }
}
