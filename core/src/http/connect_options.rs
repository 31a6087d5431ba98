//! Connection options: proxy and trusted authorities.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::proxy::Proxy;
use super::tls::{CaVariable, Trust};
use crate::base_url::BaseUrl;
use crate::error::Error;

/// How to connect to the gateway. Fixed when the client is created, and the same in every process
/// that uses it.
#[derive(Clone, Debug)]
pub(crate) struct ConnectOptions {
    pub(crate) proxy: Option<Arc<Proxy>>,
    pub(crate) trust: Trust,
    /// Variables that can name authorities, for error messages.
    pub(crate) ca_variables: Vec<CaVariable>,
}

impl ConnectOptions {
    /// # Errors
    ///
    /// [`ErrorKind::Config`], naming the setting or the environment variable.
    pub(crate) fn for_gateway(
        base_url: &BaseUrl,
        ca: &[CertificateDer<'static>],
        ca_variables: Vec<CaVariable>,
    ) -> Result<Self, Error> {
        // A proxy would see the key over plain http. Over https it sees a tunnel.
        let (proxy, trust) = match base_url.is_https() {
            true => (Proxy::choose(base_url)?.map(Arc::new), Trust::load(ca, &ca_variables)?),
            false => (None, Trust::empty()?),
        };
        Ok(Self { proxy, trust, ca_variables })
    }

    /// ` (through the proxy …)` for error messages; empty without a proxy.
    pub(crate) fn via_proxy(&self) -> String {
        self.proxy.as_ref().map_or_else(String::new, |proxy| format!(" (through the proxy {proxy})"))
    }
}

/// Parses the certificates of the setting `ca`.
pub(crate) fn parse_ca(pem: Option<&[u8]>) -> Result<Vec<CertificateDer<'static>>, Error> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_invalid_ca() {
        assert!(parse_ca(Some(b"")).is_err());
        assert!(parse_ca(Some(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----")).is_err());
    }
}
