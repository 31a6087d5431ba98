//! Guard modes.

use std::fmt;
use std::str::FromStr;

use crate::error::InvalidArgument;

/// The way a guard applies the gateway's decision. Parse it with [`str::parse`].
///
/// ```
/// use actpass_protocol::Mode;
///
/// assert_eq!("strict".parse::<Mode>()?, Mode::Strict);
/// assert_eq!(Mode::default().as_str(), "enforce");
/// assert!("Enforce".parse::<Mode>().is_err());
/// # Ok::<(), actpass_protocol::InvalidArgument>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Runs on `allow` only. The default.
    #[default]
    Enforce,
    /// Always runs, and reports what enforce would have decided.
    Monitor,
    /// Like enforce, and only if the gateway recorded the decision and bound it to the request.
    Strict,
    /// Runs on `allow` and on `warn`, which the gateway sends where enforce would block.
    Warn,
}

impl Mode {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Monitor => "monitor",
            Self::Strict => "strict",
            Self::Warn => "warn",
        }
    }
}

impl FromStr for Mode {
    type Err = InvalidArgument;

    fn from_str(text: &str) -> Result<Self, InvalidArgument> {
        match text {
            "enforce" => Ok(Self::Enforce),
            "monitor" => Ok(Self::Monitor),
            "strict" => Ok(Self::Strict),
            "warn" => Ok(Self::Warn),
            _ => Err(InvalidArgument::new(
                "mode",
                format_args!("expected enforce, strict, warn or monitor, found {text:?}"),
            )),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
