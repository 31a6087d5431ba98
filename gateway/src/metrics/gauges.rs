//! The values of one scrape.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{PREFIX, float, process};
use crate::halts::{ActiveHalts, Scope};
use crate::store::{AGES, TenantTotals};

type Value = Gauge<f64, AtomicU64>;
type Labels<const N: usize> = [(&'static str, Arc<str>); N];

/// The data of a tenant.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) tenant: Arc<str>,
    pub(crate) totals: TenantTotals,
    pub(crate) budgets: Vec<MeasuredBudget>,
}

/// The accounts of a budget.
#[derive(Clone, Debug, Default)]
pub(crate) struct MeasuredBudget {
    pub(crate) name: String,
    /// Accounts with room.
    pub(crate) open: u64,
    /// Accounts without room.
    pub(crate) exhausted: u64,
    /// The lowest remaining share of an account, from 0 to 1.
    pub(crate) lowest_remaining: f64,
}

/// Reloads since the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReloadCounts {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    /// When the last one succeeded, in seconds since 1970.
    pub(crate) succeeded_at: Option<i64>,
    /// Whether the last one failed.
    pub(crate) has_last_failed: bool,
}

/// The values of one scrape.
#[derive(Debug, Default)]
pub(crate) struct Gauges(Registry);

impl Gauges {
    pub(super) fn registry(&self) -> &Registry {
        &self.0
    }

    fn own(&mut self) -> &mut Registry {
        self.0.sub_registry_with_prefix(PREFIX)
    }

    fn one(&mut self, name: &str, help: &str, value: f64) {
        let gauge = Value::default();
        gauge.set(value);
        self.own().register(name, help, gauge);
    }

    fn family<const N: usize>(&mut self, name: &str, help: &str, values: Vec<(Labels<N>, f64)>)
    where
        Labels<N>: EncodeLabelSet,
    {
        let family = Family::<Labels<N>, Value>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        self.own().register(name, help, family);
    }

    /// Adds the metrics of the process.
    pub(crate) fn process(&mut self) {
        process::register(&mut self.0);
    }

    /// Adds whether the gateway drains, and the write queue.
    pub(crate) fn state(&mut self, is_draining: bool, [queued, capacity]: [usize; 2]) {
        let number = |number: usize| float(u64::try_from(number).unwrap_or(u64::MAX));
        self.one("draining", "1 while the gateway stops, else 0", f64::from(u8::from(is_draining)));
        self.one("write_queue_jobs", "Writes that wait for the writer", number(queued));
        self.one("write_queue_capacity", "Writes that may wait for the writer", number(capacity));
    }

    /// Adds the decisions in progress and their limit.
    pub(crate) fn admission(&mut self, [in_progress, limit]: [f64; 2]) {
        self.one("decisions_in_progress", "Decisions in progress", in_progress);
        self.one("decisions_limit", "Decisions that may be in progress now", limit);
    }

    /// Adds the remembered DPoP proofs and their limit.
    pub(crate) fn dpop_proofs(&mut self, [remembered, limit]: [usize; 2]) {
        let number = |number: usize| float(u64::try_from(number).unwrap_or(u64::MAX));
        self.one("dpop_proofs_remembered", "DPoP proofs that are not accepted again", number(remembered));
        self.one("dpop_proofs_limit", "DPoP proofs that may be remembered", number(limit));
    }

    /// Adds the dropped lines of the access log.
    pub(crate) fn access_log(&mut self, dropped: u64) {
        let counter = Counter::<u64>::default();
        counter.inc_by(dropped);
        self.own().register("access_log_dropped_lines", "Lines that the access log dropped", counter);
    }

    /// Adds the reloads. `started` is when the settings were loaded first, in seconds since 1970.
    pub(crate) fn reloads(&mut self, report: ReloadCounts, started: f64) {
        let reloads = Family::<Labels<1>, Counter>::default();
        for (result, count) in [("ok", report.succeeded), ("failed", report.failed)] {
            reloads.get_or_create(&[("result", result.into())]).inc_by(count);
        }
        self.own().register("reloads", "Reloads of the settings", reloads);
        let succeeded = report.succeeded_at.map_or(started, seconds);
        let help = "When the settings in force were loaded, since 1970";
        self.one("reload_last_success_timestamp_seconds", help, succeeded);
        let failed = f64::from(u8::from(report.has_last_failed));
        let help = "1 if the last reload failed and the previous settings are in force, else 0";
        self.one("reload_last_failed", help, failed);
    }

