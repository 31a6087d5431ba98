//! Whose data a command reads.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::config::Settings;
use crate::store::Location;

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct DataSource {
    /// The gateway's settings, a TOML file, for its data and its master key: needed if the data are in PostgreSQL
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The gateway's data file; the master key is ACTPASS_MASTER_KEY, or else in FILE.master-key, if it is there
    #[arg(long, value_name = "FILE")]
    pub(super) data: Option<PathBuf>,
}

impl DataSource {
    /// Where the data are.
    pub(super) fn location(self) -> Result<Location, Failure> {
        match self {
            Self { config: Some(config), .. } => Ok(Settings::load(&config).map_err(Failure::Settings)?.data),
            Self { config: None, data } => Ok(Location::File(data.unwrap_or_default())),
        }
    }
}
