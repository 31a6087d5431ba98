//! The approvals page at `GET /`.
//!
//! The page is HTML that works without scripts; the script only refreshes it. [`session`] manages
//! logins, [`guard`] checks forms and adds security headers, [`show`] renders untrusted text.
//! Decisions use the same use case as the API.

mod assets;
mod guard;
mod halts;
mod passkeys;
mod session;
mod show;
mod sign_in;
mod view;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use actpass_protocol::{Json, Secret};
use axum::Router;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::middleware;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::sync::Semaphore;

use self::guard::Form;
use self::session::{Activity, Cookie, Cookies, Opener, Operator, Sessions};
use super::App;
use super::client::Client;
use super::error::{ApiError, Code};
use super::paging::{DEFAULT_PAGE_SIZE, read_page};
use super::receive::{drain, within_limit};
use crate::approvals::{Approval, Status};
use crate::auth::{ApiKeyHash, Capability};
use crate::request::DecisionNote;
use crate::service::{Authorized, DecisionSearch, ServiceError, VerifyScope};
use crate::sign_in::{SignIn, SignInError};
use crate::store::{Listing, Store};

/// Delay of the response to a wrong key, which slows down guessing.
const WRONG_KEY_DELAY: Duration = Duration::from_secs(1);

/// Maximum number of delayed responses. Beyond it, wrong keys are rejected immediately; a valid key
/// is always accepted.
const MAX_DELAYED_LOGINS: usize = 16;

/// Number of requests per page with their cards.
const CARDS_PER_PAGE: u32 = 50;

/// State of the page.
#[derive(Debug)]
pub(crate) struct Page {
    sessions: Sessions,
    sign_in: Option<SignIn>,
    attempts: Arc<Semaphore>,
    /// Whether the gateway itself terminates TLS.
    tls: bool,
    cookies: Cookies,
    /// Path of the page, without a trailing slash.
    base: Arc<str>,
}

impl Page {
    pub(crate) fn new(tls: bool, base: Arc<str>, store: Arc<dyn Store>, sign_in: Option<SignIn>) -> Self {
        let cookies = Cookies::new(Arc::clone(&base));
        Self {
            sessions: Sessions::new(cookies.clone(), store),
            sign_in,
            attempts: Arc::new(Semaphore::new(MAX_DELAYED_LOGINS)),
            tls,
            cookies,
            base,
        }
    }

    /// Returns the path of the page, without a trailing slash.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Returns whether the gateway itself terminates TLS.
    pub(super) fn has_tls(&self) -> bool {
        self.tls
    }

    /// Returns whether the request belongs to a session.
    pub(super) async fn is_logged_in(&self, app: &App, headers: &HeaderMap) -> bool {
        headers.contains_key(header::COOKIE)
            && operator(app, headers, Activity::Refresh).await.is_ok_and(|operator| operator.is_some())
    }

    /// Redirects to a path of the page.
    fn redirect(&self, path: &str) -> Response {
        Redirect::to(&format!("{}{path}", self.base)).into_response()
    }
}

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(index))
        .route("/live", get(live))
        .route("/approvals", get(approvals))
        .route("/approvals/reject", post(reject_selected))
        .route("/approvals/{id}", get(detail))
        .route("/budgets", get(budgets))
        .route("/decisions", get(decisions))
        .route("/approvals/{id}/approve", post(approve))
        .route("/approvals/{id}/reject", post(reject))
        .route("/assets/{name}", get(assets::serve))
        .route("/chain/verify", post(verify))
        .route("/halts", get(halts::show).post(halts::start))
        .route("/halts/{id}/lift", post(halts::lift))
        .route("/login", post(login))
        .route("/logout", post(logout))
        .route("/passkeys", get(passkeys::show).post(passkeys::register))
        .route("/passkeys/{id}/remove", post(passkeys::remove))
        .route("/sign-in", get(sign_in::begin))
        .route("/sign-in/callback", get(sign_in::callback))
        .route("/sign-in/logout", post(sign_in::logout))
        .route("/webhooks", get(webhooks::show))
        .route("/webhooks/dead_letters/{id}/redeliver", post(webhooks::redeliver))
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(middleware::from_fn(guard::security_headers))
}

