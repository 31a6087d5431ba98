use actpass_protocol::{Json, hash_payload};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::index::Index;
use super::{Cases, Input, Policy, Values};
use crate::history::Truth;

/// Whether the condition holds for these arguments.
fn holds(path: &str, operator: &str, value: &str, args: &str) -> bool {
    let text = format!(
        r#"{{"id": "p", "version": 1, "rules": [{{
            "name": "r", "when": [{{"path": "{path}", "operator": "{operator}", "value": {value}}}],
            "decision": "allow", "reason": "r"}}]}}"#
    );
    let policy = Policy::parse(text.as_bytes()).unwrap();
    let args = Json::parse(args.as_bytes()).unwrap();
    policy.first_match(&Input { args: Some(&args), ..Input::default() }).is_some()
}

/// Checks each `(operator, value, actual, holds)` on `args.x`.
fn check(table: &[(&str, &str, &str, bool)]) {
    for (operator, value, actual, expected) in table {
        let found = holds("args.x", operator, value, &format!(r#"{{"x": {actual}}}"#));
        assert_eq!(found, *expected, "{actual} {operator} {value}");
    }
}

#[test]
fn equality() {
    check(&[
        ("==", "1", "1", true),
        ("==", "1", "1.0", true),
        ("==", "1", "10e-1", true),
        ("==", "1", "2", false),
        ("==", "0", "-0", true),
        ("==", "\"a\"", "\"a\"", true),
        ("==", "\"a\"", "\"A\"", false),
        ("==", "true", "true", true),
        ("==", "null", "null", true),
        ("==", "[1, 2]", "[1.0, 2]", true),
        ("==", "[1, 2]", "[2, 1]", false),
        ("==", r#"{"a": 1, "b": 2}"#, r#"{"b": 2, "a": 1}"#, true),
        ("!=", "1", "2", true),
        ("!=", "1", "1.0", false),
        ("!=", "\"a\"", "\"b\"", true),
        ("!=", "[1]", "[2]", true),
    ]);
}

#[test]
fn order() {
    check(&[
        ("<", "10", "9", true),
        ("<", "10", "10", false),
        ("<=", "10", "10.0", true),
        ("<=", "10", "10.000000000000000000001", false),
        (">", "10", "11", true),
        (">", "10", "10", false),
        (">", "9", "10", true),
        (">=", "10", "10", true),
        (">=", "-1", "-2", false),
        ("<", "\"b\"", "\"a\"", true),
        (">", "\"9\"", "\"10\"", false),
        (">=", "\"a\"", "\"a\"", true),
    ]);
}

#[test]
fn lists() {
    check(&[
        ("in", r#"["a", "b"]"#, "\"b\"", true),
        ("in", r#"["a", "b"]"#, "\"c\"", false),
        ("in", "[1, 2]", "2.0", true),
        ("in", "[[1], [2]]", "[2]", true),
        ("not_in", r#"["a", "b"]"#, "\"c\"", true),
        ("not_in", r#"["a", "b"]"#, "\"a\"", false),
        ("not_in", "[1, 2]", "3", true),
        ("not_in", "[1, 2]", "2", false),
    ]);
}

#[test]
fn texts() {
    check(&[
        ("contains", "\"b\"", "\"abc\"", true),
        ("contains", "\"B\"", "\"abc\"", false),
        ("contains", "\"b\"", r#"["a", "b"]"#, true),
        ("contains", "1", "[2, 1.0]", true),
        ("contains", "\"b\"", r#"["abc"]"#, false),
        ("contains", "\"b\"", r#"{"b": 1}"#, false),
        ("starts_with", "\"ab\"", "\"abc\"", true),
        ("starts_with", "\"bc\"", "\"abc\"", false),
        ("ends_with", "\"bc\"", "\"abc\"", true),
        ("ends_with", "\"ab\"", "\"abc\"", false),
        ("matches", "\"b+\"", "\"abbc\"", true),
        ("matches", "\"^b+$\"", "\"abbc\"", false),
        ("matches", "\"^b+$\"", "\"bb\\n\"", false),
    ]);
}

#[test]
fn exists() {
    check(&[
        ("exists", "true", "null", true),
        ("exists", "true", "1", true),
        ("exists", "false", "null", false),
    ]);
    assert!(holds("args.y", "exists", "false", "{}"));
    assert!(!holds("args.y", "exists", "true", "{}"));
}

const ALL: [(&str, &str); 12] = [
    ("==", "1"),
    ("!=", "1"),
    ("<", "1"),
    ("<=", "1"),
    (">", "1"),
    (">=", "1"),
    ("in", "[1]"),
    ("not_in", "[1]"),
    ("contains", "\"1\""),
    ("starts_with", "\"1\""),
    ("ends_with", "\"1\""),
    ("matches", "\"1\""),
];

#[test]
fn missing_path_fails_every_operator() {
    for (operator, value) in ALL {
        for args in ["{}", r#"{"x": {}}"#, r#"{"x": []}"#, r#"{"x": 1}"#, r#"{"x": {"Y": 1}}"#] {
            assert!(!holds("args.x.y", operator, value, args), "{operator} {args}");
        }
    }
}

#[test]
fn type_mismatch_fails_every_operator() {
    let others = ["null", "true", r#""1""#, r#"{"x": 1}"#, "1", "[2]"];
    for (operator, value) in ALL {
        let value_kind = Json::parse(value.as_bytes()).unwrap().kind();
        for other in others {
            let kind = Json::parse(other.as_bytes()).unwrap().kind();
            let comparable = match operator {
                "in" | "not_in" => kind == "a number",
                "contains" => kind == "a string" || kind == "an array",
                _ => kind == value_kind,
            };
            if !comparable {
                check(&[(operator, value, other, false)]);
            }
        }
    }
    check(&[("!=", "\"1\"", "1", false), ("!=", "null", "1", false), ("not_in", r#"["1"]"#, "1", false)]);
}

#[test]
fn numbers_compare_exactly_at_any_length() {
    check(&[
        ("==", "9007199254740993", "9007199254740993", true),
        ("==", "9007199254740993", "9007199254740992", false),
        ("<=", "9007199254740992", "9007199254740993", false),
        ("<", "9007199254740993", "9007199254740992", true),
        ("<", "0.1000000000000000055", "0.1", true),
        ("==", "9007199254740991", "9007199254740991.0", true),
        ("==", "9007199254740991", "9007199254740992", false),
        ("<=", "9007199254740991", "9007199254740992", false),
        (">", "9007199254740991", "9007199254740992", true),
        ("<=", "1e22", "10000000000000000000000", true),
        ("<=", "1e22", "10000000000000000000001", false),
        ("==", "0.1", "0.1000000000000000055511151231257827", false),
        ("==", "9223372036854776000.0", "9223372036854776000", true),
        ("==", "9223372036854776000.0", "9223372036854775808", false),
    ]);
}

#[test]
fn paths_resolve_members_and_indexes() {
    let args = r#"{"list": [{"id": 7}, {"id": 8}], "0": "zero", "": 1, "01": "x"}"#;
    assert!(holds("args.list.1.id", "==", "8", args));
    assert!(holds("args.0", "==", "\"zero\"", args));
    assert!(holds("args.01", "==", "\"x\"", args));
    for missing in ["args.list.2.id", "args.list.01.id", "args.list.-1.id", "args.list.+1.id", "args.list.id"]
    {
        assert!(!holds(missing, "exists", "true", args), "{missing}");
    }
}

#[test]
fn first_matching_rule_decides() {
    let policy = Policy::parse(
        br#"{"id": "p", "version": "2026-01", "rules": [
            {"name": "a", "when": [{"path": "tool", "operator": "==", "value": "x"},
                                   {"path": "agent_id", "operator": "==", "value": "bot"}],
             "decision": "deny", "reason": "a"},
            {"name": "b", "when": [{"path": "tool", "operator": "==", "value": "x"}],
             "decision": "require_approval", "reason": "b", "risk_tier": "low", "next_steps": ["ask"]},
            {"name": "c", "when": [], "decision": "allow", "reason": "c"}]}"#,
    )
    .unwrap();
    let (tool, other, bot) = (Json::from("x"), Json::from("y"), Json::from("bot"));
    let name = |input: Input<'_>| policy.first_match(&input).map(|rule| rule.name().to_owned());
    let tool = Input { tool: Some(&tool), ..Input::default() };
    assert_eq!(name(Input { agent_id: Some(&bot), ..tool }).as_deref(), Some("a"));
    assert_eq!(name(tool).as_deref(), Some("b"));
    assert_eq!(name(Input { tool: Some(&other), ..tool }).as_deref(), Some("c"));
    assert_eq!(policy.rules().len(), 3);
    assert_eq!(policy.version(), &Json::from("2026-01"));
}

#[test]
fn policy_hash_ignores_formatting() {
    let hash = |text: &str| Policy::parse(text.as_bytes()).unwrap().hash().to_owned();
    let one = hash(r#"{"id": "p", "version": 1, "rules": []}"#);
    assert_eq!(one, hash(r#"{"rules":[],"version":1,"id":"p"}"#));
    assert_ne!(one, hash(r#"{"rules":[],"version":2,"id":"p"}"#));
    assert_eq!(
        one,
        hash_payload(&Json::parse(br#"{"id": "p", "version": 1, "rules": []}"#).unwrap()).unwrap()
    );
}

#[test]
fn policy_hash_distinguishes_numbers_beyond_double_precision() {
    for (one, other) in [("9007199254740992", "9007199254740993"), ("0.1", "0.1000000000000000055")] {
        let text = |first: &str, second: &str| {
            let rule = |name: &str, value: &str| {
                format!(
                    r#"{{"name":"{name}","when":[{{"path":"args.x","operator":"==","value":{value}}}],"decision":"deny","reason":"r"}}"#
                )
            };
            format!(r#"{{"id":"p","version":1,"rules":[{},{}]}}"#, rule("a", first), rule("b", second))
        };
        let both = Policy::parse(text(one, other).as_bytes()).unwrap();
        let swapped = Policy::parse(text(other, one).as_bytes()).unwrap();
        assert_ne!(both.hash(), swapped.hash());
        assert!(Policy::parse(text(other, other).as_bytes()).unwrap_err().to_string().contains("b"));
    }
}

/// Returns a policy with one rule.
fn rule(when: &str, rest: &str) -> String {
    format!(r#"{{"id": "p", "version": 1, "rules": [{{"name": "r", "when": {when}{rest}}}]}}"#)
}

fn condition(path: &str, operator: &str, value: &str) -> String {
    let when = format!(r#"[{{"path": "{path}", "operator": "{operator}", "value": {value}}}]"#);
    rule(&when, r#", "decision": "allow", "reason": "x""#)
}

#[test]
fn each_policy_problem_is_named() {
    let ok = r#", "decision": "allow", "reason": "x""#;
    let table: Vec<(String, &str)> = vec![
        ("{".to_owned(), "policy: not JSON"),
        ("[]".to_owned(), "policy: expected an object, found an array"),
        (
            r#"{"id": "p", "id": "q", "version": 1, "rules": []}"#.to_owned(),
            "duplicate key \"id\" in an object",
        ),
        (r#"{"version": 1, "rules": []}"#.to_owned(), "id: missing"),
        (r#"{"id": "", "version": 1, "rules": []}"#.to_owned(), "id: expected a non-empty string"),
        (r#"{"id": "p", "rules": []}"#.to_owned(), "version: missing"),
        (r#"{"id": "p", "version": 0, "rules": []}"#.to_owned(), "version: expected a positive integer"),
        (r#"{"id": "p", "version": 1.5, "rules": []}"#.to_owned(), "version: expected a positive integer"),
        (r#"{"id": "p", "version": "", "rules": []}"#.to_owned(), "version: expected a positive integer"),
        (r#"{"id": "p", "version": 1}"#.to_owned(), "rules: missing"),
        (r#"{"id": "p", "version": 1, "rules": {}}"#.to_owned(), "rules: expected an array"),
        (r#"{"id": "p", "version": 1, "rules": [], "x": 1}"#.to_owned(), "policy: unknown member \"x\""),
        (r#"{"id": "p", "version": 1, "rules": [7]}"#.to_owned(), "rules[0]: expected an object"),
        (r#"{"id": "p", "version": 1, "rules": [{}]}"#.to_owned(), "rules[0]: name: missing"),
        (rule("[]", r#", "decision": "allow""#), "rule \"r\": reason: missing"),
        (rule("[]", r#", "reason": "x""#), "rule \"r\": decision: missing"),
        (rule("[]", r#", "reason": "x", "decision": "warn""#), "rule \"r\": decision: expected one of allow"),
        (
            rule("[]", r#", "decision": "allow", "reason": 1"#),
            "rule \"r\": reason: expected a non-empty string",
        ),
        (rule("[]", &format!(r#"{ok}, "risk_tier": "huge""#)), "rule \"r\": risk_tier: expected one of low"),
        (rule("[]", &format!(r#"{ok}, "next_steps": "x""#)), "rule \"r\": next_steps: expected an array"),
        (rule("[]", &format!(r#"{ok}, "next_steps": [1]"#)), "rule \"r\": next_steps[0]: expected"),
        (rule("[]", &format!(r#"{ok}, "desicion": "deny""#)), "rule \"r\": unknown member \"desicion\""),
        (rule("{}", ok), "rule \"r\": when: expected an array"),
        (rule(r#"[{"path": "tool", "operator": "=="}]"#, ok), "rule \"r\": when[0].value: missing"),
        (rule(r#"[{"path": "tool", "value": 1}]"#, ok), "rule \"r\": when[0].operator: missing"),
        (rule(r#"[{"operator": "==", "value": 1}]"#, ok), "rule \"r\": when[0].path: missing"),
        (
            rule(r#"[{"path": "tool", "operator": "==", "value": 1, "not": true}]"#, ok),
            "rule \"r\": when[0]: unknown member \"not\"",
        ),
        (condition("tool", "~", "1"), "rule \"r\": when[0].operator: unknown operator \"~\""),
        (condition("tool", "matches", "\"(\""), "rule \"r\": when[0].value: invalid pattern: unclosed group"),
        (
            condition("tool", "matches", r#""(a{1000}){1000}""#),
            "when[0].value: invalid pattern: Compiled regex",
        ),
        (condition("tool", "matches", "1"), "when[0].value: expected a string, found a number"),
        (condition("tool", "<", "true"), "when[0].value: expected a number or a string, found a boolean"),
        (condition("tool", "exists", "1"), "when[0].value: expected true or false, found a number"),
        (condition("tool", "in", "[]"), "when[0].value: expected at least one item"),
        (condition("tool", "not_in", "[1, \"a\"]"), "when[0].value: expected items of one type"),
        (condition("tool", "in", "\"a\""), "when[0].value: expected an array, found a string"),
        (condition("tools", "==", "1"), "when[0].path: unknown path root \"tools\""),
        (condition("args..x", "==", "1"), "when[0].path: the path \"args..x\" has an empty segment"),
        (condition("tool.name", "==", "1"), "never exists: tool is a string"),
    ];
    for (text, expected) in table {
        let problems = Policy::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(problems.contains(expected), "{text}\nexpected: {expected}\nfound:    {problems}");
    }
}

#[test]
fn reports_all_policy_problems_at_once() {
    let text = r#"{"id": 1, "version": 1, "rules": [
        {"name": "a", "when": [{"path": "x", "operator": "?", "value": 1}], "decision": "no", "reason": ""},
        {"name": "a", "when": 1, "decision": "allow", "reason": "x"}]}"#;
    let problems = Policy::parse(text.as_bytes()).unwrap_err();
    for expected in [
        "id:",
        "when[0].path",
        "when[0].operator",
        "decision:",
        "reason:",
        "name: duplicate",
        "when: expected",
    ] {
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected} not in\n{problems}");
    }
    assert_eq!(problems.len(), 7, "{problems}");
}

/// Returns a policy with rules `r0`, `r1`, … and these conditions `(path, operator, value)`.
fn rules(rules: &[&[(&str, &str, &str)]]) -> String {
    let rules: Vec<_> = rules
        .iter()
        .enumerate()
        .map(|(index, conditions)| {
            let when: Vec<_> = conditions
                .iter()
                .map(|(path, op, value)| {
                    format!(r#"{{"path": "{path}", "operator": "{op}", "value": {value}}}"#)
                })
                .collect();
            format!(
                r#"{{"name": "r{index}", "when": [{}], "decision": "allow", "reason": "x"}}"#,
                when.join(", ")
            )
        })
        .collect();
    format!(r#"{{"id": "p", "version": 1, "rules": [{}]}}"#, rules.join(", "))
}

#[test]
fn rejects_unreachable_rules() {
    let (a, b, c) = (("tool", "==", "\"a\""), ("args.x", "<", "1"), ("args.y", "<", "1"));
    let b_spelled_otherwise = ("args.x", "<", "1.0");
    let found = |list: &[&[(&str, &str, &str)]]| match Policy::parse(rules(list).as_bytes()) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(str::to_owned).collect(),
    };
    let unreachable = |late: &str, early: &str| {
        format!("rule {late:?}: unreachable: the earlier rule {early:?} matches whenever this one does")
    };
    assert_eq!(found(&[&[a], &[a]]), [unreachable("r1", "r0")]);
    assert_eq!(found(&[&[a, b], &[b_spelled_otherwise, c, a]]), [unreachable("r1", "r0")]);
    assert_eq!(found(&[&[c], &[], &[a], &[b]]), [unreachable("r2", "r1"), unreachable("r3", "r1")]);
    assert_eq!(found(&[&[a, a], &[a]]), [unreachable("r1", "r0")]);
    assert!(found(&[&[a, b], &[a, c], &[a], &[b, c], &[]]).is_empty());
}

#[test]
fn finds_tools_that_no_rule_permits() {
    let rule = |decision: &str, when: &str| {
        format!(r#"{{"name": "RULE", "when": [{when}], "decision": "{decision}", "reason": "r"}}"#)
    };
    let permits = |rules: &[(&str, &str)]| {
        let rules: Vec<_> = rules
            .iter()
            .enumerate()
            .map(|(at, (decision, when))| rule(decision, when).replace("RULE", &at.to_string()))
            .collect();
        let text = format!(r#"{{"id": "p", "version": 1, "rules": [{}]}}"#, rules.join(","));
        Policy::parse(text.as_bytes()).unwrap().may_permit("fs.read")
    };
    let condition = |path: &str, operator: &str, value: &str| {
        format!(r#"{{"path": "{path}", "operator": "{operator}", "value": {value}}}"#)
    };
    let is = condition("tool", "==", "\"fs.read\"");
    let other = condition("tool", "starts_with", "\"mail.\"");
    let small = condition("args.amount", "<=", "5");
    let both = format!("{is}, {small}");
    for (rules, expected) in [
        (&[][..], false),
        (&[("allow", &*is)], true),
        (&[("require_approval", &is)], true),
        (&[("allow", &both)], true),
        (&[("deny", &is)], false),
        (&[("allow", &other)], false),
        (&[("allow", "")], true),
        (&[("deny", &is), ("allow", "")], false),
        (&[("deny", &both), ("allow", &is)], true),
        (&[("deny", &other), ("allow", &is)], true),
        (&[("allow", &condition("tool", "in", "[\"fs.write\"]"))], false),
        (&[("allow", &condition("tool", "matches", "\"^fs[.]\""))], true),
        (&[("allow", r#"{"path": "tool", "operator": "==", "value_path": "args.tool"}"#)], true),
    ] {
        assert_eq!(permits(rules), expected, "{rules:?}");
    }
}

#[test]
fn evaluates_ten_thousand_rules() {
    let tools: Vec<_> = (0..10_000).map(|n| format!("\"tool{n}\"")).collect();
    let shared = ("args.x", "<", "1");
    let lists: Vec<_> = tools.iter().map(|tool| [shared, ("tool", "==", tool.as_str())]).collect();
    let mut lists: Vec<&[_]> = lists.iter().map(|list| list.as_slice()).collect();
    let policy = Policy::parse(rules(&lists).as_bytes()).unwrap();
    let (args, tool) = (Json::parse(br#"{"x": 0}"#).unwrap(), Json::from("tool9999"));
    let input = Input { args: Some(&args), tool: Some(&tool), ..Input::default() };
    assert_eq!(policy.first_match(&input).map(|rule| rule.name()), Some("r9999"));
    assert_eq!(tried(&policy, &input), [9_999]);

    lists.push(lists[5_000]);
    let problems = Policy::parse(rules(&lists).as_bytes()).unwrap_err().to_string();
    assert!(problems.contains("\"r10000\"") && problems.contains("\"r5000\""), "{problems}");
}

/// Returns the evaluated candidate rules, unordered.
fn tried(policy: &Policy, input: &Input<'_>) -> Vec<usize> {
    let candidates = policy.index.tables.iter().flat_map(|table| {
        let text = policy.paths[table.path].walk(input).and_then(Json::as_str);
        text.into_iter().flat_map(|text| table.candidates(text))
    });
    candidates.flatten().chain(&policy.index.rest).copied().collect()
}

#[test]
fn index_uses_distinguishing_condition() {
    let names: Vec<_> = (0..100).map(|n| format!("\"c{n}\"")).collect();
    let one_tool = ("tool", "==", "\"refunds.create\"");
    let lists: Vec<_> = names.iter().map(|name| [one_tool, ("args.customer", "==", name.as_str())]).collect();
    let mut lists: Vec<&[_]> = lists.iter().map(|list| list.as_slice()).collect();
    let some = [("args.customer", "in", r#"["c7", "c8"]"#), ("args.rush", "==", "true")];
    let begins = [("args.customer", "starts_with", "\"c9\""), ("args.rush", "==", "false")];
    let any = [("args.amount", ">", "10000")];
    lists.extend([some.as_slice(), begins.as_slice(), any.as_slice()]);
    let policy = Policy::parse(rules(&lists).as_bytes()).unwrap();
    let tool = Json::from("refunds.create");
    for (customer, expected) in
        [("c7", &[7, 100, 102][..]), ("c95", &[95, 101, 102]), ("c9", &[9, 101, 102]), ("", &[102])]
    {
        let args = Json::Object(vec![("customer".to_owned(), Json::from(customer))]);
        let input = Input { args: Some(&args), tool: Some(&tool), ..Input::default() };
        assert_eq!(tried(&policy, &input), expected, "{customer}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn index_preserves_rule_order(
        conditions in vec(vec(condition_of_any_kind(), 0..4), 0..24),
        inputs in vec((select(TEXTS), select(TEXTS), any_args()), 1..8),
    ) {
        // A distinct, always true condition per rule, so that no rule's conditions include
        // another's.
        let own: Vec<_> = (0..conditions.len()).map(|n| format!("\"{n}\"")).collect();
        let lists: Vec<Vec<_>> = conditions
            .iter()
            .zip(&own)
            .map(|(list, own)| list.iter().copied().chain([("goal", "!=", own.as_str())]).collect())
            .collect();
        let lists: Vec<_> = lists.iter().map(Vec::as_slice).collect();
        let policy = Policy::parse(rules(&lists).as_bytes()).unwrap();
        let rest = (0..conditions.len()).collect();
        let in_order = Policy { index: Index { tables: Vec::new(), rest }, ..policy.clone() };
        let goal = Json::from("goal");
        for (tool, resource, args) in inputs {
            let args = Json::parse(args.as_bytes()).unwrap();
            let (tool, resource) = (Json::from(tool), Json::from(resource));
            for resource in [None, Some(&resource)] {
                let input = Input {
                    args: Some(&args), goal: Some(&goal), resource, tool: Some(&tool), ..Input::default()
                };
                let (found, expected) = (policy.first_match(&input), in_order.first_match(&input));
                prop_assert_eq!(found.map(|rule| rule.name()), expected.map(|rule| rule.name()));
            }
        }
    }
}

const TEXTS: &[&str] = &["", "a", "ab", "abc", "b", "\u{e9}", "\u{e9}a"];

fn condition_of_any_kind() -> impl Strategy<Value = (&'static str, &'static str, &'static str)> {
    let path = select(&["tool", "resource", "args.x", "args.x", "args.list.0"][..]);
    let test = select(
        &[
            ("==", "\"a\""),
            ("==", "\"ab\""),
            ("==", "\"\u{e9}\""),
            ("==", "\"\""),
            ("==", "1"),
            ("in", r#"["a", "b"]"#),
            ("in", r#"["ab", "a", "a", ""]"#),
            ("in", "[1, 2]"),
            ("starts_with", "\"\""),
            ("starts_with", "\"a\""),
            ("starts_with", "\"ab\""),
            ("starts_with", "\"\u{e9}\""),
            ("not_in", r#"["a"]"#),
            ("!=", "\"a\""),
            ("contains", "\"b\""),
            ("exists", "true"),
            ("exists", "false"),
            ("<", "\"b\""),
        ][..],
    );
    (path, test).prop_map(|(path, (operator, value))| (path, operator, value))
}

fn any_args() -> impl Strategy<Value = String> {
    let text = || select(TEXTS).prop_map(|text| format!("\"{text}\""));
    let value = || prop_oneof![3 => text(), 1 => Just("1.0".to_owned()), 1 => Just("null".to_owned())];
    prop_oneof![
        (value(), value()).prop_map(|(x, item)| format!(r#"{{"x": {x}, "list": [{item}]}}"#)),
        value().prop_map(|x| format!(r#"{{"x": {x}}}"#)),
        Just("{}".to_owned()),
    ]
}

#[test]
fn case_mismatches_show_expected_and_actual() {
    let policy = Policy::parse(condition("args.x", "==", "1").as_bytes()).unwrap();
    let cases = Cases::parse(
        br#"[{"name": "ok", "input": {"args": {"x": 1.0}}, "expect": "allow"},
             {"name": "none", "input": {"args": {"x": "1"}, "tool": null},
              "expect": {"decision": "deny", "reason_code": "policy.no_match", "rule": null}},
             {"name": "bad", "input": {}, "expect": {"decision": "allow", "reason_code": "y", "rule": "r"}}]"#,
    )
    .unwrap();
    let found: Vec<_> = cases.iter().map(|case| case.run(&policy)).collect();
    assert!(found[0].is_empty() && found[1].is_empty(), "{found:?}");
    let members: Vec<_> = found[2].iter().map(|m| (m.member, &*m.expected, &*m.actual)).collect();
    assert_eq!(
        members,
        [("decision", "allow", "deny"), ("reason_code", "y", "policy.no_match"), ("rule", "r", "(none)")]
    );
}

#[test]
fn rejects_invalid_cases() {
    for (text, expected) in [
        ("{}", "cases: missing"),
        ("[]", "at least one case"),
        (r#"{"cases": []}"#, "at least one case"),
        (r#"{"cases": 1}"#, "cases: expected an array"),
        (r#"{"cases": [], "x": 1}"#, "unknown member \"x\""),
        ("[1]", "cases[0]: expected an object"),
        (r#"[{"name": "a", "input": {}, "expect": "allow", "x": 1}]"#, "cases[0]: unknown member \"x\""),
        (r#"[{"input": {}, "expect": "allow"}]"#, "cases[0].name: missing"),
        (r#"[{"name": "a", "expect": "allow"}]"#, "cases[0].input: missing"),
        (r#"[{"name": "a", "input": {"amount": 1}, "expect": "allow"}]"#, "cases[0].input: unknown member"),
        (
            r#"[{"name": "a", "input": {"tool": 1}, "expect": "allow"}]"#,
            "cases[0].input.tool: expected a string",
        ),
        (
            r#"[{"name": "a", "input": {"args": []}, "expect": "allow"}]"#,
            "cases[0].input.args: expected an object",
        ),
        (r#"[{"name": "a", "input": {}, "expect": "alow"}]"#, "cases[0].expect.decision: expected one of"),
        (r#"[{"name": "a", "input": {}}]"#, "cases[0].expect: missing"),
        (r#"[{"name": "a", "input": {}, "expect": {}}]"#, "cases[0].expect.decision: missing"),
        (
            r#"[{"name": "a", "input": {}, "expect": {"decision": "allow", "rul": "x"}}]"#,
            "unknown member \"rul\"",
        ),
        (
            r#"[{"name": "a", "input": {}, "expect": {"decision": "allow", "rule": 1}}]"#,
            "expect.rule: expected",
        ),
        (
            r#"[{"name": "a", "input": {}, "expect": "allow"}, {"name": "a", "input": {}, "expect": "deny"}]"#,
            "cases[1].name: duplicate name \"a\"",
        ),
    ] {
        let problems = Cases::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(problems.contains(expected), "{text}\nexpected: {expected}\nfound:    {problems}");
    }
}

/// Returns the findings of a policy with these `(decision, conditions)`.
fn findings(rules: &[(&str, &str)]) -> Vec<String> {
    let rules: Vec<_> = rules
        .iter()
        .enumerate()
        .map(|(number, (decision, when))| {
            format!(r#"{{"name": "r{number}", "when": [{when}], "decision": "{decision}", "reason": "x"}}"#)
        })
        .collect();
    let text = format!(r#"{{"id": "p", "version": 1, "rules": [{}]}}"#, rules.join(","));
    let policy = Policy::parse(text.as_bytes()).unwrap_or_else(|problems| panic!("{text}: {problems}"));
    policy.findings().iter().map(ToString::to_string).collect()
}

/// Parses conditions written as `path operator value; …`.
fn when(text: &str) -> String {
    let conditions: Vec<_> = text
        .split(';')
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .map(|text| {
            let [path, operator, value] = text.splitn(3, ' ').collect::<Vec<_>>()[..] else {
                panic!("{text}")
            };
            let member = if value.starts_with("args.") { "value_path" } else { "value" };
            let value = if member == "value" { value.to_owned() } else { format!("\"{value}\"") };
            format!(r#"{{"path": "{path}", "operator": "{operator}", "{member}": {value}}}"#)
        })
        .collect();
    conditions.join(",")
}

#[test]
fn finds_contradictory_rules() {
    for conditions in [
        "tool <= 5",
        "tool == 5",
        "tool in [1, 2]",
        "tool contains 1",
        "tool has_only []",
        "tool == \"a\"; tool == \"b\"",
        "tool == \"a\"; tool != \"a\"",
        "tool == \"a\"; tool != 1",
        "tool == \"a\"; tool in [\"b\", \"c\"]",
        "tool in [\"a\", \"b\"]; tool not_in [\"a\", \"b\"]",
        "tool == \"a\"; tool starts_with \"b\"",
        "tool == \"a\"; tool ends_with \"b\"",
        "tool == \"a\"; tool matches \"^b\"",
        "tool starts_with \"a\"; tool starts_with \"b\"",
        "tool ends_with \"a\"; tool ends_with \"ab\"",
        "tool == \"\"",
        "goal in [\"\"]",
        "tool exists false",
        "goal exists false",
        "args exists false",
        "args == 1",
        "args starts_with \"a\"",
        "risk_tier == \"extreme\"",
        "risk_tier == \"Low\"",
        "risk_tier not_in [\"low\", \"medium\", \"high\", \"critical\"]",
        "user_id > 1",
        "args.x exists false; args.x == 1",
        "args.x exists false; args.x exists true",
        "args.x exists false; args.x.y == 1",
        "args.x == 1; args.x == 2",
        "args.x == 1; args.x == \"1\"",
        "args.x == 1; args.x.y exists true",
        "args.x == {\"y\": 1}; args.x.y == 2",
        "args.x == [1]; args.x.1 exists true",
        "args.x > 5; args.x < 5",
        "args.x >= 5; args.x < 5",
        "args.x > 9007199254740993; args.x < 9007199254740993",
        "args.x > 0.1000000000000000055; args.x <= 0.1",
        "args.x > 5; args.x < \"9\"",
        "args.x > \"b\"; args.x < \"a\"",
        "args.x in [1, 2]; args.x > 2",
        "args.x == 10; args.x <= 9.99",
        "args.x != true; args.x != false",
        "args.x != null; args.x != null; args.x == null",
        "args.x contains 1; args.x starts_with \"a\"",
        "args has_only [\"a\"]; args.b == 1",
        "args has_only []; args.b exists true",
        "args.x has_only [\"a\"]; args.x.b.c == 1",
        "args.x has_only [\"a\"]; args.x == 5",
        "args.a < args.a",
        "args.a != args.a",
        "args.a < args.b; args.b < args.a",
        "args.a == args.b; args.a > args.b",
        "args.a <= args.b; args.b <= args.a; args.a != args.b",
        "args.a exists false; args.b == args.a",
    ] {
        let found = findings(&[("deny", &when(conditions))]);
        assert!(found.len() == 1 && found[0].contains("never matches"), "{conditions}: {found:?}");
    }
    for conditions in [
        "",
        "tool == \"a\"; tool != \"b\"",
        "tool in [\"a\", \"b\"]; tool not_in [\"a\"]",
        "tool starts_with \"a\"; tool starts_with \"ab\"",
        "tool starts_with \"a\"; tool ends_with \"b\"",
        "user_id exists false",
        "passport exists false",
        "risk_tier in [\"low\", \"extreme\"]",
        "args.x >= 5; args.x <= 5",
        "args.x > 9007199254740992; args.x < 9007199254740994",
        "args.x > 0.1; args.x < 0.1000000000000000055",
        "args.x == {\"y\": 1}; args.x.y == 1.0",
        "args.x == [1]; args.x.0 exists true",
        "args.x != 1; args.x != 2",
        "args.x contains \"a\"; args.x starts_with \"a\"",
        "args.x contains 1; args.x contains 2",
        "args has_only [\"a\"]; args.a == 1; args.b exists false",
        "args.x.y exists false; args.x has_only [\"a\"]",
        "args.a <= args.a",
        "args.a <= args.b; args.b <= args.a",
        "args.a in args.b",
        "args.a exists false; args.b exists false",
    ] {
        let found = findings(&[("deny", &when(conditions))]);
        assert!(found.is_empty(), "{conditions}: {found:?}");
    }
}

#[test]
fn finds_rules_shadowed_by_catch_all() {
    for (earlier, later) in [
        ("tool exists true", "tool == \"a\""),
        ("args exists true; goal exists true", "args.x == 1"),
        ("tool in [\"a\", \"b\"]", "tool == \"a\""),
        ("tool starts_with \"a\"", "tool == \"ab\""),
        ("tool starts_with \"a\"", "tool starts_with \"ab\"; args.x == 1"),
        ("args.x <= 100", "args.x <= 50"),
        ("args.x <= 100", "args.x < 100"),
        ("args.x > 0", "args.x >= 1; args.x <= 5"),
        ("args.x exists true", "args.x.y == 1"),
        ("args has_only [\"a\", \"b\"]", "args has_only [\"a\"]"),
        ("args.x != \"a\"", "args.x not_in [\"a\", \"b\"]"),
    ] {
        let found = findings(&[("deny", &when(earlier)), ("deny", &when(later))]);
        assert!(
            found.len() == 1 && found[0].contains("the earlier rule \"r0\" matches"),
            "{earlier} / {later}: {found:?}"
        );
    }
    for (earlier, later) in [
        ("user_id exists true", "tool == \"a\""),
        ("tool == \"a\"", "tool in [\"a\", \"b\"]"),
        ("args.x <= 50", "args.x <= 100"),
        ("args.x < 100", "args.x <= 100"),
        ("args.x <= \"5\"", "args.x <= 5"),
        ("args.x exists false", "args.y == 1"),
        ("args has_only [\"a\"]", "args has_only [\"a\", \"b\"]"),
        ("args.a <= args.b", "args.a <= args.c"),
        ("args.x not_in [\"a\", \"b\"]", "args.x != \"a\""),
        // A contradictory rule shadows nothing.
        ("tool exists true; tool <= 5", "tool == \"a\""),
    ] {
        let found = findings(&[("deny", &when(earlier)), ("deny", &when(later))]);
        assert!(!found.iter().any(|found| found.contains("before it")), "{earlier} / {later}: {found:?}");
    }
}

#[test]
fn finds_allow_rules_with_open_arguments() {
    let open = findings(&[("allow", &when("tool == \"t\"; args.amount >= 5; args.to.id == args.from"))]);
    assert_eq!(open.len(), 1);
    assert!(open[0].contains(r#""value": ["amount","to","from"]"#), "{open:?}");
    for (decision, conditions) in [
        ("allow", "args has_only [\"amount\"]; args.amount >= 5"),
        ("allow", "args has_only []"),
        ("allow", "args == {\"a\": 1}"),
        ("deny", "tool == \"t\""),
        ("require_approval", "tool == \"t\""),
    ] {
        assert_eq!(findings(&[(decision, &when(conditions))]), Vec::<String>::new(), "{conditions}");
    }
}

#[test]
fn has_only_rejects_other_members() {
    for (names, args, expected) in [
        (r#"["a", "b"]"#, r#"{"a": 1, "b": 2}"#, true),
        (r#"["a", "b"]"#, r#"{"b": null}"#, true),
        (r#"["a", "b"]"#, "{}", true),
        (r#"["a", "b"]"#, r#"{"a": 1, "c": 2}"#, false),
        (r#"["a"]"#, r#"{"A": 1}"#, false),
        (r#"["a"]"#, r#"{"a ": 1}"#, false),
        ("[]", "{}", true),
        ("[]", r#"{"": 1}"#, false),
        (r#"["a"]"#, r#"{"a": {"b": 1}}"#, true),
    ] {
        assert_eq!(holds("args", "has_only", names, args), expected, "{names} {args}");
    }
    check(&[
        ("has_only", r#"["a"]"#, r#"{"a": 1}"#, true),
        ("has_only", r#"["a"]"#, r#"{"b": 1}"#, false),
        ("has_only", r#"["a"]"#, "[]", false),
        ("has_only", "[]", "null", false),
        ("has_only", r#"["a"]"#, "\"a\"", false),
    ]);
    assert!(!holds("args.y", "has_only", "[]", "{}"));
}

#[test]
fn value_path_compares_two_values() {
    let holds = |operator: &str, x: &str, y: &str| {
        let condition = format!(r#"{{"path": "args.x", "operator": "{operator}", "value_path": "args.y"}}"#);
        let text = format!(
            r#"{{"id": "p", "version": 1, "rules": [{{"name": "r", "when": [{condition}], "decision": "allow", "reason": "r"}}]}}"#
        );
        let policy = Policy::parse(text.as_bytes()).unwrap();
        let members = [("x", x), ("y", y)].into_iter().filter(|(_, value)| !value.is_empty());
        let args =
            members.map(|(name, value)| (name.to_owned(), Json::parse(value.as_bytes()).unwrap())).collect();
        policy.first_match(&Input { args: Some(&Json::Object(args)), ..Input::default() }).is_some()
    };
    for (operator, x, y, expected) in [
        ("==", "1", "1.0", true),
        ("==", "9007199254740993", "9007199254740992", false),
        ("==", "\"a\"", "\"a\"", true),
        ("!=", "1", "2", true),
        ("!=", "1", "\"2\"", false),
        ("<=", "9007199254740993", "9007199254740992", false),
        ("<=", "9007199254740992", "9007199254740993", true),
        ("<", "1", "\"2\"", false),
        (">", "\"b\"", "\"a\"", true),
        (">=", "null", "null", false),
        ("in", "1", "[2, 1.0]", true),
        ("in", "1", "[2]", false),
        ("in", "1", "[1, \"2\"]", false),
        ("in", "1", "[]", false),
        ("in", "1", "1", false),
        ("not_in", "1", "[2]", true),
        ("not_in", "1", "[\"2\"]", false),
        ("not_in", "1", "{}", false),
        ("contains", "[1, 2]", "2", true),
        ("contains", "\"abc\"", "\"b\"", true),
        ("starts_with", "\"abc\"", "\"ab\"", true),
        ("ends_with", "\"abc\"", "\"ab\"", false),
        ("starts_with", "1", "1", false),
    ] {
        assert_eq!(holds(operator, x, y), expected, "{x} {operator} {y}");
        for (x, y) in [("", y), (x, ""), ("", "")] {
            assert!(!holds(operator, x, y), "{x} {operator} {y}: one is missing");
        }
    }
}

#[test]
fn rejects_invalid_value_path() {
    for (condition, expected) in [
        (r#"{"path": "args.x", "operator": "=="}"#, "when[0].value: missing; expected value or value_path"),
        (
            r#"{"path": "args.x", "operator": "==", "value": 1, "value_path": "args.y"}"#,
            "when[0].value_path: conflicts with value",
        ),
        (
            r#"{"path": "args.x", "operator": "==", "value_path": 1}"#,
            "when[0].value_path: expected a non-empty string",
        ),
        (
            r#"{"path": "args.x", "operator": "==", "value_path": "y"}"#,
            "when[0].value_path: unknown path root",
        ),
        (
            r#"{"path": "args.x", "operator": "matches", "value_path": "args.y"}"#,
            "matches does not support value_path",
        ),
        (
            r#"{"path": "args.x", "operator": "exists", "value_path": "args.y"}"#,
            "exists does not support value_path",
        ),
        (r#"{"path": "args", "operator": "has_only", "value": "a"}"#, "expected an array of strings"),
        (r#"{"path": "args", "operator": "has_only", "value": ["a", 1]}"#, "expected an array of strings"),
    ] {
        let text = format!(
            r#"{{"id": "p", "version": 1, "rules": [{{"name": "r", "when": [{condition}], "decision": "allow", "reason": "r"}}]}}"#
        );
        let problems = Policy::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(problems.contains(expected), "{condition}: {problems}");
    }
    // An equal value and path are different conditions.
    let policy = |second: &str| {
        format!(
            r#"{{"id": "p", "version": 1, "rules": [
                {{"name": "a", "when": [{{"path": "args.x", "operator": "==", "value_path": "args.y"}}], "decision": "deny", "reason": "r"}},
                {{"name": "b", "when": [{{"path": "args.x", "operator": "==", {second}}}], "decision": "deny", "reason": "r"}}]}}"#
        )
    };
    assert!(Policy::parse(policy(r#""value": "args.y""#).as_bytes()).is_ok());
    assert!(Policy::parse(policy(r#""value_path": "args.y""#).as_bytes()).is_err(), "unreachable");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3_000) })]

    /// Rules reported as dead never match.
    #[test]
    fn reported_dead_rules_never_match(
        conditions in vec(vec(condition_of_any_kind(), 0..5), 1..6),
        inputs in vec((select(TEXTS), select(TEXTS), any_args()), 1..12),
    ) {
        let lists: Vec<_> = conditions.iter().map(Vec::as_slice).collect();
        // Policies with unreachable rules are rejected.
        if let Ok(policy) = Policy::parse(rules(&lists).as_bytes()) {
            let dead: Vec<_> =
                policy.findings().into_iter().filter(super::Finding::is_defect).map(|found| found.rule).collect();
            for (tool, resource, args) in inputs.iter().filter(|(tool, ..)| !tool.is_empty()) {
                let args = Json::parse(args.as_bytes()).unwrap();
                let (tool, resource) = (Json::from(*tool), Json::from(*resource));
                let goal = Json::from("g");
                for resource in [None, Some(&resource)] {
                    let input = Input {
                        args: Some(&args), goal: Some(&goal), resource, tool: Some(&tool), ..Input::default()
                    };
                    if let Some(rule) = policy.first_match(&input) {
                        prop_assert!(!dead.contains(&rule.name().to_owned()), "{} of {:?}", rule.name(), conditions);
                    }
                }
            }
        }
    }
}

/// The problems of a policy with this budget; members given here replace the defaults.
fn budget_problems(members: &[(&str, &str)]) -> String {
    let mut budget = vec![
        ("name", "\"daily\""),
        ("when", "[]"),
        ("per", "[\"agent_id\"]"),
        ("sum", "\"args.amount\""),
        ("limit", "500"),
        ("window", "\"24h\""),
        ("on_exceed", "\"deny\""),
        ("reason", "\"daily\""),
    ];
    for (name, value) in members {
        budget.retain(|(known, _)| known != name);
        if !value.is_empty() {
            budget.push((name, value));
        }
    }
    let members: Vec<_> = budget.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
    let text =
        format!(r#"{{"id": "p", "version": 1, "rules": [], "budgets": [{{{}}}]}}"#, members.join(", "));
    Policy::parse(text.as_bytes()).map(|_| String::new()).unwrap_or_else(|problems| problems.to_string())
}

#[test]
fn each_budget_problem_is_named() {
    assert_eq!(budget_problems(&[]), "");
    assert_eq!(budget_problems(&[("sum", ""), ("count", "true"), ("per", "[]")]), "");
    for (members, problem) in [
        (&[("name", "")][..], "budgets[0]: name: missing"),
        (&[("name", "1")], "budgets[0]: name: expected a non-empty string, found a number"),
        (&[("when", "")], "budget \"daily\": when: missing"),
        (&[("per", "")], "budget \"daily\": per: missing"),
        (&[("per", "[\"cookies\"]")], "budget \"daily\": per[0]: unknown path root \"cookies\""),
        (&[("per", "[\"tool\", \"tool\"]")], "budget \"daily\": per[1]: duplicate path \"tool\""),
        (&[("sum", "")], "budget \"daily\": sum: missing; expected sum or count"),
        (&[("count", "true")], "budget \"daily\": count: conflicts with sum; set only one"),
        (&[("sum", ""), ("count", "false")], "budget \"daily\": count: expected true, found false"),
        (&[("limit", "-1")], "budget \"daily\": limit: expected a number of at least 0, below 10^18"),
        (&[("limit", "1e-10")], "with at most 9 decimal places, found 1e-10"),
        (&[("limit", "\"5\"")], "budget \"daily\": limit: expected a number of at least 0"),
        (&[("window", "\"1 day\"")], "budget \"daily\": window: expected a duration of 1s to 366d"),
        (&[("on_exceed", "\"warn\"")], "on_exceed: expected one of deny, require_approval, found \"warn\""),
        (&[("reason", "")], "budget \"daily\": reason: missing"),
        (&[("release_on_failure", "1")], "release_on_failure: expected true or false, found a number"),
        (&[("amount", "1")], "budget \"daily\": unknown member \"amount\"; expected name, when, per"),
    ] {
        let found = budget_problems(members);
        assert!(found.contains(problem), "{members:?}: {found}");
    }
    let twice = r#"{"id": "p", "version": 1, "rules": [], "budgets": [{"name": "a"}, {"name": "a"}]}"#;
    let found = Policy::parse(twice.as_bytes()).unwrap_err().to_string();
    assert!(found.contains("budget \"a\": name: duplicate of budgets[1]"), "{found}");
}

#[test]
fn finds_amounts_that_no_budget_sums() {
    let unbudgeted = |amount: &str, sum: &str| {
        let text = format!(
            r#"{{"id": "p", "version": 1, "rules": [{{"name": "r", "decision": "allow", "reason": "r", "when": [
                {{"path": "args.amount", "operator": "{amount}", "value": 100}},
                {{"path": "args", "operator": "has_only", "value": ["amount"]}}]}}],
                "budgets": [{{"name": "b", "when": [], "per": [], "sum": "{sum}", "limit": 1, "window": "1h",
                "on_exceed": "deny", "reason": "b"}}]}}"#
        );
        let policy = Policy::parse(text.as_bytes()).unwrap();
        policy.findings().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let found = "rule \"r\": limits args.amount for each action, but not the sum of many: add a budget with \
                 \"sum\": \"args.amount\"";
    for (operator, sum, expected) in [
        ("<=", "args.fee", Some(found)),
        ("<", "args.fee", Some(found)),
        ("<=", "args.amount", None),
        ("==", "args.fee", None),
        (">", "args.fee", None),
    ] {
        let expected: Vec<_> = expected.into_iter().collect();
        assert_eq!(unbudgeted(operator, sum), expected, "{operator} {sum}");
    }
}

/// The problems of a rule with this history condition; members given here replace the defaults.
fn history_problems(members: &[(&str, &str)]) -> String {
    let mut history = vec![
        ("history", "\"after\""),
        ("of", r#"[{"path": "tool", "operator": "==", "value": "a"}]"#),
        ("within", "\"24h\""),
        ("same", "[\"args.order\"]"),
    ];
    for (name, value) in members {
        history.retain(|(known, _)| known != name);
        if !value.is_empty() {
            history.push((name, value));
        }
    }
    let members: Vec<_> = history.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
    let policy = format!(
        r#"{{"id": "p", "version": 1, "rules": [{{"name": "r", "when": [{{{}}}], "decision": "allow",
            "reason": "r"}}]}}"#,
        members.join(", ")
    );
    Policy::parse(policy.as_bytes()).map_or_else(|problems| problems.to_string(), |_| String::new())
}

#[test]
fn each_history_problem_is_named() {
    let count = ("history", "\"count\"");
    let sum = ("history", "\"sum\"");
    let operator = ("operator", "\"<\"");
    for valid in [
        &[][..],
        &[("history", "\"never\""), ("of", "[]"), ("same", "[]"), ("within", "\"366d\"")],
        &[count, operator, ("value", "3")],
        &[sum, operator, ("value", "0.5"), ("path", "\"args.amount\"")],
    ] {
        assert_eq!(history_problems(valid), "", "{valid:?}");
    }
    let nested = r#"[{"history": "after", "of": [], "within": "1h", "same": []}]"#;
    for (members, expected) in [
        (
            &[("history", "\"before\"")][..],
            ".history: expected one of after, never, count, sum, found \"before\"",
        ),
        (&[("history", "true")], ".history: expected a non-empty string, found a boolean"),
        (&[("of", "")], ".of: missing"),
        (&[("of", nested)], ".of[0].history: not supported within of; expected in the when of a rule"),
        (
            &[("of", r#"[{"path": "cookies", "operator": "==", "value": 1}]"#)],
            ".of[0].path: unknown path root",
        ),
        (&[("within", "")], ".within: missing"),
        (
            &[("within", "\"367d\"")],
            ".within: expected a duration of 1s to 366d, such as 30m, 24h or 30d, found",
        ),
        (&[("same", "")], ".same: missing"),
        (&[("same", "[\"cookies\"]")], ".same[0]: unknown path root \"cookies\""),
        (&[("same", "[\"tool\", \"tool\"]")], ".same[1]: duplicate path \"tool\""),
        (&[operator], ".operator: not supported by after"),
        (&[("history", "\"never\""), ("value", "1")], ".value: not supported by never"),
        (&[("path", "\"args.amount\"")], ".path: not supported by after"),
        (&[count, operator, ("value", "1"), ("path", "\"args.amount\"")], ".path: not supported by count"),
        (&[count, ("value", "1")], ".operator: missing"),
        (
            &[count, ("operator", "\"!=\""), ("value", "1")],
            ".operator: expected one of <, <=, >, >=, ==, found",
        ),
        (&[count, operator], ".value: missing; expected a number of at least 0"),
        (&[count, operator, ("value", "\"3\"")], ".value: expected a number of at least 0"),
        (&[count, operator, ("value", "1.5")], ".value: expected a whole number, found 1.5"),
        (
            &[sum, operator, ("value", "-1"), ("path", "\"args.amount\"")],
            ".value: expected a number of at least 0",
        ),
        (&[sum, operator, ("value", "1")], ".path: missing"),
        (
            &[("since", "1")],
            ": unknown member \"since\"; expected history, of, within, same, path, operator, value",
        ),
    ] {
        let found = history_problems(members);
        assert!(found.contains(&format!("rule \"r\": when[0]{expected}")), "{expected} in {found}");
    }
}

/// Returns the problems of a policy with these rules and budgets.
fn problems_of(rules: &str, budgets: &str) -> String {
    let text = format!(r#"{{"id": "p", "version": 1, "rules": [{rules}], "budgets": [{budgets}]}}"#);
    Policy::parse(text.as_bytes()).map_or_else(|problems| problems.to_string(), |_| String::new())
}

#[test]
fn history_conditions_are_accepted_in_rules_only() {
    let budget = |name: &str, when: &str| {
        format!(
            r#"{{"name": "{name}", "when": [{when}], "per": [], "count": true, "limit": 1, "window": "1h",
                "on_exceed": "deny", "reason": "b"}}"#
        )
    };
    let history = r#"{"history": "after", "of": [], "within": "1h", "same": []}"#;
    let found = problems_of("", &budget("b", history));
    assert!(found.contains("budget \"b\": when[0].history: not supported within a budget"), "{found}");
    let found = problems_of("", &budget("history:1", ""));
    assert!(found.contains("name: expected a name that does not start with \"history:\""), "{found}");
}

/// A rule about the tool `t` with these further conditions.
fn rule_on_t(name: &str, conditions: &str) -> String {
    format!(
        r#"{{"name": "{name}", "when": [{{"path": "tool", "operator": "==", "value": "t"}}{conditions}],
            "decision": "deny", "reason": "r"}}"#
    )
}

#[test]
fn distinct_history_conditions_are_limited() {
    let with = |count: usize| {
        let rules: Vec<_> = (1..=count)
            .flat_map(|seconds| {
                let history = format!(
                    r#", {{"history": "after", "of": [], "within": "{seconds}s", "same": []}},
                        {{"path": "goal", "operator": "==", "value": "g{seconds}"}}"#
                );
                [rule_on_t(&format!("a{seconds}"), &history)]
            })
            .collect();
        problems_of(&rules.join(", "), "")
    };
    assert_eq!(with(1000), "");
    assert!(with(2001).contains("rules: expected at most 2000 different history conditions, found 2001"));
}

#[test]
fn history_condition_hides_no_rule() {
    let after = |within: &str| {
        format!(r#", {{"history": "after", "of": [], "within": "{within}", "same": ["tool"]}}"#)
    };
    let findings = |first: &str, second: &str| {
        let text = format!(
            r#"{{"id": "p", "version": 1, "rules": [{}, {}]}}"#,
            rule_on_t("one", first),
            rule_on_t("two", second)
        );
        let policy = Policy::parse(text.as_bytes()).map_err(|problems| problems.to_string())?;
        Ok::<_, String>(policy.findings().iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    };
    assert_eq!(findings(&after("1h"), ""), Ok(String::new()));
    assert_eq!(findings(&after("1h"), &after("2h")), Ok(String::new()));
    // Equal conditions hold or fail together.
    let hidden = findings(&after("1h"), &after("60m")).unwrap_err();
    assert!(hidden.contains("unreachable: the earlier rule \"one\""), "{hidden}");
    assert!(findings("", &after("1h")).unwrap_err().contains("unreachable"));
    let stricter = r#", {"path": "args.x", "operator": "<", "value": 5}"#;
    let weaker = r#", {"path": "args.x", "operator": "<", "value": 9}"#;
    let found = findings(&format!("{weaker}{}", after("1h")), stricter);
    assert_eq!(found, Ok(String::new()));
    let found = findings(&format!("{weaker}{}", after("1h")), &format!("{stricter}{}", after("1h"))).unwrap();
    assert!(found.contains("rule \"two\": unreachable"), "{found}");
    let dead = r#", {"path": "tool", "operator": "==", "value": "u"}"#;
    let found = findings(&format!("{dead}{}", after("1h")), "").unwrap();
    assert!(found.contains("rule \"one\": never matches"), "{found}");
}

#[test]
fn cases_state_which_histories_hold() {
    let history = r#", {"history": "after", "of": [], "within": "1h", "same": []}"#;
    let text = format!(r#"{{"id": "p", "version": 1, "rules": [{}]}}"#, rule_on_t("r", history));
    let policy = Policy::parse(text.as_bytes()).unwrap();
    let run = |history: &str| {
        let cases = format!(
            r#"[{{"name": "c", "input": {{"tool": "t"}}{history}, "expect": {{"decision": "deny", "rule": "r"}}}}]"#
        );
        let cases = Cases::parse(cases.as_bytes()).map_err(|problems| problems.to_string())?;
        let mismatches: Vec<_> = cases.iter().flat_map(|case| case.run(&policy)).collect();
        Ok::<_, String>(mismatches.iter().map(|found| found.member).collect::<Vec<_>>())
    };
    assert_eq!(run(r#", "history": {"r": true}"#), Ok(vec![]));
    assert_eq!(run(r#", "history": {"r": false}"#), Ok(vec!["rule"]));
    assert_eq!(run(""), Ok(vec!["rule"]));
    assert_eq!(run(r#", "history": {"r": true, "s": true}"#), Ok(vec!["history"]));
    let problem = run(r#", "history": {"r": 1}"#).unwrap_err();
    assert!(problem.contains("cases[0].history.r: expected true or false, found a number"), "{problem}");
    let problem = run(r#", "history": [1]"#).unwrap_err();
    assert!(problem.contains("cases[0].history: expected an object of true or false by rule"), "{problem}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    /// Insights are true of every request, and no difference between two policies is missed.
    #[test]
    fn insights_agree_with_the_engine(
        policies in vec(vec((vec(condition_of_any_kind(), 0..4), 0..3_usize), 1..5), 2..=2),
        inputs in vec((select(TEXTS), select(TEXTS), any_args()), 1..12),
    ) {
        let parsed: Vec<_> = policies.iter().map(|of| {
            let lists: Vec<_> = of.iter().map(|(conditions, _)| conditions.as_slice()).collect();
            let mut text = String::new();
            for (part, (_, decision)) in rules(&lists).split_inclusive("\"allow\"").zip(
                of.iter().chain(std::iter::once(&(Vec::new(), 0)))
            ) {
                text += &part.replace("allow", super::Decision::ALL[*decision].as_str());
            }
            Policy::parse(text.as_bytes())
        }).collect();
        // Policies with unreachable rules are rejected.
        if let [Ok(old), Ok(new)] = &parsed[..] {
            let insights = new.insights();
            let defects = insights.iter().filter(|insight| insight.is_defect());
            let dead: Vec<_> = defects.filter_map(|insight| insight.subject.clone()).collect();
            let has = |kind| insights.iter().any(|insight| insight.kind == kind);
            let wider = new.wider_than(old);
            for (tool, resource, args) in inputs.iter().filter(|(tool, ..)| !tool.is_empty()) {
                let args = Json::parse(args.as_bytes()).unwrap();
                let (tool, resource) = (Json::from(*tool), Json::from(*resource));
                let goal = Json::from("g");
                for resource in [None, Some(&resource)] {
                    let input = Input {
                        args: Some(&args), goal: Some(&goal), resource, tool: Some(&tool), ..Input::default()
                    };
                    let rule = new.first_match(&input);
                    prop_assert!(rule.is_none_or(|rule| !dead.contains(&rule.name().to_owned())), "{policies:?}");
                    let rank = |policy: &Policy| match policy.first_match(&input).map(super::Rule::decision) {
                        None | Some(super::Decision::Deny) => 0,
                        Some(super::Decision::RequireApproval) => 1,
                        Some(super::Decision::Allow) => 2,
                    };
                    prop_assert!(!has(super::InsightKind::AlwaysAllows) || rank(new) == 2, "{policies:?}");
                    prop_assert!(!has(super::InsightKind::NeverAllows) || rank(new) == 0, "{policies:?}");
                    prop_assert!(rank(new) <= rank(old) || !wider.is_empty(), "{policies:?}");
                }
            }
        }
    }
}

/// Returns the problems of a policy whose only history has these conditions.
fn outcome_problems(conditions: &str) -> String {
    let text = format!(
        r#"{{"id": "p", "version": 1, "rules": [{{"name": "r", "when": [{{"history": "never",
            "of": [{conditions}], "within": "1h", "same": []}}], "decision": "allow", "reason": "r"}}]}}"#
    );
    Policy::parse(text.as_bytes()).map_or_else(|problems| problems.to_string(), |_| String::new())
}

#[test]
fn outcomes_are_conditions_of_histories_only() {
    let of = |operator: &str, value: &str| {
        format!(r#"{{"path": "outcome", "operator": "{operator}", "value": {value}}}"#)
    };
    for (operator, value) in [
        ("==", "\"returned\""),
        ("!=", "\"failed\""),
        ("in", r#"["returned", "suspended"]"#),
        ("not_in", r#"["cancelled", "pending"]"#),
    ] {
        assert_eq!(outcome_problems(&of(operator, value)), "", "{operator} {value}");
    }
    for (conditions, expected) in [
        (
            of("==", "\"done\""),
            "of[0].value: expected one of pending, returned, failed, cancelled, suspended",
        ),
        (of("in", r#"["returned", 1]"#), "of[0].value: expected one of pending"),
        (of("in", "\"returned\""), "of[0].value: expected an array"),
        (of("in", "[]"), "of[0].value: expected at least one item"),
        (of("exists", "true"), "of[0].operator: expected one of ==, !=, in, not_in"),
        (
            format!("{}, {}", of("==", "\"returned\""), of("==", "\"failed\"")),
            "of: no outcome satisfies all conditions",
        ),
        (
            r#"{"path": "outcome", "operator": "==", "value_path": "args.x"}"#.to_owned(),
            "unknown member \"value_path\"",
        ),
    ] {
        let problems = outcome_problems(&conditions);
        assert!(problems.contains(expected), "{conditions}: {problems}");
    }
    let rule = r#"{"id": "p", "version": 1, "rules": [{"name": "r", "when": [
        {"path": "outcome", "operator": "==", "value": "returned"}], "decision": "allow", "reason": "r"}]}"#;
    let problems = Policy::parse(rule.as_bytes()).unwrap_err().to_string();
    assert!(problems.contains("unknown path root \"outcome\""), "{problems}");
}

#[test]
fn unknown_history_is_assumed_empty() {
    for (members, expected) in [
        (r#""history": "never""#, true),
        (r#""history": "after""#, false),
        (r#""history": "count", "operator": "<", "value": 2"#, true),
        (r#""history": "count", "operator": ">=", "value": 1"#, false),
        (r#""history": "sum", "path": "args.amount", "operator": "<=", "value": 5"#, true),
    ] {
        let text = format!(
            r#"{{"id": "p", "version": 1, "rules": [{{"name": "r", "decision": "allow", "reason": "r",
                "when": [{{{members}, "of": [], "within": "1h", "same": []}}]}}]}}"#
        );
        let policy = Policy::parse(text.as_bytes()).unwrap();
        let input = Input::default();
        let assumed = |known: &[Truth]| -> Vec<bool> {
            let checks = policy.history_checks(&mut Values::of(&policy, &input), known).unwrap();
            checks.iter().map(|check| check.assumed).collect()
        };
        assert_eq!(assumed(&[]), [expected], "{members}");
        for holds in [false, true] {
            assert_eq!(assumed(&[Truth { condition: 0, holds }]), [holds], "{members}");
        }
    }
}
