//! What a passport claims, and whether that covers what is asked.

use std::cmp::Ordering;

use actpass_core::Json;
use actpass_core::json::Number;

use super::Refusal;

/// How far ahead another gateway's clock may be, in seconds.
const LEEWAY: i64 = 5;

/// The claims of a passport whose signature was verified.
#[derive(Clone, Debug)]
pub struct Claims {
    json: Json,
    issued_at: i64,
    not_before: Option<i64>,
    expires_at: i64,
}

/// Who shows a passport, and to whom.
#[derive(Clone, Copy, Debug)]
pub struct Bearer<'a> {
    /// The issuer that this gateway is.
    pub issuer: &'a str,
    /// The audience that the request names.
    pub audience: Option<&'a str>,
    /// The tenant of the API key.
    pub tenant_id: &'a str,
    /// The agent; the outer `None` if any will do.
    pub agent_id: Option<Option<&'a str>>,
    /// The user; the outer `None` if any will do.
    pub user_id: Option<Option<&'a str>>,
}

/// What a passport must cover.
#[derive(Clone, Copy, Debug)]
pub struct Covered<'a> {
    /// The tool that would be called.
    pub tool: &'a str,
    /// What the action is done to; empty if nothing is named.
    pub resource: &'a str,
    /// What the agent is trying to achieve.
    pub goal: &'a str,
    /// The arguments of the action.
    pub args: &'a Json,
}

impl Claims {
    /// Reads the claims; `None` if one is missing or of another type.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let json = Json::parse(payload).ok()?;
        for name in ["iss", "aud", "tenant_id", "goal", "risk_tier", "jti"] {
            json.member(name)?.as_str()?;
        }
        for name in ["agent_id", "user_id"] {
            let value = json.member(name)?;
            if *value != Json::Null {
                value.as_str()?;
            }
        }
        for name in ["allowed_tools", "allowed_resources"] {
            let Json::Array(items) = json.member(name)? else {
                return None;
            };
            if !items.iter().all(|item| item.as_str().is_some()) {
                return None;
            }
        }
        json.member("resource_constraints")?.as_object()?;
        let not_before = match json.member("nbf") {
            Some(time) => Some(seconds(time)?),
            None => None,
        };
        let (issued_at, expires_at) = (seconds(json.member("iat")?)?, seconds(json.member("exp")?)?);
        Some(Self { json, issued_at, not_before, expires_at })
    }

    /// All claims, an object.
    pub fn as_json(&self) -> &Json {
        &self.json
    }

    /// The passport's id.
    pub fn jti(&self) -> &str {
        self.text("jti").unwrap_or_default()
    }

    /// The tools that it permits.
    pub fn allowed_tools(&self) -> impl Iterator<Item = &str> {
        self.texts("allowed_tools")
    }

    /// Everything that speaks against this bearer at `now`, in seconds since 1970; the weightiest first.
    pub fn against(&self, bearer: &Bearer<'_>, now: i64) -> Vec<Refusal> {
        let is = |name, value: Option<Option<&str>>| value.is_none_or(|value| value == self.text(name));
        let early =
            self.issued_at > now.saturating_add(LEEWAY) || self.not_before.is_some_and(|from| from > now);
        let found = [
            (self.text("iss") != Some(bearer.issuer), Refusal::Issuer),
            (bearer.audience != self.text("aud"), Refusal::Audience),
            (self.text("tenant_id") != Some(bearer.tenant_id), Refusal::Tenant),
            (!is("agent_id", bearer.agent_id), Refusal::Agent),
            (!is("user_id", bearer.user_id), Refusal::User),
            (now >= self.expires_at, Refusal::Expired),
            (early, Refusal::NotYetValid),
        ];
        found.into_iter().filter_map(|(wrong, refusal)| wrong.then_some(refusal)).collect()
    }

    /// The first thing about an action that the passport does not cover.
    pub fn uncovered(&self, action: &Covered<'_>) -> Option<Refusal> {
        let any_resource =
            matches!(self.json.member("allowed_resources"), Some(Json::Array(items)) if items.is_empty());
        if !self.allowed_tools().any(|tool| tool == action.tool) {
            return Some(Refusal::Tool);
        }
        if !any_resource && !self.texts("allowed_resources").any(|resource| resource == action.resource) {
            return Some(Refusal::Resource);
        }
        if self.text("goal") != Some(action.goal) {
            return Some(Refusal::Goal);
        }
        let constraints =
            self.json.member("resource_constraints").and_then(Json::as_object).unwrap_or_default();
        let within = constraints.iter().all(|(name, value)| is_within(name, value, action.args));
        (!within).then_some(Refusal::Constraint)
    }

    fn texts(&self, name: &str) -> impl Iterator<Item = &str> {
        let listed = match self.json.member(name) {
            Some(Json::Array(items)) => &**items,
            Some(_) | None => &[],
        };
        listed.iter().filter_map(Json::as_str)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.json.member(name).and_then(Json::as_str)
    }
}

/// The argument that a constraint bounds by number, and how it must compare; `None` if it must be equal.
pub fn bound(name: &str) -> Option<(&str, Ordering)> {
    let most = name.strip_prefix("max_").map(|argument| (argument, Ordering::Less));
    most.or_else(|| name.strip_prefix("min_").map(|argument| (argument, Ordering::Greater)))
}

/// Whether the argument that a constraint is about is there and is what the constraint says.
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

