//! The clock used for everything that expires.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A monotonic wall clock, based on the system clock or a test clock. Clones share their state.
///
/// It never steps back and never precedes the last event in the ledger, so expiry is final. While
/// its source is behind, it advances at the pace of the machine's monotonic clock.
#[derive(Clone)]
pub struct Clock {
    source: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    state: Arc<Mutex<ClockState>>,
}

/// Internal state of the clock.
#[derive(Debug, Default)]
struct ClockState {
    /// Milliseconds since 1970.
    latest: i64,
    /// While the source is behind: the start of that period and the time shown then.
    behind: Option<(Instant, i64)>,
}

impl ClockState {
    /// Continues from `millis`. If the source is already behind, it stays marked as behind.
    fn resume_from(&mut self, millis: i64) {
        self.latest = millis;
        self.behind = self.behind.map(|_| (Instant::now(), millis));
    }
}

/// A step back below this number of milliseconds is not logged; clocks of two machines differ by
/// that much.
const MAX_UNLOGGED_STEP: i64 = 1_000;

impl Clock {
    /// Creates a clock from the source `now`.
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self { source: Arc::new(now), state: Arc::default() }
    }

    /// Returns the time in whole seconds since 1970.
    pub fn seconds(&self) -> i64 {
        self.millis().div_euclid(1000)
    }

    /// Returns the time in milliseconds since 1970. Logs once when the source steps back by a
    /// second or more.
    pub fn millis(&self) -> i64 {
        let source = self.source_millis();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if source >= state.latest {
            *state = ClockState { latest: source, behind: None };
            return source;
        }
        let latest = state.latest;
        let (since, from) = *state.behind.get_or_insert_with(|| {
            let step_ms = latest - source;
            if step_ms >= MAX_UNLOGGED_STEP {
                tracing::warn!(
                    step_ms,
                    "the system clock is behind the last recorded time; continuing from the recorded time"
                );
            }
            (Instant::now(), latest)
        });
        let elapsed = i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX);
        state.latest = from.saturating_add(elapsed);
        state.latest
    }

    /// Advances the clock to at least `millis`, in milliseconds since 1970: the time of a recorded
    /// event.
    pub fn advance_to(&self, millis: i64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if millis > state.latest {
            state.resume_from(millis);
        }
    }

    /// Returns the time of the source, in milliseconds since 1970.
    pub(crate) fn source_millis(&self) -> i64 {
        let since = (self.source)().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

impl Default for Clock {
    /// Uses the system clock.
    fn default() -> Self {
        Self::new(SystemTime::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock(..)")
    }
}

/// The end of the year 9999, in seconds since 1970: the last time that RFC 3339 can express.
pub const LAST_SECOND: i64 = 253_402_300_799;

/// Formats seconds since 1970 as RFC 3339 in UTC, clamped to 1970 and [`LAST_SECOND`].
pub fn rfc3339(seconds: i64) -> String {
    let seconds = seconds.clamp(0, LAST_SECOND);
    let time = UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Converts milliseconds since 1970 to a time, clamped to 1970 and [`LAST_SECOND`].
pub(crate) fn system_time(millis: i64) -> SystemTime {
    let millis = millis.clamp(0, LAST_SECOND * 1000 + 999);
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// Parses an RFC 3339 time into milliseconds since 1970; `None` for any other text.
pub(crate) fn parse_millis(rfc3339: &str) -> Option<i64> {
    let since = humantime::parse_rfc3339(rfc3339).ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    #[test]
    fn clock_is_monotonic() {
        let source = Arc::new(AtomicI64::new(5_000));
        let read = Arc::clone(&source);
        let clock = Clock::new(move || system_time(read.load(Ordering::SeqCst)));
        assert_eq!((clock.millis(), clock.seconds()), (5_000, 5));
        for (set, least) in [(1_000, 5_000), (4_999, 5_000), (0, 5_000), (6_000, 6_000)] {
            source.store(set, Ordering::SeqCst);
            let state = clock.millis();
            assert!(state >= least && clock.clone().millis() >= state, "{set}: {state}");
        }
        clock.advance_to(9_000);
        assert!(clock.millis() >= 9_000);
        clock.advance_to(1_000);
        assert!(clock.millis() >= 9_000);
        // Time advances while the source is behind, so nothing stays valid longer than stated.
        let before = clock.millis();
        std::thread::sleep(Duration::from_millis(20));
        assert!(clock.millis() >= before + 20);
        source.store(60_000, Ordering::SeqCst);
        assert_eq!(clock.millis(), 60_000);
    }

    #[test]
    fn timestamps_round_trip() {
        for millis in [0, 1, 1_795_836_000_123, LAST_SECOND * 1000 + 999] {
            let text = humantime::format_rfc3339_millis(system_time(millis)).to_string();
            assert_eq!(parse_millis(&text), Some(millis), "{text}");
        }
        assert_eq!(parse_millis("yesterday"), None);
    }
}
