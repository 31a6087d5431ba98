//! The data that a command reads, and the keys to sign statements about it.

use std::path::Path;

use super::Failure;
use super::source::DataSource;
use crate::checkpoints::CheckpointCollector;
use crate::config::{MASTER_KEY_VARIABLE, Settings};
use crate::evidence::{Chain, ExportError};
use crate::ledger::{self, Archived};
use crate::passport::SigningKeys;
use crate::seal::MasterKey;
use crate::store::{Location, read_archived, read_chain, read_keys};
use crate::{server, signed_note};

/// The data of a ledger, and the keys to sign statements about it.
pub(super) struct SignedData {
    pub(super) location: Location,
    /// The keys, or the reason why they are missing.
    pub(super) signer: Result<SigningKeys, &'static str>,
    /// The part of the origin of signed notes that identifies the gateway.
    pub(super) authority: String,
}

impl SignedData {
    pub(super) fn open(source: DataSource) -> Result<Self, Failure> {
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
    pub(super) fn checkpoints<'c>(&self, chain: Chain<'c>) -> Result<CheckpointCollector<'c>, Failure> {
        let mut collector = CheckpointCollector::new(chain.chain_id, self.signer.as_ref().ok());
        read_chain(&self.location, chain.tenant_id, ledger::CHECKPOINTS, |event| {
            collector.push(&event.text).map_err(ExportError::from)
        })
        .map_err(Failure::new)?;
        Ok(collector)
    }

    /// Reads the archived part of a chain.
    pub(super) fn archived(&self, chain: Chain<'_>) -> Result<Archived, Failure> {
        let found = read_archived(&self.location, chain.tenant_id, chain.chain_id);
        Ok(found.map_err(Failure::new)?.unwrap_or_default())
    }
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
