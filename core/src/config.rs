//! Settings, parsed once. Later code relies on their validity.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderValue;

use actpass_protocol::{Mode, Secret};

use crate::base_url::BaseUrl;
use crate::dpop::Prover;
use crate::error::Error;
use crate::halts::SeenEpoch;
use crate::signed_approvals::ApprovalVerifier;

/// The default total timeout of a call: 30 s.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// The default connect timeout of an attempt: 5 s.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The default maximum number of retries: 2.
pub const DEFAULT_MAX_RETRIES: u32 = 2;

/// The maximum timeout: one day.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// The maximum number of retries.
const MAX_RETRIES: u32 = 10;

/// All settings of a client, validated.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) api_key: Secret,
    /// `Bearer <key>`, or `DPoP <key>` with a DPoP key; marked sensitive.
    pub(crate) authorization: HeaderValue,
    /// Makes the DPoP proofs of the requests.
    pub(crate) prover: Option<Arc<Prover>>,
    pub(crate) tenant_id: Option<HeaderValue>,
    pub(crate) agent_id: String,
    pub(crate) base_url: BaseUrl,
    pub(crate) timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) circuit_failures: u32,
    pub(crate) max_retries: u32,
    pub(crate) mode: Mode,
    pub(crate) user_agent: HeaderValue,
    /// The highest `halt_epoch` that a client with these settings has seen.
    pub(crate) seen_epoch: Arc<SeenEpoch>,
    /// The passkeys that must have signed an approval.
    pub(crate) approvals: Option<Arc<ApprovalVerifier>>,
    /// The proxy, for error messages: ` (through the proxy …)`, or empty.
    pub(crate) via_proxy: String,
    /// Records the actions that ran.
    #[cfg(feature = "testing")]
    pub(crate) executions: Option<Arc<dyn ExecutionLog>>,
}

/// Records the actions that run, for tests.
#[cfg(feature = "testing")]
pub(crate) trait ExecutionLog: Send + Sync + std::fmt::Debug {
    /// Records that an action runs. `args` is the JSON text of its arguments.
    fn note_execution(&self, tool: &str, args: &str);
}

/// Converts a binding's seconds to a timeout; `member` is its name in error messages.
///
/// # Errors
///
/// [`ErrorKind::Config`](crate::ErrorKind::Config) unless the value is finite, greater than 0 and
/// at most one day.
///
/// ```
/// assert!(actpass_core::seconds("timeout", 2.5).is_ok());
/// let error = actpass_core::seconds("timeout", f64::NAN).unwrap_err();
/// assert_eq!(error.to_string(), "timeout: expected seconds above 0 and at most 86400, found NaN");
/// ```
pub fn seconds(member: &str, value: f64) -> Result<Duration, Error> {
    match Duration::try_from_secs_f64(value) {
        Ok(duration) => timeout(member, duration),
        Err(_) => Err(bad_timeout(member, value)),
    }
}

/// Converts a binding's seconds to an approval wait; `member` is its name in error messages. 0
/// polls once.
///
/// # Errors
///
/// [`ErrorKind::Argument`](crate::ErrorKind::Argument) unless the value is finite and not negative.
///
/// ```
/// assert!(actpass_core::wait_seconds("wait_for_approval", 0.0).is_ok());
/// let error = actpass_core::wait_seconds("wait_for_approval", -1.0).unwrap_err();
/// assert_eq!(error.to_string(), "wait_for_approval: expected non-negative seconds, found -1");
/// ```
pub fn wait_seconds(member: &str, value: f64) -> Result<Duration, Error> {
    Duration::try_from_secs_f64(value)
        .map_err(|_| Error::argument(member, format_args!("expected non-negative seconds, found {value}")))
}

/// Converts a binding's integer to a setting; `member` is its name in error messages.
///
/// # Errors
///
/// [`ErrorKind::Config`](crate::ErrorKind::Config) for a negative value or one above 2^32 - 1.
///
/// ```
/// assert_eq!(actpass_core::whole_number("max_retries", 2)?, 2);
/// let error = actpass_core::whole_number("max_retries", -1).unwrap_err();
/// assert_eq!(error.to_string(), "max_retries: expected a non-negative integer, found -1");
/// # Ok::<(), actpass_core::Error>(())
/// ```
pub fn whole_number(member: &str, value: i64) -> Result<u32, Error> {
    u32::try_from(value)
        .map_err(|_| Error::config(member, format_args!("expected a non-negative integer, found {value}")))
}

pub(crate) fn timeout(member: &str, value: Duration) -> Result<Duration, Error> {
    match value.is_zero() || value > MAX_TIMEOUT {
        true => Err(bad_timeout(member, value.as_secs_f64())),
        false => Ok(value),
    }
}

/// Per-call limits that override the client's: for
/// [`ActPass::with_options`](crate::ActPass::with_options).
///
/// ```
/// use actpass_core::CallOptions;
/// use std::time::Duration;
///
/// let options = CallOptions::new(Some(Duration::from_secs(2)), Some(0))?;
/// assert_eq!(options.timeout(), Some(Duration::from_secs(2)));
/// let error = CallOptions::new(None, Some(11)).unwrap_err();
/// assert_eq!(error.to_string(), "max_retries: expected 0 to 10, found 11");
/// # Ok::<(), actpass_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallOptions {
    timeout: Option<Duration>,
    max_retries: Option<u32>,
}

