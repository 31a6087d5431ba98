//! View models of the templates.

use std::collections::HashMap;
use std::sync::Arc;

use actpass_protocol::{Json, Secret, token};
use askama::Template;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use rust_decimal::Decimal;
use sha2::{Digest, Sha256};

use super::super::error::ApiError;
use super::assets::{ASSETS, Assets};
use super::session::Operator;
use super::show::{DisplayText, Folding, Segment, confusable_names};
use crate::approvals::{Approval, Status};
use crate::auth::Capability;
use crate::budget;
use crate::clock::rfc3339;
use crate::halts::{Halt, Scope};
use crate::ledger::{APPROVAL_VOTED, DECISION};
use crate::passkeys::{Passkey, RelyingParty};
use crate::quorum::{Requirement, Vote};
use crate::service::{
    BudgetEffect, ChainState, ChainStatus, EarlierDecision, LastDecision, RequestCard, SearchResult,
    ServiceError, Signing, Standing, WebhookQueue,
};
use crate::store::{AccountUse, DeadLetter};

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

/// The person's passkeys.
pub(super) struct Passkeys {
    pub(super) base: Arc<str>,
    pub(super) operator: Operator,
    /// The site; `None` if the gateway has no host name.
    pub(super) site: Option<RelyingParty>,
    pub(super) passkeys: Vec<Passkey>,
    pub(super) problem: Option<String>,
}

#[derive(Template)]
#[template(path = "passkeys.html")]
struct PasskeysPage<'a> {
    base: &'a str,
    assets: &'a Assets,
    who: SignedIn<'a>,
    rp_id: Option<&'a str>,
    challenge: String,
    /// A stable id of the person, for the authenticator.
    user: String,
    person: &'a str,
    known: String,
    rows: Vec<PasskeyRow<'a>>,
    problem: Option<&'a str>,
}

struct PasskeyRow<'a> {
    id: &'a str,
    name: DisplayText,
    created: &'a str,
}

impl Passkeys {
    pub(super) fn render(&self) -> Result<Response, ApiError> {
        let Self { base, operator, site, passkeys, problem } = self;
        let person = operator.key.person();
        let ids: Vec<_> = passkeys.iter().map(|passkey| passkey.key.kid()).collect();
        let user = Sha256::digest(format!("{}\n{person}", operator.key.tenant.id));
        let status = if problem.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
        page(
            status,
            &PasskeysPage {
                base,
                assets: &ASSETS,
                who: SignedIn::of(operator, Place::Passkeys),
                rp_id: site.as_ref().map(|site| &*site.id),
                challenge: RelyingParty::registration_challenge(operator.token.expose()),
                user: token::encode(user),
                person,
                known: ids.join(" "),
                rows: passkeys
                    .iter()
                    .map(|passkey| PasskeyRow {
                        id: passkey.key.kid(),
                        name: DisplayText::name(&passkey.name),
                        created: &passkey.created_at,
                    })
                    .collect(),
                problem: problem.as_deref(),
            },
        )
    }
}

