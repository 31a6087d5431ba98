//! View models of the templates.

use std::sync::Arc;

use actpass_protocol::{Json, Secret};
use askama::Template;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};

use super::super::error::ApiError;
use super::assets::{ASSETS, Assets};
use super::session::Operator;
use super::show::{DisplayText, Folding, Segment, confusable_names};
use crate::approvals::{Approval, Status};
use crate::auth::Capability;
use crate::budget;
use crate::clock::rfc3339;
use crate::halts::{Halt, Scope};
use crate::quorum::{Requirement, Vote};
use crate::service::{ChainState, ChainStatus, LastDecision, ServiceError};
use crate::store::AccountUse;

/// Requests with larger arguments are shown and decided on their detail page only.
const MAX_CARD_BYTES: usize = 16 * 1024;

/// The same limit for the arguments of all requests together.
const MAX_LIST_BYTES: usize = 256 * 1024;

/// Larger arguments are not shown at all.
const MAX_DETAIL_BYTES: usize = 256 * 1024;

/// Lines of arguments shown in the list before folding.
const CARD_LINES: usize = 30;

fn page(status: StatusCode, template: &impl Template) -> Result<Response, ApiError> {
    let text = template.render().map_err(|error| {
        tracing::error!(%error, "the page could not be rendered");
        ServiceError::Internal
    })?;
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, html);
    Ok(response)
}

#[derive(Template)]
#[template(path = "failure.html")]
struct Failure<'a> {
    base: &'a str,
    assets: &'a Assets,
    message: &'a str,
}

/// Renders an error page.
pub(super) fn failure(base: &str, status: StatusCode, message: &str) -> Result<Response, ApiError> {
    page(status, &Failure { base, assets: &ASSETS, message })
}

#[derive(Template)]
#[template(path = "login.html")]
struct Login<'a> {
    base: &'a str,
    assets: &'a Assets,
    problem: Option<&'a str>,
    token: &'a str,
    /// Whether people can sign in at an identity provider.
    sign_in: bool,
}

/// Renders the login form.
pub(super) fn login(
    base: &str,
    status: StatusCode,
    problem: Option<&str>,
    token: &Secret,
    sign_in: bool,
) -> Result<Response, ApiError> {
    page(status, &Login { base, assets: &ASSETS, problem, token: token.expose(), sign_in })
}

#[derive(Template)]
#[template(path = "signed_in.html")]
struct SignedInPage<'a> {
    base: &'a str,
    assets: &'a Assets,
}

/// Renders the page that leads from a sign-in to the overview.
pub(super) fn signed_in(base: &str) -> Result<Response, ApiError> {
    page(StatusCode::OK, &SignedInPage { base, assets: &ASSETS })
}

/// The overview: pending approvals and the ledger's state.
pub(super) struct Overview {
    pub(super) base: Arc<str>,
    pub(super) operator: Operator,
    pub(super) now: i64,
    pub(super) pending: Vec<Approval>,
    /// Start of the next page, if any.
    pub(super) next: Option<String>,
    pub(super) filter: Filter,
    /// The approval decided by the form that redirected here.
    pub(super) done: Option<Approval>,
    /// The ledger's state and the last decisions, if the role may read the ledger.
    pub(super) ledger: Option<(ChainStatus, Vec<LastDecision>)>,
    /// The active halts of the tenant.
    pub(super) halts: Vec<Arc<Halt>>,
}

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage<'a> {
    base: &'a str,
    filter: &'a Filter,
    /// Query of the next page.
    next: Option<String>,
    assets: &'a Assets,
    who: SignedIn<'a>,
    as_of: String,
    waiting: String,
    cards: Vec<Card<'a>>,
    done: Option<DecisionNotice>,
    ledger: Option<(ChainSummary, Vec<Row<'a>>)>,
    halts: Vec<HaltLine<'a>>,
    /// The scopes that the operator may stop; empty for other roles.
    scopes: &'static [Scope],
}

