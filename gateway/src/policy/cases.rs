//! Policy test cases: inputs and expected decisions.

use std::fmt;

use actpass_protocol::Json;

use super::analysis::changed_members;
use super::evaluate::{Input, Values};
use super::model::{Decision, Root, Rule};
use super::{NO_MATCH, Outcome, Policy};
use crate::object_writer::object;
use crate::problems::Problems;

/// Test cases; see [`Cases::parse`].
#[derive(Clone, Debug)]
pub struct Cases(Vec<Case>);

impl Cases {
    /// Parses `{"cases": [..]}` or a list of cases.
    ///
    /// # Errors
    ///
    /// Returns every problem: invalid JSON, unknown or missing members, wrong types, unknown
    /// decisions, duplicate names, or no cases.
    pub fn parse(text: &[u8]) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let cases = Self::parse_inputs(text)?;
        for (index, case) in cases.0.iter().enumerate() {
            if case.expect.is_none() {
                problems.add(format_args!("cases[{index}].expect"), wanted("a decision or an object", None));
            }
        }
        problems.or(cases)
    }

    /// As [`Cases::parse`], but cases need no expectation.
    ///
    /// # Errors
    ///
    /// As [`Cases::parse`].
    pub fn parse_inputs(text: &[u8]) -> Result<Self, Problems> {
        let file = Json::parse(text).map_err(|error| Problems::one("cases", error))?;
        let mut problems = Problems::default();
        let list = match &file {
            Json::Object(_) => {
                check_members("cases", &file, &["cases"], &mut problems);
                file.member("cases")
            }
            Json::Array(_) | Json::Bool(_) | Json::Null | Json::Number(_) | Json::String(_) => Some(&file),
        };
        let Some(Json::Array(items)) = list else {
            problems.add("cases", wanted("an array", list));
            return Err(problems);
        };
        if items.is_empty() {
            problems.add("cases", "expected at least one case, found none");
        }
        let mut cases: Vec<Case> = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let Some(case) = Case::read(&format!("cases[{index}]"), item, &mut problems) else {
                continue;
            };
            if cases.iter().any(|earlier| earlier.name == case.name) {
                problems
                    .add(format_args!("cases[{index}].name"), format_args!("duplicate name {:?}", case.name));
            }
            cases.push(case);
        }
        problems.or(Self(cases))
    }

    /// Iterates over the cases in file order.
    pub fn iter(&self) -> impl Iterator<Item = &Case> {
        self.0.iter()
    }
}

/// An input and the expected decision.
#[derive(Clone, Debug)]
pub struct Case {
    name: String,
    input: Json,
    /// The rules whose history conditions hold, or do not.
    history: Vec<(String, bool)>,
    expect: Option<Expect>,
}

#[derive(Clone, Debug)]
struct Expect {
    decision: Decision,
    reason_code: Option<String>,
    /// The expected rule; the inner `None` expects no rule.
    rule: Option<Option<String>>,
}

impl Case {
    /// The case's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Evaluates `policy` and returns each difference from the expectation.
    pub fn run(&self, policy: &Policy) -> Vec<Mismatch> {
        let rule = self.first_match(policy);
        let decision = rule.map_or(Decision::Deny, |rule| rule.decision());
        let reason = rule.map_or(NO_MATCH, |rule| rule.reason());
        let rule = rule.map_or("(none)", |rule| rule.name());

        let mut mismatches = Vec::new();
        let mut compare = |member, expected: &str, actual: &str| {
            if expected != actual {
                mismatches.push(Mismatch {
                    member,
                    expected: expected.to_owned(),
                    actual: actual.to_owned(),
                });
            }
        };
        for (name, _) in &self.history {
            if !policy.rules().iter().any(|rule| rule.name() == name && rule.has_history()) {
                compare("history", name, "(no rule with history conditions)");
            }
        }
        let Some(expect) = &self.expect else { return mismatches };
        compare("decision", expect.decision.as_str(), decision.as_str());
        if let Some(expected) = &expect.reason_code {
            compare("reason_code", expected, reason);
        }
        if let Some(expected) = &expect.rule {
            compare("rule", expected.as_deref().unwrap_or("(none)"), rule);
        }
        mismatches
    }