/// The overview: pending approvals and the ledger's state.
pub(super) struct Overview {
    pub(super) base: Arc<str>,
    pub(super) operator: Operator,
    pub(super) now: i64,
    pub(super) pending: Vec<Approval>,
    /// The cards of those that are [`listed`], by id.
    pub(super) cards: HashMap<String, Shown>,
    /// Start of the next page, if any.
    pub(super) next: Option<String>,
    pub(super) filter: Filter,
    /// The effect of the form before this page.
    pub(super) done: Option<Done>,
    /// The ledger's state and the last decisions, if the role may read the ledger.
    pub(super) ledger: Option<(ChainStatus, Vec<LastDecision>)>,
    /// The active halts of the tenant.
    pub(super) halts: Vec<Arc<Halt>>,
    /// When the last reload of the settings was refused, if it was, in seconds since 1970.
    pub(super) reload_refused: Option<i64>,
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
    /// Whether any card can be selected.
    selects: bool,
    done: Option<DecisionNotice>,
    bulk: Option<BulkNotice<'a>>,
    ledger: Option<(ChainSummary, Vec<Row<'a>>)>,
    halts: Vec<HaltLine<'a>>,
    reload_refused: Option<String>,
    scopes: &'static [Scope],
}

impl Overview {
    pub(super) fn render(&self) -> Result<Response, ApiError> {
        let mut cards = Vec::with_capacity(self.pending.len());
        for approval in &self.pending {
            cards.push(Card::of(approval, self.cards.get(&approval.id), self.now, Folding::Long)?);
        }
        let more = if self.next.is_some() { "+" } else { "" };
        page(
            StatusCode::OK,
            &OverviewPage {
                base: &self.base,
                filter: &self.filter,
                next: self.next.as_ref().map(|next| self.filter.query(&[("after", next)])),
                assets: &ASSETS,
                who: SignedIn::of(&self.operator, Place::Requests),
                as_of: format_utc(self.now),
                waiting: format!("{}{more}", cards.len()),
                selects: cards.iter().any(|card| card.selection().is_some()),
                cards,
                done: match &self.done {
                    Some(Done::Voted(approval)) => DecisionNotice::of(approval, self.now),
                    Some(Done::Rejected { .. }) | None => None,
                },
                bulk: match &self.done {
                    Some(Done::Rejected { count, refused }) => Some(BulkNotice::of(*count, refused)),
                    Some(Done::Voted(_)) | None => None,
                },
                ledger: self
                    .ledger
                    .as_ref()
                    .map(|(chain, last)| (ChainSummary::of(chain), last.iter().map(Row::of).collect())),
                halts: self.halts.iter().map(|halt| HaltLine::of(halt)).collect(),
                reload_refused: self.reload_refused.map(format_utc),
                scopes: &Scope::ALL,
            },
        )
    }
}

/// A halt.
struct HaltLine<'a> {
    id: &'a str,
    what: DisplayText,
    by: DisplayText,
    reason: DisplayText,
    at: Timestamp,
}

impl<'a> HaltLine<'a> {
    fn of(halt: &'a Halt) -> Self {
        Self {
            id: &halt.id,
            what: DisplayText::name(&halt.what()),
            by: DisplayText::name(&halt.by),
            reason: DisplayText::prose(&halt.reason),
            at: Timestamp::of(halt.at),
        }
    }
}

/// The active halts, and a page of the lifted ones.
pub(super) struct Halts {
    pub(super) base: Arc<str>,
    pub(super) operator: Operator,
    /// The active halts of the tenant; `None` on later pages.
    pub(super) active: Option<Vec<Arc<Halt>>>,
    pub(super) lifted: Vec<Halt>,
    /// Start of the next page, if any.
    pub(super) next: Option<u64>,
}

#[derive(Template)]
#[template(path = "halts.html")]
struct HaltsPage<'a> {
    base: &'a str,
    assets: &'a Assets,
    who: SignedIn<'a>,
    active: Option<Vec<HaltLine<'a>>>,
    lifted: Vec<LiftedRow<'a>>,
    next: Option<u64>,
}

struct LiftedRow<'a> {
    halt: HaltLine<'a>,
    lifted_at: Timestamp,
    lifted_by: DisplayText,
    lift_reason: DisplayText,
}

impl Halts {
    pub(super) fn render(&self) -> Result<Response, ApiError> {
        let lifted = self.lifted.iter().filter_map(|halt| {
            let lifting = halt.lifted.as_ref()?;
            Some(LiftedRow {
                halt: HaltLine::of(halt),
                lifted_at: Timestamp::of(lifting.at),
                lifted_by: DisplayText::name(&lifting.by),
                lift_reason: DisplayText::prose(&lifting.reason),
            })
        });
        page(
            StatusCode::OK,
            &HaltsPage {
                base: &self.base,
                assets: &ASSETS,
                who: SignedIn::of(&self.operator, Place::Halts),
                active: self
                    .active
                    .as_ref()
                    .map(|active| active.iter().map(|halt| HaltLine::of(halt)).collect()),
                lifted: lifted.collect(),
                next: self.next,
            },
        )
    }
}

