//! Policies as clauses over the cells of paths and histories.

use std::collections::HashMap;

use actpass_protocol::Json;
use actpass_protocol::json::Number;
use rust_decimal::Decimal;

use super::super::Policy;
use super::super::model::{Comparison, Condition, History, Measure, Path, Rule, Segment, Test, Tracker};
use super::domain::{Cell, Domain, Probe, Use, Value, excludes, includes, is_opaque, is_same};
use super::solve::{Cells, Clause, Literal, Search, search};
use super::witness::{Histories, Witness};

/// Maximum number of solutions that are tried with the engine.
const MAX_TRIES: usize = 500;

/// A member without conditions of an object with `has_only`.
#[derive(Clone, Debug)]
struct Extra {
    /// Index of the object's path.
    path: usize,
    name: String,
}

/// The meaning of a variable.
#[derive(Clone, Debug)]
enum Variable<'p> {
    /// Whether two paths compare so.
    Compare(Comparison, usize, usize),
    /// Whether the member is present.
    Extra(Extra),
    /// Whether the opaque test holds for the value at the path.
    Opaque {
        path: usize,
        test: &'p Test,
    },
    Path {
        index: usize,
        domain: Domain,
    },
    /// The sum of a history; `None` if a value of `same` is missing.
    Tracker {
        tracker: &'p Tracker,
        sums: Vec<Option<Decimal>>,
    },
}

impl Variable<'_> {
    fn length(&self) -> usize {
        match self {
            Self::Compare(..) | Self::Extra(_) | Self::Opaque { .. } => 2,
            Self::Path { domain, .. } => domain.cells.len(),
            Self::Tracker { sums, .. } => sums.len(),
        }
    }
}

/// A condition of a rule or a budget, in terms of variables.
#[derive(Clone, Debug)]
struct Atom {
    /// Clauses of the condition.
    holds: Vec<Clause>,
    /// The clause of its negation.
    fails: Clause,
}

/// Conditions, all of which are required.
type Atoms = Vec<Atom>;

/// A policy in terms of variables.
#[derive(Debug, Default)]
struct Encoded {
    rules: Vec<Atoms>,
    /// The conditions of each budget, whether the amount fits, and whether it is above 0.
    budgets: Vec<(Atoms, Option<(Atom, Atom)>)>,
    /// Those of each history with a sum, and whether the amount can be measured.
    trackers: Vec<(Atoms, Atom)>,
}

/// One or two policies over common variables.
pub(super) struct Model<'p> {
    policies: Vec<&'p Policy>,
    paths: Vec<Path>,
    variables: Vec<Variable<'p>>,
    encoded: Vec<Encoded>,
    /// Clauses that relate paths with each other.
    coupling: Vec<Clause>,
    /// The cells that each rule of each policy requires.
    required: Vec<Vec<HashMap<usize, Cells>>>,
}

/// The answer to a question.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// No request is so.
    Impossible,
    /// This one is; the engine agrees.
    Witness(Box<Witness>),
    /// Cannot tell, because of these operators.
    Open(String),
}

/// A set of requests.
#[derive(Clone, Debug, Default)]
pub(super) struct Question {
    clauses: Vec<Clause>,
}

impl Question {
    pub(super) fn and(mut self, clauses: impl IntoIterator<Item = Clause>) -> Self {
        self.clauses.extend(clauses);
        self
    }
}

/// The paths of all policies and the probes of each.
#[derive(Default)]
struct Paths<'p> {
    paths: Vec<Path>,
    index: HashMap<String, usize>,
    probes: Vec<Vec<Probe<'p>>>,
    compared: Vec<(Comparison, usize, usize)>,
    more: HashMap<usize, Vec<Json>>,
}

impl<'p> Paths<'p> {
    fn path(&mut self, policy: &Policy, index: usize) -> Option<usize> {
        let path = policy.paths.get(index)?;
        let next = self.paths.len();
        let found = *self.index.entry(path.to_string()).or_insert(next);
        if found == next {
            self.paths.push(path.clone());
            self.probes.push(Vec::new());
        }
        Some(found)
    }

    fn probe(&mut self, policy: &Policy, index: usize, probe: Probe<'p>) {
        if let Some(path) = self.path(policy, index)
            && let Some(probes) = self.probes.get_mut(path)
        {
            probes.push(probe);
        }
    }

