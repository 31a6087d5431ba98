//! `actpass-gateway config`.

use std::io::{self, Write};
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
    /// Print the JSON Schema of the settings
    Schema,
}

/// The JSON Schema of the settings, kept by hand. A test compares it with the reader of the settings.
const SCHEMA: &str = include_str!("../../gateway.schema.json");

impl ConfigCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Check { config, deny_warnings } => check_config(&config, deny_warnings),
            Self::Schema => io::stdout().write_all(SCHEMA.as_bytes()).map_err(Failure::new),
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