/// The webhooks with their queues, and a page of the messages that were set aside.
pub(super) struct Webhooks {
    pub(super) base: Arc<str>,
    pub(super) operator: Operator,
    /// The queues; `None` on later pages.
    pub(super) queues: Option<Vec<WebhookQueue>>,
    pub(super) dead_letters: Vec<DeadLetter>,
    /// Start of the next page, if any.
    pub(super) next: Option<i64>,
}

#[derive(Template)]
#[template(path = "webhooks.html")]
struct WebhooksPage<'a> {
    base: &'a str,
    assets: &'a Assets,
    who: SignedIn<'a>,
    queues: Option<Vec<QueueRow>>,
    dead_letters: Vec<DeadLetterRow<'a>>,
    next: Option<i64>,
}

struct QueueRow {
    name: DisplayText,
    form: &'static str,
    /// The number of messages that wait.
    count: String,
    /// The type and time of each.
    waiting: Vec<(&'static str, String)>,
    attempts: u32,
    retry_at: Option<Timestamp>,
    problem: Option<DisplayText>,
    dead: u64,
}

impl QueueRow {
    fn of(queue: &WebhookQueue) -> Self {
        let state = queue.state.as_ref();
        let failing = state.filter(|state| state.attempts > 0);
        let more = if queue.has_more { "+" } else { "" };
        let waiting = queue.waiting.iter();
        Self {
            name: DisplayText::name(&queue.webhook.name),
            form: queue.webhook.form.as_str(),
            count: format!("{}{more}", queue.waiting.len()),
            waiting: waiting.map(|message| (message.announcement.as_str(), clock(&message.since))).collect(),
            attempts: failing.map_or(0, |state| state.attempts),
            retry_at: failing.map(|state| Timestamp::of(state.retry_at.div_euclid(1000))),
            problem: failing.and_then(|state| state.problem.as_deref()).map(DisplayText::prose),
            dead: state.map_or(0, |state| state.dead),
        }
    }
}

struct DeadLetterRow<'a> {
    id: i64,
    failed: Timestamp,
    webhook: DisplayText,
    announcement: &'a str,
    problem: DisplayText,
    message_id: &'a str,
    is_queued: bool,
}

impl Webhooks {
    pub(super) fn render(&self) -> Result<Response, ApiError> {
        let dead_letters = self.dead_letters.iter().map(|dead| DeadLetterRow {
            id: dead.id,
            failed: Timestamp::of(dead.failed_at.div_euclid(1000)),
            webhook: DisplayText::name(&dead.cursor.webhook),
            announcement: &dead.announcement,
            problem: DisplayText::prose(&dead.problem),
            message_id: &dead.message_id,
            is_queued: dead.is_queued,
        });
        page(
            StatusCode::OK,
            &WebhooksPage {
                base: &self.base,
                assets: &ASSETS,
                who: SignedIn::of(&self.operator, Place::Webhooks),
                queues: self.queues.as_ref().map(|queues| queues.iter().map(QueueRow::of).collect()),
                dead_letters: dead_letters.collect(),
                next: self.next,
            },
        )
    }
}

/// The effect of a form.
pub(super) enum Done {
    /// It voted on this approval.
    Voted(Box<Approval>),
    /// It rejected several; with those that it did not reject, and why.
    Rejected { count: usize, refused: Vec<(Approval, String)> },
}

/// The card of an approval, and the person's rights to decide it while it is pending.
pub(super) struct Shown {
    pub(super) card: RequestCard,
    pub(super) standing: Option<Standing>,
    /// The challenge that the person's passkey signs to approve it.
    pub(super) signing: Option<Signing>,
}

