//! Handlers for recording evidence and for reading and verifying chains.

use std::sync::Arc;

use actpass_protocol::Json;
use actpass_protocol::json::{JsonWriter, Number, Style};
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;

use super::App;
use super::error::{ApiError, json};
use super::openapi::requests;
use super::openapi::responses::{Chain, ChainVerified, Recorded};
use super::receive::{Caller, JsonCall, parse};
use crate::auth::Capability;
use crate::object_writer::object;
use crate::request::{Evidence, InvalidMember};
use crate::service::{Authorized, ChainView, ServiceError};

/// Largest `seq` of an event.
const MAX_SEQ: u64 = i64::MAX.unsigned_abs();

#[utoipa::path(
    post,
    path = "/api/v1/evidence/events",
    operation_id = "record_evidence",
    tag = "evidence",
    request_body = requests::Evidence,
    responses(
        (status = 200, description = "The event is recorded", body = Recorded),
        (status = 403, description = "The outcome of an action that was not decided for this key or its agent, or the role is not permitted"),
    ),
    security(("key" = []))
)]
pub(super) async fn record(State(app): State<Arc<App>>, call: JsonCall) -> Result<Response, ApiError> {
    let JsonCall { key, body: raw, .. } = call;
    Authorized::of(&key, Capability::Act)?;
    let evidence = app.service.run(raw.len(), move || parse(&raw, Evidence::read)).await?;
    let recorded = app.service.record_evidence(&key, evidence).await?;
    let response = object([
        ("event_id", Some(Json::String(recorded.event_id))),
        ("current_event_hash", Some(Json::String(recorded.hash))),
    ]);
    Ok(json(StatusCode::OK, response.to_string()))
}

#[utoipa::path(
    get,
    path = "/api/v1/evidence/chains/{chain_id}",
    operation_id = "read_chain",
    tag = "evidence",
    params(("chain_id" = String, Path, description = "Chain id; a tenant's decisions are in `decisions`"),
        ("after" = Option<u64>, Query, description = "Return events with a greater `seq`"),
        ("limit" = Option<u64>, Query, minimum = 1, description = "Maximum number of events")),
    responses(
        (status = 200, description = "The requested events of the chain", body = Chain),
        (status = 404, description = "The chain does not exist"),
    ),
    security(("key" = []))
)]
pub(super) async fn chain(
    State(app): State<Arc<App>>,
    Caller(key): Caller,
    chain_id: Result<Path<String>, PathRejection>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiError> {
    Authorized::of(&key, Capability::ReadLedger)?;
    let Path(chain_id) = chain_id.map_err(|_| ApiError::InvalidPath)?;
    let Query(query) = query.map_err(|_| ApiError::InvalidPath)?;
    let range = Range::read(&query)?;
    let mut opening = JsonWriter::new(Style::Compact);
    opening.raw("{");
    opening.key("chain_id");
    opening.string(&chain_id);
    opening.comma(1);
    opening.key("events");
    opening.raw("[");
    // Later events are not part of this response.
    let until = range.limit.map(|limit| range.after.saturating_add(limit));
    let view = app.service.view_chain(key, chain_id, until).await?;
    let state = Export::Events { piece: opening, view, after: range.after, written: 0 };
    Ok(json(StatusCode::OK, Body::from_stream(stream::try_unfold(state, Export::next))))
}

#[utoipa::path(
    get,
    path = "/api/v1/evidence/chains/{chain_id}/verify",
    operation_id = "verify_chain",
    tag = "evidence",
    params(("chain_id" = String, Path, description = "Chain id; a tenant's decisions are in `decisions`")),
    responses(
        (status = 200, description = "Result of the verification", body = ChainVerified),
        (status = 404, description = "The chain does not exist"),
    ),
    security(("key" = []))
)]
pub(super) async fn verify(
    State(app): State<Arc<App>>,
    Caller(key): Caller,
    chain_id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    Authorized::of(&key, Capability::ReadLedger)?;
    let Path(chain_id) = chain_id.map_err(|_| ApiError::InvalidPath)?;
    let (found, unproven) = app.service.verify_chain(&key, chain_id).await?;
    let is_valid = found.first_broken.is_none() && unproven.is_empty();
    let unproven: Vec<_> = unproven.into_iter().map(Json::String).collect();
    let response = object([
        ("valid", Some(Json::Bool(is_valid))),
        ("length", Some(number(found.length))),
        ("head", Some(Json::String(found.head))),
        ("first_broken", Some(found.first_broken.map_or(Json::Null, number))),
        ("unproven", (!unproven.is_empty()).then_some(Json::Array(unproven))),
    ]);
    Ok(json(StatusCode::OK, response.to_string()))
}

fn number(value: u64) -> Json {
    Json::Number(Number::from(i64::try_from(value).unwrap_or(i64::MAX)))
}

/// Requested range of events.
struct Range {
    after: u64,
    limit: Option<u64>,
}

impl Range {
    fn read(query: &[(String, String)]) -> Result<Self, InvalidMember> {
        let mut after = None;
        let mut limit = None;
        for (name, value) in query {
            let (known, least) = match name.as_str() {
                "after" => (&mut after, 0),
                "limit" => (&mut limit, 1),
                _ => continue,
            };
            let number = value.parse().ok().filter(|number| (least..=MAX_SEQ).contains(number));
            *known = Some(number.filter(|_| known.is_none()).ok_or_else(|| InvalidMember {
                member: name.clone(),
                problem: format!("expected one integer of {least} to {MAX_SEQ}"),
            })?);
        }
        Ok(Self { after: after.unwrap_or(0), limit })
    }
}

/// State of a streamed chain export; the chain is never held in memory completely.
enum Export {
    /// Pending text, the last event examined, and the number of events written.
    Events {
        piece: JsonWriter,
        view: ChainView,
        after: u64,
        written: usize,
    },
    Done,
}

impl Export {
    /// Returns the next part. An error aborts the response, so that a partial chain never looks
    /// complete.
    async fn next(self) -> Result<Option<(Bytes, Self)>, std::io::Error> {
        let Self::Events { mut piece, view, mut after, mut written } = self else {
            return Ok(None);
        };
        let broken = |_: ServiceError| std::io::Error::other("reading the ledger failed");
        loop {
            let Some((events, last)) = view.page(after).await.map_err(broken)? else {
                piece.raw("]}");
                return Ok(Some((Bytes::from(piece.into_string()), Self::Done)));
            };
            after = last;
            for event in &events {
                piece.comma(written);
                piece.raw(&event.text);
                written += 1;
            }
            // An empty part would end the stream.
            if !piece.as_str().is_empty() {
                let rest = Self::Events { piece: JsonWriter::new(Style::Compact), view, after, written };
                return Ok(Some((Bytes::from(piece.into_string()), rest)));
            }
        }
    }
}
