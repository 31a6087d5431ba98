//! Time and randomness, behind a trait.

use std::fmt;
use std::future::Future;
use std::ops::Add;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use crate::error::Error;

/// A point in time: how long after the origin of its [`Clock`] it is.
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
    /// The moment so long after the clock's origin.
    pub const fn after_origin(duration: Duration) -> Self {
        Self(duration)
    }

    /// The time from `earlier` to this moment; zero if `earlier` is later.
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
    /// The present moment. It never goes back.
    fn now(&self) -> Moment;

    /// The present date and time.
    fn wall_clock(&self) -> SystemTime;

    /// Random bytes, from the operating system's generator or one as good: they make idempotency keys unique.
    ///
    /// # Errors
    ///
    /// If there is no randomness.
    fn random(&self) -> Result<[u8; 16], Error>;

    /// Ends at the moment `until`.
    fn sleep_until(&self, until: Moment) -> Sleep<'_>;
}

/// What [`Clock::sleep_until`] returns.
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

    /// The clock of the tokio runtime on which it is used.
    ///
    /// ```
    /// use actpass_core::{Clock, TokioClock};
    ///
    /// assert_ne!(TokioClock.random()?, TokioClock.random()?);
    /// # Ok::<(), actpass_core::Error>(())
    /// ```
    #[derive(Clone, Copy, Debug, Default)]
    pub struct TokioClock;

    /// The origin: a day before the first use, so that a runtime whose time was paused before that is not behind it.
    static ORIGIN: LazyLock<Instant> = LazyLock::new(|| {
        let now = Instant::now();
        now.checked_sub(Duration::from_secs(24 * 60 * 60)).unwrap_or(now)
    });

    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

    impl TokioClock {
        pub(crate) fn instant(moment: Moment) -> tokio::time::Instant {
            // No wait is longer than a month; what is beyond a century need not be told apart.
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

        // From the operating system, without a shared generator: unique across a fork.
        fn random(&self) -> Result<[u8; 16], Error> {
            let mut bytes = [0; 16];
            match getrandom::fill(&mut bytes) {
                Ok(()) => Ok(bytes),
                Err(error) => Err(Error::new(ErrorKind::Internal, format!("no randomness: {error}"))),
            }
        }

        fn sleep_until(&self, until: Moment) -> Sleep<'_> {
            Box::pin(tokio::time::sleep_until(Self::instant(until)))
        }
    }
}
