//! Policy parsing and validation.

use std::sync::Arc;

use std::fmt;

use actpass_protocol::json::Number;
use actpass_protocol::{Json, canonical_json, sha256_hex};
use regex::RegexBuilder;
use rust_decimal::Decimal;

use super::Policy;
use super::index::Index;
use super::model::{
    Bound, Budget, Comparison, Condition, Decision, HashMap, HashSet, History, HistoryKind, List, Measure,
    OnExceed, Path, Relation, RiskTier, Root, Rule, Segment, Test, Tracker,
};
use crate::budget::{self, Outcomes, Window, outcome_word};
use crate::history::{self, Operator};
use crate::problems::Problems;
use crate::quorum::Requirement;

/// Maximum size of a compiled pattern: 1 MiB.
const PATTERN_BYTES: usize = 1 << 20;

/// Maximum length of a reason code or a budget's name, in characters.
const SHORT_CHARACTERS: usize = 128;

/// Maximum number of budgets. A decision may claim from each of them.
const MAX_BUDGETS: usize = 64;

/// Maximum number of distinct history conditions. A decision reads those that matter for it.
const MAX_HISTORIES: usize = 2000;

/// The path of the outcome of an earlier action.
const OUTCOME: &str = "outcome";

impl Policy {
    /// Parses and validates a policy from JSON.
    ///
    /// # Errors
    ///
    /// Returns every problem: invalid JSON, unknown or missing members, wrong types, unknown
    /// operators or path roots, invalid patterns, duplicate names, and unreachable rules.
    pub fn parse(text: &[u8]) -> Result<Self, Problems> {
        let policy = Json::parse(text).map_err(|error| Problems::one("policy", error))?;
        let mut loader = Loader::default();
        let Some(members) = loader.members("policy", &policy, &["id", "version", "rules", "budgets"]) else {
            return Err(loader.problems);
        };

        let id = loader.text("id", members.get("id")).unwrap_or_default();
        let version = loader.version(members.get("version"));
        let rules = loader.rules(members.get("rules"));
        let budgets = loader.budgets(members.get("budgets"));
        let hash = sha256_hex(&exact_form(&policy));
        let Loader { problems, paths, histories, trackers, .. } = loader;
        let index = Index::of(&rules.iter().map(|rule| &*rule.when).collect::<Vec<_>>());
        let tracker_index = Index::of(&trackers.iter().map(|tracker| &*tracker.of).collect::<Vec<_>>());
        problems.or(Self {
            id,
            version,
            hash,
            source: Arc::from(text),
            paths,
            rules,
            index,
            budgets,
            histories,
            trackers,
            tracker_index,
        })
    }
}

/// Object members by name.
type MemberMap<'j> = HashMap<&'j str, &'j Json>;

#[derive(Default)]
struct Loader {
    problems: Problems,
    paths: Vec<Path>,
    path_index: HashMap<String, usize>,
    conditions: Interner,
    histories: Vec<History>,
    trackers: Vec<Tracker>,
}

/// The conditions of a `when`.
struct When {
    conditions: Vec<Condition>,
    histories: Vec<usize>,
    /// The outcomes of an earlier action.
    outcomes: Outcomes,
    /// The sorted, distinct identities of all of them.
    set: Vec<usize>,
}

/// Where conditions are, which determines whether history conditions are accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Budget,
    History,
    Rule,
}

impl Loader {
    fn rules(&mut self, rules: Option<&&Json>) -> Vec<Rule> {
        let Some(rules) = self.array("rules", rules) else {
            return Vec::new();
        };
        let mut loaded = Vec::with_capacity(rules.len());
        let mut sets = Vec::with_capacity(rules.len());
        let mut names = HashSet::default();
        for (index, rule) in rules.iter().enumerate() {
            let place = Location::of("rule", index, rule);
            if let Some(name) = rule.member("name").and_then(Json::as_str)
                && !names.insert(name)
            {
                self.problems.add(&place, format_args!("name: duplicate of rules[{index}]"));
            }
            if let Some((rule, set)) = self.rule(&place, rule) {
                loaded.push(rule);
                sets.push(set);
            }
        }
        if self.histories.len() > MAX_HISTORIES {
            let found = self.histories.len();
            let problem =
                format_args!("expected at most {MAX_HISTORIES} different history conditions, found {found}");
            self.problems.add("rules", problem);
        }
        // Only meaningful if all rules were loaded.
        if loaded.len() == rules.len() {
            self.unreachable(&loaded, &sets);
        }
        loaded
    }

