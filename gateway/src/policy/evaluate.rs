//! Policy evaluation.

use std::cmp::Ordering;

use actpass_protocol::Json;

use super::Policy;
use super::index::Index;
use super::model::{Bound, Comparison, Condition, Decision, List, Path, Relation, Root, Rule, Test};

/// Input of an evaluation. `None` means that the path is missing. Outside `args` and `passport`,
/// pass a JSON `null` member as `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Input<'a> {
    /// The agent, as resolved by the gateway.
    pub agent_id: Option<&'a Json>,
    /// The arguments of the action.
    pub args: Option<&'a Json>,
    /// The goal of the agent.
    pub goal: Option<&'a Json>,
    /// The claims of a verified passport.
    pub passport: Option<&'a Json>,
    /// The affected resource.
    pub resource: Option<&'a Json>,
    /// The risk tier of a verified passport.
    pub risk_tier: Option<&'a Json>,
    /// The tool to call.
    pub tool: Option<&'a Json>,
    /// The user on whose behalf the agent acts.
    pub user_id: Option<&'a Json>,
}

impl<'a> Input<'a> {
    /// Returns the input that has the values of `member`.
    pub(super) fn of(member: impl Fn(Root) -> Option<&'a Json>) -> Self {
        Self {
            agent_id: member(Root::AgentId),
            args: member(Root::Args),
            goal: member(Root::Goal),
            passport: member(Root::Passport),
            resource: member(Root::Resource),
            risk_tier: member(Root::RiskTier),
            tool: member(Root::Tool),
            user_id: member(Root::UserId),
        }
    }

    /// Returns the value of a top-level path.
    #[inline]
    pub(super) const fn member(&self, root: Root) -> Option<&'a Json> {
        match root {
            Root::AgentId => self.agent_id,
            Root::Args => self.args,
            Root::Goal => self.goal,
            Root::Passport => self.passport,
            Root::Resource => self.resource,
            Root::RiskTier => self.risk_tier,
            Root::Tool => self.tool,
            Root::UserId => self.user_id,
        }
    }
}

impl Policy {
    /// Returns the first rule whose conditions all hold, with every history condition false; `None`
    /// means deny.
    pub fn first_match(&self, input: &Input<'_>) -> Option<&Rule> {
        self.first_match_if(&mut Values::of(self, input), |_| false)
    }

    /// Returns the first rule whose conditions all hold; `None` means deny. `history_holds` states
    /// for a rule with history conditions whether all of them are true.
    pub fn first_match_if(
        &self,
        values: &mut Values<'_, '_>,
        history_holds: impl Fn(&Rule) -> bool,
    ) -> Option<&Rule> {
        self.first(values, history_holds).map(|(_, rule)| rule)
    }

    /// Returns whether a rule may permit `tool`, with or without an approval, for some other
    /// values of the action. `false` is certain, `true` is not.
    pub fn may_permit(&self, tool: &str) -> bool {
        let tool = Json::from(tool);
        let input = Input { tool: Some(&tool), ..Input::default() };
        let mut values = Values::of(self, &input);
        let is_of_tool = |path: usize| self.paths.get(path).is_some_and(|path| path.root == Root::Tool);
        for rule in &self.rules {
            let is_decided = |condition: &Condition| {
                is_of_tool(condition.path)
                    && match &condition.test {
                        Test::Compare(_, other) => is_of_tool(*other),
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
                        | Test::StartsWith(_) => true,
                    }
            };
            let (decided, open): (Vec<_>, Vec<_>) =
                rule.when.iter().partition(|condition| is_decided(condition));
            if !decided.iter().all(|condition| condition.holds(&mut values)) {
                continue;
            }
            match rule.decision {
                Decision::Allow | Decision::RequireApproval => return true,
                Decision::Deny if open.is_empty() && rule.histories.is_empty() => return false,
                Decision::Deny => {}
            }
        }
        false
    }

