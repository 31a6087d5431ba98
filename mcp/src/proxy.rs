//! The proxy: one task that owns the state of a session.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::pin::pin;
use std::time::Duration;

use actpass_core::{ActPass, Action, Blocked, TokioClock, Verdict};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout, timeout_at};

use crate::lines::{Line, MAX_MESSAGE, MAX_QUEUED, Outbox, read_lines};
use crate::message::{
    Call, ClientLine, ClientMessage, Id, RpcError, TOOLS_CALL, blocked_result, cancel, one_line,
    read_client_line, read_server_line, waiting,
};
use crate::server::{INPUT_END, Server, Variable};
use crate::tools::Definitions;
use crate::warn;

const CANCELLED: &str = "notifications/cancelled";
/// The delay of the first progress of a call that is held, and the interval of the others.
const FIRST_PROGRESS: Duration = Duration::from_secs(1);
const PROGRESS: Duration = Duration::from_secs(5);
/// Longest read of the output of a server that has ended.
const DRAIN: Duration = Duration::from_millis(500);
/// The only protocol version with batches.
const BATCHES: &str = "2025-03-26";

/// The settings of a proxy.
pub(crate) struct Options {
    pub(crate) tool_prefix: String,
    pub(crate) goal: String,
    pub(crate) user_id: Option<String>,
    /// Longest wait of a call for its approval; `None` answers without a wait.
    pub(crate) hold: Option<Duration>,
    pub(crate) pin: bool,
    pub(crate) response_timeout: Option<Duration>,
    pub(crate) environment: Vec<Variable>,
    pub(crate) command: Vec<OsString>,
}

/// Runs a session over the standard streams until the client or the server ends it.
///
/// # Errors
///
/// The server cannot be started, ended by itself, or sent an invalid message.
pub(crate) async fn run(options: Options, client: ActPass) -> io::Result<()> {
    let (mut server, input, output) = Server::start(&options.command, &options.environment)?;
    let (to_server, mut server_writer) = Outbox::new(input);
    let (to_client, mut client_writer) = Outbox::new(tokio::io::stdout());
    let mut from_client = read_lines(tokio::io::stdin());
    let mut from_server = read_lines(output);
    let (verdicts, mut decided) = mpsc::unbounded_channel();
    let mut proxy = Proxy {
        options,
        client,
        verdicts,
        to_client,
        to_server,
        deciding: HashMap::new(),
        pending: HashMap::new(),
        started: 0,
        version: None,
        definitions: Definitions::default(),
    };
    let mut interrupted = Box::pin(interrupted());
    let end = loop {
        let deadline = proxy.deadline();
        let ended = tokio::select! {
            biased;
            () = &mut interrupted => Some(End::Interrupted),
            _ = &mut client_writer => Some(End::Client),
            // A cancellation that has arrived counts before a verdict.
            line = from_client.recv() => proxy.handle_client(line.unwrap_or(Line::End)),
            verdict = decided.recv() => {
                verdict.and_then(|verdict| { proxy.decided(verdict); None })
            }
            line = async { proxy.to_client.ready().await; from_server.recv().await } => {
                proxy.handle_server(line.unwrap_or(Line::End))
            }
            _ = &mut server_writer => Some(End::Broken("the server closed its standard input".to_owned())),
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                proxy.expire();
                None
            }
        };
        if let Some(end) = ended {
            break end;
        }
        if proxy.to_server.is_full() {
            break End::Broken(format!("the server does not read: {MAX_QUEUED} bytes wait for it"));
        }
    };
    let Proxy { to_client, to_server, deciding, mut pending, .. } = proxy;
    for call in deciding.into_values() {
        call.task.abort();
        if !matches!(end, End::Client) {
            to_client.send(
                RpcError::internal(format_args!("{end}; the call was not run")).response(Some(&call.id)),
            );
        }
    }
    drop(to_server);
    let mut status = None;
    if matches!(end, End::Client) {
        // The server may still answer the requests that it has received.
        let until = Instant::now() + INPUT_END;
        let answers = async {
            while let Some(Line::Text(line)) = from_server.recv().await {
                if !forwarded(&line, &mut pending, &to_client) {
                    return;
                }
            }
        };
        let mut answers = pin!(answers);
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
    let end = match (end, status) {
        (End::ServerOutput, Some(status)) => End::Broken(format!("the server ended ({status})")),
        (end, _) => end,
    };
    for (id, pending) in pending {
        if pending.is_awaited() {
            to_client.send(
                RpcError::internal(format_args!("{end}; the request may have been processed"))
                    .response(Some(&id)),
            );
        }
    }
    drop(to_client);
    if !client_writer.is_finished() {
        let _ = timeout_at(Instant::now() + INPUT_END, client_writer).await;
    }
    match end {
        End::Client | End::Interrupted => Ok(()),
        End::Broken(_) | End::ServerOutput => Err(io::Error::other(end.to_string())),
    }
}

