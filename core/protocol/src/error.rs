//! Error kinds, their stable codes and their faults.

use std::fmt;

/// The kinds of error. Closed: a new kind is a breaking change, so that every program that matches
/// on it is reviewed.
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
    /// Invalid argument: not JSON, nested too deep, or empty although required. Nothing was sent.
    Argument,
    /// 401: unknown API key.
    Authentication,
    /// Missing or invalid client setting. Nothing was sent.
    Config,
    /// Unreachable gateway: name resolution, connection, TLS, or a connection reset.
    Connection,
    /// A defect of the SDK. The guard blocks on it as on any other failure.
    Internal,
    /// 403: the API key lacks permission.
    Permission,
    /// 429 after the last retry.
    RateLimit,
    /// An invalid 2xx response: not JSON, truncated, too large, or without a required member.
    Response,
    /// Any other non-2xx status, including redirects.
    Status,
    /// The call timed out without a response.
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

    /// The stable code, which is also the `reason_code` of the guard's decision for this failure.
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

    /// The class of the error in languages that have one class for each kind, such as
    /// `ActPassConnectionError`.
    pub const fn class_name(self) -> &'static str {
        match self {
            Self::Argument => "ActPassArgumentError",
            Self::Authentication => "ActPassAuthenticationError",
            Self::Config => "ActPassConfigError",
            Self::Connection => "ActPassConnectionError",
            Self::Internal => "ActPassInternalError",
            Self::Permission => "ActPassPermissionError",
            Self::RateLimit => "ActPassRateLimitError",
            Self::Response => "ActPassResponseError",
            Self::Status => "ActPassStatusError",
            Self::Timeout => "ActPassTimeoutError",
        }
    }

    /// The kind's name in canonical outcomes, such as `connection` or `rate_limit`.
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

    /// The party that can fix it.
    pub const fn fault(self) -> Fault {
        match self {
            Self::Argument | Self::Authentication | Self::Config | Self::Permission => Fault::Caller,
            Self::Connection | Self::Timeout => Fault::Network,
            Self::RateLimit | Self::Response | Self::Status => Fault::Gateway,
            Self::Internal => Fault::Sdk,
        }
    }
}

/// The party that can fix an error.
///
/// ```
/// use actpass_protocol::{ErrorKind, Fault};
///
/// let of_the_network: Vec<_> = ErrorKind::ALL.into_iter().filter(|kind| kind.fault() == Fault::Network).collect();
/// assert_eq!(of_the_network, [ErrorKind::Connection, ErrorKind::Timeout]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The calling program or its configuration.
    Caller,
    /// The gateway, or a proxy in front of it.
    Gateway,
    /// The network between client and gateway.
    Network,
    /// This library.
    Sdk,
}

/// An invalid argument: the member and the problem, on one line. Its kind is
/// [`ErrorKind::Argument`].
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
    /// Creates the error for the argument `member`.
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
