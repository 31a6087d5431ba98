//! Time and randomness behind a trait.

use std::fmt;
use std::future::Future;
use std::ops::Add;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use crate::error::Error;

/// A point in time, as the duration since the origin of its [`Clock`].
///
/// ```
/// use actpass_core::Moment;
/// use std::time::Duration;
///
/// let moment = Moment::after_origin(Duration::from_secs(2));
/// assert_eq!((moment + Duration::from_secs(3)).saturating_since(moment), Duration::from_secs(3));
/// assert_eq!(moment.saturating_since(moment + Duration::from_secs(3)), Duration::ZERO);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// Creates a moment `duration` after the clock's origin.
    pub const fn after_origin(duration: Duration) -> Self {
        Self(duration)
    }

    /// The duration since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// Time and randomness for the [engine](crate::engine). With the feature `http`, `TokioClock` is the default.
///
/// ```
/// use actpass_core::{Clock, Error, Moment, Sleep};
/// use std::time::{Duration, SystemTime};
///
/// /// A clock that stands still, for tests.
/// #[derive(Debug)]
/// struct Still;
///
/// impl Clock for Still {
///     fn now(&self) -> Moment { Moment::after_origin(Duration::from_secs(60)) }
///     fn wall_clock(&self) -> SystemTime { SystemTime::UNIX_EPOCH }
///     fn random(&self) -> Result<[u8; 16], Error> { Ok([7; 16]) }
///     fn sleep_until(&self, _: Moment) -> Sleep<'_> { Box::pin(async {}) }
/// }
/// ```
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The current moment. It is monotonic.
    fn now(&self) -> Moment;

    /// The current date and time.
    fn wall_clock(&self) -> SystemTime;

    /// Returns random bytes from the operating system's generator or one of equal quality: they
    /// make idempotency keys unique.
    ///
    /// # Errors
    ///
    /// If the generator fails.
    fn random(&self) -> Result<[u8; 16], Error>;

    /// Completes at the moment `until`.
    fn sleep_until(&self, until: Moment) -> Sleep<'_>;
}

/// The future returned by [`Clock::sleep_until`].
pub type Sleep<'c> = Pin<Box<dyn Future<Output = ()> + Send + 'c>>;

#[cfg(feature = "http")]
pub use self::tokio_clock::TokioClock;

#[cfg(feature = "http")]
mod tokio_clock {
    use std::sync::LazyLock;
    use std::time::{Duration, Instant, SystemTime};

    use actpass_protocol::ErrorKind;

    use super::{Clock, Moment, Sleep};
    use crate::error::Error;

    /// The clock of the current tokio runtime.
    ///
    /// ```
    /// use actpass_core::{Clock, TokioClock};
    ///
    /// assert_ne!(TokioClock.random()?, TokioClock.random()?);
    /// # Ok::<(), actpass_core::Error>(())
    /// ```
    #[derive(Clone, Copy, Debug, Default)]
    pub struct TokioClock;

    /// The origin is one day before the first use, so that a runtime whose time was paused earlier
    /// is not before it.
    static ORIGIN: LazyLock<Instant> = LazyLock::new(|| {
        let now = Instant::now();
        now.checked_sub(Duration::from_secs(24 * 60 * 60)).unwrap_or(now)
    });

    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

    impl TokioClock {
        pub(crate) fn instant(moment: Moment) -> tokio::time::Instant {
            // No wait is longer than a month, so moments beyond a century can be clamped.
            tokio::time::Instant::from_std(*ORIGIN + moment.0.min(CENTURY))
        }
    }

    impl Clock for TokioClock {
        fn now(&self) -> Moment {
            Moment(tokio::time::Instant::now().into_std().saturating_duration_since(*ORIGIN))
        }

        fn wall_clock(&self) -> SystemTime {
            SystemTime::now()
        }

        // Reads from the operating system without shared state, so values are unique across a fork.
        fn random(&self) -> Result<[u8; 16], Error> {
            let mut bytes = [0; 16];
            match getrandom::fill(&mut bytes) {
                Ok(()) => Ok(bytes),
                Err(error) => {
                    Err(Error::new(ErrorKind::Internal, format!("random number generator failed: {error}")))
                }
            }
        }

        fn sleep_until(&self, until: Moment) -> Sleep<'_> {
            Box::pin(tokio::time::sleep_until(Self::instant(until)))
        }
    }
}
