//! Sign-in at an identity provider, and its logouts.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse, Redirect, Response};
use http::{HeaderMap, StatusCode, header};

use super::super::App;
use super::super::error::{ApiError, json};
use super::guard::Form;
use super::session::{Activity, Cookie, Opener, SIGN_IN_SECONDS, constant_time_eq, hash_of};
use super::{PageError, finish, open_session, operator, view};

use crate::service::ServiceError;
use crate::sign_in::{Begun, SignIn, SignInError};
use crate::store::SessionChange;

const NOT_FOUND: ServiceError = ServiceError::NotFound("path");

fn configured(app: &App) -> Result<&SignIn, PageError> {
    app.page.sign_in.as_ref().ok_or_else(|| NOT_FOUND.into())
}

/// Sends the browser to the provider.
pub(super) async fn begin(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let response = async {
        let Begun { url, state, data } =
            configured(&app)?.begin().await.map_err(|error| PageError::SignIn(Some(error)))?;
        let now = app.service.clock.seconds();
        let until = now.saturating_add(SIGN_IN_SECONDS);
        let change = SessionChange::Begin { state: hash_of(state.expose()), data, now, until };
        app.service.with_timeout(app.service.store.change_session(change)).await?;
        let mut response = Redirect::to(&url).into_response();
        let cookie = app.page.cookies.set(Cookie::SignIn, &state, is_secure(&app));
        response.headers_mut().append(header::SET_COOKIE, cookie.ok_or(ServiceError::Internal)?);
        Ok(response)
    };
    finish(&app, &headers, response).await
}

/// Ends a sign-in: the provider sends the browser here with a code.
pub(super) async fn callback(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let response = async {
        let sign_in = configured(&app)?;
        let query = query.map(|Query(query)| query).unwrap_or_default();
        let given = |name: &str| {
            let mut values = query.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str());
            let value = values.next().filter(|value| !value.is_empty());
            value.filter(|_| values.next().is_none())
        };
        // The browser that began the sign-in, and no other, may end it, once.
        let cookie = app.page.cookies.read(Cookie::SignIn, &headers, is_secure(&app));
        let (Some(cookie), Some(state)) = (cookie, given("state")) else {
            return Err(PageError::SignIn(None));
        };
        if !constant_time_eq(cookie, state) {
            return Err(PageError::SignIn(None));
        }
        let state = hash_of(state);
        let store = &app.service.store;
        let found = app.service.with_timeout(store.sign_in(state)).await?;
        let ended = app.service.with_timeout(store.change_session(SessionChange::End { state })).await?;
        let now = app.service.clock.seconds();
        let Some((data, _)) = found.filter(|(_, until)| ended && now < *until) else {
            return Err(PageError::SignIn(None));
        };
        let failed = |error| PageError::SignIn(Some(error));
        let Some(code) = given("code") else {
            let problem = match given("error") {
                Some(code) if code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') => code,
                Some(_) | None => "it returned no code",
            };
            return Err(failed(SignInError::Provider(problem.to_owned())));
        };
        let identity = sign_in.finish(code, &data, now).await.map_err(failed)?;
        if let Some(before) = operator(&app, &headers, Activity::Refresh).await? {
            app.page.sessions.close(&before).await.map_err(ServiceError::from)?;
        }
        let tenant_id = &sign_in.tenant().id;
        let id = open_session(&app, Opener::Person(&identity), tenant_id, is_secure(&app)).await?;
        tracing::info!(person = identity.person, role = identity.role.as_str(), "signed in");
        // A redirect from another site would not send the strict cookie; this page's own refresh does.
        let mut response = view::signed_in(&app.page.base)?;
        let cookies = &app.page.cookies;
        let secure = is_secure(&app);
        let cookies = [cookies.set(Cookie::Session, &id, secure), cookies.unset(Cookie::SignIn, secure)];
        for cookie in cookies.into_iter().flatten() {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        Ok(response)
    };
    finish(&app, &headers, response).await
}

/// Ends sessions that a logout at the provider ends (OpenID Connect Back-Channel Logout).
pub(super) async fn logout(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    match end_sessions(&app, &parts.headers, body).await {
        Ok(()) => json(StatusCode::OK, "{}".to_owned()),
        Err(PageError::Api(error)) => error.into_response(),
        Err(refusal) => {
            let problem = if let PageError::SignIn(Some(error)) = refusal {
                error.to_string()
            } else {
                "expected a form with a logout_token".to_owned()
            };
            tracing::warn!(problem, "a logout of the identity provider was refused");
            ApiError::InvalidForm(problem).into_response()
        }
    }
}

async fn end_sessions(app: &App, headers: &HeaderMap, body: Body) -> Result<(), PageError> {
    let sign_in = configured(app)?;
    let form = Form::read(app, headers, body, &["logout_token"], None).await?;
    let logout = sign_in.logout(form.field("logout_token"), app.service.clock.seconds()).await;
    let logout = logout.map_err(|error| PageError::SignIn(Some(error)))?;
    let change = SessionChange::CloseAll { opener: logout.opener, provider_session: logout.provider_session };
    app.service.with_timeout(app.service.store.change_session(change)).await?;
    Ok(())
}

/// The gateway's public URL decides whether cookies are secure.
fn is_secure(app: &App) -> bool {
    app.service.issuer.starts_with("https://")
}
