//! External policy server of agentgateway for MCP: `agentgateway.dev.ext_mcp.ExtMcp` over gRPC.

use std::sync::Arc;

use actpass_protocol::json::RawObject;
use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;

use super::App;
use super::grpc;
use super::proxies::{EVENT, Verdict, decide};
use crate::request::ext_mcp::read_request;

/// The check of a request to an MCP server.
pub(super) const CHECK_REQUEST: &str = "/agentgateway.dev.ext_mcp.ExtMcp/CheckRequest";

/// The check of a response of an MCP server.
pub(super) const CHECK_RESPONSE: &str = "/agentgateway.dev.ext_mcp.ExtMcp/CheckResponse";

/// `AuthorizationError.Code.PERMISSION_DENIED`.
const PERMISSION_DENIED: i32 = 1;

/// `AuthorizationError.Code.INVALID`.
const INVALID: i32 = 3;

/// Decides about a tool call. Other requests pass.
pub(super) async fn check_request(State(app): State<Arc<App>>, request: Request) -> Response {
    let verdict = decide(&app, request, |body| Ok(read_request(grpc::decode(&body)?)?)).await;
    let Verdict { status, body, event, code } = verdict;
    let outcome = match status {
        StatusCode::OK => Outcome::Pass(Pass {}),
        refused => Outcome::Error(AuthorizationError {
            code: if refused == StatusCode::BAD_REQUEST { INVALID } else { PERMISSION_DENIED },
            reason: reason(&body).unwrap_or_default(),
            mcp_error: Some(body.into()),
        }),
    };
    let set = event.map(|event| McpHeader { key: EVENT.as_str().to_owned(), value: event.into_bytes() });
    let header_mutation = Some(HeaderMutation { set: set.into_iter().collect() });
    grpc::respond(&McpRequestResult { outcome: Some(outcome), header_mutation }, code)
}

/// Lets responses pass: the request was decided.
pub(super) async fn check_response() -> Response {
    grpc::respond(&McpResponseResult { pass: Some(Pass {}) }, None)
}

/// Returns the text for the client: the message of an error, or the explanation of a decision.
fn reason(body: &[u8]) -> Option<String> {
    let body = RawObject::parse(body).ok()?;
    let found = [("error", "message"), ("explain", "summary")].into_iter().find_map(|(object, text)| {
        let object = body.member(object)?;
        object.member(text)?.as_str().map(str::to_owned)
    });
    found.or_else(|| body.string("reason_code").map(std::borrow::Cow::into_owned))
}

/// `McpRequestResult`, with the fields that are written.
#[derive(Clone, PartialEq, prost::Message)]
struct McpRequestResult {
    #[prost(oneof = "Outcome", tags = "1, 3")]
    outcome: Option<Outcome>,
    #[prost(message, optional, tag = "4")]
    header_mutation: Option<HeaderMutation>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Outcome {
    #[prost(message, tag = "1")]
    Pass(Pass),
    #[prost(message, tag = "3")]
    Error(AuthorizationError),
}

#[derive(Clone, PartialEq, prost::Message)]
struct McpResponseResult {
    #[prost(message, optional, tag = "1")]
    pass: Option<Pass>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Pass {}

#[derive(Clone, PartialEq, prost::Message)]
struct AuthorizationError {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    reason: String,
    /// The `data` of the JSON-RPC error.
    #[prost(bytes = "vec", optional, tag = "3")]
    mcp_error: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HeaderMutation {
    #[prost(message, repeated, tag = "1")]
    set: Vec<McpHeader>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct McpHeader {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}
