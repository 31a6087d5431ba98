//! What the gateway does for those who call it, whatever they call it with: a file a use case.
//!
//! Nothing here knows of HTTP. A use case takes a key and a request that was checked, and gives what happened, or a
//! [`ServiceError`].

mod approvals;
mod chain_status;
mod error;
mod evidence;
mod passports;
mod preflight;
mod tools;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Semaphore};

use self::chain_status::VerifiedChains;
pub(crate) use self::chain_status::{ChainState, ChainStatus, LastDecision, VerifyScope};
pub(crate) use self::error::ServiceError;
pub(crate) use self::evidence::ChainView;
pub(crate) use self::preflight::PendingPreflight;
use crate::approvals::ApprovalNotifier;
use crate::auth::{ApiKey, Role};
use crate::clock::Clock;
use crate::passport::SigningKeyStore;
use crate::store::{Author, Store, StoreError, Subject};
use crate::vault::Vault;

/// Requests above this many bytes are worked on beside the threads that serve connections.
const MAX_INLINE_BYTES: usize = 64 * 1024;

/// The use cases, and what they share.
#[derive(Debug)]
pub(crate) struct Service {
    /// Where events go.
    pub(crate) store: Arc<dyn Store>,
    /// Who issues passports.
    pub(crate) issuer: Arc<str>,
    /// What signs them; `None` without a master key.
    pub(crate) keys: Option<SigningKeyStore>,
    /// What opens the tools' credentials; `None` without a master key.
    pub(crate) vault: Option<Vault>,
    /// For how many seconds an approval may be decided.
    pub(crate) approval_seconds: i64,
    /// Whether approvals are found by their action.
    pub(crate) reuse_approvals: bool,
    /// How many approval requests of one key may be pending.
    pub(crate) pending_approvals: u32,
    /// For how many seconds an answer is kept under its idempotency key.
    pub(crate) retention_seconds: i64,
    /// Who waits for an approval.
    pub(crate) notifier: ApprovalNotifier,
    /// What time it is.
    pub(crate) clock: Clock,
    /// How long the store may take to record an event.
    pub(crate) store_timeout: Duration,
    /// What the use cases keep in memory.
    pub(crate) state: SharedState,
}

/// What the use cases keep in memory.
#[derive(Debug)]
pub(crate) struct SharedState {
    /// The last check of the store, held while it is under way: asking often must not keep the store from its work.
    checked: Mutex<Option<(Instant, Result<(), StoreError>)>>,
    /// How many large requests and verifications are worked on at once.
    run_blocking: Semaphore,
    verified: VerifiedChains,
}

impl Default for SharedState {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            checked: Mutex::default(),
            run_blocking: Semaphore::new(threads),
            verified: VerifiedChains::default(),
        }
    }
}

impl Service {
    /// Whether the gateway can decide now.
    ///
    /// However many ask, one check is under way and one waits.
    pub(crate) async fn check(&self) -> Result<(), ServiceError> {
        let asked = Instant::now();
        let check = async {
            let mut last = self.state.checked.lock().await;
            // What was begun after this was asked answers it.
            if let Some((begun, found)) = *last
                && begun >= asked
            {
                return found;
            }
            let begun = Instant::now();
            let found = self.store.check().await;
            *last = Some((begun, found));
            found
        };
        self.with_timeout(check).await
    }

    /// Does `job` here if the request has few `bytes`, or else where it holds up no connection.
    pub(crate) async fn run<T: Send + 'static, E: From<ServiceError> + Send + 'static>(
        &self,
        bytes: usize,
        job: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        match bytes > MAX_INLINE_BYTES {
            true => self.run_blocking(job).await,
            false => job(),
        }
    }

    async fn run_blocking<T: Send + 'static, E: From<ServiceError> + Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let _permit = self.state.run_blocking.acquire().await.map_err(|_| ServiceError::Internal)?;
        tokio::task::spawn_blocking(job).await.map_err(|_| ServiceError::Internal)?
    }

    /// A store that does not answer is one that does not work.
    pub(crate) async fn with_timeout<T>(
        &self,
        asked: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, ServiceError> {
        match tokio::time::timeout(self.store_timeout, asked).await {
            Ok(response) => Ok(response?),
            Err(_) => {
                tracing::error!("the store did not answer in time");
                Err(ServiceError::Unavailable)
            }
        }
    }

    /// Whether the key, or whoever acted for the agent that it is bound to, caused the event about `id`.
    async fn is_own(&self, key: &ApiKey, subject: Subject, id: &str) -> Result<bool, ServiceError> {
        let author = Author { key_name: &key.name, agent: key.bound_agent() };
        self.with_timeout(self.store.caused(&key.tenant.id, subject, id, author)).await
    }
}

/// A key that may do what a person must decide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OperatorKey<'k>(&'k ApiKey);

impl<'k> OperatorKey<'k> {
    /// The key, if it is an operator's.
    pub(crate) fn of(key: &'k ApiKey) -> Result<Self, ServiceError> {
        match key.role {
            Role::Agent => Err(ServiceError::OperatorsOnly),
            Role::Operator => Ok(Self(key)),
        }
    }
}
