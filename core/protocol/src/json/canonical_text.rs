//! Recognizes canonical JSON without parsing it.

use memchr::memchr2;

use super::MAX_DEPTH;

/// An integer of at most this many digits is canonical with any digits.
const MAX_DIGITS: usize = 15;

/// Returns whether `text` is surely the canonical JSON (RFC 8785) of an object, and passes the name
/// and the text of each member to `each`, in order.
///
/// `false` leaves texts with rare values undecided, such as numbers with a fraction, names that are
/// not ASCII and `\u` escapes: parse the text.
///
/// ```
/// use actpass_protocol::json::is_canonical_object;
///
/// let mut members = Vec::new();
/// assert!(is_canonical_object(r#"{"a":[1],"b":"c"}"#, |name, value| members.push((name, value))));
/// assert_eq!(members, [("a", "[1]"), ("b", "\"c\"")]);
/// assert!(!is_canonical_object(r#"{"b":1,"a":2}"#, |_, _| {}));
/// assert!(!is_canonical_object(r#"{"a": 1}"#, |_, _| {}));
/// ```
pub fn is_canonical_object<'t>(text: &'t str, each: impl FnMut(&'t str, &'t str)) -> bool {
    // Canonical JSON has no control characters, not even between the members. One pass is faster than a
    // test in each string.
    if text.bytes().fold(false, |any, byte| any | (byte < b' ')) {
        return false;
    }
    let mut scanner = Scanner { text, at: 0 };
    scanner.object(0, each).is_some() && scanner.at == text.len()
}

