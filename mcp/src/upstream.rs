//! The server's side of a session: a process, or an HTTP server.

use std::ffi::OsString;
use std::io;
use std::sync::Arc;

use reqwest::header::{HeaderName, HeaderValue};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::client::Event;
use crate::http_server::{self, HttpIn, HttpOut, HttpServer};
use crate::lines::{Line, MAX_MESSAGE, MAX_QUEUED, Outbox, read_lines};
use crate::message::{CANCELLED, ClientMessage, Id, RpcError, TOOLS_CALL, cancel};
use crate::server::{INPUT_END, Server, Variable};
use crate::session::End;

/// Longest read of the output of a server that has ended.
const DRAIN: std::time::Duration = std::time::Duration::from_millis(500);

/// The server of a proxy.
pub(crate) enum Target {
    Http(Arc<HttpServer>),
    Process { command: Vec<OsString>, environment: Vec<Variable> },
}

/// An event of the server.
#[derive(Debug)]
pub(crate) enum FromServer {
    Message {
        line: Vec<u8>,
        origin: Origin,
        event: Event,
        status: Option<u16>,
    },
    /// HTTP: the request `id` has no valid response.
    Failed {
        id: Id,
        error: RpcError,
        status: u16,
    },
    /// HTTP: a stream for messages that belong to no request has ended, with the status.
    ListeningEnded(u64, u16),
    End(End),
}

/// The stream that a message was received on.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// The only stream.
    Lines,
    /// HTTP: the response to the request.
    Request(Id),
    /// HTTP: the stream with the number, for messages that belong to no request.
    Listening(u64),
}

/// A message to the server.
pub(crate) struct Outgoing {
    /// With a line feed.
    pub(crate) line: Vec<u8>,
    /// `None` for a notification or a response.
    pub(crate) id: Option<Id>,
    pub(crate) method: Option<String>,
    /// The name of the tool or prompt, or the URI of the resource.
    pub(crate) name: Option<String>,
    /// The protocol version that the message names: 2026-07-28 and later.
    pub(crate) version: Option<String>,
    /// The request that it cancels.
    pub(crate) cancels: Option<Id>,
    /// HTTP: more headers.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Outgoing {
    /// The message `text`, which has no line feed.
    pub(crate) fn new(text: &str, message: &ClientMessage) -> Self {
        let is_request = message.method.is_some();
        let name = match message.method.as_deref() {
            Some(TOOLS_CALL | "prompts/get") => message.param("name"),
            Some("resources/read") => message.param("uri"),
            Some(_) | None => None,
        };
        Self {
            line: line(text),
            id: message.id.clone().filter(|_| is_request),
            method: message.method.clone(),
            name: name.map(str::to_owned),
            version: message.version().map(str::to_owned),
            cancels: message.cancelled(),
            headers: Vec::new(),
        }
    }

    /// A message of the proxy itself.
    pub(crate) fn own(line: String, id: Option<Id>, method: &str, version: Option<&str>) -> Self {
        Self {
            line: line.into_bytes(),
            id,
            method: Some(method.to_owned()),
            name: None,
            version: version.map(str::to_owned),
            cancels: None,
            headers: Vec::new(),
        }
    }

    /// The notification of the proxy that cancels the request `id`.
    pub(crate) fn cancel(id: &Id) -> Self {
        Self {
            line: cancel(id),
            id: None,
            method: Some(CANCELLED.to_owned()),
            name: None,
            version: None,
            cancels: Some(id.clone()),
            headers: Vec::new(),
        }
    }
}

fn line(text: &str) -> Vec<u8> {
    let mut line = Vec::with_capacity(text.len() + 1);
    line.extend_from_slice(text.as_bytes());
    line.push(b'\n');
    line
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
    Process { server: Server, lines: mpsc::Receiver<Line>, writer: JoinHandle<()> },
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
            Ok((ServerOut::Lines(outbox), ServerIn::Process { server, lines, writer }))
        }
    }
}

impl ServerIn {
    /// The next event. Can be cancelled.
    pub(crate) async fn recv(&mut self) -> FromServer {
        match self {
            Self::Http(http) => http.recv().await,
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
