//! Requests for reloads of the settings, and reports of them.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::auth::{ApiKey, Tenant};
use crate::policy::Policy;
use crate::service::ServiceError;

/// Maximum number of waiting requests.
const QUEUE: usize = 64;

/// Cause of a reload.
#[derive(Clone, Debug)]
pub(crate) enum Trigger {
    Operator(Arc<str>, Arc<str>),
    Signal,
    Watch,
}

impl Trigger {
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            Self::Operator(..) => "operator",
            Self::Signal => "signal",
            Self::Watch => "watch",
        }
    }

    /// Returns the operator's key name in events of its tenant.
    pub(crate) fn operator(&self, tenant_id: &str) -> Option<&Arc<str>> {
        match self {
            Self::Operator(tenant, name) if **tenant == *tenant_id => Some(name),
            Self::Operator(..) | Self::Signal | Self::Watch => None,
        }
    }
}

/// The settings that were loaded, as far as a reload reports them.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) tenants: Vec<Arc<Tenant>>,
    /// The SHA-256 of the settings.
    pub(crate) hash: String,
    /// When the first certificate of the TLS chain expires, in seconds since 1970; `None` without TLS.
    pub(crate) certificate_expires_at: Option<i64>,
}

impl Loaded {
    /// Returns the policy of a tenant.
    pub(crate) fn policy(&self, tenant_id: &str) -> Option<&Policy> {
        self.tenants.iter().find(|tenant| &*tenant.id == tenant_id).map(|tenant| &tenant.policy)
    }
}

/// The settings before and after a reload.
pub(crate) type Change = [Arc<Loaded>; 2];

#[derive(Debug)]
pub(crate) struct ReloadRequest {
    pub(crate) trigger: Trigger,
    pub(crate) reply: Option<oneshot::Sender<Result<Change, ServiceError>>>,
}

/// Reloads since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReloadReport {
    pub(crate) succeeded: u64,
    pub(crate) refused: u64,
    /// When the last reload succeeded, in seconds since 1970; `None` before the first success.
    pub(crate) succeeded_at: Option<i64>,
    /// When the last reload was refused, in seconds since 1970; `None` if it succeeded.
    pub(crate) refused_at: Option<i64>,
}

/// Requests reloads. A clone is for the same gateway.
#[derive(Clone, Debug)]
pub(crate) struct Reloads {
    /// `None` without a file of settings.
    requests: Option<mpsc::Sender<ReloadRequest>>,
    report: Arc<Mutex<ReloadReport>>,
}

/// The hashes of the settings and of a tenant's policy.
#[derive(Clone, Debug)]
pub(crate) struct Hashes {
    pub(crate) settings: String,
    pub(crate) policy: Option<String>,
}

impl Reloads {
    /// Returns the receiver of the requests if there is a file of settings.
    pub(crate) fn new(has_file: bool) -> (Self, Option<mpsc::Receiver<ReloadRequest>>) {
        let (requests, queue) = has_file.then(|| mpsc::channel(QUEUE)).unzip();
        (Self { requests, report: Arc::default() }, queue)
    }

    pub(crate) fn report(&self) -> ReloadReport {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a reload; `now` is in seconds since 1970.
    pub(crate) fn count(&self, succeeded: bool, now: i64) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        match succeeded {
            true => {
                report.succeeded += 1;
                report.succeeded_at = Some(now);
                report.refused_at = None;
            }
            false => {
                report.refused += 1;
                report.refused_at = Some(now);
            }
        }
    }

    /// Requests a reload without waiting for it.
    pub(crate) fn by_signal(&self) {
        let Some(requests) = &self.requests else {
            tracing::warn!("SIGHUP ignored: this gateway was started without a file of settings");
            return;
        };
        // A full queue contains a request that begins later than this one.
        let _ = requests.try_send(ReloadRequest { trigger: Trigger::Signal, reply: None });
    }

    /// Reloads the settings for an operator. Returns the hashes before and after.
    pub(crate) async fn by_operator(&self, key: &ApiKey) -> Result<[Hashes; 2], ServiceError> {
        let tenant_id = &key.tenant.id;
        let Some(requests) = &self.requests else {
            let problem = "this gateway was started without a file of settings";
            return Err(ServiceError::ReloadRefused(problem.to_owned()));
        };
        let (reply, replied) = oneshot::channel();
        let trigger = Trigger::Operator(Arc::clone(tenant_id), Arc::clone(&key.name));
        let request = ReloadRequest { trigger, reply: Some(reply) };
        requests.send(request).await.map_err(|_| ServiceError::Unavailable)?;
        let change = replied.await.map_err(|_| ServiceError::Unavailable)??;
        Ok(change.map(|loaded| Hashes {
            settings: loaded.hash.clone(),
            policy: loaded.policy(tenant_id).map(|policy| policy.hash().to_owned()),
        }))
    }
}
