//! The error type.
//!
//! Every [`Error`] has a [`kind`](Error::kind), which determines its stable [`code`](Error::code),
//! its [`fault`](Error::fault) and its class name in other languages. No error contains the API
//! key, a passport or a credential.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::cause::Cause;
use actpass_protocol::{ErrorKind, Fault, InvalidArgument, Operation};

/// A failed call or an invalid setting or argument.
///
/// ```
/// use actpass_core::{ActPass, ErrorKind};
///
/// let error = ActPass::builder().api_key("").build().unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Config);
/// assert_eq!(error.code(), "actpass.invalid_config");
/// assert_eq!(error.to_string(), "api_key: expected a key, found an empty string");
/// ```
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    operation: Option<Operation>,
    status: Option<u16>,
    body: Option<String>,
    request_id: Option<String>,
    retry_after: Option<Duration>,
    cause: Option<Cause>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The stable code, such as `actpass.unreachable`, to alert and branch on.
    pub fn code(&self) -> &'static str {
        self.0.kind.code()
    }

    /// The party that can fix it.
    pub fn fault(&self) -> Fault {
        self.0.kind.fault()
    }

    /// Whether the same call may succeed later unchanged. The client has already retried.
    pub fn is_retryable(&self) -> bool {
        match self.0.kind {
            ErrorKind::Connection | ErrorKind::RateLimit | ErrorKind::Timeout => true,
            ErrorKind::Status => matches!(self.0.status, Some(502..=504)),
            ErrorKind::Argument
            | ErrorKind::Authentication
            | ErrorKind::Config
            | ErrorKind::Internal
            | ErrorKind::Permission
            | ErrorKind::Response => false,
        }
    }

    /// The operation that failed; `None` if no call was made.
    pub fn operation(&self) -> Option<Operation> {
        self.0.operation
    }

    /// The HTTP status of a non-2xx response.
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// The body of a non-2xx response as text, with secrets redacted. `None` if it is empty, larger
    /// than 64 KiB, or might contain a secret.
    pub fn body(&self) -> Option<&str> {
        self.0.body.as_deref()
    }

    /// The `x-request-id` of the gateway's response, for support.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// Value of the `Retry-After` header, or the time until the circuit breaker's next probe.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Creates an error, for implementations of [`Transport`](crate::transport::Transport).
    ///
    /// `message` must be one line and contain no secret.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            operation: None,
            status: None,
            body: None,
            request_id: None,
            retry_after: None,
            cause: None,
            source: None,
        }))
    }

    /// The error for a caught panic, which is a defect of the SDK. The panic message is not
    /// included, because it might contain a secret.
    ///
    /// ```
    /// assert_eq!(actpass_core::Error::panicked().code(), "actpass.internal");
    /// ```
    pub fn panicked() -> Self {
        Self::new(ErrorKind::Internal, "a panic in the SDK")
    }

    /// Sets the source of the error.
    #[must_use]
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// An invalid setting; `member` is its name.
    pub(crate) fn config(member: &str, problem: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Config, format!("{member}: {problem}"))
    }

    /// Creates the error for an invalid argument; `member` is its name.
    pub fn argument(member: &str, problem: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Argument, format!("{member}: {problem}"))
    }

    /// Converts the error of a setting to one of an argument.
    pub(crate) fn into_argument(mut self) -> Self {
        self.0.kind = ErrorKind::Argument;
        self
    }

    /// Converts the error of a member to one of the argument `outer`.
    pub(crate) fn inside(mut self, outer: &str) -> Self {
        self.0.message = format!("{outer}.{}", self.0.message);
        self
    }

    pub(crate) fn with_request_id(mut self, request_id: Option<String>) -> Self {
        self.0.request_id = request_id;
        self
    }

    /// Sets a cause that is more precise than the kind.
    pub(crate) fn with_cause(mut self, cause: Cause) -> Self {
        self.0.cause = Some(cause);
        self
    }

    pub(crate) fn cause(&self) -> Option<&Cause> {
        self.0.cause.as_ref()
    }

    pub(crate) fn with_operation(mut self, operation: Operation) -> Self {
        self.0.operation = Some(operation);
        self
    }

    pub(crate) fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.0.retry_after = Some(retry_after);
        self
    }

    pub(crate) fn with_answer(
        mut self,
        status: u16,
        body: Option<String>,
        request_id: Option<String>,
        retry_after: Option<Duration>,
    ) -> Self {
        self.0.status = Some(status);
        self.0.body = body;
        self.0.request_id = request_id;
        self.0.retry_after = retry_after;
        self
    }
}

impl From<InvalidArgument> for Error {
    fn from(invalid: InvalidArgument) -> Self {
        Self::new(ErrorKind::Argument, invalid.to_string())
    }
}

/// Formats one line: the operation, if any, and the message.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(operation) = self.0.operation {
            write!(f, "{}: ", operation.name())?;
        }
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("operation", &self.0.operation)
            .field("status", &self.0.status)
            .field("request_id", &self.0.request_id)
            .field("retry_after", &self.0.retry_after)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.source {
            Some(source) => Some(source.as_ref()),
            None => None,
        }
    }
}
