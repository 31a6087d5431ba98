//! The view of a person's passkeys: register, list, remove.

use std::sync::Arc;

use actpass_protocol::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::HeaderMap;

use super::super::App;
use super::super::error::ApiError;
use super::session::Operator;
use super::{PageError, finish, read_form, signed_in, view};
use crate::auth::Capability;
use crate::passkeys::RelyingParty;
use crate::service::{Authorized, ServiceError};

pub(super) async fn show(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let response = async {
        let operator = signed_in(&app, &headers).await?;
        Authorized::of(&operator.key, Capability::DecideApprovals)?;
        Ok(render(&app, operator, None).await?)
    };
    finish(&app, &headers, response).await
}

async fn render(app: &App, operator: Operator, problem: Option<String>) -> Result<Response, ServiceError> {
    let passkeys = app.service.passkeys(&operator.key).await?;
    let (base, site) = (Arc::clone(&app.page.base), app.service.relying_party.clone());
    let list = view::Passkeys { base, operator, site, passkeys, problem };
    list.render().map_err(|_: ApiError| ServiceError::Internal)
}

pub(super) async fn register(State(app): State<Arc<App>>, request: Request) -> Response {
    let headers = request.headers().clone();
    let response = async {
        let (operator, form) = read_form(&app, request, &["name", "passkey", "token"], None).await?;
        let who = Authorized::of(&operator.key, Capability::DecideApprovals)?;
        let passkey = Json::parse(form.field("passkey").as_bytes()).map_err(|_| PageError::Form)?;
        let challenge = RelyingParty::registration_challenge(operator.token.expose());
        let name = form.field("name").trim();
        match app.service.register_passkey(who, name, &passkey, &challenge).await {
            Ok(()) => Ok(app.page.redirect("/passkeys")),
            Err(ServiceError::InvalidMember(invalid)) => {
                let problem = format!("The passkey was not added: {invalid}.");
                Ok(render(&app, operator, Some(problem)).await?)
            }
            Err(error) => Err(error.into()),
        }
    };
    finish(&app, &headers, response).await
}

pub(super) async fn remove(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let headers = request.headers().clone();
    let response = async {
        let (operator, _) = read_form(&app, request, &["token"], None).await?;
        let Path(id) = id.map_err(|_| ApiError::InvalidPath)?;
        app.service.remove_passkey(Authorized::of(&operator.key, Capability::DecideApprovals)?, &id).await?;
        Ok(app.page.redirect("/passkeys"))
    };
    finish(&app, &headers, response).await
}
