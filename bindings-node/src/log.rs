//! The core's log lines, kept with the call that they are about and handed over when it ends, on the JavaScript thread.

use std::cell::RefCell;
use std::fmt::{self, Write};
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::task::{Context, Poll};

use actpass_core::json::{Style, Text};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, set_global_default};
use tracing::{Event, Level, Metadata, Subscriber};

thread_local! {
    /// The log of the call that this thread polls.
    static CURRENT: RefCell<Option<Arc<Log>>> = const { RefCell::new(None) };
}

/// The lines of one call.
pub(crate) struct Log {
    level: Level,
    lines: Mutex<Vec<(Level, String)>>,
}

impl Log {
    /// A log of the lines of `level` and of more important ones.
    pub(crate) fn new(level: Level) -> Arc<Self> {
        static LISTENING: Once = Once::new();
        // Only this module's own copy of the core logs by this subscriber, so nobody else can have been first.
        LISTENING.call_once(|| drop(set_global_default(Collector)));
        Arc::new(Self { level, lines: Mutex::default() })
    }

    /// The lines as JSON text, `[[level, text], …]`, empty if there are none. They are handed over once.
    pub(crate) fn take(&self) -> String {
        let lines = mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner));
        if lines.is_empty() {
            return String::new();
        }
        let mut text = Text::new(Style::Compact);
        text.raw("[");
        for (at, (level, line)) in lines.iter().enumerate() {
            text.comma(at);
            text.raw("[");
            text.string(name_of(*level));
            text.raw(",");
            text.string(line);
            text.raw("]");
        }
        text.raw("]");
        text.into_string()
    }
}

/// The level of this name; `None` for `off`.
pub(crate) fn level_of(name: &str) -> Option<Level> {
    [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG].into_iter().find(|level| name_of(*level) == name)
}

/// The method of a logger that takes lines of this level.
fn name_of(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

/// A call whose lines go to `log`.
pub(crate) struct Logged<F> {
    pub(crate) call: Pin<Box<F>>,
    pub(crate) log: Option<Arc<Log>>,
}

impl<F: Future> Future for Logged<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let _restored = Restore(CURRENT.replace(self.log.clone()));
        self.call.as_mut().poll(context)
    }
}

/// Restores the current log, also after a panic.
struct Restore(Option<Arc<Log>>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

struct Collector;

impl Subscriber for Collector {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match metadata.is_event() && metadata.target().starts_with("actpass") {
            true => Interest::sometimes(),
            false => Interest::never(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && CURRENT.with_borrow(|log| log.as_ref().is_some_and(|log| *metadata.level() <= log.level))
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        CURRENT.with_borrow(|log| {
            if let Some(log) = log {
                // A line stays one line, whatever a tool or a gateway is named.
                let text = (line.message + &line.fields).replace(char::is_control, " ");
                let line = (*event.metadata().level(), text);
                log.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// `message key=value …`
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn write(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => self.message.write_fmt(value),
            name => write!(self.fields, " {name}={value}"),
        };
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.write(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write(field, format_args!("{value:?}"));
    }
}
