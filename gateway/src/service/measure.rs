//! Measurement of the store's data for metrics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actpass_protocol::Json;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use super::{Service, ServiceError};
use crate::auth::Tenant;
use crate::budget;
use crate::metrics::{Measured, MeasuredBudget};
use crate::store::AccountUse;

/// Maximum number of accounts of budgets that are read for a tenant.
const MAX_ACCOUNTS: u32 = 1000;

/// Time after which the data are measured again.
const INTERVAL: Duration = Duration::from_secs(1);

/// Maximum time of a measurement.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The last measurement, locked while one is running, so that frequent scrapes do not burden the store.
pub(super) type LastMeasured = tokio::sync::Mutex<Option<(Instant, Option<Arc<[Measured]>>)>>;

impl Service {
    /// Measures the data of the tenants; `None` if the store is unavailable.
    pub(crate) async fn measure(&self, tenants: &[Arc<Tenant>]) -> Option<Arc<[Measured]>> {
        let mut last = self.state.measured.lock().await;
        if let Some((at, measured)) = &*last
            && at.elapsed() < INTERVAL
        {
            return measured.clone();
        }
        let all = async {
            let mut measured = Vec::with_capacity(tenants.len());
            for tenant in tenants {
                measured.push(self.measure_tenant(tenant).await?);
            }
            Ok::<_, ServiceError>(measured)
        };
        let measured = tokio::time::timeout(TIMEOUT, all).await.ok().and_then(Result::ok).map(Arc::from);
        *last = Some((Instant::now(), measured.clone()));
        measured
    }

    async fn measure_tenant(&self, tenant: &Tenant) -> Result<Measured, ServiceError> {
        let totals = self.with_timeout(self.store.totals(&tenant.id, self.clock.seconds())).await?;
        let accounts = match tenant.policy.budgets().is_empty() {
            true => Vec::new(),
            false => {
                let listed = self.store.budget_accounts(&tenant.id, self.clock.millis(), 0, MAX_ACCOUNTS);
                self.with_timeout(listed).await?
            }
        };
        let budgets = tenant.policy.budgets().iter();
        let budgets =
            budgets.map(|budget| measure_budget(budget.name(), budget.limit(), &accounts)).collect();
        Ok(Measured { tenant: Arc::clone(&tenant.id), totals, budgets })
    }
}

fn measure_budget(name: &str, limit: Decimal, accounts: &[AccountUse]) -> MeasuredBudget {
    let mut measured =
        MeasuredBudget { name: name.to_owned(), lowest_remaining: 1.0, ..MeasuredBudget::default() };
    for account in accounts.iter().filter(|account| account.account.budget == name) {
        let remaining = budget::remaining(limit, account.used);
        match remaining.is_zero() {
            true => measured.exhausted += 1,
            false => measured.open += 1,
        }
        let share = remaining.checked_div(limit).and_then(|share| share.to_f64()).unwrap_or(0.0);
        measured.lowest_remaining = measured.lowest_remaining.min(share);
    }
    measured
}

/// Returns the budgets in the explanation of a response.
pub(super) fn explained_budgets(explain: &Json) -> impl Iterator<Item = &str> {
    let budgets = match explain.member("budgets") {
        Some(Json::Array(budgets)) => budgets.as_slice(),
        Some(_) | None => &[],
    };
    budgets.iter().filter_map(|budget| budget.member("name").and_then(Json::as_str))
}
