//! The bridge to the core. One background thread makes the calls of the process. A call is aborted
//! when its task is cancelled or its future is dropped, and a panic in it becomes an error.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use actpass_core::Error;
use actpass_session::BackgroundRuntime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::NativeError;

/// Signals that the task of a call was cancelled. Used by Swift; in Kotlin the future is dropped.
#[derive(uniffi::Object)]
pub(crate) struct NativeCancel(watch::Sender<bool>);

#[uniffi::export]
impl NativeCancel {
    /// Creates a signal.
    #[uniffi::constructor]
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(false)))
    }

    /// Cancels current and later calls that use this signal.
    pub(crate) fn cancel(&self) {
        self.0.send_replace(true);
    }
}

impl NativeCancel {
    async fn cancelled(&self) {
        // Fails only if the sender is gone, and `self` holds it.
        let _ = self.0.subscribe().wait_for(|cancelled| *cancelled).await;
    }
}

/// Runs `call` on the background thread and waits for it.
///
/// `lost` produces the result if there is no thread or the call panicked.
pub(crate) async fn wait<T: Send + 'static>(
    cancel: Option<Arc<NativeCancel>>,
    call: impl Future<Output = Result<T, Error>> + Send + 'static,
    lost: impl FnOnce(Error) -> Result<T, Error>,
) -> Result<T, NativeError> {
    let mut task = match BackgroundRuntime::current() {
        Ok(background) => Aborting(background.spawn(call)),
        Err(error) => return Ok(lost(error)?),
    };
    let ended = match cancel {
        None => (&mut task.0).await,
        Some(cancel) => tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(NativeError::Cancelled),
            ended = &mut task.0 => ended,
        },
    };
    Ok(ended.unwrap_or_else(|_panic| lost(Error::panicked()))?)
}

/// Runs `call` on the background thread without waiting.
pub(crate) fn detach(call: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
    BackgroundRuntime::current().map(|background| drop(background.spawn(call)))
}

/// Runs a conversion. A panic in it becomes an error.
pub(crate) fn catch_panic<T>(body: impl FnOnce() -> Result<T, NativeError>) -> Result<T, NativeError> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_panic| Err(Error::panicked().into()))
}

/// A task that is aborted on drop.
struct Aborting<T>(JoinHandle<T>);

impl<T> Drop for Aborting<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