    /// Adds when keys expire: tenant, name, and time in seconds since 1970.
    pub(crate) fn keys(&mut self, keys: impl Iterator<Item = (Arc<str>, Arc<str>, i64)>) {
        let values = keys.map(|(tenant, key, at)| ([("tenant", tenant), ("key", key)], seconds(at)));
        let help = "When an API key expires, since 1970; only keys that expire";
        self.family("key_expiry_timestamp_seconds", help, values.collect());
    }

    /// Adds when the TLS certificate expires, in seconds since 1970.
    pub(crate) fn certificate(&mut self, expires_at: Option<i64>) {
        if let Some(expires_at) = expires_at {
            let help = "When the first certificate of the TLS chain expires, since 1970";
            self.one("certificate_expiry_timestamp_seconds", help, seconds(expires_at));
        }
    }

    /// Adds the halts in force.
    pub(crate) fn halts<'t>(
        &mut self,
        active: &ActiveHalts,
        tenants: impl Iterator<Item = &'t Arc<str>> + Clone,
    ) {
        let count = |tenant: Option<&str>, scope: Scope| {
            let halts = active.halts.iter();
            let found = halts.filter(|halt| halt.tenant_id.as_deref() == tenant && halt.scope == scope);
            float(u64::try_from(found.count()).unwrap_or(u64::MAX))
        };
        let scopes = Scope::ALL.into_iter().filter(|scope| *scope != Scope::All);
        let values = tenants.flat_map(|tenant| {
            scopes.clone().map(move |scope| {
                let labels = [("tenant", Arc::clone(tenant)), ("scope", scope.as_str().into())];
                (labels, count(Some(&**tenant), scope))
            })
        });
        let values = values.collect();
        self.family("halts", "Halts in force", values);
        self.one("halts_of_all_tenants", "Halts in force that stop every tenant", count(None, Scope::All));
    }

    /// Adds whether the store answered, and the data of the tenants if it did. `now` is in seconds since
    /// 1970.
    pub(crate) fn store(&mut self, measured: Option<&[Measured]>, now: i64) {
        let is_up = f64::from(u8::from(measured.is_some()));
        self.one("store_up", "1 if the store answered this scrape, else 0", is_up);
        let Some(measured) = measured else { return };
        let each = |value: fn(&TenantTotals) -> u64| {
            let of = |one: &Measured| ([("tenant", Arc::clone(&one.tenant))], float(value(&one.totals)));
            measured.iter().map(of).collect()
        };
        self.family("ledger_events", "Events in the ledger", each(|totals| totals.events));
        self.family("ledger_chains", "Chains of the ledger", each(|totals| totals.chains));

        let (mut pending, mut oldest) = (Vec::new(), Vec::new());
        let (mut waiting, mut attempts, mut dead) = (Vec::new(), Vec::new(), Vec::new());
        let (mut accounts, mut lowest) = (Vec::new(), Vec::new());
        for Measured { tenant, totals, budgets } in measured {
            let label = |name, value: &str| [("tenant", Arc::clone(tenant)), (name, value.into())];
            for (age, count) in AGES.into_iter().zip(totals.pending) {
                pending.push((label("age", age), float(count)));
            }
            let age = totals.oldest_pending.map_or(0.0, |opened| seconds(now.saturating_sub(opened)));
            oldest.push(([("tenant", Arc::clone(tenant))], age));
            for webhook in &totals.webhooks {
                waiting.push((label("webhook", &webhook.webhook), float(webhook.waiting)));
                attempts.push((label("webhook", &webhook.webhook), float(webhook.attempts)));
                dead.push((label("webhook", &webhook.webhook), float(webhook.dead)));
            }
            for budget in budgets {
                for (state, count) in [("open", budget.open), ("exhausted", budget.exhausted)] {
                    let [tenant, name] = label("budget", &budget.name);
                    accounts.push(([tenant, name, ("state", state.into())], float(count)));
                }
                lowest.push((label("budget", &budget.name), budget.lowest_remaining));
            }
        }
        self.family("approvals_pending", "Approvals that wait for people, by age", pending);
        let help = "Age of the oldest approval that waits for people; 0 without one";
        self.family("approval_oldest_pending_seconds", help, oldest);
        self.family("webhook_waiting_events", "Events that a webhook has not received", waiting);
        let help = "Failed attempts of the next message of a webhook";
        self.family("webhook_failed_attempts", help, attempts);
        self.family("webhook_dead_letters", "Messages of a webhook that were set aside", dead);
        let help = "Accounts of a budget, of the tenant's first 1000";
        self.family("budget_accounts", help, accounts);
        let help = "The lowest remaining share of an account of a budget, 0 to 1";
        self.family("budget_lowest_remaining_ratio", help, lowest);
    }
}

fn seconds(time: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "times stay far below 2^53 seconds")]
    let seconds = time as f64;
    seconds
}