/// Forwards a line of the server after the client's end. Returns whether it is valid.
fn forwarded(line: &[u8], pending: &mut HashMap<Id, Pending>, to_client: &Outbox) -> bool {
    let Ok(messages) = read_server_line(line.trim_ascii()) else { return false };
    let is_known = messages.iter().all(|message| match (&message.method, &message.id) {
        (None, Some(id)) => pending.remove(id).is_some(),
        (None, None) | (Some(_), _) => true,
    });
    if is_known {
        to_client.send(line.to_vec());
    }
    true
}

/// Completes on SIGINT or SIGTERM.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut interrupt), Ok(mut terminate)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The reason of the end of a session.
#[derive(Debug)]
enum End {
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

/// A request that the server has received.
#[derive(Debug)]
enum Pending {
    Initialize,
    Call {
        deadline: Option<Instant>,
    },
    List {
        is_first_page: bool,
    },
    Other,
    /// The client cancelled it. A response is forwarded, none is needed.
    Cancelled,
    /// It was answered by the proxy. A response is dropped.
    Expired,
}

impl Pending {
    /// Whether the client waits for the response.
    fn is_awaited(&self) -> bool {
        !matches!(self, Self::Cancelled | Self::Expired)
    }

    /// Whether another request with the id could get the response to this one.
    fn is_open(&self) -> bool {
        !matches!(self, Self::Cancelled)
    }
}

/// A call whose decision is pending.
struct Deciding {
    id: Id,
    /// Distinguishes calls that use the same id one after the other.
    number: u64,
    line: Vec<u8>,
    has_result_type: bool,
    task: AbortHandle,
}

struct Decided {
    id: Id,
    number: u64,
    verdict: Verdict,
}

struct Proxy {
    options: Options,
    client: ActPass,
    verdicts: mpsc::UnboundedSender<Decided>,
    to_client: Outbox,
    to_server: Outbox,
    deciding: HashMap<Id, Deciding>,
    pending: HashMap<Id, Pending>,
    /// The number of decisions that were started.
    started: u64,
    /// The protocol version that the server chose.
    version: Option<String>,
    definitions: Definitions,
}

impl Proxy {
    fn handle_client(&mut self, line: Line) -> Option<End> {
        let line = match line {
            Line::End => return Some(End::Client),
            Line::TooLong => {
                let problem = format_args!("a message has at most {MAX_MESSAGE} bytes");
                self.to_client.send(RpcError::invalid_request(problem).response(None));
                return None;
            }
            Line::Text(line) => line,
        };
        let Ok(text) = std::str::from_utf8(&line) else {
            self.to_client.send(RpcError::parse("not UTF-8").response(None));
            return None;
        };
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = one_line(text.strip_suffix('\r').unwrap_or(text));
        if text.trim().is_empty() {
            return None;
        }
        let handled = read_client_line(&text).and_then(|line| match line {
            ClientLine::Single(message) => self.single(&message, &text),
            ClientLine::Batch(messages) => self.batch(&messages, &text),
        });
        if let Err((id, error)) = handled {
            self.to_client.send(error.response(id.as_ref()));
        }
        None
    }

    fn single(&mut self, message: &ClientMessage, text: &str) -> Result<(), (Option<Id>, RpcError)> {
        self.check_id(message)?;
        match (message.method.as_deref(), &message.id) {
            (Some(TOOLS_CALL), None) => Err((None, RpcError::invalid_request("id: tools/call needs one"))),
            (Some(TOOLS_CALL), Some(id)) => {
                let call = message.call(text).map_err(|error| (Some(id.clone()), error))?;
                self.decide(id, &call, text).map_err(|error| (Some(id.clone()), error))
            }
            (method, _) => {
                let cancelled = message.cancelled().filter(|_| method == Some(CANCELLED));
                if let Some(call) = cancelled.and_then(|id| self.deciding.remove(&id)) {
                    // The server does not know the call.
                    call.task.abort();
                    return Ok(());
                }
                self.forward(message);
                self.to_server.send(line(text));
                Ok(())
            }
        }
    }

