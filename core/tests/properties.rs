//! Property tests: for arbitrary inputs, the guard matches a model of its contract. The model
//! follows `docs/guard-contract.md` and shares no code with the guard. Also round trips of all
//! serialized types.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::string_slice,
    missing_docs,
    reason = "tests"
)]

mod common;

use std::fmt::Write as _;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use actpass_core::json::Number;
use actpass_core::transport::{BodyError, Request, Response, SendFuture, Transport, TransportError};
use actpass_core::{
    ActPass, Action, Decision, DecisionWord, Error, ErrorKind, Json, Mode, Outcome, PendingApproval,
    canonical_json, sha256_hex,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;

/// An independent model of the contract.
mod model {
    use super::*;

    /// Whether the action runs, given the gateway's behaviour in each attempt.
    pub(super) fn runs(mode: Mode, max_retries: u32, attempts: &[Attempt], request: &str) -> bool {
        if mode == Mode::Monitor {
            return true;
        }
        // Whether the gateway may have processed an attempt without a response.
        let mut lost = false;
        for (n, attempt) in attempts.iter().enumerate() {
            let last = n as u32 == max_retries;
            let again = match attempt {
                Attempt::Answers { status: 429 | 502 | 503 | 504, retry_after, .. } => {
                    *retry_after != Some("3600")
                }
                Attempt::Fails => true,
                Attempt::Answers { .. } | Attempt::Hangs | Attempt::Panics => false,
            };
            if again && !last {
                lost |= match attempt {
                    Attempt::Answers { status: 429, .. }
                    | Attempt::Answers { status: 503, retry_after: Some(_), .. } => false,
                    Attempt::Answers { .. } | Attempt::Fails | Attempt::Hangs | Attempt::Panics => true,
                };
                continue;
            }
            return match attempt {
                Attempt::Answers { status: 200..=299, body: Ok(body), .. } => {
                    allows(mode, body, request, lost)
                }
                Attempt::Answers { .. } | Attempt::Fails | Attempt::Hangs | Attempt::Panics => false,
            };
        }
        panic!("there are as many attempts as a call can make")
    }

    /// Whether a 2xx response with this body permits the action. No call takes as long as the
    /// longest age.
    fn allows(mode: Mode, body: &[u8], request: &str, lost: bool) -> bool {
        let Some(Value::Object(decision)) = read(body) else { return false };
        let text = |name: &str| decision.get(name).and_then(Value::as_str);
        let null_or = |name: &str, valid: &dyn Fn(&Value) -> bool| match decision.get(name) {
            None | Some(Value::Null) => true,
            Some(value) => valid(value),
        };
        let request_hash = sha256_hex(&canonical(&read(request.as_bytes()).unwrap()));
        if !null_or("request_hash", &|hash| *hash == Value::String(request_hash.clone()))
            || !null_or("credential", &|credential| credential.get("token").is_some_and(Value::is_string))
            || !null_or("replayed", &Value::is_boolean)
            || !null_or("replay_age_ms", &Value::is_u64)
        {
            return false;
        }
        let is_old = decision.get("replay_age_ms").and_then(Value::as_u64).is_some_and(|age| age > 0);
        if decision.get("replayed") == Some(&Value::Bool(true)) && (!lost || is_old) {
            return false;
        }
        let recorded = text("evidence_event_id").is_some_and(|id| !id.is_empty());
        match (mode, text("decision")) {
            (Mode::Strict, word) => word == Some("allow") && recorded && text("request_hash").is_some(),
            (Mode::Warn, Some("warn")) => true,
            (_, word) => word == Some("allow"),
        }
    }

    /// Parses strict JSON: UTF-8, unique keys, numbers in the range of a double, at most 128
    /// levels.
    pub(super) fn read(text: &[u8]) -> Option<Value> {
        assert_ne!(depth(text), 128, "serde_json cannot tell 128 levels from 129; vectors can");
        if depth(text) > 128 {
            return None;
        }
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let value = serde::de::DeserializeSeed::deserialize(Strict, &mut deserializer).ok()?;
        deserializer.end().ok().map(|()| value)
    }

    /// The maximum nesting depth of brackets outside strings.
    fn depth(text: &[u8]) -> usize {
        let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
        for byte in text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                b'[' | b'{' if !in_string => depth += 1,
                b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
                _ => {}
            }
            deepest = deepest.max(depth);
        }
        deepest
    }

    /// Builds a value and rejects duplicate keys at any depth.
    struct Strict;

    impl<'de> serde::de::DeserializeSeed<'de> for Strict {
        type Value = Value;

        fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
            deserializer.deserialize_any(self)
        }
    }

    impl<'de> serde::de::Visitor<'de> for Strict {
        type Value = Value;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("JSON")
        }

        fn visit_unit<E>(self) -> Result<Value, E> {
            Ok(Value::Null)
        }

        fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_str<E>(self, value: &str) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element_seed(Strict)? {
                list.push(item);
            }
            Ok(Value::Array(list))
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
            let mut object = serde_json::Map::new();
            while let Some(key) = members.next_key::<String>()? {
                if object.insert(key, members.next_value_seed(Strict)?).is_some() {
                    return Err(serde::de::Error::custom("a key is given twice"));
                }
            }
            Ok(Value::Object(object))
        }
    }

    /// RFC 8785 from its text: members in UTF-16 order, ECMAScript numbers, minimal escapes.
    pub(super) fn canonical(value: &Value) -> Vec<u8> {
        let mut out = String::new();
        write(value, &mut out);
        out.into_bytes()
    }

    fn write(value: &Value, out: &mut String) {
        match value {
            Value::Null => out.push_str("null"),
            Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::Number(number) => out.push_str(&ecmascript(number.as_f64().unwrap())),
            Value::String(text) => quote(text, out),
            Value::Array(items) => {
                out.push('[');
                for (n, item) in items.iter().enumerate() {
                    out.push_str(if n > 0 { "," } else { "" });
                    write(item, out);
                }
                out.push(']');
            }
            Value::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                members.sort_by_key(|(key, _)| key.encode_utf16().collect::<Vec<_>>());
                out.push('{');
                for (n, (key, value)) in members.into_iter().enumerate() {
                    out.push_str(if n > 0 { "," } else { "" });
                    quote(key, out);
                    out.push(':');
                    write(value, out);
                }
                out.push('}');
            }
        }
    }

    fn quote(text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\u{8}' => out.push_str("\\b"),
                '\t' => out.push_str("\\t"),
                '\n' => out.push_str("\\n"),
                '\u{c}' => out.push_str("\\f"),
                '\r' => out.push_str("\\r"),
                '\0'..='\u{1f}' => write!(out, "\\u{:04x}", u32::from(c)).unwrap(),
                _ => out.push(c),
            }
        }
        out.push('"');
    }

    /// ECMA-262, `Number::toString`: the fewest digits that round-trip, of those the nearest, of
    /// those the even.
    pub(super) fn ecmascript(value: f64) -> String {
        if value == 0.0 {
            return "0".to_owned();
        }
        let shortest = format!("{:e}", value.abs());
        let fraction = shortest.bytes().take_while(|byte| *byte != b'e').count().saturating_sub(2);
        let nearest = format!("{:.fraction$e}", value.abs());
        let scientific = if nearest.parse() == Ok(value.abs()) { nearest } else { shortest };
        let (digits, exponent) = scientific.split_once('e').unwrap();
        let digits = digits.replace('.', "");
        // The value is 0.DIGITS × 10^point.
        let (count, point) = (digits.len() as i32, exponent.parse::<i32>().unwrap() + 1);
        let zeros = |n: i32| "0".repeat(n as usize);
        let text = match point {
            _ if count <= point && point <= 21 => format!("{digits}{}", zeros(point - count)),
            1..=21 => format!("{}.{}", &digits[..point as usize], &digits[point as usize..]),
            -5..=0 => format!("0.{}{digits}", zeros(-point)),
            _ => {
                let fraction = if count > 1 { format!(".{}", &digits[1..]) } else { String::new() };
                format!("{}{fraction}e{:+}", &digits[..1], point - 1)
            }
        };
        format!("{}{text}", if value < 0.0 { "-" } else { "" })
    }
}

