//! The ledger outside of the gateway: chains exported as JSON Lines, signed, and checked by whoever has them.
//!
//! An export is the events of a chain, one a line, as they are kept. If the gateway has keys, a last line follows,
//! `{"signature": "…"}`: a compact JWS of how the chain ends. It is no passport, and no passport is one: their `typ`
//! differs. There is no key in an export: who can replace the one can replace the other.

use std::fmt;
use std::io::{self, BufRead, Write};

use actpass_protocol::Json;
use actpass_protocol::json::Number;
use actpass_protocol::token::{PassportError, PublicKey, TokenType, Unverified};

use crate::checkpoints::{Checkpoint, CheckpointError};
use crate::clock::rfc3339;
use crate::ledger::{self, Defect, Head, Verifier};
use crate::object_writer::object;
use crate::passport::SigningKeys;
use crate::passport::keys::SigningKeyError;
use crate::store::{OpenError, StoredEvent};

/// How the line with the signature begins.
const SIGNATURE_PREFIX: &str = r#"{"signature":""#;

/// Whose chain is exported, and which.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a> {
    /// The tenant.
    pub tenant_id: &'a str,
    /// The chain.
    pub chain_id: &'a str,
}

/// What is done with each event.
pub type EventHandler<'e> = dyn FnMut(&StoredEvent) -> Result<(), ExportError> + 'e;

/// Why a chain was not exported, or is not signed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// An event is not what was recorded in its place. All events were written, and no signature.
    #[error("event {0} is not what was recorded, so the export is not signed: {1}")]
    Broken(u64, Defect),
    /// A checkpoint of the chain cannot be believed.
    #[error("a checkpoint in the data is not one that this gateway made, so the export is not signed: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The chain is not the one of which a checkpoint was made. No signature was written.
    #[error(
        "the chain contradicts the checkpoint of its event {}, whose hash is {}: the ledger was rewritten, so the export is not signed",
        .0.length,
        .0.hash
    )]
    Contradicted(Head),
    /// The tenant has no such chain.
    #[error("the tenant {tenant_id:?} has no chain {chain_id:?}")]
    NoSuchChain {
        /// The tenant.
        tenant_id: String,
        /// The chain.
        chain_id: String,
    },
    /// The data file has not all of its events.
    #[error(
        "the chain has {found} events in the data file where it must have {expected}: the file was changed"
    )]
    Incomplete {
        /// How many events there are.
        found: u64,
        /// How many there must be.
        expected: u64,
    },
    /// It cannot be signed.
    #[error(transparent)]
    SigningKeyStore(#[from] SigningKeyError),
    /// The data file cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The last event is not the one that the chain must end with. No signature was written.
    #[error(
        "the chain ends with the head {found} in the data file where it must end with {expected}: the file was changed"
    )]
    OtherHead {
        /// The hash of the last event.
        found: String,
        /// The hash that it must have.
        expected: String,
    },
    /// The events could not be written.
    #[error("the export could not be written: {0}")]
    Write(#[from] io::Error),
}