    /// Loads a rule; returns it with the sorted, distinct identities of its conditions.
    fn rule(&mut self, place: &Location<'_>, rule: &Json) -> Option<(Rule, Vec<usize>)> {
        let known = ["name", "when", "decision", "reason", "risk_tier", "next_steps", "approval"];
        let members = self.members(place, rule, &known)?;
        let name = self.text(place.member("name"), members.get("name"));
        let when = self.when(&place.member("when"), members.get("when"), Scope::Rule);
        let decision = self.word(
            place.member("decision"),
            members.get("decision"),
            Decision::parse,
            &Decision::ALL.map(Decision::as_str),
        );
        let reason = self.short_text(&place.member("reason"), members.get("reason"));
        let risk_tier = match members.get("risk_tier") {
            None => Some(None),
            given => self
                .word(place.member("risk_tier"), given, RiskTier::parse, &RiskTier::ALL.map(RiskTier::as_str))
                .map(Some),
        };
        let next_steps = self.next_steps(place, members.get("next_steps"));
        let approval = self.approval(place, members.get("approval"), decision);
        let When { conditions, histories, set, .. } = when?;
        let rule = Rule {
            name: name?,
            when: conditions,
            histories,
            decision: decision?,
            reason: reason?,
            risk_tier: risk_tier?,
            next_steps: next_steps?,
            approval: approval?,
        };
        Some((rule, set))
    }

    /// Loads who must approve.
    fn approval(
        &mut self,
        place: &Location<'_>,
        approval: Option<&&Json>,
        decision: Option<Decision>,
    ) -> Option<Option<Requirement>> {
        let Some(approval) = approval else {
            return Some(None);
        };
        let place = place.member("approval");
        if decision.is_some_and(|decision| decision != Decision::RequireApproval) {
            self.problems.add(&place, "only supported with the decision require_approval");
            return None;
        }
        let problems = match Requirement::parse(approval) {
            Ok(requirement) => return Some(Some(requirement)),
            Err(problems) => problems,
        };
        for (member, problem) in problems {
            let dot = if member.is_empty() { "" } else { "." };
            self.problems.add(format_args!("{place}{dot}{member}"), problem);
        }
        None
    }

    /// Loads the budgets.
    fn budgets(&mut self, budgets: Option<&&Json>) -> Vec<Budget> {
        if budgets.is_none() {
            return Vec::new();
        }
        let Some(budgets) = self.array("budgets", budgets) else {
            return Vec::new();
        };
        if budgets.len() > MAX_BUDGETS {
            self.problems
                .add("budgets", format_args!("expected at most {MAX_BUDGETS}, found {}", budgets.len()));
        }
        let mut loaded = Vec::with_capacity(budgets.len());
        let mut names = HashSet::default();
        for (index, budget) in budgets.iter().enumerate() {
            let place = Location::of("budget", index, budget);
            if let Some(name) = budget.member("name").and_then(Json::as_str)
                && !names.insert(name)
            {
                self.problems.add(&place, format_args!("name: duplicate of budgets[{index}]"));
            }
            loaded.extend(self.budget(&place, budget));
        }
        loaded
    }

    fn budget(&mut self, place: &Location<'_>, budget: &Json) -> Option<Budget> {
        let known = [
            "name",
            "when",
            "per",
            "sum",
            "count",
            "limit",
            "window",
            "on_exceed",
            "reason",
            "release_on_failure",
        ];
        let members = self.members(place, budget, &known)?;
        let name = self.short_text(&place.member("name"), members.get("name"));
        if name.as_ref().is_some_and(|name| name.starts_with(history::PREFIX)) {
            let problem = format_args!("expected a name that does not start with {:?}", history::PREFIX);
            self.problems.add(place.member("name"), problem);
        }
        let when = self.when(&place.member("when"), members.get("when"), Scope::Budget);
        let per = self.per(&place.member("per"), members.get("per"));
        let measure = self.measure(place, &members);
        let limit = self.limit(&place.member("limit"), members.get("limit"));
        let window = self.window(&place.member("window"), members.get("window"));
        let on_exceed = self.word(
            place.member("on_exceed"),
            members.get("on_exceed"),
            OnExceed::parse,
            &OnExceed::ALL.map(OnExceed::as_str),
        );
        let reason = self.short_text(&place.member("reason"), members.get("reason"));
        let release_on_failure = match members.get("release_on_failure") {
            None => Some(false),
            Some(Json::Bool(release)) => Some(*release),
            Some(other) => {
                let problem = format_args!("expected true or false, found {}", other.kind());
                self.problems.add(place.member("release_on_failure"), problem);
                None
            }
        };
        Some(Budget {
            name: name?,
            when: when?.conditions,
            per: per?,
            measure: measure?,
            limit: limit?,
            window: window?,
            on_exceed: on_exceed?,
            reason: reason?,
            release_on_failure: release_on_failure?,
        })
    }

