//! Envoy's external authorization: `envoy.service.auth.v3.Authorization` over gRPC, and over HTTP.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::uri::Authority as UriAuthority;
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::App;
use super::error::{ApiError, json};
use super::grpc;
use super::host::{DESCRIBED, authority};
use super::proxies::{EVENT, decide};
use crate::request::ext_authz::{Context, HttpRequest, read_check, read_http};

/// The method of the gRPC service.
pub(super) const GRPC: &str = "/envoy.service.auth.v3.Authorization/Check";

/// `PERMISSION_DENIED` of gRPC.
const DENIED: i32 = 7;

/// `OVERWRITE_IF_EXISTS_OR_ADD` of Envoy: a client cannot set the header.
const OVERWRITE: i32 = 2;

/// Authorizes the request that a gRPC message describes.
pub(super) async fn check(State(app): State<Arc<App>>, request: Request) -> Response {
    let verdict = decide(&app, request, |body| Ok(Some(read_check(grpc::decode(&body)?)?))).await;
    let header = |name: &HeaderName, value: String| HeaderValueOption {
        header: Some(EnvoyHeader { key: name.as_str().to_owned(), value }),
        append_action: OVERWRITE,
    };
    let (code, outcome) = match verdict.status {
        StatusCode::OK => {
            let headers = verdict.event.into_iter().map(|event| header(&EVENT, event)).collect();
            (0, Outcome::Ok(OkResponse { headers }))
        }
        denied => {
            let headers = vec![header(&header::CONTENT_TYPE, "application/json".to_owned())];
            let status = Some(HttpStatus { code: i32::from(denied.as_u16()) });
            let body = String::from_utf8_lossy(&verdict.body).into_owned();
            (DENIED, Outcome::Denied(DeniedResponse { status, headers, body }))
        }
    };
    let message = CheckResponse { status: Some(RpcStatus { code }), outcome: Some(outcome) };
    grpc::respond(&message, verdict.code)
}

/// Authorizes the request itself, whose path is below [`DESCRIBED`].
pub(super) async fn http(State(app): State<Arc<App>>, request: Request) -> Response {
    let described = describe(&request);
    let verdict = decide(&app, request, |body| {
        let described = described.map_err(ApiError::InvalidHost)?;
        let http = HttpRequest { raw_body: body.into(), ..described };
        Ok(Some(read_http(&http, Context::default())?))
    });
    let verdict = verdict.await;
    let mut response = json(verdict.status, verdict.body);
    if let Some(event) = verdict.event.and_then(|event| HeaderValue::try_from(event).ok()) {
        response.headers_mut().insert(EVENT, event);
    }
    if let Some(code) = verdict.code {
        response.extensions_mut().insert(code);
    }
    response
}

/// Describes a request without its body.
fn describe(request: &Request) -> Result<HttpRequest, &'static str> {
    let (uri, headers) = (request.uri(), request.headers());
    authority(request.version(), uri, headers)?;
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or(uri.authority().map(UriAuthority::as_str)).unwrap_or_default().to_owned();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut joined: HashMap<String, String> = HashMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let values = joined.entry(name.as_str().to_owned()).or_default();
        if !values.is_empty() {
            values.push(',');
        }
        values.push_str(&value);
    }
    Ok(HttpRequest {
        method: request.method().as_str().to_owned(),
        path: path.strip_prefix(DESCRIBED).unwrap_or(path).to_owned(),
        host,
        scheme: joined.get("x-forwarded-proto").cloned().unwrap_or_else(|| "http".to_owned()),
        headers: joined,
        ..HttpRequest::default()
    })
}

/// `envoy.service.auth.v3.CheckResponse`, with the fields that are written.
#[derive(Clone, PartialEq, prost::Message)]
struct CheckResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<RpcStatus>,
    #[prost(oneof = "Outcome", tags = "2, 3")]
    outcome: Option<Outcome>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Outcome {
    #[prost(message, tag = "2")]
    Denied(DeniedResponse),
    #[prost(message, tag = "3")]
    Ok(OkResponse),
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
}

/// `envoy.service.auth.v3.DeniedHttpResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct DeniedResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<HttpStatus>,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderValueOption>,
    #[prost(string, tag = "3")]
    body: String,
}

/// `envoy.type.v3.HttpStatus`.
#[derive(Clone, PartialEq, prost::Message)]
struct HttpStatus {
    #[prost(int32, tag = "1")]
    code: i32,
}

/// `envoy.service.auth.v3.OkHttpResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct OkResponse {
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderValueOption>,
}

/// `envoy.config.core.v3.HeaderValueOption`.
#[derive(Clone, PartialEq, prost::Message)]
struct HeaderValueOption {
    #[prost(message, optional, tag = "1")]
    header: Option<EnvoyHeader>,
    #[prost(int32, tag = "3")]
    append_action: i32,
}

/// `envoy.config.core.v3.HeaderValue`.
#[derive(Clone, PartialEq, prost::Message)]
struct EnvoyHeader {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}
