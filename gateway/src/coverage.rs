//! Coverage: runs of actions that no decision permits.
//!
//! A run is an outcome that a client recorded, or a receipt: a line of a log that something else
//! than the gateway wrote. Each run needs a separate decision that permits it.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::io::{self, BufRead};
use std::time::{Duration, SystemTime};

use actpass_protocol::{ACTION_OUTCOME, Json};

use crate::ledger;
use crate::store::StoredEvent;

/// The decisions of a chain and the outcomes that they do not permit.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    decisions: Vec<Decided>,
    by_event: HashMap<String, usize>,
    by_hash: HashMap<String, Vec<usize>>,
    outcomes: usize,
    uncovered: Vec<Uncovered>,
}

/// A decision.
#[derive(Debug)]
struct Decided {
    event_id: String,
    tool: String,
    request_hash: Option<String>,
    decision: String,
    permits: Permits,
    at: SystemTime,
    /// The run that used it: the event of its outcome.
    outcome: Option<String>,
    /// The line of its receipt.
    receipt: Option<usize>,
}

/// Whether the action may run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Permits {
    /// The decision is `allow`.
    Decision,
    /// The modes `monitor` and `warn` run the action after any decision.
    Mode,
    Nothing,
}

/// A run that no decision permits: one line.
#[derive(Debug)]
pub(crate) struct Uncovered {
    run: String,
    at: String,
    tool: String,
    reason: String,
}

impl Display for Uncovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { run, at, tool, reason } = self;
        write!(f, "{run}, {at}, {tool:?}: {reason}")
    }
}

/// The result.
#[derive(Debug)]
pub(crate) struct Covered {
    /// The runs that no decision permits, in the order of the chain and of the receipts.
    pub(crate) uncovered: Vec<Uncovered>,
    /// Number of outcomes.
    pub(crate) outcomes: usize,
    /// Number of receipts.
    pub(crate) receipts: usize,
    /// Number of decisions `allow` without an outcome.
    pub(crate) without_outcome: usize,
    /// Number of runs that the mode permits and the decision does not.
    pub(crate) by_mode: usize,
}

impl Coverage {
    /// Reads the next event of the chain. Events that are neither decisions nor outcomes are
    /// skipped.
    pub(crate) fn read(&mut self, event: &StoredEvent) {
        let Ok(event) = Json::parse(event.text.as_bytes()) else { return };
        match text(&event, "event_type") {
            Some(ledger::DECISION) => self.decision(&event),
            Some(ACTION_OUTCOME) => self.outcome(&event),
            _ => {}
        }
    }

    fn decision(&mut self, event: &Json) {
        let owned = |name| text(event, name).unwrap_or_default().to_owned();
        let decision = owned("decision");
        let permits = match (decision.as_str(), text(event, "mode")) {
            ("allow", _) => Permits::Decision,
            (_, Some("monitor" | "warn")) => Permits::Mode,
            _ => Permits::Nothing,
        };
        let at = text(event, "created_at").and_then(|at| humantime::parse_rfc3339(at).ok());
        let decided = Decided {
            event_id: owned("event_id"),
            tool: owned("tool_id"),
            request_hash: text(event, "request_hash").map(str::to_owned),
            decision,
            permits,
            at: at.unwrap_or(SystemTime::UNIX_EPOCH),
            outcome: None,
            receipt: None,
        };
        let index = self.decisions.len();
        self.by_event.insert(decided.event_id.clone(), index);
        if let Some(hash) = &decided.request_hash {
            self.by_hash.entry(hash.clone()).or_default().push(index);
        }
        self.decisions.push(decided);
    }

    fn outcome(&mut self, event: &Json) {
        self.outcomes = self.outcomes.saturating_add(1);
        let id = text(event, "event_id").unwrap_or_default();
        let named = event.member("metadata").and_then(|metadata| text(metadata, "evidence_event_id"));
        let hash = text(event, "request_hash");
        let spent = |decided: &Decided| {
            decided.outcome.as_ref().map(|outcome| format!("has the outcome {outcome} already"))
        };
        let reason = match self.find(named, hash, spent) {
            Ok(decided) => {
                decided.outcome = Some(id.to_owned());
                return;
            }
            Err(reason) => reason,
        };
        self.uncovered.push(Uncovered {
            run: format!("outcome {id}"),
            at: text(event, "created_at").unwrap_or_default().to_owned(),
            tool: text(event, "tool_id").unwrap_or_default().to_owned(),
            reason,
        });
    }

    /// Finds the decision for a run by its event or by the hash of its request; `spent` returns why
    /// a decision cannot permit another run. The error states why no decision permits the run.
    fn find(
        &mut self,
        event: Option<&str>,
        hash: Option<&str>,
        spent: impl Fn(&Decided) -> Option<String>,
    ) -> Result<&mut Decided, String> {
        let candidates: Vec<usize> = match (event, hash) {
            (Some(event), _) => {
                let index =
                    self.by_event.get(event).ok_or_else(|| format!("no decision {event} precedes it"))?;
                let decided = self.decisions.get(*index);
                if hash.is_some() && decided.is_some_and(|decided| decided.request_hash.as_deref() != hash) {
                    return Err(format!("the decision {event} belongs to another request"));
                }
                vec![*index]
            }
            (None, Some(hash)) => self.by_hash.get(hash).cloned().unwrap_or_default(),
            (None, None) => Vec::new(),
        };
        let mut reason = "no decision on this request precedes it".to_owned();
        for index in candidates {
            let Some(decided) = self.decisions.get(index) else { continue };
            let refused = match decided.permits {
                Permits::Nothing => Some(format!("is {}", decided.decision)),
                Permits::Decision | Permits::Mode => spent(decided),
            };
            match refused {
                Some(refused) => reason = format!("the decision {} {refused}", decided.event_id),
                None => return self.decisions.get_mut(index).ok_or(reason),
            }
        }
        Err(reason)
    }

