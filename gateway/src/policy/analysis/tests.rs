use std::path::Path;

use super::super::{Cases, Decision, Policy};
use super::{Changes, Insight, InsightKind, rank};
use actpass_protocol::Json;

fn read(name: &str) -> Option<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policy-check");
    std::fs::read(folder.join(name)).ok()
}

fn policy(name: &str) -> Option<Policy> {
    let text = read(name)?;
    Some(Policy::parse(&text).unwrap_or_else(|problems| panic!("{name}: {problems}")))
}

/// Confirms an example with `policy test`, as a user would.
fn confirm(policy: &Policy, old: Option<&Policy>, insight: &Insight) {
    let is_told = !insight.is_open();
    assert_eq!(insight.witness.is_some(), is_told, "{insight}");
    let Some(witness) = &insight.witness else { return };
    let cases = Cases::parse(Json::Array(vec![witness.clone()]).to_string().as_bytes())
        .unwrap_or_else(|problems| panic!("{witness}: {problems}"));
    let case = cases.iter().next().unwrap();
    assert_eq!(case.run(policy), [], "{insight}: {witness}");
    let decided = case.decided_by(policy);
    let subject = insight.subject.as_deref();
    match &insight.kind {
        InsightKind::AlwaysAllows => assert!(decided.is_some(), "{witness}"),
        InsightKind::AlwaysMatches | InsightKind::Redundant | InsightKind::Vacuous { .. } => {
            assert_eq!(decided, subject, "{witness}");
        }
        InsightKind::CannotTell { .. } | InsightKind::NeverAllows => {}
        InsightKind::NeverFits => assert_eq!(decided, subject, "{witness}"),
        InsightKind::NeverMatches { .. } => assert_ne!(decided, subject, "{witness}"),
        InsightKind::Unreachable { by } => {
            assert!(by.iter().any(|name| Some(name.as_str()) == decided), "{insight}: {witness}");
        }
        InsightKind::Wider { old: (was, _), new: (is, _), times } => {
            assert!(rank(*is) > rank(*was), "{insight}");
            if *times == 1 {
                let rule = case.decided_by(old.unwrap());
                let found = old.unwrap().rules().iter().find(|known| Some(known.name()) == rule);
                let found = found.map_or(Decision::Deny, super::Rule::decision);
                assert!(rank(found) >= rank(*was), "{insight}: {witness}");
            }
        }
    }
}

