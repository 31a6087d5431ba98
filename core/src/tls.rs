//! One TLS configuration for the process: the operating system's roots cost milliseconds to read.

use std::sync::Arc;

use once_cell::race::OnceBox;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;

use crate::error::Error;
use crate::observe::observe;

/// Both are built by whoever comes first; two threads may both build and one result is kept. There is no lock that a
/// `fork()` could leave held.
static ROOTS: OnceBox<RootCertStore> = OnceBox::new();
static SHARED: OnceBox<ClientConfig> = OnceBox::new();

/// The configuration that trusts the system's authorities, or those bundled where the system has none.
pub(crate) fn shared() -> Result<ClientConfig, Error> {
    SHARED.get_or_try_init(|| build(roots().clone()).map(Box::new)).cloned()
}

/// The same with authorities of the caller's besides.
pub(crate) fn with_extra_ca(extra: &[CertificateDer<'static>]) -> Result<ClientConfig, Error> {
    let mut roots = roots().clone();
    for certificate in extra {
        roots
            .add(certificate.clone())
            .map_err(|error| Error::config("ca", format_args!("expected a CA certificate: {error}")))?;
    }
    build(roots)
}

/// A configuration that trusts nobody, for a gateway that is spoken to in plain http.
pub(crate) fn none() -> Result<ClientConfig, Error> {
    build(RootCertStore::empty())
}

fn roots() -> &'static RootCertStore {
    ROOTS.get_or_init(|| Box::new(load_roots()))
}

fn load_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        observe(|| tracing::debug!("the system has no certificate authorities; using the bundled ones"));
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

fn build(roots: RootCertStore) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::config("tls", error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