    /// Loads the paths whose values identify an account; the list may be empty.
    fn per(&mut self, place: &str, per: Option<&&Json>) -> Option<Vec<usize>> {
        let paths = self.array(place, per)?;
        let mut loaded = Vec::with_capacity(paths.len());
        for (index, path) in paths.iter().enumerate() {
            let place = format!("{place}[{index}]");
            let text = self.text(&place, Some(&path))?;
            let path = self.path(&place, &text)?;
            if loaded.contains(&path) {
                self.problems.add(&place, format_args!("duplicate path {text:?}"));
                return None;
            }
            loaded.push(path);
        }
        Some(loaded)
    }

    /// Loads the amount: the number at the path `sum`, or one per action with `count`.
    fn measure(&mut self, place: &Location<'_>, members: &MemberMap<'_>) -> Option<Measure> {
        match (members.get("sum"), members.get("count")) {
            (Some(path), None) => {
                let place = place.member("sum");
                let text = self.text(&place, Some(path))?;
                self.path(&place, &text).map(Measure::Sum)
            }
            (None, Some(Json::Bool(true))) => Some(Measure::Count),
            (None, Some(other)) => {
                self.problems.add(place.member("count"), format_args!("expected true, found {other}"));
                None
            }
            (None, None) => {
                self.problems.add(place.member("sum"), "missing; expected sum or count");
                None
            }
            (Some(_), Some(_)) => {
                self.problems.add(place.member("count"), "conflicts with sum; set only one");
                None
            }
        }
    }

    fn limit(&mut self, place: &str, limit: Option<&&Json>) -> Option<Decimal> {
        let expected = "expected a number of at least 0, below 10^18, with at most 9 decimal places";
        match limit {
            Some(Json::Number(number)) => {
                let limit = budget::amount(number);
                if limit.is_none() {
                    self.problems.add(place, format_args!("{expected}, found {number}"));
                }
                limit
            }
            Some(other) => {
                self.problems.add(place, format_args!("{expected}, found {}", other.kind()));
                None
            }
            None => {
                self.problems.add(place, format_args!("missing; {expected}"));
                None
            }
        }
    }

    fn window(&mut self, place: &str, window: Option<&&Json>) -> Option<Window> {
        let text = self.text(place, window)?;
        Window::parse(&text)
            .map_err(|error| self.problems.add(place, format_args!("{error}, found {text:?}")))
            .ok()
    }

    fn when(&mut self, place: &str, when: Option<&&Json>, scope: Scope) -> Option<When> {
        let list = self.array(place, when)?;
        let (mut conditions, mut histories) = (Vec::with_capacity(list.len()), Vec::new());
        let mut set = Vec::with_capacity(list.len());
        let mut outcomes = Outcomes::ALL;
        for (index, condition) in list.iter().enumerate() {
            let place = format!("{place}[{index}]");
            let is_outcome = condition.member("path").and_then(Json::as_str) == Some(OUTCOME);
            let identity = match (condition.member("history"), scope) {
                (None, Scope::History) if is_outcome => {
                    self.outcomes(&place, condition).map(|(with, identity)| {
                        outcomes = outcomes.and(with);
                        identity
                    })
                }
                (None, _) => self.condition(&place, condition).map(|(condition, identity)| {
                    conditions.push(condition);
                    identity
                }),
                (Some(_), Scope::Rule) => self.history(&place, condition).map(|(history, identity)| {
                    histories.push(history);
                    identity
                }),
                (Some(_), Scope::Budget | Scope::History) => {
                    let within = if scope == Scope::Budget { "a budget" } else { "of" };
                    let problem =
                        format_args!("not supported within {within}; expected in the when of a rule");
                    self.problems.add(format_args!("{place}.history"), problem);
                    None
                }
            };
            set.extend(identity);
        }
        let is_complete = set.len() == list.len();
        if outcomes.is_empty() {
            self.problems.add(place, "no outcome satisfies all conditions");
        }
        set.sort_unstable();
        set.dedup();
        is_complete.then_some(When { conditions, histories, outcomes, set })
    }

