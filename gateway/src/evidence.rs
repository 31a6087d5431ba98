//! Ledger exports: chains as signed JSON Lines, and their offline verification.
//!
//! An export contains a chain's events, one per line, as stored. If the gateway has signing keys, a
//! last line `{"signature": "…"}` follows: a compact JWS over the chain's head. Its `typ` differs
//! from a passport's, so neither is accepted as the other. An export contains no keys, because a
//! party that can replace the events could also replace the keys.
//!
//! A part of a chain that does not begin with its first event is a segment. Its first line is
//! `{"segment": {…}}` with the state before its first event, which its signature covers.

use std::fmt;
use std::io::{self, BufRead, Write};

use actpass_protocol::Json;
use actpass_protocol::json::Number;
use actpass_protocol::token::{PassportError, PublicKey, TokenType, Unverified};

use crate::checkpoints::{Checkpoint, CheckpointError, KnownState};
use crate::clock::rfc3339;
use crate::halts::{AllowedDuringHalt, HaltAudit};
use crate::ledger::{self, Archived, Defect, Head, Verifier};
use crate::merkle::{Frontier, leaf_hash};
use crate::object_writer::object;
use crate::passport::SigningKeys;
use crate::passport::keys::SigningKeyError;
use crate::store::{OpenError, StoredEvent};

/// Prefix of the signature line.
const SIGNATURE_PREFIX: &str = r#"{"signature":""#;

/// Prefix of the first line of a segment.
const SEGMENT_PREFIX: &str = r#"{"segment":{"#;

/// Identifies a chain.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a> {
    /// The tenant.
    pub tenant_id: &'a str,
    /// The chain.
    pub chain_id: &'a str,
}

/// Callback for each event.
pub type EventHandler<'e> = dyn FnMut(&StoredEvent) -> Result<(), ExportError> + 'e;