/// Writes a chain to `out`, an event a line, as it is kept, and how it ends, signed with the active key of `signer` at
/// `now`, in seconds since 1970. `read` hands out the chain's events, in order, and its head; `checkpoints` is how it stood
/// before.
///
/// # Errors
///
/// If there is no such chain, or it cannot be read or signed, or `out` not written. What is not whole is not signed.
pub fn export(
    chain: Chain<'_>,
    read: impl FnOnce(&mut EventHandler<'_>) -> Result<Option<Head>, ExportError>,
    signer: Option<&SigningKeys>,
    checkpoints: &[Head],
    now: i64,
    out: &mut impl Write,
) -> Result<Head, ExportError> {
    let (mut found, mut broken) = (0, None);
    let mut kept = KnownHeads::new(checkpoints);
    let mut verifier = Verifier::default();
    let head = read(&mut |event| {
        found += 1;
        if broken.is_none() {
            broken = verifier.examine(&event.text).err().map(|defect| ExportError::Broken(found, defect));
            kept.compare(verifier.head());
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
        let (signature, _) = signer.sign(TokenType::ChainHead, &signed_head(chain, head, now))?;
        writeln!(out, "{}", object([("signature", Some(Json::String(signature)))]))?;
    }
    out.flush()?;
    whole
}

/// Heads that a chain had, which are compared with what it is.
struct KnownHeads {
    /// By length.
    heads: Vec<Head>,
    contradicted: Option<Head>,
}

impl KnownHeads {
    fn new(heads: &[Head]) -> Self {
        let mut heads = heads.to_vec();
        heads.sort_by_key(|head| std::cmp::Reverse(head.length));
        Self { heads, contradicted: None }
    }

    /// Looks at the chain up to here.
    fn compare(&mut self, head: &Head) {
        while let Some(kept) = self.heads.pop_if(|kept| kept.length <= head.length) {
            if kept != *head && self.contradicted.is_none() {
                self.contradicted = Some(kept);
            }
        }
    }

    /// The first head that the chain did not have, once all of it was seen.
    fn contradicted(&self) -> Option<Head> {
        self.contradicted.clone().or_else(|| self.heads.last().cloned())
    }
}

/// What the signature is of.
fn signed_head(chain: Chain<'_>, head: &Head, now: i64) -> Json {
    let length = Number::from(i64::try_from(head.length).unwrap_or(i64::MAX));
    object([
        ("tenant_id", Some(Json::from(chain.tenant_id))),
        ("chain_id", Some(Json::from(chain.chain_id))),
        ("length", Some(Json::Number(length))),
        ("head", Some(Json::from(&*head.hash))),
        ("exported_at", Some(Json::String(rfc3339(now)))),
    ])
}

/// Why an export is not a whole chain, or not the one that was signed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// An event follows the last one that was signed.
    #[error("line {line}: event {seq}{name}: it was added; {length} events were signed", line = .seq)]
    Added {
        /// Which event of the chain it would be.
        seq: u64,
        /// What it is called itself, in parentheses, if it is the last.
        name: String,
        /// How many events were signed.
        length: u64,
    },
    /// Something follows the signature, which is the end.
    #[error("line {0}: the export goes on after its signature")]
    AfterSignature(u64),
    /// An event is not what was recorded in its place.
    #[error("line {line}: event {seq}{name}: {defect}", line = .seq)]
    Broken {
        /// Which event of the chain it should be, and so on which line it is.
        seq: u64,
        /// What it is called itself, in parentheses.
        name: String,
        /// In what way it is broken.
        defect: Defect,
    },
    /// A checkpoint in the export is not signed by one of these keys, or says something else than was signed.
    #[error("line {0}: event {0}: {1}")]
    Checkpoint(u64, CheckpointError),
    /// The chain is not the one of which a checkpoint was made.
    #[error(
        "the chain contradicts the checkpoint of its event {}, whose hash is {}: it was rewritten or cut off",
        .0.length,
        .0.hash
    )]
    Contradicted(Head),
    /// There is nothing to check.
    #[error("there are no events")]
    Empty,
    /// The chain ends elsewhere than it must.
    #[error("the chain ends with event {} and the head {}, not with the head {expected}: events are missing at its end", .found.length, .found.hash)]
    Head {
        /// How the chain ends.
        found: Head,
        /// The hash that its last event must have.
        expected: String,
    },
    /// An event that was signed is gone from the end.
    #[error("line {line}: event {seq}: it is missing; {length} events were signed", line = .seq)]
    Missing {
        /// The first event that is missing.
        seq: u64,
        /// How many events were signed.
        length: u64,
    },
    /// The export could not be read.
    #[error("the export could not be read: {0}")]
    Read(#[from] io::Error),
    /// The events follow one another, and the last is not the one that was signed.
    #[error("line {line}: event {seq}{name}: it is not the event that was signed; it or events before it were rewritten", line = .seq)]
    Rewritten {
        /// The last event.
        seq: u64,
        /// What it is called itself, in parentheses.
        name: String,
    },
    /// The signature is not one of these keys.
    #[error("line {line}: the signature {refusal}")]
    Signature {
        /// Which line it is on, from 1.
        line: u64,
        /// What is wrong with it.
        refusal: PassportError,
    },
    /// A signature is required and there are no keys to check it with.
    #[error("it is signed, but a signature is required and there are no public keys to check it with")]
    Unchecked,
    /// A signature is required and there is none.
    #[error("it is not signed, and a signature is required")]
    Unsigned,
}

/// What an export is held against.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected<'a> {
    /// The hash that the last event must have.
    pub head: Option<&'a str>,
    /// The gateway's public keys, from elsewhere than the export. They require a signature.
    pub keys: Option<&'a [PublicKey]>,
    /// Whether there must be a signature that can be checked.
    pub signature: bool,
    /// How the chain stood at a checkpoint that was kept elsewhere.
    pub checkpoint: Option<&'a Head>,
}

