//! What can go wrong, as one table: kinds, their stable codes, and whose fault each is.

use std::fmt;

/// The kinds of error. Closed: a new kind is a breaking change, so that every program that matches on it is asked.
///
/// ```
/// use actpass_protocol::{ErrorKind, Fault};
///
/// assert_eq!(ErrorKind::Connection.code(), "actpass.unreachable");
/// assert_eq!(ErrorKind::RateLimit.name(), "rate_limit");
/// assert_eq!(ErrorKind::Authentication.fault(), Fault::Caller);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// An argument cannot be sent: not JSON, nested too deep, empty where something is needed. Nothing was sent.
    Argument,
    /// 401: the gateway does not know the API key.
    Authentication,
    /// A setting of the client is missing or wrong. Nothing was sent.
    Config,
    /// The gateway could not be reached: name, connection, TLS, or a connection that was reset.
    Connection,
    /// A defect of the SDK. The guard blocks on it like on any other failure.
    Internal,
    /// 403: the API key may not do this.
    Permission,
    /// 429, still so after the last retry.
    RateLimit,
    /// A 2xx answer that is not one: not JSON, cut short, too large, without what it must hold.
    Response,
    /// Any other status outside 2xx, a redirect among them.
    Status,
    /// The deadline passed before there was an answer.
    Timeout,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Argument,
        Self::Authentication,
        Self::Config,
        Self::Connection,
        Self::Internal,
        Self::Permission,
        Self::RateLimit,
        Self::Response,
        Self::Status,
        Self::Timeout,
    ];

    /// The stable code: the `reason_code` of the decision that the guard reports for this failure.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Argument => "actpass.invalid_argument",
            Self::Authentication => "actpass.unauthenticated",
            Self::Config => "actpass.invalid_config",
            Self::Connection => "actpass.unreachable",
            Self::Internal => "actpass.internal",
            Self::Permission => "actpass.forbidden",
            Self::RateLimit => "actpass.rate_limited",
            Self::Response => "actpass.invalid_response",
            Self::Status => "actpass.gateway_error",
            Self::Timeout => "actpass.timeout",
        }
    }

    /// The kind's name in canonical outcomes: `connection`, `rate_limit` and so on.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Argument => "argument",
            Self::Authentication => "authentication",
            Self::Config => "config",
            Self::Connection => "connection",
            Self::Internal => "internal",
            Self::Permission => "permission",
            Self::RateLimit => "rate_limit",
            Self::Response => "response",
            Self::Status => "status",
            Self::Timeout => "timeout",
        }
    }

    /// Who has to do something about it.
    pub const fn fault(self) -> Fault {
        match self {
            Self::Argument | Self::Authentication | Self::Config | Self::Permission => Fault::Caller,
            Self::Connection | Self::Timeout => Fault::Network,
            Self::RateLimit | Self::Response | Self::Status => Fault::Gateway,
            Self::Internal => Fault::Sdk,
        }
    }
}

/// Who has to act on an error.
///
/// ```
/// use actpass_protocol::{ErrorKind, Fault};
///
/// let of_the_network: Vec<_> = ErrorKind::ALL.into_iter().filter(|kind| kind.fault() == Fault::Network).collect();
/// assert_eq!(of_the_network, [ErrorKind::Connection, ErrorKind::Timeout]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The program that made the call, or its configuration.
    Caller,
    /// The gateway, or what stands before it.
    Gateway,
    /// What lies between.
    Network,
    /// This library.
    Sdk,
}

/// An argument is invalid: the member and the problem, in one line. [`ErrorKind::Argument`] is its kind.
///
/// ```
/// use actpass_protocol::Mode;
///
/// let error = "Enforce".parse::<Mode>().unwrap_err();
/// assert_eq!(error.to_string(), r#"mode: expected enforce, strict, warn or monitor, found "Enforce""#);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidArgument(String);

impl InvalidArgument {
    /// The argument `member` is invalid because of `problem`.
    pub fn new(member: &str, problem: impl fmt::Display) -> Self {
        Self(format!("{member}: {problem}"))
    }
}

impl fmt::Display for InvalidArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidArgument {}
