//! Which certificates are trusted, and the TLS configuration that follows.
//!
//! Trusted are the authorities that the caller gives as `ca`, those that the host language's variables add, and one of:
//! the authorities named by variables, if any is set; else those of the system; else, if the system has none, those
//! bundled with this library. A variable that names an authority which cannot be read is an error.

use std::collections::HashSet;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use once_cell::race::OnceBox;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::cause::CertificateProblem;
use crate::error::Error;

const FILE: &str = "SSL_CERT_FILE";
const DIRECTORIES: &str = "SSL_CERT_DIR";

/// The system's authorities and the configuration that trusts them alone, made once for the process: to read them takes
/// milliseconds. Two threads may both make one, and one is kept. There is no lock that a `fork()` could leave held.
static SYSTEM: OnceBox<(Authorities, Trust)> = OnceBox::new();

/// An environment variable by which the clients of a host language name certificate authorities.
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
    /// A variable whose authorities are trusted as well as the others, as `NODE_EXTRA_CA_CERTS`.
    pub const fn adding(name: &'static str) -> Self {
        Self { name, replaces: false }
    }

    /// A variable whose authorities are trusted instead of the system's, as `REQUESTS_CA_BUNDLE`.
    pub const fn replacing(name: &'static str) -> Self {
        Self { name, replaces: true }
    }

    /// The variable's name.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

/// A TLS configuration, and where its trust comes from.
#[derive(Clone)]
pub(crate) struct Trust {
    config: ClientConfig,
    sources: Arc<str>,
}

impl Trust {
    /// Trusts nobody: for a gateway that is spoken to in plain http.
    pub(crate) fn nobody() -> Result<Self, Error> {
        Authorities::none().trust()
    }

    /// Trusts the authorities of the environment or the system, and those that the caller gives as `ca`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config), naming the setting or the variable.
    pub(crate) fn load(ca: &[CertificateDer<'static>], variables: &[CaVariable]) -> Result<Self, Error> {
        let (replacing, adding) = Bundle::all(variables, &|name| env::var_os(name))?;
        if replacing.is_empty() && adding.is_empty() && ca.is_empty() {
            return system().map(|(_, trust)| trust.clone());
        }
        let mut authorities = match replacing.is_empty() {
            true => system()?.0.clone(),
            false => Authorities::none(),
        };
        for bundle in replacing.into_iter().chain(adding) {
            authorities.add_bundle(bundle)?;
        }
        authorities.add_given(ca)?;
        authorities.trust()
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.config
    }
}

fn system() -> Result<&'static (Authorities, Trust), Error> {
    SYSTEM.get_or_try_init(|| {
        let authorities = Authorities::system()?;
        let trust = authorities.clone().trust()?;
        Ok(Box::new((authorities, trust)))
    })
}

/// Certificates that are trusted.
#[derive(Clone)]
struct Authorities {
    roots: RootCertStore,
    /// Those given or named one by one, each of which is also trusted as a server's own.
    named: HashSet<CertificateDer<'static>>,
    sources: Vec<String>,
}

impl Authorities {
    fn none() -> Self {
        Self { roots: RootCertStore::empty(), named: HashSet::new(), sources: Vec::new() }
    }

