//! Every error that the gateway answers with, in one table.

use actpass_protocol::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use crate::config::MASTER_KEY_VARIABLE;
use crate::passport::keys::KeyError;
use crate::request::InvalidMember;
use crate::store::StoreError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ApiError {
    ApprovalAltered,
    BodyTimeout,
    BodyTooLarge(usize),
    BodyUnreadable,
    Busy,
    Conflict,
    Decided(&'static str),
    Forbidden,
    Internal,
    InvalidHost(&'static str),
    InvalidJson(String),
    InvalidMember(String),
    InvalidPath,
    MethodNotAllowed,
    NotFound(&'static str),
    NoMasterKey,
    NotGranted(String),
    NotOwn(&'static str),
    RateLimited(u64),
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType(&'static str),
    WrongHost,
    WrongKeys(u64),
}

/// The code of an error, beside its answer, for the log.
#[derive(Clone, Copy)]
pub(super) struct Code(pub(super) &'static str);

impl ApiError {
    pub(super) fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::ApprovalAltered => (StatusCode::CONFLICT, "approval_altered"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            Self::BodyTooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::BodyUnreadable => (StatusCode::BAD_REQUEST, "body_unreadable"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            Self::Conflict => (StatusCode::CONFLICT, "idempotency_conflict"),
            Self::Decided(_) => (StatusCode::CONFLICT, "already_decided"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            Self::InvalidHost(_) => (StatusCode::BAD_REQUEST, "invalid_host"),
            Self::InvalidJson(_) => (StatusCode::BAD_REQUEST, "invalid_json"),
            Self::InvalidMember(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_member"),
            Self::InvalidPath => (StatusCode::BAD_REQUEST, "invalid_path"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::NoMasterKey => (StatusCode::NOT_IMPLEMENTED, "not_implemented"),
            Self::NotGranted(_) => (StatusCode::FORBIDDEN, "not_granted"),
            Self::NotOwn(_) => (StatusCode::FORBIDDEN, "not_own"),
            Self::RateLimited(_) => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::UnsupportedMediaType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::WrongHost => (StatusCode::MISDIRECTED_REQUEST, "wrong_host"),
            Self::WrongKeys(_) => (StatusCode::TOO_MANY_REQUESTS, "wrong_keys"),
        }
    }

    pub(super) fn message(&self) -> String {
        match self {
            Self::ApprovalAltered => {
                "this approval is not the one that was asked for: its record does not match its action_hash, so it was \
                 changed in the data; look at the ledger, and let the agent ask again"
                    .to_owned()
            }
            Self::BodyTimeout => "the body did not arrive in time".to_owned(),
            Self::BodyTooLarge(limit) => format!("the body is larger than {limit} bytes"),
            Self::BodyUnreadable => "the body could not be read to its end".to_owned(),
            Self::Busy => "the gateway has more to record than it can take; try again".to_owned(),
            Self::Conflict => {
                "idempotency_key: was used for another request; expected a new one, or the same body"
                    .to_owned()
            }
            Self::Decided(status) => format!("this approval can no longer be decided: it is {status}"),
            Self::Forbidden => "an agent's key may not do this; expected an operator's".to_owned(),
            Self::Internal => "the gateway failed; its log has the request id".to_owned(),
            Self::InvalidHost(problem) => (*problem).to_owned(),
            Self::InvalidJson(problem) | Self::InvalidMember(problem) | Self::NotGranted(problem) => {
                problem.clone()
            }
            Self::InvalidPath => "the path or the query is not percent-encoded UTF-8".to_owned(),
            Self::MethodNotAllowed => "this path does not take this method; see the Allow header".to_owned(),
            Self::NotFound(what) => format!("there is no such {what}"),
            Self::NoMasterKey => format!(
                "this gateway has neither passports nor credentials, because it has no master key: set master_key_file in its settings or \
                 the environment variable {MASTER_KEY_VARIABLE}"
            ),
            Self::NotOwn(problem) => (*problem).to_owned(),
            Self::RateLimited(seconds) => {
                format!("this API key calls more often than it may; try again in {seconds} s")
            }
            Self::Unauthenticated => {
                "expected the header `authorization: Bearer <API key>` with a key of this gateway".to_owned()
            }
            Self::Unavailable => "the ledger cannot be used, so nothing was decided".to_owned(),
            Self::UnsupportedMediaType(expected) => (*expected).to_owned(),
            Self::WrongHost => {
                "this gateway does not answer under this host; expected one of `hosts` in its settings (of localhost \
                 alone, if it was started with dev)"
                    .to_owned()
            }
            Self::WrongKeys(seconds) => format!(
                "too many requests without a key of this gateway came from this address; try again with a right key, or \
                 in {seconds} s"
            ),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = self.status_and_code();
        let error = Json::Object(vec![
            ("code".to_owned(), Json::from(code)),
            ("message".to_owned(), Json::String(self.message())),
        ]);
        let mut response = json(status, Json::Object(vec![("error".to_owned(), error)]).to_string());
        response.extensions_mut().insert(Code(code));
        let headers = response.headers_mut();
        match self {
            Self::Busy => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::RateLimited(seconds) | Self::WrongKeys(seconds) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            Self::Unauthenticated => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::ApprovalAltered
            | Self::BodyTimeout
            | Self::BodyTooLarge(_)
            | Self::BodyUnreadable
            | Self::Conflict
            | Self::Decided(_)
            | Self::Forbidden
            | Self::Internal
            | Self::InvalidHost(_)
            | Self::InvalidJson(_)
            | Self::InvalidMember(_)
            | Self::InvalidPath
            | Self::MethodNotAllowed
            | Self::NotFound(_)
            | Self::NoMasterKey
            | Self::NotGranted(_)
            | Self::NotOwn(_)
            | Self::Unavailable
            | Self::UnsupportedMediaType(_)
            | Self::WrongHost => {}
        }
        response
    }
}

/// A JSON answer.
pub(super) fn json(status: StatusCode, body: impl Into<axum::body::Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl From<InvalidMember> for ApiError {
    fn from(invalid: InvalidMember) -> Self {
        Self::InvalidMember(invalid.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Busy => Self::Busy,
            StoreError::NotCanonical => Self::InvalidMember("metadata: has no canonical form".to_owned()),
            StoreError::Unavailable => Self::Unavailable,
        }
    }
}

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Store(error) => error.into(),
            KeyError::Crypto | KeyError::Seal(_) | KeyError::Sealed(_) => {
                tracing::error!(%error, "the signing keys cannot be used");
                Self::Internal
            }
        }
    }
}
