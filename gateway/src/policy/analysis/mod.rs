//! Exact analysis of policies, with example requests.
//!
//! The values at each path are divided into finitely many cells, so that all values of a cell satisfy
//! the same conditions. A question about a policy is a search for cells. An example is confirmed by
//! the engine before it is reported. The answer "impossible" is given only if the cells represent
//! all values; otherwise the answer is "cannot tell".
//!
//! The cells are complete for `==`, `!=`, `<`, `<=`, `>`, `>=`, `in`, `not_in`, `starts_with`,
//! `exists`, `has_only`, `contains` of arrays, and for history conditions and the amounts of budgets.
//! `contains` and `ends_with` of strings, `matches` and `value_path` are complete if an example of
//! each combination is found; contradictions of pairs are known.

mod diff;
mod domain;
mod model;
mod solve;
#[cfg(test)]
mod tests;
mod witness;

use std::fmt;

use actpass_protocol::Json;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

pub(super) use self::diff::changed_members;
pub use self::diff::{Change, Changes, OpenChange, Outcome};
use self::model::{Answer, Model, Question};
use self::solve::Clause;
use self::witness::{Reply, Witness};
use super::check::FindingKind;
use super::model::{Budget, Condition, Decision, Rule, Test};
use super::{Policy, RiskTier};

/// Larger policies are not analyzed.
const MAX_RULES: usize = 2000;

/// A result of the analysis.
#[derive(Clone, Debug)]
pub struct Insight {
    /// The rule or the budget; `None` for the whole policy.
    pub subject: Option<String>,
    /// The kind.
    pub kind: InsightKind,
    /// An example that the engine answers so, as a case of `policy test`.
    pub witness: Option<Json>,
}

/// Kinds of insights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InsightKind {
    /// Every request is allowed.
    AlwaysAllows,
    /// The rule allows every request that no earlier rule decides.
    AlwaysMatches,
    /// The question about the rule is open because of these operators.
    CannotTell {
        /// The question, in words.
        question: &'static str,
        /// The operators.
        operators: String,
    },
    /// No request is allowed, with or without an approval.
    NeverAllows,
    /// The rule allows, but no request fits the budgets even once.
    NeverFits,
    /// No request matches the rule. The example satisfies all conditions but this one.
    NeverMatches {
        /// The contradiction, if it is one of few conditions.
        why: Option<String>,
        /// Number of the condition, from 1; history conditions come last.
        condition: Option<usize>,
    },
    /// Without the rule, every request gets the same decision for the same reason.
    Redundant,
    /// Earlier rules match whenever this one does.
    Unreachable {
        /// Earlier rules that decide some of its requests.
        by: Vec<String>,
    },
    /// The other conditions of the rule imply this one.
    Vacuous {
        /// Number of the condition, from 1; history conditions come last.
        condition: usize,
    },
    /// The other policy decides more strictly.
    Wider {
        /// Its decision and reason.
        old: (Decision, String),
        /// The decision and reason of this policy.
        new: (Decision, String),
        /// The number of equal requests in one window after which the decisions differ; 1 is the
        /// first.
        times: u32,
    },
}

impl Insight {
    /// Returns whether a part of the policy has no effect, or cannot have the intended one.
    pub fn is_defect(&self) -> bool {
        matches!(
            self.kind,
            InsightKind::NeverFits
                | InsightKind::NeverMatches { .. }
                | InsightKind::Unreachable { .. }
                | InsightKind::Wider { .. }
        )
    }

    /// Returns whether a question is open.
    pub fn is_open(&self) -> bool {
        matches!(self.kind, InsightKind::CannotTell { .. })
    }
}

