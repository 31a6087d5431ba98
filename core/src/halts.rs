//! Stops: the highest `halt_epoch` that a client has seen, its running functions, and the watch
//! that signals them.
//!
//! A gateway that supports stops sends `halt_epoch` in its responses. Without it, nothing in this
//! module takes effect, and no request is sent.

use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Poll;
use std::time::Duration;

use actpass_protocol::json::{MAX_SAFE_INTEGER, RawObject};
use futures_util::future::{Either, select};
use futures_util::task::AtomicWaker;

use crate::clock::{Clock, Moment};
use crate::observe::ignore_panic;

/// The running time after which a client watches for stops of its running functions: 1 s.
pub const HALT_WATCH_DELAY: Duration = Duration::from_secs(1);

/// The member of a response.
const EPOCH: &str = "halt_epoch";

/// Parses the `halt_epoch` of a response; `None` if the gateway sent none.
///
/// # Errors
///
/// If it is not an integer of 0 to 2^53 - 1.
pub(crate) fn epoch_of(document: &RawObject) -> Result<Option<u64>, String> {
    let text = document.member_text(EPOCH).filter(|text| *text != "null");
    let Some(text) = text else { return Ok(None) };
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let epoch = text.parse().ok().filter(|epoch| digits && *epoch <= MAX_SAFE_INTEGER.unsigned_abs());
    epoch.map(Some).ok_or_else(|| format!("`{EPOCH}` is not an integer of 0 to 2^53 - 1"))
}

/// The highest epoch that the clients created from the same settings have seen.
#[derive(Debug, Default)]
pub(crate) struct SeenEpoch(
    /// The epoch plus 1; 0 before the first one.
    AtomicU64,
);

impl SeenEpoch {
    pub(crate) fn get(&self) -> Option<u64> {
        self.0.load(Ordering::SeqCst).checked_sub(1)
    }

    /// Returns the previous epoch if `epoch` is newer.
    fn raise(&self, epoch: u64) -> Option<Option<u64>> {
        let before = self.0.fetch_max(epoch + 1, Ordering::SeqCst);
        (before <= epoch).then(|| before.checked_sub(1))
    }
}

/// Signals a running function that its action was stopped. The function decides what to do: it can
/// finish, or end early.
///
/// [`ExecutionContext::halt`](crate::ExecutionContext::halt) returns it. Cloning is cheap.
///
/// ```
/// # use actpass_core::testing::{Answer, ScriptedGateway};
/// # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
/// use actpass_core::{Action, Outcome};
///
/// # let gateway = ScriptedGateway::new();
/// # gateway.script_all(Answer::allow());
/// # let actpass = gateway.client()?;
/// let action = Action::new("resolve_refund_requests", "stripe.refund.create");
/// let outcome = actpass.guard(&action, async |context| {
///     let mut refunded = 0;
///     for _ in 0..10 {
///         if context.halt().is_halted() {
///             break;
///         }
///         // ... create one refund, which is not interrupted:
///         tokio::time::sleep(std::time::Duration::from_secs(1)).await;
///         refunded += 1;
/// #       if refunded == 3 { gateway.halt("agent", Some("tests"), "wrong amounts")?; }
///     }
///     Ok::<_, actpass_core::Error>(refunded)
/// }).await?;
/// assert!(matches!(outcome, Outcome::Returned { result: 3 | 4, .. }));
/// # Ok::<(), actpass_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Default)]
pub struct HaltSignal(
    /// `None` if the gateway does not support stops.
    Option<Arc<Signal>>,
);

#[derive(Default)]
struct Signal {
    is_halted: AtomicBool,
    listeners: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

impl HaltSignal {
    /// Whether the action was stopped while its function runs. Never becomes `false` again.
    pub fn is_halted(&self) -> bool {
        self.0.as_ref().is_some_and(|signal| signal.is_halted.load(Ordering::SeqCst))
    }

