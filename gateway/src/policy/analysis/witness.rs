//! Example requests and the engine's answers.

use std::collections::HashMap;

use actpass_protocol::Json;
use rust_decimal::Decimal;

use super::super::model::{Decision, OnExceed, Path, Root, Rule};
use super::super::{Input, NO_MATCH, Policy, Values};
use crate::budget::{self, Account};
use crate::history;
use crate::object_writer::object;

/// The sums of the histories of a request, by account name. `None` if a value of `same` is missing.
#[derive(Clone, Debug, Default)]
pub(super) struct Histories(HashMap<String, Option<Decimal>>);

impl Histories {
    pub(super) fn set(&mut self, account: &str, sum: Option<Decimal>) {
        self.0.insert(account.to_owned(), sum);
    }

    /// Returns whether all history conditions of the rule are true.
    fn hold(&self, policy: &Policy, rule: &Rule) -> bool {
        rule.histories.iter().all(|history| {
            let history = policy.histories.get(*history);
            let tracker = history.and_then(|history| policy.trackers.get(history.tracker));
            let sum = tracker.and_then(|tracker| self.0.get(&tracker.account).copied().flatten());
            history.zip(sum).is_some_and(|(history, sum)| history.bound.holds(sum))
        })
    }
}

/// An example request.
#[derive(Clone, Debug, Default)]
pub(super) struct Witness {
    members: Vec<(Root, Json)>,
    pub(super) histories: Histories,
}

/// The engine's answer to a request under empty budgets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply<'p> {
    /// The matching rule.
    pub(super) rule: Option<&'p str>,
    pub(super) decision: Decision,
    pub(super) reason: &'p str,
}

impl Witness {
    /// Sets the value at a path and creates its containers.
    pub(super) fn set(&mut self, path: &Path, value: Json) {
        if let Some(slot) = self.slot(path) {
            *slot = value;
        }
    }

    /// Sets the value at a path unless it is present.
    pub(super) fn set_missing(&mut self, path: &Path, value: Json) {
        if path.walk(&self.input()).is_none() {
            self.set(path, value);
        }
    }

    fn slot(&mut self, path: &Path) -> Option<&mut Json> {
        let at = match self.members.iter().position(|(root, _)| *root == path.root) {
            Some(at) => at,
            None => {
                self.members.push((path.root, Json::Object(Vec::new())));
                self.members.len() - 1
            }
        };
        let mut slot = &mut self.members.get_mut(at)?.1;
        for segment in &path.segments {
            // An item that continues an array; any other number is the name of a member.
            if matches!((&slot, segment.index), (Json::Object(members), Some(0)) if members.is_empty()) {
                *slot = Json::Array(Vec::new());
            }
            slot = match slot {
                Json::Array(items) => {
                    let index = segment.index?;
                    while items.len() <= index {
                        items.push(Json::Object(Vec::new()));
                    }
                    items.get_mut(index)?
                }
                Json::Object(members) => {
                    let at = match members.iter().position(|(name, _)| *name == segment.name) {
                        Some(at) => at,
                        None => {
                            members.push((segment.name.clone(), Json::Object(Vec::new())));
                            members.len() - 1
                        }
                    };
                    &mut members.get_mut(at)?.1
                }
                Json::Bool(_) | Json::Null | Json::Number(_) | Json::String(_) => return None,
            };
        }
        Some(slot)
    }

    fn member(&self, root: Root) -> Option<&Json> {
        self.members.iter().find_map(|(of, value)| (*of == root).then_some(value))
    }

    /// The input of an evaluation.
    pub(super) fn input(&self) -> Input<'_> {
        Input::of(|root| self.member(root))
    }

    /// Adds the members that every request has.
    pub(super) fn complete(&mut self) {
        for (root, value) in [
            (Root::Tool, Json::from("any")),
            (Root::Args, Json::Object(Vec::new())),
            (Root::Goal, Json::from("any")),
        ] {
            if self.member(root).is_none() {
                self.members.push((root, value));
            }
        }
        self.members.sort_by_key(|(root, _)| Root::ALL.iter().position(|known| known == root));
    }

    /// Returns whether the request satisfies the conditions of the rule.
    pub(super) fn matches(&self, policy: &Policy, rule: &Rule) -> bool {
        let input = self.input();
        let mut values = Values::of(policy, &input);
        rule.when.iter().all(|condition| condition.holds(&mut values)) && self.histories.hold(policy, rule)
    }

    /// Returns the engine's answer after `earlier` requests like this one, whose amounts the budgets
    /// already have. `None` if that amount is too large.
    pub(super) fn reply<'p>(&self, policy: &'p Policy, earlier: u32) -> Option<Reply<'p>> {
        let input = self.input();
        let mut values = Values::of(policy, &input);
        let rule = policy.first_match_if(&mut values, |rule| self.histories.hold(policy, rule));
        let name = rule.map(Rule::name);
        let Some(rule) = rule else {
            return Some(Reply { rule: None, decision: Decision::Deny, reason: NO_MATCH });
        };
        let reply = |decision, reason| Some(Reply { rule: name, decision, reason });
        if rule.decision != Decision::Allow {
            return reply(rule.decision, &rule.reason);
        }
        let Ok(charges) = policy.charges(&mut values) else {
            return reply(Decision::Deny, budget::NOT_MEASURABLE);
        };
        if policy.tracked(&mut values).is_err() {
            return reply(Decision::Deny, history::NOT_MEASURABLE);
        }
        let mut asks = None;
        for (of, charge) in &charges {
            let used = charge.amount.checked_mul(Decimal::from(earlier))?;
            if !budget::fits(charge, used) {
                match of.on_exceed {
                    OnExceed::Deny => return reply(Decision::Deny, &of.reason),
                    OnExceed::RequireApproval => {
                        asks.get_or_insert(of.reason.as_str());
                    }
                }
            }
        }
        match asks {
            Some(reason) => reply(Decision::RequireApproval, reason),
            None => reply(Decision::Allow, &rule.reason),
        }
    }

    /// Returns the accounts and amounts of the budgets.
    pub(super) fn charges(&self, policy: &Policy) -> Vec<(Account, Decimal)> {
        let charges = policy.charges(&mut Values::of(policy, &self.input())).unwrap_or_default();
        charges.into_iter().map(|(_, charge)| (charge.account, charge.amount)).collect()
    }

    /// The request as a case of `policy test`, with the answer of `policy`.
    pub(super) fn case(&self, name: &str, policy: &Policy) -> Json {
        let input = self.members.iter().map(|(root, value)| (root.name().to_owned(), value.clone()));
        let histories: Vec<(String, Json)> = policy
            .rules
            .iter()
            .filter(|rule| rule.has_history() && self.histories.hold(policy, rule))
            .map(|rule| (rule.name.clone(), Json::Bool(true)))
            .collect();
        let rule = policy
            .first_match_if(&mut Values::of(policy, &self.input()), |rule| self.histories.hold(policy, rule));
        let expected = object([
            ("decision", Some(Json::from(rule.map_or(Decision::Deny, Rule::decision).as_str()))),
            ("reason_code", Some(Json::from(rule.map_or(NO_MATCH, Rule::reason)))),
            ("rule", Some(rule.map_or(Json::Null, |rule| Json::from(rule.name())))),
        ]);
        object([
            ("name", Some(Json::from(name))),
            ("input", Some(Json::Object(input.collect()))),
            ("history", (!histories.is_empty()).then_some(Json::Object(histories))),
            ("expect", Some(expected)),
        ])
    }
}
