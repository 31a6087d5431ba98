//! What happens beneath HTTP.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{End, SOON, address, connect, start};

#[test]
fn an_idle_connection_is_closed_after_an_answer() {
    let gateway = start(json!({"idle_close_ms": 100}));
    let mut client = connect(&gateway);

    // Before the first request there is no answer to be idle after.
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
fn an_idle_time_of_zero_closes_unannounced() {
    let gateway = start(json!({"idle_close_ms": 0}));
    let mut client = connect(&gateway);
    client.get("/");
    assert_eq!(client.answer().header("connection"), None);
    assert_eq!(client.rest(), (Vec::new(), End::Fin));
}

#[test]
fn without_an_idle_time_a_connection_stays() {
    let gateway = start(json!({}));
    let mut client = connect(&gateway);
    client.get("/");
    client.answer();
    client.patience(SOON);
    assert_eq!(client.rest(), (Vec::new(), End::NotYet));
}

#[test]
fn a_refused_port_is_refused_and_nobody_elses() {
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
fn an_unserved_connection_is_open_and_silent() {
    let gateway = start(json!({"hang_accept": true}));
    let mut client = connect(&gateway);
    client.patience(SOON);
    client.get("/");
    assert_eq!(client.rest(), (Vec::new(), End::NotYet));
    assert!(gateway.seen().is_empty());

    let stopping = Instant::now();
    drop(gateway);
    assert!(stopping.elapsed() < Duration::from_secs(2));
    assert_eq!(client.rest().1, End::Rst);
}

#[test]
fn a_connection_can_be_reset_at_once() {
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
fn dropping_the_gateway_closes_what_it_opened() {
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
fn dropping_the_gateway_ends_an_answer_nobody_reads() {
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
fn gateways_have_ports_of_their_own() {
    let (one, two) = (start(json!({})), start(json!({})));
    assert_ne!(one.base_url(), two.base_url());
    connect(&one).get("/");
    assert!(two.seen().is_empty());
}
