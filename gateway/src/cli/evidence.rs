//! `actpass-gateway evidence`.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::{fs, io};

use actpass_protocol::Json;
use actpass_protocol::token::PublicKey;
use clap::{Args, Subcommand, ValueEnum};

use super::archive::Archive;
use super::coverage::CoverageReport;
use super::signed_data::SignedData;
use super::source::DataSource;
use super::{Failure, print, with_store};
use crate::checkpoints::KeptCheckpoint;
use crate::clock::Clock;
use crate::evidence::{self, Chain, Expected, ExportVerifier, Verified};
use crate::halts::HaltAudit;
use crate::ledger;
use crate::ocsf;
use crate::passport::SigningKeys;
use crate::proofs;
use crate::replay;
use crate::store::read_chain;

/// Bytes that exports are read and written in.
const BUFFER_BYTES: usize = 64 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum EvidenceCommand {
    /// Write the oldest events of a chain to signed files and remove them from the data; works while a
    /// gateway runs
    Archive(Archive),
    /// List outcomes and receipts of actions that no decision permits; works while a gateway runs
    Coverage(CoverageReport),
    /// Print a chain as JSON Lines with a signature over its head; works while a gateway runs
    Export {
        /// Chain to export; a tenant's decisions are in "decisions"
        chain: String,
        #[command(flatten)]
        source: DataSource,
        /// Tenant that owns the chain
        #[arg(long, value_name = "ID")]
        tenant: String,
        /// Checkpoints of the chain that you kept: an event, its signature or signed notes; can be
        /// repeated. An export that contradicts one, or a checkpoint in the data, is not signed
        #[arg(long, value_name = "FILE")]
        checkpoint: Vec<PathBuf>,
        /// Form of the events; only `ledger` can be verified and has a signature
        #[arg(long, value_enum, default_value_t)]
        format: Format,
        /// Print only the events after this `seq`, the last that the SIEM has; needs --format ocsf
        #[arg(long, value_name = "SEQ", default_value_t = 0)]
        after: u64,
    },
    /// Prove that an event is in the ledger: the event, a signed checkpoint of its chain and the
    /// hashes between them, as JSON; works while a gateway runs
    Prove {
        /// Id of the event: ev_…
        event: String,
        #[command(flatten)]
        source: DataSource,
        /// Tenant that owns the chain
        #[arg(long, value_name = "ID")]
        tenant: String,
        /// Chain of the event
        #[arg(long, value_name = "ID", default_value = ledger::DECISIONS)]
        chain: String,
        /// Signed notes that you kept, from a file; can be repeated. The proof leads to each of
        /// them. Without one that covers the event, a new checkpoint is signed
        #[arg(long, value_name = "FILE")]
        checkpoint: Vec<PathBuf>,
        /// Archived segments of the chain, in order; can be repeated. Required for an archived event
        #[arg(long, value_name = "FILE")]
        segment: Vec<PathBuf>,
        /// Policy that decided; with --request, the proof is a bundle for `evidence replay`
        #[arg(long, value_name = "FILE", requires = "request")]
        policy: Option<PathBuf>,
        /// Body of the request that was decided
        #[arg(long, value_name = "FILE", requires = "policy")]
        request: Option<PathBuf>,
    },
    /// Verify a bundle and evaluate its request again, offline
    Replay(Replay),
    /// Find approvals, passports and manifests in the data that no ledger event supports; works
    /// while a gateway runs
    Audit {
        #[command(flatten)]
        source: DataSource,
        /// Tenant to audit
        #[arg(long, value_name = "ID")]
        tenant: String,
    },
    /// Verify an export offline
    Verify(Verify),
}

/// Form of exported events.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum Format {
    /// As stored
    #[default]
    Ledger,
    /// Events of the Open Cybersecurity Schema Framework 1.8, for a SIEM
    Ocsf,
}

#[derive(Args, Debug)]
pub(super) struct Replay {
    /// Bundle of `evidence prove --policy FILE --request FILE`
    bundle: PathBuf,
    /// Gateway's public keys, a JWK Set from a source you trust
    #[arg(long, value_name = "FILE")]
    jwks: PathBuf,
    /// Signed notes that you kept, from a file; can be repeated
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
}

impl Replay {
    fn run(&self) -> Result<(), Failure> {
        let file = &self.bundle;
        let failed = |error: &dyn std::fmt::Display| Failure::Failed(format!("{}: {error}", file.display()));
        let keys = read_jwks(&self.jwks)?;
        let kept = read_checkpoints(&self.checkpoint, &keys, None)?;
        let text = fs::read_to_string(file).map_err(|error| failed(&error))?;
        let verified = proofs::verify(&text, &keys, &kept).map_err(|error| failed(&error))?;
        let bundle = Json::parse(text.as_bytes()).map_err(|error| failed(&error))?;
        let replayed = replay::replay(&bundle, &verified.event).map_err(|error| failed(&error))?;
        print(&verified)?;
        match replayed.differences.is_empty() {
            true => print(&replayed),
            false => Err(failed(&replayed)),
        }
    }
}