    /// The system's, or those bundled with this library if the system has none.
    fn system() -> Result<Self, Error> {
        let found = rustls_native_certs::load_native_certs();
        if let (true, Some(problem)) = (found.certs.is_empty(), found.errors.first()) {
            let problem = format_args!("the system's certificate authorities cannot be read: {problem}");
            return Err(Error::config("tls", problem));
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        let source = match roots.is_empty() {
            false => format!("{} of the system", roots.len()),
            true => {
                tracing::debug!("the system has no certificate authorities; using the bundled ones");
                roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
                format!("{} bundled with the SDK, because the system has none", roots.len())
            }
        };
        Ok(Self { roots, named: HashSet::new(), sources: vec![source] })
    }

    fn add_bundle(&mut self, bundle: Bundle) -> Result<(), Error> {
        let Bundle { variable, path, certificates, one_by_one } = bundle;
        let (added, ignored) = self.roots.add_parsable_certificates(certificates.iter().cloned());
        if added == 0 {
            let problem = format_args!("expected CA certificates in PEM, found none that is valid in {path}");
            return Err(Error::config(variable, problem));
        }
        if ignored > 0 {
            tracing::warn!(variable, ignored, "certificates that cannot be parsed are not trusted");
        }
        if one_by_one {
            self.named.extend(certificates);
        }
        self.sources.push(format!("{added} of {variable} ({path})"));
        Ok(())
    }

    fn add_given(&mut self, ca: &[CertificateDer<'static>]) -> Result<(), Error> {
        for certificate in ca {
            self.roots
                .add(certificate.clone())
                .map_err(|error| Error::config("ca", format_args!("expected a CA certificate: {error}")))?;
            self.named.insert(certificate.clone());
        }
        if !ca.is_empty() {
            self.sources.push(format!("{} of ca", ca.len()));
        }
        Ok(())
    }

    fn trust(self) -> Result<Trust, Error> {
        let Self { roots, named, sources } = self;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::config("tls", error))?;
        let mut config = match named.is_empty() {
            true => builder.with_root_certificates(roots).with_no_client_auth(),
            false => {
                let by_authority = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
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

/// Where the trust comes from: `3 of SSL_CERT_FILE (/etc/corp.pem), 1 of ca`.
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

/// The certificates of what a variable names.
struct Bundle {
    variable: &'static str,
    path: String,
    certificates: Vec<CertificateDer<'static>>,
    one_by_one: bool,
}

impl Bundle {
    /// What the environment names: instead of the system's authorities, and beside them.
    fn all(
        variables: &[CaVariable],
        environment: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<(Vec<Self>, Vec<Self>), Error> {
        let (mut replacing, mut adding) = (Vec::new(), Vec::new());
        if let Some(file) = environment(FILE) {
            replacing.push(Self::file(FILE, Path::new(&file))?);
        }
        if let Some(list) = environment(DIRECTORIES) {
            let mut certificates = Vec::new();
            for directory in env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()) {
                certificates.extend(read(DIRECTORIES, None, Some(&directory))?);
            }
            replacing.push(Self::of(DIRECTORIES, Path::new(&list), certificates, false)?);
        }
        for variable in variables {
            // An empty value names nothing, as for the clients that the variable comes from.
            let Some(path) = environment(variable.name).filter(|path| !path.is_empty()) else {
                continue;
            };
            let path = Path::new(&path);
            match (variable.replaces, path.is_dir()) {
                (true, true) => {
                    let certificates = read(variable.name, None, Some(path))?;
                    replacing.push(Self::of(variable.name, path, certificates, false)?);
                }
                (true, false) => replacing.push(Self::file(variable.name, path)?),
                (false, _) => adding.push(Self::file(variable.name, path)?),
            }
        }
        Ok((replacing, adding))
    }

    fn file(variable: &'static str, path: &Path) -> Result<Self, Error> {
        if path.as_os_str().is_empty() {
            let problem = "expected a file of CA certificates in PEM, found an empty value; unset it to trust the system's";
            return Err(Error::config(variable, problem));
        }
        let certificates = read(variable, Some(path), None)?;
        Self::of(variable, path, certificates, true)
    }

    fn of(
        variable: &'static str,
        path: &Path,
        certificates: Vec<CertificateDer<'static>>,
        one_by_one: bool,
    ) -> Result<Self, Error> {
        let path = path.display().to_string();
        match certificates.is_empty() {
            true => Err(Error::config(
                variable,
                format_args!("expected CA certificates in PEM, found none in {path:?}"),
            )),
            false => Ok(Self { variable, path, certificates, one_by_one }),
        }
    }
}

fn read(
    variable: &'static str,
    file: Option<&Path>,
    directory: Option<&Path>,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = rustls_native_certs::load_certs_from_paths(file, directory);
    match found.errors.into_iter().next() {
        Some(problem) => Err(Error::config(
            variable,
            format_args!(
                "expected CA certificates in PEM, found {}: {problem}",
                file.or(directory).unwrap_or(Path::new("")).display()
            ),
        )),
        None => Ok(found.certs),
    }
}

/// Verifies as WebPKI does, and trusts a CA certificate as a server's own if exactly that certificate was named.
///
/// `openssl req -x509` makes such certificates: signed by themselves, and with `CA:TRUE`.
#[derive(Debug)]
struct Verifier {
    by_authority: Arc<WebPkiServerVerifier>,
    named: HashSet<CertificateDer<'static>>,
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
            // This error comes after the check of the validity period, and before that of the name.
            Err(rustls::Error::InvalidCertificate(error))
                if is_authority_as_server(&error) && self.named.contains(certificate) =>
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

/// Why a certificate was rejected.
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
