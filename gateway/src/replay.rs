//! Replay of recorded decisions: a bundle has a [proof](crate::proofs) of the decision's event, the
//! policy, the request, and the sums of budgets and histories at that time. Anyone can evaluate the
//! request again and compare the result with the event.
//!
//! The event has the hashes of the policy and the request, so neither can be exchanged. The sums
//! follow from the earlier events of the chain; a verifier who has them can compute the sums again.

use std::collections::HashMap;
use std::fmt;

use actpass_protocol::token::Unverified;
use actpass_protocol::{ACTION_OUTCOME, ActionEnd, Json, hash_payload};
use rust_decimal::Decimal;

use crate::approvals::reason;
use crate::budget::{self, Account, Outcome, Outcomes, Window, fits, is_final};
use crate::clock::parse_millis;
use crate::ledger::DECISION;
use crate::object_writer::object;
use crate::passport::Claims;
use crate::policy::{self, Input, NO_MATCH, OnExceed, Policy, Rule, Values};
use crate::problems::Problems;
use crate::request::{InvalidMember, Preflight, Text};
use crate::{auth, halts, history, vault};

/// Error of a replay.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The event is not a decision with a policy and a request.
    #[error("the event is not a decision with a policy and a request hash, so it cannot be replayed")]
    NotADecision,
    /// The proof has no policy, request and state.
    #[error("the proof is not a bundle: make it with `evidence prove --policy FILE --request FILE`")]
    NotABundle,
    /// The policy is another one.
    #[error("the policy has the hash {found}, expected {expected}: it is not the one that decided")]
    OtherPolicy {
        /// The policy's hash.
        found: String,
        /// The hash in the event.
        expected: String,
    },
    /// The request is another one.
    #[error("the request has the hash {found}, expected {expected}: it is not the one that was decided")]
    OtherRequest {
        /// The request's hash.
        found: String,
        /// The hash in the event.
        expected: String,
    },
    /// The sums do not have their digest, or are not those that the request depends on.
    #[error("the state of budgets and histories in the bundle was changed: {0}")]
    OtherState(&'static str),
    /// The policy is invalid.
    #[error("the policy is invalid: {0}")]
    Policy(Problems),
    /// The request is invalid.
    #[error("the request is invalid: {}: {}", .0.member, .0.problem)]
    Request(InvalidMember),
    /// It is not JSON.
    #[error("the {0} is not JSON")]
    NotJson(&'static str),
}

/// A decision with its policy and request.
#[derive(Debug)]
pub struct Subject {
    event: Json,
    policy: Policy,
    policy_json: Json,
    request: Preflight,
    request_json: Json,
    agent: Option<Json>,
    passport: Option<Json>,
    /// When it was decided, in milliseconds since 1970.
    at: i64,
}

impl Subject {
    /// Pairs an event with the texts of its policy and request.
    ///
    /// # Errors
    ///
    /// Returns an error if the event is not a decision, or the policy or the request is not the one
    /// that it names.
    pub fn new(event: &Json, policy: &[u8], request: &[u8]) -> Result<Self, ReplayError> {
        let json = |text: &[u8], what| Json::parse(text).map_err(|_| ReplayError::NotJson(what));
        Self::of(event, json(policy, "policy")?, json(request, "request")?)
    }

    fn of(event: &Json, policy_json: Json, request_json: Json) -> Result<Self, ReplayError> {
        let text = |name| event.member(name).and_then(Json::as_str);
        let (Some(DECISION), Some(policy_hash), Some(request_hash), Some(at)) = (
            text("event_type"),
            text("policy_hash"),
            text("request_hash"),
            text("created_at").and_then(parse_millis),
        ) else {
            return Err(ReplayError::NotADecision);
        };
        let policy = Policy::parse(policy_json.to_string().as_bytes()).map_err(ReplayError::Policy)?;
        if policy.hash() != policy_hash {
            let (found, expected) = (policy.hash().to_owned(), policy_hash.to_owned());
            return Err(ReplayError::OtherPolicy { found, expected });
        }
        let found = hash_payload(&request_json).unwrap_or_default();
        if found != request_hash {
            return Err(ReplayError::OtherRequest { found, expected: request_hash.to_owned() });
        }
        let request = Preflight::read(request_json.clone()).map_err(ReplayError::Request)?;
        // The event names a passport only if the gateway verified its signature.
        let jti = text("passport_jti");
        let token = request_json.member("passport").and_then(Json::as_str).filter(|_| jti.is_some());
        let claims = token.and_then(|token| Unverified::passport(token).ok());
        let claims = claims.and_then(|claims| Claims::parse(&claims.danger_unverified()).ok());
        let passport =
            claims.filter(|claims| Some(claims.jti()) == jti).map(|claims| claims.as_json().clone());
        let agent = event.member("agent_id").cloned();
        Ok(Self { event: event.clone(), policy, policy_json, request, request_json, agent, passport, at })
    }

    fn input(&self) -> Input<'_> {
        Input {
            agent_id: self.agent.as_ref(),
            args: Some(&self.request.args),
            goal: Some(self.request.goal.as_json()),
            passport: self.passport.as_ref(),
            resource: self.request.resource.as_ref().map(Text::as_json),
            risk_tier: self.passport.as_ref().and_then(|claims| claims.member("risk_tier")),
            tool: Some(self.request.tool.as_json()),
            user_id: self.request.user_id.as_ref().map(Text::as_json),
        }
    }

    /// The accounts of the budgets and histories that the decision can depend on.
    fn accounts(&self) -> Vec<Account> {
        let input = self.input();
        let values = &mut Values::of(&self.policy, &input);
        let histories = self.policy.history_checks(values, &[]).unwrap_or_default();
        let mut accounts: Vec<_> = histories.into_iter().map(|check| check.account).collect();
        let charges = self.policy.charges(values).unwrap_or_default();
        accounts.extend(charges.into_iter().map(|(_, charge)| charge.account));
        accounts.sort_by(|a, b| (&a.budget, &a.key).cmp(&(&b.budget, &b.key)));
        accounts.dedup();
        accounts
    }

    /// Whether it depends on earlier events.
    pub fn depends_on_events(&self) -> bool {
        !self.accounts().is_empty()
    }

    /// Starts summing the claims of earlier events.
    pub fn sums(&self) -> Sums {
        let accounts = self.accounts().into_iter().map(|account| (account, Vec::new()));
        Sums { at: self.at, accounts: accounts.collect() }
    }

    /// The members that a bundle has in addition to a proof.
    pub fn members(&self, sums: &Sums) -> [(&'static str, Option<Json>); 3] {
        [
            ("policy", Some(self.policy_json.clone())),
            ("request", Some(self.request_json.clone())),
            ("state", Some(sums.to_json())),
        ]
    }

    /// Evaluates the request again.
    fn evaluate(&self, sums: &HashMap<Account, Decimal>) -> Evaluated {
        let input = self.input();
        let values = &mut Values::of(&self.policy, &input);
        let used = |account: &Account| sums.get(account).copied().unwrap_or_default();
        let Ok(checks) = self.policy.history_checks(values, &[]) else {
            return Evaluated::denied(history::NOT_MEASURABLE, None);
        };
        let holds = |condition: &usize| {
            checks
                .iter()
                .any(|check| check.condition == *condition && check.bound.holds(used(&check.account)))
        };
        let rule = self.policy.first_match_if(values, |rule| rule.histories().iter().all(holds));
        let Some(rule) = rule else {
            return Evaluated::denied(NO_MATCH, None);
        };
        let charges = self.policy.charges(values);
        match rule.decision() {
            policy::Decision::Deny => return Evaluated::denied(rule.reason(), Some(rule)),
            policy::Decision::RequireApproval => {
                // An approved action is refused if it exceeds a budget that denies.
                let refused = charges.iter().flatten().find(|(budget, charge)| {
                    budget.on_exceed() == OnExceed::Deny
                        && !fits(charge, used(&charge.account))
                        && self.event.member("reason_code").and_then(Json::as_str) == Some(budget.reason())
                });
                return match refused {
                    Some((budget, _)) => Evaluated::denied(budget.reason(), Some(rule)),
                    None => Evaluated::needs_approval(rule.reason(), rule),
                };
            }
            policy::Decision::Allow => {}
        }
        let Ok(charges) = charges else {
            return Evaluated::denied(budget::NOT_MEASURABLE, Some(rule));
        };
        // A repetition claims nothing.
        let is_repetition = self.event.member("decision").and_then(Json::as_str) == Some("allow")
            && self.event.member("budgets").is_none()
            && self.request.idempotency.is_some();
        let mut demands = None;
        for (budget, charge) in charges.iter().filter(|_| !is_repetition) {
            match budget.on_exceed() {
                _ if fits(charge, used(&charge.account)) => {}
                OnExceed::Deny => return Evaluated::denied(budget.reason(), Some(rule)),
                OnExceed::RequireApproval => {
                    demands.get_or_insert(budget.reason());
                }
            }
        }
        if let Some(reason) = demands {
            return Evaluated::needs_approval(reason, rule);
        }
        if self.policy.tracked(values).is_err() && self.request.consumes() {
            return Evaluated::denied(history::NOT_MEASURABLE, Some(rule));
        }
        Evaluated { decision: "allow", reason: rule.reason().to_owned(), rule: Some(rule.name().to_owned()) }
    }
}

/// The result of an evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Evaluated {
    decision: &'static str,
    reason: String,
    rule: Option<String>,
}