/// Reads public keys.
fn read_jwks(file: &Path) -> Result<Vec<PublicKey>, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(format!("{}: {error}", file.display()));
    let text = fs::read(file).map_err(|error| failed(&error))?;
    PublicKey::parse_jwks(&text).map_err(|problem| failed(&format_args!("expected a JWK Set: {problem}")))
}

#[derive(Args, Debug)]
pub(super) struct Verify {
    /// Export to verify, or archived segments in order and an export of the rest; - reads standard
    /// input
    #[arg(required_unless_present = "proof")]
    file: Vec<PathBuf>,
    /// Verify a proof of one event instead; needs --jwks, but not the ledger
    #[arg(long, value_name = "FILE", requires = "jwks", conflicts_with_all = ["file", "head", "require_signature"])]
    proof: Option<PathBuf>,
    /// Expected hash of the last event; detects missing events at the end
    #[arg(long, value_name = "HASH")]
    head: Option<String>,
    /// Gateway's public keys, a JWK Set from a source you trust; requires an export signed with one
    /// of them
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
    /// Fail unless the export has a signature and --jwks is given to verify it
    #[arg(long)]
    require_signature: bool,
    /// Checkpoints of the chain that you kept: an event, its signature or signed notes; can be
    /// repeated; needs --jwks
    #[arg(long, value_name = "FILE", requires = "jwks")]
    checkpoint: Vec<PathBuf>,
}

impl EvidenceCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Audit { source, tenant } => audit_evidence(source, &tenant),
            Self::Export { chain, source, tenant, checkpoint, format, after } => {
                let chain = Chain { tenant_id: &tenant, chain_id: &chain };
                match format {
                    Format::Ledger if after > 0 => {
                        Err(Failure::Failed("--after needs --format ocsf".to_owned()))
                    }
                    Format::Ledger => export_evidence(chain, source, &checkpoint),
                    Format::Ocsf => export_ocsf(chain, source, &checkpoint, after),
                }
            }
            Self::Archive(archive) => archive.run(),
            Self::Coverage(coverage) => coverage.run(),
            Self::Prove { event, source, tenant, chain, checkpoint, segment, policy, request } => {
                let chain = Chain { tenant_id: &tenant, chain_id: &chain };
                let read = |file: PathBuf| {
                    fs::read(&file).map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))
                };
                let replay = match policy.zip(request) {
                    Some((policy, request)) => Some((read(policy)?, read(request)?)),
                    None => None,
                };
                prove_event(
                    &event,
                    chain,
                    source,
                    &checkpoint,
                    &segment,
                    replay.as_ref().map(|(policy, request)| (&**policy, &**request)),
                )
            }
            Self::Replay(replay) => replay.run(),
            Self::Verify(verify) => verify_evidence(&verify),
        }
    }
}

fn audit_evidence(source: DataSource, tenant: &str) -> Result<(), Failure> {
    let data = source.location()?;
    let unproven = with_store(&data, async |store| store.unproven(tenant).await.map_err(Failure::new))?;
    for line in &unproven {
        print(line)?;
    }
    match unproven.len() {
        0 => print("all approvals, passports and manifests are supported by the ledger"),
        count => Err(Failure::Failed(format!("{count} records are not supported by the ledger"))),
    }
}

fn export_evidence(chain: Chain<'_>, source: DataSource, checkpoints: &[PathBuf]) -> Result<(), Failure> {
    let data = SignedData::open(source)?;
    let read = |each: &mut evidence::EventHandler<'_>| {
        read_chain(&data.location, chain.tenant_id, chain.chain_id, |event| each(event))
    };
    let mut known = data.checkpoints(chain)?.found;
    known.extend(kept(&data, checkpoints, chain)?.into_iter().map(|kept| kept.state));
    let mut out = io::BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
    let now = Clock::default().seconds();
    let archived = data.archived(chain)?;
    evidence::export(chain, &archived, read, data.signer.as_ref().ok(), &known, now, &mut out)
        .map_err(Failure::new)?;
    if let Err(reason) = data.signer {
        eprintln!("not signed: {reason}");
    }
    Ok(())
}

/// Exports for a SIEM. The chain is verified like in an export that is signed.
fn export_ocsf(
    chain: Chain<'_>,
    source: DataSource,
    checkpoints: &[PathBuf],
    after: u64,
) -> Result<(), Failure> {
    let data = SignedData::open(source)?;
    let mut known = data.checkpoints(chain)?.found;
    known.extend(kept(&data, checkpoints, chain)?.into_iter().map(|kept| kept.state));
    let archived = data.archived(chain)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let read = |each: &mut evidence::EventHandler<'_>| {
        read_chain(&data.location, chain.tenant_id, chain.chain_id, |event| {
            if event.seq > after {
                let parsed = Json::parse(event.text.as_bytes()).map_err(io::Error::other)?;
                writeln!(out, "{}", ocsf::event(&parsed).map_err(io::Error::other)?)?;
            }
            each(event)
        })
    };
    let now = Clock::default().seconds();
    let exported = evidence::export(chain, &archived, read, None, &known, now, &mut io::sink());
    out.flush().map_err(|error| Failure::Failed(error.to_string()))?;
    exported.map(|_| ()).map_err(Failure::new)
}