    /// Loads a condition on the outcome of an earlier action; returns the outcomes and its identity.
    fn outcomes(&mut self, place: &str, condition: &Json) -> Option<(Outcomes, usize)> {
        let members = self.members(place, condition, &["path", "operator", "value"])?;
        let known = ["==", "!=", "in", "not_in"];
        let is_known = |word: &str| known.contains(&word).then(|| word.to_owned());
        let operator =
            self.word(format_args!("{place}.operator"), members.get("operator"), is_known, &known)?;
        let place = format!("{place}.value");
        let Some(value) = members.get("value").copied() else {
            self.problems.add(place, "missing");
            return None;
        };
        let words = match (operator.as_str(), value) {
            ("in" | "not_in", Json::Array(items)) => items.as_slice(),
            _ => std::slice::from_ref(value),
        };
        let each = Outcomes::EACH.map(outcome_word);
        if let Some(wrong) = words.iter().find(|word| !word.as_str().is_some_and(|word| each.contains(&word)))
        {
            self.problems.add(place, format_args!("expected one of {}, found {wrong}", each.join(", ")));
            return None;
        }
        let test = match test(&operator, value) {
            Ok(test) => test,
            Err(ConditionError::Operator) => return None,
            Err(ConditionError::Value(problem)) => {
                self.problems.add(place, problem);
                return None;
            }
        };
        let outcomes = Outcomes::of(|outcome| test.holds(Some(&Json::from(outcome_word(outcome)))));
        // No path has this index.
        Some((outcomes, self.conditions.identity(usize::MAX, operator, value)))
    }

    /// Loads a history condition; returns its index and its identity.
    fn history(&mut self, place: &str, condition: &Json) -> Option<(usize, usize)> {
        let known = ["history", "of", "within", "same", "path", "operator", "value"];
        let members = self.members(place, condition, &known)?;
        let at = |member: &str| format!("{place}.{member}");
        let words = HistoryKind::ALL.map(HistoryKind::as_str);
        let kind = self.word(at("history"), members.get("history"), HistoryKind::parse, &words);
        let of = self.when(&at("of"), members.get("of"), Scope::History);
        let window = self.window(&at("within"), members.get("within"));
        let same = self.per(&at("same"), members.get("same"));
        let kind = kind?;
        let unused: &[&str] = match kind {
            HistoryKind::After | HistoryKind::Never => &["path", "operator", "value"],
            HistoryKind::Count => &["path"],
            HistoryKind::Sum => &[],
        };
        let given: Vec<_> = unused.iter().filter(|name| members.contains_key(**name)).collect();
        for name in &given {
            self.problems.add(at(name), format_args!("not supported by {}", kind.as_str()));
        }
        let bound = match kind {
            HistoryKind::After => Some(history::Bound { operator: Operator::AtLeast, value: Decimal::ONE }),
            HistoryKind::Never => Some(history::Bound { operator: Operator::Equal, value: Decimal::ZERO }),
            HistoryKind::Count | HistoryKind::Sum => self.history_bound(place, kind, &members),
        };
        let measure = match kind {
            HistoryKind::After | HistoryKind::Count | HistoryKind::Never => Some(Measure::Count),
            HistoryKind::Sum => {
                let text = self.text(at("path"), members.get("path"));
                text.and_then(|text| self.path(&at("path"), &text)).map(Measure::Sum)
            }
        };
        let (of, window, same, bound, measure) = (of?, window?, same?, bound?, measure?);
        if !given.is_empty() {
            return None;
        }
        let account = account_of(&members, &window);
        let tracker = self.trackers.iter().position(|tracker| tracker.account == account);
        let tracker = tracker.unwrap_or_else(|| {
            let When { conditions, outcomes, .. } = of;
            self.trackers.push(Tracker { account, of: conditions, outcomes, same, measure, window });
            self.trackers.len() - 1
        });
        let equals = |known: &History| known.tracker == tracker && known.bound == bound;
        let index = self.histories.iter().position(equals).unwrap_or_else(|| {
            self.histories.push(History { tracker, bound });
            self.histories.len() - 1
        });
        let identity = self.conditions.history(index);
        Some((index, identity))
    }

