//! Use cases of access requests: the bodies that idempotency keys are bound to.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{Authorized, Service, ServiceError};
use crate::auth::Principal;
use crate::store::{KeptChange, KeptKind, NewKept};

/// Retention after the deadline of the approval, in seconds. A task has a terminal status at its
/// deadline at the latest.
const RETENTION: i64 = 24 * 60 * 60;

/// A submission under an idempotency key.
#[derive(Clone, Debug)]
pub(crate) struct Submission {
    /// The idempotency key.
    pub(crate) name: String,
    /// The hash of the body.
    pub(crate) fingerprint: [u8; 32],
}

/// The submission that was recorded under an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Earlier {
    /// It has another body.
    Other,
    /// It has the same body.
    Same,
}

impl Service {
    /// Returns the submission that was recorded under the idempotency key of this API key.
    pub(crate) async fn find_submission(
        &self,
        Authorized(key): Authorized<'_>,
        submission: &Submission,
    ) -> Result<Option<Earlier>, ServiceError> {
        let name = record_name(key, submission);
        let found = self.store.kept_named(&key.tenant.id, KeptKind::Submission, &name);
        let found = self.with_timeout(found).await?;
        Ok(found.map(|kept| match kept.body == submission.fingerprint {
            true => Earlier::Same,
            false => Earlier::Other,
        }))
    }

    /// Records a submission, unless its idempotency key is known, and returns the one that is
    /// recorded then. `deadline` is the one of its approval.
    pub(crate) async fn record_submission(
        &self,
        authorized: Authorized<'_>,
        submission: &Submission,
        deadline: i64,
    ) -> Result<Earlier, ServiceError> {
        let key = authorized.0;
        let record = NewKept {
            tenant_id: Arc::clone(&key.tenant.id),
            kind: KeptKind::Submission,
            name: record_name(key, submission),
            at: self.clock.millis(),
            expires_at: Some(deadline.saturating_add(RETENTION).saturating_mul(1000)),
            body: submission.fingerprint.to_vec(),
        };
        self.with_timeout(self.store.change_kept(KeptChange::Add(vec![record]))).await?;
        self.find_submission(authorized, submission).await?.ok_or(ServiceError::Internal)
    }
}

fn record_name(key: &Principal, submission: &Submission) -> String {
    let hash = Sha256::new().chain_update(&*key.name).chain_update([0]).chain_update(&submission.name);
    hex::encode(hash.finalize())
}
