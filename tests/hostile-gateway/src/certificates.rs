//! Valid and invalid certificates, created for each gateway.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::script::Tls;

/// The authority that clients of the gateway trust.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> io::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name = named("hostile gateway authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, days_ago(90)?, days_ahead(30)?);
        let key = KeyPair::generate().map_err(failed)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(failed)?;
        Ok(Self { issuer })
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// The server configuration for `tls`; `None` for [`Tls::None`].
    pub(crate) fn server_config(&self, tls: Tls, http2: bool) -> io::Result<Option<Arc<ServerConfig>>> {
        let name = match tls {
            Tls::None | Tls::OldProtocol => return Ok(None),
            Tls::Trusted | Tls::SelfSigned | Tls::Expired => vec!["127.0.0.1", "localhost"],
            Tls::WrongHost => vec!["example.test"],
        };
        let names: Vec<String> = name.into_iter().map(str::to_owned).collect();

        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.distinguished_name = named("hostile gateway");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let until = match tls {
            Tls::Expired => days_ago(1)?,
            Tls::None | Tls::OldProtocol | Tls::Trusted | Tls::SelfSigned | Tls::WrongHost => days_ahead(30)?,
        };
        set_validity(&mut params, days_ago(30)?, until);

        let key = KeyPair::generate().map_err(failed)?;
        let certificate = if tls == Tls::SelfSigned {
            params.self_signed(&key)
        } else {
            params.signed_by(&key, &self.issuer)
        }
        .map_err(failed)?;

        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .map_err(failed)?;
        if http2 {
            config.alpn_protocols = vec![b"h2".to_vec()];
        }
        Ok(Some(Arc::new(config)))
    }
}

/// Times are since 1970.
fn set_validity(params: &mut CertificateParams, from: Duration, until: Duration) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + from;
    params.not_after = epoch + until;
}

fn days_ago(days: u32) -> io::Result<Duration> {
    Ok(now()?.saturating_sub(DAY.saturating_mul(days)))
}

fn days_ahead(days: u32) -> io::Result<Duration> {
    Ok(now()?.saturating_add(DAY.saturating_mul(days)))
}

fn now() -> io::Result<Duration> {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(failed)
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished_name = DistinguishedName::new();
    distinguished_name.push(DnType::CommonName, name);
    distinguished_name
}

fn failed(err: impl Display) -> io::Error {
    io::Error::other(format!("certificate: {err}"))
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
