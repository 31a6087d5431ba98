//! Log output.

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

/// Logs the number of dropped lines when it grows.
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
                "log lines were dropped: standard error was not read in time"
            );
            known = now;
        }
    }
}

/// Interval between checks for dropped log lines.
const DROPPED_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The running log writer; dropping it flushes.
pub(super) struct Log {
    pub(super) dropped: ErrorCounter,
    _guard: WorkerGuard,
}

/// Writes the gateway's log to standard error. Log lines of libraries are excluded, because they
/// are not reviewed for secrets.
///
/// A separate thread writes, and drops lines instead of blocking: an unread log must not stop the
/// gateway. Dropping the guard writes the remaining lines.
pub(super) fn start_log(format: LogFormat, level: LogLevel) -> Log {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let own = Targets::new().with_target("actpass_gateway", level);
    // The writer thread flushes when its queue is empty.
    let (writer, guard) = tracing_appender::non_blocking(io::BufWriter::new(io::stderr()));
    let dropped = writer.error_counter();
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    let registry = tracing_subscriber::registry().with(own);
    // Fails only if this process already has a logger.
    let _ = match format {
        LogFormat::Json => registry.with(lines.json()).try_init(),
        LogFormat::Text => registry.with(lines).try_init(),
    };
    // A panic message may contain request data; its location does not.
    std::panic::set_hook(Box::new(|panic| {
        let arguments = panic.location().map(ToString::to_string);
        tracing::error!(arguments, "panicked");
    }));
    Log { dropped, _guard: guard }
}