impl Evaluated {
    fn denied(reason: &str, rule: Option<&Rule>) -> Self {
        Self { decision: "deny", reason: reason.to_owned(), rule: rule.map(|rule| rule.name().to_owned()) }
    }

    fn needs_approval(reason: &str, rule: &Rule) -> Self {
        Self { decision: "require_approval", reason: reason.to_owned(), rule: Some(rule.name().to_owned()) }
    }
}

/// A claim of an earlier decision.
#[derive(Clone, Debug)]
struct Claim {
    seq: u64,
    amount: Decimal,
    outcomes: Outcomes,
    request_hash: Option<String>,
    outcome: Outcome,
}

/// Sums the claims of earlier events on the accounts that a decision depends on.
#[derive(Clone, Debug)]
pub struct Sums {
    at: i64,
    accounts: HashMap<Account, Vec<Claim>>,
}

impl Sums {
    /// Reads the next event before the decision.
    pub fn push(&mut self, seq: u64, text: &str) {
        // Avoids parsing most events.
        let (claims, ends) = (text.contains("\"budgets\":["), text.contains(ACTION_OUTCOME));
        if self.accounts.is_empty() || !(claims || ends) {
            return;
        }
        let Ok(event) = Json::parse(text.as_bytes()) else { return };
        let member = |name| event.member(name).and_then(Json::as_str);
        match member("event_type") {
            Some(DECISION) => self.claim(seq, &event),
            Some(ACTION_OUTCOME) => {
                let ended = event.member("metadata").and_then(|metadata| metadata.member("ended")?.as_str());
                let known =
                    [ActionEnd::Cancelled, ActionEnd::Failed, ActionEnd::Returned, ActionEnd::Suspended];
                let ended = known.into_iter().find(|end| Some(end.as_str()) == ended);
                if let (Some(ended), Some(request_hash)) = (ended, member("request_hash")) {
                    self.end(request_hash, ended);
                }
            }
            Some(_) | None => {}
        }
    }