#[test]
fn finds_what_policies_made_for_it_contain() {
    let expected = Json::parse(&read("expected.json").unwrap()).unwrap();
    let expected = expected.as_object().unwrap();
    assert_eq!(expected.len(), 25);
    let mut wrong = Vec::new();
    for (name, wanted) in expected {
        let Json::Array(wanted) = wanted else { panic!("{name}") };
        let new = policy(&format!("{name}.json")).unwrap();
        let old = policy(&format!("{name}.old.json"));
        let mut found = new.insights();
        found.extend(old.iter().flat_map(|old| new.wider_than(old)));
        let is_found = found.len() == wanted.len()
            && found
                .iter()
                .zip(wanted)
                .all(|(found, wanted)| found.to_string().starts_with(wanted.as_str().unwrap()));
        if !is_found {
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            wrong.push(format!("{name}:\n  found {found:#?}\n  wanted {wanted:?}"));
            continue;
        }
        for insight in &found {
            confirm(&new, old.as_ref(), insight);
        }
        if let Some(old) = &old {
            assert!(new.wider_than(&new).is_empty() && old.wider_than(old).is_empty(), "{name}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Policies of the repository have no defect.
#[test]
fn reports_no_defect_of_policy_packs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    for name in ["crm", "deploys", "email", "refunds"] {
        let policy = Policy::parse(&std::fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap();
        let found: Vec<_> = policy.insights().iter().map(ToString::to_string).collect();
        assert_eq!(found, Vec::<String>::new(), "{name}");
        let wider: Vec<_> = policy.wider_than(&policy).iter().map(ToString::to_string).collect();
        assert_eq!(wider, Vec::<String>::new(), "{name}");
    }
}

/// Numbers that look random, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn of<'t>(&mut self, choices: &[&'t str]) -> &'t str {
        choices[self.below(choices.len())]
    }
}

/// A policy of rules over `tool`, `args.amount`, `args.currency` and `goal`.
fn generated(dice: &mut Dice) -> String {
    let mut rules = Vec::new();
    for number in 0..=dice.below(4) {
        let mut when = Vec::new();
        for _ in 0..dice.below(4) {
            when.push(match dice.below(6) {
                0 | 1 => format!(
                    r#"{{"path": "tool", "operator": "==", "value": "{}"}}"#,
                    dice.of(&["pay", "read"])
                ),
                2 | 3 => format!(
                    r#"{{"path": "args.amount", "operator": "{}", "value": {}}}"#,
                    dice.of(&["<", "<=", ">", ">=", "==", "!="]),
                    dice.of(&["10", "20", "30"])
                ),
                4 => format!(
                    r#"{{"path": "args.currency", "operator": "in", "value": ["{}", "eur"]}}"#,
                    dice.of(&["usd", "chf"])
                ),
                _ => format!(
                    r#"{{"path": "args.{}", "operator": "exists", "value": {}}}"#,
                    dice.of(&["amount", "currency"]),
                    dice.of(&["true", "false"])
                ),
            });
        }
        rules.push(format!(
            r#"{{"name": "r{number}", "when": [{}], "decision": "{}", "reason": "{}"}}"#,
            when.join(", "),
            dice.of(&["allow", "deny", "require_approval"]),
            dice.of(&["one", "two"])
        ));
    }
    format!(r#"{{"id": "p", "version": 1, "rules": [{}]}}"#, rules.join(", "))
}

/// Every request whose answer can differ for policies of [`generated`].
fn all_requests() -> Cases {
    let mut cases = Vec::new();
    for tool in ["pay", "read", "other"] {
        for amount in ["", "9", "10", "11", "20", "21", "29.5", "30", "31", "\"10\""] {
            for currency in ["", "\"usd\"", "\"eur\"", "\"chf\"", "\"gbp\"", "5"] {
                let member = |name: &str, value: &str| match value {
                    "" => None,
                    value => Some(format!(r#""{name}": {value}"#)),
                };
                let args: Vec<_> =
                    [member("amount", amount), member("currency", currency)].into_iter().flatten().collect();
                cases.push(format!(
                    r#"{{"name": "{}", "input": {{"tool": "{tool}", "args": {{{}}}}}}}"#,
                    cases.len(),
                    args.join(", ")
                ));
            }
        }
    }
    Cases::parse_inputs(format!("[{}]", cases.join(",")).as_bytes()).unwrap()
}

/// The changes are those that an enumeration of all requests finds, pair by pair of rules.
#[test]
fn changes_equal_those_of_all_requests() {
    let (requests, mut dice) = (all_requests(), Dice(20));
    let mut kinds = std::collections::BTreeSet::new();
    for _ in 0..150 {
        let texts = [generated(&mut dice), generated(&mut dice)];
        let [old, new] = texts.each_ref().map(|text| Policy::parse(text.as_bytes()));
        // Loading rejects some rules that an earlier one hides.
        let (Ok(old), Ok(new)) = (old, new) else { continue };
        let mut expected: Vec<_> = requests
            .iter()
            .filter_map(|case| case.change(&old, &new))
            .map(|change| (change.old, change.new, change.members))
            .collect();
        let Changes { found, open } = new.changes_from(&old);
        assert_eq!(open, [], "{texts:?}");
        for change in &found {
            kinds.insert((change.old.decision.as_str(), change.new.decision.as_str()));
            let cases = format!("[{}]", change.witness);
            let case = Cases::parse(cases.as_bytes()).unwrap();
            let confirmed = case.iter().next().unwrap().change(&old, &new).unwrap();
            assert_eq!((&confirmed.old, &confirmed.new), (&change.old, &change.new), "{texts:?}");
            assert_eq!(confirmed.members, change.members);
            assert_eq!(change.times, 1);
        }
        let mut found: Vec<_> =
            found.into_iter().map(|change| (change.old, change.new, change.members)).collect();
        for list in [&mut expected, &mut found] {
            list.sort_by_key(|change| format!("{change:?}"));
            list.dedup();
        }
        assert_eq!(found, expected, "{texts:?}");
        assert!(new.changes_from(&new).found.is_empty());
    }
    assert_eq!(kinds.len(), 9, "{kinds:?}");
}

/// The policy of budget tests: `pay` of at most 100, with a budget.
fn with_budget(limit: &str, more: &str) -> Policy {
    let text = format!(
        r#"{{"id": "p", "version": 1, "rules": [{{"name": "pay", "decision": "allow", "reason": "ok", "when": [
            {{"path": "tool", "operator": "==", "value": "pay"}},
            {{"path": "args.amount", "operator": ">", "value": 0}},
            {{"path": "args.amount", "operator": "<=", "value": 100}}]}}],
        "budgets": [{{"name": "daily", "when": [{{"path": "tool", "operator": "==", "value": "pay"}}],
            "per": ["agent_id"], "sum": "args.amount", "limit": {limit}, {more}}}]}}"#
    );
    Policy::parse(text.as_bytes()).unwrap_or_else(|problems| panic!("{text}: {problems}"))
}