    /// Returns the history conditions of rules whose other conditions all hold, up to the first such
    /// rule without history conditions. They may repeat.
    pub(super) fn relevant_histories(&self, values: &mut Values<'_, '_>) -> Vec<usize> {
        let end = self.first(values, |_| false).map_or(usize::MAX, |(number, _)| number);
        let mut relevant = Vec::new();
        let mut collect = |candidates: &[usize], values: &mut Values<'_, '_>| {
            for number in candidates.iter().take_while(|number| **number < end) {
                let rule = self.rules.get(*number).filter(|rule| !rule.histories.is_empty());
                if let Some(rule) = rule
                    && rule.when.iter().all(|condition| condition.holds(values))
                {
                    relevant.extend(&rule.histories);
                }
            }
        };
        self.index.visit(values, |candidates, values| collect(candidates, values));
        relevant
    }

    #[inline]
    fn first(
        &self,
        values: &mut Values<'_, '_>,
        history_holds: impl Fn(&Rule) -> bool,
    ) -> Option<(usize, &Rule)> {
        let mut first = None;
        self.index.visit(values, |candidates, values| {
            first = self.earliest(candidates, values, &history_holds, first);
        });
        first
    }

    /// Returns the first matching rule among the ordered `candidates`, unless `known` precedes it.
    #[inline]
    fn earliest<'p>(
        &'p self,
        candidates: &[usize],
        values: &mut Values<'_, '_>,
        history_holds: &impl Fn(&Rule) -> bool,
        known: Option<(usize, &'p Rule)>,
    ) -> Option<(usize, &'p Rule)> {
        let end = known.map_or(usize::MAX, |(number, _)| number);
        let mut before = candidates.iter().take_while(|number| **number < end);
        let found = before.find_map(|number| {
            let rule = self.rules.get(*number)?;
            let holds = rule.when.iter().all(|condition| condition.holds(values))
                && (rule.histories.is_empty() || history_holds(rule));
            holds.then_some((*number, rule))
        });
        found.or(known)
    }
}

impl Index {
    /// Calls `visit` with each list of candidates for these values.
    pub(super) fn visit<'i>(
        &'i self,
        values: &mut Values<'_, '_>,
        mut visit: impl FnMut(&'i [usize], &mut Values<'_, '_>),
    ) {
        for table in &self.tables {
            if let Some(text) = values.at(table.path).and_then(Json::as_str) {
                for candidates in table.candidates(text) {
                    visit(candidates, values);
                }
            }
        }
        visit(&self.rest, values);
    }
}

/// The values of an input at a policy's paths. Each path is resolved once, on first use, so that large
/// requests and many rules do not multiply. Use it with the policy that it was made for.
#[derive(Debug)]
pub struct Values<'p, 'a> {
    paths: &'p [Path],
    input: &'p Input<'a>,
    found: Vec<Option<Option<&'a Json>>>,
}

impl<'p, 'a> Values<'p, 'a> {
    /// The values of `input` for the rules, budgets and histories of `policy`.
    pub fn of(policy: &'p Policy, input: &'p Input<'a>) -> Self {
        Self { paths: &policy.paths, input, found: vec![None; policy.paths.len()] }
    }

    #[inline]
    pub(super) fn at(&mut self, index: usize) -> Option<&'a Json> {
        let found = self.found.get_mut(index)?;
        if let Some(value) = found {
            return *value;
        }
        let value = self.paths.get(index).and_then(|path| path.walk(self.input));
        *found = Some(value);
        value
    }
}

impl Path {
    #[inline]
    pub(super) fn walk<'a>(&self, input: &Input<'a>) -> Option<&'a Json> {
        let root = input.member(self.root)?;
        self.segments.iter().try_fold(root, |value, segment| match value {
            Json::Object(_) => value.member(&segment.name),
            Json::Array(items) => items.get(segment.index?),
            Json::Bool(_) | Json::Null | Json::Number(_) | Json::String(_) => None,
        })
    }
}

impl Condition {
    #[inline]
    pub(super) fn holds(&self, values: &mut Values<'_, '_>) -> bool {
        let actual = values.at(self.path);
        let Test::Compare(comparison, other) = &self.test else {
            return self.test.holds(actual);
        };
        match (actual, values.at(*other)) {
            (Some(actual), Some(other)) => comparison.holds(actual, other),
            (_, None) | (None, _) => false,
        }
    }
}

