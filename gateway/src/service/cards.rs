//! The card of a request, which a person reads before a decision, and its hash.
//!
//! The card depends on the request, its votes, the ledger before it, the policy, and the use of its
//! budgets, but not on the reader or the time. Its hash changes when any of it changes, so that a vote
//! identifies the card that was shown.

use std::sync::Arc;

use actpass_protocol::{Json, hash_payload};
use rust_decimal::Decimal;

use super::evidence::ChainReader;
use super::{Authorized, Service, ServiceError};
use crate::approvals::{Approval, Ballot, VoteOutcome};
use crate::auth::{Principal, Role, Tenant};
use crate::budget::{Account, Charge};
use crate::clock::rfc3339;
use crate::decide::explain;
use crate::ledger::{DECISION, DECISIONS};
use crate::object_writer::object;
use crate::policy::{Input, Policy, Rule, Values};
use crate::quorum::Vote;

/// Number of events before the request that are searched for decisions of its agent.
const SCANNED_EVENTS: u64 = 200;

/// Maximum number of decisions shown.
const MAX_EARLIER: usize = 5;

/// The card of a request.
#[derive(Clone, Debug)]
pub(crate) struct RequestCard {
    /// The rule that requires the approval.
    pub(crate) rule: Option<String>,
    /// One sentence with the decision and its reason.
    pub(crate) summary: String,
    /// The conditions of the rule.
    pub(crate) conditions: Vec<String>,
    /// Name of the key that requested it.
    pub(crate) key: Option<String>,
    /// The arguments that the policy reads: path and value.
    pub(crate) arguments: Vec<(String, Json)>,
    /// The accounts that it would claim from.
    pub(crate) budgets: Vec<BudgetEffect>,
    /// Notices about the policy or a budget, in sentences.
    pub(crate) notices: Vec<String>,
    /// The last decisions about the same agent before the request, newest first.
    pub(crate) earlier: Vec<EarlierDecision>,
    /// SHA-256 of its canonical JSON; `None` if it has no canonical form.
    pub(crate) hash: Option<String>,
}

/// The effect of an action on an account of a budget.
#[derive(Clone, Debug)]
pub(crate) struct BudgetEffect {
    pub(crate) charge: Charge,
    /// The use before it.
    pub(crate) used: Decimal,
}

impl BudgetEffect {
    /// The use after it.
    pub(crate) fn after(&self) -> Decimal {
        self.used.saturating_add(self.charge.amount)
    }

    /// Returns whether the use after it exceeds the limit.
    pub(crate) fn exceeds(&self) -> bool {
        self.charge.limit.is_some_and(|limit| self.after() > limit)
    }

    fn to_json(&self) -> Json {
        let number = |number: Decimal| Some(Json::String(number.normalize().to_string()));
        let Charge { account, amount, limit, window, .. } = &self.charge;
        object([
            ("name", Some(Json::from(&*account.budget))),
            ("account", Some(Json::from(&*account.key))),
            ("limit", limit.and_then(number)),
            ("used", number(self.used)),
            ("adds", number(*amount)),
            ("after", number(self.after())),
            ("window", Some(Json::String(window.to_string()))),
        ])
    }
}

/// An earlier decision about an agent.
#[derive(Clone, Debug)]
pub(crate) struct EarlierDecision {
    seq: u64,
    agent_id: Option<String>,
    key: String,
    pub(crate) at: String,
    pub(crate) decision: String,
    pub(crate) tool: String,
    pub(crate) reason: String,
}

impl EarlierDecision {
    fn of(seq: u64, text: &str) -> Option<Self> {
        let event = Json::parse(text.as_bytes()).ok()?;
        let text = |name: &str| event.member(name).and_then(Json::as_str).map(str::to_owned);
        if text("event_type")? != DECISION {
            return None;
        }
        Some(Self {
            seq,
            agent_id: text("agent_id"),
            key: text("key_name").unwrap_or_default(),
            at: text("created_at").unwrap_or_default(),
            decision: text("decision").unwrap_or_default(),
            tool: text("tool_id").unwrap_or_default(),
            reason: text("reason_code").unwrap_or_default(),
        })
    }

