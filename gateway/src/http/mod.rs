//! The gateway's HTTP API.

mod access_requests;
mod acs;
mod approvals;
mod attempts;
mod authzen;
mod budgets;
mod client;
mod delegations;
mod error;
mod evidence;
mod exchange;
mod ext_authz;
mod ext_mcp;
mod grpc;
mod halts;
mod health;
mod host;
mod metrics;
pub(crate) mod openapi;
mod page;
mod paging;
mod passports;
mod preflight;
mod proxies;
mod receive;
mod reload;
mod shadow;
mod tools;
mod webhooks;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use http::{HeaderName, HeaderValue, header};
use ipnet::IpNet;
use tokio::sync::watch;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use self::attempts::Attempts;
use self::error::ApiError;
pub(crate) use self::page::Page;
use crate::access_log::{self, Access, AccessLog, Answered};
use crate::admission::{AdmissionLimits, DecisionAdmission};
use crate::auth::{ApiKey, ApiKeyHash, Keyring};
use crate::client_certificates::{CertificateName, ClientTrust};
use crate::clock::Clock;
use crate::connections::Connection;
use crate::dpop::{Nonces, Replays};
use crate::hosts::Hosts;
use crate::metrics::Metrics;
use crate::reload::{Loaded, Reloads};
use crate::service::{Service, ServiceError};
use crate::traces::Traces;

/// The header of a DPoP proof (RFC 9449).
const DPOP: HeaderName = HeaderName::from_static("dpop");

/// The header of the nonce for the next proof.
const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// State shared by the handlers.
#[derive(Debug)]
pub(crate) struct App {
    /// The API keys.
    pub keyring: Keyring,
    /// The use cases.
    pub service: Arc<Service>,
    /// Maximum body size, in bytes.
    pub body_bytes: usize,
    /// Maximum time to receive a body.
    pub body_timeout: Duration,
    /// State of the approvals page.
    pub page: Page,
    /// The authorities of client certificates, if configured.
    pub client_trust: Option<ClientTrust>,
    /// Accepted host names.
    pub hosts: Hosts,
    /// Proxies whose `X-Forwarded-For` header is trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Rate limiter for invalid API keys.
    pub attempts: Arc<Attempts>,
    /// The DPoP proofs that were accepted.
    pub replays: Arc<Replays>,
    /// The nonces that DPoP proofs need, if the settings require them.
    pub nonces: Option<Arc<Nonces>>,
    /// Reloads of the settings.
    pub reloads: Reloads,
    /// The tenants and the certificate.
    pub loaded: Arc<Loaded>,
    /// Counters and histograms.
    pub metrics: Arc<Metrics>,
    /// Hash of the token for the listener of metrics; `None` permits every reader.
    pub metrics_token: Option<ApiKeyHash>,
    /// The decisions in progress.
    pub admission: Arc<DecisionAdmission>,
    /// Their limits.
    pub admission_limits: AdmissionLimits,
    /// The export of traces, if configured.
    pub traces: Option<Arc<Traces>>,
    /// The access log, if configured.
    pub access_log: Option<Arc<AccessLog>>,
    /// Whether the gateway stops.
    pub stopping: watch::Receiver<bool>,
}

/// Observers of answered requests.
#[derive(Clone, Debug, Default)]
struct RequestLog {
    metrics: Arc<Metrics>,
    access: Option<Arc<AccessLog>>,
    traces: Option<Arc<Traces>>,
    clock: Clock,
}

impl RequestLog {
    fn of(app: &App) -> Self {
        Self {
            metrics: Arc::clone(&app.metrics),
            access: app.access_log.clone(),
            traces: app.traces.clone(),
            clock: app.service.clock.clone(),
        }
    }
}

/// When the headers of a request were received.
#[derive(Clone, Copy, Debug)]
struct Started(Instant);

impl App {
    /// Returns the presented API key if it is known, has not expired and may be used on this
    /// connection.
    fn find_key(&self, presented: &str, connection: Option<&Connection>) -> Option<&Arc<ApiKey>> {
        let key = self.keyring.find(presented, self.service.clock.seconds());
        key.filter(|key| self.is_usable(key, connection))
    }

    /// Returns the key that the connection's certificate authenticates.
    fn key_of_certificate(&self, connection: Option<&Connection>) -> Option<&Arc<ApiKey>> {
        self.keyring.of_certificate(self.certificate(connection)?, self.service.clock.seconds())
    }

