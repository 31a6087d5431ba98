//! Text of unknown origin, made so that what is seen is what is there.
//!
//! Nothing here is HTML: a text becomes pieces, and the template escapes each.

use std::collections::HashMap;

use actpass_protocol::Json;
use unicode_security::skeleton;

/// A string of more characters than this is folded.
const LONG: usize = 400;

/// How much of a folded string is seen, in characters.
const PREVIEW: usize = 120;

/// How many marks may stand on one letter. More of them reach into the lines above and below.
const MARKS: usize = 3;

/// A piece of a text, as the template shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Stands apart: letters that are written from right to left move nothing outside of it.
    Apart,
    /// The end of [`Piece::Apart`].
    EndApart,
    /// The next two texts apart are a part of a string, and the whole of it, of so many characters.
    Fold(usize),
    /// Where the part ends and the whole begins.
    Whole,
    /// The end of [`Piece::Fold`].
    EndFold,
    /// As it is.
    Plain(String),
    /// What could not be seen, or would change how the rest is seen: as JSON escapes it.
    Unseen(String),
}

/// A text in pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    pieces: Vec<Piece>,
    /// Where the lines after the first begin.
    lines: Vec<usize>,
    long: Folds,
}

/// What is folded of a JSON text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Folds {
    /// Long strings.
    Long,
    #[default]
    Nothing,
}

impl Shown {
    /// A name: a single line.
    pub(super) fn name(text: &str) -> Self {
        let mut shown = Self::default();
        shown.apart(text, Escape::Unseen, Kind::Name);
        shown
    }

    /// What a person or an agent wrote, with its lines.
    pub(super) fn prose(text: &str) -> Self {
        let mut shown = Self::default();
        shown.apart(text, Escape::UnseenButLines, Kind::Prose);
        shown
    }

    /// JSON, a member a line, each number as it came. With what is folded unfolded, it is the same JSON.
    pub(super) fn json(value: &Json, folds: Folds) -> Self {
        let mut shown = Self { long: folds, ..Self::default() };
        shown.value(value, 0);
        shown
    }

    /// Whether a part of it is folded.
    pub(super) fn folds(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Fold(_)))
    }

    /// The first `lines` lines, the others, and how many these are.
    pub(super) fn split(&self, lines: usize) -> (&[Piece], &[Piece], usize) {
        // A fold of one or two lines would hide more than it saves.
        let at = lines.checked_sub(1).and_then(|line| self.lines.get(line));
        match at {
            Some(at) if self.lines.len() > lines + 2 => {
                let (first, rest) = self.pieces.split_at_checked(*at).unwrap_or((&self.pieces, &[]));
                (first, rest, self.lines.len() + 1 - lines)
            }
            Some(_) | None => (&self.pieces, &[], 0),
        }
    }

    /// All of it.
    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Whether it has characters that are not seen.
    pub(super) fn hides(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Unseen(_)))
    }

    /// The text alone, for where no piece can be marked.
    pub(super) fn plain_text(&self) -> String {
        let texts = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Plain(text) | Piece::Unseen(text) => Some(text.as_str()),
            Piece::Apart | Piece::EndApart | Piece::EndFold | Piece::Fold(_) | Piece::Whole => None,
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

    /// A new line. What is deeper than a screen is wide is not moved any further.
    fn line(&mut self, depth: usize) {
        self.plain("\n");
        self.lines.push(self.pieces.len());
        self.pieces.push(Piece::Plain(" ".repeat(2 * depth.min(12))));
    }

    fn string(&mut self, text: &str, kind: Kind) {
        let characters = text.chars().count();
        self.plain("\"");
        if characters > LONG && self.long == Folds::Long {
            let part =
                text.char_indices().nth(PREVIEW).map_or(text, |(end, _)| text.get(..end).unwrap_or(text));
            self.pieces.push(Piece::Fold(characters));
            self.apart(part, Escape::Json, kind);
            self.pieces.push(Piece::Whole);
            self.apart(text, Escape::Json, kind);
            self.pieces.push(Piece::EndFold);
        } else {
            self.apart(text, Escape::Json, kind);
        }
        self.plain("\"");
    }

    fn apart(&mut self, text: &str, escape: Escape, kind: Kind) {
        // What is ASCII has no direction of its own.
        let apart = !text.is_ascii();
        if apart {
            self.pieces.push(Piece::Apart);
        }
        let alike = if apart { look_alikes(text, kind) } else { Vec::new() };
        let mut marks = 0;
        for (index, character) in text.chars().enumerate() {
            marks = if is_mark(character) { marks + 1 } else { 0 };
            match escape.of(character) {
                None if alike.get(index) == Some(&true) => self.unseen(character),
                None if marks <= MARKS => self.character(character),
                None | Some(Escaped::Unseen) => self.unseen(character),
                Some(Escaped::As(escaped)) => self.plain(escaped),
            }
        }
        if apart {
            self.pieces.push(Piece::EndApart);
        }
    }

    fn plain(&mut self, text: &str) {
        match self.pieces.last_mut() {
            Some(Piece::Plain(last)) => last.push_str(text),
            Some(_) | None => self.pieces.push(Piece::Plain(text.to_owned())),
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
        match self.pieces.last_mut() {
            Some(Piece::Unseen(last)) => last.push_str(&escaped),
            Some(_) | None => self.pieces.push(Piece::Unseen(escaped)),
        }
    }
}

/// What a text is: in a name, every character tells it apart from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Name,
    Prose,
}

