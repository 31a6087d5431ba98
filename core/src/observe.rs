//! The one way to the program's `tracing` subscriber. A subscriber that panics changes nothing about a call.
//!
//! The panic ends here: the process's panic hook has reported it, by default on standard error. The transport's own crates
//! know no such border, so they run without a subscriber ([`Unobserved`]).

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use hyper::rt::Executor;
use tracing::Value;
use tracing::dispatcher::{Dispatch, with_default};

/// Runs `tell`, which calls the subscriber; `None` if that panicked.
pub(crate) fn observe<R>(tell: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(tell)).ok()
}

/// A span of the subscriber, or none where it panicked while it made the span.
pub(crate) struct Span(Option<tracing::Span>);

impl Span {
    pub(crate) fn new(make: impl FnOnce() -> tracing::Span) -> Self {
        Self(observe(make))
    }

    pub(crate) fn record(&self, field: &str, value: impl Value) {
        if let Some(span) = &self.0 {
            observe(|| span.record(field, value));
        }
    }

    /// Runs `tell`, which writes an event of the span.
    pub(crate) fn event(&self, tell: impl FnOnce(&tracing::Span)) {
        if let Some(span) = &self.0 {
            observe(|| tell(span));
        }
    }

    /// Makes `call`, each poll of it inside the span.
    pub(crate) async fn around<F: Future>(&self, call: F) -> F::Output {
        let mut call = pin!(call);
        poll_fn(|context| {
            let entered = self.enter();
            let polled = call.as_mut().poll(context);
            self.exit(entered);
            polled
        })
        .await
    }

    /// Enters the span; whether it must be left again.
    fn enter(&self) -> bool {
        self.with(|id, subscriber| subscriber.enter(id))
    }

    fn exit(&self, entered: bool) {
        if entered {
            self.with(|id, subscriber| subscriber.exit(id));
        }
    }

    fn with(&self, tell: impl FnOnce(&tracing::Id, &Dispatch)) -> bool {
        let Some(span) = &self.0 else { return false };
        observe(|| span.with_subscriber(|(id, subscriber)| tell(id, subscriber))).is_some()
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let span = self.0.take();
        observe(|| drop(span));
    }
}

/// A future that runs, and is dropped, without a subscriber.
pub(crate) struct Unobserved<'f, T>(Option<BoxFuture<'f, T>>);

type BoxFuture<'f, T> = Pin<Box<dyn Future<Output = T> + Send + 'f>>;

impl<'f, T> Unobserved<'f, T> {
    pub(crate) fn new(future: impl Future<Output = T> + Send + 'f) -> Self {
        Self(Some(Box::pin(future)))
    }
}

impl<T> Future for Unobserved<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match &mut self.0 {
            Some(future) => with_default(&Dispatch::none(), || future.as_mut().poll(context)),
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for Unobserved<'_, T> {
    fn drop(&mut self) {
        let future = self.0.take();
        with_default(&Dispatch::none(), || drop(future));
    }
}

/// Runs the tasks of connections on tokio, without a subscriber.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnobservedTasks;

impl<F: Future<Output: Send + 'static> + Send + 'static> Executor<F> for UnobservedTasks {
    fn execute(&self, task: F) {
        tokio::spawn(Unobserved::new(task));
    }
}