/// Error of an export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// An event is broken. All events are written, but no signature.
    #[error("event {0} is broken, so the export is not signed: {1}")]
    Broken(u64, Defect),
    /// A checkpoint is invalid.
    #[error("a checkpoint in the data is invalid, so the export is not signed: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The chain contradicts a checkpoint. No signature is written.
    #[error(
        "the chain contradicts the checkpoint at {0}: the ledger was rewritten, so the export is not signed"
    )]
    Contradicted(KnownState),
    /// The chain does not exist.
    #[error("the tenant {tenant_id:?} has no chain {chain_id:?}")]
    NoSuchChain {
        /// The tenant.
        tenant_id: String,
        /// The chain.
        chain_id: String,
    },
    /// Events are missing from the data.
    #[error("the chain has {found} events, expected {expected}: the data was changed")]
    Incomplete {
        /// Number of events found.
        found: u64,
        /// Number of events expected.
        expected: u64,
    },
    /// Signing failed.
    #[error(transparent)]
    SigningKeys(#[from] SigningKeyError),
    /// The data cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The last event differs from the recorded head. No signature is written.
    #[error("the chain's head is {found}, expected {expected}: the data was changed")]
    OtherHead {
        /// Hash of the last event.
        found: String,
        /// Recorded hash.
        expected: String,
    },
    /// The output cannot be written.
    #[error("the export could not be written: {0}")]
    Write(#[from] io::Error),
}

/// Writes a chain to `out`, one event per line, followed by its head signed with the active key of
/// `signer` at `now` (seconds since 1970). `read` passes the events after the `archived` ones in
/// order to a callback and returns the head. `checkpoints` are earlier states that the chain must
/// contain; those of archived events are ignored.
///
/// # Errors
///
/// Returns an error if the chain does not exist or cannot be read or signed, or `out` cannot be
/// written. An incomplete chain is not signed.
pub fn export(
    chain: Chain<'_>,
    archived: &Archived,
    read: impl FnOnce(&mut EventHandler<'_>) -> Result<Option<Head>, ExportError>,
    signer: Option<&SigningKeys>,
    checkpoints: &[KnownState],
    now: i64,
    out: &mut impl Write,
) -> Result<Exported, ExportError> {
    let (mut found, mut broken) = (archived.head.length, None);
    let mut tree = archived.tree.clone();
    let mut kept = KnownStates::after(checkpoints, archived);
    let mut verifier = Verifier::after(archived.head.clone());
    if found > 0 {
        writeln!(out, "{}", object([("segment", Some(Json::Object(start_claims(archived))))]))?;
    }
    let head = read(&mut |event| {
        found += 1;
        if broken.is_none() {
            broken = verifier.examine(&event.text).err().map(|defect| ExportError::Broken(found, defect));
            append_to(&mut tree, verifier.head());
            kept.compare(verifier.head(), &tree);
        }
        out.write_all(event.text.as_bytes())?;
        out.write_all(b"\n").map_err(ExportError::Write)
    })?;
    let unknown = || ExportError::NoSuchChain {
        tenant_id: chain.tenant_id.to_owned(),
        chain_id: chain.chain_id.to_owned(),
    };
    let head = head.filter(|head| head.length > 0).ok_or_else(unknown);
    let whole = head.and_then(|head| match (broken, verifier.head()) {
        _ if found != head.length => Err(ExportError::Incomplete { found, expected: head.length }),
        (Some(broken), _) => Err(broken),
        _ if kept.contradicted().is_some() => {
            Err(kept.contradicted().map_or_else(unknown, ExportError::Contradicted))
        }
        (None, last) if *last != head => {
            Err(ExportError::OtherHead { found: last.hash.clone(), expected: head.hash })
        }
        (None, _) => Ok(head),
    });
    if let (Ok(head), Some(signer)) = (&whole, signer) {
        let claims = signed_head(chain, head, archived, &tree, now);
        let (signature, _) = signer.sign(TokenType::ChainHead, &claims)?;
        writeln!(out, "{}", object([("signature", Some(Json::String(signature)))]))?;
    }
    out.flush()?;
    Ok(Exported { head: whole?, tree })
}

/// An exported chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Its head.
    pub head: Head,
    /// Its Merkle tree.
    pub tree: Frontier,
}

/// Appends the event that ends a chain to its tree.
fn append_to(tree: &mut Frontier, head: &Head) {
    tree.push(leaf_hash(&hex::decode(&head.hash).unwrap_or_default()));
}

/// Earlier states to compare the chain with.
pub(crate) struct KnownStates {
    /// Sorted by length, the shortest last.
    states: Vec<KnownState>,
    contradicted: Option<KnownState>,
}

impl KnownStates {
    pub(crate) fn new(states: &[KnownState]) -> Self {
        let mut states = states.to_vec();
        states.sort_by_key(|state| std::cmp::Reverse(state.length));
        Self { states, contradicted: None }
    }

    /// Ignores the states before the end of the archived events.
    pub(crate) fn after(states: &[KnownState], archived: &Archived) -> Self {
        let mut known = Self::new(states);
        known.states.retain(|state| state.length >= archived.head.length.max(1));
        known.examine(&archived.head, &archived.tree);
        known
    }

    /// Compares the state between two files, if there are events before.
    fn examine(&mut self, head: &Head, tree: &Frontier) {
        if head.length > 0 {
            self.compare(head, tree);
        }
    }

    /// Compares the chain's state after the next event.
    pub(crate) fn compare(&mut self, head: &Head, tree: &Frontier) {
        while let Some(kept) = self.states.pop_if(|kept| kept.length <= head.length) {
            if kept.contradicts(head, tree) && self.contradicted.is_none() {
                self.contradicted = Some(kept);
            }
        }
    }

    /// Returns the first state that the complete chain does not contain.
    pub(crate) fn contradicted(&self) -> Option<KnownState> {
        self.contradicted.clone().or_else(|| self.states.last().cloned())
    }
}

/// The claims of the signature.
fn signed_head(chain: Chain<'_>, head: &Head, archived: &Archived, tree: &Frontier, now: i64) -> Json {
    let claims = object([
        ("tenant_id", Some(Json::from(chain.tenant_id))),
        ("chain_id", Some(Json::from(chain.chain_id))),
        ("length", Some(number(head.length))),
        ("head", Some(Json::from(&*head.hash))),
        ("root", Some(Json::String(hex::encode(tree.root())))),
        ("exported_at", Some(Json::String(rfc3339(now)))),
    ]);
    let mut members = claims.as_object().unwrap_or_default().to_vec();
    if archived.head.length > 0 {
        members.extend(start_claims(archived));
    }
    Json::Object(members)
}

/// The state before the first event of a segment.
fn start_claims(archived: &Archived) -> Vec<(String, Json)> {
    let frontier = archived.tree.nodes().iter().map(|node| Json::String(hex::encode(node))).collect();
    let first = number(archived.head.length.saturating_add(1));
    let claims = [
        ("first", first),
        ("previous", Json::from(&*archived.head.hash)),
        ("frontier", Json::Array(frontier)),
    ];
    claims.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

/// Reads the state before the first event of a segment.
fn read_start(claims: &Json) -> Option<Archived> {
    let Json::Number(first) = claims.member("first")? else {
        return None;
    };
    let length = first.as_str().parse::<u64>().ok()?.checked_sub(1).filter(|length| *length > 0)?;
    let Json::Array(nodes) = claims.member("frontier")? else {
        return None;
    };
    let node = |node: &Json| hex::decode(node.as_str()?).ok()?.try_into().ok();
    let tree = Frontier::restore(length, nodes.iter().map(node).collect::<Option<_>>()?)?;
    let hash = claims.member("previous")?.as_str()?.to_owned();
    Some(Archived { head: Head { length, hash }, tree, at: 0 })
}

/// Reads the first line of a segment.
fn read_segment(line: &str) -> Option<Archived> {
    let line = line.strip_prefix(SEGMENT_PREFIX).and_then(|_| Json::parse(line.as_bytes()).ok())?;
    match line.as_object()? {
        [(_, claims)] => read_start(claims),
        _ => None,
    }
}

/// Replaces `line` with the next line, without its end; `false` after the last one.
fn read_line(export: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let read = export.read_until(b'\n', line)?;
    line.pop_if(|last| *last == b'\n');
    Ok(read > 0)
}

/// Reads an export or segment without verifying it: returns the state before its first event, and
/// passes its events to `each`.
///
/// # Errors
///
/// Returns an error if the file cannot be read, and errors of `each`.
pub fn read_events<E: From<io::Error>>(
    export: impl BufRead,
    mut each: impl FnMut(&StoredEvent) -> Result<(), E>,
) -> Result<Archived, E> {
    let mut start = Archived::default();
    let mut seq = 0;
    for (line, text) in (1..).zip(export.split(b'\n')) {
        let text = String::from_utf8(text?).unwrap_or_default();
        if line == 1
            && let Some(segment) = read_segment(&text)
        {
            seq = segment.head.length;
            start = segment;
            continue;
        }
        if read_signature(&text).is_none() {
            seq = seq.saturating_add(1);
            each(&StoredEvent { seq, text })?;
        }
    }
    Ok(start)
}

fn number(value: u64) -> Json {
    Json::Number(Number::from(i64::try_from(value).unwrap_or(i64::MAX)))
}

/// Error of the verification of an export.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// An event follows the last signed one.
    #[error("line {line}: event {seq}{event_label}: added after signing; {length} events are signed")]
    Added {
        /// Line number, starting at 1.
        line: u64,
        /// Position of the event in the chain.
        seq: u64,
        /// The event's own id in parentheses, if it is the last event.
        event_label: String,
        /// Number of signed events.
        length: u64,
    },
    /// Data follows the signature.
    #[error("line {0}: unexpected data after the signature")]
    AfterSignature(u64),
    /// An event is broken.
    #[error("line {line}: event {seq}{event_label}: {defect}")]
    Broken {
        /// Line number, starting at 1.
        line: u64,
        /// Position in the chain.
        seq: u64,
        /// The event's own id in parentheses.
        event_label: String,
        /// The defect.
        defect: Defect,
    },
    /// A checkpoint in the export is not signed by a given key, or contradicts its signature.
    #[error("line {0}: event {1}: {2}")]
    Checkpoint(u64, u64, CheckpointError),
    /// The chain contradicts a checkpoint.
    #[error("the chain contradicts the checkpoint at {0}: it was rewritten or truncated")]
    Contradicted(KnownState),
    /// An event is an `allow` during a halt.
    #[error("line {0}: event {1}: {2}")]
    Halted(u64, u64, AllowedDuringHalt),
    /// There are no events.
    #[error("the export has no events")]
    Empty,
    /// The chain has a different head.
    #[error("the chain ends at event {} with head {}, expected head {expected}: events are missing at the \
    end", .found.length, .found.hash)]
    Head {
        /// The chain's head.
        found: Head,
        /// The expected hash of the last event.
        expected: String,
    },
    /// A signed event is missing at the end.
    #[error("line {line}: event {seq}: missing; {length} events are signed")]
    Missing {
        /// Line number, starting at 1.
        line: u64,
        /// The first missing event.
        seq: u64,
        /// Number of signed events.
        length: u64,
    },
    /// The export cannot be read.
    #[error("the export could not be read: {0}")]
    Read(#[from] io::Error),
    /// The chain is consistent, but its last event is not the signed one.
    #[error(
        "line {line}: event {seq}{event_label}: differs from the signed event; it or an earlier event was \
    rewritten"
    )]
    Rewritten {
        /// Line number, starting at 1.
        line: u64,
        /// The last event.
        seq: u64,
        /// The event's own id in parentheses.
        event_label: String,
    },
    /// No given key verifies the signature.
    #[error("line {line}: the signature {refusal}")]
    Signature {
        /// Line number, starting at 1.
        line: u64,
        /// The reason.
        refusal: PassportError,
    },
    /// The first line of a segment contradicts its signature, or does not continue the file before.
    #[error("line 1: the state before the segment is not {0}")]
    Segment(&'static str),
    /// A segment does not follow the file before.
    #[error(
        "line 1: begins at event {found}, expected event {expected}: a segment is missing, repeated or out of order"
    )]
    SegmentOrder {
        /// Its first event.
        found: u64,
        /// The event that comes next.
        expected: u64,
    },
    /// A signature is required, but no keys are given to verify it.
    #[error("a verified signature is required, but no public keys are given")]
    Unchecked,
    /// A signature is required, but missing.
    #[error("a signature is required, but the export is not signed")]
    Unsigned,
}

