//! `actpass-gateway policy`.

use std::path::{Path, PathBuf};

use actpass_protocol::Json;
use clap::Subcommand;

use super::policy_life::{self, ReplayArguments, TenantArguments};
use super::source::parse_file;
use super::{Failure, print};
use crate::object_writer::object;
use crate::policy::{
    CaseChange, Cases, Change, Changes, Decision, Finding, FindingKind, Insight, InsightKind, OpenChange,
    Outcome, Policy,
};

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
    /// Report the requests that a new policy answers differently
    Diff {
        /// The policy in force, a JSON file
        old: PathBuf,
        /// The new policy, a JSON file
        new: PathBuf,
        /// Report also which of these test cases change, a JSON file; `expect` is optional in it
        #[arg(long, value_name = "FILE")]
        cases: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the policies of a tenant that were in force, with their hashes
    History {
        #[command(flatten)]
        tenant: TenantArguments,
    },
    /// Decide captured requests again with another policy, and report what changes
    Replay(ReplayArguments),
    /// Restore a policy that was in force to the tenant's policy file
    Rollback {
        /// Hash of the policy, or at least its first 8 digits
        hash: String,
        #[command(flatten)]
        tenant: TenantArguments,
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
            Self::Diff { old, new, cases, json } => diff_policies(&old, &new, cases.as_deref(), json),
            Self::History { tenant } => policy_life::history(&tenant),
            Self::Replay(arguments) => policy_life::replay(&arguments),
            Self::Rollback { hash, tenant } => policy_life::rollback(&tenant, &hash),
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

fn diff_policies(old: &Path, new: &Path, cases: Option<&Path>, json: bool) -> Result<(), Failure> {
    let [before, after] = [old, new].map(|file| parse_file(file, Policy::parse));
    let (before, after) = (before?, after?);
    let cases = cases.map(|cases| parse_file(cases, Cases::parse_inputs)).transpose()?;
    let changes = after.changes_from(&before);
    let changed_cases: Option<Vec<CaseChange>> =
        cases.as_ref().map(|cases| cases.iter().filter_map(|case| case.change(&before, &after)).collect());
    if json {
        let list = |items: Vec<Json>| Some(Json::Array(items));
        let report = object([
            ("old", Some(describe(&before))),
            ("new", Some(describe(&after))),
            ("complete", Some(Json::Bool(changes.open.is_empty()))),
            ("changes", list(changes.found.iter().map(Change::to_json).collect())),
            ("open", list(changes.open.iter().map(OpenChange::to_json).collect())),
            ("cases", cases.as_ref().map(|cases| count(cases.iter().count()))),
            (
                "changed_cases",
                changed_cases
                    .as_ref()
                    .and_then(|cases| list(cases.iter().map(CaseChange::to_json).collect())),
            ),
        ]);
        print(report)?;
    } else {
        print_changes(&changes)?;
        if let (Some(cases), Some(changed)) = (&cases, &changed_cases) {
            for change in changed {
                print(format_args!(
                    "case {:?}: {} instead of {}",
                    change.name,
                    answer(&change.new, &change.members),
                    answer(&change.old, &[])
                ))?;
            }
            print(format_args!("{} of {} cases change", changed.len(), cases.iter().count()))?;
        }
    }
    match (changes.found.len(), changes.open.len(), changed_cases.map_or(0, |cases| cases.len())) {
        (0, 0, 0) => Ok(()),
        (found, open, cases) => Err(Failure::Failed(format!(
            "{}: {found} changes from {}, {open} open questions, {cases} changed cases",
            new.display(),
            old.display()
        ))),
    }
}

fn count(count: usize) -> Json {
    Json::Number(i64::try_from(count).unwrap_or(i64::MAX).into())
}

fn describe(policy: &Policy) -> Json {
    object([
        ("id", Some(Json::from(policy.id()))),
        ("version", Some(policy.version().clone())),
        ("hash", Some(Json::from(policy.hash()))),
    ])
}

/// The answer of a policy; if the decision is the same, with the other members that change.
fn answer(outcome: &Outcome, members: &[&str]) -> String {
    let rule = outcome.rule.as_ref().map_or_else(|| "no rule".to_owned(), |rule| format!("rule {rule:?}"));
    let others = members.iter().filter(|member| !["decision", "reason_code"].contains(member));
    let others: Vec<_> = others.filter(|_| !members.contains(&"decision")).copied().collect();
    let others = if others.is_empty() { String::new() } else { format!("; other {}", others.join(", ")) };
    format!("{} ({}, {rule}{others})", outcome.decision, outcome.reason)
}

/// Prints the changes, grouped by the decisions.
fn print_changes(changes: &Changes) -> Result<(), Failure> {
    for old in Decision::ALL {
        for new in Decision::ALL {
            let of_kind = |change: &&Change| change.old.decision == old && change.new.decision == new;
            let mut found = changes.found.iter().filter(of_kind).peekable();
            if found.peek().is_some() {
                print(format_args!("{old} -> {new}"))?;
            }
            for change in found {
                let times = match change.times {
                    1 => String::new(),
                    times => format!(", from equal request number {times} of a window"),
                };
                print(format_args!(
                    "  {} instead of {}{times}",
                    answer(&change.new, &change.members),
                    answer(&change.old, &[])
                ))?;
                print(format_args!("    example: {}", change.witness))?;
            }
        }
    }
    for open in &changes.open {
        let rule = |name: &Option<String>| {
            name.as_ref().map_or_else(|| "no rule".to_owned(), |name| format!("rule {name:?}"))
        };
        print(format_args!(
            "open question: which requests {} decides instead of {} ({})",
            rule(&open.new),
            rule(&open.old),
            open.because
        ))?;
    }
    if changes.found.is_empty() && changes.open.is_empty() {
        print("no request changes")?;
    }
    Ok(())
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
