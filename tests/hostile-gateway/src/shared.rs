//! State shared by a server's threads: behaviour, recorded requests, and the stop signal.

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustls::ServerConfig;

use crate::dpop::{Proofs, refusal};
use crate::request::Seen;
use crate::script::{Body, Dpop, Redirect, Respond, Step};

/// The behaviour of a server.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    pub(crate) tls: Option<Arc<ServerConfig>>,
    pub(crate) old_protocol: bool,
    pub(crate) http2: bool,
    pub(crate) reset_accept: bool,
    pub(crate) idle_close_ms: Option<u64>,
    pub(crate) steps: Vec<Step>,
    pub(crate) other_host: Option<SocketAddr>,
    /// The key of every request, and the gateway's origin.
    pub(crate) dpop: Option<(Dpop, String)>,
}

impl Setup {
    /// The target host of `redirect`.
    pub(crate) fn other_host(redirect: &Redirect) -> Self {
        let body = redirect.other_body.clone().unwrap_or_else(|| OTHER_HOST_ALLOWS.to_owned());
        Self {
            steps: vec![Step::Respond(Respond { body: Body::Text(body), ..Respond::default() })],
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

/// Signals waiting threads to stop or to continue.
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
    /// Waits for `time`, or until stopped or released. Returns whether it was stopped.
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
    /// Accepted connections; a closed one cannot be upgraded.
    pub(crate) connections: Mutex<Vec<Weak<TcpStream>>>,
    pub(crate) stop: Stop,
}

impl Shared {
    pub(crate) fn is_stopped(&self) -> bool {
        *lock(&self.stop.state) == Waiting::Stopped
    }

    /// Records a request and returns its step.
    pub(crate) fn record(&self, seen: Seen) -> Step {
        let mut log = lock(&self.log);
        let proven = match &self.setup.dpop {
            Some((dpop, origin)) => log.proofs.verify(dpop, origin, &seen),
            None => Ok(()),
        };
        log.seen.push(seen);
        if let Err(problem) = proven {
            return refusal(&problem);
        }
        let n = log.steps_played;
        log.steps_played = n.saturating_add(1);
        let step = self.setup.step(n);
        log.proofs.note(&step);
        step
    }
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) seen: Vec<Seen>,
    // Not the length of `seen`: invalid requests are recorded but use no step.
    steps_played: usize,
    proofs: Proofs,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const OTHER_HOST_ALLOWS: &str =
    r#"{"decision":"allow","reason_code":"other.host","evidence_event_id":"ev_other"}"#;
