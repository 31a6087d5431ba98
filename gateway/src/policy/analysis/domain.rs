//! The values at a path, as finitely many cells: all values of a cell satisfy the same tests.

use std::collections::BTreeSet;

use actpass_protocol::Json;
use actpass_protocol::json::Number;
use regex_syntax::hir::{Class, Hir, HirKind};
use rust_decimal::Decimal;

use super::super::check::JsonTypes;
use super::super::model::{Bound, List, Path, RiskTier, Root, Test};
use crate::budget::amount;

/// Maximum number of parts of a string or items of an array whose combinations are tried.
const MAX_OPAQUE: usize = 6;

/// Maximum number of strings that are tried in each range.
const MAX_EXAMPLES: usize = 500;

/// A property of the value at a path.
#[derive(Clone, Debug)]
pub(super) enum Probe<'p> {
    Test(&'p Test),
    /// Is an amount of at most this limit, or any amount.
    Amount(Option<Decimal>),
    /// Is a number above 0.
    Positive,
}

impl Probe<'_> {
    pub(super) fn holds(&self, value: Option<&Json>) -> bool {
        match self {
            Self::Test(test) => test.holds(value),
            Self::Amount(limit) => match value {
                Some(Json::Number(number)) => {
                    amount(number).is_some_and(|amount| limit.is_none_or(|limit| amount <= limit))
                }
                Some(_) | None => false,
            },
            Self::Positive => match value {
                Some(Json::Number(number)) => number.compare(&Number::from(0)).is_gt(),
                Some(_) | None => false,
            },
        }
    }
}

/// A cell of a path.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// An object whose members are determined by the paths below it.
    Composed,
    Json(Json),
    Missing,
    /// Strings of one range, of which the opaque tests may or may not hold.
    Range,
    /// Any value that the other cells do not represent; every probe may or may not hold.
    Rest,
}

/// A cell and the results of the probes for its values.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) value: Value,
    pub(super) holds: Vec<bool>,
}

/// The cells of a path.
#[derive(Clone, Debug)]
pub(super) struct Domain {
    pub(super) cells: Vec<Cell>,
    /// The operators that keep the cells from representing every value.
    pub(super) gap: Option<String>,
}

/// Returns whether the matching strings are not a range, so that examples are needed.
pub(super) fn is_opaque(test: &Test) -> bool {
    matches!(test, Test::Contains(Json::String(_)) | Test::EndsWith(_) | Test::Matches(_))
}

/// Returns whether the opaque tests are the same.
pub(super) fn is_same(one: &Test, other: &Test) -> bool {
    match (one, other) {
        (Test::Contains(a), Test::Contains(b)) => a.same_value(b),
        (Test::EndsWith(a), Test::EndsWith(b)) => a == b,
        (Test::Matches(a), Test::Matches(b)) => a.as_str() == b.as_str(),
        _ => false,
    }
}

/// Returns whether `one` implies `other` for every string.
pub(super) fn includes(one: &Test, other: &Test) -> bool {
    match (one, other) {
        (Test::EndsWith(a), Test::EndsWith(b)) => a.ends_with(b.as_str()),
        (
            Test::EndsWith(a) | Test::StartsWith(a) | Test::Contains(Json::String(a)),
            Test::Contains(Json::String(b)),
        ) => a.contains(b.as_str()),
        _ => false,
    }
}

/// Returns whether no string satisfies both tests.
pub(super) fn excludes(one: &Test, other: &Test) -> bool {
    match (one, other) {
        (Test::EndsWith(a), Test::EndsWith(b)) => !a.ends_with(b.as_str()) && !b.ends_with(a.as_str()),
        _ => false,
    }
}

/// The uses of a path.
pub(super) struct Use<'p> {
    pub(super) path: &'p Path,
    pub(super) probes: &'p [Probe<'p>],
    /// Whether the paths below it, or `has_only`, determine its members.
    pub(super) is_composed: bool,
    /// Whether it is compared with another path, so that each value may matter.
    pub(super) is_compared: bool,
    /// Additional values.
    pub(super) more: &'p [Json],
}

