//! `actpass-mcp approve`: registers the definitions of a server's tools at the gateway.

use std::collections::HashSet;
use std::io::{self, Write};
use std::time::Duration;

use actpass_core::json::{JsonWriter, Style};
use actpass_core::{ActPass, Json, Secret, hash_payload};
use reqwest::redirect;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::exchange::{End, FromServer, Outgoing};
use crate::message::{Id, read_server_line};
use crate::tools::tools;
use crate::upstream::{ServerIn, ServerOut, Target, connect};

/// The protocol version without a handshake.
const STATELESS: &str = "2026-07-28";
/// The longest time to a response of the server or the gateway.
const LIMIT: Duration = Duration::from_secs(30);
/// The most pages of a list of tools.
const MAX_PAGES: usize = 1000;

/// The program's error: one line.
type Error = Box<dyn std::error::Error>;

/// Lists the tools of the server and approves the definition of each, as an operator. Prints a line
/// for each tool: its name in the policy, and the hash of its definition.
pub(crate) async fn approve(tool_prefix: &str, target: &Target, operator_key: Secret) -> Result<(), Error> {
    let operator = Operator::new(operator_key)?;
    let (to_server, from_server) = connect(target, false)?;
    let mut session = Session { to_server, from_server, requests: 0, version: None };
    let listed = session.list().await;
    session.from_server.finish(End::Interrupted, |_| false).await;
    for (name, definition) in listed? {
        let tool = format!("{tool_prefix}{name}");
        let hash = operator.approve(&tool, &definition).await?;
        writeln!(io::stdout(), "{tool} {hash}")?;
    }
    Ok(())
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
    async fn list(&mut self) -> Result<Vec<(String, Json)>, Error> {
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
        let (mut found, mut names) = (Vec::new(), HashSet::new());
        let mut params = json!({"_meta": meta});
        for _ in 0..MAX_PAGES {
            let result = self.request("tools/list", &params).await?;
            let result = result.map_err(|error| format!("tools/list: {error}"))?;
            for (name, definition) in tools(&result).ok_or("tools/list: expected tools with names")? {
                if !names.insert(name.clone()) {
                    return Err(format!("tools/list: the tool {name:?} is listed twice").into());
                }
                found.push((name, definition));
            }
            let result: Value = serde_json::from_str(&result)?;
            let Some(cursor) = result.get("nextCursor").and_then(Value::as_str) else { return Ok(found) };
            params = json!({"_meta": meta, "cursor": cursor});
        }
        Err(format!("tools/list: more than {MAX_PAGES} pages").into())
    }

    /// Sends a request and returns the JSON text of its result, or the server's error.
    async fn request(&mut self, method: &str, params: &Value) -> Result<Result<String, String>, Error> {
        self.requests += 1;
        let id = self.requests;
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.send(&message, Some(Id::from(id)), method);
        let until = Instant::now() + LIMIT;
        loop {
            let event = timeout_at(until, self.from_server.recv()).await;
            let event =
                event.map_err(|_| format!("{method}: the server did not respond within {LIMIT:?}"))?;
            let line = match event {
                FromServer::Message { line, .. } => line,
                FromServer::Failed { error, .. } => return Ok(Err(error.message)),
                FromServer::ListeningEnded(..) => continue,
                FromServer::End(end) => return Err(format!("{method}: {end}").into()),
            };
            let text = line.trim_ascii();
            if !text.starts_with(b"{") {
                continue;
            }
            let messages =
                read_server_line(text).map_err(|error| format!("{method}: invalid response: {error}"))?;
            for message in messages {
                let is_response = message.method.is_none() && message.id == Some(Id::from(id));
                if is_response {
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

/// An operator's access to the gateway.
struct Operator {
    http: reqwest::Client,
    url: String,
    key: Secret,
}

impl Operator {
    fn new(key: Secret) -> Result<Self, Error> {
        // Reads and checks ACTPASS_API_BASE_URL.
        let base = ActPass::builder().api_key(key.clone()).build()?.base_url().to_owned();
        // Another provider may be installed, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder().redirect(redirect::Policy::none()).timeout(LIMIT);
        if base.starts_with("http://") {
            http = http.no_proxy();
        }
        Ok(Self { http: http.build()?, url: format!("{base}/api/v1/tools"), key })
    }

    /// Approves a definition and returns its hash.
    async fn approve(&self, tool: &str, definition: &Json) -> Result<String, Error> {
        let hash = hash_payload(definition).map_err(|error| format!("{tool}: {error}"))?;
        let mut body = JsonWriter::new(Style::Compact);
        body.raw("{");
        body.key("tool_id");
        body.string(tool);
        body.raw(",");
        body.key("manifest");
        definition.write(&mut body);
        body.raw("}");
        let request = self.http.post(&self.url).bearer_auth(self.key.expose());
        let request = request.header("content-type", "application/json").body(body.into_string());
        let response = request.send().await?;
        let status = response.status();
        if !status.is_success() {
            return Err(
                format!("{tool}: the gateway answered {status}; an operator's key is required").into()
            );
        }
        let answer = Json::parse(&response.bytes().await?).map_err(|error| format!("{tool}: {error}"))?;
        match answer.member("manifest_hash").and_then(Json::as_str) == Some(&hash) {
            true => Ok(hash),
            false => Err(format!("{tool}: the gateway's manifest_hash is not that of the definition").into()),
        }
    }
}
