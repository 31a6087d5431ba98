//! An MCP server over Streamable HTTP, as the server's side of a session.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actpass_core::Json;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, StatusCode, redirect};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::client::Event;
use crate::exchange::{End, FromServer, Origin, Outgoing, lock};
use crate::header_value;
use crate::lines::MAX_MESSAGE;
use crate::message::{Id, RpcError, one_line, read_server_line, response_head};
use crate::server::INPUT_END;
use crate::sse::Events;
use crate::warn;

pub(crate) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
pub(crate) const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
pub(crate) const METHOD: HeaderName = HeaderName::from_static("mcp-method");
pub(crate) const NAME: HeaderName = HeaderName::from_static("mcp-name");
pub(crate) const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");
/// The proxies that a request has passed through.
pub(crate) const VIA: HeaderName = HeaderName::from_static("actpass-via");
/// Longest time to a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// The delay before a stream is resumed, unless the server names one, and the longest one.
const RESUME: Duration = Duration::from_secs(1);
const MAX_RESUME: Duration = Duration::from_secs(30);
/// The attempts to resume a stream without an event between them.
const RESUMES: u32 = 3;
/// The events that are read ahead.
const READ_AHEAD: usize = 16;

/// The address of a server, and the proxy's credentials for it.
pub(crate) struct HttpServer {
    http: reqwest::Client,
    url: reqwest::Url,
    headers: HeaderMap,
    token_file: Option<PathBuf>,
    instance: HeaderValue,
}

/// The settings of an [`HttpServer`].
pub(crate) struct HttpSettings {
    pub(crate) url: String,
    /// Headers with their values.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// A file with a bearer token, which is read for each request.
    pub(crate) token_file: Option<PathBuf>,
    /// A file with certificates of a private authority.
    pub(crate) ca: Option<PathBuf>,
    pub(crate) allow_http: bool,
    /// The id of this proxy.
    pub(crate) instance: String,
}

