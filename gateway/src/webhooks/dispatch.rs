//! Delivery of a webhook's messages.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use actpass_protocol::Json;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use tokio::sync::Notify;

use super::mail::Mailer;
use super::message::{Message, Subject};
use super::sender::{SenderError, Target};
use super::{Announcement, Form, SigningSecret, Url, Webhook};
use crate::clock::{Clock, rfc3339};
use crate::store::{Cursor, DeadLetter, DueItem, EXPIRY, OutboxChange, Place, Store, StoreError};

/// Interval of looking for announcements of other gateways, and for expired approvals.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Number of items per read.
const PAGE: u32 = 64;

/// Duration of a lease, in milliseconds: the time after which another gateway continues if this one
/// is gone. Longer than the timeout of a request.
const LEASE: i64 = 30_000;

/// Pause after the first failure; doubles with each attempt.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// A longer `Retry-After` is ignored.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Attempts of a message that the receiver refuses.
const MAX_REFUSED_ATTEMPTS: u32 = 5;

/// Maximum bytes of a receiver's response.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// Delivers the messages of one webhook, if this gateway has its lease.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    webhook: Webhook,
    sender: Sender,
    store: Arc<dyn Store>,
    clock: Clock,
    /// The name of this gateway in leases.
    holder: Arc<str>,
    /// URL of the approvals page, without a trailing slash.
    page: Arc<str>,
    announced: Arc<Notify>,
    /// When the lease ends, in milliseconds since 1970.
    leased_until: i64,
}

/// Sends the messages of a form.
#[derive(Debug)]
enum Sender {
    Http(Box<HttpSender>),
    Mail(Box<Mailer>),
}

#[derive(Debug)]
struct HttpSender {
    target: Target,
    url: Url,
    secret: Option<SigningSecret>,
}

impl Sender {
    fn new(webhook: &Webhook) -> Result<Self, String> {
        let trusted = webhook.authorities.as_deref();
        let (allow_private, timeout) = (webhook.allow_private_address, webhook.timeout);
        let (url, secret) = match &webhook.form {
            Form::Mail(mail) => {
                return Ok(Self::Mail(Box::new(Mailer::new(mail, trusted, allow_private, timeout)?)));
            }
            Form::Slack { url } => (url.clone(), None),
            Form::Standard { url, secret } => (url.clone(), Some(secret.clone())),
        };
        let target = Target::new(trusted, allow_private, timeout)?;
        Ok(Self::Http(Box::new(HttpSender { target, url, secret })))
    }
}

/// Failure of an attempt.
struct Failure {
    problem: String,
    /// Whether the receiver refuses this message or this gateway, so that more attempts hardly help.
    is_refusal: bool,
    retry_after: Option<Duration>,
}

impl From<SenderError> for Failure {
    fn from(error: SenderError) -> Self {
        let is_refusal = matches!(error, SenderError::Private | SenderError::Refused(_));
        Self { problem: error.to_string(), is_refusal, retry_after: None }
    }
}

impl Dispatcher {
    /// Creates a dispatcher; `announced` wakes it. It delivers announcements from now on. A dispatcher
    /// with the same `holder` continues without waiting for the end of the lease.
    ///
    /// # Errors
    ///
    /// Returns an error if the webhook's authorities or the store are unusable.
    pub(crate) async fn new(
        webhook: Webhook,
        store: Arc<dyn Store>,
        clock: Clock,
        page: Arc<str>,
        announced: Arc<Notify>,
        holder: Arc<str>,
    ) -> Result<Self, String> {
        let sender = Sender::new(&webhook)?;
        let (name, tenants) = (Arc::clone(&webhook.name), webhook.tenants.clone());
        let register = OutboxChange::Register { webhook: name, tenants, now: clock.millis() };
        store.change_outbox(register).await.map_err(|error| error.to_string())?;
        Ok(Self { webhook, sender, store, clock, holder, page, announced, leased_until: 0 })
    }

    /// Delivers until the task is aborted.
    pub(crate) async fn run(mut self) {
        loop {
            // Announcements from now on are seen by this round or wake the next one.
            let announced = Arc::clone(&self.announced);
            let wake = announced.notified();
            // The store has logged an error.
            if self.deliver_due().await.unwrap_or(false) {
                continue;
            }
            let _ = tokio::time::timeout(POLL_INTERVAL, wake).await;
        }
    }

