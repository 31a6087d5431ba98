//! Envoy's external authorization: `envoy.service.auth.v3.Authorization` over gRPC, and over HTTP.
//!
//! Each request gets a response of the protocol, and each failure is a denial: a proxy may be
//! configured to forward requests if the authorization fails.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use actpass_protocol::json::RawObject;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use http::uri::Authority as UriAuthority;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Full};
use prost::Message;

use super::App;
use super::error::{ApiError, Code, json};
use super::host::{DESCRIBED, authority};
use super::preflight::admit;
use super::receive::JsonCall;
use crate::auth::Capability;
use crate::request::ext_authz::{CheckRequest, Context, HttpRequest, read_check, read_http};
use crate::request::{InvalidMember, Preflight};
use crate::service::{Authorized, PendingPreflight, ServiceError};

/// The method of the gRPC service.
pub(super) const GRPC: &str = "/envoy.service.auth.v3.Authorization/Check";

/// The header of a permitted request with the decision's event.
const EVENT: HeaderName = HeaderName::from_static("x-actpass-event");

/// `PERMISSION_DENIED` of gRPC.
const DENIED: i32 = 7;

/// `OVERWRITE_IF_EXISTS_OR_ADD` of Envoy: a client cannot set the header.
const OVERWRITE: i32 = 2;

/// Compression flag and length of a gRPC message.
const FRAME_HEADER: usize = 5;

/// Authorizes the request that a gRPC message describes.
pub(super) async fn grpc(State(app): State<Arc<App>>, request: Request) -> Response {
    let verdict = decide(&app, request, |body| {
        let unreadable = |problem: String| ApiError::Service(InvalidMember::of_body(problem).into());
        let message = unframed(&body)
            .ok_or_else(|| unreadable("expected one message without compression".to_owned()))?;
        let check = CheckRequest::decode(message).map_err(|error| unreadable(error.to_string()))?;
        Ok(read_check(check)?)
    });
    let verdict = verdict.await;
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
    let message = message.encode_to_vec();
    let mut frame = BytesMut::with_capacity(FRAME_HEADER + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(frame.freeze()).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if let Some(code) = verdict.code {
        response.extensions_mut().insert(code);
    }
    response
}

/// Authorizes the request itself, whose path is below [`DESCRIBED`].
pub(super) async fn http(State(app): State<Arc<App>>, request: Request) -> Response {
    let described = describe(&request);
    let verdict = decide(&app, request, |body| {
        let described = described.map_err(ApiError::InvalidHost)?;
        Ok(read_http(HttpRequest { raw_body: body.into(), ..described }, Context::default())?)
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

/// The result of an authorization: [`StatusCode::OK`] permits the request.
struct Verdict {
    status: StatusCode,
    /// The decision, or the error, as JSON.
    body: Bytes,
    event: Option<String>,
    code: Option<Code>,
}

/// Authenticates the proxy and decides. Only an `allow` permits the request.
async fn decide(
    app: &Arc<App>,
    request: Request,
    parse: impl FnOnce(Bytes) -> Result<Preflight, ApiError> + Send + 'static,
) -> Verdict {
    let decided = async {
        let JsonCall { key, body, took } = JsonCall::receive(request, app, |_| Ok(())).await?;
        Authorized::of(&key, Capability::Act)?;
        let _admitted = admit(app, &key)?;
        let (received, bytes, begun) = (app.service.clock.millis(), body.len(), Instant::now());
        let request = app.service.run(bytes, move || parse(body)).await?;
        let pending = PendingPreflight { key, request, bytes, received, took, begun };
        Ok::<_, ApiError>(app.service.preflight(pending).await?)
    };
    match decided.await {
        Ok(body) => {
            let [decision, event] = match RawObject::parse(&body) {
                Ok(response) => ["decision", "evidence_event_id"]
                    .map(|member| response.string(member).map(|value| value.into_owned())),
                Err(_) => [None, None],
            };
            let permits = decision.as_deref() == Some("allow");
            let status = if permits { StatusCode::OK } else { StatusCode::FORBIDDEN };
            Verdict { status, body, event: event.filter(|_| permits), code: None }
        }
        Err(error) => {
            let is_invalid = matches!(error, ApiError::Service(ServiceError::InvalidMember(_)));
            // Not 5xx: that is a failed authorization, after which a proxy may forward the request.
            let status = if is_invalid { StatusCode::BAD_REQUEST } else { StatusCode::FORBIDDEN };
            let code = Some(Code(error.status_and_code().1));
            Verdict { status, body: error.body().to_string().into(), event: None, code }
        }
    }
}

/// Returns the only message of a gRPC body.
fn unframed(body: &[u8]) -> Option<&[u8]> {
    let (header, message) = body.split_first_chunk::<FRAME_HEADER>()?;
    let [flag, length @ ..] = *header;
    (flag == 0 && usize::try_from(u32::from_be_bytes(length)) == Ok(message.len())).then_some(message)
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
