//! The write queue: all queued writes are written as one batch in one transaction.

use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::append::{
    DecisionOutcome, DecisionRecord, HaltChange, HaltOutcome, Record, Transition, TransitionOutcome,
};
use super::error::StoreError;
use super::kept::KeptChange;
use super::outbox::OutboxChange;
use super::sessions::SessionChange;
use super::{Rotation, SealedKey, WriteTimings};
use crate::ledger::Head;

/// Maximum number of queued jobs; further ones fail with [`StoreError::Busy`].
const QUEUE: usize = 4096;

/// Maximum number of appends per transaction.
const BATCH: usize = 512;

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

#[derive(Debug)]
pub(super) enum Job {
    AddKey(Box<SealedKey>, Rotation, Reply<()>),
    Append(Append),
    Check(Reply<()>),
    Kept(KeptChange, Reply<u64>),
    Outbox(OutboxChange, Reply<bool>),
    Session(SessionChange, Reply<bool>),
    Stop,
}

/// A queued append and its ticket.
#[derive(Debug)]
pub(super) enum Append {
    Decision(Box<DecisionRecord>, Ticket<DecisionOutcome>),
    Halt(Box<HaltChange>, Ticket<HaltOutcome>),
    Record(Box<Record>, Ticket<Head>),
    Transition(Box<Transition>, Ticket<TransitionOutcome>),
}

impl Append {
    /// Notes that the transaction begins.
    fn begin(&self) {
        if let Self::Decision(decision, _) = self
            && let Some(begun) = &decision.begun
        {
            // Only the first time counts.
            let _ = begun.set(Instant::now());
        }
    }

    /// Sends the outcome. The receiver may be gone; the event stays recorded.
    fn reply(self) {
        match self {
            Self::Decision(_, ticket) => ticket.reply(),
            Self::Halt(_, ticket) => ticket.reply(),
            Self::Record(_, ticket) => ticket.reply(),
            Self::Transition(_, ticket) => ticket.reply(),
        }
    }
}

/// An outcome sent after the commit. If dropped, the receiver gets [`StoreError::Unavailable`].
#[derive(Debug)]
pub(super) struct Ticket<T> {
    pub(super) outcome: Result<T, StoreError>,
    reply: Reply<T>,
}

impl<T> Ticket<T> {
    fn new(reply: Reply<T>) -> Self {
        Self { outcome: Err(StoreError::Unavailable), reply }
    }

    fn reply(self) {
        let _ = self.reply.send(self.outcome);
    }
}

/// Sends the outcomes of committed appends.
pub(super) fn reply_all(committed: Vec<Append>) {
    committed.into_iter().for_each(Append::reply);
}

/// The sender of the write queue.
#[derive(Clone, Debug)]
pub(super) struct Jobs(mpsc::Sender<Job>, WriteTimings);

impl Jobs {
    pub(super) fn new() -> (Self, mpsc::Receiver<Job>) {
        let (jobs, queue) = mpsc::channel(QUEUE);
        (Self(jobs, WriteTimings::default()), queue)
    }

    /// The measurements of the writer.
    pub(super) fn timings(&self) -> &WriteTimings {
        &self.1
    }

    /// The number of queued jobs and the capacity of the queue.
    pub(super) fn depth(&self) -> [usize; 2] {
        let capacity = self.0.max_capacity();
        [capacity.saturating_sub(self.0.capacity()), capacity]
    }

    pub(super) async fn record(&self, record: Record) -> Result<Head, StoreError> {
        self.submit(|reply| Job::Append(Append::Record(Box::new(record), Ticket::new(reply)))).await
    }

    pub(super) async fn change(&self, transition: Transition) -> Result<TransitionOutcome, StoreError> {
        self.submit(|reply| Job::Append(Append::Transition(Box::new(transition), Ticket::new(reply)))).await
    }

    pub(super) async fn decide(&self, decision: DecisionRecord) -> Result<DecisionOutcome, StoreError> {
        self.submit(|reply| Job::Append(Append::Decision(Box::new(decision), Ticket::new(reply)))).await
    }

    /// Queues a change of the halts, which waits for a place if the queue is full.
    pub(super) async fn change_halts(&self, change: HaltChange) -> Result<HaltOutcome, StoreError> {
        let (reply, replied) = oneshot::channel();
        let job = Job::Append(Append::Halt(Box::new(change), Ticket::new(reply)));
        self.0.send(job).await.map_err(|_| StoreError::Unavailable)?;
        replied.await.map_err(|_| StoreError::Unavailable)?
    }

    /// Queues a job and waits for its outcome.
    pub(super) async fn submit<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, StoreError> {
        let (reply, replied) = oneshot::channel();
        self.0.try_send(job(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Closed(_) => StoreError::Unavailable,
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
        })?;
        replied.await.map_err(|_| StoreError::Unavailable)?
    }

    pub(super) async fn change_outbox(&self, change: OutboxChange) -> Result<bool, StoreError> {
        self.submit(|reply| Job::Outbox(change, reply)).await
    }

    pub(super) async fn change_session(&self, change: SessionChange) -> Result<bool, StoreError> {
        self.submit(|reply| Job::Session(change, reply)).await
    }

    pub(super) async fn change_kept(&self, change: KeptChange) -> Result<u64, StoreError> {
        self.submit(|reply| Job::Kept(change, reply)).await
    }

    /// Stops the writer after the queued jobs; returns `false` if it is gone.
    pub(super) async fn stop(&self) -> bool {
        self.0.send(Job::Stop).await.is_ok()
    }
}

/// Jobs that are executed together.
#[derive(Debug, Default)]
pub(super) struct JobBatch {
    pub(super) keys: Vec<(SealedKey, Rotation, Reply<()>)>,
    pub(super) appends: Vec<Append>,
    pub(super) checks: Vec<Reply<()>>,
    pub(super) kept: Vec<(KeptChange, Reply<u64>)>,
    pub(super) outbox: Vec<(OutboxChange, Reply<bool>)>,
    pub(super) sessions: Vec<(SessionChange, Reply<bool>)>,
}

impl JobBatch {
    /// Collects all queued jobs after `first`.
    pub(super) fn collect_jobs(first: Job, queue: &mut mpsc::Receiver<Job>) -> Self {
        let mut batch = Self::default();
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::AddKey(key, rotation, reply) => batch.keys.push((*key, rotation, reply)),
                Job::Append(append) => {
                    append.begin();
                    batch.appends.push(append);
                }
                Job::Check(reply) => batch.checks.push(reply),
                Job::Kept(change, reply) => batch.kept.push((change, reply)),
                Job::Outbox(change, reply) => batch.outbox.push((change, reply)),
                Job::Session(change, reply) => batch.sessions.push((change, reply)),
                // Execute queued jobs, reject later ones.
                Job::Stop => queue.close(),
            }
            next = if batch.appends.len() < BATCH { queue.try_recv().ok() } else { None };
        }
        batch
    }
}
