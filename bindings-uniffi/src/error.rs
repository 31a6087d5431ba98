//! Errors of the core for the public API layers.

use actpass_core::json::{Step, not_finite, path};
use actpass_core::{Error, ErrorKind, InvalidArgument};

/// The kinds of errors of the core.
#[derive(Clone, Copy, Debug, uniffi::Enum)]
pub(crate) enum NativeErrorKind {
    /// Invalid argument.
    Argument,
    /// 401: unknown API key.
    Authentication,
    /// Missing or invalid setting.
    Config,
    /// Unreachable gateway.
    Connection,
    /// A defect of the SDK.
    Internal,
    /// 403: the API key lacks permission.
    Permission,
    /// 429: rate limited.
    RateLimit,
    /// Invalid 2xx response.
    Response,
    /// Any other non-2xx status.
    Status,
    /// Timeout.
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

impl From<NativeErrorKind> for ErrorKind {
    fn from(kind: NativeErrorKind) -> Self {
        match kind {
            NativeErrorKind::Argument => Self::Argument,
            NativeErrorKind::Authentication => Self::Authentication,
            NativeErrorKind::Config => Self::Config,
            NativeErrorKind::Connection => Self::Connection,
            NativeErrorKind::Internal => Self::Internal,
            NativeErrorKind::Permission => Self::Permission,
            NativeErrorKind::RateLimit => Self::RateLimit,
            NativeErrorKind::Response => Self::Response,
            NativeErrorKind::Status => Self::Status,
            NativeErrorKind::Timeout => Self::Timeout,
        }
    }
}

/// The details of an error.
#[derive(Clone, Debug, uniffi::Record)]
pub(crate) struct NativeFailure {
    /// The kind.
    pub(crate) kind: NativeErrorKind,
    /// The kind's name in canonical outcomes.
    pub(crate) kind_name: String,
    /// The stable code.
    pub(crate) code: String,
    /// One line, without secrets.
    pub(crate) text: String,
    /// The call that failed.
    pub(crate) operation: Option<String>,
    /// The HTTP status of a non-2xx response.
    pub(crate) status: Option<u16>,
    /// The body of such a response, with secrets redacted.
    pub(crate) body: Option<String>,
    /// The gateway's id of the request.
    pub(crate) request_id: Option<String>,
    /// Value of the `Retry-After` header, in seconds.
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

/// The end of a call without a result.
#[derive(Debug, thiserror::Error, uniffi::Error)]
pub(crate) enum NativeError {
    /// Its task was cancelled.
    #[error("the call was cancelled")]
    Cancelled,
    /// It failed.
    #[error("{}", failure.text)]
    Failed {
        /// The error.
        failure: NativeFailure,
    },
}

impl From<Error> for NativeError {
    fn from(error: Error) -> Self {
        Self::Failed { failure: NativeFailure::from(&error) }
    }
}

impl From<InvalidArgument> for NativeError {
    fn from(error: InvalidArgument) -> Self {
        Error::from(error).into()
    }
}

/// A defect of the SDK.
pub(crate) fn internal(problem: &str) -> NativeError {
    Error::new(ErrorKind::Internal, problem).into()
}

/// Creates an error of this kind, for tests.
#[uniffi::export]
pub(crate) fn native_failure(kind: NativeErrorKind, text: String) -> NativeFailure {
    NativeFailure::from(&Error::new(kind.into(), text))
}

/// One step from a value to a part of it.
#[derive(Clone, Debug, uniffi::Enum)]
pub(crate) enum NativeStep {
    /// An item of a list, counted from 0.
    Index {
        /// The index.
        at: u64,
    },
    /// A member of an object.
    Key {
        /// The key.
        name: String,
    },
}

impl From<NativeStep> for Step {
    fn from(step: NativeStep) -> Self {
        match step {
            NativeStep::Index { at } => Self::Index(usize::try_from(at).unwrap_or(usize::MAX)),
            NativeStep::Key { name } => Self::Key(name),
        }
    }
}

/// The error for an argument that cannot be encoded as JSON; `steps` lead to the problem, outermost
/// first.
#[uniffi::export]
pub(crate) fn native_argument_error(
    member: String,
    steps: Vec<NativeStep>,
    problem: String,
) -> NativeFailure {
    let steps: Vec<Step> = steps.into_iter().map(Step::from).collect();
    NativeFailure::from(&Error::argument(&path(&member, &steps), problem))
}

/// The message for a number that JSON does not have.
#[uniffi::export]
pub(crate) fn native_not_finite(number: f64) -> String {
    not_finite(number)
}

/// A language, which determines the spelling of settings and arguments.
#[derive(Clone, Copy, Debug, uniffi::Enum)]
pub(crate) enum NativeLanguage {
    /// `baseUrl`
    Kotlin,
    /// `baseURL`
    Swift,
}

/// The message of `failure` with its setting or argument in the language's spelling.
///
/// The core uses the wire name: `base_url: expected …`.
#[uniffi::export]
pub(crate) fn native_message(failure: NativeFailure, language: NativeLanguage) -> String {
    match failure.kind {
        NativeErrorKind::Argument | NativeErrorKind::Config => respelled(&failure.text, language),
        NativeErrorKind::Authentication
        | NativeErrorKind::Connection
        | NativeErrorKind::Internal
        | NativeErrorKind::Permission
        | NativeErrorKind::RateLimit
        | NativeErrorKind::Response
        | NativeErrorKind::Status
        | NativeErrorKind::Timeout => failure.text,
    }
}

/// Respells the name at the start of `message`. The rest of the path belongs to the caller and is
/// unchanged.
fn respelled(message: &str, language: NativeLanguage) -> String {
    const ESCAPE: &str = "danger_allow_insecure_http";
    let end = message.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(message.len());
    let (name, rest) = message.split_at(end);
    match rest.chars().next() {
        Some(':' | '.' | '[') => {
            let rest = rest.replace(ESCAPE, &spelled(ESCAPE, language));
            format!("{}{rest}", spelled(name, language))
        }
        Some(_) | None => message.to_owned(),
    }
}

fn spelled(name: &str, language: NativeLanguage) -> String {
    if name == "wait" {
        return "timeout".to_owned();
    }
    let mut words = name.split('_');
    let mut spelled = words.next().unwrap_or_default().to_owned();
    for word in words {
        let is_acronym = matches!((word, language), ("http" | "id" | "url", NativeLanguage::Swift));
        let mut letters = word.chars();
        match letters.next() {
            _ if is_acronym => spelled.push_str(&word.to_ascii_uppercase()),
            Some(first) => {
                spelled.push(first.to_ascii_uppercase());
                spelled.push_str(letters.as_str());
            }
            None => {}
        }
    }
    spelled
}

/// The error for a panic caught by the generated code.
#[uniffi::export]
pub(crate) fn native_panicked() -> NativeFailure {
    NativeFailure::from(&Error::panicked())
}