/// The gateway's behaviour in one attempt, after a delay.
#[derive(Clone, Debug)]
enum Attempt {
    Answers {
        status: u16,
        retry_after: Option<&'static str>,
        body: Result<Vec<u8>, BodyError>,
        delay_ms: u64,
    },
    Fails,
    Hangs,
    Panics,
}

/// Runs its attempts in order.
#[derive(Debug)]
struct Played {
    attempts: Vec<Attempt>,
    next: AtomicUsize,
    request: Mutex<String>,
}

impl Transport for &'static Played {
    fn send(&self, request: Request) -> SendFuture<'_> {
        let body = String::from_utf8(request.body.to_vec()).unwrap();
        *self.request.lock().unwrap() = body.clone();
        let attempt = self.attempts[self.next.fetch_add(1, Ordering::SeqCst)].clone();
        Box::pin(async move {
            match attempt {
                Attempt::Answers { status, retry_after, body: answered, delay_ms } => {
                    tokio::time::sleep(Duration::from_millis(delay_ms)).await;
                    let retry_after = retry_after.map(str::to_owned);
                    let body = answered.map(|answered| about(answered, &body));
                    Ok(Response { body, retry_after, ..Response::new(status, "") })
                }
                Attempt::Fails => {
                    let error = Error::new(ErrorKind::Connection, "reset");
                    Err(TransportError { error, is_pre_send: false })
                }
                Attempt::Hangs => std::future::pending().await,
                Attempt::Panics => panic!("a transport that panics"),
            }
        })
    }
}

