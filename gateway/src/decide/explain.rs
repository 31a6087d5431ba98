//! Human-readable explanations of rulings.

use std::borrow::Cow;

use super::ruling::{Demand, Grant, Ruling};
use crate::approvals::reason::APPROVED;
use crate::auth::ApiKey;
use crate::budget::MAX_ACCOUNT_BYTES;
use crate::policy::{Budget, Decision, OnExceed, Rule, Unmeasured};

/// Returns one sentence with the decision and its reason.
pub(super) fn summary(ruling: &Ruling<'_>, key: &ApiKey, tool: &str) -> String {
    let reason = ruling.reason();
    match ruling {
        Ruling::Approved { .. } => format!("A person approved this call of the tool {tool:?} ({APPROVED})."),
        Ruling::ByRule(rule) => by_rule(rule, tool),
        Ruling::Pending { demand, .. } | Ruling::ApprovalRequested { demand, .. } => match demand.budget {
            None => by_rule(demand.rule, tool),
            Some(budget) => over_budget(budget, tool),
        },
        Ruling::OverBudget { budget, .. } => over_budget(budget, tool),
        Ruling::NotMeasurable { problem, .. } => {
            let name = problem.budget.name();
            let problem = match &problem.path {
                Some(path) => format!("{path} is not a number of at least 0 with at most 9 decimal places"),
                None => format!(
                    "the values of its account have no canonical JSON of at most {MAX_ACCOUNT_BYTES} bytes"
                ),
            };
            format!(
                "The budget {name:?} cannot measure this call of the tool {tool:?}: {problem} ({reason})."
            )
        }
        Ruling::Halted(halt) => {
            format!("This call of the tool {tool:?} is stopped ({reason}): {}.", halt.explain())
        }
        Ruling::HistoryNotMeasurable { problem: Unmeasured(problem), .. } => {
            format!("The history of this call of the tool {tool:?} cannot be measured: {problem} ({reason}).")
        }
        Ruling::CredentialExpired(_) => {
            format!("The credential of the tool {tool:?} has expired ({reason}).")
        }
        Ruling::TooManyPending { limit, .. } => format!(
            "The tool {tool:?} needs a person's approval, but the limit of pending approvals is reached: \
            {limit} for this agent or ten times as many for this API key ({reason})."
        ),
        Ruling::ManifestChanged => {
            format!("The definition of the tool {tool:?} has changed since it was approved ({reason}).")
        }
        Ruling::ManifestUnknown => {
            format!("The definition of the tool {tool:?} is not approved ({reason}).")
        }
        Ruling::NoMatch => format!(
            "No rule of the policy {:?} matches this call of the tool {tool:?}, so it is denied ({reason}).",
            key.tenant.policy.id()
        ),
        Ruling::NotGranted(grant) => format!(
            "The API key {:?} is not permitted to make this call of the tool {tool:?}: its {} is not \
            granted to the key ({reason}).",
            key.name,
            member(*grant)
        ),
        Ruling::Passport(refusal) => {
            format!("The passport {refusal}, so this call of the tool {tool:?} is denied ({reason}).")
        }
        Ruling::Unapproved { .. } => {
            format!("This call of the tool {tool:?} needs a valid approval ({reason}).")
        }
    }
}

pub(crate) fn by_rule(rule: &Rule, tool: &str) -> String {
    let verb = match rule.decision() {
        Decision::Allow => "allows",
        Decision::Deny => "denies",
        Decision::RequireApproval => "requires a person's approval for",
    };
    format!("The rule {:?} {verb} the tool {tool:?} ({}).", rule.name(), rule.reason())
}

pub(crate) fn over_budget(budget: &Budget, tool: &str) -> String {
    let effect = match budget.on_exceed() {
        OnExceed::Deny => "is denied",
        OnExceed::RequireApproval => "needs a person's approval",
    };
    format!(
        "This call of the tool {tool:?} would exceed the budget {:?} of {} in {}, so it {effect} ({}).",
        budget.name(),
        budget.limit(),
        budget.window(),
        budget.reason()
    )
}

