//! Trusted certificates and the TLS configuration.
//!
//! Trusted are the authorities passed as `ca`, those of the binding's additional variables, and one
//! of: the authorities named by variables, if any is set; else the system's; else, if the system
//! has none, those bundled with this library. A variable that names an unreadable authority is an
//! error.

use std::collections::HashSet;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use once_cell::race::OnceBox;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

use crate::cause::CertificateProblem;
use crate::error::Error;
use crate::observe::ignore_panic;

const FILE: &str = "SSL_CERT_FILE";
const DIRECTORIES: &str = "SSL_CERT_DIR";

/// The system's authorities and their configuration, cached for the process because reading them
/// takes milliseconds. Two threads may both load them; one result is kept. There is no lock that
/// `fork()` could leave held.
static SYSTEM: OnceBox<LoadedTrust> = OnceBox::new();

/// The same for the authorities that the environment named most recently.
static FROM_ENVIRONMENT: ArcSwapOption<(Vec<FileStamp>, LoadedTrust)> = ArcSwapOption::const_empty();

/// An environment variable that names certificate authorities for clients in a binding's language.
///
/// ```
/// use actpass_core::{ActPass, CaVariable};
///
/// let actpass = ActPass::builder()
///     .api_key("apk_dev")
///     .ca_variables([CaVariable::adding("NODE_EXTRA_CA_CERTS")])
///     .build()?;
/// # drop(actpass);
/// # Ok::<(), actpass_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaVariable {
    name: &'static str,
    replaces: bool,
}

impl CaVariable {
    /// A variable whose authorities are trusted in addition, such as `NODE_EXTRA_CA_CERTS`.
    pub const fn adding(name: &'static str) -> Self {
        Self { name, replaces: false }
    }

    /// A variable whose authorities replace the system's, such as `REQUESTS_CA_BUNDLE`.
    pub const fn replacing(name: &'static str) -> Self {
        Self { name, replaces: true }
    }

    /// The variable's name.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

/// A TLS configuration and the sources of its trust.
#[derive(Clone)]
pub(crate) struct Trust {
    config: ClientConfig,
    sources: Arc<str>,
}

impl Trust {
    /// Trusts no authority: for a gateway over plain http.
    pub(crate) fn empty() -> Result<Self, Error> {
        Authorities::none().trust()
    }

    /// Trusts the authorities of the environment or the system, and those passed as `ca`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config), naming the setting or the variable.
    pub(crate) fn load(ca: &[CertificateDer<'static>], variables: &[CaVariable]) -> Result<Self, Error> {
        let named = CaSource::all(variables, &|name| env::var_os(name))?;
        let loaded = match named.is_empty() {
            true => system()?.clone(),
            false => LoadedTrust::named(&named)?,
        };
        match ca.is_empty() {
            true => Ok(loaded.trust),
            false => loaded.authorities.with_given(ca)?.trust(),
        }
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.config
    }
}

/// Authorities and the configuration that trusts them.
#[derive(Clone)]
struct LoadedTrust {
    authorities: Authorities,
    trust: Trust,
}

impl LoadedTrust {
    fn new(authorities: Authorities) -> Result<Self, Error> {
        let trust = authorities.clone().trust()?;
        Ok(Self { authorities, trust })
    }

    fn named(named: &[CaSource]) -> Result<Self, Error> {
        let stamps: Option<Vec<_>> = named.iter().map(FileStamp::of).collect();
        let kept = FROM_ENVIRONMENT.load();
        if let (Some(stamps), Some(kept)) = (&stamps, kept.as_deref())
            && kept.0 == *stamps
        {
            return Ok(kept.1.clone());
        }
        let mut authorities = match named.iter().any(|named| named.replaces) {
            true => Authorities::none(),
            false => system()?.authorities.clone(),
        };
        for named in named {
            authorities.add_named(named)?;
        }
        let loaded = Self::new(authorities)?;
        if let Some(stamps) = stamps {
            FROM_ENVIRONMENT.store(Some(Arc::new((stamps, loaded.clone()))));
        }
        Ok(loaded)
    }
}

fn system() -> Result<&'static LoadedTrust, Error> {
    SYSTEM.get_or_try_init(|| LoadedTrust::new(Authorities::system()?).map(Box::new))
}

/// Trusted certificates.
#[derive(Clone)]
struct Authorities {
    roots: Arc<RootCertStore>,
    /// Deduplicates certificates.
    known: HashSet<Fingerprint>,
    /// Certificates passed or named individually. Each is also trusted as a server certificate.
    named: HashSet<Fingerprint>,
    sources: Vec<String>,
}

/// The SHA-256 of a certificate.
type Fingerprint = [u8; 32];

fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    Sha256::digest(certificate).into()
}

