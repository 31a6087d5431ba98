//! `actpass-gateway evidence archive`.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::bucket::Bucket;
use super::signed_data::SignedData;
use super::source::DataSource;
use super::{Failure, print, with_store};
use crate::clock::{Clock, rfc3339};
use crate::events::{self, NewArchive};
use crate::evidence::{self, Chain, EventHandler, Expected, ExportError, Exported};
use crate::ledger::{self, Archived, Head};
use crate::passport::SigningKeys;
use crate::signed_note::{self, TreeHead};
use crate::store::{Record, last_delivered, prune, read_chain, read_chain_until};

/// The chains that cannot be archived: rows in the data need their events.
const KEPT_CHAINS: [&str; 4] = [ledger::CHECKPOINTS, ledger::DELEGATIONS, ledger::TOOLS, ledger::VAULT];

#[derive(Args, Debug)]
pub(super) struct Archive {
    /// Chain to archive; a tenant's decisions are in "decisions"
    #[arg(default_value = ledger::DECISIONS)]
    chain: String,
    #[command(flatten)]
    source: DataSource,
    /// Tenant that owns the chain
    #[arg(long, value_name = "ID")]
    tenant: String,
    /// Where to write the segments: a folder, which must exist, or s3://BUCKET/PREFIX
    #[arg(long, value_name = "FOLDER|URL", value_parser = Destination::parse)]
    to: Destination,
    /// Archive events that are older than this
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = humantime::parse_duration)]
    older_than: Duration,
    /// Archive events up to this one at most
    #[arg(long, value_name = "SEQ")]
    until: Option<u64>,
    /// Maximum number of events in a segment
    #[arg(long, value_name = "NUMBER", default_value = "1000000", value_parser = clap::value_parser!(u64).range(1..))]
    segment_events: u64,
}

/// Where segments are written.
#[derive(Clone, Debug)]
enum Destination {
    Folder(PathBuf),
    Bucket(String),
}

impl Destination {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            None => Ok(Self::Folder(text.into())),
            Some(("s3", _)) => Ok(Self::Bucket(text.to_owned())),
            Some((scheme, _)) => {
                Err(format!("unknown scheme {scheme:?}: expected a folder or s3://BUCKET/PREFIX"))
            }
        }
    }
}

impl Archive {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { chain, source, tenant, to, older_than, until, segment_events } = self;
        if KEPT_CHAINS.contains(&&*chain) {
            return Err(Failure::Failed(format!(
                "the chain {chain:?} cannot be archived: the gateway needs its events"
            )));
        }
        let chain = Chain { tenant_id: &tenant, chain_id: &chain };
        let data = SignedData::open(source)?;
        let Ok(signer) = &data.signer else {
            let reason = data.signer.err().unwrap_or_default();
            return Err(Failure::Failed(format!("segments must be signed, and {reason}")));
        };
        let now = Clock::default().seconds();
        let age = i64::try_from(older_than.as_secs()).unwrap_or(i64::MAX);
        let before = (age > 0).then(|| rfc3339(now.saturating_sub(age)));
        let (folder, bucket) = match &to {
            Destination::Folder(folder) => (folder.clone(), None),
            Destination::Bucket(url) => {
                let temporary = TempDir::new().map_err(Failure::new)?;
                let bucket = Bucket::open(url).map_err(Failure::Failed)?;
                (temporary.path().to_owned(), Some((bucket, temporary)))
            }
        };
        let bucket = bucket.as_ref().map(|(bucket, _)| bucket);
        let archived = data.archived(chain)?;
        let mut job = Job { chain, data: &data, signer, folder: &folder, bucket, now, archived };
        let end = job.verify_chain(before.as_deref())?.min(until.unwrap_or(u64::MAX));
        if job.archived.head.length > 0 {
            // Continues a deletion that was interrupted.
            job.prune()?;
        }
        if end <= job.archived.head.length {
            return print("no events to archive");
        }
        while job.archived.head.length < end {
            let last = end.min(job.archived.head.length.saturating_add(segment_events));
            job.archive(last)?;
        }
        Ok(())
    }
}

struct Job<'a> {
    chain: Chain<'a>,
    data: &'a SignedData,
    signer: &'a SigningKeys,
    /// The destination, or a temporary folder for files that are uploaded.
    folder: &'a Path,
    bucket: Option<&'a Bucket>,
    now: i64,
    archived: Archived,
}

