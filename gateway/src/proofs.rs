//! Proofs that an event is in the ledger, which anyone can verify without the ledger.
//!
//! A proof is a JSON object: the `event`, a `checkpoint` (a [signed note](crate::signed_note)) of
//! its chain, the `inclusion` of the event in the chain's [Merkle tree](crate::merkle), and the
//! `consistency` of the checkpoint with earlier ones. A proof has about `log2(n)` hashes for a chain
//! of `n` events.

use std::fmt;

use actpass_protocol::Json;
use actpass_protocol::json::Number;
use actpass_protocol::token::PublicKey;

use crate::checkpoints::{KeptCheckpoint, KnownState};
use crate::evidence::{Chain, KnownStates};
use crate::ledger::{self, Archived, Defect, Head};
use crate::merkle::{self, Collector, Hash, Subtree};
use crate::object_writer::object;
use crate::passport::SigningKeys;
use crate::passport::keys::SigningKeyError;
use crate::replay::{ReplayError, Subject, Sums};
use crate::signed_note::{self, NoteError, TreeHead};
use crate::store::{OpenError, StoredEvent};

/// Maximum number of bytes of a proof.
const MAX_BYTES: usize = 16 << 20;

/// Callback for each event.
pub type EventHandler<'e> = dyn FnMut(&StoredEvent) -> Result<(), ProofError> + 'e;

/// Error of a proof.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The proof needs events that are archived.
    #[error("the proof needs archived events: pass all segments from the first one with --segment")]
    Archived,
    /// An event of the chain has no hash or the wrong position.
    #[error("event {0} is broken: expected an event with its hash at this position")]
    Broken(u64),
    /// The chain contradicts a checkpoint.
    #[error("the chain contradicts the checkpoint at {0}: the ledger was rewritten")]
    Contradicted(KnownState),
    /// The event in the proof is broken.
    #[error("the event in the proof is broken: {0}")]
    Event(Defect),
    /// The hashes do not lead from the event to the root in the checkpoint.
    #[error("event {0} is not in the chain of the checkpoint: the proof of its inclusion is invalid")]
    Excluded(u64),
    /// The checkpoint of the proof contradicts one that was kept.
    #[error("the checkpoint of the proof contradicts the kept checkpoint at {0}: the ledger was rewritten")]
    Inconsistent(KnownState),
    /// The text is not a proof.
    #[error("expected a proof: a JSON object with `event`, `checkpoint`, `inclusion` and `consistency`")]
    Malformed,
    /// No checkpoint covers the event, and there is no key to sign one.
    #[error("no signed checkpoint covers the event, and {0}")]
    NoCheckpoint(&'static str),
    /// The proof does not lead to a kept checkpoint.
    #[error("the proof does not cover the kept checkpoint at {0}: pass the checkpoint to `evidence prove`")]
    NoConsistency(KnownState),
    /// The chain does not contain the event.
    #[error(
        "the chain {chain_id:?} of tenant {tenant_id:?} has no event {event_id:?}; if it is archived, pass its \
        segment with --segment"
    )]
    NoSuchEvent {
        /// The tenant.
        tenant_id: String,
        /// The chain.
        chain_id: String,
        /// The event.
        event_id: String,
    },
    /// The checkpoint is not valid.
    #[error("the checkpoint {0}")]
    Note(NoteError),
    /// The data cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A segment cannot be read.
    #[error("the segment could not be read: {0}")]
    Segment(#[from] std::io::Error),
    /// The checkpoint is of another chain than the event.
    #[error("the checkpoint is of another chain: {0}")]
    OtherChain(String),
    /// A kept checkpoint is newer than the proof.
    #[error("the kept checkpoint at {0} is newer than the proof")]
    Outdated(KnownState),
    /// The decision cannot be replayed.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// Signing failed.
    #[error(transparent)]
    SigningKeys(#[from] SigningKeyError),
}

/// What to prove, and with what.
#[derive(Debug)]
pub struct Request<'a> {
    /// The chain of the event.
    pub chain: Chain<'a>,
    /// The state before the first event that is read.
    pub start: &'a Archived,
    /// The event's id.
    pub event_id: &'a str,
    /// The part of the [origin](signed_note::origin) that identifies the gateway.
    pub authority: &'a str,
    /// Checkpoints that the proof must lead to. A note that covers the event is the checkpoint of
    /// the proof.
    pub kept: &'a [KeptCheckpoint],
    /// States of the checkpoints in the data.
    pub known: &'a [KnownState],
    /// The notes in the data.
    pub notes: &'a [(TreeHead, String)],
    /// The texts of the policy and the request, for a [replay](crate::replay).
    pub replay: Option<(&'a [u8], &'a [u8])>,
    /// The keys to sign a new checkpoint, or the reason why they are missing.
    pub signer: Result<&'a SigningKeys, &'static str>,
}

