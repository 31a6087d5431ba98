//! Policies: an accepted policy decides deterministically; a rejected one names the problem.

use actpass_core::Json;
use actpass_gateway::policy::{Cases, Input, Policy};

/// A policy and, after a zero byte, the arguments of an action.
pub(crate) fn run(data: &[u8]) {
    let (text, args) = match data.iter().position(|byte| *byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &b"{}"[..]),
    };
    // Parsing must not panic.
    let cases = Cases::parse(text);
    let policy = match Policy::parse(text) {
        Ok(policy) => policy,
        Err(problems) => {
            return assert!(!problems.to_string().trim().is_empty(), "rejected without a message");
        }
    };
    assert!(cases.is_err(), "one text is a policy and cases");
    let again = Policy::parse(text).expect("it was one a moment ago");
    assert_eq!(policy.hash(), again.hash());
    assert!(!policy.id().is_empty());
    let Ok(args) = Json::parse(args) else { return };
    for tool in ["stripe.refund.create", "crm.read", ""] {
        let tool = Json::from(tool);
        let input = Input { args: Some(&args), tool: Some(&tool), ..Input::default() };
        let decided = policy.first_match(&input).map(|rule| (rule.name(), rule.decision()));
        assert_eq!(decided, again.first_match(&input).map(|rule| (rule.name(), rule.decision())));
    }
    let nothing = policy.first_match(&Input::default());
    assert!(nothing.is_none_or(|rule| policy.rules().iter().any(|known| known.name() == rule.name())));
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for path in crate::files("policies", "json") {
        let text = std::fs::read(path).unwrap();
        for args in [
            &br#"{"amount":4900,"currency":"usd"}"#[..],
            br#"{"amount":1e3,"currency":["usd"],"x":{"y":null}}"#,
        ] {
            seeds.push([&text, &b"\0"[..], args].concat());
        }
        seeds.push(text);
    }
    for (operator, value) in [
        ("==", "1"),
        ("!=", "null"),
        ("<", "1.5"),
        (">=", "-1e3"),
        ("in", "[1,\"a\"]"),
        ("not_in", "[]"),
        ("exists", "false"),
        ("matches", "\"^a.*b$\""),
        ("contains", "\"x\""),
        ("starts_with", "\"x\""),
        ("between", "[1,2]"),
    ] {
        let condition = format!(r#"{{"path":"args.amount","operator":"{operator}","value":{value}}}"#);
        let rule = format!(r#"{{"name":"r","when":[{condition}],"decision":"allow","reason":"test.r"}}"#);
        seeds
            .push(format!(r#"{{"id":"p","version":1,"rules":[{rule}]}}{}{{"amount":1}}"#, '\0').into_bytes());
    }
    seeds
}
