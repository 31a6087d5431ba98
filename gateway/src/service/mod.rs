//! The use cases, independent of the transport; one file per use case.
//!
//! Nothing here depends on HTTP. A use case takes a key and a validated request and returns a
//! result or a [`ServiceError`].

mod acs;
mod approvals;
mod budgets;
mod cards;
mod chain_status;
mod delegations;
mod error;
mod evidence;
mod exchange;
mod halts;
mod measure;
mod passkeys;
mod passports;
mod preflight;
mod shadow;
mod submissions;
mod tools;
mod webhooks;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify, Semaphore};

pub(crate) use self::cards::{BudgetEffect, EarlierDecision, RequestCard, Standing};
use self::chain_status::VerifiedChains;
pub(crate) use self::chain_status::{
    ChainState, ChainStatus, DecisionSearch, LastDecision, SearchResult, VerifyScope,
};
pub(crate) use self::delegations::{new_delegation, read_delegations, revoke as revoke_delegation};
pub(crate) use self::error::ServiceError;
pub(crate) use self::evidence::ChainView;
pub(crate) use self::exchange::{ExchangeError, ExchangedToken, Exchanger};
pub(crate) use self::halts::{HaltWatch, Watched};
use self::measure::LastMeasured;
pub(crate) use self::passkeys::{Signing, read_passkeys};
pub(crate) use self::preflight::PendingPreflight;
pub(crate) use self::submissions::{Earlier, Submission};
pub(crate) use self::webhooks::WebhookQueue;
use crate::acs::Sessions;
use crate::approvals::ApprovalNotifier;
use crate::auth::{Capability, Directory, Principal};
use crate::capture::Captures;
use crate::clock::Clock;
use crate::metrics::{Metrics, StoreFailure};
use crate::passkeys::RelyingParty;
use crate::passport::SigningKeyStore;
use crate::shadow::Shadows;
use crate::store::{Author, Store, StoreError, Subject};
use crate::vault::Vault;
use crate::webhooks::Webhook;

/// Larger requests are processed on blocking threads.
const MAX_INLINE_BYTES: usize = 64 * 1024;

/// The use cases and their shared state.
#[derive(Debug)]
pub(crate) struct Service {
    /// The data store.
    pub(crate) store: Arc<dyn Store>,
    /// The issuer of passports.
    pub(crate) issuer: Arc<str>,
    /// The gateway's URL for clients: the issuer and the base path.
    pub(crate) url: Arc<str>,
    /// The site on which people sign approvals; `None` without a host name.
    pub(crate) relying_party: Option<RelyingParty>,
    /// The passport signing keys; `None` without a master key.
    pub(crate) keys: Option<Arc<SigningKeyStore>>,
    /// The vault; `None` without a master key.
    pub(crate) vault: Option<Arc<Vault>>,
    /// Time to decide an approval, in seconds.
    pub(crate) approval_seconds: i64,
    /// Whether approvals are reused for the same action.
    pub(crate) reuse_approvals: bool,
    /// Whether people may approve their own requests.
    pub(crate) allow_self_approval: bool,
    /// The people who may decide approvals.
    pub(crate) directory: Directory,
    /// Maximum number of pending approvals per agent.
    pub(crate) pending_approvals: u32,
    /// Names of the keys that may lift halts; `None` for every operator key.
    pub(crate) lift_by: Option<Vec<String>>,
    /// Retention of responses under idempotency keys, in seconds.
    pub(crate) retention_seconds: i64,
    /// Notifies requests that wait for approvals.
    pub(crate) notifier: ApprovalNotifier,
    /// The webhooks.
    pub(crate) webhooks: Vec<Webhook>,
    /// Wakes the delivery to webhooks.
    pub(crate) announced: Arc<Notify>,
    /// The clock.
    pub(crate) clock: Clock,
    /// Timeout of store operations.
    pub(crate) store_timeout: Duration,
    /// Seals captured requests; `None` without a master key.
    pub(crate) captures: Option<Arc<Captures>>,
    /// The shadow policies.
    pub(crate) shadows: Shadows,
    /// Shared in-memory state.
    pub(crate) state: Arc<SharedState>,
    /// Counters and histograms.
    pub(crate) metrics: Arc<Metrics>,
}

/// Shared in-memory state.
#[derive(Debug)]
pub(crate) struct SharedState {
    /// The last health check, locked while one is running, so that frequent checks do not burden
    /// the store.
    checked: Mutex<Option<(Instant, Result<(), StoreError>)>>,
    /// Limits concurrent large requests and verifications.
    blocking_permits: Semaphore,
    verified: VerifiedChains,
    /// Sessions of the Agent Control Standard.
    pub(crate) acs: Sessions,
    measured: LastMeasured,
}

impl Default for SharedState {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            checked: Mutex::default(),
            blocking_permits: Semaphore::new(threads),
            verified: VerifiedChains::default(),
            acs: Sessions::default(),
            measured: LastMeasured::default(),
        }
    }
}

/// Returns the first `limit` items, and the id to continue after if there are more.
fn page_of<T, I>(mut found: Vec<T>, limit: u32, id: impl FnOnce(&T) -> I) -> (Vec<T>, Option<I>) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| has_more).map(id);
    (found, next)
}

impl Service {
    /// Checks whether the gateway can decide.
    ///
    /// However many callers there are, one check runs and one waits.
    pub(crate) async fn check(&self) -> Result<(), ServiceError> {
        let asked = Instant::now();
        let check = async {
            let mut last = self.state.checked.lock().await;
            // A check that began after this call answers it.
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

    /// Returns whether the store's schema has this version.
    pub(crate) async fn is_schema_current(&self) -> Result<bool, ServiceError> {
        self.with_timeout(self.store.is_schema_current()).await
    }

    /// Runs `job` inline if the request is small, otherwise on a blocking thread.
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
        let _permit = self.state.blocking_permits.acquire().await.map_err(|_| ServiceError::Internal)?;
        tokio::task::spawn_blocking(job).await.map_err(|_| ServiceError::Internal)?
    }

    /// Applies the store timeout; a store that does not respond is unavailable.
    pub(crate) async fn with_timeout<T>(
        &self,
        asked: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, ServiceError> {
        let failure = match tokio::time::timeout(self.store_timeout, asked).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) => {
                let failure = match error {
                    StoreError::Busy => StoreFailure::Busy,
                    StoreError::HaltsChanged => return Err(error.into()),
                    StoreError::NotCanonical => StoreFailure::NotCanonical,
                    StoreError::Unavailable => StoreFailure::Unavailable,
                };
                self.metrics.store_failed(failure);
                return Err(error.into());
            }
            Err(_) => StoreFailure::Timeout,
        };
        tracing::error!("store operation timed out");
        self.metrics.store_failed(failure);
        Err(ServiceError::Unavailable)
    }

    /// Returns whether the key, or its bound agent, caused the event about `id`.
    async fn is_own(&self, key: &Principal, subject: Subject, id: &str) -> Result<bool, ServiceError> {
        let author = Author { key_name: &key.name, agent: key.bound_agent() };
        self.with_timeout(self.store.has_event(&key.tenant.id, subject, id, author)).await
    }
}

/// A principal whose role has the capability that a use case requires.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Authorized<'p>(&'p Principal);

impl<'p> Authorized<'p> {
    /// Returns the principal if its role has the capability.
    pub(crate) fn of(principal: &'p Principal, capability: Capability) -> Result<Self, ServiceError> {
        match principal.role.may(capability) {
            true => Ok(Self(principal)),
            false => Err(ServiceError::Forbidden(principal.role, capability)),
        }
    }
}
