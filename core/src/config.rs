//! Settings, parsed once: past this module nothing about them is checked again.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::header::HeaderValue;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use url::{Host, Url};

use crate::client::Operation;
use crate::error::{Error, ErrorKind};
use crate::guard::Mode;
use crate::proxy::Proxy;
use crate::secret::Secret;
use crate::tls::{CaVariable, Trust};
use crate::transport::Request;

/// Where the hosted gateway answers.
pub const DEFAULT_BASE_URL: &str = "https://www.api.actpass.org";
/// The total deadline of a call unless another is set: 30 s.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest that one attempt may take to connect unless another is set: 5 s.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a call is tried again unless another number is set: 2.
pub const DEFAULT_MAX_RETRIES: u32 = 2;

/// The longest deadline that can be set: one day.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// The most retries that can be set.
const MAX_RETRIES: u32 = 10;

/// All settings of a client, known to be good.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) api_key: Secret,
    /// `Bearer <key>`, marked sensitive.
    pub(crate) authorization: HeaderValue,
    pub(crate) tenant_id: Option<HeaderValue>,
    pub(crate) agent_id: String,
    pub(crate) base_url: BaseUrl,
    pub(crate) timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) circuit_failures: u32,
    pub(crate) max_retries: u32,
    pub(crate) mode: Mode,
    pub(crate) user_agent: HeaderValue,
    pub(crate) way: Way,
}

/// The way to the gateway: fixed with the client, the same in each process that uses it.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) proxy: Option<Arc<Proxy>>,
    pub(crate) trust: Trust,
    /// What else names authorities, for messages.
    pub(crate) ca_variables: Vec<CaVariable>,
}

impl Way {
    /// # Errors
    ///
    /// [`ErrorKind::Config`], naming the setting or the environment variable.
    pub(crate) fn to(
        base_url: &BaseUrl,
        ca: &[CertificateDer<'static>],
        ca_variables: Vec<CaVariable>,
    ) -> Result<Self, Error> {
        // A proxy would see the key. Over https it sees a tunnel.
        let (proxy, trust) = match base_url.is_https() {
            true => (Proxy::choose(base_url)?.map(Arc::new), Trust::load(ca, &ca_variables)?),
            false => (None, Trust::nobody()?),
        };
        Ok(Self { proxy, trust, ca_variables })
    }

    /// No way: something else than HTTP carries the calls.
    pub(crate) fn none() -> Result<Self, Error> {
        Ok(Self { proxy: None, trust: Trust::nobody()?, ca_variables: Vec::new() })
    }

    /// ` (through the proxy …)`, for messages; empty without a proxy.
    pub(crate) fn through(&self) -> String {
        self.proxy.as_ref().map_or_else(String::new, |proxy| format!(" (through the proxy {proxy})"))
    }
}

/// Makes a length of time from seconds, as host languages give it; `member` is its name in messages.
///
/// # Errors
///
/// [`ErrorKind::Config`](crate::ErrorKind::Config) for what is not a finite number above zero.
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

/// Makes the time that a person is waited for from seconds, as host languages give it; `member` is its name in messages.
/// None at all is a wait too: one look.
///
/// # Errors
///
/// [`ErrorKind::Argument`](crate::ErrorKind::Argument) for what is not a finite number from zero.
///
/// ```
/// assert!(actpass_core::wait_seconds("wait_for_approval", 0.0).is_ok());
/// let error = actpass_core::wait_seconds("wait_for_approval", -1.0).unwrap_err();
/// assert_eq!(error.to_string(), "wait_for_approval: expected seconds from 0, found -1");
/// ```
pub fn wait_seconds(member: &str, value: f64) -> Result<Duration, Error> {
    Duration::try_from_secs_f64(value)
        .map_err(|_| Error::argument(member, format_args!("expected seconds from 0, found {value}")))
}

pub(crate) fn timeout(member: &str, value: Duration) -> Result<Duration, Error> {
    match value.is_zero() || value > MAX_TIMEOUT {
        true => Err(bad_timeout(member, value.as_secs_f64())),
        false => Ok(value),
    }
}

/// Limits of single calls, in the place of the client's: for [`ActPass::with_options`](crate::ActPass::with_options).
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
    /// Sets the total deadline of a call, up to one day, and how often it is retried at most, up to 10; `None` leaves the
    /// client's setting.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Argument`](crate::ErrorKind::Argument), naming `timeout` or `max_retries` and the value.
    pub fn new(timeout: Option<Duration>, max_retries: Option<u32>) -> Result<Self, Error> {
        let timeout = timeout.map(|given| self::timeout("timeout", given)).transpose();
        let max_retries = max_retries.map(self::max_retries).transpose();
        Ok(Self {
            timeout: timeout.map_err(Error::into_argument)?,
            max_retries: max_retries.map_err(Error::into_argument)?,
        })
    }

