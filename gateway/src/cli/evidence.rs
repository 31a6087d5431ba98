//! `actpass-gateway evidence`.

use std::path::{Path, PathBuf};
use std::{fs, io};

use actpass_protocol::token::PublicKey;
use clap::{Args, Subcommand};

use super::source::DataSource;
use super::{Failure, print, with_store};
use crate::checkpoints::{Checkpoint, CheckpointCollector};
use crate::clock::Clock;
use crate::config::{MASTER_KEY_VARIABLE, Settings};
use crate::evidence::{self, Chain, Expected, ExportError, Verified};
use crate::halts::HaltAudit;
use crate::ledger::{self, Head};
use crate::passport::SigningKeys;
use crate::seal::MasterKey;
use crate::server;
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
        /// Checkpoint of the chain that you kept: its event or its signature. An export that
        /// contradicts it, or a checkpoint in the data, is not signed
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
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
    file: PathBuf,
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
    /// Checkpoint of the chain that you kept: its event or its signature; needs --jwks
    #[arg(long, value_name = "FILE", requires = "jwks")]
    checkpoint: Option<PathBuf>,
}

impl EvidenceCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Audit { source, tenant } => audit_evidence(source, &tenant),
            Self::Export { chain, source, tenant, checkpoint } => {
                export_evidence(Chain { tenant_id: &tenant, chain_id: &chain }, source, checkpoint.as_deref())
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

fn export_evidence(chain: Chain<'_>, source: DataSource, checkpoint: Option<&Path>) -> Result<(), Failure> {
    let (data, master) = match source {
        DataSource { config: Some(config), .. } => {
            let settings = Settings::load(&config).map_err(Failure::Settings)?;
            let master = server::master_key(&settings.master_key, &settings.data).map_err(Failure::new)?;
            (settings.data, master)
        }
        DataSource { config: None, data } => {
            let data = data.unwrap_or_default();
            let master = find_master_key(&data)?;
            (Location::File(data), master)
        }
    };
    let signer = match master {
        None => Err("no master key is configured"),
        Some(master) => match &*read_keys(&data).map_err(Failure::new)? {
            [] => Err("the data has no signing key"),
            keys => Ok(SigningKeys::open(keys, &master).map_err(Failure::new)?),
        },
    };
    let read = |each: &mut evidence::EventHandler<'_>| {
        read_chain(&data, chain.tenant_id, chain.chain_id, |event| each(event))
    };
    let mut collector = CheckpointCollector::new(chain.chain_id, signer.as_ref().ok());
    read_chain(&data, chain.tenant_id, ledger::CHECKPOINTS, |event| {
        collector.push(&event.text).map_err(ExportError::from)
    })
    .map_err(Failure::new)?;
    let mut checkpoints = collector.found;
    if let Some(file) = checkpoint {
        let keys = signer.as_ref().map(SigningKeys::public_keys).unwrap_or_default();
        checkpoints.push(read_checkpoint(file, &keys, Some(chain))?);
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    let now = Clock::default().seconds();
    evidence::export(chain, read, signer.as_ref().ok(), &checkpoints, now, &mut out).map_err(Failure::new)?;
    if let Err(reason) = signer {
        eprintln!("not signed: {reason}");
    }
    Ok(())
}

/// Reads the chain's head from the checkpoint in the file.
fn read_checkpoint(file: &Path, keys: &[PublicKey], of: Option<Chain<'_>>) -> Result<Head, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(format!("{}: {error}", file.display()));
    let text = fs::read_to_string(file).map_err(|error| failed(&error))?;
    let found = Checkpoint::read(&text, keys).map_err(|error| failed(&error))?;
    if of.is_some_and(|of| (of.tenant_id, of.chain_id) != (&*found.tenant_id, &*found.chain_id)) {
        let (chain, tenant) = (found.chain_id, found.tenant_id);
        return Err(failed(&format_args!(
            "is a checkpoint of another chain: {chain:?} of tenant {tenant:?}"
        )));
    }
    Ok(found.head)
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
    let file = &verify.file;
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
    let checkpoint = match &verify.checkpoint {
        None => None,
        Some(file) => Some(read_checkpoint(file, keys.as_deref().unwrap_or_default(), None)?),
    };
    let expected = Expected {
        head: verify.head.as_deref(),
        keys: keys.as_deref(),
        signature: verify.require_signature,
        checkpoint: checkpoint.as_ref(),
    };
    let verified = match file == Path::new("-") {
        true => evidence::verify(io::stdin().lock(), &expected),
        false => {
            let export = fs::File::open(file).map_err(|error| failed(file, &error))?;
            evidence::verify(io::BufReader::new(export), &expected)
        }
    };
    let Verified { head, signature, halts } = verified.map_err(|error| failed(file, &error))?;
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
