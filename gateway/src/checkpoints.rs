//! Checkpoints: how a chain stood at a moment, signed, recorded as an event, and given out, so that a ledger that is
//! rewritten later contradicts what others have kept.
//!
//! A checkpoint is an event of the type `ledger.checkpoint` on the tenant's chain `checkpoints`. Its `metadata` names the
//! chain, its `length` and its `head`, and holds the `signature`: a compact JWS of these, of the time, and of the
//! checkpoint before it, by the key that signs passports. A gateway without a master key records them unsigned.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actpass_protocol::Json;
use actpass_protocol::json::Number;
use actpass_protocol::token::{PassportError, PublicKey, TokenType, Unverified};

use crate::clock::{Clock, rfc3339};
use crate::events;
use crate::ledger::{self, Head};
use crate::object_writer::object;
use crate::passport::{SigningKeyStore, SigningKeys};
use crate::store::{Record, Store, StoreError};

/// The chains that are checkpointed: those that only the gateway writes to.
const CHECKPOINTED_CHAINS: [&str; 3] = [ledger::DECISIONS, ledger::TOOLS, ledger::VAULT];

/// How often it is looked whether a checkpoint is due, at most.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// How often chains are checkpointed.
#[derive(Clone, Copy, Debug)]
pub struct Interval {
    /// After how many events.
    pub events: u64,
    /// After how many seconds, if there is any new event.
    pub seconds: u32,
}

impl Default for Interval {
    /// 1000 events, or an hour.
    fn default() -> Self {
        Self { events: 1000, seconds: 3600 }
    }
}

/// How a chain stood at a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The tenant.
    pub tenant_id: String,
    /// The chain.
    pub chain_id: String,
    /// How it ended.
    pub head: Head,
}

/// Why something is no checkpoint of this gateway.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It has no signature, or nothing that is read as one.
    #[error("expected a checkpoint: a ledger.checkpoint event with a signature, or the signature alone")]
    NoSignature,
    /// Its event says something else than what was signed.
    #[error("the checkpoint's event does not say what was signed")]
    OtherEvent,
    /// Its signature is not good.
    #[error("the checkpoint's signature {0}")]
    Signature(PassportError),
}

impl Checkpoint {
    /// Reads a checkpoint's event, or its signature alone, and verifies it with one of `keys`.
    ///
    /// # Errors
    ///
    /// If it is none, none of the keys signed it, or its event says something else.
    pub fn read(text: &str, keys: &[PublicKey]) -> Result<Self, CheckpointError> {
        let event = Json::parse(text.trim().as_bytes()).ok();
        let metadata = event.as_ref().and_then(|event| event.member("metadata"));
        let token = match (&event, metadata.and_then(|metadata| metadata.member("signature"))) {
            (Some(Json::Object(_)), signature) => {
                signature.and_then(Json::as_str).ok_or(CheckpointError::NoSignature)?
            }
            (_, _) => text.trim(),
        };
        let unread = |refusal| match refusal == PassportError::Malformed {
            true => CheckpointError::NoSignature,
            false => CheckpointError::Signature(refusal),
        };
        let signature = Unverified::chain_head(token).map_err(unread)?;
        let key = keys.iter().find(|key| key.kid() == signature.kid());
        let key = key.ok_or(CheckpointError::Signature(PassportError::UnknownKey))?;
        let payload = signature.verify(key).map_err(CheckpointError::Signature)?;
        let claims = Json::parse(&payload).map_err(|_| CheckpointError::NoSignature)?;
        let signed = Self::of(&claims).ok_or(CheckpointError::NoSignature)?;
        let same = metadata.is_none_or(|metadata| {
            ["chain_id", "length", "head"].iter().all(|name| metadata.member(name) == claims.member(name))
        });
        if same { Ok(signed) } else { Err(CheckpointError::OtherEvent) }
    }

    fn of(claims: &Json) -> Option<Self> {
        let text = |name| claims.member(name).and_then(Json::as_str).map(str::to_owned);
        // The signature of an export says when that was made instead.
        text("checkpoint_at")?;
        Some(Self { tenant_id: text("tenant_id")?, chain_id: text("chain_id")?, head: parse_head(claims)? })
    }
}

/// What an unsigned or signed checkpoint says of a chain.
fn parse_head(object: &Json) -> Option<Head> {
    let Json::Number(length) = object.member("length")? else {
        return None;
    };
    Some(Head { length: length.as_str().parse().ok()?, hash: object.member("head")?.as_str()?.to_owned() })
}

/// What the gateway knows of the last checkpoint of a chain.
#[derive(Clone, Debug)]
struct LastCheckpoint {
    length: u64,
    /// In milliseconds since 1970.
    at: i64,
    /// The hash of the checkpoint's event; `None` if there was none.
    event: Option<String>,
}

/// Makes checkpoints of the chains of tenants, when they are due.
#[derive(Debug)]
pub struct Checkpoints {
    interval: Interval,
    clock: Clock,
    /// When it was looked first, in milliseconds since 1970.
    started: Option<i64>,
    last: HashMap<(Arc<str>, &'static str), LastCheckpoint>,
}

impl Checkpoints {
    /// None is due yet: the first interval begins with the first look.
    pub fn new(interval: Interval, clock: Clock) -> Self {
        Self { interval, clock, started: None, last: HashMap::new() }
    }

    /// Makes those that are due, until it is dropped.
    pub async fn run(mut self, store: &dyn Store, keys: Option<&SigningKeyStore>, tenants: &[String]) {
        let pause = POLL_INTERVAL.min(Duration::from_secs(self.interval.seconds.into()));
        loop {
            tokio::time::sleep(pause).await;
            if let Err(error) = self.make(store, keys, tenants).await {
                tracing::warn!(%error, "checkpoints could not be made; they are tried again");
            }
        }
    }