    /// A batch without calls passes in the version that has batches.
    fn batch(&mut self, messages: &[ClientMessage], text: &str) -> Result<(), (Option<Id>, RpcError)> {
        if self.version.as_deref() != Some(BATCHES) {
            let problem = format_args!("batches exist in protocol version {BATCHES} only");
            return Err((None, RpcError::invalid_request(problem)));
        }
        if messages.iter().any(|message| message.method.as_deref() == Some(TOOLS_CALL)) {
            let problem = "send tools/call as a separate message, not in a batch";
            return Err((None, RpcError::invalid_request(problem)));
        }
        for (at, message) in messages.iter().enumerate() {
            self.check_id(message)?;
            let is_repeated = messages.iter().skip(at + 1).any(|other| {
                message.method.is_some()
                    && other.method.is_some()
                    && message.id.is_some()
                    && other.id == message.id
            });
            if is_repeated {
                return Err((None, RpcError::invalid_request("id: used twice in a batch")));
            }
        }
        for message in messages {
            self.forward(message);
        }
        self.to_server.send(line(text));
        Ok(())
    }

    /// Rejects a request whose id is in use. The error has no id, because the client would take it
    /// for the response to the first request.
    fn check_id(&self, message: &ClientMessage) -> Result<(), (Option<Id>, RpcError)> {
        let (Some(_), Some(id)) = (&message.method, &message.id) else { return Ok(()) };
        let is_used = self.deciding.contains_key(id) || self.pending.get(id).is_some_and(Pending::is_open);
        match is_used {
            true => Err((
                None,
                RpcError::invalid_request(format_args!("id {id}: a request with it is in progress")),
            )),
            false => Ok(()),
        }
    }

    /// Notes a message that the server is about to receive.
    fn forward(&mut self, message: &ClientMessage) {
        match (message.method.as_deref(), &message.id) {
            (Some(CANCELLED), _) => {
                let Some(id) = message.cancelled() else { return };
                if let Some(pending) = self.pending.get_mut(&id).filter(|pending| pending.is_awaited()) {
                    *pending = Pending::Cancelled;
                }
            }
            (Some(method), Some(id)) => {
                let pending = match method {
                    "initialize" => Pending::Initialize,
                    "tools/list" => Pending::List { is_first_page: message.is_first_page() },
                    _ => Pending::Other,
                };
                self.pending.insert(id.clone(), pending);
            }
            (Some(_), None) | (None, _) => {}
        }
    }

    /// Starts the decision about a call.
    fn decide(&mut self, id: &Id, call: &Call, text: &str) -> Result<(), RpcError> {
        let tool = format!("{}{}", self.options.tool_prefix, call.name);
        let goal = call.goal.as_ref().unwrap_or(&self.options.goal);
        let mut action = Action::new(goal, &tool).args_text(&call.arguments);
        if let Some(user_id) = call.user_id.as_ref().or(self.options.user_id.as_ref()) {
            action = action.user_id(user_id);
        }
        if let Some(passport) = &call.passport {
            action = action.passport(passport.as_str());
        }
        if let Some(hold) = self.options.hold {
            action = action.wait_for_approval(hold);
        }
        if self.options.pin {
            let hash = self.definitions.hash(&call.name).ok_or_else(|| {
                RpcError::invalid_params(
                    "name: the definition of the tool is not known; request tools/list first",
                )
            })?;
            action = action.tool_manifest_hash(hash);
        }
        let client = match &call.traceparent {
            Some(traceparent) => self.client.in_trace(traceparent.clone()),
            None => self.client.clone(),
        };
        let prepared = match client.prepare(action) {
            Ok(prepared) => prepared,
            Err(error) => {
                self.block(id, &Blocked::invalid_argument(tool, error), call.has_result_type);
                return Ok(());
            }
        };
        self.started += 1;
        let number = self.started;
        let verdicts = self.verdicts.clone();
        let progress = self.progress(call);
        let decided = id.clone();
        let task: JoinHandle<()> = tokio::spawn(async move {
            let verdict = tokio::select! {
                verdict = client.authorize_prepared(&prepared) => verdict,
                () = progress => return,
            };
            let _ = verdicts.send(Decided { id: decided, number, verdict });
        });
        let (task, line) = (task.abort_handle(), line(text));
        let has_result_type = call.has_result_type;
        self.deciding.insert(id.clone(), Deciding { id: id.clone(), number, line, has_result_type, task });
        Ok(())
    }

