//! The tools of a server, read in a separate session.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::time::Duration;

use actpass_core::Json;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::exchange::{End, FromServer, Outgoing};
use crate::message::{Id, read_server_line};
use crate::tools::tools;
use crate::upstream::{ServerIn, ServerOut, Target, connect};

/// The protocol version without a handshake.
const STATELESS: &str = "2026-07-28";
/// The longest time to the first response of the server, which a program such as `npx` may have to download.
const START: Duration = Duration::from_secs(180);
/// The longest time to a further response of the server.
const LIMIT: Duration = Duration::from_secs(30);
/// The most pages of a list of tools.
const MAX_PAGES: usize = 1000;

/// Why the tools of a server cannot be read.
#[derive(Debug)]
pub(crate) enum ListError {
    /// The server ended before the list was complete.
    Ended(&'static str, End),
    /// The server's responses are not those of an MCP server with tools.
    Protocol(String),
    /// The program cannot be started.
    Start(io::Error),
}

impl fmt::Display for ListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(method, end) => write!(f, "{method}: {end}"),
            Self::Protocol(problem) => f.write_str(problem),
            Self::Start(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ListError {}

/// Connects to the server, returns the name and the definition of each of its tools, and ends the
/// connection. All pages are read.
pub(crate) async fn list(target: &Target) -> Result<Vec<(String, Json)>, ListError> {
    let (to_server, from_server) = connect(target, false).map_err(ListError::Start)?;
    let mut session = Session { to_server, from_server, requests: 0, version: None };
    let listed = session.list().await;
    let (listed, end) = match listed {
        Err(ListError::Ended(method, end)) => (Err(method), end),
        Err(error) => (Ok(Err(error)), End::Interrupted),
        Ok(tools) => (Ok(Ok(tools)), End::Interrupted),
    };
    let end = session.from_server.finish(end, |_| false).await;
    listed.unwrap_or_else(|method| Err(ListError::Ended(method, end)))
}

/// A session with the server.
struct Session {
    to_server: ServerOut,
    from_server: ServerIn,
    requests: u64,
    /// The protocol version of each request, if the server has no handshake.
    version: Option<&'static str>,
}

impl Session {
    /// Connects, with the handshake if the server has it, and returns all tools.
    async fn list(&mut self) -> Result<Vec<(String, Json)>, ListError> {
        let client = json!({"name": "actpass-mcp", "version": env!("CARGO_PKG_VERSION")});
        let handshake = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
        let meta = match self.request("initialize", &handshake).await? {
            Ok(_) => {
                let method = "notifications/initialized";
                self.send(&json!({"jsonrpc": "2.0", "method": method}), None, method);
                json!({})
            }
            Err(_) => {
                self.version = Some(STATELESS);
                json!({
                    "io.modelcontextprotocol/protocolVersion": STATELESS,
                    "io.modelcontextprotocol/clientCapabilities": {},
                    "io.modelcontextprotocol/clientInfo": client,
                })
            }
        };
        let protocol = |problem: &str| ListError::Protocol(format!("tools/list: {problem}"));
        let (mut found, mut names) = (Vec::new(), HashSet::new());
        let mut params = json!({"_meta": meta});
        for _ in 0..MAX_PAGES {
            let result = self.request("tools/list", &params).await?.map_err(|error| protocol(&error))?;
            for (name, definition) in tools(&result).ok_or_else(|| protocol("expected tools with names"))? {
                if !names.insert(name.clone()) {
                    return Err(protocol(&format!("the tool {name:?} is listed twice")));
                }
                found.push((name, definition));
            }
            let result: Value =
                serde_json::from_str(&result).map_err(|error| protocol(&error.to_string()))?;
            let Some(cursor) = result.get("nextCursor").and_then(Value::as_str) else { return Ok(found) };
            params = json!({"_meta": meta, "cursor": cursor});
        }
        Err(protocol(&format!("more than {MAX_PAGES} pages")))
    }

    /// Sends a request and returns the JSON text of its result, or the server's error.
    async fn request(
        &mut self,
        method: &'static str,
        params: &Value,
    ) -> Result<Result<String, String>, ListError> {
        self.requests += 1;
        let id = self.requests;
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.send(&message, Some(Id::from(id)), method);
        let limit = if self.requests == 1 { START } else { LIMIT };
        let until = Instant::now() + limit;
        loop {
            let event = timeout_at(until, self.from_server.recv()).await;
            let event = event.map_err(|_| {
                ListError::Protocol(format!("{method}: the server did not respond within {limit:?}"))
            })?;
            let line = match event {
                FromServer::Message { line, .. } => line,
                FromServer::Failed { error, .. } => return Ok(Err(error.message)),
                FromServer::ListeningEnded(..) => continue,
                FromServer::End(end) => return Err(ListError::Ended(method, end)),
            };
            let text = line.trim_ascii();
            if !text.starts_with(b"{") {
                continue;
            }
            let messages = read_server_line(text)
                .map_err(|error| ListError::Protocol(format!("{method}: invalid response: {error}")))?;
            for message in messages {
                if message.method.is_none() && message.id == Some(Id::from(id)) {
                    return Ok(message
                        .result
                        .map(str::to_owned)
                        .ok_or_else(|| "the server answered with an error".to_owned()));
                }
            }
        }
    }

    fn send(&self, message: &Value, id: Option<Id>, method: &str) {
        self.to_server.send(Outgoing::own(format!("{message}\n"), id, method, self.version));
    }
}
