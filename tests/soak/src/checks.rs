//! Compares executed actions with the ledgers.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;

use crate::Result;
use crate::call::{Call, Line, MOST_ALLOWED, Mode, REPEATS, Ran, Reported, resource};
use crate::{files, passports};

/// The content of all workers' journals.
#[derive(Debug, Default)]
pub struct Journals {
    reported: Vec<Reported>,
    ran: HashMap<String, Vec<Ran>>,
}

impl Journals {
    /// Reads a worker's journal.
    ///
    /// # Errors
    ///
    /// Returns an error for an invalid line.
    pub fn read(&mut self, path: &Path) -> Result<()> {
        for line in BufReader::new(File::open(path)?).lines() {
            let line = line?;
            let read = serde_json::from_str(&line);
            self.add(read.map_err(|error| format!("{}: {error}: {line}", path.display()))?);
        }
        Ok(())
    }

    /// Adds a line.
    pub fn add(&mut self, line: Line) {
        match line {
            Line::Call(reported) => self.reported.push(reported),
            Line::Ran(ran) => self.ran.entry(ran.id.clone()).or_default().push(ran),
        }
    }
}

/// An event in the ledger.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    /// Event id.
    pub event_id: String,
    /// Event type.
    pub event_type: String,
    /// Affected resource.
    pub resource: Option<String>,
    /// Decision.
    pub decision: Option<String>,
    /// Hash of the request.
    pub request_hash: Option<String>,
}

/// The events that a gateway recorded.
#[derive(Debug)]
pub struct Ledger {
    gateway: String,
    /// Whether clients detect changed bytes (TLS).
    sealed: bool,
    events: HashMap<String, Event>,
    by_hash: HashMap<String, Vec<String>>,
}

impl Ledger {
    /// Reads the export of a gateway's decisions. `sealed` states whether its clients use TLS.
    ///
    /// # Errors
    ///
    /// Returns an error for an invalid event.
    pub fn read(gateway: &str, sealed: bool, export: &Path) -> Result<Self> {
        let mut events = Vec::new();
        for line in BufReader::new(File::open(export)?).lines() {
            let line = line?;
            if line.starts_with(r#"{"signature""#) {
                continue;
            }
            events.push(serde_json::from_str(&line)?);
        }
        Ok(Self::new(gateway, sealed, events))
    }

    /// Creates a ledger with these events.
    pub fn new(gateway: &str, sealed: bool, events: Vec<Event>) -> Self {
        let mut by_hash: HashMap<String, Vec<String>> = HashMap::new();
        for event in &events {
            if let Some(hash) = &event.request_hash {
                by_hash.entry(hash.clone()).or_default().push(event.event_id.clone());
            }
        }
        let events = events.into_iter().map(|event| (event.event_id.clone(), event)).collect();
        Self { gateway: gateway.to_owned(), sealed, events, by_hash }
    }

    /// Name of the gateway.
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    /// Returns whether the event exists.
    pub fn has(&self, event: &str) -> bool {
        self.events.contains_key(event)
    }

    /// Number of events.
    pub fn length(&self) -> usize {
        self.events.len()
    }

    fn about<'l>(&'l self, hash: &str) -> impl Iterator<Item = &'l Event> {
        self.by_hash.get(hash).into_iter().flatten().filter_map(|id| self.events.get(id))
    }
}

/// Counters for a series of calls at a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls.
    pub calls: u64,
    /// Repetitions of a call with the same key and body.
    pub repeated: u64,
    /// Repetitions that were blocked as replays.
    pub replayed: u64,
    /// In `enforce` or `strict`: the action ran.
    pub executed: u64,
    /// Same, and it failed with its own error.
    pub failed: u64,
    /// In `monitor`, where actions always run.
    pub observed: u64,
    /// The gateway denied the action.
    pub by_policy: u64,
    /// The gate failed, by reason; the action did not run.
    pub by_failure: BTreeMap<String, u64>,
    /// The decision word was unknown to the client.
    pub by_unknown_word: u64,
    /// Allowed in `strict`, but the evidence id was missing.
    pub by_unrecorded: u64,
}

