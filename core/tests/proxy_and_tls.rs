//! Proxies, certificate authorities and localhost names.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actpass_core::{ActPass, ActPassBuilder, CaVariable, DecisionWord, Error, ErrorKind};
use actpass_hostile_gateway::HostileGateway;
use common::{KEY, action, allow, block_on, builder, gateway, in_child, respond, scripted};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;

/// An allowing https gateway.
fn secure() -> HostileGateway {
    scripted(json!({"tls": "trusted", "steps": [respond(allow())]}))
}

fn trusting(gateway: &HostileGateway) -> ActPassBuilder {
    builder(gateway).ca(gateway.ca_pem().unwrap())
}

fn ask(builder: ActPassBuilder) -> Result<DecisionWord, Error> {
    block_on(async { Ok(builder.build()?.preflight(&action()).await?.word().clone()) })
}

/// The error of a failing call, and the guard's decision about it.
fn fails(builder: ActPassBuilder) -> (Error, String, Vec<String>) {
    let client = builder.build().unwrap();
    let (runs, outcome) = block_on(common::counted(&client, &action()));
    assert_eq!(runs, 0);
    let explain = outcome.decision().explain();
    (common::gate_error(&outcome).unwrap().clone(), explain.summary, explain.next_steps)
}

fn is_child() -> bool {
    std::env::var_os("ACTPASS_TEST_CHILD").is_some()
}

/// A URL of `listener`.
fn url_of(listener: &TcpListener, scheme: &str) -> String {
    format!("{scheme}{}", listener.local_addr().unwrap())
}

/// A proxy that runs `each` on every connection. It ends with the test process.
fn proxy(each: impl Fn(TcpStream) + Send + 'static) -> (TcpListener, Arc<Mutex<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let accepting = listener.try_clone().unwrap();
    let count = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for connection in accepting.incoming() {
            *counted.lock().unwrap() += 1;
            each(connection.unwrap());
        }
    });
    (listener, count)
}

fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.extend(byte);
    }
    String::from_utf8(head).unwrap()
}

fn exact<const N: usize>(stream: &mut TcpStream) -> [u8; N] {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Forwards bytes in both directions until both ends are closed.
fn carry(client: TcpStream, target: &str) {
    let gateway = TcpStream::connect(target).unwrap();
    let one = |mut from: TcpStream, mut to: TcpStream| {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        })
    };
    one(client.try_clone().unwrap(), gateway.try_clone().unwrap());
    one(gateway, client);
}

fn socks5(mut client: TcpStream, password: Option<(&str, &str)>, seen: &Mutex<Vec<String>>) {
    let [version, methods] = exact(&mut client);
    let mut offered = vec![0; methods.into()];
    client.read_exact(&mut offered).unwrap();
    assert_eq!(version, 5);
    if let Some((user, password)) = password {
        if !offered.contains(&2) {
            client.write_all(&[5, 0xff]).unwrap();
            return;
        }
        client.write_all(&[5, 2]).unwrap();
        let [_, length] = exact(&mut client);
        let mut given = vec![0; length.into()];
        client.read_exact(&mut given).unwrap();
        let [length] = exact(&mut client);
        let mut secret = vec![0; length.into()];
        client.read_exact(&mut secret).unwrap();
        let good = given == user.as_bytes() && secret == password.as_bytes();
        client.write_all(&[1, u8::from(!good)]).unwrap();
        if !good {
            return;
        }
    } else {
        client.write_all(&[5, 0]).unwrap();
    }
    let [_, command, _, kind] = exact(&mut client);
    assert_eq!(command, 1);
    let host = match kind {
        1 => exact::<4>(&mut client).map(|byte| byte.to_string()).join("."),
        3 => {
            let [length] = exact(&mut client);
            let mut name = vec![0; length.into()];
            client.read_exact(&mut name).unwrap();
            String::from_utf8(name).unwrap()
        }
        other => panic!("address type {other}"),
    };
    let port = u16::from_be_bytes(exact(&mut client));
    seen.lock().unwrap().push(format!("{kind} {host}"));
    client.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 0]).unwrap();
    carry(client, &format!("127.0.0.1:{port}"));
}