/// `answer` with the hash of the request.
fn about(answer: Vec<u8>, request: &str) -> Vec<u8> {
    let Ok(text) = str::from_utf8(&answer) else { return answer };
    if !text.contains("{{request_hash}}") {
        return answer;
    }
    let hash = sha256_hex(&model::canonical(&model::read(request.as_bytes()).unwrap()));
    text.replace("{{request_hash}}", &hash).into_bytes()
}

/// A guard call and its environment.
#[derive(Clone, Debug)]
struct Call {
    mode: Mode,
    max_retries: u32,
    attempts: Vec<Attempt>,
    /// The number of times the action is pending before it completes.
    pauses: u32,
    /// The number of polls after which the caller drops the call, if any.
    dropped: Option<u32>,
}

fn call() -> impl Strategy<Value = Call> {
    let mode = prop_oneof![
        4 => Just(Mode::Enforce),
        3 => Just(Mode::Strict),
        2 => Just(Mode::Warn),
        1 => Just(Mode::Monitor),
    ];
    (mode, 0_u32..4, vec(attempt(), 4), 0_u32..3, proptest::option::weighted(0.3, 0_u32..12)).prop_map(
        |(mode, max_retries, attempts, pauses, dropped)| Call {
            mode,
            max_retries,
            attempts,
            pauses,
            dropped,
        },
    )
}

fn attempt() -> impl Strategy<Value = Attempt> {
    let status = prop_oneof![
        12 => Just(200_u16),
        2 => 200_u16..300,
        4 => select(&[429_u16, 502, 503, 504][..]),
        2 => select(&[401_u16, 403, 301, 302, 307, 308, 500, 199, 300, 404][..]),
        1 => 100_u16..1000,
    ];
    let retry_after =
        select(&[None, None, None, Some("0"), Some("1"), Some("3600"), Some("soon"), Some("-1")][..]);
    let body = prop_oneof![
        20 => answer().prop_map(Ok),
        1 => Just(Err(BodyError::CutShort)),
        1 => Just(Err(BodyError::TooLarge)),
    ];
    let answers = (status, retry_after, body, select(&[0_u64, 0, 1, 900][..])).prop_map(
        |(status, retry_after, body, delay_ms)| Attempt::Answers { status, retry_after, body, delay_ms },
    );
    prop_oneof![18 => answers, 2 => Just(Attempt::Fails), 1 => Just(Attempt::Hangs), 1 => Just(Attempt::Panics)]
}

