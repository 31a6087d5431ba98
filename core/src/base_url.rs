//! The URL of the gateway.

use http::Uri;
use url::{Host, Url};

use crate::error::Error;
use actpass_protocol::{ErrorKind, Operation};

/// The URL of the hosted gateway.
pub const DEFAULT_BASE_URL: &str = "https://www.api.actpass.org";

/// The gateway's URL and the URL of each operation.
#[derive(Clone, Debug)]
pub(crate) struct BaseUrl {
    text: String,
    endpoints: [Uri; Operation::ALL.len()],
    is_https: bool,
    host: Host<String>,
    port: u16,
}

impl BaseUrl {
    /// Returns the given URL, else `ACTPASS_API_BASE_URL`, else the hosted gateway. An empty
    /// variable counts as unset.
    pub(crate) fn choose(given: Option<String>, allow_insecure_http: bool) -> Result<Self, Error> {
        if given.as_deref() == Some("") {
            // Fail instead of sending the key to the hosted gateway if the caller's own variable is
            // unset.
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
                    "expected https: plain http to a remote host exposes the API key to the network \
                     (danger_allow_insecure_http permits it)",
                );
            }
            _ => return bad("expected an https URL, or http to localhost"),
        };
        if let Some(base) = base_of_call_url(&url) {
            return Err(Error::config(
                "base_url",
                format_args!(
                    "expected the gateway's URL without an API path, which the client adds: use {base} instead of {url}"
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
        let [preflight, issue, verify, revoke, evidence, jwks, approval, watch, acknowledge] =
            Operation::ALL.map(endpoint);
        let endpoints =
            [preflight?, issue?, verify?, revoke?, evidence?, jwks?, approval?, watch?, acknowledge?];
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

    /// The URL of an operation, followed by `path_suffix`.
    pub(crate) fn endpoint(&self, operation: Operation, path_suffix: &str) -> Result<Uri, Error> {
        let [preflight, issue, verify, revoke, evidence, jwks, approval, watch, acknowledge] =
            &self.endpoints;
        let endpoint = match operation {
            Operation::Approval => approval,
            Operation::Preflight => preflight,
            Operation::IssuePassport => issue,
            Operation::VerifyPassport => verify,
            Operation::RevokePassport => revoke,
            Operation::RecordEvidence => evidence,
            Operation::Jwks => jwks,
            Operation::WatchHalts => watch,
            Operation::AcknowledgeHalt => acknowledge,
        };
        match path_suffix {
            "" => Ok(endpoint.clone()),
            suffix => Uri::try_from(format!("{endpoint}{suffix}"))
                .map_err(|error| Error::new(ErrorKind::Internal, format!("{}: {error}", operation.name()))),
        }
    }
}

/// The part of `url` before an API path, if the URL ends in one: `/api/v1`, an operation below it,
/// or a path next to it such as `/healthz`.
fn base_of_call_url(url: &Url) -> Option<String> {
    const API_ROOT: &str = "/api/v1";
    /// API paths that this client does not call.
    const OTHER_PATHS: [&str; 5] =
        ["/api/v1/budgets", "/api/v1/halts", "/api/v1/tools", "/healthz", "/openapi.json"];
    let calls = || Operation::ALL.iter().map(|operation| operation.path()).chain(OTHER_PATHS);
    let first = |below: &str| below.split('/').nth(1).map(str::to_owned);
    let path = url.path().trim_end_matches('/').to_ascii_lowercase();
    let is_call = |below: &str| {
        let mut groups = calls().filter_map(|call| call.strip_prefix(API_ROOT));
        below.is_empty() || below.starts_with('/') && groups.any(|group| first(group) == first(below))
    };
    let at = path
        .match_indices(API_ROOT)
        .find(|(at, root)| is_call(path.get(at + root.len()..).unwrap_or_default()))
        .map(|(at, _)| at)
        .or_else(|| calls().find_map(|call| path.strip_suffix(call).map(str::len)))?;
    let mut base = url.clone();
    base.set_path(url.path().get(..at)?);
    Some(base.as_str().trim_end_matches('/').to_owned())
}

/// Whether `url` is on this machine: `localhost` and its subdomains (RFC 6761), 127.0.0.0/8, the
/// same as IPv4-mapped IPv6, and `[::1]`.
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

/// Whether `name` is `localhost` or a subdomain of it. Such names never leave this machine.
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
    fn parses_base_urls() {
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
            assert_eq!(url.endpoint(Operation::Preflight, "").unwrap(), expected);
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
            assert!(error.contains(&format!("the client adds: use {base} instead of ")), "{text}: {error}");
        }
    }
}
