//! The requests that two policies decide differently, by pairs of deciding rules.
//!
//! Each pair of a rule of the old policy and a rule of the new one is a question: is there a request
//! that the first decides under the old policy, and the second under the new one? "No rule" is one of
//! the rules. So the changes of all pairs are all changes, unless a question is open.

use actpass_protocol::Json;
use rust_decimal::prelude::ToPrimitive;

use super::super::model::{Budget, Decision, OnExceed, RiskTier, Rule};
use super::super::{NO_MATCH, Policy};
use super::model::{Answer, Model, Question};
use super::solve::Clause;
use super::witness::{Reply, Witness};
use super::{MAX_RULES, NEW, OLD, shape};
use crate::object_writer::object;

/// The changes between two policies; see [`Policy::changes_from`].
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Each change, by the rules of the old policy, then by those of the new one.
    pub found: Vec<Change>,
    /// Questions without an answer: there may be other changes.
    pub open: Vec<OpenChange>,
}

/// The answer of a policy to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The deciding rule; `None` if no rule matches.
    pub rule: Option<String>,
    /// The decision.
    pub decision: Decision,
    /// The reason code.
    pub reason: String,
}

/// A kind of request that the policies answer differently.
#[derive(Clone, Debug)]
pub struct Change {
    /// The answer of the old policy to the example.
    pub old: Outcome,
    /// The answer of the new policy.
    pub new: Outcome,
    /// The differing members of the answers.
    pub members: Vec<&'static str>,
    /// The number of equal requests in one window after which the answers differ; 1 is the first.
    pub times: u32,
    /// The example: a case of `policy test` of the new policy.
    pub witness: Json,
}

/// A pair of rules for which the question is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenChange {
    /// The rule of the old policy; `None` if no rule matches.
    pub old: Option<String>,
    /// The rule of the new policy.
    pub new: Option<String>,
    /// Why the question is open: operators, or a changed budget.
    pub because: String,
}

impl Outcome {
    /// The answer of a rule without budgets.
    pub(in crate::policy) fn of(rule: Option<&Rule>) -> Self {
        Self {
            rule: rule.map(|rule| rule.name.clone()),
            decision: rule.map_or(Decision::Deny, Rule::decision),
            reason: rule.map_or(NO_MATCH, Rule::reason).to_owned(),
        }
    }

    fn of_reply(reply: &Reply<'_>) -> Self {
        Self {
            rule: reply.rule.map(str::to_owned),
            decision: reply.decision,
            reason: reply.reason.to_owned(),
        }
    }

    /// As JSON: `rule`, `decision` and `reason_code`.
    pub fn to_json(&self) -> Json {
        object([
            ("rule", Some(self.rule.as_deref().map_or(Json::Null, Json::from))),
            ("decision", Some(Json::from(self.decision.as_str()))),
            ("reason_code", Some(Json::from(&*self.reason))),
        ])
    }
}

impl Change {
    /// As JSON: `old`, `new`, `members`, `times` and `example`.
    pub fn to_json(&self) -> Json {
        let members = self.members.iter().map(|member| Json::from(*member)).collect();
        object([
            ("old", Some(self.old.to_json())),
            ("new", Some(self.new.to_json())),
            ("members", Some(Json::Array(members))),
            ("times", Some(Json::Number(i64::from(self.times).into()))),
            ("example", Some(self.witness.clone())),
        ])
    }
}

impl OpenChange {
    /// As JSON: `old_rule`, `new_rule` and `because`.
    pub fn to_json(&self) -> Json {
        let rule = |name: &Option<String>| Some(name.as_deref().map_or(Json::Null, Json::from));
        object([
            ("old_rule", rule(&self.old)),
            ("new_rule", rule(&self.new)),
            ("because", Some(Json::from(&*self.because))),
        ])
    }
}

/// Returns the members in which the answers of two rules differ.
pub(in crate::policy) fn changed_members(old: Option<&Rule>, new: Option<&Rule>) -> Vec<&'static str> {
    let (before, after) = (Outcome::of(old), Outcome::of(new));
    let tier =
        |rule: Option<&Rule>| rule.map_or(RiskTier::High, |rule| rule.risk_tier.unwrap_or(RiskTier::Medium));
    let steps = |rule: Option<&Rule>| rule.map(|rule| rule.next_steps.clone()).unwrap_or_default();
    let approval = |rule: Option<&Rule>| rule.and_then(|rule| rule.approval.clone());
    let differs = [
        ("decision", before.decision != after.decision),
        ("reason_code", before.reason != after.reason),
        ("risk_tier", tier(old) != tier(new)),
        ("next_steps", steps(old) != steps(new)),
        ("approval", approval(old) != approval(new)),
    ];
    differs.into_iter().filter_map(|(member, differs)| differs.then_some(member)).collect()
}