/// Bodies: valid decisions, nearly valid ones, and arbitrary bytes.
fn answer() -> impl Strategy<Value = Vec<u8>> {
    let decision = || {
        vec(member(), 0..4)
            .prop_flat_map(|others| {
                let word = prop_oneof![
                    8 => Just(r#""allow""#.to_owned()),
                    3 => Just(r#""warn""#.to_owned()),
                    2 => value(),
                ];
                (Just(others), word, key("decision"), space(), any::<prop::sample::Index>())
            })
            .prop_map(|(mut members, word, key, space, at)| {
                members.insert(at.index(members.len() + 1), format!("{key}{space}:{space}{word}"));
                format!("{space}{{{}}}{space}", members.join(",")).into_bytes()
            })
    };
    let broken = (decision(), vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..4)).prop_map(
        |(mut body, changes)| {
            for (at, byte, change) in changes {
                let at = at.index(body.len() + 1);
                match change {
                    0 => body.truncate(at),
                    1 if at < body.len() => body[at] = byte,
                    2 if at < body.len() => drop(body.remove(at)),
                    _ => body.insert(at, byte),
                }
            }
            body
        },
    );
    // Vectors cover the exact limit of 128 levels.
    let nested = (select(&[20_usize, 126, 128, 200][..]), any::<bool>()).prop_map(|(levels, objects)| {
        let (open, close) = if objects { (r#"{"x":"#, "}") } else { ("[", "]") };
        let deep = format!("{}0{}", open.repeat(levels), close.repeat(levels));
        format!(r#"{{"decision":"allow","evidence_event_id":"ev_1","x":{deep}}}"#).into_bytes()
    });
    prop_oneof![12 => decision(), 4 => broken, 1 => nested, 1 => vec(any::<u8>(), 0..40)]
}

fn member() -> impl Strategy<Value = String> {
    let right = select(
        &[
            r#""evidence_event_id":"ev_1""#,
            r#""request_hash":"{{request_hash}}""#,
            r#""reason_code":"x""#,
            r#""credential":{"token":"t"}"#,
            r#""replayed":true"#,
            r#""replay_age_ms":0"#,
            r#""replay_age_ms":1000000000"#,
            r#""replay_age_ms":1.5"#,
        ][..],
    );
    let names = select(
        &[
            "decision",
            "evidence_event_id",
            "request_hash",
            "credential",
            "approval_request_id",
            "replayed",
            "x",
        ][..],
    );
    let any = (names.prop_flat_map(key), space(), value())
        .prop_map(|(key, space, value)| format!("{key}:{space}{value}"));
    prop_oneof![8 => right.prop_map(str::to_owned), 1 => any]
}

/// A quoted key, partly escaped, occasionally another key.
fn key(name: &'static str) -> impl Strategy<Value = String> {
    vec(0..8_u8, name.len()).prop_map(move |escaped| {
        let letters = name.chars().zip(escaped).map(|(letter, how)| match how {
            0 => format!("\\u{:04x}", u32::from(letter)),
            1 => format!("\\u{:04X}", u32::from(letter)),
            _ => letter.to_string(),
        });
        format!("\"{}\"", letters.collect::<String>())
    })
}

fn value() -> impl Strategy<Value = String> {
    let odd = [
        "null",
        "true",
        "1",
        "-0",
        "1e999",
        "-1e400",
        "1e-999",
        "01",
        "1.",
        "NaN",
        "[]",
        "{}",
        r#"["allow"]"#,
        r#""""#,
        r#""allow ""#,
        r#"" allow""#,
        r#""Allow""#,
        r#""\u0061llow""#,
        r#""\u0061\u006c\u006c\u006f\u0077""#,
        r#""allow\u0000""#,
        r#""аllow""#,
        r#""\ud800""#,
        r#""\ud83d\ude00""#,
        r#""deny""#,
        r#""require_approval""#,
        r#"{"token":"t","token":"t"}"#,
        r#"{"token":1}"#,
        r#"{"token":"t","expires_at":null}"#,
        r#"{"Token":"t"}"#,
        r#""{{request_hash}}""#,
        r#""{{request_hash}} ""#,
        r#"{"a":{"b":1,"\u0062":1}}"#,
        "\"\t\"",
        "\"\\x\"",
        "'allow'",
        "123456789012345678901234567890",
        "9007199254740993",
    ];
    select(odd.to_vec()).prop_map(str::to_owned)
}

fn space() -> impl Strategy<Value = &'static str> {
    select(
        &[
            "", "", "", "", "", "", "", "", "", "", "", "", "", "", "", "", " ", "\t\r\n ", "\u{a0}",
            "\u{feff}", "/**/",
        ][..],
    )
}

/// Makes the call. Returns the number of runs of the action and, unless the call was dropped, the
/// outcome.
fn make(call: &Call) -> (usize, Option<Outcome<(), ()>>, String) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    // One small leak per call, for the lifetime of the test.
    let played: &'static Played = Box::leak(Box::new(Played {
        attempts: call.attempts.clone(),
        next: AtomicUsize::new(0),
        request: Mutex::default(),
    }));
    let client = ActPass::builder()
        .api_key("apk_test_secret")
        .max_retries(call.max_retries)
        .transport(played)
        .build()
        .unwrap();
    let action = common::action().mode(call.mode);
    let began = AtomicUsize::new(0);
    let ended = runtime.block_on(async {
        let mut guard = pin!(client.guard(&action, async |_| {
            began.fetch_add(1, Ordering::SeqCst);
            for _ in 0..call.pauses {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok::<(), ()>(())
        }));
        let mut polls = 0;
        poll_fn(|context| {
            if call.dropped.is_some_and(|last| polls >= last) {
                return Poll::Ready(None);
            }
            polls += 1;
            guard.as_mut().poll(context).map(Some)
        })
        .await
    });
    let outcome = ended.map(Result::unwrap);
    let request = played.request.lock().unwrap().clone();
    (began.into_inner(), outcome, request)
}

