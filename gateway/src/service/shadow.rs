//! The use case of shadow policies: listing their disagreements.

use super::{Authorized, Service, ServiceError, page_of};
use crate::store::{Kept, KeptKind, KeptPage};

impl Service {
    /// Returns a page of disagreements before the one with the id `before`, newest first, and the id
    /// to continue before if there are more.
    pub(crate) async fn shadow_disagreements(
        &self,
        Authorized(key): Authorized<'_>,
        before: i64,
        limit: u32,
    ) -> Result<(Vec<Kept>, Option<i64>), ServiceError> {
        let (now, kind) = (self.clock.millis(), KeptKind::Shadow);
        let page = KeptPage { kind, from: before, newest: true, now, limit: limit.saturating_add(1) };
        let found = self.with_timeout(self.store.kept(&key.tenant.id, page)).await?;
        Ok(page_of(found, limit, |kept| kept.id))
    }
}