/// Results of the checks.
#[derive(Debug, Default)]
pub struct RunSummary {
    /// Violations, one sentence each.
    pub violations: Vec<String>,
    /// By series and gateway.
    pub tallies: BTreeMap<(String, String), Tally>,
    /// By gateway.
    pub on_the_way: BTreeMap<String, NetworkChanges>,
}

/// Detected consequences of changed bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkChanges {
    /// The gateway allowed a changed request, and nothing ran.
    pub allowed_changed: u64,
    /// The subset of these whose original request would have been denied.
    pub allowed_denied: u64,
    /// The gateway did not allow a changed request.
    pub other_changed: u64,
    /// An allowed action ran with a missing evidence id or one that differs in one byte.
    pub damaged_evidence: u64,
    /// An allowed action ran with a response that had lost its request hash.
    pub unbound: u64,
}

impl RunSummary {
    /// Checks `journals` against `ledgers`.
    ///
    /// # Errors
    ///
    /// Returns an error if a journal refers to unknown calls or gateways.
    pub fn of(journals: &Journals, ledgers: &[Ledger]) -> Result<Self> {
        let mut summary = Self::default();
        // Number of reports per call that claim execution.
        let mut executed: HashMap<&str, usize> = HashMap::new();
        for reported in &journals.reported {
            *executed.entry(reported.id.as_str()).or_default() += usize::from(reported.executed);
        }
        // Actual and expected number of reports per call.
        let mut reports: HashMap<&str, (usize, usize)> = HashMap::new();
        // Request hashes by call.
        let mut sent: HashMap<String, (String, Call)> = HashMap::new();
        for reported in &journals.reported {
            let id = reported.id.as_str();
            let (series, call) = Call::named(id).ok_or_else(|| format!("{id}: unknown call"))?;
            let ledger = ledgers.iter().find(|ledger| ledger.gateway == reported.gateway);
            let ledger = ledger.ok_or_else(|| format!("{}: unknown gateway", reported.gateway))?;
            let repeats = call.repeats && ledger.sealed;
            let (count, _) = reports.entry(id).or_insert((0, if repeats { 1 + REPEATS } else { 1 }));
            *count += 1;
            summary.tally(series, reported, call, *count == 1);
            let hash = call.request_hash(id)?;
            let all = journals.ran.get(id).map(Vec::as_slice).unwrap_or_default();
            // An execution belongs to the one report that claims it.
            let another = repeats && !reported.executed && executed.get(id) == Some(&1);
            let ran = if another { &[] } else { all };
            let case = Case { reported, call, hash: &hash, ran, ledger };
            let way = summary.on_the_way.entry(ledger.gateway.clone()).or_default();
            if let Err(problem) = case.checks(way) {
                summary.violations.push(format!("{id} at {}: {problem}", ledger.gateway));
            }
            sent.insert(resource(id), (hash, call));
        }
        for (id, (count, expected)) in &reports {
            if count != expected {
                summary.violations.push(format!("{id} has {count} reports instead of {expected}"));
            }
        }
        for id in journals.ran.keys().filter(|id| !reports.contains_key(id.as_str())) {
            summary.violations.push(format!("{id} ran without a report"));
        }
        for ledger in ledgers {
            summary.find_changed(ledger, &sent);
        }
        summary.require_coverage(ledgers);
        Ok(summary)
    }

    fn tally(&mut self, series: &str, reported: &Reported, call: Call, is_first: bool) {
        let tally = self.tallies.entry((series.to_owned(), reported.gateway.clone())).or_default();
        if !is_first {
            tally.repeated += 1;
            tally.replayed += u64::from(reported.reason.as_deref() == Some("actpass.replayed"));
            return;
        }
        tally.calls += 1;
        if call.mode == Mode::Monitor {
            tally.observed += 1;
            return;
        }
        match (reported.executed, reported.kind.as_deref()) {
            (true, kind) => {
                tally.executed += 1;
                tally.failed += u64::from(kind == Some("action"));
            }
            (false, Some(_)) => {
                let reason = reported.reason.clone().unwrap_or_default();
                *tally.by_failure.entry(reason).or_default() += 1;
            }
            (false, None) if reported.reason.as_deref() == Some("actpass.unrecorded") => {
                tally.by_unrecorded += 1;
            }
            (false, None) if ["deny", "require_approval"].contains(&reported.word.as_str()) => {
                tally.by_policy += 1;
            }
            (false, None) => tally.by_unknown_word += 1,
        }
    }

