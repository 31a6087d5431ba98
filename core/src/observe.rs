//! Access to the program's `tracing` subscriber. A subscriber that panics does not affect a call.
//!
//! The panic is caught here; the panic hook has already reported it, by default on standard error.
//! The transport's dependencies call the same subscriber without this protection, so they run
//! without a subscriber ([`without_subscriber`]).

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tracing::Value;
use tracing::dispatcher::{Dispatch, with_default};

/// Runs `tell`, which calls the subscriber; `None` if it panicked.
pub(crate) fn ignore_panic<R>(tell: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(tell)).ok()
}

/// A span of the subscriber; empty if the subscriber panicked.
pub(crate) struct Span(Option<tracing::Span>);

impl Span {
    pub(crate) fn new(make: impl FnOnce() -> tracing::Span) -> Self {
        Self(ignore_panic(make))
    }

    pub(crate) fn record(&self, field: &str, value: impl Value) {
        if let Some(span) = &self.0 {
            ignore_panic(|| span.record(field, value));
        }
    }

    /// Runs `tell`, which emits an event in the span.
    pub(crate) fn event(&self, tell: impl FnOnce(&tracing::Span)) {
        if let Some(span) = &self.0 {
            ignore_panic(|| tell(span));
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let span = self.0.take();
        ignore_panic(|| drop(span));
    }
}

/// Polls and drops `future` without a subscriber.
pub(crate) async fn without_subscriber<F: Future>(future: F) -> F::Output {
    let mut future = pin!(Some(future));
    WithoutSubscriber(future.as_mut()).await
}

struct WithoutSubscriber<'f, F>(Pin<&'f mut Option<F>>);

impl<F: Future> Future for WithoutSubscriber<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        match self.0.as_mut().as_pin_mut() {
            Some(future) => with_default(&Dispatch::none(), || future.poll(context)),
            None => Poll::Pending,
        }
    }
}

impl<F> Drop for WithoutSubscriber<'_, F> {
    fn drop(&mut self) {
        with_default(&Dispatch::none(), || self.0.set(None));
    }
}
