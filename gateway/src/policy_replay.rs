//! Replay of captured requests with another policy.
//!
//! Decisions are replayed in the order of the ledger. Budgets and histories start empty, and count
//! the actions that the replayed policy allows, at the times of the ledger. Everything that does not
//! depend on the policy stays as recorded; see [`Policy::reconsider`].

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use actpass_protocol::{ACTION_OUTCOME, ActionEnd, Json};
use rust_decimal::Decimal;

use crate::budget::{Account, Charge, Outcomes, is_final};
use crate::capture::CapturedRequest;
use crate::ledger;
use crate::object_writer::object;
use crate::policy::{Answer, Policy, RecordedDecision};

/// The members of an event that a replay reads.
#[derive(Clone, Debug)]
pub struct ReplayedEvent {
    /// Position in the chain of decisions.
    pub seq: u64,
    /// The event's id.
    pub event_id: String,
    /// When it was recorded, in milliseconds since 1970.
    pub at: i64,
    /// The text of the time.
    pub created_at: String,
    /// The kind.
    pub kind: EventKind,
    /// The request.
    pub request_hash: Option<String>,
}

/// Kinds of events for a replay.
#[derive(Clone, Debug)]
pub enum EventKind {
    /// A decision.
    Decision {
        /// The recorded answer.
        answer: Answer,
        /// Whether the mode enforces it.
        enforces: bool,
        /// The hash of the policy.
        policy_hash: String,
        /// The tool.
        tool: String,
        /// The agent.
        agent: Option<String>,
    },
    /// An agent reported the outcome of an action.
    Outcome(ActionEnd),
    /// Another event.
    Other,
}

impl ReplayedEvent {
    /// Returns whether it is a decision.
    pub fn is_decision(&self) -> bool {
        matches!(self.kind, EventKind::Decision { .. })
    }

    /// Reads an event of a chain of decisions; `None` if it is not an event.
    pub fn read(seq: u64, text: &str) -> Option<Self> {
        let event = Json::parse(text.as_bytes()).ok()?;
        let member = |name: &str| event.member(name).and_then(Json::as_str);
        let owned = |name: &str| member(name).map(str::to_owned);
        let created_at = owned("created_at")?;
        let at = humantime::parse_rfc3339(&created_at).ok()?;
        let at = at.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis();
        let kind = match member("event_type")? {
            ledger::DECISION => {
                let rule = match event.member("matched_rules") {
                    Some(Json::Array(rules)) => rules.first().and_then(Json::as_str).map(str::to_owned),
                    _ => None,
                };
                EventKind::Decision {
                    answer: Answer { decision: owned("decision")?, reason: owned("reason_code")?, rule },
                    enforces: matches!(member("mode"), Some("enforce" | "strict")),
                    policy_hash: owned("policy_hash")?,
                    tool: owned("tool_id").unwrap_or_default(),
                    agent: owned("agent_id"),
                }
            }
            ACTION_OUTCOME => {
                let ended = event.member("metadata").and_then(|metadata| metadata.member("ended"));
                let known =
                    [ActionEnd::Cancelled, ActionEnd::Failed, ActionEnd::Returned, ActionEnd::Suspended];
                let ended = ended.and_then(Json::as_str);
                match known.into_iter().find(|end| Some(end.as_str()) == ended) {
                    Some(ended) => EventKind::Outcome(ended),
                    None => EventKind::Other,
                }
            }
            _ => EventKind::Other,
        };
        let request_hash = owned("request_hash");
        Some(Self {
            seq,
            event_id: owned("event_id")?,
            at: i64::try_from(at).ok()?,
            created_at,
            kind,
            request_hash,
        })
    }
}

/// A claim of a replayed decision.
#[derive(Debug)]
struct ReplayedClaim {
    amount: Decimal,
    outcomes: Outcomes,
    counts: bool,
}

/// The claims of an account by expiry and position, with their sum.
#[derive(Debug, Default)]
struct ReplayedAccount {
    claims: BTreeMap<(i64, u64), ReplayedClaim>,
    used: Decimal,
}

