//! All errors of the HTTP API.

use actpass_protocol::Json;
use actpass_protocol::dpop::USE_NONCE;
use actpass_protocol::token::InvalidProof;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use crate::approvals::{VoteRefusal, reason};
use crate::auth::Role;
use crate::config::MASTER_KEY_VARIABLE;
use crate::dpop::ProofError;
use crate::halts::{HALTED, MAX_ACTIVE, epoch_json};
use crate::object_writer::object;
use crate::request::InvalidMember;
use crate::service::ServiceError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ApiError {
    BodyTimeout,
    BodyTooLarge(usize),
    BodyUnreadable,
    CertificateRequired,
    InvalidForm(String),
    InvalidHost(&'static str),
    InvalidJson(String),
    InvalidPath,
    InvalidProof(InvalidProof),
    InvalidToken(&'static str),
    MethodNotAllowed,
    NotReady(&'static str),
    Overloaded,
    RateLimited(&'static str, u64),
    Service(ServiceError),
    TooManyProofs,
    Unauthenticated,
    UnsupportedMediaType(&'static str),
    UseNonce,
    WrongHost,
    WrongKeys(u64),
}

/// The codes of RFC 9449 and RFC 6750.
const INVALID_PROOF: &str = "invalid_dpop_proof";
const INVALID_TOKEN: &str = "invalid_token";

/// The algorithms of DPoP proofs.
const PROOF_ALGORITHMS: &str = "ES256 EdDSA";

/// The challenges for a request without a valid API key.
const CHALLENGES: &str = "Bearer, DPoP algs=\"ES256 EdDSA\"";

/// The error code of a response, for the log.
#[derive(Clone, Copy)]
pub(super) struct Code(pub(super) &'static str);

/// The message of an error, for protocols that write it differently.
#[derive(Clone)]
pub(super) struct Message(pub(super) String);

impl ApiError {
    pub(super) fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            Self::CertificateRequired => (StatusCode::FORBIDDEN, "certificate_required"),
            Self::BodyTooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::BodyUnreadable => (StatusCode::BAD_REQUEST, "body_unreadable"),
            Self::InvalidForm(_) => (StatusCode::BAD_REQUEST, "invalid_form"),
            Self::InvalidHost(_) => (StatusCode::BAD_REQUEST, "invalid_host"),
            Self::InvalidJson(_) => (StatusCode::BAD_REQUEST, "invalid_json"),
            Self::InvalidPath => (StatusCode::BAD_REQUEST, "invalid_path"),
            Self::InvalidProof(_) => (StatusCode::UNAUTHORIZED, INVALID_PROOF),
            Self::InvalidToken(_) => (StatusCode::UNAUTHORIZED, INVALID_TOKEN),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::NotReady(_) => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
            Self::Overloaded | Self::TooManyProofs => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Self::RateLimited(..) => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::Service(error) => match error {
                ServiceError::AlreadyDecided(_) => (StatusCode::CONFLICT, "already_decided"),
                ServiceError::ApprovalAltered => (StatusCode::CONFLICT, "approval_altered"),
                ServiceError::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
                ServiceError::Conflict => (StatusCode::CONFLICT, "idempotency_conflict"),
                ServiceError::Forbidden(..) => (StatusCode::FORBIDDEN, "forbidden"),
                ServiceError::Halted(..) => (StatusCode::CONFLICT, HALTED),
                ServiceError::HaltsChanged => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
                ServiceError::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
                ServiceError::InvalidMember(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_member"),
                ServiceError::NoMasterKey => (StatusCode::NOT_IMPLEMENTED, "not_implemented"),
                ServiceError::NotActive => (StatusCode::CONFLICT, "already_lifted"),
                ServiceError::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
                ServiceError::NotGranted(_) => (StatusCode::FORBIDDEN, "not_granted"),
                ServiceError::NotOwn(_) => (StatusCode::FORBIDDEN, "not_own"),
                ServiceError::ReloadRefused(_) => (StatusCode::CONFLICT, "reload_refused"),
                ServiceError::TooManyHalts => (StatusCode::CONFLICT, "too_many_halts"),
                ServiceError::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
                ServiceError::VoteRefused(refusal, _) => match refusal {
                    VoteRefusal::AlreadyVoted => (StatusCode::CONFLICT, "approval.already_voted"),
                    VoteRefusal::Altered => (StatusCode::CONFLICT, "approval_altered"),
                    VoteRefusal::NoSeat => (StatusCode::FORBIDDEN, "approval.no_seat"),
                    VoteRefusal::NotSigned => (StatusCode::FORBIDDEN, "approval.not_signed"),
                    VoteRefusal::NotDelegated => (StatusCode::FORBIDDEN, "approval.not_delegated"),
                    VoteRefusal::SelfApproval => (StatusCode::FORBIDDEN, reason::SELF),
                },
            },
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            Self::UnsupportedMediaType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::UseNonce => (StatusCode::UNAUTHORIZED, USE_NONCE),
            Self::WrongHost => (StatusCode::MISDIRECTED_REQUEST, "wrong_host"),
            Self::WrongKeys(_) => (StatusCode::TOO_MANY_REQUESTS, "wrong_keys"),
        }
    }

    /// The body of a response with this error.
    pub(super) fn body(&self) -> Json {
        let (_, code) = self.status_and_code();
        let error =
            object([("code", Some(Json::from(code))), ("message", Some(Json::String(self.message())))]);
        let halt_epoch = if let Self::Service(ServiceError::Halted(_, epoch)) = self {
            Some(epoch_json(*epoch))
        } else {
            None
        };
        object([("error", Some(error)), ("halt_epoch", halt_epoch)])
    }

    pub(super) fn message(&self) -> String {
        match self {
            Self::BodyTimeout => "the body was not received in time".to_owned(),
            Self::BodyTooLarge(limit) => format!("the body is larger than {limit} bytes"),
            Self::BodyUnreadable => "the body ended unexpectedly".to_owned(),
            Self::CertificateRequired => {
                "missing, expired or untrusted client certificate; reconnect with one of a trusted CA"
                    .to_owned()
            }
            Self::InvalidHost(problem) | Self::NotReady(problem) => (*problem).to_owned(),
            Self::InvalidForm(problem) | Self::InvalidJson(problem) => problem.clone(),
            Self::InvalidPath => "the path or the query is not percent-encoded UTF-8".to_owned(),
            Self::InvalidProof(invalid) => invalid.to_string(),
            Self::InvalidToken(problem) => (*problem).to_owned(),
            Self::MethodNotAllowed => "method not allowed for this path; see the Allow header".to_owned(),
            Self::Overloaded => "too many decisions are in progress; retry later".to_owned(),
            Self::RateLimited(what, seconds) => {
                format!("rate limit of this {what} exceeded; retry in {seconds} s")
            }
            Self::Service(error) => message_of(error),
            Self::TooManyProofs => {
                "too many DPoP proofs are remembered; retry in a minute, or send fewer requests".to_owned()
            }
            Self::Unauthenticated => {
                "missing or unknown API key; expected the header `authorization: Bearer <API key>`".to_owned()
            }
            Self::UnsupportedMediaType(expected) => (*expected).to_owned(),
            Self::UseNonce => {
                "nonce: missing or expired; repeat the request with a proof that has the nonce in the header \
                dpop-nonce"
                    .to_owned()
            }
            Self::WrongHost => {
                "unknown host; expected one listed under `hosts` in the gateway's settings (with dev, only \
                localhost)"
                    .to_owned()
            }
            Self::WrongKeys(seconds) => format!(
                "too many invalid API keys from this address; retry with a valid key, or \
                in {seconds} s"
            ),
        }
    }
}

fn message_of(error: &ServiceError) -> String {
    match error {
        ServiceError::AlreadyDecided(status) => {
            format!("this approval cannot be decided: it is {}", status.as_str())
        }
        ServiceError::ApprovalAltered => {
            "the approval's record was changed: it does not match its action_hash; check the ledger and let \
            the agent ask again"
                .to_owned()
        }
        ServiceError::Busy => "the write queue is full; retry later".to_owned(),
        ServiceError::Conflict => {
            "idempotency_key: already used for a different request; use a new key or send the same \
            body"
                .to_owned()
        }
        ServiceError::Forbidden(role, capability) => {
            let roles = Role::ALL.into_iter().filter(|role| role.may(*capability)).map(Role::as_str);
            let roles = roles.collect::<Vec<_>>().join(" or ");
            format!(
                "the role {} may not {}; use a key with the role {roles}",
                role.as_str(),
                capability.describe()
            )
        }
        ServiceError::Halted(halt, _) => halt.explain(),
        ServiceError::HaltsChanged => "halts are changing; retry later".to_owned(),
        ServiceError::Internal => "internal error; search the gateway's log for the request id".to_owned(),
        ServiceError::InvalidMember(invalid) => invalid.to_string(),
        ServiceError::NoMasterKey => format!(
            "passports and the vault are disabled: no master key is configured; set master_key_file in the \
            settings or the environment variable {MASTER_KEY_VARIABLE}"
        ),
        ServiceError::NotActive => "this halt is already lifted".to_owned(),
        ServiceError::NotFound(what) => format!("{what} not found"),
        ServiceError::NotGranted(problem) => problem.clone(),
        ServiceError::NotOwn(problem) => (*problem).to_owned(),
        ServiceError::ReloadRefused(problems) => {
            format!("the settings were not reloaded, the previous ones are in force: {problems}")
        }
        ServiceError::TooManyHalts => {
            format!("there are already {MAX_ACTIVE} active halts; lift one, or stop the tenant")
        }
        ServiceError::VoteRefused(refusal, needed) => match refusal {
            VoteRefusal::AlreadyVoted => {
                "this person or the absent person has already approved; one person fills one seat".to_owned()
            }
            VoteRefusal::Altered => message_of(&ServiceError::ApprovalAltered),
            VoteRefusal::NoSeat => format!("your groups have no seat; the approval needs {needed}"),
            VoteRefusal::NotSigned => {
                "it must be signed with your passkey; add one under Passkeys on the gateway's page".to_owned()
            }
            VoteRefusal::NotDelegated => "the delegation is no longer in force".to_owned(),
            VoteRefusal::SelfApproval => {
                "a person cannot approve their own request, directly or for an absent person".to_owned()
            }
        },
        ServiceError::Unavailable => "the ledger is unavailable; no decision was made".to_owned(),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = self.status_and_code();
        let mut response = json(status, self.body().to_string());
        response.extensions_mut().insert(Code(code));
        response.extensions_mut().insert(Message(self.message()));
        let headers = response.headers_mut();
        match self {
            Self::RateLimited(_, seconds) | Self::WrongKeys(seconds) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            Self::Overloaded
            | Self::TooManyProofs
            | Self::Service(ServiceError::Busy | ServiceError::HaltsChanged) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::Unauthenticated => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGES));
            }
            Self::InvalidProof(_) | Self::InvalidToken(_) | Self::UseNonce => {
                let challenge = format!("DPoP error=\"{code}\", algs=\"{PROOF_ALGORITHMS}\"");
                if let Ok(challenge) = HeaderValue::try_from(challenge) {
                    headers.insert(header::WWW_AUTHENTICATE, challenge);
                }
            }
            Self::BodyTimeout
            | Self::BodyTooLarge(_)
            | Self::BodyUnreadable
            | Self::CertificateRequired
            | Self::InvalidHost(_)
            | Self::InvalidForm(_)
            | Self::InvalidJson(_)
            | Self::InvalidPath
            | Self::MethodNotAllowed
            | Self::NotReady(_)
            | Self::Service(_)
            | Self::UnsupportedMediaType(_)
            | Self::WrongHost => {}
        }
        response
    }
}

/// Builds a JSON response.
pub(super) fn json(status: StatusCode, body: impl Into<axum::body::Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl From<InvalidMember> for ApiError {
    fn from(invalid: InvalidMember) -> Self {
        Self::Service(invalid.into())
    }
}

impl From<ProofError> for ApiError {
    fn from(error: ProofError) -> Self {
        match error {
            ProofError::Invalid(invalid) => Self::InvalidProof(invalid),
            ProofError::Nonce => Self::UseNonce,
            ProofError::Full => Self::TooManyProofs,
        }
    }
}

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> Self {
        Self::Service(error)
    }
}
