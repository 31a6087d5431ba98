//! Rendering of untrusted text: every character is visible and leaves the display of others
//! unchanged.
//!
//! A text becomes a list of segments; the template escapes each into HTML.

use std::collections::HashMap;

use actpass_protocol::Json;
use unicode_security::skeleton;

/// Longer strings are folded.
const FOLD_CHARACTERS: usize = 400;

/// Characters shown of a folded string.
const PREVIEW_CHARACTERS: usize = 120;

/// Maximum number of combining marks per letter; more would overlap adjacent lines.
const MAX_MARKS: usize = 3;

/// A segment of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Starts bidirectional isolation: right-to-left letters do not reorder text outside.
    Isolate,
    /// Ends [`Segment::Isolate`].
    EndIsolate,
    /// Starts a folded string of this many characters: the next two isolates are its preview and
    /// its full text.
    Fold(usize),
    /// Separates the preview from the full text.
    Full,
    /// Ends [`Segment::Fold`].
    EndFold,
    /// Plain text.
    Plain(String),
    /// Invisible or deceptive characters, in JSON escape notation.
    Invisible(String),
}

/// A text as segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DisplayText {
    segments: Vec<Segment>,
    /// Indexes of line starts after the first line.
    lines: Vec<usize>,
    long: Folding,
}

/// What to fold in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Folding {
    /// Long strings.
    Long,
    #[default]
    Nothing,
}

impl DisplayText {
    /// Creates a single-line name.
    pub(super) fn name(text: &str) -> Self {
        let mut shown = Self::default();
        shown.isolated(text, Escape::Invisible, Kind::Name);
        shown
    }

    /// Creates multi-line text written by a person or an agent.
    pub(super) fn prose(text: &str) -> Self {
        let mut shown = Self::default();
        shown.isolated(text, Escape::InvisibleButLines, Kind::Prose);
        shown
    }

    /// Creates indented JSON with number literals unchanged. Unfolded, it parses to the same value.
    pub(super) fn json(value: &Json, folds: Folding) -> Self {
        let mut shown = Self { long: folds, ..Self::default() };
        shown.value(value, 0);
        shown
    }

    /// Returns whether any part is folded.
    pub(super) fn folds(&self) -> bool {
        self.segments.iter().any(|piece| matches!(piece, Segment::Fold(_)))
    }

    /// Returns the first `lines` lines, the remaining lines, and their number.
    pub(super) fn split(&self, lines: usize) -> (&[Segment], &[Segment], usize) {
        // Do not fold one or two lines.
        let at = lines.checked_sub(1).and_then(|line| self.lines.get(line));
        match at {
            Some(at) if self.lines.len() > lines + 2 => {
                let (first, rest) = self.segments.split_at_checked(*at).unwrap_or((&self.segments, &[]));
                (first, rest, self.lines.len() + 1 - lines)
            }
            Some(_) | None => (&self.segments, &[], 0),
        }
    }

    /// Returns all segments.
    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Returns whether any character was escaped.
    pub(super) fn has_marks(&self) -> bool {
        self.segments.iter().any(|piece| matches!(piece, Segment::Invisible(_)))
    }

    /// Returns plain text for places without markup.
    pub(super) fn plain_text(&self) -> String {
        let texts = self.segments.iter().filter_map(|piece| match piece {
            Segment::Plain(text) | Segment::Invisible(text) => Some(text.as_str()),
            Segment::Isolate | Segment::EndIsolate | Segment::EndFold | Segment::Fold(_) | Segment::Full => {
                None
            }
        });
        texts.collect()
    }

