//! Connection-level behaviour.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{End, SHORT_TIMEOUT, address, connect, start};

#[test]
fn idle_connection_closes_after_response() {
    let gateway = start(json!({"idle_close_ms": 100}));
    let mut client = connect(&gateway);

    // Before the first request there is no idle timeout.
    std::thread::sleep(Duration::from_millis(200));
    client.get("/");
    client.answer();
    client.get("/");
    client.answer();
    let answered = Instant::now();
    assert_eq!(client.rest(), (Vec::new(), End::Fin));
    assert!(answered.elapsed() >= Duration::from_millis(90));
    assert_eq!(gateway.seen().len(), 2);
}

#[test]
fn zero_idle_timeout_closes_without_notice() {
    let gateway = start(json!({"idle_close_ms": 0}));
    let mut client = connect(&gateway);
    client.get("/");
    assert_eq!(client.answer().header("connection"), None);
    assert_eq!(client.rest(), (Vec::new(), End::Fin));
}

#[test]
fn connection_stays_open_without_idle_timeout() {
    let gateway = start(json!({}));
    let mut client = connect(&gateway);
    client.get("/");
    client.answer();
    client.read_timeout(SHORT_TIMEOUT);
    assert_eq!(client.rest(), (Vec::new(), End::NotYet));
}

#[test]
fn refused_port_is_reserved() {
    for (tls, scheme) in [("none", "http://"), ("trusted", "https://")] {
        let gateway = start(json!({"listen": "refused", "tls": tls}));
        let url = gateway.base_url();
        assert!(url.starts_with(scheme));
        for _ in 0..3 {
            let err = TcpStream::connect(address(&url)).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::ConnectionRefused);
        }
        let err = TcpListener::bind(address(&url)).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::AddrInUse);
        assert!(gateway.seen().is_empty());
        assert!(gateway.other_seen().is_empty());
    }
}

#[test]
fn unserved_connection_stays_silent() {
    let gateway = start(json!({"hang_accept": true}));
    let mut client = connect(&gateway);
    client.read_timeout(SHORT_TIMEOUT);
    client.get("/");
    assert_eq!(client.rest(), (Vec::new(), End::NotYet));
    assert!(gateway.seen().is_empty());

    let stopping = Instant::now();
    drop(gateway);
    assert!(stopping.elapsed() < Duration::from_secs(2));
    assert_eq!(client.rest().1, End::Rst);
}

#[test]
fn resets_connection_on_accept() {
    for tls in ["none", "trusted"] {
        let gateway = start(json!({"reset_accept": true, "tls": tls}));
        for _ in 0..3 {
            let mut client = connect(&gateway);
            assert_eq!(client.rest(), (Vec::new(), End::Rst));
        }
        assert!(gateway.seen().is_empty());
    }
}

#[test]
fn drop_closes_all_sockets() {
    let gateway = start(json!({"steps": [{"do": "respond"}, {"do": "redirect"}]}));
    let url = gateway.base_url();
    let mut idle = connect(&gateway);
    let mut used = connect(&gateway);
    used.get("/");
    used.answer();
    used.get("/");
    let location = used.answer().header("location").unwrap().to_owned();
    let other = location.split('/').nth(2).unwrap();

    let stopping = Instant::now();
    drop(gateway);
    assert!(stopping.elapsed() < Duration::from_secs(2));
    assert_eq!(used.rest(), (Vec::new(), End::Fin));
    assert_eq!(idle.rest(), (Vec::new(), End::Fin));
    for address in [address(&url), other] {
        let err = TcpStream::connect(address).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn drop_ends_unread_response() {
    let gateway = start(json!({"steps": [
        {"do": "respond", "body_repeat": {"text": "abc", "times": 1_000_000_000}},
    ]}));
    let mut client = connect(&gateway);
    client.get("/");
    client.head();
    let stopping = Instant::now();
    drop(gateway);
    assert!(stopping.elapsed() < Duration::from_secs(2));
}

#[test]
fn gateways_use_distinct_ports() {
    let (one, two) = (start(json!({})), start(json!({})));
    assert_ne!(one.base_url(), two.base_url());
    connect(&one).get("/");
    assert!(two.seen().is_empty());
}
