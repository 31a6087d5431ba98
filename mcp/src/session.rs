//! The state of a session: the decisions about calls, and the requests that the server has
//! received. One task owns it.
//!
//! A transport gives it the events of the client and the server; it answers through
//! [`ClientOut`] and [`ServerOut`]. A call is judged in [`Session::judge`] and nowhere else.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use actpass_core::{ActPass, Action, Blocked, DecisionWord, TokioClock, Verdict};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::approvals::{
    self, Approvals, Seal, State, Subject, elicitation, elicitation_complete, input_required, random,
};
use crate::carriers::{Carriers, complete, take_argument};
use crate::client::{About, ClientEvent, ClientOut, Delivery, Incoming};
use crate::edit::{Members, replace};
use crate::exchange::{End, FromServer, Origin, Outgoing, lock};
use crate::gateway::Gateway;
use crate::message::{
    CANCELLED, Call, ClientLine, ClientMessage, Id, RpcError, TOOLS_CALL, blocked_result, read_server_line,
    waiting,
};
use crate::passport::{self, Presented};
use crate::tools::Definitions;
use crate::upstream::{ServerOut, Target};
use crate::{visibility, warn};

/// The delay of the first progress of a call that is held, and the interval of the others.
const FIRST_PROGRESS: Duration = Duration::from_secs(1);
const PROGRESS: Duration = Duration::from_secs(5);
/// The only protocol version with batches.
const BATCHES: &str = "2025-03-26";
/// The protocol version that introduced elicitation by URL.
const URL_VERSION: &str = "2025-11-25";
/// The cancelled and expired requests whose responses are recognized.
const MAX_CLOSED: usize = 1024;

/// The settings of a proxy.
pub(crate) struct Options {
    pub(crate) tool_prefix: String,
    pub(crate) goal: String,
    pub(crate) user_id: Option<String>,
    /// Deny a call without a user.
    pub(crate) require_user: bool,
    /// Read and remove the reserved argument.
    pub(crate) reserved_argument: bool,
    pub(crate) approvals: Approvals,
    /// Longest wait of a call for its approval.
    pub(crate) hold: Duration,
    /// The URL of the gateway's page for people; `None` if it is the gateway's API.
    pub(crate) approval_page: Option<String>,
    pub(crate) pin: bool,
    /// The gateway that determines the hidden tools; `None` hides no tool.
    pub(crate) hide: Option<Arc<Gateway>>,
    /// The audience of the passport that each call must present.
    pub(crate) require_passport: Option<String>,
    pub(crate) response_timeout: Option<Duration>,
    pub(crate) target: Target,
}

/// The settings and clients that all sessions of a proxy share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) actpass: ActPass,
    pub(crate) seal: Seal,
}

impl Shared {
    /// The page of an approval; `None` if its id has other characters than ids have.
    fn page(&self, approval: &str) -> Option<String> {
        let is_plain = approval.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        let base = self.options.approval_page.as_deref().unwrap_or(self.actpass.base_url());
        is_plain.then(|| format!("{}/approvals/{approval}", base.trim_end_matches('/')))
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
    /// A list of tools that the server has sent, and whose hidden tools are being found.
    Listed,
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

    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Call { deadline } => *deadline,
            Self::Initialize
            | Self::List { .. }
            | Self::Listed
            | Self::Other
            | Self::Cancelled
            | Self::Expired => None,
        }
    }
}

/// A call whose decision is pending.
struct Deciding {
    /// Distinguishes decisions about calls that use the same id one after the other.
    number: u64,
    /// Sent to the server if the call may run.
    message: Outgoing,
    call: Call,
    tool: String,
    action: Action,
    passport: Option<String>,
    client: ActPass,
    principal: String,
    wait: Option<Wait>,
    /// `None` until the decision is requested.
    task: Option<AbortHandle>,
}

