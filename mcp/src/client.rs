//! The client's side of a session: the standard streams, or the responses to HTTP requests.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::carriers::Carriers;
use crate::lines::{Line, MAX_MESSAGE, Outbox, Queue};
use crate::message::{ClientLine, ClientMessage, Id, RpcError, one_line, read_client_line};
use crate::warn;

/// The messages without a stream that wait for the client to open one.
const MAX_WAITING: usize = 256;

/// An event of the client.
pub(crate) enum ClientEvent {
    Message(Box<Incoming>),
    /// A message that is not forwarded, with its id if it has one.
    Invalid(Option<Id>, RpcError),
    /// The client closed the response to the request `id`.
    Gone(Id),
    /// The client opened a stream for messages that belong to no request, and names the last event
    /// that it received.
    Listening {
        number: u64,
        reply: Reply,
        last: Option<String>,
    },
    /// The client closed the stream of `Listening`.
    ListeningEnded(u64),
    /// The end of the session.
    End,
}

/// A message of the client that has been read strictly.
pub(crate) struct Incoming {
    pub(crate) line: ClientLine,
    /// The text of `line`, without a line feed.
    pub(crate) text: String,
    pub(crate) carriers: Carriers,
    /// The response to the HTTP request; `None` on the standard streams.
    pub(crate) reply: Option<Reply>,
}

/// Reads a message of the client strictly.
pub(crate) fn read_text(bytes: &[u8]) -> Result<(ClientLine, String), (Option<Id>, RpcError)> {
    let text = std::str::from_utf8(bytes).map_err(|_| (None, RpcError::parse("not UTF-8")))?;
    let text = one_line(text.trim_ascii());
    Ok((read_client_line(&text)?, text.into_owned()))
}

/// The events of the client of a session.
pub(crate) enum ClientIn<'a> {
    Lines { lines: mpsc::Receiver<Line>, writer: &'a mut JoinHandle<()> },
    Requests(mpsc::UnboundedReceiver<ClientEvent>),
}

impl ClientIn<'_> {
    /// The next event. Can be cancelled.
    pub(crate) async fn recv(&mut self) -> ClientEvent {
        match self {
            Self::Requests(events) => events.recv().await.unwrap_or(ClientEvent::End),
            Self::Lines { lines, writer } => loop {
                let line = tokio::select! {
                    biased;
                    _ = &mut **writer => return ClientEvent::End,
                    line = lines.recv() => line.unwrap_or(Line::End),
                };
                let line = match line {
                    Line::End => return ClientEvent::End,
                    Line::TooLong => {
                        let problem = format_args!("a message has at most {MAX_MESSAGE} bytes");
                        return ClientEvent::Invalid(None, RpcError::invalid_request(problem));
                    }
                    Line::Text(line) if line.trim_ascii().is_empty() => continue,
                    Line::Text(line) => line,
                };
                return match read_text(&line) {
                    Ok((line, text)) => ClientEvent::Message(Box::new(Incoming {
                        line,
                        text,
                        carriers: Carriers::default(),
                        reply: None,
                    })),
                    Err((id, error)) => ClientEvent::Invalid(id, error),
                };
            },
        }
    }
}

/// A message to the client.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// A line of JSON; empty for an event without a message.
    pub(crate) line: Vec<u8>,
    pub(crate) event: Event,
    /// Whether the response to the request ends with it.
    pub(crate) is_last: bool,
    /// The HTTP status, if it is not derived from the message.
    pub(crate) status: Option<u16>,
}

impl Delivery {
    pub(crate) fn new(line: Vec<u8>) -> Self {
        Self { line, event: Event::default(), is_last: false, status: None }
    }
}

/// The fields of a server-sent event, without its data.
#[derive(Clone, Debug, Default)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    /// Milliseconds.
    pub(crate) retry: Option<u64>,
}

/// The response to an HTTP request of the client.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    deliveries: mpsc::UnboundedSender<Delivery>,
    queue: Arc<Queue>,
}

/// The receiving end of a [`Reply`].
pub(crate) struct Deliveries {
    deliveries: mpsc::UnboundedReceiver<Delivery>,
    queue: Arc<Queue>,
}

impl Reply {
    pub(crate) fn new() -> (Self, Deliveries) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let queue = Arc::<Queue>::default();
        (Self { deliveries: sender, queue: Arc::clone(&queue) }, Deliveries { deliveries: receiver, queue })
    }

    /// Queues `delivery`. Returns whether the client still reads.
    pub(crate) fn send(&self, delivery: Delivery) -> bool {
        self.queue.add(delivery.line.len());
        self.deliveries.send(delivery).is_ok()
    }
}

impl Deliveries {
    pub(crate) async fn recv(&mut self) -> Option<Delivery> {
        let delivery = self.deliveries.recv().await?;
        self.queue.remove(delivery.line.len());
        Some(delivery)
    }
}

/// The destination of a message to the client.
#[derive(Debug)]
pub(crate) enum About {
    /// The response to a request.
    Response(Id),
    /// A message that belongs to the request with the id.
    Request(Id),
    /// A message of the server's stream with the number.
    Stream(u64),
    /// Progress of the request with the token.
    Token(Id),
    /// A log message.
    Log,
    /// A message that belongs to no request.
    Nothing,
}

/// The messages to the client of a session.
pub(crate) enum ClientOut {
    Lines(Outbox),
    Replies(Replies),
}