    /// Delivers due messages; returns whether there may be more.
    async fn deliver_due(&mut self) -> Result<bool, StoreError> {
        if !self.lease().await? {
            return Ok(false);
        }
        let queued = self.store.queued_messages(&self.webhook.name, PAGE).await?;
        for dead in &queued {
            if !self.lease().await? {
                return Ok(false);
            }
            self.redeliver(dead).await?;
        }
        let due = self.store.due_announcements(&self.webhook.name, self.clock.millis(), PAGE).await?;
        let (mut started, mut failing) = (HashSet::new(), HashSet::new());
        for item in &due {
            if failing.contains(&item.cursor) {
                continue;
            }
            if !self.lease().await? {
                return Ok(false);
            }
            // The failed attempts of a source are those of its first item.
            let attempts = match started.insert(&item.cursor) {
                true => (item.attempts, item.failing_since),
                false => (0, 0),
            };
            if !self.deliver(item, attempts).await? {
                failing.insert(&item.cursor);
            }
        }
        Ok(!due.is_empty())
    }

    /// Takes or renews the lease, unless it lasts longer than an attempt.
    async fn lease(&mut self) -> Result<bool, StoreError> {
        let now = self.clock.millis();
        if self.leased_until - now > LEASE / 2 {
            return Ok(true);
        }
        let until = now.saturating_add(LEASE);
        let change = OutboxChange::Lease {
            webhook: Arc::clone(&self.webhook.name),
            holder: Arc::clone(&self.holder),
            now,
            until,
        };
        let has_lease = self.store.change_outbox(change).await?;
        self.leased_until = if has_lease { until } else { 0 };
        Ok(has_lease)
    }

    /// Delivers an item's messages, the first of which has failed `attempts` times, since then; returns
    /// `false` if its source must wait.
    async fn deliver(&self, item: &DueItem, mut attempts: (u32, i64)) -> Result<bool, StoreError> {
        let place = self.place_of(item);
        let subjects = self.subjects(&item.cursor, &place, Some(&item.content)).await?;
        let wanted = unsent(&self.webhook, item, subjects, |subject| subject.announcement);
        for (at, subject) in wanted.iter().enumerate() {
            let message = subject.message(&self.webhook, &self.page);
            let outcome = self.send(&message).await;
            let dead = match outcome {
                Ok(()) => None,
                Err(failure) => match self.dead_letter(item, &place, &message, &failure, &mut attempts) {
                    Some(dead) => Some(dead),
                    None => {
                        self.postpone(item, attempts, failure).await?;
                        return Ok(false);
                    }
                },
            };
            attempts = (0, 0);
            let is_last = at + 1 == wanted.len();
            let to = match is_last || item.cursor.source == EXPIRY {
                true => place.clone(),
                false => Place { number: item.number - 1, detail: subject.announcement.as_str().to_owned() },
            };
            if !self.advance(item, to, dead).await? {
                return Ok(false);
            }
        }
        // No message for this webhook.
        if wanted.is_empty() && !self.advance(item, place, None).await? {
            return Ok(false);
        }
        Ok(true)
    }

    fn place_of(&self, item: &DueItem) -> Place {
        let detail = if item.cursor.source == EXPIRY { item.content.clone() } else { String::new() };
        Place { number: item.number, detail }
    }

    async fn advance(
        &self,
        item: &DueItem,
        to: Place,
        dead: Option<Box<DeadLetter>>,
    ) -> Result<bool, StoreError> {
        let (cursor, holder) = (item.cursor.clone(), Arc::clone(&self.holder));
        let change = OutboxChange::Advance { cursor, holder, to, now: self.clock.millis(), dead };
        self.store.change_outbox(change).await
    }

