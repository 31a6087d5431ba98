//! Measurements of the writer.

use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::Histogram;

/// Buckets of durations, in seconds. Those of the SDKs.
const BUCKETS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Creates a histogram of durations in seconds.
pub(crate) fn duration_histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

/// Measurements of the writer of a store. Clones share their values.
#[derive(Clone, Debug)]
pub struct WriteTimings {
    /// Duration of a batch's transaction, in seconds.
    pub(crate) batch: Histogram,
    /// Duration of its commit, which makes it durable, in seconds.
    pub(crate) commit: Histogram,
    /// Records of a batch.
    pub(crate) records: Histogram,
}

impl Default for WriteTimings {
    fn default() -> Self {
        Self {
            batch: duration_histogram(),
            commit: duration_histogram(),
            records: Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]),
        }
    }
}

impl WriteTimings {
    /// Measures a committed batch that began at `begun`.
    pub(super) fn batch(&self, begun: Instant, records: usize) {
        self.batch.observe(begun.elapsed().as_secs_f64());
        self.records.observe(f64::from(u32::try_from(records).unwrap_or(u32::MAX)));
    }

    /// Measures a commit.
    pub(super) fn commit(&self, took: Duration) {
        self.commit.observe(took.as_secs_f64());
    }
}

/// Numbers of a tenant's data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantTotals {
    /// Events in all chains.
    pub events: u64,
    /// Chains.
    pub chains: u64,
    /// Pending approvals by age, in the order of [`AGES`].
    pub pending: [u64; AGES.len()],
    /// When the oldest pending approval was opened, in seconds since 1970.
    pub oldest_pending: Option<i64>,
    /// The webhooks of the tenant.
    pub webhooks: Vec<WebhookTotals>,
}

/// The words for the ages of pending approvals.
pub const AGES: [&str; 5] = ["under_1m", "1m_to_5m", "5m_to_15m", "15m_to_1h", "over_1h"];

/// The ends of all ages but the last, in seconds.
pub(super) const AGE_ENDS: [i64; 4] = [60, 300, 900, 3600];

/// Maximum number of waiting events that are counted for a webhook and source.
pub(super) const MAX_WAITING: i64 = 10_000;

/// Messages of a webhook for a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookTotals {
    /// The webhook.
    pub webhook: String,
    /// Events with announcements that it has not received: at most 10,000 for each source.
    pub waiting: u64,
    /// Failed attempts of the next message.
    pub attempts: u64,
    /// Messages that were set aside.
    pub dead: u64,
}
