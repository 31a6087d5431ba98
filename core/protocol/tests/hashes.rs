//! Canonical JSON and hashes, against the test data of RFC 8785.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use actpass_protocol::json::Number;
use actpass_protocol::{Json, canonical_json, hash_payload, sha256_hex, sign_payload};
use proptest::prelude::*;
use serde_json::{Value, json};

#[test]
fn matches_rfc_8785_test_data() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/jcs");
    let mut names: Vec<_> = fs::read_dir(root.join("input"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected = ["arrays", "french", "rfc_3_2_2", "rfc_3_2_3", "structures", "unicode", "values", "weird"];
    assert_eq!(names, expected.map(|name| format!("{name}.json")));
    for name in names {
        let input = Json::parse(&fs::read(root.join("input").join(&name)).unwrap()).unwrap();
        let output = fs::read(root.join("output").join(&name)).unwrap();
        let canonical = canonical_json(&input).unwrap();
        assert_eq!(String::from_utf8_lossy(&canonical), String::from_utf8_lossy(&output), "{name}");
        assert_eq!(canonical, output, "{name}");
        assert_eq!(hash_payload(&input).unwrap(), sha256_hex(&output));
        // Canonical JSON is a fixed point.
        assert_eq!(canonical_json(&Json::parse(&output).unwrap()).unwrap(), output);
    }
}

#[test]
fn matches_rfc_8785_example_bytes() {
    // Section 3.2.4.
    let expected = "
        7b 22 6c 69 74 65 72 61 6c 73 22 3a 5b 6e 75 6c 6c 2c 74 72
        75 65 2c 66 61 6c 73 65 5d 2c 22 6e 75 6d 62 65 72 73 22 3a
        5b 33 33 33 33 33 33 33 33 33 2e 33 33 33 33 33 33 33 2c 31
        65 2b 33 30 2c 34 2e 35 2c 30 2e 30 30 32 2c 31 65 2d 32 37
        5d 2c 22 73 74 72 69 6e 67 22 3a 22 e2 82 ac 24 5c 75 30 30
        30 66 5c 6e 41 27 42 5c 22 5c 5c 5c 5c 5c 22 2f 22 7d";
    let expected: String = expected.split_whitespace().collect();
    let input = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/jcs/input/rfc_3_2_2.json"));
    let canonical = canonical_json(&Json::parse(&input.unwrap()).unwrap()).unwrap();
    assert_eq!(hex::encode(canonical), expected);
}

#[test]
fn matches_rfc_8785_number_table() {
    // Appendix B.
    for (bits, expected) in [
        (0x0000_0000_0000_0000, "0"),
        (0x8000_0000_0000_0000, "0"),
        (0x0000_0000_0000_0001, "5e-324"),
        (0x8000_0000_0000_0001, "-5e-324"),
        (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
        (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
        (0x4340_0000_0000_0000, "9007199254740992"),
        (0xc340_0000_0000_0000, "-9007199254740992"),
        (0x4430_0000_0000_0000, "295147905179352830000"),
        (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
        (0x44b5_2d02_c7e1_4af6, "1e+23"),
        (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
        (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
        (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
        (0x444b_1ae4_d6e2_ef50, "1e+21"),
        (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
        (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
        (0x41b3_de43_5555_5553, "333333333.3333332"),
        (0x41b3_de43_5555_5554, "333333333.33333325"),
        (0x41b3_de43_5555_5555, "333333333.3333333"),
        (0x41b3_de43_5555_5556, "333333333.3333334"),
        (0x41b3_de43_5555_5557, "333333333.33333343"),
        (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
        (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
    ] {
        let number = Number::try_from(f64::from_bits(bits)).unwrap();
        let canonical = canonical_json(&Json::Number(number)).unwrap();
        assert_eq!(String::from_utf8(canonical).unwrap(), expected, "{bits:016x}");
    }
    for bits in [0x7fff_ffff_ffff_ffff, 0x7ff0_0000_0000_0000, 0xfff0_0000_0000_0000_u64] {
        let error = Number::try_from(f64::from_bits(bits)).unwrap_err();
        assert_eq!(error.to_string(), "NaN and infinity are not JSON", "{bits:016x}");
    }
}

#[test]
fn canonicalizes_numbers_from_text() {
    for (text, expected) in [
        ("9007199254740991", "9007199254740991"),
        ("-9007199254740991", "-9007199254740991"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("0e5", "0"),
        ("1.0", "1"),
        ("10e-1", "1"),
        ("1E2", "100"),
        ("1e-7", "1e-7"),
        ("0.1", "0.1"),
        ("1e21", "1e+21"),
        ("1e-400", "0"),
    ] {
        let value = Json::parse(text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(canonical_json(&value).unwrap()).unwrap(), expected, "{text}");
    }
}

#[test]
fn rejects_integers_beyond_f64_precision() {
    for text in [
        "9007199254740992",
        "-9007199254740992",
        "9007199254740993",
        "18446744073709551616",
        "123456789012345678901234567890",
        "{\"a\":[{\"b\":9007199254740992}]}",
    ] {
        let value = Json::parse(text.as_bytes()).unwrap();
        for error in [
            canonical_json(&value).unwrap_err(),
            hash_payload(&value).unwrap_err(),
            sign_payload(b"key", &value).unwrap_err(),
        ] {
            assert!(error.to_string().starts_with("payload"), "{error}");
            assert!(error.to_string().contains("beyond ±(2^53-1)"), "{error}");
        }
    }
}

#[test]
fn non_canonical_integer_error_names_its_path() {
    for (text, path) in [
        ("9007199254740992", ""),
        (r#"{"order_id":9007199254740992}"#, ".order_id"),
        (r#"{"a":[1,{"b-c":[9007199254740992]}]}"#, ".a[1].b-c[0]"),
        (r#"{"a b":{"":9007199254740992}}"#, r#"["a b"][""]"#),
        (r#"{"a.b":9007199254740992}"#, r#"["a.b"]"#),
        ("[[9007199254740992]]", "[0][0]"),
    ] {
        let error = canonical_json(&Json::parse(text.as_bytes()).unwrap()).unwrap_err().to_string();
        let expected = format!(
            "payload{path}: the integer 9007199254740992 is beyond ±(2^53-1) and has no canonical form"
        );
        assert_eq!(error, expected);
    }
}

#[test]
fn sorts_keys_by_utf16() {
    // U+10000 is D800 DC00 in UTF-16, before U+FFFF, and after it in UTF-8.
    let value = Json::parse("{\"\u{ffff}\":1,\"\u{10000}\":2,\"z\":3,\"\":4,\"Z\":5}".as_bytes()).unwrap();
    let expected = "{\"\":4,\"Z\":5,\"z\":3,\"\u{10000}\":2,\"\u{ffff}\":1}";
    assert_eq!(String::from_utf8(canonical_json(&value).unwrap()).unwrap(), expected);
}

#[test]
fn hashes_match_client_1_1_3() {
    // hashlib.sha256(json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()), and
    // hmac.new(key, the same bytes, hashlib.sha256).
    let payload = Json::from(json!({"b": 1, "a": ["x", null, true]}));
    let hash = "8ceb0641e6e1c1616fb86a8f375f277d89652aabcd2e9d2637db215d1de40494";
    assert_eq!(hash_payload(&payload).unwrap(), hash);
    for (key, payload, signature) in [
        (
            "key",
            json!({"b": 1, "a": ["x", null, true]}),
            "d6e97d14f1fbc31b0cdd1db28eb6b9c7b93101c127c31535a1914bbb69f3bd29",
        ),
        ("", json!({}), "22f8eea909400af98adf3681a9f31923ef6b7fcba4abb553d92823a3e9d5c25e"),
        ("kéy", json!("€"), "3fa6f6b7b45db26a53384f1e952d68b44b7d97688da8bbb0f6ecdd311341eeaf"),
        (
            &"k".repeat(200),
            json!({"amount": 4900, "currency": "usd"}),
            "cc156a6ae28da33ff9547af67b4bc01f221ce5b3bacca4f48d07cd9b36515532",
        ),
    ] {
        assert_eq!(sign_payload(key.as_bytes(), &Json::from(payload)).unwrap(), signature, "{key}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn simple_payloads_match_a_simple_writer(payload in payload()) {
        let mut expected = String::new();
        write(&payload, &mut expected);
        let value = Json::from(payload);
        prop_assert_eq!(String::from_utf8(canonical_json(&value).unwrap()).unwrap(), expected.clone());
        prop_assert_eq!(hash_payload(&value).unwrap(), sha256_hex(expected.as_bytes()));
        // Member order and white space do not matter.
        let spaced = Json::parse(serde_json::to_string_pretty(&shuffled(&value)).unwrap().as_bytes()).unwrap();
        prop_assert_eq!(hash_payload(&spaced).unwrap(), hash_payload(&value).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn payloads_match_serde_json_canonicalizer(text in json_text()) {
        let value = Json::parse(text.as_bytes()).unwrap();
        match (canonical_json(&value), serde_json_canonicalizer::to_vec(&value)) {
            (Ok(written), expected) => prop_assert_eq!(written, expected.unwrap()),
            // The path precedes the problem.
            (Err(error), expected) => {
                let (error, problem) = (error.to_string(), expected.unwrap_err().to_string());
                prop_assert!(error.starts_with("payload") && error.ends_with(&problem), "{} {}", error, problem);
            }
        }
    }
}

/// JSON texts with arbitrary keys, strings and numbers.
fn json_text() -> impl Strategy<Value = String> {
    let text = || any::<String>().prop_map(|text| Value::from(text).to_string());
    let leaf = prop_oneof![
        "null|true|false",
        "-?(0|[1-9][0-9]{0,17})",
        "-?(0|[1-9][0-9]{0,20})\\.[0-9]{1,20}",
        "-?[0-9](\\.[0-9]{1,4})?[eE][+-]?[0-9]{1,2}",
        text(),
    ];
    leaf.prop_recursive(4, 48, 6, move |inner| {
        let key = prop_oneof![
            "[a-c\u{e9}\u{ffff}\u{10000}]{0,3}".prop_map(|key| Value::from(key).to_string()),
            text()
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(|items| format!("[{}]", items.join(","))),
            proptest::collection::btree_map(key, inner, 0..6).prop_map(|members: BTreeMap<_, _>| {
                let members: Vec<_> = members.iter().map(|(key, member)| format!("{key}:{member}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

/// Objects with ASCII keys, safe integers, any strings, booleans, null.
fn payload() -> impl Strategy<Value = Value> {
    const SAFE: i64 = (1 << 53) - 1;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-SAFE..=SAFE).prop_map(Value::from),
        prop_oneof![Just(SAFE), Just(-SAFE), Just(0)].prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[\\x00-\\x7f]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map("[\\x00-\\x7f]{0,6}", inner, 0..6)
                .prop_map(|members: BTreeMap<_, _>| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// An independent canonical writer for such payloads.
fn write(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by_key(|(key, _)| key.as_bytes());
            out.push('{');
            for (at, (key, member)) in sorted.into_iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                write(&Value::from(key.as_str()), out);
                out.push(':');
                write(member, out);
            }
            out.push('}');
        }
        Value::String(text) => {
            out.push('"');
            for c in text.chars() {
                match ("\"\\\u{8}\t\n\u{c}\r".find(c), c) {
                    (Some(at), _) => out.extend(['\\', ['"', '\\', 'b', 't', 'n', 'f', 'r'][at]]),
                    (None, '\0'..' ') => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                    (None, _) => out.push(c),
                }
            }
            out.push('"');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
    }
}

/// The same value with object members in reverse order.
fn shuffled(value: &Json) -> Json {
    match value {
        Json::Array(items) => Json::Array(items.iter().map(shuffled).collect()),
        Json::Object(members) => {
            Json::Object(members.iter().rev().map(|(key, value)| (key.clone(), shuffled(value))).collect())
        }
        Json::Bool(_) | Json::Null | Json::Number(_) | Json::String(_) => value.clone(),
    }
}