impl Domain {
    pub(super) fn of(used: &Use<'_>) -> Self {
        let Use { path, probes, is_composed, is_compared, more } = *used;
        let kinds = path.kinds();
        let tests: Vec<&Test> = probes
            .iter()
            .filter_map(|probe| match probe {
                Probe::Test(test) => Some(*test),
                Probe::Amount(_) | Probe::Positive => None,
            })
            .collect();
        let mut constants = constants_of(&tests);
        constants.extend(more.iter().cloned());
        let mut gap = None;
        let has = |kind: JsonTypes| kinds.and(kind) != JsonTypes::NONE;
        let mut values: Vec<Value> = Vec::new();
        if !path.is_always_there() {
            values.push(Value::Missing);
        }
        if has(JsonTypes::OBJECT) && is_composed {
            values.push(Value::Composed);
        }
        let mut ranges = Vec::new();
        if path.segments.is_empty() && path.root == Root::RiskTier {
            values.extend(RiskTier::ALL.iter().map(|tier| Value::Json(Json::from(tier.as_str()))));
        } else if has(JsonTypes::STRING) {
            let allows_empty = !(path.segments.is_empty() && matches!(path.root, Root::Goal | Root::Tool));
            let strings = Strings::of(&tests, &constants, allows_empty);
            values.extend(strings.values.into_iter().map(|text| Value::Json(Json::String(text))));
            ranges = strings.ranges;
        }
        if has(JsonTypes::NUMBER) {
            let (numbers, number_gap) = numbers(&constants, probes);
            values.extend(numbers.into_iter().map(|number| Value::Json(Json::Number(number))));
            gap = gap.or(number_gap);
        }
        let plain = [Json::Bool(true), Json::Bool(false), Json::Null];
        values.extend(plain.into_iter().filter(|value| has(JsonTypes::of(value))).map(Value::Json));
        let structured = |value: &&Json| matches!(value, Json::Array(_) | Json::Object(_));
        values.extend(constants.iter().filter(structured).cloned().map(Value::Json));
        if has(JsonTypes::ARRAY) {
            let (arrays, array_gap) = arrays(&tests);
            values.extend(arrays.into_iter().map(Value::Json));
            gap = gap.or(array_gap);
        }
        let is_object = |value: &Json| matches!(value, Json::Object(_));
        if has(JsonTypes::OBJECT) {
            if !is_composed {
                let members = [Vec::new(), vec![("other".to_owned(), Json::Null)]];
                values.extend(members.map(|members| Value::Json(Json::Object(members))));
            }
            if constants.iter().any(is_object) {
                gap = gap.or_else(|| Some(format!("the comparison of {path} with an object")));
            }
        }
        if is_composed && tests.iter().any(|test| matches!(test, Test::Contains(_))) {
            gap = gap.or_else(|| Some(format!("contains on {path} and conditions on its items")));
        }
        values.retain(|value| match value {
            Value::Json(json) => kinds.and(JsonTypes::of(json)) != JsonTypes::NONE,
            Value::Composed | Value::Missing | Value::Range | Value::Rest => true,
        });
        let mut seen = BTreeSet::new();
        let mut cells = Vec::new();
        for value in values {
            let filler = Json::Object(vec![("other".to_owned(), Json::Null)]);
            let holds: Vec<bool> = probes
                .iter()
                .map(|probe| match &value {
                    Value::Composed => probe.holds(Some(&filler)),
                    Value::Json(json) => probe.holds(Some(json)),
                    Value::Missing | Value::Range | Value::Rest => probe.holds(None),
                })
                .collect();
            let kind = match &value {
                Value::Missing => 0,
                Value::Composed => 1,
                Value::Json(Json::Array(_) | Json::Object(_)) if is_composed => 2 + cells.len(),
                Value::Json(_) | Value::Range | Value::Rest => 2,
            };
            if seen.insert((kind, holds.clone())) || (is_compared && cells.len() < 64) {
                cells.push(Cell { value, holds });
            }
        }
        for example in ranges {
            let example = Json::String(example);
            let holds = probes.iter().map(|probe| probe.holds(Some(&example))).collect();
            cells.push(Cell { value: Value::Range, holds });
        }
        if gap.is_some() {
            cells.push(Cell { value: Value::Rest, holds: Vec::new() });
        }
        Self { cells, gap }
    }
}

/// Returns the constants of the tests.
fn constants_of(tests: &[&Test]) -> Vec<Json> {
    let mut constants = Vec::new();
    for test in tests {
        match test {
            Test::Equal(value) | Test::NotEqual(value) => constants.push(value.clone()),
            Test::In(list) | Test::NotIn(list) => match list {
                List::Strings(texts) => constants.extend(texts.iter().map(|text| Json::from(&**text))),
                List::Values(values) => constants.extend(values.iter().cloned()),
            },
            Test::Order(_, Bound::Number(number)) => constants.push(Json::Number(number.clone())),
            Test::Order(_, Bound::Text(text)) | Test::StartsWith(text) => {
                constants.push(Json::from(&**text));
            }
            Test::Compare(..)
            | Test::Contains(_)
            | Test::EndsWith(_)
            | Test::Exists(_)
            | Test::HasOnly(_)
            | Test::Matches(_) => {}
        }
    }
    constants
}

