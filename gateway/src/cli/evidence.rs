//! `actpass-gateway evidence`.

use std::path::{Path, PathBuf};
use std::{fs, io};

use actpass_protocol::token::PublicKey;
use clap::{Args, Subcommand};

use super::source::DataSource;
use super::{Failure, print, with_store};
use crate::checkpoints::{CheckpointCollector, KeptCheckpoint};
use crate::clock::Clock;
use crate::config::{MASTER_KEY_VARIABLE, Settings};
use crate::evidence::{self, Chain, Expected, ExportError, Verified};
use crate::halts::HaltAudit;
use crate::ledger;
use crate::passport::SigningKeys;
use crate::proofs;
use crate::seal::MasterKey;
use crate::server;
use crate::signed_note;
use crate::store::{Location, read_chain, read_keys};

#[derive(Debug, Subcommand)]
pub(super) enum EvidenceCommand {
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
    },
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

#[derive(Args, Debug)]
pub(super) struct Verify {
    /// Export to verify; - reads standard input
    #[arg(required_unless_present = "proof")]
    file: Option<PathBuf>,
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
            Self::Export { chain, source, tenant, checkpoint } => {
                export_evidence(Chain { tenant_id: &tenant, chain_id: &chain }, source, &checkpoint)
            }
            Self::Prove { event, source, tenant, chain, checkpoint } => {
                prove_event(&event, Chain { tenant_id: &tenant, chain_id: &chain }, source, &checkpoint)
            }
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

/// The data of a ledger, and the keys to sign statements about it.
struct SignedData {
    location: Location,
    /// The keys, or the reason why they are missing.
    signer: Result<SigningKeys, &'static str>,
    /// The part of the origin of signed notes that identifies the gateway.
    authority: String,
}

impl SignedData {
    fn open(source: DataSource) -> Result<Self, Failure> {
        let (location, master, issuer) = match source {
            DataSource { config: Some(config), .. } => {
                let settings = Settings::load(&config).map_err(Failure::Settings)?;
                let master =
                    server::master_key(&settings.master_key, &settings.data).map_err(Failure::new)?;
                (settings.data, master, settings.issuer)
            }
            DataSource { config: None, data } => {
                let data = data.unwrap_or_default();
                let master = find_master_key(&data)?;
                (Location::File(data), master, None)
            }
        };
        let signer = match master {
            None => Err("no master key is configured"),
            Some(master) => match &*read_keys(&location).map_err(Failure::new)? {
                [] => Err("the data has no signing key"),
                keys => Ok(SigningKeys::open(keys, &master).map_err(Failure::new)?),
            },
        };
        Ok(Self { location, signer, authority: signed_note::authority(issuer.as_deref()) })
    }

    /// Collects the checkpoints of a chain in the data.
    fn checkpoints<'c>(&self, chain: Chain<'c>) -> Result<CheckpointCollector<'c>, Failure> {
        let mut collector = CheckpointCollector::new(chain.chain_id, self.signer.as_ref().ok());
        read_chain(&self.location, chain.tenant_id, ledger::CHECKPOINTS, |event| {
            collector.push(&event.text).map_err(ExportError::from)
        })
        .map_err(Failure::new)?;
        Ok(collector)
    }

    /// Reads the checkpoints of a chain that the user kept.
    fn kept(&self, files: &[PathBuf], chain: Chain<'_>) -> Result<Vec<KeptCheckpoint>, Failure> {
        let keys = self.signer.as_ref().map(SigningKeys::public_keys).unwrap_or_default();
        read_checkpoints(files, &keys, Some(chain))
    }
}

