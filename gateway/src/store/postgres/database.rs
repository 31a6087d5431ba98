//! Configuration of and connections to the database.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::error::DatabaseError;
use super::describe;

/// Connection timeout, including TLS and authentication.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// TCP user timeout: maximum time for which data may stay unacknowledged.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Idle time before the first TCP keep-alive probe.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// Default keep-alive idle time of `tokio_postgres`.
const DEFAULT_KEEPALIVE_IDLE: Duration = Duration::from_hours(2);

/// Unsupported URL parameters of other clients, with alternatives.
const UNSUPPORTED_PARAMETERS: [(&str, &str); 6] = [
    ("passfile", "the password is part of the URL"),
    ("service", "put all parameters into the URL"),
    ("sslcert", "client certificates are not supported; use a password"),
    ("sslkey", "client certificates are not supported; use a password"),
    ("sslpassword", "client certificates are not supported; use a password"),
    ("sslrootcert", "use the setting database_ca"),
];

/// A PostgreSQL database. Remote connections use verified TLS.
///
/// `Debug` and `Display` show the location, never the password.
#[derive(Clone)]
pub struct Database {
    config: Arc<Config>,
    tls: MakeRustlsConnect,
    /// The trusted certificate authorities; `None` for those of the operating system.
    authorities: Option<Arc<[CertificateDer<'static>]>>,
    place: Arc<str>,
}

/// Compares the servers, the credentials and the requirements, not the data.
impl PartialEq for Database {
    fn eq(&self, other: &Self) -> bool {
        self.config == other.config && self.authorities == other.authorities
    }
}

impl Eq for Database {}

/// TLS requirements for connections to other machines.
#[derive(Debug, Default)]
pub struct TlsTrust {
    /// Trusted certificate authorities; `None` uses those of the operating system.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
    /// Permits `sslmode=disable` for other machines, which sends the password and data unencrypted.
    pub danger_allow_plain: bool,
}

impl Database {
    /// Parses `postgresql://user:password@host:port/database` with the optional parameter `sslmode`
    /// and those known to [`Config`].
    ///
    /// TLS is used for all remote hosts, and with `sslmode=require` (or `verify-ca`, `verify-full`)
    /// also for local ones; it always verifies the certificate and host name. `sslmode=disable`
    /// disables TLS for local hosts, or with [`TlsTrust::danger_allow_plain`].
    ///
    /// # Errors
    ///
    /// Returns the problem without any part of the URL that may be secret.
    pub fn parse(url: &str, trust: TlsTrust) -> Result<Self, String> {
        let (url, mode) = take_mode(url)?;
        let mut config: Config = url.parse().map_err(|_| malformed())?;
        let place = place_of(&config).ok_or_else(malformed)?;
        let is_here = is_on_this_machine(&config);
        let tls = match mode {
            Some(Mode::Plain) if !is_here && !trust.danger_allow_plain => {
                return Err(
                    "sslmode=disable would send the password and the ledger unencrypted to another machine \
                    (danger_allow_plain_database = true permits this)"
                        .to_owned(),
                );
            }
            Some(Mode::Plain) => false,
            Some(Mode::Verified) => true,
            None => !is_here,
        };
        config
            .ssl_mode(if tls { SslMode::Require } else { SslMode::Disable })
            // Exclude standbys, also after a failover: only a primary can record.
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(TCP_USER_TIMEOUT);
        }
        if config.get_keepalives_idle() == DEFAULT_KEEPALIVE_IDLE {
            config.keepalives_idle(KEEPALIVE_IDLE);
        }
        if config.get_application_name().is_none() {
            config.application_name("actpass-gateway");
        }
        let authorities = trust.authorities.as_deref().map(Arc::from);
        let tls = connector(tls.then_some(trust.authorities))?;
        Ok(Self { config: Arc::new(config), tls, authorities, place: place.into() })
    }

    /// Opens a new connection.
    pub(super) async fn connect(&self) -> Result<Client, DatabaseError> {
        let failed = |problem| DatabaseError::Unreachable(self.to_string(), problem);
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, self.config.connect(self.tls.clone()));
        let (client, connection) = match connecting.await {
            Ok(connected) => connected.map_err(|error| failed(describe(&error)))?,
            Err(_) => return Err(failed("connection timed out".to_owned())),
        };
        // Ends when the client is dropped or the server is lost; the next request notices.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::warn!(error = describe(&error), "database connection lost");
            }
        });
        Ok(client)
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({})", self.place)
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the database {}", self.place)
    }
}

enum Mode {
    Plain,
    Verified,
}

fn malformed() -> String {
    "expected postgresql://user:password@host:port/database with special characters percent-encoded"
        .to_owned()
}

/// Removes `sslmode` from the URL, because its semantics differ from libpq's.
fn take_mode(url: &str) -> Result<(String, Option<Mode>), String> {
    if !url.starts_with("postgresql://") && !url.starts_with("postgres://") {
        return Err(malformed());
    }
    // A password may contain a question mark.
    let (credentials, rest) = match url.split_once('@') {
        Some((credentials, rest)) => (format!("{credentials}@"), rest),
        None => (String::new(), url),
    };
    let Some((base, query)) = rest.split_once('?') else {
        return Ok((url.to_owned(), None));
    };
    let base = credentials + base;
    let mut mode = None;
    let mut kept = Vec::new();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').ok_or_else(malformed)?;
        if let Some((name, instead)) = UNSUPPORTED_PARAMETERS.iter().find(|(known, _)| *known == name) {
            return Err(format!("the parameter {name} is not supported: {instead}"));
        }
        match (name, value) {
            ("sslmode", _) if mode.is_some() => return Err("duplicate parameter sslmode".to_owned()),
            ("sslmode", "disable") => mode = Some(Mode::Plain),
            ("sslmode", "require" | "verify-ca" | "verify-full") => mode = Some(Mode::Verified),
            ("sslmode", _) => {
                return Err(
                    "sslmode: expected disable, require, verify-ca or verify-full; other modes let the \
                    network disable TLS"
                        .to_owned(),
                );
            }
            _ => kept.push(pair),
        }
    }
    let url = if kept.is_empty() { base } else { format!("{base}?{}", kept.join("&")) };
    Ok((url, mode))
}

