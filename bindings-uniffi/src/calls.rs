//! Calls of a client.

use std::future::Future;

use actpass_core::{ActPass, Error, RecordedEvidence, Recording};
use tracing::dispatcher::Dispatch;
use tracing::instrument::WithSubscriber;

use crate::error::NativeError;
use crate::evidence::NativeRecorded;
use crate::runtime::{detach, wait};

/// A client of the core and the destination of its log lines. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Calls {
    pub(crate) actpass: ActPass,
    /// `none` if the client has no logger.
    pub(crate) log: Dispatch,
}

impl Calls {
    /// A call that borrows nothing from `self`.
    pub(crate) fn call<F, T>(&self, call: F) -> impl Future<Output = T> + use<F, T>
    where
        F: AsyncFnOnce(ActPass) -> T,
    {
        let actpass = self.actpass.clone();
        async move { call(actpass).await }.with_subscriber(self.log.clone())
    }

    /// Records how an action ended. It cannot be cancelled, because the action has run.
    pub(crate) async fn record(&self, recording: Recording) -> Result<NativeRecorded, NativeError> {
        Ok(NativeRecorded::from(&wait(None, self.recording(recording), Err).await?))
    }

    /// The call of [`Calls::record`].
    pub(crate) fn recording(
        &self,
        recording: Recording,
    ) -> impl Future<Output = Result<RecordedEvidence, Error>> + Send + use<> {
        self.call(async move |actpass| actpass.record(&recording).await)
    }

    /// Records that an action was stopped, without waiting. A failure does not change the stop.
    pub(crate) fn record_in_background(&self, recording: Recording) {
        drop(detach(self.call(async move |actpass| drop(actpass.record(&recording).await))));
    }
}