    fn claim(&mut self, seq: u64, event: &Json) {
        let member = |name| event.member(name).and_then(Json::as_str);
        let is_recorded =
            member("decision") == Some("allow") && matches!(member("mode"), Some("enforce" | "strict"));
        let (Some(Json::Array(claims)), true) = (event.member("budgets"), is_recorded) else { return };
        let at = member("created_at").and_then(parse_millis).unwrap_or(i64::MAX);
        for claim in claims {
            let text = |name| claim.member(name).and_then(Json::as_str);
            let (Some(budget), Some(key), Some(amount)) =
                (text("name"), text("account"), text("amount").and_then(|amount| amount.parse().ok()))
            else {
                continue;
            };
            let window = text("window").and_then(|window| Window::parse(window).ok());
            let ends_at = at.saturating_add(window.map_or(i64::MAX, |window| window.millis()));
            let account = Account { budget: budget.to_owned(), key: key.to_owned() };
            if let (Some(claims), true) = (self.accounts.get_mut(&account), ends_at > self.at) {
                let outcomes = text("outcomes").map_or(Outcomes::ALL, Outcomes::parse);
                let request_hash = member("request_hash").map(str::to_owned);
                claims.push(Claim { seq, amount, outcomes, request_hash, outcome: None });
            }
        }
    }