fn seconds(value: &Json) -> Option<i64> {
    match value {
        Json::Number(number) => Number::as_str(number).parse().ok(),
        Json::Array(_) | Json::Bool(_) | Json::Null | Json::Object(_) | Json::String(_) => None,
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

    const BEARER: Bearer<'static> = Bearer {
        issuer: "i",
        audience: Some("a"),
        tenant_id: "t",
        agent_id: Some(Some("g")),
        user_id: Some(None),
    };

    #[test]
    fn every_claim_is_needed() {
        let Json::Object(members) = Json::parse(WHOLE.as_bytes()).unwrap() else { panic!() };
        for at in 0..members.len() {
            let mut fewer = members.clone();
            fewer.remove(at);
            assert!(Claims::parse(Json::Object(fewer).to_string().as_bytes()).is_none(), "{}", members[at].0);
            let mut other = members.clone();
            other[at].1 = Json::Bool(true);
            assert!(Claims::parse(Json::Object(other).to_string().as_bytes()).is_none(), "{}", members[at].0);
        }
        for (from, to) in [
            ("200", "2e2"),
            ("[\"r\"]", "[1]"),
            ("\"jti\"", "\"nbf\": \"1\", \"jti\""),
            ("}", ""),
            ("low\"", "low\", \"iss\": 1"),
        ] {
            assert!(Claims::parse(WHOLE.replace(from, to).as_bytes()).is_none(), "{to}");
        }
    }

    #[test]
    fn bearers_are_compared() {
        let later = claims(&WHOLE.replace("\"jti\"", "\"nbf\": 151, \"jti\""));
        assert_eq!(later.against(&BEARER, 150), [Refusal::NotYetValid]);
        assert_eq!(later.against(&BEARER, 151), []);
        let claims = claims(WHOLE);
        assert_eq!(claims.against(&BEARER, 150), []);
        assert_eq!(claims.against(&Bearer { agent_id: None, user_id: None, ..BEARER }, 150), []);
        for (bearer, now, refusal) in [
            (Bearer { issuer: "j", ..BEARER }, 150, Refusal::Issuer),
            (Bearer { audience: Some("b"), ..BEARER }, 150, Refusal::Audience),
            (Bearer { audience: None, ..BEARER }, 150, Refusal::Audience),
            (Bearer { tenant_id: "u", ..BEARER }, 150, Refusal::Tenant),
            (Bearer { agent_id: Some(Some("h")), ..BEARER }, 150, Refusal::Agent),
            (Bearer { agent_id: Some(None), ..BEARER }, 150, Refusal::Agent),
            (Bearer { user_id: Some(Some("u")), ..BEARER }, 150, Refusal::User),
            (BEARER, 200, Refusal::Expired),
            (BEARER, 94, Refusal::NotYetValid),
        ] {
            assert_eq!(claims.against(&bearer, now), [refusal], "{bearer:?} {now}");
        }
        assert_eq!(claims.against(&BEARER, 199), []);
        assert_eq!(claims.against(&BEARER, 95), []);
        let all = claims.against(&Bearer { issuer: "j", audience: None, ..BEARER }, 300);
        assert_eq!(all, [Refusal::Issuer, Refusal::Audience, Refusal::Expired]);
    }

    #[test]
    fn actions_are_covered_by_value() {
        let claims = claims(WHOLE);
        let uncovered = |tool, resource, goal, args: &str| {
            let args = Json::parse(args.as_bytes()).unwrap();
            claims.uncovered(&Covered { tool, resource, goal, args: &args })
        };
        let fits = r#"{"amount": 10000, "currency": "usd"}"#;
        assert_eq!(uncovered("y", "r", "w", fits), None);
        assert_eq!(uncovered("z", "r", "w", fits), Some(Refusal::Tool));
        assert_eq!(uncovered("y", "", "w", fits), Some(Refusal::Resource));
        assert_eq!(uncovered("y", "r", "W", fits), Some(Refusal::Goal));
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
            assert_eq!(uncovered("x", "r", "w", &args), Some(Refusal::Constraint), "{beyond}");
        }
        for args in [
            "{}",
            r#"{"amount": 5}"#,
            r#"{"currency": "usd"}"#,
            r#"{"amount": 5, "currency": "USD"}"#,
            r#"{"amount": 5, "currency": ["usd"]}"#,
            r#"{"max_amount": 5, "currency": "usd"}"#,
        ] {
            assert_eq!(uncovered("x", "r", "w", args), Some(Refusal::Constraint), "{args}");
        }
    }

    #[test]
    fn an_empty_list_of_resources_is_any_and_of_tools_is_none() {
        let args = Json::parse(br#"{"amount": 5, "currency": "usd"}"#).unwrap();
        let action = Covered { tool: "x", resource: "anything", goal: "w", args: &args };
        assert_eq!(claims(&WHOLE.replace("[\"r\"]", "[]")).uncovered(&action), None);
        let none = claims(&WHOLE.replace(r#"["x", "y"]"#, "[]"));
        assert_eq!(none.uncovered(&action), Some(Refusal::Tool));
    }

    #[test]
    fn any_value_may_have_to_be_equal() {
        let constraints = r#"{"to": {"a": [1]}, "dry_run": true, "note": null}"#;
        let from = r#"{"max_amount": 10000, "min_amount": 1, "currency": "usd"}"#;
        let claims = claims(&WHOLE.replace(from, constraints));
        for (args, refusal) in [
            (r#"{"to": {"a": [1.0]}, "dry_run": true, "note": null, "more": 1}"#, None),
            (r#"{"to": {"a": [2]}, "dry_run": true, "note": null}"#, Some(Refusal::Constraint)),
            (r#"{"to": {"a": [1]}, "dry_run": "true", "note": null}"#, Some(Refusal::Constraint)),
            (r#"{"to": {"a": [1]}, "dry_run": true}"#, Some(Refusal::Constraint)),
        ] {
            let args = Json::parse(args.as_bytes()).unwrap();
            let action = Covered { tool: "x", resource: "r", goal: "w", args: &args };
            assert_eq!(claims.uncovered(&action), refusal, "{args}");
        }
    }
}
