//! The answer of another policy to a recorded decision.
//!
//! Everything that does not depend on the policy stays as recorded: halts, grants of the key, the
//! tool's manifest, the passport, the credential, and the approvals of people. An approval that the
//! record does not contain counts as not given.

use actpass_protocol::Json;
use rust_decimal::Decimal;

use super::analysis::shape;
use super::model::{Budget, Decision, OnExceed, Root, Rule};
use super::{Input, NO_MATCH, Policy, Values};
use crate::approvals::reason::APPROVED;
use crate::budget::{self, Account, Charge};
use crate::object_writer::object;
use crate::{history, vault};

/// Prefix of the reason codes of approvals.
const APPROVAL: &str = "approval.";

/// The values of a request that a policy reads, as JSON: each top-level path that is present.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedInput(Json);

impl RecordedInput {
    /// Copies the values of `input`.
    pub fn of(input: &Input<'_>) -> Self {
        let members =
            Root::ALL.iter().filter_map(|root| Some((root.name().to_owned(), input.member(*root)?.clone())));
        Self(Json::Object(members.collect()))
    }

    /// Reads the object that [`RecordedInput::as_json`] returned.
    pub fn from_json(json: Json) -> Self {
        Self(json)
    }

    /// As a JSON object.
    pub fn as_json(&self) -> &Json {
        &self.0
    }

    fn input(&self) -> Input<'_> {
        Input::of(|root| self.0.member(root.name()))
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The decision of the mode enforce.
    pub decision: String,
    /// The reason code.
    pub reason: String,
    /// The matching rule.
    pub rule: Option<String>,
}

impl Answer {
    fn new(decision: Decision, reason: &str, rule: Option<&Rule>) -> Self {
        Self {
            decision: decision.as_str().to_owned(),
            reason: reason.to_owned(),
            rule: rule.map(|rule| rule.name.clone()),
        }
    }

    /// Returns whether both have the same decision and reason code.
    pub fn agrees(&self, other: &Self) -> bool {
        self.decision == other.decision && self.reason == other.reason
    }

    /// As JSON: `decision`, `reason_code` and `rule`.
    pub fn to_json(&self) -> Json {
        object([
            ("decision", Some(Json::from(&*self.decision))),
            ("reason_code", Some(Json::from(&*self.reason))),
            ("rule", Some(self.rule.as_deref().map_or(Json::Null, Json::from))),
        ])
    }
}

/// A decision as the ledger records it.
#[derive(Clone, Debug)]
pub struct RecordedDecision {
    /// The values that the policy reads.
    pub input: RecordedInput,
    /// The recorded answer.
    pub answer: Answer,
    /// Whether the mode enforces the decision: it then claims from budgets and histories.
    pub enforces: bool,
    /// Whether it repeats an `allow` under the same idempotency key, which claims nothing.
    pub repeats: bool,
    /// Whether a person had approved the action, also if a budget then denied it.
    pub approved: bool,
}

impl RecordedDecision {
    /// Returns whether the answer does not depend on the policy.
    fn is_fixed(&self) -> bool {
        let by_policy = [NO_MATCH, history::NOT_MEASURABLE];
        self.answer.rule.is_none() && !by_policy.contains(&&*self.answer.reason)
    }
}

/// The answer of a policy, with the charges of an `allow` that claims.
#[derive(Clone, Debug)]
pub struct Reconsidered {
    /// The answer.
    pub answer: Answer,
    /// The charges that it claims.
    pub claims: Vec<Charge>,
}

impl From<Answer> for Reconsidered {
    fn from(answer: Answer) -> Self {
        Self { answer, claims: Vec::new() }
    }
}

/// The sum of an account that the answer depends on is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownSum;

impl Policy {
    /// Returns the names of the accounts that mean the same in `other`: budgets that sum the same
    /// actions, with any limit, and histories.
    pub fn accounts_shared_with(&self, other: &Self) -> Vec<String> {
        let is_shared = |budget: &&Budget| {
            other.budgets.iter().any(|of| of.name == budget.name && shape(other, of) == shape(self, budget))
        };
        let budgets = self.budgets.iter().filter(is_shared).map(|budget| budget.name.clone());
        let trackers = self.trackers.iter().map(|tracker| &tracker.account);
        let trackers = trackers.filter(|name| other.trackers.iter().any(|of| of.account == **name));
        budgets.chain(trackers.cloned()).collect()
    }

    /// Returns the accounts whose sums the answer to the request can depend on.
    pub fn accounts_of(&self, input: &RecordedInput) -> Vec<Account> {
        let input = input.input();
        let values = &mut Values::of(self, &input);
        let checks = self.history_checks(values, &[]).unwrap_or_default();
        let charges = self.charges(values).unwrap_or_default();
        let tracked = self.tracked(values).unwrap_or_default();
        let accounts = checks.into_iter().map(|check| check.account);
        let charged = charges.into_iter().map(|(_, charge)| charge);
        accounts.chain(charged.chain(tracked).map(|charge| charge.account)).collect()
    }