/// Returns those of the approvals that the list shows with their arguments.
pub(super) fn listed(approvals: &[Approval]) -> impl Iterator<Item = &Approval> {
    let mut left = MAX_LIST_BYTES;
    approvals.iter().filter(move |approval| {
        let bytes = approval.args.len();
        let shown = bytes <= MAX_CARD_BYTES && bytes <= left;
        left -= if shown { bytes } else { 0 };
        shown
    })
}

/// The fields of a search form; empty values match all.
pub(super) struct Filter {
    fields: Vec<(&'static str, String)>,
}

impl Filter {
    /// Reads the fields `names` from a query.
    pub(super) fn read(query: &[(String, String)], names: &[&'static str]) -> Self {
        let value = |name: &str| super::given(query, name).unwrap_or_default();
        Self { fields: names.iter().map(|name| (*name, value(name))).collect() }
    }

    /// Returns the value of a field; `None` if it is empty.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        Some(self.value(name).to_owned()).filter(|value| !value.is_empty())
    }

    fn value(&self, name: &str) -> &str {
        self.fields.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    fn is_set(&self) -> bool {
        self.fields.iter().any(|(_, value)| !value.is_empty())
    }

    /// Returns the query of another page.
    fn query(&self, place: &[(&str, &str)]) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let fields = self.fields.iter().map(|(name, value)| (*name, &**value));
        query.extend_pairs(fields.chain(place.iter().copied()).filter(|(_, value)| !value.is_empty()));
        query.finish()
    }
}

/// A page of approvals of any status.
pub(super) struct Approvals {
    pub(super) base: Arc<str>,
    pub(super) operator: Operator,
    pub(super) now: i64,
    pub(super) approvals: Vec<Approval>,
    pub(super) filter: Filter,
    /// Start of the next page, if any.
    pub(super) next: Option<String>,
}

#[derive(Template)]
#[template(path = "approvals.html")]
struct ApprovalsPage<'a> {
    base: &'a str,
    assets: &'a Assets,
    who: SignedIn<'a>,
    rows: Vec<ApprovalRow<'a>>,
    filter: &'a Filter,
    statuses: [Status; 4],
    next: Option<String>,
}

struct ApprovalRow<'a> {
    id: &'a str,
    created: Timestamp,
    status: &'static str,
    tool: DisplayText,
    agent: Option<DisplayText>,
    user: Option<DisplayText>,
    by: Option<DisplayText>,
}

impl Approvals {
    pub(super) fn render(&self) -> Result<Response, ApiError> {
        let name = |text: &Option<String>| text.as_deref().map(DisplayText::name);
        let rows = self.approvals.iter().map(|approval| ApprovalRow {
            id: &approval.id,
            created: Timestamp::of(approval.created_at),
            status: approval.status(self.now).as_str(),
            tool: DisplayText::name(&approval.tool),
            agent: name(&approval.agent_id),
            user: name(&approval.user_id),
            by: approval.decided.as_ref().map(|decided| DisplayText::name(&decided.by)),
        });
        page(
            StatusCode::OK,
            &ApprovalsPage {
                base: &self.base,
                assets: &ASSETS,
                who: SignedIn::of(&self.operator, Place::Approvals),
                rows: rows.collect(),
                filter: &self.filter,
                statuses: Status::ALL,
                next: self.next.as_ref().map(|next| self.filter.query(&[("after", next)])),
            },
        )
    }
}

/// A page of decisions.
pub(super) struct Decisions {
    pub(super) base: Arc<str>,
    pub(super) operator: Operator,
    pub(super) result: SearchResult,
    pub(super) filter: Filter,
}

#[derive(Template)]
#[template(path = "decisions.html")]
struct DecisionsPage<'a> {
    base: &'a str,
    assets: &'a Assets,
    who: SignedIn<'a>,
    last: Vec<Row<'a>>,
    filter: &'a Filter,
    words: [&'static str; 6],
    searched: String,
    next: Option<String>,
}

