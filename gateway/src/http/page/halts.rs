//! The view of halts: the active ones, the lifted ones, start, lift.

use std::sync::Arc;

use actpass_protocol::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::response::Response;
use http::HeaderMap;

use super::super::App;
use super::super::error::ApiError;
use super::super::paging::{NOT_NEXT, read_query};
use super::{finish, read_form, signed_in, view};
use crate::auth::Capability;
use crate::request::{LiftHalt, StartHalt};
use crate::service::Authorized;

/// Shows the active halts and a page of the lifted ones, newest first.
pub(super) async fn show(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let response = async {
        let operator = signed_in(&app, &headers).await?;
        let Query(query) = query.map_err(|_| ApiError::InvalidPath)?;
        let mut before = None;
        let limit = read_query(&query, &["before"], |_, value| {
            before = Some(value.parse().map_err(|_| NOT_NEXT)?);
            Ok(())
        })
        .map_err(ApiError::from)?;
        let reader = Authorized::of(&operator.key, Capability::ReadHalts)?;
        // A later page continues the lifted ones.
        let active = match before {
            None => Some(app.service.active_halts(&operator.key).await?),
            Some(_) => None,
        };
        let (lifted, next) = app.service.lifted_halts(reader, before, limit).await?;
        let base = Arc::clone(&app.page.base);
        let halts = view::Halts { base, operator, active, lifted, next };
        Ok(app.service.run(0, move || halts.render()).await?)
    };
    finish(&app, &headers, response).await
}

/// Starts a halt with the API's limits.
pub(super) async fn start(State(app): State<Arc<App>>, request: Request) -> Response {
    let headers = request.headers().clone();
    let response = async {
        let (operator, form) = read_form(&app, request, &["id", "reason", "scope", "token"], None).await?;
        let members = ["id", "reason", "scope"].map(|name| (name, form.field(name).trim()));
        let given = members.into_iter().filter(|(_, value)| !value.is_empty());
        let body = Json::Object(given.map(|(name, value)| (name.to_owned(), Json::from(value))).collect());
        app.service.start_halt(&operator.key, StartHalt::read(body).map_err(ApiError::from)?).await?;
        Ok(app.page.redirect("/"))
    };
    finish(&app, &headers, response).await
}

/// Lifts a halt with the API's limits.
pub(super) async fn lift(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let headers = request.headers().clone();
    let response = async {
        let (operator, form) = read_form(&app, request, &["reason", "token"], None).await?;
        let Path(id) = id.map_err(|_| ApiError::InvalidPath)?;
        let body = Json::Object(vec![("reason".to_owned(), Json::from(form.field("reason").trim()))]);
        let LiftHalt { reason } = LiftHalt::read(body).map_err(ApiError::from)?;
        app.service.lift_halt(Authorized::of(&operator.key, Capability::Halt)?, &id, reason).await?;
        Ok(app.page.redirect("/"))
    };
    finish(&app, &headers, response).await
}