impl Policy {
    /// Returns the requests that this policy answers differently from `old`, with an example of each
    /// pair of deciding rules. The state is the same for both: the sums of histories, and the amounts
    /// of equal earlier requests in the budgets.
    pub fn changes_from(&self, old: &Self) -> Changes {
        if self.hash == old.hash {
            return Changes::default();
        }
        if self.rules.len().max(old.rules.len()) > MAX_RULES {
            let because = format!("more than {MAX_RULES} rules");
            return Changes { found: Vec::new(), open: vec![OpenChange { old: None, new: None, because }] };
        }
        let model = Model::of(&[old, self]);
        let mut diff = Diff { policies: [old, self], model, changes: Changes::default() };
        let rules = |policy: &Self| std::iter::once(None).chain((0..policy.rules.len()).map(Some));
        for before in rules(old).skip(1).chain([None]) {
            for after in rules(self).skip(1).chain([None]) {
                diff.pair([before, after]);
            }
        }
        diff.changes
    }
}

/// The numbers of the deciding rules of the old and the new policy.
type Pair = [Option<usize>; 2];

struct Diff<'p> {
    policies: [&'p Policy; 2],
    model: Model<'p>,
    changes: Changes,
}

impl<'p> Diff<'p> {
    fn rules(&self, pair: Pair) -> [Option<&'p Rule>; 2] {
        let [old, new] = self.policies;
        let [before, after] = pair;
        [before.and_then(|at| old.rules.get(at)), after.and_then(|at| new.rules.get(at))]
    }

    /// Adds the changes of the requests that the rules of the pair decide.
    fn pair(&mut self, pair: Pair) {
        let [before, after] = pair;
        if let (Some(before), Some(after)) = (before, after)
            && !self.model.are_compatible((OLD, before), (NEW, after))
        {
            return;
        }
        let rules = self.rules(pair);
        let allows = rules.map(|rule| rule.is_some_and(|rule| rule.decision == Decision::Allow));
        let [old, new] = rules;
        let members = changed_members(old, new);
        let questions = self.of_amounts(rules, allows);
        if members.is_empty() && questions.is_empty() {
            return;
        }
        let mut decided = self.model.decides(OLD, before);
        decided.extend(self.model.decides(NEW, after));
        if !members.is_empty() {
            let mut clauses = decided.clone();
            for (policy, allows) in [OLD, NEW].into_iter().zip(allows) {
                if allows {
                    clauses.extend(self.model.is_measured(policy));
                }
            }
            let expected = rules.map(Outcome::of);
            let is_expected =
                |found: &[Reply<'_>; 2]| found.each_ref().map(|reply| Outcome::of_reply(reply)) == expected;
            match self.ask(clauses, |_| Some(1), is_expected) {
                Asked::Impossible => {}
                Asked::Open(because) => self.open(rules, because),
                Asked::Found(witness, times) => self.add(&witness, times, Some(members)),
            }
        }
        self.amounts(rules, &decided, questions);
    }

    /// Returns the questions about amounts that one policy may answer differently from the other.
    fn of_amounts(&self, rules: [Option<&Rule>; 2], allows: [bool; 2]) -> Vec<Amount<'p>> {
        let [old, new] = self.policies;
        let mut questions = Vec::new();
        for (side, own, other) in [(OLD, old, new), (NEW, new, old)] {
            let [of_old, of_new] = allows;
            let is_allowed = if side == OLD { of_old } else { of_new };
            if !is_allowed {
                continue;
            }
            let both = of_old && of_new;
            let [before, after] = rules;
            let decided = (if side == OLD { after } else { before }).map_or(Decision::Deny, Rule::decision);
            for (at, budget) in own.budgets.iter().enumerate() {
                // An exceeded budget that denies is not a change if the other rule denies too.
                let is_same = match both {
                    true => is_covered((own, budget), other),
                    false => budget.on_exceed == OnExceed::Deny && decided == Decision::Deny,
                };
                if !is_same {
                    questions.push(Amount::Exceeds { side, at });
                    if both {
                        questions.push(Amount::Reaches { side, at, budget });
                    }
                }
            }
            for (at, tracker) in own.trackers.iter().enumerate() {
                let is_shared = both && other.trackers.iter().any(|of| of.account == tracker.account);
                if tracker.measure.path().is_some() && !is_shared && decided != Decision::Deny {
                    questions.push(Amount::NotTracked { side, at });
                }
            }
        }
        questions
    }