impl fmt::Display for Insight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.subject, &self.kind) {
            (None, _) => write!(f, "policy: ")?,
            (Some(name), _) => write!(f, "rule {name:?}: ")?,
        }
        match &self.kind {
            InsightKind::AlwaysAllows => write!(f, "allows every request"),
            InsightKind::AlwaysMatches => {
                write!(f, "allows every request that no earlier rule decides; without it, they are denied")
            }
            InsightKind::CannotTell { question, operators } => {
                write!(f, "cannot tell {question} ({operators})")
            }
            InsightKind::NeverAllows => write!(f, "denies every request"),
            InsightKind::NeverFits => {
                write!(f, "never allows: no request fits the budgets, or their amount is missing")
            }
            InsightKind::NeverMatches { why, condition } => {
                let why = why.as_deref().unwrap_or("the conditions exclude each other");
                write!(f, "never matches: {why}")?;
                let of_witness = |at| write!(f, "; the example satisfies all conditions but number {at}");
                condition.map_or(Ok(()), of_witness)
            }
            InsightKind::Redundant => {
                write!(
                    f,
                    "has no effect: without it, every request gets the same decision for the same reason"
                )
            }
            InsightKind::Unreachable { by } => {
                let names: Vec<String> = by.iter().map(|name| format!("{name:?}")).collect();
                match names.as_slice() {
                    [name] => {
                        write!(f, "unreachable: the earlier rule {name} matches whenever this one does")
                    }
                    names => write!(
                        f,
                        "unreachable: one of the earlier rules {} matches whenever this one does",
                        names.join(", ")
                    ),
                }
            }
            InsightKind::Vacuous { condition } => {
                write!(f, "condition {condition} has no effect: the other conditions imply it")
            }
            InsightKind::Wider { old, new, times } => {
                write!(
                    f,
                    "grants more than the old policy: {} ({}) instead of {} ({})",
                    new.0, new.1, old.0, old.1
                )?;
                if *times > 1 { write!(f, " for the {times}th equal request of a window") } else { Ok(()) }
            }
        }
    }
}

impl Policy {
    /// Analyzes the policy. Insights of a rule are in the order of the rules.
    pub fn insights(&self) -> Vec<Insight> {
        if self.rules.len() > MAX_RULES {
            return vec![too_large()];
        }
        Analysis { policy: self, model: Model::of(&[self]), insights: Vec::new() }.run()
    }

    /// Returns the rules of this policy that grant more than `old`: they allow, or require an approval,
    /// and `old` decides more strictly.
    pub fn wider_than(&self, old: &Self) -> Vec<Insight> {
        if self.rules.len().max(old.rules.len()) > MAX_RULES {
            return vec![too_large()];
        }
        Comparison { old, new: self, model: Model::of(&[old, self]), insights: Vec::new() }.run()
    }
}

fn too_large() -> Insight {
    let kind = InsightKind::CannotTell {
        question: "whether its rules have an effect",
        operators: format!("more than {MAX_RULES} rules"),
    };
    Insight { subject: None, kind, witness: None }
}

/// The order of decisions, from the strictest.
fn rank(decision: Decision) -> u8 {
    match decision {
        Decision::Deny => 0,
        Decision::RequireApproval => 1,
        Decision::Allow => 2,
    }
}

struct Analysis<'p> {
    policy: &'p Policy,
    model: Model<'p>,
    insights: Vec<Insight>,
}

impl<'p> Analysis<'p> {
    fn run(mut self) -> Vec<Insight> {
        let known = self.policy.findings();
        // Whether each rule decides some request; `None` if that is open.
        let mut decides = Vec::with_capacity(self.policy.rules.len());
        for (number, rule) in self.policy.rules.iter().enumerate() {
            let kind = known.iter().find(|finding| finding.rule == rule.name).map(|finding| &finding.kind);
            decides.push(self.rule(number, rule, kind));
        }
        self.whole(&decides);
        self.insights
    }

    fn add(&mut self, rule: Option<&Rule>, kind: InsightKind, witness: Option<&Witness>) {
        let name = rule.map_or("policy", Rule::name);
        let witness = witness.map(|witness| witness.case(&format!("{name}: {}", word(&kind)), self.policy));
        self.insights.push(Insight { subject: rule.map(|rule| rule.name.clone()), kind, witness });
    }