    /// Returns whether the connection has the certificate that the key needs.
    fn is_usable(&self, key: &ApiKey, connection: Option<&Connection>) -> bool {
        let Some(needed) = &key.certificate else { return true };
        let is_usable = self.certificate(connection).is_some_and(|names| names.contains(needed));
        if !is_usable {
            let (tenant, key) = (&*key.tenant.id, &*key.name);
            tracing::warn!(tenant, key, "a key was rejected: the connection lacks its client certificate");
        }
        is_usable
    }

    /// Returns the names of the connection's certificate, if it is valid under the current settings.
    fn certificate<'c>(&self, connection: Option<&'c Connection>) -> Option<&'c [CertificateName]> {
        let certificate = connection?.certificate.get()?;
        certificate.names(self.client_trust?, self.service.clock.seconds())
    }
}

/// Builds the router with all routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    let check_host = middleware::from_fn_with_state(Arc::clone(&app), host::check);
    let check_certificate = middleware::from_fn_with_state(Arc::clone(&app), check_certificate);
    let nonces = app.nonces.clone().map(|nonces| (nonces, app.service.clock.clone()));
    let log = RequestLog::of(&app);
    let (described, _) = routes().split_for_parts();
    let api = described
        .route("/openapi.json", get(openapi::openapi))
        .route("/metrics", get(metrics::own_tenant))
        .route(ext_authz::GRPC, post(ext_authz::check))
        .route(ext_mcp::CHECK_REQUEST, post(ext_mcp::check_request))
        .route(ext_mcp::CHECK_RESPONSE, post(ext_mcp::check_response))
        .route(&format!("{}/", host::DESCRIBED), any(ext_authz::http))
        .route(&format!("{}/{{*path}}", host::DESCRIBED), any(ext_authz::http))
        .merge(page::routes())
        .fallback(async || ApiError::Service(ServiceError::NotFound("path")))
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .with_state(app);
    let api = match nonces {
        Some(nonces) => api.layer(middleware::from_fn_with_state(nonces, supply_nonce)),
        None => api,
    };
    with_common_layers(api.layer((check_certificate, check_host)), log)
}

/// Rejects requests without a valid client certificate if one is required. The handshake has checked
/// it already; a connection may outlive its certificate and the settings.
async fn check_certificate(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let is_required = app.client_trust.is_some_and(|trust| trust.is_required);
    if is_required && app.certificate(Connection::of(request.extensions())).is_none() {
        let mut response = ApiError::CertificateRequired.into_response();
        if request.version() <= http::Version::HTTP_11 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        receive::drain(request.into_body());
        return response;
    }
    next.run(request).await
}

/// Adds the current nonce to the responses to requests with a DPoP proof.
async fn supply_nonce(
    State((nonces, clock)): State<(Arc<Nonces>, Clock)>,
    request: Request,
    next: Next,
) -> Response {
    // The proof of a request to authorize is for another server.
    let is_own = request.headers().contains_key(DPOP) && !host::is_described(request.uri().path());
    let nonce = is_own.then(|| nonces.current(clock.seconds()));
    let mut response = next.run(request).await;
    if let Some(nonce) = nonce.and_then(|nonce| HeaderValue::try_from(nonce).ok()) {
        response.headers_mut().insert(DPOP_NONCE, nonce);
    }
    response
}

/// Builds the router of the listener for metrics.
pub(crate) fn metrics_router(app: Arc<App>) -> Router {
    let check_host = middleware::from_fn_with_state(Arc::clone(&app), host::check);
    let log = RequestLog::of(&app);
    let routes = metrics::routes()
        .fallback(async || ApiError::Service(ServiceError::NotFound("path")))
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .with_state(app);
    with_common_layers(routes.layer(check_host), log)
}

/// Strips the base path from a request, unless the proxy has already stripped it.
pub(crate) fn under_base_path(mut request: Request, base_path: &str) -> Request {
    let uri = request.uri();
    let below = uri.path().strip_prefix(base_path).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let Some(path) = below.filter(|_| !base_path.is_empty()) else {
        return request;
    };
    let path = if path.is_empty() { "/" } else { path };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = format!("{path}{query}").parse().ok();
    if let Ok(uri) = http::Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

/// The API routes with their descriptions.
fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(health::health))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(preflight::preflight))
        .routes(routes!(evidence::record))
        .routes(routes!(evidence::chain))
        .routes(routes!(evidence::verify))
        .routes(routes!(passports::issue))
        .routes(routes!(passports::verify))
        .routes(routes!(passports::revoke))
        .routes(routes!(exchange::exchange))
        .routes(routes!(approvals::list))
        .routes(routes!(approvals::read))
        .routes(routes!(approvals::approve))
        .routes(routes!(approvals::reject))
        .routes(routes!(delegations::create))
        .routes(routes!(delegations::list))
        .routes(routes!(delegations::revoke))
        .routes(routes!(budgets::list))
        .routes(routes!(shadow::list))
        .routes(routes!(halts::list, halts::start))
        .routes(routes!(halts::lift))
        .routes(routes!(halts::watch))
        .routes(routes!(halts::acknowledge))
        .routes(routes!(reload::reload))
        .routes(routes!(tools::approve, tools::read))
        .routes(routes!(webhooks::list))
        .routes(routes!(webhooks::dead_letters))
        .routes(routes!(webhooks::redeliver))
        .routes(routes!(passports::jwks))
        .routes(routes!(acs::acs))
        .routes(routes!(authzen::evaluation))
        .routes(routes!(authzen::evaluations))
        .routes(routes!(authzen::configuration))
        .routes(routes!(access_requests::submit))
        .routes(routes!(access_requests::status))
}