impl CallOptions {
    /// Sets the total timeout of a call, at most one day, and the maximum number of retries, at
    /// most 10. `None` keeps the client's setting.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`](crate::ErrorKind::Argument), naming `timeout` or `max_retries` and
    /// the value.
    pub fn new(timeout: Option<Duration>, max_retries: Option<u32>) -> Result<Self, Error> {
        let timeout = timeout.map(|given| self::timeout("timeout", given)).transpose();
        let max_retries = max_retries.map(self::max_retries).transpose();
        Ok(Self {
            timeout: timeout.map_err(Error::into_argument)?,
            max_retries: max_retries.map_err(Error::into_argument)?,
        })
    }

    /// Like [`CallOptions::new`], from a binding's numbers. The timeout is in seconds.
    ///
    /// # Errors
    ///
    /// As [`CallOptions::new`].
    ///
    /// ```
    /// use actpass_core::{CallOptions, ErrorKind};
    ///
    /// assert_eq!(CallOptions::from_numbers(None, Some(0))?.max_retries(), Some(0));
    /// let error = CallOptions::from_numbers(Some(f64::NAN), None).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Argument);
    /// assert_eq!(error.to_string(), "timeout: expected seconds above 0 and at most 86400, found NaN");
    /// # Ok::<(), actpass_core::Error>(())
    /// ```
    pub fn from_numbers(timeout: Option<f64>, max_retries: Option<i64>) -> Result<Self, Error> {
        let timeout = timeout.map(|given| seconds("timeout", given)).transpose();
        let max_retries = max_retries.map(|given| whole_number("max_retries", given)).transpose();
        Self::new(timeout.map_err(Error::into_argument)?, max_retries.map_err(Error::into_argument)?)
    }

    /// The total timeout of a call; `None` for the client's.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// The maximum number of retries; `None` for the client's.
    pub fn max_retries(&self) -> Option<u32> {
        self.max_retries
    }

    /// Returns these limits, with unset ones taken from `others`.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            timeout: self.timeout.or(others.timeout),
            max_retries: self.max_retries.or(others.max_retries),
        }
    }
}

fn bad_timeout(member: &str, found: f64) -> Error {
    Error::config(
        member,
        format_args!("expected seconds above 0 and at most {}, found {found}", MAX_TIMEOUT.as_secs()),
    )
}

pub(crate) fn max_retries(value: u32) -> Result<u32, Error> {
    match value > MAX_RETRIES {
        true => Err(Error::config("max_retries", format_args!("expected 0 to {MAX_RETRIES}, found {value}"))),
        false => Ok(value),
    }
}

pub(crate) fn api_key(given: Option<Secret>) -> Result<Secret, Error> {
    let key = match given {
        Some(key) => key,
        None => std::env::var("ACTPASS_API_KEY").map(Secret::new).map_err(|_| {
            Error::config("api_key", "expected a key, found none; pass one or set ACTPASS_API_KEY")
        })?,
    };
    if key.expose().is_empty() {
        return Err(Error::config("api_key", "expected a key, found an empty string"));
    }
    if let Some(at) = key.expose().chars().position(|c| !c.is_ascii_graphic()) {
        return Err(Error::config(
            "api_key",
            format_args!(
                "expected visible ASCII characters, found a space, a line break or another character at position {at}"
            ),
        ));
    }
    Ok(key)
}

/// The `authorization` header for an API key, whose scheme depends on the DPoP key.
pub(crate) fn authorization(api_key: &Secret, prover: Option<&Prover>) -> Result<HeaderValue, Error> {
    let scheme = if prover.is_some() { "DPoP" } else { "Bearer" };
    let mut header = HeaderValue::try_from(format!("{scheme} {}", api_key.expose()))
        .map_err(|_| Error::config("api_key", "expected visible ASCII characters"))?;
    header.set_sensitive(true);
    Ok(header)
}

/// The agent's name. An empty name would belong to another agent.
pub(crate) fn agent_id(given: Option<String>) -> Result<String, Error> {
    match given {
        None => Ok("sdk".to_owned()),
        Some(id) if id.is_empty() => {
            Err(Error::config("agent_id", "expected a non-empty string, found an empty one"))
        }
        Some(id) => Ok(id),
    }
}

/// A value that is sent in a header. An empty value counts as unset, as in client 1.1.3.
pub(crate) fn header(member: &str, given: Option<String>) -> Result<Option<HeaderValue>, Error> {
    let Some(text) = given.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    if text.chars().any(|c| !matches!(c, ' '..='~')) {
        return Err(Error::config(member, "expected printable ASCII characters"));
    }
    HeaderValue::try_from(text)
        .map(Some)
        .map_err(|_| Error::config(member, "expected printable ASCII characters"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validates_keys_and_headers() {
        for key in ["", "a b", "apk_1\n", "\tapk", "apk_é", "apk\0", "apk\u{7f}"] {
            let error = api_key(Some(Secret::new(key))).unwrap_err().to_string();
            assert!(error.starts_with("api_key: expected "), "{error}");
            assert!(key.is_empty() || !error.contains(key), "{error}");
        }
        let key = api_key(Some(Secret::new("apk_1"))).unwrap();
        let header = authorization(&key, None).unwrap();
        assert_eq!(header, "Bearer apk_1");
        assert!(!format!("{header:?}").contains("apk_1"));
        assert!(super::header("tenant_id", Some("a\nb".to_owned())).is_err());
        assert!(super::header("tenant_id", Some("é".to_owned())).is_err());
        assert_eq!(super::header("tenant_id", Some(String::new())).unwrap(), None);
    }

    #[test]
    fn validates_numbers() {
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY, 86_401.0, 1e300] {
            assert!(seconds("timeout", value).is_err(), "{value}");
        }
        assert!(max_retries(10).is_ok());
        assert!(max_retries(11).is_err());
    }
}
