//! Proxy selection from the environment and the system's settings.
//!
//! For an https gateway the first non-empty variable of `https_proxy`, `HTTPS_PROXY`, `all_proxy`
//! and `ALL_PROXY` applies, else the system's proxy settings (macOS, Windows), unless `no_proxy` or
//! `NO_PROXY` lists the gateway. The lower-case name has precedence, as in curl and Python. An
//! invalid value is an error.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::Uri;
use http::header::HeaderValue;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use url::{Host, Url};

use crate::base_url::{BaseUrl, is_localhost};
use crate::error::Error;
use actpass_protocol::Secret;

const SYSTEM: &str = "the system's proxy settings";
const FORMS: &str =
    "expected http, https, socks4, socks4a, socks5 or socks5h and a host, such as http://proxy:8080";

/// A proxy between the client and the gateway.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) protocol: Protocol,
    /// The address to connect to. The scheme is `https` for a proxy over TLS, else `http`.
    pub(crate) address: Uri,
    pub(crate) credentials: Option<Credentials>,
    /// The name of the variable, or of the system's settings.
    pub(crate) setting: Cow<'static, str>,
    scheme: String,
}

/// User name and password for a proxy.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: Secret,
}

/// The tunnel protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Connect,
    Socks4 { resolves: bool },
    Socks5 { resolves: bool },
}

/// Omits user name and password.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.address.authority().map_or("", |authority| authority.as_str());
        write!(f, "{}://{authority} ({})", self.scheme, self.setting)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

impl Proxy {
    /// Chooses the proxy for the gateway at `base_url`; `None` for a direct connection.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for an invalid value, naming the variable.
    pub(crate) fn choose(base_url: &BaseUrl) -> Result<Option<Self>, Error> {
        if let Some(found) = Self::choose_in(base_url, &|name| std::env::var_os(name))? {
            return Ok(found);
        }
        let uri = Uri::try_from(base_url.as_str()).map_err(|error| Error::config("base_url", error))?;
        Ok(Matcher::from_system().intercept(&uri).as_ref().and_then(Self::of_system))
    }

    /// Reads the environment: `None` if no variable applies, `Some(None)` if the gateway is
    /// excluded.
    fn choose_in(
        base_url: &BaseUrl,
        environment: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Option<Self>>, Error> {
        // A proxy would resolve a localhost name to its own machine.
        if matches!(base_url.host(), Host::Domain(name) if is_localhost(name)) {
            return Ok(Some(None));
        }
        if let Some((_, list)) = first(environment, ["no_proxy", "NO_PROXY"])?
            && is_excluded(&list, base_url.host(), base_url.port())
        {
            return Ok(Some(None));
        }
        for names in [["https_proxy", "HTTPS_PROXY"], ["all_proxy", "ALL_PROXY"]] {
            if let Some((name, value)) = first(environment, names)? {
                return Self::parse(name, &value).map(|proxy| Some(Some(proxy)));
            }
        }
        Ok(None)
    }

    /// Parses the value of the variable `setting`. Errors never contain the value, which may hold a
    /// password.
    fn parse(setting: &'static str, value: &str) -> Result<Self, Error> {
        let bad = |problem: &str| Err(Error::config(setting, format_args!("{FORMS}; {problem}")));
        let value = value.trim();
        let url = match value.contains("://") {
            true => Url::parse(value),
            false => Url::parse(&format!("http://{value}")),
        };
        let Ok(url) = url else {
            return bad("invalid URL (special characters in a user name or password must be %-encoded)");
        };
        let (protocol, transport, default_port) = match url.scheme() {
            "http" => (Protocol::Connect, "http", 80),
            "https" => (Protocol::Connect, "https", 443),
            "socks4" => (Protocol::Socks4 { resolves: false }, "http", 1080),
            "socks4a" => (Protocol::Socks4 { resolves: true }, "http", 1080),
            "socks5" => (Protocol::Socks5 { resolves: false }, "http", 1080),
            "socks5h" => (Protocol::Socks5 { resolves: true }, "http", 1080),
            _ => return bad("unsupported scheme"),
        };
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return bad(
                "unexpected path, query or fragment (special characters in a user name or password must be \
                 %-encoded)",
            );
        }
        let Some(Ok(host)) = url.host_str().filter(|host| !host.is_empty()).map(Host::parse) else {
            return bad("invalid host");
        };
        let port = url.port().unwrap_or(default_port);
        if port == 0 {
            return bad("invalid port 0");
        }
        let Ok(address) = Uri::try_from(format!("{transport}://{host}:{port}/")) else {
            return bad("invalid host");
        };
        let decode = |text: &str| percent_decode_str(text).decode_utf8().map(Cow::into_owned);
        let (Ok(user), Ok(password)) = (decode(url.username()), decode(url.password().unwrap_or_default()))
        else {
            return bad("user name and password must be UTF-8");
        };
        let credentials = (!url.username().is_empty() || url.password().is_some())
            .then_some(Credentials { user, password: Secret::new(password) });
        match (protocol, &credentials) {
            (Protocol::Socks4 { .. }, Some(_)) => {
                return bad("SOCKS4 has no passwords; use socks5 or socks5h");
            }
            (Protocol::Socks5 { .. }, Some(given))
                if given.user.len() > 255 || given.password.expose().len() > 255 =>
            {
                return bad("SOCKS5 user names and passwords have at most 255 bytes");
            }
            _ => {}
        }
        let scheme = url.scheme().to_owned();
        Ok(Self { protocol, address, credentials, setting: Cow::Borrowed(setting), scheme })
    }