impl Decisions {
    pub(super) fn render(&self) -> Result<Response, ApiError> {
        let SearchResult { found, first, last, next } = &self.result;
        let searched = match first > last {
            true => "No events.".to_owned(),
            false => format!("Searched events {} to {}.", group_thousands(*first), group_thousands(*last)),
        };
        page(
            StatusCode::OK,
            &DecisionsPage {
                base: &self.base,
                assets: &ASSETS,
                who: SignedIn::of(&self.operator, Place::Decisions),
                last: found.iter().map(Row::of).collect(),
                filter: &self.filter,
                words: ["allow", "deny", "require_approval", "approved", "rejected", "voted"],
                searched,
                next: next.map(|next| self.filter.query(&[("before", &next.to_string())])),
            },
        )
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
                who: SignedIn::of(&self.operator, Place::Budgets),
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
    pub(super) shown: Shown,
    /// The events of its story.
    pub(super) story: Vec<LastDecision>,
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
    story: Vec<StoryLine<'a>>,
}

impl ApprovalDetail {
    pub(super) fn render(&self) -> Result<Response, ApiError> {
        let status = self.approval.status(self.now);
        page(
            StatusCode::OK,
            &ApprovalDetailPage {
                base: &self.base,
                assets: &ASSETS,
                who: SignedIn::of(&self.operator, Place::Other),
                card: Card::of(&self.approval, Some(&self.shown), self.now, Folding::Nothing)?,
                problem: self.problem.as_deref(),
                status: status.as_str(),
                outcome: Outcome::of(&self.approval, status),
                story: self.story.iter().map(StoryLine::of).collect(),
            },
        )
    }
}

/// An event of an approval's story.
struct StoryLine<'a> {
    at: &'a str,
    what: DisplayText,
    event_id: &'a str,
    shown_hash: Option<&'a str>,
}

impl<'a> StoryLine<'a> {
    fn of(event: &'a LastDecision) -> Self {
        let text = |member| event.text(member).unwrap_or_default();
        let person = || {
            let person = event.metadata("person").or(event.decided_by()).unwrap_or_default();
            let absent = event.metadata("for").map(|absent| format!(" for {absent}"));
            format!("{person}{}", absent.unwrap_or_default())
        };
        let what = match (text("event_type"), event.decision()) {
            (DECISION, "allow") => format!("Used: the action is allowed ({})", text("reason_code")),
            (DECISION, _) => format!("Requested with the key {} ({})", text("key_name"), text("reason_code")),
            (APPROVAL_VOTED, _) => format!("{} approved; more votes are needed", person()),
            (_, "approved") => format!("{} approved: the request is approved", person()),
            (_, "rejected") => format!("{} rejected: the request is rejected", person()),
            (_, _) => format!("The action ended: {}", event.metadata("ended").unwrap_or("unknown")),
        };
        Self {
            at: text("created_at"),
            what: DisplayText::name(&what),
            event_id: text("event_id"),
            shown_hash: event.metadata("shown_hash"),
        }
    }

    fn clock(&self) -> String {
        clock(self.at)
    }
}

/// Why an approval cannot be approved on the page.
pub(super) struct Withheld {
    pub(super) why: String,
    /// The record was changed, so it cannot be decided.
    altered: bool,
}

/// Returns why an approval cannot be approved on its detail page; `None` if it can.
pub(super) fn withheld(approval: &Approval, shown: &Shown) -> Result<Option<Withheld>, ApiError> {
    Ok(Card::of(approval, Some(shown), approval.created_at, Folding::Nothing)?.withheld)
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
    /// The current place in the navigation.
    place: Place,
    reads_ledger: bool,
    reads_budgets: bool,
    reads_halts: bool,
    reads_webhooks: bool,
    /// Whether the role may start and lift halts.
    halts: bool,
    /// Whether the role may send messages again.
    redelivers: bool,
    /// Whether the role may decide approvals.
    decides: bool,
}