/// Error of a browser request.
#[derive(Debug)]
enum PageError {
    Api(ApiError),
    /// The form cannot decide this approval; with the reason.
    Conflict(Box<(Operator, Approval, String)>),
    Form,
    LoggedOut,
    LoginForm,
    Origin,
    /// A sign-in failed; with the reason, if the person should know it.
    SignIn(Option<SignInError>),
    Token,
    TooManyAttempts,
    WrongKey,
}

impl From<ApiError> for PageError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<ServiceError> for PageError {
    fn from(error: ServiceError) -> Self {
        Self::Api(error.into())
    }
}

async fn index(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let response = async {
        let Some(operator) = operator(&app, &headers, Activity::Counts).await? else {
            return Ok(login_form(&app, &headers, StatusCode::OK, None));
        };
        let query = query.map(|Query(query)| query).unwrap_or_default();
        let done = match query.iter().find(|(name, _)| name == "decided") {
            Some((_, id)) => app.service.find_approval(&operator.key, id).await?,
            None => None,
        };
        overview(&app, &operator, done.map(|done| view::Done::Voted(Box::new(done))), &query).await
    };
    finish(&app, &headers, response).await
}

/// Returns the page for automatic refresh, which does not count as activity.
async fn live(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let response = async {
        let operator = operator(&app, &headers, Activity::Refresh).await?.ok_or(PageError::LoggedOut)?;
        let query = query.map(|Query(query)| query).unwrap_or_default();
        overview(&app, &operator, None, &query).await
    };
    finish(&app, &headers, response).await
}

async fn overview(
    app: &Arc<App>,
    operator: &Operator,
    done: Option<view::Done>,
    query: &[(String, String)],
) -> Result<Response, PageError> {
    within_limit(&operator.key)?;
    let tenant_id = &operator.key.tenant.id;
    let now = app.service.clock.seconds();
    let filter = view::Filter::read(query, &["agent", "tool"]);
    let listing = Listing {
        now,
        status: Some(Status::Pending),
        agent: filter.get("agent"),
        tool: filter.get("tool"),
        after: given(query, "after"),
        limit: CARDS_PER_PAGE,
        ..Listing::default()
    };
    let reader = Authorized::of(&operator.key, Capability::ListApprovals)?;
    let (pending, next) = app.service.list_approvals(reader, listing).await?;
    let listed: Vec<_> = view::listed(&pending).collect();
    let cards = cards(app, operator, &listed).await?;
    let cards = listed.iter().map(|approval| approval.id.clone()).zip(cards).collect();
    let ledger = match operator.key.role.may(Capability::ReadLedger) {
        true => {
            let chain = app.service.chain_status(tenant_id, VerifyScope::Incremental).await?;
            let last = app.service.last_decisions(tenant_id, &chain.head).await?;
            Some((chain, last))
        }
        false => None,
    };
    let halts = app.service.active_halts(&operator.key).await?;
    let bytes = pending.iter().map(|approval| approval.args.len()).sum();
    let operator = operator.clone();
    let base = Arc::clone(&app.page.base);
    let reload_refused = app.reloads.report().refused_at;
    let overview = view::Overview {
        base,
        operator,
        now,
        pending,
        cards,
        next,
        filter,
        done,
        ledger,
        halts,
        reload_refused,
    };
    Ok(app.service.run(bytes, move || overview.render()).await?)
}

/// Returns the value of a query parameter; `None` if it is missing or empty.
fn given(query: &[(String, String)], name: &str) -> Option<String> {
    let value = query.iter().find(|(given, _)| given == name).map(|(_, value)| value.clone());
    value.filter(|value| !value.is_empty())
}

