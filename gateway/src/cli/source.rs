//! Selection of the data that a command reads.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use crate::config::Settings;
use crate::files;
use crate::problems::Problems;
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

/// Parses the file; errors name it.
pub(super) fn parse_file<T>(file: &Path, parse: impl Fn(&[u8]) -> Result<T, Problems>) -> Result<T, Failure> {
    let text =
        files::read_bytes(file).map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))?;
    parse(&text).map_err(|found| {
        let mut problems = Problems::default();
        problems.add_all(file.display(), &found);
        Failure::new(problems)
    })
}