impl ReplayedAccount {
    /// Removes expired claims and returns the sum of the others.
    fn used_at(&mut self, now: i64) -> Decimal {
        while let Some(first) = self.claims.first_entry().filter(|first| first.key().0 <= now) {
            let claim = first.remove();
            if claim.counts {
                self.used = self.used.saturating_sub(claim.amount);
            }
        }
        self.used
    }
}

/// The budgets and histories of a replay.
#[derive(Debug, Default)]
pub struct Accounts {
    accounts: HashMap<Account, ReplayedAccount>,
    /// The claims whose outcome is not final, by request and position.
    pending: HashMap<String, BTreeMap<u64, Vec<(Account, i64)>>>,
}

impl Accounts {
    /// Returns the sum of an account at `now`, in milliseconds since 1970.
    pub fn used(&mut self, account: &Account, now: i64) -> Decimal {
        self.accounts.get_mut(account).map_or(Decimal::ZERO, |account| account.used_at(now))
    }

    /// Records the claims of the decision at the position `seq`.
    pub fn claim(&mut self, claims: Vec<Charge>, event: &ReplayedEvent) {
        for charge in claims {
            let expires_at = event.at.saturating_add(charge.window.millis());
            let counts = charge.outcomes.contains(None);
            if charge.outcomes != Outcomes::ALL
                && let Some(request_hash) = &event.request_hash
            {
                let of_request = self.pending.entry(request_hash.clone()).or_default();
                of_request.entry(event.seq).or_default().push((charge.account.clone(), expires_at));
            }
            let account = self.accounts.entry(charge.account).or_default();
            if counts {
                account.used = account.used.saturating_add(charge.amount);
            }
            let claim = ReplayedClaim { amount: charge.amount, outcomes: charge.outcomes, counts };
            account.claims.insert((expires_at, event.seq), claim);
        }
    }

    /// Applies an outcome to the first decision on the request whose outcome is not final.
    pub fn end(&mut self, request_hash: &str, ended: ActionEnd, now: i64) {
        let Some(of_request) = self.pending.get_mut(request_hash) else { return };
        // Expired claims no longer exist.
        of_request.retain(|_, claims| {
            claims.retain(|(_, expires_at)| *expires_at > now);
            !claims.is_empty()
        });
        let Some(mut first) = of_request.first_entry() else {
            self.pending.remove(request_hash);
            return;
        };
        let seq = *first.key();
        let claims = if is_final(ended) { first.remove() } else { std::mem::take(first.get_mut()) };
        for (name, expires_at) in &claims {
            let Some(account) = self.accounts.get_mut(name) else { continue };
            let Some(claim) = account.claims.get_mut(&(*expires_at, seq)) else { continue };
            let counts = claim.outcomes.contains(Some(ended));
            match (claim.counts, counts) {
                (false, true) => account.used = account.used.saturating_add(claim.amount),
                (true, false) => account.used = account.used.saturating_sub(claim.amount),
                (true, true) | (false, false) => {}
            }
            claim.counts = counts;
        }
        if !is_final(ended) {
            of_request.insert(seq, claims);
        }
    }
}

/// A decision that the replayed policy makes otherwise.
#[derive(Clone, Debug)]
pub struct ChangedDecision {
    /// The recorded event.
    pub event: ReplayedEvent,
    /// The recorded answer.
    pub recorded: Answer,
    /// The answer of the replayed policy.
    pub replayed: Answer,
}

impl ChangedDecision {
    /// As JSON.
    pub fn to_json(&self) -> Json {
        let (tool, agent) = match &self.event.kind {
            EventKind::Decision { tool, agent, .. } => {
                (Some(Json::from(&**tool)), agent.as_deref().map(Json::from))
            }
            EventKind::Outcome(_) | EventKind::Other => (None, None),
        };
        object([
            ("seq", i64::try_from(self.event.seq).ok().map(|seq| Json::Number(seq.into()))),
            ("event_id", Some(Json::from(&*self.event.event_id))),
            ("created_at", Some(Json::from(&*self.event.created_at))),
            ("tool", tool),
            ("agent_id", agent),
            ("recorded", Some(self.recorded.to_json())),
            ("replayed", Some(self.replayed.to_json())),
        ])
    }
}