/// Returns the cards of approvals, each with the operator's rights to decide it.
async fn cards(
    app: &App,
    operator: &Operator,
    approvals: &[&Approval],
) -> Result<Vec<view::Shown>, ServiceError> {
    let cards = app.service.cards(&operator.key.tenant, approvals).await?;
    let now = app.service.clock.seconds();
    let mut shown = Vec::with_capacity(cards.len());
    for (approval, card) in approvals.iter().zip(cards) {
        let is_pending = approval.status(now) == Status::Pending;
        let standing = match Authorized::of(&operator.key, Capability::DecideApprovals) {
            Ok(decider) if is_pending => Some(app.service.standing(decider, approval).await?),
            Ok(_) | Err(_) => None,
        };
        let approves = standing.as_ref().is_some_and(|standing| standing.approve.is_ok());
        let signing = match card.hash.as_deref().filter(|_| approves) {
            Some(hash) => app.service.signing(&operator.key, approval, hash).await?,
            None => None,
        };
        shown.push(view::Shown { card, standing, signing });
    }
    Ok(shown)
}

/// Lists approvals of any status, latest first.
async fn approvals(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let response = async {
        let operator = signed_in(&app, &headers).await?;
        let Query(query) = query.map_err(|_| ApiError::InvalidPath)?;
        let filter = view::Filter::read(&query, &["status", "agent", "tool"]);
        let now = app.service.clock.seconds();
        let listing = Listing {
            now,
            status: filter.get("status").and_then(|word| Status::parse(&word)),
            agent: filter.get("agent"),
            tool: filter.get("tool"),
            is_newest_first: true,
            after: given(&query, "after"),
            limit: DEFAULT_PAGE_SIZE,
        };
        let reader = Authorized::of(&operator.key, Capability::ListApprovals)?;
        let (approvals, next) = app.service.list_approvals(reader, listing).await?;
        let base = Arc::clone(&app.page.base);
        let list = view::Approvals { base, operator, now, approvals, filter, next };
        Ok(app.service.run(0, move || list.render()).await?)
    };
    finish(&app, &headers, response).await
}

/// Searches decisions, newest first.
async fn decisions(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let response = async {
        let operator = signed_in(&app, &headers).await?;
        let Query(query) = query.map_err(|_| ApiError::InvalidPath)?;
        let filter = view::Filter::read(&query, &["agent", "tool", "decision", "reason", "event"]);
        let search = DecisionSearch {
            agent: filter.get("agent"),
            tool: filter.get("tool"),
            decision: filter.get("decision"),
            reason: filter.get("reason"),
            event_id: filter.get("event"),
            before: given(&query, "before").and_then(|before| before.parse().ok()),
        };
        let reader = Authorized::of(&operator.key, Capability::ReadLedger)?;
        let result = app.service.search_decisions(reader, &search).await?;
        let base = Arc::clone(&app.page.base);
        let list = view::Decisions { base, operator, result, filter };
        Ok(app.service.run(0, move || list.render()).await?)
    };
    finish(&app, &headers, response).await
}

/// Lists the accounts of budgets.
async fn budgets(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let response = async {
        let operator = signed_in(&app, &headers).await?;
        let Query(query) = query.map_err(|_| ApiError::InvalidPath)?;
        let (after, limit) = read_page(&query).map_err(ApiError::from)?;
        let auditor = Authorized::of(&operator.key, Capability::ReadBudgets)?;
        let (accounts, next) = app.service.budget_accounts(auditor, after, limit).await?;
        let base = Arc::clone(&app.page.base);
        let is_first = after == 0;
        let list = view::Budgets { base, operator, accounts, is_first, next };
        Ok(app.service.run(0, move || list.render()).await?)
    };
    finish(&app, &headers, response).await
}

