//! Exact numbers.

use std::cmp::Ordering;
use std::fmt;

/// A JSON number, kept as text.
///
/// ```
/// use actpass_protocol::json::Number;
///
/// assert_eq!(Number::try_from(1e21)?.as_str(), "1e21");
/// assert!(Number::from(4900).is_integer() && !Number::try_from(4900.0)?.is_integer());
/// # Ok::<(), actpass_protocol::json::NotFinite>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Number(Box<str>);

impl Number {
    /// Creates a number from `text`, which is valid JSON.
    pub(super) fn of(text: &str) -> Self {
        Self(text.into())
    }

    /// The number as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nearest double. Exact for integers within
    /// ±([`MAX_SAFE_INTEGER`](super::MAX_SAFE_INTEGER)).
    pub fn as_f64(&self) -> f64 {
        // `read` validated the grammar and the range, so the fallback is unreachable.
        self.0.parse().unwrap_or(f64::NAN)
    }

    /// Whether the text is an integer, without fraction or exponent.
    pub fn is_integer(&self) -> bool {
        !self.0.contains(['.', 'e', 'E'])
    }

    /// Compares two numbers by exact value, at any length.
    ///
    /// ```
    /// use actpass_protocol::Json;
    /// use std::cmp::Ordering;
    ///
    /// let number = |text: &str| match Json::parse(text.as_bytes()) {
    ///     Ok(Json::Number(number)) => number,
    ///     other => panic!("{other:?}"),
    /// };
    /// assert_eq!(number("9007199254740993").compare(&number("9007199254740992")), Ordering::Greater);
    /// assert_eq!(number("5e1").compare(&number("50.0")), Ordering::Equal);
    /// ```
    pub fn compare(&self, other: &Self) -> Ordering {
        match (self.0.parse::<i64>(), other.0.parse::<i64>()) {
            (Ok(a), Ok(b)) => a.cmp(&b),
            _ => Decimal::new(&self.0).cmp(&Decimal::new(&other.0)),
        }
    }
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Self(value.to_string().into())
    }
}

impl TryFrom<f64> for Number {
    type Error = NotFinite;

    /// Formats a double as JSON, always with a fraction or an exponent.
    fn try_from(value: f64) -> Result<Self, NotFinite> {
        match value.is_finite() {
            true => Ok(Self(ryu::Buffer::new().format_finite(value).into())),
            false => Err(NotFinite),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The error for NaN and infinities, which are not JSON.
///
/// ```
/// use actpass_protocol::json::{NotFinite, Number};
///
/// assert_eq!(Number::try_from(f64::NAN), Err(NotFinite));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFinite;

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NaN and infinity are not JSON")
    }
}

impl std::error::Error for NotFinite {}

/// A number's value: 0.d1d2d3… × 10^magnitude, without leading or trailing zero digits.
#[derive(PartialEq, Eq)]
struct Decimal {
    negative: bool,
    magnitude: i64,
    digits: String,
}

impl Decimal {
    fn new(text: &str) -> Self {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let significant = all.trim_start_matches('0');
        let leading = all.len() - significant.len();
        let digits = significant.trim_end_matches('0');
        if digits.is_empty() {
            return Self { negative: false, magnitude: 0, digits: String::new() };
        }
        // An exponent that overflows an i64 is ordered by its sign alone.
        let exponent =
            exponent.trim_start_matches('+').parse().unwrap_or_else(|_| match exponent.starts_with('-') {
                true => i64::MIN / 2,
                false => i64::MAX / 2,
            });
        let shift = i64::try_from(whole.len()).unwrap_or(i64::MAX / 4)
            - i64::try_from(leading).unwrap_or(i64::MAX / 4);
        Self { negative, magnitude: exponent.saturating_add(shift), digits: digits.to_owned() }
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| match (number.digits.is_empty(), number.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        let size = || self.magnitude.cmp(&other.magnitude).then_with(|| self.digits.cmp(&other.digits));
        sign(self).cmp(&sign(other)).then_with(|| match sign(self) {
            0 => Ordering::Equal,
            1 => size(),
            _ => size().reverse(),
        })
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
