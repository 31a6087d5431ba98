//! Lint of valid policies: rules that never apply, and `allow` rules that accept arbitrary
//! additional arguments.
//!
//! The analysis is sound but incomplete: reported rules are dead, but not every dead rule is
//! reported.

use std::cmp::Ordering;
use std::fmt;

use actpass_protocol::Json;

use super::Policy;
use super::evaluate::same_type;
use super::model::{
    Bound, Comparison, Condition, Decision, HashMap, HashSet, List, Measure, Path, Relation, RiskTier, Root,
    Rule, Test,
};

/// In larger policies, rules are analyzed individually and not compared with each other.
const MAX_COMPARED_RULES: usize = 2000;

/// A finding about a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule's name.
    pub rule: String,
    /// The kind of finding.
    pub kind: FindingKind,
}

/// Kinds of findings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FindingKind {
    /// The conditions contradict each other; with the explanation.
    NeverHolds(String),
    /// The rule allows any arguments in addition to the ones listed here.
    OpenArguments(Vec<String>),
    /// An earlier rule, named here, matches whenever this one does.
    Shadowed(String),
    /// The rule limits the number at this path, but no budget sums it.
    Unbudgeted(String),
}

impl Finding {
    /// Returns whether the rule never applies.
    pub fn is_defect(&self) -> bool {
        match self.kind {
            FindingKind::NeverHolds(_) | FindingKind::Shadowed(_) => true,
            FindingKind::OpenArguments(_) | FindingKind::Unbudgeted(_) => false,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {:?}: ", self.rule)?;
        match &self.kind {
            FindingKind::NeverHolds(why) => write!(f, "never matches: {why}"),
            FindingKind::OpenArguments(named) => {
                let names = Json::Array(named.iter().map(|name| Json::from(&**name)).collect());
                write!(
                    f,
                    "allows arguments that it does not check; to forbid others, add {{\"path\": \"args\", \
                    \"operator\": \"has_only\", \"value\": {names}}}"
                )
            }
            FindingKind::Unbudgeted(path) => write!(
                f,
                "limits {path} for each action, but not the sum of many: add a budget with \"sum\": {path:?}"
            ),
            FindingKind::Shadowed(earlier) => {
                write!(f, "unreachable: the earlier rule {earlier:?} matches whenever this one does")
            }
        }
    }
}

impl Policy {
    /// Returns the findings in the order of the rules.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let looks: Vec<_> = self.rules.iter().map(|rule| RuleConstraints::at(&self.paths, rule)).collect();
        for (index, (rule, look)) in self.rules.iter().zip(&looks).enumerate() {
            let mut add = |kind| findings.push(Finding { rule: rule.name.clone(), kind });
            if let Err(why) = look {
                add(FindingKind::NeverHolds(why.clone()));
                continue;
            }
            if let Ok(look) = look
                && self.rules.len() <= MAX_COMPARED_RULES
                && let Some(earlier) = self
                    .rules
                    .iter()
                    .zip(&looks)
                    .take(index)
                    .find_map(|(earlier, of)| (of.is_ok() && look.implies(earlier)).then_some(earlier))
            {
                add(FindingKind::Shadowed(earlier.name.clone()));
                continue;
            }
            if rule.decision == Decision::Allow && !self.closes_arguments(rule) {
                add(FindingKind::OpenArguments(self.arguments_of(rule)));
            }
            if rule.decision == Decision::Allow
                && let Some(path) = self.unbudgeted(rule)
            {
                add(FindingKind::Unbudgeted(path));
            }
        }
        findings
    }

    /// Returns the first argument that the rule limits to a number and no budget sums.
    fn unbudgeted(&self, rule: &Rule) -> Option<String> {
        let limited = rule.when.iter().filter(|condition| {
            matches!(condition.test, Test::Order(Relation::AtMost | Relation::Less, Bound::Number(_)))
        });
        let is_summed = |path: usize| {
            self.budgets.iter().any(|budget| matches!(budget.measure, Measure::Sum(sum) if sum == path))
        };
        let mut paths = limited.map(|condition| condition.path).filter(|path| !is_summed(*path));
        let path = paths.find_map(|path| self.paths.get(path).filter(|path| path.root == Root::Args))?;
        Some(path.to_string())
    }

    /// Returns whether the rule restricts the set of arguments.
    fn closes_arguments(&self, rule: &Rule) -> bool {
        rule.when.iter().any(|condition| {
            let is_args = self
                .paths
                .get(condition.path)
                .is_some_and(|path| path.root == Root::Args && path.segments.is_empty());
            is_args && matches!(condition.test, Test::HasOnly(_) | Test::Equal(_) | Test::In(_))
        })
    }