    /// Makes those that are due now: how many.
    ///
    /// # Errors
    ///
    /// If the store does not answer.
    pub async fn make(
        &mut self,
        store: &dyn Store,
        keys: Option<&SigningKeyStore>,
        tenants: &[String],
    ) -> Result<usize, StoreError> {
        let mut made = 0;
        let started = *self.started.get_or_insert_with(|| self.clock.millis());
        for tenant_id in tenants {
            let tenant_id: Arc<str> = tenant_id.as_str().into();
            for chain_id in CHECKPOINTED_CHAINS {
                let Some(head) = store.head(&tenant_id, chain_id).await? else {
                    continue;
                };
                let place = (Arc::clone(&tenant_id), chain_id);
                let last = match self.last.get(&place) {
                    Some(last) => last.clone(),
                    None => find_last(store, &tenant_id, chain_id, started).await?,
                };
                let events = head.length.saturating_sub(last.length);
                let millis = self.clock.millis().saturating_sub(last.at);
                let is_due = events >= self.interval.events
                    || (events > 0 && millis >= i64::from(self.interval.seconds) * 1000);
                let last = match is_due {
                    true => {
                        made += 1;
                        self.record(store, keys, &tenant_id, chain_id, &head, last.event).await?
                    }
                    false => last,
                };
                self.last.insert(place, last);
            }
        }
        Ok(made)
    }

    async fn record(
        &self,
        store: &dyn Store,
        keys: Option<&SigningKeyStore>,
        tenant_id: &Arc<str>,
        chain_id: &str,
        head: &Head,
        previous: Option<String>,
    ) -> Result<LastCheckpoint, StoreError> {
        let at = self.clock.millis();
        let length = Number::from(i64::try_from(head.length).unwrap_or(i64::MAX));
        let signature = match keys {
            None => None,
            Some(keys) => {
                let claims = object([
                    ("tenant_id", Some(Json::from(&**tenant_id))),
                    ("chain_id", Some(Json::from(chain_id))),
                    ("length", Some(Json::Number(length))),
                    ("head", Some(Json::from(&*head.hash))),
                    ("checkpoint_at", Some(Json::String(rfc3339(at.div_euclid(1000))))),
                    ("previous", previous.as_deref().map(Json::from)),
                ]);
                let ring = keys.read(store).await.map_err(|error| {
                    tracing::error!(%error, "a checkpoint could not be signed");
                    StoreError::Unavailable
                })?;
                let signed = ring.sign(TokenType::ChainHead, &claims).map_err(|_| StoreError::Unavailable)?;
                Some(signed.0)
            }
        };
        let event = events::checkpoint(tenant_id, chain_id, head, previous.as_deref(), signature.as_deref());
        let recorded = store.record(Record::of(event)).await?;
        let (length, head, signature) = (head.length, &*head.hash, signature.as_deref().unwrap_or("none"));
        tracing::info!(tenant = &**tenant_id, chain = chain_id, length, head, signature, "checkpoint");
        Ok(LastCheckpoint { length, at, event: Some(recorded.hash) })
    }
}

/// The last checkpoint of a chain that is recorded; `started` is when its interval began.
async fn find_last(
    store: &dyn Store,
    tenant_id: &str,
    chain_id: &str,
    started: i64,
) -> Result<LastCheckpoint, StoreError> {
    let mut last = LastCheckpoint { length: 0, at: started, event: None };
    let mut after = 0;
    loop {
        let page = store.events(tenant_id, ledger::CHECKPOINTS, after, u64::MAX).await?;
        let Some(end) = page.last() else {
            return Ok(last);
        };
        after = end.seq;
        for event in page {
            let Ok(event) = Json::parse(event.text.as_bytes()) else { continue };
            let Some(metadata) = event.member("metadata") else { continue };
            let text = |name| metadata.member(name).and_then(Json::as_str);
            if let (Some(chain), Some(head)) = (text("chain_id"), parse_head(metadata))
                && chain == chain_id
            {
                let hash = event.member("current_event_hash").and_then(Json::as_str);
                last = LastCheckpoint { length: head.length, event: hash.map(str::to_owned), ..last };
            }
        }
    }
}

/// Collects the checkpoints of one chain from a tenant's chain of checkpoints, event by event.
#[derive(Debug)]
pub struct CheckpointCollector<'a> {
    chain_id: &'a str,
    keys: Vec<PublicKey>,
    /// Those of the chain.
    pub found: Vec<Head>,
}

impl<'a> CheckpointCollector<'a> {
    /// Of `chain_id`, signed by a key of `signer`; unsigned ones if there is none.
    pub fn new(chain_id: &'a str, signer: Option<&SigningKeys>) -> Self {
        let keys = signer.map(SigningKeys::public_keys).unwrap_or_default();
        Self { chain_id, keys, found: Vec::new() }
    }

    /// Looks at the next event.
    ///
    /// # Errors
    ///
    /// If there are keys and none signed it.
    pub fn push(&mut self, text: &str) -> Result<(), CheckpointError> {
        let event = Json::parse(text.as_bytes()).map_err(|_| CheckpointError::NoSignature)?;
        let metadata = event.member("metadata");
        let is_here = metadata.and_then(|metadata| metadata.member("chain_id")).and_then(Json::as_str)
            == Some(self.chain_id);
        if !is_here {
            return Ok(());
        }
        // A gateway that got its master key later has unsigned ones before.
        let is_signed = metadata.is_some_and(|metadata| metadata.member("signature").is_some());
        let head = match is_signed && !self.keys.is_empty() {
            true => Some(Checkpoint::read(text, &self.keys)?.head),
            false => metadata.and_then(parse_head),
        };
        self.found.extend(head);
        Ok(())
    }
}