    fn value(&mut self, value: &Json, depth: usize) {
        match value {
            Json::Array(items) if !items.is_empty() => {
                self.plain("[");
                for (index, item) in items.iter().enumerate() {
                    self.next(index, depth + 1);
                    self.value(item, depth + 1);
                }
                self.line(depth);
                self.plain("]");
            }
            Json::Array(_) => self.plain("[]"),
            Json::Bool(true) => self.plain("true"),
            Json::Bool(false) => self.plain("false"),
            Json::Null => self.plain("null"),
            Json::Number(number) => self.plain(number.as_str()),
            Json::Object(members) if !members.is_empty() => {
                self.plain("{");
                for (index, (name, value)) in members.iter().enumerate() {
                    self.next(index, depth + 1);
                    self.string(name, Kind::Name);
                    self.plain(": ");
                    self.value(value, depth + 1);
                }
                self.line(depth);
                self.plain("}");
            }
            Json::Object(_) => self.plain("{}"),
            Json::String(text) => self.string(text, Kind::Prose),
        }
    }

    fn next(&mut self, index: usize, depth: usize) {
        if index > 0 {
            self.plain(",");
        }
        self.line(depth);
    }

    /// Starts a line. Indentation is limited.
    fn line(&mut self, depth: usize) {
        self.plain("\n");
        self.lines.push(self.segments.len());
        self.segments.push(Segment::Plain(" ".repeat(2 * depth.min(12))));
    }

    fn string(&mut self, text: &str, kind: Kind) {
        let characters = text.chars().count();
        self.plain("\"");
        if characters > FOLD_CHARACTERS && self.long == Folding::Long {
            let part = text
                .char_indices()
                .nth(PREVIEW_CHARACTERS)
                .map_or(text, |(end, _)| text.get(..end).unwrap_or(text));
            self.segments.push(Segment::Fold(characters));
            self.isolated(part, Escape::Json, kind);
            self.segments.push(Segment::Full);
            self.isolated(text, Escape::Json, kind);
            self.segments.push(Segment::EndFold);
        } else {
            self.isolated(text, Escape::Json, kind);
        }
        self.plain("\"");
    }

    fn isolated(&mut self, text: &str, escape: Escape, kind: Kind) {
        // ASCII needs no isolation.
        let isolated = !text.is_ascii();
        if isolated {
            self.segments.push(Segment::Isolate);
        }
        let alike = if isolated { look_alikes(text, kind) } else { Vec::new() };
        let mut marks = 0;
        for (index, character) in text.chars().enumerate() {
            marks = if is_mark(character) { marks + 1 } else { 0 };
            match escape.of(character) {
                None if alike.get(index) == Some(&true) => self.unseen(character),
                None if marks <= MAX_MARKS => self.character(character),
                None | Some(Escaped::Invisible) => self.unseen(character),
                Some(Escaped::As(escaped)) => self.plain(escaped),
            }
        }
        if isolated {
            self.segments.push(Segment::EndIsolate);
        }
    }

    fn plain(&mut self, text: &str) {
        match self.segments.last_mut() {
            Some(Segment::Plain(last)) => last.push_str(text),
            Some(_) | None => self.segments.push(Segment::Plain(text.to_owned())),
        }
    }

    fn character(&mut self, character: char) {
        self.plain(character.encode_utf8(&mut [0; 4]));
    }

    fn unseen(&mut self, character: char) {
        let mut escaped = String::new();
        for unit in character.encode_utf16(&mut [0; 2]) {
            escaped.push_str(&format!("\\u{unit:04x}"));
        }
        match self.segments.last_mut() {
            Some(Segment::Invisible(last)) => last.push_str(&escaped),
            Some(_) | None => self.segments.push(Segment::Invisible(escaped)),
        }
    }
}

/// Kind of text. In names, every character matters for identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Name,
    Prose,
}