    fn ask(&self, clauses: Vec<Clause>, accept: impl Fn(&Witness) -> bool) -> Answer {
        self.model.ask(&Question::default().and(clauses), &accept)
    }

    fn is_decided_by(&self, witness: &Witness, rule: &Rule) -> bool {
        witness.reply(self.policy, 0).is_some_and(|reply| reply.rule == Some(rule.name()))
    }

    /// Analyzes a rule; returns whether it decides some request.
    fn rule(&mut self, number: usize, rule: &Rule, known: Option<&FindingKind>) -> Option<bool> {
        let matching = self.model.matches(0, number, None);
        let matched = match known {
            Some(FindingKind::NeverHolds(_)) => Answer::Impossible,
            _ => self.ask(matching, |witness| witness.matches(self.policy, rule)),
        };
        match matched {
            Answer::Impossible => {
                let (condition, witness) = self.near_miss(number, rule).unzip();
                let why = match known {
                    Some(FindingKind::NeverHolds(why)) => Some(why.clone()),
                    _ => None,
                };
                let kind = InsightKind::NeverMatches { why, condition: condition.map(|at| at + 1) };
                self.add(Some(rule), kind, witness.as_deref());
                return Some(false);
            }
            Answer::Open(operators) => {
                let question = "whether it matches any request";
                self.add(Some(rule), InsightKind::CannotTell { question, operators }, None);
                return None;
            }
            Answer::Witness(witness) => {
                let is_shadowed = matches!(known, Some(FindingKind::Shadowed(_)));
                let decided = match is_shadowed {
                    true => Answer::Impossible,
                    false => self.ask(self.model.decides(0, Some(number)), |witness| {
                        self.is_decided_by(witness, rule)
                    }),
                };
                match decided {
                    Answer::Impossible => {
                        let by = self.deciders(number, rule);
                        self.add(Some(rule), InsightKind::Unreachable { by }, Some(&witness));
                        return Some(false);
                    }
                    Answer::Open(operators) => {
                        let question = "whether it decides any request";
                        self.add(Some(rule), InsightKind::CannotTell { question, operators }, None);
                        return None;
                    }
                    Answer::Witness(witness) => self.effects(number, rule, &witness),
                }
            }
        }
        Some(true)
    }

    /// Returns a request that satisfies all conditions but one.
    fn near_miss(&self, number: usize, rule: &Rule) -> Option<(usize, Box<Witness>)> {
        (0..self.model.conditions(0, number)).rev().find_map(|at| {
            let others = self.model.matches(0, number, Some(at));
            match self.ask(others, |witness| !witness.matches(self.policy, rule)) {
                Answer::Witness(witness) => Some((at, witness)),
                Answer::Impossible | Answer::Open(_) => None,
            }
        })
    }

    /// Returns earlier rules that decide requests that match the rule.
    fn deciders(&self, number: usize, rule: &Rule) -> Vec<String> {
        let mut by = Vec::new();
        for (at, earlier) in self.policy.rules.iter().enumerate().take(number) {
            let clauses =
                self.model.decides(0, Some(at)).into_iter().chain(self.model.matches(0, number, None));
            let found = self.ask(clauses.collect(), |witness| {
                witness.matches(self.policy, rule) && self.is_decided_by(witness, earlier)
            });
            if matches!(found, Answer::Witness(_)) {
                by.push(earlier.name.clone());
            }
        }
        by
    }

