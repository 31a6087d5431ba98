//! What waits for a store's writer: everything that waits at once is one round, and one transaction.

use tokio::sync::{mpsc, oneshot};

use super::error::StoreError;
use super::{Append, Appended, Rotation, SealedKey};

/// How many jobs may wait for the writer before the next is refused as [`StoreError::Busy`].
const QUEUE: usize = 4096;

/// How many appends share one transaction at most.
const BATCH: usize = 512;

pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

#[derive(Debug)]
pub(super) enum Job {
    AddKey(Box<SealedKey>, Rotation, Answer<()>),
    Append(Box<Append>, Answer<Appended>),
    Check(Answer<()>),
    Stop,
}

/// Where jobs are put.
#[derive(Clone, Debug)]
pub(super) struct Jobs(mpsc::Sender<Job>);

impl Jobs {
    pub(super) fn new() -> (Self, mpsc::Receiver<Job>) {
        let (jobs, queue) = mpsc::channel(QUEUE);
        (Self(jobs), queue)
    }

    /// Puts a job there and waits for what comes of it.
    pub(super) async fn ask<T>(&self, job: impl FnOnce(Answer<T>) -> Job) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.0.try_send(job(answer)).map_err(|error| match error {
            mpsc::error::TrySendError::Closed(_) => StoreError::Unavailable,
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
        })?;
        answered.await.map_err(|_| StoreError::Unavailable)?
    }

    /// Lets the writer finish what waits already, and nothing after it. `false` if it is gone.
    pub(super) async fn stop(&self) -> bool {
        self.0.send(Job::Stop).await.is_ok()
    }
}

/// What waited together.
#[derive(Debug, Default)]
pub(super) struct Round {
    pub(super) keys: Vec<(SealedKey, Rotation, Answer<()>)>,
    pub(super) appends: Vec<Append>,
    pub(super) answers: Vec<Answer<Appended>>,
    pub(super) checks: Vec<Answer<()>>,
}

impl Round {
    /// Takes everything that waits behind `first`.
    pub(super) fn gather(first: Job, queue: &mut mpsc::Receiver<Job>) -> Self {
        let mut round = Self::default();
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::AddKey(key, rotation, answer) => round.keys.push((*key, rotation, answer)),
                Job::Append(append, answer) => {
                    round.appends.push(*append);
                    round.answers.push(answer);
                }
                Job::Check(answer) => round.checks.push(answer),
                // What is queued already is still done; what comes later is refused.
                Job::Stop => queue.close(),
            }
            next = if round.appends.len() < BATCH { queue.try_recv().ok() } else { None };
        }
        round
    }
}

/// Tells everyone who waits for an append what came of it. Whoever asked may be gone by now, and hears nothing; the event
/// stays.
pub(super) fn answer_all(
    answers: Vec<Answer<Appended>>,
    outcomes: Option<Vec<Result<Appended, StoreError>>>,
) {
    match outcomes {
        Some(outcomes) => {
            for (answer, outcome) in answers.into_iter().zip(outcomes) {
                let _ = answer.send(outcome);
            }
        }
        None => {
            for answer in answers {
                let _ = answer.send(Err(StoreError::Unavailable));
            }
        }
    }
}
