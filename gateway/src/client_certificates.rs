//! Client certificates: verified in the TLS handshake, compared with the certificate that an API key
//! names.
//!
//! A certificate is taken from the connection only, never from a header.

use std::ops::RangeInclusive;

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;

/// Prefix of a SPIFFE ID.
const SPIFFE: &str = "spiffe://";

/// Maximum length of a SPIFFE ID, in bytes.
const MAX_SPIFFE_BYTES: usize = 2048;

/// The authorities that issue the clients' certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTrust {
    /// Identifies the authorities: the SHA-256 of their certificates.
    authorities: [u8; 32],
    /// Whether each connection needs a certificate.
    pub(crate) is_required: bool,
}

impl ClientTrust {
    pub(crate) fn new(authorities: &[CertificateDer<'_>], is_required: bool) -> Self {
        let mut hashes: Vec<[u8; 32]> = authorities.iter().map(|one| Sha256::digest(one).into()).collect();
        hashes.sort_unstable();
        Self { authorities: Sha256::digest(hashes.concat()).into(), is_required }
    }
}

/// Names the certificate of an API key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CertificateName {
    /// The SHA-256 of the certificate. It changes with each renewal.
    Fingerprint([u8; 32]),
    /// The SPIFFE ID in the certificate.
    Spiffe(String),
}

impl CertificateName {
    /// Returns the SPIFFE ID; `None` for a fingerprint.
    pub fn spiffe(&self) -> Option<&str> {
        match self {
            Self::Spiffe(id) => Some(id),
            Self::Fingerprint(_) => None,
        }
    }

    /// Parses a SPIFFE ID, or `sha256:` followed by 64 hex digits; `None` for anything else.
    ///
    /// ```
    /// use actpass_gateway::client_certificates::CertificateName;
    ///
    /// assert!(CertificateName::parse("spiffe://example.org/agents/support").is_some());
    /// assert!(CertificateName::parse("CN=support").is_none());
    /// ```
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(digits) = text.strip_prefix("sha256:") {
            let mut hash = [0; 32];
            hex::decode_to_slice(digits, &mut hash).ok()?;
            return Some(Self::Fingerprint(hash));
        }
        is_spiffe_id(text).then(|| Self::Spiffe(text.to_owned()))
    }
}

/// Returns whether `text` is a SPIFFE ID with a path, by section 2 of the SPIFFE-ID specification.
fn is_spiffe_id(text: &str) -> bool {
    let is_dot = |segment: &str| segment == "." || segment == "..";
    let of_path = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let of_domain = |byte: u8| of_path(byte) && !byte.is_ascii_uppercase();
    let Some((domain, path)) = text.strip_prefix(SPIFFE).and_then(|rest| rest.split_once('/')) else {
        return false;
    };
    text.len() <= MAX_SPIFFE_BYTES
        && !domain.is_empty()
        && domain.bytes().all(of_domain)
        && path.split('/').all(|part| !part.is_empty() && !is_dot(part) && part.bytes().all(of_path))
}

/// The verified certificate of a connection.
#[derive(Clone, Debug)]
pub(crate) struct ClientCertificate {
    names: Vec<CertificateName>,
    /// In seconds since 1970.
    valid: RangeInclusive<i64>,
    /// The trust with which it was verified.
    trust: ClientTrust,
}

impl ClientCertificate {
    /// Reads a certificate that was verified with `trust`; `None` if it is not X.509.
    pub(crate) fn read(certificate: &CertificateDer<'_>, trust: ClientTrust) -> Option<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let mut names = vec![CertificateName::Fingerprint(Sha256::digest(certificate).into())];
        if let Some(alternative) = parsed.subject_alternative_name().ok()? {
            let uris = alternative.value.general_names.iter();
            let uris =
                uris.filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None });
            // A certificate with several URIs is not an SVID, and has no SPIFFE ID.
            if let [uri] = uris.collect::<Vec<_>>()[..]
                && is_spiffe_id(uri)
            {
                names.push(CertificateName::Spiffe(uri.to_owned()));
            }
        }
        let validity = parsed.validity();
        let valid = validity.not_before.timestamp()..=validity.not_after.timestamp();
        Some(Self { names, valid, trust })
    }

    /// Returns its names if it is valid at `now` and was verified with the authorities of `trust`.
    /// A connection may outlive its certificate and the settings.
    pub(crate) fn names(&self, trust: ClientTrust, now: i64) -> Option<&[CertificateName]> {
        let is_valid = self.valid.contains(&now) && self.trust.authorities == trust.authorities;
        is_valid.then_some(&*self.names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spiffe_ids_are_parsed_strictly() {
        for valid in ["spiffe://a/b", "spiffe://example.org/ns/prod/sa/Agent_1", "spiffe://10.0.0.1/x"] {
            assert_eq!(CertificateName::parse(valid), Some(CertificateName::Spiffe(valid.to_owned())));
        }
        for invalid in [
            "",
            "spiffe://",
            "spiffe://example.org",
            "spiffe://example.org/",
            "spiffe://example.org/a/",
            "spiffe://example.org//a",
            "spiffe://example.org/../a",
            "spiffe://Example.org/a",
            "spiffe://example.org:80/a",
            "spiffe://user@example.org/a",
            "spiffe://example.org/a?b",
            "spiffe://example.org/%61",
            "SPIFFE://example.org/a",
            "https://example.org/a",
            "sha256:00",
            "CN=agent",
        ] {
            assert_eq!(CertificateName::parse(invalid), None, "{invalid}");
        }
        let hash = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(CertificateName::parse(&hash), Some(CertificateName::Fingerprint([10; 32])));
    }

    #[test]
    fn certificate_counts_while_it_is_valid_and_its_authorities_are_trusted() {
        let id = "spiffe://example.org/agent";
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().unwrap())];
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(2026, 1, 1), rcgen::date_time_ymd(2026, 1, 2));
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let other = CertificateDer::from(vec![1]);
        let trust = ClientTrust::new(&[certificate.der().clone(), other.clone()], false);
        let found = ClientCertificate::read(certificate.der(), trust).unwrap();
        let (from, until) = (1_767_225_600, 1_767_312_000);
        let spiffe = CertificateName::Spiffe(id.to_owned());
        for now in [from, until] {
            assert!(found.names(trust, now).unwrap().contains(&spiffe), "{now}");
        }
        for now in [from - 1, until + 1] {
            assert_eq!(found.names(trust, now), None, "{now}");
        }
        // The order of the authorities, and whether a certificate is required, change nothing.
        let reordered = ClientTrust::new(&[other.clone(), certificate.der().clone()], true);
        assert!(found.names(reordered, from).is_some());
        assert_eq!(found.names(ClientTrust::new(&[other], false), from), None);
    }
}
