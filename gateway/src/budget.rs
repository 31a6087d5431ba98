//! Budgets: limits on the sum or the number of allowed actions of an account over a trailing
//! window.
//!
//! A policy defines budgets. A decision that would be `allow` claims its amount from each budget
//! that applies, in the transaction that records it, so that over any trailing window the allowed
//! sum never exceeds the limit.

use std::fmt;

use actpass_protocol::json::{JsonWriter, Number, Style};
use actpass_protocol::{ActionEnd, Json};
use rust_decimal::Decimal;

/// Reason code: a budget applies, but the amount of the action cannot be determined.
pub const NOT_MEASURABLE: &str = "budget.not_measurable";

/// Maximum decimal places of an amount.
const MAX_SCALE: u32 = 9;

/// Amounts, and sums of an account, are smaller than 10^18. With [`MAX_SCALE`], sums are exact.
const MAX_AMOUNT: i64 = 1_000_000_000_000_000_000;

/// Maximum exponent of a number literal. Larger ones are beyond the range or precision.
const MAX_EXPONENT: i32 = 28;

/// Maximum length of an account in bytes, as canonical JSON.
pub const MAX_ACCOUNT_BYTES: usize = 1024;

/// Returns the exact amount that a number states; `None` if it is negative, too large, or has too
/// many decimal places.
pub fn amount(number: &Number) -> Option<Decimal> {
    let literal = number.as_str();
    let (digits, exponent) = match literal.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (literal, 0),
    };
    if exponent.abs() > MAX_EXPONENT {
        return None;
    }
    let digits = Decimal::from_str_exact(digits).ok()?.normalize();
    let power = exponent.unsigned_abs();
    let amount = if exponent < 0 {
        Decimal::try_from_i128_with_scale(digits.mantissa(), digits.scale() + power).ok()?
    } else {
        let factor = Decimal::try_from_i128_with_scale(10_i128.checked_pow(power)?, 0).ok()?;
        // A product that needs rounding has more decimal places than are accepted below.
        digits.checked_mul(factor)?
    };
    let amount = amount.normalize();
    (amount.scale() <= MAX_SCALE && !amount.is_sign_negative() && amount < Decimal::from(MAX_AMOUNT))
        .then_some(amount)
        .map(|amount| if amount.is_zero() { Decimal::ZERO } else { amount })
}

/// A trailing window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// As written in the policy.
    text: String,
    millis: i64,
}

/// Error of [`Window::parse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a duration of 1s to 366d, such as 30m, 24h or 30d")]
pub struct InvalidWindow;

impl Window {
    const MAX_MILLIS: i64 = 366 * 86_400_000;

    /// Parses a whole number followed by `s`, `m`, `h` or `d`.
    ///
    /// # Errors
    ///
    /// Returns an error for any other text, for 0, and for more than 366 days.
    pub fn parse(text: &str) -> Result<Self, InvalidWindow> {
        let unit = text.chars().last().ok_or(InvalidWindow)?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(InvalidWindow),
        };
        let count = text.strip_suffix(unit).filter(|count| count.bytes().all(|byte| byte.is_ascii_digit()));
        let count: i64 = count.and_then(|count| count.parse().ok()).ok_or(InvalidWindow)?;
        let millis = count.checked_mul(seconds * 1_000).ok_or(InvalidWindow)?;
        match (1..=Self::MAX_MILLIS).contains(&millis) {
            true => Ok(Self { text: text.to_owned(), millis }),
            false => Err(InvalidWindow),
        }
    }

    /// The length in milliseconds.
    pub fn millis(&self) -> i64 {
        self.millis
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The account that an action claims from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Account {
    /// Name of the budget, unique in its policy, or of a [history](crate::history).
    pub budget: String,
    /// The values that identify the account: canonical JSON of an object from path to value.
    pub key: String,
}

/// The outcome of an allowed action, as its agent reported it; `None` before a report.
///
/// The first report other than `suspended` is final.
pub type Outcome = Option<ActionEnd>;

/// The word of an outcome in a policy.
pub const fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        None => "pending",
        Some(end) => end.as_str(),
    }
}

/// Returns whether no later report changes the outcome.
pub(crate) const fn is_final(end: ActionEnd) -> bool {
    match end {
        ActionEnd::Cancelled | ActionEnd::Failed | ActionEnd::Returned => true,
        ActionEnd::Suspended => false,
    }
}

/// The outcomes with which an action counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outcomes(u8);

impl Outcomes {
    /// The possible outcomes; stores depend on the order.
    pub const EACH: [Outcome; 5] = [
        None,
        Some(ActionEnd::Returned),
        Some(ActionEnd::Failed),
        Some(ActionEnd::Cancelled),
        Some(ActionEnd::Suspended),
    ];