fn prove_event(
    event_id: &str,
    chain: Chain<'_>,
    source: DataSource,
    checkpoints: &[PathBuf],
    segments: &[PathBuf],
    replay: Option<(&[u8], &[u8])>,
) -> Result<(), Failure> {
    let data = SignedData::open(source)?;
    let collected = data.checkpoints(chain)?;
    let mut start = data.archived(chain)?;
    if let Some(first) = segments.first() {
        let failed = |error: io::Error| Failure::Failed(format!("{}: {error}", first.display()));
        let begins = io::BufReader::new(fs::File::open(first).map_err(failed)?).lines().take(1);
        let line = begins.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let line = io::Cursor::new(line.first().cloned().unwrap_or_default());
        start = evidence::read_events(line, |_| Ok(())).map_err(failed)?;
    }
    let request = proofs::Request {
        chain,
        start: &start,
        event_id,
        authority: &data.authority,
        kept: &kept(&data, checkpoints, chain)?,
        known: &collected.found,
        notes: &collected.notes,
        replay,
        signer: data.signer.as_ref().map_err(|reason| *reason),
    };
    let proof = proofs::prove(&request, |each| {
        for segment in segments {
            evidence::read_events(io::BufReader::new(fs::File::open(segment)?), |event| each(event))?;
        }
        read_chain(&data.location, chain.tenant_id, chain.chain_id, |event| each(event))
    });
    print(proof.map_err(Failure::new)?)
}

/// Reads the checkpoints of a chain that the user kept.
fn kept(data: &SignedData, files: &[PathBuf], chain: Chain<'_>) -> Result<Vec<KeptCheckpoint>, Failure> {
    let keys = data.signer.as_ref().map(SigningKeys::public_keys).unwrap_or_default();
    read_checkpoints(files, &keys, Some(chain))
}

/// Reads the checkpoints in the files.
fn read_checkpoints(
    files: &[PathBuf],
    keys: &[PublicKey],
    of: Option<Chain<'_>>,
) -> Result<Vec<KeptCheckpoint>, Failure> {
    let mut checkpoints = Vec::new();
    for file in files {
        let failed = |error: &dyn std::fmt::Display| Failure::Failed(format!("{}: {error}", file.display()));
        let text = fs::read_to_string(file).map_err(|error| failed(&error))?;
        let mut found = KeptCheckpoint::read_all(&text, keys).map_err(|error| failed(&error))?;
        if let Some(chain) = of {
            // A file of signed notes has those of all chains.
            let other = found.first().map(KeptCheckpoint::describe_chain).unwrap_or_default();
            found.retain(|kept| kept.is_of(chain.tenant_id, chain.chain_id));
            if found.is_empty() {
                return Err(failed(&format_args!("is a checkpoint of another chain: {other}")));
            }
        }
        checkpoints.extend(found);
    }
    Ok(checkpoints)
}

fn verify_evidence(verify: &Verify) -> Result<(), Failure> {
    let failed =
        |file: &Path, error: &dyn std::fmt::Display| Failure::Failed(format!("{}: {error}", file.display()));
    let keys = verify.jwks.as_deref().map(read_jwks).transpose()?;
    let checkpoints = read_checkpoints(&verify.checkpoint, keys.as_deref().unwrap_or_default(), None)?;
    if let Some(file) = &verify.proof {
        let text = fs::read_to_string(file).map_err(|error| failed(file, &error))?;
        let verified = proofs::verify(&text, keys.as_deref().unwrap_or_default(), &checkpoints);
        return print(verified.map_err(|error| failed(file, &error))?);
    }
    let states: Vec<_> = checkpoints.into_iter().map(|kept| kept.state).collect();
    let expected = Expected {
        head: verify.head.as_deref(),
        keys: keys.as_deref(),
        signature: verify.require_signature,
        checkpoints: &states,
    };
    let mut verifier = ExportVerifier::new(&expected);
    for file in &verify.file {
        let read = match file == Path::new("-") {
            true => verifier.read(io::stdin().lock()),
            false => {
                let export = fs::File::open(file).map_err(|error| failed(file, &error))?;
                verifier.read(io::BufReader::with_capacity(BUFFER_BYTES, export))
            }
        };
        read.map_err(|error| failed(file, &error))?;
    }
    let last = verify.file.last().map_or(Path::new("-"), PathBuf::as_path);
    let Verified { head, first, tree: _, signatures, halts } =
        verifier.finish().map_err(|error| failed(last, &error))?;
    let count = head.length.saturating_sub(first).saturating_add(1);
    print(format_args!("{count} events, head {}, intact", head.hash))?;
    if first > 1 {
        print(format_args!("begins at event {first}: earlier events are in segments that were not given"))?;
    }
    if halts.started > 0 {
        let HaltAudit { started, active, acknowledged } = &halts;
        print(format_args!(
            "{started} halts, {} active at the end, {acknowledged} acknowledgements, no allow during a halt",
            active.len()
        ))?;
    }
    signatures.iter().try_for_each(print)
}