/// Returns `host:port/database`; `None` without a host, or with more host names than addresses.
fn place_of(config: &Config) -> Option<String> {
    let (hosts, addresses) = (config.get_hosts(), config.get_hostaddrs());
    if hosts.is_empty() || (!addresses.is_empty() && addresses.len() != hosts.len()) {
        return None;
    }
    let ports = config.get_ports();
    let hosts: Vec<_> = hosts
        .iter()
        .enumerate()
        .map(|(index, host)| {
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                #[cfg(unix)]
                Host::Unix(path) => format!("{}:{port}", path.display()),
            }
        })
        .collect();
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    Some(format!("{}/{database}", hosts.join(",")))
}

fn is_on_this_machine(config: &Config) -> bool {
    let is_here = |host: &Host| match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    };
    config.get_hosts().iter().all(is_here) && config.get_hostaddrs().iter().all(IpAddr::is_loopback)
}

/// Creates the TLS connector; with `None`, one that trusts no certificate.
fn connector(authorities: Option<Option<Vec<CertificateDer<'static>>>>) -> Result<MakeRustlsConnect, String> {
    let mut roots = RootCertStore::empty();
    match authorities {
        None => {}
        Some(Some(given)) => {
            for authority in given {
                roots.add(authority).map_err(|error| format!("invalid certificate authority: {error}"))?;
            }
        }
        Some(None) => {
            // Unreadable system certificates are skipped.
            let native = rustls_native_certs::load_native_certs();
            if roots.add_parsable_certificates(native.certs).0 == 0 {
                return Err("the operating system has no trusted certificates; use the setting \
                database_ca"
                    .to_owned());
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<(SslMode, String), String> {
        let authorities = Some(Vec::new());
        Database::parse(url, TlsTrust { authorities, danger_allow_plain: false })
            .map(|database| (database.config.get_ssl_mode(), database.to_string()))
    }

    #[test]
    fn remote_databases_require_tls() {
        for (url, tls, place) in [
            ("postgresql://u:p@db.example/l", SslMode::Require, "db.example:5432/l"),
            ("postgres://u:p@db.example:6000/l?sslmode=verify-full", SslMode::Require, "db.example:6000/l"),
            ("postgresql://u:p@10.0.0.1/l?sslmode=verify-ca", SslMode::Require, "10.0.0.1:5432/l"),
            ("postgresql://u:p@127.0.0.1/l", SslMode::Disable, "127.0.0.1:5432/l"),
            ("postgresql://u:p@[::1]/l", SslMode::Disable, "::1:5432/l"),
            ("postgresql://u:p@localhost/l?application_name=x", SslMode::Disable, "localhost:5432/l"),
            ("postgresql://u:p@localhost/l?sslmode=require", SslMode::Require, "localhost:5432/l"),
            ("postgresql://u:p@%2Frun%2Fpostgresql/l", SslMode::Disable, "/run/postgresql:5432/l"),
            ("postgresql://u:p@localhost/l?hostaddr=10.0.0.1", SslMode::Require, "localhost:5432/l"),
            ("postgresql://u:p@localhost,b.example/l", SslMode::Require, "localhost:5432,b.example:5432/l"),
            ("postgresql://u:p@localhost.example/l", SslMode::Require, "localhost.example:5432/l"),
            ("postgresql://u:p?sslmode=disable@db.example/l", SslMode::Require, "db.example:5432/l"),
            ("postgresql://u@127.0.0.1", SslMode::Disable, "127.0.0.1:5432/u"),
        ] {
            assert_eq!(parse(url), Ok((tls, format!("the database {place}"))), "{url}");
        }
    }

    #[test]
    fn rejects_invalid_database_url_without_showing_it() {
        for (url, problem) in [
            ("mysql://u:secret@h/l", "expected postgresql://"),
            ("host=h password=secret", "expected postgresql://"),
            ("postgresql://u:secret@h/l?secret", "expected postgresql://"),
            ("postgresql://u:secret@h/l?secret=1", "expected postgresql://"),
            ("postgresql://u:secret@h:port/l", "expected postgresql://"),
            ("postgresql:///l?user=secret", "expected postgresql://"),
            ("postgresql://u:secret@h/l?hostaddr=1.2.3.4,1.2.3.5", "expected postgresql://"),
            ("postgresql://u:secret@h/l?sslmode=prefer", "sslmode: expected disable"),
            ("postgresql://u:secret@h/l?sslmode=secret", "sslmode: expected disable"),
            ("postgresql://u:secret@h/l?sslmode=require&sslmode=disable", "duplicate"),
            ("postgresql://u:secret@h/l?sslmode=disable", "danger_allow_plain_database"),
            ("postgresql://u:secret@localhost/l?hostaddr=1.2.3.4&sslmode=disable", "danger_allow_plain"),
            ("postgresql://u:secret@h/l?sslrootcert=secret", "use the setting database_ca"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(error.contains(problem), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let plain = TlsTrust { authorities: None, danger_allow_plain: true };
        let database = Database::parse("postgresql://u:secret@h/l?sslmode=disable", plain).unwrap();
        assert_eq!(database.config.get_ssl_mode(), SslMode::Disable);
        assert_eq!(format!("{database:?}"), "Database(h:5432/l)");
    }
}
