//! Messages on a byte stream.

use std::io::{self, BufRead, BufReader, Read};

/// Maximum size of a message, in bytes.
pub(crate) const MAX_MESSAGE: usize = 4 << 20;

/// Maximum size of the headers of a message, in bytes.
const MAX_HEADERS: usize = 4096;

/// How messages are separated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// `Content-Length: N`, an empty line, and N bytes: the standard's.
    Headers,
    /// One message a line.
    Lines,
}

impl Framing {
    /// Writes a message, which contains no line feed.
    pub(crate) fn write(self, message: &str) -> Vec<u8> {
        match self {
            Self::Headers => format!("Content-Length: {}\r\n\r\n{message}", message.len()).into_bytes(),
            Self::Lines => format!("{message}\n").into_bytes(),
        }
    }
}

/// A message, or its replacement.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Message(Vec<u8>),
    /// A message over [`MAX_MESSAGE`], which was skipped.
    TooLarge,
    /// The stream cannot be read further.
    Broken(String),
}

/// Reads messages. The first byte that is no white space determines the framing of the stream: a
/// line starts with `{` or `[`, a header does not.
pub(crate) struct FrameReader<R> {
    reader: BufReader<R>,
    framing: Option<Framing>,
}

impl<R: Read> FrameReader<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader: BufReader::new(reader), framing: None }
    }

    /// Reads the next message; `None` at the end of the stream. Nothing follows [`Frame::Broken`].
    pub(crate) fn read_frame(&mut self) -> Option<(Framing, Frame)> {
        let framing = match self.framing {
            Some(framing) => framing,
            None => match self.detect() {
                Ok(framing) => *self.framing.insert(framing?),
                Err(error) => return Some((Framing::Headers, broken(&error))),
            },
        };
        let read = match framing {
            Framing::Headers => self.read_with_headers(),
            Framing::Lines => self.read_line(),
        };
        Some((framing, read.unwrap_or_else(|error| Some(broken(&error)))?))
    }

    fn detect(&mut self) -> io::Result<Option<Framing>> {
        loop {
            let bytes = self.reader.fill_buf()?;
            let blank = bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            match bytes.get(blank) {
                Some(b'{' | b'[') => return Ok(Some(Framing::Lines)),
                Some(_) => return Ok(Some(Framing::Headers)),
                None if bytes.is_empty() => return Ok(None),
                None => self.reader.consume(blank),
            }
        }
    }

    fn read_with_headers(&mut self) -> io::Result<Option<Frame>> {
        let mut length = None;
        let mut left = MAX_HEADERS;
        loop {
            let mut line = Vec::new();
            let limit = u64::try_from(left).unwrap_or(u64::MAX);
            let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut line)?;
            if read == 0 && left == MAX_HEADERS {
                return Ok(None);
            }
            left -= read;
            let Some(line) = line.strip_suffix(b"\n") else {
                return Err(invalid("headers: expected lines, at most 4096 bytes, and an empty line"));
            };
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                break;
            }
            let line = str::from_utf8(line).ok().and_then(|line| line.split_once(':'));
            let (name, value) = line.ok_or_else(|| invalid("headers: expected NAME: VALUE"))?;
            if name.eq_ignore_ascii_case("content-length") {
                let value = value.trim();
                let digits = value.bytes().all(|byte| byte.is_ascii_digit());
                let value = value.parse().ok().filter(|_: &usize| digits && length.is_none());
                length = Some(value.ok_or_else(|| invalid("Content-Length: expected one number"))?);
            }
        }
        let length = length.ok_or_else(|| invalid("Content-Length: missing"))?;
        let limit = u64::try_from(length).unwrap_or(u64::MAX);
        let mut content = self.reader.by_ref().take(limit);
        let (read, frame) = if length > MAX_MESSAGE {
            (io::copy(&mut content, &mut io::sink())?, Frame::TooLarge)
        } else {
            let mut message = Vec::new();
            let read = content.read_to_end(&mut message)?;
            (u64::try_from(read).unwrap_or(u64::MAX), Frame::Message(message))
        };
        if read < limit { Err(invalid("the stream ended inside a message")) } else { Ok(Some(frame)) }
    }

    fn read_line(&mut self) -> io::Result<Option<Frame>> {
        let mut line = Vec::new();
        let mut is_too_large = false;
        loop {
            let bytes = self.reader.fill_buf()?;
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(bytes.len(), |end| end + 1);
            let is_last = taken == 0;
            is_too_large |= line.len() + taken > MAX_MESSAGE;
            match is_too_large {
                true => line.clear(),
                false => line.extend_from_slice(bytes.get(..taken).unwrap_or_default()),
            }
            self.reader.consume(taken);
            if end.is_none() && !is_last {
                continue;
            }
            if is_too_large {
                return Ok(Some(Frame::TooLarge));
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(Frame::Message(line)));
            }
            if is_last {
                return Ok(None);
            }
            line.clear();
        }
    }
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

