//! HTTP/2, with an independent client.

use std::sync::Arc;
use std::time::Duration;

use actpass_hostile_gateway::HostileGateway;
use bytes::Bytes;
use h2::{Error, Reason};
use http::Request;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio_rustls::TlsConnector;

use crate::client::{address, start};

#[test]
fn records_request_and_sends_response() {
    let gateway = http2(&json!([{"do": "respond", "status": 201, "json": {"hash": "{{request_hash}}"}}]));
    let (status, body) = ask(&gateway, "{ }").unwrap();
    assert_eq!(status, 201);
    // The hash of `{}`.
    let hash = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    assert_eq!(body, json!({"hash": hash}).to_string().as_bytes());
    let seen = gateway.seen();
    assert_eq!(
        (seen[0].method.as_str(), seen[0].path.as_str(), seen[0].body.as_str()),
        ("POST", "/a?b", "{ }")
    );
    assert!(seen[0].headers.contains(&("x-tea".into(), "green".into())));
}

#[test]
fn large_bodies_arrive_complete() {
    let gateway = http2(&json!([{"do": "respond", "body_repeat": {"text": "0123456789", "times": 200_000}}]));
    assert_eq!(ask(&gateway, "").unwrap().1.len(), 2_000_000);
}

#[test]
fn streams_are_reset() {
    for at in ["request", "body"] {
        let gateway = http2(&json!([{"do": "rst_stream", "at": at, "code": 7}, {"do": "respond"}]));
        let error = ask(&gateway, "").unwrap_err();
        assert!(error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM), "{at}: {error}");
    }
}

#[test]
fn closes_connections_with_goaway() {
    for (step, code) in [
        (json!({"do": "goaway", "at": "request"}), Reason::NO_ERROR),
        (json!({"do": "goaway", "at": "request", "code": 11}), Reason::ENHANCE_YOUR_CALM),
        (json!({"do": "goaway", "at": "body", "code": 2}), Reason::INTERNAL_ERROR),
    ] {
        // The stream id is greater than the last stream id of the frame.
        let error = ask(&http2(&json!([step])), "").unwrap_err();
        assert!(error.is_go_away() && error.reason() == Some(code), "{step}: {error}");
    }
    // The stream is the last stream, so only the end of the connection ends it.
    let error = ask(&http2(&json!([{"do": "goaway", "at": "request", "processed": true}])), "").unwrap_err();
    assert!(error.is_io(), "{error}");
}

#[test]
fn other_steps_behave_as_over_http1() {
    let gateway = http2(&json!([{"do": "redirect", "status": 307}]));
    assert_eq!(ask(&gateway, "").unwrap().0, 307);
    let gateway = http2(&json!([{"do": "trickle", "body": "xyz", "interval_ms": 1}]));
    assert_eq!(ask(&gateway, "").unwrap(), (200, b"xyz".to_vec()));
    let gateway = http2(&json!([{"do": "truncate", "body": "abc", "missing": 2}]));
    assert_eq!(ask(&gateway, "").unwrap_err().reason(), Some(Reason::PROTOCOL_ERROR));
    let gateway = http2(&json!([{"do": "reset", "at": "body"}]));
    assert!(ask(&gateway, "").unwrap_err().is_io());
}

#[test]
fn hanging_gateway_can_be_stopped() {
    for at in ["request", "body"] {
        let gateway = http2(&json!([{"do": "hang", "at": at}]));
        let (base_url, pem) = (gateway.base_url(), gateway.ca_pem().unwrap().to_owned());
        let asking = std::thread::spawn(move || ask_at(&base_url, &pem, ""));
        while gateway.seen().is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!asking.is_finished());
        drop(gateway);
        asking.join().unwrap().unwrap_err();
    }
}

fn http2(steps: &Value) -> HostileGateway {
    start(json!({"tls": "trusted", "http2": true, "steps": steps}))
}

/// The status and body of the response, or the error.
fn ask(gateway: &HostileGateway, body: &'static str) -> Result<(u16, Vec<u8>), Error> {
    ask_at(&gateway.base_url(), gateway.ca_pem().unwrap(), body)
}

fn ask_at(base_url: &str, pem: &str, body: &'static str) -> Result<(u16, Vec<u8>), Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(address(base_url)).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        let (client, connection) = h2::client::handshake(tls).await?;
        let driver = tokio::spawn(connection);
        let asking = async {
            let mut client = client.ready().await?;
            let request = Request::post("https://127.0.0.1/a?b").header("x-tea", "green").body(()).unwrap();
            let (answer, mut stream) = client.send_request(request, false)?;
            stream.send_data(Bytes::from(body), true)?;
            let answer = answer.await?;
            let status = answer.status().as_u16();
            let mut incoming = answer.into_body();
            let mut body = Vec::new();
            while let Some(data) = incoming.data().await {
                let data = data?;
                incoming.flow_control().release_capacity(data.len())?;
                body.extend_from_slice(&data);
            }
            Ok((status, body))
        };
        let ended =
            tokio::time::timeout(Duration::from_secs(10), asking).await.expect("the connection did not end");
        driver.abort();
        ended
    })
}
