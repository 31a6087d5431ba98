//! Streamable HTTP for clients: sessions up to 2025-11-25, and requests without one from 2026-07-28.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::get;
use futures_util::stream;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use reqwest::header::{
    ALLOW, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, WWW_AUTHENTICATE,
};
use reqwest::{Method, StatusCode, Url};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

use crate::approvals::random;
use crate::auth::{Refused, ResourceServer, bearer};
use crate::carriers::Carriers;
use crate::client::{
    ClientEvent, ClientIn, ClientOut, Deliveries, Delivery, Incoming, Replies, Reply, read_text,
};
use crate::exchange::{End, lock};
use crate::http_server::{LAST_EVENT, METHOD, NAME, SESSION, VERSION, VIA};
use crate::lines::MAX_MESSAGE;
use crate::message::{ClientLine, ClientMessage, Id, RpcError, TOOLS_CALL, one_line, read_server_line};
use crate::proxy::{drive, interrupted};
use crate::session::{Session, Shared};
use crate::tools::{Definitions, PARAMETER};
use crate::upstream::{Target, connect};
use crate::{header_value, sse, warn};

/// The first protocol version without sessions.
const STATELESS: &str = "2026-07-28";
/// Longest time to the handshake of a connection, and to the headers and the body of a request.
const REQUEST: Duration = Duration::from_secs(30);
/// A response that takes longer becomes a stream.
const UNTIL_STREAM: Duration = Duration::from_secs(5);
/// The interval of comments on a stream without messages.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A session without open streams and requests ends after this time.
const IDLE: Duration = Duration::from_secs(30 * 60);
const SWEEP: Duration = Duration::from_secs(60);
/// Longest wait for the end of sessions after the end of the proxy.
const SHUTDOWN: Duration = Duration::from_secs(12);
/// The most connections at the same time. Further ones wait.
const MAX_CONNECTIONS: usize = 1024;
/// The most bytes of the headers of a request.
const MAX_HEADERS: usize = 64 * 1024;

const GOAL: HeaderName = HeaderName::from_static("actpass-goal");
const USER: HeaderName = HeaderName::from_static("actpass-user-id");
const PASSPORT: HeaderName = HeaderName::from_static("actpass-passport");

/// The settings of the endpoint.
pub(crate) struct ListenSettings {
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
    /// More hosts than those of the address, each with a port unless it is the default one.
    pub(crate) hosts: Vec<String>,
    /// The origins of web pages that may connect.
    pub(crate) origins: Vec<String>,
    pub(crate) max_sessions: usize,
    pub(crate) resource: Option<ResourceServer>,
    /// `None` for plain HTTP.
    pub(crate) tls: Option<TlsAcceptor>,
    /// Take the user of a call from the access token.
    pub(crate) user_from_token: bool,
    /// The id of this proxy, which its requests to a server carry.
    pub(crate) instance: String,
}

/// The state of the endpoint.
struct Lobby {
    shared: Arc<Shared>,
    settings: ListenSettings,
    port: u16,
    sessions: Mutex<HashMap<String, Arc<Open>>>,
    /// The sessions that serve requests without one, with a process each.
    pool: Mutex<Vec<Arc<Open>>>,
    /// The definitions that clients without a session have received.
    definitions: Mutex<HashMap<String, Arc<Mutex<Definitions>>>>,
    streams: AtomicU64,
    tasks: Mutex<JoinSet<()>>,
}

/// A running session.
struct Open {
    key: String,
    principal: String,
    events: mpsc::UnboundedSender<ClientEvent>,
    /// The requests and streams in flight.
    active: Mutex<Vec<Active>>,
    used: Mutex<Instant>,
}

/// The values that distinguish a request from the others of its session.
#[derive(Clone, PartialEq)]
struct Active {
    number: u64,
    id: Option<Id>,
    token: Option<Id>,
    has_logs: bool,
}