    /// Reports conditions without effect of a rule that decides `witness`.
    fn effects(&mut self, number: usize, rule: &Rule, witness: &Witness) {
        let count = self.model.conditions(0, number);
        let is_impossible = |clauses| matches!(self.ask(clauses, |_| true), Answer::Impossible);
        let always = (0..count).all(|at| is_impossible(vec![self.model.fails(0, number, at)]));
        // `exists` often repeats another condition for the reader.
        let is_exists = |at: usize| matches!(rule.when.get(at).map(|of| &of.test), Some(Test::Exists(_)));
        let vacuous: Vec<usize> = (0..count)
            .filter(|at| !is_exists(*at))
            .filter(|at| {
                let mut clauses = self.model.matches(0, number, Some(*at));
                clauses.push(self.model.fails(0, number, *at));
                is_impossible(clauses)
            })
            .collect();
        if always && rule.decision == Decision::Allow {
            self.add(Some(rule), InsightKind::AlwaysMatches, Some(witness));
        } else {
            for at in vacuous {
                self.add(Some(rule), InsightKind::Vacuous { condition: at + 1 }, Some(witness));
            }
        }
        if rule.decision == Decision::Allow && !self.policy.budgets.is_empty() {
            let clauses = self.model.decides(0, Some(number)).into_iter().chain(self.model.is_measured(0));
            let allowed = |witness: &Witness| {
                witness.reply(self.policy, 0).is_some_and(|reply| reply.decision == Decision::Allow)
            };
            match self.ask(clauses.collect(), allowed) {
                Answer::Impossible => self.add(Some(rule), InsightKind::NeverFits, Some(witness)),
                Answer::Open(operators) => {
                    let question = "whether a request fits the budgets";
                    self.add(Some(rule), InsightKind::CannotTell { question, operators }, None);
                }
                Answer::Witness(_) => {}
            }
        }
        if self.is_redundant(number, rule) {
            self.add(Some(rule), InsightKind::Redundant, Some(witness));
        }
    }

    /// Returns whether the rule that would decide otherwise has the same outcome.
    fn is_redundant(&self, number: usize, rule: &Rule) -> bool {
        let outcome = |rule: &Rule| {
            let (tier, steps) = (rule.risk_tier.unwrap_or(RiskTier::Medium), rule.next_steps.clone());
            (rule.decision, rule.reason.clone(), tier, steps, rule.approval.clone())
        };
        let own = outcome(rule);
        let rules = &self.policy.rules;
        // Most rules differ from all later ones.
        if !rules.iter().skip(number + 1).any(|later| outcome(later) == own) {
            return false;
        }
        let mut clauses = self.model.decides(0, Some(number));
        for (at, later) in rules.iter().enumerate().skip(number + 1) {
            if outcome(later) != own {
                let decided = clauses.iter().cloned().chain(self.model.matches(0, at, None)).collect();
                if !matches!(self.ask(decided, |_| true), Answer::Impossible) {
                    return false;
                }
            }
            clauses.push(self.model.differs(0, at));
        }
        matches!(self.ask(clauses, |_| true), Answer::Impossible)
    }

    /// Reports policies that allow or deny everything.
    fn whole(&mut self, decides: &[Option<bool>]) {
        let rules = self.policy.rules.iter().zip(decides);
        let may_decide = |wanted: fn(Decision) -> bool| {
            rules.clone().any(|(rule, decides)| wanted(rule.decision) && *decides != Some(false))
        };
        let any = |decision: Decision| {
            let accept = |witness: &Witness| {
                witness.reply(self.policy, 0).is_some_and(|reply| reply.decision == decision)
            };
            match self.ask(Vec::new(), accept) {
                Answer::Witness(witness) => Some(witness),
                Answer::Impossible | Answer::Open(_) => None,
            }
        };
        if !may_decide(|decision| decision != Decision::Deny) {
            let witness = any(Decision::Deny);
            self.add(None, InsightKind::NeverAllows, witness.as_deref());
        } else if self.policy.budgets.is_empty() && !may_decide(|decision| decision != Decision::Allow) {
            let unmatched = self.ask(self.model.decides(0, None), |witness| {
                witness.reply(self.policy, 0).is_some_and(|reply| reply.rule.is_none())
            });
            match unmatched {
                Answer::Impossible => {
                    let witness = any(Decision::Allow);
                    self.add(None, InsightKind::AlwaysAllows, witness.as_deref());
                }
                Answer::Open(operators) => {
                    let question = "whether it allows every request";
                    self.add(None, InsightKind::CannotTell { question, operators }, None);
                }
                Answer::Witness(_) => {}
            }
        }
    }
}