    /// Counts the failed attempt. Returns the message to set aside if there have been enough.
    fn dead_letter(
        &self,
        item: &DueItem,
        place: &Place,
        message: &Message,
        failure: &Failure,
        (attempts, failing_since): &mut (u32, i64),
    ) -> Option<Box<DeadLetter>> {
        let now = self.clock.millis();
        *attempts = attempts.saturating_add(1);
        if *failing_since == 0 {
            *failing_since = now;
        }
        let give_up_after = i64::try_from(self.webhook.give_up_after.as_millis()).unwrap_or(i64::MAX);
        let is_over = now - *failing_since >= give_up_after
            || (failure.is_refusal && *attempts >= MAX_REFUSED_ATTEMPTS);
        if !is_over {
            return None;
        }
        tracing::error!(
            webhook = &*self.webhook.name,
            message = message.id,
            attempts = *attempts,
            problem = failure.problem,
            "a message was not delivered and is set aside"
        );
        Some(Box::new(DeadLetter {
            id: 0,
            cursor: item.cursor.clone(),
            item: place.clone(),
            announcement: message.announcement.as_str().to_owned(),
            message_id: message.id.clone(),
            problem: failure.problem.clone(),
            failed_at: now,
            is_queued: false,
        }))
    }

    async fn postpone(
        &self,
        item: &DueItem,
        (attempts, failing_since): (u32, i64),
        failure: Failure,
    ) -> Result<(), StoreError> {
        let pause =
            pause(attempts, self.webhook.max_pause, jitter()).max(failure.retry_after.unwrap_or_default());
        let millis = i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
        tracing::warn!(
            webhook = &*self.webhook.name,
            attempts,
            retry_ms = millis,
            problem = failure.problem,
            "a message could not be delivered"
        );
        let change = OutboxChange::Retry {
            cursor: item.cursor.clone(),
            holder: Arc::clone(&self.holder),
            attempts,
            failing_since,
            retry_at: self.clock.millis().saturating_add(millis),
            problem: failure.problem,
        };
        self.store.change_outbox(change).await.map(drop)
    }

    /// Sends a message that was set aside, once.
    async fn redeliver(&self, dead: &DeadLetter) -> Result<(), StoreError> {
        let subjects = self.subjects(&dead.cursor, &dead.item, None).await?;
        let subject = subjects.iter().find(|subject| subject.announcement.as_str() == dead.announcement);
        let problem = match subject {
            Some(subject) => self
                .send(&subject.message(&self.webhook, &self.page))
                .await
                .err()
                .map(|failure| failure.problem),
            None => Some("the event of this message is not in the ledger any more".to_owned()),
        };
        let change = OutboxChange::Redelivered {
            id: dead.id,
            webhook: Arc::clone(&self.webhook.name),
            holder: Arc::clone(&self.holder),
            problem,
            now: self.clock.millis(),
        };
        self.store.change_outbox(change).await.map(drop)
    }

    /// Returns the announcements of the item at `place`. `content` is its event, if it was read already.
    async fn subjects(
        &self,
        cursor: &Cursor,
        place: &Place,
        content: Option<&str>,
    ) -> Result<Vec<Subject>, StoreError> {
        let tenant_id = cursor.tenant_id.clone();
        if cursor.source == EXPIRY {
            let approval = self.store.approval(&tenant_id, &place.detail).await?;
            let announcement = Announcement::ApprovalExpired;
            return Ok(vec![Subject { announcement, tenant_id, event: None, approval }]);
        }
        let event = match content {
            Some(text) => Some(text.to_owned()),
            None => {
                let seq = u64::try_from(place.number).unwrap_or(0);
                let page = self.store.events(&tenant_id, &cursor.source, seq.saturating_sub(1), seq).await?;
                page.into_iter().next().map(|event| event.text)
            }
        };
        let Some(event) = event.and_then(|text| Json::parse(text.as_bytes()).ok()) else {
            return Ok(Vec::new());
        };
        let approval = match event.member("approval_request_id").and_then(Json::as_str) {
            Some(id) => self.store.approval(&tenant_id, id).await?,
            None => None,
        };
        let subject = |announcement| Subject {
            announcement,
            tenant_id: tenant_id.clone(),
            event: Some(event.clone()),
            approval: approval.clone(),
        };
        Ok(announced(&event).into_iter().map(subject).collect())
    }