/// Marks non-ASCII characters that a reader would mistake for ASCII: in words that also have ASCII
/// letters or digits; in names also in words that look entirely ASCII, and outside words.
fn look_alikes(text: &str, kind: Kind) -> Vec<bool> {
    let characters: Vec<char> = text.chars().collect();
    let mut alike = vec![false; characters.len()];
    let mut start = 0;
    while let Some(first) = characters.get(start) {
        let in_word = |character: &char| character.is_alphanumeric() || is_mark(*character);
        let is_word = in_word(first);
        let rest = characters.get(start..).unwrap_or_default();
        let length = match is_word {
            true => rest.iter().take_while(|character| in_word(character)).count(),
            false => 1,
        };
        let word = rest.get(..length).unwrap_or_default();
        let marked: Vec<bool> = word.iter().map(|character| is_look_alike(*character)).collect();
        let all = word.iter().zip(&marked).all(|(character, marked)| character.is_ascii() || *marked);
        let confuses = match kind {
            Kind::Name => all || word.iter().any(char::is_ascii),
            Kind::Prose => is_word && word.iter().any(char::is_ascii),
        };
        if confuses && let Some(part) = alike.get_mut(start..start + length) {
            part.copy_from_slice(&marked);
        }
        start += length.max(1);
    }
    alike
}

/// Returns whether a non-ASCII character looks like ASCII.
fn is_look_alike(character: char) -> bool {
    !character.is_ascii() && skeleton(character.encode_utf8(&mut [0; 4])).all(|seen| seen.is_ascii())
}

/// Finds two distinct but confusable member names of one object, at any depth.
pub(super) fn confusable_names(value: &Json) -> Option<(String, String)> {
    match value {
        Json::Array(items) => items.iter().find_map(confusable_names),
        Json::Object(members) => {
            let mut seen: HashMap<String, &str> = HashMap::with_capacity(members.len());
            for (name, value) in members {
                let lower = name.trim().to_lowercase();
                let looks: String = skeleton(&lower).filter(|character| !character.is_whitespace()).collect();
                if let Some(other) = seen.insert(looks, name) {
                    return Some((other.to_owned(), name.clone()));
                }
                if let Some(found) = confusable_names(value) {
                    return Some(found);
                }
            }
            None
        }
        Json::Bool(_) | Json::Null | Json::Number(_) | Json::String(_) => None,
    }
}

/// What to escape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    /// JSON escapes and invisible characters.
    Json,
    /// Invisible characters.
    Invisible,
    /// Invisible characters except line ends.
    InvisibleButLines,
}

