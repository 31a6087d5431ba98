use std::path::Path;

use super::super::{Cases, Policy};
use super::{Insight, InsightKind, rank};
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
                let found = found.map_or(super::Decision::Deny, super::Rule::decision);
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