fn number(text: &str) -> Option<Number> {
    match Json::parse(text.as_bytes()) {
        Ok(Json::Number(number)) => Some(number),
        Ok(_) | Err(_) => None,
    }
}

/// Returns each constant and a number of each interval between them.
fn numbers(constants: &[Json], probes: &[Probe<'_>]) -> (Vec<Number>, Option<String>) {
    let mut points: Vec<Number> = constants
        .iter()
        .filter_map(|value| match value {
            Json::Number(number) => Some(number.clone()),
            Json::Array(_) | Json::Bool(_) | Json::Null | Json::Object(_) | Json::String(_) => None,
        })
        .collect();
    let measured = probes.iter().any(|probe| matches!(probe, Probe::Amount(_)));
    if measured {
        points.extend(["0", "1000000000000000000"].into_iter().filter_map(number));
        points.extend(probes.iter().filter_map(|probe| match probe {
            Probe::Amount(Some(limit)) => number(&limit.to_string()),
            Probe::Amount(None) | Probe::Positive | Probe::Test(_) => None,
        }));
    }
    points.sort_by(Number::compare);
    points.dedup_by(|a, b| a.compare(b).is_eq());
    let mut gap = None;
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return (vec![Number::from(1)], None);
    };
    let decimal = |number: &Number| {
        Decimal::from_scientific(number.as_str())
            .ok()
            .or_else(|| Decimal::from_str_exact(number.as_str()).ok())
    };
    let fraction = Decimal::new(1, 10);
    let mut found = Vec::new();
    let mut between = |low: Option<&Number>, high: Option<&Number>| {
        let (a, b) = (low.map(decimal), high.map(decimal));
        let step = |from: Option<Decimal>, by: Decimal| from.and_then(|from| from.checked_add(by));
        let (mut tries, limits) = match (a, b) {
            (None, Some(b)) => (vec![step(b, -Decimal::ONE), Some(Decimal::MIN)], (None, high)),
            (Some(a), None) => (vec![step(a, Decimal::ONE), Some(Decimal::MAX)], (low, None)),
            (Some(a), Some(b)) => {
                let middle = a.zip(b).and_then(|(a, b)| a.checked_add(b)).map(|sum| sum / Decimal::TWO);
                (vec![step(a, Decimal::ONE), step(b, -Decimal::ONE), middle, step(a, fraction)], (low, high))
            }
            (None, None) => (Vec::new(), (None, None)),
        };
        if measured {
            let fine: Vec<_> = tries.iter().map(|value| step(*value, fraction)).collect();
            tries.extend(fine);
        }
        let before = found.len();
        for value in tries.into_iter().flatten() {
            let value = number(&value.normalize().to_string());
            found.extend(value.filter(|value| {
                limits.0.is_none_or(|low| low.compare(value).is_lt())
                    && limits.1.is_none_or(|high| value.compare(high).is_lt())
            }));
        }
        if found.len() == before {
            gap = Some("numbers of more than 28 digits".to_owned());
        }
    };
    for (low, high) in points.iter().zip(points.iter().skip(1)) {
        between(Some(low), Some(high));
    }
    between(Some(last), None);
    between(None, Some(first));
    points.extend(found);
    (points, gap)
}

/// Returns an array for each combination of items that a test names.
fn arrays(tests: &[&Test]) -> (Vec<Json>, Option<String>) {
    let mut items: Vec<&Json> = Vec::new();
    for test in tests {
        if let Test::Contains(item) = test
            && !items.iter().any(|known| known.same_value(item))
        {
            items.push(item);
        }
    }
    let gap = (items.len() > MAX_OPAQUE).then(|| "many contains on one path".to_owned());
    items.truncate(MAX_OPAQUE);
    let mut arrays = vec![Json::Array(Vec::new())];
    for chosen in 0..1_u32 << items.len() {
        let chosen = items.iter().enumerate().filter(|(at, _)| chosen & (1 << at) != 0);
        let mut array: Vec<Json> = chosen.map(|(_, item)| (*item).clone()).collect();
        arrays.push(Json::Array(array.clone()));
        // Distinguishes it from the constants.
        array.push(Json::from("(other)"));
        arrays.push(Json::Array(array));
    }
    (arrays, gap)
}

/// The strings at a path.
#[derive(Default)]
struct Strings {
    values: Vec<String>,
    /// A string of each range, if opaque tests distinguish strings of a range.
    ranges: Vec<String>,
}