fn socks4(mut client: TcpStream, seen: &Mutex<Vec<String>>) {
    let [version, command] = exact(&mut client);
    assert_eq!((version, command), (4, 1));
    let port = u16::from_be_bytes(exact(&mut client));
    let address = exact::<4>(&mut client);
    let mut text = || {
        let mut text = String::new();
        loop {
            match exact(&mut client) {
                [0] => return text,
                [byte] => text.push(char::from(byte)),
            }
        }
    };
    let _user = text();
    let host = match address {
        [0, 0, 0, last] if last != 0 => text(),
        address => address.map(|byte| byte.to_string()).join("."),
    };
    seen.lock().unwrap().push(host);
    client.write_all(&[0, 90, 0, 0, 0, 0, 0, 0]).unwrap();
    carry(client, &format!("127.0.0.1:{port}"));
}

#[test]
fn calls_go_through_socks_proxies() {
    for (scheme, user, expected) in [
        ("socks5://", None, "1 127.0.0.1"),
        ("socks5h://", None, "1 127.0.0.1"),
        ("socks5://", Some(("user", "pass_secret")), "1 127.0.0.1"),
        ("socks4://", None, "127.0.0.1"),
        ("socks4a://", None, "127.0.0.1"),
    ] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sees = Arc::clone(&seen);
        let (listener, _) = proxy(move |client| match scheme.starts_with("socks4") {
            true => socks4(client, &sees),
            false => socks5(client, user, &sees),
        });
        let url = url_of(
            &listener,
            &user.map_or(scheme.to_owned(), |(user, word)| format!("{scheme}{user}:{word}@")),
        );
        in_child("calls_go_through_socks_proxies", &[("ALL_PROXY", &url)], || {
            assert_eq!(ask(trusting(&secure())).unwrap(), DecisionWord::Allow);
        });
        if is_child() {
            return;
        }
        assert_eq!(*seen.lock().unwrap(), [expected], "{scheme}");
    }
}

#[test]
fn calls_go_through_http_proxies() {
    for answer in [
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.0 200 Connection established\r\n\r\n",
        "HTTP/1.1 200\r\nProxy-Agent: test\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 299 Fine\r\n\r\n",
    ] {
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        let (listener, _) = proxy(move |mut client| {
            let head = read_head(&mut client);
            let target = head.split(' ').nth(1).unwrap().to_owned();
            seen.lock().unwrap().push(head);
            client.write_all(answer.as_bytes()).unwrap();
            carry(client, &target);
        });
        let url = url_of(&listener, "http://us%65r:p%40ss@");
        in_child("calls_go_through_http_proxies", &[("https_proxy", &url)], || {
            assert_eq!(ask(trusting(&secure())).unwrap(), DecisionWord::Allow);
        });
        if is_child() {
            return;
        }
        let heads = heads.lock().unwrap();
        let host = heads[0].split(' ').nth(1).unwrap();
        // user:p@ss
        let expected = format!(
            "CONNECT {host} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\n\r\n"
        );
        assert_eq!(*heads, [expected], "{answer}");
    }
}

#[test]
fn socks_scheme_decides_who_resolves_names() {
    for (scheme, expected) in [("socks5h://", "3 gate.invalid"), ("socks4a://", "gate.invalid")] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sees = Arc::clone(&seen);
        let (listener, _) = proxy(move |client| match scheme.starts_with("socks4") {
            true => socks4(client, &sees),
            false => socks5(client, None, &sees),
        });
        in_child(
            "socks_scheme_decides_who_resolves_names",
            &[("ALL_PROXY", &url_of(&listener, scheme))],
            || {
                // The proxy leads to the gateway, whose certificate is for another name.
                let gateway = secure();
                let port = gateway.base_url().rsplit(':').next().unwrap().to_owned();
                let named = trusting(&gateway).base_url(format!("https://gate.invalid:{port}"));
                let (error, summary, _) = fails(named);
                assert!(error.to_string().contains("gate.invalid"), "{error}");
                assert_eq!(summary, "The certificate of the gateway is for another name.");
            },
        );
        if is_child() {
            return;
        }
        assert_eq!(*seen.lock().unwrap(), [expected], "{scheme}");
    }
}