/// Shows one approval.
async fn detail(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    let response = async {
        let operator = signed_in(&app, &headers).await?;
        let Path(id) = id.map_err(|_| ApiError::InvalidPath)?;
        let approval = app.service.approval(&operator.key, &id).await?;
        Ok(render_detail(&app, operator, approval, None).await?)
    };
    finish(&app, &headers, response).await
}

async fn render_detail(
    app: &App,
    operator: Operator,
    approval: Approval,
    problem: Option<String>,
) -> Result<Response, ApiError> {
    let now = app.service.clock.seconds();
    let bytes = approval.args.len();
    let base = Arc::clone(&app.page.base);
    let shown = cards(app, &operator, &[&approval]).await?.pop().ok_or(ServiceError::Internal)?;
    let story = app.service.story(&operator.key.tenant.id, &approval).await?;
    let detail = view::ApprovalDetail { base, operator, now, approval, shown, story, problem };
    app.service.run(bytes, move || detail.render()).await
}

async fn approve(
    state: State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    decide(state, id, request, true).await
}

async fn reject(
    state: State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    decide(state, id, request, false).await
}

async fn decide(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
    approved: bool,
) -> Response {
    let headers = request.headers().clone();
    let response = async {
        let fields = ["note", "shown_hash", "token"];
        let (operator, form) = read_form(&app, request, &fields, Some("signature")).await?;
        let Path(id) = id.map_err(|_| ApiError::InvalidPath)?;
        let note = read_note(form.field("note"))?;
        let signature = form.all("signature").find(|text| !text.is_empty());
        let signature = signature.map(|text| Json::parse(text.as_bytes()).map_err(|_| PageError::Form));
        let ballot = (approved, note, signature.transpose()?);
        let decided = vote(&app, &operator, &id, form.field("shown_hash"), ballot).await?;
        Ok(app.page.redirect(&format!("/?decided={}", decided.id)))
    };
    finish(&app, &headers, response).await
}