    /// Compares the decisions with receipts. A receipt without an event and a hash is covered by a
    /// decision for its tool of at most `within` before it.
    pub(crate) fn compare(mut self, mut receipts: Vec<Receipt>, within: Duration) -> Covered {
        let count = receipts.len();
        let mut found = Vec::new();
        // Receipts that name their decision come first, so that no other takes it.
        receipts.sort_by_key(|receipt| (!receipt.names_decision(), receipt.at));
        for receipt in receipts {
            if let Err(reason) = self.cover(&receipt, within) {
                found.push((receipt.line, receipt.uncovered(reason)));
            }
        }
        found.sort_by_key(|(line, _)| *line);
        self.uncovered.extend(found.into_iter().map(|(_, uncovered)| uncovered));

        let without_outcome =
            |decided: &&Decided| decided.permits == Permits::Decision && decided.outcome.is_none();
        let runs = |decided: &Decided| {
            usize::from(decided.outcome.is_some()).saturating_add(usize::from(decided.receipt.is_some()))
        };
        let by_mode = self.decisions.iter().filter(|decided| decided.permits == Permits::Mode);
        Covered {
            outcomes: self.outcomes,
            receipts: count,
            without_outcome: self.decisions.iter().filter(without_outcome).count(),
            by_mode: by_mode.map(runs).sum(),
            uncovered: self.uncovered,
        }
    }

    fn cover(&mut self, receipt: &Receipt, within: Duration) -> Result<(), String> {
        let decided = if receipt.names_decision() {
            let spent = |decided: &Decided| {
                // The hash of a request is known before its decision, the event is not.
                let is_later = receipt.event.is_none() && decided.at > receipt.at;
                let used = decided.receipt.map(|line| format!("has the receipt of line {line} already"));
                used.or_else(|| is_later.then(|| "was made after it".to_owned()))
            };
            let decided = self.find(receipt.event.as_deref(), receipt.request_hash.as_deref(), spent)?;
            if decided.tool != receipt.tool {
                return Err(format!("the decision {} is for the tool {:?}", decided.event_id, decided.tool));
            }
            decided
        } else {
            // The oldest decision that is recent enough, so that later receipts find later ones.
            let permits = |decided: &&mut Decided| {
                let age = receipt.at.duration_since(decided.at);
                decided.receipt.is_none()
                    && decided.permits != Permits::Nothing
                    && decided.tool == receipt.tool
                    && age.is_ok_and(|age| age <= within)
            };
            let within = humantime::format_duration(within);
            self.decisions
                .iter_mut()
                .find(permits)
                .ok_or_else(|| format!("no unused decision permits the tool in the {within} before it"))?
        };
        decided.receipt = Some(receipt.line);
        Ok(())
    }
}

/// A run according to a log outside of the gateway.
#[derive(Debug)]
pub(crate) struct Receipt {
    line: usize,
    tool: String,
    at: SystemTime,
    event: Option<String>,
    request_hash: Option<String>,
}

impl Receipt {
    /// Reads receipts in JSON Lines. Other members are ignored.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, and the first invalid member with its line.
    pub(crate) fn read_all(file: impl BufRead) -> io::Result<Vec<Self>> {
        let mut receipts = Vec::new();
        for (line, text) in (1..).zip(file.lines()) {
            let text = text?;
            if !text.trim().is_empty() {
                let receipt = Self::read(line, &text);
                receipts.push(receipt.map_err(|what| io::Error::other(format!("line {line}: {what}")))?);
            }
        }
        Ok(receipts)
    }

    fn read(line: usize, text: &str) -> Result<Self, String> {
        let receipt = Json::parse(text.as_bytes()).map_err(|error| error.to_string())?;
        if receipt.as_object().is_none() {
            return Err("expected an object".to_owned());
        }
        let optional = |name: &str| match receipt.member(name) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
            Some(_) => Err(format!("{name}: expected a non-empty string")),
        };
        let required =
            |name: &str, what: &str| optional(name)?.ok_or(format!("{name}: missing; expected {what}"));
        let at = required("at", "a time in RFC 3339")?;
        let at = humantime::parse_rfc3339(&at)
            .map_err(|_| "at: expected a time in RFC 3339 and UTC".to_owned())?;
        Ok(Self {
            line,
            tool: required("tool", "the tool of the decision")?,
            at,
            event: optional("evidence_event_id")?,
            request_hash: optional("request_hash")?,
        })
    }

    fn names_decision(&self) -> bool {
        self.event.is_some() || self.request_hash.is_some()
    }

    fn uncovered(self, reason: String) -> Uncovered {
        let at = humantime::format_rfc3339_millis(self.at).to_string();
        Uncovered { run: format!("receipt of line {}", self.line), at, tool: self.tool, reason }
    }
}

fn text<'j>(json: &'j Json, name: &str) -> Option<&'j str> {
    json.member(name)?.as_str()
}