    fn amounts(&mut self, rules: [Option<&Rule>; 2], decided: &[Clause], questions: Vec<Amount<'p>>) {
        let both = rules.iter().all(|rule| rule.is_some_and(|rule| rule.decision == Decision::Allow));
        let differs = |[old, new]: &[Reply<'_>; 2]| {
            let is_allowed = [old, new].map(|reply| reply.decision) == [Decision::Allow; 2];
            old.decision != new.decision || both && !is_allowed && old.reason != new.reason
        };
        // The open questions, and those with an answer.
        let (mut open, mut found) = (Vec::new(), Vec::new());
        for question in questions {
            let more = match question {
                Amount::Exceeds { side, at } => self.model.applies(side, at, true),
                Amount::Reaches { side, at, .. } => self.model.applies(side, at, false),
                Amount::NotTracked { side, at } => self.model.not_tracked(side, at),
            };
            let Some(more) = more else { continue };
            let clauses = decided.iter().cloned().chain(more).collect();
            let times = |witness: &Witness| match question {
                Amount::Exceeds { .. } | Amount::NotTracked { .. } => Some(1),
                Amount::Reaches { side, budget, .. } => {
                    let charges = witness.charges(self.policies.get(side)?);
                    let (_, amount) = charges.iter().find(|(account, _)| account.budget == budget.name)?;
                    let fitting = budget.limit.checked_div(*amount).map(|times| times.floor())?;
                    fitting.to_u32()?.checked_add(1)
                }
            };
            match self.ask(clauses, times, differs) {
                Asked::Impossible => {}
                Asked::Open(_) => open.push(self.about(question)),
                Asked::Found(witness, times) => {
                    self.add(&witness, times, None);
                    found.push(self.about(question));
                }
            }
        }
        open.dedup();
        for because in open.into_iter().filter(|because| !found.contains(because)) {
            self.open(rules, because);
        }
    }

    /// Describes the subject of a question.
    fn about(&self, question: Amount<'_>) -> String {
        let [name, word] = match question {
            Amount::Exceeds { side, at } | Amount::Reaches { side, at, .. } => {
                let budget = self.policies.get(side).and_then(|policy| policy.budgets.get(at));
                [budget.map(Budget::name).unwrap_or_default(), if side == OLD { "old" } else { "new" }]
            }
            Amount::NotTracked { side, .. } => {
                return format!("the {} policy has another history", if side == OLD { "old" } else { "new" });
            }
        };
        format!("the budget {name:?} of the {word} policy")
    }

    /// Searches for a request that satisfies the clauses and for whose number `times` the engine's
    /// answers are `accepted`.
    fn ask(
        &self,
        clauses: Vec<Clause>,
        times: impl Fn(&Witness) -> Option<u32>,
        accepted: impl Fn(&[Reply<'p>; 2]) -> bool,
    ) -> Asked {
        let accept = |witness: &Witness| {
            times(witness)
                .and_then(|times| self.replies(witness, times))
                .is_some_and(|found| accepted(&found))
        };
        match self.model.ask(&Question::default().and(clauses), &accept) {
            Answer::Impossible => Asked::Impossible,
            Answer::Open(because) => Asked::Open(because),
            Answer::Witness(witness) => {
                let times = times(&witness).unwrap_or(1);
                Asked::Found(witness, times)
            }
        }
    }

    fn replies(&self, witness: &Witness, times: u32) -> Option<[Reply<'p>; 2]> {
        let [old, new] = self.policies;
        let earlier = times.saturating_sub(1);
        Some([witness.reply(old, earlier)?, witness.reply(new, earlier)?])
    }

    /// Adds a change with the differing members of the rules; `None` for a change of a budget.
    fn add(&mut self, witness: &Witness, times: u32, members: Option<Vec<&'static str>>) {
        let Some(replies) = self.replies(witness, times) else { return };
        let [old, new] = replies.each_ref().map(Outcome::of_reply);
        let members = members.unwrap_or_else(|| {
            let decision = (old.decision != new.decision).then_some("decision");
            decision.into_iter().chain((old.reason != new.reason).then_some("reason_code")).collect()
        });
        let is_known = self
            .changes
            .found
            .iter()
            .any(|known| known.old == old && known.new == new && known.members == members);
        if is_known {
            return;
        }
        let name = |outcome: &Outcome| outcome.rule.clone().unwrap_or_else(|| "no rule".to_owned());
        let title = format!("{} {} -> {} {}", name(&old), old.decision, name(&new), new.decision);
        let [_, policy] = self.policies;
        let witness = witness.case(&title, policy);
        self.changes.found.push(Change { old, new, members, times, witness });
    }

    fn open(&mut self, rules: [Option<&Rule>; 2], because: String) {
        let [old, new] = rules.map(|rule| rule.map(|rule| rule.name.clone()));
        self.changes.open.push(OpenChange { old, new, because });
    }
}

/// A question about the amount of a request that both policies may allow.
#[derive(Clone, Copy)]
enum Amount<'p> {
    /// The amount does not fit the empty budget.
    Exceeds { side: usize, at: usize },
    /// The amount cannot be added to a history.
    NotTracked { side: usize, at: usize },
    /// Equal requests exceed the budget.
    Reaches { side: usize, at: usize, budget: &'p Budget },
}

enum Asked {
    Found(Box<Witness>, u32),
    Impossible,
    Open(String),
}

/// Returns whether a budget of the other policy is exceeded whenever this one is, with the same answer.
fn is_covered((own, budget): (&Policy, &Budget), other: &Policy) -> bool {
    other.budgets.iter().any(|of| {
        shape(own, budget) == shape(other, of)
            && of.on_exceed == budget.on_exceed
            && of.reason == budget.reason
            && of.limit <= budget.limit
    })
}