/// Expectations that an export is verified against.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected<'a> {
    /// Expected hash of the last event.
    pub head: Option<&'a str>,
    /// The gateway's public keys from a trusted source. If set, a signature is required.
    pub keys: Option<&'a [PublicKey]>,
    /// Whether a verifiable signature is required.
    pub signature: bool,
    /// States of checkpoints that were stored elsewhere.
    pub checkpoints: &'a [KnownState],
}

/// A verified chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The chain's head.
    pub head: Head,
    /// Its Merkle tree.
    pub tree: Frontier,
    /// The first verified event. Earlier events are in segments that were not given.
    pub first: u64,
    /// The states of its signatures, one for each file.
    pub signatures: Vec<Signature>,
    /// The halts of a chain of decisions; empty for other chains.
    pub halts: HaltAudit,
}

/// State of an export's signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// One of the given keys signed this chain.
    Good {
        /// The key's id.
        kid: String,
        /// The signed claims other than the head: `tenant_id`, `chain_id`, `exported_at`.
        claims: Json,
    },
    /// There is no signature.
    Missing,
    /// There is a signature for this head, but no keys were given to verify it: anyone could have
    /// written it.
    Unchecked,
}

/// Describes the state in one sentence.
impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good { kid, claims } => {
                let text = |name| claims.member(name).and_then(Json::as_str).unwrap_or_default();
                let (chain, tenant) = (text("chain_id"), text("tenant_id"));
                let at = text("exported_at").escape_debug();
                let first = read_start(claims).map(|start| start.head.length.saturating_add(1));
                match (first, claims.member("length")) {
                    (Some(first), Some(last)) => write!(
                        f,
                        "signed: events {first} to {last} of chain {chain:?} of tenant {tenant:?} at {at} with key {kid}"
                    ),
                    (_, _) => {
                        write!(f, "signed: chain {chain:?} of tenant {tenant:?} at {at} with key {kid}")
                    }
                }
            }
            Self::Missing => f.write_str("not signed: its origin is not proven"),
            Self::Unchecked => {
                f.write_str("signature not verified: pass the gateway's public keys with --jwks")
            }
        }
    }
}

