//! Handler for the exchange of passports: an OAuth 2.0 token endpoint (RFC 8693).

use std::sync::Arc;

use actpass_protocol::Json;
use actpass_protocol::json::Number;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};

use super::App;
use super::error::{ApiError, Code, json};
use super::openapi::requests;
use super::openapi::responses::{ExchangedPassport, OAuthFailure};
use super::receive::JsonCall;
use crate::auth::Capability;
use crate::object_writer::object;
use crate::request::exchange::{Exchange, OAuthError, TOKEN_TYPE};
use crate::service::{Authorized, ExchangeError, ExchangedToken, Exchanger, ServiceError};

#[utoipa::path(
    post,
    path = "/oauth/token",
    operation_id = "exchange_passport",
    tag = "oauth",
    request_body(content = requests::TokenExchange, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "A new passport with the same or less authority; the one in the request is spent", body = ExchangedPassport),
        (status = 400, description = "A parameter is invalid, the passport is not accepted, or the request exceeds it", body = OAuthFailure),
        (status = 409, description = "A halt stops the agent, the user or one of the tools", body = OAuthFailure),
        (status = 501, description = "Passports and the vault are disabled: no master key is configured", body = OAuthFailure),
    ),
    security(("key" = []))
)]
pub(super) async fn exchange(State(app): State<Arc<App>>, request: Request) -> Response {
    match respond(&app, request).await {
        Ok(issued) => {
            let response = object([
                ("access_token", Some(Json::String(issued.token))),
                ("issued_token_type", Some(Json::from(TOKEN_TYPE))),
                ("token_type", Some(Json::from("N_A"))),
                ("expires_in", Some(Json::Number(Number::from(issued.expires_in)))),
                ("scope", Some(Json::String(issued.tools.join(" ")))),
            ]);
            json(StatusCode::OK, response.to_string())
        }
        Err(ExchangeFailure::OAuth(error)) => {
            let mut response = json(StatusCode::BAD_REQUEST, body(error.code, error.description).to_string());
            response.extensions_mut().insert(Code(error.code));
            response
        }
        Err(ExchangeFailure::Api(error)) => {
            let code = match error.status_and_code().1 {
                "unauthenticated" => "invalid_client",
                "unsupported_media_type" | "invalid_form" => "invalid_request",
                code => code,
            };
            let body = body(code, error.message()).to_string();
            let (mut parts, _) = error.into_response().into_parts();
            if parts.status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
                parts.status = StatusCode::BAD_REQUEST;
            }
            Response::from_parts(parts, body.into())
        }
    }
}

/// Why an exchange failed.
enum ExchangeFailure {
    Api(ApiError),
    OAuth(OAuthError),
}

impl From<ApiError> for ExchangeFailure {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<ServiceError> for ExchangeFailure {
    fn from(error: ServiceError) -> Self {
        Self::Api(error.into())
    }
}

fn body(code: &str, description: String) -> Json {
    object([("error", Some(Json::from(code))), ("error_description", Some(Json::String(description)))])
}

async fn respond(app: &Arc<App>, request: Request) -> Result<ExchangedToken, ExchangeFailure> {
    let JsonCall { key, body: raw, proven_key, workload, .. } =
        JsonCall::receive(request, app, check_form).await?;
    Authorized::of(&key, Capability::Act)?;
    let passports = app.service.passports()?;
    let parsed = app.service.run(raw.len(), move || {
        let form: Vec<_> = form_urlencoded::parse(&raw).into_owned().collect();
        Ok::<_, ServiceError>(Exchange::read(&form))
    });
    let request = parsed.await?.map_err(ExchangeFailure::OAuth)?;
    let caller = Exchanger { key: &key, workload: workload.as_deref(), proven_key: proven_key.as_ref() };
    passports.exchange(caller, request).await.map_err(|error| match error {
        ExchangeError::OAuth(error) => ExchangeFailure::OAuth(error),
        ExchangeError::Service(error) => ExchangeFailure::Api(error.into()),
    })
}

fn check_form(headers: &HeaderMap) -> Result<(), ApiError> {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    match essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        true => Ok(()),
        false => {
            Err(ApiError::UnsupportedMediaType("content-type: expected application/x-www-form-urlencoded"))
        }
    }
}