#[test]
fn unresolved_name_never_reaches_socks_proxy() {
    let (listener, connections) = proxy(drop);
    in_child(
        "unresolved_name_never_reaches_socks_proxy",
        &[("ALL_PROXY", &url_of(&listener, "socks5://"))],
        || {
            let client = ActPass::builder().api_key(KEY).base_url("https://gate.invalid").max_retries(0);
            let (_, summary, _) = fails(client);
            assert_eq!(summary, "The gateway's host name could not be resolved.");
        },
    );
    if !is_child() {
        assert_eq!(*connections.lock().unwrap(), 0);
    }
}

#[test]
fn proxy_errors_name_the_setting_and_hide_the_password() {
    let answers = |answer: &'static [u8]| {
        move |mut client: TcpStream| {
            let mut buffer = [0; 1024];
            let _ = client.read(&mut buffer);
            let _ = client.write_all(answer);
            // Wait for the client to close, so that the response is not lost to a reset.
            let _ = client.shutdown(Shutdown::Write);
            while client.read(&mut buffer).is_ok_and(|length| length > 0) {}
        }
    };
    type Play = Box<dyn Fn(TcpStream) + Send>;
    let http = "http://user:pass_secret@";
    let cases: Vec<(&str, &str, Play, ErrorKind, &str, &str)> = vec![
        (
            "HTTPS_PROXY",
            http,
            Box::new(answers(b"HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic\r\ncontent-length: 0\r\n\r\n")),
            ErrorKind::Connection,
            "the proxy answered 407",
            "rejected the client's user name and password",
        ),
        (
            "https_proxy",
            http,
            Box::new(answers(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno")),
            ErrorKind::Connection,
            "the proxy answered 403",
            "does not allow connections to the gateway",
        ),
        (
            "ALL_PROXY",
            http,
            Box::new(answers(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")),
            ErrorKind::Connection,
            "the proxy answered 502",
            "could not connect to the gateway",
        ),
        (
            "all_proxy",
            http,
            Box::new(answers(b"SSH-2.0-OpenSSH\r\n")),
            ErrorKind::Connection,
            "",
            "does not answer as a proxy",
        ),
        ("HTTPS_PROXY", http, Box::new(answers(b"")), ErrorKind::Connection, "", "closed the connection"),
        (
            "HTTPS_PROXY",
            http,
            Box::new(answers(b"HTTP/1.1 200 OK\r\n\r\nmore")),
            ErrorKind::Connection,
            "unexpected data after the response",
            "does not answer as a proxy",
        ),
        (
            "HTTPS_PROXY",
            "https://user:pass_secret@",
            Box::new(answers(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
            ErrorKind::Connection,
            "",
            "does not answer as a proxy",
        ),
        (
            "ALL_PROXY",
            "socks5://user:pass_secret@",
            Box::new(answers(b"\x05\xff")),
            ErrorKind::Connection,
            "authentication",
            "rejected the client's user name and password",
        ),
        (
            "ALL_PROXY",
            "socks5h://",
            Box::new(answers(b"\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00")),
            ErrorKind::Connection,
            "not allowed",
            "does not allow connections to the gateway",
        ),
        (
            "ALL_PROXY",
            "socks5h://",
            Box::new(answers(b"\x05\x00\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00")),
            ErrorKind::Connection,
            "connection refused",
            "could not connect to the gateway",
        ),
        (
            "ALL_PROXY",
            "socks4a://",
            Box::new(answers(b"\x00\x5b\x00\x00\x00\x00\x00\x00")),
            ErrorKind::Connection,
            "failed to execute",
            "could not connect to the gateway",
        ),
        (
            "ALL_PROXY",
            "socks5://",
            Box::new(answers(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
            ErrorKind::Connection,
            "",
            "does not answer as a proxy",
        ),
        ("ALL_PROXY", "socks5://", Box::new(answers(b"")), ErrorKind::Connection, "", "closed the connection"),
        (
            "HTTPS_PROXY",
            http,
            Box::new(std::mem::forget),
            ErrorKind::Timeout,
            "",
            "did not open a tunnel to the gateway in time",
        ),
    ];
    for (variable, scheme, play, kind, says, summary_says) in cases {
        let (listener, connections) = proxy(play);
        let url = url_of(&listener, scheme);
        let shown = format!(
            "{}://{} ({variable})",
            scheme.split(':').next().unwrap(),
            listener.local_addr().unwrap()
        );
        in_child(
            "proxy_errors_name_the_setting_and_hide_the_password",
            &[
                (variable, &url),
                ("TEST_KIND", kind.name()),
                ("TEST_SAYS", says),
                ("TEST_SUMMARY", summary_says),
                ("TEST_SHOWN", &shown),
            ],
            || {
                let expected = |name: &str| std::env::var(name).unwrap();
                let gateway = secure();
                let limit = match expected("TEST_KIND").as_str() {
                    "timeout" => Duration::from_millis(300),
                    _ => Duration::from_secs(15),
                };
                let (error, summary, steps) = fails(trusting(&gateway).connect_timeout(limit));
                let text = error.to_string();
                assert_eq!(error.kind().name(), expected("TEST_KIND"), "{text}");
                let begin = format!(
                    "preflight: cannot reach {} through the proxy {}: ",
                    gateway.base_url(),
                    expected("TEST_SHOWN")
                );
                assert!(text.starts_with(&begin) && text.contains(&expected("TEST_SAYS")), "{text}");
                assert!(summary.contains(&expected("TEST_SUMMARY")), "{summary}");
                assert!(!steps.is_empty());
                let mut shown = format!("{error:?} {text} {summary} {steps:?}");
                let mut source = std::error::Error::source(&error);
                while let Some(cause) = source {
                    shown += &format!("{cause} {cause:?}");
                    source = cause.source();
                }
                assert!(!shown.contains("pass_secret") && !shown.contains("cGFzc19zZWNyZXQ"), "{shown}");
                assert!(gateway.seen().is_empty());
            },
        );
        if is_child() {
            return;
        }
        assert!(*connections.lock().unwrap() >= 1);
    }
}

#[test]
fn names_unreachable_proxy() {
    let proxy = scripted(json!({"listen": "refused"}));
    in_child("names_unreachable_proxy", &[("https_proxy", &proxy.base_url())], || {
        let gateway = secure();
        let (error, summary, steps) = fails(trusting(&gateway));
        let proxy = std::env::var("https_proxy").unwrap();
        let begin = format!(
            "preflight: cannot reach {} through the proxy {proxy} (https_proxy): ",
            gateway.base_url()
        );
        assert!(error.to_string().starts_with(&begin), "{error}");
        assert!(error.to_string().contains("refused"), "{error}");
        assert_eq!(summary, "The proxy of https_proxy could not be reached.");
        assert_eq!(steps[0], "Check the value of https_proxy.");
    });
}

#[test]
fn names_unresolved_proxy() {
    in_child("names_unresolved_proxy", &[("ALL_PROXY", "socks5h://proxy.invalid:1080")], || {
        let (error, summary, _) = fails(trusting(&secure()));
        assert!(error.to_string().contains("the host name proxy.invalid cannot be resolved"), "{error}");
        assert_eq!(summary, "The host name of the proxy of ALL_PROXY could not be resolved.");
    });
}

#[test]
fn verifies_https_proxy_certificate() {
    let proxy = scripted(json!({"tls": "self_signed", "steps": []}));
    in_child("verifies_https_proxy_certificate", &[("HTTPS_PROXY", &proxy.base_url())], || {
        let (error, summary, steps) = fails(trusting(&secure()));
        let text = error.to_string();
        assert!(text.contains("through the proxy https://127.0.0.1:"), "{text}");
        assert!(text.contains("trusted authorities: ") && text.contains(", 1 of ca;"), "{text}");
        assert!(summary.starts_with("The certificate of the proxy (HTTPS_PROXY) is not signed"), "{summary}");
        assert!(steps[0].contains("SSL_CERT_FILE"), "{steps:?}");
    });
}

#[test]
fn gateway_failure_is_not_blamed_on_the_proxy() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (listener, _) = proxy(move |client| socks5(client, None, &seen));
    in_child(
        "gateway_failure_is_not_blamed_on_the_proxy",
        &[("ALL_PROXY", &url_of(&listener, "socks5://"))],
        || {
            let gateway = scripted(json!({"tls": "expired", "steps": []}));
            let (error, summary, _) = fails(trusting(&gateway));
            assert_eq!(summary, "The certificate of the gateway has expired.");
            assert!(error.to_string().contains(" (through the proxy socks5://127.0.0.1:"), "{error}");
        },
    );
}

#[test]
fn timeout_names_the_proxy() {
    let (listener, _) = proxy(std::mem::forget);
    in_child("timeout_names_the_proxy", &[("HTTPS_PROXY", &url_of(&listener, "http://"))], || {
        let (error, _, _) = fails(trusting(&secure()).timeout(Duration::from_millis(500)));
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.to_string().contains("within 0.5 s (through the proxy http://127.0.0.1:"), "{error}");
    });
}

#[test]
fn rejects_invalid_proxy_setting() {
    for (name, value) in [
        ("HTTPS_PROXY", "socks://127.0.0.1:1080"),
        ("all_proxy", "direct"),
        ("ALL_PROXY", "127.0.0.1:port"),
        ("https_proxy", "http://user:pass_secret@"),
    ] {
        in_child("rejects_invalid_proxy_setting", &[(name, value), ("TEST_NAME", name)], || {
            let name = std::env::var("TEST_NAME").unwrap();
            let with = |url: &str| ActPass::builder().api_key(KEY).base_url(url).build();
            if name == "all_proxy" {
                // The value is a valid host name.
                assert!(with("https://gate.example").is_ok());
                return;
            }
            let error = with("https://gate.example").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(
                error.to_string().starts_with(&format!("{name}: expected http, https, socks4")),
                "{error}"
            );
            assert!(!error.to_string().contains("secret"), "{error}");
            // Without a proxied URL the setting is not read.
            assert!(with("http://127.0.0.1:1").is_ok() && with("https://x.localhost").is_ok());
        });
        if is_child() {
            return;
        }
    }
}

#[test]
fn no_proxy_connects_directly() {
    let (listener, connections) = proxy(drop);
    let url = url_of(&listener, "http://");
    in_child("no_proxy_connects_directly", &[("HTTPS_PROXY", &url), ("no_proxy", "127.0.0.0/8")], || {
        assert_eq!(ask(trusting(&secure())).unwrap(), DecisionWord::Allow);
    });
    if !is_child() {
        assert_eq!(*connections.lock().unwrap(), 0);
    }
}

#[test]
fn localhost_names_resolve_to_loopback() {
    let gateway = gateway(json!([respond(allow())]));
    let port = gateway.base_url().rsplit(':').next().unwrap().to_owned();
    for host in [
        "localhost",
        "x.localhost",
        "LOCALHOST",
        "a.b.localhost",
        "localhost.",
        "x.localhost.",
        "[::ffff:127.0.0.1]",
    ] {
        let asked = ask(builder(&gateway).base_url(format!("http://{host}:{port}")));
        assert_eq!(asked.unwrap(), DecisionWord::Allow, "{host}");
    }
    assert_eq!(gateway.seen().len(), 7);
}

#[test]
fn names_unresolved_host() {
    let (error, summary, steps) =
        fails(ActPass::builder().api_key(KEY).base_url("https://gate.invalid").max_retries(0));
    assert!(error.to_string().contains("the host name gate.invalid cannot be resolved: "), "{error}");
    assert_eq!(summary, "The gateway's host name could not be resolved.");
    assert_eq!(steps[0], "Check the host name in the base URL.");
}

#[test]
fn rejects_unreadable_ca_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("empty.pem"), "").unwrap();
    std::fs::write(path("other.pem"), "no certificate").unwrap();
    std::fs::write(path("broken.pem"), "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n")
        .unwrap();
    std::fs::write(path("nonsense.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    std::fs::create_dir_all(path("folder")).unwrap();
    let missing = path("missing/ca.pem");
    for variable in ["SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE"] {
        for value in [
            missing.as_str(),
            &path("empty.pem"),
            &path("other.pem"),
            &path("broken.pem"),
            &path("nonsense.pem"),
            &path("folder"),
        ] {
            in_child("rejects_unreadable_ca_files", &[(variable, value), ("TEST_NAME", variable)], || {
                let name = std::env::var("TEST_NAME").unwrap();
                let with = |url: &str| {
                    let variables = [
                        CaVariable::adding("NODE_EXTRA_CA_CERTS"),
                        CaVariable::replacing("REQUESTS_CA_BUNDLE"),
                    ];
                    ActPass::builder().api_key(KEY).base_url(url).ca_variables(variables).build()
                };
                let error = with("https://gate.example").unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Config);
                assert!(
                    error
                        .to_string()
                        .starts_with(&format!("{name}: expected CA certificates in PEM, found ")),
                    "{error}"
                );
                // Over plain http no authority is loaded.
                assert!(with("http://127.0.0.1:1").is_ok());
            });
            if is_child() {
                return;
            }
        }
    }
}

#[test]
fn rejects_empty_ca_variables() {
    for (variable, refused) in
        [("SSL_CERT_FILE", true), ("SSL_CERT_DIR", true), ("NODE_EXTRA_CA_CERTS", false)]
    {
        in_child(
            "rejects_empty_ca_variables",
            &[(variable, ""), ("TEST_REFUSED", if refused { variable } else { "" })],
            || {
                let refused = std::env::var("TEST_REFUSED").unwrap();
                let built = ActPass::builder()
                    .api_key(KEY)
                    .base_url("https://gate.example")
                    .ca_variables([CaVariable::adding("NODE_EXTRA_CA_CERTS")])
                    .build();
                match refused.as_str() {
                    "" => assert!(built.is_ok()),
                    name => {
                        assert!(built.unwrap_err().to_string().starts_with(&format!("{name}: expected ")));
                    }
                }
            },
        );
        if is_child() {
            return;
        }
    }
}

#[test]
fn environment_ca_variables_are_trusted() {
    let gateway = secure();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, gateway.ca_pem().unwrap()).unwrap();
    std::fs::write(folder.path().join("README"), "not a certificate").unwrap();
    let (file, folder_name) = (file.to_str().unwrap(), folder.path().to_str().unwrap());
    let url = gateway.base_url();
    for (variable, value) in [
        ("SSL_CERT_FILE", file),
        ("SSL_CERT_DIR", folder_name),
        ("NODE_EXTRA_CA_CERTS", file),
        ("REQUESTS_CA_BUNDLE", file),
        ("REQUESTS_CA_BUNDLE", folder_name),
    ] {
        in_child("environment_ca_variables_are_trusted", &[(variable, value), ("TEST_URL", &url)], || {
            let variables =
                [CaVariable::adding("NODE_EXTRA_CA_CERTS"), CaVariable::replacing("REQUESTS_CA_BUNDLE")];
            let client = || ActPass::builder().api_key(KEY).base_url(std::env::var("TEST_URL").unwrap());
            assert_eq!(ask(client().ca_variables(variables)).unwrap(), DecisionWord::Allow);
            // Variables of other languages are ignored.
            if std::env::var_os("SSL_CERT_FILE").is_none() && std::env::var_os("SSL_CERT_DIR").is_none() {
                assert_eq!(ask(client()).unwrap_err().kind(), ErrorKind::Connection);
            }
        });
        if is_child() {
            return;
        }
    }
}

#[test]
fn untrusted_certificate_error_names_trusted_authorities() {
    // A self-signed certificate, and one of another authority with the same name.
    let unknown = scripted(json!({"tls": "self_signed", "steps": []}));
    let renewed = secure();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("other.pem");
    std::fs::write(&file, secure().ca_pem().unwrap()).unwrap();
    for (gateway, problem, summary) in [
        (&unknown, "UnknownIssuer", "is not signed by a trusted authority"),
        (&renewed, "BadSignature", "does not verify with the expected key"),
    ] {
        let environment = [
            ("SSL_CERT_FILE", file.to_str().unwrap()),
            ("TEST_URL", &gateway.base_url()),
            ("TEST_PROBLEM", problem),
            ("TEST_SUMMARY", summary),
        ];
        in_child("untrusted_certificate_error_names_trusted_authorities", &environment, || {
            let expected = |name: &str| std::env::var(name).unwrap();
            let client = ActPass::builder()
                .api_key(KEY)
                .base_url(expected("TEST_URL"))
                .ca(secure().ca_pem().unwrap())
                .ca_variables([CaVariable::adding("NODE_EXTRA_CA_CERTS")])
                .max_retries(0);
            let (error, summary, _) = fails(client);
            let end = format!(
                "invalid peer certificate: {}; trusted authorities: 1 of SSL_CERT_FILE ({}), 1 of ca; to trust another, \
                 pass its certificate as ca or name its file in SSL_CERT_FILE or NODE_EXTRA_CA_CERTS",
                expected("TEST_PROBLEM"),
                expected("SSL_CERT_FILE"),
            );
            assert!(error.to_string().ends_with(&end), "{error}");
            assert!(summary.contains(&expected("TEST_SUMMARY")), "{summary}");
        });
        if is_child() {
            return;
        }
    }
}

/// A server that presents `chain` and allows every request, with this TLS version only.
fn tls_server(
    chain: &[&[u8]],
    key: &KeyPair,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> String {
    let chain = chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key);
    let config = Arc::new(config.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = url_of(&listener, "https://");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
            let head = read_head(&mut stream);
            if head.is_empty() {
                continue;
            }
            let body = r#"{"decision":"allow"}"#;
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    url
}

const BOTH: [&rustls::SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// A certificate like those of `openssl req -x509`: self-signed, with CA:TRUE.
fn like_openssl(names: &[&str]) -> CertificateParams {
    let mut params =
        CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, names[0]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn given(pem: &str, url: &str) -> Result<DecisionWord, Error> {
    ask(ActPass::builder().api_key(KEY).base_url(url).ca(pem).max_retries(0))
}

#[test]
fn given_certificate_is_trusted_as_server_certificate() {
    let key = KeyPair::generate().unwrap();
    let own = like_openssl(&["127.0.0.1", "localhost"]).self_signed(&key).unwrap();
    for version in BOTH {
        let url = tls_server(&[own.der()], &key, &[version]);
        assert_eq!(given(&own.pem(), &url).unwrap(), DecisionWord::Allow, "{version:?}");
        let named = url.replace("127.0.0.1", "localhost");
        assert_eq!(given(&own.pem(), &named).unwrap(), DecisionWord::Allow);
    }
    // The same certificate in a file.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("own.pem");
    std::fs::write(&file, own.pem()).unwrap();
    let url = tls_server(&[own.der()], &key, &BOTH);
    in_child(
        "given_certificate_is_trusted_as_server_certificate",
        &[("SSL_CERT_FILE", file.to_str().unwrap()), ("TEST_URL", &url)],
        || {},
    );
    if let Ok(url) = std::env::var("TEST_URL") {
        let client = ActPass::builder().api_key(KEY).base_url(url).max_retries(0);
        assert_eq!(ask(client).unwrap(), DecisionWord::Allow);
    }
}

#[test]
fn given_certificate_is_checked_for_name_and_validity() {
    let key = KeyPair::generate().unwrap();
    let problem = |pem: &str, url: &str, key: &str| {
        let error = given(pem, url).expect_err(key);
        assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
        error.to_string()
    };
    for version in BOTH {
        let server = |params: &CertificateParams| {
            let certificate = params.self_signed(&key).unwrap();
            let url = tls_server(&[certificate.der()], &key, &[version]);
            (certificate.pem(), url)
        };
        let (own, _) = server(&like_openssl(&["127.0.0.1"]));

        let (pem, url) = server(&like_openssl(&["example.test"]));
        assert!(problem(&pem, &url, "another name").contains("not valid for name"));

        let mut params = like_openssl(&["127.0.0.1"]);
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        let (pem, url) = server(&params);
        assert!(problem(&pem, &url, "expired").contains("expired"));

        params.not_before = rcgen::date_time_ymd(4001, 1, 1);
        params.not_after = rcgen::date_time_ymd(4002, 1, 1);
        let (pem, url) = server(&params);
        assert!(problem(&pem, &url, "not valid yet").contains("not valid yet"));

        // Another certificate with the same key, names and issuer.
        let mut params = like_openssl(&["127.0.0.1"]);
        params.not_after = rcgen::date_time_ymd(4000, 1, 1);
        let (_, url) = server(&params);
        let error = problem(&own, &url, "another certificate");
        assert!(error.contains("CaUsedAsEndEntity"), "{error}");

        // A CA certificate below the given one is not trusted as a server certificate either.
        let issuer =
            CertifiedIssuer::self_signed(like_openssl(&["root"]), KeyPair::generate().unwrap()).unwrap();
        let below = like_openssl(&["127.0.0.1"]).signed_by(&key, &issuer).unwrap();
        let url = tls_server(&[below.der(), issuer.der()], &key, &[version]);
        assert!(problem(&issuer.pem(), &url, "an authority below").contains("CaUsedAsEndEntity"));
        assert_eq!(given(&(issuer.pem() + &below.pem()), &url).unwrap(), DecisionWord::Allow, "given itself");
    }
}

#[test]
fn given_certificate_requires_its_private_key() {
    let key = KeyPair::generate().unwrap();
    let own = like_openssl(&["127.0.0.1"]).self_signed(&key).unwrap();
    for version in BOTH {
        // The right certificate, but another key signs the handshake.
        let provider = rustls::crypto::ring::default_provider();
        let other =
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(KeyPair::generate().unwrap().serialize_der()));
        let signer = provider.key_provider.load_private_key(other).unwrap();
        let shown = rustls::sign::CertifiedKey::new(vec![own.der().clone()], signer);
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = url_of(&listener, "https://");
        let config = Arc::new(config);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
                let mut byte = [0];
                assert!(stream.read(&mut byte).is_err(), "the handshake succeeded");
            }
        });
        let error = given(&own.pem(), &url).unwrap_err().to_string();
        assert!(error.contains("BadSignature"), "{version:?}: {error}");
    }
}

#[test]
fn chain_to_given_authority_is_verified() {
    let root = CertifiedIssuer::self_signed(like_openssl(&["root"]), KeyPair::generate().unwrap()).unwrap();
    let middle =
        CertifiedIssuer::signed_by(like_openssl(&["middle"]), KeyPair::generate().unwrap(), &root).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &middle).unwrap();
    for version in BOTH {
        let whole = tls_server(&[leaf.der(), middle.der()], &key, &[version]);
        assert_eq!(given(&root.pem(), &whole).unwrap(), DecisionWord::Allow);
        let cut = tls_server(&[leaf.der()], &key, &[version]);
        assert!(given(&root.pem(), &cut).unwrap_err().to_string().contains("UnknownIssuer"));
    }
}