/// Verifies an export: the events are complete from the first, unchanged and in order, and the head
/// matches the signature. Only a signature or `expected.head` detects missing events at the end.
///
/// # Errors
///
/// Returns the first broken event, the first `allow` during a halt, or the problem of the head or the
/// signature.
pub fn verify(export: impl BufRead, expected: &Expected<'_>) -> Result<Verified, VerifyError> {
    let mut verifier = ExportVerifier::new(expected);
    verifier.read(export)?;
    verifier.finish()
}

/// Verifies a chain in several files: archived segments in order, and an export of the rest.
pub struct ExportVerifier<'a> {
    expected: &'a Expected<'a>,
    /// `None` before the first file.
    first: Option<u64>,
    verifier: Verifier,
    tree: Frontier,
    halts: HaltAudit,
    kept: KnownStates,
    signatures: Vec<Signature>,
}

impl<'a> ExportVerifier<'a> {
    /// Starts before the first file.
    pub fn new(expected: &'a Expected<'a>) -> Self {
        let kept = KnownStates::new(expected.checkpoints);
        let (verifier, tree, halts) = (Verifier::default(), Frontier::default(), HaltAudit::default());
        Self { expected, first: None, verifier, tree, halts, kept, signatures: Vec::new() }
    }

    /// Begins a file with the state before its first event.
    fn begin(&mut self, start: &Archived) -> Result<(), VerifyError> {
        let head = self.verifier.head();
        let found = start.head.length.saturating_add(1);
        if self.first.is_none() {
            self.first = Some(found);
            self.verifier = Verifier::after(start.head.clone());
            self.tree = start.tree.clone();
            self.kept = KnownStates::after(self.expected.checkpoints, start);
            return Ok(());
        }
        match head {
            _ if start.head.length != head.length => {
                Err(VerifyError::SegmentOrder { found, expected: head.length.saturating_add(1) })
            }
            _ if start.head.hash != head.hash || start.tree != self.tree => {
                Err(VerifyError::Segment("the end of the file before"))
            }
            _ => Ok(()),
        }
    }

