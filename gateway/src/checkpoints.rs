//! Checkpoints: signed records of a chain's length and head at a point in time. If the ledger is
//! rewritten later, it contradicts the checkpoints that others keep.
//!
//! A checkpoint is a `ledger.checkpoint` event on the tenant's chain `checkpoints`. Its `metadata`
//! contains the chain's id, `length` and `head`, and a `signature`: a compact JWS over these
//! members, the time and the previous checkpoint, made with the passport signing key. It also
//! contains the `root` of the chain's [Merkle tree](crate::merkle), the tree's `frontier`, where
//! the next checkpoint continues, and a `note`: the root as a
//! [signed note](crate::signed_note). Without a master key, checkpoints are unsigned.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actpass_protocol::Json;
use actpass_protocol::json::Number;
use actpass_protocol::token::{PassportError, PublicKey, TokenType, Unverified};

use crate::clock::{Clock, rfc3339};
use crate::events;
use crate::ledger::{self, Head};
use crate::merkle::{self, Frontier};
use crate::object_writer::object;
use crate::passport::{SigningKeyStore, SigningKeys};
use crate::signed_note::{self, NoteError, TreeHead};
use crate::store::{Record, Store, StoreError};

/// The chains with checkpoints: those that only the gateway writes to.
const CHECKPOINTED_CHAINS: [&str; 3] = [ledger::DECISIONS, ledger::TOOLS, ledger::VAULT];

/// Maximum interval between checks for due checkpoints.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Interval between checkpoints of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Number of new events after which a checkpoint is due.
    pub events: u64,
    /// Number of seconds after which a checkpoint is due if there is a new event.
    pub seconds: u32,
}

impl Default for Interval {
    /// 1000 events or one hour.
    fn default() -> Self {
        Self { events: 1000, seconds: 3600 }
    }
}

/// A chain's state at a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The tenant.
    pub tenant_id: String,
    /// The chain.
    pub chain_id: String,
    /// The chain's head at that time.
    pub head: Head,
}

/// Error for an invalid checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// There is no signature, or it cannot be parsed.
    #[error(
        "expected a checkpoint: a ledger.checkpoint event with a signature, the signature alone, or signed notes"
    )]
    NoSignature,
    /// A signed note is invalid.
    #[error("the checkpoint {0}")]
    Note(NoteError),
    /// The event contradicts its signature.
    #[error("the checkpoint event does not match its signature")]
    OtherEvent,
    /// The signature is invalid.
    #[error("the checkpoint's signature {0}")]
    Signature(PassportError),
}

impl Checkpoint {
    /// Parses a checkpoint event, or its signature alone, and verifies it with `keys`.
    ///
    /// # Errors
    ///
    /// Returns an error if the text is not a checkpoint, no key verifies the signature, or the
    /// event contradicts it.
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
        // The signature of an export has `exported_at` instead.
        text("checkpoint_at")?;
        Some(Self { tenant_id: text("tenant_id")?, chain_id: text("chain_id")?, head: parse_head(claims)? })
    }
}

/// A state of a chain that others keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownState {
    /// Number of events.
    pub length: u64,
    /// Hash of the last event.
    pub hash: Option<String>,
    /// Root of the Merkle tree.
    pub root: Option<merkle::Hash>,
}

impl From<Head> for KnownState {
    fn from(head: Head) -> Self {
        Self { length: head.length, hash: Some(head.hash), root: None }
    }
}

impl KnownState {
    /// Returns whether a chain that has this head and tree at this length contradicts the state.
    pub fn contradicts(&self, head: &Head, tree: &Frontier) -> bool {
        self.length != head.length
            || self.hash.as_ref().is_some_and(|hash| *hash != head.hash)
            || self.root.is_some_and(|root| root != tree.root())
    }
}

impl fmt::Display for KnownState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {} with ", self.length)?;
        match (&self.hash, self.root) {
            (Some(hash), _) => write!(f, "hash {hash}"),
            (None, root) => write!(f, "root {}", hex::encode(root.unwrap_or_default())),
        }
    }
}