    /// Sends a message once.
    async fn send(&self, message: &Message) -> Result<(), Failure> {
        let (target, url, secret) = match &self.sender {
            Sender::Http(http) => (&http.target, &http.url, &http.secret),
            Sender::Mail(mailer) => return Ok(mailer.send(message).await?),
        };
        let seconds = self.clock.seconds();
        let mut request = Request::post(url.clone())
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(header::USER_AGENT, concat!("actpass-gateway/", env!("CARGO_PKG_VERSION")));
        if let Some(secret) = secret {
            request = request
                .header("webhook-id", &message.id)
                .header("webhook-timestamp", seconds)
                .header("webhook-signature", secret.sign(&message.id, seconds, message.body.as_bytes()));
        }
        let body = Full::new(Bytes::copy_from_slice(message.body.as_bytes()));
        let request = request.body(body).map_err(|error| SenderError::Failed(error.to_string()))?;
        let response = target.send(request, MAX_RESPONSE_BYTES).await?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(Failure {
                problem: format!("the receiver responded {}", status.as_u16()),
                // Redirects are not followed: they lead to another host.
                is_refusal: (status.is_redirection() || status.is_client_error())
                    && ![408, 425, 429].contains(&status.as_u16()),
                retry_after: retry_after(&response),
            }),
        }
    }
}

/// Returns the announcements of an event.
fn announced(event: &Json) -> Vec<Announcement> {
    match event.member("announces") {
        Some(Json::Array(words)) => words.iter().filter_map(Json::as_str).collect(),
        Some(_) | None => Vec::new(),
    }
    .into_iter()
    .filter_map(Announcement::parse)
    .collect()
}

/// Returns those of an item's announcements that the webhook receives and has not sent yet: messages
/// that were sent before a failure are not sent again.
fn unsent<T>(
    webhook: &Webhook,
    item: &DueItem,
    all: Vec<T>,
    announcement: impl Fn(&T) -> Announcement,
) -> Vec<T> {
    let is_partial = item.reached.number == item.number - 1 && item.cursor.source != EXPIRY;
    let sent = is_partial.then(|| Announcement::parse(&item.reached.detail)).flatten();
    let skip = all.iter().position(|one| Some(announcement(one)) == sent).map_or(0, |at| at + 1);
    all.into_iter().skip(skip).filter(|one| webhook.announcements.contains(&announcement(one))).collect()
}

/// A message that waits to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WaitingMessage {
    pub(crate) announcement: Announcement,
    /// When its event happened.
    pub(crate) since: String,
}

/// Returns the messages of an item that wait to be sent.
pub(crate) fn waiting_messages(webhook: &Webhook, item: &DueItem) -> Vec<WaitingMessage> {
    let (all, since) = match &*item.cursor.source {
        EXPIRY => (vec![Announcement::ApprovalExpired], rfc3339(item.number)),
        _ => {
            let event = Json::parse(item.content.as_bytes()).unwrap_or(Json::Null);
            let since = event.member("created_at").and_then(Json::as_str).unwrap_or_default().to_owned();
            (announced(&event), since)
        }
    };
    let unsent = unsent(webhook, item, all, |announcement| *announcement).into_iter();
    unsent.map(|announcement| WaitingMessage { announcement, since: since.clone() }).collect()
}

fn retry_after(response: &Response<Bytes>) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds)).filter(|pause| *pause <= MAX_RETRY_AFTER)
}

/// Returns the pause after the given number of failed attempts: three quarters of it, and `jitter`
/// of 0 to 255 for the rest.
fn pause(attempts: u32, max: Duration, jitter: u8) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(attempts.saturating_sub(1))).min(max);
    pause * 3 / 4 + pause / 4 * u32::from(jitter) / 255
}

fn jitter() -> u8 {
    let mut byte = [0];
    // Without randomness, gateways retry at the same time.
    let _ = getrandom::fill(&mut byte);
    byte[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_doubles_up_to_maximum() {
        let max = Duration::from_secs(60);
        for (attempts, jitter, millis) in [
            (1, 255, 1_000),
            (1, 0, 750),
            (2, 255, 2_000),
            (6, 255, 32_000),
            (7, 255, 60_000),
            (99, 0, 45_000),
        ] {
            assert_eq!(pause(attempts, max, jitter), Duration::from_millis(millis), "{attempts} {jitter}");
        }
    }
}