impl Deciding {
    fn abort(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// The wait of a call for its approval.
struct Wait {
    approval: String,
    /// The id of the elicitation, if the client received one.
    elicitation: Option<String>,
}

/// News of the decision about a call.
pub(crate) struct Decided {
    id: Id,
    number: u64,
    news: News,
}

enum News {
    /// The list of tools for the client.
    Listed(Box<Delivery>),
    /// The call still waits for its approval.
    Waiting(u32),
    Verdict(Box<Verdict>),
}

/// The state of a session.
pub(crate) struct Session {
    shared: Arc<Shared>,
    verdicts: mpsc::UnboundedSender<Decided>,
    pub(crate) to_client: ClientOut,
    pub(crate) to_server: ServerOut,
    deciding: HashMap<Id, Deciding>,
    /// The calls of the elicitations that the client has not answered.
    elicited: HashMap<Id, Id>,
    /// The start of the ids of the proxy's requests.
    own: String,
    /// Whether the `initialize` of the client declares elicitation by URL.
    can_open_urls: bool,
    pending: HashMap<Id, Pending>,
    /// The cancelled and expired requests of `pending`, oldest first.
    closed: VecDeque<Id>,
    /// The number of decisions that were started.
    started: u64,
    /// The protocol version that the server chose.
    version: Option<String>,
    definitions: Arc<Mutex<Definitions>>,
}

impl Session {
    /// Returns the state, and the verdicts to pass to [`Session::decided`].
    ///
    /// # Errors
    ///
    /// The operating system provides no randomness.
    pub(crate) fn new(
        shared: Arc<Shared>,
        to_client: ClientOut,
        to_server: ServerOut,
        definitions: Arc<Mutex<Definitions>>,
    ) -> io::Result<(Self, mpsc::UnboundedReceiver<Decided>)> {
        let (verdicts, decided) = mpsc::unbounded_channel();
        let session = Self {
            shared,
            verdicts,
            to_client,
            to_server,
            deciding: HashMap::new(),
            elicited: HashMap::new(),
            own: format!("actpass-{}-", hex::encode(random::<8>().map_err(io::Error::other)?)),
            can_open_urls: false,
            pending: HashMap::new(),
            closed: VecDeque::new(),
            started: 0,
            version: None,
            definitions,
        };
        Ok((session, decided))
    }

    /// Handles an event of the client. Returns the end of the session.
    pub(crate) fn handle_client(&mut self, event: ClientEvent) -> Option<End> {
        match event {
            ClientEvent::End => return Some(End::Client),
            ClientEvent::Gone(id) => self.gone(&id),
            ClientEvent::Invalid(id, error) => self.respond(id.as_ref(), &error),
            ClientEvent::Listening { number, reply, last } => {
                self.to_client.listen(number, reply, last.is_some());
                self.to_server.listen(number, last);
            }
            ClientEvent::ListeningEnded(number) => {
                self.to_client.unlisten(number);
                self.to_server.unlisten(number);
            }
            ClientEvent::Message(incoming) => {
                let Incoming { line, text, carriers, reply } = *incoming;
                let handled = match &line {
                    ClientLine::Single(message) => self
                        .check_id(message)
                        .map_err(|error| match &reply {
                            Some(reply) => {
                                let mut delivery = Delivery::new(error.1.response(error.0.as_ref()));
                                delivery.is_last = true;
                                reply.send(delivery);
                                None
                            }
                            None => Some(error),
                        })
                        .and_then(|()| {
                            if let Some(id) = message.id.as_ref().filter(|_| message.method.is_some()) {
                                self.to_client.open(id, message, reply);
                            }
                            self.single(message, &text, &carriers).map_err(Some)
                        }),
                    ClientLine::Batch(messages) => self.batch(messages, &text).map_err(Some),
                };
                if let Err(Some((id, error))) = handled {
                    self.respond(id.as_ref(), &error);
                }
            }
        }
        None
    }

    /// Sends an error to the client.
    fn respond(&mut self, id: Option<&Id>, error: &RpcError) {
        let about = id.cloned().map_or(About::Nothing, About::Response);
        self.to_client.send(&about, error.response(id));
    }

    /// The client no longer reads the response to a request. A call whose decision is pending does
    /// not run, because its result could not be delivered.
    fn gone(&mut self, id: &Id) {
        self.to_client.close(id);
        if self.cancel_decision(id) {
            return;
        }
        let is_told = self.to_server.abandon(id);
        if self.to_client.is_stateless()
            && let Some(pending) = self.pending.get_mut(id).filter(|pending| pending.is_awaited())
        {
            *pending = Pending::Cancelled;
            self.close(id.clone());
            if !is_told {
                self.to_server.send(Outgoing::cancel(id));
            }
        }
    }

    /// Ends the decision about a call. Returns whether it was pending.
    fn cancel_decision(&mut self, id: &Id) -> bool {
        match self.deciding.remove(id) {
            None => false,
            Some(call) => {
                call.abort();
                self.end_wait(id, call.wait.as_ref());
                true
            }
        }
    }

    /// Reports the end of the elicitation about a call to the client.
    fn end_wait(&mut self, id: &Id, wait: Option<&Wait>) {
        if let Some(elicitation) = wait.and_then(|wait| wait.elicitation.as_deref()) {
            self.elicited.retain(|_, call| call != id);
            self.to_client.send(&About::Request(id.clone()), elicitation_complete(elicitation));
        }
    }

    /// Handles the response of the client to an elicitation of the proxy.
    fn elicited(&mut self, elicitation: &Id, message: &ClientMessage) {
        // Without an entry, the call was answered or cancelled.
        let Some(id) = self.elicited.remove(elicitation) else { return };
        match message.elicited() {
            // The person has opened the page, and decides there.
            Some("accept") => {}
            answer => {
                let Some(call) = self.deciding.remove(&id) else { return };
                call.abort();
                self.decline(&id, &call, answer);
            }
        }
    }

    /// Answers a call whose elicitation was not accepted.
    fn decline(&mut self, id: &Id, call: &Deciding, answer: Option<&str>) {
        let approval = call.wait.as_ref().map_or("", |wait| wait.approval.as_str());
        let tool = &call.tool;
        let text = match answer {
            Some("decline") => format!(
                "{tool} was not run: the person declined to approve it (approval {approval}). Do not call it again."
            ),
            Some(_) | None => format!(
                "{tool} was not run: it needs approval (approval {approval}), and the person did not open the \
                 gateway's page. Call it again unchanged after the approval."
            ),
        };
        warn(&text);
        self.answer(id, blocked_result(id, &text, call.call.has_result_type));
    }

    /// Sends the response to a call.
    fn answer(&mut self, id: &Id, response: Vec<u8>) {
        self.to_client.send(&About::Response(id.clone()), response);
    }

    fn single(
        &mut self,
        message: &ClientMessage,
        text: &str,
        carriers: &Carriers,
    ) -> Result<(), (Option<Id>, RpcError)> {
        match (message.method.as_deref(), &message.id) {
            (Some(TOOLS_CALL), Some(id)) => {
                let call = message.call(text).map_err(|error| (Some(id.clone()), error))?;
                self.judge(id, call, text, message, carriers).map_err(|error| (Some(id.clone()), error))
            }
            (None, Some(id)) if id.starts_with(&self.own) => {
                self.elicited(id, message);
                Ok(())
            }
            (method, _) => {
                if method == Some("initialize") {
                    self.can_open_urls = message.can_open_urls();
                }
                if message.cancelled().is_some_and(|id| {
                    self.to_client.close(&id);
                    self.cancel_decision(&id)
                }) {
                    // The server does not know the call.
                    return Ok(());
                }
                self.forward(message);
                self.to_server.send(Outgoing::new(text, message));
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
        for message in messages.iter().take(1) {
            self.to_server.send(Outgoing { id: None, ..Outgoing::new(text, message) });
        }
        Ok(())
    }

    /// Rejects a request whose id is in use. The error has no id, because the client would take it
    /// for the response to the first request.
    fn check_id(&self, message: &ClientMessage) -> Result<(), (Option<Id>, RpcError)> {
        let (Some(_), Some(id)) = (&message.method, &message.id) else { return Ok(()) };
        match self.is_used(id) {
            true => Err((
                None,
                RpcError::invalid_request(format_args!("id {id}: a request with it is in progress")),
            )),
            false => Ok(()),
        }
    }

    fn is_used(&self, id: &Id) -> bool {
        self.deciding.contains_key(id) || self.pending.get(id).is_some_and(Pending::is_open)
    }

    /// Notes a message that the server is about to receive.
    fn forward(&mut self, message: &ClientMessage) {
        match (message.method.as_deref(), &message.id) {
            (Some(CANCELLED), _) => {
                let Some(id) = message.cancelled() else { return };
                if let Some(pending) = self.pending.get_mut(&id).filter(|pending| pending.is_awaited()) {
                    *pending = Pending::Cancelled;
                    self.close(id);
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

    /// Notes a request that needs no response, and removes the oldest of many.
    fn close(&mut self, id: Id) {
        self.closed.push_back(id);
        if self.closed.len() > MAX_CLOSED {
            let oldest = self.closed.pop_front();
            if let Some(id) = oldest
                && self.pending.get(&id).is_some_and(|pending| !pending.is_awaited())
            {
                self.pending.remove(&id);
            }
        }
    }

    /// Starts the decision about a call. This is the only way of a call to the server.
    fn judge(
        &mut self,
        id: &Id,
        mut call: Call,
        text: &str,
        message: &ClientMessage,
        carriers: &Carriers,
    ) -> Result<(), RpcError> {
        complete(&mut call, carriers)?;
        let mut text = Cow::Borrowed(text);
        if self.shared.options.reserved_argument
            && let Some((carried, without)) = take_argument(&mut call, &text)?
        {
            complete(&mut call, &carried)?;
            text = Cow::Owned(without);
        }
        call.passport = call.passport.or_else(|| carriers.bearer.clone());
        let options = &self.shared.options;
        let tool = format!("{}{}", options.tool_prefix, call.name);
        let goal = call.goal.as_ref().unwrap_or(&options.goal);
        let user_id = call.user_id.as_ref().or(options.user_id.as_ref());
        if options.require_user && user_id.is_none() {
            let text = format!(
                "{tool} was not run: deny (actpass.user_missing). The call names no user. Do not call it again."
            );
            warn(&text);
            self.answer(id, blocked_result(id, &text, call.has_result_type));
            return Ok(());
        }
        let mut action = Action::new(goal, &tool).args_text(&call.arguments);
        // A passport names its user.
        if let Some(user_id) = user_id.filter(|_| options.require_passport.is_none()) {
            action = action.user_id(user_id);
        }
        let passport = call.passport.clone();
        if let Some(passport) = passport.as_deref().filter(|_| options.require_passport.is_none()) {
            action = action.passport(passport);
        }
        if options.pin {
            let definitions = lock(&self.definitions);
            let hash = definitions.hash(&call.name).ok_or_else(|| {
                RpcError::invalid_params(
                    "name: the definition of the tool is not known; request tools/list first",
                )
            })?;
            action = action.tool_manifest_hash(hash);
        }
        let client = match &call.traceparent {
            Some(traceparent) => self.shared.actpass.in_trace(traceparent.clone()),
            None => self.shared.actpass.clone(),
        };
        let principal = carriers.principal.clone().unwrap_or_default();
        let (text, wait) = match call.request_state.as_deref().filter(|state| self.shared.seal.is_own(state))
        {
            None => (text, None),
            Some(state) => {
                let digest = digest(&tool, &call, options).unwrap_or_default();
                let subject = Subject { principal: &principal, digest: &digest };
                let state = self.shared.seal.open(state, &subject, SystemTime::now())?;
                let text = with_state(&text, &state)
                    .ok_or_else(|| RpcError::invalid_params("expected an object"))?;
                (Cow::Owned(text), Some(Wait { approval: state.approval, elicitation: None }))
            }
        };
        let answer = call.elicited.clone();
        // A client over HTTP has repeated the parameters in headers; one over stdio has not.
        let headers = match &self.to_client {
            ClientOut::Lines(_) => lock(&self.definitions).headers(&call.name, &call.arguments),
            ClientOut::Replies(_) => carriers.headers.clone(),
        };
        let message = Outgoing { headers, ..Outgoing::new(&text, message) };
        let deciding = Deciding {
            number: 0,
            message,
            call,
            tool,
            action,
            passport,
            client,
            principal,
            wait,
            task: None,
        };
        match (&deciding.wait, answer.as_deref()) {
            (Some(_), Some("decline" | "cancel")) => self.decline(id, &deciding, answer.as_deref()),
            (Some(_) | None, _) => self.decide(id, deciding),
        }
        Ok(())
    }

    /// Requests the decision, or waits for the approval and requests the decision with it.
    fn decide(&mut self, id: &Id, mut call: Deciding) {
        let mut action = call.action.clone();
        if let Some(wait) = &call.wait {
            action = action.approval_request_id(&wait.approval).wait_for_approval(self.shared.options.hold);
        }
        let presented = self
            .shared
            .options
            .require_passport
            .clone()
            .map(|audience| (audience, call.tool.clone(), call.passport.clone(), action.clone()));
        let prepared = match call.client.prepare(action) {
            Ok(prepared) => prepared,
            Err(error) => {
                let blocked = Blocked::invalid_argument(call.tool, error);
                return self.block(id, &blocked, call.call.has_result_type);
            }
        };
        self.started += 1;
        call.number = self.started;
        let (number, decided) = (call.number, id.clone());
        let (client, verdicts) = (call.client.clone(), self.verdicts.clone());
        let ticks = call.call.progress_token.is_some().then(|| self.verdicts.clone());
        let is_waiting = call.wait.is_some();
        let task: JoinHandle<()> = tokio::spawn(async move {
            let progress = async {
                let Some(ticks) = ticks.filter(|_| is_waiting) else { return std::future::pending().await };
                let mut at = interval_at(Instant::now() + FIRST_PROGRESS, PROGRESS);
                at.set_missed_tick_behavior(MissedTickBehavior::Delay);
                for count in 1.. {
                    at.tick().await;
                    let _ = ticks.send(Decided { id: decided.clone(), number, news: News::Waiting(count) });
                }
            };
            let verdict = async {
                match &presented {
                    None => client.authorize_prepared(&prepared).await,
                    Some((audience, tool, token, action)) => {
                        let action = action.clone();
                        let call = Presented { tool, token: token.as_deref(), audience, action };
                        passport::authorize(&client, call, &prepared).await
                    }
                }
            };
            let verdict = tokio::select! {
                verdict = verdict => verdict,
                () = progress => return,
            };
            let _ = verdicts.send(Decided { id: decided, number, news: News::Verdict(Box::new(verdict)) });
        });
        call.task = Some(task.abort_handle());
        self.deciding.insert(id.clone(), call);
    }

    /// Sends the call to the server if it may run and the client has not cancelled it.
    pub(crate) fn decided(&mut self, decided: Decided) {
        let Decided { id, number, news } = decided;
        let news = match news {
            News::Listed(delivery) => {
                if let Some(Pending::Listed) = self.pending.get(&id) {
                    self.pending.remove(&id);
                    self.to_client.deliver(&About::Response(id), *delivery);
                }
                return;
            }
            news @ (News::Waiting(_) | News::Verdict(_)) => news,
        };
        let Some(call) = self.deciding.get(&id).filter(|call| call.number == number) else { return };
        let verdict = match news {
            News::Waiting(count) => {
                if let Some(token) = &call.call.progress_token {
                    let progress = waiting(token, count);
                    self.to_client.send(&About::Request(id), progress);
                }
                return;
            }
            News::Verdict(verdict) => verdict,
            News::Listed(_) => return,
        };
        let Some(call) = self.deciding.remove(&id) else { return };
        let spent = match *verdict {
            Verdict::Blocked(blocked) => Err(Box::new(blocked)),
            Verdict::Proceed(permit) => permit.spend(&TokioClock),
        };
        self.end_wait(&id, call.wait.as_ref());
        match spent {
            Err(blocked)
                if call.wait.is_none() && *blocked.decision().word() == DecisionWord::RequireApproval =>
            {
                self.approve(&id, call, &blocked);
            }
            Err(blocked) => self.block(&id, &blocked, call.call.has_result_type),
            Ok(_) => {
                let deadline = self.shared.options.response_timeout.map(|limit| Instant::now() + limit);
                self.pending.insert(id.clone(), Pending::Call { deadline });
                self.to_server.send(call.message);
            }
        }
    }

    /// Leads the person to the approval of a call, holds the call, or answers that it is pending.
    fn approve(&mut self, id: &Id, mut call: Deciding, blocked: &Blocked) {
        let Some(approval) = blocked.approval().map(|pending| pending.id().to_owned()) else {
            return self.block(id, blocked, call.call.has_result_type);
        };
        let mode = self.shared.options.approvals;
        let page = self.shared.page(&approval).filter(|_| mode == Approvals::Auto);
        if let Some(page) = page {
            if call.call.can_open_urls
                && let Some(state) = self.seal(&call, &approval)
            {
                return self.answer(id, input_required(id, &page, &call.tool, &approval, &state));
            }
            // The version that introduced elicitation by URL; later ones do not initialize.
            if self.can_open_urls
                && !call.call.has_result_type
                && self.version.as_deref() >= Some(URL_VERSION)
            {
                let elicited = format!("{}{}", self.own, self.started);
                let request = Id::from(elicited.as_str());
                let asked = elicitation(&request, &elicited, &page, &call.tool, &approval);
                self.to_client.send(&About::Request(id.clone()), asked);
                self.elicited.insert(request, id.clone());
                call.wait = Some(Wait { approval, elicitation: Some(elicited) });
                return self.decide(id, call);
            }
        }
        match (mode, &call.call.progress_token) {
            (Approvals::Hold, _) | (Approvals::Auto, Some(_)) => {
                call.wait = Some(Wait { approval, elicitation: None });
                self.decide(id, call);
            }
            (Approvals::Auto | Approvals::Tell, _) => self.block(id, blocked, call.call.has_result_type),
        }
    }

    /// Request state for the call, which contains the call's own state for the server.
    fn seal(&self, call: &Deciding, approval: &str) -> Option<String> {
        let text = std::str::from_utf8(&call.message.line).ok()?;
        let params = Members::parse(Members::parse(text)?.text("params")?)?;
        let text = |name: &str| params.text(name).map(str::to_owned);
        let state = State {
            approval: approval.to_owned(),
            request_state: text("requestState"),
            input_responses: text("inputResponses"),
        };
        let digest = digest(&call.tool, &call.call, &self.shared.options)?;
        let subject = Subject { principal: &call.principal, digest: &digest };
        self.shared.seal.seal(&subject, &state, SystemTime::now())
    }

    fn block(&mut self, id: &Id, blocked: &Blocked, has_result_type: bool) {
        let texts = blocked.texts();
        warn(format_args!("{}", texts.developer));
        self.answer(id, blocked_result(id, &texts.model, has_result_type));
    }

    /// Handles an event of the server. Returns the end of the session.
    pub(crate) fn handle_server(&mut self, event: FromServer) -> Option<End> {
        let (line, origin, event, status) = match event {
            FromServer::End(end) => return Some(end),
            FromServer::Failed { id, error, status } => {
                if self.pending.remove(&id).is_some_and(|pending| pending.is_awaited()) {
                    let mut delivery = Delivery::new(error.response(Some(&id)));
                    delivery.status = Some(status);
                    self.to_client.deliver(&About::Response(id), delivery);
                }
                return None;
            }
            FromServer::ListeningEnded(number, status) => {
                self.to_client.end_listening(number, status);
                return None;
            }
            FromServer::Message { line, origin, event, status } => (line, origin, event, status),
        };
        let mut about = match &origin {
            Origin::Lines => About::Nothing,
            Origin::Listening(number) => About::Stream(*number),
            Origin::Request(id) => About::Request(id.clone()),
        };
        if line.is_empty() {
            self.to_client.deliver(&about, Delivery { line, event, is_last: false, status });
            return None;
        }
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
        let mut hidden_in = None;
        for message in messages {
            if message.method.as_deref() == Some("notifications/tools/list_changed") {
                *lock(&self.definitions) = Definitions::default();
            }
            let Some(id) = message.id.as_ref().filter(|_| message.method.is_none()) else {
                if let (ClientOut::Replies(_), Origin::Lines) = (&self.to_client, &origin) {
                    about = match message.about() {
                        (Some(token), _) => About::Token(token),
                        (None, Some(id)) => About::Request(id),
                        (None, None) if message.method.as_deref() == Some("notifications/message") => {
                            About::Log
                        }
                        (None, None) => About::Nothing,
                    };
                }
                continue;
            };
            match self.pending.remove(id) {
                None | Some(Pending::Expired) => {
                    warn(format_args!("dropped a response of the server to no request, id {id}"));
                    is_known = false;
                }
                Some(Pending::Initialize) => {
                    self.version = message.result.and_then(protocol_version);
                }
                Some(Pending::List { is_first_page }) => {
                    if let Some(result) = message.result {
                        lock(&self.definitions).note(result, is_first_page);
                        hidden_in = self.shared.options.hide.clone().map(|gateway| (gateway, id.clone()));
                    }
                }
                Some(Pending::Listed) => {
                    self.pending.insert(id.clone(), Pending::Listed);
                    warn(format_args!("dropped a second response of the server, id {id}"));
                    is_known = false;
                }
                Some(Pending::Call { .. } | Pending::Other | Pending::Cancelled) => {}
            }
            // A stream that the client resumes contains the response to another request.
            if !matches!(origin, Origin::Listening(_)) {
                about = About::Response(id.clone());
            }
        }
        if let Some((gateway, id)) = hidden_in.filter(|_| is_known) {
            if is_batch {
                return Some(End::Broken("the server sent a list of tools in a batch".to_owned()));
            }
            self.hide(gateway, id, Delivery { line, event, is_last: false, status });
            return None;
        }
        match (is_known, is_batch) {
            (true, _) => {
                self.to_client.deliver(&about, Delivery { line, event, is_last: false, status });
            }
            (false, false) => {}
            (false, true) => {
                return Some(End::Broken("the server sent a batch with a response to no request".to_owned()));
            }
        }
        None
    }

    /// Sends a list of tools without the hidden ones, when the gateway has answered.
    fn hide(&mut self, gateway: Arc<Gateway>, id: Id, delivery: Delivery) {
        self.pending.insert(id.clone(), Pending::Listed);
        let (shared, verdicts) = (Arc::clone(&self.shared), self.verdicts.clone());
        tokio::spawn(async move {
            let options = &shared.options;
            let text = String::from_utf8_lossy(&delivery.line);
            let hidden = visibility::hide(&gateway, &options.tool_prefix, options.pin, text.trim()).await;
            let shown = match hidden {
                Ok(Some(text)) => format!("{text}\n").into_bytes(),
                Ok(None) => RpcError::internal("tools/list: the server's result is not a list of tools")
                    .response(Some(&id)),
                Err(error) => {
                    warn(&error);
                    let problem = "tools/list: the gateway did not state which tools are hidden";
                    RpcError::internal(problem).response(Some(&id))
                }
            };
            let delivery = Box::new(Delivery { line: shown, ..delivery });
            let _ = verdicts.send(Decided { id, number: 0, news: News::Listed(delivery) });
        });
    }

    /// Forwards a line of the server after the client's end. Returns whether it is valid.
    pub(crate) fn handle_remaining(&mut self, line: Vec<u8>) -> bool {
        let Ok(messages) = read_server_line(line.trim_ascii()) else { return false };
        let is_known = messages.iter().all(|message| match (&message.method, &message.id) {
            // The gateway no longer receives a question about this list: the request gets an error.
            (None, Some(id)) if self.shared.options.hide.is_some() => {
                let is_list = matches!(self.pending.get(id), Some(Pending::List { .. } | Pending::Listed));
                !is_list && self.pending.remove(id).is_some()
            }
            (None, Some(id)) => self.pending.remove(id).is_some(),
            (None, None) | (Some(_), _) => true,
        });
        if is_known {
            self.to_client.send(&About::Nothing, line);
        }
        true
    }

    /// The nearest deadline of a call.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.pending.values().filter_map(Pending::deadline).min()
    }

    /// Answers the calls whose deadline has passed, and cancels them at the server.
    pub(crate) fn expire(&mut self) {
        let now = Instant::now();
        let is_late = |pending: &Pending| pending.deadline().is_some_and(|deadline| deadline <= now);
        let late = self.pending.iter().filter(|(_, pending)| is_late(pending)).map(|(id, _)| id.clone());
        for id in late.collect::<Vec<_>>() {
            self.pending.insert(id.clone(), Pending::Expired);
            let problem = "the server did not respond in time; the call may have run";
            self.respond(Some(&id), &RpcError::internal(problem));
            self.to_server.send(Outgoing::cancel(&id));
            self.close(id);
        }
    }

    /// Ends the decisions about calls. They are answered unless the client has ended the session.
    pub(crate) fn end_decisions(&mut self, end: &End) {
        for (id, call) in std::mem::take(&mut self.deciding) {
            call.abort();
            if !matches!(end, End::Client) {
                let problem = format_args!("{end}; the call was not run");
                self.respond(Some(&id), &RpcError::internal(problem));
            }
        }
    }

    /// Answers a request that arrived after the end of the server. Returns whether it was the last event.
    pub(crate) fn reject(&mut self, event: ClientEvent, end: &End) -> bool {
        let problem = RpcError::internal(format_args!("{end}; the request was not sent"));
        match event {
            ClientEvent::End => return true,
            ClientEvent::Invalid(id, error) => self.respond(id.as_ref(), &error),
            ClientEvent::Message(incoming) => {
                let messages = match &incoming.line {
                    ClientLine::Single(message) => std::slice::from_ref(message),
                    ClientLine::Batch(messages) => messages,
                };
                for message in messages.iter().filter(|message| message.method.is_some()) {
                    if let Some(id) = &message.id {
                        self.respond(Some(id), &problem);
                    }
                }
            }
            ClientEvent::Gone(_) | ClientEvent::Listening { .. } | ClientEvent::ListeningEnded(_) => {}
        }
        false
    }

    /// Answers the requests that the server has not answered.
    pub(crate) fn end_requests(&mut self, end: &End) {
        for (id, pending) in std::mem::take(&mut self.pending) {
            if pending.is_awaited() {
                let problem = format_args!("{end}; the request may have been processed");
                self.respond(Some(&id), &RpcError::internal(problem));
            }
        }
    }
}

/// The digest of a call, which its request state belongs to; `None` without a canonical form.
fn digest(tool: &str, call: &Call, options: &Options) -> Option<String> {
    let goal = call.goal.as_ref().unwrap_or(&options.goal);
    let user_id = call.user_id.as_ref().or(options.user_id.as_ref());
    approvals::digest(tool, &call.arguments, goal, user_id.map(String::as_str))
}

/// The message with the call's own state for the server in place of the proxy's.
fn with_state(text: &str, state: &State) -> Option<String> {
    let params = Members::parse(text)?.text("params")?;
    let mut members = Members::parse(params)?;
    members.set("requestState", state.request_state.as_deref());
    members.set("inputResponses", state.input_responses.as_deref());
    replace(text, params, &members.write())
}

fn protocol_version(result: &str) -> Option<String> {
    let result = actpass_core::Json::parse(result.as_bytes()).ok()?;
    result.member("protocolVersion")?.as_str().map(str::to_owned)
}