/// A place in the navigation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Approvals,
    Budgets,
    Decisions,
    Halts,
    Other,
    Passkeys,
    Requests,
    Webhooks,
}

impl<'a> SignedIn<'a> {
    fn of(operator: &'a Operator, place: Place) -> Self {
        Self {
            name: DisplayText::name(&operator.key.name),
            tenant: DisplayText::name(&operator.key.tenant.id),
            token: operator.token.expose(),
            place,
            reads_ledger: operator.key.role.may(Capability::ReadLedger),
            reads_budgets: operator.key.role.may(Capability::ReadBudgets),
            reads_halts: operator.key.role.may(Capability::ReadHalts),
            reads_webhooks: operator.key.role.may(Capability::ReadWebhooks),
            halts: operator.key.role.may(Capability::Halt),
            redelivers: operator.key.role.may(Capability::Redeliver),
            decides: operator.key.role.may(Capability::DecideApprovals),
        }
    }
}

/// The parts of a card that are not in the request.
struct ShownCard<'a> {
    hash: Option<&'a str>,
    rule: Option<DisplayText>,
    summary: DisplayText,
    conditions: Vec<DisplayText>,
    notices: &'a [String],
    key: Option<DisplayText>,
    /// The requesting person, if different from the key.
    person: Option<DisplayText>,
    /// The arguments that the policy reads.
    read: Vec<(DisplayText, DisplayText)>,
    budgets: Vec<BudgetLine>,
    earlier: Vec<EarlierLine<'a>>,
    approves: bool,
    rejects: bool,
    /// Why the person cannot approve it.
    hindrance: Option<String>,
    signing: Option<SigningLine<'a>>,
}

/// The input of the script that signs.
struct SigningLine<'a> {
    statement: String,
    challenge: String,
    rp_id: &'a str,
    passkeys: String,
}

struct BudgetLine {
    name: DisplayText,
    account: DisplayText,
    window: String,
    limit: String,
    used: String,
    adds: String,
    after: String,
    exceeds: bool,
}

struct EarlierLine<'a> {
    at: &'a str,
    decision: DisplayText,
    kind: &'static str,
    tool: DisplayText,
    reason: DisplayText,
}

impl EarlierLine<'_> {
    fn clock(&self) -> String {
        clock(self.at)
    }
}

impl<'a> ShownCard<'a> {
    fn of(approval: &'a Approval, Shown { card, standing, signing }: &'a Shown, folds: Folding) -> Self {
        let person = approval.opening.as_ref().map(|opening| &*opening.person);
        let budget = |effect: &BudgetEffect| {
            let charge = &effect.charge;
            let number = |number: Decimal| number.normalize().to_string();
            BudgetLine {
                name: DisplayText::name(&charge.account.budget),
                account: DisplayText::name(&charge.account.key),
                window: charge.window.to_string(),
                limit: charge.limit.map(number).unwrap_or_default(),
                used: number(effect.used),
                adds: number(charge.amount),
                after: number(effect.after()),
                exceeds: effect.exceeds(),
            }
        };
        let earlier = |decision: &'a EarlierDecision| EarlierLine {
            at: &decision.at,
            decision: DisplayText::name(&decision.decision.replace('_', " ")),
            kind: kind(&decision.decision),
            tool: DisplayText::name(&decision.tool),
            reason: DisplayText::name(&decision.reason),
        };
        let standing = standing.as_ref();
        let refusal = standing.and_then(|standing| standing.approve.clone().err());
        Self {
            hash: card.hash.as_deref(),
            rule: card.rule.as_deref().map(DisplayText::name),
            summary: DisplayText::name(&card.summary),
            conditions: card.conditions.iter().map(|condition| DisplayText::name(condition)).collect(),
            notices: &card.notices,
            key: card.key.as_deref().map(DisplayText::name),
            person: person.filter(|person| Some(*person) != card.key.as_deref()).map(DisplayText::name),
            read: card
                .arguments
                .iter()
                .map(|(path, value)| (DisplayText::name(path), DisplayText::json(value, folds)))
                .collect(),
            // Afterwards, the use may contain the action itself.
            budgets: card.budgets.iter().filter(|_| approval.decided.is_none()).map(budget).collect(),
            earlier: card.earlier.iter().map(earlier).collect(),
            approves: standing.is_some_and(|standing| standing.approve.is_ok()),
            rejects: standing.is_some_and(|standing| standing.rejects),
            hindrance: refusal.map(|refusal| ApiError::from(refusal).message()),
            signing: signing.as_ref().map(|signing| SigningLine {
                statement: signing.statement.to_json().to_string(),
                challenge: signing.statement.challenge(),
                rp_id: &signing.rp_id,
                passkeys: signing.passkeys.join(" "),
            }),
        }
    }
}

