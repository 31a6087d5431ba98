//! What the threads of a server share: what it does, what it was sent, and when to stop.

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustls::ServerConfig;

use crate::request::Seen;
use crate::script::{Body, Respond, Step};

/// What a server does.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    pub(crate) tls: Option<Arc<ServerConfig>>,
    pub(crate) old_protocol: bool,
    pub(crate) http2: bool,
    pub(crate) reset_accept: bool,
    pub(crate) idle_close_ms: Option<u64>,
    pub(crate) steps: Vec<Step>,
    pub(crate) other_host: Option<SocketAddr>,
}

impl Setup {
    /// The host that redirects point to.
    pub(crate) fn other_host() -> Self {
        Self {
            steps: vec![Step::Respond(Respond {
                body: Body::Text(OTHER_HOST_ALLOWS.into()),
                ..Respond::default()
            })],
            ..Self::default()
        }
    }

    fn step(&self, n: usize) -> Step {
        self.steps
            .get(n)
            .or_else(|| self.steps.last())
            .cloned()
            .unwrap_or_else(|| Step::Respond(Respond::default()))
    }
}

/// Tells threads that wait to end, or to go on.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Waiting {
    #[default]
    AsLongAsSaid,
    NoLonger,
    Stopped,
}

impl Stop {
    /// Waits for `time`, or for the stop or the release if that comes sooner. Returns whether the stop came.
    pub(crate) fn wait(&self, time: Duration) -> bool {
        let (state, _) = self
            .changed
            .wait_timeout_while(lock(&self.state), time, |state| *state == Waiting::AsLongAsSaid)
            .unwrap_or_else(PoisonError::into_inner);
        *state == Waiting::Stopped
    }

    pub(crate) fn now(&self) {
        *lock(&self.state) = Waiting::Stopped;
        self.changed.notify_all();
    }

    pub(crate) fn release(&self) {
        let mut state = lock(&self.state);
        if *state == Waiting::AsLongAsSaid {
            *state = Waiting::NoLonger;
        }
        drop(state);
        self.changed.notify_all();
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) setup: Setup,
    pub(crate) log: Mutex<Log>,
    /// What was accepted; a connection that is closed cannot be upgraded.
    pub(crate) connections: Mutex<Vec<Weak<TcpStream>>>,
    pub(crate) stop: Stop,
}

impl Shared {
    pub(crate) fn is_stopped(&self) -> bool {
        *lock(&self.stop.state) == Waiting::Stopped
    }

    /// Records a request and says which step is its own.
    pub(crate) fn record(&self, seen: Seen) -> Step {
        let mut log = lock(&self.log);
        log.seen.push(seen);
        let n = log.steps_played;
        log.steps_played = n.saturating_add(1);
        self.setup.step(n)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) seen: Vec<Seen>,
    // Not the length of `seen`: what cannot be parsed is seen but plays no step.
    steps_played: usize,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const OTHER_HOST_ALLOWS: &str =
    r#"{"decision":"allow","reason_code":"other.host","evidence_event_id":"ev_other"}"#;
