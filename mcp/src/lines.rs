//! Messages over a byte stream, one a line.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

/// The longest message, in bytes: 16 MiB.
pub(crate) const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// The bytes that may wait for a reader.
pub(crate) const MAX_QUEUED: usize = 4 * MAX_MESSAGE;
/// The lines that are read ahead.
const READ_AHEAD: usize = 16;

/// A line of a stream.
pub(crate) enum Line {
    /// The line with its line feed, as received. The last line of a stream gets one if it is
    /// missing.
    Text(Vec<u8>),
    /// A line over [`MAX_MESSAGE`]; its bytes are dropped.
    TooLong,
    /// The end of the stream. Nothing follows.
    End,
}

/// Reads lines until the end of `reader`. A failed read is its end.
pub(crate) fn read_lines(reader: impl AsyncRead + Unpin + Send + 'static) -> mpsc::Receiver<Line> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    tokio::spawn(pass_lines(reader, sender));
    receiver
}

/// Reads the lines of standard input.
pub(crate) fn read_stdin() -> mpsc::Receiver<Line> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || runtime.block_on(pass_lines(Blocking(io::stdin()), sender)));
    receiver
}

async fn pass_lines(reader: impl AsyncRead + Unpin, sender: mpsc::Sender<Line>) {
    let mut reader = BufReader::with_capacity(64 * 1024, reader);
    loop {
        let line = read_line(&mut reader).await.unwrap_or(Line::End);
        let ended = matches!(line, Line::End);
        if sender.send(line).await.is_err() || ended {
            return;
        }
    }
}

/// A standard stream of the program, used by one thread that may block. Those of tokio pass each
/// read and write to another thread and wait for it.
struct Blocking<S>(S);

impl<S: io::Read + Unpin> AsyncRead for Blocking<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = uninterrupted(|| self.0.read(buffer.initialize_unfilled()))?;
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl<S: io::Write + Unpin> AsyncWrite for Blocking<S> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(uninterrupted(|| self.0.write(bytes)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(uninterrupted(|| self.0.flush()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}

fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            ended => return ended,
        }
    }
}

async fn read_line(reader: &mut BufReader<impl AsyncRead + Unpin>) -> io::Result<Line> {
    let mut line = Vec::new();
    let mut is_too_long = false;
    loop {
        let bytes = reader.fill_buf().await?;
        let end = bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let taken = end.unwrap_or(bytes.len());
        let is_last = taken == 0;
        is_too_long |= line.len() + taken > MAX_MESSAGE;
        match is_too_long {
            true => line.clear(),
            false => line.extend_from_slice(bytes.get(..taken).unwrap_or_default()),
        }
        reader.consume(taken);
        if end.is_none() && !is_last {
            continue;
        }
        return Ok(match (is_too_long, line.is_empty()) {
            (true, _) => Line::TooLong,
            (false, true) => Line::End,
            (false, false) => {
                if is_last {
                    line.push(b'\n');
                }
                Line::Text(line)
            }
        });
    }
}

/// Lines that are written to a stream in order, by a task. Dropping it closes the stream after the
/// last line.
#[derive(Clone)]
pub(crate) struct Outbox {
    lines: mpsc::UnboundedSender<Vec<u8>>,
    queue: Arc<Queue>,
}

/// The bytes that wait for a reader.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    bytes: AtomicUsize,
    written: Notify,
}

impl Queue {
    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.written.notify_one();
    }

    /// Waits until less than [`MAX_MESSAGE`] bytes wait for the reader.
    pub(crate) async fn ready(&self) {
        while self.bytes.load(Ordering::Relaxed) > MAX_MESSAGE {
            self.written.notified().await;
        }
    }
}

async fn write_lines(
    mut writer: impl AsyncWrite + Unpin,
    mut lines: mpsc::UnboundedReceiver<Vec<u8>>,
    queue: Arc<Queue>,
) {
    while let Some(line) = lines.recv().await {
        if writer.write_all(&line).await.is_err() || writer.flush().await.is_err() {
            return;
        }
        queue.remove(line.len());
    }
}

impl Outbox {
    /// Returns the outbox, and the task, which ends with the outbox or with the first failed write.
    pub(crate) fn new(writer: impl AsyncWrite + Unpin + Send + 'static) -> (Self, JoinHandle<()>) {
        let (outbox, lines) = Self::queued();
        let task = tokio::spawn(write_lines(writer, lines, Arc::clone(&outbox.queue)));
        (outbox, task)
    }

    /// Same as [`Outbox::new`], for standard output.
    pub(crate) fn stdout() -> (Self, JoinHandle<()>) {
        let (outbox, lines) = Self::queued();
        let (runtime, queue) = (Handle::current(), Arc::clone(&outbox.queue));
        let task = tokio::task::spawn_blocking(move || {
            runtime.block_on(write_lines(Blocking(io::stdout()), lines, queue));
        });
        (outbox, task)
    }

    fn queued() -> (Self, mpsc::UnboundedReceiver<Vec<u8>>) {
        let (sender, lines) = mpsc::unbounded_channel();
        (Self { lines: sender, queue: Arc::default() }, lines)
    }

    /// Queues `line`, which ends with a line feed.
    pub(crate) fn send(&self, line: Vec<u8>) {
        self.queue.add(line.len());
        // If the writer has failed, its task has ended, which ends the proxy.
        let _ = self.lines.send(line);
    }

    /// Whether more than [`MAX_QUEUED`] bytes wait for the reader.
    pub(crate) fn is_full(&self) -> bool {
        self.queue.bytes.load(Ordering::Relaxed) > MAX_QUEUED
    }

    /// Waits until less than [`MAX_MESSAGE`] bytes wait for the reader.
    pub(crate) async fn ready(&self) {
        self.queue.ready().await;
    }
}