impl Overview {
    pub(super) fn render(&self) -> Result<Response, ApiError> {
        let mut left = MAX_LIST_BYTES;
        let mut cards = Vec::with_capacity(self.pending.len());
        for approval in &self.pending {
            let bytes = approval.args.len();
            let shown = bytes <= MAX_CARD_BYTES && bytes <= left;
            left -= if shown { bytes } else { 0 };
            cards.push(Card::of(approval, self.now, shown, Folding::Long)?);
        }
        let more = if self.next.is_some() { "+" } else { "" };
        page(
            StatusCode::OK,
            &OverviewPage {
                base: &self.base,
                filter: &self.filter,
                next: self.next.as_ref().map(|next| self.filter.query(next)),
                assets: &ASSETS,
                who: SignedIn::of(&self.operator),
                as_of: format_utc(self.now),
                waiting: format!("{}{more}", cards.len()),
                cards,
                done: self.done.as_ref().and_then(|approval| DecisionNotice::of(approval, self.now)),
                ledger: self
                    .ledger
                    .as_ref()
                    .map(|(chain, last)| (ChainSummary::of(chain), last.iter().map(Row::of).collect())),
                halts: self.halts.iter().map(|halt| HaltLine::of(halt)).collect(),
                scopes: match self.operator.key.role.may(Capability::Halt) {
                    true => &Scope::ALL,
                    false => &[],
                },
            },
        )
    }
}

/// An active halt.
struct HaltLine<'a> {
    id: &'a str,
    what: DisplayText,
    by: DisplayText,
    reason: DisplayText,
    at: String,
}

impl<'a> HaltLine<'a> {
    fn of(halt: &'a Halt) -> Self {
        Self {
            id: &halt.id,
            what: DisplayText::name(&halt.what()),
            by: DisplayText::name(&halt.by),
            reason: DisplayText::prose(&halt.reason),
            at: format_utc(halt.at),
        }
    }
}

/// Filter of the list; empty members match all.
pub(super) struct Filter {
    pub(super) agent: String,
    pub(super) tool: String,
}

impl Filter {
    fn is_set(&self) -> bool {
        !self.agent.is_empty() || !self.tool.is_empty()
    }

    /// Returns the query of the page after the approval `after`.
    fn query(&self, after: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in [("agent", &*self.agent), ("tool", &*self.tool), ("after", after)] {
            if !value.is_empty() {
                query.append_pair(name, value);
            }
        }
        query.finish()
    }
}

/// A page of the accounts of budgets.
pub(super) struct Budgets {
    pub(super) base: Arc<str>,
    pub(super) operator: Operator,
    pub(super) accounts: Vec<AccountUse>,
    pub(super) is_first: bool,
    /// Start of the next page, if any.
    pub(super) next: Option<i64>,
}

#[derive(Template)]
#[template(path = "budgets.html")]
struct BudgetsPage<'a> {
    base: &'a str,
    assets: &'a Assets,
    who: SignedIn<'a>,
    rows: Vec<BudgetRow>,
    is_first: bool,
    next: Option<i64>,
}

/// An account of a budget. Without a budget of this name in the policy, its bounds are unknown.
struct BudgetRow {
    name: DisplayText,
    account: DisplayText,
    used: String,
    limit: String,
    remaining: String,
    window: String,
}

impl Budgets {
    pub(super) fn render(&self) -> Result<Response, ApiError> {
        let budgets = self.operator.key.tenant.policy.budgets();
        let row = |AccountUse { account, used, .. }: &AccountUse| {
            let defined = budgets.iter().find(|budget| budget.name() == account.budget);
            let shown = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
            let key = Json::parse(account.key.as_bytes()).map_err(|_| ServiceError::Internal)?;
            Ok(BudgetRow {
                name: DisplayText::name(&account.budget),
                account: DisplayText::json(&key, Folding::Nothing),
                used: used.normalize().to_string(),
                limit: shown(defined.map(|budget| budget.limit().normalize().to_string())),
                remaining: shown(defined.map(|budget| budget::remaining(budget.limit(), *used).to_string())),
                window: shown(defined.map(|budget| budget.window().to_string())),
            })
        };
        let rows = self.accounts.iter().map(row).collect::<Result<_, ApiError>>()?;
        page(
            StatusCode::OK,
            &BudgetsPage {
                base: &self.base,
                assets: &ASSETS,
                who: SignedIn::of(&self.operator),
                rows,
                is_first: self.is_first,
                next: self.next,
            },
        )
    }
}

/// The detail page of an approval.
pub(super) struct ApprovalDetail {
    pub(super) base: Arc<str>,
    pub(super) operator: Operator,
    pub(super) now: i64,
    pub(super) approval: Approval,
    pub(super) problem: Option<String>,
}