impl Authorities {
    fn none() -> Self {
        Self {
            roots: Arc::new(RootCertStore::empty()),
            known: HashSet::new(),
            named: HashSet::new(),
            sources: Vec::new(),
        }
    }

    /// The system's authorities, or the bundled ones if the system has none.
    fn system() -> Result<Self, Error> {
        let found = rustls_native_certs::load_native_certs();
        if let (true, Some(problem)) = (found.certs.is_empty(), found.errors.first()) {
            let problem = format_args!("the system's certificate authorities cannot be read: {problem}");
            return Err(Error::config("tls", problem));
        }
        let mut authorities = Self::none();
        match authorities.add(&found.certs) {
            0 if !found.certs.is_empty() => {
                let problem = "the system's certificate authorities cannot be used: none can be parsed";
                return Err(Error::config("tls", problem));
            }
            0 => {
                ignore_panic(|| {
                    tracing::debug!("the system has no certificate authorities; using the bundled ones");
                });
                let bundled = webpki_roots::TLS_SERVER_ROOTS;
                Arc::make_mut(&mut authorities.roots).extend(bundled.iter().cloned());
                let source = format!("{} bundled with the SDK, because the system has none", bundled.len());
                authorities.sources.push(source);
            }
            added => authorities.sources.push(format!("{added} of the system")),
        }
        Ok(authorities)
    }

    /// Adds the certificates that can be parsed, and returns how many of the given ones are known
    /// now. Others are not trusted.
    fn add(&mut self, certificates: &[CertificateDer<'static>]) -> usize {
        let roots = Arc::make_mut(&mut self.roots);
        let mut usable = 0;
        for certificate in certificates {
            let fingerprint = fingerprint(certificate);
            let is_known = self.known.contains(&fingerprint);
            if is_known || roots.add(certificate.clone()).is_ok() {
                self.known.insert(fingerprint);
                usable += 1;
            }
        }
        usable
    }

    fn add_named(&mut self, named: &CaSource) -> Result<(), Error> {
        let certificates = named.read()?;
        let path = named.path.display();
        let usable = self.add(&certificates);
        if usable == 0 {
            let problem = format_args!("expected CA certificates in PEM, found none in {path}");
            return Err(Error::config(named.variable, problem));
        }
        if usable < certificates.len() {
            let ignored = certificates.len() - usable;
            ignore_panic(|| {
                tracing::warn!(
                    variable = named.variable,
                    ignored,
                    "ignored certificates that cannot be parsed"
                );
            });
        }
        if !named.is_directory {
            self.named.extend(certificates.iter().map(fingerprint));
        }
        self.sources.push(format!("{usable} of {} ({path})", named.variable));
        Ok(())
    }

    fn with_given(mut self, ca: &[CertificateDer<'static>]) -> Result<Self, Error> {
        let roots = Arc::make_mut(&mut self.roots);
        for certificate in ca {
            roots
                .add(certificate.clone())
                .map_err(|error| Error::config("ca", format_args!("expected a CA certificate: {error}")))?;
            self.named.insert(fingerprint(certificate));
        }
        self.sources.push(format!("{} of ca", ca.len()));
        Ok(self)
    }

    fn trust(self) -> Result<Trust, Error> {
        let Self { roots, named, sources, known: _ } = self;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::config("tls", error))?;
        let mut config = match named.is_empty() {
            true => builder.with_root_certificates(roots).with_no_client_auth(),
            false => {
                let by_authority = WebPkiServerVerifier::builder_with_provider(roots, provider)
                    .build()
                    .map_err(|error| Error::config("tls", error))?;
                let verifier = Arc::new(Verifier { by_authority, named });
                builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Trust { config, sources: sources.join(", ").into() })
    }
}

/// The sources of trust: `3 of SSL_CERT_FILE (/etc/corp.pem), 1 of ca`.
impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sources)
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust({self})")
    }
}

