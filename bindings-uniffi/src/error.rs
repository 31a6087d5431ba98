//! Errors of the core as the faces get them.

use actpass_core::{Error, ErrorKind};

/// The kinds of errors, one for each of the core.
#[derive(Clone, Copy, Debug, uniffi::Enum)]
pub(crate) enum NativeErrorKind {
    /// An argument cannot be sent.
    Argument,
    /// 401.
    Authentication,
    /// A setting is missing or wrong.
    Config,
    /// The gateway could not be reached.
    Connection,
    /// A defect of the SDK.
    Internal,
    /// 403.
    Permission,
    /// 429.
    RateLimit,
    /// A 2xx answer that is not one.
    Response,
    /// Any other status outside 2xx.
    Status,
    /// The deadline passed.
    Timeout,
}

impl From<ErrorKind> for NativeErrorKind {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Argument => Self::Argument,
            ErrorKind::Authentication => Self::Authentication,
            ErrorKind::Config => Self::Config,
            ErrorKind::Connection => Self::Connection,
            ErrorKind::Internal => Self::Internal,
            ErrorKind::Permission => Self::Permission,
            ErrorKind::RateLimit => Self::RateLimit,
            ErrorKind::Response => Self::Response,
            ErrorKind::Status => Self::Status,
            ErrorKind::Timeout => Self::Timeout,
        }
    }
}

/// What there is to know about an error.
#[derive(Clone, Debug, uniffi::Record)]
pub(crate) struct NativeFailure {
    /// What kind of thing went wrong.
    pub(crate) kind: NativeErrorKind,
    /// The kind's name in canonical outcomes.
    pub(crate) kind_name: String,
    /// The stable code.
    pub(crate) code: String,
    /// One line, without secrets.
    pub(crate) text: String,
    /// The call that failed.
    pub(crate) operation: Option<String>,
    /// The HTTP status of an answer outside 2xx.
    pub(crate) status: Option<u16>,
    /// The body of such an answer, every secret taken out.
    pub(crate) body: Option<String>,
    /// The gateway's name for the request.
    pub(crate) request_id: Option<String>,
    /// For how many seconds the gateway asked to be left alone.
    pub(crate) retry_after: Option<f64>,
    /// Whether the same call may succeed later.
    pub(crate) retryable: bool,
}

impl From<&Error> for NativeFailure {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind().into(),
            kind_name: error.kind().name().to_owned(),
            code: error.code().to_owned(),
            text: error.to_string(),
            operation: error.operation().map(|operation| operation.name().to_owned()),
            status: error.status(),
            body: error.body().map(str::to_owned),
            request_id: error.request_id().map(str::to_owned),
            retry_after: error.retry_after().map(|wait| wait.as_secs_f64()),
            retryable: error.is_retryable(),
        }
    }
}

/// How a call ends that does not return.
#[derive(Debug, thiserror::Error, uniffi::Error)]
pub(crate) enum NativeError {
    /// Its task was cancelled.
    #[error("the call was cancelled")]
    Cancelled,
    /// It failed.
    #[error("{}", failure.text)]
    Failed {
        /// How.
        failure: NativeFailure,
    },
}

impl From<Error> for NativeError {
    fn from(error: Error) -> Self {
        Self::Failed { failure: NativeFailure::from(&error) }
    }
}

/// A defect of the SDK.
pub(crate) fn internal(problem: &str) -> NativeError {
    Error::new(ErrorKind::Internal, problem).into()
}

/// The error of an argument that a face could not make JSON of.
#[uniffi::export]
pub(crate) fn native_argument_error(member: String, problem: String) -> NativeFailure {
    NativeFailure::from(&Error::argument(&member, problem))
}

/// The error of a panic that the generated code caught.
#[uniffi::export]
pub(crate) fn native_panicked() -> NativeFailure {
    NativeFailure::from(&crate::runtime::panicked())
}