/// Adds the layers common to all routes: request log, headers, and conversion of panics to errors.
fn with_common_layers(routes: Router, log: RequestLog) -> Router {
    let answer_panic =
        |_panic: Box<dyn std::any::Any + Send>| ApiError::Service(ServiceError::Internal).into_response();
    // One layer of three costs less than three, each with a boxed service.
    routes.layer((
        middleware::from_fn(authzen::conform),
        middleware::from_fn_with_state(log, request_log),
        CatchPanicLayer::custom(answer_panic),
    ))
}

/// Assigns a request id, logs the request and adds the id to the response.
///
/// Logs the matched route instead of the path, because a path may contain secrets that a client put
/// there by mistake.
async fn request_log(State(log): State<RequestLog>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = uuid::Uuid::now_v7().simple().to_string();
    request.extensions_mut().insert(Started(started));
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("(none)", MatchedPath::as_str);
    let method = request.method().clone();
    let span = tracing::info_span!(
        "request",
        id,
        method = %method,
        route,
        peer = tracing::field::Empty,
        trace_id = tracing::field::Empty,
        tenant = tracing::field::Empty,
        key = tracing::field::Empty,
        tool = tracing::field::Empty,
        decision = tracing::field::Empty,
        reason = tracing::field::Empty,
        event_id = tracing::field::Empty
    );
    let running = next.run(request).instrument(span.clone());
    let is_observed = log.access.is_some() || log.traces.is_some();
    let (mut response, access) = match is_observed {
        true => access_log::observe(running, log.traces.is_some()).await,
        false => (running.await, Access::default()),
    };

    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let status = response.status().as_u16();
    log.metrics.answered(route, method.as_str(), status);
    let code = response.extensions().get::<error::Code>().map(|code| code.0);
    let duration = started.elapsed();
    if is_observed {
        let millis = log.clock.millis();
        let (request_id, method) = (&*id, method.as_str());
        let answered = Answered { millis, request_id, method, route, status, code, duration };
        if let Some(access_log) = &log.access {
            access_log.write(&answered, &access);
        }
        if let Some(traces) = &log.traces {
            traces.answered(&answered, &access);
        }
    }
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    span.in_scope(|| tracing::info!(status, code, micros, "answered"));
    response
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use tower::ServiceExt;

    use super::*;

    #[test]
    fn strips_base_path() {
        for (base, path, expected) in [
            ("/actpass", "/actpass", "/"),
            ("/actpass", "/actpass/", "/"),
            ("/actpass", "/actpass/live?a=b", "/live?a=b"),
            ("/actpass", "/actpass?a=b", "/?a=b"),
            ("/actpass", "/actpassx", "/actpassx"),
            ("/actpass", "/live", "/live"),
            ("/actpass", "https://h.example/actpass/live", "https://h.example/live"),
            ("", "/live", "/live"),
        ] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            assert_eq!(under_base_path(request, base).uri().to_string(), expected, "{base} {path}");
        }
    }

    #[tokio::test]
    async fn panic_returns_500() {
        async fn broken() -> &'static str {
            panic!("apk_secret");
        }
        let routes = with_common_layers(Router::new().route("/", get(broken)), RequestLog::default());
        let response = routes.oneshot(Request::new(Body::empty())).await.unwrap();

        assert_eq!(response.status(), 500);
        assert!(response.headers().contains_key(REQUEST_ID));
        let body = to_bytes(response.into_body(), 4096).await.unwrap();
        let body = actpass_protocol::Json::parse(&body).unwrap();
        let code = body.member("error").and_then(|error| error.member("code"));
        assert_eq!(code.and_then(actpass_protocol::Json::as_str), Some("internal"));
        assert!(!body.to_string().contains("apk_secret"));
    }
}
