//! W3C trace context.

use std::fmt;
use std::str::FromStr;

use http::header::HeaderValue;

use crate::error::Error;

/// A `traceparent` of W3C Trace Context, version 00. Parse it with [`str::parse`].
///
/// ```
/// use actpass_core::{ActPass, Traceparent};
///
/// let current: Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse()?;
/// let actpass = ActPass::builder().api_key("apk_dev").build()?;
/// let traced = actpass.in_trace(current);
/// assert!("00-0-0-0".parse::<Traceparent>().is_err());
/// # drop(traced);
/// # Ok::<(), actpass_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traceparent(HeaderValue);

impl Traceparent {
    pub(crate) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl FromStr for Traceparent {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || {
            Error::argument(
                "traceparent",
                format_args!(
                    "expected 00-(32 digits)-(16 digits)-(2 digits), lower-case hexadecimal, found {text:?}"
                ),
            )
        };
        let is_hex = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_id = |part: &str, length: usize| is_hex(part, length) && part.bytes().any(|byte| byte != b'0');
        let mut parts = text.split('-');
        let whole = parts.next() == Some("00")
            && parts.next().is_some_and(|trace| is_id(trace, 32))
            && parts.next().is_some_and(|span| is_id(span, 16))
            && parts.next().is_some_and(|flags| is_hex(flags, 2))
            && parts.next().is_none();
        match whole {
            true => HeaderValue::from_str(text).map(Self).map_err(|_| bad()),
            false => Err(bad()),
        }
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_valid_traceparents() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(good.parse::<Traceparent>().unwrap().to_string(), good);
        for bad in [
            "",
            "00",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
        ] {
            assert!(bad.parse::<Traceparent>().is_err(), "{bad:?}");
        }
    }
}