    /// Loads the comparison of a count or a sum.
    fn history_bound(
        &mut self,
        place: &str,
        kind: HistoryKind,
        members: &MemberMap<'_>,
    ) -> Option<history::Bound> {
        let words = Operator::ALL.map(Operator::as_str);
        let operator =
            self.word(format_args!("{place}.operator"), members.get("operator"), Operator::parse, &words);
        let place = format!("{place}.value");
        let value = self.limit(&place, members.get("value"))?;
        if kind == HistoryKind::Count && !value.is_integer() {
            self.problems.add(place, format_args!("expected a whole number, found {value}"));
            return None;
        }
        Some(history::Bound { operator: operator?, value })
    }

    fn condition(&mut self, place: &str, condition: &Json) -> Option<(Condition, usize)> {
        let members = self.members(place, condition, &["path", "operator", "value", "value_path"])?;
        let path_text = self.text(format_args!("{place}.path"), members.get("path"));
        let path = path_text.as_deref().and_then(|text| self.path(&format!("{place}.path"), text));
        let operator = self.text(format_args!("{place}.operator"), members.get("operator"));
        let value = members.get("value").copied();
        let (value, other) = match (value, members.get("value_path")) {
            (Some(value), None) => (Some(value), None),
            (None, Some(path)) => {
                let text = self.text(format_args!("{place}.value_path"), Some(path))?;
                (Some(*path), Some(self.path(&format!("{place}.value_path"), &text)?))
            }
            (None, None) => {
                self.problems.add(format_args!("{place}.value"), "missing; expected value or value_path");
                (None, None)
            }
            (Some(_), Some(_)) => {
                self.problems.add(format_args!("{place}.value_path"), "conflicts with value; set only one");
                (None, None)
            }
        };
        let (mut operator, value) = (operator?, value?);
        let found = match other {
            None => test(&operator, value),
            Some(other) => comparison(&operator).map(|comparison| Test::Compare(comparison, other)),
        };
        let test = match found {
            Ok(test) => test,
            Err(ConditionError::Operator) => {
                let problem =
                    format_args!("unknown operator {operator:?}; expected one of {}", OPERATORS.join(", "));
                self.problems.add(format_args!("{place}.operator"), problem);
                return None;
            }
            Err(ConditionError::Value(problem)) => {
                self.problems.add(format_args!("{place}.value"), problem);
                return None;
            }
        };
        let path = path?;
        if other.is_some() {
            // Distinguishes a path from an equal string value.
            operator.insert_str(0, "value_path ");
        }
        let identity = self.conditions.identity(path, operator, value);
        Some((Condition { path, test }, identity))
    }

    fn path(&mut self, place: &str, text: &str) -> Option<usize> {
        if let Some(index) = self.path_index.get(text) {
            return Some(*index);
        }
        let path = match Path::parse(text) {
            Ok(path) => path,
            Err(problem) => {
                self.problems.add(place, problem);
                return None;
            }
        };
        let index = self.paths.len();
        self.paths.push(path);
        self.path_index.insert(text.to_owned(), index);
        Some(index)
    }

    /// Loads a name or a reason code.
    fn short_text(&mut self, place: &str, text: Option<&&Json>) -> Option<String> {
        let text = self.text(place, text)?;
        if text.chars().count() > SHORT_CHARACTERS {
            self.problems
                .add(place, format_args!("longer than {SHORT_CHARACTERS} characters; expected a short code"));
            return None;
        }
        Some(text)
    }

    fn next_steps(&mut self, place: &Location<'_>, steps: Option<&&Json>) -> Option<Vec<String>> {
        if steps.is_none() {
            return Some(Vec::new());
        }
        let place = place.member("next_steps");
        let steps = self.array(&place, steps)?;
        let mut loaded = Vec::with_capacity(steps.len());
        for (index, step) in steps.iter().enumerate() {
            loaded.extend(self.text(format_args!("{place}[{index}]"), Some(&step)));
        }
        (loaded.len() == steps.len()).then_some(loaded)
    }

    fn version(&mut self, version: Option<&&Json>) -> Json {
        let expected = "expected a positive integer or a non-empty string";
        match version {
            None => self.problems.add("version", "missing"),
            // The version is recorded in evidence as canonical JSON.
            Some(Json::Number(number))
                if number.is_integer()
                    && number.compare(&Number::from(0)).is_gt()
                    && is_canonical(number) => {}
            Some(Json::String(text)) if !text.is_empty() => {}
            Some(other) => self.problems.add("version", format_args!("{expected}, found {other}")),
        }
        version.map_or(Json::Null, |version| (*version).clone())
    }

