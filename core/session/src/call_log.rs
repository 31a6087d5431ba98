//! Per-call log lines for bindings.
//!
//! A binding's logger must not run on the thread that drives the network. A [`CallLog`] collects
//! the lines of one call. When the call ends, a binding passes them to the logger on a thread of
//! its language.

use std::cell::RefCell;
use std::fmt::{self, Write};
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::task::{Context, Poll};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, set_global_default};
use tracing::{Event, Level, Metadata, Subscriber};

thread_local! {
    /// The log of the call that this thread is polling.
    static CURRENT: RefCell<Option<Arc<CallLog>>> = const { RefCell::new(None) };
}

/// The log lines of one call.
///
/// The first instance sets the process's global [`tracing`] subscriber. Use it only in libraries
/// with a private copy of this crate: if a global subscriber exists, no lines are collected.
///
/// ```
/// use actpass_session::{BackgroundClient, CallLog};
/// use actpass_core::{ActPass, Action};
/// use std::sync::mpsc;
/// use tracing::level_filters::LevelFilter;
///
/// let background = BackgroundClient::new(ActPass::builder().api_key("apk_dev").base_url("http://127.0.0.1:9").max_retries(0))?;
/// let log = CallLog::new(LevelFilter::WARN);
/// let (answered, answer) = mpsc::channel();
/// let kept = log.clone();
/// background.start(
///     |actpass: ActPass| {
///         let action = Action::new("demo", "demo.tool");
///         CallLog::instrument(Some(kept), async move { actpass.authorize(&action).await })
///     },
///     move |_| drop(answered.send(())),
/// );
/// answer.recv()?;
/// let lines = log.drain();
/// assert!(lines[0].text.starts_with("blocked: the gate failed: "));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct CallLog {
    level: LevelFilter,
    lines: Mutex<Vec<LogLine>>,
}

/// A line of a [`CallLog`].
#[derive(Clone, Debug)]
pub struct LogLine {
    /// The level.
    pub level: Level,
    /// `message key=value …` on one line, without control characters.
    pub text: String,
    /// The time of the line.
    pub at: SystemTime,
}

impl CallLog {
    /// Creates a log of the lines of `level` and above.
    pub fn new(level: LevelFilter) -> Arc<Self> {
        static COLLECTING: Once = Once::new();
        COLLECTING.call_once(|| drop(set_global_default(Collector)));
        Arc::new(Self { level, lines: Mutex::default() })
    }

    /// Removes and returns the lines since the last call, in order.
    pub fn drain(&self) -> Vec<LogLine> {
        mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs `call` and collects its lines in `log`, if any.
    pub fn instrument<F: Future>(
        log: Option<Arc<Self>>,
        call: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        Instrumented { call: Box::pin(call), log }
    }
}

struct Instrumented<F> {
    call: Pin<Box<F>>,
    log: Option<Arc<CallLog>>,
}

impl<F: Future> Future for Instrumented<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let _restored = RestoreCurrent(CURRENT.replace(self.log.clone()));
        self.call.as_mut().poll(context)
    }
}

/// Restores the current log, even after a panic.
struct RestoreCurrent(Option<Arc<CallLog>>);

impl Drop for RestoreCurrent {
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
                let text = (line.message + &line.fields).replace(char::is_control, " ");
                let line = LogLine { level: *event.metadata().level(), text, at: now() };
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

/// The time; always 1970 in wasm, which has no clock.
fn now() -> SystemTime {
    if cfg!(target_family = "wasm") { SystemTime::UNIX_EPOCH } else { SystemTime::now() }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn write(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
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
