//! Reading a policy file and checking all of it.

use std::fmt;

use actpass_protocol::json::Number;
use actpass_protocol::{Json, canonical_json, sha256_hex};
use regex::RegexBuilder;

use super::Policy;
use super::index::Index;
use super::model::{
    Bound, Comparison, Condition, Decision, HashMap, HashSet, List, Path, Relation, RiskTier, Root, Rule,
    Segment, Test,
};
use crate::problems::Problems;

/// How large a compiled pattern may be: 1 MiB.
const PATTERN_BYTES: usize = 1 << 20;

/// How long a rule's reason may be, in characters.
const REASON_CHARACTERS: usize = 128;

impl Policy {
    /// Reads a policy from its JSON text and checks all of it.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it: text that is not JSON, unknown or missing members, wrong types, unknown
    /// operators or path roots, patterns that do not compile, names given twice, and rules that can never be reached
    /// because an earlier rule matches whenever they do.
    pub fn parse(text: &[u8]) -> Result<Self, Problems> {
        let policy = Json::parse(text).map_err(|error| Problems::one("policy", error))?;
        let mut loader = Loader::default();
        let Some(members) = loader.members("policy", &policy, &["id", "version", "rules"]) else {
            return Err(loader.problems);
        };

        let id = loader.text("id", members.get("id")).unwrap_or_default();
        let version = loader.version(members.get("version"));
        let rules = loader.rules(members.get("rules"));
        let hash = sha256_hex(&exact_form(&policy));
        let index = Index::of(&rules);
        loader.problems.or(Self { id, version, hash, paths: loader.paths, rules, index })
    }
}

/// The members of an object, by name.
type MemberMap<'j> = HashMap<&'j str, &'j Json>;

#[derive(Default)]
struct Loader {
    problems: Problems,
    paths: Vec<Path>,
    path_index: HashMap<String, usize>,
    conditions: Interner,
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
            let place = RuleLocation::of(index, rule);
            if let Some(name) = rule.member("name").and_then(Json::as_str)
                && !names.insert(name)
            {
                self.problems.add(&place, format_args!("name: given to an earlier rule (rules[{index}])"));
            }
            if let Some((rule, set)) = self.rule(&place, rule) {
                loaded.push(rule);
                sets.push(set);
            }
        }
        // A rule that did not load could hide another: the search is only right over all of them.
        if loaded.len() == rules.len() {
            self.unreachable(&loaded, &sets);
        }
        loaded
    }

    /// The rule and the identities of its conditions, sorted, each once.
    fn rule(&mut self, place: &RuleLocation<'_>, rule: &Json) -> Option<(Rule, Vec<usize>)> {
        let known = ["name", "when", "decision", "reason", "risk_tier", "next_steps"];
        let members = self.members(place, rule, &known)?;
        let name = self.text(place.member("name"), members.get("name"));
        let when = self.when(place, members.get("when"));
        let decision = self.word(
            place.member("decision"),
            members.get("decision"),
            Decision::parse,
            &Decision::ALL.map(Decision::as_str),
        );
        let reason = self.reason(place, members.get("reason"));
        let risk_tier = match members.get("risk_tier") {
            None => Some(None),
            given => self
                .word(place.member("risk_tier"), given, RiskTier::parse, &RiskTier::ALL.map(RiskTier::as_str))
                .map(Some),
        };
        let next_steps = self.next_steps(place, members.get("next_steps"));
        let (when, set) = when?;
        let rule = Rule {
            name: name?,
            when,
            decision: decision?,
            reason: reason?,
            risk_tier: risk_tier?,
            next_steps: next_steps?,
        };
        Some((rule, set))
    }

    fn when(
        &mut self,
        place: &RuleLocation<'_>,
        when: Option<&&Json>,
    ) -> Option<(Vec<Condition>, Vec<usize>)> {
        let conditions = self.array(place.member("when"), when)?;
        let mut loaded = Vec::with_capacity(conditions.len());
        let mut set = Vec::with_capacity(conditions.len());
        for (index, condition) in conditions.iter().enumerate() {
            let place = place.member(format_args!("when[{index}]"));
            if let Some((condition, identity)) = self.condition(&place, condition) {
                loaded.push(condition);
                set.push(identity);
            }
        }
        set.sort_unstable();
        set.dedup();
        (loaded.len() == conditions.len()).then_some((loaded, set))
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
                self.problems.add(format_args!("{place}.value"), "missing; expected it, or value_path");
                (None, None)
            }
            (Some(_), Some(_)) => {
                self.problems
                    .add(format_args!("{place}.value_path"), "there is value too; expected one of them");
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
            // The same text as a value is another condition.
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

    fn reason(&mut self, place: &RuleLocation<'_>, reason: Option<&&Json>) -> Option<String> {
        let place = place.member("reason");
        let reason = self.text(&place, reason)?;
        if reason.chars().count() > REASON_CHARACTERS {
            self.problems.add(
                place,
                format_args!("longer than {REASON_CHARACTERS} characters: it is a code, not a text"),
            );
            return None;
        }
        Some(reason)
    }

    fn next_steps(&mut self, place: &RuleLocation<'_>, steps: Option<&&Json>) -> Option<Vec<String>> {
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
            // It goes into evidence, which is canonical JSON.
            Some(Json::Number(number))
                if number.is_integer()
                    && number.compare(&Number::from(0)).is_gt()
                    && is_canonical(number) => {}
            Some(Json::String(text)) if !text.is_empty() => {}
            Some(other) => self.problems.add("version", format_args!("{expected}, found {other}")),
        }
        version.map_or(Json::Null, |version| (*version).clone())
    }

    /// Finds rules of which an earlier one's conditions are a part: whenever they match, the earlier has decided.
    ///
    /// An earlier rule can only be such a part if the rarest of its conditions is among the later's, so each is kept
    /// under that condition alone and few are compared.
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
                let problem = format_args!("unknown member {name:?}; known are {}", known.join(", "));
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

