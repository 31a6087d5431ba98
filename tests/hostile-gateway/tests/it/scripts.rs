//! Errors of invalid scripts name the member.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use actpass_hostile_gateway::{Body, HostileGateway, Respond, Script, Step};
use serde_json::{Value, json};

use crate::client::ask;

#[test]
fn script_errors_name_the_member() {
    for (script, message) in [
        (json!({"stepz": []}), "stepz: unknown field `stepz`"),
        (json!({"tls": "bad"}), "tls: unknown variant `bad`"),
        (json!({"listen": "closed"}), "listen: unknown variant `closed`"),
        (json!({"idle_close_ms": "1"}), "idle_close_ms: invalid type: string"),
        (json!({"steps": {}}), "steps: invalid type: map"),
        (json!(5), "invalid type: integer"),
        (json!({"plain_on_https": true, "tls": "trusted"}), "plain_on_https: cannot go with `tls`"),
        (json!({"hang_accept": true, "reset_accept": true}), "reset_accept: cannot go with"),
        (json!({"tls_on_http": true}), "tls_on_http: needs `tls`"),
        (json!({"http2": true}), "http2: needs `tls`"),
        (json!({"http2": true, "tls": "old_protocol"}), "http2: needs `tls`"),
        (json!({"hang_accept": true, "listen": "refused"}), "listen: `refused` cannot go with"),
    ] {
        assert_refused(script, message);
    }
}

#[test]
fn step_errors_name_the_member() {
    let wrong = [
        (json!({}), "steps[1]: missing field `do`"),
        (json!({"do": 1}), "steps[1]: do: must be a string"),
        (json!({"do": "x"}), "steps[1]: do: unknown step `x`, expected one of"),
        (json!({"do": "respond", "bdy": ""}), "steps[1]: bdy: unknown field `bdy`"),
        (json!({"do": "respond", "status": "200"}), "steps[1]: status: invalid type"),
        (json!({"do": "respond", "status": 99}), "steps[1].status: 99"),
        (json!({"do": "respond", "status": 1000}), "steps[1].status: 1000"),
        (json!({"do": "respond", "body": "", "json": null}), "steps[1]: body: only one of"),
        (json!({"do": "respond", "body_base64": "*"}), "steps[1]: body_base64: "),
        (json!({"do": "respond", "body_repeat": {"text": ""}}), "body_repeat: missing field `times`"),
        (
            json!({"do": "respond", "body_repeat": {"text": "ab", "times": u64::MAX}}),
            "steps[1].body_repeat: ",
        ),
        (json!({"do": "respond", "headers": {"x": 1}}), "steps[1]: headers.x: invalid type"),
        (json!({"do": "respond", "headers": {"x": "a\r\nb: c"}}), "steps[1].headers: \"x\""),
        (json!({"do": "respond", "headers": {"x y": "a"}}), "steps[1].headers: \"x y\""),
        (json!({"do": "respond", "headers": {"": "a"}}), "steps[1].headers: \"\""),
        (json!({"do": "respond", "delay_ms": -1}), "steps[1]: delay_ms: invalid value"),
        (json!({"do": "raw"}), "steps[1]: text: exactly one of"),
        (json!({"do": "raw", "text": "", "base64": ""}), "steps[1]: text: exactly one of"),
        (json!({"do": "raw", "base64": "*"}), "steps[1]: base64: "),
        (json!({"do": "raw", "text": "", "close": true}), "steps[1]: close: unknown field"),
        (json!({"do": "hang"}), "steps[1]: missing field `at`"),
        (json!({"do": "hang", "at": "x"}), "steps[1]: at: unknown variant `x`"),
        (json!({"do": "trickle"}), "steps[1]: missing field `body`"),
        (json!({"do": "trickle", "body": "", "status": 0}), "steps[1].status: 0"),
        (json!({"do": "reset", "at": "headers"}), "steps[1]: at: unknown variant `headers`"),
        (json!({"do": "truncate"}), "steps[1]: missing field `missing`"),
        (json!({"do": "truncate", "missing": 0}), "steps[1].missing: must be at least 1"),
        (json!({"do": "redirect", "location": "x"}), "steps[1]: location: unknown field"),
        (json!({"do": "respond", "body_repeat": {"times": 1}}), "steps[1]: body_repeat: exactly one of"),
        (json!({"do": "respond", "body_repeat": {"base64": "*", "times": 1}}), "body_repeat.base64: "),
        (json!({"do": "respond", "header_repeat": {"name": "x y", "text": ""}}), "steps[1].headers: \"x y\""),
        (json!({"do": "goaway", "at": "request"}), "steps[1].do: `goaway` needs `http2`"),
        (json!({"do": "rst_stream", "at": "body", "code": 2}), "steps[1].do: `rst_stream` needs `http2`"),
        (json!({"do": "rst_stream", "at": "body"}), "steps[1]: missing field `code`"),
    ];
    for (step, message) in wrong {
        assert_refused(json!({"steps": [{"do": "respond"}, step]}), message);
    }
}

#[test]
fn rejects_steps_unavailable_in_http2() {
    for (step, message) in [
        (json!({"do": "raw", "text": ""}), "steps[0].do: `raw` cannot go with `http2`"),
        (json!({"do": "hang", "at": "headers"}), "steps[0].at: `headers` cannot go with `http2`"),
        (json!({"do": "respond", "status": 103}), "steps[0].status: below 200"),
        (json!({"do": "respond", "close": true}), "steps[0].close: cannot go with `http2`"),
    ] {
        assert_refused(json!({"tls": "trusted", "http2": true, "steps": [step]}), message);
    }
}

#[test]
fn builds_script_without_json() {
    let step = Respond {
        status: 418,
        headers: BTreeMap::from([("x-tea".into(), "green".into())]),
        body: Body::Text("pot".into()),
        ..Respond::default()
    };
    let script = Script { steps: vec![Step::Respond(step)], ..Script::default() };
    let gateway = HostileGateway::start(script).unwrap();
    let answer = ask(&gateway, "/");
    assert_eq!(answer.status, 418);
    assert_eq!(answer.header("x-tea"), Some("green"));
    assert_eq!(answer.text(), "pot");
}

#[test]
fn readme_lists_every_member_and_step() {
    let readme = include_str!("../../README.md");
    for name in [
        "listen",
        "tls",
        "plain_on_https",
        "tls_on_http",
        "http2",
        "header_repeat",
        "goaway",
        "rst_stream",
        "hang_accept",
        "reset_accept",
        "idle_close_ms",
        "steps",
        "respond",
        "raw",
        "hang",
        "trickle",
        "reset",
        "truncate",
        "redirect",
        "delay_ms",
        "status",
        "headers",
        "body",
        "json",
        "body_base64",
        "body_repeat",
        "close",
        "text",
        "base64",
        "at",
        "interval_ms",
        "missing",
    ] {
        assert!(readme.contains(&format!("`{name}`")), "{name}");
    }
}

fn assert_refused(script: Value, message: &str) {
    let shown = script.to_string();
    let error = Script::from_json(script).and_then(HostileGateway::start).expect_err(&shown);
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{shown}");
    let found = error.to_string();
    assert!(found.contains(message), "{shown}: {found}");
}
