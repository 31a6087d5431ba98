//! The page for the people who approve: `GET /`.
//!
//! It is HTML that works without a script; the script only keeps it up to date. Who is logged in is in [`session`], what
//! a form must carry and what each answer says of itself in [`guard`], how text of unknown origin is shown in [`show`].
//! What a decision does is not here: the page settles an approval as the API does.

mod assets;
mod guard;
mod session;
mod show;
mod view;

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
use self::session::{Cookie, Cookies, Operator, Sessions, Use};
use super::App;
use super::approvals::LISTED;
use super::client::Client;
use super::error::{ApiError, Code};
use super::receive::{drain, within_limit};
use crate::approvals::{Approval, Status};
use crate::auth::{KeyHash, Role};
use crate::request::Opinion;
use crate::service::{Extent, OperatorKey, ServiceError};
use crate::store::Listing;

/// How long an answer to a wrong key takes, so that trying keys is slow.
const WRONG_KEY: Duration = Duration::from_secs(1);

/// How many answers to wrong keys may be due at once. Beyond that, wrong keys are turned away; a right one never is.
const WRONG_KEYS: usize = 16;

/// What the page keeps.
#[derive(Debug)]
pub(crate) struct Page {
    sessions: Sessions,
    attempts: Arc<Semaphore>,
    /// Whether the gateway itself ends TLS.
    tls: bool,
    cookies: Cookies,
    /// The path below which the page is, without a slash at its end.
    base: Arc<str>,
}

impl Page {
    pub(crate) fn new(tls: bool, base: Arc<str>) -> Self {
        let cookies = Cookies::new(Arc::clone(&base));
        Self {
            sessions: Sessions::new(cookies.clone()),
            attempts: Arc::new(Semaphore::new(WRONG_KEYS)),
            tls,
            cookies,
            base,
        }
    }

    /// Whether the gateway itself ends TLS.
    pub(super) fn has_tls(&self) -> bool {
        self.tls
    }

    /// Whether the request is of somebody who is logged in.
    pub(super) fn knows(&self, app: &App, headers: &HeaderMap) -> bool {
        headers.contains_key(header::COOKIE)
            && self
                .sessions
                .find(headers, &app.keyring, self.tls, app.service.clock.seconds(), Use::Refresh)
                .is_some()
    }

    /// A redirect to a path of the page.
    fn redirect(&self, path: &str) -> Response {
        Redirect::to(&format!("{}{path}", self.base)).into_response()
    }
}

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(index))
        .route("/live", get(live))
        .route("/approvals/{id}", get(one))
        .route("/approvals/{id}/approve", post(approve))
        .route("/approvals/{id}/reject", post(reject))
        .route("/assets/{name}", get(assets::serve))
        .route("/chain/verify", post(verify))
        .route("/login", post(login))
        .route("/logout", post(logout))
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(middleware::from_fn(guard::harden))
}

