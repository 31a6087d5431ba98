//! The use case of budgets: listing their accounts.

use super::{Authorized, Service, ServiceError, page_of};
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
        Ok(page_of(self.with_timeout(page).await?, limit, |account| account.id))
    }
}