/// A short name of the kind.
fn word(kind: &InsightKind) -> &'static str {
    match kind {
        InsightKind::AlwaysAllows | InsightKind::AlwaysMatches => "always allows",
        InsightKind::CannotTell { .. } => "cannot tell",
        InsightKind::NeverAllows => "never allows",
        InsightKind::NeverFits => "never fits its budgets",
        InsightKind::NeverMatches { .. } => "never matches",
        InsightKind::Redundant => "redundant",
        InsightKind::Unreachable { .. } => "unreachable",
        InsightKind::Vacuous { .. } => "vacuous condition",
        InsightKind::Wider { .. } => "grants more",
    }
}

struct Comparison<'p> {
    old: &'p Policy,
    new: &'p Policy,
    model: Model<'p>,
    insights: Vec<Insight>,
}

const OLD: usize = 0;
const NEW: usize = 1;

impl<'p> Comparison<'p> {
    fn run(mut self) -> Vec<Insight> {
        for (number, rule) in self.new.rules.iter().enumerate() {
            if rank(rule.decision) == 0 {
                continue;
            }
            let mut open = None;
            let is_wider = self.rule(number, rule, &mut open);
            if let Some(operators) = open.filter(|_| !is_wider) {
                let question = "whether it grants more than the old policy";
                let kind = InsightKind::CannotTell { question, operators };
                self.insights.push(Insight { subject: Some(rule.name.clone()), kind, witness: None });
            }
        }
        self.insights
    }

    /// Returns the replies to the request number `times` if the new one permits more.
    fn replies(&self, witness: &Witness, times: u32) -> Option<(Reply<'p>, Reply<'p>)> {
        let earlier = times.saturating_sub(1);
        let (old, new) = (witness.reply(self.old, earlier)?, witness.reply(self.new, earlier)?);
        (rank(new.decision) > rank(old.decision)).then_some((old, new))
    }

    fn report(&mut self, rule: &Rule, witness: &Witness, times: u32) {
        if let Some((old, new)) = self.replies(witness, times) {
            let of = |reply: &Reply<'_>| (reply.decision, reply.reason.to_owned());
            let kind = InsightKind::Wider { old: of(&old), new: of(&new), times };
            let case = witness.case(&format!("{}: {}", rule.name, word(&kind)), self.new);
            self.insights.push(Insight { subject: Some(rule.name.clone()), kind, witness: Some(case) });
        }
    }