fn export_evidence(chain: Chain<'_>, source: DataSource, checkpoints: &[PathBuf]) -> Result<(), Failure> {
    let data = SignedData::open(source)?;
    let read = |each: &mut evidence::EventHandler<'_>| {
        read_chain(&data.location, chain.tenant_id, chain.chain_id, |event| each(event))
    };
    let mut known = data.checkpoints(chain)?.found;
    known.extend(data.kept(checkpoints, chain)?.into_iter().map(|kept| kept.state));
    let mut out = io::BufWriter::new(io::stdout().lock());
    let now = Clock::default().seconds();
    evidence::export(chain, read, data.signer.as_ref().ok(), &known, now, &mut out).map_err(Failure::new)?;
    if let Err(reason) = data.signer {
        eprintln!("not signed: {reason}");
    }
    Ok(())
}

fn prove_event(
    event_id: &str,
    chain: Chain<'_>,
    source: DataSource,
    checkpoints: &[PathBuf],
) -> Result<(), Failure> {
    let data = SignedData::open(source)?;
    let collected = data.checkpoints(chain)?;
    let request = proofs::Request {
        chain,
        event_id,
        authority: &data.authority,
        kept: &data.kept(checkpoints, chain)?,
        known: &collected.found,
        notes: &collected.notes,
        signer: data.signer.as_ref().map_err(|reason| *reason),
    };
    let proof = proofs::prove(&request, |each| {
        read_chain(&data.location, chain.tenant_id, chain.chain_id, |event| each(event))
    });
    print(proof.map_err(Failure::new)?)
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

/// Finds the master key of a data file without its gateway's settings.
fn find_master_key(data: &Path) -> Result<Option<MasterKey>, Failure> {
    if let Some(text) = std::env::var_os(MASTER_KEY_VARIABLE) {
        let key = text.to_str().and_then(MasterKey::parse);
        return key.map(Some).ok_or_else(|| {
            let problem = "expected 32 bytes as 64 hex digits or base64";
            Failure::Failed(format!("{MASTER_KEY_VARIABLE}: {problem}"))
        });
    }
    let file = server::master_key_file(data);
    match file.try_exists().map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))? {
        true => MasterKey::load_or_make(&file).map(Some).map_err(Failure::new),
        false => Ok(None),
    }
}

fn verify_evidence(verify: &Verify) -> Result<(), Failure> {
    let failed =
        |file: &Path, error: &dyn std::fmt::Display| Failure::Failed(format!("{}: {error}", file.display()));
    let keys = match &verify.jwks {
        None => None,
        Some(jwks) => {
            let text = fs::read(jwks).map_err(|error| failed(jwks, &error))?;
            let unread = |problem| failed(jwks, &format_args!("expected a JWK Set: {problem}"));
            Some(PublicKey::parse_jwks(&text).map_err(unread)?)
        }
    };
    let checkpoints = read_checkpoints(&verify.checkpoint, keys.as_deref().unwrap_or_default(), None)?;
    if let Some(file) = &verify.proof {
        let text = fs::read_to_string(file).map_err(|error| failed(file, &error))?;
        let verified = proofs::verify(&text, keys.as_deref().unwrap_or_default(), &checkpoints);
        return print(verified.map_err(|error| failed(file, &error))?);
    }
    let states: Vec<_> = checkpoints.into_iter().map(|kept| kept.state).collect();
    let file = verify.file.as_deref().unwrap_or(Path::new("-"));
    let expected = Expected {
        head: verify.head.as_deref(),
        keys: keys.as_deref(),
        signature: verify.require_signature,
        checkpoints: &states,
    };
    let verified = match file == Path::new("-") {
        true => evidence::verify(io::stdin().lock(), &expected),
        false => {
            let export = fs::File::open(file).map_err(|error| failed(file, &error))?;
            evidence::verify(io::BufReader::new(export), &expected)
        }
    };
    let Verified { head, root: _, signature, halts } = verified.map_err(|error| failed(file, &error))?;
    print(format_args!("{} events, head {}, intact", head.length, head.hash))?;
    if halts.started > 0 {
        let HaltAudit { started, active, acknowledged } = &halts;
        print(format_args!(
            "{started} halts, {} active at the end, {acknowledged} acknowledgements, no allow during a halt",
            active.len()
        ))?;
    }
    print(signature)
}