    /// Returns the answer of this policy to the recorded request. `used` returns the sum of an
    /// account; `None` if it is unknown.
    ///
    /// # Errors
    ///
    /// Returns an error if the answer depends on an unknown sum.
    pub fn reconsider(
        &self,
        recorded: &RecordedDecision,
        mut used: impl FnMut(&Account) -> Option<Decimal>,
    ) -> Result<Reconsidered, UnknownSum> {
        if recorded.is_fixed() {
            return Ok(recorded.answer.clone().into());
        }
        let input = recorded.input.input();
        let values = &mut Values::of(self, &input);
        let Ok(checks) = self.history_checks(values, &[]) else {
            return Ok(Answer::new(Decision::Deny, history::NOT_MEASURABLE, None).into());
        };
        let mut holding = Vec::new();
        for check in checks {
            if check.bound.holds(used(&check.account).ok_or(UnknownSum)?) {
                holding.push(check.condition);
            }
        }
        let holds = |rule: &Rule| rule.histories().iter().all(|condition| holding.contains(condition));
        let Some(rule) = self.first_match_if(values, holds) else {
            return Ok(Answer::new(Decision::Deny, NO_MATCH, None).into());
        };
        let mut reason = rule.reason();
        match rule.decision() {
            Decision::Deny => return Ok(Answer::new(Decision::Deny, reason, Some(rule)).into()),
            Decision::RequireApproval => match recorded.approved(rule, reason) {
                Ok(approved) => reason = approved,
                Err(answer) => return Ok(answer.into()),
            },
            Decision::Allow => {}
        }
        let mut claims = Vec::new();
        if !(recorded.repeats && recorded.enforces) {
            let Ok(charges) = self.charges(values) else {
                return Ok(Answer::new(Decision::Deny, budget::NOT_MEASURABLE, Some(rule)).into());
            };
            let Ok(tracked) = self.tracked(values) else {
                return Ok(Answer::new(Decision::Deny, history::NOT_MEASURABLE, Some(rule)).into());
            };
            if recorded.answer.reason == vault::EXPIRED {
                return Ok(Answer { rule: Some(rule.name.clone()), ..recorded.answer.clone() }.into());
            }
            let is_approved = reason == APPROVED;
            let mut exceeded = None;
            for (of, charge) in charges {
                if !budget::fits(&charge, used(&charge.account).ok_or(UnknownSum)?) {
                    match of.on_exceed() {
                        OnExceed::Deny => {
                            return Ok(Answer::new(Decision::Deny, of.reason(), Some(rule)).into());
                        }
                        OnExceed::RequireApproval if is_approved => {}
                        OnExceed::RequireApproval => {
                            exceeded.get_or_insert(of);
                        }
                    }
                }
                claims.push(charge);
            }
            for charge in tracked.into_iter().filter(|_| recorded.enforces) {
                // Small amounts cannot make the sum inexact.
                if charge.amount > Decimal::ONE
                    && !budget::fits(&charge, used(&charge.account).ok_or(UnknownSum)?)
                {
                    return Ok(Answer::new(Decision::Deny, history::NOT_MEASURABLE, Some(rule)).into());
                }
                claims.push(charge);
            }
            if let Some(of) = exceeded {
                match recorded.approved(rule, of.reason()) {
                    Ok(approved) => reason = approved,
                    Err(answer) => return Ok(answer.into()),
                }
            }
        } else if recorded.answer.reason == vault::EXPIRED {
            return Ok(Answer { rule: Some(rule.name.clone()), ..recorded.answer.clone() }.into());
        }
        if !recorded.enforces {
            claims.clear();
        }
        Ok(Reconsidered { answer: Answer::new(Decision::Allow, reason, Some(rule)), claims })
    }
}

impl RecordedDecision {
    /// Returns the reason code of an approved action, or the answer if the record contains no
    /// approval. `demand` is the reason code of the approval.
    fn approved(&self, rule: &Rule, demand: &str) -> Result<&'static str, Answer> {
        let recorded = &self.answer;
        // The request named an approval that does not permit it, or is not decided.
        if recorded.reason.starts_with(APPROVAL) && recorded.reason != APPROVED {
            return Err(Answer { rule: Some(rule.name.clone()), ..recorded.clone() });
        }
        if self.approved {
            return Ok(APPROVED);
        }
        Err(Answer::new(Decision::RequireApproval, demand, Some(rule)))
    }
}

/// A policy that is evaluated for each decision of another one, without effect.
#[derive(Debug)]
pub struct ShadowPolicy {
    /// The policy.
    pub policy: Policy,
    /// Names of the accounts whose sums are kept for the policy in force, and mean the same here.
    pub(crate) shared: Vec<String>,
}

impl ShadowPolicy {
    /// Prepares `policy` for decisions of `in_force`.
    pub fn new(policy: Policy, in_force: &Policy) -> Self {
        let shared = policy.accounts_shared_with(in_force);
        Self { policy, shared }
    }
}
