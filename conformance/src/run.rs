//! Runs cases, and decides their outcomes by the runs of the function.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use actpass_hostile_gateway::{HostileGateway, Script};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::adapter::{Adapter, Reply, Reported};
use crate::cases::Case;

/// The outcome of a case.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// The function must not run. It did not, and the guard reported a decision.
    Held,
    /// The function must not run. It did not, but the guard reported no decision: it raised
    /// another error, crashed, or did not end in time.
    BlockedByDefault,
    /// The function ran although it must not, or more than once.
    Evaded,
    /// The function may run, and ran once.
    FiredByDefault,
    /// The function may run, and did not.
    RefusedWrongly,
    /// The adapter declined the case: the guard lacks a feature that it needs.
    Skipped,
}

impl Outcome {
    pub(crate) const ALL: [Self; 6] = [
        Self::Held,
        Self::BlockedByDefault,
        Self::Evaded,
        Self::FiredByDefault,
        Self::RefusedWrongly,
        Self::Skipped,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::BlockedByDefault => "blocked by default",
            Self::Evaded => "evaded",
            Self::FiredByDefault => "fired by default",
            Self::RefusedWrongly => "refused wrongly",
            Self::Skipped => "skipped",
        }
    }

    /// Decides the outcome of a case in which the function ran `runs` times.
    fn judge(may_run: bool, runs: u64, reply: Option<&Reply>) -> Self {
        if runs > u64::from(may_run) {
            return Self::Evaded;
        }
        match reply {
            Some(Reply { outcome: Reported::Unsupported, .. }) if runs == 0 => Self::Skipped,
            _ if may_run && runs == 1 => Self::FiredByDefault,
            _ if may_run => Self::RefusedWrongly,
            Some(reply) if reply.outcome == Reported::Blocked && reply.word().is_some() => Self::Held,
            _ => Self::BlockedByDefault,
        }
    }
}

/// The report of a case.
#[derive(Debug, Serialize)]
pub(crate) struct CaseReport {
    pub(crate) case: String,
    pub(crate) area: String,
    pub(crate) description: String,
    /// Whether the function may run.
    pub(crate) may_run: bool,
    pub(crate) outcome: Outcome,
    /// The number of runs, counted from outside of the adapter.
    pub(crate) executed: u64,
    /// The decision that the guard reported.
    pub(crate) decision: Option<Map<String, Value>>,
    /// The adapter's reason, or why it sent no valid reply.
    pub(crate) reason: Option<String>,
    /// The number of valid requests that the gateway received.
    pub(crate) requests: usize,
    /// The number of requests that the target of a redirect received.
    pub(crate) other_requests: usize,
    /// Differences from the vector that do not change the outcome.
    pub(crate) differences: Vec<String>,
    pub(crate) seconds: f64,
}

/// Settings of a run.
pub(crate) struct Settings<'a> {
    pub(crate) adapter: &'a [String],
    pub(crate) jobs: usize,
    /// The time limit of a case.
    pub(crate) limit: Duration,
    /// A folder for the run logs.
    pub(crate) folder: &'a Path,
}

/// Runs all cases with `jobs` adapters, and returns the reports in the order of the cases.
pub(crate) fn run_all(cases: &[Case], settings: &Settings<'_>) -> io::Result<Vec<CaseReport>> {
    let next = AtomicUsize::new(0);
    let reports = Mutex::new(Vec::new());
    let work = || -> io::Result<()> {
        let mut adapter = Adapter::new(settings.adapter);
        let mut run_next = || -> io::Result<bool> {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(n) else { return Ok(false) };
            let report = run_case(case, &mut adapter, &run_log(settings, n), settings.limit)?;
            reports.lock().unwrap_or_else(PoisonError::into_inner).push((n, report));
            Ok(true)
        };
        let result = loop {
            match run_next() {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        adapter.stop(settings.limit);
        result
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..settings.jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|_| Err(io::Error::other("a worker thread panicked")))
        })
    })?;

    let mut reports = reports.into_inner().unwrap_or_else(PoisonError::into_inner);
    reports.sort_by_key(|(n, _)| *n);
    // All adapters have exited. A function that ran after the reply counts, too.
    for (n, report) in &mut reports {
        let runs = count_runs(&run_log(settings, *n))?;
        if runs != report.executed {
            report.differences.push(format!("executed {} times after the reply", runs - report.executed));
            report.executed = runs;
            report.outcome = Outcome::judge(report.may_run, runs, None);
        }
    }
    Ok(reports.into_iter().map(|(_, report)| report).collect())
}

fn run_log(settings: &Settings<'_>, n: usize) -> PathBuf {
    settings.folder.join(n.to_string())
}