/// How problems call a rule: by its name, or by its index if it has none.
enum RuleLocation<'j> {
    Index(usize),
    Name(&'j str),
}

impl<'j> RuleLocation<'j> {
    fn of(index: usize, rule: &'j Json) -> Self {
        match rule.member("name").and_then(Json::as_str) {
            Some(name) if !name.is_empty() => Self::Name(name),
            Some(_) | None => Self::Index(index),
        }
    }

    fn member(&self, name: impl fmt::Display) -> String {
        format!("{self}: {name}")
    }
}

impl fmt::Display for RuleLocation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "rules[{index}]"),
            Self::Name(name) => write!(f, "rule {name:?}"),
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
            return Err(format!("the path {text:?} has an empty step"));
        }
        if !root.is_object() && !segments.is_empty() {
            return Err(format!("{first} is a string and has no members, so {text:?} never exists"));
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
                .map_err(|error| ConditionError::Value(format!("not a pattern: {}", one_line(&error))))?,
        ),
        "exists" => Test::Exists(boolean(value)?),
        "has_only" => Test::HasOnly(names(value)?),
        _ => return Err(ConditionError::Operator),
    })
}

/// How the operator compares a value with that at another path.
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
            return Err(ConditionError::Value(format!("{operator} takes no value_path; expected value")));
        }
        _ => return Err(ConditionError::Operator),
    })
}

/// The names of members, of which there may be none.
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

/// The last line of a pattern's error says what is wrong; those above draw where.
fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

/// A text that stands for the value and for no other: its canonical JSON, so that spelling does not matter, unless that
/// would round a number. Then the members sorted and the numbers as they are written, which no canonical JSON looks like.
fn exact_form(value: &Json) -> Vec<u8> {
    if carries_exactly(value)
        && let Ok(canonical) = canonical_json(value)
    {
        return canonical;
    }
    sorted(value).to_string().into_bytes()
}

fn carries_exactly(value: &Json) -> bool {
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

/// Whether all of `part` are in `whole`; both are sorted.
fn is_subset(part: &[usize], whole: &[usize]) -> bool {
    part.len() <= whole.len() && part.iter().all(|item| whole.binary_search(item).is_ok())
}

/// Gives equal conditions the same number.
#[derive(Default)]
struct Interner {
    /// By path, operator and [`exact_form`] of the value.
    identities: HashMap<(usize, String, Vec<u8>), usize>,
}

impl Interner {
    fn identity(&mut self, path: usize, operator: String, value: &Json) -> usize {
        let next = self.identities.len();
        *self.identities.entry((path, operator, exact_form(value))).or_insert(next)
    }
}
