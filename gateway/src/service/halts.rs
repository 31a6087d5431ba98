//! Use cases for halts: start, lift, list, watch, acknowledge.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Authorized, Service, ServiceError, page_of};
use crate::auth::{ApiKey, Capability, Principal, Role};
use crate::events;
use crate::halts::{Acknowledged, Acknowledgement, Halt, HaltSubject, Scope};
use crate::request::{Acknowledge, InvalidMember, StartHalt};
use crate::store::{Change, HaltChange, HaltListing, HaltOutcome, StoreError, Transition};

/// Maximum number of attempts while the halts change.
const MAX_ATTEMPTS: usize = 8;

const NOT_FOUND: ServiceError = ServiceError::NotFound("halt");

/// A client's question whether it is stopped.
#[derive(Clone, Debug, Default)]
pub(crate) struct HaltWatch {
    /// The last epoch that the client has seen.
    pub(crate) after: u64,
    pub(crate) agent_id: Option<String>,
    pub(crate) tool: Option<String>,
    pub(crate) user_id: Option<String>,
}

/// The answer to a [`HaltWatch`].
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) epoch: u64,
    pub(crate) halt: Option<Arc<Halt>>,
}

impl Service {
    /// Records something unless a halt stops one of `subjects`. `record` is called with the epoch that its
    /// transaction must find, and again if the halts have changed. Returns the epoch.
    pub(super) async fn unless_halted<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        subjects: &[HaltSubject<'_>],
        record: impl Fn(u64) -> F,
    ) -> Result<(T, u64), ServiceError> {
        let mut halts = self.store.known_halts().latest();
        for _ in 0..MAX_ATTEMPTS {
            match subjects.iter().find_map(|subject| halts.stopping(subject)) {
                None => match self.with_timeout(record(halts.epoch)).await {
                    Err(ServiceError::HaltsChanged) => {}
                    recorded => return Ok((recorded?, halts.epoch)),
                },
                Some(halt) => {
                    let halt = Arc::clone(halt);
                    // It may have been lifted through another gateway.
                    if self.with_timeout(self.store.halts()).await?.epoch == halts.epoch {
                        return Err(ServiceError::Halted(halt, halts.epoch));
                    }
                }
            }
            halts = self.store.known_halts().latest();
        }
        Err(ServiceError::Busy)
    }

    /// Starts a halt. Returns it and whether it is new: a repetition by the same key returns the
    /// active halt.
    pub(crate) async fn start_halt(
        &self,
        key: &Principal,
        request: StartHalt,
    ) -> Result<(Arc<Halt>, bool), ServiceError> {
        let StartHalt { scope, target, reason } = request;
        match (scope, key.role) {
            // An agent's emergency stop.
            (Scope::Agent, Role::Agent) if target.is_some() && target.as_deref() == key.bound_agent() => {}
            _ => {
                Authorized::of(key, Capability::Halt)?;
            }
        }
        let tenant_id = match scope {
            Scope::All if !key.halt_all => {
                return Err(ServiceError::NotGranted(
                    "scope: this key is not permitted to stop every tenant; its settings lack halt_all = true"
                        .to_owned(),
                ));
            }
            Scope::All => None,
            Scope::Agent | Scope::Tenant | Scope::Tool | Scope::User => Some(Arc::clone(&key.tenant.id)),
        };
        let halt = Halt::new(tenant_id, scope, target, reason, &key.name);
        match self.change_halts(HaltChange::Start(Box::new(halt))).await? {
            HaltOutcome::Changed(halt) => Ok((halt, true)),
            HaltOutcome::Repeated(halt) => Ok((halt, false)),
            HaltOutcome::NotActive => Err(ServiceError::Internal),
            HaltOutcome::TooMany => Err(ServiceError::TooManyHalts),
        }
    }

    /// Lifts a halt and returns it.
    pub(crate) async fn lift_halt(
        &self,
        Authorized(key): Authorized<'_>,
        id: &str,
        reason: String,
    ) -> Result<Arc<Halt>, ServiceError> {
        let halt = self.with_timeout(self.store.halt(id)).await?;
        let is_visible = |halt: &Halt| halt.tenant_id.as_ref().is_none_or(|tenant| *tenant == key.tenant.id);
        let halt = halt.filter(is_visible).ok_or(NOT_FOUND)?;
        if halt.tenant_id.is_none() && !key.halt_all {
            return Err(ServiceError::NotGranted(
                "this key is not permitted to lift a halt of every tenant; its settings lack halt_all = true"
                    .to_owned(),
            ));
        }
        if self.lift_by.as_ref().is_some_and(|names| !names.iter().any(|name| **name == *key.name)) {
            return Err(ServiceError::NotGranted(
                "this key is not permitted to lift halts; the settings name other keys in halts.lift_by"
                    .to_owned(),
            ));
        }
        let lift = HaltChange::Lift { id: halt.id, by: key.name.to_string(), reason };
        match self.change_halts(lift).await? {
            HaltOutcome::Changed(halt) => Ok(halt),
            HaltOutcome::NotActive => Err(ServiceError::NotActive),
            HaltOutcome::Repeated(_) | HaltOutcome::TooMany => Err(ServiceError::Internal),
        }
    }