    /// Returns the names of the arguments in the rule's conditions.
    fn arguments_of(&self, rule: &Rule) -> Vec<String> {
        let mut names = Vec::new();
        for condition in &rule.when {
            let other = if let Test::Compare(_, other) = condition.test { Some(other) } else { None };
            for path in [Some(condition.path), other].into_iter().flatten() {
                let path = self.paths.get(path).filter(|path| path.root == Root::Args);
                let name = path.and_then(|path| path.segments.first()).map(|segment| segment.name.clone());
                if matches!(condition.test, Test::Exists(false)) {
                    continue;
                }
                names.extend(name.filter(|name| !names.contains(name)));
            }
        }
        names
    }
}

/// A set of JSON types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct JsonTypes(u8);

impl JsonTypes {
    const ANY: Self = Self(0b11_1111);
    pub(super) const NONE: Self = Self(0);
    pub(super) const ARRAY: Self = Self(1);
    pub(super) const BOOL: Self = Self(1 << 1);
    pub(super) const NULL: Self = Self(1 << 2);
    pub(super) const NUMBER: Self = Self(1 << 3);
    pub(super) const OBJECT: Self = Self(1 << 4);
    pub(super) const STRING: Self = Self(1 << 5);

    const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(super) const fn of(value: &Json) -> Self {
        match value {
            Json::Array(_) => Self::ARRAY,
            Json::Bool(_) => Self::BOOL,
            Json::Null => Self::NULL,
            Json::Number(_) => Self::NUMBER,
            Json::Object(_) => Self::OBJECT,
            Json::String(_) => Self::STRING,
        }
    }

    /// Returns the types for which the test can hold.
    fn required(test: &Test) -> Self {
        match test {
            Test::Compare(comparison, _) => match comparison {
                Comparison::Contains => Self::ARRAY.or(Self::STRING),
                Comparison::EndsWith | Comparison::StartsWith => Self::STRING,
                Comparison::Order(_) => Self::NUMBER.or(Self::STRING),
                Comparison::Equal | Comparison::In | Comparison::NotEqual | Comparison::NotIn => Self::ANY,
            },
            Test::Contains(part) if part.as_str().is_some() => Self::ARRAY.or(Self::STRING),
            Test::Contains(_) => Self::ARRAY,
            Test::EndsWith(_) | Test::Matches(_) | Test::StartsWith(_) => Self::STRING,
            Test::Equal(value) | Test::NotEqual(value) => Self::of(value),
            Test::Exists(_) => Self::ANY,
            Test::HasOnly(_) => Self::OBJECT,
            Test::In(List::Strings(_)) | Test::NotIn(List::Strings(_)) => Self::STRING,
            Test::In(List::Values(values)) | Test::NotIn(List::Values(values)) => {
                values.first().map_or(Self::ANY, Self::of)
            }
            Test::Order(_, Bound::Number(_)) => Self::NUMBER,
            Test::Order(_, Bound::Text(_)) => Self::STRING,
        }
    }
}

/// Returns whether the test requires a value.
fn needs_value(test: &Test) -> bool {
    !matches!(test, Test::Exists(false))
}

/// The constraints of a satisfiable rule, by path.
struct RuleConstraints<'p> {
    paths: &'p [Path],
    rule: &'p Rule,
    /// Keyed by path index.
    found: HashMap<usize, PathConstraints<'p>>,
}

/// Constraints on a path.
struct PathConstraints<'p> {
    tests: Vec<&'p Test>,
    /// All possible values, if there are few.
    candidates: Option<Vec<Json>>,
}