    fn to_json(&self) -> Json {
        object([
            ("at", Some(Json::from(&*self.at))),
            ("decision", Some(Json::from(&*self.decision))),
            ("tool", Some(Json::from(&*self.tool))),
            ("reason_code", Some(Json::from(&*self.reason))),
        ])
    }
}

/// The rights of a person to decide a pending approval.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    /// Why the person cannot approve it.
    pub(crate) approve: Result<(), ServiceError>,
    /// Whether the person may reject it.
    pub(crate) rejects: bool,
}

impl RequestCard {
    /// Returns the card as JSON: the members that the hash covers.
    pub(crate) fn to_json(&self, approval: &Approval) -> Json {
        let text = |text: &Option<String>| Some(text.as_deref().map_or(Json::Null, Json::from));
        let list = |items: &[String]| Json::Array(items.iter().map(|item| Json::from(&**item)).collect());
        let arguments = self.arguments.iter().map(|(path, value)| {
            object([("path", Some(Json::from(&**path))), ("value", Some(value.clone()))])
        });
        let opening = approval.opening.as_ref();
        let needed = opening
            .map(|opening| opening.requirement.seats_json(&opening.requirement.missing(&approval.votes)));
        object([
            ("id", Some(Json::from(&*approval.id))),
            ("action_hash", Some(Json::from(&*approval.action_hash))),
            ("tool", Some(Json::from(&*approval.tool))),
            ("resource", text(&approval.resource)),
            ("args", Json::parse(approval.args.as_bytes()).ok()),
            ("goal", Some(Json::from(&*approval.goal))),
            ("agent_id", text(&approval.agent_id)),
            ("user_id", text(&approval.user_id)),
            ("key", text(&self.key)),
            ("person", opening.map(|opening| Json::from(&*opening.person))),
            ("created_at", Some(Json::String(rfc3339(approval.created_at)))),
            ("deadline", Some(Json::String(rfc3339(approval.deadline)))),
            ("reason_code", Some(Json::from(&*approval.reason_code))),
            ("rule", text(&self.rule)),
            ("summary", Some(Json::from(&*self.summary))),
            ("conditions", Some(list(&self.conditions))),
            ("notices", Some(list(&self.notices))),
            ("arguments", Some(Json::Array(arguments.collect()))),
            ("budgets", Some(Json::Array(self.budgets.iter().map(BudgetEffect::to_json).collect()))),
            ("earlier", Some(Json::Array(self.earlier.iter().map(EarlierDecision::to_json).collect()))),
            ("votes", Some(Json::Array(approval.votes.iter().map(Vote::to_json).collect()))),
            ("needed", needed),
        ])
    }

    fn of(
        tenant: &Tenant,
        approval: &Approval,
        uses: &dyn Fn(&Account) -> Decimal,
        earlier: Vec<EarlierDecision>,
    ) -> Self {
        let policy = &tenant.policy;
        let event = approval.opening.as_ref().and_then(|opening| opening.event.as_deref());
        let recorded = |name: &str| event.and_then(|event| event.member(name)).and_then(Json::as_str);
        let name = event.and_then(rule_of);
        let rule = name.and_then(|name| policy.rule(name));
        let mut notices = Vec::new();
        if recorded("policy_hash").is_some_and(|hash| hash != policy.hash()) {
            notices.push(
                "The policy has changed since the request. The current policy decides when the action \
                runs; this card describes it by the current policy."
                    .to_owned(),
            );
        }
        let (arguments, charges) = with_input(approval, |input| {
            let mut values = Values::of(policy, input);
            let arguments = policy.arguments_read(&mut values, rule);
            let arguments = arguments.into_iter().map(|(path, value)| (path, value.clone())).collect();
            (arguments, charges(policy, &mut values, &mut notices))
        });
        let charged = charges.into_iter();
        let budgets = charged.map(|charge| BudgetEffect { used: uses(&charge.account), charge }).collect();
        let mut card = Self {
            rule: name.map(str::to_owned),
            summary: summary(policy, approval, rule),
            conditions: rule.map(|rule| policy.describe(rule)).unwrap_or_default(),
            key: recorded("key_name").map(str::to_owned),
            arguments,
            budgets,
            notices,
            earlier,
            hash: None,
        };
        card.hash = hash_payload(&card.to_json(approval)).ok();
        card
    }
}

