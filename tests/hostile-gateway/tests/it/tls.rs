//! Certificates, as seen by a client that trusts the gateway's authority.

use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;
use std::sync::Arc;

use actpass_hostile_gateway::HostileGateway;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Error, RootCertStore, StreamOwned,
    SupportedProtocolVersion,
};
use serde_json::json;

use crate::client::{Client, End, SHORT_TIMEOUT, address, ask, connect, open, start};

#[test]
fn trusted_certificate_covers_names_and_tls_versions() {
    let gateway = start(json!({
        "tls": "trusted",
        "idle_close_ms": 100,
        "steps": [{"do": "respond", "json": {"decision": "allow"}}],
    }));
    assert!(gateway.base_url().starts_with("https://127.0.0.1:"));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for name in ["127.0.0.1", "localhost"] {
            let mut client = Client::new(connect_tls(&gateway, name, version).unwrap());
            client.get("/a");
            assert_eq!(client.answer().json(), json!({"decision": "allow"}));
            client.get("/b");
            assert_eq!(client.answer().status, 200);
            // A graceful end: rustls reports every other end as an error.
            assert_eq!(client.rest(), (Vec::new(), End::Fin));
        }
    }
    assert_eq!(gateway.seen().len(), 8);
}

#[test]
fn each_bad_certificate_has_one_defect() {
    for (tls, is_it) in [
        ("self_signed", (|e| matches!(e, CertificateError::UnknownIssuer)) as fn(&CertificateError) -> bool),
        ("expired", |e| matches!(e, CertificateError::ExpiredContext { .. })),
        ("wrong_host", |e| matches!(e, CertificateError::NotValidForNameContext { .. })),
    ] {
        let gateway = start(json!({"tls": tls}));
        let error = handshake_error(&gateway, "127.0.0.1");
        assert!(matches!(&error, Error::InvalidCertificate(error) if is_it(error)), "{tls}: {error}");
        assert!(gateway.seen().is_empty());
    }

    let gateway = start(json!({"tls": "wrong_host"}));
    connect_tls(&gateway, "example.test", &rustls::version::TLS13).unwrap();
}

#[test]
fn authority_is_trusted_by_its_gateway_only() {
    let (one, two) = (start(json!({"tls": "trusted"})), start(json!({"tls": "trusted"})));
    assert_ne!(one.ca_pem(), two.ca_pem());
    let stream = open(address(&one.base_url()));
    let config = config(two.ca_pem().unwrap(), &rustls::version::TLS13);
    handshake(stream, config, "127.0.0.1").unwrap_err();
}

#[test]
fn https_gateways_have_an_authority() {
    assert_eq!(start(json!({})).ca_pem(), None);
    for script in [
        json!({"tls": "self_signed"}),
        json!({"tls": "trusted", "listen": "refused"}),
        json!({"plain_on_https": true}),
    ] {
        let gateway = start(script);
        let pem = gateway.ca_pem().unwrap();
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    }
}

#[test]
fn plain_mode_answers_http_on_https_url() {
    let gateway = start(json!({"plain_on_https": true}));
    assert!(gateway.base_url().starts_with("https://127.0.0.1:"));
    assert_eq!(ask(&gateway, "/").status, 200);

    let error = connect_tls(&gateway, "127.0.0.1", &rustls::version::TLS13).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert_eq!(gateway.seen()[1].method, "?");
}

#[test]
fn tls_mode_answers_tls_on_http_url() {
    let gateway = start(json!({"tls": "trusted", "tls_on_http": true}));
    assert!(gateway.base_url().starts_with("http://127.0.0.1:"));
    assert_eq!(gateway.ca_pem(), None);
    let mut client = connect(&gateway);
    client.get("/");
    // A TLS alert.
    assert_eq!(client.rest().0.first(), Some(&0x15));
}

#[test]
fn old_protocol_mode_speaks_tls_1_1_only() {
    let gateway = start(json!({"tls": "old_protocol"}));
    assert!(gateway.base_url().starts_with("https://127.0.0.1:"));
    // An unreadable hello would cause another error.
    let error = handshake_error(&gateway, "127.0.0.1");
    assert!(matches!(error, Error::PeerIncompatible(_)), "{error}");
    assert!(gateway.seen().is_empty());
}

#[test]
fn unserved_connection_hangs_handshake() {
    let gateway = start(json!({"tls": "trusted", "hang_accept": true}));
    let stream = open(address(&gateway.base_url()));
    stream.set_read_timeout(Some(SHORT_TIMEOUT)).unwrap();
    let config = config(gateway.ca_pem().unwrap(), &rustls::version::TLS13);
    let error = handshake(stream, config, "127.0.0.1").unwrap_err();
    assert!([ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()));
}

#[test]
fn plain_http_to_tls_port_gets_no_response() {
    let gateway = start(json!({"tls": "trusted"}));
    let mut client = connect(&gateway);
    client.get("/");
    let (alert, end) = client.rest();
    assert!(!alert.starts_with(b"HTTP"));
    assert_ne!(end, End::NotYet);
    assert!(gateway.seen().is_empty());
}

#[test]
fn steps_work_over_tls() {
    let gateway = start(json!({"tls": "trusted", "steps": [
        {"do": "truncate", "body": "abc", "missing": 2},
        {"do": "reset", "at": "body"},
        {"do": "raw", "text": "junk"},
        {"do": "trickle", "body": "xyz", "interval_ms": 1},
        {"do": "hang", "at": "body"},
    ]}));
    let ask = || {
        let stream = connect_tls(&gateway, "127.0.0.1", &rustls::version::TLS13).unwrap();
        let mut client = Client::new(stream);
        client.get("/");
        client
    };

    let mut client = ask();
    assert_eq!(client.head().header("content-length"), Some("5"));
    assert_eq!(client.rest(), (b"abc".to_vec(), End::Fin));

    let mut client = ask();
    client.head();
    assert_eq!(client.rest().1, End::Rst);

    assert_eq!(ask().rest(), (b"junk".to_vec(), End::Fin));
    assert_eq!(ask().answer().text(), "xyz");

    let mut client = ask();
    client.head();
    let stream = client.stream.get_ref();
    stream.sock.set_read_timeout(Some(SHORT_TIMEOUT)).unwrap();
    assert_eq!(client.rest().1, End::NotYet);
    drop(gateway);
    let mut byte = [0];
    assert!(!matches!(client.stream.read(&mut byte), Ok(1)));
}

fn handshake_error(gateway: &HostileGateway, name: &str) -> Error {
    let error = connect_tls(gateway, name, &rustls::version::TLS13).unwrap_err();
    let error = error.into_inner().unwrap();
    *error.downcast().unwrap()
}

fn connect_tls(
    gateway: &HostileGateway,
    name: &str,
    version: &'static SupportedProtocolVersion,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let config = config(gateway.ca_pem().unwrap(), version);
    handshake(open(address(&gateway.base_url())), config, name)
}

fn handshake(
    mut stream: TcpStream,
    config: ClientConfig,
    name: &str,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(connection, stream))
}

fn config(ca_pem: &str, version: &'static SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap();
    roots.add(ca).unwrap();
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}
