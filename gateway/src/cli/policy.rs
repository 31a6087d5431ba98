//! `actpass-gateway policy`.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::{Failure, print};
use crate::files;
use crate::policy::{Cases, Policy};
use crate::problems::Problems;

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Validate a policy and report problems
    Check {
        /// Policy, a JSON file
        file: PathBuf,
    },
    /// Test a policy against expected decisions
    Test {
        /// Policy, a JSON file
        file: PathBuf,
        /// Test cases, a JSON file
        cases: PathBuf,
    },
}

impl PolicyCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Check { file } => check_policy(&file),
            Self::Test { file, cases } => test_policy(&file, &cases),
        }
    }
}

fn check_policy(file: &Path) -> Result<(), Failure> {
    let policy = parse_file(file, Policy::parse)?;
    let version = policy.version().as_str().map_or_else(|| policy.version().to_string(), str::to_owned);
    print(format_args!(
        "id       {}\nversion  {version}\nhash     {}\nrules    {}\nbudgets  {}",
        policy.id(),
        policy.hash(),
        policy.rules().len(),
        policy.budgets().len()
    ))?;
    let findings = policy.findings();
    let mut defects = 0_usize;
    for finding in &findings {
        let word = if finding.is_defect() { "error" } else { "warning" };
        defects += usize::from(finding.is_defect());
        // On standard error, because programs read the policy's description on standard output.
        eprintln!("{word}: {finding}");
    }
    match defects {
        0 => Ok(()),
        _ => Err(Failure::Failed(format!("{}: {defects} rules never apply", file.display()))),
    }
}

fn test_policy(file: &Path, cases: &Path) -> Result<(), Failure> {
    let policy = parse_file(file, Policy::parse)?;
    let cases = parse_file(cases, Cases::parse)?;
    let mut passed = 0_usize;
    let mut failed = 0_usize;
    for case in cases.iter() {
        let mismatches = case.run(&policy);
        if mismatches.is_empty() {
            passed += 1;
            continue;
        }
        failed += 1;
        print(format_args!("FAIL {}", case.name()))?;
        for mismatch in mismatches {
            print(mismatch)?;
        }
    }
    print(format_args!("{passed} passed, {failed} failed"))?;
    match failed {
        0 => Ok(()),
        _ => Err(Failure::Failed(format!("{}: decisions differ from expectations", file.display()))),
    }
}

/// Parses the file; errors name it.
fn parse_file<T>(file: &Path, parse: impl Fn(&[u8]) -> Result<T, Problems>) -> Result<T, Failure> {
    let text =
        files::read_bytes(file).map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))?;
    parse(&text).map_err(|found| {
        let mut problems = Problems::default();
        problems.add_all(file.display(), &found);
        Failure::new(problems)
    })
}
