//! Checks whether a passport covers an action.

use std::cmp::Ordering;

use actpass_protocol::Json;
use actpass_protocol::token::{Claims, PassportError};

/// The action that a passport must cover.
#[derive(Clone, Copy, Debug)]
pub struct Covered<'a> {
    /// The tool to call.
    pub tool: &'a str,
    /// The affected resource; can be empty.
    pub resource: &'a str,
    /// The goal of the agent.
    pub goal: &'a str,
    /// The arguments of the action.
    pub args: &'a Json,
}

/// Returns the first aspect of the action that the passport does not cover.
pub fn uncovered(claims: &Claims, action: &Covered<'_>) -> Option<PassportError> {
    let any_resource =
        matches!(claims.as_json().member("allowed_resources"), Some(Json::Array(items)) if items.is_empty());
    if !claims.texts("allowed_tools").any(|tool| tool == action.tool) {
        return Some(PassportError::Tool);
    }
    if !any_resource && !claims.texts("allowed_resources").any(|resource| resource == action.resource) {
        return Some(PassportError::Resource);
    }
    if claims.text("goal") != Some(action.goal) {
        return Some(PassportError::Goal);
    }
    let constraints =
        claims.as_json().member("resource_constraints").and_then(Json::as_object).unwrap_or_default();
    let within = constraints.iter().all(|(name, value)| is_within(name, value, action.args));
    (!within).then_some(PassportError::Constraint)
}

/// Returns the argument name and comparison of a numeric constraint; `None` for an equality
/// constraint.
pub fn bound(name: &str) -> Option<(&str, Ordering)> {
    let most = name.strip_prefix("max_").map(|argument| (argument, Ordering::Less));
    most.or_else(|| name.strip_prefix("min_").map(|argument| (argument, Ordering::Greater)))
}

/// Returns whether the constrained argument exists and satisfies the constraint.
fn is_within(name: &str, value: &Json, args: &Json) -> bool {
    let Some((argument, order)) = bound(name) else {
        return args.member(name).is_some_and(|found| found.same_value(value));
    };
    match (args.member(argument), value) {
        (Some(Json::Number(found)), Json::Number(value)) => {
            let found = found.compare(value);
            found == Ordering::Equal || found == order
        }
        (Some(_) | None, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"{"iss": "i", "aud": "a", "tenant_id": "t", "agent_id": "g", "user_id": null, "goal": "w",
        "allowed_tools": ["x", "y"], "allowed_resources": ["r"], "risk_tier": "low", "iat": 100, "exp": 200,
        "resource_constraints": {"max_amount": 10000, "min_amount": 1, "currency": "usd"}, "jti": "ap_1"}"#;

    fn claims(text: &str) -> Claims {
        Claims::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn coverage_compares_values() {
        let claims = claims(WHOLE);
        let uncovered = |tool, resource, goal, args: &str| {
            let args = Json::parse(args.as_bytes()).unwrap();
            uncovered(&claims, &Covered { tool, resource, goal, args: &args })
        };
        let fits = r#"{"amount": 10000, "currency": "usd"}"#;
        assert_eq!(uncovered("y", "r", "w", fits), None);
        assert_eq!(uncovered("z", "r", "w", fits), Some(PassportError::Tool));
        assert_eq!(uncovered("y", "", "w", fits), Some(PassportError::Resource));
        assert_eq!(uncovered("y", "r", "W", fits), Some(PassportError::Goal));
        for within in ["1", "1.0", "10000.0", "1e4", "0.5e1"] {
            let args = format!(r#"{{"currency": "usd", "amount": {within}}}"#);
            assert_eq!(uncovered("x", "r", "w", &args), None, "{within}");
        }
        for beyond in [
            "10001",
            "10000.0000000000000000001",
            "25000",
            "1e300",
            "0",
            "-5",
            "0.99",
            "\"5\"",
            "null",
            "[5]",
        ] {
            let args = format!(r#"{{"currency": "usd", "amount": {beyond}}}"#);
            assert_eq!(uncovered("x", "r", "w", &args), Some(PassportError::Constraint), "{beyond}");
        }
        for args in [
            "{}",
            r#"{"amount": 5}"#,
            r#"{"currency": "usd"}"#,
            r#"{"amount": 5, "currency": "USD"}"#,
            r#"{"amount": 5, "currency": ["usd"]}"#,
            r#"{"max_amount": 5, "currency": "usd"}"#,
        ] {
            assert_eq!(uncovered("x", "r", "w", args), Some(PassportError::Constraint), "{args}");
        }
    }

    #[test]
    fn empty_resources_allow_any_but_empty_tools_allow_none() {
        let args = Json::parse(br#"{"amount": 5, "currency": "usd"}"#).unwrap();
        let action = Covered { tool: "x", resource: "anything", goal: "w", args: &args };
        assert_eq!(uncovered(&claims(&WHOLE.replace("[\"r\"]", "[]")), &action), None);
        let none = claims(&WHOLE.replace(r#"["x", "y"]"#, "[]"));
        assert_eq!(uncovered(&none, &action), Some(PassportError::Tool));
    }

    #[test]
    fn equality_constraint_accepts_any_json() {
        let constraints = r#"{"to": {"a": [1]}, "dry_run": true, "note": null}"#;
        let from = r#"{"max_amount": 10000, "min_amount": 1, "currency": "usd"}"#;
        let claims = claims(&WHOLE.replace(from, constraints));
        for (args, refusal) in [
            (r#"{"to": {"a": [1.0]}, "dry_run": true, "note": null, "more": 1}"#, None),
            (r#"{"to": {"a": [2]}, "dry_run": true, "note": null}"#, Some(PassportError::Constraint)),
            (r#"{"to": {"a": [1]}, "dry_run": "true", "note": null}"#, Some(PassportError::Constraint)),
            (r#"{"to": {"a": [1]}, "dry_run": true}"#, Some(PassportError::Constraint)),
        ] {
            let args = Json::parse(args.as_bytes()).unwrap();
            let action = Covered { tool: "x", resource: "r", goal: "w", args: &args };
            assert_eq!(uncovered(&claims, &action), refusal, "{args}");
        }
    }
}
