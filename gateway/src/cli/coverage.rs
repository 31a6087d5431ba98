//! `actpass-gateway evidence coverage`.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::source::DataSource;
use super::{Failure, print};
use crate::coverage::{Coverage, Covered, Receipt};
use crate::evidence::{ExportError, read_events};
use crate::ledger::{Archived, DECISIONS};
use crate::store::{read_archived, read_chain};

#[derive(Args, Debug)]
pub(super) struct CoverageReport {
    #[command(flatten)]
    source: DataSource,
    /// Tenant to report
    #[arg(long, value_name = "ID")]
    tenant: String,
    /// Runs from another log, as JSON Lines with `tool`, `at` and, if known, `evidence_event_id` or
    /// `request_hash`
    #[arg(long, value_name = "FILE")]
    receipts: Option<PathBuf>,
    /// Maximum age of the decision for a receipt without an event and a hash
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    within: Duration,
    /// Archived segments of the chain, in order; can be repeated
    #[arg(long, value_name = "FILE")]
    segment: Vec<PathBuf>,
}

impl CoverageReport {
    pub(super) fn run(self) -> Result<(), Failure> {
        let receipts = match &self.receipts {
            Some(file) => File::open(file)
                .and_then(|opened| Receipt::read_all(BufReader::new(opened)))
                .map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))?,
            None => Vec::new(),
        };
        let data = self.source.location()?;
        let mut coverage = Coverage::default();
        let mut segments = 0;
        for file in &self.segment {
            let failed = |error: io::Error| Failure::Failed(format!("{}: {error}", file.display()));
            let events = BufReader::new(File::open(file).map_err(failed)?);
            read_events(events, |event| {
                segments = segments.max(event.seq);
                coverage.read(event);
                Ok(())
            })
            .map_err(failed)?;
        }
        let archived = read_archived(&data, &self.tenant, DECISIONS).map_err(Failure::new)?;
        let Archived { head: archived, .. } = archived.unwrap_or_default();
        if archived.length > segments {
            return Err(Failure::Failed(format!(
                "the events up to {} of the chain are archived; give their segments with --segment",
                archived.length
            )));
        }
        let head = read_chain(&data, &self.tenant, DECISIONS, |event| {
            // Archived events that are not removed yet are in a segment, too.
            if event.seq > segments {
                coverage.read(event);
            }
            Ok::<_, ExportError>(())
        });
        if head.map_err(Failure::new)?.is_none() {
            // A misspelled tenant must not look covered.
            let (tenant_id, chain_id) = (self.tenant, DECISIONS.to_owned());
            return Err(Failure::new(ExportError::NoSuchChain { tenant_id, chain_id }));
        }

        let Covered { uncovered, outcomes, receipts, without_outcome, by_mode } =
            coverage.compare(receipts, self.within);
        for line in &uncovered {
            print(line)?;
        }
        print(format_args!(
            "{outcomes} outcomes and {receipts} receipts, {by_mode} of them permitted by the mode only; \
             {without_outcome} decisions allow without an outcome"
        ))?;
        match uncovered.len() {
            0 => print("every outcome and receipt has a decision that permits it"),
            count => Err(Failure::Failed(format!("{count} runs have no decision that permits them"))),
        }
    }
}