    /// Finds rules whose conditions include all conditions of an earlier rule, which therefore
    /// always matches first.
    ///
    /// Each rule is filed under its rarest condition, so that only few rules are compared.
    fn unreachable(&mut self, rules: &[Rule], sets: &[Vec<usize>]) {
        let mut frequency: HashMap<usize, usize> = HashMap::default();
        for identity in sets.iter().flatten() {
            *frequency.entry(*identity).or_default() += 1;
        }
        let mut by_rarest: HashMap<usize, Vec<(&Rule, &[usize])>> = HashMap::default();
        let mut always: Option<&Rule> = None;
        for (rule, set) in rules.iter().zip(sets) {
            let hides = |(_, earlier): &&(&Rule, &[usize])| is_subset(earlier, set);
            let hidden_by = always.or_else(|| {
                set.iter()
                    .filter_map(|identity| by_rarest.get(identity))
                    .find_map(|candidates| candidates.iter().find(hides))
                    .map(|(earlier, _)| *earlier)
            });
            if let Some(earlier) = hidden_by {
                let problem = format_args!(
                    "unreachable: the earlier rule {:?} matches whenever this one does",
                    earlier.name
                );
                self.problems.add(format_args!("rule {:?}", rule.name), problem);
                continue;
            }
            match set.iter().min_by_key(|identity| frequency.get(identity)) {
                Some(rarest) => by_rarest.entry(*rarest).or_default().push((rule, set)),
                None => always = Some(rule),
            }
        }
    }

    fn members<'j>(
        &mut self,
        place: impl fmt::Display,
        value: &'j Json,
        known: &[&str],
    ) -> Option<MemberMap<'j>> {
        let Some(members) = value.as_object() else {
            self.problems.add(place, format_args!("expected an object, found {}", value.kind()));
            return None;
        };
        for (name, _) in members {
            if !known.contains(&name.as_str()) {
                let problem = format_args!("unknown member {name:?}; expected {}", known.join(", "));
                self.problems.add(&place, problem);
            }
        }
        Some(members.iter().map(|(name, value)| (name.as_str(), value)).collect())
    }

    fn array<'j>(&mut self, place: impl fmt::Display, value: Option<&&'j Json>) -> Option<&'j [Json]> {
        match value {
            Some(Json::Array(items)) => Some(items),
            Some(other) => {
                self.problems.add(place, format_args!("expected an array, found {}", other.kind()));
                None
            }
            None => {
                self.problems.add(place, "missing");
                None
            }
        }
    }

    fn text(&mut self, place: impl fmt::Display, value: Option<&&Json>) -> Option<String> {
        match value {
            Some(Json::String(text)) if !text.is_empty() => Some(text.clone()),
            Some(Json::String(_)) => {
                self.problems.add(place, "expected a non-empty string, found an empty one");
                None
            }
            Some(other) => {
                self.problems.add(place, format_args!("expected a non-empty string, found {}", other.kind()));
                None
            }
            None => {
                self.problems.add(place, "missing");
                None
            }
        }
    }

    fn word<T>(
        &mut self,
        place: impl fmt::Display,
        value: Option<&&Json>,
        parse: impl Fn(&str) -> Option<T>,
        words: &[&str],
    ) -> Option<T> {
        let text = self.text(&place, value)?;
        let parsed = parse(&text);
        if parsed.is_none() {
            self.problems.add(place, format_args!("expected one of {}, found {text:?}", words.join(", ")));
        }
        parsed
    }
}

/// Identifies a rule or a budget in problems: by name, or by index if it is unnamed.
struct Location<'j> {
    /// `rule` or `budget`.
    kind: &'static str,
    index: usize,
    name: Option<&'j str>,
}

impl<'j> Location<'j> {
    fn of(kind: &'static str, index: usize, item: &'j Json) -> Self {
        let name = item.member("name").and_then(Json::as_str).filter(|name| !name.is_empty());
        Self { kind, index, name }
    }

    fn member(&self, name: impl fmt::Display) -> String {
        format!("{self}: {name}")
    }
}

impl fmt::Display for Location<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            None => write!(f, "{}s[{}]", self.kind, self.index),
            Some(name) => write!(f, "{} {name:?}", self.kind),
        }
    }
}