/// Each method passes over a canonical value of a text without control characters; `None` if it is
/// not surely one.
struct Scanner<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Scanner<'t> {
    fn object(&mut self, depth: usize, mut each: impl FnMut(&'t str, &'t str)) -> Option<()> {
        self.expect(b'{')?;
        if self.accept(b'}') {
            return Some(());
        }
        let mut last = None;
        loop {
            let name = self.name()?;
            // Of ASCII names, the order of bytes is that of UTF-16; an equal name is a duplicate.
            if last.is_some_and(|last| last >= name) {
                return None;
            }
            last = Some(name);
            self.expect(b':')?;
            let start = self.at;
            self.value(depth + 1)?;
            each(name, self.text.get(start..self.at)?);
            if self.accept(b'}') {
                return Some(());
            }
            self.expect(b',')?;
        }
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        self.expect(b'[')?;
        if self.accept(b']') {
            return Some(());
        }
        loop {
            self.value(depth + 1)?;
            if self.accept(b']') {
                return Some(());
            }
            self.expect(b',')?;
        }
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'"' => self.string(),
            b'{' if depth < MAX_DEPTH => self.object(depth, |_, _| {}),
            b'[' if depth < MAX_DEPTH => self.array(depth),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            b'-' | b'0'..=b'9' => self.integer(),
            _ => None,
        }
    }

    /// Passes over a string and returns it if it is ASCII without escapes.
    fn name(&mut self) -> Option<&'t str> {
        let start = self.at + 1;
        self.string()?;
        let name = self.text.get(start..self.at.checked_sub(1)?)?;
        (name.is_ascii() && !name.contains('\\')).then_some(name)
    }

    fn string(&mut self) -> Option<()> {
        self.expect(b'"')?;
        loop {
            let rest = self.text.as_bytes().get(self.at..)?;
            let end = memchr2(b'"', b'\\', rest)?;
            self.at += end + 1;
            match rest.get(end)? {
                b'"' => return Some(()),
                b'\\' if matches!(rest.get(end + 1)?, b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't') => {
                    self.at += 1;
                }
                _ => return None,
            }
        }
    }

    fn integer(&mut self) -> Option<()> {
        let is_negative = self.accept(b'-');
        let rest = self.text.as_bytes().get(self.at..)?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let is_canonical = match rest.first()? {
            b'0' => digits == 1 && !is_negative,
            _ => (1..=MAX_DIGITS).contains(&digits),
        };
        self.at += digits;
        // A fraction or an exponent would follow; no delimiter accepts them.
        is_canonical.then_some(())
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let found = self.text.get(self.at..)?.starts_with(word);
        self.at += word.len();
        found.then_some(())
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn accept(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.accept(byte).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Json;
    use crate::hash::canonical_json;

    fn is_canonical(text: &str) -> bool {
        is_canonical_object(text, |_, _| {})
    }

    /// The canonical form of `text` as parsed.
    fn parsed(text: &str) -> Option<String> {
        let value = Json::parse(text.as_bytes()).ok()?;
        String::from_utf8(canonical_json(&value).ok()?).ok()
    }

    #[test]
    fn canonical_objects_are_recognized() {
        for text in [
            "{}",
            r#"{"":null}"#,
            r#"{"A":1,"a":[],"b":[{}],"c":{"a":false,"b":true}}"#,
            r#"{"a":"é 😀 \" \\ \b\f\n\r\t/","b":-12,"c":0,"d":999999999999999}"#,
            "{\"a\":\"\u{7f}\"}",
        ] {
            assert!(is_canonical(text), "{text}");
            assert_eq!(parsed(text).as_deref(), Some(text));
        }
    }

    #[test]
    fn other_texts_are_not_recognized() {
        for text in [
            "",
            "[]",
            "1",
            "{",
            "{}}",
            "{} ",
            " {}",
            "{\"a\":1}\n",
            r#"{"a":1,}"#,
            r#"{,"a":1}"#,
            r#"{"a"1}"#,
            r#"{"a":}"#,
            r#"{"a": 1}"#,
            r#"{"a" :1}"#,
            r#"{"a":1, "b":2}"#,
            r#"{"b":1,"a":2}"#,
            r#"{"a":1,"a":1}"#,
            r#"{"a":{"b":1,"b":1}}"#,
            r#"{"a":[{"b":1,"a":1}]}"#,
            r#"{"\u0061":1}"#,
            r#"{"a\n":1}"#,
            r#"{"a":"\u0061"}"#,
            r#"{"a":"\/"}"#,
            r#"{"a":"\x"}"#,
            r#"{"a":"\"}"#,
            "{\"a\":\"\n\"}",
            "{\"a\":\"0123456789abcde\n0123456789abcdef\"}",
            r#"{"a":01}"#,
            r#"{"a":-0}"#,
            r#"{"a":-}"#,
            r#"{"a":1.5}"#,
            r#"{"a":1e2}"#,
            r#"{"a":+1}"#,
            r#"{"a":9007199254740993}"#,
            r#"{"a":tru}"#,
            r#"{"a":nulll}"#,
            r#"{"a":[1 2]}"#,
            r#"{"a":[1,]}"#,
            r#"{"a":[1}"#,
        ] {
            assert!(!is_canonical(text), "{text}");
        }
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(is_canonical(&nested(MAX_DEPTH - 1)) && parsed(&nested(MAX_DEPTH - 1)).is_some());
        assert!(!is_canonical(&nested(MAX_DEPTH)));
    }

    /// Texts close to canonical ones: each is one, with a byte changed, added or removed.
    fn near_canonical() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            any::<i64>().prop_map(|number| number.to_string()),
            (-99i32..99).prop_map(|number| number.to_string()),
            "[a-z\"\\\\\n\u{e9}\u{1f600}]{0,20}".prop_map(|text| Json::from(&*text).to_string()),
        ];
        let value = leaf.prop_recursive(3, 16, 4, |inner| {
            let members = prop::collection::btree_map("[a-d]{0,2}", inner.clone(), 0..4);
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(|items| format!("[{}]", items.join(","))),
                members.prop_map(|members| {
                    let members: Vec<_> =
                        members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
                    format!("{{{}}}", members.join(","))
                }),
            ]
        });
        let change = prop::option::of((any::<prop::sample::Index>(), 0..3, "[ -~]"));
        (value, change).prop_map(|(value, change)| {
            let mut text: Vec<char> = format!("{{\"a\":{value}}}").chars().collect();
            if let Some((at, kind, new)) = change {
                let at = at.index(text.len());
                match kind {
                    0 => drop(text.remove(at)),
                    1 => text.splice(at..=at, new.chars()).for_each(drop),
                    _ => text.splice(at..at, new.chars()).for_each(drop),
                }
            }
            text.into_iter().collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn recognized_texts_equal_the_canonical_form_of_their_parsed_value(text in near_canonical()) {
            let mut members = Vec::new();
            if is_canonical_object(&text, |name, value| members.push((name, value))) {
                prop_assert_eq!(parsed(&text), Some(text.clone()));
                let value = Json::parse(text.as_bytes()).unwrap();
                let read: Vec<_> = value.as_object().unwrap().iter().map(|(name, value)| (&**name, value.to_string())).collect();
                let members: Vec<_> = members.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
                prop_assert_eq!(members, read);
            }
        }

        #[test]
        fn unchanged_texts_of_common_values_are_recognized(number in -999_999i64..999_999, text in "[ -~]{0,40}") {
            let value = Json::from(serde_json::json!({"a": number, "b": [text, null], "c": {"d": true}}));
            let text = String::from_utf8(canonical_json(&value).unwrap()).unwrap();
            prop_assert!(is_canonical(&text), "{}", text);
        }
    }
}