impl<'p> RuleConstraints<'p> {
    /// Collects the rule's constraints; returns an explanation if they contradict each other.
    fn at(paths: &'p [Path], rule: &'p Rule) -> Result<Self, String> {
        let mut tests: HashMap<usize, Vec<&Test>> = HashMap::default();
        let mut compared = HashSet::default();
        for condition in &rule.when {
            tests.entry(condition.path).or_default().push(&condition.test);
            if let Test::Compare(comparison, other) = condition.test {
                // The only constraint on the other path is that it has a value.
                tests.entry(other).or_default();
                compared.insert(other);
                if other == condition.path && !may_hold_for_itself(comparison) {
                    let path = paths.get(other).map(Path::to_string).unwrap_or_default();
                    return Err(format!("{path} is compared with itself"));
                }
            }
        }
        let mut numbers: Vec<_> = tests.keys().copied().collect();
        numbers.sort_unstable();
        let needed = |number: usize| {
            compared.contains(&number)
                || tests.get(&number).is_some_and(|tests| tests.iter().any(|test| needs_value(test)))
        };
        let mut found = HashMap::default();
        for number in numbers {
            let (Some(path), Some(of_path)) = (paths.get(number), tests.get(&number)) else {
                continue;
            };
            let deeper: Vec<(usize, &Path)> = tests
                .keys()
                .filter_map(|other| Some((*other, paths.get(*other)?)))
                .filter(|(other, deeper)| *other != number && deeper.is_below(path))
                .collect();
            let has_needed_below = deeper.iter().any(|(other, _)| needed(*other));
            let is_missing = of_path.iter().any(|test| !needs_value(test));
            if is_missing && (needed(number) || has_needed_below) {
                return Err(format!("{path} must be both missing and present"));
            }
            if is_missing && path.is_always_there() {
                return Err(format!("{path} is always present"));
            }
            if is_missing {
                found.insert(number, PathConstraints { tests: of_path.clone(), candidates: None });
                continue;
            }
            let mut kinds = path.kinds();
            for test in of_path {
                kinds = kinds.and(JsonTypes::required(test));
            }
            if has_needed_below {
                kinds = kinds.and(JsonTypes::OBJECT.or(JsonTypes::ARRAY));
            }
            if kinds.0 == 0 {
                return Err(format!("the conditions on {path} require different types"));
            }
            let candidates = candidates(path, kinds, of_path);
            let candidates = candidates.map(|mut candidates| {
                candidates.retain(|value| {
                    of_path.iter().all(|test| matches!(test, Test::Compare(..)) || test.holds(Some(value)))
                        && deeper.iter().all(|(other, deeper)| {
                            let below = deeper.walk_below(path, value);
                            tests.get(other).is_none_or(|tests| {
                                tests.iter().all(|test| match matches!(test, Test::Compare(..)) {
                                    true => below.is_some(),
                                    false => test.holds(below),
                                })
                            })
                        })
                });
                candidates
            });
            if candidates.as_ref().is_some_and(Vec::is_empty) {
                return Err(format!("no value of {path} satisfies all conditions"));
            }
            check_bounds(path, of_path)?;
            check_members(path, of_path, &deeper, needed)?;
            found.insert(number, PathConstraints { tests: of_path.clone(), candidates });
        }
        check_pairs(paths, &rule.when)?;
        Ok(Self { paths, rule, found })
    }

    /// Returns whether this rule's conditions imply those of `earlier`. A history condition is
    /// implied only by itself.
    fn implies(&self, earlier: &Rule) -> bool {
        earlier.histories.iter().all(|history| self.rule.histories.contains(history))
            && earlier.when.iter().all(|condition| self.implies_condition(condition))
    }

    fn implies_condition(&self, condition: &Condition) -> bool {
        let Some(path) = self.paths.get(condition.path) else {
            return false;
        };
        if let Test::Compare(comparison, other) = condition.test {
            return self.rule.when.iter().any(|own| {
                own.path == condition.path
                    && matches!(own.test, Test::Compare(of, with) if of == comparison && with == other)
            });
        }
        if matches!(condition.test, Test::Exists(true)) {
            return path.is_always_there()
                || self.found.iter().any(|(number, found)| {
                    let at_or_below = *number == condition.path
                        || self.paths.get(*number).is_some_and(|other| other.is_below(path));
                    at_or_below
                        && (found.tests.is_empty() || found.tests.iter().any(|test| needs_value(test)))
                });
        }
        let Some(found) = self.found.get(&condition.path) else {
            return false;
        };
        if let Some(candidates) = &found.candidates {
            return candidates.iter().all(|value| condition.test.holds(Some(value)));
        }
        found.tests.iter().any(|own| implies_test(own, &condition.test))
    }
}

impl Path {
    /// Returns whether the path is a descendant of `above`.
    pub(super) fn is_below(&self, above: &Self) -> bool {
        self.root == above.root
            && self.segments.len() > above.segments.len()
            && self.segments.starts_with(&above.segments)
    }

