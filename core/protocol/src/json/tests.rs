use std::cmp::Ordering;

use super::*;

fn parse(text: &str) -> Json {
    Json::parse(text.as_bytes()).unwrap()
}

fn fails(text: &str) -> bool {
    Json::parse(text.as_bytes()).is_err()
}

#[test]
fn preserves_values() {
    for text in [
        r#"{"z":1,"a":[1.0,-0,1e5,123456789012345678901234567890],"s":"\"\\\n é 😀"}"#,
        "[]",
        "{}",
        "null",
        "true",
        "-0.0",
    ] {
        assert_eq!(parse(text).to_string(), text);
    }
}

#[test]
fn rejects_invalid_json() {
    for text in [
        "",
        " ",
        "nul",
        "NaN",
        "Infinity",
        "-Infinity",
        "01",
        "1.",
        ".5",
        "+1",
        "-",
        "1e",
        "[1,]",
        "[1 2]",
        "{\"a\":1,}",
        "{a:1}",
        "{\"a\" 1}",
        "'a'",
        "\"\u{1}\"",
        "\"\\x\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\u0041\"",
        "[1]]",
        "{} {}",
        "\u{feff}{}",
        "// c\n1",
        "\"a",
        "[",
        "{\"a\":",
        "tru",
        "\"\t\"",
        "\x0b1",
        "\u{a0}1",
    ] {
        assert!(fails(text), "accepted {text:?}");
    }
    assert!(Json::parse(b"\"\xff\"").is_err());
    assert!(Json::parse(b"\"\xed\xa0\x80\"").is_err());
    assert!(Json::parse(b"{\"\xff\": 1}").is_err());
    assert!(Json::parse(b"\xff\xfe{\0}\0").is_err());
}

#[test]
fn rejects_duplicate_keys_at_any_depth() {
    for text in [
        r#"{"a":1,"a":1}"#,
        r#"{"decision":"deny","decis\u0069on":"allow"}"#,
        r#"[{"x":{"a":1,"b":2,"a":3}}]"#,
    ] {
        assert!(matches!(Json::parse(text.as_bytes()), Err(ReadError::DuplicateKey(..))), "{text}");
    }
    let many: Vec<String> = (0..40).map(|n| format!("\"k{n}\":{n}")).collect();
    assert!(!fails(&format!("{{{}}}", many.join(","))));
    for again in [0, 15, 16, 39] {
        let text = format!("{{{},\"k{again}\":0}}", many.join(","));
        assert!(matches!(Json::parse(text.as_bytes()), Err(ReadError::DuplicateKey(..))));
    }
}

#[test]
fn limits_nesting_depth() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(!fails(&nested(MAX_DEPTH)));
    assert!(matches!(Json::parse(nested(MAX_DEPTH + 1).as_bytes()), Err(ReadError::TooDeep(_))));
    assert!(fails(&"[".repeat(100_000)));
    let objects = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    assert!(!fails(&objects(MAX_DEPTH)));
    assert!(fails(&objects(MAX_DEPTH + 1)));
}

#[test]
fn rejects_numbers_beyond_f64() {
    for text in ["1e999", "-1e999", "1E400"] {
        assert!(matches!(Json::parse(text.as_bytes()), Err(ReadError::NumberOutOfRange(0))), "{text}");
    }
    assert!(fails(&"9".repeat(400)));
    assert!(!fails(&"9".repeat(300)));
    assert!(!fails("1e308"));
    assert!(!fails("1e-999"));
}

#[test]
fn compares_numbers_exactly() {
    let number = |text: &str| {
        let Json::Number(number) = parse(text) else { panic!("{text} is not a number") };
        number
    };
    let ascending = [
        "-1e300",
        "-10",
        "-9.5",
        "-1",
        "-0.001",
        "0",
        "1e-999",
        "1e-5",
        "0.1",
        "0.10000000000000000001",
        "1",
        "9007199254740992",
        "9007199254740993",
        "9007199254740993.5",
        "1e17",
        "123456789012345678901",
        "1e300",
    ];
    for (i, a) in ascending.iter().enumerate() {
        for (j, b) in ascending.iter().enumerate() {
            assert_eq!(number(a).compare(&number(b)), i.cmp(&j), "{a} against {b}");
        }
    }
    for (a, b) in
        [("1", "1.0"), ("1", "10e-1"), ("0", "-0.0"), ("0", "0e999"), ("1E+2", "100"), ("0.5", "5e-1")]
    {
        assert_eq!(number(a).compare(&number(b)), Ordering::Equal, "{a} against {b}");
    }
}

#[test]
fn raw_object_preserves_unknown_members() {
    let text = r#" {"a" : {"b":[1.0, 2]} ,"c\u0061":"x\n", "d":1e2 } "#;
    let mut document = RawObject::parse(text.as_bytes()).unwrap();
    assert_eq!(document.as_str(), text);
    assert_eq!(document.member_text("a"), Some(r#"{"b":[1.0, 2]}"#));
    assert_eq!(document.string("ca").as_deref(), Some("x\n"));
    assert_eq!(document.string("d"), None);
    assert_eq!(document.take("ca").as_deref(), Some(r#""x\n""#));
    assert_eq!(document.as_str(), r#"{"a":{"b":[1.0, 2]},"d":1e2}"#);
    assert_eq!(document.member_text("d"), Some("1e2"));
    assert_eq!(document.take("ca"), None);
    for text in ["[]", "1", "null", "\"{}\"", "{}{}", "{\"a\":1,\"\\u0061\":2}", ""] {
        assert!(RawObject::parse(text.as_bytes()).is_err(), "accepted {text}");
    }
}

#[test]
fn python_compat_style_matches_json_dumps() {
    // json.dumps({"a": [1, "é\u007f\n\b\f\"\\/"], "😀": None})
    let mut out = JsonWriter::new(Style::PythonCompat);
    parse(r#"{"a":[1,"é\u007f\n\b\f\"\\/"],"😀":null}"#).write(&mut out);
    assert_eq!(out.as_str(), r#"{"a": [1, "\u00e9\u007f\n\b\f\"\\/"], "\ud83d\ude00": null}"#);
}