    /// Sends the progress of a call that is held. Never ends.
    fn progress(&self, call: &Call) -> impl Future<Output = ()> + Send + 'static {
        let token = call.progress_token.clone().filter(|_| self.options.hold.is_some());
        let to_client = self.to_client.clone();
        async move {
            let Some(token) = token else { return std::future::pending().await };
            let mut ticks = interval_at(Instant::now() + FIRST_PROGRESS, PROGRESS);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for count in 1.. {
                ticks.tick().await;
                to_client.send(waiting(&token, count));
            }
        }
    }

    /// Sends the call to the server if it may run and the client has not cancelled it.
    fn decided(&mut self, decided: Decided) {
        let Decided { id, number, verdict } = decided;
        if self.deciding.get(&id).is_none_or(|call| call.number != number) {
            return;
        }
        let Some(call) = self.deciding.remove(&id) else { return };
        let spent = match verdict {
            Verdict::Blocked(blocked) => Err(Box::new(blocked)),
            Verdict::Proceed(permit) => permit.spend(&TokioClock),
        };
        match spent {
            Err(blocked) => self.block(&id, &blocked, call.has_result_type),
            Ok(_) => {
                let deadline = self.options.response_timeout.map(|limit| Instant::now() + limit);
                self.pending.insert(id, Pending::Call { deadline });
                self.to_server.send(call.line);
            }
        }
    }

    fn block(&self, id: &Id, blocked: &Blocked, has_result_type: bool) {
        let texts = blocked.texts();
        warn(format_args!("{}", texts.developer));
        self.to_client.send(blocked_result(id, &texts.model, has_result_type));
    }

    fn handle_server(&mut self, line: Line) -> Option<End> {
        let line = match line {
            Line::End => return Some(End::ServerOutput),
            Line::TooLong => {
                return Some(End::Broken(format!("the server sent a message over {MAX_MESSAGE} bytes")));
            }
            Line::Text(line) => line,
        };
        let text = line.trim_ascii();
        if !matches!(text.first(), Some(b'{' | b'[')) {
            if !text.is_empty() {
                warn(format_args!("dropped {} bytes of the server that are not a message", text.len()));
            }
            return None;
        }
        let messages = match read_server_line(text) {
            Ok(messages) => messages,
            Err(problem) => {
                return Some(End::Broken(format!("the server sent an invalid message: {problem}")));
            }
        };
        let is_batch = messages.len() > 1;
        let mut is_known = true;
        for message in messages {
            if message.method.as_deref() == Some("notifications/tools/list_changed") {
                self.definitions = Definitions::default();
            }
            let Some(id) = message.id.filter(|_| message.method.is_none()) else { continue };
            match self.pending.remove(&id) {
                None | Some(Pending::Expired) => {
                    warn(format_args!("dropped a response of the server to no request, id {id}"));
                    is_known = false;
                }
                Some(Pending::Initialize) => {
                    self.version = message.result.as_deref().and_then(protocol_version);
                }
                Some(Pending::List { is_first_page }) => {
                    if let Some(result) = &message.result {
                        self.definitions.note(result, is_first_page);
                    }
                }
                Some(Pending::Call { .. } | Pending::Other | Pending::Cancelled) => {}
            }
        }
        match (is_known, is_batch) {
            (true, _) => self.to_client.send(line),
            (false, false) => {}
            (false, true) => {
                return Some(End::Broken("the server sent a batch with a response to no request".to_owned()));
            }
        }
        None
    }

    /// The nearest deadline of a call.
    fn deadline(&self) -> Option<Instant> {
        self.pending.values().filter_map(Pending::deadline).min()
    }

    /// Answers the calls whose deadline has passed, and cancels them at the server.
    fn expire(&mut self) {
        let now = Instant::now();
        for (id, pending) in &mut self.pending {
            if pending.deadline().is_some_and(|deadline| deadline <= now) {
                *pending = Pending::Expired;
                let problem = "the server did not respond in time; the call may have run";
                self.to_client.send(RpcError::internal(problem).response(Some(id)));
                self.to_server.send(cancel(id));
            }
        }
    }
}

impl Pending {
    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Call { deadline } => *deadline,
            Self::Initialize | Self::List { .. } | Self::Other | Self::Cancelled | Self::Expired => None,
        }
    }
}

fn line(text: &str) -> Vec<u8> {
    let mut line = Vec::with_capacity(text.len() + 1);
    line.extend_from_slice(text.as_bytes());
    line.push(b'\n');
    line
}

fn protocol_version(result: &str) -> Option<String> {
    let result = actpass_core::Json::parse(result.as_bytes()).ok()?;
    result.member("protocolVersion")?.as_str().map(str::to_owned)
}