#[derive(Template)]
#[template(path = "detail.html")]
struct ApprovalDetailPage<'a> {
    base: &'a str,
    assets: &'a Assets,
    who: SignedIn<'a>,
    card: Card<'a>,
    problem: Option<&'a str>,
    status: &'static str,
    outcome: Option<Outcome>,
}

impl ApprovalDetail {
    pub(super) fn render(&self) -> Result<Response, ApiError> {
        let status = self.approval.status(self.now);
        page(
            StatusCode::OK,
            &ApprovalDetailPage {
                base: &self.base,
                assets: &ASSETS,
                who: SignedIn::of(&self.operator),
                card: Card::of(
                    &self.approval,
                    self.now,
                    self.approval.args.len() <= MAX_DETAIL_BYTES,
                    Folding::Nothing,
                )?,
                problem: self.problem.as_deref(),
                status: status.as_str(),
                outcome: Outcome::of(&self.approval, status),
            },
        )
    }
}

/// Why an approval cannot be approved on the page.
pub(super) struct Withheld {
    pub(super) why: String,
    /// The record was changed, so it cannot be decided.
    altered: bool,
}

/// Returns why an approval cannot be approved on its detail page; `None` if it can.
pub(super) fn withheld(approval: &Approval) -> Result<Option<Withheld>, ApiError> {
    let shown = approval.args.len() <= MAX_DETAIL_BYTES;
    Ok(Card::of(approval, approval.created_at, shown, Folding::Nothing)?.withheld)
}

/// Explains why a decision came too late.
pub(super) fn too_late(approval: &Approval, now: i64) -> String {
    match (&approval.decided, approval.status(now)) {
        (Some(decided), _) => {
            let word = if decided.approved { "approved" } else { "rejected" };
            let by = DisplayText::name(&decided.by).plain_text();
            format!("{by} already {word} this at {}. Your decision was not recorded.", format_utc(decided.at))
        }
        (None, _) => {
            format!(
                "The deadline passed at {}. Your decision was not recorded.",
                format_utc(approval.deadline)
            )
        }
    }
}

/// The logged-in person.
struct SignedIn<'a> {
    name: DisplayText,
    tenant: DisplayText,
    token: &'a str,
    /// Whether the role may decide approvals.
    decides: bool,
}

impl<'a> SignedIn<'a> {
    fn of(operator: &'a Operator) -> Self {
        Self {
            name: DisplayText::name(&operator.key.name),
            tenant: DisplayText::name(&operator.key.tenant.id),
            token: operator.token.expose(),
            decides: operator.key.role.may(Capability::DecideApprovals),
        }
    }
}

/// An approval in the list.
struct Card<'a> {
    id: &'a str,
    action_hash: &'a str,
    tool: DisplayText,
    resource: Option<DisplayText>,
    goal: DisplayText,
    agent: Option<DisplayText>,
    user: Option<DisplayText>,
    reason: DisplayText,
    created: Timestamp,
    deadline: Timestamp,
    age: String,
    /// Time left until the deadline.
    left: String,
    hurry: bool,
    bytes: usize,
    /// The arguments, if shown.
    arguments: Option<DisplayText>,
    /// The votes so far, one a person.
    votes: Vec<DisplayText>,
    /// The seats that votes must still fill; `None` if one person decides.
    needed: Option<DisplayText>,
    /// Why it cannot be approved here.
    withheld: Option<Withheld>,
}

impl<'a> Card<'a> {
    fn of(approval: &'a Approval, now: i64, shown: bool, folds: Folding) -> Result<Self, ApiError> {
        let value = match shown {
            true => Some(Json::parse(approval.args.as_bytes()).map_err(|_| ServiceError::Internal)?),
            false => None,
        };
        let arguments = value.as_ref().map(|value| DisplayText::json(value, folds));
        let left = approval.deadline.saturating_sub(now);
        let present =
            |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(DisplayText::name);
        let mut card = Self {
            id: &approval.id,
            action_hash: &approval.action_hash,
            tool: DisplayText::name(&approval.tool),
            resource: present(&approval.resource),
            goal: DisplayText::prose(&approval.goal),
            agent: present(&approval.agent_id),
            user: present(&approval.user_id),
            reason: DisplayText::name(&approval.reason_code),
            created: Timestamp::of(approval.created_at),
            deadline: Timestamp::of(approval.deadline),
            age: format_duration(now.saturating_sub(approval.created_at)),
            left: format_duration(left),
            hurry: left < 120,
            bytes: approval.args.len(),
            arguments,
            votes: approval.votes.iter().map(describe_vote).collect(),
            needed: needed(approval, now),
            withheld: None,
        };
        card.withheld = card.why_withheld(approval, value.as_ref());
        Ok(card)
    }

