//! The view of webhooks: their queues, and the messages that were set aside.

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::response::Response;
use http::HeaderMap;

use super::super::App;
use super::super::error::ApiError;
use super::super::paging::read_page;
use super::{finish, read_form, signed_in, view};
use crate::auth::Capability;
use crate::service::Authorized;

pub(super) async fn show(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let response = async {
        let operator = signed_in(&app, &headers).await?;
        let Query(query) = query.map_err(|_| ApiError::InvalidPath)?;
        let (after, limit) = read_page(&query).map_err(ApiError::from)?;
        let auditor = Authorized::of(&operator.key, Capability::ReadWebhooks)?;
        // A later page continues the messages that were set aside.
        let queues = match after {
            0 => Some(app.service.webhook_queues(auditor).await?),
            _ => None,
        };
        let (dead_letters, next) = app.service.dead_letters(auditor, after, limit).await?;
        let base = Arc::clone(&app.page.base);
        let webhooks = view::Webhooks { base, operator, queues, dead_letters, next };
        Ok(app.service.run(0, move || webhooks.render()).await?)
    };
    finish(&app, &headers, response).await
}

/// Queues a message that was set aside.
pub(super) async fn redeliver(
    State(app): State<Arc<App>>,
    id: Result<Path<i64>, PathRejection>,
    request: Request,
) -> Response {
    let headers = request.headers().clone();
    let response = async {
        let (operator, _) = read_form(&app, request, &["token"], None).await?;
        let Path(id) = id.map_err(|_| ApiError::InvalidPath)?;
        app.service.redeliver(Authorized::of(&operator.key, Capability::Redeliver)?, id).await?;
        Ok(app.page.redirect("/webhooks"))
    };
    finish(&app, &headers, response).await
}