    async fn change_halts(&self, change: HaltChange) -> Result<HaltOutcome, ServiceError> {
        let outcome = self.with_timeout(self.store.change_halts(change)).await?;
        if matches!(outcome, HaltOutcome::Changed(_)) {
            self.announced.notify_waiters();
        }
        Ok(outcome)
    }

    /// Returns the active halts of the key's tenant, after a read.
    pub(crate) async fn active_halts(&self, key: &Principal) -> Result<Vec<Arc<Halt>>, ServiceError> {
        let halts = self.with_timeout(self.store.halts()).await?;
        let is_of_tenant = |halt: &&Arc<Halt>| halt.tenant_id.as_ref().is_none_or(|id| *id == key.tenant.id);
        Ok(halts.halts.iter().filter(is_of_tenant).cloned().collect())
    }

    /// Returns the epoch, a page of halts of the key's tenant, and the start of the next page.
    pub(crate) async fn list_halts(
        &self,
        Authorized(key): Authorized<'_>,
        mut listing: HaltListing,
    ) -> Result<(u64, Vec<Halt>, Option<u64>), ServiceError> {
        let limit = listing.limit;
        listing.limit = limit.saturating_add(1);
        listing.tenant_id = Some(key.tenant.id.to_string());
        let epoch = self.with_timeout(self.store.halts()).await?.epoch;
        let found = self.with_timeout(self.store.list_halts(listing)).await?;
        let (found, next) = page_of(found, limit, |halt| halt.epoch);
        Ok((epoch, found, next))
    }

    /// Returns a page of lifted halts of the key's tenant that started before an epoch, newest first, and
    /// the start of the next page.
    pub(crate) async fn lifted_halts(
        &self,
        Authorized(key): Authorized<'_>,
        before: Option<u64>,
        limit: u32,
    ) -> Result<(Vec<Halt>, Option<u64>), ServiceError> {
        let before = before.unwrap_or(u64::MAX);
        let page = self.store.lifted_halts(&key.tenant.id, before, limit.saturating_add(1));
        Ok(page_of(self.with_timeout(page).await?, limit, |halt| halt.epoch))
    }

    /// Returns a page of acknowledgements of the key's tenant, newest first, and the start of the
    /// next page.
    pub(crate) async fn acknowledged_halts(
        &self,
        Authorized(key): Authorized<'_>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<(Vec<Acknowledged>, Option<i64>), ServiceError> {
        let before = before.unwrap_or(i64::MAX);
        let page = self.store.acknowledged_halts(&key.tenant.id, before, limit.saturating_add(1));
        Ok(page_of(self.with_timeout(page).await?, limit, |acknowledged| acknowledged.id))
    }

    /// Returns as soon as the epoch is newer than the client's, or at `until`.
    pub(crate) async fn watch_halts(
        &self,
        key: &Principal,
        watch: &HaltWatch,
        until: Instant,
    ) -> Result<Watched, ServiceError> {
        let mut known = self.store.known_halts().subscribe();
        let mut listener = self.notifier.listen();
        // Another gateway may have changed them.
        self.with_timeout(self.store.halts()).await?;
        let halts = loop {
            let halts = Arc::clone(&known.borrow_and_update());
            if halts.epoch > watch.after || Instant::now() >= until {
                break halts;
            }
            tokio::select! {
                Ok(()) = known.changed() => {}
                () = tokio::time::sleep_until(until) => {}
                () = listener.stopped() => break halts,
            }
        };
        let tools: Vec<_> = watch.tool.iter().map(String::as_str).collect();
        let subject = HaltSubject {
            tenant_id: &key.tenant.id,
            agent_id: key.bound_agent().or(watch.agent_id.as_deref()),
            tools: &tools,
            user_id: watch.user_id.as_deref(),
        };
        Ok(Watched { epoch: halts.epoch, halt: halts.stopping(&subject).cloned() })
    }

    /// Records that a client has seen an epoch, once, and returns the current epoch.
    pub(crate) async fn acknowledge_halts(
        &self,
        key: &ApiKey,
        request: Acknowledge,
    ) -> Result<u64, ServiceError> {
        let Acknowledge { epoch, in_flight, agent_id, instance } = request;
        let current = self.with_timeout(self.store.halts()).await?.epoch;
        if epoch > current {
            let problem = format!("expected an integer of 1 to {current}, the current epoch");
            return Err(InvalidMember { member: "epoch".to_owned(), problem }.into());
        }
        let agent_id = key.bound_agent().map(str::to_owned).or(agent_id).unwrap_or_default();
        let acknowledgement = Acknowledgement {
            tenant_id: Arc::clone(&key.tenant.id),
            key_name: Arc::clone(&key.name),
            agent_id,
            instance: instance.unwrap_or_default(),
            epoch,
            in_flight,
        };
        let event = events::halt_acknowledged(key, &acknowledgement);
        let change = Change::Acknowledge(Box::new(acknowledgement));
        // A repetition is not recorded again.
        self.with_timeout(self.store.change(Transition { event, change })).await?;
        Ok(current)
    }
}