impl Path {
    fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split('.');
        let first = parts.next().unwrap_or_default();
        let Some(root) = Root::ALL.into_iter().find(|root| root.name() == first) else {
            let roots = Root::ALL.map(Root::name).join(", ");
            return Err(format!("unknown path root {first:?} in {text:?}; expected one of {roots}"));
        };
        let segments = parts.map(Segment::new).collect::<Vec<_>>();
        if segments.iter().any(|segment| segment.name.is_empty()) {
            return Err(format!("the path {text:?} has an empty segment"));
        }
        if !root.is_object() && !segments.is_empty() {
            return Err(format!("{text:?} never exists: {first} is a string"));
        }
        Ok(Self { root, segments })
    }
}

impl Segment {
    fn new(name: &str) -> Self {
        let canonical = name == "0" || !name.starts_with(['0', '+']);
        Self { name: name.to_owned(), index: name.parse().ok().filter(|_| canonical) }
    }
}

const OPERATORS: [&str; 14] = [
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "in",
    "not_in",
    "contains",
    "starts_with",
    "ends_with",
    "matches",
    "exists",
    "has_only",
];

enum ConditionError {
    Operator,
    Value(String),
}

fn test(operator: &str, value: &Json) -> Result<Test, ConditionError> {
    Ok(match operator {
        "==" => Test::Equal(value.clone()),
        "!=" => Test::NotEqual(value.clone()),
        "<" => Test::Order(Relation::Less, bound(value)?),
        "<=" => Test::Order(Relation::AtMost, bound(value)?),
        ">" => Test::Order(Relation::Greater, bound(value)?),
        ">=" => Test::Order(Relation::AtLeast, bound(value)?),
        "in" => Test::In(list(value)?),
        "not_in" => Test::NotIn(list(value)?),
        "contains" => Test::Contains(value.clone()),
        "starts_with" => Test::StartsWith(string(value)?),
        "ends_with" => Test::EndsWith(string(value)?),
        "matches" => Test::Matches(
            RegexBuilder::new(&string(value)?)
                .size_limit(PATTERN_BYTES)
                .build()
                .map_err(|error| ConditionError::Value(format!("invalid pattern: {}", one_line(&error))))?,
        ),
        "exists" => Test::Exists(boolean(value)?),
        "has_only" => Test::HasOnly(names(value)?),
        _ => return Err(ConditionError::Operator),
    })
}

/// Parses the operator of a comparison with another path.
fn comparison(operator: &str) -> Result<Comparison, ConditionError> {
    Ok(match operator {
        "==" => Comparison::Equal,
        "!=" => Comparison::NotEqual,
        "<" => Comparison::Order(Relation::Less),
        "<=" => Comparison::Order(Relation::AtMost),
        ">" => Comparison::Order(Relation::Greater),
        ">=" => Comparison::Order(Relation::AtLeast),
        "in" => Comparison::In,
        "not_in" => Comparison::NotIn,
        "contains" => Comparison::Contains,
        "starts_with" => Comparison::StartsWith,
        "ends_with" => Comparison::EndsWith,
        "matches" | "exists" | "has_only" => {
            return Err(ConditionError::Value(format!("{operator} does not support value_path; use value")));
        }
        _ => return Err(ConditionError::Operator),
    })
}

/// Parses member names; the list may be empty.
fn names(value: &Json) -> Result<HashSet<String>, ConditionError> {
    let Json::Array(items) = value else {
        return Err(expected("an array of strings", value));
    };
    items
        .iter()
        .map(|item| item.as_str().map(str::to_owned))
        .collect::<Option<_>>()
        .ok_or_else(|| ConditionError::Value("expected an array of strings, found another array".to_owned()))
}

fn bound(value: &Json) -> Result<Bound, ConditionError> {
    match value {
        Json::Number(number) => Ok(Bound::Number(number.clone())),
        Json::String(text) => Ok(Bound::Text(text.clone())),
        Json::Array(_) | Json::Bool(_) | Json::Null | Json::Object(_) => {
            Err(expected("a number or a string", value))
        }
    }
}

fn list(value: &Json) -> Result<List, ConditionError> {
    let Json::Array(items) = value else {
        return Err(expected("an array", value));
    };
    let Some(first) = items.first() else {
        return Err(ConditionError::Value("expected at least one item, found an empty array".to_owned()));
    };
    if let Some(other) = items.iter().find(|item| item.kind() != first.kind()) {
        let problem = format!("expected items of one type, found {} and {}", first.kind(), other.kind());
        return Err(ConditionError::Value(problem));
    }
    if first.as_str().is_none() {
        return Ok(List::Values(items.clone()));
    }
    Ok(List::Strings(items.iter().filter_map(Json::as_str).map(str::to_owned).collect()))
}

