//! The server's side of a session: a process, or an HTTP server.

use std::io;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::client::Event;
use crate::lines::{Line, MAX_MESSAGE, MAX_QUEUED, Outbox, read_lines};
use crate::message::{Id, RpcError};
use crate::server::{INPUT_END, Server};
use crate::session::{End, Options};

/// Longest read of the output of a server that has ended.
const DRAIN: std::time::Duration = std::time::Duration::from_millis(500);

/// An event of the server.
#[derive(Debug)]
pub(crate) enum FromServer {
    Message {
        line: Vec<u8>,
        /// HTTP: the request whose response contains the message.
        origin: Option<Id>,
        event: Event,
        status: Option<u16>,
    },
    /// HTTP: the request `id` has no valid response.
    Failed {
        id: Id,
        error: RpcError,
        status: u16,
    },
    End(End),
}

/// A message to the server.
pub(crate) struct Outgoing {
    /// With a line feed.
    pub(crate) line: Vec<u8>,
    /// `None` for a notification or a response.
    pub(crate) id: Option<Id>,
}

/// The messages to a server.
pub(crate) enum ServerOut {
    Lines(Outbox),
    /// The session has ended.
    Closed,
}

impl ServerOut {
    pub(crate) fn send(&self, message: Outgoing) {
        match self {
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
            Self::Closed => None,
        }
    }

    /// Closes the stream after the last message.
    pub(crate) fn close(&mut self) {
        *self = Self::Closed;
    }
}

/// The events of a server, and the end of its process or session.
pub(crate) enum ServerIn {
    Process { server: Server, lines: mpsc::Receiver<Line>, writer: JoinHandle<()> },
}

/// Starts the server, or prepares the connection.
///
/// # Errors
///
/// The process cannot be started.
pub(crate) fn connect(options: &Options) -> io::Result<(ServerOut, ServerIn)> {
    let (server, input, output) = Server::start(&options.command, &options.environment)?;
    let (outbox, writer) = Outbox::new(input);
    Ok((ServerOut::Lines(outbox), ServerIn::Process { server, lines: read_lines(output), writer }))
}

impl ServerIn {
    /// The next event. Can be cancelled.
    pub(crate) async fn recv(&mut self) -> FromServer {
        match self {
            Self::Process { lines, writer, .. } => {
                let line = tokio::select! {
                    biased;
                    line = lines.recv() => line.unwrap_or(Line::End),
                    _ = writer => {
                        return FromServer::End(End::Broken("the server closed its standard input".to_owned()));
                    }
                };
                from_line(line)
            }
        }
    }

    /// Ends the server. If the client ended the session, `answer` first gets the responses to the
    /// requests that the server has received. Returns the end with the state of the process.
    pub(crate) async fn finish(self, end: End, mut answer: impl FnMut(Vec<u8>) -> bool) -> End {
        match self {
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
        Line::Text(line) => FromServer::Message { line, origin: None, event: Event::default(), status: None },
    }
}
