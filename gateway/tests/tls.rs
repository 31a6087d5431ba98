//! TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

use actpass_core::{ActPass, Action, Outcome};
use actpass_gateway::config::Settings;
use actpass_gateway::server::Server;
use common::{PREFLIGHT, refund};
use reqwest::{Certificate, Client};
use rustls::ServerConnection;
use tempfile::TempDir;

#[tokio::test]
async fn serves_https_with_certificate() {
    common::install_provider();
    let folder = TempDir::new().unwrap();
    let certificate = write_certificate(&folder, "certificate.pem", "key.pem");
    let text =
        format!("{}\n[tls]\ncertificate = \"certificate.pem\"\nkey = \"key.pem\"\n", common::config(""));
    let server = Server::start(Settings::parse(&text, folder.path()).unwrap()).await.unwrap();
    assert!(server.url().starts_with("https://127.0.0.1:"));

    let certificate = Certificate::from_pem(certificate.as_bytes()).unwrap();
    let trusting = Client::builder().no_proxy().tls_certs_only([certificate]).build().unwrap();
    let url = format!("{}{PREFLIGHT}", server.url());
    let post = |client: &Client, url: &str| {
        let request = client.post(url).bearer_auth("apk_one").header("content-type", "application/json");
        request.body(refund("1", "")).send()
    };
    let response = post(&trusting, &url).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["strict-transport-security"], "max-age=31536000");
    assert_eq!(response.version(), reqwest::Version::HTTP_2);

    let strange = Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    assert!(post(&strange, &url).await.unwrap_err().is_connect());
    assert!(post(&trusting, &url.replace("https://", "http://")).await.is_err());
    server.stop().await.unwrap();
}

#[tokio::test]
async fn client_uses_custom_ca_and_http2() {
    let folder = TempDir::new().unwrap();
    let certificate = write_certificate(&folder, "certificate.pem", "key.pem");
    let text =
        format!("{}\n[tls]\ncertificate = \"certificate.pem\"\nkey = \"key.pem\"\n", common::config(""));
    let settings = Settings::parse(&text, folder.path()).unwrap();
    let tls = settings.tls.clone().unwrap();
    let server = Server::start(settings).await.unwrap();
    let action =
        Action::new("refund an order", "refunds.create").args_text(r#"{"amount": 1, "currency": "usd"}"#);
    let trusting = |url: String| ActPass::builder().api_key("apk_one").base_url(url).ca(certificate.as_str());
    let actpass = trusting(server.url()).build().unwrap();
    let outcome = actpass.guard(&action, async |_| Ok::<_, ()>("refunded")).await.unwrap();
    assert!(matches!(outcome, Outcome::Returned { result: "refunded", .. }), "{outcome:?}");

    let strange =
        ActPass::builder().api_key("apk_one").base_url(server.url()).max_retries(0).build().unwrap();
    let blocked = strange.guard(&action, async |_| Ok::<_, ()>("refunded")).await.unwrap();
    assert_eq!(blocked.decision().reason_code(), "actpass.unreachable");
    server.stop().await.unwrap();

    // The protocol it selects when a server offers both.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let first = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut connection = ServerConnection::new(tls).unwrap();
        let mut stream = rustls::Stream::new(&mut connection, &mut socket);
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).unwrap();
        (connection.alpn_protocol().map(<[u8]>::to_vec), preface)
    });
    let actpass = trusting(url).max_retries(0).timeout(Duration::from_secs(10)).build().unwrap();
    assert!(actpass.preflight(&action).await.is_err());
    assert_eq!(first.join().unwrap(), (Some(b"h2".to_vec()), *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
}

#[test]
fn invalid_certificate_or_key_is_named() {
    let folder = TempDir::new().unwrap();
    write_certificate(&folder, "certificate.pem", "key.pem");
    write_certificate(&folder, "other.pem", "other-key.pem");
    std::fs::write(folder.path().join("empty.pem"), "").unwrap();
    for (certificate, key, expected) in [
        ("none.pem", "key.pem", "tls.certificate: "),
        ("empty.pem", "key.pem", "tls.certificate: "),
        ("key.pem", "key.pem", "tls.certificate: "),
        ("certificate.pem", "none.pem", "tls.key: "),
        ("certificate.pem", "certificate.pem", "tls.key: "),
        ("certificate.pem", "other-key.pem", "tls.key: cannot be used with tls.certificate"),
    ] {
        let text =
            format!("{}\n[tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n", common::config(""));
        let problems = Settings::parse(&text, folder.path()).unwrap_err().to_string();
        assert!(problems.starts_with(expected), "{certificate} {key}: {problems}");
    }
}

fn write_certificate(folder: &TempDir, certificate: &str, key: &str) -> String {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(folder.path().join(certificate), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join(key), made.signing_key.serialize_pem()).unwrap();
    made.cert.pem()
}