    /// Reports the first difference of a rule of the new policy; returns whether it differs.
    fn rule(&mut self, number: usize, rule: &Rule, open: &mut Option<String>) -> bool {
        let mut decided = self.model.decides(NEW, Some(number));
        if rule.decision == Decision::Allow {
            decided.extend(self.model.is_measured(NEW));
        }
        let strict = self.old.rules.iter().enumerate();
        let strict =
            strict.filter(|(_, old)| rank(old.decision) < rank(rule.decision)).map(|(at, _)| Some(at));
        for old in std::iter::once(None).chain(strict) {
            if old.is_some_and(|old| !self.model.are_compatible((NEW, number), (OLD, old))) {
                continue;
            }
            let clauses = decided.iter().cloned().chain(self.model.decides(OLD, old)).collect();
            if self.found(rule, clauses, open, |_| Some(1)) {
                return true;
            }
        }
        if rule.decision != Decision::Allow {
            // The strictness of two requirements is not compared.
            for (at, old) in self.old.rules.iter().enumerate() {
                if old.decision == rule.decision
                    && old.approval != rule.approval
                    && self.model.are_compatible((NEW, number), (OLD, at))
                {
                    let both: Vec<Clause> =
                        decided.iter().cloned().chain(self.model.decides(OLD, Some(at))).collect();
                    if !matches!(
                        self.model.ask(&Question::default().and(both), &|_| true),
                        Answer::Impossible
                    ) {
                        *open = Some("its requirement of an approval changed".to_owned());
                    }
                }
            }
            return false;
        }
        for (at, budget) in self.old.budgets.iter().enumerate() {
            let is_kept = self.new.budgets.iter().any(|new| is_kept(self.old, budget, self.new, new));
            if is_kept {
                continue;
            }
            for (old, _) in
                self.old.rules.iter().enumerate().filter(|(_, old)| old.decision == Decision::Allow)
            {
                if !self.model.are_compatible((NEW, number), (OLD, old)) {
                    continue;
                }
                let both: Vec<Clause> =
                    decided.iter().cloned().chain(self.model.decides(OLD, Some(old))).collect();
                if let Some(exceeds) = self.model.applies(OLD, at, true)
                    && self.found(rule, both.iter().cloned().chain(exceeds).collect(), open, |_| Some(1))
                {
                    return true;
                }
                let Some(applies) = self.model.applies(OLD, at, false) else { continue };
                let times = |witness: &Witness| {
                    let charges = witness.charges(self.old);
                    let (_, amount) = charges.iter().find(|(account, _)| account.budget == budget.name)?;
                    let fitting = budget.limit.checked_div(*amount).map(|times| times.floor())?;
                    fitting.to_u32()?.checked_add(1)
                };
                let mut different = None;
                if self.found(rule, both.into_iter().chain(applies).collect(), &mut different, times) {
                    return true;
                }
                if different.is_some() {
                    *open = Some(format!("the budget {:?} changed", budget.name));
                }
            }
        }
        false
    }

    /// Reports a request for which the question and the engine agree that the new policy permits more.
    fn found(
        &mut self,
        rule: &Rule,
        clauses: Vec<Clause>,
        open: &mut Option<String>,
        times: impl Fn(&Witness) -> Option<u32>,
    ) -> bool {
        let accept =
            |witness: &Witness| times(witness).is_some_and(|times| self.replies(witness, times).is_some());
        match self.model.ask(&Question::default().and(clauses), &accept) {
            Answer::Impossible => false,
            Answer::Open(operators) => {
                *open = Some(operators);
                false
            }
            Answer::Witness(witness) => {
                let times = times(&witness).unwrap_or(1);
                self.report(rule, &witness, times);
                true
            }
        }
    }
}

/// Returns whether `new` limits at least as much as `old`.
fn is_kept(of_old: &Policy, old: &Budget, of_new: &Policy, new: &Budget) -> bool {
    let is_as_strict = old.on_exceed == new.on_exceed || new.on_exceed == super::OnExceed::Deny;
    let limit = |budget: &Budget| -> Decimal { budget.limit };
    is_as_strict && limit(new) <= limit(old) && shape(of_old, old) == shape(of_new, new)
}

/// The actions that a budget sums, and how.
#[derive(PartialEq, Eq)]
pub(super) struct Shape {
    when: Vec<(Option<String>, String)>,
    per: Vec<Option<String>>,
    sum: Option<String>,
    window: i64,
    release_on_failure: bool,
}

pub(super) fn shape(policy: &Policy, budget: &Budget) -> Shape {
    let path = |path: usize| policy.paths.get(path).map(ToString::to_string);
    let conditions = |condition: &Condition| {
        let test = if let Test::Compare(comparison, other) = &condition.test {
            format!("{comparison:?} {:?}", path(*other))
        } else {
            format!("{:?}", condition.test)
        };
        (path(condition.path), test)
    };
    Shape {
        when: budget.when.iter().map(conditions).collect(),
        per: budget.per.iter().map(|index| path(*index)).collect(),
        sum: budget.measure.path().and_then(path),
        window: budget.window.millis(),
        release_on_failure: budget.release_on_failure,
    }
}
