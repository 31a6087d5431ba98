//! `actpass-gateway halts`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::{Failure, print, with_store};
use crate::clock::rfc3339;
use crate::config::{DATABASE_URL_VARIABLE, Settings};
use crate::events::COMMAND_LINE;
use crate::halts::{Halt, Scope};
use crate::store::{Database, HaltChange, HaltListing, HaltOutcome, Location, TlsTrust};

/// Number of halts that are read at a time.
const PAGE: u32 = 1000;

#[derive(Debug, Subcommand)]
pub(super) enum HaltsCommand {
    /// Stop an agent, a tool, a user, a tenant or every tenant. When the command ends, no gateway of
    /// the data allows its target
    Add {
        /// What to stop: agent, tool, user, tenant or all
        #[arg(value_parser = parse_scope)]
        scope: Scope,
        /// Agent, tool or user to stop; `*` in a tool matches any characters
        id: Option<String>,
        /// Reason, which clients and the ledger show
        #[arg(long)]
        reason: String,
        /// Tenant; required except for all
        #[arg(long, value_name = "ID")]
        tenant: Option<String>,
        #[command(flatten)]
        source: HaltSource,
    },
    /// Lift a halt
    Lift {
        /// Id of the halt
        id: String,
        /// Reason, which the ledger shows
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        source: HaltSource,
    },
    /// List active halts
    List {
        /// Include lifted halts
        #[arg(long)]
        all: bool,
        /// Only halts of this tenant and of every tenant
        #[arg(long, value_name = "ID")]
        tenant: Option<String>,
        #[command(flatten)]
        source: HaltSource,
    },
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct HaltSource {
    /// Gateway settings, a TOML file that names the data
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Gateway data file
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// PostgreSQL database; - reads ACTPASS_DATABASE_URL, which hides the password from other users
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
}

impl HaltSource {
    fn location(self) -> Result<Location, Failure> {
        if let Some(config) = self.config {
            return Ok(Settings::load(&config).map_err(Failure::Settings)?.data);
        }
        let Some(url) = self.database_url else {
            return Ok(Location::File(self.data.unwrap_or_default()));
        };
        let url = match url.as_str() {
            "-" => std::env::var(DATABASE_URL_VARIABLE)
                .map_err(|error| Failure::Failed(format!("{DATABASE_URL_VARIABLE}: {error}")))?,
            _ => url,
        };
        let url = zeroize::Zeroizing::new(url);
        let database = Database::parse(&url, TlsTrust::default());
        let failed = |problem| Failure::Failed(format!("--database-url: {problem}"));
        database.map(Location::Database).map_err(failed)
    }
}

fn parse_scope(word: &str) -> Result<Scope, String> {
    Scope::parse(word).ok_or_else(|| "expected agent, tool, user, tenant or all".to_owned())
}

impl HaltsCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Add { scope, id, reason, tenant, source } => {
                let halt = read_halt(scope, id, reason, tenant)?;
                match change(source, HaltChange::Start(Box::new(halt)))? {
                    HaltOutcome::Changed(halt) => print_halt(&halt),
                    HaltOutcome::Repeated(halt) => {
                        print_halt(&halt)?;
                        eprintln!("already stopped from the command line");
                        Ok(())
                    }
                    HaltOutcome::NotActive | HaltOutcome::TooMany => Err(Failure::new(
                        "the limit of active halts is reached; lift one, or stop the tenant",
                    )),
                }
            }
            Self::Lift { id, reason, source } => {
                check_text("--reason", &reason, 2000)?;
                let lift = HaltChange::Lift { id: id.clone(), by: COMMAND_LINE.to_owned(), reason };
                match change(source, lift)? {
                    HaltOutcome::Changed(halt) => print_halt(&halt),
                    HaltOutcome::NotActive | HaltOutcome::Repeated(_) | HaltOutcome::TooMany => {
                        Err(Failure::Failed(format!("there is no active halt {id:?}")))
                    }
                }
            }
            Self::List { all, tenant, source } => with_store(&source.location()?, async |store| {
                let mut after = 0;
                loop {
                    let tenant_id = tenant.clone();
                    let listing = HaltListing { tenant_id, with_lifted: all, after, limit: PAGE };
                    let halts = store.list_halts(listing).await.map_err(Failure::new)?;
                    for halt in &halts {
                        print_halt(halt)?;
                    }
                    match halts.last() {
                        Some(last) => after = last.epoch,
                        None => return Ok(()),
                    }
                }
            }),
        }
    }
}

fn change(source: HaltSource, change: HaltChange) -> Result<HaltOutcome, Failure> {
    with_store(&source.location()?, async |store| store.change_halts(change).await.map_err(Failure::new))
}

/// Checks the arguments like the API.
fn read_halt(
    scope: Scope,
    id: Option<String>,
    reason: String,
    tenant: Option<String>,
) -> Result<Halt, Failure> {
    check_text("--reason", &reason, 2000)?;
    match (&id, scope.has_target()) {
        (Some(id), true) => check_text("ID", id, 256)?,
        (None, false) => {}
        (None, true) => {
            return Err(Failure::Failed(format!("missing ID; expected the {} to stop", scope.as_str())));
        }
        (Some(_), false) => {
            return Err(Failure::Failed(format!("unexpected ID with the scope {}; omit it", scope.as_str())));
        }
    }
    let tenant_id = match (tenant, scope) {
        (None, Scope::All) => None,
        (Some(_), Scope::All) => {
            return Err(Failure::new("--tenant: unexpected with the scope all; omit it"));
        }
        (Some(tenant), _) => Some(Arc::from(tenant)),
        (None, _) => return Err(Failure::new("--tenant: missing; expected the tenant of what to stop")),
    };
    Ok(Halt::new(tenant_id, scope, id, reason, COMMAND_LINE))
}

fn check_text(place: &str, text: &str, limit: usize) -> Result<(), Failure> {
    match text.chars().count() {
        count if count == 0 || count > limit => {
            Err(Failure::Failed(format!("{place}: expected 1 to {limit} characters, found {count}")))
        }
        _ => Ok(()),
    }
}

fn print_halt(halt: &Halt) -> Result<(), Failure> {
    let tenant = halt.tenant_id.as_deref().unwrap_or("*");
    let (scope, target) = (halt.scope.as_str(), halt.target.as_deref().unwrap_or("-"));
    let lifted = match &halt.lifted {
        None => String::new(),
        Some(lifted) => format!(
            "\tlifted {} by {}: {}",
            rfc3339(lifted.at),
            lifted.by.escape_debug(),
            lifted.reason.escape_debug()
        ),
    };
    print(format_args!(
        "{}\t{}\t{scope}\t{}\t{} by {}: {}{lifted}",
        halt.id,
        tenant.escape_debug(),
        target.escape_debug(),
        rfc3339(halt.at),
        halt.by.escape_debug(),
        halt.reason.escape_debug()
    ))
}
