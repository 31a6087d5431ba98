//! `actpass-gateway keys`.

use std::path::PathBuf;

use clap::Subcommand;

use super::{Failure, print, require_master_key};
use crate::config::Settings;
use crate::passport::Keys;

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Makes a new signing key, also while the gateway runs; the old ones verify until their passports have expired
    Rotate {
        /// The settings, a TOML file
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let kid = runtime.block_on(async {
        let store = settings.data.open_beside().await.map_err(Failure::new)?;
        let kid = Keys::rotate(&*store, &master).await;
        store.close().await;
        kid.map_err(Failure::new)
    })?;
    print(format_args!("kid = \"{kid}\""))
}