impl Job<'_> {
    /// Verifies all events that are not archived, and returns the last one that can be archived: older
    /// than `before`, received by all webhooks, and not the last event of the chain.
    fn verify_chain(&self, before: Option<&str>) -> Result<u64, Failure> {
        let Chain { tenant_id, chain_id } = self.chain;
        let known = self.data.checkpoints(self.chain)?.found;
        let before = before.map(|before| before.trim_end_matches('Z'));
        let (mut last, mut is_old) = (self.archived.head.length, true);
        let read = |each: &mut EventHandler<'_>| {
            read_chain(&self.data.location, tenant_id, chain_id, |event| {
                let created = event.text.split_once("\"created_at\":\"").map_or("", |(_, rest)| rest);
                is_old = is_old
                    && before.is_none_or(|before| {
                        created.get(..before.len()).is_some_and(|created| created < before)
                    });
                if is_old {
                    last = event.seq;
                }
                each(event)
            })
        };
        let whole =
            evidence::export(self.chain, &self.archived, read, None, &known, self.now, &mut io::sink());
        let whole = whole.map_err(Failure::new)?;
        let delivered = last_delivered(&self.data.location, tenant_id, chain_id).map_err(Failure::new)?;
        if delivered.is_some_and(|delivered| delivered < last) {
            eprintln!("webhooks have not received the events after {}", delivered.unwrap_or(0));
        }
        Ok(last.min(delivered.unwrap_or(u64::MAX)).min(whole.head.length.saturating_sub(1)))
    }

    /// Archives the events up to `last`.
    fn archive(&mut self, last: u64) -> Result<(), Failure> {
        let Chain { tenant_id, chain_id } = self.chain;
        let first = self.archived.head.length.saturating_add(1);
        let (tenant, chain) = (signed_note::escape(tenant_id), signed_note::escape(chain_id));
        let name = format!("{tenant}-{chain}-{first:012}-{last:012}.jsonl");
        let file = self.folder.join(&name);
        let place = self.bucket.map_or_else(|| file.display().to_string(), |bucket| bucket.describe(&name));
        // A segment from an interrupted run is used if it is intact.
        let found = match self.bucket {
            None => file.try_exists(),
            Some(bucket) => bucket.download_to(&name, &file),
        };
        let found = found.map_err(|error| Failure::Failed(format!("{place}: {error}")))?;
        let exported = match found {
            true => self.export(last, &mut io::sink()),
            false => self.write(last, &file),
        };
        let Exported { head, tree } = exported?;
        let hash = self.verify_segment(&file, &head)?;
        let origin = signed_note::origin(&self.data.authority, tenant_id, chain_id);
        let note = TreeHead { origin, size: tree.size(), root: tree.root() }.sign(self.signer);
        let note_file = file.with_extension("checkpoint");
        write_durably(&note_file, |out| out.write_all(note.map_err(io::Error::other)?.as_bytes()))
            .map_err(|error| Failure::Failed(format!("{}: {error}", note_file.display())))?;
        if let Some(bucket) = self.bucket {
            if !found {
                upload(bucket, &file)?;
            }
            upload(bucket, &note_file)?;
        }
        let event = events::archived(NewArchive {
            tenant_id,
            chain_id,
            first,
            head: &head,
            tree: &tree,
            segment: &name,
            segment_hash: &hash,
        });
        with_store(&self.data.location, async |store| {
            store.record(Record::of(event)).await.map_err(Failure::new)
        })?;
        self.archived = Archived { head, tree, at: self.now };
        let (removed, kept) = self.prune()?;
        print(format_args!("{place}: events {first} to {last}, {removed} removed, {kept} kept in the data"))
    }

    fn export(&self, last: u64, out: &mut impl Write) -> Result<Exported, Failure> {
        let Chain { tenant_id, chain_id } = self.chain;
        let read = |each: &mut EventHandler<'_>| {
            let mut end = None;
            read_chain_until(&self.data.location, tenant_id, chain_id, last, |event| {
                if event.seq == last {
                    let hash = ledger::stated_hash(&event.text).map(hex::encode).unwrap_or_default();
                    end = Some(Head { length: last, hash });
                }
                each(event)
            })?;
            Ok::<_, ExportError>(end)
        };
        evidence::export(self.chain, &self.archived, read, Some(self.signer), &[], self.now, out)
            .map_err(Failure::new)
    }

    fn write(&self, last: u64, file: &Path) -> Result<Exported, Failure> {
        let mut exported = Err(Failure::Failed(String::new()));
        let written = write_durably(file, |out| {
            exported = self.export(last, out);
            exported.as_ref().map(|_| ()).map_err(|error| io::Error::other(error.to_string()))
        });
        written.map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))?;
        exported
    }

    /// Verifies a written segment, and returns its SHA-256.
    fn verify_segment(&self, file: &Path, head: &Head) -> Result<String, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::Failed(format!("{}: {error}", file.display()));
        let keys = self.signer.public_keys();
        let expected =
            Expected { head: Some(&head.hash), keys: Some(&keys), signature: true, checkpoints: &[] };
        let opened = File::open(file).map_err(|error| failed(&error))?;
        evidence::verify(BufReader::new(opened), &expected).map_err(|error| failed(&error))?;
        hash(file).map_err(|error| failed(&error))
    }

    /// Removes the archived events; returns how many were removed, and how many the data needs.
    fn prune(&self) -> Result<(u64, u64), Failure> {
        let Chain { tenant_id, chain_id } = self.chain;
        let pruned = prune(&self.data.location, tenant_id, chain_id, &self.archived).map_err(Failure::new)?;
        Ok((pruned.removed, pruned.kept))
    }
}

/// Uploads a file, and compares the object that the bucket returns. Removes the file.
fn upload(bucket: &Bucket, file: &Path) -> Result<(), Failure> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let failed =
        |error: &dyn std::fmt::Display| Failure::Failed(format!("{}: {error}", bucket.describe(&name)));
    bucket.upload(file, &name).map_err(|error| failed(&error))?;
    let mut hasher = HashWriter(Sha256::new());
    let found = bucket.download(&name, &mut hasher).map_err(|error| failed(&error))?;
    let sent = hash(file).map_err(|error| failed(&error))?;
    if !found || hex::encode(hasher.0.finalize()) != sent {
        return Err(failed(&"the object differs from the upload"));
    }
    fs::remove_file(file).map_err(|error| failed(&error))
}

/// Returns the SHA-256 of a file.
fn hash(file: &Path) -> io::Result<String> {
    let mut hasher = HashWriter(Sha256::new());
    io::copy(&mut File::open(file)?, &mut hasher)?;
    Ok(hex::encode(hasher.0.finalize()))
}

struct HashWriter(Sha256);

impl Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a file, which gets its name when it is complete and durable.
fn write_durably(file: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let mut out = BufWriter::new(File::create(&partial)?);
    write(&mut out)?;
    out.flush()?;
    out.get_ref().sync_all()?;
    fs::rename(&partial, file)?;
    #[cfg(unix)]
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
