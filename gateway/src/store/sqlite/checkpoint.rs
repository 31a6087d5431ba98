//! Checkpoints the write-ahead log in the background, so that no response waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

/// Bytes recorded between two checkpoints.
const CHECKPOINT_BYTES: usize = 1 << 20;

/// Maximum pages of the log before the writer itself completes the checkpoint. The log restarts
/// only while nothing is written; without this limit, it would grow under sustained load.
const MAX_PAGES: u64 = 8192;

/// Checkpoints the log on its own thread and connection.
#[derive(Debug)]
pub(super) struct Checkpointer {
    requests: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Pages in the log after the last checkpoint.
    pages: Arc<AtomicU64>,
    /// Bytes recorded since the last requested checkpoint.
    bytes: usize,
}

impl Checkpointer {
    /// `connection` refers to the same file as the writer's connection and must not outlive it.
    pub(super) fn start(connection: Connection) -> std::io::Result<Self> {
        let (requests, requested) = sync_channel(1);
        let pages = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&pages);
        let thread = std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || run(&connection, &requested, &counted))?;
        Ok(Self { requests: Some(requests), thread: Some(thread), pages, bytes: 0 })
    }

    /// Notes that `bytes` were recorded and acknowledged on `writing`, which has no open
    /// transaction.
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
            // A pending request suffices.
            let _ = requests.try_send(());
        }
    }
}

/// Waits for the running checkpoint.
impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(connection: &Connection, requested: &Receiver<()>, pages: &AtomicU64) {
    while requested.recv().is_ok() {
        checkpoint(connection, pages);
    }
}

/// Checkpoints as much as possible without waiting.
fn checkpoint(connection: &Connection, pages: &AtomicU64) {
    let folded = connection.query_one("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(1));
    match folded {
        // -1 while another connection checkpoints.
        Ok(found) => {
            if let Ok(found) = u64::try_from(found) {
                pages.store(found, Ordering::Relaxed);
            }
        }
        // All data is durable in the log; the log is only longer than necessary.
        Err(error) => tracing::warn!(%error, "checkpointing the write-ahead log failed"),
    }
}