    /// Completes when the action is stopped; never if it is not. To cancel a part of the function,
    /// race the part against this future.
    pub async fn halted(&self) {
        let waker = Arc::new(AtomicWaker::new());
        let woken = Arc::clone(&waker);
        self.on_halt(move || woken.wake());
        poll_fn(|context| {
            waker.register(context.waker());
            if self.is_halted() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Runs `part`, a part of the function that may be stopped at any point; drops it if the action is
    /// stopped.
    ///
    /// # Errors
    ///
    /// [`Halted`], if `part` was dropped.
    ///
    /// ```
    /// # use actpass_core::testing::{Answer, ScriptedGateway};
    /// # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
    /// use actpass_core::{Action, Halted, Outcome};
    /// use std::time::Duration;
    ///
    /// # let gateway = ScriptedGateway::new();
    /// # gateway.script_all(Answer::allow());
    /// # let actpass = gateway.client()?;
    /// let action = Action::new("summarize_tickets", "crm.tickets.read");
    /// let outcome = actpass.guard(&action, async |context| {
    /// #   let gateway = gateway.clone();
    /// #   tokio::spawn(async move { tokio::time::sleep(Duration::from_secs(2)).await; gateway.halt("all", None, "test") });
    ///     // Reading can be repeated, so it may be cut off:
    ///     context.halt().cancelling(tokio::time::sleep(Duration::from_secs(600))).await
    /// }).await?;
    /// assert!(matches!(outcome, Outcome::Failed { error: Halted, .. }));
    /// # Ok::<(), actpass_core::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn cancelling<F: Future>(&self, part: F) -> Result<F::Output, Halted> {
        match select(pin!(part), pin!(self.halted())).await {
            Either::Left((output, _)) => Ok(output),
            Either::Right(((), _)) => Err(Halted),
        }
    }

    /// Calls `notify` once when the action is stopped, immediately if it is already. The call comes
    /// from the thread of the watch, so it must not block. A panic of `notify` is ignored.
    pub fn on_halt(&self, notify: impl FnOnce() + Send + 'static) {
        let Some(signal) = &self.0 else { return };
        let mut listeners = lock(&signal.listeners);
        match signal.is_halted.load(Ordering::SeqCst) {
            false => listeners.push(Box::new(notify)),
            true => {
                drop(listeners);
                ignore_panic(notify);
            }
        }
    }
}

/// A part of a function was cancelled because its action was stopped: see
/// [`HaltSignal::cancelling`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halted;

impl fmt::Display for Halted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cancelled: the action was stopped")
    }
}

impl std::error::Error for Halted {}

impl Signal {
    fn halt(&self) {
        let listeners = {
            let mut listeners = lock(&self.listeners);
            self.is_halted.store(true, Ordering::SeqCst);
            mem::take(&mut *listeners)
        };
        for notify in listeners {
            ignore_panic(notify);
        }
    }
}

impl fmt::Debug for HaltSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HaltSignal").field("is_halted", &self.is_halted()).finish_non_exhaustive()
    }
}

/// The watch of a client, to be run to its end: see
/// [`spawn_watch`](crate::ActPassBuilder::spawn_watch).
pub type WatchFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Starts a [`WatchFuture`] without waiting for it.
pub(crate) type SpawnWatch = fn(WatchFuture);

/// Runs the [`HaltWatch`] of a client, for bindings whose clients are not driven by a tokio runtime
/// all the time.
pub trait HaltWatcher: Send + Sync + 'static {
    /// Starts `HaltWatch::run` without waiting for it. If `watch` is dropped instead, the next
    /// function that runs starts another one.
    fn spawn(&self, watch: HaltWatch);
}

/// The running functions of a client. Cloning is cheap; clones are the same.
#[derive(Clone)]
pub(crate) struct Halts(Arc<Shared>);

struct Shared {
    seen: Arc<SeenEpoch>,
    agent_id: String,
    watcher: OnceLock<Box<dyn HaltWatcher>>,
    instance: OnceLock<String>,
    state: Mutex<State>,
    /// Wakes the watch.
    waker: AtomicWaker,
    is_woken: AtomicBool,
}

#[derive(Default)]
struct State {
    running: Vec<Arc<Entry>>,
    is_watched: bool,
    /// Whether the end of a function wakes the watch.
    wakes_on_end: bool,
    /// The newest epoch whose functions in flight were counted.
    counted: u64,
    /// The acknowledgement to send.
    due: Option<Acknowledgement>,
    /// The last acknowledgement that was sent.
    sent: Option<Acknowledgement>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acknowledgement {
    pub(crate) epoch: u64,
    pub(crate) in_flight: usize,
}

/// A running function.
struct Entry {
    /// The epoch of its permit.
    epoch: u64,
    began: Moment,
    subject: Subject,
    /// The newest epoch for which the gateway has reported whether the action is stopped.
    checked: AtomicU64,
    has_ended: AtomicBool,
    signal: Arc<Signal>,
}

impl Entry {
    fn is_older_than(&self, epoch: u64) -> bool {
        self.epoch < epoch && !self.has_ended.load(Ordering::SeqCst)
    }
}

/// The members of an action that a stop can name, except the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) tool: String,
    pub(crate) user_id: Option<String>,
}