    fn conditions(&mut self, policy: &'p Policy, conditions: &'p [Condition]) {
        for condition in conditions {
            match condition.test {
                Test::Compare(comparison, other) => {
                    let (one, other) = (self.path(policy, condition.path), self.path(policy, other));
                    if let (Some(one), Some(other)) = (one, other)
                        && !self.compared.contains(&(comparison, one, other))
                    {
                        self.compared.push((comparison, one, other));
                    }
                }
                Test::Contains(_)
                | Test::EndsWith(_)
                | Test::Equal(_)
                | Test::Exists(_)
                | Test::HasOnly(_)
                | Test::In(_)
                | Test::Matches(_)
                | Test::NotEqual(_)
                | Test::NotIn(_)
                | Test::Order(..)
                | Test::StartsWith(_) => self.probe(policy, condition.path, Probe::Test(&condition.test)),
            }
        }
    }

    fn of(policies: &[&'p Policy]) -> Self {
        let mut paths = Self::default();
        for policy in policies {
            for rule in &policy.rules {
                paths.conditions(policy, &rule.when);
            }
            for budget in &policy.budgets {
                paths.conditions(policy, &budget.when);
                if let Measure::Sum(path) = budget.measure {
                    paths.probe(policy, path, Probe::Amount(Some(budget.limit)));
                    paths.probe(policy, path, Probe::Positive);
                }
            }
            for tracker in &policy.trackers {
                paths.conditions(policy, &tracker.of);
                for path in &tracker.same {
                    paths.path(policy, *path);
                }
                if let Measure::Sum(path) = tracker.measure {
                    paths.probe(policy, path, Probe::Amount(None));
                }
            }
        }
        // The values of an object in a condition are also values of the paths below it.
        let all: Vec<(usize, Json)> = (0..paths.paths.len())
            .flat_map(|path| paths.constants(path).into_iter().map(move |value| (path, value)))
            .collect();
        for (above, value) in &all {
            for below in 0..paths.paths.len() {
                if let (Some(deeper), Some(path)) = (paths.paths.get(below), paths.paths.get(*above))
                    && deeper.is_below(path)
                    && let Some(found) = deeper.walk_below(path, value)
                {
                    paths.more.entry(below).or_default().push(found.clone());
                }
            }
        }
        // Compared paths need common values.
        for (_, one, other) in paths.compared.clone() {
            let mut common = vec![Json::from("a"), Json::from("b")];
            common.extend([0_i64, 1].map(|number| Json::Number(Number::from(number))));
            common.extend(paths.constants(one).into_iter().take(16));
            common.extend(paths.constants(other).into_iter().take(16));
            let lists: Vec<Json> =
                common.iter().take(4).map(|item| Json::Array(vec![item.clone()])).collect();
            common.extend(lists);
            for path in [one, other] {
                paths.more.entry(path).or_default().extend(common.iter().cloned());
            }
        }
        paths
    }

    fn constants(&self, path: usize) -> Vec<Json> {
        let tests = self.probes.get(path).map_or(&[][..], Vec::as_slice);
        tests
            .iter()
            .flat_map(|probe| match probe {
                Probe::Test(Test::Equal(value) | Test::NotEqual(value)) => vec![value.clone()],
                Probe::Test(Test::In(list) | Test::NotIn(list)) => list.values(),
                Probe::Test(_) | Probe::Amount(_) | Probe::Positive => Vec::new(),
            })
            .collect()
    }

    /// Returns whether the paths below it, or `has_only`, determine the members of an object.
    fn is_composed(&self, index: usize) -> bool {
        let Some(path) = self.paths.get(index) else { return false };
        let has_only = self
            .probes
            .get(index)
            .is_some_and(|probes| probes.iter().any(|probe| matches!(probe, Probe::Test(Test::HasOnly(_)))));
        has_only || self.paths.iter().any(|other| other.is_below(path))
    }
}

impl<'p> Model<'p> {
    pub(super) fn of(policies: &[&'p Policy]) -> Self {
        let mut paths = Paths::of(policies);
        let mut variables = Vec::new();
        for index in 0..paths.paths.len() {
            let is_compared = paths.compared.iter().any(|(_, one, other)| *one == index || *other == index);
            let (Some(path), Some(probes)) = (paths.paths.get(index), paths.probes.get(index)) else {
                continue;
            };
            let more = paths.more.get(&index).map_or(&[][..], Vec::as_slice);
            let is_composed = paths.is_composed(index);
            let domain = Domain::of(&Use { path, probes, is_composed, is_compared, more });
            variables.push(Variable::Path { index, domain });
        }
        variables.extend(
            paths
                .compared
                .iter()
                .map(|(comparison, one, other)| Variable::Compare(*comparison, *one, *other)),
        );
        for (path, probes) in paths.probes.iter().enumerate() {
            let mut known: Vec<&Test> = Vec::new();
            for probe in probes {
                if let Probe::Test(test) = probe
                    && is_opaque(test)
                    && !known.iter().any(|known| is_same(known, test))
                {
                    known.push(test);
                    variables.push(Variable::Opaque { path, test });
                }
            }
        }
        let mut model = Self {
            policies: policies.to_vec(),
            paths: std::mem::take(&mut paths.paths),
            variables,
            encoded: Vec::new(),
            coupling: Vec::new(),
            required: Vec::new(),
        };
        model.add_extras(&paths);
        model.add_trackers(&paths);
        model.couple(&paths);
        // Probes are counted in the order in which they were collected.
        let mut encoder = Encoder { model: &model, index: &paths.index, next: HashMap::new() };
        let encoded = policies.iter().map(|policy| encoder.policy(policy)).collect();
        model.encoded = encoded;
        model.required = model
            .encoded
            .iter()
            .map(|encoded| encoded.rules.iter().map(|atoms| required(atoms)).collect())
            .collect();
        model
    }

    fn domain(&self, path: usize) -> Option<&Domain> {
        match self.variables.get(path) {
            Some(Variable::Path { domain, .. }) => Some(domain),
            Some(_) | None => None,
        }
    }

    /// The literal that the value at a path is of a cell for which `holds` is true. A path has the
    /// variable of its index.
    fn at(&self, path: usize, holds: impl Fn(&Cell) -> bool) -> Literal {
        let cells = self.domain(path).map_or(&[][..], |domain| &domain.cells);
        let cells = Cells::of(cells.len(), |cell| cells.get(cell).is_some_and(&holds));
        Literal { variable: path, cells }
    }

    fn present(&self, path: usize) -> Literal {
        self.at(path, |cell| !matches!(cell.value, Value::Missing))
    }

    fn missing(&self, path: usize) -> Literal {
        self.at(path, |cell| matches!(cell.value, Value::Missing))
    }

    fn flag(variable: usize, value: bool) -> Literal {
        Literal { variable, cells: Cells::of(2, |cell| (cell == 1) == value) }
    }

    /// Adds a variable for each kind of member that `has_only` distinguishes and no path names.
    fn add_extras(&mut self, paths: &Paths<'_>) {
        for (index, probes) in paths.probes.iter().enumerate() {
            let lists: Vec<_> = probes
                .iter()
                .filter_map(|probe| match probe {
                    Probe::Test(Test::HasOnly(names)) => Some(names),
                    Probe::Test(_) | Probe::Amount(_) | Probe::Positive => None,
                })
                .collect();
            if lists.is_empty() {
                continue;
            }
            let mut names: Vec<&String> = lists.iter().flat_map(|names| names.iter()).collect();
            names.sort_unstable();
            names.dedup();
            let other = "other".to_owned();
            let fresh = (0..).map(|number| format!("{other}{number}")).find(|name| !names.contains(&name));
            let fresh =
                Some(&other).filter(|name| !names.contains(name)).cloned().or(fresh).unwrap_or_default();
            let named = self.members_below(index);
            let mut kinds: Vec<Vec<bool>> = Vec::new();
            for name in names.into_iter().chain([&fresh]) {
                // A path that is a direct member has its own value.
                let has_path = named.iter().any(|(below, segment)| {
                    segment.name == *name && self.depth(*below) == self.depth(index) + 1
                });
                let is_container = named.iter().any(|(_, segment)| segment.name == *name);
                let kind: Vec<bool> = lists.iter().map(|list| list.contains(name)).collect();
                if !has_path && (is_container || !kinds.contains(&kind)) {
                    kinds.push(kind);
                    self.variables.push(Variable::Extra(Extra { path: index, name: name.clone() }));
                }
            }
        }
    }

    fn depth(&self, path: usize) -> usize {
        self.paths.get(path).map_or(0, |path| path.segments.len())
    }

    /// Returns the paths below, each with its first segment below.
    fn members_below(&self, index: usize) -> Vec<(usize, Segment)> {
        let Some(path) = self.paths.get(index) else { return Vec::new() };
        let below = self.paths.iter().enumerate().filter(|(_, other)| other.is_below(path));
        below
            .filter_map(|(number, other)| Some((number, other.segments.get(path.segments.len())?.clone())))
            .collect()
    }

    fn add_trackers(&mut self, paths: &Paths<'_>) {
        let mut bounds: HashMap<&str, Vec<Decimal>> = HashMap::new();
        for policy in &self.policies {
            for History { tracker, bound } in &policy.histories {
                if let Some(tracker) = policy.trackers.get(*tracker) {
                    bounds.entry(&tracker.account).or_default().push(bound.value);
                }
            }
        }
        for policy in self.policies.clone() {
            for tracker in &policy.trackers {
                if self.tracker(&tracker.account).is_some() {
                    continue;
                }
                let mut sums: Vec<Decimal> =
                    bounds.get(tracker.account.as_str()).cloned().unwrap_or_default();
                let step = match tracker.measure {
                    Measure::Count => Decimal::ONE,
                    Measure::Sum(_) => Decimal::new(1, 9),
                };
                let near: Vec<_> = sums.iter().flat_map(|sum| [*sum - step, *sum + step]).collect();
                sums.extend(near);
                sums.push(Decimal::ZERO);
                sums.retain(|sum| !sum.is_sign_negative());
                sums.sort_unstable();
                sums.dedup();
                let mut sums: Vec<Option<Decimal>> = sums.into_iter().map(Some).collect();
                let same: Vec<usize> = tracker
                    .same
                    .iter()
                    .filter_map(|path| paths.index.get(&policy.paths.get(*path)?.to_string()).copied())
                    .collect();
                if !same.is_empty() {
                    sums.push(None);
                }
                let variable = self.variables.len();
                let readable = |readable: bool| Literal {
                    variable,
                    cells: Cells::of(sums.len(), |cell| {
                        sums.get(cell).is_some_and(|sum| sum.is_some() == readable)
                    }),
                };
                let mut all = vec![readable(true)];
                for path in same {
                    self.coupling.push(vec![self.present(path), readable(false)]);
                    all.push(self.missing(path));
                }
                self.coupling.push(all);
                self.variables.push(Variable::Tracker { tracker, sums });
            }
        }
    }

    fn tracker(&self, account: &str) -> Option<(usize, &[Option<Decimal>])> {
        self.variables.iter().enumerate().find_map(|(number, variable)| match variable {
            Variable::Tracker { tracker, sums } => {
                (tracker.account == account).then_some((number, sums.as_slice()))
            }
            Variable::Compare(..) | Variable::Extra(_) | Variable::Opaque { .. } | Variable::Path { .. } => {
                None
            }
        })
    }

    /// Adds the clauses between a value and the values below it.
    fn couple(&mut self, paths: &Paths<'_>) {
        let mut clauses = Vec::new();
        for (above, path) in self.paths.iter().enumerate() {
            let Some(domain) = self.domain(above) else { continue };
            for (below, _) in self.members_below(above) {
                let Some(deeper) = self.paths.get(below) else { continue };
                let walked = |cell: &Cell| match &cell.value {
                    Value::Json(value) => deeper.walk_below(path, value).cloned(),
                    Value::Composed | Value::Missing | Value::Range | Value::Rest => None,
                };
                let may_have = |cell: &Cell| {
                    matches!(cell.value, Value::Composed | Value::Rest) || walked(cell).is_some()
                };
                clauses.push(vec![self.missing(below), self.at(above, may_have)]);
                for (number, cell) in domain.cells.iter().enumerate() {
                    let Some(value) = walked(cell) else { continue };
                    let probes = paths.probes.get(below).map_or(&[][..], Vec::as_slice);
                    let holds: Vec<bool> = probes.iter().map(|probe| probe.holds(Some(&value))).collect();
                    let same = self.at(below, |cell| {
                        matches!(cell.value, Value::Rest)
                            || !matches!(cell.value, Value::Missing) && cell.holds == holds
                    });
                    let not_this = Literal {
                        variable: above,
                        cells: Cells::of(domain.cells.len(), |cell| cell != number),
                    };
                    clauses.push(vec![not_this, same]);
                }
            }
        }
        for (number, variable) in self.variables.iter().enumerate() {
            match variable {
                Variable::Extra(extra) => {
                    let composed = self.at(extra.path, |cell| matches!(cell.value, Value::Composed));
                    clauses.push(vec![Self::flag(number, false), composed]);
                }
                Variable::Compare(comparison, one, other) => {
                    for path in [*one, *other] {
                        clauses.push(vec![Self::flag(number, false), self.present(path)]);
                    }
                    if one == other && !super::super::check::may_hold_for_itself(*comparison) {
                        clauses.push(vec![Self::flag(number, false)]);
                    }
                }
                Variable::Opaque { path, test } => {
                    self.couple_opaque(number, *path, test, paths, &mut clauses);
                }
                Variable::Path { .. } | Variable::Tracker { .. } => {}
            }
        }
        self.coupling.extend(clauses);
    }

    /// Adds the clauses between an opaque test, the value at its path, and other opaque tests.
    fn couple_opaque(
        &self,
        number: usize,
        path: usize,
        test: &Test,
        paths: &Paths<'_>,
        clauses: &mut Vec<Clause>,
    ) {
        let probes = paths.probes.get(path).map_or(&[][..], Vec::as_slice);
        let position = probes.iter().position(|probe| matches!(probe, Probe::Test(of) if is_same(of, test)));
        let holds = |cell: &Cell| position.and_then(|at| cell.holds.get(at)).copied().unwrap_or(false);
        let is_free = |cell: &Cell| matches!(cell.value, Value::Range | Value::Rest);
        for value in [true, false] {
            let others = self.at(path, |cell| is_free(cell) || holds(cell) != value);
            clauses.push(vec![others, Self::flag(number, value)]);
        }
        let no_range = self.at(path, |cell| !matches!(cell.value, Value::Range));
        for (other, variable) in self.variables.iter().enumerate() {
            if let Variable::Opaque { path: of, test: other_test } = variable
                && *of == path
                && other != number
            {
                if includes(test, other_test) {
                    clauses.push(vec![no_range.clone(), Self::flag(number, false), Self::flag(other, true)]);
                }
                if excludes(test, other_test) {
                    clauses.push(vec![no_range.clone(), Self::flag(number, false), Self::flag(other, false)]);
                }
            }
        }
        for (at, probe) in probes.iter().enumerate() {
            if let Probe::Test(start @ Test::StartsWith(_)) = probe
                && includes(start, test)
            {
                let holds = |cell: &Cell| cell.holds.get(at).copied().unwrap_or(false);
                let elsewhere = self.at(path, |cell| !matches!(cell.value, Value::Range) || !holds(cell));
                clauses.push(vec![elsewhere, Self::flag(number, true)]);
            }
        }
    }

    fn rule(&self, policy: usize, rule: usize) -> &[Atom] {
        self.encoded.get(policy).and_then(|encoded| encoded.rules.get(rule)).map_or(&[], Vec::as_slice)
    }

    /// Clauses: the conditions of the rule, except the condition number `without`.
    pub(super) fn matches(&self, policy: usize, rule: usize, without: Option<usize>) -> Vec<Clause> {
        let atoms = self.rule(policy, rule).iter().enumerate().filter(|(at, _)| Some(*at) != without);
        atoms.flat_map(|(_, atom)| atom.holds.clone()).collect()
    }

    /// The number of conditions of a rule, including history conditions.
    pub(super) fn conditions(&self, policy: usize, rule: usize) -> usize {
        self.rule(policy, rule).len()
    }

    /// Clause: the condition number `at` of the rule does not hold.
    pub(super) fn fails(&self, policy: usize, rule: usize, at: usize) -> Clause {
        self.rule(policy, rule).get(at).map(|atom| atom.fails.clone()).unwrap_or_default()
    }

    /// Clause: the rule does not match.
    pub(super) fn differs(&self, policy: usize, rule: usize) -> Clause {
        self.rule(policy, rule).iter().flat_map(|atom| atom.fails.clone()).collect()
    }

    /// Clauses: the rule decides; with `None`, no rule matches.
    pub(super) fn decides(&self, policy: usize, rule: Option<usize>) -> Vec<Clause> {
        let count = self.encoded.get(policy).map_or(0, |encoded| encoded.rules.len());
        let mut clauses = rule.map(|rule| self.matches(policy, rule, None)).unwrap_or_default();
        let earlier = (0..rule.unwrap_or(count)).filter(|earlier| {
            rule.is_none_or(|rule| self.are_compatible((policy, rule), (policy, *earlier)))
        });
        clauses.extend(earlier.map(|earlier| self.differs(policy, earlier)));
        clauses
    }

    /// Returns whether no single path keeps both rules from matching one request.
    pub(super) fn are_compatible(&self, one: (usize, usize), other: (usize, usize)) -> bool {
        let of = |(policy, rule): (usize, usize)| self.required.get(policy)?.get(rule);
        let (Some(one), Some(other)) = (of(one), of(other)) else { return true };
        one.iter().all(|(variable, cells)| other.get(variable).is_none_or(|other| cells.intersects(other)))
    }

    /// Clauses: an `allow` fits every empty budget, and its histories can be measured.
    pub(super) fn is_measured(&self, policy: usize) -> Vec<Clause> {
        let Some(encoded) = self.encoded.get(policy) else { return Vec::new() };
        let budgets = encoded.budgets.iter().filter_map(|(when, sum)| Some((when, &sum.as_ref()?.0)));
        let trackers = encoded.trackers.iter().map(|(of, measured)| (of, measured));
        let mut clauses = Vec::new();
        for (when, fits) in budgets.chain(trackers) {
            let not_applicable: Clause = when.iter().flat_map(|atom| atom.fails.clone()).collect();
            clauses.extend(
                fits.holds
                    .iter()
                    .map(|clause| not_applicable.iter().chain(clause).cloned().collect::<Clause>()),
            );
        }
        clauses
    }

    /// Clauses: the request is part of the history, but its amount cannot be measured.
    pub(super) fn not_tracked(&self, policy: usize, tracker: usize) -> Option<Vec<Clause>> {
        let of_policy = self.policies.get(policy)?;
        // Only histories with a sum are encoded.
        let before = of_policy.trackers.iter().take(tracker);
        let at = before.filter(|tracker| tracker.measure.path().is_some()).count();
        let (of, measured) = self.encoded.get(policy)?.trackers.get(at)?;
        let mut clauses: Vec<Clause> = of.iter().flat_map(|atom| atom.holds.clone()).collect();
        clauses.push(measured.fails.clone());
        Some(clauses)
    }

    /// Clauses: the budget applies to an amount that does not fit, or otherwise to one above 0.
    pub(super) fn applies(&self, policy: usize, budget: usize, exceeds: bool) -> Option<Vec<Clause>> {
        let (when, sum) = self.encoded.get(policy)?.budgets.get(budget)?;
        let mut clauses: Vec<Clause> = when.iter().flat_map(|atom| atom.holds.clone()).collect();
        if exceeds {
            clauses.push(sum.as_ref()?.0.fails.clone());
        } else if let Some((_, positive)) = sum {
            // Amounts of 0 never exceed a limit.
            clauses.extend(positive.holds.clone());
        }
        Some(clauses)
    }

    /// Answers whether a request satisfies the clauses of the question and `accept`, which calls the
    /// engine.
    pub(super) fn ask(&self, question: &Question, accept: &dyn Fn(&Witness) -> bool) -> Answer {
        let clauses: Vec<&Clause> = question.clauses.iter().chain(&self.coupling).collect();
        let mut tries = 0;
        let mut found = None;
        let mut domains = Vec::with_capacity(self.variables.len());
        for variable in &self.variables {
            domains.push(Cells::of(variable.length(), |cell| match variable {
                Variable::Path { domain, .. } => domain
                    .cells
                    .get(cell)
                    .is_some_and(|cell| !matches!(cell.value, Value::Range | Value::Rest)),
                Variable::Compare(..)
                | Variable::Extra(_)
                | Variable::Opaque { .. }
                | Variable::Tracker { .. } => true,
            }));
        }
        let all: Vec<Cells> =
            self.variables.iter().map(|variable| Cells::of(variable.length(), |_| true)).collect();
        let first = search(domains, &clauses, &mut |domains| {
            self.try_solutions(domains, &mut tries, &mut |witness| {
                let is_accepted = accept(&witness);
                if is_accepted {
                    found = Some(witness);
                }
                is_accepted
            })
        });
        if let (Search::Found, Some(witness)) = (first, found) {
            return Answer::Witness(Box::new(witness));
        }
        match search(all, &clauses, &mut |_| true) {
            Search::Impossible => Answer::Impossible,
            Search::Found | Search::Open => Answer::Open(self.opaque(question)),
        }
    }

    /// Tries combinations of the remaining values. Only compared paths need more than one.
    fn try_solutions(
        &self,
        domains: &[Cells],
        tries: &mut usize,
        accept: &mut dyn FnMut(Witness) -> bool,
    ) -> bool {
        let mut compared: Vec<usize> = Vec::new();
        for variable in &self.variables {
            if let Variable::Compare(_, one, other) = variable {
                compared.extend([*one, *other]);
            }
        }
        compared.sort_unstable();
        compared.dedup();
        let mut choice: Vec<usize> = Vec::with_capacity(domains.len());
        for domain in domains {
            let Some(first) = domain.iter().next() else { return false };
            choice.push(first);
        }
        let options: Vec<Vec<usize>> = compared
            .iter()
            .map(|path| domains.get(*path).map(|domain| domain.iter().collect()).unwrap_or_default())
            .collect();
        let mut position = vec![0_usize; options.len()];
        loop {
            *tries += 1;
            if *tries > MAX_TRIES {
                return false;
            }
            for ((path, options), at) in compared.iter().zip(&options).zip(&position) {
                if let (Some(slot), Some(cell)) = (choice.get_mut(*path), options.get(*at)) {
                    *slot = *cell;
                }
            }
            if accept(self.witness(&choice)) {
                return true;
            }
            // The next combination.
            let mut is_last = true;
            for (at, options) in position.iter_mut().zip(&options) {
                *at += 1;
                if *at < options.len() {
                    is_last = false;
                    break;
                }
                *at = 0;
            }
            if is_last {
                return false;
            }
        }
    }

    /// Builds the request of a choice of cells.
    fn witness(&self, choice: &[usize]) -> Witness {
        let mut witness = Witness::default();
        let mut composed: Vec<(&Path, Option<&Json>)> = Vec::new();
        let mut extras: Vec<(Path, Json)> = Vec::new();
        let mut sums = Histories::default();
        for (variable, cell) in self.variables.iter().zip(choice) {
            match variable {
                Variable::Path { index, domain } => {
                    let (Some(path), Some(cell)) = (self.paths.get(*index), domain.cells.get(*cell)) else {
                        continue;
                    };
                    match &cell.value {
                        Value::Composed => composed.push((path, None)),
                        Value::Json(value) => composed.push((path, Some(value))),
                        Value::Missing | Value::Range | Value::Rest => {}
                    }
                }
                Variable::Extra(extra) => {
                    if let (Some(path), 1) = (self.paths.get(extra.path), cell) {
                        let mut path = path.clone();
                        path.segments.push(Segment { name: extra.name.clone(), index: None });
                        extras.push((path, Json::Object(Vec::new())));
                    }
                }
                Variable::Tracker { tracker, sums: values } => {
                    sums.set(&tracker.account, values.get(*cell).copied().flatten());
                }
                Variable::Compare(..) | Variable::Opaque { .. } => {}
            }
        }
        // Containers first.
        composed
            .sort_by_key(|(path, _)| (path.segments.len(), path.segments.last().and_then(|last| last.index)));
        for (path, value) in composed {
            match value {
                Some(value) => witness.set(path, value.clone()),
                None => witness.set(path, Json::Object(Vec::new())),
            }
        }
        for (path, value) in extras {
            witness.set_missing(&path, value);
        }
        witness.histories = sums;
        witness.complete();
        witness
    }

    /// Returns the operators because of which the cells of the question's paths are incomplete.
    fn gaps(&self, question: &Question) -> Vec<String> {
        let mut gaps = Vec::new();
        for variable in used(question) {
            let gap = self.domain(variable).and_then(|domain| domain.gap.clone());
            gaps.extend(gap.filter(|gap| !gaps.contains(gap)));
        }
        gaps
    }

    /// Returns the operators that may leave the question open.
    fn opaque(&self, question: &Question) -> String {
        let mut words = self.gaps(question);
        for variable in used(question) {
            let word = match self.variables.get(variable) {
                Some(Variable::Compare(..)) => Some("value_path".to_owned()),
                Some(Variable::Opaque { path, .. }) => {
                    let path = self.paths.get(*path).map(Path::to_string).unwrap_or_default();
                    Some(format!("contains, ends_with or matches on {path}"))
                }
                Some(Variable::Extra(_) | Variable::Path { .. } | Variable::Tracker { .. }) | None => None,
            };
            words.extend(word.filter(|word| !words.contains(word)));
        }
        if words.is_empty() { "too many combinations".to_owned() } else { words.join(", ") }
    }
}

/// Returns the cells of each variable that the conditions require.
fn required(atoms: &[Atom]) -> HashMap<usize, Cells> {
    let mut required: HashMap<usize, Cells> = HashMap::new();
    for clause in atoms.iter().flat_map(|atom| &atom.holds) {
        if let [only] = clause.as_slice() {
            match required.get_mut(&only.variable) {
                Some(cells) => cells.retain(&only.cells),
                None => {
                    required.insert(only.variable, only.cells.clone());
                }
            }
        }
    }
    required
}

fn used(question: &Question) -> Vec<usize> {
    let mut used: Vec<usize> = question.clauses.iter().flatten().map(|literal| literal.variable).collect();
    used.sort_unstable();
    used.dedup();
    used
}

/// Translates conditions in the order in which [`Paths::of`] collected their probes.
struct Encoder<'m, 'p> {
    model: &'m Model<'p>,
    index: &'m HashMap<String, usize>,
    /// The number of the next probe by path.
    next: HashMap<usize, usize>,
}

impl<'p> Encoder<'_, 'p> {
    fn path(&self, policy: &Policy, index: usize) -> Option<usize> {
        self.index.get(&policy.paths.get(index)?.to_string()).copied()
    }

