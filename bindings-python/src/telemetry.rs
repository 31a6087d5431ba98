//! What a call tells and what it is told: log lines go to Python's logging, and the current trace to the gateway.
//!
//! The core's log lines are kept with the call that they are about and handed over when it ends, on the thread of the
//! caller or of its event loop. So the thread that drives the network never waits for the interpreter.

use std::cell::RefCell;
use std::fmt::{self, Write};
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::convert::Function;
use actpass_core::ActPass;
use pyo3::exceptions::{PyMemoryError, PyRecursionError};
use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, set_global_default};
use tracing::{Event, Level, Metadata, Subscriber};

/// What is watched of a call.
#[derive(Clone)]
pub(crate) struct Watch {
    traceparent: Option<actpass_core::Traceparent>,
    /// `None` where nobody listens.
    log: Option<Arc<Log>>,
}

impl Watch {
    /// Sees what trace is current, and whether anybody listens.
    pub(crate) fn begin(py: Python<'_>) -> PyResult<Self> {
        static BEGIN: Function = Function::of("actpass._telemetry", "begin");
        let told = BEGIN.bound(py)?.call0();
        let told = told.and_then(|told| told.extract::<(Option<String>, u8)>());
        let (traceparent, level) = despite(py, told)?.unwrap_or_default();
        let log = (level > 0).then(|| Arc::new(Log { level, lines: Mutex::default() }));
        // One that is malformed is left away: a trace is no reason to block an action.
        Ok(Self { traceparent: traceparent.and_then(|text| text.parse().ok()), log })
    }

    /// The client by which the call is part of the trace.
    pub(crate) fn trace(&self, actpass: ActPass) -> ActPass {
        match &self.traceparent {
            Some(traceparent) => actpass.in_trace(traceparent.clone()),
            None => actpass,
        }
    }

    /// The call, its log lines kept.
    pub(crate) fn over<F: Future>(&self, call: F) -> impl Future<Output = F::Output> + use<F> {
        Watched { call: Box::pin(call), log: self.log.clone() }
    }

    /// Hands the log lines over.
    pub(crate) fn end(&self, py: Python<'_>) -> PyResult<()> {
        static LOG: Function = Function::of("actpass._telemetry", "log");
        let Some(log) = &self.log else {
            return Ok(());
        };
        for line in mem::take(&mut *log.lines.lock().unwrap_or_else(PoisonError::into_inner)) {
            despite(py, LOG.bound(py)?.call1((line.level, line.text, line.at)))?;
        }
        Ok(())
    }
}

/// The result of `told`. `actpass._telemetry` drops and reports what observers raise, and lets pass what signals raise,
/// so that passes here too. What it cannot catch is that the interpreter has no room left to enter it.
fn despite<T>(py: Python<'_>, told: PyResult<T>) -> PyResult<Option<T>> {
    match told {
        Ok(told) => Ok(Some(told)),
        Err(error)
            if error.is_instance_of::<PyRecursionError>(py) || error.is_instance_of::<PyMemoryError>(py) =>
        {
            Ok(None)
        }
        Err(stop) => Err(stop),
    }
}

/// Has the core's log lines come here.
pub(crate) fn listen() {
    // Only this module's own copy of the core logs by this, so nobody else can have been first.
    let _ = set_global_default(Collector);
}

thread_local! {
    /// The log of the call that this thread is at.
    static CURRENT: RefCell<Option<Arc<Log>>> = const { RefCell::new(None) };
}

struct Log {
    /// The lowest that is listened to, as Python counts.
    level: u8,
    lines: Mutex<Vec<Line>>,
}

struct Line {
    level: u8,
    text: String,
    /// In seconds since 1970.
    at: f64,
}

struct Watched<F> {
    call: Pin<Box<F>>,
    log: Option<Arc<Log>>,
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(log) = &self.log else {
            return self.call.as_mut().poll(context);
        };
        let before = CURRENT.replace(Some(Arc::clone(log)));
        let _restored = Restore(before);
        self.call.as_mut().poll(context)
    }
}

/// Puts back what was current, also after a panic.
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
        let level = python_level(*metadata.level());
        metadata.is_event() && CURRENT.with_borrow(|log| log.as_ref().is_some_and(|log| level >= log.level))
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let line =
            Line { level: python_level(*event.metadata().level()), text: text.message + &text.fields, at };
        CURRENT.with_borrow(|log| {
            if let Some(log) = log {
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

fn python_level(level: Level) -> u8 {
    match level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        Level::DEBUG => 10,
        Level::TRACE => 5,
    }
}

/// `message key=value …`
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn write(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => self.message.write_fmt(value),
            name => write!(self.fields, " {name}={value}"),
        };
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.write(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write(field, format_args!("{value:?}"));
    }
}