    /// Verifies the next file.
    ///
    /// # Errors
    ///
    /// Same as [`verify`]; also if the file does not continue the one before.
    pub fn read(&mut self, mut export: impl BufRead) -> Result<(), VerifyError> {
        let (mut last, mut signature) = (String::new(), None);
        let (mut start, mut lines) = (Archived::default(), 0);
        let mut bytes = Vec::new();
        while read_line(&mut export, &mut bytes)? {
            // Invalid UTF-8 is not an event and must not be repaired into one.
            let text = str::from_utf8(&bytes).unwrap_or_default();
            lines += 1;
            if signature.is_some() {
                return Err(VerifyError::AfterSignature(lines));
            }
            if lines == 1 {
                let segment = read_segment(text);
                let is_segment = segment.is_some();
                start = segment.unwrap_or_default();
                self.begin(&start)?;
                if is_segment {
                    continue;
                }
            }
            signature = read_signature(text);
            if signature.is_some() {
                continue;
            }
            self.examine(lines, text)?;
            last.clear();
            last.push_str(text);
        }
        let found = self.verifier.head().clone();
        if lines == 0 || found.length == start.head.length {
            return Err(VerifyError::Empty);
        }
        if let Some(contradicted) = &self.kept.contradicted {
            return Err(VerifyError::Contradicted(contradicted.clone()));
        }
        let signature = match signature {
            Some(token) => {
                let signed = SignedFile { token: &token, line: lines, start: &start, found: &found };
                signed.check(&last, &self.tree, self.expected.keys)?
            }
            None => Signature::Missing,
        };
        match (&signature, self.expected.signature || self.expected.keys.is_some()) {
            (Signature::Missing, true) => return Err(VerifyError::Unsigned),
            (Signature::Unchecked, true) => return Err(VerifyError::Unchecked),
            (Signature::Good { .. } | Signature::Missing | Signature::Unchecked, _) => {}
        }
        self.signatures.push(signature);
        Ok(())
    }