    /// Returns the value at this path, a descendant of `above`, in `value`.
    pub(super) fn walk_below<'v>(&self, above: &Self, value: &'v Json) -> Option<&'v Json> {
        let rest = self.segments.get(above.segments.len()..)?;
        rest.iter().try_fold(value, |value, segment| match value {
            Json::Object(_) => value.member(&segment.name),
            Json::Array(items) => items.get(segment.index?),
            Json::Bool(_) | Json::Null | Json::Number(_) | Json::String(_) => None,
        })
    }

    /// Returns whether every request has a value at the path.
    pub(super) fn is_always_there(&self) -> bool {
        self.segments.is_empty() && matches!(self.root, Root::Args | Root::Goal | Root::Tool)
    }

    /// Returns the possible types at the path.
    pub(super) fn kinds(&self) -> JsonTypes {
        match (self.segments.is_empty(), self.root.is_object()) {
            (true, true) => JsonTypes::OBJECT,
            (true, false) => JsonTypes::STRING,
            (false, _) => JsonTypes::ANY,
        }
    }
}

/// Returns all possible values at the path, if there are few.
fn candidates(path: &Path, kinds: JsonTypes, tests: &[&Test]) -> Option<Vec<Json>> {
    let named = tests.iter().find_map(|test| {
        if let Test::Equal(value) = test {
            return Some(vec![value.clone()]);
        }
        let Test::In(list) = test else {
            return None;
        };
        Some(match list {
            List::Strings(texts) => texts.iter().map(|text| Json::from(&**text)).collect(),
            List::Values(values) => values.clone(),
        })
    });
    let possible = |value: &Json| match path.root {
        // Empty values are rejected in requests.
        Root::Goal | Root::Tool => value.as_str() != Some(""),
        Root::RiskTier => value.as_str().is_some_and(|word| RiskTier::parse(word).is_some()),
        Root::AgentId | Root::Args | Root::Passport | Root::Resource | Root::UserId => true,
    };
    if let Some(mut named) = named {
        named.retain(|value| !path.segments.is_empty() || possible(value));
        return Some(named);
    }
    if path.root == Root::RiskTier {
        return Some(RiskTier::ALL.iter().map(|tier| Json::from(tier.as_str())).collect());
    }
    let null = (kinds.and(JsonTypes::NULL).0 != 0).then_some(Json::Null);
    let booleans = [true, false].into_iter().filter(|_| kinds.and(JsonTypes::BOOL).0 != 0).map(Json::Bool);
    let is_finite = kinds.and(JsonTypes::NULL.or(JsonTypes::BOOL)) == kinds;
    is_finite.then(|| null.into_iter().chain(booleans).collect())
}

/// Compares two bounds of the same type.
fn compare(a: &Bound, b: &Bound) -> Option<Ordering> {
    match (a, b) {
        (Bound::Number(a), Bound::Number(b)) => Some(a.compare(b)),
        (Bound::Text(a), Bound::Text(b)) => Some(a.cmp(b)),
        (Bound::Number(_), Bound::Text(_)) | (Bound::Text(_), Bound::Number(_)) => None,
    }
}

/// Detects empty ranges and incompatible prefixes.
fn check_bounds(path: &Path, tests: &[&Test]) -> Result<(), String> {
    for (index, one) in tests.iter().enumerate() {
        for other in tests.iter().skip(index + 1) {
            let excludes = match (one, other) {
                (Test::Order(a, of_a), Test::Order(b, of_b)) => {
                    let (is_lower_bound, is_high) =
                        (|r: Relation| r.is_lower_bound(), |r: Relation| !r.is_lower_bound());
                    let (low, high) = match () {
                        () if is_lower_bound(*a) && is_high(*b) => ((*a, of_a), (*b, of_b)),
                        () if is_lower_bound(*b) && is_high(*a) => ((*b, of_b), (*a, of_a)),
                        () => continue,
                    };
                    let strict = low.0 == Relation::Greater || high.0 == Relation::Less;
                    match compare(low.1, high.1) {
                        Some(Ordering::Greater) => true,
                        Some(Ordering::Equal) => strict,
                        Some(Ordering::Less) | None => false,
                    }
                }
                (Test::StartsWith(a), Test::StartsWith(b)) => {
                    !a.starts_with(b.as_str()) && !b.starts_with(a.as_str())
                }
                (Test::EndsWith(a), Test::EndsWith(b)) => {
                    !a.ends_with(b.as_str()) && !b.ends_with(a.as_str())
                }
                _ => false,
            };
            if excludes {
                return Err(format!("no value of {path} satisfies all conditions"));
            }
        }
    }
    Ok(())
}

impl Relation {
    /// Returns whether it is a lower bound.
    const fn is_lower_bound(self) -> bool {
        matches!(self, Self::AtLeast | Self::Greater)
    }
}

