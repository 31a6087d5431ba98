//! Decisions for proxies, which forward a request if it is permitted.
//!
//! Each failure is a denial in the proxy's protocol: a proxy may be configured to forward requests if
//! the decision fails.

use std::sync::Arc;
use std::time::Instant;

use actpass_protocol::json::RawObject;
use axum::extract::Request;
use bytes::Bytes;
use http::{HeaderName, StatusCode};

use super::App;
use super::error::{ApiError, Code};
use super::preflight::admit;
use super::receive::{ForServer, JsonCall};
use crate::auth::Capability;
use crate::request::Preflight;
use crate::service::{Authorized, PendingPreflight, ServiceError};

/// The header of a permitted request with the decision's event.
pub(super) const EVENT: HeaderName = HeaderName::from_static("x-actpass-event");

/// The result of an authorization: [`StatusCode::OK`] permits the request.
pub(super) struct Verdict {
    pub(super) status: StatusCode,
    /// The decision, or the error, as JSON.
    pub(super) body: Bytes,
    pub(super) event: Option<String>,
    pub(super) code: Option<Code>,
}

/// Authenticates the proxy and decides. Only an `allow` permits the request, or a request that needs no
/// decision.
pub(super) async fn decide(
    app: &Arc<App>,
    mut request: Request,
    parse: impl FnOnce(Bytes) -> Result<Option<Preflight>, ApiError> + Send + 'static,
) -> Verdict {
    request.extensions_mut().insert(ForServer);
    let decided = async {
        let JsonCall { key, body, took, .. } = JsonCall::receive(request, app, |_| Ok(())).await?;
        Authorized::of(&key, Capability::Act)?;
        let _admitted = admit(app, &key)?;
        let (received, bytes, begun) = (app.service.clock.millis(), body.len(), Instant::now());
        let Some(request) = app.service.run(bytes, move || parse(body)).await? else {
            return Ok(None);
        };
        let pending = PendingPreflight { key, request, bytes, received, took, begun, proven_key: None };
        Ok::<_, ApiError>(Some(app.service.preflight(pending).await?))
    };
    match decided.await {
        Ok(None) => Verdict { status: StatusCode::OK, body: Bytes::new(), event: None, code: None },
        Ok(Some(body)) => {
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