/// Which characters look like ASCII ones and are others, where a reader would take them for those: in a word that has
/// ASCII letters or digits beside them; in a name, also in a word that can be read as ASCII as a whole, and outside of words.
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

/// Whether a character is no ASCII one and looks like one or more of them.
fn is_look_alike(character: char) -> bool {
    !character.is_ascii() && skeleton(character.encode_utf8(&mut [0; 4])).all(|seen| seen.is_ascii())
}

/// Two names of one object, somewhere in the value, that look alike and are different.
pub(super) fn colliding(value: &Json) -> Option<(String, String)> {
    match value {
        Json::Array(items) => items.iter().find_map(colliding),
        Json::Object(members) => {
            let mut seen: HashMap<String, &str> = HashMap::with_capacity(members.len());
            for (name, value) in members {
                let lower = name.trim().to_lowercase();
                let looks: String = skeleton(&lower).filter(|character| !character.is_whitespace()).collect();
                if let Some(other) = seen.insert(looks, name) {
                    return Some((other.to_owned(), name.clone()));
                }
                if let Some(found) = colliding(value) {
                    return Some(found);
                }
            }
            None
        }
        Json::Bool(_) | Json::Null | Json::Number(_) | Json::String(_) => None,
    }
}

/// What is shown as something else than itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    /// What JSON escapes, and what is not seen.
    Json,
    /// What is not seen.
    Unseen,
    /// What is not seen, but for the ends of lines.
    UnseenButLines,
}

enum Escaped {
    As(&'static str),
    Unseen,
}

impl Escape {
    fn of(self, character: char) -> Option<Escaped> {
        match (self, character) {
            (Self::Json, '"') => Some(Escaped::As("\\\"")),
            (Self::Json, '\\') => Some(Escaped::As("\\\\")),
            (Self::Json, '\n') => Some(Escaped::As("\\n")),
            (Self::Json, '\t') => Some(Escaped::As("\\t")),
            (Self::Json, '\r') => Some(Escaped::As("\\r")),
            (Self::UnseenButLines, '\n') => None,
            _ if is_seen(character) => None,
            _ => Some(Escaped::Unseen),
        }
    }
}

/// Whether a reader sees that this character is there, and it changes nothing but its own place.
fn is_seen(character: char) -> bool {
    match character {
        ' '..='~' => true,
        // Those that the standard library takes to be printable, and that are blank all the same or choose how
        // another looks: joiners, fillers, variation selectors.
        '\u{034f}'
        | '\u{115f}'..='\u{1160}'
        | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{2800}'
        | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{ffa0}'
        | '\u{e0100}'..='\u{e01ef}' => false,
        // Controls, formats, spaces other than the space, what is private or not assigned: all that is not printable.
        // Behind a letter, because a mark alone is escaped too.
        _ => String::from_iter(['x', character]).escape_debug().count() == 2,
    }
}

/// Whether the character stands on the one before it.
fn is_mark(character: char) -> bool {
    !character.is_ascii() && is_seen(character) && character.escape_debug().count() > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reader sees, everything unfolded; what is unseen in brackets.
    fn seen(shown: &Shown) -> String {
        read(shown, "[", "]")
    }

    fn read(shown: &Shown, open: &str, close: &str) -> String {
        let mut text = String::new();
        let mut part = false;
        for piece in shown.pieces() {
            match piece {
                Piece::Fold(_) => part = true,
                Piece::Whole => part = false,
                Piece::Plain(plain) if !part => text.push_str(plain),
                Piece::Unseen(unseen) if !part => text.push_str(&format!("{open}{unseen}{close}")),
                Piece::Apart | Piece::EndApart | Piece::EndFold | Piece::Plain(_) | Piece::Unseen(_) => {}
            }
        }
        text
    }

    fn json(text: &str) -> Shown {
        Shown::json(&Json::parse(text.as_bytes()).unwrap(), Folds::Long)
    }

    #[test]
    fn json_is_laid_out_and_its_numbers_are_as_they_came() {
        let text = r#"{"amount": 1.50, "big": 9007199254740993, "tiny": 1e-9, "none": [], "of": {}, "list": [true, null, {"a": -0}]}"#;
        let expected = "{\n  \"amount\": 1.50,\n  \"big\": 9007199254740993,\n  \"tiny\": 1e-9,\n  \"none\": [],\n  \"of\": {},\n  \
                        \"list\": [\n    true,\n    null,\n    {\n      \"a\": -0\n    }\n  ]\n}";
        assert_eq!(seen(&json(text)), expected);
    }

    #[test]
    fn what_is_shown_is_the_same_json() {
        for text in [
            r#"{"<script>alert(1)</script>": "\"&<>'", "nul": "a\u0000b", "back\\slash": "C:\\new"}"#,
            r#"["\u202etxt.exe", "\u200b", "\ue000", "😀", "שלום: 100", "\udb40\udd00", "line\nline\ttab\r", "\u00a0"]"#,
            &format!("[\"{}\"]", "long\\u0000".repeat(1000)),
            &format!("{}1{}", "[".repeat(100), "]".repeat(100)),
        ] {
            let value = Json::parse(text.as_bytes()).unwrap();
            let shown = read(&Shown::json(&value, Folds::Long), "", "");
            assert_eq!(Json::parse(shown.as_bytes()).unwrap(), value, "{shown}");
        }
    }

    #[test]
    fn what_cannot_be_seen_is_made_visible() {
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
            for shown in [Shown::name(&format!("a{character}b")), Shown::prose(&format!("a{character}b"))] {
                assert_eq!(seen(&shown), format!("a[{escaped}]b"), "{:x}", u32::from(character));
            }
            assert_eq!(
                seen(&Shown::json(&Json::from(&*format!("a{character}b")), Folds::Long)),
                format!("\"a[{escaped}]b\"")
            );
        }
        for text in ["😀", "é", "e\u{301}", "हिन्दी", "שלום", "日本語", "ไทย", "a\\b \"c\" <d> &amp;"]
        {
            assert_eq!(seen(&Shown::name(text)), text);
        }
        assert_eq!(seen(&Shown::name("a\nb")), "a[\\u000a]b");
        assert_eq!(seen(&Shown::prose("a\nb")), "a\nb");
    }

