//! Positions of webhooks in the ledger, and the messages that were set aside.

use std::sync::Arc;

use crate::ledger::{CHECKPOINTS, DECISIONS};

/// Source of the approvals that expired, which no event records.
pub(crate) const EXPIRY: &str = "expiry";

/// The sources of announcements: chains, and `EXPIRY`.
pub(crate) const SOURCES: [&str; 3] = [DECISIONS, CHECKPOINTS, EXPIRY];

/// A source of a tenant's announcements, as a webhook reads it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The webhook.
    pub webhook: Arc<str>,
    /// The tenant.
    pub tenant_id: String,
    /// The chain, or `EXPIRY`.
    pub source: String,
}

/// A place in a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The `seq` of an event, or the deadline of an approval, in seconds since 1970.
    pub number: i64,
    /// The last announcement of the event after `number` that was sent, or the approval's id.
    pub detail: String,
}

/// The next item of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueItem {
    /// The source.
    pub cursor: Cursor,
    /// The webhook's place in it.
    pub reached: Place,
    /// Failed attempts of the next message.
    pub attempts: u32,
    /// When it failed first, in milliseconds since 1970; 0 without a failure.
    pub failing_since: i64,
    /// The `seq` of the event, or the deadline.
    pub number: i64,
    /// The event's JSON text, or the approval's id.
    pub content: String,
}

/// A message that was not delivered and is not retried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Position in listings.
    pub id: i64,
    /// The source.
    pub cursor: Cursor,
    /// The item: its `seq` or deadline, and the approval's id for `EXPIRY`.
    pub item: Place,
    /// The announcement.
    pub announcement: String,
    /// The `webhook-id` of the message.
    pub message_id: String,
    /// The last failure.
    pub problem: String,
    /// When it was set aside, in milliseconds since 1970.
    pub failed_at: i64,
    /// Whether an operator has queued it again.
    pub is_queued: bool,
}

/// A change of a webhook's state. Those that change its positions or messages require its lease.
#[derive(Clone, Debug)]
pub enum OutboxChange {
    /// Creates the positions of new tenants at the present ends.
    Register {
        /// The webhook.
        webhook: Arc<str>,
        /// The tenants.
        tenants: Vec<Arc<str>>,
        /// The time, in milliseconds since 1970.
        now: i64,
    },
    /// Takes or renews the lease.
    Lease {
        /// The webhook.
        webhook: Arc<str>,
        /// The gateway.
        holder: Arc<str>,
        /// The time, in milliseconds since 1970.
        now: i64,
        /// When the lease ends, in milliseconds since 1970.
        until: i64,
    },
    /// Advances to a place; with a message that is set aside, if it failed.
    Advance {
        /// The source.
        cursor: Cursor,
        /// The gateway.
        holder: Arc<str>,
        /// The new place.
        to: Place,
        /// The time, in milliseconds since 1970.
        now: i64,
        /// The message that is set aside.
        dead: Option<Box<DeadLetter>>,
    },
    /// Postpones the next message.
    Retry {
        /// The source.
        cursor: Cursor,
        /// The gateway.
        holder: Arc<str>,
        /// Failed attempts.
        attempts: u32,
        /// When it failed first, in milliseconds since 1970.
        failing_since: i64,
        /// When to try again, in milliseconds since 1970.
        retry_at: i64,
        /// The failure.
        problem: String,
    },
    /// Queues a message that was set aside.
    Redeliver {
        /// The tenant.
        tenant_id: Arc<str>,
        /// The message's id in listings.
        id: i64,
    },
    /// Records the attempt of a queued message: removes it, or sets it aside again.
    Redelivered {
        /// The message's id in listings.
        id: i64,
        /// The webhook.
        webhook: Arc<str>,
        /// The gateway.
        holder: Arc<str>,
        /// The failure, if any.
        problem: Option<String>,
        /// The time, in milliseconds since 1970.
        now: i64,
    },
}

/// The state of a webhook for a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookState {
    /// The webhook.
    pub webhook: String,
    /// Failed attempts of the next message.
    pub attempts: u32,
    /// Time of the next attempt, in milliseconds since 1970.
    pub retry_at: i64,
    /// The last failure of the next message.
    pub problem: Option<String>,
    /// Messages that were set aside.
    pub dead: u64,
}

/// Messages that were set aside are removed after this time, in milliseconds: 30 days.
pub(super) const DEAD_LETTER_RETENTION: i64 = 30 * 86_400_000;