/// A chain that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// How it ends.
    pub head: Head,
    /// Who says that this is how it must end.
    pub signature: Signature,
}

/// What is known about the signature of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// One of the gateway's keys signed this very chain.
    Good {
        /// The key.
        kid: String,
        /// What was signed, besides the head: `tenant_id`, `chain_id`, `exported_at`.
        claims: Json,
    },
    /// There is none.
    Missing,
    /// There is one that fits the chain, and there were no keys to check it with: anyone can have written it.
    Unchecked,
}

/// A sentence for whoever asked.
impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good { kid, claims } => {
                let text = |name| claims.member(name).and_then(Json::as_str).unwrap_or_default();
                let (chain, tenant) = (text("chain_id"), text("tenant_id"));
                let at = text("exported_at").escape_debug();
                write!(f, "signed: the chain {chain:?} of the tenant {tenant:?} at {at}, with the key {kid}")
            }
            Self::Missing => f.write_str("not signed: anyone can have written it"),
            Self::Unchecked => f.write_str(
                "signature not checked: anyone can have written it; give the gateway's public keys with --jwks",
            ),
        }
    }
}

/// Checks an export: that its events are those that were recorded, from the first, all of them and in their order, and
/// that it ends as was signed. That the newest are all there only the signature can tell, or `expected.head`.
///
/// # Errors
///
/// The first event that breaks the chain and in what way; else what is wrong with its end or its signature.
pub fn verify(export: impl BufRead, expected: &Expected<'_>) -> Result<Verified, VerifyError> {
    let mut verifier = Verifier::default();
    let (mut last, mut signature) = (String::new(), None);
    let mut kept = KnownHeads::new(expected.checkpoint.map(std::slice::from_ref).unwrap_or_default());
    for (line, text) in (1..).zip(export.split(b'\n')) {
        // What is no text is no event, and must not become one by being mended.
        let text = String::from_utf8(text?).unwrap_or_default();
        if signature.is_some() {
            return Err(VerifyError::AfterSignature(line));
        }
        signature = read_signature(&text);
        if signature.is_some() {
            continue;
        }
        let seq = verifier.head().length.saturating_add(1);
        verifier.examine(&text).map_err(|defect| VerifyError::Broken { seq, name: name(&text), defect })?;
        kept.compare(verifier.head());
        if let (Some(keys), true) = (expected.keys, is_signed_checkpoint(&text)) {
            Checkpoint::read(&text, keys).map_err(|error| VerifyError::Checkpoint(seq, error))?;
        }
        last = text;
    }
    if let Some(head) = kept.contradicted() {
        return Err(VerifyError::Contradicted(head));
    }
    let found = verifier.head().clone();
    match expected.head {
        _ if found.length == 0 => return Err(VerifyError::Empty),
        Some(head) if found.hash != head => {
            return Err(VerifyError::Head { found, expected: head.to_owned() });
        }
        Some(_) | None => {}
    }
    let signature = match signature {
        Some(token) => check_signature(&token, &found, &last, expected.keys)?,
        None => Signature::Missing,
    };
    match (&signature, expected.signature || expected.keys.is_some()) {
        (Signature::Missing, true) => Err(VerifyError::Unsigned),
        (Signature::Unchecked, true) => Err(VerifyError::Unchecked),
        (Signature::Good { .. } | Signature::Missing | Signature::Unchecked, _) => {
            Ok(Verified { head: found, signature })
        }
    }
}