    fn of_system(found: &Intercept) -> Option<Self> {
        let scheme = found.uri().scheme_str().unwrap_or("http").to_owned();
        let (protocol, transport, port) = match scheme.as_str() {
            "https" => (Protocol::Connect, "https", 443),
            "socks4" => (Protocol::Socks4 { resolves: false }, "http", 1080),
            "socks4a" => (Protocol::Socks4 { resolves: true }, "http", 1080),
            "socks5" => (Protocol::Socks5 { resolves: false }, "http", 1080),
            "socks5h" => (Protocol::Socks5 { resolves: true }, "http", 1080),
            _ => (Protocol::Connect, "http", 80),
        };
        let port = found.uri().port_u16().unwrap_or(port);
        let address = Uri::try_from(format!("{transport}://{}:{port}/", found.uri().host()?)).ok()?;
        Some(Self { protocol, address, credentials: None, setting: Cow::Borrowed(SYSTEM), scheme })
    }

    /// The `proxy-authorization` header for an HTTP proxy, marked sensitive.
    pub(crate) fn authorization(&self) -> Option<HeaderValue> {
        let Credentials { user, password } = self.credentials.as_ref()?;
        let encoded = BASE64_STANDARD.encode(format!("{user}:{}", password.expose()));
        let mut header = HeaderValue::try_from(format!("Basic {encoded}")).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

/// The first non-empty variable, with its name.
fn first(
    environment: &dyn Fn(&str) -> Option<OsString>,
    names: [&'static str; 2],
) -> Result<Option<(&'static str, String)>, Error> {
    for name in names {
        match environment(name).map(OsString::into_string) {
            Some(Ok(value)) if !value.trim().is_empty() => return Ok(Some((name, value))),
            Some(Err(_)) => return Err(Error::config(name, "expected text in UTF-8")),
            Some(Ok(_)) | None => {}
        }
    }
    Ok(None)
}

/// Whether `list`, the value of `NO_PROXY`, matches the host, or the host and port.
///
/// Entries are separated by commas or white space. Letter case, a trailing dot and brackets around
/// IPv6 addresses are ignored. `*` matches every host. `example.com` and `.example.com` match the
/// domain and its subdomains, `*.example.com` the subdomains only. An IP address matches itself,
/// `10.0.0.0/8` the addresses in that network; names are not resolved. Other entries match nothing.
fn is_excluded(list: &str, host: &Host<String>, port: u16) -> bool {
    let host = match host {
        Host::Domain(name) => Target::Name(name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()),
        Host::Ipv4(address) => Target::Address(IpAddr::from(*address)),
        Host::Ipv6(address) => Target::Address(IpAddr::from(*address).to_canonical()),
    };
    list.split(|c: char| c == ',' || c.is_whitespace())
        .filter(|entry| !entry.is_empty())
        .any(|entry| names(entry, &host, port))
}

/// The gateway's host, normalized for comparison.
enum Target {
    Address(IpAddr),
    /// In lower case, without a trailing dot.
    Name(String),
}

fn names(entry: &str, host: &Target, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    if let Some(network) = network(entry) {
        return matches!(host, Target::Address(address) if network.contains(address));
    }
    let (entry, entry_port) = split_port(entry);
    if entry_port.is_some_and(|entry_port| entry_port != port) {
        return false;
    }
    let entry = entry.strip_prefix('[').and_then(|entry| entry.strip_suffix(']')).unwrap_or(entry);
    match (entry.parse::<IpAddr>(), host) {
        (Ok(named), Target::Address(address)) => named.to_canonical() == *address,
        (Ok(_), Target::Name(_)) | (Err(_), Target::Address(_)) => false,
        (Err(_), Target::Name(host)) => is_domain_of(entry, host),
    }
}

/// `10.0.0.0/8`, `fd00::/8`, `[fd00::]/8`.
fn network(entry: &str) -> Option<IpNet> {
    let (address, length) = entry.split_once('/')?;
    let address = address.strip_prefix('[').and_then(|address| address.strip_suffix(']')).unwrap_or(address);
    format!("{address}/{length}").parse().ok()
}

/// Splits off the port after a name, an IPv4 address, or an IPv6 address in brackets.
fn split_port(entry: &str) -> (&str, Option<u16>) {
    match entry.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (entry, None),
        },
        Some(_) | None => (entry, None),
    }
}

fn is_domain_of(entry: &str, host: &str) -> bool {
    let (domain, itself) = match (entry.strip_prefix("*."), entry.strip_prefix('.')) {
        (Some(below), _) => (below, false),
        (None, Some(domain)) => (domain, true),
        (None, None) => (entry, true),
    };
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    // Normalized like the base URL's host: lower case, Punycode.
    let Ok(Host::Domain(domain)) = Host::parse(domain) else {
        return false;
    };
    match host.strip_suffix(domain.as_str()) {
        Some("") => itself,
        Some(below) => below.ends_with('.'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actpass_protocol::Json;

    fn chosen(url: &str, environment: &[(&str, &str)]) -> Result<Option<Option<Proxy>>, Error> {
        let url = BaseUrl::parse(url, false).unwrap();
        Proxy::choose_in(&url, &|name| {
            environment.iter().find_map(|(key, value)| (*key == name).then(|| OsString::from(value)))
        })
    }

    fn shown(environment: &[(&str, &str)]) -> String {
        match chosen("https://gate.example", environment) {
            Ok(Some(Some(proxy))) => proxy.to_string(),
            Ok(Some(None)) => "direct".to_owned(),
            Ok(None) => "unset".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn chooses_the_first_variable_that_is_not_empty() {
        for (environment, expected) in [
            (&[][..], "unset"),
            (&[("HTTPS_PROXY", "http://a:1")], "http://a:1 (HTTPS_PROXY)"),
            (&[("HTTPS_PROXY", "http://a:1"), ("https_proxy", "http://b:2")], "http://b:2 (https_proxy)"),
            (&[("HTTPS_PROXY", "http://a:1"), ("https_proxy", "")], "http://a:1 (HTTPS_PROXY)"),
            (&[("HTTPS_PROXY", " "), ("ALL_PROXY", "http://c:3")], "http://c:3 (ALL_PROXY)"),
            (&[("ALL_PROXY", "http://a:1"), ("all_proxy", "http://b:2")], "http://b:2 (all_proxy)"),
            (&[("HTTPS_PROXY", "http://a:1"), ("all_proxy", "http://b:2")], "http://a:1 (HTTPS_PROXY)"),
            (&[("HTTPS_PROXY", "http://a:1"), ("all_proxy", "garbage://")], "http://a:1 (HTTPS_PROXY)"),
            (&[("HTTP_PROXY", "http://a:1"), ("http_proxy", "http://b:2")], "unset"),
            (&[("HTTPS_PROXY", "socks://a"), ("NO_PROXY", "gate.example")], "direct"),
            (
                &[("HTTPS_PROXY", "http://a:1"), ("no_proxy", "x"), ("NO_PROXY", "*")],
                "http://a:1 (HTTPS_PROXY)",
            ),
            (&[("HTTPS_PROXY", "http://a:1"), ("no_proxy", ""), ("NO_PROXY", "*")], "direct"),
        ] {
            assert_eq!(shown(environment), expected, "{environment:?}");
        }
        for url in ["https://localhost", "https://a.localhost.:8443"] {
            let chosen = chosen(url, &[("HTTPS_PROXY", "http://a:1")]).unwrap();
            assert!(matches!(chosen, Some(None)), "{url}");
        }
    }

    #[test]
    fn parses_proxies() {
        for (value, expected) in [
            ("a", "http://a:80"),
            ("a:3128", "http://a:3128"),
            ("a:3128/", "http://a:3128"),
            (" http://A.Example ", "http://a.example:80"),
            ("HTTPS://a", "https://a:443"),
            ("socks4://a", "socks4://a:1080"),
            ("socks4a://a", "socks4a://a:1080"),
            ("SOCKS5://127.0.0.1:9050", "socks5://127.0.0.1:9050"),
            ("socks5h://[::1]", "socks5h://[::1]:1080"),
            ("http://user:p%40ss@a:1", "http://a:1"),
            ("http://user:p@ss@a:1", "http://a:1"),
            ("user:pass@a:1", "http://a:1"),
        ] {
            assert_eq!(shown(&[("all_proxy", value)]), format!("{expected} (all_proxy)"), "{value}");
        }
        let proxy = Proxy::parse("ALL_PROXY", "http://us%65r:p%40ss@a:1").unwrap();
        assert_eq!(proxy.authorization().unwrap(), "Basic dXNlcjpwQHNz");
        assert!(!format!("{proxy}{proxy:?}").contains("ss@"));
    }

    #[test]
    fn rejects_invalid_proxies_naming_the_variable() {
        for value in [
            "socks://a:1",
            "socks6://a",
            "ftp://a:1",
            "file:///etc/proxy",
            "pac+http://a/b.pac",
            "http://",
            "http://:8080",
            "://a",
            "a b",
            "a:port",
            "a:99999",
            "http://a:0",
            "http://a/wpad.dat",
            "http://a?x=1",
            "a#b",
            "http:/a:1",
            "socks5://",
            "socks5://a b",
            "socks4://user_secret:pass_secret@a",
            "http://user_secret:%ff_secret@a",
            "user_secret\\name:pass_secret@a:1",
            "http://user_secret:pa/ss_secret@a",
            "[::1",
            "direct://",
        ] {
            for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
                let error = shown(&[(name, value)]);
                assert!(
                    error.starts_with(&format!("{name}: expected http, https, socks4")),
                    "{value}: {error}"
                );
                assert!(!error.contains("secret"), "{error}");
            }
        }
    }

    #[test]
    fn matches_no_proxy_vectors() {
        let vectors = Json::parse(include_bytes!("../../tests/data/no_proxy.json")).unwrap();
        let Json::Array(vectors) = vectors else { panic!("not a list") };
        assert!(vectors.len() > 60);
        for vector in vectors {
            let text = |name: &str| vector.member(name).and_then(Json::as_str).unwrap().to_owned();
            let expected = matches!(vector.member("direct"), Some(Json::Bool(true)));
            let environment = [("HTTPS_PROXY", "http://proxy:1"), ("NO_PROXY", &text("no_proxy"))];
            let direct = matches!(chosen(&text("url"), &environment), Ok(Some(None)));
            assert_eq!(direct, expected, "{vector}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn rejects_non_utf8_values() {
        use std::os::unix::ffi::OsStringExt;
        let url = BaseUrl::parse("https://gate.example", false).unwrap();
        for name in ["HTTPS_PROXY", "all_proxy", "no_proxy", "NO_PROXY"] {
            let error = Proxy::choose_in(&url, &|variable| {
                (variable == name).then(|| OsString::from_vec(vec![0xff]))
            })
            .unwrap_err();
            assert_eq!(error.to_string(), format!("{name}: expected text in UTF-8"));
        }
    }
}
