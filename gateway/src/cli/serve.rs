//! `actpass-gateway serve` and `dev`.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::Failure;
use super::log::{LogLevelArgument, report_dropped, start_log};
use crate::config::{LogLevel, Settings, parse_listen};
use crate::server::Server;
use crate::store::{Location, accept_missing_wal};

#[derive(Args, Debug)]
pub(super) struct Dev {
    /// Minimum level of log lines
    #[arg(long, value_enum, value_name = "LEVEL")]
    log_level: Option<LogLevelArgument>,
    /// Loopback address to listen on; port 0 selects a free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8787", value_parser = parse_listen)]
    listen: SocketAddr,
    /// Policy to use; defaults to the refund example
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Data file; defaults to .actpass/dev.db
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Start even if the data file was copied or left while in use and its write-ahead log is
    /// missing; the most recent records may be lost
    #[arg(long)]
    accept_missing_wal: bool,
}

#[derive(Args, Debug)]
pub(super) struct Serve {
    /// Settings, a TOML file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Start even if the data file was copied or left while in use and its write-ahead log is
    /// missing; the most recent records may be lost
    #[arg(long)]
    accept_missing_wal: bool,
    /// Minimum level of log lines; overrides the settings
    #[arg(long, value_enum, value_name = "LEVEL")]
    log_level: Option<LogLevelArgument>,
}

impl Dev {
    pub(super) fn run(self) -> Result<(), Failure> {
        let settings =
            Settings::dev(self.listen, self.data, self.policy.as_deref()).map_err(Failure::Settings)?;
        serve(settings, self.log_level, Some("apdv_dev"), self.accept_missing_wal)
    }
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        let settings = Settings::load(&self.config).map_err(Failure::Settings)?;
        serve(settings, self.log_level, None, self.accept_missing_wal)
    }
}

/// `known` is the publicly known operator key of `dev`.
fn serve(
    settings: Settings,
    level: Option<LogLevelArgument>,
    known: Option<&str>,
    accepts_missing_wal: bool,
) -> Result<(), Failure> {
    #[cfg(unix)]
    let inherited = inherited_listeners().map_err(Failure::new)?;
    #[cfg(not(unix))]
    let inherited = Vec::new();
    let log = start_log(settings.log, level.map_or(settings.log_level, LogLevel::from));
    if let (true, Location::File(data)) = (accepts_missing_wal, &settings.data)
        && data.try_exists().map_err(Failure::new)?
    {
        accept_missing_wal(data).map_err(Failure::new)?;
    }
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::new)?;
    runtime.block_on(async {
        // Install handlers before there is anything to stop.
        let signals = Signals::new().map_err(Failure::new)?;
        tokio::spawn(report_dropped(log.dropped.clone()));
        let server = Server::start_inherited(settings, inherited).await.map_err(Failure::new)?;
        let mut out = io::stdout();
        // The parent may have closed its end of the pipe; continue regardless.
        let _ = writeln!(out, "listening on {}", server.url()).and_then(|()| out.flush());
        if let Some(address) = server.metrics_address() {
            tracing::info!(%address, "metrics");
        }
        if let Some(key) = known {
            let _ = writeln!(out, "approve at {}/ with the operator key {key}", server.url());
        }
        tracing::info!(address = %server.address(), "started");
        let reload = server.reloader();
        server
            .run_until(async {
                let signal = signals.any(reload).await;
                tracing::info!(signal, "stopping");
            })
            .await
            .map_err(Failure::new)?;
        tracing::info!("stopped");
        Ok(())
    })
}

/// Takes the listening sockets that the supervisor has opened (`LISTEN_FDS`).
#[cfg(unix)]
fn inherited_listeners() -> io::Result<Vec<std::net::TcpListener>> {
    let mut passed = listenfd::ListenFd::from_env();
    let sockets = (0..passed.len()).map(|at| passed.take_tcp_listener(at));
    Ok(sockets.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

#[cfg(unix)]
struct Signals {
    hangup: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for a termination signal, and reloads on SIGHUP.
    async fn any(mut self, reload: impl Fn()) -> &'static str {
        loop {
            tokio::select! {
                Some(()) = self.hangup.recv() => reload(),
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.terminate.recv() => return "SIGTERM",
            }
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn any(self, _reload: impl Fn()) -> &'static str {
        match tokio::signal::ctrl_c().await {
            Ok(()) => "Ctrl-C",
            Err(_) => std::future::pending().await,
        }
    }
}