    /// Counts events for requests that no client sent. Over TLS, the count must be zero.
    fn find_changed(&mut self, ledger: &Ledger, sent: &HashMap<String, (String, Call)>) {
        let way = self.on_the_way.entry(ledger.gateway.clone()).or_default();
        for event in ledger.events.values().filter(|event| event.event_type == "decision") {
            if event.resource.as_deref().is_some_and(is_of_the_program) {
                continue;
            }
            let asked = event.resource.as_ref().and_then(|resource| sent.get(resource));
            if asked.is_some_and(|(hash, _)| event.request_hash.as_ref() == Some(hash)) {
                continue;
            }
            if ledger.sealed {
                self.violations
                    .push(format!("{} recorded a request that was not sent: {event:?}", ledger.gateway));
            }
            match event.decision.as_deref() {
                Some("allow") => {
                    way.allowed_changed += 1;
                    way.allowed_denied +=
                        u64::from(asked.is_some_and(|(_, call)| call.amount > MOST_ALLOWED));
                }
                _ => way.other_changed += 1,
            }
        }
    }

    /// A run with too little activity proves nothing.
    fn require_coverage(&mut self, ledgers: &[Ledger]) {
        for ((series, gateway), tally) in &self.tallies {
            let failures: u64 = tally.by_failure.values().sum();
            let counts = [
                ("executed", tally.executed),
                ("blocked by policy", tally.by_policy),
                ("blocked by failure", failures),
            ];
            for (what, _) in counts.into_iter().filter(|(_, count)| *count == 0) {
                self.violations.push(format!("{series} at {gateway}: nothing was {what}"));
            }
        }
        for ledger in ledgers.iter().filter(|ledger| ledger.sealed) {
            for ((series, _), tally) in self.tallies.iter().filter(|((_, at), _)| *at == ledger.gateway) {
                if tally.replayed == 0 {
                    let gateway = &ledger.gateway;
                    self.violations.push(format!("{series} at {gateway}: no replay was blocked"));
                }
            }
        }
        for ledger in ledgers.iter().filter(|ledger| !ledger.sealed) {
            if self.on_the_way.get(&ledger.gateway).is_none_or(|way| way.allowed_denied == 0) {
                let gateway = &ledger.gateway;
                self.violations.push(format!("{gateway}: no denied request was changed to an allowed one"));
            }
        }
    }
}

/// Returns whether the soak program itself, not a worker, made the request.
fn is_of_the_program(resource: &str) -> bool {
    [files::RESOURCE, passports::RESOURCE].iter().any(|prefix| resource.starts_with(prefix))
}

/// A call with everything known about it.
struct Case<'c> {
    reported: &'c Reported,
    call: Call,
    hash: &'c str,
    ran: &'c [Ran],
    ledger: &'c Ledger,
}