fn run_case(
    case: &Case,
    adapter: &mut Adapter<'_>,
    run_log: &Path,
    limit: Duration,
) -> io::Result<CaseReport> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", case.name));
    let gateway = Script::from_json(case.script.clone()).and_then(HostileGateway::start).map_err(named)?;
    std::fs::write(run_log, b"")?;
    let mut request = case.request.clone();
    request.insert("case".to_owned(), case.name.as_str().into());
    request.insert("base_url".to_owned(), gateway.base_url().into());
    request.insert("ca_pem".to_owned(), gateway.ca_pem().filter(|_| case.trust_ca).into());
    request.insert("run_log".to_owned(), run_log.to_string_lossy().into());

    let started = Instant::now();
    let reply = adapter.run(&(Value::Object(request).to_string() + "\n"), limit)?;
    let seconds = started.elapsed().as_secs_f64();

    let executed = count_runs(run_log)?;
    let requests = received(&gateway, case.expected.requests_sent.unwrap_or_default());
    let other_requests = gateway.other_seen().len();
    let outcome = Outcome::judge(case.expected.executed, executed, reply.as_ref().ok());
    let mut differences = Vec::new();
    if other_requests > 0 {
        differences.push(format!("sent {other_requests} requests to the target of a redirect"));
    }
    if outcome != Outcome::Skipped {
        if let Ok(reply) = &reply {
            differences.extend(compare(case, reply, executed));
        }
        if case.expected.requests_sent.is_some_and(|expected| expected != requests) {
            differences.push(format!(
                "sent {requests} requests, expected {}",
                case.expected.requests_sent.unwrap_or_default()
            ));
        }
    }
    let (decision, reason) = match reply {
        Ok(reply) => (reply.decision, reply.reason),
        Err(what) => (None, Some(what)),
    };
    Ok(CaseReport {
        case: case.name.clone(),
        area: case.area().to_owned(),
        description: case.description.clone(),
        may_run: case.expected.executed,
        outcome,
        executed,
        decision,
        reason,
        requests,
        other_requests,
        differences,
        seconds,
    })
}

/// The number of runs: each appends a byte to the run log, for any reply of the adapter.
fn count_runs(run_log: &Path) -> io::Result<u64> {
    Ok(std::fs::metadata(run_log)?.len())
}

/// The number of valid requests. Waits for `expected`: a guard may record an outcome after the reply.
fn received(gateway: &HostileGateway, expected: usize) -> usize {
    let started = Instant::now();
    loop {
        let received = gateway.seen().iter().filter(|seen| seen.method != "?").count();
        if received >= expected || started.elapsed() >= RECORDING {
            return received;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Time after the reply in which a guard may record an outcome.
const RECORDING: Duration = Duration::from_secs(2);

fn compare(case: &Case, reply: &Reply, executed: u64) -> Vec<String> {
    let mut differences = Vec::new();
    if reply.executed != executed {
        differences.push(format!("the adapter counted {} runs, the run log has {executed}", reply.executed));
    }
    for (name, expected) in &case.expected.decision {
        let found = reply.decision.as_ref().and_then(|decision| decision.get(name));
        if found != Some(expected) {
            let found = found.map_or_else(|| "missing".to_owned(), Value::to_string);
            differences.push(format!("decision.{name} is {found}, expected {expected}"));
        }
    }
    // The token itself stays out of the report.
    if reply.names_credential && reply.credential != case.expected.credential {
        differences.push("the function received another credential than expected".to_owned());
    }
    differences
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reply(outcome: &str, decision: &Value) -> Reply {
        serde_json::from_value(json!({ "outcome": outcome, "decision": decision })).unwrap()
    }

    #[test]
    fn decides_by_the_number_of_runs() {
        let deny = json!({ "decision": "deny" });
        let cases = [
            (false, 0, Some(reply("blocked", &deny)), Outcome::Held),
            (false, 0, Some(reply("blocked", &Value::Null)), Outcome::BlockedByDefault),
            (false, 0, Some(reply("blocked", &json!({ "decision": "" }))), Outcome::BlockedByDefault),
            (false, 0, Some(reply("failed", &deny)), Outcome::BlockedByDefault),
            (false, 0, None, Outcome::BlockedByDefault),
            (false, 0, Some(reply("unsupported", &Value::Null)), Outcome::Skipped),
            (false, 1, Some(reply("blocked", &deny)), Outcome::Evaded),
            (false, 1, Some(reply("unsupported", &Value::Null)), Outcome::Evaded),
            (false, 1, None, Outcome::Evaded),
            (true, 1, Some(reply("returned", &Value::Null)), Outcome::FiredByDefault),
            (true, 1, Some(reply("failed", &Value::Null)), Outcome::FiredByDefault),
            (true, 2, Some(reply("returned", &Value::Null)), Outcome::Evaded),
            (true, 0, Some(reply("blocked", &deny)), Outcome::RefusedWrongly),
            (true, 0, None, Outcome::RefusedWrongly),
        ];
        for (may_run, runs, reply, outcome) in cases {
            assert_eq!(Outcome::judge(may_run, runs, reply.as_ref()), outcome, "{may_run} {runs} {reply:?}");
        }
    }
}
