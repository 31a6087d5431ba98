//! Recorded requests, valid and invalid.

use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use actpass_hostile_gateway::{HostileGateway, Seen};
use serde_json::json;

use crate::client::{End, connect, start};

#[test]
fn records_requests_verbatim() {
    let gateway = start(json!({}));
    let mut client = connect(&gateway);
    client.send(
        b"POST /a/b?c=%20d HTTP/1.1\r\nHost: h\r\nX-B: 2\r\nX-a:  1 \r\nX-B: \xff\r\nContent-Length: 4\r\n\r\n\xe2\x82\xac\xff",
    );
    client.answer();
    let pairs = [("host", "h"), ("x-b", "2"), ("x-a", "1"), ("x-b", "\u{fffd}"), ("content-length", "4")];
    let expected = Seen {
        connection: 1,
        method: "POST".into(),
        path: "/a/b?c=%20d".into(),
        headers: pairs.map(|(n, v)| (n.into(), v.into())).to_vec(),
        body: "\u{20ac}\u{fffd}".into(),
    };
    assert_eq!(gateway.seen(), [expected]);
    assert_eq!(serde_json::to_value(gateway.seen()).unwrap()[0]["headers"][0], json!(["host", "h"]));
}

#[test]
fn reassembles_chunked_bodies() {
    let gateway = start(json!({}));
    let mut client = connect(&gateway);
    let request = b"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n4;ext=1\r\nab\r\n\r\n1\r\nc\r\n0\r\nTrailer: t\r\n\r\n";
    for byte in request {
        client.send(&[*byte]);
    }
    client.answer();
    client.send(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n");
    client.answer();
    let size = 100_000;
    let mut large = format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{size:x}\r\n").into_bytes();
    large.extend(vec![b'x'; size]);
    large.extend(b"\r\n0\r\n\r\n");
    client.send(&large);
    client.answer();
    client.get("/after");
    client.answer();

    let seen = gateway.seen();
    assert_eq!(seen[0].body, "ab\r\nc");
    assert_eq!(seen[1].body, "");
    assert_eq!(seen[2].body, "x".repeat(size));
    assert_eq!(seen[3].path, "/after");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let gateway = start(json!({"idle_close_ms": 100}));
    let mut client = connect(&gateway);
    client.send(b"POST /1 HTTP/1.1\r\ncontent-length: 2\r\n\r\nabGET /2 HTTP/1.1\r\n\r\n");
    client.answer();
    client.answer();
    let seen = gateway.seen();
    assert_eq!((seen[0].path.as_str(), seen[0].body.as_str()), ("/1", "ab"));
    assert_eq!((seen[1].path.as_str(), seen[1].body.as_str()), ("/2", ""));
}

#[test]
fn honors_connection_close() {
    let gateway = start(json!({}));
    let mut client = connect(&gateway);
    client.send(b"GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n");
    client.answer();
    assert_eq!(client.rest(), (Vec::new(), End::Fin));
}

#[test]
fn records_invalid_requests_without_consuming_a_step() {
    for bytes in [
        b"\x16\x03\x01\x02\x00\x01\x00".as_slice(),
        b"hello\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: +1\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: \r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 4194305\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n400001\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nz\r\n",
    ] {
        let gateway = start(json!({"steps": [
            {"do": "respond", "body": "first"},
            {"do": "respond", "body": "second"},
        ]}));
        let mut client = connect(&gateway);
        client.send(bytes);
        assert_eq!(client.rest(), (Vec::new(), End::Fin));
        assert_unreadable(&gateway, bytes);

        let mut client = connect(&gateway);
        client.get("/");
        assert_eq!(client.answer().text(), "first");
        assert_eq!(gateway.seen().len(), 2);
    }
}

#[test]
fn rejects_heads_over_64_kib() {
    let gateway = start(json!({}));
    let mut client = connect(&gateway);
    let fits = "x".repeat(60 * 1024);
    client.send(format!("GET / HTTP/1.1\r\nx: {fits}\r\n\r\n").as_bytes());
    client.answer();

    let mut client = connect(&gateway);
    let too_long = "x".repeat(64 * 1024);
    client.send(format!("GET / HTTP/1.1\r\nx: {too_long}\r\n\r\n").as_bytes());
    assert!(client.rest().0.is_empty());
    let methods: Vec<_> = gateway.seen().into_iter().map(|seen| seen.method).collect();
    assert_eq!(methods, ["GET", "?"]);
}

#[test]
fn rejects_truncated_requests() {
    for bytes in [
        b"GET / HTTP/1.1\r\nhost".as_slice(),
        b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcd",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: y\r\n",
    ] {
        let gateway = start(json!({}));
        let mut client = connect(&gateway);
        client.send(bytes);
        client.stream.get_ref().shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.rest(), (Vec::new(), End::Fin));
        assert_unreadable(&gateway, bytes);
    }
}

#[test]
fn connection_without_request_is_not_recorded() {
    let gateway = start(json!({}));
    drop(connect(&gateway));
    let mut client = connect(&gateway);
    client.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest(), (Vec::new(), End::Fin));
    thread::sleep(Duration::from_millis(50));
    assert!(gateway.seen().is_empty());
}

fn assert_unreadable(gateway: &HostileGateway, bytes: &[u8]) {
    let expected = Seen {
        connection: 1,
        method: "?".into(),
        path: String::new(),
        headers: Vec::new(),
        body: String::from_utf8_lossy(bytes).into_owned(),
    };
    assert_eq!(gateway.seen(), [expected]);
}