/// Serves until SIGINT or SIGTERM. Writes the URL to standard output.
///
/// # Errors
///
/// The address is in use.
pub(crate) async fn serve(shared: Arc<Shared>, settings: ListenSettings) -> io::Result<()> {
    let listener = TcpListener::bind(settings.address).await.map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {}: {error}", settings.address))
    })?;
    let address = listener.local_addr()?;
    let path = settings.path.clone();
    let lobby = Arc::new(Lobby {
        shared,
        settings,
        port: address.port(),
        sessions: Mutex::default(),
        pool: Mutex::default(),
        definitions: Mutex::default(),
        streams: AtomicU64::new(0),
        tasks: Mutex::default(),
    });
    let mut routes = Router::new().route(&path, axum::routing::any(endpoint));
    if let Some(resource) = &lobby.settings.resource {
        for path in resource.metadata_paths(&path) {
            routes = routes.route(&path, get(metadata));
        }
    }
    let routes = routes.with_state(Arc::clone(&lobby));
    let tls = lobby.settings.tls.clone();
    crate::say(format_args!("listening on {}://{address}{path}", lobby.scheme()))?;
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(REQUEST).max_buf_size(MAX_HEADERS);
    let mut stop = Box::pin(interrupted());
    let mut sweep = tokio::time::interval(SWEEP);
    let mut connections = JoinSet::new();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            _ = sweep.tick() => {
                lobby.sweep();
                while connections.try_join_next().is_some() {}
                continue;
            }
            accepted = admit(&listener, &permits) => accepted,
        };
        match accepted {
            Err(error) => {
                warn(format_args!("cannot accept a connection: {error}"));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok((stream, permit)) => {
                let _ = stream.set_nodelay(true);
                let (builder, routes, tls) = (builder.clone(), routes.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve_connection(&builder, routes, stream).await,
                        Some(tls) => {
                            if let Ok(Ok(stream)) = timeout(REQUEST, tls.accept(stream)).await {
                                serve_connection(&builder, routes, stream).await;
                            }
                        }
                    }
                    drop(permit);
                });
            }
        }
    }
    connections.shutdown().await;
    for open in lock(&lobby.sessions).values().chain(lock(&lobby.pool).iter()) {
        let _ = open.events.send(ClientEvent::End);
    }
    let mut tasks = std::mem::take(&mut *lock(&lobby.tasks));
    let _ = timeout(SHUTDOWN, async { while tasks.join_next().await.is_some() {} }).await;
    Ok(())
}

async fn serve_connection(
    builder: &auto::Builder<TokioExecutor>,
    routes: Router,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    let _ = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)).await;
}

/// Accepts a connection as soon as another one may be open.
async fn admit(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

impl Lobby {
    fn is_http(&self) -> bool {
        matches!(self.shared.options.target, Target::Http(_))
    }

    fn scheme(&self) -> &'static str {
        if self.settings.tls.is_some() { "https" } else { "http" }
    }

    /// Ends the sessions that are no longer used.
    fn sweep(&self) {
        let is_idle = |open: &Open| lock(&open.active).is_empty() && lock(&open.used).elapsed() > IDLE;
        for open in lock(&self.sessions).values().chain(lock(&self.pool).iter()).filter(|open| is_idle(open))
        {
            let _ = open.events.send(ClientEvent::End);
        }
        while lock(&self.tasks).try_join_next().is_some() {}
    }

    /// Starts a session with the server.
    fn start(self: &Arc<Self>, principal: &str, is_stateless: bool) -> io::Result<Arc<Open>> {
        let (to_server, from_server) = connect(&self.shared.options.target, false)?;
        let definitions = match is_stateless {
            true => Arc::clone(lock(&self.definitions).entry(principal.to_owned()).or_default()),
            false => Arc::default(),
        };
        let replies = ClientOut::Replies(Replies::new(is_stateless));
        let (session, verdicts) = Session::new(Arc::clone(&self.shared), replies, to_server, definitions)?;
        let (events, received) = mpsc::unbounded_channel();
        let open = Arc::new(Open {
            key: hex::encode(random::<16>().map_err(io::Error::other)?),
            principal: principal.to_owned(),
            events,
            active: Mutex::default(),
            used: Mutex::new(Instant::now()),
        });
        let (lobby, key) = (Arc::clone(self), open.key.clone());
        lock(&self.tasks).spawn(async move {
            let mut from_client = ClientIn::Requests(received);
            let end = drive(session, verdicts, &mut from_client, from_server, std::future::pending()).await;
            lock(&lobby.sessions).remove(&key);
            lock(&lobby.pool).retain(|open| open.key != key);
            if !matches!(end, End::Client) {
                warn(end);
            }
        });
        Ok(open)
    }

    /// A session for a request without one, in which it cannot be confused with another request.
    fn pooled(self: &Arc<Self>, principal: &str, active: &Active) -> io::Result<Arc<Open>> {
        if self.is_http() {
            // Each request is a separate request to the server.
            return self.start(principal, true);
        }
        let pool = lock(&self.pool);
        let is_free = |open: &Open| {
            open.principal == principal
                && !open.events.is_closed()
                && lock(&open.active).iter().all(|other| {
                    other.id != active.id
                        && (active.token.is_none() || other.token != active.token)
                        && !(other.has_logs && active.has_logs)
                })
        };
        if let Some(open) = pool.iter().find(|open| is_free(open)) {
            lock(&open.active).push(active.clone());
            return Ok(Arc::clone(open));
        }
        if pool.len() >= self.settings.max_sessions {
            return Err(io::Error::other("too many requests in progress; retry later"));
        }
        drop(pool);
        let open = self.start(principal, true)?;
        lock(&open.active).push(active.clone());
        lock(&self.pool).push(Arc::clone(&open));
        Ok(open)
    }
}