/// A checkpoint that was kept elsewhere, with a verified signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptCheckpoint {
    /// The state of the chain.
    pub state: KnownState,
    /// The signed note, if it is one.
    pub note: Option<(TreeHead, String)>,
    /// The tenant and the chain, unless it is a note.
    chain: Option<(String, String)>,
}

impl KeptCheckpoint {
    /// Reads the checkpoints in a text: an event, the signature of one, or signed notes.
    ///
    /// # Errors
    ///
    /// Same as [`Checkpoint::read`], for each of them.
    pub fn read_all(text: &str, keys: &[PublicKey]) -> Result<Vec<Self>, CheckpointError> {
        let notes = signed_note::split_notes(text);
        if notes.is_empty() {
            let Checkpoint { tenant_id, chain_id, head } = Checkpoint::read(text, keys)?;
            return Ok(vec![Self { state: head.into(), note: None, chain: Some((tenant_id, chain_id)) }]);
        }
        let read = |note: String| {
            let (head, _) = TreeHead::read(&note, keys).map_err(CheckpointError::Note)?;
            let state = KnownState { length: head.size, hash: None, root: Some(head.root) };
            Ok(Self { state, note: Some((head, note)), chain: None })
        };
        notes.into_iter().map(read).collect()
    }

    /// Returns whether it is of this chain.
    pub fn is_of(&self, tenant_id: &str, chain_id: &str) -> bool {
        match (&self.note, &self.chain) {
            (Some((head, _)), _) => head.is_of(tenant_id, chain_id),
            (None, Some((tenant, chain))) => tenant == tenant_id && chain == chain_id,
            (None, None) => false,
        }
    }

    /// Names its chain.
    pub fn describe_chain(&self) -> String {
        match (&self.note, &self.chain) {
            (Some((head, _)), _) => head.origin.escape_debug().to_string(),
            (None, Some((tenant, chain))) => format!("{chain:?} of tenant {tenant:?}"),
            (None, None) => String::new(),
        }
    }
}

/// Reads a chain's length and head from an object.
fn parse_head(object: &Json) -> Option<Head> {
    let Json::Number(length) = object.member("length")? else {
        return None;
    };
    Some(Head { length: length.as_str().parse().ok()?, hash: object.member("head")?.as_str()?.to_owned() })
}

/// The last known checkpoint of a chain.
#[derive(Clone, Debug)]
struct LastCheckpoint {
    length: u64,
    /// The Merkle tree of the chain, up to `length` or an earlier event.
    tree: Frontier,
    /// Time in milliseconds since 1970.
    at: i64,
    /// Hash of the checkpoint event; `None` if there was no checkpoint.
    event: Option<String>,
}

/// Creates checkpoints when they are due.
#[derive(Debug)]
pub struct Checkpoints {
    interval: Interval,
    clock: Clock,
    /// First part of the origin of signed notes.
    authority: String,
    /// The file to which signed notes are appended.
    file: Option<PathBuf>,
    /// When checking began, in milliseconds since 1970.
    started: Option<i64>,
    last: HashMap<(Arc<str>, &'static str), LastCheckpoint>,
}

impl Checkpoints {
    /// Starts the first interval at the first check.
    pub fn new(interval: Interval, clock: Clock) -> Self {
        let authority = signed_note::authority(None);
        Self { interval, clock, authority, file: None, started: None, last: HashMap::new() }
    }

    /// Names the gateway in signed notes by its issuer, and appends the notes to `file`.
    #[must_use]
    pub fn publish(self, issuer: Option<&str>, file: Option<PathBuf>) -> Self {
        Self { authority: signed_note::authority(issuer), file, ..self }
    }

    /// Creates due checkpoints until the future is dropped. `tenants` returns the current tenants.
    pub async fn run(
        mut self,
        store: &dyn Store,
        keys: Option<&SigningKeyStore>,
        tenants: impl Fn() -> Arc<[String]>,
    ) {
        let pause = POLL_INTERVAL.min(Duration::from_secs(self.interval.seconds.into()));
        loop {
            tokio::time::sleep(pause).await;
            if let Err(error) = self.make(store, keys, &tenants()).await {
                tracing::warn!(%error, "checkpoints could not be created; retrying");
            }
        }
    }