/// A registered function. Dropping it reports its end.
pub(crate) struct Running {
    halts: Halts,
    entry: Arc<Entry>,
    process: u32,
}

impl Drop for Running {
    fn drop(&mut self) {
        // In a forked child the function belongs to the parent, and the lock may be held.
        if self.process == process() {
            self.entry.has_ended.store(true, Ordering::SeqCst);
            self.halts.on_end();
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

/// The next step of the watch.
pub(crate) enum Next {
    /// Query whether the subject is stopped at this epoch.
    Ask(Subject, u64),
    Acknowledge(Acknowledgement),
    /// Wait for an epoch newer than this one.
    Poll(u64),
    Sleep(Moment),
    Stop,
}

impl Halts {
    pub(crate) fn new(seen: Arc<SeenEpoch>, agent_id: &str) -> Self {
        Self(Arc::new(Shared {
            seen,
            agent_id: agent_id.to_owned(),
            watcher: OnceLock::new(),
            instance: OnceLock::new(),
            state: Mutex::default(),
            waker: AtomicWaker::new(),
            is_woken: AtomicBool::new(false),
        }))
    }

    /// Sets the watcher. Only the first call has an effect.
    pub(crate) fn set_watcher(&self, watcher: impl HaltWatcher) {
        drop(self.0.watcher.set(Box::new(watcher)));
    }

    /// Registers a function that begins to run under a permit of `epoch`.
    pub(crate) fn begin(&self, epoch: u64, subject: Subject, now: Moment) -> (Running, HaltSignal) {
        let signal = Arc::new(Signal::default());
        let entry = Arc::new(Entry {
            epoch,
            began: now,
            subject,
            checked: AtomicU64::new(epoch),
            has_ended: AtomicBool::new(false),
            signal: Arc::clone(&signal),
        });
        let starts = {
            let mut state = self.state();
            state.running.push(Arc::clone(&entry));
            self.0.watcher.get().filter(|_| !mem::replace(&mut state.is_watched, true))
        };
        if let Some(watcher) = starts {
            let watch = HaltWatch { halts: self.clone(), has_stopped: false };
            ignore_panic(|| watcher.spawn(watch));
        }
        // A response may have raised the epoch since the permit was checked.
        self.on_rise();
        (Running { halts: self.clone(), entry, process: process() }, HaltSignal(Some(signal)))
    }

    /// Processes the epoch of a response.
    pub(crate) fn observe(&self, epoch: Option<u64>) {
        let Some(epoch) = epoch else { return };
        if let Some(before) = self.0.seen.raise(epoch) {
            if let Some(before) = before {
                ignore_panic(|| {
                    tracing::info!(epoch, before, "halt epoch rose: a stop was issued or lifted");
                });
            }
            self.on_rise();
        }
    }

    /// Counts the functions in flight if the epoch has risen, and wakes the watch for them.
    fn on_rise(&self) {
        let is_due = self.count(&mut self.state());
        if is_due {
            self.wake();
        }
    }

    fn on_end(&self) {
        if self.state().wakes_on_end {
            self.wake();
        }
    }

    /// Removes ended functions. If the epoch has risen while functions run, makes an
    /// acknowledgement due; returns whether it did.
    fn count(&self, state: &mut State) -> bool {
        state.running.retain(|entry| !entry.has_ended.load(Ordering::SeqCst));
        let Some(epoch) = self.0.seen.get().filter(|epoch| *epoch > state.counted) else { return false };
        let in_flight = state.running.iter().filter(|entry| entry.is_older_than(epoch)).count();
        if in_flight > 0 {
            state.counted = epoch;
            state.due = Some(Acknowledgement { epoch, in_flight });
        }
        in_flight > 0
    }

    pub(crate) fn next(&self, now: Moment, paused_until: Moment) -> Next {
        let mut state = self.state();
        self.count(&mut state);
        let seen = self.0.seen.get().unwrap_or_default();
        let in_flight = state.running.iter().filter(|entry| entry.is_older_than(seen)).count();
        if state.due.is_none() && in_flight == 0 && state.sent.is_some_and(|sent| sent.in_flight > 0) {
            state.due = Some(Acknowledgement { epoch: seen, in_flight: 0 });
        }
        let Some(oldest) = state.running.iter().map(|entry| entry.began).min() else {
            return match state.due {
                Some(_) if now < paused_until => Next::Sleep(paused_until),
                Some(due) => Next::Acknowledge(due),
                None => {
                    (state.is_watched, state.wakes_on_end) = (false, false);
                    Next::Stop
                }
            };
        };
        let unknown = state.running.iter().find(|entry| {
            let is_unchecked = entry.checked.load(Ordering::SeqCst) < seen;
            entry.is_older_than(seen) && is_unchecked && !entry.signal.is_halted.load(Ordering::SeqCst)
        });
        let is_young = now.saturating_since(oldest) < HALT_WATCH_DELAY;
        let next = match (unknown, state.due) {
            (Some(_), _) | (None, Some(_)) if now < paused_until => Next::Sleep(paused_until),
            (Some(entry), _) => Next::Ask(entry.subject.clone(), seen),
            (None, Some(due)) => Next::Acknowledge(due),
            (None, None) if is_young => Next::Sleep((oldest + HALT_WATCH_DELAY).max(paused_until)),
            (None, None) if now < paused_until => Next::Sleep(paused_until),
            (None, None) => Next::Poll(seen),
        };
        // A short function does not wake a watch that has not begun to poll.
        state.wakes_on_end = in_flight > 0 || matches!(next, Next::Poll(_));
        next
    }

    /// Whether the watch continues to poll for an epoch newer than `after`.
    pub(crate) fn is_quiet(&self, after: u64) -> bool {
        let mut state = self.state();
        self.count(&mut state);
        let has_unreported_end = state.sent.is_some_and(|sent| sent.in_flight > 0)
            && !state.running.iter().any(|entry| entry.is_older_than(after));
        let is_newest = self.0.seen.get().is_none_or(|seen| seen <= after);
        is_newest && !state.running.is_empty() && state.due.is_none() && !has_unreported_end
    }

    /// Applies an answer about the functions of a subject. Without a subject, it is about all.
    pub(crate) fn apply(&self, epoch: u64, is_halted: bool, subject: Option<&Subject>) {
        self.observe(Some(epoch));
        let is_about = |entry: &Entry| subject.is_none_or(|subject| entry.subject == *subject);
        let found: Vec<_> = {
            let state = self.state();
            let older = state.running.iter().filter(|entry| entry.is_older_than(epoch) && is_about(entry));
            older.cloned().collect()
        };
        for entry in found {
            entry.checked.fetch_max(epoch, Ordering::SeqCst);
            if is_halted {
                entry.signal.halt();
            }
        }
    }

    /// The client's agent.
    pub(crate) fn agent_id(&self) -> &str {
        &self.0.agent_id
    }

    /// The random name of this client in this process.
    pub(crate) fn instance(&self, clock: &dyn Clock) -> &str {
        self.0.instance.get_or_init(|| {
            clock.random().unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect()
        })
    }

    /// Removes an acknowledgement that was sent, or is given up.
    pub(crate) fn settle(&self, acknowledgement: Acknowledgement) {
        let mut state = self.state();
        state.sent = Some(acknowledgement);
        if state.due == Some(acknowledgement) {
            state.due = None;
        }
    }

    fn wake(&self) {
        self.0.is_woken.store(true, Ordering::SeqCst);
        self.0.waker.wake();
    }

    pub(crate) async fn woken(&self) {
        poll_fn(|context| {
            self.0.waker.register(context.waker());
            if self.0.is_woken.swap(false, Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }
}

impl fmt::Debug for Halts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Halts").field("seen", &self.0.seen.get()).finish_non_exhaustive()
    }
}

/// The watch of a client: one for all its running functions. It polls the gateway for a newer epoch,
/// signals the functions whose action was stopped, and acknowledges. Its failures change no
/// outcome.
#[derive(Debug)]
pub struct HaltWatch {
    pub(crate) halts: Halts,
    /// Set once the client has no running function.
    pub(crate) has_stopped: bool,
}

impl Drop for HaltWatch {
    fn drop(&mut self) {
        if !self.has_stopped {
            self.halts.state().is_watched = false;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The id of this process; 0 on a platform without processes.
fn process() -> u32 {
    if cfg!(target_family = "wasm") { 0 } else { std::process::id() }
}
