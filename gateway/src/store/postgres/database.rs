//! Which database, and how it is reached.

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

/// How long connecting may take, with TLS and the password.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the kernel may try to get something to a server that does not acknowledge it.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection is silent before the kernel asks whether the server is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// How long the silence is that `tokio_postgres` asks after if a URL says nothing.
const DEFAULT_KEEPALIVE_IDLE: Duration = Duration::from_hours(2);

/// Parameters of the URL that other clients know and this one does not, and what to use in their place.
const UNSUPPORTED_PARAMETERS: [(&str, &str); 6] = [
    ("passfile", "the password is part of the URL"),
    ("service", "the URL says it all"),
    ("sslcert", "the gateway proves itself by its password"),
    ("sslkey", "the gateway proves itself by its password"),
    ("sslpassword", "the gateway proves itself by its password"),
    ("sslrootcert", "use the member database_ca"),
];

/// A PostgreSQL database, and how it is reached: over verified TLS, but to this machine.
///
/// `Debug` and `Display` show where it is, and never the password.
#[derive(Clone)]
pub struct Database {
    config: Arc<Config>,
    tls: MakeRustlsConnect,
    place: Arc<str>,
}

/// What a connection to another machine needs.
#[derive(Debug, Default)]
pub struct TlsTrust {
    /// The only authorities whose certificates are trusted; those of the operating system if `None`.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
    /// Leaves `sslmode=disable` to the URL, also to another machine: password and data travel in the clear.
    pub danger_allow_plain: bool,
}

impl Database {
    /// Reads `postgresql://user:password@host:port/database`. Parameters may follow it: `sslmode`, and those that
    /// [`Config`] knows.
    ///
    /// TLS is used to every host that is not on this machine, and with `sslmode=require` (`verify-ca` and `verify-full`
    /// mean the same) also to those that are; it always verifies the certificate and its name. `sslmode=disable` does
    /// without, on this machine or with [`TlsTrust::danger_allow_plain`].
    ///
    /// # Errors
    ///
    /// What is wrong with it, without any part of it that could be secret.
    pub fn parse(url: &str, trust: TlsTrust) -> Result<Self, String> {
        let (url, mode) = take_mode(url)?;
        let mut config: Config = url.parse().map_err(|_| malformed())?;
        let place = place_of(&config).ok_or_else(malformed)?;
        let is_here = is_on_this_machine(&config);
        let tls = match mode {
            Some(Mode::Plain) if !is_here && !trust.danger_allow_plain => {
                return Err(
                    "sslmode=disable would send the password and the ledger to another machine in the clear \
                            (danger_allow_plain_database = true allows it)"
                        .to_owned(),
                );
            }
            Some(Mode::Plain) => false,
            Some(Mode::Verified) => true,
            None => !is_here,
        };
        config
            .ssl_mode(if tls { SslMode::Require } else { SslMode::Disable })
            // A standby that was promoted or a primary that was not: only one of them can record.
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
        let tls = connector(tls.then_some(trust.authorities))?;
        Ok(Self { config: Arc::new(config), tls, place: place.into() })
    }

    /// A new connection, as the server makes it.
    pub(super) async fn connect(&self) -> Result<Client, DatabaseError> {
        let failed = |problem| DatabaseError::Unreachable(self.to_string(), problem);
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, self.config.connect(self.tls.clone()));
        let (client, connection) = match connecting.await {
            Ok(connected) => connected.map_err(|error| failed(describe(&error)))?,
            Err(_) => return Err(failed("no connection in time".to_owned())),
        };
        // It ends when the client is dropped, or when the server is gone; whoever asks next learns of that.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::warn!(error = describe(&error), "a connection to the database was lost");
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
    "expected postgresql://user:password@host:port/database; what is special in a URL must be percent-encoded in it"
        .to_owned()
}

/// Takes `sslmode` out of the URL: its values mean something else here than where they come from.
fn take_mode(url: &str) -> Result<(String, Option<Mode>), String> {
    if !url.starts_with("postgresql://") && !url.starts_with("postgres://") {
        return Err(malformed());
    }
    // A password may have a question mark in it.
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
            ("sslmode", _) if mode.is_some() => return Err("sslmode is given twice".to_owned()),
            ("sslmode", "disable") => mode = Some(Mode::Plain),
            ("sslmode", "require" | "verify-ca" | "verify-full") => mode = Some(Mode::Verified),
            ("sslmode", _) => {
                return Err(
                    "sslmode: expected disable, require, verify-ca or verify-full: with any other, whether \
                            there is TLS would be the network's choice"
                        .to_owned(),
                );
            }
            _ => kept.push(pair),
        }
    }
    let url = if kept.is_empty() { base } else { format!("{base}?{}", kept.join("&")) };
    Ok((url, mode))
}

/// `host:port/database`; `None` without a host, or with more names than places.
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

/// What makes TLS connections, and with `None` nothing that would trust anybody.
fn connector(authorities: Option<Option<Vec<CertificateDer<'static>>>>) -> Result<MakeRustlsConnect, String> {
    let mut roots = RootCertStore::empty();
    match authorities {
        None => {}
        Some(Some(given)) => {
            for authority in given {
                roots.add(authority).map_err(|error| format!("an authority cannot be used: {error}"))?;
            }
        }
        Some(None) => {
            // Some of a system's certificates may be unreadable; the rest do.
            let native = rustls_native_certs::load_native_certs();
            if roots.add_parsable_certificates(native.certs).0 == 0 {
                return Err("this system trusts no authority; use the member database_ca".to_owned());
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
            ("postgresql://u:secret@h/l?sslmode=require&sslmode=disable", "twice"),
            ("postgresql://u:secret@h/l?sslmode=disable", "danger_allow_plain_database"),
            ("postgresql://u:secret@localhost/l?hostaddr=1.2.3.4&sslmode=disable", "danger_allow_plain"),
            ("postgresql://u:secret@h/l?sslrootcert=secret", "use the member database_ca"),
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
