//! Where the gateway's log lines go.

use std::io;
use std::time::Duration;

use clap::ValueEnum;
use tracing_appender::non_blocking::{ErrorCounter, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, LogLevel};

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LogLevelArgument {
    Error,
    Warn,
    Info,
    Debug,
}

impl From<LogLevelArgument> for LogLevel {
    fn from(level: LogLevelArgument) -> Self {
        match level {
            LogLevelArgument::Error => Self::Error,
            LogLevelArgument::Warn => Self::Warn,
            LogLevelArgument::Info => Self::Info,
            LogLevelArgument::Debug => Self::Debug,
        }
    }
}

/// Says how many lines the log lost, whenever there are more.
pub(super) async fn report_dropped(dropped: ErrorCounter) {
    let mut known = 0;
    let mut looks = tokio::time::interval(DROPPED_LOG_INTERVAL);
    loop {
        looks.tick().await;
        let now = dropped.dropped_lines();
        if now > known {
            tracing::warn!(
                lines = now - known,
                total = now,
                "log lines were dropped: nobody took them in time"
            );
            known = now;
        }
    }
}

/// How often it is looked whether lines of the log were dropped.
const DROPPED_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The log, which is written until this is dropped.
pub(super) struct Log {
    pub(super) dropped: ErrorCounter,
    _guard: WorkerGuard,
}

/// Sends the gateway's own log lines to the standard error. Those of its libraries are left out: theirs are not checked
/// for what they show.
///
/// A thread of its own writes them, and drops lines rather than wait: a log that nobody reads must not stop the gateway.
/// What is left is written when the guard is dropped.
pub(super) fn start_log(format: LogFormat, level: LogLevel) -> Log {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let own = Targets::new().with_target("actpass_gateway", level);
    // That thread flushes whenever nothing more waits for it.
    let (writer, guard) = tracing_appender::non_blocking(io::BufWriter::new(io::stderr()));
    let dropped = writer.error_counter();
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    let registry = tracing_subscriber::registry().with(own);
    // Only a second call in one process fails, and then there is a log already.
    let _ = match format {
        LogFormat::Json => registry.with(lines.json()).try_init(),
        LogFormat::Text => registry.with(lines).try_init(),
    };
    // A panic's message can hold what was being worked on; where it happened cannot.
    std::panic::set_hook(Box::new(|panic| {
        let arguments = panic.location().map(ToString::to_string);
        tracing::error!(arguments, "panicked");
    }));
    Log { dropped, _guard: guard }
}
