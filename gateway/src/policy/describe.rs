//! Descriptions of a policy's conditions for people.

use std::fmt;

use actpass_protocol::Json;

use super::Policy;
use super::evaluate::Values;
use super::model::{Bound, Comparison, Condition, List, Relation, Root, Rule, Test};

/// Maximum number of names or values of a list that a description contains.
const MAX_ITEMS: usize = 8;

impl Policy {
    /// Returns the rule with this name.
    pub fn rule(&self, name: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.name == name)
    }

    /// Describes the conditions of a rule, one a line, as `args.amount > 10000`. Long lists are cut.
    pub fn describe(&self, rule: &Rule) -> Vec<String> {
        let conditions = rule.when.iter().map(|condition| {
            let path = |index: usize| self.paths.get(index).map(ToString::to_string).unwrap_or_default();
            let other = condition.test.other_path().map(|other| format!(" {}", path(other)));
            format!("{} {}{}", path(condition.path), condition.test, other.unwrap_or_default())
        });
        let histories = match rule.histories.len() {
            0 => None,
            1 => Some("1 condition on earlier actions".to_owned()),
            count => Some(format!("{count} conditions on earlier actions")),
        };
        conditions.chain(histories).collect()
    }

    /// Returns the arguments that the policy reads: path and value, those of the conditions of `rule`
    /// first, then those of budgets, then others, without duplicates. Paths of the whole `args` and
    /// missing values are omitted.
    pub fn arguments_read<'a>(
        &self,
        values: &mut Values<'_, 'a>,
        rule: Option<&Rule>,
    ) -> Vec<(String, &'a Json)> {
        let of_conditions = |conditions: &[Condition]| -> Vec<usize> {
            let paths = conditions.iter().flat_map(|condition| {
                let other = condition.test.other_path();
                [Some(condition.path), other].into_iter().flatten()
            });
            paths.collect()
        };
        let mut order = rule.map(|rule| of_conditions(&rule.when)).unwrap_or_default();
        for budget in &self.budgets {
            order.extend(budget.measure.path());
            order.extend(&budget.per);
            order.extend(of_conditions(&budget.when));
        }
        order.extend(0..self.paths.len());
        let mut seen = vec![false; self.paths.len()];
        let mut found = Vec::new();
        for index in order {
            let Some(seen) = seen.get_mut(index).filter(|seen| !**seen) else { continue };
            *seen = true;
            let path = self.paths.get(index);
            let path = path.filter(|path| path.root == Root::Args && !path.segments.is_empty());
            if let (Some(path), Some(value)) = (path, values.at(index)) {
                found.push((path.to_string(), value));
            }
        }
        found
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Contains => "contains",
            Self::EndsWith => "ends_with",
            Self::Equal => "==",
            Self::In => "in",
            Self::NotEqual => "!=",
            Self::NotIn => "not_in",
            Self::Order(relation) => relation.as_str(),
            Self::StartsWith => "starts_with",
        })
    }
}

impl Relation {
    const fn as_str(self) -> &'static str {
        match self {
            Self::AtLeast => ">=",
            Self::AtMost => "<=",
            Self::Greater => ">",
            Self::Less => "<",
        }
    }
}

impl Test {
    /// Index of the path that it compares with.
    fn other_path(&self) -> Option<usize> {
        if let Self::Compare(_, other) = self { Some(*other) } else { None }
    }
}

/// Formats the operator and the value. A comparison with another path formats without that path.
impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &str| Json::from(text).to_string();
        match self {
            Self::Compare(comparison, _) => write!(f, "{comparison}"),
            Self::Contains(value) => write!(f, "contains {value}"),
            Self::EndsWith(end) => write!(f, "ends_with {}", text(end)),
            Self::Equal(value) => write!(f, "== {value}"),
            Self::Exists(exists) => write!(f, "exists {exists}"),
            Self::HasOnly(names) => write!(f, "has_only {}", items(names.iter().map(|name| text(name)))),
            Self::In(list) => write!(f, "in {list}"),
            Self::Matches(pattern) => write!(f, "matches {}", text(pattern.as_str())),
            Self::NotEqual(value) => write!(f, "!= {value}"),
            Self::NotIn(list) => write!(f, "not_in {list}"),
            Self::Order(relation, Bound::Number(number)) => {
                write!(f, "{} {}", relation.as_str(), number.as_str())
            }
            Self::Order(relation, Bound::Text(bound)) => write!(f, "{} {}", relation.as_str(), text(bound)),
            Self::StartsWith(start) => write!(f, "starts_with {}", text(start)),
        }
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&match self {
            Self::Strings(strings) => items(strings.iter().map(|item| Json::from(&**item).to_string())),
            Self::Values(values) => items(values.iter().map(ToString::to_string)),
        })
    }
}

/// Formats items in a fixed order.
fn items(items: impl Iterator<Item = String>) -> String {
    let mut items: Vec<_> = items.collect();
    items.sort_unstable();
    let more = items.len().saturating_sub(MAX_ITEMS);
    items.truncate(MAX_ITEMS);
    if more > 0 {
        items.push(format!("and {more} more"));
    }
    format!("[{}]", items.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::Input;
    use super::*;

    const POLICY: &str = r#"{"id": "p", "version": 1, "rules": [
        {"name": "r", "decision": "require_approval", "reason": "r", "when": [
            {"path": "tool", "operator": "in", "value": ["b", "a"]},
            {"path": "args.amount", "operator": ">", "value": 10000},
            {"path": "args.to", "operator": "!=", "value_path": "args.from"},
            {"path": "args", "operator": "has_only", "value": ["z", "y", "x", "w", "v", "u", "t", "s", "r"]}]},
        {"name": "s", "decision": "deny", "reason": "s", "when": [
            {"path": "args.note", "operator": "exists", "value": true},
            {"path": "args.amount", "operator": "<=", "value": 5}]}],
      "budgets": [{"name": "b", "when": [], "per": ["args.customer"], "sum": "args.total", "limit": 5,
        "window": "1h", "on_exceed": "deny", "reason": "over"}]}"#;

    #[test]
    fn conditions_read_as_in_the_policy() {
        let policy = Policy::parse(POLICY.as_bytes()).unwrap();
        assert_eq!(
            policy.describe(policy.rule("r").unwrap()),
            [
                r#"tool in ["a", "b"]"#,
                "args.amount > 10000",
                "args.to != args.from",
                r#"args has_only ["r", "s", "t", "u", "v", "w", "x", "y", and 1 more]"#,
            ]
        );
        assert!(policy.rule("none").is_none());
    }

    #[test]
    fn the_arguments_of_the_rule_come_first() {
        let policy = Policy::parse(POLICY.as_bytes()).unwrap();
        let args = Json::parse(br#"{"total": 1, "note": null, "from": "a", "amount": 3, "customer": "c"}"#);
        let args = args.unwrap();
        let input = Input { args: Some(&args), ..Input::default() };
        let names = |rule: Option<&Rule>| -> Vec<String> {
            policy
                .arguments_read(&mut Values::of(&policy, &input), rule)
                .into_iter()
                .map(|(path, _)| path)
                .collect()
        };
        let (rest, rule) = (["args.total", "args.customer"], policy.rule("r"));
        assert_eq!(names(rule), ["args.amount", "args.from", rest[0], rest[1], "args.note"]);
        assert_eq!(names(policy.rule("s")), ["args.note", "args.amount", rest[0], rest[1], "args.from"]);
        assert_eq!(names(None)[..2], rest);
    }
}