/// Proves that an event is in its chain. `read` passes all events after `start` in order to a callback
/// and returns the head; it is called twice. Returns the proof's text.
///
/// # Errors
///
/// Returns an error if the event does not exist, the chain contradicts a checkpoint, or there is
/// neither a key nor a signed checkpoint.
pub fn prove(
    request: &Request<'_>,
    read: impl Fn(&mut EventHandler<'_>) -> Result<Option<Head>, ProofError>,
) -> Result<String, ProofError> {
    let Chain { tenant_id, chain_id } = request.chain;
    let marker = format!("\"event_id\":{}", Json::from(request.event_id));
    let mut found = None;
    let head = read(&mut |event| {
        // Avoids parsing the other events.
        if found.is_none() && event.text.contains(&marker) {
            let json = Json::parse(event.text.as_bytes()).map_err(|_| ProofError::Broken(event.seq))?;
            if json.member("event_id").and_then(Json::as_str) == Some(request.event_id) {
                found = Some((event.seq, json));
            }
        }
        Ok(())
    })?;
    let no_event = || ProofError::NoSuchEvent {
        tenant_id: tenant_id.to_owned(),
        chain_id: chain_id.to_owned(),
        event_id: request.event_id.to_owned(),
    };
    let ((seq, event), head) = found.zip(head).ok_or_else(no_event)?;
    let (stated, _) = ledger::check_event(&event).map_err(ProofError::Event)?;
    if stated != seq {
        return Err(ProofError::Broken(seq));
    }

    let kept_notes = request.kept.iter().filter_map(|kept| kept.note.as_ref());
    let covers = |(tree, _): &&(TreeHead, String)| tree.size >= seq && tree.size <= head.length;
    let target = kept_notes.filter(covers).min_by_key(|(tree, _)| tree.size);
    let target = match (target, request.signer) {
        (None, Err(_)) => request.notes.iter().rfind(covers),
        (target, _) => target,
    };
    let size = target.map_or(head.length, |(tree, _)| tree.size);
    let index = seq.saturating_sub(1);
    let inclusion = merkle::inclusion_path(index, size);
    let earlier: Vec<_> = request.kept.iter().filter(|kept| kept.state.length < size).collect();
    let paths: Vec<_> =
        earlier.iter().map(|kept| merkle::consistency_path(kept.state.length, size)).collect();
    let subject = request.replay.map(|(policy, body)| Subject::new(&event, policy, body)).transpose()?;
    if request.start.head.length > 0 && subject.as_ref().is_some_and(Subject::depends_on_events) {
        return Err(ProofError::Archived);
    }
    let mut sums = subject.as_ref().map(Subject::sums);
    let before = sums.as_mut().map(|sums| (seq, sums));
    let tree = collect(request, size, &read, paths.iter().flatten().chain(&inclusion).cloned(), before)?;

    let note = match (target, request.signer) {
        (Some((_, note)), _) => note.clone(),
        (None, Ok(signer)) => {
            let origin = signed_note::origin(request.authority, tenant_id, chain_id);
            TreeHead { origin, size, root: tree.tree().root() }.sign(signer)?
        }
        (None, Err(reason)) => return Err(ProofError::NoCheckpoint(reason)),
    };
    let roots = |path: &[Subtree]| tree.roots(path).ok_or(ProofError::Archived).map(hashes_json);
    let mut consistency = Vec::new();
    for (kept, path) in earlier.iter().zip(&paths) {
        consistency.push(object([("size", Some(number(kept.state.length))), ("hashes", Some(roots(path)?))]));
    }
    let inclusion = object([("index", Some(number(index))), ("hashes", Some(roots(&inclusion)?))]);
    let [policy, body, state] = match subject.zip(sums) {
        Some((subject, sums)) => subject.members(&sums),
        None => [("policy", None), ("request", None), ("state", None)],
    };
    let proof = object([
        ("event", Some(event)),
        ("checkpoint", Some(Json::String(note))),
        ("inclusion", Some(inclusion)),
        ("consistency", Some(Json::Array(consistency))),
        policy,
        body,
        state,
    ]);
    Ok(proof.to_string())
}

/// Reads the first `size` events, compares their states with all checkpoints, and collects the
/// roots of the subtrees. `before` sums the claims of the events before a decision.
fn collect(
    request: &Request<'_>,
    size: u64,
    read: impl Fn(&mut EventHandler<'_>) -> Result<Option<Head>, ProofError>,
    wanted: impl Iterator<Item = Subtree>,
    mut before: Option<(u64, &mut Sums)>,
) -> Result<Collector, ProofError> {
    let kept = request.kept.iter().map(|kept| &kept.state);
    let states: Vec<_> = kept.chain(request.known).filter(|state| state.length <= size).cloned().collect();
    let mut states = KnownStates::after(&states, request.start);
    let mut tree = Collector::new(request.start.tree.clone(), wanted);
    read(&mut |event| {
        let length = tree.tree().size().saturating_add(1);
        if length > size {
            return Ok(());
        }
        let hash = ledger::stated_hash(&event.text).filter(|_| event.seq == length);
        let hash = hash.ok_or(ProofError::Broken(length))?;
        if let Some((seq, sums)) = &mut before
            && length < *seq
        {
            sums.push(length, &event.text);
        }
        tree.push(merkle::leaf_hash(&hash));
        states.compare(&Head { length, hash: hex::encode(hash) }, tree.tree());
        Ok(())
    })?;
    match states.contradicted() {
        _ if tree.tree().size() != size => Err(ProofError::Broken(tree.tree().size().saturating_add(1))),
        Some(state) => Err(ProofError::Contradicted(state)),
        None => Ok(tree),
    }
}

/// A verified proof.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The event.
    pub event: Json,
    /// Its position in the chain.
    pub seq: u64,
    /// The checkpoint.
    pub head: TreeHead,
    /// Id of the key that signed the checkpoint.
    pub kid: String,
    /// Lengths of the kept checkpoints that it agrees with.
    pub agrees: Vec<u64>,
}

/// Describes the result in one sentence a line.
impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.event.member("event_id").and_then(Json::as_str).unwrap_or_default();
        let (seq, TreeHead { size, origin, .. }) = (self.seq, &self.head);
        writeln!(f, "{id:?} is event {seq} of {size} in {}", origin.escape_debug())?;
        write!(f, "checkpoint signed with key {}", self.kid)?;
        self.agrees
            .iter()
            .try_for_each(|length| write!(f, "\nagrees with the kept checkpoint at event {length}"))
    }
}