    /// Returns the literals that the next probe of the path holds, and that it does not.
    fn probe(&mut self, path: usize) -> [Literal; 2] {
        let next = self.next.entry(path).or_default();
        let probe = *next;
        *next += 1;
        [true, false].map(|value| {
            self.model.at(path, |cell| {
                matches!(cell.value, Value::Rest) || cell.holds.get(probe).copied().unwrap_or(false) == value
            })
        })
    }

    fn opaque(&mut self, path: usize, test: &Test) -> Option<usize> {
        let is_it = |variable: &Variable<'_>| matches!(variable, Variable::Opaque { path: of, test: known } if *of == path && is_same(known, test));
        self.model.variables.iter().position(is_it)
    }

    fn policy(&mut self, policy: &'p Policy) -> Encoded {
        let rules = policy.rules.iter().map(|rule| self.rule(policy, rule)).collect();
        let mut budgets = Vec::new();
        for budget in &policy.budgets {
            let when = self.conditions(policy, &budget.when);
            let fits = self.measured(policy, budget.measure);
            let positive = self.measured(policy, budget.measure);
            budgets.push((when, fits.zip(positive)));
        }
        let mut trackers = Vec::new();
        for tracker in &policy.trackers {
            let of = self.conditions(policy, &tracker.of);
            let measured = self.measured(policy, tracker.measure);
            trackers.extend(measured.map(|measured| (of, measured)));
        }
        Encoded { rules, budgets, trackers }
    }