    /// The total deadline of a call; `None` for the client's.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// How often a call is retried at most; `None` for the client's setting.
    pub fn max_retries(&self) -> Option<u32> {
        self.max_retries
    }

    /// These limits, and where they leave the client's, those of `others`.
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

pub(crate) fn api_key(given: Option<Secret>) -> Result<(Secret, HeaderValue), Error> {
    let key = match given {
        Some(key) => key,
        None => std::env::var("ACTPASS_API_KEY").map(Secret::new).map_err(|_| {
            Error::config(
                "api_key",
                "expected a key, found none, nor one in the environment variable ACTPASS_API_KEY",
            )
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
    let mut header = HeaderValue::try_from(format!("Bearer {}", key.expose()))
        .map_err(|_| Error::config("api_key", "expected visible ASCII characters"))?;
    header.set_sensitive(true);
    Ok((key, header))
}

/// The agent's name: an empty one would be another agent's.
pub(crate) fn agent_id(given: Option<String>) -> Result<String, Error> {
    match given {
        None => Ok("sdk".to_owned()),
        Some(id) if id.is_empty() => {
            Err(Error::config("agent_id", "expected a non-empty string, found an empty one"))
        }
        Some(id) => Ok(id),
    }
}

/// A value that travels in a header; an empty one is none, as in the 1.1.3 client.
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

pub(crate) fn extra_ca(pem: Option<&[u8]>) -> Result<Vec<CertificateDer<'static>>, Error> {
    let Some(pem) = pem else {
        return Ok(Vec::new());
    };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| Error::config("ca", format_args!("expected certificates in PEM: {error}")))?;
    match certificates.is_empty() {
        true => Err(Error::config("ca", "expected certificates in PEM, found none")),
        false => Ok(certificates),
    }
}

/// The URL of the gateway, and of each call to it.
#[derive(Clone, Debug)]
pub(crate) struct BaseUrl {
    text: String,
    endpoints: [Uri; Operation::ALL.len()],
    is_https: bool,
    host: Host<String>,
    port: u16,
}

impl BaseUrl {
    /// The given URL, else `ACTPASS_API_BASE_URL`, else the hosted gateway; an empty one counts as none.
    pub(crate) fn choose(given: Option<String>, allow_insecure_http: bool) -> Result<Self, Error> {
        if given.as_deref() == Some("") {
            // The hosted gateway would get the key of somebody whose variable is not set.
            return Err(Error::config("base_url", "expected an absolute http(s) URL, found an empty string"));
        }
        let from_environment = || std::env::var("ACTPASS_API_BASE_URL").ok().filter(|text| !text.is_empty());
        match given.or_else(from_environment) {
            Some(text) => Self::parse(&text, allow_insecure_http),
            None => Self::parse(DEFAULT_BASE_URL, allow_insecure_http),
        }
    }

    pub(crate) fn parse(text: &str, allow_insecure_http: bool) -> Result<Self, Error> {
        let bad = |problem: &str| Err(Error::config("base_url", problem));
        let url = Url::parse(text).map_err(|error| {
            Error::config("base_url", format_args!("expected an absolute http(s) URL: {error}"))
        })?;
        if !url.username().is_empty() || url.password().is_some() {
            return bad("expected a URL without a user name or password: the API key is the identity");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return bad("expected a URL without a query or fragment");
        }
        let is_https = match url.scheme() {
            "https" => true,
            "http" if allow_insecure_http || is_loopback(&url) => false,
            "http" => {
                return bad(
                    "expected https: plain http to another host than this one would show the API key to the network \
                     (danger_allow_insecure_http permits it)",
                );
            }
            _ => return bad("expected an https URL, or http to this host"),
        };
        if let Some(base) = before_call(&url) {
            return Err(Error::config(
                "base_url",
                format_args!(
                    "expected the gateway's URL without the path of a call, which the client adds: {base} instead of {url}"
                ),
            ));
        }
        let Some((host, port)) = url.host().map(|host| host.to_owned()).zip(url.port_or_known_default())
        else {
            return bad("expected an absolute http(s) URL: it has no host");
        };
        let text = url.as_str().trim_end_matches('/').to_owned();
        let endpoint = |operation: Operation| {
            Uri::try_from(format!("{text}{}", operation.path())).map_err(|error| {
                Error::config("base_url", format_args!("expected an absolute http(s) URL: {error}"))
            })
        };
        let [preflight, issue, verify, revoke, evidence, jwks, approval] = Operation::ALL.map(endpoint);
        let endpoints = [preflight?, issue?, verify?, revoke?, evidence?, jwks?, approval?];
        Ok(Self { endpoints, text, is_https, host, port })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn is_https(&self) -> bool {
        self.is_https
    }

    pub(crate) fn host(&self) -> &Host<String> {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn endpoint(&self, request: &Request) -> Result<Uri, Error> {
        let [preflight, issue, verify, revoke, evidence, jwks, approval] = &self.endpoints;
        let endpoint = match request.operation {
            Operation::Approval => approval,
            Operation::Preflight => preflight,
            Operation::IssuePassport => issue,
            Operation::VerifyPassport => verify,
            Operation::RevokePassport => revoke,
            Operation::RecordEvidence => evidence,
            Operation::Jwks => jwks,
        };
        match request.below.as_str() {
            "" => Ok(endpoint.clone()),
            below => Uri::try_from(format!("{endpoint}{below}")).map_err(|error| {
                Error::new(ErrorKind::Internal, format!("{}: {error}", request.operation.name()))
            }),
        }
    }
}

/// The part of `url` before the path of a call, if it ends in one: in `/api/v1`, or in a call of the gateway's below it
/// or beside it.
fn before_call(url: &Url) -> Option<String> {
    const ROOT: &str = "/api/v1";
    /// Those that a client does not make.
    const OTHERS: [&str; 5] =
        ["/api/v1/budgets", "/api/v1/halts", "/api/v1/tools", "/healthz", "/openapi.json"];
    let calls = || Operation::ALL.iter().map(|operation| operation.path()).chain(OTHERS);
    let first = |below: &str| below.split('/').nth(1).map(str::to_owned);
    let path = url.path().trim_end_matches('/').to_ascii_lowercase();
    let is_call = |below: &str| {
        let mut groups = calls().filter_map(|call| call.strip_prefix(ROOT));
        below.is_empty() || below.starts_with('/') && groups.any(|group| first(group) == first(below))
    };
    let at = path
        .match_indices(ROOT)
        .find(|(at, root)| is_call(path.get(at + root.len()..).unwrap_or_default()))
        .map(|(at, _)| at)
        .or_else(|| calls().find_map(|call| path.strip_suffix(call).map(str::len)))?;
    let mut base = url.clone();
    base.set_path(url.path().get(..at)?);
    Some(base.as_str().trim_end_matches('/').to_owned())
}

/// Whether `url` is on this machine: `localhost` and the names below it (RFC 6761), 127.0.0.0/8, also written as IPv6,
/// and `[::1]`.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => is_localhost(name),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|address| address.is_loopback())
        }
        None => false,
    }
}

/// Whether the host `name` is `localhost` or below it, which never leaves this machine.
pub(crate) fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let below =
        name.len().checked_sub("localhost".len()).and_then(|at| Some((name.get(..at)?, name.get(at..)?)));
    below.is_some_and(|(below, top)| {
        top.eq_ignore_ascii_case("localhost") && (below.is_empty() || below.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls() {
        for (text, expected) in [
            ("https://gate.example", "https://gate.example/api/v1/actions/preflight"),
            ("https://gate.example/", "https://gate.example/api/v1/actions/preflight"),
            ("https://gate.example/a/b//", "https://gate.example/a/b/api/v1/actions/preflight"),
            ("http://127.0.0.1:8787", "http://127.0.0.1:8787/api/v1/actions/preflight"),
            ("http://localhost:1", "http://localhost:1/api/v1/actions/preflight"),
            ("http://[::1]:1", "http://[::1]:1/api/v1/actions/preflight"),
            ("http://LocalHost.:1", "http://localhost.:1/api/v1/actions/preflight"),
            ("http://x.localhost", "http://x.localhost/api/v1/actions/preflight"),
            ("http://a.b.localhost.", "http://a.b.localhost./api/v1/actions/preflight"),
            ("http://127.8.9.10", "http://127.8.9.10/api/v1/actions/preflight"),
            ("http://2130706433", "http://127.0.0.1/api/v1/actions/preflight"),
            ("http://0x7f.1", "http://127.0.0.1/api/v1/actions/preflight"),
            ("http://0177.0.0.1", "http://127.0.0.1/api/v1/actions/preflight"),
            ("http://127.0.0.1.", "http://127.0.0.1/api/v1/actions/preflight"),
            ("http://[::ffff:127.0.0.1]:1", "http://[::ffff:7f00:1]:1/api/v1/actions/preflight"),
            ("http://[::ffff:7f01:203]", "http://[::ffff:7f01:203]/api/v1/actions/preflight"),
            ("https://gate.example/api", "https://gate.example/api/api/v1/actions/preflight"),
            ("https://gate.example/api/v1/team", "https://gate.example/api/v1/team/api/v1/actions/preflight"),
            ("https://gate.example/api/v10", "https://gate.example/api/v10/api/v1/actions/preflight"),
            ("https://gate.example/x-api/v1x", "https://gate.example/x-api/v1x/api/v1/actions/preflight"),
        ] {
            let url = BaseUrl::parse(text, false).unwrap();
            assert_eq!(url.endpoint(&Request::new(Operation::Preflight, "")).unwrap(), expected);
        }
        for text in [
            "",
            "gate.example",
            "ftp://gate.example",
            "http://gate.example",
            "http://127.0.0.1.example",
            "http://10.0.0.1",
            "https://u@gate.example",
            "https://u:p@gate.example",
            "https://gate.example?x=1",
            "https://gate.example#x",
            "http://localhost.example",
            "https://",
            "http://0.0.0.0",
            "http://0",
            "http://[::]",
            "http://[::127.0.0.1]",
            "http://[64:ff9b::127.0.0.1]",
            "http://[::ffff:0.0.0.0]",
            "http://[::ffff:10.0.0.1]",
            "http://[fe80::1]",
            "http://128.0.0.1",
            "http://127.0.0.1.nip.io",
            "http://localhost.example.",
            "http://notlocalhost",
            "http://localhost.localdomain",
            "http://localhost..",
        ] {
            let error = BaseUrl::parse(text, false).unwrap_err();
            assert!(error.to_string().starts_with("base_url: expected "), "{text}: {error}");
        }
        assert!(BaseUrl::parse("http://10.0.0.1", true).is_ok());
    }

    #[test]
    fn rejects_base_urls_with_the_path_of_a_call() {
        for (text, base) in [
            ("https://gate.example/api/v1", "https://gate.example"),
            ("https://gate.example/api/v1/", "https://gate.example"),
            ("https://gate.example/API/V1", "https://gate.example"),
            ("http://127.0.0.1:8787/api/v1", "http://127.0.0.1:8787"),
            ("https://gate.example/behind/a/proxy/api/v1//", "https://gate.example/behind/a/proxy"),
            ("https://gate.example/api/v1/actions/preflight", "https://gate.example"),
            ("https://gate.example/x/api/v1/actions", "https://gate.example/x"),
            ("https://gate.example/api/v1/passports/issue", "https://gate.example"),
            ("https://gate.example/api/v1/evidence/events/", "https://gate.example"),
            ("https://gate.example/api/v1/approvals/apr_1", "https://gate.example"),
            ("https://gate.example/api/v1/team/api/v1", "https://gate.example/api/v1/team"),
            ("https://gate.example/.well-known/jwks.json", "https://gate.example"),
            ("https://gate.example/x/healthz", "https://gate.example/x"),
            ("https://gate.example/api/v1/tools/", "https://gate.example"),
            ("https://gate.example//api/v1", "https://gate.example"),
        ] {
            let error = BaseUrl::parse(text, false).unwrap_err().to_string();
            assert!(error.contains(&format!("the client adds: {base} instead of ")), "{text}: {error}");
        }
    }

    #[test]
    fn keys_and_headers() {
        for key in ["", "a b", "apk_1\n", "\tapk", "apk_é", "apk\0", "apk\u{7f}"] {
            let error = api_key(Some(Secret::new(key))).unwrap_err().to_string();
            assert!(error.starts_with("api_key: expected "), "{error}");
            assert!(key.is_empty() || !error.contains(key), "{error}");
        }
        let (_, header) = api_key(Some(Secret::new("apk_1"))).unwrap();
        assert_eq!(header, "Bearer apk_1");
        assert!(!format!("{header:?}").contains("apk_1"));
        assert!(super::header("tenant_id", Some("a\nb".to_owned())).is_err());
        assert!(super::header("tenant_id", Some("é".to_owned())).is_err());
        assert_eq!(super::header("tenant_id", Some(String::new())).unwrap(), None);
    }

    #[test]
    fn numbers() {
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY, 86_401.0, 1e300] {
            assert!(seconds("timeout", value).is_err(), "{value}");
        }
        assert!(max_retries(10).is_ok());
        assert!(max_retries(11).is_err());
    }

    #[test]
    fn authorities() {
        assert!(extra_ca(Some(b"")).is_err());
        assert!(extra_ca(Some(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----")).is_err());
    }
}