/// A refused request: the status, and the text for the client.
struct Problem(StatusCode, RpcError, Option<Id>);

impl Problem {
    fn new(status: StatusCode, problem: &str) -> Self {
        Self(status, RpcError::invalid_request(problem), None)
    }

    fn response(&self) -> Response {
        json(self.0, self.1.response(self.2.as_ref()))
    }
}

fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// The only value of a header.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let problem = |problem: &str| Problem::new(StatusCode::BAD_REQUEST, &format!("{name}: {problem}"));
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(problem("expected one value, found two")),
        (Some(value), None) => match value.to_str() {
            Ok(value) if !value.is_empty() => Ok(Some(value)),
            Ok(_) | Err(_) => Err(problem("expected visible ASCII characters")),
        },
    }
}

async fn metadata(State(lobby): State<Arc<Lobby>>, request: Request) -> Response {
    match (check_host(&lobby, request.headers()), &lobby.settings.resource) {
        (Ok(()), Some(resource)) => json(StatusCode::OK, resource.metadata()),
        (Err(problem), _) => problem.response(),
        (Ok(()), None) => empty(StatusCode::NOT_FOUND),
    }
}

/// The host must be one of this proxy, and a web page one of the allowed ones: a page can make a
/// browser send requests to any address, but only under the page's own name.
fn check_host(lobby: &Lobby, headers: &HeaderMap) -> Result<(), Problem> {
    let forbidden = |problem: &str| Err(Problem::new(StatusCode::FORBIDDEN, problem));
    let Some(host) = only(headers, &HOST)? else { return forbidden("host: missing") };
    let host = host.to_ascii_lowercase();
    let Ok(url) = Url::parse(&format!("{}://{host}/", lobby.scheme())) else {
        return forbidden("host: invalid");
    };
    let address = lobby.settings.address.ip();
    let name = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let is_local = match name.parse::<IpAddr>() {
        Ok(named) => {
            named == address || (named.is_loopback() && (address.is_loopback() || address.is_unspecified()))
        }
        Err(_) => name == "localhost" && (address.is_loopback() || address.is_unspecified()),
    };
    let is_own = is_local && url.port_or_known_default() == Some(lobby.port);
    if !is_own && !lobby.settings.hosts.contains(&host) {
        return forbidden("host: not a host of this proxy; allow it with --allow-host");
    }
    match only(headers, &ORIGIN)? {
        None => Ok(()),
        Some(origin) if lobby.settings.origins.iter().any(|allowed| allowed == origin) => Ok(()),
        Some(_) => forbidden("origin: not allowed; allow it with --allow-origin"),
    }
}

async fn endpoint(State(lobby): State<Arc<Lobby>>, request: Request) -> Response {
    match admitted(&lobby, request).await {
        Ok(response) => response,
        Err(problem) => problem.response(),
    }
}

