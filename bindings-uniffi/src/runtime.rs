//! The one door to the core: one background thread makes the calls of the whole process. A call ends at once when its task is
//! cancelled or what waits for it is dropped, and a panic in it is an error like any other.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use actpass_core::Error;
use actpass_session::BackgroundRuntime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::NativeError;

/// Tells a call that its task was cancelled. Swift needs it; in Kotlin the call is dropped.
#[derive(uniffi::Object)]
pub(crate) struct NativeCancel(watch::Sender<bool>);

#[uniffi::export]
impl NativeCancel {
    /// Not cancelled.
    #[uniffi::constructor]
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(false)))
    }

    /// Ends the calls that were given this, also those that are made later.
    pub(crate) fn cancel(&self) {
        self.0.send_replace(true);
    }
}

impl NativeCancel {
    async fn cancelled(&self) {
        // It fails only where the sender is gone, and it is ours.
        let _ = self.0.subscribe().wait_for(|cancelled| *cancelled).await;
    }
}

/// Makes `call` on the background thread and waits for it.
///
/// `lost` is its end where it has none of its own: there is no thread, or it panicked.
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

/// Makes `call` on the background thread, and waits for nothing.
pub(crate) fn detach(call: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
    BackgroundRuntime::current().map(|background| drop(background.spawn(call)))
}

/// Runs a conversion; a panic in it is an error like any other.
pub(crate) fn catch_panic<T>(body: impl FnOnce() -> Result<T, NativeError>) -> Result<T, NativeError> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_panic| Err(Error::panicked().into()))
}

/// A task that ends when nobody waits for it any more.
struct Aborting<T>(JoinHandle<T>);

impl<T> Drop for Aborting<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
