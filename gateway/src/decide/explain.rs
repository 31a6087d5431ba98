//! Why a ruling is as it is, in words for people.

use std::borrow::Cow;

use super::ruling::{Grant, Ruling};
use crate::approvals::reason::APPROVED;
use crate::auth::ApiKey;
use crate::policy::{Decision, Rule};

/// One sentence that says what is decided and why.
pub(super) fn summary(ruling: &Ruling<'_>, key: &ApiKey, tool: &str) -> String {
    let reason = ruling.reason();
    match ruling {
        Ruling::Approved { .. } => format!("A person approved this call of the tool {tool:?} ({APPROVED})."),
        Ruling::ByRule(rule) | Ruling::Pending { rule, .. } | Ruling::ApprovalRequested { rule, .. } => {
            let verb = match rule.decision() {
                Decision::Allow => "allows",
                Decision::Deny => "denies",
                Decision::RequireApproval => "requires a person's approval for",
            };
            format!("The rule {:?} {verb} the tool {tool:?} ({}).", rule.name(), rule.reason())
        }
        Ruling::CredentialExpired(_) => {
            format!("The credential of the tool {tool:?} has expired ({reason}).")
        }
        Ruling::TooManyPending { limit, .. } => format!(
            "The tool {tool:?} needs a person's approval, and {limit} requests of this agent, or ten times as many of \
             this API key, wait for one already ({reason})."
        ),
        Ruling::ManifestChanged => {
            format!("The definition of the tool {tool:?} changed since it was approved ({reason}).")
        }
        Ruling::ManifestUnknown => {
            format!("The definition of the tool {tool:?} was never approved ({reason}).")
        }
        Ruling::NoMatch => format!(
            "No rule of the policy {:?} matches this call of the tool {tool:?}, so it is denied ({reason}).",
            key.tenant.policy.id()
        ),
        Ruling::NotGranted(grant) => format!(
            "The API key {:?} may not make this call of the tool {tool:?}: its {} is not among those that the key may \
             use ({reason}).",
            key.name,
            member(*grant)
        ),
        Ruling::Passport(refusal) => {
            format!("The passport {refusal}, so this call of the tool {tool:?} is denied ({reason}).")
        }
        Ruling::Unapproved { .. } => {
            format!("The call of the tool {tool:?} needs an approval and has none that holds ({reason}).")
        }
    }
}

/// What can be done, a sentence each.
pub(super) fn next_steps<'p>(ruling: &Ruling<'p>, key: &ApiKey) -> Vec<Cow<'p, str>> {
    match ruling {
        Ruling::Approved { .. } => Vec::new(),
        Ruling::ByRule(rule) | Ruling::Pending { rule, .. } | Ruling::ApprovalRequested { rule, .. } => of_rule(rule),
        Ruling::CredentialExpired(_) => {
            vec!["Do not run it. An operator sets a new credential: actpass-gateway vault set.".into()]
        }
        Ruling::TooManyPending { .. } => {
            vec!["Do not run it. Ask again after pending requests were decided, or have expired.".into()]
        }
        Ruling::ManifestChanged | Ruling::ManifestUnknown => vec![
            "Do not run it before an operator looked at the tool's definition.".into(),
            "An operator approves it with POST /api/v1/tools.".into(),
        ],
        Ruling::NoMatch => vec![
            format!(
                "Check the names and types of the arguments against the rules of the policy {:?}.",
                key.tenant.policy.id()
            )
            .into(),
            "If the action should be possible, add a rule for it to the policy.".into(),
        ],
        Ruling::NotGranted(grant) => vec![
            format!(
                "Do not run it. Use a {} that the key may use ({}), or ask the gateway's operator for a key that may.",
                member(*grant),
                granted(*grant, key)
            )
            .into(),
        ],
        Ruling::Passport(_) => {
            vec!["Do not run it. Ask for a passport that covers this action, and show it once.".into()]
        }
        Ruling::Unapproved { .. } => {
            vec!["Do not run it. Ask again without an approval to open a new request.".into()]
        }
    }
}

/// The steps that the rule names, or else those of its decision.
fn of_rule(rule: &Rule) -> Vec<Cow<'_, str>> {
    match (rule.next_steps(), rule.decision()) {
        ([], Decision::Allow) => Vec::new(),
        ([], Decision::Deny) => {
            vec![format!("Do not run it. If it should be allowed, change the rule {:?}.", rule.name()).into()]
        }
        ([], Decision::RequireApproval) => vec!["Do not run it before a person approved it.".into()],
        (given, Decision::Allow | Decision::Deny | Decision::RequireApproval) => {
            given.iter().map(|step| step.as_str().into()).collect()
        }
    }
}

/// The member of a request that the grant is about.
const fn member(grant: Grant) -> &'static str {
    match grant {
        Grant::Mode => "mode",
        Grant::Tool => "tool",
        Grant::User => "user_id",
    }
}

/// What the key may use, as a person reads it.
fn granted(grant: Grant, key: &ApiKey) -> String {
    match grant {
        Grant::Mode => {
            let modes: Vec<_> = key.grants.modes.iter().map(|mode| mode.as_str()).collect();
            modes.join(", ")
        }
        Grant::Tool => key.grants.tools.to_string(),
        Grant::User => key.grants.users.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}