fn boolean(value: &Json) -> Result<bool, ConditionError> {
    match value {
        Json::Bool(value) => Ok(*value),
        Json::Array(_) | Json::Null | Json::Number(_) | Json::Object(_) | Json::String(_) => {
            Err(expected("true or false", value))
        }
    }
}

fn string(value: &Json) -> Result<String, ConditionError> {
    value.as_str().map(str::to_owned).ok_or_else(|| expected("a string", value))
}

fn expected(what: &str, found: &Json) -> ConditionError {
    ConditionError::Value(format!("expected {what}, found {}", found.kind()))
}

/// Returns the last line of a pattern's error, which has the message without the diagram.
fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

/// Returns the name of the accounts of a history. Definitions that differ only in the order of their
/// conditions or paths have the same name.
fn account_of(members: &MemberMap<'_>, window: &Window) -> String {
    let sorted = |name: &str| {
        let items = members.get(name).map_or(&[][..], |list| match list {
            Json::Array(items) => items,
            Json::Bool(_) | Json::Null | Json::Number(_) | Json::Object(_) | Json::String(_) => &[],
        });
        let mut forms: Vec<_> = items.iter().map(exact_form).collect();
        forms.sort_unstable();
        forms.dedup();
        Json::Array(forms.iter().map(|form| Json::from(&*String::from_utf8_lossy(form))).collect())
    };
    let definition = Json::Object(vec![
        ("of".to_owned(), sorted("of")),
        ("path".to_owned(), members.get("path").map_or(Json::Null, |path| (*path).clone())),
        ("same".to_owned(), sorted("same")),
        ("within".to_owned(), Json::Number(Number::from(window.millis()))),
    ]);
    let hash = sha256_hex(definition.to_string().as_bytes());
    format!("{}{}", history::PREFIX, hash.get(..32).unwrap_or(&hash))
}

/// Returns bytes that identify the value: its canonical JSON, so that formatting does not matter,
/// unless that would round a number; then the sorted members with the original number literals.
fn exact_form(value: &Json) -> Vec<u8> {
    if carries_exactly(value)
        && let Ok(canonical) = canonical_json(value)
    {
        return canonical;
    }
    sorted(value).to_string().into_bytes()
}

/// Returns whether the canonical form of the value rounds no number.
pub(super) fn carries_exactly(value: &Json) -> bool {
    match value {
        Json::Array(items) => items.iter().all(carries_exactly),
        Json::Number(number) => is_canonical(number),
        Json::Object(members) => members.iter().all(|(_, member)| carries_exactly(member)),
        Json::Bool(_) | Json::Null | Json::String(_) => true,
    }
}

fn sorted(value: &Json) -> Json {
    match value {
        Json::Array(items) => Json::Array(items.iter().map(sorted).collect()),
        Json::Object(members) => {
            let mut members: Vec<_> =
                members.iter().map(|(name, member)| (name.clone(), sorted(member))).collect();
            members.sort_by(|(a, _), (b, _)| a.cmp(b));
            Json::Object(members)
        }
        Json::Bool(_) | Json::Null | Json::Number(_) | Json::String(_) => value.clone(),
    }
}

fn is_canonical(number: &Number) -> bool {
    canonical_json(&Json::Number(number.clone())).is_ok_and(|text| match Json::parse(&text) {
        Ok(Json::Number(carried)) => carried.compare(number).is_eq(),
        Ok(_) | Err(_) => false,
    })
}

/// Returns whether the sorted `whole` contains the sorted `part`.
fn is_subset(part: &[usize], whole: &[usize]) -> bool {
    part.len() <= whole.len() && part.iter().all(|item| whole.binary_search(item).is_ok())
}

/// Assigns equal conditions the same number.
#[derive(Default)]
struct Interner {
    /// Keyed by path, operator and [`exact_form`] of the value.
    identities: HashMap<(usize, String, Vec<u8>), usize>,
    /// Keyed by the index of the history condition.
    histories: HashMap<usize, usize>,
}

impl Interner {
    fn identity(&mut self, path: usize, operator: String, value: &Json) -> usize {
        let next = self.next();
        *self.identities.entry((path, operator, exact_form(value))).or_insert(next)
    }

    fn history(&mut self, condition: usize) -> usize {
        let next = self.next();
        *self.histories.entry(condition).or_insert(next)
    }

    fn next(&self) -> usize {
        self.identities.len() + self.histories.len()
    }
}