/// Detects members that are both required and forbidden.
fn check_members(
    path: &Path,
    tests: &[&Test],
    deeper: &[(usize, &Path)],
    needed: impl Fn(usize) -> bool,
) -> Result<(), String> {
    for (number, below) in deeper {
        let Some(member) = below.segments.get(path.segments.len()) else {
            continue;
        };
        let is_shut_out =
            tests.iter().any(|test| matches!(test, Test::HasOnly(names) if !names.contains(&member.name)));
        if is_shut_out && needed(*number) {
            return Err(format!(
                "{path} must not have the member {:?}, but {below} is required",
                member.name
            ));
        }
    }
    Ok(())
}

/// Returns whether the comparison can hold between a value and itself.
pub(super) fn may_hold_for_itself(comparison: Comparison) -> bool {
    match comparison {
        Comparison::Contains | Comparison::EndsWith | Comparison::Equal | Comparison::StartsWith => true,
        Comparison::Order(relation) => relation.holds(Ordering::Equal),
        Comparison::In | Comparison::NotEqual => false,
        // An empty list has no items of another type.
        Comparison::NotIn => true,
    }
}

/// Returns which orderings satisfy the comparison: less, equal, greater.
fn orders(comparison: Comparison) -> Option<[bool; 3]> {
    match comparison {
        Comparison::Equal => Some([false, true, false]),
        Comparison::NotEqual => Some([true, false, true]),
        Comparison::Order(relation) => {
            Some([Ordering::Less, Ordering::Equal, Ordering::Greater].map(|order| relation.holds(order)))
        }
        Comparison::Contains
        | Comparison::EndsWith
        | Comparison::In
        | Comparison::NotIn
        | Comparison::StartsWith => None,
    }
}

/// Detects pairs of paths whose comparisons exclude every ordering.
fn check_pairs(paths: &[Path], conditions: &[Condition]) -> Result<(), String> {
    let mut left: HashMap<(usize, usize), [bool; 3]> = HashMap::default();
    for condition in conditions {
        let Test::Compare(comparison, other) = condition.test else {
            continue;
        };
        let Some([less, equal, greater]) = orders(comparison) else {
            continue;
        };
        let (pair, found) = match condition.path <= other {
            true => ((condition.path, other), [less, equal, greater]),
            false => ((other, condition.path), [greater, equal, less]),
        };
        let possible = left.entry(pair).or_insert([true; 3]);
        for (possible, found) in possible.iter_mut().zip(found) {
            *possible &= found;
        }
        if *possible == [false; 3] {
            let name = |number: usize| paths.get(number).map(Path::to_string).unwrap_or_default();
            return Err(format!(
                "the comparisons of {} and {} contradict each other",
                name(pair.0),
                name(pair.1)
            ));
        }
    }
    Ok(())
}

/// Returns whether `own` implies `other`.
fn implies_test(own: &Test, other: &Test) -> bool {
    match (own, other) {
        (Test::Order(a, of_a), Test::Order(b, of_b)) if a.is_lower_bound() == b.is_lower_bound() => {
            let order = compare(of_a, of_b);
            let strict_enough = *a == *b || matches!(a, Relation::Greater | Relation::Less);
            match order {
                Some(Ordering::Equal) => strict_enough,
                Some(Ordering::Greater) => a.is_lower_bound(),
                Some(Ordering::Less) => !a.is_lower_bound(),
                None => false,
            }
        }
        (Test::StartsWith(own), Test::StartsWith(other)) => own.starts_with(other.as_str()),
        (Test::EndsWith(own), Test::EndsWith(other)) => own.ends_with(other.as_str()),
        (Test::HasOnly(own), Test::HasOnly(other)) => own.is_subset(other),
        (Test::Equal(a), Test::Equal(b)) | (Test::NotEqual(a), Test::NotEqual(b)) => a.same_value(b),
        (Test::NotIn(List::Strings(own)), Test::NotIn(List::Strings(other))) => other.is_subset(own),
        (Test::NotIn(List::Strings(own)), Test::NotEqual(Json::String(other))) => own.contains(other),
        (Test::NotIn(List::Values(own)), Test::NotIn(List::Values(other))) => {
            let has = |item: &Json| own.iter().any(|own| same_type(own, item) && own.same_value(item));
            other.iter().all(has)
        }
        (Test::Contains(a), Test::Contains(b)) => a.same_value(b),
        (Test::Matches(a), Test::Matches(b)) => a.as_str() == b.as_str(),
        (Test::Exists(a), Test::Exists(b)) => a == b,
        _ => false,
    }
}