/// Returns the charges of the action; adds a notice if a budget cannot measure it.
fn charges(policy: &Policy, values: &mut Values<'_, '_>, notices: &mut Vec<String>) -> Vec<Charge> {
    match policy.charges(values) {
        Ok(charges) => charges.into_iter().map(|(_, charge)| charge).collect(),
        Err(problem) => {
            let name = problem.budget.name();
            notices.push(format!("The budget {name:?} cannot measure the action, so it will be denied."));
            Vec::new()
        }
    }
}

/// Evaluates with the input of the request, without the passport, which is not stored.
fn with_input<T>(approval: &Approval, evaluate: impl FnOnce(&Input<'_>) -> T) -> T {
    let text = |text: &Option<String>| text.as_deref().map(Json::from);
    let args = Json::parse(approval.args.as_bytes()).ok();
    let (agent_id, resource, user_id) =
        (text(&approval.agent_id), text(&approval.resource), text(&approval.user_id));
    let (goal, tool) = (Json::from(&*approval.goal), Json::from(&*approval.tool));
    evaluate(&Input {
        agent_id: agent_id.as_ref(),
        args: args.as_ref(),
        goal: Some(&goal),
        passport: None,
        resource: resource.as_ref(),
        risk_tier: None,
        tool: Some(&tool),
        user_id: user_id.as_ref(),
    })
}

fn summary(policy: &Policy, approval: &Approval, rule: Option<&Rule>) -> String {
    let Approval { reason_code, tool, .. } = approval;
    let budget = policy.budgets().iter().find(|budget| budget.reason() == reason_code);
    match (rule.filter(|rule| rule.reason() == reason_code), budget) {
        (Some(rule), _) => explain::by_rule(rule, tool),
        (None, Some(budget)) => explain::over_budget(budget, tool),
        (None, None) => {
            format!(
                "The policy of that time requires a person's approval for the tool {tool:?} ({reason_code})."
            )
        }
    }
}

/// Returns the rule that decided, from the event.
fn rule_of(event: &Json) -> Option<&str> {
    match event.member("matched_rules")? {
        Json::Array(rules) => rules.first().and_then(Json::as_str),
        Json::Bool(_) | Json::Null | Json::Number(_) | Json::Object(_) | Json::String(_) => None,
    }
}

/// Returns the position of the event that opened the approval.
fn opened_at(approval: &Approval) -> Option<u64> {
    match approval.opening.as_ref()?.event.as_ref()?.member("seq")? {
        Json::Number(number) => number.as_str().parse().ok(),
        Json::Array(_) | Json::Bool(_) | Json::Null | Json::Object(_) | Json::String(_) => None,
    }
}

impl Service {
    /// Returns the cards of approvals of a tenant, in their order.
    ///
    /// An approver may see the use of the budgets of a request and the last decisions about its agent,
    /// although the role can read neither budgets nor the ledger.
    pub(crate) async fn cards(
        self: &Arc<Self>,
        tenant: &Tenant,
        approvals: &[&Approval],
    ) -> Result<Vec<RequestCard>, ServiceError> {
        let decisions = self.decisions_before(&tenant.id, approvals).await?;
        let mut accounts = Vec::new();
        for approval in approvals {
            let policy = &tenant.policy;
            let charges = with_input(approval, |input| {
                charges(policy, &mut Values::of(policy, input), &mut Vec::new())
            });
            for charge in charges {
                if !accounts.contains(&charge.account) {
                    accounts.push(charge.account);
                }
            }
        }
        let used = match accounts.is_empty() {
            true => Vec::new(),
            false => {
                let uses = self.store.budget_uses(&tenant.id, self.clock.millis(), &accounts);
                self.with_timeout(uses).await?
            }
        };
        let use_of = |account: &Account| {
            used.iter().find(|found| found.account == *account).map_or(Decimal::ZERO, |found| found.used)
        };
        Ok(approvals
            .iter()
            .map(|approval| RequestCard::of(tenant, approval, &use_of, earlier_of(approval, &decisions)))
            .collect())
    }

    /// Returns the rights of the principal to decide a pending approval, as the transaction would.
    pub(crate) async fn standing(
        &self,
        Authorized(who): Authorized<'_>,
        approval: &Approval,
    ) -> Result<Standing, ServiceError> {
        let Some(opening) = &approval.opening else {
            return Ok(Standing { approve: Err(ServiceError::ApprovalAltered), rejects: false });
        };
        let (approve, rejects) = match self.vote(who, approval, opening, true, None).await {
            Ok(vote) => {
                let mut ballot = self.ballot(who, vote, None, None);
                // The page requests the signature of a person with a passkey.
                if opening.requirement.is_signed()
                    && self.relying_party.is_some()
                    && !self.passkeys(who).await?.is_empty()
                {
                    ballot.vote.signature = Some(Json::Null);
                }
                let now = self.clock.seconds();
                let refused = match approval.evaluate(&ballot, now) {
                    VoteOutcome::Refused(refusal) => Err(Self::refused(opening, refusal)),
                    VoteOutcome::Decides | VoteOutcome::Counts => Ok(()),
                    VoteOutcome::TooLate => Err(ServiceError::AlreadyDecided(approval.status(now))),
                };
                ballot.vote.approved = false;
                (refused, approval.evaluate(&ballot, now) == VoteOutcome::Decides)
            }
            Err(error @ ServiceError::InvalidMember(_)) => (Err(error), false),
            Err(error) => return Err(error),
        };
        Ok(Standing { approve, rejects })
    }

    /// Returns the ballot of a principal's vote.
    pub(super) fn ballot(
        &self,
        who: &Principal,
        vote: Vote,
        note: Option<String>,
        shown_hash: Option<String>,
    ) -> Ballot {
        Ballot {
            vote,
            asker: who.asker(),
            rejects_all: who.role == Role::Operator,
            allow_self: self.allow_self_approval,
            note,
            shown_hash,
        }
    }

    /// Reads the decisions within [`SCANNED_EVENTS`] before each request, oldest first.
    async fn decisions_before(
        self: &Arc<Self>,
        tenant_id: &Arc<str>,
        approvals: &[&Approval],
    ) -> Result<Vec<EarlierDecision>, ServiceError> {
        let mut ends: Vec<_> = approvals
            .iter()
            .filter_map(|approval| opened_at(approval))
            .map(|seq| seq.saturating_sub(1))
            .collect();
        ends.sort_unstable();
        let (mut found, mut after) = (Vec::new(), 0);
        for end in ends {
            after = end.saturating_sub(SCANNED_EVENTS).max(after);
            let reader = ChainReader::new(self, tenant_id, DECISIONS.to_owned(), end);
            while after < end {
                let page = reader.page(after).await?;
                let Some(last) = page.last() else { break };
                after = last.seq;
                found.extend(page.iter().filter_map(|event| EarlierDecision::of(event.seq, &event.text)));
            }
        }
        Ok(found)
    }
}

/// Returns the last decisions about the agent of the request before it, or without an agent, of its
/// key.
fn earlier_of(approval: &Approval, decisions: &[EarlierDecision]) -> Vec<EarlierDecision> {
    let Some(opened) = opened_at(approval) else { return Vec::new() };
    let event = approval.opening.as_ref().and_then(|opening| opening.event.as_ref());
    let key = event.and_then(|event| event.member("key_name")).and_then(Json::as_str);
    let is_same = |decision: &&EarlierDecision| match &approval.agent_id {
        Some(agent) => decision.agent_id.as_ref() == Some(agent),
        None => decision.agent_id.is_none() && Some(&*decision.key) == key,
    };
    let start = opened.saturating_sub(SCANNED_EVENTS + 1);
    let range = decisions.iter().rev().filter(|decision| decision.seq < opened && decision.seq > start);
    range.filter(is_same).take(MAX_EARLIER).cloned().collect()
}