/// An approval in the list or on its own page.
struct Card<'a> {
    id: &'a str,
    action_hash: &'a str,
    shown: Option<ShownCard<'a>>,
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
    /// Without a card, the arguments are not shown.
    fn of(
        approval: &'a Approval,
        shown: Option<&'a Shown>,
        now: i64,
        folds: Folding,
    ) -> Result<Self, ApiError> {
        let value = match shown.is_some() && approval.args.len() <= MAX_DETAIL_BYTES {
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
            shown: shown.map(|shown| ShownCard::of(approval, shown, folds)),
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
        if self.shown.as_ref().is_some_and(|shown| shown.hash.is_none()) {
            return because("The card has no canonical form, so no vote can identify it.".to_owned());
        }
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

    /// Returns whether the person may approve it here.
    fn approves(&self) -> bool {
        self.withheld.is_none() && self.shown.as_ref().is_some_and(|shown| shown.approves)
    }

    /// Returns whether the person may reject it here.
    fn rejects(&self) -> bool {
        !self.is_altered() && self.shown.as_ref().is_some_and(|shown| shown.rejects)
    }

    /// Returns the value that selects it for rejection with others.
    fn selection(&self) -> Option<String> {
        let hash = self.shown.as_ref().and_then(|shown| shown.hash).filter(|_| self.rejects())?;
        Some(format!("{}.{hash}", self.id))
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

/// Notice about several rejections just made.
struct BulkNotice<'a> {
    count: usize,
    refused: Vec<(&'a str, DisplayText, &'a str)>,
}

impl<'a> BulkNotice<'a> {
    fn of(count: usize, refused: &'a [(Approval, String)]) -> Self {
        let refused = refused
            .iter()
            .map(|(approval, problem)| (&*approval.id, DisplayText::name(&approval.tool), problem.as_str()));
        Self { count, refused: refused.collect() }
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
    event_id: &'a str,
}

impl<'a> Row<'a> {
    fn of(last: &'a LastDecision) -> Self {
        let name = |member| last.text(member).filter(|text: &&str| !text.is_empty()).map(DisplayText::name);
        Self {
            at: last.text("created_at").unwrap_or_default(),
            decision: DisplayText::name(&last.decision().replace('_', " ")),
            kind: kind(last.decision()),
            event_id: last.text("event_id").unwrap_or_default(),
            tool: name("tool_id"),
            reason: name("reason_code"),
            agent: name("agent_id"),
            by: last.decided_by().map(DisplayText::name),
            approval: last.text("approval_request_id"),
        }
    }

    fn clock(&self) -> String {
        clock(self.at)
    }
}

/// Formats the time of an event, such as 2026-01-02T03:04:05.678Z.
fn clock(at: &str) -> String {
    match (at.get(..10), at.get(11..19)) {
        (Some(day), Some(time)) => format!("{day} {time}"),
        _ => at.to_owned(),
    }
}

/// Returns the style of a decision word.
fn kind(decision: &str) -> &'static str {
    match decision {
        "allow" | "approved" => "good",
        "deny" | "rejected" => "bad",
        _ => "open",
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