/// Verifies a proof with the gateway's public keys. It must agree with each checkpoint in `kept`.
///
/// # Errors
///
/// Returns the first part of the proof that is invalid.
pub fn verify(text: &str, keys: &[PublicKey], kept: &[KeptCheckpoint]) -> Result<Verified, ProofError> {
    let json = match text.len() {
        ..=MAX_BYTES => Json::parse(text.as_bytes()).map_err(|_| ProofError::Malformed)?,
        _ => return Err(ProofError::Malformed),
    };
    let Parts { event, note, index, inclusion, consistency } =
        Parts::of(&json).ok_or(ProofError::Malformed)?;
    let (seq, hash) = ledger::check_event(event).map_err(ProofError::Event)?;
    let (head, kid) = TreeHead::read(note, keys).map_err(ProofError::Note)?;
    let chain = |name| event.member(name).and_then(Json::as_str).ok_or(ProofError::Malformed);
    let (tenant_id, chain_id) = (chain("tenant_id")?, chain("chain_id")?);
    if !head.is_of(tenant_id, chain_id) {
        return Err(ProofError::OtherChain(head.origin.escape_debug().to_string()));
    }
    let root = merkle::root_of_inclusion(&merkle::leaf_hash(&hash), index, head.size, &inclusion);
    if index.checked_add(1) != Some(seq) || root != Some(head.root) {
        return Err(ProofError::Excluded(seq));
    }
    let mut agrees = Vec::new();
    for checkpoint in kept {
        if !checkpoint.is_of(tenant_id, chain_id) {
            return Err(ProofError::OtherChain(checkpoint.describe_chain()));
        }
        let state = &checkpoint.state;
        let agreed = match (&state.hash, state.root) {
            _ if state.length > head.size => return Err(ProofError::Outdated(state.clone())),
            (_, Some(earlier)) if state.length == head.size => earlier == head.root,
            (_, Some(earlier)) => {
                let proof = consistency.iter().find(|(size, _)| *size == state.length);
                let (_, proof) = proof.ok_or_else(|| ProofError::NoConsistency(state.clone()))?;
                merkle::is_consistent(state.length, &earlier, head.size, &head.root, proof)
            }
            // The hash of one event does not determine the tree.
            (Some(hash_then), None) if state.length == seq => *hash_then == hex::encode(hash),
            (_, None) => return Err(ProofError::NoConsistency(state.clone())),
        };
        if !agreed {
            return Err(ProofError::Inconsistent(state.clone()));
        }
        agrees.push(state.length);
    }
    Ok(Verified { event: event.clone(), seq, head, kid, agrees })
}