async fn admitted(lobby: &Arc<Lobby>, request: Request) -> Result<Response, Problem> {
    check_host(lobby, request.headers())?;
    let via = request.headers().get_all(&VIA).iter();
    if via.into_iter().any(|via| via == lobby.settings.instance.as_str()) {
        let problem = "the request passed through this proxy before: the server is the proxy itself";
        return Err(Problem::new(StatusCode::LOOP_DETECTED, problem));
    }
    let mut principal = None;
    let mut user = None;
    if let Some(resource) = &lobby.settings.resource {
        match resource.authenticate(request.headers()).await {
            Ok(token) => {
                principal = Some(token.principal());
                user = Some(token.subject).filter(|_| lobby.settings.user_from_token);
            }
            Err(refused) => return Ok(challenge(&refused)),
        }
    }
    match *request.method() {
        Method::POST => post(lobby, request, principal, user).await,
        Method::GET => listen(lobby, request.headers(), &principal.unwrap_or_default()).await,
        Method::DELETE => {
            let open = session(lobby, request.headers(), &principal.unwrap_or_default())?;
            let _ = open.events.send(ClientEvent::End);
            lock(&lobby.sessions).remove(&open.key);
            Ok(empty(StatusCode::OK))
        }
        _ => {
            let mut response = empty(StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, GET, DELETE"));
            Ok(response)
        }
    }
}

fn challenge(refused: &Refused) -> Response {
    let mut response = json(refused.status, RpcError::invalid_request(&refused.problem).response(None));
    if let Some(challenge) = &refused.challenge {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge.clone());
    }
    response
}

/// The session that the request names. A session of another client does not exist.
fn session(lobby: &Lobby, headers: &HeaderMap, principal: &str) -> Result<Arc<Open>, Problem> {
    let Some(key) = only(headers, &SESSION)? else {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "mcp-session-id: missing; send initialize first"));
    };
    let sessions = lock(&lobby.sessions);
    let open = sessions.get(key).filter(|open| open.principal == principal && !open.events.is_closed());
    let open = open.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "mcp-session-id: no such session"))?;
    *lock(&open.used) = Instant::now();
    Ok(Arc::clone(open))
}

/// Opens a stream for messages that belong to no request.
async fn listen(lobby: &Arc<Lobby>, headers: &HeaderMap, principal: &str) -> Result<Response, Problem> {
    let is_stateless = only(headers, &VERSION)?.is_some_and(|version| version >= STATELESS);
    if is_stateless {
        return Ok(empty(StatusCode::METHOD_NOT_ALLOWED));
    }
    let open = session(lobby, headers, principal)?;
    let last = only(headers, &LAST_EVENT)?.map(str::to_owned);
    let number = lobby.streams.fetch_add(1, Ordering::Relaxed);
    let (reply, deliveries) = Reply::new();
    lock(&open.active).push(Active { number, id: None, token: None, has_logs: false });
    let _ = open.events.send(ClientEvent::Listening { number, reply, last });
    let mut answer =
        Answer { open, number, deliveries, is_listening: true, id: None, is_done: false, ends: false };
    if !lobby.is_http() {
        return Ok(answer.stream(None));
    }
    // The server may refuse the stream.
    match timeout(UNTIL_STREAM, answer.deliveries.recv()).await {
        Ok(Some(first)) if first.is_last && first.line.is_empty() => {
            let status = first.status.and_then(|status| StatusCode::from_u16(status).ok());
            Ok(empty(status.filter(|status| !status.is_success()).unwrap_or(StatusCode::NO_CONTENT)))
        }
        Ok(Some(first)) => Ok(answer.stream(Some(first))),
        Ok(None) => Err(Problem::new(StatusCode::NOT_FOUND, "the session has ended")),
        Err(_) => Ok(answer.stream(None)),
    }
}

