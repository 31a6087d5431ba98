//! The JSON writer.

/// The layout of a JSON text.
///
/// ```
/// use actpass_protocol::json::{Style, JsonWriter};
///
/// let mut text = JsonWriter::new(Style::Compact);
/// text.key("name");
/// text.string("Zoë");
/// assert_eq!(text.as_str(), r#""name":"Zoë""#);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// No white space, UTF-8 unescaped.
    Compact,
    /// Like Python's `json.dumps` with its defaults, as client 1.1.3 sends: a space after each
    /// comma and colon, and ASCII only.
    PythonCompat,
}

/// Writes a JSON text.
///
/// ```
/// use actpass_protocol::json::{Style, JsonWriter};
///
/// let mut text = JsonWriter::new(Style::PythonCompat);
/// text.raw("{");
/// text.key("name");
/// text.string("Zoë");
/// text.raw("}");
/// assert_eq!(text.as_str(), r#"{"name": "Zo\u00eb"}"#);
/// ```
#[derive(Clone, Debug)]
pub struct JsonWriter {
    style: Style,
    pub(super) out: String,
}

/// Bytes examined at a time.
const BLOCK_SIZE: usize = 16;

/// Whether a byte of a string is always escaped: a quote, a backslash or a control character.
#[inline]
fn is_escaped(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\') | (byte < b' ')
}

/// The position of the first byte for which `found` holds. Most strings have none; whole blocks
/// without one are skipped.
#[inline]
fn first(bytes: &[u8], found: impl Fn(u8) -> bool) -> Option<usize> {
    let plain = |block: &&[u8]| !block.iter().fold(false, |any, byte| any | found(*byte));
    let skipped = bytes.chunks_exact(BLOCK_SIZE).take_while(plain).count() * BLOCK_SIZE;
    bytes.get(skipped..)?.iter().position(|byte| found(*byte)).map(|at| skipped + at)
}

impl JsonWriter {
    /// Creates an empty text.
    pub fn new(style: Style) -> Self {
        Self::with_capacity(style, 256)
    }

    /// Creates an empty text with space for `bytes`.
    pub fn with_capacity(style: Style, bytes: usize) -> Self {
        Self { style, out: String::with_capacity(bytes) }
    }

    /// Appends `text` unchanged.
    #[inline]
    pub fn raw(&mut self, text: &str) {
        self.out.push_str(text);
    }

    /// Appends the comma before item or member number `at`; nothing for the first.
    #[inline]
    pub fn comma(&mut self, at: usize) {
        if at > 0 {
            self.out.push_str(match self.style {
                Style::Compact => ",",
                Style::PythonCompat => ", ",
            });
        }
    }

    /// Appends a key and its colon.
    #[inline]
    pub fn key(&mut self, key: &str) {
        self.string(key);
        self.out.push_str(match self.style {
            Style::Compact => ":",
            Style::PythonCompat => ": ",
        });
    }

    /// Appends a string, quoted and escaped.
    #[inline]
    pub fn string(&mut self, text: &str) {
        self.out.push('"');
        let mut rest = text;
        while let Some(at) = self.first_escaped(rest) {
            let (plain, tail) = rest.split_at(at);
            self.out.push_str(plain);
            let mut chars = tail.chars();
            if let Some(c) = chars.next() {
                self.escape(c);
            }
            rest = chars.as_str();
        }
        self.out.push_str(rest);
        self.out.push('"');
    }

    /// The text so far.
    #[inline]
    pub fn as_str(&self) -> &str {
        &self.out
    }

    /// The text.
    #[inline]
    pub fn into_string(self) -> String {
        self.out
    }

    /// The position of the first character to escape. Escaped bytes never occur inside a multi-byte
    /// character.
    #[inline]
    fn first_escaped(&self, text: &str) -> Option<usize> {
        let ascii_only = self.style == Style::PythonCompat;
        first(text.as_bytes(), |byte| is_escaped(byte) | (ascii_only & matches!(byte, 0x7f..=0xff)))
    }

    fn escape(&mut self, c: char) {
        match c {
            '"' => self.out.push_str("\\\""),
            '\\' => self.out.push_str("\\\\"),
            '\n' => self.out.push_str("\\n"),
            '\r' => self.out.push_str("\\r"),
            '\t' => self.out.push_str("\\t"),
            '\x08' => self.out.push_str("\\b"),
            '\x0c' => self.out.push_str("\\f"),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    self.out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
}