enum Escaped {
    As(&'static str),
    Invisible,
}

impl Escape {
    fn of(self, character: char) -> Option<Escaped> {
        match (self, character) {
            (Self::Json, '"') => Some(Escaped::As("\\\"")),
            (Self::Json, '\\') => Some(Escaped::As("\\\\")),
            (Self::Json, '\n') => Some(Escaped::As("\\n")),
            (Self::Json, '\t') => Some(Escaped::As("\\t")),
            (Self::Json, '\r') => Some(Escaped::As("\\r")),
            (Self::InvisibleButLines, '\n') => None,
            _ if is_visible(character) => None,
            _ => Some(Escaped::Invisible),
        }
    }
}

/// Returns whether the character is visible and does not affect others.
fn is_visible(character: char) -> bool {
    match character {
        ' '..='~' => true,
        // Characters that the standard library considers printable but that are blank or change the
        // appearance of others: joiners, fillers, variation selectors.
        '\u{034f}'
        | '\u{115f}'..='\u{1160}'
        | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{2800}'
        | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{ffa0}'
        | '\u{e0100}'..='\u{e01ef}' => false,
        // Non-printable characters: controls, formats, spaces, private use, unassigned. Tested
        // after a letter, because a mark alone is escaped as well.
        _ => String::from_iter(['x', character]).escape_debug().count() == 2,
    }
}

/// Returns whether the character combines with the previous one.
fn is_mark(character: char) -> bool {
    !character.is_ascii() && is_visible(character) && character.escape_debug().count() > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the displayed text with everything unfolded; escaped characters in brackets.
    fn seen(shown: &DisplayText) -> String {
        read(shown, "[", "]")
    }

    fn read(shown: &DisplayText, open: &str, close: &str) -> String {
        let mut text = String::new();
        let mut part = false;
        for piece in shown.segments() {
            match piece {
                Segment::Fold(_) => part = true,
                Segment::Full => part = false,
                Segment::Plain(plain) if !part => text.push_str(plain),
                Segment::Invisible(unseen) if !part => text.push_str(&format!("{open}{unseen}{close}")),
                Segment::Isolate
                | Segment::EndIsolate
                | Segment::EndFold
                | Segment::Plain(_)
                | Segment::Invisible(_) => {}
            }
        }
        text
    }

    fn json(text: &str) -> DisplayText {
        DisplayText::json(&Json::parse(text.as_bytes()).unwrap(), Folding::Long)
    }

    #[test]
    fn json_keeps_number_literals() {
        let text = r#"{"amount": 1.50, "big": 9007199254740993, "tiny": 1e-9, "none": [], "of": {}, "list": [true, null, {"a": -0}]}"#;
        let expected = "{\n  \"amount\": 1.50,\n  \"big\": 9007199254740993,\n  \"tiny\": 1e-9,\n  \"none\": [],\n  \"of\": {},\n  \
        \"list\": [\n    true,\n    null,\n    {\n      \"a\": -0\n    }\n  ]\n}";
        assert_eq!(seen(&json(text)), expected);
    }

    #[test]
    fn displayed_json_parses_to_same_value() {
        for text in [
            r#"{"<script>alert(1)</script>": "\"&<>'", "nul": "a\u0000b", "back\\slash": "C:\\new"}"#,
            r#"["\u202etxt.exe", "\u200b", "\ue000", "😀", "שלום: 100", "\udb40\udd00", "line\nline\ttab\r", "\u00a0"]"#,
            &format!("[\"{}\"]", "long\\u0000".repeat(1000)),
            &format!("{}1{}", "[".repeat(100), "]".repeat(100)),
        ] {
            let value = Json::parse(text.as_bytes()).unwrap();
            let shown = read(&DisplayText::json(&value, Folding::Long), "", "");
            assert_eq!(Json::parse(shown.as_bytes()).unwrap(), value, "{shown}");
        }
    }

    #[test]
    fn invisible_characters_are_escaped() {
        for (character, escaped) in [
            ('\0', "\\u0000"),
            ('\u{1b}', "\\u001b"),
            ('\u{7f}', "\\u007f"),
            ('\u{a0}', "\\u00a0"),
            ('\u{ad}', "\\u00ad"),
            ('\u{061c}', "\\u061c"),
            ('\u{200b}', "\\u200b"),
            ('\u{200d}', "\\u200d"),
            ('\u{2028}', "\\u2028"),
            ('\u{202e}', "\\u202e"),
            ('\u{2066}', "\\u2066"),
            ('\u{3164}', "\\u3164"),
            ('\u{fe0f}', "\\ufe0f"),
            ('\u{feff}', "\\ufeff"),
            ('\u{e0041}', "\\udb40\\udc41"),
            ('\u{e0100}', "\\udb40\\udd00"),
            ('\u{f0000}', "\\udb80\\udc00"),
        ] {
            for shown in
                [DisplayText::name(&format!("a{character}b")), DisplayText::prose(&format!("a{character}b"))]
            {
                assert_eq!(seen(&shown), format!("a[{escaped}]b"), "{:x}", u32::from(character));
            }
            assert_eq!(
                seen(&DisplayText::json(&Json::from(&*format!("a{character}b")), Folding::Long)),
                format!("\"a[{escaped}]b\"")
            );
        }
        for text in ["😀", "é", "e\u{301}", "हिन्दी", "שלום", "日本語", "ไทย", "a\\b \"c\" <d> &amp;"]
        {
            assert_eq!(seen(&DisplayText::name(text)), text);
        }
        assert_eq!(seen(&DisplayText::name("a\nb")), "a[\\u000a]b");
        assert_eq!(seen(&DisplayText::prose("a\nb")), "a\nb");
    }

    #[test]
    fn look_alike_characters_are_escaped() {
        for (text, expected) in [
            ("p\u{430}ypal", "p[\\u0430]ypal"),
            ("\u{ff50}ay", "[\\uff50]ay"),
            ("pay\u{3bf}ut.create", "pay[\\u03bf]ut.create"),
            ("\u{441}\u{43e}\u{440}\u{443}", "[\\u0441\\u043e\\u0440\\u0443]"),
            ("a\u{2010}b", "a[\\u2010]b"),
            ("\u{43f}\u{43b}\u{430}\u{442}\u{451}\u{436}", "\u{43f}\u{43b}\u{430}\u{442}\u{451}\u{436}"),
            ("caf\u{e9}", "caf\u{e9}"),
            ("Stra\u{df}e", "Stra\u{df}e"),
        ] {
            assert_eq!(seen(&DisplayText::name(text)), expected, "{text}");
        }
        // In prose, a word in another script belongs to another language, and a dash is a dash.
        for text in ["\u{441}\u{43e}\u{440}\u{443}", "1990\u{2013}2000", "it\u{2019}s"] {
            assert_eq!(seen(&DisplayText::prose(text)), text);
            assert!(!DisplayText::json(&Json::from(text), Folding::Nothing).has_marks());
        }
        assert!(DisplayText::prose("send to p\u{430}ypal").has_marks());
        assert!(json("{\"\u{430}mount\": 1}").has_marks());
    }

    #[test]
    fn finds_confusable_names() {
        let found = |text: &str| confusable_names(&Json::parse(text.as_bytes()).unwrap());
        for text in [
            "{\"amount\": 1, \"\u{430}mount\": 2}",
            r#"{"amount": 1, "Amount": 2}"#,
            r#"{"amount": 1, "amount ": 2}"#,
            r#"{"total": 1, "tota1": 2}"#,
            r#"{"a": [{"b": {"modern": 1, "modem": 2}}]}"#,
        ] {
            assert!(found(text).is_some(), "{text}");
        }
        for text in [r#"{"amount": 1, "currency": 2}"#, r#"{"a": {"b": 1}, "c": {"b": 1}}"#, "{}", "[1, 1]"] {
            assert_eq!(found(text), None, "{text}");
        }
    }

    #[test]
    fn stacked_combining_marks_are_escaped() {
        let pile = format!("Z{}", "\u{301}".repeat(6));
        assert_eq!(
            seen(&DisplayText::name(&pile)),
            format!("Z{}[{}]", "\u{301}".repeat(3), "\\u0301".repeat(3))
        );
    }

    #[test]
    fn non_ascii_text_is_bidi_isolated() {
        let shown = json(r#"{"a": "שלום", "b": 100}"#);
        let at = |wanted: &Segment| shown.segments().iter().position(|piece| piece == wanted).unwrap();
        let hebrew = at(&Segment::Plain("שלום".to_owned()));
        assert_eq!((at(&Segment::Isolate), at(&Segment::EndIsolate)), (hebrew - 1, hebrew + 1));
        assert_eq!(DisplayText::name("abc").segments(), [Segment::Plain("abc".to_owned())]);
    }

    #[test]
    fn long_string_is_folded_without_loss() {
        let text = "x".repeat(FOLD_CHARACTERS + 1);
        let shown = json(&format!("\"{text}\""));
        assert_eq!(seen(&shown), format!("\"{text}\""));
        assert!(shown.segments().contains(&Segment::Fold(FOLD_CHARACTERS + 1)));
        assert!(shown.segments().contains(&Segment::Plain("x".repeat(PREVIEW_CHARACTERS))));
        assert!(
            !json(&format!("\"{}\"", "x".repeat(FOLD_CHARACTERS)))
                .segments()
                .contains(&Segment::Fold(FOLD_CHARACTERS))
        );
    }

    #[test]
    fn long_text_is_split_without_loss() {
        let shown = json(&format!("[{}]", vec!["1"; 100].join(",")));
        let (first, rest, more) = shown.split(30);
        assert_eq!(more, 72);
        let text = |segments: &[Segment]| {
            seen(&DisplayText { segments: segments.to_vec(), ..DisplayText::default() })
        };
        assert_eq!(text(first).lines().count(), 30);
        assert_eq!(text(first) + &text(rest), seen(&shown));
        let shown = json("[1, 2]");
        assert_eq!(shown.split(30), (shown.segments(), &[][..], 0));
    }
}
