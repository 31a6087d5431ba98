//! The access log: one JSON object for each answered request, in a file or on standard output.
//!
//! It contains the matched route in place of the path, and no query, header, body or address of a
//! resource. A separate thread writes; if it cannot keep up, lines are dropped and counted.

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use actpass_protocol::json::{JsonWriter, Style};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use crate::clock::system_time;

/// Lines that may wait for the writer.
const QUEUE: usize = 16_384;

/// Place of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// A file, appended to. A reload opens it again.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

/// An open access log. Dropping it writes the remaining lines.
#[derive(Debug)]
pub(crate) struct AccessLog {
    writer: NonBlocking,
    dropped: ErrorCounter,
    _guard: WorkerGuard,
}

/// The authenticated and decided parts of a request.
#[derive(Debug, Default)]
pub(crate) struct Access {
    tenant: Option<Arc<str>>,
    key: Option<Arc<str>>,
    peer: Option<String>,
    traceparent: Option<String>,
    /// Only of a traced request.
    stages: Option<Vec<Stage>>,
    tool: Option<String>,
    decision: Option<String>,
    reason_code: Option<String>,
    event_id: Option<String>,
}

/// A measured part of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
    /// When the transaction of the store began, which ended with the stage.
    pub(crate) transaction: Option<Instant>,
}

/// The parts of a line that every request has.
pub(crate) struct Answered<'a> {
    pub(crate) millis: i64,
    pub(crate) request_id: &'a str,
    pub(crate) method: &'a str,
    pub(crate) route: &'a str,
    pub(crate) status: u16,
    pub(crate) code: Option<&'a str>,
    pub(crate) duration: Duration,
}

impl Access {
    /// The valid `traceparent` of the caller.
    pub(crate) fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref()
    }

    fn trace_id(&self) -> Option<&str> {
        self.traceparent()?.split('-').nth(1)
    }

    /// The stages of a traced request, in the order of their ends.
    pub(crate) fn stages(&self) -> &[Stage] {
        self.stages.as_deref().unwrap_or_default()
    }

    /// The attributes of a span that the request has.
    pub(crate) fn decided(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let attributes = [
            ("actpass.tenant", self.tenant.as_deref()),
            ("actpass.key", self.key.as_deref()),
            ("actpass.tool", self.tool.as_deref()),
            ("actpass.decision", self.decision.as_deref()),
            ("actpass.reason_code", self.reason_code.as_deref()),
            ("actpass.evidence_event_id", self.event_id.as_deref()),
        ];
        attributes.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

tokio::task_local! {
    static CURRENT: RefCell<Access>;
}

impl AccessLog {
    /// Opens the log.
    pub(crate) fn open(target: &AccessLogTarget) -> io::Result<Self> {
        let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE);
        let (writer, guard) = match target {
            AccessLogTarget::Stdout => builder.finish(io::stdout()),
            AccessLogTarget::File(path) => {
                let mut options = std::fs::OpenOptions::new();
                options.append(true).create(true);
                #[cfg(unix)]
                std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
                builder.finish(io::BufWriter::new(options.open(path)?))
            }
        };
        Ok(Self { dropped: writer.error_counter(), writer, _guard: guard })
    }

    /// Returns the number of dropped lines since it was opened.
    pub(crate) fn dropped(&self) -> u64 {
        u64::try_from(self.dropped.dropped_lines()).unwrap_or(u64::MAX)
    }

    /// Writes a line.
    pub(crate) fn write(&self, answered: &Answered<'_>, access: &Access) {
        let mut line = JsonWriter::new(Style::Compact);
        line.raw("{");
        let time = humantime::format_rfc3339_millis(system_time(answered.millis)).to_string();
        let texts = [
            ("time", Some(&*time)),
            ("request_id", Some(answered.request_id)),
            ("method", Some(answered.method)),
            ("route", Some(answered.route)),
            ("code", answered.code),
            ("tenant", access.tenant.as_deref()),
            ("key", access.key.as_deref()),
            ("peer", access.peer.as_deref()),
            ("trace_id", access.trace_id()),
            ("tool", access.tool.as_deref()),
            ("decision", access.decision.as_deref()),
            ("reason_code", access.reason_code.as_deref()),
            ("event_id", access.event_id.as_deref()),
        ];
        for (name, value) in texts {
            if let Some(value) = value {
                line.key(name);
                line.string(value);
                line.raw(",");
            }
        }
        line.key("status");
        line.raw(&answered.status.to_string());
        line.raw(",");
        line.key("duration_us");
        line.raw(&answered.duration.as_micros().to_string());
        line.raw("}\n");
        let mut writer = self.writer.clone();
        // A full queue drops the line and counts it.
        let _ = io::Write::write_all(&mut writer, line.into_string().as_bytes());
    }
}

/// Runs a request and returns its notes, with its stages if it is traced.
pub(crate) async fn observe<T>(request: impl Future<Output = T>, is_traced: bool) -> (T, Access) {
    let stages = is_traced.then(Vec::new);
    CURRENT
        .scope(RefCell::new(Access { stages, ..Access::default() }), async {
            let answer = request.await;
            (answer, CURRENT.with(RefCell::take))
        })
        .await
}

/// Notes a part of the current request, if it is logged.
fn note(change: impl FnOnce(&mut Access)) {
    // Outside a logged request there is no value.
    let _ = CURRENT.try_with(|access| change(&mut access.borrow_mut()));
}

/// Notes the authenticated key.
pub(crate) fn note_key(tenant: &Arc<str>, key: &Arc<str>) {
    note(|access| {
        access.tenant = Some(Arc::clone(tenant));
        access.key = Some(Arc::clone(key));
    });
}

/// Notes the client's address.
pub(crate) fn note_peer(peer: std::net::IpAddr) {
    note(|access| access.peer = Some(peer.to_string()));
}

/// Notes the valid `traceparent` of the caller.
pub(crate) fn note_trace(traceparent: &str) {
    note(|access| access.traceparent = Some(traceparent.to_owned()));
}

/// Measures a stage of the current request. Does nothing if the request is not traced.
#[derive(Debug)]
#[must_use = "the stage ends when this is dropped"]
pub(crate) struct StageTimer {
    name: &'static str,
    begun: Option<Instant>,
    transaction: Option<Arc<OnceLock<Instant>>>,
}

impl StageTimer {
    /// Begins a stage.
    pub(crate) fn begin(name: &'static str) -> Self {
        let is_traced = CURRENT.try_with(|access| access.borrow().stages.is_some()).unwrap_or(false);
        Self { name, begun: is_traced.then(Instant::now), transaction: None }
    }

    /// Returns the place where the store notes when the transaction of this stage began.
    pub(crate) fn transaction(&mut self) -> Option<Arc<OnceLock<Instant>>> {
        self.transaction = self.begun.map(|_| Arc::default());
        self.transaction.clone()
    }
}

impl Drop for StageTimer {
    fn drop(&mut self) {
        let Some(begun) = self.begun else { return };
        let transaction = self.transaction.as_ref().and_then(|transaction| transaction.get().copied());
        let stage = Stage { name: self.name, begun, ended: Instant::now(), transaction };
        note(|access| access.stages.iter_mut().for_each(|stages| stages.push(stage)));
    }
}

/// Notes a decision.
pub(crate) fn note_decision(tool: &str, decision: &str, reason_code: &str, event_id: &str) {
    note(|access| {
        access.tool = Some(tool.to_owned());
        access.decision = Some(decision.to_owned());
        access.reason_code = Some(reason_code.to_owned());
        access.event_id = Some(event_id.to_owned());
    });
}