    fn measured(&mut self, policy: &Policy, measure: Measure) -> Option<Atom> {
        let Measure::Sum(path) = measure else { return None };
        let path = self.path(policy, path)?;
        let [holds, fails] = self.probe(path);
        Some(Atom { fails: vec![fails], holds: vec![vec![holds]] })
    }

    fn rule(&mut self, policy: &'p Policy, rule: &'p Rule) -> Atoms {
        let mut atoms = self.conditions(policy, &rule.when);
        for history in &rule.histories {
            let Some(History { tracker, bound }) = policy.histories.get(*history) else { continue };
            let tracker = policy.trackers.get(*tracker);
            let Some((variable, sums)) = tracker.and_then(|tracker| self.model.tracker(&tracker.account))
            else {
                continue;
            };
            let holds = |cell: usize| sums.get(cell).copied().flatten().is_some_and(|sum| bound.holds(sum));
            let literal = Literal { variable, cells: Cells::of(sums.len(), holds) };
            atoms.push(Atom { fails: vec![literal.negated()], holds: vec![vec![literal]] });
        }
        atoms
    }

    fn conditions(&mut self, policy: &'p Policy, conditions: &'p [Condition]) -> Atoms {
        let mut atoms = Vec::with_capacity(conditions.len());
        for condition in conditions {
            let Some(path) = self.path(policy, condition.path) else { continue };
            atoms.push(match &condition.test {
                Test::Compare(comparison, other) => {
                    let other = self.path(policy, *other);
                    let variable = self.model.variables.iter().position(|variable| {
                        matches!(variable, Variable::Compare(of, one, with)
                            if of == comparison && *one == path && Some(*with) == other)
                    });
                    let variable = variable.unwrap_or(usize::MAX);
                    Atom {
                        holds: vec![vec![Model::flag(variable, true)]],
                        fails: vec![Model::flag(variable, false)],
                    }
                }
                Test::HasOnly(names) => {
                    let [holds, _] = self.probe(path);
                    self.has_only(path, &holds, |name| names.contains(name))
                }
                Test::Contains(_)
                | Test::EndsWith(_)
                | Test::Equal(_)
                | Test::Exists(_)
                | Test::In(_)
                | Test::Matches(_)
                | Test::NotEqual(_)
                | Test::NotIn(_)
                | Test::Order(..)
                | Test::StartsWith(_) => {
                    let [mut holds, mut fails] = self.probe(path);
                    if is_opaque(&condition.test)
                        && let Some(variable) = self.opaque(path, &condition.test)
                    {
                        (holds, fails) = (Model::flag(variable, true), Model::flag(variable, false));
                    }
                    Atom { fails: vec![fails], holds: vec![vec![holds]] }
                }
            });
        }
        atoms
    }