#[test]
fn changes_of_budgets_have_the_number_of_equal_requests() {
    let deny = r#""window": "24h", "on_exceed": "deny", "reason": "over""#;
    let ask = r#""window": "24h", "on_exceed": "require_approval", "reason": "over""#;
    let none = Policy::parse(
        br#"{"id": "p", "version": 2, "rules": [{"name": "pay", "decision": "allow", "reason": "ok", "when": [
            {"path": "tool", "operator": "==", "value": "pay"},
            {"path": "args.amount", "operator": ">", "value": 0},
            {"path": "args.amount", "operator": "<=", "value": 100}]}]}"#,
    );
    let none = none.unwrap();
    let kinds = |old: &Policy, new: &Policy| {
        let changes = new.changes_from(old);
        assert_eq!(changes.open, []);
        let of = |change: &super::Change| {
            (change.old.decision, change.new.decision, change.members.clone(), change.times > 1)
        };
        changes.found.iter().map(of).collect::<Vec<_>>()
    };
    let (all, decision) = ((Decision::Allow, Decision::Deny, Decision::RequireApproval), vec!["decision"]);
    let (allow, deny_word, approval) = all;
    let both = vec!["decision", "reason_code"];
    // Loosened and tightened.
    for (limit, other, before, after) in [("500", "900", deny_word, allow), ("900", "500", allow, deny_word)]
    {
        let found = kinds(&with_budget(limit, deny), &with_budget(other, deny));
        assert_eq!(found, [(before, after, both.clone(), true)]);
    }
    // Removed and added. An amount of more decimal places cannot be measured, so it is denied.
    let found = kinds(&with_budget("500", deny), &none);
    assert_eq!(found, [false, true].map(|times| (deny_word, allow, both.clone(), times)));
    let found = kinds(&none, &with_budget("500", ask));
    assert_eq!(found, [(allow, deny_word, both.clone(), false), (allow, approval, both.clone(), true)]);
    // The first request does not fit.
    let found = kinds(&with_budget("500", deny), &with_budget("50", deny));
    assert!(found.contains(&(allow, deny_word, both.clone(), false)), "{found:?}");
    // The answer to an exceeded budget.
    let found = kinds(&with_budget("500", deny), &with_budget("500", ask));
    assert_eq!(found, [(deny_word, approval, decision, true)]);
    let found = kinds(&with_budget("500", deny), &with_budget("500", &deny.replace("over", "above")));
    assert_eq!(found, [(deny_word, deny_word, vec!["reason_code"], true)]);
    // Another window needs another state.
    let changes = with_budget("500", &deny.replace("24h", "48h")).changes_from(&with_budget("500", deny));
    assert_eq!(changes.found.len(), 0);
    assert!(changes.open.iter().any(|open| open.because.contains("daily")), "{changes:?}");
}

#[test]
fn changes_depend_on_histories_and_leave_opaque_questions_open() {
    let [old, new] = ["wider-history.old.json", "wider-history.json"].map(|name| policy(name).unwrap());
    let changes = new.changes_from(&old);
    let found: Vec<_> = changes.found.iter().map(|of| (of.old.decision, of.new.decision)).collect();
    assert_eq!((found, changes.open.len()), (vec![(Decision::Deny, Decision::Allow)], 0));
    let text = |pattern: &str| {
        format!(
            r#"{{"id": "p", "version": 1, "rules": [{{"name": "r", "decision": "allow", "reason": "ok", "when": [
            {{"path": "goal", "operator": "matches", "value": "{pattern}"}},
            {{"path": "goal", "operator": "matches", "value": "^(a|b)$"}}]}}]}}"#
        )
    };
    let [old, new] = ["^[ab]$", "^(b|a)$"].map(|pattern| Policy::parse(text(pattern).as_bytes()).unwrap());
    let changes = new.changes_from(&old);
    assert!(changes.found.is_empty() && !changes.open.is_empty(), "{changes:?}");
}
