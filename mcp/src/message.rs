//! JSON-RPC messages: the strict reading of the client's, the lenient reading of the server's, and
//! the proxy's own.

use std::borrow::Cow;
use std::fmt;

use actpass_core::json::{JsonWriter, RawObject, ReadError, Style};
use actpass_core::{Json, Traceparent};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The method of a call that the guard decides about.
pub(crate) const TOOLS_CALL: &str = "tools/call";
/// The key of the proxy's request among the `inputRequests` of a result.
pub(crate) const INPUT: &str = "actpass_approval";
/// The notification that cancels a request.
pub(crate) const CANCELLED: &str = "notifications/cancelled";
/// The member of `_meta` with the protocol version of a request: 2026-07-28 and later.
const VERSION_META: &str = "io.modelcontextprotocol/protocolVersion";
/// The member of `_meta` with the capabilities of the client: 2026-07-28 and later.
const CAPABILITIES_META: &str = "io.modelcontextprotocol/clientCapabilities";

/// The id of a request, as JSON: a string or an integer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Id(String);

impl Id {
    fn of(json: &Json) -> Option<Self> {
        match json {
            Json::Number(number) if number.is_integer() && !number.as_str().contains(['.', 'e', 'E']) => {
                Some(Self(number.as_str().to_owned()))
            }
            Json::String(_) => Some(Self(compact(json))),
            Json::Array(_) | Json::Bool(_) | Json::Null | Json::Number(_) | Json::Object(_) => None,
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Id {
    /// Whether it is a string that starts with `prefix`, of ASCII letters, digits and hyphens.
    pub(crate) fn starts_with(&self, prefix: &str) -> bool {
        self.0.strip_prefix('"').is_some_and(|text| text.starts_with(prefix))
    }
}

impl From<u64> for Id {
    fn from(number: u64) -> Self {
        Self(number.to_string())
    }
}

impl From<&str> for Id {
    fn from(text: &str) -> Self {
        Self(compact(&Json::String(text.to_owned())))
    }
}

/// A JSON-RPC error of the proxy.
#[derive(Clone, Debug)]
pub(crate) struct RpcError {
    pub(crate) code: i32,
    pub(crate) message: String,
}

impl RpcError {
    pub(crate) fn parse(problem: impl fmt::Display) -> Self {
        Self { code: -32700, message: format!("invalid JSON: {problem}") }
    }

    pub(crate) fn invalid_request(problem: impl fmt::Display) -> Self {
        Self { code: -32600, message: format!("invalid request: {problem}") }
    }

    pub(crate) fn invalid_params(problem: impl fmt::Display) -> Self {
        Self { code: -32602, message: format!("invalid params: {problem}") }
    }

    pub(crate) fn internal(problem: impl fmt::Display) -> Self {
        Self { code: -32603, message: problem.to_string() }
    }

    /// The response, to the request `id` if it is known.
    pub(crate) fn response(&self, id: Option<&Id>) -> Vec<u8> {
        let mut out = response_head(id);
        out.key("error");
        out.raw(&format!("{{\"code\":{},", self.code));
        out.key("message");
        out.string(&self.message);
        out.raw("}}\n");
        out.into_string().into_bytes()
    }
}

/// A message of the client.
#[derive(Debug)]
pub(crate) struct ClientMessage {
    pub(crate) id: Option<Id>,
    /// `None` for a response to the server.
    pub(crate) method: Option<String>,
    params: Option<Json>,
    result: Option<Json>,
}

/// The messages of a line: one, or the items of a batch.
#[derive(Debug)]
pub(crate) enum ClientLine {
    Single(ClientMessage),
    Batch(Vec<ClientMessage>),
}

/// Reads a line of the client. A line that two parsers could read differently is an error, because
/// the server must not read another call than the guard: a key given twice, an unknown member of
/// the message, a member name that differs only in case.
///
/// # Errors
///
/// The error, and the id of the request if it has one.
pub(crate) fn read_client_line(text: &str) -> Result<ClientLine, (Option<Id>, RpcError)> {
    let json = Json::parse(text.as_bytes()).map_err(|problem| {
        let problem = match problem {
            // The key may be a secret.
            ReadError::DuplicateKey(..) => "duplicate key in an object".to_owned(),
            ReadError::Builder(_)
            | ReadError::NumberOutOfRange(_)
            | ReadError::Syntax(..)
            | ReadError::TooDeep(_) => problem.to_string(),
        };
        (None, RpcError::parse(problem))
    })?;
    match json {
        Json::Array(items) if items.is_empty() => {
            Err((None, RpcError::invalid_request("a batch without messages")))
        }
        Json::Array(items) => {
            items.into_iter().map(ClientMessage::of).collect::<Result<_, _>>().map(ClientLine::Batch)
        }
        Json::Bool(_) | Json::Null | Json::Number(_) | Json::Object(_) | Json::String(_) => {
            ClientMessage::of(json).map(ClientLine::Single)
        }
    }
}

impl ClientMessage {
    fn of(json: Json) -> Result<Self, (Option<Id>, RpcError)> {
        let kind = json.kind();
        let Json::Object(members) = json else {
            return Err((None, RpcError::invalid_request(format_args!("expected an object, found {kind}"))));
        };
        let found = |name: &str| members.iter().find_map(|(key, value)| (key == name).then_some(value));
        let id = found("id").and_then(Id::of);
        let invalid = |problem: &str| Err((id.clone(), RpcError::invalid_request(problem)));
        if members.iter().any(|(name, _)| {
            !matches!(name.as_str(), "jsonrpc" | "id" | "method" | "params" | "result" | "error")
        }) {
            return invalid("expected only jsonrpc, id, method, params, result and error");
        }
        if found("jsonrpc").and_then(Json::as_str) != Some("2.0") {
            return invalid("jsonrpc: expected \"2.0\"");
        }
        if found("id").is_some() && id.is_none() {
            return invalid("id: expected a string or an integer");
        }
        let answers = usize::from(found("result").is_some()) + usize::from(found("error").is_some());
        let method = match found("method") {
            None if answers == 1 => None,
            None => return invalid("expected a method, a result or an error"),
            Some(_) if answers > 0 => return invalid("expected either a method or a result"),
            Some(Json::String(method)) => Some(method.clone()),
            Some(_) => return invalid("method: expected a string"),
        };
        if method.as_deref() == Some(TOOLS_CALL) && id.is_none() {
            return invalid("id: tools/call needs one");
        }
        if method.as_ref().is_some_and(|name| name != TOOLS_CALL && folded(name.trim()) == TOOLS_CALL) {
            return invalid("method: expected \"tools/call\" in this spelling");
        }
        let (mut params, mut result) = (None, None);
        for (name, value) in members {
            match name.as_str() {
                "params" => params = Some(value),
                "result" => result = Some(value),
                _ => {}
            }
        }
        Ok(Self { id, method, params, result })
    }

    /// A text member of `_meta`.
    fn meta_text(&self, name: &str) -> Option<&str> {
        self.params.as_ref()?.member("_meta")?.member(name)?.as_str()
    }

    /// The protocol version that the request names: 2026-07-28 and later.
    pub(crate) fn version(&self) -> Option<&str> {
        self.meta_text(VERSION_META)
    }

    /// A text member of the params.
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.params.as_ref()?.member(name)?.as_str()
    }

    /// Whether the request enables log messages: 2026-07-28 and later.
    pub(crate) fn has_logs(&self) -> bool {
        self.meta_text("io.modelcontextprotocol/logLevel").is_some()
    }

    /// The progress token of the request.
    pub(crate) fn progress_token(&self) -> Option<Id> {
        Id::of(self.params.as_ref()?.member("_meta")?.member("progressToken")?)
    }

    /// Whether an `initialize` declares elicitation by URL.
    pub(crate) fn can_open_urls(&self) -> bool {
        self.params.as_ref().and_then(|params| params.member("capabilities")).is_some_and(can_open_urls)
    }

    /// The action of the person, in the response to an elicitation.
    pub(crate) fn elicited(&self) -> Option<&str> {
        self.result.as_ref()?.member("action")?.as_str()
    }

    /// The id of the request that `notifications/cancelled` names.
    pub(crate) fn cancelled(&self) -> Option<Id> {
        if self.method.as_deref() != Some(CANCELLED) {
            return None;
        }
        Id::of(self.params.as_ref()?.member("requestId")?)
    }

    /// Whether the request is the first page of a list.
    pub(crate) fn is_first_page(&self) -> bool {
        self.params.as_ref().and_then(|params| params.member("cursor")).is_none()
    }

    /// Reads the params of a `tools/call`. `line` is the line of the message.
    pub(crate) fn call(&self, line: &str) -> Result<Call, RpcError> {
        const KNOWN: [&str; 3] = ["name", "arguments", "_meta"];
        let Some(Json::Object(members)) = &self.params else {
            return Err(RpcError::invalid_params("expected an object"));
        };
        for (name, _) in members {
            if !KNOWN.contains(&name.as_str()) && KNOWN.contains(&folded(name).as_str()) {
                return Err(RpcError::invalid_params("expected name, arguments and _meta in this spelling"));
            }
        }
        let found = |name: &str| members.iter().find_map(|(key, value)| (key == name).then_some(value));
        let name = found("name").and_then(Json::as_str).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| RpcError::invalid_params("name: expected a non-empty string"))?;
        let params = RawObject::parse(line.as_bytes())
            .ok()
            .and_then(|message| RawObject::parse(message.member_text("params")?.as_bytes()).ok())
            .ok_or_else(|| RpcError::invalid_params("expected an object"))?;
        let meta = match found("_meta") {
            None => &Json::Null,
            Some(meta @ Json::Object(_)) => meta,
            Some(_) => return Err(RpcError::invalid_params("_meta: expected an object")),
        };
        let text = |name: &str| match meta.member(name) {
            None => Ok(None),
            Some(Json::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
            Some(_) => {
                Err(RpcError::invalid_params(format_args!("_meta[{name:?}]: expected a non-empty string")))
            }
        };
        Ok(Call {
            name: name.to_owned(),
            arguments: params.member_text("arguments").unwrap_or("{}").to_owned(),
            goal: text("actpass/goal")?,
            user_id: text("actpass/user_id")?,
            passport: text("actpass/passport")?,
            // An invalid trace context is ignored, as the W3C recommends.
            traceparent: meta.member("traceparent").and_then(Json::as_str).and_then(|text| text.parse().ok()),
            progress_token: meta.member("progressToken").filter(|token| Id::of(token).is_some()).map(compact),
            has_result_type: meta.member(VERSION_META).is_some(),
            can_open_urls: meta.member(CAPABILITIES_META).is_some_and(can_open_urls),
            request_state: found("requestState").and_then(Json::as_str).map(str::to_owned),
            elicited: found("inputResponses")
                .and_then(|responses| responses.member(INPUT)?.member("action")?.as_str())
                .map(str::to_owned),
        })
    }
}

/// The params of a `tools/call`.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// JSON text as sent; `{}` if missing.
    pub(crate) arguments: String,
    pub(crate) goal: Option<String>,
    pub(crate) user_id: Option<String>,
    pub(crate) passport: Option<String>,
    pub(crate) traceparent: Option<Traceparent>,
    /// JSON text.
    pub(crate) progress_token: Option<String>,
    /// Whether the protocol version of the request has `resultType`: 2026-07-28 and later.
    pub(crate) has_result_type: bool,
    /// Whether the request declares elicitation by URL: 2026-07-28 and later.
    pub(crate) can_open_urls: bool,
    pub(crate) request_state: Option<String>,
    /// The action of the person, in the response to an elicitation of the proxy.
    pub(crate) elicited: Option<String>,
}

/// Whether capabilities of a client declare elicitation by URL.
fn can_open_urls(capabilities: &Json) -> bool {
    capabilities.member("elicitation").and_then(|found| found.member("url")).is_some()
}

/// The result of a call that was not run.
pub(crate) fn blocked_result(id: &Id, text: &str, has_result_type: bool) -> Vec<u8> {
    let mut out = response_head(Some(id));
    out.raw(r#""result":{"#);
    if has_result_type {
        out.raw(r#""resultType":"complete","#);
    }
    out.raw(r#""isError":true,"content":[{"type":"text","text":"#);
    out.string(text);
    out.raw("}]}}\n");
    out.into_string().into_bytes()
}

/// The `count`-th progress of a request that waits for the gateway. The values increase and are
/// negative, so that those of the server, from zero, increase too.
pub(crate) fn waiting(token: &str, count: u32) -> Vec<u8> {
    let progress = -1.0 / f64::from(count);
    let message = "waiting for the decision about this call";
    format!(
        "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{{\"progressToken\":{token},\
         \"progress\":{progress},\"message\":\"{message}\"}}}}\n"
    )
    .into_bytes()
}

/// The notification that cancels the request `id` at the server.
pub(crate) fn cancel(id: &Id) -> Vec<u8> {
    let params = format!("{{\"requestId\":{id},\"reason\":\"no response in time\"}}");
    format!("{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{params}}}\n")
        .into_bytes()
}

pub(crate) fn response_head(id: Option<&Id>) -> JsonWriter {
    let mut out = JsonWriter::new(Style::Compact);
    out.raw(r#"{"jsonrpc":"2.0","#);
    if let Some(id) = id {
        out.raw(&format!("\"id\":{id},"));
    }
    out
}

/// Escapes the characters at which a server may split lines although JSON does not end there: a
/// part of one message must not become a message. They stand for themselves only in strings, and
/// the line feed and the carriage return only between tokens.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' | '\r' => out.push(' '),
            '\u{85}' => out.push_str("\\u0085"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// A message of the server.
#[derive(Debug)]
pub(crate) struct ServerMessage<'t> {
    pub(crate) id: Option<Id>,
    /// `None` for a response.
    pub(crate) method: Option<String>,
    /// The JSON text of the params.
    params: Option<&'t str>,
    /// The JSON text of the result.
    pub(crate) result: Option<&'t str>,
    /// The JSON text of the error.
    pub(crate) error: Option<&'t str>,
}

impl ServerMessage<'_> {
    /// The request that a notification names: by progress token, or by the id of a subscription.
    pub(crate) fn about(&self) -> (Option<Id>, Option<Id>) {
        let params = self.params.and_then(|params| Json::parse(params.as_bytes()).ok());
        let found = |path: &[&str]| {
            let mut at = params.as_ref()?;
            for name in path {
                at = at.member(name)?;
            }
            Id::of(at)
        };
        (found(&["progressToken"]), found(&["_meta", "io.modelcontextprotocol/subscriptionId"]))
    }
}

#[derive(Deserialize)]
struct ServerMembers<'t> {
    #[serde(borrow, default)]
    id: Option<&'t RawValue>,
    #[serde(default)]
    method: Option<String>,
    #[serde(borrow, default)]
    params: Option<&'t RawValue>,
    #[serde(borrow, default)]
    result: Option<&'t RawValue>,
    #[serde(borrow, default)]
    error: Option<&'t RawValue>,
}

impl<'t> ServerMembers<'t> {
    fn message(self) -> ServerMessage<'t> {
        ServerMessage {
            id: self.id.and_then(|id| Id::of(&Json::parse(id.get().as_bytes()).ok()?)),
            method: self.method,
            params: self.params.map(RawValue::get),
            result: self.result.map(RawValue::get),
            error: self.error.map(RawValue::get),
        }
    }
}

/// Reads a line of the server: a message, or a batch.
pub(crate) fn read_server_line(text: &[u8]) -> Result<Vec<ServerMessage<'_>>, serde_json::Error> {
    let members: Vec<ServerMembers<'_>> = match text.first() {
        Some(b'[') => serde_json::from_slice(text)?,
        _ => vec![serde_json::from_slice(text)?],
    };
    Ok(members.into_iter().map(ServerMembers::message).collect())
}

/// `text` in the case in which parsers that ignore case compare names.
fn folded(text: &str) -> String {
    text.to_uppercase().to_lowercase()
}

fn compact(json: &Json) -> String {
    let mut out = JsonWriter::new(Style::Compact);
    json.write(&mut out);
    out.into_string()
}