    /// `literal` is about values; a composed object has the members below it and the extra ones.
    fn has_only(&self, path: usize, literal: &Literal, is_named: impl Fn(&str) -> bool) -> Atom {
        let model = self.model;
        let composed = model.at(path, |cell| matches!(cell.value, Value::Composed));
        let mut forbidden: Clause = Vec::new();
        for (below, segment) in model.members_below(path) {
            if !is_named(&segment.name) {
                forbidden.push(model.present(below));
            }
        }
        for (number, variable) in model.variables.iter().enumerate() {
            if let Variable::Extra(extra) = variable
                && extra.path == path
                && !is_named(&extra.name)
            {
                forbidden.push(Model::flag(number, true));
            }
        }
        // The value of a composed cell stands for no members.
        let of = |holds: &dyn Fn(usize) -> bool| Literal {
            variable: path,
            cells: Cells::of(model.variables.get(path).map_or(0, Variable::length), holds),
        };
        let values = of(&|cell| literal.cells.contains(cell) && !composed.cells.contains(cell));
        let allowed = of(&|cell| literal.cells.contains(cell) || composed.cells.contains(cell));
        let mut holds: Vec<Clause> = vec![vec![allowed.clone()]];
        // The extra members exist only if the object is composed.
        holds.extend(forbidden.iter().map(|member| vec![values.clone(), member.negated()]));
        let mut fails = vec![
            of(&|cell| !allowed.cells.contains(cell)),
            model.at(path, |cell| matches!(cell.value, Value::Rest)),
        ];
        fails.extend(forbidden);
        Atom { holds, fails }
    }
}

impl super::super::model::List {
    fn values(&self) -> Vec<Json> {
        match self {
            Self::Strings(texts) => texts.iter().map(|text| Json::from(&**text)).collect(),
            Self::Values(values) => values.clone(),
        }
    }
}
