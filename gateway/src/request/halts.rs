//! Requests about halts.

use actpass_protocol::Json;

use super::InvalidMember;
use super::body::BodyMembers;
use crate::halts::Scope;

/// Maximum of an epoch and of a number of actions: the integers that JSON carries exactly.
pub(crate) const MAX_INTEGER: i64 = (1 << 53) - 1;

/// A request to stop something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StartHalt {
    pub(crate) scope: Scope,
    /// The agent, the pattern of tools or the user.
    pub(crate) target: Option<String>,
    pub(crate) reason: String,
}

impl StartHalt {
    /// Validates and parses `body`.
    pub(crate) fn read(body: Json) -> Result<Self, InvalidMember> {
        let mut members = BodyMembers::with_known_members(body, &["scope", "id", "reason"])?;
        let scope = members.text("scope", 16)?;
        let scope = Scope::parse(&scope).ok_or_else(|| {
            InvalidMember::new(
                "scope",
                format_args!("expected agent, tool, user, tenant or all, found {scope:?}"),
            )
        })?;
        let target = match scope.has_target() {
            true => Some(members.text("id", 256)?),
            false => None,
        };
        if target.is_none() && members.optional_text("id", 256)?.is_some() {
            let problem = format_args!("unexpected with the scope {}; omit it", scope.as_str());
            return Err(InvalidMember::new("id", problem));
        }
        Ok(Self { scope, target, reason: members.text("reason", 2000)? })
    }
}

/// A request to lift a halt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LiftHalt {
    pub(crate) reason: String,
}

impl LiftHalt {
    /// Validates and parses `body`.
    pub(crate) fn read(body: Json) -> Result<Self, InvalidMember> {
        Ok(Self { reason: BodyMembers::with_known_members(body, &["reason"])?.text("reason", 2000)? })
    }
}

/// A client's confirmation that it has seen an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acknowledge {
    pub(crate) agent_id: Option<String>,
    pub(crate) epoch: u64,
    pub(crate) in_flight: u64,
    pub(crate) instance: Option<String>,
}

impl Acknowledge {
    /// Validates and parses `body`.
    pub(crate) fn read(body: Json) -> Result<Self, InvalidMember> {
        let mut members = BodyMembers::of(body)?;
        Ok(Self {
            agent_id: members.optional_text("agent_id", 256)?,
            epoch: members.integer("epoch", 1..=MAX_INTEGER)?,
            in_flight: members.integer("in_flight", 0..=MAX_INTEGER)?,
            instance: members.optional_text("instance", 128)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<StartHalt, String> {
        StartHalt::read(Json::parse(body.as_bytes()).unwrap()).map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn target_belongs_to_scope() {
        for (scope, has_target) in
            [("agent", true), ("tool", true), ("user", true), ("tenant", false), ("all", false)]
        {
            let with = read(&format!(r#"{{"scope": "{scope}", "id": "x", "reason": "r"}}"#));
            let without = read(&format!(r#"{{"scope": "{scope}", "reason": "r", "id": null}}"#));
            let (valid, invalid) = if has_target { (with, without) } else { (without, with) };
            let halt = valid.unwrap();
            assert_eq!((halt.scope.as_str(), halt.target.is_some(), &*halt.reason), (scope, has_target, "r"));
            assert!(invalid.unwrap_err().starts_with("id: "), "{scope}");
        }
        for (body, problem) in [
            (
                r#"{"scope": "agents", "id": "x", "reason": "r"}"#,
                "scope: expected agent, tool, user, tenant or all",
            ),
            (r#"{"id": "x", "reason": "r"}"#, "scope: missing"),
            (r#"{"scope": "agent", "id": "", "reason": "r"}"#, "id: expected a non-empty string"),
            (r#"{"scope": "agent", "id": 7, "reason": "r"}"#, "id: expected a string"),
            (r#"{"scope": "agent", "id": "x"}"#, "reason: missing"),
            (r#"{"scope": "agent", "id": "x", "reason": ""}"#, "reason: expected a non-empty string"),
            (r#"{"scope": "agent", "id": "x", "reason": "r", "agent": "y"}"#, "agent: unknown member"),
            ("[]", "body: expected an object"),
        ] {
            let error = read(body).unwrap_err();
            assert!(error.starts_with(problem), "{body}: {error}");
        }
    }
}
