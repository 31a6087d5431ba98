//! Errors of the core as the faces get them.

use actpass_core::json::{Step, not_finite, path};
use actpass_core::{Error, ErrorKind, InvalidArgument};

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

impl From<InvalidArgument> for NativeError {
    fn from(error: InvalidArgument) -> Self {
        Error::from(error).into()
    }
}

/// A defect of the SDK.
pub(crate) fn internal(problem: &str) -> NativeError {
    Error::new(ErrorKind::Internal, problem).into()
}

/// An error of this kind, as a face makes one for tests.
#[uniffi::export]
pub(crate) fn native_failure(kind: NativeErrorKind, text: String) -> NativeFailure {
    NativeFailure::from(&Error::new(kind.into(), text))
}

/// One step from a value to a part of it.
#[derive(Clone, Debug, uniffi::Enum)]
pub(crate) enum NativeStep {
    /// To the item of a list, counted from 0.
    Index {
        /// Which.
        at: u64,
    },
    /// To the member of an object.
    Key {
        /// Which.
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

/// The error of an argument that a face could not make JSON of; `steps` lead from it to the problem, the outermost first.
#[uniffi::export]
pub(crate) fn native_argument_error(
    member: String,
    steps: Vec<NativeStep>,
    problem: String,
) -> NativeFailure {
    let steps: Vec<Step> = steps.into_iter().map(Step::from).collect();
    NativeFailure::from(&Error::argument(&path(&member, &steps), problem))
}

/// What the message says of a number that JSON does not have.
#[uniffi::export]
pub(crate) fn native_not_finite(number: f64) -> String {
    not_finite(number)
}

/// A language, by how it spells the names of settings and arguments.
#[derive(Clone, Copy, Debug, uniffi::Enum)]
pub(crate) enum NativeLanguage {
    /// `baseUrl`
    Kotlin,
    /// `baseURL`
    Swift,
}

/// The message of `failure` with its setting or argument spelled as the language spells it.
///
/// The core names them as the wire does: `base_url: expected …`.
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

/// The name at the beginning of `message` is the SDK's. What follows it in the path belongs to the caller, and stays.
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

/// The error of a panic that the generated code caught.
#[uniffi::export]
pub(crate) fn native_panicked() -> NativeFailure {
    NativeFailure::from(&Error::panicked())
}