async fn post(
    lobby: &Arc<Lobby>,
    request: Request,
    principal: Option<String>,
    user: Option<String>,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let headers = parts.headers;
    let kind = only(&headers, &CONTENT_TYPE)?.unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        let problem = "content-type: expected application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, problem));
    }
    let body = timeout(REQUEST, axum::body::to_bytes(body, MAX_MESSAGE)).await;
    let body = body.map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body is incomplete"))?;
    let body = body.map_err(|_| {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, &format!("a message has at most {MAX_MESSAGE} bytes"))
    })?;
    let bad = |(id, error)| Problem(StatusCode::BAD_REQUEST, error, id);
    let (line, text) = read_text(&body).map_err(bad)?;
    let ClientLine::Single(message) = &line else {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "a batch; send each message as a separate request",
        ));
    };
    let version = checked_version(&headers, message).map_err(|mut problem| {
        problem.2 = message.id.clone();
        problem
    })?;
    let is_request = message.method.is_some() && message.id.is_some();
    let is_initialize = message.method.as_deref() == Some("initialize");
    let is_stateless = !is_initialize && version.is_some_and(|version| version >= STATELESS);
    let mut carriers = carriers(&headers)?;
    if let Some(user) = user {
        if carriers.user_id.as_ref().is_some_and(|found| *found != user) {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "actpass-user-id: not the user of the token"));
        }
        carriers.user_id = Some(user);
    }
    let client = principal.clone().unwrap_or_default();
    carriers.principal = principal;
    // With --resource, it is the access token.
    if lobby.settings.resource.is_none() && lobby.shared.options.require_passport.is_some() {
        carriers.bearer = bearer(&headers).map(str::to_owned);
    }

    let active = Active {
        number: lobby.streams.fetch_add(1, Ordering::Relaxed),
        id: message.id.clone().filter(|_| is_request),
        token: message.progress_token(),
        has_logs: message.has_logs(),
    };
    let unavailable = |error: io::Error| {
        warn(&error);
        Problem(StatusCode::SERVICE_UNAVAILABLE, RpcError::internal(error), message.id.clone())
    };
    let open = match (is_initialize, is_stateless) {
        (true, _) => {
            if lock(&lobby.sessions).len() >= lobby.settings.max_sessions {
                return Err(unavailable(io::Error::other("too many sessions; retry later")));
            }
            let open = lobby.start(&client, false).map_err(unavailable)?;
            lock(&lobby.sessions).insert(open.key.clone(), Arc::clone(&open));
            open
        }
        (false, true) if !is_request => {
            let problem = "expected a request; close the response to cancel one";
            return Err(Problem::new(StatusCode::BAD_REQUEST, problem));
        }
        (false, true) => lobby.pooled(&client, &active).map_err(unavailable)?,
        (false, false) => session(lobby, &headers, &client)?,
    };
    let (id, number) = (active.id.clone(), active.number);
    if !is_stateless || lobby.is_http() {
        lock(&open.active).push(active);
    }
    let (reply, deliveries) = Reply::new();
    let reply = is_request.then_some(reply);
    let ends = is_stateless && lobby.is_http();
    let answer = Answer { open, number, deliveries, is_listening: false, id, is_done: !is_request, ends };
    let incoming = Incoming { line, text, carriers, reply };
    let _ = answer.open.events.send(ClientEvent::Message(Box::new(incoming)));
    match is_request {
        true => Ok(answered(lobby, answer, is_initialize, is_stateless).await),
        false => Ok(empty(StatusCode::ACCEPTED)),
    }
}

/// Waits for the response to a request.
async fn answered(lobby: &Lobby, mut answer: Answer, is_initialize: bool, is_stateless: bool) -> Response {
    let key = is_initialize.then(|| answer.open.key.clone());
    let mut response = match timeout(UNTIL_STREAM, answer.deliveries.recv()).await {
        Ok(Some(first)) if first.is_last => {
            answer.is_done = true;
            let status = first.status.filter(|status| *status != 200);
            let status = status.unwrap_or_else(|| if is_stateless { status_of(&first.line) } else { 200 });
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
            if is_initialize
                && read_server_line(first.line.trim_ascii())
                    .is_ok_and(|found| found.iter().all(|found| found.result.is_none()))
            {
                let _ = answer.open.events.send(ClientEvent::End);
                lock(&lobby.sessions).remove(&answer.open.key);
                return json(status, first.line);
            }
            json(status, first.line)
        }
        Ok(Some(first)) => answer.stream(Some(first)),
        Err(_) => answer.stream(None),
        Ok(None) => {
            answer.is_done = true;
            let error = RpcError::internal(
                "the session ended before the response; the request may have been processed",
            );
            json(StatusCode::BAD_GATEWAY, error.response(answer.id.as_ref()))
        }
    };
    if let Some(key) = key.and_then(|key| HeaderValue::try_from(key).ok()) {
        response.headers_mut().insert(SESSION, key);
    }
    response
}

/// The status of a response of 2026-07-28, by its error.
fn status_of(line: &[u8]) -> u16 {
    let code = read_server_line(line.trim_ascii()).ok().and_then(|messages| {
        let error: serde_json::Value = serde_json::from_str(messages.first()?.error?).ok()?;
        error.get("code")?.as_i64()
    });
    match code {
        Some(-32601) => 404,
        Some(-32022..=-32020) => 400,
        Some(_) | None => 200,
    }
}

