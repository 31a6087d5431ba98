//! The `Host` names that the gateway accepts.
//!
//! Through DNS rebinding, a malicious web page can make a browser send requests to any address, but
//! only under the page's own name. A gateway that accepts only its own names is therefore
//! unreachable for it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A host and optional port, as in a `Host` header or URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    host: Host,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Address(IpAddr),
    /// In lower case, without a trailing dot.
    Name(String),
}

impl Authority {
    /// Parses `gateway.example`, `gateway.example:8443`, `127.0.0.1:8787` or `[::1]:8787`. Returns
    /// `None` for anything else, such as user information, a path, an empty host, or IPv6 without
    /// brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                (Host::Address(address.parse::<Ipv6Addr>().ok()?.to_canonical()), port)
            }
            None => {
                let end = text.find(':').unwrap_or(text.len());
                let (host, port) = text.split_at_checked(end)?;
                (Host::name(host)?, port)
            }
        };
        let port = match port.strip_prefix(':') {
            Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().ok()?)
            }
            Some(_) => return None,
            None if port.is_empty() => None,
            None => return None,
        };
        Some(Self { host, port })
    }

    /// Returns the authority of an `http` or `https` URL.
    pub fn of_url(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
        Self::parse(rest.split('/').next().unwrap_or_default())
    }

    /// Returns the authority with its port, or with the port `default`.
    #[must_use]
    pub fn with_port(self, default: u16) -> Self {
        Self { port: self.port.or(Some(default)), ..self }
    }

    /// Returns the address if the host is not a name.
    pub fn address(&self) -> Option<IpAddr> {
        match &self.host {
            Host::Address(address) => Some(*address),
            Host::Name(_) => None,
        }
    }

    /// Returns whether the host is this machine: `localhost` or a subdomain, 127.0.0.0/8 or
    /// `[::1]`.
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Address(address) => address.is_loopback(),
            Host::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }
}

impl Host {
    fn name(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Some(Self::Address(address.into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_name = !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        is_name.then(|| Self::Name(name.to_ascii_lowercase()))
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]")?,
            Host::Address(address) => write!(f, "{address}")?,
            Host::Name(name) => f.write_str(name)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Accepted hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// Loopback names only, with any port.
    Loopback,
    /// These names, with any port if none is given, and the local address of the connection.
    Named(Vec<Authority>),
}

impl Hosts {
    /// Returns whether the gateway accepts `authority` on a connection to the address `local`.
    ///
    /// An address cannot be rebound: a browser sends it only for a page that was loaded from it.
    /// The local address is therefore accepted without being listed, and probes that know no name
    /// (such as a kubelet's) work.
    pub fn accept(&self, authority: &Authority, local: Option<IpAddr>) -> bool {
        let local = local.map(|local| local.to_canonical());
        match self {
            Self::Loopback => authority.is_loopback(),
            Self::Named(names) => {
                let named = names.iter().any(|name| {
                    name.host == authority.host && (name.port.is_none() || name.port == authority.port)
                });
                let came_in = authority.address().is_some_and(|address| Some(address) == local);
                named || came_in || (authority.is_loopback() && local.is_none_or(|local| local.is_loopback()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_authorities_strictly() {
        for text in [
            "localhost",
            "localhost:8787",
            "127.0.0.1",
            "127.0.0.1:80",
            "[::1]",
            "[::1]:8787",
            "gateway.example:65535",
            "my_gateway",
            "xn--bcher-kva.example",
        ] {
            assert_eq!(Authority::parse(text).map(|found| found.to_string()).as_deref(), Some(text));
        }
        for wrong in [
            "",
            ":80",
            "host:",
            "host:x",
            "host:+1",
            "host:65536",
            "host:1:2",
            "user@host",
            "user:secret@host",
            "host/path",
            "host?x",
            "host#x",
            "host\\x",
            "host name",
            " host",
            "host,other",
            "::1",
            "[::1",
            "[127.0.0.1]",
            "[::1]x",
            "[::1]:",
            "[fe80::1%25eth0]",
            "h\u{f6}st",
            "*",
            ".",
        ] {
            assert_eq!(Authority::parse(wrong), None, "{wrong:?}");
        }
        assert_eq!(Authority::parse("Gateway.Example."), Authority::parse("gateway.example"));
        assert_eq!(Authority::parse("[::ffff:127.0.0.1]"), Authority::parse("127.0.0.1"));
        assert_eq!(Authority::of_url("https://a.example:1/x"), Authority::parse("a.example:1"));
        assert_eq!(Authority::of_url("ftp://a.example"), None);
    }

    #[test]
    fn dev_gateway_accepts_loopback_hosts_only() {
        for (text, expected) in [
            ("localhost", true),
            ("LOCALHOST:1", true),
            ("a.b.localhost", true),
            ("127.9.9.9:80", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("evillocalhost", false),
            ("127.0.0.1.evil.example", false),
            ("0.0.0.0", false),
            ("10.0.0.1", false),
            ("[::]", false),
            ("[fe80::1]", false),
        ] {
            let authority = Authority::parse(text).unwrap();
            assert_eq!(Hosts::Loopback.accept(&authority, None), expected, "{text}");
            let here = Some(IpAddr::from([127, 0, 0, 1]));
            assert_eq!(Hosts::Loopback.accept(&authority, here), expected, "{text}");
        }
    }

    #[test]
    fn gateway_accepts_configured_hosts_and_local_address() {
        let names = ["gateway.example", "other.example:8443"].map(|name| Authority::parse(name).unwrap());
        let hosts = Hosts::Named(names.to_vec());
        let lan = Some(IpAddr::from([10, 0, 0, 5]));
        for (text, local, expected) in [
            ("gateway.example", lan, true),
            ("GATEWAY.example:1234", lan, true),
            ("other.example:8443", lan, true),
            ("other.example", lan, false),
            ("other.example:443", lan, false),
            ("sub.gateway.example", lan, false),
            ("gateway.example.evil.example", lan, false),
            ("10.0.0.5:8443", lan, true),
            ("10.0.0.6:8443", lan, false),
            ("localhost", lan, false),
            ("127.0.0.1", lan, false),
            ("localhost:1", Some(IpAddr::from([127, 0, 0, 1])), true),
            ("evil.example", Some(IpAddr::from([127, 0, 0, 1])), false),
        ] {
            let authority = Authority::parse(text).unwrap();
            assert_eq!(hosts.accept(&authority, local), expected, "{text}");
        }
    }
}