/// The members of a proof.
struct Parts<'a> {
    event: &'a Json,
    note: &'a str,
    index: u64,
    inclusion: Vec<Hash>,
    consistency: Vec<(u64, Vec<Hash>)>,
}

impl<'a> Parts<'a> {
    fn of(proof: &'a Json) -> Option<Self> {
        let inclusion = proof.member("inclusion")?;
        let Json::Array(consistency) = proof.member("consistency")? else {
            return None;
        };
        let earlier = |proof: &Json| Some((integer(proof, "size")?, hashes(proof)?));
        Some(Self {
            event: proof.member("event")?,
            note: proof.member("checkpoint")?.as_str()?,
            index: integer(inclusion, "index")?,
            inclusion: hashes(inclusion)?,
            consistency: consistency.iter().map(earlier).collect::<Option<_>>()?,
        })
    }
}

fn number(value: u64) -> Json {
    Json::Number(Number::from(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn integer(object: &Json, name: &str) -> Option<u64> {
    let Json::Number(number) = object.member(name)? else {
        return None;
    };
    number.as_str().parse().ok()
}

fn hashes_json(hashes: Vec<Hash>) -> Json {
    Json::Array(hashes.into_iter().map(|hash| Json::String(hex::encode(hash))).collect())
}

fn hashes(object: &Json) -> Option<Vec<Hash>> {
    let Json::Array(hashes) = object.member("hashes")? else {
        return None;
    };
    hashes.iter().map(|hash| hex::decode(hash.as_str()?).ok()?.try_into().ok()).collect()
}