impl HttpServer {
    /// # Errors
    ///
    /// The URL is not https (or http to this machine), or a file cannot be read.
    pub(crate) fn new(settings: HttpSettings) -> Result<Self, String> {
        let url = settings.url.as_str();
        let url =
            reqwest::Url::parse(url).map_err(|problem| format!("--upstream: invalid URL: {problem}"))?;
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err("--upstream: expected a URL without user information and fragment".to_owned());
        }
        match url.scheme() {
            "https" => {}
            "http" if is_loopback(&url) || settings.allow_http => {}
            _ => return Err("--upstream: expected https, or http to this machine".to_owned()),
        }
        // Another provider may be installed, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder().redirect(redirect::Policy::none()).connect_timeout(CONNECT);
        http = http.retry(reqwest::retry::never());
        if url.scheme() == "http" {
            http = http.no_proxy();
        }
        if let Some(path) = &settings.ca {
            let failed = |problem: &dyn std::fmt::Display| format!("--ca {}: {problem}", path.display());
            let pem = std::fs::read(path).map_err(|error| failed(&error))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| failed(&error))?;
            if certificates.is_empty() {
                return Err(failed(&"expected certificates in PEM"));
            }
            http = http.tls_certs_merge(certificates);
        }
        let http = http.build().map_err(|error| format!("--upstream: {error}"))?;
        let server = Self {
            http,
            url,
            headers: settings.headers.into_iter().collect(),
            token_file: settings.token_file,
            instance: HeaderValue::try_from(settings.instance).map_err(|error| error.to_string())?,
        };
        server.credentials()?;
        Ok(server)
    }

    /// The headers of each request.
    fn credentials(&self) -> Result<HeaderMap, String> {
        let mut headers = self.headers.clone();
        if let Some(path) = &self.token_file {
            let failed = |problem: &dyn std::fmt::Display| {
                format!("--upstream-token-file {}: {problem}", path.display())
            };
            let token = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
            let value = HeaderValue::try_from(format!("Bearer {}", token.trim()));
            let mut value = value.map_err(|_| failed(&"expected a token of visible ASCII characters"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        headers.insert(VIA, self.instance.clone());
        Ok(headers)
    }
}

/// Whether the host of `url` is this machine.
pub(crate) fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A session with the server.
pub(crate) struct Connection {
    server: Arc<HttpServer>,
    /// The session id and the version from the response to `initialize`.
    session: Mutex<Option<HeaderValue>>,
    version: Mutex<Option<HeaderValue>>,
    events: mpsc::Sender<FromServer>,
    /// The requests in flight.
    open: Mutex<HashMap<Id, AbortHandle>>,
    /// The streams of GET.
    listening: Mutex<HashMap<u64, AbortHandle>>,
    /// Whether the proxy opens the stream for messages that belong to no request, because the client
    /// cannot.
    listens: bool,
}

/// Aborts the requests in flight.
impl Drop for HttpIn {
    fn drop(&mut self) {
        self.writer.abort();
        for task in lock(&self.connection.open).values().chain(lock(&self.connection.listening).values()) {
            task.abort();
        }
    }
}

/// The messages to the server.
pub(crate) struct HttpOut {
    queue: mpsc::UnboundedSender<Outgoing>,
    connection: Arc<Connection>,
}

/// The events of the server.
pub(crate) struct HttpIn {
    events: mpsc::Receiver<FromServer>,
    connection: Arc<Connection>,
    writer: AbortHandle,
}

/// Prepares a session. The first message connects.
pub(crate) fn connect(server: &Arc<HttpServer>, listens: bool) -> (HttpOut, HttpIn) {
    let (sender, events) = mpsc::channel(READ_AHEAD);
    let connection = Arc::new(Connection {
        server: Arc::clone(server),
        session: Mutex::default(),
        version: Mutex::default(),
        events: sender,
        open: Mutex::default(),
        listening: Mutex::default(),
        listens,
    });
    let (queue, queued) = mpsc::unbounded_channel();
    let writer = tokio::spawn(write(Arc::clone(&connection), queued)).abort_handle();
    (HttpOut { queue, connection: Arc::clone(&connection) }, HttpIn { events, connection, writer })
}

impl HttpOut {
    pub(crate) fn send(&self, message: Outgoing) {
        let _ = self.queue.send(message);
    }

    /// Closes the response to the request. In 2026-07-28 this cancels it; earlier, the client may
    /// resume it.
    pub(crate) fn abandon(&self, id: &Id) {
        if let Some(task) = lock(&self.connection.open).remove(id) {
            task.abort();
        }
    }

    /// Opens a stream with GET, after the event `last`.
    pub(crate) fn listen(&self, number: u64, last: Option<String>) {
        listen(&self.connection, number, last);
    }

    /// Closes a stream of [`HttpOut::listen`].
    pub(crate) fn unlisten(&self, number: u64) {
        if let Some(task) = lock(&self.connection.listening).remove(&number) {
            task.abort();
        }
    }
}

impl HttpIn {
    /// The next event. Can be cancelled.
    pub(crate) async fn recv(&mut self) -> FromServer {
        self.events.recv().await.unwrap_or(FromServer::End(End::ServerOutput))
    }

    /// Ends the session. If the client ended it, `answer` first gets the responses in flight.
    pub(crate) async fn finish(mut self, end: End, mut answer: impl FnMut(Vec<u8>) -> bool) -> End {
        if matches!(end, End::Client) {
            let until = Instant::now() + INPUT_END;
            while !lock(&self.connection.open).is_empty() {
                match timeout_at(until, self.events.recv()).await {
                    Ok(Some(FromServer::Message { line, .. })) => {
                        answer(line);
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                }
            }
            while let Ok(FromServer::Message { line, .. }) = self.events.try_recv() {
                answer(line);
            }
        }
        let is_open = lock(&self.connection.session).is_some();
        if is_open && let Ok(headers) = self.connection.headers() {
            let server = &self.connection.server;
            let request = server.http.request(Method::DELETE, server.url.clone()).headers(headers);
            let _ = timeout(INPUT_END, request.send()).await;
        }
        end
    }
}

/// Sends the messages. A notification, a response and `initialize` complete before the next message
/// is sent.
async fn write(connection: Arc<Connection>, mut queue: mpsc::UnboundedReceiver<Outgoing>) {
    while let Some(message) = queue.recv().await {
        if let Some(id) = &message.cancels {
            // The stream of a request of 2026-07-28 is its only cancellation.
            let task = lock(&connection.open).remove(id);
            if let Some(task) = task.filter(|_| lock(&connection.version).is_none()) {
                task.abort();
                continue;
            }
        }
        let is_initialize = message.method.as_deref() == Some("initialize");
        let is_initialized = message.method.as_deref() == Some("notifications/initialized");
        match message.id.clone() {
            Some(id) if !is_initialize => {
                let mut open = lock(&connection.open);
                let task = tokio::spawn({
                    let (connection, id) = (Arc::clone(&connection), id.clone());
                    async move {
                        connection.request(message, &id).await;
                        lock(&connection.open).remove(&id);
                    }
                });
                open.insert(id, task.abort_handle());
            }
            Some(id) => connection.request(message, &id).await,
            None => connection.notify(message).await,
        }
        if is_initialized && connection.listens {
            listen(&connection, 0, None);
        }
    }
}

/// Opens a stream with GET.
fn listen(connection: &Arc<Connection>, number: u64, last: Option<String>) {
    let task = tokio::spawn({
        let connection = Arc::clone(connection);
        async move { connection.listen(number, last).await }
    });
    if let Some(earlier) = lock(&connection.listening).insert(number, task.abort_handle()) {
        earlier.abort();
    }
}

/// The end of a stream of events.
enum StreamEnd {
    /// It contained the response.
    Answered,
    Cut,
    Invalid(String),
}

impl Connection {
    fn headers(&self) -> Result<HeaderMap, String> {
        let mut headers = self.server.credentials()?;
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        headers.extend(lock(&self.session).clone().map(|session| (SESSION, session)));
        headers.extend(lock(&self.version).clone().map(|version| (VERSION, version)));
        Ok(headers)
    }

    async fn post(&self, message: Outgoing) -> Result<Response, (RpcError, u16)> {
        let not_sent =
            |problem: String| (RpcError::internal(format_args!("{problem}; the request was not sent")), 502);
        let mut headers = self.headers().map_err(not_sent)?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if message.method.as_deref() == Some("initialize") {
            headers.remove(SESSION);
            headers.remove(VERSION);
        }
        // The headers repeat the members of the evaluated message, not those of the client.
        if let Some(version) = &message.version {
            let texts =
                [(VERSION, Some(version)), (METHOD, message.method.as_ref()), (NAME, message.name.as_ref())];
            for (name, text) in texts {
                if let Some(text) = text {
                    headers.insert(name, header_value::encode(text));
                }
            }
            headers.extend(message.headers);
        }
        let request = self.server.http.request(Method::POST, self.server.url.clone());
        let response = request.headers(headers).body(message.line).send().await;
        response.map_err(|error| {
            let is_unsent = error.is_connect() || error.is_builder();
            let error =
                std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            let outcome = if is_unsent { "was not sent" } else { "may have been processed" };
            (
                RpcError::internal(format_args!("the server is unreachable: {error}; the request {outcome}")),
                502,
            )
        })
    }

    async fn notify(&self, message: Outgoing) {
        let method = message.method.clone().unwrap_or_else(|| "a response".to_owned());
        match self.post(message).await {
            Ok(response) if response.status().is_success() => {}
            Ok(response) => warn(format_args!("the server answered {} to {method}", response.status())),
            Err((error, _)) => warn(format_args!("{method}: {}", error.message)),
        }
    }

    /// Sends a request, and its responses as events.
    async fn request(&self, message: Outgoing, id: &Id) {
        let is_initialize = message.method.as_deref() == Some("initialize");
        let is_stateless = message.version.is_some();
        let answered = match self.post(message).await {
            Err(failed) => Err(failed),
            Ok(response) => self.response(response, id, is_initialize, is_stateless).await,
        };
        if let Err((error, status)) = answered {
            self.send(FromServer::Failed { id: id.clone(), error, status }).await;
        }
    }

    async fn send(&self, event: FromServer) {
        let _ = self.events.send(event).await;
    }

    async fn response(
        &self,
        response: Response,
        id: &Id,
        is_initialize: bool,
        is_stateless: bool,
    ) -> Result<(), (RpcError, u16)> {
        let failed = |problem: &dyn std::fmt::Display| {
            (RpcError::internal(format_args!("{problem}; the request may have been processed")), 502)
        };
        let status = response.status();
        if status.is_redirection() {
            let problem = "the server redirected the request; redirects are not followed";
            return Err((RpcError::internal(problem), 502));
        }
        if is_initialize && status.is_success() {
            *lock(&self.session) = response.headers().get(SESSION).cloned();
        }
        let kind =
            response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let origin = Origin::Request(id.clone());
        if status.is_success() && kind == "text/event-stream" {
            let mut last = None;
            let end = self.events(response, &origin, is_initialize, &mut last).await;
            return match end {
                StreamEnd::Answered => Ok(()),
                StreamEnd::Invalid(problem) => Err(failed(&problem)),
                StreamEnd::Cut => match last.filter(|_| !is_stateless) {
                    Some(last) => self.resume(&origin, last).await.map_err(|problem| failed(&problem)),
                    None => Err(failed(&"the server closed the stream before the response")),
                },
            };
        }
        let ended = status == StatusCode::NOT_FOUND && lock(&self.session).is_some();
        let body = body(response).await.map_err(|problem| failed(&problem))?;
        if status.is_success() {
            if kind != "application/json" {
                return Err(failed(&format_args!("the server answered with the content type {kind:?}")));
            }
            let line = self.message(&body, &origin).map_err(|problem| failed(&problem))?;
            if is_initialize {
                self.note_version(&line);
            }
            let event = Event::default();
            self.send(FromServer::Message { line, origin, event, status: Some(200) }).await;
            return Ok(());
        }
        // Credentials of the proxy were refused; those of the client are not the problem.
        let passed = match status.as_u16() {
            401 | 403 => 502,
            status @ 400..500 => status,
            _ => 502,
        };
        match error_member(&body) {
            Some(error) => {
                let mut out = response_head(Some(id));
                out.key("error");
                out.raw(&error);
                out.raw("}\n");
                let (line, event) = (out.into_string().into_bytes(), Event::default());
                self.send(FromServer::Message { line, origin, event, status: Some(passed) }).await;
            }
            None => {
                let outcome =
                    if status.is_client_error() { "was not processed" } else { "may have been processed" };
                let error =
                    RpcError::internal(format!("the server answered {status}; the request {outcome}"));
                self.send(FromServer::Failed { id: id.clone(), error, status: passed }).await;
            }
        }
        if ended {
            self.send(FromServer::End(End::Broken("the server ended the session".to_owned()))).await;
        }
        Ok(())
    }

    /// A message of the server as a line.
    fn message(&self, text: &[u8], origin: &Origin) -> Result<Vec<u8>, String> {
        let invalid =
            |problem: &dyn std::fmt::Display| format!("the server sent an invalid message: {problem}");
        let text = std::str::from_utf8(text).map_err(|_| invalid(&"not UTF-8"))?;
        let messages = read_server_line(text.trim().as_bytes()).map_err(|problem| invalid(&problem))?;
        if let Origin::Request(id) = origin {
            let mut ids = messages.iter().filter(|message| message.method.is_none());
            if ids.any(|message| message.id.as_ref() != Some(id)) {
                return Err(invalid(&"a response with the id of another request"));
            }
        }
        let mut line = one_line(text.trim()).into_owned().into_bytes();
        line.push(b'\n');
        Ok(line)
    }

    fn note_version(&self, line: &[u8]) {
        let version = Json::parse(line).ok().and_then(|message| {
            let version = message.member("result")?.member("protocolVersion")?.as_str()?.to_owned();
            HeaderValue::try_from(version).ok()
        });
        *lock(&self.version) = version;
    }

    /// Sends the events of a stream. `last` is the id of the last one.
    async fn events(
        &self,
        mut response: Response,
        origin: &Origin,
        is_initialize: bool,
        last: &mut Option<(String, Duration)>,
    ) -> StreamEnd {
        let mut events = Events::default();
        let mut delay = last.as_ref().map_or(RESUME, |(_, delay)| *delay);
        loop {
            let Ok(Some(chunk)) = response.chunk().await else { return StreamEnd::Cut };
            let Ok(found) = events.add(&chunk) else {
                return StreamEnd::Invalid(format!(
                    "the server sent an event over {MAX_MESSAGE} bytes or not in UTF-8"
                ));
            };
            for found in found {
                if let Some(retry) = found.retry {
                    delay = Duration::from_millis(retry).min(MAX_RESUME);
                }
                if let Some(id) = found.id.as_ref().filter(|id| !id.is_empty()) {
                    *last = Some((id.clone(), delay));
                }
                if !found.is_message() {
                    continue;
                }
                let event = Event { id: found.id, retry: found.retry };
                if found.data.is_empty() {
                    let event =
                        FromServer::Message { line: Vec::new(), origin: origin.clone(), event, status: None };
                    self.send(event).await;
                    continue;
                }
                let line = match self.message(found.data.as_bytes(), origin) {
                    Ok(line) => line,
                    Err(problem) => return StreamEnd::Invalid(problem),
                };
                let is_answer = read_server_line(line.trim_ascii())
                    .is_ok_and(|messages| messages.iter().any(|message| message.method.is_none()));
                if is_initialize && is_answer {
                    self.note_version(&line);
                }
                self.send(FromServer::Message { line, origin: origin.clone(), event, status: None }).await;
                if is_answer && matches!(origin, Origin::Request(_)) {
                    return StreamEnd::Answered;
                }
            }
        }
    }

    /// Resumes the stream of a request after its last event, until its response.
    async fn resume(&self, origin: &Origin, last: (String, Duration)) -> Result<(), String> {
        let mut at = Some(last);
        let mut failures = 0;
        while let Some((last, delay)) = at.clone() {
            sleep(delay).await;
            match self.get(Some(&last)).await {
                Ok(response) => {
                    let end = self.events(response, origin, false, &mut at).await;
                    match end {
                        StreamEnd::Answered => return Ok(()),
                        StreamEnd::Invalid(problem) => return Err(problem),
                        StreamEnd::Cut => {}
                    }
                }
                Err((status, problem)) if (400..500).contains(&status) => return Err(problem),
                Err(_) => {}
            }
            failures = if at.as_ref().is_some_and(|(now, _)| *now != last) { 0 } else { failures + 1 };
            if failures >= RESUMES {
                break;
            }
        }
        Err("the server closed the stream before the response, and it could not be resumed".to_owned())
    }

    /// Opens a stream with GET. The error has the status of the response, or 0.
    async fn get(&self, last: Option<&str>) -> Result<Response, (u16, String)> {
        let mut headers = self.headers().map_err(|problem| (0, problem))?;
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(last) = last {
            let last = HeaderValue::try_from(last).map_err(|_| (400, "invalid Last-Event-ID".to_owned()))?;
            headers.insert(LAST_EVENT, last);
        }
        let request = self.server.http.request(Method::GET, self.server.url.clone()).headers(headers);
        let response = request.send().await.map_err(|error| (0, error.without_url().to_string()))?;
        match response.status() {
            StatusCode::OK => Ok(response),
            status => Err((status.as_u16(), format!("the server answered {status} to GET"))),
        }
    }

    /// Sends the events of the stream `number` until it is closed for good.
    async fn listen(&self, number: u64, last: Option<String>) {
        let origin = Origin::Listening(number);
        let mut at = last.map(|last| (last, RESUME));
        let mut failures = 0;
        loop {
            let last = at.as_ref().map(|(last, _)| last.clone());
            match self.get(last.as_deref()).await {
                Ok(response) => {
                    failures = 0;
                    if let StreamEnd::Invalid(problem) = self.events(response, &origin, false, &mut at).await
                    {
                        warn(problem);
                    }
                    if !self.listens {
                        return self.send(FromServer::ListeningEnded(number, 200)).await;
                    }
                }
                Err((status, problem)) => {
                    failures += 1;
                    if !self.listens || (400..500).contains(&status) || failures > RESUMES {
                        if status != 405 {
                            warn(problem);
                        }
                        let status = if status == 0 { 502 } else { status };
                        return self.send(FromServer::ListeningEnded(number, status)).await;
                    }
                }
            }
            sleep(at.as_ref().map_or(RESUME, |(_, delay)| *delay)).await;
        }
    }
}

/// Reads a body of up to [`MAX_MESSAGE`] bytes.
async fn body(mut response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(body),
            Ok(Some(chunk)) if body.len() + chunk.len() <= MAX_MESSAGE => body.extend_from_slice(&chunk),
            Ok(Some(_)) => return Err(format!("the server sent a message over {MAX_MESSAGE} bytes")),
            Err(_) => {
                return Err("the server closed the connection before the end of the response".to_owned());
            }
        }
    }
}

/// The error of a JSON-RPC response, as JSON.
fn error_member(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let messages = read_server_line(text.trim().as_bytes()).ok()?;
    let error = messages.first()?.error?;
    let is_error = matches!(Json::parse(error.as_bytes()).ok()?.member("code"), Some(Json::Number(_)));
    is_error.then(|| one_line(error).into_owned())
}