    fn examine(&mut self, line: u64, text: &str) -> Result<(), VerifyError> {
        let seq = self.verifier.head().length.saturating_add(1);
        self.verifier.examine(text).map_err(|defect| VerifyError::Broken {
            line,
            seq,
            event_label: event_label(text),
            defect,
        })?;
        self.halts.push(seq, text).map_err(|allowed| VerifyError::Halted(line, seq, allowed))?;
        append_to(&mut self.tree, self.verifier.head());
        self.kept.compare(self.verifier.head(), &self.tree);
        if let (Some(keys), true) = (self.expected.keys, is_signed_checkpoint(text)) {
            Checkpoint::read(text, keys).map_err(|error| VerifyError::Checkpoint(line, seq, error))?;
        }
        Ok(())
    }

    /// Ends after the last file.
    ///
    /// # Errors
    ///
    /// Returns an error if there was no event, a checkpoint is of a later event, or the head is not
    /// the expected one.
    pub fn finish(self) -> Result<Verified, VerifyError> {
        if let Some(state) = self.kept.contradicted() {
            return Err(VerifyError::Contradicted(state));
        }
        let found = self.verifier.head().clone();
        match self.expected.head {
            _ if found.length == 0 => Err(VerifyError::Empty),
            Some(head) if found.hash != head => Err(VerifyError::Head { found, expected: head.to_owned() }),
            Some(_) | None => Ok(Verified {
                head: found,
                tree: self.tree,
                first: self.first.unwrap_or(1),
                signatures: self.signatures,
                halts: self.halts,
            }),
        }
    }
}

fn is_signed_checkpoint(event: &str) -> bool {
    // Avoids parsing events that cannot be checkpoints.
    event.contains(ledger::CHECKPOINT)
        && Json::parse(event.as_bytes()).is_ok_and(|event| {
            event.member("event_type").and_then(Json::as_str) == Some(ledger::CHECKPOINT)
                && event.member("metadata").is_some_and(|metadata| metadata.member("signature").is_some())
        })
}

/// Returns the token of a signature line.
fn read_signature(line: &str) -> Option<String> {
    let line = line.strip_prefix(SIGNATURE_PREFIX).and_then(|_| Json::parse(line.as_bytes()).ok())?;
    match line.as_object()? {
        [(_, Json::String(token))] => Some(token.clone()),
        _ => None,
    }
}

/// A signature line and the events that it must cover.
struct SignedFile<'a> {
    token: &'a str,
    /// Its line number.
    line: u64,
    /// The state before the first event.
    start: &'a Archived,
    /// The state after the last event.
    found: &'a Head,
}

impl SignedFile<'_> {
    /// Compares the signed head with the chain's head; `last` is the last event.
    fn check(
        &self,
        last: &str,
        tree: &Frontier,
        keys: Option<&[PublicKey]>,
    ) -> Result<Signature, VerifyError> {
        let Self { token, line, start, found } = *self;
        let refused = |refusal| VerifyError::Signature { line, refusal };
        let signature = Unverified::chain_head(token).map_err(refused)?;
        let kid = signature.kid().to_owned();
        let payload = match keys {
            Some(keys) => {
                let key = keys.iter().find(|key| key.kid() == kid).ok_or(PassportError::UnknownKey);
                key.and_then(|key| signature.verify(key)).map_err(refused)?
            }
            None => signature.danger_unverified(),
        };
        let read = || {
            let claims = Json::parse(&payload).ok()?;
            // The signature of a checkpoint is not that of an export.
            claims.member("exported_at")?;
            let Json::Number(length) = claims.member("length")? else {
                return None;
            };
            let length = length.as_str().parse().ok()?;
            let hash = claims.member("head")?.as_str()?.to_owned();
            Some((claims, Head { length, hash }))
        };
        let (claims, signed) = read().ok_or_else(|| refused(PassportError::Malformed))?;
        if read_start(&claims).unwrap_or_default() != *start {
            return Err(VerifyError::Segment("the signed one"));
        }
        let length = signed.length;
        // The line of the last event, before the signature.
        let last_line = line.saturating_sub(1);
        match found.length.cmp(&length) {
            std::cmp::Ordering::Less => {
                Err(VerifyError::Missing { line, seq: found.length.saturating_add(1), length })
            }
            std::cmp::Ordering::Greater => {
                let seq = length.saturating_add(1);
                let event_label = if seq == found.length { event_label(last) } else { String::new() };
                let line = last_line.saturating_sub(found.length.saturating_sub(seq));
                Err(VerifyError::Added { line, seq, event_label, length })
            }
            std::cmp::Ordering::Equal if found.hash != signed.hash => {
                Err(VerifyError::Rewritten { line: last_line, seq: length, event_label: event_label(last) })
            }
            // Exports of earlier versions have no root.
            std::cmp::Ordering::Equal
                if claims
                    .member("root")
                    .is_some_and(|root| root.as_str() != Some(&*hex::encode(tree.root()))) =>
            {
                Err(VerifyError::Segment("the signed one"))
            }
            std::cmp::Ordering::Equal if keys.is_none() => Ok(Signature::Unchecked),
            std::cmp::Ordering::Equal => Ok(Signature::Good { kid, claims }),
        }
    }
}