impl Strings {
    fn of(tests: &[&Test], constants: &[Json], allows_empty: bool) -> Self {
        let mut points: BTreeSet<String> =
            constants.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect();
        for test in tests {
            if let Test::StartsWith(start) = test {
                points.extend(successor(start));
            }
        }
        let mut found = Self::default();
        found.values.extend(points.iter().cloned());
        let points: Vec<&str> = points.iter().map(String::as_str).collect();
        let lows = std::iter::once(None).chain(points.iter().map(Some));
        let highs = points.iter().map(Some).chain([None]);
        let tails = examples(tests);
        for (low, high) in lows.zip(highs) {
            let base = low.copied().unwrap_or_default();
            let mut inside: Vec<String> =
                ["x", "0", " ", "", "a", "~", "\u{0}"].iter().map(|tail| format!("{base}{tail}")).collect();
            for tail in &tails {
                inside.extend([
                    format!("{base}x{tail}"),
                    format!("{base}0{tail}"),
                    format!("{base}{tail}"),
                    tail.clone(),
                ]);
            }
            inside.retain(|text| {
                low.is_none_or(|low| *low < text.as_str())
                    && high.is_none_or(|high| text.as_str() < *high)
                    && (allows_empty || !text.is_empty())
            });
            // Nothing is between a string and the string followed by U+0000.
            found.ranges.extend(inside.first().filter(|_| tests.iter().any(|test| is_opaque(test))).cloned());
            found.values.extend(inside);
        }
        if !allows_empty {
            found.values.retain(|text| !text.is_empty());
        }
        found
    }
}

/// Returns the least string after all those that start with `start`.
fn successor(start: &str) -> Option<String> {
    let mut chars: Vec<char> = start.chars().collect();
    while let Some(last) = chars.pop() {
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// Returns strings, some of which have each simple combination of the opaque tests.
fn examples(tests: &[&Test]) -> Vec<String> {
    let mut parts: Vec<&str> = Vec::new();
    let mut ends: Vec<String> = vec![String::new()];
    let mut samples: Vec<String> = Vec::new();
    for test in tests {
        if let Test::Contains(Json::String(part)) = test
            && !parts.contains(&part.as_str())
        {
            parts.push(part);
        } else if let Test::EndsWith(end) = test
            && !ends.contains(end)
        {
            ends.push(end.clone());
        } else if let Test::Matches(pattern) = test
            && let Ok(hir) = regex_syntax::parse(pattern.as_str())
        {
            samples.extend(sample(&hir));
        }
    }
    samples.sort_unstable();
    samples.dedup();
    ends.extend(samples.iter().cloned());
    parts.truncate(MAX_OPAQUE);
    let mut found: Vec<String> = samples.iter().map(|sample| format!("{sample}x")).collect();
    for chosen in 0..1_u32 << parts.len() {
        let chosen = parts.iter().enumerate().filter(|(at, _)| chosen & (1 << at) != 0);
        let text = chosen.map(|(_, part)| *part).collect::<Vec<_>>().join(" ");
        found.extend(ends.iter().map(|end| format!("{text}{end}")));
    }
    found.retain(|text| !text.is_empty());
    found.truncate(MAX_EXAMPLES);
    found
}

/// Returns some strings that an expression matches.
fn sample(hir: &Hir) -> Vec<String> {
    const MAX: usize = 8;
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => vec![String::new()],
        HirKind::Literal(literal) => {
            std::str::from_utf8(&literal.0).map(|text| vec![text.to_owned()]).unwrap_or_default()
        }
        HirKind::Class(Class::Unicode(class)) => {
            let mut found: Vec<String> = class
                .ranges()
                .iter()
                .filter(|range| range.end() >= '0')
                .map(|range| range.start().max('0').to_string())
                .collect();
            found.extend(class.ranges().iter().map(|range| range.start().to_string()));
            found.truncate(3);
            found
        }
        HirKind::Class(Class::Bytes(class)) => {
            class.ranges().iter().take(1).map(|range| char::from(range.start()).to_string()).collect()
        }
        HirKind::Repetition(repetition) => {
            let times = usize::try_from(repetition.min).unwrap_or(usize::MAX).min(4096);
            let more = if times == 0 { 1 } else { times };
            let of_part = sample(&repetition.sub);
            let mut found: Vec<String> = of_part.iter().map(|text| text.repeat(more)).collect();
            if times == 0 {
                found.push(String::new());
            }
            found
        }
        HirKind::Capture(capture) => sample(&capture.sub),
        HirKind::Concat(parts) => {
            let mut found = vec![String::new()];
            for part in parts {
                let of_part = sample(part);
                found = found
                    .iter()
                    .flat_map(|before| of_part.iter().map(move |text| format!("{before}{text}")))
                    .take(MAX)
                    .collect();
            }
            found
        }
        HirKind::Alternation(parts) => parts.iter().flat_map(sample).take(MAX).collect(),
    }
}