fn is_signed_checkpoint(event: &str) -> bool {
    // Most events are none, and need not be read a second time.
    event.contains(ledger::CHECKPOINT)
        && Json::parse(event.as_bytes()).is_ok_and(|event| {
            event.member("event_type").and_then(Json::as_str) == Some(ledger::CHECKPOINT)
                && event.member("metadata").is_some_and(|metadata| metadata.member("signature").is_some())
        })
}

/// The token on a line that holds nothing else.
fn read_signature(line: &str) -> Option<String> {
    let line = line.strip_prefix(SIGNATURE_PREFIX).and_then(|_| Json::parse(line.as_bytes()).ok())?;
    match line.as_object()? {
        [(_, Json::String(token))] => Some(token.clone()),
        _ => None,
    }
}

/// Holds what was signed against how the chain ends; `last` is its last event.
fn check_signature(
    token: &str,
    found: &Head,
    last: &str,
    keys: Option<&[PublicKey]>,
) -> Result<Signature, VerifyError> {
    let refused = |refusal| VerifyError::Signature { line: found.length.saturating_add(1), refusal };
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
        // A checkpoint is no signature of an export.
        claims.member("exported_at")?;
        let Json::Number(length) = claims.member("length")? else {
            return None;
        };
        let head =
            Head { length: length.as_str().parse().ok()?, hash: claims.member("head")?.as_str()?.to_owned() };
        Some((claims, head))
    };
    let (claims, signed) = read().ok_or_else(|| refused(PassportError::Malformed))?;
    let length = signed.length;
    match found.length.cmp(&length) {
        std::cmp::Ordering::Less => Err(VerifyError::Missing { seq: found.length.saturating_add(1), length }),
        std::cmp::Ordering::Greater => {
            let seq = length.saturating_add(1);
            let name = if seq == found.length { name(last) } else { String::new() };
            Err(VerifyError::Added { seq, name, length })
        }
        std::cmp::Ordering::Equal if found.hash != signed.hash => {
            Err(VerifyError::Rewritten { seq: length, name: name(last) })
        }
        std::cmp::Ordering::Equal if keys.is_none() => Ok(Signature::Unchecked),
        std::cmp::Ordering::Equal => Ok(Signature::Good { kid, claims }),
    }
}

fn name(text: &str) -> String {
    let event = Json::parse(text.as_bytes()).ok();
    let id = event.as_ref().and_then(|event| event.member("event_id")).and_then(Json::as_str);
    id.map(|id| format!(" ({})", id.escape_debug())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rusqlite::Connection;
    use tempfile::TempDir;

    use super::*;
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

    fn export_signed(path: &Path) -> (Result<Head, ExportError>, String) {
        let master = MasterKey::parse(&"07".repeat(32)).unwrap();
        let ring = SigningKeys::open(&[SealedKey::generate(&master).unwrap()], &master).unwrap();
        let mut out = Vec::new();
        let chain = Chain { tenant_id: "t", chain_id: "c" };
        let data = Location::File(path.to_owned());
        let read = |each: &mut EventHandler<'_>| read_chain(&data, "t", "c", |event| each(event));
        let exported = export(chain, read, Some(&ring), &[], 0, &mut out);
        (exported, String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn export_of_tampered_data_is_not_signed() {
        for (change, expected) in [
            ("DELETE FROM events WHERE seq = 3", "2 events in the data file where it must have 3"),
            ("UPDATE events SET event = replace(event, 'ev_1', 'ev_9') WHERE seq = 2", "event 2 is not what"),
            ("UPDATE chains SET head = lower(hex(zeroblob(32)))", "the chain ends with the head"),
        ] {
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("data.db");
            three_events(&path).await;
            let (whole, text) = export_signed(&path);
            assert_eq!((whole.unwrap().length, text.contains(SIGNATURE_PREFIX)), (3, true));

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