fn event_label(text: &str) -> String {
    let event = Json::parse(text.as_bytes()).ok();
    let id = event.as_ref().and_then(|event| event.member("event_id")).and_then(Json::as_str);
    id.map(|id| format!(" ({})", id.escape_debug())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use actpass_protocol::token::Algorithm;
    use rusqlite::Connection;
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn lines_are_read_without_their_ends() {
        for (text, lines) in
            [("", &[][..]), ("a", &["a"]), ("a\n", &["a"]), ("a\n\nb\r\n", &["a", "", "b\r"])]
        {
            let (mut read, mut line, mut export) = (Vec::new(), Vec::new(), text.as_bytes());
            while read_line(&mut export, &mut line).unwrap() {
                read.push(String::from_utf8(line.clone()).unwrap());
            }
            assert_eq!(read, lines, "{text:?}");
        }
    }
    use crate::ledger::Draft;
    use crate::seal::MasterKey;
    use crate::store::{Location, Record, SealedKey, SqliteStore, Store, read_chain};

    async fn three_events(path: &Path) {
        let store = SqliteStore::open(path).unwrap();
        for number in 0..3 {
            let event = Draft {
                event_id: format!("ev_{number}"),
                tenant_id: "t".into(),
                chain_id: "c".to_owned(),
                ..Draft::default()
            };
            store.record(Record::of(event)).await.unwrap();
        }
        store.close().await;
    }

    fn export_signed(path: &Path) -> (Result<Exported, ExportError>, String) {
        let master = MasterKey::parse(&"07".repeat(32)).unwrap();
        let ring =
            SigningKeys::open(&[SealedKey::generate(&master, Algorithm::EdDsa).unwrap()], &master).unwrap();
        let mut out = Vec::new();
        let chain = Chain { tenant_id: "t", chain_id: "c" };
        let data = Location::File(path.to_owned());
        let read = |each: &mut EventHandler<'_>| read_chain(&data, "t", "c", |event| each(event));
        let exported = export(chain, &Archived::default(), read, Some(&ring), &[], 0, &mut out);
        (exported, String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn export_of_tampered_data_is_not_signed() {
        for (change, expected) in [
            ("DELETE FROM events WHERE seq = 3", "2 events, expected 3"),
            ("UPDATE events SET event = replace(event, 'ev_1', 'ev_9') WHERE seq = 2", "event 2 is broken"),
            ("UPDATE chains SET head = lower(hex(zeroblob(32)))", "the chain's head is"),
        ] {
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("data.db");
            three_events(&path).await;
            let (whole, text) = export_signed(&path);
            assert_eq!((whole.unwrap().head.length, text.contains(SIGNATURE_PREFIX)), (3, true));

            let file = Connection::open(&path).unwrap();
            file.execute_batch("DROP TRIGGER events_are_not_removed; DROP TRIGGER events_are_not_changed")
                .unwrap();
            file.execute_batch(change).unwrap();
            drop(file);
            let (changed, text) = export_signed(&path);
            let error = changed.unwrap_err().to_string();
            assert!(error.contains(expected) && !text.contains(SIGNATURE_PREFIX), "{error}");
        }
    }
}
