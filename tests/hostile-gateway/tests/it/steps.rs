//! Each step and its request.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{Client, End, SHORT_TIMEOUT, ask, connect, open, start};

#[test]
fn respond_keeps_the_connection_alive() {
    let gateway = start(json!({"steps": [
        {"do": "respond", "json": {"decision": "allow", "n": [1, null]}},
        {"do": "respond", "status": 403, "body": "no \u{20ac}", "headers": {"Content-Type": "text/plain", "x-a": "b"}},
        {"do": "respond", "body_base64": "AP8B"},
        {"do": "respond", "json": null},
        {"do": "respond"},
        {"do": "respond", "status": 204},
        {"do": "respond", "status": 799, "body": "last"},
    ]}));
    let mut client = connect(&gateway);
    let mut answer = || {
        client.get("/");
        client.answer()
    };

    let first = answer();
    assert_eq!(first.status, 200);
    assert_eq!(first.header("content-type"), Some("application/json"));
    assert_eq!(first.header("connection"), None);
    assert_eq!(first.text(), r#"{"decision":"allow","n":[1,null]}"#);

    let second = answer();
    assert_eq!(second.status, 403);
    assert_eq!(second.header("Content-Type"), Some("text/plain"));
    assert_eq!(second.header("content-type"), None);
    assert_eq!(second.header("x-a"), Some("b"));
    assert_eq!(second.header("content-length"), Some("6"));
    assert_eq!(second.text(), "no \u{20ac}");

    assert_eq!(answer().body, [0x00, 0xff, 0x01]);
    assert_eq!(answer().text(), "null");
    assert_eq!(answer().header("content-length"), Some("0"));
    let no_content = answer();
    assert_eq!((no_content.status, no_content.headers.len()), (204, 0));
    assert_eq!(answer().status, 799);
    assert!(gateway.seen().iter().all(|seen| seen.connection == 1));
}

#[test]
fn respond_uses_explicit_framing_headers() {
    let gateway = start(json!({"steps": [
        {"do": "respond", "body": "abc", "headers": {"Content-Length": "2"}, "close": true},
        {"do": "respond", "body": "1\r\nx\r\n0\r\n\r\n", "headers": {"transfer-encoding": "chunked"}, "close": true},
    ]}));

    let mut client = connect(&gateway);
    client.get("/");
    let head = client.head();
    assert_eq!(head.header("Content-Length"), Some("2"));
    assert_eq!(head.header("content-length"), None);
    assert_eq!(head.header("connection"), Some("close"));
    assert_eq!(client.rest(), (b"abc".to_vec(), End::Fin));

    let mut client = connect(&gateway);
    client.get("/");
    assert_eq!(client.head().header("content-length"), None);
    assert_eq!(client.rest(), (b"1\r\nx\r\n0\r\n\r\n".to_vec(), End::Fin));
}

#[test]
fn respond_repeats_a_body() {
    let gateway = start(json!({"steps": [
        {"do": "respond", "body_repeat": {"text": "abc", "times": 1_000_000}},
        {"do": "respond", "body_repeat": {"text": "x".repeat(20_000), "times": 3}},
        {"do": "respond", "body_repeat": {"text": "abc", "times": 0}},
        {"do": "respond", "body_repeat": {"text": "", "times": 1_000_000_000_000_u64}},
        {"do": "respond", "body_repeat": {"text": "abc", "times": 1_000_000_000_000_u64}},
    ]}));
    let mut client = connect(&gateway);

    client.get("/");
    assert_eq!(client.answer().body, b"abc".repeat(1_000_000));
    client.get("/");
    assert_eq!(client.answer().body, b"x".repeat(60_000));
    client.get("/");
    assert_eq!(client.answer().text(), "");
    client.get("/");
    assert_eq!(client.answer().text(), "");
    client.get("/");
    let head = client.head();
    assert_eq!(head.header("content-length"), Some("3000000000000"));
}

#[test]
fn respond_sends_no_body_to_head() {
    let gateway = start(json!({"steps": [{"do": "respond", "body": "abc", "close": true}]}));
    let mut client = connect(&gateway);
    client.send(b"HEAD / HTTP/1.1\r\n\r\n");
    assert_eq!(client.head().header("content-length"), Some("3"));
    assert_eq!(client.rest(), (Vec::new(), End::Fin));
}

#[test]
fn raw_is_written_verbatim() {
    let gateway = start(json!({"steps": [
        {"do": "raw", "text": "SSH-2.0-x\n"},
        {"do": "raw", "base64": "/wAK"},
    ]}));
    for expected in [b"SSH-2.0-x\n".as_slice(), b"\xff\0\n"] {
        let mut client = connect(&gateway);
        client.get("/");
        assert_eq!(client.rest(), (expected.to_vec(), End::Fin));
    }
}

#[test]
fn raw_can_leave_the_connection_open() {
    let gateway = start(json!({"steps": [
        {"do": "raw", "text": "junk", "keep_alive": true},
        {"do": "respond", "body": "second"},
    ]}));
    let mut client = connect(&gateway);
    client.get("/");
    client.get("/");
    let (all, _) = client.rest();
    let all = String::from_utf8(all).unwrap();
    assert!(all.starts_with("junkHTTP/1.1 200") && all.ends_with("second"), "{all}");
    assert_eq!(gateway.seen()[1].connection, 1);
}

#[test]
fn headers_and_bodies_are_repeated() {
    let gateway = start(json!({"steps": [{
        "do": "respond",
        "header_repeat": {"name": "x-pad", "text": "ab", "times": 3, "lines": 2},
        "body_repeat": {"first_base64": "PA==", "base64": "Pj4=", "times": 4},
    }]}));
    let answer = ask(&gateway, "/");
    let pads = answer.headers.iter().filter(|(name, value)| name == "x-pad" && value == "ababab");
    assert_eq!(pads.count(), 2);
    assert_eq!(answer.text(), "<>>>>>>>>");
    assert_eq!(answer.header("content-length"), Some("9"));
}

#[test]
fn hang_stops_at_the_given_point() {
    for (at, expected) in [
        ("request", ""),
        ("headers", "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-le"),
        (
            "body",
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 79\r\n\r\n{\"decision\":\"allow\",",
        ),
    ] {
        let gateway = start(json!({"steps": [{"do": "hang", "at": at}]}));
        let mut client = connect(&gateway);
        client.read_timeout(SHORT_TIMEOUT);
        client.get("/");
        let (sent, end) = client.rest();
        assert_eq!(String::from_utf8(sent).unwrap(), expected);
        assert_eq!(end, End::NotYet, "{at}");
        assert_eq!(gateway.seen().len(), 1);

        let stopping = Instant::now();
        drop(gateway);
        assert!(stopping.elapsed() < PROMPT);
        assert_eq!(client.rest(), (Vec::new(), End::Fin));
    }
}

#[test]
fn trickle_sends_single_bytes() {
    let gateway = start(json!({"steps": [
        {"do": "trickle", "status": 202, "body": "abcd", "interval_ms": 50},
        {"do": "respond", "body": "next"},
    ]}));
    let mut client = connect(&gateway);
    client.get("/");
    let started = Instant::now();
    let answer = client.answer();
    assert_eq!(answer.status, 202);
    assert_eq!(answer.text(), "abcd");
    assert!(started.elapsed() >= Duration::from_millis(150));

    client.get("/");
    assert_eq!(client.answer().text(), "next");
}

#[test]
fn trickle_defaults_to_one_second_and_stops_with_the_gateway() {
    let gateway = start(json!({"steps": [{"do": "trickle", "body": "abcd"}]}));
    let mut client = connect(&gateway);
    client.read_timeout(SHORT_TIMEOUT);
    client.get("/");
    assert_eq!(client.head().header("content-length"), Some("4"));
    assert_eq!(client.rest(), (b"a".to_vec(), End::NotYet));

    let stopping = Instant::now();
    drop(gateway);
    assert!(stopping.elapsed() < PROMPT);
}

#[test]
fn reset_closes_with_rst() {
    let gateway = start(json!({"steps": [
        {"do": "reset", "at": "request"},
        {"do": "reset", "at": "body"},
    ]}));

    let mut client = connect(&gateway);
    client.get("/");
    assert_eq!(client.rest(), (Vec::new(), End::Rst));

    let mut client = connect(&gateway);
    client.get("/");
    assert_eq!(client.head().header("content-length"), Some("79"));
    let (half, end) = client.rest();
    assert_eq!(half, b"{\"decision\":\"allow\",");
    assert_eq!(end, End::Rst);
}

#[test]
fn truncate_closes_gracefully_too_early() {
    let gateway = start(json!({"steps": [
        {"do": "truncate", "status": 201, "body": "{\"a\":1}", "missing": 3},
        {"do": "truncate", "missing": 1},
    ]}));

    // A large body, because unread data would turn the FIN into an RST.
    let body = "x".repeat(1024 * 1024);
    let mut client = connect(&gateway);
    client.send(format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes());
    let head = client.head();
    assert_eq!(head.status, 201);
    assert_eq!(head.header("content-length"), Some("10"));
    assert_eq!(client.rest(), (b"{\"a\":1}".to_vec(), End::Fin));
    assert_eq!(gateway.seen()[0].body, body);

    let mut client = connect(&gateway);
    client.get("/");
    assert_eq!(client.head().header("content-length"), Some("1"));
    assert_eq!(client.rest(), (Vec::new(), End::Fin));
}

#[test]
fn redirect_targets_a_recording_host() {
    let gateway = start(json!({"steps": [
        {"do": "redirect"},
        {"do": "redirect", "status": 307},
    ]}));
    let answer = ask(&gateway, "/api/v1/actions/preflight");
    assert_eq!(answer.status, 302);
    assert!(answer.body.is_empty());
    let location = answer.header("location").unwrap();
    let address =
        location.strip_prefix("http://").and_then(|l| l.strip_suffix("/api/v1/actions/preflight")).unwrap();
    assert_ne!(format!("http://{address}"), gateway.base_url());
    assert!(gateway.other_seen().is_empty());

    let mut client = Client::new(open(address));
    for path in ["/api/v1/actions/preflight", "/anything"] {
        client.send(format!("POST {path} HTTP/1.1\r\nAuthorization: Bearer k\r\n\r\n").as_bytes());
        let answer = client.answer();
        assert_eq!(answer.status, 200);
        assert_eq!(
            answer.text(),
            r#"{"decision":"allow","reason_code":"other.host","evidence_event_id":"ev_other"}"#
        );
    }
    let other = gateway.other_seen();
    assert_eq!(other.len(), 2);
    assert_eq!(other[0].headers, [("authorization".to_owned(), "Bearer k".to_owned())]);
    assert_eq!(gateway.seen().len(), 1);

    assert_eq!(ask(&gateway, "/").status, 307);
}

#[test]
fn redirect_targets_respond_as_the_script_requires() {
    let gateway = start(json!({"steps": [{"do": "redirect", "other_body": "{\"allowed\":true}"}]}));
    let answer = ask(&gateway, "/");
    let location = answer.header("location").unwrap();
    let address = location.strip_prefix("http://").unwrap().split('/').next().unwrap();
    let mut client = Client::new(open(address));
    client.get("/");
    assert_eq!(client.answer().text(), r#"{"allowed":true}"#);
}

#[test]
fn steps_honor_delay() {
    for step in [
        json!({"do": "respond", "close": true}),
        json!({"do": "raw", "text": "x"}),
        json!({"do": "hang", "at": "headers"}),
        json!({"do": "trickle", "body": "x"}),
        json!({"do": "reset", "at": "request"}),
        json!({"do": "truncate", "missing": 1}),
        json!({"do": "redirect"}),
    ] {
        let mut step = step;
        step["delay_ms"] = json!(100);
        let gateway = start(json!({"steps": [step]}));
        let mut client = connect(&gateway);
        let started = Instant::now();
        client.get("/");
        // Data or the end of the connection.
        let _ = std::io::BufRead::fill_buf(&mut client.stream);
        assert!(started.elapsed() >= Duration::from_millis(100), "{step}");
    }
}

#[test]
fn delay_ends_with_the_gateway() {
    let gateway = start(json!({"steps": [{"do": "respond", "delay_ms": 3_600_000}]}));
    let mut client = connect(&gateway);
    client.get("/");
    while gateway.seen().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let stopping = Instant::now();
    drop(gateway);
    assert!(stopping.elapsed() < PROMPT);
    assert_eq!(client.rest(), (Vec::new(), End::Fin));
}

#[test]
fn steps_are_shared_by_connections_and_last_repeats() {
    let gateway = start(json!({"steps": [
        {"do": "respond", "body": "1"},
        {"do": "respond", "body": "2"},
        {"do": "respond", "body": "3"},
    ]}));
    let mut clients = [connect(&gateway), connect(&gateway)];
    for (n, path, expected) in
        [(0, "/a", "1"), (1, "/b", "2"), (0, "/c", "3"), (1, "/d", "3"), (0, "/e", "3")]
    {
        clients[n].get(path);
        assert_eq!(clients[n].answer().text(), expected);
    }
    let seen: Vec<_> = gateway.seen().into_iter().map(|seen| (seen.connection, seen.path)).collect();
    let expected = [(1, "/a"), (2, "/b"), (1, "/c"), (2, "/d"), (1, "/e")];
    assert_eq!(seen, expected.map(|(n, path)| (n, path.to_owned())));
}

#[test]
fn concurrent_requests_consume_each_step_once() {
    let steps: Vec<_> = (0..32).map(|n| json!({"do": "respond", "body": n.to_string()})).collect();
    let gateway = start(json!({"steps": steps}));
    let mut played: Vec<u32> = std::thread::scope(|scope| {
        let asking: Vec<_> =
            (0..32).map(|_| scope.spawn(|| ask(&gateway, "/").text().parse().unwrap())).collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    played.sort_unstable();
    assert_eq!(played, (0..32).collect::<Vec<_>>());
    assert_eq!(gateway.seen().len(), 32);
}

#[test]
fn defaults_to_200_without_steps() {
    let gateway = start(json!({}));
    assert_eq!(ask(&gateway, "/").status, 200);
    assert_eq!(ask(&gateway, "/").status, 200);
}

const PROMPT: Duration = Duration::from_secs(2);
