//! Log lines of the core for a client's logger.
//!
//! A dedicated thread delivers them, so a logger that blocks or throws does not affect a call. The
//! thread ends with the last client that uses the logger.

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use actpass_core::{Error, ErrorKind};
use tracing::dispatcher::Dispatch;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

/// The maximum number of queued lines. Further lines are dropped and counted.
const QUEUE: usize = 1024;

/// The levels of log lines.
#[derive(Clone, Copy, Debug, uniffi::Enum)]
pub(crate) enum NativeLogLevel {
    /// Each call: permits, retries and completions.
    Debug,
    /// Blocked actions.
    Info,
    /// Gate failures.
    Warning,
}

impl From<NativeLogLevel> for Level {
    fn from(level: NativeLogLevel) -> Self {
        match level {
            NativeLogLevel::Debug => Self::DEBUG,
            NativeLogLevel::Info => Self::INFO,
            NativeLogLevel::Warning => Self::WARN,
        }
    }
}

/// A log line.
#[derive(Debug, uniffi::Record)]
pub(crate) struct NativeLogEvent {
    /// The level.
    pub(crate) level: NativeLogLevel,
    /// The message.
    pub(crate) message: String,
    /// Its fields.
    pub(crate) fields: HashMap<String, String>,
}

/// The logger of a public API layer.
#[uniffi::export(with_foreign)]
pub(crate) trait NativeLogger: Send + Sync {
    /// Receives a line.
    fn log(&self, event: NativeLogEvent);
}

/// Creates a subscriber that delivers lines of this level and above to `logger`.
pub(crate) fn subscriber(logger: Arc<dyn NativeLogger>, level: NativeLogLevel) -> Result<Dispatch, Error> {
    let (lines, queue) = sync_channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    let lost = Arc::clone(&dropped);
    let thread = std::thread::Builder::new().name("actpass-log".to_owned());
    thread.spawn(move || deliver(&*logger, &queue, &lost)).map_err(|error| {
        Error::new(ErrorKind::Internal, format!("cannot start the logger thread: {error}")).with_source(error)
    })?;
    Ok(Dispatch::new(Collector { level: level.into(), lines, dropped }))
}

fn deliver(logger: &dyn NativeLogger, queue: &Receiver<NativeLogEvent>, dropped: &AtomicU64) {
    // The public API layers catch what their loggers throw. Anything else is a panic, which is
    // caught here.
    let log = |event| drop(catch_unwind(AssertUnwindSafe(|| logger.log(event))));
    while let Ok(event) = queue.recv() {
        log(event);
        let dropped = dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let fields = HashMap::from([("dropped".to_owned(), dropped.to_string())]);
            let message = "log lines dropped: the logger is too slow".to_owned();
            log(NativeLogEvent { level: NativeLogLevel::Warning, message, fields });
        }
    }
}

struct Collector {
    level: Level,
    lines: SyncSender<NativeLogEvent>,
    dropped: Arc<AtomicU64>,
}

impl Subscriber for Collector {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match self.enabled(metadata) {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("actpass") && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level.into())
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let level = match *event.metadata().level() {
            Level::ERROR | Level::WARN => NativeLogLevel::Warning,
            Level::INFO => NativeLogLevel::Info,
            Level::DEBUG | Level::TRACE => NativeLogLevel::Debug,
        };
        let mut line = NativeLogEvent { level, message: String::new(), fields: HashMap::new() };
        event.record(&mut line);
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

impl Visit for NativeLogEvent {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            name => drop(self.fields.insert(name.to_owned(), text)),
        }
    }
}