    /// Applies an outcome to the first decision on a request that depends on it.
    fn end(&mut self, request_hash: &str, ended: ActionEnd) {
        let is_open = |claim: &Claim| {
            claim.request_hash.as_deref() == Some(request_hash)
                && claim.outcomes != Outcomes::ALL
                && !claim.outcome.is_some_and(is_final)
        };
        let open = self.accounts.values().flatten().filter(|claim| is_open(claim));
        let first = open.map(|claim| claim.seq).min();
        for claim in self.accounts.values_mut().flatten() {
            if Some(claim.seq) == first && claim.outcomes != Outcomes::ALL {
                claim.outcome = Some(ended);
            }
        }
    }

    fn totals(&self) -> HashMap<Account, Decimal> {
        let total = |claims: &Vec<Claim>| {
            let counted = claims.iter().filter(|claim| claim.outcomes.contains(claim.outcome));
            counted.fold(Decimal::ZERO, |sum, claim| sum.saturating_add(claim.amount)).normalize()
        };
        self.accounts.iter().map(|(account, claims)| (account.clone(), total(claims))).collect()
    }

    fn to_json(&self) -> Json {
        let mut totals: Vec<_> = self.totals().into_iter().collect();
        totals.sort_by(|(a, _), (b, _)| (&a.budget, &a.key).cmp(&(&b.budget, &b.key)));
        let accounts = totals.iter().map(|(account, used)| {
            object([
                ("account", Some(Json::from(&*account.key))),
                ("name", Some(Json::from(&*account.budget))),
                ("used", Some(Json::String(used.to_string()))),
            ])
        });
        let accounts = Json::Array(accounts.collect());
        let digest = hash_payload(&accounts).ok().map(Json::String);
        object([("accounts", Some(accounts)), ("digest", digest)])
    }
}

/// Reads the sums in a bundle, which must be those of `accounts`.
fn read_state(state: &Json, accounts: &[Account]) -> Result<HashMap<Account, Decimal>, ReplayError> {
    let listed = state.member("accounts").ok_or(ReplayError::OtherState("`accounts` is missing"))?;
    if hash_payload(listed).ok().as_deref() != state.member("digest").and_then(Json::as_str) {
        return Err(ReplayError::OtherState("the digest does not match the sums"));
    }
    let Json::Array(items) = listed else {
        return Err(ReplayError::OtherState("`accounts` is not a list"));
    };
    let read = |item: &Json| {
        let text = |name| item.member(name).and_then(Json::as_str);
        let account = Account { budget: text("name")?.to_owned(), key: text("account")?.to_owned() };
        Some((account, text("used")?.parse().ok()?))
    };
    let sums: Option<HashMap<Account, Decimal>> = items.iter().map(read).collect();
    let sums = sums.ok_or(ReplayError::OtherState("an account has no sum"))?;
    let is_whole = sums.len() == accounts.len() && accounts.iter().all(|account| sums.contains_key(account));
    is_whole.then_some(sums).ok_or(ReplayError::OtherState("the accounts are not those of the request"))
}

/// The result of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Id of the event.
    pub event_id: String,
    /// The recorded decision and reason code.
    pub recorded: (String, String),
    /// The deciding rule, if any.
    pub rule: Option<String>,
    /// The facts that the decision depends on and the bundle does not contain.
    pub depends_on: Option<&'static str>,
    /// The differences between the event and the evaluation.
    pub differences: Vec<String>,
}

