//! `actpass-gateway config`.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::{Failure, print};
use crate::config::Settings;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check settings and print all errors and warnings
    Check {
        /// Settings, a TOML file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Exit with an error if there are warnings
        #[arg(long)]
        deny_warnings: bool,
    },
}

impl ConfigCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Check { config, deny_warnings } => check_config(&config, deny_warnings),
        }
    }
}

fn check_config(config: &Path, deny_warnings: bool) -> Result<(), Failure> {
    let settings = Settings::load(config).map_err(Failure::Settings)?;
    for warning in &settings.warnings {
        print(format_args!("warning: {warning}"))?;
    }
    print(format_args!(
        "{}: valid; {} tenants, {} warnings",
        config.display(),
        settings.tenants.len(),
        settings.warnings.len()
    ))?;
    match settings.warnings.is_empty() || !deny_warnings {
        true => Ok(()),
        false => Err(Failure::new("warnings found and --deny-warnings is set")),
    }
}