/// A certificate file or directory named by the environment.
struct CaSource {
    variable: &'static str,
    path: PathBuf,
    is_directory: bool,
    replaces: bool,
}

impl CaSource {
    fn all(
        variables: &[CaVariable],
        environment: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Vec<Self>, Error> {
        let mut named = Vec::new();
        let empty = |variable, what| {
            let problem =
                format!("expected {what}, found an empty value; unset it to trust the system's authorities");
            Err(Error::config(variable, problem))
        };
        if let Some(path) = environment(FILE).map(PathBuf::from) {
            if path.as_os_str().is_empty() {
                return empty(FILE, "a file of CA certificates in PEM");
            }
            named.push(Self { variable: FILE, path, is_directory: false, replaces: true });
        }
        if let Some(list) = environment(DIRECTORIES) {
            let before = named.len();
            let paths = env::split_paths(&list).filter(|path| !path.as_os_str().is_empty());
            named.extend(paths.map(|path| Self {
                variable: DIRECTORIES,
                path,
                is_directory: true,
                replaces: true,
            }));
            if named.len() == before {
                return empty(DIRECTORIES, "directories of CA certificates in PEM");
            }
        }
        for variable in variables {
            // An empty value counts as unset, as in the clients that define the variable.
            if let Some(path) = environment(variable.name).filter(|path| !path.is_empty()).map(PathBuf::from)
            {
                let is_directory = variable.replaces && path.is_dir();
                named.push(Self { variable: variable.name, path, is_directory, replaces: variable.replaces });
            }
        }
        Ok(named)
    }

    fn read(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let found = match self.is_directory {
            true => rustls_native_certs::load_certs_from_paths(None, Some(&self.path)),
            false => rustls_native_certs::load_certs_from_paths(Some(&self.path), None),
        };
        match found.errors.first() {
            Some(problem) => Err(Error::config(
                self.variable,
                format_args!("expected CA certificates in PEM, found {}: {problem}", self.path.display()),
            )),
            None => Ok(found.certs),
        }
    }
}

/// Identifies an unchanged file or directory.
#[derive(PartialEq)]
struct FileStamp {
    variable: &'static str,
    path: PathBuf,
    replaces: bool,
    length: u64,
    modified: SystemTime,
}

impl FileStamp {
    fn of(named: &CaSource) -> Option<Self> {
        let &CaSource { variable, ref path, replaces, .. } = named;
        let found = std::fs::metadata(path).ok()?;
        let modified = found.modified().ok()?;
        Some(Self { variable, path: path.clone(), replaces, length: found.len(), modified })
    }
}

/// Verifies certificates with WebPKI, and also trusts a named CA certificate as a server
/// certificate.
///
/// `openssl req -x509` creates such certificates: self-signed, with `CA:TRUE`.
#[derive(Debug)]
struct Verifier {
    by_authority: Arc<WebPkiServerVerifier>,
    named: HashSet<Fingerprint>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.by_authority.verify_server_cert(certificate, intermediates, name, ocsp_response, now);
        match verified {
            // WebPKI reports this error after it has checked the validity period and before the
            // name.
            Err(rustls::Error::InvalidCertificate(error))
                if is_authority_as_server(&error) && self.named.contains(&fingerprint(certificate)) =>
            {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_authority.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_authority.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_authority.supported_verify_schemes()
    }
}

fn is_authority_as_server(error: &CertificateError) -> bool {
    matches!(error, CertificateError::Other(other)
        if other.0.downcast_ref::<webpki::Error>() == Some(&webpki::Error::CaUsedAsEndEntity))
}

/// Maps a certificate error.
pub(crate) fn certificate_problem(error: &CertificateError) -> CertificateProblem {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the library's enum is open")]
    match error {
        error if is_authority_as_server(error) => CertificateProblem::AuthorityAsServer,
        CertificateError::BadSignature => CertificateProblem::BadSignature,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => CertificateProblem::Expired,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            CertificateProblem::WrongName
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            CertificateProblem::NotYetValid
        }
        CertificateError::UnknownIssuer => CertificateProblem::Untrusted,
        _ => CertificateProblem::Other,
    }
}