#[test]
fn guard_matches_model() {
    std::panic::set_hook(Box::new(|panic| {
        if !panic.to_string().contains("a transport that panics") {
            eprintln!("{panic}");
        }
    }));
    let (ran, blocked, dropped) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let mut runner = TestRunner::new(config(4000));
    runner
        .run(&call(), |call| {
            let (runs, outcome, request) = make(&call);
            let may = !request.is_empty()
                && model::runs(call.mode, call.max_retries, &call.attempts_about(&request), &request);
            prop_assert!(runs <= usize::from(may), "the action ran {runs} times");
            let Some(outcome) = outcome else {
                dropped.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            };
            prop_assert_eq!(runs, usize::from(may));
            prop_assert_eq!(outcome.executed(), may);
            if call.mode != Mode::Monitor {
                let counter = if may { &ran } else { &blocked };
                counter.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        })
        .unwrap();
    let [ran, blocked, dropped] = [ran, blocked, dropped].map(AtomicUsize::into_inner);
    // The run must cover every case.
    assert!(
        ran > 300 && blocked > 300 && dropped > 100,
        "{ran} ran, {blocked} were blocked, {dropped} dropped"
    );
    println!("{ran} ran, {blocked} were blocked, {dropped} were dropped on the way");
}

impl Call {
    /// The attempts with their bodies as sent.
    fn attempts_about(&self, request: &str) -> Vec<Attempt> {
        let mut attempts = self.attempts.clone();
        for attempt in &mut attempts {
            if let Attempt::Answers { body: Ok(body), .. } = attempt {
                *body = about(std::mem::take(body), request);
            }
        }
        attempts
    }
}

/// Whether ECMAScript writes a number in `value` as an integer beyond a double's exact range.
fn has_large_integer(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => false,
        Value::Number(number) => (9_007_199_254_740_992.0..1e21).contains(&number.as_f64().unwrap().abs()),
        Value::Array(items) => items.iter().any(has_large_integer),
        Value::Object(members) => members.values().any(has_large_integer),
    }
}

fn config(cases: u32) -> Config {
    // Failing seeds become readable tests or vectors.
    Config { cases, failure_persistence: None, ..Config::default() }
}