    /// Only content that is shown completely and unambiguously can be approved.
    fn why_withheld(&self, approval: &Approval, arguments: Option<&Json>) -> Option<Withheld> {
        let because = |why: String| Some(Withheld { why, altered: false });
        if approval.recompute_hash().as_ref() != Some(&approval.action_hash) {
            let why = "The record was changed after the agent asked: it does not match its action hash.";
            return Some(Withheld { why: why.to_owned(), altered: true });
        }
        let Some(arguments) = arguments else {
            return because(format!("The arguments are too large to display: {} bytes.", self.bytes));
        };
        if let Some((detail, other)) = confusable_names(arguments) {
            let (detail, other) =
                (DisplayText::name(&detail).plain_text(), DisplayText::name(&other).plain_text());
            return because(format!("Two arguments have confusable names: {detail} and {other}."));
        }
        if self.has_marks() {
            let why = "The request contains invisible or look-alike characters.";
            return because(why.to_owned());
        }
        None
    }

    fn is_altered(&self) -> bool {
        self.withheld.as_ref().is_some_and(|withheld| withheld.altered)
    }

    /// Returns whether parts are visible only after a click.
    fn is_folded(&self) -> bool {
        self.folded().2 > 0 || self.arguments.as_ref().is_some_and(DisplayText::folds)
    }

    /// Returns whether any text has marked characters.
    fn has_marks(&self) -> bool {
        let texts = [&self.resource, &self.agent, &self.user, &self.arguments].into_iter().flatten();
        texts.chain([&self.tool, &self.goal, &self.reason]).any(DisplayText::has_marks)
    }

    /// Returns the arguments as shown in the list.
    fn folded(&self) -> (&[Segment], &[Segment], usize) {
        self.arguments.as_ref().map_or((&[], &[], 0), |arguments| arguments.split(CARD_LINES))
    }
}

/// Describes a vote: the voter, the absent person, and the time.
fn describe_vote(vote: &Vote) -> DisplayText {
    let word = if vote.approved { "approved" } else { "rejected" };
    let absent = vote.delegated.as_ref().map(|seat| format!(" for {}", seat.person)).unwrap_or_default();
    DisplayText::name(&format!("{} {word}{absent} at {}", vote.person, format_utc(vote.at)))
}

/// Describes the empty seats of an approval that several people or certain groups must decide.
fn needed(approval: &Approval, now: i64) -> Option<DisplayText> {
    let opening =
        approval.opening.as_ref().filter(|opening| opening.requirement != Requirement::default())?;
    let seats = approval.still_needed(now);
    (!seats.is_empty()).then(|| DisplayText::name(&opening.requirement.describe(&seats)))
}

/// The outcome of an approval.
struct Outcome {
    word: &'static str,
    by: Option<DisplayText>,
    at: Timestamp,
    note: Option<DisplayText>,
    /// Additional information.
    more: &'static str,
}

impl Outcome {
    fn of(approval: &Approval, status: Status) -> Option<Self> {
        let Some(decided) = &approval.decided else {
            let expired = Self {
                word: "expired",
                by: None,
                at: Timestamp::of(approval.deadline),
                note: None,
                more: "The deadline passed without a decision. The agent can ask again.",
            };
            return (status == Status::Expired).then_some(expired);
        };
        let more = match (status, approval.spent) {
            (_, true) => "Used.",
            (Status::Approved, false) => "Not used yet.",
            (Status::Expired, false) => "Not used in time; it can no longer be used.",
            (Status::Pending | Status::Rejected, false) => "",
        };
        Some(Self {
            word: if decided.approved { "approved" } else { "rejected" },
            by: Some(DisplayText::name(&decided.by)),
            at: Timestamp::of(decided.at),
            note: decided.note.as_deref().map(DisplayText::prose),
            more,
        })
    }
}