impl Case<'_> {
    fn checks(&self, way: &mut NetworkChanges) -> std::result::Result<(), String> {
        let Self { reported, call, ran, .. } = self;
        if ran.len() > 1 {
            return Err(format!("it ran {} times", ran.len()));
        }
        if reported.executed == ran.is_empty() {
            return Err(format!("reported as executed: {}, ran {} times", reported.executed, ran.len()));
        }
        if call.mode == Mode::Monitor && ran.is_empty() {
            return Err("did not run in monitor".to_owned());
        }
        let decided = ["deny", "require_approval"].contains(&reported.word.as_str());
        if ran.is_empty() && reported.kind.is_none() && !decided {
            // Over TLS, nothing arrives changed, and allowed calls are not blocked.
            let unrecorded = reported.reason.as_deref() == Some("actpass.unrecorded");
            if self.ledger.sealed || (reported.word == "allow" && !unrecorded) {
                return Err(format!("unexpectedly blocked by {:?} {:?}", reported.word, reported.reason));
            }
        }
        match ran {
            [ran] if call.mode != Mode::Monitor => self.check_run(ran, way)?,
            _ => self.check_evidence(reported.evidence.as_deref())?,
        }
        match reported.hash.as_deref() {
            Some(hash) if hash != self.hash => Err("the reported decision is for another request".to_owned()),
            _ => Ok(()),
        }
    }

    /// It ran in a mode that requires an allow.
    fn check_run(&self, ran: &Ran, way: &mut NetworkChanges) -> std::result::Result<(), String> {
        if self.call.amount > MOST_ALLOWED {
            return Err("ran although the policy does not allow it".to_owned());
        }
        if !matches!(self.reported.kind.as_deref(), None | Some("action")) {
            return Err(format!("ran although the gate failed: {:?}", self.reported.kind));
        }
        if (self.reported.kind.is_some()) != self.call.fails {
            return Err("the action's own error was not reported".to_owned());
        }
        let mut allowed = self
            .ledger
            .about(self.hash)
            .filter(|event| event.event_type == "decision" && event.decision.as_deref() == Some("allow"));
        let (Some(event), None) = (allowed.next(), allowed.next()) else {
            return Err("ran without exactly one allow in the ledger".to_owned());
        };
        if ran.evidence != self.reported.evidence || ran.hash != self.reported.hash {
            return Err("ran with a different decision than reported".to_owned());
        }
        if ran.hash.is_none() {
            if self.ledger.sealed || self.call.mode == Mode::Strict {
                return Err("ran with a response without request hash".to_owned());
            }
            way.unbound += 1;
        }
        match ran.evidence.as_deref() {
            Some(evidence) if evidence == event.event_id => Ok(()),
            _ if self.ledger.sealed => {
                Err(format!("ran with evidence {:?}, expected {}", ran.evidence, event.event_id))
            }
            None if self.call.mode == Mode::Strict => Err("ran without evidence in strict".to_owned()),
            Some(evidence) if !one_byte_apart(evidence, &event.event_id) => {
                Err(format!("ran with evidence {evidence}, but the ledger has {}", event.event_id))
            }
            _ => {
                way.damaged_evidence += 1;
                Ok(())
            }
        }
    }

    /// A reported event is in the ledger and refers to the request.
    fn check_evidence(&self, told: Option<&str>) -> std::result::Result<(), String> {
        let Some(told) = told else {
            return Ok(());
        };
        match self.ledger.events.get(told) {
            Some(event) if event.request_hash.as_deref() == Some(self.hash) => Ok(()),
            Some(_) => Err(format!("{told} belongs to another request")),
            None if !self.ledger.sealed
                && self.ledger.about(self.hash).any(|event| one_byte_apart(told, &event.event_id)) =>
            {
                Ok(())
            }
            None => Err(format!("{told} was returned but is not in the ledger")),
        }
    }
}