/// Any JSON with a canonical form.
fn json() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<f64>().prop_filter_map("finite", |n| serde_json::Number::from_f64(n).map(Value::Number)),
        (-9_007_199_254_740_991_i64..=9_007_199_254_740_991).prop_map(Value::from),
        (-400_i32..400, 1_u32..1000).prop_filter_map("finite", |(exponent, digits)| {
            format!("{digits}e{exponent}")
                .parse()
                .ok()
                .and_then(serde_json::Number::from_f64)
                .map(Value::Number)
        }),
    ];
    let text = prop_oneof![
        any::<String>(),
        "[\u{0}-\u{2f}\u{7f}\u{e000}\u{fb33}\u{ffff}\u{10000}\u{1f600}\"\\\\]{0,6}"
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        number,
        text.clone().prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::Array),
            vec((text.clone(), inner), 0..6).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn canonical_json_matches_model(value in json()) {
        let [ours, expected] = [canonical_json(&Json::from(value.clone())).unwrap(), model::canonical(&value)];
        prop_assert_eq!(String::from_utf8(ours).unwrap(), String::from_utf8(expected).unwrap());
    }

    #[test]
    fn canonical_json_is_independent_of_layout(value in json()) {
        let pretty = serde_json::to_vec_pretty(&value).unwrap();
        let canonical = canonical_json(&Json::parse(&pretty).unwrap()).unwrap();
        prop_assert_eq!(&canonical, &model::canonical(&value));
        // A double beyond 2^53 is written as an integer, which is rejected when read as an integer.
        let again = canonical_json(&Json::parse(&canonical).unwrap());
        prop_assert_eq!(again.ok(), (!has_large_integer(&value)).then_some(canonical));
    }

    #[test]
    fn numbers_match_ecmascript(bits in any::<u64>()) {
        let value = f64::from_bits(bits);
        if let Some(number) = serde_json::Number::from_f64(value) {
            let canonical = canonical_json(&Json::from(Value::Number(number))).unwrap();
            prop_assert_eq!(String::from_utf8(canonical).unwrap(), model::ecmascript(value));
        }
    }

    #[test]
    fn rejects_integers_outside_f64(past in 1_i64..1_000_000_000_000, negative in any::<bool>()) {
        let value = (9_007_199_254_740_991 + past) * if negative { -1 } else { 1 };
        prop_assert!(canonical_json(&Json::Number(Number::from(value))).is_err());
    }

    #[test]
    fn json_reader_matches_model(text in answer()) {
        let [ours, expected] = [Json::parse(&text).ok(), model::read(&text).map(Json::from)];
        prop_assert_eq!(ours.is_some(), expected.is_some());
        if let (Some(ours), Some(expected)) = (ours, expected) {
            // Values with a canonical form: `expected` no longer records which large numbers were
            // written as integers.
            if let Ok(canonical) = canonical_json(&ours) {
                prop_assert_eq!(String::from_utf8(canonical), String::from_utf8(canonical_json(&expected).unwrap()));
            }
        }
    }

    #[test]
    fn json_round_trips(value in json()) {
        let json = Json::from(value);
        prop_assert_eq!(&Json::parse(json.to_string().as_bytes()).unwrap(), &json);
    }

    #[test]
    fn decision_round_trips(text in answer()) {
        if let Ok(decision) = Decision::parse(&text) {
            let again = Decision::parse(decision.as_json().as_bytes()).unwrap();
            prop_assert_eq!(&again, &decision);
            prop_assert_eq!(decision.member("credential"), None);
            prop_assert_eq!(&DecisionWord::from(decision.word().as_str()), decision.word());
            let word = decision.member("decision");
            prop_assert_eq!(word.as_ref().and_then(Json::as_str), Some(decision.word().as_str()));
        }
    }

    #[test]
    fn mode_parses_exact_names_only(text in "\\PC{0,8}|enforce|strict|warn|monitor") {
        match text.parse::<Mode>() {
            Ok(mode) => prop_assert_eq!(mode.as_str(), text),
            Err(error) => {
                prop_assert!(error.to_string().starts_with("mode: expected "));
                prop_assert!(!["enforce", "strict", "warn", "monitor"].contains(&text.as_str()));
            }
        }
    }

    #[test]
    fn pending_action_round_trips(
        (goal, tool, resource, user) in ("\\PC{1,9}", "\\PC{1,9}", any::<String>(), any::<Option<String>>()),
        args in vec((any::<String>(), json()), 0..4),
        mode in select(&[Mode::Enforce, Mode::Strict, Mode::Warn][..]),
        id in "[!-~]{1,20}",
    ) {
        let args = Value::Object(args.into_iter().collect());
        let mut action = Action::new(goal, tool).resource(resource).args(args).mode(mode).passport("a passport");
        if let Some(user) = user {
            action = action.user_id(user);
        }
        let answer = serde_json::json!({"decision": "require_approval", "approval_request_id": id}).to_string();
        let client = common::over(common::ScriptedTransport::answer(200, answer));
        // An empty goal is an argument error.
        let Ok(outcome) = common::block_on(client.guard(&action, async |_| Ok::<(), ()>(()))) else {
            return Err(TestCaseError::reject("cannot be sent"));
        };
        let Outcome::Blocked(blocked) = outcome else { panic!("it ran") };
        let kept = blocked.approval().unwrap().to_json();
        prop_assert!(!kept.contains("a passport"));
        let pending = PendingApproval::parse(&kept).unwrap();
        prop_assert_eq!(pending.id(), id);
        prop_assert_eq!(pending.to_json(), kept);
    }
}

#[test]
fn model_matches_rfc_8785_examples() {
    let number = |bits| model::ecmascript(f64::from_bits(bits));
    // Appendix B of RFC 8785.
    for (bits, expected) in [
        (0x0000_0000_0000_0001, "5e-324"),
        (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
        (0x4340_0000_0000_0000, "9007199254740992"),
        (0x4430_0000_0000_0000, "295147905179352830000"),
        (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
        (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
        (0x444b_1ae4_d6e2_ef50, "1e+21"),
        (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
        (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
        (0x41b3_de43_5555_5557, "333333333.33333343"),
        (0x8000_0000_0000_0000, "0"),
    ] {
        assert_eq!(number(bits), expected);
    }
}
