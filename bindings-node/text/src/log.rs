//! Log lines of a call, for the JavaScript thread.

use actpass_core::json::{JsonWriter, Style};
use actpass_session::CallLog;
use tracing::Level;

/// Drains the lines as JSON text, `[[level, text], …]`; empty without lines.
pub fn take(log: &CallLog) -> String {
    let lines = log.drain();
    if lines.is_empty() {
        return String::new();
    }
    let mut text = JsonWriter::new(Style::Compact);
    text.raw("[");
    for (at, line) in lines.iter().enumerate() {
        text.comma(at);
        text.raw("[");
        text.string(name_of(line.level));
        text.raw(",");
        text.string(&line.text);
        text.raw("]");
    }
    text.raw("]");
    text.into_string()
}

/// The level with this name; `None` for `off`.
pub fn level_of(name: &str) -> Option<Level> {
    [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG].into_iter().find(|level| name_of(*level) == name)
}

/// The logger method for this level.
fn name_of(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}