/// Describes the result, a fact a line.
impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (decision, reason) = &self.recorded;
        let rule = self.rule.as_deref().unwrap_or("(none)");
        if !self.differences.is_empty() {
            write!(f, "{} differs from its replay:", self.event_id)?;
            return self.differences.iter().try_for_each(|difference| write!(f, "\n  {difference}"));
        }
        write!(f, "{}: the replay agrees: {decision}, {reason}, rule {rule}", self.event_id)?;
        match self.depends_on {
            Some(what) => {
                write!(f, "\nthe decision also depends on {what}, which the bundle does not contain")
            }
            None => Ok(()),
        }
    }
}

/// The facts outside the policy that a recorded decision depends on, by its reason code. The second value states
/// whether the gateway decided before the policy.
fn outside(reason_code: &str) -> Option<(&'static str, bool)> {
    match reason_code {
        halts::HALTED => Some(("active halts", true)),
        auth::reason::MODE | auth::reason::TOOL | auth::reason::USER => {
            Some(("the grants of the API key", true))
        }
        "tool.manifest_changed" | "tool.not_registered" => Some(("approved manifests", true)),
        vault::EXPIRED => Some(("the tool's credential", false)),
        code if code.starts_with("passport.") => Some(("the passport's state", true)),
        code if code.starts_with("approval.") => Some(("approvals", false)),
        _ => None,
    }
}

/// Evaluates the decision of a verified bundle again, and compares it with the recorded event.
/// `bundle` is its JSON, `event` its verified event.
///
/// # Errors
///
/// Returns an error if the text is not a bundle, or its policy, request or state is not the one of
/// the event.
pub fn replay(bundle: &Json, event: &Json) -> Result<Replayed, ReplayError> {
    let member = |name| bundle.member(name).ok_or(ReplayError::NotABundle);
    let subject = Subject::of(event, member("policy")?.clone(), member("request")?.clone())?;
    let sums = read_state(member("state")?, &subject.accounts())?;
    Ok(subject.compare(&subject.evaluate(&sums)))
}

impl Subject {
    fn compare(&self, evaluated: &Evaluated) -> Replayed {
        let text = |name| self.event.member(name).and_then(Json::as_str).unwrap_or_default();
        let (decision, reason_code) = (text("decision"), text("reason_code"));
        let rule = match self.event.member("matched_rules") {
            Some(Json::Array(rules)) => rules.first().and_then(Json::as_str),
            Some(_) | None => None,
        };
        let mut differences = Vec::new();
        let mut differ = |what: &str, recorded: &str, replayed: &str| {
            if recorded != replayed {
                differences.push(format!("{what}: recorded {recorded}, replayed {replayed}"));
            }
        };
        let outside = outside(reason_code);
        let replayed_rule = evaluated.rule.as_deref().unwrap_or("(none)");
        match outside {
            // The gateway did not evaluate the policy.
            Some((_, true)) => {
                differ("rule", rule.unwrap_or("(none)"), "(none)");
                let word = if reason_code.starts_with("tool.") { "require_tool_reapproval" } else { "deny" };
                differ("decision", decision, word);
            }
            Some((_, false)) => {
                differ("rule", rule.unwrap_or("(none)"), replayed_rule);
                let is_approval = reason_code != vault::EXPIRED;
                let expected = match (is_approval, reason_code) {
                    (true, reason::APPROVED) => "allow",
                    (true, reason::PENDING) => "require_approval",
                    (_, _) => "deny",
                };
                differ("decision", decision, expected);
                // An approval counts only if the policy or a budget requires one.
                let fits = match evaluated.decision {
                    "require_approval" => true,
                    "allow" => !is_approval,
                    _ => false,
                };
                if !fits {
                    differ("reason_code", reason_code, &evaluated.reason);
                }
            }
            None => {
                differ("decision", decision, evaluated.decision);
                differ("reason_code", reason_code, &evaluated.reason);
                differ("rule", rule.unwrap_or("(none)"), replayed_rule);
            }
        }
        Replayed {
            event_id: text("event_id").to_owned(),
            recorded: (decision.to_owned(), reason_code.to_owned()),
            rule: rule.map(str::to_owned),
            depends_on: outside.map(|(what, _)| what),
            differences,
        }
    }
}