    /// Returns the name of the deciding rule of `policy`; `None` if no rule matches.
    pub fn decided_by<'p>(&self, policy: &'p Policy) -> Option<&'p str> {
        self.first_match(policy).map(|rule| rule.name())
    }

    /// Returns how the answer of `new` differs from the one of `old`; `None` if it does not. Budgets
    /// do not apply.
    pub fn change(&self, old: &Policy, new: &Policy) -> Option<CaseChange> {
        let (before, after) = (self.first_match(old), self.first_match(new));
        let members = changed_members(before, after);
        (!members.is_empty()).then(|| CaseChange {
            name: self.name.clone(),
            old: Outcome::of(before),
            new: Outcome::of(after),
            members,
        })
    }

    fn first_match<'p>(&self, policy: &'p Policy) -> Option<&'p Rule> {
        let holds = |rule: &Rule| self.history.iter().any(|(name, holds)| rule.name() == name && *holds);
        policy.first_match_if(&mut Values::of(policy, &self.input()), holds)
    }

    fn input(&self) -> Input<'_> {
        Input::of(|root| self.input.member(root.name()).filter(|value| **value != Json::Null))
    }

    fn read(place: &str, case: &Json, problems: &mut Problems) -> Option<Self> {
        check_members(place, case, &["name", "input", "history", "expect"], problems).then_some(())?;
        let name = match case.member("name") {
            Some(Json::String(name)) if !name.is_empty() => Some(name.clone()),
            other => {
                problems.add(format_args!("{place}.name"), wanted("a non-empty string", other));
                None
            }
        };
        let input = Self::read_input(&format!("{place}.input"), case.member("input"), problems);
        let history = Self::read_history(&format!("{place}.history"), case.member("history"), problems);
        let expect = match case.member("expect") {
            None => Some(None),
            expect => Expect::read(&format!("{place}.expect"), expect, problems).map(Some),
        };
        Some(Self { name: name?, input: input?, history: history?, expect: expect? })
    }

    fn read_history(
        place: &str,
        history: Option<&Json>,
        problems: &mut Problems,
    ) -> Option<Vec<(String, bool)>> {
        let rules = match history {
            None => return Some(Vec::new()),
            Some(Json::Object(rules)) => rules,
            other => {
                problems.add(place, wanted("an object of true or false by rule", other));
                return None;
            }
        };
        let before = problems.len();
        let mut read = Vec::with_capacity(rules.len());
        for (name, holds) in rules {
            if let Json::Bool(holds) = holds {
                read.push((name.clone(), *holds));
            } else {
                problems.add(format_args!("{place}.{name}"), wanted("true or false", Some(holds)));
            }
        }
        (problems.len() == before).then_some(read)
    }

    fn read_input(place: &str, input: Option<&Json>, problems: &mut Problems) -> Option<Json> {
        let Some(input) = input else {
            problems.add(place, "missing");
            return None;
        };
        check_members(place, input, &Root::ALL.map(Root::name), problems).then_some(())?;
        let before = problems.len();
        for root in Root::ALL {
            let given = input.member(root.name());
            let (expected, is_right) = match root.is_object() {
                true => ("an object", given.and_then(Json::as_object).is_some()),
                false => ("a string", given.and_then(Json::as_str).is_some()),
            };
            if !is_right && !matches!(given, None | Some(Json::Null)) {
                problems.add(format_args!("{place}.{}", root.name()), wanted(expected, given));
            }
        }
        (problems.len() == before).then(|| input.clone())
    }
}

impl Expect {
    fn read(place: &str, expect: Option<&Json>, problems: &mut Problems) -> Option<Self> {
        let decision = match expect {
            Some(Json::String(_)) => expect,
            Some(object @ Json::Object(_)) => {
                check_members(place, object, &["decision", "reason_code", "rule"], problems).then_some(())?;
                object.member("decision")
            }
            other => {
                problems.add(place, wanted("a decision or an object", other));
                return None;
            }
        };
        let known = decision.and_then(Json::as_str).and_then(Decision::parse);
        if known.is_none() {
            let words = Decision::ALL.map(Decision::as_str).join(", ");
            problems.add(format_args!("{place}.decision"), wanted(&format!("one of {words}"), decision));
        }
        let member = |name| expect.and_then(|expect| expect.member(name));
        let reason_code = match member("reason_code") {
            None => Some(None),
            Some(Json::String(reason)) => Some(Some(reason.clone())),
            other => {
                problems.add(format_args!("{place}.reason_code"), wanted("a string", other));
                None
            }
        };
        let rule = match member("rule") {
            None => Some(None),
            Some(Json::Null) => Some(Some(None)),
            Some(Json::String(rule)) => Some(Some(Some(rule.clone()))),
            other => {
                problems.add(format_args!("{place}.rule"), wanted("a rule's name or null", other));
                None
            }
        };
        Some(Self { decision: known?, reason_code: reason_code?, rule: rule? })
    }
}

/// A case that two policies answer differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseChange {
    /// The case's name.
    pub name: String,
    /// The answer of the old policy.
    pub old: Outcome,
    /// The answer of the new policy.
    pub new: Outcome,
    /// The differing members of the answers.
    pub members: Vec<&'static str>,
}

impl CaseChange {
    /// As JSON: `name`, `old`, `new` and `members`.
    pub fn to_json(&self) -> Json {
        let members = self.members.iter().map(|member| Json::from(*member)).collect();
        object([
            ("name", Some(Json::from(&*self.name))),
            ("old", Some(self.old.to_json())),
            ("new", Some(self.new.to_json())),
            ("members", Some(Json::Array(members))),
        ])
    }
}

/// A difference between expected and actual decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The differing member.
    pub member: &'static str,
    /// The expected value.
    pub expected: String,
    /// The actual value.
    pub actual: String,
}

/// Formats as two diff lines.
impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  - expected {}: {}", self.member, self.expected)?;
        write!(f, "  + actual   {}: {}", self.member, self.actual)
    }
}

fn check_members(place: &str, value: &Json, known: &[&str], problems: &mut Problems) -> bool {
    let Some(members) = value.as_object() else {
        problems.add(place, wanted("an object", Some(value)));
        return false;
    };
    let before = problems.len();
    for (name, _) in members {
        if !known.contains(&name.as_str()) {
            problems.add(place, format_args!("unknown member {name:?}; expected {}", known.join(", ")));
        }
    }
    problems.len() == before
}

fn wanted(what: &str, found: Option<&Json>) -> String {
    match found {
        None => format!("missing; expected {what}"),
        Some(text @ Json::String(_)) => format!("expected {what}, found {text}"),
        Some(other) => format!("expected {what}, found {}", other.kind()),
    }
}