    /// All: reports change nothing.
    pub const ALL: Self = Self(0b1_1111);

    /// Those for which `holds` is true.
    pub fn of(holds: impl Fn(Outcome) -> bool) -> Self {
        let bit = |(at, outcome): (usize, &Outcome)| if holds(*outcome) { 1 << at } else { 0 };
        Self(Self::EACH.iter().enumerate().map(bit).fold(0, |all, bit: u8| all | bit))
    }

    /// All but `failed`.
    pub fn unless_failed() -> Self {
        Self::of(|outcome| outcome != Some(ActionEnd::Failed))
    }

    /// Those in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns whether it contains the outcome.
    pub fn contains(self, outcome: Outcome) -> bool {
        Self::EACH.iter().zip(0..).any(|(known, at)| *known == outcome && self.0 & (1 << at) != 0)
    }

    /// Returns whether it contains none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The number that a store records.
    pub(crate) const fn bits(self) -> u8 {
        self.0
    }

    /// Reads the number that a store recorded. Unknown outcomes count, so that limits stay strict.
    pub(crate) fn from_bits(bits: i64) -> Self {
        Self(u8::try_from(bits & i64::from(Self::ALL.0)).unwrap_or(Self::ALL.0))
    }

    /// Reads words as an event records them.
    pub(crate) fn parse(words: &str) -> Self {
        Self::of(|outcome| words.split(',').any(|word| word == outcome_word(outcome)))
    }

    /// The words, separated by commas.
    fn words(self) -> String {
        let words = Self::EACH.into_iter().filter(|outcome| self.contains(*outcome)).map(outcome_word);
        words.collect::<Vec<_>>().join(",")
    }
}

/// An amount of an account, as an event records it.
#[derive(Clone, Debug)]
pub struct Charge {
    /// The account.
    pub account: Account,
    /// The amount.
    pub amount: Decimal,
    /// The limit of the budget; `None` for a history, whose sum only must stay exact.
    pub limit: Option<Decimal>,
    /// The window of the budget or the history.
    pub window: Window,
    /// The outcomes with which it counts.
    pub outcomes: Outcomes,
}

/// The state of an account after a decision.
#[derive(Clone, Debug)]
pub(crate) struct Usage<'c> {
    pub(crate) charge: &'c Charge,
    /// The sum of the unexpired claims.
    pub(crate) used: Decimal,
}

/// The member of `explain` that [`complete`] replaces. JSON escapes quotes within strings, so no
/// other text of a response equals it.
pub(crate) const PLACEHOLDER: &str = r#""budgets":[]"#;

