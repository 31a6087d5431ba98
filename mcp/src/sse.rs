//! Server-sent events.

use crate::client::Event;
use crate::lines::MAX_MESSAGE;

/// An event of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) data: String,
    pub(crate) id: Option<String>,
    pub(crate) retry: Option<u64>,
    /// The type. An event without a type is a message.
    kind: String,
}

impl Received {
    /// Whether it is a message, or has an id without one.
    pub(crate) fn is_message(&self) -> bool {
        matches!(self.kind.as_str(), "" | "message")
    }
}

/// An event, or the field of one, is longer than [`MAX_MESSAGE`], or is not UTF-8.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InvalidEvent;

/// Splits a stream into events, as WHATWG HTML defines it.
#[derive(Debug, Default)]
pub(crate) struct Events {
    line: Vec<u8>,
    /// The last byte was a carriage return, which a line feed completes.
    after_return: bool,
    is_started: bool,
    has_data: bool,
    event: Received,
}

impl Events {
    /// Adds the next bytes of the stream, and returns the events that they complete.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Result<Vec<Received>, InvalidEvent> {
        let mut found = Vec::new();
        for byte in bytes {
            let after_return = std::mem::replace(&mut self.after_return, *byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\r' | b'\n' => found.extend(self.end_line()?),
                _ => self.line.push(*byte),
            }
            if self.line.len() > MAX_MESSAGE {
                return Err(InvalidEvent);
            }
        }
        Ok(found)
    }

    fn end_line(&mut self) -> Result<Option<Received>, InvalidEvent> {
        let line = String::from_utf8(std::mem::take(&mut self.line)).map_err(|_| InvalidEvent)?;
        let line = match std::mem::replace(&mut self.is_started, true) {
            true => line.as_str(),
            false => line.strip_prefix('\u{feff}').unwrap_or(&line),
        };
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            let is_event = std::mem::take(&mut self.has_data) || event.id.is_some() || event.retry.is_some();
            return Ok(is_event.then_some(event));
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                if self.event.data.len() > MAX_MESSAGE {
                    return Err(InvalidEvent);
                }
            }
            "event" => value.clone_into(&mut self.event.kind),
            "id" if !value.contains('\0') => self.event.id = Some(value.to_owned()),
            "retry" => self.event.retry = value.parse().ok(),
            _ => {}
        }
        Ok(None)
    }
}

/// Writes an event with a message, which has no line breaks.
pub(crate) fn write(event: &Event, message: &str) -> String {
    let mut out = String::with_capacity(message.len() + 32);
    out.push_str("event: message\n");
    if let Some(id) = &event.id {
        out.push_str("id: ");
        out.push_str(id);
        out.push('\n');
    }
    if let Some(retry) = event.retry {
        out.push_str(&format!("retry: {retry}\n"));
    }
    out.push_str("data: ");
    out.push_str(message);
    out.push_str("\n\n");
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn parses_events_however_the_stream_is_cut() {
        let text = "\u{feff}: hello\r\nid: 1\r\ndata: \r\n\r\nevent: message\rdata: {\"a\":\rdata:1}\r\rretry: 20\n\nevent: ping\ndata\n\ndata: cut";
        for size in [1, 2, 3, 1000] {
            let mut events = Events::default();
            let mut found = Vec::new();
            for part in text.as_bytes().chunks(size) {
                found.extend(events.add(part).unwrap());
            }
            assert_eq!(found.len(), 4, "{found:?}");
            assert_eq!((found[0].id.as_deref(), found[0].data.as_str()), (Some("1"), ""));
            assert_eq!((found[1].data.as_str(), found[1].is_message()), ("{\"a\":\n1}", true));
            assert_eq!(found[2].retry, Some(20));
            assert!(!found[3].is_message());
        }
    }

    #[test]
    fn rejects_long_events() {
        let part = vec![b'x'; MAX_MESSAGE / 2 + 8];
        let mut events = Events::default();
        events.add(&part).unwrap();
        assert_eq!(events.add(&part), Err(InvalidEvent));
        let mut events = Events::default();
        events.add(b"data:").unwrap();
        events.add(&part).unwrap();
        events.add(b"\ndata:").unwrap();
        events.add(&part).unwrap();
        assert_eq!(events.add(b"\n"), Err(InvalidEvent));
    }

    #[test]
    fn written_events_are_parsed() {
        let event = Event { id: Some("7-1".to_owned()), retry: Some(5) };
        let found = Events::default().add(write(&event, "{\"a\": 1}").as_bytes()).unwrap();
        assert_eq!((found[0].id.as_deref(), found[0].retry), (Some("7-1"), Some(5)));
        assert_eq!(found[0].data, "{\"a\": 1}");
    }
}