/// The open responses to HTTP requests.
#[derive(Default)]
pub(crate) struct Replies {
    /// In the order of the requests.
    open: Vec<Open>,
    listening: Vec<Listening>,
    waiting: VecDeque<Delivery>,
    /// Whether there is no stream for messages that belong to no request: 2026-07-28 and later.
    is_stateless: bool,
}

struct Listening {
    number: u64,
    /// Whether it resumes an earlier stream, and contains its messages only.
    is_resumed: bool,
    reply: Reply,
}

struct Open {
    id: Id,
    token: Option<Id>,
    /// Whether the request enables log messages.
    has_logs: bool,
    /// Whether it is the request for a stream of notifications, which carry its id.
    is_subscription: bool,
    reply: Reply,
}

impl Replies {
    pub(crate) fn new(is_stateless: bool) -> Self {
        Self { is_stateless, ..Self::default() }
    }
}

impl ClientOut {
    /// Opens the response to a request.
    pub(crate) fn open(&mut self, id: &Id, message: &ClientMessage, reply: Option<Reply>) {
        if let (Self::Replies(replies), Some(reply)) = (self, reply) {
            let is_subscription = message.method.as_deref() == Some("subscriptions/listen");
            let (token, has_logs) = (message.progress_token(), message.has_logs());
            replies.open.push(Open { id: id.clone(), token, has_logs, is_subscription, reply });
        }
    }

    /// Closes the response to a request that the client no longer reads.
    pub(crate) fn close(&mut self, id: &Id) {
        if let Self::Replies(replies) = self {
            replies.open.retain(|open| open.id != *id);
        }
    }

    /// Whether a client is served without a session: 2026-07-28 and later.
    pub(crate) fn is_stateless(&self) -> bool {
        match self {
            Self::Lines(_) => false,
            Self::Replies(replies) => replies.is_stateless,
        }
    }

    /// Opens a stream for messages that belong to no request.
    pub(crate) fn listen(&mut self, number: u64, reply: Reply, is_resumed: bool) {
        if let Self::Replies(replies) = self {
            if !is_resumed {
                for delivery in replies.waiting.drain(..) {
                    reply.send(delivery);
                }
            }
            replies.listening.push(Listening { number, is_resumed, reply });
        }
    }

    /// Closes a stream of [`ClientOut::listen`].
    pub(crate) fn unlisten(&mut self, number: u64) {
        if let Self::Replies(replies) = self {
            replies.listening.retain(|open| open.number != number);
        }
    }

    /// Closes a stream that the server has closed, or refused with `status`.
    pub(crate) fn end_listening(&mut self, number: u64, status: u16) {
        self.deliver(
            &About::Stream(number),
            Delivery { status: Some(status), is_last: true, ..Delivery::new(Vec::new()) },
        );
        self.unlisten(number);
    }

    /// Sends a line of the proxy.
    pub(crate) fn send(&mut self, about: &About, line: Vec<u8>) {
        self.deliver(about, Delivery::new(line));
    }

    pub(crate) fn deliver(&mut self, about: &About, mut delivery: Delivery) {
        let replies = match self {
            Self::Lines(outbox) if delivery.line.is_empty() => {
                let _ = outbox;
                return;
            }
            Self::Lines(outbox) => return outbox.send(delivery.line),
            Self::Replies(replies) => replies,
        };
        let at = |found: &dyn Fn(&Open) -> bool| replies.open.iter().position(found);
        let only = || match replies.open.iter().filter(|open| !open.is_subscription).count() {
            1 => at(&|open| !open.is_subscription),
            _ => None,
        };
        let found = match about {
            About::Response(id) => {
                delivery.is_last = true;
                at(&|open| open.id == *id)
            }
            About::Request(id) => at(&|open| open.id == *id),
            About::Token(token) => at(&|open| open.token.as_ref() == Some(token)),
            About::Log => at(&|open| open.has_logs).or_else(only),
            About::Nothing => only(),
            About::Stream(_) => None,
        };
        if let Some(found) = found {
            match delivery.is_last {
                true => replies.open.remove(found).reply.send(delivery),
                false => replies.open.get(found).is_some_and(|open| open.reply.send(delivery)),
            };
            return;
        }
        let mut listening = replies.listening.iter().rev();
        let stream = match about {
            About::Stream(number) => listening.find(|open| open.number == *number),
            About::Nothing | About::Log | About::Token(_) => listening.find(|open| !open.is_resumed),
            About::Request(_) | About::Response(_) => None,
        };
        match (about, stream) {
            (_, Some(stream)) => {
                stream.reply.send(delivery);
            }
            (About::Response(id) | About::Request(id), None) => {
                warn(format_args!(
                    "dropped a message about the request {id}: the client closed its response"
                ));
            }
            (About::Stream(_), None) => {}
            (About::Nothing | About::Log | About::Token(_), None) => match replies.open.last() {
                Some(open) if !replies.is_stateless => {
                    open.reply.send(delivery);
                }
                None if !replies.is_stateless && replies.waiting.len() < MAX_WAITING => {
                    replies.waiting.push_back(delivery);
                }
                None | Some(_) => warn("dropped a message that belongs to no open request"),
            },
        }
    }

    /// Waits until the client has read most of its messages.
    pub(crate) async fn ready(&self) {
        match self {
            Self::Lines(outbox) => outbox.ready().await,
            Self::Replies(replies) => {
                let listening = replies.listening.iter().map(|open| &open.reply);
                for reply in replies.open.iter().map(|open| &open.reply).chain(listening) {
                    tokio::select! {
                        () = reply.queue.ready() => {}
                        () = reply.deliveries.closed() => {}
                    }
                }
            }
        }
    }
}