impl Comparison {
    #[inline]
    pub(super) fn holds(self, actual: &Json, other: &Json) -> bool {
        let texts = || Some((actual.as_str()?, other.as_str()?));
        // As in a literal list, all items must have the value's type.
        let items = || match other {
            Json::Array(items) if items.iter().all(|item| same_type(actual, item)) => Some(items),
            Json::Array(_)
            | Json::Bool(_)
            | Json::Null
            | Json::Number(_)
            | Json::Object(_)
            | Json::String(_) => None,
        };
        let has = |items: &Vec<Json>| items.iter().any(|item| actual.same_value(item));
        match self {
            Self::Contains => contains(actual, other),
            Self::EndsWith => texts().is_some_and(|(text, end)| text.ends_with(end)),
            Self::Equal => actual.same_value(other),
            Self::In => items().is_some_and(has),
            Self::NotEqual => same_type(actual, other) && !actual.same_value(other),
            Self::NotIn => items().is_some_and(|items| !has(items)),
            Self::Order(relation) => order(actual, other).is_some_and(|order| relation.holds(order)),
            Self::StartsWith => texts().is_some_and(|(text, start)| text.starts_with(start)),
        }
    }
}

/// Compares two numbers or two strings; `None` for anything else.
fn order(a: &Json, b: &Json) -> Option<Ordering> {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => Some(a.compare(b)),
        (Json::String(a), Json::String(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

impl Test {
    /// Returns whether the test holds for a value. Comparisons with another path are false here.
    #[inline]
    pub(super) fn holds(&self, actual: Option<&Json>) -> bool {
        let Some(actual) = actual else {
            return matches!(self, Self::Exists(false));
        };
        match self {
            Self::Compare(..) => false,
            Self::Contains(part) => contains(actual, part),
            Self::EndsWith(end) => actual.as_str().is_some_and(|text| text.ends_with(end)),
            Self::Equal(value) => actual.same_value(value),
            Self::Exists(expected) => *expected,
            Self::HasOnly(names) => {
                actual.as_object().is_some_and(|members| members.iter().all(|(name, _)| names.contains(name)))
            }
            Self::In(list) => list.holds(actual) == Some(true),
            Self::Matches(pattern) => actual.as_str().is_some_and(|text| pattern.is_match(text)),
            Self::NotEqual(value) => same_type(actual, value) && !actual.same_value(value),
            Self::NotIn(list) => list.holds(actual) == Some(false),
            Self::Order(relation, bound) => bound.order(actual).is_some_and(|order| relation.holds(order)),
            Self::StartsWith(start) => actual.as_str().is_some_and(|text| text.starts_with(start)),
        }
    }
}

impl Relation {
    pub(super) fn holds(self, order: Ordering) -> bool {
        match self {
            Self::AtLeast => order.is_ge(),
            Self::AtMost => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::Less => order.is_lt(),
        }
    }
}

impl Bound {
    /// Compares `actual` with the bound; `None` for another type.
    fn order(&self, actual: &Json) -> Option<Ordering> {
        match (self, actual) {
            (Self::Number(bound), Json::Number(actual)) => Some(actual.compare(bound)),
            (Self::Text(bound), Json::String(actual)) => Some(actual.as_str().cmp(bound)),
            (Self::Number(_) | Self::Text(_), _) => None,
        }
    }
}

impl List {
    /// Returns whether `actual` is in the list; `None` for another type.
    fn holds(&self, actual: &Json) -> Option<bool> {
        match self {
            Self::Strings(texts) => actual.as_str().map(|text| texts.contains(text)),
            Self::Values(values) => same_type(actual, values.first()?)
                .then(|| values.iter().any(|value| actual.same_value(value))),
        }
    }
}

/// Returns whether a string contains a substring, or an array an item.
fn contains(whole: &Json, part: &Json) -> bool {
    match (whole, part) {
        (Json::Array(items), _) => items.iter().any(|item| item.same_value(part)),
        (Json::String(whole), Json::String(part)) => whole.contains(part.as_str()),
        (Json::Bool(_) | Json::Null | Json::Number(_) | Json::Object(_) | Json::String(_), _) => false,
    }
}

pub(super) fn same_type(a: &Json, b: &Json) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}