/// Why a request of a browser is not done.
#[derive(Debug)]
enum Refusal {
    Api(ApiError),
    /// This request cannot be decided by this form, and why.
    Conflict(Box<(Operator, Approval, String)>),
    Form,
    LoggedOut,
    LoginForm,
    Origin,
    Token,
    TooManyAttempts,
    WrongKey,
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<ServiceError> for Refusal {
    fn from(error: ServiceError) -> Self {
        Self::Api(error.into())
    }
}

async fn index(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let answer = async {
        let Some(operator) = operator(&app, &headers, Use::Counts) else {
            return Ok(login_form(&app, &headers, StatusCode::OK, None));
        };
        let query = query.map(|Query(query)| query).unwrap_or_default();
        let done = match query.iter().find(|(name, _)| name == "decided") {
            Some((_, id)) => app.service.find_approval(&operator.key, id).await?,
            None => None,
        };
        overview(&app, &operator, done, &query).await
    };
    finish(&app, &headers, answer).await
}

/// What refreshes the page: the same, but not a sign that anybody is there.
async fn live(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let answer = async {
        let operator = operator(&app, &headers, Use::Refresh).ok_or(Refusal::LoggedOut)?;
        let query = query.map(|Query(query)| query).unwrap_or_default();
        overview(&app, &operator, None, &query).await
    };
    finish(&app, &headers, answer).await
}

async fn overview(
    app: &Arc<App>,
    operator: &Operator,
    done: Option<Approval>,
    query: &[(String, String)],
) -> Result<Response, Refusal> {
    within_limit(&operator.key)?;
    let tenant_id = &operator.key.tenant.id;
    let now = app.service.clock.seconds();
    let given = |name: &str| {
        let value = query.iter().find(|(given, _)| given == name).map(|(_, value)| value.clone());
        value.filter(|value| !value.is_empty())
    };
    let filter =
        view::Filter { agent: given("agent").unwrap_or_default(), tool: given("tool").unwrap_or_default() };
    let listing = Listing {
        now,
        status: Some(Status::Pending),
        agent: given("agent"),
        tool: given("tool"),
        after: given("after"),
        limit: LISTED,
    };
    let (pending, next) = app.service.list_approvals(OperatorKey::of(&operator.key)?, listing).await?;
    let chain = app.service.chain_status(tenant_id, Extent::New).await?;
    let last = app.service.last_decisions(tenant_id, &chain.head).await?;
    let bytes = pending.iter().map(|approval| approval.args.len()).sum();
    let operator = operator.clone();
    let base = Arc::clone(&app.page.base);
    let overview = view::Overview { base, operator, now, pending, next, filter, done, chain, last };
    Ok(app.service.work(bytes, move || overview.render()).await?)
}

/// Everything about one request.
async fn one(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Response {
    let answer = async {
        let operator = operator(&app, &headers, Use::Counts).ok_or(Refusal::LoggedOut)?;
        within_limit(&operator.key)?;
        let Path(id) = id.map_err(|_| ApiError::InvalidPath)?;
        let approval = app.service.approval(&operator.key, &id).await?;
        Ok(show_one(&app, operator, approval, None).await?)
    };
    finish(&app, &headers, answer).await
}

async fn show_one(
    app: &App,
    operator: Operator,
    approval: Approval,
    problem: Option<String>,
) -> Result<Response, ApiError> {
    let now = app.service.clock.seconds();
    let bytes = approval.args.len();
    let base = Arc::clone(&app.page.base);
    app.service.work(bytes, move || view::One { base, operator, now, approval, problem }.render()).await
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
    let answer = async {
        let (operator, form) = submitted(&app, request, &["action_hash", "note", "token"]).await?;
        let Path(id) = id.map_err(|_| ApiError::InvalidPath)?;
        let approval = app.service.approval(&operator.key, &id).await?;
        // What is approved is what was seen: the hash of what the record shows, and not the one that it claims.
        if !session::same(form.field("action_hash"), approval.shown_hash().as_deref().unwrap_or_default()) {
            let problem = "This form was about another action than this request, so nothing was decided. \
                           Below is what is asked for.";
            return Err(Refusal::Conflict(Box::new((operator, approval, problem.to_owned()))));
        }
        if approved && let Some(withheld) = view::withheld(&approval)? {
            let problem = format!("{} So it cannot be approved here, and nothing was decided.", withheld.why);
            return Err(Refusal::Conflict(Box::new((operator, approval, problem))));
        }
        let note = read_note(form.field("note"))?;
        match app.service.settle(OperatorKey::of(&operator.key)?, &approval, approved, note).await {
            Ok(decided) => Ok(app.page.redirect(&format!("/?decided={}", decided.id))),
            Err(ServiceError::AlreadyDecided(_)) => {
                let now = app.service.approval(&operator.key, &id).await?;
                let problem = view::too_late(&now, app.service.clock.seconds());
                Err(Refusal::Conflict(Box::new((operator, now, problem))))
            }
            Err(error) => Err(error.into()),
        }
    };
    finish(&app, &headers, answer).await
}

/// The note of a form, by the rules of the API. A browser sends its lines with other ends than they were typed with.
fn read_note(text: &str) -> Result<Option<String>, ApiError> {
    let text = text.replace("\r\n", "\n");
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let body = Json::Object(vec![("note".to_owned(), Json::from(text))]);
    Ok(Opinion::read(body)?.note)
}

async fn verify(State(app): State<Arc<App>>, request: Request) -> Response {
    let headers = request.headers().clone();
    let answer = async {
        let (operator, _) = submitted(&app, request, &["token"]).await?;
        app.service.chain_status(&operator.key.tenant.id, Extent::Again).await?;
        Ok(app.page.redirect("/#chain"))
    };
    finish(&app, &headers, answer).await
}

async fn login(State(app): State<Arc<App>>, request: Request) -> Response {
    let headers = request.headers().clone();
    let client = request.extensions().get::<Client>().map(|client| client.0);
    let answer = async {
        let (parts, body) = request.into_parts();
        let secure = match guard::same_origin(&headers, &parts.uri, app.page.tls) {
            Ok(secure) => secure,
            Err(refusal) => {
                drain(body);
                return Err(refusal);
            }
        };
        let form = Form::read(&app, &headers, body, &["key", "token"]).await?;
        let expected = login_token(&app, &headers).ok_or(Refusal::LoginForm)?;
        if !session::same(form.field("token"), expected) {
            return Err(Refusal::LoginForm);
        }
        let presented = Secret::new(form.field("key").trim());
        let key = app.keyring.find(presented.expose()).filter(|key| key.role == Role::Operator);
        // A right key is never turned away, however many wrong ones come at the same time.
        let Some(key) = key else {
            app.attempts.count(client).map_err(|_| Refusal::TooManyAttempts)?;
            let attempts = Arc::clone(&app.page.attempts);
            let attempt = attempts.try_acquire_owned().map_err(|_| Refusal::TooManyAttempts)?;
            // It goes on if the caller goes away: who does not wait for the answer tries no faster.
            let slowly = tokio::spawn(async move {
                tokio::time::sleep(WRONG_KEY).await;
                drop(attempt);
            });
            slowly.await.map_err(|_| ServiceError::Internal)?;
            return Err(Refusal::WrongKey);
        };
        tracing::Span::current().record("tenant", &*key.tenant.id).record("key", &*key.name);
        within_limit(key)?;
        if let Some(before) = operator(&app, &headers, Use::Refresh) {
            app.page.sessions.close(&before);
        }
        let opened =
            app.page.sessions.open(KeyHash::of(presented.expose()), secure, app.service.clock.seconds());
        let id = opened.map_err(|_| ServiceError::Internal)?;
        tracing::info!("logged in");
        let mut response = app.page.redirect("/");
        let cookies = &app.page.cookies;
        let cookies = [cookies.set(Cookie::Session, &id, secure), cookies.unset(Cookie::Login, app.page.tls)];
        for cookie in cookies.into_iter().flatten() {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        Ok(response)
    };
    finish(&app, &headers, answer).await
}

async fn logout(State(app): State<Arc<App>>, request: Request) -> Response {
    let headers = request.headers().clone();
    let answer = async {
        let (operator, _) = submitted(&app, request, &["token"]).await?;
        app.page.sessions.close(&operator);
        let mut response = app.page.redirect("/");
        for cookie in
            [true, false].into_iter().filter_map(|secure| app.page.cookies.unset(Cookie::Session, secure))
        {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        Ok(response)
    };
    finish(&app, &headers, answer).await
}

/// Whose session it is.
fn operator(app: &App, headers: &HeaderMap, counts: Use) -> Option<Operator> {
    let now = app.service.clock.seconds();
    let operator = app.page.sessions.find(headers, &app.keyring, app.page.tls, now, counts)?;
    let key = &operator.key;
    tracing::Span::current().record("tenant", &*key.tenant.id).record("key", &*key.name);
    Some(operator)
}

/// A form with these fields, of somebody who is logged in, from their own page.
async fn submitted(app: &App, request: Request, fields: &[&str]) -> Result<(Operator, Form), Refusal> {
    let (parts, body) = request.into_parts();
    let sender = || {
        guard::same_origin(&parts.headers, &parts.uri, app.page.tls)?;
        let operator = operator(app, &parts.headers, Use::Counts).ok_or(Refusal::LoggedOut)?;
        within_limit(&operator.key)?;
        Ok(operator)
    };
    let operator = match sender() {
        Ok(operator) => operator,
        Err(refusal) => {
            drain(body);
            return Err(refusal);
        }
    };
    let form = Form::read(app, &parts.headers, body, fields).await?;
    match session::same(form.field("token"), operator.token.expose()) {
        true => Ok((operator, form)),
        false => Err(Refusal::Token),
    }
}

/// The login form's token, as the browser has it.
fn login_token<'h>(app: &App, headers: &'h HeaderMap) -> Option<&'h str> {
    app.page.cookies.read(Cookie::Login, headers, app.page.tls)
}

fn login_form(app: &App, headers: &HeaderMap, status: StatusCode, problem: Option<&str>) -> Response {
    // A form that is open in another tab stays good.
    let known = login_token(app, headers).map(|token| Ok(Secret::new(token)));
    let answer: Result<_, ApiError> =
        known.unwrap_or_else(session::random).map_err(|_| ServiceError::Internal.into()).and_then(|token| {
            let mut response = view::login(&app.page.base, status, problem, &token)?;
            let cookie =
                app.page.cookies.set(Cookie::Login, &token, app.page.tls).ok_or(ServiceError::Internal)?;
            response.headers_mut().append(header::SET_COOKIE, cookie);
            Ok(response)
        });
    answer.unwrap_or_else(IntoResponse::into_response)
}

async fn finish(
    app: &App,
    headers: &HeaderMap,
    answer: impl Future<Output = Result<Response, Refusal>>,
) -> Response {
    match answer.await {
        Ok(response) => response,
        Err(refusal) => refuse(app, headers, refusal).await,
    }
}

/// The answer to a request that is not done.
async fn refuse(app: &App, headers: &HeaderMap, refusal: Refusal) -> Response {
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
        Refusal::Api(error) => {
            let (status, code) = error.status_and_code();
            let mut response = failed(status, code, &error.message());
            // What the API says of when to try again, the page says too.
            if let Some(after) = error.into_response().headers().get(header::RETRY_AFTER) {
                response.headers_mut().insert(header::RETRY_AFTER, after.clone());
            }
            response
        }
        Refusal::Conflict(conflict) => {
            let (operator, approval, problem) = *conflict;
            let mut response = show_one(app, operator, approval, Some(problem))
                .await
                .unwrap_or_else(IntoResponse::into_response);
            if response.status() == StatusCode::OK {
                *response.status_mut() = StatusCode::CONFLICT;
                response.extensions_mut().insert(Code("page_conflict"));
            }
            response
        }
        Refusal::Form => failed(StatusCode::BAD_REQUEST, "page_form", "This is not a form of this page."),
        Refusal::LoggedOut => form(
            StatusCode::FORBIDDEN,
            "page_logged_out",
            "You are not logged in, or no longer. Nothing was decided.",
        ),
        Refusal::LoginForm => form(
            StatusCode::FORBIDDEN,
            "page_login_form",
            "This form was too old, or the browser keeps no cookies. Try again.",
        ),
        Refusal::Origin => failed(
            StatusCode::FORBIDDEN,
            "page_origin",
            "This form was not sent by this gateway's own page, so nothing was done. If it was, a proxy in between \
             changes the Host header: it must pass on the one that the browser sent.",
        ),
        Refusal::Token => failed(
            StatusCode::FORBIDDEN,
            "page_token",
            "This form is not of this session, so nothing was done. Go back to the page and try again.",
        ),
        Refusal::TooManyAttempts => {
            let mut response = form(
                StatusCode::TOO_MANY_REQUESTS,
                "page_attempts",
                "Too many wrong keys are being tried. Try again in a few seconds.",
            );
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
            response
        }
        Refusal::WrongKey => {
            form(StatusCode::FORBIDDEN, "page_wrong_key", "This is not an operator's key of this gateway.")
        }
    }
}
