//! TLS for clients over HTTP.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::{files, warn};

/// Reads the certificate chain and its private key. A key that other users may read is a warning.
///
/// # Errors
///
/// A file is unreadable or contains no such item, or the key is not that of the certificate.
pub(crate) fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, String> {
    let problem = |option: &str, path: &Path, problem: &dyn Display| {
        format!("--tls-{option} {}: {problem}", path.display())
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| problem("certificate", certificate, &error))?;
    if chain.is_empty() {
        return Err(problem("certificate", certificate, &"expected a certificate in PEM, found none"));
    }
    let private_key =
        PrivateKeyDer::from_pem_file(key).map_err(|error| match matches!(error, Error::NoItemsFound) {
            true => problem("key", key, &"expected a private key in PEM, not encrypted, found none"),
            false => problem("key", key, &error),
        })?;
    if files::is_open_to_others(key) {
        warn(problem("key", key, &"other users may read it; run chmod 600 on it"));
    }
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private_key));
    let mut config = config
        .map_err(|error| problem("key", key, &format_args!("not usable with --tls-certificate: {error}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