/// Writes the states of the budgets, if any, into a response that then has a [`PLACEHOLDER`].
pub(crate) fn complete(response: &bytes::Bytes, usages: &[Usage<'_>]) -> bytes::Bytes {
    if usages.is_empty() {
        return response.clone();
    }
    let text = String::from_utf8_lossy(response);
    let mut budgets = JsonWriter::new(Style::Compact);
    budgets.key("budgets");
    budgets.raw("[");
    for (at, usage) in usages.iter().enumerate() {
        budgets.comma(at);
        let Usage { charge, used } = usage;
        write_use(&mut budgets, &charge.account, charge.limit.map(|limit| (limit, &charge.window)), *used);
    }
    budgets.raw("]");
    bytes::Bytes::from(text.replacen(PLACEHOLDER, &budgets.into_string(), 1))
}

/// Returns the amount up to the limit.
pub(crate) fn remaining(limit: Decimal, used: Decimal) -> Decimal {
    limit.saturating_sub(used).max(Decimal::ZERO).normalize()
}

/// Writes the use of an account. `bounds` are the limit and the window, if the budget still exists.
pub(crate) fn write_use(
    json: &mut JsonWriter,
    account: &Account,
    bounds: Option<(Decimal, &Window)>,
    used: Decimal,
) {
    let number = |number: Decimal| number.normalize().to_string();
    let limit = bounds.map(|(limit, _)| limit);
    let remaining = limit.map(|limit| number(remaining(limit, used)));
    let null = || "null".to_owned();
    json.raw("{");
    json.key("name");
    json.string(&account.budget);
    for (name, value) in [
        ("account", account.key.clone()),
        ("limit", limit.map_or_else(null, number)),
        ("used", number(used)),
        ("remaining", remaining.unwrap_or_else(null)),
    ] {
        json.raw(",");
        json.key(name);
        json.raw(&value);
    }
    json.raw(",");
    json.key("window");
    match bounds {
        Some((_, window)) => json.string(&window.to_string()),
        None => json.raw("null"),
    }
    json.raw("}");
}

/// The charges as the member `budgets` of an event. Accounts and amounts are strings: an event has
/// a canonical form for any of them, and its text cannot be confused with other members.
pub(crate) fn event_member(charges: &[Charge]) -> Json {
    let member = |name: &str, value: &str| (name.to_owned(), Json::from(value));
    Json::Array(
        charges
            .iter()
            .map(|charge| {
                let mut members = vec![
                    member("account", &charge.account.key),
                    member("amount", &charge.amount.to_string()),
                ];
                members.extend(charge.limit.map(|limit| member("limit", &limit.to_string())));
                members.push(member("name", &charge.account.budget));
                if charge.outcomes != Outcomes::ALL {
                    members.push(member("outcomes", &charge.outcomes.words()));
                }
                members.push(member("window", &charge.window.to_string()));
                Json::Object(members)
            })
            .collect(),
    )
}

/// Returns whether `used` and one more claim stay within the limit; without one, whether the sum
/// stays exact.
pub(crate) fn fits(charge: &Charge, used: Decimal) -> bool {
    let sum = used.saturating_add(charge.amount);
    charge.limit.map_or(sum < Decimal::from(MAX_AMOUNT), |limit| sum <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(literal: &str) -> Option<String> {
        let Json::Number(number) = Json::parse(literal.as_bytes()).unwrap() else {
            panic!("{literal} is not a number");
        };
        amount(&number).map(|amount| amount.to_string())
    }

    #[test]
    fn amounts_are_exact_decimals() {
        for (literal, exact) in [
            ("0", "0"),
            ("-0.0", "0"),
            ("4900", "4900"),
            ("4900.0", "4900"),
            ("4.9e3", "4900"),
            ("49e-1", "4.9"),
            ("0.000000001", "0.000000001"),
            ("999999999999999999.999999999", "999999999999999999.999999999"),
            ("9007199254740993", "9007199254740993"),
        ] {
            assert_eq!(parsed(literal).as_deref(), Some(exact), "{literal}");
        }
    }

    #[test]
    fn rejects_amounts_without_exact_sum() {
        for literal in [
            "-1",
            "-1e-9",
            "1e18",
            "1e300",
            "1e-10",
            "0.0000000001",
            "123456789012345678901234567890",
            "0.1234567890123456789012345678901",
        ] {
            assert_eq!(parsed(literal), None, "{literal}");
        }
    }

    #[test]
    fn window_is_a_count_and_a_unit() {
        for (text, millis) in
            [("1s", 1_000), ("90m", 5_400_000), ("24h", 86_400_000), ("366d", 31_622_400_000)]
        {
            assert_eq!(Window::parse(text).map(|window| window.millis()), Ok(millis), "{text}");
        }
        for text in
            ["", "h", "0d", "-1h", "+1h", "1.5h", "1w", "24", "24 h", "367d", "99999999999999999999d", "1é"]
        {
            assert_eq!(Window::parse(text), Err(InvalidWindow), "{text:?}");
        }
    }

    #[test]
    fn outcomes_are_a_set() {
        for outcome in Outcomes::EACH {
            let only = Outcomes::of(|other| other == outcome);
            assert!(only.contains(outcome) && Outcomes::ALL.contains(outcome));
            assert_eq!(only.words(), outcome_word(outcome));
            assert_eq!(Outcomes::from_bits(only.bits().into()), only);
        }
        assert!(Outcomes::of(|_| false).is_empty());
        assert_eq!(Outcomes::unless_failed().words(), "pending,returned,cancelled,suspended");
        assert_eq!(Outcomes::unless_failed().bits(), 27);
    }

    #[test]
    fn completes_response_with_usage() {
        let charge = Charge {
            account: Account { budget: "daily \"a\"".to_owned(), key: r#"{"agent_id":"b"}"#.to_owned() },
            amount: Decimal::from(100),
            limit: Some(Decimal::from(500)),
            window: Window::parse("24h").unwrap(),
            outcomes: Outcomes::ALL,
        };
        let response = br#"{"goal":"\"budgets\":[]","explain":{"summary":"s","budgets":[]}}"#;
        let usage = Usage { charge: &charge, used: Decimal::from(600) };
        let completed = complete(&bytes::Bytes::from_static(response), &[usage]);
        assert_eq!(
            std::str::from_utf8(&completed).unwrap(),
            r#"{"goal":"\"budgets\":[]","explain":{"summary":"s","budgets":[{"name":"daily \"a\"","account":{"agent_id":"b"},"limit":500,"used":600,"remaining":0,"window":"24h"}]}}"#
        );
    }
}