/// Votes on the card in the form: refused if it has changed since.
async fn vote(
    app: &App,
    operator: &Operator,
    id: &str,
    shown_hash: &str,
    (approved, note, signature): (bool, Option<String>, Option<Json>),
) -> Result<Approval, PageError> {
    let conflict =
        |approval, problem| Err(PageError::Conflict(Box::new((operator.clone(), approval, problem))));
    let decider = Authorized::of(&operator.key, Capability::DecideApprovals)?;
    let approval = app.service.approval(&operator.key, id).await?;
    let now = app.service.clock.seconds();
    if approval.status(now) != Status::Pending {
        let problem = view::too_late(&approval, now);
        return conflict(approval, problem);
    }
    let shown = cards(app, operator, &[&approval]).await?.pop().ok_or(ServiceError::Internal)?;
    let Some(hash) = shown.card.hash.as_deref().filter(|hash| session::constant_time_eq(shown_hash, hash))
    else {
        let problem = "The request, its votes or its budgets have changed since this form. Nothing was \
            decided. The current card is shown below.";
        return conflict(approval, problem.to_owned());
    };
    if approved && let Some(withheld) = view::withheld(&approval, &shown)? {
        let problem = format!("{} It cannot be approved here. Nothing was decided.", withheld.why);
        return conflict(approval, problem);
    }
    let note = DecisionNote { note, on_behalf_of: None, shown_hash: Some(hash.to_owned()), signature };
    match app.service.decide_approval(decider, &approval, approved, note).await {
        Ok(decided) => Ok(decided),
        Err(ServiceError::AlreadyDecided(_)) => {
            let approval = app.service.approval(&operator.key, id).await?;
            let problem = view::too_late(&approval, app.service.clock.seconds());
            conflict(approval, problem)
        }
        Err(ServiceError::InvalidMember(invalid)) if invalid.member == "signature" => {
            conflict(approval, format!("Nothing was decided: the signature {}.", invalid.problem))
        }
        Err(error @ ServiceError::VoteRefused(..)) => {
            conflict(approval, format!("Nothing was decided: {}.", ApiError::from(error).message()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Rejects the selected requests with one note. Those that changed since the form stay.
async fn reject_selected(State(app): State<Arc<App>>, request: Request) -> Response {
    let headers = request.headers().clone();
    let response = async {
        let (operator, form) = read_form(&app, request, &["note", "token"], Some("select")).await?;
        let note = read_note(form.field("note"))?;
        let (mut rejected, mut refused) = (0, Vec::new());
        for selected in form.all("select") {
            let (id, shown_hash) = selected.split_once('.').ok_or(PageError::Form)?;
            match vote(&app, &operator, id, shown_hash, (false, note.clone(), None)).await {
                Ok(_) => rejected += 1,
                Err(PageError::Conflict(conflict)) => {
                    let (_, approval, problem) = *conflict;
                    refused.push((approval, problem));
                }
                Err(error) => return Err(error),
            }
        }
        overview(&app, &operator, Some(view::Done::Rejected { count: rejected, refused }), &[]).await
    };
    finish(&app, &headers, response).await
}

/// Reads the note with the API's limits. Browsers send CRLF line ends.
fn read_note(text: &str) -> Result<Option<String>, ApiError> {
    let text = text.replace("\r\n", "\n");
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let body = Json::Object(vec![("note".to_owned(), Json::from(text))]);
    Ok(DecisionNote::read(body)?.note)
}

async fn verify(State(app): State<Arc<App>>, request: Request) -> Response {
    let headers = request.headers().clone();
    let response = async {
        let (operator, _) = read_form(&app, request, &["token"], None).await?;
        Authorized::of(&operator.key, Capability::ReadLedger)?;
        app.service.chain_status(&operator.key.tenant.id, VerifyScope::Full).await?;
        Ok(app.page.redirect("/#chain"))
    };
    finish(&app, &headers, response).await
}

async fn login(State(app): State<Arc<App>>, request: Request) -> Response {
    let headers = request.headers().clone();
    let client = request.extensions().get::<Client>().map(|client| client.0);
    let response = async {
        let (parts, body) = request.into_parts();
        let secure = match guard::same_origin(&headers, &parts.uri, app.page.tls) {
            Ok(secure) => secure,
            Err(refusal) => {
                drain(body);
                return Err(refusal);
            }
        };
        let form = Form::read(&app, &headers, body, &["key", "token"], None).await?;
        let expected = login_token(&app, &headers).ok_or(PageError::LoginForm)?;
        if !session::constant_time_eq(form.field("token"), expected) {
            return Err(PageError::LoginForm);
        }
        let presented = Secret::new(form.field("key").trim());
        // A session is bound to no certificate and no DPoP key, so a bound key opens none.
        let key = app.find_key(presented.expose(), None);
        let key = key.filter(|key| key.role.may(Capability::UsePage) && key.dpop.is_none());
        // A valid key is always accepted, regardless of concurrent wrong keys.
        let Some(key) = key else {
            app.attempts.count(client).map_err(|_| PageError::TooManyAttempts)?;
            let attempts = Arc::clone(&app.page.attempts);
            let attempt = attempts.try_acquire_owned().map_err(|_| PageError::TooManyAttempts)?;
            // Runs to completion even if the client disconnects, so disconnecting does not speed up
            // guessing.
            let slowly = tokio::spawn(async move {
                tokio::time::sleep(WRONG_KEY_DELAY).await;
                drop(attempt);
            });
            slowly.await.map_err(|_| ServiceError::Internal)?;
            return Err(PageError::WrongKey);
        };
        tracing::Span::current().record("tenant", &*key.tenant.id).record("key", &*key.name);
        within_limit(key)?;
        if let Some(before) = operator(&app, &headers, Activity::Refresh).await? {
            app.page.sessions.close(&before).await.map_err(ServiceError::from)?;
        }
        let opener = Opener::Key(&ApiKeyHash::of(presented.expose()));
        let id = open_session(&app, opener, &key.tenant.id, secure).await?;
        tracing::info!("logged in");
        let mut response = app.page.redirect("/");
        let cookies = &app.page.cookies;
        let cookies = [cookies.set(Cookie::Session, &id, secure), cookies.unset(Cookie::Login, app.page.tls)];
        for cookie in cookies.into_iter().flatten() {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        Ok(response)
    };
    finish(&app, &headers, response).await
}

async fn logout(State(app): State<Arc<App>>, request: Request) -> Response {
    let headers = request.headers().clone();
    let response = async {
        let (operator, _) = read_form(&app, request, &["token"], None).await?;
        app.page.sessions.close(&operator).await.map_err(ServiceError::from)?;
        let mut response = app.page.redirect("/");
        for cookie in
            [true, false].into_iter().filter_map(|secure| app.page.cookies.unset(Cookie::Session, secure))
        {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        Ok(response)
    };
    finish(&app, &headers, response).await
}

/// Opens a session and returns its id.
async fn open_session(
    app: &App,
    opener: Opener<'_>,
    tenant_id: &Arc<str>,
    secure: bool,
) -> Result<Secret, ServiceError> {
    let opened = app.page.sessions.open(opener, tenant_id, secure, app.service.clock.seconds()).await;
    opened.map_err(|error| match error {
        session::OpenError::Random(_) => ServiceError::Internal,
        session::OpenError::Store(error) => error.into(),
    })
}

/// Returns the operator of the request's session.
async fn operator(
    app: &App,
    headers: &HeaderMap,
    counts: Activity,
) -> Result<Option<Operator>, ServiceError> {
    let at = (app.page.tls, app.service.clock.seconds());
    let sign_in = app.page.sign_in.as_ref();
    let operator = app.page.sessions.find(headers, &app.keyring, sign_in, at, counts).await?;
    if let Some(Operator { key, .. }) = &operator {
        tracing::Span::current().record("tenant", &*key.tenant.id).record("key", &*key.name);
    }
    Ok(operator)
}

/// Returns the operator of a request that counts as activity.
async fn signed_in(app: &App, headers: &HeaderMap) -> Result<Operator, PageError> {
    let operator = operator(app, headers, Activity::Counts).await?.ok_or(PageError::LoggedOut)?;
    within_limit(&operator.key)?;
    Ok(operator)
}

/// Reads a form of a logged-in operator from the operator's own page. Only the field `repeated` may
/// occur any number of times.
async fn read_form(
    app: &App,
    request: Request,
    fields: &[&str],
    repeated: Option<&str>,
) -> Result<(Operator, Form), PageError> {
    let (parts, body) = request.into_parts();
    let sender = async {
        guard::same_origin(&parts.headers, &parts.uri, app.page.tls)?;
        signed_in(app, &parts.headers).await
    };
    let operator = match sender.await {
        Ok(operator) => operator,
        Err(refusal) => {
            drain(body);
            return Err(refusal);
        }
    };
    let form = Form::read(app, &parts.headers, body, fields, repeated).await?;
    match session::constant_time_eq(form.field("token"), operator.token.expose()) {
        true => Ok((operator, form)),
        false => Err(PageError::Token),
    }
}

/// Returns the login form's token from the cookie.
fn login_token<'h>(app: &App, headers: &'h HeaderMap) -> Option<&'h str> {
    app.page.cookies.read(Cookie::Login, headers, app.page.tls)
}

fn login_form(app: &App, headers: &HeaderMap, status: StatusCode, problem: Option<&str>) -> Response {
    // Reuse the token, so that a login form in another tab stays valid.
    let known = login_token(app, headers).map(|token| Ok(Secret::new(token)));
    let response: Result<_, ApiError> =
        known.unwrap_or_else(session::random).map_err(|_| ServiceError::Internal.into()).and_then(|token| {
            let mut response =
                view::login(&app.page.base, status, problem, &token, app.page.sign_in.is_some())?;
            let cookie =
                app.page.cookies.set(Cookie::Login, &token, app.page.tls).ok_or(ServiceError::Internal)?;
            response.headers_mut().append(header::SET_COOKIE, cookie);
            Ok(response)
        });
    response.unwrap_or_else(IntoResponse::into_response)
}

async fn finish(
    app: &App,
    headers: &HeaderMap,
    response: impl Future<Output = Result<Response, PageError>>,
) -> Response {
    match response.await {
        Ok(response) => response,
        Err(refusal) => render_error(app, headers, refusal).await,
    }
}

/// Renders an error.
async fn render_error(app: &App, headers: &HeaderMap, refusal: PageError) -> Response {
    let failed = |status, code, message: &str| {
        let mut response =
            view::failure(&app.page.base, status, message).unwrap_or_else(IntoResponse::into_response);
        response.extensions_mut().insert(Code(code));
        response
    };
    let form = |status, code, problem| {
        let mut response = login_form(app, headers, status, Some(problem));
        response.extensions_mut().insert(Code(code));
        response
    };
    match refusal {
        PageError::Api(error) => {
            let (status, code) = error.status_and_code();
            let mut response = failed(status, code, &error.message());
            // Same Retry-After as in the API.
            if let Some(after) = error.into_response().headers().get(header::RETRY_AFTER) {
                response.headers_mut().insert(header::RETRY_AFTER, after.clone());
            }
            response
        }
        PageError::Conflict(conflict) => {
            let (operator, approval, problem) = *conflict;
            let mut response = render_detail(app, operator, approval, Some(problem))
                .await
                .unwrap_or_else(IntoResponse::into_response);
            if response.status() == StatusCode::OK {
                *response.status_mut() = StatusCode::CONFLICT;
                response.extensions_mut().insert(Code("page_conflict"));
            }
            response
        }
        PageError::Form => failed(StatusCode::BAD_REQUEST, "page_form", "Invalid form."),
        PageError::LoggedOut => {
            form(StatusCode::FORBIDDEN, "page_logged_out", "Your session has expired. Nothing was decided.")
        }
        PageError::LoginForm => form(
            StatusCode::FORBIDDEN,
            "page_login_form",
            "The form has expired, or cookies are disabled. Try again.",
        ),
        PageError::Origin => failed(
            StatusCode::FORBIDDEN,
            "page_origin",
            "The form did not come from this gateway's page. Nothing was done. If it did, check that the \
            proxy forwards the browser's Host header unchanged.",
        ),
        PageError::SignIn(None) => form(
            StatusCode::FORBIDDEN,
            "page_sign_in",
            "The sign-in has expired, or was begun in another browser. Try again.",
        ),
        PageError::SignIn(Some(SignInError::NoRole)) => form(
            StatusCode::FORBIDDEN,
            "page_sign_in_no_role",
            "You are signed in, but none of your groups has a role at this gateway.",
        ),
        PageError::SignIn(Some(error)) => {
            tracing::warn!(%error, "a sign-in failed");
            form(StatusCode::BAD_GATEWAY, "page_sign_in_failed", "The sign-in failed. Try again.")
        }
        PageError::Token => failed(
            StatusCode::FORBIDDEN,
            "page_token",
            "The form belongs to another session. Nothing was done. Reload the page and try again.",
        ),
        PageError::TooManyAttempts => {
            let mut response = form(
                StatusCode::TOO_MANY_REQUESTS,
                "page_attempts",
                "Too many failed logins. Try again in a few seconds.",
            );
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
            response
        }
        PageError::WrongKey => form(StatusCode::FORBIDDEN, "page_wrong_key", "Invalid operator key."),
    }
}
