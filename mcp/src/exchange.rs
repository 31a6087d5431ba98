//! The messages and events between a session and its server.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use reqwest::header::{HeaderName, HeaderValue};

use crate::client::Event;
use crate::message::{CANCELLED, ClientMessage, Id, RpcError, TOOLS_CALL, cancel};

/// The reason of the end of a session.
#[derive(Debug)]
pub(crate) enum End {
    /// The client closed a stream.
    Client,
    Interrupted,
    /// The server closed its output.
    ServerOutput,
    Broken(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "the client closed the connection",
            Self::Interrupted => "the proxy was stopped",
            Self::ServerOutput => "the server closed its standard output",
            Self::Broken(problem) => problem,
        })
    }
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

/// Locks `mutex`, also after a panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
