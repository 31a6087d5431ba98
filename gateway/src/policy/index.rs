//! Index of rules and histories by required strings.

use super::model::{Condition, HashMap, List, Test};

/// Rules indexed by the strings that they require at a path. Most rules of a large policy name a
/// tool, so only the rules of the called tool are evaluated.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    pub(super) tables: Vec<Table>,
    /// Rules that are not indexed.
    pub(super) rest: Vec<usize>,
}

/// Rules that require certain strings or prefixes at one path, in policy order.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// Index of the path.
    pub(super) path: usize,
    whole: HashMap<String, Vec<usize>>,
    starts: HashMap<String, Vec<usize>>,
    /// Distinct prefix lengths, in bytes.
    lengths: Vec<usize>,
}

impl Table {
    fn at(path: usize) -> Self {
        Self { path, whole: HashMap::default(), starts: HashMap::default(), lengths: Vec::new() }
    }

    /// Returns the rules that can match `text` at the path.
    #[inline]
    pub(super) fn candidates<'s, 't>(
        &'s self,
        text: &'t str,
    ) -> impl Iterator<Item = &'s [usize]> + use<'s, 't> {
        let starts = self.lengths.iter().filter_map(move |length| self.starts.get(text.get(..*length)?));
        self.whole.get(text).into_iter().chain(starts).map(Vec::as_slice)
    }

    fn add(&mut self, rule: usize, required: Required<'_>) {
        match required {
            Required::Start(start) => {
                self.starts.entry(start.to_owned()).or_default().push(rule);
                if !self.lengths.contains(&start.len()) {
                    self.lengths.push(start.len());
                }
            }
            Required::OneOf(texts) => {
                for text in texts {
                    self.whole.entry(text.to_owned()).or_default().push(rule);
                }
            }
        }
    }
}

impl Index {
    /// Indexes lists of conditions, all of which are required.
    pub(super) fn of(rules: &[&[Condition]]) -> Self {
        let counts = Counts::of(rules);
        let mut index = Self::default();
        let mut tables: HashMap<usize, Table> = HashMap::default();
        for (number, rule) in rules.iter().enumerate() {
            let cheapest = rule
                .iter()
                .filter_map(|condition| Some((counts.cost(condition)?, condition)))
                .min_by(|(a, _), (b, _)| a.total_cmp(b));
            match cheapest.and_then(|(_, condition)| Some((condition.path, condition.test.required()?))) {
                Some((path, required)) => {
                    tables.entry(path).or_insert_with(|| Table::at(path)).add(number, required);
                }
                None => index.rest.push(number),
            }
        }
        index.tables = tables.into_values().collect();
        index.tables.sort_unstable_by_key(|table| table.path);
        index
    }
}

/// The strings that a condition requires.
enum Required<'t> {
    OneOf(Vec<&'t str>),
    Start(&'t str),
}

impl Test {
    fn required(&self) -> Option<Required<'_>> {
        match self {
            Self::Equal(value) => value.as_str().map(|text| Required::OneOf(vec![text])),
            Self::In(List::Strings(texts)) => {
                Some(Required::OneOf(texts.iter().map(String::as_str).collect()))
            }
            Self::StartsWith(start) => Some(Required::Start(start)),
            Self::In(List::Values(_))
            | Self::Compare(..)
            | Self::Contains(_)
            | Self::EndsWith(_)
            | Self::Exists(_)
            | Self::HasOnly(_)
            | Self::Matches(_)
            | Self::NotEqual(_)
            | Self::NotIn(_)
            | Self::Order(..) => None,
        }
    }
}

/// Number of rules per path, and per string.
#[derive(Default)]
struct Counts<'r> {
    paths: HashMap<usize, u32>,
    texts: HashMap<(usize, &'r str), u32>,
}

impl<'r> Counts<'r> {
    fn of(rules: &[&'r [Condition]]) -> Self {
        let mut counts = Self::default();
        for condition in rules.iter().copied().flatten() {
            let texts = match condition.test.required() {
                Some(Required::OneOf(texts)) => texts,
                Some(Required::Start(start)) => vec![start],
                None => continue,
            };
            *counts.paths.entry(condition.path).or_default() += 1;
            for text in texts {
                *counts.texts.entry((condition.path, text)).or_default() += 1;
            }
        }
        counts
    }

    /// Estimates the evaluation cost of a rule indexed by this condition, relative to 1 for an
    /// unindexed rule: its share of the lookup plus the expected number of evaluations. `None` if
    /// indexing does not help.
    fn cost(&self, condition: &Condition) -> Option<f64> {
        let of_text = |text| self.texts.get(&(condition.path, text)).copied().map_or(0.0, f64::from);
        let of_path = self.paths.get(&condition.path).copied().map_or(0.0, f64::from);
        let tried: f64 = match condition.test.required()? {
            Required::OneOf(texts) => texts.into_iter().map(of_text).sum(),
            Required::Start(start) => of_text(start),
        };
        Some((tried + 1.0) / of_path).filter(|cost| *cost < 1.0)
    }
}