/// The protocol version of a request, if its headers repeat its message.
fn checked_version<'m>(
    headers: &'m HeaderMap,
    message: &'m ClientMessage,
) -> Result<Option<&'m str>, Problem> {
    let mismatch = |name: &HeaderName, problem: &str| {
        let error = RpcError { code: -32020, message: format!("header mismatch: {name}: {problem}") };
        Problem(StatusCode::BAD_REQUEST, error, None)
    };
    let version = only(headers, &VERSION)?;
    let is_stateless = message.method.as_deref() != Some("initialize")
        && (message.version().is_some() || version.is_some_and(|version| version >= STATELESS));
    if is_stateless && version != message.version() {
        return Err(mismatch(&VERSION, "not the protocol version of the message"));
    }
    let name = match message.method.as_deref() {
        Some(TOOLS_CALL | "prompts/get") => message.param("name"),
        Some("resources/read") => message.param("uri"),
        Some(_) | None => None,
    };
    for (header, expected) in [(METHOD, message.method.as_deref()), (NAME, name)] {
        let found = only(headers, &header)?;
        match found.map(header_value::decode) {
            None if is_stateless && expected.is_some() => return Err(mismatch(&header, "missing")),
            None => {}
            Some(found) if found.as_deref() == expected => {}
            Some(_) => return Err(mismatch(&header, "not that of the message")),
        }
    }
    Ok(version)
}

fn carriers(headers: &HeaderMap) -> Result<Carriers, Problem> {
    let text = |name: &HeaderName| -> Result<Option<String>, Problem> {
        let Some(value) = only(headers, name)? else { return Ok(None) };
        let text = header_value::decode(value).filter(|text| !text.is_empty());
        let problem = || Problem::new(StatusCode::BAD_REQUEST, &format!("{name}: invalid base64"));
        text.map(Some).ok_or_else(problem)
    };
    let parameters = headers.iter().filter(|(name, _)| name.as_str().starts_with(PARAMETER));
    Ok(Carriers {
        goal: text(&GOAL)?,
        user_id: text(&USER)?,
        passport: text(&PASSPORT)?,
        bearer: None,
        headers: parameters.map(|(name, value)| (name.clone(), value.clone())).collect(),
        principal: None,
    })
}

/// A response in progress. If it is dropped, the session gets an event.
struct Answer {
    open: Arc<Open>,
    number: u64,
    deliveries: Deliveries,
    /// Whether it is a stream for messages that belong to no request.
    is_listening: bool,
    id: Option<Id>,
    is_done: bool,
    /// Whether the session ends with it.
    ends: bool,
}

impl Drop for Answer {
    fn drop(&mut self) {
        lock(&self.open.active).retain(|active| active.number != self.number);
        *lock(&self.open.used) = Instant::now();
        if self.is_listening {
            let _ = self.open.events.send(ClientEvent::ListeningEnded(self.number));
        } else if let Some(id) = self.id.take().filter(|_| !self.is_done) {
            let _ = self.open.events.send(ClientEvent::Gone(id));
        }
        if self.ends {
            let _ = self.open.events.send(ClientEvent::End);
        }
    }
}

impl Answer {
    /// A stream of the messages from `first` on.
    fn stream(self, first: Option<Delivery>) -> Response {
        let events = stream::unfold((self, first, false), |(mut answer, first, is_over)| async move {
            if is_over {
                return None;
            }
            let delivery = match first {
                Some(first) => Some(first),
                None => match timeout(KEEP_ALIVE, answer.deliveries.recv()).await {
                    Ok(None) => return None,
                    Ok(delivery) => delivery,
                    Err(_) => None,
                },
            };
            let Some(delivery) = delivery else {
                return Some((Ok::<_, io::Error>(Bytes::from_static(b":\n\n")), (answer, None, false)));
            };
            if delivery.is_last {
                answer.is_done = true;
                if delivery.line.is_empty() {
                    return None;
                }
            }
            let line = String::from_utf8_lossy(&delivery.line);
            let event = sse::write(&delivery.event, &one_line(line.trim_end()));
            Some((Ok(Bytes::from(event)), (answer, None, delivery.is_last)))
        });
        let mut response = Response::new(Body::from_stream(events));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert("cache-control", HeaderValue::from_static("no-cache, no-transform"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }
}