fn broken(error: &io::Error) -> Frame {
    Frame::Broken(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(stream: &[u8]) -> Vec<(Framing, Frame)> {
        let mut reader = FrameReader::new(stream);
        let mut frames = Vec::new();
        while let Some(frame) = reader.read_frame() {
            let is_broken = matches!(frame.1, Frame::Broken(_));
            frames.push(frame);
            if is_broken {
                break;
            }
        }
        frames
    }

    fn messages(framing: Framing, messages: &[&str]) -> Vec<(Framing, Frame)> {
        messages.iter().map(|text| (framing, Frame::Message(text.as_bytes().to_vec()))).collect()
    }

    #[test]
    fn first_byte_determines_the_framing() {
        let (headers, lines) = (Framing::Headers, Framing::Lines);
        for (stream, expected) in [
            ("", messages(headers, &[])),
            ("\n\n", messages(headers, &[])),
            (
                "Content-Length: 2\r\n\r\n{}content-length:3\r\nContent-Type: x\r\n\r\n[1]",
                messages(headers, &["{}", "[1]"]),
            ),
            ("Content-Length: 5\n\n{\n\n\n}", messages(headers, &["{\n\n\n}"])),
            ("{}\n\n[]\r\n{1}", messages(lines, &["{}\n", "[]\r\n", "{1}"])),
            // In a stream of lines, a header is a message that is no JSON.
            ("{}\nContent-Length: 2\n", messages(lines, &["{}\n", "Content-Length: 2\n"])),
        ] {
            assert_eq!(read(stream.as_bytes()), expected, "{stream:?}");
        }
        for framing in [headers, lines] {
            let written = [framing.write("{\"a\":\"é\"}"), framing.write("{}")].concat();
            let read = read(&written);
            assert!(read.iter().all(|(found, _)| *found == framing) && read.len() == 2, "{read:?}");
        }
    }

    #[test]
    fn invalid_headers_break_the_stream() {
        for (stream, problem) in [
            ("hello\n", "NAME: VALUE"),
            ("Content-Length: 2", "an empty line"),
            ("Content-Type: x\r\n\r\n{}", "missing"),
            ("Content-Length: -1\r\n\r\n", "one number"),
            ("Content-Length: +1\r\n\r\n{", "one number"),
            ("Content-Length: 1\r\nContent-Length: 1\r\n\r\n{", "one number"),
            ("Content-Length: 99999999999999999999999\r\n\r\n{", "one number"),
            ("Content-Length: 3\r\n\r\n{}", "ended inside"),
            (&format!("a: {}\r\n\r\n", "x".repeat(MAX_HEADERS)), "at most 4096"),
        ] {
            let found = read(stream.as_bytes());
            let [(Framing::Headers, Frame::Broken(found))] = found.as_slice() else { panic!("{found:?}") };
            assert!(found.contains(problem), "{stream:?}: {found}");
        }
    }

    #[test]
    fn large_messages_are_skipped() {
        let large = format!("{{{}}}", " ".repeat(MAX_MESSAGE));
        for framing in [Framing::Headers, Framing::Lines] {
            let stream = [framing.write("{}"), framing.write(&large), framing.write("[]")].concat();
            let found = read(&stream);
            assert_eq!(found.len(), 3);
            assert_eq!(found[1], (framing, Frame::TooLarge));
            assert!(matches!(&found[2].1, Frame::Message(message) if message.starts_with(b"[]")));
        }
    }
}
