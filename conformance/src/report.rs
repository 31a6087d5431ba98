//! The table and the JSON of a run.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::run::{CaseReport, Outcome};

/// Numbers of outcomes by area, in the order of the cases.
pub(crate) struct Summary {
    areas: Vec<(String, Counts)>,
    pub(crate) total: Counts,
}

#[derive(Clone, Default)]
pub(crate) struct Counts {
    outcomes: BTreeMap<Outcome, usize>,
    /// The number of cases with differences.
    pub(crate) differ: usize,
}

impl Counts {
    fn add(&mut self, report: &CaseReport) {
        *self.outcomes.entry(report.outcome).or_default() += 1;
        self.differ += usize::from(!report.differences.is_empty());
    }

    pub(crate) fn of(&self, outcome: Outcome) -> usize {
        self.outcomes.get(&outcome).copied().unwrap_or_default()
    }

    fn cases(&self) -> usize {
        self.outcomes.values().sum()
    }

    fn json(&self) -> Value {
        let mut members = Map::from_iter([
            ("cases".to_owned(), self.cases().into()),
            ("differ".to_owned(), self.differ.into()),
        ]);
        for outcome in Outcome::ALL {
            members.insert(outcome.title().replace(' ', "_"), self.of(outcome).into());
        }
        Value::Object(members)
    }
}

impl Summary {
    pub(crate) fn new(reports: &[CaseReport]) -> Self {
        let mut summary = Self { areas: Vec::new(), total: Counts::default() };
        for one in reports {
            summary.total.add(one);
            match summary.areas.iter_mut().find(|(area, _)| *area == one.area) {
                Some((_, counts)) => counts.add(one),
                None => {
                    let mut counts = Counts::default();
                    counts.add(one);
                    summary.areas.push((one.area.clone(), counts));
                }
            }
        }
        summary
    }

    /// A Markdown table with a line for each area.
    pub(crate) fn table(&self) -> String {
        let mut rows = vec![header()];
        rows.extend(self.areas.iter().map(|(area, counts)| row(area, counts)));
        rows.push(row("all", &self.total));

        let mut widths = vec![0; rows.first().map_or(0, Vec::len)];
        for cells in &rows {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = cell.len().max(*width);
            }
        }
        let mut table = String::new();
        for (n, cells) in rows.iter().enumerate() {
            for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
                // Numbers on the right.
                let _ = match column {
                    0 => write!(table, "| {cell:<width$} "),
                    _ => write!(table, "| {cell:>width$} "),
                };
            }
            table.push_str("|\n");
            if n == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let end = if column == 0 { '-' } else { ':' };
                    let _ = write!(table, "| {}{end} ", "-".repeat(width.saturating_sub(1)));
                }
                table.push_str("|\n");
            }
        }
        table
    }

    /// The summary and every case.
    pub(crate) fn json(&self, suite: &str, adapter: &[String], reports: &[CaseReport]) -> Value {
        let areas: Map<String, Value> =
            self.areas.iter().map(|(area, counts)| (area.clone(), counts.json())).collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "suite": suite,
            "adapter": adapter,
            "total": self.total.json(),
            "areas": areas,
            "cases": reports,
        })
    }
}

fn header() -> Vec<String> {
    let titles = Outcome::ALL.map(|outcome| outcome.title().to_owned());
    ["area".to_owned(), "cases".to_owned()].into_iter().chain(titles).chain(["differ".to_owned()]).collect()
}

fn row(area: &str, counts: &Counts) -> Vec<String> {
    let outcomes = Outcome::ALL.map(|outcome| counts.of(outcome).to_string());
    [area.to_owned(), counts.cases().to_string()]
        .into_iter()
        .chain(outcomes)
        .chain([counts.differ.to_string()])
        .collect()
}
