//! Selection of the data that a command reads.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::config::Settings;
use crate::store::Location;

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct DataSource {
    /// Gateway settings, a TOML file that names the data and the master key; required for
    /// PostgreSQL
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Gateway data file; the master key is read from ACTPASS_MASTER_KEY or from FILE.master-key
    #[arg(long, value_name = "FILE")]
    pub(super) data: Option<PathBuf>,
}

impl DataSource {
    /// Returns the location of the data.
    pub(super) fn location(self) -> Result<Location, Failure> {
        match self {
            Self { config: Some(config), .. } => Ok(Settings::load(&config).map_err(Failure::Settings)?.data),
            Self { config: None, data } => Ok(Location::File(data.unwrap_or_default())),
        }
    }
}