/// Formats as a line of a report.
impl fmt::Display for ChangedDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (old, new) = (&self.recorded, &self.replayed);
        let tool = match &self.event.kind {
            EventKind::Decision { tool, .. } => tool.escape_debug().to_string(),
            EventKind::Outcome(_) | EventKind::Other => String::new(),
        };
        write!(
            f,
            "{} {} {tool}: {} ({}) instead of {} ({})",
            self.event.created_at, self.event.event_id, new.decision, new.reason, old.decision, old.reason
        )
    }
}

/// Counts of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayCounts {
    /// Replayed decisions of the report.
    pub decisions: u64,
    /// Those that the replayed policy makes otherwise.
    pub changed: u64,
    /// Decisions without a captured request, after the first captured one.
    pub missing: u64,
    /// Decisions whose policy is known: the replay of that policy was compared with the ledger.
    pub compared: u64,
    /// Those of which the replay gives the recorded answer.
    pub reproduced: u64,
}

/// A replay in progress. Pass each event of the chain of decisions in order.
pub struct Replay<'p> {
    policy: &'p Policy,
    /// The policies that were in force, by hash.
    known: HashMap<String, Arc<Policy>>,
    /// The state of the replayed policy, and the state of the recorded ones.
    accounts: Accounts,
    recorded: Accounts,
    has_begun: bool,
    /// Decisions before this time, in milliseconds since 1970, are replayed but not reported.
    from: i64,
    counts: ReplayCounts,
}

impl<'p> Replay<'p> {
    /// Creates a replay of `policy`.
    pub fn new(policy: &'p Policy, known: HashMap<String, Arc<Policy>>, from: i64) -> Self {
        let (accounts, recorded) = (Accounts::default(), Accounts::default());
        Self { policy, known, accounts, recorded, has_begun: false, from, counts: ReplayCounts::default() }
    }

    /// The counts.
    pub fn counts(&self) -> ReplayCounts {
        self.counts
    }

    /// Replays an event, with the request of a decision if it was captured. Returns the decision if
    /// it changes.
    pub fn next(
        &mut self,
        event: ReplayedEvent,
        captured: Option<CapturedRequest>,
    ) -> Option<ChangedDecision> {
        let (answer, enforces, policy_hash) = match &event.kind {
            EventKind::Outcome(ended) => {
                if let Some(request_hash) = &event.request_hash {
                    self.accounts.end(request_hash, *ended, event.at);
                    self.recorded.end(request_hash, *ended, event.at);
                }
                return None;
            }
            EventKind::Other => return None,
            EventKind::Decision { answer, enforces, policy_hash, .. } => (answer, *enforces, policy_hash),
        };
        let Some(captured) = captured.filter(|captured| captured.request_hash == event.request_hash) else {
            self.counts.missing += u64::from(self.has_begun);
            return None;
        };
        self.has_begun = true;
        let decision = RecordedDecision {
            input: captured.input,
            answer: answer.clone(),
            enforces,
            repeats: captured.repeats,
            approved: captured.approved,
        };
        let is_reported = event.at >= self.from;
        if let Some(known) = self.known.get(policy_hash).map(Arc::clone) {
            let again = replay_one(&known, &decision, &event, &mut self.recorded);
            if is_reported {
                self.counts.compared += 1;
                self.counts.reproduced += u64::from(again == decision.answer);
            }
        }
        let replayed = replay_one(self.policy, &decision, &event, &mut self.accounts);
        if !is_reported {
            return None;
        }
        self.counts.decisions += 1;
        if replayed.agrees(&decision.answer) {
            return None;
        }
        self.counts.changed += 1;
        Some(ChangedDecision { event, recorded: decision.answer, replayed })
    }
}

fn replay_one(
    policy: &Policy,
    decision: &RecordedDecision,
    event: &ReplayedEvent,
    accounts: &mut Accounts,
) -> Answer {
    match policy.reconsider(decision, |account| Some(accounts.used(account, event.at))) {
        Ok(reconsidered) => {
            accounts.claim(reconsidered.claims, event);
            reconsidered.answer
        }
        // Every sum is known in a replay.
        Err(_) => decision.answer.clone(),
    }
}
