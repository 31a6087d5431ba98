//! Folds SQLite's write-ahead log into the data file beside the writer, so that no answer waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

/// How many bytes are recorded between two rounds.
const CHECKPOINT_BYTES: usize = 1 << 20;

/// How many pages the log may have before the writer itself folds what is left of it. Only while nothing is written can
/// the log begin anew; without a bound it would grow for as long as there is something to do.
const MAX_PAGES: u64 = 8192;

/// What folds the log, on a thread and a connection of its own.
#[derive(Debug)]
pub(super) struct Checkpointer {
    requests: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    /// How many pages the log had after the last round.
    pages: Arc<AtomicU64>,
    /// How many bytes were recorded since the last round was asked for.
    bytes: usize,
}

impl Checkpointer {
    /// `connection` is to the same file as the writer's. It must not outlive the writer's.
    pub(super) fn start(connection: Connection) -> std::io::Result<Self> {
        let (requests, asked) = sync_channel(1);
        let pages = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&pages);
        let thread = std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || run(&connection, &asked, &counted))?;
        Ok(Self { requests: Some(requests), thread: Some(thread), pages, bytes: 0 })
    }

    /// That so much was recorded on `writing`, in no transaction now, and everything that waited for it was answered.
    pub(super) fn recorded(&mut self, bytes: usize, writing: &Connection) {
        self.bytes += bytes;
        if self.bytes < CHECKPOINT_BYTES {
            return;
        }
        self.bytes = 0;
        if self.pages.load(Ordering::Relaxed) >= MAX_PAGES {
            checkpoint(writing, &self.pages);
            self.pages.store(0, Ordering::Relaxed);
        } else if let Some(requests) = &self.requests {
            // One that is asked for already will do.
            let _ = requests.try_send(());
        }
    }
}

/// Waits for the round that is under way.
impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(connection: &Connection, asked: &Receiver<()>, pages: &AtomicU64) {
    while asked.recv().is_ok() {
        checkpoint(connection, pages);
    }
}

/// Folds what can be folded without waiting for anybody.
fn checkpoint(connection: &Connection, pages: &AtomicU64) {
    let folded = connection.query_one("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(1));
    match folded {
        // -1 while the other connection is at it.
        Ok(found) => {
            if let Ok(found) = u64::try_from(found) {
                pages.store(found, Ordering::Relaxed);
            }
        }
        // Everything is durable in the log; it is only longer than it need be.
        Err(error) => tracing::warn!(%error, "the write-ahead log could not be folded into the data file"),
    }
}
