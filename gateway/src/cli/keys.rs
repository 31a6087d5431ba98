//! `actpass-gateway keys`.

use std::path::PathBuf;

use clap::Subcommand;

use super::{Failure, print, require_master_key, with_store};
use crate::config::Settings;
use crate::passport::SigningKeyStore;
use crate::store::Store;

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Create a new signing key of signing_algorithm, also while the gateway runs; old keys verify
    /// until their passports expire
    Rotate {
        /// Settings, a TOML file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

impl KeysCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Rotate { config } => rotate_keys(&Settings::load(&config).map_err(Failure::Settings)?),
        }
    }
}

fn rotate_keys(settings: &Settings) -> Result<(), Failure> {
    let master = require_master_key(settings)?;
    let algorithm = settings.signing_algorithm;
    let rotate = async |store: &dyn Store| {
        SigningKeyStore::rotate(store, &master, algorithm).await.map_err(Failure::new)
    };
    let kid = with_store(&settings.data, rotate)?;
    print(format_args!("kid = \"{kid}\""))
}