    #[test]
    fn characters_that_look_like_others_are_made_visible() {
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
            assert_eq!(seen(&Shown::name(text)), expected, "{text}");
        }
        // In prose a whole word of another script is a word of another language, and a dash is a dash.
        for text in ["\u{441}\u{43e}\u{440}\u{443}", "1990\u{2013}2000", "it\u{2019}s"] {
            assert_eq!(seen(&Shown::prose(text)), text);
            assert!(!Shown::json(&Json::from(text), Folds::Nothing).hides());
        }
        assert!(Shown::prose("send to p\u{430}ypal").hides());
        assert!(json("{\"\u{430}mount\": 1}").hides());
    }

    #[test]
    fn names_that_look_alike_are_found() {
        let found = |text: &str| colliding(&Json::parse(text.as_bytes()).unwrap());
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
    fn marks_do_not_pile_up() {
        let pile = format!("Z{}", "\u{301}".repeat(6));
        assert_eq!(seen(&Shown::name(&pile)), format!("Z{}[{}]", "\u{301}".repeat(3), "\\u0301".repeat(3)));
    }

    #[test]
    fn what_is_not_ascii_stands_apart() {
        let shown = json(r#"{"a": "שלום", "b": 100}"#);
        let at = |wanted: &Piece| shown.pieces().iter().position(|piece| piece == wanted).unwrap();
        let hebrew = at(&Piece::Plain("שלום".to_owned()));
        assert_eq!((at(&Piece::Apart), at(&Piece::EndApart)), (hebrew - 1, hebrew + 1));
        assert_eq!(Shown::name("abc").pieces(), [Piece::Plain("abc".to_owned())]);
    }

    #[test]
    fn a_long_string_is_folded_and_all_there() {
        let text = "x".repeat(LONG + 1);
        let shown = json(&format!("\"{text}\""));
        assert_eq!(seen(&shown), format!("\"{text}\""));
        assert!(shown.pieces().contains(&Piece::Fold(LONG + 1)));
        assert!(shown.pieces().contains(&Piece::Plain("x".repeat(PREVIEW))));
        assert!(!json(&format!("\"{}\"", "x".repeat(LONG))).pieces().contains(&Piece::Fold(LONG)));
    }

    #[test]
    fn many_lines_are_split_and_none_is_lost() {
        let shown = json(&format!("[{}]", vec!["1"; 100].join(",")));
        let (first, rest, more) = shown.split(30);
        assert_eq!(more, 72);
        let text = |pieces: &[Piece]| seen(&Shown { pieces: pieces.to_vec(), ..Shown::default() });
        assert_eq!(text(first).lines().count(), 30);
        assert_eq!(text(first) + &text(rest), seen(&shown));
        let shown = json("[1, 2]");
        assert_eq!(shown.split(30), (shown.pieces(), &[][..], 0));
    }
}
