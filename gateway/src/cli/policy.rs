//! `actpass-gateway policy`.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::{Failure, print};
use crate::files;
use crate::policy::{Cases, Finding, FindingKind, Insight, InsightKind, Policy};
use crate::problems::Problems;

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Validate a policy and report problems
    Check {
        /// Policy, a JSON file
        file: PathBuf,
        /// Report where the policy grants more than this one, a JSON file
        #[arg(long, value_name = "OLD")]
        against: Option<PathBuf>,
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
            Self::Check { file, against } => check_policy(&file, against.as_deref()),
            Self::Test { file, cases } => test_policy(&file, &cases),
        }
    }
}

fn check_policy(file: &Path, against: Option<&Path>) -> Result<(), Failure> {
    let policy = parse_file(file, Policy::parse)?;
    let old = against.map(|old| parse_file(old, Policy::parse)).transpose()?;
    let version = policy.version().as_str().map_or_else(|| policy.version().to_string(), str::to_owned);
    print(format_args!(
        "id       {}\nversion  {version}\nhash     {}\nrules    {}\nbudgets  {}",
        policy.id(),
        policy.hash(),
        policy.rules().len(),
        policy.budgets().len()
    ))?;
    let insights = policy.insights();
    let is_known = |finding: &Finding| {
        let mut of_rule = insights.iter().filter(|insight| insight.subject.as_ref() == Some(&finding.rule));
        of_rule.any(|insight| match finding.kind {
            FindingKind::NeverHolds(_) | FindingKind::Shadowed(_) => insight.is_defect(),
            FindingKind::OpenArguments(_) => insight.kind == InsightKind::AlwaysMatches,
            FindingKind::Unbudgeted(_) => false,
        })
    };
    let mut defects = 0_usize;
    // On standard error, because programs read the policy's description on standard output.
    for finding in policy.findings() {
        if !is_known(&finding) {
            defects += usize::from(finding.is_defect());
            eprintln!("{}: {finding}", if finding.is_defect() { "error" } else { "warning" });
        }
    }
    for insight in &insights {
        defects += usize::from(insight.is_defect());
        print_insight(insight, false);
    }
    if defects > 0 {
        let file = file.display();
        return Err(Failure::Failed(format!("{file}: {defects} rules never apply, or never allow")));
    }
    let wider = old.map(|old| policy.wider_than(&old)).unwrap_or_default();
    wider.iter().for_each(|insight| print_insight(insight, true));
    match (wider.len(), against) {
        (0, _) | (_, None) => Ok(()),
        (count, Some(old)) => Err(Failure::Failed(format!(
            "{}: {count} rules grant more than {}, or may",
            file.display(),
            old.display()
        ))),
    }
}

/// Prints an insight with its example. An open question is an error if `must_know`.
fn print_insight(insight: &Insight, must_know: bool) {
    let word = match (insight.is_defect(), insight.is_open()) {
        (true, _) => "error",
        (false, true) if must_know => "error",
        (false, true) => "note",
        (false, false) => "warning",
    };
    eprintln!("{word}: {insight}");
    if let Some(witness) = &insight.witness {
        eprintln!("  example: {witness}");
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
