//! The server's side of a session: a process, or an HTTP server.

use std::ffi::OsString;
use std::io;
use std::process::ExitStatus;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::client::Event;
use crate::exchange::{End, FromServer, Origin, Outgoing};
use crate::http_server::{self, HttpIn, HttpOut, HttpServer};
use crate::lines::{Line, MAX_MESSAGE, MAX_QUEUED, Outbox, read_lines};
use crate::message::Id;
use crate::server::{INPUT_END, Server, Variable};

/// Longest read of the output of a server that has ended.
const DRAIN: std::time::Duration = std::time::Duration::from_millis(500);

/// The server of a proxy.
pub(crate) enum Target {
    Http(Arc<HttpServer>),
    Process { command: Vec<OsString>, environment: Vec<Variable> },
}

/// The messages to a server.
pub(crate) enum ServerOut {
    Http(HttpOut),
    Lines(Outbox),
    /// The session has ended.
    Closed,
}

impl ServerOut {
    pub(crate) fn send(&self, message: Outgoing) {
        match self {
            Self::Http(http) => http.send(message),
            Self::Lines(outbox) => outbox.send(message.line),
            Self::Closed => {}
        }
    }

    /// The end of the session if too many messages wait for the server.
    pub(crate) fn overflow(&self) -> Option<End> {
        match self {
            Self::Lines(outbox) => outbox
                .is_full()
                .then(|| End::Broken(format!("the server does not read: {MAX_QUEUED} bytes wait for it"))),
            Self::Http(_) | Self::Closed => None,
        }
    }

    /// The client no longer reads the response to a request. Returns whether the server learns it
    /// by the transport.
    pub(crate) fn abandon(&self, id: &Id) -> bool {
        match self {
            Self::Http(http) => {
                http.abandon(id);
                true
            }
            Self::Lines(_) | Self::Closed => false,
        }
    }

    /// Opens a stream for messages that belong to no request, after the event `last`.
    pub(crate) fn listen(&self, number: u64, last: Option<String>) {
        if let Self::Http(http) = self {
            http.listen(number, last);
        }
    }

    /// Closes a stream of [`ServerOut::listen`].
    pub(crate) fn unlisten(&self, number: u64) {
        if let Self::Http(http) = self {
            http.unlisten(number);
        }
    }

    /// Closes the stream after the last message.
    pub(crate) fn close(&mut self) {
        *self = Self::Closed;
    }
}

/// The events of a server, and the end of its process or session.
pub(crate) enum ServerIn {
    Http(HttpIn),
    Process {
        server: Box<Server>,
        lines: mpsc::Receiver<Line>,
        writer: JoinHandle<()>,
        /// The state of a process that has failed, and the end of the wait for its last lines.
        failure: Option<(ExitStatus, Instant)>,
    },
}

/// Starts the server, or prepares the connection. `listens` if the proxy opens the stream for
/// messages that belong to no request.
///
/// # Errors
///
/// The process cannot be started.
pub(crate) fn connect(target: &Target, listens: bool) -> io::Result<(ServerOut, ServerIn)> {
    match target {
        Target::Http(http) => {
            let (to_server, from_server) = http_server::connect(http, listens);
            Ok((ServerOut::Http(to_server), ServerIn::Http(from_server)))
        }
        Target::Process { command, environment } => {
            let (server, input, output) = Server::start(command, environment)?;
            let (outbox, writer) = Outbox::new(input);
            let lines = read_lines(output);
            Ok((
                ServerOut::Lines(outbox),
                ServerIn::Process { server: Box::new(server), lines, writer, failure: None },
            ))
        }
    }
}

impl ServerIn {
    /// The next event. Can be cancelled.
    pub(crate) async fn recv(&mut self) -> FromServer {
        match self {
            Self::Http(http) => http.recv().await,
            Self::Process { server, lines, writer, failure } => loop {
                let until = failure.map_or_else(Instant::now, |(_, until)| until);
                tokio::select! {
                    biased;
                    line = lines.recv() => return from_line(line.unwrap_or(Line::End)),
                    // A process that the server started may keep its output open.
                    status = server.failed(), if failure.is_none() => {
                        *failure = Some((status, Instant::now() + DRAIN));
                    }
                    _ = &mut *writer, if failure.is_none() => {
                        return FromServer::End(End::Broken("the server closed its standard input".to_owned()));
                    }
                    () = sleep_until(until), if failure.is_some() => {
                        let status = failure.map(|(status, _)| status.to_string()).unwrap_or_default();
                        return FromServer::End(End::Broken(format!("the server ended ({status})")));
                    }
                }
            },
        }
    }

    /// Ends the server. If the client ended the session, `answer` first gets the responses to the
    /// requests that the server has received. Returns the end with the state of the process.
    pub(crate) async fn finish(self, end: End, mut answer: impl FnMut(Vec<u8>) -> bool) -> End {
        match self {
            Self::Http(http) => http.finish(end, answer).await,
            Self::Process { mut server, mut lines, .. } => {
                let mut status = None;
                if matches!(end, End::Client) {
                    let until = Instant::now() + INPUT_END;
                    let answers = async {
                        while let Some(Line::Text(line)) = lines.recv().await {
                            if !answer(line) {
                                return;
                            }
                        }
                    };
                    let mut answers = std::pin::pin!(answers);
                    let ended = async {
                        tokio::select! {
                            () = &mut answers => { server.wait().await; }
                            // A process that the server started may keep its output open.
                            _ = server.wait() => { let _ = timeout(DRAIN, &mut answers).await; }
                        }
                    };
                    let _ = timeout_at(until, ended).await;
                } else if matches!(end, End::ServerOutput) {
                    status = timeout_at(Instant::now() + INPUT_END, server.wait()).await.ok().flatten();
                }
                server.stop().await;
                match (end, status) {
                    (End::ServerOutput, Some(status)) => End::Broken(format!("the server ended ({status})")),
                    (end, _) => end,
                }
            }
        }
    }
}

fn from_line(line: Line) -> FromServer {
    match line {
        Line::End => FromServer::End(End::ServerOutput),
        Line::TooLong => {
            FromServer::End(End::Broken(format!("the server sent a message over {MAX_MESSAGE} bytes")))
        }
        Line::Text(line) => {
            FromServer::Message { line, origin: Origin::Lines, event: Event::default(), status: None }
        }
    }
}