/// Notice about the decision just made.
struct DecisionNotice {
    id: String,
    tool: DisplayText,
    outcome: Outcome,
}

impl DecisionNotice {
    fn of(approval: &Approval, now: i64) -> Option<Self> {
        let voted = |last: &Vote| Outcome {
            word: "voted on",
            by: Some(DisplayText::name(&last.by)),
            at: Timestamp::of(last.at),
            note: None,
            more: "",
        };
        let outcome = Outcome::of(approval, approval.status(now));
        let outcome = outcome.or_else(|| approval.votes.last().map(voted))?;
        Some(Self { id: approval.id.clone(), tool: DisplayText::name(&approval.tool), outcome })
    }
}

/// Summary of the chain of decisions.
struct ChainSummary {
    length: String,
    head: String,
    state: &'static str,
    words: String,
}

impl ChainSummary {
    fn of(chain: &ChainStatus) -> Self {
        let length = group_thousands(chain.head.length);
        let (state, words) = match chain.state {
            ChainState::Broken(first) => (
                "broken",
                format!(
                    "Event {} was changed or is missing. Later events cannot be trusted.",
                    group_thousands(first)
                ),
            ),
            ChainState::Busy => ("busy", "Verification in progress.".to_owned()),
            ChainState::Empty => ("whole", "No decisions yet.".to_owned()),
            ChainState::PartlyVerified(whole) => (
                "partly",
                format!("The first {} events are verified; verification continues.", group_thousands(whole)),
            ),
            ChainState::Complete(since) => {
                ("whole", format!("All events are verified. Verification started at {}.", format_utc(since)))
            }
        };
        Self { length, head: chain.head.hash.clone(), state, words }
    }
}

/// A row of the recent decisions.
struct Row<'a> {
    at: &'a str,
    decision: DisplayText,
    /// Style of the decision word.
    kind: &'static str,
    tool: Option<DisplayText>,
    reason: Option<DisplayText>,
    agent: Option<DisplayText>,
    by: Option<DisplayText>,
    approval: Option<&'a str>,
}

impl<'a> Row<'a> {
    fn of(last: &'a LastDecision) -> Self {
        let name = |member| last.text(member).filter(|text: &&str| !text.is_empty()).map(DisplayText::name);
        let kind = match last.decision() {
            "allow" | "approved" => "good",
            "deny" | "rejected" => "bad",
            _ => "open",
        };
        Self {
            at: last.text("created_at").unwrap_or_default(),
            decision: DisplayText::name(&last.decision().replace('_', " ")),
            kind,
            tool: name("tool_id"),
            reason: name("reason_code"),
            agent: name("agent_id"),
            by: last.decided_by().map(DisplayText::name),
            approval: last.text("approval_request_id"),
        }
    }

    fn clock(&self) -> String {
        // 2026-01-02T03:04:05.678Z
        match (self.at.get(..10), self.at.get(11..19)) {
            (Some(day), Some(time)) => format!("{day} {time}"),
            _ => self.at.to_owned(),
        }
    }
}

/// A time in machine-readable and display form.
struct Timestamp {
    machine: String,
    person: String,
}

impl Timestamp {
    fn of(seconds: i64) -> Self {
        Self { machine: rfc3339(seconds), person: format_utc(seconds) }
    }
}

/// Formats as `2026-01-02 03:04:05 UTC`.
fn format_utc(seconds: i64) -> String {
    rfc3339(seconds).replace('T', " ").replace('Z', " UTC")
}

/// Formats a duration with its two largest units.
fn format_duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) if minutes < 10 => format!("{minutes} min {seconds} s"),
        (0, 0, minutes, _) => format!("{minutes} min"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, ..) => format!("{days} d {hours} h"),
    }
}

/// Formats with thin spaces between thousands.
fn group_thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_abbreviated() {
        for (seconds, text) in [
            (-5, "0 s"),
            (59, "59 s"),
            (61, "1 min 1 s"),
            (599, "9 min 59 s"),
            (3599, "59 min"),
            (3661, "1 h 1 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(format_duration(seconds), text);
        }
    }

    #[test]
    fn large_numbers_use_thousands_separators() {
        for (number, text) in
            [(0, "0"), (999, "999"), (1000, "1\u{202f}000"), (1_234_567, "1\u{202f}234\u{202f}567")]
        {
            assert_eq!(group_thousands(number), text);
        }
    }
}