/// Returns the possible next steps, one sentence each.
pub(super) fn next_steps<'p>(ruling: &Ruling<'p>, key: &ApiKey) -> Vec<Cow<'p, str>> {
    match ruling {
        Ruling::Approved { .. } => Vec::new(),
        Ruling::ByRule(rule) => of_rule(rule),
        Ruling::Pending { demand, .. } | Ruling::ApprovalRequested { demand, .. } => of_demand(*demand),
        Ruling::OverBudget { budget, .. } => match budget.on_exceed() {
            OnExceed::Deny => vec![
                format!(
                    "Do not run it. Earlier actions leave the budget {:?} after {}.",
                    budget.name(),
                    budget.window()
                )
                .into(),
            ],
            OnExceed::RequireApproval => vec![UNTIL_APPROVED.into()],
        },
        Ruling::NotMeasurable { problem, .. } => vec![
            format!(
                "Do not run it. Send the arguments that the budget {:?} measures, in the form that the tool \
                expects.",
                problem.budget.name()
            )
            .into(),
        ],
        Ruling::Halted(_) => {
            vec!["Do not run it, and end running actions. Retry after an operator has lifted the halt.".into()]
        }
        Ruling::HistoryNotMeasurable { .. } => vec![
            format!(
                "Do not run it. Send the arguments that the history conditions of the policy {:?} read, in the \
                form that the tool expects.",
                key.tenant.policy.id()
            )
            .into(),
        ],
        Ruling::CredentialExpired(_) => {
            vec![
                "Do not run it. Ask an operator to set a new credential with `actpass-gateway vault \
                set`."
                    .into(),
            ]
        }
        Ruling::TooManyPending { .. } => {
            vec!["Do not run it. Retry after pending approvals are decided or expire.".into()]
        }
        Ruling::ManifestChanged | Ruling::ManifestUnknown => vec![
            "Do not run it until an operator has reviewed the tool's definition.".into(),
            "An operator can approve it with POST /api/v1/tools.".into(),
        ],
        Ruling::NoMatch => vec![
            format!(
                "Check the names and types of the arguments against the rules of the policy {:?}.",
                key.tenant.policy.id()
            )
            .into(),
            "If the action should be allowed, add a rule for it to the policy.".into(),
        ],
        Ruling::NotGranted(grant) => vec![
            format!(
                "Do not run it. Use a {} granted to the key ({}), or ask the gateway's operator for a key \
                with this grant.",
                member(*grant),
                granted(*grant, key)
            )
            .into(),
        ],
        Ruling::Passport(_) => {
            vec!["Do not run it. Request a passport that covers this action; it can be used once.".into()]
        }
        Ruling::Unapproved { .. } => {
            vec!["Do not run it. Send the request without an approval id to open a new approval.".into()]
        }
    }
}

/// The next step if an approval is required.
const UNTIL_APPROVED: &str = "Do not run it until a person approves it.";

fn of_demand(demand: Demand<'_>) -> Vec<Cow<'_, str>> {
    match demand.budget {
        None => of_rule(demand.rule),
        Some(_) => vec![UNTIL_APPROVED.into()],
    }
}

/// Returns the rule's steps, or the defaults of its decision.
fn of_rule(rule: &Rule) -> Vec<Cow<'_, str>> {
    match (rule.next_steps(), rule.decision()) {
        ([], Decision::Allow) => Vec::new(),
        ([], Decision::Deny) => {
            vec![format!("Do not run it. If it should be allowed, change the rule {:?}.", rule.name()).into()]
        }
        ([], Decision::RequireApproval) => vec![UNTIL_APPROVED.into()],
        (given, Decision::Allow | Decision::Deny | Decision::RequireApproval) => {
            given.iter().map(|step| step.as_str().into()).collect()
        }
    }
}

/// The request member that the grant restricts.
const fn member(grant: Grant) -> &'static str {
    match grant {
        Grant::Mode => "mode",
        Grant::Tool => "tool",
        Grant::User => "user_id",
    }
}

/// Lists what the key is granted.
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
