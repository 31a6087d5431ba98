//! Client certificates: required or optional, and bound to API keys.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use actpass_gateway::auth::ApiKeyHash;
use actpass_gateway::config::Settings;
use actpass_gateway::server::Server;
use common::{PREFLIGHT, refund};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use reqwest::{Certificate, Client, Identity, StatusCode};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const SUPPORT: &str = "spiffe://example.org/agents/support";
const OTHER: &str = "spiffe://example.org/agents/other";

/// An authority that issues client certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Issues a certificate with these URIs; returns it with its key, and its fingerprint.
    fn issue(&self, uris: &[&str], is_expired: bool) -> (Identity, String) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        if is_expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let identity = format!("{}{}", certificate.pem(), key.serialize_pem());
        let fingerprint = hex::encode(Sha256::digest(certificate.der()));
        (Identity::from_pem(identity.as_bytes()).unwrap(), format!("sha256:{fingerprint}"))
    }
}

/// A gateway with TLS, whose clients' authority is in `clients.pem`.
struct WithTls {
    folder: TempDir,
    server: Option<Server>,
    certificate: Certificate,
    more: String,
}

impl WithTls {
    /// `mode` is the value of `client_certificates`; `more` follows the tenants.
    async fn start(authority: &Authority, mode: &str, more: &str) -> Self {
        common::install_provider();
        let folder = TempDir::new().unwrap();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(folder.path().join("certificate.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let certificate = Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
        let mut gateway = Self { folder, server: None, certificate, more: more.to_owned() };
        gateway.write(authority, mode);
        let settings = Settings::load(&gateway.folder.path().join("gateway.toml"));
        let settings = settings.unwrap_or_else(|problems| panic!("{problems}"));
        gateway.server = Some(Server::start(settings).await.unwrap());
        gateway
    }

    fn write(&self, authority: &Authority, mode: &str) {
        std::fs::write(self.folder.path().join("clients.pem"), &authority.pem).unwrap();
        let tls = format!(
            "[tls]\ncertificate = \"certificate.pem\"\nkey = \"key.pem\"\nclient_ca = \"clients.pem\"\n\
            client_certificates = \"{mode}\"\n"
        );
        let text = format!("{}{tls}{}", common::config(""), self.more);
        std::fs::write(self.folder.path().join("gateway.toml"), text).unwrap();
    }

    /// A client with a separate pool of connections.
    fn client(&self, identity: Option<&Identity>) -> Client {
        let builder = Client::builder().no_proxy().tls_certs_only([self.certificate.clone()]);
        match identity {
            Some(identity) => builder.identity(identity.clone()),
            None => builder,
        }
        .build()
        .unwrap()
    }

    /// Requests a decision; `None` if there is no connection.
    async fn decide(&self, client: &Client, key: Option<&str>) -> Option<StatusCode> {
        let mut request = client
            .post(format!("{}{PREFLIGHT}", self.server.as_ref().unwrap().url()))
            .header("content-type", "application/json")
            // Certificates and identities of proxies are not read.
            .header("x-forwarded-client-cert", format!("URI={SUPPORT}"))
            .header("x-spiffe-id", SUPPORT);
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        Some(request.body(refund("1", "")).send().await.ok()?.status())
    }

    /// Requests a decision on a new connection.
    async fn connect(&self, identity: Option<&Identity>, key: Option<&str>) -> Option<u16> {
        self.decide(&self.client(identity), key).await.map(|status| status.as_u16())
    }

    async fn reload(&self, identity: Option<&Identity>) {
        let url = format!("{}/api/v1/reload", self.server.as_ref().unwrap().url());
        let response = self.client(identity).post(url).bearer_auth("apdv_one").send().await.unwrap();
        assert_eq!(response.status(), 200, "{:?}", response.text().await);
    }

    async fn stop(mut self) {
        self.server.take().unwrap().stop().await.unwrap();
    }
}

/// Settings of a key with the name `name` and the certificate `certificate`.
fn key(key: &str, certificate: &str, more: &str) -> String {
    let hash = ApiKeyHash::of(key);
    format!(
        "[[keys]]\nname = \"name-of-{key}\"\nhash = \"{hash}\"\ntenant = \"one\"\nrole = \"agent\"\n\
        certificate = \"{certificate}\"\n{more}\n"
    )
}

#[tokio::test]
async fn bound_key_needs_its_certificate() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (support, _) = authority.issue(&[SUPPORT], false);
    let (other, _) = authority.issue(&[OTHER], false);
    let (plain, fingerprint) = authority.issue(&[], false);
    let (several, _) = authority.issue(&[SUPPORT, OTHER], false);
    let (expired, _) = authority.issue(&[SUPPORT], true);
    let (foreign, _) = stranger.issue(&[SUPPORT], false);
    let keys =
        [key("apk_support", SUPPORT, ""), key("apk_other", OTHER, ""), key("apk_plain", &fingerprint, "")];
    let gateway = WithTls::start(&authority, "optional", &keys.concat()).await;
    for (identity, key, expected) in [
        (Some(&support), "apk_support", Some(200)),
        (Some(&other), "apk_other", Some(200)),
        (Some(&plain), "apk_plain", Some(200)),
        // No certificate, and those of other keys.
        (None, "apk_support", Some(401)),
        (Some(&other), "apk_support", Some(401)),
        (Some(&plain), "apk_support", Some(401)),
        (Some(&support), "apk_plain", Some(401)),
        // With several URIs, the certificate has no SPIFFE ID.
        (Some(&several), "apk_support", Some(401)),
        // The handshake fails.
        (Some(&expired), "apk_support", None),
        (Some(&foreign), "apk_support", None),
        // A key without a certificate works on any connection.
        (None, "apk_one", Some(200)),
        (Some(&support), "apk_one", Some(200)),
        // A certificate alone authenticates only if the settings permit it.
        (Some(&support), "apk_unknown", Some(401)),
    ] {
        assert_eq!(gateway.connect(identity, Some(key)).await, expected, "{key}");
    }
    assert_eq!(gateway.connect(Some(&support), None).await, Some(401));
    gateway.stop().await;
}

#[tokio::test]
async fn certificate_authenticates_alone_if_the_settings_permit_it() {
    let authority = Authority::new();
    let (support, _) = authority.issue(&[SUPPORT], false);
    let (other, _) = authority.issue(&[OTHER], false);
    let keys = key("apk_support", SUPPORT, "certificate_authenticates = true\nagent = \"support\"");
    let gateway = WithTls::start(&authority, "optional", &keys).await;
    assert_eq!(gateway.connect(Some(&support), None).await, Some(200));
    assert_eq!(gateway.connect(Some(&support), Some("apk_support")).await, Some(200));
    // The other key decides, and an invalid one is not replaced by the certificate.
    assert_eq!(gateway.connect(Some(&support), Some("apk_one")).await, Some(200));
    assert_eq!(gateway.connect(Some(&support), Some("apk_unknown")).await, Some(401));
    assert_eq!(gateway.connect(Some(&other), None).await, Some(401));
    assert_eq!(gateway.connect(None, None).await, Some(401));
    let client = gateway.client(None);
    let url = format!("{}/api/v1/evidence/chains/decisions", gateway.server.as_ref().unwrap().url());
    let events = client.get(url).bearer_auth("apdv_one").send().await.unwrap().text().await.unwrap();
    assert!(events.contains("\"key_name\":\"name-of-apk_support\""), "{events}");
    gateway.stop().await;
}

#[tokio::test]
async fn required_certificates_are_required_of_every_connection() {
    let authority = Authority::new();
    let (support, _) = authority.issue(&[SUPPORT], false);
    let gateway = WithTls::start(&authority, "required", "").await;
    assert_eq!(gateway.connect(None, Some("apk_one")).await, None);
    assert_eq!(gateway.connect(Some(&support), Some("apk_one")).await, Some(200));
    gateway.stop().await;
}

/// A reload applies to new connections, and open ones lose the certificate of a removed authority.
#[tokio::test]
async fn reload_replaces_the_authorities() {
    let [before, after] = [Authority::new(), Authority::new()];
    let (old, _) = before.issue(&[SUPPORT], false);
    let (new, _) = after.issue(&[SUPPORT], false);
    let gateway = WithTls::start(&before, "optional", &key("apk_support", SUPPORT, "")).await;
    let open = gateway.client(Some(&old));
    let without = gateway.client(None);
    assert_eq!(gateway.decide(&open, Some("apk_support")).await, Some(StatusCode::OK));
    assert_eq!(gateway.decide(&without, Some("apk_one")).await, Some(StatusCode::OK));
    assert_eq!(gateway.connect(Some(&new), Some("apk_support")).await, None);

    gateway.write(&after, "optional");
    gateway.reload(None).await;
    assert_eq!(gateway.decide(&open, Some("apk_support")).await, Some(StatusCode::UNAUTHORIZED));
    assert_eq!(gateway.connect(Some(&new), Some("apk_support")).await, Some(200));
    assert_eq!(gateway.connect(Some(&old), Some("apk_support")).await, None);

    gateway.write(&after, "required");
    gateway.reload(Some(&new)).await;
    // The open connection without a certificate is of no use either.
    assert_eq!(gateway.decide(&without, Some("apk_one")).await, Some(StatusCode::FORBIDDEN));
    assert_eq!(gateway.connect(None, Some("apk_one")).await, None);
    assert_eq!(gateway.connect(Some(&new), Some("apk_one")).await, Some(200));
    gateway.stop().await;
}

#[test]
fn problems_name_the_member() {
    let folder = TempDir::new().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(folder.path().join("certificate.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.path().join("clients.pem"), Authority::new().pem).unwrap();
    let alone = "certificate_authenticates = true";
    for (tls, keys, problem) in [
        ("client_ca = \"none.pem\"", String::new(), "tls.client_ca: "),
        ("client_ca = \"key.pem\"", String::new(), "tls.client_ca: "),
        ("client_certificates = \"required\"", String::new(), "tls.client_certificates: needs client_ca"),
        (
            "client_ca = \"clients.pem\"\nclient_certificates = \"yes\"",
            String::new(),
            "tls.client_certificates: expected \"optional\" or \"required\", found \"yes\"",
        ),
        ("", key("apk_x", SUPPORT, ""), "keys[4].certificate: needs client_ca in [tls]"),
        (
            "client_ca = \"clients.pem\"",
            key("apk_x", "CN=agent", ""),
            "keys[4].certificate: expected a SPIFFE ID",
        ),
        (
            "client_ca = \"clients.pem\"",
            key("apk_x", SUPPORT, alone).replace("\"agent\"", "\"operator\""),
            "keys[4].certificate_authenticates: needs the role agent",
        ),
        (
            "client_ca = \"clients.pem\"",
            key("apk_x", SUPPORT, alone).replace(&format!("certificate = \"{SUPPORT}\"\n"), ""),
            "keys[4].certificate_authenticates: needs certificate",
        ),
        (
            "client_ca = \"clients.pem\"",
            key("apk_x", SUPPORT, alone) + &key("apk_y", SUPPORT, alone),
            "keys[5].certificate: duplicate: it authenticates another key",
        ),
    ] {
        let text = format!(
            "{}[tls]\ncertificate = \"certificate.pem\"\nkey = \"key.pem\"\n{tls}\n{keys}",
            common::config("")
        );
        let found = Settings::parse(&text, folder.path()).unwrap_err().to_string();
        assert!(found.contains(problem), "{problem}: {found}");
    }
}