    /// Creates the checkpoints that are due now and returns their number.
    ///
    /// # Errors
    ///
    /// Returns an error if the store is unavailable.
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
                        self.record(store, keys, &tenant_id, chain_id, &head, last).await?
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
        last: LastCheckpoint,
    ) -> Result<LastCheckpoint, StoreError> {
        let at = self.clock.millis();
        let previous = last.event;
        let tree = grow(store, tenant_id, chain_id, last.tree, head.length).await?;
        let length = Number::from(i64::try_from(head.length).unwrap_or(i64::MAX));
        let (signature, note) = match keys {
            None => (None, None),
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
                let origin = signed_note::origin(&self.authority, tenant_id, chain_id);
                let tree = TreeHead { origin, size: tree.size(), root: tree.root() };
                let note = tree.sign(&ring).map_err(|_| StoreError::Unavailable)?;
                (Some(signed.0), Some(note))
            }
        };
        let event = events::checkpoint(events::NewCheckpoint {
            tenant_id,
            chain_id,
            head,
            tree: &tree,
            previous: previous.as_deref(),
            signature: signature.as_deref(),
            note: note.as_deref(),
        });
        let recorded = store.record(Record::of(event)).await?;
        if let (Some(file), Some(note)) = (&self.file, &note)
            && let Err(error) = append(file, note)
        {
            // The note is also in the event.
            tracing::error!(file = %file.display(), %error, "a checkpoint could not be written to the file");
        }
        let (length, head, signature) = (head.length, &*head.hash, signature.as_deref().unwrap_or("none"));
        tracing::info!(tenant = &**tenant_id, chain = chain_id, length, head, signature, "checkpoint");
        Ok(LastCheckpoint { length, tree, at, event: Some(recorded.hash) })
    }
}

/// Appends a note to a file and makes it durable.
fn append(file: &std::path::Path, note: &str) -> std::io::Result<()> {
    use std::io::Write;

    let mut file = std::fs::File::options().append(true).create(true).open(file)?;
    // One write, so that gateways can share the file.
    file.write_all(format!("{note}\n").as_bytes())?;
    file.sync_data()
}

/// Appends the events of a chain up to `length` to its tree.
async fn grow(
    store: &dyn Store,
    tenant_id: &str,
    chain_id: &str,
    mut tree: Frontier,
    length: u64,
) -> Result<Frontier, StoreError> {
    let archived = store.archived(tenant_id, chain_id).await?.unwrap_or_default();
    if archived.head.length > tree.size() {
        tree = archived.tree;
    }
    while tree.size() < length {
        let page = store.events(tenant_id, chain_id, tree.size(), length).await?;
        if page.is_empty() {
            tracing::error!(tenant_id, chain_id, "an event is missing, so no checkpoint was created");
            return Err(StoreError::Unavailable);
        }
        for event in page {
            let hash =
                ledger::stated_hash(&event.text).filter(|_| event.seq == tree.size().saturating_add(1));
            let Some(hash) = hash else {
                tracing::error!(
                    tenant_id,
                    chain_id,
                    event.seq,
                    "an event is broken, so no checkpoint was created"
                );
                return Err(StoreError::Unavailable);
            };
            tree.push(merkle::leaf_hash(&hash));
        }
    }
    Ok(tree)
}

