//! The use case of budgets: listing their accounts.

use super::{Authorized, Service, ServiceError};
use crate::store::AccountUse;

impl Service {
    /// Returns a page of the accounts of the tenant, and the id to continue after if there are more.
    pub(crate) async fn budget_accounts(
        &self,
        Authorized(key): Authorized<'_>,
        after: i64,
        limit: u32,
    ) -> Result<(Vec<AccountUse>, Option<i64>), ServiceError> {
        let page = self.store.budget_accounts(&key.tenant.id, self.clock.millis(), after, limit + 1);
        let mut accounts = self.with_timeout(page).await?;
        let has_more = accounts.len() > usize::try_from(limit).unwrap_or(usize::MAX);
        accounts.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let next = accounts.last().map(|account| account.id).filter(|_| has_more);
        Ok((accounts, next))
    }
}
