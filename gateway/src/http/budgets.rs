//! Handler for listing the accounts of budgets.

use std::sync::Arc;

use actpass_protocol::json::{JsonWriter, Style};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use http::StatusCode;

use super::App;
use super::error::{ApiError, json};
use super::openapi::responses;
use super::paging::read_page;
use super::receive::Caller;
use crate::auth::Capability;
use crate::budget;
use crate::service::Authorized;

#[utoipa::path(
    get,
    path = "/api/v1/budgets",
    operation_id = "list_budgets",
    tag = "budgets",
    params(("after" = Option<String>, Query, pattern = "^[0-9]{1,18}$", description = "Continue after this account: the `next` of the previous page"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Page size; default 100")),
    responses(
        (status = 200, description = "A page of the accounts that actions have claimed from", body = responses::Budgets),
        (status = 403, description = "The role is not permitted; use an auditor or operator key"),
    ),
    security(("key" = []))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Caller(key): Caller,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiError> {
    let auditor = Authorized::of(&key, Capability::ReadBudgets)?;
    let Query(query) = query.map_err(|_| ApiError::InvalidPath)?;
    let (after, limit) = read_page(&query)?;
    let (accounts, next) = app.service.budget_accounts(auditor, after, limit).await?;
    let mut body = JsonWriter::new(Style::Compact);
    body.raw("{");
    body.key("budgets");
    body.raw("[");
    for (at, account) in accounts.iter().enumerate() {
        body.comma(at);
        let defined =
            key.tenant.policy.budgets().iter().find(|budget| budget.name() == account.account.budget);
        let bounds = defined.map(|budget| (budget.limit(), budget.window()));
        budget::write_use(&mut body, &account.account, bounds, account.used);
    }
    body.raw("]");
    if let Some(next) = next {
        body.raw(",");
        body.key("next");
        body.string(&next.to_string());
    }
    body.raw("}");
    Ok(json(StatusCode::OK, body.into_string()))
}