/// Finds the last recorded checkpoint of a chain; without a checkpoint, the interval begins at
/// `started`.
async fn find_last(
    store: &dyn Store,
    tenant_id: &str,
    chain_id: &str,
    started: i64,
) -> Result<LastCheckpoint, StoreError> {
    let mut last = LastCheckpoint { length: 0, tree: Frontier::default(), at: started, event: None };
    let mut after = 0;
    loop {
        let page = store.events(tenant_id, ledger::CHECKPOINTS, after, u64::MAX).await?;
        let Some(end) = page.last() else {
            return Ok(last);
        };
        after = end.seq;
        for event in page {
            let Ok(event) = Json::parse(event.text.as_bytes()) else { continue };
            if event.member("event_type").and_then(Json::as_str) != Some(ledger::CHECKPOINT) {
                continue;
            }
            let Some(metadata) = event.member("metadata") else { continue };
            let text = |name| metadata.member(name).and_then(Json::as_str);
            if let (Some(chain), Some(head)) = (text("chain_id"), parse_head(metadata))
                && chain == chain_id
            {
                let hash = event.member("current_event_hash").and_then(Json::as_str);
                let tree = read_tree(metadata, head.length).unwrap_or(last.tree);
                last = LastCheckpoint { length: head.length, event: hash.map(str::to_owned), tree, ..last };
            }
        }
    }
}

/// Reads the Merkle tree from the metadata of a checkpoint; `None` if its parts contradict each
/// other, or the checkpoint predates trees.
fn read_tree(metadata: &Json, length: u64) -> Option<Frontier> {
    let Json::Array(nodes) = metadata.member("frontier")? else {
        return None;
    };
    let node = |node: &Json| hex::decode(node.as_str()?).ok()?.try_into().ok();
    let tree = Frontier::restore(length, nodes.iter().map(node).collect::<Option<_>>()?)?;
    (metadata.member("root")?.as_str()? == hex::encode(tree.root())).then_some(tree)
}

/// Collects the checkpoints of one chain from the tenant's `checkpoints` chain.
#[derive(Debug)]
pub struct CheckpointCollector<'a> {
    chain_id: &'a str,
    keys: Vec<PublicKey>,
    /// The chain's states at its checkpoints.
    pub found: Vec<KnownState>,
    /// The signed notes, oldest first.
    pub notes: Vec<(TreeHead, String)>,
}

impl<'a> CheckpointCollector<'a> {
    /// Collects checkpoints of `chain_id` that `signer` signed, or unsigned ones without a signer.
    pub fn new(chain_id: &'a str, signer: Option<&SigningKeys>) -> Self {
        let keys = signer.map(SigningKeys::public_keys).unwrap_or_default();
        Self { chain_id, keys, found: Vec::new(), notes: Vec::new() }
    }

    /// Reads the next event.
    ///
    /// # Errors
    ///
    /// Returns an error if there are keys and none of them verifies the checkpoint.
    pub fn push(&mut self, text: &str) -> Result<(), CheckpointError> {
        let event = Json::parse(text.as_bytes()).map_err(|_| CheckpointError::NoSignature)?;
        if event.member("event_type").and_then(Json::as_str) != Some(ledger::CHECKPOINT) {
            return Ok(());
        }
        let metadata = event.member("metadata");
        let is_here = metadata.and_then(|metadata| metadata.member("chain_id")).and_then(Json::as_str)
            == Some(self.chain_id);
        if !is_here {
            return Ok(());
        }
        // Checkpoints from before the master key was configured are unsigned.
        let is_signed = metadata.is_some_and(|metadata| metadata.member("signature").is_some());
        let head = match is_signed && !self.keys.is_empty() {
            true => Some(Checkpoint::read(text, &self.keys)?.head),
            false => metadata.and_then(parse_head),
        };
        let Some(head) = head else {
            return Ok(());
        };
        let member = |name| metadata.and_then(|metadata| metadata.member(name)).and_then(Json::as_str);
        let mut state = KnownState::from(head);
        state.root = member("root").and_then(|root| hex::decode(root).ok()?.try_into().ok());
        if let Some(note) = member("note") {
            let tree = match self.keys.is_empty() {
                true => TreeHead::danger_unverified(note),
                false => TreeHead::read(note, &self.keys).map(|(tree, _)| tree),
            };
            let tree = tree.map_err(CheckpointError::Note)?;
            if tree.size != state.length || Some(tree.root) != state.root {
                return Err(CheckpointError::OtherEvent);
            }
            self.notes.push((tree, note.to_owned()));
        }
        self.found.push(state);
        Ok(())
    }
}
