//! JSON round-trips and has one canonical form.

use actpass_core::{Json, canonical_json, hash_payload};
use serde_json::Value;

pub(crate) fn run(data: &[u8]) {
    let Ok(json) = Json::parse(data) else { return };
    assert_eq!(
        Json::parse(json.to_string().as_bytes()).as_ref(),
        Ok(&json),
        "the parsed value differs from the written one"
    );
    let Ok(canonical) = canonical_json(&json) else {
        // Only integers are rejected, and these are long.
        assert!(data.windows(16).any(|digits| digits.iter().all(u8::is_ascii_digit)));
        assert!(hash_payload(&json).is_err());
        return;
    };
    let again = Json::parse(&canonical).expect("canonical JSON is JSON");
    if let Ok(twice) = canonical_json(&again) {
        assert_eq!(twice, canonical);
    }
    // serde_json rejects one nesting level earlier; otherwise both agree.
    match serde_json::from_slice::<Value>(data) {
        Ok(value) => {
            let theirs = canonical_json(&Json::from(value)).expect("it is carried from one reader");
            assert_eq!(String::from_utf8(theirs), String::from_utf8(canonical));
        }
        Err(error) => assert!(error.to_string().contains("recursion limit"), "{error}"),
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let read = |path| std::fs::read(path).unwrap();
    let mut seeds: Vec<_> =
        crate::files("core/protocol/tests/data/jcs/input", "json").into_iter().map(read).collect();
    for text in [
        "1e20",
        "-0",
        "1e-7",
        "9007199254740992",
        "1E400",
        "5e-324",
        "[1.5e300,-1e21]",
        r#"{"\ud83d\ude00":1,"\u20ac":2}"#,
        r#"{"a":{"a":[null,true,false,""]}}"#,
        r#""\u0000\u001f\"\\\/\b\f\n\r\t""#,
    ] {
        seeds.push(text.as_bytes().to_vec());
    }
    seeds
}