/// Returns whether the texts differ in one byte, for example after a flipped bit. JSON may encode
/// that byte longer.
fn one_byte_apart(one: &str, other: &str) -> bool {
    one.len() == other.len()
        && one.bytes().zip(other.bytes()).filter(|(one, other)| one != other).count() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    // Calls 0 (allowed, enforce), 2 (needs approval, enforce), 3 (denied, enforce), 9 (allowed,
    // strict), 19 (denied, monitor).
    #[test]
    fn valid_run_has_no_violations() {
        assert_eq!(Case::new(0).allowed().judged(), [""; 0]);
        assert_eq!(Case::new(8).allowed().judged(), [""; 0]);
        assert_eq!(Case::new(9).allowed().judged(), [""; 0]);
        assert_eq!(Case::new(3).denied().judged(), [""; 0]);
        assert_eq!(Case::new(1).sealed().allowed().repeated(2).judged(), [""; 0]);
        assert_eq!(Case::new(0).failed().judged(), [""; 0]);
        assert_eq!(Case::new(19).failed().ran().judged(), [""; 0]);
    }

    #[test]
    fn finds_each_violation() {
        let allowed = || Case::new(0).allowed();
        for (case, complaint) in [
            (allowed().ran(), "it ran 2 times"),
            (allowed().with(|case| case.ran.clear()), "reported as executed: true, ran 0 times"),
            (allowed().with(|case| case.reported.clear()), "ran without a report"),
            (allowed().with(|case| case.events.clear()), "ran without exactly one allow"),
            (allowed().with(|case| case.events.extend(case.events.clone())), "ran without exactly one allow"),
            (
                allowed().with(|case| case.events[0].decision = Some("deny".into())),
                "ran without exactly one allow",
            ),
            (
                allowed().with(|case| case.events[0].request_hash = Some("0".into())),
                "ran without exactly one allow",
            ),
            (Case::new(3).allowed(), "the policy does not allow it"),
            (
                allowed().with(|case| {
                    case.ran.clear();
                    case.reported[0].executed = false;
                }),
                "unexpectedly blocked by \"allow\"",
            ),
            (
                Case::new(3).denied().sealed().with(|case| case.reported[0].word = "denx".into()),
                "unexpectedly blocked by \"denx\"",
            ),
            (Case::new(2).allowed(), "the policy does not allow it"),
            (Case::new(3).denied().ran(), "reported as executed: false, ran 1 times"),
            (Case::new(0).failed().ran(), "reported as executed: false, ran 1 times"),
            (
                allowed().with(|case| case.reported[0].kind = Some("response".into())),
                "although the gate failed",
            ),
            (
                allowed().evidence(Some("ev_of_another")),
                "ran with evidence ev_of_another, but the ledger has ev_0",
            ),
            (Case::new(9).allowed().evidence(None), "ran without evidence in strict"),
            (Case::new(9).allowed().hash(None), "ran with a response without request hash"),
            (Case::new(1).sealed().allowed().repeated(2).ran(), "it ran 2 times"),
            (Case::new(1).sealed().allowed().repeated(1), "has 2 reports instead of 3"),
            (Case::new(1).sealed().allowed().repeated(2).with(|case| case.ran.clear()), "ran 0 times"),
            (
                Case::new(1)
                    .sealed()
                    .allowed()
                    .repeated(2)
                    .ran()
                    .with(|case| case.reported[2].executed = true),
                "it ran 2 times",
            ),
            (allowed().hash(Some("0")), "the reported decision is for another request"),
            (
                Case::new(3).denied().with(|case| case.events.clear()),
                "ev_3 was returned but is not in the ledger",
            ),
            (
                Case::new(3).denied().with(|case| case.events[0].request_hash = None),
                "belongs to another request",
            ),
            (Case::new(19).failed().with(|case| case.reported[0].executed = false), "did not run in monitor"),
            (allowed().sealed().evidence(Some("ev_1")), "ran with evidence Some(\"ev_1\"), expected ev_0"),
            (allowed().sealed().hash(None), "ran with a response without request hash"),
            (
                Case::new(0)
                    .failed()
                    .sealed()
                    .with(|case| case.events.push(event("ev_x", 0, "allow", "changed"))),
                "recorded a request that was not sent",
            ),
        ] {
            let judged = case.judged();
            assert_eq!(judged.is_empty(), complaint.is_empty(), "{complaint}: {judged:?}");
            assert!(judged.iter().all(|found| found.contains(complaint)), "{complaint}: {judged:?}");
        }
        let judged = Case::new(0).sealed().allowed().repeated(2).judged();
        assert!(judged.iter().any(|found| found.contains("has 3 reports instead of 1")), "{judged:?}");
    }

    #[test]
    fn counts_corrupted_requests() {
        let changed = event("ev_x", 3, "allow", "changed");
        let (_, way) = Case::new(3).failed().with(|case| case.events.push(changed)).checks();
        assert_eq!((way.allowed_changed, way.allowed_denied), (1, 1));
        let (violations, way) = Case::new(0).allowed().evidence(Some("ev_1")).checks();
        assert_eq!((violations.len(), way.damaged_evidence), (0, 1));
        let (violations, way) = Case::new(0).allowed().hash(None).checks();
        assert_eq!((violations.len(), way.unbound), (0, 1));
    }

    #[test]
    fn empty_run_fails() {
        let mut journals = Journals::default();
        let case = Case::new(0).allowed();
        case.reported.into_iter().for_each(|reported| journals.add(Line::Call(reported)));
        case.ran.into_iter().for_each(|ran| journals.add(Line::Ran(ran)));
        let judged = RunSummary::of(&journals, &[Ledger::new("plain", false, case.events)]).unwrap();
        let expected = [
            "node at plain: nothing was blocked by policy",
            "node at plain: nothing was blocked by failure",
            "plain: no denied request was changed to an allowed one",
        ];
        assert_eq!(judged.violations, expected);
    }

    /// A call with its journal lines and events.
    struct Case {
        id: String,
        number: u64,
        sealed: bool,
        reported: Vec<Reported>,
        ran: Vec<Ran>,
        events: Vec<Event>,
    }

    impl Case {
        fn new(number: u64) -> Self {
            let id = format!("node-{number}");
            Self { id, number, sealed: false, reported: Vec::new(), ran: Vec::new(), events: Vec::new() }
        }

        fn allowed(self) -> Self {
            let kind = Call::numbered(self.number).fails.then_some("action");
            self.reported(true, "allow", "refund.small_in_scope", kind).ran()
        }

        fn denied(self) -> Self {
            self.reported(false, "deny", "refund.over_limit", None)
        }

        fn failed(self) -> Self {
            let executed = Call::numbered(self.number).mode == Mode::Monitor;
            let case = self.reported(executed, "deny", "actpass.unreachable", Some("connection"));
            case.with(|case| case.events.clear()).evidence(None).hash(None)
        }

        /// Repetitions, blocked as replays.
        fn repeated(self, times: usize) -> Self {
            self.with(|case| {
                let again = Reported {
                    executed: false,
                    word: "deny".to_owned(),
                    reason: Some("actpass.replayed".to_owned()),
                    ..case.reported[0].clone()
                };
                case.reported.extend(vec![again; times]);
            })
        }

        fn reported(mut self, executed: bool, word: &str, reason: &str, kind: Option<&str>) -> Self {
            let hash = Call::numbered(self.number).request_hash(&self.id).unwrap();
            let evidence = format!("ev_{}", self.number);
            self.events.push(event(&evidence, self.number, word, &hash));
            self.reported.push(Reported {
                id: self.id.clone(),
                gateway: "plain".to_owned(),
                executed,
                word: word.to_owned(),
                reason: Some(reason.to_owned()),
                kind: kind.map(str::to_owned),
                evidence: Some(evidence),
                hash: Some(hash),
            });
            self
        }

        fn ran(mut self) -> Self {
            let Reported { id, evidence, hash, .. } = self.reported[0].clone();
            self.ran.push(Ran { id, evidence, hash });
            self
        }

        fn sealed(self) -> Self {
            self.with(|case| case.sealed = true)
        }

        fn evidence(self, evidence: Option<&str>) -> Self {
            self.with(|case| {
                case.reported.iter_mut().for_each(|reported| reported.evidence = evidence.map(str::to_owned));
                case.ran.iter_mut().for_each(|ran| ran.evidence = evidence.map(str::to_owned));
            })
        }

        fn hash(self, hash: Option<&str>) -> Self {
            self.with(|case| {
                case.reported.iter_mut().for_each(|reported| reported.hash = hash.map(str::to_owned));
                case.ran.iter_mut().for_each(|ran| ran.hash = hash.map(str::to_owned));
            })
        }

        fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
            change(&mut self);
            self
        }

        fn judged(self) -> Vec<String> {
            self.checks().0
        }

        /// Violations other than too little activity.
        fn checks(self) -> (Vec<String>, NetworkChanges) {
            let mut journals = Journals::default();
            self.reported.into_iter().for_each(|reported| journals.add(Line::Call(reported)));
            self.ran.into_iter().for_each(|ran| journals.add(Line::Ran(ran)));
            let ledger = Ledger::new("plain", self.sealed, self.events);
            let mut summary = RunSummary::of(&journals, &[ledger]).unwrap();
            summary.violations.retain(|violation| {
                let too_little = ["nothing was", "no denied request", "no replay was blocked"];
                !too_little.iter().any(|what| violation.contains(what))
            });
            (summary.violations, summary.on_the_way.remove("plain").unwrap_or_default())
        }
    }

    fn event(id: &str, number: u64, decision: &str, hash: &str) -> Event {
        Event {
            event_id: id.to_owned(),
            event_type: "decision".to_owned(),
            resource: Some(resource(&format!("node-{number}"))),
            decision: Some(decision.to_owned()),
            request_hash: Some(hash.to_owned()),
        }
    }
}
